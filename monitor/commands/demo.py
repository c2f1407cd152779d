"""`marginwatch demo`: a simulated exchange, an MQTT broker and the real daemon, and the story of a bad day.

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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.config import Config, parse
from monitor.messages import Message
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.daemon import Daemon

if TYPE_CHECKING:
    from monitor.sim import Exchange

_SHORTEST, _LONGEST = 15.0, 55.0
_UNITS = 40
"""The story is told in so many beats, however long it is to last."""

_SCENARIO: dict[str, Any] = {
    "symbol": [
        {
            "symbol": "0GUSDT",
            "mark": "2",
            "funding_rate": "0.0005",
            "brackets": [
                [50, "5000", "0.015"],
                [25, "10000", "0.02"],
                [20, "25000", "0.025"],
                [10, "62500", "0.05"],
                [5, "125000", "0.1"],
                [4, "250000", "0.125"],
            ],
        },
        {"symbol": "BTCUSDT", "mark": "90000", "funding_rate": "0.0001"},
    ],
    "account": [
        {
            "name": "main",
            "balances": {"USDT": "60000"},
            "settings": {"0GUSDT": {"margin_type": "ISOLATED", "leverage": 3}},
            "position": [
                {"symbol": "0GUSDT", "quantity": "120000", "entry_price": "2", "isolated_wallet": "70000"},
                {"symbol": "BTCUSDT", "quantity": "0.5", "entry_price": "89500"},
            ],
        }
    ],
}


def main(seconds: float, as_json: bool, scenario: str) -> int:
    if not _SHORTEST <= seconds <= _LONGEST:
        print(f"marginwatch demo: --seconds must be from {_SHORTEST:.0f} to {_LONGEST:.0f}", file=sys.stderr)
        return 2
    try:
        import iotcore  # noqa: F401  # only to say early that it is missing

        import monitor.sim  # noqa: F401
    except ImportError as exc:
        print(f"marginwatch demo needs {exc.name}: pip install 'marginwatch[demo]'", file=sys.stderr)
        return 1
    logs.setup("json", "critical", sys.stderr)
    return asyncio.run(_demo(seconds / _UNITS, _print_json if as_json else _Narrator(time.monotonic()).show, as_json))


async def _demo(beat: float, show: Callable[[Message], None], as_json: bool) -> int:
    from monitor.sim import Exchange, Scenario

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    say = _quiet if as_json else _say
    seen = asyncio.Condition()
    sent: list[Message] = []

    def on_sent(message: Message) -> None:
        try:
            show(message)
        except OSError:  # whoever read us has gone, or cannot take more
            stop.set()
            return
        sent.append(message)
        asyncio.get_running_loop().create_task(_notify(seen))

    with tempfile.TemporaryDirectory(prefix="marginwatch-demo-") as folder:
        async with Exchange(Scenario.from_dict(_SCENARIO), tick_s=beat / 2) as exchange, _broker() as port:
            say(f"a simulated exchange on {exchange.url}, a broker on port {port}, and the daemon")
            config = _config(exchange, port, Path(folder), beat)
            daemon = Daemon(config, settings.fetch(config, {"KEY": "main-key", "SECRET": "main-secret"}), on_sent)
            running = asyncio.create_task(daemon.run(stop))
            story = asyncio.create_task(_story(exchange, beat, seen, sent, say))
            await asyncio.wait({running, story, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            told = story.done()
            story.cancel()
            stop.set()
            await running
    if told and story.exception() is not None:
        print(f"marginwatch demo: the daemon did not tell what it should: {story.exception()!r}", file=sys.stderr)
        return 1
    say("the daemon has said offline and stopped; that was all")
    return 0 if told else 130


async def _notify(seen: asyncio.Condition) -> None:
    async with seen:
        seen.notify_all()


async def _story(
    exchange: Exchange, beat: float, seen: asyncio.Condition, sent: list[Message], say: Callable[[str], None]
) -> None:
    """What happens to the account. Each turn waits until the daemon has told what it should."""

    async def until(part: str, *words: str) -> None:
        async with seen:
            try:
                await asyncio.wait_for(seen.wait_for(lambda: any(_tells(m, part, words) for m in sent)), 12 * beat + 5)
            except TimeoutError:
                raise TimeoutError(f"no {part} {' '.join(words)}".strip()) from None

    await until("main/pool/isolated-0gusdt")
    say("a calm market: 120000 0G long, isolated, and half a bitcoin in the cross pool")
    await asyncio.sleep(3 * beat)
    say("0G falls")
    await _glide(exchange, "0GUSDT", "2", "1.62", 6 * beat, beat / 2)
    await _glide(exchange, "0GUSDT", "1.62", "1.565", 5 * beat, beat / 2)
    await until("event/critical/margin_ratio", '"worsened"')
    await asyncio.sleep(beat)
    say("12000 USDT of margin are added to the position")
    exchange.add_margin("main", "0GUSDT", "12000")
    await until("liquidation_price_moved", '"margin_transfer"')
    await asyncio.sleep(2 * beat)
    say("funding is paid")
    exchange.fund()
    await until("liquidation_price_moved", '"funding_fee"')
    await asyncio.sleep(beat)
    say("0G recovers")
    await _glide(exchange, "0GUSDT", "1.565", "1.95", 4 * beat, beat / 2)
    await until("/margin_ratio", '"resolved"')
    await asyncio.sleep(beat)
    say("the market stream goes silent: the socket stays open, nothing comes")
    exchange.fault(mute_market=True)
    await until("event/warning/data_stale", '"opened"')
    await asyncio.sleep(2 * beat)
    say("it speaks again")
    exchange.fault(mute_market=False)
    await until("/data_stale", '"resolved"')
    await asyncio.sleep(2 * beat)


def _tells(message: Message, part: str, words: tuple[str, ...]) -> bool:
    return part in message.topic and all(word.encode() in message.payload for word in words)


async def _glide(exchange: Exchange, symbol: str, start: str, end: str, seconds: float, every: float) -> None:
    steps = max(1, round(seconds / every))
    low, high = Decimal(start), Decimal(end)
    for i in range(1, steps + 1):
        exchange.set_mark(symbol, round(low + (high - low) * i / steps, 4))
        await asyncio.sleep(every)


def _config(exchange: Exchange, port: int, folder: Path, beat: float) -> Config:
    """As a user would write it, but with durations that fit into a minute."""
    repeats = {"warning": 14_400, "critical": 300, "liquidation": 60}
    pool_rule = {"clear_for_s": _exact(2 * beat), "repeat_s": repeats}
    return parse(
        [
            (
                "demo",
                {
                    "instance": "demo",
                    "mqtt": {"host": "127.0.0.1", "port": port, "protocol": "3.1.1"},
                    "store": {"path": str(folder / "marginwatch.sqlite3")},
                    "links": {
                        "tick_s": _exact(min(1.0, beat)),
                        "first_frame_s": _exact(2 * beat),
                        "backoff_min_s": _exact(beat / 2),
                        "backoff_max_s": _exact(beat),
                    },
                    "account": [
                        {
                            "name": "main",
                            "venue": "binance-usdm",
                            "environment": "custom",
                            "rest_url": exchange.url,
                            "market_url": f"{exchange.ws_url}/market",
                            "private_url": f"{exchange.ws_url}/private",
                            "api_key": "env:KEY",
                            "secret": "env:SECRET",
                        }
                    ],
                    "rules": {
                        "margin_ratio": pool_rule,
                        "liquidation_distance": pool_rule,
                        "liquidation_price_moved": {"funding_window_s": _exact(beat)},
                        "data_stale": {
                            "stale_after_s": _exact(3 * beat),
                            "clear_for_s": _exact(beat),
                            "steps": [{"at": _exact(4 * beat), "clear": _exact(2 * beat), "severity": "warning"}],
                        },
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
    payload: Any = message.payload.decode() or None
    if payload is not None and payload.startswith("{"):
        payload = json.loads(payload)
    line = {
        "topic": message.topic,
        "payload": payload,
        "retain": message.retain,
        "qos": message.qos,
        "at_ms": now().wall_ms,
    }
    print(json.dumps(line, ensure_ascii=False, separators=(",", ":")), flush=True)


class _Narrator:
    """Prints what a person would want to read: every event, the status, and now and then the margin ratio."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._ratio: float | None = None

    def show(self, message: Message) -> None:
        if message.topic.endswith("/status"):
            self._line("status", message.payload.decode())
        elif message.event_id is not None:
            event = json.loads(message.payload)
            self._line(event["severity"].upper(), f"{event['rule']} {event['event']}: {event['text']}")
        elif message.topic.endswith("/pool/isolated-0gusdt") and message.payload:
            pool = json.loads(message.payload)
            ratio = pool["margin_ratio"]
            if ratio is not None and (self._ratio is None or abs(ratio - self._ratio) >= 0.05):
                self._ratio = ratio
                price = pool["closest"]["liquidation_price"] if pool["closest"] else "none"
                self._line("pool", f"isolated-0gusdt: margin ratio {ratio:.1%}, liquidation price {price}")

    def _line(self, word: str, text: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {word:<11} {text}", flush=True)
