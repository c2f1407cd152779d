"""One watched account: its book, its pools and their latest risk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal, localcontext
from functools import partial
from typing import Literal

from monitor.book import AccountBook
from monitor.effects import AccountSetup
from monitor.events import Now, PositionKey, Side
from monitor.forced import ForcedOrders
from monitor.fundings import Forecasts
from monitor.gone import Gone
from monitor.links import Links
from monitor.market import MarketBook, Prices, rate_of
from monitor.moves import Moves
from monitor.risk import EXACT, contracts
from monitor.risk.assessment import assess
from monitor.risk.bankruptcy import bankruptcy_price
from monitor.risk.drift import Drift, drift
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.pools import margin_pools
from monitor.risk.quiet import Shape, shape
from monitor.risk.report import PoolRisk, PositionRisk
from monitor.risk.terms import Terms
from monitor.rules import DataStaleRule, Rule, RuleBook
from monitor.venues import VENUES

_READ_AGAIN_S = 10.0
"""What the exchange has not said of a position is asked for again after this, and after twice as long each time."""


Row = Literal["forced", "baseline", "grown"]
"""What of an account is kept for the next run, beside its incidents."""


class WatchedAccount:
    """An account and everything derived from it; changed in place by the core alone.

    Args:
        market: Marks and contracts of the market it trades on, shared with other accounts.
    """

    def __init__(self, setup: AccountSetup, market: MarketBook, rules: RuleBook, dispute_s: float) -> None:
        self.take(setup, rules)
        self.private_link = setup.private_link
        self.market, self.listings = market, market.listings
        self.book = AccountBook(dispute_s)
        self.moves = Moves(setup.name)
        self.pools: dict[str, Pool] = {}
        self.needed: frozenset[str] = frozenset()
        """What the market stream has to bring for this account."""
        self._needs: dict[str, tuple[str, ...]] = {}
        self.in_step = False
        """While a step applies events to it: until it is judged, its risks stay what they were before."""
        self.last_risks: dict[str, PoolRisk] = {}
        """Pool id → its risk as it was last computed: of the same step of every rule, but of earlier marks."""
        self._until_now: dict[str, PoolRisk | Prices] = {}
        """Pool id → what it was until now: its risk, or of one that has rested the marks that it follows from."""
        self._shapes: dict[str, Shape | None] = {}
        self.unpublished: set[str] = set()
        """Pools of which a figure is another than when they were last published."""
        self.gone = Gone()
        self._unread_since: float | None = None
        self._read_again_s = _READ_AGAIN_S
        self._ruled: dict[tuple[str, str], Rule] = {}
        self.forced_orders = ForcedOrders()
        self.drifts: dict[str, Drift] = {}
        self.forecasts = Forecasts()

    def take(self, setup: AccountSetup, rules: RuleBook) -> None:
        """From now on it is configured like this, and judged by these rules."""
        self.setup, self.name, self.rules = setup, setup.name, rules
        rule = self.rule_of("data_stale")
        assert isinstance(rule, DataStaleRule)
        self.stale_rule = rule

    @property
    def known(self) -> bool:
        """Whether its positions are known, so that a pool that is not there is truly gone."""
        return self.book.known

    @property
    def terms(self) -> Terms:
        """What its pools are valued with, as of now."""
        return Terms(self.market.prices, self.book.tables, self.market.rates)

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(p.symbol for pool in self.pools.values() for p in pool.positions)

    def is_new(self, symbol: str) -> bool:
        """Whether REST has yet to say something of a symbol: its brackets, or what it is settled in. No row of an
        account says that of an inverse contract, which is settled in its coin, whoever holds it."""
        settled = self.listings.contracts if VENUES[self.setup.venue].inverse else self.book.margin_assets
        return symbol not in self.book.tables or symbol not in settled

    def rebuild(self, now: Now) -> None:
        """Derive the pools anew from the book."""
        pools = self.derived() if self.known else self.pools
        is_unexplained = self.forced_orders.unread_at == now.mono
        self.gone.note(self.pools, pools, self.book, self.risks, now, is_unexplained=is_unexplained)
        for pool_id in self.pools.keys() - pools.keys():
            self.last_risks.pop(pool_id, None)
            self._until_now.pop(pool_id, None)
            self.unpublished.discard(pool_id)
        self.take_pools(pools)
        self._shapes.clear()

    def take_pools(self, pools: dict[str, Pool]) -> None:
        """From now on these are its pools, by id."""
        self.pools = pools
        self._needs = {pool_id: _streamed(pool) for pool_id, pool in pools.items()}
        self.needed = frozenset(what for needs in self._needs.values() for what in needs)

    def derived(self) -> dict[str, Pool]:
        """The pools that follow from the book as it is, by id."""
        inverse = VENUES[self.setup.venue].inverse
        return {p.id: p for p in margin_pools(self.name, self.book, self.listings, inverse)}

    def assess(self, pool_id: str) -> tuple[Callable[[], PoolRisk | None], PoolRisk]:
        """Compute a pool's risk. Returns what it was until now, for whoever asks, and what it is."""
        was = partial(self._was, self._until_now.get(pool_id), self.last_risks.get(pool_id))
        risk = self._until_now[pool_id] = self._assess(pool_id)
        return was, risk

    def rests(self, pool_id: str) -> None:
        """Nothing can come of a pool until `wakes`, whatever its risk is meanwhile."""
        self._until_now.pop(pool_id, None)

    def wakes(self, pool_id: str, before: Prices | None) -> None:
        """A pool that rested has to be looked at: until now it was what these marks made of it (None: those before this
        step)."""
        if before is None:
            self._until_now[pool_id] = self.last_risks[pool_id] if self.in_step else self.market.before_step()
        else:
            self._until_now[pool_id] = before

    def _assess(self, pool_id: str) -> PoolRisk:
        last = self.last_risks.get(pool_id)
        risk = assess(self.pools[pool_id], self.terms)
        self.last_risks[pool_id] = risk
        if last is None or risk.differs(last):
            self.unpublished.add(pool_id)
        return risk

    def _was(self, until_now: PoolRisk | Prices | None, last: PoolRisk | None) -> PoolRisk | None:
        """The risk that a pool had until now, or would have had at these marks."""
        if until_now is None or isinstance(until_now, PoolRisk):
            return until_now
        if last is None or last.is_at(until_now.exact):
            return last
        held = zip(last.pool.positions, last.tables, strict=True)
        tables = {p.symbol: table for p, table in held if table is not None}  # as they were; by now there may be others
        return assess(last.pool, Terms(until_now.exact, tables, self.market.rates))

    def risk(self, pool_id: str) -> PoolRisk:
        """The risk of a pool as it is; a pool that rests is computed when somebody asks."""
        risk = self.last_risks[pool_id]
        if self.in_step or risk.is_at(self.market.prices):
            return risk
        with localcontext(EXACT):  # whoever asks
            return self._assess(pool_id)

    @property
    def risks(self) -> dict[str, PoolRisk]:
        """Pool id → its risk as it is; while a step applies account events, as it was before the step."""
        for pool_id in self.last_risks:
            self.risk(pool_id)
        return self.last_risks

    def risk_with(self, key: PositionKey) -> PoolRisk | None:
        """The risk of the pool that holds a position; None: it is not open."""
        return next((r for r in self.risks.values() if any(p.key == key for p in r.pool.positions)), None)

    def shape(self, pool_id: str) -> Shape | None:
        """A pool as the screen takes it; None: it is always computed."""
        if pool_id not in self._shapes:
            self._shapes[pool_id] = shape(self.pools[pool_id], self.book.tables)
        return self._shapes[pool_id]

    @property
    def unread(self) -> dict[str, tuple[str, ...]]:
        """Pool id → what REST should have told us and has not, such as `brackets BTCUSDT`; prices are the stream's."""
        streamed = ("mark ", "rate ")
        incomplete = {i: r.missing for i, r in self.last_risks.items() if r.missing}
        found = {
            i: tuple(what for what in missing if not what.startswith(streamed)) for i, missing in incomplete.items()
        }
        return {pool_id: missing for pool_id, missing in found.items() if missing}

    def unread_for(self, now: Now) -> float:
        """Seconds for which something has been unread; asked in every tick."""
        if not self.unread:
            self._unread_since, self._read_again_s = None, _READ_AGAIN_S
        elif self._unread_since is None:
            self._unread_since = now.mono
        return 0.0 if self._unread_since is None else now.mono - self._unread_since

    def is_read_again(self, unread_s: float) -> bool:
        """Whether to ask once more for what has been unread for so long: less and less often."""
        if unread_s < self._read_again_s:
            return False
        self._read_again_s = 2 * unread_s
        return True

    def compare(self) -> dict[str, Drift]:
        """Hold our figures of each pool against those that the exchange has just printed of the same positions and
        balances; where it has printed those of a moment ago, or of one that we have not heard of, they say nothing."""
        found = {
            i: drift(pool, self.book.figures, self.terms) for i, pool in self.pools.items() if self._is_printed(pool)
        }
        self.drifts = {pool_id: one for pool_id, one in found.items() if one is not None}
        return self.drifts

    def rule_of(self, name: str, *symbols: str) -> Rule:
        """A rule as it holds for the account, or for these symbols of it, whatever is held."""
        return self.rules.of(name, self.name, self.setup.labels, symbols)

    def _is_printed(self, pool: Pool) -> bool:
        """Whether the last snapshot had all that a pool consists of as we hold it."""
        return self.book.unlike.isdisjoint(p.key for p in pool.positions) if pool.isolated else not self.book.unlike

    def rule(self, name: str, pool: Pool) -> Rule:
        """A rule as it holds for a pool."""
        matches = self.rules.matches.get(name)
        if not matches:
            return self.rules.rules[name]
        notional = ZERO
        if any(match.min_notional is not None for match in matches):
            marks = self.market.prices
            notional = sum(
                (abs(contracts.notional(p, marks[p.symbol])) for p in pool.positions if p.symbol in marks), ZERO
            )
        symbols = [p.symbol for p in pool.positions]
        before = self._ruled.get((name, pool.id))
        rule = self.rules.of(name, self.name, self.setup.labels, symbols, notional, before)
        self._ruled[name, pool.id] = rule
        return rule

    def heard_until(self, links: Links, now: Now) -> float:
        """Until when all is known that the exchange has done to the account: by its stream, or by its answers
        (monotonic seconds)."""
        streamed = links.heard_until(self.private_link, now.mono)
        return streamed if self.book.shown_at is None else max(streamed, self.book.shown_at)

    def needs_of(self, pool: Pool) -> tuple[str, ...]:
        """What a pool needs of the market stream: the marks of its symbols, and the rates of its assets."""
        return self._needs[pool.id] if pool is self.pools.get(pool.id) else _streamed(pool)

    def is_endangered(self, pool_id: str, rule: DataStaleRule) -> bool:
        """Whether a pool is so near to liquidation that blindness is critical at once."""
        if pool_id not in self.last_risks:
            return False
        risk = self.risk(pool_id)
        if risk.margin_ratio is not None and risk.margin_ratio >= rule.endangered_ratio:
            return True
        return risk.is_nearer(rule.endangered_distance)

    # ---- what is there, or was until lately ----

    def restore(self, kind: Row, name: str, row: bytes, now: Now) -> None:
        """Take back a row of an earlier run."""
        if kind != "forced":
            self.moves.baselines.restore(kind, name, row)
            return
        acted = self.forced_orders.restore(name, row, now)
        if acted is not None:
            self.gone.restore(acted, now)

    def pool_lately(self, key: PositionKey) -> str | None:
        """The pool that a position is in, or has left last."""
        holding = (i for i, pool in self.pools.items() if any(p.key == key for p in pool.positions))
        return next(holding, None) or self.gone.last_pool(key)

    def hedge_lately(self, symbol: str, acted_ms: int, now: Now) -> tuple[Decimal, Decimal] | None:
        """Quantities of both legs of a hedge, as they were before an order began to close one of them; None: no hedge.

        The order may be told after the account event that it caused, so what has left since a moment before it counts
        as held; long after, where the list of such orders could not be read for a while.

        Args:
            acted_ms: When the order acted (exchange time).
        """
        acted = now.mono - max(0, self.market.exchange_ms(now) - acted_ms) / 1000

        def whole(side: Side) -> Decimal:
            key = PositionKey(symbol, side)
            if not self.known:  # it was while nobody listened: as an earlier run held it
                held = self.moves.baselines.held.get(key)
                return ZERO if held is None else held.quantity
            before = self.gone.quantity_before(key, acted)
            return self.book.quantity(key) if before is None else before

        long, short = whole(Side.LONG), whole(Side.SHORT)
        return (long, short) if long and short else None

    def last_seen(self, key: PositionKey) -> tuple[PositionRisk | None, Decimal | None]:
        """A position as it was last whole, with its bankruptcy price: as it is, or as it was when it went."""
        for risk in self.risks.values():
            for p in risk.positions:
                if p.position.key == key:
                    return p, bankruptcy_price(risk, key)
        return self.gone.last_seen(key)


def on_market(accounts: Mapping[str, WatchedAccount], market: str) -> Iterator[WatchedAccount]:
    """Those that trade on a market."""
    return (account for account in accounts.values() if account.setup.market == market)


def spokesman(accounts: Collection[WatchedAccount]) -> WatchedAccount:
    """Whose rule `data_stale` a link is held against that these share: the first that wants to be told at all."""
    return next((account for account in accounts if account.stale_rule.enabled), next(iter(accounts)))


def _streamed(pool: Pool) -> tuple[str, ...]:
    return *(p.symbol for p in pool.positions), *(rate_of(wallet.asset) for wallet in pool.assets)
