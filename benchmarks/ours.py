"""The path of a price through marginwatch: socket, `decode_market`, inbox, `Core.step` with the default rules."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from decimal import Decimal

from websockets.asyncio.client import ClientConnection, connect

from benchmarks import scene
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
    Now,
    Position,
    PositionsRead,
    Side,
    Tick,
)
from monitor.incidents import IncidentKey
from monitor.rules import MarginRatioRule, Severity
from monitor.shell.inbox import Inbox
from monitor.venues import VENUES

MARKET = "binance-usdm"
POOL = "cross-usdt"
TICK = b'{"e":"tick"}'


def watching(given: scene.Scene) -> Core:
    """A core that knows all of the scene, as after its first snapshots."""
    setups = tuple(AccountSetup(account.name, MARKET, MARKET) for account in given.accounts)
    core = Core(Setup(setups), _at(scene.START_MS - 1000))
    tables = {
        s: tuple(Bracket(i + 1, t.floor, t.rate, t.amount) for i, t in enumerate(given.tiers)) for s in given.held
    }
    events: list[Event] = [LinkReport(LinkId(INSTANCE, MARKET), LinkState.LIVE)]
    events += [MarkPrice(MARKET, s, given.prices[s], scene.START_MS, None, None) for s in given.held]
    for account in given.accounts:
        rows = [Position(*_row(h), False, Decimal(0), scene.START_MS, "USDT") for h in account.holdings]
        balance = Balance("USDT", account.wallet_balance, account.wallet_balance, scene.START_MS)
        events += [
            *(LinkReport(LinkId(account.name, link), LinkState.LIVE) for link in ("private", "rest")),
            BracketsRead(account.name, tables),
            BalancesRead(account.name, (balance,), scene.START_MS),
            PositionsRead(account.name, tuple((row, None) for row in rows), scene.START_MS),
        ]
    core.step(events, _at(scene.START_MS))
    while core.is_behind:
        core.step([], _at(scene.START_MS))
    return core


def _row(holding: scene.Holding) -> tuple[str, Side, Decimal, Decimal]:
    return holding.symbol, Side.BOTH, holding.quantity, holding.entry_price


def _at(at_ms: int) -> Now:
    """The scene's own time, so that holds and windows do not hang on how fast this machine is."""
    return Now((at_ms - scene.START_MS) / 1000, at_ms)


class Watch:
    """The core, and beside it, outside of what is timed, a note of each level that a ratio has crossed."""

    def __init__(self, given: scene.Scene) -> None:
        self.core = watching(given)
        self.frames = 0
        self.told = 0
        self.crossings: list[tuple[int, str, int]] = []
        self.faults: list[str] = []
        self._levels = dict.fromkeys(self.core.accounts, 0)
        self._note([])

    def step(self, events: Sequence[Event]) -> int:
        """One step. Returns when it was through."""
        marks = [event for event in events[-1:] if isinstance(event, MarkPrice)]
        effects = self.core.step(events, _at(marks[0].at_ms))
        while self.core.is_behind:
            effects += self.core.step([], _at(marks[0].at_ms))
        through = time.monotonic_ns()
        self.frames += 1
        self._note(effects)
        return through

    def tick(self) -> tuple[int, int]:
        """What the daemon does once a second: publish what has changed. Returns when it began and when it ended."""
        latest = max(mark.at_ms for mark in self.core.markets[MARKET].marks.values())
        began = time.monotonic_ns()
        self.core.step([Tick()], _at(latest))
        return began, time.monotonic_ns()

    def _note(self, effects: Sequence[Effect]) -> None:
        stories = [e for e in effects if isinstance(e, Story)]
        self.told += len(stories)
        for name, account in self.core.accounts.items():
            risk = account.risks[POOL]
            rule = account.rule("margin_ratio", risk.pool)
            assert isinstance(rule, MarginRatioRule)
            level = sum(step.fires(risk.margin_ratio) for step in rule.steps)
            if level != self._levels[name]:
                self._levels[name] = level
                self.crossings.append((self.frames, name, level))
            self._check(name, level)
        for story in stories:
            incident = story.change.incident
            if incident.rule == "margin_ratio" and story.change.kind in ("opened", "worsened"):
                deserved = _severity(self._levels[incident.account])
                raised = deserved is Severity.WARNING and incident.severity is Severity.CRITICAL  # close to liquidation
                if incident.severity is not deserved and not raised:
                    self.faults.append(f"{incident.account} told {incident.severity.word}, is {deserved.word}")

    def _check(self, name: str, level: int) -> None:
        """What is open must be at least as severe as the level, which is what the rule promises."""
        incident = self.core.incidents.open.get(IncidentKey(name, "margin_ratio", POOL))
        severity = Severity.OK if incident is None else incident.severity
        if severity < _severity(level):
            self.faults.append(f"{name} at {_severity(level).word}, incident {severity.word}")


def _severity(level: int) -> Severity:
    return Severity(Severity.INFO + level) if level else Severity.OK


async def main(url: str, accounts: int, positions: int, shape: str) -> None:
    venue = VENUES[MARKET]
    given = scene.make(accounts, positions)
    held = frozenset(given.held)
    watch = Watch(given)
    inbox = Inbox()
    ready = 0

    async def read(socket: ClientConnection) -> None:
        nonlocal ready
        while True:
            async with asyncio.timeout(60):
                raw = await socket.recv(decode=False)
                events = venue.decode_market(raw, MARKET, held)
            ready = time.monotonic_ns()
            if events:
                inbox.put(events)
            elif raw == TICK:
                await socket.send("{} {}".format(*watch.tick()))
            else:
                answer = {"crossings": watch.crossings, "told": watch.told, "faults": watch.faults[:20]}
                await socket.send(json.dumps(answer))

    async def pump(socket: ClientConnection) -> None:
        while True:
            through = watch.step(await inbox.take())
            await socket.send(f"{ready} {through}")

    async with connect(f"{url}/{shape}", max_size=16 * 2**20) as socket, asyncio.TaskGroup() as tasks:
        tasks.create_task(pump(socket), name="pump")
        tasks.create_task(read(socket), name="read")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
