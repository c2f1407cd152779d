"""The margin ratios of the last hours: no spike is lost, no gap is hidden, and memory is bounded."""

from __future__ import annotations

import time
import tracemalloc

from monitor.events import Now
from monitor.ratios import RatioHistory, Series

WALL_MS = 1_795_248_000_000


def at(mono: float) -> Now:
    return Now(mono, WALL_MS + round(mono * 1000))


def only(history: RatioHistory, mono: float) -> Series:
    [series] = history.series(at(mono), 10)
    return series


def test_a_spike_between_two_slots_is_kept() -> None:
    """Who looks an hour later must see how near it was."""
    history = RatioHistory()
    for mono, ratio in ((0, 0.5), (3, 0.97), (4, 0.51), (12, 0.52)):
        history.put("main", "cross-usdt", mono, ratio)

    series = only(history, 12)

    assert (series.low, series.high) == ([0.5, 0.51], [0.97, 0.52])
    assert (series.from_ms, series.step_ms) == (WALL_MS, 10_000)


def test_a_pool_that_does_not_change_stays_as_it_was() -> None:
    """Only what changes is published; that nothing comes is no gap."""
    history = RatioHistory()
    history.put("main", "cross-usdt", 0, 0.4)

    assert only(history, 35).high == [0.4] * 4


def test_what_is_not_known_for_sure_is_a_gap() -> None:
    """A line through a blind hour would be made up."""
    history = RatioHistory()
    for mono, ratio in ((0, 0.4), (11, None), (41, 0.6)):
        history.put("main", "cross-usdt", mono, ratio)

    assert only(history, 41).high == [0.4, 0.4, None, None, 0.6]


def test_only_the_last_hours_are_kept() -> None:
    """Whatever the time of start, the newest is at the end."""
    history = RatioHistory(keep_s=100, step_s=10)
    for mono in range(0, 500):
        history.put("main", "cross-usdt", mono, mono / 1000)

    series = only(history, 499)

    assert series.low == [round(0.399 + 0.01 * slot, 3) for slot in range(10)]  # a slot begins as the one before ended
    assert series.high == [round(0.409 + 0.01 * slot, 3) for slot in range(10)]
    assert series.from_ms == WALL_MS + 400_000


def test_a_clock_that_is_set_moves_nothing() -> None:
    """Slots go by the monotonic clock; the wall's is asked for when somebody looks."""
    history = RatioHistory()
    history.put("main", "cross-usdt", 5, 0.4)
    history.put("main", "cross-usdt", 15, 0.5)

    [series] = history.series(Now(15, WALL_MS - 3_600_000), 10)

    assert series.high == [0.4, 0.5]
    assert series.from_ms == WALL_MS - 3_600_000 - 15_000


def test_a_pool_that_is_gone_leaves_its_past_and_then_goes() -> None:
    """A position closed an hour ago is part of the picture; one of yesterday only needs memory."""
    history = RatioHistory(keep_s=100, step_s=10)
    history.put("main", "isolated-btcusdt", 0, 0.4)
    history.gone("main", "isolated-btcusdt", 15)
    assert only(history, 30).high == [0.4, 0.4, None, None]

    history.put("main", "cross-usdt", 200, 0.1)

    assert [series.pool for series in history.series(at(200), 10)] == ["cross-usdt"]


def test_pools_that_are_gone_leave_the_room_to_those_that_are_there() -> None:
    """Whoever opens and closes a hundred positions in an afternoon has charts of what is held now all the same."""
    history = RatioHistory()
    for number in range(3):
        history.put("main", f"isolated-{number}", 0, 0.9)
        history.gone("main", f"isolated-{number}", 10)
    history.put("main", "cross-usdt", 0, 0.4)
    history.put("main", "cross-usdc", 0, None)
    assert [series.pool for series in history.series(at(20), 2)] == ["cross-usdc", "cross-usdt"]

    history.put("main", "isolated-0", 20, 0.5)
    assert [series.pool for series in history.series(at(20), 2)] == ["cross-usdc", "isolated-0"]


def test_with_many_pools_slots_get_longer_and_no_spike_is_lost() -> None:
    """Four hours of ten thousand pools may not cost more than some megabytes, nor hide the one moment that counted."""
    history = RatioHistory(keep_s=160, step_s=10, slots_at_most=64)
    history.put("main", "p0", 0, 0.2)
    history.put("main", "p0", 42, 0.9)
    history.put("main", "p0", 43, 0.2)
    for number in range(1, 16):
        history.put("main", f"p{number}", 100, 0.1)
    history.put("main", "p0", 100, 0.2)

    found = {series.pool: series for series in history.series(at(100), 100)}

    assert history.step_s == 40
    assert len(found) == 16
    assert (found["p0"].low, found["p0"].high) == ([0.2, 0.2, 0.2], [0.2, 0.9, 0.2])


def test_ten_thousand_pools_cost_some_megabytes() -> None:
    """They share the machine with the watching."""
    tracemalloc.start()
    history = RatioHistory()
    for number in range(10_000):
        history.put("main", f"pool-{number}", 0, 0.1)
    for number in range(10_000):
        history.put("main", f"pool-{number}", 10_000, 0.2)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert size < 12e6
    assert peak < 20e6


def test_one_pool_more_than_there_is_room_for_holds_nothing_up() -> None:
    """It comes between two ticks, after hours of all the others."""
    history = RatioHistory()
    for number in range(277):
        history.put("main", f"p{number}", 0, 0.1)
        history.put("main", f"p{number}", 14_390, 0.2)
    began = time.process_time()
    history.put("main", "one-more", 14_390, 0.3)
    history.put("main", "p0", 14_390, 0.4)

    assert time.process_time() - began < 0.1
    found = {series.pool: series for series in history.series(at(14_390), 300)}
    assert history.step_s == 20
    assert len(found) == 278
    for old in ("p0", "p1"):
        assert found[old].low[0] == 0.1
        assert found[old].low[-2] == 0.1
        assert found[old].high[-1] == (0.4 if old == "p0" else 0.2)
        assert found[old].from_ms == WALL_MS
    assert found["one-more"].from_ms == WALL_MS + 14_380_000


def test_the_nearest_pools_are_handed_out_first_and_not_too_much_of_them() -> None:
    """A page draws few pools, and a chart has few columns."""
    history = RatioHistory()
    for mono in range(0, 14_400, 10):
        for number in range(5):
            history.put("main", f"p{number}", mono, 0.1 * number + (0.35 if mono == 7200 else 0))

    found = list(history.series(at(14_395), 2))

    assert [series.pool for series in found] == ["p4", "p3"]
    assert found[0].step_ms == 40_000
    assert len(found[0].high) == 360
    assert max(ratio for ratio in found[0].high if ratio is not None) == 0.75
    assert found[0].from_ms == WALL_MS
