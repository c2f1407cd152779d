"""What the exchange last said of one market's marks and rates of collateral, and how old that is; nothing derived.

One `MarketBook` per market link, owned by the core and changed in place. A later mark is never overwritten by an
earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from decimal import Decimal
from functools import cached_property
from itertools import compress, count, repeat
from operator import eq, gt
from typing import NamedTuple

from msgspec import Struct

from monitor.events import AssetRate, AssetRates, MarkPrice, Marks, Now
from monitor.listings import Listings

SLOW_ANSWER_MS = 1_000
"""What the exchange answers about its clock says nothing where it took longer, once that clock is known at all: half of
that is how wrong it may be, and more than that would be told as a wrong clock of ours."""

_AHEAD_MS = 1_000
"""How far a mark may be ahead of the exchange's clock as we have measured it."""

_RATE = "rate of "


def rate_of(asset: str) -> str:
    """Under which name the age of an asset's rate is asked for, among those of symbols."""
    return f"{_RATE}{asset}"


def is_rate(what: str) -> bool:
    """Whether it is the name of a rate, rather than a symbol."""
    return what.startswith(_RATE)


class Mark(Struct, frozen=True, gc=False):
    """A mark price.

    Args:
        at_ms: When it was made, by the exchange's clock.
        funding: Rate and time of the next one, as far as there is one.
        moved: The market's revision with which this price has come.
        bridged: It was asked for over REST.
    """

    price: Decimal
    at_ms: int
    funding: tuple[Decimal | None, int | None]
    moved: int
    bridged: bool = False


class _Frame(NamedTuple):
    """Marks that have come together.

    Args:
        moved: With which revision each price has come.
    """

    marks: Marks
    moved: list[int]


class Prices:
    """The prices of a moment: those that were known, and on top of them those of frames."""

    def __init__(self, known: dict[str, Decimal], frames: Collection[_Frame]) -> None:
        self.known = known
        self._frames = frames

    @cached_property
    def exact(self) -> dict[str, Decimal]:
        """Made of their digits once somebody asks."""
        found = dict(self.known)
        for frame, _ in self._frames:
            found.update(zip(frame.symbols, frame.prices, strict=True))
        return found


class MarketBook:
    """Marks and collateral rates of one market, beside its listings.

    `revision` counts the changes of marks. Ages are asked for by symbol, or by `rate_of(asset)`. What a whole frame
    says is made exact, and put in its place, once somebody asks for any mark: while all pools rest, that is the next
    tick, and no decision waits for it.
    """

    def __init__(self) -> None:
        self.listings = Listings()
        self._marks: dict[str, Mark] = {}
        self._prices: dict[str, Decimal] = {}
        self._frames: dict[tuple[str, ...], _Frame] = {}
        """Symbols → the last frame of these, while nothing else has come of any of them; no symbol is in two."""
        self._unfiled: dict[tuple[str, ...], _Frame] = {}
        """Those that `_marks` and `_prices` do not have yet."""
        self._earlier: Prices | None = None
        """Before the running step; None: as they are."""
        self.revision = 0
        self._true_at: dict[str, float] = {}
        """When each mark and rate was true (monotonic seconds): when it came, but for how late it came."""
        self._streamed: dict[str, float] = {}
        """When rates were last true that the stream has brought, and marks that a bridged one has replaced."""
        self.rates: dict[str, AssetRate] = {}
        self._rates_at_ms = 0
        self._ahead_ms: float | None = None

    def measured(self, offset_ms: int, now: Now) -> None:
        """Take exchange time minus our wall clock. Kept against the monotonic clock, which nobody sets."""
        self._ahead_ms = now.wall_ms + offset_ms - now.mono * 1000

    def exchange_ms(self, now: Now) -> int:
        """The exchange's clock as far as it has been measured, in Unix milliseconds."""
        return now.wall_ms if self._ahead_ms is None else int(now.mono * 1000 + self._ahead_ms)

    def clock_offset_ms(self, now: Now) -> int | None:
        """The exchange's clock minus ours; None: it has not been measured."""
        return None if self._ahead_ms is None else self.exchange_ms(now) - now.wall_ms

    def funding(self, symbol: str) -> tuple[Decimal | None, int | None]:
        """Rate and time of a symbol's next funding; None: it has none, or it is unknown."""
        mark = self.marks.get(symbol)
        return (None, None) if mark is None else mark.funding

    def has_funding_near(self, symbols: Iterable[str], now: Now, within_s: float) -> bool:
        """Whether any of these symbols has a funding that is no farther off than this."""
        until_ms = self.exchange_ms(now) + round(within_s * 1000)
        fundings = [mark.funding for mark in map(self.marks.get, symbols) if mark is not None]
        return any([rate is not None and at_ms is not None and at_ms <= until_ms for rate, at_ms in fundings])

    @property
    def marks(self) -> dict[str, Mark]:
        """Symbol → mark."""
        if self._unfiled:
            self._file()
        return self._marks

    @property
    def prices(self) -> dict[str, Decimal]:
        """The same marks as the risk arithmetic takes them."""
        if self._unfiled:
            self._file()
        return self._prices

    def _file(self) -> None:
        frames = tuple(self._unfiled.values())
        self._unfiled.clear()
        self._prices = Prices(self._prices, frames).exact
        for frame, moved in frames:
            prices = map(self._prices.__getitem__, frame.symbols)
            marks = map(Mark, prices, frame.at_ms, frame.funding, moved)
            self._marks.update(zip(frame.symbols, marks, strict=True))

    def before_step(self) -> Prices:
        """The prices as they were before the running step."""
        if self._earlier is None:
            self._earlier = Prices(self._prices, tuple(self._unfiled.values()))
        return self._earlier

    def _to_change(self, what: str) -> None:
        """A mark is about to be another, or none: no frame speaks for it any more, and what prices were before the step
        they stay."""
        if any(what in symbols for symbols in self._frames):
            self._file()
            self._frames = {symbols: frame for symbols, frame in self._frames.items() if what not in symbols}
        if self.before_step().known is self._prices:
            self._prices = dict(self._prices)

    def end_step(self) -> None:
        """What comes from now on belongs to the next step."""
        self._earlier = None

    def apply_mark(self, event: MarkPrice, now: Now) -> bool:
        """Take a mark unless a later one is known. False: it was dropped."""
        symbol, here_ms = event.symbol, self.exchange_ms(now)
        at_ms = min(event.at_ms, here_ms + _AHEAD_MS)  # one from the far future must not bar all that follow
        self._to_change(symbol)
        known = self._marks.get(symbol)
        if known is not None and at_ms < known.at_ms:
            return False
        if not event.bridged:
            self._streamed.pop(symbol, None)
        elif known is not None and not known.bridged:
            self._streamed[symbol] = self._true_at[symbol]
        self.revision += 1
        moved = self.revision if known is None or known.price != event.price else known.moved
        funding = event.funding_rate, event.next_funding_ms
        self._marks[symbol] = Mark(event.price, at_ms, funding, moved, event.bridged)
        self._prices[symbol] = event.price
        self._true_at[symbol] = _true_at(at_ms, here_ms, now)
        return True

    def apply_marks(self, event: Marks, now: Now) -> bool:
        """Take all marks of a frame at once. False: none was taken, since one of them is the first of its symbol, late,
        ahead of its time or after a bridged one, so that each has to be looked at for itself."""
        here_ms, symbols = self.exchange_ms(now), event.symbols
        times_ms = set(event.at_ms)  # mostly one for all of them
        if max(times_ms) > here_ms + _AHEAD_MS:
            return False
        moved = self._moved(event, self.revision + 1)
        if moved is None:
            return False
        self.before_step()
        self.revision += 1
        if symbols not in self._frames:
            self._frames = {known: frame for known, frame in self._frames.items() if set(known).isdisjoint(symbols)}
        self._frames[symbols] = self._unfiled[symbols] = _Frame(event, moved)
        true_at = {at_ms: _true_at(at_ms, here_ms, now) for at_ms in times_ms}
        of_each = map(true_at.__getitem__, event.at_ms) if len(true_at) > 1 else repeat(*true_at.values())
        self._true_at.update(zip(symbols, of_each, strict=False))
        return True

    def _moved(self, event: Marks, revision: int) -> list[int] | None:
        """With which revision each price of a frame has come, if it comes with this one. None: one of its marks is the
        first of its symbol, late or after a bridged one."""
        last = self._frames.get(event.symbols)
        if last is not None:
            if any(map(gt, last.marks.at_ms, event.at_ms)):
                return None
            moved = [revision] * len(event.symbols)
            for i in compress(count(), map(eq, last.marks.floats, event.floats)):
                if last.marks.texts[i] == event.texts[i] or Decimal(last.marks.texts[i]) == Decimal(event.texts[i]):
                    moved[i] = last.moved[i]
            return moved
        try:
            known = list(map(self.marks.__getitem__, event.symbols))
        except KeyError:
            return None
        if any([k.at_ms > at_ms or k.bridged for k, at_ms in zip(known, event.at_ms, strict=True)]):
            return None
        return [k.moved if k.price == price else revision for k, price in zip(known, event.prices, strict=True)]

    def has_moved(self, symbol: str, since: int) -> bool:
        """Whether a mark is another than it was at this revision."""
        mark = self.marks.get(symbol)
        return mark is not None and mark.moved > since

    def apply_rates(self, event: AssetRates, now: Now) -> tuple[str, ...]:
        """Take rates of collateral, unless later ones are known. Returns the assets of which the rate has changed."""
        here_ms = self.exchange_ms(now)
        at_ms = min(event.at_ms, here_ms + _AHEAD_MS)
        if at_ms < self._rates_at_ms:
            return ()
        self._rates_at_ms = at_ms
        true_at = _true_at(event.at_ms, here_ms, now)
        changed = tuple(a for a, rate in event.rates.items() if self.rates.get(a) != rate)  # in an order of its own
        self.rates.update(event.rates)
        for asset in event.rates:
            self._true_at[rate_of(asset)] = true_at
            if not event.bridged:
                self._streamed[rate_of(asset)] = true_at
        return changed

    def forget(self, what: str) -> None:
        """Nobody needs this mark or rate any more: when it is needed again, an old one must not speak for it."""
        self._to_change(what)
        for known in (self._marks, self._prices, self._streamed, self._true_at):
            known.pop(what, None)
        for asset in [asset for asset in self.rates if rate_of(asset) == what]:
            del self.rates[asset]

    def forget_rates(self) -> None:
        """Nobody needs any rate any more, of whatever asset: they are not brought any longer."""
        for known in (self._true_at, self._streamed):
            for what in [rate_of(asset) for asset in self.rates]:
                known.pop(what, None)
        self.rates.clear()

    def oldest(self, what: Collection[str], now: float) -> float | None:
        """Seconds since the oldest of these marks and rates was true: since it came, plus how late it came. Infinity:
        there is one that has never come; None: they are none at all.

        Only differences of one clock enter, and the measured offset between the two: a wrong clock neither hides nor
        invents staleness.
        """
        try:
            return now - min(map(self._true_at.__getitem__, what)) if what else None
        except KeyError:
            return math.inf

    def stream_age(self, symbol: str, now: float) -> float | None:
        """The same for the last mark that the stream itself has brought."""
        true_at = self._streamed.get(symbol)
        if true_at is None and (mark := self.marks.get(symbol)) is not None and not mark.bridged:
            true_at = self._true_at[symbol]
        return None if true_at is None else now - true_at


def _true_at(at_ms: int, here_ms: int, now: Now) -> float:
    """When something was true (monotonic seconds) that was made at one time of the exchange's clock, and came at
    another."""
    return now.mono - max(0, here_ms - at_ms) / 1000
