"""The rule `summary`: once a day, what is watched and how it stands. Proof of life, told also when all is well."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo

import msgspec
from msgspec import Struct

from monitor.accounts import WatchedAccount
from monitor.daily_story import daily_story
from monitor.effects import Ages, Save
from monitor.events import Now
from monitor.incident import IncidentKey
from monitor.publication import concerning
from monitor.reporter import Reporter
from monitor.rules import Severity

RULE = "summary"
SUBJECT = "daily"

_LATE_MS = 3_600_000
"""A day that was missed is not told later than this."""
_PATIENCE_S = 60.0
"""How long it waits for data that is not there yet; then it says so."""
_DATES_KEPT = 8
"""Days that are remembered as told: more than a clock that is set back is likely to come by again."""


class Daily(Struct, frozen=True):
    """When the summary of a day is told: the time of day, and the zone it is meant in."""

    at: time
    zone: tzinfo

    def due(self, wall_ms: int) -> date | None:
        """The local date whose summary is due at this moment: its time has come, less than an hour ago.

        A time that the clocks leave out in spring comes as much later as they are put forward; of one that comes twice
        in autumn the first counts, and the date is the same for both.
        """
        today = datetime.fromtimestamp(wall_ms // 1000, self.zone).date()
        for day in (today, today - timedelta(days=1)):
            due_ms = round(datetime.combine(day, self.at, self.zone).timestamp() * 1000)
            if due_ms <= wall_ms < due_ms + _LATE_MS:
                return day
        return None


class DailyJudge:
    """Tells each account's summary, once for each local date, across restarts and whatever the clock does.

    Args:
        daily: None: it is switched off.
        now: When the daemon started.
    """

    def __init__(self, reporter: Reporter, daily: Daily | None, now: Now) -> None:
        self._reporter = reporter
        self._daily = daily
        self._started = now.mono
        self._told: dict[str, list[str]] = {}
        self._day: date | None = None
        self._since = 0.0

    def restore(self, kept: Mapping[str, bytes]) -> None:
        """Take back which dates an earlier run has told: account → row."""
        for account, row in kept.items():
            self._told[account] = [*_dates(row), *self._told.get(account, [])]

    def look(self, now: Now) -> None:
        """See which date is due, before the accounts are judged; asked once a tick."""
        day = None if self._daily is None else self._daily.due(now.wall_ms)
        if day != self._day:
            self._day, self._since = day, now.mono

    def judge(self, account: WatchedAccount, now: Now) -> None:
        """Tell an account's summary, where it is due."""
        if self._day is None:
            return
        told, date_due = self._told.setdefault(account.name, []), self._day.isoformat()
        if date_due in told:
            return
        ages = self._reporter.ages(account, None, now)
        if ages.freshness == "live" or now.mono - self._since >= _PATIENCE_S:
            told.append(date_due)
            del told[:-_DATES_KEPT]
            self._reporter.effects.append(Save("daily", account.name, msgspec.json.encode(told)))
            self._tell(account, self._day, ages, now)

    def _tell(self, account: WatchedAccount, day: date, ages: Ages, now: Now) -> None:
        change = self._reporter.incidents.note(IncidentKey(account.name, RULE, SUBJECT), Severity.INFO, now)
        incidents = concerning(account, self._reporter.incidents)
        uptime_s = max(0, int(now.mono - self._started))
        links = self._reporter.links.all
        reconnects = sum(links[link].reconnects for link in account.setup.links if link in links)
        self._reporter.emit(daily_story(account, change, day, incidents, ages, uptime_s, reconnects, now), now)


def _dates(row: bytes) -> list[str]:
    try:
        return msgspec.json.decode(row, type=list[str])
    except msgspec.MsgspecError:  # of a version that kept it otherwise: told again is better than never started
        return []
