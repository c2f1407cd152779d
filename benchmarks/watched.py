"""The daemon's own process, as `marginwatch run` has it; beside it, it answers the harness when it has decided to tell.

What it answers it says later, when nobody waits for an event any more: what is measured would wait for that too.

python -m benchmarks.watched CONFIG
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

from benchmarks.worker import Desk
from monitor.core import Core
from monitor.effects import Effect, Story
from monitor.events import Event, Now
from monitor.shell import logs, runtime, settings, store
from monitor.shell.daemon import Daemon
from monitor.shell.database import Database
from monitor.shell.owed import Owed

_SAY_S = 0.005
"""After a decision; what it tells of is with the subscriber by then."""


class TimedCore(Core):
    """A core that says when a step of it has brought something to tell."""

    desk: Desk

    def step(self, events: Sequence[Event], now: Now) -> list[Effect]:
        effects = super().step(events, now)
        if any(isinstance(effect, Story) for effect in effects):
            self.desk.decided()
            asyncio.get_running_loop().call_later(_SAY_S, self.desk.answer)
        return effects


class TimedDatabase(Database):
    """A store that says how long an event took to get to the disk, once the broker's having it is written as well."""

    _said = ""

    def write(self, owed: Owed) -> None:
        begun = time.monotonic_ns()
        super().write(owed)
        if owed.events:
            self._said = f"wrote {begun} {time.monotonic_ns()}\n"
        else:
            sys.stdout.write(self._said)  # in one piece: the event loop says things too
            sys.stdout.flush()
            self._said = ""


async def main(path: str) -> None:
    config = settings.load(settings.find(path))
    logs.setup(level="warning", stream=sys.stderr)
    TimedCore.desk = Desk()
    setattr(runtime, "Core", TimedCore)  # noqa: B010 - it is the name that is looked up there
    setattr(store, "Database", TimedDatabase)  # noqa: B010
    await Daemon(config, settings.fetch(config)).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
