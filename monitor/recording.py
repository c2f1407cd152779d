"""Session lines: what the links said, as JSON lines in order of arrival, and nothing secret in them.

    {"schema": "marginwatch.session/1", "version": "0.1.0", "at_ms": 1764000000000, …}
    {"at_ms": 1764000000123, "venue": "binance-usdm", "account": "main", "from": "private", "data": {…}}

A pure codec: files are opened by the shell and the commands. What is JSON stands in a line with its own digits; what
is not, in base64 as `raw`. Keys, secrets and signatures are replaced before anything else happens to the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, time, tzinfo
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field, structs

from monitor import __version__
from monitor.core import Kept, Setup
from monitor.effects import INSTANCE
from monitor.errors import DecodeError
from monitor.events import LinkId, LinkReport, LinkState
from monitor.judges.daily import Daily
from monitor.rules import DEFAULTS, Match, Rule, RuleBook
from monitor.venues import VENUES, Request
from monitor.venues.wire import YEAR_10000_MS

SCHEMA = "marginwatch.session/1"
LONGEST_LINE = 32 * 2**20
"""Bytes; the largest frame that a link takes is 16 MiB, and base64 makes it a third longer."""

REMOVED = b"REMOVED"
_SHORTEST_SECRET = 8
_FEW_SECRETS = 20

Source = Literal["market", "private", "rest", "link"]
Moment = Annotated[int, Meta(ge=0, lt=YEAR_10000_MS)]
_Name = Annotated[str, Meta(pattern="^[a-z0-9-]{1,32}$")]


class Line(Struct, frozen=True):
    """One thing that a link said.

    Args:
        at_ms: When it arrived, by our wall clock.
        account: None: public data, and what belongs to no account.
        raw: The frame or body as it came; of a link its state, as `link_state` writes it.
        market: Name of the market link; empty where the venue has but one.
        request: `GET /fapi/v3/account`, of a REST answer.
        sent_ms: When that was asked, as the answer is judged by it: exchange time for an account, our wall clock for a
            market and for the exchange's time.
        received_ms: When it arrived, where `at_ms` is a later time at which it is to be taken as known.
    """

    at_ms: int
    venue: str
    account: str | None
    source: Source
    raw: bytes
    market: str = ""
    request: str | None = None
    sent_ms: int | None = None
    received_ms: int | None = None


class Opening(Struct, frozen=True):
    """The first line.

    Args:
        version: Of the program that wrote it.
        setup: What the core knew of the config; None: a file that does not say.
        kept: What was known of incidents and baselines when the session begins.
    """

    at_ms: int
    version: str = __version__
    instance: str | None = None
    setup: Setup | None = None
    kept: Kept = Kept()


class _Wire(Struct, frozen=True, rename={"source": "from"}, omit_defaults=True):
    """A line as it is written."""

    at_ms: Moment
    venue: str
    account: _Name | None
    source: Source
    market: str = ""
    request: str | None = None
    sent_ms: Moment | None = None
    received_ms: Moment | None = None
    data: msgspec.Raw | UnsetType = UNSET
    raw: bytes | None = None


class _FirstWire(Struct, frozen=True, omit_defaults=True):
    schema: str
    at_ms: Moment
    version: str = ""
    instance: str | None = None
    setup: dict[str, Any] | None = None
    kept: Kept = field(default_factory=Kept)


class _LinkState(Struct, frozen=True, omit_defaults=True):
    """What a link says of itself, as it stands in a line."""

    link: str
    state: LinkState
    reconnects: int = 0
    weight_used: int | None = None
    note: str = ""


_WIRE = msgspec.json.Decoder(_Wire)
_ENCODER = msgspec.json.Encoder(decimal_format="string")


# ---- secrets ----

_SECRET_VALUES = re.compile(rb'("(?:listenKey|apiKey|secretKey|secret|signature)"\s*:\s*")([^"\\]*)')
_SECRET_PARAMETERS = re.compile(rb"\b((?:listenKey|apiKey|signature|timestamp)=)[^&\s\"'\\]*")
_STREAM_NAME = re.compile(rb'("stream"\s*:\s*")[^"\\]*')
_WORDS = re.compile(rb"[A-Za-z0-9_-]{%d,}" % _SHORTEST_SECRET)
_HINTS = (b"istenKey", b"piKey", b"ecret", b"ignature", b"timestamp=")


class Secrets:
    """What must not get into a file: the keys and secrets of the config, and the stream keys that come by."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._plain: dict[bytes, None] = {}
        self._lengths: dict[int, None] = {}
        self._odd: dict[bytes, None] = {}
        for value in values:
            self.learn(value)

    def learn(self, value: str) -> None:
        """From now on remove this too. What is shorter than any key is left: it would be found in honest data."""
        secret = value.encode()
        if len(value) < _SHORTEST_SECRET:
            return
        if _WORDS.fullmatch(secret):
            self._plain[secret] = None
            self._lengths[len(secret)] = None
        else:
            self._odd[secret] = None

    def removed(self, raw: bytes, source: Source) -> bytes:
        """The bytes without anything secret. A private stream of several accounts names each frame by its key."""
        if any(hint in raw for hint in _HINTS):
            for _, value in _SECRET_VALUES.findall(raw):
                if value != REMOVED:
                    self.learn(value.decode(errors="replace"))
            raw = _SECRET_VALUES.sub(rb"\g<1>" + REMOVED, raw)
            raw = _SECRET_PARAMETERS.sub(rb"\g<1>" + REMOVED, raw)
        if source == "private":
            raw = _STREAM_NAME.sub(rb"\g<1>" + REMOVED, raw)
        for secret in self._within(raw):
            raw = raw.replace(secret, REMOVED)
        return raw

    def _within(self, raw: bytes) -> list[bytes]:
        """Those that stand in these bytes, the longest first. A few are looked for one by one. Of thousands, as of so
        many accounts, that would take too long: of each word that is long enough it is asked whether a part is one."""
        if len(self._plain) <= _FEW_SECRETS:
            found = {secret for secret in list(self._plain) if secret in raw}  # while this goes on another may learn
        else:
            lengths = list(self._lengths)
            found = {
                part
                for word in set(_WORDS.findall(raw))
                for length in lengths
                for start in range(len(word) - length + 1)
                if (part := word[start : start + length]) in self._plain
            }
        return sorted([*found, *(secret for secret in list(self._odd) if secret in raw)], key=len, reverse=True)


# ---- writing ----


def encode_opening(opening: Opening) -> bytes:
    """The first line, with its line break."""
    wire = _FirstWire(
        schema=SCHEMA,
        at_ms=opening.at_ms,
        version=opening.version,
        instance=opening.instance,
        setup=None if opening.setup is None else _told(opening.setup),
        kept=opening.kept,
    )
    return _ENCODER.encode(wire) + b"\n"


def encode(line: Line, secrets: Secrets) -> bytes:
    """A line with its line break, without anything secret."""
    raw = secrets.removed(line.raw, line.source)
    data = _compact(raw)
    wire = _Wire(
        at_ms=line.at_ms,
        venue=line.venue,
        account=line.account,
        source=line.source,
        market=line.market,
        request=line.request,
        sent_ms=line.sent_ms,
        received_ms=line.received_ms,
        data=UNSET if data is None else msgspec.Raw(data),
        raw=raw if data is None else None,
    )
    return _ENCODER.encode(wire) + b"\n"


def _compact(raw: bytes) -> bytes | None:
    """JSON without the white space between its parts, so that it fits into a line. None: it is not JSON."""
    try:
        raw.decode()
        return msgspec.json.format(raw, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def link_state(report: LinkReport) -> bytes:
    """What a line of the source `link` carries."""
    return _ENCODER.encode(
        _LinkState(report.link.name, report.state, report.reconnects, report.weight_used, report.note)
    )


# ---- reading ----


def decode_opening(raw: bytes) -> Opening:
    """Read the first line.

    Raises:
        DecodeError: It is not that of a session file, with what is wrong.
    """
    try:
        wire = msgspec.json.decode(raw, type=_FirstWire)
        if wire.schema != SCHEMA:
            raise DecodeError(f'"schema" is {wire.schema!r:.60}; a session file begins with {{"schema":"{SCHEMA}", …}}')
        setup = None if wire.setup is None else _setup(wire.setup)
        return Opening(wire.at_ms, wire.version, wire.instance, setup, wire.kept)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ArithmeticError, ValueError) as exc:
        raise DecodeError(f'not the first line of a session file, {{"schema":"{SCHEMA}","at_ms":…}}: {exc}') from None


def decode(raw: bytes) -> Line:
    """Read a line.

    Raises:
        DecodeError: It is none, with what is wrong.
    """
    try:
        wire = _WIRE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f"not a session line: {exc}") from None
    data = wire.raw if wire.data is UNSET else bytes(wire.data)
    if data is None or (wire.raw is not None and wire.data is not UNSET):
        raise DecodeError('not a session line: needs "data" (JSON) or "raw" (base64), and not both')
    if wire.venue not in VENUES:
        raise DecodeError(f'"venue" is {wire.venue!r:.40}; known are {", ".join(VENUES)}')
    if wire.source == "rest" and wire.request is None:
        raise DecodeError('a line from "rest" needs its "request", such as "GET /fapi/v3/account"')
    return Line(
        at_ms=wire.at_ms,
        venue=wire.venue,
        account=wire.account,
        source=wire.source,
        raw=data,
        market=wire.market,
        request=wire.request,
        sent_ms=wire.sent_ms,
        received_ms=wire.received_ms,
    )


def read_link_state(line: Line) -> LinkReport:
    """What a link said of itself.

    Raises:
        DecodeError: It says nothing of the kind.
    """
    try:
        said = msgspec.json.decode(line.raw, type=_LinkState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f'a line from "link" carries {{"link":"private","state":"down"}}: {exc}') from None
    link = LinkId(line.account or INSTANCE, said.link)
    return LinkReport(link, said.state, said.reconnects, said.weight_used, said.note)


def requests_by_name(venue: str) -> Mapping[str, Request]:
    """Every request of a venue, by what stands in a line."""
    uses = structs.astuple(VENUES[venue].requests)
    requests = chain.from_iterable(use if isinstance(use, tuple) else (use,) for use in uses)
    return {str(request): request for request in requests if request is not None}


def _told(setup: Setup) -> dict[str, Any]:
    """The setup as it stands in the first line; a zone by its name."""
    values = structs.asdict(setup)
    if setup.daily is not None:
        values["daily"] = {"at": setup.daily.at, "zone": getattr(setup.daily.zone, "key", "UTC")}
    return values


def _setup(told: dict[str, Any]) -> Setup:
    """The setup, with each rule as what it is. A rule that we do not know is left out; one not named is the default."""
    rules, daily = _table(told.get("rules", {})), told.get("daily")
    plain = {key: value for key, value in told.items() if key not in ("rules", "daily")}
    setup = msgspec.convert(plain, Setup)
    for account in setup.accounts:
        msgspec.convert(account.name, _Name)
        if account.venue not in VENUES:
            raise ValueError(f'"venue" of an account is {account.venue!r:.40}; known are {", ".join(VENUES)}')
    known: dict[str, Rule] = {**DEFAULTS}
    for name, rule in _table(rules.get("rules", {})).items():
        if name in DEFAULTS:
            known[name] = _rule(name, rule)
    matches = {
        name: tuple(_match(name, _table(row)) for row in rows)
        for name, rows in _table(rules.get("matches", {})).items()
        if name in DEFAULTS
    }
    return structs.replace(setup, rules=RuleBook(known, matches), daily=None if daily is None else _daily(daily))


def _daily(told: Any) -> Daily:
    said = _table(told)
    at = msgspec.convert(said.get("at"), time)
    try:
        zone: tzinfo = ZoneInfo(msgspec.convert(said.get("zone", "UTC"), str))
    except (ZoneInfoNotFoundError, OSError):
        zone = UTC
    return Daily(at, zone)


def _match(name: str, row: Mapping[str, Any]) -> Match:
    return structs.replace(msgspec.convert({**row, "rule": {}}, Match), rule=_rule(name, row.get("rule", {})))


def _rule(name: str, row: Any) -> Rule:
    rule: Rule = msgspec.convert(row, type(DEFAULTS[name]))
    levels = [level for step in rule.steps for level in (step.at, step.clear)]
    for value in (*structs.astuple(rule), *levels):
        if isinstance(value, Decimal) and not value.is_finite():
            raise ValueError(f"rule {name} has a level that is no number")
    return rule


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a table was expected")
    return value
