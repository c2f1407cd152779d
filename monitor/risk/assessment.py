"""From a pool and what it is valued with to its risk: what is unknown, or else the sums, made at once."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from monitor.events import AssetRate, Position
from monitor.risk import collateral, contracts
from monitor.risk.collateral import PAR, Purse
from monitor.risk.margin import ZERO, BracketTable, margin_ratio
from monitor.risk.pool import Pool
from monitor.risk.report import Own, PoolRisk
from monitor.risk.terms import Terms


def assess(pool: Pool, terms: Terms) -> PoolRisk:
    """The risk of a pool at these marks, brackets and rates."""
    marks = tuple([terms.marks.get(p.symbol) for p in pool.positions])
    tables = tuple([terms.tables.get(p.symbol) for p in pool.positions])
    missing = unknowns(pool, terms)
    if missing:
        return PoolRisk(pool, marks, tables, missing, wallet_balance=None if pool.assets else pool.wallet_balance)
    return _summed(pool, marks, tables, tuple(map(_own_figures, pool.positions, marks, tables)), terms)


def with_wallets(risk: PoolRisk, wallets: Mapping[str, Decimal], terms: Terms) -> PoolRisk:
    """The risk of a pool with other wallets (asset → balance)."""
    pool = risk.pool.with_wallets(wallets)
    if risk.missing or not risk.is_of(risk.pool, terms):
        return assess(pool, terms)
    return _summed(pool, risk.marks, risk.tables, risk.own, terms)


def _summed(
    pool: Pool,
    marks: tuple[Decimal | None, ...],
    tables: tuple[BracketTable | None, ...],
    own: tuple[Own, ...],
    terms: Terms,
) -> PoolRisk:
    """The risk of a pool of which nothing is missing, from its positions' own figures."""
    purses = opened(pool, terms.rates)
    if pool.assets:
        for p, figures in zip(pool.positions, own, strict=True):
            purse = purses[pool.margin_asset(p)]
            purse.unrealized_pnl += figures.unrealized_pnl
            purse.maintenance_margin += figures.maintenance_margin
        wallet = sum([collateral.value(purse.wallet_balance, purse.rate) for purse in purses.values()], ZERO)
        maintenance = collateral.maintenance_margin(purses.values())
        balance = collateral.margin_balance(purses.values())
    else:  # at par
        purse = purses[pool.asset]
        purse.unrealized_pnl = sum([figures.unrealized_pnl for figures in own], ZERO)
        purse.maintenance_margin = sum([figures.maintenance_margin for figures in own], ZERO)
        wallet, maintenance, balance = purse.wallet_balance, purse.maintenance_margin, purse.equity
    bankrupt = bool(pool.positions) and balance <= 0
    return PoolRisk(
        pool=pool,
        marks=marks,
        tables=tables,
        missing=(),
        own=own,
        purses=purses,
        wallet_balance=wallet,
        maintenance_margin=maintenance,
        margin_balance=balance,
        margin_ratio=margin_ratio(maintenance, balance),
        excess=balance - maintenance,
        bankrupt=bankrupt,
        is_past=bankrupt or (bool(pool.positions) and balance <= maintenance),
    )


def opened(pool: Pool, rates: Mapping[str, AssetRate]) -> dict[str, Purse]:
    """The collateral of a pool of which nothing is missing, by asset, without its positions."""
    if not pool.assets:
        return {pool.asset: Purse(PAR, pool.wallet_balance or ZERO)}
    return {wallet.asset: Purse(rates[wallet.asset], wallet.wallet_balance) for wallet in pool.assets}


def unknowns(pool: Pool, terms: Terms) -> tuple[str, ...]:
    """What must be known of a pool and is not."""
    missing = [what for p in pool.positions for what in contracts.unknowns(p, terms.marks, terms.tables)]
    if pool.wallet_balance is None:
        missing.append(f"balance {pool.asset}")
    missing += [f"rate {wallet.asset}" for wallet in pool.assets if wallet.asset not in terms.rates]
    return tuple(missing)


def _own_figures(position: Position, mark: Decimal | None, table: BracketTable | None) -> Own:
    assert mark is not None
    assert table is not None
    notional = contracts.notional(position, mark)
    return Own(notional, contracts.unrealized_pnl(position, mark), table.maintenance_margin(abs(notional)))
