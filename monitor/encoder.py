"""Effects to messages: what is published where, how urgent it is, and whether it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from monitor.effects import (
    AccountGone,
    Effect,
    HealthState,
    IncidentOver,
    PoolGone,
    PoolState,
    PositionGone,
    PositionState,
    Story,
    SummaryState,
)
from monitor.message import NOTICE, Identity, Message, emptied
from monitor.payloads import Payload, states, stories
from monitor.payloads.figures import Rounding
from monitor.risk.pools import row_slug
from monitor.rules import RuleBook, Severity

_FIRST = 9
"""Rank of the daemon's own status: before everything else."""


class Encoder:
    """Effects to messages, for one instance and its rules.

    Args:
        notices: Whether each event is followed by a notice, which has no amounts in it.
    """

    def __init__(self, identity: Identity, rules: RuleBook, *, notices: bool = False) -> None:
        self._id = identity
        self._topics = identity.topics
        self._notices = notices
        self.take_rules(rules)

    def take_rules(self, rules: RuleBook) -> None:
        """Round no figure across a level of these rules."""
        self._rounding = Rounding(rules)

    def of(self, effect: Effect) -> list[Message]:
        """What an effect publishes; nothing for those that are no news to anybody outside."""
        make = _MAKE.get(type(effect))
        return [] if make is None else make(self, effect)

    # ---- the daemon ----

    def status(self, online: bool) -> Message:
        return Message(self._topics.status, b"online" if online else b"offline", retain=True, qos=1, rank=_FIRST)

    def info(self, accounts: Iterable[tuple[str, str]]) -> Message:
        """accounts: Each one's name and venue."""
        return _retained(self._topics.info, states.info(accounts, self._id))

    # ---- what is told ----

    def _story(self, story: Story) -> list[Message]:
        change = story.change
        incident = change.incident
        event = stories.event(story, self._id, self._rounding)
        messages = []
        if change.kind != "retained" and change.is_told:
            messages.append(self._told(story, "event", event))
            if self._notices:
                messages.append(self._told(story, "notice", stories.notice(event, story), NOTICE))
        if change.kind not in ("noted", "resolved"):
            state = stories.incident(event, incident.severity)
            messages.append(_retained(self._topics.incident(incident.key), state, incident.severity))
        return messages

    def _told(self, story: Story, kind: str, payload: Payload, kept_under: str = "") -> Message:
        incident, severity = story.change.incident, story.change.severity
        return Message(
            topic=self._topics.told(incident.account, kind, severity.word, incident.rule),
            body=msgspec.json.encode(payload),
            retain=False,
            qos=1,
            rank=severity,
            event_id=f"{incident.event_id}{kept_under}",
            incident_id=f"{incident.incident_id}{kept_under}",
            opened_ms=incident.opened_ms,
            at_ms=story.at_ms,
        )

    def _incident_over(self, effect: IncidentOver) -> list[Message]:
        return [emptied(self._topics.incident(effect.key))]

    # ---- what is true for now ----

    def _summary(self, state: SummaryState) -> list[Message]:
        return [_retained(self._topics.summary(state.account.name), states.summary(state, self._id, self._rounding))]

    def _health(self, state: HealthState) -> list[Message]:
        return [_retained(self._topics.health(state.account), states.health(state, self._id))]

    def _account_gone(self, effect: AccountGone) -> list[Message]:
        return [emptied(self._topics.summary(effect.account)), emptied(self._topics.health(effect.account))]

    def _pool(self, state: PoolState) -> list[Message]:
        topic = self._topics.pool(state.account.name, state.risk.pool.id)
        return [_retained(topic, states.pool(state, self._id, self._rounding), qos=0)]

    def _pool_gone(self, effect: PoolGone) -> list[Message]:
        return [emptied(self._topics.pool(effect.account, effect.pool))]

    def _position(self, state: PositionState) -> list[Message]:
        topic = self._topics.position(state.account.name, row_slug(state.risk.position.key))
        return [_retained(topic, states.position(state, self._id, self._rounding), qos=0)]

    def _position_gone(self, effect: PositionGone) -> list[Message]:
        return [emptied(self._topics.position(effect.account, row_slug(effect.key)))]


_MAKE: Mapping[type, Callable[[Encoder, Any], list[Message]]] = {
    Story: Encoder._story,
    IncidentOver: Encoder._incident_over,
    SummaryState: Encoder._summary,
    HealthState: Encoder._health,
    AccountGone: Encoder._account_gone,
    PoolState: Encoder._pool,
    PoolGone: Encoder._pool_gone,
    PositionState: Encoder._position,
    PositionGone: Encoder._position_gone,
}


def _retained(topic: str, payload: Payload, severity: Severity = Severity.OK, qos: int = 1) -> Message:
    return Message(topic, msgspec.json.encode(payload), True, qos, severity)
