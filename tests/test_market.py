"""The market's book: which mark counts, and how old it is, whatever the clocks say."""

from __future__ import annotations

import math
from decimal import Decimal

from monitor.events import MarkPrice, Now
from monitor.market import MarketBook
from tests.watched import WALL_MS, now_at

D = Decimal


def mark(price: str, at_ms: int) -> MarkPrice:
    return MarkPrice("market-x", "BTCUSDT", D(price), at_ms, None, None)


def test_a_mark_older_than_the_known_one_is_dropped() -> None:
    """A reordered frame, or a slow REST answer, must not turn the price back."""
    book = MarketBook()

    assert book.apply_mark(mark("100", WALL_MS + 1000), now_at(1))
    assert not book.apply_mark(mark("90", WALL_MS), now_at(2))
    assert book.prices["BTCUSDT"] == 100


def test_a_marks_age_counts_how_late_it_came() -> None:
    """A feed that lags by ten seconds is ten seconds old on arrival, however briskly its frames follow each other."""
    book = MarketBook()
    book.apply_mark(mark("100", WALL_MS), now_at(10))

    assert book.oldest(["BTCUSDT"], 12) == 12
    assert book.oldest(["BTCUSDT", "ETHUSDT"], 12) == math.inf


def test_a_wrong_clock_of_ours_neither_hides_nor_invents_age() -> None:
    """Our clock two minutes ahead (offset −120 s) would else make every mark two minutes old."""
    ahead = MarketBook()
    ahead.measured(-120_000, now_at(0))
    ahead.apply_mark(mark("100", WALL_MS - 120_000), now_at(0))
    behind = MarketBook()
    behind.apply_mark(mark("100", WALL_MS + 120_000), now_at(0))

    assert ahead.oldest(["BTCUSDT"], 1) == 1
    assert behind.oldest(["BTCUSDT"], 1) == 1  # never younger than since it came


def test_a_clock_of_ours_that_is_set_makes_no_mark_old() -> None:
    """Time synchronisation may set the wall clock at any moment; the next measurement is minutes away."""
    book = MarketBook()
    book.measured(0, now_at(0))
    book.apply_mark(mark("100", WALL_MS + 1000), Now(1, WALL_MS + 1000 + 20_000))

    assert book.oldest(["BTCUSDT"], 1) == 0
