"""The rule `group`: many accounts that cross a level within seconds of each other are one story more, told once.

Nothing is kept back for it: each account's event goes out at once and names the group that it may turn out to belong
to. Once the window is over, the group says how many they were, and which market has moved.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal

import msgspec
from msgspec import Struct, field

from monitor.accounts import WatchedAccount
from monitor.effects import INSTANCE, Fact, Save, Story
from monitor.events import Now
from monitor.humanize import listed
from monitor.incident import IncidentKey, incident_id
from monitor.market import MarketBook
from monitor.reporter import Reporter
from monitor.rules import Severity
from monitor.telling import instance_story

RULE = "group"
_SAMPLE_S = 10.0
_SAMPLES = 7
"""Marks of up to a minute ago: what has moved since then explains the group."""
_NAMED = 3
_A_MOMENT_S = 0.01
"""By how much times that have been through the clock may differ."""


class Group(Struct, frozen=True):
    """When accounts are a group.

    Args:
        window_s: Those that cross within so long of the first (seconds).
        min_accounts: So many accounts at least.
    """

    enabled: bool = True
    window_s: float = 2.0
    min_accounts: int = 5


class _Window(Struct):
    """Accounts that have crossed a level of one rule lately.

    Args:
        members: Account → its worst severity.
        symbols: How often each was named, with the market that it trades on.
    """

    key: IncidentKey
    opened_ms: int
    until: float
    members: dict[str, Severity] = {}
    symbols: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def group_id(self) -> str:
        return incident_id(self.key, self.opened_ms)


class _Begun(Struct, frozen=True):
    """A window as it is kept. Who is in it, the incidents say.

    Args:
        at_ms: When it began, by the clock; its name may be a later one.
    """

    opened_ms: int
    at_ms: int


class GroupsJudge:
    """Counts who crosses what, and tells of many."""

    def __init__(
        self,
        reporter: Reporter,
        accounts: Mapping[str, WatchedAccount],
        markets: Mapping[str, MarketBook],
        group: Group,
    ) -> None:
        self._reporter = reporter
        self._accounts = accounts
        self._markets = markets
        self._group = group
        self._windows: dict[str, _Window] = {}
        self._earlier: deque[tuple[float, dict[str, dict[str, Decimal]]]] = deque(maxlen=_SAMPLES)

    def joined(self, story: Story, now: Now) -> str | None:
        """The group that a story may turn out to belong to, an id; None: to none."""
        change, account = story.change, story.account.name
        if change.kind not in ("opened", "worsened") or not change.is_told or account not in self._accounts:
            return None
        if not self._group.enabled or len(self._accounts) < self._group.min_accounts:
            return None
        rule = change.incident.rule
        window = self._windows.get(rule)
        if window is None or now.mono >= window.until:
            self._close(window, now)
            key = _key(rule)
            opened_ms = self._reporter.incidents.named(key, now)
            window = self._windows[rule] = _Window(key, opened_ms, now.mono + self._group.window_s)
            self._keep(key, msgspec.json.encode(_Begun(opened_ms, now.wall_ms)))
        window.members[account] = max(window.members.get(account, Severity.OK), change.severity)
        if story.symbol is not None:
            window.symbols[story.account.market, story.symbol] += 1
        return window.group_id

    def restore(self, rows: Mapping[str, bytes], now: Now) -> None:
        """Take back the windows in which an earlier run has ended; the next tick tells of them."""
        for rule in dict.fromkeys(incident.rule for incident in self._reporter.incidents):
            with suppress(KeyError, msgspec.MsgspecError):
                begun = msgspec.json.decode(rows["/".join(_key(rule))], type=_Begun)
                self._windows[rule] = self._again(rule, begun, now)

    def _again(self, rule: str, begun: _Begun, now: Now) -> _Window:
        """A window with those whose incidents have opened or worsened in it."""
        window = _Window(_key(rule), begun.opened_ms, now.mono)
        since = now.mono - (now.wall_ms - begun.at_ms) / 1000
        for incident in self._reporter.incidents:
            account = self._accounts.get(incident.account)
            is_in_time = -_A_MOMENT_S <= incident.serious_at - since <= self._group.window_s + _A_MOMENT_S
            if account is None or incident.rule != rule or incident.hushed or not is_in_time:
                continue
            window.members[incident.account] = max(window.members.get(incident.account, Severity.OK), incident.severity)
            if incident.symbol is not None:
                window.symbols[account.setup.market, incident.symbol] += 1
        return window

    def _keep(self, key: IncidentKey, row: bytes | None) -> None:
        self._reporter.effects.append(Save("group", "/".join(key), row))

    def judge(self, now: Now) -> None:
        """Tell of the groups whose window is over; asked once a tick."""
        for rule, window in list(self._windows.items()):
            if now.mono >= window.until:
                del self._windows[rule]
                self._close(window, now)
        if self._group.enabled and (not self._earlier or now.mono - self._earlier[-1][0] >= _SAMPLE_S):
            self._earlier.append((now.mono, {name: dict(market.prices) for name, market in self._markets.items()}))

    def _close(self, window: _Window | None, now: Now) -> None:
        if window is None:
            return
        self._keep(window.key, None)
        if len(window.members) < self._group.min_accounts or not self._accounts:
            return
        # The highest severity that enough of them have reached; of the few that are worse each has its own event.
        by_rank = sorted(window.members.values(), reverse=True)
        severity = by_rank[self._group.min_accounts - 1]
        named = [name for name, reached in window.members.items() if reached >= severity]
        facts: dict[str, Fact] = {
            "crossed": window.key.subject.replace("-", "_"),
            "accounts": len(named),
            "of": len(self._accounts),
            "names": listed(named, _NAMED),
            "moved": None,
            "move": None,
        }
        facts |= self._moved(window)
        change = self._reporter.incidents.note(window.key, severity, now, opened_ms=window.opened_ms)
        account = self._accounts.get(named[0]) or next(iter(self._accounts.values()))
        ages = self._reporter.ages(account, None, now)
        self._reporter.emit(instance_story(account, change, facts, ages, now), now)

    def _moved(self, window: _Window) -> dict[str, Fact]:
        """The symbol that most of them named, and how far its mark is from where it was up to a minute ago."""
        for (market, symbol), _ in window.symbols.most_common(1):
            mark = self._markets[market].prices.get(symbol)
            before = next(
                (marks[market][symbol] for _, marks in self._earlier if symbol in marks.get(market, {})), None
            )
            if mark is not None and before:
                return {"moved": symbol, "move": mark / before - 1}
        return {}


def _key(rule: str) -> IncidentKey:
    return IncidentKey(INSTANCE, RULE, rule.replace("_", "-"))
