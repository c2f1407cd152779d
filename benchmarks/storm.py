"""A fall that takes every account over a level in one tick: `python -m benchmarks.storm [--quick] [--json FILE]`

The real core, store, outbox and broker connection, against a real mosquitto on loopback, put together as the daemon
puts them together; only the links to the exchange are missing, since what they bring is one mark. Measured is what the
one asleep depends on: when the first alert is at the broker after the decision, when all are, and for how long nothing
else had its turn meanwhile. The processor time tells what it would be on a machine with nothing else to do.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.config import MqttConfig
from monitor.core import Core, Setup
from monitor.effects import INSTANCE, AccountSetup, Effect, Save
from monitor.encoder import Encoder
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
    Position,
    PositionsRead,
    Side,
    Tick,
)
from monitor.message import Identity, Message
from monitor.outbox import Outbox
from monitor.rules import DEFAULTS, LiquidationDistanceRule, RuleBook
from monitor.shell import logs
from monitor.shell.broker import Broker
from monitor.shell.clock import now
from monitor.shell.inbox import Inbox
from monitor.shell.owed import Batch
from monitor.shell.runtime import FIRST_S
from monitor.shell.store import Store
from monitor.shell.vitals import settle_memory

MARKET = "binance-usdm"
_RULES = RuleBook({**DEFAULTS, "liquidation_distance": LiquidationDistanceRule(enabled=False)})
"""One rule, so that one crossing is one alert."""
_TABLE = (Bracket(1, Decimal(0), Decimal("0.004"), Decimal(0)),)
_PROBE_S = 0.001


class Storm:
    """All of the daemon that lies between a mark and the broker."""

    def __init__(self, accounts: int, port: int, folder: Path) -> None:
        here = now()
        identity = Identity("storm", "bench", "0", "0", here.wall_ms)
        self.names = [f"a{n}" for n in range(accounts)]
        self.core = Core(Setup(tuple(AccountSetup(n, MARKET, MARKET) for n in self.names), _RULES), here)
        self.encoder = Encoder(identity, _RULES)
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.store = Store(folder / "storm.sqlite3", 1, self._kept, lambda reason: None, lambda found: None)
        self.broker = Broker(
            MqttConfig(port=port, prefix="storm"),
            None,
            self.outbox,
            online=self.encoder.status(True),
            offline=self.encoder.status(False),
            on_sent=self._sent,
        )
        self.decided: list[float] = []
        self.acknowledged: list[float] = []
        self.longest_step_s = 0.0
        self.is_measured = False

    async def run(self, settled: asyncio.Event) -> None:
        """The daemon's pump: a step, then what comes of it."""
        while True:
            events = await self.inbox.take(at_once=self.core.is_behind)
            begun = time.monotonic()
            self._carry_out(self.core.step(events, now()))
            if self.is_measured:
                self.longest_step_s = max(self.longest_step_s, time.monotonic() - begun)
            if self.core.is_behind:
                await self.broker.let_go(FIRST_S)
            else:
                settled.set()

    def _carry_out(self, effects: list[Effect]) -> None:
        messages = [message for effect in effects for message in self.encoder.of(effect)]
        saves = tuple(effect for effect in effects if isinstance(effect, Save))
        events = tuple(message for message in messages if message.event_id is not None)
        self.outbox.put(messages)
        self.decided += [time.monotonic()] * len(_alerts(events))
        if events or saves:
            self.store.keep(Batch(events, saves))
        if messages and not events:
            self.broker.wake()

    def _kept(self, batch: Batch, error: object) -> None:
        self.outbox.release(batch.events)
        self.broker.push()

    def _sent(self, message: Message) -> None:
        if message.event_id is not None:
            self.store.sent(message.event_id, now().wall_ms)
            self.acknowledged += [time.monotonic()] * len(_alerts((message,)))

    def begin(self) -> None:
        """Every account is known: one BTC, 2000 USDT."""
        at_ms = now().wall_ms
        events: list[Event] = [LinkReport(LinkId(INSTANCE, MARKET), LinkState.LIVE), _mark("50000")]
        usdt = Balance("USDT", Decimal(2000), Decimal(2000), at_ms)
        position = Position("BTCUSDT", Side.BOTH, Decimal(1), Decimal(50_000), False, Decimal(0), at_ms, "USDT")
        for name in self.names:
            events += [LinkReport(LinkId(name, link), LinkState.LIVE) for link in ("private", "rest")]
            events += [BracketsRead(name, {"BTCUSDT": _TABLE}), BalancesRead(name, (usdt,), at_ms)]
            events += [PositionsRead(name, ((position, None),), at_ms)]
        self.inbox.put(events)


def _mark(price: str) -> MarkPrice:
    return MarkPrice(MARKET, "BTCUSDT", Decimal(price), now().wall_ms, None, None)


def _alerts(messages: tuple[Message, ...]) -> list[Message]:
    return [message for message in messages if message.topic.endswith("/margin_ratio")]


async def _stalls(found: list[float]) -> None:
    """How late the event loop comes to somebody who wants nothing but his turn."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(_PROBE_S)
        found.append(time.monotonic() - begun - _PROBE_S)


async def one(accounts: int, port: int) -> dict[str, Any]:
    """A storm of so many alerts."""
    with tempfile.TemporaryDirectory() as folder:
        storm = Storm(accounts, port, Path(folder))
        await storm.store.open()
        settled = asyncio.Event()
        tasks = [asyncio.create_task(storm.run(settled)), asyncio.create_task(storm.broker.run())]
        storm.begin()
        for _ in range(3):  # ticks, as in life; then all that is published is at the broker
            settled.clear()
            storm.inbox.put([_mark("50000"), Tick()])
            await settled.wait()
        await _until(lambda: not storm.outbox.waiting)
        stalls: list[float] = []
        storm.is_measured = True
        tasks.append(asyncio.create_task(_stalls(stalls)))
        await asyncio.sleep(0.1)
        stalls.clear()
        settle_memory(accounts)  # as the daemon does once it is ready
        fell, cpu = time.monotonic(), time.process_time()
        storm.inbox.put([_mark("48225")])  # the ratio is 0.86: a warning, so near that it is critical
        await _until(lambda: len(storm.acknowledged) >= accounts)
        worst_stall, cpu = max(stalls), time.process_time() - cpu
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await storm.store.close()
    return {
        "alerts": accounts,
        "first_decided_ms": _ms(storm.decided[0] - fell),
        "first_acknowledged_ms": _ms(storm.acknowledged[0] - storm.decided[0]),
        "all_decided_ms": _ms(storm.decided[-1] - fell),
        "all_acknowledged_ms": _ms(storm.acknowledged[-1] - fell),
        "worst_stall_ms": _ms(worst_stall),
        "cpu_ms": _ms(cpu),
        "longest_step_ms": _ms(storm.longest_step_s),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


async def _until(is_so: Callable[[], bool], within_s: float = 120) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - of what is waited for nobody tells
            await asyncio.sleep(0.002)


async def measure(quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Storms of several sizes."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if mosquitto is None:
        tell("left out: there is no mosquitto")
        return []
    logs.setup("json", "error")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n", "utf-8")
        probe.close()
        broker = subprocess.Popen([mosquitto, "-c", str(config)], stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            await _until(lambda: _answers(port))
            found = []
            for accounts in (100, 1000) if quick else (100, 1000, 10_000):
                found.append(await one(accounts, port))
                tell(json.dumps(found[-1]))
            return found
        finally:
            broker.kill()
            broker.wait(10)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def main(arguments: list[str]) -> None:
    found = asyncio.run(measure("--quick" in arguments, print))
    if "--json" in arguments:
        Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
