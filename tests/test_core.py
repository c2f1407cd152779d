"""The whole monitor by plain calls: events in, what is told and published out."""

from __future__ import annotations

from cProfile import Profile
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from monitor.core import Core, Kept, Setup
from monitor.effects import (
    AccountSetup,
    Effect,
    HealthState,
    IncidentOver,
    PoolGone,
    PoolState,
    PositionGone,
    PositionState,
    Resync,
    Save,
    Story,
    SummaryState,
    Watch,
)
from monitor.events import (
    AccountModeRead,
    AssetRate,
    AssetRates,
    Balance,
    BracketsRead,
    ConfigTouched,
    Event,
    ForcedKind,
    LinkId,
    LinkState,
    MarginTypesRead,
    MarkPrice,
    Position,
    PositionKey,
    Side,
    StoreState,
    Tick,
)
from monitor.incident import Incident
from monitor.incidents import saved
from monitor.rules import (
    DEFAULTS,
    DataStaleRule,
    LiquidationDistanceRule,
    MarginRatioRule,
    Match,
    RuleBook,
    Severity,
    Step,
)
from monitor.unseen import restart
from tests.watched import BTC, FLAT, MARKET, WALL_MS, Watched, all_valid, crisis, kinds, now_at, of_rule, row, told

D = Decimal


def bodies(core: Watched, stories: list[Story]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(core.messages.of(story)[0].payload) for story in stories]


# ---- the documented example ----

EXAMPLE = RuleBook(
    {
        **DEFAULTS,
        "margin_ratio": MarginRatioRule(
            steps=(Step(D("0.8"), D("0.7"), Severity.WARNING), Step(D("0.9"), D("0.8"), Severity.CRITICAL))
        ),
    }
)


def test_the_documented_example_is_reproduced_to_the_last_figure() -> None:
    """The example of the README is what others build on: from events to payload, digit by digit."""
    core = Watched(rules=EXAMPLE)
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90385")
    [story] = of_rule(core.price("90372.10"), "margin_ratio")
    [body] = bodies(core, [story])

    assert body["event"] == "opened"
    assert (body["severity"], body["severity_rank"], body["peak_severity"]) == ("critical", 4, "critical")
    assert body["dedupe_key"] == "main.margin_ratio.cross-usdt.critical"
    assert (body["subject"], body["symbol"], body["side"]) == ("cross-usdt", "BTCUSDT", "long")
    assert body["before"] == {
        "margin_ratio": 0.7894576,  # 903.85 ÷ 1144.90 = 0.789457594…, toward the alarming side
        "margin_balance": "1144.90000000",
        "mark_price": "90385.00000000",
        "liquidation_price": "90288.19277108",
        "distance": 0.00107105,
    }
    assert body["after"] == {
        "margin_ratio": 0.81222397,
        "margin_balance": "1112.65000000",
        "mark_price": "90372.10000000",
        "liquidation_price": "90288.19277108",
        "distance": 0.00092846,
    }
    assert body["drivers"] == [{"kind": "mark", "symbol": "BTCUSDT", "margin_balance": "-32.25000000"}]
    assert body["worst"] == {"margin_ratio": 0.81222397}
    assert body["advice"] == [
        {"action": "add_margin", "amount": "178.38000000", "asset": "USDT", "to_ratio": 0.7},
        {"action": "reduce", "symbol": "BTCUSDT", "side": "long", "quantity": "0.346", "to_ratio": 0.7},
    ]
    assert body["data"]["freshness"] == "live"
    assert body["title"] == "main: margin ratio 81.2 %, 0.09 % from liquidation"
    assert body["text"] == (
        "main cross-usdt: margin ratio 81.2 % (≥ 80 %). BTCUSDT long liquidates at 90288.2, 0.09 % away."
        " Add 178.38 USDT or reduce 0.346 BTC to return to 70 %."
    )


def test_advice_goes_by_the_steps_that_stand_open_not_by_where_the_ratio_is_just_now() -> None:
    """At 75 % a warning stands until 70 %; whoever brings the ratio back to that has done enough."""
    core, opened = crisis()
    stories = [opened, *of_rule(core.hold(61, "90409.2"), "margin_ratio")]
    stories += of_rule([s for _ in range(145) for s in core.price("90409.2", after=100)], "margin_ratio")

    told = [
        (body["event"], body["severity"], [a["to_ratio"] for a in body["advice"]]) for body in bodies(core, stories)
    ]
    assert told == [
        ("opened", "critical", [0.7, 0.7]),
        ("improved", "warning", [0.7, 0.7]),
        ("repeated", "warning", [0.7, 0.7]),
    ]
    assert bodies(core, stories)[-1]["text"].endswith("to return to 70 %.")


def test_what_an_incident_shows_after_a_restart_has_its_advice() -> None:
    """Whoever begins with the retained topics is told what to do, too."""
    core, _ = crisis()
    later = Watched(kept=core.kept(), start=core.t)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    later.price("90372.10")

    [shown] = [m for m in later.sent() if m.topic == "marginwatch/main/incident/margin_ratio/cross-usdt"]
    assert [a["to_ratio"] for a in msgspec.json.decode(shown.payload)["advice"]] == [0.7, 0.7]


# ---- work follows the tick ----


def test_a_tick_touches_only_the_pools_that_hold_the_symbol() -> None:
    """The cost of a tick grows with what it could change, not with how much is watched."""
    core = Watched("main", "other")
    core.begin("20000", row("BTCUSDT", "1", "50000"), row("XRPUSDT", "9", "1", isolated_wallet="9"))
    core.begin("20000", row("ETHUSDT", "1", "3000"), account="other")
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), core.mark("1", "XRPUSDT"))
    accounts = core.core.accounts
    before = {(a, p): risk for a in accounts for p, risk in accounts[a].risks.items()}

    core.step(core.mark("50001"))

    after = {(a, p): risk for a in accounts for p, risk in accounts[a].risks.items()}
    assert {key for key in after if after[key] is not before[key]} == {("main", "cross-usdt")}


def calls(core: Watched, function: str, *events: Event) -> int:
    """How often a function is called in a step with these events."""
    profile = Profile()
    core.t += 1
    profile.runcall(core.core.step, events, core.now)
    return sum(entry.callcount for entry in profile.getstats() if getattr(entry.code, "co_name", None) == function)


def funded(symbol: str, account: str) -> Watched:
    """Two accounts, of which one has just been charged funding and waits for the rest of that instant."""
    core = Watched("main", "other")
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.begin("1000", row(symbol, "1", "3000"), account="other")
    core.step(core.mark("50000"), core.mark("3000", symbol), Tick())
    core.step(core.changed("FUNDING_FEE", "999", symbol=symbol, account=account))
    return core


def test_what_waits_to_be_told_costs_nothing_while_nothing_of_it_moves() -> None:
    """At a funding instant a thousand accounts wait at once; no mark of another symbol may pay for them."""
    core = funded("ETHUSDT", "other")

    assert calls(core, "_may_reach", core.mark("50001")) == 0
    assert calls(core, "_may_reach", core.mark("3001", "ETHUSDT")) == 1
    assert of_rule(core.tell(Tick(), after=20), "liquidation_price_moved")


def test_an_account_event_that_needs_no_other_marks_looks_at_no_other_account() -> None:
    """A thousand payments within a second must not be a million looks."""
    core = funded("ETHUSDT", "other")

    assert calls(core, "_watch", core.changed("FUNDING_FEE", "998", symbol="ETHUSDT", account="other")) == 0
    at = core.now.wall_ms
    assert calls(core, "_watch", core.changed("ORDER", "998", row("BTCUSDT", "1", "50000", at_ms=at), account="other"))


def test_a_mark_of_a_symbol_that_nobody_holds_does_nothing() -> None:
    """The all-symbol array carries hundreds of them."""
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")

    assert core.step(core.mark("1", "DOGEUSDT")) == []


def test_an_older_mark_does_not_move_anything() -> None:
    """Two connections carry the same stream; the slower one is always late."""
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    late = MarkPrice(MARKET, "BTCUSDT", D(10_000), core.now.wall_ms - 1, None, None)

    assert told(core.step(late)) == []


def test_of_the_marks_of_one_step_the_last_decides() -> None:
    """All ready frames are applied, then one step runs: a spike that is over already is no news."""
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    assert told(core.step(core.mark("30000"), core.mark("50000"))) == []


def test_the_market_is_asked_for_the_held_symbols_and_no_others() -> None:
    """Marks are subscribed to as positions come and go."""
    core = Watched()
    begun = core.begin("20000", row("BTCUSDT", "1", "50000"))
    more = core.step(core.changed("ORDER", None, row("ETHUSDT", "1", "3000", at_ms=core.now.wall_ms)))
    less = core.step(core.changed("ORDER", None, row("BTCUSDT", "0", "0", at_ms=core.now.wall_ms)))

    watches = [[e.symbols for e in effects if isinstance(e, Watch)] for effects in (begun, more, less)]
    assert watches == [[{"BTCUSDT"}], [{"BTCUSDT", "ETHUSDT"}], [{"ETHUSDT"}]]
    assert Resync("main", "a symbol that is new to us") in more


LARGEST, SMALLEST = "99999999999999.99999999", "1e-30"


@pytest.mark.parametrize("isolated", [False, True], ids=["cross", "isolated"])
@pytest.mark.parametrize(
    ("wallet", "quantity", "entry_price", "mark"),
    [
        (LARGEST, LARGEST, LARGEST, LARGEST),
        (f"-{LARGEST}", LARGEST, LARGEST, "0.00000001"),
        (LARGEST, f"-{LARGEST}", "0.00000001", LARGEST),
        ("0.00000001", "0.00000001", "0.00000001", LARGEST),
        (LARGEST, f"-{SMALLEST}", LARGEST, SMALLEST),
        (f"-{LARGEST}", SMALLEST, "0", SMALLEST),
        (SMALLEST, LARGEST, LARGEST, LARGEST),
    ],
)
def test_of_the_largest_and_smallest_numbers_that_are_read_everything_can_be_told(
    wallet: str, quantity: str, entry_price: str, mark: str, isolated: bool
) -> None:
    """A figure that cannot be printed would end the daemon, and it again after each start."""
    core = Watched()
    own = wallet if isolated else "0"
    core.begin(wallet, row("BTCUSDT", quantity, entry_price, isolated=isolated, isolated_wallet=own))
    core.step(core.mark(mark), Tick())
    core.step(core.mark("50000"), Tick())
    core.step(core.mark(mark), Tick())
    paid = structs.replace(core.mark(mark), funding_rate=D("1e30"), next_funding_ms=core.now.wall_ms + 600_000)
    core.step(paid, Tick())
    core.step(Tick(), after=60.0)
    assert [message for effect in core.effects for message in core.messages.of(effect)]


def test_a_changed_setting_asks_for_a_snapshot() -> None:
    """Leverage is in no formula, but what came with it may be."""
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    assert core.step(ConfigTouched("main", "BTCUSDT", 0)) == [Resync("main", "a setting of BTCUSDT changed")]


# ---- the end of a pool ----


def in_danger(quantity: str = "2.5") -> Watched:
    """A long that is about to be liquidated; both rules have told of it, and its topics stand."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", quantity, "92000"))
    core.price("90300")
    assert {i.severity for i in core.core.incidents} == {Severity.CRITICAL}
    return core


def gone_by(core: Watched, wallet: str, *before: Event) -> list[Event]:
    at = core.now.wall_ms
    return [*before, core.changed("ORDER", wallet, row("BTCUSDT", "0", "0", at_ms=at), at_ms=at)]


def resolutions(stories: list[Story]) -> set[tuple[str, str | None, str]]:
    return {
        (s.change.incident.rule, s.change.resolution, s.change.severity.word)
        for s in stories
        if s.change.kind == "resolved" and s.change.incident.rule != "forced_order"  # test_forced.py has those
    }


def test_a_closed_position_takes_its_topics_and_its_incidents_along() -> None:
    """Nothing retained may speak of what is no more; and closing is no recovery."""
    core = in_danger()
    at_once = core.step(*gone_by(core, "900"))
    waiting = core.tell(Tick(), after=1.9)
    later = core.step(Tick(), after=0.1)

    assert [e for e in at_once if isinstance(e, PoolGone | PositionGone)] == [
        PoolGone("main", "cross-usdt"),
        PositionGone("main", PositionKey("BTCUSDT", Side.BOTH)),
    ]
    assert resolutions(waiting) == set()
    assert resolutions(told(later)) == {
        ("margin_ratio", "position_closed", "critical"),
        ("liquidation_distance", "position_closed", "critical"),
    }
    assert {e.key.rule for e in later if isinstance(e, IncidentOver)} == {"margin_ratio", "liquidation_distance"}
    assert not core.core.incidents.open
    assert not [key for table, key in core.saved if table == "incident"]


@pytest.mark.parametrize("order_first", [True, False], ids=["order first", "account first"])
@pytest.mark.parametrize(
    ("forced", "how"),
    [(ForcedKind.LIQUIDATION, "liquidated"), (ForcedKind.ADL, "adl"), (ForcedKind.SETTLEMENT, "settled")],
)
def test_a_forced_end_is_called_by_its_name(order_first: bool, forced: ForcedKind, how: str) -> None:
    """The order and the account event come in no promised order; either way it was no choice of the trader's."""
    core = in_danger()
    order = core.fill("BTCUSDT", "-2.5", "90288", forced=forced)
    events = gone_by(core, "0")
    core.step(order if order_first else events[0])
    core.step(events[0] if order_first else order, after=0.5)
    stories = core.tell(Tick(), after=0.5)

    assert resolutions(stories) == {("margin_ratio", how, "critical"), ("liquidation_distance", how, "critical")}
    if how == "liquidated":
        assert stories[0].title == "main: LIQUIDATED"
        assert stories[0].text.endswith("LIQUIDATED, BTCUSDT long.")


def test_a_forced_order_announced_before_it_fills_counts_too() -> None:
    """The first frame of a liquidation has no execution yet."""
    core = in_danger()
    core.step(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION))
    core.step(*gone_by(core, "0"))

    assert {how for _, how, _ in resolutions(core.tell(Tick()))} == {"liquidated"}


def reduced_by_force() -> tuple[Watched, Position]:
    """A pool in danger of which the exchange has closed a part, and what is left of the position."""
    core = in_danger()
    at = core.now.wall_ms
    core.step(core.fill("BTCUSDT", "-2.4", "90288", forced=ForcedKind.LIQUIDATION, at_ms=at))
    smaller = row("BTCUSDT", "0.1", "92000", at_ms=at + 1)
    core.step(core.changed("ORDER", "5000", smaller, at_ms=at + 1))
    return core, smaller


def test_a_pool_that_is_better_because_it_was_reduced_by_force_has_not_recovered() -> None:
    """Half the position is gone: "recovered" would be a lie."""
    core, _ = reduced_by_force()
    stories = core.hold(62, "90300")

    assert resolutions(stories) == {
        ("margin_ratio", "partly_liquidated", "critical"),
        ("liquidation_distance", "partly_liquidated", "critical"),
    }


def test_a_pool_that_was_reduced_by_force_has_not_recovered_for_a_later_run_either() -> None:
    """A restart between the order and the end of the incidents must not turn a liquidation into a recovery."""
    core, smaller = reduced_by_force()
    core.hold(10, "90300")
    core = Watched(kept=core.kept(), start=core.t + 1)
    core.begin("5000", smaller)
    stories = core.hold(62, "90300")

    assert resolutions(stories) == {
        ("margin_ratio", "partly_liquidated", "critical"),
        ("liquidation_distance", "partly_liquidated", "critical"),
    }


def test_a_cross_pool_that_lost_one_symbol_by_force_has_not_recovered_for_a_later_run_either() -> None:
    """The later run has never seen that symbol in the pool."""
    core = Watched()
    ether = row("ETHUSDT", "0.1", "3000")
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"), ether)
    core.step(core.mark("90300"), core.mark("3000", "ETHUSDT"))
    core.step(core.fill("BTCUSDT", "-2.5", "90288", forced=ForcedKind.LIQUIDATION))
    core.step(*gone_by(core, "900"))
    core = Watched(kept=core.kept(), start=core.t + 1)
    core.begin("900", ether)
    stories = [s for _ in range(62) for s in core.tell(core.mark("3000", "ETHUSDT"), Tick())]

    assert {how for rule, how, _ in resolutions(stories) if rule != "forced_order"} == {"partly_liquidated"}


def test_a_cross_pool_that_lost_one_symbol_by_force_has_not_recovered() -> None:
    """What was liquidated is not in the pool any more; the pool's story must say so all the same."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"), row("ETHUSDT", "0.1", "3000"))
    core.step(core.mark("90300"), core.mark("3000", "ETHUSDT"))
    core.step(core.fill("BTCUSDT", "-2.5", "90288", forced=ForcedKind.LIQUIDATION))
    core.step(*gone_by(core, "900"))
    stories = [s for _ in range(62) for s in core.tell(core.mark("3000", "ETHUSDT"), Tick())]

    assert {how for _, how, _ in resolutions(stories)} == {"partly_liquidated"}


def test_a_position_that_changes_its_pool_is_not_called_closed() -> None:
    """A switch of the margin type moves it; it is as open as before."""
    core = in_danger()
    moved = row("BTCUSDT", "2.5", "92000", isolated=True, isolated_wallet="5182.40", at_ms=core.now.wall_ms)
    stories = core.tell(core.changed("MARGIN_TYPE_CHANGE", "0", moved)) + core.hold(4, "90300")

    assert {(s.change.incident.subject, s.change.kind, s.change.resolution) for s in stories} >= {
        ("cross-usdt", "resolved", "pool_replaced"),
        ("isolated-btcusdt", "opened", None),
    }


def test_a_pool_that_comes_back_within_the_grace_keeps_its_incident() -> None:
    """Closed and reopened in a second is one story."""
    core = in_danger()
    core.step(*gone_by(core, "5182.40"))
    core.step(core.changed("ORDER", None, row("BTCUSDT", "2.5", "92000", at_ms=core.now.wall_ms)), after=0.5)
    stories = core.hold(5, "90300")

    assert resolutions(stories) == set()
    assert core.core.incidents.open


def test_a_hold_begins_anew_when_the_pool_does() -> None:
    """`for_s` seconds of a position that was closed in between are not `for_s` seconds."""
    core = Watched(rules=RuleBook({**DEFAULTS, "margin_ratio": MarginRatioRule(for_s=10)}))
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    assert of_rule(core.hold(5, "90300"), "margin_ratio") == []
    core.step(*gone_by(core, "5182.40"))
    core.step(core.changed("ORDER", None, row("BTCUSDT", "2.5", "92000", at_ms=core.now.wall_ms)), after=3600)

    assert of_rule(core.hold(9, "90300"), "margin_ratio") == []
    assert kinds(of_rule(core.hold(3, "90300"), "margin_ratio")) == [("opened", "critical")]


def test_a_hold_begins_anew_when_the_pool_has_been_far_from_every_level() -> None:
    """What is far is not looked at closely, and yet is no more at the level that it was at."""
    slow, none = MarginRatioRule(for_s=10), LiquidationDistanceRule(enabled=False)
    core = Watched(rules=RuleBook({**DEFAULTS, "margin_ratio": slow, "liquidation_distance": none}))
    core.begin("700", row("BTCUSDT", "1", "50000"))
    core.hold(3, "49690")  # 200 ÷ (700 − 310): 0.51
    core.price("70000")

    assert not of_rule(core.tell(core.mark("49690"), after=8), "margin_ratio")
    assert not of_rule(core.hold(9, "49690"), "margin_ratio")
    assert kinds(of_rule(core.hold(1, "49690"), "margin_ratio")) == [("opened", "notice")]


def test_one_position_of_several_closing_empties_its_topic_alone() -> None:
    """The pool lives on."""
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"), row("ETHUSDT", "1", "3000"))
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), Tick())
    effects = core.step(*gone_by(core, "20000"))

    assert [e for e in effects if isinstance(e, PoolGone | PositionGone)] == [
        PositionGone("main", PositionKey("BTCUSDT", Side.BOTH))
    ]


# ---- what is not known ----


HELD = row("BTCUSDT", "1", "50000"), row("ETHUSDT", "1", "3000")


def test_without_brackets_nothing_is_claimed() -> None:
    """Unknown is not zero: no ratio, and freshness says stale."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"), brackets={"OTHERUSDT": FLAT})
    effects = core.step(core.mark("90300"), Tick())

    assert told(effects) == []
    [pool] = [e for e in effects if isinstance(e, PoolState)]
    assert (pool.risk.margin_ratio, pool.ages.freshness) == (None, "stale")


def test_an_entry_price_of_zero_is_none() -> None:
    """Taken for a price, a long had gained all that it is worth: its ratio fell, an incident ended as recovered, and
    the price of liquidation was told as gone."""
    core, _ = crisis()
    at = core.now.wall_ms
    moved = core.tell(core.changed("ORDER", "5182.40", row("BTCUSDT", "2.6", "0", at_ms=at), at_ms=at))
    effects = core.step(core.mark("90372.10"), Tick())

    assert moved + of_rule(core.hold(30, "90372.10"), "margin_ratio") == []
    [pool] = [e for e in effects if isinstance(e, PoolState)]
    assert (pool.risk.margin_ratio, pool.risk.missing) == (None, ("entry BTCUSDT",))
    [position] = [e for e in effects if isinstance(e, PositionState)]
    assert (position.risk.notional, position.risk.unrealized_pnl) == (D("234967.46"), None)
    all_valid(core)


def test_an_account_with_a_pool_that_is_unknown_is_not_called_live() -> None:
    """Whoever looks at the account alone, such as a monitoring system, would take it for well."""
    core = Watched()
    core.begin("5182.40", *HELD, brackets={"BTCUSDT": BTC})
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"))
    unknown = core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), Tick())
    core.begin("5182.40", *HELD)
    known = core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), Tick())

    def said(effects: list[Effect]) -> list[str]:
        summaries = [e.ages.freshness for e in effects if isinstance(e, SummaryState)]
        return [*summaries, *(e.freshness for e in effects if isinstance(e, HealthState))]

    assert said(unknown) == ["stale"] * 3  # the summary, the account's health, and that of all
    assert said(known)[:2] == ["live"] * 2  # the health of all is next due in half a minute


def test_brackets_that_never_come_are_an_incident() -> None:
    """Every link is live and the pool still cannot be judged: that is blindness too."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"), brackets={"OTHERUSDT": FLAT})
    stories = core.hold(20, "90300")

    assert kinds(stories) == [("opened", "warning")]
    assert "brackets BTCUSDT" in stories[0].text
    assert stories[0].blindness is not None
    assert stories[0].blindness.pools == ("main/cross-usdt",)


def test_a_lost_input_never_improves_an_incident() -> None:
    """A new symbol without a mark makes the pool incomplete, not safe."""
    core = in_danger()
    core.step(core.changed("ORDER", None, row("ETHUSDT", "0.1", "3000", at_ms=core.now.wall_ms)))
    stories = core.hold(400, "95000")

    assert "resolved" not in {s.change.kind for s in of_rule(stories, "margin_ratio")}
    assert {i.severity for i in core.core.incidents if i.rule == "margin_ratio"} == {Severity.CRITICAL}


def test_stale_marks_never_resolve_but_fresh_ones_may_still_worsen() -> None:
    """With the private stream away the last account truth counts, marked as an estimate."""
    core = in_danger()
    core.step(core.link("private", LinkState.DOWN))
    core.hold(10, "90300")
    better = of_rule(core.hold(100, "95000"), "margin_ratio")
    [worse, *_] = of_rule(core.price("90280"), "margin_ratio")

    assert {s.change.kind for s in better} == set()
    assert kinds([worse]) == [("worsened", "liquidation")]
    assert "Estimated: the data is stale." in worse.text
    assert worse.ages is not None
    assert worse.ages.freshness == "stale"


def test_after_the_blindness_a_recovery_is_seen_and_told() -> None:
    """Once live again, the hold begins, and then it is over."""
    core = in_danger()
    core.step(core.link("private", LinkState.DOWN))
    core.hold(100, "110000")
    core.step(core.link("private", LinkState.LIVE))

    assert resolutions(core.hold(59, "110000")) == {("data_stale", "recovered", "critical")}
    assert resolutions(core.hold(3, "110000")) == {
        ("margin_ratio", "recovered", "critical"),
        ("liquidation_distance", "recovered", "critical"),
    }


def test_a_margin_type_that_comes_with_the_snapshot_decides_the_pool() -> None:
    """Positions of the snapshot do not say it themselves."""
    core = Watched()
    core.connect()
    core.step(
        MarginTypesRead("main", {"BTCUSDT": True}),
        BracketsRead("main", {"BTCUSDT": BTC}),
        *core.truth("5000", row("BTCUSDT", "1", "50000", isolated_wallet="700")),
    )
    assert list(core.core.accounts["main"].pools) == ["isolated-btcusdt"]


# ---- blind links ----


def safe() -> Watched:
    """A position far from every level."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    return core


def silence(core: Watched, seconds: int, price: str | None = None) -> list[Story]:
    """Only time passes (and marks, where a price is given)."""
    return [
        s for _ in range(seconds) for s in core.tell(*([] if price is None else [core.mark(price)]), Tick(), after=1)
    ]


def at_seconds(core: Watched, since: float, stories: list[Story]) -> list[tuple[str, str, float]]:
    start = core.now.wall_ms - (core.t - since) * 1000
    return [(s.change.kind, s.change.severity.word, (s.at_ms - start) / 1000) for s in stories]


def test_a_private_stream_that_is_away_is_stale_then_warned_then_critical() -> None:
    """5 s: the pools are stale. 15 s: a warning. 60 s: critical."""
    core = safe()
    core.step(core.link("private", LinkState.DOWN, note="connection lost"), after=0)
    since = core.t
    states = []
    stories: list[Story] = []
    for _ in range(70):
        effects = core.step(core.mark("50000"), Tick())
        stories += told(effects)
        states += [(core.t - since, e.ages.freshness) for e in effects if isinstance(e, PoolState)]

    assert states[0] == (5, "stale")
    assert at_seconds(core, since, stories) == [("opened", "warning", 15), ("worsened", "critical", 60)]
    assert stories[0].blindness is not None
    assert stories[0].blindness.pools == ("main/cross-usdt",)
    assert "connection lost" in stories[0].text
    assert stories[0].change.incident.key == ("main", "data_stale", "private")


def test_blindness_is_critical_at_once_where_a_pool_is_endangered() -> None:
    """Near liquidation there is no time to wait for a minute."""
    core = in_danger()
    core.step(core.link("private", LinkState.DOWN), after=0)
    since = core.t
    stories = of_rule(silence(core, 30, "90300"), "data_stale")

    assert at_seconds(core, since, stories) == [("opened", "critical", 5)]


def test_a_link_that_is_back_has_recovered_though_danger_has_come_meanwhile() -> None:
    """It opened as a warning, and what is endangered knows but a critical step: that changed no rule."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("99000")
    core.step(core.link("private", LinkState.DOWN), after=0)
    opened = of_rule(silence(core, 16, "99000"), "data_stale")
    core.step(core.link("private", LinkState.LIVE), core.mark("90300", after=0), after=0)
    ended = of_rule(silence(core, 10, "90300"), "data_stale")

    assert kinds(opened) == [("opened", "warning")]
    assert [(s.change.kind, s.change.resolution) for s in ended] == [("resolved", "recovered")]


def test_silent_marks_blind_the_market_link() -> None:
    """An open socket proves nothing: it is the age of the marks that counts."""
    core = safe()
    since = core.t
    stories = silence(core, 61)

    assert at_seconds(core, since, stories) == [("opened", "warning", 15), ("worsened", "critical", 60)]
    assert stories[0].change.incident.key == ("_instance", "data_stale", MARKET)


def test_a_shared_link_is_told_of_though_the_first_account_on_it_wants_no_telling() -> None:
    """Whether the other accounts are seen is no business of one for which the rule is switched off."""
    muted = Match(DataStaleRule(enabled=False), account="hedge")
    core = Watched("hedge", "main", rules=RuleBook(DEFAULTS, {"data_stale": (muted,)}))
    for name in core.names:
        core.begin("100000", row("BTCUSDT", "1", "50000"), account=name)
    core.step(core.mark("50000"))
    stories = silence(core, 20)

    assert kinds(stories) == [("opened", "warning")]
    assert stories[0].change.incident.key == ("_instance", "data_stale", MARKET)


def test_one_silent_symbol_among_many_is_noticed() -> None:
    """Everything else ticking on does not make this position seen."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"), row("ETHUSDT", "1", "3000"))
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"))
    stories = silence(core, 20, "50000")
    assert kinds(stories) == [("opened", "warning")]
    assert "no data for 15 s (no mark of ETHUSDT). Blind: main/cross-usdt." in stories[0].text


def test_what_was_not_said_of_a_position_is_asked_for_again_less_and_less_often() -> None:
    """A symbol that was listed a moment ago may have no brackets yet; to wait for the next hour would be blindness."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"))
    core.step(core.changed("ORDER", None, row("NEWUSDT", "1", "3", at_ms=core.now.wall_ms)))
    core.step(core.mark("50000"), core.mark("3", "NEWUSDT"))

    def asked(seconds: int) -> list[int]:
        at = []
        for second in range(1, seconds + 1):
            effects = core.step(core.mark("50000"), core.mark("3", "NEWUSDT"), Tick())
            at += [second for e in effects if isinstance(e, Resync)]
        return at

    first, *more = asked(100)
    assert 10 <= first <= 12
    assert [at / first for at in more] == [pytest.approx(factor, rel=0.2) for factor in (2, 4, 8)]
    core.step(BracketsRead("main", {"NEWUSDT": FLAT}))
    assert asked(100) == []


def test_a_rate_that_the_exchange_does_not_have_is_named() -> None:
    """Who has collateral that is priced nowhere must not look for the fault in his network."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"))
    rates = AssetRates(MARKET, {"USDT": AssetRate(D(1), D(1))}, core.now.wall_ms)
    core.step(AccountModeRead("main", False, True, core.now.wall_ms), core.mark("50000"), rates)
    credit = Balance("BNFCR", D(-5), D(-5), core.now.wall_ms)
    core.step(structs.replace(core.changed("ADJUSTMENT", None), balances=(credit,)))
    stories = []
    for _ in range(20):
        stories += core.tell(core.mark("50000"), structs.replace(rates, at_ms=core.now.wall_ms), Tick())
    [story] = of_rule(stories, "data_stale")

    assert "(no rate of BNFCR). Blind: main/multi-assets." in story.text


def test_a_mark_that_never_comes_is_waited_for_and_then_missed() -> None:
    """A position that just opened must not stay unseen because there is no mark to be old."""
    core = Watched()
    core.begin("100000", row("BTCUSDT", "1", "50000"))
    assert kinds(silence(core, 20)) == [("opened", "warning")]


def lived(core: Watched, seconds: int, *symbols: str) -> list[tuple[str, str]]:
    """So many seconds with marks of these symbols alone; what is told of links meanwhile, and of which."""
    stories = []
    for _ in range(2 * seconds):
        marks = (core.mark("50000" if symbol == "BTCUSDT" else "3000", symbol, after=0.5) for symbol in symbols)
        stories += of_rule(core.tell(*marks, Tick(), after=0.5), "data_stale")
    return [(s.change.kind, s.change.incident.subject) for s in stories]


def test_a_restart_makes_no_mark_live_that_does_not_come() -> None:
    """Its age begins anew with the run, and is no proof: "live again" would be told of what nobody has seen."""
    core = Watched()
    core.begin("100000", *HELD)
    before = lived(core, 20, "BTCUSDT")
    later = Watched(kept=core.kept(), start=40)
    later.begin("100000", *HELD)

    assert before == [("opened", MARKET)]
    assert lived(later, 20, "BTCUSDT") == []
    assert lived(later, 6, "BTCUSDT", "ETHUSDT") == [("resolved", MARKET)]


def test_a_restart_makes_nothing_live_of_what_rest_has_not_told() -> None:
    """The same of brackets, without which nothing is known of a pool."""
    core = Watched()
    core.begin("100000", *HELD, brackets={"BTCUSDT": BTC})
    before = lived(core, 20, "BTCUSDT", "ETHUSDT")
    later = Watched(kept=core.kept(), start=40)
    later.begin("100000", *HELD, brackets={"BTCUSDT": BTC})

    assert before == [("opened", "rest")]
    assert lived(later, 20, "BTCUSDT", "ETHUSDT") == []
    later.begin("100000", *HELD)
    assert lived(later, 6, "BTCUSDT", "ETHUSDT") == [("resolved", "rest")]


def test_a_market_with_nothing_to_watch_is_not_live_again_while_positions_are_unknown() -> None:
    """After a restart nothing is watched until the account has been read, which a ban can keep us from for long."""
    core = Watched()
    core.begin("100000", *HELD)
    before = lived(core, 20)
    later = Watched(kept=core.kept(), start=40)
    later.step(later.link(MARKET, LinkState.IDLE, "_instance"), after=0)

    assert before == [("opened", MARKET)]
    assert ("resolved", MARKET) not in lived(later, 20)
    later.begin("100000")
    assert ("resolved", MARKET) in lived(later, 6)


def test_data_that_is_live_again_is_told_once_it_stays() -> None:
    """Resolved after three good seconds, with the peak that it had."""
    core = safe()
    core.step(core.link("private", LinkState.DOWN))
    silence(core, 61, "50000")
    core.step(core.link("private", LinkState.LIVE), after=0)

    assert silence(core, 3, "50000") == []
    [story] = silence(core, 3, "50000")
    assert kinds([story]) == [("resolved", "critical")]
    assert story.change.resolution == "recovered"


def test_a_link_that_never_reports_is_noticed() -> None:
    """Awaited from the start: silence from the beginning is silence too."""
    core = Watched()
    stories = silence(core, 16)

    assert {s.change.incident.key for s in stories} == {
        ("main", "data_stale", "private"),
        ("_instance", "data_stale", MARKET),
    }


def test_a_market_with_nothing_to_watch_is_no_incident() -> None:
    """No positions, no marks, nothing wrong."""
    core = Watched()
    core.begin("1000")
    core.step(core.link(MARKET, LinkState.IDLE, account="_instance"))
    assert silence(core, 200) == []


def test_a_market_that_wakes_up_is_not_old_from_the_time_it_slept() -> None:
    """Idle for an hour, then a position opens: it has its own deadline, counted from there."""
    core = Watched()
    core.begin("100000")
    core.step(core.link(MARKET, LinkState.IDLE, account="_instance"))
    silence(core, 3600)
    core.step(
        BracketsRead("main", {"BTCUSDT": BTC}),
        core.changed("ORDER", None, row("BTCUSDT", "1", "50000", at_ms=core.now.wall_ms)),
        core.link(MARKET, LinkState.PROVING, account="_instance"),
    )

    assert silence(core, 3) == []
    assert core.core.links.age(LinkId("_instance", MARKET), core.t) == 3


def test_rest_alone_may_fail_for_a_while() -> None:
    """The streams carry the account; REST is missed after its patience, and blinds no pool."""
    core = safe()
    core.step(core.link("rest", LinkState.DOWN), after=0)

    assert silence(core, 104, "50000") == []
    [story] = silence(core, 1, "50000")
    assert story.change.incident.key == ("main", "data_stale", "rest")
    assert story.blindness is not None
    assert story.blindness.pools == ()


# ---- states ----


def test_states_are_published_on_a_tick_and_only_where_something_changed() -> None:
    """At most once a second however fast the marks come, and not at all while nothing moves."""
    core = safe()
    between = core.step(core.mark("50010"), after=0.1)
    ticked = core.step(Tick(), after=0.1)
    idle = core.step(Tick(), after=0.1)

    assert [type(e).__name__ for e in between] == []
    assert [type(e).__name__ for e in ticked] == ["PoolState", "PositionState", "SummaryState"]
    assert idle == []


def test_the_last_position_leaves_the_summary_at_once() -> None:
    """For half a minute it said that one is open, with a loss that had been taken."""
    core = in_danger()
    core.step(*gone_by(core, "900"))
    (summary,) = (e for e in core.step(Tick()) if isinstance(e, SummaryState))

    assert summary.open_positions == 0
    assert not summary.unrealized_pnl


def test_a_summary_comes_at_least_every_half_minute() -> None:
    """Proof of life, whether or not anything happens."""
    core = Watched()
    core.begin("1000")
    times = [core.t for _ in range(100) for e in core.step(Tick()) if isinstance(e, SummaryState)]

    assert max(b - a for a, b in pairwise(times)) <= 30
    assert len(times) >= 4


def test_the_published_severity_follows_the_incident_not_only_the_price() -> None:
    """An incident that ends by time alone changes the pool's topic too."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90300")
    effects = [e for _ in range(63) for e in core.step(core.mark("110000"), Tick())]
    severities = [e.severity for e in effects if isinstance(e, PoolState)]

    assert severities[-1] is Severity.OK
    assert core.core.incidents.open == {}


# ---- restart ----


def test_a_restart_tells_nothing_twice_and_says_the_state_anew() -> None:
    """The retained topic is published again; nobody is paged."""
    core = in_danger()
    later = Watched(kept=core.kept(), start=500.0, wall_shift_ms=-400_000)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    effects = [e for _ in range(3) for e in later.step(later.mark("90300"), Tick())]
    retained = [e for e in effects if isinstance(e, Story)]

    assert told(effects) == []
    assert {s.change.incident.incident_id for s in retained} == {i.incident_id for i in core.core.incidents}
    assert {s.text for s in retained} == {i.text for i in core.core.incidents}


def test_what_closed_while_we_were_down_is_resolved_on_return() -> None:
    """No incident stays open for a position that is no more."""
    core = in_danger()
    later = Watched(kept=core.kept(), start=500.0)
    later.begin("900")
    stories = silence(later, 4)

    assert {how for _, how, _ in resolutions(stories)} == {"position_closed"}


def test_incidents_of_what_is_not_watched_any_more_are_put_away() -> None:
    """An account or a market that left the config leaves no open incident behind."""
    core = in_danger()
    core.step(core.link("private", LinkState.DOWN))
    silence(core, 61)
    assert {i.account for i in core.core.incidents} == {"main", "_instance"}

    setup = Setup((AccountSetup("new", "binance-usdm", "market-y"),))
    later = Core(setup, now_at(500), core.kept())
    effects = later.step([Tick()], now_at(501))

    assert {e.key.account for e in effects if isinstance(e, IncidentOver)} == {"main", "_instance"}
    assert not later.incidents.open


def test_rules_that_change_at_run_time_hold_from_the_next_step() -> None:
    """A reload neither forgets what is open nor waits for a restart."""
    core = in_danger()
    core.core.take_rules(RuleBook({**DEFAULTS, "margin_ratio": MarginRatioRule(enabled=False)}))

    assert resolutions(core.price("90300")) == {("margin_ratio", "rule_changed", "critical")}


# ---- the same events, the same effects ----


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[str, int, float]]:
    what = st.sampled_from(["mark", "fund", "fill", "close", "open", "down", "live", "tick", "snapshot", "forced"])
    return draw(st.lists(st.tuples(what, st.integers(1, 40), st.sampled_from([0.0, 0.25, 1.0, 20.0])), max_size=40))


def play(happened: list[tuple[str, int, float]]) -> tuple[list[Any], list[Any]]:
    core = Watched()
    core.begin("6000", row("BTCUSDT", "2", "92000"), row("ETHUSDT", "1", "3000", isolated=True, isolated_wallet="200"))
    wallet = 6000
    for what, n, after in happened:
        at = core.now.wall_ms
        event: dict[str, list[Event]] = {
            "mark": [core.mark(str(89_000 + 100 * n), after=after), core.mark(str(2_700 + 20 * n), "ETHUSDT", after)],
            "fund": [core.changed("FUNDING_FEE", str(wallet - n), symbol="BTCUSDT")],
            "fill": [core.changed("ORDER", None, row("BTCUSDT", str(n / 10), "92000", at_ms=at))],
            "close": [core.changed("ORDER", None, row("BTCUSDT", "0", "0", at_ms=at))],
            "open": [core.changed("ORDER", None, row("ETHUSDT", "-2", "3000", isolated=False, at_ms=at))],
            "down": [core.link("private", LinkState.DOWN)],
            "live": [core.link("private", LinkState.LIVE)],
            "tick": [Tick()],
            "snapshot": core.truth(str(wallet), row("BTCUSDT", "2", "92000", at_ms=at), at_ms=at),
            "forced": [core.fill("BTCUSDT", "-1", "90000", forced=ForcedKind.LIQUIDATION)],
        }
        wallet -= n if what == "fund" else 0
        core.step(*event[what], Tick(), after=after)
    return core.effects, [m.payload for m in core.sent()]


@given(streams())
@settings(max_examples=60)
def test_the_same_events_in_the_same_order_give_the_same_effects(happened: list[tuple[str, int, float]]) -> None:
    """A replay is a loop; and whatever comes in whatever order, nothing breaks and every body encodes."""
    first, second = play(happened), play(happened)

    assert first == second


@given(streams())
@settings(max_examples=60)
def test_every_event_id_is_given_once(happened: list[tuple[str, int, float]]) -> None:
    """The broker, the store and every consumer know an event by its id."""
    effects, _ = play(happened)
    ids = [s.change.incident.event_id for s in told(effects)]

    assert len(ids) == len(set(ids))
    assert [s.seq for s in told(effects)] == list(range(1, len(ids) + 1))


# ---- what an earlier run left of what is not there any more ----


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(("main", "margin_guess", "cross-usdt"), id="a rule of another version"),
        pytest.param(("_instance", "clock_offset", "market-y"), id="the clock of a market that is not watched"),
        pytest.param(("_instance", "exchange_status", "market-y"), id="maintenance of a market that is not watched"),
    ],
)
def test_an_incident_that_nothing_would_ever_end_is_emptied(key: tuple[str, str, str]) -> None:
    """It would stand open, and count in every summary, for ever."""
    account, rule, subject = key
    incident = Incident(
        f"{account}.{subject}.{rule}.{WALL_MS}",
        account,
        rule,
        subject,
        WALL_MS,
        Severity.WARNING,
        Severity.WARNING,
        D(1),
        0.0,
    )
    core = Watched(kept=Kept((saved(incident, now_at(0)),)))
    effects = core.step(Tick())

    assert [e.key for e in effects if isinstance(e, IncidentOver)] == [key]
    assert told(effects) == []


def test_of_what_an_earlier_run_has_left_the_worst_comes_first() -> None:
    """In this order accounts are read at a start, and of very many the last is late by minutes."""
    names = ("calm", "notice", "worst")
    core = Watched(*names)
    for name, wallet in zip(names, ("90000", "3500", "2000"), strict=True):
        core.begin(wallet, row("BTCUSDT", "1", "50000"), account=name)
    core.price("50000")
    core.price("48225")
    later = Watched(*names, kept=core.kept(), start=100)

    assert list(later.core.unseen()) == ["worst", "notice", "calm"]


def test_of_very_many_incidents_that_worsen_few_are_kept_at_a_time_and_all_in_turn() -> None:
    """In a crash thousands are worse than ever each second; the alert that comes next must not wait for all of them."""
    names = [f"a{n}" for n in range(150)]
    core = Watched(*names)
    for name in names:
        core.begin("2000", row("BTCUSDT", "1", "50000"), account=name)
    most = 0
    for second in range(8):
        core.step(core.mark(str(48225 - min(second, 4))), Tick())
        while core.core.is_behind:
            effects = core.step(after=0)
            kept = [e for e in effects if isinstance(e, Save) and e.table == "incident"]
            most = max(most, len(kept) - len([e for e in effects if isinstance(e, Story)]))
    worst = [incident.worst for incident in core.core.incidents]
    later = Watched(*names, kept=core.kept(), start=100)

    assert len(worst) == 300
    assert most == 200
    assert [incident.worst for incident in later.core.incidents] == worst


def test_a_summary_names_no_worst_pool_while_one_is_unknown() -> None:
    """The one that nobody can see may be the worst."""
    core = Watched()
    unseen = row("ETHUSDT", "1", "3000", isolated=True, isolated_wallet="300")
    core.begin("10000", row("BTCUSDT", "1", "60000"), unseen)
    [summary] = [e for e in core.step(core.mark("60000"), Tick()) if isinstance(e, SummaryState)]

    assert (summary.worst_ratio, summary.worst_distance) == (None, None)


def test_a_pool_is_shown_as_well_as_soon_as_its_last_incident_is_over() -> None:
    """That takes its time at a mark that stands still, of which no figure is news."""
    core, _ = crisis()
    core.hold(7, "110001")  # what is published each 30 s all the same is not due when it ends
    for _ in range(90):
        effects = core.step(core.mark("110000"), Tick())
        if not list(core.core.incidents):
            break

    assert [e.severity for e in effects if isinstance(e, PoolState)] == [Severity.OK]


def test_a_store_that_cannot_be_used_is_in_every_summary() -> None:
    """What stands open is never counted as none."""
    core = safe()
    effects = core.step(StoreState("disk full"), core.mark("60000"), Tick())
    [summary] = [e for e in effects if isinstance(e, SummaryState)]

    assert (summary.severity, summary.rules["store_unusable"].open) == (Severity.WARNING, 1)


def test_an_incident_that_opened_while_the_clock_was_ahead_hides_no_order_of_now() -> None:
    """Orders since then are asked for at a start; "then" must not be ten minutes from now."""
    core = Watched(wall_shift_ms=600_000)
    core.begin("2000", row("BTCUSDT", "1", "50000"))
    core.price("48225")
    later = Watched(kept=core.kept(), start=100)

    assert later.core.unseen()["main"] == restart(later.now.wall_ms, [row("BTCUSDT", "1", "50000", isolated=False)])
