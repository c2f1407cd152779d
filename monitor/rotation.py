"""Which pool's turn it is, where there is more to be done each second than a second should have.

As long as there is not, each pool has a turn in each tick. Else the urgent keep theirs, the others share what is left,
and none of them has a second turn while another still waits for one that has been due for longer. As others wait for
it, a pool that has once asked for a turn asks in each tick, until it leaves.
"""

from __future__ import annotations

from collections.abc import Hashable

from monitor.pace import Pace

_TICK_S = 1.0
"""Turns are asked for about so often."""


class Rotation:
    """Pools, whatever they are named by, and when each had its last turn. Times are monotonic seconds.

    Args:
        per_s: How much may be done in a second; each says how much it is.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._pace = Pace(_TICK_S, per_s * 60)
        self._sizes: dict[Hashable, int] = {}
        self._whole = 0
        self._last: dict[Hashable, float] = {}
        self._spent = self._spent_at = 0.0
        self._refused: set[Hashable] = set()
        """Those whose turn was due when there was no room; they go before all others."""
        self._refused_since: set[Hashable] = set()
        """Those of whom the same became true after that; they go next."""

    def has(self, pool: Hashable, size: int, is_urgent: bool, now_s: float) -> bool:
        """Whether a pool may have a turn now; asked in each tick. It is `take` that takes it."""
        if self._sizes.get(pool) != size:
            self._count(pool, size)
        self._pace.endangered(pool, is_urgent)
        if is_urgent:
            self._refused_no_more(pool)
        return self._is_due(pool, now_s) and (is_urgent or self._is_next(pool, now_s))

    def take(self, pool: Hashable, now_s: float) -> None:
        """A pool takes the turn that it has."""
        self._last[pool] = now_s
        if not self._pace.is_endangered(pool):  # what the urgent take has been left out of what the others share
            self._spent = self._lately(now_s) + self._sizes[pool]
            self._spent_at = now_s

    def last(self, pool: Hashable) -> float | None:
        """When a pool had its last turn."""
        return self._last.get(pool)

    def leave(self, pool: Hashable) -> None:
        """A pool wants no turns any more."""
        if pool in self._sizes:
            self._count(pool, 0)
            self._last.pop(pool, None)
            self._refused_no_more(pool)

    def _is_due(self, pool: Hashable, now_s: float) -> bool:
        last_s = self._last.get(pool)
        if last_s is None or pool in self._refused or pool in self._refused_since or self._whole <= self._per_s:
            return True
        return now_s - last_s >= self._pace.interval_s(pool) - _TICK_S / 2

    def _is_next(self, pool: Hashable, now_s: float) -> bool:
        """Whether there is room for a pool whose turn is due, and for none before it."""
        if not self._refused:
            self._refused, self._refused_since = self._refused_since, set()
        is_first = not self._refused or pool in self._refused
        if is_first and self._lately(now_s) < self._pace.left_per_s:
            self._refused_no_more(pool)
            return True
        self._refused_since.add(pool)
        return False

    def _refused_no_more(self, pool: Hashable) -> None:
        self._refused.discard(pool)
        self._refused_since.discard(pool)

    def _lately(self, now_s: float) -> float:
        """How much those that are not urgent have done that this second still stands for."""
        return max(0.0, self._spent - (now_s - self._spent_at) * self._pace.left_per_s)

    def _count(self, pool: Hashable, size: int) -> None:
        self._whole += size - self._sizes.pop(pool, 0)
        if size:
            self._sizes[pool] = size
            self._pace.join(pool, size)
        else:
            self._pace.leave(pool)
