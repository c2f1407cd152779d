"""Outbox → broker: birth, will, retained state, acknowledgements, reconnecting for ever.

A new client object per connection, under the same client id, so that an old session's will cannot outlive a new one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import groupby, islice
from operator import attrgetter

from aiomqtt import MqttCodeError, MqttError, Will
from msgspec import structs
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from monitor.config import MqttConfig
from monitor.errors import innermost
from monitor.message import Message
from monitor.outbox import Outbox
from monitor.shell import logs, packets
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.mqtt_client import REFUSED, TOO_LARGE, Client, login, subscribe
from monitor.shell.tasks import ended
from monitor.sizes import Sizes, size_of

_DRAIN_S = 5.0
_AT_ONCE = 32
"""How many messages are sent before others have their turn."""
_READ_S = 0.01
"""An acknowledgement that has come while we were busy is read within this time."""
_SHORT_S = 5.0
"""A connection that ends sooner than this was no success: the next try waits longer."""
_DOUBT_S = 60.0
"""For so long messages go one at a time, at most."""
_QUOTA_EXCEEDED = 0x97
"""So a broker answers that takes no more for now."""
_UNSUPPORTED = 0x84
"""So a broker answers that does not know our version of MQTT."""
_UNANSWERED = 3
"""So many greetings in a row may go unanswered, in a version that has been understood before, until the other is tried:
a broker may hang for a while."""


class _GivenUp(MqttError):
    """It is we who end the connection."""


class Broker:
    """The connection to the MQTT broker.

    Args:
        password: Fetched by the caller; None without one.
        outbox: What waits to be sent.
        online, offline: The birth message and the will.
        on_sent: Called with each message that the broker has taken.
        on_command: Called with each command (its name and payload) that somebody publishes; None: nobody may.
    """

    def __init__(
        self,
        config: MqttConfig,
        password: str | None,
        outbox: Outbox,
        online: Message,
        offline: Message,
        on_sent: Callable[[Message], None],
        on_command: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._config = config
        self._topics = config.topics
        self._password = password
        self._outbox = outbox
        self._online = online
        self._offline = offline
        self._on_sent = on_sent
        self._on_command = on_command
        self._log = logs.logger()
        self._wake = asyncio.Event()
        self._serving: Client | None = None
        self._has_another = asyncio.Event()
        self._had_at = -math.inf
        self._stopping = False
        self._stopped = asyncio.Event()
        self._versions = [config.protocol] if config.protocol != "auto" else ["5", "3.1.1"]
        """The first is spoken, or tried next."""
        self._unanswered_left = 1
        """So many more greetings may go unanswered until the other version is tried."""
        self._since = 0.0
        self._sizes = Sizes()
        self.connected = False

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._wake.set()

    def push(self) -> None:
        """Something was put into the outbox that somebody waits for: it goes at once, if no turn is to come anyhow."""
        if self._serving is not None and not self._wake.is_set():
            with suppress(MqttError):  # whoever serves the connection is told too; all of it goes again on the next
                self._send_some(self._serving)
        self._wake.set()

    async def let_go(self, within_s: float) -> None:
        """Wait until the broker has another event, for so long at most (seconds); not at all where it has had one in
        that time, or is away."""
        if self.connected and self._outbox.has_events and time.monotonic() - self._had_at > within_s:
            self._has_another.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._has_another.wait()

    def stop(self) -> None:
        """Send what can be sent, say `offline`, and end."""
        self._stopping = True
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Stay connected until stopped."""
        backoff = Backoff(0.1, self._config.reconnect_max_s)
        while not self._stopping:
            version = self._versions[0]
            try:
                await self._session(backoff)
            except* (MqttError, OSError, TimeoutError, ValueError) as group:
                why = _reason(group)
                short = self.connected and time.monotonic() - self._since < _SHORT_S
                self._log.warning(
                    "broker lost" if self.connected else "broker not reached",
                    reason=why,
                    mqtt=version,
                    remedy="if this repeats: does another marginwatch use this prefix or client_id?" if short else None,
                )
            self.connected = False
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await self._stopped.wait()

    async def _session(self, backoff: Backoff) -> None:
        client = self._client(self._versions[0])
        async with AsyncExitStack() as connection:
            try:
                await connection.enter_async_context(client)
            except MqttError as exc:
                self._doubt_version(exc, client.is_reached)
                raise
            client.most_bytes = min(client.most_bytes, self._sizes.most)
            self._unanswered_left = _UNANSWERED
            self.connected = True
            self._since = time.monotonic()
            self._log.info("broker connected", host=self._config.host, port=self._config.port, mqtt=self._versions[0])
            self._outbox.connected()
            try:
                await self._announce(client, self._online)
                await self._serve(client, backoff)
            except BaseException as exc:
                if isinstance(why := innermost(exc), MqttError) and not isinstance(why, _GivenUp):
                    self._doubt_size(client)
                # Leaving politely, as the library does, discards the will, so what it would have said is said here.
                with suppress(Exception):
                    async with asyncio.timeout(1):
                        await self._announce(client, self._offline)
                raise
            await self._announce(client, self._offline)

    def _doubt_version(self, why: MqttError, is_reached: bool) -> None:
        """The other version is tried next where this one may be why we were not let in: the broker may be another one
        than it was."""
        if isinstance(why, MqttCodeError):
            is_doubtful = isinstance(why.rc, ReasonCode) and why.rc.value == _UNSUPPORTED
        else:
            self._unanswered_left -= is_reached
            is_doubtful = is_reached and self._unanswered_left <= 0
        if is_doubtful:
            self._versions.reverse()

    def _doubt_size(self, client: Client) -> None:
        """A broker need not say how large a message may be that it takes: it cuts whoever sends a larger one, and all
        that was sent behind it would never arrive."""
        is_short = time.monotonic() - self._since < _SHORT_S
        too_large = self._sizes.cut([*client.flying.values()], is_short=is_short)
        if too_large is not None:
            self._log.error(
                "broker cuts us off for the size of a message",
                topic=too_large.topic,
                bytes=size_of(too_large),
                remedy="raise the largest packet that the broker takes, then restart it",
            )

    async def _serve(self, client: Client, backoff: Backoff) -> None:
        """Send and receive until stopped and empty."""
        async with asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(self._receive(client), name="broker receive")
            await asyncio.sleep(0)  # what is subscribed to goes first: answered behind all else it could count as lost
            self._serving = client
            try:
                await self._send(client, backoff)
            finally:
                self._serving = None
                await ended(receiving)  # an answer to its subscription may swallow the first request

    def _client(self, version: str) -> Client:
        c = self._config
        return Client(
            self.wake,
            **login(c, self._password, version),
            identifier=c.client_id or f"marginwatch-{c.prefix.replace('/', '-')}",
            will=Will(self._offline.topic, self._offline.payload, self._offline.qos, True),
        )

    async def _send(self, client: Client, backoff: Backoff) -> None:
        """Send what waits, several at a time; return once stopped and empty.

        Raises:
            MqttError: The connection is of no use any more. Once stopped, it is good enough to say `offline` over it.
        """
        flying, deadline = client.flying, None
        oldest, since = None, 0.0
        while True:
            self._wake.clear()
            if self._take_answers(client) and not self._stopping:
                raise _GivenUp("the broker takes no more for now: quota exceeded")
            here = time.monotonic()
            if here - self._since > _DOUBT_S or not (flying or self._outbox.waiting):
                self._sizes.is_in_doubt = False
            if self._send_some(client):  # there may be more, but others want their turn
                self._wake.set()
            if self._stopping:
                deadline = deadline or here + _DRAIN_S
                if (not flying and not self._outbox.waiting) or here > deadline:
                    return
            if flying and oldest != (first := next(iter(flying))):  # however slow the line is, it goes on
                oldest, since = first, here
            if flying and not self._stopping and here - since > self._config.timeout_s:
                await asyncio.sleep(_READ_S)
                if all(answer.number != oldest for answer in client.answers):
                    raise _GivenUp("the broker does not acknowledge")
            is_short = here - self._since <= _SHORT_S
            if not is_short:
                backoff.reset()
            look_again_s = min(1.0, self._config.timeout_s / 4) if flying or is_short or self._stopping else None
            if self._wake.is_set():
                await asyncio.sleep(0)  # waiting for what has happened already gives nobody a turn
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(look_again_s):  # then look once more, though nothing has happened
                    await self._wake.wait()

    def _take_answers(self, client: Client) -> bool:
        """Heed what the broker has answered. Whether an event was beyond its quota: that goes again on the next
        connection, and later each time."""
        is_enough = False
        while client.answers:
            answer = client.answers.popleft()
            sent = client.flying.pop(answer.number, None)
            if sent is None:
                continue
            if answer.reason == _QUOTA_EXCEEDED and not sent.is_state:
                is_enough = True
            else:
                self._has(sent, answer.reason)
        return is_enough

    def _send_some(self, client: Client) -> bool:
        """Send what waits, as much as goes at a time. Whether more of it could go."""
        window = 1 if self._sizes.is_in_doubt else min(self._config.inflight, client.most_at_once)
        room = min(_AT_ONCE, window - len(client.flying))
        taken = list(islice(iter(self._outbox.take, None), max(0, room)))
        if self._sizes.is_in_doubt:  # of what nobody acknowledges it would never show
            taken = [message if message.qos else structs.replace(message, qos=1) for message in taken]
        for _, together in groupby(taken, attrgetter("is_state")):  # an event waits for no state
            client.send([(message, self._properties(message)) for message in together])
        return len(taken) == room and len(client.flying) < window

    def _has(self, message: Message, reason: int) -> None:
        """The broker has it. Where it says that it passes it on to nobody, sending it again would change nothing."""
        if reason >= REFUSED:
            remedy = "the ACL of the broker must let our user write to it"
            if reason == TOO_LARGE:
                remedy = "raise the largest packet that the broker takes"
            self._log.error("message refused by the broker", topic=message.topic, reason=_named(reason), remedy=remedy)
        else:
            self._sizes.taken(message)
        self._outbox.acknowledged(message)
        self._on_sent(message)
        if not message.is_state:
            self._had_at = time.monotonic()
            self._has_another.set()

    async def _announce(self, client: Client, status: Message) -> None:
        await client.answered(client.publish(status.topic, status.payload, status.qos, status.retain))
        self._on_sent(status)

    def _properties(self, message: Message) -> bytes | None:
        """What a message says of itself beside its payload, which it can in MQTT 5."""
        return properties_of(message, self._outbox.is_superseded(message)) if self._versions[0] == "5" else None

    async def _receive(self, client: Client) -> None:
        """Notice a lost connection at once, an old session's will that speaks over us, and Home Assistant's birth."""
        commands = self._topics.command("")
        birth = self._topics.birth
        filters = [self._online.topic]
        filters += [birth] if self._config.discovery else []
        filters += [f"{commands}+"] if self._on_command is not None else []
        await client.answered(subscribe(client, *filters, qos=1))
        async for message in client.messages:
            topic = str(message.topic)
            if topic == self._online.topic:
                if message.payload == self._offline.payload and not self._stopping:
                    client.send([(self._online, self._properties(self._online))])
            elif topic.startswith(commands):
                # One that is kept at the broker would be obeyed again and again, long after it was meant.
                if self._on_command is not None and not message.retain and isinstance(message.payload, bytes):
                    self._on_command(topic.removeprefix(commands), message.payload)
            elif topic == birth and message.payload == b"online" and not message.retain:
                self._outbox.renew()  # a retained one, which comes when we connect, says nothing new
                self.wake()


_NO_PROPERTIES = packets.properties(None)
_JSON = packets.properties("application/json")


def properties_of(message: Message, is_superseded: bool = False) -> bytes:
    """MQTT 5: what kind of payload it is, and for an event how late it comes and whether a newer one follows."""
    if not message.payload.startswith(b"{"):
        return _NO_PROPERTIES
    if message.told_as is None:
        return _JSON
    user = [("event_id", message.told_as)]
    delayed_ms = now().wall_ms - message.at_ms
    if delayed_ms >= 1000:
        user.append(("delayed_ms", str(delayed_ms)))
    if is_superseded:
        user.append(("superseded", "true"))
    return packets.properties("application/json", user)


def _reason(group: BaseException) -> str:
    exc = innermost(group)
    return f"{exc}" or type(exc).__name__


def _named(reason: int) -> str:
    """What the broker gives as its reason, in words."""
    packet = PacketTypes.DISCONNECT if reason == TOO_LARGE else PacketTypes.PUBACK
    with suppress(KeyError, ValueError):  # one that the library does not know of
        return str(ReasonCode(packet, identifier=reason))
    return f"reason {reason}"
