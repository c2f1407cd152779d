"""Orders that the exchange sends in our name: told at the first frame, reported when over."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from msgspec import structs

from monitor.discreet import discreet
from monitor.effects import Save, Story
from monitor.events import (
    AccountChanged,
    Fill,
    ForcedKind,
    InsuranceFundRead,
    LinkHeard,
    LinkId,
    LinkState,
    MarginCall,
    OrdersCancelled,
    OrdersUnread,
    PositionKey,
    Side,
    StrategyEnded,
    Tick,
)
from monitor.rules import DEFAULTS, ForcedOrderRule, Match, RuleBook
from tests.watched import MARKET, Watched, all_valid, kinds, of_rule, row, told

D = Decimal


def holding() -> Watched:
    """2.5 BTC long at 92000 on 5182.40 USDT, at 90400; it liquidates at 90288.19."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90400")
    return core


def forced(stories: list[Story]) -> list[Story]:
    return [story for story in stories if story.change.incident.rule == "forced_order"]


def closed(core: Watched, wallet: str, left: str = "0") -> list[Story]:
    at = core.now.wall_ms
    return core.tell(core.changed("ORDER", wallet, row("BTCUSDT", left, "92000", at_ms=at), at_ms=at))


@pytest.mark.parametrize(
    ("kind", "severity", "how"),
    [
        (ForcedKind.LIQUIDATION, "liquidation", "liquidated"),
        (ForcedKind.ADL, "critical", "adl"),
        (ForcedKind.SETTLEMENT, "warning", "settled"),
    ],
)
def test_a_forced_order_is_told_at_its_first_frame_and_reported_when_over(
    kind: ForcedKind, severity: str, how: str
) -> None:
    """Whoever is being liquidated wants to know now, and afterwards what it cost."""
    core = holding()
    [opened] = forced(core.tell(core.fill("BTCUSDT", "0", "0", forced=kind)))
    assert (opened.change.kind, opened.change.severity.word) == ("opened", severity)

    core.step(core.fill("BTCUSDT", "-2.5", "90250", realized="-4375", forced=kind))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    report = resolved.forced
    assert report is not None
    assert resolved.change.resolution == how
    assert (report.quantity, report.average_price) == (D("2.5"), D(90250))
    assert (report.realized_pnl, report.left) == (D(-4375), D(0))
    assert report.bankruptcy_price == D("89927.04")
    assert resolved.change.severity.word == ("liquidation" if kind is ForcedKind.LIQUIDATION else "critical")


def test_the_report_adds_up_every_fill_once_and_the_clearance_fee() -> None:
    """A frame that comes twice must not double a loss; INSURANCE_CLEAR names no symbol."""
    core = holding()
    first = core.fill("BTCUSDT", "-1", "90200", realized="-1800", commission="2", forced=ForcedKind.LIQUIDATION)
    core.step(first, first)
    at = core.now.wall_ms
    clear = core.changed("INSURANCE_CLEAR", "3300", at_ms=at)
    clear.changes["USDT"] = D("-82.4")
    core.step(clear)
    closed(core, "3300", "1.5")
    [resolved] = forced(core.hold(4, "90400"))

    report = resolved.forced
    assert report is not None
    assert resolved.change.resolution == "partly_liquidated"
    assert (report.quantity, report.realized_pnl, report.commission) == (D(1), D(-1800), D(2))
    assert (report.clearance_fee, report.left) == (D("82.4"), D("1.5"))
    assert "82.40 USDT" in resolved.text
    assert "1.5 is left" in resolved.text


def test_what_a_list_does_not_say_is_not_said_to_be_nothing() -> None:
    """Orders of a time in which nobody listened are read from a list without PnL and fees: unknown is not zero."""
    core = holding()
    order = core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION)
    core.step(structs.replace(order, trade_id=0))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert resolved.text == (
        "main: BTCUSDT long LIQUIDATED. 2.5 closed at 90250 (bankruptcy price 89927)."
        " What it cost is in the exchange's history. Nothing is left."
    )
    bodies = [json.loads(m.payload) for m in core.sent() if m.topic.endswith("/event/liquidation/forced_order")]
    report = bodies[-1]["report"]
    assert (report["quantity"], report["average_price"]) == ("2.5", "90250.00000000")
    assert (report["realized_pnl"], report["commission"], report["clearance_fee"]) == (None, None, None)
    all_valid(core)


def test_the_account_event_may_come_first() -> None:
    """The order of the two frames is not documented: the report still knows the position as it was."""
    core = holding()
    closed(core, "807.40")
    [opened] = forced(core.tell(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION)))

    assert opened.side == "long"
    assert opened.forced is not None
    assert opened.forced.bankruptcy_price == D("89927.04")


@pytest.mark.parametrize("by_stream", [True, False])
def test_it_is_not_over_while_nobody_could_hear_of_it(by_stream: bool) -> None:
    """A crash of the market cuts links between two steps of a liquidation: that it is over, and that something is left,
    was said while nothing could be known, and of the next step a second story told."""
    core = holding()
    core.step(core.fill("BTCUSDT", "-1", "90250", forced=ForcedKind.LIQUIDATION))
    closed(core, "3300", "1.5")
    core.step(core.link("private", LinkState.DOWN))
    while_blind = forced(core.hold(30, "90300"))

    missed = structs.replace(
        core.fill("BTCUSDT", "-1.5", "90250", forced=ForcedKind.LIQUIDATION), order_id=2, trade_id=0
    )
    core.step(missed, *core.truth("807.40", at_ms=core.now.wall_ms))
    if by_stream:
        core.step(core.link("private", LinkState.LIVE))
    else:  # there are answers
        core.hold(4, "90250")
        core.step(*core.truth("807.40", at_ms=core.now.wall_ms))
    later = forced(core.hold(4, "90250"))

    assert while_blind == []
    assert [(s.change.kind, s.change.resolution) for s in later] == [("resolved", "liquidated")]
    assert later[0].forced is not None
    assert (later[0].forced.quantity, later[0].forced.steps, later[0].forced.left) == (D("2.5"), 2, D(0))


def test_nothing_is_over_while_a_stream_may_be_dead_that_is_not_known_to_be() -> None:
    """Where a network swallows everything that takes seven seconds, and three without a frame were enough to say that
    the rest was left, or that the pool was closed by its owner."""
    core = holding()
    private = LinkId("main", "private")
    core.step(LinkHeard(private, core.t), core.fill("BTCUSDT", "-1", "90250", forced=ForcedKind.LIQUIDATION))
    told = closed(core, "3300", "1.5") + core.hold(10, "90300")
    told += core.tell(LinkHeard(private, core.t - 9)) + core.hold(10, "90300")
    assert [s for s in told if s.change.kind == "resolved"] == []

    [over] = forced(core.tell(LinkHeard(private, core.t)) + core.hold(1, "90300"))
    assert (over.change.kind, over.change.resolution) == ("resolved", "partly_liquidated")


def test_a_pool_is_not_said_to_be_closed_while_its_stream_may_be_dead() -> None:
    """It is when the stream was heard after it, or an answer shows that nothing more has come."""
    core = holding()
    private = LinkId("main", "private")
    core.step(LinkHeard(private, core.t))
    told = closed(core, "5000") + core.hold(10, "90300")
    assert [s for s in told if s.change.kind == "resolved"] == []

    told = core.tell(LinkHeard(private, core.t)) + core.hold(1, "90300")
    ends = {s.change.incident.rule: s.change.resolution for s in told if s.change.kind == "resolved"}
    assert {ends["margin_ratio"], ends["liquidation_distance"]} == {"position_closed"}


def test_steps_that_a_mute_stream_keeps_from_us_are_one_story_however_slowly_the_list_tells_them() -> None:
    """The exchange is asked again after five seconds; after three the story was said to be over, so that each step was
    one. And what is left was said by a snapshot that had been asked for before the list."""
    core = holding()

    def listed(order_id: int, quantity: str, wallet: str, shown: str) -> list[Story]:
        at = core.now.wall_ms
        fill = core.fill("BTCUSDT", quantity, "90250", forced=ForcedKind.LIQUIDATION)
        one = structs.replace(fill, order_id=order_id, trade_id=0)
        return core.tell(one, *core.truth(wallet, row("BTCUSDT", shown, "92000", at_ms=at), at_ms=at))

    told = listed(1, "-1", "3300", "1.5") + core.hold(4, "90250")
    told += listed(2, "-1.5", "3300", "1.5")
    told += core.tell(core.changed("DEPOSIT", "3301")) + core.hold(4, "90250")  # which is no snapshot
    assert [s.change.kind for s in forced(told)] == ["opened"]

    core.step(*core.truth("807.40", at_ms=core.now.wall_ms))
    [over] = forced(core.hold(1, "90250"))
    assert (over.change.kind, over.change.resolution) == ("resolved", "liquidated")
    assert over.forced is not None
    assert (over.forced.quantity, over.forced.steps, over.forced.left) == (D("2.5"), 2, D(0))


@pytest.mark.parametrize("by_stream", [True, False])
def test_a_pool_is_not_said_to_be_closed_while_nobody_could_hear_what_took_it(by_stream: bool) -> None:
    """A cut between the account event and the order that caused it: after two seconds a liquidation was told as a
    close, by which nobody is woken."""
    core = holding()
    told = closed(core, "807.40") + core.tell(core.link("private", LinkState.DOWN), after=0.1) + core.hold(30, "90300")
    assert [s for s in told if s.change.kind == "resolved"] == []

    missed = structs.replace(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION), trade_id=0)
    told = core.tell(missed, *core.truth("807.40", at_ms=core.now.wall_ms))
    told += core.tell(core.link("private", LinkState.LIVE)) if by_stream else []
    told += core.hold(1, "90300")

    ends = {s.change.incident.rule: s.change.resolution for s in told if s.change.kind == "resolved"}
    assert {ends["margin_ratio"], ends["liquidation_distance"]} == {"liquidated"}


def test_a_pool_that_its_owner_closed_is_said_to_be_so_once_that_is_known() -> None:
    """By the stream when it is back, or by answers alone, where there is no stream for hours."""
    core = holding()
    closed(core, "5000")
    core.step(core.link("private", LinkState.DOWN), after=0.1)
    core.hold(10, "90300")
    told = core.tell(*core.truth("5000", at_ms=core.now.wall_ms)) + core.hold(1, "90300")

    ends = {s.change.incident.rule: s.change.resolution for s in told if s.change.kind == "resolved"}
    assert {ends["margin_ratio"], ends["liquidation_distance"]} == {"position_closed"}


@pytest.mark.parametrize("by_earlier_run", [False, True], ids=["it was here", "an earlier run held it"])
def test_a_pool_of_which_nobody_could_ask_what_took_it_is_not_said_to_be_closed(by_earlier_run: bool) -> None:
    """A list of forced orders that is refused again and again keeps no snapshot from being told; it says that a
    position is not there any more, and not why."""
    core = holding()
    if by_earlier_run:
        core = next_run(core)
        core.connect()
    told = core.tell(OrdersUnread("main", b"[null,[]]"), *core.truth("807.40", at_ms=core.now.wall_ms))
    told += core.hold(3, "90300")
    ends = {s.change.incident.rule: s.change.resolution for s in told if s.change.kind == "resolved"}
    assert {ends["margin_ratio"], ends["liquidation_distance"]} == {"position_gone"}
    all_valid(core)

    missed = structs.replace(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION), trade_id=0)
    told = core.tell(OrdersUnread("main", None), missed, *core.truth("807.40", at_ms=core.now.wall_ms))
    told += core.hold(10, "90300")
    assert [(s.change.kind, s.change.resolution) for s in forced(told)] == [
        ("opened", None),
        ("resolved", "liquidated"),
    ]


def test_a_pool_that_the_stream_says_is_closed_is_closed_though_older_orders_could_not_be_asked_for() -> None:
    """It would have told of an order as well."""
    core = holding()
    core.step(OrdersUnread("main", b"[null,[]]"))
    told = closed(core, "5000") + core.hold(3, "90300")

    ends = {s.change.incident.rule: s.change.resolution for s in told if s.change.kind == "resolved"}
    assert {ends["margin_ratio"], ends["liquidation_distance"]} == {"position_closed"}


def test_it_is_one_incident_however_many_frames_it_has() -> None:
    """A liquidation in fifty fills must not page fifty times."""
    core = holding()
    stories = [s for _ in range(50) for s in core.tell(core.fill("BTCUSDT", "-0.01", "90250", forced=ForcedKind.ADL))]

    assert [story.change.kind for story in forced(stories)] == ["opened"]


def test_one_of_an_earlier_run_is_ended_when_the_account_is_known_again() -> None:
    """It was opened, the daemon died, and the exchange went on: it must not stay open for ever."""
    core = holding()
    core.step(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION))

    later = Watched(kept=core.kept(), start=1000)
    later.begin("807.40")
    [resolved] = forced(later.hold(2, "90250"))

    assert resolved.change.resolution == "liquidated"
    assert resolved.change.incident.symbol == "BTCUSDT"


def test_a_margin_call_is_told_once_in_a_while() -> None:
    """The exchange may repeat it every second; it is guidance, not the alarm."""
    core = holding()
    call = MarginCall("main", ((PositionKey("BTCUSDT", Side.BOTH), D("903.72"), D("-4069.75")),), core.now.wall_ms)
    stories = [s for _ in range(5) for s in core.tell(call)]

    [story] = [s for s in stories if s.change.incident.rule == "exchange_margin_call"]
    assert story.change.kind == "noted"
    assert "903.72" in story.text
    assert story.exchange_ms == call.at_ms
    assert told(core.step(call, after=301))


def test_an_order_read_after_a_gap_is_told_but_not_added_to_its_own_executions() -> None:
    """Asked over REST it comes as one; had its executions been seen, adding it would double the loss."""
    core = holding()
    live = core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION)
    core.step(live)
    core.step(structs.replace(live, trade_id=0))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert resolved.forced is not None
    assert resolved.forced.quantity == D("2.5")


def test_an_order_that_is_told_late_says_when_it_was() -> None:
    """It may be of days ago: the exchange lists what it did while no daemon ran, or the key was refused."""
    core = holding()
    at_ms = core.now.wall_ms - 3_600_000
    listed = structs.replace(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.ADL, at_ms=at_ms), trade_id=0)
    [opened] = forced(core.tell(listed))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert (opened.exchange_ms, resolved.exchange_ms) == (at_ms, at_ms)


def test_what_was_pushed_while_the_list_was_read_is_not_added_to_it() -> None:
    """A stream that is opened anew in the middle of a liquidation keeps its frames until the snapshot is there; the
    list has what they tell of already. What is executed later is new."""
    core = holding()
    at_ms = core.now.wall_ms
    pushed = core.fill("BTCUSDT", "-1.5", "90250", forced=ForcedKind.LIQUIDATION, at_ms=at_ms)
    later = structs.replace(pushed, quantity=D("-1"), trade_id=2, at_ms=at_ms + 300)
    core.step(structs.replace(pushed, trade_id=0))
    core.step(pushed, later, later, after=0.5)
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert resolved.forced is not None
    assert resolved.forced.quantity == D("2.5")


def test_the_other_leg_of_a_hedge_is_not_called_liquidated() -> None:
    """One leg was liquidated, the other the trader closed himself: only the first is news of that kind."""
    core = Watched()
    long = row("BTCUSDT", "1", "92000", side=Side.LONG, isolated=True, isolated_wallet="2000")
    short = row("BTCUSDT", "-1", "90000", side=Side.SHORT, isolated=True, isolated_wallet="900")
    core.begin("5000", long, short)
    core.price("90400")
    liquidation = core.fill("BTCUSDT", "-1", "90400", forced=ForcedKind.LIQUIDATION)
    core.step(structs.replace(liquidation, side=Side.LONG))
    at = core.now.wall_ms
    flat = structs.replace(short, quantity=D(0), at_ms=at)
    core.step(core.changed("ORDER", "5000", flat, at_ms=at))
    stories = core.hold(4, "90400")

    ends = {s.change.resolution for s in stories if s.change.incident.subject == "isolated-btcusdt-short"}
    assert "liquidated" not in ends


def test_a_symbol_that_is_held_again_is_not_judged_by_its_old_mark() -> None:
    """The market has moved meanwhile: the old mark would be a liquidation that is none."""
    core = Watched()
    core.begin("10000", row("BTCUSDT", "1", "90000"))
    core.price("90000")
    closed_at = core.now.wall_ms
    core.step(core.changed("ORDER", "10000", row("BTCUSDT", "0", "90000", at_ms=closed_at), at_ms=closed_at))
    core.t += 3600
    at = core.now.wall_ms
    stories = core.tell(core.changed("ORDER", "10000", row("BTCUSDT", "1", "102000", at_ms=at), at_ms=at))
    stories += core.price("102000")

    assert [s.change.incident.rule for s in stories if s.change.severity.word in ("critical", "liquidation")] == []


def test_a_mark_from_the_future_does_not_bar_those_that_follow() -> None:
    """One wrong time must not freeze a symbol while the market falls."""
    core = holding()
    wild = core.mark("91000")
    core.step(structs.replace(wild, at_ms=wild.at_ms + 86_400_000))
    stories = core.price("90300", after=3.0)

    assert [s for s in stories if s.after and s.after.mark_price == D("90300")]


# ---- what the report says beside the money ----


def test_the_report_counts_orders_cancellations_and_the_fund() -> None:
    """A large position goes order by order; own orders are cancelled before the first frame, and after."""
    core = holding()
    core.step(
        InsuranceFundRead(MARKET, {"BTCUSDT": {"USDT": D("793930579.31"), "BTC": D(3)}}),
        *(OrdersCancelled("main", "BTCUSDT", order, core.now.wall_ms) for order in (7, 8, 8)),
        OrdersCancelled("main", "ETHUSDT", 9, core.now.wall_ms),
    )
    for order, quantity in ((101, "-0.5"), (102, "-0.5"), (102, "-0.25"), (103, "0")):
        step = core.fill("BTCUSDT", quantity, "90250", forced=ForcedKind.LIQUIDATION)
        core.step(structs.replace(step, order_id=order, trade_id=core.now.wall_ms))
    core.step(*(OrdersCancelled("main", symbol, 10, core.now.wall_ms) for symbol in ("BTCUSDT", "ETHUSDT")))
    closed(core, "807.40", "1.25")
    [resolved] = forced(core.hold(4, "90250"))
    report = json.loads(core.messages.of(resolved)[0].payload)["report"]

    assert (report["steps"], report["orders_cancelled"], report["insurance_fund"]) == (3, 3, "793930579.31000000")
    assert "It took 3 orders." in resolved.text
    assert "3 of your orders cancelled." in resolved.text
    all_valid(core)


def test_an_order_that_can_be_listed_no_more_is_forgotten() -> None:
    """The exchange lists those of seven days; rows of all others would be written again with every second."""
    core = holding()
    core.step(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION))
    closed(core, "807.40")
    core.hold(4, "90250")
    week, later = (core.step(Tick(), after=days * 86_400) for days in (7, 2))

    kept, forgotten, again = (
        [e for e in effects if isinstance(e, Save) and e.table == "forced"]
        for effects in (week, later, core.step(Tick()))
    )
    assert (kept, {e.row for e in forgotten}, again) == ([], {None}, [])
    assert not core.kept().forced


@pytest.mark.parametrize(("ago_s", "count", "said"), [(9, 1, True), (11, 0, False)])
def test_a_cancellation_of_long_ago_belongs_to_another_story(ago_s: int, count: int, said: bool) -> None:
    """And of a fund that nobody has told us, nothing is said."""
    core = holding()
    core.step(OrdersCancelled("main", "BTCUSDT", 7, core.now.wall_ms))
    core.hold(ago_s - 1, "90400")
    core.step(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert resolved.forced is not None
    assert (resolved.forced.orders_cancelled, resolved.forced.insurance_fund) == (count, None)
    assert ("cancelled" in resolved.text) is said
    all_valid(core)


@pytest.mark.parametrize(("liquidated", "expected"), [(True, [("noted", "liquidation")]), (False, [])])
def test_a_trading_bot_that_was_liquidated_is_told(liquidated: bool, expected: list[tuple[str, str]]) -> None:
    """Of one that merely ended it is not said whether anything was lost."""
    core = holding()
    told = forced(core.tell(StrategyEnded("main", "BTCUSDT", 176057039, liquidated, core.now.wall_ms)))

    assert kinds(told) == expected
    for story in told:
        said = json.loads(core.messages.of(story)[0].payload)
        assert (said["facts"], said["symbol"]) == ({"strategy_id": 176057039}, "BTCUSDT")
        assert "LIQUIDATED" in said["title"]
    all_valid(core)


def test_a_bot_whose_liquidation_is_being_told_is_not_told_twice() -> None:
    """The order and the strategy are two frames of one thing."""
    core = holding()
    core.step(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION))

    assert forced(core.tell(StrategyEnded("main", "BTCUSDT", 1, True, core.now.wall_ms))) == []


def test_an_override_for_a_symbol_is_for_its_orders() -> None:
    """Who does not want to hear of one symbol hears of the others."""
    off = structs.replace(DEFAULTS["forced_order"], enabled=False)
    core = Watched(rules=RuleBook(DEFAULTS, {"forced_order": (Match(off, symbol="ETH*"),)}))
    core.begin("9000", row("BTCUSDT", "1", "90000"), row("ETHUSDT", "1", "3000"))
    fills = [core.fill(symbol, "0", "0", forced=ForcedKind.ADL) for symbol in ("ETHUSDT", "BTCUSDT")]

    assert [story.symbol for story in forced(core.tell(*fills))] == ["BTCUSDT"]


def test_an_override_for_a_symbol_says_when_its_orders_are_over() -> None:
    """A thin market's liquidation takes its time, and is one story; the others need not wait for that."""
    patient = ForcedOrderRule(settle_s=20)
    core = Watched(rules=RuleBook(DEFAULTS, {"forced_order": (Match(patient, symbol="ETH*"),)}))
    core.begin("9000", row("BTCUSDT", "1", "90000"), row("ETHUSDT", "1", "3000"))
    core.step(*(core.fill(symbol, "0", "0", forced=ForcedKind.ADL) for symbol in ("ETHUSDT", "BTCUSDT")))
    core.step(core.changed("ORDER", "9000", row("BTCUSDT", "0", "90000"), row("ETHUSDT", "0", "3000")))

    soon, late = forced(core.hold(10, "90000")), forced(core.hold(15, "90000"))
    assert [story.symbol for story in soon] == ["BTCUSDT"]
    assert [story.symbol for story in late] == ["ETHUSDT"]


# ---- hedge_broken ----

LEGS = {
    Side.LONG: row("BTCUSDT", "1", "90000", side=Side.LONG),
    Side.SHORT: row("BTCUSDT", "-1", "90000", side=Side.SHORT),
}


def hedged() -> Watched:
    """1 BTC long and 1 BTC short, both cross, on 5000 USDT."""
    core = Watched()
    core.begin("5000", *LEGS.values())
    core.price("90000")
    return core


def left(core: Watched, side: Side, quantity: str) -> AccountChanged:
    """The account event that leaves so much of a leg."""
    at = core.now.wall_ms
    return core.changed("ORDER", "5000", structs.replace(LEGS[side], quantity=D(quantity), at_ms=at), at_ms=at)


def taken(core: Watched, quantity: str, kind: ForcedKind = ForcedKind.ADL) -> Fill:
    """The exchange closes so much of the short."""
    return structs.replace(core.fill("BTCUSDT", quantity, "90000", forced=kind), side=Side.SHORT)


def hedge(stories: list[Story]) -> list[Story]:
    return of_rule(stories, "hedge_broken")


@pytest.mark.parametrize("event_first", [False, True], ids=["order first", "account event first"])
@pytest.mark.parametrize(
    ("quantity", "rest", "expected"),
    [
        pytest.param("1", "0", [("noted", "critical")], id="one leg alone"),
        pytest.param("0.5", "-0.5", [("noted", "warning")], id="half of it gone"),
        pytest.param("0.4", "-0.6", [], id="less than half"),
    ],
)
@pytest.mark.parametrize("kind", [ForcedKind.ADL, ForcedKind.LIQUIDATION])
def test_a_hedge_that_the_exchange_broke_is_told(
    kind: ForcedKind, quantity: str, rest: str, expected: list[tuple[str, str]], event_first: bool
) -> None:
    """What was safe either way is a bet now; the order of the two frames is not documented."""
    core = hedged()
    if event_first:
        core.step(left(core, Side.SHORT, rest))
    core.step(taken(core, quantity, kind))
    if not event_first:
        core.step(left(core, Side.SHORT, rest))
    told = hedge(core.hold(5, "90000"))

    assert kinds(told) == expected
    for story in told:
        said = json.loads(core.messages.of(story)[0].payload)
        assert (said["subject"], said["symbol"]) == ("btcusdt", "BTCUSDT")
        assert said["facts"] == {"long_before": "1", "short_before": "-1", "long_after": "1", "short_after": rest}
    all_valid(core)


@pytest.mark.parametrize(("before_s", "expected"), [(1, [("noted", "critical")]), (-5, [])], ids=["before", "after"])
def test_a_hedge_that_broke_is_told_however_late_the_order_is_listed(
    before_s: int, expected: list[tuple[str, str]]
) -> None:
    """In a crash the exchange refuses the list of its orders; that a leg had gone is known long before why. One that
    went long before the order was closed by somebody else."""
    core = hedged()
    gone_ms = core.now.wall_ms + 1000
    core.step(left(core, Side.SHORT, "0"))
    core.hold(10, "90000")
    told = core.tell(structs.replace(taken(core, "1"), trade_id=0, at_ms=gone_ms - before_s * 1000))
    told += core.hold(5, "90000")

    assert kinds(hedge(told)) == expected


def test_a_hedge_that_its_owner_closes_is_not_broken() -> None:
    """No order of the exchange, no news."""
    core = hedged()
    core.step(left(core, Side.SHORT, "0"))

    assert hedge(core.hold(5, "90000")) == []


def test_a_hedge_of_which_both_legs_go_is_not_broken() -> None:
    """Nothing is left alone."""
    core = hedged()
    core.step(taken(core, "1", ForcedKind.LIQUIDATION), left(core, Side.SHORT, "0"), left(core, Side.LONG, "0"))

    assert hedge(core.hold(5, "90000")) == []


def test_a_position_that_was_no_hedge_is_not_broken() -> None:
    """One-way mode, and a leg alone."""
    core = holding()
    core.step(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.ADL))
    closed(core, "807.40")

    assert hedge(core.hold(5, "90250")) == []


def test_a_hedge_broken_step_by_step_is_told_once() -> None:
    """A liquidation in ten orders is one loss."""
    core = hedged()
    told = []
    for step in range(1, 11):
        at = core.now.wall_ms
        part = structs.replace(taken(core, "0.1", ForcedKind.LIQUIDATION), order_id=step, at_ms=at)
        told += core.tell(part, left(core, Side.SHORT, str(D(step - 10) / 10)), core.mark("90000"), Tick())
    told += core.hold(5, "90000")

    assert kinds(hedge(told)) == [("noted", "critical")]
    all_valid(core)


def next_run(core: Watched) -> Watched:
    """Another run, a second after this one was killed."""
    return Watched(kept=core.kept(), start=core.t + 1)


@pytest.mark.parametrize("is_listed", [False, True], ids=["not listed", "listed"])
@pytest.mark.parametrize("event_first", [False, True], ids=["killed before the account event", "killed after it"])
def test_a_hedge_that_broke_as_the_daemon_died_is_told_by_the_next_run(event_first: bool, is_listed: bool) -> None:
    """A report is due some seconds after the order; a kill in between must not cost what follows from it."""
    core = hedged()
    core.step(taken(core, "1"))
    if event_first:
        core.step(left(core, Side.SHORT, "0"))
    told = []
    for _ in range(2):  # and the run after that does not tell it again
        core = next_run(core)
        if is_listed:
            told += core.tell(structs.replace(taken(core, "1"), trade_id=0))
        core.begin("5000", LEGS[Side.LONG])
        told += core.hold(5, "90000")
        all_valid(core)

    assert kinds(hedge(told)) == [("noted", "critical")]
    [story] = hedge(told)
    said = json.loads(Watched().messages.of(story)[0].payload)
    assert said["facts"] == {"long_before": "1", "short_before": "-1", "long_after": "1", "short_after": "0"}
    assert [s.change.kind for s in forced(told)] == ["resolved"]


def test_a_hedge_that_breaks_step_by_step_over_a_restart_is_told_with_what_was_held_before() -> None:
    """Each run has seen less than half of it go."""
    core = hedged()
    core.step(taken(core, "0.4"))
    core.step(left(core, Side.SHORT, "-0.6"))
    core = next_run(core)
    core.begin("5000", LEGS[Side.LONG], structs.replace(LEGS[Side.SHORT], quantity=D("-0.6"), at_ms=core.now.wall_ms))
    told = core.hold(1, "90000")
    told += core.tell(structs.replace(taken(core, "0.25"), order_id=2, trade_id=2))
    told += core.tell(left(core, Side.SHORT, "-0.35"))
    told += core.hold(5, "90000")

    assert kinds(hedge(told)) == [("noted", "warning")]
    [story] = hedge(told)
    said = json.loads(core.messages.of(story)[0].payload)
    assert said["facts"] == {"long_before": "1", "short_before": "-1", "long_after": "1", "short_after": "-0.35"}
    all_valid(core)


def test_a_hedge_that_broke_while_no_daemon_ran_is_told_with_what_was_held_before() -> None:
    """Nobody saw the order; the exchange lists it, and the earlier run has kept what it held."""
    core = next_run(hedged())
    told = core.tell(structs.replace(taken(core, "1"), trade_id=0))
    core.begin("5000", LEGS[Side.LONG])
    told += core.hold(5, "90000")

    assert kinds(hedge(told)) == [("noted", "critical")]
    assert [s.change.kind for s in forced(told)] == ["opened", "resolved"]
    all_valid(core)


def test_it_is_not_over_while_the_book_shows_what_was_before_it() -> None:
    """A list may tell of an order that the copy which answered for the positions has not seen. With the next answers
    late, all that was closed was reported as left, and the hedge that it broke was told to nobody."""
    core = Watched(kept=hedged().kept(), start=1000)
    acted_ms = core.now.wall_ms - 1_500
    told = core.tell(structs.replace(taken(core, "1"), trade_id=0, at_ms=acted_ms))
    core.begin("5000", *LEGS.values())
    told += core.hold(10, "90000")
    assert (kinds(hedge(told)), [s.change.kind for s in forced(told)]) == ([], ["opened"])

    core.step(*core.truth("5000", LEGS[Side.LONG]))
    told = core.hold(5, "90000")
    assert kinds(hedge(told)) == [("noted", "critical")]
    [over] = forced(told)
    assert over.forced is not None
    assert (over.change.kind, over.forced.left) == ("resolved", D(0))
    all_valid(core)


@pytest.mark.parametrize(
    ("kind", "did"),
    [
        (ForcedKind.LIQUIDATION, "LIQUIDATED"),
        (ForcedKind.ADL, "auto-deleveraged"),
        (ForcedKind.SETTLEMENT, "settled"),
    ],
)
def test_an_order_of_a_time_without_a_daemon_is_not_said_to_be_of_now(kind: ForcedKind, did: str) -> None:
    """It may be days old: whoever is woken by it must not look for what is happening."""
    core = next_run(holding())
    [opened] = forced(core.tell(structs.replace(core.fill("BTCUSDT", "-2.5", "90250", forced=kind), trade_id=0)))

    assert opened.title == f"main: the exchange has {did} BTCUSDT long"
    assert opened.text == f"main: the exchange has {did} BTCUSDT long, while we were away."
    all_valid(core)


# ---- whatever comes, and in whatever order ----


def test_of_an_order_that_was_announced_and_no_more_it_is_said_that_nothing_was_told() -> None:
    """It may have found nobody, or its executions were lost; that something was closed must not be all that is said."""
    core = holding()
    core.step(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION))
    [over] = forced(core.hold(70, "90400"))

    assert over.text == "main: BTCUSDT long PARTLY LIQUIDATED. No execution was told. 2.5 is left."


def test_an_order_of_another_kind_is_a_story_of_its_own() -> None:
    """The exchange auto-deleverages a position, and liquidates the rest of it a moment later: in one report it was an
    ADL, and no louder than one. What is late of the first is no third story."""
    core = holding()
    adl = core.fill("BTCUSDT", "-1", "90200", realized="-1800", forced=ForcedKind.ADL)
    stories = core.tell(adl)
    rest = core.fill("BTCUSDT", "-1", "90100", realized="-1900", forced=ForcedKind.LIQUIDATION)
    stories += core.tell(structs.replace(rest, order_id=2, trade_id=2))
    stories += core.tell(structs.replace(adl, quantity=D("-0.5"), trade_id=3))
    closed(core, "807.40")
    stories += core.hold(5, "90100")

    assert kinds(forced(stories)) == [
        ("opened", "critical"),
        ("resolved", "critical"),
        ("opened", "liquidation"),
        ("resolved", "liquidation"),
    ]
    _, first, _, second = forced(stories)
    assert first.forced is not None
    assert second.forced is not None
    assert (first.change.resolution, first.forced.quantity, first.forced.left) == ("adl", D(1), None)
    assert (second.change.resolution, second.forced.quantity, second.forced.left) == ("liquidated", D("1.5"), D(0))
    assert first.text.endswith("1 closed at 90200 (bankruptcy price 89927). Realized PnL −1800.00 USDT.")
    assert discreet(first)[1] == "main: BTCUSDT long CLOSED BY AUTO-DELEVERAGING."
    all_valid(core)


@pytest.mark.parametrize(
    ("before", "by_now", "how"),
    [
        (ForcedKind.ADL, ForcedKind.LIQUIDATION, "adl"),
        (ForcedKind.LIQUIDATION, ForcedKind.ADL, "partly_liquidated"),
    ],
)
def test_an_order_of_another_kind_than_an_earlier_run_has_told_of_is_a_story_of_its_own(
    before: ForcedKind, by_now: ForcedKind, how: str
) -> None:
    """A list has not every order that an earlier run saw: it is cut off, or the clock was wrong. A liquidation went on
    with the story of an ADL then, without a word, and ended as one."""
    core = holding()
    core.step(core.fill("BTCUSDT", "-1", "90200", forced=before))
    core = next_run(core)
    rest = core.fill("BTCUSDT", "-1.5", "90100", forced=by_now)
    stories = core.tell(structs.replace(rest, order_id=2, trade_id=0))
    core.begin("807.40")
    stories += core.hold(5, "90100")

    first, opened, over = forced(stories)
    assert (first.change.resolution, over.change.resolution) == (
        how,
        "liquidated" if by_now is ForcedKind.LIQUIDATION else "adl",
    )
    assert kinds([opened]) == [("opened", "liquidation" if by_now is ForcedKind.LIQUIDATION else "critical")]
    assert over.forced is not None
    assert (over.forced.quantity, over.forced.left) == (D("1.5"), D(0))
    all_valid(core)


def test_a_liquidation_after_which_another_order_follows_has_left_something() -> None:
    """Whatever the book shows by then, there was something for the other to act on; and a hedge is judged once, by what
    was held before both."""
    core = hedged()
    stories = core.tell(taken(core, "0.4", ForcedKind.LIQUIDATION), left(core, Side.SHORT, "0"))
    stories += core.tell(structs.replace(taken(core, "0.6"), order_id=2, trade_id=2))
    stories += core.hold(5, "90000")

    assert [s.change.resolution or s.change.kind for s in forced(stories)] == [
        "opened",
        "partly_liquidated",
        "opened",
        "adl",
    ]
    assert kinds(hedge(stories)) == [("noted", "critical")]
    all_valid(core)


def test_an_order_that_goes_on_after_its_report_is_told_again() -> None:
    """A pause of some seconds ends the story of an order, not the order: what follows is news, and a loss."""
    core = holding()
    first = core.fill("BTCUSDT", "-1", "90200", forced=ForcedKind.LIQUIDATION)
    core.step(first)
    closed(core, "3300", "1.5")
    stories = core.hold(6, "90400")
    stories += core.tell(structs.replace(first, quantity=D("-1.5"), trade_id=2, at_ms=core.now.wall_ms))
    closed(core, "807.40")
    stories += core.hold(6, "90400")
    stories += core.tell(structs.replace(first, quantity=D("-2.5"), trade_id=0))  # listed after a gap

    assert [s.change.resolution or s.change.kind for s in forced(stories)] == [
        "partly_liquidated",
        "opened",
        "liquidated",
    ]
    [*_, last] = forced(stories)
    assert last.forced is not None
    assert last.forced.quantity == D("1.5")


def test_an_execution_that_the_list_had_is_no_news_however_late_the_stream_is() -> None:
    """In a crash the stream may be many seconds behind the answers; told again it would be a second liquidation."""
    core = holding()
    at_ms = core.now.wall_ms
    pushed = core.fill("BTCUSDT", "-1.5", "90250", forced=ForcedKind.LIQUIDATION, at_ms=at_ms)
    core.step(structs.replace(pushed, trade_id=0))
    closed(core, "3300", "1")
    [reported] = forced(core.hold(6, "90400"))
    late = forced(core.tell(pushed)) + forced(core.hold(6, "90400"))
    [news] = forced(core.tell(structs.replace(pushed, quantity=D("-1"), trade_id=2, at_ms=core.now.wall_ms)))

    assert (reported.change.kind, late, news.change.kind) == ("resolved", [], "opened")


@pytest.mark.parametrize("side", [Side.LONG, Side.SHORT])
def test_an_order_announced_before_anything_is_known_is_told_of_the_right_leg(side: Side) -> None:
    """The first frame has no quantity, but it names the leg."""
    core = Watched()
    core.connect()
    announced = structs.replace(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION), side=side)
    [opened] = forced(core.tell(announced))

    assert opened.side == side.value
    assert opened.title == f"main: the exchange LIQUIDATES BTCUSDT {side.value}"
    all_valid(core)


def test_of_a_position_that_nobody_knows_no_direction_is_claimed() -> None:
    """In one-way mode the first frame says nothing of it; the first execution does."""
    core = Watched()
    core.connect()
    [opened] = forced(core.tell(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION)))
    core.step(core.fill("BTCUSDT", "-1", "90000", realized="-5", forced=ForcedKind.LIQUIDATION))
    core.begin("800")
    [resolved] = forced(core.hold(5, "90000"))

    assert (opened.side, opened.title) == (None, "main: the exchange LIQUIDATES BTCUSDT")
    assert resolved.side == "long"
    assert "None" not in resolved.text
    all_valid(core)


def test_a_clearance_fee_that_comes_before_the_order_is_in_its_report() -> None:
    """The account event may come first; one of another day has nothing to do with it."""
    core = holding()
    old = core.changed("INSURANCE_CLEAR", "5100")
    old.changes["USDT"] = D("-1000")
    core.step(old)
    core.hold(9, "90400")
    closed(core, "807.40")
    clear = core.changed("INSURANCE_CLEAR", "725")
    clear.changes["USDT"] = D("-82.4")
    core.step(clear)
    core.step(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION))
    [resolved] = forced(core.hold(5, "90250"))

    assert resolved.forced is not None
    assert resolved.forced.clearance_fee == D("82.4")


def test_a_broken_hedge_is_told_where_forced_orders_are_not() -> None:
    """One rule that is switched off takes no other with it."""
    off = structs.replace(DEFAULTS["forced_order"], enabled=False)
    core = Watched(rules=RuleBook({**DEFAULTS, "forced_order": off}))
    core.begin("5000", *LEGS.values())
    core.price("90000")
    told = core.tell(taken(core, "1"), left(core, Side.SHORT, "0")) + core.hold(5, "90000")

    assert forced(told) == []
    assert kinds(hedge(told)) == [("noted", "critical")]
