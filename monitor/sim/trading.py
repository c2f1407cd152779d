"""Fills and liquidations: how the ledger changes, and the events that tell of it."""

from decimal import Decimal
from typing import TYPE_CHECKING

from monitor.sim import frames
from monitor.sim.account import Account, Position, Row
from monitor.sim.decimals import ONE, ZERO, exact, plain, text8, trunc8
from monitor.sim.frames import Execution, Order
from monitor.sim.margin import Pool, bankruptcy_price
from monitor.sim.market import Contract

if TYPE_CHECKING:
    from monitor.sim.engine import Engine


@exact
def apply_fill(
    account: Account, contract: Contract, position: Position, change: Decimal, price: Decimal, commission: Decimal
) -> Decimal:
    """Book a fill and return its realized PnL.

    What closes comes first: its PnL, and its share of the isolated wallet, go to the cross
    wallet. What opens then moves the entry price, truncated to 8 decimals; isolated, it
    takes notional ÷ leverage out of the cross wallet. Commission is paid by the cross wallet.

    Args:
        change: Signed quantity of the fill.
    """
    balance = account.balance(position.asset)
    closing = min(abs(change), abs(position.quantity)) if position.quantity * change < 0 else ZERO
    opening = abs(change) - closing
    direction = ONE if position.quantity > 0 else -ONE
    realized = trunc8(contract.profit(direction * closing, position.entry_price, price))
    if closing:
        released = trunc8(position.isolated_wallet * closing / abs(position.quantity))
        position.isolated_wallet -= released
        balance.cross += released + realized
        position.quantity -= direction * closing
    if not position.quantity:
        balance.cross += position.isolated_wallet  # what truncation left over
        position.isolated_wallet = position.entry_price = position.fees = ZERO
    if opening:
        held = abs(position.quantity)
        position.entry_price = contract.entry(held, position.entry_price, opening, price)
        position.quantity += opening if change > 0 else -opening
        if account.isolated(position):
            margin = trunc8(contract.value(opening, price) / account.setting(position.symbol).leverage)
            position.isolated_wallet += margin
            balance.cross -= margin
        position.fees += commission
    balance.cross -= commission
    position.realized += realized
    return realized


def fill(engine: "Engine", account: Account, position: Position, order: Order, commission: Decimal) -> None:
    """One order filled at once: NEW, TRADE_LITE (USDⓈ-M alone), FILLED, then the account's update, all at one `T`."""
    at_ms = engine.stamp()
    change = order.quantity if order.buy else -order.quantity
    contract = engine.market[position.symbol]
    realized = apply_fill(account, contract, position, change, order.price, commission)
    position.updated_ms = account.balance(position.asset).updated_ms = at_ms
    forced = order.kind == "LIQUIDATION"
    execution = Execution(
        engine.next_id(), commission, realized, "CALCULATED" if forced and engine.faults.calculated else "TRADE"
    )
    balances = [frames.balance_row(account, position.asset, ZERO)]
    update = frames.account_update(at_ms, "ORDER", balances, _changed_rows(engine, account, position))
    lite = [] if contract.coin_margined else [frames.trade_lite(at_ms, order, execution)]
    told = [frames.order_update(at_ms, order, None), *lite, frames.order_update(at_ms, order, execution)]
    if contract.coin_margined:
        for frame in told:
            frame["o"]["ma"] = position.asset
    for frame in (update, *told) if engine.faults.account_update_first else (*told, update):
        engine.tell(account, frame)
    for kind, amount in (("REALIZED_PNL", realized), ("COMMISSION", -commission)):
        if amount:
            engine.record_income(account, kind, position.symbol, position.asset, amount, at_ms, execution.trade_id)
    if forced:
        account.force_orders.append(_force_order(order, contract, at_ms))


def _changed_rows(engine: "Engine", account: Account, changed: Position) -> list[frames.Frame]:
    """The symbol's BOTH row, the changed row, and a leg with an isolated wallet; other symbols never."""
    both = account.position(changed.symbol, "BOTH", engine.market[changed.symbol].margin_asset)
    legs = [p for p in account.positions.values() if p.symbol == changed.symbol and p.side != "BOTH"]
    rows = [both, *(leg for leg in legs if leg is changed or leg.isolated_wallet)]
    return engine.position_rows(account, rows)


def _force_order(order: Order, contract: Contract, at_ms: int) -> Row:
    traded = abs(contract.value(order.quantity, order.price))
    if contract.coin_margined:
        worth = {"cumBase": text8(traded)}
    else:
        worth = {"cumQuote": text8(traded), "cumBase": plain(order.quantity)}
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "pair": contract.pair,
        "status": "FILLED",
        "clientOrderId": order.client_id,
        "price": plain(order.price),
        "avgPrice": plain(order.price),
        "origQty": plain(order.quantity),
        "executedQty": plain(order.quantity),
        **worth,
        "timeInForce": "IOC",
        "type": "LIMIT",
        "reduceOnly": False,
        "closePosition": False,
        "side": order.side,
        "positionSide": order.position_side,
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "origType": "LIMIT",
        "time": at_ms,
        "updateTime": at_ms,
    }


@exact
def liquidate(engine: "Engine", account: Account, pool: Pool) -> None:
    """Close every position of the pool, then take the clearance fee out of what is left.

    A position closes at the mark; an isolated one never beyond its bankruptcy price. A cross
    wallet that this leaves below zero is made up to zero by the insurance fund.
    """
    fee = ZERO
    left = pool.collateral
    for position in pool.positions:
        contract = engine.market[position.symbol]
        price = contract.mark
        if pool.isolated and (bankrupt := bankruptcy_price(position, engine.market)) is not None:
            worst = trunc8(bankrupt)
            price = max(price, worst) if position.quantity > 0 else min(price, worst)
        order_id = engine.next_id()
        order = Order(
            position.symbol,
            f"autoclose-{engine.now_ms()}{order_id:06d}",
            order_id,
            position.quantity < 0,
            abs(position.quantity),
            price,
            position.side,
            position.asset,
            "LIQUIDATION",
            "IOC",
        )
        fee += contract.value(order.quantity, price) * contract.liquidation_fee
        before = position.realized
        fill(engine, account, position, order, ZERO)
        left += position.realized - before
    taken = -left if left < 0 and not pool.isolated else -trunc8(min(fee, max(left, ZERO)))
    engine.counters["liquidations"] += 1
    if taken:
        engine.change_balance(account, pool.asset, taken, "INSURANCE_CLEAR", symbol=pool.positions[0].symbol)
