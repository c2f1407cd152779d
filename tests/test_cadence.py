"""How often marks really come."""

from __future__ import annotations

from monitor.cadence import Cadence


def test_marks_in_time_are_nothing_to_tell() -> None:
    """The exchange's clock may tremble."""
    cadence = Cadence(1)

    assert not any(cadence.marked("BTCUSDT", at_ms) for at_ms in (0, 1000, 2010, 2990, 4400, 5000, 6000, 7000))
    assert cadence.slow_s is None


def test_marks_every_three_seconds_are_noticed_once() -> None:
    """A stream of every second has been known to come every three, and says nothing of it."""
    cadence = Cadence(1)
    news = [cadence.marked("BTCUSDT", 3000 * n) for n in range(20)]

    assert [n for n, told in enumerate(news) if told] == [5]
    assert cadence.slow_s == 3


def test_a_gap_is_no_pace() -> None:
    """A connection that was lost has one long interval, a hiccup two."""
    cadence = Cadence(1)
    times = [0, 1000, 2000, 40_000, 41_000, 44_000, 47_000, 48_000, 49_000]

    assert not any(cadence.marked("BTCUSDT", at_ms) for at_ms in times)


def test_marks_that_come_in_time_again_are_noticed_once() -> None:
    """And a symbol among many is enough."""
    cadence = Cadence(1)
    for n in range(10):
        cadence.marked("ETHUSDT", 1000 * n)
        cadence.marked("BTCUSDT", 2000 * n)
    assert cadence.slow_s == 2

    news = [cadence.marked("BTCUSDT", 18_000 + 1000 * n) for n in range(1, 20)]
    assert news.count(True) == 1
    assert cadence.slow_s is None


def test_a_mark_that_comes_twice_or_late_says_nothing() -> None:
    """Two connections bring the same."""
    cadence = Cadence(1)
    news = [cadence.marked("BTCUSDT", at_ms) for n in range(10) for at_ms in (3000 * n, 3000 * n, 3000 * n - 500)]

    assert news.count(True) == 1
    assert cadence.slow_s == 3


def test_a_symbol_that_is_not_held_any_more_is_forgotten() -> None:
    """Otherwise its pace would be told for ever."""
    cadence = Cadence(1)
    for n in range(10):
        cadence.marked("BTCUSDT", 3000 * n)
    cadence.only({"ETHUSDT"})

    assert cadence.slow_s is None
