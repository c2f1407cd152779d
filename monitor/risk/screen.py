"""Which pools rest: the marks have not left the zone in which nothing can come of them, so nothing is computed.

It decides nothing. A pool that leaves its zone is looked at exactly, as all were that never rested. Of a few accounts
every pool that a mark touches is asked; of many, `columns.py` asks them all at once, if NumPy is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from monitor.risk.quiet import PoolKey, SymbolKey, Zone

_MANY_ACCOUNTS = 20


class Screen(Protocol):
    """The pools that rest, each in its zone, and the marks in floats. Times are monotonic seconds."""

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        """Take the present marks of these symbols."""
        ...

    def rest(self, key: PoolKey, market: str, zone: Zone) -> None:
        """From now on a pool rests; the marks that its zone stands around are the present ones."""
        ...

    def wake(self, key: PoolKey) -> bool:
        """A pool rests no more. False: it did not."""
        ...

    def rests(self, key: PoolKey, now: float) -> bool:
        """Whether a pool rests, and its time is not up."""
        ...

    def is_while_live(self, key: PoolKey) -> bool:
        """Whether a pool rests only while its data are live."""
        ...

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        """The pools with a mark among those that have come since this was last asked, that may rest no more: they have
        left their zone, its time is up, or it is for live data alone and they are not."""
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


class Zones:
    """A screen that asks one pool after the other."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, float]] = {}
        self._zones: dict[PoolKey, tuple[str, Zone]] = {}
        self._holders: dict[SymbolKey, dict[PoolKey, None]] = {}
        self._marked: set[SymbolKey] = set()

    def __len__(self) -> int:
        return len(self._zones)

    def mark(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        self._marks.setdefault(market, {}).update(zip(symbols, prices, strict=True))
        self._marked.update((market, symbol) for symbol in symbols)

    def rest(self, key: PoolKey, market: str, zone: Zone) -> None:
        self._zones[key] = market, zone
        self._marks.setdefault(market, {}).update(zip(zone.symbols, zone.anchors, strict=True))
        for symbol in zone.symbols:
            self._holders.setdefault((market, symbol), {})[key] = None

    def wake(self, key: PoolKey) -> bool:
        market, zone = self._zones.pop(key, ("", None))
        for symbol in () if zone is None else zone.symbols:
            del self._holders[market, symbol][key]
        return zone is not None

    def rests(self, key: PoolKey, now: float) -> bool:
        _, zone = self._zones.get(key, ("", None))
        return zone is not None and now < zone.until

    def is_while_live(self, key: PoolKey) -> bool:
        _, zone = self._zones.get(key, ("", None))
        return zone is not None and zone.while_live

    def left(self, now: float, is_live: Callable[[PoolKey], bool]) -> list[PoolKey]:
        touched: dict[PoolKey, None] = {}
        for symbol in self._marked:
            touched.update(self._holders.get(symbol, {}))
        self._marked.clear()
        found = []
        for key in touched:
            market, zone = self._zones[key]
            still = now < zone.until and zone.holds(self._marks[market])
            if not still or (zone.while_live and not is_live(key)):
                found.append(key)
        return found
