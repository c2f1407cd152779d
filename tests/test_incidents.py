"""The life of an incident: every transition, told once, in order, across restarts."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.events import Now
from monitor.incident import Change, IncidentKey
from monitor.incidents import Incidents, saved
from monitor.rules import DataStaleRule, LiquidationDistanceRule, MarginRatioRule, Rule, Severity, Step
from tests.watched import now_at

D = Decimal
KEY = IncidentKey("main", "margin_ratio", "cross-usdt")
RATIO = MarginRatioRule()  # notice 0.50/0.45, warning 0.80/0.70, critical 0.90/0.80, liquidation 1.0/0.90
DISTANCE = LiquidationDistanceRule()  # notice 0.10/0.12, warning 0.05/0.06, critical 0.02/0.025


class Watch:
    """One subject, one rule, and a clock."""

    def __init__(self, rule: Rule = RATIO, incidents: Incidents | None = None) -> None:
        self.rule = rule
        self.incidents = incidents or Incidents()

    def see(
        self,
        at: float,
        value: str | None,
        *,
        trusted: bool = True,
        distance: str | None = None,
        at_least: Severity = Severity.OK,
    ) -> Change | None:
        return self.incidents.observe(
            KEY,
            self.rule,
            None if value is None else D(value),
            now_at(at),
            trusted=trusted,
            distance=None if distance is None else D(distance),
            at_least=at_least,
        )


def said(change: Change | None) -> tuple[str, str] | None:
    return None if change is None else (change.kind, change.severity.word)


# ---- opened, worsened ----


def test_nothing_is_told_below_the_lowest_level() -> None:
    """Quiet is the normal state."""
    watch = Watch()
    assert watch.see(0, "0.4999") is None
    assert not watch.incidents.open


@pytest.mark.parametrize(
    ("value", "severity"),
    [
        ("0.5", "notice"),
        ("0.79999999", "notice"),
        ("0.8", "warning"),
        ("0.9", "critical"),
        ("1", "liquidation"),
        ("10", "liquidation"),
    ],
)
def test_a_jump_over_several_steps_is_one_opening_at_the_highest(value: str, severity: str) -> None:
    """Four messages for one crash would bury the one that counts; the level itself already counts."""
    watch = Watch()

    assert said(watch.see(0, value)) == ("opened", severity)
    assert watch.see(1, value) is None


def test_a_falling_measure_fires_as_it_falls() -> None:
    """A distance is worse the smaller it is; none at all is as safe as can be."""
    watch = Watch(DISTANCE)

    assert watch.see(0, "0.1000001") is None
    assert watch.see(1, None) is None
    assert said(watch.see(2, "0.05")) == ("opened", "warning")
    assert said(watch.see(3, "0.02")) == ("worsened", "critical")


def test_each_worse_severity_is_told_once() -> None:
    """One story that rises, under one id."""
    watch = Watch()
    changes = [watch.see(t, v) for t, v in enumerate(["0.5", "0.6", "0.8", "0.85", "0.9", "1"])]

    assert [said(c) for c in changes] == [
        ("opened", "notice"),
        None,
        ("worsened", "warning"),
        None,
        ("worsened", "critical"),
        ("worsened", "liquidation"),
    ]
    told = [c.incident for c in changes if c is not None]
    assert {i.incident_id for i in told} == {"main.cross-usdt.margin_ratio.1795248000000"}
    assert [i.event_id.rpartition(".")[2] for i in told] == ["1", "2", "3", "4"]


def test_a_warning_counts_as_critical_where_circumstances_say_so() -> None:
    """At 0.80 a large position may be a tenth of a percent from liquidation."""
    watch = Watch()

    assert said(watch.see(0, "0.8", at_least=Severity.CRITICAL)) == ("opened", "critical")
    assert watch.see(1, "0.81") is None  # and it stays so until the critical step's own clear level


def test_circumstances_alone_open_nothing() -> None:
    """Only a step that fires can be raised."""
    assert Watch().see(0, "0.4", at_least=Severity.CRITICAL) is None


def test_what_circumstances_make_critical_has_not_improved_while_they_last() -> None:
    """The ratio is below the level at which its own critical step clears; liquidation is as near as it was."""
    steps = (Step(D("0.5"), D("0.45"), Severity.WARNING), Step(D("0.9"), D("0.8"), Severity.CRITICAL))
    watch = Watch(MarginRatioRule(steps=steps))  # clear_for_s 60, repeated when critical every 300 s
    near = [watch.see(at, "0.75", at_least=Severity.CRITICAL) for at in range(302)]
    far = [watch.see(at, "0.75") for at in range(302, 363)]

    assert [said(change) for change in near if change] == [("opened", "critical"), ("repeated", "critical")]
    assert [said(change) for change in far] == [None] * 60 + [("improved", "warning")]


def test_a_condition_must_last_where_the_rule_says_so() -> None:
    """`for_s` keeps a spike from waking anybody, and each interruption starts it anew."""
    watch = Watch(MarginRatioRule(for_s=10))

    assert watch.see(0, "0.85") is None
    assert watch.see(9.9, "0.85") is None
    assert watch.see(9.95, "0.4") is None
    assert watch.see(11, "0.85") is None
    assert watch.see(20.9, "0.85") is None
    assert said(watch.see(21, "0.85")) == ("opened", "warning")


def test_a_hold_ends_where_the_rule_has_its_step_no_more() -> None:
    """Circumstances come and go, and a rule's steps with them: what began long ago must not count later."""
    steps = MarginRatioRule().steps
    milder = MarginRatioRule(steps=steps[:1], for_s=10)
    watch = Watch(MarginRatioRule(steps=(steps[0], steps[-1]), for_s=10))
    watch.see(0, "1")
    watch.rule = milder
    watch.see(1, "0.1")
    assert watch.incidents.is_idle(KEY)

    watch.rule = MarginRatioRule(steps=(steps[0], steps[-1]), for_s=10)
    assert watch.see(100, "1") is None
    assert said(watch.see(110, "1")) == ("opened", "liquidation")


# ---- hysteresis, improvement, recovery ----


def test_between_the_two_levels_nothing_changes() -> None:
    """A ratio that hovers at the level must not page anyone twice, nor be called recovered."""
    watch = Watch()
    watch.see(0, "0.8")

    assert [watch.see(t, v) for t, v in [(1, "0.75"), (100, "0.7"), (300, "0.799"), (400, "0.8")]] == [None] * 4


def test_recovery_needs_clear_for_s_without_interruption() -> None:
    """One good second is no recovery."""
    watch = Watch()
    watch.see(0, "0.5")

    assert watch.see(10, "0.44") is None
    assert watch.see(69, "0.44") is None
    assert watch.see(69.5, "0.45") is None  # at the clear level is not past it
    assert watch.see(70, "0.44") is None
    assert watch.see(129.9, "0.44") is None
    change = watch.see(130, "0.44")

    assert said(change) == ("resolved", "notice")
    assert change is not None
    assert change.resolution == "recovered"
    assert not watch.incidents.open


def test_improvement_goes_down_only_as_far_as_the_levels_allow() -> None:
    """From liquidation into the notice band is one improvement, and the peak is remembered."""
    watch = Watch()
    watch.see(0, "1.2")
    watch.see(1, "0.6")
    change = watch.see(61, "0.6")

    assert said(change) == ("improved", "notice")
    assert change is not None
    assert (change.incident.peak, change.incident.worst) == (Severity.LIQUIDATION, D("1.2"))

    watch.see(62, "0.1")
    resolved = watch.see(122, "0.1")
    assert said(resolved) == ("resolved", "liquidation")


def test_no_value_is_the_safest_value() -> None:
    """No liquidation price at all recovers a distance incident, after the same hold."""
    watch = Watch(DISTANCE)
    watch.see(0, "0.01")
    assert watch.see(1, None) is None
    assert said(watch.see(61, None)) == ("resolved", "critical")


# ---- coming back ----


def improved_then_back(value: str, at: float) -> tuple[Watch, Change | None]:
    watch = Watch()
    watch.see(0, "0.95")
    watch.see(1, "0.75")
    assert said(watch.see(61, "0.75")) == ("improved", "warning")
    return watch, watch.see(at, value)


def test_a_severity_entered_again_within_minutes_changes_only_the_retained_state() -> None:
    """A flapping ratio is one story, not a page a minute."""
    watch, change = improved_then_back("0.92", 360)

    assert said(change) == ("retained", "critical")
    assert change is not None
    assert change.incident.events == 2  # opened and improved; this one has no id of its own
    assert watch.incidents.open[KEY].severity is Severity.CRITICAL


@pytest.mark.parametrize(("value", "at"), [("0.951", 100), ("0.92", 361)], ids=["worse than ever", "minutes later"])
def test_a_severity_entered_again_is_told_when_it_is_news(value: str, at: float) -> None:
    """Worse than it has ever been, or long after: that somebody must hear."""
    assert said(improved_then_back(value, at)[1]) == ("worsened", "critical")


def test_a_silent_return_is_told_as_soon_as_it_is_worse_than_ever() -> None:
    """The last that was said is "improved": whoever relies on it must hear that it is over."""
    watch, _ = improved_then_back("0.92", 100)

    assert watch.see(101, "0.95") is None
    assert said(watch.see(102, "0.951")) == ("worsened", "critical")
    assert watch.see(103, "0.96") is None  # told; from here on it is an unchanged severity


def test_a_higher_severity_than_ever_is_always_told() -> None:
    """Coming back is silent up to where it has been, not beyond."""
    watch, _ = improved_then_back("0.92", 100)
    assert said(watch.see(101, "1")) == ("worsened", "liquidation")


# ---- repeats ----


@pytest.mark.parametrize(
    ("value", "every"), [("0.85", 14_400), ("0.95", 300), ("1.1", 60)], ids=["warning", "critical", "liquidation"]
)
def test_an_unchanged_condition_is_repeated_by_severity(value: str, every: int) -> None:
    """Worse is said more often."""
    watch = Watch()
    watch.see(0, value)

    assert watch.see(every - 0.1, value) is None
    assert said(watch.see(every, value))[0] == "repeated"  # type: ignore[index]
    assert watch.see(2 * every - 0.1, value) is None
    assert said(watch.see(2 * every, value))[0] == "repeated"  # type: ignore[index]


def test_a_notice_is_not_repeated() -> None:
    """It is for reading, not for waking."""
    watch = Watch()
    watch.see(0, "0.6", distance="0.1")
    assert watch.see(1_000_000, "0.6", distance="0.001") is None


def test_a_warning_is_repeated_when_the_distance_has_halved() -> None:
    """Half as far is news before the clock says so; and half of that again."""
    watch = Watch()
    watch.see(0, "0.8", distance="0.04")

    assert watch.see(1, "0.82", distance="0.0201") is None
    assert said(watch.see(2, "0.84", distance="0.02")) == ("repeated", "warning")
    assert watch.see(3, "0.84", distance="0.0101") is None
    assert said(watch.see(4, "0.86", distance="0.01")) == ("repeated", "warning")


# ---- stale inputs ----


def test_stale_data_may_open_and_worsen() -> None:
    """The last truth with fresh marks is still a reason to warn."""
    watch = Watch()
    assert said(watch.see(0, "0.8", trusted=False)) == ("opened", "warning")
    assert said(watch.see(1, "0.9", trusted=False)) == ("worsened", "critical")


def test_stale_data_never_improves_or_resolves() -> None:
    """Silence is not recovery, however long it lasts."""
    watch = Watch(MarginRatioRule(repeat_s={}))
    watch.see(0, "0.95")

    assert [watch.see(t, "0.1", trusted=False) for t in range(1, 1000, 50)] == [None] * 20
    assert watch.incidents.open[KEY].severity is Severity.CRITICAL


def test_time_spent_stale_does_not_count_towards_recovery() -> None:
    """The sixty good seconds must be seen, not assumed."""
    watch = Watch()
    watch.see(0, "0.5")
    watch.see(1, "0.1")
    watch.see(50, "0.1", trusted=False)

    assert watch.see(61, "0.1") is None
    assert watch.see(120.9, "0.1") is None
    assert said(watch.see(121, "0.1")) == ("resolved", "notice")


def test_stale_data_is_repeated_all_the_same() -> None:
    """A critical incident does not fall silent because we are blind too."""
    watch = Watch()
    watch.see(0, "0.95")
    assert said(watch.see(300, "0.2", trusted=False)) == ("repeated", "critical")


# ---- endings ----


def test_a_forced_end_is_critical_whatever_the_peak_was() -> None:
    """A liquidation is never a recovery, and never less than critical."""
    incidents = Incidents()
    watch = Watch(incidents=incidents)
    for how, severity in [("liquidated", "critical"), ("adl", "critical"), ("position_closed", "notice")]:
        watch.see(0, "0.6")
        change = incidents.resolve(KEY, how, None, now_at(1))  # type: ignore[arg-type]
        assert said(change) == ("resolved", severity)
        assert change is not None
        assert change.incident.severity is Severity.OK
    watch.see(2, "1.5")
    assert said(incidents.resolve(KEY, "partly_liquidated", None, now_at(3))) == ("resolved", "liquidation")


def test_there_is_nothing_to_resolve_where_nothing_is_open() -> None:
    """No end without a beginning."""
    assert Incidents().resolve(KEY, "liquidated", None, now_at(0)) is None


def test_a_disabled_rule_ends_its_incidents_and_opens_none() -> None:
    """A reloaded config must not leave an incident open that nobody looks after."""
    watch = Watch()
    watch.see(0, "0.95")
    watch.rule = MarginRatioRule(enabled=False)
    change = watch.see(1, "0.95")

    assert said(change) == ("resolved", "critical")
    assert change is not None
    assert change.resolution == "rule_changed"
    assert watch.see(2, "0.95") is None


def test_a_rule_that_lost_the_step_has_changed_not_recovered() -> None:
    """The value is as bad as before; only nobody asks any more."""
    watch = Watch()
    watch.see(0, "0.6")
    watch.rule = MarginRatioRule(steps=(Step(D("0.8"), D("0.7"), Severity.WARNING),))
    change = watch.see(1, "0.6")

    assert change is not None
    assert change.resolution == "rule_changed"


def test_a_rule_whose_level_was_raised_has_changed_not_recovered() -> None:
    """A ratio of 85 % is no recovery from the 80 % that it was told by; below the old level it is one."""
    raised = MarginRatioRule(steps=(Step(D("0.95"), D("0.9"), Severity.WARNING),))
    ends = []
    for value in ("0.85", "0.3"):
        watch = Watch()
        watch.see(0, "0.85")
        watch.rule = raised
        watch.see(1, value)
        change = watch.see(62, value)
        assert change is not None
        ends.append(change.resolution)

    assert ends == ["rule_changed", "recovered"]


def test_a_reopened_condition_is_a_new_incident() -> None:
    """Recovered is recovered; what comes after has a story and an id of its own."""
    watch = Watch()
    first = watch.see(0, "0.5")
    watch.see(1, "0.1")
    watch.see(61, "0.1")
    second = watch.see(62, "0.5")

    assert first is not None
    assert second is not None
    assert said(second) == ("opened", "notice")
    assert first.incident.incident_id != second.incident.incident_id
    assert second.incident.events == 1


# ---- names ----


@given(st.lists(st.integers(-10_000, 10_000), min_size=2, max_size=12))
def test_ids_rise_strictly_even_if_the_clock_steps_back(steps_ms: list[int]) -> None:
    """Two incidents of one name would be one for every consumer, and the second would be lost."""
    incidents, wall_ms, opened = Incidents(), 1_795_248_000_000, []
    for i, step in enumerate(steps_ms):
        wall_ms += step
        change = incidents.observe(KEY, RATIO, D(1), Now(i, wall_ms))
        assert change is not None
        opened.append(int(change.incident.incident_id.rpartition(".")[2]))
        incidents.resolve(KEY, "position_closed", None, Now(i, wall_ms))

    assert opened == sorted(set(opened))


def test_one_off_facts_have_names_of_their_own_too() -> None:
    """Two facts within one millisecond are two."""
    incidents = Incidents()
    notes = [incidents.note(KEY, Severity.INFO, now_at(0)) for _ in range(3)]

    assert [n.incident.event_id[-7:] for n in notes] == ["00000.1", "00001.1", "00002.1"]
    assert {said(n) for n in notes} == {("noted", "info")}
    assert not incidents.open


def test_names_go_on_after_a_restart_with_the_clock_set_back() -> None:
    """The store knows the last name given; a clock that lost an hour must not give it again."""
    later = Incidents()
    later.restore([], Now(0, 1_795_248_000_000), 1_795_251_600_000)
    change = later.observe(KEY, RATIO, D(1), Now(0, 1_795_248_000_000))

    assert change is not None
    assert change.incident.opened_ms == 1_795_251_600_001


def test_a_name_given_after_an_incident_opened_is_not_given_again_after_a_restart() -> None:
    """With the clock set back, a fact told beside an open incident is named right after it."""
    before = Incidents()
    opened = before.observe(KEY, RATIO, D(1), now_at(0))
    assert opened is not None
    noted = before.note(KEY, Severity.WARNING, now_at(-3600))
    later = Incidents()
    later.restore([saved(opened.incident, now_at(0))], now_at(-3600), noted.incident.opened_ms)

    assert later.note(KEY, Severity.WARNING, now_at(-3600)).incident.incident_id != noted.incident.incident_id


# ---- restart ----


def test_how_long_it_lasted_is_what_passed_whatever_the_clock_did() -> None:
    """Set back by ten minutes while an incident is open, once within one life of the process and once between two."""
    opened = Incidents()
    opened.observe(KEY, RATIO, D(1), now_at(0))
    later = Now(now_at(90).mono, now_at(90 - 600).wall_ms)
    ended = opened.resolve(KEY, "recovered", D(0), later)
    assert ended is not None
    assert ended.lasted_s == 90

    first = Incidents()
    change = first.observe(KEY, RATIO, D(1), now_at(0))
    assert change is not None
    second = Incidents()
    second.restore([saved(change.incident, now_at(60))], Now(5, now_at(60 - 600).wall_ms), 0)
    ended = second.resolve(KEY, "recovered", D(0), Now(12, now_at(67 - 600).wall_ms))
    assert ended is not None
    assert ended.lasted_s == 67


def restarted(watch: Watch, down_at: float, up_at: float) -> Watch:
    """Another process takes over: its monotonic clock begins anew, at zero when the wall clock says `up_at`."""
    rows = [saved(incident, now_at(down_at)) for incident in watch.incidents]
    other = Watch(watch.rule)
    other.incidents.restore(rows, Now(0, now_at(up_at).wall_ms), 0)
    return other


def at_wall(up_at: float, mono: float) -> Now:
    return Now(mono, now_at(up_at + mono).wall_ms)


def observe(watch: Watch, value: str, now: Now) -> Change | None:
    return watch.incidents.observe(KEY, watch.rule, D(value), now)


def test_a_restart_tells_nothing_twice() -> None:
    """The same condition after a restart is the same incident, already told."""
    watch = Watch()
    watch.see(0, "0.95")
    other = restarted(watch, 10, 100)

    assert observe(other, "0.95", at_wall(100, 1)) is None
    [incident] = other.incidents
    assert incident.event_id == "main.cross-usdt.margin_ratio.1795248000000.1"


def test_a_restart_forgets_nothing() -> None:
    """The story goes on under its id: worse is told as worse, with the next number."""
    watch = Watch()
    watch.see(0, "0.85")
    other = restarted(watch, 10, 100)
    change = observe(other, "0.93", at_wall(100, 1))

    assert said(change) == ("worsened", "critical")
    assert change is not None
    assert change.incident.event_id == "main.cross-usdt.margin_ratio.1795248000000.2"


def test_a_condition_that_cleared_while_we_were_down_is_resolved_on_return() -> None:
    """After the hold, seen with our own eyes."""
    watch = Watch()
    watch.see(0, "0.85")
    other = restarted(watch, 10, 5000)

    assert observe(other, "0.3", at_wall(5000, 1)) is None
    change = observe(other, "0.3", at_wall(5000, 61))
    assert said(change) == ("resolved", "warning")


def test_repeats_go_on_from_when_it_was_last_told() -> None:
    """Restarting every four minutes must not silence a critical incident for ever, nor repeat it each time."""
    watch = Watch()
    watch.see(0, "0.95")
    other = restarted(watch, 10, 200)

    assert observe(other, "0.95", at_wall(200, 99.9)) is None
    assert said(observe(other, "0.95", at_wall(200, 100))) == ("repeated", "critical")


def test_reentry_after_a_restart_is_still_silent() -> None:
    """What was left before the restart was left."""
    watch = Watch()
    for at, value in [(0, "0.95"), (1, "0.75"), (61, "0.75")]:
        watch.see(at, value)
    other = restarted(watch, 62, 70)

    assert said(observe(other, "0.92", at_wall(70, 1))) == ("retained", "critical")


def test_a_row_that_does_not_read_is_left_out() -> None:
    """After an upgrade or a damaged disk the monitor must start all the same: told twice is better than silent."""
    watch = Watch()
    watch.see(0, "0.95")
    good = saved(watch.incidents.open[KEY], now_at(1))
    other = Incidents()
    other.restore([b"{}", b"\xff", good], now_at(2), 0)

    assert list(other.open) == [KEY]


def test_a_clock_set_back_over_the_restart_does_no_harm() -> None:
    """A negative time down counts as none."""
    watch = Watch()
    watch.see(100, "0.95")
    other = restarted(watch, 110, 50)

    assert observe(other, "0.95", at_wall(50, 1)) is None
    assert said(observe(other, "0.95", at_wall(50, 291))) == ("repeated", "critical")


# ---- a rule in seconds ----


def test_a_stale_link_is_warned_then_critical_then_live() -> None:
    """The age of data has the same life as any other measure."""
    watch = Watch(DataStaleRule())
    seen = [watch.see(t, str(age)) for t, age in [(0, 14.9), (1, 15), (46, 60), (47, 0), (49.9, 0), (50, 0)]]

    assert [said(c) for c in seen] == [
        None,
        ("opened", "warning"),
        ("worsened", "critical"),
        None,
        None,
        ("resolved", "critical"),
    ]


@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.decimals(0, 2, places=3), st.booleans(), st.floats(0.0001, 1)),
        max_size=60,
    )
)
def test_every_story_is_well_formed(seen: list[tuple[float, Decimal, bool, float]]) -> None:
    """Whatever the values: opened first, resolved last, numbers without gaps, no end and no ease while stale."""
    incidents, at, events = Incidents(), 0.0, []
    for wait, value, trusted, distance in seen:
        at += wait
        change = incidents.observe(
            KEY, RATIO, value, now_at(at), trusted=trusted, distance=Decimal(str(round(distance, 4)))
        )
        if change is not None:
            assert trusted or change.kind in ("opened", "worsened", "repeated", "retained")
            if change.kind != "retained":
                events.append((change.kind, change.incident.incident_id, change.incident.events))
        severity = incidents.open[KEY].severity if KEY in incidents.open else Severity.OK
        firing = [step.severity for step in RATIO.steps if step.fires(value)]
        assert severity >= max(firing, default=Severity.OK)

    for before, after in zip([None, *events], events, strict=False):
        new = before is None or before[0] == "resolved"
        assert (after[0] == "opened") == new
        assert after[2] == (1 if before is None or new else before[2] + 1)
        assert new or before is None or before[1] == after[1]
