"""How the daemon itself fares: how late its event loop is, and its memory."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import time
from collections.abc import Callable
from functools import cache

from monitor.events import Vitals
from monitor.shell.lookups import Loop

_SAMPLE_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM = "/proc/self/statm"
_YOUNG, _YOUNG_OF_MANY = 700, 2500
"""So many new objects make the garbage collector look at them: what Python has, and what takes two milliseconds."""
_YOUNG_OF_EACH = 10
_OFTEN, _OFTEN_OF_MANY = 10, 100
"""After so often it looks at all that it has come by meanwhile: what Python has, and what a storm does not reach."""


class Pulse:
    """Measures how late the event loop that it makes comes to what is due. A timer that measures would wake an idle
    daemon for nothing else; so the loop says each time when it was busy, and when timers would have come is worked out.
    Within another event loop nothing is measured.

    Args:
        on_lag: Called with the lag of each such timer, ten a second (seconds).
    """

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        self._on_lag = on_lag
        self._started = self._due = time.monotonic()
        self._busy_since: float | None = None
        self._lag_s = 0.0

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that is measured."""
        return Loop(_Selector(self))

    def busy(self, since: float) -> None:
        """What is due from now on has to wait until the loop is idle again (monotonic seconds)."""
        self._busy_since = since

    def idle(self) -> None:
        """The loop has nothing more to do for now."""
        here = time.monotonic()
        since = here if self._busy_since is None else self._busy_since
        self._busy_since = None
        self._lag_s = max(self._lag_s, here - since)
        while self._due <= here:
            self._on_lag(here - self._due if self._due > since else 0.0)
            self._due += _SAMPLE_S

    def take(self) -> Vitals:
        """The vitals now, with the longest lag since they were last taken."""
        here = time.monotonic()
        lag_s = max(self._lag_s, 0.0 if self._busy_since is None else here - self._busy_since)
        self._lag_s = 0.0
        return Vitals(here - self._started, lag_s * 1000, rss_bytes())


class _Selector(selectors.DefaultSelector):
    """What the event loop waits with."""

    def __init__(self, pulse: Pulse) -> None:
        super().__init__()
        self._pulse = pulse

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._pulse.idle()
        begun = time.monotonic()
        found = super().select(timeout)
        here = time.monotonic()
        # of what has been due since before it returned, the whole wait counts
        self._pulse.busy(here if timeout is None else min(here, begun + max(0.0, timeout)))
        return found


def rss_bytes() -> int | None:
    """Memory in use (resident set); None where the system does not tell.

    Source: proc(5), statm: the second field counts pages.
    """
    try:
        return int(os.pread(_statm(), 200, 0).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


@cache
def _statm() -> int:
    """Open for as long as we run: it is read once a second, and to open it costs ten times as much."""
    return os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)


def settle_memory(accounts: int) -> None:
    """Have the garbage collector pass over what there is now no more: it is there to stay.

    Of what is new most goes by itself. What a broken connection leaves does not, and should go soon; but a storm of
    alerts has the collector come by all that they have left, while they wait. So the more accounts there are, the less
    often it looks, and of very many only at what is new.
    """
    gc.freeze()
    young = _YOUNG + _YOUNG_OF_EACH * accounts
    if young < _YOUNG_OF_MANY:
        gc.set_threshold(young, _OFTEN)
    else:
        gc.set_threshold(_YOUNG_OF_MANY, _OFTEN_OF_MANY)
