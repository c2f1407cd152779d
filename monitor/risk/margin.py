"""Maintenance margin by bracket, and the margin ratio.

Source: Binance Support, "Leverage and Margin of USDⓈ-M Futures" and "Liquidation Protocols".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import pairwise

import msgspec
from msgspec import Struct

from monitor.events import Bracket

ZERO, ONE = Decimal(0), Decimal(1)
RATIO_CAP = Decimal(10)
"""Published margin ratio of a pool whose margin balance is gone; also the largest that is published at all."""


class BracketTable(Struct, frozen=True, dict=True):
    """The margin tiers of one symbol, floors rising.

    Args:
        convex: Rates rise and maintenance margin has no jump at an edge, as in every table seen in the wild. Then
            maintenance margin is the largest of the bracket lines, and the solver may take shortcuts.
    """

    brackets: tuple[Bracket, ...]
    convex: bool

    def index(self, notional: Decimal) -> int:
        """Which bracket holds at this absolute notional; an edge belongs to the lower one, the last has no end."""
        return bisect_left(self._floors, notional, 1) - 1

    @cached_property
    def _floors(self) -> tuple[Decimal, ...]:
        return tuple(bracket.floor for bracket in self.brackets)

    @cached_property
    def worth_of_longs(self) -> tuple[Decimal, ...]:
        """Notional minus maintenance margin at the floor of each bracket."""
        return tuple(b.floor - (b.floor * b.rate - b.amount) for b in self.brackets)

    @cached_property
    def cost_of_shorts(self) -> tuple[Decimal, ...]:
        """Notional plus maintenance margin at the floor of each bracket."""
        return tuple(b.floor + (b.floor * b.rate - b.amount) for b in self.brackets)

    @cached_property
    def is_gentle(self) -> bool:
        """Whether maintenance margin grows with the notional, by less than it and never by a jump."""
        return self.convex and self.brackets[0].rate >= 0 and self.brackets[-1].rate < 1

    @cached_property
    def encoded(self) -> msgspec.Raw:
        """As it is kept, in every baseline that it is part of."""
        return msgspec.Raw(msgspec.json.encode(self))

    def maintenance_margin(self, notional: Decimal) -> Decimal:
        """notional × rate − amount of the bracket in force (margin asset, ≥ 0 for sound tables).

        Args:
            notional: Absolute, at mark price.
        """
        bracket = self.brackets[self.index(notional)]
        return notional * bracket.rate - bracket.amount


def bracket_table(brackets: Sequence[Bracket]) -> BracketTable:
    """A symbol's brackets as given, with the answer to whether they join up.

    Raises:
        ValueError: There are none, or their floors do not rise.
    """
    return _bracket_table(tuple(brackets))


@lru_cache(maxsize=4096)
def _bracket_table(brackets: tuple[Bracket, ...]) -> BracketTable:
    """One table for all accounts that have the same."""
    if not brackets:
        raise ValueError("no brackets")
    convex = True
    for low, high in pairwise(brackets):
        if high.floor <= low.floor:
            raise ValueError(f"bracket floors do not rise at {high.floor}")
        joins = high.amount - low.amount == high.floor * (high.rate - low.rate)
        convex = convex and joins and high.rate >= low.rate
    return BracketTable(brackets, convex)


def scaled(table: BracketTable, by: Decimal) -> BracketTable:
    """Brackets of which every edge lies so many times as high; the rates are the same, the amounts grow alike."""
    brackets = (Bracket(b.number, b.floor * by, b.rate, b.amount * by) for b in table.brackets)
    return BracketTable(tuple(brackets), table.convex)


NO_MARGIN = BracketTable((Bracket(0, ZERO, ZERO, ZERO),), True)
"""A table without any maintenance margin: what is solved with it is the bankruptcy price."""


def margin_ratio(maintenance_margin: Decimal, margin_balance: Decimal) -> Decimal:
    """Maintenance margin ÷ margin balance: a fraction, 1 is liquidation, higher is worse.

    A margin balance of zero or less with margin required is past liquidation: the cap of 10, never negative.
    Source: Binance Support, "Liquidation Protocols", margin ratio.
    """
    if maintenance_margin <= 0:
        return ZERO if margin_balance >= 0 else RATIO_CAP
    if margin_balance <= 0:
        return RATIO_CAP
    return min(maintenance_margin / margin_balance, RATIO_CAP)
