"""The whole daemon: a simulated exchange on one side, a real MQTT broker on the other."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from monitor.config import MqttConfig
from monitor.shell import settings
from monitor.shell.daemon import Daemon
from monitor.shell.database import Database
from monitor.shell.ghosts import Ghosts
from monitor.shell.tasks import ended
from monitor.sim import Exchange, Scenario
from tests import stories
from tests.chaos.proxy import Proxy
from tests.conftest import needs_mosquitto
from tests.rig import (
    Listener,
    Mosquitto,
    Process,
    agreement,
    free_port,
    private_file,
    until,
    watching,
    write_config,
)

BTC_INCIDENT = "marginwatch/main/incident/liquidation_distance/cross-usdt"
SOL_INCIDENT = "marginwatch/main/incident/liquidation_distance/isolated-solusdt"


# ---- what is published ----


async def test_published_figures_are_those_that_the_exchange_prints(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Cross, isolated, hedged, USDC and BNFCR: whoever compares with the exchange must find no difference."""
    async with Exchange(Scenario.named("mixed"), tick_s=0.1) as exchange:
        exchange.rest.weights.limit = 1_000_000
        async with watching(write_config(tmp_path / "d", exchange, broker.port, ("main", "hedge", "europe"))):
            await agreement(exchange, listener, "main", "hedge", "europe")
            marks = {
                "BTCUSDT": "57123.4",
                "ETHUSDT": "3011.11",
                "SOLUSDT": "147.7",
                "BTCUSDC": "57101",
                "ADAUSDT": "0.3999",
            }
            exchange.set_marks(marks)
            exchange.fill("hedge", "BTCUSDT", "SELL", "0.25", position_side="LONG")
            await agreement(exchange, listener, "main", "hedge", "europe")

    assert exchange.order_calls == []


async def test_status_info_summary_and_health_say_that_all_is_well(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Proof of life: silence must never be mistaken for safety."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        summary = await listener.state("marginwatch/main/summary", freshness="live", open_positions=2, severity="ok")
        health = await listener.state("marginwatch/main/health", freshness="live")
        await until(lambda: shared_links(listener) == ["live"], "the marks are proved")
        info = await listener.state("marginwatch/info")
        first = listener.heard[0]
        again = len([h for h in listener.heard if h.topic == "marginwatch/main/summary"])
        await until(
            lambda: len([h for h in listener.heard if h.topic == "marginwatch/main/summary"]) > again,
            "the summary is said again though nothing changed",
        )

    assert (first.topic, first.payload) == ("marginwatch/status", b"online")
    assert summary["worst_margin_ratio"] == 0.02435484  # SOL: 75.5 / 3100; BTC: 240 / 12000
    assert {name: link["state"] for name, link in health["links"].items()} == {"private": "live", "rest": "live"}
    assert info["accounts"] == [{"account": "main", "venue": "binance-usdm"}]
    assert (info["instance"], len(info["boot_id"])) == ("test", 16)


def shared_links(listener: Listener) -> list[str]:
    """States of the links that belong to no account."""
    return [link["state"] for link in listener.retained("marginwatch/_instance/health").get("links", {}).values()]


# ---- what is told ----


async def test_a_margin_ratio_is_told_as_it_opens_worsens_and_recovers(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The reason why the program exists: one incident with one story, exact at every step."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.set_mark("BTCUSDT", "48300")  # 193.2 / 300
        opened = await listener.event("margin_ratio", "opened")
        incident = await listener.state("marginwatch/main/incident/margin_ratio/cross-usdt", severity="notice")
        exchange.set_mark("BTCUSDT", "48240")  # 192.96 / 240
        worsened = await listener.event("margin_ratio", "worsened")
        await listener.state("marginwatch/main/summary", severity="critical", severity_rank=4)
        exchange.set_mark("BTCUSDT", "60000")
        resolved = await listener.event("margin_ratio", "resolved")
        await listener.no_incident()
        await listener.state("marginwatch/main/summary", severity="ok")

    assert (opened["severity"], opened["subject"], opened["symbol"], opened["side"]) == (
        "notice",
        "cross-usdt",
        "BTCUSDT",
        "long",
    )
    assert opened["after"] == {
        "margin_ratio": 0.644,
        "margin_balance": "300.00000000",
        "mark_price": "48300.00000000",
        "liquidation_price": stories.BTC_PRICE,
        "distance": 0.00222006,  # 107.22891566 / 48300, cut
    }
    assert incident["event_id"] == opened["event_id"]
    # A warning by its level; less than a percent from liquidation, so critical.
    assert (worsened["severity"], worsened["after"]["margin_ratio"]) == ("critical", 0.804)
    assert (resolved["resolution"], resolved["severity"], resolved["worst"]) == (
        "recovered",
        "critical",
        {"margin_ratio": 0.804},
    )
    assert [e["event_id"] for e in (opened, worsened, resolved)] == [f"{opened['incident_id']}.{n}" for n in (1, 2, 3)]
    assert len(listener.events("margin_ratio")) == 3


async def test_a_moved_liquidation_price_is_told_with_its_cause_and_amount(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Nobody else says why a liquidation price moved; what we say must be the whole reason and nothing but it."""
    rule = "liquidation_price_moved"
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.fund("BTCUSDT", "0.0001")  # − 0.0001 × 60000 × 1
        funding = await listener.event(rule, "noted")
        exchange.add_margin("main", "SOLUSDT", "500")
        await until(lambda: len(listener.events(rule)) == 2, "the margin transfer is told")
        exchange.transfer("main", "USDT", "-994")
        await until(lambda: len(listener.events(rule)) == 3, "the withdrawal is told")
        await agreement(exchange, listener, "main")
        _, margin, withdrawal = listener.events(rule)

    assert (funding["severity"], funding["subject"]) == ("info", "btcusdt")
    assert funding["before"]["liquidation_price"] == stories.BTC_PRICE
    assert funding["after"]["liquidation_price"] == "48198.79518072"  # 48006 / 0.996
    assert funding["cause"] == [
        {
            "kind": "funding_fee",
            "symbol": "BTCUSDT",
            "forecast": None,
            "amount": "-6.00000000",
            "asset": "USDT",
            "moved": "6.02409638",  # of the printed prices
            "share": 1.0,
        }
    ]
    assert (margin["subject"], margin["severity"]) == ("btcusdt", "notice")  # 502 / 60000 = 0.84 % of the mark
    assert [(c["kind"], c["amount"]) for c in margin["cause"]] == [("margin_transfer", "-500.00000000")]
    assert margin["after"]["liquidation_price"] == "48700.80321285"  # 48506 / 0.996
    [sol] = margin["also"]
    assert (sol["symbol"], sol["before"], sol["after"]) == ("SOLUSDT", stories.SOL_PRICE, "115.57788945")
    assert [(c["kind"], c["amount"]) for c in sol["cause"]] == [("margin_transfer", "500.00000000")]
    assert [(c["kind"], c["amount"]) for c in withdrawal["cause"]] == [("transfer", "-994.00000000")]
    assert withdrawal["after"]["liquidation_price"] == "49698.79518072"  # 49500 / 0.996


async def test_a_closed_position_leaves_nothing_on_the_broker(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A dashboard that goes on showing a closed position is worse than none."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "130")
        await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
        exchange.fill("main", "SOLUSDT", "SELL", "100")
        resolved = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
        await agreement(exchange, listener, "main")
        await until(lambda: SOL_INCIDENT not in listener.now, "the incident's topic is emptied")
        await listener.state("marginwatch/main/summary", open_positions=1)

    assert resolved["resolution"] == "position_closed"
    assert listener.under("main", "pool") == {"cross-usdt"}


async def test_a_liquidation_is_never_called_a_recovery(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """After a liquidation the ratio is 0: a monitor that then says `recovered` has lied at the worst moment."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "121")  # 60.5 / 100
        await listener.event("margin_ratio", "opened", subject="isolated-solusdt")
        exchange.set_mark("BTCUSDT", "48230")  # 192.92 / 230
        await listener.event("margin_ratio", "opened", subject="cross-usdt")
        exchange.set_marks({"BTCUSDT": "48190", "SOLUSDT": "120.6"})
        for subject in ("isolated-solusdt", "cross-usdt"):
            for rule in ("margin_ratio", "liquidation_distance"):
                await listener.event(rule, "resolved", subject=subject)
        await agreement(exchange, listener, "main")

    resolved = listener.events(event="resolved")
    assert [e["resolution"] for e in resolved] == ["liquidated"] * 4
    assert all(e["severity_rank"] >= 4 and "LIQUIDATED" in e["title"] for e in resolved)
    assert all("recover" not in e["text"] for e in resolved)


async def test_a_symbol_that_is_bought_later_is_watched_like_the_others(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Only held symbols are subscribed: a new one must not stay without marks."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.fill("main", "ETHUSDT", "SELL", "2")
        await agreement(exchange, listener, "main")
        exchange.set_mark("ETHUSDT", "3100")
        await agreement(exchange, listener, "main")
        exchange.set_mark("ETHUSDT", "6200")  # − 6500: 8.7 % of BTC's mark are left
        opened = await listener.event("liquidation_distance", "opened", subject="cross-usdt")

    assert "ethusdt" in listener.under("main", "position")
    assert opened["symbol"] == "BTCUSDT"
    assert [driver["symbol"] for driver in opened["drivers"]] == ["ETHUSDT"]


# ---- the process ----


async def test_the_process_says_offline_and_ends_with_0_when_told_to_stop(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A clean end suppresses the will, so the daemon has to say it itself; systemd waits for it, but not for ever."""
    async with stories.exchange() as exchange:
        with Process(write_config(tmp_path / "d", exchange, broker.port)) as process:
            await agreement(exchange, listener, "main")
            process.send(signal.SIGTERM)
            begun = time.monotonic()
            status = await process.ended(5)
            took = time.monotonic() - begun
            await until(lambda: listener.now.get("marginwatch/status") == b"offline", "offline is said")

    assert status == 0
    assert took < 5
    assert process.stderr == ""


async def test_a_daemon_without_a_broker_stops_at_once(tmp_path: Path) -> None:
    """It may be half a minute until the next try to connect; what was not sent lies in the store."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, free_port(), mqtt={"reconnect_max_s": 60})
        with Process(config) as process:
            await until(lambda: len(process.logged("broker not reached")) >= 7, "the next try is seconds away")
            process.send(signal.SIGTERM)
            begun = time.monotonic()
            status = await process.ended()
            took_s = time.monotonic() - begun

    assert status == 0
    assert took_s < 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_a_restart_tells_nothing_twice_and_forgets_nothing(
    number: signal.Signals, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """An update of the daemon must neither page anybody again nor leave an alarm standing that is over."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        with Process(config) as process:
            await agreement(exchange, listener, "main")
            exchange.set_marks({"BTCUSDT": "50000", "SOLUSDT": "130"})
            await listener.event("liquidation_distance", "opened", subject="cross-usdt")
            await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
            exchange.fund("BTCUSDT", "0.0001")
            await listener.event("liquidation_price_moved", "noted")
            before = listener.events()
            process.send(number)
            await process.ended()
            await until(lambda: listener.now.get("marginwatch/status") == b"offline", "the will, or the farewell")
        exchange.set_mark("SOLUSDT", "150")
        exchange.transfer("main", "USDT", "-100")
        with Process(config):
            resolved = await listener.event("liquidation_distance", "resolved")
            await until(lambda: len(listener.events("liquidation_price_moved")) == 2, "the transfer is told")
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "49000")
            worsened = await listener.event("liquidation_distance", "worsened")
            incident = await listener.state(BTC_INCIDENT, severity="critical")

    events = listener.events()
    opened = {e["subject"]: e for e in before if e["event"] == "opened"}
    moved = listener.events("liquidation_price_moved")[-1]
    assert events[: len(before)] == before
    assert sorted((e["incident_id"], e["event"]) for e in events[len(before) :]) == sorted(
        [
            (opened["isolated-solusdt"]["incident_id"], "resolved"),
            (opened["cross-usdt"]["incident_id"], "worsened"),
            (moved["incident_id"], "noted"),
        ]
    )
    assert resolved["resolution"] == "recovered"
    assert worsened["event_id"] == f"{opened['cross-usdt']['incident_id']}.2"
    assert incident["event_id"] == worsened["event_id"]
    assert moved["before"]["liquidation_price"] == "48197.79116466"  # after the funding of 5: 48005 / 0.996
    assert moved["after"]["liquidation_price"] == "48298.19277108"
    assert [(c["kind"], c["amount"]) for c in moved["cause"]] == [("unexplained", "-100.00000000")]


@pytest.mark.parametrize("is_late", [False, True], ids=["at-once", "late"])
async def test_what_was_open_in_another_environment_is_not_said_to_be_closed_after_a_restart(
    is_late: bool, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """First the testnet, then the exchange itself, under the same name: these are two accounts, whenever the store can
    be opened."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        async with watching(config):
            await agreement(exchange, listener, "main")
            exchange.set_mark("SOLUSDT", "126")
            opened = await listener.event("liquidation_distance", "opened")
        exchange.set_mark("SOLUSDT", "150")
        exchange.fill("main", "SOLUSDT", "SELL", "100")
        config.write_text(config.read_text("utf-8").replace('"custom"', '"testnet"'), "utf-8")
        held = Database(settings.store_path(settings.load(config)), 2) if is_late else None
        with Process(config) as process:
            await until(lambda: process.logged("ready"), "it watches")
            if held is not None:
                held.close()
            ended = await listener.event("liquidation_distance", "resolved")
            await agreement(exchange, listener, "main")
            await listener.no_incident()

    assert (ended["incident_id"], ended["resolution"]) == (opened["incident_id"], "rule_changed")
    assert listener.events("liquidation_price_moved") == []


async def liquidated_after_a_run(exchange: Exchange, config: Path, listener: Listener, number: signal.Signals) -> None:
    """A run keeps what is held and ends by this signal, with nothing open; then the long in SOL is liquidated."""
    with Process(config) as process:
        await agreement(exchange, listener, "main")
        exchange.fund("BTCUSDT", "0.0001")
        await listener.event("liquidation_price_moved", "noted")
        process.send(number)
        await process.ended()
    exchange.set_mark("SOLUSDT", "120")
    exchange.set_mark("SOLUSDT", "151")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_a_liquidation_while_no_daemon_ran_is_told_though_nothing_was_open(
    number: signal.Signals, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A crash of the market takes less time than an update; what it took must not look like a position closed."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await liquidated_after_a_run(exchange, config, listener, number)
        for _ in range(2):  # the second run has nothing to add
            with Process(config) as process:
                resolved = await listener.event("forced_order", "resolved")
                await agreement(exchange, listener, "main")
                process.send(signal.SIGTERM)
                await process.ended()

    assert (resolved["resolution"], resolved["symbol"], resolved["report"]["left"]) == ("liquidated", "SOLUSDT", "0")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_liquidation_of_what_was_opened_a_moment_before_the_daemon_died_is_told(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Fills are told a minute later, and what prices are measured from then is kept then. What happened to the
    position of the last minute went untold."""
    async with stories.exchange(stories.account(balances={"USDT": "3000"}, position=[], settings={})) as exchange:
        patient = {"liquidation_price_moved": {"fills_window_s": 600}}
        config = write_config(tmp_path / "d", exchange, broker.port, rules=patient)
        with Process(config) as process:
            await until(lambda: process.logged("ready"), "it watches")
            exchange.fill("main", "SOLUSDT", "BUY", "100")
            await agreement(exchange, listener, "main")
            process.send(signal.SIGKILL)
            await process.ended()
        exchange.set_mark("SOLUSDT", "119")
        exchange.set_mark("SOLUSDT", "151")
        with Process(config) as process:
            told = await listener.event("forced_order", "resolved")
            await agreement(exchange, listener, "main")
            process.send(signal.SIGTERM)
            await process.ended()

    assert (told["resolution"], told["symbol"], told["report"]["left"]) == ("liquidated", "SOLUSDT", "0")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_liquidation_while_no_daemon_ran_is_told_though_the_store_opens_late(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """What was held, and may have been taken, is in the store alone: until then nothing was there to be missed."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await liquidated_after_a_run(exchange, config, listener, signal.SIGKILL)
        held = Database(settings.store_path(settings.load(config)), 2)
        with Process(config) as process:
            await agreement(exchange, listener, "main")
            await until(lambda: process.logged("ready"), "it goes on without")
            held.close()
            told = await listener.event("forced_order", "resolved")
            await agreement(exchange, listener, "main")
            process.send(signal.SIGTERM)
            await process.ended()

    assert (told["resolution"], told["symbol"]) == ("liquidated", "SOLUSDT")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_reload_while_it_starts_takes_accounts_and_leaves_what_is_read_once(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A slow disk may take half a minute; the password that the start names is not named in the new config any more."""
    async with stories.exchange(stories.account("main"), stories.account("spare")) as exchange:
        one, other = (
            write_config(
                tmp_path / name,
                exchange,
                broker.port,
                names,
                mqtt={"username": "u", "password": f"file:{private_file(tmp_path / f'{name}.password', name)}"},
            )
            for name, names in (("one", ["main"]), ("other", ["main", "spare"]))
        )
        begun, later = settings.load(one), settings.load(other)
        daemon, stop = Daemon(begun, settings.fetch(begun)), asyncio.Event()
        daemon.take(later, settings.fetch(later))
        running = asyncio.create_task(daemon.run(stop))
        await agreement(exchange, listener, "main", "spare")
        stop.set()
        await running


async def test_an_account_that_goes_as_soon_as_it_has_come_never_begins(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Two reloads, one right after the other: whoever saves the config twice."""
    async with stories.exchange(stories.account("main"), stories.account("spare")) as exchange:
        one, both = (
            settings.load(write_config(tmp_path / names[-1], exchange, broker.port, names))
            for names in (("main",), ("main", "spare"))
        )
        daemon, stop = Daemon(one, settings.fetch(one)), asyncio.Event()
        running = asyncio.create_task(daemon.run(stop))
        await agreement(exchange, listener, "main")
        for config in (both, one, both):
            daemon.take(config, settings.fetch(config))
        await agreement(exchange, listener, "main", "spare")
        stop.set()
        await running


async def test_what_an_earlier_run_left_on_the_broker_is_removed(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A retained alarm of a position closed while nobody watched would stand for ever."""
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for topic in ("pool/cross-usdc", "position/dogeusdt", "incident/margin_ratio/cross-usdc"):
            await client.publish(f"marginwatch/main/{topic}", b'{"left":"over"}', qos=1, retain=True)
        await client.publish("marginwatch/sold/summary", b'{"left":"over"}', qos=1, retain=True)
        await client.publish("elsewhere/main/pool/cross-usdc", b"not ours", qos=1, retain=True)
    await until(lambda: len(listener.now) == 5, "the ghosts are there")
    listener.wrong.clear()
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        await until(lambda: b'{"left":"over"}' not in listener.now.values(), "the ghosts are gone")
        await agreement(exchange, listener, "main")

    assert listener.now["elsewhere/main/pool/cross-usdc"] == b"not ours"


async def test_what_a_broker_has_back_after_a_crash_is_removed_again(tmp_path: Path) -> None:
    """It writes down now and then what is retained, and may know nothing of what was emptied since: an alarm that ended
    half an hour ago would stand for ever."""
    needs_mosquitto()
    folder = tmp_path / "broker"
    forgetful = Mosquitto(folder, "persistence true", f"persistence_location {folder}/")
    topic = "marginwatch/main/incident/margin_ratio/cross-usdc"
    await forgetful.start()
    try:
        async with aiomqtt.Client("127.0.0.1", forgetful.port) as client:
            await client.publish(topic, b'{"left":"over"}', qos=1, retain=True)
        forgetful.stop()
        written = (folder / "mosquitto.db").read_bytes()
        await forgetful.start()
        async with stories.exchange() as exchange, Listener(forgetful.port) as listener:
            with Process(write_config(tmp_path / "d", exchange, forgetful.port)) as process:
                await until(lambda: process.logged("ghost topics removed"), "it is removed")
                await until(lambda: topic not in listener.now, "it is gone")
                forgetful.kill()
                (folder / "mosquitto.db").write_bytes(written)
                await forgetful.start()
                await until(lambda: topic in listener.now, "it is back")
                await until(lambda: topic not in listener.now, "it is gone again")
                await agreement(exchange, listener, "main")
                process.send(signal.SIGTERM)
                await process.ended()
            listener.wrong.clear()
    finally:
        forgetful.kill()


async def test_a_broker_that_allows_a_user_one_connection_keeps_that_of_the_alerts(tmp_path: Path) -> None:
    """To look for what an earlier run left takes a second one, and each would have ended the other again and again."""
    needs_mosquitto()
    passwords = private_file(tmp_path / "passwords", "marginwatch:pw\nlistener:pw\n")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)  # noqa: ASYNC221 - returns at once
    options = ("allow_anonymous false", f"password_file {passwords}", "use_username_as_clientid true")
    strict = Mosquitto(tmp_path / "broker", *options)
    await strict.start()
    reader = {"username": "listener", "password": "pw"}
    writer = {"username": "marginwatch", "password": f"file:{private_file(tmp_path / 'password', 'pw')}"}
    try:
        async with Listener(strict.port, **reader) as listener, stories.exchange() as exchange:
            with Process(write_config(tmp_path / "d", exchange, strict.port, mqtt=writer)) as process:
                await until(lambda: process.logged("ghost topics not looked for"), "it looks no more")
                exchange.set_mark("SOLUSDT", "130")
                await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
                assert len(process.logged("broker connected")) <= 4
    finally:
        strict.kill()


async def test_ghosts_are_looked_for_again_where_each_look_was_cut(broker: Mosquitto) -> None:
    """A broker that crashes again and again has them back, and ends each look: they would stand to the next restart."""
    topic = "marginwatch/main/incident/margin_ratio/cross-usdc"
    cuts: list[asyncio.Task[None]] = []

    def cut_who_looks(sent: bytes) -> None:
        if b"marginwatch/+" in sent and len(cuts) < 3:
            cuts.append(asyncio.create_task(net.cut()))

    async with Proxy(lambda: broker.port, cut_who_looks) as net, aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish(topic, b'{"left":"over"}', qos=1, retain=True)
        config = MqttConfig(port=net.port, reconnect_max_s=0.1, timeout_s=0.5)
        ghosts = Ghosts(config, None, lambda: ["main"], in_vain_s=0.1)
        looking = asyncio.create_task(ghosts.run())
        ghosts.connected()
        await until(lambda: ghosts.topics, "it is found")
        await ended(looking)

    assert ghosts.topics == {topic}
    assert len(cuts) == 3


async def test_however_much_is_retained_at_the_broker_alerts_get_through_to_it(tmp_path: Path) -> None:
    """Of more than a broker may keep waiting for a client it throws away what comes next, acknowledgements as well."""
    needs_mosquitto()
    folder = tmp_path / "broker"
    crowded = Mosquitto(folder, "persistence true", f"persistence_location {folder}/")
    await crowded.start()
    try:
        async with Listener(crowded.port, "marginwatch/main/#") as listener, stories.exchange() as exchange:
            async with aiomqtt.Client("127.0.0.1", crowded.port) as client:
                for n in range(4000):  # more than the sockets between take, so that some has to wait
                    await client.publish(f"marginwatch/sold/position/{n}", b"left over".ljust(3000), retain=True)
                await client.publish("marginwatch/sold/summary", b"left over", qos=1, retain=True)
            crowded.stop()
            crowded.add("max_queued_messages 200")  # by default 1000
            with Process(write_config(tmp_path / "d", exchange, crowded.port)) as process:
                exchange.set_mark("SOLUSDT", "130")
                await until(lambda: process.logged("incident opened"), "there is something to tell")
                await crowded.start()
                await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
                exchange.set_mark("BTCUSDT", "50000")
                await listener.event("liquidation_distance", "opened", subject="cross-usdt")
                await until(lambda: process.logged("ghost topics removed"), "what is left over is looked for")
                assert len(process.logged("broker connected")) == 1
    finally:
        crowded.kill()


async def test_logs_are_json_lines_with_stable_names_and_none_per_tick(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Logs are read by programs, and a log that grows with the market fills the disk."""
    async with stories.exchange(tick_s=0.02) as exchange:
        with Process(write_config(tmp_path / "d", exchange, broker.port)) as process:
            await agreement(exchange, listener, "main")
            await until(lambda: process.logged("ready"), "ready is logged")
            before = len(process.logged())
            for step in range(25):
                exchange.set_mark("BTCUSDT", f"{60_000 + step}")
                await listener.state("marginwatch/main/position/btcusdt", mark_price=f"{60_000 + step}.00000000")
            after = process.logged()[before:]
            exchange.set_mark("BTCUSDT", "50000")
            await listener.event("liquidation_distance", "opened")
            process.send(signal.SIGTERM)
            await process.ended()

    lines = process.logged()
    assert after == []
    proved = [line["link"] for line in lines[: [line["event"] for line in lines].index("ready")] if "link" in line]
    assert proved.count("private") == proved.count("market-binance-usdm-custom") == 1  # ready: when both are proved
    assert [line["event"] for line in lines if line["event"] in ("started", "ready", "incident opened", "stopped")] == [
        "started",
        "ready",
        "incident opened",
        "stopped",
    ]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert all(name == name.lower() and not any(map(str.isdigit, name)) for name in (line["event"] for line in lines))


async def test_a_mistake_in_the_config_ends_with_78_and_names_file_and_key(tmp_path: Path) -> None:
    """78 keeps systemd from starting it again and again; the message must be enough to mend it."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, free_port(), mqtt={"prot": 1}, links={"tick_s": 99})
        with Process(config) as process:
            status = await process.ended()

    assert status == 78
    assert f'{config}: [mqtt] prot: unknown key; did you mean "port"?' in process.stderr
    assert f"{config}: [links] tick_s: must be a number of seconds from 0.01 to 5" in process.stderr
    assert "Traceback" not in process.stderr


# ---- ways to the broker ----


def passwords(folder: Path, password: str) -> list[str]:
    """Lines of a broker's config that let in the user `watch` with this password, and the listener."""
    folder.mkdir(parents=True, exist_ok=True)
    file = private_file(folder / "passwords", f"watch:{password}\nlistener:listening\n")
    subprocess.run(["mosquitto_passwd", "-U", str(file)], check=True)
    return ["allow_anonymous false", f"password_file {file}"]


def certificates(folder: Path) -> dict[str, Path]:
    """A CA, and a certificate for 127.0.0.1 signed by it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("ca.key", "ca.crt", "server.key", "server.csr", "server.crt", "san")}
    files["san"].write_text("subjectAltName=IP:127.0.0.1\n", "utf-8")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, server = ["-subj", "/CN=marginwatch test CA"], ["-subj", "/CN=127.0.0.1"]
    signing = ["x509", "-req", "-CA", files["ca.crt"], "-CAkey", files["ca.key"], "-CAcreateserial", "-days", "2"]
    extension = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    for command in (
        [*new, *ca, *extension, "-x509", "-days", "2", "-keyout", files["ca.key"], "-out", files["ca.crt"]],
        [*new, *server, "-keyout", files["server.key"], "-out", files["server.csr"]],
        [*signing, "-in", files["server.csr"], "-extfile", files["san"], "-out", files["server.crt"]],
    ):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return files


@pytest.mark.parametrize("protocol", ["3.1.1", "5", "auto"])
async def test_both_mqtt_versions_carry_the_same(
    protocol: str, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """3.1.1 is the floor, 5 an improvement: neither may lose anything."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, mqtt={"protocol": protocol})
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "50000")
            await listener.event("liquidation_distance", "opened")
            await listener.state(BTC_INCIDENT, severity="warning")

    [connected] = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "broker connected"]
    [event] = [heard for heard in listener.heard if "/event/" in heard.topic]
    assert connected["mqtt"] == ("5" if protocol == "auto" else protocol)
    if protocol != "3.1.1":
        assert event.properties["ContentType"] == "application/json"
        assert ["event_id", event.body["event_id"]] in [list(pair) for pair in event.properties["UserProperty"]]


async def test_tls_and_a_password_lead_to_the_broker(tmp_path: Path) -> None:
    """A broker that is reached over a network needs both; its certificate is checked against the CA that was given."""
    needs_mosquitto()
    files = certificates(tmp_path / "tls")
    broker = Mosquitto(
        tmp_path / "broker",
        f"cafile {files['ca.crt']}",
        f"certfile {files['server.crt']}",
        f"keyfile {files['server.key']}",
        *passwords(tmp_path / "broker", "open-sesame"),
    )
    await broker.start()
    mqtt: dict[str, Any] = {
        "username": "watch",
        "password": f"file:{private_file(tmp_path / 'password', 'open-sesame')}",
        "tls": True,
    }
    tls = aiomqtt.TLSParameters(ca_certs=str(files["ca.crt"]))
    try:
        async with (
            stories.exchange() as exchange,
            Listener(broker.port, username="listener", password="listening", tls_params=tls) as listener,
        ):
            trusting = {**mqtt, "tls_ca_file": str(files["ca.crt"])}
            async with watching(write_config(tmp_path / "d", exchange, broker.port, mqtt=trusting)):
                await agreement(exchange, listener, "main")
            await until(lambda: listener.now.get("marginwatch/status") == b"offline", "offline is said")
            listener.heard.clear()
            with Process(write_config(tmp_path / "d", exchange, broker.port, mqtt=mqtt)) as process:
                await until(lambda: len(process.logged("broker not reached")) > 1, "an unknown CA is refused")
    finally:
        broker.kill()

    assert listener.heard == []
    assert "certificate verify failed" in process.stdout


async def test_a_refused_password_is_tried_again_until_the_broker_takes_it(tmp_path: Path) -> None:
    """Whoever mends the broker's password file must not have to think of restarting the monitor too."""
    needs_mosquitto()
    broker = Mosquitto(tmp_path / "broker", *passwords(tmp_path / "broker", "another"))
    await broker.start()
    mqtt = {"username": "watch", "password": f"file:{private_file(tmp_path / 'password', 'open-sesame')}"}
    try:
        async with (
            stories.exchange() as exchange,
            Listener(broker.port, username="listener", password="listening") as listener,
            watching(write_config(tmp_path / "d", exchange, broker.port, mqtt=mqtt)) as log,
        ):
            await until(lambda: log.getvalue().count("broker not reached") > 2, "refused, and tried again")
            exchange.set_mark("BTCUSDT", "50000")
            await until(lambda: "incident opened" in log.getvalue(), "an incident opens meanwhile")
            assert listener.heard == []
            passwords(tmp_path / "broker", "open-sesame")
            broker.reload()
            opened = await listener.event("liquidation_distance", "opened")
            await agreement(exchange, listener, "main")
    finally:
        broker.kill()

    assert opened["severity"] == "warning"
    assert len(listener.events()) == 1


# ---- secrets ----


@pytest.mark.parametrize("per_connection", [1, 20])
async def test_no_secret_leaves_the_process(per_connection: int, tmp_path: Path) -> None:
    """A listen key works from any address, a log is copied to anybody: no secret may be in what we say or keep."""
    needs_mosquitto()
    key, secret, password = "KEYq7Zt1Xv9", "SECRETm4Rw8Lp2", "PASSWORDb6Nc3Yd5"
    broker = Mosquitto(tmp_path / "broker", *passwords(tmp_path / "broker", password))
    await broker.start()
    mqtt = {"username": "watch", "password": f"file:{private_file(tmp_path / 'password', password)}"}
    listen_keys = set()
    try:
        async with (
            stories.exchange(stories.account(api_key=key, secret=secret)) as exchange,
            Listener(broker.port, username="listener", password="listening") as listener,
        ):
            links = {"accounts_per_connection": per_connection}
            config = write_config(tmp_path / "d", exchange, broker.port, mqtt=mqtt, links=links)
            config.write_text(config.read_text("utf-8").replace('format = "json"', 'format = "json"\nlevel = "debug"'))
            with Process(config) as process:
                await agreement(exchange, listener, "main")
                exchange.set_mark("BTCUSDT", "50000")
                await listener.event("liquidation_distance", "opened")
                # Errors are where secrets leak: every kind of failure that has an address or a signature in it.
                listen_keys |= set(exchange.listen_keys.all().values())
                exchange.fault(rest="503")
                exchange.expire_listen_key("main")
                await until(lambda: len(process.logged("link down")) > 1, "the private link fails")
                exchange.fault(rest="abort")
                downs = len(process.logged("link down"))
                await until(lambda: len(process.logged("link down")) > downs, "REST is cut off")
                exchange.fault(rest="ok", refuse=True)
                exchange.drop()
                downs = len(process.logged("link down"))
                await until(lambda: len(process.logged("link down")) > downs + 1, "every handshake is refused")
                exchange.fault(refuse=False)
                exchange.set_permissions("main", enableReading=False)  # a revoked key: -2015
                exchange.drop("private")
                downs = len(process.logged("link down"))
                await until(lambda: len(process.logged("link down")) > downs, "the key is refused")
                exchange.set_permissions("main", enableReading=True)
                await until(lambda: set(exchange.listen_keys.all().values()) - listen_keys, "there is a new listen key")
                exchange.set_mark("BTCUSDT", "60000")
                await agreement(exchange, listener, "main")
                listen_keys |= set(exchange.listen_keys.all().values())
                process.send(signal.SIGTERM)
                await process.ended()
    finally:
        broker.kill()

    said = [process.stdout.encode(), process.stderr.encode()]
    said += [text for heard in listener.heard for text in (heard.topic.encode(), heard.payload)]
    kept = [path.read_bytes() for path in (tmp_path / "d").glob("store.sqlite3*")]
    assert len(listen_keys) == 2
    assert len(kept) >= 1
    for hidden in (key, secret, password, *listen_keys):
        assert not any(hidden.encode() in text for text in (*said, *kept)), hidden
    assert b"signature=" not in b"".join(said)
    assert exchange.order_calls == []


async def test_an_event_goes_out_though_the_store_cannot_be_used(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A full or broken disk is no reason to keep an alarm back."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        (tmp_path / "d" / "store.sqlite3").write_bytes(b"this is no database, and it is long enough to be sure" * 9)
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "50000")
            await listener.event("liquidation_distance", "opened")

    assert "store unusable" in log.getvalue()


async def test_what_an_event_does_not_need_waits_for_the_next_step_at_most(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The event waits for a disk that takes its time; how it stands is published all the same."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        async with watching(config):
            await agreement(exchange, listener, "main")
            with closing(sqlite3.connect(tmp_path / "d" / "store.sqlite3", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                exchange.set_mark("BTCUSDT", "50000")
                await listener.state("marginwatch/main/incident/liquidation_distance/cross-usdt")
                told = listener.events("liquidation_distance")
                holder.execute("ROLLBACK")
            await listener.event("liquidation_distance", "opened")

    assert told == []


async def test_a_start_that_fails_or_is_cut_short_leaves_no_store_open(tmp_path: Path) -> None:
    """Its thread would keep the file for as long as the process lives."""

    def stores() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "store"]

    async with stories.exchange() as exchange:
        config = settings.load(write_config(tmp_path / "d", exchange, free_port()))
        with pytest.raises(KeyError):  # of a secret that nobody has fetched
            await Daemon(config, {}).run(asyncio.Event())
        assert stores() == []

        with closing(sqlite3.connect(tmp_path / "d" / "store.sqlite3", isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode = EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            starting = asyncio.create_task(Daemon(config, settings.fetch(config)).run(asyncio.Event()))
            await until(stores, "it opens its store")
            starting.cancel()
        await asyncio.wait({starting})
        assert stores() == []


async def test_two_daemons_in_one_process_do_not_mix(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Nothing is global: another prefix and another account are another daemon."""
    async with stories.exchange(stories.account("one"), stories.account("two")) as exchange:
        listener.prefixes = ["mw/one", "mw/two"]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as daemons:
            for name in ("one", "two"):
                path = write_config(tmp_path / name, exchange, broker.port, (name,), mqtt={"prefix": f"mw/{name}"})
                config = settings.load(path)
                daemons.create_task(Daemon(config, settings.fetch(config)).run(stop), name=name)
            for name in ("one", "two"):
                await listener.state(f"mw/{name}/{name}/summary", freshness="live", open_positions=2)
            stop.set()

    assert not {topic for topic in listener.now if topic.startswith("mw/one/two") or topic.startswith("mw/two/one")}
