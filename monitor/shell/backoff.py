"""Waiting longer after each failure, without end."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Seconds to wait before trying again: doubling up to a limit, with jitter so that many do not try at once."""

    def __init__(self, low_s: float, high_s: float) -> None:
        self._low_s = low_s
        self._high_s = max(low_s, high_s)
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def next_s(self) -> float:
        """How long to wait this time."""
        ceiling = min(self._high_s, self._low_s * 2 ** min(self._tries, 20))
        self._tries += 1
        return random.uniform(ceiling / 2, ceiling)

    async def wait(self) -> None:
        await asyncio.sleep(self.next_s())
