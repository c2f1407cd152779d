"""The asset index: what a unit of an asset is worth in USD, for the collateral of multi-assets mode."""

from dataclasses import dataclass
from decimal import Decimal

from monitor.sim.decimals import ONE, ZERO, exact, trunc8


@exact
def rate(index: Decimal, share: Decimal) -> Decimal:
    """A share of an index, truncated to 8 decimals: the account is valued by the rates as they are printed."""
    return trunc8(index * share)


@dataclass(frozen=True, slots=True)
class AssetIndex:
    """One asset's index price and the buffers around it, each a fraction of it.

    Attributes:
        index: USD for one unit; may have more digits than are printed, as the exchange's has.
        bid_buffer: What a positive amount loses of its worth as collateral, the haircut.
        ask_buffer: What a negative amount, and margin, cost on top.
        auto_bid_buffer, auto_ask_buffer: The same for what auto-exchange sells and buys.
        margin_available: Whether the asset counts as collateral at all.
        auto_exchange: A cross wallet balance below this, zero or negative, is repaid; None: whatever its size, not.
    """

    asset: str
    index: Decimal
    bid_buffer: Decimal = ZERO
    ask_buffer: Decimal = ZERO
    auto_bid_buffer: Decimal = ZERO
    auto_ask_buffer: Decimal = ZERO
    margin_available: bool = True
    auto_exchange: Decimal | None = None

    def __post_init__(self) -> None:
        if self.index <= 0:
            raise ValueError(f"the index of {self.asset} is above 0, not {self.index}")
        for buffer in (self.bid_buffer, self.ask_buffer, self.auto_bid_buffer, self.auto_ask_buffer):
            if not 0 <= buffer < 1:
                raise ValueError(f"a buffer of {self.asset} is at least 0 and below 1, not {buffer}")
        if self.auto_exchange is not None and self.auto_exchange > 0:
            raise ValueError(f"the auto-exchange threshold of {self.asset} is not above 0, as {self.auto_exchange} is")

    @property
    def symbol(self) -> str:
        """BTCUSD for BTC: its name in streams and answers."""
        return f"{self.asset}USD"

    @property
    def bid(self) -> Decimal:
        """USD that a unit owned counts for."""
        return rate(self.index, ONE - self.bid_buffer)

    @property
    def ask(self) -> Decimal:
        """USD that a unit owed or needed as margin counts for."""
        return rate(self.index, ONE + self.ask_buffer)

    @property
    def auto_bid(self) -> Decimal:
        """USD that auto-exchange pays for a unit."""
        return rate(self.index, ONE - self.auto_bid_buffer)

    @property
    def auto_ask(self) -> Decimal:
        """USD that auto-exchange takes for a unit."""
        return rate(self.index, ONE + self.auto_ask_buffer)
