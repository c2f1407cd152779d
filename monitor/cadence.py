"""How often marks really come: a stream asked for once a second has been known to come every three, and say nothing."""

from __future__ import annotations

from collections.abc import Collection

_RUN = 5
"""So many intervals in a row decide; a single one is a hiccup, or the gap of a lost connection."""
_TOO_LONG = 1.5


class Cadence:
    """Judges the intervals between the marks of each symbol, by the exchange's own times.

    Args:
        promised_s: How often a mark of each symbol should be made.
    """

    def __init__(self, promised_s: float) -> None:
        self._late_ms = promised_s * 1000 * _TOO_LONG
        self._runs: dict[str, list[int]] = {}
        """Symbol → its latest intervals in a row (ms), where they are on the other side than is known of it."""
        self._slow: dict[str, float] = {}

    @property
    def slow_s(self) -> float | None:
        """The median interval of a symbol whose marks come too seldom, the worst of them; None: all come in time."""
        return max(self._slow.values(), default=None)

    def only(self, symbols: Collection[str]) -> None:
        """Forget all symbols but these."""
        for known in (self._runs, self._slow):
            for symbol in known.keys() - set(symbols):
                del known[symbol]

    def is_nothing_new(self, longest_ms: int) -> bool:
        """Whether nothing can follow from intervals that are no longer than this, of whichever symbols."""
        return longest_ms < self._late_ms and not self._runs and not self._slow

    def marked(self, symbol: str, interval_ms: int) -> None:
        """Take the time from a symbol's mark to its next."""
        late = interval_ms >= self._late_ms
        if late == (symbol in self._slow):
            self._runs.pop(symbol, None)
            return
        run = self._runs.setdefault(symbol, [])
        run.append(interval_ms)
        if len(run) < _RUN:
            return
        del self._runs[symbol]
        if late:
            self._slow[symbol] = sorted(run)[_RUN // 2] / 1000
        else:
            del self._slow[symbol]
