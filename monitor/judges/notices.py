"""What the exchange itself says of our positions, passed on beside our own figures."""

from __future__ import annotations

from monitor.accounts import WatchedAccount
from monitor.events import MarginCall, Now
from monitor.incident import IncidentKey
from monitor.reporter import Reporter
from monitor.risk.pools import row_slug
from monitor.rules import MarginCallRule, Severity
from monitor.telling import margin_call_story


class NoticesJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._called: dict[IncidentKey, float] = {}

    def margin_call(self, account: WatchedAccount, event: MarginCall, now: Now) -> None:
        """Tell of each position that a margin call names, now and then."""
        for position_key, maintenance, pnl in event.positions:
            rule = account.rule_of("exchange_margin_call", position_key.symbol)
            assert isinstance(rule, MarginCallRule)
            key = IncidentKey(account.name, "exchange_margin_call", row_slug(position_key))
            told = self._called.get(key)
            if rule.enabled and (told is None or now.mono - told >= rule.every_s):
                self._called[key] = now.mono
                change = self._reporter.incidents.note(key, Severity.WARNING, now)
                ages = self._reporter.ages(account, None, now)
                story = margin_call_story(account, change, event.at_ms, position_key, maintenance, pnl, ages, now)
                self._reporter.emit(story, now)
