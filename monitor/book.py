"""What the exchange last said of one account: balances and positions; nothing derived.

One `AccountBook` per account, owned by the core and changed in place. Rows are merged, never replaced as a whole, and
an older row never overwrites a newer one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal

from msgspec import Struct, structs

from monitor.brackets import Brackets
from monitor.digits import LAST_DIGITS
from monitor.events import (
    AccountChanged,
    AccountModeRead,
    Balance,
    BalancesRead,
    Event,
    ExchangeFigures,
    Position,
    PositionKey,
    PositionsRead,
    Side,
)
from monitor.listings import Listings
from monitor.risk.margin import ZERO

SNAPSHOT_LAG_MS = 2_000
"""A snapshot that does not name a position or an asset speaks for the moment this long before it was asked for: the
answer may come from a copy that lags behind the stream."""


def is_torn(snapshot: Collection[Event]) -> bool:
    """Whether a position changed after the balances of a snapshot were asked for: its PnL is in neither."""
    asked_ms = [e.sent_ms for e in snapshot if isinstance(e, BalancesRead)]
    changed_ms = max((p.at_ms for e in snapshot if isinstance(e, PositionsRead) for p, _ in e.rows), default=0)
    return bool(asked_ms) and changed_ms > min(asked_ms)


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
        self.brackets = Brackets()
        self.tables = self.brackets.tables
        self.isolated: dict[str, bool] = {}
        self.margin_assets: dict[str, str] = {}
        self.multi_assets = False
        self.switched_ms = 0
        """When the exchange last said that the mode was switched."""
        self.adl_quantiles: dict[PositionKey, int] = {}
        self.balances_read = False
        self.positions_read = False
        self.truth_at: float | None = None
        self.shown_at: float | None = None
        """When the last snapshot came, which a pushed change is not (monotonic seconds)."""
        self.unlike: set[str | PositionKey] = set()
        """Of which assets and positions the last snapshot says something else than we hold: its figures are those of
        another moment."""
        self._held: frozenset[PositionKey] = frozenset()
        """The positions that the answer with the balances has last named as open."""
        self._dispute_s = dispute_s
        self._disputes: dict[str | PositionKey, _Dispute] = {}
        self._unnamed_ms: dict[str | PositionKey, int] = {}
        """When a snapshot was asked for that did not name an asset or a position, and nothing else has said that it is
        gone (exchange time)."""

    @property
    def known(self) -> bool:
        """Whether balances and positions have been read at all."""
        return self.balances_read and self.positions_read

    def positions(self) -> Iterator[Position]:
        """Open positions."""
        return (row for row in self.rows.values() if row.quantity)

    def is_mode_outdated(self, event: AccountModeRead) -> bool:
        """Whether an answer may be of before the mode was last switched: it was asked for earlier, or hardly later."""
        return event.sent_ms - SNAPSHOT_LAG_MS < self.switched_ms

    def quantity(self, key: PositionKey) -> Decimal:
        """Signed quantity of a position; zero: it is not open."""
        row = self.rows.get(key)
        return ZERO if row is None else row.quantity

    def adl_quantile(self, key: PositionKey) -> int | None:
        """Place in the auto-deleveraging queue, 0 to 4, 4 being first in line; None: unknown."""
        figures = self.figures.get(key)
        if figures is not None and figures.adl_quantile is not None:
            return figures.adl_quantile
        side = key.side
        if side is Side.BOTH:  # in one-way mode the queue of the position's own direction is its place
            side = Side.LONG if self.quantity(key) > 0 else Side.SHORT
        return self.adl_quantiles.get(PositionKey(key.symbol, side), self.adl_quantiles.get(key))

    def apply_changed(self, event: AccountChanged, now: float) -> bool:
        """Merge a pushed change. False: all of it was older than what we hold."""
        taken = False
        for balance in event.balances:
            held = self.balances.get(balance.asset)
            if held is None or balance.at_ms >= held.at_ms:
                self.balances[balance.asset] = balance
                self._unnamed_ms.pop(balance.asset, None)
                taken = True
        for position in event.positions:
            row = self.rows.get(position.key)
            if row is None or position.at_ms >= row.at_ms:
                if position.isolated is not None:
                    self.isolated[position.symbol] = position.isolated
                self._put(position)
                self._unnamed_ms.pop(position.key, None)
                taken = True
        if taken:
            self.truth_at = now
        return taken

    def apply_balances(self, event: BalancesRead, now: float) -> None:
        named = {balance.asset for balance in event.balances}
        silent_ms = event.sent_ms - SNAPSHOT_LAG_MS
        empty = [Balance(asset, ZERO, ZERO, silent_ms) for asset in self.balances if asset not in named]
        self.unlike.difference_update(self.balances)
        for balance in [*event.balances, *empty]:
            held = self.balances.get(balance.asset)
            if held is None or self._is_named_again(balance, held, event) or self._believes(held, balance, now):
                self.balances[balance.asset] = balance
                self._note(balance.asset, named, event)
            self._hold_against(balance, self.balances[balance.asset])
        self._held = event.held
        self.balances_read = True
        self.truth_at = now

    def apply_positions(self, event: PositionsRead, now: float) -> None:
        named = {position.key for position, _ in event.rows}
        silent_ms = event.sent_ms - SNAPSHOT_LAG_MS
        gone = [row for row in self.positions() if row.key not in named]
        closed = [structs.replace(row, quantity=ZERO, at_ms=silent_ms) for row in gone if row.key not in self._held]
        self.unlike.difference_update(self.rows)  # also of what is closed, and is named no more
        self.unlike.update(row.key for row in gone if row.key in self._held)  # one of two answers is wrong, or later
        for position, figures in [*event.rows, *((row, None) for row in closed)]:
            held = self.rows.get(position.key)
            if held is None or self._is_named_again(position, held, event) or self._believes(held, position, now):
                self._put(position)
                self._note(position.key, named, event)
            self._hold_against(position, self.rows[position.key])
            if figures is None:
                self.figures.pop(position.key, None)
            else:
                self.figures[position.key] = figures
        self.brackets.compare(event)
        self.positions_read = True
        self.truth_at = self.shown_at = now

    def _put(self, position: Position) -> None:
        if position.margin_asset is not None:
            self.margin_assets[position.symbol] = position.margin_asset
        if position.isolated is None:
            isolated = bool(position.isolated_wallet) or self.isolated.get(position.symbol, False)
            position = structs.replace(position, isolated=isolated)
        self.rows[position.key] = position

    def _hold_against(self, row: Balance | Position, held: Balance | Position) -> None:
        """Note that a row of a snapshot is not what we hold, now that it has been taken or not."""
        if not _same(held, row):
            self.unlike.add(_key(row))

    def _note(
        self, key: str | PositionKey, named: Collection[str | PositionKey], event: BalancesRead | PositionsRead
    ) -> None:
        """A row of a snapshot has been taken: note whether it is one that says nothing by not being there."""
        if key in named:
            self._unnamed_ms.pop(key, None)
        else:
            self._unnamed_ms[key] = event.sent_ms

    def _is_named_again(
        self, row: Balance | Position, held: Balance | Position, event: BalancesRead | PositionsRead
    ) -> bool:
        """Whether something is there after all that was gone only because a snapshot did not name it. That it has not
        changed for long speaks for it, and one answer that was empty by mistake must not hide a position."""
        unnamed_ms = self._unnamed_ms.get(_key(row))
        return unnamed_ms is not None and event.sent_ms - SNAPSHOT_LAG_MS > unnamed_ms and not _same(held, row)

    def _believes(self, held: Balance | Position, row: Balance | Position, now: float) -> bool:
        key = _key(row)
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


def margin_asset(account: AccountBook, listings: Listings, symbol: str) -> str | None:
    """What positions in a symbol are settled in, by the account's own rows, else by the contract. None: unknown."""
    contract = listings.contracts.get(symbol)
    return account.margin_assets.get(symbol) or (None if contract is None else contract.margin_asset)


def _key(row: Balance | Position) -> str | PositionKey:
    return row.asset if isinstance(row, Balance) else row.key


def _same(held: Balance | Position, row: Balance | Position) -> bool:
    """Whether two rows say the same of the money, whenever they say it.

    An isolated wallet may be the difference of two figures, each of which is cut off after its last digit.
    """
    if isinstance(held, Balance) and isinstance(row, Balance):
        return (held.wallet_balance, held.cross_wallet_balance) == (row.wallet_balance, row.cross_wallet_balance)
    if isinstance(held, Position) and isinstance(row, Position):
        if not held.quantity and not row.quantity:
            return True
        is_alike = (held.quantity, held.entry_price) == (row.quantity, row.entry_price)
        return is_alike and abs(held.isolated_wallet - row.isolated_wallet) < LAST_DIGITS
    return False
