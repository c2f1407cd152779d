"""The HTTP server: routes that the daemon hands in, behind a token, an address check, and limits.

It shares the loop with the watching, so whoever calls must not be able to slow that down: few connections at a time,
each for one request and a few seconds, but for streams; a port that is taken, or a page that fails, is logged and
nothing more.

A browser presents the token as the password of HTTP Basic authentication: in no address, history, log or script, and
without a session of ours to keep. Nothing here changes anything, so nothing can be done in a browser's name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Struct

from monitor.config import HttpConfig
from monitor.shell import logs
from monitor.shell.backoff import Backoff

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CONNECTIONS_AT_MOST = 64
_STREAMS_AT_MOST = 16
_ACCEPTED_PER_S = 100
_LIFE_S = 10.0
"""How long a connection may take to ask, and to take the answer."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ELSEWHERE = ("cross-site", "same-site")
"""What a browser says of a request that a page of another site has caused."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Route(Struct, frozen=True):
    """Something that can be asked for, with GET.

    Args:
        is_open: Whether it is answered without the token; it must tell nothing of what is watched then.
        is_stream: Whether the answer has no end; it must give up by itself on a reader that does not read.
    """

    path: str
    handler: Handler
    is_open: bool = False
    is_stream: bool = False


class HttpServer:
    """Serves routes until cancelled.

    Args:
        token: What callers have to present; None: nothing.
    """

    def __init__(self, config: HttpConfig, token: str | None, routes: Iterable[Route]) -> None:
        assert config.listen is not None
        self._listen = config.listen
        self._token = None if token is None else token.encode()
        self._hosts = frozenset((*_LOOPBACK, config.listen.host, *config.hosts))
        self._routes = tuple(routes)
        self._log = logs.logger()
        self._server: web.Server | None = None
        self._streaming: set[object] = set()
        self._second = 0
        self._accepted = 0

    async def run(self) -> None:
        """Listen and answer until cancelled; a port that is taken is tried again without end."""
        app = web.Application()
        app.on_response_prepare.append(self._dress)
        for route in self._routes:
            app.router.add_get(route.path, partial(self._serve, route))
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_LIFE_S,
            lingering_time=0,
            shutdown_timeout=0.2,
        )
        await runner.setup()
        self._server = runner.server
        try:
            listening = await self._bind()
            try:
                self._log.info("http listening", address=str(self._listen), token=self._token is not None)
                await self._cut_the_slow()
            finally:
                listening.close()
        finally:
            await runner.cleanup()

    # ---- connections ----

    async def _bind(self) -> asyncio.Server:
        backoff, said = Backoff(0.5, 30), ""
        while True:
            try:
                return await asyncio.get_running_loop().create_server(
                    self._accept, self._listen.host, self._listen.port, backlog=_CONNECTIONS_AT_MOST // 4
                )
            except (OSError, ValueError) as exc:  # ValueError: a host that no name service takes
                reason = getattr(exc, "strerror", None) or str(exc)
                if reason != said:
                    self._log.error(
                        "http not listening, tried again; the watching goes on",
                        address=str(self._listen),
                        reason=reason,
                        remedy="is another daemon running? else free the port, or name another: [http] listen",
                    )
                said = reason
                await backoff.wait()

    def _accept(self) -> asyncio.BaseProtocol:
        """A new connection, or what hangs up on one that is too many."""
        assert self._server is not None
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._accepted = second, 0
        self._accepted += 1
        if self._accepted > _ACCEPTED_PER_S or len(self._server.connections) >= _CONNECTIONS_AT_MOST:
            self._complain("too many connections")
            return _HangUp()
        return self._server()

    async def _cut_the_slow(self) -> None:
        """End every connection that lasts too long and is no stream, until cancelled."""
        assert self._server is not None
        since: dict[web.RequestHandler, float] = {}
        while True:
            await asyncio.sleep(1)
            here = time.monotonic()
            since = {c: since.get(c, here) for c in self._server.connections if c not in self._streaming}
            for connection, began in since.items():
                if here - began >= _LIFE_S and connection.transport is not None:
                    connection.transport.abort()  # to close it would wait for whoever does not read

    # ---- requests ----

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        """Answer only who may ask; what fails is logged, and ends nothing else."""
        refused = self._refusal(route, request)
        if refused is not None:
            return refused
        if route.is_stream:
            if len(self._streaming) >= _STREAMS_AT_MOST:
                return web.Response(status=503, text="too many streams\n")
            self._streaming.add(request.protocol)
        try:
            return await route.handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            self._log.error("http request failed", path=route.path, exc_info=True)
            return web.Response(status=500, text="failed; the log says why\n")
        finally:
            self._streaming.discard(request.protocol)

    def _refusal(self, route: Route, request: web.Request) -> web.Response | None:
        if request.headers.get("Sec-Fetch-Site") in _ELSEWHERE and request.headers.get("Sec-Fetch-Mode") != "navigate":
            return web.Response(status=403, text="not for other sites\n")
        if self._token is None:
            # Else any web page could have its own name point here, and read along in the browser of whoever sees it.
            if _host(request) in self._hosts:
                return None
            remedy = "unknown host: ask for localhost, name the host in [http] hosts, or set [http] token\n"
            return web.Response(status=421, text=remedy)
        if route.is_open or secrets.compare_digest(_presented(request), self._token):
            return None
        self._complain("no token, or a wrong one", request.remote)
        return web.Response(
            status=401,
            text="a token is needed: as Bearer token, or as password with any user name\n",
            headers={"WWW-Authenticate": 'Basic realm="marginwatch", charset="UTF-8"'},
        )

    async def _dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers that every answer has, unless its handler says otherwise."""
        response.force_close()
        response.headers["Connection"] = "close"
        response.headers["Server"] = "marginwatch"
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)

    def _complain(self, reason: str, caller: str | None = None) -> None:
        self._log.warning("http caller refused", reason=reason, caller=caller)


class _HangUp(asyncio.Protocol):
    """Ends a connection as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def as_json(body: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _presented(request: web.Request) -> bytes:
    """The token that a caller presents; empty: none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode(errors="surrogateescape")
    if scheme.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(given, validate=True).partition(b":")[2]
    return b""


def _host(request: web.Request) -> str | None:
    """By which name we are addressed, without the port."""
    with suppress(ValueError):
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname
    return None
