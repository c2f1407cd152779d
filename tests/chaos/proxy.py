"""A TCP proxy that can do to a connection what networks do: cut it, freeze it, slow it down, leave it half open."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: what is closed is reset."""


class Proxy:
    """Forwards each connection to a port of the loopback interface.

    Args:
        target: Where to; asked anew for each connection.
        watch: Shown everything that clients send, before it goes on.
        chunk: So many bytes go on at once, at most.

    Attributes:
        delay_s: How long each piece of data is held back.
        refusing: New connections are cut at once.
        answer: Looks at the first bytes of a new connection. What it gives is answered instead of forwarding; None: no.
    """

    def __init__(
        self, target: Callable[[], int], watch: Callable[[bytes], None] | None = None, chunk: int = _CHUNK
    ) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.refusing = False
        self.answer: Callable[[bytes], bytes | None] | None = None
        self._target = target
        self._watch = watch
        self._chunk = chunk
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pipes: set[_Pipe] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    @property
    def connections(self) -> int:
        return len(self._pipes)

    async def cut(self) -> None:
        """End all connections with a reset."""
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cut()
        await asyncio.gather(*(pipe.task for pipe in pipes), return_exceptions=True)

    def freeze(self) -> None:
        """Nothing passes, not even an end; what is sent meanwhile comes later. New connections open, and hang."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def half_open(self) -> None:
        """The connections of now stay open and lose everything that is sent; new ones are sound."""
        for pipe in self._pipes:
            pipe.lost = True

    def mend(self) -> None:
        """All is well again, but for half-open connections."""
        self.delay_s = 0.0
        self.refusing = False
        self.answer = None
        self.thaw()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = _Pipe(writer)
        self._pipes.add(pipe)
        pipe.task = asyncio.create_task(self._serve(pipe, reader, writer), name="proxy")

    async def _serve(self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                return
            await self._flowing.wait()
            first = b""
            if self.answer is not None:
                first = await reader.read(_CHUNK)
                if (answer := self.answer(first)) is not None:
                    writer.write(answer)
                    await writer.drain()
                    return
            there, onward = await asyncio.open_connection("127.0.0.1", self._target())
            pipe.ends.append(onward)
            onward.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(pipe, reader, onward, self._watch))
                both.create_task(self._pump(pipe, there, writer, None))
        except* OSError:
            pass  # one side is gone, and the other will see it
        finally:
            pipe.close()
            self._pipes.discard(pipe)

    async def _pump(
        self,
        pipe: _Pipe,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        watch: Callable[[bytes], None] | None,
    ) -> None:
        while data := await reader.read(self._chunk):
            if watch is not None:
                watch(data)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._flowing.wait()
            if not pipe.lost:
                writer.write(data)
                await writer.drain()
        await self._flowing.wait()
        if pipe.lost:
            await asyncio.Event().wait()  # nobody learns of the end
        with suppress(OSError, RuntimeError):
            writer.write_eof()


class _Pipe:
    """One connection through the proxy."""

    task: asyncio.Task[None]

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.lost = False

    def close(self) -> None:
        for end in self.ends:
            end.close()

    def cut(self) -> None:
        for end in self.ends:
            if not end.transport.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()
        self.task.cancel()
