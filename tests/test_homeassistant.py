"""What a real Home Assistant makes of it: right figures, right alarms, and nothing that looks well when it is not."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from monitor.sim import Exchange
from tests import stories
from tests.conftest import needs_mosquitto
from tests.homeassistant import HASS, HomeAssistant
from tests.rig import ROOT, Mosquitto, Process, eventually, until, write_config

UNSEEN_S = 100
"""After 90 s without news nothing may look well; and some seconds for a busy machine."""
UNWATCHED = "marginwatch is not watching"
REMINDED_S = 600
"""How often, by the clock, the phone is told that."""
PROBLEM = "binary_sensor__marginwatch_main_margin_ratio_problem"
STALE = "binary_sensor__marginwatch_main_data_stale_problem"
ALIVE = "binary_sensor__marginwatch_alive"
RATIO = "sensor__marginwatch_main_margin_ratio"
BTC = "sensor__marginwatch_main_btcusdt_liquidation_price"
CALM = {
    PROBLEM: "off",
    STALE: "off",
    ALIVE: "on",
    "binary_sensor__marginwatch_main_data": "on",
    "sensor__marginwatch_main_severity": "ok",
    "sensor__marginwatch_main_open_positions": "2",
    "sensor__marginwatch_main_link_private": "live",
    "sensor__marginwatch_link_market_binance_usdm_custom": "live",
    RATIO: "2.44",  # isolated: 75.5 ÷ 3100; cross: 240 ÷ 12000
    BTC: stories.BTC_PRICE,
    "sensor__marginwatch_main_solusdt_liquidation_price": stories.SOL_PRICE,
    "sensor__marginwatch_main_cross_usdt_margin_ratio": "2.0",
    "sensor__marginwatch_main_cross_usdt_unrealized_pnl": "0.00000000",
    "sensor__marginwatch_main_isolated_solusdt_unrealized_pnl": "100.00000000",
    "sensor__marginwatch_main_unrealized_pnl_usdt": "100.00000000",
}
"""What it shows of the account of `stories` while nothing happens."""


def examples() -> str:
    """The automations of the document, as they stand there."""
    text = (ROOT / "docs" / "home-assistant.md").read_text("utf-8")
    return "\n".join(block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if block.startswith("automation:"))


class House:
    """A broker, an exchange, the daemon and Home Assistant.

    Attributes:
        told_early: Titles that the phone may have got before all was calm: that nobody watches, and only where the time
            at which it is reminded of that fell into the start.
    """

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        self.exchange = exchange
        self.broker = Mosquitto(folder / "broker")
        self._config = write_config(folder / "d", exchange, self.broker.port, mqtt={"discovery": True})
        self.assistant = HomeAssistant(folder / "assistant", self.broker.port, examples())
        self.daemon: Process | None = None
        self.told_early: set[str] = set()

    async def begin(self) -> None:
        began = time.time()
        await self.broker.start()
        self.start_daemon()
        await self.assistant.start()
        await self.sees(**CALM)
        if began // REMINDED_S != time.time() // REMINDED_S:
            self.told_early = {UNWATCHED}

    def start_daemon(self) -> None:
        self.daemon = Process(self._config).__enter__()

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.__exit__()

    async def sees(self, **expected: Any) -> dict[str, dict[str, Any]]:
        return await self.assistant.shows(**expected)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    needs_mosquitto()
    if not HASS.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{HASS} is missing, and CI has to test with a real Home Assistant")
        pytest.skip(f"no Home Assistant at {HASS}")
    async with stories.exchange() as exchange:
        house = House(tmp_path, exchange)
        try:
            await house.begin()
            yield house
            assert house.assistant.complaints == []
        finally:
            house.assistant.kill()
            house.kill_daemon()
            house.broker.kill()


async def test_it_follows_a_crash_and_wakes_the_phone(house: House) -> None:
    """From the price to the bedside table; and what is over leaves nothing behind."""
    assert {n["title"] for n in house.assistant.notified} <= house.told_early
    house.exchange.set_mark("BTCUSDT", "48220")  # ratio 192.88 ÷ 220, and 0.06 % from liquidation
    shown = await house.sees(
        **{PROBLEM: "on", "sensor__marginwatch_main_severity": "critical", RATIO: "87.67"},
        binary_sensor__marginwatch_main_liquidation_distance_problem="on",
        binary_sensor__marginwatch_main_drift_problem="off",
    )
    problem = shown["binary_sensor.marginwatch_main_margin_ratio_problem"]["attributes"]
    assert (problem["severity"], problem["open"], problem["device_class"]) == ("critical", 1, "problem")
    notified = await until(
        lambda: [n for n in house.assistant.notified if n["title"].startswith("main: margin ratio 87.7 %")],
        "the phone is told",
    )
    assert "BTCUSDT long liquidates at 48192.8" in notified[0]["message"]
    assert notified[0]["data"]["push"]["interruption-level"] == "critical"
    assert notified[0]["data"]["tag"].startswith("main.cross-usdt.margin_ratio.")

    async def is_told() -> bool:
        """An event is stored before it is sent, so that states may come before it; which is the last, is left open."""
        told = (await house.assistant.states())["event.marginwatch_main_event"]["attributes"]
        return told["event_type"] is not None and told["event_type"] == f"{told['rule']}_{told['event']}"

    await eventually(is_told, "the event entity has what was told last")

    house.exchange.set_mark("BTCUSDT", "60000")
    await house.sees(**CALM)
    resolved = await until(
        lambda: [n for n in house.assistant.notified if "recovered" in n["message"] or "normal" in n["message"]],
        f"the phone is told that it is over, beside {[n['message'] for n in house.assistant.notified]}",
    )
    assert resolved[0]["data"]["push"]["interruption-level"] == "active"

    house.exchange.fill("main", "BTCUSDT", "SELL", "1")
    gone = {
        BTC: None,
        "sensor__marginwatch_main_btcusdt_distance": None,
        "sensor__marginwatch_main_cross_usdt_margin_ratio": None,
    }
    await house.sees(**gone, sensor__marginwatch_main_open_positions="1", **{PROBLEM: "off", ALIVE: "on"})

    house.exchange.set_mark("SOLUSDT", "120")
    await house.sees(sensor__marginwatch_main_solusdt_liquidation_price=None)
    ended = await until(
        lambda: [n for n in house.assistant.notified if "LIQUIDATED" in n["message"]],
        f"the phone is told of the liquidation, beside {[n['message'] for n in house.assistant.notified]}",
    )
    assert {n["data"]["push"]["interruption-level"] for n in ended} == {"critical"}


async def test_a_problem_outlives_the_feed_and_a_figure_does_not(house: House) -> None:
    """An old ratio looks like a good one; an alarm that vanished with the feed would say that all is well."""
    house.exchange.set_mark("BTCUSDT", "48220")
    await house.sees(**{PROBLEM: "on"})
    house.exchange.fault(half_open_market=True, half_open_private=True, refuse=True)
    await house.sees(
        **{PROBLEM: "on", STALE: "on", ALIVE: "on", RATIO: "unavailable", BTC: "unavailable"},
        binary_sensor__marginwatch_main_data="off",
        sensor__marginwatch_main_cross_usdt_distance="unavailable",
        sensor__marginwatch_main_severity="critical",
    )

    house.exchange.fault(half_open_market=False, half_open_private=False, refuse=False)
    house.exchange.set_mark("BTCUSDT", "60000")
    await house.sees(**CALM)


async def test_it_is_right_again_whoever_was_restarted(house: House) -> None:
    """The broker, which forgets all; Home Assistant itself; and the daemon, which closes a position meanwhile."""
    house.broker.kill()
    await house.sees(**dict.fromkeys(CALM, "unavailable"))
    await house.broker.start()
    await house.sees(**CALM)

    house.assistant.stop()
    await house.assistant.start()
    await house.sees(**CALM)

    house.kill_daemon()
    await house.sees(**{name: "unavailable" for name in CALM if name != ALIVE})
    house.exchange.fill("main", "BTCUSDT", "SELL", "1")
    house.start_daemon()
    await house.sees(**{BTC: None, PROBLEM: "off", STALE: "off", RATIO: CALM[RATIO], ALIVE: "on"})

    assert house.daemon is not None
    house.daemon.send(signal.SIGTERM)
    await house.sees(**{PROBLEM: "unavailable", STALE: "unavailable", RATIO: "unavailable"})


async def test_what_dies_with_the_broker_that_should_tell_of_it_is_seen_all_the_same(house: House) -> None:
    """No will is left, and nothing retained: only silence, which must not look like peace."""
    house.broker.kill()
    house.kill_daemon()
    await house.broker.start()
    everything = {name: "unavailable" for name in CALM if name != ALIVE}
    await house.assistant.shows(within_s=UNSEEN_S, **everything, **{ALIVE: "off"})
    await until(
        lambda: [n for n in house.assistant.notified if n["title"] == UNWATCHED],
        "the phone is told",
    )
