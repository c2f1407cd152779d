"""The HTTP server: who is answered, and that nobody who calls can hurt the watching."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec import structs

from monitor.config import HttpConfig, parse
from monitor.config_values import Listen, Secret
from monitor.errors import ConfigError
from monitor.events import LinkState, Tick
from monitor.liveness import DaemonState, health, readiness
from monitor.rules import DEFAULTS, DataStaleRule, RuleBook, Severity, Step
from monitor.shell import settings
from monitor.shell.http import HttpServer, Route, as_json
from tests import stories
from tests.rig import Listener, Mosquitto, eventually, free_port, private_file, until, watching, write_config
from tests.watched import D, Watched, row

TOKEN = "0123456789abcdef0123456789abcdef"


async def told(request: web.Request) -> web.Response:
    return as_json({"told": True})


async def fails(request: web.Request) -> web.Response:
    raise RuntimeError("a page that is broken")


async def streams(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.2)


ROUTES = (
    Route("/", told),
    Route("/open", told, is_open=True),
    Route("/fails", fails),
    Route("/stream", streams, is_stream=True),
)


@asynccontextmanager
async def serving(
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    port: int | None = None,
    answers: bool = True,
    routes: Sequence[Route] = ROUTES,
) -> AsyncIterator[str]:
    """A server on loopback; gives its address."""
    port = port or free_port()
    server = HttpServer(HttpConfig(Listen("127.0.0.1", port), hosts=hosts), token, routes)
    task = asyncio.create_task(server.run())
    try:
        if answers:
            await until(lambda: is_open(port), "the server listens")
        yield f"http://127.0.0.1:{port}"
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def get(url: str, **headers: str) -> tuple[int, str]:
    status, body, _ = await answer(url, **headers)
    return status, body


async def answer(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()}) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ---- who is answered ----


async def test_without_a_token_only_names_of_this_machine_are_answered() -> None:
    """A web page can have its own name point to 127.0.0.1, and would then read our answers as its own."""
    async with serving(hosts=("risk.example.org",)) as url:
        port = url.rpartition(":")[2]
        for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST:80", "risk.example.org"):
            assert (await get(url, Host=host))[0] == 200, host
        for host in ("evil.example.org", f"evil.example.org:{port}", "127.0.0.1.evil.example.org", "", "[", "a@b"):
            assert (await get(url, Host=host))[0] == 421, host


@pytest.mark.parametrize(
    "presented",
    ["", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Token {TOKEN}", "Basic ###", "Bearer é", "Basic w6k="],
)
async def test_a_token_that_is_missing_or_wrong_is_refused(presented: str, log: io.StringIO) -> None:
    """Whatever its shape; and the log says so without it."""
    async with serving(TOKEN) as url:
        status, body, headers = await answer(url, Authorization=presented)

    assert status == 401
    assert "told" not in body
    assert headers["WWW-Authenticate"].startswith("Basic ")
    assert json.loads(log.getvalue().splitlines()[-1])["event"] == "http caller refused"
    assert TOKEN[:-1] not in log.getvalue()


async def test_the_right_token_is_taken_from_programs_and_from_browsers() -> None:
    """Bearer is what Prometheus sends, Basic what a browser asks its user for; by which name plays no part."""
    async with serving(TOKEN) as url:
        for presented in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("", TOKEN), basic("anybody", TOKEN)):
            assert (await get(url, Authorization=presented, Host="risk.example.org"))[0] == 200, presented
        assert (await get(f"{url}/open"))[0] == 200


async def test_pages_of_other_sites_are_refused() -> None:
    """They cannot read the answer, but they could have us work for it."""
    async with serving() as url:
        assert (await get(url, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"))[0] == 403
        assert (await get(url, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))[
            0
        ] == 200  # a link that is followed
        assert (await get(url, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors"))[0] == 200


async def test_every_answer_is_dressed() -> None:
    """Nothing is cached, framed, guessed, or told of the software."""
    async with serving() as url:
        for path in ("/", "/nowhere", "/fails"):
            _, _, headers = await answer(url + path)
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert (headers["Server"], headers["Connection"]) == ("marginwatch", "close")


async def test_only_get_is_known() -> None:
    """Nothing here changes anything."""
    async with serving() as url, aiohttp.ClientSession() as session:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with session.request(method, url) as response:
                assert response.status == 405


async def test_a_page_that_fails_is_logged_and_ends_nothing(log: io.StringIO) -> None:
    """A mistake in a page must not cost the watching."""
    async with serving() as url:
        assert (await get(f"{url}/fails"))[0] == 500
        assert (await get(url))[0] == 200

    assert "a page that is broken" in log.getvalue()


# ---- callers who mean harm ----


def connect(url: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 1)
    connection.setblocking(False)
    return connection


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_who_says_nothing_or_says_it_slowly_is_cut_off() -> None:
    """Connections that are held open would use up what the links to the exchange need."""
    async with serving() as url:
        silent, slow = connect(url), connect(url)
        with closing(silent), closing(slow):

            def drip() -> bool:
                with suppress(OSError):
                    slow.send(b"G")
                return is_cut(silent) and is_cut(slow)

            await until(drip, "both are cut off", 20)


async def test_more_connections_than_a_few_are_hung_up_on_and_others_are_answered_again(log: io.StringIO) -> None:
    """However many there are, our own files and sockets stay free."""
    async with serving() as url:
        held = []
        for _ in range(90):
            held.append(connect(url))
            await asyncio.sleep(0.005)
        await until(lambda: sum(map(is_cut, held)) >= 90 - 64, "those above 64 are hung up on")
        assert sum(map(is_cut, held)) <= 90 - 60
        for connection in held:
            connection.close()

        async def answers() -> bool:
            with suppress(aiohttp.ClientError):
                return (await get(url))[0] == 200
            return False

        await eventually(answers, "others are answered again")

    assert "too many connections" in log.getvalue()


async def test_a_flood_of_requests_does_not_hold_up_the_loop() -> None:
    """A tick that has to wait is an alert that comes late."""
    async with serving() as url:
        port = int(url.rpartition(":")[2])
        ends = time.monotonic() + 1.5
        late = []

        def flood() -> int:
            sent = 0
            while time.monotonic() < ends:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
                    sent += 1
            return sent

        flooding = [asyncio.create_task(asyncio.to_thread(flood)) for _ in range(2)]
        while time.monotonic() < ends:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - due)
        assert sum(await asyncio.gather(*flooding)) > 10  # the kernel turns the rest away

    assert sorted(late)[len(late) // 2] < 0.05


async def test_a_header_without_end_and_garbage_are_refused() -> None:
    """What is no request costs no memory."""
    async with serving() as url:
        for sent in (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"\x16\x03\x01\x00\xff" * 1000):
            with closing(connect(url)) as connection:
                with suppress(OSError):
                    connection.sendall(sent)

                async def is_over(connection: socket.socket = connection) -> bool:
                    return is_cut(connection)

                await eventually(is_over, "it is cut off")


async def test_a_stream_lasts_longer_than_other_answers_and_only_a_few_are_given() -> None:
    """A page that follows what happens stays open; a hundred of them would take the place of all others."""
    async with serving() as url, aiohttp.ClientSession() as session:
        responses = [await session.get(f"{url}/stream") for _ in range(17)]
        assert [r.status for r in responses] == [200] * 16 + [503]
        began = time.monotonic()
        while time.monotonic() - began < 12:
            assert await responses[0].content.read(1) == b"x"
        for response in responses:
            response.close()

        async def answers() -> bool:
            async with session.get(f"{url}/stream") as response:
                return response.status == 200

        await eventually(answers, "a stream is given again once others have ended")


async def test_a_port_that_is_taken_is_said_loudly_and_tried_again(log: io.StringIO) -> None:
    """The watching does not depend on it; and whoever frees the port need not restart us."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with serving(port=port, answers=False) as url:
            await until(lambda: "http not listening" in log.getvalue(), "it is said")
            taken.close()

            async def answers() -> bool:
                with suppress(aiohttp.ClientError):
                    return (await get(url))[0] == 200
                return False

            await eventually(answers, "it listens after all")

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["level"], line["event"].split(",")[0]) for line in lines] == [
        ("error", "http not listening"),
        ("info", "http listening"),
    ]
    assert "free the port" in lines[0]["remedy"]


# ---- the config ----


ACCOUNT = {"name": "main", "venue": "binance-usdm", "api_key": "env:KEY", "secret": "env:SECRET"}


def http(**keys: object) -> HttpConfig:
    return parse([("config.toml", {"account": [ACCOUNT], "http": keys})]).http


def test_addresses_are_read() -> None:
    """Of both families, and by name."""
    assert http(listen="127.0.0.1:8787").listen == Listen("127.0.0.1", 8787)
    assert str(http(listen="[::1]:8787").listen) == "[::1]:8787"
    assert http(listen="localhost:1").listen == Listen("localhost", 1)
    assert http().listen is None


@pytest.mark.parametrize("wrong", ["8787", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ":8787", "http://a:1", 8787])
def test_what_is_no_address_is_a_mistake_with_an_example(wrong: object) -> None:
    """Whoever configures copies it."""
    with pytest.raises(ConfigError, match=r'listen: must be an address and a port, such as "127.0.0.1:8787"'):
        http(listen=wrong)


@pytest.mark.parametrize("listen", ["0.0.0.0:8787", "[::]:8787", "192.168.1.2:8787", "vps1:8787"])
def test_beyond_loopback_a_token_is_needed(listen: str) -> None:
    """Positions are nobody else's business, and no default may show them."""
    with pytest.raises(ConfigError, match=r"\[http\] token: is missing; .* credential:http_token, or listen on 127"):
        http(listen=listen)

    assert http(listen=listen, token="env:TOKEN").token == Secret("env", "TOKEN")


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    """One that can be found by trying is none; the message does not repeat it."""
    short = private_file(tmp_path / "token", "hunter2")
    config = parse([("config.toml", {"account": [ACCOUNT], "http": {"token": f"file:{short}"}})])

    with pytest.raises(ConfigError) as raised:
        settings.fetch(config, {"KEY": "k", "SECRET": "s"})

    assert "has less than 16 characters; `openssl rand -hex 16`" in str(raised.value)
    assert "hunter2" not in str(raised.value)


# ---- of the daemon ----


async def test_health_and_readiness_of_a_daemon_that_sees_and_of_one_that_is_blind(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Alive is one thing, seeing another: a lost link is told of, so nothing is stuck, but nothing can be relied on."""
    port = free_port()
    server = {"listen": f"127.0.0.1:{port}"}
    url = f"http://127.0.0.1:{port}"
    async with (
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, http=server)),
    ):

        async def said(path: str, status: int, word: str) -> dict[str, Any]:
            with suppress(aiohttp.ClientError):
                got, body = await get(f"{url}{path}")
                found: dict[str, Any] = json.loads(body)
                return found if (got, found["status"]) == (status, word) else {}
            return {}

        ready = await eventually(lambda: said("/readyz", 200, "ready"), "it is ready")
        assert ready["reasons"] == []
        assert {(link["account"], link["link"]): link["state"] for link in ready["links"]} == {
            ("_instance", "market-binance-usdm-custom"): "live",
            ("main", "private"): "live",
            ("main", "rest"): "live",
        }
        await exchange.kill()
        await listener.event("data_stale", "opened", subject="private")
        blind = await eventually(lambda: said("/readyz", 503, "blind"), "it is blind")
        assert "main private: no data" in blind["reasons"]
        assert await said("/healthz", 200, "ok")
        await exchange.start()
        await eventually(lambda: said("/readyz", 200, "ready"), "it sees again")


async def test_the_watching_begins_though_the_port_is_taken(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A page that nobody can open is a nuisance; positions that nobody watches are money."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        async with (
            stories.exchange() as exchange,
            watching(write_config(tmp_path / "d", exchange, broker.port, http=server)) as log,
        ):
            await listener.state("marginwatch/main/pool/cross-usdt", freshness="live")
            exchange.set_mark("BTCUSDT", "48240")
            await listener.event("margin_ratio", "opened")

    assert "http not listening" in log.getvalue()


WELL = DaemonState(
    tick_age_s=1.2,
    is_settled=True,
    broker_away_s=0,
    is_broker_missed=False,
    is_broker_connected=True,
    waiting_messages=0,
    waiting_events=0,
    oldest_event_age_s=0,
    is_store_usable=True,
    is_heartbeat_heard=None,
)


def test_a_core_without_ticks_is_stuck_and_ready_for_nothing() -> None:
    """The loop may turn and answer while the watching hangs: that is what a liveness probe is for."""
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(2, "60000")

    assert health(core.core, WELL, core.now)["status"] == "ok"
    assert readiness(core.core, WELL, core.now)["status"] == "ready"
    assert readiness(core.core, structs.replace(WELL, is_settled=False), core.now)["status"] == "starting"
    assert readiness(core.core, structs.replace(WELL, is_broker_missed=True), core.now)["reasons"] == ["broker away"]
    assert health(core.core, structs.replace(WELL, tick_age_s=10.1), core.now)["status"] == "stuck"
    assert readiness(core.core, structs.replace(WELL, tick_age_s=10.1), core.now)["status"] == "stuck"


def test_health_names_nobody() -> None:
    """It is answered without a token."""
    late = DataStaleRule(steps=(Step(D(600), D(4), Severity.WARNING),))
    core = Watched(rules=RuleBook({**DEFAULTS, "data_stale": late}))
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.step(core.link("private", LinkState.DOWN), Tick())
    core.hold(30, "60000")
    said = health(core.core, WELL, core.now)

    assert said["status"] == "stuck"
    assert "main" not in json.dumps(said)
