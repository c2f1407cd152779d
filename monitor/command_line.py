"""The command line: each command with its options and its help, and what is run for it.

A command is imported when it is run: `marginwatch --help` must not wait for what it does not need.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any

from monitor import __version__

_Run = Callable[[argparse.Namespace], int]
_Option = Callable[[argparse._ActionsContainer], object]

_EPILOG = """\
first steps:
  marginwatch demo                a simulated exchange, a broker and the real daemon, for a minute; needs no keys
  marginwatch init                write config.toml here, every key explained
  marginwatch check --online      find every mistake in it at once, in your key, links and broker too
  marginwatch run                 watch
  mosquitto_sub -v -t 'marginwatch/+/event/#'     see what is told, in another terminal

exit status: 0 well; 1 failure (check: something is to be mended; assess: a figure is missing); 2 wrong usage; 78 the
config cannot be used; 130 cut short by Ctrl-C. status and watch have their own. `marginwatch COMMAND --help` tells
more.
"""


PARSER = argparse.ArgumentParser(
    prog="marginwatch",
    description="Watches the margin of crypto futures accounts tick by tick, and alerts over MQTT.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
"""Of what it reads, `run(args)` runs the command and gives the exit status."""
PARSER.add_argument("--version", action="version", version=f"marginwatch {__version__}")
_COMMANDS = PARSER.add_subparsers(dest="command", required=True, metavar="command")


def _command(
    name: str, help: str, description: str, *options: _Option, epilog: str | None = None
) -> Callable[[_Run], _Run]:
    """One more command, run by what this decorates.

    Args:
        help: What is said of it in the list of all commands.
        description: Printed as it is written where this or the epilog has several lines, else wrapped.
    """
    is_as_written = "\n" in f"{description}{epilog or ''}"
    form = argparse.RawDescriptionHelpFormatter if is_as_written else argparse.HelpFormatter
    parser = _COMMANDS.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=form)
    for option in options:
        option(parser)

    def run_by(run: _Run) -> _Run:
        parser.set_defaults(run=run)
        return run

    return run_by


def _option(*names: str, **what: Any) -> _Option:
    """An option or an argument, as argparse takes it."""
    return lambda parser: parser.add_argument(*names, **what)


def _one_of(*options: _Option) -> _Option:
    """Options of which one must be given, and no more."""

    def add(parser: argparse._ActionsContainer) -> None:
        group = parser.add_mutually_exclusive_group(required=True)
        for option in options:
            option(group)

    return add


def _duration(text: str) -> float:
    """`30m`, `2h`, `7d` as seconds."""
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    try:
        length = float(text[:-1]) * seconds[text[-1:]]
        if not 0 <= length < 1e10:  # nor nan
            raise ValueError(text)
        return length
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 30m, 2h or 1d") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
        if not 0 < seconds <= 3600:  # nor nan
            raise ValueError(text)
        return seconds
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0") from None


_CONFIG = _option(
    "--config", metavar="PATH", help="config file (default: ./config.toml, then /etc/marginwatch/config.toml)"
)


@_command(
    "run",
    "the daemon",
    "Watch until told to stop (SIGINT or SIGTERM). SIGHUP takes the rules, the accounts and the log of the config anew;"
    " all else in it needs a restart.",
    _CONFIG,
)
def _run(args: argparse.Namespace) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until it can be obeyed, and ends nobody
    from monitor.commands import run

    return run.main(args.config)


_SCENARIOS = {
    "crash": "a margin ratio goes bad and recovers, with margin added, funding paid, and a feed that goes silent",
    "funding": "a payment is forecast, charged, and told with its cause and what it did; the interval is changed",
    "hedge": "a hedged pair has a liquidation price on each side, until auto-deleveraging takes one leg",
    "coinm": "inverse contracts in coins, one margin pool for each coin, and a fall",
    "multi-assets": "collateral falls with no account event; auto-exchange; the mode is switched off",
    "liquidation": "margin call, partial liquidation, recovery, then bankruptcy and auto-deleveraging",
}


@_command(
    "demo",
    "see it work in a minute, without keys",
    "Starts a simulated exchange, an MQTT broker and the real daemon on this machine, and tells what the daemon\n"
    "publishes while something happens to an account.",
    _option(
        "--seconds", type=float, default=40, metavar="N", help="about how long the story is, 15 to 60 (default 40)"
    ),
    _option("--json", action="store_true", help="print every MQTT message as a JSON line"),
    _option(
        "--scenario", default="crash", choices=_SCENARIOS, metavar="NAME", help="which story, see below (default crash)"
    ),
    epilog="scenarios:\n" + "\n".join(f"  {name:<14}{what}" for name, what in _SCENARIOS.items()),
)
def _demo(args: argparse.Namespace) -> int:
    from monitor.commands import demo

    return demo.main(args.seconds, args.json, args.scenario)


_CHECK = """\
--online looks at this machine's clock, at REST, and for each account at its key (is it valid, may it trade or withdraw,
is it bound to addresses), its private stream, and the first mark of the market stream; then at the broker: login, MQTT
version, a message under the prefix and back, retained messages, another daemon under the prefix. It changes nothing at
the exchange, and may be run beside the daemon.

A key that may trade or withdraw is an error: marginwatch only reads. Where that is meant, the account says
accept_trading_key = true. Where nothing says what a key may do (testnets), that is unknown, and no error.

--test-alert publishes <prefix>/<account>/event/<severity>/margin_ratio with "test": true and a title that begins with
TEST: what wakes your phone on a real one must wake it now.

  marginwatch check
  marginwatch check --online
  marginwatch check --online --test-alert
  marginwatch check --test-alert warning

Lines begin with ok, note (good to know, or unknown), warning (works, could be better) or error. Exit status: 0; 1 with
any error.
"""


@_command(
    "check",
    "find every mistake at once: in the config, and online in keys, links and broker",
    "Reads the config and fetches its secrets; reports every mistake with its remedy. Without options\n"
    "it connects to nothing.",
    _CONFIG,
    _option("--online", action="store_true", help="ask the exchange and the broker, too"),
    _option(
        "--test-alert",
        nargs="?",
        const="critical",
        choices=("info", "notice", "warning", "critical", "liquidation"),
        metavar="SEVERITY",
        help="publish a test alert, to see it arrive: info to liquidation (default critical)",
    ),
    epilog=_CHECK,
)
def _check(args: argparse.Namespace) -> int:
    from monitor.commands import check

    return check.main(args.config, args.online, args.test_alert)


_WHAT_IF = """\
what if: changes are made to the account before it is computed, always in the order of the list above: shocks,
transfers, margin added, reductions, closes. Each may be given several times (shocks: once for each symbol); within a
kind the order given holds. What is left out: commission, slippage (parts are closed at the mark, shocked or not), and
the exchange's own limits, such as the initial margin that must stay in a wallet.

  marginwatch assess account.json
  marginwatch assess account.json --shock '*=-10%' --shock BTCUSDT=-5% --transfer -500 --reduce ETHUSDT:short=50%

Realized PnL goes to the cross wallet. A part of an isolated position takes its share of the isolated wallet there too,
so the margin ratio of the rest falls only where a smaller position needs less margin per notional; margin added helps.

Exit status: 0; 1 a figure is missing, or the file cannot be read; 2 an option that cannot be meant.
"""


@_command(
    "assess",
    "the risk of a saved account, offline",
    "Computes margin ratios, liquidation prices and the rest from a JSON file with the exchange's own\n"
    "REST answers, unchanged: venue, accountConfig, account, positionRisk, symbolConfig, leverageBracket,\n"
    "premiumIndex, assetIndex, exchangeInfo. What is absent is derived, or named as missing.",
    _option("snapshot", metavar="SNAPSHOT.json", help="the file; - reads from standard input"),
    _option("--json", action="store_true", help="print one JSON line per pool and position, after changes"),
    _option(
        "--shock",
        action="append",
        default=[],
        metavar="SYMBOL=-5%",
        help="move the mark of a held symbol; '*' is every symbol that has no shock of its own",
    ),
    _option(
        "--transfer",
        action="append",
        default=[],
        metavar="[ASSET=]AMOUNT",
        help="deposit into the cross wallet of a margin asset; negative: withdraw (without ASSET: the only one)",
    ),
    _option(
        "--add-margin",
        action="append",
        default=[],
        metavar="[SYMBOL[:SIDE]=]AMOUNT",
        help="add new money to the pool that holds this position (long or short): its isolated or the cross wallet;"
        " without SYMBOL: to the pool with the highest margin ratio by then",
    ),
    _option(
        "--reduce",
        action="append",
        default=[],
        metavar="SYMBOL[:SIDE]=PART",
        help="close a part of a position at its mark: 50%% of it, or a quantity such as 0.25",
    ),
    _option(
        "--close", action="append", default=[], metavar="SYMBOL[:SIDE]", help="close all of a position at its mark"
    ),
    epilog=_WHAT_IF,
)
def _assess(args: argparse.Namespace) -> int:
    from monitor.commands import assess

    return assess.main(args.snapshot, args.shock, args.json, args.transfer, args.add_margin, args.reduce, args.close)


_STATUS = """\
exit status, as Nagios, Icinga, Zabbix and others read it:
  0 ok        accounts are watched, and nothing above a notice is open
  1 warning   an incident of severity warning is open
  2 critical  a worse one is open; or blind: an input is old or unknown; or dead: the daemon is offline, an account
              has no state, or its state is older than it says it is good for
  3 unknown   cannot tell: wrong usage, the config cannot be used, the broker cannot be reached, or does not show the
              state of each of very many accounts in time (give a longer --timeout), or the daemon's clock is more than
              10 s ahead of this machine's, so that no age means anything

Ages are told by this machine's clock. Where it is ahead of the daemon's, a state may be called dead too early.

  marginwatch status --config /etc/marginwatch/config.toml
  marginwatch status --account main --json | jq .text

After the | stand margin ratio and distance to liquidation as fractions, and the age of the state, of each account; U
where that is unknown or too old.
"""


@_command(
    "status",
    "how it stands, in one line with an exit status",
    "Asks the broker what the running daemon has last said of itself and of each account. Prints one\n"
    "line. Needs no key of an exchange: of the config only [mqtt] and the names of the accounts are used.",
    _CONFIG,
    _option("--account", metavar="NAME", help="of this account alone, with what belongs to no account"),
    _option("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="answer within so many (default 5)"),
    _option("--json", action="store_true", help="print it as one JSON line"),
    epilog=_STATUS,
)
def _status(args: argparse.Namespace) -> int:
    from monitor.commands import status

    return status.main(args.config, args.account, args.timeout, args.json)


_WATCH = """\
On the screen: per account its margin pools, with a bar that is full at liquidation and changes its colour at the levels
of the config; its positions, with a bar from liquidation (left) over the mark to the entry (right); the next funding;
the open incidents, the worst first; and how recent all of it is. What is too old, or of a daemon or broker that is
away, is dimmed and has its age.

Without a terminal (a pipe, a file, a service), or with TERM=dumb, it prints a line for each change, and one a minute.
--once prints a table and ends with the status of `marginwatch status`: 0 ok, 1 warning, 2 critical, blind or dead,
3 cannot tell. NO_COLOR is honoured; Ctrl-C ends it. The table needs the package rich: in the checkout,
pip install '.[watch]'.
"""


@_command(
    "watch",
    "a live table in the terminal",
    "Shows what the running daemon tells the broker: pools, positions, incidents, links.",
    _CONFIG,
    _option("--once", action="store_true", help="print one table and end, with a status"),
    _option(
        "--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="of --once: answer within so many (default 5)"
    ),
    epilog=_WATCH,
)
def _watch(args: argparse.Namespace) -> int:
    from monitor.commands import watch

    return watch.main(args.config, args.once, args.timeout)


@_command(
    "ack",
    "say that you have seen an incident: no repeats",
    "Tells the running daemon, over MQTT, that somebody has seen an incident: it is not repeated any"
    " more, unless it worsens. Needs [cmd] enabled = true. The daemon's log says what became of it.",
    _CONFIG,
    _option("incident_id", help="as in its topic, its events or `marginwatch history --json`"),
    epilog="marginwatch ack main.cross-usdt.margin_ratio.1795248000412",
)
def _ack(args: argparse.Namespace) -> int:
    from monitor.commands import steer

    return steer.ack(args.config, args.incident_id)


@_command(
    "silence",
    "hear nothing of a rule or subject for a while",
    "Tells the running daemon, over MQTT, to keep back messages for a while. What still stands when\n"
    "the silence ends is told then. Never kept back: orders that the exchange sends, the opening of data_stale,\n"
    "and a pool that is being liquidated. At most 7 days. Needs [cmd] enabled = true. The daemon's log says what\n"
    "became of it. Name at least one of account, rule and subject.",
    _CONFIG,
    _option("--account", help="of this account alone"),
    _option("--rule", help="of this rule alone"),
    _option("--subject", help="of this pool, position or link alone, as in the topic"),
    _one_of(
        _option("--for", dest="for_s", type=_duration, metavar="TIME", help="such as 30m, 2h or 1d"),
        _option("--end", dest="for_s", action="store_const", const=0.0, help="end an earlier one"),
    ),
    epilog="marginwatch silence --rule funding_forecast --for 2h\n"
    "marginwatch silence --account main --subject cross-usdt --for 30m\n"
    "marginwatch silence --rule funding_forecast --end",
)
def _silence(args: argparse.Namespace) -> int:
    from monitor.commands import steer

    about = {"account": args.account, "rule": args.rule, "subject": args.subject}
    return steer.silence(args.config, about, args.for_s)


_HISTORY = """\
columns: LASTED is up to now where it is open; PEAK is the highest severity it was told with; ENDED is how: open,
recovered, position_closed, position_gone, partly_liquidated, liquidated, adl, settled, pool_replaced, rule_changed,
noted (a single event that was never open), or "not recorded" (the store was away, or its account is watched no more).

  marginwatch history --since 7d
  marginwatch history --incident main.cross-usdt.margin_ratio.1795248000412
  marginwatch history --json | jq 'select(.peak_severity == "critical")'

Events are kept for [store] keep_days after the broker has them. Exit status: 0; 1 an unknown id (the nearest are named)
or no store that can be read; 78 the config cannot be used.
"""


@_command(
    "history",
    "what has happened: incidents from the store",
    "Lists the incidents that were open at some time of the last hours or days, or tells one of them\n"
    "event by event. Reads the store only, and may be run while the daemon runs. Times are UTC.",
    _CONFIG,
    _option(
        "--since", type=_duration, default="24h", metavar="TIME", help="how far back: 30m, 24h or 7d (default 24h)"
    ),
    _option("--incident", metavar="ID", help="every event of this incident, however old; the id of an event does too"),
    _option("--bundle", metavar="OUT", help="copy what the exchange said around the incident to OUT, to be replayed"),
    _option("--json", action="store_true", help="print one JSON line per incident, or per event of one"),
    epilog=_HISTORY,
)
def _history(args: argparse.Namespace) -> int:
    from monitor.commands import history

    if args.bundle is not None and args.incident is None:
        print("marginwatch history: --bundle needs the --incident that it is for", file=sys.stderr)
        return 2
    return history.main(args.config, args.since, args.incident, args.json, args.bundle)


@_command(
    "record",
    "write down what the exchange says, for replay and rehearse",
    "Connects as the daemon does and writes every frame and answer into a session file, without keys\n"
    "and secrets, until it is told to stop (Ctrl-C). Publishes nothing. The file shows balances and positions.",
    _CONFIG,
    _option("--out", required=True, metavar="FILE", help="the session file; must not exist yet"),
)
def _record(args: argparse.Namespace) -> int:
    from monitor.commands import record

    return record.main(args.config, args.out)


@_command(
    "replay",
    "a recorded session once more, as fast as it goes",
    "Reads a session file and prints every event that it leads to; the same file gives the same output.",
    _option("session", metavar="FILE", help="as `marginwatch record` or a bundle of `history` wrote it"),
    _option("--config", metavar="PATH", help="take rules, labels and prefix from this config"),
    _option("--json", action="store_true", help="print every MQTT message as a JSON line"),
)
def _replay(args: argparse.Namespace) -> int:
    from monitor.commands import replay

    return replay.main(args.session, args.config, args.json)


@_command(
    "rehearse",
    "try other rules on a recorded session",
    "Reads a session file with the old rules and with new ones, and shows what is told otherwise: + only with the new,"
    " - only with the old, ~ with another severity. Of the configs only rules and labels count.",
    _option("session", metavar="FILE", help="a session file"),
    _option("--config", required=True, metavar="NEW.toml", help="a whole config, with the new rules"),
    _option("--old", metavar="OLD.toml", help="the config with the old ones (default: those it was recorded with)"),
    _option("--json", action="store_true", help="print one JSON line per difference"),
)
def _rehearse(args: argparse.Namespace) -> int:
    from monitor.commands import rehearse

    return rehearse.main(args.session, args.config, args.old, args.json)


@_command(
    "forget",
    "clear what is retained at the broker, for a removal",
    "Empties every retained topic below the prefix of the config, and what Home Assistant was told of\n"
    "its accounts, and lists them. For a removal, or before the prefix is changed. Topics of a daemon whose own\n"
    "prefix lies below this one stay.",
    _CONFIG,
    _option("--force", action="store_true", help="even though the daemon is said to be online"),
    epilog="Exit status: 0; 1 the daemon is online, the broker is away or refuses; 78 the config cannot be used.",
)
def _forget(args: argparse.Namespace) -> int:
    from monitor.commands import forget

    return forget.main(args.config, args.force)


@_command(
    "init",
    "write a commented config",
    "Writes config.toml with every key, its default, unit and use; never overwrites.",
    _option("--systemd", action="store_true", help="write the units of the service too"),
    _option("--directory", default=".", metavar="DIR", help="where to (default: here)"),
)
def _init(args: argparse.Namespace) -> int:
    from monitor.commands import init

    return init.main(args.directory, args.systemd)
