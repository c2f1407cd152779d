"""One run: everything is started, the schedule plays, and what was heard is judged."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from string import ascii_letters, digits
from typing import Any

import aiomqtt

from monitor.sim import Exchange, Scenario
from tests.chaos import faults
from tests.chaos.process import DaemonProcess
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import CLOCK_FAULTS, FAULTS, Fault, Flip, Force, Payment, Schedule, schedule
from tests.chaos.truth import LADDERS, Blind, Phase, Taken, Truth
from tests.chaos.verdict import Finding, Told, causes, judge, not_judged, noticed, noticed_blind
from tests.chaos.wallclock import WallClock
from tests.rig import Listener, Mosquitto, differences, eventually, until, write_config

SETTLED_S = 40.0
"""How long the end may take: what snapshots alone have shown is told after five seconds."""
BOUND = Decimal(25)
"""No wallet leaves its beginning by more, so that danger stays danger and never becomes a liquidation."""


@dataclass
class Report:
    """What a run has shown. notes: what could not be made to go wrong here."""

    seed: int
    seconds: float
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)


class Run:
    """One seed, played in a folder of its own, where logs, store and the broker's files are left."""

    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self.report = Report(seed, seconds)
        self.truth = Truth()
        self._seed = seed
        self._seconds = seconds
        self._folder = folder
        self._secrets: set[bytes] = set()
        self._signatures: set[bytes] = set()
        self._pulse = 0
        self._is_still = False
        self._phases: dict[str, Phase] = {}
        self._sides = 0
        self._busy: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._over: list[tuple[float, float]] = []

    async def play(self) -> Report:
        async with AsyncExitStack() as stack:
            await self._set(stack)
            await self._act()
            await self._end()
        return self.report

    # ---- the parts ----

    async def _set(self, stack: AsyncExitStack) -> None:
        clock = WallClock(self._folder)
        if not clock.env:
            self.report.notes.append("skipped: clock-ahead, clock-back (no C compiler)")
        self.schedule = schedule(self._seed, self._seconds, () if clock.env else CLOCK_FAULTS)
        scenario = _scenario(self._seed, self.schedule.forces)
        self.exchange = await stack.enter_async_context(Exchange(scenario, tick_s=None))
        self.exchange.rest.weights.limit = 1_000_000
        self._remember_secrets()
        self.broker = Mosquitto(self._folder / "broker", persistence=True)
        await self.broker.start()
        stack.callback(self.broker.kill)
        stack.callback(self.broker.thaw)
        to_exchange = await stack.enter_async_context(Proxy(lambda: self.exchange.port, self._watch))
        to_broker = await stack.enter_async_context(Proxy(lambda: self.broker.port))
        config = write_config(
            self._folder / "daemon",
            self.exchange,
            to_broker.port,
            faults.ACCOUNTS,
            links={
                "first_frame_s": 2,
                "mute_after_s": 1,
                "backoff_max_s": 0.5,
                "accounts_per_connection": 1 + self._seed % 2,  # with odd seeds both share one
            },
            rules={"clock_offset": {"clear_for_s": 0}, "funding_forecast": {"enabled": False}},
            privacy={"amounts": False},
        )
        text = config.read_text("utf-8").replace(f"127.0.0.1:{self.exchange.port}", f"127.0.0.1:{to_exchange.port}")
        config.write_text(text, "utf-8")
        self.daemon = DaemonProcess(config, clock.env)
        self.stage = faults.Stage(self.exchange, to_exchange, self.broker, to_broker, self.daemon, clock, [], [])
        self.listener = await stack.enter_async_context(Listener(self.broker.port))
        await self.daemon.start()
        stack.push_async_callback(self.daemon.end)
        pulse = asyncio.create_task(self._keep_pulsing(), name="pulse")
        stack.callback(pulse.cancel)
        await self.daemon.ready()
        await self._agrees(SETTLED_S)

    async def _keep_pulsing(self) -> None:
        """The market: every mark four times a second, never the same in danger."""
        random = Random(self._seed)
        while True:
            await asyncio.sleep(random.uniform(0.2, 0.5))
            self._pulse += not self._is_still
            marks = {}
            for pool, ladder in LADDERS.items():
                phase = self._phases.get(pool)
                calm = ladder.calm * (1 + Decimal(self._pulse % 7 - 3) / 10_000)
                marks[ladder.symbol] = calm if phase is None else ladder.mark(phase.number, self._pulse)
            self.exchange.set_marks(marks)
            self.exchange.pulse()
            self._secrets.update(key.encode() for key in self.exchange.listen_keys.all().values())

    # ---- the story ----

    async def _act(self) -> None:
        self.began = time.monotonic()
        wallets = self._wallets()
        self._start_wallets = wallets
        try:
            async with asyncio.TaskGroup() as tasks:
                for fault in self.schedule.faults:
                    tasks.create_task(self._make(fault), name=fault.name)
                tasks.create_task(self._flip_all(self.schedule), name="phases")
                tasks.create_task(self._pay_all(self.schedule), name="money")
                for force in self.schedule.forces:
                    tasks.create_task(self._force(force), name=force.how)
                tasks.create_task(self._until(self.schedule.quiet[-1][1]), name="last quiet time")
        finally:
            self.stage.clock.jump(0) if self.stage.clock.env else None

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self.began + at_s - time.monotonic()))

    async def _make(self, fault: Fault) -> None:
        await self._until(fault.at_s)
        async with self._busy[FAULTS[fault.name]]:  # a daemon that is told to stop takes its time
            began = time.monotonic()
            async with faults.making(self.stage, fault.name):
                made = time.monotonic()
                await asyncio.sleep(fault.for_s)
                ended = time.monotonic()
            self._over.append((began, time.monotonic()))
        self._say(began, f"{fault.name} for {ended - made:.1f} s")
        if fault.name.startswith("forced-orders"):
            self.truth.unlisted.append((made, ended))
        for link in sorted(faults.BLINDS.get(fault.name, ())):
            self.truth.blind.append(Blind(link, fault.name, made, ended))

    async def _flip_all(self, story: Schedule) -> None:
        for flip in story.flips:
            await self._until(flip.at_s)
            self._flip(flip)

    def _flip(self, flip: Flip) -> None:
        now = time.monotonic()
        if flip.danger:
            number = sum(phase.pool == flip.pool for phase in self.truth.phases)
            self._phases[flip.pool] = Phase(flip.pool, number, now)
            self.truth.phases.append(self._phases[flip.pool])
        else:
            self._phases.pop(flip.pool).ended = now
        self._say(now, f"{flip.pool} {'in danger' if flip.danger else 'calm'}")

    async def _pay_all(self, story: Schedule) -> None:
        for payment in story.payments:
            await self._until(payment.at_s)
            before = self._wallets()
            self._pay(payment)
            now = time.monotonic()
            for pool, wallet in self._wallets().items():
                if wallet != before[pool]:
                    self.truth.payments.append((pool, payment.what.partition(" ")[0], wallet - before[pool]))
                    self._say(now, f"{pool} {payment.what} {wallet - before[pool]}")

    def _pay(self, payment: Payment) -> None:
        what, _, account = payment.what.partition(" ")
        pool = "main/isolated-solusdt" if what == "margin" else f"{account}/cross-usdt"
        amount = Decimal(payment.cents) / 100
        change = self._wallets()[pool] - self._start_wallets[pool]
        if abs(change + amount) > BOUND:
            amount = -amount
        match what:
            case "transfer":
                self.exchange.transfer(account, "USDT", amount)
            case "margin":
                main = self._wallets()["main/cross-usdt"] - self._start_wallets["main/cross-usdt"]
                if abs(main - amount) <= BOUND:
                    self.exchange.add_margin(account, "SOLUSDT", amount)
            case "fill":
                self._sides += 1
                self.exchange.fill(account, "ETHUSDT", "SELL" if self._sides % 2 else "BUY", "0.01")
            case "funding":
                notional = 10 * self.exchange.market["ETHUSDT"].mark
                self.exchange.fund("ETHUSDT", (-amount / notional).quantize(Decimal("1e-8")))

    async def _force(self, force: Force) -> None:
        await self._until(force.at_s)
        if force.how == "adl":
            self.exchange.adl("taken", force.symbol, force.quantity, side=force.side)
        else:
            self.exchange.liquidate("taken", force.symbol, force.quantity, side=force.side)
        now = time.monotonic()
        taken = self.truth.taken.setdefault(force.symbol, Taken(force.symbol, force.side, force.how, now))
        taken.quantity += force.quantity
        self._say(now, f"{force.quantity} of {taken.position} {force.how}")

    def _wallets(self) -> dict[str, Decimal]:
        main, other = self.exchange.accounts["main"], self.exchange.accounts["other"]
        return {
            "main/cross-usdt": main.balance("USDT").cross,
            "main/isolated-solusdt": main.position("SOLUSDT", "BOTH", "USDT").isolated_wallet,
            "other/cross-usdt": other.balance("USDT").cross,
        }

    def _say(self, at: float, text: str) -> None:
        self.report.story.append(f"{at - self.began:6.1f} s  {text}")

    # ---- the end ----

    async def _end(self) -> None:
        for pool in list(self._phases):
            self._flip(Flip(0, pool, False))
        await asyncio.sleep(1)
        self.ended = time.monotonic()
        await self._agrees(SETTLED_S)
        wallets = self._wallets()
        self.truth.moved = {pool: wallet - self._start_wallets[pool] for pool, wallet in wallets.items()}
        for line in await self._wrong_in_the_end(SETTLED_S):
            self._find("wrong final state", line)
        end = time.monotonic()
        self.truth.quiet = list(self._really_quiet())
        self._resources()
        for status in (*self.stage.bad_ends, await self.daemon.stop()):
            if status != 0:
                self._find("bad end", f"exit status {status}")
        await self._hears_all()
        told = self._told()
        findings = judge(self.truth, told, self.daemon.lives, end)
        self.report.findings += [*findings, *self._undelivered(told)]
        for died in self.daemon.died:
            self._find("died", died)
        if self.daemon.stderr:
            self._find("died", self.daemon.stderr[-2000:])
        for line in dict.fromkeys(wrong.partition("\n")[0] for wrong in self.listener.wrong):
            self._find("broken promise", line)
        self.listener.wrong.clear()
        for event_id in self._alone():
            self._find("broken promise", f"{event_id} came without its notice, or that without it")
        if self.exchange.order_calls:
            self._find("broken promise", f"order calls: {self.exchange.order_calls}")
        for place in self._leaks():
            self._find("secret", place)
        self.report.story.sort(key=lambda line: float(line.split()[0]))
        self._figures(told, end)

    async def _agrees(self, within_s: float) -> None:
        self._is_still = True
        try:
            await eventually(self._is_as_printed, "what is published is what the exchange prints", within_s)
        except AssertionError:
            for line in await self._differences():
                self._find("wrong final state", line)
        finally:
            self._is_still = False

    async def _is_as_printed(self) -> bool:
        await asyncio.sleep(0.1)
        return not await self._differences()

    async def _differences(self) -> list[str]:
        """Held while the market stands still: on a busy machine it would be elsewhere before all is compared."""
        return [d for a in faults.ACCOUNTS for d in await differences(self.exchange, self.listener, a)]

    async def _hears_all(self) -> None:
        """Wait until the listener has all that the broker took before now; on a busy machine it is behind."""
        async with aiomqtt.Client("127.0.0.1", self.broker.port) as client:
            await client.publish("chaos/end", "{}", qos=1, retain=True)
        await until(lambda: "chaos/end" in self.listener.now, "the listener has heard all", 60)

    async def _wrong_in_the_end(self, within_s: float) -> list[str]:
        """What the broker keeps, as somebody sees who comes now; and what was told of money."""
        wrong: list[str] = []
        deadline = time.monotonic() + within_s
        while True:
            retained = await _retained(self.broker.port)
            wrong = [f"{t} stands" for t in sorted(retained) if "/incident/" in t]
            if retained.get("marginwatch/status") != b"online":
                wrong.append(f"status is {retained.get('marginwatch/status')!r}")
            for account in faults.ACCOUNTS:
                summary = self.listener.retained(f"marginwatch/{account}/summary")
                said = (summary.get("severity"), summary.get("freshness"))
                if said != ("ok", "live"):
                    wrong.append(f"the summary of {account} says {said}")
            for topic, payload in retained.items():
                if ("/position/" in topic or "/pool/" in topic) and topic not in self.listener.now:
                    wrong.append(f"{topic} stands, and no listener knows of it: {payload[:80]!r}")
            told = self._told()
            sums = {pool: sum((a for *_, a in causes(told, pool)), Decimal(0)) for pool in self.truth.moved}
            if (not wrong and sums == self.truth.moved) or time.monotonic() > deadline:
                return wrong
            await asyncio.sleep(0.2)

    def _told(self) -> list[Told]:
        logged = {str(line.said["event_id"]): line.at for line in self.daemon.lines if "event_id" in line.said}
        first: dict[str, tuple[dict[str, Any], float]] = {}
        times: Counter[str] = Counter()
        for heard in self.listener.heard:
            if "/event/" in heard.topic:
                body = heard.body
                times[body["event_id"]] += 1
                first.setdefault(body["event_id"], (body, heard.at))
        return [Told(body, logged.get(name, at), at, times[name]) for name, (body, at) in first.items()]

    def _alone(self) -> set[str]:
        """Events without their notices, and notices without their events; a broker that was killed may lose either."""
        if self.stage.broker_kills:
            return set()
        events, notices = self.listener.events(), self.listener.notices()
        return {event["event_id"] for event in events} ^ {notice["event_id"] for notice in notices}

    def _undelivered(self, told: Iterable[Told]) -> list[Finding]:
        """What was said in the log, by a process that lived on, and what the store has: heard or not."""
        heard = {event.name for event in told}
        found = []
        with closing(sqlite3.connect(self._folder / "daemon" / "store.sqlite3")) as store:
            stored = dict(store.execute("SELECT event_id, sent_ms FROM events").fetchall())
        self.report.figures["lost by the broker in its own crash"] = 0
        for line in self.daemon.lines:
            name = str(line.said.get("event_id"))
            if "event_id" not in line.said or name in heard:
                continue
            killed = [at for at in self.stage.broker_kills if line.at - 1 < at < line.at + 3]
            died = [life.ended for life in self.daemon.lives if life.began <= line.at and life.ended is not None]
            if stored.get(name) is not None and killed:
                self.report.figures["lost by the broker in its own crash"] += 1
            elif name in stored or not any(line.at <= at < line.at + 3 for at in died):
                found.append(Finding("undelivered", line.at, f"{name}: {line.said.get('text')}; {stored.get(name)=}"))
        return found

    def _find(self, kind: str, text: str) -> None:
        self.report.findings.append(Finding(kind, None, text))

    def _really_quiet(self) -> Iterable[tuple[float, float]]:
        """The quiet times as they were: a fault may take longer than it should, and on a busy machine a daemon that was
        started anew, now and then longer than all of a quiet time."""
        away = [(a.ended, b.began) for a, b in pairwise(self.daemon.lives) if a.ended is not None]
        over = self._over + away
        for begin, end in ((a + self.began, b + self.began) for a, b in self.schedule.quiet):
            yield max([begin, *(ended for began, ended in over if began < end)]), end

    # ---- secrets ----

    def _watch(self, data: bytes) -> None:
        """What the daemon sends holds signatures and listen keys: they are to be found nowhere else."""
        self._signatures.update(re.findall(rb"signature=([0-9a-f]{64})", data))
        self._secrets.update(re.findall(rb"listenKey=([0-9A-Za-z]{64})", data))

    def _remember_secrets(self) -> None:
        for account in self.exchange.accounts.values():
            self._secrets |= {account.api_key.encode(), account.secret.encode()}

    def _leaks(self) -> list[str]:
        places = {
            str(path.relative_to(self._folder)): path.read_bytes()
            for path in (self._folder / "daemon").rglob("*")
            if path.is_file() and path.suffix not in (".key", ".secret")
        }
        places["what was heard"] = b"\n".join(h.topic.encode() + b" " + h.payload for h in self.listener.heard)
        self.report.figures["secrets looked for"] = len(self._secrets) + len(self._signatures)
        return [f"in {place}" for place, data in places.items() if self._is_leaky(data)]

    def _is_leaky(self, data: bytes) -> bool:
        """Of signatures there are thousands, but little else is 64 hexadecimal digits."""
        hexadecimal = (run[at : at + 64] for run in re.findall(rb"[0-9a-f]{64,}", data) for at in range(len(run) - 63))
        return any(secret in data for secret in self._secrets) or not self._signatures.isdisjoint(hexadecimal)

    # ---- figures ----

    def _resources(self) -> None:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text("utf-8")
        self.report.figures["resident MB"] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024
        self.report.figures["file descriptors"] = len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir()))

    def _figures(self, told: list[Told], end: float) -> None:
        kinds = Counter(finding.kind for finding in self.report.findings)
        self.report.figures |= {
            "faults": len(self.schedule.faults),
            "phases in danger": len(self.truth.phases),
            "payments": len(self.truth.payments),
            "positions taken": len(self.truth.taken),
            "events": len(told),
            "redelivered": sum(event.deliveries - 1 for event in told),
            "blind times": len(self.truth.blind),
            "of these judged": len(self.truth.blind) - not_judged(self.truth, self.daemon.lives),
            "lives of the daemon": len(self.daemon.lives),
            "danger noticed after s": _spread(noticed(self.truth, told, end)),
            "blindness told after s": _spread(noticed_blind(self.truth, told)),
            "right again after s": round(end - self.ended, 1),
            **{kind: kinds[kind] for kind in ("lost", "doubled", "false resolved", "wrong final state")},
            "not said blind": kinds["not said blind"],
        }


def _spread(values: list[float]) -> list[float]:
    """Median and maximum."""
    return [round(statistics.median(values), 2), round(max(values), 2)] if values else []


def _scenario(seed: int, forces: Iterable[Force]) -> Scenario:
    random = Random(f"secrets {seed}")

    def secret() -> str:
        return "".join(random.choices(ascii_letters + digits, k=64))

    main = {
        "name": "main",
        "api_key": secret(),
        "secret": secret(),
        "balances": {"USDT": "12000"},
        "settings": {"SOLUSDT": {"margin_type": "ISOLATED", "leverage": 5}},
        "position": [
            {"symbol": "BTCUSDT", "quantity": "1", "entry_price": "60000"},
            {"symbol": "SOLUSDT", "quantity": "100", "entry_price": "150", "isolated_wallet": "3000"},
        ],
    }
    other = {
        "name": "other",
        "api_key": secret(),
        "secret": secret(),
        "balances": {"USDT": "6000"},
        "position": [{"symbol": "ETHUSDT", "quantity": "10", "entry_price": "3000"}],
    }
    symbols: list[dict[str, Any]] = [{"symbol": of.symbol, "mark": str(of.calm)} for of in LADDERS.values()]
    taken: dict[str, Any] = {
        "name": "taken",
        "api_key": secret(),
        "secret": secret(),
        "hedge": True,
        "balances": {"USDT": "100000"},
        "settings": {},
        "position": [],
    }
    for symbol, how in {force.symbol: force.how for force in forces}.items():
        symbols.append({"symbol": symbol, "mark": "100", "brackets": [[20, "50000000", "0.004"]]})
        held = {"symbol": symbol, "side": "LONG", "quantity": "10", "entry_price": "100"}
        if how == "adl":
            taken["position"] += [held, held | {"side": "SHORT", "quantity": "-10"}]
        else:  # in danger all the time: it is liquidated at 98.49
            taken["settings"][symbol] = {"margin_type": "ISOLATED", "leverage": 20}
            taken["position"].append(held | {"isolated_wallet": "19"})
    return Scenario.from_dict({"seed": seed, "symbol": symbols, "account": [main, other, taken]})


async def _retained(port: int) -> dict[str, bytes]:
    """What stands at the broker: the topics that it tells somebody who comes now."""
    found: dict[str, bytes] = {}
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("marginwatch/#", qos=1)
        try:
            async with asyncio.timeout(0.5):
                async for message in client.messages:
                    if message.retain and isinstance(message.payload, bytes):
                        found[str(message.topic)] = message.payload
        except TimeoutError:
            return found
    return found
