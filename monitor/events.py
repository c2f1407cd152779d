"""What can happen: the only thing that moves the core.

Events are made by venues (from bytes) and by the shell (links, time). All money is `Decimal`, exact; quantities are
signed (short is negative); exchange times are integer Unix milliseconds.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct


class Now(NamedTuple):
    """The time, read once by the shell.

    mono: Monotonic seconds: ages, holds and deadlines are measured with it.
    wall_ms: Unix milliseconds: names of incidents and printed times.
    """

    mono: float
    wall_ms: int


class Side(StrEnum):
    """Which row of a symbol: one-way mode has `BOTH`, hedge mode has `LONG` and `SHORT`."""

    BOTH = "both"
    LONG = "long"
    SHORT = "short"


class PositionKey(NamedTuple):
    symbol: str
    side: Side


class Balance(Struct, frozen=True):
    """One asset of an account.

    Args:
        wallet_balance: Deposits plus realized PnL and funding, isolated wallets included (asset).
        cross_wallet_balance: The part that cross positions share (asset).
        at_ms: When the exchange last changed it.
    """

    asset: str
    wallet_balance: Decimal
    cross_wallet_balance: Decimal
    at_ms: int


class Position(Struct, frozen=True):
    """One position row as the exchange says it.

    Args:
        quantity: Signed amount (linear: base asset; inverse: contracts). Zero: closed.
        entry_price: Average entry, as the engine of the exchange holds it (8 decimals).
        isolated: None where the message does not say.
        isolated_wallet: Collateral of this position alone; 0 for cross (margin asset).
        at_ms: When the exchange last changed it.
        contract_size: Of an inverse contract (quote per contract), zero while it is not known; None: a linear contract.
    """

    symbol: str
    side: Side
    quantity: Decimal
    entry_price: Decimal
    isolated: bool | None
    isolated_wallet: Decimal
    at_ms: int
    margin_asset: str | None = None
    contract_size: Decimal | None = None

    @property
    def key(self) -> PositionKey:
        return PositionKey(self.symbol, self.side)


class ExchangeFigures(Struct, frozen=True):
    """What the exchange itself printed for a position in a snapshot; None where its `"0"` means "none"."""

    mark_price: Decimal
    unrealized_pnl: Decimal
    maintenance_margin: Decimal | None
    liquidation_price: Decimal | None


class Bracket(Struct, frozen=True):
    """A margin tier: from `floor` on, maintenance margin = notional × `rate` − `amount`."""

    number: int
    floor: Decimal
    rate: Decimal
    amount: Decimal


class Contract(Struct, frozen=True):
    """What the exchange says of a symbol.

    Args:
        quantity_step: Smallest change of a quantity.
        liquidation_fee: Clearance fee as a fraction of the liquidated notional.
        delivery_ms: When it is delivered; None for perpetuals.
        contract_size: Of an inverse contract (quote per contract); None: it is linear.
    """

    symbol: str
    base_asset: str
    margin_asset: str
    status: str
    quantity_step: Decimal | None
    liquidation_fee: Decimal | None
    delivery_ms: int | None
    contract_size: Decimal | None = None


class LinkState(StrEnum):
    """`idle` has nothing to watch; `proving` is open but has shown nothing yet; only `live` may be trusted."""

    IDLE = "idle"
    CONNECTING = "connecting"
    PROVING = "proving"
    LIVE = "live"
    STALE = "stale"
    MUTE = "mute"
    DOWN = "down"


class LinkId(NamedTuple):
    """A link to an exchange; `account` is `_instance` for the market links that accounts share."""

    account: str
    name: str


# ---- market ----


class MarkPrice(Struct, frozen=True):
    """Fair price that the venue liquidates on (quote per base), with the funding estimate that comes with it.

    Args:
        market: The market link it belongs to.
        funding_rate: Running estimate for `next_funding_ms`, a fraction; positive: longs pay shorts. None: no funding.
        bridged: It was asked for over REST; it serves, but says nothing of the stream's health.
    """

    market: str
    symbol: str
    price: Decimal
    at_ms: int
    funding_rate: Decimal | None
    next_funding_ms: int | None
    bridged: bool = False


# ---- account, pushed ----


class AccountChanged(Struct, frozen=True):
    """Balances and positions after a change; only what changed is named.

    Args:
        reason: The exchange's word, such as `FUNDING_FEE`, `MARGIN_TRANSFER`, `ORDER`.
        symbol: Which symbol a funding fee was for, where the exchange says.
        changes: Asset → change without PnL and commission, where given.
    """

    account: str
    reason: str
    balances: tuple[Balance, ...]
    positions: tuple[Position, ...]
    symbol: str | None
    changes: dict[str, Decimal]
    at_ms: int
    event_ms: int


class ForcedKind(StrEnum):
    LIQUIDATION = "liquidation"
    ADL = "adl"
    SETTLEMENT = "settlement"


class Fill(Struct, frozen=True):
    """One execution of an own order, or (quantity 0) a forced order that has been announced.

    Args:
        quantity: Signed: bought is positive.
        realized_pnl: Before commission (margin asset).
        commission: Paid, positive (commission asset).
        forced: Set where the exchange, not the trader, sent the order.
        trade_id: Zero where it stands for a whole order.
    """

    account: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    realized_pnl: Decimal
    commission: Decimal
    commission_asset: str | None
    forced: ForcedKind | None
    order_id: int
    trade_id: int
    at_ms: int


class MarginCall(Struct, frozen=True):
    """The exchange warns of positions; it may come late, or not at all.

    Args:
        positions: Key, maintenance margin and unrealized PnL of each, as the exchange says them.
    """

    account: str
    positions: tuple[tuple[PositionKey, Decimal, Decimal], ...]
    at_ms: int


class AccountModeChanged(Struct, frozen=True):
    account: str
    multi_assets: bool
    at_ms: int


class ConfigTouched(Struct, frozen=True):
    """A setting changed that is in no formula (leverage): ask for a snapshot, nothing more."""

    account: str
    symbol: str
    at_ms: int


class StreamExpired(Struct, frozen=True):
    """The exchange says that this private stream will carry nothing more."""

    account: str


class StreamControl(Struct, frozen=True):
    """The exchange asks us to connect anew soon, or answered a subscription; nothing for the core."""

    note: str


# ---- account, read by REST ----


class BalancesRead(Struct, frozen=True):
    account: str
    balances: tuple[Balance, ...]
    sent_ms: int


class PositionsRead(Struct, frozen=True):
    """All positions of an account at once: what is not named is closed.

    Args:
        rows: Position and what the exchange computed for it.
        sent_ms: Exchange time at which we asked; what changed later than that is not contradicted.
    """

    account: str
    rows: tuple[tuple[Position, ExchangeFigures | None], ...]
    sent_ms: int


class AccountModeRead(Struct, frozen=True):
    account: str
    hedge: bool
    multi_assets: bool


class MarginTypesRead(Struct, frozen=True):
    """Symbol → isolated?"""

    account: str
    isolated: dict[str, bool]


class BracketsRead(Struct, frozen=True):
    account: str
    brackets: dict[str, tuple[Bracket, ...]]


class ContractsRead(Struct, frozen=True):
    market: str
    contracts: dict[str, Contract]


# ---- the shell's own ----


class LinkReport(Struct, frozen=True):
    """What a link says of itself whenever that changes.

    Args:
        reconnects: Times it had to connect anew since the start.
        weight_used: REST weight of the running minute, as the exchange counts it; None for streams.
        note: Why, in a few words fit for an alert.
    """

    link: LinkId
    state: LinkState
    reconnects: int = 0
    weight_used: int | None = None
    note: str = ""


class ClockOffset(Struct, frozen=True):
    """Exchange time minus our wall clock, in milliseconds, as last measured over REST."""

    market: str
    offset_ms: int


class Tick(Struct, frozen=True):
    """Time passed."""


Event = (
    MarkPrice
    | AccountChanged
    | Fill
    | MarginCall
    | AccountModeChanged
    | ConfigTouched
    | StreamExpired
    | StreamControl
    | BalancesRead
    | PositionsRead
    | AccountModeRead
    | MarginTypesRead
    | BracketsRead
    | ContractsRead
    | LinkReport
    | ClockOffset
    | Tick
)
