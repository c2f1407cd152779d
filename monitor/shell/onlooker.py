"""Reads the retained topics of a daemon over the broker, as anybody may who only looks on."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

import aiomqtt
from aiomqtt import MqttError
from msgspec import structs

from monitor.config import MqttConfig
from monitor.retained import Retained
from monitor.shell.broker import visitor
from monitor.standing import watched

_AT_A_GLANCE = ("info", "+/summary", "+/incident/#")
_SETTLE_S = 0.15
"""Once all that must be there has come: how long the incidents have to follow it."""
_SILENCE_S = 1.0
"""After so long without a message nothing more is retained there."""


async def look(config: MqttConfig, password: str | None, configured: Collection[str], timeout_s: float) -> Retained:
    """What stands at the topics that tell how it is: the daemon's own, each account's summary, the incidents.

    Args:
        configured: Accounts whose summaries must be there.
        timeout_s: For all of it.

    Raises:
        MqttError, OSError, TimeoutError: The broker was not reached in time, or does not let us read.
    """
    config = structs.replace(config, timeout_s=min(config.timeout_s, timeout_s))
    retained = Retained(config.prefix)
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    async with asyncio.timeout_at(end), visitor(config, password, "status") as client:
        await _subscribe(client, config.prefix, _AT_A_GLANCE)
        await _subscribe(client, config.prefix, ["status"])  # asked for last, it comes last
        messages = client.messages
        is_whole = False
        until = min(end - 0.1, loop.time() + _SILENCE_S)
        while True:
            try:
                async with asyncio.timeout_at(until):
                    message = await anext(messages)
            except TimeoutError:
                return retained
            _take(retained, message)
            if is_whole:
                continue
            names = watched(retained, configured)
            is_whole = retained.status == "offline" or (
                retained.status is not None and all(retained.summary(name) for name in names)
            )
            until = min(end - 0.1, loop.time() + (_SETTLE_S if is_whole else _SILENCE_S))


async def _subscribe(client: aiomqtt.Client, prefix: str, filters: Iterable[str]) -> None:
    granted = await client.subscribe([(f"{prefix}/{name}", 0) for name in filters])
    if any((code if isinstance(code, int) else code.value) >= 0x80 for code in granted):
        raise MqttError(f"the broker does not let this user read {prefix}/#")


def _take(retained: Retained, message: aiomqtt.Message) -> None:
    payload = message.payload
    retained.take(str(message.topic), payload if isinstance(payload, bytes) else b"")
