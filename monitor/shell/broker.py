"""Outbox → broker: birth, will, retained state, acknowledgements, reconnecting for ever.

A new client object per connection, under the same client id, so that an old session's will cannot outlive a new one.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Self, TypeVar

import aiomqtt
from aiomqtt import MqttCodeError, MqttError, ProtocolVersion, Will
from msgspec import structs
from paho.mqtt.client import PUBLISH
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from monitor.config import MqttConfig
from monitor.errors import innermost
from monitor.message import Message
from monitor.outbox import Outbox
from monitor.shell import logs, packets
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.packets import Answer
from monitor.shell.tasks import ended
from monitor.shell.tls import tls_context
from monitor.sizes import Sizes, size_of

_T = TypeVar("_T")
_NODELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
_UNSENT = 16_384
"""Bytes that the kernel takes before it has sent them. An alert can overtake what waits in the outbox, but not what the
kernel has: over a slow line that would be megabytes of figures, which are under way for minutes."""
_DRAIN_S = 5.0
_AT_ONCE = 32
"""How many messages are sent before others have their turn."""
_MOST_AT_A_TIME = 65_535
"""What an MQTT 5 broker takes where it does not say."""
_MOST_READ = 65_536
"""Bytes that are read at a time."""
_READ_S = 0.01
"""An acknowledgement that has come while we were busy is read within this time."""
_SHORT_S = 5.0
"""A connection that ends sooner than this was no success: the next try waits longer."""
_DOUBT_S = 60.0
"""For so long messages go one at a time, at most."""
_LOOKS = 5
"""How often within the time after which a silent connection counts as lost we look how long it has been silent."""
REFUSED = 0x80
"""From this reason code on the broker has refused something."""
_TOO_LARGE = 0x95
"""So would a broker answer that could read it."""
_QUOTA_EXCEEDED = 0x97
"""So does a broker answer that takes no more for now."""
_UNSUPPORTED = 0x84
"""So does a broker answer that does not know our version of MQTT."""
_UNANSWERED = 3
"""So many greetings in a row may go unanswered, in a version that has been understood before, until the other is tried:
a broker may hang for a while."""
_VERSIONS = {"5": ProtocolVersion.V5, "3.1.1": ProtocolVersion.V311}


class _Client(aiomqtt.Client):
    """A connection on which many messages are under way at once: sent together, and acknowledged together.

    The libraries take a task, locks and a system call per message that they send, and three such calls per one that is
    acknowledged. What is sent here, and what acknowledges it, passes them by; all else is theirs. The methods that take
    the place of theirs are what aiomqtt has paho call, and what paho reads with.

    Args:
        wake: Called when something has been acknowledged.
    """

    def __init__(self, wake: Callable[[], None], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._wake = wake
        self._home = threading.get_ident()
        self.flying: dict[int, Message] = {}
        """Number → message that is under way; the oldest first."""
        self.answers: deque[Answer] = deque()
        """Of the broker's, until somebody takes them."""
        self._unwritten: deque[Answer] = deque()
        """Of messages that the broker does not answer: they are as good as answered once they are written."""
        self._received = bytearray()
        """Not read yet."""
        self.most_bytes = math.inf
        """A packet may have; a broker that is sent a larger one cuts us off, again and again."""
        self.is_reached = False
        """Whether there was anybody to greet."""
        paho: Any = self._client
        self._receive, self._read_packet = paho._sock_recv, paho._packet_read
        paho._sock_recv, paho._packet_read = self._take_received, self._read

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        finally:  # who knows when the garbage collector comes: what TLS has read takes a megabyte
            paho: Any = self._client
            paho._ssl_context = None

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        self.is_reached = True
        with suppress(AttributeError, OSError):  # where the system cannot do so, alerts may be late, and no more
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        super()._on_socket_open(client, userdata, sock)

    def send(self, messages: Iterable[tuple[Message, bytes | None]]) -> None:
        """Send messages, each with its properties.

        Raises:
            MqttError: The connection is lost.
        """
        paho: Any = self._client
        if paho.socket() is None:
            raise MqttError("could not publish, the connection is lost")
        written = []
        for message, properties in messages:
            while (number := paho._mid_generate()) in self.flying:
                pass
            self.flying[number] = message
            packet = packets.publish(message, number, properties)
            if len(packet) > self.most_bytes:
                self._answered(Answer(number, _TOO_LARGE))
                continue
            written.append(packet)
            if not message.qos:
                self._unwritten.append(Answer(number, 0))
        if written:
            paho._packet_queue(PUBLISH, b"".join(written), 0, 1)

    async def answered(self, asking: Awaitable[_T]) -> _T:
        """What the broker answers, waited for as long as the connection lasts. The library would wait on, and we would
        neither connect again nor learn that it was lost at once.

        Raises:
            MqttError: It was lost, or nothing came in time.
        """
        answer = asyncio.ensure_future(asking)
        try:
            await asyncio.wait((answer, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise MqttError("disconnected before it was answered") from self._disconnected.exception()
            return await answer
        finally:
            await ended(answer)

    def _read(self) -> MQTTErrorCode:
        """Read what has come, and let the library have what acknowledges nothing."""
        try:
            received = self._receive(_MOST_READ)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError:
            received = b""
        if not received:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        self._received += received
        result = MQTTErrorCode.MQTT_ERR_SUCCESS
        try:
            while result == MQTTErrorCode.MQTT_ERR_SUCCESS and self._has_more():
                result = self._read_packet()
        except ValueError:  # what makes no sense ends the connection, and the socket with it
            result = MQTTErrorCode.MQTT_ERR_PROTOCOL
        return result

    def _has_more(self) -> bool:
        """Take the acknowledgements that come next. Whether there is something else behind them."""
        paho: Any = self._client
        if paho._in_packet["command"]:
            return True  # it has a part of a packet, and reads on
        for answer in packets.take_answers(self._received):
            if answer.number in paho._out_messages:  # it has sent that one itself
                paho._do_on_publish(answer.number, None, None)
            else:
                self._answered(answer)
        return bool(self._received) and not packets.begins_with_answer(self._received)

    def _answered(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._wake()

    def _take_received(self, size: int) -> bytes:
        """In place of the socket, for the library."""
        if not self._received:
            raise BlockingIOError
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        if threading.get_ident() == self._home:
            self._write(sock)
        else:  # it connects in a thread of its own
            self._loop.call_soon_threadsafe(self._write, sock)

    async def _misc_loop(self) -> None:
        """Keep the connection alive. The library looks once a second whether it is time, however long that is."""
        await asyncio.wait({self._connected})  # the broker may want to hear of us more often than we have proposed
        while self._client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 - time alone makes it so
            await asyncio.sleep(max(1.0, self._client.keepalive / _LOOKS))

    def _write(self, sock: Any) -> None:
        """Write what waits, and the rest of it once the socket takes more."""
        try:
            self._client.loop_write()
            if self._client.want_write():
                self._loop.add_writer(sock.fileno(), self._write, sock)
            else:
                while self._unwritten:
                    self._answered(self._unwritten.popleft())
        except Exception as exc:  # as the library does: whoever reads from this connection is told
            if not self._disconnected.done():
                self._disconnected.set_exception(exc)


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
        self._serving: _Client | None = None
        self._has_another = asyncio.Event()
        self._had_at = -math.inf
        self._stopping = False
        self._stopped = asyncio.Event()
        self._versions = [config.protocol] if config.protocol != "auto" else ["5", "3.1.1"]
        """The first is spoken, or tried next."""
        self._unanswered_left = 1
        """So many more greetings may go unanswered until the other version is tried."""
        self._since = 0.0
        self._window = config.inflight
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

    def _doubt_size(self, client: _Client) -> None:
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

    async def _serve(self, client: _Client, backoff: Backoff) -> None:
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

    def _client(self, version: str) -> _Client:
        c = self._config
        client = _Client(
            self.wake,
            c.host,
            c.port,
            username=c.username,
            password=self._password,
            identifier=c.client_id or f"marginwatch-{c.prefix.replace('/', '-')}",
            protocol=_VERSIONS[version],
            will=Will(self._offline.topic, self._offline.payload, self._offline.qos, True),
            clean_session=None if version == "5" else True,
            timeout=c.timeout_s,
            keepalive=int(c.keepalive_s),
            tls_context=tls_context(c) if c.tls else None,
            socket_options=_NODELAY,
        )
        self._heed_limits(client)
        return client

    def _heed_limits(self, client: _Client) -> None:
        """An MQTT 5 broker may say how many messages it takes at a time, and how large, and cuts whoever sends more.

        Neither library below us heeds these, so the answer to our greeting is read here. One place is left for our
        status, which is said whatever else is under way.
        """
        self._window = self._config.inflight
        on_connect: Any = client._client.on_connect

        def read(paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._window = min(self._window, max(1, getattr(properties, "ReceiveMaximum", _MOST_AT_A_TIME) - 1))
            client.most_bytes = min(getattr(properties, "MaximumPacketSize", math.inf), self._sizes.most)
            on_connect(paho, userdata, flags, reason, properties)

        client._client.on_connect = read

    async def _send(self, client: _Client, backoff: Backoff) -> None:
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

    def _take_answers(self, client: _Client) -> bool:
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

    def _send_some(self, client: _Client) -> bool:
        """Send what waits, as much as goes at a time. Whether more of it could go."""
        window = 1 if self._sizes.is_in_doubt else self._window
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
            if reason == _TOO_LARGE:
                remedy = "raise the largest packet that the broker takes"
            self._log.error("message refused by the broker", topic=message.topic, reason=_named(reason), remedy=remedy)
        else:
            self._sizes.taken(message)
        self._outbox.acknowledged(message)
        self._on_sent(message)
        if not message.is_state:
            self._had_at = time.monotonic()
            self._has_another.set()

    async def _announce(self, client: _Client, status: Message) -> None:
        await client.answered(client.publish(status.topic, status.payload, status.qos, status.retain))
        self._on_sent(status)

    def _properties(self, message: Message) -> bytes | None:
        """What a message says of itself beside its payload, which it can in MQTT 5."""
        return properties_of(message, self._outbox.is_superseded(message)) if self._versions[0] == "5" else None

    async def _receive(self, client: _Client) -> None:
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


def visitor(config: MqttConfig, password: str | None, purpose: str) -> aiomqtt.Client:
    """A connection of somebody of no further importance: under a name of its own, and leaving nothing behind.

    Raises:
        OSError: A file of its TLS cannot be used.
    """
    version = "3.1.1" if config.protocol == "auto" else config.protocol  # of which every broker knows the former
    client = aiomqtt.Client(
        config.host,
        config.port,
        username=config.username,
        password=password,
        identifier=f"marginwatch-{purpose}-{secrets.token_hex(4)}",
        protocol=_VERSIONS[version],
        timeout=config.timeout_s,
        keepalive=int(config.keepalive_s),
        tls_context=tls_context(config) if config.tls else None,
        socket_options=_NODELAY,
    )
    client._client.connect_timeout = config.timeout_s
    return client


async def subscribe(client: aiomqtt.Client, *filters: str, qos: int = 0) -> bool:
    """Subscribe. Whether the broker lets us read all of it."""
    granted = await client.subscribe([(each, qos) for each in filters])
    return all((code if isinstance(code, int) else code.value) < REFUSED for code in granted)


def _reason(group: BaseException) -> str:
    exc = innermost(group)
    return f"{exc}" or type(exc).__name__


def _named(reason: int) -> str:
    """What the broker gives as its reason, in words."""
    packet = PacketTypes.DISCONNECT if reason == _TOO_LARGE else PacketTypes.PUBACK
    with suppress(KeyError, ValueError):  # one that the library does not know of
        return str(ReasonCode(packet, identifier=reason))
    return f"reason {reason}"
