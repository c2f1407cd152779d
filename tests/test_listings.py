"""What the exchange makes of what we hold: contracts that end, the ADL queue, debts, brackets.

1 BTC long at 60000 on 10000 USDT, at a mark of 60000: maintenance margin 240, margin ratio 0.024.
"""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from monitor.discreet import discreet
from monitor.effects import PoolState, Save, Story
from monitor.events import (
    AccountModeRead,
    AdlQuantilesRead,
    AdlRiskRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    ClockOffset,
    ContractChanged,
    ContractsRead,
    Event,
    ExchangeFigures,
    ForcedKind,
    LinkState,
    Position,
    PositionKey,
    PositionsRead,
    Side,
    Silence,
    Tick,
)
from monitor.listings import Listings
from monitor.rules import DEFAULTS, Match, RuleBook
from tests.watched import BTC, FLAT, MARKET, WALL_MS, Watched, all_valid, contract, kinds, now_at, of_rule, row

D = Decimal
HOUR_S = 3600
LONG = row("BTCUSDT", "1", "60000")


def holding(rules: RuleBook | None = None) -> Watched:
    core = Watched(rules=rules)
    core.begin("10000", LONG)
    core.price("60000")
    return core


def again(core: Watched, *, start: float) -> Watched:
    """The next run, with the links up and the account's truth read."""
    later = Watched(kept=core.kept(), start=start)
    later.begin("10000", LONG)
    return later


def closed(core: Watched) -> list[Event]:
    at = core.now.wall_ms
    return [core.changed("ORDER", "10000", row("BTCUSDT", "0", "60000", at_ms=at), at_ms=at)]


def body(core: Watched, story: Story | PoolState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(core.messages.of(story)[0].payload)
    return found


def retained(core: Watched, rule: str) -> list[str]:
    """Subjects of which an open incident has been published."""
    head = f"marginwatch/main/incident/{rule}/"
    return [m.topic.removeprefix(head) for m in core.sent() if m.topic.startswith(head) and m.payload]


def silence(core: Watched, rule: str, seconds: int) -> list[Story]:
    """So many seconds in which only time passes."""
    return of_rule([story for _ in range(seconds) for story in core.tell(Tick())], rule)


def without(name: str, symbol: str) -> RuleBook:
    """All rules, one of them off for a symbol."""
    off = structs.replace(DEFAULTS[name], enabled=False)
    return RuleBook(DEFAULTS, {name: (Match(off, symbol=symbol),)})


# ---- contract_status ----


def delivered_at(hours: float) -> ContractsRead:
    terms = structs.replace(contract("BTCUSDT"), delivery_ms=WALL_MS + round(hours * HOUR_S * 1000))
    return ContractsRead(MARKET, {"BTCUSDT": terms})


def status(core: Watched, word: str) -> ContractChanged:
    return ContractChanged(MARKET, "BTCUSDT", word, None, None, core.now.wall_ms)


def at(core: Watched, hours: float) -> list[Story]:
    """So long after the beginning; what is told of the contract there."""
    core.t = hours * HOUR_S - 1
    return of_rule(core.price("60000"), "contract_status")


def test_a_delivery_is_told_a_day_and_an_hour_before() -> None:
    """What is not rolled over by then is settled, whatever it is worth."""
    core = holding()
    core.step(delivered_at(30))
    told = [(hours, kinds(at(core, hours))) for hours in (5.9, 6, 7, 28.9, 29, 29.5)]

    assert [(hours, found) for hours, found in told if found] == [
        (6, [("opened", "notice")]),
        (29, [("worsened", "warning")]),
    ]
    all_valid(core)


def test_the_last_hour_says_that_no_fund_stands_behind_it() -> None:
    """What is liquidated then goes to auto-deleveraging."""
    core = holding()
    core.step(delivered_at(30))
    day, [hour] = at(core, 10), at(core, 29)

    assert "20 h 0 min" in day[0].title
    assert "insurance fund" not in day[0].text
    assert "1 h 0 min" in hour.title
    assert "insurance fund" in hour.text
    said = body(core, hour)
    assert said["facts"] == {"status": "TRADING", "delivery_at": "2026-11-22T14:00:00.000Z"}
    assert (said["subject"], said["symbol"], said["side"]) == ("btcusdt", "BTCUSDT", "long")


@pytest.mark.parametrize(("minutes", "words"), [(0.9, "less than 2 min"), (1.9, "less than 2 min"), (2.1, "2 min")])
def test_what_is_left_until_a_delivery_is_no_less_than_what_is_said(minutes: float, words: str) -> None:
    """It is counted in whole minutes: 54 s before it "0 s" would be over already."""
    core = holding()
    core.step(delivered_at(minutes / 60))

    [told] = of_rule(core.price("60000"), "contract_status")

    assert told.title == f"main: BTCUSDT is delivered in {words}"


def test_a_countdown_is_not_written_to_the_disk_every_second() -> None:
    """It is worse than ever at every tick of a whole day; kept is what a person would read."""
    core = holding()
    core.step(delivered_at(20))
    at(core, 0.1)
    before = len(core.effects)
    core.hold(120, "60000")

    assert len([e for e in core.effects[before:] if isinstance(e, Save) and e.table == "incident"]) == 2


def test_a_contract_that_is_not_traded_is_a_warning_until_it_is() -> None:
    """Nobody can close what is not traded."""
    core = holding()
    [opened] = of_rule(core.tell(status(core, "SETTLING"), core.mark("60000"), Tick()), "contract_status")
    meanwhile = of_rule(core.hold(120, "60000"), "contract_status")
    core.step(status(core, "TRADING"))
    [ended] = of_rule(core.hold(62, "60000"), "contract_status")

    assert (opened.change.kind, opened.change.severity.word) == ("opened", "warning")
    assert "SETTLING" in opened.title
    assert meanwhile == []
    assert ended.change.resolution == "recovered"
    assert "it is traded" in ended.text
    all_valid(core)


def test_an_answer_that_was_under_way_does_not_undo_what_was_pushed() -> None:
    """It was given before the contract was halted; the next is an hour away, and until then all would seem well."""
    core = holding()
    core.step(status(core, "SETTLING"), Tick())
    core.step(ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}))
    overtaken = of_rule(core.hold(62, "60000"), "contract_status")
    core.step(ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}))
    [ended] = of_rule(core.hold(62, "60000"), "contract_status")

    assert overtaken == []
    assert ended.change.resolution == "recovered"


def test_of_two_connections_the_one_that_lags_turns_no_contract_back() -> None:
    """Where it is cut right then, its word would stand until the contracts are read again, an hour later."""
    listings = Listings()
    listings.apply_contracts({"BTCUSDT": contract("BTCUSDT")}, now_at(0))
    words = [("SETTLING", WALL_MS), ("CLOSE", WALL_MS + 900), ("SETTLING", WALL_MS)]
    for word, at_ms in words:
        listings.apply_contract(ContractChanged("market-x", "BTCUSDT", word, None, None, at_ms), now_at(1))

    assert listings.contracts["BTCUSDT"].status == "CLOSE"


def test_what_was_pushed_before_the_first_answer_is_not_lost() -> None:
    """At a start both come at once, in either order."""
    core = Watched()
    core.step(status(core, "SETTLING"))
    core.begin("10000", LONG)

    assert kinds(of_rule(core.price("60000"), "contract_status")) == [("opened", "warning")]


@pytest.mark.parametrize(
    ("forced", "how", "words"),
    [
        pytest.param(None, "position_closed", "position closed", id="closed by its owner"),
        pytest.param(ForcedKind.SETTLEMENT, "settled", "SETTLED", id="delivered"),
    ],
)
def test_a_contract_that_is_not_held_any_more_is_no_concern(forced: ForcedKind | None, how: str, words: str) -> None:
    """It ends at once, and says how."""
    core = holding()
    core.step(status(core, "SETTLING"), Tick())
    if forced is not None:
        core.step(core.fill("BTCUSDT", "-1", "60000", forced=forced))
    [ended] = of_rule(core.tell(*closed(core), Tick()), "contract_status")

    assert (ended.change.resolution, ended.symbol) == (how, "BTCUSDT")
    assert words in ended.text
    all_valid(core)


def test_a_contract_that_is_not_traded_is_not_told_again_after_a_restart() -> None:
    """And is retained again, since the broker may have lost it."""
    core = holding()
    core.step(status(core, "SETTLING"), Tick())
    later = again(core, start=100)
    later.step(status(later, "SETTLING"))
    told = of_rule(later.hold(120, "60000"), "contract_status")

    assert (told, retained(later, "contract_status")) == ([], ["btcusdt"])
    all_valid(later)


def test_an_override_for_a_symbol_is_for_that_symbol_alone() -> None:
    """In a cross pool with others it must not switch off theirs."""
    core = Watched(rules=without("contract_status", "ETH*"))
    core.begin("10000", LONG, row("ETHUSDT", "1", "3000"))
    halted = [status(core, "SETTLING"), structs.replace(status(core, "SETTLING"), symbol="ETHUSDT")]
    told = of_rule(core.tell(*halted, core.mark("60000"), core.mark("3000", "ETHUSDT"), Tick()), "contract_status")

    assert [story.symbol for story in told] == ["BTCUSDT"]


# ---- adl_quantile ----


def queue(place: int) -> AdlQuantilesRead:
    """In one-way mode all three rows are there; the long's own place is that of its direction."""
    return AdlQuantilesRead("main", {PositionKey("BTCUSDT", s): place if s is Side.LONG else 0 for s in Side})


def risk(word: str) -> AdlRiskRead:
    return AdlRiskRead(MARKET, {"BTCUSDT": word})


def queued(core: Watched, place: int, seconds: int = 1) -> list[Story]:
    core.step(queue(place))
    return of_rule(core.hold(seconds, "60000"), "adl_quantile")


@pytest.mark.parametrize(
    ("word", "severity"), [(None, "notice"), ("low", "notice"), ("medium", "notice"), ("high", "warning")]
)
def test_who_is_first_in_the_queue_is_told_and_louder_where_the_risk_is_high(word: str | None, severity: str) -> None:
    """A winner may be closed against his will; the other leg of a hedge is then alone."""
    core = holding()
    if word is not None:
        core.step(risk(word))
    before = queued(core, 3, 5)
    [opened] = queued(core, 4)
    said = body(core, opened)

    assert before == []
    assert (said["event"], said["severity"], said["subject"]) == ("opened", severity, "btcusdt")
    assert said["facts"] == {"quantile": 4, "adl_risk": word}
    assert "first in the auto-deleveraging queue" in said["title"]
    all_valid(core)


def test_the_queue_is_left_at_3_for_a_minute() -> None:
    """Who steps back and forth is not told each time."""
    core = holding()
    opened = queued(core, 4, 5)
    back_and_forth = [s for _ in range(4) for place in (3, 4) for s in queued(core, place, 30)]
    ended = queued(core, 3, 62)

    assert (kinds(opened), back_and_forth, kinds(ended)) == ([("opened", "notice")], [], [("resolved", "notice")])
    assert ended[0].change.resolution == "recovered"
    all_valid(core)


def test_a_risk_that_becomes_high_while_first_in_the_queue_worsens_it() -> None:
    """One story, told again because it is worse."""
    core = holding()
    queued(core, 4)
    core.step(risk("high"))

    assert kinds(of_rule(core.hold(60, "60000"), "adl_quantile")) == [("worsened", "warning")]
    all_valid(core)


def test_the_queue_is_not_left_while_the_data_is_stale() -> None:
    """Blind, a change for the better is not believed."""
    core = holding()
    queued(core, 4)
    core.step(queue(3))
    blind = silence(core, "adl_quantile", 200)
    seen = of_rule(core.hold(62, "60000"), "adl_quantile")

    assert (blind, kinds(seen)) == ([], [("resolved", "notice")])


def test_the_place_in_the_queue_is_not_told_again_after_a_restart() -> None:
    """The new run knows it only with the next answer."""
    core = holding()
    queued(core, 4)
    later = again(core, start=100)
    told = of_rule(later.hold(5, "60000"), "adl_quantile") + queued(later, 4, 60)

    assert (told, retained(later, "adl_quantile")) == ([], ["btcusdt"])
    assert kinds(queued(later, 2, 62)) == [("resolved", "notice")]
    all_valid(later)


# ---- auto_exchange ----

TERMS = {"USDT": AssetTerms(True, D(100)), "BTC": AssetTerms(True, None)}


def multi_assets(wallet: str, core: Watched | None = None) -> Watched:
    """1 BTC of collateral beside the USDT wallet; the position is 0.01 BTC, long at 60000."""
    core = core or Watched()
    core.connect()
    position = row("BTCUSDT", "0.01", "60000")
    core.step(
        ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}, TERMS),
        BracketsRead("main", {"BTCUSDT": BTC}),
        AccountModeRead("main", hedge=False, multi_assets=True, sent_ms=core.now.wall_ms),
        balances(core, wallet),
        PositionsRead("main", ((position, None),), core.now.wall_ms),
        after=0,
    )
    return core


def balances(core: Watched, usdt: str, btc: str = "1") -> BalancesRead:
    """All of it cross."""
    found = tuple(Balance(a, D(v), D(v), core.now.wall_ms) for a, v in (("USDT", usdt), ("BTC", btc)))
    return BalancesRead("main", found, core.now.wall_ms)


def owing(core: Watched, usdt: str, seconds: int = 1, price: str = "60000") -> list[Story]:
    """A wallet, and so many seconds of marks and rates; what is told of debts."""
    told = []
    for _ in range(seconds):
        rates = {"USDT": AssetRate(D(1), D(1)), "BTC": AssetRate(D(57000), D(63000))}
        events: list[Event] = [
            balances(core, usdt),
            AssetRates(MARKET, rates, core.now.wall_ms),
            core.mark(price),
            Tick(),
        ]
        told += core.tell(*events)
    return of_rule(told, "auto_exchange")


def test_a_debt_is_told_before_the_exchange_converts_other_assets() -> None:
    """At 100 USDT it sells BTC, at its own price."""
    core = multi_assets("0")
    told = [(usdt, kinds(owing(core, usdt))) for usdt in ("500", "-49", "-50", "-79", "-80", "-99")]

    assert [(usdt, found) for usdt, found in told if found] == [
        ("-50", [("opened", "notice")]),
        ("-80", [("worsened", "warning")]),
    ]
    all_valid(core)


def test_what_a_position_has_lost_is_owed_too() -> None:
    """Wallet 20, PnL 0.01 × −9000: the equity is −70."""
    core = multi_assets("20")
    [opened] = owing(core, "20", price="51000")
    said = body(core, opened)

    assert (said["severity"], said["subject"]) == ("notice", "usdt")
    assert said["facts"] == {"asset": "USDT", "debt": "70.00000000", "threshold": "100.00000000"}
    assert said["text"] == "main: debt in USDT 70.00; past 100.00 the exchange converts other assets."
    all_valid(core)


def test_a_profit_does_not_pay_a_debt_of_the_wallet() -> None:
    """Wallet −90, PnL +90."""
    core = multi_assets("0")

    assert kinds(owing(core, "-90", price="69000")) == [("opened", "warning")]


@pytest.mark.parametrize("paid", [True, False], ids=["paid", "stale"])
def test_a_debt_is_over_once_it_is_small_for_a_minute(paid: bool) -> None:
    """Not while nobody knows what it is."""
    core = multi_assets("0")
    owing(core, "-60")
    told = owing(core, "-10", 62) if paid else silence(core, "auto_exchange", 99)

    assert kinds(told) == ([("resolved", "notice")] if paid else [])
    all_valid(core)


def test_a_debt_that_is_paid_to_the_last_digit_is_over_and_not_moved_elsewhere() -> None:
    """The exchange converts to exactly nothing; without a position of its own the asset leaves the pool."""
    core = multi_assets("0")
    owing(core, "-60")
    position = row("BTCUSDC", "0.01", "60000", asset="USDC")
    core.step(
        ContractsRead(MARKET, {"BTCUSDC": structs.replace(contract("BTCUSDC"), margin_asset="USDC")}, TERMS),
        BracketsRead("main", {"BTCUSDC": BTC}),
        AssetRates(MARKET, {"USDC": AssetRate(D(1), D(1))}, core.now.wall_ms),
        PositionsRead("main", ((structs.replace(position, at_ms=core.now.wall_ms), None),), core.now.wall_ms + 9000),
    )
    held = owing(core, "-60")
    [ended] = owing(core, "0")

    assert (held, ended.change.resolution) == ([], "recovered")
    all_valid(core)


def test_an_account_that_is_no_longer_in_multi_assets_mode_owes_nothing() -> None:
    """The debt stands in that asset's own pool from now on."""
    core = multi_assets("0")
    owing(core, "-60")
    core.step(AccountModeRead("main", hedge=False, multi_assets=False, sent_ms=core.now.wall_ms))
    [ended] = owing(core, "-60")

    assert (ended.change.resolution, ended.change.incident.subject) == ("pool_replaced", "usdt")
    all_valid(core)


def test_a_debt_is_not_told_again_after_a_restart() -> None:
    """Until the first rates have come nothing is known, and that is no end of it."""
    core = multi_assets("0")
    owing(core, "-60")
    later = multi_assets("-60", Watched(kept=core.kept(), start=100))
    blind = silence(later, "auto_exchange", 3)
    told = owing(later, "-60", 100)

    assert (blind, told, retained(later, "auto_exchange")) == ([], [], ["usdt"])
    assert kinds(owing(later, "-10", 62)) == [("resolved", "notice")]
    all_valid(later)


def test_where_every_debt_is_converted_only_a_debt_is_told() -> None:
    """An asset with a threshold of zero is past it with the first cent, and not before."""
    core = multi_assets("5000")
    core.step(ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}, {"USDT": AssetTerms(True, D(0))}), after=0)

    assert owing(core, "5000", 3) == []
    assert kinds(owing(core, "-0.01", 3)) == [("opened", "warning")]


# ---- bracket_changed ----

DEARER = (Bracket(1, D(0), D("0.005"), D(0)), Bracket(2, D(300_000), D("0.01"), D(1500)))
CHEAPER = (Bracket(1, D(0), D("0.002"), D(0)), Bracket(2, D(300_000), D("0.005"), D(900)))
FALLING = (Bracket(1, D(0), D("0.004"), D(0)), Bracket(2, D(0), D("0.005"), D(0)))
JUMPING = (Bracket(1, D(0), D("0.004"), D(0)), Bracket(2, D(300_000), D("0.005"), D(0)))


def bracketed(core: Watched, rows: tuple[Bracket, ...], seconds: int = 3, coef: str | None = None) -> list[Story]:
    """Brackets are read, and so many seconds pass."""
    coefs = {} if coef is None else {"BTCUSDT": D(coef)}
    told = core.tell(BracketsRead("main", {"BTCUSDT": rows}, coefs), core.mark("60000"), Tick())
    return of_rule([*told, *core.hold(seconds, "60000")], "bracket_changed")


@pytest.mark.parametrize(
    ("rows", "severity", "margin", "ratio"),
    [
        pytest.param(DEARER, "warning", "300.00000000", 0.03, id="dearer: 60000 × 0.005"),
        pytest.param(CHEAPER, "info", "120.00000000", 0.012, id="cheaper: 60000 × 0.002"),
    ],
)
def test_changed_brackets_are_told_with_what_they_do(
    rows: tuple[Bracket, ...], severity: str, margin: str, ratio: float
) -> None:
    """Nobody moved, and the margin is another: before and after at the same marks."""
    core = holding()
    [told] = bracketed(core, rows)
    said = body(core, told)

    assert (said["event"], said["severity"], said["subject"]) == ("noted", severity, "btcusdt")
    facts = said["facts"]
    assert (facts["maintenance_margin_before"], facts["maintenance_margin_after"]) == ("240.00000000", margin)
    assert (said["before"]["margin_ratio"], said["after"]["margin_ratio"]) == (0.024, ratio)
    assert f"Maintenance margin 240.00 → {margin[:6]} USDT." in said["text"]
    assert bracketed(core, rows) == []
    all_valid(core)


def test_of_a_pool_only_the_symbol_is_named_whose_brackets_were_changed() -> None:
    """The margin of all is another, and whoever looks at the wrong position does the wrong thing."""
    core = Watched()
    core.begin("10000", row("BTCUSDT", "1", "60000"), row("ETHUSDT", "1", "3000"))
    core.step(core.mark("60000"), core.mark("3000", "ETHUSDT"), Tick())

    assert [story.symbol for story in bracketed(core, DEARER)] == ["BTCUSDT"]


def test_brackets_of_what_is_not_held_are_no_news() -> None:
    """The exchange changes some of hundreds every week."""
    core = holding()
    core.step(BracketsRead("main", {"BTCUSDT": BTC, "ETHUSDT": FLAT}))
    told = core.tell(BracketsRead("main", {"BTCUSDT": BTC, "ETHUSDT": DEARER}), core.mark("60000"), Tick())

    assert of_rule(told, "bracket_changed") == []


@pytest.mark.parametrize(
    ("rows", "words", "ratio"),
    [
        pytest.param(FALLING, "cannot be used", None, id="unusable"),
        pytest.param(JUMPING, "do not join up", 0.024, id="a jump at an edge"),
    ],
)
def test_brackets_that_make_no_sense_are_an_open_incident(
    rows: tuple[Bracket, ...], words: str, ratio: float | None
) -> None:
    """Told once, open until they are well; without brackets there is no ratio."""
    core = holding()
    opened, meanwhile = bracketed(core, rows), bracketed(core, rows, 100)
    pool = [e for e in core.effects if isinstance(e, PoolState)][-1]
    ended = bracketed(core, BTC)

    [first] = [s for s in opened if s.change.kind != "noted"]
    assert (first.change.kind, first.change.severity.word, first.symbol) == ("opened", "warning", "BTCUSDT")
    assert words in first.text
    assert body(core, first)["facts"]["reason"] in first.text
    assert body(core, pool)["margin_ratio"] == ratio
    assert meanwhile == []
    [last] = [s for s in ended if s.change.kind != "noted"]
    assert (last.change.kind, last.change.resolution) == ("resolved", "recovered")
    assert retained(core, "bracket_changed") == ["btcusdt"]
    all_valid(core)


def test_brackets_that_make_no_sense_are_not_told_again_after_a_restart() -> None:
    """The new run reads them with, or after, the positions; before that nothing is known to be well."""
    core = holding()
    bracketed(core, FALLING)
    later = Watched(kept=core.kept(), start=100)
    later.connect()
    blind = later.tell(ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}), *later.truth("10000", LONG), Tick())
    told = bracketed(later, FALLING, 100)

    assert (of_rule(blind, "bracket_changed"), told) == ([], [])
    assert retained(later, "bracket_changed") == ["btcusdt"]
    assert kinds(bracketed(later, BTC)) == [("resolved", "warning")]
    all_valid(later)


def test_brackets_that_make_no_sense_end_with_the_position() -> None:
    """They concern nobody any more."""
    core = holding()
    bracketed(core, FALLING)
    [ended] = of_rule(core.tell(*closed(core), Tick()), "bracket_changed")

    assert ended.change.resolution == "position_closed"
    all_valid(core)


def test_a_rule_that_is_switched_off_ends_what_stands_open() -> None:
    """By SIGHUP, and for this symbol alone."""
    core = holding()
    bracketed(core, FALLING)
    core.core.take_rules(without("bracket_changed", "BTC*"))
    [ended] = of_rule(core.tell(Tick()), "bracket_changed")

    assert ended.change.resolution == "rule_changed"
    assert bracketed(core, DEARER) == []
    all_valid(core)


# ---- notionalCoef ----

BIG = row("BTCUSDT", "5", "80000")
"""400000 at 80000: past the edge at 300000 as given, before it where all edges lie 1.5 times as high."""


def scaled(maintenance: str | None) -> Watched:
    """An account with a multiplier of 1.5, and what the exchange calls the maintenance margin."""
    core = Watched()
    core.connect()
    core.step(
        ContractsRead(MARKET, {"BTCUSDT": contract("BTCUSDT")}),
        BracketsRead("main", {"BTCUSDT": BTC}, {"BTCUSDT": D("1.5")}),
        core.truth("50000", BIG)[0],
        printed(core, maintenance),
        core.mark("80000"),
        Tick(),
    )
    return core


def printed(core: Watched, maintenance: str | None) -> PositionsRead:
    """A snapshot in which the exchange prints this maintenance margin."""
    margin = None if maintenance is None else D(maintenance)
    held: Position = structs.replace(BIG, at_ms=core.now.wall_ms)
    return PositionsRead("main", ((held, ExchangeFigures(D(80000), D(0), margin, None)),), core.now.wall_ms)


@pytest.mark.parametrize(
    ("printed_margin", "ours"),
    [
        pytest.param("1700", "1700.00000000", id="as given: 400000 × 0.005 − 300"),
        pytest.param("1600", "1600.00000000", id="times 1.5: 400000 × 0.004"),
        pytest.param(None, "1700.00000000", id="the exchange does not say"),
    ],
)
def test_of_a_multiplier_the_reading_counts_that_gives_the_figures_of_the_exchange(
    printed_margin: str | None, ours: str
) -> None:
    """Whether the brackets have it in them already is not documented; the exchange's own figures tell."""
    core = scaled(printed_margin)
    pool = [e for e in core.effects if isinstance(e, PoolState)][-1]

    assert body(core, pool)["maintenance_margin"] == ours
    told = [s for s in core.effects if isinstance(s, Story) and s.change.incident.rule == "bracket_changed"]
    assert told == []


def test_a_multiplier_that_no_reading_explains_is_told_once() -> None:
    """Every snapshot finds it again; the phone rings once, and once more when it is well."""
    core = scaled("1650")
    [opened] = of_rule([s for s in core.effects if isinstance(s, Story)], "bracket_changed")
    snapshots = [s for _ in range(20) for s in core.tell(printed(core, "1650"), core.mark("80000"), Tick(), after=30)]
    ended = of_rule(core.tell(printed(core, "1700"), core.mark("80000"), Tick()), "bracket_changed")

    assert (opened.change.kind, opened.change.severity.word) == ("opened", "warning")
    assert "notionalCoef 1.5" in opened.text
    assert discreet(opened)[1].endswith(": a fault. The log says which.")
    assert of_rule(snapshots, "bracket_changed") == []
    assert kinds(ended) == [("resolved", "warning")]
    all_valid(core)


# ---- what nothing came of ----


@pytest.mark.parametrize("seed", range(20))
def test_what_nothing_came_of_is_judged_again_as_soon_as_something_may(seed: int) -> None:
    """Whatever is read, and whenever: a core that forgets with each second what it has judged tells the same."""
    chance = random.Random(seed)
    books = [RuleBook(), without("contract_status", "BTC*"), _held(), _held(), _for_much(), _for_much()]
    rules: RuleBook | None = books[0]
    cores = [Watched(rules=rules), Watched(rules=rules)]
    for core in cores:
        core.begin("10000", LONG, row("ETHUSDT", "1", "3000"))
    remembered = 0
    for _ in range(250):
        what, after = _something(chance, cores[0]), chance.choice((0.2, 1.0, 1.0, 4.0, 7.0, 40.0, 59.0, 59.0, 1800.0))
        ether = chance.choice(("2000", "3000"))
        rules = chance.choice(books) if chance.random() < 0.02 else None
        marks = [cores[0].mark(price, symbol, after) for symbol, price in (("BTCUSDT", "60000"), ("ETHUSDT", ether))]
        said = []
        cores[1].core._judges.listings._uneventful.clear()
        for core in cores:
            if rules is not None:
                core.core.take_rules(rules)
            said.append(list(map(repr, core.step(*marks, *what, Tick(), after=after))))
        assert said[0] == said[1]
        remembered += len(cores[0].core._judges.listings._uneventful)
    assert remembered


def _held() -> RuleBook:
    """All rules, of which these take their time."""
    rules = {name: structs.replace(DEFAULTS[name], for_s=5) for name in ("adl_quantile", "contract_status")}
    return RuleBook({**DEFAULTS, **rules})


def _for_much() -> RuleBook:
    """All rules, of which one is told for small positions alone."""
    off = structs.replace(DEFAULTS["adl_quantile"], enabled=False)
    return RuleBook(DEFAULTS, {"adl_quantile": (Match(off, min_notional=D(2999)),)})


def _something(chance: random.Random, core: Watched) -> list[Event]:
    """What the exchange may say of what is held; most often nothing."""
    now_ms, symbol = core.now.wall_ms, chance.choice(("BTCUSDT", "ETHUSDT"))
    left_ms = 1000 * chance.choice((3600 + 90, 86400, *[86400 + 60 + chance.randint(1, 10)] * 4, 10**7))
    delivery_ms = chance.choice((None, now_ms + left_ms))
    word, brackets = chance.choice(("TRADING", "TRADING", "SETTLING", "")), chance.choice((FLAT, BTC, (BTC[1],)))
    figures = ExchangeFigures(D(60000), D(0), None, None, chance.choice((None, 1, 1, 4)))
    amount = chance.choice(("0", "1", "1", "1", "2"))
    at_ms = now_ms + 1000
    listed = structs.replace(contract(symbol), status=word, delivery_ms=delivery_ms)
    events: list[Event] = [
        ContractChanged(MARKET, symbol, word, delivery_ms, None, now_ms),
        ContractsRead(MARKET, {symbol: listed}),
        AdlQuantilesRead("main", {PositionKey(symbol, Side.LONG): chance.choice((0, 1, 3, 4))}),
        AdlRiskRead(MARKET, {symbol: chance.choice(("low", "high"))}),
        ClockOffset(MARKET, chance.choice((-100_000, 0, 90_000))),
        BracketsRead("main", {symbol: brackets}),
        PositionsRead("main", ((LONG, figures), (row("ETHUSDT", "1", "3000"), None)), now_ms),
        core.changed("ORDER", "10000", row(symbol, amount, "3000", at_ms=at_ms), at_ms=at_ms),
        core.changed("ORDER", "10000", row("BTCUSDT", "0", "3000", at_ms=at_ms), at_ms=at_ms),
        Silence(now_ms + chance.choice((0, 30_000)), "main", chance.choice(("adl_quantile", "contract_status"))),
        core.link("private", chance.choice((LinkState.LIVE, LinkState.LIVE, LinkState.DOWN))),
    ]
    return [chance.choice(events)] if chance.random() < 0.3 else []


def test_a_rule_that_goes_by_the_notional_is_asked_at_every_mark() -> None:
    """A position that the rule is off for is one that it is on for once its price has fallen; by a little is not
    enough, or a price at the edge would have it told again and again."""
    core = Watched(rules=_for_much())
    core.begin("10000", row("ETHUSDT", "1", "3000"))
    core.price("3000", "ETHUSDT")
    assert not core.tell(AdlQuantilesRead("main", {PositionKey("ETHUSDT", Side.LONG): 4}), Tick())

    assert not of_rule(core.price("2900", "ETHUSDT"), "adl_quantile")
    assert kinds(of_rule(core.price("2840", "ETHUSDT"), "adl_quantile")) == [("opened", "notice")]


def test_what_a_store_that_is_found_late_has_kept_ends_where_nothing_comes_of_it_now() -> None:
    """What is listed has not changed meanwhile, but something of it is open."""
    before = holding()
    assert kinds(of_rule(before.tell(status(before, "SETTLING"), Tick()), "contract_status"))
    core = again(Watched(), start=before.t + 10)
    core.hold(2, "60000")

    core.core.take_over(before.kept(), core.now)

    assert kinds(of_rule(core.hold(70, "60000"), "contract_status")) == [("resolved", "warning")]
