"""Digits: how a figure is printed, in one place.

What the exchange also prints is printed as the exchange does; what only we derive, to 8 decimals toward the more
alarming side, and never across a level.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import lru_cache

from monitor.risk import EXACT, ROOMY

EIGHT = Decimal("0.00000001")
LAST_DIGITS = 2 * EIGHT
"""By so much at most rounding moves two printed prices apart."""


def plain(value: Decimal) -> str:
    """All digits in plain notation, never `1E+3`."""
    text = str(value)  # far cheaper than a format, and most often the same
    return f"{value:f}" if "E" in text else text


@lru_cache(maxsize=256)  # all that one step says is of the same moment
def rfc3339(at_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC with milliseconds."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def truncated(value: Decimal | None) -> str | None:
    """To 8 decimals toward zero, as the exchange prints PnL, notional and maintenance margin."""
    return _to_eight(value, ROUND_DOWN)


def printed(price: Decimal | None) -> Decimal | None:
    """A liquidation price as the exchange prints it: half-up to 8 decimals."""
    return None if price is None else price.quantize(EIGHT, ROUND_HALF_UP, ROOMY)


def half_up(value: Decimal | None) -> str | None:
    """To 8 decimals half-up, as the exchange prints liquidation prices."""
    return _to_eight(value, ROUND_HALF_UP)


def margin_balance(wallet_balance: Decimal | None, unrealized_pnl: Decimal | None) -> str | None:
    """The sum of the two as printed, which is what the exchange prints."""
    if wallet_balance is None or unrealized_pnl is None:
        return None
    cut = unrealized_pnl.quantize(EIGHT, ROUND_DOWN, ROOMY)
    return truncated(EXACT.add(wallet_balance, cut))


def floored(value: Decimal | None) -> str | None:
    return _to_eight(value, ROUND_FLOOR)


def ceiled(value: Decimal | None) -> str | None:
    return _to_eight(value, ROUND_CEILING)


def _to_eight(value: Decimal | None, rounding: str) -> str | None:
    if value is None:
        return None
    rounded = value.quantize(EIGHT, rounding, ROOMY)
    return plain(rounded or abs(rounded))  # no minus before zero


def alarming(value: Decimal, levels: Sequence[Decimal], rounding: str) -> Decimal:
    """To 8 decimals this way, but where that would reach a level or cross it, the other; `levels` rise."""
    rounded = value.quantize(EIGHT, rounding, ROOMY)
    low, high = (value, rounded) if value < rounded else (rounded, value)
    above = bisect_left(levels, low)
    if above < len(levels) and levels[above] <= high:
        return value.quantize(EIGHT, ROUND_FLOOR if rounding == ROUND_CEILING else ROUND_CEILING, ROOMY)
    return rounded


def fraction(value: Decimal) -> float:
    return float(value.quantize(EIGHT, rounding=ROUND_CEILING, context=ROOMY))
