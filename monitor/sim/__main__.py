"""Command line of the simulated exchange: python -m monitor.sim."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from monitor.sim.exchange import Exchange
from monitor.sim.market import read_brackets
from monitor.sim.scenario import Scenario

ABOUT = """\
A simulated Binance futures exchange, USDⓈ-M and COIN-M, on the loopback interface: REST, market and private
streams on one port, with accounts whose keys it prints at the start.
"""
MORE = """\
while it runs, steer it over HTTP (numbers as text keep every digit):
  curl -X POST localhost:8790/sim/set_mark   -d '{"symbol": "BTCUSDT", "price": "54000"}'
  curl -X POST localhost:8790/sim/fund       -d '{"symbol": "BTCUSDT", "rate": "0.001"}'
  curl -X POST localhost:8790/sim/transfer   -d '{"account": "main", "asset": "USDT", "amount": "-500"}'
  curl -X POST localhost:8790/sim/add_margin -d '{"account": "main", "symbol": "SOLUSDT", "amount": "100"}'
  curl -X POST localhost:8790/sim/set_asset_index -d '{"asset": "BTC", "index": "51000"}'
  curl -X POST localhost:8790/sim/adl        -d '{"account": "main", "symbol": "BTCUSDT", "fraction": "0.5"}'
  curl -X POST localhost:8790/sim/fault      -d '{"half_open_market": true}'
  curl localhost:8790/sim/state

scenarios: calm (one account, nothing moves), mixed (hedge mode, USDC, a European account too),
crash (a withdrawal, then a fall of 15 % within a minute), coinm (a COIN-M account), multi-assets (an account in that
mode), liquidation (in part, then whole, then auto-deleveraging), or a file; its format is in scenario.py.
"""


def pair(text: str) -> tuple[str, str]:
    """SYMBOL=FILE."""
    symbol, equals, path = text.partition("=")
    if not equals or not symbol or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not SYMBOL=FILE of a file that exists")
    return symbol.upper(), path


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        "marginwatch-sim", description=ABOUT, epilog=MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8790, help="0: any free one (default: %(default)s)")
    parser.add_argument("--scenario", default="calm", metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument(
        "--brackets", metavar="FILE", help="JSON of the leverageBracket shape; replaces and adds tables"
    )
    parser.add_argument(
        "--prices", metavar="SYMBOL=FILE", type=pair, nargs="+", action="extend", default=[], help="CSV files to play"
    )
    parser.add_argument(
        "--funding", metavar="SYMBOL=FILE", type=pair, nargs="+", action="extend", default=[], help="CSV files of rates"
    )
    parser.add_argument("--step-s", type=float, default=0.05, help="real seconds per price (default: %(default)s)")
    parser.add_argument("--tick-s", type=float, default=1.0, help="seconds between mark frames (default: %(default)s)")
    parser.add_argument("--state", metavar="FILE", type=Path, help="kept after every change; gone on with if it exists")
    parser.add_argument("--seed", type=int, help="listen keys follow from it (default: the scenario's)")
    chosen = parser.parse_args(argv)
    if chosen.host not in ("127.0.0.1", "::1", "localhost"):
        parser.error("--host must be a loopback address: anybody who reaches it can steer the exchange")
    return chosen


def build(chosen: argparse.Namespace) -> Exchange:
    """The exchange that the command line asks for.

    Raises:
        ValueError, OSError, KeyError, TypeError: A file cannot be read or makes no sense.
    """
    auto = not chosen.funding
    if chosen.state and chosen.state.exists():
        exchange = Exchange.restored(chosen.state, tick_s=chosen.tick_s, auto_funding=auto)
    else:
        scenario = Scenario.load(chosen.scenario)
        if chosen.seed is not None:
            scenario = replace(scenario, seed=chosen.seed)
        exchange = Exchange(scenario, tick_s=chosen.tick_s, auto_funding=auto, state_path=chosen.state)
    if chosen.brackets:
        tables = json.loads(Path(chosen.brackets).read_text("utf-8"), parse_float=Decimal)
        for table in tables:
            rows = read_brackets(table["brackets"])
            exchange.market.listed_brackets[table["symbol"]] = rows
            if contract := exchange.market.contracts.get(table["symbol"]):
                contract.brackets = rows
    for symbol, _ in (*chosen.prices, *chosen.funding):
        exchange.market[symbol]  # a file for a symbol that is not traded here is a mistake
    return exchange


def hello(exchange: Exchange) -> str:
    """What a monitor has to be told."""
    lines = [f"simulated exchange on {exchange.url}, steered at {exchange.url}/sim/"]
    for account in exchange.accounts.values():
        market, private = ("/market", "/private") if account.market == "usdm" else ("/dstream", "/dstream")
        lines.append(
            f'account {account.name}: rest_url = "{exchange.url}"  market_url = "{exchange.ws_url}{market}"  '
            f'private_url = "{exchange.ws_url}{private}"  wallet_url = "{exchange.url}"  '
            f'api_key = "{account.api_key}"  secret = "{account.secret}"'
        )
    return "\n".join(lines)


async def serve(exchange: Exchange, chosen: argparse.Namespace) -> None:
    """Run until a signal."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, ended.set)
    await exchange.start(chosen.host, chosen.port)
    print(hello(exchange), flush=True)
    if exchange.scenario.script:
        exchange.spawn(exchange.run_script(), "sim-script")
    if chosen.prices:
        exchange.spawn(played(exchange, chosen), "sim-prices")
    await ended.wait()
    await exchange.stop()


async def played(exchange: Exchange, chosen: argparse.Namespace) -> None:
    """Play the files and say when they are over; the market then stands still."""
    count = await exchange.play(dict(chosen.prices), dict(chosen.funding), chosen.step_s)
    print(f"price files are over after {count} steps; the market stands still", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a signal, 1 if it cannot listen, 2 for what cannot be understood."""
    chosen = arguments(argv)
    try:
        exchange = build(chosen)
    except (ValueError, OSError, KeyError, TypeError) as exc:
        print(f"marginwatch-sim: {exc if isinstance(exc, ValueError | OSError) else repr(exc)}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(exchange, chosen))
    except (OSError, OverflowError) as exc:  # a port that is taken, or that there is not
        print(f"marginwatch-sim: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
