"""Margin arithmetic of USDⓈ-M futures: slow, plain, exact, and nothing of `monitor` in it.

The tests hold the product to this. Every number is a Fraction. Prices are found by brute force: split the price
axis wherever a bracket of a leg begins, draw the straight line of each piece, and look where it meets zero.

An entry price is used as given; whoever compares with the exchange truncates it first (`trunc_8`).

Source: Binance Support, "How to Calculate Liquidation Price of USDⓈ-M Futures Contracts", "Liquidation Protocols", and
"How to Calculate Margin Ratio in Multi-Assets Mode".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

ZERO, ONE = Fraction(0), Fraction(1)
RATIO_CAP = Fraction(10)

Sides = tuple[Fraction | None, Fraction | None]


@dataclass(frozen=True)
class RefBracket:
    """Holds for floor < notional ≤ the next bracket's floor; the first also below its floor, the last without end."""

    floor: Fraction
    rate: Fraction
    amount: Fraction


@dataclass(frozen=True)
class RefPosition:
    """One leg. A short has a negative quantity; floors of the brackets rise."""

    symbol: str
    quantity: Fraction
    entry_price: Fraction
    mark_price: Fraction
    brackets: tuple[RefBracket, ...]


@dataclass(frozen=True)
class RefPool:
    """A wallet and the positions liquidated with it. A hedged pair is two positions of one symbol, with one mark."""

    wallet: Fraction
    positions: tuple[RefPosition, ...]


def notional(position: RefPosition, price: Fraction | None = None) -> Fraction:
    """|quantity| × price, never negative; the price is the mark when none is given."""
    return abs(position.quantity) * (position.mark_price if price is None else price)


def unrealized_pnl(position: RefPosition, price: Fraction | None = None) -> Fraction:
    """Signed quantity × (price − entry price); the price is the mark when none is given."""
    return position.quantity * ((position.mark_price if price is None else price) - position.entry_price)


def maintenance_margin(position: RefPosition, price: Fraction | None = None) -> Fraction:
    """Notional × rate − amount, of the bracket that holds the notional; the price is the mark when none is given."""
    size = notional(position, price)
    bracket = position.brackets[0]
    for higher in position.brackets[1:]:
        if size > higher.floor:
            bracket = higher
    return size * bracket.rate - bracket.amount


def margin_balance(pool: RefPool) -> Fraction:
    """Wallet plus unrealized PnL at the marks."""
    return pool.wallet + sum(unrealized_pnl(p) for p in pool.positions)


def margin_ratio(pool: RefPool) -> Fraction | None:
    """Maintenance margin ÷ margin balance, at most 10; 10 too when the balance is used up. None: no positions."""
    if not has_positions(pool):
        return None
    balance = margin_balance(pool)
    if balance <= 0:
        return RATIO_CAP
    return min(sum((maintenance_margin(p) for p in pool.positions), ZERO) / balance, RATIO_CAP)


def excess(pool: RefPool, prices: Mapping[str, Fraction]) -> Fraction:
    """Margin balance − maintenance margin at these prices, other symbols at their marks; ≤ 0 is liquidation."""
    moved = [replace(p, mark_price=prices.get(p.symbol, p.mark_price)) for p in pool.positions]
    return margin_balance(RefPool(pool.wallet, tuple(moved))) - sum(maintenance_margin(p) for p in moved)


def liquidation_prices(pool: RefPool, symbol: str) -> Sides:
    """Nearest prices > 0, at or below and at or above the mark, where excess is 0; other marks stand still.

    Where a broken bracket table makes excess jump over 0, the edge counts. None: there is none on that side.
    """
    legs = [p for p in pool.positions if p.symbol == symbol]
    edges = [b.floor / abs(p.quantity) for p in legs if p.quantity for b in p.brackets]
    mark = legs[0].mark_price
    found = zeros(lambda price: excess(pool, {symbol: price}), edges, mark)
    return max((z for z in found if z <= mark), default=None), min((z for z in found if z >= mark), default=None)


def bankruptcy_prices(pool: RefPool, symbol: str) -> Sides:
    """As `liquidation_prices`, with no maintenance margin on any position: where the margin balance is 0."""
    free = (RefBracket(ZERO, ZERO, ZERO),)
    return liquidation_prices(RefPool(pool.wallet, tuple(replace(p, brackets=free) for p in pool.positions)), symbol)


def market_distance(pool: RefPool) -> Sides:
    """Nearest moves x > 0, down and up, where excess is 0 with all marks × (1 − x) or × (1 + x).

    Down is below 1, since prices stay above 0. None: there is none, or the pool has no positions.
    """
    if not has_positions(pool):
        return None, None
    edges = [b.floor / notional(p) for p in pool.positions if p.quantity for b in p.brackets]
    found = zeros(lambda factor: excess(pool, {p.symbol: p.mark_price * factor for p in pool.positions}), edges, ONE)
    return min((1 - z for z in found if z < 1), default=None), min((z - 1 for z in found if z > 1), default=None)


@dataclass(frozen=True)
class RefAsset:
    """One asset of an account in multi-assets mode; its wallet and its positions are in it, its rates are in USD."""

    wallet: Fraction
    bid: Fraction
    ask: Fraction
    positions: tuple[RefPosition, ...] = ()


@dataclass(frozen=True)
class RefShared:
    """All assets of an account in multi-assets mode: everything that is liquidated together. Totals are in USD."""

    assets: tuple[RefAsset, ...]


def shared_balance(pool: RefShared) -> Fraction:
    """Σ of min(equity × bid, equity × ask): an asset that is owed costs its ask rate."""
    return sum((min(e * a.bid, e * a.ask) for a in pool.assets for e in [_equity(a)]), ZERO)


def shared_margin(pool: RefShared) -> Fraction:
    """Σ of maintenance margin × ask."""
    return sum((maintenance_margin(p) * a.ask for a in pool.assets for p in a.positions), ZERO)


def shared_ratio(pool: RefShared) -> Fraction | None:
    """As `margin_ratio`."""
    if not any(p.quantity for a in pool.assets for p in a.positions):
        return None
    balance = shared_balance(pool)
    return RATIO_CAP if balance <= 0 else min(shared_margin(pool) / balance, RATIO_CAP)


def shared_at(pool: RefShared, prices: Mapping[str, Fraction]) -> RefShared:
    """The pool with these marks, other symbols at theirs."""

    def moved(asset: RefAsset) -> RefAsset:
        return replace(
            asset, positions=tuple(replace(p, mark_price=prices.get(p.symbol, p.mark_price)) for p in asset.positions)
        )

    return RefShared(tuple(moved(asset) for asset in pool.assets))


def shared_excess(pool: RefShared, prices: Mapping[str, Fraction]) -> Fraction:
    """Margin balance − maintenance margin at these prices; ≤ 0 is liquidation."""
    there = shared_at(pool, prices)
    return shared_balance(there) - shared_margin(there)


def shared_liquidation_prices(pool: RefShared, symbol: str) -> Sides:
    """As `liquidation_prices`. A piece also ends where an asset comes to be owed, or is paid off."""
    legs = [p for a in pool.assets for p in a.positions if p.symbol == symbol]
    edges = [b.floor / abs(p.quantity) for p in legs if p.quantity for b in p.brackets]
    edges += _bends(lambda price: shared_at(pool, {symbol: price}))
    mark = legs[0].mark_price
    found = zeros(lambda price: shared_excess(pool, {symbol: price}), edges, mark)
    return max((z for z in found if z <= mark), default=None), min((z for z in found if z >= mark), default=None)


def shared_bankruptcy_prices(pool: RefShared, symbol: str) -> Sides:
    """As `bankruptcy_prices`."""
    free = (RefBracket(ZERO, ZERO, ZERO),)
    assets = [replace(a, positions=tuple(replace(p, brackets=free) for p in a.positions)) for a in pool.assets]
    return shared_liquidation_prices(RefShared(tuple(assets)), symbol)


def shared_market_distance(pool: RefShared) -> Sides:
    """As `market_distance`; the rates of the assets stand still."""
    legs = [p for a in pool.assets for p in a.positions if p.quantity]
    if not legs:
        return None, None

    def marks(factor: Fraction) -> dict[str, Fraction]:
        return {p.symbol: p.mark_price * factor for p in legs}

    edges = [b.floor / notional(p) for p in legs for b in p.brackets]
    edges += _bends(lambda factor: shared_at(pool, marks(factor)))
    found = zeros(lambda factor: shared_excess(pool, marks(factor)), edges, ONE)
    return min((1 - z for z in found if z < 1), default=None), min((z - 1 for z in found if z > 1), default=None)


def _equity(asset: RefAsset) -> Fraction:
    """Wallet plus unrealized PnL, in the asset."""
    return asset.wallet + sum((unrealized_pnl(p) for p in asset.positions), ZERO)


def _bends(at: Callable[[Fraction], RefShared]) -> list[Fraction]:
    """Where the equity of an asset, a straight line through any two points, is 0."""
    found = []
    for one, two in zip(at(ONE).assets, at(ONE + 1).assets, strict=True):
        slope = _equity(two) - _equity(one)
        if slope:
            found.append(ONE - _equity(one) / slope)
    return found


def has_positions(pool: RefPool) -> bool:
    """Whether anything is held: a position of quantity 0 is none."""
    return any(p.quantity for p in pool.positions)


def zeros(value_at: Callable[[Fraction], Fraction], edges: Iterable[Fraction], here: Fraction) -> set[Fraction]:
    """Every x > 0 where the graph of value_at meets zero, its jumps drawn as upright lines.

    value_at is straight on each piece start < x ≤ end between neighbouring edges, and on the endless last one.
    A piece that is zero all along gives its ends, and `here` when that lies on it.
    """
    starts = [ZERO, *sorted({edge for edge in edges if edge > 0})]
    ends = [*starts[1:], None]
    found: set[Fraction] = set()
    before: Fraction | None = None  # the value where the last piece ended
    for start, end in zip(starts, ends, strict=True):
        x1, x2 = (start + 1, start + 2) if end is None else ((start + end) / 2, end)
        y1, y2 = value_at(x1), value_at(x2)
        slope = (y2 - y1) / (x2 - x1)
        after = y1 - slope * (x1 - start)  # the value where this piece begins, just past a jump
        if slope:
            found |= {root for root in [start - after / slope] if start <= root and (end is None or root <= end)}
        elif after == 0:
            found |= {start} | ({end} if end is not None else set())
            found |= {here} if start < here and (end is None or here <= end) else set()
        if before is not None and before * after < 0:
            found.add(start)
        before = y2
    return {x for x in found if x > 0}


def half_up_8(value: Fraction) -> Fraction:
    """Rounded to 8 decimals, a half away from zero: how the exchange prints a liquidation price."""
    size = Fraction(floor(abs(value) * 10**8 + Fraction(1, 2)), 10**8)
    return size if value >= 0 else -size


def trunc_8(value: Fraction) -> Fraction:
    """Cut to 8 decimals, toward zero: how the exchange prints PnL, notional and margin, and keeps entry prices."""
    return Fraction(int(value * 10**8), 10**8)
