"""What a zone proves, held against exact figures at its very edge."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from monitor.digits import printed
from monitor.events import Bracket, Position, Side
from monitor.moves import _severity
from monitor.risk import EXACT
from monitor.risk.assessment import assess
from monitor.risk.attribution import Move
from monitor.risk.columns import Columns
from monitor.risk.margin import BracketTable, bracket_table
from monitor.risk.pool import AssetWallet, Pool
from monitor.risk.quiet import Limits, Shape, Zone, shape, zone
from monitor.risk.report import PoolRisk
from monitor.risk.screen import Screen
from monitor.risk.screen import Zones as Screened
from monitor.risk.terms import Terms
from monitor.risk.zones import Bounds, Brackets, Slots, zones
from monitor.rules import LiquidationPriceMovedRule, Severity

D = Decimal
ROWS = (Bracket(1, D(0), D("0.004"), D(0)),)


def digits(value: float, places: int = 7) -> Decimal:
    return D(f"{value:.{places}g}")


class Case:
    """A pool, its marks, and limits that lie near its figures; made from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.marks: dict[str, Decimal] = {}
        self.tables: dict[str, BracketTable] = {}
        self.is_steep = chance.random() < 0.3
        positions = []
        scale = chance.uniform(-6, 10) if chance.random() < 0.3 else 4.0
        for i in range(chance.choice((1, 1, 2, 2, 3, 6))):
            symbol = f"S{i}USDT"
            mark = digits(10 ** (chance.uniform(-8, 9) if chance.random() < 0.4 else chance.uniform(0, 4)))
            notional = 10 ** (scale + chance.uniform(-1.5, 1))
            quantity = digits(notional / float(mark)) * chance.choice((1, 1, -1))
            entry = digits(float(mark) * chance.uniform(0.8, 1.2))
            positions.append(Position(symbol, Side.BOTH, quantity, entry, False, D(0), 1, "USDT"))
            self.marks[symbol], self.tables[symbol] = mark, self.table(notional)
        pnl = sum((p.quantity * (self.marks[p.symbol] - p.entry_price) for p in positions), D(0))
        margin = sum(
            (self.tables[p.symbol].maintenance_margin(abs(p.quantity) * self.marks[p.symbol]) for p in positions), D(0)
        )
        gross = sum((abs(p.quantity) * self.marks[p.symbol] for p in positions), D(0))
        reach = digits(10 ** chance.uniform(-3, 0.5)) * gross  # so much may be lost until it is liquidated
        self.pool = Pool("main", "cross-usdt", "USDT", False, margin - pnl + reach, tuple(positions))
        self.risk = self.at(self.marks)
        self.told = {symbol: price for (symbol, _), price in self.risk.printed_prices.items() if price is not None}
        for symbol in self.told:
            self.told[symbol] = printed(
                self.told[symbol] * digits(1 + chance.gauss(0, 10 ** chance.uniform(-6, -1)))
            ) or D(0)
        self.rule = LiquidationPriceMovedRule(
            notice_at=digits(10 ** chance.uniform(-6, -1)),
            warning_at=digits(10 ** chance.uniform(-4, 0.5)),
            ignore_beyond=digits(10 ** chance.uniform(-2, 0.5)),
        )
        if chance.random() < 0.3:
            self.move_one_price()
        self.limits = self.near()

    def move_one_price(self) -> None:
        """The price of one position has come nearer since it was told, by almost as much as is allowed, or by more."""
        chance = self.chance
        now = {p.position.symbol: p for p in self.risk.positions if printed(p.liquidation_price)}
        if not now:
            return
        self.told = {symbol: printed(p.liquidation_price) or D(0) for symbol, p in now.items()}
        symbol = chance.choice(sorted(now))
        mark, price, is_long = self.marks[symbol], self.told[symbol], now[symbol].is_long
        left = abs(mark - price)
        by = (
            mark * digits(10 ** chance.uniform(-6, -1))
            if chance.random() < 0.5
            else left * digits(chance.uniform(0, 4))
        )
        self.told[symbol] = printed(price - by if is_long else price + by) or D(0)
        nearer = abs(mark - self.told[symbol]) - left
        over = 1 + digits(10 ** chance.uniform(-10, -2) * chance.choice((1, 1, 1, -1)))
        never, always = D(10**6), D("1e-12")
        notice, warning, beyond = chance.choice(
            (
                (nearer / mark * over, never, never),
                (never, nearer / left * over if left else never, never),
                (always, always, left / mark / over),
                (nearer / mark * over, nearer / left / over if left else never, left / mark),
            )
        )
        self.rule = LiquidationPriceMovedRule(notice_at=notice, warning_at=warning, ignore_beyond=beyond)

    def table(self, notional: float) -> BracketTable:
        """Tiers around a notional, as tables in the wild have them: they join up. Steep ones change within a box."""
        chance = self.chance
        far = 0.01 if self.is_steep else 1
        parts = [10 ** chance.choice((chance.uniform(-far, far), chance.uniform(-0.01, 0.01))) for _ in range(5)]
        floors = sorted(digits(notional * part, 6) for part in parts[: chance.randint(0, 5)])
        rates = sorted(
            digits(10 ** chance.uniform(-3, -0.01 if self.is_steep else -0.3), 4) for _ in range(len(floors) + 1)
        )
        rows = [Bracket(1, D(0), rates[0], D(0))]
        for i, floor in enumerate(dict.fromkeys(floors), 2):
            amount = rows[-1].amount + floor * (rates[i - 1] - rows[-1].rate)
            rows.append(Bracket(i, floor, rates[i - 1], amount))
        table = bracket_table(rows)
        assert table.convex
        assert all(low.floor < high.floor for low, high in pairwise(rows))
        return table

    def near(self) -> Limits:
        """Some limits, from a part in a million away from the figures to far off."""
        chance, ratio, distance = self.chance, self.risk.margin_ratio or D(0), self.risk.distance

        def off() -> float:
            """Near, or far off; now and then on the wrong side."""
            return 10 ** chance.uniform(-12 if chance.random() < 0.5 else -4, 0.3) * chance.choice((1, 1, 1, 1, -0.5))

        often = {"ratio_below": 0.5, "ratio_above": 0.3, "distance_above": 0.5, "distance_below": 0.3, "told": 0.7}
        chosen = {what for what, part in often.items() if chance.random() < part}
        if chance.random() < 0.5:
            chosen = {chance.choice(sorted(often))}  # no other one keeps it from its edge
        some: dict[str, Any] = {}
        if "ratio_below" in chosen:
            some["ratio_below"] = float(ratio) * (1 + off())
        if "ratio_above" in chosen:
            some["ratio_above"] = float(ratio) / (1 + off())
        if distance is not None and "distance_above" in chosen:
            some["distance_above"] = float(distance) / (1 + off())
        if distance is not None and "distance_below" in chosen:
            some["distance_below"] = float(distance) * (1 + off())
        told = {symbol: float(price) for symbol, price in self.told.items()} if "told" in chosen else {}
        self.highest = chance.choice((Severity.INFO, Severity.NOTICE)) if told else Severity.WARNING
        notice = math.inf if self.highest is Severity.NOTICE else float(self.rule.notice_at)
        return Limits(
            told=told,
            notice_at=notice,
            warning_at=float(self.rule.warning_at),
            ignore_beyond=float(self.rule.ignore_beyond),
            **some,
        )

    @property
    def is_for_prices_alone(self) -> bool:
        """Whether nothing else than liquidation prices keeps it in its zone."""
        limits = self.limits
        free = (limits.ratio_above, limits.ratio_below, limits.distance_above, limits.distance_below)
        return bool(limits.told) and free == (0.0, math.inf, 0.0, math.inf)

    def at(self, marks: dict[str, Decimal]) -> PoolRisk:
        return assess(self.pool, Terms(marks, self.tables))

    @property
    def shape(self) -> Shape:
        taken = shape(self.pool, self.tables)
        assert taken is not None
        return taken

    def found(self) -> Zone | None:
        return zone(self.shape, {symbol: float(mark) for symbol, mark in self.marks.items()}, self.limits)

    def broken(self, marks: dict[str, Decimal]) -> str | None:
        """Which limit does not hold at these marks; None: all do."""
        risk, limits = self.at(marks), self.limits
        ratio, distance = risk.margin_ratio, risk.distance
        assert ratio is not None
        if not D(limits.ratio_above) < ratio or not (limits.ratio_below == math.inf or ratio < D(limits.ratio_below)):
            return f"ratio {ratio}"
        if limits.distance_above and distance is not None and distance <= D(limits.distance_above):
            return f"distance {distance}"
        if limits.distance_below < math.inf and (distance is None or distance >= D(limits.distance_below)):
            return f"distance {distance}"
        for p in risk.positions if limits.told else ():
            symbol = p.position.symbol
            move = Move(p.position.key, self.told.get(symbol), printed(p.liquidation_price), (), False)
            if _severity(move, marks[symbol], self.rule) > self.highest:
                return f"price of {symbol} {p.liquidation_price}"
        return None

    def edge(self, proof: Zone) -> dict[str, float]:
        """Marks in a zone that lie at several of its edges: from each, on along the zone in some direction."""
        chance, anchors = self.chance, dict(zip(proof.symbols, proof.anchors, strict=True))
        marks = anchors
        for _ in range(chance.choice((1, 3, 3))):
            adverse = chance.random() < 0.5
            way = {}
            for symbol, slope in zip(proof.symbols, proof.slopes, strict=True):
                sign = -math.copysign(1, slope) if adverse else chance.choice((-1, 0, 1))
                way[symbol] = sign * anchors[symbol] * proof.box * (1.0 if chance.random() < 0.5 else chance.random())
            low, high = 0.0, 2.5
            for _ in range(60):
                part = (low + high) / 2
                inside = proof.holds({symbol: marks[symbol] + part * way[symbol] for symbol in marks})
                low, high = (part, high) if inside else (low, part)
            marks = {symbol: marks[symbol] + low * way[symbol] for symbol in marks}
        return marks


def held(seeds: range) -> int:
    """How many zones there were; in all of them, up to the edge, nothing would have been told."""
    zones = 0
    with localcontext(EXACT):
        for seed in seeds:
            case = Case(seed)
            proof = case.found()
            if proof is None:
                continue
            zones += 1
            assert case.broken(case.marks) is None, seed
            for _ in range(6):
                marks = case.edge(proof)
                broken = case.broken({symbol: D(mark) for symbol, mark in marks.items()})
                assert broken is None, (seed, broken)
    return zones


def test_nothing_would_be_told_up_to_the_edge_of_a_zone() -> None:
    assert held(range(1_500)) > 500


def test_many_zones_at_once_are_those_of_each_pool_alone() -> None:
    """What NumPy makes of whatever pools side by side, limit by limit."""
    cases = [Case(seed) for seed in range(10_000, 10_800)]
    alone, brackets = [case.found() for case in cases], Brackets()
    shapes = [case.shape for case in cases]
    held = [(holding, case) for case, of_case in zip(cases, shapes, strict=True) for holding in of_case.holdings]
    slots = Slots(
        np.array([brackets.number(holding.tiers) for holding, _ in held]),
        np.array([holding.quantity for holding, _ in held]),
        np.array([holding.entry for holding, _ in held]),
        np.array([case.limits.told.get(holding.symbol, math.nan) for holding, case in held]),
        np.array([float(case.marks[holding.symbol]) for holding, case in held]),
        np.cumsum([0, *(len(of_case.holdings) for of_case in shapes[:-1])]),
    )
    wallets = np.array([of_case.wallet for of_case in shapes])
    limits = (np.array([getattr(case.limits, name) for case in cases]) for name in Bounds._fields[1:])

    together = zones(slots, Bounds(wallets, *limits), brackets)

    gross = np.add.reduceat(np.abs(slots.quantity) * (slots.mark + np.abs(slots.entry)), slots.starts) + np.abs(wallets)
    assert 200 < sum(one is not None for one in alone) < 600
    for i, one in enumerate(alone):
        assert together.is_found[i] == (one is not None)
        if one is None:
            continue
        of_pool = slice(slots.starts[i], slots.starts[i] + len(one.symbols))
        near = 1e-12 * float(gross[i])
        assert together.box[i] == pytest.approx(one.box, rel=1e-4)
        assert (together.fall[i], together.rise[i]) == pytest.approx((one.fall, one.rise), rel=1e-9, abs=near)
        assert list(together.slope[of_pool]) == pytest.approx(one.slopes, rel=1e-12)
        assert list(together.room[of_pool]) == pytest.approx(one.rooms, rel=1e-9, abs=near)


@pytest.mark.parametrize("made", [Columns, Screened])
def test_wherever_the_marks_go_a_pool_that_rests_is_within_its_limits(made: Callable[[], Screen]) -> None:
    """Marks that move a little or far, that turn back, and that stop right at the edge of a zone or past it."""
    chance = random.Random(7)
    screen, cases = made(), {(f"a{seed}", "pool"): Case(seed) for seed in range(20_000, 23_000)}
    prices_alone = [key for key, case in cases.items() if case.is_for_prices_alone]
    cases = {key: cases[key] for key in [*list(cases)[:200], *prices_alone]}
    marks = {key: {symbol: float(mark) for symbol, mark in case.marks.items()} for key, case in cases.items()}
    resting = {
        key: case for key, case in cases.items() if screen.rest(key, key[0], case.shape, marks[key], case.limits)
    }
    waiting: dict[tuple[str, str], Case] = {}
    rested, renewed = 0, 0
    with localcontext(EXACT):
        for _ in range(25):
            for key, case in (resting | waiting).items():
                here = zone(case.shape, marks[key], case.limits)
                if here is not None and chance.random() < 0.3:
                    by = chance.choice((1, 1 - 1e-9, 1 + 1e-9, 1 + 1e-6, 1.001))
                    to = {s: marks[key][s] + by * (mark - marks[key][s]) for s, mark in case.edge(here).items()}
                else:
                    by = chance.choice((0, 1e-6, 1e-4, 1e-3, 0.01))
                    to = {symbol: mark * (1 + chance.gauss(0, by)) for symbol, mark in marks[key].items()}
                some = tuple(chance.sample(sorted(to), chance.randint(1, len(to))))
                marks[key].update((symbol, to[symbol]) for symbol in some)
                screen.mark(key[0], some, [to[symbol] for symbol in some])
            waiting |= {key: resting.pop(key) for key in screen.left(0.0, lambda key: True)}
            assert not any(screen.rests(key, 0.0) for key in waiting)
            asked = {key: waiting.pop(key) for key in chance.sample(list(waiting), len(waiting) // 2)}
            for key in screen.renew(list(asked), 0.0, lambda key: True) if asked else ():
                del asked[key]
            renewed += len(asked)
            resting |= asked
            for key, case in resting.items():
                assert screen.rests(key, 0.0)
                assert case.broken({symbol: D(mark) for symbol, mark in marks[key].items()}) is None
                rested += 1
    assert len(screen) == len(resting)  # type: ignore[arg-type]
    assert rested > 500
    assert renewed > 100


def test_columns_say_of_each_frame_what_each_zone_says() -> None:
    """Marks that all move a little, of which one creeps to the end of a box, and now and then one that leaps; and pools
    that come to hold what others held."""
    chance = random.Random(3)
    cases = {(f"a{seed}", "pool"): Case(seed) for seed in range(30_000, 31_000)}
    many, one_by_one = Columns(), Screened()
    marks: dict[str, dict[str, float]] = {}
    for key, case in cases.items():
        of_case = {symbol: float(mark) for symbol, mark in case.marks.items()}
        limits = structs.replace(case.limits, told={}) if chance.random() < 0.8 else case.limits
        if one_by_one.rest(key, key[0], case.shape, of_case, limits):
            marks[key[0]] = of_case
        many.rest(key, key[0], case.shape, of_case, limits)
    for key in cases:  # the first that is asked for has zones looked for of many
        assert many.rests(key, 0.0) == (key[0] in marks)
        if key[0] not in marks:
            assert many.wake(key)
    resting, times, at_once = len(marks), 0, []
    for frame in range(200):
        leaping = chance.choice(list(marks)) if frame % 40 == 39 else None
        for name, of_case in marks.items():
            by = 0.01 if name == leaping else 1e-4
            for symbol, mark in of_case.items():
                of_case[symbol] = mark * (1 + chance.gauss(1e-4 if int(name[1:]) % 3 else 0, by))
            for screen in (many, one_by_one):
                screen.mark(name, tuple(of_case), list(of_case.values()))
        left = many.left(0.0, lambda key: True)
        assert sorted(left) == sorted(one_by_one.left(0.0, lambda key: True))
        gone = many.renew(left, 0.0, lambda key: True) if left else []
        assert gone == one_by_one.renew(left, 0.0, lambda key: True)
        times += len(left)
        at_once.append(len(left))
        for name in chance.sample(list(marks), 8):
            key, case = (name, "pool"), chance.choice(list(cases.values()))
            of_case = {symbol: float(mark) for symbol, mark in case.marks.items()}
            rests = one_by_one.rest(key, name, case.shape, of_case, case.limits)
            many.rest(key, name, case.shape, of_case, case.limits)
            assert many.rests(key, 0.0) == rests
            if rests:
                marks[name] = of_case
            else:
                assert many.wake(key)
    assert 0 < len(many) < resting
    assert times > 500, (times, at_once)


@pytest.mark.parametrize("made", [Screened, Columns])
def test_a_pool_leaves_only_with_a_mark_of_its_own(made: Callable[[], Screen]) -> None:
    """One whose time is up, when marks of others come."""
    table = bracket_table(ROWS)
    position = Position("A", Side.BOTH, D(1), D(50_000), False, D(0), 1, "USDT")
    found = shape(Pool("main", "cross-usdt", "USDT", False, D(20_000), (position,)), {"A": table})
    assert found is not None
    screen = made()
    assert screen.rest(("main", "pool"), "market", found, {"A": 50_000.0}, Limits(until=5.0))
    assert screen.rests(("main", "pool"), 4.0)
    assert not screen.rests(("main", "pool"), 5.0)
    screen.mark("market", ("B",), [1.0])
    assert not screen.left(6.0, lambda key: True)
    screen.mark("market", ("A", "B"), [50_000.0, 1.0])
    assert not screen.left(4.0, lambda key: True)
    assert not screen.left(6.0, lambda key: True)
    screen.mark("market", ("A", "B"), [50_000.0, 1.0])
    assert screen.left(6.0, lambda key: True) == [("main", "pool")]
    assert screen.renew([("main", "pool")], 6.0, lambda key: True) == [("main", "pool")]
    assert screen.rest(("main", "pool"), "market", found, {"A": 50_000.0}, Limits())
    other = structs.replace(found, holdings=(structs.replace(found.holdings[0], symbol="B"),))
    assert screen.rest(("main", "pool"), "market", other, {"B": 50_000.0}, Limits())
    assert screen.rests(("main", "pool"), 6.0)
    screen.mark("market", ("A",), [1.0])
    assert not screen.left(6.0, lambda key: True)


@pytest.mark.parametrize("made", [Screened, Columns])
def test_a_pool_that_rests_for_live_data_alone_leaves_with_them(made: Callable[[], Screen]) -> None:
    """What is stale is told to be; and no other zone is found for it before they are back."""
    table, key = bracket_table(ROWS), ("main", "pool")
    position = Position("A", Side.BOTH, D(1), D(50_000), False, D(0), 1, "USDT")
    found = shape(Pool("main", "cross-usdt", "USDT", False, D(20_000), (position,)), {"A": table})
    assert found is not None
    for while_live in (True, False):
        screen = made()
        assert screen.rest(key, "market", found, {"A": 50_000.0}, Limits(while_live=while_live))
        assert screen.rests(key, 0.0)
        assert screen.is_while_live(key) == while_live
        screen.mark("market", ("A",), [50_000.0])
        assert not screen.left(0.0, lambda key: True)
        screen.mark("market", ("A",), [50_000.0])
        assert screen.left(0.0, lambda key: False) == [key] * while_live
        screen.mark("market", ("A",), [45_000.0])  # out of its box
        assert screen.left(0.0, lambda key: True) == [key] * (not while_live)
        assert screen.renew([key], 0.0, lambda key: False) == [key] * while_live
        assert screen.rests(key, 0.0) != while_live


@pytest.mark.parametrize("made", [Screened, Columns])
@pytest.mark.parametrize("ratio_below", [0.0101, 0.0102, 0.0103])
def test_a_mark_that_leaps_takes_a_pool_out_at_its_limit(made: Callable[[], Screen], ratio_below: float) -> None:
    """Right behind it, wherever in the box that is; what is known of how far it was before is not enough."""
    table, key, limits = bracket_table(ROWS), ("main", "pool"), Limits(ratio_below=ratio_below)
    position = Position("A", Side.BOTH, D(-1), D(50_000), False, D(0), 1, "USDT")
    found = shape(Pool("main", "cross-usdt", "USDT", False, D(20_000), (position,)), {"A": table})
    assert found is not None
    proof = zone(found, {"A": 50_000.0}, limits)
    assert proof is not None
    far = proof.fall / -proof.slopes[0]
    assert 0 < far < proof.box * 50_000
    screen = made()
    assert screen.rest(key, "market", found, {"A": 50_000.0}, limits)
    assert screen.rests(key, 0.0)
    screen.mark("market", ("A",), [50_000 + far * 0.999])
    assert not screen.left(0.0, lambda key: True)
    assert screen.rest(key, "market", found, {"A": 50_000.0}, limits)
    assert screen.rests(key, 0.0)
    screen.mark("market", ("A",), [50_000 + far * 1.001])
    assert screen.left(0.0, lambda key: True) == [key]


def test_a_pool_whose_zone_has_not_been_looked_for_leaves_with_its_next_mark() -> None:
    """It has none, as it turns out; the one that it had before holds no more."""
    table, key, screen = bracket_table(ROWS), ("main", "pool"), Columns()
    position = Position("A", Side.BOTH, D(1), D(50_000), False, D(0), 1, "USDT")
    found = shape(Pool("main", "cross-usdt", "USDT", False, D(20_000), (position,)), {"A": table})
    assert found is not None
    screen.rest(key, "market", found, {"A": 50_000.0}, Limits())
    assert screen.rests(key, 0.0)
    screen.rest(key, "market", found, {"A": 50_000.0}, Limits(ratio_below=0.001))
    screen.mark("market", ("A",), [50_000.0])
    assert screen.left(0.0, lambda key: True) == [key]
    assert screen.renew([key], 0.0, lambda key: True) == [key]


@pytest.mark.parametrize("made", [Screened, Columns])
def test_pools_leave_in_an_order_that_is_the_same_in_each_run(made: Callable[[], Screen]) -> None:
    """Where more leave than one step looks at, it says who is told of first; a replay must say the same again."""
    tables = dict.fromkeys(symbols := tuple(f"S{i}" for i in range(50)), bracket_table(ROWS))
    screen = made()
    for symbol in symbols:
        position = Position(symbol, Side.BOTH, D(1), D(50_000), True, D(20_000), 1, "USDT")
        found = shape(Pool("main", f"isolated-{symbol}", "USDT", True, D(20_000), (position,)), tables)
        assert found is not None
        assert screen.rest(("main", symbol), "market", found, {symbol: 50_000.0}, Limits(ratio_below=0.8))
    screen.mark("market", symbols, [25_000.0] * 50)
    assert screen.left(1.0, lambda key: True) == [("main", symbol) for symbol in symbols]


def test_what_the_proof_is_not_for_has_no_shape() -> None:
    case = Case(0)
    [position, *_] = case.pool.positions
    pool, tables = structs.replace(case.pool, positions=(position,)), dict(case.tables)
    assert shape(pool, tables) is not None

    hedge = (structs.replace(position, side=Side.LONG), structs.replace(position, side=Side.SHORT))
    jumping = (Bracket(1, D(0), D("0.01"), D(0)), Bracket(2, D(1000), D("0.02"), D(0)))

    assert shape(structs.replace(pool, positions=hedge), tables) is None
    assert shape(structs.replace(pool, assets=(AssetWallet("USDC", D(1)),)), tables) is None
    assert shape(structs.replace(pool, wallet_balance=None), tables) is None
    inverse = structs.replace(position, contract_size=D(100))
    assert shape(structs.replace(pool, positions=(inverse,)), tables) is None
    assert shape(pool, {}) is None
    assert shape(pool, {position.symbol: bracket_table(jumping)}) is None
