"""Everything that can happen to an account, and the events that the exchange pushes for it."""

from dataclasses import replace
from decimal import Decimal

from monitor.sim import frames, listings, margin, multiassets, trading
from monitor.sim.account import Account, Position, Settings
from monitor.sim.decimals import ZERO, Numeric, exact, number, trunc8
from monitor.sim.engine import Engine
from monitor.sim.frames import Frame, Order
from monitor.sim.market import Contract


class Rejected(ValueError):
    """The exchange refuses an operation, with its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Desk(Engine):
    """The account operations. Each one books first and then pushes what the exchange would push."""

    @exact
    def fund(self, symbol: str | None = None, rate: Numeric | None = None) -> None:
        """Settle funding now for every open position of a symbol, or of all; delivery contracts have none.

        The payment −rate × notional is truncated to 8 decimals toward zero, so that nobody pays or
        gets a fraction; for COIN-M it is in coin. Cross: `B` alone. Isolated: `B` and that position's row.
        """
        for contract in self.market.contracts.values() if symbol is None else [self.market[symbol]]:
            if not contract.perpetual:
                continue
            if rate is not None:
                contract.funding_rate = number(rate)
            self.settlements = [*self.settlements[-999:], listings.settlement(contract, self.now_ms())]
            contract.roll_funding(self.now_ms())
            for account in self.accounts.values():
                for position in [p for p in account.open_positions() if p.symbol == contract.symbol]:
                    self._pay_funding(account, position, contract.funding_rate)
        self.changed()

    def _pay_funding(self, account: Account, position: Position, rate: Decimal) -> None:
        amount = trunc8(-rate * margin.notional(position, self.market))
        if not amount:
            return
        at_ms = self.stamp()
        balance = account.balance(position.asset)
        rows: list[Frame] | None = [] if self.faults.funding_positions == "empty" else None
        if account.isolated(position):
            position.isolated_wallet += amount
            position.updated_ms = at_ms
            rows = [frames.position_row(account, position, self.market)]
        else:
            balance.cross += amount
        balance.updated_ms = at_ms
        symbol = position.symbol if self.faults.funding_symbol else None
        told = [frames.balance_row(account, position.asset, amount)]
        self.tell(account, frames.account_update(at_ms, "FUNDING_FEE", told, rows, symbol))
        self.record_income(account, "FUNDING_FEE", position.symbol, position.asset, amount, at_ms, 0)
        self._booked(account)

    def transfer(self, account: str, asset: str, amount: Numeric, reason: str | None = None) -> None:
        """Money in (positive) or out (negative). reason: DEPOSIT or WITHDRAW by the sign, unless given."""
        change = trunc8(number(amount))
        self.change_balance(self.account(account), asset, change, reason or ("DEPOSIT" if change > 0 else "WITHDRAW"))
        self._booked(self.account(account))

    def add_margin(self, account: str, symbol: str, amount: Numeric, side: str = "BOTH") -> None:
        """Move money into (positive) or out of (negative) an isolated wallet: `wb` stays as it is."""
        owner = self.account(account)
        position = self._position(owner, symbol, side)
        change = trunc8(number(amount))
        if not owner.isolated(position) or not position.quantity:
            raise Rejected(-4046, f"{symbol} {side} is not an open isolated position")
        at_ms = self.stamp()
        balance = owner.balance(position.asset)
        balance.cross -= change
        position.isolated_wallet += change
        balance.updated_ms = position.updated_ms = at_ms
        balances = [frames.balance_row(owner, position.asset, -change)]
        rows = self.position_rows(owner, [position])
        self.tell(owner, frames.account_update(at_ms, "MARGIN_TRANSFER", balances, rows))
        self._booked(owner)

    @exact
    def fill(
        self,
        account: str,
        symbol: str,
        side: str,
        quantity: Numeric,
        price: Numeric | None = None,
        position_side: str = "BOTH",
        commission_rate: Numeric = "0.0004",
        client_id: str | None = None,
    ) -> None:
        """A market order of the account, filled at once.

        side: BUY or SELL. quantity: COIN-M: whole contracts. price: the mark, unless given.
        """
        owner = self.account(account)
        position = self._position(owner, symbol, position_side)
        contract = self.market[symbol]
        if side not in ("BUY", "SELL"):
            raise ValueError(f"side is BUY or SELL, not {side!r}")
        size = number(quantity)
        paid = contract.mark if price is None else number(price)
        if contract.coin_margined and size != size.to_integral_value():
            raise Rejected(-1111, "Precision is over the maximum defined for this asset.")
        change = size if side == "BUY" else -size
        after = position.quantity + change
        if size <= 0 or (position_side == "LONG" and after < 0) or (position_side == "SHORT" and after > 0):
            raise Rejected(-2022, "ReduceOnly Order is rejected.")
        order_id = self.next_id()
        order = Order(
            symbol, client_id or f"sim-{order_id}", order_id, side == "BUY", size, paid, position_side, position.asset
        )
        trading.fill(self, owner, position, order, trunc8(contract.value(size, paid) * number(commission_rate)))
        self._booked(owner)

    def _position(self, account: Account, symbol: str, side: str) -> Position:
        contract = self._contract(account, symbol)
        if side not in account.sides:
            raise Rejected(-4061, f"the position side of {account.name} is {' or '.join(account.sides)}, not {side}")
        position = account.position(symbol, side, contract.margin_asset)
        if account.multi_assets:
            self.market.asset_index(position.asset)  # without one its margin could not be told in USD
        return position

    def _contract(self, account: Account, symbol: str) -> Contract:
        contract = self.market[symbol]
        if contract.market != account.market:
            raise Rejected(
                -1121, f"Invalid symbol: {symbol} is not traded on {account.market}, where {account.name} is."
            )
        return contract

    def set_leverage(self, account: str, symbol: str, leverage: int) -> None:
        """Told by ACCOUNT_CONFIG_UPDATE alone. Refused: less leverage on an open isolated position."""
        owner = self.account(account)
        setting = owner.setting(self._contract(owner, symbol).symbol)
        if setting.isolated and owner.holds(symbol) and leverage < setting.leverage:
            raise Rejected(-4161, "Leverage reduction is not supported in Isolated Margin Mode with open positions")
        setting.leverage = leverage
        self.tell(owner, frames.leverage_changed(self.stamp(), symbol, leverage))
        self._booked(owner)

    @exact
    def set_margin_type(self, account: str, symbol: str, margin_type: str, force: bool = False) -> None:
        """CROSSED or ISOLATED.

        force: Switch an open position too, which the exchange would refuse: its notional ÷ leverage at the
            entry price goes into the isolated wallet, or the whole wallet back.
        """
        owner = self.account(account)
        contract = self._contract(owner, symbol)
        setting = owner.setting(symbol)
        if margin_type not in ("CROSSED", "ISOLATED"):
            raise ValueError(f"margin type is CROSSED or ISOLATED, not {margin_type!r}")
        if owner.multi_assets and margin_type == "ISOLATED":
            raise Rejected(-4168, "Unable to adjust to isolated-margin mode under the Multi-Assets mode.")
        if setting.margin_type == margin_type:
            raise Rejected(-4046, "No need to change margin type.")
        if owner.holds(symbol) and not force:
            raise Rejected(-4048, "Margin type cannot be changed if there exists position.")
        at_ms = self.stamp()
        positions = [self._position(owner, symbol, side) for side in owner.sides]
        owner.settings[symbol] = Settings(margin_type, setting.leverage)
        asset = positions[0].asset
        for position in positions:
            moved = -position.isolated_wallet
            if margin_type == "ISOLATED" and position.quantity:
                moved = trunc8(abs(contract.value(position.quantity, position.entry_price)) / setting.leverage)
            position.isolated_wallet += moved
            owner.balance(asset).cross -= moved
            position.updated_ms = owner.balance(asset).updated_ms = at_ms
        balances = [frames.balance_row(owner, asset, ZERO)]
        rows = self.position_rows(owner, positions)
        self.tell(owner, frames.account_update(at_ms, "MARGIN_TYPE_CHANGE", balances, rows))
        self._booked(owner)

    def set_multi_assets(self, account: str, on: bool, force: bool = False) -> None:
        """Multi-assets mode on or off, told by ACCOUNT_CONFIG_UPDATE; positions may be open, isolated ones not.

        force: Switch also where the exchange would refuse for a wallet below zero or too little margin.
        """
        owner = self.account(account)
        switched = replace(owner, multi_assets=on)
        if on == owner.multi_assets:
            message = "Adjusted asset mode is currently set and does not need to be adjusted repeatedly."
            raise Rejected(-4171, message)
        if on and owner.market == "usdm" and any(setting.isolated for setting in owner.settings.values()):
            message = "Unable to adjust to Multi-Assets mode with symbols of USDⓈ-M Futures under isolated-margin mode."
            raise Rejected(-4167, message)
        multiassets.check(switched, self.market)
        if not force and multiassets.debts(owner, self.market):
            message = "Unable to adjust Multi-Assets Mode with a negative wallet balance of margin available asset."
            raise Rejected(-4172, message)
        if not force and any(pool.ratio >= 1 for pool in multiassets.pools(switched, self.market)):
            message = "Unable to adjust Multi-Assets Mode with insufficient margin balance in USDⓈ-M Futures."
            raise Rejected(-4169, message)
        owner.multi_assets = on
        owner.margin_called.clear()  # of pools that there are no more
        self.tell(owner, frames.multi_assets_changed(self.stamp(), on))
        self._booked(owner)

    def set_position_mode(self, account: str, hedge: bool) -> None:
        """One-way or hedge mode, of the login on both markets.

        The exchange sends no event; it refuses while a position is open on either market.
        """
        owners = self.login(account)
        if any(any(owner.open_positions()) for owner in owners):
            raise Rejected(-4068, "Position side cannot be changed if there exists position.")
        for owner in owners:
            owner.hedge = hedge
            owner.positions.clear()
            self._booked(owner)

    def set_permissions(self, account: str, **permissions: bool) -> None:
        """Change what the account's key may do, by the names of apiRestrictions; enableReading false revokes it."""
        for owner in self.login(account):
            owner.permissions = {**owner.permissions, **permissions}
        self.changed()

    def set_system_status(self, status: int = 0, msg: str = "normal") -> None:
        """What the exchange says of itself: 0 normal, 1 system_maintenance."""
        self.system_status = {"status": status, "msg": msg}

    def set_adl(self, account: str, symbol: str, quantile: int) -> None:
        """Place in the auto-deleveraging queue, 0–4."""
        owner = self.account(account)
        owner.adl[self._contract(owner, symbol).symbol] = quantile
        self.changed()

    def push_event(self, account: str, frame: Frame) -> None:
        """Send a private event as given, booked nowhere: for shapes that the engine does not make."""
        self.push(self.account(account), frame)
