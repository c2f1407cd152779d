"""Fills: how the ledger changes, and the events that tell of it."""

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from monitor.sim import forced, frames
from monitor.sim.account import Account, Position, Row
from monitor.sim.decimals import ONE, ZERO, exact, plain, text8, trunc8
from monitor.sim.frames import Execution, Order
from monitor.sim.market import Contract

if TYPE_CHECKING:
    from monitor.sim.engine import Engine

IOC_REMAINDER = "2"  # `er` of an order that could not be filled completely


@exact
def apply_fill(
    account: Account,
    contract: Contract,
    position: Position,
    change: Decimal,
    price: Decimal,
    commission: Decimal,
    keep_margin: bool = False,
) -> Decimal:
    """Book a fill and return its realized PnL.

    What closes comes first: its PnL, and its share of the isolated wallet, go to the cross
    wallet. What opens then moves the entry price, truncated to 8 decimals; isolated, it
    takes notional ÷ leverage out of the cross wallet. Commission is paid by the cross wallet.

    Args:
        change: Signed quantity of the fill.
        keep_margin: A liquidation that leaves some of an isolated position leaves its wallet there as well:
            the wallet takes the loss, so that its ratio falls.
    """
    balance = account.balance(position.asset)
    closing = min(abs(change), abs(position.quantity)) if position.quantity * change < 0 else ZERO
    opening = abs(change) - closing
    direction = ONE if position.quantity > 0 else -ONE
    realized = trunc8(contract.profit(direction * closing, position.entry_price, price))
    if closing:
        if keep_margin and account.isolated(position):
            position.isolated_wallet += realized
        else:
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


Part = tuple[Decimal, Decimal]  # quantity and price of one fill


def fill(
    engine: "Engine",
    account: Account,
    position: Position,
    order: Order,
    commission: Decimal = ZERO,
    *,
    parts: Sequence[Part] = (),
    execution: str = "TRADE",
    keep_margin: bool = False,
    income: str = "REALIZED_PNL",
) -> None:
    """One order filled at once: NEW, its fills, then the account's update, all at one `T`.

    Before each fill of USDⓈ-M goes its TRADE_LITE, which there is for executions of type TRADE alone.

    Args:
        commission: Of the whole order; paid with the first fill.
        parts: The fills; default: all of the order at its price. What they leave of the order expires.
        execution: `x` of the fills.
        keep_margin: See apply_fill.
        income: Type of the income row of what was realized.
    """
    at_ms = engine.stamp()
    contract = engine.market[position.symbol]
    done: list[Execution] = []
    told = [frames.order_update(at_ms, order, None)]
    parts = parts or ((order.quantity, order.price),)
    for place, (quantity, price) in enumerate(parts, 1):
        paid = commission if place == 1 else ZERO
        change = quantity if order.buy else -quantity
        realized = apply_fill(account, contract, position, change, price, paid, keep_margin)
        filled = sum((size for size, _ in parts[:place]), ZERO)
        average = _average(contract, parts[:place])
        done.append(Execution(engine.next_id(), quantity, price, filled, average, paid, realized, execution))
        if execution == "TRADE" and not contract.coin_margined:
            told.append(frames.trade_lite(at_ms, order, done[-1]))
        told.append(frames.order_update(at_ms, order, done[-1]))
    if done[-1].filled < order.quantity:
        told.append(frames.order_ended(at_ms, order, done[-1], "EXPIRED", IOC_REMAINDER))
    position.updated_ms = account.balance(position.asset).updated_ms = at_ms
    balances = [frames.balance_row(account, position.asset, ZERO)]
    update = frames.account_update(at_ms, "ORDER", balances, _changed_rows(engine, account, position))
    for frame in (update, *told) if engine.faults.account_update_first else (*told, update):
        engine.tell(account, frame)
    for row in done:
        for kind, amount in ((income, row.realized), ("COMMISSION", -row.commission)):
            if amount:
                engine.record_income(account, kind, position.symbol, position.asset, amount, at_ms, row.trade_id)
    if order.client_id.startswith(forced.LISTED):
        account.force_orders.append(_force_order(order, contract, at_ms, parts))


def _average(contract: Contract, parts: Sequence[Part]) -> Decimal:
    """Mean price of fills; as it is where there is one, and else truncated to 8 decimals."""
    if len({price for _, price in parts}) == 1:
        return parts[0][1]
    held, average = ZERO, ZERO
    for quantity, price in parts:
        average = contract.entry(held, average, quantity, price)
        held += quantity
    return average


def _changed_rows(engine: "Engine", account: Account, changed: Position) -> list[frames.Frame]:
    """The symbol's BOTH row, the changed row, and a leg with an isolated wallet; other symbols never."""
    both = account.position(changed.symbol, "BOTH", engine.market[changed.symbol].margin_asset)
    legs = [p for p in account.positions.values() if p.symbol == changed.symbol and p.side != "BOTH"]
    rows = [both, *(leg for leg in legs if leg is changed or leg.isolated_wallet)]
    return engine.position_rows(account, rows)


def _force_order(order: Order, contract: Contract, at_ms: int, parts: Sequence[Part]) -> Row:
    """A row of forceOrders: of type LIMIT, whatever the order's events called it."""
    executed = sum((quantity for quantity, _ in parts), ZERO)
    traded = sum((abs(contract.value(quantity, price)) for quantity, price in parts), ZERO)
    if contract.coin_margined:
        worth = {"cumBase": text8(traded)}
    else:
        worth = {"cumQuote": text8(traded), "cumBase": plain(executed)}
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "pair": contract.pair,
        "status": "FILLED" if executed == order.quantity else "EXPIRED",
        "clientOrderId": order.client_id,
        "price": plain(order.price),
        "avgPrice": plain(_average(contract, parts)),
        "origQty": plain(order.quantity),
        "executedQty": plain(executed),
        **worth,
        "timeInForce": order.time_in_force,
        "type": "LIMIT",
        "reduceOnly": order.reduce_only,
        "closePosition": False,
        "side": order.side,
        "positionSide": order.position_side,
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "origType": "LIMIT",
        "time": at_ms,
        "updateTime": at_ms,
    }
