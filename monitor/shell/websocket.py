"""An open websocket to an exchange: how it is opened, how it shows that it lives, and why it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxyStatus, InvalidStatus

from monitor.config import LinksConfig
from monitor.errors import DecodeError, ExchangeError, LinkDown, LinkUnwanted, ProxyError
from monitor.shell.handshakes import Handshakes
from monitor.shell.proxies import proxy_of
from monitor.shell.rest import stay_away_s
from monitor.shell.tasks import ended

REQUEST_PAUSE_S = 0.35
"""Between two requests over one connection. The exchange cuts whoever sends more than ten messages a second, as it
says, and at the sixth within one, as others have found; a ping and a pong of ours count too."""
_MAX_FRAME = 16 * 2**20
_NEXT_ADDRESS_S = 0.25
"""When an address of a name has not answered for so long, the next is tried beside it, as REST does: one may lead
nowhere, and be the first each time."""
_NO_PONG = 1011
"""What the other side is told then, as `websockets` does."""


class _Connect(connect):
    """To where we want, and nowhere else: an exchange sends nobody on, and who does may name an address that does not
    read, which the library has no word for."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Connection(ClientConnection):
    """Knows when the other side was heard last (monotonic seconds)."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        super().data_received(data)


@asynccontextmanager
async def connection(
    url: str,
    links: LinksConfig,
    compress: bool,
    name: str,
    handshakes: Handshakes,
    heard: Callable[[float], None] = lambda at: None,
) -> AsyncIterator[ClientConnection]:
    """An open websocket that notices a dead peer within seconds; the address is never logged: it may hold a key.

    Args:
        heard: Called once in a while with when the peer was heard last (monotonic seconds).

    Raises:
        LinkUnwanted: We are to stay away for a while.
        LinkDown: There is no way out.
    """
    if wait_s := handshakes.refused_for_s(url):
        raise LinkUnwanted(f"the exchange wants no stream of us for {wait_s:.0f} s", wait_s)
    try:
        proxy = proxy_of(url)
    except ProxyError as exc:
        raise LinkDown(str(exc)) from None
    opening = _Connect(
        url,
        proxy=proxy,
        happy_eyeballs_delay=_NEXT_ADDRESS_S,
        open_timeout=links.connect_timeout_s,
        ping_interval=None,
        close_timeout=links.close_timeout_s,
        compression="deflate" if compress else None,
        max_size=_MAX_FRAME,
        logger=None,
        create_connection=_Connection,
    )
    try:
        socket = cast(_Connection, await opening)
    except InvalidStatus as exc:
        headers = {name.title(): value for name, value in exc.response.headers.raw_items()}
        told_s = stay_away_s(exc.response.status_code, bytes(exc.response.body or b""), headers)
        if told_s is None:
            raise
        handshakes.refused(url, told_s)
        raise LinkUnwanted(f"{why_ended(exc)}, and none is wanted for {told_s:.0f} s", told_s) from None
    async with socket:
        beating = asyncio.create_task(_beat(socket, links, heard), name=f"ping[{name}]")
        try:
            yield socket
        finally:
            await ended(beating)


async def _beat(socket: _Connection, links: LinksConfig, heard: Callable[[float], None]) -> None:
    """Close a connection whose peer has gone quiet, and does not answer a ping in time. Whoever is heard is not asked.
    Where it is we who are late, on a busy machine or with very many accounts, an answer that has arrived counts. With
    the library's own pings it does not: they would end every connection at once, and each account would have to be read
    anew."""
    with suppress(ConnectionClosed):
        while True:
            heard(socket.heard)
            if (wait_s := socket.heard + links.ping_interval_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
                continue
            pong = asyncio.ensure_future(await socket.ping())
            await asyncio.wait({pong}, timeout=links.ping_timeout_s)
            if not pong.done():
                await socket.close(_NO_PONG, "keepalive ping timeout")
                return
            await pong


def why_ended(exc: BaseException) -> str:
    """Why a session ended, in one line that holds no address."""
    if isinstance(exc, LinkDown | ExchangeError | DecodeError):
        return str(exc)
    if isinstance(exc, InvalidProxyStatus):
        return f"the proxy answers HTTP {exc.response.status_code}"
    if isinstance(exc, InvalidStatus):
        return f"HTTP {exc.response.status_code} instead of a stream"
    if isinstance(exc, ConnectionClosed):
        frame = exc.rcvd or exc.sent
        return "connection lost" if frame is None else f"connection closed: {frame.code} {frame.reason}".strip()
    if isinstance(exc, OSError) and exc.strerror:
        return f"{type(exc).__name__}: {exc.strerror}"
    return type(exc).__name__
