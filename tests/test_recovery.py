"""Every link cut, frozen or fooled while a position goes bad: what is told is true, whole, and told once.

One story for every fault: a cross position comes within 10 % of liquidation; the fault begins; the price falls on and
money is withdrawn; the fault ends. Then the daemon, never restarted, shows what the exchange shows; the price falls
further, and recovers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monitor.sim import Exchange
from tests import stories
from tests.rig import Listener, Mosquitto, agreement, until, watching, write_config

MARKET = ("_instance", "market-binance-usdm-custom")
PRIVATE = ("main", "private")
REST = ("main", "rest")


@dataclass
class Scene:
    """What a fault can be done to, and where it shows."""

    exchange: Exchange
    broker: Mosquitto
    log: Callable[[], str]


async def nothing(scene: Scene) -> None:
    """Over by itself."""


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Args:
        begin, end: How it comes and goes.
        shows: What is in the log once the daemon has met it.
        blinds: Account and link whose `data_stale` is told; empty: too short, or no link at all, and none may be told.
    """

    name: str
    begin: Callable[[Scene], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]] = nothing
    shows: str = ""
    blinds: frozenset[tuple[str, str]] = field(default=frozenset())


def switched(**switches: Any) -> Callable[[Scene], Awaitable[None]]:
    async def switch(scene: Scene) -> None:
        scene.exchange.fault(**switches)

    return switch


async def kill_broker(scene: Scene) -> None:
    scene.broker.kill()


async def start_broker(scene: Scene) -> None:
    await scene.broker.start()


async def freeze_broker(scene: Scene) -> None:
    scene.broker.freeze()


async def thaw_broker(scene: Scene) -> None:
    scene.broker.thaw()


async def drop_market(scene: Scene) -> None:
    scene.exchange.drop("market")


async def drop_private(scene: Scene) -> None:
    scene.exchange.drop("private")


async def expire_key(scene: Scene) -> None:
    assert scene.exchange.expire_listen_key("main")


async def ban(scene: Scene) -> None:
    scene.exchange.rest.weights.ban_s = 0  # Retry-After then says 1 s
    scene.exchange.fault(rest="418")


async def kill_exchange(scene: Scene) -> None:
    await scene.exchange.kill()


async def replace_exchange(scene: Scene) -> None:
    await scene.exchange.kill(keep_listen_keys=False)


async def restart_exchange(scene: Scene) -> None:
    await scene.exchange.start()


async def send_garbage(scene: Scene) -> None:
    for route in ("market", "private"):
        for kind in ("text", "types", "binary", "big"):
            scene.exchange.send_garbage(route, kind)


FAULTS = [
    Fault("broker-killed", kill_broker, start_broker, "broker not reached"),
    Fault("broker-frozen", freeze_broker, thaw_broker, "broker lost"),
    Fault("market-dropped", drop_market, shows="link down"),
    Fault(
        "market-mute",
        switched(mute_market=True),
        switched(mute_market=False),
        "no mark for",
        frozenset([MARKET]),
    ),
    Fault(
        "market-half-open",
        switched(half_open_market=True),
        switched(half_open_market=False),
        "link down",
        frozenset([MARKET]),
    ),
    Fault("private-dropped", drop_private, shows="link down"),
    Fault(
        "private-half-open",
        switched(half_open_private=True),
        switched(half_open_private=False),
        "link down",
        frozenset([PRIVATE]),
    ),
    Fault("listen-key-expired", expire_key, shows="listen key expired"),
    Fault("rest-503", switched(rest="503"), switched(rest="ok"), "not reconciled", frozenset([REST])),
    Fault("rest-cut", switched(rest="abort"), switched(rest="ok"), "not reconciled", frozenset([REST])),
    Fault("rest-418", ban, switched(rest="ok"), "not reconciled", frozenset([REST])),
    Fault("exchange-killed", kill_exchange, restart_exchange, "link down", frozenset([MARKET, PRIVATE, REST])),
    Fault(
        "exchange-killed-and-keys-lost",
        replace_exchange,
        restart_exchange,
        "link down",
        frozenset([MARKET, PRIVATE, REST]),
    ),
    Fault("garbage-frames", send_garbage, shows="frame dropped"),
]


def is_over(listener: Listener, account: str, link: str) -> bool:
    return f"{account}/incident/data_stale/{link}" not in listener.under()


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS])
async def test_after_a_fault_the_state_is_right_and_every_event_was_told_once(
    fault: Fault, lasting_broker: Mosquitto, tmp_path: Path
) -> None:
    """The commonest failure in the field is a monitor that went on, silent or wrong, after a link had failed."""
    async with stories.exchange() as exchange, Listener(lasting_broker.port) as listener:
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, links={"first_frame_s": 2})
        async with watching(config) as log:
            scene = Scene(exchange, lasting_broker, log.getvalue)
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "53000")  # 9.1 %
            await listener.event("liquidation_distance", "opened")
            await fault.begin(scene)
            exchange.set_mark("BTCUSDT", "50500")  # 4.6 %
            exchange.transfer("main", "USDT", "-100")
            await until(lambda: fault.shows in log.getvalue(), f"the log says {fault.shows}")
            for account, link in fault.blinds:
                await listener.event("data_stale", "opened", account=account, subject=link)
            await fault.end(scene)
            await agreement(exchange, listener, "main")
            await listener.event("liquidation_distance", "worsened", severity="warning")
            exchange.set_mark("BTCUSDT", "49100")  # 1.6 %
            await listener.event("liquidation_distance", "worsened", severity="critical")
            exchange.set_mark("BTCUSDT", "60000")
            await listener.event("liquidation_distance", "resolved")
            await listener.event("liquidation_price_moved", "noted")
            for account, link in fault.blinds:
                await until(partial(is_over, listener, account, link), f"{link} is not stale any more")
            await agreement(exchange, listener, "main")
            await listener.state("marginwatch/main/summary", severity="ok", freshness="live")
            await until(lambda: listener.now["marginwatch/status"] == b"online", "online is what stands")

    told = listener.events("liquidation_distance")
    assert [(e["event"], e["severity"]) for e in told] == [
        ("opened", "notice"),
        ("worsened", "warning"),
        ("worsened", "critical"),
        ("resolved", "critical"),
    ]
    assert [e["event_id"] for e in told] == [f"{told[0]['incident_id']}.{n}" for n in (1, 2, 3, 4)]
    assert told[-1]["resolution"] == "recovered"
    assert told[-1]["after"]["mark_price"] == "60000.00000000"
    moved = [cause for e in listener.events("liquidation_price_moved") for cause in e["cause"]]
    assert [Decimal(cause["amount"]) for cause in moved] == [Decimal(-100)]
    stale = listener.events("data_stale")
    assert {(e["account"], e["subject"]) for e in stale} == fault.blinds
    for place in fault.blinds:
        here = [e["event"] for e in stale if (e["account"], e["subject"]) == place]
        assert [kind for kind in here if kind not in ("worsened", "improved")] == ["opened", "resolved"], place
    assert len(listener.events()) == len({(e["incident_id"], e["event"], e["severity"]) for e in listener.events()})
    assert exchange.order_calls == []
    assert all(json.loads(line)["event"] != "stopped" for line in log.getvalue().splitlines()[:-1])


async def test_a_mute_private_stream_costs_seconds_not_the_truth(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """An open socket that answers pings and tells nothing is the fault that has fooled most monitors."""
    async with (
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, links={"mute_after_s": 0.3})) as log,
    ):
        await agreement(exchange, listener, "main")
        exchange.fault(mute_private=True)
        exchange.fill("main", "BTCUSDT", "BUY", "0.5")
        exchange.fill("main", "SOLUSDT", "SELL", "100")
        exchange.set_mark("BTCUSDT", "54000")
        await agreement(exchange, listener, "main")
        opened = await listener.event("liquidation_distance", "opened")
        moved = await listener.event("liquidation_price_moved", "noted", symbol="BTCUSDT")

        def is_found_out() -> bool:
            exchange.transfer("main", "USDT", "0.01")  # what changes within a second of the opening proves nothing
            return "link mute" in log.getvalue()

        await until(is_found_out, "the stream is found out")
        exchange.fault(mute_private=False)
        await until(lambda: '"link live"' in log.getvalue().rpartition("link mute")[2], "another stream is open")
        exchange.transfer("main", "USDT", "500")

        def is_told() -> bool:
            told = [cause for e in listener.events("liquidation_price_moved") for cause in e["cause"]]
            return any(cause["kind"] == "transfer" and Decimal(cause["amount"]) == 500 for cause in told)

        await until(is_told, "what the new stream tells has its cause")

    assert opened["subject"] == "cross-usdt"
    assert {cause["kind"] for cause in moved["cause"]} == {"unexplained"}


async def test_a_cut_in_which_nothing_happened_costs_no_question_about_liquidations(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """It weighs 50, twice all else: after a cut of all streams, of 200 accounts the last was known again after minutes.
    A liquidation in the meantime shows in what is left, and is told as one."""
    asked = "GET /fapi/v1/forceOrders"
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.drop("private")

        def is_back(reconnects: int) -> bool:
            link = listener.retained("marginwatch/main/health")["links"]["private"]
            return bool(link["reconnects"] == reconnects and link["state"] == "live")

        await until(partial(is_back, 1), "it is back")
        exchange.drop("private")
        await until(partial(is_back, 2), "it is back, though the line was cut again before the second look")
        before = exchange.counters[asked]
        exchange.fault(refuse=True)
        exchange.drop("private")
        exchange.set_mark("SOLUSDT", "120")
        exchange.fault(refuse=False)
        told = await listener.event("forced_order", "opened")
        after = exchange.counters[asked]

    assert before == 0
    assert after in (1, 2)  # the new stream and the comparison that was under way may both have to know
    assert told["subject"] == "solusdt"


@pytest.mark.parametrize("restarted", [False, True], ids=["cut", "restarted"])
async def test_a_liquidation_is_told_as_one_though_there_is_no_stream_to_tell_it(
    restarted: bool, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Answers come without a stream, too: a position that is gone in them must not be called closed, for nobody takes
    that back once the stream is there again."""
    async with stories.exchange() as exchange, AsyncExitStack() as runs:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await runs.enter_async_context(watching(config))
        await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "122")  # 1.1 %
        await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
        if restarted:
            await runs.aclose()
        exchange.fault(rest="503", rest_paths=["/fapi/v1/listenKey"])
        exchange.drop("private")
        exchange.set_mark("SOLUSDT", "120")
        if restarted:
            await runs.enter_async_context(watching(config))
        over = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
        reported = await listener.event("forced_order", "resolved")
        asked = exchange.counters["GET /fapi/v1/forceOrders"]
        compared = exchange.counters["GET /fapi/v3/positionRisk"]
        await until(lambda: exchange.counters["GET /fapi/v3/positionRisk"] >= compared + 2, "it is compared on")
        again = exchange.counters["GET /fapi/v1/forceOrders"] - asked
        exchange.fault(rest="ok", rest_paths=[])
        await agreement(exchange, listener, "main")

    assert (over["resolution"], reported["resolution"]) == ("liquidated", "liquidated")
    assert again == 0  # nothing has changed since
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_liquidation_that_a_mute_stream_keeps_silent_is_told_as_one(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """It is found out by comparison, some seconds after the position is seen to be gone, and half a minute after it
    went. By then it must not have been called closed, nor be too long ago to be asked for."""
    compared = "GET /fapi/v3/positionRisk"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, links={"mute_after_s": 5})
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("SOLUSDT", "122")  # 1.1 %
            await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
            enough = exchange.counters[compared] + 8  # what changes within a second of the opening proves nothing
            await until(lambda: exchange.counters[compared] >= enough, "it has been compared for a while")
            exchange.fault(mute_private=True)
            exchange.set_mark("SOLUSDT", "120")
            over = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
            reported = await listener.event("forced_order", "resolved")
            exchange.fault(mute_private=False)
            await until(lambda: '"link live"' in log.getvalue().rpartition("link mute")[2], "another stream is open")
            await agreement(exchange, listener, "main")

    assert (over["resolution"], reported["resolution"]) == ("liquidated", "liquidated")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_liquidation_kept_silent_right_after_something_else_was_told_is_no_close(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A snapshot that lacks the position says nothing of when it went. Taken for as old as a copy may lag, that was
    before what the stream had told last; nobody was asked, and when all was cut it was told as closed."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, links={"mute_after_s": 5})
        async with watching(config):
            await agreement(exchange, listener, "main")
            exchange.set_mark("SOLUSDT", "122")  # 1.1 %
            await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
            enough = exchange.counters["GET /fapi/v3/positionRisk"] + 12  # it is not the snapshots at the start
            await until(lambda: exchange.counters["GET /fapi/v3/positionRisk"] >= enough, "it was compared for a while")
            exchange.transfer("main", "USDT", "-10")
            await listener.event("liquidation_price_moved", "noted")
            exchange.fault(mute_private=True)
            exchange.set_mark("SOLUSDT", "120")
            await until(lambda: "solusdt" not in listener.under("main", "position"), "it is seen to be gone")
            exchange.fault(refuse=True)
            exchange.drop()
            over = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
            exchange.fault(refuse=False, mute_private=False)
            reported = await listener.event("forced_order", "resolved")
            await agreement(exchange, listener, "main")

    assert (over["resolution"], reported["resolution"]) == ("liquidated", "liquidated")


@pytest.mark.parametrize("in_vain", [1, 3])
async def test_forced_orders_that_could_not_be_read_are_asked_for_until_they_are(
    in_vain: int, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A crash of the market is when the exchange refuses answers; one that does not come must not hide a liquidation
    for good. Nor is all else kept back for ever where that one is never given."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        async with watching(config):
            await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "120")
        exchange.fault(rest="503", rest_paths=["/fapi/v1/forceOrders"])
        async with watching(config):
            await until(lambda: exchange.counters["GET /fapi/v1/forceOrders"] >= in_vain, "they are asked for in vain")
            if in_vain > 1:
                await agreement(exchange, listener, "main")
            exchange.fault(rest="ok", rest_paths=[])
            reported = await listener.event("forced_order", "resolved")
            await agreement(exchange, listener, "main")

    assert (reported["resolution"], reported["symbol"], reported["report"]["quantity"]) == (
        "liquidated",
        "SOLUSDT",
        "100",
    )
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


@pytest.mark.parametrize("while_down", [True, False], ids=["while no daemon ran", "during a cut"])
async def test_forced_orders_that_one_run_could_not_read_are_asked_for_by_the_next(
    while_down: bool, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """By then the book shows what they did, and nothing is open: where the daemon ended just then, a liquidation stayed
    told as a close for good."""
    asked = "GET /fapi/v1/forceOrders"
    async with stories.exchange() as exchange, AsyncExitStack() as runs:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await runs.enter_async_context(watching(config))
        await agreement(exchange, listener, "main")
        exchange.fault(rest="503", rest_paths=["/fapi/v1/forceOrders"])
        if while_down:
            await runs.aclose()
            exchange.set_mark("SOLUSDT", "120")
            await runs.enter_async_context(watching(config))
        else:
            exchange.fault(refuse=True)
            exchange.drop("private")
            exchange.set_mark("SOLUSDT", "120")
            exchange.fault(refuse=False)
        await until(lambda: exchange.counters[asked] >= 3, "they are asked for in vain")
        await agreement(exchange, listener, "main")
        await until(lambda: not any("/incident/" in topic for topic in listener.under()), "nothing is open")
        await runs.aclose()
        exchange.fault(rest="ok", rest_paths=[])
        await runs.enter_async_context(watching(config))
        reported = await listener.event("forced_order", "resolved")
        before = exchange.counters[asked]
        await runs.aclose()
        await runs.enter_async_context(watching(config))
        await agreement(exchange, listener, "main")
        after = exchange.counters[asked]

    assert (reported["resolution"], reported["report"]["quantity"]) == ("liquidated", "100")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]
    assert before == after  # what has been read is owed no more


async def test_a_liquidation_during_a_cut_is_told_as_one_though_rest_lags_behind(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The first answer after a short cut may still show what was: that nothing has gone is known by the next alone.
    Else the position would be told as closed, and of the liquidation nobody would ever hear."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "126")
        await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
        exchange.fault(stale_s=1.5)
        exchange.drop("private")
        exchange.liquidate("main", "SOLUSDT", "100", "120")
        forced = await listener.event("forced_order", "opened")
        ended = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")

    assert (forced["severity"], forced["subject"]) == ("liquidation", "solusdt")
    assert ended["resolution"] == "liquidated"


async def test_a_liquidation_of_which_the_frames_do_not_read_is_told_as_one(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """One field of another type, and the order is not understood, while the position that it takes is seen to go: that
    must not be called closed, nor may the liquidation stay untold."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await agreement(exchange, listener, "main")
        exchange.set_mark("SOLUSDT", "126")
        await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
        exchange.fault(odd_orders=True)
        exchange.liquidate("main", "SOLUSDT", "100", "120")
        ended = await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
        reported = await listener.event("forced_order", "resolved")

    assert (ended["resolution"], reported["resolution"]) == ("liquidated", "liquidated")
    assert [e["event"] for e in listener.events("forced_order")] == ["opened", "resolved"]


async def test_a_limited_address_asks_nothing_for_a_while_and_goes_on_watching(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Who asks on after a 429 is banned; the streams need no asking."""
    # Without a Retry-After we stay away until the exchange's next minute begins: that must not be during the story.
    await until(lambda: time.time() % 60 < 48, "there is enough of this minute left")
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)) as log:
        await agreement(exchange, listener, "main")
        exchange.fault(rest="429")
        await until(lambda: "HTTP 429" in log.getvalue(), "a request is refused")
        exchange.fault(rest="ok")
        asked = dict(exchange.counters)
        await listener.event("data_stale", "opened", subject="rest")
        exchange.transfer("main", "USDT", "-100")
        moved = await listener.event("liquidation_price_moved", "noted")
        exchange.set_mark("BTCUSDT", "53000")
        await listener.event("liquidation_distance", "opened")

    assert {k: v for k, v in exchange.counters.items() if "/fapi/" in k} == {
        k: v for k, v in asked.items() if "/fapi/" in k
    }
    assert [(cause["kind"], cause["amount"]) for cause in moved["cause"]] == [("transfer", "-100.00000000")]


async def test_where_others_use_up_our_address_marks_are_asked_for_before_what_has_time(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A bot beside us leaves nothing for contracts and the like, which wait; what shows us the price must not wait
    behind them."""
    links = {"weight_per_minute": 1200, "refresh_s": 1, "reconcile_s": 5, "first_frame_s": 3}
    async with (
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, links=links)),
    ):
        await agreement(exchange, listener, "main")
        weights = exchange.rest.weights
        weights.others = weights.used = 1500
        asked = exchange.counters["GET /fapi/v1/premiumIndex"]
        exchange.fault(mute_market=True)
        await until(lambda: exchange.counters["GET /fapi/v1/premiumIndex"] > asked, "marks are asked for over REST")
        exchange.set_mark("BTCUSDT", "53000")
        opened = await listener.event("liquidation_distance", "opened")

    assert opened["after"]["mark_price"] == "53000.00000000"


async def test_where_others_use_up_our_address_a_start_takes_no_longer(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """With one question a minute it took eight minutes, and nothing was seen until then."""
    async with stories.exchange() as exchange:
        weights = exchange.rest.weights
        weights.others = weights.used = 1500
        async with watching(write_config(tmp_path / "d", exchange, broker.port, links={"weight_per_minute": 1200})):
            await agreement(exchange, listener, "main")


async def test_an_event_that_comes_late_says_so_and_keeps_its_time(lasting_broker: Mosquitto, tmp_path: Path) -> None:
    """After an outage a phone must be able to tell old news from new."""
    async with (
        stories.exchange() as exchange,
        Listener(lasting_broker.port) as listener,
        watching(write_config(tmp_path / "d", exchange, lasting_broker.port)) as log,
    ):
        await agreement(exchange, listener, "main")
        lasting_broker.kill()
        exchange.set_mark("BTCUSDT", "53000")
        await until(lambda: "incident opened" in log.getvalue(), "it opens")
        exchange.set_mark("BTCUSDT", "50500")
        await until(lambda: "incident worsened" in log.getvalue(), "it worsens")
        worsened_at = time.monotonic()
        await until(lambda: time.monotonic() - worsened_at > 1, "the outage lasts")
        await lasting_broker.start()
        await listener.event("liquidation_distance", "worsened")
        await listener.state("marginwatch/main/incident/liquidation_distance/cross-usdt", severity="warning")

    late = [heard for heard in listener.heard if "/event/" in heard.topic]
    user = [dict(heard.properties["UserProperty"]) for heard in late]
    assert [heard.body["event"] for heard in late] == ["opened", "worsened"]
    assert all(int(properties["delayed_ms"]) >= 1000 for properties in user)
    assert [properties.get("superseded") for properties in user] == ["true", None]
    first = listener.heard.index(late[0])
    assert any(h.topic.endswith("/incident/liquidation_distance/cross-usdt") for h in listener.heard[:first])
