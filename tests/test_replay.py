"""Record and replay: what the daemon told live is told again from the file alone, byte for byte each time."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from monitor.config import RecorderConfig
from monitor.core import Setup
from monitor.effects import AccountSetup
from monitor.events import Tick
from monitor.recording import Line, Opening, Secrets, decode_opening
from monitor.shell import settings
from monitor.shell.clock import now
from monitor.shell.daemon import Daemon
from monitor.shell.owed import Found
from monitor.shell.recorder import FlightRecorder, bundle_of
from monitor.shell.sessions import SessionWriter, check
from monitor.sim import Exchange
from tests import stories
from tests.rig import RULES, Listener, Mosquitto, Table, agreement, until, watching, write_config
from tests.watched import MARKET, WALL_MS, Watched, row, told

SLOW: dict[str, Table] = {**RULES, "forced_order": {"settle_s": 1}}


@asynccontextmanager
async def recorded(config: Path, out: Path | None = None) -> AsyncIterator[None]:
    """The daemon in this process, with somebody who writes down what its links hear."""
    parsed = settings.load(config)
    found = settings.fetch(parsed)
    writer = None
    if out is not None:
        opening = Opening(now().wall_ms, instance=parsed.instance, setup=parsed.setup)
        writer = SessionWriter(out, opening, Secrets(found.values()), pytest.fail)
    stop = asyncio.Event()
    running = asyncio.create_task(Daemon(parsed, found, tap=writer).run(stop), name="daemon")
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(running, 15)
        if writer is not None:
            writer.close()


def marginwatch(*args: object, hash_seed: str = "0") -> subprocess.CompletedProcess[bytes]:
    """The command as a person calls it, in another process, with another order of everything that has none."""
    return subprocess.run(
        [sys.executable, "-m", "monitor", *map(str, args)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Kolkata" if hash_seed != "0" else "UTC"},
        capture_output=True,
        check=False,
        timeout=60,
    )


def events(output: bytes, kind: str = "event") -> list[dict[str, Any]]:
    """Bodies of the events, or of the notices, among the messages of `replay --json`."""
    messages = [json.loads(line) for line in output.splitlines()]
    return [message["payload"] for message in messages if message["topic"].split("/")[2:3] == [kind]]


def in_short(bodies: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [(e["account"], e["subject"], e["rule"], e["event"], e["severity"]) for e in bodies]


async def whole_second() -> None:
    """Until the wall clock has passed one: a replay lets time pass then, and what waits for time is told."""
    since = math.floor(time.time())
    await until(lambda: time.time() >= since + 1.1, "a whole second has passed")


async def bad_day(exchange: Exchange, listener: Listener) -> None:
    """Funding, margin, a crash that liquidates the isolated position, and the end of a listen key."""
    await agreement(exchange, listener, "main")
    await whole_second()
    exchange.fund("BTCUSDT", "0.0001")
    await listener.event("liquidation_price_moved", "noted")
    await whole_second()
    exchange.set_mark("SOLUSDT", "130")
    await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
    await whole_second()
    exchange.set_mark("SOLUSDT", "121")
    await listener.event("margin_ratio", "opened", subject="isolated-solusdt")
    await listener.event("liquidation_distance", "worsened", subject="isolated-solusdt", severity="critical")
    await whole_second()
    exchange.set_mark("SOLUSDT", "120")
    await listener.event("forced_order", "opened")
    await listener.event("forced_order", "resolved")
    await listener.no_incident()
    await whole_second()


async def test_a_replay_tells_of_a_liquidation_that_was_listed_late(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The exchange had refused the list as the stream was opened anew, and gave it once all else had been read."""
    session = tmp_path / "session.jsonl"
    async with (
        stories.exchange() as exchange,
        recorded(write_config(tmp_path / "d", exchange, broker.port, rules=SLOW), session),
    ):
        await agreement(exchange, listener, "main")
        exchange.fault(refuse=True)
        exchange.drop("private")
        exchange.set_mark("SOLUSDT", "120")
        exchange.fault(refuse=False, rest="503", rest_paths=["/fapi/v1/forceOrders"])
        await until(lambda: was_down(session), "another stream is open")
        await agreement(exchange, listener, "main")
        exchange.fault(rest="ok")
        await listener.event("forced_order", "resolved")
        await whole_second()
    replayed = marginwatch("replay", session, "--json")

    told = [e["event"] for e in events(replayed.stdout) if e["rule"] == "forced_order"]
    assert told == ["opened", "resolved"]


async def test_a_replay_tells_of_no_order_of_before_the_session(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The exchange lists those of seven days; where there was no stream, nothing said which of them are news."""
    session = tmp_path / "session.jsonl"
    async with stories.exchange() as exchange:
        exchange.liquidate("main", "SOLUSDT", "10", "120.5")
        await whole_second()
        exchange.fault(rest="503", rest_paths=["/fapi/v1/listenKey"])
        async with recorded(write_config(tmp_path / "d", exchange, broker.port, rules=SLOW), session):
            await listener.state("marginwatch/main/position/btcusdt")  # which is live for 5 s alone
            exchange.liquidate("main", "BTCUSDT", "0.5", "48000")
            await listener.event("forced_order", "resolved", subject="btcusdt")
            await whole_second()
    replayed = marginwatch("replay", session, "--json")

    told = [e for e in events(replayed.stdout) if e["rule"] == "forced_order"]
    assert [(e["subject"], e["event"]) for e in told] == [("btcusdt", "opened"), ("btcusdt", "resolved")]


async def test_a_replay_tells_what_the_daemon_told_and_is_the_same_each_time(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A post-mortem that came out otherwise than the night itself would be worth nothing."""
    session = tmp_path / "session.jsonl"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=SLOW, links={"reconcile_s": 2})
        async with recorded(config, session):
            await bad_day(exchange, listener)
            secrets = [exchange.accounts["main"].api_key, exchange.accounts["main"].secret, listen_key(exchange)]
            exchange.expire_listen_key("main")
            await until(lambda: was_down(session), "a new listen key is used")
            secrets.append(listen_key(exchange))
            await agreement(exchange, listener, "main")
    told = sorted(listener.events(), key=lambda e: e["seq"])

    first = marginwatch("replay", session, "--json")
    again = marginwatch("replay", session, "--json", hash_seed="4711")

    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout == again.stdout
    assert in_short(events(first.stdout)) == in_short(told)
    assert b" a second" in first.stderr
    with config.open("a") as written:
        written.write("\n[privacy]\namounts = false\n")
    private = marginwatch("replay", session, "--json", "--config", config)
    assert in_short(events(private.stdout)) == in_short(told)
    assert in_short(events(private.stdout, "notice")) == in_short(told)
    text = session.read_bytes()
    assert len({*secrets}) == 4
    assert [secret for secret in secrets if secret.encode() in text] == []
    assert not re.search(rb"signature|X-MBX|listenKey\"\s*:\s*\"(?!REMOVED)", text)


def listen_key(exchange: Exchange) -> str:
    """The stream key that is in use."""
    key = exchange.listen_keys.create("main")
    assert len(key) == 64
    return key


def was_down(session: Path) -> bool:
    """Whether the private link has died and come back."""
    text = session.read_text("utf-8")
    return '"state":"down"' in text and text.rindex('"link":"private","state":"live"') > text.rindex('"state":"down"')


# ---- the flight recorder ----


async def test_the_minutes_before_a_critical_incident_are_saved_and_tell_it_again(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Nobody records before the night in which it would have helped."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=SLOW, links={"reconcile_s": 2})
        async with recorded(config):
            await bad_day(exchange, listener)
    told = sorted(listener.events(), key=lambda e: e["seq"])
    critical = next(e for e in told if e["severity_rank"] >= 4)

    bundle = bundle_of(tmp_path / "d" / "sessions", critical["incident_id"])
    assert bundle is not None
    again = events(marginwatch("replay", bundle, "--json").stdout)

    assert in_short(again) == in_short(told)  # saved once more at the end, so that what followed is in it
    assert check(bundle) == len(told)
    assert bundle.stat().st_mode & 0o77 == 0

    given = tmp_path / "bundle.jsonl"
    asked = marginwatch("history", "--config", config, "--incident", critical["incident_id"], "--bundle", given)
    assert (asked.returncode, given.read_bytes()) == (0, bundle.read_bytes()), asked.stderr.decode()
    notice = next(e for e in told if e["peak_severity"] == "info")
    none = marginwatch("history", "--config", config, "--incident", notice["incident_id"], "--bundle", given)
    assert (none.returncode, b"never more than info" in none.stderr) == (1, True), none.stderr.decode()


async def test_a_window_that_begins_later_starts_from_what_was_known(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The newest answers and the open incidents stand before it: nothing is told anew, nothing is missing."""
    async with stories.exchange() as exchange:
        config = write_config(
            tmp_path / "d", exchange, broker.port, rules=SLOW, links={"reconcile_s": 1}, recorder={"minutes": 0.05}
        )
        async with recorded(config):
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "53000")
            await listener.event("liquidation_distance", "opened", subject="cross-usdt")
            exchange.add_margin("main", "SOLUSDT", "100")
            await listener.event("liquidation_price_moved", "noted")
            known = time.time()
            await until(lambda: time.time() > known + 5, "all of this has left the window")
            await whole_second()
            exchange.set_mark("SOLUSDT", "122")
            worst = await listener.event("liquidation_distance", "opened", severity="critical")
            await whole_second()
            exchange.set_mark("SOLUSDT", "160")
            await listener.event("liquidation_distance", "resolved", subject="isolated-solusdt")
            await agreement(exchange, listener, "main")
            await whole_second()
            pools = {name: listener.retained(f"marginwatch/main/{name}") for name in listener.under("main")}
    told = sorted(listener.events(), key=lambda e: e["seq"])

    bundle = bundle_of(tmp_path / "d" / "sessions", worst["incident_id"])
    assert bundle is not None
    lines = bundle.read_text("utf-8").splitlines()
    began = json.loads(lines[0])["at_ms"]
    replayed = [json.loads(line) for line in marginwatch("replay", bundle, "--json").stdout.splitlines()]
    last = {m["topic"].removeprefix("marginwatch/main/"): m["payload"] for m in replayed if m["retain"]}

    late = told[told.index(worst) :]
    assert began > known * 1000
    assert len(json.loads(lines[0])["kept"]["incidents"]) == 1
    assert in_short([m["payload"] for m in replayed if "/event/" in m["topic"]]) == in_short(late)
    assert [m["topic"] for m in replayed if "data_stale" in m["topic"]] == []
    for name in ("pool/cross-usdt", "pool/isolated-solusdt", "position/btcusdt", "position/solusdt"):
        assert without_times(last[name]) == without_times(pools[name])


async def test_what_is_saved_of_an_account_has_nothing_of_a_market_that_it_is_not_on(tmp_path: Path) -> None:
    """Replayed, it would end there and then, as of an account that was taken out of the config."""
    accounts = (AccountSetup("main", "binance-usdm", MARKET), AccountSetup("other", "binance-usdm", "market-y"))
    keys = [f"_instance/{what}" for what in ("data_stale/market-y", f"data_stale/{MARKET}", "store_unusable/store")]
    core = Watched("main")
    core.begin("2000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    recorder = FlightRecorder(RecorderConfig(), tmp_path, "test", Setup(accounts), Secrets())
    recorder.take_over(Found({"incident": {key: key.encode() for key in (*keys, "other/margin_ratio/cross-usdt")}}))

    stories_told = told(core.step(core.mark("48225"), Tick()))
    recorder.happened(stories_told)
    await recorder.close()

    saved = bundle_of(tmp_path, stories_told[0].change.incident.incident_id)
    assert saved is not None
    kept = decode_opening(saved.read_bytes().splitlines()[0]).kept
    assert list(kept.incidents) == [key.encode() for key in keys[1:]]


async def test_of_a_crash_of_many_accounts_as_many_sessions_are_saved_as_are_kept(tmp_path: Path) -> None:
    """Each of its own account, and whole."""
    names = [f"account-{n:02}" for n in range(30)]
    core = Watched(*names)
    for name in names:
        core.begin("2000", row("BTCUSDT", "1", "50000"), account=name)
    core.price("50000")
    recorder = FlightRecorder(RecorderConfig(keep=20), tmp_path, "test", core.core.setup, Secrets())
    for name in names:
        for n in range(50):
            recorder.heard(Line(WALL_MS, "binance-usdm", name, "private", b'{"n":%d}' % n))

    critical = told(core.step(core.mark("48225"), Tick()))
    while core.core.is_behind:
        critical += told(core.step(after=0))
    recorder.happened(critical)
    recorder.happened(critical)
    await recorder.close()

    accounts = {story.change.incident.incident_id: story.account.name for story in critical}
    saved = {name: path for name in accounts if (path := bundle_of(tmp_path, name)) is not None}
    assert len(saved) == 20
    for name, path in saved.items():
        first, *lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert [account["name"] for account in first["setup"]["accounts"]] == [accounts[name]]
        assert [(line["account"], line["data"]["n"]) for line in lines] == [(accounts[name], n) for n in range(50)]


async def test_what_a_store_that_opens_late_has_is_known_to_what_is_saved_after(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A replay that knows nothing of an open incident would open it anew, or never see it end."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=SLOW)
        async with watching(config):
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "53000")
            opened = await listener.event("liquidation_distance", "opened", subject="cross-usdt")
        exchange.set_mark("BTCUSDT", "60000")
        with (tmp_path / "d" / "store.sqlite3.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            async with watching(config) as log:
                await until(lambda: "alerts go out from memory" in log.getvalue(), "it begins without the store")
                fcntl.flock(lock, fcntl.LOCK_UN)
                await until(lambda: "store opened late" in log.getvalue(), "it has the store")
                await listener.event("liquidation_distance", "resolved", subject="cross-usdt")
                exchange.set_mark("SOLUSDT", "121")
                worst = await listener.event("liquidation_distance", "opened", severity="critical")

    bundle = bundle_of(tmp_path / "d" / "sessions", worst["incident_id"])
    assert bundle is not None
    [kept] = json.loads(bundle.read_text("utf-8").splitlines()[0])["kept"]["incidents"]
    assert opened["incident_id"].encode() in base64.b64decode(kept)


def without_times(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in ("as_of", "exchange_liquidation_price")}


async def test_a_full_disk_costs_a_log_line(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """A recorder that took the daemon with it would be worse than none."""
    (tmp_path / "taken").write_text("a file where the folder should be")
    async with stories.exchange() as exchange:
        config = write_config(
            tmp_path / "d", exchange, broker.port, rules=SLOW, recorder={"dir": str(tmp_path / "taken")}
        )
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("SOLUSDT", "121")
            await listener.event("liquidation_distance", "opened", severity="critical")
            await until(lambda: "session not saved" in log.getvalue(), "the log says so")
            exchange.set_mark("SOLUSDT", "160")
            await listener.event("liquidation_distance", "resolved")


# ---- the commands ----


async def test_record_writes_until_it_is_told_to_stop_or_killed(tmp_path: Path) -> None:
    """What was recorded up to a crash is as good as any."""
    session = tmp_path / "session.jsonl"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, 1)
        for number in (signal.SIGINT, signal.SIGKILL):
            session.unlink(missing_ok=True)
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "monitor", "record", "--config", str(config), "--out", str(session)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            await until(lambda: lasts_ms(session) > 2500, "two seconds of marks are written")
            process.send_signal(number)
            await until(lambda process=process: process.poll() is not None, "it has ended")  # type: ignore[misc]
            out, err = process.communicate()
            assert (out, process.returncode) == (b"", 0 if number is signal.SIGINT else -9), err.decode()
            replayed = marginwatch("replay", session, "--json")
            assert replayed.returncode == 0, replayed.stderr.decode()
            assert b"marginwatch/main/pool/cross-usdt" in replayed.stdout
    assert session.stat().st_mode & 0o77 == 0


def lasts_ms(session: Path) -> int:
    """From the first mark in a file to its last whole line."""
    lines = session.read_bytes().split(b"\n")[:-1] if session.exists() else []
    marks = [line for line in lines if b"markPriceUpdate" in line]
    return json.loads(lines[-1])["at_ms"] - json.loads(marks[0])["at_ms"] if marks else 0


def test_record_never_overwrites(tmp_path: Path) -> None:
    """A night's recording is not lost to a repeated command."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[[account]]\nname = "main"\nvenue = "binance-usdm"\napi_key = "env:HOME"\nsecret = "env:HOME"\n', "utf-8"
    )
    (tmp_path / "night.jsonl").write_text("precious", "utf-8")

    refused = marginwatch("record", "--config", config, "--out", tmp_path / "night.jsonl")

    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"exists; give another name" in refused.stderr
    assert (tmp_path / "night.jsonl").read_text("utf-8") == "precious"


# ---- other rules ----


async def test_a_rehearsal_shows_what_new_rules_tell_otherwise(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A level that is changed by guess is found wrong in the next crash; here it is found wrong in the last one."""
    session = tmp_path / "session.jsonl"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=SLOW, links={"reconcile_s": 2})
        async with recorded(config, session):
            await agreement(exchange, listener, "main")
            await whole_second()
            exchange.set_mark("BTCUSDT", "53000")  # 9.1 % from liquidation
            await listener.event("liquidation_distance", "opened", severity="notice")
            await whole_second()
            exchange.set_mark("BTCUSDT", "50000")  # 3.6 %
            await listener.event("liquidation_distance", "worsened", severity="warning")
            await whole_second()
        steps = [
            {"at": 0.05, "clear": 0.06, "severity": "critical"},
            {"at": 0.095, "clear": 0.12, "severity": "warning"},
        ]
        new = write_config(
            tmp_path / "new", exchange, broker.port, rules={**SLOW, "liquidation_distance": {"steps": steps}}
        )

    alike = marginwatch("rehearse", session, "--config", config)
    words = marginwatch("rehearse", session, "--config", new)
    against = marginwatch("rehearse", session, "--config", config, "--old", new, "--json")
    [opened, worsened] = [json.loads(line) for line in against.stdout.splitlines()]

    assert (alike.returncode, alike.stdout) == (0, b""), alike.stderr.decode()
    assert b"2 alike, 0 only old" in alike.stderr
    assert words.stdout.decode().count("~ NOTICE opened → WARNING opened  liquidation_distance: main cross-usdt") == 1
    assert words.stdout.decode().count("~ WARNING worsened → CRITICAL worsened") == 1
    assert [(d["change"], d["old"]["severity"], d["new"]["severity"]) for d in (opened, worsened)] == [
        ("changed", "warning", "notice"),
        ("changed", "critical", "warning"),
    ]


async def test_both_markets_and_several_accounts_come_out_alike(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Inverse contracts, hedges and other margin assets: the last figures are those that were published live."""
    session = tmp_path / "session.jsonl"
    names = ("main", "coins")
    async with stories.exchange(stories.account(), COINS) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, names, rules=SLOW, links={"reconcile_s": 1})
        async with recorded(config, session):
            await agreement(exchange, listener, "main")
            await until(lambda: "marginwatch/coins/pool/cross-btc" in listener.now, "the coin pool is published")
            exchange.set_marks({"BTCUSDT": "57123.4", "BTCUSD_PERP": "57100.1"})
            await agreement(exchange, listener, "main")
            await whole_second()
            await whole_second()
            live = {name: listener.retained(f"marginwatch/{name}") for name in PUBLISHED}

    replayed = [json.loads(row) for row in marginwatch("replay", session, "--json").stdout.splitlines()]
    last = {m["topic"].removeprefix("marginwatch/"): m["payload"] for m in replayed if m["retain"]}

    for name in PUBLISHED:
        assert without_times(last[name]) == without_times(live[name])


COINS = {
    "name": "coins",
    "market": "coinm",
    "balances": {"BTC": "1"},
    "position": [{"symbol": "BTCUSD_PERP", "quantity": "300", "entry_price": "60000"}],
}
PUBLISHED = ("main/pool/cross-usdt", "main/position/btcusdt", "coins/pool/cross-btc", "coins/position/btcusd5fperp")


async def test_record_says_when_the_disk_is_full_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Hours into a recording nobody watches the terminal; the exit status and the file have to tell."""
    session = tmp_path / "session.jsonl"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, 1)
        command = f"ulimit -f 64; exec {sys.executable} -m monitor record --config {config} --out {session}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)

    assert (process.returncode, out) == (1, b""), err.decode()
    assert b"File too large; what it has until then can be replayed" in err
    assert check(session) == 0
