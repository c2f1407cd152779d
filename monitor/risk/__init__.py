"""Numbers from the book; arithmetic only, nothing rounded."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, getcontext, localcontext
from typing import Any, Generic, TypeVar

EXACT = Context(prec=40)
"""Decimal context of all risk arithmetic: sums and products of wire numbers are exact, a quotient is far finer than
any digit that is printed. Entered once by whoever calls into `risk/` (`core.step`, `assess`)."""

ROOMY = Context(prec=200)
"""To round in: whatever figure comes of the numbers of a wire has room here. One that could not be printed would end
the daemon, and again after each start."""

_T = TypeVar("_T")


class exactly(Generic[_T]):
    """A property that is worked out exactly, whoever asks, once somebody asks, and kept.

    Most ask within `EXACT`, which need not be entered again then; and `functools.cached_property` takes a lock.
    """

    def __init__(self, work_out: Callable[[Any], _T]) -> None:
        self._work_out = work_out
        self._name = work_out.__name__
        self.__doc__ = work_out.__doc__

    def __get__(self, of: Any, owner: type) -> _T:
        if getcontext().prec == EXACT.prec:
            found = self._work_out(of)
        else:
            with localcontext(EXACT):
                found = self._work_out(of)
        of.__dict__[self._name] = found
        return found
