"""What would put a pool right: the margin to add, or the quantity to reduce."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from monitor.risk import ROOMY, collateral
from monitor.risk.margin import ZERO, BracketTable
from monitor.risk.report import PoolRisk, PositionRisk

TRANSFER_STEP = Decimal("0.00000001")


def margin_to_add(risk: PoolRisk, to_ratio: Decimal, asset: str | None = None) -> Decimal | None:
    """Smallest transfer into the pool (asset, 8 decimals) after which its ratio is at most `to_ratio`.

    (maintenance margin ÷ to_ratio − margin balance) ÷ rate of the asset. None: nothing is needed, an input is unknown,
    or the asset counts for nothing.

    Args:
        asset: One of the pool's; the pool's own where none is named.
    """
    if risk.maintenance_margin is None or risk.margin_balance is None or to_ratio <= 0:
        return None
    worth = max(risk.maintenance_margin, ZERO) / to_ratio - risk.margin_balance  # brackets may make no sense
    purse = risk.purses[asset or risk.pool.asset]
    amount = collateral.amount_worth(worth, purse.equity, purse.rate) if worth > 0 else None
    return None if amount is None else amount.quantize(TRANSFER_STEP, ROUND_CEILING, ROOMY)


def quantity_to_reduce(
    risk: PoolRisk, position: PositionRisk, to_ratio: Decimal, table: BracketTable, step: Decimal | None
) -> Decimal | None:
    """Smallest part of a position (positive, in steps) to close at mark after which the ratio is at most `to_ratio`.

    Closing at mark leaves the margin balance as it is and takes maintenance margin away; commission is not counted.
    None: not even closing all of it is enough, nothing is needed, or an input is unknown.
    """
    if (
        risk.maintenance_margin is None
        or risk.margin_balance is None
        or position.maintenance_margin is None
        or not position.notional
        or risk.margin_balance <= 0
    ):
        return None
    rate = risk.rate(position.position)
    others = risk.maintenance_margin - collateral.cost(position.maintenance_margin, rate)
    allowed = (to_ratio * risk.margin_balance - others) / rate.ask
    quantity = abs(position.position.quantity)
    if allowed < 0 or position.maintenance_margin <= allowed:
        return None
    unit = abs(position.notional) / quantity
    kept = _notional_with(table, allowed, abs(position.notional)) / unit
    lot = step or TRANSFER_STEP
    closed = min(quantity, _rounded_up(quantity - kept, lot))
    for enough in (closed, min(quantity, closed + lot)):  # a quotient's last digit may cost one lot more
        if table.maintenance_margin((quantity - enough) * unit) <= allowed:
            return enough
    return None


def _notional_with(table: BracketTable, maintenance_margin: Decimal, at_most: Decimal) -> Decimal:
    """Largest notional up to `at_most` whose maintenance margin is at most this."""
    best = ZERO
    for i, bracket in enumerate(table.brackets):
        if bracket.floor >= at_most:
            break
        last = i + 1 == len(table.brackets)
        top = at_most if last else min(at_most, table.brackets[i + 1].floor)
        reach = top if not bracket.rate else min(top, (maintenance_margin + bracket.amount) / bracket.rate)
        if reach > bracket.floor:
            best = reach
    return best


def _rounded_up(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(rounding=ROUND_CEILING) * step
