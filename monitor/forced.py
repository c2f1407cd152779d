"""Orders that the exchange sends in our name: what is known of them while they run, and when they are over."""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

from monitor.events import Fill, ForcedKind, Now, PositionKey
from monitor.rules import Severity

_ZERO = Decimal(0)

SEVERITIES = {
    ForcedKind.LIQUIDATION: Severity.LIQUIDATION,
    ForcedKind.ADL: Severity.CRITICAL,
    ForcedKind.SETTLEMENT: Severity.WARNING,
}


class ForcedReport(Struct):
    """What a forced order has done so far.

    Args:
        is_long: Whether the position that it closes was long.
        quantity: Executed, positive (base asset, or contracts).
        average_price: Of the executions; None before the first.
        realized_pnl: Before commission (asset).
        commission: Paid (asset), positive.
        clearance_fee: Taken by INSURANCE_CLEAR, positive (asset); negative: a negative balance was made good.
        liquidation_price: Of the position when it was last seen whole; None: it had none, or it was never seen.
        bankruptcy_price: Likewise.
        left: What the position still has, signed; None while the order runs.
    """

    kind: ForcedKind
    key: PositionKey
    is_long: bool
    asset: str | None
    liquidation_price: Decimal | None
    bankruptcy_price: Decimal | None
    quantity: Decimal = _ZERO
    average_price: Decimal | None = None
    realized_pnl: Decimal = _ZERO
    commission: Decimal = _ZERO
    clearance_fee: Decimal = _ZERO
    left: Decimal | None = None


class ForcedOrders:
    """The forced orders of one account that are not over yet."""

    def __init__(self) -> None:
        self.running: dict[PositionKey, ForcedReport] = {}
        self._last: dict[PositionKey, float] = {}
        self._trades: set[tuple[str, int, int]] = set()

    def begin(self, report: ForcedReport, now: Now) -> bool:
        """Take note of a forced order. False: it is one that runs already."""
        self._last[report.key] = now.mono
        if report.key in self.running:
            return False
        self.running[report.key] = report
        return True

    def filled(self, key: PositionKey, fill: Fill, now: Now) -> None:
        """Add an execution; the same trade told twice counts once."""
        report = self.running[key]
        self._last[key] = now.mono
        order, trade = (fill.symbol, fill.order_id, 0), (fill.symbol, fill.order_id, fill.trade_id)
        if not fill.quantity or trade in self._trades:
            return  # told before; or a whole order of which the executions have been told
        self._trades |= {order, trade}
        size = abs(fill.quantity)
        spent = (report.average_price or _ZERO) * report.quantity + fill.price * size
        report.quantity += size
        report.average_price = spent / report.quantity
        report.realized_pnl += fill.realized_pnl
        report.commission += fill.commission if fill.commission_asset == report.asset else _ZERO

    def cleared(self, changes: dict[str, Decimal], now: Now) -> None:
        """Add what INSURANCE_CLEAR took or gave; it names no symbol, so the latest forced order of the asset has it."""
        for asset, change in changes.items():
            keys = [key for key, report in self.running.items() if report.asset == asset]
            if keys:
                latest = max(keys, key=lambda key: self._last[key])
                self.running[latest].clearance_fee -= change
                self._last[latest] = now.mono

    def over(self, settle_s: float, now: Now) -> list[ForcedReport]:
        """Those of which nothing has been heard for a while; they are forgotten here."""
        done = [key for key, last in self._last.items() if now.mono - last >= settle_s and key in self.running]
        reports = [self.running.pop(key) for key in done]
        for key in done:
            del self._last[key]
        if not self.running:
            self._trades.clear()
        return reports
