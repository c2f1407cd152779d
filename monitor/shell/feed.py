"""The links to an exchange: connect, prove, read, connect anew. One generic pair for every venue.

A stream is trusted once it has shown something: a market stream its first mark, a private stream a pong and a snapshot
taken after it opened. An acknowledgement or an open socket proves nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from monitor.config import AccountConfig, LinksConfig
from monitor.effects import INSTANCE
from monitor.errors import DecodeError, ExchangeError, LinkDown, innermost
from monitor.events import (
    BalancesRead,
    ClockOffset,
    Event,
    Fill,
    LinkId,
    LinkReport,
    LinkState,
    MarkPrice,
    PositionsRead,
    StreamControl,
    StreamExpired,
)
from monitor.shell import logs
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Answer, Rest
from monitor.venues import VENUES, Request, Venue

_MAX_FRAME = 16 * 2**20
_STREAMS_PER_FRAME = 200
_NO_SUCH_KEY = -1125
_CLOCK_REFUSED = -1021
_SLOW_ANSWER_MS = 2_000
_NOTICED_WITHIN_MS = 15_000
"""A dead stream is noticed within this; what it may have missed began no earlier."""


class _Link:
    """What both kinds of link have in common: a name, a state that is reported, and a life of sessions."""

    def __init__(self, link: LinkId, inbox: Inbox, links: LinksConfig) -> None:
        self.link = link
        self.inbox = inbox
        self.config = links
        self.log = logs.logger()
        self.bad_frames = 0
        self._sessions = 0
        self._backoff = Backoff(links.backoff_min_s, links.backoff_max_s)
        self._compress = links.compression
        self._ending = False

    async def run(self) -> None:
        """Live until stopped: one session after the other."""
        while not self._ending:
            try:
                await self.session()
            except* (LinkDown, ExchangeError, DecodeError, WebSocketException, OSError) as group:
                why = _reason(group)
                self.report(LinkState.DOWN, why)
                self.log.warning("link down", account=self.link.account, link=self.link.name, reason=why)
            if self._ending:
                return
            self._sessions += 1
            await self._backoff.wait()

    def stop(self) -> None:
        """Begin no further session. Said before the task is cancelled: where a part of a session fails at the very
        moment of the cancellation, the task group raises the failure alone, and a loop that retries would go on."""
        self._ending = True

    async def session(self) -> None:
        """Connect, and carry what comes until it ends in an exception."""
        raise NotImplementedError

    def report(self, state: LinkState, note: str = "") -> None:
        self.inbox.put([LinkReport(self.link, state, self._sessions, None, note)])

    def proved(self) -> None:
        """Say that the link is live, and let the next failure be tried again at once."""
        self._backoff.reset()
        self.report(LinkState.LIVE)
        self.log.info("link live", account=self.link.account, link=self.link.name, reconnects=self._sessions)

    @asynccontextmanager
    async def connection(self, url: str) -> AsyncIterator[ClientConnection]:
        """An open websocket that notices a dead peer within seconds; the address is never logged: it may hold a key."""
        c = self.config
        async with connect(
            url,
            open_timeout=c.connect_timeout_s,
            ping_interval=c.ping_interval_s,
            ping_timeout=c.ping_timeout_s,
            close_timeout=c.close_timeout_s,
            compression="deflate" if self._compress else None,
            max_size=_MAX_FRAME,
            logger=None,
        ) as socket:
            yield socket

    def decoded(self, decode: Callable[..., list[Event]], *args: Any) -> list[Event]:
        """Events of a frame; one that misreads is dropped, counted and logged (now and then, not each time)."""
        try:
            return decode(*args)
        except DecodeError as exc:
            self.bad_frames += 1
            if self.bad_frames & (self.bad_frames - 1) == 0:  # the 1st, 2nd, 4th, 8th …
                self.log.warning(
                    "frame dropped",
                    account=self.link.account,
                    link=self.link.name,
                    count=self.bad_frames,
                    error=str(exc),
                )
            return []


class MarketFeed(_Link):
    """The marks of one market, shared by every account on it. Only held symbols are subscribed."""

    def __init__(self, name: str, account: AccountConfig, rest: Rest, inbox: Inbox, links: LinksConfig) -> None:
        super().__init__(LinkId(INSTANCE, name), inbox, links)
        self._venue: Venue = VENUES[account.venue]
        self._url = account.hosts.market_url
        self._rest = rest
        self._symbols: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._live = False
        self._bridges = True
        self._seen: dict[str, float] = {}
        self._request_id = 0

    def watch(self, symbols: Collection[str]) -> None:
        """From now on carry the marks of these symbols."""
        self._symbols = frozenset(symbols)
        self._changed.set()
        self._wanted.set()

    async def run(self) -> None:
        """Stream for ever, and bridge over REST while the stream does not bring what it should."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name=f"stream[{self.link.name}]")
            tasks.create_task(self._keep_bridging(), name=f"bridge[{self.link.name}]")

    async def session(self) -> None:
        while not self._symbols:
            self.report(LinkState.IDLE)
            self._changed.clear()
            await self._changed.wait()
        self.report(LinkState.CONNECTING)
        try:
            async with (
                self.connection(self._venue.market_url(self._url)) as socket,
                asyncio.TaskGroup() as tasks,
            ):
                self.report(LinkState.PROVING)
                tasks.create_task(self._subscribe(socket), name=f"subscribe[{self.link.name}]")
                await self._read(socket)
        finally:
            self._live = False
            self._wanted.set()

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Keep the subscriptions of an open connection in step with what is held, and ask again for what is silent."""
        have: tuple[str, ...] = ()
        while True:
            self._changed.clear()
            want = self._streams(self._symbols)
            await self._send(socket, True, _without(want, have))
            await self._send(socket, False, _without(have, want))
            asked, have = time.monotonic(), want
            try:
                async with asyncio.timeout(self.config.first_frame_s):
                    await self._changed.wait()
            except TimeoutError:  # an acknowledgement is no proof: a subscription may be lost while others flow
                silent = [s for s in self._symbols if self._seen.get(s, 0.0) < asked]
                await self._send(socket, True, self._streams(silent))
            if not self._symbols:
                raise LinkDown("nothing to watch")

    def _streams(self, symbols: Collection[str]) -> tuple[str, ...]:
        return self._venue.mark_streams(symbols, self.config.array_above) if symbols else ()

    async def _send(self, socket: ClientConnection, add: bool, streams: tuple[str, ...]) -> None:
        for i in range(0, len(streams), _STREAMS_PER_FRAME):
            self._request_id += 1
            part = streams[i : i + _STREAMS_PER_FRAME]
            await socket.send(self._venue.subscription(add, part, self._request_id))
            await asyncio.sleep(0.25)  # the exchange cuts whoever sends more than ten a second

    async def _read(self, socket: ClientConnection) -> None:
        until = time.monotonic() + self.config.connection_life_s
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(self.config.first_frame_s):
                    raw = await socket.recv(decode=False)
                    events = self.decoded(self._venue.decode_market, raw, self.link.name, self._symbols)
                    while not any(isinstance(event, MarkPrice) for event in events):
                        raw = await socket.recv(decode=False)
                        events = self.decoded(self._venue.decode_market, raw, self.link.name, self._symbols)
            except TimeoutError:
                if not self._symbols:
                    raise LinkDown("nothing to watch") from None
                self._compress = self.config.compression and not self._compress  # a known cause of open, silent sockets
                raise LinkDown(f"open, but no mark for {self.config.first_frame_s:g} s") from None
            self.inbox.put(events)
            self._seen.update((event.symbol, time.monotonic()) for event in events if isinstance(event, MarkPrice))
            if not self._live:
                self._live = True
                self.proved()
        raise LinkDown("planned reconnect before the exchange's limit")

    async def _keep_bridging(self) -> None:
        """Contracts once in a while, and marks for as long as the stream does not bring them."""
        read_at: float | None = None
        while True:
            self._wanted.clear()
            if self._symbols and (read_at is None or time.monotonic() - read_at >= self.config.refresh_s):
                read_at = time.monotonic() if await self._bridge(self._venue.requests.contracts) else None
            if self._symbols and not self._live:
                await self._bridge(self._venue.requests.marks)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.bridge_s):
                    await self._wanted.wait()
                await asyncio.sleep(0.1)  # a link that fails at once must not be bridged in a tight loop

    async def _bridge(self, request: Request) -> bool:
        try:
            answer = await self._rest.ask(request)
        except ExchangeError as exc:
            if self._bridges:  # said once, not every few seconds of an outage
                self._bridges = False
                self.log.warning("market data not read", link=self.link.name, request=str(request), reason=str(exc))
            return False
        self._bridges = True
        events = self.decoded(self._venue.decode_answer, request, answer.body, INSTANCE, self.link.name, answer.sent_ms)
        self.inbox.put(e for e in events if not isinstance(e, MarkPrice) or e.symbol in self._symbols)
        return True


class AccountFeed(_Link):
    """The truth of one account: its private stream, and snapshots over REST before, during and after it.

    Args:
        unseen_since_ms: Since when forced orders may have gone unseen, where an earlier run left incidents open.
    """

    def __init__(
        self, account: AccountConfig, rest: Rest, inbox: Inbox, links: LinksConfig, unseen_since_ms: int | None = None
    ) -> None:
        super().__init__(LinkId(account.name, "private"), inbox, links)
        self._account = account
        self._venue: Venue = VENUES[account.venue]
        self._rest = rest
        self._rest_link = LinkId(account.name, "rest")
        self._rest_live = False
        self._blind = True
        self._form = 0
        self._resync = asyncio.Event()
        self._buffer: list[Event] | None = None
        self._clock_known = False
        self._unseen_since_ms = unseen_since_ms

    def resync(self) -> None:
        """Ask the account's truth anew, soon."""
        self._resync.set()

    async def session(self) -> None:
        self.report(LinkState.CONNECTING)
        self._blind = True
        await self._measure_clock()
        key = self._venue.stream_key((await self._ask(self._venue.requests.open_stream)).body)
        forms = self.config.private_forms or self._venue.private_forms
        form = forms[self._form % len(forms)]
        self._form += 1  # should this one not come to life, the next try takes another
        url, first = self._venue.private_url(self._account.hosts.private_url, key, form)
        async with self.connection(url) as socket:
            if first is not None:
                await socket.send(first)
            self.report(LinkState.PROVING)
            pong = await socket.ping()
            try:
                async with asyncio.timeout(self.config.first_frame_s):
                    await pong
            except TimeoutError:
                raise LinkDown("open, but no pong") from None
            self._buffer = []  # what is pushed while the snapshot is under way is applied after it
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(socket), name=f"private[{self.link.account}]")
                snapshot = await self._snapshot(self._venue.requests.account)
                missed = await self._missed_orders()
                self.inbox.put([*missed, *snapshot, *self._buffer])
                self._buffer = None
                self._form -= 1
                self._blind = False
                self._unseen_since_ms = None
                self.proved()
                tasks.create_task(self._keep_alive(), name=f"keepalive[{self.link.account}]")
                tasks.create_task(self._reconcile(), name=f"reconcile[{self.link.account}]")
                tasks.create_task(self._rotate(), name=f"rotate[{self.link.account}]")
                tasks.create_task(self._mark_gap(), name=f"gap[{self.link.account}]")

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            bad_frames = self.bad_frames
            events = self.decoded(self._venue.decode_private, await socket.recv(decode=False), self.link.account)
            if self.bad_frames > bad_frames:
                self._resync.set()  # whatever it said, the exchange's answer will say it too
            if self._buffer is not None:
                self._buffer.extend(events)
            else:
                self.inbox.put(events)
            for event in events:
                if isinstance(event, StreamExpired):
                    raise LinkDown("the exchange ended the stream: listen key expired")
                if isinstance(event, StreamControl):
                    raise LinkDown(event.note)

    async def _keep_alive(self) -> None:
        """Keep the stream's key alive. It is never deleted: other clients of the account share it."""
        while True:
            await asyncio.sleep(self.config.keepalive_s * random.uniform(0.9, 1.1))
            try:
                await self._ask(self._venue.requests.keep_stream)
            except ExchangeError as exc:
                if exc.code == _NO_SUCH_KEY:
                    raise LinkDown("the listen key does not exist any more") from None
                self.log.warning("keepalive failed", account=self.link.account, reason=str(exc))

    async def _reconcile(self) -> None:
        """Compare with the exchange on a schedule, and at once where the core asks for it."""
        requests = self._venue.requests
        backoff = Backoff(self.config.backoff_min_s, self.config.backoff_max_s)
        refreshed = measured = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self.config.reconcile_s):
                    await self._resync.wait()
                    await asyncio.sleep(min(0.2, self.config.reconcile_s / 2))  # a burst of changes is one question
                everything = True
            except TimeoutError:
                everything = time.monotonic() - refreshed >= self.config.refresh_s
            self._resync.clear()
            try:
                if time.monotonic() - measured >= self.config.clock_s or not self._clock_known:
                    await self._measure_clock()
                    measured = time.monotonic()
                self.inbox.put(await self._snapshot(requests.account if everything else requests.reconcile))
                if everything:
                    refreshed = time.monotonic()
                backoff.reset()
            except (ExchangeError, DecodeError) as exc:
                self.log.warning("account not reconciled", account=self.link.account, reason=str(exc))
                await backoff.wait()
                self._resync.set()

    async def _rotate(self) -> None:
        await asyncio.sleep(self.config.connection_life_s * random.uniform(0.95, 1))
        raise LinkDown("planned reconnect before the exchange's limit")

    async def _mark_gap(self) -> None:
        """Remember, when the stream ends, from when on it may have missed something."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._unseen_since_ms = now().wall_ms + self._rest.offset_ms - _NOTICED_WITHIN_MS

    async def _missed_orders(self) -> list[Event]:
        """Forced orders of a time in which nobody was listening; without them a liquidation would look like a close."""
        since_ms = self._unseen_since_ms
        if since_ms is None:
            return []
        try:
            events = await self._snapshot([self._venue.requests.forced])
        except (ExchangeError, DecodeError) as exc:
            self.log.warning("forced orders not read", account=self.link.account, reason=str(exc))
            return []
        return [event for event in events if isinstance(event, Fill) and event.at_ms >= since_ms]

    async def _snapshot(self, requests: Collection[Request]) -> list[Event]:
        """The answers to these requests, as events. One that fails fails all: half a snapshot is none.

        A position that changed after the balances were asked for has its PnL in neither; then they are asked again.
        """
        events: list[Event] = []
        for request in requests:
            events += await self._answer(request)
        asked_ms = [e.sent_ms for e in events if isinstance(e, BalancesRead)]
        changed_ms = max((p.at_ms for e in events if isinstance(e, PositionsRead) for p, _ in e.rows), default=0)
        if asked_ms and changed_ms > min(asked_ms):
            events += await self._answer(self._venue.requests.reconcile[0])
        return events

    async def _answer(self, request: Request) -> list[Event]:
        answer = await self._ask(request)
        sent_ms = answer.sent_ms + self._rest.offset_ms
        return self._venue.decode_answer(request, answer.body, self.link.account, self._account.market, sent_ms)

    async def _measure_clock(self) -> None:
        """Exchange time minus ours, from the middle of a question and its answer; one that took long says nothing."""
        answer = await self._ask(self._venue.requests.time)
        if answer.received_ms - answer.sent_ms > _SLOW_ANSWER_MS and self._clock_known:
            return
        server_ms = self._venue.server_time(answer.body)
        self._rest.offset_ms = server_ms - (answer.sent_ms + answer.received_ms) // 2
        self._clock_known = True
        self.inbox.put([ClockOffset(self._account.market, self._rest.offset_ms)])

    async def _ask(self, request: Request) -> Answer:
        """Ask, and report how the REST link fares."""
        if self._rest.blocked_s:
            self._rest_down(f"the exchange asks us to stay away for {self._rest.blocked_s:.0f} s")
        try:
            answer = await self._rest.ask(request, urgent=self._blind)
        except ExchangeError as exc:
            self._rest_down(str(exc))
            if exc.code == _CLOCK_REFUSED:
                self._clock_known = False
            raise
        if request.auth == "signed":  # what needs no key proves little
            self._rest_live = True
            self.inbox.put([LinkReport(self._rest_link, LinkState.LIVE, self._sessions, answer.weight_used)])
        return answer

    def _rest_down(self, why: str) -> None:
        if self._rest_live:
            self._rest_live = False
            self.inbox.put([LinkReport(self._rest_link, LinkState.DOWN, self._sessions, None, why)])


def _without(streams: Collection[str], others: Collection[str]) -> tuple[str, ...]:
    return tuple(stream for stream in streams if stream not in others)


def _reason(group: BaseException) -> str:
    """Why a session ended, in one line that holds no address."""
    exc = innermost(group)
    if isinstance(exc, LinkDown | ExchangeError | DecodeError):
        return str(exc)
    if isinstance(exc, ConnectionClosed):
        frame = exc.rcvd or exc.sent
        return "connection lost" if frame is None else f"connection closed: {frame.code} {frame.reason}".strip()
    if isinstance(exc, OSError) and exc.strerror:
        return f"{type(exc).__name__}: {exc.strerror}"
    return type(exc).__name__
