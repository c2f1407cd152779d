"""When a private stream is mute: proved by what it owes, and by nothing else."""

from __future__ import annotations

from decimal import Decimal

from monitor.events import AccountChanged, Balance, BalancesRead, Position, PositionKey, PositionsRead, Side
from monitor.mute import MuteDetector

D = Decimal
OPENED_MS = 1_000_000
SOON_MS = OPENED_MS + 10_000
BTC = PositionKey("BTCUSDT", Side.BOTH)


def balances(amount: str, at_ms: int, sent_ms: int) -> BalancesRead:
    return BalancesRead("main", (Balance("USDT", D(amount), D(amount), at_ms),), sent_ms)


def position(quantity: str, at_ms: int, entry: str = "60000") -> Position:
    return Position("BTCUSDT", Side.BOTH, D(quantity), D(entry), False, D(0), at_ms)


def positions(sent_ms: int, *rows: Position) -> PositionsRead:
    return PositionsRead("main", tuple((row, None) for row in rows), sent_ms)


def told(at_ms: int, amount: str | None = None, *rows: Position) -> AccountChanged:
    changed = () if amount is None else (Balance("USDT", D(amount), D(amount), at_ms),)
    return AccountChanged("main", "ORDER", changed, rows, None, {}, at_ms)


def opened() -> MuteDetector:
    """A stream opened just after 100 USDT and 1 BTC were last changed."""
    detector = MuteDetector(5)
    detector.read(balances("100", OPENED_MS - 60_000, OPENED_MS), 0)
    detector.read(positions(OPENED_MS, position("1", OPENED_MS - 60_000)), 0)
    return detector


def test_a_change_that_is_still_owed_after_the_time_proves_it() -> None:
    """The first snapshot that shows it may be faster than the stream; the second is not."""
    detector = opened()
    detector.read(balances("90", SOON_MS, SOON_MS + 100), 10)
    assert (detector.suspects, detector.verdict()) == (True, None)

    detector.read(balances("90", SOON_MS, SOON_MS + 5_100), 15)
    assert detector.verdict() == "mute: a change of USDT was not told within 5 s"


def test_what_is_told_in_time_is_not_owed() -> None:
    """REST may well be ahead of the stream for a moment."""
    detector = opened()
    detector.read(balances("90", SOON_MS, SOON_MS + 100), 10)
    detector.pushed(told(SOON_MS, "90"))
    detector.read(balances("90", SOON_MS + 3, SOON_MS + 5_100), 15)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_frame_that_another_has_overtaken_leaves_nothing_owed() -> None:
    """The later state has been told; a stream that is torn down for it would be an alert, and blind for a moment."""
    detector = opened()
    detector.pushed(told(SOON_MS, "90"))
    detector.pushed(told(SOON_MS - 5, "95"))
    detector.read(balances("90", SOON_MS, SOON_MS + 100), 10)

    assert not detector.suspects


def test_one_more_snapshot_is_needed_however_long_it_takes() -> None:
    """A single answer may come from a copy that is wrong."""
    detector = opened()
    detector.read(positions(SOON_MS), 10)  # it is missing
    assert detector.suspects

    detector.read(positions(SOON_MS + 60_000, position("1", OPENED_MS - 60_000)), 70)
    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_snapshot_older_than_the_stream_proves_nothing() -> None:
    """A copy that lags shows what was before."""
    detector = opened()
    detector.pushed(told(SOON_MS, "90", position("2", SOON_MS)))
    for now in (11, 20, 30):
        detector.read(balances("100", OPENED_MS - 60_000, SOON_MS + 1_000), now)
        detector.read(positions(SOON_MS + 1_000, position("1", OPENED_MS - 60_000)), now)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_change_from_before_the_stream_opened_proves_nothing() -> None:
    """The first snapshot came from a copy that lagged, and the change was never for this stream to tell."""
    detector = opened()
    for now in (10, 20):
        detector.read(balances("90", OPENED_MS - 50, SOON_MS), now)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_clock_that_is_measured_a_little_wrong_proves_nothing() -> None:
    """When the stream opened is known by our clock, when the row changed by the exchange's."""
    detector = opened()
    for now in (10, 20):
        detector.read(balances("90", OPENED_MS + 900, SOON_MS), now)

    assert detector.verdict() is None


def test_our_clock_is_of_no_consequence_to_rows_that_have_a_time() -> None:
    """Event times and row times are both the exchange's."""
    detector = opened()
    day_ms = 86_400_000
    for now in (10, 20):
        detector.read(balances("90", SOON_MS, SOON_MS - day_ms), now)

    assert detector.verdict() is not None


def test_what_is_written_again_unchanged_proves_nothing() -> None:
    """An exchange may touch a row without a change of money; nothing is pushed for that."""
    detector = opened()
    for now in (10, 20, 30):
        detector.read(balances("100", SOON_MS + now, SOON_MS + now), now)
        detector.read(positions(SOON_MS + now, position("1", SOON_MS + now, entry="60000.5")), now)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_an_account_that_is_quiet_for_hours_is_never_called_mute() -> None:
    """A healthy private stream is silent for as long as nothing changes."""
    detector = opened()
    for minute in range(24 * 60):
        sent_ms = OPENED_MS + 60_000 * minute
        detector.read(balances("100", OPENED_MS - 60_000, sent_ms), 60 * minute)
        detector.read(positions(sent_ms, position("1", OPENED_MS - 60_000)), 60 * minute)
        assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_row_first_seen_at_the_start_is_not_owed() -> None:
    """It changed before anybody listened."""
    detector = MuteDetector(5)
    for now in (0, 10):
        detector.read(balances("100", OPENED_MS - 10, OPENED_MS + 1_000 * now), now)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_position_that_was_closed_unheard_proves_it() -> None:
    """It is no longer named; that has no time of its own but the question's."""
    detector = opened()
    for now in (10, 16):
        detector.read(positions(SOON_MS + 1_000 * now), now)

    assert detector.verdict() == "mute: a change of BTCUSDT was not told within 5 s"


def test_a_close_that_is_told_late_is_told() -> None:
    """The event's time is that of the close, before the snapshot that no longer has the position."""
    detector = opened()
    detector.read(positions(SOON_MS + 5_000), 10)
    detector.pushed(told(SOON_MS, None, position("0", SOON_MS)))
    detector.read(positions(SOON_MS + 11_000), 16)

    assert (detector.suspects, detector.verdict()) == (False, None)


def test_a_close_right_after_something_else_was_told_is_owed_at_once() -> None:
    """It has no time of its own. That it came before what was told last, and was told with that, it cannot have."""
    detector = opened()
    detector.pushed(told(SOON_MS, "90"))
    detector.read(positions(SOON_MS + 300), 10)
    assert detector.owes_position

    detector.pushed(told(SOON_MS + 200, None, position("0", SOON_MS + 200)))  # it was on its way
    assert (detector.owes_position, detector.suspects) == (False, False)


def test_a_position_that_has_just_been_opened_is_not_closed_where_a_copy_lags() -> None:
    """Such a copy does not have it yet."""
    detector = MuteDetector(5)
    detector.read(positions(OPENED_MS), 0)
    detector.pushed(told(SOON_MS, None, position("1", SOON_MS)))
    detector.read(positions(SOON_MS + 1_900), 11.9)
    assert not detector.suspects

    detector.read(positions(SOON_MS + 2_100), 12.1)
    assert detector.owes_position


def test_a_position_that_was_opened_unheard_proves_it() -> None:
    """At the start it was not there."""
    detector = MuteDetector(5)
    detector.read(positions(OPENED_MS), 0)
    for now in (10, 16):
        detector.read(positions(SOON_MS + 1_000 * now, position("1", SOON_MS)), now)

    assert detector.verdict() is not None


def test_a_stream_that_goes_on_telling_is_not_mute() -> None:
    """What it told last is newer than the row: a detail is missing, and the stream is not."""
    detector = opened()
    detector.read(balances("90", SOON_MS, SOON_MS + 100), 10)
    detector.pushed(told(SOON_MS + 2_000, None, position("2", SOON_MS + 2_000)))
    detector.read(balances("90", SOON_MS, SOON_MS + 5_100), 16)

    assert detector.verdict() is None
    assert position("2", 0).key == BTC


SINCE_MS = SOON_MS + 20_000


def test_where_a_later_snapshot_shows_what_was_told_nothing_has_happened_since() -> None:
    """What was pushed counts as well as what stood there at first; who holds nothing need not be named."""
    detector = opened()
    detector.pushed(told(SOON_MS, "90", position("2", SOON_MS)))
    now = balances("90", SOON_MS, SINCE_MS)
    nothing = Balance("BTC", D(0), D(0), 0)
    both = balances("90", SOON_MS, SINCE_MS).balances

    assert detector.has_told_all([now, positions(SINCE_MS, position("2", SOON_MS))], SINCE_MS)
    assert detector.has_told_all(
        [BalancesRead("main", (*both, nothing), SINCE_MS), positions(SINCE_MS, position("2", SOON_MS))], SINCE_MS
    )
    assert not detector.has_told_all([now, positions(SINCE_MS, position("1", SINCE_MS))], SINCE_MS)
    assert not detector.has_told_all([now, positions(SINCE_MS)], SINCE_MS)
    assert not detector.has_told_all(
        [balances("89", SINCE_MS, SINCE_MS), positions(SINCE_MS, position("2", SOON_MS))], SINCE_MS
    )


def test_a_stream_that_told_something_just_before_its_end_may_have_ended_in_its_midst() -> None:
    """The position was told and the order was not: who trusted in that would call a liquidation a close."""
    detector = opened()
    detector.pushed(told(SINCE_MS, "90", position("0", SINCE_MS)))

    assert not detector.has_told_all([balances("90", SINCE_MS, SINCE_MS + 1), positions(SINCE_MS + 1)], SINCE_MS)


def test_a_position_that_is_owed_has_been_since_the_stream_last_told_something() -> None:
    """What happened to it may be as old as that, however late it is found out."""
    detector = opened()
    detector.read(balances("90", SOON_MS, SOON_MS + 100), 10)
    assert (detector.owes_position, detector.silent_since_ms) == (False, OPENED_MS)

    detector.pushed(told(SOON_MS, "90"))
    detector.read(positions(SOON_MS + 30_000), 40)
    assert (detector.owes_position, detector.silent_since_ms) == (True, SOON_MS)
