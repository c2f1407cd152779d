"""What every venue's file needs to read a wire exactly: numbers, JSON, requests."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, Decimal
from typing import Any, Literal

import msgspec
from msgspec import Struct

from monitor.errors import DecodeError

_NUMBER = re.compile(r"-?[0-9]{1,60}(?:\.[0-9]{0,60})?(?:[eE][+-]?[0-9]{1,2})?")
_LARGEST_EXPONENT = 30
_PLAIN = _LARGEST_EXPONENT
"""Digits with at most one point among or behind them are a number, and if there are no more, never out of range."""
_LARGEST_AMOUNT = 13
"""Exponent of what a price, a quantity or an amount may be: a product of two still has all its digits in `EXACT`."""
_EIGHT = Decimal("0.00000001")
YEAR_10000_MS = 253_402_300_800_000

PrivateForm = Literal["query", "path", "subscribe", "multi"]


class Hosts(Struct, frozen=True):
    """Base addresses: REST without path, streams with their route, the wallet host for key permissions."""

    rest_url: str
    market_url: str
    private_url: str
    wallet_url: str


class Request(Struct, frozen=True):
    """One REST request of a venue.

    Args:
        auth: `none`, `key` (header only) or `signed`.
        weight: What it costs of the exchange's budget per minute.
    """

    method: Literal["GET", "POST", "PUT"]
    path: str
    auth: Literal["none", "key", "signed"]
    weight: int

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Reply(Struct, frozen=True):
    """What the exchange answers where streams of an open connection were to be added or removed.

    Args:
        request_id: Of which request; None: it does not say.
        error: The exchange's code, where it refuses; None: it acknowledges, which does not prove that anything flows.
    """

    request_id: int | None
    error: int | None = None


class Requests(Struct, frozen=True):
    """The REST requests of a venue, by what they are for.

    Args:
        time: Exchange time.
        contracts: Once in a while per market: what is listed.
        marks: Marks of everything, for as long as no stream brings them.
        account: Once per account and connection: modes, margin types, brackets, balances, positions.
        forced: Own forced orders of the last days, asked for after a time in which nobody was listening.
        reconcile: The part of `account` that is asked again on a schedule; balances first.
        open_stream: Gives the key of the private stream.
        keep_stream: Keeps it alive.
        rates: What assets are worth as collateral, for as long as no stream brings it. None: no such thing here.
        market_facts: Once in a while per market, each for itself: what is good to know, and no figure depends on.
        account_facts: Once in a while per account, likewise.
        permissions: What the key may do, one of `account_facts`. None: it cannot be read here.
        status: How the exchange says it fares. None: it does not.
    """

    time: Request
    contracts: Request
    marks: Request
    account: tuple[Request, ...]
    reconcile: tuple[Request, ...]
    forced: Request
    open_stream: Request
    keep_stream: Request
    rates: Request | None = None
    market_facts: tuple[Request, ...] = ()
    account_facts: tuple[Request, ...] = ()
    permissions: Request | None = None
    status: Request | None = None


def number(text: str) -> Decimal:
    """Exact value of a number on the wire.

    Raises:
        ValueError: Not a plain ASCII number (NaN, Infinity, spaces, underscores and other digits are none), or so
            large or small that no price or quantity can mean it.
    """
    if len(text) <= _PLAIN and text.isascii() and text.replace(".", "", 1).isdecimal() and text[0] != ".":
        return Decimal(text)  # as nearly every number is; to ask this way takes a fifth of the time
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    value = Decimal(text)
    if not -_LARGEST_EXPONENT <= value.adjusted() <= _LARGEST_EXPONENT:
        raise ValueError(f"number out of range: {text[:40]!r}")
    return value


def decimal(value: object) -> Decimal:
    """Exact value of a price, a quantity or an amount: a JSON string, or a bare JSON number that `parse` read.

    Raises:
        ValueError: It is neither, or so large that no figure could be made of it.
    """
    if isinstance(value, Decimal):
        found = value
    elif isinstance(value, str | int) and not isinstance(value, bool):
        found = number(str(value))
    else:
        raise ValueError(f"not a number: {value!r:.40}")
    if found.adjusted() > _LARGEST_AMOUNT:
        raise ValueError(f"number out of range: {value!s:.40}")
    return found


def integer(value: object) -> int:
    """A time or an id, which the exchange sometimes sends as a string.

    Raises:
        ValueError: It is neither an integer nor one in a string.
    """
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**19:
        return value
    raise ValueError(f"not an integer: {value!r:.40}")


def moment(value: object) -> int:
    """A time in Unix milliseconds.

    Raises:
        ValueError: It is not an integer, or one that no calendar has; it would fail where it is printed.
    """
    at_ms = value if type(value) is int else integer(value)
    if not 0 <= at_ms < YEAR_10000_MS:
        raise ValueError(f"not a time: {at_ms}")
    return at_ms


def text(value: object, longest: int = 64) -> str:
    """A name.

    Raises:
        ValueError: It is not a string, or an empty or absurdly long one.
    """
    if isinstance(value, str) and 0 < len(value) <= longest:
        return value
    raise ValueError(f"not a name: {value!r:.40}")


def optional_text(value: object) -> str | None:
    """A name that may be absent, null or empty."""
    return None if value is None or value == "" else text(value)


def flag(value: object) -> bool:
    """A boolean, which the exchange sometimes sends as a string.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError(f"not true or false: {value!r:.40}")


def truncated(value: Decimal) -> Decimal:
    """Toward zero to the 8 decimals in which the exchange's engine holds entry prices (exchange: since 2024)."""
    if int(value.as_tuple().exponent) >= -8:
        return value
    return value.quantize(_EIGHT, rounding=ROUND_DOWN)


def a_list(value: object) -> list[Any]:
    """Rows of which none may be what is said.

    Raises:
        ValueError: It is no list. An empty object or text has no rows either, and says nothing about there being none.
    """
    if isinstance(value, list):
        return value
    raise ValueError(f"not a list: {value!r:.40}")


_PARSER = msgspec.json.Decoder(float_hook=number)


def parse(raw: bytes) -> Any:
    """JSON to plain objects, each number with a fraction as an exact `Decimal`, never through a float.

    Raises:
        ValueError: Not JSON, or a number out of range.
        RecursionError: Nested beyond all reason.
    """
    return _PARSER.decode(raw)


def one_line(raw: bytes) -> str:
    """The beginning of a frame, fit for a log line."""
    return repr(raw[:200])[2:-1]


def misread(exc: Exception, raw: bytes) -> DecodeError:
    """What is wrong with a body, fit for a log line and for whoever has saved it in a file."""
    match exc:
        case KeyError():
            why = f"{exc} is missing"
        case ValueError():
            why = str(exc)
        case RecursionError():
            why = "nested beyond all reason"
        case _:
            why = "not of the shape that it has at the exchange"
    return DecodeError(f"{why:.200} in {one_line(raw)}")
