"""What the HTTP server answers: health, readiness, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from monitor import __version__
from monitor.core import Core
from monitor.events import LinkId, Now
from monitor.liveness import DaemonState, health, readiness
from monitor.metrics import Metrics
from monitor.shell.clock import now
from monitor.shell.http import Route, as_json
from monitor.shell.vitals import rss_bytes
from monitor.tally import Tally

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_FRESH_S = 1.0
"""How long a scrape is good for others too."""
_ACCOUNTS_AT_ONCE = 20


class Endpoints:
    """Answers from the core as it is when it is asked.

    Args:
        state: Asked each time.
        dropped: Likewise; how many frames of each link did not read.
    """

    def __init__(
        self,
        core: Core,
        tally: Tally,
        state: Callable[[Now], DaemonState],
        dropped: Callable[[], Mapping[LinkId, int]],
    ) -> None:
        self._core = core
        self._tally = tally
        self._state = state
        self._dropped = dropped
        self._started_ms = now().wall_ms
        self._scraping = asyncio.Lock()
        self._scraped, self._scraped_at = "", float("-inf")

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self._healthz, is_open=True),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
        ]

    async def _healthz(self, request: web.Request) -> web.Response:
        here = now()
        said = health(self._core, self._state(here), here)
        return as_json(said, 200 if said["status"] == "ok" else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        here = now()
        said = readiness(self._core, self._state(here), here)
        return as_json(said, 200 if said["status"] == "ready" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        async with self._scraping:
            if time.monotonic() - self._scraped_at > _FRESH_S:
                self._scraped, self._scraped_at = await self._scrape(), time.monotonic()
        return web.Response(text=self._scraped, headers={"Content-Type": _TEXT_FORMAT})

    async def _scrape(self) -> str:
        """Everything there is, with pauses, so that a tick never waits for thousands of accounts."""
        metrics = Metrics()
        for number, account in enumerate(list(self._core.accounts.values()), 1):
            metrics.take_account(self._core, account, now())
            if number % _ACCOUNTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        here = now()
        metrics.take_instance(self._core, self._state(here), self._tally, __version__, here)
        metrics.take_dropped(self._dropped())
        metrics.take_process(rss_bytes(), time.process_time(), self._started_ms)
        return metrics.text()
