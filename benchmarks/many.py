"""Two thousand accounts in one process: `python -m benchmarks --only many`

Everything is as in life: a simulated exchange in a process of its own with a private stream for each account, the
daemon with its store, mosquitto, and a subscriber. Its marks wander, one frame of the whole market a second; then they
fall, twice: once so far that a quarter of the accounts comes near its liquidation, and then so far that each of these
is about to be liquidated. What the daemon must have told then follows from how the accounts were made.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
import aiomqtt

from benchmarks import scene
from benchmarks.harness import ROOT
from benchmarks.running import cpu_s, memory_mb
from benchmarks.screen import resting
from monitor.config import LinksConfig
from monitor.venues import VENUES
from tests.chaos.process import DaemonProcess
from tests.rig import MOSQUITTO, Mosquitto, until, write_config

POSITIONS, SYMBOLS = 20, 600
_ENDANGERED = 4
"""Every fourth account is brought near its liquidation by the fall."""
_CRASHED = 150
"""So many symbols fall; those of the endangered accounts are among them, all long."""
_LIMIT = 2_400
"""REST weight a minute that the exchange allows one address."""
_BUDGET = 100_000
"""What the daemon may use of it a minute, where the limit is switched off."""
_TIERS = (("50000", "0.004"), ("250000", "0.01"), ("1000000", "0.025"), ("10000000", "0.05"), ("80000000", "0.25"))
_NEAR, _NEARER = Decimal("0.885"), Decimal("0.855")
"""Marks after each fall, of what they were. An endangered account's wallet is 15 % of what it holds, and maintenance
margin 0.4 %: at the first it is 3.6 % from its liquidation, a warning; at the second 0.2 %, which is critical, and its
margin ratio is 0.68."""


class _Size(NamedTuple):
    """How much is measured.

    Args:
        steady_s: Seconds of marks that wander.
        after_s: Seconds after all events of a fall, in which what is told too often would come, and each account says
            how late the loop was.
    """

    accounts: int
    steady_s: float
    after_s: float


@dataclass(frozen=True)
class _Login:
    """What a config needs to know of an account."""

    api_key: str
    secret: str
    market: str = "usdm"


class _Exchange:
    """The simulated exchange as a process, and its market, which wanders."""

    def __init__(self, scenario: Mapping[str, Any], url: str, pid: int, client: aiohttp.ClientSession) -> None:
        self.accounts = {a["name"]: _Login(f"{a['name']}-key", f"{a['name']}-secret") for a in scenario["account"]}
        self.url = url
        self.pid = pid
        self.ws_url = url.replace("http", "ws", 1)
        self._client = client
        self._chance = random.Random(1)
        self._first = {row["symbol"]: Decimal(row["mark"]) for row in scenario["symbol"]}
        self._offsets = dict.fromkeys(self._first, 0.0)
        self._level = dict.fromkeys(self._first, Decimal(1))

    async def post(self, command: str, **arguments: object) -> None:
        async with self._client.post(f"{self.url}/sim/{command}", json=arguments) as answer:
            assert (await answer.json())["ok"], await answer.text()

    async def counters(self) -> dict[str, int]:
        async with self._client.get(f"{self.url}/sim/counters") as answer:
            return dict((await answer.json())["result"])

    async def wander(self) -> None:
        """Let each mark be a little elsewhere every second; the exchange sends one frame of all of them a second."""
        due = time.monotonic()
        while True:
            due += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for symbol, offset in self._offsets.items():
                self._offsets[symbol] = 0.98 * offset + self._chance.gauss(0, 0.0004)
            await self._move()

    async def fall(self, to: Decimal) -> float:
        """Let the marks of the endangered accounts fall to this part of what they were, within one frame.

        Returns when that frame was asked for (monotonic seconds).
        """
        self._offsets = dict.fromkeys(self._first, 0.0)
        for symbol in list(self._first)[:_CRASHED]:
            self._level[symbol] = to
        await self._move()
        at = time.monotonic()
        await self.post("pulse", slow=False)
        return at

    async def _move(self) -> None:
        marks = {s: first * self._level[s] * Decimal(1 + self._offsets[s]) for s, first in self._first.items()}
        await self.post("set_marks", marks={symbol: f"{mark:.8f}" for symbol, mark in marks.items()})


class _Subscriber:
    """Whoever waits for alerts: every event with when it came, and what the daemon says of itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.lags_ms: list[tuple[float, float]] = []
        self.begun = asyncio.Event()

    async def run(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self._port, max_queued_incoming_messages=0) as client:
            await client.subscribe([("marginwatch/+/event/#", 1), ("marginwatch/+/health", 1)])
            self.begun.set()
            async for message in client.messages:
                at = time.monotonic()
                assert isinstance(message.payload, bytes)
                topic, body = str(message.topic), json.loads(message.payload)
                if topic.endswith("/health"):
                    self.lags_ms.append((at, body["heartbeat"]["loop_lag_ms"]))
                else:
                    self.events.append((at, topic, body))

    def since(self, at: float) -> list[tuple[float, str, dict[str, Any]]]:
        return [event for event in self.events if event[0] >= at]

    def stall_ms(self, at: float) -> float:
        """The longest that the loop was late since then, or a little earlier: each account's health says so twice a
        minute, of all the time since it last did."""
        return max((lag_ms for when, lag_ms in self.lags_ms if when >= at), default=0.0)


async def measure(quick: bool, tell: Callable[[str], None], accounts_per_connection: int = 1) -> dict[str, Any] | None:
    if MOSQUITTO is None:
        tell("left out: there is no mosquitto")
        return None
    size = _Size(20, 2, 3) if quick else _Size(2_000, 60, 35)
    scenario = _scenario(size.accounts)
    given = scene.make(size.accounts, POSITIONS, near=0)
    found: dict[str, Any] = {
        "accounts": size.accounts,
        "positions": POSITIONS,
        "accounts_per_connection": accounts_per_connection,
        "bytes_per_position": round(resting(given).nbytes / (size.accounts * POSITIONS), 1),
    }
    tell(f"in the screen a position takes {found['bytes_per_position']} bytes")
    async with _parts(scenario, accounts_per_connection) as (exchange, daemon, subscriber):
        found["start"] = await _start(exchange, daemon, tell)
        await exchange.post("set_weight", others=_BUDGET - _LIMIT)  # from here on it has what it has in life
        wandering = asyncio.create_task(exchange.wander())
        await asyncio.sleep(size.steady_s / 6)
        found["steady"] = await _steady(exchange, daemon, subscriber, size.steady_s, tell)
        wandering.cancel()
        await asyncio.sleep(2)
        endangered = [row["name"] for row in scenario["account"][::_ENDANGERED]]
        found["falls"] = [
            await _fall(exchange, daemon, subscriber, to, endangered, rules, size.after_s, tell)
            for to, rules in ((_NEAR, ("liquidation_distance",)), (_NEARER, ("liquidation_distance", "margin_ratio")))
        ]
        found["end"] = memory_mb(daemon.pid)
    return found


async def _start(exchange: _Exchange, daemon: DaemonProcess, tell: Callable[[str], None]) -> dict[str, Any]:
    accounts = len(exchange.accounts)
    before = await exchange.counters()
    begun = time.monotonic()
    await daemon.start()
    await until(lambda: _known(daemon) == accounts, "all accounts are known", 1800)
    took = round(time.monotonic() - begun, 1)
    asked = Counter(await exchange.counters())
    asked.subtract(before)
    requests = VENUES["binance-usdm"].requests
    listed = {requests.time, requests.open_stream, *requests.account}
    weight = sum(request.weight * asked[f"{request.method} {request.path}"] for request in listed)
    found = {
        "wall_s": took,
        "cpu_s": cpu_s(daemon.pid),
        **memory_mb(daemon.pid),
        "weight": weight,
        "minutes_within_limit": round(weight / _LIMIT, 1),
        "minutes_by_default": round(weight / LinksConfig().weight_per_minute, 1),
        "private_connections": asked["connected private"],
    }
    tell(
        f"ready with {accounts:,} accounts of {POSITIONS} positions: {took} s, {found['cpu_s']} s of CPU, over"
        f" {found['private_connections']:,} private connections; by REST weight ({weight:,}) {_LIMIT:,} a minute make"
        f" {found['minutes_within_limit']} min of it, the default {found['minutes_by_default']} min"
    )
    tell(
        f"{found['resident_mb']} MB resident, {found['own_mb']} MB its own:"
        f" {found['own_mb'] * 1024 / accounts:.0f} kB an account"
    )
    return found


def _known(daemon: DaemonProcess) -> int:
    """How many accounts the daemon says that it knows; it says so at least when it knows all of them."""
    assert not daemon.died, daemon.stderr
    return max((line.said["known"] for line in daemon.logged("accounts known")), default=0)


async def _steady(
    exchange: _Exchange, daemon: DaemonProcess, subscriber: _Subscriber, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    heard = len(subscriber.events)
    begun, used, others = time.monotonic(), cpu_s(daemon.pid), cpu_s(exchange.pid)
    await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    found = {
        "seconds": seconds,
        "cpu_s_per_s": round((cpu_s(daemon.pid) - used) / took, 3),
        **memory_mb(daemon.pid),
        "exchange_cpu_s_per_s": round((cpu_s(exchange.pid) - others) / took, 3),
        "events": len(subscriber.events) - heard,
        "longest_stall_ms": subscriber.stall_ms(begun),
    }
    tell(
        f"one frame of {SYMBOLS} marks a second, over {seconds:g} s: {found['cpu_s_per_s']} s of CPU a second,"
        f" longest stall {found['longest_stall_ms']:.0f} ms, {found['resident_mb']} MB resident,"
        f" {found['events']} events"
    )
    return found


async def _fall(
    exchange: _Exchange,
    daemon: DaemonProcess,
    subscriber: _Subscriber,
    to: Decimal,
    endangered: list[str],
    rules: tuple[str, ...],
    after_s: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    used = cpu_s(daemon.pid)
    fell = await exchange.fall(to)
    expected = {(name, rule) for name in endangered for rule in rules}
    try:
        async with asyncio.timeout(120):
            while not expected <= {(body["account"], body["rule"]) for _, _, body in subscriber.since(fell)}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    await asyncio.sleep(after_s)
    told = subscriber.since(fell)
    first: dict[tuple[str, str], float] = {}
    for at, _, body in told:
        first.setdefault((body["account"], body["rule"]), at)
    wanted = [at for key, at in first.items() if key in expected]
    counted = Counter(body["event_id"] for _, _, body in told)
    found = {
        "to": str(to),
        "events": len(told),
        "by_rule": dict(Counter(f"{body['rule']} {body['event']} {body['severity']}" for _, _, body in told)),
        "expected": len(expected),
        "lost": len(expected) - len(wanted),
        "doubled": sum(times - 1 for times in counted.values()),
        "others": sorted({body["account"] for _, _, body in told} - set(endangered)),
        "first_s": round(min(wanted, default=0.0) - fell, 3),
        "last_s": round(max(wanted, default=0.0) - fell, 3),
        "longest_stall_ms": subscriber.stall_ms(fell),
        "cpu_s": round(cpu_s(daemon.pid) - used, 2),
    }
    tell(json.dumps(found))
    return found


def _scenario(accounts: int) -> dict[str, Any]:
    """A market, and accounts of twenty cross positions: every fourth long and in danger of a fall, the others safe."""
    chance = random.Random(accounts)
    prices = {f"COIN{n:03}USDT": round(10 ** chance.uniform(-1, 4), 4) for n in range(SYMBOLS)}
    symbols = list(prices)
    brackets = [[50 - n, cap, rate] for n, (cap, rate) in enumerate(_TIERS)]
    made = []
    for n in range(accounts):
        endangered = n % _ENDANGERED == 0
        held = sorted(chance.sample(symbols[:_CRASHED] if endangered else symbols, POSITIONS))
        side = {s: 1 if endangered else chance.choice((1, 1, -1)) for s in held}
        worth = {s: chance.uniform(1_000, 40_000) for s in held}
        positions = [
            {"symbol": s, "quantity": f"{side[s] * worth[s] / prices[s]:.3f}", "entry_price": str(prices[s])}
            for s in held
        ]
        gross = sum(abs(float(p["quantity"])) * prices[p["symbol"]] for p in positions)
        balance = gross * (0.15 if endangered else chance.uniform(1, 3))
        made.append({"name": f"a{n:04}", "balances": {"USDT": f"{balance:.8f}"}, "position": positions})
    rows = [{"symbol": s, "mark": str(price), "brackets": brackets} for s, price in prices.items()]
    return {"symbol": rows, "account": made}


@asynccontextmanager
async def _parts(
    scenario: Mapping[str, Any], accounts_per_connection: int
) -> AsyncIterator[tuple[_Exchange, DaemonProcess, _Subscriber]]:
    """Mosquitto, the exchange, a subscriber, and a daemon that is not started yet."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "scenario.json"
        file.write_text(json.dumps(scenario), "utf-8")
        broker = Mosquitto(folder / "broker")
        await broker.start()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "monitor.sim", "--scenario", str(file), "--port", "0"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        assert process.stdout is not None
        try:
            hello = (await process.stdout.readline()).decode()
            drain = asyncio.create_task(process.stdout.read())
            async with aiohttp.ClientSession() as client:
                exchange = _Exchange(scenario, hello.split()[3].rstrip(","), process.pid, client)
                await exchange.post("set_weight", limit=10**9)
                subscriber = _Subscriber(broker.port)
                listening = asyncio.create_task(subscriber.run())
                links = {
                    "weight_per_minute": _BUDGET,
                    "reconcile_s": len(exchange.accounts),  # one a second
                    "accounts_per_connection": accounts_per_connection,
                }
                names = list(exchange.accounts)
                config = write_config(folder / "d", exchange, broker.port, names, hurried=False, links=links)
                daemon = DaemonProcess(config, {})
                try:
                    yield exchange, daemon, subscriber
                finally:
                    await daemon.end()
                    listening.cancel()
                    drain.cancel()
        finally:
            process.kill()
            await process.wait()
            broker.stop()
