"""The time as the core takes it: both clocks, read together."""

from __future__ import annotations

import time

from monitor.events import Now


def now() -> Now:
    return Now(time.monotonic(), time.time_ns() // 1_000_000)
