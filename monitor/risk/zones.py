"""`zone` for many pools at once, in NumPy: its formulas, position by position and pool by pool.

`quiet.py` says what they prove; whoever changes one of the two changes both, and a test holds them together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.risk.quiet import BOX, LAST_DIGITS, LEAST, MARGIN, NARROWER, ROUGHLY, TRIES, Tiers

Column = NDArray[Any]


class Brackets:
    """The tiers of all symbols, a column for each; short ones are filled up with what changes nothing."""

    def __init__(self) -> None:
        self._numbers: dict[Tiers, int] = {}
        self.floors = self.rates = self.amounts = np.zeros((1, 0))

    def number(self, tiers: Tiers) -> int:
        """In which column these are."""
        known = self._numbers.get(tiers)
        if known is None:
            known = self._numbers[tiers] = len(self._numbers)
            depth = max(len(self.floors), len(tiers.floors))
            self.floors = _beside(self.floors, tiers.floors, depth, math.inf)
            self.rates = _beside(self.rates, tiers.rates, depth, None)
            self.amounts = _beside(self.amounts, tiers.amounts, depth, None)
        return known


def _beside(columns: Column, one: tuple[float, ...], depth: int, filler: float | None) -> Column:
    """One column more; where it is deeper than the others, or less deep, the last row (or this) is repeated."""
    last = columns[-1:] if filler is None else np.full((1, columns.shape[1]), filler)
    filled = np.concatenate([columns, np.repeat(last, depth - len(columns), axis=0)])
    column = [*one, *[one[-1] if filler is None else filler] * (depth - len(one))]
    return np.column_stack([filled, column])


class Slots(NamedTuple):
    """Positions, those of a pool side by side.

    Args:
        tiers: Columns of the brackets.
        told: The liquidation price that was last told; not a number: it is not watched.
        starts: Pool → its first slot.
    """

    tiers: Column
    quantity: Column
    entry: Column
    told: Column
    mark: Column
    starts: Column


class Bounds(NamedTuple):
    """Pool → its wallet, and what is in its `Limits`."""

    wallet: Column
    ratio_above: Column
    ratio_below: Column
    distance_above: Column
    distance_below: Column
    notice_at: Column
    warning_at: Column
    ignore_beyond: Column


class Found(NamedTuple):
    """The fields of `Zone`, of every pool or slot; what they are where there is none means nothing.

    Args:
        is_found: Whether there is one.
        box: How far marks may move, as a fraction.
    """

    is_found: Column
    box: Column
    fall: Column
    rise: Column
    slope: Column
    room: Column


class _Reach(NamedTuple):
    fall: Column
    rise: Column
    room: Column


def zones(slots: Slots, bounds: Bounds, brackets: Brackets) -> Found:
    """Around the marks of these slots."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _Pools(slots, bounds, brackets).zones()


class _Pools:
    """Some pools at their present marks."""

    def __init__(self, slots: Slots, bounds: Bounds, brackets: Brackets) -> None:
        self.bounds, self.starts = bounds, slots.starts
        self.quantity, self.mark = slots.quantity, slots.mark
        sizes = np.diff(slots.starts, append=len(slots.mark))
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.tiers, self.rates, self.amounts = slots.tiers, brackets.rates, brackets.amounts
        self.floors = brackets.floors.take(slots.tiers, axis=1)
        self.is_long = slots.quantity > 0
        self.size = np.abs(slots.quantity)
        self.notional = self.size * slots.mark
        self.longs, self.shorts = self.notional * (self.is_long, ~self.is_long)
        self.rate, self.maintenance = self._margin(self.notional)
        self.part = self.notional * self.rate
        own = slots.quantity * (slots.mark - slots.entry) - self.maintenance
        worth = np.abs(self.size * slots.entry)
        sums = self._sums(np.stack([own, self.notional + worth, self.notional, self.longs - self.shorts, self.part]))
        self.excess, gross, self.gross, self.net, self.parts = sums
        self.tangent_up, self.tangent_down = (
            self._most(self.shorts * (1 + self.rate)),
            self._most(self.longs * (1 - self.rate)),
        )
        self.excess += bounds.wallet
        self.margin = MARGIN * (np.abs(bounds.wallet) + gross)
        self.watched = np.flatnonzero(slots.told == slots.told)
        self.told = slots.told[self.watched]
        self.price = self._prices((self.excess[self.owner] - own)[self.watched], worth[self.watched])

    def zones(self) -> Found:
        bounds, margin = self.bounds, self.margin
        most = self._reach(np.zeros(len(margin)))
        is_found = (bounds.ratio_below > 0) & (bounds.ratio_above < 1)
        is_found &= (most.fall > 2 * margin) & (most.rise > 2 * margin) & (self._least(most.room) > 0)
        box = np.full(len(margin), BOX)
        for _ in range(TRIES):
            reach = self._reach(box)
            part = self._affordable(reach, most, LEAST * box * self.gross)
            narrower = is_found & ~(part > 1 - ROUGHLY)
            if not narrower.any():
                break
            box[narrower] *= np.minimum(part[narrower], NARROWER)
        else:
            is_found &= ~narrower
        slope = self.quantity - self.size * self.rate
        return Found(is_found, box, reach.fall - margin, reach.rise - margin, slope, reach.room)

    def _affordable(self, here: _Reach, most: _Reach, least: Column) -> Column:
        """Which part of this box leaves each limit so far at least."""
        fall = most.fall / (most.fall - here.fall + least)
        rise = np.where(most.rise < math.inf, most.rise / (most.rise - here.rise + least), 1.0)
        room = most.room / (most.room - here.room + least.take(self.owner))
        affordable: Column = np.minimum(np.minimum(fall, rise), self._least(np.where(most.room < math.inf, room, 1.0)))
        return affordable

    def _reach(self, box: Column) -> _Reach:
        bounds, notional = self.bounds, self.notional
        below, above = 1 - box - MARGIN, 1 + box + MARGIN
        ends = below, above, below * np.maximum(0.0, 1 - bounds.distance_above), above * (1 + bounds.distance_above)
        rates, margins = self._margin(notional * np.stack(ends).take(self.owner, axis=1))
        _, rate_above, rate_fallen, rate_risen = rates
        moved = above.take(self.owner) - 1
        bent = np.maximum(margins[1] - self.part * moved, margins[0] + self.part * moved) - self.maintenance
        (slack,), (least, most, *_) = self._sums(bent[None]), self._sums(margins)
        parts_fallen, parts_risen = self._sums(notional * rates[2:])
        steepest = self._most(self.longs * (1 - rate_fallen) + self.shorts * (1 + rate_risen))
        drift = (above - 1) * self.gross
        market = np.maximum(self.net - below * parts_fallen, above * parts_risen - self.net) + drift
        lowest = np.maximum(bounds.distance_above * np.maximum(above * steepest, market), 0.0)
        lowest = np.maximum(lowest, (1 / bounds.ratio_below - 1) * most)
        highest = np.where(bounds.ratio_above > 0, (1 / bounds.ratio_above - 1) * least, math.inf)
        up = np.maximum(below * self.tangent_up, below * self.parts - self.net - drift)
        down = np.maximum(below * self.tangent_down, self.net - above * self.parts - drift)
        tangent = np.maximum(up, np.where(bounds.distance_below < 1, down, 0.0))
        near = np.where(bounds.distance_below < math.inf, bounds.distance_below * tangent, math.inf)
        room = np.full(len(notional), math.inf)
        if len(self.watched):
            room[self.watched] = self._rooms(box + MARGIN, rate_above) - slack.take(self.owner[self.watched])
        return _Reach(self.excess - lowest - slack, np.minimum(highest, near) - self.excess, room)

    def _rooms(self, box: Column, rate_above: Column) -> Column:
        """How far the rest of the pool may fall until a watched liquidation price has come too near."""
        at, told, price = self.watched, self.told, self.price
        owner, mark, size, is_long = self.owner[at], self.mark[at], self.size[at], self.is_long[at]
        box, warning_at = box[owner], self.bounds.warning_at[owner]
        moved = box * mark
        left = np.where(is_long, mark - price, price - mark)
        is_beyond = np.where(is_long, told < mark - moved, told > mark + moved)
        safe = np.where(is_long, -price, -math.inf)
        per_price = np.where(is_long, size * (1 - rate_above[at]), size)
        nearer = np.abs(mark - told) - left + np.where(is_beyond, 0.0, 2 * moved)
        notice = self.bounds.notice_at[owner] * mark * (1 - box) - nearer
        warning = (warning_at * (left - moved) - nearer) / (1 + warning_at)
        far = left - moved - self.bounds.ignore_beyond[owner] * mark * (1 + box)
        nearest = np.maximum(np.maximum(np.minimum(notice, warning), far), safe)
        room: Column = (nearest - LAST_DIGITS - 2 * self.margin[owner] / size) * per_price
        return room

    def _prices(self, rest: Column, worth: Column) -> Column:
        """The liquidation prices of the watched positions, beside which their pools have so much excess."""
        at = self.watched
        rates, amounts = self.rates.take(self.tiers[at], axis=1), self.amounts.take(self.tiers[at], axis=1)
        long: Column = ((worth - rest - amounts) / (self.size[at] * (1 - rates))).max(axis=0)
        short: Column = ((rest + amounts + worth) / (self.size[at] * (1 + rates))).min(axis=0)
        return np.where(self.is_long[at], long, short)

    def _margin(self, notional: Column) -> tuple[Column, Column]:
        """The rates that hold at notionals, of which there is a row or several, and the maintenance margins."""
        floors = self.floors.reshape(len(self.floors), *(1,) * (notional.ndim - 1), -1)
        at = np.maximum(np.add.reduce(floors < notional, axis=0, dtype=np.intp) - 1, 0)
        at *= self.rates.shape[1]
        at += self.tiers
        rate = self.rates.take(at)
        return rate, notional * rate - self.amounts.take(at)

    def _sums(self, rows: Column) -> Column:
        return np.add.reduceat(rows, self.starts, axis=1)

    def _most(self, of_slots: Column) -> Column:
        return np.maximum.reduceat(of_slots, self.starts)

    def _least(self, of_slots: Column) -> Column:
        return np.minimum.reduceat(of_slots, self.starts)
