"""Marks of one market: over streams, and over REST those that no stream brings."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from websockets.asyncio.client import ClientConnection

from monitor.config import AccountConfig, LinksConfig
from monitor.effects import INSTANCE
from monitor.errors import DecodeError, ExchangeError, LinkDown
from monitor.events import AssetRates, ContractsRead, Event, LinkId, LinkState, MarkPrice, Marks
from monitor.latest_marks import LatestMarks
from monitor.shell.backoff import Backoff
from monitor.shell.feed import Feed, Session
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Rest
from monitor.shell.tap import Tap
from monitor.shell.websocket import REQUEST_PAUSE_S
from monitor.turns import Need
from monitor.venues import VENUES, Request

_STREAMS_PER_FRAME = 200
_FRAMES = 4000
"""So many frames with different symbols are remembered; one connection has at most 1,024 streams."""
_MARK_EVERY_S = 1.0
"""How often the streams that we subscribe are pushed."""


class MarketFeed(Feed):
    """The marks of one market, shared by every account on it, and with them what changes in its contracts and, where
    wanted, the rates of collateral. Of marks only those of held symbols are subscribed.

    Args:
        account: One of those.
    """

    def __init__(
        self, account: AccountConfig, rest: Rest, inbox: Inbox, links: LinksConfig, tap: Tap | None = None
    ) -> None:
        venue, market = VENUES[account.venue], account.market
        super().__init__(LinkId(INSTANCE, market), venue, market, rest, inbox, links, tap)
        self.url = self.venue.market_url(account.hosts.market_url)
        self.symbols: frozenset[str] = frozenset()
        self.rates = False
        self._sessions: set[MarketSession] = set()
        self._wanted = asyncio.Event()
        self._since: dict[str, float] = {}
        """Since when each symbol is wanted (monotonic seconds)."""
        self._held = asyncio.Event()
        self._listed: frozenset[str] = frozenset()
        """What the contracts were read for: all that they named, and what was held then."""
        self._unlisted = asyncio.Event()
        self._failing: set[Request] = set()
        self._answered: set[Request] = set()
        self._latest = LatestMarks(_MARK_EVERY_S)
        self._are_slow = False
        self._rates_seen = -math.inf

    def watch(self, symbols: Collection[str], rates: bool = False) -> None:
        """From now on carry the marks of these symbols, and the rates of collateral if wanted."""
        self.symbols = frozenset(symbols)
        self.rates = rates
        self._since = {symbol: self._since.get(symbol, time.monotonic()) for symbol in self.symbols}
        self._latest.only(self.symbols)
        self._tell_cadence()
        for session in self._sessions:
            session.changed.set()
        if not self.symbols <= self._listed:
            self._unlisted.set()  # listed since then: of what it is a contract, and when it ends, is not known
        self._wanted.set()
        if self.symbols:
            self._held.set()
        else:
            self._held.clear()

    async def run(self) -> None:
        """Stream for ever, and bridge over REST while the stream does not bring what it should."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self.config.market_connections + 1):
                tasks.create_task(self.keep(), name=f"stream[{self.link.name} {number}]")
            tasks.create_task(self._keep_bridging(), name=f"bridge[{self.link.name}]")
            c, requests = self.config, self.venue.requests
            kept = [(requests.contracts, c.refresh_s, c.backoff_max_s)]
            kept += [(request, c.refresh_s, c.refresh_s) for request in requests.market_facts]
            kept += [] if requests.status is None else [(requests.status, c.status_s, c.refresh_s)]
            for request, every_s, most_s in kept:
                name = f"refresh[{self.link.name} {request.path}]"
                tasks.create_task(self._keep_fresh(request, every_s, most_s), name=name)

    # ---- what sessions bring ----

    def begin(self) -> MarketSession:
        return MarketSession(self)

    def opened(self, session: MarketSession) -> None:
        self._sessions.add(session)

    def closed(self, session: MarketSession) -> None:
        self._sessions.discard(session)
        self._wanted.set()

    def pass_on(self, raw: bytes) -> tuple[str, ...]:
        """Pass on what one frame says, unless another connection has brought it before. Gives the symbols of the marks
        in it."""
        try:
            events = self.venue.decode_market(raw, self.link.name, self.symbols)
        except DecodeError as exc:
            self.dropped(exc)
            events = []
        symbols: tuple[str, ...] = ()
        fresh: list[Event] = []
        for event in events:
            if isinstance(event, Marks):
                symbols += event.symbols
                fresh += self._latest.news(event)
            elif isinstance(event, MarkPrice):
                symbols += (event.symbol,)
                if self._latest.is_news(event):
                    fresh.append(event)
            else:
                fresh.append(event)
                if isinstance(event, AssetRates):
                    self._rates_seen = time.monotonic()
        self._tell_cadence()
        if self.tap is not None and (fresh or not events):
            self.tapped("market", raw)
        self.inbox.put(fresh)
        return symbols

    def _tell_cadence(self) -> None:
        """Say whether marks come in time, where that has changed."""
        every_s = self._latest.slow_s
        if (every_s is not None) == self._are_slow:
            return
        self._are_slow = not self._are_slow
        if every_s is None:
            self.remark("cadence")
            self.log.info("marks come in time again", link=self.link.name)
        else:
            text = f"marks come every {every_s:.3g} s instead of {_MARK_EVERY_S:g} s"
            self.remark("cadence", text)
            self.log.warning("marks come slowly", link=self.link.name, every_s=round(every_s, 1), note=text)

    def flowing(self) -> frozenset[str]:
        """The symbols of which marks come, whichever connection brings them."""
        since = time.monotonic() - self.config.first_frame_s
        return self.symbols & frozenset[str]().union(*(session.seen.since(since) for session in self._sessions))

    def silent(self) -> tuple[frozenset[str], float]:
        """The symbols of which no mark comes, though each has had its time: some may be silent while others flow. And
        in how many seconds there may be one more."""
        since = time.monotonic() - self.config.first_frame_s
        heard = dict(self._since)
        for session in self._sessions:
            for symbol, at in session.seen.last():
                if heard.get(symbol, math.inf) < at:
                    heard[symbol] = at
        silent = frozenset(symbol for symbol, at in heard.items() if at < since)
        return silent, min((at for at in heard.values() if at >= since), default=since) - since

    def lacks_rates(self, since: float) -> bool:
        """Whether rates are wanted, and none has come since then (monotonic seconds)."""
        return self.rates and self._rates_seen < since

    # ---- over REST ----

    async def _keep_bridging(self) -> None:
        """Marks for as long as the stream does not bring them, and rates where they are wanted."""
        requests = self.venue.requests
        while True:
            self._wanted.clear()
            lacking, calm_s = self.silent() if self.live else (self.symbols, 0.0)
            if lacking:
                await self._bridge(requests.marks, lacking)
            late = math.inf if not self.live else time.monotonic() - self.config.first_frame_s
            if self.symbols and requests.rates is not None and self.lacks_rates(late):
                await self._bridge(requests.rates)  # a stream that brings marks may have lost that of the rates
            wait_s = self.config.bridge_s if lacking or self.rates else max(self.config.bridge_s, calm_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
                await asyncio.sleep(0.1)  # a link that fails at once must not be bridged in a tight loop

    async def _keep_fresh(self, request: Request, every_s: float, most_s: float) -> None:
        """Ask once in a while, for as long as anything is held, and for contracts once something is held that they did
        not name. Each request keeps its own time: none waits for another that fails.

        Args:
            every_s: How often.
            most_s: Longest wait after a failure; a host may lack a request of no consequence altogether.
        """
        patience = Backoff(self.config.bridge_s, most_s)
        sooner = self._unlisted if request == self.venue.requests.contracts else asyncio.Event()
        while True:
            await self._held.wait()
            if await self._bridge(request):
                patience.reset()
                with suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        await sooner.wait()
            else:
                await patience.wait()

    def _need(self, request: Request) -> Callable[[], Need]:
        """Marks and rates are asked for only where the stream does not bring them."""
        if request in (self.venue.requests.marks, self.venue.requests.rates):
            return lambda: Need.BLIND
        return lambda: Need.EASE if request in self._answered else Need.START

    async def _bridge(self, request: Request, symbols: Collection[str] = ()) -> bool:
        """Ask for it, and pass on what it says, of marks those of these symbols. Whether it said anything."""
        try:
            answer = await self.rest.ask(request, self._need(request))
        except ExchangeError as exc:
            if request not in self._failing:  # said once, not every few seconds of an outage
                self._failing.add(request)
                self.log.warning("market data not read", link=self.link.name, request=str(request), reason=str(exc))
            return False
        self._failing.discard(request)
        self._answered.add(request)
        self.tapped_answer(request, answer, answer.sent_ms)
        try:
            events = self.venue.decode_answer(request, answer.body, INSTANCE, self.link.name, answer.sent_ms)
        except DecodeError as exc:
            self.dropped(exc)
            return False
        for event in events:
            if isinstance(event, ContractsRead):
                self._listed = self.symbols.union(event.contracts)  # what is held and not named is not asked for again
                self._unlisted.clear()
        wanted = self.symbols.intersection(symbols)  # some may have gone meanwhile
        self.inbox.put(e for e in events if not isinstance(e, MarkPrice) or e.symbol in wanted)
        return True


class MarketSession(Session):
    """One connection of a market link: live with its first mark, proved once it brings whatever flows at all.

    What else a market stream carries proves nothing: collateral may be priced while no mark comes.
    """

    def __init__(self, feed: MarketFeed) -> None:
        super().__init__()
        self.changed = asyncio.Event()
        self._feed = feed
        self.seen = _Seen()
        self._request_id = 0

    async def run(self) -> None:
        feed = self._feed
        feed.opened(self)
        try:
            while not feed.symbols:
                feed.report(LinkState.IDLE)
                self.changed.clear()
                await self.changed.wait()
            feed.report(LinkState.CONNECTING)
            async with feed.connection(feed.url) as socket, asyncio.TaskGroup() as tasks:
                feed.report(LinkState.PROVING)
                tasks.create_task(self._subscribe(socket), name=f"subscribe[{feed.link.name}]")
                await self._read(socket)
        except* _NothingToWatch:
            pass
        finally:
            feed.closed(self)

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Keep the subscriptions of an open connection in step with what is held, and ask again for what is silent."""
        feed = self._feed
        have: tuple[str, ...] = ()
        while True:
            self.changed.clear()
            marks, others = self._streams(feed.symbols), self._other_streams()
            want = (*marks, *others)
            await self._send(socket, True, _without(marks, have))
            await self._send(socket, True, _without(others, have))  # for itself: should it be refused, marks are not
            await self._send(socket, False, _without(have, want))
            asked, have = time.monotonic(), want
            try:
                async with asyncio.timeout(feed.config.first_frame_s):
                    await self.changed.wait()
            except TimeoutError:  # an acknowledgement is no proof: a subscription may be lost while others flow
                silent = feed.symbols - self.seen.since(asked)
                await self._send(socket, True, self._streams(silent))
                if feed.lacks_rates(asked):
                    await self._send(socket, True, feed.venue.rate_streams)
            if not feed.symbols:
                raise _NothingToWatch

    def _other_streams(self) -> tuple[str, ...]:
        venue = self._feed.venue
        return (*venue.contract_streams, *(venue.rate_streams if self._feed.rates else ()))

    def _streams(self, symbols: Collection[str]) -> tuple[str, ...]:
        return self._feed.venue.mark_streams(symbols, self._feed.config.array_above) if symbols else ()

    async def _send(self, socket: ClientConnection, add: bool, streams: tuple[str, ...]) -> None:
        for i in range(0, len(streams), _STREAMS_PER_FRAME):
            self._request_id += 1
            part = streams[i : i + _STREAMS_PER_FRAME]
            await socket.send(self._feed.venue.subscription(add, part, self._request_id))
            await asyncio.sleep(REQUEST_PAUSE_S)

    async def _read(self, socket: ClientConnection) -> None:
        feed = self._feed
        patience_s = feed.config.first_frame_s
        clock = time.monotonic  # which is the event loop's
        marked = clock()
        while True:
            try:
                async with asyncio.timeout_at(marked + patience_s):  # a timer for each frame would cost more than it
                    while True:
                        if symbols := feed.pass_on(await socket.recv(decode=False)):
                            marked = clock()
                            self._marked(symbols, marked)
            except TimeoutError:
                if clock() < marked + patience_s:
                    continue
                if not feed.symbols:
                    raise _NothingToWatch from None
                feed.compress = feed.config.compression and not feed.compress  # a known cause of open, silent sockets
                raise LinkDown(f"open, but no mark for {patience_s:g} s") from None

    def _marked(self, symbols: tuple[str, ...], at: float) -> None:
        self.seen.came(symbols, at)
        if not self.carried:
            self._feed.carries(self)
        if not self.proved.done() and self._feed.flowing() <= self.seen.since(-math.inf):
            self.set_proved()


class _Seen:
    """When marks last came, frame by frame: those of the same symbols replace each other."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, ...], float] = {}

    def came(self, symbols: tuple[str, ...], at: float) -> None:
        """Marks of these symbols have come (monotonic seconds)."""
        self._at.pop(symbols, None)  # the latest is the last
        self._at[symbols] = at
        if len(self._at) > _FRAMES:
            del self._at[next(iter(self._at))]

    def last(self) -> Iterator[tuple[str, float]]:
        """Of each symbol when a mark has come: more than once perhaps, and last when the last has."""
        return ((symbol, at) for symbols, at in self._at.items() for symbol in symbols)

    def since(self, at: float) -> frozenset[str]:
        """The symbols of which marks have come since then."""
        return frozenset(symbol for symbols, came_at in self._at.items() if came_at >= at for symbol in symbols)


class _NothingToWatch(Exception):
    """No symbol is held any more."""


def _without(streams: Collection[str], others: Collection[str]) -> tuple[str, ...]:
    return tuple(stream for stream in streams if stream not in others)
