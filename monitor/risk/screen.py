"""Which pools rest: the marks have not left the zone in which nothing can come of them, so nothing is computed.

It decides nothing. A pool that leaves its zone is looked at exactly, as all were that never rested.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from monitor.risk.quiet import Zone

PoolKey = tuple[str, str]
"""Account and pool id."""
SymbolKey = tuple[str, str]
"""Market and symbol."""


class Screen:
    """The pools that rest, each in its zone, and the marks in floats."""

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, float]] = {}
        self._zones: dict[PoolKey, tuple[str, Zone]] = {}
        self._holders: dict[SymbolKey, dict[PoolKey, None]] = {}

    def mark(self, market: str, symbol: str, price: Decimal) -> None:
        """Take the present mark of a symbol."""
        self._marks.setdefault(market, {})[symbol] = float(price)

    def rest(self, key: PoolKey, market: str, zone: Zone) -> None:
        """From now on a pool rests; the marks that its zone stands around are the present ones."""
        self._zones[key] = market, zone
        self._marks.setdefault(market, {}).update(zip(zone.symbols, zone.anchors, strict=True))
        for symbol in zone.symbols:
            self._holders.setdefault((market, symbol), {})[key] = None

    def wake(self, key: PoolKey) -> bool:
        """A pool rests no more. False: it did not."""
        market, zone = self._zones.pop(key, ("", None))
        for symbol in () if zone is None else zone.symbols:
            del self._holders[market, symbol][key]
        return zone is not None

    def is_while_live(self, key: PoolKey) -> bool:
        """Whether a pool rests only while its data are live."""
        return key in self._zones and self._zones[key][1].while_live

    def left(self, marked: Iterable[SymbolKey], now: float) -> list[PoolKey]:
        """The pools with a mark among these, which have come just now, that may rest no more: they have left their
        zone, its time (monotonic seconds) is up, or it holds only while the pool's data are live."""
        touched: dict[PoolKey, None] = {}
        for symbol in marked:
            touched.update(self._holders.get(symbol, {}))
        found = []
        for key in touched:
            market, zone = self._zones[key]
            if zone.while_live or now >= zone.until or not zone.holds(self._marks[market]):
                found.append(key)
        return found

    def holds(self, key: PoolKey, now: float) -> bool:
        """Whether a pool rests, by the present marks and at this moment (monotonic seconds)."""
        market, zone = self._zones.get(key, ("", None))
        return zone is not None and now < zone.until and zone.holds(self._marks[market])
