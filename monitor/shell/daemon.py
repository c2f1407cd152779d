"""The daemon: one TaskGroup of named tasks, from the opening of the store to the last word to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import structs

from monitor.config import Config, after
from monitor.config_values import Secret
from monitor.errors import StoreError
from monitor.events import Now, StoreState
from monitor.message import Message
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.feeds import Part
from monitor.shell.inbox import Inbox
from monitor.shell.owed import Batch, Found
from monitor.shell.runtime import Runtime
from monitor.shell.store import Store
from monitor.shell.tap import Tap
from monitor.shell.tasks import ended
from monitor.shell.vitals import Pulse
from monitor.tally import Tally


class Daemon:
    """The whole monitor, running.

    Args:
        found: The secrets that the config names.
        on_sent: Called with each message that the broker has taken (the demo listens here).
        tap: Told of everything that the links hear.
    """

    def __init__(
        self,
        config: Config,
        found: dict[Secret, str],
        on_sent: Callable[[Message], None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._config = config
        self._found = found
        self._on_sent = on_sent
        self._tap = tap
        self._log = logs.logger()
        self._tally = Tally()
        self.pulse = Pulse(self._tally.loop_delays.observe)
        self._inbox = Inbox()
        self._store = Store(
            settings.store_path(config),
            config.store.keep_days,
            self._guarded(self._kept),
            self._guarded(self._store_is),
            self._guarded(self._found_late),
        )
        self._store_works = False
        self._callback_failed = asyncio.Event()
        self._failure: Exception | None = None
        self._runtime: Runtime | None = None
        """None: the store has not answered yet."""

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until told to stop. An unexpected exception ends everything: systemd starts us anew."""
        started = now()
        try:
            left = await self._open_store(stop)
            if left is not None:
                await self._watch(stop, started, left)
        finally:
            await self._store.close()
            if self._runtime is None:
                self._log.info("stopped before it began")
            else:
                self._log.info("stopped", unsent_events=self._runtime.outbox.waiting_events)

    async def _watch(self, stop: asyncio.Event, started: Now, left: Found) -> None:
        runtime = self._runtime = Runtime(
            self._config,
            self._found,
            left,
            started,
            self._inbox,
            self._store,
            lambda: self._store_works,
            self.pulse,
            self._tally,
            self._on_sent,
            self._tap,
        )
        try:
            async with asyncio.TaskGroup() as tasks:

                def begin(part: Part, name: str) -> asyncio.Task[None]:
                    return tasks.create_task(_run(part, runtime), name=name)

                broker = tasks.create_task(runtime.broker.run(), name="broker")
                others = [begin(part, name) for name, part in [*runtime.parts, ("callbacks", self._callbacks)]]
                runtime.feeds.run(begin)
                await stop.wait()
                runtime.life.stopping()
                runtime.feeds.stop()
                await ended(*others)
                await runtime.feeds.close()
                runtime.broker.stop()
                await asyncio.wait([broker], timeout=8)
                await ended(broker)
        finally:
            await runtime.close()

    def take(self, config: Config, found: dict[Secret, str]) -> None:
        """Judge by the rules and watch the accounts of this config from now on; of all else the old one is in force.

        Args:
            found: The secrets that it names.
        """
        if self._runtime is not None:
            self._runtime.take(config, found)
            return
        config = after(self._config, config)  # as if we had begun with it, once a slow disk has answered
        self._config = structs.replace(self._config, rules=config.rules, accounts=config.accounts)
        self._found = {**self._found, **found}  # what is read once may have another name in this one

    # ---- the store ----

    async def _open_store(self, stop: asyncio.Event) -> Found | None:
        """What an earlier run has left; None: we were told to stop while a slow disk had not answered yet."""
        opening = asyncio.create_task(self._store.open(), name="store")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            await ended(opening, stopping)

    def _guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """What the store calls back is as much a part of us: where it fails, an event may never be released."""

        def call(*args: Any) -> None:
            try:
                function(*args)
            except Exception as exc:
                self._failure = self._failure or exc
                self._callback_failed.set()

        return call

    async def _callbacks(self) -> None:
        """Fail with whatever fails in a callback."""
        await self._callback_failed.wait()
        assert self._failure is not None
        raise self._failure

    def _kept(self, batch: Batch, error: StoreError | None) -> None:
        assert self._runtime is not None
        self._runtime.kept(batch)

    def _store_is(self, reason: str | None) -> None:
        """The store cannot be used, or can again: that is told like all else that goes wrong."""
        self._store_works = reason is None
        self._inbox.put([StoreState(reason)])

    def _found_late(self, found: Found) -> None:
        if self._runtime is None:  # given up on a moment ago, and we are about to begin without it
            asyncio.get_running_loop().call_soon(self._guarded(self._found_late), found)
        else:
            self._runtime.found_late(found)


async def _run(part: Part, runtime: Runtime) -> None:
    """Run a part of the daemon. Where it fails, which is a bug, the others end with it."""
    try:
        await part()
    except Exception:
        runtime.feeds.stop()
        runtime.broker.stop()
        raise
