"""From a mark price on the wire to a subscriber's hand: the whole daemon with its store, mosquitto, QoS 1.

Each frame makes the daemon tell of something. Beside it, in turns, a message of the same size makes the bare round trip
from a publisher through the same mosquitto to the same subscriber, and as many bytes go to the disk. The daemon has
each event on disk before the broker gets it; what it adds besides is the outbox.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import aiomqtt
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.harness import ROOT, figures, ratio
from tests import stories
from tests.rig import MOSQUITTO, Mosquitto, write_config

_TOPIC = "bench/round-trip"
_PATIENCE_S = 60
_REST_S = 0.01
"""Before each turn: a mark price comes once a second, and finds asleep whoever deals with it, the disk too."""
_FAR, _NEAR = "60000", "53000"
"""At the second one the account is closer to its liquidation than the first level allows."""


class _Subscriber:
    """Whoever waits for alerts."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.bytes = 0
        self._messages = aiter(client.messages)

    async def next(self, prefix: str) -> int:
        """When the next message under this prefix has come (monotonic nanoseconds)."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                message = await anext(self._messages)
                at = time.monotonic_ns()
                if str(message.topic).startswith(prefix):
                    assert isinstance(message.payload, bytes)
                    self.bytes = len(message.payload)
                    return at


class _Market:
    """A market stream on which a frame is sent when we say so."""

    def __init__(self) -> None:
        self._sockets: list[ServerConnection] = []
        self.connected = asyncio.Event()

    async def serve(self, socket: ServerConnection) -> None:
        self._sockets.append(socket)
        self.connected.set()
        try:
            async for _ in socket:
                pass
        except ConnectionClosed:
            pass
        self._sockets.remove(socket)

    async def send(self, price: str) -> int:
        """Returns when it was sent (monotonic nanoseconds)."""
        data = {"e": "markPriceUpdate", "E": time.time_ns() // 1_000_000, "s": "BTCUSDT", "p": price, "ap": price}
        data |= {"P": price, "i": price, "r": "0.00010000", "T": 1_795_276_800_000}
        frame = json.dumps({"stream": "btcusdt@markPrice@1s", "data": data}).encode()
        at = time.monotonic_ns()
        for one in self._sockets:
            await one.send(frame, text=True)
        return at


async def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, Any] | None:
    if MOSQUITTO is None:
        tell("left out: there is no mosquitto")
        return None
    rounds, ticks = (3, 20) if quick else (15, 40)
    names = ("decision", "store", "delivery", "without", "round_trip", "disk")
    took: dict[str, list[list[float]]] = {name: [] for name in names}
    async with _parts() as (market, answers, subscriber):
        near = False
        for n in range(-1, rounds):
            turn: dict[str, list[float]] = {name: [] for name in took}
            with TemporaryFile(buffering=0) as file:
                for _ in range(ticks):
                    near = not near
                    await asyncio.sleep(_REST_S)
                    sent = await market.send(_NEAR if near else _FAR)
                    arrived = await subscriber.next("marginwatch/main/event/")
                    decided, wrote_ns = await _said(answers, sent)
                    turn["decision"].append((decided - sent) / 1000)
                    turn["store"].append(wrote_ns / 1000)
                    turn["delivery"].append((arrived - sent) / 1000)
                    turn["without"].append((arrived - sent - wrote_ns) / 1000)
                    payload = bytes(subscriber.bytes)
                    await asyncio.sleep(_REST_S)
                    sent = time.monotonic_ns()
                    publishing = asyncio.ensure_future(subscriber.client.publish(_TOPIC, payload, qos=1))
                    turn["round_trip"].append((await subscriber.next(_TOPIC) - sent) / 1000)
                    await publishing
                    await asyncio.sleep(_REST_S)
                    begun = time.monotonic_ns()
                    file.write(payload)
                    os.fdatasync(file.fileno())
                    turn["disk"].append((time.monotonic_ns() - begun) / 1000)
            if n >= 0:  # the first one warms up
                for name, values in turn.items():
                    took[name].append(values)
        size = subscriber.bytes
    found = {name: figures(values) for name, values in took.items()}
    tell(f"microseconds from the frame, events of {size} bytes; without: delivery less what the store took to write:")
    for name, one in found.items():
        each = " ".join(f"{value:,.0f}" for value in one["rounds"])
        tell(f"  {name.replace('_', ' '):12} median {one['p50']:>7,.0f}  p99 {one['p99']:>8,.0f}  rounds {each}")
    times = {
        "times": _times(found, "delivery", "decision", "round_trip"),
        "times_without": _times(found, "without", "decision", "round_trip"),
        "times_with_disk": _times(found, "delivery", "decision", "round_trip", "disk"),
    }
    for name, text in (
        ("times", "delivery ÷ (decision + round trip)"),
        ("times_without", "without the store's write ÷ (decision + round trip)"),
        ("times_with_disk", "delivery ÷ (decision + round trip + disk)"),
    ):
        tell(f"  {text}: median {times[name]['p50']}, p99 {times[name]['p99']}")
    return {"event_bytes": size, "us": found, **times}


async def _said(answers: asyncio.StreamReader, sent: int) -> tuple[int, int]:
    """What the daemon says of a frame: when it was decided, and how long the store took to write (nanoseconds)."""
    decided = wrote = None
    while decided is None or wrote is None:
        match (await answers.readline()).split():
            case [b"wrote", begun, ended] if int(begun) > sent:
                wrote = int(ended) - int(begun)
            case [at, _] if int(at) > sent:
                decided = int(at)
    return decided, wrote


def _times(found: dict[str, dict[str, Any]], of: str, *parts: str) -> dict[str, float]:
    """In multiples of these parts: the median of the rounds, since what slows the machine for a while slows all."""
    rounds = [sum(each) for each in zip(*(found[name]["rounds"] for name in parts), strict=True)]
    p99 = found[of]["p99"] / sum(found[name]["p99"] for name in parts)
    return {"p50": round(ratio(found[of], {"rounds": rounds}), 2), "p99": round(p99, 2)}


@asynccontextmanager
async def _parts() -> AsyncIterator[tuple[_Market, asyncio.StreamReader, _Subscriber]]:
    """Mosquitto, an exchange, the daemon and a subscriber, until the daemon has told of something once."""
    market = _Market()
    with TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker")
        await broker.start()
        try:
            async with (
                stories.exchange() as exchange,
                serve(market.serve, "127.0.0.1", 0, compression=None) as server,
                aiomqtt.Client(
                    "127.0.0.1",
                    broker.port,
                    socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
                ) as client,
            ):
                for topic in ("marginwatch/main/event/#", _TOPIC):
                    await client.subscribe(topic, qos=1)
                rules: dict[str, dict[str, Any]] = {
                    "liquidation_distance": {"reenter_s": 0},
                    "data_stale": {"enabled": False},
                }
                links = {
                    "tick_s": 1,
                    "reconcile_s": 3600,
                    "first_frame_s": 3600,
                    "ping_interval_s": 60,
                    "compression": False,
                }
                config = write_config(Path(folder) / "d", exchange, broker.port, links=links, rules=rules)
                here = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                config.write_text(config.read_text().replace(f"{exchange.ws_url}/market", here))
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "benchmarks.watched", str(config)),
                    stdout=asyncio.subprocess.PIPE,
                    cwd=ROOT,
                )
                assert process.stdout is not None
                try:
                    subscriber = _Subscriber(client)
                    async with asyncio.timeout(_PATIENCE_S):
                        await market.connected.wait()
                    await asyncio.sleep(1)
                    yield market, process.stdout, subscriber
                finally:
                    process.kill()
                    await process.wait()
        finally:
            broker.stop()
