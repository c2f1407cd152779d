"""What an incident is, and one step of its life."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal, NamedTuple

from msgspec import Struct

from monitor.rules import Severity, Step

Kind = Literal["opened", "worsened", "improved", "repeated", "unacknowledged", "resolved", "noted", "retained"]
"""What happened to an incident. `retained`: its state changed, and nobody is told. `unacknowledged`: it is critical,
and nobody has said that they have seen it."""

Resolution = Literal[
    "recovered",
    "position_closed",
    "position_gone",
    "partly_liquidated",
    "liquidated",
    "adl",
    "settled",
    "pool_replaced",
    "rule_changed",
]

FORCED: frozenset[Resolution] = frozenset({"partly_liquidated", "liquidated", "adl", "settled"})
"""Resolutions that are no recovery: the exchange acted."""


class IncidentKey(NamedTuple):
    account: str
    rule: str
    subject: str


class Incident(Struct, gc=False):
    """An open incident. Times are monotonic seconds, but for `opened_ms`.

    Args:
        incident_id: `<account>.<subject>.<rule>.<opened, unix ms>`.
        severity: Now; `peak` is the highest it has been.
        step: What it was told by when it opened or last worsened; None: a fact, or of an earlier version.
        events: How many messages it has had; `event_id` of the last is `<incident_id>.<events>`.
        worst: The worst value so far.
        told_at: When it was last told.
        told_distance: The subject's distance to liquidation then.
        opened_at: When it opened; None: kept by a version that did not say.
        serious_at: When it opened, or last worsened.
        past_clear: Severity rank → since when the value has been past that step's clear level.
        left: Severity rank → when that severity was last left.
        silent: It is back at a severity without anybody having been told; once it is worse than ever, they are.
        hushed: Something of it was kept back by a silence; it is told when that ends.
        acked_ms: When somebody said that they have seen it; until it worsens it is not repeated.
        called: Nobody had, and it was told again, louder.
        continues: The incident of another pool that this one goes on with: its positions were moved here.
        venue: Of its account, when it was last told; so are `labels`. Empty: kept by a version that did not say.
        title: Of its last message; so is `text`.
    """

    incident_id: str
    account: str
    rule: str
    subject: str
    opened_ms: int
    severity: Severity
    peak: Severity
    worst: Decimal | None
    told_at: float
    told_distance: Decimal | None = None
    opened_at: float | None = None
    serious_at: float = 0.0
    events: int = 0
    past_clear: dict[int, float] = {}
    left: dict[int, float] = {}
    silent: bool = False
    hushed: bool = False
    acked_ms: int | None = None
    called: bool = False
    continues: str | None = None
    step: Step | None = None
    symbol: str | None = None
    side: str | None = None
    venue: str = ""
    labels: dict[str, str] = {}
    title: str = ""
    text: str = ""

    @property
    def key(self) -> IncidentKey:
        return IncidentKey(self.account, self.rule, self.subject)

    @property
    def event_id(self) -> str:
        return f"{self.incident_id}.{self.events}"


class Change(Struct, frozen=True, gc=False):
    """One step of an incident's life. `incident` is as it was right after it.

    Args:
        is_told: False: a silence keeps it back.
        lasted_s: Of `resolved`, seconds since it opened, whatever the wall clock did meanwhile.
    """

    kind: Kind
    incident: Incident
    value: Decimal | None
    resolution: Resolution | None = None
    is_told: bool = True
    lasted_s: float = 0.0

    @property
    def severity(self) -> Severity:
        """Severity that is told: after the change, for `resolved` the peak."""
        if self.kind == "unacknowledged":
            return Severity(min(self.incident.severity + 1, Severity.LIQUIDATION))
        if self.kind != "resolved":
            return self.incident.severity
        return max(self.incident.peak, Severity.CRITICAL) if self.resolution in FORCED else self.incident.peak


def gravest(incidents: Iterable[Incident]) -> Severity:
    """The highest severity of these; OK: there are none."""
    return max((incident.severity for incident in incidents), default=Severity.OK)


def incident_id(key: IncidentKey, opened_ms: int) -> str:
    return f"{key.account}.{key.subject}.{key.rule}.{opened_ms}"
