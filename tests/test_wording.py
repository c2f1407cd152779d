"""What a person reads on the phone: short, plain, and never other than the figures."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import structs

from monitor.effects import Advice
from monitor.events import ForcedKind, LinkState, Tick
from monitor.humanize import amount, away, duration, percent, price
from monitor.rules import DEFAULTS, DataStaleRule, RuleBook, Severity
from monitor.wording import worded
from tests.watched import Watched, crisis, of_rule, row

D = Decimal


@pytest.mark.parametrize(
    ("fraction", "said"),
    [
        ("0.81222397", "81.2 %"),
        ("1", "100.0 %"),
        ("10", "over 1000 %"),
        ("0.01", "1.0 %"),
        ("0.00092846", "0.09 %"),
        ("0.0000123", "0.001 %"),
        ("0.00000000987", "0.0000010 %"),
        ("0", "0.0 %"),
        ("0E-30", "0.0 %"),
    ],
)
def test_a_share_is_said_in_percent_with_as_many_digits_as_it_takes(fraction: str, said: str) -> None:
    """ "0 % from liquidation" is for those who are there, not for those who are close."""
    assert percent(D(fraction)) == said


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        ("0.0999", "9.9 %"),
        ("0.0199999", "1.9 %"),
        ("0.00999", "0.99 %"),
        ("0.00009999", "0.009 %"),
        ("0.00000000999", "0.0000009 %"),
        ("0", "0.0 %"),
    ],
)
def test_a_distance_is_never_said_to_be_larger_than_it_is(distance: str, said: str) -> None:
    """ "10.0 % away" at 9.99 % would be danger that looks smaller; and no rounding makes 0 of what is left."""
    assert away(D(distance)) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "59 min"), (86_400, "24 h 0 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_is_said_in_two_units_at_most(seconds: float, said: str) -> None:
    """An incident of three days had lasted "4320 min"."""
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("90288.19277108", "90288.2"),
        ("123456789.5", "123456790"),
        ("100000", "100000"),
        ("1.23456789", "1.23457"),
        ("0.000012345678", "0.0000123457"),
        ("0", "0"),
    ],
)
def test_a_price_has_six_digits_that_count(value: str, said: str) -> None:
    """Enough to act on, for a bitcoin and for a meme coin; never `1E+5`."""
    assert price(D(value)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [("22.6", "22.60"), ("1234567.891", "1234567.89"), ("0.00012", "0.00012000"), ("1", "1.00"), ("0", "0.00")],
)
def test_money_is_said_to_the_cent_where_that_says_anything(value: str, said: str) -> None:
    """Two decimals of a bitcoin would be a lie."""
    assert amount(D(value)) == said


# ---- levels ----


def test_an_alert_says_what_where_how_near_and_what_to_do() -> None:
    """The sentence of the README's example, word by word."""
    _, story = crisis()

    assert story.title == "main: margin ratio 81.2 %, 0.09 % from liquidation"
    assert story.text == (
        "main cross-usdt: margin ratio 81.2 % (≥ 80 %). BTCUSDT long liquidates at 90288.2, 0.09 % away."
        " Add 178.38 USDT or reduce 0.346 BTC to return to 70 %."
    )


def test_a_distance_alert_leads_with_the_distance() -> None:
    """Each rule says first what it watches."""
    core = Watched()
    core.begin("9000", row("BTCUSDT", "2.5", "92000"))
    [story] = core.price("92000")

    # (230000 − 9000) ÷ 2.49 = 88755.0200…, 3244.98 ÷ 92000 = 3.527 %
    assert story.title == "main: 3.5 % from liquidation, margin ratio 10.2 %"
    assert story.text == (
        "main cross-usdt: 3.5 % from liquidation (≤ 5 %). BTCUSDT long liquidates at 88755, 3.5 % away."
    )


@pytest.mark.parametrize("seconds", [300])
def test_a_repeat_says_that_it_is_one(seconds: int) -> None:
    """ "Still", so that nobody looks for a second incident."""
    core, _ = crisis()
    [story] = of_rule(core.hold(seconds, "90372.10"), "margin_ratio")
    assert story.title == "main: still margin ratio 81.2 %, 0.09 % from liquidation"


def test_a_recovery_says_how_long_it_lasted_and_how_bad_it_was() -> None:
    """The end of the story, in one message."""
    core, _ = crisis()
    core.hold(119, "90372.10")
    [story] = of_rule(core.hold(61, "120000"), "margin_ratio")

    assert story.title == "main: recovered, margin ratio 1.6 %, 24.7 % from liquidation"
    assert story.text.endswith("It lasted 3 min; worst 81.2 %.")
    assert "liquidates" not in story.text
    assert "Add" not in story.text


def test_a_pool_that_no_price_liquidates_is_not_at_no_distance() -> None:
    """ "No distance from liquidation" would read as being there."""
    core = Watched()
    core.begin("9000", row("BTCUSDT", "2.5", "92000"))
    core.price("92000")
    core.step(core.changed("DEPOSIT", "300000"))
    [story] = of_rule(core.hold(62, "92000"), "liquidation_distance")

    assert story.title == "main: recovered, no price liquidates it, margin ratio 0.31 %"
    assert story.text == "main cross-usdt: recovered, no price liquidates it. It lasted 61 s; worst 3.5 %."


@pytest.mark.parametrize(
    ("forced", "word"),
    [
        (ForcedKind.LIQUIDATION, "LIQUIDATED"),
        (ForcedKind.ADL, "CLOSED BY AUTO-DELEVERAGING"),
        (ForcedKind.SETTLEMENT, "SETTLED"),
        (None, "position closed"),
    ],
)
def test_an_end_by_force_is_said_in_capitals(forced: ForcedKind | None, word: str) -> None:
    """Nobody must take a liquidation for good news."""
    core, _ = crisis()
    at = core.now.wall_ms
    core.step(core.changed("ORDER", "0", row("BTCUSDT", "0", "0", at_ms=at), at_ms=at))
    if forced is not None:
        core.step(core.fill("BTCUSDT", "-2.5", "90288", forced=forced))
    [story] = of_rule(core.tell(Tick(), after=3), "margin_ratio")

    assert story.title == f"main: {word}"
    assert story.text == f"main cross-usdt: {word}, BTCUSDT long."
    assert "recovered" not in story.text


def test_an_estimate_says_so() -> None:
    """With the private stream away the figures are the last that were known, with the marks of now."""
    core, _ = crisis()
    core.step(core.link("private", LinkState.DOWN))
    core.hold(6, "90372.10")
    [story] = of_rule(core.price("90320"), "margin_ratio")
    assert "Estimated: the data is stale." in story.text


def test_advice_in_a_large_unit_is_not_rounded_to_a_cent() -> None:
    """0.00012 BTC is not 0.01 BTC; rounded it is, but up."""
    _, story = crisis()
    advice = (Advice("add_margin", D("0.7"), amount=D("0.000123451"), asset="BTC"),)
    _, text = worded(structs.replace(story, advice=advice))
    assert text.endswith("Add 0.00012346 BTC to return to 70 %.")

    advice = (Advice("add_margin", D("0.725"), amount=D("178.371"), asset="USDT"),)
    _, text = worded(structs.replace(story, advice=advice))
    assert text.endswith("Add 178.38 USDT to return to 72.5 %.")


# ---- moved prices ----


def quiet() -> Watched:
    core = Watched()
    core.begin("30000", row("BTCUSDT", "2.5", "92000"))
    core.price("92000")
    return core


def test_a_moved_price_says_from_where_to_where_and_why() -> None:
    """The question that no exchange answers."""
    core = quiet()
    [story] = of_rule(core.tell(core.changed("WITHDRAW", "29000")), "liquidation_price_moved")

    # 200000 ÷ 2.49 = 80321.285…, 201000 ÷ 2.49 = 80722.891…
    assert story.title == "main: BTCUSDT long liquidation price 80321.3 → 80722.9"
    assert story.text == (
        "main: BTCUSDT long liquidation price 80321.3 → 80722.9 (+0.50 %) after a transfer −1000.00 USDT."
        " It is 12.2 % from the mark."
    )


def test_a_price_that_is_gone_is_said_to_be_none() -> None:
    """Not 0, and not the last one."""
    core = quiet()
    [story] = of_rule(core.tell(core.changed("DEPOSIT", "300000")), "liquidation_price_moved")
    assert story.title == "main: BTCUSDT long liquidation price 80321.3 → none"
    assert "from the mark" not in story.text


def test_a_price_beyond_the_mark_is_no_distance_from_it() -> None:
    """ "1.0 % from the mark" would read as room that there is not."""
    core = quiet()
    [story] = of_rule(core.tell(core.changed("WITHDRAW", "-1000")), "liquidation_price_moved")

    # (230000 + 1000) ÷ 2.49 = 92771.084…
    assert story.title == "main: BTCUSDT long liquidation price 80321.3 → 92771.1, past liquidation"
    assert story.text == (
        "main: BTCUSDT long liquidation price 80321.3 → 92771.1 (+15.5 %) after a transfer −31000.00 USDT."
        " The position is at or past liquidation."
    )
    assert story.after is not None
    assert story.after.distance == 0


def test_a_price_that_is_none_because_every_price_liquidates_is_no_relief() -> None:
    """The same word as where none does; what it means is the opposite."""
    core = Watched()
    core.begin("30000", row("BTCUSDT", "-1", "92000"))
    core.price("92000")
    [story] = of_rule(core.tell(core.changed("WITHDRAW", "-93000")), "liquidation_price_moved")

    assert story.change.severity is Severity.WARNING
    assert story.title == "main: BTCUSDT short liquidation price 121514 → none, past liquidation"
    assert story.text.endswith(" The position is at or past liquidation.")
    assert story.after is not None
    assert (story.after.liquidation_price, story.after.distance) == (None, D(0))


def test_a_new_position_says_where_it_liquidates() -> None:
    """There is no "before"."""
    core = quiet()
    core.step(core.changed("ORDER", "30000", row("BTCUSDT", "-2.5", "92000", at_ms=core.now.wall_ms)))
    [story] = of_rule(core.hold(62, "92000"), "liquidation_price_moved")
    assert story.title == "main: BTCUSDT short liquidates at 103586"
    assert story.text == "main: BTCUSDT short, new, liquidates at 103586 after a fill of BTCUSDT."


# ---- blindness ----


def test_blindness_says_what_is_blind_since_when_and_what_that_means() -> None:
    """And when it is over, that it is."""
    core = quiet()
    core.step(core.link("private", LinkState.DOWN, note="connection lost"), after=0)
    [story] = [s for _ in range(15) for s in core.price("92000")]

    assert story.title == "main private: no data for 15 s"
    assert story.text == (
        "main private: no data for 15 s (connection lost). Blind: main/cross-usdt."
        " Until it is back, what is published is the last that was known."
    )

    core.step(core.link("private", LinkState.LIVE), after=0)
    [over] = core.hold(4, "92000")
    assert over.title == "main private: data is live again"


def test_a_link_of_which_nobody_wants_to_hear_any_more_is_not_called_live() -> None:
    """It is as dead as before the rule was switched off."""
    core = quiet()
    core.step(core.link("private", LinkState.DOWN), after=0)
    core.hold(20, "92000")
    core.core.take_rules(RuleBook({**DEFAULTS, "data_stale": DataStaleRule(enabled=False)}))
    [over] = core.hold(2, "92000")

    assert over.title == "main private: the rule was changed"
    assert over.text == "main private: the rule was changed; it was told as stale for 6 s."
