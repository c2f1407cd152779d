"""Whole sessions, from the bytes of every link on, make the same effects with a screen and without one.

Each story of the demo and each scenario of the simulated exchange is played to the real daemon once, all side by side,
and what its links hear is recorded. Every recording is then replayed through a core that computes every pool on every
mark, and through two that screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from monitor.commands import demo
from monitor.commands.demo_scenarios import STORIES, Stage, Story
from monitor.config import Config
from monitor.core import Core, Setup
from monitor.effects import Effect
from monitor.events import Event, Now
from monitor.message import Message
from monitor.recording import Opening, Secrets
from monitor.replaying import Replay
from monitor.risk.columns import Columns
from monitor.shell import settings
from monitor.shell.clock import now
from monitor.shell.daemon import Daemon
from monitor.shell.sessions import SessionFile, SessionWriter
from monitor.sim import Exchange, Scenario
from tests.conftest import needs_mosquitto
from tests.rig import Mosquitto, write_config

STORY_S = 16.0
FASTER = 5.0
"""Scenarios of the exchange are written for people who watch; here they are played so many times as fast."""
SCENARIOS = ("calm", "mixed", "crash", "coinm", "multi-assets", "liquidation")


async def _story(story: Story, port: int, folder: Path, session: Path) -> None:
    """A story of the demo, told until its end or until the daemon is too slow for it."""
    opening = Scenario.named(story.opening) if isinstance(story.opening, str) else Scenario.from_dict(story.opening)
    beat = STORY_S / story.beats
    async with Exchange(opening, tick_s=beat / 2) as exchange:
        stage = Stage(exchange, beat, lambda text: None)
        stage.put_funding_off()
        config = demo._config(story, exchange, port, folder, beat)
        config = structs.replace(
            config, mqtt=structs.replace(config.mqtt, prefix=session.stem)
        )  # many share the broker
        found = settings.fetch(config, {"KEY": f"{story.account}-key", "SECRET": f"{story.account}-secret"})
        async with _recorded(config, found, session, stage.sent):
            with suppress(TimeoutError):
                await story.tell(stage)


async def _scenario(name: str, port: int, folder: Path, session: Path) -> None:
    """A scenario of the exchange with its own script, or with one that moves all of its marks."""
    scenario = Scenario.named(name)
    async with Exchange(scenario, tick_s=0.2) as exchange:
        config = settings.load(write_config(folder, exchange, port, list(exchange.accounts), mqtt={"prefix": name}))
        async with _recorded(config, settings.fetch(config), session):
            await asyncio.sleep(2)  # what the links hear before anything happens is a part of the session
            await exchange.run_script([_hastened(line) for line in scenario.script or _moves(exchange)])
            await asyncio.sleep(2)


def _hastened(line: dict[str, Any]) -> dict[str, Any]:
    return {key: float(value) / FASTER if key in ("at_s", "over_s") else value for key, value in line.items()}


def _moves(exchange: Exchange) -> list[dict[str, Any]]:
    """Everything falls by a tenth, pays funding, loses money, and comes back."""
    held = sorted({p.symbol for account in exchange.accounts.values() for p in account.open_positions()})
    script: list[dict[str, Any]] = []
    for symbol in held:
        mark = exchange.market[symbol].mark
        script += [
            {"at_s": at_s, "command": "move", "symbol": symbol, "price": str(round(mark * part, 6)), "over_s": 15}
            for at_s, part in ((0, Decimal("0.9")), (30, 1))
        ]
        script.append({"at_s": 20, "command": "fund", "symbol": symbol, "rate": "0.001"})
    for account in exchange.accounts.values():
        asset = next(iter(account.open_positions())).asset
        script.append({"at_s": 25, "command": "transfer", "account": account.name, "asset": asset, "amount": "-0.01"})
    return script


@asynccontextmanager
async def _recorded(
    config: Config, found: dict[Any, str], session: Path, on_sent: Callable[[Message], None] | None = None
) -> AsyncIterator[None]:
    """The daemon, and all that its links hear in a file."""
    opening = Opening(now().wall_ms, instance=config.instance, setup=config.setup)
    writer = SessionWriter(session, opening, Secrets(found.values()), pytest.fail)
    stop = asyncio.Event()
    running = asyncio.create_task(Daemon(config, found, on_sent, writer).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        writer.close()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a session of each."""
    needs_mosquitto()
    folder = tmp_path_factory.mktemp("sessions")

    async def play() -> None:
        broker = Mosquitto(folder / "broker")
        await broker.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, story in STORIES.items():
                    own = folder / f"story-{name}"
                    own.mkdir()
                    tasks.create_task(_story(story, broker.port, own, folder / f"story-{name}.jsonl"))
                for name in SCENARIOS:
                    file = folder / f"scenario-{name}.jsonl"
                    tasks.create_task(_scenario(name, broker.port, folder / f"scenario-{name}", file))
        finally:
            broker.stop()

    asyncio.run(play())
    return folder


class Noting(Core):
    """A core that writes down what it says."""

    def __init__(self, setup: Setup, here: Now, *, screened: bool) -> None:
        super().__init__(setup, here, screened=screened)
        self._slice = 10**9  # where a step ends is not what is compared
        self.said: list[str] = []

    def step(self, events: Sequence[Event], here: Now) -> list[Effect]:
        effects = super().step(events, here)
        self.said += map(repr, effects)
        return effects


def _replayed(file: SessionFile, make: Callable[[Setup, Now], Noting]) -> tuple[list[str], list[bytes]]:
    """The effects of a session, and the messages."""
    session = file.session()
    replay = Replay(session.opening, file.setup, "boot", notices=True)
    core = replay.core = make(file.setup, replay._now)
    return core.said, [sent.as_json for sent in replay.run(session)]


def _in_columns(setup: Setup, here: Now) -> Noting:
    core = Noting(setup, here, screened=True)
    core._attention._screen = Columns()
    return core


@pytest.mark.parametrize("name", [*(f"story-{name}" for name in STORIES), *(f"scenario-{name}" for name in SCENARIOS)])
def test_a_session_has_the_same_effects_screened_and_unscreened(recordings: Path, name: str) -> None:
    """No decision is made by a float, whatever an exchange says, and in whatever order."""
    file = SessionFile(recordings / f"{name}.jsonl")
    exact, messages = _replayed(file, lambda setup, here: Noting(setup, here, screened=False))
    one_by_one = _replayed(file, lambda setup, here: Noting(setup, here, screened=True))
    in_columns = _replayed(file, _in_columns)

    assert sum(b"/event/" in message for message in messages) > 0 or name == "scenario-calm"
    assert one_by_one == (exact, messages)
    assert in_columns == (exact, messages)
