"""The screen for many accounts: zones as columns of NumPy arrays, so that a mark costs no Python per position.

A slot is a position of a pool that rests; the slots of a pool lie side by side. Every pool's tangent follows from one
product and one sum, Σ slope × mark − base with base = Σ slope × anchor; the rooms are kept with their part of the base.
A pool that leaves its zone gets another one here, if there is one within the same limits.

Of each pool it is known what part of each mark it has at least left to go: to the end of its box, and to where a limit
of its tangent or a room is used up. With every mark moved by a part n, to whichever side, the tangent has changed by
n Σ |slope| × mark at most. So a pool has not left while it has more left than any mark has moved, highest ÷ lowest − 1
of what they were; only the others are measured again. Every few times, what marks have moved is taken off what is left
of all, (left − n) ÷ (1 + n), and begins anew. What the few roundings of this hide, below 1e-12 of all that is added up,
is far less than the 1e-9 by which a proof is taken in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.risk.quiet import Limits, PoolKey, Shape, SymbolKey
from monitor.risk.zones import Bounds, Brackets, Column, Slots, zones

Rows = NDArray[np.int64]

_HOLDING = {"symbol": "i8", "tiers": "i4", "quantity": "f8", "entry": "f8", "told": "f8"}
_SLOT = {**_HOLDING, "anchor": "f8", "slope": "f8", "room": "f8"}
_POOL = {"start": "i8", "size": "i8", "until": "f8", "rests": "?", "while_live": "?"}
_POOL |= dict.fromkeys((*Bounds._fields, "box", "base", "fall", "rise", "gross", "inside", "nearest"), "f8")
_SYMBOL = {"mark": "f8", "lowest": "f8", "highest": "f8", "is_marked": "?"}
_FRAMES = 1000
"""Of so many different sets of symbols that came together it is remembered where they are; real links have a few."""
_AT_ONCE = 160
"""So many zones are looked for at a time."""
_EVERY = slice(None)
_LAP = 4
"""So many times it is asked who is out until what marks have moved begins anew."""
_MOST = 0.5
"""Where more than this part of all pools is to be measured, all are: side by side as they are it takes half as long."""


class Table:
    """Columns of one length, each an attribute, with room to grow."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._columns = {name: np.zeros(16, kind) for name, kind in kinds.items()}
        self._set_length(0)

    def __getattr__(self, name: str) -> Column:
        """A column that is asked for the first time since the length has changed."""
        column: Column = self._columns[name][: self.length]
        self.__dict__[name] = column
        return column

    def _set_length(self, length: int) -> None:
        self.length = length
        for name in self._columns:
            self.__dict__.pop(name, None)

    def add(self, count: int) -> int:
        """Add rows. Returns where the first one is."""
        first, length = self.length, self.length + count
        if length > len(next(iter(self._columns.values()))):
            self._columns = {
                name: np.concatenate([old, np.zeros(count + length // 4, old.dtype)])
                for name, old in self._columns.items()
            }
        self._set_length(length)
        return first

    def keep(self, rows: Sequence[int] | Rows) -> None:
        """Keep these rows alone, in this order."""
        self._columns = {name: column[rows] for name, column in self._columns.items()}
        self._set_length(len(rows))

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())


class Columns:
    """A `Screen`; a pool keeps its slots for as long as it has as many positions."""

    def __init__(self) -> None:
        self._slots, self._pools, self._symbols = Table(_SLOT), Table(_POOL), Table(_SYMBOL)
        self._rows: dict[PoolKey, int] = {}
        self._keys: list[PoolKey] = []
        self._shapes: list[Shape | None] = []
        self._zoneless: dict[PoolKey, None] = {}
        self._ids: dict[SymbolKey, int] = {}
        self._brackets = Brackets()
        self._frames: dict[tuple[str, tuple[str, ...]], Rows] = {}
        self._unused = 0
        self._asked = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._pools.rests))

    @property
    def nbytes(self) -> int:
        """What the columns take."""
        return self._slots.nbytes + self._pools.nbytes + self._symbols.nbytes

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        ids = self._frames.get((market, symbols))
        if ids is None:
            if len(self._frames) >= _FRAMES:
                self._frames.clear()
            ids = self._frames[market, symbols] = np.array([self._id((market, symbol)) for symbol in symbols])
        self._symbols.mark[ids] = prices
        self._symbols.is_marked[ids] = True

    def _id(self, symbol: SymbolKey) -> int:
        at = self._ids.setdefault(symbol, self._symbols.length)
        if at == self._symbols.length:
            self._symbols.add(1)
            self._symbols.lowest[at], self._symbols.highest[at] = math.inf, 0.0
        return at

    def rest(self, key: PoolKey, market: str, shape: Shape, marks: Mapping[str, float], limits: Limits) -> bool:
        """What its zone is, is found out with those of others: once there is time, or when it is asked for."""
        row, count = self._rows.get(key), len(shape.holdings)
        if row is None or self._pools.size[row] != count:
            row = self._place(key, count)
        slots, pools = self._slots, self._pools
        start = pools.start[row]
        at = slice(start, start + count)
        if self._shapes[row] is not shape:
            self._shapes[row] = shape
            slots.symbol[at] = [self._id((market, holding.symbol)) for holding in shape.holdings]
            slots.tiers[at] = [self._brackets.number(holding.tiers) for holding in shape.holdings]
            slots.quantity[at] = [holding.quantity for holding in shape.holdings]
            slots.entry[at] = [holding.entry for holding in shape.holdings]
        present = [marks[holding.symbol] for holding in shape.holdings]
        self._symbols.mark[slots.symbol[at]] = slots.anchor[at] = present
        slots.told[at] = [limits.told.get(holding.symbol, math.nan) for holding in shape.holdings]
        pools.wallet[row], pools.until[row], pools.while_live[row] = shape.wallet, limits.until, limits.while_live
        for name in Bounds._fields[1:]:
            getattr(pools, name)[row] = getattr(limits, name)
        pools.fall[row], pools.gross[row], pools.nearest[row] = -math.inf, 1.0, -math.inf
        pools.rests[row] = True
        self._zoneless[key] = None
        return True

    def _renew(self, rows: Rows) -> NDArray[np.bool_]:
        """Other zones for these pools, around the present marks. Returns for which of them there is one."""
        at, starts = self._picked(rows)
        slots, pools = self._slots, self._pools
        marks = self._symbols.mark[slots.symbol[at]]
        held = Slots(slots.tiers[at], slots.quantity[at], slots.entry[at], slots.told[at], marks, starts)
        found = zones(held, Bounds(*(getattr(pools, name)[rows] for name in Bounds._fields)), self._brackets)
        parts = found.slope * marks
        slots.anchor[at], slots.slope[at], slots.room[at] = marks, found.slope, found.room + parts
        pools.box[rows], pools.rise[rows] = found.box, found.rise
        pools.fall[rows] = np.where(found.is_found, found.fall, -math.inf)  # where there is no zone
        pools.base[rows] = np.add.reduceat(parts, starts)
        pools.gross[rows] = np.add.reduceat(np.abs(parts), starts) * (1 + found.box)  # wherever in the box marks are
        pools.inside[rows], pools.nearest[rows] = self._inside(rows, at, starts), self._nearest(rows, at, starts)
        self._note_marks()
        return found.is_found

    def _place(self, key: PoolKey, size: int) -> int:
        """New slots for a pool. What it had is not used any more; once that is most of all, all move together."""
        known = self._rows.get(key)
        if known is not None:
            self._pools.rests[known] = False
            self._unused += int(self._pools.size[known])
        if 2 * self._unused > self._slots.length:
            self._rows.pop(key, None)
            self._compact()
        row = self._pools.add(1)
        start = self._slots.add(size)
        self._pools.start[row], self._pools.size[row] = start, size
        self._rows[key] = row
        self._keys.append(key)
        self._shapes.append(None)
        return row

    def _compact(self) -> None:
        rows = sorted(self._rows.values())
        self._slots.keep(self._picked(np.array(rows, np.int64))[0])
        self._pools.keep(rows)
        self._pools.start[:] = np.cumsum(self._pools.size) - self._pools.size
        self._keys, self._shapes = [self._keys[row] for row in rows], [self._shapes[row] for row in rows]
        self._rows = {key: row for row, key in enumerate(self._keys)}
        self._unused = 0

    def wake(self, key: PoolKey) -> bool:
        row = self._rows.get(key)
        self._zoneless.pop(key, None)
        if row is None or not self._pools.rests[row]:
            return False
        self._pools.rests[row] = False
        return True

    def rests(self, key: PoolKey, now: float) -> bool:
        if key in self._zoneless:
            others = (other for other in self._zoneless if other != key)
            self._find_zones([key, *islice(others, _AT_ONCE - 1)])
        row, pools = self._rows.get(key), self._pools
        return row is not None and bool(pools.rests[row]) and pools.fall[row] > -math.inf and now < pools.until[row]

    @property
    def is_behind(self) -> bool:
        return bool(self._zoneless)

    def find_zones(self) -> None:
        self._find_zones(list(islice(self._zoneless, _AT_ONCE)))

    def _find_zones(self, keys: Sequence[PoolKey]) -> None:
        for key in keys:
            del self._zoneless[key]
        self._renew(np.array([self._rows[key] for key in keys], np.int64))

    def is_while_live(self, key: PoolKey) -> bool:
        row = self._rows.get(key)
        return row is not None and bool(self._pools.rests[row]) and bool(self._pools.while_live[row])

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        pools = self._pools
        is_gone = self._are_out()
        is_gone |= pools.rests & (now >= pools.until)
        asked = self._touched(np.flatnonzero(is_gone | (pools.rests & pools.while_live)))
        self._symbols.is_marked[:] = False
        for row in asked[~is_gone[asked]].tolist():
            is_gone[row] = not is_live(self._keys[row])
        rows = asked[is_gone[asked]]
        pools.rests[rows] = False
        keys = [self._keys[row] for row in rows.tolist()]
        if self._zoneless:
            for key in keys:
                self._zoneless.pop(key, None)
        return keys

    def renew(self, keys: Sequence[PoolKey], now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        pools, rows = self._pools, np.array([self._rows[key] for key in keys])
        is_found = self._renew(rows)
        is_found &= now < pools.until[rows]
        for i in np.flatnonzero(is_found & pools.while_live[rows]).tolist():
            is_found[i] = is_live(keys[i])
        pools.rests[rows] = is_found
        return [keys[i] for i in np.flatnonzero(~is_found).tolist()]

    def _touched(self, rows: Rows) -> Rows:
        """Those of these pools that have a mark which has come since this was last asked."""
        if not len(rows):
            return rows
        at, starts = self._picked(rows)
        return rows[np.logical_or.reduceat(self._symbols.is_marked[self._slots.symbol[at]], starts)]

    def _picked(self, rows: Any) -> tuple[Any, Rows]:
        """The slots of these pools, and where each pool's begin among them."""
        if rows is _EVERY:
            return _EVERY, self._pools.start
        sizes = self._pools.size.take(rows)
        starts = sizes.cumsum() - sizes
        at = np.repeat(self._pools.start.take(rows) - starts, sizes)
        at += np.arange(len(at))
        return at, starts

    def _are_out(self) -> NDArray[np.bool_]:
        """Which of the pools that rest are out of their zones."""
        pools, symbols = self._pools, self._symbols
        self._note_marks()
        moved = float((symbols.highest / symbols.lowest).max(initial=1.0)) - 1
        self._asked += 1
        if self._asked % _LAP == 0:
            for left in (pools.nearest, pools.inside):
                left -= moved
                left /= 1 + moved
            symbols.lowest[:] = symbols.highest[:] = symbols.mark
            moved = 0.0
        for left, measure in ((pools.nearest, self._nearest), (pools.inside, self._inside)):
            rows: Any = np.flatnonzero(pools.rests & ~(left > moved))
            if len(rows):
                rows = _EVERY if len(rows) > _MOST * pools.length else rows
                left[rows] = measure(rows, *self._picked(rows))
        is_out: NDArray[np.bool_] = pools.rests & ~((pools.nearest > 0) & (pools.inside > 0))
        return is_out

    def _note_marks(self) -> None:
        symbols = self._symbols
        np.minimum(symbols.lowest, symbols.mark, out=symbols.lowest)
        np.maximum(symbols.highest, symbols.mark, out=symbols.highest)

    def _nearest(self, rows: Any, at: Any, starts: Rows) -> Column:
        """How near these pools are to a limit of their tangent or to the end of a room; zero or less: beyond it.

        Args:
            at, starts: Their slots, as in `_picked`.
        """
        slots, pools = self._slots, self._pools
        parts = self._symbols.mark.take(_of(slots.symbol, at))
        parts *= _of(slots.slope, at)
        change = np.add.reduceat(parts, starts) - _of(pools.base, rows)
        worst = np.minimum.reduceat(np.subtract(_of(slots.room, at), parts, out=parts), starts)
        left = np.minimum(np.minimum(_of(pools.fall, rows), worst) + change, _of(pools.rise, rows) - change)
        nearest: Column = left / _of(pools.gross, rows)
        return nearest

    def _inside(self, rows: Any, at: Any, starts: Rows) -> Column:
        """How near they are to the end of their box."""
        moved = self._symbols.mark.take(_of(self._slots.symbol, at))
        moved /= _of(self._slots.anchor, at)
        moved -= 1
        box = _of(self._pools.box, rows)
        inside: Column = (box - np.maximum.reduceat(np.abs(moved, out=moved), starts)) / (1 + box)
        return inside


def _of(column: Column, rows: Any) -> Column:
    """These rows of a column; `take` is faster than to index with them."""
    return column if rows is _EVERY else column.take(rows)
