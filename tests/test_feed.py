"""The life of a link: sessions for ever, and an end when it is asked for."""

from __future__ import annotations

import asyncio

from monitor.config import LinksConfig
from monitor.errors import LinkDown
from monitor.events import LinkId
from monitor.shell.feed import _Link
from monitor.shell.inbox import Inbox


class Dying(_Link):
    """A link of which a part fails at the very moment at which all of it is told to end."""

    def __init__(self) -> None:
        super().__init__(LinkId("main", "private"), Inbox(), LinksConfig())
        self.open = asyncio.Event()

    async def session(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._part())
            await asyncio.Event().wait()

    async def _part(self) -> None:
        try:
            self.open.set()
            await asyncio.Event().wait()
        finally:
            raise LinkDown("the connection was lost just then")


class Failing(_Link):
    """A link of which a part fails in every session, while the session itself has nothing left to do."""

    def __init__(self) -> None:
        super().__init__(LinkId("main", "private"), Inbox(), LinksConfig(backoff_min_s=0.01, backoff_max_s=0.01))
        self.sessions = 0
        self.third = asyncio.Event()

    async def session(self) -> None:
        self.sessions += 1
        if self.sessions == 3:
            self.third.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._part())

    async def _part(self) -> None:
        raise LinkDown("connection lost")


async def test_a_link_that_fails_while_it_is_stopped_ends_all_the_same() -> None:
    """The group reports the failure alone; a loop that only retries would never end, and the daemon with it."""
    link = Dying()
    running = asyncio.create_task(link.run())
    await link.open.wait()
    link.stop()
    running.cancel()

    await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)
    assert running.done()


async def test_a_link_that_fails_of_itself_goes_on() -> None:
    """Being stopped is the only end; a failure is the beginning of the next session."""
    link = Failing()
    running = asyncio.create_task(link.run())
    await asyncio.wait_for(link.third.wait(), 10)

    assert not running.done()
    link.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
