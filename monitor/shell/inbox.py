"""What the links hand to the core: account events in order, and of each mark the latest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from monitor.events import Event, MarkPrice


class Inbox:
    """Events on their way to the core. A reader never queues marks: the latest of a symbol replaces the one before,
    so that a slow step makes the next one larger, never later; an older one, from a connection that lags behind the
    other, replaces nothing. All else is kept, in order; it is small and matters."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], MarkPrice] = {}
        self._events: list[Event] = []
        self._filled = asyncio.Event()
        self._filled_at = 0.0
        self.arrived = 0.0
        """When the first of what was last taken came (monotonic seconds)."""
        self.marks = 0
        """How many marks were in it."""

    def put(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, MarkPrice):
                waiting = self._marks.get((event.market, event.symbol))
                if waiting is None or event.at_ms >= waiting.at_ms:
                    self._marks[event.market, event.symbol] = event
            else:
                self._events.append(event)
        if (self._events or self._marks) and not self._filled.is_set():
            self._filled_at = time.monotonic()
            self._filled.set()

    async def take(self, *, at_once: bool = False) -> list[Event]:
        """Wait until something has happened, and take all of it: account events first, then marks.

        Args:
            at_once: Only let others have their turn, then take what there is.
        """
        await (asyncio.sleep(0) if at_once else self._filled.wait())
        self._filled.clear()
        self.arrived, self.marks = self._filled_at, len(self._marks)
        events = [*self._events, *self._marks.values()]
        self._events.clear()
        self._marks.clear()
        return events
