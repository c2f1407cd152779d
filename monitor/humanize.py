"""Figures as people read them: rounded, with their units, and the few words for them.

What is rounded here stands in sentences and tables alone; whoever needs exact figures reads the payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from monitor.digits import EIGHT, plain
from monitor.risk import ROOMY
from monitor.risk.margin import RATIO_CAP

_HUNDRED = Decimal(100)
_TENTH = Decimal("0.1")
_CENT = Decimal("0.01")


def percent(fraction: Decimal, rounding: str = ROUND_HALF_UP) -> str:
    """`81.2 %`; below one percent two decimals, or as many as it takes to say anything: `0.09 %`, `0.004 %`."""
    value = fraction * _HUNDRED
    step = _TENTH if abs(value) >= 1 or not value else Decimal(1).scaleb(min(-2, value.adjusted()))
    rounded = value.quantize(step, rounding, ROOMY)
    if fraction == RATIO_CAP:
        return "over 1000 %"  # the margin balance is gone
    if rounded >= _HUNDRED > value:
        rounded = value.quantize(step, ROUND_FLOOR, ROOMY)  # "100.0 %" is said of a liquidation alone
    return f"{plain(rounded)} %"


def exact_percent(fraction: Decimal) -> str:
    """A level as it is configured: `80 %`."""
    return f"{plain((fraction * _HUNDRED).normalize())} %"


def away(distance: Decimal) -> str:
    """A distance in percent, rounded down: what is near must not read as farther."""
    return percent(distance, ROUND_FLOOR)


def price(value: Decimal) -> str:
    """A price in at least six significant digits."""
    places = max(0, 5 - value.adjusted()) if value else 0
    return plain(value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, ROOMY).normalize())


def amount(value: Decimal, rounding: str = ROUND_HALF_UP) -> str:
    """Money, to the cent where that says anything; to eight decimals below one."""
    step = _CENT if abs(value) >= 1 or not value else EIGHT
    return plain(value.quantize(step, rounding, ROOMY))


def signed_amount(value: Decimal) -> str:
    """Money with its sign: `+22.60`, `−22.60`."""
    return f"{'+' if value > 0 else '−' if value else ''}{amount(abs(value))}"


def counted(number: int, noun: str) -> str:
    """`1 pool`, `2 pools`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], at_most: int) -> str:
    """`main, hedge and 3 more`."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def side_word(is_long: bool) -> str:
    return "long" if is_long else "short"


def time_of_day(at_ms: int) -> str:
    """Time of day: `16:00 UTC`."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%H:%M} UTC"


def duration(seconds: float | Decimal) -> str:
    """In its two largest units, from some minutes on: `90 s`, `45 min`, `23 h 10 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if whole < 120:
        return f"{whole} s"
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def span(seconds: float) -> str:
    """An age, in its largest unit."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h" if whole < 172_800 else f"{whole // 86_400} days"
