"""What the core wants done: things to tell, states to publish, rows to keep, and requests to the links.

Everything here is data, unrounded; `topics.py` and `payloads/` give it topics and digits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from msgspec import Struct

from monitor.events import ExchangeFigures, LinkId, PositionKey, Vitals
from monitor.forced import ForcedReport
from monitor.incident import Change, IncidentKey
from monitor.links import Link
from monitor.moves import PoolMove
from monitor.risk.drift import Drift
from monitor.risk.funding import Forecast
from monitor.risk.report import PoolRisk, PositionRisk
from monitor.rules import Severity

Freshness = Literal["live", "stale"]

INSTANCE = "_instance"
"""The account under which stands what belongs to no account."""


class Effect(Struct, frozen=True):
    """Something that the core wants done."""


class AccountSetup(Struct, frozen=True):
    """An account as configured.

    Args:
        market: Name of the market link that it shares with others of its venue and environment.
        accept_trading_key: Whether a key that may do more than read is meant to.
        environment: Which of the exchange's worlds it is of.
    """

    name: str
    venue: str
    market: str
    labels: dict[str, str] = {}
    accept_trading_key: bool = False
    environment: str = "live"

    @property
    def place(self) -> bytes:
        """Where it trades. One that trades elsewhere is another one, whatever its name."""
        return f"{self.venue} {self.environment}".encode()

    @property
    def market_link(self) -> LinkId:
        return LinkId(INSTANCE, self.market)

    @property
    def private_link(self) -> LinkId:
        return LinkId(self.name, "private")

    @property
    def rest_link(self) -> LinkId:
        return LinkId(self.name, "rest")

    @property
    def links(self) -> tuple[LinkId, LinkId, LinkId]:
        """All that it is watched over."""
        return self.market_link, self.private_link, self.rest_link


class Figures(Struct, frozen=True, gc=False):
    """A pool's figures at one moment, with those of its closest position; None: unknown, or there is none."""

    margin_ratio: Decimal | None = None
    wallet_balance: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    mark_price: Decimal | None = None
    liquidation_price: Decimal | None = None
    distance: Decimal | None = None


class Driver(Struct, frozen=True, gc=False):
    """What changed a pool's margin balance since the assessment before: a `mark`, the `wallet`, or what it is worth."""

    kind: Literal["mark", "wallet", "collateral"]
    symbol: str | None
    margin_balance: Decimal


class Advice(Struct, frozen=True, gc=False):
    """What would bring a pool's ratio back to `to_ratio`; applied, it does.

    Args:
        amount: Margin to add (asset). None where the advice is to reduce.
        quantity: How much of the position to close, positive. None where the advice is to add margin, or where closing
            does not help.
        reason: Why it does not.
        part: The amount as a fraction of the margin balance, or the quantity as one of the position. None: unknown.
    """

    action: Literal["add_margin", "reduce"]
    to_ratio: Decimal
    amount: Decimal | None = None
    asset: str | None = None
    symbol: str | None = None
    side: str | None = None
    quantity: Decimal | None = None
    quantity_unit: str | None = None
    reason: str | None = None
    part: Decimal | None = None


class Ages(Struct, frozen=True, gc=False):
    """How fresh what we say is.

    Args:
        mark_s: Age of the oldest mark in it (seconds).
        account_s: Time since the account's truth was last confirmed (seconds).
    """

    freshness: Freshness
    mark_s: float | None
    account_s: float | None


class Blindness(Struct, frozen=True):
    """A link that has gone quiet, and the pools it blinds."""

    link: LinkId
    age_s: float
    note: str
    pools: tuple[str, ...]


Fact = Decimal | str | int | None
"""What a rule of its own has to say; a name that ends in `_at` is a time in Unix milliseconds."""


class Story(Effect, frozen=True, gc=False):
    """One thing to tell: a change of an incident, with all that explains it.

    Args:
        facts: What belongs to this rule alone, by the name that it is published under.
        exchange_ms: When the exchange said what caused it; None: it did not.
        seq: Counts the stories of this run; given as it is told.
        level: Of the gravest step, up to the present severity, that the value has reached; None: it has reached none.
        group_id: The incident of the group that it belongs to, if that comes to be; None: it can be in none.
        is_test: Nothing has happened: it is told to see whether it arrives.
        title: What is told, in short; `text` is all of it. Given as it is told, where it is not already.
    """

    account: AccountSetup
    change: Change
    at_ms: int
    exchange_ms: int | None = None
    seq: int = 0
    symbol: str | None = None
    side: str | None = None
    asset: str | None = None
    before: Figures | None = None
    after: Figures | None = None
    level: Decimal | None = None
    drivers: tuple[Driver, ...] = ()
    advice: tuple[Advice, ...] = ()
    ages: Ages | None = None
    moves: tuple[PoolMove, ...] = ()
    blindness: Blindness | None = None
    forced: ForcedReport | None = None
    facts: dict[str, Fact] = {}
    group_id: str | None = None
    is_test: bool = False
    title: str = ""
    text: str = ""


class IncidentOver(Effect, frozen=True, gc=False):
    """The retained state of an incident is to be emptied."""

    key: IncidentKey


class PoolState(Effect, frozen=True):
    """One pool as it is published.

    Args:
        ladder: Relative move of all marks → margin ratio after it.
        funding: What the next funding will do at present marks and estimates; None: there is none, or it is unknown.
    """

    account: AccountSetup
    risk: PoolRisk
    severity: Severity
    ages: Ages
    as_of_ms: int
    ladder: dict[Decimal, Decimal | None]
    funding: Forecast | None


class PositionState(Effect, frozen=True):
    """One position as it is published.

    Args:
        funding_payment: What the next funding will change the wallet by at the present mark and estimate (asset).
        liquidation_price_after: Where it will be liquidated once all payments of the pool's next funding are made.
        liquidation_fee: Clearance fee, a fraction of the liquidated notional.
        adl_quantile: Place in the auto-deleveraging queue, 0 to 4; None: unknown.
    """

    account: AccountSetup
    asset: str
    pool: str
    risk: PositionRisk
    bankruptcy_price: Decimal | None
    quantity_unit: str
    liquidation_fee: Decimal | None
    adl_quantile: int | None
    funding_interval_hours: int | None
    funding_rate: Decimal | None
    next_funding_ms: int | None
    funding_payment: Decimal | None
    liquidation_price_after: Decimal | None
    exchange: ExchangeFigures | None
    ages: Ages
    as_of_ms: int


class PoolGone(Effect, frozen=True):
    account: str
    pool: str


class PositionGone(Effect, frozen=True):
    account: str
    key: PositionKey


class AccountGone(Effect, frozen=True):
    """An account is watched no more: of what stands for it as a whole nothing is true any longer."""

    account: str


class RuleState(Struct, frozen=True):
    severity: Severity
    open: int


class SummaryState(Effect, frozen=True):
    """What an account looks like at a glance: the proof that it is being watched.

    Args:
        worst_ratio: Highest margin ratio of its pools; None: unknown.
        worst_distance: Smallest distance of its pools; None: there is none, or it is unknown.
        unrealized_pnl: Asset → sum; None: a part of it is unknown.
    """

    account: AccountSetup
    severity: Severity
    rules: dict[str, RuleState]
    worst_ratio: Decimal | None
    worst_distance: Decimal | None
    unrealized_pnl: dict[str, Decimal | None]
    open_positions: int | None
    ages: Ages
    as_of_ms: int


class HealthState(Effect, frozen=True):
    """The links of an account, or those that accounts share.

    Args:
        drifts: Pool id → how far our figures were from the exchange's at the last snapshot.
        vitals: How the daemon fares, with its longest lag since the health before; None: nobody has said.
    """

    account: str
    links: dict[str, tuple[Link, float]]
    drifts: dict[str, Drift]
    freshness: Freshness
    as_of_ms: int
    vitals: Vitals | None


class Answered(Effect, frozen=True):
    """What became of somebody's command; for the log."""

    text: str
    is_done: bool


class Save(Effect, frozen=True, gc=False):
    """A row to keep for the next run; None: to be forgotten."""

    table: Literal["incident", "baseline", "grown", "silence", "daily", "forced", "group", "posted", "account"]
    key: str
    row: bytes | None


class Watch(Effect, frozen=True):
    """The symbols that a market link has to carry.

    Args:
        rates: Whether it has to carry the rates of collateral assets too.
    """

    market: str
    symbols: frozenset[str]
    rates: bool = False


class Resync(Effect, frozen=True):
    """Ask this account's truth anew, now."""

    account: str
    reason: str
