"""The real parts that tests of the whole daemon are made of: mosquitto, a listener, config files, the daemon itself.

Nothing here pretends: the broker is a process, the exchange answers on loopback, and time is the wall's. Tests wait for
conditions, with a deadline, and are short because every duration of the daemon is a key of its config.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from monitor.shell import logs, settings
from monitor.shell.daemon import Daemon
from monitor.sim import Exchange
from tests import schemas
from tests.sim import wire

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 15.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
D = Decimal


# ---- waiting ----


async def until(probe: Callable[[], T], what: str, within_s: float = WAIT_S) -> T:
    """The first true answer of a probe.

    Raises:
        AssertionError: There was none in time.
    """

    async def ask() -> T:
        return probe()

    return await eventually(ask, what, within_s)


async def eventually(probe: Callable[[], Awaitable[T]], what: str, within_s: float = WAIT_S) -> T:
    """As `until`, for a probe that has to ask somebody."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                if found := await probe():
                    return found
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


# ---- the broker ----


def free_port() -> int:
    """A port of the loopback interface that nobody listens on.

    From below those that a system gives to whoever connects: a browser with its hundred connections would take such a
    one between this answer and the daemon's start.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Mosquitto:
    """A broker process that can be stopped, killed, frozen, and started again on the same port.

    Args:
        options: Further lines of its config; `allow_anonymous true` stands unless they say otherwise.
        persistence: Whether sessions, queued and retained messages survive its death.
    """

    def __init__(self, folder: Path, *options: str, persistence: bool = False) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        self.log = folder / "mosquitto.log"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 0",
            "max_inflight_messages 0",
            "log_dest stderr",
            "set_tcp_nodelay true",  # else every other message waits 40 ms for an acknowledgement
            *([] if any(line.startswith("allow_anonymous") for line in options) else ["allow_anonymous true"]),
            *(["user root"] if os.geteuid() == 0 else []),
            *options,
        ]
        if persistence:
            lines += [f"persistence_location {folder}/", "persistence true"]
            lines += ["autosave_on_changes true", "autosave_interval 1"]
        self._config.write_text("\n".join(lines) + "\n", "utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, *options: str) -> None:
        """Further lines of its config, from the next start on."""
        with self._config.open("a", encoding="utf-8") as config:
            config.writelines(f"{option}\n" for option in options)

    async def start(self) -> None:
        assert MOSQUITTO is not None
        with self.log.open("ab") as log:
            command = [MOSQUITTO, "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - returns at once
        await until(self._answers, "mosquitto accepts connections")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text("utf-8")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Read the password file anew."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(10)


# ---- the listener ----


@dataclass(frozen=True)
class Heard:
    """A message as it came. at: monotonic seconds."""

    topic: str
    payload: bytes
    retain: bool
    qos: int
    at: float
    properties: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.payload)  # type: ignore[no-any-return]


class Listener:
    """A careful consumer: MQTT 5, a session that outlives the connection, QoS 1, everything under `#` or a filter.

    Attributes:
        heard: Every message, redelivered ones too.
        now: Topic → what is retained there, as far as we were told.
        wrong: What broke a rule that holds for every message: its schema, its retain flag.
        prefixes: Where our own messages are.
    """

    def __init__(self, port: int, topics: str = "#", **login: Any) -> None:
        self.port = port
        self._topics = topics
        self.prefixes = ["marginwatch"]
        self.heard: list[Heard] = []
        self.now: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.connections = 0
        self._events: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self._notices: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self._login = login
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._run(), name="listener")
        await until(lambda: self.connections, "the listener is subscribed")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if exc[0] is None and self.wrong:
            raise AssertionError("\n".join(self.wrong[:5]))

    async def _run(self) -> None:
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        lasting.SessionExpiryInterval = 3600
        while True:
            try:
                async with aiomqtt.Client(
                    "127.0.0.1",
                    self.port,
                    identifier="listener",
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=lasting,
                    keepalive=2,
                    socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
                    **self._login,
                ) as client:
                    await client.subscribe(self._topics, options=SubscribeOptions(qos=1, retainAsPublished=True))
                    self.connections += 1
                    async for message in client.messages:
                        self._take(message)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.02)

    def _take(self, message: aiomqtt.Message) -> None:
        properties = {} if message.properties is None else message.properties.json()  # type: ignore[no-untyped-call]
        payload = message.payload
        assert isinstance(payload, bytes)
        if "/cmd/" in str(message.topic):
            return  # what somebody says to the daemon, not what it says
        heard = Heard(str(message.topic), payload, message.retain, message.qos, time.monotonic(), properties)
        self.heard.append(heard)
        told = {"event": self._events, "notice": self._notices}.get(heard.topic.split("/")[-3:][0])
        if (told is not None) == heard.retain:
            self.wrong.append(f"retain={heard.retain} on {heard.topic}")
        if told is not None:
            body = heard.body
            place = heard.topic.rpartition(f"/{body['account']}/")[0]  # of two daemons each names what it tells
            known, _ = told.setdefault(f"{place}/{body['event_id']}", (payload, body))
            if known != payload:
                self.wrong.append(f"{heard.topic} {body['event_id']} came again with other bytes")
        else:
            self.now[heard.topic] = payload
            if not payload:
                del self.now[heard.topic]
        for prefix in self.prefixes:
            if heard.topic.startswith(f"{prefix}/"):
                try:
                    schemas.validate(heard.topic, payload, prefix)
                except AssertionError as exc:
                    self.wrong.append(str(exc))

    # ---- what was heard ----

    def events(self, rule: str | None = None, account: str | None = None, **keys: Any) -> list[dict[str, Any]]:
        """Events in order of their first arrival, each once however often it was delivered."""
        wanted = {k: v for k, v in {"rule": rule, "account": account, **keys}.items() if v is not None}
        bodies = [body for _, body in self._events.values()]
        return [body for body in bodies if all(body.get(k) == v for k, v in wanted.items())]

    def notices(self) -> list[dict[str, Any]]:
        """Notices in order of their first arrival, each once."""
        return [body for _, body in self._notices.values()]

    async def event(self, rule: str, kind: str, within_s: float = WAIT_S, **keys: Any) -> dict[str, Any]:
        """The first event of this rule and kind (`opened`, `resolved` …) with these keys."""
        found = await until(
            lambda: self.events(rule, event=kind, **keys), f"{rule} {kind} {keys}; heard {self.told()}", within_s
        )
        return found[0]

    def told(self) -> list[str]:
        """All events in short, for messages of failed tests."""
        return [f"{e['event_id']} {e['event']} {e['severity']}" for e in self.events()]

    def retained(self, topic: str) -> dict[str, Any]:
        """The JSON that stands at a topic; {} if nothing does."""
        return json.loads(self.now.get(topic, b"{}"))  # type: ignore[no-any-return]

    async def state(self, topic: str, within_s: float = WAIT_S, **keys: Any) -> dict[str, Any]:
        """What stands at a topic, once it has these values."""
        await until(
            lambda: topic in self.now and all(self.retained(topic).get(k) == v for k, v in keys.items()),
            f"{topic} has {keys}",
            within_s,
        )
        return self.retained(topic)

    async def no_incident(self, account: str = "main") -> None:
        """Wait until nothing stands that is wrong with an account."""
        await until(lambda: not self.under(account, "incident"), f"no incident of {account} stands")

    def under(self, *parts: str) -> set[str]:
        """Retained topics that begin with these parts, without them."""
        prefix = "/".join(("marginwatch", *parts)) + "/"
        return {topic.removeprefix(prefix) for topic in self.now if topic.startswith(prefix)}


# ---- the config ----

Table = Mapping[str, Any]

LINKS: Table = {
    "tick_s": 0.05,
    "connect_timeout_s": 2,
    "first_frame_s": 1,
    "ping_interval_s": 0.4,
    "ping_timeout_s": 0.4,
    "close_timeout_s": 0.2,
    "backoff_min_s": 0.05,
    "backoff_max_s": 0.3,
    "keepalive_s": 5,
    "reconcile_s": 0.4,
    "refresh_s": 5,
    "clock_s": 5,
    "rest_timeout_s": 0.5,
    "weight_per_minute": 100_000,
}
MQTT: Table = {"timeout_s": 1, "reconnect_max_s": 0.2, "keepalive_s": 2}
RULES: Table = {
    "margin_ratio": {"clear_for_s": 0},
    "liquidation_distance": {"clear_for_s": 0},
    "liquidation_price_moved": {"funding_window_s": 0.3, "fills_window_s": 0.3},
    "data_stale": {
        "stale_after_s": 1,
        "clear_for_s": 0.2,
        "rest_patience_s": 0.3,
        "steps": [
            {"at": 1.5, "clear": 0.8, "severity": "warning"},
            {"at": 30, "clear": 0.8, "severity": "critical"},
        ],
    },
}
"""Levels as they are by default, durations of a second or so."""


def private_file(path: Path, text: str) -> Path:
    """A file as a secret must lie: readable by its owner alone."""
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


class Reachable(Protocol):
    """What a config says of a simulated exchange, in this process or another: its addresses, and accounts with a
    market, a key and a secret."""

    @property
    def url(self) -> str: ...

    @property
    def ws_url(self) -> str: ...

    @property
    def accounts(self) -> Mapping[str, Any]: ...


def write_config(
    folder: Path,
    exchange: Reachable,
    port: int,
    accounts: Iterable[str] = ("main",),
    *,
    hurried: bool = True,
    mqtt: Table | None = None,
    links: Table | None = None,
    rules: Mapping[str, Table] | None = None,
    **top: Any,
) -> Path:
    """A config file that points at a simulated exchange and a broker, with durations fit for tests.

    Args:
        hurried: False: with the daemon's own durations.
        mqtt, links: Keys of these tables, over the tests' own.
        rules: Rule → keys, over the tests' own.
        top: Further keys and tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own_mqtt, own_links, own_rules = (MQTT, LINKS, RULES) if hurried else ({}, {}, {})
    written: dict[str, Any] = {
        "instance": "test",
        **({"summary_every_s": 0.5} if hurried else {}),
        "summary": {"enabled": False},  # else tests that run at eight would hear of it
        **top,
        "mqtt": {"host": "127.0.0.1", "port": port, **own_mqtt, **(mqtt or {})},
        "links": {**own_links, **(links or {})},
        "store": {"path": str(folder / "store.sqlite3")},
        "log": {"format": "json"},
        "rules": {
            name: {**own_rules.get(name, {}), **(rules or {}).get(name, {})} for name in {**own_rules, **(rules or {})}
        },
        "account": [
            {
                "name": name,
                "environment": "custom",
                **addresses(exchange, name),
                "wallet_url": exchange.url,
                "api_key": f"file:{private_file(folder / f'{name}.key', exchange.accounts[name].api_key)}",
                "secret": f"file:{private_file(folder / f'{name}.secret', exchange.accounts[name].secret)}",
            }
            for name in accounts
        ],
    }
    path = folder / "config.toml"
    path.write_text("".join(_toml(written)), "utf-8")
    return path


def addresses(exchange: Reachable, account: str) -> Table:
    """Venue and addresses of an account; the simulated exchange serves both hosts on one port."""
    if exchange.accounts[account].market == "coinm":
        host = f"{exchange.ws_url}/dstream"
        return {"venue": "binance-coinm", "rest_url": exchange.url, "market_url": host, "private_url": host}
    return {
        "venue": "binance-usdm",
        "rest_url": exchange.url,
        "market_url": f"{exchange.ws_url}/market",
        "private_url": f"{exchange.ws_url}/private",
    }


def _toml(table: Table, path: str = "") -> Iterable[str]:
    """A table as TOML: its plain values first, then its tables."""
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    rows = {k: v for k, v in table.items() if isinstance(v, list) and path == "" and v and isinstance(v[0], Mapping)}
    yield from (f"{k} = {_inline(v)}\n" for k, v in table.items() if k not in tables and k not in rows)
    for key, inner in tables.items():
        yield f"[{path}{key}]\n"
        yield from _toml(inner, f"{path}{key}.")
    for key, listed in rows.items():
        for row in listed:
            yield f"[[{key}]]\n"
            yield from _toml(row, f"{key}.")


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


# ---- the daemon ----


@asynccontextmanager
async def watching(config: Path) -> AsyncIterator[io.StringIO]:
    """The daemon in this process, from start to a clean stop. Gives what it logs."""
    parsed = settings.load(config)
    log = io.StringIO()
    logs.setup("json", "info", log)
    stop = asyncio.Event()
    running = asyncio.create_task(Daemon(parsed, settings.fetch(parsed)).run(stop), name="daemon")
    try:
        yield log
    except AssertionError as exc:
        exc.add_note(log.getvalue()[-6000:])
        raise
    finally:
        stop.set()
        async with asyncio.timeout(WAIT_S):
            await running


class Process:
    """`monitor run` as a process of its own. Its output lies in files.

    Args:
        environment: Variables besides our own.
    """

    def __init__(self, config: Path, environment: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environment = {**os.environ, **(environment or {})}
        self._files = (config.parent / "stdout.log", config.parent / "stderr.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        out, err = (path.open("ab") for path in self._files)
        with out, err:
            command = [sys.executable, "-m", "monitor", "run", "--config", str(self._config)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, env=self._environment)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self, within_s: float = WAIT_S) -> int:
        """Its exit status, once it has one; death by a signal is negative."""
        assert self._process is not None
        process = self._process
        await until(lambda: process.poll() is not None, "the daemon has ended", within_s)
        return int(process.returncode)

    @property
    def stdout(self) -> str:
        return self._files[0].read_text("utf-8")

    @property
    def stderr(self) -> str:
        return self._files[1].read_text("utf-8")

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log lines, of one event or all. A line under way is left out."""
        lines = [json.loads(line) for line in self.stdout.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if event in (None, line["event"])]


# ---- what the exchange says ----


async def marginwatch(command: str, config: Path, *arguments: str) -> tuple[int, str, str]:
    """A command as a user runs it: its exit status, what it prints, and what it says beside that."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "monitor", command, "--config", str(config), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def subscribers(exchange: Exchange, stream: str) -> int:
    """How many connections have subscribed to this stream: what is pushed before that, nobody hears."""
    return sum(stream in connection.streams for connection in exchange.streams.connections)


async def told_by_exchange(exchange: Exchange, account: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of positionRisk, and the account's answer, as the exchange's REST prints them."""
    async with wire.client(exchange, account) as client:
        rows = await client._request_futures_api("get", "positionRisk", signed=True, version=3, data={})
        answer = await client._request_futures_api("get", "account", signed=True, version=3, data={})
    held = [row for row in rows if D(row["positionAmt"])]
    return held, answer


async def differences(exchange: Exchange, listener: Listener, account: str) -> list[str]:
    """How what is published differs from what the exchange prints: of every position and pool, and none besides."""
    rows, answer = await told_by_exchange(exchange, account)
    assets = {row["asset"]: row for row in answer["assets"]}
    owner = exchange.accounts[account]
    found = []
    positions, pools, sums = set(), set(), dict[str, Decimal]()
    for row in rows:
        symbol, side = row["symbol"], row["positionSide"]
        isolated = owner.setting(symbol).isolated
        slug = symbol.lower().replace("_", "5f") + ("" if side == "BOTH" else f"-{side.lower()}")
        pool = f"isolated-{slug}" if isolated else f"cross-{row['marginAsset'].lower()}"
        pool = "multi-assets" if owner.multi_assets else pool
        positions.add(slug)
        pools.add(pool)
        ours = listener.retained(f"marginwatch/{account}/position/{slug}")
        price = row["liquidationPrice"]
        theirs = {
            "side": "long" if D(row["positionAmt"]) > 0 else "short",
            "quantity": row["positionAmt"],
            "entry_price": row["entryPrice"],
            "mark_price": row["markPrice"],
            "notional": row["notional"],
            "unrealized_pnl": row["unRealizedProfit"],
            "maintenance_margin": row["maintMargin"],
            "liquidation_price": None if price == "0" else price,
            "asset": row["marginAsset"],
            "pool": pool,
            "margin_mode": "isolated" if isolated else "cross",
            "freshness": "live",
        }
        found += [f"{slug} {k}: {ours.get(k)} not {v}" for k, v in theirs.items() if not _same(ours.get(k), v)]
        if isolated:
            balance = D(row["isolatedMargin"])
            found += _pool_differences(listener, account, pool, balance, D(row["maintMargin"]))
        elif not owner.multi_assets:
            sums[row["marginAsset"]] = sums.get(row["marginAsset"], D(0)) + D(row["maintMargin"])
    if owner.multi_assets and rows:
        balance, maintenance = D(answer["totalMarginBalance"]), D(answer["totalMaintMargin"])
        found += _pool_differences(listener, account, "multi-assets", balance, maintenance)
    for asset, maintenance in sums.items():
        balance = D(assets[asset]["crossWalletBalance"]) + D(assets[asset]["crossUnPnl"])
        found += _pool_differences(listener, account, f"cross-{asset.lower()}", balance, maintenance)
    for kind, expected in (("position", positions), ("pool", pools)):
        if (published := listener.under(account, kind)) != expected:
            found.append(f"{kind}s published are {sorted(published)}, not {sorted(expected)}")
    return found


def _pool_differences(
    listener: Listener, account: str, pool: str, balance: Decimal, maintenance: Decimal
) -> Iterable[str]:
    """The exchange prints sums of truncated parts, we the truncated sum: they may differ in the last digit."""
    ours = listener.retained(f"marginwatch/{account}/pool/{pool}")
    expected = {
        "margin_balance": balance,
        "maintenance_margin": maintenance,
        "margin_ratio": min(maintenance / balance, D(10)) if balance > 0 else D(10),
    }
    for key, value in expected.items():
        said = ours.get(key)
        if said is None or abs(D(str(said)) - value) > D("0.0000001"):
            yield f"{pool} {key}: {said} not {value}"
    if ours.get("freshness") != "live":
        yield f"{pool} is {ours.get('freshness')}"


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, str) and isinstance(theirs, str):
        with suppress(ArithmeticError):
            return D(ours) == D(theirs)
    return bool(ours == theirs)


async def agreement(exchange: Exchange, listener: Listener, *accounts: str, within_s: float = WAIT_S) -> None:
    """Wait until what is published is what the exchange prints, for each of these accounts.

    It is asked less and less often, for we share the weight that the daemon needs.
    """
    last: list[str] = []
    pause_s = 0.005

    async def agrees() -> bool:
        nonlocal last, pause_s
        if last:
            await asyncio.sleep(pause_s)
            pause_s = min(1.2 * pause_s, 0.25)
        last = [line for account in accounts for line in await differences(exchange, listener, account)]
        return not last

    try:
        await eventually(agrees, "what is published is what the exchange prints", within_s)
    except AssertionError as exc:
        exc.add_note("\n".join(last))
        raise
