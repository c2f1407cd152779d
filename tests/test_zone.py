"""What a zone proves, held against exact figures at its very edge."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

from msgspec import structs

from monitor.events import Bracket, Position, Side
from monitor.moves import _severity
from monitor.risk import EXACT
from monitor.risk.attribution import Move, prices, printed
from monitor.risk.margin import BracketTable, bracket_table
from monitor.risk.quiet import Limits, Zone, shape, zone
from monitor.risk.report import AssetWallet, Pool, PoolRisk, assess
from monitor.risk.terms import Terms
from monitor.rules import LiquidationPriceMovedRule, Severity

D = Decimal


def digits(value: float, places: int = 7) -> Decimal:
    return D(f"{value:.{places}g}")


class Case:
    """A pool, its marks, and limits that lie near its figures; made from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.marks: dict[str, Decimal] = {}
        self.tables: dict[str, BracketTable] = {}
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
        self.told = {symbol: price for (symbol, _), price in prices(self.risk).items() if price is not None}
        for symbol in self.told:
            self.told[symbol] = printed(
                self.told[symbol] * digits(1 + chance.gauss(0, 10 ** chance.uniform(-6, -1)))
            ) or D(0)
        self.rule = LiquidationPriceMovedRule(
            notice_at=digits(10 ** chance.uniform(-6, -1)),
            warning_at=digits(10 ** chance.uniform(-4, 0.5)),
            ignore_beyond=digits(10 ** chance.uniform(-2, 0.5)),
        )
        self.limits = self.near()

    def table(self, notional: float) -> BracketTable:
        """Tiers around a notional, as tables in the wild have them: they join up."""
        chance = self.chance
        parts = [10 ** chance.choice((chance.uniform(-1, 1), chance.uniform(-0.01, 0.01))) for _ in range(5)]
        floors = sorted(digits(notional * part, 6) for part in parts[: chance.randint(0, 5)])
        rates = sorted(digits(10 ** chance.uniform(-3, -0.3), 4) for _ in range(len(floors) + 1))
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
            return 10 ** chance.uniform(-5, 0.3)

        some: dict[str, Any] = {}
        if chance.random() < 0.5:
            some["ratio_below"] = float(ratio) * (1 + off())
        if chance.random() < 0.3:
            some["ratio_above"] = float(ratio) / (1 + off())
        if distance is not None and chance.random() < 0.5:
            some["distance_above"] = float(distance) / (1 + off())
        if distance is not None and chance.random() < 0.3:
            some["distance_below"] = float(distance) * (1 + off())
        told = {symbol: float(price) for symbol, price in self.told.items()} if chance.random() < 0.6 else {}
        self.highest = chance.choice((Severity.INFO, Severity.NOTICE)) if told else Severity.WARNING
        notice = math.inf if self.highest is Severity.NOTICE else float(self.rule.notice_at)
        return Limits(
            told=told,
            notice_at=notice,
            warning_at=float(self.rule.warning_at),
            ignore_beyond=float(self.rule.ignore_beyond),
            **some,
        )

    def at(self, marks: dict[str, Decimal]) -> PoolRisk:
        return assess(self.pool, Terms(marks, self.tables))

    def found(self) -> Zone | None:
        taken = shape(self.pool, self.tables)
        assert taken is not None
        return zone(taken, {symbol: float(mark) for symbol, mark in self.marks.items()}, self.limits)

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
        """Marks in a zone that go out of it in some direction if they go any farther."""
        chance, anchors = self.chance, dict(zip(proof.symbols, proof.anchors, strict=True))
        adverse = chance.random() < 0.5
        way = {}
        for symbol, slope in zip(proof.symbols, proof.slopes, strict=True):
            sign = -math.copysign(1, slope) if adverse else chance.choice((-1, 0, 1))
            way[symbol] = sign * anchors[symbol] * (1.0 if chance.random() < 0.5 else chance.random())
        low, high = 0.0, 0.06
        for _ in range(60):
            part = (low + high) / 2
            inside = proof.holds({symbol: anchors[symbol] + part * way[symbol] for symbol in anchors})
            low, high = (part, high) if inside else (low, part)
        return {symbol: anchors[symbol] + low * way[symbol] for symbol in anchors}


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
