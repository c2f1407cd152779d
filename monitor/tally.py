"""What is counted while it happens, because nobody could read it off afterwards; for the metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from monitor.rules import Severity

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Durations:
    """How many durations lie within each bound, and their sum (seconds).

    Attributes:
        counts: For each bound how many durations are at most that, but above the bound before; last: above all of them.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s


class Tally:
    """Counts since the start.

    Attributes:
        marks: Mark prices that the core has been given.
        decisions: From the arrival of the first mark price of a step until it is decided what follows from the step.
        publications: From the arrival of what causes an event until the broker has acknowledged it.
        loop_delays: How late the event loop came to what was due, sampled ten times a second.
        events: Events told, by severity and rule.
    """

    def __init__(self) -> None:
        self.marks = 0
        self.decisions = Durations()
        self.publications = Durations()
        self.loop_delays = Durations()
        self.events: Counter[tuple[Severity, str]] = Counter()
        self._caused: dict[str, float] = {}

    def caused(self, event_ids: Iterable[str | None], arrived: float) -> None:
        """These events are on their way, because of what came at this time (monotonic seconds)."""
        self._caused.update((event_id, arrived) for event_id in event_ids if event_id is not None)

    def acknowledged(self, event_id: str, at: float) -> None:
        """The broker has an event; one of an earlier run has no cause here."""
        arrived = self._caused.pop(event_id, None)
        if arrived is not None:
            self.publications.observe(at - arrived)
