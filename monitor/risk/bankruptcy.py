"""Where a pool is bankrupt: the mark at which nothing is left of its margin balance."""

from __future__ import annotations

from decimal import Decimal

from monitor.events import PositionKey
from monitor.risk import collateral, contracts
from monitor.risk.liquidation import crossings, nearest
from monitor.risk.margin import NO_MARGIN, ZERO
from monitor.risk.report import PoolRisk


def bankruptcy_price(risk: PoolRisk, key: PositionKey) -> Decimal | None:
    """Mark price of this symbol at which the pool's margin balance reaches 0, other marks held still.

    None: it never does, or an input is unknown. The nearer one to the mark where a hedged pair has two.
    """
    if risk.margin_balance is None:
        return None
    rows = [
        (p, own, mark)
        for p, own, mark in zip(risk.pool.positions, risk.own, risk.marks, strict=True)
        if p.symbol == key.symbol
    ]
    here, mark_price = next((p, mark) for p, _, mark in rows if p.side is key.side)
    if mark_price is None:
        return None
    purse = risk.purses[risk.pool.margin_asset(here)]
    still = purse.equity - sum((own.unrealized_pnl for _, own, _ in rows), ZERO)
    legs, base = collateral.valued([contracts.leg(p, NO_MARGIN) for p, _, _ in rows], still, purse.rate)
    base += risk.margin_balance - collateral.value(purse.equity, purse.rate)
    found = crossings(legs, base, contracts.variable(here, mark_price))
    return nearest(contracts.prices(here, found), mark_price)
