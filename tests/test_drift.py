"""Our figures against the exchange's own: a mistake of either must not stay unseen."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import structs

from monitor.effects import HealthState, Resync, Story
from monitor.events import BalancesRead, ExchangeFigures, PositionsRead, Tick
from tests.watched import Watched, row

D = Decimal

HELD = row("BTCUSDT", "2.5", "92000")
AGREED = ExchangeFigures(D("90400"), D("-4000"), D("904"), D("90288.19277108"))
"""What the exchange prints of 2.5 BTC at 92000 on 5182.40 USDT, at its own mark of 90400."""


def printed(core: Watched, figures: ExchangeFigures) -> PositionsRead:
    return PositionsRead("main", ((HELD, figures),), core.now.wall_ms)


def holding() -> Watched:
    core = Watched()
    core.begin("5182.40", HELD)
    core.price("91500")
    return core


def drifts(stories: list[Story]) -> list[Story]:
    return [story for story in stories if story.change.incident.rule == "drift"]


def test_figures_that_agree_are_published_as_such_whatever_the_mark_is_by_now() -> None:
    """The exchange's answer is of another moment: it is compared at the mark it came with."""
    core = holding()
    core.step(printed(core, AGREED))

    found = core.core.accounts["main"].drifts["cross-usdt"]
    assert found.worst < D("1e-12")
    [health] = [e for e in core.step(Tick(), after=30) if isinstance(e, HealthState) and e.account == "main"]
    assert health.drifts == {"cross-usdt": found}


def test_a_drift_that_lasts_is_told_and_ends_when_they_agree() -> None:
    """Changed brackets, or an adjustment that we do not know of, would make every other figure wrong."""
    core = holding()
    wrong = ExchangeFigures(D("90400"), D("-4000"), D("1356"), D("90300"))
    first = drifts(core.tell(printed(core, wrong)))
    [opened] = drifts(core.tell(printed(core, wrong), after=30))
    [resolved] = drifts(core.tell(printed(core, AGREED), after=30))

    assert first == []
    assert (opened.change.kind, opened.change.severity.word) == ("opened", "warning")
    assert opened.change.value == D("452") / D("226000")
    assert "0.20 % of mark or notional" in opened.text
    assert opened.advice == ()  # no margin brings their figures and ours together
    assert resolved.change.resolution == "recovered"


def test_a_drift_has_the_account_read_anew_once() -> None:
    """Brackets that were changed and not pushed, or not yet there when they were read, would be wrong for an hour."""
    core = holding()
    wrong = ExchangeFigures(D("90400"), D("-4000"), D("1356"), D("90300"))
    said = [core.step(printed(core, wrong), after=30) for _ in range(4)]
    asked = [[e.reason for e in effects if isinstance(e, Resync)] for effects in said]

    assert asked == [[], ["figures of cross-usdt differ from the exchange's"], [], []]


def test_a_price_that_only_one_of_us_has_is_as_far_as_can_be() -> None:
    """The exchange's "none" against a price of ours is no rounding."""
    core = holding()
    core.step(printed(core, ExchangeFigures(D("90400"), D("-4000"), D("904"), None)))

    assert core.core.accounts["main"].drifts["cross-usdt"].liquidation_price == 1


@pytest.mark.parametrize("off", [D(226), D(-226)])
@pytest.mark.parametrize("figure", ["unrealized_pnl", "maintenance_margin"])
def test_a_figure_counts_whether_it_is_too_high_or_too_low(figure: str, off: Decimal) -> None:
    """As a part of the notional, 2.5 × 90400."""
    core = holding()
    core.step(printed(core, structs.replace(AGREED, **{figure: getattr(AGREED, figure) + off})))

    assert core.core.accounts["main"].drifts["cross-usdt"].worst == D("0.001")


def test_without_a_mark_of_the_exchange_there_is_nothing_to_compare() -> None:
    """It prints 0 where it has none, be it of one position of several."""
    core = Watched()
    other = row("ETHUSDT", "1", "3000")
    core.begin("5182.40", HELD, other)
    core.step(core.mark("91500"), core.mark("3000", "ETHUSDT"))
    without = ExchangeFigures(D(0), D(0), D(0), None)
    core.step(PositionsRead("main", ((HELD, AGREED), (other, without)), core.now.wall_ms))

    assert core.core.accounts["main"].drifts == {}


def test_one_snapshot_that_was_torn_is_no_news() -> None:
    """The parts of a snapshot may be a moment apart: only what the next one shows too is told."""
    core = holding()
    torn = ExchangeFigures(D("90400"), D("-3000"), D("904"), D("90288.19277108"))
    stories = core.tell(printed(core, torn)) + core.tell(printed(core, AGREED), after=30)

    assert drifts(stories) == []


def test_figures_of_a_moment_ago_are_held_against_nothing() -> None:
    """An answer may lag behind the stream: of whoever trades all the time each one shows another position or balance
    than ours, and would be told as a mistake of somebody."""
    core = holding()
    for n in range(1, 5):  # a fill before each answer, which does not have it yet
        book = core.core.accounts["main"].book
        before, balances = book.rows[HELD.key], tuple(book.balances.values())
        held = structs.replace(HELD, quantity=HELD.quantity + n, at_ms=core.now.wall_ms)
        core.step(core.changed("ORDER", str(5000 + n), held), after=29)
        lagging = PositionsRead("main", ((before, AGREED),), core.now.wall_ms)
        assert drifts(core.tell(BalancesRead("main", balances, core.now.wall_ms), lagging)) == []

    assert core.core.accounts["main"].drifts == {}


def test_an_answer_that_lags_hides_no_drift_for_longer_than_it_lags() -> None:
    """Nor of a position with margin of its own, whatever another does."""
    core = Watched()
    alone = row("BTCUSDT", "2.5", "92000", isolated_wallet="5182.40", isolated=True)
    busy = row("ETHUSDT", "1", "3000", at_ms=2)
    core.begin("5182.40", alone, busy)
    core.step(core.mark("91500"), core.mark("3000", "ETHUSDT"))
    wrong = ExchangeFigures(D("90400"), D("-4000"), D("1356"), D("90300"))
    before = busy
    for n in range(1, 3):
        busy = structs.replace(busy, quantity=busy.quantity + n, at_ms=core.now.wall_ms)
        core.step(core.changed("ORDER", None, busy), after=29)
        stories = drifts(core.tell(PositionsRead("main", ((alone, wrong), (before, None)), core.now.wall_ms)))
    assert [story.change.incident.subject for story in stories] == ["isolated-btcusdt"]

    theirs = ExchangeFigures(D(3000), D(0), D("300"), None)  # maintenance is 120
    answer = PositionsRead("main", ((alone, wrong), (busy, theirs)), core.now.wall_ms)
    core.step(answer)
    [story] = drifts(core.tell(answer, after=30))
    assert story.change.incident.subject == "cross-usdt"


def test_an_answer_that_still_has_a_closed_position_hides_no_drift_once_another_does_not_name_it() -> None:
    """The exchange names what is open alone: nothing is ever said again of what was closed."""
    core = Watched()
    closed = row("ETHUSDT", "1", "3000", at_ms=2)
    core.begin("5182.40", HELD, closed)
    core.step(core.mark("91500"), core.mark("3000", "ETHUSDT"))
    core.step(core.changed("ORDER", None, structs.replace(closed, quantity=D(0), at_ms=core.now.wall_ms)), after=29)
    wrong = ExchangeFigures(D("90400"), D("-4000"), D("1356"), D("90300"))
    core.step(PositionsRead("main", ((HELD, wrong), (closed, None)), core.now.wall_ms))
    assert core.core.accounts["main"].drifts == {}

    assert drifts(core.tell(printed(core, wrong), after=30)) == []
    [story] = drifts(core.tell(printed(core, wrong), after=30))
    assert story.change.incident.subject == "cross-usdt"


def test_the_last_digit_of_an_isolated_wallet_hides_no_drift() -> None:
    """Where the exchange prints only the margin with the PnL in it, what is left of that without it is another last
    digit each time; and a payment may not be told as a change of the position's row."""
    core = Watched()
    alone = row("BTCUSDT", "2.5", "92000", isolated_wallet="5200", isolated=True)
    core.begin("0", alone)
    core.step(core.mark("91500"))
    paid = structs.replace(alone, isolated_wallet=D("5182.40"), at_ms=core.now.wall_ms)
    core.step(core.changed("FUNDING_FEE", None, paid))
    wrong = ExchangeFigures(D("90400"), D("-4000"), D("1356"), D("90300"))
    stories = []
    for wallet in ("5182.40000001", "5182.39999999", "5182.40"):
        shown = structs.replace(alone, isolated_wallet=D(wallet))
        answer = PositionsRead("main", ((shown, wrong),), core.now.wall_ms)
        stories += drifts(core.tell(answer, after=30))

    assert [story.change.incident.subject for story in stories] == ["isolated-btcusdt"]
    assert core.core.accounts["main"].book.rows[alone.key].isolated_wallet == D("5182.40")
