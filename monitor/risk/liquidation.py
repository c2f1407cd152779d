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

from msgspec import Struct

from monitor.risk.margin import ZERO, BracketTable


class Leg(Struct, frozen=True):
    """One position as the solver sees it.

    Args:
        exposure: Signed; its absolute value times t is the notional.
        offset: What is added to exposure·t to give the unrealized PnL.
        table: Brackets of its symbol.
    """

    exposure: Decimal
    offset: Decimal
    table: BracketTable


class Crossings(Struct, frozen=True):
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
    indices = [leg.table.index(abs(leg.exposure) * now) for leg in legs]
    concave = all(leg.table.convex for leg in legs)
    safe = _excess(legs, indices, base, now) > 0
    if concave and safe:
        # A concave function that is positive now has no zero on a side at whose far end it is not negative.
        lowest = base + sum((leg.offset + leg.table.brackets[0].amount for leg in legs), ZERO)
        steepest = sum((leg.exposure - abs(leg.exposure) * leg.table.brackets[-1].rate for leg in legs), ZERO)
        below = None if lowest >= 0 else _walk(legs, list(indices), base, now, upward=False)
        above = None if steepest >= 0 else _walk(legs, list(indices), base, now, upward=True)
        return Crossings(below, above)
    return Crossings(
        _walk(legs, list(indices), base, now, upward=False),
        _walk(legs, list(indices), base, now, upward=True),
    )


def _line(legs: Sequence[Leg], indices: Sequence[int], base: Decimal) -> tuple[Decimal, Decimal]:
    """Slope and constant of the piece in which the legs are in these brackets."""
    slope, constant = ZERO, base
    for leg, index in zip(legs, indices, strict=True):
        bracket = leg.table.brackets[index]
        slope += leg.exposure - abs(leg.exposure) * bracket.rate
        constant += leg.offset + bracket.amount
    return slope, constant


def _excess(legs: Sequence[Leg], indices: Sequence[int], base: Decimal, t: Decimal) -> Decimal:
    slope, constant = _line(legs, indices, base)
    return slope * t + constant


def _walk(legs: Sequence[Leg], indices: list[int], base: Decimal, now: Decimal, upward: bool) -> Decimal | None:
    """First zero met when t leaves `now` in one direction. `indices` are the brackets at `now`; they are used up."""
    here = now
    positive = _excess(legs, indices, base, now) > 0
    while True:
        slope, constant = _line(legs, indices, base)
        edge, movers = _next_edge(legs, indices, upward)
        if slope:
            root = -constant / slope
            if upward and root >= here and (edge is None or root <= edge):
                return root
            if not upward and 0 < root <= here and (edge is None or root >= edge):
                return root
        if edge is None:
            return None
        for mover in movers:
            indices[mover] += 1 if upward else -1
        if (slope * edge + constant > 0) != positive or (_excess(legs, indices, base, edge) > 0) != positive:
            return edge  # the table jumps here (or the root is within the last digit of the edge)
        here = edge


def _next_edge(legs: Sequence[Leg], indices: Sequence[int], upward: bool) -> tuple[Decimal | None, list[int]]:
    """The nearest t at which some leg changes bracket, and which legs do."""
    nearest: Decimal | None = None
    movers: list[int] = []
    for i, (leg, index) in enumerate(zip(legs, indices, strict=True)):
        into = index + 1 if upward else index
        if not leg.exposure or into <= 0 or into >= len(leg.table.brackets):
            continue
        edge = leg.table.brackets[into].floor / abs(leg.exposure)
        if nearest is None or (edge < nearest if upward else edge > nearest):
            nearest, movers = edge, [i]
        elif edge == nearest:
            movers.append(i)
    return nearest, movers
