"""What a pool would be like if the market moved."""

from __future__ import annotations

from decimal import Decimal

from monitor.risk import collateral, contracts
from monitor.risk.assessment import opened
from monitor.risk.margin import margin_ratio
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms

LADDER = tuple(Decimal(s) for s in ("-0.01", "-0.02", "-0.05", "-0.1", "-0.2", "-0.3", "-0.5"))
"""Relative moves of all marks for which a pool's ratio is published."""


def ratio_after(risk: PoolRisk, move: Decimal, terms: Terms) -> Decimal | None:
    """Margin ratio of a pool after a uniform relative move of all its marks; None: an input is unknown."""
    if risk.margin_ratio is None:
        return None
    pool = risk.pool
    purses = opened(pool, {asset: purse.rate for asset, purse in risk.purses.items()})
    for p, at in zip(pool.positions, risk.marks, strict=True):
        if at is None:
            return None
        mark = at * (1 + move)
        purse = purses[pool.margin_asset(p)]
        purse.unrealized_pnl += contracts.unrealized_pnl(p, mark)
        purse.maintenance_margin += terms.tables[p.symbol].maintenance_margin(abs(contracts.notional(p, mark)))
    return margin_ratio(collateral.maintenance_margin(purses.values()), collateral.margin_balance(purses.values()))
