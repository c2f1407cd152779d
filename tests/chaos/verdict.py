"""What a careful consumer has heard, held against the truth. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.chaos.process import Life
from tests.chaos.truth import LADDERS, Phase, Truth

RULE = "liquidation_distance"
CRITICAL = 4
GRACE_S = 2.5
"""Marks may be this late: pushed every quarter second, stale after one, through a slow network, on a busy machine."""
LATE_MARKS_S = 12.0
"""What a network held back may open an incident, never end one; so long after the danger an opened one may be that."""
QUIET_ENOUGH_S = 5.0
"""A quiet time in which everything must have come right; the daemon may have been started anew just before."""
TOLD_BLIND_S = {"market": 3.5, "private": 5.0, "rest": 5.0}
"""By then a link that brings nothing must have been told of, with the durations of this config."""
UP_S = 4.0
"""A process that has not run for so long may not know yet what it should miss."""


@dataclass(frozen=True)
class Told:
    """One event, however often it was delivered.

    Args:
        decided: When the daemon logged it (monotonic seconds); where that line is missing, when it was heard.
        deliveries: How often it came.
    """

    body: Mapping[str, Any]
    decided: float
    heard: float
    deliveries: int = 1

    @property
    def name(self) -> str:
        return str(self.body["event_id"])

    @property
    def pool(self) -> str:
        return f"{self.body['account']}/{self.body['subject']}"

    @property
    def key(self) -> str:
        return f"{self.body['account']}/{self.body['rule']}/{self.body['subject']}"


@dataclass(frozen=True)
class Finding:
    """Something that a monitor must never do. at: monotonic seconds; None: at no moment in particular."""

    kind: str
    at: float | None
    text: str


@dataclass
class Incident:
    """One story, by its events; resolved: None while it is open."""

    opened: Told
    resolved: Told | None
    peak: int


def incidents(told: Iterable[Told], rule: str) -> dict[str, list[Incident]]:
    """Account and subject → the incidents of a rule, by when they were opened."""
    found: dict[str, Incident] = {}
    for event in sorted(told, key=lambda e: e.decided):
        if event.body["rule"] != rule:
            continue
        incident_id = str(event.body["incident_id"])
        incident = found.setdefault(incident_id, Incident(event, None, 0))
        incident.peak = max(incident.peak, int(event.body["severity_rank"]))
        if event.body["event"] == "resolved":
            incident.resolved = event
    by_subject: dict[str, list[Incident]] = defaultdict(list)
    for incident in found.values():
        by_subject[incident.opened.pool].append(incident)
    return by_subject


def judge(truth: Truth, told: Sequence[Told], lives: Sequence[Life], end: float) -> list[Finding]:
    """Everything that was lost, told twice, called over too early, invented, or not said."""
    distances = {pool: known for pool, known in incidents(told, RULE).items() if pool in LADDERS}
    return [
        *_lost(truth, distances, end),
        *_false_resolved(truth, distances),
        *_doubled(told, distances),
        *_invented(truth, distances),
        *_stuck(truth, distances),
        *_money(truth, told),
        *_not_said_blind(truth, told, lives),
        *_taken(truth, told, lives),
        *_taken_pools(truth, told),
    ]


# ---- danger ----


def covering(phase: Phase, known: Iterable[Incident], end: float) -> Incident | None:
    """The incident that told of a phase: critical, and open at some time of it."""
    until = end if phase.ended is None else phase.ended
    for incident in known:
        over = incident.resolved.decided if incident.resolved is not None else end
        if incident.peak >= CRITICAL and incident.opened.decided <= until and over > phase.began:
            return incident
    return None


def _lost(truth: Truth, known: Mapping[str, list[Incident]], end: float) -> Iterable[Finding]:
    for phase in truth.phases:
        until = end if phase.ended is None else phase.ended
        could_be = any(phase.began <= a and a + QUIET_ENOUGH_S <= min(b, until) for a, b in truth.quiet)
        if could_be and covering(phase, known.get(phase.pool, ()), end) is None:
            yield Finding("lost", phase.began, f"{phase.pool}: danger {phase.number} was not told")


def _false_resolved(truth: Truth, known: Mapping[str, list[Incident]]) -> Iterable[Finding]:
    for pool, listed in known.items():
        for incident in listed:
            if incident.resolved is None:
                continue
            since = truth.in_danger_since(pool, incident.resolved.decided)
            if since is not None and since > GRACE_S:
                yield Finding(
                    "false resolved",
                    incident.resolved.decided,
                    f"{incident.resolved.name} {since:.1f} s into the danger: {incident.resolved.body['text']}",
                )


def _invented(truth: Truth, known: Mapping[str, list[Incident]]) -> Iterable[Finding]:
    for pool, listed in known.items():
        for incident in listed:
            at = incident.opened.decided
            near = [
                p
                for p in truth.phases
                if p.pool == pool and p.began <= at and (p.ended is None or at < p.ended + LATE_MARKS_S)
            ]
            if not near:
                yield Finding("invented", at, f"{incident.opened.name}: {incident.opened.body['text']}")


def _stuck(truth: Truth, known: Mapping[str, list[Incident]]) -> Iterable[Finding]:
    """At the end of a quiet time with the pool calm throughout, nothing may be open."""
    for began, ended in truth.quiet:
        if ended - began < QUIET_ENOUGH_S:
            continue
        for pool, listed in known.items():
            if any(p.pool == pool and p.began < ended and (p.ended is None or p.ended > began) for p in truth.phases):
                continue
            for incident in listed:
                over = None if incident.resolved is None else incident.resolved.decided
                if incident.opened.decided < ended and (over is None or over > ended):
                    yield Finding("stuck", ended, f"{incident.opened.name} is open, and the pool has long been calm")


# ---- told twice ----


def _doubled(told: Sequence[Told], known: Mapping[str, list[Incident]]) -> Iterable[Finding]:
    open_now: dict[str, Told] = {}
    for event in sorted(told, key=lambda e: e.decided):
        kind, key = event.body["event"], event.key
        if kind == "opened":
            if key in open_now:
                yield Finding("doubled", event.decided, f"{event.name} opened while {open_now[key].name} is open")
            open_now[key] = event
        elif kind == "resolved":
            open_now.pop(key, None)
    for pool, listed in known.items():
        phases = Counter(_phase(pool, incident.opened) for incident in listed)
        for phase, times in phases.items():
            if phase is not None and times > 1:
                names = [i.opened.name for i in listed if _phase(pool, i.opened) == phase]
                yield Finding("doubled", None, f"{pool}: danger {phase} opened {times} incidents: {', '.join(names)}")
    last: dict[str, tuple[int, str]] = {}
    for event in sorted(told, key=lambda e: e.heard):
        incident_id, _, n = event.name.rpartition(".")
        known_n, before = last.get(incident_id, (0, ""))
        if int(n) < known_n:
            yield Finding("out of order", event.heard, f"{event.name} came after {before}")
        last[incident_id] = (max(known_n, int(n)), event.name)


def _phase(pool: str, event: Told) -> int | None:
    mark = (event.body.get("after") or {}).get("mark_price")
    return None if mark is None else LADDERS[pool].phase(Decimal(mark))


# ---- money ----


def causes(told: Iterable[Told], pool: str) -> list[tuple[str, str, Decimal]]:
    """Event id, kind and amount of every cause that was told of a pool; it has one position."""
    ladder = LADDERS[pool]
    found = []
    for event in told:
        if event.body["rule"] != "liquidation_price_moved" or event.body["account"] != ladder.account:
            continue
        for entry in (event.body, *(event.body.get("also") or ())):
            if entry.get("symbol") == ladder.symbol:
                listed = [c for c in entry["cause"] if c.get("amount") is not None]
                found += [(event.name, str(c["kind"]), Decimal(c["amount"])) for c in listed]
    return found


def _money(truth: Truth, told: Sequence[Told]) -> Iterable[Finding]:
    for pool, moved in truth.moved.items():
        listed = causes(told, pool)
        total = sum((amount for *_, amount in listed), Decimal(0))
        if total != moved:
            kind = "lost" if listed or moved else "wrong sum"
            true = ", ".join(f"{what} {amount}" for at, what, amount in truth.payments if at == pool)
            heard = ", ".join(f"{name} {cause} {amount}" for name, cause, amount in listed)
            yield Finding(kind, None, f"{pool}: moved {moved} ({true}), causes say {total} ({heard})")


# ---- forced orders ----


def _taken(truth: Truth, told: Sequence[Told], lives: Sequence[Life]) -> Iterable[Finding]:
    """What the exchange has taken is one story each, and each hedge that it has broken one event. What an earlier run
    has seen may end without its report."""
    stories = incidents(told, "forced_order")
    broken = Counter(event.pool for event in told if event.body["rule"] == "hedge_broken")
    for taken in truth.taken.values():
        known = stories.pop(f"taken/{taken.position}", [])
        said = [_ending(incident) for incident in known]
        ends = [life.ended for life in lives if life.ended is not None]
        restarted = any(i.resolved and i.opened.decided <= at <= i.resolved.decided for i in known for at in ends)
        if said != [(taken.how, taken.quantity)] and not (restarted and said == [(taken.how, None)]):
            text = f"{taken.position}: {taken.how} {taken.quantity}, told as {said}"
            yield Finding("doubled" if len(said) > 1 else "lost", taken.began, text)
        times, due = broken.pop(f"taken/{taken.symbol.lower()}", 0), int(taken.how == "adl")
        if times != due:
            text = f"{taken.position}: its hedge was told as broken {times} times"
            yield Finding("lost" if times < due else "doubled", taken.began, text)
    for strange in (*stories, *broken):
        yield Finding("invented", None, f"{strange}: a forced order")


def _ending(incident: Incident) -> tuple[str, Decimal | None] | None:
    """How a story of a forced order ended, and the quantity that it reported, if any; None: it is no whole story."""
    if incident.opened.body["event"] != "opened" or incident.resolved is None:
        return None
    body = incident.resolved.body
    return str(body["resolution"]), Decimal(body["report"]["quantity"]) if body.get("report") else None


def _taken_pools(truth: Truth, told: Sequence[Told]) -> Iterable[Finding]:
    """A pool that was liquidated neither recovered nor was closed by its owner. That it is gone, and no more, may be
    told while the exchange refuses its list of orders alone: all else is not kept back for that."""
    pools = {f"taken/isolated-{taken.position}" for taken in truth.taken.values() if taken.how == "liquidated"}
    for event in told:
        how = event.body.get("resolution")
        if event.pool not in pools or how in (None, "liquidated", "partly_liquidated"):
            continue
        if how != "position_gone" or not any(a < event.decided < b + GRACE_S for a, b in truth.unlisted):
            yield Finding("false resolved", event.decided, f"{event.name}, liquidated, is told as {how}")


# ---- blindness ----


def not_judged(truth: Truth, lives: Sequence[Life]) -> int:
    """Blind times too short, or with the daemon away, to demand anything."""
    return sum(1 for blind in truth.blind if _demanded(blind.link, blind.began, blind.ended, lives) is None)


def _demanded(link: str, began: float, ended: float, lives: Sequence[Life]) -> float | None:
    """By when a blind time must have been told; None: it was too short for one life of the daemon."""
    limit = TOLD_BLIND_S[link.partition("/")[2].partition("-")[0]]
    for life in lives:
        if life.began + UP_S <= began and began + limit <= min(ended, life.ended or ended):
            return began + limit
    return None


def _not_said_blind(truth: Truth, told: Sequence[Told], lives: Sequence[Life]) -> Iterable[Finding]:
    known = incidents(told, "data_stale")
    for blind in truth.blind:
        due = _demanded(blind.link, blind.began, blind.ended, lives)
        if due is None:
            continue
        said = [
            i
            for i in known.get(blind.link, ())
            if i.opened.decided <= due and (i.resolved is None or i.resolved.decided > blind.began)
        ]
        if not said:
            yield Finding(
                "not said blind",
                due,
                f"{blind.link} brought nothing for {blind.ended - blind.began:.1f} s: {blind.fault}",
            )


# ---- figures ----


def noticed(truth: Truth, told: Sequence[Told], end: float) -> list[float]:
    """For each phase in danger that opened an incident of its own, how long that took (seconds)."""
    known = incidents(told, RULE)
    taken = []
    for phase in truth.phases:
        incident = covering(phase, known.get(phase.pool, ()), end)
        if incident is not None and incident.opened.decided >= phase.began:
            taken.append(incident.opened.decided - phase.began)
    return taken


def noticed_blind(truth: Truth, told: Sequence[Told]) -> list[float]:
    """For each blind time that opened an incident of its own, how long that took (seconds)."""
    known = incidents(told, "data_stale")
    taken = []
    for blind in truth.blind:
        within = [i.opened.decided for i in known.get(blind.link, ()) if blind.began <= i.opened.decided <= blind.ended]
        taken += [at - blind.began for at in within[:1]]
    return taken
