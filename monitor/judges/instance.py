"""The rules about the daemon itself: its clock against the exchange's, and the store that it keeps its word with."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from monitor.accounts import WatchedAccount, on_market
from monitor.effects import INSTANCE, Fact
from monitor.events import ClockOffset, Now, StoreState
from monitor.incidents import Change, IncidentKey
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.rules import Severity
from monitor.telling import instance_story

_STORE = IncidentKey(INSTANCE, "store_unusable", "store")


class InstanceJudge:
    def __init__(self, reporter: Reporter, accounts: Mapping[str, WatchedAccount]) -> None:
        self._reporter = reporter
        self._incidents = reporter.incidents
        self._accounts = accounts
        self._broken: str | None = None

    def clock(self, event: ClockOffset, now: Now) -> None:
        """A wrong clock invents no staleness here, but the times that we print, and other programs, go by it."""
        account = next(on_market(self._accounts, event.market))
        rule = account.rules.of("clock_offset")
        key = IncidentKey(INSTANCE, "clock_offset", slug(event.market))
        change = self._incidents.observe(key, rule, abs(Decimal(event.offset_ms)), now)
        change = self._reporter.or_retained(change, key)
        self._tell(account, change, {"offset_ms": event.offset_ms}, now)

    def store(self, event: StoreState, now: Now) -> None:
        """What cannot be kept would be told twice, or never, after a restart."""
        account = next(iter(self._accounts.values()))
        self._broken = event.reason
        change: Change | None = None
        is_told = _STORE in self._incidents.open and not self._reporter.is_unconfirmed(_STORE)
        if event.reason is None:
            change = self._incidents.resolve(_STORE, "recovered", None, now)
        elif account.rules.of(_STORE.rule).enabled and not is_told:
            change = self._incidents.begin(_STORE, Severity.WARNING, now)
        self._tell(account, change, {"reason": event.reason}, now)

    def judge(self, now: Now) -> None:
        """Tell what a silence has kept back; asked once a tick, since the store does not repeat that it is broken."""
        if self._broken is not None and self._incidents.is_owed(_STORE, now):
            change = self._incidents.begin(_STORE, Severity.WARNING, now)
            self._tell(next(iter(self._accounts.values())), change, {"reason": self._broken}, now)

    def _tell(self, account: WatchedAccount, change: Change | None, facts: dict[str, Fact], now: Now) -> None:
        if change is not None:
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(instance_story(account, change, facts, ages, now), now)
