"""The rules about the daemon itself: its clock against the exchange's, and the store that it keeps its word with."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from monitor.accounts import WatchedAccount, on_market
from monitor.effects import INSTANCE, Fact
from monitor.events import ClockOffset, Now, StoreState
from monitor.incident import Change, IncidentKey
from monitor.names import slug
from monitor.reporter import Reporter
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
        self._broken = event.reason
        if event.reason is None:
            self._tell_store(self._incidents.resolve(_STORE, "recovered", None, now), now)
        else:
            self.judge(now)

    def judge(self, now: Now) -> None:
        """Tell what a silence has kept back, and end what nobody wants to hear of any more; asked once a tick, since
        the store does not repeat that it is broken."""
        if self._broken is None:
            return
        if next(iter(self._accounts.values())).rules.of(_STORE.rule).enabled:
            self._tell_store(self._reporter.warned(_STORE, now), now)
        else:
            self._tell_store(self._incidents.resolve(_STORE, "rule_changed", None, now), now)

    def _tell_store(self, change: Change | None, now: Now) -> None:
        self._tell(next(iter(self._accounts.values())), change, {"reason": self._broken}, now)

    def _tell(self, account: WatchedAccount, change: Change | None, facts: dict[str, Fact], now: Now) -> None:
        if change is not None:
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(instance_story(account, change, facts, ages, now), now)
