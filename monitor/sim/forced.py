"""How forced orders go, where the exchange publishes no rule or sources differ: size, prices, and look on the wire."""

import random
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import Any

from monitor.sim.decimals import ZERO, number, plain

LIQUIDATION, ADL, SETTLEMENT, DELIVERY = "autoclose-", "adl_autoclose", "settlement_autoclose-", "delivery_autoclose-"
LISTED = (LIQUIDATION, ADL)  # what forceOrders lists, by the beginning of the client id
MODES = ("full", "partial")


@dataclass(frozen=True)
class Shape:
    """What differs between sources in an ORDER_TRADE_UPDATE of a forced order: `o`, `x` and `R`."""

    kind: str
    execution: str
    reduce_only: bool


SHAPES = {
    "recorded": Shape("LIQUIDATION", "TRADE", False),  # a real liquidation; the others come from documents and fixtures
    "documented": Shape("LIQUIDATION", "CALCULATED", False),
    "limit": Shape("LIMIT", "TRADE", False),
    "limit_calculated": Shape("LIMIT", "CALCULATED", False),
    "limit_reduce_only": Shape("LIMIT", "TRADE", True),
    "market": Shape("MARKET", "TRADE", True),
    "market_calculated": Shape("MARKET", "CALCULATED", True),
}


@dataclass(frozen=True)
class LiquidationRules:
    """How an account is liquidated. The size of a reducing order is not published: this one is our own choice.

    Attributes:
        mode: "full" closes every position of the pool. "partial" reduces the largest, as far as is needed.
        target: Margin ratio, after loss and clearance fee, at which a reduction has done enough.
        fills: How many executions an order has, as even as the lot allows.
        slippage: Fraction of the mark by which the last execution is worse than it; those before are proportional.
        shape: One of SHAPES, or "random": drawn for each order from the exchange's seed. "recorded" makes an
            order of auto-deleveraging or settlement a LIMIT one: of those there is no record.
        whole_order: A reducing order is for the whole position, and what is not needed of it expires.
        beyond_bankruptcy: An isolated position too may close beyond its bankruptcy price, to be made up for
            by the insurance fund.
    """

    mode: str = "full"
    target: Decimal = Decimal("0.5")
    fills: int = 1
    slippage: Decimal = ZERO
    shape: str = "recorded"
    whole_order: bool = False
    beyond_bankruptcy: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"liquidation mode is {' or '.join(MODES)}, not {self.mode!r}")
        if self.shape not in (*SHAPES, "random"):
            raise ValueError(f"shapes are {', '.join(SHAPES)} and random, not {self.shape!r}")
        if not (0 < self.target < 1 and 0 <= self.slippage < 1 and self.fills >= 1):
            raise ValueError("target is between 0 and 1, slippage from 0 to below 1, fills at least 1")

    def changed(self, **changes: Any) -> "LiquidationRules":
        """The rules with some of them changed; numbers may be text.

        Raises:
            ValueError: A rule that there is not, or a value that it does not have.
        """
        names = [rule.name for rule in fields(self)]
        if strange := [name for name in changes if name not in names]:
            raise ValueError(f"no liquidation rule {strange[0]!r}; there are {', '.join(names)}")
        for name in ("target", "slippage"):
            if name in changes:
                changes[name] = number(changes[name])
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """What `changed` takes, fit for JSON."""
        return asdict(self) | {"target": plain(self.target), "slippage": plain(self.slippage)}

    def shape_of(self, client_id: str, chance: random.Random) -> Shape:
        """The shape of the next order."""
        if self.shape == "recorded" and not client_id.startswith(LIQUIDATION):
            return SHAPES["limit"]
        return SHAPES[chance.choice(list(SHAPES)) if self.shape == "random" else self.shape]
