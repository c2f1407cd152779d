"""The command line: `marginwatch <command>`, the same as `python -m monitor <command>`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from monitor import __version__

_EPILOG = """\
first steps:
  marginwatch demo                a simulated exchange, a broker and the real daemon, for a minute; needs no keys
  marginwatch init                write config.toml here, every key explained
  marginwatch check               find every mistake in it at once
  marginwatch run                 watch

exit status: 0 well; 1 failure (check: something was found; assess: a figure is missing); 2 wrong usage; 78 the config
cannot be used.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        return int(_run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone; there is nobody to tell
        return 1


def _run(args: argparse.Namespace) -> int:
    # Each command is imported when it is used: `marginwatch --help` must not wait for what it does not need.
    if args.command == "run":
        from monitor.commands import run

        return run.main(args.config)
    if args.command == "check":
        from monitor.commands import check

        return check.main(args.config)
    if args.command == "assess":
        from monitor.commands import assess

        return assess.main(args.snapshot, args.shock, args.json)
    if args.command == "init":
        from monitor.commands import init

        return init.main(args.directory, args.systemd)
    from monitor.commands import demo

    return demo.main(args.seconds, args.json, args.scenario)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marginwatch",
        description="Watches the margin of crypto futures accounts tick by tick, and alerts over MQTT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"marginwatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config", metavar="PATH", help="config file (default: ./config.toml, then /etc/marginwatch/config.toml)"
    )

    commands.add_parser(
        "run",
        parents=[config],
        help="the daemon",
        description="Watch until told to stop (SIGINT or SIGTERM). SIGHUP reads the rules of the config anew.",
    )
    demo = commands.add_parser(
        "demo",
        help="see it work in a minute, without keys",
        description="Starts a simulated exchange, an MQTT broker and the real daemon on this machine, and tells what"
        " the daemon publishes while a position goes bad, recovers, and the feed goes silent.",
    )
    demo.add_argument(
        "--seconds", type=float, default=40, metavar="N", help="length of the story, 15 to 55 (default 40)"
    )
    demo.add_argument("--json", action="store_true", help="print every MQTT message as a JSON line")
    demo.add_argument("--scenario", default="story", choices=["story"], help="which story (default: story)")

    commands.add_parser(
        "check",
        parents=[config],
        help="find every mistake in the config at once",
        description="Reads the config and fetches its secrets; reports every mistake with its remedy.",
    )
    assess = commands.add_parser(
        "assess",
        help="the risk of a saved account, offline",
        description="Computes margin ratio, liquidation prices and the rest from a JSON file with the exchange's own"
        " REST answers: venue, account, positionRisk, leverageBracket, premiumIndex, …",
    )
    assess.add_argument("snapshot", metavar="SNAPSHOT.json", help="the file; - reads from standard input")
    assess.add_argument(
        "--shock", action="append", default=[], metavar="SYMBOL=-5%", help="move a mark first; '*' is every symbol"
    )
    assess.add_argument("--json", action="store_true", help="print one JSON line per pool and position")

    init = commands.add_parser(
        "init",
        help="write a commented config",
        description="Writes config.toml with every key, its default, unit and use; never overwrites.",
    )
    init.add_argument("--systemd", action="store_true", help="write marginwatch.service too")
    init.add_argument("--directory", default=".", metavar="DIR", help="where to (default: here)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
