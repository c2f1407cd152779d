"""The units as they are, under a real systemd: what they allow suffices, what they forbid is forbidden."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.sim import Exchange
from tests import stories
from tests.machine import Machine, needs_machine
from tests.rig import Listener, Mosquitto, agreement, eventually, private_file, until, write_config

UNIT = "marginwatch.service"
SECOND = "marginwatch@second.service"
SHORT_WATCHDOG = "[Service]\nWatchdogSec=3s\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    needs_machine()
    booted = Machine(tmp_path_factory.mktemp("machine") / "files")
    try:
        booted.start()
        yield booted
    finally:
        booted.close()


@pytest.fixture(autouse=True)
def stopped(machine: Machine) -> Iterator[None]:
    yield
    machine.run("systemctl", "stop", UNIT, SECOND)
    machine.run("systemctl", "reset-failed")


def installed(machine: Machine, tmp_path: Path, exchange: Exchange, broker: Mosquitto, instance: str = "") -> Path:
    """Config and secrets of a service, as the deployment page says. Returns its folder."""
    folder = machine.root / "etc/marginwatch" / instance
    folder.mkdir(parents=True, exist_ok=True)
    mqtt = {"prefix": f"marginwatch/{instance}"} if instance else {}
    written = write_config(tmp_path / f"made{instance}", exchange, broker.port, mqtt=mqtt)
    text = written.read_text("utf-8")
    for name in ("key", "secret"):
        made = written.parent / f"main.{name}"
        private_file(folder / f"binance_{name}", made.read_text("utf-8"))
        text = text.replace(f"file:{made}", f"credential:binance_{name}")
    lines = [line for line in text.splitlines() if line != "[store]" and not line.startswith("path = ")]
    (folder / "config.toml").write_text("\n".join(lines), "utf-8")
    return folder


async def systemctl(machine: Machine, *arguments: str) -> None:
    result = await asyncio.to_thread(machine.run, "systemctl", *arguments)
    assert result.returncode == 0, f"{result.stderr}\n{machine.journal(UNIT)[-3000:]}"


async def test_the_service_starts_alerts_reloads_and_stops_as_it_is_confined(
    machine: Machine, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A unit that scores well and in which the daemon cannot write its store would be found at the first alert."""
    async with stories.exchange() as exchange:
        folder = installed(machine, tmp_path, exchange, broker)
        await systemctl(machine, "start", UNIT)
        await agreement(exchange, listener, "main")
        await until(lambda: machine.show(UNIT, "StatusText").startswith("2 pools, worst margin"), "its status is true")
        confined = _status_of(machine, machine.show(UNIT, "MainPID"))
        exchange.set_mark("BTCUSDT", "50000")
        await listener.event("liquidation_distance", "opened")

        config = folder / "config.toml"
        config.write_text(config.read_text("utf-8") + "\n[rules.margin_ratio.nonsense]\n", "utf-8")
        await systemctl(machine, "reload", UNIT)
        await until(lambda: "config not reloaded" in machine.journal(UNIT), "a wrong config is refused")
        assert machine.show(UNIT, "ActiveState") == "active"

        begun = time.monotonic()
        await systemctl(machine, "stop", UNIT)
        took_s = time.monotonic() - begun
        await until(lambda: listener.now.get("marginwatch/status") == b"offline", "offline is said")

    assert confined["Uid"].split()[0] != "0"
    assert {name: confined[name] for name in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp")} == {
        "CapBnd": "0" * 16,
        "CapEff": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert int(machine.show(UNIT, "LimitNOFILESoft")) >= 10_000, "each account has a connection"
    assert took_s < 5
    assert (machine.show(UNIT, "Result"), machine.show(UNIT, "NRestarts")) == ("success", "0")
    assert "store unusable" not in machine.journal(UNIT)
    kept = machine.run("stat", "--format=%a %n", "/var/lib/private/marginwatch/marginwatch.sqlite3").stdout
    assert kept.startswith("600 ")


def _status_of(machine: Machine, pid: str) -> dict[str, str]:
    lines = machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_dead_exchange_is_no_failed_start_and_a_hang_is_ended_by_the_watchdog(
    machine: Machine, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """What is broken elsewhere is told, and what is broken here is started anew: nothing is told twice by that."""
    drop_in = machine.root / f"etc/systemd/system/{UNIT}.d/watchdog.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(SHORT_WATCHDOG, "utf-8")
    await systemctl(machine, "daemon-reload")
    try:
        async with stories.exchange() as exchange:
            installed(machine, tmp_path, exchange, broker)
            machine.run("rm", "-rf", "/var/lib/private/marginwatch")
            await exchange.kill()
            await systemctl(machine, "start", UNIT)  # returns once it is ready
            await listener.event("data_stale", "opened", subject="private")
            first = machine.show(UNIT, "MainPID")
            await exchange.start()
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "50000")
            opened = await listener.event("liquidation_distance", "opened")
            assert (machine.show(UNIT, "MainPID"), machine.show(UNIT, "NRestarts")) == (first, "0")

            machine.run("kill", "-STOP", first)
            await until(lambda: machine.show(UNIT, "NRestarts") == "1", "systemd starts it anew", 30)
            await eventually(lambda: _is_ready(machine), "it is ready again", 30)
            exchange.set_mark("BTCUSDT", "49000")
            worsened = await listener.event("liquidation_distance", "worsened")
            await systemctl(machine, "stop", UNIT)  # before the exchange, to which it would connect as that closes
    finally:
        drop_in.unlink()
        machine.run("systemctl", "daemon-reload")

    assert worsened["incident_id"] == opened["incident_id"]
    assert len(listener.events("liquidation_distance", event="opened")) == 1
    assert "Watchdog timeout" in machine.journal(UNIT)


async def _is_ready(machine: Machine) -> bool:
    return machine.show(UNIT, "ActiveState") == "active"


async def test_a_missing_secret_is_named_and_not_tried_again(
    machine: Machine, broker: Mosquitto, tmp_path: Path
) -> None:
    """No restart brings a file; and systemd's own words for it would name neither account nor key."""
    async with stories.exchange() as exchange:
        (installed(machine, tmp_path, exchange, broker) / "binance_key").unlink()
        result = await asyncio.to_thread(machine.run, "systemctl", "start", UNIT)

    assert result.returncode == 1
    assert (machine.show(UNIT, "ExecMainStatus"), machine.show(UNIT, "ActiveState")) == ("78", "failed")
    assert '[[account]] "main" api_key (credential:binance_key): is empty' in machine.journal(UNIT)


async def test_an_instance_runs_beside_the_service_from_a_folder_of_its_own(
    machine: Machine, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Two daemons on one machine share neither secrets nor store nor topics."""
    listener.prefixes = []
    async with stories.exchange() as exchange:
        installed(machine, tmp_path, exchange, broker)
        installed(machine, tmp_path, exchange, broker, "second")
        await systemctl(machine, "start", UNIT, SECOND)
        await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
        await listener.state("marginwatch/second/main/summary", freshness="live", open_positions=2)
        exchange.set_mark("BTCUSDT", "50000")
        await until(lambda: "marginwatch/second/main/incident/liquidation_distance/cross-usdt" in listener.now, "told")
        history = machine.run(
            "/opt/marginwatch/bin/marginwatch", "history", "--config", "/etc/marginwatch/second/config.toml"
        )
        stores = machine.run("sh", "-c", "ls /var/lib/private/*/marginwatch.sqlite3").stdout.split()
        await systemctl(
            machine, "stop", UNIT, SECOND
        )  # before the exchange, to which they would connect as that closes

    assert "liquidation_distance" in history.stdout, history.stderr
    assert stores == [
        "/var/lib/private/marginwatch-second/marginwatch.sqlite3",
        "/var/lib/private/marginwatch/marginwatch.sqlite3",
    ]


# ---- what is forbidden ----

PROBE = """
import ctypes, json, mmap, os, socket, sys

libc = ctypes.CDLL(None, use_errno=True)

def write(path):
    open(path, "a").close()

def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

TRIES = {
    "write its state": lambda: write(os.environ["STATE_DIRECTORY"] + "/probe"),
    "write /tmp": lambda: write("/tmp/probe"),
    "open an internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "write /etc": lambda: write("/etc/marginwatch/probe"),
    "write /usr": lambda: write("/usr/probe"),
    "write /var": lambda: write("/var/lib/probe"),
    "read /root": lambda: os.listdir("/root"),
    "read the key on disk": lambda: open("/etc/marginwatch/binance_key").read(),
    "make memory executable": executable_memory,
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "trace a process": lambda: call("ptrace", 0, 0, 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "make a namespace": lambda: call("unshare", 0x10000000),
    "load a module": lambda: call("syscall", 313, 0, b"", 0),
    "set the clock": lambda: call("settimeofday", ctypes.create_string_buffer(16), None),
    "become root": lambda: os.setuid(0),
    "make a setuid file": lambda: (write("/tmp/suid"), os.chmod("/tmp/suid", 0o4755)),
}

def outcome(attempt):
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ("done", "refused")[os.WEXITSTATUS(status)]

with open(os.environ["STATE_DIRECTORY"] + "/outcomes.json", "w") as out:
    json.dump({name: outcome(attempt) for name, attempt in TRIES.items()}, out)
"""
PROBING = """\
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart=/bin/sh -c 'LD_LIBRARY_PATH=/srv/python/lib exec /srv/python/bin/python3 -B /opt/marginwatch/probe.py'
"""


async def test_what_the_unit_forbids_is_forbidden(machine: Machine, broker: Mosquitto, tmp_path: Path) -> None:
    """Tried from inside, by a program that is confined as the daemon is."""
    (machine.root / "opt/marginwatch/probe.py").write_text(PROBE, "utf-8")
    drop_in = machine.root / f"etc/systemd/system/{UNIT}.d/probe.conf"
    drop_in.parent.mkdir(exist_ok=True)
    async with stories.exchange() as exchange:
        installed(machine, tmp_path, exchange, broker)
    free = _outcomes(machine, confined=False)
    drop_in.write_text(PROBING, "utf-8")
    try:
        await systemctl(machine, "daemon-reload")
        await systemctl(machine, "start", UNIT)
        confined = _outcomes(machine)
    finally:
        drop_in.unlink()
        machine.run("systemctl", "daemon-reload")

    allowed = {"write its state", "write /tmp", "open an internet socket"}
    assert {name for name, outcome in confined.items() if outcome == "done"} == allowed
    assert {confined[name] for name in ("trace a process", "mount", "load a module", "set the clock")} == {"signal 31"}
    # Without the unit most of it goes through: the probe is able to find a unit that forbids nothing.
    assert {name for name, outcome in free.items() if outcome == "done"} >= {
        *allowed,
        "write /etc",
        "write /var",
        "read the key on disk",
        "make memory executable",
        "trace a process",
        "mount",
        "make a namespace",
        "make a setuid file",
    }


def _outcomes(machine: Machine, confined: bool = True) -> dict[str, Any]:
    state = "/var/lib/private/marginwatch"
    if not confined:
        state = "/var/tmp/free"
        script = f"mkdir -p {state}; STATE_DIRECTORY={state} LD_LIBRARY_PATH=/srv/python/lib /srv/python/bin/python3 -B"
        result = machine.run("unshare", "--mount", "sh", "-c", f"{script} /opt/marginwatch/probe.py")
        assert result.returncode == 0, result.stderr
    outcomes: dict[str, Any] = json.loads(machine.run("cat", f"{state}/outcomes.json").stdout)
    return outcomes
