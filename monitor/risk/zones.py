"""`zone` for many pools at once, in NumPy: its formulas, position by position and pool by pool.

`quiet.py` says what they prove; whoever changes one of the two changes both, and a test holds them together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.risk.quiet import BOXES, LAST_DIGITS, LEAST, MARGIN, Tiers

Column = NDArray[Any]

_BOXES = np.array([0.0, *BOXES])[:, None]
_WIDE, _NARROW = _BOXES[:3], _BOXES[3:]
"""Of many pools the boxes that mostly fit are tried together, and the others only where they do not."""
_FEW = 16
"""Of so few pools all are tried at once, which takes no longer."""


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
    """A row for each box."""

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
        self.owner = np.zeros(len(slots.mark), np.intp)
        self.owner[slots.starts[1:]] = 1
        self.owner.cumsum(out=self.owner)
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
        """Of every pool with the widest box that fits; of several boxes that is asked at once."""
        bounds, boxes = self.bounds, _BOXES if len(self.starts) <= _FEW else _WIDE
        reach = self._reach(boxes)
        fits = self._fits(reach, boxes)
        is_found = (bounds.ratio_below > 0) & (bounds.ratio_above < 1) & self._are_within(reach)
        if boxes is _WIDE and (is_found > fits.any(axis=0)).any():
            boxes = np.concatenate([boxes, _NARROW])
            reach = _Reach(*map(np.concatenate, zip(reach, self._reach(_NARROW), strict=True)))
            fits = self._fits(reach, boxes)
        is_found &= fits.any(axis=0)
        first = fits.argmax(axis=0)
        of_pool = first * len(first) + np.arange(len(first))
        of_slot = first.take(self.owner) * len(self.owner) + np.arange(len(self.owner))
        slope = self.quantity - self.size * self.rate
        fall, rise = reach.fall.take(of_pool) - self.margin, reach.rise.take(of_pool) - self.margin
        return Found(is_found, boxes.take(first), fall, rise, slope, reach.room.take(of_slot))

    def _are_within(self, reach: _Reach) -> Column:
        """Whether every limit is off where no mark moves; the first row is of that."""
        most = 2 * self.margin
        are_within: Column = (reach.fall[0] > most) & (reach.rise[0] > most) & (self._least(reach.room[0]) > 0)
        return are_within

    def _fits(self, reach: _Reach, boxes: Column) -> Column:
        """Which of these boxes fit; the first one is none."""
        least = LEAST * boxes * self.gross
        fits: Column = np.minimum(np.minimum(reach.fall, reach.rise), self._least(reach.room)) >= least
        fits[0] = False
        return fits

    def _reach(self, box: Column) -> _Reach:
        bounds, notional = self.bounds, self.notional
        below, above = 1 - box - MARGIN, 1 + box + MARGIN
        ends = np.empty((4, len(box), len(self.margin)))
        ends[0], ends[1] = below, above
        ends[2], ends[3] = below * np.maximum(0.0, 1 - bounds.distance_above), above * (1 + bounds.distance_above)
        rates, margins = self._margin(notional * ends.take(self.owner, axis=2))
        _, rate_above, rate_fallen, rate_risen = rates
        moved = self.part * (above - 1)
        bent = np.maximum(margins[1] - moved, margins[0] + moved) - self.maintenance
        slack, (least, most, *_) = self._sums(bent), self._sums(margins)
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
        room = np.full(bent.shape, math.inf)
        if len(self.watched):
            rooms = self._rooms(box + MARGIN, rate_above[:, self.watched])
            room[:, self.watched] = rooms - slack.take(self.owner[self.watched], axis=1)
        return _Reach(self.excess - lowest - slack, np.minimum(highest, near) - self.excess, room)

    def _rooms(self, box: Column, rate_above: Column) -> Column:
        """How far the rest of the pool may fall until a watched liquidation price has come too near."""
        at, told, price = self.watched, self.told, self.price
        owner, mark, size, is_long = self.owner[at], self.mark[at], self.size[at], self.is_long[at]
        warning_at = self.bounds.warning_at[owner]
        moved = box * mark
        left = np.where(is_long, mark - price, price - mark)
        is_beyond = np.where(is_long, told < mark - moved, told > mark + moved)
        safe = np.where(is_long, -price, -math.inf)
        per_price = np.where(is_long, size * (1 - rate_above), size)
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
        above = np.add.reduce(floors < notional, axis=0, dtype=np.int16)  # far faster than in wider numbers
        at = np.maximum(above - 1, 0).astype(np.intp)
        at *= self.rates.shape[1]
        at += self.tiers
        rate = self.rates.take(at)
        return rate, notional * rate - self.amounts.take(at)

    def _sums(self, rows: Column) -> Column:
        return np.add.reduceat(rows, self.starts, axis=-1)

    def _most(self, of_slots: Column) -> Column:
        return np.maximum.reduceat(of_slots, self.starts, axis=-1)

    def _least(self, of_slots: Column) -> Column:
        return np.minimum.reduceat(of_slots, self.starts, axis=-1)
