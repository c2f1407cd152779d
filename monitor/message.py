"""One MQTT message, and who sends it: what store, outbox and broker pass on without knowing what it says."""

from __future__ import annotations

from msgspec import Struct, structs

from monitor.compressed import Compressed, Compressor
from monitor.topics import Topics

NOTICE = "/notice"
"""What a notice is kept under: its event's id, with this behind it."""


class Message(Struct, frozen=True, gc=False):
    """One MQTT message.

    Args:
        body: The payload; of an event that waits behind many it may be compressed.
        rank: Severity rank: of two that wait, the higher goes first.
        event_id: Set for events and notices alone: they are kept under it until the broker has them.
        incident_id: Events of one incident keep their order, and so do its notices.
        can_wait: It is a state that goes only when nothing else waits.
        opened_ms: What the incident is named after.
        at_ms: When it happened.
    """

    topic: str
    body: bytes | Compressed
    retain: bool
    qos: int
    rank: int = 0
    event_id: str | None = None
    incident_id: str | None = None
    opened_ms: int = 0
    at_ms: int = 0
    can_wait: bool = False

    @property
    def payload(self) -> bytes:
        body = self.body
        return body if isinstance(body, bytes) else body.whole

    @property
    def whole(self) -> Message:
        """The same, about to be sent."""
        return self if isinstance(self.body, bytes) else structs.replace(self, body=self.payload)

    def compressed(self, compressor: Compressor) -> Message:
        """The same, for a long wait."""
        if isinstance(self.body, Compressed):
            return self
        return structs.replace(self, body=compressor.compressed(self.body))

    @property
    def is_state(self) -> bool:
        """True until the next of its topic. All else is told once, and kept until the broker has it."""
        return self.event_id is None

    @property
    def is_notice(self) -> bool:
        return self.event_id is not None and self.event_id.endswith(NOTICE)

    @property
    def is_event(self) -> bool:
        return self.event_id is not None and not self.is_notice

    @property
    def told_as(self) -> str | None:
        """The `event_id` in its payload: a notice tells its event's."""
        return None if self.event_id is None else self.event_id.removesuffix(NOTICE)

    @property
    def line(self) -> str:
        """What keeps its order: the incidents of one rule and subject, each named after the time that it opened."""
        incident_id = self.incident_id or ""
        return incident_id.rpartition(".")[0] or incident_id


class Identity(Struct, frozen=True):
    """Who publishes.

    Args:
        instance: Name of this daemon, in every payload.
        boot_id: Of this run; `seq` counts within it.
        discovery_prefix: Below which Home Assistant looks for configs.
    """

    prefix: str
    instance: str
    version: str
    boot_id: str
    started_ms: int
    discovery_prefix: str = "homeassistant"

    @property
    def topics(self) -> Topics:
        return Topics(self.prefix, self.discovery_prefix)


def emptied(topic: str, can_wait: bool = False) -> Message:
    """There is nothing at this topic any more."""
    return Message(topic, b"", retain=True, qos=1, can_wait=can_wait)
