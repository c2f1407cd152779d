"""`marginwatch watch` as a process: on a real terminal, into a pipe, and once; with the real daemon and broker."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from tests import stories
from tests.rig import ROOT, Listener, Mosquitto, Process, agreement, until, write_config
from tests.test_status import QUIET, SUMMARY, config_of

ALT_SCREEN, SCREEN_BACK, CURSOR_BACK = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


def command(config: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "monitor", "watch", "--config", str(config), *options]


async def once(config: Path) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command(config, "--once"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80"},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


class Terminal:
    """A terminal with a program in it: what it has drawn, what is typed, how large it is."""

    def __init__(self, argv: list[str], columns: int, lines: int, kind: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**environ, "TERM": kind},
            preexec_fn=lambda: os.login_tty(theirs),
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self.drawn = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read(self) -> bytes:
        """All that it has drawn so far."""
        with suppress(OSError):  # nothing new, or it has ended
            while new := os.read(self._ours, 65536):
                self.drawn += new
        return self.drawn

    def last(self) -> list[str]:
        """The lines of the last whole frame, without colours."""
        frames = self.read().split(b"\x1b[H")
        text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", frames[-2] if len(frames) > 2 else b"").decode()
        return text.replace("\r", "").split("\n")

    def shows(self, words: str) -> bool:
        return words in "\n".join(self.last())

    def hang_up(self) -> None:
        os.close(self._ours)
        self._ours = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        if self._ours >= 0:
            os.close(self._ours)


@contextmanager
def terminal(config: Path, columns: int = 80, lines: int = 24, kind: str = "xterm-256color") -> Iterator[Terminal]:
    opened = Terminal(command(config), columns, lines, kind)
    try:
        yield opened
    finally:
        opened.close()


async def test_on_a_terminal_it_draws_follows_resizes_and_leaves_no_trace(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """From a calm table to a dead daemon, and back to the shell with Ctrl-C."""
    async with stories.large("110000") as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config) as daemon:
            await agreement(exchange, listener, "main")
            with terminal(config) as screen:
                await until(lambda: screen.shows("cross-usdt"), "the table is drawn")
                assert screen.shows(" OK ")
                assert screen.shows("BTCUSDT long 2.5")
                assert {len(line) for line in screen.last()} == {80}, "each line is drawn whole: nothing is cleared"

                exchange.set_mark("BTCUSDT", "90372.10")
                await until(lambda: screen.shows(" WARNING ") and screen.shows("81.2%"), "the fall is drawn")
                screen.resize(60, 16)
                await until(lambda: {len(line) for line in screen.last()} == {60}, "it is drawn anew")
                assert len(screen.last()) == 16

                daemon.send(signal.SIGKILL)
                await until(lambda: screen.shows("the daemon is offline"), "its death is drawn")
                assert screen.shows("OLD: the last that is known is")
                broker.kill()
                await until(lambda: screen.shows("has not been heard for"), "the loss is drawn")

                screen.type(b"\x03")
                await until(lambda: screen.process.poll() is not None, "Ctrl-C ends it")
                drawn = screen.read()
    assert screen.process.returncode == 0
    assert drawn.count(ALT_SCREEN) == drawn.count(SCREEN_BACK) == 1
    assert drawn.rindex(CURSOR_BACK) > drawn.rindex(b"cross-usdt")
    assert b"Traceback" not in drawn
    assert b"\x1b[2J" not in drawn, "a screen that is cleared flickers"


async def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    """It cannot be given back as it was, and that is no bug; nor is it well."""
    with terminal(config_of(tmp_path, 1)) as screen:
        await until(lambda: ALT_SCREEN in screen.read(), "it draws")
        screen.hang_up()
        await until(lambda: screen.process.poll() is not None, "it ends")
    assert screen.process.returncode == 3


async def test_a_terminal_that_knows_of_no_screen_gets_lines(tmp_path: Path) -> None:
    """In an editor's shell, say; nothing at all would look as if there were nothing to tell."""
    with terminal(config_of(tmp_path, 1), kind="dumb") as screen:
        await until(lambda: b" UNKNOWN the broker 127.0.0.1:1 has not been heard for " in screen.read(), "a line")
        assert b"\x1b" not in screen.read()


def test_a_loss_keeps_its_sign_where_there_is_no_minus() -> None:
    """A letter for a letter: the table keeps its columns."""
    from monitor.commands.watch import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with patch.object(sys, "stdout", out):
        assert main("/nowhere.toml", once=True, timeout_s=1) == 3
        print("−2.58 ≥ 1", end="", file=out, flush=True)
    assert out.buffer.getvalue() == b"-2.58 ? 1"


async def test_into_a_pipe_it_prints_a_line_for_each_change(lasting_broker: Mosquitto, tmp_path: Path) -> None:
    """For a log, or a person with a screen reader; an age that grows is no change."""
    async with stories.large("110000") as exchange, Listener(lasting_broker.port) as listener:
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, rules=QUIET)
        with Process(config) as daemon:
            await agreement(exchange, listener, "main")
            log = tmp_path / "lines"
            with log.open("wb") as out:
                watching = subprocess.Popen(command(config), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)  # noqa: ASYNC220

            def lines() -> list[str]:
                return log.read_text("utf-8").splitlines()

            try:
                await until(lambda: len(lines()) == 1, "the first line")
                exchange.set_mark("BTCUSDT", "90372.10")
                await until(lambda: len(lines()) == 2, "a warning")
                daemon.send(signal.SIGKILL)
                await until(lambda: len(lines()) == 3, "death")
                lasting_broker.kill()
                await until(lambda: len(lines()) == 4, "no broker")
                await lasting_broker.start()
                await until(lambda: len(lines()) == 5, "the broker is back, with what it kept")
                watching.send_signal(signal.SIGTERM)
                assert watching.wait(10) == 0
            finally:
                watching.kill()
    said = [line.split(" ", 2)[1:] for line in lines()]
    assert [code for code, _ in said] == ["OK", "WARNING", "CRITICAL", "UNKNOWN", "CRITICAL"]
    assert said[1][1] == "main: margin ratio 81.2 %, 0.09 % from liquidation"
    assert said[2][1].startswith("the daemon is offline")
    assert "has not been heard" in said[3][1]


async def test_once_prints_a_table_and_ends_as_status_does(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """For a look over ssh, and for scripts."""
    async with stories.large("110000") as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=QUIET)
        with Process(config):
            await agreement(exchange, listener, "main")
            calm = await once(config)
            exchange.set_mark("BTCUSDT", "90320")
            await listener.state(SUMMARY, severity="critical")
            bad = await once(config)
    assert (calm[0], bad[0]) == (0, 2)
    assert "cross-usdt" in calm[1]
    assert "BTCUSDT long 2.5" in calm[1]
    assert "\x1b" not in calm[1], "a pipe gets no colours"
    assert "CRITICAL  main: margin ratio 91.9%" in bad[1]
    assert max(len(line) for line in bad[1].splitlines()) <= 80


def test_without_its_package_it_says_where_to_get_it() -> None:
    """A name that nobody has published is no remedy: whoever publishes it first would be installed beside the keys."""
    code = (
        "import sys; sys.modules['rich'] = None; from monitor.__main__ import main; sys.exit(main(['watch', '--once']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "the table needs the package rich: in the checkout, pip install '.[watch]'\n"


async def test_once_without_a_broker_cannot_tell(tmp_path: Path) -> None:
    """3, as status."""
    code, out, err = await once(config_of(tmp_path, 1))
    assert (code, out) == (3, "")
    assert "the broker 127.0.0.1:1 was not reached" in err
