"""The daemon as a process that is killed, frozen and started again; its log lines come with the second they came at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig import ROOT, until


@dataclass
class Life:
    """A time in which the daemon ran without a break, from where it said that it has started; how long that takes is
    the machine's business. Monotonic seconds; ended: None while it runs."""

    began: float
    ended: float | None = None


@dataclass(frozen=True)
class Line:
    """A log line. at: monotonic seconds at which it came out of the pipe."""

    at: float
    said: dict[str, Any]


class DaemonProcess:
    """`marginwatch run` with a config file, as a user runs it.

    Args:
        env: Added to the environment.

    Attributes:
        lines: Of all its lives, in order.
        lives: When it ran.
        died: Ends that nobody asked for, with their exit status.
    """

    def __init__(self, config: Path, env: Mapping[str, str]) -> None:
        self._config = config
        self._env = {**os.environ, **env}
        self._log = config.parent / "daemon.log"
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._begun = 0.0
        self._is_frozen = False
        self.lines: list[Line] = []
        self.lives: list[Life] = []
        self.died: list[str] = []

    async def start(self) -> None:
        with (self._config.parent / "stderr.log").open("ab") as err:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "monitor", "run", "--config", str(self._config)),
                cwd=ROOT,
                env=self._env,
                stdout=asyncio.subprocess.PIPE,
                stderr=err,
                limit=2**24,
            )
        self._begun = time.monotonic()
        self._reader = asyncio.create_task(self._read(self._process), name="daemon log")

    async def kill(self) -> None:
        """As a machine does that runs out of memory."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """As systemd does. Returns its exit status; one that has not started yet ends of the signal, which is none."""
        status = await self._end(signal.SIGTERM)
        has_started = any(line.at > self._begun for line in self.logged("started"))
        return status if has_started or status != -signal.SIGTERM else 0

    async def end(self) -> None:
        """Be gone, in whatever state it is."""
        if self._process is not None:
            await self.kill()

    def freeze(self) -> None:
        """As a host does that stops its guest for a while."""
        self._signal(signal.SIGSTOP)
        self._is_frozen = self._rests()

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        if self._is_frozen:
            self._is_frozen = False
            self.lives.append(Life(time.monotonic()))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        path = self._config.parent / "stderr.log"
        return path.read_text("utf-8") if path.exists() else ""

    def logged(self, event: str) -> list[Line]:
        return [line for line in self.lines if line.said["event"] == event]

    def _rests(self) -> bool:
        """Its life is over, for now; whether it had one."""
        lives = bool(self.lives) and self.lives[-1].ended is None
        if lives:
            self.lives[-1].ended = time.monotonic()
        return lives

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):  # it has died by itself, which _read has noticed
            self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        assert self._reader is not None
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            process.send_signal(number)
        status = await asyncio.wait_for(process.wait(), 30)
        await self._reader
        return status

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with self._log.open("ab") as log:
            while line := await process.stdout.readline():
                log.write(line)
                if line.endswith(b"\n"):
                    self.lines.append(Line(time.monotonic(), json.loads(line)))
                    if self.lines[-1].said["event"] == "started":
                        self.lives.append(Life(self.lines[-1].at))
        status = await process.wait()
        self._rests()
        if self._process is process:
            self.died.append(f"exit status {status}")

    async def ready(self, within_s: float = 30.0) -> None:
        await until(
            lambda: any(line.at > self._begun for line in self.logged("ready")), "the daemon is ready", within_s
        )
