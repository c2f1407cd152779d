"""How the daemon itself fares: how late its event loop is, and how much memory it has."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from monitor.events import Vitals

_SAMPLE_S = 0.1
_STATM = Path("/proc/self/statm")


class Pulse:
    """Measures how late the event loop comes to what is due, by setting itself a timer ten times a second.

    Args:
        on_lag: Called with each lag (seconds).
    """

    def __init__(self, on_lag: Callable[[float], None] = lambda lag_s: None) -> None:
        self._on_lag = on_lag
        self._started = time.monotonic()
        self._due = self._started
        self._lag_s = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = time.monotonic() + _SAMPLE_S
            await asyncio.sleep(_SAMPLE_S)
            lag_s = max(0.0, time.monotonic() - self._due)
            self._lag_s = max(self._lag_s, lag_s)
            self._on_lag(lag_s)

    def take(self) -> Vitals:
        """The vitals now, with the longest lag since they were last taken."""
        here = time.monotonic()
        lag_s = max(self._lag_s, here - self._due if here > self._due else 0.0)  # a timer may be late at this moment
        self._lag_s = 0.0
        return Vitals(here - self._started, lag_s * 1000, rss_bytes())


def rss_bytes() -> int | None:
    """Memory in use (resident set); None where the system does not tell.

    Source: proc(5), statm: the second field counts pages.
    """
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
