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

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from heapq import heapify, heappop, heappush

from msgspec import Struct

from monitor.risk.margin import ZERO, BracketTable


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


def crossings(legs: Sequence[Leg], base: Decimal, now: Decimal) -> Crossings:
    """Nearest solutions of excess(t) = 0 at or below `now`, and at or above it.

    Args:
        legs: The positions that move with t.
        base: Wallet balance, plus unrealized PnL minus maintenance margin of the positions that do not.
        now: The present t, > 0.
    """
    if len(legs) == 1:
        return _of_one(legs[0], base, now)
    sizes = [abs(leg.exposure) for leg in legs]
    indices = [leg.table.index(size * now) for leg, size in zip(legs, sizes, strict=True)]
    slope, constant = ZERO, base
    for leg, size, index in zip(legs, sizes, indices, strict=True):
        bracket = leg.table.brackets[index]
        slope += leg.exposure - size * bracket.rate
        constant += leg.offset + bracket.amount
    safe = slope * now + constant > 0
    down = up = True
    if safe and all(leg.table.convex for leg in legs):
        # A concave function that is positive now has no zero on a side at whose far end it is not negative.
        lowest = base + sum((leg.offset + leg.table.brackets[0].amount for leg in legs), ZERO)
        steepest = sum((leg.exposure - abs(leg.exposure) * leg.table.brackets[-1].rate for leg in legs), ZERO)
        down, up = lowest < 0, steepest < 0
    walk = partial(_walk, legs, sizes, indices, slope, constant, now, safe)
    return Crossings(walk(upward=False) if down else None, walk(upward=True) if up else None)


def _of_one(leg: Leg, base: Decimal, now: Decimal) -> Crossings:
    """The same of a single leg, which is what most symbols have."""
    exposure, brackets, constant = leg.exposure, leg.table.brackets, base + leg.offset
    size = abs(exposure)
    at = leg.table.index(size * now)
    safe = (exposure - size * brackets[at].rate) * now + constant + brackets[at].amount > 0
    down = up = True
    if safe and leg.table.convex:
        down = constant + brackets[0].amount < 0
        up = exposure - size * brackets[-1].rate < 0
    first_zero = partial(_first_zero, leg, size, constant, at, now, safe)
    return Crossings(first_zero(upward=False) if down else None, first_zero(upward=True) if up else None)


def _first_zero(
    leg: Leg, size: Decimal, base: Decimal, at: int, now: Decimal, safe: bool, *, upward: bool
) -> Decimal | None:
    """First zero met when t leaves `now`, where bracket `at` holds; `base` counts the leg's offset."""
    brackets, step, here = leg.table.brackets, 1 if upward else -1, now
    slope, constant = leg.exposure - size * brackets[at].rate, base + brackets[at].amount
    while True:
        into = at + 1 if upward else at
        edge = brackets[into].floor / size if size and 0 < into < len(brackets) else None
        if slope:
            root = -constant / slope
            if upward and root >= here and (edge is None or root <= edge):
                return root
            if not upward and 0 < root <= here and (edge is None or root >= edge):
                return root
        if edge is None:
            return None
        safe_before = slope * edge + constant > 0
        at += step
        slope, constant = leg.exposure - size * brackets[at].rate, base + brackets[at].amount
        if safe_before is not safe or (slope * edge + constant > 0) is not safe:
            return edge  # the table jumps here (or the root is within the last digit of the edge)
        here = edge


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
