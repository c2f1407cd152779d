"""MQTT packets as they go over the wire: as the library writes and reads them."""

from __future__ import annotations

import pytest
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.message import Message
from monitor.shell.broker import properties_of
from monitor.shell.clock import now
from monitor.shell.packets import Answer, begins_with_answer, publish, take_answers


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

    written = properties_of(message, is_superseded)

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

    assert properties_of(Message("t", b"{}", True, 1)) == expected.pack()  # type: ignore[no-untyped-call]
    assert properties_of(Message("t", b"", True, 1)) == b"\x00"


@pytest.mark.parametrize("length", [0, 1, 100, 127, 128, 16_000, 16_384, 2_100_000])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311])
def test_the_library_reads_what_is_published(length: int, qos: int, retain: bool, version: MQTTProtocolVersion) -> None:
    message = Message("marginwatch/müller/summary", b"{" * length, retain, qos)
    is_5 = version == MQTTProtocolVersion.MQTTv5

    written = publish(message, 0xABCD, properties_of(message) if is_5 else None)

    size, begin = 0, 1
    while True:
        size += (written[begin] & 127) * 128 ** (begin - 1)
        begin += 1
        if written[begin - 1] < 128:
            break
    assert len(written) == begin + size
    read = _packet.decode_publish(written[0], written[begin:], version)
    assert (written[0] & 0xF0, read.dup, read.qos, read.retain) == (PacketTypes.PUBLISH << 4, False, qos, retain)
    assert (read.topic.decode(), bytes(read.payload)) == (message.topic, message.payload)
    assert read.mid == (0xABCD if qos else 0)
    content_type = getattr(read.properties, "ContentType", None)
    assert content_type == ("application/json" if is_5 and length else None)


PLAIN = b"\x40\x02\x00\x07"
WITH_REASON = b"\x40\x03\x01\x00\x87"
WITH_WORDS = b"\x40\xd1\x01\xff\xff\x10\xcc\x01\x1f\x00\xc9" + b"because " * 25 + b"!"
PING = b"\xd0\x00"


def test_acknowledgements_are_read_wherever_what_comes_is_cut() -> None:
    whole = PLAIN + WITH_REASON + WITH_WORDS + PLAIN + PING + PLAIN
    expected = [Answer(7, 0), Answer(256, 0x87), Answer(65_535, 0x10), Answer(7, 0)]
    for cut in range(len(whole) + 1):
        received = bytearray(whole[:cut])
        answers = take_answers(received)
        received += whole[cut:]
        answers += take_answers(received)

        assert answers == expected
        assert received == PING + PLAIN
        assert not begins_with_answer(received)


def test_a_part_of_an_acknowledgement_is_left_until_the_rest_comes() -> None:
    for whole in (PLAIN, WITH_REASON, WITH_WORDS):
        for cut in range(1, len(whole)):
            received = bytearray(whole[:cut])
            assert take_answers(received) == []
            assert received == whole[:cut]
            assert begins_with_answer(received)


def test_an_acknowledgement_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        take_answers(bytearray(b"\x40\x00" + PLAIN))


def test_a_length_that_does_not_end_is_refused() -> None:
    assert take_answers(bytearray(b"\x40\xff\xff\xff")) == []
    with pytest.raises(ValueError, match="does not end"):
        take_answers(bytearray(b"\x40\xff\xff\xff\xff"))
