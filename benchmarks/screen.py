"""The screen of many accounts alone, beside a C kernel that computes every position; and what a screened mark costs in
calls of Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from types import FrameType
from typing import Any

from benchmarks import scene
from benchmarks.decisions import variants
from benchmarks.harness import figures, ratio, spread, timed
from benchmarks.limit import Kernel
from benchmarks.ours import MARKET, POOL, Watch, marks_of
from monitor.risk.columns import Columns
from monitor.risk.quiet import Holding, Limits, Shape, Tiers

_TITLES = {
    "screen": "screen",
    "whole": "screen, every pool measured anew",
    "limit": "C kernel that computes them all",
}
_STEP = Decimal("0.000001")
"""Marks move by this part back and forth, so that no pool leaves its zone."""


async def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    accounts, rounds = (1_000, 5) if quick else (10_000, 15)
    given = scene.make(accounts, 20, near=0)
    positions = sum(len(account.holdings) for account in given.accounts)
    columns, kernel = resting(given), None if variants()["limit"] else Kernel(given)
    held = tuple(given.held)
    marks = {sign: {s: float(price * (1 + sign * _STEP)) for s, price in given.prices.items()} for sign in (1, -1)}
    took: dict[str, list[list[float]]] = {name: [] for name in _TITLES}
    for n in range(rounds):
        for name in took:
            took[name].append([])
        for m in range(10):
            moved = marks[1 if (n + m) % 2 else -1]
            for name in ("screen", "whole"):
                if name == "whole":
                    columns._pools.nearest[:] = 0.0
                with timed(took[name][-1]):
                    columns.mark(MARKET, held, [moved[symbol] for symbol in held])
                    left = columns.left(0.0, lambda key: True)
                assert not left, "a pool has left its zone"
            if kernel is not None:
                with timed(took["limit"][-1]):
                    for i, symbol in enumerate(scene.SYMBOLS):
                        kernel.marks[i] = moved[symbol]
                    crossed = kernel.recompute()
                assert not crossed, "an account has crossed a level"
    found = {name: figures(values) for name, values in took.items() if values[0]}
    calls = {accounts: calls_of(accounts) for accounts in ((20, 100) if quick else (100, 1_000))}
    result = {
        "positions": positions,
        "resting_pools": len(columns),
        "bytes_per_position": round(columns.nbytes / positions, 1),
        "cpu_us": found,
        "times_limit": ratio(found["screen"], found["limit"]) if kernel else None,
        "whole_times_limit": ratio(found["whole"], found["limit"]) if kernel else None,
        "calls": calls,
    }
    tell(
        f"{positions:,} positions in {len(columns):,} pools that rest, every symbol marked, CPU in microseconds:\n"
        + "".join(f"  {_TITLES[name]:34} {spread(one)}\n" for name, one in found.items())
        + f"  screen ÷ C kernel: {result['times_limit']}; {result['bytes_per_position']} bytes a position\n"
        + "calls of Python and C in one step of the core with all its marks, while all pools rest: "
        + ", ".join(f"{n:,} accounts {c['calls']:,} ({c['calls_per_mark']:g} a mark)" for n, c in calls.items())
    )
    return result


def resting(given: scene.Scene) -> Columns:
    """A screen in which every account of the scene rests, watched for its margin ratio alone."""
    tiers = Tiers(*zip(*((float(t.floor), float(t.rate), float(t.amount)) for t in given.tiers), strict=True))
    prices = {symbol: float(price) for symbol, price in given.prices.items()}
    columns = Columns()
    for account in given.accounts:
        held = (Holding(h.symbol, float(h.quantity), float(h.entry_price), tiers) for h in account.holdings)
        shape = Shape(float(account.wallet_balance), tuple(held))
        columns.rest((account.name, POOL), MARKET, shape, prices, Limits(ratio_below=0.5))
    columns.mark(MARKET, tuple(prices), list(prices.values()))
    lacking = columns.renew(columns.left(0.0, lambda key: True), 0.0, lambda key: True)  # with the first marks
    assert not lacking, "a pool has no zone"
    return columns


def calls_of(accounts: int) -> dict[str, float]:
    """How many calls, of Python or of C, a step makes whose marks leave every pool at rest."""
    given = scene.make(accounts, 20, near=0)
    watch = Watch(given)
    count = 0

    def counted(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for n in (1, 2):  # they come to rest, and with the next marks zones are found
        watch.step([marks_of(given, scene.START_MS + 1000 * n)])
    still = marks_of(given, scene.START_MS + 3000)
    sys.setprofile(counted)
    watch.step([still])
    sys.setprofile(None)
    marks = len(still.symbols)
    return {"marks": marks, "calls": count, "calls_per_mark": round(count / marks, 2)}
