"""What docs/notifications.md says, run as it stands there: only addresses are put in the place of the examples'."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests import stories
from tests.mqttwarn import MQTTWARN, Mqttwarn
from tests.rig import ROOT, Listener, Mosquitto, eventually, free_port, until, watching, write_config

PAGE = (ROOT / "docs" / "notifications.md").read_text("utf-8")
[INI] = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PRIVATE = {"amounts": False}
SLOW_S = 30.0


def needs(*tools: str) -> None:
    """Skip where a tool is missing; where everything has to be tested, fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)} not installed, and CI has to run what the page says")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


class Ntfy:
    """A server that takes what ntfy takes: headers and a body, or one JSON object; refuses as often as it is told."""

    def __init__(self) -> None:
        self.port = free_port()
        self.taken: list[dict[str, Any]] = []
        self.refusals = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Ntfy]:
        app = web.Application()
        app.router.add_post("/{topic:.*}", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        yield self
        await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        text = await request.text()
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        said = {key: _decoded(request.headers.get(key.title(), "")) for key in ("title", "priority", "tags")}
        topic = request.match_info["topic"]
        self.taken.append({"topic": topic, "message": text, **said} if topic else json.loads(text))
        return web.json_response({})

    def of(self, priority: object) -> list[dict[str, Any]]:
        return [one for one in self.taken if one["priority"] == priority]


def _decoded(header: str) -> str:
    return str(make_header(decode_header(header)))


class Mail:
    """A server that takes mail (SMTP) and keeps it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.taken: list[Message] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mail]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        yield self
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line.split()[0].upper()
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                body = await reader.readuntil(b"\r\n.\r\n")
                self.taken.append(message_from_bytes(body))
            writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 OK\r\n")
        writer.close()


@asynccontextmanager
async def shell(command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command line of the page, with all that it starts, until the end of the `with`."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)  # mosquitto_sub outlives SIGTERM where it is about to connect
        await process.wait()


async def subscribed(broker: Mosquitto, client_id: str, count: int) -> None:
    """Until this client has asked for so many topics; the broker says so in its log."""
    await until(lambda: broker.log.read_text().count(f"{client_id} 1 marginwatch/") >= count, "it is subscribed", 30)


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that logs who subscribes."""
    needs("mosquitto_sub")
    broker = Mosquitto(tmp_path / "broker", "log_type all")
    await broker.start()
    yield broker
    broker.kill()


# ---- mqttwarn ----


async def test_mqttwarn_as_shown_brings_notices_to_ntfy_and_mail_with_the_priority_of_their_topic(
    telling: Mosquitto, tmp_path: Path
) -> None:
    """What must wake somebody does, and nothing else; and not one amount leaves the house."""
    if not MQTTWARN.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{MQTTWARN} is missing, and CI has to test what the page says")
        pytest.skip(f"no mqttwarn at {MQTTWARN}")
    async with Ntfy().running() as ntfy, Mail().running() as mail, stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, telling.port, privacy=PRIVATE)
        text = INI.replace("1883", str(telling.port)).replace("https://ntfy.sh", f"http://127.0.0.1:{ntfy.port}")
        text = text.replace("localhost:25", f"localhost:{mail.port}")
        with Mqttwarn(tmp_path, text) as mqttwarn:
            await subscribed(telling, "marginwatch-phone", 5)
            async with Listener(telling.port) as listener, watching(config):
                await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
                exchange.set_mark("SOLUSDT", "130")
                await until(lambda: ntfy.of("low"), "a notice is shown", SLOW_S)
                exchange.set_mark("SOLUSDT", "126")
                await until(lambda: ntfy.of("high"), "a warning sounds", SLOW_S)
                exchange.set_mark("BTCUSDT", "48240")  # ratio 0.804, and next to liquidation
                await until(lambda: mail.taken, "a critical one is mailed", SLOW_S)
            await until(lambda: any(one["tags"] == "skull" for one in ntfy.of("max")), "it is offline", SLOW_S)
            said = mqttwarn.said

    sent = {(n["title"], n["text"]): n for n in listener.notices()}
    alerts = [one for one in ntfy.taken if one["title"] != "marginwatch"]
    wanted = {"notice": "low", "warning": "high", "critical": "max", "liquidation": "max"}
    assert [wanted[sent[one["title"], one["message"]]["severity"]] for one in alerts] == [a["priority"] for a in alerts]
    assert {one["topic"] for one in ntfy.taken} == {"YOUR-TOPIC"}
    assert {one["tags"] for one in alerts if one["priority"] == "max"} == {"rotating_light"}
    assert [one["message"] for one in ntfy.of("min")] == ["The monitor is online."]
    [letter, *_] = mail.taken
    assert (str(make_header(decode_header(letter["Subject"]))), _body(letter)) in sent
    assert said == ""


def _body(letter: Message) -> str:
    payload = letter.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode().strip()


# ---- the shell ----


async def test_the_shell_lines_try_until_ntfy_has_taken_each_notice(telling: Mosquitto, tmp_path: Path) -> None:
    """An ntfy that is down for a minute costs a minute, and not the alert."""
    needs("jq", "curl")
    [lines] = [block for block in SHELL if "jq" in block]
    async with Ntfy().running() as ntfy, stories.exchange() as exchange, Listener(telling.port) as listener:
        ntfy.refusals = 2
        config = write_config(tmp_path / "d", exchange, telling.port, privacy=PRIVATE)
        lines = lines.replace("1883", str(telling.port)).replace("https://ntfy.sh", f"http://127.0.0.1:{ntfy.port}")
        async with shell(lines.replace("sleep 5", "sleep 0.2")):
            await subscribed(telling, "marginwatch-phone", 1)
            async with watching(config):
                await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
                exchange.set_mark("SOLUSDT", "126")
                await until(listener.notices, "a notice is published")
                await until(lambda: len(ntfy.taken) == len(listener.notices()), "ntfy has all", SLOW_S)

    priorities = {"liquidation": 5, "critical": 5, "warning": 4, "notice": 2, "info": 1}
    assert sorted(ntfy.taken, key=str) == sorted(
        (
            {
                "topic": "YOUR-TOPIC",
                "title": notice["title"],
                "message": notice["text"],
                "tags": [notice["severity"]],
                "priority": priorities[notice["severity"]],
            }
            for notice in listener.notices()
        ),
        key=str,
    )


async def test_who_comes_back_to_a_session_misses_nothing(telling: Mosquitto, tmp_path: Path) -> None:
    """Events that were told while it was away wait for it, and what is open stands there at once."""
    [lines] = [block for block in SHELL if "incident/#" in block]
    command = lines.replace("1883", str(telling.port)).replace("mosquitto_sub", "exec mosquitto_sub")
    async with stories.exchange() as exchange, Listener(telling.port) as listener:
        async with shell(command):
            await subscribed(telling, "my-phone", 4)
        async with watching(write_config(tmp_path / "d", exchange, telling.port)):
            await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
            exchange.set_mark("SOLUSDT", "126")
            missed = await listener.event("liquidation_distance", "opened")
            await listener.state("marginwatch/main/incident/liquidation_distance/isolated-solusdt")
            heard: dict[str, Any] = {}
            async with shell(command) as back, asyncio.timeout(SLOW_S):
                assert back.stdout is not None
                while not {"event", "incident"} <= heard.keys():
                    topic, _, payload = (await back.stdout.readline()).decode().partition(" ")
                    heard.setdefault(topic.split("/")[2], json.loads(payload))

    assert heard["event"] == missed
    assert heard["incident"]["event_id"] == missed["event_id"]


async def test_mosquitto_keeps_the_first_thousand_messages_for_whoever_is_away(tmp_path: Path) -> None:
    """The page says so, and which of them are lost is what matters."""
    needs("mosquitto", "mosquitto_sub", "mosquitto_pub")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n", "utf-8")
    subscribe = f"mosquitto_sub -p {port} -c -i away -q 1 -t a"
    async with shell(f"exec mosquitto -c {config}"):

        async def subscribes() -> bool:
            return await _status(f"{subscribe} -E 2>/dev/null") == 0

        await eventually(subscribes, "mosquitto answers")
        assert await _status(f"seq 1100 | mosquitto_pub -p {port} -q 1 -t a -l") == 0
        got: dict[str, None] = {}  # what was not acknowledged before the end comes again
        async with shell(f"{subscribe} -C 1000; mosquitto_pub -p {port} -q 1 -t a -m next; {subscribe}") as back:
            assert back.stdout is not None
            async with asyncio.timeout(SLOW_S):
                while "next" not in got:
                    got[(await back.stdout.readline()).decode().strip()] = None

    assert list(got) == [*(str(n) for n in range(1, 1001)), "next"]


async def _status(command: str) -> int:
    process = await asyncio.create_subprocess_shell(command)
    return await process.wait()
