"""How large a message may be that a broker takes, where it does not say: as large as one that it has taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitor.message import Message

_SURELY_TAKEN = 1024
"""Bytes that every broker takes."""
_CUTS = 3
"""So often in a row it must have been the same, until a message counts as what a connection was lost for."""


class Sizes:
    """What the connections to a broker have shown of it.

    Attributes:
        most: Bytes, beside what frames them.
        is_in_doubt: Messages should go one at a time, so that it shows which of them it is.
    """

    def __init__(self) -> None:
        self.most = math.inf
        self.is_in_doubt = False
        self._largest = _SURELY_TAKEN
        self._cuts = 0
        self._suspect = ""

    def taken(self, message: Message) -> None:
        """The broker has taken a message; of one with QoS 0 it does not say so."""
        if message.qos:
            self._largest = max(self._largest, size_of(message))

    def cut(self, flying: Sequence[Message], *, is_short: bool) -> Message | None:
        """A connection was lost with these under way. Returns the one that it was for, once that is beyond doubt: it
        was the only one, each time, and no larger one has ever arrived. After one that has lived the broker may be
        another, or another limit in force, or it was never the size: what is too large is found out anew."""
        if not is_short:
            self.most = math.inf
        alone = flying[0] if self.is_in_doubt and len(flying) == 1 and size_of(flying[0]) > self._largest else None
        name = "" if alone is None else alone.event_id or alone.topic
        is_doubtful = alone is not None or is_short  # with QoS 0 it may be for what is not under way any more
        self._cuts = (self._cuts + 1 if name == self._suspect else 1) if is_doubtful else 0
        self._suspect = name
        self.is_in_doubt = alone is not None or self._cuts >= _CUTS
        if alone is None or self._cuts < _CUTS:
            return None
        self.most, self.is_in_doubt = size_of(alone), False
        return alone


def size_of(message: Message) -> int:
    """Bytes of a message, without what frames them."""
    return len(message.topic) + len(message.payload)
