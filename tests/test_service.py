"""The daemon as systemd knows it: a real process, a real notify socket, real signals.

`test_machine.py` has it under a real systemd, with the unit as it is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import stories
from tests.rig import Listener, Mosquitto, Process, agreement, free_port, private_file, until, write_config


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._take)
        self.said: list[str] = []
        """Everything so far, in order."""

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": "30000000"}

    def _take(self) -> None:
        self.said.append(self._socket.recv(4096).decode())

    @property
    def status(self) -> str:
        """What `systemctl status` would show now."""
        lines = [line.removeprefix("STATUS=") for line in self.said if line.startswith("STATUS=")]
        return lines[-1] if lines else ""

    @property
    def fed(self) -> int:
        """How often the watchdog has been fed."""
        return self.said.count("WATCHDOG=1")

    async def fed_on(self, times: int = 5) -> None:
        before = self.fed
        await until(lambda: self.fed >= before + times, "the watchdog is fed")

    async def ready(self) -> None:
        await until(lambda: "READY=1" in self.said, f"it is ready; said {self.said[-5:]}")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    listening = Manager(tmp_path / "run")
    yield listening
    listening.close()


# ---- ready ----


async def test_ready_is_said_once_every_link_is_proved_and_stopping_when_it_ends(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """What systemd starts after us may rely on us; and an update is a stop that takes seconds."""
    async with stories.exchange() as exchange:
        with Process(write_config(tmp_path / "d", exchange, broker.port), manager.environment) as process:
            await manager.ready()
            links = {line["link"] for line in process.logged() if line["event"] == "link live"}
            await agreement(exchange, listener, "main")
            await until(lambda: manager.status.startswith("2 pools"), "its status has figures")
            await manager.fed_on()
            said = manager.status
            process.send(signal.SIGTERM)
            begun = time.monotonic()
            status = await process.ended()
            took_s = time.monotonic() - begun
            await until(lambda: listener.now.get("marginwatch/status") == b"offline", "offline is said")

    assert {"private", "market-binance-usdm-custom"} <= links
    assert said == "2 pools, worst margin ratio 2.4%, 0 incidents open"
    assert (manager.said.count("READY=1"), manager.said.count("STOPPING=1")) == (1, 1)
    assert (status, took_s < 5) == (0, True)


async def test_with_a_dead_exchange_ready_is_said_once_the_blindness_is_told(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """An exchange in maintenance must be neither a start that fails nor a start that pretends; and no restart loop."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        await exchange.kill()
        with Process(config, manager.environment) as process:
            await listener.event("data_stale", "opened", subject="private")
            await manager.ready()
            before = manager.status
            await manager.fed_on(40)  # two seconds of an exchange that refuses everybody
            assert manager.said.count("READY=1") == 1
            await exchange.start()
            await agreement(exchange, listener, "main")
            await listener.event("data_stale", "resolved", subject="private")
            await until(lambda: manager.status == "2 pools, worst margin ratio 2.4%, 0 incidents open", "all is well")
            pids = [line for line in process.logged("started")]

    opened = [n for n, line in enumerate(process.logged()) if line["event"] == "incident opened"]
    [ready] = [n for n, line in enumerate(process.logged()) if line["event"] == "ready"]
    assert before.startswith("main: positions unknown; main private: no data; ")
    assert "no positions" not in before
    assert opened[0] < ready
    assert len(pids) == 1


async def test_a_proxy_that_it_cannot_use_is_told_and_ends_nothing(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """One that is no HTTP proxy, say. The way to the broker is another."""
    proxy = {"socks_proxy": "socks5://127.0.0.1:1"}
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        config.write_text(config.read_text("utf-8").replace("//127.0.0.1:", "//exchange.invalid:"), "utf-8")
        with Process(config, proxy) as process:
            await listener.event("data_stale", "opened", subject="private")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0

    assert "SOCKS" in process.logged("link down")[0]["reason"]


@pytest.mark.parametrize("is_dead", [False, True], ids=["exchange alive", "exchange dead"])
async def test_a_dead_broker_keeps_it_neither_from_being_ready_nor_from_living(
    is_dead: bool, tmp_path: Path, manager: Manager
) -> None:
    """A restart brings no broker back; what is to be told waits in the store, and systemd's status says so."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, free_port())
        if is_dead:
            await exchange.kill()
        with Process(config, manager.environment) as process:
            await manager.ready()
            await manager.fed_on(40)
            await until(lambda: "broker away; " in manager.status, "the status says that nobody is told")
            started = process.logged("started")

    assert len(started) == 1
    assert ("positions unknown" in manager.status) == is_dead


# ---- the watchdog ----


async def test_the_watchdog_starves_while_the_core_hangs(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """Its loop is held up for real, in its own thread: a signal that the daemon does not know makes it sleep."""
    sleeper = tmp_path / "sleeper"
    sleeper.mkdir()
    sleep = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(4))\n"
    (sleeper / "sitecustomize.py").write_text(sleep, "utf-8")
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        with Process(config, {**manager.environment, "PYTHONPATH": str(sleeper)}) as process:
            await manager.ready()
            await agreement(exchange, listener, "main")
            await manager.fed_on()
            process.send(signal.SIGUSR1)
            exchange.set_mark("BTCUSDT", "50000")
            silent_since = await _silence(manager)
            fed = manager.fed
            assert time.monotonic() - silent_since > 1.5
            await manager.fed_on()
            assert manager.fed > fed
            await listener.event("liquidation_distance", "opened")


async def test_a_log_that_nobody_reads_starves_nothing(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """A log collector that hangs must not stand in the way of an alert, nor of a clean end."""
    fifo = tmp_path / "d" / "stdout.log"
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        with _reader(fifo) as log, Process(config, manager.environment) as process:
            await manager.ready()
            await agreement(exchange, listener, "main")
            _fill(fifo)
            exchange.set_mark("BTCUSDT", "50000")
            await listener.event("liquidation_distance", "opened")
            await manager.fed_on()
            lines = b""

            def has_come() -> bool:
                nonlocal lines
                lines += _drain(log)
                return b"incident opened" in lines

            await until(has_come, "its line was waiting, not lost")
            _fill(fifo)
            process.send(signal.SIGTERM)
            assert await process.ended() == 0


async def _silence(manager: Manager) -> float:
    """When the watchdog was fed for the last time, once that is 30 ticks ago."""
    fed, since = manager.fed, time.monotonic()

    def silent() -> bool:
        nonlocal fed, since
        if manager.fed != fed:
            fed, since = manager.fed, time.monotonic()
        return time.monotonic() - since > 1.6

    await until(silent, "the watchdog is not fed any more")
    return since


@contextmanager
def _reader(fifo: Path) -> Iterator[int]:
    """Somebody who holds the other end of this file."""
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    yield end
    os.close(end)


def _fill(fifo: Path) -> None:
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    for chunk in (b"\n" * 4096, b"\n"):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, chunk)
    os.close(writer)


def _drain(end: int) -> bytes:
    read = b""
    with suppress(BlockingIOError):
        while new := os.read(end, 65536):
            read += new
    return read


# ---- reload ----


async def test_sighup_takes_rules_and_log_level_and_keeps_both_where_the_config_is_wrong(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """A typo in a reload at night must not leave an account unwatched, nor pass unseen."""
    quiet = {"liquidation_distance": {"enabled": False}}
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=quiet)
        with Process(config, manager.environment) as process:
            await manager.ready()
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "53000")  # 9 % away
            await agreement(exchange, listener, "main")

            config.write_text(config.read_text("utf-8").replace("[mqtt]\n", "[mqtt]\nprot = 1\n"), "utf-8")
            process.send(signal.SIGHUP)
            await until(lambda: process.logged("config not reloaded, the old one stays in force"), "it is refused")
            [refused] = process.logged("config not reloaded, the old one stays in force")
            await manager.fed_on()
            before = listener.told()

            other = write_config(tmp_path / "e", exchange, broker.port)
            _rewrite(config, other, level="error")
            process.send(signal.SIGHUP)
            await listener.event("liquidation_distance", "opened", subject="cross-usdt")
            unheard = process.logged("incident opened")

            _rewrite(config, other, level="info")
            process.send(signal.SIGHUP)
            await until(lambda: process.logged("config reloaded"), "the log speaks again")
            [reloaded] = process.logged("config reloaded")
            exchange.set_mark("BTCUSDT", "50500")
            await listener.event("liquidation_distance", "worsened", subject="cross-usdt")
            await until(lambda: process.logged("incident worsened"), "what is told is logged")
            process.send(signal.SIGTERM)
            status = await process.ended()

    assert before == []
    assert refused["problems"] == [f'{config}: [mqtt] prot: unknown key; did you mean "port"?']
    assert reloaded["restart_needed_for"] == []
    assert (unheard, status) == ([], 0)


async def test_sighup_as_it_starts_is_obeyed_and_ends_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    """Python and the disk of a small machine take seconds, in which whoever writes the config may also reload it."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        text = config.read_text("utf-8")
        config.unlink()
        os.mkfifo(config)
        with Process(config) as process:
            reading = await asyncio.to_thread(config.open, "w", encoding="utf-8")  # once it begins to read its config
            process.send(signal.SIGHUP)
            config.unlink()
            config.write_text(text, "utf-8")
            with reading:
                reading.write(text)
            await until(lambda: process.logged("config reloaded"), "it is obeyed")
            await until(lambda: process.logged("started"), "it starts")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0


@pytest.mark.parametrize("per_connection", [1, 20])
async def test_sighup_adds_changes_and_removes_accounts_and_the_others_notice_nothing(
    per_connection: int, broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """Whoever watches a hundred accounts must not blind ninety-nine of them to add one."""
    accounts = [stories.account(name) for name in ("main", "second")]
    third = stories.account("third", balances={"USDT": "50000"})
    async with stories.exchange(*accounts, third) as exchange:
        links = {"accounts_per_connection": per_connection}
        config = write_config(tmp_path / "d", exchange, broker.port, links=links)
        config.write_text('include = ["accounts.d/*.toml"]\n' + config.read_text("utf-8"), "utf-8")
        with Process(config, manager.environment) as process:
            await manager.ready()
            await agreement(exchange, listener, "main")
            undisturbed = list(exchange.streams.connections)

            other = write_config(tmp_path / "e", exchange, broker.port, ("second",)).read_text("utf-8")
            included = config.parent / "accounts.d" / "second.toml"
            included.parent.mkdir()
            included.write_text(other[other.index("[[account]]") :], "utf-8")
            process.send(signal.SIGHUP)
            await agreement(exchange, listener, "main", "second")
            both = listener.retained("marginwatch/info")["accounts"]

            private_file(tmp_path / "e" / "second.key", exchange.accounts["third"].api_key)
            private_file(tmp_path / "e" / "second.secret", exchange.accounts["third"].secret)
            process.send(signal.SIGHUP)
            await listener.state("marginwatch/second/pool/cross-usdt", wallet_balance="50000.00000000")

            exchange.set_mark("BTCUSDT", "53000")
            await listener.event("liquidation_distance", "opened", account="main")
            before = listener.told()
            included.write_text(included.read_text("utf-8").replace("venue", "vnue"), "utf-8")
            process.send(signal.SIGHUP)
            await until(lambda: process.logged("config not reloaded, the old one stays in force"), "it is refused")
            included.unlink()
            config.write_text(config.read_text("utf-8").replace("[mqtt]\n", "[mqtt]\ninflight = 20\n"), "utf-8")
            process.send(signal.SIGHUP)
            await until(lambda: not listener.under("second"), f"nothing of it is left: {listener.under('second')}")
            exchange.set_mark("BTCUSDT", "50500")
            await listener.event("liquidation_distance", "worsened", account="main")
            await agreement(exchange, listener, "main")
            one = listener.retained("marginwatch/info")["accounts"]
            health = listener.retained("marginwatch/main/health")
            still_open = [c for c in exchange.streams.connections if c in undisturbed and not c.ended]
            process.send(signal.SIGTERM)
            assert await process.ended() == 0

    assert [account["account"] for account in both] == ["main", "second"]
    assert [account["account"] for account in one] == ["main"]
    assert len(undisturbed) == 2
    assert still_open == undisturbed
    assert [link["reconnects"] for link in health["links"].values()] == [0, 0]
    assert not [line for line in process.logged("link down") if line["account"] in ("main", "_instance")]
    assert [[line[key] for key in ("added", "removed", "changed")] for line in process.logged("accounts changed")] == [
        [["second"], [], []],
        [[], [], ["second"]],
        [[], ["second"], []],
    ]
    assert [line["restart_needed_for"] for line in process.logged("config reloaded")] == [[], [], ["mqtt"]]
    assert not [told for told in before if told.startswith("main.") and "resolved" in told]


@pytest.mark.parametrize(
    ("key", "fails", "asked"),
    [
        ("rest_url", "link down", "GET /fapi/v1/exchangeInfo"),
        ("wallet_url", "market data not read", "GET /sapi/v1/system/status"),
    ],
)
async def test_an_account_that_asks_elsewhere_takes_its_market_with_it(
    key: str, fails: str, asked: str, broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """What contracts are, and marks that no stream brings, would be asked of an address that nobody uses any more."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        right = config.read_text("utf-8")
        config.write_text(right.replace(f'{key} = "{exchange.url}"', f'{key} = "http://127.0.0.1:{free_port()}"'))
        with Process(config, manager.environment) as process:
            await manager.ready()
            await until(lambda: process.logged(fails), "nobody answers there")
            config.write_text(right, "utf-8")
            process.send(signal.SIGHUP)
            await agreement(exchange, listener, "main")
            await until(lambda: exchange.counters[asked], "the market is asked for there")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0


async def test_what_was_forced_while_a_key_was_refused_is_told_once_there_is_another(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """Whoever gives the account a key that works has not heard of it since the old one was refused, however long ago
    that was. The exchange's clock is behind, so that its order is of before the new key."""
    async with stories.exchange() as exchange:
        exchange.fault(clock_skew_ms=-60_000)
        config = write_config(tmp_path / "d", exchange, broker.port)
        with Process(config, manager.environment) as process:
            await manager.ready()
            await listener.state("marginwatch/main/pool/isolated-solusdt", freshness="live")
            private_file(config.parent / "main.key", "K" * 64)
            process.send(signal.SIGHUP)
            await until(lambda: process.logged("link down"), "the key is refused")
            exchange.set_mark("SOLUSDT", "120")
            exchange.set_mark("SOLUSDT", "151")
            private_file(config.parent / "main.key", exchange.accounts["main"].api_key)
            process.send(signal.SIGHUP)
            resolved = await listener.event("forced_order", "resolved")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0

    assert (resolved["resolution"], resolved["symbol"], resolved["report"]["left"]) == ("liquidated", "SOLUSDT", "0")


async def test_an_account_that_goes_while_an_incident_is_open_ends_it_and_holds_nothing_up(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """What is told at the change of accounts goes out of turn; the next step must come all the same."""
    async with stories.exchange(*(stories.account(name) for name in ("main", "second"))) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, ("main", "second"))
        with Process(config, manager.environment) as process:
            await manager.ready()
            await agreement(exchange, listener, "main", "second")
            exchange.set_mark("BTCUSDT", "53000")
            for account in ("main", "second"):
                await listener.event("liquidation_distance", "opened", account=account)

            _rewrite(config, write_config(tmp_path / "e", exchange, broker.port), level="info")
            process.send(signal.SIGHUP)
            await listener.event("liquidation_distance", "resolved", account="second")
            exchange.set_mark("BTCUSDT", "50500")
            await listener.event("liquidation_distance", "worsened", account="main")
            process.send(signal.SIGTERM)
            assert await process.ended() == 0

    assert not listener.under("second")


# ---- many accounts ----


async def test_a_start_of_many_is_read_in_turn_and_says_how_far_it_has_come(
    broker: Mosquitto, tmp_path: Path, manager: Manager
) -> None:
    """Of what a minute allows some accounts are known at once, rather than none of all; and nobody is banned."""
    names = [f"a{n}" for n in range(20)]
    async with stories.exchange(*map(stories.account, names)) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, names, links={"weight_per_minute": 250})
        with Process(config, manager.environment) as process:
            await until(lambda: "of 20 accounts known" in manager.status, "it says how far it has come")
            await until(lambda: 4 <= known_of_20(manager.status) < 20, "some are known before the others")
            await until(lambda: exchange.rest.weights.used > 220, "the minute is used up")
            used = exchange.rest.weights.used
            marks = 10 * exchange.counters["GET /fapi/v1/premiumIndex"]  # who lacks them is blind, and need not wait
            status = manager.status

    assert used - marks <= 250
    assert known_of_20(status) < 20
    assert status.count("positions unknown") <= 3
    assert process.logged("link down") == []


def known_of_20(status: str) -> int:
    """How far it says that it has come; 0: it does not say."""
    known, is_said, _ = status.partition(" of 20 accounts known")
    return int(known) if is_said else 0


def _rewrite(config: Path, source: Path, level: str) -> None:
    """The config of another folder in place of this one, with its store and at this log level."""
    text = source.read_text("utf-8").replace("[log]\n", f'[log]\nlevel = "{level}"\n')
    config.write_text(text.replace(str(source.parent), str(config.parent)), "utf-8")


# ---- credentials ----


async def test_credentials_are_read_from_the_folder_that_systemd_names(
    broker: Mosquitto, listener: Listener, tmp_path: Path, manager: Manager
) -> None:
    """With the config's own [credentials] dir for a shell beside it, which systemd's folder comes before."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, credentials={"dir": str(tmp_path / "elsewhere")})
        text = config.read_text("utf-8")
        for name in ("key", "secret"):
            named = tmp_path / "d" / f"main.{name}"
            private_file(folder / f"binance_{name}", named.read_text("utf-8") + "\n")
            text = text.replace(f"file:{named}", f"credential:binance_{name}")
            named.unlink()
        config.write_text(text, "utf-8")
        environment = {**manager.environment, "CREDENTIALS_DIRECTORY": str(folder)}
        with Process(config, environment):
            await manager.ready()
            await agreement(exchange, listener, "main")
        private_file(folder / "binance_key", "\n")
        (folder / "binance_secret").unlink()
        with Process(config, environment) as process:
            status = await process.ended()

    assert status == 78
    assert "(credential:binance_key): is empty; it belongs into the file that LoadCredential= of" in process.stderr
    missing = f"(credential:binance_secret): {folder}/binance_secret does not exist; name it with LoadCredential="
    assert missing in process.stderr
