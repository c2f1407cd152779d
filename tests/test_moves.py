"""Why a liquidation price moved: exact sums, and one telling for what is one event."""

from __future__ import annotations

import gc
import tracemalloc
from decimal import Decimal, localcontext

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from monitor.core import Kept
from monitor.effects import Save, Story
from monitor.events import (
    AccountChanged,
    Balance,
    Bracket,
    BracketsRead,
    Event,
    MarkPrice,
    Now,
    Position,
    PositionKey,
    Side,
    Tick,
)
from monitor.moves import Moves
from monitor.risk import EXACT
from monitor.risk.attribution import Baseline, Cause, Move, Stage, moves, share
from monitor.risk.pool import Pool
from monitor.risk.terms import Terms
from monitor.rules import DEFAULTS, LiquidationPriceMovedRule, Match, RuleBook
from tests import make
from tests.watched import BTC, FLAT, MARKET, Watched, of_rule, row

D = Decimal


def moved(stories: list[Story]) -> list[Story]:
    return of_rule(stories, "liquidation_price_moved")


def causes(story: Story, at: int = 0) -> list[tuple[str, str | None, str | None]]:
    """Kind, amount and what it moved."""
    return [
        (c.kind, None if c.amount is None else f"{c.amount:f}", None if c.moved is None else f"{c.moved:f}")
        for c in story.moves[at].move.causes
    ]


def rules(**keys: object) -> RuleBook:
    return RuleBook({**DEFAULTS, "liquidation_price_moved": LiquidationPriceMovedRule(**keys)})  # type: ignore[arg-type]


def long_btc(wallet: str = "5205.00", rule_book: RuleBook | None = None) -> Watched:
    """One cross long of 2.5 BTC at 92000, the account of the documented examples; its mark is 90400."""
    core = Watched(rules=rule_book)
    core.begin(wallet, row("BTCUSDT", "2.5", "92000"))
    core.price("90400")
    return core


# ---- the documented example ----


def test_funding_moves_the_price_as_documented() -> None:
    """22.60 USDT of funding: 90279.11646586 → 90288.19277108, to the last digit."""
    core = long_btc()
    core.step(core.changed("FUNDING_FEE", "5182.40", symbol="BTCUSDT"))
    [story] = moved(core.hold(25, "90400"))
    [move] = [m.move for m in story.moves]

    assert (move.before, move.after) == (D("90279.11646586"), D("90288.19277108"))
    assert causes(story) == [("funding_fee", "-22.60", "9.07630522")]
    assert share(move.causes[0], move) == 1
    assert story.change.severity.word == "info"
    assert story.after is not None
    assert round(story.after.distance or 0, 8) == D("0.00123681")  # 111.80722892 ÷ 90400
    assert story.text == (
        "main: BTCUSDT long liquidation price 90279.1 → 90288.2 (+0.01 %) after funding of BTCUSDT −22.60 USDT."
        " It is 0.12 % from the mark."
    )


def forecast_of(core: Watched) -> list[Decimal | None]:
    """What had been expected of each payment that is told, in order of the pools."""
    stories = moved(core.hold(25, "92000"))
    found = {m.pool.id: c.forecast for s in stories for m in s.moves for c in m.move.causes}
    return [found[pool_id] for pool_id in sorted(found)]


def before_funding(*rows: Position) -> Watched:
    """An account a moment after a funding of 0.0001 at a mark of 92000 that was forecast while it came near."""
    core = Watched()
    core.begin("30000", *rows)
    core.step(MarkPrice(MARKET, "BTCUSDT", D(92000), core.now.wall_ms, D("0.0001"), core.now.wall_ms + 60_000))
    core.step(Tick())
    core.step(core.mark("92000", after=60), after=60)
    return core


def test_each_leg_of_an_isolated_hedge_pays_what_was_forecast_for_it() -> None:
    """They are two pools, and pay by events of their own; what was expected of both together is neither's."""
    core = before_funding(
        row("BTCUSDT", "1", "92000", side=Side.LONG, isolated=True, isolated_wallet="9200"),
        row("BTCUSDT", "-0.4", "92000", side=Side.SHORT, isolated=True, isolated_wallet="3680"),
    )
    at = core.now.wall_ms
    legs = [
        row("BTCUSDT", "1", "92000", side=Side.LONG, isolated=True, isolated_wallet="9190.80", at_ms=at),
        row("BTCUSDT", "-0.4", "92000", side=Side.SHORT, isolated=True, isolated_wallet="3683.68", at_ms=at),
    ]
    core.step(*(core.changed("FUNDING_FEE", None, leg, symbol="BTCUSDT") for leg in legs))

    assert forecast_of(core) == [D("-9.2"), D("3.68")]


def test_a_snapshot_that_overtakes_the_funding_does_not_hide_what_was_forecast() -> None:
    """The payment is told with its cause all the same, and so with what had been expected of it."""
    core = before_funding(row("BTCUSDT", "1", "92000"))
    core.step(*core.truth("29990.80", row("BTCUSDT", "1", "92000"), at_ms=core.now.wall_ms))
    core.step(core.changed("FUNDING_FEE", "29990.80", symbol="BTCUSDT"))

    assert forecast_of(core) == [D("-9.2")]


# ---- what is one event ----


def two_longs() -> Watched:
    core = Watched()
    core.begin("20000", row("BTCUSDT", "1", "50000"), row("ETHUSDT", "10", "3000"))
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"))
    return core


def refresh(core: Watched, seconds: int) -> list[Story]:
    """Time passes, nothing moves."""
    return [
        story
        for _ in range(seconds)
        for story in core.tell(
            *(core.mark(format(core.core.accounts["main"].market.prices[s], "f"), s) for s in ("BTCUSDT", "ETHUSDT")),
            Tick(),
        )
    ]


def test_one_telling_is_as_loud_as_its_worst_move() -> None:
    """200 USDT less are 0.67 % of ETH's notional, and 0.4 % of BTC's; a notice begins at 0.5 %."""
    core = two_longs()
    [story] = moved(core.tell(core.changed("WITHDRAW", "19800")))

    assert [(m.move.key.symbol, m.severity.word) for m in story.moves] == [("ETHUSDT", "notice"), ("BTCUSDT", "info")]
    assert (story.symbol, story.change.severity.word) == ("ETHUSDT", "notice")


def test_the_payments_of_one_funding_instant_are_one_telling() -> None:
    """Every symbol pays by an event of its own, seconds apart; nobody wants a message for each."""
    core = two_longs()
    core.step(core.changed("FUNDING_FEE", "19995", symbol="BTCUSDT"))
    early = refresh(core, 10)
    core.step(core.changed("FUNDING_FEE", "19992", symbol="ETHUSDT"))
    [story] = moved(refresh(core, 30))

    assert moved(early) == []
    assert {m.move.key.symbol for m in story.moves} == {"BTCUSDT", "ETHUSDT"}
    paid = {(c.symbol, c.amount) for m in story.moves for c in m.move.causes}
    assert paid == {("BTCUSDT", D(-5)), ("ETHUSDT", D(-3))}


def test_a_move_has_the_time_that_the_exchange_put_on_its_cause() -> None:
    """It is told once what belongs to it has come, at another mark; and of what only a snapshot shows there is none."""
    core = long_btc()
    charged_ms = core.now.wall_ms
    core.step(core.changed("FUNDING_FEE", "5182.40", symbol="BTCUSDT"))
    [paid] = moved(core.hold(25, "90400"))
    core.step(*core.truth("5180", row("BTCUSDT", "2.5", "92000"), at_ms=core.now.wall_ms))
    [found] = moved(core.hold(10, "90400"))

    assert (paid.exchange_ms, found.exchange_ms) == (charged_ms, None)
    assert [cause.kind for cause in found.moves[0].move.causes] == ["unexplained"]


def test_the_fills_of_one_burst_are_one_telling() -> None:
    """A large order trades dozens of times; it is told once, a minute after it began."""
    core = long_btc("30000")
    for i in range(5):
        core.step(
            core.changed("ORDER", None, row("BTCUSDT", str(D("2.5") + D(i + 1) / 100), "92000", at_ms=core.now.wall_ms))
        )
    early = core.hold(54, "90400")
    [story] = moved(core.hold(3, "90400"))

    assert moved(early) == []
    [cause] = story.moves[0].move.causes
    assert (cause.kind, cause.quantity) == ("fill", D("0.05"))


def test_a_fill_has_what_it_realized_itself_and_not_what_one_before_it_had() -> None:
    """They are kept for events that come late; what has been told of one is not told again of another."""
    core = long_btc("30000")
    told = []
    for order_id, (left, wallet, realized) in enumerate((("2", "29200", "-800"), ("1.5", "28400", "-800"))):
        at_ms = core.now.wall_ms
        fill = core.fill("BTCUSDT", "-0.5", "90400", realized=realized, at_ms=at_ms)
        position = row("BTCUSDT", left, "92000", at_ms=at_ms)
        core.step(structs.replace(fill, order_id=order_id), core.changed("ORDER", wallet, position, at_ms=at_ms))
        told += moved(core.hold(65, "90400"))

    amounts = [[c.amount for c in s.moves[0].move.causes if c.kind == "realized_pnl"] for s in told]
    assert amounts == [[D(-800)], [D(-800)]]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("MARGIN_TRANSFER", "margin_transfer"),
        ("DEPOSIT", "transfer"),
        ("WITHDRAW", "transfer"),
        ("ASSET_TRANSFER", "transfer"),
        ("INSURANCE_CLEAR", "insurance_clear"),
        ("AUTO_EXCHANGE", "auto_exchange"),
        ("ADJUSTMENT", "adjustment"),
        ("SOMETHING_NEW", "adjustment"),
    ],
)
def test_whatever_is_no_burst_is_told_at_once(reason: str, kind: str) -> None:
    """A margin change is told as it happens, and a reason we have never heard of still counts."""
    core = long_btc()
    [story] = moved(core.tell(core.changed(reason, "5215.00")))

    assert causes(story) == [(kind, "10.00", "-4.01606425")]  # 224795 ÷ 2.49 − 224785 ÷ 2.49, each as printed


def test_a_pending_group_is_told_before_another_kind() -> None:
    """Causes are not mixed into one story because they came close together."""
    core = long_btc()
    core.step(core.changed("FUNDING_FEE", "5182.40", symbol="BTCUSDT"))
    stories = moved(core.tell(core.changed("MARGIN_TRANSFER", "5192.40")))

    assert [causes(s)[0][0] for s in stories] == ["funding_fee", "margin_transfer"]
    assert stories[0].moves[0].move.after == stories[1].moves[0].move.before


@pytest.mark.parametrize(
    ("reason", "window"), [("ORDER", "fills_window_s"), ("FUNDING_FEE", "funding_window_s")], ids=["fills", "funding"]
)
def test_a_window_of_one_symbol_alone_is_for_that_symbol(reason: str, window: str) -> None:
    """Who wants to hear of one symbol at once, and has said so, does not wait as long as for the others."""
    at_once = LiquidationPriceMovedRule(**{window: 0.0})  # type: ignore[arg-type]
    book = structs.replace(rules(), matches={"liquidation_price_moved": (Match(at_once, symbol="BTCUSDT"),)})
    core = Watched(rules=book)
    held = {s: row(s, "1", "90000", isolated=True, isolated_wallet="9000") for s in ("BTCUSDT", "ETHUSDT")}
    core.begin("30000", *held.values())
    core.step(core.mark("90000"), core.mark("90000", "ETHUSDT"))

    def told(symbol: str) -> list[Story]:
        paid = structs.replace(held[symbol], isolated_wallet=D("8990"), at_ms=core.now.wall_ms)
        return moved([*core.tell(core.changed(reason, None, paid, symbol=symbol)), *core.hold(2, "90000")])

    assert told("ETHUSDT") == []
    assert {m.pool.id for story in told("BTCUSDT") for m in story.moves} == {"isolated-btcusdt", "isolated-ethusdt"}


# ---- how bad ----


def test_an_adverse_move_of_half_a_percent_of_the_mark_is_a_notice() -> None:
    """Long 1 BTC at 100000 with 50000: each 498 USDT withdrawn brings the price 500 = 0.5 % of mark nearer."""
    core = Watched()
    core.begin("50000", row("BTCUSDT", "1", "100000"), brackets={"BTCUSDT": (Bracket(1, D(0), D("0.004"), D(0)),)})
    core.price("100000")

    [below] = moved(core.tell(core.changed("WITHDRAW", "49502.01")))
    [at] = moved(core.tell(core.changed("WITHDRAW", "49004.01")))
    [back] = moved(core.tell(core.changed("DEPOSIT", "50000")))

    assert [s.change.severity.word for s in (below, at, back)] == ["info", "notice", "info"]
    assert at.moves[0].move.moved == 500


def test_a_move_of_a_tenth_of_the_remaining_distance_waits_for_nothing() -> None:
    """A funding payment that eats the margin is told at once, not at the end of its window."""
    core = long_btc("5205.00")  # 120.88353414 from liquidation
    [story] = moved(core.tell(core.changed("FUNDING_FEE", "5165.00", symbol="BTCUSDT")))

    assert story.change.severity.word == "warning"
    assert story.moves[0].move.moved == D("16.06425703")  # 40 ÷ 2.49; 104.82 remain


def test_a_move_past_the_mark_is_no_relief() -> None:
    """The price is farther from the mark than before, on the wrong side of it."""
    core = long_btc("5205.00")
    [story] = moved(core.tell(core.changed("WITHDRAW", "4000.00")))
    move = story.moves[0].move

    assert move.after is not None
    assert move.after > 90400  # 226000 ÷ 2.49 = 90763.05220884
    assert story.change.severity.word == "warning"


def test_causes_add_up_until_they_are_told() -> None:
    """Ten small fundings in one window are one large one; none is lost by the others."""
    core = long_btc("30000")
    for i in range(10):
        core.step(core.changed("FUNDING_FEE", str(30000 - i - 1), symbol="BTCUSDT"))
    [story] = moved(core.hold(20, "90400"))

    assert causes(story)[0][:2] == ("funding_fee", "-10")


# ---- opening, flipping, coming and going ----


def test_opening_a_position_says_so_and_has_no_before() -> None:
    """There is nothing to compare a new price with."""
    core = long_btc("30000")
    core.step(core.changed("ORDER", "30000", row("ETHUSDT", "10", "3000", at_ms=core.now.wall_ms)))
    core.step(BracketsRead("main", {"ETHUSDT": FLAT}), core.mark("3000", "ETHUSDT"))
    stories = moved(core.hold(65, "90400") + core.tell(core.mark("3000", "ETHUSDT"), Tick()))

    [eth] = [m.move for s in stories for m in s.moves if m.move.key.symbol == "ETHUSDT"]
    assert eth.opened
    assert (eth.before, eth.moved) == (None, None)
    assert eth.after is not None


def test_flipping_a_position_is_a_new_one() -> None:
    """From the long's price to the short's is no move, and is not reported as one."""
    core = long_btc("30000")
    core.step(core.changed("ORDER", "30000", row("BTCUSDT", "-2.5", "90400", at_ms=core.now.wall_ms)))
    [story] = moved(core.hold(65, "90400"))
    [move] = [m.move for m in story.moves]

    assert move.opened
    assert (move.before, [c.moved for c in move.causes]) == (None, [None])
    assert "new" in story.text


def test_a_price_that_goes_and_comes_back_still_adds_up() -> None:
    """So much margin that no price liquidates, then back: the causes sum to the change all the same."""
    baseline, stages = pool_path("1000", "20000", "900")
    move = only_move(baseline, stages)

    assert [c.moved for c in move.causes] == [None, D("10.10101010")]
    assert move.moved == D("10.10101010")  # 100 ÷ (10 × 0.99)


def test_a_price_that_went_is_told_as_gone() -> None:
    """None after, and no number that pretends to be a move."""
    core = long_btc("30000")
    [story] = moved(core.tell(core.changed("DEPOSIT", "900000")))
    [move] = [m.move for m in story.moves]

    assert move.before is not None
    assert (move.after, move.moved) == (None, None)
    assert story.change.severity.word == "info"


# ---- whose share ----


def pool_path(*wallets: str) -> tuple[Baseline, list[Stage]]:
    """A long of 10 at 1000 with 1 % maintenance, and a transfer to each of these wallets."""
    held = make.position("AUSDT", "10", "1000")
    table = {"AUSDT": make.table(("0", "0.01", "0"))}
    pools = [make.pool(wallet, held) for wallet in wallets]
    stages = [Stage(Cause("transfer" if i else "funding_fee"), pool) for i, pool in enumerate(pools[1:])]
    return Baseline(pools[0], Terms({"AUSDT": D(1000)}, table)), stages


def found_moves(baseline: Baseline, stages: list[Stage]) -> list[Move]:
    with localcontext(EXACT):
        return list(moves([baseline], stages, baseline.terms).values())


def only_move(baseline: Baseline, stages: list[Stage]) -> Move:
    [move] = found_moves(baseline, stages)
    return move


def test_shares_are_parts_of_the_whole_move() -> None:
    """Where all causes pull one way, each has its part and the parts are one."""
    move = only_move(*pool_path("1000", "970", "900"))  # −30 and −70, each ÷ 9.9

    assert [share(c, move) for c in move.causes] == [
        D("3.03030303") / D("10.10101010"),
        D("7.07070707") / D("10.10101010"),
    ]


def test_there_are_no_shares_where_causes_cancel() -> None:
    """−30 and +20 are not 300 % and −200 % of anything."""
    move = only_move(*pool_path("1000", "970", "990"))

    assert [share(c, move) for c in move.causes] == [None, None]
    assert move.moved == sum(c.moved or 0 for c in move.causes)


# ---- fills, PnL and commission ----


@pytest.mark.parametrize("first", ["order", "account"])
def test_pnl_and_commission_are_told_apart_whichever_frame_comes_first(first: str) -> None:
    """Binance sends both frames of a trade, in no promised order."""
    core = long_btc("30000")
    at = core.now.wall_ms
    order = core.fill("BTCUSDT", "-0.5", "90400", realized="-800", commission="18.08", at_ms=at)
    account = core.changed("ORDER", "29181.92", row("BTCUSDT", "2", "92000", at_ms=at), at_ms=at)
    frames: list[Event] = [order, account] if first == "order" else [account, order]
    core.step(frames[0])
    core.step(frames[1])
    [story] = moved(core.hold(61, "90400"))

    assert [(c.kind, c.amount, c.quantity) for c in story.moves[0].move.causes] == [
        ("fill", D("0.00"), D("-0.5")),
        ("realized_pnl", D(-800), None),
        ("commission", D("-18.08"), None),
    ]


def test_of_an_event_that_names_every_position_the_one_that_changed_is_the_cause() -> None:
    """COIN-M is documented to push all symbols each time; a fill has its symbol, PnL and commission all the same."""
    core = Watched()
    eth = row("ETHUSDT", "1", "3000")
    core.begin("30000", row("BTCUSDT", "2.5", "92000"), eth)
    core.step(core.mark("90400"), core.mark("3000", "ETHUSDT"))
    at = core.now.wall_ms
    order = core.fill("BTCUSDT", "-0.5", "90400", realized="-800", commission="18.08", at_ms=at)
    rows = row("BTCUSDT", "2", "92000", at_ms=at), structs.replace(eth, at_ms=at)
    stories = core.tell(order, core.changed("ORDER", "29181.92", *rows, at_ms=at))
    [story] = moved([*stories, *core.hold(61, "90400")])

    for one in story.moves:
        assert [(c.kind, c.symbol, c.amount, c.quantity) for c in one.move.causes] == [
            ("fill", "BTCUSDT", D("0.00"), D("-0.5")),
            ("realized_pnl", "BTCUSDT", D(-800), None),
            ("commission", "BTCUSDT", D("-18.08"), None),
        ]


def test_what_a_fill_realized_is_known_for_as_long_as_it_waits_to_be_told() -> None:
    """However long a burst is gathered, the first of its executions counts as the last does."""
    core = long_btc("30000", rules(fills_window_s=600))
    for left, wallet, realized in (("2", "29200", "-800"), ("1.5", "28450", "-750")):
        at = core.now.wall_ms
        core.step(
            structs.replace(core.fill("BTCUSDT", "-0.5", "90400", realized=realized, at_ms=at), order_id=at),
            core.changed("ORDER", wallet, row("BTCUSDT", left, "92000", at_ms=at), at_ms=at),
        )
        early = moved(core.hold(290, "90400"))
        assert early == []
    [story] = moved(core.hold(30, "90400"))

    causes = [(c.kind, c.amount) for c in story.moves[0].move.causes]
    assert causes == [("fill", D(0)), ("realized_pnl", D(-1550))]


def test_executions_are_forgotten_once_nothing_is_to_be_told_of_them() -> None:
    """A thousand of them took each account that trades most of a megabyte, and were asked for by nobody."""
    core = long_btc("30000")
    held: list[int] = []
    tracemalloc.start()
    try:
        for n in range(1, 901):
            core.t += 10
            at = core.now.wall_ms
            fill = core.fill("BTCUSDT", "0.001", f"{90400 + n}", commission=f"0.036{n:03}", at_ms=at)
            position = row("BTCUSDT", str(D("2.5") + D(n) / 1000), "92000", at_ms=at)
            account = core.changed("ORDER", f"{30000 - n / 1000:f}", position, at_ms=at)
            core.core.step(
                [structs.replace(fill, order_id=n, trade_id=n), account, core.mark("90400"), Tick()], core.now
            )
            if n in (100, 900):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert held[1] - held[0] < 100_000


def test_trades_of_one_millisecond_are_each_counted_once() -> None:
    """A market order sweeps the book: several trades, one time stamp, and PnL that must not be counted twice."""
    core = long_btc("30000")
    at = core.now.wall_ms
    first = core.fill("BTCUSDT", "-0.5", "90400", realized="-800", commission="18", at_ms=at)
    second = structs.replace(first, trade_id=2)
    core.step(
        first,
        core.changed("ORDER", "29182", row("BTCUSDT", "2", "92000", at_ms=at), at_ms=at),
        second,
        core.changed("ORDER", "28364", row("BTCUSDT", "1.5", "92000", at_ms=at), at_ms=at),
        first,  # once more, over another connection
        second,
    )
    [story] = moved(core.hold(61, "90400"))

    assert [(c.kind, c.amount, c.quantity) for c in story.moves[0].move.causes] == [
        ("fill", D(0), D(-1)),
        ("realized_pnl", D(-1600), None),
        ("commission", D(-36), None),
    ]


def test_the_cross_pool_does_not_claim_the_pnl_of_an_isolated_fill() -> None:
    """Margin left the cross wallet; profit and fee belong to the pool that traded."""
    core = Watched()
    eth = row("ETHUSDT", "10", "3000", isolated=True, isolated_wallet="3000")
    core.begin("20000", row("BTCUSDT", "1", "50000"), eth)
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"))
    at = core.now.wall_ms
    more = row("ETHUSDT", "20", "3000", isolated=True, isolated_wallet="5985", at_ms=at)
    [story] = moved(
        core.tell(
            core.fill("ETHUSDT", "10", "3000", commission="15", at_ms=at),
            core.changed("ORDER", "17000", more, at_ms=at),
        )
    )
    by_pool = {m.pool.id: [(c.kind, c.amount) for c in m.move.causes] for m in story.moves}

    assert by_pool["cross-usdt"] == [("fill", D(-3000))]
    assert by_pool["isolated-ethusdt"] == [("fill", D(3000)), ("commission", D(-15))]


# ---- snapshots, brackets, marks ----


def test_a_change_that_only_a_snapshot_shows_is_unexplained() -> None:
    """It moved the price, and nobody told us why: that is said."""
    core = long_btc()
    [story] = moved(core.tell(*core.truth("5100", row("BTCUSDT", "2.5", "92000"), at_ms=core.now.wall_ms)))

    assert [kind for kind, *_ in causes(story)] == ["unexplained"]


def test_a_snapshot_that_overtakes_its_event_does_not_hide_the_cause() -> None:
    """REST is at times quicker than the stream; what it shows has a reason that is only under way."""
    core = long_btc()
    core.step(*core.truth("5195.00", row("BTCUSDT", "2.5", "92000"), at_ms=core.now.wall_ms))
    core.step(core.changed("FUNDING_FEE", "5195.00", symbol="BTCUSDT", at_ms=core.now.wall_ms))
    [story] = moved(core.hold(30, "90400"))

    assert [c[:2] for c in causes(story)] == [("funding_fee", "-10.00")]


def test_what_a_snapshot_has_shown_first_is_told_as_soon_as_its_cause_comes() -> None:
    """What it waited for is there; a balance of an asset that is no collateral comes with it."""
    core = long_btc()
    core.step(*core.truth("5195", row("BTCUSDT", "2.5", "92000"), at_ms=core.now.wall_ms))
    event = core.changed("WITHDRAW", "5195", at_ms=core.now.wall_ms)
    bnb = Balance("BNB", D(1), D(1), core.now.wall_ms)
    [story] = moved(core.tell(structs.replace(event, balances=(bnb, *event.balances))))

    assert [kind for kind, *_ in causes(story)] == ["transfer"]


def test_a_snapshot_that_agrees_tells_nothing() -> None:
    """It comes every half minute."""
    core = long_btc()
    assert moved(core.tell(*core.truth("5205.00", row("BTCUSDT", "2.5", "92000"), at_ms=core.now.wall_ms))) == []


def test_changed_brackets_are_told_when_they_come() -> None:
    """No account event brings them, and the price moves all the same: 0.4 % → 0.5 % maintenance."""
    core = long_btc()
    [story] = moved(core.tell(BracketsRead("main", {"BTCUSDT": (Bracket(1, D(0), D("0.005"), D(0)),)})))

    # 224795 ÷ (2.5 × 0.995) = 90369.84924623, and ÷ (2.5 × 0.996) = 90279.11646586
    assert causes(story) == [("bracket_change", None, "90.73278037")]
    assert (story.change.severity.word, story.exchange_ms) == ("warning", None)
    assert moved(core.hold(5, "90400")) == []


def test_other_marks_are_told_once_they_matter() -> None:
    """The other position's loss brings this one's price nearer: 5000 USDT are 5020 of 50000."""
    core = two_longs()
    stories = moved(core.tell(core.mark("50000"), core.mark("2500", "ETHUSDT")))

    [btc] = [m.move for s in stories for m in s.moves if m.move.key.symbol == "BTCUSDT"]
    assert [c.kind for c in btc.causes] == ["marks"]
    # equity of ETH: −5000 pnl, and 250 instead of 300 maintenance: 4950 ÷ 0.996
    assert btc.moved == D("4969.87951807")
    assert stories[0].change.severity.word == "warning"


# ---- restart ----


def test_the_baseline_outlives_a_restart() -> None:
    """What moved while we were down is told against the price that was last told."""
    core = long_btc()
    later = Watched(kept=core.kept(), start=1000.0)
    later.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    [story] = moved(later.hold(6, "90400"))

    assert (story.moves[0].move.before, story.moves[0].move.after) == (D("90279.11646586"), D("90288.19277108"))
    assert [kind for kind, *_ in causes(story)] == ["unexplained"]


def test_a_baseline_is_kept_as_it_is() -> None:
    """Its tables are encoded once for all baselines; the row is that of any other struct, and reads as one."""
    baseline = long_btc().core.accounts["main"].moves.baselines["cross-usdt"]

    assert baseline.encoded == msgspec.json.encode(baseline)
    assert msgspec.json.decode(baseline.encoded, type=Baseline) == baseline


def test_a_baseline_that_does_not_read_is_made_anew() -> None:
    """A row of another version must not keep the monitor from starting, nor what has grown since outlive its pool."""
    gone = "main/isolated-ethusdt"
    later = Watched(kept=Kept(baselines={"main/cross-usdt": b'{"of":"old"}', gone: b"{}"}, grown={gone: b"[]"}))
    assert Save("grown", gone, None) in later.begin("5205.00", row("BTCUSDT", "2.5", "92000"))

    assert moved(later.hold(7, "90400")) == []
    assert "cross-usdt" in later.core.accounts["main"].moves.baselines


def test_what_is_opened_or_enlarged_is_kept_before_it_is_told() -> None:
    """The next run must know what may have been taken before it; fills are told a minute after the first."""
    core = long_btc()
    core.step(BracketsRead("main", {"BTCUSDT": BTC, "ETHUSDT": FLAT}))
    core.step(core.changed("ORDER", "5205.00", row("BTCUSDT", "3", "92000"), row("ETHUSDT", "-1", "3000")))
    core.step(core.changed("ORDER", "5205.00", row("BTCUSDT", "2", "92000"), row("ETHUSDT", "-1.5", "3000")))

    held = Watched(kept=core.kept()).core.accounts["main"].moves.baselines.held
    assert {key.symbol: p.quantity for key, p in held.items()} == {"BTCUSDT": D(3), "ETHUSDT": D("-1.5")}

    core.step(core.mark("3000", "ETHUSDT"))
    assert moved(core.hold(60, "90400")) != []
    held = Watched(kept=core.kept()).core.accounts["main"].moves.baselines.held
    assert core.kept().grown == {}
    assert {key.symbol: p.quantity for key, p in held.items()} == {"BTCUSDT": D(2), "ETHUSDT": D("-1.5")}


def test_a_baseline_that_is_taken_back_late_is_the_one_that_moves_are_measured_from() -> None:
    """The store may be found after prices have been computed from another one."""
    (then, _), (meanwhile, _) = pool_path("1000"), pool_path("900")
    earlier, later = Moves("main"), Moves("main")
    with localcontext(EXACT):
        earlier.settle([then.pool], then.terms, Now(0.0, 0))
        later.settle([meanwhile.pool], meanwhile.terms, Now(0.0, 0))
        assert later.told(then.pool) != earlier.told(then.pool)
        [(_, pool_id, kept)] = earlier.baselines.unkept()
        assert kept is not None
        later.baselines.restore("baseline", pool_id, kept)

        assert later.told(then.pool) == earlier.told(then.pool)


def test_a_restart_without_any_change_tells_nothing() -> None:
    """Systemd may restart us every minute."""
    core = long_btc()
    later = Watched(kept=core.kept(), start=1000.0)
    later.begin("5205.00", row("BTCUSDT", "2.5", "92000"))

    assert moved(later.hold(3, "90400")) == []


def test_a_disabled_rule_tells_nothing_and_starts_afresh() -> None:
    """What happened while nobody wanted to hear of it is not told afterwards."""
    core = long_btc(rule_book=rules(enabled=False))
    assert moved(core.tell(core.changed("DEPOSIT", "6000"))) == []

    core.core.take_rules(RuleBook())
    [story] = moved(core.tell(core.changed("DEPOSIT", "6010")))
    assert causes(story)[0][:2] == ("transfer", "10")


# ---- exact, whatever happens ----


_MONEY = st.integers(-300_000, 300_000).map(lambda cents: D(cents) / 100)


@st.composite
def happenings(draw: st.DrawFn) -> list[tuple[str, str, Decimal, Decimal]]:
    kind = st.sampled_from(
        ["FUNDING_FEE", "DEPOSIT", "MARGIN_TRANSFER", "ORDER", "mark", "brackets", "wait", "SNAPSHOT"]
    )
    symbol = st.sampled_from(["BTCUSDT", "ETHUSDT"])
    size = st.integers(-30, 30).map(lambda n: D(n) / 10)
    return draw(st.lists(st.tuples(kind, symbol, _MONEY, size), min_size=1, max_size=25))


@given(happenings())
@settings(max_examples=150)
def test_moved_sums_to_the_change_to_the_last_digit(happened: list[tuple[str, str, Decimal, Decimal]]) -> None:
    """However causes mix, what is told adds up, and each telling begins where the one before ended."""
    core = Watched()
    wallet, prices = D(20_000), {"BTCUSDT": D(50_000), "ETHUSDT": D(3_000)}
    held = {"BTCUSDT": D(1), "ETHUSDT": D(-5)}
    core.begin("20000", *(row(s, str(q), str(prices[s])) for s, q in held.items()))
    stories = core.tell(*(core.mark(str(p), s) for s, p in prices.items()))
    entries = dict(prices)
    for kind, symbol, money, size in happened:
        after = 61.0 if kind == "wait" else 1.0
        at = core.now.wall_ms + round(after * 1000)
        events: list[Event] = []
        if kind == "mark":
            prices[symbol] *= 1 + money / 10_000_000
        elif kind == "brackets":
            rate = D("0.004") + abs(size) / 100
            events = [BracketsRead("main", {symbol: (Bracket(1, D(0), rate, D(0)), *BTC[2:])})]
        elif kind == "ORDER":
            held[symbol] += size
            wallet -= abs(money) / 100
            position = Position(symbol, Side.BOTH, held[symbol], entries[symbol], None, D(0), at, "USDT")
            balance = Balance("USDT", wallet, wallet, at)
            events = [AccountChanged("main", "ORDER", (balance,), (position,), None, {}, at)]
        elif kind == "SNAPSHOT":
            wallet += money
            events = core.truth(
                str(wallet), *(row(s, str(q), str(entries[s]), at_ms=at) for s, q in held.items()), at_ms=at
            )
        elif kind != "wait":
            wallet += money
            events = [core.changed(kind, str(wallet), symbol=symbol, at_ms=at)]
        stories += core.tell(*events, *(core.mark(str(p), s, after) for s, p in prices.items()), Tick(), after=after)
    stories += core.tell(*(core.mark(str(p), s, 61) for s, p in prices.items()), Tick(), after=61)

    last: dict[PositionKey, Decimal | None] = {}
    for story in moved(stories):
        for one in story.moves:
            move = one.move
            if move.moved is not None:
                assert sum((c.moved or D(0) for c in move.causes), D(0)) == move.moved
                assert move.before == last.get(move.key, move.before)
            last[move.key] = move.after


@given(st.lists(_MONEY, min_size=1, max_size=8), st.booleans())
def test_any_path_of_wallets_adds_up(path: list[Decimal], is_short: bool) -> None:
    """Prices may vanish and come back along the way; the sum holds wherever both ends have one."""
    held = make.position("AUSDT", "-10" if is_short else "10", "1000")
    table = {"AUSDT": make.table(("0", "0.01", "0"), ("5000", "0.02", "50"))}
    pools: list[Pool] = [make.pool("1000", held)]
    for money in path:
        pools.append(make.pool(str((pools[-1].wallet_balance or D(0)) + money * 10), held))
    stages = [Stage(Cause("transfer", str(i)), pool) for i, pool in enumerate(pools[1:])]
    found = found_moves(Baseline(pools[0], Terms({"AUSDT": D(1000)}, table)), stages)

    for move in found:  # where it is back where it was, there is none
        assert move.before != move.after
        if move.before is None or move.after is None:
            continue
        assert sum((c.moved or D(0) for c in move.causes), D(0)) == move.after - move.before
