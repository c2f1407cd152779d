"""How often each one's turn comes, where many share what may be used: accounts that are compared with the exchange have
the weight of one address, pools that are looked at or published the time of one process."""

from __future__ import annotations

from collections.abc import Hashable

_LONGEST_S = 3600.0
_LEAST_PART = 0.1
"""Of the share; what the endangered must leave to the others."""


class Pace:
    """Hands out the time between two turns: the endangered keep the shortest, the others share what is left.

    Args:
        shortest_s: Time between two turns where there is weight enough.
        weight_per_minute: What turns may use, all together.
    """

    def __init__(self, shortest_s: float, weight_per_minute: float) -> None:
        self._shortest_s = shortest_s
        self._per_second = weight_per_minute / 60
        self._weights: dict[Hashable, int] = {}
        self._endangered: set[Hashable] = set()
        self._all = 0
        self._hurried = 0
        self._hurried_s = shortest_s
        """Seconds between two turns of an endangered one."""
        self.left_per_s = self._per_second
        """What those at ease may use in a second, all together."""

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one."""
        return len(self._weights) > 1

    def join(self, one: Hashable, weight: int) -> None:
        """Count one in.

        Args:
            weight: Of one turn.
        """
        self.leave(one)
        self._weights[one] = weight
        self._all += weight
        self._share()

    def leave(self, one: Hashable) -> None:
        """Count one out."""
        self.endangered(one, False)
        self._all -= self._weights.pop(one, 0)
        self._share()

    def endangered(self, one: Hashable, is_endangered: bool) -> bool:
        """Say whether one is endangered. True: that is new."""
        if is_endangered == (one in self._endangered):
            return False
        weight = self._weights.get(one, 0)
        (self._endangered.add if is_endangered else self._endangered.discard)(one)
        self._hurried += weight if is_endangered else -weight
        self._share()
        return True

    def is_endangered(self, one: Hashable) -> bool:
        return one in self._endangered

    def interval_s(self, one: Hashable) -> float:
        """Seconds between two turns of this one."""
        if one in self._endangered:
            return min(self._hurried_s, _LONGEST_S)
        return min(max(self._shortest_s, (self._all - self._hurried) / self.left_per_s), _LONGEST_S)

    def _share(self) -> None:
        least_part = _LEAST_PART if self._hurried < self._all else 0
        self._hurried_s = max(self._shortest_s, self._hurried / (self._per_second * (1 - least_part)))
        self.left_per_s = self._per_second - self._hurried / self._hurried_s
