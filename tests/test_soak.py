"""A day in a minute: rotations, fundings, expired keys, reconnects. Memory stays flat, and nothing is left open."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from statistics import linear_regression
from types import CoroutineType
from typing import Any

from monitor.sim import Exchange
from monitor.sim.connection import Connection
from tests import stories
from tests.chaos.process import DaemonProcess
from tests.rig import ROOT, Listener, Mosquitto, agreement, until, watching, write_config

SHELL = ROOT / "monitor" / "shell"
SOAK_S = float(os.environ.get("MARGINWATCH_SOAK_S", "60"))
FRAME_S = 1 / 60
HOUR_S = 3600 * FRAME_S
"""In which as many frames of marks come as in an hour of one a second."""
LIFE_S = 2.0
"""Of a connection, before it is renewed; in a day each is renewed once, here many times."""
DAY = {"connection_life_s": LIFE_S, "keepalive_s": 1, "refresh_s": 2, "clock_s": 2, "reconcile_s": 0.4}
PATIENT = {"data_stale": {"steps": [{"at": 15, "clear": 0.8, "severity": "warning"}]}}
"""As by default: a link that is cut every second may be away for one on a busy machine, and nobody need hear of it."""
GROWTH_BYTES = 6 * 2**20
"""What a process may gain from the middle of the soak to its end, and by the slope of that half in an hour of frames:
caches that fill, an allocator that keeps pages."""


class Vital:
    """What a process holds, read from outside."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    def resident_bytes(self) -> int:
        return int((self._proc / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))


async def a_day(exchange: Exchange, seconds: float, seen: Callable[[], None]) -> int:
    """Everything that happens in a day, and fifty reconnects, in so many seconds. Returns how often it was cut."""
    random = Random(1)
    begun = time.monotonic()
    cuts = turn = 0
    while (passed := time.monotonic() - begun) < seconds:
        turn += 1
        if turn % 8 == 0:
            exchange.drop(random.choice(("market", "private")))
            cuts += 1
        if turn % 60 == 0:
            exchange.expire_listen_key("main")
        if turn % 100 == 30:
            exchange.fund("BTCUSDT", Decimal("0.0001") * (1 if turn % 200 == 30 else -1))
        if turn % 40 == 0:
            exchange.set_mark("BTCUSDT", "53000" if turn % 80 == 0 else "60000")
        exchange.set_mark("SOLUSDT", str(150 + turn % 5))
        seen()
        await asyncio.sleep(min(0.1, seconds - passed))
    return cuts


async def test_a_day_in_a_minute_leaves_memory_flat_and_nothing_open(lasting_broker: Mosquitto, tmp_path: Path) -> None:
    """Fine for two weeks and then silent is how monitors die that leak a task, a socket or a key."""
    async with stories.exchange(tick_s=FRAME_S) as exchange, Listener(lasting_broker.port) as listener:
        window = {"minutes": 0.1}  # as much as by default in real time: until it is full it is no leak
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, links=DAY, rules=PATIENT, recorder=window)
        daemon = DaemonProcess(config, {})
        await daemon.start()
        try:
            await agreement(exchange, listener, "main")
            vital = Vital(daemon.pid)
            memory: list[int] = []
            times: list[float] = []
            most_descriptors = 0

            def look() -> None:
                nonlocal most_descriptors
                memory.append(vital.resident_bytes())
                times.append(time.monotonic())
                most_descriptors = max(most_descriptors, vital.descriptors())

            before = vital.descriptors()
            cuts = await a_day(exchange, SOAK_S, look)
            exchange.set_mark("BTCUSDT", "60000")
            await agreement(exchange, listener, "main")
            await until(lambda: vital.descriptors() <= before + 3, "what was open for a change is closed", 30)
            threads = vital.threads()
            reconnects = sum(
                link["reconnects"]
                for topic in ("marginwatch/main/health", "marginwatch/_instance/health")
                for link in listener.retained(topic)["links"].values()
            )
            assert await daemon.stop() == 0
            assert daemon.stderr == ""
        finally:
            await daemon.end()

    half = len(memory) // 2
    growth = max(memory[-half // 4 :]) - max(memory[half - half // 4 : half])
    hourly = linear_regression(times[half:], memory[half:]).slope * HOUR_S
    print(f"{cuts} cuts, {reconnects} reconnects, {memory[0] >> 20} MB at first, {memory[-1] >> 20} MB at last")
    print(f"{hourly / 1024:+.0f} kB in an hour of frames, by the slope of {half} samples of the second half")
    print(f"{before} descriptors at first, {most_descriptors} at most, {threads} threads")
    assert max(growth, hourly) < GROWTH_BYTES, [size >> 10 for size in memory[:: max(1, len(memory) // 20)]]
    assert most_descriptors < before + 20
    assert threads < 12
    assert cuts >= SOAK_S * 0.8
    assert listener.events("data_stale") == []
    assert {e["event"] for e in listener.events("liquidation_distance")} == {"opened", "resolved"}


async def test_no_task_is_left_behind_by_fifty_reconnects(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Keepalive loops that live on after their connection have been reported of another library."""
    async with stories.exchange() as exchange:
        watched = watching(write_config(tmp_path / "d", exchange, broker.port, links=DAY))
        async with watched:
            await agreement(exchange, listener, "main")
            names = daemons_tasks()
            for cut in range(50):
                route = "private" if cut % 2 else "market"
                cut_off = exchange.streams.on(route)
                exchange.drop(route)
                await until(partial(is_back, exchange, route, cut_off), "it is back")
            await agreement(exchange, listener, "main")
            await until(lambda: daemons_tasks() == names, f"{names} run as before, not {daemons_tasks()}")
        gc.collect()


def is_back(exchange: Exchange, route: str, cut_off: list[Connection]) -> bool:
    """Whether there is a connection that is none of those."""
    return any(connection not in cut_off for connection in exchange.streams.on(route))


def daemons_tasks() -> list[str]:
    """Names of the lasting tasks of the daemon in this loop: those that come and go with a message are left out."""
    lasting = (
        "private",
        "keepalive",
        "reconcile",
        "facts",
        "pump",
        "tick",
        "pulse",
        "feed",
        "stream",
        "bridge",
        "refresh",
        "read",
    )
    names = [name_of(task) for task in asyncio.all_tasks()]
    return sorted(name for name in names if name.startswith((*lasting, UNNAMED)))


UNNAMED = "unnamed "


def name_of(task: asyncio.Task[Any]) -> str:
    """Its name; of one of the daemon's that was given none, what it does."""
    doing, name = task.get_coro(), task.get_name()
    if name.startswith("Task-") and isinstance(doing, CoroutineType):
        return f"{UNNAMED}{doing.__qualname__}" if Path(doing.cr_code.co_filename).is_relative_to(SHELL) else name
    return name
