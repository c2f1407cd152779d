"""Where there is more to be done than a second should have, each pool has its turn; the urgent have theirs always."""

from __future__ import annotations

from collections import Counter

from monitor.rotation import Rotation


def turns(rotation: Rotation, pools: int, seconds: int, urgent: int = -1) -> list[list[int]]:
    """Whose turn it was in each second, where each pool is of size 2 and takes every turn that it has."""
    had: list[list[int]] = []
    for now_s in range(seconds):
        had.append([n for n in range(pools) if _has_taken(rotation, f"a{n}/cross-usdt", n == urgent, now_s)])
    return had


def _has_taken(rotation: Rotation, name: str, is_urgent: bool, now_s: float) -> bool:
    has = rotation.has(name, 2, is_urgent, now_s)
    if has:
        rotation.take(name, now_s)
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
    had = turns(Rotation(20), 100, 60, urgent=7)

    assert all(7 in second for second in had)
    assert min(Counter(n for second in had for n in second).values()) >= 4


def test_those_that_leave_make_room() -> None:
    rotation = Rotation(20)
    turns(rotation, 100, 20)
    for n in range(5, 50):
        rotation.leave(f"a{n}/cross-usdt")
    for n in range(50, 100):
        rotation.forget(f"a{n}")

    for now_s in range(100, 105):
        assert all(_has_taken(rotation, f"a{n}/cross-usdt", False, now_s) for n in range(5))
