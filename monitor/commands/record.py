"""`marginwatch record`: what the links say, into a session file, until it is told to stop. Nothing is published."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from monitor.commands import complain
from monitor.config import Config
from monitor.config_values import Secret
from monitor.core import Core
from monitor.effects import Resync, Watch
from monitor.errors import ConfigError
from monitor.events import Tick
from monitor.recording import Opening, Secrets
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.feeds import Feeds
from monitor.shell.inbox import Inbox
from monitor.shell.sessions import SessionWriter
from monitor.shell.tasks import ended


def main(config_path: str | None, out: str) -> int:
    try:
        config = settings.load(settings.find(config_path))
        found = settings.fetch(config)
    except ConfigError as exc:
        return complain(exc)
    logs.setup(config.log.format, config.log.level, sys.stderr)
    return asyncio.run(_record(config, found, Path(out)))


async def _record(config: Config, found: Mapping[Secret, str], path: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    failures: list[str] = []

    def failed(reason: str) -> None:
        failures.append(reason)
        stop.set()

    opening = Opening(now().wall_ms, instance=config.instance or socket.gethostname(), setup=config.setup)
    try:
        writer = SessionWriter(path, opening, Secrets(found.values()), failed)
    except FileExistsError:
        print(f"marginwatch record: {path} exists; give another name, or move it away", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"marginwatch record: {path}: {exc.strerror}", file=sys.stderr)
        return 1
    print(f"recording to {path}; Ctrl-C ends it", file=sys.stderr)
    try:
        await _Listener(config, found, writer).run(stop)
    finally:
        writer.close()
    if failures:
        print(f"marginwatch record: {path}: {failures[0]}; what it has until then can be replayed", file=sys.stderr)
        return 1
    print(f"{writer.lines} lines; see `marginwatch replay {path}`", file=sys.stderr)
    return 0


class _Listener:
    """The links as the daemon has them; the core says what they have to bring, and what it tells is not heard."""

    def __init__(self, config: Config, found: Mapping[Secret, str], writer: SessionWriter) -> None:
        self._inbox = Inbox()
        self._core = Core(config.setup, now())
        self._tick_s = config.links.tick_s
        self._feeds = Feeds(config, found, self._inbox, writer)

    async def run(self, stop: asyncio.Event) -> None:
        parts = [asyncio.create_task(feed.run(), name=f"feed[{feed.link.name}]") for feed in self._feeds.all]
        parts += [asyncio.create_task(self._pump(), name="pump"), asyncio.create_task(self._tick(), name="tick")]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feeds.stop()
            await ended(stopping, *parts)
            await self._feeds.close()
        for part in parts:
            if not part.cancelled():
                part.result()  # what ends by itself has failed: a bug

    async def _tick(self) -> None:
        while True:
            self._inbox.put([Tick()])
            await asyncio.sleep(self._tick_s)

    async def _pump(self) -> None:
        while True:
            for effect in self._core.step(await self._inbox.take(), now()):
                if isinstance(effect, Watch | Resync):
                    self._feeds.heed(effect)
