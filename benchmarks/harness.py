"""Variants side by side: each in a process of its own, fed over websockets with TLS, round for round in turn.

A frame is sent when the one before it has been decided, so that every frame finds its receiver asleep, as a mark price
does that comes once a second. All variants get the same marks.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).parent.parent
_PATIENCE_S = 300.0


class Round(NamedTuple):
    """Microseconds of each frame: from just before it was sent until it was decided, and of that, of CPU."""

    wall: list[float]
    cpu: list[float]


class Worker:
    """A variant that runs and waits for frames."""

    def __init__(self, variant: str, process: asyncio.subprocess.Process, socket: ServerConnection) -> None:
        self.variant = variant
        self.rounds: list[Round] = []
        self._process = process
        self._socket = socket

    async def run(self, frames: Sequence[bytes]) -> None:
        """One turn."""
        done = Round([], [])
        for frame in frames:
            sent = time.monotonic_ns()
            await self._socket.send(frame, text=True)
            through, cpu = map(int, (await self._line()).split())
            done.wall.append((through - sent) / 1000)
            done.cpu.append(cpu / 1000)
        self.rounds.append(done)

    async def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return json.loads(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.variant} has ended")
        return line


@asynccontextmanager
async def workers(variants: Sequence[str], *given: object) -> AsyncIterator[list[Worker]]:
    """Each variant in a process of its own, connected to a port of its own."""
    async with AsyncExitStack() as open_ones:
        folder = open_ones.enter_context(TemporaryDirectory())
        certificate = Path(folder) / "certificate.pem"
        secured = _secured(certificate)
        processes: list[asyncio.subprocess.Process] = []

        async def begin(variant: str) -> Worker:
            arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()

            async def handler(socket: ServerConnection) -> None:
                arrived.put_nowait(socket)
                with suppress(ConnectionClosed):
                    async for _ in socket:
                        pass  # subscriptions: all frames come anyway

            options: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1}
            server = await open_ones.enter_async_context(serve(handler, "127.0.0.1", 0, ssl=secured, **options))
            url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.worker", variant, url, *map(str, given)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**28,
                cwd=ROOT,
                env={**os.environ, "NO_PROXY": "127.0.0.1", "SSL_CERT_FILE": str(certificate)},
            )
            processes.append(process)
            getter, ended = asyncio.ensure_future(arrived.get()), asyncio.ensure_future(process.wait())
            await asyncio.wait([getter, ended], timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not getter.done():
                getter.cancel()
                raise RuntimeError(f"{variant} did not connect")
            return Worker(variant, process, getter.result())

        try:
            yield await asyncio.gather(*map(begin, variants))
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


def _secured(certificate: Path) -> ssl.SSLContext:
    """TLS with a certificate that lasts for a day."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    files = ["-keyout", str(certificate), "-out", f"{certificate}.crt"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    with certificate.open("a") as both:
        both.write(Path(f"{certificate}.crt").read_text())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def figures(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and 99th percentile of all values; of each round its median."""
    values = sorted(value for one in rounds for value in one)
    return {
        "p50": round(median(values), 1),
        "p99": round(values[min(len(values) - 1, int(len(values) * 0.99))], 1),
        "rounds": [round(median(one), 1) for one in rounds],
    }


def ratio(of: dict[str, Any], to: dict[str, Any]) -> float:
    """Median of the ratios round by round, so that what slows the machine for a while slows both."""
    ratios: list[float] = [a / b for a, b in zip(of["rounds"], to["rounds"], strict=True)]
    return round(median(ratios), 3)


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
    names = ("marginwatch", "msgspec", "websockets", "numpy", "python-binance", "ccxt", "aiomqtt")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in names}},
    }


def version_of(name: str) -> str | None:
    """Of an installed package; None: it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Note the processor time of what is done (µs)."""
    begun = time.process_time_ns()
    yield
    into.append((time.process_time_ns() - begun) / 1000)


def spread(found: dict[str, Any]) -> str:
    """A median with the range of its rounds."""
    return f"{found['p50']:,.0f} ({min(found['rounds']):,.0f} – {max(found['rounds']):,.0f})"
