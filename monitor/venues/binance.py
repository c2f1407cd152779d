"""What Binance's streams and answers have in common: sides, brackets, forced orders, rows of which some may be odd.

Wire names (`wb`, `cum`, `E`) stay in the files of this exchange. Source: Binance's derivatives documentation, user data
streams and account endpoints, as of 2026-05, with the traps that real frames add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from monitor.events import (
    Bracket,
    ForcedKind,
    Side,
)
from monitor.venues.wire import (
    decimal,
    integer,
    text,
)

T = TypeVar("T")
Frame = Mapping[str, Any]

MISREADS = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError, msgspec.MsgspecError)
"""What reading a malformed body can raise; all of it becomes `DecodeError`."""

ZERO = Decimal(0)

_FORCED = {
    "autoclose-": ForcedKind.LIQUIDATION,
    "adl_autoclose": ForcedKind.ADL,
    "settlement_autoclose-": ForcedKind.SETTLEMENT,
    "delivery_autoclose-": ForcedKind.SETTLEMENT,
}


def side(value: object) -> Side:
    return Side(text(value).lower())


def unwrapped(frame: Any) -> Any:
    """The payload of a combined-stream envelope, or the frame itself."""
    return frame["data"] if isinstance(frame, dict) and "stream" in frame and "data" in frame else frame


def forced_kind(client_id: str) -> ForcedKind | None:
    """Of an order by its client id; None: it is the trader's own."""
    return next((kind for prefix, kind in _FORCED.items() if client_id.startswith(prefix)), None)


def each_readable(read: Callable[[Any], T], rows: Iterable[Any]) -> Iterable[T]:
    """The rows of a market-wide list that read; one odd symbol among hundreds must not blind us for the others.

    What is left out is unknown, and is told as such where it is held. Where not one row reads, it is the list that is
    wrong (an error body, another format), and the first row's error is raised.
    """
    wrong, any_reads = None, False
    for row in rows:
        try:
            value = read(row)
        except MISREADS as exc:
            wrong = wrong or exc
        else:
            any_reads = True
            yield value
    if wrong is not None and not any_reads:
        raise wrong


def bracket_rows(rows: Any, number: str, floors: Iterable[str], rate: str, amount: str) -> tuple[Bracket, ...]:
    """The brackets of one symbol, by what their numbers are called here.

    Args:
        floors: What the lower edge is called, in order of preference.
    """
    brackets = sorted(
        (
            Bracket(
                number=integer(row[number]),
                floor=decimal(next((row[name] for name in floors if name in row), None)),
                rate=decimal(row[rate]),
                amount=decimal(row[amount]),
            )
            for row in rows
        ),
        key=lambda bracket: bracket.floor,
    )
    if not brackets:
        raise ValueError("a symbol without brackets")
    if any(not 0 <= bracket.rate < 1 for bracket in brackets):
        raise ValueError("a maintenance rate outside 0 … 1")
    return tuple(brackets)
