"""From collateral and positions to the risk of a margin pool.

A pool is collateral and the positions that are liquidated with it. It does not know what kind it is: the cross
positions of one margin asset share a wallet, an isolated position has its own, and all are computed alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec import Struct

from monitor.events import Bracket, Position, PositionKey
from monitor.risk import contracts
from monitor.risk.liquidation import Crossings, Leg, crossings
from monitor.risk.margin import NO_MARGIN, ZERO, BracketTable, margin_ratio

ONE = Decimal(1)
NOWHERE = Crossings(None, None)


class Pool(Struct, frozen=True):
    """Collateral and the positions that are liquidated with it; every amount is in `asset`.

    Args:
        id: `cross-<asset>` or `isolated-<symbol>[-long|-short]`.
        wallet_balance: Cross wallet balance of the asset, or the isolated wallet of the one position; None: unknown.
        positions: All of them open.
    """

    account: str
    id: str
    asset: str
    isolated: bool
    wallet_balance: Decimal | None
    positions: tuple[Position, ...]


class PositionRisk(Struct, frozen=True):
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
        unrealized_pnl: Of all its positions at mark. This and all that follows: None while an input is unknown.
        maintenance_margin: Of all its positions.
        margin_balance: Wallet balance plus unrealized PnL.
        margin_ratio: Maintenance margin ÷ margin balance; 1 is liquidation; at most 10.
        bankrupt: Margin balance ≤ 0 with positions open.
        market_distance: Uniform relative move of all marks, down and up, at which the ratio reaches 1; None: none.
        closest: The position nearest to its liquidation price; None: none has one.
        distance: The smaller of market distance and the closest position's; 0 at or past liquidation; None: none.
        missing: What is unknown, such as `mark BTCUSDT`.
    """

    pool: Pool
    positions: tuple[PositionRisk, ...]
    unrealized_pnl: Decimal | None
    maintenance_margin: Decimal | None
    margin_balance: Decimal | None
    margin_ratio: Decimal | None
    bankrupt: bool
    market_distance: Crossings
    closest: PositionRisk | None
    distance: Decimal | None
    missing: tuple[str, ...]


def assess(pool: Pool, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable]) -> PoolRisk:
    """The risk of a pool at these marks.

    Args:
        marks: Symbol → mark price (quote per base).
        tables: Symbol → brackets.
    """
    missing = tuple(what for p in pool.positions for what in contracts.unknowns(p, marks, tables))
    if missing or pool.wallet_balance is None:
        return _incomplete(pool, marks, tables, missing)
    own = [_own_figures(p, marks[p.symbol], tables[p.symbol]) for p in pool.positions]
    pnl = sum((figures[1] for figures in own), ZERO)
    maintenance = sum((figures[2] for figures in own), ZERO)
    balance = pool.wallet_balance + pnl
    past = bool(pool.positions) and balance <= maintenance
    solved = _solve_symbols(pool, marks, tables, balance - maintenance, own)
    positions = tuple(
        _position_risk(p, marks[p.symbol], figures, tables[p.symbol], solved[p.symbol], past)
        for p, figures in zip(pool.positions, own, strict=True)
    )
    closest = min((p for p in positions if p.distance is not None), key=_distance, default=None)
    market = _market_distance(pool, pool.wallet_balance, marks, tables, solved)
    distances = [d for d in (market.below, market.above, closest.distance if closest else None) if d is not None]
    return PoolRisk(
        pool=pool,
        positions=positions,
        unrealized_pnl=pnl,
        maintenance_margin=maintenance,
        margin_balance=balance,
        margin_ratio=margin_ratio(maintenance, balance),
        bankrupt=bool(pool.positions) and balance <= 0,
        market_distance=NOWHERE if past else market,
        closest=closest,
        distance=ZERO if past else min(distances, default=None),
        missing=(),
    )


def bankruptcy_price(risk: PoolRisk, key: PositionKey) -> Decimal | None:
    """Mark price of this symbol at which the pool's margin balance reaches 0, other marks held still.

    None: it never does, or an input is unknown. The nearer one to the mark where a hedged pair has two.
    """
    if risk.margin_balance is None:
        return None
    here = next(p for p in risk.positions if p.position.key == key)
    if here.mark_price is None:
        return None
    rows = [p for p in risk.positions if p.position.symbol == key.symbol]
    others = risk.margin_balance - sum((p.unrealized_pnl or ZERO for p in rows), ZERO)
    legs = [contracts.leg(p.position, NO_MARGIN) for p in rows]
    found = crossings(legs, others, contracts.variable(here.position, here.mark_price))
    return nearest(contracts.prices(here.position, found), here.mark_price)


def nearest(prices: Crossings, mark_price: Decimal) -> Decimal | None:
    """The one of two prices that is nearer to the mark."""
    known = [price for price in (prices.below, prices.above) if price is not None]
    return min(known, key=lambda price: abs(price - mark_price), default=None)


def _distance(risk: PositionRisk) -> Decimal:
    assert risk.distance is not None
    return risk.distance


_Own = tuple[Decimal, Decimal, Decimal]
"""Signed notional, unrealized PnL and maintenance margin of one position."""


def _own_figures(position: Position, mark: Decimal, table: BracketTable) -> _Own:
    notional = contracts.notional(position, mark)
    return notional, contracts.unrealized_pnl(position, mark), table.maintenance_margin(abs(notional))


def _solve_symbols(
    pool: Pool,
    marks: Mapping[str, Decimal],
    tables: Mapping[str, BracketTable],
    excess: Decimal,
    own: Sequence[_Own],
) -> dict[str, Crossings]:
    """For each symbol, the marks at which the pool is liquidated; the legs of a hedged pair move together."""
    solved: dict[str, Crossings] = {}
    for p in pool.positions:
        if p.symbol in solved:
            continue
        legs: list[Leg] = []
        base = excess
        for other, (_, pnl, maintenance) in zip(pool.positions, own, strict=True):
            if other.symbol == p.symbol:
                legs.append(contracts.leg(other, tables[p.symbol]))
                base -= pnl - maintenance
        solved[p.symbol] = contracts.prices(p, crossings(legs, base, contracts.variable(p, marks[p.symbol])))
    return solved


def _market_distance(
    pool: Pool,
    wallet_balance: Decimal,
    marks: Mapping[str, Decimal],
    tables: Mapping[str, BracketTable],
    solved: Mapping[str, Crossings],
) -> Crossings:
    """Relative moves, both positive, of all marks alike; of one symbol it is that symbol's own distance."""
    if not solved:
        return NOWHERE
    if len(solved) == 1:
        [(symbol, prices)] = solved.items()
        mark = marks[symbol]
        return Crossings(
            None if prices.below is None else ONE - prices.below / mark,
            None if prices.above is None else prices.above / mark - ONE,
        )
    legs = []
    for p in pool.positions:
        leg = contracts.leg(p, tables[p.symbol])
        legs.append(Leg(leg.exposure * contracts.variable(p, marks[p.symbol]), leg.offset, leg.table))
    factor = contracts.prices(pool.positions[0], crossings(legs, wallet_balance, ONE))
    return Crossings(
        None if factor.below is None else ONE - factor.below,
        None if factor.above is None else factor.above - ONE,
    )


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


def _incomplete(
    pool: Pool, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable], missing: tuple[str, ...]
) -> PoolRisk:
    """A pool with an unknown input: each position's known figures, and nothing that would need the rest."""
    positions = []
    for p in pool.positions:
        mark, table = marks.get(p.symbol), tables.get(p.symbol)
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
    if pool.wallet_balance is None:
        missing = (*missing, f"balance {pool.asset}")
    return PoolRisk(pool, tuple(positions), None, None, None, None, False, NOWHERE, None, None, missing)
