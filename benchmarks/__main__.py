"""Command line: `python -m benchmarks [--quick] [--only NAME …] [--json FILE] [--plot FILE] [--gates]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import decisions, delivery, gates, growth, many, plot, running, screen, storm
from benchmarks.harness import about

GROUPS = {
    "decisions": decisions.measure,
    "screen": screen.measure,
    "delivery": delivery.measure,
    "storm": storm.measure,
    "start": running.start,
    "idle": running.idle,
    "growth": growth.measure,
    "many": many.measure,
}
_QUICK = ("decisions", "screen", "delivery", "start")
"""What half a minute is enough for."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What a mark price costs, from the wire to a subscriber, beside other ways to do it.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under half a minute; the figures are rough")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument(
        "--accounts-per-connection", type=int, default=1, metavar="N", help="how many share one, with `many`"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what `growth` has found there, as SVG")
    parser.add_argument("--gates", action="store_true", help="exit with 1 where a ratio is worse than it may ever be")
    arguments = parser.parse_args()
    groups = GROUPS | {"many": partial(many.measure, accounts_per_connection=arguments.accounts_per_connection)}
    result: dict[str, Any] = {**about(), "quick": arguments.quick}
    machine, versions = result["machine"], result["versions"]
    print(f"{result['at']}, commit {result['commit']}, {machine['cpu']} × {machine['cores']}, {machine['system']}")
    print(f"load {machine['load']};", ", ".join(f"{name} {number or 'missing'}" for name, number in versions.items()))
    for name in arguments.only or (_QUICK if arguments.quick else GROUPS):
        print(f"\n== {name}", flush=True)
        try:
            result[name] = asyncio.run(groups[name](arguments.quick, lambda text: print(text, flush=True)))
        except decisions.Disagreement as exc:
            print(f"the variants disagree: {exc}", file=sys.stderr)
            return 1
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if arguments.plot is not None and "growth" in result:
        arguments.plot.write_text(plot.svg(result["growth"]), "utf-8")
    missed = gates.missed(result) if arguments.gates else []
    for line in missed:
        print(f"gate missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
