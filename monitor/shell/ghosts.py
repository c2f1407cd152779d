"""Retained topics at the broker for which perhaps nothing stands any more: an earlier run has left them, or a broker
that crashed has them back, for it need not have written down that we have emptied them.

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
from monitor.shell.mqtt_client import subscribe, visitor

_ACCOUNTS = 8
"""So many accounts are asked about at a time."""
_SILENCE_S = 1.0
"""After so long without a retained message there are no more of them."""
_LOOKS = 3
"""So often we may be cut off in the midst of it. A broker that takes all who log in as the same user for one and the
same client ends the connection on which we publish with each look, and that one this."""
_SELDOM_S = 600.0
"""On a line that breaks again and again they are looked for less and less often, down to this."""
_IN_VAIN_S = 3600.0
"""Then they are left alone for about so long, and for longer each time, up to the next."""
_LONGEST_S = 86_400.0


class Ghosts:
    """Looks after each connection, however long it takes until the broker lets us in.

    Args:
        accounts: Gives the names of those that are watched. What belongs to others is found by what each account has.
        in_vain_s: After so long it is looked again where the broker does not let us.

    Attributes:
        topics: Retained topics of ours that stood there, until somebody takes them away; empty until all have been
            looked for.
    """

    def __init__(
        self,
        config: MqttConfig,
        password: str | None,
        accounts: Callable[[], Iterable[str]],
        in_vain_s: float = _IN_VAIN_S,
    ) -> None:
        self._config = config
        self._password = password
        self._topics = config.topics
        self._accounts = accounts
        self._in_vain = Backoff(in_vain_s, _LONGEST_S)
        self._log = logs.logger()
        self.topics: set[str] = set()
        self._connected = asyncio.Event()

    def connected(self) -> None:
        """Whoever publishes has a new connection."""
        self._connected.set()

    async def run(self) -> None:
        loop, pause, looks = asyncio.get_running_loop(), Backoff(1.0, _SELDOM_S), _LOOKS
        while True:
            idle_since = loop.time()
            await self._connected.wait()
            self._connected.clear()
            while not await self._has_looked(looks):
                looks = 1
                await self._in_vain.wait()
            looks = _LOOKS
            self._in_vain.reset()
            if loop.time() - idle_since > _SELDOM_S:
                pause.reset()
            await pause.wait()

    async def _has_looked(self, looks: int) -> bool:
        """Look until all of it is known. False: so many looks were cut off."""
        backoff = Backoff(1.0, self._config.reconnect_max_s)
        while True:
            found: set[str] | None = None
            try:
                async with visitor(self._config, self._password, "ghosts") as client:
                    looks -= 1
                    found = await self._look(client)
            except (MqttError, OSError, ValueError) as exc:  # whoever publishes says why nobody is let in
                if found is None and not looks:
                    self._log.warning("ghost topics not looked for", reason=str(exc))
                    return False
            if found is not None:
                self.topics |= found
                return True
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
