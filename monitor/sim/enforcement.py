"""What the exchange does by force, called for by hand: liquidation, auto-deleveraging, settlement, and their rules."""

from decimal import ROUND_FLOOR, Decimal
from typing import Any

from monitor.sim import forced, frames, liquidation, margin
from monitor.sim.account import Account, NotionalCoef, Position, Resting
from monitor.sim.decimals import ONE, ZERO, Numeric, exact, number
from monitor.sim.desk import Desk, Rejected
from monitor.sim.margin import Pool

ADL_RISKS = ("low", "medium", "high")


class Enforcement(Desk):
    """Orders that nobody placed, and what there has to be for them."""

    def set_liquidation(self, account: str | None = None, **rules: Any) -> None:
        """Change how an account, or every one, is liquidated: rules by the names of forced.LiquidationRules."""
        for owner in self.accounts.values() if account is None else [self.account(account)]:
            owner.liquidation = owner.liquidation.changed(**rules)
        self.changed()

    # Resting orders

    def place_resting(
        self,
        account: str,
        symbol: str,
        side: str,
        quantity: Numeric,
        price: Numeric,
        position_side: str = "BOTH",
        client_id: str = "",
    ) -> int:
        """Put a limit order into the book, where it stays until it is cancelled or expires; its id."""
        owner = self.account(account)
        position = self._position(owner, symbol, position_side)
        order_id = self.next_id()
        buy, size, limit = side == "BUY", number(quantity), number(price)
        name = client_id or f"sim-{order_id}"
        order = Resting(order_id, name, symbol, position.side, buy, size, limit, self.now_ms())
        owner.orders.append(order)
        shown = liquidation.resting_order(self, owner, order)
        self.tell(owner, frames.order_update(self.stamp(), shown, None))
        self._booked(owner)
        return order_id

    def cancel_resting(self, account: str, order_id: int) -> None:
        """Take an order out of the book as its owner would."""
        owner = self.account(account)
        found = [order for order in owner.orders if order.order_id == order_id]
        if not found:
            raise Rejected(-2011, "Unknown order sent.")
        liquidation.end_orders(self, owner, found, "CANCELED", "0")
        self._booked(owner)

    # Forced orders

    def liquidate(
        self, account: str, symbol: str, quantity: Numeric, price: Numeric | None = None, side: str | None = None
    ) -> None:
        """One autoclose order and its clearance fee, whatever the ratio is.

        Args:
            price: Default: the mark.
            side: LONG or SHORT, where both are open.
        """
        owner, position, pool = self._pool(account, symbol, side)
        size = self._size(position, number(quantity))
        liquidation.reduce(self, owner, pool, position, size, None if price is None else number(price))
        self.counters["liquidations"] += 1
        self._booked(owner)

    def take_over(self, account: str, symbol: str, price: Numeric | None = None, side: str | None = None) -> None:
        """Close the whole pool of a position, whatever the ratio is, and beyond the bankruptcy price if need be.

        What is then missing in the wallet the insurance fund makes up: an INSURANCE_CLEAR above zero.

        Args:
            price: Of this symbol; the other positions of the pool close at their marks. Default: the mark.
            side: LONG or SHORT, where both are open.
        """
        owner, _, pool = self._pool(account, symbol, side)
        prices = {} if price is None else {symbol: number(price)}
        liquidation.take_over(self, owner, pool, prices, beyond_bankruptcy=True)
        self.counters["liquidations"] += 1
        self._booked(owner)

    def adl(
        self,
        account: str,
        symbol: str,
        quantity: Numeric | None = None,
        fraction: Numeric | None = None,
        price: Numeric | None = None,
        side: str | None = None,
        client_id: str = forced.ADL,
    ) -> None:
        """Auto-deleverage a position, without commission or clearance fee; open orders of the symbol are cancelled.

        Args:
            quantity, fraction: How much of it, at most one of them; default: all.
            price: Default: the mark.
            side: LONG or SHORT; where both are open and none is given, the more profitable: never both.
        """
        if quantity is not None and fraction is not None:
            raise ValueError("a quantity or a fraction, not both")
        owner = self.account(account)
        position = self._held(owner, symbol, side)
        contract = self.market[symbol]
        size = abs(position.quantity)
        if fraction is not None:
            size = (size * number(fraction) / contract.lot).to_integral_value(ROUND_FLOOR) * contract.lot
        elif quantity is not None:
            size = number(quantity)
        size = self._size(position, size)
        cancelled = [order for order in owner.orders if order.symbol == symbol]
        liquidation.end_orders(self, owner, cancelled, "CANCELED", "0")
        paid = contract.mark if price is None else number(price)
        liquidation.forced_fill(self, owner, position, client_id, [(size, paid)])
        self.counters["auto-deleveraged"] += 1
        self._booked(owner)

    def settle(self, symbol: str, price: Numeric | None = None, status: str | None = None) -> None:
        """End a contract: its new status is told, its orders expire, and every position of it is closed.

        Args:
            price: Default: the mark, which in the last half hour is the mean of the index.
            status: Default: SETTLING for a perpetual, DELIVERING for a delivery contract.
        """
        contract = self.market[symbol]
        paid = contract.mark if price is None else number(price)
        self.set_status(symbol, status or ("SETTLING" if contract.perpetual else "DELIVERING"))
        client_id = forced.DELIVERY if contract.coin_margined else forced.SETTLEMENT
        income = "REALIZED_PNL" if contract.perpetual else "DELIVERED_SETTELMENT"  # spelled so by the exchange
        for owner in self.accounts.values():
            resting = [order for order in owner.orders if order.symbol == symbol]
            liquidation.end_orders(self, owner, resting, "EXPIRED", liquidation.DELISTED)
            held = [position for position in owner.open_positions() if position.symbol == symbol]
            for position in held:
                parts = [(abs(position.quantity), paid)]
                liquidation.forced_fill(self, owner, position, client_id, parts, income=income)
            if held or resting:
                self._booked(owner)

    def delist(self, symbol: str) -> None:
        """Take a contract off every list and stream, as some time after its delivery. No event tells of it."""
        contract = self.market[symbol]
        for owner in self.accounts.values():
            if owner.holds(symbol) or any(order.symbol == symbol for order in owner.orders):
                raise ValueError(f"{owner.name} has a position or an order in {symbol}: settle it first")
        del self.market.contracts[contract.symbol]
        self.changed()

    def _held(self, owner: Account, symbol: str, side: str | None) -> Position:
        """The open position; of two legs the more profitable, where none is named."""
        self._contract(owner, symbol)
        found = [p for p in owner.open_positions() if p.symbol == symbol and side in (None, p.side)]
        if not found:
            raise Rejected(-2022, f"{owner.name} has no position in {symbol}" + (f" {side}" if side else ""))
        return max(found, key=lambda position: margin.unrealized(position, self.market))

    def _pool(self, account: str, symbol: str, side: str | None) -> tuple[Account, Position, Pool]:
        owner = self.account(account)
        if owner.multi_assets:
            raise ValueError(f"{owner.name} is in multi-assets mode, where a fall of marks or of an index liquidates")
        position = self._held(owner, symbol, side)
        pools = margin.pools(owner, self.market)
        return owner, position, next(pool for pool in pools if any(held is position for held in pool.positions))

    def _size(self, position: Position, size: Decimal) -> Decimal:
        if not 0 < size <= abs(position.quantity):
            raise Rejected(-2022, f"a quantity above 0 and up to {abs(position.quantity)}, not {size}")
        return size

    # Terms

    @exact
    def set_notional_coef(self, account: str, symbol: str, coef: Numeric | None, scaled: bool = True) -> None:
        """Give an account brackets of its own: the symbol's, with edges and amounts × coef. No event tells of it.

        Args:
            coef: None takes it away again.
            scaled: Whether leverageBracket prints the edges and amounts multiplied already. The documents do not
                say which; margin is always computed with the multiplied ones.
        """
        owner = self.account(account)
        self._contract(owner, symbol)
        if coef is None:
            owner.coefs.pop(symbol, None)
        elif number(coef) > 0:
            owner.coefs[symbol] = NotionalCoef(number(coef), scaled)
        else:
            raise ValueError(f"a coefficient is above 0, not {coef}")
        for position in owner.positions.values():
            if position.symbol == symbol:
                position.coef = ONE if coef is None else number(coef)
        self._booked(owner)

    def set_adl_risk(self, symbol: str, risk: str) -> None:
        """A symbol's risk of auto-deleveraging: low, medium or high."""
        if risk not in ADL_RISKS:
            raise ValueError(f"a risk is {', '.join(ADL_RISKS)}, not {risk!r}")
        contract = self.market[symbol]
        contract.adl_risk, contract.adl_risk_ms = risk, self.now_ms()
        self.changed()

    def set_insurance(self, asset: str, amount: Numeric) -> None:
        """What the insurance fund of a margin asset has."""
        if number(amount) < ZERO:
            raise ValueError(f"a fund has 0 or more, not {amount}")
        self.insurance[asset] = number(amount)
        self.changed()
