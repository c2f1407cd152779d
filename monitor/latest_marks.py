"""The latest marks of a link: which are news, where several connections bring the same, and how often they come."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from operator import sub

from monitor.cadence import Cadence
from monitor.events import Event, MarkPrice, Marks


class LatestMarks:
    """Of each mark the first frame wins, whichever connection brings it.

    Args:
        every_s: How often a mark of each symbol should be made.
    """

    def __init__(self, every_s: float) -> None:
        self._cadence = Cadence(every_s)
        self._at_ms: dict[str, int] = {}
        self._prices: dict[str, Decimal | str] = {}
        """What each was; of one that came with many others, its digits."""

    @property
    def slow_s(self) -> float | None:
        """How often they really come, where that is too seldom; None: they come in time."""
        return self._cadence.slow_s

    def only(self, symbols: Collection[str]) -> None:
        """Forget all symbols but these."""
        for symbol in self._at_ms.keys() - symbols:
            del self._at_ms[symbol], self._prices[symbol]
        self._cadence.only(symbols)

    def is_news(self, mark: MarkPrice) -> bool:
        """Whether no frame has brought a mark before."""
        symbol, at_ms = mark.symbol, mark.at_ms
        known_ms = self._at_ms.get(symbol, at_ms)
        if at_ms < known_ms:
            return True  # it is not news, but it is the book that judges ages
        if at_ms == known_ms and symbol in self._prices and mark.price == Decimal(self._prices[symbol]):
            return False
        self._at_ms[symbol], self._prices[symbol] = at_ms, mark.price
        if at_ms > known_ms:
            self._cadence.marked(symbol, at_ms - known_ms)
        return True

    def news(self, frame: Marks) -> list[Event]:
        """What of a frame no other has brought before: mostly all of it, or nothing."""
        symbols = frame.symbols
        try:
            intervals = set(map(sub, frame.at_ms, map(self._at_ms.__getitem__, symbols)))  # mostly one for all of them
            if min(intervals) > 0 and self._cadence.is_nothing_new(max(intervals)):
                self._at_ms.update(zip(symbols, frame.at_ms, strict=True))
                self._prices.update(zip(symbols, frame.texts, strict=True))
                return [frame]
            if not any(intervals) and frame.texts == list(map(self._prices.__getitem__, symbols)):
                return []
        except KeyError:  # the first mark of a symbol
            pass
        marks = [mark for mark in frame.each if self.is_news(mark)]
        return [frame] if len(marks) == len(symbols) else [*marks]
