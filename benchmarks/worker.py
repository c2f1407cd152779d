"""A variant's side of the pipe to the harness: it answers each frame with a line, and asks nothing.

What lies between `decided` (or `spent`) and `answer` is not timed, so that a variant may take note there of what it has
decided.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import scene


class Desk:
    """Answers to the harness: when a frame was decided, and the CPU that it has cost this process."""

    def __init__(self) -> None:
        self._through = self._cpu = 0
        self._begun = time.process_time_ns()

    def decided(self) -> None:
        """The decision about a frame stands."""
        self._through = time.monotonic_ns()
        self.spent()

    def spent(self) -> None:
        """What follows from it besides is done. Nobody waits for that, but it has cost CPU."""
        self._cpu = time.process_time_ns() - self._begun

    def answer(self) -> None:
        """Ready for the next frame."""
        sys.stdout.write(f"{self._through} {self._cpu}\n")
        sys.stdout.flush()
        self._begun = time.process_time_ns()

    async def serve(self, commands: Mapping[str, Callable[[], Any]]) -> None:
        """Answer what is asked by name on standard input, until it ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            print(json.dumps(commands[line.decode().strip()]()), flush=True)
            self._begun = time.process_time_ns()


async def main(variant: str, url: str, accounts: str, positions: str, near: str) -> None:
    """Run a variant on a scene; each has `run(url, scene)`."""
    given = scene.make(int(accounts), int(positions), float(near))
    await importlib.import_module(f"benchmarks.{variant}").run(url, given)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
