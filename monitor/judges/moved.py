"""The rule `liquidation_price_moved`: when what has moved a price is told, and what is kept of it."""

from __future__ import annotations

from monitor.accounts import WatchedAccount
from monitor.effects import Save
from monitor.events import Now
from monitor.incidents import IncidentKey
from monitor.moves import Telling
from monitor.reporter import Reporter
from monitor.risk.pools import row_slug
from monitor.risk.report import PoolRisk
from monitor.rules import LiquidationPriceMovedRule, Severity
from monitor.telling import moved_story

RULE = "liquidation_price_moved"


class MovedJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def check_marks(self, account: WatchedAccount, risk: PoolRisk, now: Now) -> None:
        """Tell what the marks of a pool's other positions have done to its prices, now and then."""
        rule = account.rule(RULE, risk.pool)
        assert isinstance(rule, LiquidationPriceMovedRule)
        if rule.enabled and (len(risk.positions) > 1 or risk.pool.assets) and not risk.missing:
            self._tell(account, account.moves.check_marks(risk, account.terms, rule, now), now)

    def tell(self, account: WatchedAccount, now: Now, *, only_from: Severity = Severity.INFO) -> None:
        """Tell what account events have done to prices, where it amounts to this severity."""
        if account.known and account.moves.pending:
            rules = {pool_id: account.rule(RULE, pool) for pool_id, pool in account.pools.items()}
            moved = {i: rule for i, rule in rules.items() if isinstance(rule, LiquidationPriceMovedRule)}
            self._tell(account, account.moves.tell(account.terms, moved, now, only_from=only_from), now)

    def keep(self, account: WatchedAccount) -> None:
        """Keep the baselines that are new."""
        rows = account.moves.unkept()
        self._reporter.effects += (Save("baseline", f"{account.name}/{pool_id}", row) for pool_id, row in rows)

    def _tell(self, account: WatchedAccount, telling: Telling | None, now: Now) -> None:
        if telling is None:
            return
        worst = telling.moves[0]
        key = IncidentKey(account.name, RULE, row_slug(worst.move.key))
        change = self._reporter.incidents.note(key, telling.severity, now)
        ages, seq = self._reporter.ages(account, worst.pool, now), self._reporter.seq(change)
        self._reporter.emit(moved_story(account, change, telling, ages, now, seq), now)
