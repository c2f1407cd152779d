"""The retained state: what each account's topics show, and when they are due.

States are published when time ticks, so at most once a second however fast the marks come; what is told goes at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal

from msgspec import structs

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.effects import (
    INSTANCE,
    Ages,
    Effect,
    HealthState,
    PoolGone,
    PoolState,
    PositionGone,
    PositionState,
    RuleState,
    SummaryState,
)
from monitor.events import Now, Position, PositionKey, Vitals
from monitor.fundings import coming_funding
from monitor.incident import Incident, gravest
from monitor.incidents import Incidents
from monitor.links import Links
from monitor.risk import contracts
from monitor.risk.bankruptcy import bankruptcy_price
from monitor.risk.drift import Drift
from monitor.risk.funding import Forecast, after, payment
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.quiet import PoolKey
from monitor.risk.report import PoolRisk, PositionRisk
from monitor.risk.scenario import LADDER, ratio_after
from monitor.rotation import Rotation
from monitor.rules import RuleBook, Severity


class Published:
    """When states were last published, and whose are due because something changed.

    Args:
        every_s: Summary and health are published at least this often (seconds).
        figures_per_s: So many states of pools and positions are published a second. Where there are more, each waits
            for its turn; those with an open incident wait less than the others.
    """

    def __init__(self, every_s: float, figures_per_s: float) -> None:
        self.every_s = every_s
        self.turns = Rotation(figures_per_s)
        self.summary_due: set[str] = set()
        self.health_due: set[str] = set()
        self._summary_at: dict[str, float] = {}
        self._health_at: dict[str, float] = {}
        self._freshness: dict[PoolKey, bool] = {}
        self.last: dict[PoolKey, tuple[int, list[object]]] = {}
        """The market's revision when a pool was last published, and what was of its positions beside their risk."""
        self.shown: dict[str, dict[str, frozenset[PositionKey]]] = defaultdict(dict)
        """Account → pool id → the positions in it, of all that has a topic."""
        self._vitals: Vitals | None = None
        self._lag_ms: dict[str, float] = {}

    def takes_summary(self, account: str, now: Now) -> bool:
        return _is_due(account, self.summary_due, self._summary_at, self.every_s, now)

    def takes_health(self, account: str, now: Now) -> bool:
        return _is_due(account, self.health_due, self._health_at, self.every_s, now)

    def takes_pool(self, pool: PoolKey, is_new: bool, now: Now) -> bool:
        """Whether a pool that has its turn is published: it is new or changed, or was last published long ago."""
        last_s = self.turns.last(pool)
        if last_s is not None and not is_new and now.mono - last_s < self.every_s:
            return False
        self.turns.take(pool, now.mono)
        return True

    def forget_pool(self, pool: PoolKey) -> None:
        """A pool is not there any more."""
        self.turns.leave(pool)
        self.last.pop(pool, None)
        self._freshness.pop(pool, None)

    def forget(self, account: str) -> None:
        """An account is watched no more; nor are its pools, each of which has been forgotten."""
        self.summary_due.discard(account)
        self.health_due.discard(account)
        for by_account in (self._summary_at, self._health_at, self._lag_ms):
            by_account.pop(account, None)
        self._freshness.pop((account, ""), None)
        self.shown.pop(account, None)

    def take_vitals(self, vitals: Vitals) -> None:
        """How the daemon fares now."""
        self._vitals = vitals
        for account, lag_ms in self._lag_ms.items():
            self._lag_ms[account] = max(lag_ms, vitals.loop_lag_ms)

    def vitals_since_health(self, account: str) -> Vitals | None:
        """The vitals with the longest lag since they were last asked for this account; None: nobody has said."""
        if self._vitals is None:
            return None
        lag_ms = self._lag_ms.get(account, self._vitals.loop_lag_ms)
        self._lag_ms[account] = 0.0
        return structs.replace(self._vitals, loop_lag_ms=lag_ms)

    def has_flipped(self, pool: PoolKey, is_live: bool) -> bool:
        """Note whether a pool's figures are those of now (`""`: the account's). True: it is another than before."""
        before = self._freshness.get(pool)
        self._freshness[pool] = is_live
        return before is not None and before is not is_live


def _is_due(account: str, due: set[str], last: dict[str, float], every_s: float, now: Now) -> bool:
    if account not in due and now.mono - last.get(account, -every_s) < every_s:
        return False
    due.discard(account)
    last[account] = now.mono
    return True


def due(
    account: WatchedAccount, links: Links, incidents: Incidents, published: Published, rules: RuleBook, now: Now
) -> Iterator[Effect]:
    """Every state of an account that has changed since it was last published, and those whose time has come."""
    name = account.name
    yield from _pools(account, incidents.of(name), links, published, now)
    is_live = freshness.is_live(account, None, links, now)
    if published.has_flipped((name, ""), is_live):
        published.summary_due.add(name)
        published.health_due.add(name)
    if published.takes_summary(name, now):
        yield _summary(account, concerning(account, incidents), freshness.ages(account, None, links, now), rules, now)
    if published.takes_health(name, now):
        yield _health(name, links, account.drifts, is_live, published.vitals_since_health(name), now)


def concerning(account: WatchedAccount, incidents: Incidents) -> list[Incident]:
    """The open incidents of an account, and those of what it shares with others: its market, and the store."""
    shared = [i for i in incidents.of(INSTANCE) if i.subject in (account.setup.market, "store")]
    return [*incidents.of(account.name), *shared]


def instance_due(
    accounts: Mapping[str, WatchedAccount], links: Links, published: Published, now: Now
) -> Iterator[Effect]:
    """The same of what belongs to no account."""
    if published.takes_health(INSTANCE, now):
        live = all(freshness.is_live(a, None, links, now) for a in accounts.values())
        yield _health(INSTANCE, links, {}, live, published.vitals_since_health(INSTANCE), now)


def gone(account: WatchedAccount, published: Published) -> Iterator[Effect]:
    """Topics of pools and positions that are not there any more."""
    still = {p.key for pool in account.pools.values() for p in pool.positions}
    shown = published.shown[account.name]
    for pool_id, keys in list(shown.items()):
        if pool_id not in account.pools:
            published.summary_due.add(account.name)
            yield PoolGone(account.name, pool_id)
        for key in sorted(keys - still):
            yield PositionGone(account.name, key)
        if pool_id not in account.pools:
            del shown[pool_id]
        else:
            shown[pool_id] = keys & still


def _pools(
    account: WatchedAccount, incidents: list[Incident], links: Links, published: Published, now: Now
) -> Iterator[Effect]:
    for pool_id, last in list(account.last_risks.items()):
        pool, key = last.pool, (account.name, pool_id)
        if published.has_flipped(key, freshness.is_live(account, pool, links, now)):
            account.unpublished.add(pool_id)  # until it is its turn
        severity = gravest(i for i in incidents if i.subject == pool_id)
        size = 2 + len(pool.positions)  # the pool, each position, and the summary that changes with them
        if not published.turns.has(key, size, severity > Severity.OK, now.mono):
            continue
        since, known = published.last.get(key, (0, None))
        moved = any(account.market.has_moved(p.symbol, since) for p in pool.positions)
        facts = _facts(account, pool)
        is_new = moved or pool_id in account.unpublished or facts != known
        if not published.takes_pool(key, is_new, now):
            continue
        if is_new:
            published.summary_due.add(account.name)
        published.last[key] = account.market.revision, facts
        ages = freshness.ages(account, pool, links, now)
        risk = account.risk(pool_id)
        yield from states(account, risk, severity, ages, now)
        published.shown[account.name][pool_id] = frozenset(p.key for p in risk.pool.positions)
        account.unpublished.discard(pool_id)  # being asked may have computed it anew


def states(
    account: WatchedAccount, risk: PoolRisk, severity: Severity, ages: Ages, now: Now
) -> Iterator[PoolState | PositionState]:
    """A pool and its positions as they are published, with what the next funding will do to them."""
    coming = coming_funding(risk, account.market, now)
    then = {} if coming is None else after(risk, coming, account.terms).printed_prices
    yield _pool_state(account, risk, coming, severity, ages, now)
    for position in risk.positions:
        yield _position_state(account, risk, position, then.get(position.position.key), ages, now)


def _pool_state(
    account: WatchedAccount, risk: PoolRisk, coming: Forecast | None, severity: Severity, ages: Ages, now: Now
) -> PoolState:
    return PoolState(
        account=account.setup,
        risk=risk,
        severity=severity,
        ages=ages,
        as_of_ms=now.wall_ms,
        ladder={move: ratio_after(risk, move, account.terms) for move in LADDER},
        funding=coming,
    )


def _position_state(
    account: WatchedAccount,
    risk: PoolRisk,
    position: PositionRisk,
    price_after: Decimal | None,
    ages: Ages,
    now: Now,
) -> PositionState:
    row = position.position
    funding_rate, next_funding_ms = account.market.funding(row.symbol)
    contract = account.listings.contracts.get(row.symbol)
    return PositionState(
        account=account.setup,
        asset=risk.pool.margin_asset(row),
        pool=risk.pool.id,
        risk=position,
        bankruptcy_price=bankruptcy_price(risk, row.key),
        quantity_unit=contracts.quantity_unit(row, contract),
        liquidation_fee=None if contract is None else contract.liquidation_fee,
        adl_quantile=account.book.adl_quantile(row.key),
        funding_interval_hours=account.listings.funding_interval_hours(row.symbol),
        funding_rate=funding_rate,
        next_funding_ms=next_funding_ms,
        funding_payment=_payment(account, row),
        liquidation_price_after=price_after,
        exchange=account.book.figures.get(row.key),
        ages=ages,
        as_of_ms=now.wall_ms,
    )


def _facts(account: WatchedAccount, pool: Pool) -> list[object]:
    """What is published of a pool's positions beside their risk."""
    market, listings, book = account.market, account.listings, account.book
    return [
        (p.key, market.funding(p.symbol), listings.funding_interval_hours(p.symbol), book.adl_quantile(p.key))
        for p in pool.positions
    ]


def _payment(account: WatchedAccount, position: Position) -> Decimal | None:
    """What funding at the present mark and estimate would change the wallet by: −rate × notional (signed)."""
    price, (rate, _) = account.market.prices.get(position.symbol), account.market.funding(position.symbol)
    if price is None or rate is None or position.contract_size == 0:
        return None
    return payment(position, price, rate)


def _summary(account: WatchedAccount, incidents: list[Incident], ages: Ages, rules: RuleBook, now: Now) -> SummaryState:
    risks = list(account.risks.values())
    complete = account.known and all(risk.margin_ratio is not None for risk in risks)
    by_rule = {name: [i for i in incidents if i.rule == name] for name in rules.rules}
    pnl: dict[str, Decimal | None] = {}
    for risk in risks:
        known, more = pnl.get(risk.pool.asset, ZERO), risk.unrealized_pnl
        pnl[risk.pool.asset] = None if known is None or more is None else known + more
    return SummaryState(
        account=account.setup,
        severity=gravest(incidents),
        rules={name: RuleState(gravest(open_now), len(open_now)) for name, open_now in by_rule.items()},
        worst_ratio=max((r.margin_ratio for r in risks if r.margin_ratio is not None), default=ZERO)
        if complete
        else None,
        worst_distance=min((r.distance for r in risks if r.distance is not None), default=None) if complete else None,
        unrealized_pnl=pnl,
        open_positions=sum(len(r.pool.positions) for r in risks) if account.known else None,
        ages=ages,
        as_of_ms=now.wall_ms,
    )


def _health(
    account: str, links: Links, drifts: dict[str, Drift], live: bool, vitals: Vitals | None, now: Now
) -> HealthState:
    return HealthState(
        account=account,
        links={link.name: (info, links.age(link, now.mono)) for link, info in links.of(account).items()},
        drifts=drifts,
        freshness="live" if live else "stale",
        as_of_ms=now.wall_ms,
        vitals=vitals,
    )
