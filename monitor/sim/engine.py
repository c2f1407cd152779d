"""The exchange without its sockets: market, accounts, and everything that can happen to them."""

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from time import monotonic
from typing import Any

from monitor.sim.scenario import Scenario

from monitor.sim import frames, margin, trading
from monitor.sim.account import Account, Position, Settings
from monitor.sim.decimals import ZERO, Numeric, exact, number, text8, trunc8
from monitor.sim.faults import Faults
from monitor.sim.frames import Frame, Order
from monitor.sim.market import Bracket, Clock, Market, read_brackets

MARGIN_CALL_RATIO = Decimal("0.8")  # undocumented; what the published sample works out to


class Rejected(ValueError):
    """The exchange refuses an operation, with its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Engine:
    """State, and operations on it. Every operation books first and then pushes what the exchange would push."""

    def __init__(self, scenario: Scenario, clock: Clock | None = None) -> None:
        self.scenario = scenario
        self.clock = clock or Clock()
        self.faults = Faults()
        self.counters: Counter[str] = Counter()
        self.market = Market(scenario.contracts())
        self.market.listed_brackets.update(scenario.listed_brackets)
        self.accounts = {account.name: account for account in scenario.accounts()}
        self.random = random.Random(scenario.seed)
        self._last_id = 1_000_000
        self._last_stamp = 0
        self._books: dict[str, deque[tuple[float, Account]]] = {}
        for contract in self.market.contracts.values():
            if not contract.next_funding_ms:
                contract.roll_funding(self.now_ms())
        for account in self.accounts.values():
            self._remember(account)

    # Hooks of the network side; alone, the engine talks to nobody.

    def push(self, account: Account, frame: Frame) -> None:
        """Send one private event."""

    def push_contract(self, frame: Frame) -> None:
        """Send one contractInfo."""

    def changed(self) -> None:
        """Something was booked or a mark moved."""

    # Time and ids

    def now_ms(self) -> int:
        """The exchange's time."""
        return self.clock.now_ms() + self.faults.clock_skew_ms

    def stamp(self) -> int:
        """An event time later than the one before, as the exchange's are, unless the clock was set back."""
        now = self.now_ms()
        if 0 <= self._last_stamp - now < 1000:
            now = self._last_stamp + 1
        self._last_stamp = now
        return now

    def next_id(self) -> int:
        """A fresh order, trade or transaction id."""
        self._last_id += 1
        return self._last_id

    def account(self, name: str) -> Account:
        """The account of that name.

        Raises:
            ValueError: There is none.
        """
        if name not in self.accounts:
            raise ValueError(f"no account {name!r} here; there are {', '.join(self.accounts)}")
        return self.accounts[name]

    def book(self, account: Account) -> Account:
        """The account as REST shows it: as it is, or as it was stale_s ago."""
        if not self.faults.stale_s:
            return account
        until = monotonic() - self.faults.stale_s
        books = self._books[account.name]
        return next((book for at, book in reversed(books) if at <= until), books[0][1])

    def _remember(self, account: Account) -> None:
        self._books.setdefault(account.name, deque(maxlen=512)).append((monotonic(), account.book()))

    def _booked(self, account: Account) -> None:
        self.evaluate([account])
        self._remember(account)
        self.changed()

    # Market

    def set_mark(self, symbol: str, price: Numeric) -> None:
        """Move one mark, and liquidate what this brings to ratio 1."""
        self.set_marks({symbol: price})

    def set_marks(self, marks: Mapping[str, Numeric]) -> None:
        """Move several marks at one instant."""
        prices = {symbol: number(price) for symbol, price in marks.items()}
        for symbol, price in prices.items():
            if price <= 0:
                raise ValueError(f"a mark is above 0, not {price}")
            self.market[symbol].mark = price
        self.evaluate([a for a in self.accounts.values() if any(map(a.holds, prices))])
        self.changed()

    def set_index(self, symbol: str, price: Numeric) -> None:
        """Set the index apart from the mark."""
        self.market[symbol].index = number(price)
        self.changed()

    def set_funding(
        self, symbol: str, rate: Numeric | None = None, next_ms: int | None = None, interval_h: int | None = None
    ) -> None:
        """Change the running rate, the next funding time or the interval of a symbol."""
        contract = self.market[symbol]
        if rate is not None:
            contract.funding_rate = number(rate)
        if interval_h is not None:
            contract.interval_h = interval_h
            contract.roll_funding(self.now_ms())
        if next_ms is not None:
            contract.next_funding_ms = next_ms
        self.changed()

    def set_brackets(self, symbol: str, brackets: Sequence[Bracket] | Sequence[Mapping[str, Any]]) -> None:
        """New brackets, as Bracket or as leverageBracket rows; told by contractInfo with `bks`."""
        rows = list(brackets)
        contract = self.market[symbol]
        contract.brackets = [row if isinstance(row, Bracket) else read_brackets([row])[0] for row in rows]
        self.push_contract(frames.contract_info(contract, self.stamp(), brackets_changed=True))
        self.evaluate([a for a in self.accounts.values() if a.holds(symbol)])
        self.changed()

    def set_status(self, symbol: str, status: str, delivery_ms: int | None = None) -> None:
        """A contract's life: TRADING, SETTLING …; told by contractInfo."""
        contract = self.market[symbol]
        contract.status = status
        if delivery_ms is not None:
            contract.delivery_ms = delivery_ms
        self.push_contract(frames.contract_info(contract, self.stamp(), brackets_changed=False))
        self.changed()

    # Accounts

    @exact
    def fund(self, symbol: str | None = None, rate: Numeric | None = None) -> None:
        """Settle funding now for every open position of a symbol, or of all.

        The payment −rate × mark × quantity is truncated to 8 decimals toward zero, so that nobody
        pays or gets a fraction. Cross: `B` alone. Isolated: `B` and that position's row.
        """
        for contract in self.market.linear():
            if symbol not in (None, contract.symbol) or not contract.perpetual:
                continue
            if rate is not None:
                contract.funding_rate = number(rate)
            contract.roll_funding(max(self.now_ms(), contract.next_funding_ms))
            for account in self.accounts.values():
                for position in [p for p in account.open_positions() if p.symbol == contract.symbol]:
                    self._pay_funding(account, position, contract.funding_rate)
        if symbol is not None:
            self.market[symbol]  # a name that does not exist is an error, not a quiet nothing
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
        self.push(account, frames.account_update(at_ms, "FUNDING_FEE", told, rows, symbol))
        self.record_income(account, "FUNDING_FEE", position.symbol, position.asset, amount, at_ms, 0)
        self._booked(account)

    def transfer(self, account: str, asset: str, amount: Numeric, reason: str | None = None) -> None:
        """Money in (positive) or out (negative). reason: DEPOSIT or WITHDRAW by the sign, unless given."""
        change = trunc8(number(amount))
        self.change_balance(self.account(account), asset, change, reason or ("DEPOSIT" if change > 0 else "WITHDRAW"))
        self._booked(self.account(account))

    def change_balance(self, account: Account, asset: str, change: Decimal, reason: str, symbol: str = "") -> None:
        """Book a change of the cross wallet that no position row goes with."""
        at_ms = self.stamp()
        balance = account.balance(asset)
        balance.cross += change
        balance.updated_ms = at_ms
        kind = reason if reason == "INSURANCE_CLEAR" else "TRANSFER"
        self.push(account, frames.account_update(at_ms, reason, [frames.balance_row(account, asset, change)], []))
        self.record_income(account, kind, symbol, asset, change, at_ms, 0)

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
        self.push(
            owner,
            frames.account_update(
                at_ms,
                "MARGIN_TRANSFER",
                [frames.balance_row(owner, position.asset, -change)],
                [frames.position_row(owner, position, self.market)],
            ),
        )
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
        """A market order of the account, filled at once. side: BUY or SELL. price: the mark, unless given."""
        owner = self.account(account)
        position = self._position(owner, symbol, position_side)
        if side not in ("BUY", "SELL"):
            raise ValueError(f"side is BUY or SELL, not {side!r}")
        size = number(quantity)
        paid = self.market[symbol].mark if price is None else number(price)
        change = size if side == "BUY" else -size
        after = position.quantity + change
        if size <= 0 or (position_side == "LONG" and after < 0) or (position_side == "SHORT" and after > 0):
            raise Rejected(-2022, "ReduceOnly Order is rejected.")
        order_id = self.next_id()
        order = Order(
            symbol, client_id or f"sim-{order_id}", order_id, side == "BUY", size, paid, position_side, position.asset
        )
        trading.fill(self, owner, position, order, trunc8(size * paid * number(commission_rate)))
        self._booked(owner)

    def _position(self, account: Account, symbol: str, side: str) -> Position:
        allowed = ("LONG", "SHORT") if account.hedge else ("BOTH",)
        if side not in allowed:
            raise Rejected(-4061, f"the position side of {account.name} is {' or '.join(allowed)}, not {side}")
        return account.position(symbol, side, self.market[symbol].margin_asset)

    def set_leverage(self, account: str, symbol: str, leverage: int) -> None:
        """Told by ACCOUNT_CONFIG_UPDATE alone. Refused: less leverage on an open isolated position."""
        owner = self.account(account)
        setting = owner.setting(self.market[symbol].symbol)
        if setting.isolated and owner.holds(symbol) and leverage < setting.leverage:
            raise Rejected(-4161, "Leverage reduction is not supported in Isolated Margin Mode with open positions")
        setting.leverage = leverage
        self.push(owner, frames.leverage_changed(self.stamp(), symbol, leverage))
        self._booked(owner)

    @exact
    def set_margin_type(self, account: str, symbol: str, margin_type: str, force: bool = False) -> None:
        """CROSSED or ISOLATED.

        force: Switch an open position too, which the exchange would refuse: its notional ÷ leverage at the
            entry price goes into the isolated wallet, or the whole wallet back.
        """
        owner = self.account(account)
        setting = owner.setting(self.market[symbol].symbol)
        if margin_type not in ("CROSSED", "ISOLATED"):
            raise ValueError(f"margin type is CROSSED or ISOLATED, not {margin_type!r}")
        if setting.margin_type == margin_type:
            raise Rejected(-4046, "No need to change margin type.")
        if owner.holds(symbol) and not force:
            raise Rejected(-4048, "Margin type cannot be changed if there exists position.")
        at_ms = self.stamp()
        sides = ("LONG", "SHORT") if owner.hedge else ("BOTH",)
        positions = [self._position(owner, symbol, side) for side in sides]
        owner.settings[symbol] = Settings(margin_type, setting.leverage)
        asset = positions[0].asset
        for position in positions:
            wallet = trunc8(abs(position.quantity) * position.entry_price / setting.leverage)
            moved = wallet if margin_type == "ISOLATED" else -position.isolated_wallet
            position.isolated_wallet += moved
            owner.balance(asset).cross -= moved
            position.updated_ms = owner.balance(asset).updated_ms = at_ms
        balances = [frames.balance_row(owner, asset, ZERO)]
        rows = [frames.position_row(owner, position, self.market) for position in positions]
        self.push(owner, frames.account_update(at_ms, "MARGIN_TYPE_CHANGE", balances, rows))
        self._booked(owner)

    def set_position_mode(self, account: str, hedge: bool) -> None:
        """One-way or hedge mode. The exchange sends no event; it refuses while a position is open."""
        owner = self.account(account)
        if any(owner.open_positions()):
            raise Rejected(-4068, "Position side cannot be changed if there exists position.")
        owner.hedge = hedge
        owner.positions.clear()
        self._booked(owner)

    def set_permissions(self, account: str, **permissions: bool) -> None:
        """Change what the account's key may do, by the names of apiRestrictions; enableReading false revokes it."""
        owner = self.account(account)
        owner.permissions = {**owner.permissions, **permissions}
        self.changed()

    def set_adl(self, account: str, symbol: str, quantile: int) -> None:
        """Place in the auto-deleveraging queue, 0–4."""
        self.account(account).adl[self.market[symbol].symbol] = quantile
        self.changed()

    def push_event(self, account: str, frame: Frame) -> None:
        """Send a private event as given, booked nowhere: for shapes that the engine does not make."""
        self.push(self.account(account), frame)

    # Consequences

    def evaluate(self, accounts: Sequence[Account]) -> None:
        """Liquidate pools at ratio 1, and call for margin once when a pool passes 0.8."""
        for account in accounts:
            for pool in margin.pools(account, self.market):
                if pool.ratio >= 1 and self.faults.liquidation:
                    trading.liquidate(self, account, pool)
                    account.margin_called.discard(pool.name)
                    self._remember(account)
                elif pool.ratio < MARGIN_CALL_RATIO:
                    account.margin_called.discard(pool.name)
                elif pool.name not in account.margin_called:
                    account.margin_called.add(pool.name)
                    self.push(account, frames.margin_call(self.stamp(), account, pool, self.market))

    def record_income(
        self, account: Account, kind: str, symbol: str, asset: str, amount: Decimal, at_ms: int, trade_id: int
    ) -> None:
        """Add a row of income history."""
        row = {
            "symbol": symbol,
            "incomeType": kind,
            "income": text8(amount),
            "asset": asset,
            "info": kind,
            "time": at_ms,
            "tranId": self.next_id(),
            "tradeId": str(trade_id) if trade_id else "",
        }
        account.income = [*account.income[-999:], row]

    def snapshot(self) -> Scenario:
        """The state as a scenario that starts where this one is."""
        return replace(self.scenario.of(self.market, self.accounts.values()), seed=self.scenario.seed)
