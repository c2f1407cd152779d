"""Proof of life to the outside, and a second way out for alerts while the MQTT broker is away.

A dead machine tells nobody that it is dead: somebody else has to miss it. `Heartbeat` asks an address of a ping service
while all is well, and its `/fail` while we are blind. `Webhook` posts events where the broker cannot take them. Both
are told how things stand once a tick, by a daemon that waits for neither; what fails here is logged, and nothing more.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from monitor import __version__
from monitor.config import HeartbeatConfig
from monitor.config_values import HiddenUrl, Secret
from monitor.digits import rfc3339
from monitor.errors import ProxyError
from monitor.message import Identity, Message
from monitor.rules import Severity
from monitor.shell import logs
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.proxies import proxy_of

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_RETRY_MIN_S = 5.0
_WAITING_AT_MOST = 1000
_REMEMBERED = 10_000
_PASSING = frozenset({408, 425, 429})
"""Refusals that are no fault of the event."""


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
        async with _session() as session:
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
        error = None
        try:
            async with session.get(address, proxy=proxy_of(address), allow_redirects=False) as answer:
                if not 200 <= answer.status < 300:
                    error = f"answered {answer.status}"
        except Exception as exc:  # whatever it is: the risk loop must not end with it
            error = _why(exc)
        if error is not None and self.is_heard is not False:
            self._log.warning("heartbeat not sent", to=str(self._url), reason=error)
        if error is None and self.is_heard is False:
            self._log.info("heartbeat sent again", to=str(self._url))
        self.is_heard = error is None
        return error is None


class Webhook:
    """Posts events that the broker does not have, from the moment that it counts as away until it is back.

    Each event is posted until the other side has taken it, then never again; an answer that is lost on its way is the
    one case in which it comes twice, under the same `event_id`. Of one rule and subject they keep their order.

    Args:
        url: Where to.
        identity: Of this daemon, for the notice that the broker is away.
        on_posted: Called with the id of each event that the other side has taken.
    """

    def __init__(
        self,
        url: HiddenUrl,
        config: HeartbeatConfig,
        identity: Identity,
        on_posted: Callable[[str], None] = lambda event_id: None,
    ) -> None:
        self._url = url
        self._after_s = config.webhook_after_s
        self._from = Severity[config.webhook_from.upper()]
        self._identity = identity
        self._on_posted = on_posted
        self._log = logs.logger()
        self._waiting: dict[str, Message] = {}
        self._refused: dict[str, int] = {}
        self._done: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._is_away = False
        self._announced = False
        self._away_since_ms = 0
        self._failing = False
        self._dropping = False

    def put(self, events: Iterable[Message]) -> None:
        """Events that are on their way to the broker."""
        for event in events:
            event_id = event.event_id
            if event_id is not None and event.rank >= self._from and event_id not in self._done:
                self._waiting[event_id] = event
        if len(self._waiting) > _WAITING_AT_MOST:
            self._make_room()
        self._wake.set()

    def sent(self, event_id: str) -> None:
        """The broker has this event, or the other side has."""
        self._waiting.pop(event_id, None)
        self._refused.pop(event_id, None)
        self._done[event_id] = None
        while len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]

    def broker_away(self, away_s: float) -> None:
        """For how long the broker has been away; 0: it is not."""
        self._is_away = away_s >= self._after_s
        if self._is_away:
            if not self._away_since_ms:
                self._away_since_ms = now().wall_ms - round(away_s * 1000)
            self._wake.set()
        else:
            self._announced, self._away_since_ms = False, 0

    async def run(self) -> None:
        """Post what there is while the broker is away, until cancelled."""
        backoff = Backoff(0.5, 30)
        async with _session() as session:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._is_away and (body := self._next()) is not None:
                    event_id, payload = body
                    if await self._post(session, event_id, payload):
                        backoff.reset()
                        if event_id is None:
                            self._announced = self._is_away
                        elif event_id not in self._done:  # the broker may have come to have it meanwhile
                            self.sent(event_id)
                            self._on_posted(event_id)
                    else:
                        await backoff.wait()

    def _next(self) -> tuple[str | None, bytes] | None:
        """What is posted next: that the broker is away, then of the line with the worst event the first.

        What has been refused before goes behind all else: one event that the other side cannot read holds up no other.
        """
        if not self._announced:
            return None, self._notice()
        lines: dict[str, list[Message]] = {}
        for event in self._waiting.values():
            lines.setdefault(event.line, []).append(event)
        if not lines:
            return None
        worst = min(lines.values(), key=lambda line: (self._refused.get(_id(line[0]), 0), -max(e.rank for e in line)))
        return worst[0].event_id, with_topic(worst[0])

    def _notice(self) -> bytes:
        """Says that the broker is away, in the words and keys of an event."""
        since = rfc3339(self._away_since_ms)
        title = f"{self._identity.instance}: the MQTT broker is away"
        waiting = f"{len(self._waiting)} waiting" if self._waiting else "none waiting"
        return msgspec.json.encode(
            {
                "schema": "marginwatch.broker_away/1",
                "instance": self._identity.instance,
                "boot_id": self._identity.boot_id,
                "event": "broker_away",
                "severity": Severity.WARNING.word,
                "severity_rank": int(Severity.WARNING),
                "since": since,
                "at": rfc3339(now().wall_ms),
                "waiting": len(self._waiting),
                "title": title,
                "text": f"{title} since {since}. Alerts from {self._from.word} on come this way until it is back"
                f" ({waiting}).",
                "topic": self._identity.topics.status,
            }
        )

    async def _post(self, session: aiohttp.ClientSession, event_id: str | None, payload: bytes) -> bool:
        error, refused = None, False
        try:
            async with session.post(
                self._url.address,
                data=payload,
                headers={"Content-Type": "application/json"},
                proxy=proxy_of(self._url.address),
                allow_redirects=False,
            ) as answer:
                if not 200 <= answer.status < 300:
                    error = f"answered {answer.status}"
                    refused = 400 <= answer.status < 500 and answer.status not in _PASSING
        except Exception as exc:  # whatever it is: the risk loop must not end with it
            error = _why(exc)
        if refused and event_id is None:
            self._announced = True  # who wants no notice may want the events
        elif refused and event_id in self._waiting:
            self._refused[event_id] = self._refused.get(event_id, 0) + 1
        if error is not None and not self._failing:
            self._log.error("webhook not reached", to=str(self._url), reason=error, events=len(self._waiting))
        elif error is None and (self._failing or event_id is None):
            self._log.info("webhook reached", to=str(self._url), events=len(self._waiting))
        self._failing = error is not None
        return error is None

    def _make_room(self) -> None:
        """Of each incident the newest event stays; if that is not enough, the mildest and oldest goes."""
        newest = {event.incident_id: event_id for event_id, event in self._waiting.items()}
        kept = {event_id: self._waiting[event_id] for event_id in newest.values()}
        for event_id in sorted(kept, key=lambda e: kept[e].rank)[: max(0, len(kept) - _WAITING_AT_MOST)]:
            del kept[event_id]
        if not self._dropping:
            self._dropping = True
            self._log.error("webhook has too many events waiting, the newest of each incident stay", events=len(kept))
        self._waiting = kept
        self._refused = {event_id: times for event_id, times in self._refused.items() if event_id in kept}


def address(url: Secret | HiddenUrl | None, found: dict[Secret, str]) -> HiddenUrl | None:
    """The address that a key of the config gives or names."""
    return HiddenUrl.of(found[url]) if isinstance(url, Secret) else url


def with_topic(event: Message) -> bytes:
    """An event's MQTT payload, byte for byte, with its topic as one more key."""
    return event.payload[:-1] + b',"topic":' + msgspec.json.encode(event.topic) + b"}"


def _session() -> aiohttp.ClientSession:
    agent = {"User-Agent": f"marginwatch/{__version__}"}
    return aiohttp.ClientSession(timeout=_TIMEOUT, headers=agent)


def _id(event: Message) -> str:
    return event.event_id or ""


def _fail(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))


def _why(exc: Exception) -> str:
    """What went wrong, without the address: the library's own words may carry it whole."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, ProxyError):
        return str(exc)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {exc.status}"
    if isinstance(exc, aiohttp.ClientConnectorError) and (number := exc.os_error.errno or 0) > 0:
        return os.strerror(number)
    return type(exc).__name__
