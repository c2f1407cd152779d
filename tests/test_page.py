"""The page's stream: all there is, then what changes, a beat, and nothing kept for who does not read."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from monitor.message import Message
from monitor.shell.hub import Hub
from monitor.shell.page import Page
from tests.rig import ROOT, until
from tests.test_http import WELL, serving
from tests.watched import Watched

BOOT = "0123456789abcdef"
POOL = "marginwatch/main/pool/cross-usdt"


pytestmark = pytest.mark.usefixtures("log")


def state(topic: str, **body: Any) -> Message:
    return Message(topic, json.dumps(body).encode() if body else b"", True, 1)


def event(number: int) -> Message:
    body = json.dumps({"event_id": str(number)}).encode()
    return Message("marginwatch/main/event/warning/margin_ratio", body, False, 1, event_id=str(number))


@asynccontextmanager
async def showing(hub: Hub, unread_s: float = 10) -> AsyncIterator[str]:
    """The page on loopback; gives its address."""
    page = Page(hub, Watched().core, lambda here: WELL, BOOT, unread_s)
    async with serving(routes=page.routes()) as address:
        yield address


class Reader:
    """A browser's end of the stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last_id = ""

    async def next(self, name: str) -> Any:
        """The data of the next event of this name."""
        async with asyncio.timeout(10):
            while True:
                found, data = await self._event()
                if found == name:
                    return data

    async def _event(self) -> tuple[str, Any]:
        name, data = "", None
        while line := (await self._response.content.readuntil(b"\n")).decode().rstrip("\n"):
            field, _, value = line.partition(": ")
            name = value if field == "event" else name
            data = json.loads(value) if field == "data" else data
            self.last_id = value if field == "id" else self.last_id
        return name, data


@asynccontextmanager
async def reading(url: str, last_id: str = "") -> AsyncIterator[Reader]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=2**25) as session,
        session.get(f"{url}/stream", headers=headers) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Reader(response)


async def test_a_browser_gets_all_there_is_and_then_what_changes() -> None:
    """Whoever opens the page must not wait for the next change to see anything."""
    hub = Hub()
    hub.put([state(POOL, margin_ratio=0.5), state("marginwatch/info", version="1"), event(1)])
    async with showing(hub) as url, reading(url) as browser:
        beat = await browser.next("beat")
        whole = await browser.next("whole")
        hub.put([state(POOL, margin_ratio=0.6), event(2)])
        hub.put([state("marginwatch/info")])
        change = await browser.next("change")

    assert (beat["status"], beat["levels"]["margin_ratio"][1]) == ("blind", {"at": 0.8, "severity": "warning"})
    assert whole == {
        "states": {POOL: {"margin_ratio": 0.5}, "marginwatch/info": {"version": "1"}},
        "events": [{"event_id": "1"}],
    }
    assert change == {
        "states": {POOL: {"margin_ratio": 0.6}, "marginwatch/info": None},
        "events": [{"event_id": "2"}],
    }


async def test_an_empty_board_is_told_too() -> None:
    """A daemon that has just started has nothing to show, and that is something to say."""
    async with showing(Hub()) as url, reading(url) as browser:
        assert await browser.next("whole") == {"states": {}, "events": []}


async def test_after_a_loss_only_what_was_missed_is_told() -> None:
    """A phone that wakes up asks for the minute it slept, not for everything."""
    hub = Hub()
    hub.put([state(POOL, margin_ratio=0.5), state("marginwatch/main/pool/isolated-btcusdt", margin_ratio=0.1)])
    async with showing(hub) as url:
        async with reading(url) as browser:
            await browser.next("whole")
        hub.put([state(POOL, margin_ratio=0.9), event(1)])
        async with reading(url, browser.last_id) as again:
            missed = await again.next("change")

    assert missed == {"states": {POOL: {"margin_ratio": 0.9}}, "events": [{"event_id": "1"}]}


@pytest.mark.parametrize(
    "last_id",
    ["fedcba9876543210.2", f"{BOOT}.99", f"{BOOT}.", f"{BOOT}.-1", f"{BOOT}.²", "nonsense", f"{BOOT}.{'9' * 5000}"],
    ids=["of-another-run", "not-yet", "no-number", "negative", "no-digit", "nonsense", "too-long"],
)
async def test_what_another_run_has_told_means_nothing_here(last_id: str) -> None:
    """A daemon that was started anew counts from one again: what it does not have must go from the page."""
    hub = Hub()
    hub.put([state(POOL, margin_ratio=0.5), event(1)])
    async with showing(hub) as url, reading(url, last_id) as browser:
        assert await browser.next("whole") == {"states": {POOL: {"margin_ratio": 0.5}}, "events": [{"event_id": "1"}]}


async def test_beats_come_while_nothing_changes() -> None:
    """Silence means that the daemon is gone, so a quiet market must not be silent."""
    async with showing(Hub()) as url, reading(url) as browser:
        first, second = await browser.next("beat"), await browser.next("beat")

    assert 1500 <= second["at_ms"] - first["at_ms"] <= 4000


async def test_a_browser_that_does_not_read_is_cut_off_and_costs_nothing() -> None:
    """What it does not take is not kept for it, and the others go on."""
    hub, loop = Hub(), asyncio.get_running_loop()
    hub.put([state(f"marginwatch/main/pool/{n}", text="x" * 100_000) for n in range(200)])
    async with showing(hub, unread_s=1.5) as url:
        port = int(url.rpartition(":")[2])
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await loop.sock_connect(slow, ("127.0.0.1", port))
            await loop.sock_sendall(slow, b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with reading(url) as browser:
                assert len((await browser.next("whole"))["states"]) == 200
                hub.put([event(1)])
                assert (await browser.next("change"))["events"] == [{"event_id": "1"}]
            await until(lambda: "200 OK" in slow.recv(200, socket.MSG_PEEK).decode(errors="replace"), "an answer")
            received = 0
            with suppress(ConnectionResetError):
                async with asyncio.timeout(10):
                    await asyncio.sleep(4)  # reads nothing, for longer than it may
                    while chunk := await loop.sock_recv(slow, 2**20):
                        received += len(chunk)
            assert received < 200 * 100_000


async def test_only_so_many_browsers_are_told() -> None:
    """A page that is left open in many tabs must not cost the watching anything."""
    async with showing(Hub()) as url, aiohttp.ClientSession() as session:
        answers = [await session.get(f"{url}/stream") for _ in range(17)]
        statuses = [answer.status for answer in answers]
        for answer in answers:
            answer.close()

    assert statuses == [200] * 16 + [503]


async def test_no_script_makes_markup_of_data() -> None:
    """Names come from an exchange, labels from a config: they are text."""
    scripts = {file.name: file.read_text("utf-8") for file in (ROOT / "monitor" / "web").glob("*.js")}
    risky = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|srcdoc")

    assert len(scripts) > 5
    assert {name: found for name, text in scripts.items() if (found := risky.findall(text))} == {}


async def test_the_files_come_with_a_policy_that_lets_nothing_else_in() -> None:
    """What the page shows comes from an exchange: if a name were ever a script, it must not run."""
    async with showing(Hub()) as url, aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            html, headers = await answer.text(), answer.headers
        async with session.get(f"{url}/page.js") as answer:
            script = answer.headers["Content-Type"]

    assert html.startswith("<!doctype html>")
    assert script == "text/javascript; charset=utf-8"
    policy = headers["Content-Security-Policy"].split("; ")
    wanted = ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'"]
    assert set(wanted) | {"frame-ancestors 'none'"} <= set(policy)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "<style" not in html
    assert "style=" not in html
