"""Margin arithmetic of both markets: maintenance margin, pools, ratio, liquidation price.

Derived anew from the published rules, on purpose without the monitor's own code: the
liquidation price is found by walking the straight pieces of the excess, not by formula.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from monitor.sim.account import Account, Position
from monitor.sim.decimals import ONE, ZERO, exact
from monitor.sim.market import Bracket, Market, scaled

BANKRUPT_RATIO = Decimal(10)
CALM_RATIO = 0.7  # far enough below the ratio of a margin call


@exact
def notional(position: Position, market: Market) -> Decimal:
    """Signed value at the mark, in the margin asset."""
    contract = market[position.symbol]
    return contract.value(position.quantity, contract.mark)


@exact
def unrealized(position: Position, market: Market) -> Decimal:
    """Profit if closed at the mark."""
    contract = market[position.symbol]
    return contract.profit(position.quantity, position.entry_price, contract.mark)


@exact
def maintenance_of(size: Decimal, brackets: Sequence[Bracket]) -> Decimal:
    """Maintenance margin of a notional; past the last cap the last bracket goes on."""
    if not size or not brackets:
        return ZERO
    bracket = next((b for b in brackets if size < b.cap), brackets[-1])
    return size * bracket.rate - bracket.amount


def maintenance(position: Position, market: Market) -> Decimal:
    """Maintenance margin at the mark."""
    return maintenance_of(abs(notional(position, market)), brackets_of(position, market))


def brackets_of(position: Position, market: Market) -> Sequence[Bracket]:
    """The symbol's brackets, multiplied where the account has a notionalCoef."""
    return scaled(market[position.symbol].brackets, position.coef)


@exact
def initial(position: Position, account: Account, market: Market) -> Decimal:
    """Initial margin at the mark and the chosen leverage."""
    return abs(notional(position, market)) / account.setting(position.symbol).leverage


def every_position(account: Account, market: Market) -> list[Position]:
    """A position of each symbol and side that the account's market lists, flat ones included.

    In hedge mode COIN-M lists BOTH beside LONG and SHORT; USDⓈ-M does not.
    """
    sides = ("BOTH", *account.sides) if account.hedge and account.market == "coinm" else account.sides
    return [
        account.positions.get((contract.symbol, side))
        or Position(contract.symbol, side, account.margin_assets.get(contract.margin_asset, contract.margin_asset))
        for contract in market.of(account.market)
        for side in sides
    ]


@dataclass(frozen=True)
class Pool:
    """Collateral, and the positions that are liquidated with it. name: "cross:USDT", "isolated:SOLUSDT:BOTH"."""

    name: str
    asset: str
    isolated: bool
    positions: tuple[Position, ...]
    collateral: Decimal
    unrealized: Decimal
    maintenance: Decimal

    @property
    def balance(self) -> Decimal:
        """Margin balance."""
        return self.collateral + self.unrealized

    @property
    def ratio(self) -> Decimal:
        """Maintenance margin ÷ margin balance; 1 is liquidation, 10 stands for nothing left."""
        if not self.maintenance:
            return ZERO
        return self.maintenance / self.balance if self.balance > 0 else BANKRUPT_RATIO


@exact
def pools(account: Account, market: Market) -> list[Pool]:
    """Every pool of the account that has a position."""
    cross: dict[str, list[Position]] = {}
    result: list[Pool] = []
    for position in account.open_positions():
        if account.isolated(position):
            name = f"isolated:{position.symbol}:{position.side}"
            result.append(_pool(name, True, [position], position.isolated_wallet, market))
        else:
            cross.setdefault(position.asset, []).append(position)
    for asset, positions in cross.items():
        result.append(_pool(f"cross:{asset}", False, positions, account.balance(asset).cross, market))
    return result


def _pool(name: str, isolated: bool, positions: list[Position], collateral: Decimal, market: Market) -> Pool:
    return Pool(
        name,
        positions[0].asset,
        isolated,
        tuple(positions),
        collateral,
        sum((unrealized(p, market) for p in positions), ZERO),
        sum((maintenance(p, market) for p in positions), ZERO),
    )


def is_calm(account: Account, market: Market) -> bool:
    """Whether no pool can be near a margin call, by floats and with room to spare: of many accounts most need no more.

    False wherever this is not plain: nothing is decided by it.
    """
    if account.multi_assets or account.margin_called or account.market == "coinm":
        return False
    balances: dict[str, float] = {}
    needed: dict[str, float] = {}
    for position in account.open_positions():
        contract = market[position.symbol]
        if account.isolated(position) or position.coef != ONE:
            return False
        asset, mark, quantity = position.asset, float(contract.mark), float(position.quantity)
        size = abs(quantity) * mark
        rate = next((b.rate for b in contract.brackets if size < b.cap), contract.brackets[-1].rate)
        balances[asset] = balances.get(asset, 0.0) + quantity * (mark - float(position.entry_price))
        needed[asset] = needed.get(asset, 0.0) + size * float(rate)  # without the bracket's amount it is more
    return all(amount < CALM_RATIO * (float(account.balance(a).cross) + balances[a]) for a, amount in needed.items())


@exact
def liquidation_price(position: Position, account: Account, market: Market) -> Decimal | None:
    """Mark of this symbol at which its pool reaches ratio 1, other marks held still; None: there is none.

    Both legs of a cross hedge share one price. Where there are two, it is the one nearer to the mark.
    Straight pieces need a variable in which PnL and notional are straight: the price, or for COIN-M its
    inverse. A coin-margined short that its coins cover at any price has no root above zero.
    """
    pool = next((p for p in pools(account, market) if position in p.positions), None)
    if pool is None:
        return None
    legs = [p for p in pool.positions if p.symbol == position.symbol]
    of_legs = sum((unrealized(leg, market) - maintenance(leg, market) for leg in legs), ZERO)
    spare = pool.balance - pool.maintenance - of_legs
    contract, brackets = market[position.symbol], brackets_of(position, market)

    inverse, size = contract.coin_margined, contract.contract_size

    def excess(x: Decimal) -> Decimal:
        if inverse:
            profit = sum((leg.quantity * size * (ONE / leg.entry_price - x) for leg in legs), ZERO)
        else:
            profit = sum((leg.quantity * (x - leg.entry_price) for leg in legs), ZERO)
        needed = sum((maintenance_of(abs(leg.quantity) * size * x, brackets) for leg in legs), ZERO)
        return spare + profit - needed

    corners = {bracket.floor / (abs(leg.quantity) * size) for leg in legs for bracket in brackets} | {ZERO}
    found = [ONE / x if inverse else x for x in _roots(excess, sorted(corners)) if x > 0]
    return min(found, key=lambda price: abs(price - contract.mark)) if found else None


def _roots(line: Callable[[Decimal], Decimal], corners: Sequence[Decimal]) -> list[Decimal]:
    """Where a function that is straight between its corners, and after the last one, is zero."""
    found: list[Decimal] = []
    for left, right in pairwise(corners):
        low, high = line(left), line(right)
        if (low < 0) != (high < 0):
            found.append(left - low * (right - left) / (high - low))
    beyond = corners[-1] + ONE  # not the corner itself: at a price of zero no bracket applies
    at_beyond = line(beyond)
    slope = line(beyond + ONE) - at_beyond
    if slope and (root := beyond - at_beyond / slope) >= corners[-1]:
        found.append(root)
    return found


def bankruptcy_price(position: Position, market: Market) -> Decimal | None:
    """Mark at which an isolated position has lost its wallet; None: an inverse short that cannot lose it."""
    contract = market[position.symbol]
    return contract.price_of_profit(position.quantity, position.entry_price, -position.isolated_wallet)


def break_even(position: Position, market: Market) -> Decimal:
    """Price at which closing pays back the fees; zero for a flat position."""
    if not position.quantity:
        return ZERO
    contract = market[position.symbol]
    return contract.price_of_profit(position.quantity, position.entry_price, position.fees) or ZERO
