"""What has been published of late: the newest state of each topic, and the last events, for readers in this process.

A reader says which revision it knows, and gets what is newer. Nothing is kept per reader, so a slow one costs nothing:
of each topic it gets the newest state alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Reversible
from itertools import takewhile

from msgspec import Struct

from monitor.message import Message

_GONE_KEPT = 1000


class Changes(Struct, frozen=True):
    """What is newer than a revision.

    Args:
        revision: What the reader knows once it has taken this.
        is_whole: Whether this is everything there is, in the place of all that the reader has.
        states: The newest of each topic; an empty payload: there is none any more.
        events: Oldest first.
    """

    revision: int
    is_whole: bool
    states: tuple[Message, ...]
    events: tuple[Message, ...]


class Board:
    """The newest state of each topic and the last events; each message raises the revision by one.

    Args:
        events_kept: How many events are remembered.
    """

    def __init__(self, events_kept: int = 200) -> None:
        self.revision = 0
        self._states: dict[str, tuple[int, Message]] = {}  # in the order of their last change, as the next two
        self._gone: dict[str, tuple[int, Message]] = {}
        self._events: deque[tuple[int, Message]] = deque(maxlen=events_kept)
        self._forgotten = 0

    def put(self, messages: Iterable[Message]) -> None:
        """Take messages that are being published."""
        for message in messages:
            self.revision += 1
            if not message.retain:
                self._events.append((self.revision, message))
                continue
            self._states.pop(message.topic, None)
            self._gone.pop(message.topic, None)
            (self._states if message.payload else self._gone)[message.topic] = (self.revision, message)
            if len(self._gone) > _GONE_KEPT:
                self._forgotten, _ = self._gone.pop(next(iter(self._gone)))

    def since(self, revision: int) -> Changes:
        """What is newer than a revision; everything where that is not known here, or too long ago."""
        is_whole = not self._forgotten <= revision <= self.revision or revision == 0
        known = 0 if is_whole else revision
        gone = () if is_whole else _newer(self._gone.values(), known)
        return Changes(
            self.revision, is_whole, (*_newer(self._states.values(), known), *gone), _newer(self._events, known)
        )


def _newer(rows: Reversible[tuple[int, Message]], revision: int) -> tuple[Message, ...]:
    """Oldest first. What is not newer is not looked at: each reader asks ten times a second, and thousands stand."""
    newer = takewhile(lambda row: row[0] > revision, reversed(rows))
    return tuple(message for _, message in newer)[::-1]
