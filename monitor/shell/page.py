"""The page for people: its files, and the stream that keeps it up to date.

A browser gets all there is when it connects, then what changes, and a beat every two seconds with what the daemon
thinks of itself; when beats stay away, the page says so. Of each state a browser that is behind gets the newest alone,
so nothing is queued for it; one that does not read at all is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from monitor.board import Changes
from monitor.core import Core
from monitor.effects import Effect, PoolGone, PoolState
from monitor.events import Now
from monitor.liveness import DaemonState, readiness
from monitor.message import Message
from monitor.ratios import RatioHistory
from monitor.shell.clock import now
from monitor.shell.http import Route
from monitor.shell.hub import Hub

_BEAT_S = 2.0
_GATHER_S = 0.1
"""What changes within this goes out as one."""
_BYTES_PER_S = 2_000_000
"""No faster to one browser: thousands of pools, each second, to many of them would be felt."""
_AGAIN_MS = 1000
"""How long a browser waits before it connects again."""
_POOLS_AT_MOST = 100
"""Pools of which the history is sent: the page draws fewer."""
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Page:
    """The routes of the page.

    Args:
        state: Asked each time.
        boot_id: Of this run: a revision of another run means nothing here.
        unread_s: A browser that takes nothing for so long is cut off (seconds).
    """

    def __init__(
        self, hub: Hub, core: Core, state: Callable[[Now], DaemonState], boot_id: str, unread_s: float = 10
    ) -> None:
        self._hub = hub
        self._core = core
        self._state = state
        self._boot_id = boot_id
        self._unread_s = unread_s
        self._ratios = RatioHistory()

    def happened(self, effects: Sequence[Effect]) -> None:
        """Remember the margin ratios, for the charts."""
        for effect in effects:
            if isinstance(effect, PoolState):
                ratio = effect.risk.margin_ratio if effect.ages.freshness == "live" else None
                pool = effect.risk.pool.id
                self._ratios.put(effect.account.name, pool, now().mono, None if ratio is None else float(ratio))
            elif isinstance(effect, PoolGone):
                self._ratios.gone(effect.account, effect.pool, now().mono)

    def routes(self) -> list[Route]:
        found = sorted(files("monitor").joinpath("web").iterdir(), key=lambda file: file.name)
        pages = [_page(file.name, file.read_text("utf-8")) for file in found if file.name[0] not in "._"]
        return [*pages, Route("/stream", self._stream, is_stream=True), Route("/history", self._history)]

    # ---- what moves ----

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        # Not compressed, and not held back by a proxy: an alert is of use only at once.
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        try:
            await self._tell(response, self._known(request.headers.get("Last-Event-ID", "")))
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # to close it would wait for whoever does not read
        return response

    async def _tell(self, response: web.StreamResponse, known: int) -> None:
        """Tell of everything that is newer than a revision, until the browser has gone.

        Raises:
            TimeoutError: It does not read.
        """
        clock = asyncio.get_running_loop().time
        await self._write(response, b"retry: %d\n\n" % _AGAIN_MS)
        beat_at, pause_s = clock(), _GATHER_S
        while True:
            if clock() >= beat_at:
                beat_at = clock() + _BEAT_S
                await self._write(response, _event("beat", msgspec.json.encode(self._beat())))
            changes = self._hub.board.since(known)
            if changes.revision != known or known == 0:
                known = changes.revision
                name = "whole" if changes.is_whole else "change"
                body = _event(name, _body(changes), f"{self._boot_id}.{known}")
                await self._write(response, body)
                pause_s = _GATHER_S + len(body) / _BYTES_PER_S
            with suppress(TimeoutError):
                async with asyncio.timeout_at(beat_at):
                    await self._hub.newer(known)
                    await asyncio.sleep(pause_s)

    def _known(self, last_event_id: str) -> int:
        """The revision that a browser knows from an earlier connection; 0: none."""
        boot_id, _, revision = last_event_id.partition(".")
        if boot_id == self._boot_id and revision.isdecimal() and revision.isascii() and len(revision) < 16:
            return int(revision)
        return 0

    def _beat(self) -> dict[str, Any]:
        here = now()
        said = readiness(self._core, self._state(here), here)
        rules = self._core.setup.rules
        levels = {
            name: [{"at": float(step.at), "severity": step.severity.word} for step in rules.rules[name].steps]
            for name in ("margin_ratio", "liquidation_distance")
        }
        kept = {key: said[key] for key in ("status", "reasons", "broker_away_s")}
        return {"at_ms": here.wall_ms, "mono_ms": round(here.mono * 1000), **kept, "levels": levels}

    async def _history(self, request: web.Request) -> web.StreamResponse:
        """One line of JSON for each pool; between two of them everything else has its turn."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for series in self._ratios.series(now(), _POOLS_AT_MOST):
            await self._write(response, msgspec.json.encode(series) + b"\n")
            await asyncio.sleep(0)
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Send.

        Raises:
            TimeoutError: The browser does not read.
        """
        async with asyncio.timeout(self._unread_s):
            await response.write(data)


def _page(name: str, text: str) -> Route:
    async def answer(request: web.Request) -> web.Response:
        content_type = _TYPES[name.rpartition(".")[2]]
        headers = {"Content-Security-Policy": _POLICY}
        return web.Response(text=text, content_type=content_type, charset="utf-8", headers=headers)

    return Route("/" if name == "index.html" else f"/{name}", answer)


def _event(name: str, data: bytes, number: str | None = None) -> bytes:
    """A server-sent event; JSON has no line breaks of its own."""
    head = f"event: {name}\n" if number is None else f"id: {number}\nevent: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


def _body(changes: Changes) -> bytes:
    states = {message.topic: _raw(message) for message in changes.states}
    return msgspec.json.encode({"states": states, "events": _raws(changes.events)})


def _raws(messages: Iterable[Message]) -> list[msgspec.Raw]:
    return [_raw(message) for message in messages]


def _raw(message: Message) -> msgspec.Raw:
    """A payload as it is; an empty one, which ends a state, as null."""
    return msgspec.Raw(message.payload or b"null")
