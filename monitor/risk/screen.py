"""Which pools rest: the marks have not left the zone in which nothing can come of them, so nothing is computed.

It decides nothing. A pool that leaves its zone gets another one around the present marks; if there is none within its
limits, it is looked at exactly, as all were that never rested. Of a few accounts every pool that a mark touches is
asked; of many, `columns.py` asks them all at once, if NumPy is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from monitor.risk.quiet import Limits, PoolKey, Shape, SymbolKey, Zone, zone

_MANY_ACCOUNTS = 20


class Screen(Protocol):
    """The pools that rest, each in its zone, and the marks in floats. Times are monotonic seconds."""

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        """Take the present marks of these symbols."""
        ...

    def rest(self, key: PoolKey, market: str, shape: Shape, marks: Mapping[str, float], limits: Limits) -> bool:
        """From now on a pool rests, for as long as no figure of it can be past these limits. False: it cannot.

        That may also be found out later: when there is time for `find_zones`, or its next mark comes.

        Args:
            shape: The pool; what was said of it before counts no more.
            marks: The present marks of its symbols.
        """
        ...

    def wake(self, key: PoolKey) -> bool:
        """A pool rests no more. False: it did not."""
        ...

    def rests(self, key: PoolKey, now: float) -> bool:
        """Whether a pool rests, and its time is not up."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether there are zones to be found, for which nobody waits yet."""
        ...

    def find_zones(self) -> None:
        """Find some of them."""
        ...

    def is_while_live(self, key: PoolKey) -> bool:
        """Whether a pool rests only while its data are live."""
        ...

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        """The pools with a mark among those that have come since this was last asked, that rest no more from now on:
        they are out of their zones, their time is up, or it is for live data alone and they are not."""
        ...

    def renew(self, keys: Sequence[PoolKey], now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        """Let pools that have left, and were not woken since, rest again in another zone around the present marks,
        within the same limits. Returns those that cannot."""
        ...


def screen(accounts: int) -> Screen:
    """The screen for so many accounts."""
    if accounts >= _MANY_ACCOUNTS:
        try:
            from monitor.risk.columns import Columns

            return Columns()
        except ImportError:  # an extra: without NumPy it takes longer
            pass
    return Zones()


class _Resting(Struct, gc=False):
    """A pool that rests, in which zone, and within which limits another one may be found."""

    market: str
    shape: Shape
    limits: Limits
    zone: Zone


class Zones:
    """A screen that asks one pool after the other."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, float]] = {}
        self._resting: dict[PoolKey, _Resting] = {}
        self._out: dict[PoolKey, _Resting] = {}
        self._holders: dict[SymbolKey, dict[PoolKey, None]] = {}
        self._marked: dict[SymbolKey, None] = {}
        """In the order in which they came; that of a set is another one in each run."""

    def __len__(self) -> int:
        return len(self._resting)

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        marks = self._marks.setdefault(market, {})
        for symbol, price in zip(symbols, prices, strict=True):
            marks[symbol] = price
            self._marked[market, symbol] = None

    def rest(self, key: PoolKey, market: str, shape: Shape, marks: Mapping[str, float], limits: Limits) -> bool:
        self.wake(key)
        found = zone(shape, marks, limits)
        if found is None:
            return False
        self._marks.setdefault(market, {}).update(marks)
        self._let_rest(key, _Resting(market, shape, limits, found))
        return True

    def _let_rest(self, key: PoolKey, one: _Resting) -> None:
        self._resting[key] = one
        for symbol in one.zone.symbols:
            self._holders.setdefault((one.market, symbol), {})[key] = None

    def wake(self, key: PoolKey) -> bool:
        self._out.pop(key, None)
        one = self._resting.pop(key, None)
        if one is None:
            return False
        for symbol in one.zone.symbols:
            del self._holders[one.market, symbol][key]
        return True

    def rests(self, key: PoolKey, now: float) -> bool:
        one = self._resting.get(key)
        return one is not None and now < one.limits.until

    is_behind = False

    def find_zones(self) -> None:
        """Each is found at once."""

    def is_while_live(self, key: PoolKey) -> bool:
        one = self._resting.get(key)
        return one is not None and one.limits.while_live

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        touched: dict[PoolKey, None] = {}
        for symbol in self._marked:
            touched.update(self._holders.get(symbol, {}))
        self._marked.clear()
        found = {}
        for key in touched:
            one = self._resting[key]
            still = now < one.limits.until and one.zone.holds(self._marks[one.market])
            if not still or (one.limits.while_live and not is_live(key)):
                found[key] = one
        for key in found:
            self.wake(key)
        self._out.update(found)
        return list(found)

    def renew(self, keys: Sequence[PoolKey], now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        found = []
        for key in keys:
            one = self._out.pop(key)
            other = zone(one.shape, self._marks[one.market], one.limits)
            if other is None or now >= one.limits.until or (one.limits.while_live and not is_live(key)):
                found.append(key)
            else:
                one.zone = other
                self._let_rest(key, one)
        return found
