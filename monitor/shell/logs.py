"""Logs: one line per change on stdout, stable event names, values as keys; nothing per tick."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO, cast

import structlog

from monitor.shell.sink import Sink

_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals may hold a secret
)
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


_SAME = ("account", "link", "request", "to", "incident_id", "answer", "reason")
"""Fields that tell one thing from another, but for the numbers in them; whatever else differs, it is the same again."""
_NUMBER = re.compile(r"\d+")
_AT_ONCE = 10
_WINDOW_S = 60.0


class Repetitions:
    """A structlog processor: of one thing again and again, the first lines of a minute are logged and the rest counted.

    What was left out is told before the next line of whatever kind, once its minute is over. What is told to people has
    an `event_id`, and is never left out.
    """

    def __init__(self, at_once: int = _AT_ONCE, window_s: float = _WINDOW_S) -> None:
        self._at_once = at_once
        self._window_s = window_s
        self._seen: dict[tuple[str, ...], _Seen] = {}

    def __call__(self, log: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if line["event"] in (_LEFT_OUT, _DROPPED):
            return line  # the one is logged from in here, the other from the sink's thread: neither may come in again
        here = time.monotonic()
        self._tell(here)
        if "event_id" in line:
            return line
        what = (line["event"], *(_NUMBER.sub("#", str(line.get(name, ""))) for name in _SAME))
        seen = self._seen.setdefault(what, _Seen(here + self._window_s))
        seen.lines += 1
        if seen.lines > self._at_once:
            raise structlog.DropEvent
        return line

    def _tell(self, here: float) -> None:
        while self._seen:
            what, seen = next(iter(self._seen.items()))  # the oldest
            if here < seen.until:
                return
            del self._seen[what]
            if seen.lines > self._at_once:
                names = {name: value for name, value in zip(_SAME, what[1:], strict=True) if value}
                logger().warning(_LEFT_OUT, of=what[0], count=seen.lines - self._at_once, **names)


@dataclass
class _Seen:
    """Lines of one thing, and until when they are counted (monotonic seconds)."""

    until: float
    lines: int = 0


_LEFT_OUT = "repeated lines left out"
_DROPPED = "log lines dropped, nothing took them"


def setup(format: Literal["auto", "json", "text"] = "auto", level: str = "info", stream: Any = None) -> None:
    """Configure structlog: JSON lines, or colours on a terminal; under journald each line carries its priority."""
    stream = stream or sys.stdout
    as_text = format == "text" or (format == "auto" and stream.isatty())
    journald = "JOURNAL_STREAM" in os.environ and not as_text
    renderers: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if as_text
        else [_TRACEBACKS, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]
    )
    structlog.configure(
        processors=[
            Repetitions(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _in_order,
            *renderers,
            *([_with_priority] if journald else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _sink(stream))),
        cache_logger_on_first_use=False,
    )
    hush()


def hush() -> None:
    """The libraries' own words are of no use to who runs us; what matters of them we say ourselves."""
    for name in ("aiomqtt", "mqtt", "paho", "websockets", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


_sinks: list[Sink] = []
"""The one in use."""


def _sink(stream: Any) -> Sink:
    """The sink of a stream: the one in use where it is the same stream, since its lines must keep their order."""
    if not _sinks or _sinks[0].stream is not stream:
        for old in _sinks:
            old.drain()
        _sinks[:] = [Sink(stream, lambda count: logger().warning(_DROPPED, count=count))]
    return _sinks[0]


def _in_order(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What every line has stands first, for whoever reads it as it is."""
    return {name: line[name] for name in ("timestamp", "level", "event")} | dict(line)


def _with_priority(_: Any, method: str, line: str | MutableMapping[str, Any]) -> str:
    """`<4>{…}`: journald files a line under this priority; without it everything is 6."""
    return f"<{_PRIORITY.get(method, 6)}>{line}"


def logger() -> Any:
    return structlog.get_logger()
