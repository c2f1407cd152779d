"""How far our figures are from the exchange's own, at the exchange's own marks.

Marks differ in time, so the pool is computed anew with the marks that came with the exchange's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from msgspec import Struct

from monitor.events import ExchangeFigures, PositionKey
from monitor.risk.assessment import assess
from monitor.risk.margin import ONE, ZERO
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms


class Drift(Struct, frozen=True):
    """The largest difference of each figure over the positions of a pool; all are fractions, ≥ 0.

    Args:
        liquidation_price: |ours − theirs| ÷ mark; 1 where only one of the two has a price. None: not compared. In
            multi-assets mode it follows from rates of collateral that do not come with the exchange's figures, and
            swings widely with them.
        maintenance_margin: |ours − theirs| ÷ notional; None: the exchange did not say.
        unrealized_pnl: Likewise.
    """

    liquidation_price: Decimal | None
    maintenance_margin: Decimal | None
    unrealized_pnl: Decimal

    @property
    def worst(self) -> Decimal:
        return max(self.liquidation_price or ZERO, self.maintenance_margin or ZERO, self.unrealized_pnl)


def drift(pool: Pool, figures: Mapping[PositionKey, ExchangeFigures], terms: Terms) -> Drift | None:
    """Our figures of a pool against the exchange's; None: it did not print all of them, or an input is unknown."""
    if any(p.key not in figures for p in pool.positions):
        return None
    marks = {p.symbol: figures[p.key].mark_price for p in pool.positions}
    if any(mark <= 0 for mark in marks.values()):
        return None
    risk = assess(pool, Terms(marks, terms.tables, terms.rates))
    return None if risk.missing else _compared(risk, figures)


def _compared(risk: PoolRisk, figures: Mapping[PositionKey, ExchangeFigures]) -> Drift:
    prices, margins, gains = [ZERO], [], [ZERO]
    for p in risk.positions:
        theirs = figures[p.position.key]
        notional = abs(p.notional or ZERO)  # nothing is missing, and a position of zero is none
        gains.append(abs((p.unrealized_pnl or ZERO) - theirs.unrealized_pnl) / notional)
        if theirs.maintenance_margin is not None:
            margins.append(abs((p.maintenance_margin or ZERO) - theirs.maintenance_margin) / notional)
        ours = p.liquidation_price
        if ours is not None and theirs.liquidation_price is not None:
            prices.append(abs(ours - theirs.liquidation_price) / theirs.mark_price)
        elif ours is not theirs.liquidation_price:
            prices.append(ONE)
    return Drift(None if risk.pool.assets else max(prices), max(margins, default=None), max(gains))
