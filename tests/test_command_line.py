"""The command line as a user lives with it: what is around a command, whichever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rig import private_file

CONFIG = """
[mqtt]
port = 1
[store]
path = "{folder}/store.sqlite3"
[[account]]
name = "main"
venue = "binance-usdm"
api_key = "env:KEY"
secret = "env:SECRET"
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["check", "--config", "CONFIG"], 0),
        (["status", "--config", "CONFIG"], 3),
        (["watch", "--config", "CONFIG", "--once"], 3),
        (["forget", "--config", "CONFIG"], 1),
        (["assess", "-"], 1),
        (["replay", "nowhere.jsonl"], 1),
        (["init", "--directory", "."], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_without_its_streams_a_command_ends_as_it_does_with_them(
    tmp_path: Path, arguments: list[str], status: int, closed: str
) -> None:
    """A script may close them; and a monitoring system would read the 1 of a traceback as a warning."""
    config = private_file(tmp_path / "mine.toml", CONFIG.format(folder=tmp_path))
    command = [str(config) if word == "CONFIG" else word for word in arguments]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "monitor", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "KEY": "k" * 64, "SECRET": "s" * 64},
    )

    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["status"], ["watch", "--once"]])
def test_what_cannot_be_printed_is_no_warning_of_how_it_stands(tmp_path: Path, command: list[str]) -> None:
    """Of status and watch 1 means an open incident; and where errors cannot be printed either, that changes nothing."""
    config = private_file(tmp_path / "mine.toml", CONFIG.format(folder=tmp_path))
    argv: list[Any] = [sys.executable, "-m", "monitor", *command, "--config", config]
    gone, pipe = os.pipe()
    os.close(gone)
    with open("/dev/full", "wb") as full, open(os.devnull, "rb") as for_reading:
        unread = subprocess.run(argv, stdout=pipe, stderr=subprocess.PIPE)
        mute = subprocess.run(argv, stdout=full, stderr=full)
        wrong = subprocess.run(argv, stdout=for_reading, stderr=subprocess.PIPE)
    os.close(pipe)

    assert (unread.returncode, mute.returncode, wrong.returncode) == (3, 3, 3)
    assert b"Traceback" not in unread.stderr + wrong.stderr
