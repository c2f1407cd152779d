"""A scenario: what there is when the exchange opens, and what then happens by itself.

A file is TOML or JSON of the same shape; the state file of a running exchange is one too.

    seed = 0                            # listen keys follow from it

    [[symbol]]
    symbol = "BTCUSDT"
    mark = "60000"                      # numbers as text keep every digit
    index = "59994"                     # default: the mark
    margin_asset = "USDT"               # default: the last four letters, or the coin: BTC for BTCUSD_PERP
    funding_rate = "0.0001"             # positive: longs pay
    interval_h = 8
    next_funding_ms = 0                 # 0: the next whole interval
    contract_type = "PERPETUAL"         # TRADIFI_PERPETUAL, CURRENT_QUARTER …
    status = "TRADING"
    delivery_ms = 4133404800000
    liquidation_fee = "0.0125"
    adl_risk = "low"                    # medium, high
    coin_margined = false               # default: true for names with USD_, as BTCUSD_PERP, BTCUSD_261225
    contract_size = "1"                 # default for COIN-M: "100" for BTC, "10" for any other coin
    brackets = [[150, "300000", "0.004"], [100, "800000", "0.005"]]   # highest leverage, cap, rate
                                        # or rows of the leverageBracket shape; default: a table of our own;
                                        # caps of COIN-M are in coin

    [[asset]]                           # what counts as collateral in multi-assets mode; default: five of our own
    asset = "BTC"
    index = "60000"                     # USD for one
    bid_buffer = "0.05"                 # haircut of what is owned; all buffers are fractions, 0 by default
    ask_buffer = "0.05"                 # what is owed, and margin, cost this much more
    auto_bid_buffer = "0.025"           # the same for what auto-exchange sells and buys
    auto_ask_buffer = "0.025"
    margin_available = true
    auto_exchange = "-0.10"             # a cross wallet below this is repaid; default: no such threshold

    [[account]]
    name = "main"
    market = "usdm"                     # or coinm; two accounts, one on each, may share a login
    api_key = "main-key"                # defaults: NAME-key, NAME-secret
    secret = "main-secret"
    hedge = false
    multi_assets = false                # true: no symbol of the account can be ISOLATED
    balances = {USDT = "10000"}         # COIN-M: by coin; cross wallets: isolated wallets are not part of them
    margin_assets = {USDT = "BNFCR"}    # a European account; default: none
    permissions = {enableFutures = true}
    liquidation = {mode = "partial"}    # rules by the names of forced.LiquidationRules; default: full
    coefs = {BTCUSDT = {coef = "1.5", scaled = true}}   # a notionalCoef, and whether REST prints it multiplied

    [account.settings.SOLUSDT]          # default: CROSSED, 20
    margin_type = "ISOLATED"
    leverage = 10

    [[account.position]]
    symbol = "SOLUSDT"
    side = "BOTH"                       # LONG or SHORT in hedge mode
    quantity = "50"                     # negative: short; COIN-M: contracts
    entry_price = "150"
    isolated_wallet = "750"

    [[account.order]]                   # an order that rests in the book
    symbol = "BTCUSDT"
    position_side = "BOTH"
    buy = true
    quantity = "0.1"
    price = "50000"
    order_id = 1
    client_id = "sim-1"
    placed_ms = 0

    [[script]]                          # any control command, at seconds after the start
    at_s = 5
    command = "transfer"
    account = "main"
    asset = "USDT"
    amount = "-500"

    [[script]]                          # a straight move of a mark
    at_s = 10
    command = "move"
    symbol = "BTCUSDT"
    price = "52000"
    over_s = 30

    [[script]]                          # the same of an asset index
    at_s = 10
    command = "move_index"
    asset = "BTC"
    index = "51000"
    over_s = 30
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.sim import defaults
from monitor.sim.account import Account, Balance, NotionalCoef, Position, Resting, Settings
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import number, plain
from monitor.sim.market import MARKETS, Bracket, Contract, ladder, read_brackets

CONTRACT_NUMBERS = ("mark", "index", "funding_rate", "liquidation_fee", "contract_size")
CONTRACT_PLAIN = (
    "margin_asset",
    "interval_h",
    "next_funding_ms",
    "contract_type",
    "status",
    "delivery_ms",
    "coin_margined",
    "adl_risk",
    "adl_risk_ms",
)
ASSET_NUMBERS = ("index", "bid_buffer", "ask_buffer", "auto_bid_buffer", "auto_ask_buffer", "auto_exchange")
POSITION_NUMBERS = ("quantity", "entry_price", "isolated_wallet", "realized", "fees")


@dataclass(frozen=True)
class Scenario:
    """Contracts, asset indexes and accounts to begin with, and a script. An exchange works on copies of them."""

    contracts: list[Contract] = field(default_factory=defaults.contracts)
    accounts: list[Account] = field(default_factory=list)
    script: list[dict[str, Any]] = field(default_factory=list)
    listed_brackets: dict[str, list[Bracket]] = field(default_factory=dict)
    seed: int = 0
    asset_indexes: list[AssetIndex] = field(default_factory=defaults.asset_indexes)

    @classmethod
    def named(cls, name: str) -> "Scenario":
        """calm: one account, nothing moves. mixed: with a hedge and a European account. crash: calm, then −15 %.

        coinm: one COIN-M account; nothing moves. multi-assets: one account in that mode; nothing moves.
        liquidation: one account, which by the script is liquidated in part, goes bankrupt, and loses a leg to ADL.
        """
        match name:
            case "calm":
                return cls(accounts=[defaults.main_account()])
            case "mixed":
                return cls(accounts=[defaults.main_account(), defaults.hedge_account(), defaults.europe_account()])
            case "coinm":
                return cls(accounts=[defaults.coin_account()])
            case "liquidation":
                return cls(accounts=[defaults.large_account()], script=list(defaults.LIQUIDATION_SCRIPT))
            case "multi-assets":
                return cls(accounts=[defaults.multi_account()])
            case "crash":
                falls = {"BTCUSDT": "51000", "ETHUSDT": "2500", "SOLUSDT": "125"}
                moves = [
                    {"at_s": 10, "command": "move", "symbol": symbol, "price": price, "over_s": 60}
                    for symbol, price in falls.items()
                ]
                out = {"at_s": 5, "command": "transfer", "account": "main", "asset": "USDT", "amount": "-6000"}
                return cls(accounts=[defaults.main_account()], script=[out, *moves])
        raise ValueError(
            "scenarios are calm, mixed and crash, multi-assets in that mode, liquidation, coinm for COIN-M, "
            f"or a .toml or .json file, not {name!r}"
        )

    @classmethod
    def load(cls, name: str) -> "Scenario":
        """A scenario by its name or from a file."""
        path = Path(name)
        if path.suffix == ".toml":
            return cls.from_dict(tomllib.loads(path.read_text("utf-8"), parse_float=Decimal))
        if path.suffix == ".json":
            return cls.from_dict(json.loads(path.read_text("utf-8"), parse_float=Decimal))
        return cls.named(name)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Scenario":
        """A scenario from the shape above; without symbols, the common ones.

        Raises:
            ValueError: A key is unknown or missing.
        """
        known(data, "scenario", ("seed", "symbol", "asset", "account", "script"))
        contracts = [read_contract(row) for row in data["symbol"]] if "symbol" in data else defaults.contracts()
        listed = {contract.symbol: contract for contract in contracts}
        return cls(
            contracts=contracts,
            accounts=[read_account(row, listed) for row in data.get("account", ())],
            script=[dict(row) for row in data.get("script", ())],
            seed=int(data.get("seed", 0)),
            asset_indexes=[read_asset(row) for row in data["asset"]] if "asset" in data else defaults.asset_indexes(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The shape above, fit for JSON."""
        return {
            "seed": self.seed,
            "symbol": [contract_dict(contract) for contract in self.contracts],
            "asset": [asset_dict(index) for index in self.asset_indexes],
            "account": [account_dict(account) for account in self.accounts],
            "script": self.script,
        }


def known(row: Mapping[str, Any], what: str, keys: tuple[str, ...]) -> None:
    """Refuse a key that would be ignored."""
    if strange := [key for key in row if key not in keys]:
        raise ValueError(f"{what}: no key {strange[0]!r}; there are {', '.join(keys)}")


def read_contract(row: Mapping[str, Any]) -> Contract:
    """One `[[symbol]]`."""
    known(row, "symbol", ("symbol", "brackets", *CONTRACT_NUMBERS, *CONTRACT_PLAIN))
    symbol = row["symbol"]
    contract = defaults.contract(symbol, "0")
    contract.mark = number(row["mark"])
    for key in CONTRACT_NUMBERS:
        if key in row:
            setattr(contract, key, number(row[key]))
    for key in CONTRACT_PLAIN:
        if key in row:
            setattr(contract, key, row[key])
    if "brackets" in row:
        rows = row["brackets"]
        contract.brackets = read_brackets(rows) if rows and isinstance(rows[0], dict) else ladder(rows)
    return contract


def contract_dict(contract: Contract) -> dict[str, Any]:
    """One `[[symbol]]`, for JSON."""
    row: dict[str, Any] = {"symbol": contract.symbol, "mark": plain(contract.mark)}
    row |= {key: plain(value) for key in CONTRACT_NUMBERS if (value := getattr(contract, key)) is not None}
    row |= {key: getattr(contract, key) for key in CONTRACT_PLAIN}
    row["brackets"] = [
        {
            "initialLeverage": bracket.leverage,
            "notionalFloor": plain(bracket.floor),
            "notionalCap": plain(bracket.cap),
            "maintMarginRatio": plain(bracket.rate),
            "cum": plain(bracket.amount),
        }
        for bracket in contract.brackets
    ]
    return row


def read_asset(row: Mapping[str, Any]) -> AssetIndex:
    """One `[[asset]]`."""
    known(row, "asset", ("asset", "margin_available", *ASSET_NUMBERS))
    numbers = {key: number(row[key]) for key in ASSET_NUMBERS if key in row}
    return AssetIndex(row["asset"], margin_available=row.get("margin_available", True), **numbers)


def asset_dict(index: AssetIndex) -> dict[str, Any]:
    """One `[[asset]]`, for JSON."""
    row: dict[str, Any] = {"asset": index.asset, "margin_available": index.margin_available}
    return row | {key: plain(value) for key in ASSET_NUMBERS if (value := getattr(index, key)) is not None}


ACCOUNT_PLAIN = ("market", "hedge", "multi_assets", "margin_assets", "adl", "income", "force_orders")


def read_account(row: Mapping[str, Any], listed: Mapping[str, Contract]) -> Account:
    """One `[[account]]`. listed: contracts by symbol."""
    own = ("name", "api_key", "secret", "balances", "settings", "position", "permissions", "margin_called", "updated")
    known(row, "account", (*own, *ACCOUNT_PLAIN, "liquidation", "coefs", "order"))
    name = row["name"]
    account = Account(name, row.get("api_key", f"{name}-key"), row.get("secret", f"{name}-secret"))
    for key in ACCOUNT_PLAIN:
        if key in row:
            setattr(account, key, row[key])
    if account.market not in MARKETS:
        raise ValueError(f"account {name}: market is {' or '.join(MARKETS)}, not {account.market!r}")
    updated = row.get("updated", {})
    account.balances = {
        asset: Balance(number(amount), updated.get(asset, 0)) for asset, amount in row.get("balances", {}).items()
    }
    account.settings = {symbol: Settings(**chosen) for symbol, chosen in row.get("settings", {}).items()}
    account.permissions = {**account.permissions, **row.get("permissions", {})}
    account.margin_called = set(row.get("margin_called", ()))
    account.liquidation = account.liquidation.changed(**row.get("liquidation", {}))
    account.coefs = {
        symbol: NotionalCoef(number(own["coef"]), own.get("scaled", True))
        for symbol, own in row.get("coefs", {}).items()
    }
    account.orders = [
        Resting(**{**order, "quantity": number(order["quantity"]), "price": number(order["price"])})
        for order in row.get("order", ())
    ]
    for held in row.get("position", ()):
        known(held, "position", ("symbol", "side", "updated_ms", *POSITION_NUMBERS))
        contract = listed.get(held["symbol"])
        if contract is None or contract.market != account.market:
            raise ValueError(f"account {name}: no symbol {held['symbol']!r} on {account.market}")
        position: Position = account.position(contract.symbol, held.get("side", "BOTH"), contract.margin_asset)
        position.updated_ms = held.get("updated_ms", 0)
        for key in POSITION_NUMBERS:
            setattr(position, key, number(held.get(key, 0)))
    return account


def account_dict(account: Account) -> dict[str, Any]:
    """One `[[account]]`, for JSON."""
    return {
        "name": account.name,
        "api_key": account.api_key,
        "secret": account.secret,
        **{key: getattr(account, key) for key in ACCOUNT_PLAIN},
        "balances": {asset: plain(balance.cross) for asset, balance in account.balances.items()},
        "updated": {asset: balance.updated_ms for asset, balance in account.balances.items()},
        "settings": {
            symbol: {"margin_type": chosen.margin_type, "leverage": chosen.leverage}
            for symbol, chosen in account.settings.items()
        },
        "permissions": account.permissions,
        "margin_called": sorted(account.margin_called),
        "liquidation": account.liquidation.to_dict(),
        "coefs": {symbol: {"coef": plain(own.coef), "scaled": own.scaled} for symbol, own in account.coefs.items()},
        "order": [
            asdict(order) | {"quantity": plain(order.quantity), "price": plain(order.price)} for order in account.orders
        ],
        "position": [
            {
                "symbol": position.symbol,
                "side": position.side,
                "updated_ms": position.updated_ms,
                **{key: plain(getattr(position, key)) for key in POSITION_NUMBERS},
            }
            for position in account.positions.values()
        ],
    }
