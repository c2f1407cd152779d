"""Small builders that several test files share."""

from __future__ import annotations

from decimal import Decimal

from monitor.events import Bracket, Position, Side
from monitor.risk.margin import BracketTable, bracket_table
from monitor.risk.pool import Pool

D = Decimal


def table(*rows: tuple[str, str, str]) -> BracketTable:
    """Brackets from (floor, rate, amount)."""
    return bracket_table([Bracket(i + 1, D(f), D(r), D(a)) for i, (f, r, a) in enumerate(rows)])


def position(
    symbol: str,
    quantity: str,
    entry: str,
    *,
    isolated_wallet: str = "0",
    side: Side = Side.BOTH,
    isolated: bool = False,
    at_ms: int = 0,
) -> Position:
    return Position(symbol, side, D(quantity), D(entry), isolated, D(isolated_wallet), at_ms, "USDT")


def pool(wallet: str, *positions: Position) -> Pool:
    return Pool("main", "cross-usdt", "USDT", False, D(wallet), positions)
