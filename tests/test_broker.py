"""The connection to the broker: what goes over the wire beside a payload, and how much of it at a time."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.config import MqttConfig
from monitor.messages import Message
from monitor.outbox import Outbox
from monitor.shell import logs
from monitor.shell.broker import Broker, properties_of
from monitor.shell.clock import now
from tests.conftest import needs_mosquitto
from tests.rig import Mosquitto, private_file, until


@pytest.mark.parametrize("length", [1, 60, 127, 128, 300, 20_000])
@pytest.mark.parametrize("late_ms", [0, 90_061_000])
@pytest.mark.parametrize("is_superseded", [False, True])
def test_properties_are_packed_as_the_library_packs_them(length: int, late_ms: int, is_superseded: bool) -> None:
    event_id = "ü" * length
    at_ms = now().wall_ms - late_ms
    message = Message("t", b"{}", False, 1, event_id=event_id, incident_id="i", at_ms=at_ms)
    expected = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    expected.ContentType = "application/json"
    expected.UserProperty = ("event_id", event_id)
    if late_ms:
        expected.UserProperty = ("delayed_ms", "?" * len(str(late_ms)))
    if is_superseded:
        expected.UserProperty = ("superseded", "true")

    packed = properties_of(message, is_superseded)

    assert packed is not None
    written = packed.pack()  # type: ignore[no-untyped-call]
    wanted = expected.pack()  # type: ignore[no-untyped-call]
    if late_ms:
        at = wanted.index(b"?")
        digits = slice(at, at + len(str(late_ms)))
        assert abs(int(written[digits]) - late_ms) < 1000
        written = written[: digits.start] + wanted[digits] + written[digits.stop :]
    assert written == wanted


def test_a_state_says_that_it_is_json_and_an_emptied_topic_says_nothing() -> None:
    expected = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    expected.ContentType = "application/json"

    state = properties_of(Message("t", b"{}", True, 1))

    assert state is not None
    assert state.pack() == expected.pack()  # type: ignore[no-untyped-call]
    assert properties_of(Message("t", b"", True, 1)) is None


ONLINE, OFFLINE = (Message("marginwatch/status", word, True, 1) for word in (b"online", b"offline"))


@asynccontextmanager
async def sending(outbox: Outbox, config: MqttConfig) -> AsyncIterator[tuple[Broker, list[Message]]]:
    """A connection that sends what is in the outbox, and what the broker has."""
    sent: list[Message] = []
    sender = Broker(config, None, outbox, ONLINE, OFFLINE, sent.append)
    running = asyncio.create_task(sender.run())
    await until(lambda: sent, "it is connected")
    yield sender, sent
    sender.stop()
    await running


@pytest.mark.parametrize("qos", [0, 1])
async def test_however_much_is_sent_others_have_their_turn(broker: Mosquitto, qos: int) -> None:
    """What is sent with QoS 0 is acknowledged by being written; thousands of figures held everything up for as long."""
    outbox = Outbox()
    async with sending(outbox, MqttConfig(port=broker.port)) as (sender, sent):
        outbox.put(Message(f"marginwatch/main/pool/{n}", b"{}", True, qos) for n in range(2000))
        sender.wake()

        before, most = len(sent), 0
        while len(sent) <= 2000:
            await asyncio.sleep(0)
            most, before = max(most, len(sent) - before), len(sent)

    assert most <= 64


async def test_an_acknowledgement_that_waits_to_be_read_is_not_missed(broker: Mosquitto) -> None:
    """A step that takes longer than the broker may, or a machine that pauses us, is no fault of the broker."""
    outbox = Outbox()
    async with sending(outbox, MqttConfig(port=broker.port, timeout_s=0.3)) as (sender, sent):
        for seconds in (0.5, 0.0):
            outbox.put([Message("marginwatch/main/summary", b"%g" % seconds, True, 1)])
            sender.wake()
            await asyncio.sleep(0)  # it is under way
            await asyncio.sleep(0)
            time.sleep(seconds)  # noqa: ASYNC251 - the step that takes so long
        await until(lambda: len(sent) >= 3, "the broker has both")

    assert sent.count(ONLINE) == 1


async def test_what_the_broker_refuses_is_said(tmp_path: Path) -> None:
    """An ACL that forgets the alerts lets everything look well: the broker acknowledges, and passes nothing on."""
    needs_mosquitto()
    acl = private_file(tmp_path / "acl", "topic write marginwatch/status\n")
    broker = Mosquitto(tmp_path / "closed", f"acl_file {acl}")
    await broker.start()
    outbox, log, topic = Outbox(), io.StringIO(), "marginwatch/main/event/critical/margin_ratio"
    logs.setup("json", "info", log)
    try:
        async with sending(outbox, MqttConfig(port=broker.port)) as (sender, sent):
            outbox.put([Message(topic, b"{}", False, 1)])
            sender.wake()
            await until(lambda: len(sent) == 2, "the broker has answered")
            await until(lambda: "refused" in log.getvalue(), "it is said")
    finally:
        broker.kill()

    [said] = [line for line in map(json.loads, log.getvalue().splitlines()) if "refused" in line["event"]]
    assert (said["level"], said["topic"], said["reason"]) == ("error", topic, "Not authorized")


async def test_a_broker_that_takes_few_at_a_time_has_room_for_the_status(tmp_path: Path) -> None:
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "few", "max_inflight_messages 3")
    await broker.start()
    outbox = Outbox()
    try:
        async with sending(outbox, MqttConfig(port=broker.port)) as (sender, _):
            broker.freeze()
            outbox.put(Message(f"marginwatch/main/summary/{n}", b"{}", True, 1) for n in range(10))
            sender.wake()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left = list(iter(outbox.take, None))
            for message in left:
                outbox.acknowledged(message)
            broker.thaw()
    finally:
        broker.kill()

    assert len(left) == 8
