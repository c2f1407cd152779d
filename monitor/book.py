"""What the exchanges last said, nothing derived.

One `AccountBook` per account and one `MarketBook` per market link; both are owned by the core and changed in place.
Rows are merged, never replaced as a whole, and an older row never overwrites a newer one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import repeat
from types import MappingProxyType

from msgspec import Struct, structs

from monitor.digits import LAST_DIGITS
from monitor.events import (
    AccountChanged,
    AccountModeRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Balance,
    BalancesRead,
    BracketsRead,
    Contract,
    ContractChanged,
    Event,
    ExchangeFigures,
    MarkPrice,
    Marks,
    Now,
    Position,
    PositionKey,
    PositionsRead,
    Side,
)
from monitor.risk.margin import ONE, ZERO, BracketTable, bracket_table, scaled

SNAPSHOT_LAG_MS = 2_000
"""A snapshot that does not name a position or an asset speaks for the moment this long before it was asked for: the
answer may come from a copy that lags behind the stream."""
_AHEAD_MS = 1_000
"""How far a mark may be ahead of the exchange's clock as we have measured it."""

_UNDER_WAY_S = 15.0
"""An answer that comes so soon after something was pushed may have been given before; it is waited for 10 s at most."""

_RATE = "rate of "
_NONE: Mapping[str, AssetTerms] = MappingProxyType({})


def rate_of(asset: str) -> str:
    """Under which name the age of an asset's rate is asked for, among those of symbols."""
    return f"{_RATE}{asset}"


def is_rate(what: str) -> bool:
    """Whether it is the name of a rate, rather than a symbol."""
    return what.startswith(_RATE)


class Mark(Struct, frozen=True, gc=False):
    """A mark price.

    Args:
        at_ms: When it was made, by the exchange's clock.
        funding: Rate and time of the next one, as far as there is one.
        moved: Which change of the market's prices was the last one of this price.
        bridged: It was asked for over REST.
    """

    price: Decimal
    at_ms: int
    funding: tuple[Decimal | None, int | None]
    moved: int
    bridged: bool = False


class MarketBook:
    """Marks, contracts and collateral rates of one market.

    `prices` is the same marks as the risk arithmetic takes them, `earlier` is what they were before the running step
    (empty: as they are), and `moves` counts the changes. Ages are asked for by symbol, or by `rate_of(asset)`.
    """

    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        self.prices: dict[str, Decimal] = {}
        self.earlier: dict[str, Decimal] = {}
        self.moves = 0
        self._latest_ms = math.inf
        """No mark is later than this, nor bridged; infinity: that has to be looked at."""
        self._true_at: dict[str, float] = {}
        """When each mark and rate was true (monotonic seconds): when it came, but for how late it came."""
        self._streamed: dict[str, float] = {}
        """When rates were last true that the stream has brought, and marks that a bridged one has replaced."""
        self.contracts: dict[str, Contract] = {}
        """Another dict once anything in it has been read anew."""
        self._pushed: dict[str, tuple[ContractChanged, float]] = {}
        """What the stream has told of contracts lately, and when it came (monotonic seconds)."""
        self.assets: dict[str, AssetTerms] = {}
        self.rates: dict[str, AssetRate] = {}
        self._rates_at_ms = 0
        self.adl_risks: dict[str, str] = {}
        self.insurance_fund: dict[str, dict[str, Decimal]] = {}
        self.funding_hours: dict[str, int] | None = None
        self._ahead_ms: float | None = None

    def measured(self, offset_ms: int, now: Now) -> None:
        """Take exchange time minus our wall clock. Kept against the monotonic clock, which nobody sets."""
        self._ahead_ms = now.wall_ms + offset_ms - now.mono * 1000

    def exchange_ms(self, now: Now) -> int:
        """The exchange's clock as far as it has been measured, in Unix milliseconds."""
        return now.wall_ms if self._ahead_ms is None else int(now.mono * 1000 + self._ahead_ms)

    def clock_offset_ms(self, now: Now) -> int | None:
        """The exchange's clock minus ours; None: it has not been measured."""
        return None if self._ahead_ms is None else self.exchange_ms(now) - now.wall_ms

    def funding(self, symbol: str) -> tuple[Decimal | None, int | None]:
        """Rate and time of a symbol's next funding; None: it has none, or it is unknown."""
        mark = self.marks.get(symbol)
        return (None, None) if mark is None else mark.funding

    def has_funding_by(self, until_ms: int, symbols: Iterable[str]) -> bool:
        """Whether any of these symbols has a funding until then."""
        fundings = [mark.funding for mark in map(self.marks.get, symbols) if mark is not None]
        return any([rate is not None and at_ms is not None and at_ms <= until_ms for rate, at_ms in fundings])

    def funding_interval_hours(self, symbol: str) -> int | None:
        """Hours between two fundings; only what differs from 8 is named. None: it has not been asked yet."""
        return None if self.funding_hours is None else self.funding_hours.get(symbol, 8)

    def before_step(self) -> dict[str, Decimal]:
        """The prices as they were before the running step."""
        if not self.earlier:
            self.earlier.update(self.prices)
        return self.earlier

    def apply_mark(self, event: MarkPrice, now: Now) -> bool:
        """Take a mark unless a later one is known. False: it was dropped."""
        symbol, here_ms = event.symbol, self.exchange_ms(now)
        at_ms = min(event.at_ms, here_ms + _AHEAD_MS)  # one from the far future must not bar all that follow
        known = self.marks.get(symbol)
        if known is not None and at_ms < known.at_ms:
            return False
        if not event.bridged:
            self._streamed.pop(symbol, None)
        elif known is not None and not known.bridged:
            self._streamed[symbol] = self._true_at[symbol]
        self.before_step()
        self.moves += 1
        moved = self.moves if known is None or known.price != event.price else known.moved
        funding = event.funding_rate, event.next_funding_ms
        self.marks[symbol] = Mark(event.price, at_ms, funding, moved, event.bridged)
        self._latest_ms = math.inf if event.bridged else max(self._latest_ms, at_ms)
        self.prices[symbol] = event.price
        self._true_at[symbol] = _true_at(at_ms, here_ms, now)
        return True

    def apply_marks(self, event: Marks, now: Now) -> bool:
        """Take all marks of a frame at once. False: none was taken, since one of them is the first of its symbol, late,
        ahead of its time or after a bridged one, so that each has to be looked at for itself."""
        here_ms = self.exchange_ms(now)
        try:
            known = list(map(self.marks.__getitem__, event.symbols))
        except KeyError:
            return False
        times_ms = set(event.at_ms)  # mostly one for all of them
        earliest_ms, latest_ms = min(times_ms), max(times_ms)
        if latest_ms > here_ms + _AHEAD_MS:
            return False
        if earliest_ms < self._latest_ms and any(
            [k.at_ms > at_ms or k.bridged for k, at_ms in zip(known, event.at_ms, strict=True)]
        ):
            return False
        self._latest_ms = latest_ms if len(known) == len(self.marks) else max(self._latest_ms, latest_ms)
        self.before_step()
        self.moves += 1
        moves = self.moves
        moved = [k.moved if k.price == price else moves for k, price in zip(known, event.prices, strict=True)]
        marks = map(Mark, event.prices, event.at_ms, event.funding, moved)
        self.marks.update(zip(event.symbols, marks, strict=True))
        self.prices.update(zip(event.symbols, event.prices, strict=True))
        true_at = {at_ms: _true_at(at_ms, here_ms, now) for at_ms in times_ms}
        of_each = map(true_at.__getitem__, event.at_ms) if len(true_at) > 1 else repeat(*true_at.values())
        self._true_at.update(zip(event.symbols, of_each, strict=False))
        return True

    def has_moved(self, symbol: str, since: int) -> bool:
        """Whether a mark is another than it was when `moves` was this."""
        mark = self.marks.get(symbol)
        return mark is not None and mark.moved > since

    def apply_rates(self, event: AssetRates, now: Now) -> tuple[str, ...]:
        """Take rates of collateral, unless later ones are known. Returns the assets of which the rate has changed."""
        here_ms = self.exchange_ms(now)
        at_ms = min(event.at_ms, here_ms + _AHEAD_MS)
        if at_ms < self._rates_at_ms:
            return ()
        self._rates_at_ms = at_ms
        true_at = _true_at(event.at_ms, here_ms, now)
        changed = tuple(a for a, rate in event.rates.items() if self.rates.get(a) != rate)  # in an order of its own
        self.rates.update(event.rates)
        for asset in event.rates:
            self._true_at[rate_of(asset)] = true_at
            if not event.bridged:
                self._streamed[rate_of(asset)] = true_at
        return changed

    def apply_contract(self, event: ContractChanged, now: Now) -> None:
        """Take what the exchange has pushed of a contract; one that has not been read yet soon will be."""
        self._pushed[event.symbol] = event, now.mono
        if event.symbol in self.contracts:
            self.contracts = {**self.contracts, event.symbol: _as_pushed(self.contracts[event.symbol], event)}

    def apply_contracts(
        self, contracts: Mapping[str, Contract], now: Now, assets: Mapping[str, AssetTerms] = _NONE
    ) -> None:
        """Take what the exchange answers of contracts, and of assets as collateral."""
        lately = {s: (event, at) for s, (event, at) in self._pushed.items() if now.mono - at < _UNDER_WAY_S}
        pushed = {s: _as_pushed(contracts[s], event) for s, (event, _) in lately.items() if s in contracts}
        self.contracts, self._pushed = {**self.contracts, **contracts, **pushed}, lately
        self.assets.update(assets)

    def forget(self, what: str) -> None:
        """Nobody needs this mark or rate any more: when it is needed again, an old one must not speak for it."""
        for known in (self.marks, self.prices, self._streamed, self._true_at):
            known.pop(what, None)
        for asset in [asset for asset in self.rates if rate_of(asset) == what]:
            del self.rates[asset]

    def forget_rates(self) -> None:
        """Nobody needs any rate any more, of whatever asset: they are not brought any longer."""
        for known in (self._true_at, self._streamed):
            for what in [rate_of(asset) for asset in self.rates]:
                known.pop(what, None)
        self.rates.clear()

    def oldest(self, what: Collection[str], now: float) -> float | None:
        """Seconds since the oldest of these marks and rates was true: since it came, plus how late it came. Infinity:
        there is one that has never come; None: they are none at all.

        Only differences of one clock enter, and the measured offset between the two: a wrong clock neither hides nor
        invents staleness.
        """
        try:
            return now - min(map(self._true_at.__getitem__, what)) if what else None
        except KeyError:
            return math.inf

    def stream_age(self, symbol: str, now: float) -> float | None:
        """The same for the last mark that the stream itself has brought."""
        true_at = self._streamed.get(symbol)
        if true_at is None and (mark := self.marks.get(symbol)) is not None and not mark.bridged:
            true_at = self._true_at[symbol]
        return None if true_at is None else now - true_at


def _as_pushed(contract: Contract, event: ContractChanged) -> Contract:
    return structs.replace(contract, status=event.status, delivery_ms=event.delivery_ms)


def _true_at(at_ms: int, here_ms: int, now: Now) -> float:
    """When something was true (monotonic seconds) that was made at one time of the exchange's clock, and came at
    another."""
    return now.mono - max(0, here_ms - at_ms) / 1000


def is_torn(snapshot: Collection[Event]) -> bool:
    """Whether a position changed after the balances of a snapshot were asked for: its PnL is in neither."""
    asked_ms = [e.sent_ms for e in snapshot if isinstance(e, BalancesRead)]
    changed_ms = max((p.at_ms for e in snapshot if isinstance(e, PositionsRead) for p, _ in e.rows), default=0)
    return bool(asked_ms) and changed_ms > min(asked_ms)


class _Dispute(Struct, frozen=True):
    row: Balance | Position
    since: float


class _Coef(Struct, frozen=True, gc=False):
    """A symbol's brackets with the account's multiplier.

    Args:
        is_scaled: Whether floors and amounts are to be multiplied by it; else the exchange has done so.
    """

    given: BracketTable
    coef: Decimal
    is_scaled: bool

    @property
    def table(self) -> BracketTable:
        return scaled(self.given, self.coef) if self.is_scaled else self.given


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
        self.multi_assets = False
        self.switched_ms = 0
        """When the exchange last said that the mode was switched."""
        self.adl_quantiles: dict[PositionKey, int] = {}
        self.balances_read = False
        self.positions_read = False
        self.truth_at: float | None = None
        self.unlike: set[str | PositionKey] = set()
        """Of which assets and positions the last snapshot says something else than we hold: its figures are those of
        another moment."""
        self._dispute_s = dispute_s
        self._disputes: dict[str | PositionKey, _Dispute] = {}
        self._unnamed_ms: dict[str | PositionKey, int] = {}
        """When a snapshot was asked for that did not name an asset or a position, and nothing else has said that it is
        gone (exchange time)."""
        self._shape_faults: dict[str, str] = {}
        self._coef_faults: dict[str, str] = {}
        self._coefs: dict[str, _Coef] = {}

    @property
    def known(self) -> bool:
        """Whether balances and positions have been read at all."""
        return self.balances_read and self.positions_read

    def positions(self) -> Iterator[Position]:
        """Open positions."""
        return (row for row in self.rows.values() if row.quantity)

    def apply_brackets(self, event: BracketsRead) -> None:
        """Take bracket tables. What cannot be used is unknown from now on."""
        for symbol, rows in event.brackets.items():
            try:
                table = bracket_table(rows)
            except ValueError as exc:
                self.tables.pop(symbol, None)
                self._coefs.pop(symbol, None)
                self._shape_faults[symbol] = f"its brackets cannot be used: {exc}"
                continue
            coef = _Coef(table, event.coefs.get(symbol, ONE), False)
            known = self._coefs.get(symbol)
            if known is not None and (known.given, known.coef) == (coef.given, coef.coef):
                continue  # what has proved right of it stays
            self._coefs[symbol] = coef
            self._coef_faults.pop(symbol, None)  # the next snapshot holds the new ones against the exchange's margin
            self.tables[symbol] = coef.table
            if table.convex:
                self._shape_faults.pop(symbol, None)
            else:
                self._shape_faults[symbol] = "its brackets do not join up; they are used as given"

    def read_coefs(self, event: PositionsRead) -> None:
        """Choose the reading of each multiplier that reproduces the exchange's maintenance margin.

        Whether the brackets that come with a `notionalCoef` have it in them already is not documented.
        """
        for position, figures in event.rows:
            symbol = position.symbol
            coef = self._coefs.get(symbol)
            if coef is None or coef.coef == ONE or figures is None or figures.maintenance_margin is None:
                continue
            notional = abs(position.quantity * figures.mark_price)
            readings = (coef, structs.replace(coef, is_scaled=not coef.is_scaled))
            right = [r for r in readings if _agrees(r.table.maintenance_margin(notional), figures.maintenance_margin)]
            if not right:
                self._coef_faults[symbol] = (
                    f"no reading of its notionalCoef {coef.coef} gives the maintenance margin that the exchange prints"
                )
                continue
            self._coef_faults.pop(symbol, None)
            if right[0] is not coef:
                self._coefs[symbol] = right[0]
                self.tables[symbol] = right[0].table

    def is_mode_outdated(self, event: AccountModeRead) -> bool:
        """Whether an answer may be of before the mode was last switched: it was asked for earlier, or hardly later."""
        return event.sent_ms - SNAPSHOT_LAG_MS < self.switched_ms

    def quantity(self, key: PositionKey) -> Decimal:
        """Signed quantity of a position; zero: it is not open."""
        row = self.rows.get(key)
        return ZERO if row is None else row.quantity

    @property
    def bracket_faults(self) -> dict[str, str]:
        """Symbol → what is the matter with its brackets."""
        return {**self._coef_faults, **self._shape_faults}

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
        for balance in [*event.balances, *empty]:
            held = self.balances.get(balance.asset)
            if held is None or self._is_named_again(balance, held, event) or self._believes(held, balance, now):
                self.balances[balance.asset] = balance
                self._note(balance.asset, named, event)
            self._hold_against(balance, self.balances[balance.asset])
        self.balances_read = True
        self.truth_at = now

    def apply_positions(self, event: PositionsRead, now: float) -> None:
        named = {position.key for position, _ in event.rows}
        silent_ms = event.sent_ms - SNAPSHOT_LAG_MS
        closed = [
            structs.replace(row, quantity=ZERO, at_ms=silent_ms) for row in self.positions() if row.key not in named
        ]
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
        self.positions_read = True
        self.truth_at = now

    def _put(self, position: Position) -> None:
        if position.margin_asset is not None:
            self.margin_assets[position.symbol] = position.margin_asset
        if position.isolated is None:
            isolated = bool(position.isolated_wallet) or self.isolated.get(position.symbol, False)
            position = structs.replace(position, isolated=isolated)
        self.rows[position.key] = position

    def _hold_against(self, row: Balance | Position, held: Balance | Position) -> None:
        """Note whether a row of a snapshot is what we hold, now that it has been taken or not."""
        (self.unlike.discard if _same(held, row) else self.unlike.add)(_key(row))

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


def margin_asset(account: AccountBook, market: MarketBook, symbol: str) -> str | None:
    """What positions in a symbol are settled in, by the account's own rows, else by the contract. None: unknown."""
    contract = market.contracts.get(symbol)
    return account.margin_assets.get(symbol) or (None if contract is None else contract.margin_asset)


def _agrees(ours: Decimal, theirs: Decimal) -> bool:
    """Whether two maintenance margins are the same as far as the exchange prints them: it cuts off after 8 decimals,
    and may have cut the notional before."""
    return abs(ours - theirs) < LAST_DIGITS


def _key(row: Balance | Position) -> str | PositionKey:
    return row.asset if isinstance(row, Balance) else row.key


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
