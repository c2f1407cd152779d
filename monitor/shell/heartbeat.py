"""Proof of life to the outside: a dead machine tells nobody that it is dead, so somebody else has to miss it.

A ping service is asked while all is well, and its `/fail` while we are blind. How things stand is told here once a
tick, by a daemon that does not wait; what fails is logged, and nothing more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from monitor.config_values import HiddenUrl
from monitor.shell import logs
from monitor.shell.outward import ask, session_of_ours

_RETRY_MIN_S = 5.0
_PATIENCE_S = 5.0


class Heartbeat:
    """Pings while ticks go all the way through the core: a stuck core, like a dead machine, is silent.

    Args:
        url: Asked while all is well; with `/fail` at the end of its path while not.
        every_s: How often, at least, while ticks come (seconds).
    """

    def __init__(self, url: HiddenUrl, every_s: float) -> None:
        self._url = url
        self._every_s = every_s
        self._log = logs.logger()
        self._tick = asyncio.Event()
        self._reasons: tuple[str, ...] = ()
        self.is_heard: bool | None = None
        """Whether the last ping was answered; None: none has been sent."""

    def ticked(self, reasons: Iterable[str]) -> None:
        """A tick has gone through the core; reasons: why we are blind, none if we are not."""
        self._reasons = tuple(reasons)
        self._tick.set()

    async def run(self) -> None:
        """Ping until cancelled: when it turns bad at once, else when it is time, and only after another tick."""
        next_at, tried_bad, retry_s = 0.0, False, _RETRY_MIN_S
        async with session_of_ours(_PATIENCE_S) as session:
            while True:
                await self._tick.wait()
                self._tick.clear()
                bad = bool(self._reasons)
                if time.monotonic() < next_at and (tried_bad or not bad):
                    continue
                began, tried_bad = time.monotonic(), bad
                self._tick.clear()
                if await self._ping(session, bad):
                    next_at, retry_s = began + self._every_s, _RETRY_MIN_S
                else:
                    next_at = time.monotonic() + min(retry_s, self._every_s)
                    retry_s *= 2

    async def _ping(self, session: aiohttp.ClientSession, bad: bool) -> bool:
        address = _fail(self._url.address) if bad else self._url.address
        _, error = await ask(session, "GET", address)
        if error is not None and self.is_heard is not False:
            self._log.warning("heartbeat not sent", to=str(self._url), reason=error)
        if error is None and self.is_heard is False:
            self._log.info("heartbeat sent again", to=str(self._url))
        self.is_heard = error is None
        return error is None


def _fail(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))
