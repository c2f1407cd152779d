"""From collateral and positions to the risk of a margin pool.

A pool is collateral and the positions that are liquidated with it. It does not know what kind it is: the cross
positions of one margin asset share a wallet, an isolated position has its own, in multi-assets mode all share all
assets, and all are computed alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec import Struct, structs

from monitor.events import AssetRate, Bracket, Position, PositionKey
from monitor.risk import collateral, contracts
from monitor.risk.collateral import PAR, Purse
from monitor.risk.liquidation import Crossings, Leg, crossings
from monitor.risk.margin import NO_MARGIN, ZERO, BracketTable, margin_ratio
from monitor.risk.terms import Terms

ONE = Decimal(1)
NOWHERE = Crossings(None, None)


class AssetWallet(Struct, frozen=True):
    """One asset that is collateral of a pool with several."""

    asset: str
    wallet_balance: Decimal


class Pool(Struct, frozen=True):
    """Collateral and the positions that are liquidated with it; its totals are in `asset`.

    Args:
        id: `cross-<asset>`, `isolated-<symbol>[-long|-short]` or `multi-assets`.
        asset: The margin asset; USD where several assets are collateral.
        wallet_balance: Cross wallet balance of the asset, or the isolated wallet of the one position; None: unknown.
            Where several assets are collateral it is what is held in USD itself: nothing.
        positions: All of them open.
        assets: The collateral where there are several assets, each valued at its rate; empty: all is in `asset`.
    """

    account: str
    id: str
    asset: str
    isolated: bool
    wallet_balance: Decimal | None
    positions: tuple[Position, ...]
    assets: tuple[AssetWallet, ...] = ()

    @property
    def wallets(self) -> dict[str, Decimal] | None:
        """Asset → wallet balance (asset); None: unknown."""
        if self.wallet_balance is None:
            return None
        return {wallet.asset: wallet.wallet_balance for wallet in self.assets} or {self.asset: self.wallet_balance}

    def with_wallets(self, wallets: Mapping[str, Decimal]) -> Pool:
        """The same pool with other balances."""
        if not self.assets:
            return structs.replace(self, wallet_balance=wallets[self.asset])
        return structs.replace(self, assets=tuple(AssetWallet(*wallet) for wallet in sorted(wallets.items())))

    def margin_asset(self, position: Position) -> str:
        """The asset that a position's own figures are in."""
        return (position.margin_asset or self.asset) if self.assets else self.asset


class PositionRisk(Struct, frozen=True, gc=False):
    """What one position adds to its pool, and where it is liquidated.

    Args:
        notional: Signed, at mark price (margin asset). This and all that follows: None while an input is unknown.
        maintenance_margin: ≥ 0 (margin asset).
        room_to_next: Notional left until the next bracket; None in the last one.
        liquidation: The price on each side of the mark at which the pool's ratio reaches 1, other marks held still.
        liquidation_price: The nearer of the two (quote per base).
        reason: Why there is no liquidation price; None where there is one.
        distance: |mark − liquidation price| ÷ mark, a fraction; 0 at or past liquidation; None: there is no price.
    """

    position: Position
    mark_price: Decimal | None
    notional: Decimal | None
    unrealized_pnl: Decimal | None
    maintenance_margin: Decimal | None
    bracket: Bracket | None
    room_to_next: Decimal | None
    liquidation: Crossings
    liquidation_price: Decimal | None
    reason: str | None
    distance: Decimal | None

    @property
    def is_long(self) -> bool:
        return self.position.quantity > 0


class PoolRisk(Struct, frozen=True):
    """The risk of a pool at one moment.

    Args:
        wallet_balance: Of all its collateral. This and all that follows: None while an input is unknown.
        unrealized_pnl: Of all its positions at mark: what they add to the wallet balance.
        maintenance_margin: Of all its positions.
        margin_balance: Wallet balance plus unrealized PnL.
        margin_ratio: Maintenance margin ÷ margin balance; 1 is liquidation; at most 10.
        bankrupt: Margin balance ≤ 0 with positions open.
        market_distance: Uniform relative move of all marks, down and up, at which the ratio reaches 1; None: none.
        closest: The position nearest to its liquidation price; None: none has one.
        distance: The smaller of market distance and the closest position's; 0 at or past liquidation; None: none.
        missing: What is unknown, such as `mark BTCUSDT`.
        purses: Asset → its part in the figures.
    """

    pool: Pool
    positions: tuple[PositionRisk, ...]
    wallet_balance: Decimal | None
    unrealized_pnl: Decimal | None
    maintenance_margin: Decimal | None
    margin_balance: Decimal | None
    margin_ratio: Decimal | None
    bankrupt: bool
    market_distance: Crossings
    closest: PositionRisk | None
    distance: Decimal | None
    missing: tuple[str, ...]
    purses: Mapping[str, Purse] = {}

    def rate(self, position: Position) -> AssetRate:
        """What the asset of a position's own figures is worth in the asset of the pool."""
        return self.purses[self.pool.margin_asset(position)].rate


def assess(pool: Pool, terms: Terms) -> PoolRisk:
    """The risk of a pool at these marks, brackets and rates."""
    marks, tables = terms.marks, terms.tables
    missing = unknowns(pool, terms)
    if missing:
        return _incomplete(pool, terms, missing)
    own = [_own_figures(p, marks[p.symbol], tables[p.symbol]) for p in pool.positions]
    purses = opened(pool, terms.rates)
    for p, (_, pnl, maintenance) in zip(pool.positions, own, strict=True):
        purse = purses[pool.margin_asset(p)]
        purse.unrealized_pnl += pnl
        purse.maintenance_margin += maintenance
    maintenance = collateral.maintenance_margin(purses.values())
    balance = collateral.margin_balance(purses.values())
    wallet = sum((collateral.value(purse.wallet_balance, purse.rate) for purse in purses.values()), ZERO)
    past = bool(pool.positions) and balance <= maintenance
    solved = _solve_symbols(pool, terms, balance - maintenance, own, purses)
    positions = tuple(
        _position_risk(p, marks[p.symbol], figures, tables[p.symbol], solved[p.symbol], past)
        for p, figures in zip(pool.positions, own, strict=True)
    )
    closest = min((p for p in positions if p.distance is not None), key=_nearness, default=None)
    market = _market_distance(pool, terms, solved, purses)
    distances = [d for d in (market.below, market.above, closest.distance if closest else None) if d is not None]
    return PoolRisk(
        pool=pool,
        positions=positions,
        wallet_balance=wallet,
        unrealized_pnl=balance - wallet,
        maintenance_margin=maintenance,
        margin_balance=balance,
        margin_ratio=margin_ratio(maintenance, balance),
        bankrupt=bool(pool.positions) and balance <= 0,
        market_distance=NOWHERE if past else market,
        closest=closest,
        distance=ZERO if past else min(distances, default=None),
        missing=(),
        purses=purses,
    )


def opened(pool: Pool, rates: Mapping[str, AssetRate]) -> dict[str, Purse]:
    """The collateral of a pool of which nothing is missing, by asset, without its positions."""
    if not pool.assets:
        return {pool.asset: Purse(PAR, pool.wallet_balance or ZERO)}
    return {wallet.asset: Purse(rates[wallet.asset], wallet.wallet_balance) for wallet in pool.assets}


def bankruptcy_price(risk: PoolRisk, key: PositionKey) -> Decimal | None:
    """Mark price of this symbol at which the pool's margin balance reaches 0, other marks held still.

    None: it never does, or an input is unknown. The nearer one to the mark where a hedged pair has two.
    """
    if risk.margin_balance is None:
        return None
    rows = [p for p in risk.positions if p.position.symbol == key.symbol]
    here = next(p for p in rows if p.position.side is key.side)
    if here.mark_price is None:
        return None
    purse = risk.purses[risk.pool.margin_asset(here.position)]
    still = purse.equity - sum((p.unrealized_pnl or ZERO for p in rows), ZERO)
    legs, base = collateral.valued([contracts.leg(p.position, NO_MARGIN) for p in rows], still, purse.rate)
    base += risk.margin_balance - collateral.value(purse.equity, purse.rate)
    found = crossings(legs, base, contracts.variable(here.position, here.mark_price))
    return nearest(contracts.prices(here.position, found), here.mark_price)


def nearest(prices: Crossings, mark_price: Decimal) -> Decimal | None:
    """The one of two prices that is nearer to the mark."""
    known = [price for price in (prices.below, prices.above) if price is not None]
    return min(known, key=lambda price: abs(price - mark_price), default=None)


def _nearness(risk: PositionRisk) -> tuple[Decimal, bool, Decimal]:
    """The nearest first; of a pool past liquidation, where all are at 0, the largest that has a price."""
    return risk.distance or ZERO, risk.liquidation_price is None, -(risk.maintenance_margin or ZERO)


_Own = tuple[Decimal, Decimal, Decimal]
"""Signed notional, unrealized PnL and maintenance margin of one position."""


def _own_figures(position: Position, mark: Decimal, table: BracketTable) -> _Own:
    notional = contracts.notional(position, mark)
    return notional, contracts.unrealized_pnl(position, mark), table.maintenance_margin(abs(notional))


def _solve_symbols(
    pool: Pool, terms: Terms, excess: Decimal, own: Sequence[_Own], purses: Mapping[str, Purse]
) -> dict[str, Crossings]:
    """For each symbol, the marks at which the pool is liquidated; the legs of a hedged pair move together."""
    rows: dict[str, list[tuple[Position, _Own]]] = {}
    for p, figures in zip(pool.positions, own, strict=True):
        rows.setdefault(p.symbol, []).append((p, figures))
    solved: dict[str, Crossings] = {}
    for symbol, held in rows.items():
        first, _ = held[0]
        purse = purses[pool.margin_asset(first)]
        moving = [contracts.leg(p, terms.tables[symbol]) for p, _ in held]
        pnl = sum((figures[1] for _, figures in held), ZERO)
        maintenance = sum((figures[2] for _, figures in held), ZERO)
        legs, base = collateral.valued(moving, purse.equity - pnl, purse.rate)
        base += excess - collateral.value(purse.equity, purse.rate) + collateral.cost(maintenance, purse.rate)
        found = crossings(legs, base, contracts.variable(first, terms.marks[symbol]))
        solved[symbol] = contracts.prices(first, found)
    return solved


def _market_distance(
    pool: Pool, terms: Terms, solved: Mapping[str, Crossings], purses: Mapping[str, Purse]
) -> Crossings:
    """Relative moves, both positive, of all marks alike; of one symbol it is that symbol's own distance."""
    if not solved:
        return NOWHERE
    if len(solved) == 1:
        [(symbol, prices)] = solved.items()
        mark = terms.marks[symbol]
        return Crossings(
            None if prices.below is None else ONE - prices.below / mark,
            None if prices.above is None else prices.above / mark - ONE,
        )
    legs: list[Leg] = []
    base = ZERO
    for asset, purse in purses.items():
        moving = [_by_factor(p, terms) for p in pool.positions if pool.margin_asset(p) == asset]
        counted, still = collateral.valued(moving, purse.wallet_balance, purse.rate)
        legs += counted
        base += still
    factor = contracts.prices(pool.positions[0], crossings(legs, base, ONE))
    return Crossings(
        None if factor.below is None else ONE - factor.below,
        None if factor.above is None else factor.above - ONE,
    )


def _by_factor(position: Position, terms: Terms) -> Leg:
    """A position's leg where t is the factor on all marks."""
    leg = contracts.leg(position, terms.tables[position.symbol])
    exposure = leg.exposure * contracts.variable(position, terms.marks[position.symbol])
    return Leg(exposure, leg.offset, leg.table)


def _position_risk(
    position: Position, mark: Decimal, own: _Own, table: BracketTable, prices: Crossings, past: bool
) -> PositionRisk:
    notional, pnl, maintenance = own
    at = table.index(abs(notional))
    further = table.brackets[at + 1].floor if at + 1 < len(table.brackets) else None
    price = nearest(prices, mark)
    if past:
        distance: Decimal | None = ZERO
    else:
        distance = None if price is None else abs(price - mark) / mark
    reason = "liquidated_at_every_price" if past else "safe_at_every_price"
    return PositionRisk(
        position=position,
        mark_price=mark,
        notional=notional,
        unrealized_pnl=pnl,
        maintenance_margin=maintenance,
        bracket=table.brackets[at],
        room_to_next=None if further is None else further - abs(notional),
        liquidation=prices,
        liquidation_price=price,
        reason=None if price is not None else reason,
        distance=distance,
    )


def unknowns(pool: Pool, terms: Terms) -> tuple[str, ...]:
    """What must be known of a pool and is not."""
    missing = [what for p in pool.positions for what in contracts.unknowns(p, terms.marks, terms.tables)]
    if pool.wallet_balance is None:
        missing.append(f"balance {pool.asset}")
    missing += [f"rate {wallet.asset}" for wallet in pool.assets if wallet.asset not in terms.rates]
    return tuple(missing)


def _incomplete(pool: Pool, terms: Terms, missing: tuple[str, ...]) -> PoolRisk:
    """A pool with an unknown input: each position's known figures, and nothing that would need the rest."""
    positions = []
    for p in pool.positions:
        mark, table = terms.marks.get(p.symbol), terms.tables.get(p.symbol)
        solid = p.contract_size is None or (p.contract_size and p.entry_price)
        notional = None if mark is None or not solid else contracts.notional(p, mark)
        maintenance = None if notional is None or table is None else table.maintenance_margin(abs(notional))
        positions.append(
            PositionRisk(
                position=p,
                mark_price=mark,
                notional=notional,
                unrealized_pnl=None if mark is None or notional is None else contracts.unrealized_pnl(p, mark),
                maintenance_margin=maintenance,
                bracket=None if notional is None or table is None else table.brackets[table.index(abs(notional))],
                room_to_next=None,
                liquidation=NOWHERE,
                liquidation_price=None,
                reason="mark_unknown" if mark is None else "brackets_unknown" if table is None else "pool_incomplete",
                distance=None,
            )
        )
    return PoolRisk(
        pool=pool,
        positions=tuple(positions),
        wallet_balance=None if pool.assets else pool.wallet_balance,
        unrealized_pnl=None,
        maintenance_margin=None,
        margin_balance=None,
        margin_ratio=None,
        bankrupt=False,
        market_distance=NOWHERE,
        closest=None,
        distance=None,
        missing=missing,
    )
