"""`marginwatch watch`: a live table in the terminal, from what the daemon tells the broker.

rich is imported where it draws: lines for a pipe need none of it, and nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import codecs
import importlib.util
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from monitor.config import Config
from monitor.digits import rfc3339
from monitor.errors import BrokerAway, ConfigError
from monitor.panel import Away, Panel, panel
from monitor.retained import Retained
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.onlooker import Onlooker, look
from monitor.shell.tasks import ended
from monitor.standing import Code, watched

_EVERY_S = 1.0
"""How often ages and countdowns are drawn anew."""
_AT_MOST_EVERY_S = 0.2
_LINE_EVERY_S = 60.0
"""How often a line is printed where nothing changes."""
_DUMB = ("dumb", "unknown")
"""Terminals that know of no screen; rich would draw nothing there at all."""
_PLAIN = "marginwatch.plain"


def main(config_path: str | None, once: bool, timeout_s: float) -> int:
    """Show it until told to stop, or once. Returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_PLAIN, _plain)
        sys.stdout.reconfigure(errors=_PLAIN)
    logs.hush()
    is_table = once or (sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in _DUMB)
    if is_table and importlib.util.find_spec("rich") is None:
        print("the table needs the package rich: in the checkout, pip install '.[watch]'", file=sys.stderr)
        return Code.UNKNOWN
    try:
        config = settings.load(settings.find(config_path))
        password = settings.mqtt_password(config)
        if once:
            return asyncio.run(_once(config, password, timeout_s))
    except (ConfigError, BrokerAway) as exc:
        print(exc, file=sys.stderr)
        return Code.UNKNOWN
    asyncio.run(_until_stopped(_table if is_table else _lines, config, password))
    return 0


def _plain(exc: UnicodeError) -> tuple[str, int]:
    """A letter for each that the terminal has not, so that the table keeps its columns, and a loss its sign."""
    assert isinstance(exc, UnicodeEncodeError)
    return "".join("-" if letter == "−" else "?" for letter in exc.object[exc.start : exc.end]), exc.end


async def _once(config: Config, password: str | None, timeout_s: float) -> int:
    """Print one table."""
    from rich.console import Console

    from monitor.commands.watch_view import Drawing

    retained = await look(config.mqtt, password, _names(config), timeout_s, config.mqtt.topics.everything)
    shown = _panel(config, retained)
    Console().print(Drawing(shown, config.rules), end="")
    return shown.code


Show = Callable[[Config, Onlooker], Coroutine[Any, Any, None]]


async def _until_stopped(show: Show, config: Config, password: str | None) -> None:
    """Follow the broker, and show what it says, until we are told to stop."""
    stop = asyncio.Event()
    onlooker = Onlooker(config.mqtt, password)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGWINCH, onlooker.changed.set)
    parts = (onlooker.run(), show(config, onlooker), stop.wait())
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(part) for part in parts]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await ended(*tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()  # a bug, or a reader of our lines, or a terminal, that has gone


async def _table(config: Config, onlooker: Onlooker) -> None:
    """Draw it on the whole screen: at each change, but not too often, and once a second for the ages."""
    from rich.console import Console
    from rich.live import Live

    from monitor.commands.watch_view import Drawing

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            drawing = Drawing(_panel(config, onlooker.retained, onlooker), config.rules, console.size.height)
            live.update(drawing, refresh=True)
            await _change(onlooker)


async def _lines(config: Config, onlooker: Onlooker) -> None:
    """Print a line for each change of how it stands, and one now and then where nothing changes."""
    said, said_at = "", 0.0
    while True:
        shown = _panel(config, onlooker.retained, onlooker)
        what = _news(shown, onlooker)
        is_due = what != said or time.monotonic() - said_at >= _LINE_EVERY_S
        if is_due and onlooker.has_tried:
            print(f"{rfc3339(shown.at_ms)} {shown.code.name} {shown.words}", flush=True)
            said, said_at = what, time.monotonic()
        await _change(onlooker)


def _news(shown: Panel, onlooker: Onlooker) -> str:
    """What is a change if it is another: no age; nor, while nothing is heard, the words that a library has for it."""
    if onlooker.away is not None or not shown.code:
        return f"{shown.code.name} {onlooker.away is None}"
    return shown.code.name + re.sub(r"\d+( (s|min|h|days)\b)?", "", shown.words)


async def _change(onlooker: Onlooker) -> None:
    """Wait until there is something new to show."""
    await asyncio.sleep(_AT_MOST_EVERY_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(_EVERY_S - _AT_MOST_EVERY_S):
            await onlooker.changed.wait()
    onlooker.changed.clear()


def _panel(config: Config, retained: Retained, onlooker: Onlooker | None = None) -> Panel:
    away = None
    if onlooker is not None and onlooker.away is not None:
        broker = f"{config.mqtt.host}:{config.mqtt.port}"
        away = Away(broker, onlooker.away, time.monotonic() - onlooker.away_since)
    return panel(retained, watched(retained, _names(config)), now().wall_ms, away)


def _names(config: Config) -> list[str]:
    return [account.name for account in config.accounts]
