"""The proxy that the environment names: taken where it can be, refused in words that hold nothing of its password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from monitor.config import LinksConfig
from monitor.config_values import HiddenUrl
from monitor.errors import ExchangeError, LinkDown, ProxyError
from monitor.shell.handshakes import Handshakes
from monitor.shell.heartbeat import Heartbeat
from monitor.shell.proxies import proxy_of
from monitor.shell.rest import Budget, Rest
from monitor.shell.websocket import connection, why_ended
from monitor.venues import VENUES, Hosts

PASSWORD = "0a1b-s3cr3t"
EXCHANGE = Hosts("https://fapi.example", "wss://fstream.example", "wss://fstream.example", "https://api.example")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for scheme in ("http", "https", "socks", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_PROXY".upper(), raising=False)
    return monkeypatch


@asynccontextmanager
async def refusing() -> AsyncIterator[int]:
    """A proxy that wants another password. Gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "address", ["https://fapi.example/x", "wss://fstream.example/private/ws", "https://[2001:db8::1]"]
)
def test_streams_and_requests_go_the_same_way(address: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@proxy.example:3128/")

    assert proxy_of(address) == f"http://me:{PASSWORD}@proxy.example:3128/"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8123/api/webhook",
        "https://localhost",
        "ws://[::1]:8080",
        "https://named.example:8443",
        "wss://below.internal.example",
    ],
)
def test_this_machine_and_what_is_exempted_are_reached_directly(address: str, environment: pytest.MonkeyPatch) -> None:
    """What a proxy calls by our own names is itself."""
    environment.setenv("http_proxy", "http://proxy.example:3128")
    environment.setenv("https_proxy", "http://proxy.example:3128")
    environment.setenv("no_proxy", "named.example,.internal.example")

    assert proxy_of(address) is None


def test_without_a_proxy_there_is_none() -> None:
    assert proxy_of("https://fapi.example") is None


@pytest.mark.parametrize(
    "proxy",
    [
        f"socks5://me:{PASSWORD}@proxy.example:1080",
        f"https://me:{PASSWORD}@proxy.example:3128",
        f"me:{PASSWORD}@proxy.example:3128",
        "proxy.example:3128",
        f"http://me:{PASSWORD}/more@proxy.example:3128",
        f"http://me:{PASSWORD}#more@proxy.example:3128",
        "http://me@proxy.example:3128",
        f"http://me:{PASSWORD}@[proxy.example:3128",
        "http://",
    ],
)
async def test_what_cannot_be_taken_is_refused_alike_and_without_the_password(
    proxy: str, environment: pytest.MonkeyPatch
) -> None:
    """One library would go past it, another would speak HTTP to it, and a third would end the daemon."""
    environment.setenv("https_proxy", proxy)
    rest = Rest(EXCHANGE, Budget(100_000), 2)

    with pytest.raises(ProxyError) as of_all:
        proxy_of("https://fapi.example")
    with pytest.raises(LinkDown) as of_stream:
        async with connection(
            EXCHANGE.market_url, LinksConfig(), compress=False, name="market", handshakes=Handshakes()
        ):
            pass
    with pytest.raises(ExchangeError) as of_rest:
        await rest.ask(VENUES["binance-usdm"].requests.time)
    await rest.close()

    said = str(of_all.value)
    assert "http://HOST:PORT" in said
    assert ("SOCKS" in said) == proxy.startswith("socks")
    assert PASSWORD not in said
    assert why_ended(of_stream.value) == said
    assert str(of_rest.value) == f"GET /fapi/v1/time: {said}"


async def test_a_proxy_that_lets_nobody_through_is_named(environment: pytest.MonkeyPatch) -> None:
    async with refusing() as port:
        environment.setenv("https_proxy", f"http://me:{PASSWORD}@127.0.0.1:{port}")
        rest = Rest(EXCHANGE, Budget(100_000), 2)
        with pytest.raises(ExchangeError) as of_rest:
            await rest.ask(VENUES["binance-usdm"].requests.time)
        await rest.close()
        with pytest.raises(Exception, match="407") as of_stream:
            async with connection(
                EXCHANGE.market_url, LinksConfig(), compress=False, name="market", handshakes=Handshakes()
            ):
                pass

    assert str(of_rest.value) == "GET /fapi/v1/time: the proxy answers HTTP 407"
    assert why_ended(of_stream.value) == "the proxy answers HTTP 407"


async def test_credentials_for_other_tools_go_nowhere(
    environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What ~/.netrc has for any host is no business of an exchange's, nor of a ping service's."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text(f"default login me password {PASSWORD}\n", "utf-8")
    environment.setenv("NETRC", str(netrc))
    asked: list[bytes] = []
    pinged = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()
        if asked[-1].startswith(b"GET /ping"):
            pinged.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        rest = Rest(Hosts(base, base, base, base), Budget(100_000), 2)
        await rest.ask(VENUES["binance-usdm"].requests.time)
        await rest.close()
        heartbeat = Heartbeat(HiddenUrl.of(f"{base}/ping"), 60)
        running = asyncio.create_task(heartbeat.run())
        heartbeat.ticked(())
        await asyncio.wait_for(pinged.wait(), 10)
        running.cancel()

    assert len(asked) == 2
    assert not any(b"authorization" in head.lower() for head in asked)
