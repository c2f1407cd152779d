"""The brackets of an account as given, and which reading of its multipliers is right: that is not documented."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from msgspec import Struct, structs

from monitor.digits import LAST_DIGITS
from monitor.events import BracketsRead, MarginsPrinted, PositionsRead
from monitor.risk.margin import ONE, BracketTable, bracket_table, scaled


class _Coef(Struct, frozen=True, gc=False):
    """A symbol's brackets with the account's multiplier.

    Args:
        is_scaled: Whether floors and amounts are to be multiplied by it; else the exchange has done so.
    """

    given: BracketTable
    coef: Decimal
    is_scaled: bool

    @property
    def table(self) -> BracketTable:
        return scaled(self.given, self.coef) if self.is_scaled else self.given


class Brackets:
    """What was last read of an account's brackets, by symbol; changed in place."""

    def __init__(self) -> None:
        self.tables: dict[str, BracketTable] = {}
        self._shape_faults: dict[str, str] = {}
        self._coef_faults: dict[str, str] = {}
        self._coefs: dict[str, _Coef] = {}

    @property
    def faults(self) -> dict[str, str]:
        """Symbol → what is the matter with its brackets."""
        return {**self._coef_faults, **self._shape_faults}

    def apply(self, event: BracketsRead) -> None:
        """Take bracket tables. What cannot be used is unknown from now on."""
        for symbol, rows in event.brackets.items():
            try:
                table = bracket_table(rows)
            except ValueError as exc:
                self.tables.pop(symbol, None)
                self._coefs.pop(symbol, None)
                self._shape_faults[symbol] = f"its brackets cannot be used: {exc}"
                continue
            coef = _Coef(table, event.coefs.get(symbol, ONE), False)
            known = self._coefs.get(symbol)
            if known is not None and (known.given, known.coef) == (coef.given, coef.coef):
                continue  # what has proved right of it stays
            self._coefs[symbol] = coef
            self._coef_faults.pop(symbol, None)  # the next snapshot holds the new ones against the exchange's margin
            self.tables[symbol] = coef.table
            if table.convex:
                self._shape_faults.pop(symbol, None)
            else:
                self._shape_faults[symbol] = "its brackets do not join up; they are used as given"

    def compare(self, event: PositionsRead | MarginsPrinted) -> None:
        """Choose the reading of each multiplier that reproduces the exchange's maintenance margin.

        Whether the brackets that come with a `notionalCoef` have it in them already is not documented.
        """
        for symbol, notional, margin in event.rows if isinstance(event, MarginsPrinted) else _printed(event):
            coef = self._coefs.get(symbol)
            if coef is None or coef.coef == ONE:
                continue
            readings = (coef, structs.replace(coef, is_scaled=not coef.is_scaled))
            right = [r for r in readings if _agrees(r.table.maintenance_margin(notional), margin)]
            if not right:
                self._coef_faults[symbol] = (
                    f"no reading of its notionalCoef {coef.coef} gives the maintenance margin that the exchange prints"
                )
                continue
            self._coef_faults.pop(symbol, None)
            if right[0] is not coef:
                self._coefs[symbol] = right[0]
                self.tables[symbol] = right[0].table


def _printed(event: PositionsRead) -> Iterator[tuple[str, Decimal, Decimal]]:
    """Symbol, notional and maintenance margin of each row that has one."""
    for position, figures in event.rows:
        if figures is not None and figures.maintenance_margin is not None:
            yield position.symbol, abs(position.quantity * figures.mark_price), figures.maintenance_margin


def _agrees(ours: Decimal, theirs: Decimal) -> bool:
    """Whether two maintenance margins are the same as far as the exchange prints them: it cuts off after 8 decimals,
    and may have cut the notional before."""
    return abs(ours - theirs) < LAST_DIGITS
