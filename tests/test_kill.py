"""kill -9 at random moments of a burst of incidents: nothing is lost and nothing is told twice, with a real broker."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

from monitor.sim import Exchange
from tests import stories
from tests.chaos.proxy import Proxy
from tests.rig import Listener, Mosquitto, Process, until, write_config

KILLS = int(os.environ.get("MARGINWATCH_KILLS", "20"))
SEED = int(os.environ.get("MARGINWATCH_SEED", "1"))
PATIENCE_S = 60.0
"""For a burst to be heard: a start of Python and two hundred messages held to their schemas, on a busy machine."""
SYMBOLS = [f"K{n:02}USDT" for n in range(20)]
RULES = ("liquidation_distance", "margin_ratio")
PLACES = len(SYMBOLS) * len(RULES)
EVENT = re.compile(rf"/event/[a-z]+/(?:{'|'.join(RULES)})".encode())
LESS_THAN_AN_EVENT = 256
CALM, DANGER = "100", "80.6"
"""Each position: 10 bought at 100 with 200 of margin, rate 0.005 (a table of one's own): liquidated at 800 / 9.95 =
80.40; in danger the ratio is 4.03 / 6."""


def exchange() -> Exchange:
    """Twenty isolated positions, so that one tick opens or ends forty incidents."""
    symbols = [{"symbol": name, "mark": CALM, "brackets": [[20, "50000", "0.005"]]} for name in SYMBOLS]
    account = {
        "name": "main",
        "balances": {"USDT": "1000"},
        "settings": {name: {"margin_type": "ISOLATED", "leverage": 5} for name in SYMBOLS},
        "position": [
            {"symbol": name, "quantity": "10", "entry_price": "100", "isolated_wallet": "200"} for name in SYMBOLS
        ],
    }
    return stories.exchange(account, tick_s=0.2, symbol=symbols)


class Told:
    """What the listener has heard of our rules, each event_id once. It is asked often, so it reads only what is new."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._read = 0
        self._known: set[str] = set()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def of(self, kind: str) -> Counter[str]:
        """Rule and subject → how often an event of this kind was told."""
        new, self._read = self._listener.heard[self._read :], len(self._listener.heard)
        for body in (heard.body for heard in new if "/event/" in heard.topic):
            if body["rule"] in RULES and body["event_id"] not in self._known:
                self._known.add(body["event_id"])
                self._counts[body["event"]][f"{body['rule']}/{body['subject']}"] += 1
        return self._counts[kind]

    def more(self, kind: str, than: int) -> bool:
        return self.of(kind).total() > than

    def everywhere(self, kind: str, times: int) -> bool:
        told = self.of(kind)
        return len(told) == PLACES and min(told.values()) >= times


class Trap:
    """Springs as the nth event of a burst is about to reach the broker. It is shown all that the daemon sends."""

    def __init__(self) -> None:
        self._nth = 0
        self._spring: Callable[[], None] | None = None
        self._sent = b""
        self.sprung = asyncio.Event()

    def set(self, nth: int, spring: Callable[[], None]) -> None:
        self._nth, self._spring, self._sent = nth, spring, b""
        self.sprung.clear()

    def __call__(self, data: bytes) -> None:
        if self._spring is None:
            return
        self._sent += data
        if len(EVENT.findall(self._sent)) >= self._nth:
            self._spring()
            self._spring = None
            self.sprung.set()


async def test_killed_in_the_midst_of_a_burst_nothing_is_lost_and_nothing_is_told_twice(
    lasting_broker: Mosquitto, tmp_path: Path
) -> None:
    """A crash comes when there is most to tell; an alert that it loses, or repeats at each start, is worth little."""
    random = Random(SEED)
    took_s = 0.0
    ready = 0
    trap = Trap()
    async with (
        exchange() as market,
        Listener(lasting_broker.port) as listener,
        Proxy(lambda: lasting_broker.port, trap, LESS_THAN_AN_EVENT) as to_broker,
    ):
        told = Told(listener)
        config = write_config(tmp_path / "d", market, to_broker.port)
        process = Process(config).__enter__()

        def kill_and_cut() -> None:
            process.send(signal.SIGKILL)
            to_broker.half_open()  # what it has sent, and the broker does not have yet, is lost

        try:
            await until(lambda: len(listener.under("main", "position")) == len(SYMBOLS), "all is watched")
            for turn in range(KILLS + 2):  # the first two show how long a burst takes
                kind, price = ("opened", DANGER) if turn % 2 == 0 else ("resolved", CALM)
                times = turn // 2 + 1
                told_before = (times - 1) * PLACES
                is_counted = turn >= 2 and turn % 4 >= 2
                if is_counted:  # the first has passed as a whole once the third comes
                    trap.set(random.randint(3, PLACES), kill_and_cut)
                begun = time.monotonic()
                market.set_marks(dict.fromkeys(SYMBOLS, price))
                market.pulse()
                if is_counted:
                    await asyncio.wait_for(trap.sprung.wait(), PATIENCE_S)
                elif turn >= 2:
                    await asyncio.sleep(random.uniform(0, took_s))
                    process.send(signal.SIGKILL)
                if turn >= 2:
                    await process.ended()
                    ready = len(process.logged("ready"))
                    if is_counted:
                        await until(partial(told.more, kind, told_before), "some of it is told", PATIENCE_S)
                        assert told.of(kind).total() < told_before + PLACES
                    await to_broker.cut()
                    process = Process(config).__enter__()
                await until(partial(told.everywhere, kind, times), f"{kind} {times} times everywhere", PATIENCE_S)
                if turn < 2:
                    took_s = max(took_s, (time.monotonic() - begun) * 1.2)
            await listener.no_incident()
            await until(lambda: len(process.logged("ready")) > ready, "the last one has begun")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
        finally:
            process.__exit__()

    dangers = (KILLS + 2) // 2
    for rule in RULES:
        for symbol in SYMBOLS:
            subject = f"isolated-{symbol.lower()}"
            assert lives(listener, rule, subject) == [("opened", "resolved")] * dangers, (rule, subject)
    with closing(sqlite3.connect(tmp_path / "d" / "store.sqlite3")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.execute("SELECT count(*) FROM events WHERE sent_ms IS NULL").fetchall() == [(0,)]


def lives(listener: Listener, rule: str, subject: str) -> list[tuple[str, ...]]:
    """What was told of each incident, in order of their opening: its kinds in order of `n`, without gaps."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for event in listener.events(rule, subject=subject):
        found[event["incident_id"]].append((int(event["event_id"].rpartition(".")[2]), event["event"]))
    assert all(sorted(n for n, _ in story) == list(range(1, len(story) + 1)) for story in found.values())
    return [tuple(kind for _, kind in sorted(story)) for story in found.values()]
