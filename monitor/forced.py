"""Orders that the exchange sends in our name: what is known of them while they run, and when they are over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal

import msgspec
from msgspec import Struct

from monitor.events import Fill, ForcedKind, Now, OrdersCancelled, Position, PositionKey
from monitor.risk.margin import ZERO
from monitor.rules import Severity

_CLEARED_BEFORE_S = 2.0
"""An account event and the order that caused it come in either order, at most so far apart."""
_CANCELLED_BEFORE_S = 10.0
"""Own orders are cancelled right before the exchange sends its own; older cancellations belong to another story."""

_BEHIND_MS = 1_000
"""A row that was last changed so long before an order shows what was before it: it came from a copy that lags."""
_BEHIND_S = 60.0
"""So long an order waits for a row that shows what it has left, and no longer."""

SEVERITIES = {
    ForcedKind.LIQUIDATION: Severity.LIQUIDATION,
    ForcedKind.ADL: Severity.CRITICAL,
    ForcedKind.SETTLEMENT: Severity.WARNING,
}


_LISTED_MS = 8 * 86_400_000
"""The exchange lists forced orders of the last seven days."""

UNREAD = "unread"
"""Among the rows that are kept, those of orders being named after them: what could not be asked for."""


def order_name(symbol: str, order_id: int) -> str:
    return f"{symbol}/{order_id}"


class ForcedReport(Struct):
    """What a forced order has done so far.

    Args:
        is_long: Whether the position that it closes was long; None: the order was announced before anything was known.
        quantity: Executed, positive (base asset, or contracts).
        average_price: Of the executions; None before the first.
        realized_pnl: Before commission (asset).
        commission: Paid (asset), positive.
        clearance_fee: Taken by INSURANCE_CLEAR, positive (asset); negative: a negative balance was made good.
        liquidation_price: Of the position when it was last seen whole; None: it had none, or it was never seen.
        bankruptcy_price: Likewise.
        left: What the position still has, signed; None while the order runs, or where another has followed at once.
        steps: How many orders the exchange has sent: a large position is reduced step by step.
        orders_cancelled: How many of our own orders it has cancelled for that.
        insurance_fund: What the fund behind this symbol has (asset); None: unknown.
        hedge: Quantities of the long and the short leg before, where both were open.
        is_listed: Some of it was read from the list of orders, after a gap: that has no PnL, commission or fee.
        at_ms: When the exchange last said something of it; it may have been while nobody listened.
    """

    kind: ForcedKind
    key: PositionKey
    is_long: bool | None
    asset: str | None
    liquidation_price: Decimal | None
    bankruptcy_price: Decimal | None
    quantity: Decimal = ZERO
    average_price: Decimal | None = None
    realized_pnl: Decimal = ZERO
    commission: Decimal = ZERO
    clearance_fee: Decimal = ZERO
    left: Decimal | None = None
    steps: int = 0
    orders_cancelled: int = 0
    insurance_fund: Decimal | None = None
    hedge: tuple[Decimal, Decimal] | None = None
    is_listed: bool = False
    at_ms: int = 0


class Acted(Struct, frozen=True):
    """What outlives a restart of a forced order: what it explains for some minutes, and what is still to be judged.

    Args:
        at_ms: When it was last heard of (Unix milliseconds).
        pool: Where the position was; None: it had gone before.
        hedge: As in the report, until it has been judged.
    """

    kind: ForcedKind
    key: PositionKey
    at_ms: int
    pool: str | None
    hedge: tuple[Decimal, Decimal] | None


class ForcedOrders:
    """The forced orders of one account that are not over yet."""

    def __init__(self) -> None:
        self.running: dict[PositionKey, ForcedReport] = {}
        self.left: dict[PositionKey, Acted] = {}
        """Of an earlier run, with a hedge that nobody has judged."""
        self.unread: bytes | None = None
        """Which orders the exchange could not be asked for yet, as the next run has to know it."""
        self.unread_at: float | None = None
        """When the last answer came without them (monotonic seconds)."""
        self._last: dict[PositionKey, float] = {}
        self._trades: set[tuple[str, int, int]] = set()
        self._orders: set[tuple[str, int]] = set()
        self._listed_ms: dict[tuple[str, int], int] = {}
        """Orders that a list has told of, with all that was executed by then (exchange's clock)."""
        self._listed: dict[PositionKey, float] = {}
        """When a list last had news of a position's order (monotonic seconds)."""
        self._done: dict[str, int] = {}
        self._cancelled: dict[str, tuple[float, set[int]]] = {}
        self._cleared: dict[str, tuple[float, Decimal]] = {}

    def cancelled(self, event: OrdersCancelled, now: Now) -> None:
        """Count an own order that was cancelled because the account is being liquidated; it comes before or after."""
        at, orders = self._cancelled.get(event.symbol, (now.mono, set[int]()))
        if now.mono - at > _CANCELLED_BEFORE_S:
            orders = set()
        self._cancelled[event.symbol] = (now.mono, orders | {event.order_id})
        for report in self.running.values():
            if report.key.symbol == event.symbol:
                report.orders_cancelled = len(self._cancelled[event.symbol][1])

    def restore(self, name: str, row: bytes, now: Now) -> Acted | None:
        """Take back an order that an earlier run has told of, or what that has done to a position."""
        if name == UNREAD:
            self.unread = row
            return None
        with suppress(msgspec.MsgspecError):
            kept: int | Acted = msgspec.json.decode(row, type=int | Acted)
            if isinstance(kept, int):
                self._done[name] = kept
                return None
            self._done[name] = kept.at_ms  # to be forgotten in time
            if kept.hedge is not None:
                self.left[kept.key], self._last[kept.key] = kept, now.mono  # it may go on
            return kept
        return None

    def acted(self, done: Acted) -> tuple[str, bytes]:
        """The name and the row of what is to be kept of an order."""
        name = f"{done.key.symbol}/{done.key.side.value}"
        self._done[name] = done.at_ms
        return name, msgspec.json.encode(done)

    def is_done(self, fill: Fill) -> bool:
        """Whether this order has been reported: after a gap the exchange lists it once more.

        An execution is news all the same: the order goes on after a pause. One that the list had is not, however late
        the stream tells of it.
        """
        if fill.trade_id:
            told_ms = self._listed_ms.get((fill.symbol, fill.order_id), -1)
            return fill.at_ms <= told_ms and PositionKey(fill.symbol, fill.side) not in self.running
        return order_name(fill.symbol, fill.order_id) in self._done

    def done(self, report: ForcedReport, now: Now) -> list[tuple[str, bytes]]:
        """Remember the orders of a report that is over. Returns their rows to keep."""
        names = [order_name(*order) for order in sorted(self._orders) if order[0] == report.key.symbol]
        self._done.update(dict.fromkeys(names, now.wall_ms))
        return [(name, msgspec.json.encode(now.wall_ms)) for name in names]

    @property
    def names(self) -> list[str]:
        """Of all rows that are kept."""
        return [*self._done, *([] if self.unread is None else [UNREAD])]

    def outdated(self, now: Now) -> list[str]:
        """Orders of so long ago that the exchange will not list them again; they are forgotten here."""
        old = [name for name, at_ms in self._done.items() if now.wall_ms - at_ms > _LISTED_MS]
        for name in old:
            del self._done[name]
        for order in [order for order, at_ms in self._listed_ms.items() if now.wall_ms - at_ms > _LISTED_MS]:
            del self._listed_ms[order]
        return old

    def begin(self, report: ForcedReport, now: Now) -> bool:
        """Take note of a forced order. False: it is one that runs already."""
        self._last[report.key] = now.mono
        if report.key in self.running:
            return False
        at, orders = self._cancelled.get(report.key.symbol, (now.mono, set[int]()))
        report.orders_cancelled = len(orders) if now.mono - at <= _CANCELLED_BEFORE_S else 0
        at, change = self._cleared.pop(report.asset or "", (now.mono, ZERO))
        report.clearance_fee -= change if now.mono - at <= _CLEARED_BEFORE_S else ZERO
        self.running[report.key] = report
        return True

    def gives_way(self, fill: Fill) -> ForcedReport | None:
        """The order that ran of a position, where one of another kind has begun: it is over, and forgotten here. None:
        there was none, or this is the same, or of its kind."""
        key = PositionKey(fill.symbol, fill.side)
        running = self.running.get(key)
        if running is None or running.kind is fill.forced or (fill.symbol, fill.order_id) in self._orders:
            return None
        del self._last[key]
        return self.running.pop(key)

    def filled(self, key: PositionKey, fill: Fill, now: Now) -> None:
        """Add an execution; the same trade told twice counts once."""
        report = self.running[key]
        self._last[key] = now.mono
        report.at_ms = max(report.at_ms, fill.at_ms)
        if report.is_long is None and fill.quantity:
            report.is_long = fill.quantity < 0
        name = fill.symbol, fill.order_id
        if name not in self._orders:
            self._orders.add(name)
            report.steps += 1
        order, trade = (*name, 0), (*name, fill.trade_id)
        if not fill.quantity or trade in self._trades or fill.at_ms <= self._listed_ms.get(name, -1):
            return  # told before; or a whole order of which the executions have been told, or the other way round
        self._trades |= {order, trade}
        if not fill.trade_id:
            report.is_listed = True
            self._listed_ms[name] = fill.at_ms
            self._listed[key] = now.mono
        size = abs(fill.quantity)
        spent = (report.average_price or ZERO) * report.quantity + fill.price * size
        report.quantity += size
        report.average_price = spent / report.quantity
        report.realized_pnl += fill.realized_pnl
        report.commission += fill.commission if fill.commission_asset == report.asset else ZERO

    def cleared(self, changes: dict[str, Decimal], now: Now) -> None:
        """Add what INSURANCE_CLEAR took or gave; it names no symbol, so the latest forced order of the asset has it.

        The account event may come before the order: then the order that comes next has it.
        """
        for asset, change in changes.items():
            keys = [key for key, report in self.running.items() if report.asset == asset]
            if keys:
                latest = max(keys, key=lambda key: self._last[key])
                self.running[latest].clearance_fee -= change
                self._last[latest] = now.mono
            else:
                self._cleared[asset] = (now.mono, change)

    def over(
        self,
        settle_s: Callable[[PositionKey], float],
        heard_until: float,
        shown_at: float | None,
        rows: Mapping[PositionKey, Position],
    ) -> list[ForcedReport]:
        """Those of which nothing has been heard for a while in which it would have been; they are forgotten here.

        Args:
            settle_s: For how long, of a position (seconds).
            heard_until: Monotonic seconds; what has happened since then is not known.
            shown_at: When the last snapshot came (monotonic seconds); None: none has.
            rows: The book, which is behind where a list tells of an order before a snapshot shows what it has done.
        """
        quiet = {key: heard_until - last for key, last in self._last.items() if key in self.running}
        done = [
            key
            for key, quiet_s in quiet.items()
            if quiet_s >= settle_s(key) and (quiet_s >= _BEHIND_S or not self._is_behind(key, rows.get(key), shown_at))
        ]
        reports = [self.running.pop(key) for key in done]
        for key in done:
            del self._last[key]
            self._listed.pop(key, None)
        return reports

    def _is_behind(self, key: PositionKey, row: Position | None, shown_at: float | None) -> bool:
        """Whether a row may show a position as it was before an order acted. With a list comes a snapshot that was
        asked for before it; and a stream that did not tell of this order may keep silent about the next."""
        if row is None or not row.quantity:
            return False
        last, acted_ms = self._last[key], self.running[key].at_ms
        is_listed_last = self._listed.get(key) == last and (shown_at is None or shown_at <= last)
        return row.at_ms < acted_ms - _BEHIND_MS or (is_listed_last and row.at_ms <= acted_ms)

    def take_left(self, settle_s: Callable[[PositionKey], float], now: Now) -> list[Acted]:
        """Those of an earlier run of which nothing has been heard in this one for a while; they are forgotten here."""
        done = [key for key in self.left if now.mono - self._last.get(key, -math.inf) >= settle_s(key)]
        return [self.left.pop(key) for key in done if key not in self.running]

    def forget(self) -> None:
        """All is over: what belonged to single executions is of no use any more."""
        if not self.running:
            self._trades.clear()
            self._orders.clear()
