"""`marginwatch check`: every mistake at once, each with its remedy: in the config, and online in all it leads to."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Mapping

from monitor import __version__, trial
from monitor.config import Config
from monitor.config_values import Secret
from monitor.encoder import Encoder
from monitor.errors import ConfigError
from monitor.message import Identity, Message
from monitor.rules import Severity
from monitor.shell import logs, offline, settings
from monitor.shell.clock import now
from monitor.shell.findings import Finding, Findings


def main(config_path: str | None, online: bool = False, test_alert: str | None = None) -> int:
    """Check.

    Args:
        online: Ask exchange and broker, too.
        test_alert: Publish a test alert of this severity. None: none.
    """
    found = Findings()
    try:
        path = settings.find(config_path)
        config, problems, fetched = settings.examine(path)
    except ConfigError as exc:
        found.take(Finding("error", problem) for problem in exc.problems)
        return found.sum_up()
    found.take(Finding("error", problem) for problem in problems)
    found.take(offline.findings(path, config, fetched))
    if not problems:
        found.take(offline.overrides(path, config))
    if not found.count["error"]:
        names = ", ".join(f"{account.name} ({account.venue}, {account.environment})" for account in config.accounts)
        found.take([Finding("ok", f"{path}: accounts {names}; broker {config.mqtt.host}:{config.mqtt.port}")])
    if online or test_alert is not None:
        if problems:
            found.take([Finding("note", "exchange and broker were not asked: mend the config first")])
        else:
            asyncio.run(_ask(config, fetched, found, online, test_alert))
    return found.sum_up()


async def _ask(
    config: Config, fetched: Mapping[Secret, str], found: Findings, online: bool, test_alert: str | None
) -> None:
    from monitor.shell.probe_broker import publish_alert, reach, round_trip

    # What links and libraries would log is told here, with its remedy. Only now: a library sets its level as it comes.
    logs.setup("text", "critical", sys.stderr)
    if online:
        from monitor.shell.probe_exchange import probe  # brings the exchange's library, which takes a while

        await probe(config, fetched, found)
    mqtt, instance = config.mqtt, config.instance or socket.gethostname()
    password = None if mqtt.password is None else fetched[mqtt.password]
    found.waits_for("broker")
    version, finding = await reach(mqtt, password)
    found.take([finding])
    if version is None:
        return
    found.take(await round_trip(mqtt, password, version, instance))
    if test_alert is not None:
        for alert in _alert(config, instance, Severity[test_alert.upper()]):
            said = await publish_alert(mqtt, password, version, alert)
        found.take(said)  # of the last: where there are notices, they are what the phone gets


def _alert(config: Config, instance: str, severity: Severity) -> list[Message]:
    """A test alert of the first account, and its notice where there are notices."""
    at = now()
    identity = Identity(config.mqtt.prefix, instance, __version__, secrets.token_hex(8), at.wall_ms)
    encoder = Encoder(identity, config.rules, notices=not config.privacy.amounts)
    return encoder.of(trial.story(config.setup.accounts[0], severity, at))
