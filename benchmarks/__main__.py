"""Command line: `python -m benchmarks [--quick] [--json]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from benchmarks.harness import FULL, QUICK, Disagreement, about, measure

_HEAD = f"{'':17}{'':10}{'ours':>26}{'baseline':>26}{'ratio':>8}{'mean':>8}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="From a frame on the wire to a decision: marginwatch beside the usual script, on the same frames.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 30 s; the figures are rough")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**about(), "quick": arguments.quick, "cases": []}
    if not arguments.json:
        print(_heading(result), flush=True)
    try:
        for case in QUICK if arguments.quick else FULL:
            measured = asyncio.run(measure(case))
            result["cases"].append(measured)
            if not arguments.json:
                print(_rows(measured), flush=True)
    except Disagreement as exc:
        print(f"the variants disagree: {exc}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(result, indent=2))
    return 0


def _heading(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    return "\n".join(
        (
            f"{result['at']}, {machine['cpu']} × {machine['cores']}, {machine['system']}, load {machine['load']}",
            ", ".join(f"{name} {number}" for name, number in versions.items()),
            "Microseconds: median of the rounds (smallest – largest). ratio: ours ÷ baseline, below 1 we are faster;",
            "of the median frame and, in the last column, of the mean frame.",
            "",
            _HEAD,
        )
    )


def _rows(case: dict[str, Any]) -> str:
    name = f"{case['accounts']} × {case['positions']} {case['shape']}"
    rows: list[str] = []
    for title, key, mean in (
        ("decision", "decision_us", "decision_mean_us"),
        ("recompute", "recompute_us", "recompute_mean_us"),
    ):
        cells = "".join(f"{_cell(case[variant][key]):>26}" for variant in ("ours", "baseline"))
        ratios = f"{case['ratio'][key]:>8.2f}{case['ratio'][mean]:>8.2f}"
        rows.append(f"{name if not rows else '':17}{title:10}{cells}{ratios}")
    rows.append(f"{'':17}{'tick':10}{_cell(case['tick_us']):>26}")
    rows.append(
        f"{'':17}{case['frame_bytes']} bytes a frame, {case['held_symbols']} symbols held, {case['rounds']} rounds of "
        f"{case['frames']} frames; {case['crossings']} level crossings, the same in both; {case['told']} told\n"
    )
    return "\n".join(rows)


def _cell(spread: dict[str, float]) -> str:
    return f"{spread['median']:,.0f} ({spread['min']:,.0f} – {spread['max']:,.0f})"


if __name__ == "__main__":
    sys.exit(main())
