"""Where log lines go, and what becomes of the daemon where they cannot."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import structlog

from monitor.shell import logs
from monitor.shell.logs import Repetitions
from monitor.shell.sink import Sink


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    logs.setup("json", "info", io.StringIO())


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    """Every alert has its line; one that raised would end the daemon at the very moment that it has to tell of it."""
    with open("/dev/full", "w", buffering=1, encoding="utf-8") as full:
        logs.setup("json", "info", full)
        for number in range(3):
            logs.logger().error("incident opened", number=number)
        logs.setup("json", "info", io.StringIO())
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that it closes


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    """`marginwatch run | head`, or a log collector that was restarted."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        logs.setup("json", "info", pipe)
        os.close(reading)
        logs.logger().warning("link down")
        logs.setup("json", "info", io.StringIO())
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_a_terminal_without_our_letters_shows_the_rest() -> None:
    """`≥` is in nearly every alert, and a locale may not have it."""
    shown = io.BytesIO()
    logs.setup("json", "info", io.TextIOWrapper(shown, "ascii", write_through=True))
    logs.logger().info("incident opened", text="margin ratio 81.2 % (≥ 80 %)")

    assert json.loads(shown.getvalue())["text"] == "margin ratio 81.2 % (≥ 80 %)"


# ---- a reader that hangs ----


def test_whoever_logs_never_waits_and_what_was_dropped_is_counted() -> None:
    """A log collector that stands still must not stand in the way of an alert."""
    reading, writing = os.pipe()
    dropped: list[int] = []
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        sink = Sink(pipe, dropped.append)
        began = time.monotonic()
        for number in range(20_000):
            sink.write(f"{number:099}\n")
        took_s = time.monotonic() - began
        with os.fdopen(reading, "rb") as lines:
            os.set_blocking(reading, False)
            heard = b""
            while not dropped or sink._lines.unfinished_tasks:
                heard += lines.read() or b""
            heard += lines.read() or b""

    numbers = [int(line) for line in heard.splitlines()]
    assert took_s < 5
    assert numbers == sorted(set(numbers)), "whole, and in order"
    assert len(numbers) + sum(dropped) == 20_000


# ---- the same again and again ----


def logged(limit: Repetitions, **line: Any) -> bool:
    try:
        limit(None, "warning", line)
    except structlog.DropEvent:
        return False
    return True


def test_the_first_lines_of_a_minute_are_logged_and_the_rest_is_counted() -> None:
    """A loop that fails each second must not hide everything else, nor fill a disk."""
    shown = io.StringIO()
    logs.setup("json", "info", shown)
    limit = Repetitions(at_once=2, window_s=0.2)
    began = time.monotonic()
    done = [logged(limit, event="link down", account="main", link="rest", reason=f"silent for {n} s") for n in range(5)]
    assert done == [True, True, False, False, False]
    assert logged(limit, event="link down", account="second", link="rest"), "another account is another thing"

    while time.monotonic() < began + 0.3:
        time.sleep(0.01)
    assert logged(limit, event="ready")
    (line,) = (json.loads(line) for line in shown.getvalue().splitlines())
    assert (line["event"], line["of"], line["count"]) == ("repeated lines left out", "link down", 3)
    assert (line["account"], line["link"], line["reason"]) == ("main", "rest", "silent for # s")


def test_a_thousand_accounts_that_fail_at_once_are_summed_up() -> None:
    """Each has its own count, and all of them end in one moment: that was too deep for Python's stack."""
    shown = io.StringIO()
    limit = Repetitions(at_once=1, window_s=1)
    logs.setup("json", "info", shown)
    structlog.configure(processors=[limit, *structlog.get_config()["processors"][1:]])
    names = ["".join(letters) for letters in product("abcdefghij", repeat=3)]
    for name in [*names, *names]:
        logs.logger().warning("link down", account=name)
    began = time.monotonic()

    while time.monotonic() < began + 1.2:
        time.sleep(0.01)
    logs.logger().info("ready")
    *lines, last = (json.loads(line) for line in shown.getvalue().splitlines()[len(names) :])
    assert [line["account"] for line in lines] == names
    assert last["event"] == "ready"


def test_what_is_told_to_people_is_never_left_out() -> None:
    """A hundred incidents at once are a hundred lines."""
    limit = Repetitions(at_once=2)

    assert all(logged(limit, event="incident opened", event_id=str(n)) for n in range(100))
