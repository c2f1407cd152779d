"""Multi-assets mode of USDⓈ-M: every asset is collateral and every position is in one margin pool, in USD.

    equity             = Σ over assets of min(amount × bid, amount × ask), amount: cross wallet + unrealized PnL
    maintenance margin = Σ over positions of maintenance margin × ask of the margin asset

Only assets that are available as margin count. Source: Binance Support, "How to Calculate Margin Ratio in
Multi-Assets Mode". What a caller asks of an account in single-asset mode is answered by `margin`.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor

from monitor.sim import margin
from monitor.sim.account import Account, Position
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import ZERO, exact
from monitor.sim.margin import Pool
from monitor.sim.market import Bracket, Market

POOL = "multi-assets"


def check(account: Account, market: Market) -> None:
    """Refuse an account that says it is in multi-assets mode and cannot be.

    Raises:
        ValueError: It is one of COIN-M, has an isolated symbol, or a position whose margin asset has no index.
    """
    if not account.multi_assets:
        return
    if account.market != "usdm":
        raise ValueError(f"account {account.name}: multi-assets mode is of USDⓈ-M alone")
    if isolated := [symbol for symbol, setting in account.settings.items() if setting.isolated]:
        raise ValueError(f"account {account.name}: {isolated[0]} cannot be isolated in multi-assets mode")
    for position in account.open_positions():
        market.asset_index(position.asset)


def counted(account: Account, market: Market) -> list[AssetIndex]:
    """The assets that the account holds or has positions in, as far as they count as collateral."""
    assets = dict.fromkeys([*account.balances, *(position.asset for position in account.open_positions())])
    known = (market.asset_indexes.get(asset) for asset in assets)
    return [index for index in known if index is not None and index.margin_available]


def debts(account: Account, market: Market) -> list[AssetIndex]:
    """Those whose cross wallet is below zero."""
    held = ((index, account.balances.get(index.asset)) for index in counted(account, market))
    return [index for index, balance in held if balance is not None and balance.cross < 0]


@exact
def amounts(account: Account, asset: str, market: Market) -> tuple[Decimal, Decimal]:
    """Cross wallet and unrealized PnL of one asset, in the asset."""
    wallet = account.balances[asset].cross if asset in account.balances else ZERO
    return wallet, sum((margin.unrealized(p, market) for p in account.open_positions(asset)), ZERO)


@exact
def valued(account: Account, market: Market) -> tuple[Decimal, Decimal]:
    """Cross wallets and unrealized PnL in USD; the sum is the equity.

    Both of an asset are taken at the rate of their sum: min(x × bid, x × ask) is x × bid for what is
    owned and x × ask for what is owed, since bid is never above ask.
    """
    wallets = profits = ZERO
    for index in counted(account, market):
        wallet, profit = amounts(account, index.asset, market)
        rate = index.bid if wallet + profit >= 0 else index.ask
        wallets += wallet * rate
        profits += profit * rate
    return wallets, profits


@exact
def equity(account: Account, market: Market) -> Decimal:
    """Margin balance of the whole account, in USD."""
    return sum(valued(account, market), ZERO)


@exact
def pools(account: Account, market: Market) -> list[Pool]:
    """Every pool of the account that has a position; in multi-assets mode there is one, in USD."""
    if not account.multi_assets:
        return margin.pools(account, market)
    held = tuple(account.open_positions())
    if not held:
        return []
    needed = sum((margin.maintenance(p, market) * market.asset_index(p.asset).ask for p in held), ZERO)
    return [Pool(POOL, "USD", False, held, *valued(account, market), needed)]


@exact
def free(account: Account, market: Market) -> Decimal:
    """USD available for orders: equity less the initial margin of every position; never below zero."""
    used = (margin.initial(p, account, market) * market.asset_index(p.asset).ask for p in account.open_positions())
    return max(equity(account, market) - sum(used, ZERO), ZERO)


@exact
def available(account: Account, asset: str, market: Market) -> Decimal:
    """The same in one asset, at its ask; none of an asset that does not count."""
    index = market.asset_indexes.get(asset)
    counts = index is not None and index.margin_available
    return free(account, market) / index.ask if index is not None and counts else ZERO


@exact
def totals(account: Account, market: Market) -> dict[str, Decimal]:
    """The account's figures in USD, by the names that an asset's figures have."""
    wallets, profits = valued(account, market)
    held = list(account.open_positions())
    initial = sum((margin.initial(p, account, market) * market.asset_index(p.asset).ask for p in held), ZERO)
    unused = free(account, market)
    return {
        "walletBalance": wallets,
        "unrealizedProfit": profits,
        "marginBalance": wallets + profits,
        "maintMargin": sum((pool.maintenance for pool in pools(account, market)), ZERO),
        "initialMargin": initial,
        "positionInitialMargin": initial,
        "crossWalletBalance": wallets,
        "crossUnPnl": profits,
        "availableBalance": unused,
        "maxWithdrawAmount": max(min(unused, wallets), ZERO),
    }


# Liquidation price, in fractions: every root is exact, and is rounded once


@exact
def liquidation_price(position: Position, account: Account, market: Market) -> Decimal | None:
    """Mark of this symbol at which its pool reaches ratio 1; None: there is none above zero.

    Other marks and all asset indexes are held still. In multi-assets mode it is rounded half up to 8 decimals.
    Where there are two prices, it is the one nearer to the mark.
    """
    if not account.multi_assets:
        return margin.liquidation_price(position, account, market)
    if not position.quantity:
        return None
    crossings = [price for price in _Line(position, account, market).crossings() if price > 0]
    if not crossings:
        return None
    mark = Fraction(market[position.symbol].mark)
    nearest = min(crossings, key=lambda price: abs(price - mark))
    return Decimal(floor(nearest * 10**8 + Fraction(1, 2))).scaleb(-8)


class _Line:
    """What an account has above its maintenance margin, as one symbol's mark moves.

    It is straight between the prices at which a position enters a bracket, and the price at which
    the margin asset's amount changes its sign and with it its rate.
    """

    def __init__(self, position: Position, account: Account, market: Market) -> None:
        self._brackets = margin.brackets_of(position, market)
        self._sizes: list[Fraction] = []
        moving = standing = needed = ZERO  # PnL = moving × price + standing
        wallet, profits = amounts(account, position.asset, market)
        own = market.asset_index(position.asset)
        for leg in account.open_positions():
            if leg.symbol == position.symbol:
                self._sizes.append(Fraction(abs(leg.quantity)))
                moving += leg.quantity
                standing -= leg.quantity * leg.entry_price
                profits -= margin.unrealized(leg, market)
            else:
                needed += margin.maintenance(leg, market) * market.asset_index(leg.asset).ask
        rest = ZERO
        for index in counted(account, market):
            if index.asset != own.asset:
                amount = sum(amounts(account, index.asset, market), ZERO)
                rest += min(amount * index.bid, amount * index.ask)
        self._spare = Fraction(rest - needed)
        self._moving, self._fixed = Fraction(moving), Fraction(wallet + profits + standing)
        self._ask = Fraction(own.ask)
        self._rates = (Fraction(own.bid), self._ask) if own.margin_available else (Fraction(0),)

    def at(self, price: Fraction) -> Fraction:
        """Equity less maintenance margin, in USD."""
        amount = self._fixed + self._moving * price
        needed = sum((_maintenance(size * price, self._brackets) for size in self._sizes), Fraction(0))
        return self._spare + min(amount * rate for rate in self._rates) - needed * self._ask

    def corners(self) -> list[Fraction]:
        """Where one straight piece ends and the next begins, from zero up."""
        found = {Fraction(0)} | {Fraction(b.cap) / size for size in self._sizes for b in self._brackets[:-1]}
        if self._moving and (turn := -self._fixed / self._moving) > 0:
            found.add(turn)
        return sorted(found)

    def crossings(self) -> list[Fraction]:
        """Prices at which the ratio passes 1; at a corner too, where brackets that do not fit together jump."""
        corners = self.corners()
        beyond = corners[-1] + 1
        found: list[Fraction] = []
        below: bool | None = None  # whether the piece before ended below zero
        for left, right in pairwise([*corners, beyond]):
            first, second = left + (right - left) / 3, left + (right - left) * 2 / 3
            low, high = self.at(first), self.at(second)
            slope = (high - low) / (second - first)
            if below is not None and below != (low + slope * (left - first) < 0):
                found.append(left)
            if slope:
                root = first - low / slope
                if left <= root and (root <= right or right == beyond):
                    found.append(root)
            below = low + slope * (right - first) < 0
        return found


def _maintenance(size: Fraction, brackets: Sequence[Bracket]) -> Fraction:
    """Maintenance margin of a notional; past the last cap the last bracket goes on."""
    if not brackets:
        return Fraction(0)
    bracket = next((b for b in brackets if size < Fraction(b.cap)), brackets[-1])
    return size * Fraction(bracket.rate) - Fraction(bracket.amount)
