"""Exact numbers: the exchange's own rounding, and how it prints them."""

from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Numeric = str | int | float | Decimal

ZERO = Decimal(0)
ONE = Decimal(1)
EIGHT_PLACES = Decimal("0.00000001")
SIX_PLACES = Decimal("0.000001")
FORTY_PLACES = Decimal("1e-40")
EXACT = Context(prec=80)  # a product of four wire numbers still fits; the default 28 digits would round it


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """The function, computed with 80 digits; the process's own decimal context is left alone."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(EXACT):
            return function(*args, **kwargs)

    return wrapped


def number(value: Numeric) -> Decimal:
    """A finite Decimal from what a person or a file wrote; a float means the digits it prints as."""
    result = Decimal(str(value))
    if not result.is_finite():
        raise ValueError(f"not a finite number: {value!r}")
    return result


def settled(value: Decimal) -> Decimal:
    """The value to 40 decimals: what a division left open far behind them must not decide a truncation."""
    return value.quantize(FORTY_PLACES, ROUND_HALF_EVEN, EXACT)


def trunc8(value: Decimal) -> Decimal:
    """Toward zero to 8 decimals: the rounding of every amount the exchange keeps or prints."""
    return settled(value).quantize(EIGHT_PLACES, ROUND_DOWN, EXACT) + ZERO  # + 0: "-0.00000000" is never printed


def half_up8(value: Decimal) -> Decimal:
    """To the nearest of 8 decimals, ties away from zero: the rounding of liquidation prices alone."""
    return settled(value).quantize(EIGHT_PLACES, ROUND_HALF_UP, EXACT) + ZERO


def text8(value: Decimal) -> str:
    """Truncated, always with 8 decimals: "0.00000000"."""
    return format(trunc8(value), "f")


def text6(value: Decimal) -> str:
    """Truncated, with 6 decimals, as a margin call prints."""
    return format(settled(value).quantize(SIX_PLACES, ROUND_DOWN, EXACT) + ZERO, "f")


def zero_or8(value: Decimal) -> str:
    """ "0" for zero, else 8 decimals: the fields that the exchange leaves bare when empty."""
    return text8(value) if trunc8(value) else "0"


def plain(value: Decimal) -> str:
    """The digits as held, never in exponent notation."""
    return format(value, "f") if value else "0"


def json_number(value: Decimal) -> int | float:
    """A bare JSON number, as bracket fields are sent; the shortest digits that a reader gets back exactly."""
    return int(value) if value == value.to_integral_value() else float(value)
