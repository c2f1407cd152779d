"""Numbers from the book; arithmetic only, nothing rounded."""

from __future__ import annotations

from decimal import Context

EXACT = Context(prec=40)
"""Decimal context of all risk arithmetic: sums and products of wire numbers are exact, a quotient is far finer than
any digit that is printed. Entered once by whoever calls into `risk/` (`core.step`, `assess`)."""
