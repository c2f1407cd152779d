"""What an earlier run has left at the broker: retained topics for which perhaps nothing stands any more.

They are looked for over a connection of their own, and a few accounts at a time. A broker throws away what it has for
us beyond what it may keep waiting (mosquitto: 1000 packets), acknowledgements too. Over the connection on which we
publish, an alert would be sent again and again, and never count as sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

import aiomqtt
from aiomqtt import MqttError

from monitor.config import MqttConfig
from monitor.effects import INSTANCE
from monitor.shell import logs
from monitor.shell.backoff import Backoff
from monitor.shell.broker import subscribe, visitor

_ACCOUNTS = 8
"""So many accounts are asked about at a time."""
_SILENCE_S = 1.0
"""After so long without a retained message there are no more of them."""
_LOOKS = 3
"""So often we may be cut off in the midst of it. A broker that takes all who log in as the same user for one and the
same client ends the connection on which we publish with each look, and that one this."""


class Ghosts:
    """Looks once, however long it takes until the broker lets us in.

    Args:
        accounts: Gives the names of those that are watched. What belongs to others is found by what each account has.

    Attributes:
        topics: Retained topics of ours that stood there; empty until all have been looked for.
        is_known: Whether they have been.
    """

    def __init__(self, config: MqttConfig, password: str | None, accounts: Callable[[], Iterable[str]]) -> None:
        self._config = config
        self._password = password
        self._topics = config.topics
        self._accounts = accounts
        self._log = logs.logger()
        self.topics: set[str] = set()
        self.is_known = False

    async def run(self) -> None:
        backoff = Backoff(1.0, self._config.reconnect_max_s)
        looks = 0
        while not self.is_known:
            try:
                async with visitor(self._config, self._password, "ghosts") as client:
                    looks += 1
                    self.topics = await self._look(client)
                    self.is_known = True
            except (MqttError, OSError, ValueError) as exc:  # whoever publishes says why nobody is let in
                if looks == _LOOKS and not self.is_known:
                    self._log.warning("ghost topics not looked for", reason=str(exc))
                    return
                await backoff.wait()

    async def _look(self, client: aiomqtt.Client) -> set[str]:
        found = await self._read(client, self._topics.one_of_each)
        named = (self._topics.account_of(topic) for topic in found)
        accounts = sorted({INSTANCE, *self._accounts(), *(name for name in named if name is not None)})
        for begin in range(0, len(accounts), _ACCOUNTS):
            some = accounts[begin : begin + _ACCOUNTS]
            found |= await self._read(client, [each for account in some for each in self._topics.all_of(account)])
        return found

    async def _read(self, client: aiomqtt.Client, filters: Iterable[str]) -> set[str]:
        """What is retained there of ours."""
        found: set[str] = set()
        filters = list(filters)
        with suppress(MqttError):  # its answer may be among what it has thrown away; if it is gone, we notice below
            await subscribe(client, *filters)
        loop = asyncio.get_running_loop()
        until = loop.time() + _SILENCE_S
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until) as patience:
                async for message in client.messages:
                    topic = str(message.topic)
                    if message.retain and message.payload and self._topics.account_of(topic) is not None:
                        found.add(topic)
                        patience.reschedule(loop.time() + _SILENCE_S)
        await client.unsubscribe(filters)
        return found
