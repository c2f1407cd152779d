"""The screen for many accounts: zones as columns of NumPy arrays, so that a mark costs no Python per position.

A slot is a position of a pool that rests; the slots of a pool lie side by side. All of them are asked at once, with the
sums and comparisons of `Zone.holds`; `quiet.py` says what they prove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.risk.quiet import PoolKey, SymbolKey, Zone

Column = NDArray[Any]

_SLOT = {"symbol": "i4", "pool": "i4", "anchor": "f8", "low": "f8", "high": "f8", "slope": "f8", "room": "f8"}
_POOL = {"start": "i8", "size": "i8", "fall": "f8", "rise": "f8", "until": "f8", "rests": "?", "while_live": "?"}
_FRAMES = 1000
"""Of so many different sets of symbols that came together it is remembered where they are; real links have a few."""
_PART = 0.25
"""While marks touch no more than this part of the pools, their slots are picked; else all are asked."""


class Table:
    """Columns of one length, with room to grow."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._columns = {name: np.zeros(16, kind) for name, kind in kinds.items()}
        self.length = 0

    def __getattr__(self, name: str) -> Column:
        return self._columns[name][: self.length]

    def add(self, count: int) -> int:
        """Add rows. Returns where the first one is."""
        first, self.length = self.length, self.length + count
        if self.length > len(next(iter(self._columns.values()))):
            self._columns = {
                name: np.concatenate([old, np.zeros(self.length, old.dtype)]) for name, old in self._columns.items()
            }
        return first


class Columns:
    """A `Screen`; a pool keeps its slots for as long as it has as many positions."""

    def __init__(self) -> None:
        self._slots, self._pools = Table(_SLOT), Table(_POOL)
        self._rows: dict[PoolKey, int] = {}
        self._keys: list[PoolKey] = []
        self._ids: dict[SymbolKey, int] = {}
        self._marks = np.zeros(16)
        self._marked = np.zeros(16, np.bool_)
        self._frames: dict[tuple[str, tuple[str, ...]], NDArray[np.int64]] = {}
        self._unused = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._pools.rests))

    @property
    def nbytes(self) -> int:
        """What the columns take."""
        return sum(column.nbytes for table in (self._slots, self._pools) for column in table._columns.values())

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        ids = self._frames.get((market, symbols))
        if ids is None:
            if len(self._frames) >= _FRAMES:
                self._frames.clear()
            ids = self._frames[market, symbols] = np.array([self._id((market, symbol)) for symbol in symbols])
        self._marks[ids] = prices
        self._marked[ids] = True

    def _id(self, symbol: SymbolKey) -> int:
        at = self._ids.setdefault(symbol, len(self._ids))
        if at >= len(self._marks):
            self._marks = np.concatenate([self._marks, np.zeros(at)])
            self._marked = np.concatenate([self._marked, np.zeros(at, np.bool_)])
        return at

    def rest(self, key: PoolKey, market: str, zone: Zone) -> None:
        row = self._rows.get(key)
        if row is None or self._pools.size[row] != len(zone.symbols):
            row = self._place(key, len(zone.symbols))
        slots, pools = self._slots, self._pools
        start = pools.start[row]
        end = start + len(zone.symbols)
        ids = [self._id((market, symbol)) for symbol in zone.symbols]
        slots.symbol[start:end] = ids
        slots.anchor[start:end] = self._marks[ids] = zone.anchors
        slots.low[start:end] = zone.lows
        slots.high[start:end] = zone.highs
        slots.slope[start:end] = zone.slopes
        slots.room[start:end] = zone.rooms
        pools.fall[row], pools.rise[row], pools.until[row] = zone.fall, zone.rise, zone.until
        pools.rests[row], pools.while_live[row] = True, zone.while_live

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
        self._slots.pool[start:] = row
        self._rows[key] = row
        self._keys.append(key)
        return row

    def _compact(self) -> None:
        rows = sorted(self._rows.values())
        slots = self._picked(np.array(rows, np.int64))[0]
        for table, kept in ((self._slots, slots), (self._pools, rows)):
            table._columns = {name: column[kept] for name, column in table._columns.items()}
            table.length = len(kept)
        self._pools.start[:] = np.cumsum(self._pools.size) - self._pools.size
        self._slots.pool[:] = np.repeat(np.arange(len(rows)), self._pools.size)
        self._keys = [self._keys[row] for row in rows]
        self._rows = {key: row for row, key in enumerate(self._keys)}
        self._unused = 0

    def wake(self, key: PoolKey) -> bool:
        row = self._rows.get(key)
        if row is None or not self._pools.rests[row]:
            return False
        self._pools.rests[row] = False
        return True

    def rests(self, key: PoolKey, now: float) -> bool:
        row = self._rows.get(key)
        return row is not None and bool(self._pools.rests[row]) and now < self._pools.until[row]

    def is_while_live(self, key: PoolKey) -> bool:
        row = self._rows.get(key)
        return row is not None and bool(self._pools.rests[row]) and bool(self._pools.while_live[row])

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        marked, self._marked = self._marked, np.zeros(len(self._marked), np.bool_)
        if not self._keys:
            return []
        pools = self._pools
        touched = pools.rests
        if not marked[: len(self._ids)].all():
            touched = np.zeros(pools.length, np.bool_)
            touched[self._slots.pool[marked[self._slots.symbol]]] = True
            touched &= pools.rests
        rows = np.flatnonzero(touched)
        if len(rows) <= _PART * pools.length:
            slots, starts = self._picked(rows)
            still = self._hold(slots, starts, rows)
        else:
            still = self._hold(slice(None), pools.start, slice(None))[rows]
        still &= now < pools.until[rows]
        asked = rows[~still | pools.while_live[rows]]
        gone = set(rows[~still].tolist())
        return [self._keys[row] for row in asked.tolist() if row in gone or not is_live(self._keys[row])]

    def _picked(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slots of these pools, and where each pool's begin among them."""
        sizes = self._pools.size[rows]
        starts = np.cumsum(sizes) - sizes
        return np.repeat(self._pools.start[rows] - starts, sizes) + np.arange(sizes.sum()), starts

    def _hold(self, slots: Any, starts: NDArray[np.int64], rows: Any) -> NDArray[np.bool_]:
        """`Zone.holds` of each of these pools."""
        if not len(starts):
            return np.zeros(0, np.bool_)
        table, pools = self._slots, self._pools
        marks = self._marks.take(table.symbol[slots])
        inside = table.low[slots] < marks
        inside &= marks < table.high[slots]
        gains = marks
        gains -= table.anchor[slots]
        gains *= table.slope[slots]
        totals = np.add.reduceat(gains, starts)
        worst = np.minimum.reduceat(np.subtract(table.room[slots], gains, out=gains), starts)
        held = np.logical_and.reduceat(inside, starts)
        held &= totals > -pools.fall[rows]
        held &= totals < pools.rise[rows]
        held &= totals + worst > 0
        return held
