"""What the coming funding will do: payments, and the pool after them.

    payment = − rate × notional      positive rate: longs pay shorts; in the margin asset of the position

Only positions that are open at the instant pay or receive. All payments of one instant count together, at present
marks and at the running estimate of the rate.

Source: Binance Support, "Introduction to Binance Futures Funding Rates".
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from msgspec import Struct, structs

from monitor.events import Position, PositionKey
from monitor.risk import collateral, contracts
from monitor.risk.assessment import with_wallets
from monitor.risk.margin import ZERO, margin_ratio
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms


class Funding(Struct, frozen=True):
    """What a symbol's funding will be, as far as is known now.

    Args:
        rate: Running estimate, a fraction of the notional.
        next_ms: When it is charged.
    """

    rate: Decimal
    next_ms: int


class Forecast(Struct, frozen=True):
    """One funding instant of a pool.

    Args:
        payments: What each position will pay (negative) or receive (its margin asset).
        amount: All payments together: the change of the margin balance (the pool's asset).
        margin_ratio: Of the pool with all of them paid, at present marks.
    """

    next_ms: int
    payments: dict[PositionKey, Decimal]
    amount: Decimal
    margin_ratio: Decimal


def payment(position: Position, mark_price: Decimal, rate: Decimal) -> Decimal:
    """Change of the wallet at funding (margin asset): negative, it is paid."""
    return -rate * contracts.notional(position, mark_price)


def forecast(risk: PoolRisk, fundings: Mapping[str, Funding]) -> Forecast | None:
    """The next funding instant of a pool; None: it has none, or an input is unknown.

    Args:
        fundings: Symbol → what is known of its funding; what is delivered has none.
    """
    pool = risk.pool
    times = [fundings[p.symbol].next_ms for p in pool.positions if p.symbol in fundings]
    if not times or risk.margin_balance is None or risk.maintenance_margin is None:
        return None
    next_ms = min(times)
    payments = {}
    purses = {asset: structs.replace(purse) for asset, purse in risk.purses.items()}
    for p, own in zip(pool.positions, risk.own, strict=True):
        funding = fundings.get(p.symbol)
        if funding is not None and funding.next_ms == next_ms:
            payments[p.key] = paid = -funding.rate * own.notional
            purses[pool.margin_asset(p)].wallet_balance += paid
    balance = collateral.margin_balance(purses.values())
    ratio = margin_ratio(risk.maintenance_margin, balance)
    return Forecast(next_ms, payments, balance - risk.margin_balance, ratio)


def after(risk: PoolRisk, coming: Forecast, terms: Terms) -> PoolRisk:
    """A pool with all payments made, at present marks."""
    wallets = risk.pool.wallets or {}
    for p in risk.pool.positions:
        wallets[risk.pool.margin_asset(p)] += coming.payments.get(p.key, ZERO)
    return with_wallets(risk, wallets, terms)
