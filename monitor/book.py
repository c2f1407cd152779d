"""What the exchanges last said, nothing derived.

One `AccountBook` per account and one `MarketBook` per market link; both are owned by the core and changed in place.
Rows are merged, never replaced as a whole, and an older row never overwrites a newer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from msgspec import Struct, structs

from monitor.events import (
    AccountChanged,
    Balance,
    BalancesRead,
    Bracket,
    Contract,
    ExchangeFigures,
    MarkPrice,
    Now,
    Position,
    PositionKey,
    PositionsRead,
)
from monitor.risk.margin import BracketTable, bracket_table

ZERO = Decimal(0)
_SNAPSHOT_LAG_MS = 2_000
"""A snapshot that does not name a position or an asset speaks for the moment this long before it was asked for: the
answer may come from a copy that lags behind the stream."""


_AHEAD_MS = 1_000
"""How far a mark may be ahead of the exchange's clock as we have measured it."""


class Mark(Struct, frozen=True):
    """A mark price and when it reached us.

    Args:
        arrived: Monotonic seconds.
        lag_s: How old it was then, by the exchange's clock; never negative.
    """

    price: Decimal
    at_ms: int
    arrived: float
    lag_s: float
    funding_rate: Decimal | None
    next_funding_ms: int | None


class MarketBook:
    """Marks and contracts of one market.

    `prices` is the same marks as the risk arithmetic takes them.
    """

    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        self.prices: dict[str, Decimal] = {}
        self._streamed: dict[str, float] = {}
        self.contracts: dict[str, Contract] = {}
        self._ahead_ms: float | None = None

    def measured(self, offset_ms: int, now: Now) -> None:
        """Take exchange time minus our wall clock. Kept against the monotonic clock, which nobody sets."""
        self._ahead_ms = now.wall_ms + offset_ms - now.mono * 1000

    def apply_mark(self, event: MarkPrice, now: Now) -> bool:
        """Take a mark unless a later one is known. False: it was dropped."""
        here_ms = now.wall_ms if self._ahead_ms is None else now.mono * 1000 + self._ahead_ms
        lag_s = max(0.0, here_ms - event.at_ms) / 1000
        at_ms = min(event.at_ms, int(here_ms) + _AHEAD_MS)  # one from the far future must not bar all that follow
        known = self.marks.get(event.symbol)
        if known is not None and at_ms < known.at_ms:
            return False
        if not event.bridged:
            self._streamed[event.symbol] = now.mono - lag_s
        self.marks[event.symbol] = Mark(event.price, at_ms, now.mono, lag_s, event.funding_rate, event.next_funding_ms)
        self.prices[event.symbol] = event.price
        return True

    def forget(self, symbol: str) -> None:
        """Nobody holds this symbol any more: when it is held again, an old mark must not speak for it."""
        for known in (self.marks, self.prices, self._streamed):
            known.pop(symbol, None)

    def age(self, symbol: str, now: float) -> float | None:
        """Seconds since this mark was true: since it came, plus how late it came. None: there is none.

        Only differences of one clock enter, and the measured offset between the two: a wrong clock neither hides nor
        invents staleness.
        """
        mark = self.marks.get(symbol)
        return None if mark is None else now - mark.arrived + mark.lag_s

    def stream_age(self, symbol: str, now: float) -> float | None:
        """The same for the last mark that the stream itself has brought."""
        true_at = self._streamed.get(symbol)
        return None if true_at is None else now - true_at


class _Dispute(Struct, frozen=True):
    row: Balance | Position
    since: float


class AccountBook:
    """One account as its exchange last described it.

    Args:
        dispute_s: A snapshot row that is older than what we hold, yet says something else, is taken for a lagging
            copy at first; once every snapshot has said the same for so many seconds, it is taken for the truth.
    """

    def __init__(self, dispute_s: float) -> None:
        self.balances: dict[str, Balance] = {}
        self.rows: dict[PositionKey, Position] = {}
        self.figures: dict[PositionKey, ExchangeFigures] = {}
        self.tables: dict[str, BracketTable] = {}
        self.isolated: dict[str, bool] = {}
        self.margin_assets: dict[str, str] = {}
        self.hedge = False
        self.multi_assets = False
        self.balances_read = False
        self.positions_read = False
        self.truth_at: float | None = None
        self._dispute_s = dispute_s
        self._disputes: dict[str | PositionKey, _Dispute] = {}

    @property
    def known(self) -> bool:
        """Whether balances and positions have been read at all."""
        return self.balances_read and self.positions_read

    def positions(self) -> Iterator[Position]:
        """Open positions."""
        return (row for row in self.rows.values() if row.quantity)

    def apply_brackets(self, brackets: dict[str, tuple[Bracket, ...]]) -> dict[str, str]:
        """Take bracket tables. Returns symbol → what is wrong with it, for tables that cannot be used."""
        wrong = {}
        for symbol, rows in brackets.items():
            try:
                self.tables[symbol] = bracket_table(rows)
            except ValueError as exc:
                self.tables.pop(symbol, None)
                wrong[symbol] = str(exc)
        return wrong

    def apply_changed(self, event: AccountChanged, now: float) -> bool:
        """Merge a pushed change. False: all of it was older than what we hold."""
        taken = False
        for balance in event.balances:
            held = self.balances.get(balance.asset)
            if held is None or balance.at_ms >= held.at_ms:
                self.balances[balance.asset] = balance
                taken = True
        for position in event.positions:
            row = self.rows.get(position.key)
            if row is None or position.at_ms >= row.at_ms:
                if position.isolated is not None:
                    self.isolated[position.symbol] = position.isolated
                self._put(position)
                taken = True
        if taken:
            self.truth_at = now
        return taken

    def apply_balances(self, event: BalancesRead, now: float) -> None:
        named = {balance.asset for balance in event.balances}
        silent_ms = event.sent_ms - _SNAPSHOT_LAG_MS
        empty = [Balance(asset, ZERO, ZERO, silent_ms) for asset in self.balances if asset not in named]
        for balance in [*event.balances, *empty]:
            held = self.balances.get(balance.asset)
            if held is None or self._believes(balance.asset, held, balance, now):
                self.balances[balance.asset] = balance
        self.balances_read = True
        self.truth_at = now

    def apply_positions(self, event: PositionsRead, now: float) -> None:
        named = {position.key for position, _ in event.rows}
        silent_ms = event.sent_ms - _SNAPSHOT_LAG_MS
        closed = [
            structs.replace(row, quantity=ZERO, at_ms=silent_ms) for row in self.positions() if row.key not in named
        ]
        for position, figures in [*event.rows, *((row, None) for row in closed)]:
            held = self.rows.get(position.key)
            if held is None or self._believes(position.key, held, position, now):
                self._put(position)
            if figures is None:
                self.figures.pop(position.key, None)
            else:
                self.figures[position.key] = figures
        self.positions_read = True
        self.truth_at = now

    def _put(self, position: Position) -> None:
        if position.margin_asset is not None:
            self.margin_assets[position.symbol] = position.margin_asset
        if position.isolated is None:
            isolated = bool(position.isolated_wallet) or self.isolated.get(position.symbol, False)
            position = structs.replace(position, isolated=isolated)
        self.rows[position.key] = position

    def _believes(self, key: str | PositionKey, held: Balance | Position, row: Balance | Position, now: float) -> bool:
        if row.at_ms >= held.at_ms or _same(held, row):
            self._disputes.pop(key, None)
            return row.at_ms >= held.at_ms
        dispute = self._disputes.get(key)
        if dispute is None or not _same(dispute.row, row):
            self._disputes[key] = dispute = _Dispute(row, now)
        if now - dispute.since < self._dispute_s:
            return False
        del self._disputes[key]
        return True


def _same(held: Balance | Position, row: Balance | Position) -> bool:
    """Whether two rows say the same of the money, whenever they say it."""
    if isinstance(held, Balance) and isinstance(row, Balance):
        return (held.wallet_balance, held.cross_wallet_balance) == (row.wallet_balance, row.cross_wallet_balance)
    if isinstance(held, Position) and isinstance(row, Position):
        if not held.quantity and not row.quantity:
            return True
        return (held.quantity, held.entry_price, held.isolated_wallet) == (
            row.quantity,
            row.entry_price,
            row.isolated_wallet,
        )
    return False
