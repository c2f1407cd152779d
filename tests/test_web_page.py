"""The page in a real browser, beside the real daemon: it is never wrong without saying so."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from monitor.sim import Exchange
from tests import browser as tools
from tests import stories
from tests.browser import Browser, browsing
from tests.rig import (
    Listener,
    Mosquitto,
    Process,
    Table,
    free_port,
    private_file,
    until,
    write_config,
)

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
async def tab() -> AsyncIterator[Browser]:
    tools.needs("chromium", tools.CHROMIUM is not None)
    tools.needs("chromedriver", tools.DRIVER is not None)
    async with browsing() as browser:
        yield browser


def config_of(folder: Path, exchange: Exchange, broker: Mosquitto, **http: object) -> tuple[Path, str]:
    """A config with a page, and the page's address."""
    port = free_port()
    table: Table = {"listen": f"127.0.0.1:{port}", **http}
    return write_config(folder / "watch", exchange, broker.port, http=table), f"http://127.0.0.1:{port}/"
