"""The rule `funding_forecast`: what the next funding would do to a pool, told before it is charged."""

from __future__ import annotations

from decimal import Decimal

from msgspec import structs

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.digits import LAST_DIGITS
from monitor.events import Now
from monitor.fundings import coming_funding
from monitor.incident import IncidentKey
from monitor.reporter import Reporter
from monitor.risk.attribution import adverse, move_between
from monitor.risk.funding import after
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.quiet import PoolKey
from monitor.risk.report import PoolRisk
from monitor.rotation import Rotation
from monitor.rules import FundingForecastRule, MarginRatioRule, Severity, Step
from monitor.telling import forecast_story

RULE = "funding_forecast"
_STEPS = tuple(Step(Decimal(s), s - Decimal("0.5"), s) for s in Severity if s is not Severity.OK)
"""What is held against the rule is how bad it would be: a severity's own rank."""


_POSITIONS_PER_S = 4000
"""So many positions are looked at in a second; of more, each pool has its turn, one with an open incident always."""


class FundingJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._turns = Rotation(_POSITIONS_PER_S)

    def judge(self, account: WatchedAccount, pool: Pool, now: Now) -> bool:
        """Look at the funding that comes next, while it is near; asked once a tick. False: there was nothing to see."""
        rule = account.rule(RULE, pool)
        assert isinstance(rule, FundingForecastRule)
        key, turn = IncidentKey(account.name, RULE, pool.id), (account.name, pool.id)
        incidents = self._reporter.incidents
        is_idle = incidents.is_idle(key)
        if is_idle and not account.market.has_funding_near(account.needs_of(pool), now, rule.within_s):
            self._turns.leave(turn)
            return False
        is_urgent = not is_idle or any(i.subject == pool.id for i in incidents.of(account.name))
        if not self._turns.has(turn, len(pool.positions), is_urgent, now.mono):
            return False
        self._turns.take(turn, now.mono)
        risk = account.risk(pool.id)
        near = coming_funding(risk, account.market, now, rule.within_s)
        if near is not None:
            account.forecasts.note(near)
        then = None if near is None else after(risk, near, account.terms)
        severity = Severity.OK if then is None else self._severity(account, risk, then, rule)
        trusted = freshness.is_live(account, risk.pool, self._reporter.links, now)
        by_rank = structs.replace(rule, steps=_STEPS)
        change = incidents.observe(key, by_rank, Decimal(severity), now, trusted=trusted)
        if trusted:
            change = self._reporter.or_retained(change, key)
        if change is not None:
            ages = self._reporter.ages(account, risk.pool, now)
            self._reporter.emit(forecast_story(account, change, risk, near, then, ages, now), now)
        return True

    def forget(self, pool: PoolKey) -> None:
        """A pool is not there any more."""
        self._turns.leave(pool)

    def _severity(self, account: WatchedAccount, risk: PoolRisk, then: PoolRisk, rule: FundingForecastRule) -> Severity:
        """How bad it would be: the step of the margin ratio that it would reach, or a notice for a price that moves."""
        levels = account.rule("margin_ratio", risk.pool)
        assert isinstance(levels, MarginRatioRule)
        reached = levels.severity(then.margin_ratio)
        if reached > levels.severity(risk.margin_ratio):
            return reached
        # What a payment changes moves the price of a small position most.
        smallest_first = sorted(range(len(then.own)), key=lambda i: abs(then.own[i].notional))
        return Severity.NOTICE if any(_comes_nearer(i, risk, then, rule) for i in smallest_first) else Severity.OK


def _comes_nearer(i: int, risk: PoolRisk, then: PoolRisk, rule: FundingForecastRule) -> bool:
    """Whether a liquidation price comes nearer by as much as is worth a notice."""
    mark = then.marks[i]
    if not mark or _hardly_moves(i, risk, then, rule) or (rule.notice_at > 0 and _has_no_price(i, then)):
        return False
    move = move_between(risk, then, i)
    if move.after is not None and abs(mark - move.after) > rule.ignore_beyond * mark:
        return False
    return adverse(move, mark) / mark >= rule.notice_at


def _hardly_moves(i: int, risk: PoolRisk, then: PoolRisk, rule: FundingForecastRule) -> bool:
    """Whether a liquidation price certainly moves by less than is worth a notice, without solving for it.

    Where such a price moves by one, the excess changes by the quantity at least, and less the highest rate for a long.
    """
    position, mark, table = then.pool.positions[i], then.marks[i], then.tables[i]
    if mark is None or table is None or not (risk.is_gentle and then.is_gentle):
        return False
    size = abs(position.quantity)
    steep = size - size * table.brackets[-1].rate if position.quantity > 0 else size
    return risk.excess - then.excess + LAST_DIGITS * size < rule.notice_at * mark * steep


def _has_no_price(i: int, then: PoolRisk) -> bool:
    """Whether a position certainly has no liquidation price: a long that is not liquidated before it is worthless."""
    own, table = then.own[i], then.tables[i]
    if own.notional < 0 or table is None or not then.is_gentle:
        return False
    return then.excess - own.notional + own.maintenance_margin >= table.maintenance_margin(ZERO)  # a price of 0 is none
