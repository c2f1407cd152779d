"""A second way out for alerts: events are posted where the MQTT broker cannot take them.

How long it has been away is told here once a tick, by a daemon that does not wait; what fails is logged, and tried
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import aiohttp
import msgspec

from monitor.config import HeartbeatConfig
from monitor.config_values import HiddenUrl
from monitor.digits import rfc3339
from monitor.message import Identity, Message
from monitor.rules import Severity
from monitor.shell import logs
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.outward import ask, session_of_ours

_WAITING_AT_MOST = 1000
_REMEMBERED = 10_000
_PASSING = frozenset({408, 425, 429, 502, 503, 504})
"""Refusals that are no fault of the event. Any other may be: a program that stumbles over one answers 500, or hangs."""
_PATIENCE_S = 20.0
"""Whoever has more to do with an event before he answers gets it twice, and again and again."""


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
        self._notice_refused = 0
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
            self._announced, self._notice_refused, self._away_since_ms = False, 0, 0

    async def run(self) -> None:
        """Post what there is while the broker is away, until cancelled."""
        backoff = Backoff(0.5, 30)
        async with session_of_ours(_PATIENCE_S) as session:
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

        What has been refused before goes behind all else: what the other side stumbles over holds up nothing else.
        """
        lines: dict[str, list[Message]] = {}
        for event in self._waiting.values():
            lines.setdefault(event.line, []).append(event)
        refused = self._refused
        worst = min(
            lines.values(), key=lambda line: (refused.get(_id(line[0]), 0), -max(e.rank for e in line)), default=None
        )
        if not self._announced and (worst is None or self._notice_refused <= refused.get(_id(worst[0]), 0)):
            return None, self._notice()
        return None if worst is None else (worst[0].event_id, with_topic(worst[0]))

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
        status, error = await ask(session, "POST", self._url.address, payload)
        refused = status is not None and status not in _PASSING and (not status or status >= 400)
        if refused and event_id is None:
            self._notice_refused += 1
            # Who wants no notice may want the events; a program may have stumbled once.
            self._announced = status in range(400, 500)
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


def with_topic(event: Message) -> bytes:
    """An event's MQTT payload, byte for byte, with its topic as one more key."""
    return event.payload[:-1] + b',"topic":' + msgspec.json.encode(event.topic) + b"}"


def _id(event: Message) -> str:
    return event.event_id or ""
