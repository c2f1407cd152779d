"""Which orders of the exchange may have gone unseen: over a restart, by what an earlier run has kept."""

from __future__ import annotations

from decimal import Decimal

import pytest

from monitor.events import BalancesRead, Fill, ForcedKind, Position, PositionsRead, Side
from monitor.unseen import Unseen, after, both, cut, restart, restored

D = Decimal
HELD_MS = 1_000_000
"""When the position that the earlier run held was last changed."""
LATER_MS = HELD_MS + 3_600_000


def position(quantity: str, symbol: str = "BTCUSDT", at_ms: int = HELD_MS) -> Position:
    return Position(symbol, Side.BOTH, D(quantity), D(60000), False, D(0), at_ms)


def shown(*rows: Position) -> list[PositionsRead]:
    return [PositionsRead("main", tuple((row, None) for row in rows), LATER_MS)]


def order(at_ms: int, symbol: str = "BTCUSDT") -> Fill:
    return Fill("main", symbol, Side.BOTH, D(-1), D(50000), D(0), D(0), "USDT", ForcedKind.LIQUIDATION, 1, 0, at_ms)


def begun(quantity: str, opened_ms: int | None = None) -> Unseen:
    return restart(opened_ms, [position(quantity)])


@pytest.mark.parametrize(
    ("held", "now", "nothing"),
    [
        pytest.param("2", ["2"], True, id="as it was"),
        pytest.param("2", ["3"], True, id="larger"),
        pytest.param("-2", ["-2"], True, id="a short as it was"),
        pytest.param("2", ["1.999"], False, id="smaller"),
        pytest.param("-2", ["-1"], False, id="a smaller short"),
        pytest.param("2", [], False, id="gone"),
        pytest.param("2", ["-3"], False, id="the other way round"),
    ],
)
def test_only_a_position_that_is_less_than_it_was_may_have_been_forced(
    held: str, now: list[str], nothing: bool
) -> None:
    """The exchange's list costs as much as all else of a start; where nothing has gone nobody asks for it."""
    assert begun(held).has_hidden_nothing(shown(*map(position, now))) is nothing


def test_with_an_incident_open_the_list_is_asked_for_in_any_case() -> None:
    """It may say how the incident has ended."""
    assert not begun("2", opened_ms=LATER_MS).has_hidden_nothing(shown(position("2")))


def test_an_order_of_before_the_position_was_last_changed_is_no_news() -> None:
    """Nor is one of a position that the earlier run did not hold: it may be of before anybody watched."""
    earlier = begun("2")

    assert earlier.may_have_hidden(order(HELD_MS))
    assert not earlier.may_have_hidden(order(HELD_MS - 1))
    assert not earlier.may_have_hidden(order(LATER_MS, "ETHUSDT"))


def test_an_order_may_have_come_a_moment_before_the_incident_that_it_opened() -> None:
    """An incident is named after our clock as it is told, an order after the exchange's as it was sent."""
    earlier = restart(LATER_MS, ())

    assert earlier.may_have_hidden(order(LATER_MS - 15_000))
    assert not earlier.may_have_hidden(order(LATER_MS - 15_001))


def test_a_stream_that_was_cut_may_have_hidden_what_came_while_it_was_dying() -> None:
    """It is noticed within seconds."""
    dying = cut(LATER_MS)

    assert not dying.has_hidden_nothing(shown(position("2")))
    assert dying.may_have_hidden(order(LATER_MS - 15_000))
    assert not dying.may_have_hidden(order(LATER_MS - 15_001))


def test_what_could_not_be_asked_for_is_still_owed_after_the_next_cut() -> None:
    """Neither hides the other: an order of before this run, nor one of the time between two cuts."""
    once = both(begun("2"), cut(LATER_MS))
    again = both(once, cut(LATER_MS + 60_000))

    assert both(None, cut(LATER_MS)) == cut(LATER_MS)
    assert not again.has_hidden_nothing(shown(position("2")))
    assert again.may_have_hidden(order(HELD_MS))
    assert again.may_have_hidden(order(LATER_MS, "ETHUSDT"))
    assert not again.may_have_hidden(order(HELD_MS, "ETHUSDT"))


@pytest.mark.parametrize(("held", "nothing"), [("1", True), ("2", False)])
def test_a_stream_that_has_told_all_does_not_speak_for_the_time_before_it(held: str, nothing: bool) -> None:
    """What went while nobody ran was gone when the stream was opened."""
    now = shown(position("1"))

    assert both(begun(held), after(now)).has_hidden_nothing(now) is nothing


def test_what_came_while_the_machine_slept_is_news_though_the_end_was_noticed_hours_later() -> None:
    """A suspended machine, or a mute stream, has told nothing since; what it had told before is known by name."""
    asleep = cut(LATER_MS, told_ms=HELD_MS)

    assert asleep.may_have_hidden(order(HELD_MS + 60_000))
    assert not asleep.may_have_hidden(order(HELD_MS - 15_001))


def test_after_a_snapshot_only_what_it_does_not_show_is_unseen() -> None:
    """The list was asked for once; while no stream can be opened, it must not be asked for with each comparison."""
    held, gone = shown(position("2")), shown()
    base = after([*held, BalancesRead("main", (), LATER_MS)])

    assert base.has_hidden_nothing(held)
    assert not base.has_hidden_nothing(gone)
    assert base.may_have_hidden(order(LATER_MS))


def test_a_cut_soon_after_another_hides_nothing_either_where_all_is_as_it_was() -> None:
    """With a thousand accounts the second look after a cut comes minutes later; the line may be cut again before that,
    and a question of weight 50 for each of them would keep the last one blind for half an hour."""
    held, gone = shown(position("2")), shown()
    base = after(held)
    again = both(base, cut(LATER_MS + 60_000))

    assert again is not base  # what is being asked meanwhile does not cover it
    assert again.has_hidden_nothing(held)
    assert not again.has_hidden_nothing(gone)
    assert again.may_have_hidden(order(LATER_MS))


def test_the_next_run_is_told_since_when_and_of_which_positions_orders_are_unread() -> None:
    """What a stream had told says nothing any more; of what another version has kept nothing is known."""
    unread = both(begun("2"), cut(LATER_MS))
    later = restored(unread.row)

    assert later == Unseen(LATER_MS - 15_000, (position("2"),))
    assert not later.has_hidden_nothing(shown(position("2")))
    assert restored(begun("2").row) == begun("2")
    assert (restored(None), restored(b'{"of":"another"}')) == (None, None)
