"""The screen changes no effect: a core that computes every pool on every mark says the same, byte for byte."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from monitor.core import Core, Setup
from monitor.effects import AccountSetup, Effect, PoolState, Story
from monitor.encoder import Encoder
from monitor.events import (
    Acknowledge,
    Bracket,
    BracketsRead,
    Event,
    Fill,
    ForcedKind,
    LinkId,
    LinkReport,
    LinkState,
    MarkPrice,
    Now,
    Position,
    Side,
    Silence,
    StoreState,
    Tick,
)
from monitor.risk import EXACT
from monitor.risk.columns import Columns
from monitor.risk.screen import Zones
from monitor.rules import DEFAULTS, MarginRatioRule, Match, Rule, RuleBook, Severity, Step
from tests.watched import IDENTITY, MARKET, WALL_MS, Crowd, Watched, kinds, now_at, of_rule, row

D = Decimal
SYMBOLS = {"BTCUSDT": D(50_000), "ETHUSDT": D(3_000), "SOLUSDT": D(150), "XRPUSDT": D("0.5")}
TIERS = (("0", "0.004", "0"), ("50000", "0.005", "50"), ("300000", "0.01", "1550"), ("800000", "0.025", "13550"))
TABLE = tuple(Bracket(i + 1, D(floor), D(rate), D(amount)) for i, (floor, rate, amount) in enumerate(TIERS))
SHARP = structs.replace(DEFAULTS["margin_ratio"], clear_for_s=3.0, repeat_s={"warning": 9.0, "critical": 4.0})
RULES: tuple[dict[str, Rule], ...] = (
    {},
    {"margin_ratio": SHARP},
    {"margin_ratio": structs.replace(SHARP, for_s=3.0, reenter_s=2.0)},
    {"liquidation_distance": structs.replace(DEFAULTS["liquidation_distance"], clear_for_s=0.0, reenter_s=4.0)},
    {"liquidation_price_moved": structs.replace(DEFAULTS["liquidation_price_moved"], marks_every_s=5.0)},
    {"margin_ratio": structs.replace(SHARP, enabled=False)},
)


class Pair:
    """Cores that screen in either way and one that does not, given the same."""

    def __init__(self, setup: Setup, start: float = 0.0) -> None:
        self.t = start
        self.cores = [Core(setup, self.now, screened=screened) for screened in (True, True, False)]
        self.cores[1]._attention._screen = Columns()
        for core in self.cores:
            core._slice = 10**9  # where a step ends is not what is compared
        self.messages = Encoder(IDENTITY, setup.rules)
        self.stories: list[Story] = []

    @property
    def now(self) -> Now:
        return now_at(self.t)

    @property
    def exact(self) -> Core:
        return self.cores[-1]

    def step(self, *events: Event, after: float = 0.0) -> list[Effect]:
        """Both take these events; what they say must be the same to the last digit of every figure."""
        self.t += after
        one_by_one, in_columns, exact = (core.step(events, self.now) for core in self.cores)
        assert list(map(repr, one_by_one)) == list(map(repr, exact))
        assert list(map(repr, in_columns)) == list(map(repr, exact))
        for effect in exact:
            self.messages.of(effect)
        self.stories += [effect for effect in exact if isinstance(effect, Story)]
        return exact

    def take_rules(self, rules: RuleBook) -> None:
        for core in self.cores:
            core.take_rules(rules)


class Trading:
    """Some accounts, and whatever may happen to them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.names = [f"account-{i}" for i in range(self.chance.choice((1, 1, 2, 3)))]
        rules = RuleBook({**DEFAULTS, **self.chance.choice(RULES)}, self._matches())
        setups = tuple(AccountSetup(name, "binance-usdm", MARKET) for name in self.names)
        self.pair = Pair(Setup(setups, rules, unacked_s=self.chance.choice((None, 6.0))))
        self.marks = dict(SYMBOLS)
        self.books = {name: self._positions() for name in self.names}
        self.wallets = {name: self._wallet(self.books[name]) for name in self.names}

    def _matches(self) -> dict[str, tuple[Match, ...]]:
        if self.chance.random() < 0.8:
            return {}
        other: Rule = MarginRatioRule(steps=MarginRatioRule().steps[1:3])
        least = self.chance.choice((None, D(100_000)))
        return {"margin_ratio": (Match(other, symbol=self.chance.choice(("BTC*", "*")), min_notional=least),)}

    def _positions(self) -> list[Position]:
        held = []
        for symbol in self.chance.sample(sorted(SYMBOLS), self.chance.randint(1, len(SYMBOLS))):
            notional = D(str(round(10 ** self.chance.uniform(2, 6), 2)))
            quantity = (notional / SYMBOLS[symbol]).quantize(D("0.001")) * self.chance.choice((1, 1, -1))
            entry = (SYMBOLS[symbol] * D(str(round(self.chance.uniform(0.9, 1.1), 4)))).quantize(D("0.00000001"))
            isolated = "0" if self.chance.random() < 0.8 else str(round(float(notional) * 0.05, 2))
            if quantity and self.chance.random() < 0.1:
                held.append(row(symbol, str(abs(quantity)), str(entry), side=Side.LONG))
                held.append(row(symbol, str(-abs(quantity) / 2), str(entry), side=Side.SHORT))
            elif quantity:
                held.append(row(symbol, str(quantity), str(entry), isolated=isolated != "0", isolated_wallet=isolated))
        return held

    def _wallet(self, positions: list[Position]) -> Decimal:
        """So much that the margin ratio is anywhere, most often near a level."""
        pnl = sum((p.quantity * (SYMBOLS[p.symbol] - p.entry_price) for p in positions), D(0))
        margin = sum((_margin(abs(p.quantity) * SYMBOLS[p.symbol]) for p in positions), D(0))
        ratio = self.chance.choice((0.1, 0.3, 0.44, 0.49, 0.51, 0.69, 0.79, 0.81, 0.89, 0.99, 1.1))
        return (margin / D(str(ratio)) - pnl).quantize(D("0.00000001"))

    def begin(self) -> None:
        links = [LinkId("_instance", MARKET)]
        links += [LinkId(name, link) for name in self.names for link in ("private", "rest")]
        events: list[Event] = [LinkReport(link, LinkState.LIVE) for link in links]
        for name, positions in self.books.items():
            events.append(BracketsRead(name, dict.fromkeys(SYMBOLS, TABLE)))
            watched = Watched(name)
            events += watched.truth(str(self.wallets[name]), *positions)
        self.pair.step(*events, *(self._mark(symbol) for symbol in SYMBOLS))
        self.pair.step(Tick())

    def _mark(self, symbol: str, ago_s: float = 0.0) -> MarkPrice:
        at_ms = self.pair.now.wall_ms - round(ago_s * 1000)
        rate = None if self.chance.random() < 0.5 else D("0.0001")
        next_ms = None if rate is None else WALL_MS + 1_830_000
        return MarkPrice(MARKET, symbol, self.marks[symbol], at_ms, rate, next_ms)

    def go_on(self) -> None:
        """One more thing happens."""
        happened = self.chance.choices(
            (self.moved, self.near_a_level, self.ticked, self.account_event, self.link_event, self.told_off),
            (60, 14, 22, 3, 1, 1),
        )[0]
        happened()

    def ticked(self) -> None:
        self.pair.step(Tick(), after=self.chance.choice((0.1, 1.0, 1.0, 6.0)))

    def moved(self) -> None:
        """Some marks move: a little, back to what they were, or far."""
        some = self.chance.sample(sorted(SYMBOLS), self.chance.choice((1, 1, 2, len(SYMBOLS))))
        for symbol in some:
            by = self.chance.choice((0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-3, 4e-3, 0.02))
            self.marks[symbol] = (self.marks[symbol] * D(str(1 + self.chance.gauss(0, by)))).quantize(D("0.00000001"))
        late = self.chance.choice((0.0, 0.0, 0.0, 0.0, 7.0))
        also = [Tick()] if self.chance.random() < 0.2 else []
        self.pair.step(*(self._mark(symbol, late) for symbol in some), *also, after=self.chance.choice((0.0, 0.2, 1.0)))

    def near_a_level(self) -> None:
        """A mark at which a pool is at a level, but for a part in 10¹² of it or less."""
        accounts = self.pair.exact.accounts
        name = self.chance.choice(self.names)
        if not accounts[name].pools:
            return
        pool = self.chance.choice(list(accounts[name].pools.values()))
        risk = accounts[name].risks[pool.id]
        position = self.chance.choice(pool.positions)
        if risk.margin_balance is None or risk.maintenance_margin is None:
            return
        level = D(self.chance.choice(("0.45", "0.5", "0.7", "0.8", "0.9", "1")))
        by = D(self.chance.choice(("0", "1e-12", "-1e-12", "1e-9", "-1e-9", "1e-18", "-1e-18", "1e-6")))
        with localcontext(EXACT):
            here = self.marks[position.symbol]
            size, rate = abs(position.quantity), _rate(abs(position.quantity) * here)
            excess = level * risk.margin_balance - risk.maintenance_margin
            slope = size * rate - level * position.quantity
            mark = here + excess / slope if slope else here
            distance = risk.positions[pool.positions.index(position)].liquidation_price
            if distance and self.chance.random() < 0.5:
                part = D(self.chance.choice(("0.1", "0.12", "0.05", "0.06", "0.02", "0.025", "0.01")))
                mark = distance / (1 - part if position.quantity > 0 else 1 + part)
            mark *= 1 + by
            if not here / 2 < mark < here * 2:
                return
            self.marks[position.symbol] = mark.quantize(D("1e-24"))
        self.pair.step(self._mark(position.symbol), after=0.5)

    def account_event(self) -> None:
        name = self.chance.choice(self.names)
        positions = self.books[name]
        self.wallets[name] = (self.wallets[name] * D(str(round(self.chance.uniform(0.9, 1.1), 6)))).quantize(D("1e-8"))
        reason = self.chance.choice(("FUNDING_FEE", "ORDER", "WITHDRAW", "MARGIN_TRANSFER"))
        changed: list[Position] = []
        at = self.pair.now.wall_ms
        if reason == "ORDER" and positions:
            i = self.chance.randrange(len(positions))
            part = D(self.chance.choice(("0", "0.5", "1.2")))
            positions[i] = structs.replace(positions[i], quantity=positions[i].quantity * part, at_ms=at)
            changed = [positions[i]]
        if self.chance.random() < 0.2:
            events: list[Event] = Watched.truth(_At(self.pair), str(self.wallets[name]), *positions, account=name)  # type: ignore[arg-type]
        else:
            events = [Watched.changed(_At(self.pair), reason, str(self.wallets[name]), *changed, account=name)]  # type: ignore[arg-type]
        if reason == "ORDER" and changed and self.chance.random() < 0.3:
            key = changed[0]
            kind = self.chance.choice((None, ForcedKind.LIQUIDATION, ForcedKind.ADL))
            mark = self.marks[key.symbol]
            events.append(Fill(name, key.symbol, key.side, D(1), mark, D(0), D(0), "USDT", kind, 1, 1, at))
        marks = [self._mark(symbol) for symbol in SYMBOLS if self.chance.random() < 0.2]
        self.chance.shuffle(events)
        self.pair.step(*(marks if self.chance.random() < 0.5 else ()), *events, *marks, after=0.3)

    def link_event(self) -> None:
        name = self.chance.choice(self.names)
        link = self.chance.choice((LinkId(name, "private"), LinkId("_instance", MARKET)))
        state = self.chance.choice((LinkState.LIVE, LinkState.LIVE, LinkState.DOWN))
        self.pair.step(LinkReport(link, state), after=0.2)

    def told_off(self) -> None:
        """Somebody acknowledges, silences, or writes other rules."""
        incidents = list(self.pair.exact.incidents)
        if incidents and self.chance.random() < 0.6:
            self.pair.step(Acknowledge(self.chance.choice(incidents).incident_id))
        elif self.chance.random() < 0.5:
            until_ms = self.pair.now.wall_ms + self.chance.choice((0, 2_000, 20_000))
            self.pair.step(Silence(until_ms, account=self.chance.choice(self.names)))
        elif self.chance.random() < 0.5:
            self.pair.step(StoreState(self.chance.choice((None, "disk full"))))
        else:
            self.pair.take_rules(RuleBook({**DEFAULTS, **self.chance.choice(RULES)}, self._matches()))


class _At:
    """What builds events of a `Watched`, at the time of a pair."""

    def __init__(self, pair: Pair) -> None:
        self.now = pair.now
        self.names = ("",)


def _margin(notional: Decimal) -> Decimal:
    return max(notional * bracket.rate - bracket.amount for bracket in TABLE)


def _rate(notional: Decimal) -> Decimal:
    return next(b.rate for b in reversed(TABLE) if notional > b.floor or not b.floor)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_the_screen_changes_nothing(seed: int) -> None:
    """Marks, ticks, account events, links that die, commands and new rules, in any order."""
    trading = Trading(seed)
    trading.begin()
    for _ in range(60):
        trading.go_on()


def test_a_pool_whose_marks_come_after_a_restart_is_looked_at_before_it_rests() -> None:
    """What is missing is what was missing when it was last computed: until then its figures would be told as stale."""
    held = [row("BTCUSDT", "1", "50000"), row("ETHUSDT", "1", "3000", isolated=True, isolated_wallet="1000")]
    first = Watched()
    first.begin("400", *held)  # so little that the first pool is endangered
    marks = {"BTCUSDT": "50000", "ETHUSDT": "3000"}
    first.step(*(first.mark(price, symbol) for symbol, price in marks.items()), Tick())
    again = Watched(kept=first.kept(), start=first.t + 10)
    again.begin("400", *held)
    again.step(Tick())
    again.step(*(again.mark(price, symbol) for symbol, price in marks.items()))

    states = [effect for effect in again.step(Tick()) if isinstance(effect, PoolState)]

    assert {state.risk.pool.id: state.ages.freshness for state in states} == {
        "cross-usdt": "live",
        "isolated-ethusdt": "live",
    }


def test_a_pool_does_not_rest_while_a_hold_runs() -> None:
    """It went back for a moment: the hold begins anew, though nothing else came of that mark."""
    slow = structs.replace(DEFAULTS["margin_ratio"], for_s=10.0)
    core = Watched(rules=RuleBook({**DEFAULTS, "margin_ratio": slow}))
    core.begin("700", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    core.hold(3, "49690")  # 200 ÷ (700 − 310): 0.51

    assert core.tell(core.mark("50000")) == []
    assert not of_rule(core.tell(core.mark("49690"), after=8), "margin_ratio")
    assert not of_rule(core.hold(9, "49690"), "margin_ratio")
    assert kinds(of_rule(core.hold(1, "49690"), "margin_ratio")) == [("opened", "notice")]


def test_a_pool_does_not_rest_where_its_notional_chooses_the_rule() -> None:
    """Nothing of its ratio changes that a rule would take note of; it has grown into a sharper one."""
    sharp = MarginRatioRule(steps=(Step(D("0.005"), D("0.004"), Severity.WARNING),))
    rules = RuleBook({**DEFAULTS}, {"margin_ratio": (Match(sharp, min_notional=D(50_100)),)})
    core = Watched(rules=rules)
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    assert not of_rule(core.hold(3, "50000"), "margin_ratio")

    assert kinds(of_rule(core.tell(core.mark("50100")), "margin_ratio")) == [("opened", "warning")]


def test_a_pool_that_rests_wakes_for_what_a_store_that_is_found_late_has_kept() -> None:
    """An incident of the run before, of a pool that has long been well: nobody else would end it."""
    before = Watched()
    before.begin("300", row("BTCUSDT", "1", "50000"))
    before.price("50000")
    core = Watched(start=100)
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.hold(3, "50000")

    core.core.take_over(structs.replace(before.kept(), baselines={}), core.now)

    assert of_rule(core.hold(65, "50000"), "margin_ratio")[-1].change.kind == "resolved"


def test_a_price_that_only_marks_have_moved_is_told_once_it_may_be_again() -> None:
    """The long loses, the short's price comes nearer: told, then not for five seconds, whatever rests meanwhile."""
    often = structs.replace(DEFAULTS["liquidation_price_moved"], marks_every_s=5.0)
    core = Watched(rules=RuleBook({**DEFAULTS, "liquidation_price_moved": often}))
    core.begin("20000", row("BTCUSDT", "1", "50000"), row("ETHUSDT", "-10", "3000"))
    for at in ("50000", "49900", "49600"):
        told = core.tell(core.mark(at), core.mark("3000", "ETHUSDT"), Tick())
    assert of_rule(told, "liquidation_price_moved")
    soon = [core.tell(core.mark("49300"), core.mark("3000", "ETHUSDT"), Tick()) for _ in range(4)]

    late = core.tell(core.mark("49300"), Tick(), after=1.5)

    assert not of_rule([story for some in soon for story in some], "liquidation_price_moved")
    assert of_rule(late, "liquidation_price_moved")


def test_a_pool_that_recovers_does_not_rest_while_its_stream_is_away() -> None:
    """Away for long enough, and back before the next tick: what was seen meanwhile was no recovery."""
    core = Watched()
    core.begin("700", row("BTCUSDT", "1", "50000"))
    core.hold(2, "49690")
    core.hold(30, "49900")  # 0.33, and it has been for half of the time that it takes

    core.step(core.link("private", LinkState.DOWN))
    core.step(core.mark("49901", after=6), after=6)
    core.step(core.link("private", LinkState.LIVE), after=0.1)

    assert not of_rule(core.hold(59, "49900"), "margin_ratio")
    assert kinds(of_rule(core.hold(3, "49900"), "margin_ratio")) == [("resolved", "notice")]


def crossing(accounts: int, a_slice: int | None = None) -> list[list[Story]]:
    """What is told, step by step, as a mark takes the pool of every account past a level at once."""
    names = [f"account-{i:03}" for i in range(accounts)]
    core = Watched(*names)
    core.core._slice = a_slice or core.core._slice
    for name in names:
        core.begin("2000", row("BTCUSDT", "1", "50000"), account=name)

    def steps(*events: Event) -> list[list[Story]]:
        told = [core.tell(*events)]
        while core.core.is_behind:
            told.append(core.tell(after=0))
        return told

    steps(core.mark("50000"), Tick())
    return steps(core.mark("48500"))


def test_a_storm_is_looked_at_in_slices_and_everything_is_told() -> None:
    """Accounts that cross a level all at once keep nobody else from their turn; and each is told, as if alone."""
    slices, [at_once] = crossing(100), crossing(100, a_slice=10**9)

    def what(stories: list[Story]) -> list[tuple[str, str, Decimal | None, object]]:
        return [(s.account.name, s.change.incident.rule, s.change.value, s.before) for s in stories]

    assert 0 < 2 * len(slices[0]) < max(map(len, slices)) < 20 < len(at_once)
    assert {s.account.name for s in at_once} == {f"account-{i:03}" for i in range(100)}
    assert what([story for some in slices for story in some]) == what(at_once)


def test_a_tick_makes_way_for_a_storm_and_comes_to_its_end() -> None:
    """Of many accounts a tick takes as long as a storm; whoever is about to be liquidated should not wait for both."""
    names = [f"account-{i:03}" for i in range(100)]
    core = Watched(*names)
    for name in names:
        core.begin("2000", row("BTCUSDT", "1", "50000"), account=name)

    def steps_of_tick() -> int:
        n = 0
        while core.core.is_ticking:
            core.step(after=0)
            n += 1
        return n

    core.step(core.mark("50000"), Tick())
    steps_of_tick()
    core.step(Tick())
    whole = steps_of_tick()

    told = core.tell(Tick(), core.mark("48500"))
    while core.core._attention.has_more:
        told += core.tell(after=0)
    assert {story.account.name for story in told} >= {*names}
    left = steps_of_tick()

    assert left > whole


def test_a_tick_makes_way_for_a_storm_for_two_seconds_and_no_longer() -> None:
    """A storm may last for minutes; blindness that is to be told, and what is published, cannot wait for its end."""

    def steps_of_tick(in_storm_since_s: float) -> int:
        core = Crowd(50, "2000")
        core.step(core.mark("50000"), Tick())
        Watched.step(core, core.mark("48500"), Tick())
        core.t += in_storm_since_s
        n = 0
        while core.core.is_ticking:
            assert core.core._attention.has_more
            Watched.step(core, core.mark(("48500", "47800")[n % 2], after=0), after=0)
            n += 1
        return n

    assert steps_of_tick(1.9) > 6 * steps_of_tick(2)


def test_what_a_tick_does_too_much_in_one_step_it_makes_up_for_in_the_next() -> None:
    """An account is published in one go, however many pools it has; others wait for one of them at a time."""
    symbols = [f"S{n}USDT" for n in range(10)]
    core = Watched(*(f"a{n}" for n in range(12)))
    for name in core.names:
        held = (row(symbol, "1", "1000", isolated=True, isolated_wallet="100") for symbol in symbols)
        core.begin("10", *held, account=name)
    core.step(*(core.mark("1000", symbol) for symbol in symbols), Tick())
    while core.core.is_behind:
        core.step(after=0)

    core.step(*(core.mark("950", symbol) for symbol in symbols), Tick())
    published: list[int] = []
    while core.core.is_ticking:
        assert core.core._attention.has_more
        price = ("940", "950")[len(published) % 2]
        effects = core.step(*(core.mark(price, symbol, after=0) for symbol in symbols), after=0)
        published.append(sum(isinstance(effect, PoolState) for effect in effects))

    busy = [n for n, pools in enumerate(published) if pools]
    assert sum(published) == 12 * 10
    assert min(after - before for before, after in pairwise(busy)) >= 4


def test_what_was_before_is_what_was_last_looked_at_however_long_a_storm_lasts() -> None:
    """Four hedged accounts, of which one is looked at in each step: a mark was never older than four steps."""
    names = [f"account-{i}" for i in range(4)]
    core = Watched(*names)
    core.core._slice = 1
    for name in names:
        hedge = row("BTCUSDT", "0.7", "50000", side=Side.LONG), row("BTCUSDT", "-0.1", "50000", side=Side.SHORT)
        core.begin("1300" if name == names[0] else "100000", *hedge, account=name)
    core.step(core.mark("50000"), Tick())
    while core.core.is_behind:
        core.step(after=0)

    storm = [story for price in range(49_990, 49_000, -10) for story in core.tell(core.mark(str(price)))]

    [story] = [s for s in storm if s.change.incident.rule == "liquidation_distance"]
    assert story.before is not None
    assert story.after is not None
    assert (story.before.mark_price, story.after.mark_price) == (D(49_110), D(49_070))


def falling(accounts: int) -> tuple[Watched, list[str], Callable[..., list[Story]]]:
    """Accounts that rest, of which a step looks at one; and how to take some events and all that follows of them."""
    names = [f"account-{i:02}" for i in range(accounts)]
    distance = structs.replace(DEFAULTS["liquidation_distance"], enabled=False)
    core = Watched(*names, rules=RuleBook({**DEFAULTS, "liquidation_distance": distance}))
    for name in names:
        core.begin("2000", row("BTCUSDT", "1", "50000"), account=name)

    def told(*events: Event) -> list[Story]:
        said = core.tell(*events)
        while core.core.is_behind:
            said += core.tell(after=0)
        return of_rule(said, "margin_ratio")

    assert not told(core.mark("50000"), Tick())
    assert not told(core.mark("50000"), Tick())
    assert len(core.core._attention._screen) == accounts  # type: ignore[arg-type]
    core.core._slice = 1
    return core, names, told


@pytest.mark.parametrize("accounts", [3, 30])
def test_what_was_before_waits_with_a_pool_that_has_left_its_zone(accounts: int) -> None:
    """However many marks and ticks come until its turn; and each is told once."""
    core, names, told = falling(accounts)
    core.step(Tick())
    for _ in range(accounts // 2):
        core.step(after=0)
    assert core.core.is_ticking  # ahead of whoever waits
    said = core.tell(core.mark("48225"))
    for price in ("48220", "48230", "48225"):
        said += core.tell(core.mark(price), Tick())
    assert len(said) < accounts or accounts == 3
    said += told()
    first = {story.account.name: story for story in reversed(of_rule(said, "margin_ratio"))}

    assert sorted(first) == names
    befores = {story.before.mark_price for story in first.values() if story.before is not None}
    assert befores == {D(50_000)}
    assert {kind for kind, _ in kinds(list(first.values()))} == {"opened"}


def test_a_pool_that_comes_back_while_it_waits_for_another_zone_rests_again() -> None:
    core, _, told = falling(30)
    core.step(core.mark("48225"))
    core.step(core.mark("49990"))
    alerts = told(core.mark("50000"))

    assert len(alerts) < 10
    assert len(core.core._attention._screen) > 20  # type: ignore[arg-type]


def test_an_account_that_changes_while_it_waits_for_another_zone_is_looked_at_as_it_is() -> None:
    core, names, told = falling(30)
    core.step(core.mark("48225"))
    assert (names[-1], "cross-usdt") in core.core._attention._leaving
    alerts = of_rule(core.tell(core.changed("DEPOSIT", "2001", account=names[-1])), "margin_ratio")
    [story] = [alert for alert in alerts if alert.account.name == names[-1]]

    assert story.before is not None
    assert story.before.mark_price == D(50_000)
    assert names[-1] not in {alert.account.name for alert in told()}


def test_brackets_that_change_while_a_pool_waits_for_another_zone_were_not_there_before() -> None:
    core, names, _ = falling(30)
    core.step(core.mark("48225"))
    late = names[-1]
    assert (late, "cross-usdt") in core.core._attention._leaving
    steep = BracketsRead(late, {"BTCUSDT": (Bracket(1, D(0), D("0.01"), D(0)),)})
    alerts = of_rule(core.tell(steep), "margin_ratio")
    [story] = [alert for alert in alerts if alert.account.name == late]

    assert story.before is not None
    assert (story.before.mark_price, story.before.margin_ratio) == (D(50_000), D("0.1"))


def test_of_a_pool_that_is_looked_at_before_its_turn_no_screen_keeps_anything() -> None:
    core, names, _ = falling(3)
    core.step(core.mark("48225"))
    screen = core.core._attention._screen
    assert isinstance(screen, Zones)
    assert (names[-1], "cross-usdt") in screen._out
    core.step(core.changed("DEPOSIT", "2001", account=names[-1]))

    assert (names[-1], "cross-usdt") not in screen._out


def test_an_account_that_is_watched_no_more_waits_for_nothing() -> None:
    core, names, told = falling(30)
    core.step(core.mark("48225"))
    core.core.take_accounts(core.core.setup.accounts[:2], core.now)
    alerts = told(core.mark("48225"))

    assert {alert.account.name for alert in alerts} <= set(names[:2])
    assert not core.core._attention._leaving


def calls(accounts: int) -> int:
    """How many calls, of Python or of C, a step takes whose marks leave every pool at rest."""
    names = [f"account-{i}" for i in range(accounts)]
    core = Watched(*names)
    for name in names:
        held = [row(symbol, "1", str(price)) for symbol, price in SYMBOLS.items()]
        core.begin("60000", *held, account=name)
    core.step(*(core.mark(str(price), symbol) for symbol, price in SYMBOLS.items()), Tick())
    while core.core.is_behind:
        core.step(after=0)
    count = 0

    def counted(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    core.t += 1
    marks = [core.mark(str(price * D("1.0001")), symbol, after=0) for symbol, price in SYMBOLS.items()]
    sys.setprofile(counted)
    effects = core.core.step(marks, core.now)
    sys.setprofile(None)
    assert effects == []
    assert len(core.core._attention._screen) == accounts  # type: ignore[arg-type]
    return count


def test_marks_cost_no_python_per_pool_while_all_rest() -> None:
    """Ten times as many accounts on the same symbols: the same number of calls, to the last one."""
    assert calls(300) == calls(30)
