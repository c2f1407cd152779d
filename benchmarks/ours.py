"""The path of a price through marginwatch: socket, market feed, inbox, `Core.step` with the default rules."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from benchmarks import scene, worker
from monitor.config import AccountConfig, LinksConfig
from monitor.config_values import Secret
from monitor.core import Core, Setup
from monitor.effects import INSTANCE, AccountSetup, Effect, Story
from monitor.events import (
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    Event,
    LinkId,
    LinkReport,
    LinkState,
    MarkPrice,
    Marks,
    Now,
    Position,
    PositionsRead,
    Side,
    Tick,
)
from monitor.rules import Severity
from monitor.shell import logs
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from monitor.shell.rest import Budget, Rest
from monitor.shell.vitals import settle_memory
from monitor.venues import Hosts

MARKET = "binance-usdm"
POOL = "cross-usdt"


def watching(given: scene.Scene) -> Core:
    """A core that knows all of the scene, as after its first snapshots."""
    setups = tuple(AccountSetup(account.name, MARKET, MARKET) for account in given.accounts)
    core = Core(Setup(setups), _at(scene.START_MS - 1000))
    tables = {
        s: tuple(Bracket(i + 1, t.floor, t.rate, t.amount) for i, t in enumerate(given.tiers)) for s in given.held
    }
    events: list[Event] = [LinkReport(LinkId(INSTANCE, MARKET), LinkState.LIVE)]
    events.append(marks_of(given, scene.START_MS))
    for account in given.accounts:
        rows = [Position(*_row(h), False, Decimal(0), scene.START_MS, "USDT") for h in account.holdings]
        balance = Balance("USDT", account.wallet_balance, account.wallet_balance, scene.START_MS)
        events += [
            *(LinkReport(LinkId(account.name, link), LinkState.LIVE) for link in ("private", "rest")),
            BracketsRead(account.name, tables),
            BalancesRead(account.name, (balance,), scene.START_MS),
            PositionsRead(account.name, tuple((row, None) for row in rows), scene.START_MS),
        ]
    _settled(core, events, _at(scene.START_MS))
    return core


def _settled(core: Core, events: Sequence[Event], at: Now) -> list[Effect]:
    """A step, and those that follow it while the core has more to look at."""
    effects = core.step(events, at)
    while core.is_behind:
        effects += core.step([], at)
    return effects


def marks_of(given: scene.Scene, at_ms: int) -> Marks:
    """The marks of the beginning, once more."""
    texts = [str(given.prices[symbol]) for symbol in given.held]
    count = len(texts)
    return Marks(MARKET, given.held, texts, [*map(float, texts)], [at_ms] * count, [(None, None)] * count, tuple)


def _row(holding: scene.Holding) -> tuple[str, Side, Decimal, Decimal]:
    return holding.symbol, Side.BOTH, holding.quantity, holding.entry_price


def _at(at_ms: int) -> Now:
    """The scene's own time, so that holds and windows do not hang on how fast this machine is."""
    return Now((at_ms - scene.START_MS) / 1000, at_ms)


class Watch:
    """The core, and beside it, outside of what is timed, a note of how severe each account's open incident is."""

    def __init__(self, given: scene.Scene) -> None:
        self.core = watching(given)
        self.frames = 0
        self.severities: list[tuple[int, str, int]] = []
        self._open: dict[str, Severity] = {}
        self._told = 0
        self._at = _at(scene.START_MS)
        self.note([])

    def step(self, events: Sequence[Event]) -> list[Effect]:
        """All that follows from the marks of one frame."""
        return self.decide(events) + self.settle()

    def decide(self, events: Sequence[Event]) -> list[Effect]:
        """What is to be told of them."""
        last = events[-1]
        assert isinstance(last, MarkPrice | Marks)
        self._at = _at(last.at_ms if isinstance(last, MarkPrice) else last.at_ms[0])
        effects = self.core.step(events, self._at)
        while self.core.is_undecided:
            effects += self.core.step([], self._at)
        return effects

    def settle(self) -> list[Effect]:
        """What the daemon does once it has told that: find zones for the pools that it was about."""
        return _settled(self.core, [], self._at) if self.core.is_behind else []

    def tick(self) -> dict[str, float]:
        """What the daemon does once a second: judge by time, and publish what has changed. Microseconds."""
        wall, cpu = time.monotonic_ns(), time.process_time_ns()
        _settled(self.core, [Tick()], self._at)
        return {"us": (time.monotonic_ns() - wall) / 1000, "cpu_us": (time.process_time_ns() - cpu) / 1000}

    def note(self, effects: Sequence[Effect]) -> None:
        """Write down whose incident has changed with this frame."""
        self._told += sum(isinstance(effect, Story) for effect in effects)
        found = {i.account: i.severity for i in self.core.incidents if i.rule == "margin_ratio"}
        for name in self._open.keys() | found.keys():
            severity = found.get(name, Severity.OK)
            if severity is not self._open.get(name, Severity.OK):
                self.severities.append((self.frames, name, severity - Severity.INFO))
        self._open = found
        self.frames += 1

    def report(self) -> dict[str, Any]:
        return {"severities": self.severities, "told": self._told}


async def run(url: str, given: scene.Scene) -> None:
    logs.setup(level="warning", stream=sys.stderr)
    desk = worker.Desk()
    watch = Watch(given)
    inbox = Inbox()
    feed = market_feed(url, inbox)
    feed.watch(given.held)
    settle_memory(len(given.accounts))  # as the daemon does once it is ready

    async def pump() -> None:
        while True:
            events = await inbox.take()
            if not inbox.marks:
                continue  # how the link fares
            effects = watch.decide(events)
            desk.decided()
            effects += watch.settle()
            desk.spent()
            watch.note(effects)
            desk.answer()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.serve({"report": watch.report, "tick": watch.tick}))
        tasks.create_task(feed.keep())
        tasks.create_task(pump())


def market_feed(url: str, inbox: Inbox) -> MarketFeed:
    """The daemon's own link to the market, with patience for whoever has the turn before us."""
    hosts = Hosts("", url, "", "")
    links = LinksConfig(compression=False, first_frame_s=3600, ping_interval_s=3600)
    account = AccountConfig("", MARKET, Secret("env", ""), Secret("env", ""), "custom", hosts, MARKET)
    return MarketFeed(account, Rest(hosts, Budget(0), 1), inbox, links)
