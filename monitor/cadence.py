"""How often marks really come: a stream asked for once a second has been known to come every three, and say nothing."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

_RUN = 5
"""So many intervals in a row decide; a single one is a hiccup, or the gap of a lost connection."""
_TOO_LONG = 1.5


class _Run(Struct):
    """Of one symbol: its last mark, and the intervals in a row that were on one side of what was promised."""

    at_ms: int
    late: bool = False
    intervals_ms: list[int] = []


class Cadence:
    """Measures the interval between the marks of each symbol, by the exchange's own times.

    Args:
        promised_s: How often a mark of each symbol should be made.
    """

    def __init__(self, promised_s: float) -> None:
        self._late_ms = promised_s * 1000 * _TOO_LONG
        self._runs: dict[str, _Run] = {}
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

    def marked(self, symbol: str, at_ms: int) -> bool:
        """Take the time of a mark. True: whether all symbols come in time is another since then."""
        run = self._runs.get(symbol)
        if run is None:
            self._runs[symbol] = _Run(at_ms)
            return False
        interval_ms = at_ms - run.at_ms
        if interval_ms <= 0:
            return False
        run.at_ms = at_ms
        late = interval_ms >= self._late_ms
        if late != run.late:
            run.late, run.intervals_ms = late, []
        if len(run.intervals_ms) == _RUN:
            return False
        run.intervals_ms.append(interval_ms)
        if len(run.intervals_ms) < _RUN or late == (symbol in self._slow):
            return False
        was_slow = bool(self._slow)
        if late:
            self._slow[symbol] = sorted(run.intervals_ms)[_RUN // 2] / 1000
        else:
            del self._slow[symbol]
        return bool(self._slow) != was_slow
