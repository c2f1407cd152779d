"""Liquidation, step by step: what the exchange does to a pool whose margin ratio has reached 1.

    1. open orders of the pool expire
    2. reduced: one IOC order takes as much off the largest position as is needed, and its clearance fee is
       paid; again, while the ratio stays at 1 or above
    3. taken over: what has lost its collateral, or is to be closed in full, is closed whole; the clearance fee
       takes what is left of the collateral at most, and what is missing the insurance fund makes up

Source: Binance Support, "Liquidation Protocols". The size of the reducing order is not published.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from monitor.sim import forced, frames, margin, trading
from monitor.sim.account import Account, Position, Resting
from monitor.sim.decimals import ONE, ZERO, exact, trunc8
from monitor.sim.frames import Order
from monitor.sim.margin import Pool
from monitor.sim.market import Contract
from monitor.sim.trading import Part

if TYPE_CHECKING:
    from monitor.sim.engine import Engine

LIQUIDATED, DELISTED = "5", "7"  # `er` of orders that expire with the account's liquidation, or with the contract


@exact
def liquidate(engine: "Engine", account: Account, pool: Pool) -> None:
    """Liquidate a pool as the account's rules say."""
    engine.counters["liquidations"] += 1
    end_orders(engine, account, _orders_of(engine, account, pool), "EXPIRED", LIQUIDATED)
    if account.liquidation.mode == "full":
        take_over(engine, account, pool)
        return
    left: Pool | None = pool
    while left is not None and left.ratio >= 1:
        if left.balance <= 0:
            take_over(engine, account, left)
        else:
            position = max(left.positions, key=lambda held: margin.maintenance(held, engine.market))
            reduce(engine, account, left, position, reduction(engine, account, left, position))
        left = _again(engine, account, pool.name)


def _again(engine: "Engine", account: Account, name: str) -> Pool | None:
    return next((pool for pool in margin.pools(account, engine.market) if pool.name == name), None)


# Orders


def _orders_of(engine: "Engine", account: Account, pool: Pool) -> list[Resting]:
    """Orders that rest in the pool's scope: of its position if isolated, else of all cross symbols of its assets."""
    if pool.isolated:
        held = pool.positions[0]
        return [o for o in account.orders if (o.symbol, o.position_side) == (held.symbol, held.side)]
    assets = {position.asset for position in pool.positions}
    return [
        order
        for order in account.orders
        if not account.setting(order.symbol).isolated and order_asset(engine, account, order) in assets
    ]


def order_asset(engine: "Engine", account: Account, order: Resting) -> str:
    """Margin asset of an order."""
    asset = engine.market[order.symbol].margin_asset
    return account.margin_assets.get(asset, asset)


def resting_order(engine: "Engine", account: Account, order: Resting) -> Order:
    """The order as its events show it."""
    asset = order_asset(engine, account, order)
    side, size = order.position_side, order.quantity
    return Order(order.symbol, order.client_id, order.order_id, order.buy, size, order.price, side, asset, "LIMIT")


def end_orders(engine: "Engine", account: Account, orders: Sequence[Resting], kind: str, reason: str) -> None:
    """Take orders out of the book. kind: CANCELED or EXPIRED. reason: `er`."""
    account.orders = [order for order in account.orders if order not in orders]
    for order in orders:
        frame = frames.order_ended(engine.stamp(), resting_order(engine, account, order), None, kind, reason)
        engine.tell(account, frame)


def forced_fill(
    engine: "Engine",
    account: Account,
    position: Position,
    client_id: str,
    parts: Sequence[Part],
    *,
    size: Decimal | None = None,
    limit: Decimal | None = None,
    keep_margin: bool = False,
    income: str = "REALIZED_PNL",
) -> None:
    """Fill an order that the exchange makes itself; it pays no commission.

    Args:
        client_id: Its beginning where that ends in "-", else all of it.
        size: Quantity of the order, where it is more than its fills.
        limit: Price of the order; default: the last fill's.
    """
    order_id = engine.next_id()
    if client_id.endswith("-"):
        client_id = f"{client_id}{engine.now_ms()}{order_id:06d}"
    shape = account.liquidation.shape_of(client_id, engine.random)
    liquidation = client_id.startswith(forced.LIQUIDATION)
    order = Order(
        position.symbol,
        client_id,
        order_id,
        position.quantity < 0,
        sum((quantity for quantity, _ in parts), ZERO) if size is None else size,
        parts[-1][1] if limit is None else limit,
        position.side,
        position.asset,
        shape.kind,
        "IOC" if liquidation else "GTC",
        shape.reduce_only,
    )
    execution = "CALCULATED" if liquidation and engine.faults.calculated else shape.execution
    trading.fill(
        engine, account, position, order, parts=parts, execution=execution, keep_margin=keep_margin, income=income
    )


def _parts(
    account: Account, contract: Contract, position: Position, quantity: Decimal, price: Decimal, worst: Decimal | None
) -> list[Part]:
    """The fills of a quantity, the last slippage away from the price, none beyond the worst."""
    rules = account.liquidation
    count = max(min(rules.fills, int(quantity / contract.lot)), 1)
    each = _lots(quantity / count, contract)
    long = position.quantity > 0
    parts = []
    for place in range(1, count + 1):
        slipped = rules.slippage * place / count
        paid = trunc8(price * (ONE - slipped if long else ONE + slipped)) if slipped else price
        if worst is not None:
            paid = max(paid, worst) if long else min(paid, worst)
        parts.append((each if place < count else quantity - each * (count - 1), paid))
    return parts


def _lots(quantity: Decimal, contract: Contract) -> Decimal:
    return (quantity / contract.lot).to_integral_value(ROUND_FLOOR) * contract.lot


def _fee(contract: Contract, parts: Sequence[Part]) -> Decimal:
    """Clearance fee: liquidated notional × liquidationFee."""
    return sum((contract.value(quantity, price) for quantity, price in parts), ZERO) * contract.liquidation_fee


# Taken over


@exact
def take_over(
    engine: "Engine",
    account: Account,
    pool: Pool,
    prices: dict[str, Decimal] | None = None,
    beyond_bankruptcy: bool | None = None,
) -> None:
    """Close every position of the pool, then take the clearance fee out of what is left.

    A position closes at the mark, with the slippage of the rules; an isolated one not beyond its bankruptcy
    price, unless it may. A wallet that this leaves below zero is made up to zero by the insurance fund.

    Args:
        prices: By symbol, instead of the mark.
        beyond_bankruptcy: Instead of the rule of that name.
    """
    beyond = account.liquidation.beyond_bankruptcy if beyond_bankruptcy is None else beyond_bankruptcy
    fee, left = ZERO, pool.collateral
    for position in pool.positions:
        contract = engine.market[position.symbol]
        worst = None
        if pool.isolated and not beyond and (bankrupt := margin.bankruptcy_price(position, engine.market)) is not None:
            worst = trunc8(bankrupt)
        price = (prices or {}).get(position.symbol, contract.mark)
        parts = _parts(account, contract, position, abs(position.quantity), price, worst)
        fee += _fee(contract, parts)
        before = position.realized
        forced_fill(engine, account, position, forced.LIQUIDATION, parts)
        left += position.realized - before
    short = left < 0 and (beyond or not pool.isolated)
    taken = -left if short else -trunc8(min(fee, max(left, ZERO)))
    if taken:
        engine.change_balance(account, pool.asset, taken, "INSURANCE_CLEAR", symbol=pool.positions[0].symbol)


# Reduced


@exact
def reduce(
    engine: "Engine",
    account: Account,
    pool: Pool,
    position: Position,
    quantity: Decimal,
    price: Decimal | None = None,
) -> None:
    """Take a quantity off one position of the pool, and its clearance fee out of the pool.

    price: Instead of the mark.
    """
    held = abs(position.quantity)
    contract = engine.market[position.symbol]
    paid = contract.mark if price is None else price
    if quantity == held and len(pool.positions) == 1:
        take_over(engine, account, pool, {position.symbol: paid})
        return
    parts = _parts(account, contract, position, quantity, paid, None)
    size = held if account.liquidation.whole_order else None
    limit = _limit(contract, pool, position, parts[-1][1], engine)
    forced_fill(engine, account, position, forced.LIQUIDATION, parts, size=size, limit=limit, keep_margin=True)
    left = _again(engine, account, pool.name)
    fee = trunc8(min(_fee(contract, parts), max(left.balance if left else ZERO, ZERO)))
    if fee and pool.isolated:
        _clear_isolated(engine, account, position, fee)
    elif fee:
        engine.change_balance(account, pool.asset, -fee, "INSURANCE_CLEAR", symbol=position.symbol)


def _limit(contract: Contract, pool: Pool, position: Position, price: Decimal, engine: "Engine") -> Decimal:
    """Price of the order: where the pool would be bankrupt, other marks held still, or the worst fill if worse."""
    spare = margin.unrealized(position, engine.market) - pool.balance
    bankrupt = contract.price_of_profit(position.quantity, position.entry_price, spare)
    if bankrupt is None or trunc8(bankrupt) <= 0:
        return price
    return min(price, trunc8(bankrupt)) if position.quantity > 0 else max(price, trunc8(bankrupt))


def _clear_isolated(engine: "Engine", account: Account, position: Position, fee: Decimal) -> None:
    """The clearance fee of what was reduced leaves the isolated wallet."""
    at_ms = engine.stamp()
    position.isolated_wallet -= fee
    position.updated_ms = account.balance(position.asset).updated_ms = at_ms
    balances = [frames.balance_row(account, position.asset, -fee)]
    rows = engine.position_rows(account, [position])
    engine.tell(account, frames.account_update(at_ms, "INSURANCE_CLEAR", balances, rows))
    engine.record_income(account, "INSURANCE_CLEAR", position.symbol, position.asset, -fee, at_ms, 0)


@exact
def reduction(engine: "Engine", account: Account, pool: Pool, position: Position) -> Decimal:
    """Quantity to take off a position.

    The least at which the pool's ratio, after loss and clearance fee, is at the target; or, where the position
    would fall into a lower bracket before that, what brings it there, if the pool is then below ratio 1. Where
    nothing less helps, and in the first bracket, all of it: its maintenance margin is below its fee.
    """
    contract = engine.market[position.symbol]
    target, lot = account.liquidation.target, contract.lot

    def ratio(quantity: Decimal) -> Decimal:
        return _ratio_without(engine, account, pool, position, quantity)

    start = ZERO
    for edge in _to_lower_brackets(engine, contract, position):
        at_edge = ratio(edge)
        if at_edge <= target:
            too_few, enough = 0, int((edge - start) / lot)
            while enough - too_few > 1:
                middle = (too_few + enough) // 2
                if ratio(start + middle * lot) <= target:
                    enough = middle
                else:
                    too_few = middle
            return start + enough * lot
        if at_edge < 1:
            return edge
        start = edge
    return abs(position.quantity)


def _to_lower_brackets(engine: "Engine", contract: Contract, position: Position) -> Iterator[Decimal]:
    """Quantities to close that leave the position in each lower bracket, the next one first."""
    held = abs(position.quantity)
    worth = abs(contract.value(ONE, contract.mark))
    for bracket in reversed(margin.brackets_of(position, engine.market)):
        left = _lots(bracket.floor / worth, contract)
        if left * worth >= bracket.floor:
            left -= contract.lot
        if 0 < left < held:
            yield held - left


def _ratio_without(engine: "Engine", account: Account, pool: Pool, position: Position, quantity: Decimal) -> Decimal:
    """The pool's ratio after a reduction, tried on a copy."""
    trial = account.book()
    contract, reduced = engine.market[position.symbol], trial.positions[position.symbol, position.side]
    parts = _parts(account, contract, position, quantity, contract.mark, None)
    for size, price in parts:
        change = -size if position.quantity > 0 else size
        trading.apply_fill(trial, contract, reduced, change, price, ZERO, keep_margin=True)
    if pool.isolated:
        reduced.isolated_wallet -= _fee(contract, parts)
    else:
        trial.balance(position.asset).cross -= _fee(contract, parts)
    left = _again(engine, trial, pool.name)
    return left.ratio if left else ZERO
