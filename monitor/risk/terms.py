"""What pools are valued with, apart from what they hold: mark prices, brackets, and rates of collateral assets."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from msgspec import Struct

from monitor.events import AssetRate
from monitor.risk.margin import BracketTable


class Terms(Struct, frozen=True):
    """The mappings may be views of a book that changes; who needs a moment to stand still takes a copy.

    Args:
        marks: Symbol → mark price (quote per base).
        tables: Symbol → brackets.
        rates: Asset → what it is worth as collateral (USD); asked for in multi-assets mode alone.
    """

    marks: Mapping[str, Decimal]
    tables: Mapping[str, BracketTable]
    rates: Mapping[str, AssetRate] = {}
