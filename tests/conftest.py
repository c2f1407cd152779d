"""What several test files share: a broker, somebody who listens, an exchange."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from monitor.shell import logs
from tests.rig import MOSQUITTO, Listener, Mosquitto

settings.register_profile("marginwatch", deadline=None)  # a busy machine is no fault; test_fuzz has bounds of its own
settings.load_profile("marginwatch")


def needs_mosquitto() -> None:
    """Skip where there is no broker to test with; where everything has to be tested, fail."""
    if MOSQUITTO is None:
        if os.environ.get("CI"):
            pytest.fail("mosquitto is not installed, and CI has to test with a real broker")
        pytest.skip("mosquitto is not installed: no real broker to test with")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that forgets when it ends."""
    needs_mosquitto()
    mosquitto = Mosquitto(tmp_path / "broker")
    await mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@pytest.fixture
async def lasting_broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that keeps sessions and messages on disk."""
    needs_mosquitto()
    mosquitto = Mosquitto(tmp_path / "broker", persistence=True)
    await mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@pytest.fixture
async def listener(broker: Mosquitto) -> AsyncIterator[Listener]:
    """Somebody who has subscribed to everything before the daemon starts."""
    async with Listener(broker.port) as listening:
        yield listening


@pytest.fixture
def log() -> io.StringIO:
    """What is logged."""
    lines = io.StringIO()
    logs.setup("json", "info", lines)
    return lines
