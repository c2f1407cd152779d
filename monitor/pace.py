"""How often each account is compared with the exchange, where many share the weight that one address may use."""

from __future__ import annotations

_LONGEST_S = 3600.0
_LEAST_PART = 0.1
"""Of the share; what endangered accounts must leave to the others."""


class Pace:
    """Hands out the time between two comparisons: endangered accounts keep the shortest, the others share what is left.

    Args:
        shortest_s: Time between two comparisons where there is weight enough.
        weight_per_minute: What comparisons may use, all accounts together.
    """

    def __init__(self, shortest_s: float, weight_per_minute: float) -> None:
        self._shortest_s = shortest_s
        self._per_second = weight_per_minute / 60
        self._weights: dict[str, int] = {}
        self._endangered: set[str] = set()
        self._all = 0
        self._hurried = 0
        self._hurried_s = shortest_s
        """Seconds between two comparisons of an endangered account."""
        self.left_per_s = self._per_second
        """What those at ease may use in a second, all together."""

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one account."""
        return len(self._weights) > 1

    def join(self, account: str, weight: int) -> None:
        """Count an account in.

        Args:
            weight: Of one comparison.
        """
        self.leave(account)
        self._weights[account] = weight
        self._all += weight
        self._share()

    def leave(self, account: str) -> None:
        """Count an account out."""
        self.endangered(account, False)
        self._all -= self._weights.pop(account, 0)
        self._share()

    def endangered(self, account: str, is_endangered: bool) -> bool:
        """Say whether an account is endangered. True: that is new."""
        if is_endangered == (account in self._endangered):
            return False
        weight = self._weights.get(account, 0)
        (self._endangered.add if is_endangered else self._endangered.discard)(account)
        self._hurried += weight if is_endangered else -weight
        self._share()
        return True

    def is_endangered(self, account: str) -> bool:
        return account in self._endangered

    def interval_s(self, account: str) -> float:
        """Seconds between two comparisons of this account."""
        if account in self._endangered:
            return min(self._hurried_s, _LONGEST_S)
        return min(max(self._shortest_s, (self._all - self._hurried) / self.left_per_s), _LONGEST_S)

    def _share(self) -> None:
        least_part = _LEAST_PART if self._hurried < self._all else 0
        self._hurried_s = max(self._shortest_s, self._hurried / (self._per_second * (1 - least_part)))
        self.left_per_s = self._per_second - self._hurried / self._hurried_s
