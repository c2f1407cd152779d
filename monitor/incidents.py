"""The life of an incident: one condition that persists is one story.

    opened → worsened → improved → repeated → resolved

A value between a step's two levels changes nothing, silence is not recovery, and a severity that comes back within
minutes is not told again. Time is passed in; nothing here knows what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from monitor.events import Now
from monitor.incident import FORCED, Change, Incident, IncidentKey, Kind, Resolution, incident_id
from monitor.rules import Rule, Severity, Step


class Quiet(Struct, frozen=True):
    """Where observing a subject changes nothing: for values strictly between the two, and before the time.

    Args:
        above, below: None: there is no such bound. A measure that falls as things get worse may also be None: that is
            above everything.
        distance_above: The same bound on the distance to liquidation that is observed with it; None: no bound.
        until: Monotonic seconds.
        severity: Of the open incident; OK: there is none.
        while_trusted: It is so only while what is observed is trusted.
    """

    above: Decimal | None = None
    below: Decimal | None = None
    distance_above: Decimal | None = None
    until: float = math.inf
    severity: Severity = Severity.OK
    while_trusted: bool = False


class _Look(NamedTuple):
    """What a look at a subject has shown, with its distance to liquidation, and when that was."""

    value: Decimal | None
    distance: Decimal | None
    now: Now


class Incidents:
    """All open incidents, and the names given so far."""

    def __init__(self) -> None:
        self.open: dict[IncidentKey, Incident] = {}
        self._by_account: dict[str, dict[IncidentKey, Incident]] = {}
        self.is_hushed: Callable[[IncidentKey, Kind, Severity, Now], bool] = lambda key, kind, severity, now: False
        self.unacked_s: float | None = None
        self._pending: dict[IncidentKey, dict[int, float]] = {}
        self._last_opened: dict[IncidentKey, int] = {}
        self._floor_ms = 0

    def __iter__(self) -> Iterator[Incident]:
        return iter(list(self.open.values()))

    def of(self, account: str) -> list[Incident]:
        """The open incidents of one account."""
        return list(self._by_account.get(account, {}).values())

    def drop(self, key: IncidentKey) -> Incident | None:
        """Forget an open incident, if there is one, and say nothing of it."""
        self._by_account.get(key.account, {}).pop(key, None)
        return self.open.pop(key, None)

    def _add(self, key: IncidentKey, incident: Incident) -> None:
        self.open[key] = self._by_account.setdefault(key.account, {})[key] = incident

    def observe(
        self,
        key: IncidentKey,
        rule: Rule,
        value: Decimal | None,
        now: Now,
        *,
        trusted: bool = True,
        at_least: Severity = Severity.OK,
        distance: Decimal | None = None,
        continues: str | None = None,
    ) -> Change | None:
        """Hold a value against a rule.

        Args:
            value: Of the rule's measure; None: there is none, which is as safe as can be.
            trusted: False: an input is stale; the incident may open or worsen, never improve or end.
            at_least: A firing step counts for this severity at least.
            distance: Distance to liquidation, for the repeat when it has halved.
            continues: The incident that one which opens now goes on with.
        """
        incident = self.open.get(key)
        if not rule.enabled:
            return self.resolve(key, "rule_changed", value, now)
        target = self._target(key, rule, value, now)
        if target is not Severity.OK:
            target = max(target, at_least)
        if incident is None and target is Severity.OK:
            return None
        look = _Look(value, distance, now)
        if incident is None:
            return self._open(key, target, look, continues, _step_for(rule, target))
        worse = value is not None and (incident.worst is None or _is_worse(rule, value, incident.worst))
        if worse:
            incident.worst = value
        if target == incident.severity and incident.silent and worse and not incident.hushed:
            return self._told(incident, "worsened", look)
        if target > incident.severity:
            return self._worsen(incident, rule, target, look, worse)
        if not trusted:
            incident.past_clear.clear()
        elif (change := self._calm(incident, rule, target, look)) is not None:
            return change
        return self._remind(incident, rule, look)

    def quiet(self, key: IncidentKey, rule: Rule) -> Quiet | None:
        """Where `observe` would do nothing at all. None: nowhere that is known.

        It says less than there is rather than more: an incident that is kept back by a silence, or has a hold of
        `for_s` running, is quiet nowhere.
        """
        incident = self.open.get(key)
        if key in self._pending:
            return None
        if not rule.enabled:
            return Quiet() if incident is None else None
        severity = Severity.OK if incident is None else incident.severity
        # With a hold, each firing begins one.
        new = [step for step in rule.steps if step.severity > severity or rule.for_s]
        above, below = [step.at for step in new if not step.rises], [step.at for step in new if step.rises]
        if incident is None:
            return Quiet(max(above, default=None), min(below, default=None))
        told_by = _step_for(rule, severity)
        if incident.hushed or incident.worst is None or told_by is None:
            return None
        (below if told_by.rises else above).append(incident.worst)
        until = math.inf
        for rank in range(Severity.INFO, severity + 1):
            step, past_since = _step_for(rule, rank), incident.past_clear.get(rank)
            if step is not None:
                (above if step.rises == (past_since is None) else below).append(step.clear)
                until = until if past_since is None else min(until, past_since + rule.clear_for_s)
        if incident.acked_ms is None:
            until = min(until, incident.told_at + rule.repeat_s.get(severity.word, math.inf))
            if self.unacked_s is not None and severity >= Severity.CRITICAL and not incident.called:
                until = min(until, incident.serious_at + self.unacked_s)
        told_distance = incident.told_distance if incident.acked_ms is None and severity >= Severity.WARNING else None
        return Quiet(
            above=max(above, default=None),
            below=min(below, default=None),
            distance_above=told_distance / 2 if told_distance else None,
            until=until - _A_MOMENT_S,
            severity=severity,
            while_trusted=bool(incident.past_clear),
        )

    def is_idle(self, key: IncidentKey) -> bool:
        """Whether nothing is open of it, nor about to be."""
        return key not in self.open and key not in self._pending

    def is_owed(self, key: IncidentKey, now: Now) -> bool:
        """Whether something of an open incident was kept back by a silence that is over."""
        incident = self.open.get(key)
        if incident is None or not incident.hushed:
            return False
        return not self.is_hushed(key, "repeated", incident.severity, now)

    def acknowledge(self, incident_id: str, now: Now) -> Incident | None:
        """Somebody has seen it. None: no such incident is open."""
        for incident in self.open.values():
            if incident.incident_id == incident_id:
                incident.acked_ms = now.wall_ms
                return incident
        return None

    def begin(self, key: IncidentKey, severity: Severity, now: Now) -> Change:
        """Open an incident that is a fact rather than a level; `resolve` ends it.

        One that is open stays as it is, and is told where a silence that is over has kept it back.
        """
        incident, look = self.open.get(key), _Look(None, None, now)
        if incident is None:
            return self._open(key, severity, look)
        if self.is_owed(key, now):
            return self._told(incident, "repeated", look)
        return Change("retained", structs.replace(incident), None)

    def resolve(self, key: IncidentKey, how: Resolution, value: Decimal | None, now: Now) -> Change | None:
        """End an incident, if there is one."""
        incident = self.drop(key)
        self.forget(key)
        if incident is None:
            return None
        told = incident.events > 0 or how in FORCED  # whoever has heard of it hears how it ended
        incident.severity = Severity.OK
        incident.events += told
        since = incident.opened_at
        lasted_s = max(0.0, (now.wall_ms - incident.opened_ms) / 1000) if since is None else now.mono - since
        return Change("resolved", structs.replace(incident), value, how, is_told=told, lasted_s=lasted_s)

    def copy(self, key: IncidentKey) -> Incident:
        """An open incident as it is now."""
        return structs.replace(self.open[key])

    def forget(self, key: IncidentKey) -> None:
        """The subject is not there any more: what was about to be told of it begins anew if it comes back."""
        self._pending.pop(key, None)

    def named(self, key: IncidentKey, now: Now) -> int:
        """What an incident that may come is named after (Unix milliseconds); no other will be."""
        opened_ms = max(now.wall_ms, self._last_opened.get(key, 0) + 1, self._floor_ms + 1)
        self._last_opened[key] = opened_ms
        return opened_ms

    def note(self, key: IncidentKey, severity: Severity, now: Now, *, opened_ms: int | None = None) -> Change:
        """A one-off fact: an incident of a single message, which is never open.

        Args:
            opened_ms: What it was named after, where it has its name already.
        """
        incident = _begun(key, self.named(key, now) if opened_ms is None else opened_ms, severity, now)
        incident.events = 1
        return Change("noted", incident, None, is_told=not self.is_hushed(key, "noted", severity, now))

    def restore(self, rows: list[bytes], now: Now, last_named_ms: int) -> None:
        """Take back what an earlier run kept. Holds begin anew; repeats go on from when it was last told.

        Args:
            last_named_ms: The latest time an incident was named after: names go on from there, whatever the clock says.
        """
        self._floor_ms = last_named_ms
        for row in rows:
            try:
                kept = msgspec.json.decode(row, type=_Saved)
            except msgspec.MsgspecError:  # of a version that kept it otherwise: told again is better than never started
                continue
            incident = kept.incident
            ago = max(0.0, (now.wall_ms - kept.wall_ms) / 1000)
            shift = now.mono - ago - kept.mono
            incident.told_at += shift
            incident.opened_at = None if incident.opened_at is None else incident.opened_at + shift
            incident.serious_at += shift
            incident.left = {rank: at + shift for rank, at in incident.left.items()}
            incident.past_clear = {}
            key = incident.key
            self._add(key, incident)
            self._last_opened[key] = incident.opened_ms

    def _target(self, key: IncidentKey, rule: Rule, value: Decimal | None, now: Now) -> Severity:
        """The highest severity whose step fires, and has for `for_s`."""
        target, known = Severity.OK, self._pending.get(key, {})
        pending: dict[int, float] = {}
        for step in rule.steps:
            if step.fires(value):
                since = known.get(step.severity, now.mono)
                if rule.for_s:
                    pending[step.severity] = since
                if now.mono - since >= rule.for_s:
                    target = max(target, step.severity)
        if pending:
            self._pending[key] = pending  # of no step that the rule had at another time
        else:
            self._pending.pop(key, None)
        return target

    def _open(
        self, key: IncidentKey, severity: Severity, look: _Look, continues: str | None = None, step: Step | None = None
    ) -> Change:
        incident = _begun(key, self.named(key, look.now), severity, look.now)
        incident.worst, incident.opened_at = look.value, look.now.mono
        incident.continues, incident.step = continues, step
        self._add(key, incident)
        return self._told(incident, "opened", look)

    def _worsen(self, incident: Incident, rule: Rule, target: Severity, look: _Look, worse_than_ever: bool) -> Change:
        left = incident.left.get(target)
        back = left is not None and look.now.mono - left < rule.reenter_s and target <= incident.peak
        incident.severity = target
        incident.step = _step_for(rule, target)
        incident.peak = max(incident.peak, target)
        incident.past_clear.clear()
        if back and not worse_than_ever:
            incident.silent = True
            return Change("retained", structs.replace(incident), look.value)
        return self._told(incident, "worsened", look)

    def _calm(self, incident: Incident, rule: Rule, target: Severity, look: _Look) -> Change | None:
        """End or improve it, where it has been past its levels for long enough."""
        calmer = self._calmer(incident, rule, target, look)
        if calmer is Severity.OK:
            judged = _step_for(rule, incident.severity) is not None
            # Nothing has recovered that would still be told of by the level that it was told by.
            judged = judged and (incident.step is None or incident.step.is_past_clear(look.value))
            return self.resolve(incident.key, "recovered" if judged else "rule_changed", look.value, look.now)
        if calmer == incident.severity:
            return None
        for rank in range(calmer + 1, incident.severity + 1):
            incident.left[rank] = look.now.mono
        incident.severity = calmer
        return self._told(incident, "improved", look)

    def _calmer(self, incident: Incident, rule: Rule, target: Severity, look: _Look) -> Severity:
        """The highest severity, up to the present one, that is still its due, or has not been past its clear level for
        long enough."""
        kept = Severity.OK
        for rank in range(Severity.INFO, incident.severity + 1):
            step = _step_for(rule, rank)
            if step is None:
                continue
            if rank <= target or not step.is_past_clear(look.value):
                incident.past_clear.pop(rank, None)
                kept = Severity(rank)
            elif look.now.mono - incident.past_clear.setdefault(rank, look.now.mono) < rule.clear_for_s:
                kept = Severity(rank)
        return kept

    def _remind(self, incident: Incident, rule: Rule, look: _Look) -> Change | None:
        """Tell once more of what has not changed, where that is due."""
        key, now = incident.key, look.now
        if self.is_owed(key, now):
            is_ending = incident.severity in incident.past_clear
            return None if is_ending else self._told(incident, "repeated", look)
        # What a silence would keep back does not happen: it is due still when the silence ends.
        if self._is_unheard(incident, now) and not self.is_hushed(key, "unacknowledged", incident.severity, now):
            incident.called = True
            return self._told(incident, "unacknowledged", look)
        if self._is_due(incident, rule, look) and not self.is_hushed(key, "repeated", incident.severity, now):
            return self._told(incident, "repeated", look)
        return None

    def _is_unheard(self, incident: Incident, now: Now) -> bool:
        """Whether it is critical, and nobody has acknowledged it for too long."""
        return (
            self.unacked_s is not None
            and incident.severity >= Severity.CRITICAL
            and incident.acked_ms is None
            and not incident.called
            and now.mono - incident.serious_at >= self.unacked_s
        )

    def _is_due(self, incident: Incident, rule: Rule, look: _Look) -> bool:
        """Whether it is to be repeated: it was last told long ago, or the distance has halved since."""
        if incident.acked_ms is not None:
            return False
        if incident.severity in incident.past_clear:
            return False  # it is about to end or to improve, which will be told
        every = rule.repeat_s.get(incident.severity.word)
        if every is not None and look.now.mono - incident.told_at >= every:
            return True
        told = incident.told_distance
        halved = bool(told and look.distance is not None and look.distance <= told / 2)
        return halved and incident.severity >= Severity.WARNING

    def _told(self, incident: Incident, kind: Kind, look: _Look) -> Change:
        """Tell of an incident, unless a silence keeps it back. What is told of it first opens the story."""
        kind, now = kind if incident.events else "opened", look.now
        if kind in ("opened", "worsened"):
            incident.acked_ms, incident.called, incident.serious_at = None, False, now.mono
        if self.is_hushed(incident.key, kind, incident.severity, now):
            incident.hushed = True
            return Change("retained", structs.replace(incident), look.value)
        if incident.hushed:
            incident.serious_at = now.mono  # until now nobody could have acknowledged it
        incident.events += 1
        incident.told_at = now.mono
        incident.told_distance = look.distance
        incident.silent = incident.hushed = False
        return Change(kind, structs.replace(incident), look.value)


_A_MOMENT_S = 0.001
"""So much earlier than a sum of times says: `observe` looks at a difference, of which the last digit may be another."""


class _Saved(Struct, frozen=True):
    """An incident with the moment at which its monotonic times were true."""

    incident: Incident
    mono: float
    wall_ms: int


def saved(incident: Incident, now: Now) -> bytes:
    """An incident as it is kept in the store."""
    return msgspec.json.encode(_Saved(incident, now.mono, now.wall_ms))


def _begun(key: IncidentKey, opened_ms: int, severity: Severity, now: Now) -> Incident:
    return Incident(incident_id(key, opened_ms), *key, opened_ms, severity, severity, worst=None, told_at=now.mono)


def _step_for(rule: Rule, rank: int) -> Step | None:
    """The step of this severity; where the rule has none (a severity raised by circumstances), the one below it."""
    found: Step | None = None
    for step in rule.steps:
        if step.severity <= rank and (found is None or step.severity > found.severity):
            found = step
    return found


def _is_worse(rule: Rule, value: Decimal, worst: Decimal) -> bool:
    rises = not rule.steps or rule.steps[0].rises
    return value > worst if rises else value < worst
