"""One account's ledger: balances, settings, positions, and what happened to them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from monitor.sim.decimals import ONE, ZERO
from monitor.sim.forced import LiquidationRules

Row = dict[str, Any]

ALIAS = "SgsR"


@dataclass
class Balance:
    """One asset. cross: what is not in an isolated wallet (`cw`)."""

    cross: Decimal = ZERO
    updated_ms: int = 0


@dataclass
class Settings:
    """What the account chose for one symbol."""

    margin_type: str = "CROSSED"
    leverage: int = 20

    @property
    def isolated(self) -> bool:
        """Whether a position of the symbol has a wallet of its own."""
        return self.margin_type == "ISOLATED"


@dataclass
class Position:
    """One position. quantity: signed, negative is short; COIN-M: contracts. fees: paid since it was opened.

    coef: The account's own bracket multiplier of the symbol.
    """

    symbol: str
    side: str
    asset: str
    quantity: Decimal = ZERO
    entry_price: Decimal = ZERO
    isolated_wallet: Decimal = ZERO
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    updated_ms: int = 0
    coef: Decimal = ONE


@dataclass(frozen=True)
class Resting:
    """A limit order in the book. It reserves no margin here, and no price fills it."""

    order_id: int
    client_id: str
    symbol: str
    position_side: str
    buy: bool
    quantity: Decimal
    price: Decimal
    placed_ms: int


@dataclass(frozen=True)
class NotionalCoef:
    """The account's own multiplier of a symbol's brackets. scaled: whether REST prints them multiplied already."""

    coef: Decimal
    scaled: bool = True


def monitor_key_permissions() -> dict[str, bool]:
    """What a key that may only read looks like."""
    return {
        "ipRestrict": False,
        "enableReading": True,
        "enableWithdrawals": False,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": True,
        "enableSpotAndMarginTrading": False,
        "enablePortfolioMarginTrading": False,
    }


@dataclass
class Account:
    """A login and its book on one market. Two accounts, one on each market, may share a login.

    Attributes:
        market: usdm or coinm; where its key is heard and which symbols it can hold.
        margin_assets: Margin asset by the contract's own, where it differs: {"USDT": "BNFCR"} for a European account.
        margin_called: Pools already told of; a pool is told anew after it was below the level.
        adl: ADL quantile by symbol, 0–4.
        orders: What rests in the book, oldest first.
        coefs: Bracket multipliers by symbol, where the account has its own.
    """

    name: str
    api_key: str
    secret: str
    market: str = "usdm"
    hedge: bool = False
    multi_assets: bool = False
    margin_assets: dict[str, str] = field(default_factory=dict)
    balances: dict[str, Balance] = field(default_factory=dict)
    settings: dict[str, Settings] = field(default_factory=dict)
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    permissions: dict[str, bool] = field(default_factory=monitor_key_permissions)
    adl: dict[str, int] = field(default_factory=dict)
    income: list[Row] = field(default_factory=list)
    force_orders: list[Row] = field(default_factory=list)
    margin_called: set[str] = field(default_factory=set)
    orders: list[Resting] = field(default_factory=list)
    coefs: dict[str, NotionalCoef] = field(default_factory=dict)
    liquidation: LiquidationRules = field(default_factory=LiquidationRules)

    @property
    def sides(self) -> tuple[str, ...]:
        """Position sides that can be traded."""
        return ("LONG", "SHORT") if self.hedge else ("BOTH",)

    def balance(self, asset: str) -> Balance:
        """The asset's balance, made when first asked for."""
        return self.balances.setdefault(asset, Balance())

    def setting(self, symbol: str) -> Settings:
        """The symbol's settings, made when first asked for."""
        return self.settings.setdefault(symbol, Settings())

    def position(self, symbol: str, side: str, asset: str) -> Position:
        """The position, made flat when first asked for; asset: margin asset of the contract."""
        key = (symbol, side)
        if key not in self.positions:
            coef = self.coefs[symbol].coef if symbol in self.coefs else ONE
            self.positions[key] = Position(symbol, side, self.margin_assets.get(asset, asset), coef=coef)
        return self.positions[key]

    def open_positions(self, asset: str | None = None) -> Iterator[Position]:
        """Positions that are not flat."""
        return (p for p in self.positions.values() if p.quantity and asset in (None, p.asset))

    def shown_positions(self) -> list[Position]:
        """Positions that REST lists: the open ones, and flat ones with an order in the book."""
        ordered = {(order.symbol, order.position_side) for order in self.orders}
        return [position for key, position in self.positions.items() if position.quantity or key in ordered]

    def isolated(self, position: Position) -> bool:
        """Whether the position has a wallet of its own."""
        return self.setting(position.symbol).isolated

    def wallet(self, asset: str) -> Decimal:
        """Wallet balance (`wb`): the cross wallet and every isolated wallet of the asset."""
        isolated = sum((p.isolated_wallet for p in self.positions.values() if p.asset == asset), ZERO)
        return self.balance(asset).cross + isolated

    def holds(self, symbol: str) -> bool:
        """Whether any side of the symbol is open."""
        return any(p.symbol == symbol for p in self.open_positions())

    def book(self) -> "Account":
        """A copy of the money and the positions as they are now, for answers that come late."""
        return replace(
            self,
            balances={asset: replace(balance) for asset, balance in self.balances.items()},
            settings={symbol: replace(settings) for symbol, settings in self.settings.items()},
            positions={key: replace(position) for key, position in self.positions.items()},
            orders=list(self.orders),
        )
