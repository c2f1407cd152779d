"""`marginwatch status`: each exit status, from a real broker and the real daemon, dead and alive."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests import stories
from tests.chaos.wallclock import WallClock
from tests.conftest import needs_mosquitto
from tests.rig import Listener, Mosquitto, Process, agreement, until, write_config

SUMMARY = "marginwatch/main/summary"
QUIET: dict[str, dict[str, Any]] = {
    "margin_ratio": {"critical_within": 0},
    "liquidation_distance": {"enabled": False},
    "liquidation_price_moved": {"enabled": False},
}
"""The levels of the margin ratio alone decide."""


async def status(config: Path, *options: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and what is printed; nothing may be printed elsewhere."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "monitor", "status", "--config", str(config), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    out, err = await process.communicate()
    assert err == b"", err.decode()
    return process.returncode or 0, out.decode()


async def put(broker: Mosquitto, topic: str, payload: str) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish(topic, payload, qos=1, retain=True)


async def test_ok_then_warning_then_critical_as_the_price_falls(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The three states of a living daemon, with the figures after the bar."""
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config):
            await agreement(exchange, listener, "main")
            ok, said = await status(config)
            assert (ok, said.split(": ")[0]) == (0, "MARGINWATCH OK")
            assert "1 account, 1 position, worst margin ratio 4" in said
            assert " | main_margin_ratio=0.0397" in said

            exchange.set_mark("BTCUSDT", "90372.10")
            await listener.state(SUMMARY, severity="warning")
            warned, said = await status(config)
            assert (warned, said.split(": ")[0]) == (1, "MARGINWATCH WARNING")
            assert "margin ratio 81.2 %, 0.09 % from liquidation" in said
            assert "main_margin_ratio=0.81222397;;;0;10 main_distance=0.00092846;;;0; " in said
            assert re.search(r" main_age=\d{1,2}s;;;0;$", said.rstrip()), said

            exchange.set_mark("BTCUSDT", "90320")  # 903.20 ÷ 982.40
            await listener.state(SUMMARY, severity="critical")
            bad, said = await status(config, "--json")
            body = json.loads(said)
            assert (bad, body["code"], body["status"], body["daemon"]) == (2, 2, "critical", "online")
            assert body["accounts"][0]["margin_ratio"] == pytest.approx(0.91938111)
            assert "margin ratio 91.9 %" in body["problems"][0]["text"]


async def test_a_daemon_that_was_killed_is_critical_by_its_will(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The last that it said is fine, and is not believed: no figure of it goes into a graph."""
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config) as process:
            await agreement(exchange, listener, "main")
            process.send(signal.SIGKILL)
            await process.ended()
        await until(lambda: listener.now["marginwatch/status"] == b"offline", "the will is told")

    code, said = await status(config)
    assert code == 2
    assert said.startswith("MARGINWATCH CRITICAL: the daemon is offline; its last state is ")
    assert "main_margin_ratio=U" in said


async def test_a_state_that_outlived_daemon_and_will_is_believed_no_longer_than_it_says(
    lasting_broker: Mosquitto, tmp_path: Path
) -> None:
    """Broker and daemon die at once: what the broker kept says `online`, and nobody is left to take that back."""
    async with stories.large() as exchange, Listener(lasting_broker.port) as listener:
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, rules=QUIET)
        with Process(config) as process:
            await agreement(exchange, listener, "main")
            await kept_on_disk(lasting_broker)
            lasting_broker.kill()
            process.send(signal.SIGKILL)
            await process.ended()
    await lasting_broker.start()

    clock = WallClock(tmp_path)
    if not clock.env:
        pytest.skip("no C compiler: the clock cannot be moved")
    assert (await status(config, env=clock.env))[0] == 0, "within the 90 s that it says"
    clock.jump(100)
    code, said = await status(config, env=clock.env)
    assert code == 2
    assert re.search(r"main: the state is 1\d\d s old", said)
    assert "good for 90 s" in said
    assert "main_margin_ratio=U" in said
    clock.jump(-300)
    code, said = await status(config, env=clock.env)
    assert code == 3
    assert "ahead of this machine's: how old its state is cannot be told" in said


async def kept_on_disk(broker: Mosquitto) -> None:
    """Wait until the broker has written what it retains."""
    database = broker.folder / "mosquitto.db"
    await until(lambda: database.exists() and SUMMARY.encode() in database.read_bytes(), "it is on the broker's disk")


async def test_a_blind_daemon_is_critical(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Its last figures are fine; they are old, which is worse than bad."""
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config):
            await agreement(exchange, listener, "main")
            exchange.faults.mute_market = True
            exchange.faults.rest = "abort"
            await listener.state(SUMMARY, freshness="stale")
            code, said = await status(config)
    assert code == 2
    assert "main is blind: an input is old or unknown (marks " in said


async def test_a_broker_without_any_state_is_critical(broker: Mosquitto, tmp_path: Path) -> None:
    """A wrong prefix, or a broker that forgot: nobody watches, as far as anybody can tell."""
    config = config_of(tmp_path, broker.port)
    began = time.monotonic()
    code, said = await status(config, "--timeout", "60")
    assert code == 2
    assert "nothing is retained below marginwatch/" in said
    assert time.monotonic() - began < 30, "it does not wait for what will not come"


async def test_an_account_without_a_state_is_critical(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """It was put into the config, and the daemon was not restarted."""
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config):
            await agreement(exchange, listener, "main")
            more = tmp_path / "more.toml"
            text = config.read_text("utf-8")
            more.write_text(text + text[text.index("[[account]]") :].replace('"main"', '"second"'), "utf-8")
            (code, one), (_, all_of_it) = await status(more, "--account", "main"), await status(config)
            assert (code, one.partition("main_age")[0]) == (0, all_of_it.partition("main_age")[0])
            code, said = await status(more)
    assert code == 2
    assert "second has no state: the daemon does not watch it" in said


# ---- 3: cannot tell ----


def config_of(folder: Path, port: int, timeout_s: float = 5, account: str = "main") -> Path:
    """A config as anybody has it, of a daemon that does not run."""
    path = folder / "config.toml"
    path.write_text(
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\ntimeout_s = {timeout_s}\n'
        f'[[account]]\nname = "{account}"\nvenue = "binance-usdm"\napi_key = "env:NO_KEY"\nsecret = "env:NO_SECRET"\n',
        "utf-8",
    )
    return path


async def test_a_broker_that_is_not_there_cannot_tell(tmp_path: Path) -> None:
    """Whether all is well is unknown then; that is an answer of its own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens on it
        code, said = await status(config_of(tmp_path, taken.getsockname()[1]))
    assert code == 3
    assert "was not reached: [Errno 111] Connection refused" in said


async def test_a_broker_that_hangs_up_is_told_in_our_words_alone(tmp_path: Path) -> None:
    """As one does that wants TLS and is asked without; what a library has to say of it stood before our line."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        config = config_of(tmp_path, server.sockets[0].getsockname()[1])
        code, said = await status(config, "--timeout", "2")

    assert code == 3
    assert said.startswith("MARGINWATCH UNKNOWN: the broker ")


async def test_a_broker_that_does_not_answer_is_not_waited_for(broker: Mosquitto, tmp_path: Path) -> None:
    """A check that hangs is a check that says nothing."""
    broker.freeze()
    began = time.monotonic()
    code, said = await status(config_of(tmp_path, broker.port, timeout_s=30), "--timeout", "1")
    took_s = time.monotonic() - began
    broker.thaw()
    assert (code, "no answer within 1 s" in said) == (3, True)
    assert took_s < 1 + 4, "and the start of Python"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--account", "nobody"], "no account 'nobody'; it has main"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: there is no such file"),
    ],
)
async def test_a_config_that_cannot_be_used_cannot_tell(tmp_path: Path, options: list[str], text: str) -> None:
    """78 is for the daemon's own start; a monitoring system knows 0 to 3. `--json` stays JSON."""
    config = config_of(tmp_path, 1)
    code, said = await status(config, *options)
    assert (code, text in said) == (3, True), said
    code, said = await status(config, *options, "--json")
    assert (code, text in json.loads(said)["text"]) == (3, True)


@pytest.mark.parametrize("options", [["--bogus"], ["--timeout", "0"], ["--timeout", "nan"], ["more"]])
def test_wrong_usage_cannot_tell(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """argparse would say 2, and that is a critical state."""
    from monitor.__main__ import main

    assert main(["status", *options]) == 3
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("accounts", "size", "kept", "patience"),
    [(300, 60_000, 50, "30"), (2000, 20_000, 110, "15")],
    ids=["of a few", "of many, in time"],
)
async def test_of_more_than_a_broker_sends_at_once_nothing_is_missing(
    tmp_path: Path, accounts: int, size: int, kept: int, patience: str
) -> None:
    """What it throws away, `status` among it, would look like a daemon that is dead, or does not watch an account."""
    code, said = await status_of_many(tmp_path, accounts, size, kept, patience)
    assert (code, said.split(",")[0]) == (0, f"MARGINWATCH OK: {accounts} accounts"), said[:300]


async def test_what_could_not_be_shown_in_time_is_unknown(tmp_path: Path) -> None:
    """It stands at the broker, and is well; nobody is to be told that an account is not watched."""
    code, said = await status_of_many(tmp_path, 300, 250_000, 1, "1")
    assert (code, "has no state" in said) == (3, False), said[:300]


async def test_what_is_open_is_named_however_many_accounts_there_are(tmp_path: Path) -> None:
    """It stands there alone, and is said anew only when it changes; a summary tells that there is one."""
    title = "account0: margin ratio 85 %"
    code, said = await status_of_many(tmp_path, 300, 60_000, 50, "30", title)
    assert (code, title in said) == (1, True), said[:300]


async def status_of_many(
    folder: Path, accounts: int, size: int, kept: int, patience: str, title: str | None = None
) -> tuple[int, str]:
    """Status and what is said, of accounts whose states together are more than the broker queues. All are well.

    Args:
        title: Of a warning that is open of the first; None: none is.
    """
    needs_mosquitto()
    names = [f"account{n}" for n in range(accounts)]
    summary = {
        "schema": "marginwatch.summary/1",
        "as_of": datetime.now(UTC).isoformat(),
        "severity": "ok",
        "worst_margin_ratio": 0.1,
        "worst_distance": 0.2,
        "open_positions": 1,
        "freshness": "live",
        "mark_age_ms": 1,
        "account_age_ms": 1,
        "valid_for_s": 3600,
        "of another version": "x" * size,
    }
    watched = [{"account": name} for name in names]
    info = {"schema": "marginwatch.info/1", "instance": "i", "version": "0", "accounts": watched}
    broker = Mosquitto(folder / "small", f"max_queued_messages {kept}")
    await broker.start()
    try:
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish("marginwatch/status", "online", qos=1, retain=True)
            await client.publish("marginwatch/info", json.dumps(info), qos=1, retain=True)
            for name in names:
                word = "warning" if title is not None and name == names[0] else "ok"
                body = json.dumps({**summary, "severity": word})
                await client.publish(f"marginwatch/{name}/summary", body, qos=1, retain=True)
            if title is not None:
                incident = {
                    "schema": "marginwatch.incident/1",
                    "severity": "warning",
                    "account": names[0],
                    "rule": "margin_ratio",
                    "subject": "cross-usdt",
                    "opened_at": summary["as_of"],
                    "title": title,
                }
                topic = f"marginwatch/{names[0]}/incident/margin_ratio/cross-usdt"
                await client.publish(topic, json.dumps(incident), qos=1, retain=True)
        return await status(config_of(folder, broker.port, account="account0"), "--timeout", patience)
    finally:
        broker.kill()


async def test_what_others_publish_there_is_not_believed(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Nonsense on our topics is neither well nor the end of us, and never reaches the terminal as it came."""
    await put(broker, "marginwatch/status", "online")
    await put(broker, "marginwatch/info", "[]")
    await put(broker, SUMMARY, '{"schema": "marginwatch.summary/2", "severity": "fine\u001b[2J"}')
    await put(broker, "marginwatch/main/incident/margin_ratio/cross-usdt", "\x1b[2J")
    listener.wrong.clear()
    code, said = await status(config_of(tmp_path, broker.port), "--json")
    listener.wrong.clear()
    assert code == 2
    assert json.loads(said)["problems"][0]["text"] == "main has no state: the daemon does not watch it"
    assert set(json.loads(said)["unreadable"]) == {
        "marginwatch/info",
        SUMMARY,
        "marginwatch/main/incident/margin_ratio/cross-usdt",
    }
