"""A connection to an MQTT broker: of the daemon, which sends very much over it, and of those who only visit.

The methods of `Client` that take the place of the libraries' are what aiomqtt has paho call, and what paho reads with.
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
from contextlib import suppress
from typing import Any, Self, TypeVar

import aiomqtt
from aiomqtt import MqttError, ProtocolVersion
from paho.mqtt.client import PUBLISH
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.config import MqttConfig
from monitor.message import Message
from monitor.shell import packets
from monitor.shell.packets import Answer
from monitor.shell.tasks import ended
from monitor.shell.tls import tls_context

_T = TypeVar("_T")
_NODELAY = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
_UNSENT = 16_384
"""Bytes that the kernel takes before it has sent them. An alert can overtake what waits in the outbox, but not what the
kernel has: over a slow line that would be megabytes of figures, which are under way for minutes."""
_MOST_AT_A_TIME = 65_535
"""What an MQTT 5 broker takes where it does not say."""
_MOST_READ = 65_536
"""Bytes that are read at a time."""
REFUSED = 0x80
"""From this reason code on the broker has refused something."""
TOO_LARGE = 0x95
"""So would a broker answer that could read it."""
_VERSIONS = {"5": ProtocolVersion.V5, "3.1.1": ProtocolVersion.V311}


class Client(aiomqtt.Client):
    """A connection on which many messages are under way at once: sent together, and acknowledged together.

    The libraries take a task, locks and a system call per message that they send, and three such calls per one that is
    acknowledged. What is sent here, and what acknowledges it, passes them by; all else is theirs.

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
        self.most_at_once = 1
        """Messages may be under way; a broker that is sent more cuts us off."""
        self.most_bytes = math.inf
        """A packet may have; likewise, again and again."""
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

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        """Heed what an MQTT 5 broker says it takes, which neither library does. One place is left for our status, which
        is said whatever else is under way."""
        self.most_at_once = max(1, getattr(properties, "ReceiveMaximum", _MOST_AT_A_TIME) - 1)
        self.most_bytes = getattr(properties, "MaximumPacketSize", math.inf)
        super()._on_connect(client, userdata, flags, reason_code, properties)

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
                self._answered(Answer(number, TOO_LARGE))
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
        """Keep the connection alive. The library looks once a second whether it is time, though one knows when."""
        paho: Any = self._client
        await asyncio.wait({self._connected})  # the broker may want to hear of us more often than we have proposed
        while paho.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            silent_since = min(paho._last_msg_out, paho._last_bytes_received)
            await asyncio.sleep(max(1.0, silent_since + paho.keepalive - time.monotonic()))

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


def login(config: MqttConfig, password: str | None, version: str) -> dict[str, Any]:
    """How whoever has this config connects, in this version of MQTT.

    Raises:
        OSError: A file of its TLS cannot be used.
    """
    return {
        "hostname": config.host,
        "port": config.port,
        "username": config.username,
        "password": password,
        "protocol": _VERSIONS[version],
        "timeout": config.timeout_s,
        "keepalive": int(config.keepalive_s),
        "tls_context": tls_context(config) if config.tls else None,
        "socket_options": _NODELAY,
    }


def visitor(config: MqttConfig, password: str | None, purpose: str) -> aiomqtt.Client:
    """A connection of somebody of no further importance: under a name of its own, and leaving nothing behind.

    Raises:
        OSError: A file of its TLS cannot be used.
    """
    version = "3.1.1" if config.protocol == "auto" else config.protocol  # of which every broker knows the former
    identifier = f"marginwatch-{purpose}-{secrets.token_hex(4)}"
    client = aiomqtt.Client(**login(config, password, version), identifier=identifier)
    client._client.connect_timeout = config.timeout_s
    return client


async def subscribe(client: aiomqtt.Client, *filters: str, qos: int = 0) -> bool:
    """Subscribe. Whether the broker lets us read all of it."""
    granted = await client.subscribe([(each, qos) for each in filters])
    return all((code if isinstance(code, int) else code.value) < REFUSED for code in granted)
