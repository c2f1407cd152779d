"""Where a margin pool is liquidated: one solver for liquidation price, bankruptcy price and market distance.

With every price a fixed multiple of one variable t, the excess of a pool (margin balance minus maintenance margin) is

    excess(t) = base + Σ (exposure·t + offset) − Σ maintenance_margin(|exposure|·t)

a piecewise linear function of t whose pieces end where a leg enters another bracket. It is solved piece by piece from
the present outward, so that bracket and price always agree with each other, and hedged pairs need no special case.

- one symbol, other marks held still: t is its mark price, exposure the signed quantity, offset −quantity × entry;
- the whole market moved alike: t is the factor on all marks (1 now), exposure quantity × mark, offset the same.

Source of the equation: Binance Support, "How to Calculate Liquidation Price of USDⓈ-M Futures Contracts".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from heapq import heapify, heappop, heappush

from msgspec import Struct

from monitor.risk.margin import ONE, ZERO, BracketTable


class Leg(Struct, frozen=True, gc=False):
    """One position as the solver sees it.

    Args:
        exposure: Signed; its absolute value times t is the notional.
        offset: What is added to exposure·t to give the unrealized PnL.
        table: Brackets of its symbol.
    """

    exposure: Decimal
    offset: Decimal
    table: BracketTable


class Crossings(Struct, frozen=True, gc=False):
    """Nearest t at which excess reaches 0 on each side of the present; None: it never does for any t > 0."""

    below: Decimal | None
    above: Decimal | None


NOWHERE = Crossings(None, None)


def crossings(legs: Sequence[Leg], base: Decimal, now: Decimal) -> Crossings:
    """Nearest solutions of excess(t) = 0 at or below `now`, and at or above it.

    Args:
        legs: The positions that move with t.
        base: Wallet balance, plus unrealized PnL minus maintenance margin of the positions that do not.
        now: The present t, > 0.
    """
    if len(legs) == 1 and _is_monotone(legs[0]):
        return _of_one(legs[0], base, now)
    sizes, indices = [], []
    slope, constant = ZERO, base
    for leg in legs:
        size = abs(leg.exposure)
        at = leg.table.index(size * now)
        bracket = leg.table.brackets[at]
        slope += leg.exposure - size * bracket.rate
        constant += leg.offset + bracket.amount
        sizes.append(size)
        indices.append(at)
    safe = slope * now + constant > 0
    # A concave function that is positive now has one zero at most on a side; none where it is not negative at its end.
    is_concave = safe and all(leg.table.convex for leg in legs)
    root = -constant / slope if slope else None
    walk = partial(_walk, legs, sizes, indices, slope, constant, now, safe)
    below = above = None
    if root is not None and 0 < root <= now and _is_within(legs, sizes, indices, root, upward=False):
        below = root
    elif not is_concave or base + sum((leg.offset + leg.table.brackets[0].amount for leg in legs), ZERO) < 0:
        below = walk(upward=False)
    if root is not None and root >= now and _is_within(legs, sizes, indices, root, upward=True):
        above = root
    elif not is_concave or sum((x.exposure - abs(x.exposure) * x.table.brackets[-1].rate for x in legs), ZERO) < 0:
        above = walk(upward=True)
    return Crossings(below, above)


def nearest(prices: Crossings, mark_price: Decimal) -> Decimal | None:
    """The one of two prices that is nearer to the mark."""
    if prices.below is None or prices.above is None:
        return prices.above if prices.below is None else prices.below
    return min(prices.below, prices.above, key=lambda price: abs(price - mark_price))


def _is_monotone(leg: Leg) -> bool:
    """Whether the excess of this leg alone rises with t all along, or falls all along, without a jump."""
    brackets = leg.table.brackets
    if leg.exposure > ZERO:
        return leg.table.convex and brackets[-1].rate < ONE
    return leg.table.convex and leg.exposure < ZERO and brackets[0].rate > -ONE


def _of_one(leg: Leg, base: Decimal, now: Decimal) -> Crossings:
    """The same of a single leg that is monotone, as most symbols have: its excess has one zero at most."""
    exposure, table, constant = leg.exposure, leg.table, base + leg.offset
    first = table.brackets[0]
    if exposure > ZERO:  # at the zero it is worth what is owed
        value, at_start, at_floors = -constant, first.amount, table.worth_of_longs
    else:  # at the zero it costs all that there is
        value, at_start, at_floors = constant, -first.amount, table.cost_of_shorts
    if value <= at_start:
        return NOWHERE
    bracket = table.brackets[bisect_left(at_floors, value, 1) - 1]
    root = -(constant + bracket.amount) / (exposure - abs(exposure) * bracket.rate)
    return Crossings(root if root <= now else None, root if root >= now else None)


def _is_within(
    legs: Sequence[Leg], sizes: Sequence[Decimal], indices: Sequence[int], t: Decimal, *, upward: bool
) -> bool:
    """Whether no leg has left its bracket on the way to t: most often none has, and there is nothing to walk."""
    for leg, size, at in zip(legs, sizes, indices, strict=True):
        brackets = leg.table.brackets
        if upward and at + 1 < len(brackets) and size * t >= brackets[at + 1].floor:
            return False
        if not upward and at and size * t <= brackets[at].floor:
            return False
    return True


def _walk(
    legs: Sequence[Leg],
    sizes: Sequence[Decimal],
    indices: Sequence[int],
    slope: Decimal,
    constant: Decimal,
    now: Decimal,
    safe: bool,
    *,
    upward: bool,
) -> Decimal | None:
    """First zero met when t leaves `now` in one direction.

    Args:
        sizes: Absolute exposures.
        indices: The brackets at `now`.
        slope, constant: Of the piece that holds `now`; they follow the brackets from edge to edge.
        safe: Whether excess is positive at `now`.
    """
    step = 1 if upward else -1
    at = list(indices)
    edges = [found for i in range(len(legs)) if (found := _edge(legs, sizes, at, i, upward)) is not None]
    heapify(edges)
    here = now
    while True:
        edge = step * edges[0][0] if edges else None
        if slope:
            root = -constant / slope
            if upward and root >= here and (edge is None or root <= edge):
                return root
            if not upward and 0 < root <= here and (edge is None or root >= edge):
                return root
        if edge is None:
            return None
        safe_before = slope * edge + constant > 0
        while edges and step * edges[0][0] == edge:
            _, i = heappop(edges)
            left, entered = legs[i].table.brackets[at[i]], legs[i].table.brackets[at[i] + step]
            slope -= sizes[i] * (entered.rate - left.rate)
            constant += entered.amount - left.amount
            at[i] += step
            following = _edge(legs, sizes, at, i, upward)
            if following is not None:
                heappush(edges, following)
        if safe_before is not safe or (slope * edge + constant > 0) is not safe:
            return edge  # the table jumps here (or the root is within the last digit of the edge)
        here = edge


def _edge(
    legs: Sequence[Leg], sizes: Sequence[Decimal], at: Sequence[int], i: int, upward: bool
) -> tuple[Decimal, int] | None:
    """Where leg i leaves its bracket, as an entry of a heap whose first is the nearest; None: it never does."""
    brackets = legs[i].table.brackets
    into = at[i] + 1 if upward else at[i]
    if not sizes[i] or not 0 < into < len(brackets):
        return None
    edge = brackets[into].floor / sizes[i]
    return (edge if upward else -edge), i
