"""What a frame costs as the work grows: CPU from its bytes to the decision, in this process, without a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from statistics import median
from typing import Any

from benchmarks import away, scene
from benchmarks.harness import timed
from benchmarks.limit import Kernel
from benchmarks.ours import MARKET, Watch
from benchmarks.usual import Script
from monitor.venues import VENUES

_FRAMES = 12
_WARM_UP = 3


async def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Of each panel: what grows, its values, and of each line the microseconds at these."""
    found = {
        "accounts": _panel(
            "accounts of 20 positions", (1, 10, 100) if quick else (1, 10, 100, 1_000), lambda n: _cost(n, 20)
        ),
        "positions": _panel(
            "positions of one account", (1, 10, 100) if quick else (1, 5, 20, 100, 400), lambda n: _cost(1, n)
        ),
        "symbols": _panel("symbols held, of 600", (1, 30, 600) if quick else (1, 5, 30, 150, 600), _reading),
        "waiting": _panel(
            "events that no broker takes", (1, 100, 10_000) if quick else (1, 10, 100, 1_000, 10_000), _waiting
        ),
    }
    for panel in found.values():
        tell(f"{panel['title']:34}" + "".join(f"{x:>10,}" for x in panel["at"]))
        for name, values in panel["cpu_us"].items():
            tell(f"  {name:32}" + "".join(f"{value:>10,.0f}" for value in values))
    return found


def _panel(title: str, at: Sequence[int], cost: Callable[[int], dict[str, float]]) -> dict[str, Any]:
    costs = [cost(n) for n in at]
    return {"title": title, "at": list(at), "cpu_us": {name: [round(c[name], 1) for c in costs] for name in costs[0]}}


def _cost(accounts: int, positions: int) -> dict[str, float]:
    """One frame of all symbols, read and decided; one account in a hundred is near a level."""
    given = scene.make(accounts, positions, near=0.01)
    held, decode = frozenset(given.held), VENUES[MARKET].decode_market
    watch, script, kernel = Watch(given), Script(given), Kernel(given)
    took: dict[str, list[float]] = {"marginwatch": [], "json and Decimal": [], "C limit": []}
    for raw in islice(scene.frames(given, "array"), _WARM_UP + _FRAMES):
        with timed(took["marginwatch"]):
            effects = watch.step(decode(raw, MARKET, held))
        watch.note(effects)
        with timed(took["json and Decimal"]):
            script.on_message(json.loads(raw))
        with timed(took["C limit"]):
            kernel.scan(raw)
            crossed = kernel.recompute()
        kernel.note(crossed)
    medians = {name: median(values[_WARM_UP:]) for name, values in took.items()}
    return {**medians, "marginwatch, once a second": watch.tick()["cpu_us"]}


def _reading(symbols: int) -> dict[str, float]:
    """A frame of all symbols, of which so many are held, read and no more."""
    given = scene.make(1, 5, near=0)
    held, decode = frozenset(scene.SYMBOLS[:symbols]), VENUES[MARKET].decode_market
    took: dict[str, list[float]] = {"marginwatch: to marks": [], "json: to objects": []}
    for raw in islice(scene.frames(given, "array"), 5 * _FRAMES):
        with timed(took["marginwatch: to marks"]):
            decode(raw, MARKET, held)
        with timed(took["json: to objects"]):
            json.loads(raw)
    return {name: median(values) for name, values in took.items()}


def _waiting(events: int) -> dict[str, float]:
    """A frame of one symbol, from its bytes to what waits in the outbox."""
    given = scene.make(1, 5, near=1)
    path = away.Path(given, events)
    took: list[float] = []
    for n, raw in enumerate(islice(scene.frames(given, "symbol"), 200)):
        with timed(took):
            path.take(raw, scene.START_MS + 1000 * (n + 1))
    return {"marginwatch: to the outbox": median(took)}
