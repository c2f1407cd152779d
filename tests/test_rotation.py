"""Where there is more to be done than a second should have, each pool has its turn; the urgent have theirs always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pytest

from monitor.risk.quiet import PoolKey
from monitor.rotation import Rotation


def turns(
    rotation: Rotation, pools: int, ticks: int, urgent: Collection[int] = (), tick_s: float = 1
) -> list[list[int]]:
    """Whose turn it was in each tick, where each pool is of size 2 and takes every turn that it has."""
    had: list[list[int]] = []
    for tick in range(ticks):
        had.append([n for n in range(pools) if _has_taken(rotation, ("main", f"pool-{n}"), n in urgent, tick * tick_s)])
    return had


def least(had: list[list[int]], pools: int) -> int:
    """How many turns the pool had that had the fewest."""
    counted = Counter(n for tick in had for n in tick)
    return min(counted[n] for n in range(pools))


def _has_taken(rotation: Rotation, pool: PoolKey, is_urgent: bool, now_s: float) -> bool:
    has = rotation.has(pool, 2, is_urgent, now_s)
    if has:
        rotation.take(pool, now_s)
    return has


def test_few_have_a_turn_in_each_second() -> None:
    assert turns(Rotation(20), 10, 5) == [list(range(10))] * 5


def test_of_many_each_has_its_turn_from_the_first_second_on() -> None:
    """A hundred of size 2, twenty a second: ten of them each second, and each once in ten."""
    had = turns(Rotation(20), 100, 60)

    assert max(map(len, had)) <= 11
    assert {n for second in had[:11] for n in second} == set(range(100))
    assert set(Counter(n for second in had for n in second).values()) <= {5, 6}


def test_the_urgent_wait_for_nobody() -> None:
    had = turns(Rotation(20), 100, 60, urgent=[7])

    assert all(7 in second for second in had)
    assert min(Counter(n for second in had for n in second).values()) >= 4


@pytest.mark.parametrize("tick_s", [0.25, 1, 1.3, 5])
@pytest.mark.parametrize("pools", [10, 11, 12, 14, 15, 23, 28, 37])
def test_however_many_there_are_the_last_has_its_turn_too(pools: int, tick_s: float) -> None:
    """Those that are asked first are due again in the next tick, and must not take all of it once more."""
    assert least(turns(Rotation(20), pools, 200, tick_s=tick_s), pools) >= 200 * 10 // pools * min(tick_s, 1) // 2


@pytest.mark.parametrize("urgent", [range(12), range(8, 20), range(22), range(45)])
def test_however_many_are_urgent_the_others_have_their_turns(urgent: range) -> None:
    """They take more than all that there is, and leave a tenth of it."""
    assert least(turns(Rotation(20), urgent.stop + 8, 200, urgent), urgent.stop + 8) >= 5


def test_those_that_leave_make_room() -> None:
    rotation = Rotation(20)
    turns(rotation, 100, 20)
    for n in range(5, 100):
        rotation.leave(("main", f"pool-{n}"))

    for now_s in range(100, 105):
        assert all(_has_taken(rotation, ("main", f"pool-{n}"), False, now_s) for n in range(5))


def test_nobody_waits_for_those_that_left_while_they_waited() -> None:
    """Whether they had been refused once or again."""
    rotation = Rotation(20)
    turns(rotation, 100, 3)
    for n in range(90, 100):
        rotation.leave(("main", f"pool-{n}"))
    turns(rotation, 90, 9)
    for n in range(80, 90):
        rotation.leave(("main", f"pool-{n}"))

    assert least(turns(rotation, 80, 60), 80) >= 4
