"""Reads the retained topics of a daemon over the broker, as anybody may who only looks on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterable
from itertools import islice

import aiomqtt
from aiomqtt import MqttError
from msgspec import structs

from monitor.config import MqttConfig
from monitor.errors import BrokerAway
from monitor.retained import Retained
from monitor.shell.backoff import Backoff
from monitor.shell.mqtt_client import subscribe, visitor
from monitor.standing import watched

_SETTLE_S = 0.15
"""Once all that must be there has come: after so long without a message nothing more is retained there."""
_PATIENCE_S = 5.0
"""Somebody is looking: the broker is tried again at least so often."""
_SILENCE_S = 1.0
"""As long as something has not: so long without a message, and it is asked for again. Less where there is no time."""
_AT_ONCE = 100
"""So much of what has not come is asked for again at a time."""


async def look(
    config: MqttConfig,
    password: str | None,
    configured: Collection[str],
    timeout_s: float,
    filters: Collection[str] = (),
) -> Retained:
    """What stands at the topics that tell how it is.

    Args:
        configured: Accounts whose summaries must be there.
        filters: For the topics to read beside `status`; empty: what is to be known at a glance.
        timeout_s: For all of it.

    Raises:
        BrokerAway: The broker was not reached in time, or does not let us read.
    """
    try:
        return await _look(config, password, configured, timeout_s, filters or config.topics.at_a_glance)
    except (MqttError, OSError, TimeoutError) as exc:
        reason = f"no answer within {timeout_s:g} s" if isinstance(exc, TimeoutError) else str(exc)
        raise BrokerAway(f"the broker {config.host}:{config.port} was not reached: {reason}") from None


async def _look(
    config: MqttConfig, password: str | None, configured: Collection[str], timeout_s: float, filters: Collection[str]
) -> Retained:
    config = structs.replace(config, timeout_s=min(config.timeout_s, timeout_s))
    retained = Retained(config.prefix)
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    silence_s = min(_SILENCE_S, timeout_s / 4)
    async with asyncio.timeout_at(end), visitor(config, password, "status") as client:
        await _subscribe(client, config.prefix, [config.topics.status])  # not behind what may be too much at once
        await _subscribe(client, config.prefix, filters)
        messages = client.messages
        lacks, asked = _lacks(retained, configured), math.inf
        again: set[str] = set()
        until = loop.time() + silence_s
        while True:
            try:
                async with asyncio.timeout_at(min(until, end - 0.1)):
                    message = await anext(messages)
            except TimeoutError:
                if retained.status == "offline" or not 0 < len(lacks) < asked:
                    return retained
                if loop.time() > end - silence_s:
                    retained.awaited = frozenset(lacks)
                    return retained
                asked = len(lacks)
                again = set(islice(lacks, _AT_ONCE))
                await _subscribe(client, config.prefix, again)
                until = loop.time() + silence_s
                continue
            _take(retained, message)
            topic = str(message.topic)
            lacks.pop(topic, None)
            if topic == config.topics.info:
                lacks = _lacks(retained, configured)
            if message.retain:
                until = loop.time() + (silence_s if lacks else _SETTLE_S)
            if topic in again:
                again.remove(topic)
                if lacks and not again:
                    until = loop.time()  # all of it has come: there is no silence to wait for


def _lacks(retained: Retained, configured: Collection[str]) -> dict[str, None]:
    """Topics that must be there, and of which nothing has come: of thousands, a broker throws some away."""
    topics = retained.topics
    lacks = [] if retained.status is not None else [topics.status]
    lacks += [topics.summary(name) for name in watched(retained, configured) if retained.summary(name) is None]
    return dict.fromkeys(lacks)


class Onlooker:
    """Follows all that is retained, for as long as anybody watches.

    Attributes:
        retained: What stood there when we last heard.
        away: Why the broker is not heard; None: it is.
        away_since: Since when (monotonic seconds).
        has_tried: Whether the first try to reach it is over.
        changed: Set with each change of any of these.
    """

    def __init__(self, config: MqttConfig, password: str | None) -> None:
        self._config = config
        self._password = password
        self.retained = Retained(config.prefix)
        self.away: str | None = "connecting"
        self.away_since = time.monotonic()
        self.has_tried = False
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Stay connected."""
        backoff = Backoff(0.2, min(self._config.reconnect_max_s, _PATIENCE_S))
        while True:
            try:
                async with visitor(self._config, self._password, "watch") as client:
                    await self._follow(client, backoff)
            except (MqttError, OSError) as exc:
                if self.away is None:
                    self.away_since = time.monotonic()
                self.away = str(exc) or type(exc).__name__
                self.has_tried = True
                self.changed.set()
            await backoff.wait()

    async def _follow(self, client: aiomqtt.Client, backoff: Backoff) -> None:
        """Begin with nothing, for what was emptied while we were away is not told; show it once it has come."""
        fresh = Retained(self._config.prefix)
        showing = asyncio.get_running_loop().call_later(2 * _SETTLE_S, self._show, fresh, backoff)
        try:
            await _subscribe(client, self._config.prefix, [self._config.topics.status])
            await _subscribe(client, self._config.prefix, self._config.topics.everything)
            async for message in client.messages:
                _take(fresh, message)
                self.changed.set()
        finally:
            showing.cancel()

    def _show(self, fresh: Retained, backoff: Backoff) -> None:
        self.retained = fresh
        self.away = None
        self.has_tried = True
        backoff.reset()
        self.changed.set()


async def _subscribe(client: aiomqtt.Client, prefix: str, filters: Iterable[str]) -> None:
    if not await subscribe(client, *filters):
        raise MqttError(f"the broker does not let this user read {prefix}/#")


def _take(retained: Retained, message: aiomqtt.Message) -> None:
    payload = message.payload
    retained.take(str(message.topic), payload if isinstance(payload, bytes) else b"")
