"""Topics, bodies and digits: what is published where, and how it is rounded."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.digits import ceiled, floored, half_up, plain, rfc3339, truncated
from monitor.effects import IncidentOver, PoolGone, PoolState, PositionGone, PositionState, Story
from monitor.encoder import Encoder
from monitor.events import ExchangeFigures, LinkState, PositionKey, PositionsRead, Side, Tick
from monitor.incident import IncidentKey
from monitor.message import Identity, Message
from monitor.payloads.figures import Rounding
from monitor.rules import DEFAULTS, LiquidationDistanceRule, MarginRatioRule, Match, RuleBook, Severity, Step
from tests.watched import FLAT, Watched, of_rule, row

D = Decimal
MESSAGES = Encoder(Identity("home/risk", "vps1", "0.1.0", "boot", 0), RuleBook())
ROUNDING = Rounding(RuleBook())


def body(message: Message) -> Any:
    return msgspec.json.decode(message.payload)


def crisis() -> Watched:
    """A long near liquidation, with both rules open and every topic published once."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90300")
    return core


# ---- digits ----


@pytest.mark.parametrize(
    ("value", "down", "up", "cut", "half"),
    [
        ("1.000000005", "1.00000000", "1.00000001", "1.00000000", "1.00000001"),
        ("-1.000000005", "-1.00000001", "-1.00000000", "-1.00000000", "-1.00000001"),
        ("0.0000000049", "0.00000000", "0.00000001", "0.00000000", "0.00000000"),
        ("-0.0000000049", "-0.00000001", "0.00000000", "0.00000000", "0.00000000"),
        ("-0", "0.00000000", "0.00000000", "0.00000000", "0.00000000"),
        ("1E+3", "1000.00000000", "1000.00000000", "1000.00000000", "1000.00000000"),
        ("123456789012345678901234.5", *["123456789012345678901234.50000000"] * 4),
        ("0.00001234", *["0.00001234"] * 4),
    ],
)
def test_money_is_printed_in_eight_decimals_and_plainly(value: str, down: str, up: str, cut: str, half: str) -> None:
    """Never `1E+3`, never `-0`, however large or small: consumers parse it as text."""
    number = D(value)
    assert (floored(number), ceiled(number), truncated(number), half_up(number)) == (down, up, cut, half)


@pytest.mark.parametrize(
    ("value", "printed"), [("1E+3", "1000"), ("1E-10", "0.0000000001"), ("0.100", "0.100"), ("-12", "-12")]
)
def test_a_quantity_keeps_its_own_digits(value: str, printed: str) -> None:
    """The exchange's steps differ from contract to contract."""
    assert plain(D(value)) == printed


def test_unknown_is_null() -> None:
    """Never "0", -1 or NaN."""
    assert [f(None) for f in (truncated, half_up, floored, ceiled)] == [None] * 4
    assert (ROUNDING.ratio(None), ROUNDING.distance(None)) == (None, None)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("0.123456781", 0.12345679),
        ("0.79999999999", 0.79999999),
        ("0.8", 0.8),
        ("0.80000000001", 0.80000001),
        ("0.69999999999", 0.69999999),
        ("0.99999999999", 0.99999999),
        ("11", 10.0),
        ("0", 0.0),
    ],
)
def test_a_ratio_is_rounded_up_but_never_onto_a_level(value: str, printed: float) -> None:
    """More alarming, but not so that it reads 0.8 while no rule has fired."""
    assert ROUNDING.ratio(D(value)) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("0.123456789", 0.12345678),
        ("0.05000000001", 0.05000001),
        ("0.05", 0.05),
        ("0.04999999999", 0.04999999),
        ("0.06000000001", 0.06000001),
        ("1.5", 1.5),
        ("0", 0.0),
    ],
)
def test_a_distance_is_rounded_down_but_never_onto_a_level(value: str, printed: float) -> None:
    """The same, the other way round."""
    assert ROUNDING.distance(D(value)) == printed


@given(st.decimals(0, 2, places=12, allow_nan=False, allow_infinity=False))
def test_what_is_printed_is_on_the_side_of_every_level_on_which_it_is(value: Decimal) -> None:
    """A reader of the payload and the rule must come to the same answer."""
    ratio, distance = ROUNDING.ratio(value), ROUNDING.distance(value)
    assert ratio is not None
    assert distance is not None

    for step in DEFAULTS["margin_ratio"].steps:
        assert (D(str(ratio)) >= step.at) == (value >= step.at)
        assert (D(str(ratio)) < step.clear) == (value < step.clear)
    for step in DEFAULTS["liquidation_distance"].steps:
        assert (D(str(distance)) <= step.at) == (value <= step.at)
        assert (D(str(distance)) > step.clear) == (value > step.clear)
    assert abs(D(str(ratio)) - value) < D("1e-8")
    assert abs(D(str(distance)) - value) < D("1e-8")


def test_levels_of_configured_rules_and_overrides_count_too() -> None:
    """And from a reload on, those of the new rules."""
    steps = (Step(D("0.3"), D("0.2"), Severity.WARNING),)
    match = Match(MarginRatioRule(steps=(Step(D("0.6"), D("0.5"), Severity.WARNING),)), symbol="X*")
    rules = RuleBook({**DEFAULTS, "margin_ratio": MarginRatioRule(steps=steps)}, {"margin_ratio": (match,)})
    assert ROUNDING.ratio(D("0.29999999999")) == 0.3

    assert [Rounding(rules).ratio(D(v)) for v in ("0.29999999999", "0.59999999999", "0.79999999999")] == [
        0.29999999,
        0.59999999,
        0.8,
    ]


def test_times_are_rfc_3339_in_utc_with_milliseconds() -> None:
    """The same everywhere, whatever the machine's zone."""
    assert rfc3339(1_795_248_000_007) == "2026-11-21T08:00:00.007Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


# ---- topics, retained or not ----


def test_every_effect_has_its_topic_and_only_states_are_retained() -> None:
    """A retained event would wake people days later; a state that is not retained leaves dashboards blank."""
    sent = crisis().sent()
    topics = {(m.topic.removeprefix("marginwatch/"), m.retain, m.qos) for m in sent}

    assert topics == {
        ("main/event/critical/margin_ratio", False, 1),
        ("main/incident/margin_ratio/cross-usdt", True, 1),
        ("main/event/critical/liquidation_distance", False, 1),
        ("main/incident/liquidation_distance/cross-usdt", True, 1),
        ("main/pool/cross-usdt", True, 0),
        ("main/position/btcusdt", True, 0),
        ("main/summary", True, 1),
        ("main/health", True, 1),
        ("_instance/health", True, 1),
    }
    assert all((m.event_id is None) == m.retain for m in sent)


def test_the_prefix_may_have_levels_of_its_own() -> None:
    """Whoever shares a broker chooses where we live."""
    assert MESSAGES.status(True) == Message("home/risk/status", b"online", True, 1, rank=9)
    assert MESSAGES.status(False).payload == b"offline"
    info = MESSAGES.info([("main", "binance-usdm")])
    assert (info.topic, info.retain, info.qos) == ("home/risk/info", True, 1)
    assert body(info)["accounts"] == [{"account": "main", "venue": "binance-usdm"}]


@pytest.mark.parametrize(
    ("effect", "topic"),
    [
        (PoolGone("main", "isolated-btcusdt-long"), "home/risk/main/pool/isolated-btcusdt-long"),
        (PositionGone("main", PositionKey("BTCUSDT", Side.BOTH)), "home/risk/main/position/btcusdt"),
        (PositionGone("main", PositionKey("BTCUSDT", Side.SHORT)), "home/risk/main/position/btcusdt-short"),
        (PositionGone("main", PositionKey("BTCUSDT_260327", Side.BOTH)), "home/risk/main/position/btcusdt5f260327"),
        (IncidentOver(IncidentKey("main", "margin_ratio", "x")), "home/risk/main/incident/margin_ratio/x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_gone_empties_its_topic_reliably(effect: PoolGone | PositionGone | IncidentOver, topic: str) -> None:
    """An empty retained payload, acknowledged: a ghost of a closed position frightens people."""
    assert MESSAGES.of(effect) == [Message(topic, b"", retain=True, qos=1)]


def test_an_event_and_the_incidents_state_carry_the_same_id() -> None:
    """Whoever connects late reads the state and knows which event it was."""
    core = crisis()
    [event, incident] = [m for m in core.sent() if "margin_ratio" in m.topic]

    assert body(event)["event_id"] == body(incident)["event_id"] == event.event_id
    assert event.incident_id == body(event)["incident_id"]
    assert (body(event)["title"], body(event)["text"]) == (body(incident)["title"], body(incident)["text"])
    assert body(incident)["schema"] == "marginwatch.incident/1"
    assert event.rank == Severity.CRITICAL


def test_a_resolved_incident_is_told_under_its_peak_and_its_state_emptied() -> None:
    """The consumer that was woken by a critical message must get the end of it too."""
    core = crisis()
    core.effects.clear()
    core.hold(62, "120000")
    sent = [m for m in core.sent() if "margin_ratio" in m.topic]
    [event, emptied] = sent

    assert event.topic == "marginwatch/main/event/critical/margin_ratio"
    assert body(event)["event"] == "resolved"
    assert body(event)["event_type"] == "margin_ratio_resolved"
    assert (body(event)["severity"], body(event)["peak_severity"]) == ("critical", "critical")
    assert (body(event)["resolution"], body(event)["duration_s"]) == ("recovered", 61.0)
    assert (emptied.topic, emptied.payload, emptied.retain) == (
        "marginwatch/main/incident/margin_ratio/cross-usdt",
        b"",
        True,
    )


def test_a_silent_change_publishes_the_state_and_no_event() -> None:
    """A restart, or a severity come back: topics are right, phones are quiet."""
    core = crisis()
    later = Watched(kept=core.kept(), start=100.0)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    later.price("90300")
    sent = [m for m in later.sent() if "margin_ratio" in m.topic]

    assert [(m.topic, m.retain) for m in sent] == [("marginwatch/main/incident/margin_ratio/cross-usdt", True)]
    assert body(sent[0])["event_id"].endswith(".1")


def test_a_story_about_a_link_is_published_under_no_account() -> None:
    """The market link is shared: its incident is the instance's."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"))
    for _ in range(16):
        core.step(Tick())
    [event] = [m for m in core.sent() if m.event_id]

    assert event.topic == "marginwatch/_instance/event/warning/data_stale"
    assert body(event)["dedupe_key"] == "_instance.data_stale.market-x.warning"
    assert body(event)["data"]["link"] == "market-x"
    assert body(event)["data"]["pools"] == ["main/cross-usdt"]
    assert body(event)["worst"] == {"age_s": 15.0}


def test_a_moved_price_carries_its_causes() -> None:
    """The funding of the documented account: 22.60 USDT, and what it moved, to the last digit."""
    core = Watched()
    core.begin("5205.00", row("BTCUSDT", "2.5", "92000"))
    core.price("90400")
    core.step(core.changed("FUNDING_FEE", "5182.40", symbol="BTCUSDT"))
    [story] = of_rule(core.hold(25, "90400"), "liquidation_price_moved")
    [event] = core.messages.of(story)
    said = body(event)

    assert event.topic == "marginwatch/main/event/info/liquidation_price_moved"
    assert (said["event"], said["severity"], said["subject"]) == ("noted", "info", "btcusdt")
    assert said["before"]["liquidation_price"] == "90279.11646586"
    assert said["after"]["liquidation_price"] == "90288.19277108"
    assert said["cause"] == [
        {
            "kind": "funding_fee",
            "symbol": "BTCUSDT",
            "forecast": None,  # no mark had told of a funding
            "amount": "-22.60000000",
            "asset": "USDT",
            "moved": "9.07630522",
            "share": 1.0,
        }
    ]
    assert said["also"] == []


# ---- states ----


def states(core: Watched) -> tuple[PoolState, PositionState]:
    effects = core.step(core.mark("90300.5"), Tick())
    [pool] = [e for e in effects if isinstance(e, PoolState)]
    [position] = [e for e in effects if isinstance(e, PositionState)]
    return pool, position


def shown(core: Watched, state: PoolState | PositionState) -> Any:
    [message] = core.messages.of(state)
    return body(message)


def test_a_position_is_printed_in_the_exchanges_own_digits() -> None:
    """What the exchange prints too must be equal to the last digit, or nobody trusts the rest."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000.123456789"))
    _, state = states(core)
    said = shown(core, state)

    assert (said["side"], said["quantity"], said["margin_mode"]) == ("long", "2.5", "cross")
    assert said["entry_price"] == "92000.12345678"
    assert said["notional"] == "225751.25000000"
    assert said["unrealized_pnl"] == "-4249.05864197"  # 2.5 × (90300.5 − 92000.123456789), cut
    assert said["maintenance_margin"] == "903.00500000"
    assert said["bracket"] == {"number": 1, "rate": 0.004, "amount": "0", "room_to_next": "74248.75000000"}
    assert said["clearance_fee"] == "2821.89062500"
    assert said["liquidation"] == {"below": said["liquidation_price"], "above": None, "reason": None}
    assert said["pool"] == "cross-usdt"


def test_a_short_is_negative_and_says_short() -> None:
    """Quantities and notionals are signed, sides are words, distances positive."""
    core = Watched()
    core.begin("9000", row("BTCUSDT", "-2.5", "90000", isolated=True, isolated_wallet="8000"))
    _, state = states(core)
    said = shown(core, state)

    assert (said["side"], said["quantity"], said["notional"]) == ("short", "-2.5", "-225751.25000000")
    assert said["margin_mode"] == "isolated"
    # bankrupt at 90000 + 8000 ÷ 2.5, above the mark: floored is the nearer side
    assert said["bankruptcy_price"] == "93200.00000000"
    assert said["distance"] > 0


def test_a_bankruptcy_price_is_rounded_toward_the_mark() -> None:
    """It is ours alone, so it goes to the alarming side."""
    core = Watched()
    core.begin("1000", row("BTCUSDT", "0.3", "92000"))
    _, state = states(core)
    assert shown(core, state)["bankruptcy_price"] == "88666.66666667"  # 92000 − 1000 ÷ 0.3, up

    short = Watched()
    short.begin("1000", row("BTCUSDT", "-0.3", "92000"))
    _, state = states(short)
    assert shown(short, state)["bankruptcy_price"] == "95333.33333333"  # down


def test_tiny_prices_keep_their_digits() -> None:
    """A coin at 0.00001 has a price of three significant digits in eight decimals, and a ratio like any other."""
    core = Watched()
    core.begin("100", row("PEPEUSDT", "30000000", "0.00001234"), brackets={"PEPEUSDT": FLAT})
    effects = core.step(core.mark("0.00001200", "PEPEUSDT"), Tick())
    [position] = [e for e in effects if isinstance(e, PositionState)]
    said = shown(core, position)

    assert (said["entry_price"], said["mark_price"]) == ("0.00001234", "0.00001200")
    # (30000000 × 0.00001234 − 100) ÷ (30000000 × 0.99) = 270.2 ÷ 29700000 = 0.0000090976…
    assert said["liquidation_price"] == "0.00000910"
    assert said["distance"] == 0.24186307


def test_a_pool_is_complete_or_says_what_is_missing() -> None:
    """Null and its reason, never a zero that reads as safe."""
    core = crisis()
    pool, _ = states(core)
    said = shown(core, pool)
    assert (said["reason"], said["bankrupt"], said["freshness"], said["severity"]) == (None, False, "live", "critical")
    assert said["ladder"][0] == {"shock": -0.01, "margin_ratio": 10.0}
    assert said["closest"]["liquidation_price"] == "90288.19277108"

    blind = Watched()
    blind.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    [unknown] = [e for e in blind.step(Tick()) if isinstance(e, PoolState)]
    said = shown(blind, unknown)
    assert (said["margin_ratio"], said["reason"], said["freshness"]) == (None, "mark_unknown", "stale")
    assert said["ladder"][0]["margin_ratio"] is None


def test_a_pool_past_liquidation_prints_the_cap() -> None:
    """10 and bankrupt: never negative, never null."""
    core = Watched()
    core.begin("100", row("BTCUSDT", "2.5", "92000"))
    pool, position = states(core)

    assert shown(core, pool)["margin_ratio"] == 10
    assert shown(core, pool)["bankrupt"] is True
    assert shown(core, pool)["distance"] == 0
    assert shown(core, position)["distance"] == 0


def test_the_exchanges_own_price_stands_beside_ours() -> None:
    """Whoever doubts can compare; its "0" is null."""
    core = Watched()
    held = row("BTCUSDT", "2.5", "92000")
    core.begin("5182.40", held)
    for printed, said in [(D("90288.192771084"), "90288.19277108"), (None, None)]:
        figures = ExchangeFigures(D(90_300), D(0), D(903), printed)
        core.step(PositionsRead("main", ((held, figures),), core.now.wall_ms))
        _, state = states(core)
        core.price("90300")
        assert shown(core, state)["exchange_liquidation_price"] == said


def test_a_summary_is_the_proof_of_life() -> None:
    """What is watched, the worst of it, and until when it may be believed."""
    [summary] = [body(m) for m in crisis().sent() if m.topic == "marginwatch/main/summary"][-1:]

    assert (summary["severity"], summary["severity_rank"], summary["open_positions"]) == ("critical", 4, 1)
    assert summary["rules"]["margin_ratio"] == {"severity": "critical", "open": 1}
    assert summary["rules"]["data_stale"] == {"severity": "ok", "open": 0}
    assert summary["unrealized_pnl"] == {"USDT": "-4250.00000000"}
    assert summary["valid_for_s"] == 90
    assert summary["freshness"] == "live"


def test_an_unread_account_has_no_figures() -> None:
    """Before the first snapshot nothing is known, and nothing is said to be fine."""
    core = Watched()
    core.connect(LinkState.CONNECTING)
    core.step(Tick())
    [summary] = [body(m) for m in core.sent() if m.topic == "marginwatch/main/summary"]

    assert (summary["worst_margin_ratio"], summary["open_positions"], summary["freshness"]) == (None, None, "stale")


def test_the_same_story_gives_the_same_bytes() -> None:
    """A redelivery is recognised by its bytes."""
    core = crisis()
    [story] = [e for e in core.effects if isinstance(e, Story) and e.change.incident.rule == "margin_ratio"]
    assert core.messages.of(story) == core.messages.of(story)


def test_distance_levels_are_those_of_the_distance_rule() -> None:
    """0.0123 is a level here and nowhere else."""
    rule = LiquidationDistanceRule(steps=(Step(D("0.0123"), D("0.02"), Severity.WARNING),))
    rounding = Rounding(RuleBook({**DEFAULTS, "liquidation_distance": rule}))
    assert rounding.distance(D("0.0123000000001")) == 0.01230001
