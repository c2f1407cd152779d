"""Which pool's turn it is, where there is more to be done each second than a second should have.

As long as there is not, each pool has a turn in each tick. Else the urgent keep theirs, the others share what is left,
and none of them has a second turn while another still waits for one that has been due for longer.
"""

from __future__ import annotations

from monitor.pace import Pace

_TICK_S = 1.0
"""Turns are asked for about so often."""


class Rotation:
    """Pools, each as `<account>/<pool>`, and when it had its last turn. Times are monotonic seconds.

    Args:
        per_s: How much may be done in a second; each says how much it is.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._pace = Pace(_TICK_S, per_s * 60)
        self._sizes: dict[str, int] = {}
        self._whole = 0
        self._last: dict[str, float] = {}
        self._spent = self._spent_at = 0.0
        self._refused: set[str] = set()
        """Those whose turn was due when there was no room; they go before all others."""
        self._refused_since: set[str] = set()
        """Those of whom the same became true after that; they go next."""

    def has(self, name: str, size: int, is_urgent: bool, now_s: float) -> bool:
        """Whether a pool may have a turn now; asked once a tick. It is `take` that takes it."""
        if self._sizes.get(name) != size:
            self._count(name, size)
        self._pace.endangered(name, is_urgent)
        if is_urgent:
            self._is_refused_no_more(name)
        return self._is_due(name, now_s) and (is_urgent or self._is_next(name, now_s))

    def take(self, name: str, now_s: float) -> None:
        """A pool takes the turn that it has."""
        self._last[name] = now_s
        if not self._pace.is_endangered(name):  # what the urgent take has been left out of what the others share
            self._spent = self._lately(now_s) + self._sizes[name]
            self._spent_at = now_s

    def last(self, name: str) -> float | None:
        """When a pool had its last turn."""
        return self._last.get(name)

    def leave(self, name: str) -> None:
        """A pool wants no turns any more."""
        if name in self._sizes:
            self._count(name, 0)
            self._last.pop(name, None)
            self._is_refused_no_more(name)

    def forget(self, account: str) -> None:
        """None of an account's pools wants turns any more."""
        for name in [name for name in self._sizes if name.startswith(f"{account}/")]:
            self.leave(name)

    def _is_due(self, name: str, now_s: float) -> bool:
        last_s = self._last.get(name)
        if last_s is None or name in self._refused or name in self._refused_since or self._whole <= self._per_s:
            return True
        return now_s - last_s >= self._pace.interval_s(name) - _TICK_S / 2

    def _is_next(self, name: str, now_s: float) -> bool:
        """Whether there is room for a pool whose turn is due, and for none before it."""
        if not self._refused:
            self._refused, self._refused_since = self._refused_since, set()
        is_first = not self._refused or name in self._refused
        if is_first and self._lately(now_s) < self._pace.left_per_s:
            self._is_refused_no_more(name)
            return True
        if name not in self._refused:
            self._refused_since.add(name)
        return False

    def _is_refused_no_more(self, name: str) -> None:
        self._refused.discard(name)
        self._refused_since.discard(name)

    def _lately(self, now_s: float) -> float:
        """How much those that are not urgent have done that this second still stands for."""
        return max(0.0, self._spent - (now_s - self._spent_at) * self._pace.left_per_s)

    def _count(self, name: str, size: int) -> None:
        self._whole += size - self._sizes.pop(name, 0)
        if size:
            self._sizes[name] = size
            self._pace.join(name, size)
        else:
            self._pace.leave(name)
