"""What the store owes the disk, and what it would need to write a lost file anew. Pure."""

from __future__ import annotations

from collections import deque

import msgspec
from msgspec import Struct

from monitor.core import Kept
from monitor.effects import Save
from monitor.message import Message

Rows = dict[str, dict[str, bytes]]
"""Kind → key → row."""


class Batch(Struct, frozen=True):
    """What one step wants kept."""

    events: tuple[Message, ...]
    saves: tuple[Save, ...]


class Sent(Struct, frozen=True):
    """The broker has this event."""

    event_id: str
    at_ms: int


class Found(Struct, frozen=True):
    """What an earlier run has left.

    Args:
        rows: What it kept for the next run.
        unsent: Events that the broker does not have yet, in order.
        last_named_ms: The latest time that an incident has been named after.
    """

    rows: Rows = {}
    unsent: tuple[Message, ...] = ()
    last_named_ms: int = 0

    @property
    def kept(self) -> Kept:
        """The part that the core goes on from."""
        return Kept(
            incidents=tuple(self.rows.get("incident", {}).values()),
            baselines=self.rows.get("baseline", {}),
            grown=self.rows.get("grown", {}),
            silences=self.rows.get("silence", {}),
            daily=self.rows.get("daily", {}),
            forced=self.rows.get("forced", {}),
            groups=self.rows.get("group", {}),
            places=self.rows.get("account", {}),
            last_named_ms=self.last_named_ms,
        )


class Parcel(Struct, array_like=True):
    """What one write has brought, as it lies in the store until it is sorted in.

    Args:
        events: Topic, payload, rank, event and incident id, and the times of a `Message`, whose own form may change.
        rows: Kind and key → row; None: it is to go.
        sent: Event id → when the broker took it.
    """

    events: list[tuple[str, bytes, int, str, str, int, int]]
    rows: dict[tuple[str, str], bytes | None]
    sent: dict[str, int]

    @property
    def messages(self) -> list[Message]:
        return [
            Message(topic, payload, False, 1, rank, event_id, incident_id, opened_ms, at_ms)
            for topic, payload, rank, event_id, incident_id, opened_ms, at_ms in self.events
        ]


_PARCELS = msgspec.msgpack.Decoder(Parcel)


def unpacked(packed: bytes) -> Parcel:
    """A parcel as `Owed.packed` makes it.

    Raises:
        msgspec.MsgspecError: It is damaged.
    """
    return _PARCELS.decode(packed)


class Owed:
    """The latest of every row, every event that the broker does not have, and which of both the disk does not have.

    While there is no disk it grows by what would be there anyhow: events that the broker does not have are in memory
    until it has them. Events that it has and the disk does not are for `history` alone, and of those the oldest go.
    """

    MOST_SENT = 10_000

    def __init__(self) -> None:
        self.events: dict[str, Message] = {}
        self.sent: dict[str, int] = {}
        self.rows: dict[tuple[str, str], bytes | None] = {}
        self.lost = 0
        """Events that the broker has and the store will never have."""
        self._unsent: dict[str, Message] = {}
        self._rows: dict[tuple[str, str], bytes | None] = {}
        """None: it is to go, and the disk may still have it."""
        self._sent_unwritten: deque[str] = deque()

    def __bool__(self) -> bool:
        return bool(self.events or self.sent or self.rows)

    def packed(self) -> bytes:
        """All of it in one piece."""
        events = [
            (e.topic, e.payload, e.rank, e.event_id or "", e.incident_id or "", e.opened_ms, e.at_ms)
            for e in self.events.values()
        ]
        return msgspec.msgpack.encode(Parcel(events, self.rows, self.sent))

    def take(self, job: Batch | Sent) -> None:
        """Something has to be on disk."""
        if isinstance(job, Batch):
            for event in job.events:
                assert event.event_id is not None
                self.events[event.event_id] = self._unsent[event.event_id] = event
            for save in job.saves:
                self.rows[save.table, save.key] = self._rows[save.table, save.key] = save.row
            return
        self.sent[job.event_id] = job.at_ms
        self._unsent.pop(job.event_id, None)
        if job.event_id in self.events:
            self._sent_unwritten.append(job.event_id)
            if len(self._sent_unwritten) > self.MOST_SENT:
                oldest = self._sent_unwritten.popleft()
                del self.events[oldest], self.sent[oldest]
                self.lost += 1

    def adopt(self, found: Found) -> Found:
        """Take in what a file has, and owe it what it has not: it may be another than it was. Returns the part of it
        that this run does not know: its own word stands."""
        new_rows: Rows = {}
        for kind, rows in found.rows.items():
            for key, row in rows.items():
                if (kind, key) not in self._rows:
                    new_rows.setdefault(kind, {})[key] = self._rows[kind, key] = row
        if new_rows and "account" in found.rows:  # where they are from, whatever this run has said of where it is
            new_rows["account"] = found.rows.get("account", {})
        there = {e.event_id for e in found.unsent}
        self.events = {**{e: event for e, event in self._unsent.items() if e not in there}, **self.events}
        for (kind, key), own in self._rows.items():
            if found.rows.get(kind, {}).get(key) != own:
                self.rows[kind, key] = own
        unsent = tuple(e for e in found.unsent if e.event_id not in self._unsent and e.event_id not in self.sent)
        self._unsent.update((e.event_id or "", e) for e in unsent)
        return Found(new_rows, unsent, found.last_named_ms)

    def on_disk(self) -> None:
        """All of it has been written."""
        for place in [place for place, row in self.rows.items() if row is None]:
            del self._rows[place]
        self.events.clear()
        self.sent.clear()
        self.rows.clear()
        self._sent_unwritten.clear()
