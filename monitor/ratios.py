"""The margin ratios of the last hours, for a chart: bounded in memory, and no spike is lost.

Time is cut into slots; each keeps the lowest and the highest ratio that was seen in it. A pool that is not heard of
stays as it was, since only what changes is published; one whose ratio is not known for sure leaves a gap. With so many
pools that they need more memory than they may have, slots are made twice as long, as often as it takes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import inf, nan

from msgspec import Struct

from monitor.events import Now

_DRAWN_AT_MOST = 360
"""Slots of one pool that are handed out: a chart has no more room."""


class Series(Struct, frozen=True):
    """The ratios of one pool.

    Args:
        from_ms: Begin of the first slot (Unix, milliseconds); the last slot is the present one.
        step_ms: Length of a slot (milliseconds).
        low, high: Lowest and highest ratio of each slot, to 4 decimals. None: not known.
    """

    account: str
    pool: str
    from_ms: int
    step_ms: int
    low: list[float | None]
    high: list[float | None]


class RatioHistory:
    """Lowest and highest ratio of each pool, slot by slot.

    Args:
        keep_s: How far back it reaches (seconds).
        step_s: Length of a slot at first (seconds).
        slots_at_most: Of all pools together, once each has a new ratio; a slot takes eight bytes.
    """

    def __init__(self, keep_s: int = 4 * 3600, step_s: int = 10, slots_at_most: int = 400_000) -> None:
        self.step_s = step_s
        self._slots = keep_s // step_s
        self._at_most = slots_at_most
        self._pools: dict[tuple[str, str], _Ring] = {}

    def put(self, account: str, pool: str, mono: float, ratio: float | None) -> None:
        """A pool has this ratio from now on.

        Args:
            mono: Monotonic seconds, so that a clock that is set moves nothing.
            ratio: None: unknown, or not known for sure.
        """
        ring = self._pools.get((account, pool))
        if ring is None:
            ring = self._make(account, pool, mono)
        elif ring.step_s < self.step_s:
            ring = self._pools[account, pool] = ring.merged(self.step_s // ring.step_s, self._slots)
        ring.put(mono, nan if ratio is None else ratio)

    def gone(self, account: str, pool: str, mono: float) -> None:
        """The pool is no more; what it was is kept for as long as all else."""
        if (account, pool) in self._pools:
            self.put(account, pool, mono, None)
            self._pools[account, pool].is_gone = True

    def series(self, now: Now, at_most: int) -> Iterator[Series]:
        """The pools up to now: those of which none is known, then the highest ratio first, last those that are gone.

        Args:
            at_most: So many pools; of each so much as a chart can show.
        """
        self._forget(now.mono)
        rings = sorted(self._pools.items(), key=lambda row: row[1].importance, reverse=True)
        for (account, pool), ring in rings[:at_most]:
            ring.advance(now.mono)
            merged = -(-ring.length // _DRAWN_AT_MOST)
            drawn = ring.merged(merged, ring.length // merged + 1)
            step_ms = drawn.step_s * 1000
            began_ms = now.wall_ms - round(now.mono * 1000) + drawn.first * step_ms
            yield Series(account, pool, began_ms, step_ms, *drawn.rows())

    def _make(self, account: str, pool: str, mono: float) -> _Ring:
        """A pool is new. Where there is no room, each of the others gets its longer slots when it next has a ratio:
        all of them at once would take seconds, in the loop that watches."""
        if self._is_full:
            self._forget(mono)
        while self._is_full and self._slots > 1:
            self.step_s *= 2
            self._slots //= 2
        ring = self._pools[account, pool] = _Ring(self.step_s, self._slots, int(mono // self.step_s))
        return ring

    @property
    def _is_full(self) -> bool:
        """Whether there is no room for another pool."""
        return (len(self._pools) + 1) * self._slots > self._at_most

    def _forget(self, mono: float) -> None:
        """Drop the pools of which nothing is left in the slots that are kept."""
        self._pools = {key: ring for key, ring in self._pools.items() if not ring.is_over(mono)}


class _Ring:
    """The newest slots of one pool; the place of a slot is its number modulo their count.

    step_s: Length of a slot (seconds).
    newest: Number of the last slot that is filled.
    last: What the pool has had since; NaN: unknown.
    """

    def __init__(self, step_s: int, slots: int, first: int) -> None:
        self.step_s = step_s
        self.low = array("f", [nan]) * slots
        self.high = array("f", [nan]) * slots
        self.first = self.newest = first
        self.last = nan
        self.is_gone = False

    @property
    def importance(self) -> float:
        return -1 if self.is_gone else self.last if self.last == self.last else inf

    def put(self, mono: float, ratio: float) -> None:
        self.is_gone = False
        self.advance(mono)
        place = self.newest % len(self.low)
        if ratio == ratio:  # no NaN
            self.low[place] = min(ratio, self.low[place])
            self.high[place] = max(ratio, self.high[place])
        self.last = ratio

    def advance(self, mono: float) -> None:
        """Let time pass: what the pool had last fills the slots up to this moment's."""
        slot = int(mono // self.step_s)
        for number in range(max(self.newest + 1, slot - len(self.low) + 1), slot + 1):
            self.low[number % len(self.low)] = self.high[number % len(self.low)] = self.last
        self.newest = max(self.newest, slot)
        self.first = max(self.first, self.newest - len(self.low) + 1)

    def is_over(self, mono: float) -> bool:
        """Whether nothing is known of the pool in all the slots up to this moment's."""
        return self.last != self.last and int(mono // self.step_s) - self.newest >= len(self.low)

    def rows(self) -> tuple[list[float | None], list[float | None]]:
        numbers = range(self.first, self.newest + 1)
        low = [_known(self.low[number % len(self.low)]) for number in numbers]
        high = [_known(self.high[number % len(self.high)]) for number in numbers]
        return low, high

    @property
    def length(self) -> int:
        return self.newest - self.first + 1

    def merged(self, count: int, slots: int) -> _Ring:
        """The same in slots that are so many times as long, and so many of them."""
        made = _Ring(self.step_s * count, slots, self.first // count)
        made.newest = self.newest // count
        for slot in range(made.first, made.newest + 1):
            numbers = range(max(self.first, slot * count), min(self.newest + 1, (slot + 1) * count))
            places = [number % len(self.low) for number in numbers]
            made.low[slot % slots] = min((low for place in places if (low := self.low[place]) == low), default=nan)
            made.high[slot % slots] = max((high for place in places if (high := self.high[place]) == high), default=nan)
        made.first = max(made.first, made.newest - slots + 1)
        made.last, made.is_gone = self.last, self.is_gone
        return made


def _known(ratio: float) -> float | None:
    """As a chart needs it."""
    return round(ratio, 4) if ratio == ratio else None
