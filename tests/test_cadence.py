"""How often marks really come."""

from __future__ import annotations

from itertools import pairwise

from monitor.cadence import Cadence


def told(cadence: Cadence, times_ms: list[int], symbol: str = "BTCUSDT") -> list[int]:
    """When it was news whether marks come in time, of marks made at these times."""
    news = []
    for before, after in pairwise(times_ms):
        was_slow = cadence.slow_s is not None
        cadence.marked(symbol, after - before)
        if (cadence.slow_s is not None) != was_slow:
            news.append(after)
    return news


def test_marks_in_time_are_nothing_to_tell() -> None:
    """The exchange's clock may tremble."""
    cadence = Cadence(1)

    assert told(cadence, [0, 1000, 2010, 2990, 4400, 5000, 6000, 7000]) == []
    assert cadence.slow_s is None
    assert cadence.is_nothing_new(1400)


def test_marks_every_three_seconds_are_noticed_once() -> None:
    """A stream of every second has been known to come every three, and says nothing of it."""
    cadence = Cadence(1)

    assert not cadence.is_nothing_new(3000)
    assert told(cadence, [3000 * n for n in range(20)]) == [15_000]
    assert cadence.slow_s == 3


def test_a_gap_is_no_pace() -> None:
    """A connection that was lost has one long interval, a hiccup two."""
    cadence = Cadence(1)

    assert told(cadence, [0, 1000, 2000, 40_000, 41_000, 44_000, 47_000, 48_000, 49_000]) == []
    assert cadence.is_nothing_new(1000)


def test_marks_that_come_in_time_again_are_noticed_once() -> None:
    """And a symbol among many is enough."""
    cadence = Cadence(1)
    told(cadence, [1000 * n for n in range(10)], "ETHUSDT")
    told(cadence, [2000 * n for n in range(10)])
    assert cadence.slow_s == 2
    assert not cadence.is_nothing_new(1000)

    assert told(cadence, [18_000 + 1000 * n for n in range(20)]) == [23_000]
    assert cadence.slow_s is None
    assert cadence.is_nothing_new(1000)


def test_a_symbol_that_is_not_held_any_more_is_forgotten() -> None:
    """Otherwise its pace would be told for ever."""
    cadence = Cadence(1)
    told(cadence, [3000 * n for n in range(10)])
    cadence.only({"ETHUSDT"})

    assert cadence.slow_s is None
