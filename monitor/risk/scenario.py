"""What a pool would be like if the market moved."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from monitor.risk import contracts
from monitor.risk.margin import ZERO, BracketTable, margin_ratio
from monitor.risk.report import PoolRisk

LADDER = tuple(Decimal(s) for s in ("-0.01", "-0.02", "-0.05", "-0.1", "-0.2", "-0.3", "-0.5"))
"""Relative moves of all marks for which a pool's ratio is published."""


def ratio_after(risk: PoolRisk, move: Decimal, tables: Mapping[str, BracketTable]) -> Decimal | None:
    """Margin ratio of a pool after a uniform relative move of all its marks; None: an input is unknown."""
    if risk.pool.wallet_balance is None or risk.margin_ratio is None:
        return None
    balance, maintenance = risk.pool.wallet_balance, ZERO
    for p in risk.positions:
        if p.mark_price is None:
            return None
        mark = p.mark_price * (1 + move)
        balance += contracts.unrealized_pnl(p.position, mark)
        maintenance += tables[p.position.symbol].maintenance_margin(abs(contracts.notional(p.position, mark)))
    return margin_ratio(maintenance, balance)
