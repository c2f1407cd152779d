"""Asks the broker what a daemon with this config would meet, and publishes a test alert.

As a visitor, under a client id of its own and without a will: a daemon that runs with the same config is not disturbed.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiomqtt
import msgspec
from aiomqtt import MqttError
from aiomqtt.exceptions import MqttCodeError, MqttConnectError
from msgspec import structs
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.config import MqttConfig
from monitor.effects import INSTANCE
from monitor.message import Message
from monitor.shell.broker import properties_of
from monitor.shell.causes import fault_of, in_words, network_remedy
from monitor.shell.findings import Finding, Level
from monitor.shell.mqtt_client import REFUSED, subscribe, visitor
from monitor.shell.tls import tls_context

_BAD_LOGIN = (4, 5, 134, 135)
_NOT_AUTHORIZED = 135
NOBODY_SUBSCRIBES = 16


async def reach(config: MqttConfig, password: str | None) -> tuple[str | None, Finding]:
    """Connect and log in. Gives the version of MQTT that works; None: none does."""
    where = f"broker {config.host}:{config.port}"
    try:
        async with asyncio.timeout(config.timeout_s):
            context = tls_context(config) if config.tls else None
            _, writer = await asyncio.open_connection(config.host, config.port, ssl=context)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    except OSError as exc:  # a timeout, too
        return None, _unreachable(where, exc, config)
    why: MqttError | None = None
    for version in _versions(config):
        try:
            async with _visitor(config, password, version):
                login = f" as {config.username}" if config.username else ""
                return version, Finding("ok", f"{where}: connected{login}, MQTT {version}{', TLS' * config.tls}")
        except MqttError as exc:
            why = exc
    assert why is not None
    if isinstance(why, MqttConnectError) and _code(why) in _BAD_LOGIN:
        remedy = "[mqtt] username and password: does the broker know them?" if config.username else "it wants a login:"
        remedy += "" if config.username else " [mqtt] username and password"
        return None, Finding("error", f"{where}: refuses the login: {why}", remedy)
    remedy = "does this port speak MQTT? 1883 is usual, 8883 with tls = true"
    return None, Finding("error", f"{where}: does not answer as an MQTT broker: {why}", remedy)


def _unreachable(where: str, exc: OSError, config: MqttConfig) -> Finding:
    fault = fault_of(exc)
    if fault != "tls" and not (config.tls and fault == "connection"):  # a port without TLS cuts us off
        return Finding("error", f"{where}: {in_words(fault, exc, config.host)}", network_remedy(fault, config.host))
    if isinstance(exc, ssl.SSLCertVerificationError):
        remedy = (
            "name the authority that has signed its certificate: [mqtt] tls_ca_file; host must be as it stands there"
        )
    else:
        remedy = "does this port speak TLS, and does the broker want another certificate of ours (tls_cert_file)?"
    return Finding("error", f"{where}: {in_words(fault, exc, config.host)}", remedy)


async def round_trip(config: MqttConfig, password: str | None, version: str, instance: str) -> list[Finding]:
    """Publish below the prefix and hear it again; keep something there, and take it away; see who else is there.

    Args:
        instance: The name of the daemon that this config is for.
    """
    found: list[Finding] = []
    try:
        await _RoundTrip(config, version, instance, found).run(password)
    except MqttError as exc:
        remedy = f"its log says why; most often {acl_remedy(config)}, or it keeps no retained messages"
        found.append(Finding("error", f"broker: cut the connection: {exc}", remedy))
    return found


class _RoundTrip:
    def __init__(self, config: MqttConfig, version: str, instance: str, found: list[Finding]) -> None:
        self._config = config
        self._version = version
        self._instance = instance
        self._found = found
        self._topic = config.topics.check(INSTANCE, secrets.token_hex(8))

    async def run(self, password: str | None) -> None:
        client = _visitor(self._config, password, self._version)
        self._visit = visit = _Visit(client, self._config.timeout_s)
        async with client:
            if not await self._may_subscribe():
                return
            began = time.monotonic()
            reason = await visit.publish(self._topic, b"1")
            if reason < REFUSED and await visit.hears(self._topic):
                took_ms = (time.monotonic() - began) * 1000
                self._say("ok", f"a message below {self._config.prefix}/ (QoS 1) came back within {took_ms:.0f} ms")
                await self._retained()
                self._others()
                await self._discovery()
            elif reason == _NOT_AUTHORIZED:
                self._say("error", f"nothing may be published below {self._config.prefix}/", acl_remedy(self._config))
            else:
                said = f"a message below {self._config.prefix}/ was taken, and did not come back: it may not be"
                said += " published, or not be read; a broker does not always say so"
                self._say("error", said, acl_remedy(self._config))

    async def _may_subscribe(self) -> bool:
        topics = self._config.topics
        wanted = (topics.below, topics.status, topics.info, self._topic)
        refused = [topic for topic in wanted if not await self._visit.subscribes(topic)]
        if refused:
            self._say("error", f"{refused[0]} may not be subscribed to", acl_remedy(self._config))
            return False
        await self._visit.client.unsubscribe(wanted[0])  # the daemon listens there as it starts; we need not
        return True

    async def _retained(self) -> None:
        """State topics are kept by the broker, for whoever connects later."""
        visit = self._visit
        remedy = "mosquitto: retain_available true; without it nobody who connects later sees how things stand"
        if not visit.keeps_messages:
            self._say("error", "keeps no retained messages", remedy)
            return
        await visit.publish(self._topic, b"2", retain=True)
        await visit.client.unsubscribe(self._topic)
        await visit.subscribes(self._topic)
        kept = await visit.hears(self._topic, lambda message: message.retain)
        await visit.publish(self._topic, b"", retain=True)
        if kept:
            self._say("ok", "retained messages are kept, and emptied")
        else:
            self._say("error", "keeps no retained messages", f"{remedy}; or {acl_remedy(self._config)}")

    async def _discovery(self) -> None:
        """Home Assistant's topics are not below our prefix. It ignores this one, which is no config."""
        visit, prefix = self._visit, self._config.discovery_prefix
        topic = f"{prefix}/marginwatch/check/{secrets.token_hex(8)}"
        if not self._config.discovery:
            return
        came_back = False
        with suppress(MqttError):  # a broker may cut whoever publishes where it must not
            if await visit.subscribes(topic) and await visit.publish(topic, b"1") < REFUSED:
                came_back = await visit.hears(topic)
        if came_back:
            self._say("ok", f"a message below {prefix}/, for Home Assistant, came back")
        else:
            remedy = acl_remedy(self._config, prefix)
            self._say("warning", f"a message below {prefix}/, for Home Assistant, did not come back", remedy)

    def _others(self) -> None:
        """A daemon that is there already: ours, or one that this would fight with."""
        kept = self._visit.kept
        if kept.get(self._config.topics.status) != b"online":
            return
        with suppress(msgspec.DecodeError, AttributeError):
            other = msgspec.json.decode(kept.get(self._config.topics.info, b"{}")).get("instance")
            if other not in (None, self._instance):
                self._say(
                    "error",
                    f'"{other}" is online under the prefix {self._config.prefix}; this is "{self._instance}"',
                    "give each daemon its own [mqtt] prefix: two under one remove each other's topics",
                )
                return
        self._say("note", f"a daemon is online under the prefix {self._config.prefix}; it is not disturbed")

    def _say(self, level: Level, text: str, remedy: str = "") -> None:
        self._found.append(Finding(level, f"broker: {text}", remedy))


async def publish_alert(config: MqttConfig, password: str | None, version: str, message: Message) -> list[Finding]:
    """Publish a test alert as the daemon publishes a real one, and say how to see it."""
    client = _visitor(config, password, version)
    visit = _Visit(client, config.timeout_s)
    properties = None
    if version == "5":
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.unpack(properties_of(message))  # type: ignore[no-untyped-call]
    try:
        async with client:
            reason = await visit.publish(message.topic, message.payload, properties=properties)
    except MqttError as exc:
        return [Finding("error", f"test alert: the broker did not take it: {exc}", "the broker's log says why")]
    if reason >= REFUSED:
        return [Finding("error", f"test alert: the broker refuses it (reason {reason})", acl_remedy(config))]
    see = Finding("note", f"see the next one: {subscriber(config, message.topic)}")
    if reason == NOBODY_SUBSCRIBES:
        said = f"test alert: the broker took it (QoS 1), and nobody is subscribed to {message.topic}"
        return [Finding("warning", said, "what wakes your phone is not connected, or listens to another topic"), see]
    return [Finding("ok", f"test alert: the broker took it (QoS 1, acknowledged): {message.topic}"), see]


async def say(config: MqttConfig, password: str | None, topic: str, payload: bytes) -> int:
    """Publish one message. Gives the broker's reason code, of MQTT 5 alone; 0: it took it.

    Raises:
        MqttError, OSError: The broker was not reached, or did not take it.
    """
    why: MqttError | None = None
    for version in _versions(config):
        try:
            async with _visitor(config, password, version, "say") as client:
                return await _Visit(client, config.timeout_s).publish(topic, payload)
        except MqttError as exc:
            why = exc
    assert why is not None
    raise why


def acl_remedy(config: MqttConfig, prefix: str | None = None) -> str:
    """What the broker must allow, below our own prefix or another."""
    who = f"user {config.username}" if config.username else "whoever has no login"
    return f"the broker's ACL must let {who} read and write: topic readwrite {prefix or config.prefix}/#"


def subscriber(config: MqttConfig, topic: str) -> str:
    """The command that shows what is published at a topic; a password is left for its owner to put in."""
    words = ["mosquitto_sub", "-h", config.host, "-p", str(config.port)]
    if config.username is not None:
        words += ["-u", config.username, *(["-P", "PASSWORD"] if config.password is not None else [])]
    if config.tls:
        words += ["--cafile", config.tls_ca_file] if config.tls_ca_file else ["--capath", "/etc/ssl/certs"]
        words += ["--cert", config.tls_cert_file] if config.tls_cert_file else []
        words += ["--key", config.tls_key_file] if config.tls_key_file else []
        words += ["--insecure"] if config.tls_insecure else []
    return shlex.join([*words, "-q", "1", "-v", "-t", topic])


class _Visit:
    """A visitor's connection, with what the libraries keep to themselves: the broker's answers.

    Attributes:
        keeps_messages: Whether the broker has retained messages; MQTT 3.1.1 does not say, so that it is tried.
        kept: Topic → what was retained there.
    """

    def __init__(self, client: aiomqtt.Client, timeout_s: float) -> None:
        self.client = client
        self.keeps_messages = True
        self.kept: dict[str, bytes] = {}
        self._timeout_s = timeout_s
        self._reason = 0
        paho: Any = client._client
        on_connect, on_publish = paho.on_connect, paho.on_publish

        def connected(paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            self.keeps_messages = bool(getattr(properties, "RetainAvailable", 1))
            on_connect(paho, userdata, flags, reason, properties)

        def published(paho: Any, userdata: Any, mid: Any, reason: Any, properties: Any) -> None:
            self._reason = int(getattr(reason, "value", 0))
            on_publish(paho, userdata, mid, reason, properties)

        paho.on_connect, paho.on_publish = connected, published

    async def subscribes(self, topic: str) -> bool:
        """Subscribe; whether the broker lets us."""
        return await subscribe(self.client, topic, qos=1)

    async def publish(self, topic: str, payload: bytes, retain: bool = False, properties: Any = None) -> int:
        """Publish at QoS 1 and wait for the broker's word. Gives its reason code, of MQTT 5 alone; 0: it took it."""
        self._reason = 0
        await self.client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        return self._reason

    async def hears(self, topic: str, wanted: Callable[[aiomqtt.Message], bool] = lambda message: True) -> bool:
        """Whether a message comes at a topic before our patience ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                async for message in self.client.messages:
                    if message.retain and isinstance(message.payload, bytes):
                        self.kept[str(message.topic)] = message.payload
                    if str(message.topic) == topic and message.payload and wanted(message):
                        return True
        return False


def _versions(config: MqttConfig) -> list[str]:
    """The versions of MQTT to be tried; that of 5 says what becomes of a message."""
    return ["5", "3.1.1"] if config.protocol == "auto" else [config.protocol]


def _visitor(config: MqttConfig, password: str | None, version: Any, purpose: str = "check") -> aiomqtt.Client:
    return visitor(structs.replace(config, protocol=version), password, purpose)


def _code(exc: MqttCodeError) -> int:
    return exc.rc if isinstance(exc.rc, int) else int(getattr(exc.rc, "value", 0))
