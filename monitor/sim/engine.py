"""The exchange without its sockets: market, accounts, and everything that can happen to them."""

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from time import monotonic
from typing import Any

from monitor.sim import collateral, frames, liquidation, margin, multiassets
from monitor.sim.account import ALIAS, Account, Position, Row
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import ZERO, Numeric, number, text8
from monitor.sim.faults import Faults
from monitor.sim.frames import Frame
from monitor.sim.market import Bracket, Clock, Market, read_brackets
from monitor.sim.scenario import Scenario

MARGIN_CALL_RATIO = Decimal("0.8")  # undocumented; what the published sample works out to
INSURANCE = Decimal("793930579.315848")  # of each fund of USDⓈ-M at the start; the published sample's


class Engine:
    """The state, the moves of the market, and what follows from them by itself. Account operations are in desk."""

    def __init__(self, scenario: Scenario, clock: Clock | None = None) -> None:
        self.scenario = scenario
        self.clock = clock or Clock()
        self.faults = Faults()
        self.counters: Counter[str] = Counter()
        self.market = Market(deepcopy(scenario.contracts), scenario.asset_indexes)
        self.market.listed_brackets.update(scenario.listed_brackets)
        self.accounts = {account.name: account for account in deepcopy(scenario.accounts)}
        logins = {(account.market, account.api_key) for account in self.accounts.values()}
        if not len(logins) == len(self.accounts) == len(scenario.accounts):
            raise ValueError("each account has a name of its own, and on each market a key of its own")
        for account in self.accounts.values():
            multiassets.check(account, self.market)
        self.system_status: Row = {"status": 0, "msg": "normal"}
        self.settlements: list[Row] = []
        self.insurance: dict[str, Decimal] = {asset: INSURANCE for asset in ("USDT", "USDC")}
        self.random = random.Random(scenario.seed)
        self.last_id = 1_000_000
        self._last_stamp = 0
        self._books: dict[str, deque[tuple[float, Account]]] = {}
        for contract in self.market.contracts.values():
            if not contract.next_funding_ms:
                contract.roll_funding(self.now_ms())
        for account in self.accounts.values():
            self._remember(account)

    # Hooks of the network side; alone, the engine talks to nobody.

    def push(self, account: Account, frame: Frame) -> None:
        """Send one private event, just as it is."""

    def push_contract(self, frame: Frame) -> None:
        """Send one contractInfo."""

    def changed(self) -> None:
        """Something was booked or a mark moved."""

    def tell(self, account: Account, frame: Frame) -> None:
        """Send an event that the engine made; those of COIN-M name the account and the margin asset."""
        if account.market == "coinm" and frame["e"] in frames.WITH_ALIAS:
            frame["i"] = ALIAS
            if frame["e"] == "ORDER_TRADE_UPDATE":
                frame["o"]["ma"] = frame["o"]["N"]
        self.push(account, frame)

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
        self.last_id += 1
        return self.last_id

    def account(self, name: str) -> Account:
        """The account of that name.

        Raises:
            ValueError: There is none.
        """
        if name not in self.accounts:
            raise ValueError(f"no account {name!r} here; there are {', '.join(self.accounts)}")
        return self.accounts[name]

    def login(self, name: str) -> list[Account]:
        """The account and, where its key opens the other market too, the one there."""
        key = self.account(name).api_key
        return [account for account in self.accounts.values() if account.api_key == key]

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
        self.evaluate([a for a in self.accounts.values() if any(p.symbol in prices for p in a.open_positions())])
        self.changed()

    def set_index(self, symbol: str, price: Numeric) -> None:
        """Set the index apart from the mark."""
        self.market[symbol].index = number(price)
        self.changed()

    def set_asset_index(
        self,
        asset: str,
        index: Numeric | None = None,
        bid_buffer: Numeric | None = None,
        ask_buffer: Numeric | None = None,
        auto_bid_buffer: Numeric | None = None,
        auto_ask_buffer: Numeric | None = None,
        auto_exchange: Numeric | None = None,
        margin_available: bool | None = None,
    ) -> None:
        """Change what is given of an asset's index, and liquidate what this brings to ratio 1.

        No account is told. An asset that had no index gets one, without buffers unless they are given.
        """
        numbers = {
            "index": index,
            "bid_buffer": bid_buffer,
            "ask_buffer": ask_buffer,
            "auto_bid_buffer": auto_bid_buffer,
            "auto_ask_buffer": auto_ask_buffer,
            "auto_exchange": auto_exchange,
        }
        changes: dict[str, Any] = {key: number(value) for key, value in numbers.items() if value is not None}
        if margin_available is not None:
            changes["margin_available"] = margin_available
        known = self.market.asset_indexes.get(asset)
        if known is None:
            known = AssetIndex(asset, changes.pop("index", ZERO))
        self.market.asset_indexes[asset] = replace(known, **changes)
        self.evaluate([account for account in self.accounts.values() if account.multi_assets])
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
        rows: list[Bracket | Mapping[str, Any]] = list(brackets)
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

    # Consequences

    def change_balance(self, account: Account, asset: str, change: Decimal, reason: str, symbol: str = "") -> None:
        """Book a change of the cross wallet that no position row goes with."""
        at_ms = self.stamp()
        balance = account.balance(asset)
        balance.cross += change
        balance.updated_ms = at_ms
        kind = reason if reason == "INSURANCE_CLEAR" else "TRANSFER"
        self.tell(account, frames.account_update(at_ms, reason, [frames.balance_row(account, asset, change)], []))
        self.record_income(account, kind, symbol, asset, change, at_ms, 0)

    def evaluate(self, accounts: Sequence[Account]) -> None:
        """Liquidate pools at ratio 1, and call for margin once when a pool passes 0.8."""
        for account in accounts:
            if margin.is_calm(account, self.market):
                continue
            if account.multi_assets and collateral.repay(self, account):
                self._remember(account)
            for pool in multiassets.pools(account, self.market):
                if pool.ratio >= 1 and self.faults.liquidation:
                    if account.multi_assets:
                        collateral.liquidate(self, account)
                    else:
                        liquidation.liquidate(self, account, pool)
                    account.margin_called.discard(pool.name)
                    self._remember(account)
                elif pool.ratio < MARGIN_CALL_RATIO:
                    account.margin_called.discard(pool.name)
                elif pool.name not in account.margin_called:
                    account.margin_called.add(pool.name)
                    self.tell(account, frames.margin_call(self.stamp(), account, pool, self.market))

    def position_rows(self, account: Account, changed: Sequence[Position]) -> list[Frame]:
        """`P` rows of what changed; of every symbol, where COIN-M is told to be as its documents say."""
        everything = self.faults.all_positions and account.market == "coinm"
        positions = margin.every_position(account, self.market) if everything else changed
        return [frames.position_row(account, position, self.market) for position in positions]

    def record_income(
        self, account: Account, kind: str, symbol: str, asset: str, amount: Decimal, at_ms: int, trade_id: int
    ) -> None:
        """Add a row of income history. What is cleared comes out of the insurance fund, or goes into it."""
        if kind == "INSURANCE_CLEAR":
            self.insurance[asset] = self.insurance.get(asset, ZERO) - amount
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
        """The state as a scenario that goes on where this one is."""
        return deepcopy(self.as_scenario())

    def as_scenario(self) -> Scenario:
        """The live state seen as a scenario: to be read at once, for it goes on changing."""
        contracts, accounts = list(self.market.contracts.values()), list(self.accounts.values())
        indexes = list(self.market.asset_indexes.values())
        return replace(self.scenario, contracts=contracts, accounts=accounts, asset_indexes=indexes)
