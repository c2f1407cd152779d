"""The connection to the broker: what goes over the wire beside a payload, and how much of it at a time."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import math
import re
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from monitor.config import MqttConfig
from monitor.message import Message
from monitor.outbox import Outbox
from monitor.shell.broker import Broker
from monitor.shell.probe_broker import say
from monitor.sizes import Sizes
from tests.conftest import needs_mosquitto
from tests.rig import ROOT, Listener, Mosquitto, private_file, until

QUOTA_EXCEEDED = b"\x40\x03\\1\x97"
"""A PUBACK of MQTT 5; what stands between is the number of the message."""
Passing = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""How the bytes of one side reach the other, until there are no more."""
ONLINE, OFFLINE = (Message("marginwatch/status", word, True, 1) for word in (b"online", b"offline"))


@asynccontextmanager
async def sending(
    outbox: Outbox, config: MqttConfig, on_command: Callable[[str, bytes], None] | None = None
) -> AsyncIterator[tuple[Broker, list[Message]]]:
    """A connection that sends what is in the outbox, and what the broker has."""
    sent: list[Message] = []
    sender = Broker(config, None, outbox, ONLINE, OFFLINE, sent.append, on_command)
    running = asyncio.create_task(sender.run())
    try:
        await until(lambda: sent, "it is connected")
        yield sender, sent
        sender.stop()
        await running
    finally:
        running.cancel()
        await asyncio.wait({running})


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


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_what_comes_in_pieces_is_read_whole(broker: Mosquitto, protocol: Literal["5", "3.1.1"]) -> None:
    """Acknowledgements of ours, and between them what the library reads: its own, and what others publish."""
    outbox, commands = Outbox(), list[str]()
    async with relay(broker.port, back=in_small_pieces) as port:
        config = MqttConfig(port=port, protocol=protocol)
        async with sending(outbox, config, lambda name, payload: commands.append(name)) as (sender, sent):
            others = MqttConfig(port=broker.port)
            while not commands:  # it is not subscribed at once
                await say(others, None, "marginwatch/cmd/first", b"")
            wanted = [Message(f"marginwatch/main/summary/{n}", b"{}", True, n % 2) for n in range(200)]
            outbox.put(wanted)
            sender.wake()
            for n in range(10):
                await say(others, None, f"marginwatch/cmd/{n}", b"")
            await say(others, None, ONLINE.topic, OFFLINE.payload)  # an old session's will
            await until(lambda: len(sent) >= 202 and "9" in commands, "all is there")

    assert sent.count(ONLINE) >= 2
    assert sorted(m.topic for m in sent if m not in (ONLINE, OFFLINE)) == sorted(m.topic for m in wanted)
    # What others publish comes twice, the will too, while we look for what earlier runs have left.
    assert set(commands) == {"first", *map(str, range(10))}


async def test_over_a_slow_line_an_alert_waits_for_few_figures_and_slowness_is_no_silence(broker: Mosquitto) -> None:
    """The kernel would take megabytes of figures, and whatever is told next would go behind them, minutes late; and
    thirty messages that are under way together take longer than the broker may take to answer one."""
    outbox = Outbox()
    figures = [Message(f"marginwatch/main/position/{n}", b"x" * 1000, True, 0) for n in range(1000)]
    states = [Message(f"marginwatch/main/summary/{n}", b"x" * 8000, True, 1) for n in range(40)]
    alert = Message("marginwatch/main/event/critical/margin_ratio", b"{}", False, 1, 4, "i.1", "i")
    async with (
        relay(broker.port, slowly, room=4096) as port,
        sending(outbox, MqttConfig(port=port, timeout_s=0.6)) as (sender, sent),
    ):
        outbox.put([*states, *figures])
        sender.wake()
        await until(lambda: sum(message in figures for message in sent) >= 10, "figures are under way")
        outbox.put([alert])
        outbox.release([alert])
        begun = time.monotonic()
        sender.push()
        await until(lambda: alert in sent, "the broker has the alert", 30)
        took = time.monotonic() - begun
        outbox.states.clear()
        outbox.connected()

    assert took < 2
    assert sent.count(ONLINE) == 1


async def test_a_system_that_does_not_know_how_to_keep_little_unsent_reaches_the_broker(broker: Mosquitto) -> None:
    """That an alert may be late over a slow line is no reason to tell nothing."""
    script = """
import asyncio, socket, sys
socket.TCP_NOTSENT_LOWAT = 9999  # which no system knows
from monitor.config import MqttConfig
from tests.test_broker import Outbox, sending

async def main():
    async with sending(Outbox(), MqttConfig(port=int(sys.argv[1]))):
        pass

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(broker.port), cwd=ROOT)
    async with asyncio.timeout(30):
        assert await process.wait() == 0


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """100 kB a second."""
    while data := await reader.read(1000):
        writer.write(data)
        await asyncio.sleep(0.01)
    writer.close()


async def in_small_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(7):
        for piece in (data[:1], data[1:4], data[4:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # whoever reads it may have his turn before the next
    writer.close()


@asynccontextmanager
async def relay(
    target: int, there: Passing = pass_on, back: Passing = pass_on, room: int | None = None
) -> AsyncIterator[int]:
    """The port of a broker at the other end of a line, until a connection over it has ended.

    Args:
        target: The port where the broker is.
        there, back: How what we say is passed on, and what it says.
        room: Bytes that may be under way; None: as many as the system allows.
    """
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(there(reader, to_broker), back(from_broker, writer))
        over.set()

    listening = socket.create_server(("127.0.0.1", 0))
    if room is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    async with await asyncio.start_server(accept, sock=listening, limit=room or 65_536):
        yield int(listening.getsockname()[1])
        await over.wait()


class Doorkeeper:
    """Stands before a broker, and lets in whoever greets in a version of MQTT that it knows.

    Args:
        refusal: What the others hear before they are cut off.

    Attributes:
        knows: 5, or 4, which stands for 3.1.1.
        greetings: The version of each.
    """

    def __init__(self, target: int, refusal: bytes = b"") -> None:
        self.knows = {4, 5}
        self.greetings: list[int] = []
        self._target = target
        self._refusal = refusal
        self._inside: set[asyncio.StreamWriter] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = await reader.read(65_536)
        self.greetings.append(greeting[greeting.index(b"MQTT") + 4])
        if self.greetings[-1] in self.knows:
            self._inside.add(writer)
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target)
            to_broker.write(greeting)
            await asyncio.gather(pass_on(reader, to_broker), pass_on(from_broker, writer))
            self._inside.discard(writer)
        else:
            writer.write(self._refusal)
            writer.close()

    def turn_out(self) -> None:
        """End all connections."""
        for writer in self._inside:
            writer.close()


@pytest.mark.parametrize("refusal", [b"\x20\x02\x00\x01", b""], ids=["refused", "cut off"])
@pytest.mark.parametrize(("before", "after"), [({4, 5}, {4}), ({4}, {5})], ids=["older", "newer"])
async def test_a_broker_that_is_replaced_by_one_of_another_version_is_spoken_to_in_it(
    broker: Mosquitto, before: set[int], after: set[int], refusal: bytes
) -> None:
    """The daemon would have gone on for ever in the version that it began with, and have reached nobody."""
    door = Doorkeeper(broker.port, refusal)
    door.knows = before
    event = Message("marginwatch/main/event/critical/margin_ratio", b"{}", False, 1, 3, "a.1", "a")
    outbox = Outbox()
    server = await asyncio.start_server(door.accept, "127.0.0.1", 0)
    async with server:
        config = MqttConfig(port=server.sockets[0].getsockname()[1], timeout_s=0.3, reconnect_max_s=0.1)
        async with sending(outbox, config) as (sender, sent):
            await until(lambda: not outbox.waiting, "nothing is under way")
            door.knows = after
            door.turn_out()
            outbox.put([event])
            outbox.release([event])
            sender.wake()
            await until(lambda: event in sent, "the new broker has it")

    assert door.greetings[-1] in after


async def test_a_broker_that_is_away_for_a_while_is_spoken_to_as_before(broker: Mosquitto, log: io.StringIO) -> None:
    """In MQTT 5 it hears how late an event comes; whether it does must not be left to chance."""
    door = Doorkeeper(broker.port)

    def not_reached() -> int:
        return log.getvalue().count("broker not reached")

    server = await asyncio.start_server(door.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    config = MqttConfig(port=port, timeout_s=0.3, reconnect_max_s=0.1)
    running = asyncio.create_task(Broker(config, None, outbox := Outbox(), ONLINE, OFFLINE, lambda m: None).run())
    try:
        await until(lambda: not_reached() == 1, "nobody is there yet")
        server = await asyncio.start_server(door.accept, "127.0.0.1", port)
        await until(lambda: "broker connected" in log.getvalue(), "it is there")
        at_first, door.knows = set(door.greetings), set()
        door.turn_out()
        await until(lambda: not_reached() == 2, "it hangs, and has answered one greeting not at all")
        door.knows = {4, 5}
        await until(lambda: log.getvalue().count("broker connected") == 2, "it goes on")
    finally:
        server.close()
        running.cancel()
        await asyncio.wait({running})

    assert at_first == {5}
    assert door.greetings[-1] == 5
    assert not outbox.waiting


@pytest.mark.parametrize("nonsense", [b"\x40\x00", b"\x40\xff\xff\xff\xff\x01"])
async def test_a_broker_that_answers_nonsense_is_left(nonsense: bytes) -> None:
    """And the socket is closed: else the broker would take us for alive, and keep our will to itself."""
    async with answering(b"\x20\x03\x00\x00\x00" + nonsense) as heard:
        async with asyncio.timeout(5):
            await heard.read()  # until the connection is closed


async def test_a_broker_may_want_to_hear_of_us_more_often_than_we_have_proposed() -> None:
    every_second = b"\x03\x13\x00\x01"
    async with answering(b"\x20\x06\x00\x00" + every_second, keepalive_s=3600) as heard:
        async with asyncio.timeout(5):
            await heard.readuntil(b"\xc0\x00")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho closes no such socket itself
async def test_a_connection_that_fails_leaves_none_of_its_certificates_behind() -> None:
    """A megabyte each, at a broker that is away for a day, while an idle daemon collects no garbage."""
    tries = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    config = MqttConfig(port=server.sockets[0].getsockname()[1], tls=True, reconnect_max_s=0.1)
    gc.disable()
    running = asyncio.create_task(Broker(config, None, Outbox(), ONLINE, OFFLINE, lambda message: None).run())
    try:
        before = contexts()
        await until(lambda: tries >= 10, "it has tried ten times")
        assert contexts() - before <= 2
    finally:
        gc.enable()
        running.cancel()
        await asyncio.wait({running})
        server.close()


def contexts() -> int:
    return sum(type(each) is ssl.SSLContext for each in gc.get_objects())


@asynccontextmanager
async def answering(answer: bytes, keepalive_s: float = 15) -> AsyncIterator[asyncio.StreamReader]:
    """What a first connection says to a broker that answers its greeting with this, and nothing more."""
    greeted: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not greeted.done():
            await reader.read(2)
            writer.write(answer)
            greeted.set_result(reader)
            await stopped.wait()
        writer.close()

    stopped = asyncio.Event()
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    config = MqttConfig(port=server.sockets[0].getsockname()[1], protocol="5", keepalive_s=keepalive_s)
    running = asyncio.create_task(Broker(config, None, Outbox(), ONLINE, OFFLINE, lambda message: None).run())
    try:
        yield await greeted
    finally:
        running.cancel()
        await asyncio.wait({running})
        stopped.set()
        server.close()


async def test_a_broker_that_dies_while_an_event_goes_out_takes_nobody_with_it(broker: Mosquitto) -> None:
    """The socket fails at the event; the states behind it find it closed. Both go again, on the next connection."""
    outbox = Outbox()
    first, second = (
        Message("marginwatch/main/event/critical/margin_ratio", b"{}", False, 1, 3, f"{place}.1", place)
        for place in ("a", "b")
    )
    state = Message("marginwatch/main/incident/margin_ratio/cross-usdt", b"{}", True, 1)
    async with sending(outbox, MqttConfig(port=broker.port, reconnect_max_s=0.2)) as (sender, sent):
        await until(lambda: not outbox.waiting, "nothing is under way")
        broker.freeze()
        outbox.put([first])
        outbox.release([first])
        sender.push()
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the sender has had its turn, and the broker has not read what was sent
        broker.kill()
        outbox.put([second, state])
        outbox.release([second])
        sender.push()

        await broker.start()
        await until(lambda: {first, second, state} <= set(sent), "the broker has all")

    assert sent.count(ONLINE) == 2


async def test_what_the_broker_refuses_is_said(tmp_path: Path, log: io.StringIO) -> None:
    """An ACL that forgets the alerts lets everything look well: the broker acknowledges, and passes nothing on."""
    needs_mosquitto()
    acl = private_file(tmp_path / "acl", "topic write marginwatch/status\n")
    broker = Mosquitto(tmp_path / "closed", f"acl_file {acl}")
    await broker.start()
    outbox, topic = Outbox(), "marginwatch/main/event/critical/margin_ratio"
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


async def test_an_event_that_is_beyond_a_quota_of_the_broker_goes_again(broker: Mosquitto, log: io.StringIO) -> None:
    """It has not passed it on, and will once there is room: an alert that counted as sent would be lost. Its answer to
    our subscription comes with the refusal: whoever waited for that went on, told to end, and so did the connection."""
    outbox, event = Outbox(), Message("marginwatch/main/event/x", b"{}", False, 1, 3, "a.1", "a")
    state = Message("marginwatch/main/summary", b"{}", True, 1)
    quota = Unwilling(QUOTA_EXCEEDED)
    async with relay(broker.port, back=quota.answer) as port:
        config = MqttConfig(port=port, reconnect_max_s=0.1)
        async with sending(outbox, config) as (sender, sent):
            quota.is_unwilling = True
            outbox.put([state, event])
            outbox.release([event])
            sender.wake()
            await until(lambda: log.getvalue().count("quota exceeded") >= 2, "it has been refused twice")
            early, waiting = event in sent, outbox.waiting_events
            quota.is_unwilling = False
            await until(lambda: event in sent, "the broker has it")

    assert (early, waiting) == (False, 1)
    assert sent.count(event) == 1


@pytest.mark.parametrize("instead", [b"", QUOTA_EXCEEDED], ids=["no answer", "quota exceeded"])
async def test_a_stop_says_offline_whatever_the_broker_makes_of_the_events(broker: Mosquitto, instead: bytes) -> None:
    """Who takes leave has no will: `online` would stand there for ever."""
    outbox, event = Outbox(), Message("marginwatch/main/event/x", b"{}", False, 1, 3, "a.1", "a")
    unwilling = Unwilling(instead)
    async with relay(broker.port, back=unwilling.answer) as port:
        config = MqttConfig(port=port, timeout_s=0.5)
        async with sending(outbox, config) as (sender, sent):
            unwilling.is_unwilling = True
            outbox.put([event])
            outbox.release([event])
            sender.stop()
    async with Listener(broker.port, "marginwatch/status") as listener:
        await until(lambda: listener.now, "the status is read")

    assert event not in sent
    assert set(listener.now.values()) == {b"offline"}


async def test_who_gives_a_broker_up_says_so_there(broker: Mosquitto) -> None:
    """Who takes leave has no will: should we not come back, `online` would stand there for ever."""
    outbox, event = Outbox(), Message("marginwatch/main/event/x", b"{}", False, 1, 3, "a.1", "a")
    unwilling = Unwilling(b"")
    async with (
        relay(broker.port, back=unwilling.answer) as port,
        Listener(broker.port, "marginwatch/status") as listener,
    ):
        config = MqttConfig(port=port, timeout_s=0.5, reconnect_max_s=60)
        async with sending(outbox, config) as (sender, sent):
            unwilling.is_unwilling = True
            outbox.put([event])
            outbox.release([event])
            sender.wake()
            await until(lambda: OFFLINE.payload in [heard.payload for heard in listener.heard], "it has said so")
            unwilling.is_unwilling = False
            await until(lambda: event in sent, "the broker has it in the end")


class Unwilling:
    """A broker that says something else of what it has taken and nobody has subscribed to.

    Args:
        instead: Of such an acknowledgement.
    """

    def __init__(self, instead: bytes) -> None:
        self.is_unwilling = False
        self._instead = instead

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.is_unwilling:
                data = re.sub(rb"\x40\x03(..)\x10", self._instead, data, flags=re.DOTALL)
            writer.write(data)
        writer.close()


async def test_what_is_too_large_for_the_broker_is_said_and_holds_nothing_up(tmp_path: Path, log: io.StringIO) -> None:
    """It would cut the connection, and what is sent anew on the next one would cut that too."""
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "small", "max_packet_size 2000")
    await broker.start()
    outbox = Outbox()
    try:
        async with sending(outbox, MqttConfig(port=broker.port, protocol="5")) as (sender, sent):
            large = Message("marginwatch/main/event/critical/margin_ratio", b"{%s}" % (b" " * 2000), False, 1)
            outbox.put([large, *(Message(f"marginwatch/main/summary/{n}", b"{}", True, 1) for n in range(10))])
            sender.wake()
            await until(lambda: len(sent) == 12, "the others are there")
    finally:
        broker.kill()

    [said] = [line for line in map(json.loads, log.getvalue().splitlines()) if "refused" in line["event"]]
    assert (said["level"], said["topic"], said["reason"]) == ("error", large.topic, "Packet too large")
    assert "largest packet" in said["remedy"]
    assert sent.count(ONLINE) == 1


async def test_a_broker_that_does_not_say_how_much_it_takes_gets_all_that_it_does(
    tmp_path: Path, log: io.StringIO
) -> None:
    """It cuts whoever sends a larger message, and in MQTT 3.1.1 nobody says why; all that is less severe waited behind
    that one for ever, while the connection looked well between two cuts."""
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "small", "max_packet_size 3000")
    await broker.start()
    outbox = Outbox()

    def event(n: int, rank: int, size: int) -> Message:
        topic = f"marginwatch/main/event/{rank}/margin_ratio"
        return Message(topic, b"{%s}" % (b" " * size), False, 1, rank, f"main.p{n}.margin_ratio.{n}.1", f"i{n}", 1, 1)

    events = [event(0, 4, 3000), *(event(n, 3, 2000) for n in range(1, 40)), event(40, 3, 3001)]
    try:
        config = MqttConfig(port=broker.port, protocol="3.1.1", reconnect_max_s=0.2)
        async with sending(outbox, config) as (sender, sent):
            outbox.put([*events, *(Message(f"marginwatch/main/summary/{n}", b"{}", True, 1) for n in range(10))])
            outbox.release(events)
            sender.wake()
            await until(lambda: not outbox.waiting, "all is over")
            others = [message for message in sent if message in events[1:-1]]
    finally:
        broker.kill()

    said = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "error"]
    assert sorted(m.event_id or "" for m in others) == sorted(m.event_id or "" for m in events[1:-1])
    assert [line["event"] for line in said] == [
        "broker cuts us off for the size of a message",
        "message refused by the broker",
        "message refused by the broker",
    ]
    assert (said[0]["topic"], said[0]["bytes"]) == (events[0].topic, len(events[0].topic) + 3002)
    assert {line["topic"] for line in said[1:]} == {events[0].topic, events[-1].topic}


@pytest.mark.parametrize(
    "unanswered", [rb"online", rb"\x82.{1,9}marginwatch/status"], ids=["the first word", "the subscription"]
)
async def test_a_connection_that_is_lost_before_an_answer_is_made_anew_at_once(
    broker: Mosquitto, unanswered: bytes
) -> None:
    """Whoever waited for the answer waited on, and an alert with them, as long as a broker may take that is there."""
    cut: list[bytes] = []

    async def cut_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not cut and re.search(unanswered, data, re.DOTALL):
                cut.append(data)
                break
            writer.write(data)
        writer.close()

    outbox = Outbox()
    summary = Message("marginwatch/main/summary", b"{}", True, 1)
    outbox.put([summary])
    async with relay(broker.port, cut_once) as port:
        config = MqttConfig(port=port, timeout_s=600, reconnect_max_s=0.1)
        async with sending(outbox, config) as (_, sent):
            await until(lambda: summary in sent, "it is there")
    assert cut


async def test_a_figure_that_is_too_large_is_found_out_though_nobody_acknowledges_figures(
    tmp_path: Path, log: io.StringIO
) -> None:
    """Each connection would end with it, for ever."""
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "small", "max_packet_size 3000")
    await broker.start()
    outbox = Outbox()
    figures = [Message(f"marginwatch/main/pool/{n}", b"{%s}" % (b" " * (2990 * (n == 3))), True, 0) for n in range(9)]
    try:
        config = MqttConfig(port=broker.port, protocol="3.1.1", reconnect_max_s=0.2)
        async with sending(outbox, config) as (sender, _), Listener(broker.port, "marginwatch/main/#") as listener:
            outbox.put(figures)
            sender.wake()
            await until(lambda: "refused by the broker" in log.getvalue(), "it is found out")
            await until(lambda: len(listener.now) == 8, "the others are there")
            listener.wrong.clear()
    finally:
        broker.kill()

    said = [line for line in map(json.loads, log.getvalue().splitlines()) if line["level"] == "error"]
    assert [(line["event"], line["topic"]) for line in said] == [
        ("broker cuts us off for the size of a message", figures[3].topic),
        ("message refused by the broker", figures[3].topic),
    ]


async def test_a_broker_that_ends_each_connection_is_not_taken_for_one_that_takes_little(
    broker: Mosquitto, log: io.StringIO
) -> None:
    """Another daemon with our name has it end ours again and again, whatever we send."""
    outbox = Outbox()
    large = [Message(f"marginwatch/main/summary/{n}", b"{%s}" % (b" " * (2000 + n)), True, 1) for n in range(50)]
    config = MqttConfig(port=broker.port, reconnect_max_s=0.1)
    async with sending(outbox, config) as (first, _), sending(Outbox(), config):
        outbox.put(large)
        first.wake()
        await until(lambda: log.getvalue().count("broker lost") > 7, "each has ended the other's connection")

    assert "for the size" not in log.getvalue()


def test_a_message_for_which_each_connection_is_lost_is_found_however_long_they_last() -> None:
    """Over a slow line it comes late; and connections that live for long end for other reasons."""
    small, large = (Message("marginwatch/main/summary", b" " * size, True, 1) for size in (10, 5000))
    sizes = Sizes()
    for _ in range(10):
        assert sizes.cut([small, large], is_short=False) is None
        assert not sizes.is_in_doubt
    for _ in range(3):
        assert sizes.cut([small, large], is_short=True) is None
    for _ in range(2):
        assert sizes.is_in_doubt
        assert sizes.cut([large], is_short=False) is None

    assert sizes.cut([large], is_short=False) is large
    assert (sizes.most, sizes.is_in_doubt) == (5000 + len(large.topic), False)


def test_what_a_broker_takes_is_found_out_anew_once_a_connection_has_lived() -> None:
    """Its limit may have been raised, or something else have cut us; every alert as large was refused until the daemon
    was restarted."""
    large = Message("marginwatch/main/summary", b" " * 5000, True, 1)
    sizes = Sizes()
    while sizes.cut([large], is_short=True) is None:
        pass
    sizes.cut([], is_short=True)
    found = sizes.most
    sizes.cut([], is_short=False)

    assert (found, sizes.most) == (5000 + len(large.topic), math.inf)


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
