"""The request weight pool: 429 past the limit, 418 for those who go on."""

from dataclasses import dataclass
from time import monotonic


@dataclass
class Weights:
    """One pool per minute for all callers of an address.

    ban_after: how many 429 answers in one minute bring the ban. others: what is used each minute by others there.
    """

    limit: int = 2400
    ban_after: int = 3
    ban_s: float = 120.0
    used: int = 0
    others: int = 0
    _minute: int = 0
    _refused: int = 0
    _banned_until: float = 0.0

    def spend(self, weight: int, now_ms: int) -> int:
        """HTTP status for a request of this weight: 200, 429 or 418."""
        minute = now_ms // 60_000
        if minute != self._minute:
            self._minute, self.used, self._refused = minute, self.others, 0
        if monotonic() < self._banned_until:
            return 418
        self.used += weight
        if self.used <= self.limit:
            return 200
        self._refused += 1
        if self._refused > self.ban_after:
            self._banned_until = monotonic() + self.ban_s
            return 418
        return 429

    def ban_left_s(self) -> float:
        """Seconds until the ban is over."""
        return max(self._banned_until - monotonic(), 0.0)
