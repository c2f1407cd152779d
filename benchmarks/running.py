"""What the daemon costs as a process: while little happens, while it starts, and where it only answers and ends."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import ROOT
from tests import stories
from tests.chaos.process import DaemonProcess
from tests.rig import MOSQUITTO, Mosquitto, write_config

_HELD = {"BTCUSDT": "60000", "ETHUSDT": "2950", "SOLUSDT": "151", "ADAUSDT": "0.41", "DOGEUSDT": "0.12"}
_SETTLED_S = 5
_COMMANDS = ("--version", "--help", "run --help", "status --help", "ack --help", "check --help")


def account(name: str) -> dict[str, Any]:
    """Five cross positions worth 1,000 USDT each, far from every level; entries are the simulated marks."""
    held = [{"symbol": s, "quantity": str(round(1000 / float(p), 3)), "entry_price": p} for s, p in _HELD.items()]
    return {"name": name, "balances": {"USDT": "5000"}, "position": held}


async def idle(quick: bool, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """One account, five symbols, a mark of each a second, defaults throughout, read from /proc."""
    if MOSQUITTO is None:
        tell("left out: there is no mosquitto")
        return None
    seconds = 5 if quick else 90
    async with _daemon(1) as daemon:
        await asyncio.sleep(_SETTLED_S)
        begun, used = time.monotonic(), cpu_s(daemon.pid)
        await asyncio.sleep(seconds)
        minutes = (time.monotonic() - begun) / 60
        found = {
            "seconds": seconds,
            "cpu_s_per_minute": round((cpu_s(daemon.pid) - used) / minutes, 3),
            **memory_mb(daemon.pid),
        }
    tell(
        f"one account, five symbols, a frame of each a second, over {seconds} s: {found['cpu_s_per_minute']} s of CPU a"
        f" minute, {found['resident_mb']} MB resident ({found['own_mb']} MB its own), {found['threads']} threads"
    )
    return found


async def start(quick: bool, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """From exec until `ready`, with so many accounts of a simulated exchange that limits nobody; and the commands."""
    found: dict[str, Any] = {"commands": {command: _command(command, 3 if quick else 9) for command in _COMMANDS}}
    for command, took in found["commands"].items():
        tell(f"marginwatch {command:16} {took['cpu_s']:.3f} s of CPU, {took['wall_s']:.3f} s")
    if MOSQUITTO is None:
        tell("left out: start-up of the daemon, there is no mosquitto")
        return found
    found["accounts"] = {}
    for accounts in (1,) if quick else (1, 10, 50):
        begun = time.monotonic()
        async with _daemon(accounts) as daemon:
            took = {"wall_s": round(time.monotonic() - begun, 2), "cpu_s": cpu_s(daemon.pid), **memory_mb(daemon.pid)}
        found["accounts"][accounts] = took
        tell(
            f"ready with {accounts:3} accounts: {took['wall_s']} s, {took['cpu_s']} s of CPU, {took['resident_mb']} MB"
        )
    return found


@asynccontextmanager
async def _daemon(accounts: int) -> AsyncIterator[DaemonProcess]:
    """A daemon that is ready, on defaults but for the exchange's limits, with mosquitto and an exchange beside it."""
    names = [f"account-{n:03}" for n in range(accounts)]
    with TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker")
        await broker.start()
        try:
            async with stories.exchange(*map(account, names), tick_s=1) as exchange:
                limit = {"weight_per_minute": 100_000}
                config = write_config(Path(folder) / "d", exchange, broker.port, names, hurried=False, links=limit)
                daemon = DaemonProcess(config, {})
                try:
                    await daemon.start()
                    await daemon.ready(300)
                    yield daemon
                finally:
                    await daemon.end()
        finally:
            broker.stop()


def cpu_s(pid: int) -> float:
    """CPU that a process has used, of its own and of the kernel for it. Source: proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def memory_mb(pid: int) -> dict[str, float]:
    """Megabytes: `resident`, and `own` without the files it has mapped. Source: proc_pid_status(5)."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    found = {line[0].rstrip(":"): line[1] for line in lines if len(line) > 1}
    return {
        "resident_mb": round(int(found["VmRSS"]) / 1024, 1),
        "own_mb": round(int(found["RssAnon"]) / 1024, 1),
        "threads": int(found["Threads"]),
    }


def _command(command: str, times: int) -> dict[str, float]:
    """Medians of a command that ends at once."""
    wall, cpu = [], []
    for _ in range(times):
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "monitor", *command.split()], cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.monotonic() - begun)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"wall_s": round(median(wall), 3), "cpu_s": round(median(cpu), 3)}
