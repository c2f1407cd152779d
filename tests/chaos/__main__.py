"""`python -m tests.chaos --seed N --seconds S [--json]`: one run, its figures, exit 1 on any finding."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Report, Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long things go wrong")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--story", action="store_true", help="also say what happened when")
    parser.add_argument(
        "--keep", type=Path, help="new folder for logs, store and the broker's files, else they are removed"
    )
    args = parser.parse_args()
    for name in ("aiohttp.server", "asyncio", "mqtt"):  # they complain of connections that we cut ourselves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if args.keep is not None:
        args.keep.mkdir(parents=True)  # one run each: what an earlier one has left would be known to the daemon
        return _say(asyncio.run(_bounded(args.seed, args.seconds, args.keep)), args)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        return _say(asyncio.run(_bounded(args.seed, args.seconds, Path(folder))), args)


async def _bounded(seed: int, seconds: float, folder: Path) -> Report:
    async with asyncio.timeout(seconds + 240):
        return await Run(seed, seconds, folder).play()


def _say(report: Report, args: argparse.Namespace) -> int:
    if args.json:
        shown = {
            "seed": report.seed,
            "seconds": report.seconds,
            **report.figures,
            "notes": report.notes,
            "findings": [{"kind": f.kind, "at": f.at, "text": f.text} for f in report.findings],
        }
        print(json.dumps(shown, ensure_ascii=False))
        return 1 if report.findings else 0
    if args.story or report.findings:
        print("\n".join(report.story))
    figures = ", ".join(f"{name} {value}" for name, value in report.figures.items())
    print(f"seed {report.seed}, {report.seconds:g} s: {figures}")
    for note in report.notes:
        print(note)
    for finding in report.findings:
        print(f"FINDING {finding.kind}: {finding.text}")
    print("nothing found" if not report.findings else f"{len(report.findings)} findings")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
