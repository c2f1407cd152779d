"""The example of a broker with TLS and an ACL: each user can do what it must, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests import stories
from tests.conftest import needs_mosquitto
from tests.rig import ROOT, Listener, Mosquitto, agreement, marginwatch, private_file, until, watching, write_config
from tests.test_daemon import certificates

EXAMPLES = ROOT / "docs" / "examples"
USERS = ("marginwatch", "reader", "acknowledger")
OBSERVER = "user observer\ntopic readwrite #\n"
"""Sees all, so that a test can tell what was let through."""

DISCOVERED = "homeassistant/sensor/marginwatch_main/worst_margin_ratio/config"
TOPICS = (
    "marginwatch/main/summary",
    "marginwatch/main/event/critical/margin_ratio",
    "marginwatch/cmd/ack",
    DISCOVERED,
    "homeassistant/sensor/marginwatch__instance/uptime/config",
    "homeassistant/sensor/marginwatch_other/x/config",
    "homeassistant/light/kitchen/config",
    "homeassistant/status",
    "marginwatch2/main/summary",
    "elsewhere",
)
OWN = {topic for topic in TOPICS if topic.startswith("marginwatch/")}
DEVICES = {topic for topic in TOPICS if "/marginwatch_main/" in topic or "/marginwatch__instance/" in topic}
MAY_WRITE = {"marginwatch": OWN | DEVICES, "reader": set(), "acknowledger": {"marginwatch/cmd/ack"}}
MAY_READ = {"marginwatch": OWN | DEVICES | {"homeassistant/status"}, "reader": OWN, "acknowledger": set()}


class Guarded:
    """A broker as in the examples, but for its paths and its port."""

    def __init__(self, folder: Path) -> None:
        self.files = certificates(folder / "tls")
        passwords = private_file(folder / "passwords", "".join(f"{u}:{u}-pw\n" for u in (*USERS, "observer")))
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        acl = private_file(folder / "acl", (EXAMPLES / "mosquitto.acl").read_text("utf-8") + OBSERVER)
        lines = (EXAMPLES / "mosquitto.conf").read_text("utf-8").splitlines()
        places = {
            "/etc/mosquitto/certs/server.crt": self.files["server.crt"],
            "/etc/mosquitto/certs/server.key": self.files["server.key"],
            "/etc/mosquitto/marginwatch.passwords": passwords,
            "/etc/mosquitto/marginwatch.acl": acl,
        }
        options = [line for line in lines if not line.startswith(("#", "listener ", "set_tcp_nodelay "))]
        for place, file in places.items():
            options = [line.replace(place, str(file)) for line in options]
        self.broker = Mosquitto(folder / "broker", "log_type all", *options)

    def login(self, user: str) -> dict[str, Any]:
        tls = aiomqtt.TLSParameters(ca_certs=str(self.files["ca.crt"]))
        return {"username": user, "password": f"{user}-pw", "tls_params": tls}

    def client(self, user: str, **login: Any) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1",
            self.broker.port,
            protocol=aiomqtt.ProtocolVersion.V5,
            **{**self.login(user), **login},
        )


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    needs_mosquitto()
    made = Guarded(tmp_path / "guarded")
    await made.broker.start()
    yield made
    made.broker.kill()


@asynccontextmanager
async def hearing(client: aiomqtt.Client) -> AsyncIterator[list[str]]:
    """The topics of all that this client is given, in order."""
    heard: list[str] = []

    async def hear() -> None:
        async for message in client.messages:
            heard.append(str(message.topic))

    async with client:
        await client.subscribe("#", qos=1)
        task = asyncio.create_task(hear())
        yield heard
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("user", USERS)
async def test_a_user_writes_what_it_must_and_nothing_else(guarded: Guarded, user: str) -> None:
    """Whoever may write below cmd/ can silence an alert; whoever may write an incident can invent one."""
    observer = guarded.client("observer")
    async with hearing(observer) as heard:
        for topic in TOPICS:
            with suppress(aiomqtt.MqttError):  # mosquitto 2.0.11 cuts off whoever publishes what is forbidden
                async with guarded.client(user) as client:
                    await client.publish(topic, b"x", qos=1)
        await observer.publish("last", b"x", qos=1)
        await until(lambda: "last" in heard, "all that was let through has come")

    assert set(heard) - {"last"} == MAY_WRITE[user]


@pytest.mark.parametrize("user", USERS)
async def test_a_user_reads_what_it_must_and_nothing_else(guarded: Guarded, user: str) -> None:
    """Positions and balances are nobody's business."""
    async with hearing(guarded.client(user)) as heard, guarded.client("observer") as observer:
        for topic in TOPICS:
            await observer.publish(topic, b"x", qos=1)
        expected = MAY_READ[user]
        await until(lambda: set(heard) >= expected, f"{expected - set(heard)} come")
        seen = guarded.client("observer")
        async with hearing(seen) as others:  # by then the broker has given everybody what was published before
            await observer.publish("last", b"x", qos=1)
            await until(lambda: "last" in others, "the broker has gone on")

    assert set(heard) == expected


@pytest.mark.parametrize("login", [{"username": None, "password": None}, {"password": "wrong"}, {"tls_params": None}])
async def test_nobody_comes_in_without_password_and_tls(guarded: Guarded, login: dict[str, Any]) -> None:
    """A listener that lets anybody in makes of an ACL a decoration."""
    with pytest.raises(aiomqtt.MqttError):
        async with guarded.client("reader", timeout=3, **login):
            pass


async def test_the_daemon_does_all_its_work_under_the_acl(guarded: Guarded, tmp_path: Path) -> None:
    """From the first figure to an acknowledgement, and Home Assistant's devices; then all of it is cleared."""
    mqtt = {
        "username": "marginwatch",
        "password": f"file:{private_file(tmp_path / 'mqtt_password', 'marginwatch-pw')}",
        "tls": True,
        "tls_ca_file": str(guarded.files["ca.crt"]),
        "discovery": True,
    }
    cmd = {
        "enabled": True,
        "username": "acknowledger",
        "password": f"file:{private_file(tmp_path / 'cmd_password', 'acknowledger-pw')}",
    }
    port = guarded.broker.port
    async with (
        stories.exchange() as exchange,
        Listener(port, **guarded.login("reader")) as reader,
        hearing(guarded.client("observer")) as heard,
    ):
        config = write_config(tmp_path / "d", exchange, port, mqtt=mqtt, cmd=cmd)
        async with watching(config) as log:
            await agreement(exchange, reader, "main")
            exchange.set_mark("BTCUSDT", "50000")
            opened = await reader.event("liquidation_distance", "opened")
            topic = "marginwatch/main/incident/liquidation_distance/cross-usdt"
            acked = await marginwatch("ack", config, opened["incident_id"])
            await until(lambda: "acknowledged_at" in reader.retained(topic), "it shows")
            await until(lambda: any("/marginwatch_main/" in each for each in heard), "Home Assistant is told")
            await until(lambda: any("/marginwatch__instance/" in each for each in heard), "of the instance too")
        await until(lambda: reader.now.get("marginwatch/status") == b"offline", "offline is said")
        reader.prefixes = []
        forgotten = await marginwatch("forget", config)
        await until(lambda: not reader.now, "nothing is left to read")
        left = await marginwatch("forget", config)

    refused = guarded.broker.log.read_text("utf-8")
    assert (acked[0], forgotten[0], left[0]) == (0, 0, 0)
    assert DISCOVERED.split("/")[2] in forgotten[1]
    assert left[1:] == ("", "0 retained topics cleared below marginwatch/\n")
    assert "broker lost" not in log.getvalue()
    assert "Denied" not in refused
