"""One websocket: its requests, its outgoing frames, its life."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

OUTGOING_LIMIT = 20_000  # a reader this far behind is cut off, as the exchange does
MESSAGES_PER_SECOND = 10
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


@dataclass
class Limits:
    """Times of a connection, in seconds."""

    life_s: float = 86_400.0
    ping_s: float = 180.0
    pong_s: float = 600.0


class Connection:
    """A client's socket on one route of one host.

    Attributes:
        host: "fstream" or "dstream".
        route: "market", "private", "public", or "" for a URL without one.
        form: The private URL form, A to D.
        streams: Subscribed names; on the private route listen keys, each with its allow-list of events or None.
        ponged: Set once a ping of ours was answered.
        open: Cleared while the connection is half-open: it then neither reads nor writes.
    """

    def __init__(self, request: web.Request, host: str, route: str, form: str, combined: bool, limits: Limits) -> None:
        self.host = host
        self.route = route
        self.form = form
        self.combined = combined
        self.streams: dict[str, frozenset[str] | None] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.ended = False
        self.ponged = asyncio.Event()
        self._request = request
        self._limits = limits
        self._arrivals: deque[float] = deque(maxlen=MESSAGES_PER_SECOND + 1)
        self._out: asyncio.Queue[str | bytes] = asyncio.Queue(OUTGOING_LIMIT)
        self._ws = web.WebSocketResponse(autoping=False, autoclose=False, compress=True, timeout=1.0)

    @property
    def kinds(self) -> set[str]:
        """Its route; on dstream, which needs none, "market" or "private" or both by what is subscribed."""
        if self.route or self.host == "fstream":
            return {self.route}
        return {"market" if "@" in name or name.startswith("!") else "private" for name in self.streams}

    def send(self, frame: str | bytes) -> None:
        """Queue a frame; one for a half-open connection is lost."""
        if not self.open.is_set():
            return
        try:
            self._out.put_nowait(frame)
        except asyncio.QueueFull:
            self.abort()

    def send_event(self, stream: str, payload: str) -> None:
        """Queue an event, wrapped with its stream's name where the connection is a combined one."""
        self.send(f'{{"stream":{json.dumps(stream)},"data":{payload}}}' if self.combined else payload)

    def abort(self) -> None:
        """Cut the TCP connection, without a goodbye."""
        self.ended = True
        self.open.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> None:
        """Say goodbye: the exchange is going down."""
        self.ended = True
        self.open.set()
        with suppress(ConnectionError, RuntimeError):
            await self._ws.close(code=WSCloseCode.GOING_AWAY)

    async def run(self, joined: Callable[["Connection"], None]) -> web.WebSocketResponse:
        """Shake hands, then serve until either side ends it.

        joined: Told once the handshake is done, and again after each request: its streams may be others.
        """
        await self._ws.prepare(self._request)
        joined(self)
        writer = asyncio.create_task(self._write(), name="sim-writer")
        try:
            await self._read(joined)
        except ConnectionError:
            pass  # the client is gone; there is nobody to tell
        finally:
            self.ended = True
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return self._ws

    async def _write(self) -> None:
        with suppress(ConnectionError, RuntimeError):
            while True:
                frame = await self._out.get()
                if isinstance(frame, bytes):
                    await self._ws.send_bytes(frame)
                else:
                    await self._ws.send_str(frame)

    async def _read(self, joined: Callable[["Connection"], None]) -> None:
        started = last_pong = last_ping = monotonic()
        while not self.ended:
            now = monotonic()
            if now - started >= self._limits.life_s or now - last_pong >= self._limits.pong_s:
                await self._ws.close(code=WSCloseCode.GOING_AWAY)
                return
            if now - last_ping >= self._limits.ping_s:
                last_ping = now
                await self._ws.ping()
            wait_s = min(started + self._limits.life_s, last_ping + self._limits.ping_s) - now
            try:
                message = await self._ws.receive(timeout=max(wait_s, 0.001))
            except TimeoutError:
                message = None
            if not self.open.is_set():
                await self.open.wait()  # half-open: what was just read is lost
                continue
            if message is None:
                continue
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                await self._ws.close()
                return
            if self._too_many():
                await self._ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"Too many requests")
                return
            if message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            elif message.type is WSMsgType.PONG:
                last_pong = monotonic()
                self.ponged.set()
            elif message.type is WSMsgType.TEXT:
                self.send(json.dumps(self.answer(message.data), separators=(",", ":")))
                joined(self)

    def _too_many(self) -> bool:
        self._arrivals.append(monotonic())
        full = len(self._arrivals) > MESSAGES_PER_SECOND
        return full and self._arrivals[-1] - self._arrivals[0] < 1.0

    def answer(self, text: str) -> dict[str, Any]:
        """The reply to one request. A stream that does not exist, or not here, is acknowledged all the same."""
        try:
            request = json.loads(text)
        except ValueError:
            return {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"}
        method = request.get("method") if isinstance(request, dict) else None
        if method not in METHODS:
            expected = ", ".join(f"`{known}`" for known in METHODS)
            message = f"Invalid request: unknown variant `{method}`, expected one of {expected} at line 1 column 28"
            return {"code": 2, "msg": message}
        number, params = request.get("id"), request.get("params", [])
        if not isinstance(number, int) or number < 0 or not isinstance(params, list):
            return {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer, params a list"}
        result: Any = None
        if method == "SUBSCRIBE":
            self.streams |= {str(name): None for name in params}
        elif method == "UNSUBSCRIBE":
            for name in params:
                self.streams.pop(str(name), None)
        elif method == "LIST_SUBSCRIPTIONS":
            result = list(self.streams)
        elif params[:1] != ["combined"]:
            return {"code": 0, "msg": "Unknown property"}
        elif method == "GET_PROPERTY":
            result = self.combined
        elif len(params) != 2 or not isinstance(params[1], bool):
            return {"code": 1, "msg": "Invalid value type: expected Boolean"}
        else:
            self.combined = params[1]
        return {"result": result, "id": number}
