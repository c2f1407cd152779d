"""The broker is away for an hour in which ten thousand things are told: all arrive in the end, in order."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

from monitor.config import MqttConfig
from monitor.effects import Save
from monitor.events import Tick
from monitor.message import Message
from monitor.outbox import Outbox
from monitor.rules import DEFAULTS, LiquidationDistanceRule, MarginRatioRule, RuleBook
from monitor.shell.broker import Broker
from monitor.shell.owed import Batch
from monitor.shell.store import Store
from tests.rig import Heard, Listener, Mosquitto, until
from tests.watched import WALL_MS, Watched, row

EVENTS = 10_000
HOUR_S = 3600.0
STEP_S = 7.0
SYMBOLS = [f"A{n:02}USDT" for n in range(20)]
MARKS = ("130", "88", "83", "81.6", "81.2")
"""Calm, and ever nearer to 80.81, where each is liquidated: ten bought at 100 with 200 of margin of their own, rate
0.01."""


def hour() -> Iterator[tuple[list[Message], list[Save]]]:
    """Step by step what a core says of an hour that ended just now; links live, marks wild."""
    random = Random(1)
    rules = RuleBook(
        {
            **DEFAULTS,
            "margin_ratio": MarginRatioRule(clear_for_s=0, reenter_s=0),
            "liquidation_distance": LiquidationDistanceRule(clear_for_s=0, reenter_s=0),
        }
    )
    shift_ms = time.time_ns() // 1_000_000 - round(HOUR_S * 1000) - WALL_MS
    watched = Watched(rules=rules, wall_shift_ms=shift_ms)
    held = [row(symbol, "10", "100", isolated_wallet="200", isolated=True) for symbol in SYMBOLS]
    effects = watched.begin("1000", *held)
    while True:
        yield watched.sent(effects), [effect for effect in effects if isinstance(effect, Save)]
        watched.effects.clear()  # else all that was ever said would be taken for what waits
        marks = [watched.mark(random.choice(MARKS), symbol, STEP_S) for symbol in SYMBOLS]
        effects = watched.step(*marks, Tick(), after=STEP_S)
        while watched.core.is_behind:  # twenty alerts at once are more than one slice
            effects += watched.step(after=0)


async def test_ten_thousand_events_of_an_hour_without_a_broker_all_arrive(
    lasting_broker: Mosquitto, tmp_path: Path
) -> None:
    """The worst hour of a market may be the one in which the broker is down."""
    outbox = Outbox()
    online = Message("marginwatch/status", b"online", True, 1)
    offline = Message("marginwatch/status", b"offline", True, 1)
    released = 0

    def kept(batch: Batch, error: object) -> None:
        """With an error where a busy disk took longer than an alert may wait; what is on disk is seen at the end."""
        nonlocal released
        released += len(batch.events)
        outbox.release(batch.events)

    store = Store(tmp_path / "store.sqlite3", 90, kept, lambda reason: None, lambda found: None)
    await store.open()
    config = MqttConfig(port=lasting_broker.port, inflight=1, timeout_s=5)  # one at a time: what is next is seen
    sent: list[Message] = []

    def on_sent(message: Message) -> None:
        if message.event_id is not None:
            sent.append(message)
            store.sent(message.event_id, message.at_ms)

    broker = Broker(config, None, outbox, online, offline, on_sent)

    made: list[Message] = []
    sizes: list[int] = []

    async def all_released() -> None:
        await until(lambda: released == len(made), "all of it may be sent", 60)

    for messages, saves in hour():
        events = tuple(message for message in messages if message.event_id is not None)
        waiting = outbox.compact(events)
        outbox.put([*waiting, *(message for message in messages if message.is_state)])
        if events or saves:
            store.keep(Batch(waiting, tuple(saves)))
        made += events
        await asyncio.sleep(0)  # as between two steps of the daemon
        if len(made) // 2_500 > len(sizes):
            await all_released()
            sizes.append(resident_bytes())
        if len(made) >= EVENTS:
            break
    await all_released()

    async with Listener(lasting_broker.port) as listener:
        listener.prefixes = []  # ten thousand payloads of the same few shapes need not all be held against schemas
        running = asyncio.create_task(broker.run())
        await until(lambda: len(sent) == len(made), "the broker has all of it", 180)
        last = made[-1].payload
        await until(lambda: any(heard.payload == last for heard in listener.heard), "and the listener", 60)
        broker.stop()
        await running
    await store.close()

    late = [heard for heard in listener.heard if "/event/" in heard.topic]
    assert len(late) == len(made) >= EVENTS
    assert {heard.payload for heard in late} == {message.payload for message in made}
    by_id = {message.event_id: message for message in made}
    assert in_order([by_id[heard.body["event_id"]] for heard in late], made)
    assert_late_ones_say_so(late, made)
    # Each waits in memory and on disk; of states only the newest does. More than that would show as growth.
    bytes_each = sum(len(message.payload) for message in made) / len(made)
    assert (sizes[-1] - sizes[0]) / (len(made) * 3 / 4) < 6 * bytes_each, (sizes, bytes_each)
    assert len(outbox.states) < 10 * len(SYMBOLS)
    with closing(sqlite3.connect(tmp_path / "store.sqlite3")) as file:
        assert file.execute("SELECT count(*), count(sent_ms) FROM events").fetchall() == [(len(made), len(made))]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def in_order(arrived: list[Message], made: list[Message]) -> bool:
    """Whether each rule and subject came in its order, and at each moment the one with the worst still to come."""
    waiting: dict[str, list[Message]] = defaultdict(list)
    for message in reversed(made):
        waiting[message.line].append(message)
    worst = {line: _worst_to_come(messages) for line, messages in waiting.items()}
    for message in arrived:
        line = waiting[message.line]
        assert line[-1] is message, f"{message.event_id} before {line[-1].event_id}"
        highest = max(worst[name][-1] for name, messages in waiting.items() if messages)
        assert worst[message.line][-1] == highest, f"{message.event_id} while something worse waits"
        line.pop()
        worst[message.line].pop()
    return not any(waiting.values())


def _worst_to_come(messages: list[Message]) -> list[int]:
    """For each message of a line, the last first: the highest rank from it on."""
    ranks: list[int] = []
    for message in messages:
        ranks.append(max(message.rank, ranks[-1] if ranks else 0))
    return ranks


def assert_late_ones_say_so(late: list[Heard], made: list[Message]) -> None:
    """How late it comes, and whether a newer one of the same incident follows."""
    last = {message.incident_id: message.event_id for message in made}
    for heard in late:
        said = dict(heard.properties.get("UserProperty", ()))
        body = heard.body
        is_last = last[body["incident_id"]] == body["event_id"]
        assert ("superseded" in said) != is_last, body["event_id"]
        assert 0 < int(said.get("delayed_ms", 1)) < (HOUR_S + 600) * 1000
    assert sum("delayed_ms" in dict(heard.properties["UserProperty"]) for heard in late) > 0.99 * len(late)
