"""Private streams of several accounts over one connection, so that very many accounts need few.

    session ──► stream(key) ──► SharedConnection ──► SUBSCRIBE, UNSUBSCRIBE
            ◄── SharedStream ◄─┘ each frame to the one whose key it names

A session gets what a connection of its own would give it: its frames in order, and an end with a reason. An end of one
is no business of the others; an end of the connection is told to all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from msgspec import Struct
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from monitor.config import LinksConfig
from monitor.effects import INSTANCE
from monitor.errors import DecodeError, LinkCut, LinkDown, LinkUnwanted, innermost
from monitor.events import StreamControl
from monitor.recording import Secrets
from monitor.shell import logs
from monitor.shell.handshakes import Handshakes
from monitor.shell.tasks import ended
from monitor.shell.websocket import REQUEST_PAUSE_S, connection, why_ended
from monitor.venues import PrivateForm, Venue

T = TypeVar("T")

SHARED_FORM: PrivateForm = "subscribe"
"""The one way to open a private stream in which each frame says whose it is."""
_LINK: Final = "private"
_KEYS_PER_REQUEST = 50
_RETIRES_AT = 0.9
"""The part of its life after which a connection takes no more streams, and hands over those that it has."""


class SharedStream:
    """What comes of one account over a connection that it shares with others.

    Args:
        key: Of its private stream, a secret.
        outlived: Called once its connection should be changed for another.
        doubted: Called where something came that does not read, and may have been its own.
        heard: Called with when the other side was heard.
    """

    def __init__(
        self, key: str, outlived: Callable[[], None], doubted: Callable[[], None], heard: Callable[[float], None]
    ) -> None:
        self.key = key
        self.outlived = outlived
        self.doubted = doubted
        self.heard = heard
        self._frames: asyncio.Queue[bytes | BaseException] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._why: BaseException | None = None

    async def proved(self) -> None:
        """Wait until the exchange has answered the subscription: from then on all that happens is told.

        Raises:
            LinkDown: It refuses it, or has not answered in time.
            LinkCut, OSError: The connection has ended.
        """
        await self._answered.wait()
        self.check()

    async def recv(self) -> bytes:
        """The next frame, in its envelope.

        Raises:
            LinkDown, OSError: As for `proved`.
        """
        frame = await self._frames.get()
        if isinstance(frame, BaseException):
            raise frame
        return frame

    def check(self) -> None:
        """Raise what it has ended with."""
        if self._why is not None:
            raise self._why

    # ---- for its connection ----

    def take(self, raw: bytes) -> None:
        self._frames.put_nowait(raw)

    def subscribed(self) -> None:
        self._answered.set()

    def ends(self, why: BaseException) -> None:
        if self._why is None:
            self._why = why
            self._frames.put_nowait(why)
            self._answered.set()


class SharedStreams:
    """The shared connections to one host.

    Args:
        base: Where its private streams are.
    """

    def __init__(self, venue: Venue, base: str, links: LinksConfig, handshakes: Handshakes) -> None:
        self.venue = venue
        self.url = venue.shared_url(base)
        self.links = links
        self.handshakes = handshakes
        self.log = logs.logger()
        self.bad_frames = 0
        self.strays = 0
        self._connections: list[_SharedConnection] = []

    @asynccontextmanager
    async def stream(
        self, key: str, outlived: Callable[[], None], doubted: Callable[[], None], heard: Callable[[float], None]
    ) -> AsyncIterator[SharedStream]:
        """A stream of this key, on the fullest connection that has room, or on a new one."""
        stream = SharedStream(key, outlived, doubted, heard)
        shared = self._with_room(key)
        shared.join(stream)
        try:
            await shared.opened.wait()
            stream.check()
            yield stream
        finally:
            await shared.leave(stream)

    def _with_room(self, key: str) -> _SharedConnection:
        fitting = [shared for shared in self._connections if shared.takes(key)]
        if fitting:
            return max(fitting, key=lambda shared: len(shared.streams))
        shared = _SharedConnection(self)
        self._connections.append(shared)
        shared.task.add_done_callback(lambda _: self._connections.remove(shared))
        return shared


class _Request(Struct):
    """A request that is not answered yet, and for which streams it asks; none where it takes some away."""

    streams: list[SharedStream]
    patience: asyncio.TimerHandle


class _SharedConnection:
    """One connection, from its handshake to its end; it ends with its last stream.

    Attributes:
        streams: By key; a key is here at most once, so that a fresh stream of it gets a connection that is fresh, too.
        opened: Set once it is open, or over.
        task: What runs it.
    """

    def __init__(self, shared: SharedStreams) -> None:
        self.streams: dict[str, SharedStream] = {}
        self.opened = asyncio.Event()
        self._shared = shared
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._changes: dict[SharedStream, asyncio.TimerHandle] = {}
        self._left: set[str] = set()
        self._wanted = asyncio.Event()
        self._leaving: list[str] = []
        self._joining: list[SharedStream] = []
        self._alone: list[SharedStream] = []
        self._requests: dict[int, _Request] = {}
        self._last_id = 0
        self._strays = 0
        self._doubted = -shared.links.reconcile_s
        self.task = asyncio.create_task(self._run(), name=f"shared[{_LINK}]")

    # ---- streams come and go ----

    def takes(self, key: str) -> bool:
        """Whether a stream of this key may join."""
        links = self._shared.links
        is_young = self._loop.time() < self._born + _RETIRES_AT * links.connection_life_s
        has_room = len(self.streams) < links.accounts_per_connection
        return is_young and has_room and key not in self.streams and not self._is_over

    def join(self, stream: SharedStream) -> None:
        """Subscribe soon. Streams are changed for others at different times, so that not all are read anew at once."""
        life_s = self._shared.links.connection_life_s * random.uniform(_RETIRES_AT, 1)
        self._changes[stream] = self._loop.call_at(self._born + life_s, stream.outlived)
        self.streams[stream.key] = stream
        self._left.discard(stream.key)
        self._joining.append(stream)
        self._wanted.set()

    async def leave(self, stream: SharedStream) -> None:
        self._changes.pop(stream).cancel()
        del self.streams[stream.key]
        self._left.add(stream.key)
        for waiting in (self._joining, self._alone):
            if stream in waiting:
                waiting.remove(stream)
        self._leaving.append(stream.key)
        self._wanted.set()
        if not self.streams:
            self._is_over = True
            await ended(self.task)

    # ---- its life ----

    async def _run(self) -> None:
        links = self._shared.links
        try:
            async with (
                connection(
                    self._shared.url,
                    links,
                    links.compression,
                    f"shared {_LINK}",
                    self._shared.handshakes,
                    self._heard,
                ) as socket,
                asyncio.TaskGroup() as tasks,
            ):
                self.opened.set()
                tasks.create_task(self._ask(socket), name=f"subscribe[shared {_LINK}]")
                await self._read(socket)
        except* Exception as group:  # whatever it is, a bug too, it is each stream's end
            for stream in self.streams.values():
                stream.ends(_end(innermost(group)))
        finally:
            self._is_over = True
            for request in self._requests.values():
                request.patience.cancel()
            self.opened.set()

    def _heard(self, at: float) -> None:
        for stream in self.streams.values():
            stream.heard(at)

    async def _ask(self, socket: ClientConnection) -> None:
        """Keep the subscriptions in step with the streams."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._leaving or self._alone or self._joining:
                if self._leaving:  # first: a key may leave and join again
                    await self._send(socket, False, _taken(self._leaving, _KEYS_PER_REQUEST))
                else:
                    streams = _taken(self._alone, 1) or _taken(self._joining, _KEYS_PER_REQUEST)
                    await self._send(socket, True, [stream.key for stream in streams], streams)
                await asyncio.sleep(REQUEST_PAUSE_S)  # what comes meanwhile is asked in one

    async def _send(
        self, socket: ClientConnection, add: bool, keys: list[str], streams: Iterable[SharedStream] = ()
    ) -> None:
        self._last_id = number = self._last_id + 1
        patience_s = self._shared.links.first_frame_s
        unanswered = self._loop.call_later(patience_s, self._conclude, number, f"not answered within {patience_s:g} s")
        self._requests[number] = _Request([*streams], unanswered)
        await socket.send(self._shared.venue.subscription(add, keys, number))

    def _conclude(self, number: int, refusal: str) -> None:
        """An acknowledgement proves that the exchange has heard of it, as a pong does, and no more. Of several streams
        that are refused each is asked for alone: what is wrong with one is not to harm the others."""
        request = self._requests.pop(number, None)
        if request is None:
            return
        request.patience.cancel()
        streams = [stream for stream in request.streams if self.streams.get(stream.key) is stream]
        if not refusal:
            for stream in streams:
                stream.subscribed()
        elif len(request.streams) > 1:
            self._alone += streams
            self._wanted.set()
        elif streams:
            streams[0].ends(LinkDown(f"subscription {refusal}"))

    async def _read(self, socket: ClientConnection) -> None:
        addressee = self._shared.venue.addressee
        while True:
            raw = await socket.recv(decode=False)
            try:
                found = addressee(raw)
            except DecodeError:
                self._drop(raw)
                continue
            if isinstance(found, str):
                if (stream := self.streams.get(found)) is not None:
                    stream.take(raw)
                elif found not in self._left:
                    self._count_stray()
            elif isinstance(found, StreamControl):
                raise LinkDown(found.note)
            elif self._requests:
                number = min(self._requests) if found.request_id is None else found.request_id
                self._conclude(number, "" if found.error is None else f"refused: {found.error}")

    # ---- what is nobody's ----

    def _drop(self, raw: bytes) -> None:
        """Log a frame that does not say whose it is, without a key. What it said may concern any of the accounts: they
        are compared with the exchange, which is not to cost more the more such frames there are."""
        shared = self._shared
        shared.bad_frames += 1
        try:
            shared.venue.addressee(Secrets([*self.streams, *self._left]).removed(raw, _LINK))
            error = "the name of its stream does not read"
        except DecodeError as exc:
            error = str(exc)
        shared.log.warning("frame dropped", account=INSTANCE, link=_LINK, count=shared.bad_frames, error=error)
        if self._loop.time() >= self._doubted + shared.links.reconcile_s:
            self._doubted = self._loop.time()
            for stream in self.streams.values():
                stream.doubted()

    def _count_stray(self) -> None:
        """A stream that was never asked for here; its name may be a key, and is not shown."""
        self._shared.strays += 1
        self._strays += 1
        if self._strays == 1:
            self._shared.log.warning(
                "frame of an unknown stream ignored", account=INSTANCE, link=_LINK, count=self._shared.strays
            )


def _end(why: BaseException) -> BaseException:
    """What a stream ends with when its connection does; what is no fault of either side, or a bug, stays what it is."""
    is_cut = isinstance(why, LinkDown | WebSocketException) and not isinstance(why, LinkUnwanted)
    return LinkCut(why_ended(why)) if is_cut else why


def _taken(waiting: list[T], most: int) -> list[T]:
    """The first of a list, which it then has no more."""
    taken = waiting[:most]
    del waiting[:most]
    return taken
