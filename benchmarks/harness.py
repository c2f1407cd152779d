"""Two variants side by side: each in its own process, fed by one loopback websocket server, round for round in turn.

A frame is sent when the one before it has been decided, so that every frame finds its receiver asleep, as a mark price
does that comes once a second. Both variants get the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection, serve

from benchmarks import scene

VARIANTS = {"ours": "benchmarks.ours", "baseline": "benchmarks.usual"}
_TICK = '{"e":"tick"}'
_REPORT = '{"e":"report"}'
_PATIENCE_S = 60.0


class Case(NamedTuple):
    """One thing to measure.

    Args:
        rounds: How often each variant has its turn.
        frames: How many frames a turn has.
    """

    accounts: int
    positions: int
    shape: scene.Shape
    rounds: int
    frames: int


FULL = (
    Case(1, 5, "symbol", 9, 300),
    Case(1, 5, "array", 9, 60),
    Case(100, 20, "symbol", 9, 150),
    Case(100, 20, "array", 9, 8),
)
QUICK = (
    Case(1, 5, "symbol", 3, 60),
    Case(1, 5, "array", 3, 15),
    Case(100, 20, "symbol", 3, 40),
    Case(100, 20, "array", 3, 4),
)


class Disagreement(Exception):
    """The variants have seen the same frames and come to different decisions."""


class _Round(NamedTuple):
    """Microseconds from a frame on its way (or, of `recompute`, from its content read) to the decision."""

    decision: list[float]
    recompute: list[float]


class _Worker:
    """A variant that runs and waits for frames."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.rounds: list[_Round] = []

    async def ask(self, frame: bytes | str) -> str:
        async with asyncio.timeout(_PATIENCE_S):
            await self._socket.send(frame, text=True)
            return str(await self._socket.recv())

    async def run(self, frames: list[bytes]) -> None:
        """One turn."""
        done = _Round([], [])
        for frame in frames:
            sent = time.monotonic_ns()
            ready, through = map(int, (await self.ask(frame)).split())
            done.decision.append((through - sent) / 1000)
            done.recompute.append((through - ready) / 1000)
        self.rounds.append(done)


async def measure(case: Case) -> dict[str, Any]:
    """Run one case.

    Raises:
        Disagreement: The level crossings are not the same.
    """
    given = scene.make(case.accounts, case.positions)
    stream = scene.frames(given, case.shape)
    warm_up = list(islice(stream, max(2, case.frames // 5)))
    turns = [list(islice(stream, case.frames)) for _ in range(case.rounds)]
    ticks: list[float] = []
    async with _workers(case) as workers:
        for worker in workers.values():
            await worker.run(warm_up)
            worker.rounds.clear()
        for frames in turns:
            for worker in workers.values():
                await worker.run(frames)
            began, ended = map(int, (await workers["ours"].ask(_TICK)).split())
            ticks.append((ended - began) / 1000)
        reports = {name: json.loads(await worker.ask(_REPORT)) for name, worker in workers.items()}
    crossings = _agreed(reports)
    figures = {name: _figures(worker.rounds) for name, worker in workers.items()}
    return {
        **case._asdict(),
        "held_symbols": len(given.held),
        "frame_bytes": round(median(len(frame) for frame in turns[0])),
        "crossings": len(crossings),
        "told": reports["ours"]["told"],
        "agree": True,
        **figures,
        "ratio": {
            name: round(figures["ours"][name]["median"] / figures["baseline"][name]["median"], 3)
            for name in figures["ours"]
        },
        "tick_us": _spread(ticks),
    }


def _agreed(reports: dict[str, Any]) -> list[Any]:
    """The level crossings that both variants have seen, each with its frame and account."""
    ours, baseline = (sorted(map(tuple, reports[name]["crossings"])) for name in VARIANTS)
    if ours != baseline:
        odd = sorted(set(ours) ^ set(baseline))
        raise Disagreement(f"{len(ours)} crossings here, {len(baseline)} there; the first that differs: {odd[:1]}")
    if reports["ours"]["faults"]:
        raise Disagreement(f"incidents do not fit the levels: {reports['ours']['faults']}")
    return ours


def _figures(rounds: list[_Round]) -> dict[str, dict[str, float]]:
    """Of each round the median and the mean frame; of these, over all rounds, median, smallest and largest."""
    return {
        "decision_us": _spread([median(r.decision) for r in rounds]),
        "decision_mean_us": _spread([fmean(r.decision) for r in rounds]),
        "recompute_us": _spread([median(r.recompute) for r in rounds]),
        "recompute_mean_us": _spread([fmean(r.recompute) for r in rounds]),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


@asynccontextmanager
async def _workers(case: Case) -> AsyncIterator[dict[str, _Worker]]:
    """Each variant in a process of its own, connected."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handler(socket: ServerConnection) -> None:
        arrived.put_nowait(socket)
        await socket.wait_closed()

    processes: list[asyncio.subprocess.Process] = []
    try:
        async with serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=1) as server:
            port = server.sockets[0].getsockname()[1]
            workers = {}
            try:
                for name, module in VARIANTS.items():
                    processes.append(await _start(module, f"ws://127.0.0.1:{port}", case))
                    workers[name] = _Worker(await _first(arrived, processes[-1]))
                yield workers
            finally:
                for process in processes:
                    if process.returncode is None:
                        process.kill()
    finally:
        for process in processes:
            await process.wait()


async def _start(module: str, url: str, case: Case) -> asyncio.subprocess.Process:
    given = (str(case.accounts), str(case.positions), case.shape)
    root = Path(__file__).parent.parent
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, url, *given, cwd=root, env={**os.environ, "NO_PROXY": "127.0.0.1"}
    )


async def _first(arrived: asyncio.Queue[ServerConnection], process: asyncio.subprocess.Process) -> ServerConnection:
    """The connection of a process that has just been started.

    Raises:
        RuntimeError: It ended, or was not there in time.
    """
    getter, ended = asyncio.ensure_future(arrived.get()), asyncio.ensure_future(process.wait())
    await asyncio.wait([getter, ended], timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not getter.done():
        getter.cancel()
        raise RuntimeError("a variant did not connect")
    return getter.result()


def about() -> dict[str, Any]:
    """Where and with what this was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith(("model name", "Model"))
        ),
        platform.processor() or "unknown",
    )
    names = ("marginwatch", "msgspec", "websockets", "python-binance")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
