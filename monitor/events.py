"""What can happen: the only thing that moves the core.

Events are made by venues (from bytes) and by the shell (links, time). All money is `Decimal`, exact; quantities are
signed (short is negative); exchange times are integer Unix milliseconds.

Of what there are many, here and wherever `gc=False` stands, the garbage collector need not know: no cycle leads through
it, and a pass over a million of them would keep everything waiting for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

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

    __hash__ = str.__hash__  # that of an enum takes as long as the rest of a look-up by key


class PositionKey(NamedTuple):
    symbol: str
    side: Side


@lru_cache(maxsize=4096)
def _key(symbol: str, side: Side) -> PositionKey:
    """One for all accounts that hold it."""
    return PositionKey(symbol, side)


class Balance(Struct, frozen=True, gc=False):
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


class Position(Struct, frozen=True, gc=False):
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
        return _key(self.symbol, self.side)


class ExchangeFigures(Struct, frozen=True):
    """What the exchange itself printed for a position in a snapshot; None where its `"0"` means "none".

    Args:
        adl_quantile: Place in the auto-deleveraging queue, 0 … 4; 4 goes first. None: it does not say.
    """

    mark_price: Decimal
    unrealized_pnl: Decimal
    maintenance_margin: Decimal | None
    liquidation_price: Decimal | None
    adl_quantile: int | None = None


class Bracket(Struct, frozen=True, gc=False):
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


class AssetRate(Struct, frozen=True, gc=False):
    """What an asset is worth as collateral (USD): a balance counts at `bid`, a debt at `ask`, which is the higher."""

    bid: Decimal
    ask: Decimal


class AssetTerms(Struct, frozen=True):
    """How an asset serves as collateral in multi-assets mode.

    Args:
        margin_available: It may be collateral at all.
        auto_exchange: Debt past which the exchange converts other assets to cover it, positive (asset). None: never.
    """

    margin_available: bool
    auto_exchange: Decimal | None


class LinkState(StrEnum):
    """`idle` has nothing to watch; `proving` is open but has shown nothing yet; only `live` may be trusted."""

    IDLE = "idle"
    CONNECTING = "connecting"
    PROVING = "proving"
    LIVE = "live"
    MUTE = "mute"
    DOWN = "down"

    @property
    def is_fine(self) -> bool:
        """Whether it brings all that it should."""
        return self is LinkState.LIVE or self is LinkState.IDLE


class LinkId(NamedTuple):
    """A link to an exchange; `account` is `_instance` for the market links that accounts share."""

    account: str
    name: str


class Event(Struct, frozen=True):
    """Something that has happened."""


# ---- market ----


class MarkPrice(Event, frozen=True, gc=False):
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


class Marks(Event, frozen=True):
    """The marks of many symbols that one frame of the stream has brought, each symbol once: column by column, for what
    is done with all of them at once.

    Args:
        texts: The prices, digit by digit.
        floats: The same, where they need not be exact; prices of which they differ are not the same.
        rows: What the venue says of each mark.
        funding_of: What of that is rate and time of its funding.
    """

    market: str
    symbols: tuple[str, ...]
    texts: list[str]
    floats: list[float]
    at_ms: list[int]
    rows: list[Any]
    funding_of: Callable[[Any], tuple[Decimal | None, int | None]]

    @property
    def prices(self) -> list[Decimal]:
        """Made anew for whoever asks, as is the funding: while all pools rest, what is decided needs neither."""
        return list(map(Decimal, self.texts))

    @property
    def funding(self) -> list[tuple[Decimal | None, int | None]]:
        return list(map(self.funding_of, self.rows))

    @property
    def each(self) -> list[MarkPrice]:
        """The same, one by one."""
        rows = zip(self.symbols, self.prices, self.at_ms, self.funding, strict=True)
        return [MarkPrice(self.market, symbol, price, at_ms, *funding) for symbol, price, at_ms, funding in rows]


class AssetRates(Event, frozen=True):
    """Rates at which assets count as collateral; what is not named is unchanged.

    Args:
        rates: Asset → rate in USD.
        at_ms: When the newest of them was made.
        bridged: It was asked for over REST; it serves, but says nothing of the stream's health.
    """

    market: str
    rates: dict[str, AssetRate]
    at_ms: int
    bridged: bool = False


class ContractChanged(Event, frozen=True):
    """The exchange lists, halts or settles a contract, or changes its brackets.

    Args:
        status: The exchange's word, such as `TRADING` or `SETTLING`.
        delivery_ms: When it is delivered; None for perpetuals.
        brackets: The market's new ones, which an account's own may differ from: a reason to ask for those, and a
            preview of them. None: they have not changed.
    """

    market: str
    symbol: str
    status: str
    delivery_ms: int | None
    brackets: tuple[Bracket, ...] | None
    at_ms: int


class AdlRiskRead(Event, frozen=True):
    """How likely auto-deleveraging is in a symbol's market, whoever holds it: `low`, `medium` or `high`."""

    market: str
    risks: dict[str, str]


class InsuranceFundRead(Event, frozen=True):
    """What the insurance fund of a symbol holds: symbol → asset → margin balance. Symbols of a group share one."""

    market: str
    balances: dict[str, dict[str, Decimal]]


class FundingTermsRead(Event, frozen=True):
    """Hours between fundings, of the symbols that differ from the rule; a symbol that is not named has 8."""

    market: str
    interval_hours: dict[str, int]


# ---- account, pushed ----


class AccountChanged(Event, frozen=True):
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


class ForcedKind(StrEnum):
    LIQUIDATION = "liquidation"
    ADL = "adl"
    SETTLEMENT = "settlement"


class Fill(Event, frozen=True):
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


class MarginCall(Event, frozen=True):
    """The exchange warns of positions; it may come late, or not at all.

    Args:
        positions: Key, maintenance margin and unrealized PnL of each, as the exchange says them.
    """

    account: str
    positions: tuple[tuple[PositionKey, Decimal, Decimal], ...]
    at_ms: int


class OrdersCancelled(Event, frozen=True):
    """An own order has expired because the account is being liquidated: the first sign of it."""

    account: str
    symbol: str
    order_id: int
    at_ms: int


class OrdersUnread(Event, frozen=True):
    """Forced orders of a time in which nobody listened could not be read, and all else is told without them.

    Args:
        row: What the next run has to know to ask for them, should this one end before. None: they have been read.
    """

    account: str
    row: bytes | None


class StrategyEnded(Event, frozen=True):
    """A trading strategy (a grid) has ended without its owner.

    Args:
        liquidated: True: by liquidation. False: its position is empty or liquidated, which of them is not said.
    """

    account: str
    symbol: str
    strategy_id: int
    liquidated: bool
    at_ms: int


class AccountModeChanged(Event, frozen=True):
    account: str
    multi_assets: bool
    at_ms: int


class ConfigTouched(Event, frozen=True):
    """A setting changed that is in no formula (leverage): ask for a snapshot, nothing more."""

    account: str
    symbol: str
    at_ms: int


class StreamExpired(Event, frozen=True):
    """The exchange says that a private stream will carry nothing more.

    Args:
        key: The stream's key, which may be that of an earlier stream; a secret, and never shown. None: it does not say.
    """

    account: str
    key: str | None

    def __repr__(self) -> str:
        return f"StreamExpired(account={self.account!r})"


class StreamControl(Event, frozen=True):
    """The exchange asks us to connect anew soon; nothing for the core."""

    note: str


# ---- account, read by REST ----


class BalancesRead(Event, frozen=True):
    """All assets of an account at once: what is not named is empty.

    Args:
        held: The positions that this answer names as open, which another answer says all of.
    """

    account: str
    balances: tuple[Balance, ...]
    sent_ms: int
    held: frozenset[PositionKey] = frozenset()


class PositionsRead(Event, frozen=True):
    """All positions of an account at once: what is not named is closed.

    Args:
        rows: Position and what the exchange computed for it.
        sent_ms: Exchange time at which we asked; what changed later than that is not contradicted.
    """

    account: str
    rows: tuple[tuple[Position, ExchangeFigures | None], ...]
    sent_ms: int


class MarginsPrinted(Event, frozen=True):
    """What the exchange itself takes as maintenance margin of positions, where that comes apart from their rows.

    Args:
        rows: Symbol, notional and maintenance margin (margin asset).
    """

    account: str
    rows: tuple[tuple[str, Decimal, Decimal], ...]


class AccountModeRead(Event, frozen=True):
    """The modes of an account.

    Args:
        sent_ms: Exchange time at which we asked.
    """

    account: str
    hedge: bool
    multi_assets: bool
    sent_ms: int


class MarginTypesRead(Event, frozen=True):
    """Symbol → isolated?"""

    account: str
    isolated: dict[str, bool]


class BracketsRead(Event, frozen=True):
    """Brackets of every symbol, as given.

    Args:
        coefs: Symbol → multiplier by which this account's brackets were adjusted, where there is one. Whether the
            brackets as given are already multiplied is not documented.
    """

    account: str
    brackets: dict[str, tuple[Bracket, ...]]
    coefs: dict[str, Decimal] = {}


class AdlQuantilesRead(Event, frozen=True):
    """Place of each position in the auto-deleveraging queue, 0 … 4; 4 goes first.

    Args:
        quantiles: A row's `LONG`, `SHORT` and `BOTH` where it has them. In one-way mode it has all three, and the
            position's own is that of its direction.
    """

    account: str
    quantiles: dict[PositionKey, int]


class KeyPermissionsRead(Event, frozen=True):
    """What an account's key may do, beside reading.

    Args:
        trades: Permissions to trade, by the exchange's names.
        moves_money: Permissions to withdraw or transfer, likewise.
        ip_restricted: Whether it works from named addresses alone.
        portfolio_margin: Whether it may trade in a portfolio margin account.
    """

    account: str
    trades: tuple[str, ...]
    moves_money: tuple[str, ...]
    ip_restricted: bool
    portfolio_margin: bool


class ExchangeStatusRead(Event, frozen=True):
    """How the exchange says it fares itself.

    Args:
        trouble: Its word for what is the matter, such as `system_maintenance`; None: nothing is.
    """

    market: str
    trouble: str | None


class ContractsRead(Event, frozen=True):
    """Every contract of a market.

    Args:
        assets: Asset → how it serves as collateral in multi-assets mode; empty where the market has no such mode.
    """

    market: str
    contracts: dict[str, Contract]
    assets: dict[str, AssetTerms] = {}


# ---- the shell's own ----


class LinkReport(Event, frozen=True):
    """What a link says of itself whenever that changes.

    Args:
        reconnects: Times it had to connect anew since the start.
        weight_used: REST weight of the running minute, as the exchange counts it; None for streams.
        note: Why, in a few words fit for an alert. Of a live link: what is amiss all the same.
        mutes: Times it was found open and silent about what it should have told, since the start.
    """

    link: LinkId
    state: LinkState
    reconnects: int = 0
    weight_used: int | None = None
    note: str = ""
    mutes: int = 0


class LinkHeard(Event, frozen=True):
    """The other side of a link was heard at a time (monotonic seconds): what it had to tell before is known."""

    link: LinkId
    at: float


class ClockOffset(Event, frozen=True):
    """Exchange time minus our wall clock, in milliseconds, as last measured over REST."""

    market: str
    offset_ms: int


class StoreState(Event, frozen=True):
    """Whether the store can be used.

    Args:
        reason: Why it cannot; None: it can.
    """

    reason: str | None


class Acknowledge(Event, frozen=True):
    """Somebody has seen an incident: it is not repeated any more, unless it worsens."""

    incident_id: str


class Silence(Event, frozen=True):
    """Somebody wants to hear nothing of what fits, for a while; what is not given fits everything.

    Args:
        until_ms: Unix milliseconds; in the past: an earlier silence of the same is over.
    """

    until_ms: int
    account: str | None = None
    rule: str | None = None
    subject: str | None = None


class Vitals(Event, frozen=True):
    """How the daemon itself fares, said once a tick.

    Args:
        uptime_s: Seconds since it started.
        loop_lag_ms: The longest that a timer was kept waiting since this was last said (milliseconds).
        rss_bytes: Memory in use; None: this system does not tell.
    """

    uptime_s: float
    loop_lag_ms: float
    rss_bytes: int | None


class Tick(Event, frozen=True):
    """Time passed."""
