"""From a mark price on the wire to a decision: marginwatch, the scripts one would write, and the limit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import groupby, islice
from statistics import median
from typing import Any, NamedTuple

from benchmarks import scene
from benchmarks.harness import Worker, figures, ratio, spread, version_of, workers

OURS = "ours"
TITLES = {
    "bare": "bare receive",
    "limit": "C limit",
    OURS: "marginwatch",
    "usual": "python-binance",
    "ccxtpro": "ccxt.pro",
}


class Case(NamedTuple):
    """One thing to measure.

    Args:
        near: So large a part of the accounts is near a level.
        warm_up: So many frames come first and are not timed: in its first seconds a daemon finds out how far the marks
            of each pool go, and then it runs for weeks.
        rounds: How often each variant has its turn.
        frames: How many frames a turn has.
        market: How far the marks move in a second.
    """

    accounts: int
    positions: int
    near: float
    shape: scene.Shape
    warm_up: int
    rounds: int
    frames: int
    market: scene.Market = "wild"


FULL = (
    Case(1, 5, 1, "symbol", 60, 9, 200),
    Case(1, 5, 1, "array", 60, 9, 60),
    Case(10, 20, 0.3, "array", 60, 9, 40),
    Case(1_000, 20, 0.001, "array", 60, 7, 20, "usual"),
    Case(1_000, 20, 0.001, "array", 60, 7, 20),
    Case(1_000, 20, 0.01, "array", 60, 7, 10, "usual"),
    Case(1_000, 20, 0.01, "array", 60, 7, 10),
    Case(1_000, 20, 0.3, "array", 20, 5, 6),
    Case(10_000, 20, 0.001, "array", 60, 5, 12, "usual"),
    Case(10_000, 20, 0.001, "array", 60, 5, 12),
    Case(10_000, 20, 0.01, "array", 60, 5, 6, "usual"),
    Case(10_000, 20, 0.01, "array", 60, 5, 6),
)
QUICK = (
    Case(1, 5, 1, "symbol", 12, 3, 60),
    Case(1, 5, 1, "array", 6, 3, 20),
    Case(100, 20, 0.01, "array", 20, 3, 4),
)


_CLOSE = 2, 3
"""A level and how severe an incident there may be all the same: liquidation is close."""


class Disagreement(Exception):
    """The variants have seen the same frames and come to different decisions."""


async def measure(quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every case. Raises `Disagreement`."""
    tell(
        "From a frame on the wire to a decision, in microseconds; wall and CPU, and how many times ours each takes"
        " (above 1 we are faster). CPU is that of the whole process: receiving, TLS, decoding, deciding."
    )
    for variant, why_not in variants().items():
        if why_not:
            tell(f"left out: {TITLES[variant]}, {why_not}")
    tell("")
    found = []
    for case in QUICK if quick else FULL:
        found.append(await _case(case))
        tell(_text(found[-1]))
    return found


def variants() -> dict[str, str]:
    """Every variant, and why it is left out where it is."""
    missing = {}
    if shutil.which("cc") is None:
        missing["limit"] = "there is no C compiler"
    if version_of("ccxt") is None:
        missing["ccxtpro"] = "ccxt is not installed: pip install -e .[bench]"
    return {name: missing.get(name, "") for name in TITLES}


async def _case(case: Case) -> dict[str, Any]:
    """Run one case.

    Raises:
        Disagreement: The decisions are not the same.
    """
    given = scene.make(case.accounts, case.positions, case.near)
    stream = scene.frames(given, case.shape, case.market)
    warm_up = list(islice(stream, case.warm_up))
    turns = [list(islice(stream, case.frames)) for _ in range(case.rounds)]
    chosen = [name for name, why_not in variants().items() if not why_not]
    async with workers(chosen, case.accounts, case.positions, case.near) as running:
        for worker in running:
            await worker.run(_as_wanted(worker, warm_up))
            worker.rounds.clear()
        for frames in turns:
            for worker in running:
                await worker.run(_as_wanted(worker, frames))
        ticks = [await worker.ask("tick") for worker in running if worker.variant == OURS]
        reports = {worker.variant: await worker.ask("report") for worker in running}
    crossings = agreed(reports)
    found = {
        worker.variant: {
            "wall_us": figures([done.wall for done in worker.rounds]),
            "cpu_us": figures([done.cpu for done in worker.rounds]),
        }
        for worker in running
    }
    return {
        **case._asdict(),
        "held_symbols": len(given.held),
        "frame_bytes": round(median(len(frame) for frame in turns[0])),
        "crossings": len(crossings),
        "told": reports[OURS]["told"],
        "variants": found,
        "times_ours": {
            name: {key: ratio(found[name][key], found[OURS][key]) for key in ("wall_us", "cpu_us")} for name in found
        },
        "beyond_bare_cpu_us": round(
            median(
                a - b for a, b in zip(found[OURS]["cpu_us"]["rounds"], found["bare"]["cpu_us"]["rounds"], strict=True)
            ),
            1,
        ),
        "tick_cpu_us": round(ticks[0]["cpu_us"]),
    }


def _as_wanted(worker: Worker, frames: Sequence[bytes]) -> Sequence[bytes]:
    """ccxt reads its frames from `/ws`, where they have no envelope; all others from `/stream`."""
    return [frame[frame.index(b'"data":') + 7 : -1] for frame in frames] if worker.variant == "ccxtpro" else frames


def agreed(reports: dict[str, Any]) -> list[Any]:
    """The level crossings that all scripts have seen, each with its frame and account; our incidents fit them.

    An incident must be as severe as the level demands, from the same frame on. It may be more severe: it holds on for
    a while when the level falls, and it is critical where liquidation is close.
    """
    levels: dict[str, list[Any]] = {
        name: report["crossings"] for name, report in reports.items() if "crossings" in report
    }
    first, *others = levels
    for other in others:
        if odd := sorted(set(map(tuple, levels[first])) ^ set(map(tuple, levels[other]))):
            raise Disagreement(f"{first} and {other} differ {len(odd)} times, first {odd[0]}")
    level_of: dict[str, int] = {}
    severity_of: dict[str, int] = {}
    happened = [(*crossing, level_of) for crossing in levels[first]]
    happened += [(*change, severity_of) for change in reports[OURS]["severities"]]
    for frame, changes in groupby(sorted(happened, key=lambda change: change[0]), key=lambda change: change[0]):
        before = dict(severity_of)
        for _, account, value, known in (touched := list(changes)):
            known[account] = value
        for _, account, _, _ in touched:
            level, severity = level_of.get(account, 0), severity_of.get(account, 0)
            has_risen = severity > before.get(account, 0)
            if severity < level or (has_risen and severity > level and (level, severity) != _CLOSE):
                raise Disagreement(f"frame {frame}: {account} is at level {level}, its incident at {severity}")
    return levels[first]


def _text(case: dict[str, Any]) -> str:
    name = f"{case['accounts']:,} × {case['positions']}, {case['shape']}, {case['market']}"
    rows = [f"{name:27}{'wall: median (rounds)':>23}{'p99':>11}{'CPU: median (rounds)':>28}{'÷ ours':>9}{'CPU':>9}"]
    found = {TITLES[variant]: case["variants"][variant] for variant in TITLES if variant in case["variants"]}
    for (title, one), times in zip(found.items(), case["times_ours"].values(), strict=True):
        wall, cpu = one["wall_us"], one["cpu_us"]
        ratios = f"{times['wall_us']:>9.3g}{times['cpu_us']:>9.3g}"
        rows.append(f"  {title:18}{spread(wall):>30}{wall['p99']:>11,.0f}{spread(cpu):>28}{ratios}")
    rows += [
        f"  rounds, {title}: " + " ".join(f"{r:,.0f}" for r in one["wall_us"]["rounds"]) for title, one in found.items()
    ]
    return "\n".join(
        (
            *rows,
            f"  {case['frame_bytes']:,} bytes a frame, {case['held_symbols']} symbols held, {case['near']:.1%} of the"
            f" accounts near a level; {case['crossings']} crossings, the same in all; {case['told']} told",
            f"  our CPU beyond the bare receive {case['beyond_bare_cpu_us']:,.0f};"
            f" of the tick each second {case['tick_cpu_us']:,}\n",
        )
    )
