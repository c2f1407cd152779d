"""Where log lines go, and what becomes of the daemon where they cannot."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pytest

from monitor.shell import logs


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that it closes


def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    """`marginwatch run | head`, or a log collector that was restarted."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        logs.setup("json", "info", pipe)
        os.close(reading)
        logs.logger().warning("link down")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_a_terminal_without_our_letters_shows_the_rest() -> None:
    """`≥` is in nearly every alert, and a locale may not have it."""
    shown = io.BytesIO()
    logs.setup("json", "info", io.TextIOWrapper(shown, "ascii", write_through=True))
    logs.logger().info("incident opened", text="margin ratio 81.2 % (≥ 80 %)")

    assert json.loads(shown.getvalue())["text"] == "margin ratio 81.2 % (≥ 80 %)"
