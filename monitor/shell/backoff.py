"""Waiting longer after each failure, without end."""

from __future__ import annotations

import asyncio
import random


def stop_if_cancelled() -> None:
    """Raise the cancellation that a task group has swallowed: where a child fails at the same moment as its parent is
    cancelled, the group raises the child's error alone, and a loop that retries would never end.

    Raises:
        asyncio.CancelledError: This task has been asked to end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Backoff:
    """Seconds to wait before trying again: doubling up to a limit, with jitter so that many do not try at once."""

    def __init__(self, low_s: float, high_s: float) -> None:
        self._low_s = low_s
        self._high_s = max(low_s, high_s)
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    async def wait(self) -> None:
        ceiling = min(self._high_s, self._low_s * 2 ** min(self._tries, 20))
        self._tries += 1
        await asyncio.sleep(random.uniform(ceiling / 2, ceiling))
