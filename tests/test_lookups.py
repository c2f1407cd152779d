"""Names that nobody answers for: what needs none of them goes on."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from monitor.config import LinksConfig
from monitor.shell.handshakes import Handshakes
from monitor.shell.lookups import Loop
from monitor.shell.websocket import connection
from tests.rig import free_port, until

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443))]


class NameServer:
    """One that hangs until it is told otherwise.

    Attributes:
        asked: Every question that has reached it.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers = threading.Event()

    def look_up(self, host: str, *rest: Any) -> list[Any]:
        self.asked.append(host)
        assert self.answers.wait(20)
        if host.startswith("no-such"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND


@contextmanager
def hanging() -> Iterator[tuple[NameServer, asyncio.Runner]]:
    server = NameServer()
    with asyncio.Runner(loop_factory=lambda: Loop(look_up=server.look_up)) as runner:
        try:
            yield server, runner
        finally:
            server.answers.set()


async def ask(*names: str) -> list[asyncio.Task[Any]]:
    asking = [asyncio.create_task(asyncio.get_running_loop().getaddrinfo(name, 443)) for name in names]
    await asyncio.sleep(0)
    return asking


def test_names_that_hang_hold_up_nothing_else() -> None:
    """Of the threads that are there for everything, the broker beside us needs one to be connected to."""

    async def go() -> int:
        await ask(*(f"exchange-{number}.example" for number in range(40)))
        async with asyncio.timeout(10):
            return await asyncio.to_thread(os.getpid)

    with hanging() as (_, runner):
        assert runner.run(go()) == os.getpid()


def test_nobody_waits_at_the_end_for_what_still_waits_in_a_thread() -> None:
    """The library that speaks to the broker looks its name up in one; a stop would take as long as that hangs."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(10)
        ended.set()

    async def go() -> None:
        connecting = asyncio.create_task(asyncio.to_thread(hang))
        await until(begun.is_set, "it waits in its thread")
        connecting.cancel()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(go())
    is_over = ended.is_set()
    release.set()

    assert not is_over


def test_a_name_that_many_ask_for_is_looked_up_once() -> None:
    async def go() -> list[Any]:
        asking = await ask(*["exchange.example"] * 1000)
        asking[0].cancel()
        server.answers.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    with hanging() as (server, runner):
        first, *others = runner.run(go())

    assert isinstance(first, asyncio.CancelledError)
    assert others == [FOUND] * 999
    assert server.asked == ["exchange.example"]


def test_a_name_that_is_not_known_is_asked_for_again() -> None:
    async def go() -> None:
        server.answers.set()
        for _ in range(2):
            for answer in await asyncio.gather(*await ask(*["no-such.example"] * 2), return_exceptions=True):
                assert isinstance(answer, socket.gaierror)

    with hanging() as (server, runner):
        runner.run(go())

    assert len(server.asked) == 2


def test_an_answer_that_nobody_waits_for_any_more_harms_nobody() -> None:
    remarks: list[dict[str, Any]] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: remarks.append(context))
        [asking] = await ask("no-such.example")
        asking.cancel()
        await asyncio.wait({asking})
        server.answers.set()
        for answer in await asyncio.gather(*await ask("no-such.example"), return_exceptions=True):
            assert isinstance(answer, socket.gaierror)

    with hanging() as (server, runner):
        runner.run(go())

    assert not remarks


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_names_are_found_as_ever(name: str) -> None:
    async def go() -> list[Any]:
        return await asyncio.get_running_loop().getaddrinfo(name, 80, type=socket.SOCK_STREAM)

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(go()) == socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)


@contextmanager
def swallowing(port: int) -> Iterator[str]:
    """An address whose connections are neither accepted nor refused, as behind a router that drops them."""
    with ExitStack() as open_ones:
        door = open_ones.enter_context(socket.socket())
        door.bind(("127.0.0.2", port))
        door.listen(0)
        for _ in range(4):  # whoever has been let in fills it, and nobody is called further
            waiting = open_ones.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield "127.0.0.2"


def test_an_address_that_swallows_everything_keeps_nobody_from_the_next() -> None:
    """A name has several, of which one may lead nowhere, as where IPv6 is broken: it would be tried first each time,
    until the time for all of them is over, and the stream would be away for good."""
    port = free_port()

    async def greet(socket: ServerConnection) -> None:
        await socket.send("hello")

    def look_up(*_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in (dead, "127.0.0.1")]

    async def go() -> bytes:
        async with serve(greet, "127.0.0.1", port):
            links = LinksConfig(connect_timeout_s=10)
            async with connection(f"ws://exchange.example:{port}/ws", links, False, "test", Handshakes()) as stream:
                return await stream.recv(decode=False)

    with swallowing(port) as dead, asyncio.Runner(loop_factory=lambda: Loop(look_up=look_up)) as runner:
        assert runner.run(go()) == b"hello"
