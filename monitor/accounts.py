"""One watched account: its book, its pools and their latest risk."""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

from monitor.book import AccountBook, MarketBook
from monitor.effects import AccountSetup, Ages
from monitor.events import ForcedKind, LinkId, Now, PositionKey
from monitor.forced import ForcedOrders
from monitor.incidents import Resolution
from monitor.links import Links
from monitor.moves import Moves
from monitor.risk import contracts
from monitor.risk.drift import Drift, drift
from monitor.risk.margin import ZERO
from monitor.risk.pools import margin_pools
from monitor.risk.report import Pool, PoolRisk, PositionRisk, assess, bankruptcy_price
from monitor.rules import DataStaleRule, LiquidationPriceMovedRule, Rule, RuleBook, Severity
from monitor.venues import VENUES

FORCED_MEMORY_S = 120.0
"""How long a forced order explains what became of a pool."""
CLOSING_GRACE_S = 2.0
"""How long a vanished pool is kept in doubt: the order that says it was forced may come after the account event."""


class _Forced(Struct, frozen=True):
    kind: ForcedKind
    at: float


class _Unsupported(Struct, frozen=True):
    why: str
    since: float


class _Gone(Struct, frozen=True):
    keys: frozenset[PositionKey]
    at: float


class WatchedAccount:
    """An account and everything derived from it; changed in place by the core alone.

    Args:
        market: Marks and contracts of the market it trades on, shared with other accounts.
    """

    def __init__(self, setup: AccountSetup, market: MarketBook, rules: RuleBook, dispute_s: float) -> None:
        self.setup = setup
        self.market = market
        self.rules = rules
        self.book = AccountBook(dispute_s)
        self.moves = Moves(setup.name)
        self.pools: dict[str, Pool] = {}
        self.risks: dict[str, PoolRisk] = {}
        self.unpublished: set[str] = set()
        self.published: dict[str, frozenset[PositionKey]] = {}
        self.unsupported: _Unsupported | None = None
        self._forced: dict[PositionKey, _Forced] = {}
        self._gone: dict[str, _Gone] = {}
        self._left: dict[tuple[str, PositionKey], float] = {}
        self._unread_since: float | None = None
        self._ruled: dict[tuple[str, str], Rule] = {}
        self.forced_orders = ForcedOrders()
        self.drifts: dict[str, Drift] = {}
        self._parted: dict[PositionKey, tuple[PositionRisk, Decimal | None]] = {}

    @property
    def name(self) -> str:
        return self.setup.name

    @property
    def known(self) -> bool:
        """Whether its positions are known, so that a pool that is not there is truly gone."""
        return self.book.known and self.unsupported is None

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(p.symbol for pool in self.pools.values() for p in pool.positions)

    def rebuild(self, now: Now) -> None:
        """Derive the pools anew from the book."""
        if not self.book.multi_assets:
            self.unsupported = None
        elif self.unsupported is None:
            self.unsupported = _Unsupported(
                "multi-assets mode is not supported: this account cannot be watched", now.mono
            )
        pools = self.derived() if self.known else self.pools
        self._part(pools)
        for pool_id in self.pools.keys() - pools.keys():
            self._gone[pool_id] = _Gone(frozenset(p.key for p in self.pools[pool_id].positions), now.mono)
            self.risks.pop(pool_id, None)
            self.unpublished.discard(pool_id)
        for pool_id, pool in pools.items():
            self._gone.pop(pool_id, None)
            before = self.pools.get(pool_id, pool).positions
            for key in {p.key for p in before} - {p.key for p in pool.positions}:
                self._left[pool_id, key] = now.mono
        self.pools = pools

    def derived(self) -> dict[str, Pool]:
        """The pools that follow from the book as it is, by id."""
        inverse = VENUES[self.setup.venue].inverse
        return {p.id: p for p in margin_pools(self.name, self.book, self.market.contracts, inverse)}

    def assess(self, pool_id: str) -> tuple[PoolRisk | None, PoolRisk]:
        """Compute a pool's risk. Returns what it was, and what it is."""
        before = self.risks.get(pool_id)
        risk = assess(self.pools[pool_id], self.market.prices, self.book.tables)
        self.risks[pool_id] = risk
        if risk != before:
            self.unpublished.add(pool_id)
        return before, risk

    @property
    def unread(self) -> dict[str, tuple[str, ...]]:
        """Pool id → what REST should have told us and has not, such as `brackets BTCUSDT`; marks are the stream's."""
        found = {i: tuple(what for what in r.missing if not what.startswith("mark ")) for i, r in self.risks.items()}
        return {pool_id: missing for pool_id, missing in found.items() if missing}

    def unread_for(self, now: Now) -> float:
        """Seconds for which something has been unread; asked once a tick."""
        if not self.unread:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now.mono
        return 0.0 if self._unread_since is None else now.mono - self._unread_since

    def compare(self) -> dict[str, Drift]:
        """Hold our figures of each pool against those that the exchange has just printed."""
        found = {i: drift(pool, self.book.figures, self.book.tables) for i, pool in self.pools.items()}
        self.drifts = {pool_id: one for pool_id, one in found.items() if one is not None}
        return self.drifts

    def rule(self, name: str, pool: Pool) -> Rule:
        """A rule as it holds for a pool."""
        notional = ZERO
        if any(match.min_notional is not None for match in self.rules.matches.get(name, ())):
            marks = self.market.prices
            notional = sum(
                (abs(contracts.notional(p, marks[p.symbol])) for p in pool.positions if p.symbol in marks), ZERO
            )
        symbols = [p.symbol for p in pool.positions]
        before = self._ruled.get((name, pool.id))
        rule = self.rules.of(name, self.name, self.setup.labels, symbols, notional, before)
        self._ruled[name, pool.id] = rule
        return rule

    def moved_rules(self) -> dict[str, LiquidationPriceMovedRule]:
        rules = {pool_id: self.rule("liquidation_price_moved", pool) for pool_id, pool in self.pools.items()}
        return {pool_id: rule for pool_id, rule in rules.items() if isinstance(rule, LiquidationPriceMovedRule)}

    @property
    def stale_rule(self) -> DataStaleRule:
        rule = self.rules.of("data_stale", self.name, self.setup.labels)
        assert isinstance(rule, DataStaleRule)
        return rule

    def ages(self, pool: Pool | None, links: Links, now: Now) -> Ages:
        """How fresh a pool's figures are (None: all pools'); stale: a mark is old or the private stream away."""
        limit = self.stale_rule.stale_after_s
        positions = pool.positions if pool else [p for each in self.pools.values() for p in each.positions]
        marks = [self.market.age(p.symbol, now.mono) for p in positions]
        oldest = None if None in marks else max((m for m in marks if m is not None), default=None)
        truth = None if self.book.truth_at is None else now.mono - self.book.truth_at
        live = (
            self.known
            and None not in marks
            and (oldest is None or oldest < limit)
            and links.age(self.setup.private_link, now.mono) < limit
            and (pool is None or pool.id not in self.risks or not self.risks[pool.id].missing)
        )
        return Ages("live" if live else "stale", oldest, truth)

    def blinded_by(self, link: LinkId, limit_s: float, now: Now) -> list[str]:
        """The pools that this link blinds while it is quiet: all of them, or those whose symbols it does not bring."""
        if link == self.setup.rest_link:
            return list(self.unread)
        if link == self.setup.private_link:
            return list(self.pools)
        ages = {s: self.market.stream_age(s, now.mono) for s in self.symbols}
        quiet = {symbol for symbol, age in ages.items() if age is None or age >= limit_s}
        return [pool_id for pool_id, pool in self.pools.items() if any(p.symbol in quiet for p in pool.positions)]

    def is_endangered(self, pool_id: str, rule: DataStaleRule) -> bool:
        """Whether a pool is so near to liquidation that blindness is critical at once."""
        risk = self.risks.get(pool_id)
        if risk is None:
            return False
        near = risk.distance is not None and risk.distance < rule.endangered_distance
        return near or (risk.margin_ratio is not None and risk.margin_ratio >= rule.endangered_ratio)

    # ---- forced orders ----

    def forced(self, key: PositionKey, kind: ForcedKind, now: Now) -> None:
        """Remember that the exchange itself acted on a position."""
        self._forced[key] = _Forced(kind, now.mono)

    def forced_kind(
        self, keys: frozenset[PositionKey], now: Now, within_s: float = FORCED_MEMORY_S
    ) -> ForcedKind | None:
        """The forced order that has lately acted on one of these positions; a liquidation before others."""
        kinds = [f.kind for key, f in self._forced.items() if key in keys and now.mono - f.at < within_s]
        return min(kinds, key=list(ForcedKind).index, default=None)

    def last_seen(self, key: PositionKey) -> tuple[PositionRisk | None, Decimal | None]:
        """A position as it was last whole, with its bankruptcy price: as it is, or as it was when it went."""
        for risk in self.risks.values():
            for p in risk.positions:
                if p.position.key == key:
                    return p, bankruptcy_price(risk, key)
        return self._parted.get(key, (None, None))

    def _part(self, pools: dict[str, Pool]) -> None:
        """Remember positions that these pools do not have any more: a forced order may yet say what became of them."""
        still = {p.key for pool in pools.values() for p in pool.positions}
        for risk in self.risks.values():
            for p in risk.positions:
                if p.position.key not in still:
                    self._parted[p.position.key] = p, bankruptcy_price(risk, p.position.key)

    def held_lately(self, pool: Pool, now: Now, within_s: float) -> frozenset[PositionKey]:
        """The positions that a pool holds, and those that have left it lately."""
        left = {key for (pool_id, key), at in self._left.items() if pool_id == pool.id and now.mono - at < within_s}
        return frozenset(left.union(p.key for p in pool.positions))

    def ending(self, pool_id: str, fallback: frozenset[PositionKey], now: Now) -> Resolution | None:
        """How a pool that is not there any more ended; None: wait, the exchange may still say.

        Args:
            fallback: Positions to go by where the pool vanished in an earlier run.
        """
        gone = self._gone.setdefault(pool_id, _Gone(fallback, now.mono))
        kind = self.forced_kind(gone.keys, now)
        if kind is not None:
            endings: dict[ForcedKind, Resolution] = {
                ForcedKind.LIQUIDATION: "liquidated",
                ForcedKind.ADL: "adl",
                ForcedKind.SETTLEMENT: "settled",
            }
            return endings[kind]
        if any(p.key in gone.keys for pool in self.pools.values() for p in pool.positions):
            return "pool_replaced"
        return "position_closed" if now.mono - gone.at >= CLOSING_GRACE_S else None


def worst_severity(severities: list[Severity]) -> Severity:
    return max(severities, default=Severity.OK)
