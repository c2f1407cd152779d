"""What the links hand to the core: account events in order, and of each mark the latest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Set
from operator import ge

from monitor.events import Event, MarkPrice, Marks


class Inbox:
    """Events on their way to the core. A reader never queues marks: the latest of a symbol replaces the one before,
    so that a slow step makes the next one larger, never later; an older one, from a connection that lags behind the
    other, replaces nothing. All else is kept, in order; it is small and matters."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, tuple[str, ...]], Marks] = {}
        """Market and symbols → frame; none of these symbols waits in another one, or alone."""
        self._marks: dict[tuple[str, str], MarkPrice] = {}
        self._events: list[Event] = []
        self._nudged = asyncio.Event()
        self._filled_at = 0.0
        self._is_filled = False
        self.arrived = 0.0
        """When the first of what was last taken came (monotonic seconds)."""
        self.marks = 0
        """How many marks were in it."""

    def put(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, MarkPrice):
                if self._frames:
                    self._part(event.market, {event.symbol})
                self._put_mark(event)
            elif isinstance(event, Marks):
                self._put_frame(event)
            else:
                self._events.append(event)
        if not self._is_filled and (self._events or self._marks or self._frames):
            self._filled_at = time.monotonic()
            self._is_filled = True
            self.nudge()

    def add(self, event: Event) -> None:
        """Something that can wait until anything else happens."""
        self._events.append(event)

    def _put_mark(self, mark: MarkPrice) -> None:
        key = mark.market, mark.symbol
        waiting = self._marks.get(key)
        if waiting is None or mark.at_ms >= waiting.at_ms:
            self._marks[key] = mark

    def _put_frame(self, frame: Marks) -> None:
        """Keep a frame whole, unless marks wait that it does not replace as a whole."""
        key = market, symbols = frame.market, frame.symbols
        waiting = self._frames.get(key)
        if waiting is None or not _none_older(frame, waiting):
            if self._frames:
                self._part(market, set(symbols))
            if self._marks and any((market, symbol) in self._marks for symbol in symbols):
                for mark in frame.each:
                    self._put_mark(mark)
                return
        self._frames[key] = frame

    def _part(self, market: str, symbols: Set[str]) -> None:
        """From now on what waits in one frame with any of these symbols is kept mark by mark."""
        for key in [key for key in self._frames if key[0] == market and not symbols.isdisjoint(key[1])]:
            for mark in self._frames.pop(key).each:
                self._put_mark(mark)

    async def take(self, *, at_once: bool = False) -> list[Event]:
        """Wait until something has happened, and take all of it: account events first, then marks.

        Args:
            at_once: Only let others have their turn, then take what there is.
        """
        if at_once:
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # what fell due meanwhile is behind us the first time, and would wait for two steps
        while not (at_once or self._is_filled):
            await self.nudged()
        self._is_filled = False
        frames, marks = self._frames, self._marks
        self.arrived, self.marks = self._filled_at, len(marks)
        if frames:
            self.marks += sum(len(frame.symbols) for frame in frames.values())
        events = [*self._events, *frames.values(), *marks.values()]
        self._events.clear()
        frames.clear()
        marks.clear()
        return events

    async def nudged(self) -> None:
        """Wait until something has happened, or somebody nudges."""
        if not self._is_filled:
            self._nudged.clear()
            await self._nudged.wait()

    def nudge(self) -> None:
        """Let all that wait look whether there is anything to do."""
        self._nudged.set()


def _none_older(frame: Marks, other: Marks) -> bool:
    """Whether no mark of a frame is older than in another of the same symbols."""
    return all(map(ge, frame.at_ms, other.at_ms))
