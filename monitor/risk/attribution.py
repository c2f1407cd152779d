"""Why a liquidation price moved, exactly.

A baseline is the pool as it was when its prices were last told. From there the causes are replayed one at a time:
account events in order, then brackets, rates of collateral, marks; each cause's `moved` is the difference of the
printed price before and after it. The sum of all `moved` is therefore the change itself, to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache, reduce
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from monitor.digits import printed
from monitor.events import PositionKey
from monitor.risk.assessment import assess
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms

_SILENT = ("marks", "collateral_price", "bracket_change")
"""What always goes on, and is a cause only where it has moved something."""


class Baseline(Struct, frozen=True):
    """A pool and all that its liquidation prices followed from, when they were last told."""

    pool: Pool
    terms: Terms

    @property
    def encoded(self) -> bytes:
        """As it is kept. Its tables are most of that, and many have the same."""
        terms = structs.asdict(self.terms)
        terms["tables"] = {symbol: table.encoded for symbol, table in self.terms.tables.items()}
        return msgspec.json.encode({"pool": self.pool, "terms": terms})


class Cause(Struct, frozen=True, gc=False):
    """What moved a price.

    Args:
        kind: `funding_fee`, `margin_transfer`, `transfer`, `fill`, `realized_pnl`, `commission`, `marks`, …
        symbol: Which symbol it came from, where it came from one.
        asset: What the amount is of; None: the pool's own asset.
        amount: Change of the wallet (asset); None where it changed no wallet.
        quantity: Change of a position (signed), for fills.
        moved: Change of the printed liquidation price; None: there was none before, or is none after.
        forecast: Of a funding fee: what had been expected of it (asset); None: nothing had.
    """

    kind: str
    symbol: str | None = None
    amount: Decimal | None = None
    quantity: Decimal | None = None
    moved: Decimal | None = None
    asset: str | None = None
    forecast: Decimal | None = None


class Stage(Struct, frozen=True):
    """A pool after one more cause."""

    cause: Cause
    pool: Pool


class Move(Struct, frozen=True, gc=False):
    """How the liquidation price of one position has changed since it was last told.

    Args:
        before: As printed at the baseline; None: it had none, or the position was not there.
        causes: In order; their `moved` sums to after − before where both are known.
        opened: The position was not there at the baseline, or had the other sign.
        past: The pool is now at or past liquidation: the price lies on the wrong side of the mark.
    """

    key: PositionKey
    before: Decimal | None
    after: Decimal | None
    causes: tuple[Cause, ...]
    opened: bool
    past: bool = False

    @property
    def moved(self) -> Decimal | None:
        return None if self.before is None or self.after is None else self.after - self.before


def moves(
    before: Sequence[Baseline],
    stages: Sequence[Stage],
    terms: Terms,
    present: PoolRisk | None = None,
    told: Mapping[PositionKey, Decimal | None] | None = None,
) -> dict[PositionKey, Move]:
    """For each position whose liquidation price is another now, how it came from the baseline's to the present one.

    Args:
        before: The pool's baseline; several where pools have become one.
        stages: The pool after each account event since the baseline, in order of event time; where the baselines are
            of other pools, the first stage is what has become of them.
        terms: Present marks, brackets and rates.
        present: The risk of the pool on these terms, where it is known already.
        told: The printed prices at a single baseline, where they are known already.
    """
    pool = before[-1].pool
    tables = {symbol: table for one in before for symbol, table in one.terms.tables.items()}

    @cache
    def old() -> Terms:
        """What came later was not in the baseline: the present value serves, and moves nothing."""
        marks, rates = dict(terms.marks), dict(terms.rates)
        for one in before:
            marks |= one.terms.marks
            rates |= one.terms.rates
        return Terms(marks, {**terms.tables, **tables}, rates)

    known = [assess(one.pool, old()).printed_prices for one in before] if told is None else [told]
    seen = [reduce(_together, [_seen(one.pool, prices) for one, prices in zip(before, known, strict=True)])]
    causes: list[Cause] = []

    def then(cause: Cause, risk: PoolRisk) -> None:
        seen.append(_seen(risk.pool, risk.printed_prices))
        causes.append(cause)

    for stage in stages:
        pool = stage.pool
        then(stage.cause, assess(pool, old()))
    if any(tables[p.symbol] != terms.tables.get(p.symbol) for p in pool.positions if p.symbol in tables):
        then(Cause("bracket_change"), assess(pool, structs.replace(old(), tables=terms.tables)))
    if pool.assets:
        then(Cause("collateral_price"), assess(pool, structs.replace(terms, marks=old().marks)))
    risk = present if present is not None and (present.pool is pool or present.pool == pool) else assess(pool, terms)
    then(Cause("marks"), risk)

    last = seen[-1].is_long
    paths = zip(*[one.priced(last) for one in seen], strict=True)
    return {
        key: _move(key, path, causes, not held, risk.is_past)
        for key, path, held in zip(last, paths, seen[0].held(last), strict=True)
        if path[0] != path[-1]
    }


def move_between(before: PoolRisk, after: PoolRisk, i: int) -> Move:
    """How the price of one position differs between two assessments of the same positions, without the causes."""
    key = after.pool.positions[i].key
    return Move(key, printed(before.price(i)), printed(after.price(i)), (), False, after.is_past)


class _Seen(NamedTuple):
    """A pool (or several) after one cause.

    Args:
        is_long: Of each position; one of the other sign is not the same one.
        prices: As printed.
    """

    is_long: Mapping[PositionKey, bool]
    prices: Mapping[PositionKey, Decimal | None]

    def held(self, later: Mapping[PositionKey, bool]) -> list[bool]:
        """Which of these positions it has had already."""
        return [self.is_long.get(key) is is_long for key, is_long in later.items()]

    def priced(self, later: Mapping[PositionKey, bool]) -> list[Decimal | None]:
        """Their prices; None: it had no price, or was not there."""
        return [self.prices[key] if held else None for key, held in zip(later, self.held(later), strict=True)]


def _seen(pool: Pool, prices: Mapping[PositionKey, Decimal | None]) -> _Seen:
    """A pool with its prices in the order of its positions."""
    return _Seen(dict(zip(prices, [p.quantity > ZERO for p in pool.positions], strict=True)), prices)


def _together(one: _Seen, other: _Seen) -> _Seen:
    return _Seen({**one.is_long, **other.is_long}, {**one.prices, **other.prices})


def _move(key: PositionKey, path: Sequence[Decimal | None], causes: Sequence[Cause], opened: bool, past: bool) -> Move:
    """How a position's price went along this path, on which each cause brought it to the next."""
    known = path[0]
    told = []
    for cause, after in zip(causes, path[1:], strict=True):
        # A cause that takes the price away moves nothing; the one that brings it back moves it from where it was.
        moved = None if known is None or after is None else after - known
        known = known if after is None else after
        if cause.kind not in _SILENT or moved:
            told.append(structs.replace(cause, moved=moved))
    return Move(key, path[0], path[-1], tuple(told if len(told) < 2 else _merged(told)), opened, past)


def _merged(causes: Sequence[Cause]) -> list[Cause]:
    """Causes of one kind, symbol and asset as one, in order of their first."""
    merged: dict[tuple[str, str | None, str | None], Cause] = {}
    for cause in causes:
        at = (cause.kind, cause.symbol, cause.asset)
        known = merged.get(at)
        merged[at] = cause if known is None else _sum(known, cause)
    return list(merged.values())


def _sum(a: Cause, b: Cause) -> Cause:
    return structs.replace(
        a,
        amount=_plus(a.amount, b.amount),
        quantity=_plus(a.quantity, b.quantity),
        moved=_plus(a.moved, b.moved),
        forecast=_plus(a.forecast, b.forecast),
    )


def _plus(a: Decimal | None, b: Decimal | None) -> Decimal | None:
    return a if b is None else b if a is None else a + b


def adverse(move: Move, mark: Decimal) -> Decimal:
    """How much nearer to the mark the price has come (quote); negative: farther away. Zero where it is not known."""
    if move.before is None or move.after is None:
        return ZERO
    return abs(mark - move.before) - abs(mark - move.after)


def share(cause: Cause, move: Move) -> Decimal | None:
    """The cause's part of the whole move, a fraction; None where causes cancel each other."""
    moved = [c.moved for c in move.causes if c.moved]
    if not move.moved or cause.moved is None or any((part > 0) != (move.moved > 0) for part in moved):
        return None
    return cause.moved / move.moved
