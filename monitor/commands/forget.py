"""`marginwatch forget`: the last step of a removal, after which the broker has nothing of us any more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection

import aiomqtt
from aiomqtt import MqttError

from monitor.commands import complain
from monitor.config import MqttConfig
from monitor.errors import ConfigError
from monitor.shell import logs, settings
from monitor.shell.mqtt_client import subscribe, visitor
from monitor.topics import Topics

_SILENCE_S = 1.0
"""After so long without a retained message there are no more of them."""


def main(config_path: str | None, is_forced: bool) -> int:
    """Empty every retained topic of the config's prefix.

    Args:
        is_forced: Even though `online` stands there.
    """
    try:
        config = settings.load(settings.find(config_path))
        password = settings.mqtt_password(config)
    except ConfigError as exc:
        return complain(exc)
    logs.hush()
    mqtt = config.mqtt
    try:
        return asyncio.run(_forget(mqtt, password, is_forced))
    except (MqttError, OSError) as exc:
        print(f"the broker {mqtt.host}:{mqtt.port} did not answer, or refused: {exc}", file=sys.stderr)
        return 1


async def _forget(mqtt: MqttConfig, password: str | None, is_forced: bool) -> int:
    who, ours = mqtt.username or "anonymous", mqtt.topics
    async with visitor(mqtt, password, "forget") as client:
        statuses = await _retained(client, ours, ours.statuses)
        if statuses.get(ours.status) == b"online" and not is_forced:
            print(
                f"{ours.status} is online: stop the daemon first (sudo systemctl stop marginwatch), for"
                " it publishes anew what is cleared; if it is dead all the same: --force",
                file=sys.stderr,
            )
            return 1
        others = ours.neighbours(statuses)
        tried: set[str] = set()
        try:
            while True:  # of thousands a broker shows a part, until that part has gone
                found = await _retained(client, ours, ours.retained)
                left = {topic for topic in found if not topic.startswith(tuple(f"{other}/" for other in others))}
                if left <= tried:
                    break
                for topic in sorted(left - tried):
                    await client.publish(topic, b"", qos=0, retain=True)  # whether it has gone is looked at anyhow
                tried |= left
        except MqttError as exc:  # mosquitto cuts off who may not write, where MQTT 3.1.1 has no words for it
            raise MqttError(f"{exc}; may {who} write {mqtt.prefix}/# and {mqtt.discovery_prefix}/#?") from None
    for topic in sorted(tried - left):
        print(topic)
    for other in others:
        print(f"{other}/ is another daemon's, and left as it is", file=sys.stderr)
    print(f"{len(tried - left)} retained topics cleared below {mqtt.prefix}/", file=sys.stderr)
    if left:
        print(f"still there: {', '.join(sorted(left))}; may {who} write them?", file=sys.stderr)
    return 1 if left else 0


async def _retained(client: aiomqtt.Client, ours: Topics, filters: Collection[str]) -> dict[str, bytes]:
    """What stands at our topics: payload by topic. Not all of it, where it is more than the broker keeps waiting for
    us: mosquitto throws away what is beyond 1000 packets, and its answer to a subscription too.

    Raises:
        MqttError: The broker does not let us read there, or shows nothing and does not answer.
    """
    unanswered, may_read = None, True
    try:
        may_read = await subscribe(client, *filters)
    except MqttError as exc:
        unanswered = exc
    if not may_read:
        raise MqttError(f"this user may not read {' and '.join(filters)}")
    found: dict[str, bytes] = {}
    messages = client.messages
    loop = asyncio.get_running_loop()
    until = loop.time() + _SILENCE_S
    while True:
        try:
            async with asyncio.timeout_at(until):
                message = await anext(messages)
        except TimeoutError:
            break
        if not message.retain:
            continue  # said just now, by a daemon that runs
        until = loop.time() + _SILENCE_S
        payload = message.payload
        if isinstance(payload, bytes) and payload and ours.is_left(str(message.topic)):
            found[str(message.topic)] = payload
    if unanswered is not None and not found:
        raise unanswered
    await client.unsubscribe(list(filters))
    return found
