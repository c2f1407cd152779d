"""`marginwatch demo`: a simulated exchange, an MQTT broker and the real daemon, and one story of what may happen.

Everything is real but the exchange and the money: signed REST, websockets, MQTT over loopback. The daemon is the one
that `marginwatch run` starts; only its durations are shorter.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.commands.demo_scenarios import STORIES, Stage, Story
from monitor.config import Config, parse
from monitor.humanize import amount, percent, price
from monitor.message import Message
from monitor.replaying import Sent
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.daemon import Daemon

if TYPE_CHECKING:
    from monitor.sim import Exchange

_SHORTEST, _LONGEST = 15.0, 60.0


def main(seconds: float, as_json: bool, scenario: str) -> int:
    if not _SHORTEST <= seconds <= _LONGEST:
        print(f"marginwatch demo: --seconds must be from {_SHORTEST:.0f} to {_LONGEST:.0f}", file=sys.stderr)
        return 2
    try:
        import iotcore  # noqa: F401  # only to say early that it is missing

        import monitor.sim  # noqa: F401
    except ImportError as exc:
        print(f"marginwatch demo needs {exc.name}: in the checkout, pip install '.[demo]'", file=sys.stderr)
        return 1
    logs.setup("json", "critical", sys.stderr)
    return asyncio.run(_demo(STORIES[scenario], seconds, as_json))


async def _demo(story: Story, seconds: float, as_json: bool) -> int:
    from monitor.sim import Exchange, Scenario

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    say = _quiet if as_json else _say
    show = _print_json if as_json else _Narrator(time.monotonic()).show
    beat = seconds / story.beats
    opening = Scenario.named(story.opening) if isinstance(story.opening, str) else Scenario.from_dict(story.opening)

    def on_sent(message: Message) -> None:
        try:
            show(message)
        except OSError:  # whoever read us has gone, or cannot take more
            stop.set()
            return
        stage.sent(message)

    with tempfile.TemporaryDirectory(prefix="marginwatch-demo-") as folder:
        async with Exchange(opening, tick_s=beat / 2) as exchange, _broker() as port:
            here = f"a simulated exchange on {exchange.url}, a broker on port {port}"
            say(f"{here}, and the daemon, which waits less than by default")
            stage = Stage(exchange, beat, say)
            stage.put_funding_off()
            config = _config(story, exchange, port, Path(folder), beat)
            secrets = {"KEY": f"{story.account}-key", "SECRET": f"{story.account}-secret"}
            daemon = Daemon(config, settings.fetch(config, secrets), on_sent)
            running = asyncio.create_task(daemon.run(stop))
            telling = asyncio.create_task(story.tell(stage))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({running, telling, stopped}, return_when=asyncio.FIRST_COMPLETED)
            told = telling.done()
            telling.cancel()
            stop.set()
            await running
    if told and telling.exception() is not None:
        print(f"marginwatch demo: the daemon did not tell what it should: {telling.exception()!r}", file=sys.stderr)
        return 1
    say("the daemon has said offline and stopped; that was all")
    return 0 if told else 130


def _config(story: Story, exchange: Exchange, port: int, folder: Path, beat: float) -> Config:
    """As a user would write it, but with durations that fit into a minute."""
    repeats = {"warning": 14_400, "critical": 300, "liquidation": 60}
    market, private = ("dstream", "dstream") if story.venue == "binance-coinm" else ("market", "private")
    stale_rule = {
        "stale_after_s": _exact(2 + 2 * beat),
        "clear_for_s": _exact(beat),
        "steps": [{"at": _exact(3 + 2 * beat), "clear": _exact(1 + beat), "severity": "warning"}],
    }
    pool_rule = {"clear_for_s": _exact(2 * beat), "repeat_s": repeats}
    return parse(
        [
            (
                "demo",
                {
                    "instance": "demo",
                    "mqtt": {"host": "127.0.0.1", "port": port, "protocol": "3.1.1"},
                    "store": {"path": str(folder / "marginwatch.sqlite3")},
                    "privacy": {"amounts": False},  # so that --json shows notices too
                    "summary": {"enabled": False},  # a demo at eight would tell of more than its story
                    "links": {
                        "tick_s": _exact(min(1.0, beat)),
                        "first_frame_s": _exact(2 * beat),
                        "backoff_min_s": _exact(beat / 2),
                        "backoff_max_s": _exact(beat),
                        "reconcile_s": _exact(5 * beat) if story.asks_often else 30,
                        "refresh_s": _exact(5 * beat),
                    },
                    "account": [
                        {
                            "name": story.account,
                            "venue": story.venue,
                            "environment": "custom",
                            "rest_url": exchange.url,
                            "market_url": f"{exchange.ws_url}/{market}",
                            "private_url": f"{exchange.ws_url}/{private}",
                            "api_key": "env:KEY",
                            "secret": "env:SECRET",
                        }
                    ],
                    "rules": {
                        "margin_ratio": pool_rule,
                        "liquidation_distance": pool_rule,
                        "liquidation_price_moved": {"funding_window_s": _exact(beat)},
                        "funding_forecast": {"for_s": _exact(2 * beat), "clear_for_s": _exact(2 * beat)},
                        "auto_exchange": {"clear_for_s": _exact(2 * beat)},
                        "adl_quantile": {"clear_for_s": _exact(2 * beat)},
                        "forced_order": {"settle_s": _exact(2 * beat)},
                        "data_stale": stale_rule if story.goes_silent else {},
                    },
                },
            )
        ]
    )


def _exact(seconds: float) -> Decimal:
    return Decimal(str(round(seconds, 3)))


@asynccontextmanager
async def _broker() -> AsyncIterator[int]:
    """A broker in a child process, on loopback alone; it ends with us, whatever happens."""
    from iotcore import Broker

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    broker = Broker(port=port, listen="127.0.0.1")
    await asyncio.to_thread(broker.start)
    try:
        yield port
    finally:
        await asyncio.to_thread(broker.stop)


# ---- what people see ----


def _say(text: str) -> None:
    print(f"\n— {text}", flush=True)


def _quiet(text: str) -> None:
    """With `--json` nothing but messages is printed."""


def _print_json(message: Message) -> None:
    print(Sent(now().wall_ms, message).as_json.decode(), flush=True)


class _Narrator:
    """Prints what a person would want to read: every event, the status, and pools and positions when they change."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._ratios: dict[str, float] = {}
        self._positions: dict[str, tuple[object, ...]] = {}

    def show(self, message: Message) -> None:
        if message.topic.endswith("/status"):
            self._line("status", message.payload.decode())
        elif message.is_event:
            event = json.loads(message.payload)
            self._line(event["severity"].upper(), f"{event['rule']} {event['event']}: {event['text']}")
        elif message.payload and "/pool/" in message.topic:
            self._pool(json.loads(message.payload))
        elif message.payload and "/position/" in message.topic:
            self._position(message.topic, json.loads(message.payload))

    def _pool(self, pool: Any) -> None:
        name, ratio = pool["pool"], pool["margin_ratio"]
        if ratio is not None and (name not in self._ratios or abs(ratio - self._ratios[name]) >= 0.05):
            self._ratios[name] = ratio
            balance = f"{amount(Decimal(pool['margin_balance']))} {pool['asset']}"
            self._line("pool", f"{name}: margin ratio {percent(Decimal(str(ratio)))}, margin balance {balance}")

    def _position(self, topic: str, position: Any) -> None:
        hours, quantity = position["funding"]["interval_hours"], position["quantity"]
        if hours is None or position["distance"] is None or self._positions.get(topic) == (quantity, hours):
            return
        self._positions[topic] = quantity, hours
        unit = "contracts" if position["quantity_unit"] == "contract" else position["quantity_unit"]
        sides = [f"{side} {price(Decimal(at))}" for side in ("below", "above") if (at := position["liquidation"][side])]
        payment = Decimal(position["funding"]["payment"])
        paid = f"{'pays' if payment < 0 else 'receives'} {amount(abs(payment))} {position['asset']} every {hours} h"
        what = f"{position['symbol']} {position['side']}, {quantity} {unit}"
        self._line("position", f"{what}: liquidated {' or '.join(sides)}; {paid}")

    def _line(self, word: str, text: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {word:<11} {text}", flush=True)
