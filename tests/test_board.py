"""The board that readers in this process look at: newest states, last events, whatever their pace."""

from __future__ import annotations

import asyncio
import time

from monitor.board import Board
from monitor.message import Message
from monitor.shell.hub import Hub


def state(topic: str, payload: bytes = b"{}") -> Message:
    return Message(topic, payload, retain=True, qos=1)


def event(number: int) -> Message:
    return Message("m/a/event/info/r", b"{}", retain=False, qos=1, event_id=f"e.{number}")


def test_a_new_reader_gets_everything_that_stands() -> None:
    """Of each topic the newest state; what was emptied is not there."""
    board = Board()
    board.put([state("m/a/pool/x", b"1"), event(1), state("m/a/pool/y"), state("m/a/pool/x", b"2")])
    board.put([state("m/a/pool/y", b"")])

    changes = board.since(0)

    assert changes.is_whole
    assert changes.revision == 5
    assert [(m.topic, m.payload) for m in changes.states] == [("m/a/pool/x", b"2")]
    assert [m.event_id for m in changes.events] == ["e.1"]


def test_a_reader_gets_what_is_newer_and_hears_of_what_has_gone() -> None:
    """Else a page would show a position that was closed long ago."""
    board = Board()
    board.put([state("x", b"1"), state("y", b"1"), state("z", b"1")])
    known = board.revision
    board.put([state("x", b"2"), event(1), state("y", b""), state("x", b"3")])

    changes = board.since(known)

    assert not changes.is_whole
    assert sorted((m.topic, m.payload) for m in changes.states) == [("x", b"3"), ("y", b"")]
    assert [m.event_id for m in changes.events] == ["e.1"]
    assert board.since(board.revision) == type(changes)(board.revision, False, (), ())


def test_a_topic_that_comes_back_is_not_gone() -> None:
    """A position that is opened anew."""
    board = Board()
    board.put([state("x", b"1")])
    known = board.revision
    board.put([state("x", b""), state("x", b"2")])

    assert [(m.topic, m.payload) for m in board.since(known).states] == [("x", b"2")]


def test_who_has_been_away_too_long_or_comes_from_another_run_gets_everything() -> None:
    """A revision that means nothing here must not hide anything."""
    board = Board(events_kept=3)
    board.put([state("stays", b"1"), state("gone-0", b"1")])
    known = board.revision
    board.put(state(f"gone-{i}", b"") for i in range(1002))

    assert board.since(known).is_whole
    assert [m.topic for m in board.since(known).states] == ["stays"]
    assert board.since(board.revision + 1).is_whole
    assert not board.since(board.revision - 1).is_whole


def test_only_the_last_events_are_kept() -> None:
    """A storm of ten thousand must not fill the memory."""
    board = Board(events_kept=3)
    board.put(event(i) for i in range(10_000))

    assert [m.event_id for m in board.since(0).events] == ["e.9997", "e.9998", "e.9999"]


def test_what_is_not_newer_costs_a_reader_nothing() -> None:
    """Sixteen pages ask ten times a second each, in the loop that watches."""
    board = Board()
    board.put(state(f"m/a/pool/{i}") for i in range(20_000))
    began = time.process_time()
    for _ in range(1000):
        assert len(board.since(board.revision - 2).states) == 2

    assert time.process_time() - began < 1  # all of them looked at would be ten seconds and more


async def test_every_reader_is_woken_and_a_slow_one_gets_the_newest() -> None:
    """Whoever publishes waits for no reader."""
    hub = Hub()
    readers = [asyncio.create_task(hub.newer(0)) for _ in range(3)]
    await asyncio.sleep(0)  # until they wait
    hub.put([state("x", b"1")])
    async with asyncio.timeout(1):
        await asyncio.gather(*readers)

    hub.put([])
    for i in range(5):
        hub.put([state("x", b"%d" % i)])
    await hub.newer(1)
    slow = hub.board.since(1)
    assert [m.payload for m in slow.states] == [b"4"]
    assert slow.revision == 6
