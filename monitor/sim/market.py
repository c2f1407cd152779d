"""What is traded: contracts with their marks, funding and brackets."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from monitor.sim.decimals import ZERO, Numeric, number

PERPETUAL_DELIVERY_MS = 4133404800000
HOUR_MS = 3_600_000


class Clock:
    """The exchange's time: the wall clock, moved by offset_ms."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000 + self.offset_ms


@dataclass(frozen=True, slots=True)
class Bracket:
    """One margin tier: maintenance margin = notional × rate − amount, from floor up to cap."""

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
    """Brackets from rows of the leverageBracket shape."""
    return [
        Bracket(
            leverage=int(row["initialLeverage"]),
            floor=number(row["notionalFloor"]),
            cap=number(row["notionalCap"]),
            rate=number(row["maintMarginRatio"]),
            amount=number(row["cum"]),
        )
        for row in rows
    ]


@dataclass
class Contract:
    """One traded symbol and its prices.

    Attributes:
        next_funding_ms: 0 for a delivery contract, which has no funding.
        coin_margined: A COIN-M contract: seen in the merged all-market streams, and nowhere else.
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


class Market:
    """All contracts, and the brackets of symbols that are not traded here but are listed."""

    def __init__(self, contracts: Iterable[Contract]) -> None:
        self.contracts = {contract.symbol: contract for contract in contracts}
        self.listed_brackets: dict[str, list[Bracket]] = {}

    def __getitem__(self, symbol: str) -> Contract:
        try:
            return self.contracts[symbol]
        except KeyError:
            raise ValueError(f"no symbol {symbol!r} here; there are {', '.join(self.contracts)}") from None

    def linear(self) -> list[Contract]:
        """The USDⓈ-M contracts."""
        return [contract for contract in self.contracts.values() if not contract.coin_margined]

    def brackets(self) -> dict[str, list[Bracket]]:
        """Brackets of every listed USDⓈ-M symbol."""
        return self.listed_brackets | {c.symbol: c.brackets for c in self.linear()}
