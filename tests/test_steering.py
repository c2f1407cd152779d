"""Acknowledgements and silences: what is read from a command, and what they keep back and what never."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.__main__ import main
from monitor.effects import Answered, IncidentOver, Save, Story
from monitor.errors import CommandError
from monitor.events import Acknowledge, Bracket, ForcedKind, LinkState, Silence, StoreState, Tick
from monitor.rules import DEFAULTS, RuleBook, StoreUnusableRule
from monitor.steering import parse
from tests.schemas import validate
from tests.watched import WALL_MS, Watched, kinds, of_rule, row, told

D = Decimal

JUMPING = (Bracket(1, D(0), D("0.01"), D(0)), Bracket(2, D(1000), D("0.02"), D(0)))
"""Brackets that do not join up."""

# ---- reading ----


def test_a_silence_says_what_and_how_long() -> None:
    """Either a duration, or a time with its zone."""
    body = {"rule": "margin_ratio", "account": "main", "subject": "cross-usdt"}
    for_s = parse("silence", json.dumps({**body, "for_s": 60}).encode(), WALL_MS)
    until = parse("silence", json.dumps({**body, "until": "2026-11-21T09:01:00+01:00"}).encode(), WALL_MS)

    assert for_s == until == Silence(WALL_MS + 60_000, "main", "margin_ratio", "cross-usdt")
    assert parse("ack", b'{"incident_id":"a.b.c.1"}', 0) == Acknowledge("a.b.c.1")


@pytest.mark.parametrize(
    ("command", "payload", "remedy"),
    [
        ("order", "{}", "known are ack and silence"),
        ("ack", "margin", "not a JSON object"),
        ("ack", "{}", "incident_id is missing"),
        ("ack", '{"incident_id":"a","for":1}', "unknown key 'for'"),
        ("silence", '{"for_s":60}', "at least one of rule, account and subject"),
        ("silence", '{"rule":"margin","for_s":60}', "unknown rule 'margin'; known are margin_ratio"),
        ("silence", '{"rule":"drift"}', "either for_s"),
        ("silence", '{"rule":"drift","for_s":60,"until":"2026-11-21T09:00:00Z"}', "either for_s"),
        ("silence", '{"rule":"drift","for_s":"1h"}', "number of seconds"),
        ("silence", '{"rule":"drift","for_s":99999999}', "number of seconds"),
        ("silence", '{"rule":"drift","until":"tomorrow"}', "a time such as"),
        ("silence", '{"rule":"drift","until":"2026-11-21T09:00:00"}', "time zone"),
        ("silence", '{"rule":"drift","until":"2027-11-21T09:00:00Z"}', "longer than 7 days"),
    ],
)
def test_a_command_that_misreads_says_what_would_be_right(command: str, payload: str, remedy: str) -> None:
    """Nobody should think that a pool is silenced, or is not, when it is the other way round."""
    with pytest.raises(CommandError, match=remedy):
        parse(command, payload.encode(), WALL_MS)


@pytest.mark.parametrize("length", ["9d", "169h", "604801s"])
def test_a_silence_that_is_too_long_is_refused_in_the_words_it_was_asked_in(
    length: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who writes --for 9d knows of no for_s, and counts no seconds; a config is not needed to say so."""
    assert main(["silence", "--config", "none.toml", "--rule", "drift", "--for", length]) == 2

    assert capsys.readouterr().err == "marginwatch silence: --for: longer than 7 days; switch the rule off\n"


@given(st.text(max_size=20), st.binary(max_size=200))
def test_whatever_comes_is_a_command_or_an_error(command: str, payload: bytes) -> None:
    """Anybody with the right may publish anything."""
    with contextlib.suppress(CommandError):
        parse(command, payload, WALL_MS)


# ---- obeying ----


def in_danger(**setup: Any) -> Watched:
    """A pool at 81.2 %, told as critical; BTCUSDT is liquidated at 90288.19."""
    core = Watched(**setup)
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90372.10")
    return core


def ratio(stories: list[Story]) -> list[tuple[str, str]]:
    return kinds(of_rule(stories, "margin_ratio"))


def incident_id(core: Watched) -> str:
    return next(i.incident_id for i in core.core.incidents if i.rule == "margin_ratio")


def silence(core: Watched, for_s: int, **about: str) -> Silence:
    return Silence(core.now.wall_ms + (for_s + 1) * 1000, **about)


def test_an_acknowledged_incident_is_not_repeated_but_told_when_it_worsens() -> None:
    """Somebody knows; what they do not know yet is said all the same, and is theirs to acknowledge again."""
    core = in_danger()
    assert ratio(core.hold(301, "90372.10")) == [("repeated", "critical")]

    core.step(Acknowledge(incident_id(core)))
    assert ratio(core.hold(900, "90372.10")) == []
    assert ratio(core.price("90280")) == [("worsened", "liquidation")]
    assert ratio(core.hold(61, "90280")) == [("repeated", "liquidation")]


def test_an_acknowledgement_is_seen_on_the_retained_topic_and_outlives_a_restart() -> None:
    """Two people with two phones; and a restart is no reason to ring them both again."""
    core = in_danger()
    core.step(Acknowledge(incident_id(core)))
    at_once = core.kept()
    effects = core.step(core.mark("90372.10"), Tick())
    [message] = [m for m in core.sent(effects) if "/incident/margin_ratio/" in m.topic]
    validate(message.topic, message.payload)
    assert json.loads(message.payload)["acknowledged_at"] == "2026-11-21T08:00:02.000Z"

    later = Watched(kept=at_once, start=core.t)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    assert ratio(later.hold(400, "90372.10")) == []


def test_an_acknowledgement_of_what_is_not_open_changes_nothing() -> None:
    """It may have ended while the message was on its way."""
    core = in_danger()
    core.step(Acknowledge("main.cross-usdt.margin_ratio.1"))
    assert ratio(core.hold(301, "90372.10")) == [("repeated", "critical")]


def test_a_critical_incident_that_nobody_acknowledges_is_told_louder_once() -> None:
    """One severity up, so that what wakes people is another than what did not."""
    core = in_danger(unacked_s=120)
    stories = core.hold(299, "90372.10")
    assert ratio(stories) == [("unacknowledged", "liquidation")]
    [story] = of_rule(stories, "margin_ratio")
    assert "not acknowledged" in story.title
    for message in core.sent(core.effects):
        validate(message.topic, message.payload)


def test_what_is_told_louder_is_shown_no_graver_than_it_is() -> None:
    """Nobody is being liquidated because a telephone was not looked at."""
    core = in_danger(unacked_s=120)
    before = len(core.sent())
    core.hold(150, "90372.10")
    told = core.sent()[before:]
    louder = [m for m in told if m.topic.endswith("/event/liquidation/margin_ratio")]
    shown = [json.loads(m.payload) for m in told if "/incident/margin_ratio/" in m.topic]

    assert len(louder) == 1
    assert [(state["severity"], state["severity_rank"]) for state in shown] == [("critical", 4)]


def test_who_has_acknowledged_is_not_called_again() -> None:
    """The same with an acknowledgement in time."""
    core = in_danger(unacked_s=120)
    core.step(Acknowledge(incident_id(core)))
    assert ratio(core.hold(1000, "90372.10")) == []


def test_a_silence_keeps_messages_back_and_no_knowledge() -> None:
    """The retained incident is there for whoever looks; what still stands at the end is told then, once."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 100, rule="margin_ratio"))
    assert ratio(core.price("90372.10")) == []
    [message] = [m for m in core.sent() if "/incident/margin_ratio/" in m.topic]
    validate(message.topic, message.payload)

    stories = core.hold(110, "90372.10")
    assert ratio(stories) == [("opened", "critical")]
    [story] = of_rule(stories, "margin_ratio")
    assert story.change.incident.event_id.endswith(".1")


def test_what_ends_under_a_silence_was_never_said() -> None:
    """No `resolved` of something that nobody has heard of; its retained topic is emptied all the same."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 1000, subject="cross-usdt"))
    core.price("90372.10")
    stories = core.hold(62, "93000")

    assert ratio(stories) == []
    assert [e.key.rule for e in core.effects if isinstance(e, IncidentOver)].count("margin_ratio") == 1


def test_whoever_heard_of_it_hears_how_it_ended() -> None:
    """A silence that began in the middle does not leave a phone with an alarm that never ends."""
    core = in_danger()
    core.step(silence(core, 1000, account="main"))
    assert ratio(core.hold(62, "93000")) == [("resolved", "critical")]


def test_a_silence_never_hides_a_liquidation() -> None:
    """At 1.0 the exchange acts: that is said whatever was wished."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 1000, account="main"))
    assert ratio(core.price("90280")) == [("opened", "liquidation")]


def test_what_is_heard_of_first_after_a_silence_opens_the_story() -> None:
    """`worsened` or `improved` of something that nobody has heard of reads as if an alert had been lost."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 100, account="main"))
    assert ratio(core.price("90372.10")) == []
    assert ratio(core.price("90280")) == [("opened", "liquidation")]

    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 10, rule="margin_ratio"))
    assert ratio(core.price("90500")) == []
    assert ratio(core.price("90372.10", after=20)) == [("opened", "critical")]

    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 62, rule="margin_ratio"))
    assert ratio([*core.price("90372.10"), *core.hold(58, "90500")]) == []
    assert ratio(core.hold(10, "90500")) == [("opened", "notice")]


def test_what_is_about_to_be_over_when_a_silence_ends_rings_nobody() -> None:
    """It is past its clear level, and waits only for that to last: 81 % was never heard of, and is not so any more."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 20, rule="margin_ratio"))
    assert ratio([*core.price("90372.10"), *core.hold(70, "93000")]) == []
    assert all(incident.rule != "margin_ratio" for incident in core.core.incidents)

    core = Watched()
    core.core.incidents.unacked_s = 30  # nobody could have acknowledged it
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 20, rule="margin_ratio"))
    assert ratio([*core.price("90372.10"), *core.hold(40, "93000")]) == []
    assert ratio(core.price("90372.10")) == [("opened", "critical")]


def test_a_silence_never_hides_a_forced_order() -> None:
    core = in_danger()
    core.step(silence(core, 1000, account="main"))
    stories = core.tell(core.fill("BTCUSDT", "-1", "90280", forced=ForcedKind.LIQUIDATION))
    assert kinds(of_rule(stories, "forced_order")) == [("opened", "liquidation")]


def test_a_silence_hides_repeats_of_blindness_for_four_hours_and_never_its_opening() -> None:
    """Being blind and silent at once is what this must never be."""
    core = in_danger()
    core.step(silence(core, 86_400, account="main"), core.link("private", LinkState.DOWN))
    stories = [s for _ in range(4 * 3600 + 400) for s in core.tell(core.mark("90372.10"), Tick())]
    told_of = of_rule(stories, "data_stale")

    assert told_of[0].change.kind == "opened"
    repeats = [s.at_ms for s in told_of if s.change.kind == "repeated"]
    assert min(repeats) - told_of[0].at_ms > (4 * 3600 - 60) * 1000


def test_a_silence_outlives_a_restart_and_can_be_ended() -> None:
    """Kept like everything that was said to us."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 1000, rule="margin_ratio"))

    later = Watched(kept=core.kept(), start=core.t)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    assert ratio(later.price("90372.10")) == []
    later.step(Silence(0, rule="margin_ratio"))
    assert ratio(later.price("90372.10")) == [("opened", "critical")]
    assert later.kept().silences == {}


def test_to_end_a_silence_that_there_is_not_is_said_to_have_done_nothing() -> None:
    """It is ended under the names that it was begun with; under others it would go on, and its author hear "over"."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    none = core.step(Silence(0, rule="margin_ratio"))
    core.step(silence(core, 1000, rule="margin_ratio", account="main"))
    other = core.step(Silence(0, rule="margin_ratio"))
    over = core.step(Silence(0, rule="margin_ratio", account="main"))

    assert [e for effects in (none, other, over) for e in effects if isinstance(e, Answered)] == [
        Answered("no silence of *.margin_ratio.* to end; there is none at all", False),
        Answered("no silence of *.margin_ratio.* to end; there are main.margin_ratio.*", False),
        Answered("silence of main.margin_ratio.* over", True),
    ]


def test_a_silence_is_about_what_it_names_alone() -> None:
    """Another rule of the same pool is told as ever."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.step(silence(core, 1000, rule="margin_ratio", account="other"))
    assert ratio(told(core.step(core.mark("90372.10"), Tick()))) == [("opened", "critical")]


def test_a_silence_is_quiet_on_the_disk_and_on_the_retained_topics_too() -> None:
    """What would be repeated is kept back once, not anew with every mark; it is due when the silence ends."""
    core = in_danger()
    core.step(silence(core, 2000, rule="margin_ratio"))
    effects = [e for _ in range(1000) for e in core.step(core.mark("90372.10"), Tick())]
    assert not [m for m in core.sent(effects) if "/incident/margin_ratio/" in m.topic]
    assert not [e for e in effects if isinstance(e, Save) and e.key == "main/margin_ratio/cross-usdt"]

    core.step(Silence(0, rule="margin_ratio"))
    assert ratio(core.price("90372.10")) == [("repeated", "critical")]


def test_a_silence_does_not_use_up_the_louder_call() -> None:
    """Who asked for quiet for an hour has not acknowledged what stands then."""
    core = in_danger(unacked_s=120)
    core.step(silence(core, 600, rule="margin_ratio"))
    stories = core.hold(590, "90372.10")
    assert ratio(stories) == []
    assert ("unacknowledged", "liquidation") in ratio(core.hold(150, "90372.10"))


def test_a_fact_that_a_silence_kept_back_is_told_when_it_ends() -> None:
    """Brackets that make no sense are no level that is crossed again."""
    core = Watched()
    core.step(silence(core, 30, rule="bracket_changed"))
    core.begin("9000", row("BTCUSDT", "1", "60000"), brackets={"BTCUSDT": JUMPING})
    early = core.hold(20, "60000")
    late = core.hold(30, "60000")

    assert (of_rule(early, "bracket_changed"), kinds(of_rule(late, "bracket_changed"))) == ([], [("opened", "warning")])


def test_a_broken_store_that_a_silence_kept_back_is_told_when_it_ends() -> None:
    """Nobody says again that the store cannot be used."""
    core = in_danger()
    core.step(silence(core, 30, rule="store_unusable"), StoreState("disk full"))
    early = core.hold(20, "90372.10")
    [late] = of_rule(core.hold(30, "90372.10"), "store_unusable")

    assert of_rule(early, "store_unusable") == []
    assert (late.change.kind, late.facts["reason"]) == ("opened", "disk full")


def test_whether_a_broken_store_is_told_of_goes_by_the_rules_as_they_are_now() -> None:
    """It stays broken while the config is read anew, and does not say so again."""
    core = in_danger()
    core.step(StoreState("disk full"))
    core.core.take_rules(RuleBook({**DEFAULTS, "store_unusable": StoreUnusableRule(enabled=False)}))
    [ended] = of_rule(core.price("90372.10"), "store_unusable")
    core.core.take_rules(RuleBook())
    [again] = of_rule(core.price("90372.10"), "store_unusable")

    assert (ended.change.resolution, "usable" in ended.text) == ("rule_changed", False)
    assert (again.change.kind, again.facts["reason"]) == ("opened", "disk full")


@pytest.mark.parametrize("rule", ["forced_order", "store_unusable"])
def test_what_is_acknowledged_is_seen_so_on_its_retained_topic(rule: str) -> None:
    """Also where no level is measured: a forced order is what somebody most wants to know was seen."""
    core = in_danger()
    happened = core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION), StoreState("disk full")
    [opened] = of_rule(core.tell(*happened), rule)
    core.step(Acknowledge(opened.change.incident.incident_id))
    effects = core.step(core.mark("90372.10"), Tick())

    [message] = [m for m in core.sent(effects) if f"/incident/{rule}/" in m.topic]
    validate(message.topic, message.payload)
    assert "acknowledged_at" in json.loads(message.payload)
