"""The rules about pools: margin ratio, liquidation distance, drift; and how the incidents of a vanished pool end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import structs

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.effects import Ages, Resync
from monitor.events import ForcedKind, Now, PositionKey, Side
from monitor.gone import CLOSING_GRACE_S, FORCED_MEMORY_S, GonePool
from monitor.incident import Change, IncidentKey, Resolution
from monitor.incidents import Quiet
from monitor.reporter import Reporter
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.quiet import Limits, PoolKey
from monitor.risk.report import PoolRisk
from monitor.rules import MarginRatioRule, Rule, Severity
from monitor.telling import LEVELS, Seen, pool_story

RULES = (*LEVELS, "drift", "funding_forecast")
"""Every rule of which the subject is a pool; a vanished one ends them all."""
_ENDINGS: dict[ForcedKind, Resolution] = {
    ForcedKind.LIQUIDATION: "liquidated",
    ForcedKind.ADL: "adl",
    ForcedKind.SETTLEMENT: "settled",
}
"""How a forced order ends what it closes altogether."""
_REDUCED: dict[ForcedKind, Resolution] = {**_ENDINGS, ForcedKind.LIQUIDATION: "partly_liquidated"}
"""What it does to a pool of which something is left."""


class LevelsJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._incidents = reporter.incidents

    def judge(self, account: WatchedAccount, before: Callable[[], PoolRisk | None], risk: PoolRisk, now: Now) -> None:
        """Hold a pool against its rules. One with an unknown input is neither better nor worse: it is stale."""
        if risk.margin_ratio is None:
            return
        judged = [(name, account.rule(name, risk.pool), self._key(account, name, risk.pool)) for name in LEVELS]
        if self._is_far(judged, risk):
            for _, _, key in judged:
                self._incidents.forget(key)
            return
        ages = self._reporter.ages(account, risk.pool, now)
        trusted = ages.freshness == "live"
        seen: Seen | None = None
        for name, rule, key in judged:
            if not rule.enabled and self._incidents.is_idle(key):
                continue
            value, distance = risk.margin_ratio if name == "margin_ratio" else risk.distance, risk.distance
            at_least = Severity.OK
            if isinstance(rule, MarginRatioRule) and distance is not None and distance < rule.critical_within:
                warned = any([s.severity is Severity.WARNING and s.fires(value) for s in rule.steps])
                at_least = Severity.CRITICAL if warned else Severity.OK
            change = self._incidents.observe(
                key,
                rule,
                value,
                now,
                trusted=trusted,
                at_least=at_least,
                distance=distance,
                continues=None if key in self._incidents.open else self._replaced(account, name, risk),
            )
            if change is not None:
                seen = seen or Seen(account, before(), risk, self._stands(account, risk.pool))
                self._tell(self._as_forced(account, change, rule, risk, now), rule, seen, now, ages)
            elif trusted and self._reporter.is_unconfirmed(key):
                unchanged = Seen(account, None, risk, self._stands(account, risk.pool))
                self._tell(self._reporter.retained(key), rule, unchanged, now, ages)

    def quiet(self, account: WatchedAccount, pool: Pool) -> Limits | None:
        """Within which figures of a pool nothing would be told of it; None: they must be looked at each time."""
        ratio, distance = (self._quiet(account, name, pool) for name in LEVELS)
        if ratio is None or distance is None:
            return None
        nearest = [ZERO, *(d for d in (distance.above, ratio.distance_above, distance.distance_above) if d is not None)]
        below = [] if ratio.below is None else [ratio.below]
        last, rule = account.last_risks[pool.id], account.rule("margin_ratio", pool)
        warnings = [step.at for step in rule.steps if step.severity is Severity.WARNING]
        may_matter = ratio.severity < Severity.CRITICAL or ratio.while_trusted
        if isinstance(rule, MarginRatioRule) and warnings and may_matter:
            # What makes a warning critical, or keeps it so, must not come about: the pool stays no warning, or farther
            # off than that.
            if last.is_nearer(rule.critical_within):
                below += warnings
            else:
                nearest.append(rule.critical_within)
        return Limits(
            ratio_above=0.0 if ratio.above is None else float(ratio.above),
            ratio_below=float(min(below, default=math.inf)),
            distance_above=float(max(nearest)),
            distance_below=math.inf if distance.below is None else float(distance.below),
            until=min(ratio.until, distance.until),
            while_live=ratio.while_trusted or distance.while_trusted,
        )

    def is_at_worst(self, account: WatchedAccount, risk: PoolRisk) -> bool:
        """Whether a figure of a pool is now the worst that its incident has seen: the next mark may well be worse."""
        for incident in self._reporter.of(account.name, *LEVELS):
            if incident.subject == risk.pool.id and incident.worst is not None:
                value = risk.margin_ratio if incident.rule == "margin_ratio" else risk.distance
                if incident.worst is value:
                    return True
        return False

    def _is_far(self, judged: Sequence[tuple[str, Rule, IncidentKey]], risk: PoolRisk) -> bool:
        """Whether nothing is open of a pool and no level is reached, so that observing it opens nothing, and ends no
        more than a hold. Its distance is not solved for where it is beyond every level."""
        for name, rule, key in judged:
            if key in self._incidents.open:
                return False
            for step in rule.steps:
                is_ratio = name == "margin_ratio"
                if step.fires(risk.margin_ratio) if is_ratio else step.rises or not risk.is_beyond(step.at):
                    return False
        return True

    def _key(self, account: WatchedAccount, rule: str, pool: Pool) -> IncidentKey:
        return IncidentKey(account.name, rule, pool.id)

    def _stands(self, account: WatchedAccount, pool: Pool) -> Severity:
        """What the margin ratio of a pool is told as by now."""
        incident = self._incidents.open.get(self._key(account, "margin_ratio", pool))
        return Severity.OK if incident is None else incident.severity

    def _quiet(self, account: WatchedAccount, name: str, pool: Pool) -> Quiet | None:
        key = self._key(account, name, pool)
        if self._reporter.is_unconfirmed(key) or any(
            m.min_notional is not None for m in account.rules.matches.get(name, ())
        ):
            return None  # a rule that goes by the notional may be another one at any mark
        return self._incidents.quiet(key, account.rule(name, pool))

    def _replaced(self, account: WatchedAccount, rule: str, risk: PoolRisk) -> str | None:
        """The incident of a pool that has become this one, because the account's mode or a margin type was switched."""
        old = self._reporter.of(account.name, rule)
        if old:
            keys = frozenset(p.key for p in risk.pool.positions)
            old = [i for i in old if _became(account, i.subject, keys)]
        return max(old, key=lambda i: i.severity).incident_id if old else None

    def judge_drift(self, account: WatchedAccount, now: Now) -> None:
        """Hold our figures against those that a snapshot has brought."""
        for pool_id, found in account.compare().items():
            if freshness.rates_are_stale(account, account.pools[pool_id], now):
                continue  # marks come with the exchange's figures, rates of collateral do not
            rule = account.rule("drift", account.pools[pool_id])
            key = IncidentKey(account.name, "drift", pool_id)
            is_new = key not in self._incidents.open
            change = self._incidents.observe(key, rule, found.worst, now)
            if is_new and key in self._incidents.open:  # brackets and modes are read too seldom to wait for that
                self._reporter.effects.append(Resync(account.name, f"figures of {pool_id} differ from the exchange's"))
            change = self._reporter.or_retained(change, key, found.worst)
            if change is not None:
                self._tell(change, rule, Seen(account, None, account.risks.get(pool_id)), now)

    def forget(self, pool: PoolKey) -> None:
        """A pool is not there any more: what was about to be told of it begins anew if it comes back."""
        account, pool_id = pool
        for rule in RULES:
            self._incidents.forget(IncidentKey(account, rule, pool_id))

    def end_vanished(self, account: WatchedAccount, now: Now) -> None:
        """Resolve the incidents of pools that are not there any more, once it is clear how they ended."""
        for incident in self._reporter.of(account.name, *RULES):
            if incident.subject in account.pools:
                continue
            sides = [Side.BOTH, *(side for side in Side if side.value == incident.side)]
            keys = frozenset(PositionKey(incident.symbol, side) for side in sides if incident.symbol)
            how = _ending(account, incident.subject, keys, account.heard_until(self._reporter.links, now), now)
            change = None if how is None else self._incidents.resolve(incident.key, how, None, now)
            if change is not None:
                rule = account.rule_of(incident.rule)
                self._tell(change, rule, Seen(account, None, None), now)

    def _as_forced(self, account: WatchedAccount, change: Change, rule: Rule, risk: PoolRisk, now: Now) -> Change:
        """A pool that is better because the exchange reduced it has not recovered."""
        if change.resolution != "recovered":
            return change
        within_s = FORCED_MEMORY_S + rule.clear_for_s
        kind = account.gone.forced_kind(account.gone.held_lately(risk.pool, now, within_s), now, within_s)
        return change if kind is None else structs.replace(change, resolution=_REDUCED[kind])

    def _tell(self, change: Change, rule: Rule, seen: Seen, now: Now, ages: Ages | None = None) -> None:
        account, pool = seen.account, None if seen.risk is None else seen.risk.pool
        if pool is not None:
            account.unpublished.add(pool.id)  # its severity is part of what is published
        ages = ages or self._reporter.ages(account, pool, now)
        self._reporter.emit(pool_story(change, rule, seen, ages, now), now)


def _became(account: WatchedAccount, pool_id: str, keys: frozenset[PositionKey]) -> bool:
    """Whether a pool that is not there any more held one of these positions."""
    gone = account.gone.pool(pool_id)
    return gone is not None and pool_id not in account.pools and not gone.keys.isdisjoint(keys)


def _ending(
    account: WatchedAccount, pool_id: str, fallback: frozenset[PositionKey], heard_until: float, now: Now
) -> Resolution | None:
    """How a pool that is not there any more ended; None: wait, the exchange may still say.

    Args:
        fallback: Positions to go by where the pool vanished in an earlier run.
        heard_until: Monotonic seconds; what the exchange has done since then is not known.
    """
    is_unread = account.forced_orders.unread is not None
    gone = account.gone.pool_or(pool_id, GonePool(fallback, now.mono, is_unread))
    kind = account.gone.forced_kind(gone.keys, now)
    if kind is not None:
        return _ENDINGS[kind]
    successors = [i for i, pool in account.pools.items() if any(p.key in gone.keys for p in pool.positions)]
    if successors:  # the new pool must have been judged first: its incident goes on with this one
        risks = account.last_risks
        return "pool_replaced" if any(i in risks and risks[i].margin_ratio is not None for i in successors) else None
    if heard_until - gone.at < CLOSING_GRACE_S:
        return None
    return "position_gone" if gone.is_unexplained and is_unread else "position_closed"
