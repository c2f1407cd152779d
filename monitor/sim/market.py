"""What is traded: contracts with their marks, funding and brackets."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import ONE, ZERO, Numeric, exact, number, trunc8

PERPETUAL_DELIVERY_MS = 4133404800000
HOUR_MS = 3_600_000
USDM_LOT = Decimal("0.001")
MARKETS = ("usdm", "coinm")
UNCAPPED = Decimal(9223372036854775807)  # what the exchange prints where a bracket has no end


class Clock:
    """The exchange's time: the wall clock, moved by offset_ms."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000 + self.offset_ms


@dataclass(frozen=True, slots=True)
class Bracket:
    """One margin tier: maintenance margin = notional × rate − amount, from floor up to cap.

    All in the margin asset: dollars for USDⓈ-M, coins for COIN-M, where the exchange calls the edges quantities.
    """

    leverage: int
    floor: Decimal
    cap: Decimal
    rate: Decimal
    amount: Decimal


def ladder(rows: Iterable[tuple[int, Numeric, Numeric]]) -> list[Bracket]:
    """Brackets from (highest leverage, cap, rate) rows.

    Floors and amounts follow: each floor is the cap before it, and amount grows by
    floor × (rate − rate before), which makes maintenance margin continuous.
    """
    brackets: list[Bracket] = []
    floor, rate, amount = ZERO, ZERO, ZERO
    for leverage, cap, next_rate in rows:
        amount += floor * (number(next_rate) - rate) if brackets else ZERO
        rate = number(next_rate)
        brackets.append(Bracket(leverage, floor, number(cap), rate, amount))
        floor = number(cap)
    return brackets


def read_brackets(rows: Sequence[Mapping[str, Any]]) -> list[Bracket]:
    """Brackets from rows of the leverageBracket shape of either market; a cap of null is none."""
    brackets = []
    for row in rows:
        floor = next((row[key] for key in ("notionalFloor", "qtyFloor", "qtylFloor") if key in row), None)
        cap = row["notionalCap"] if "notionalCap" in row else row["qtyCap"]
        if floor is None:
            raise KeyError("notionalFloor, qtyFloor or qtylFloor")
        brackets.append(
            Bracket(
                leverage=int(row["initialLeverage"]),
                floor=number(floor),
                cap=UNCAPPED if cap is None else number(cap),
                rate=number(row["maintMarginRatio"]),
                amount=number(row["cum"]),
            )
        )
    return brackets


def scaled(brackets: Sequence[Bracket], coef: Decimal) -> Sequence[Bracket]:
    """Brackets whose edges and amounts are multiplied: those of an account with a notionalCoef of its own."""
    if coef == ONE:
        return brackets
    caps = [b.cap if b.cap == UNCAPPED else b.cap * coef for b in brackets]
    return [
        replace(b, floor=b.floor * coef, cap=cap, amount=b.amount * coef) for b, cap in zip(brackets, caps, strict=True)
    ]


def market_of(symbol: str) -> str:
    """The market that a symbol's name tells of: BTCUSD_PERP is coin-margined, BTCUSDT and BTCUSDT_261225 are not."""
    return "coinm" if "USD_" in symbol else "usdm"


def pair_of(symbol: str) -> str:
    """The name without its delivery: BTCUSD for BTCUSD_PERP, BTCUSDT for BTCUSDT."""
    return symbol.partition("_")[0]


def asset_of(symbol: str) -> str:
    """The margin asset that a symbol's name tells of: the coin, or the last four letters of the pair."""
    return pair_of(symbol).removesuffix("USD") if market_of(symbol) == "coinm" else pair_of(symbol)[-4:]


def size_of(symbol: str) -> Decimal:
    """Contract size: 100 USD for BTC, 10 USD for any other coin, one unit of the base for USDⓈ-M."""
    if market_of(symbol) == "usdm":
        return ONE
    return Decimal(100) if pair_of(symbol) == "BTCUSD" else Decimal(10)


@dataclass
class Contract:
    """One traded symbol and its prices.

    Attributes:
        next_funding_ms: 0 for a delivery contract, which has no funding.
        coin_margined: A COIN-M contract: quantities are whole contracts, and every amount is in the coin.
        contract_size: Dollars of one COIN-M contract; 1 for USDⓈ-M, whose quantities are in the base asset.
        adl_risk: low, medium or high; adl_risk_ms is when it was set, 0 for the last half hour.
    """

    symbol: str
    mark: Decimal
    margin_asset: str = "USDT"
    brackets: list[Bracket] = field(default_factory=list)
    index: Decimal | None = None
    funding_rate: Decimal = Decimal("0.0001")
    interval_h: int = 8
    next_funding_ms: int = 0
    contract_type: str = "PERPETUAL"
    status: str = "TRADING"
    delivery_ms: int = PERPETUAL_DELIVERY_MS
    liquidation_fee: Decimal = Decimal("0.0125")
    coin_margined: bool = False
    contract_size: Decimal = ONE
    adl_risk: str = "low"
    adl_risk_ms: int = 0

    @property
    def lot(self) -> Decimal:
        """The step of quantities: a whole contract for COIN-M."""
        return ONE if self.coin_margined else USDM_LOT

    @property
    def market(self) -> str:
        """usdm or coinm."""
        return "coinm" if self.coin_margined else "usdm"

    @property
    def pair(self) -> str:
        """What the perpetual and its delivery contracts have in common."""
        return pair_of(self.symbol)

    @property
    def perpetual(self) -> bool:
        """Whether the contract pays funding."""
        return self.contract_type.endswith("PERPETUAL")

    @property
    def tradfi(self) -> bool:
        """Whether the contract's marks come in a message of their own; the spelling is the exchange's."""
        return self.contract_type == "TRADIFI_PERPETUAL"

    @property
    def index_price(self) -> Decimal:
        """The index; equal to the mark unless set apart."""
        return self.mark if self.index is None else self.index

    def roll_funding(self, now_ms: int) -> None:
        """Move the next funding time to the first whole interval after now."""
        interval = self.interval_h * HOUR_MS
        self.next_funding_ms = (now_ms // interval + 1) * interval if self.perpetual else 0

    # Arithmetic, in the margin asset; quantities are signed

    @exact
    def value(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Signed notional: quantity × price; COIN-M: quantity × size ÷ price, in coin."""
        return quantity * self.contract_size / price if self.coin_margined else quantity * price

    @exact
    def profit(self, quantity: Decimal, entry: Decimal, price: Decimal) -> Decimal:
        """PnL between two prices: quantity × (price − entry); COIN-M: quantity × size × (1 ÷ entry − 1 ÷ price)."""
        if not quantity:
            return ZERO
        if not self.coin_margined:
            return quantity * (price - entry)
        return quantity * self.contract_size * (price - entry) / (entry * price)

    @exact
    def price_of_profit(self, quantity: Decimal, entry: Decimal, amount: Decimal) -> Decimal | None:
        """Price at which a position's PnL is the amount; None: an inverse short never loses or earns that much."""
        if not self.coin_margined:
            return entry + amount / quantity
        left = quantity * self.contract_size - amount * entry
        return entry * quantity * self.contract_size / left if left * quantity > 0 else None

    @exact
    def entry(self, held: Decimal, entry: Decimal, added: Decimal, price: Decimal) -> Decimal:
        """Entry price of a position that grows, truncated to 8 decimals.

        The mean weighted by quantity; COIN-M: total contracts ÷ Σ contracts ÷ price, the harmonic one.
        """
        if not held:
            return trunc8(price)
        if self.coin_margined:
            return trunc8((held + added) * entry * price / (held * price + added * entry))
        return trunc8((held * entry + added * price) / (held + added))


class Market:
    """All contracts, the brackets of symbols that are not traded here but are listed, and asset indexes by asset."""

    def __init__(self, contracts: Iterable[Contract], asset_indexes: Iterable[AssetIndex] = ()) -> None:
        self.contracts = {contract.symbol: contract for contract in contracts}
        self.asset_indexes = {index.asset: index for index in asset_indexes}
        self.listed_brackets: dict[str, list[Bracket]] = {}

    def __getitem__(self, symbol: str) -> Contract:
        try:
            return self.contracts[symbol]
        except KeyError:
            raise ValueError(f"no symbol {symbol!r} here; there are {', '.join(self.contracts)}") from None

    def asset_index(self, asset: str) -> AssetIndex:
        """The asset's index.

        Raises:
            ValueError: There is none: the asset can be no margin asset in multi-assets mode.
        """
        if asset not in self.asset_indexes:
            raise ValueError(f"no asset index of {asset!r} here; there are {', '.join(self.asset_indexes)}")
        return self.asset_indexes[asset]

    def of(self, market: str) -> list[Contract]:
        """The contracts of usdm or coinm."""
        return [contract for contract in self.contracts.values() if contract.market == market]

    def brackets(self, market: str = "usdm") -> dict[str, list[Bracket]]:
        """Brackets of every listed symbol of a market."""
        listed = {symbol: rows for symbol, rows in self.listed_brackets.items() if market_of(symbol) == market}
        return listed | {c.symbol: c.brackets for c in self.of(market)}
