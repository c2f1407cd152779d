"""Does a broker that is away make the risk loop slower? `python -m benchmarks.away [--quick]`

Two daemons' hot paths side by side, from a frame to what waits in the outbox: one with an empty outbox and a broker
that takes everything, one with 10,000 events that no broker takes. Their rounds alternate, so that whatever else the
machine does is done to both; the ratio of the medians is the answer.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import islice

from benchmarks import ours, scene
from monitor.encoder import Encoder
from monitor.events import Tick
from monitor.message import Identity, Message
from monitor.outbox import Outbox
from monitor.rules import RuleBook
from monitor.venues import VENUES

WAITING = 10_000


class Path:
    """One hot path: frame → events → core → messages → outbox."""

    def __init__(self, given: scene.Scene, waiting: int) -> None:
        self._core = ours.watching(given)
        self._held = given.held
        self._encoder = Encoder(Identity("marginwatch", "bench", "0", "0", scene.START_MS), RuleBook())
        self.outbox = Outbox()
        backlog = [_event(n) for n in range(waiting)]
        self.outbox.put(backlog)
        self.outbox.release(backlog)

    def take(self, raw: bytes, at_ms: int) -> float:
        """Seconds from a frame's bytes to the outbox."""
        begun = time.perf_counter()
        events = VENUES[ours.MARKET].decode_market(raw, ours.MARKET, self._held)
        effects = self._core.step([*events, Tick()], ours._at(at_ms))
        messages = [message for effect in effects for message in self._encoder.of(effect)]
        self.outbox.put(messages)
        self.outbox.release(message for message in messages if message.event_id is not None)
        return time.perf_counter() - begun

    def deliver(self) -> None:
        """A broker takes all that waits."""
        while (message := self.outbox.take()) is not None:
            self.outbox.acknowledged(message)


def _event(n: int) -> Message:
    incident = f"main.pool-{n % 50}.margin_ratio.{n // 50}"
    return Message("t/event/warning/margin_ratio", b"{}", False, 1, 3, f"{incident}.1", incident, n, n)


def main(quick: bool) -> None:
    given = scene.make(1, 5, near=1)
    here, away = Path(given, 0), Path(given, WAITING)
    took: dict[str, list[float]] = {"here": [], "away": []}
    for n, raw in enumerate(islice(scene.frames(given, "symbol"), 200 if quick else 2000)):
        at_ms = scene.START_MS + 1000 * (n + 1)
        paths = [("here", here), ("away", away)]
        for name, path in paths if n % 2 else reversed(paths):
            took[name].append(path.take(raw, at_ms))
        here.deliver()
    median = {name: statistics.median(seconds) * 1e6 for name, seconds in took.items()}
    print(
        f"frame to outbox, median of {len(took['here'])}: broker here {median['here']:.0f} µs, broker away with"
        f" {WAITING:,} events waiting {median['away']:.0f} µs, ratio {median['away'] / median['here']:.2f};"
        f" still waiting {away.outbox.waiting_events:,}"
    )


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
