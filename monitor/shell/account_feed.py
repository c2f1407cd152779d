"""The truth of one account: its private stream, and snapshots over REST before, during and after it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from monitor.book import SNAPSHOT_LAG_MS, is_torn
from monitor.config import AccountConfig, LinksConfig
from monitor.errors import DecodeError, ExchangeError, LinkCut, LinkDown, LinkMute, LinkUnwanted, innermost
from monitor.events import (
    AccountChanged,
    BalancesRead,
    ClockOffset,
    Event,
    Fill,
    KeyPermissionsRead,
    LinkId,
    LinkReport,
    LinkState,
    OrdersUnread,
    PositionsRead,
    StreamControl,
    StreamExpired,
)
from monitor.forms import Forms
from monitor.market import SLOW_ANSWER_MS
from monitor.mute import MuteDetector
from monitor.pace import Pace
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.feed import Feed, Session
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Answer, Rest
from monitor.shell.shared_stream import SHARED_FORM, SharedStream, SharedStreams
from monitor.shell.tap import Tap
from monitor.turns import Need
from monitor.unseen import Unseen, after, both, cut, restart
from monitor.venues import VENUES, PrivateForm, Request

_NO_SUCH_KEY = -1125
_CLOCK_REFUSED = -1021
_LAG_S = SNAPSHOT_LAG_MS / 1000
_KEEPALIVES_BEFORE_RENEWAL = 3
_CUTS_IN_VAIN = 3
_ORDERS_IN_VAIN = 3
"""So often forced orders are asked for before a snapshot is told without them."""
_WAITS = "waits for its turn: what may be asked from this address in a minute is used up"
_UNSUPPORTED = "the key is for portfolio margin, too, which is not supported: figures of such an account are wrong"
_SHOWN_KEY = "listenKey"
"""Stands for a stream's own key wherever a frame could be shown: in the log, or in a recording."""
_REMEMBERED = 256
"""Events by which what comes twice, over two connections, is known; they overlap for a second or so."""


class AccountFeed(Feed):
    """One account, for as long as it is watched.

    Args:
        unseen: Since when forced orders may have gone unseen, where an earlier run has watched it.
        pace: Says how often to compare with the exchange; shared by the accounts of one address.
        gate: So many may begin at a time; shared by the same.
        shared: Connections on which accounts have their streams together. None: each has one of its own.
    """

    def __init__(
        self,
        account: AccountConfig,
        rest: Rest,
        inbox: Inbox,
        links: LinksConfig,
        unseen: Unseen | None = None,
        tap: Tap | None = None,
        pace: Pace | None = None,
        gate: asyncio.Semaphore | None = None,
        shared: SharedStreams | None = None,
    ) -> None:
        venue = VENUES[account.venue]
        super().__init__(LinkId(account.name, "private"), venue, account.market, rest, inbox, links, tap)
        self.forms = Forms(links.private_forms or venue.private_forms, None if shared is None else SHARED_FORM)
        self.rest_url = account.hosts.rest_url
        self.private_url = account.hosts.private_url
        self.shared = shared
        self._pace = pace or Pace(links.reconcile_s, links.weight_per_minute / 2)
        self._pace.join(account.name, sum(request.weight for request in venue.requests.reconcile))
        self._endangered = False
        self._rest_link = LinkId(account.name, "rest")
        self._rest_live = False
        self._weight_used: int | None = None
        self._is_read = True
        """Whether the last comparison had all its answers; while it had not, those that did come prove nothing."""
        self._sessions: set[PrivateSession] = set()
        self._snapshot_wanted = asyncio.Event()
        self._everything = False
        self._begun = asyncio.Event()
        self._recent: deque[Event] = deque(maxlen=_REMEMBERED)
        self._clock_known = False
        self.unseen = unseen
        """Of what time forced orders may be unseen, until a snapshot that cannot be of that time has been held against
        it. None: of none."""
        self._orders_unread = 0
        """How often, one after the other, forced orders were asked for in vain; until they come, they stay unseen."""
        self._doubted_until = 0.0
        self._gate = gate or asyncio.Semaphore()
        self._has_lived = False

    @property
    def endangered(self) -> bool:
        """Whether a pool is so near to liquidation that this account goes before others."""
        return self._endangered

    @endangered.setter
    def endangered(self, is_endangered: bool) -> None:
        self._endangered = is_endangered
        if self._pace.endangered(self.link.account, is_endangered) and is_endangered:
            self._snapshot_wanted.set()

    def stop(self) -> None:
        super().stop()
        self._pace.leave(self.link.account)

    def resync(self) -> None:
        """Ask the account's truth anew, soon."""
        self._everything = True
        self._snapshot_wanted.set()

    def recall(self, earlier: Unseen) -> None:
        """What an earlier run has left was found only now: of what it may have missed nobody has been asked."""
        self.unseen = earlier if self.unseen is None else both(earlier, self.unseen)
        self._snapshot_wanted.set()

    async def run(self) -> None:
        """Stream for ever; and ask over REST, whether there is a stream or not."""
        async with asyncio.TaskGroup() as tasks:
            name = self.link.account
            tasks.create_task(self.keep(), name=f"private[{name}]")
            await self._begun.wait()  # the first session reads everything itself
            tasks.create_task(self._keep_alive(), name=f"keepalive[{name}]")
            tasks.create_task(self._reconcile(), name=f"reconcile[{name}]")
            tasks.create_task(self._keep_facts(), name=f"facts[{name}]")

    # ---- sessions ----

    def begin(self) -> PrivateSession:
        return PrivateSession(self)

    def opened(self, session: PrivateSession) -> None:
        self._sessions.add(session)

    def came_to_life(self, session: PrivateSession, truth: Collection[Event]) -> None:
        """A session has its snapshot: from here on it is the account's truth, in doubt after a time in which nobody
        listened: the copy that it came from need not have seen the last of that time yet."""
        self.inbox.put(truth)
        self._has_lived = True
        self.carries(session)
        self._begun.set()
        if self.unseen is not None:
            self._doubt()

    def opened_in_vain(self, form: PrivateForm, why: BaseException) -> None:
        """A session has ended before it carried anything: others may come to life. That a shared connection was cut
        says little against it, unless it is again and again; that none is wanted for a while, nothing."""
        if isinstance(why, LinkUnwanted):
            return
        if not isinstance(why, LinkCut) or (self._failures + 1) % _CUTS_IN_VAIN == 0:
            self.forms.failed(form)

    def closed(self, session: PrivateSession) -> None:
        self._sessions.discard(session)
        if not self._begun.is_set():  # without a stream there are still answers
            self.unseen = self.unseen or restart(None, ())  # and what they do not show, nobody tells
            self.resync()
            self._begun.set()
        if session.carried and not any(other.carried for other in self._sessions):
            self.unseen = both(self.unseen, self._cut(session))

    def missed(self, session: PrivateSession) -> None:
        """A live session has told something that was not understood, which may have been a forced order."""
        self.unseen = both(self.unseen, self._cut(session))
        self._doubt()

    def _doubt(self) -> None:
        """What is asked for by now may come from a copy that lags, so that it is asked for once more."""
        self._doubted_until = time.monotonic() + _LAG_S
        if self._pace.interval_s(self.link.account) <= self.config.reconcile_s:  # else its turn comes as ever
            asyncio.get_running_loop().call_later(_LAG_S, self._snapshot_wanted.set)

    def fresh(self, events: Collection[Event]) -> list[Event]:
        """Those among pushed events that no other connection has brought before."""
        fresh = [event for event in events if event not in self._recent]
        self._recent.extend(fresh)
        return fresh

    # ---- over REST, all the time ----

    async def _keep_alive(self) -> None:
        """Keep the stream's key alive. It is never deleted: other clients of the account share it."""
        failures = 0
        while True:
            await asyncio.sleep(self.config.keepalive_s * random.uniform(0.85, 1.15))
            if not self.live:
                continue  # the next session asks for a key anyway
            try:
                answer = await self.ask(self.venue.requests.keep_stream)
            except ExchangeError as exc:
                if exc.code == _NO_SUCH_KEY:
                    self._end_sessions(LinkDown("the listen key does not exist any more"))
                    continue
                failures += 1
                self.log.warning("keepalive failed", account=self.link.account, count=failures, reason=str(exc))
                if failures % _KEEPALIVES_BEFORE_RENEWAL == 0:
                    self.remark("keepalive", f"the listen key was not extended {failures} times in a row: {exc}")
                    for session in self._sessions:
                        session.is_outlived()
                continue
            failures = 0
            self.remark("keepalive")
            with suppress(DecodeError):  # not every market names the key here
                key = self.venue.stream_key(answer.body)
                if any(session.key not in ("", key) for session in self._sessions):
                    self._end_sessions(LinkDown("the listen key has been replaced"))

    def _end_sessions(self, why: LinkDown) -> None:
        for session in self._sessions:
            session.ends(why)

    async def _reconcile(self) -> None:
        """Compare with the exchange on a schedule, and at once where the core asks for it."""
        requests = self.venue.requests
        backoff = Backoff(self.config.backoff_min_s, self.config.backoff_max_s)
        refreshed = measured = time.monotonic()
        part = random.random() if self._pace.is_shared else 1.0  # many accounts do not ask all at once
        while True:
            wait_s = self._pace.interval_s(self.link.account) * part
            if any(session.detector.suspects for session in self._sessions):
                wait_s = min(wait_s, self.config.mute_after_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._snapshot_wanted.wait()
                    await asyncio.sleep(min(0.2, self.config.reconcile_s / 2))  # a burst of changes is one question
            part = 1.0
            everything = self._everything or time.monotonic() - refreshed >= self.config.refresh_s
            self._snapshot_wanted.clear()
            self._everything = False
            try:
                if time.monotonic() - measured >= self.config.clock_s or not self._clock_known:
                    await self.measure_clock()
                    measured = time.monotonic()
                asked = time.monotonic()
                events = await self.snapshot(requests.account if everything else requests.reconcile)
                for session in self._sessions:
                    if session.carried:
                        self._compare(session, events)
                missed = await self.missed_orders(events, certain=self.live and asked >= self._doubted_until)
                self.inbox.put([*missed, *events])
                if everything:
                    refreshed = time.monotonic()
                backoff.reset()
                if not self._is_read:
                    self._is_read = True
                    self._rest_up(None)
            except (ExchangeError, DecodeError) as exc:
                self.log.warning("account not reconciled", account=self.link.account, reason=str(exc))
                self._is_read = False
                self._rest_down("an answer does not read" if isinstance(exc, DecodeError) else str(exc))
                await backoff.wait()
                self.resync()

    def _compare(self, session: PrivateSession, snapshot: Collection[Event]) -> None:
        """Hold a snapshot against what a live stream has told."""
        session.compare(snapshot)
        if session.detector.owes_position and self.unseen is None:
            self.unseen = self._cut(session)

    def _cut(self, session: PrivateSession) -> Unseen:
        """A session has ended, or tells nothing any more."""
        return cut(now().wall_ms + self.rest.offset_ms, session.detector, session.detector.silent_since_ms)

    async def _keep_facts(self) -> None:
        """What is good to know of the account, once in a while. No figure depends on it: where it fails, the REST link
        is none the worse, and the snapshot stands."""
        failing: set[Request] = set()
        patience = Backoff(self.config.backoff_max_s, self.config.refresh_s)
        while True:
            for request in self.venue.requests.account_facts:
                try:
                    events = self._read_answer(request, await self.rest.ask(request))
                    self.inbox.put(events)
                    for event in events:
                        if isinstance(event, KeyPermissionsRead):
                            self.remark("portfolio margin", _UNSUPPORTED if event.portfolio_margin else "")
                    failing.discard(request)
                except (ExchangeError, DecodeError) as exc:
                    if request not in failing:  # said once: a testnet has not all of them
                        self.log.warning(
                            "account fact not read", account=self.link.account, request=str(request), reason=str(exc)
                        )
                    failing.add(request)
            if failing:
                await patience.wait()
            else:
                patience.reset()
                await asyncio.sleep(self.config.refresh_s)

    # ---- questions ----

    async def missed_orders(self, snapshot: Collection[Event], *, certain: bool = False) -> list[Event]:
        """Forced orders of a time in which nobody was listening; without them a liquidation would look like a close.

        They cost twice what all else of an account does: where the snapshot shows what we knew, there were none.

        Args:
            certain: Whether there is a stream, and the snapshot shows all that came before it; else it is what the next
                is held against.
        """
        unseen = self.unseen
        if unseen is None:
            return []
        events: list[Event] = []
        if not unseen.has_hidden_nothing(snapshot):
            request = self.venue.requests.forced
            try:  # where only this one is refused, REST is none the worse
                events = self._read_answer(request, await self.rest.ask(request, self._need))
            except (ExchangeError, DecodeError) as exc:
                self._orders_unread += 1
                if self._orders_unread < _ORDERS_IN_VAIN:
                    raise
                if self._orders_unread == _ORDERS_IN_VAIN:
                    self.log.warning("forced orders not read", account=self.link.account, reason=str(exc))
                return [OrdersUnread(self.link.account, unseen.row)]
        self._orders_unread = 0
        if self.unseen is unseen:
            self.unseen = None if certain else after(snapshot)
        missed = [event for event in events if isinstance(event, Fill) and unseen.may_have_hidden(event)]
        return [OrdersUnread(self.link.account, None), *missed]

    async def snapshot(self, requests: Collection[Request]) -> list[Event]:
        """The answers to these requests, as events. One that fails fails all: half a snapshot is none.

        A position that changed after the balances were asked for has its PnL in neither; then they are asked again.
        """
        events: list[Event] = []
        for request in requests:
            events += await self._answer(request)
        if is_torn(events):
            events += await self._answer(self.venue.requests.reconcile[0])
        return events

    async def _answer(self, request: Request) -> list[Event]:
        return self._read_answer(request, await self.ask(request))

    def _read_answer(self, request: Request, answer: Answer) -> list[Event]:
        sent_ms = answer.sent_ms + self.rest.offset_ms
        self.tapped_answer(request, answer, sent_ms)
        return self.venue.decode_answer(request, answer.body, self.link.account, self.market, sent_ms)

    async def stream_key(self) -> str:
        """The key of the private stream, a secret."""
        request = self.venue.requests.open_stream
        answer = await self.ask(request)
        with suppress(DecodeError):  # its words would carry what did read, to the log and the broker
            if key := self.venue.stream_key(answer.body):
                return key
        raise LinkDown(f"{request}: the answer has no listen key that reads")

    async def measure_clock(self) -> None:
        """Exchange time minus ours, from the middle of a question and its answer; one that took long says nothing."""
        answer = await self.ask(self.venue.requests.time)
        self.tapped_answer(self.venue.requests.time, answer, answer.sent_ms)
        if answer.received_ms - answer.sent_ms > SLOW_ANSWER_MS and self._clock_known:
            return
        server_ms = self.venue.server_time(answer.body)
        self.rest.offset_ms = server_ms - (answer.sent_ms + answer.received_ms) // 2
        self._clock_known = True
        self.inbox.put([ClockOffset(self.market, self.rest.offset_ms)])

    async def ask(self, request: Request) -> Answer:
        """Ask, and report how the REST link fares."""
        if self.rest.blocked_s:
            self._rest_down(f"the exchange asks us to stay away for {self.rest.blocked_s:.0f} s")
        patience_s = 2 * self.config.rest_timeout_s  # whatever has been sent is answered by then, or has failed
        waits = asyncio.get_running_loop().call_later(patience_s, self._rest_waits)
        try:
            answer = await self.rest.ask(request, self._need)
        except ExchangeError as exc:
            self._rest_down(str(exc))
            if exc.code == _CLOCK_REFUSED:
                self._clock_known = False
            raise
        finally:
            waits.cancel()
        if request.auth == "signed" and self._is_read:  # what needs no key proves little
            self._rest_up(answer.weight_used)
        return answer

    def _need(self) -> Need:
        """Why this account asks: at the start all are blind, which is no hurry of one among them."""
        if self._endangered:
            return Need.DANGER
        if self.live:
            return Need.EASE
        return Need.BLIND if self._has_lived else Need.START

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], None]]:
        """A place among those that begin: where many do, the first are done before the last have begun. Who is in
        danger, or only changes its connection, needs none. Gives what hands it back; at the end it is anyway."""
        needs_one = not self.live and not self._endangered
        if needs_one:
            await self._gate.acquire()
        held = [self._gate] if needs_one else []

        def hand_back() -> None:
            while held:
                held.pop().release()

        try:
            yield hand_back
        finally:
            hand_back()

    def _rest_up(self, weight_used: int | None) -> None:
        self._rest_live = True
        self._weight_used = weight_used
        self.say(LinkReport(self._rest_link, LinkState.LIVE, self._reconnects, weight_used))

    def _rest_waits(self) -> None:
        """Nothing has failed, and nothing is compared with the exchange either."""
        if self._rest_live:
            self.say(LinkReport(self._rest_link, LinkState.LIVE, self._reconnects, self._weight_used, _WAITS))

    def _rest_down(self, why: str) -> None:
        if self._rest_live:
            self._rest_live = False
            self.say(LinkReport(self._rest_link, LinkState.DOWN, self._reconnects, None, why))


class OwnStream:
    """What comes of an account over a connection of its own.

    Args:
        patience_s: How long it may take to answer.
    """

    def __init__(self, socket: ClientConnection, patience_s: float) -> None:
        self._socket = socket
        self._patience_s = patience_s

    async def proved(self) -> None:
        """Wait until the other side answers; raises LinkDown where it does not."""
        pong = await self._socket.ping()
        try:
            async with asyncio.timeout(self._patience_s):
                await pong
        except TimeoutError:
            raise LinkDown("open, but no pong") from None

    async def recv(self) -> bytes:
        return await self._socket.recv(decode=False)


class PrivateSession(Session):
    """One opened private stream of an account: live and proved with an answer and a snapshot taken after it opened.

    Attributes:
        key: Of the stream, a secret; empty until it is known.
    """

    def __init__(self, feed: AccountFeed) -> None:
        super().__init__()
        self.key = ""
        self.detector = MuteDetector(feed.config.mute_after_s)
        self._feed = feed
        self._form = feed.forms.first
        self._ends = asyncio.Event()
        self._why_ended = LinkDown("ended")
        self._buffer: list[tuple[bytes, list[Event]]] | None = []

    async def run(self) -> None:
        feed = self._feed
        feed.report(LinkState.CONNECTING)
        feed.opened(self)
        try:
            async with feed.place() as hand_back:
                await feed.measure_clock()
                self.key = await feed.stream_key()
                try:
                    async with self._stream() as stream:
                        await self._talk(stream, hand_back)
                except* (LinkDown, InvalidHandshake, ConnectionClosed) as group:
                    if not self.carried:
                        feed.opened_in_vain(self._form, innermost(group))
                    raise
        finally:
            feed.closed(self)

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[OwnStream | SharedStream]:
        feed = self._feed
        if feed.shared is not None and self._form == SHARED_FORM:
            async with feed.shared.stream(self.key, self.is_outlived, self.doubts) as stream:
                yield stream
        else:
            url, first = feed.venue.private_url(feed.private_url, self.key, self._form)
            async with feed.connection(url) as socket:
                if first is not None:
                    await socket.send(first)
                yield OwnStream(socket, feed.config.first_frame_s)

    async def _talk(self, stream: OwnStream | SharedStream, is_known: Callable[[], None]) -> None:
        feed = self._feed
        feed.report(LinkState.PROVING)
        await stream.proved()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(stream), name=f"read[{feed.link.account}]")
            snapshot = await feed.snapshot(feed.venue.requests.account)
            missed = await feed.missed_orders(snapshot)
            buffered, self._buffer = self._buffer or [], None
            self.compare(snapshot)
            feed.came_to_life(self, [*missed, *snapshot])
            is_known()
            for raw, events in buffered:
                self._pass_on(raw, events)
            self.is_proved()
            await self._ends.wait()
            raise self._why_ended

    async def _read(self, stream: OwnStream | SharedStream) -> None:
        feed = self._feed
        while True:
            raw = await stream.recv()
            bad_frames = feed.bad_frames
            raw = raw.replace(self.key.encode(), _SHOWN_KEY.encode())  # what misreads is logged
            events = feed.decoded(feed.venue.decode_private, raw, feed.link.account)
            if feed.bad_frames > bad_frames:
                self.doubts()
            controls = [event for event in events if isinstance(event, StreamExpired | StreamControl)]
            told = [event for event in events if event not in controls]
            for event in told:
                if isinstance(event, AccountChanged):
                    self.detector.pushed(event)
                    feed.forms.delivered(self._form)
            shown = b"" if controls else raw
            if self._buffer is not None:
                self._buffer.append((shown, told))  # while the snapshot is under way: it is applied after it
            else:
                self._pass_on(shown, told)
            for control in controls:
                self._obey(control)

    def _pass_on(self, shown: bytes, events: Collection[Event]) -> None:
        """Hand on what was pushed, unless another connection has done so.

        Args:
            shown: The frame without its secrets; empty: it holds nothing else.
        """
        fresh = self._feed.fresh(events)
        self._feed.inbox.put(fresh)
        if shown and (fresh or not events):
            self._feed.tapped("private", shown)

    def _obey(self, event: StreamExpired | StreamControl) -> None:
        if isinstance(event, StreamControl):
            raise LinkDown(event.note)
        if event.key not in (None, _SHOWN_KEY):
            self._feed.log.info("the end of another stream's key, ignored", account=self._feed.link.account)
            return
        raise LinkDown("the exchange ended the stream: listen key expired")

    def compare(self, snapshot: Collection[Event]) -> None:
        """Hold a snapshot against what this stream has told. One that should have told more is mute, and ends."""
        for event in snapshot:
            if isinstance(event, BalancesRead | PositionsRead):
                self.detector.read(event, time.monotonic())
        verdict = self.detector.verdict()
        if verdict is not None:
            self._feed.forms.mute(self._form)
            self.ends(LinkMute(verdict))

    def doubts(self) -> None:
        """Something has come that does not read: whatever it said, the exchange's answers will say it too."""
        if self.carried:
            self._feed.missed(self)
        self._feed.resync()

    def is_outlived(self) -> None:
        if not self.outlived.done():
            self._feed.forms.again()  # while this one goes on, that risks nothing
        super().is_outlived()

    def ends(self, why: LinkDown) -> None:
        """End soon, for this reason."""
        if not self._ends.is_set():
            self._why_ended = why
            self._ends.set()
