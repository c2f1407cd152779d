"""What Home Assistant is told: which entities there are, when they come and go, and when they count as gone.

What it makes of it is tested with the real one, in `test_homeassistant.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from jsonschema import Draft202012Validator
from msgspec import structs

from monitor.discovery import Discovery
from monitor.effects import PositionState
from monitor.encoder import Encoder
from monitor.events import LinkId, LinkReport, LinkState, PositionsRead, Side, Tick
from monitor.message import Identity, Message
from monitor.payloads.states import VALID_FOR_S
from monitor.rules import DEFAULTS, RuleBook
from monitor.topics import Topics
from tests import schemas, stories
from tests.rig import Listener, Mosquitto, agreement, until, watching, write_config
from tests.watched import MARKET, Watched, row

ONCE = {"liquidation_price_moved", "hedge_broken", "exchange_margin_call", "bracket_changed"}
"""Rules that tell facts alone."""


class Told:
    """A discovery beside a watched core, and what stands retained because of it."""

    def __init__(
        self, *accounts: str, prefix: str = "marginwatch", rules: RuleBook | None = None, amounts: bool = True
    ) -> None:
        self.watched = Watched(*accounts, rules=rules)
        identity = Identity(prefix, "vps1", "0.1.0", "boot", 0)
        setups = [account.setup for account in self.watched.core.accounts.values()]
        self.messages = Encoder(identity, self.watched.rules, notices=not amounts)
        self.discovery = Discovery(identity, setups, self.watched.rules, amounts=amounts)
        self.configs: dict[str, dict[str, Any]] = {}
        self.count = 0
        self.take(self.discovery.standing())

    def take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            assert (message.retain, message.qos, message.can_wait) == (True, 1, True)
            self.count += 1
            if message.payload:
                valid(message.topic, message.payload)
                self.configs[message.topic] = json.loads(message.payload)
            else:
                del self.configs[message.topic]  # only what is there is removed

    def step(self, *events: Any) -> None:
        self.take(m for effect in self.watched.step(*events) for m in self.discovery.of(effect))

    def begin(self, wallet: str, *rows: Any) -> None:
        self.take(m for effect in self.watched.begin(wallet, *rows) for m in self.discovery.of(effect))

    def objects(self, account: str = "main") -> set[str]:
        """The objects of an account's device."""
        return {topic.split("/")[3] for topic in self.configs if topic.split("/")[2] == f"marginwatch_{account}"}

    def config(self, object_id: str, account: str = "main") -> dict[str, Any]:
        found = [c for topic, c in self.configs.items() if topic.endswith(f"/marginwatch_{account}/{object_id}/config")]
        assert len(found) == 1
        return found[0]


@cache
def validator(component: str) -> Draft202012Validator:
    schema = json.loads((schemas.DIRECTORY / "home-assistant" / "discovery.json").read_text("utf-8"))
    return Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{component}"}]})


def valid(topic: str, payload: bytes) -> None:
    """Hold a config to the published list of keys, by its component."""
    body = json.loads(payload)
    _, component, node, object_id, _ = topic.split("/")
    validator(component).validate(body)
    assert body["unique_id"] == f"{node}_{object_id}"
    assert body["device"]["identifiers"] == [node]


# ---- which entities there are ----


def test_an_account_has_its_figures_its_problems_and_its_events_from_the_start() -> None:
    """An automation can be written on the first day, before anything has happened."""
    told = Told()

    lasting = {f"rule_{rule}" for rule in DEFAULTS if rule not in ONCE}
    assert told.objects() == lasting | {"severity", "margin_ratio", "distance", "open_positions", "data", "event"}
    assert told.objects("_instance") == {"alive", "loop_lag", "memory", "event"}
    assert told.config("margin_ratio")["device"]["via_device"] == "marginwatch__instance"


def test_pools_and_positions_come_with_their_first_figures_and_go_with_their_last() -> None:
    """A liquidation price of a position that is closed would stand on a dashboard for ever."""
    told = Told()
    before = told.objects()
    told.begin("1000", row("BTCUSDT", "0.1", "60000"), row("ETHUSDT", "1", "3000", side=Side.LONG))
    told.step(told.watched.mark("60000"), told.watched.mark("3000", "ETHUSDT"), Tick())

    came = told.objects() - before
    assert {o for o in came if not o.startswith("link_")} == {
        *(f"pool_cross-usdt_{key}" for key in ("margin_ratio", "distance", "unrealized_pnl")),
        *(f"position_btcusdt_{key}" for key in ("liquidation_price", "distance", "unrealized_pnl")),
        *(f"position_ethusdt-long_{key}" for key in ("liquidation_price", "distance", "unrealized_pnl")),
        "unrealized_pnl_usdt",
    }
    assert told.config("position_ethusdt-long_distance")["name"] == "ETHUSDT long distance"
    assert told.config("position_btcusdt_unrealized_pnl")["unit_of_measurement"] == "USDT"

    told.watched.t += 1
    told.step(PositionsRead("main", (), told.watched.now.wall_ms), Tick())
    assert {o for o in told.objects() - before if not o.startswith("link_")} == set()


def test_a_position_is_told_of_once_its_asset_is_known() -> None:
    """The unit of a sensor stays what it was at first."""
    told = Told()
    told.begin("1000", row("XYZUSDT", "1", "10", isolated=True, isolated_wallet="5"))
    told.step(Tick())
    state = next(e for e in told.watched.effects if isinstance(e, PositionState))
    unknown = structs.replace(state, asset="unknown")

    told = Told()
    assert told.discovery.of(unknown) == []
    assert [m.topic.split("/")[3] for m in told.discovery.of(state)] == [
        *(f"position_xyzusdt_{key}" for key in ("distance", "unrealized_pnl", "liquidation_price"))
    ]


def test_nothing_is_told_twice() -> None:
    """A config each second for each figure would keep Home Assistant busy with nothing."""
    told = Told()
    told.begin("1000", row("BTCUSDT", "0.1", "60000"))
    told.step(told.watched.mark("60000"), Tick())
    count = told.count
    for price in range(59_000, 59_010):
        told.step(told.watched.mark(str(price)), Tick())

    assert told.count == count


def test_without_amounts_there_are_percentages_and_notices() -> None:
    """Who hides how much there is from a phone's server does not want it passed on from here."""
    told = Told(amounts=False)
    told.begin("1000", row("BTCUSDT", "0.1", "60000"))
    told.step(told.watched.mark("60000"), Tick())

    assert {o for o in told.objects() if o.startswith(("pool", "position", "unrealized"))} == {
        "pool_cross-usdt_margin_ratio",
        "pool_cross-usdt_distance",
        "position_btcusdt_distance",
    }
    assert told.config("event")["state_topic"] == "marginwatch/main/notice/#"


def test_links_are_shown_as_diagnostics_of_whom_they_belong_to() -> None:
    """Which of them is gone is what one asks when the data is stale."""
    told = Told()
    told.begin("1000")
    told.step(Tick())

    assert {"link_private", "link_rest"} <= told.objects()
    assert f"link_{MARKET}" in told.objects("_instance")
    assert told.config("link_rest")["entity_category"] == "diagnostic"


def test_a_disabled_rule_has_no_problem_and_a_reload_brings_it_back() -> None:
    """A problem that nobody looks for would say that all is well."""
    off = RuleBook({**DEFAULTS, "drift": structs.replace(DEFAULTS["drift"], enabled=False)})
    told = Told(rules=off)
    assert "rule_drift" not in told.objects()

    told.take(told.discovery.take_rules(RuleBook()))
    assert "rule_drift" in told.objects()
    told.take(told.discovery.take_rules(off))
    assert "rule_drift" not in told.objects()


def test_every_event_that_is_told_is_among_the_event_types() -> None:
    """Home Assistant drops what was not announced; the storms of these stories tell most of what there is."""
    told = Told()
    types = set(told.config("event")["event_types"])
    told.begin("1000", row("BTCUSDT", "0.1", "60000"))
    for price in ("60000", "51000", "50400", "60000", "45000"):
        told.step(told.watched.mark(price), Tick())
    told.step(told.watched.link("private", LinkState.DOWN), LinkReport(LinkId("_instance", MARKET), LinkState.DOWN))
    for _ in range(70):
        told.step(Tick())

    heard = {json.loads(m.payload)["event_type"] for m in told.watched.sent() if m.event_id is not None}
    assert {"margin_ratio_opened", "data_stale_opened"} <= heard
    assert heard <= types
    assert {"summary_noted", "margin_ratio_unacknowledged", "forced_order_resolved"} <= types


# ---- when an entity counts as gone ----


def test_a_problem_outlives_the_feed_and_nothing_outlives_the_daemon() -> None:
    """An alert that turns unavailable when the feed dies hides the very thing that one needs to know."""
    told = Told()
    told.begin("1000", row("BTCUSDT", "0.1", "60000"))
    told.step(told.watched.mark("60000"), Tick())
    status = {"topic": "marginwatch/status"}

    for topic, config in told.configs.items():
        object_id = topic.split("/")[3]
        if object_id in ("alive", "event"):
            assert "availability" not in config
            continue
        assert config["expire_after"] == VALID_FOR_S
        depends = config["availability"]
        assert depends[0] == status
        is_figure = "unit_of_measurement" in config and object_id not in ("loop_lag", "memory")
        if is_figure or object_id.endswith(("liquidation_price", "open_positions")):
            assert [d["topic"] for d in depends[1:]] == [config["state_topic"]]
            assert config["availability_mode"] == "all"
        else:
            assert depends == [status]
    assert told.config("alive", "_instance")["off_delay"] == VALID_FOR_S


def test_what_expires_is_published_again_before_it_does() -> None:
    """A market may stand still for minutes, and its figures be as good as ever."""
    watched = Watched()
    watched.begin("1000", row("BTCUSDT", "0.1", "60000"))
    watched.step(watched.mark("60000"), Tick())
    topics = [m.topic for _ in range(61) for m in watched.sent(watched.step(watched.mark("60000"), Tick()))]

    for topic in ("pool/cross-usdt", "position/btcusdt", "summary", "health"):
        assert 2 <= topics.count(f"marginwatch/main/{topic}") <= 4


# ---- whose a topic is ----


@pytest.mark.parametrize("prefix", ["marginwatch", "home/risk_desk", "Margin"])
def test_every_config_is_known_again_as_ours_and_as_its_accounts(prefix: str) -> None:
    """What an earlier run has left is found by its topic alone."""
    told = Told("main", "desk-2", prefix=prefix)

    owners = {Topics(prefix).account_of(topic) for topic in told.configs}
    assert owners == {"main", "desk-2", "_instance"}
    for topic in told.configs:
        assert Topics(f"{prefix}2").account_of(topic) is None
        assert Topics(prefix, "elsewhere").account_of(topic) is None
        assert all(part and set(part) <= ALLOWED for part in topic.split("/"))


ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@pytest.mark.parametrize(
    "topic",
    [
        "homeassistant/sensor/zigbee2mqtt/temperature/config",
        "homeassistant/sensor/marginwatch_main/config",
        "homeassistant/sensor/marginwatch/margin_ratio/config",
        "homeassistant/status",
        "marginwatch/status",
        "marginwatch/info",
        "marginwatch/main/event/info/summary",
    ],
)
def test_what_is_not_ours_is_not_ours(topic: str) -> None:
    """Nobody's else entities may be removed."""
    assert Topics("marginwatch").account_of(topic) is None


# ---- with a broker ----


def configs(listener: Listener) -> set[str]:
    """Objects of the account's device that stand on the broker."""
    prefix = "homeassistant/"
    found = [topic.split("/") for topic in listener.now if topic.startswith(prefix)]
    return {parts[3] for parts in found if parts[2] == "marginwatch_main"}


async def test_what_an_earlier_run_has_told_is_removed_where_nothing_stands_for_it(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Positions close while we are down, accounts leave the config, and discovery is turned off again."""
    others = "homeassistant/sensor/0x00158d0001/temperature/config"
    left = ("sensor/marginwatch_main/position_dogeusdt_distance", "sensor/marginwatch_sold/severity")
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for topic in (*(f"homeassistant/{each}/config" for each in left), others):
            await client.publish(topic, b'{"left":"over"}', qos=1, retain=True)
    async with stories.exchange() as exchange:
        on = write_config(tmp_path / "d", exchange, broker.port, mqtt={"discovery": True})
        async with watching(on):
            await agreement(exchange, listener, "main")
            ours = {"rule_margin_ratio", "pool_cross-usdt_margin_ratio", "position_btcusdt_liquidation_price"}
            await until(lambda: ours <= configs(listener), "the entities are told")
            await until(lambda: list(listener.now.values()).count(b'{"left":"over"}') == 1, "the ghosts are gone")
            for topic, payload in listener.now.items():
                if "/marginwatch_" in topic:
                    valid(topic, payload)
        off = write_config(tmp_path / "d", exchange, broker.port)
        async with watching(off):
            await until(lambda: not configs(listener), "nothing is left of it")

    assert listener.now[others] == b'{"left":"over"}'


async def test_configs_are_told_again_when_home_assistant_starts_and_when_the_broker_does(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A device that was deleted there by mistake, or forgotten by the broker, comes back."""
    async with stories.exchange() as exchange:
        config = write_config(
            tmp_path / "d", exchange, broker.port, mqtt={"discovery": True, "discovery_prefix": "house/assistant"}
        )
        async with watching(config):
            topic = "house/assistant/binary_sensor/marginwatch_main/rule_margin_ratio/config"

            def times() -> int:
                return sum(heard.topic == topic and bool(heard.payload) for heard in listener.heard)

            await until(lambda: times() == 1, "it is told")
            async with aiomqtt.Client("127.0.0.1", broker.port) as client:
                await client.publish("house/assistant/status", b"offline", qos=1)
                await client.publish("house/assistant/status", b"online", qos=1)
            await until(lambda: times() == 2, "it is told again")
            connections = listener.connections
            broker.kill()
            await broker.start()
            await until(lambda: listener.connections > connections, "the listener is back")
            await until(lambda: times() >= 3, "it is told once more")
    listener.wrong.clear()  # what Home Assistant says is not retained
