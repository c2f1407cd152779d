"""MQTT packets of which there are thousands, as they go over the wire: what is published, and what acknowledges it.

Source: MQTT 5.0 and 3.1.1, 1.5 (how values are written), 3.3 (PUBLISH), 3.4 (PUBACK); 5.0, 2.2.2 (properties).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from monitor.message import Message

_PUBLISH = 0x30
_PUBACK = 0x40
_CONTENT_TYPE, _USER = b"\x03", b"\x26"
_LONGEST = 4
"""Bytes of a length."""


class Answer(NamedTuple):
    """The broker has answered a message of this number; a reason from 0x80 on refuses it."""

    number: int
    reason: int


def publish(message: Message, number: int, properties: bytes | None) -> bytes:
    """The packet that publishes a message.

    Args:
        number: Under which it will be acknowledged; with QoS 0 it has none.
        properties: As they are packed; None: MQTT 3.1.1, which has none.
    """
    rest, payload = _string(message.topic), message.payload
    if message.qos:
        rest += number.to_bytes(2, "big")
    if properties is not None:
        rest += properties
    first = _PUBLISH | message.qos << 1 | message.retain
    return b"".join((bytes((first,)), _size(len(rest) + len(payload)), rest, payload))


def properties(content_type: str | None, user: Iterable[tuple[str, str]] = ()) -> bytes:
    """Properties of a message: the length of all, then each behind its number."""
    fields = [] if content_type is None else [_CONTENT_TYPE, _string(content_type)]
    for name, value in user:
        fields += _USER, _string(name), _string(value)
    packed = b"".join(fields)
    return _size(len(packed)) + packed


def begins_with_answer(received: bytearray) -> bool:
    """Whether what has been received begins with an acknowledgement, or with a part of one."""
    return bool(received) and received[0] & 0xF0 == _PUBACK


def take_answers(received: bytearray) -> list[Answer]:
    """Take the acknowledgements with which this begins out of it, up to the first that is not all there.

    Raises:
        ValueError: It is none that MQTT knows.
    """
    answers, at = [], 0
    while at < len(received) and received[at] & 0xF0 == _PUBACK:
        size, begin = _size_at(received, at + 1)
        if size is None or len(received) < begin + size:
            break
        if size < 2:
            raise ValueError("an acknowledgement of nothing")
        number = int.from_bytes(received[begin : begin + 2], "big")
        answers.append(Answer(number, received[begin + 2] if size > 2 else 0))
        at = begin + size
    del received[:at]
    return answers


def _size_at(received: bytearray, at: int) -> tuple[int | None, int]:
    """A length, and where what it measures begins; None: it is not all there."""
    size, written = 0, received[at : at + _LONGEST]
    for i, byte in enumerate(written):
        size |= (byte & 127) << 7 * i
        if byte < 128:
            return size, at + i + 1
    if len(written) == _LONGEST:
        raise ValueError("a length that does not end")
    return None, at


def _string(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _size(size: int) -> bytes:
    """A length in as few bytes as it takes, seven bits in each."""
    if size < 128:
        return bytes((size,))
    written = bytearray()
    while size > 127:
        written.append(size & 127 | 128)
        size >>= 7
    written.append(size)
    return bytes(written)
