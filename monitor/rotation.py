"""Which pool's turn it is, where there is more to be done each second than a second should have.

As long as there is not, each pool has a turn in each tick. Else the urgent keep theirs, the others share what is left.
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

    def has(self, name: str, size: int, is_urgent: bool, now_s: float) -> bool:
        """Whether a pool may have a turn now; asked once a tick. It is `take` that takes it."""
        if self._sizes.get(name) != size:
            self._count(name, size)
        self._pace.endangered(name, is_urgent)
        last_s = self._last.get(name)
        if last_s is not None and now_s - last_s < self._wait_s(name):
            return False
        return is_urgent or self._lately(now_s) < self._per_s  # so that those that began together come apart

    def take(self, name: str, now_s: float) -> None:
        """A pool takes the turn that it has."""
        self._last[name] = now_s
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

    def forget(self, account: str) -> None:
        """None of an account's pools wants turns any more."""
        for name in [name for name in self._sizes if name.startswith(f"{account}/")]:
            self.leave(name)

    def _lately(self, now_s: float) -> float:
        """How much has been done that this second still stands for."""
        return max(0.0, self._spent - (now_s - self._spent_at) * self._per_s)

    def _wait_s(self, name: str) -> float:
        """Seconds between two turns; less than a tick: it need not wait."""
        return 0.0 if self._whole <= self._per_s else self._pace.interval_s(name) - _TICK_S / 2

    def _count(self, name: str, size: int) -> None:
        self._whole += size - self._sizes.pop(name, 0)
        if size:
            self._sizes[name] = size
            self._pace.join(name, size)
        else:
            self._pace.leave(name)
