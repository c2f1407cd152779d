"""Failures that users of other tools have reported, made on purpose, with the whole daemon watching through them.

What is cut, frozen or killed altogether is in test_recovery; here are the subtler ones: answers that are late, old,
doubled, out of order or refused, keys that others delete, one symbol that is silent among others.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monitor.shell import chronicle
from monitor.shell.database import read_only
from monitor.sim import Exchange
from tests import stories
from tests.chaos.process import DaemonProcess
from tests.chaos.proxy import Proxy
from tests.chaos.wallclock import WallClock
from tests.rig import Listener, Mosquitto, Process, agreement, until, watching, write_config
from tests.sim import wire

MARKET = ("_instance", "market-binance-usdm-custom")
PRIVATE = ("main", "private")
REST = ("main", "rest")


@dataclass
class Scene:
    exchange: Exchange
    net: Proxy


def switched(**switches: Any) -> Callable[[Scene], Awaitable[None]]:
    async def switch(scene: Scene) -> None:
        scene.exchange.fault(**switches)

    return switch


async def nothing(scene: Scene) -> None:
    """Over by itself."""


async def say_goodbye(scene: Scene) -> None:
    """1001, as the exchange does after 24 hours, and before maintenance."""
    await asyncio.gather(*(c.close() for c in scene.exchange.streams.connections))


async def delete_key(scene: Scene) -> None:
    """Another program with the same key deletes the listen key that all of them share."""
    async with wire.client(scene.exchange) as client:
        key = scene.exchange.listen_keys.create("main")
        await client.futures_stream_close(listenKey=key)


async def fill_unheard(scene: Scene) -> None:
    """The stream is cut, and a position changes before it is back."""
    scene.exchange.drop("private")
    scene.exchange.fill("main", "BTCUSDT", "BUY", "0.1", commission_rate="0")


async def refuse_handshakes(scene: Scene) -> None:
    """429 to whoever connects: some libraries retry a 5xx, and give up for good at this."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    scene.net.answer = lambda asked: refusal if b"upgrade: websocket" in asked.lower() else None
    await scene.net.cut()


async def mend(scene: Scene) -> None:
    scene.net.mend()


async def slow_down(scene: Scene) -> None:
    """Everything comes two seconds late, in order, over a connection that is sound."""
    scene.net.delay_s = 2.0


@dataclass(frozen=True)
class Case:
    """One reported failure.

    Args:
        stale: Account and link that must be told of as stale while it lasts; None: the daemon must go on seeing.
    """

    name: str
    begin: Callable[[Scene], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]] = nothing
    stale: tuple[str, str] | None = None


CASES = [
    Case("events-out-of-order", switched(swap_next=True), switched(swap_next=False)),
    Case("event-twice", switched(duplicate_next=True), switched(duplicate_next=False)),
    Case("account-update-before-its-order", switched(account_update_first=True)),
    Case("rest-older-than-the-stream", switched(stale_s=2.0), switched(stale_s=0.0)),
    Case("closed-with-1001", say_goodbye),
    Case("key-deleted-by-another-program", delete_key),
    Case("position-changed-while-the-stream-was-away", fill_unheard),
    Case("one-symbol-silent-among-others", switched(mute_symbols=["SOLUSDT"]), switched(mute_symbols=[]), MARKET),
    Case("everything-two-seconds-late", slow_down, mend, MARKET),
    Case("handshakes-answered-429", refuse_handshakes, mend, PRIVATE),
    Case("our-clock-falls-a-minute-behind", switched(clock_skew_ms=60_000), switched(clock_skew_ms=0)),
]


@asynccontextmanager
async def scene(broker: Mosquitto, folder: Path, **links: Any) -> AsyncIterator[tuple[Scene, Path]]:
    """An exchange behind a proxy, and a config that goes through it."""
    async with stories.exchange() as exchange, Proxy(lambda: exchange.port) as net:
        config = write_config(folder, exchange, broker.port, links=links)
        text = config.read_text("utf-8").replace(f"127.0.0.1:{exchange.port}", f"127.0.0.1:{net.port}")
        config.write_text(text, "utf-8")
        yield Scene(exchange, net), config


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_a_reported_failure_costs_neither_the_truth_nor_an_alert(
    case: Case, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Each of these has made another tool silent, wrong, or told its user twice."""
    async with AsyncExitStack() as stack:
        here, config = await stack.enter_async_context(scene(broker, tmp_path / "d", first_frame_s=2))
        log = await stack.enter_async_context(watching(config))
        exchange = here.exchange
        await agreement(exchange, listener, "main")
        await case.begin(here)
        exchange.transfer("main", "USDT", "-40")
        exchange.transfer("main", "USDT", "-60")
        exchange.set_mark("BTCUSDT", "53000")
        if case.stale is not None:
            account, link = case.stale
            await listener.event("data_stale", "opened", account=account, subject=link)
        else:
            await listener.event("liquidation_distance", "opened")
        await case.end(here)
        await agreement(exchange, listener, "main")
        await listener.event("liquidation_distance", "opened")
        exchange.set_mark("BTCUSDT", "60000")
        await listener.event("liquidation_distance", "resolved")

        def is_all_told() -> bool:
            return sum(amounts(listener), Decimal(0)) == -100

        await until(is_all_told, f"both withdrawals are told; {amounts(listener)}")
        await listener.no_incident()
        await agreement(exchange, listener, "main")

    told = [e["event"] for e in listener.events("liquidation_distance")]
    assert told == ["opened", "resolved"], listener.told()
    stale = {(e["account"], e["subject"]) for e in listener.events("data_stale")}
    assert case.stale is None or case.stale in stale
    assert exchange.order_calls == []
    assert exchange.counters["DELETE /fapi/v1/listenKey"] == (case.begin is delete_key)
    assert '"crashed"' not in log.getvalue()


def amounts(listener: Listener) -> list[Decimal]:
    """What the causes say has moved the cross wallet, as its only position was told of it."""
    entries = [
        entry
        for event in listener.events("liquidation_price_moved")
        for entry in (event, *event.get("also", ()))
        if entry["symbol"] == "BTCUSDT"
    ]
    return [Decimal(c["amount"]) for entry in entries for c in entry["cause"] if c.get("amount") is not None]


async def test_a_wrong_address_that_says_nothing_is_told(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Since April 2026 a stream on the wrong route shakes hands, acknowledges, and is silent for ever."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        text = config.read_text("utf-8").replace(f"{exchange.ws_url}/market", exchange.ws_url)
        assert text.count(f'market_url = "{exchange.ws_url}"') == 1
        config.write_text(text, "utf-8")
        async with watching(config):
            stale = await listener.event("data_stale", "opened", account=MARKET[0], subject=MARKET[1])
            exchange.set_mark("BTCUSDT", "53000")  # over REST it is seen all the same
            opened = await listener.event("liquidation_distance", "opened")

    assert stale["severity_rank"] >= 3
    assert opened["after"]["mark_price"] == "53000.00000000"


async def test_figures_stay_with_their_age_while_the_exchange_is_away(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """ "Out of date data is better than no data": and it says that it is out of date."""
    async with scene(broker, tmp_path / "d") as (here, config), watching(config):
        await agreement(here.exchange, listener, "main")
        topic = "marginwatch/main/pool/cross-usdt"
        before = listener.retained(topic)
        here.net.refusing = True
        await here.net.cut()
        stale = await listener.state(topic, freshness="stale")

    figures = ("margin_ratio", "margin_balance", "maintenance_margin", "wallet_balance")
    assert [stale[name] for name in figures] == [before[name] for name in figures]


@pytest.mark.parametrize("frozen", ["broker", "exchange", "both"])
async def test_a_daemon_is_told_to_stop_while_all_hangs_and_stops(
    frozen: str, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Some clients freeze on close; systemd would kill after its TimeoutStopSec, and an update would hang till then."""
    async with scene(broker, tmp_path / "d") as (here, config):
        with Process(config) as process:
            await agreement(here.exchange, listener, "main")
            if frozen != "broker":
                here.net.freeze()
            if frozen != "exchange":
                broker.freeze()
            process.send(signal.SIGTERM)
            begun = time.monotonic()
            status = await process.ended(20)
            took_s = time.monotonic() - begun
            broker.thaw()

    assert status == 0
    assert took_s < 15


async def test_a_broker_that_stays_away_costs_few_log_lines_and_no_figure(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A retry loop without a pause has starved another daemon's event loop, and filled its log."""
    async with scene(broker, tmp_path / "d") as (here, config), watching(config) as log:
        await agreement(here.exchange, listener, "main")
        broker.kill()
        begun = time.monotonic()
        await until(lambda: time.monotonic() - begun > 3, "three seconds pass")
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        here.exchange.set_mark("BTCUSDT", "53000")
        await until(lambda: "incident opened" in log.getvalue(), "the core goes on")
        await broker.start()
        await listener.event("liquidation_distance", "opened")

    tries = [line for line in lines if line["event"] in ("broker not reached", "broker lost")]
    assert 2 <= len(tries) <= 40  # a pause of at most 0.2 s by this config, 30 s by default


async def test_a_daemon_that_was_stopped_for_a_while_sees_at_once_that_it_is_late(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A guest that its host has paused wakes up to old data: it must not call anything recovered by it."""
    async with scene(broker, tmp_path / "d") as (here, config):
        with Process(config) as process:
            await agreement(here.exchange, listener, "main")
            process.send(signal.SIGSTOP)
            here.exchange.set_mark("BTCUSDT", "53000")
            begun = time.monotonic()
            await until(lambda: time.monotonic() - begun > 3, "three seconds pass")
            process.send(signal.SIGCONT)
            opened = await listener.event("liquidation_distance", "opened")
            await agreement(here.exchange, listener, "main")
            here.exchange.set_mark("BTCUSDT", "60000")
            await listener.event("liquidation_distance", "resolved")
            assert process.stderr == ""

    assert opened["after"]["mark_price"] == "53000.00000000"
    assert len(listener.events("liquidation_distance")) == 2


@pytest.mark.parametrize(
    ("tick_s", "stopped_s", "times"), [(0.05, 3, 1), (1, 1.2, 4)], ids=["long", "hardly-longer-than-a-tick"]
)
async def test_a_liquidation_that_goes_on_while_the_daemon_is_stopped_is_one_story(
    tick_s: float, stopped_s: float, times: int, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """What came meanwhile waits to be read: time in which nobody read it says nothing about what did not come."""

    def has_ticked(before: bytes) -> bool:
        return listener.now["marginwatch/main/health"] != before

    def is_told(events: int) -> bool:
        return len(listener.events("forced_order")) >= events

    def is_past(at: float) -> bool:
        return time.monotonic() > at

    async with stories.exchange() as exchange:
        rules = {"forced_order": {"settle_s": 1}}
        config = write_config(tmp_path / "d", exchange, broker.port, links={"tick_s": tick_s}, rules=rules)
        with Process(config) as process:
            await agreement(exchange, listener, "main")
            for turn in range(times):
                await until(partial(has_ticked, listener.now["marginwatch/main/health"]), "a tick is just over")
                exchange.liquidate("main", "SOLUSDT", str(40 // times))
                await until(partial(is_told, 2 * turn + 1), "it is told of")
                process.send(signal.SIGSTOP)
                exchange.liquidate("main", "SOLUSDT", str(60 // times))
                await until(partial(is_past, time.monotonic() + stopped_s), "it is stopped for a while")
                process.send(signal.SIGCONT)
                await until(partial(is_told, 2 * turn + 2), "it is over")

    told = listener.events("forced_order")
    assert [e["event"] for e in told] == ["opened", "resolved"] * times
    assert {e["report"]["quantity"] for e in told[1::2]} == {str(100 // times)}
    assert told[-1]["resolution"] == "liquidated"


@pytest.mark.parametrize("jump_s", [600, -600], ids=["ahead", "back"])
async def test_a_wall_clock_that_jumps_hides_nothing_and_invents_nothing(
    jump_s: int, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A guest that wakes up, or a first synchronisation: ages are not told by the wall."""
    clock = WallClock(tmp_path)
    if not clock.env:
        pytest.skip("no C compiler: wall clocks cannot be moved here")
    async with scene(broker, tmp_path / "d") as (here, config):
        daemon = DaemonProcess(config, clock.env)
        await daemon.start()
        try:
            await agreement(here.exchange, listener, "main")
            clock.jump(jump_s)
            here.exchange.set_mark("BTCUSDT", "53000")
            opened = await listener.event("liquidation_distance", "opened")
            told = await listener.event("clock_offset", "opened")
            here.exchange.transfer("main", "USDT", "-100")
            await until(lambda: sum(amounts(listener), Decimal(0)) == -100, "the withdrawal is told")
            clock.jump(0)
            here.exchange.set_mark("BTCUSDT", "60000")
            await listener.event("liquidation_distance", "resolved")
            await agreement(here.exchange, listener, "main")
        finally:
            await daemon.end()

    assert (opened["after"]["mark_price"], told["severity"]) == ("53000.00000000", "critical")
    market = [e for e in listener.events("data_stale") if e["subject"] == MARKET[1]]
    assert market == []


async def test_an_answer_that_took_long_is_no_wrong_clock(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """On a machine with too much to do one way takes longer than the other, by all of it at worst."""
    async with scene(broker, tmp_path / "d", clock_s=1, rest_timeout_s=5) as (here, config), watching(config):
        await agreement(here.exchange, listener, "main")
        here.exchange.fault(latency_s=1.5, rest_paths=["/fapi/v1/time"])
        asked = here.exchange.counters["GET /fapi/v1/time"]
        await until(lambda: here.exchange.counters["GET /fapi/v1/time"] > asked + 1, "it has been answered, and judged")

    assert listener.events("clock_offset") == []


async def test_a_clock_that_is_ahead_at_a_start_costs_no_history(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """By such a clock all is too old, and what is deleted does not come back when it is put right."""
    clock = WallClock(tmp_path)
    if not clock.env:
        pytest.skip("no C compiler: wall clocks cannot be moved here")
    two_days_s = 2 * 86_400
    async with scene(broker, tmp_path / "d") as (here, config):
        config.write_text(config.read_text("utf-8").replace("[store]\n", "[store]\nkeep_days = 1\n"), "utf-8")
        daemon = DaemonProcess(config, clock.env)
        await daemon.start()
        try:
            await agreement(here.exchange, listener, "main")
            here.exchange.set_mark("BTCUSDT", "53000")
            opened = await listener.event("liquidation_distance", "opened")
            here.exchange.set_mark("BTCUSDT", "60000")
            await listener.event("liquidation_distance", "resolved")
            await daemon.stop()

            def is_kept() -> bool:
                with closing(read_only(tmp_path / "d" / "store.sqlite3")) as connection:
                    return chronicle.find(connection, opened["incident_id"]) is not None

            clock.jump(two_days_s)
            await daemon.start()
            await listener.event("clock_offset", "opened")
            await daemon.stop()
            was_kept = is_kept()
            here.exchange.fault(clock_skew_ms=two_days_s * 1000)  # and now it is two days later for all
            await daemon.start()
            await until(lambda: not is_kept(), "what is too old has gone", 60)
        finally:
            await daemon.end()

    assert was_kept
