"""`marginwatch ack` and `marginwatch silence`: commands to a running daemon, over MQTT."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
from aiomqtt import MqttError
from msgspec import structs

from monitor import steering
from monitor.commands import complain
from monitor.config import Config
from monitor.effects import INSTANCE
from monitor.errors import CommandError, ConfigError
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.mqtt_client import REFUSED
from monitor.shell.probe_broker import NOBODY_SUBSCRIBES, say


def ack(config_path: str | None, incident_id: str) -> int:
    return _send(config_path, steering.ACK, {"incident_id": incident_id})


def silence(config_path: str | None, about: dict[str, str | None], for_s: float) -> int:
    if for_s > steering.LONGEST_SILENCE_S:
        print(f"marginwatch silence: --for: {steering.TOO_LONG}", file=sys.stderr)
        return 2
    given = {key: value for key, value in about.items() if value is not None}
    return _send(config_path, steering.SILENCE, {**given, "for_s": for_s})


def _send(config_path: str | None, command: str, body: dict[str, Any]) -> int:
    logs.hush()
    payload = msgspec.json.encode(body)
    try:
        config = settings.load(settings.find(config_path))
        password = _password(config)
        steering.parse(command, payload, now().wall_ms)
    except ConfigError as exc:
        return complain(exc)
    except CommandError as exc:
        print(exc, file=sys.stderr)
        return 2
    if not config.cmd.enabled:
        print("[cmd] enabled is false: the daemon does not listen to commands", file=sys.stderr)
        return 1
    mqtt = structs.replace(config.mqtt, username=config.cmd.username or config.mqtt.username)
    topic = mqtt.topics.command(command)
    try:
        reason = asyncio.run(say(mqtt, password, topic, payload))
    except (MqttError, OSError) as exc:
        print(f"the broker {mqtt.host}:{mqtt.port} did not take it: {exc}", file=sys.stderr)
        return 1
    if reason >= REFUSED:
        who = f"user {mqtt.username}" if mqtt.username else "whoever has no login"
        print(f"the broker {mqtt.host}:{mqtt.port} refuses it: its ACL must let {who} write {topic}", file=sys.stderr)
        return 1
    if reason == NOBODY_SUBSCRIBES:
        print(
            f"nobody has heard it: no daemon is subscribed to {topic}. Does it run, was [cmd] enabled when it was"
            " started, and may it read there?",
            file=sys.stderr,
        )
        return 1
    names = [account.name for account in config.accounts]
    if body.get("account") not in (None, INSTANCE, *names):
        said = f"note: this config has no account {body['account']!r} (it has {', '.join(names)})"
        print(f"{said}; if the daemon has none either, nothing is kept back", file=sys.stderr)
    print(f"told {topic}; the daemon's log, and the incident's retained topic, say what became of it")
    return 0


def _password(config: Config) -> str | None:
    secret = config.cmd.password if config.cmd.username else config.mqtt.password
    return None if secret is None else settings.fetch_one(config, secret)
