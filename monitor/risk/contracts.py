"""Linear and inverse contracts, each a straight line in one variable t.

    linear, settled in the quote asset:  t = mark      exposure = quantity           offset = −quantity × entry
    inverse, settled in the base asset:  t = 1 ÷ mark  exposure = −contracts × size  offset = contracts × size ÷ entry

In both, unrealized PnL = exposure × t + offset, and the notional, in the margin asset, is |exposure| × t. Whatever is
solved in t holds for both; below in one is above in the other.

Source: Binance Support, "How to Calculate Liquidation Price of USDⓈ-M" and "… of COIN-M Futures Contracts".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from monitor.events import Contract, Position
from monitor.risk.liquidation import Crossings, Leg
from monitor.risk.margin import ONE, BracketTable


def leg(position: Position, table: BracketTable) -> Leg:
    """A position as the solver sees it."""
    size = position.contract_size
    if size is None:
        return Leg(position.quantity, -position.quantity * position.entry_price, table)
    value = position.quantity * size
    return Leg(-value, value / position.entry_price, table)


def leg_by_factor(position: Position, mark: Decimal, table: BracketTable) -> Leg:
    """A position's leg where t is the factor on all marks."""
    alone = leg(position, table)
    return Leg(alone.exposure * variable(position, mark), alone.offset, alone.table)


def variable(position: Position, mark_price: Decimal) -> Decimal:
    """t at this mark."""
    return mark_price if position.contract_size is None else ONE / mark_price


def prices(position: Position, found: Crossings) -> Crossings:
    """Solutions in t as mark prices."""
    if position.contract_size is None:
        return found
    return Crossings(_inverted(found.above), _inverted(found.below))


def notional(position: Position, mark_price: Decimal) -> Decimal:
    """Signed value of a position (margin asset): quantity × mark, or contracts × size ÷ mark."""
    if position.contract_size is None:
        return position.quantity * mark_price
    return position.quantity * position.contract_size / mark_price


def unrealized_pnl(position: Position, mark_price: Decimal) -> Decimal:
    """PnL at mark, positive a gain (margin asset).

    quantity × (mark − entry), or contracts × size × (1 ÷ entry − 1 ÷ mark).
    """
    if position.contract_size is None:
        return position.quantity * (mark_price - position.entry_price)
    return position.quantity * position.contract_size * (ONE / position.entry_price - ONE / mark_price)


def quantity_unit(position: Position, contract: Contract | None) -> str:
    """What a quantity counts: the base asset, or of inverse contracts the contracts."""
    if position.contract_size is not None:
        return "contract"
    return position.symbol if contract is None else contract.base_asset


def unknowns(position: Position, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable]) -> Sequence[str]:
    """What must be known of a position and is not, such as `mark BTCUSDT`."""
    symbol, size = position.symbol, position.contract_size
    if size is None and position.entry_price > 0 and symbol in marks and symbol in tables:
        return ()  # as most are
    found = []
    if symbol not in marks:
        found.append(f"mark {symbol}")
    if symbol not in tables:
        found.append(f"brackets {symbol}")
    if size == 0:
        found.append(f"contract {symbol}")
    if position.entry_price <= 0:
        found.append(f"entry {symbol}")
    return found


def _inverted(t: Decimal | None) -> Decimal | None:
    return None if t is None else ONE / t
