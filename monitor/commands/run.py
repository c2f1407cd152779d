"""`marginwatch run`: the daemon."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from monitor.commands import complain
from monitor.config import Config
from monitor.config import secrets as named_secrets
from monitor.config_values import Secret
from monitor.errors import ConfigError
from monitor.shell import logs, settings
from monitor.shell.daemon import Daemon

_AT_START = tuple(name for name in Config.__struct_fields__ if name not in ("rules", "log", "accounts"))
"""All that is read once."""


def main(config_path: str | None) -> int:
    try:
        path = settings.find(config_path)
        config = settings.load(path)
        found = settings.fetch(config)
    except ConfigError as exc:
        return complain(exc)
    logs.setup(config.log.format, config.log.level)
    try:
        daemon = Daemon(config, found)
        with asyncio.Runner(loop_factory=daemon.pulse.event_loop) as runner:
            runner.run(_run(path, config, found, daemon))
    except Exception:  # a bug: one line for the log, and systemd starts us anew
        logs.logger().critical("crashed", exc_info=True)
        return 1
    return 0


async def _run(path: Path, config: Config, found: dict[Secret, str], daemon: Daemon) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, path, config, found, daemon)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    loop.set_exception_handler(_unexpected)
    with suppress(asyncio.CancelledError):
        await daemon.run(stop)


def _reload(path: Path, running: Config, found: dict[Secret, str], daemon: Daemon) -> None:
    """Take rules, accounts and log of the config as it is now; on a mistake keep the old ones and say so.

    Args:
        running: What was there at the start, and `found` its secrets.
    """
    log = logs.logger()
    try:
        config = settings.load(path)
        secrets = settings.fetch(config)
    except ConfigError as exc:
        log.error("config not reloaded, the old one stays in force", problems=exc.problems)
        return
    logs.setup(config.log.format, config.log.level)
    daemon.take(config, secrets)
    others = [name for name in _AT_START if getattr(config, name) != getattr(running, name)]
    others += [
        key
        for key, secret in named_secrets(running)
        if not key.startswith("[[account]]") and secrets.get(secret, found[secret]) != found[secret]
    ]
    log.info("config reloaded", path=str(path), restart_needed_for=others)


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback that failed is in the log; what else the loop remarks on concerns connections that are given up."""
    if "handle" in context:
        logs.logger().error("callback failed", exc_info=context.get("exception"))
