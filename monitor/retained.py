"""What stands at the retained topics, read back: the latest payload of each, for whoever looks on from outside.

Only the keys that somebody shows are read. Others may publish on the same broker, so what does not read as ours is kept
apart, with its reason, and nothing is raised.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from monitor.rules import Severity
from monitor.topics import Topics

T = TypeVar("T")
Freshness = Literal["live", "stale"]
Word = Literal["ok", "info", "notice", "warning", "critical", "liquidation"]
Moment = Annotated[datetime, Meta(tz=True)]
_RECKONED = (None, "safe_at_every_price", "liquidated_at_every_price")
_DIGITS = 40
"""A number that is longer was written by nobody."""


class Checked(Struct, frozen=True):
    """Its amounts can be reckoned and printed with."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, Decimal) and not (value.is_finite() and abs(value.adjusted()) < _DIGITS):
                raise ValueError(f"{name} is no number that anybody wrote")


class Seen(Checked, frozen=True):
    """What was true at a time. as_of: by the daemon's clock."""

    as_of: Moment

    @property
    def as_of_ms(self) -> int:
        return round(self.as_of.timestamp() * 1000)


class InfoAccount(Struct, frozen=True):
    account: str


class Info(Struct, frozen=True):
    schema: Literal["marginwatch.info/1"]
    instance: str
    version: str
    accounts: tuple[InfoAccount, ...]


class Summary(Seen, frozen=True):
    """An account at a glance. Ages in milliseconds; None: unknown."""

    schema: Literal["marginwatch.summary/1"]
    severity: Word
    worst_margin_ratio: float | None
    worst_distance: float | None
    open_positions: int | None
    freshness: Freshness
    mark_age_ms: int | None
    account_age_ms: int | None
    valid_for_s: int


class LinkShown(Struct, frozen=True):
    """age_s: seconds since it was last live."""

    state: str
    age_s: float
    note: str


class Health(Seen, frozen=True):
    schema: Literal["marginwatch.health/1"]
    links: dict[str, LinkShown]


class Forecast(Checked, frozen=True):
    """The next funding of a pool. payment: negative, it is paid; None: unknown."""

    next_funding_at: Moment | None
    payment: Decimal | None
    margin_ratio_after: float | None


class Pool(Seen, frozen=True):
    schema: Literal["marginwatch.pool/1"]
    account: str
    pool: str
    severity: Word
    asset: str
    margin_ratio: float | None
    margin_balance: Decimal | None
    unrealized_pnl: Decimal | None
    distance: float | None
    forecast: Forecast
    freshness: Freshness


class Liquidation(Struct, frozen=True):
    """reason: why there is no price; None: there is one."""

    reason: str | None


class Position(Seen, frozen=True):
    schema: Literal["marginwatch.position/1"]
    account: str
    symbol: str
    side: Literal["long", "short"]
    quantity: Decimal
    asset: str
    entry_price: Decimal
    mark_price: Decimal | None
    pool: str
    unrealized_pnl: Decimal | None
    liquidation_price: Decimal | None
    liquidation: Liquidation
    distance: float | None
    freshness: Freshness

    @property
    def is_reckoned(self) -> bool:
        """Without it, that there is no liquidation price says nothing."""
        return self.liquidation.reason in _RECKONED


class Incident(Struct, frozen=True):
    schema: Literal["marginwatch.incident/1"]
    severity: Word
    account: str
    rule: str
    subject: str
    opened_at: Moment
    title: str
    acknowledged_at: Moment | None = None


def rank(severity: Word) -> Severity:
    return Severity[severity.upper()]


class Shelf(Generic[T]):
    """The latest payload of each topic of one kind. bodies: `account/name` → payload."""

    def __init__(self, shape: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(shape)
        self.bodies: dict[str, T] = {}

    def put(self, key: str, payload: bytes) -> None:
        """Raises: msgspec.DecodeError: the payload is none of ours; then nothing stands there."""
        self.bodies.pop(key, None)
        if payload:
            self.bodies[key] = self._decoder.decode(payload)


class Retained:
    """The latest payload of each retained topic.

    Attributes:
        topics: Of the daemon.
        status: `online` or `offline`; None: nothing stands there.
        unreadable: Topic → why it does not read as ours.
        awaited: Topics of which nothing had come when the time was up: what stands there is unknown.
    """

    def __init__(self, prefix: str) -> None:
        self.topics = Topics(prefix)
        self.status: str | None = None
        self.awaited: frozenset[str] = frozenset()
        self.unreadable: dict[str, str] = {}
        self._infos = Shelf(Info)
        self._summaries = Shelf(Summary)
        self._healths = Shelf(Health)
        self._pools = Shelf(Pool)
        self._positions = Shelf(Position)
        self._incidents = Shelf(Incident)
        self._shelves: dict[str, Shelf[Any]] = {
            "info": self._infos,
            "summary": self._summaries,
            "health": self._healths,
            "pool": self._pools,
            "position": self._positions,
            "incident": self._incidents,
        }

    def take(self, topic: str, payload: bytes) -> None:
        """What stands at a topic now; an empty payload: nothing any more."""
        where = self.topics.place(topic)
        if where is None:
            return
        self.unreadable.pop(topic, None)
        if where.kind == "status":
            self.status = payload.decode("utf-8", "replace") or None
            return
        try:
            self._shelves[where.kind].put(f"{where.account}/{where.name}", payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            self.unreadable[topic] = str(exc)

    @property
    def info(self) -> Info | None:
        return self._infos.bodies.get("/")

    def summary(self, account: str) -> Summary | None:
        return self._summaries.bodies.get(f"{account}/")

    def health(self, account: str) -> Health | None:
        return self._healths.bodies.get(f"{account}/")

    def pools(self, account: str) -> list[Pool]:
        """In order of their names, as all that follows."""
        return _of(self._pools, account)

    def positions(self, account: str) -> list[Position]:
        return _of(self._positions, account)

    def incidents(self, *accounts: str) -> list[Incident]:
        """Of these accounts (`_instance` is one of them), the worst first."""
        found = [incident for account in accounts for incident in _of(self._incidents, account)]
        return sorted(found, key=lambda incident: -rank(incident.severity))


def _of(shelf: Shelf[T], account: str) -> list[T]:
    return [body for key, body in sorted(shelf.bodies.items()) if key.startswith(f"{account}/")]
