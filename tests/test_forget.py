"""`marginwatch forget`: the broker remembers for ever, unless it is told not to."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import aiomqtt
import pytest

from tests import stories
from tests.conftest import needs_mosquitto
from tests.rig import Listener, Mosquitto, Process, agreement, marginwatch, private_file, until, write_config

FIGURES = b'{"left":"over"}'
DISCOVERED = "homeassistant/sensor/marginwatch_main/worst_margin_ratio/config"
OTHERS = {
    "marginwatch2/main/summary": FIGURES,
    "homeassistant/sensor/marginwatch2_main/worst_margin_ratio/config": FIGURES,
    "homeassistant/sensor/zigbee_marginwatch_main/worst_margin_ratio/config": FIGURES,
    "homeassistant/status": b"online",
    "marginwatch/second/status": b"offline",  # a daemon whose prefix is marginwatch/second
    "marginwatch/second/main/summary": FIGURES,
}


async def test_everything_of_the_prefix_goes_and_nothing_of_anybody_else(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A dashboard that shows a daemon that was removed a year ago; or an empty one, of a neighbour's daemon."""
    listener.prefixes = []
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        with Process(config) as process:
            listener.prefixes = ["marginwatch"]
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "50000")
            await listener.event("liquidation_distance", "opened")
            running = await marginwatch("forget", config)
            assert listener.under("main", "incident")
            process.send(signal.SIGTERM)
            await process.ended()
        listener.prefixes = []
        await retain(broker, {**OTHERS, DISCOVERED: FIGURES})
        await until(lambda: OTHERS.keys() <= listener.now.keys() and DISCOVERED in listener.now, "they stand there")
        before = dict(listener.now)
        cleared = await marginwatch("forget", config)
        await until(lambda: listener.now == OTHERS, "what is ours is gone")
        again = await marginwatch("forget", config)

    expected = sorted(before.keys() - OTHERS.keys())
    assert running == (1, "", running[2])
    assert "marginwatch/status is online: stop the daemon first" in running[2]
    assert {"marginwatch/status", "marginwatch/info", "marginwatch/main/health", DISCOVERED} <= set(expected)
    assert cleared[:2] == (0, "".join(f"{topic}\n" for topic in expected))
    assert cleared[2] == (
        f"marginwatch/second/ is another daemon's, and left as it is\n"
        f"{len(expected)} retained topics cleared below marginwatch/\n"
    )
    assert again[:2] == (0, "")
    assert "0 retained topics cleared" in again[2]


async def test_a_daemon_that_died_without_its_will_can_be_forgotten_by_force(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A broker that is restored from a backup says `online` for ever."""
    listener.prefixes = []
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await retain(broker, {"marginwatch/status": b"online", "marginwatch/main/summary": FIGURES})
        refused = await marginwatch("forget", config)
        forced = await marginwatch("forget", config, "--force")
        await until(lambda: listener.now == {}, "nothing is left")

    assert (refused[0], forced[0]) == (1, 0)
    assert forced[1] == "marginwatch/main/summary\nmarginwatch/status\n"


async def test_of_thousands_none_is_left_though_the_broker_throws_away_what_it_cannot_keep_waiting(
    tmp_path: Path,
) -> None:
    """It shows us a part of them, and says nothing of the others; another daemon's must stay whatever it shows."""
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "broker", "max_queued_messages 10")
    await broker.start()
    others = {topic: payload for topic, payload in OTHERS.items() if topic.startswith("marginwatch/second/")}
    try:
        await retain(broker, {f"marginwatch/a{n}/summary": FIGURES * 1000 for n in range(1500)})
        await retain(broker, others)
        async with stories.exchange() as exchange:
            status, out, err = await marginwatch("forget", write_config(tmp_path / "d", exchange, broker.port))
        cleared = len(out.splitlines())
        left = await kept(broker) if cleared == 1500 else None
    finally:
        broker.stop()

    assert (status, cleared, left) == (0, 1500, set(others))
    assert "1500 retained topics cleared" in err


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_what_may_not_be_cleared_is_said(protocol: str, tmp_path: Path) -> None:
    """Some brokers acknowledge what they throw away, and only looking again shows it; some cut us off."""
    needs_mosquitto()
    acl = private_file(tmp_path / "acl", "topic read #\n")
    broker = Mosquitto(tmp_path / "broker", persistence=True)
    await broker.start()
    await retain(broker, {"marginwatch/main/summary": FIGURES})
    broker.stop()
    broker.add(f"acl_file {acl}")
    await broker.start()
    try:
        async with stories.exchange() as exchange:
            status, out, err = await marginwatch(
                "forget", write_config(tmp_path / "d", exchange, broker.port, mqtt={"protocol": protocol})
            )
    finally:
        broker.kill()

    assert (status, out) == (1, "")
    looked = r"0 retained topics cleared .*\nstill there: marginwatch/main/summary; may anonymous write them\?\n"
    cut_off = r"the broker .* refused: .*; may anonymous write marginwatch/# and homeassistant/#\?\n"
    assert re.fullmatch(f"{looked}|{cut_off}", err)


async def retain(broker: Mosquitto, topics: dict[str, bytes]) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for topic, payload in topics.items():
            await client.publish(topic, payload, qos=1, retain=True)


async def kept(broker: Mosquitto) -> set[str]:
    """Topics that have something, as a new subscriber is shown them."""
    found = set()
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe([("marginwatch/#", 0), ("end", 0)])
        await client.publish("end", b"", qos=1)
        async for message in client.messages:
            if str(message.topic) == "end":
                break
            found.add(str(message.topic))
    return found
