"""The connection to the broker: what goes over the wire beside a payload."""

from __future__ import annotations

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.messages import Message
from monitor.shell.broker import properties_of
from monitor.shell.clock import now


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
