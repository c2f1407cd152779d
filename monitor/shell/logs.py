"""Logs: one line per change on stdout, stable event names, values as keys; nothing per tick."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals may hold a secret
)
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class _Sink:
    """Where lines go. A full disk, or a reader that has gone, costs lines and nothing else: alerts go on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        with suppress(AttributeError):  # a terminal without these letters
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


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
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
            *([_with_priority] if journald else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Sink(stream))),
        cache_logger_on_first_use=False,
    )
    # The libraries' own words are of no use to who runs the daemon; what matters of them we log ourselves.
    for name in ("aiomqtt", "mqtt", "paho", "websockets", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _with_priority(_: Any, method: str, line: str | MutableMapping[str, Any]) -> str:
    """`<4>{…}`: journald files a line under this priority; without it everything is 6."""
    return f"<{_PRIORITY.get(method, 6)}>{line}"


def logger() -> Any:
    return structlog.get_logger()
