"""What links put into their inbox, and running one beside a test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TypeVar

from monitor.config import AccountConfig, LinksConfig
from monitor.events import Event, LinkReport, LinkState, MarkPrice, Marks
from monitor.pace import Pace
from monitor.shell.account_feed import AccountFeed
from monitor.shell.feed import Feed
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Budget, Rest
from monitor.shell.shared_stream import SharedStreams
from monitor.shell.tap import Tap

T = TypeVar("T")
WAIT_S = 10.0


def each_mark(events: Iterable[Event]) -> list[MarkPrice]:
    """The marks among events, those of whole frames one by one."""
    found: list[MarkPrice] = []
    for event in events:
        found += [event] if isinstance(event, MarkPrice) else event.each if isinstance(event, Marks) else []
    return found


class Heard:
    """What the links have put into their inbox, in order.

    Attributes:
        seen: How often each mark has come, by symbol and price.
        budget: Of their address.
    """

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.budget = Budget(100_000)
        self.events: list[Event] = []
        self.seen: Counter[tuple[str, Decimal]] = Counter()

    async def until(self, probe: Callable[[], object]) -> None:
        """Take what comes until this is true."""
        async with asyncio.timeout(WAIT_S):
            while not probe():
                taken = await self.inbox.take()
                self.events += taken
                self.seen.update((mark.symbol, mark.price) for mark in each_mark(taken))

    async def first(self, kind: type[T]) -> T:
        """The first event of this kind, by now or soon."""

        def of_kind() -> list[T]:
            return [event for event in self.events if isinstance(event, kind)]

        await self.until(of_kind)
        return of_kind()[0]

    async def state(self, name: str, state: LinkState) -> LinkReport:
        """The first report of this state of a link."""

        def reports() -> list[LinkReport]:
            told = [event for event in self.events if isinstance(event, LinkReport)]
            return [report for report in told if (report.link.name, report.state) == (name, state)]

        await self.until(reports)
        return reports()[0]

    def states(self, name: str) -> list[LinkState]:
        return [e.state for e in self.events if isinstance(e, LinkReport) and e.link.name == name]


def account_feed(
    setup: AccountConfig,
    rest: Rest,
    inbox: Inbox,
    links: LinksConfig,
    pace: Pace | None = None,
    tap: Tap | None = None,
    shared: SharedStreams | None = None,
) -> AccountFeed:
    """The link of an account that has its address for itself, where no pace is given."""
    pace = pace or Pace(links.reconcile_s, links.weight_per_minute / 2)
    return AccountFeed(setup, rest, inbox, links, pace, asyncio.Semaphore(), tap=tap, shared=shared)


@asynccontextmanager
async def running(feed: Feed, rest: Rest) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        feed.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rest.close()
