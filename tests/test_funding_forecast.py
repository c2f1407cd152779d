"""What the next funding would do is told before it is charged, and held against what was charged.

1 BTC long at 60000 on 1000 USDT, at a mark of 60000: maintenance margin 240, liquidated at 59000 ÷ 0.996 = 59236.95.
"""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from typing import Any

import pytest
from msgspec import structs

from monitor.effects import PoolState, PositionState, Story
from monitor.events import FundingTermsRead, MarkPrice, Tick
from monitor.risk import EXACT
from monitor.risk.assessment import assess
from monitor.risk.funding import Funding, forecast
from monitor.risk.terms import Terms
from monitor.rules import DEFAULTS, RuleBook
from tests.make import pool, position, table
from tests.watched import MARKET, WALL_MS, Watched, all_valid, kinds, of_rule, row

D = Decimal
RULE = "funding_forecast"
HOURS_MS = 3_600_000
LONG = row("BTCUSDT", "1", "60000")


def holding() -> Watched:
    core = Watched()
    core.begin("1000", LONG)
    return core


def mark(core: Watched, rate: str | None, next_ms: int | None, after: float = 1.0) -> MarkPrice:
    """A mark that tells of the next funding."""
    told_rate = None if rate is None else D(rate)
    return structs.replace(core.mark("60000", after=after), funding_rate=told_rate, next_funding_ms=next_ms)


def hold(core: Watched, seconds: int, rate: str | None, next_ms: int | None) -> list[Story]:
    """So many seconds with a mark and a tick in each; what is told of the forecast."""
    told = [story for _ in range(seconds) for story in core.tell(mark(core, rate, next_ms), Tick())]
    return of_rule(told, RULE)


def silence(core: Watched, seconds: int) -> list[Story]:
    """So many seconds in which only time passes."""
    return of_rule([story for _ in range(seconds) for story in core.tell(Tick())], RULE)


def body(core: Watched, story: Story) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(core.messages.of(story)[0].payload)
    return found


def test_only_what_is_charged_at_the_next_instant_counts() -> None:
    """Symbols have intervals of their own: what another is charged hours later hides nothing, and adds nothing."""
    held = position("BTCUSDT", "1", "60000"), position("ETHUSDT", "1", "3000")
    marks, flat = {"BTCUSDT": D(60000), "ETHUSDT": D(3000)}, table(("0", "0.004", "0"))
    with localcontext(EXACT):
        risk = assess(pool("1000", *held), Terms(marks, dict.fromkeys(marks, flat)))
        coming = forecast(risk, {"BTCUSDT": Funding(D("0.01"), 1), "ETHUSDT": Funding(D("0.01"), HOURS_MS)})

    assert coming is not None
    assert (coming.next_ms, coming.amount, coming.payments) == (1, D(-600), {held[0].key: D(-600)})


# ---- when it is told ----


@pytest.mark.parametrize(
    ("rate", "severity", "ratio"),
    [
        pytest.param("0.01", "notice", 0.6, id="240 on 400"),
        pytest.param("0.012", "warning", 0.85714286, id="240 on 280"),
        pytest.param("0.0125", "critical", 0.96, id="240 on 250"),
        pytest.param("0.0135", "liquidation", 1.26315790, id="240 on 190"),
    ],
)
def test_a_funding_that_lifts_the_ratio_to_a_step_is_told_with_the_severity_of_that_step(
    rate: str, severity: str, ratio: float
) -> None:
    """A person who is told half an hour before can still add margin, or close."""
    core = holding()
    next_ms = WALL_MS + 600_000
    early = hold(core, 60, rate, next_ms)
    [opened] = hold(core, 1, rate, next_ms)
    said = body(core, opened)

    assert early == []
    assert (said["event"], said["severity"], said["subject"]) == ("opened", severity, "cross-usdt")
    assert said["facts"]["payment"] == f"-{D(rate) * 60000:.8f}"
    assert said["facts"]["next_funding_at"] == "2026-11-21T08:10:00.000Z"
    assert (said["before"]["margin_ratio"], said["after"]["margin_ratio"]) == (0.24, ratio)
    assert hold(core, 30, rate, next_ms) == []
    all_valid(core)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param("0.005", [("opened", "notice")], id="to 59300 ÷ 0.996: 301.2 of 60000 is 0.502 %"),
        pytest.param("0.0049", [], id="295.2 of 60000 is 0.492 %"),
        pytest.param("-0.02", [], id="received"),
    ],
)
def test_a_funding_that_moves_the_price_by_half_a_percent_of_the_mark_is_a_notice(
    rate: str, expected: list[tuple[str, str]]
) -> None:
    """No step of the ratio is reached: 240 on 700 is 34 %."""
    core = holding()

    assert kinds(hold(core, 65, rate, WALL_MS + 600_000)) == expected
    all_valid(core)


@pytest.mark.parametrize(
    ("wallet", "beyond", "expected"),
    [
        pytest.param("2300", "1", [], id="258964 to 255976: 4.98 % of the mark, and 3.266 times it away"),
        pytest.param("2300", "3.26", [], id="still beyond"),
        pytest.param("2300", "3.27", [("opened", "notice")], id="near enough"),
        pytest.param("800", "1", [("opened", "notice")], id="109562 to 106574: less than the mark away"),
    ],
)
def test_a_price_that_stays_far_from_the_mark_may_move_as_it_likes(
    wallet: str, beyond: str, expected: list[tuple[str, str]]
) -> None:
    """A tiny short in a large pool: of 0.01 BTC, 30 USDT that 10 ETH pay are 3000 of the price, at each funding."""
    rule = structs.replace(DEFAULTS[RULE], ignore_beyond=D(beyond))
    core = Watched(rules=RuleBook({**DEFAULTS, RULE: rule}))
    core.begin(wallet, row("BTCUSDT", "-0.01", "60000"), row("ETHUSDT", "10", "3000"))
    told = []
    for _ in range(65):
        ether = structs.replace(core.mark("3000", "ETHUSDT", after=1), funding_rate=D("0.001"))
        ether = structs.replace(ether, next_funding_ms=WALL_MS + 600_000)
        told += core.tell(core.mark("60000"), ether, Tick())

    assert kinds(of_rule(told, RULE)) == expected
    all_valid(core)


def test_a_funding_that_is_far_off_is_not_told() -> None:
    """The estimate changes until the end; eight hours before it says little."""
    core = holding()
    next_ms = WALL_MS + 2_000_000
    far = hold(core, 199, "0.012", next_ms)
    near = hold(core, 62, "0.012", next_ms)

    assert (far, kinds(near)) == ([], [("opened", "warning")])


def test_a_rate_that_does_not_last_is_not_told() -> None:
    """A minute is little of half an hour, and a spike of the premium is gone by then."""
    core = holding()
    told = [s for _ in range(5) for rate in ("0.012", "0.001") for s in hold(core, 30, rate, WALL_MS + 900_000)]

    assert told == []


def test_a_contract_that_is_delivered_has_no_funding() -> None:
    """Its stream says neither a rate nor a time."""
    core = holding()

    assert hold(core, 100, None, None) == []
    assert [e.funding for e in core.effects if isinstance(e, PoolState)][-1] is None


@pytest.mark.parametrize("hours", [(8, 4, 1), (1, 4, 8)])
def test_the_next_instant_is_always_the_one_that_the_stream_says(hours: tuple[int, ...]) -> None:
    """Intervals change without notice; who counts 8 hours on from the last funding is wrong by hours."""
    core = holding()
    for interval in hours:
        next_ms = WALL_MS + interval * HOURS_MS
        core.step(FundingTermsRead(MARKET, {} if interval == 8 else {"BTCUSDT": interval}))
        hold(core, 2, "0.0001", next_ms)
        pool = [e for e in core.effects if isinstance(e, PoolState)][-1]
        position = [e for e in core.effects if isinstance(e, PositionState)][-1]

        assert pool.funding is not None
        assert (pool.funding.next_ms, position.next_funding_ms) == (next_ms, next_ms)
        assert position.funding_interval_hours == interval
    all_valid(core)


# ---- how it goes on, and ends ----


def test_it_worsens_and_improves_with_the_rate() -> None:
    """One story, whichever way the estimate goes: a rule that nobody changed was not changed."""
    core = holding()
    next_ms = WALL_MS + 1_000_000
    told = [s for rate in ("0.01", "0.0135", "0.012", "0.01") for s in hold(core, 65, rate, next_ms)]

    assert kinds(told) == [
        ("opened", "notice"),
        ("worsened", "liquidation"),
        ("improved", "warning"),
        ("improved", "notice"),
    ]
    all_valid(core)


@pytest.mark.parametrize("rate", ["0.012", "0.0001"], ids=["charged", "the rate fell"])
def test_it_is_over_once_it_is_paid_or_less_is_expected(rate: str) -> None:
    """The next instant is hours away then."""
    core = holding()
    next_ms = WALL_MS + 100_000
    opened = hold(core, 99, "0.012", next_ms)
    later_ms = next_ms + (8 * HOURS_MS if rate == "0.012" else 0)
    ended = hold(core, 64, rate, later_ms)

    assert (kinds(opened), kinds(ended)) == ([("opened", "warning")], [("resolved", "warning")])
    assert ended[0].change.resolution == "recovered"
    assert "was charged, or less is expected" in ended[0].text
    all_valid(core)


def test_a_part_of_the_danger_may_pass_before_the_rest() -> None:
    """The payment is over while it was about to be called better: the words must say something all the same."""
    core = holding()
    next_ms = WALL_MS + 100_000
    hold(core, 61, "0.012", next_ms)
    hold(core, 35, "0.01", next_ms)
    told = hold(core, 100, "0.0001", next_ms + 8 * HOURS_MS)

    assert kinds(told) == [("improved", "notice"), ("resolved", "warning")]
    assert "passing" in told[0].text
    all_valid(core)


def test_a_closed_position_ends_it() -> None:
    """Nothing is charged for what is not held any more; it must not stand for ever."""
    core = holding()
    hold(core, 61, "0.012", WALL_MS + 600_000)
    at = core.now.wall_ms
    core.step(core.changed("ORDER", "1000", row("BTCUSDT", "0", "60000", at_ms=at), at_ms=at))
    [ended] = silence(core, 5)

    assert (ended.change.kind, ended.change.resolution) == ("resolved", "position_closed")
    assert "position closed" in ended.text
    assert core.core.incidents.open == {}
    all_valid(core)


# ---- stale data ----


def test_a_mark_that_is_silent_since_before_the_funding_does_not_forecast_it_again() -> None:
    """What it calls the next funding is over: it has been charged already, and must not open anything."""
    core = holding()
    hold(core, 10, "0.012", WALL_MS + 30_000)

    assert silence(core, 300) == []


def test_a_funding_that_is_over_hides_none_that_is_to_come() -> None:
    """The marks of a contract that is halted go on naming its last one; what BTC is about to pay is danger all the
    same, told and published."""
    core = Watched()
    core.begin("1000", LONG, row("ETHUSDT", "0.001", "3000"))
    next_ms = WALL_MS + 600_000
    stories = []
    for _ in range(70):
        halted = structs.replace(core.mark("3000", "ETHUSDT"), funding_rate=D("0.0001"), next_funding_ms=WALL_MS - 1)
        stories += core.tell(mark(core, "0.012", next_ms), halted, Tick())
    last = [e for e in core.effects if isinstance(e, PoolState)][-1]

    [told] = of_rule(stories, "funding_forecast")
    assert told.facts["next_funding_at"] == next_ms
    assert last.funding is not None
    assert last.funding.next_ms == next_ms


def test_silence_is_not_the_end_of_it() -> None:
    """Blind, nobody knows whether it has been charged; with the first marks it is clear."""
    core = holding()
    next_ms = WALL_MS + 100_000
    hold(core, 61, "0.012", next_ms)
    blind = silence(core, 600)
    seen = hold(core, 64, "0.012", next_ms + 8 * HOURS_MS)

    assert (blind, kinds(seen)) == ([], [("resolved", "warning")])


# ---- what was charged ----


def charged(core: Watched, wallet: str, next_ms: int, *, after_s: float = 1) -> dict[str, Any]:
    """The funding is charged so long after its instant; its only cause."""
    core.t = (next_ms - WALL_MS) / 1000 + after_s
    core.step(core.changed("FUNDING_FEE", wallet, symbol="BTCUSDT"), after=0)
    told = [s for _ in range(25) for s in core.tell(mark(core, "0.0001", next_ms + 8 * HOURS_MS), Tick())]
    [moved] = of_rule(told, "liquidation_price_moved")
    all_valid(core)
    [cause] = body(core, moved)["cause"]
    assert isinstance(cause, dict)
    return cause


def test_a_payment_is_told_with_what_had_been_forecast_of_it() -> None:
    """−0.001 × 60000 at the last estimate; the rate and the mark at the instant itself were a little less."""
    core = holding()
    next_ms = WALL_MS + 100_000
    hold(core, 90, "0.001", next_ms)
    cause = charged(core, "940.5", next_ms)

    assert (cause["forecast"], cause["amount"]) == ("-60.00000000", "-59.50000000")


@pytest.mark.parametrize("after_s", [-1, 200], ids=["before its instant", "long after it"])
def test_a_payment_of_another_instant_has_no_forecast(after_s: float) -> None:
    """A special funding between two instants was not expected by anybody."""
    core = holding()
    next_ms = WALL_MS + 100_000
    hold(core, 90, "0.001", next_ms)

    assert charged(core, "940.5", next_ms, after_s=after_s)["forecast"] is None


# ---- after a restart ----


def test_after_a_restart_it_is_not_told_again() -> None:
    """The phone has rung for it; the retained state stands again without a word."""
    core = holding()
    next_ms = WALL_MS + 900_000
    hold(core, 61, "0.012", next_ms)

    later = Watched(kept=core.kept(), start=100)
    later.begin("1000", LONG)
    told = hold(later, 100, "0.012", next_ms)
    retained = [m.topic for m in later.sent() if "/incident/" in m.topic and m.payload]

    assert told == []
    assert f"marginwatch/main/incident/{RULE}/cross-usdt" in retained
    ended = hold(later, 64, "0.0001", next_ms)
    assert kinds(ended) == [("resolved", "warning")]
    assert ended[0].change.incident.opened_ms < later.now.wall_ms - 100_000
    all_valid(later)
