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

from monitor.book import SNAPSHOT_LAG_MS
from monitor.config import AccountConfig, LinksConfig
from monitor.errors import DecodeError, ExchangeError, LinkCut, LinkDown, LinkMute, LinkUnwanted, innermost
from monitor.events import (
    AccountChanged,
    BalancesRead,
    Event,
    KeyPermissionsRead,
    LinkHeard,
    LinkId,
    LinkState,
    PositionsRead,
    StreamControl,
    StreamExpired,
)
from monitor.forms import Forms
from monitor.mute import MuteDetector
from monitor.pace import Pace
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.feed import Feed, Session
from monitor.shell.inbox import Inbox
from monitor.shell.missed_orders import MissedOrders
from monitor.shell.rest import Rest
from monitor.shell.rest_link import RestLink
from monitor.shell.shared_stream import SHARED_FORM, SharedStream, SharedStreams
from monitor.shell.tap import Tap
from monitor.turns import Need
from monitor.unseen import Unseen, cut, restart
from monitor.venues import VENUES, PrivateForm, Request

_NO_SUCH_KEY = -1125
_LAG_S = SNAPSHOT_LAG_MS / 1000
_KEEPALIVES_BEFORE_RENEWAL = 3
_CUTS_IN_VAIN = 3
_UNSUPPORTED = "the key is for portfolio margin, too, which is not supported: figures of such an account are wrong"
_SHOWN_KEY = "listenKey"
"""Stands for a stream's own key wherever a frame could be shown: in the log, or in a recording."""
_REMEMBERED = 256
"""Events by which what comes twice, over two connections, is known; they overlap for a second or so."""


class AccountFeed(Feed):
    """One account, for as long as it is watched.

    Args:
        pace: Says how often to compare with the exchange; shared by the accounts of one address.
        gate: So many may begin at a time; shared by the same.
        unseen: Since when forced orders may have gone unseen, where an earlier run has watched it.
        shared: Connections on which accounts have their streams together. None: each has one of its own.
    """

    def __init__(
        self,
        account: AccountConfig,
        rest: Rest,
        inbox: Inbox,
        links: LinksConfig,
        pace: Pace,
        gate: asyncio.Semaphore,
        unseen: Unseen | None = None,
        tap: Tap | None = None,
        shared: SharedStreams | None = None,
    ) -> None:
        venue = VENUES[account.venue]
        super().__init__(LinkId(account.name, "private"), venue, account.market, rest, inbox, links, tap)
        self.forms = Forms(links.private_forms or venue.private_forms, None if shared is None else SHARED_FORM)
        self.private_url = account.hosts.private_url
        self.shared = shared
        self.rest_link = RestLink(self, self._need)
        self.missed_orders = MissedOrders(account.name, self.rest_link, unseen)
        self._pace = pace
        self._pace.join(account.name, sum(request.weight for request in venue.requests.reconcile))
        self._endangered = False
        self._sessions: set[PrivateSession] = set()
        self._snapshot_wanted = asyncio.Event()
        self._everything = False
        self._begun = asyncio.Event()
        self._recent: deque[Event] = deque(maxlen=_REMEMBERED)
        self._doubted_until = 0.0
        self._gate = gate
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
        self.missed_orders.recall(earlier)
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
        self.inbox.put([*truth, LinkHeard(self.link, time.monotonic())])
        self._has_lived = True
        self.carries(session)
        self._begun.set()
        if self.missed_orders.unseen is not None:
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
            self.missed_orders.suppose(restart(None, ()))  # and what they do not show, nobody tells
            self.resync()
            self._begun.set()
        if session.carried and not any(other.carried for other in self._sessions):
            self.missed_orders.add(self._cut(session))

    def missed(self, session: PrivateSession) -> None:
        """A live session has told something that was not understood, which may have been a forced order."""
        self.missed_orders.add(self._cut(session))
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
                answer = await self.rest_link.ask(self.venue.requests.keep_stream)
            except ExchangeError as exc:
                if exc.code == _NO_SUCH_KEY:
                    self._end_sessions(LinkDown("the listen key does not exist any more"))
                    continue
                failures += 1
                self.log.warning("keepalive failed", account=self.link.account, count=failures, reason=str(exc))
                if failures % _KEEPALIVES_BEFORE_RENEWAL == 0:
                    self.remark("keepalive", f"the listen key was not extended {failures} times in a row: {exc}")
                    for session in self._sessions:
                        session.set_outlived()
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
                if time.monotonic() - measured >= self.config.clock_s or not self.rest_link.clock_known:
                    await self.rest_link.measure_clock()
                    measured = time.monotonic()
                asked = time.monotonic()
                events = await self.rest_link.snapshot(requests.account if everything else requests.reconcile)
                self.compare(events)
                missed = await self.missed_orders.read(events, certain=self.live and asked >= self._doubted_until)
                self.inbox.put([*missed, *events])
                if everything:
                    refreshed = time.monotonic()
                backoff.reset()
                self.rest_link.compared()
            except (ExchangeError, DecodeError) as exc:
                self.log.warning("account not reconciled", account=self.link.account, reason=str(exc))
                self.rest_link.not_compared(exc)
                await backoff.wait()
                self.resync()

    def compare(self, snapshot: Collection[Event]) -> None:
        """Hold a snapshot against what live streams have told."""
        for session in self._sessions:
            if session.carried:
                session.compare(snapshot)
                if session.detector.owes_position:
                    self.missed_orders.suppose(self._cut(session))

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
                    events = await self.rest_link.fact(request)
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

    # ---- its turn ----

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
                await feed.rest_link.measure_clock()
                self.key = await feed.rest_link.stream_key()
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
            async with feed.shared.stream(self.key, self.set_outlived, self.doubts, self.heard) as stream:
                yield stream
        else:
            url, first = feed.venue.private_url(feed.private_url, self.key, self._form)
            async with feed.connection(url, self.heard) as socket:
                if first is not None:
                    await socket.send(first)
                yield OwnStream(socket, feed.config.first_frame_s)

    async def _talk(self, stream: OwnStream | SharedStream, is_known: Callable[[], None]) -> None:
        feed = self._feed
        feed.report(LinkState.PROVING)
        await stream.proved()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(stream), name=f"read[{feed.link.account}]")
            snapshot = await feed.rest_link.snapshot(feed.venue.requests.account)
            feed.compare(snapshot)  # with the stream whose place it takes
            missed = await feed.missed_orders.read(snapshot)
            buffered, self._buffer = self._buffer or [], None
            self.compare(snapshot)
            feed.came_to_life(self, [*missed, *snapshot])
            is_known()
            for raw, events in buffered:
                self._pass_on(raw, events)
            self.set_proved()
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

    def heard(self, at: float) -> None:
        """The other side was heard at this time (monotonic seconds). Until the snapshot is there that proves nothing:
        what happened while there was no stream is not known, and what it has told since waits in the buffer."""
        if self.carried:
            self._feed.inbox.add(LinkHeard(self._feed.link, at))

    def set_outlived(self) -> None:
        if not self.outlived.done():
            self._feed.forms.again()  # while this one goes on, that risks nothing
        super().set_outlived()

    def ends(self, why: LinkDown) -> None:
        """End soon, for this reason."""
        if not self._ends.is_set():
            self._why_ended = why
            self._ends.set()
