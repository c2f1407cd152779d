"""Payloads that wait for long: the same bytes, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from monitor.compressed import MANY, Compressor
from monitor.message import Message
from monitor.outbox import Outbox
from monitor.shell.owed import Batch, Owed


@given(st.lists(st.one_of(st.binary(), st.binary(min_size=1, max_size=50).map(lambda some: some * 1000)), max_size=20))
def test_whatever_is_compressed_comes_back_as_it_was(payloads: list[bytes]) -> None:
    """A consumer knows an event that is sent again by its bytes."""
    compressor = Compressor()
    assert [compressor.compressed(payload).whole for payload in payloads] == payloads


def told(count: int) -> list[Message]:
    """Events like those of many positions."""
    random = Random(1)
    events = []
    for n in range(count):
        figures = [{"symbol": f"A{i}USDT", "liquidation_price": f"{random.random():.8f}"} for i in range(60)]
        body = {"event_id": f"main.pool-{n % 40}.moved.{n}.1", "positions": figures}
        payload = json.dumps(body).encode()
        incident_id = f"main.pool-{n % 40}.moved.{n}"
        events.append(Message("event", payload, False, 1, n % 5, f"{incident_id}.1", incident_id, n, n))
    return events


def test_what_waits_for_days_arrives_whole_and_takes_little_memory() -> None:
    """A broker may be away for long, and a service is confined. It is all in memory, whatever the disk does."""
    outbox, owed, compared = Outbox(), Owed(), Outbox()
    assert outbox.take() is None
    assert compared.take() is None
    sizes = []
    tracemalloc.start()
    try:
        for event in told(MANY + 2000):
            if outbox.waiting_events in (MANY, MANY + 1000):
                sizes.append(tracemalloc.get_traced_memory()[0])
            kept = outbox.compact((event,))
            outbox.put(kept)
            owed.take(Batch(kept, ()))
            owed.on_disk()
            outbox.release(kept)
    finally:
        tracemalloc.stop()
    for event in told(MANY + 2000):
        compared.put([event])
        compared.release([event])
    arrived = 0
    while (message := outbox.take()) is not None:
        same = compared.take()
        assert same is not None
        assert (message.event_id, message.payload) == (same.event_id, same.payload)
        outbox.acknowledged(message)
        compared.acknowledged(same)
        arrived += 1

    assert arrived == MANY + 2000
    assert (sizes[1] - sizes[0]) / 1000 < len(event.payload) / 2, (sizes, len(event.payload))


def test_few_wait_as_they_are() -> None:
    """Whoever is about to be told waits for no arithmetic."""
    events = tuple(told(3))
    assert Outbox().compact(events) is events
