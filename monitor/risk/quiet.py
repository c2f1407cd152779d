"""Within which marks nothing can come of a pool: a proof in floats, so that the exact work is left out.

Around its present marks `zone` gives a box, the same part of each mark to either side. The excess E of a pool (margin
balance minus maintenance margin M) is concave in each mark, and a sum over them. So in the box it lies nowhere above
its tangent, which changes by Σ k (mark − anchor) with slopes k = quantity − |quantity| × rate; and nowhere below it by
more than the slack: for each position, by how much M at the worse end of the box lies above M's own tangent; nothing
where the box lies within one bracket. `zone` says how far the tangent may fall and rise so that everywhere in there

- the margin ratio stays strictly between its limits. M ÷ (M + E) < h  ⇔  E > M (1 ÷ h − 1), and M, which rises with
  every mark, lies between its values at the lower and at the upper end of the box;
- the distance stays strictly between its own. E is concave along every move, and no slope on the way is steeper than
  that at its end. So while E > d × S, no move by a fraction up to d reaches E = 0, where S is the largest of: notional
  × (1 − rate) of a long, notional × (1 + rate) of a short, with the rate of the bracket after such a move from the end
  of the box; the same of all positions together, net, for moves of the whole market. And along a move too E lies below
  the tangent: where that is below d × T for its slope T along one of these moves, E reaches 0 before d;
- no liquidation price comes nearer than is allowed since it was last told. A price p follows from C alone, the pool's
  excess without its own position; dp ÷ dC is at most 1 ÷ (quantity × (1 − rate)) for a long, with the rate at the upper
  end of the box, as a price is below the mark; 1 ÷ quantity for a short.

The error of all this in floats: every term is at most the gross sum G (wallet, notionals, entry values) and is made of
some ten roundings of 2⁻⁵³ each, added up over at most 1,000 positions: below 1e-12 G. Every limit is taken in by
1e-9 G, and what is nearer to it than that is computed exactly; the box is taken to be wider than it is by 1e-9 of each
mark. Where a proof does not hold (hedged pairs, inverse contracts, several collateral assets, tables that do not join
up) there is no zone, and every tick is computed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from monitor import digits
from monitor.events import Bracket
from monitor.risk.margin import BracketTable
from monitor.risk.pool import Pool

PoolKey = tuple[str, str]
"""Account and pool id."""
SymbolKey = tuple[str, str]
"""Market and symbol."""

MARGIN = 1e-9
LAST_DIGITS = float(digits.LAST_DIGITS)
_MOST_POSITIONS = 1_000
BOXES = tuple(0.05 / 4**i for i in range(6))
"""How far marks may move, as a fraction: the first one that fits."""
LEAST = 0.05
"""A box fits where every limit is as far as this part of what all marks at its end would move."""


class Tiers(Struct, frozen=True, gc=False):
    """The brackets of a symbol in floats."""

    floors: tuple[float, ...]
    rates: tuple[float, ...]
    amounts: tuple[float, ...]

    def margin(self, notional: float) -> tuple[float, float]:
        """The rate that holds at a notional, and the maintenance margin."""
        at = max(bisect_left(self.floors, notional) - 1, 0)  # an edge belongs to the lower one
        rate = self.rates[at]
        return rate, notional * rate - self.amounts[at]


class Holding(Struct, frozen=True, gc=False):
    """A position in floats."""

    symbol: str
    quantity: float
    entry: float
    tiers: Tiers


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
        box: How far marks may move, as a fraction.
        lows, highs: Its ends: marks must be strictly between.
        slopes: Change of E for a change of the mark.
        rooms: How far the excess without the position itself may fall.
        fall, rise: How far E may fall and rise, both positive.
    """

    symbols: tuple[str, ...]
    anchors: tuple[float, ...]
    box: float
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    slopes: tuple[float, ...]
    rooms: tuple[float, ...]
    fall: float
    rise: float

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
        tiers = _tiers(table.brackets) if table is not None and table.convex else None
        if tiers is None or p.contract_size is not None or not p.quantity or p.entry_price <= 0:
            return None
        holdings.append(Holding(p.symbol, float(p.quantity), float(p.entry_price), tiers))
    return Shape(float(pool.wallet_balance), tuple(holdings))


@lru_cache(maxsize=4096)
def _tiers(brackets: tuple[Bracket, ...]) -> Tiers | None:
    """One of its kind for all positions; None: the proof is not for such brackets."""
    first, last = brackets[0], brackets[-1]
    if first.floor or first.amount or not 0 <= first.rate <= last.rate < 1:
        return None
    rows = ((float(b.floor), float(b.rate), float(b.amount)) for b in brackets)
    return Tiers(*zip(*rows, strict=True))


class _Slot(Struct, gc=False):
    """A position at its present mark."""

    holding: Holding
    mark: float
    size: float
    notional: float
    rate: float
    maintenance: float
    excess: float


class _Reach(Struct, frozen=True, gc=False):
    """How far, in some box, the tangent of a pool's excess may fall and rise, and that without each position fall."""

    fall: float
    rise: float
    rooms: tuple[float, ...]


def zone(shape: Shape, marks: Mapping[str, float], limits: Limits) -> Zone | None:
    """Around these marks; None: something is to be told, or it is too near to tell."""
    if limits.ratio_below <= 0 or limits.ratio_above >= 1:
        return None
    slots = [_slot(holding, marks[holding.symbol]) for holding in shape.holdings]
    gross = sum(slot.notional for slot in slots)
    margin = MARGIN * (abs(shape.wallet) + gross + sum(abs(slot.size * slot.holding.entry) for slot in slots))
    excess = shape.wallet + sum(slot.excess for slot in slots)
    prices = [_price(slot, excess - slot.excess) if slot.holding.symbol in limits.told else None for slot in slots]
    most = _reach(slots, prices, excess, limits, 0.0, margin)
    if not (most.fall > 2 * margin and most.rise > 2 * margin and all(room > 0 for room in most.rooms)):
        return None
    for box in BOXES:
        reach = _reach(slots, prices, excess, limits, box, margin)
        if min(reach.fall, reach.rise, *reach.rooms) >= LEAST * box * gross:
            break
    else:
        return None
    return Zone(
        symbols=tuple(slot.holding.symbol for slot in slots),
        anchors=tuple(slot.mark for slot in slots),
        box=box,
        lows=tuple(slot.mark * (1 - box) for slot in slots),
        highs=tuple(slot.mark * (1 + box) for slot in slots),
        slopes=tuple(slot.holding.quantity - slot.size * slot.rate for slot in slots),
        rooms=reach.rooms,
        fall=reach.fall - margin,
        rise=reach.rise - margin,
    )


def _slot(holding: Holding, mark: float) -> _Slot:
    size = abs(holding.quantity)
    notional = size * mark
    rate, maintenance = holding.tiers.margin(notional)
    excess = holding.quantity * (mark - holding.entry) - maintenance
    return _Slot(holding, mark, size, notional, rate, maintenance, excess)


def _reach(
    slots: list[_Slot], prices: list[float | None], excess: float, limits: Limits, box: float, margin: float
) -> _Reach:
    below, above = 1 - box - MARGIN, 1 + box + MARGIN
    fallen, risen = below * max(0.0, 1 - limits.distance_above), above * (1 + limits.distance_above)
    slack = least = most = gross = net = 0.0
    parts = parts_fallen = parts_risen = 0.0
    steepest = tangent_up = tangent_down = 0.0
    for slot in slots:
        notional, tiers, part = slot.notional, slot.holding.tiers, slot.notional * slot.rate
        least_margin, most_margin = tiers.margin(notional * below)[1], tiers.margin(notional * above)[1]
        rate_fallen, rate_risen = tiers.margin(notional * fallen)[0], tiers.margin(notional * risen)[0]
        bent_above = most_margin - slot.maintenance - part * (above - 1)
        bent_below = least_margin - slot.maintenance - part * (below - 1)
        slack += max(bent_above, bent_below)
        least += least_margin
        most += most_margin
        gross += notional
        parts += part
        parts_fallen += notional * rate_fallen
        parts_risen += notional * rate_risen
        if slot.holding.quantity > 0:
            net += notional
            steepest = max(steepest, notional * (1 - rate_fallen))
            tangent_down = max(tangent_down, notional - part)
        else:
            net -= notional
            steepest = max(steepest, notional * (1 + rate_risen))
            tangent_up = max(tangent_up, notional + part)
    drift = (above - 1) * gross
    market = max(net - below * parts_fallen, above * parts_risen - net) + drift
    lowest = max(0.0, limits.distance_above * max(above * steepest, market), (1 / limits.ratio_below - 1) * most)
    highest = math.inf
    if limits.ratio_above > 0:
        highest = (1 / limits.ratio_above - 1) * least
    if limits.distance_below < math.inf:
        up = max(below * tangent_up, below * parts - net - drift)
        down = max(below * tangent_down, net - above * parts - drift)
        highest = min(highest, limits.distance_below * max(up, down if limits.distance_below < 1 else 0.0))
    rooms = tuple(
        math.inf if price is None else _room(slot, price, limits, box + MARGIN, margin) - slack
        for slot, price in zip(slots, prices, strict=True)
    )
    return _Reach(excess - lowest - slack, highest - excess, rooms)


def _price(slot: _Slot, rest: float) -> float:
    """The liquidation price of a position beside which the pool has so much excess; below zero: there is none."""
    holding, size = slot.holding, slot.size
    worth, lines = size * holding.entry, zip(holding.tiers.rates, holding.tiers.amounts, strict=True)
    if holding.quantity > 0:
        return max((worth - rest - amount) / (size * (1 - rate)) for rate, amount in lines)
    return min((rest + amount + worth) / (size * (1 + rate)) for rate, amount in lines)


def _room(slot: _Slot, price: float, limits: Limits, box: float, margin: float) -> float:
    """How far the rest of the pool may fall until a position's liquidation price has come too near."""
    mark, size = slot.mark, slot.size
    told = limits.told[slot.holding.symbol]
    moved = box * mark
    if slot.holding.quantity > 0:
        left = mark - price
        is_beyond = told < mark - moved
        safe = -price  # below zero there is none, until it has risen above
        per_price = size * (1 - slot.holding.tiers.margin(slot.notional * (1 + box))[0])
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
    return (max(min(notice, warning), far, safe) - LAST_DIGITS - 2 * margin / size) * per_price
