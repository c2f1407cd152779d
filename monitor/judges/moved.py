"""The rule `liquidation_price_moved`: when what has moved a price is told, and what is kept of it."""

from __future__ import annotations

import math

from msgspec import structs

from monitor.accounts import WatchedAccount
from monitor.effects import Save
from monitor.events import Now
from monitor.incident import IncidentKey
from monitor.moves import Telling
from monitor.reporter import Reporter
from monitor.risk.assessment import assess
from monitor.risk.pool import Pool
from monitor.risk.pools import row_slug
from monitor.risk.quiet import Limits
from monitor.risk.report import PoolRisk
from monitor.rules import LiquidationPriceMovedRule, Severity
from monitor.telling import moved_story

RULE = "liquidation_price_moved"


def rules_of(account: WatchedAccount) -> dict[str, LiquidationPriceMovedRule]:
    """Pool id → the rule as it holds there."""
    rules = {pool_id: account.rule(RULE, pool) for pool_id, pool in account.pools.items()}
    return {pool_id: rule for pool_id, rule in rules.items() if isinstance(rule, LiquidationPriceMovedRule)}


class MovedJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def check_marks(self, account: WatchedAccount, risk: PoolRisk, now: Now) -> None:
        """Tell what the marks of a pool's other positions have done to its prices, now and then."""
        rule = account.rule(RULE, risk.pool)
        assert isinstance(rule, LiquidationPriceMovedRule)
        if rule.enabled and (len(risk.pool.positions) > 1 or risk.pool.assets) and not risk.missing:
            self._tell(account, account.moves.check_marks(risk, account.terms, rule, now), now, risk)

    def quiet(self, account: WatchedAccount, pool: Pool, limits: Limits, now: Now) -> Limits | None:
        """These limits, with those in which `check_marks` tells nothing either; None: it must look each time."""
        rules = account.rules.matches.get(RULE, ())
        rule = account.rule(RULE, pool)
        told = account.moves.told(pool)
        assert isinstance(rule, LiquidationPriceMovedRule)
        if told is None or any(match.min_notional is not None for match in rules):
            return None
        severity, until = account.moves.quiet_up_to(pool, rule, now)
        limits = structs.replace(limits, until=min(limits.until, until))
        if not rule.enabled or len(pool.positions) < 2 or severity >= Severity.WARNING:
            return limits
        return structs.replace(
            limits,
            told={key.symbol: float(price) for key, price in told.items() if price is not None},
            notice_at=math.inf if severity >= Severity.NOTICE else float(rule.notice_at),
            warning_at=float(rule.warning_at),
            ignore_beyond=float(rule.ignore_beyond),
        )

    def tell(self, account: WatchedAccount, now: Now, *, only_from: Severity = Severity.INFO) -> None:
        """Tell what account events have done to prices, where it amounts to this severity."""
        if account.known and account.moves.pending:
            rules = rules_of(account)
            telling = account.moves.tell(account.terms, rules, now, only_from=only_from, risk_of=account.risk)
            self._tell(account, telling, now)

    def keep(self, account: WatchedAccount) -> None:
        """Keep the baselines that are new, and what has grown since."""
        rows = account.moves.baselines.unkept()
        self._reporter.effects += (Save(kind, f"{account.name}/{pool_id}", row) for kind, pool_id, row in rows)

    def _tell(
        self, account: WatchedAccount, telling: Telling | None, now: Now, present: PoolRisk | None = None
    ) -> None:
        """
        Args:
            present: The risk of the pool that it is about, where it has been computed in this step.
        """
        if telling is None:
            return
        worst = telling.moves[0]
        key = IncidentKey(account.name, RULE, row_slug(worst.move.key))
        change = self._reporter.incidents.note(key, telling.severity, now)
        ages = self._reporter.ages(account, worst.pool, now)
        is_known = present is not None and present.pool == worst.pool
        risk = present if present is not None and is_known else assess(worst.pool, account.terms)
        self._reporter.emit(moved_story(account, change, telling, risk, ages, now), now)
