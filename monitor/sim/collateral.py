"""What follows by itself in multi-assets mode: debts are repaid by auto-exchange, and the account is liquidated."""

from decimal import Decimal
from typing import TYPE_CHECKING

from monitor.sim import forced, frames, liquidation, margin, multiassets
from monitor.sim.account import Account, Position
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import ZERO, exact, trunc8

if TYPE_CHECKING:
    from monitor.sim.engine import Engine


@exact
def repay(engine: "Engine", account: Account, whatever: bool = False) -> bool:
    """Auto-exchange: buy what is owed with other assets, as far as they go; whether anything was exchanged.

    An asset is repaid when its cross wallet is below its threshold; or when nothing is left of the
    equity and there is no position.

    Args:
        whatever: Repay every debt, as a liquidation does.
    """
    lost = not any(account.open_positions()) and multiassets.equity(account, engine.market) <= 0
    due = [
        debt
        for debt in multiassets.debts(account, engine.market)
        if whatever or lost or (debt.auto_exchange is not None and _cross(account, debt) < debt.auto_exchange)
    ]
    return any([_exchange(engine, account, debt, source) for debt in due for source in _sources(engine, account)])


def _cross(account: Account, index: AssetIndex) -> Decimal:
    return account.balance(index.asset).cross


def _sources(engine: "Engine", account: Account) -> list[AssetIndex]:
    """What can be sold, the most valuable first; in which order the exchange sells is not published."""
    held = multiassets.counted(account, engine.market)
    owned = [index for index in held if _cross(account, index) * index.auto_bid > 0]
    return sorted(owned, key=lambda index: _cross(account, index) * index.auto_bid, reverse=True)


def _exchange(engine: "Engine", account: Account, debt: AssetIndex, source: AssetIndex) -> bool:
    """Sell one asset for another, both named in one AUTO_EXCHANGE; whether there was anything to sell and to buy."""
    owed, owned = max(-_cross(account, debt), ZERO), max(_cross(account, source), ZERO)
    price = debt.auto_ask / source.auto_bid
    bought, sold = owed, trunc8(owed * price)
    if sold > owned:
        bought, sold = trunc8(owned / price), owned
    if not bought:
        return False
    at_ms = engine.stamp()
    told = []
    for index, change in ((debt, bought), (source, -sold)):
        balance = account.balance(index.asset)
        balance.cross += change
        balance.updated_ms = at_ms
        told.append(frames.balance_row(account, index.asset, change))
        engine.record_income(account, "AUTO_EXCHANGE", "", index.asset, change, at_ms, 0)
    engine.tell(account, frames.account_update(at_ms, "AUTO_EXCHANGE", told, []))
    return True


@exact
def liquidate(engine: "Engine", account: Account) -> None:
    """Close positions whole, at their marks, the one with the largest loss in USD first, until the ratio is below 1.

    Open orders expire before. Each closing pays its clearance fee, as far as there is equity, and then
    auto-exchange repays every debt. What is still owed after the last position, the insurance fund
    makes up. The exchange publishes no order of closing; this one is our own choice.
    """
    engine.counters["liquidations"] += 1
    liquidation.end_orders(engine, account, list(account.orders), "EXPIRED", liquidation.LIQUIDATED)
    while any(pool.ratio >= 1 for pool in multiassets.pools(account, engine.market)):
        _close(engine, account, min(account.open_positions(), key=lambda held: _profit(engine, held)))
        repay(engine, account, whatever=True)
    if not any(account.open_positions()):
        for debt in multiassets.debts(account, engine.market):
            engine.change_balance(account, debt.asset, -_cross(account, debt), "INSURANCE_CLEAR")


def _profit(engine: "Engine", position: Position) -> Decimal:
    return margin.unrealized(position, engine.market) * engine.market.asset_index(position.asset).index


def _close(engine: "Engine", account: Account, position: Position) -> None:
    """Close a position at its mark, and take the clearance fee out of the equity that is left."""
    contract, size = engine.market[position.symbol], abs(position.quantity)
    fee = contract.value(size, contract.mark) * contract.liquidation_fee
    liquidation.forced_fill(engine, account, position, forced.LIQUIDATION, [(size, contract.mark)])
    left = max(multiassets.equity(account, engine.market), ZERO) / engine.market.asset_index(position.asset).ask
    if taken := trunc8(min(fee, left)):
        engine.change_balance(account, position.asset, -taken, "INSURANCE_CLEAR", symbol=position.symbol)
