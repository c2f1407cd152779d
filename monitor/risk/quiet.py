"""Within which marks nothing can come of a pool: a proof in floats, so that the exact work is left out.

Seen from its present marks, a pool is affine in them for as long as no position enters another bracket: with slopes
k = quantity − |quantity| × rate, its excess E (margin balance minus maintenance margin) changes by Σ k (mark − anchor).
`zone` gives a box around the present marks, and how far E may fall and rise in it, such that everywhere in there

- the margin ratio stays strictly between its limits: maintenance margin M is between M ± δ Σ notional × rate, and
  M ÷ (M + E) < h  ⇔  E > M (1 ÷ h − 1);
- the distance stays strictly between its own. M is convex, so E is concave along every move, and no slope on the way
  is steeper than that of the bracket at its end. So while E > d × S, no move by a fraction up to d reaches E = 0, where
  S is the largest of: notional × (1 − rate) of a long, notional × (1 + rate) of a short, with the rate of the bracket
  after such a move; the same of all positions together, net, for moves of the whole market. And a tangent of a concave
  function lies above it: where E < d × T for the present slope T of one of these moves, it reaches E = 0 before d;
- no liquidation price comes nearer than is allowed since it was last told. A price p follows from C alone, the pool's
  excess without its own position; dp ÷ dC is at most 1 ÷ (quantity × (1 − rate)) for a long, 1 ÷ quantity for a short.

The error of all this in floats: every term is at most the gross sum G (wallet, notionals, entry values) and is made of
some ten roundings of 2⁻⁵³ each, added up over at most 1,000 positions: below 1e-12 G. Every limit is taken in by
1e-9 G, and what is nearer to it than that is computed exactly. Where a proof does not hold (hedged pairs, inverse
contracts, several collateral assets, tables that do not join up) there is no zone, and every tick is computed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from msgspec import Struct

from monitor.risk.margin import BracketTable
from monitor.risk.report import Pool

PoolKey = tuple[str, str]
"""Account and pool id."""
SymbolKey = tuple[str, str]
"""Market and symbol."""

_MARGIN = 1e-9
_LAST_DIGITS = 2e-8
"""Prices are compared as printed, to 8 decimals."""
_MOST_POSITIONS = 1_000
_BOXES = (0.05, 0.02, 0.005, 0.001, 0.0002)
"""How far marks may move, as a fraction: the first that costs the limits no more than half of their room."""


class Holding(Struct, frozen=True, gc=False):
    """A position in floats. `floors`, `rates` and `amounts` are those of its brackets."""

    symbol: str
    quantity: float
    entry: float
    floors: tuple[float, ...]
    rates: tuple[float, ...]
    amounts: tuple[float, ...]


class Shape(Struct, frozen=True):
    """What of a pool does not change with the marks."""

    wallet: float
    holdings: tuple[Holding, ...]


class Limits(Struct, frozen=True):
    """Within which figures nothing is to be told of a pool; all strictly between.

    Args:
        told: Symbol → the liquidation price that was last told, of positions whose price is watched.
        notice_at: Part of the mark by which a price may come nearer; infinite: only warnings count.
        warning_at: The same as a part of the distance that is left.
        ignore_beyond: A price farther from the mark than this part of it does not matter.
        until: Monotonic seconds from which on time itself may have something told.
        while_live: Where the pool's data go stale, something happens too.
    """

    ratio_above: float = 0.0
    ratio_below: float = math.inf
    distance_above: float = 0.0
    distance_below: float = math.inf
    told: Mapping[str, float] = {}
    notice_at: float = math.inf
    warning_at: float = 0.0
    ignore_beyond: float = math.inf
    until: float = math.inf
    while_live: bool = False


class Zone(Struct, frozen=True, gc=False):
    """A proof for one pool: position for position in the order of its shape.

    Args:
        lows, highs: The box: marks must be strictly between.
        slopes: Change of E for a change of the mark.
        rooms: How far the excess without the position itself may fall.
        fall, rise: How far E may fall and rise, both positive.
        until: Monotonic seconds; from then on it proves nothing.
        while_live: Nor does it for a pool whose data are stale.
    """

    symbols: tuple[str, ...]
    anchors: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    slopes: tuple[float, ...]
    rooms: tuple[float, ...]
    fall: float
    rise: float
    until: float
    while_live: bool

    def holds(self, marks: Mapping[str, float]) -> bool:
        """Whether these marks are in it."""
        total, worst = 0.0, math.inf
        for symbol, anchor, low, high, slope, room in zip(
            self.symbols, self.anchors, self.lows, self.highs, self.slopes, self.rooms, strict=True
        ):
            mark = marks[symbol]
            if not low < mark < high:
                return False
            gain = slope * (mark - anchor)
            total += gain
            worst = min(worst, room - gain)
        return -self.fall < total < self.rise and total + worst > 0


def shape(pool: Pool, tables: Mapping[str, BracketTable]) -> Shape | None:
    """A pool in floats; None: the proof is not for such a pool."""
    symbols = {p.symbol for p in pool.positions}
    if pool.assets or pool.wallet_balance is None or not len(pool.positions) == len(symbols) <= _MOST_POSITIONS:
        return None
    holdings = []
    for p in pool.positions:
        table = tables.get(p.symbol)
        if table is None or not table.convex or p.contract_size is not None or not p.quantity:
            return None
        first, last = table.brackets[0], table.brackets[-1]
        if first.floor or first.amount or not 0 <= first.rate <= last.rate < 1:
            return None
        rows = [(float(b.floor), float(b.rate), float(b.amount)) for b in table.brackets]
        floors, rates, amounts = zip(*rows, strict=True)
        holdings.append(Holding(p.symbol, float(p.quantity), float(p.entry_price), floors, rates, amounts))
    return Shape(float(pool.wallet_balance), tuple(holdings))


class _Slot(Struct, gc=False):
    """A position at its present mark: its notional, bracket and part of the pool's excess."""

    holding: Holding
    mark: float
    size: float
    notional: float
    at: int
    excess: float

    @property
    def rate(self) -> float:
        return self.holding.rates[self.at]


def zone(shape: Shape, marks: Mapping[str, float], limits: Limits) -> Zone | None:
    """Around these marks; None: something is to be told, or it is too near to tell."""
    if limits.ratio_below <= 0 or limits.ratio_above >= 1:
        return None
    slots = [_slot(holding, marks[holding.symbol]) for holding in shape.holdings]
    excess = shape.wallet + sum(slot.excess for slot in slots)
    margin = _MARGIN * (abs(shape.wallet) + sum(s.notional + abs(s.size * s.holding.entry) for s in slots))
    pool = _Sums(slots, limits)
    lowest, highest = pool.band(limits, 0.0)
    room_below, room_above = excess - lowest, highest - excess
    if not (room_below > 2 * margin and room_above > 2 * margin):
        return None
    prices = [_price(slot, excess - slot.excess) if slot.holding.symbol in limits.told else None for slot in slots]
    widest = _rooms(slots, prices, limits, 0.0, margin)
    if any(room <= 0 for room in widest):
        return None
    for box in _BOXES:
        lowest, highest = pool.band(limits, box)
        if excess - lowest < room_below / 2 or highest - excess < room_above / 2:
            continue
        rooms = _rooms(slots, prices, limits, box, margin)
        if all(room >= most / 2 for room, most in zip(rooms, widest, strict=True)):
            break
    else:
        return None
    lows, highs, slopes = [], [], []
    for slot in slots:
        floors, size, at = slot.holding.floors, slot.size, slot.at
        low = max(slot.mark * (1 - box), floors[at] / size * (1 + _MARGIN))
        high = slot.mark * (1 + box)
        if at + 1 < len(floors):
            high = min(high, floors[at + 1] / size * (1 - _MARGIN))
        if not low < slot.mark < high:
            return None
        lows.append(low)
        highs.append(high)
        slopes.append(slot.holding.quantity - size * slot.rate)
    return Zone(
        symbols=tuple(holding.symbol for holding in shape.holdings),
        anchors=tuple(slot.mark for slot in slots),
        lows=tuple(lows),
        highs=tuple(highs),
        slopes=tuple(slopes),
        rooms=rooms,
        fall=excess - lowest - margin,
        rise=highest - excess - margin,
        until=limits.until,
        while_live=limits.while_live,
    )


def _slot(holding: Holding, mark: float) -> _Slot:
    size = abs(holding.quantity)
    notional = size * mark
    at = _bracket(holding.floors, notional)
    maintenance = notional * holding.rates[at] - holding.amounts[at]
    return _Slot(holding, mark, size, notional, at, holding.quantity * (mark - holding.entry) - maintenance)


def _bracket(floors: tuple[float, ...], notional: float) -> int:
    return max(bisect_left(floors, notional) - 1, 0)  # an edge belongs to the lower one


class _Sums:
    """What the limits of a pool as a whole follow from, at its present marks."""

    def __init__(self, slots: list[_Slot], limits: Limits) -> None:
        highest = (1 + _BOXES[0]) * (1 + limits.distance_above)
        lowest = (1 - _BOXES[0]) * max(0.0, 1 - limits.distance_above)
        self.margin = self.margin_slope = self.gross = self.net = self.margin_up = self.margin_down = 0.0
        self.long = self.long_slope = self.short = self.short_slope = 0.0
        for slot in slots:
            notional, rate = slot.notional, slot.rate
            part = notional * rate
            self.margin += part - slot.holding.amounts[slot.at]
            self.margin_slope += part
            self.gross += notional
            up = notional * slot.holding.rates[_bracket(slot.holding.floors, notional * highest)]
            down = notional * slot.holding.rates[_bracket(slot.holding.floors, notional * lowest)]
            self.margin_up += up
            self.margin_down += down
            if slot.holding.quantity > 0:
                self.net += notional
                self.long = max(self.long, notional - down)
                self.long_slope = max(self.long_slope, notional - part)
            else:
                self.net -= notional
                self.short = max(self.short, notional + up)
                self.short_slope = max(self.short_slope, notional + part)

    def band(self, limits: Limits, box: float) -> tuple[float, float]:
        """Between which excesses ratio and distance are within their limits, wherever the marks are in the box."""
        least, most = self.margin - box * self.margin_slope, self.margin + box * self.margin_slope
        lowest, highest = 0.0, math.inf
        if limits.ratio_below < math.inf:
            factor = 1 / limits.ratio_below - 1
            lowest = max(lowest, factor * (most if factor > 0 else least))
        if limits.ratio_above > 0:
            highest = (1 / limits.ratio_above - 1) * least
        drift = box * self.gross
        if limits.distance_above > 0:
            single = max(self.long, self.short) * (1 + box)
            market = max(self.net - self.margin_down * (1 - box), self.margin_up * (1 + box) - self.net) + drift
            lowest = max(lowest, limits.distance_above * max(single, market))
        if limits.distance_below < math.inf:
            up = max(self.short_slope * (1 - box), self.margin_slope * (1 - box) - self.net - drift)
            down = max(self.long_slope * (1 - box), self.net - self.margin_slope * (1 + box) - drift)
            highest = min(highest, limits.distance_below * max(up, down if limits.distance_below < 1 else 0.0))
        return lowest, highest


def _price(slot: _Slot, rest: float) -> float:
    """The liquidation price of a position beside which the pool has so much excess; below zero: there is none."""
    holding, size = slot.holding, slot.size
    worth = size * holding.entry
    if holding.quantity > 0:
        return max((worth - rest - a) / (size * (1 - r)) for r, a in zip(holding.rates, holding.amounts, strict=True))
    return min((rest + a + worth) / (size * (1 + r)) for r, a in zip(holding.rates, holding.amounts, strict=True))


def _rooms(
    slots: list[_Slot], prices: list[float | None], limits: Limits, box: float, margin: float
) -> tuple[float, ...]:
    """How far the rest of the pool may fall until a position's liquidation price has come too near, of each."""
    return tuple(
        math.inf if price is None else _room(slot, price, limits, box, margin)
        for slot, price in zip(slots, prices, strict=True)
    )


def _room(slot: _Slot, price: float, limits: Limits, box: float, margin: float) -> float:
    mark, size = slot.mark, slot.size
    told = limits.told[slot.holding.symbol]
    moved = box * mark
    if slot.holding.quantity > 0:
        left = mark - price
        is_beyond = told < mark - moved
        safe = -price  # below zero there is none, until it has risen above
        per_price = size * (1 - slot.rate)
    else:
        left = price - mark
        is_beyond = told > mark + moved
        safe = -math.inf
        per_price = size
    # While both are on one side, marks do not count.
    nearer = abs(mark - told) - left + (0.0 if is_beyond else 2 * moved)
    notice = limits.notice_at * mark * (1 - box) - nearer
    warning = (limits.warning_at * (left - moved) - nearer) / (1 + limits.warning_at)
    far = left - moved - limits.ignore_beyond * mark * (1 + box)
    return (max(min(notice, warning), far, safe) - _LAST_DIGITS - 2 * margin / size) * per_price
