"""What the links to an exchange have in common: sessions for ever, a state that is reported, and frames that read.

    keep ──► session ──► session ──► …        one connection after the other; the next after a failure waits a little
                └─► session                   a planned change: the fresh one is proved before the old one is closed

A link is live while at least one of its sessions carries what it should.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from monitor.config import LinksConfig
from monitor.effects import INSTANCE
from monitor.errors import DecodeError, ExchangeError, LinkDown, LinkMute, LinkUnwanted, innermost
from monitor.events import Event, LinkId, LinkReport, LinkState
from monitor.recording import Line, Source, link_state
from monitor.shell import logs
from monitor.shell.backoff import Backoff
from monitor.shell.clock import now
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Answer, Rest
from monitor.shell.tap import Tap
from monitor.shell.tasks import ended
from monitor.shell.websocket import connection, why_ended
from monitor.venues import Request, Venue


class Session(ABC):
    """One connection of a link, from its handshake to its end.

    Attributes:
        carried: Whether it has ever carried what makes its link live.
        replaced: Whether a fresh one has taken its place; how it ends is then of no interest.
        proved: Done once it may take the place of the session before it.
        outlived: Done once another should take its own place: its time is up, or something about it is doubtful.
        retry_after_s: For so long the exchange wanted no other where this one has ended.
        task: What runs it.
    """

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.carried = False
        self.replaced = False
        self.retry_after_s = 0.0
        loop = asyncio.get_running_loop()
        self.proved: asyncio.Future[None] = loop.create_future()
        self.outlived: asyncio.Future[None] = loop.create_future()

    @abstractmethod
    async def run(self) -> None:
        """Connect, and carry what comes until it ends in an exception; a return means that nothing is wanted of it."""

    def set_proved(self) -> None:
        if not self.proved.done():
            self.proved.set_result(None)

    def set_outlived(self) -> None:
        if not self.outlived.done():
            self.outlived.set_result(None)


class Feed(ABC):
    """What both kinds of link have in common."""

    def __init__(
        self, link: LinkId, venue: Venue, market: str, rest: Rest, inbox: Inbox, links: LinksConfig, tap: Tap | None
    ) -> None:
        self.link = link
        self.venue = venue
        self.market = market
        self.rest = rest
        self.inbox = inbox
        self.config = links
        self.log = logs.logger()
        self.bad_frames = 0
        self.compress = links.compression
        self.tap = tap
        self._account = None if link.account == INSTANCE else link.account
        self._carrying: set[Session] = set()
        self._remarks: dict[str, str] = {}
        self._states: dict[LinkId, tuple[LinkState, str]] = {}
        self.reconnects = 0
        self._mutes = 0
        self._failures = 0
        self._ending = False

    @abstractmethod
    async def run(self) -> None:
        """Live until stopped."""

    @abstractmethod
    def begin(self) -> Session:
        """A fresh session, not yet running."""

    def stop(self) -> None:
        """Begin no further session. Said before the task is cancelled: where a part of a session fails at the very
        moment of the cancellation, its task group raises the failure alone, and a loop that retries would go on."""
        self._ending = True

    @property
    def live(self) -> bool:
        """Whether some session carries what it should."""
        return bool(self._carrying)

    # ---- sessions ----

    async def keep(self) -> None:
        """Keep one connection: one session after the other, and a planned change before the exchange cuts it off."""
        backoff = Backoff(self.config.backoff_min_s, self.config.backoff_max_s)
        session = self._start()
        open_ones = {session}
        try:
            while not self._ending:
                await asyncio.wait({session.task, session.outlived}, return_when=asyncio.FIRST_COMPLETED)
                if session.task.done():
                    session.task.result()  # what has ended it has been reported; a bug ends everything
                    if session.carried:
                        backoff.reset()
                    await asyncio.sleep(session.retry_after_s + backoff.next_s())
                    session = self._start()
                    open_ones = {session}
                else:
                    fresh = self._start()
                    open_ones = {session, fresh}
                    session = await self._changed(session, fresh)
                    open_ones = {session}
                    if session is not fresh:
                        await asyncio.sleep(fresh.retry_after_s + backoff.next_s())
        finally:
            await ended(*(session.task for session in open_ones))

    async def _changed(self, old: Session, fresh: Session) -> Session:
        """The session that goes on: the fresh one once it is proved, or where the old one has ended meanwhile."""
        await asyncio.wait({fresh.task, fresh.proved, old.task}, return_when=asyncio.FIRST_COMPLETED)
        if fresh.task.done() and not old.task.done():
            fresh.task.result()
            return old
        if not old.task.done():
            old.replaced = True
            await ended(old.task)
            self.log.info("connection changed as planned", account=self.link.account, link=self.link.name)
        elif not old.task.cancelled():
            old.task.result()
        return fresh

    def _start(self) -> Session:
        session = self.begin()
        session.task = asyncio.create_task(self._live(session), name=f"session[{self.link.account} {self.link.name}]")
        return session

    async def _live(self, session: Session) -> None:
        """Run a session to its end, and report an end that nobody planned."""
        life_s = self.config.connection_life_s * random.uniform(0.9, 1)
        timer = asyncio.get_running_loop().call_later(life_s, session.set_outlived)
        try:
            await session.run()
        except* (LinkDown, ExchangeError, DecodeError, WebSocketException, OSError) as group:
            self._carrying.discard(session)
            why = innermost(group)
            session.retry_after_s = why.retry_after_s if isinstance(why, LinkUnwanted) else 0.0
            await self._lost(session, why)
        finally:
            timer.cancel()
            self._carrying.discard(session)

    async def _lost(self, session: Session, why: BaseException) -> None:
        if self._ending or session.replaced:
            return
        reason, mute = why_ended(why), isinstance(why, LinkMute)
        account, link = self.link
        self._failures = 0 if session.carried and not mute else self._failures + 1
        if self._carrying and not session.carried:
            self.log.info(
                "fresh connection failed, the link goes on with the one it has",
                account=account,
                link=link,
                reason=reason,
            )
        else:
            self.reconnects += 1
            self._mutes += mute
            if self._carrying:
                self.log.info(
                    "connection lost, the link goes on with another", account=account, link=link, reason=reason
                )
            else:
                self.report(LinkState.MUTE if mute else LinkState.DOWN, reason)
                self.log.warning("link mute" if mute else "link down", account=account, link=link, reason=reason)
        if self._failures and self._failures % self.config.rebuild_after == 0:
            await self.rest.renew()

    def carries(self, session: Session) -> None:
        """A session has shown what it should: with it the link is live."""
        session.carried = True
        if not self._carrying:
            self.log.info("link live", account=self.link.account, link=self.link.name, reconnects=self.reconnects)
        self._carrying.add(session)
        self.report(LinkState.LIVE)

    # ---- what is said of the link ----

    def report(self, state: LinkState, note: str = "") -> None:
        """Say how the link fares; what a session is about to do is of no interest while another carries it."""
        if self._carrying:
            if state is not LinkState.LIVE:
                return
            note = "; ".join(self._remarks.values())
        self.say(LinkReport(self.link, state, self.reconnects, None, note, self._mutes))

    def remark(self, what: str, text: str = "") -> None:
        """Note something amiss with a link that is live all the same; without a text it is over."""
        if text != self._remarks.get(what, ""):
            self._remarks.pop(what, None)
            if text:
                self._remarks[what] = text
            if self._carrying:
                self.report(LinkState.LIVE)

    def say(self, report: LinkReport) -> None:
        self.inbox.put([report])
        known = self._states.get(report.link)
        self._states[report.link] = report.state, report.note
        if self.tap is not None and known != self._states[report.link]:
            self.tapped("link", link_state(report))

    def tapped(self, source: Source, raw: bytes, request: str | None = None, sent_ms: int | None = None) -> None:
        """Let whoever listens hear a frame, or an answer."""
        if self.tap is not None:
            venue, at_ms = self.venue.name, now().wall_ms
            self.tap.heard(Line(at_ms, venue, self._account, source, raw, self.market, request, sent_ms))

    def tapped_answer(self, request: Request, answer: Answer, sent_ms: int) -> None:
        """Let whoever listens hear an answer that holds no secret."""
        self.tapped("rest", answer.body, str(request), sent_ms)

    # ---- what sessions need ----

    def connection(
        self, url: str, heard: Callable[[float], None] = lambda at: None
    ) -> AbstractAsyncContextManager[ClientConnection]:
        """An open websocket of this link. heard: Called with when the other side was heard."""
        name = f"{self.link.account} {self.link.name}"
        return connection(url, self.config, self.compress, name, self.rest.handshakes, heard)

    def decoded(self, decode: Callable[..., list[Event]], *args: Any) -> list[Event]:
        """Events of a frame; one that misreads is dropped."""
        try:
            return decode(*args)
        except DecodeError as exc:
            self.dropped(exc)
            return []

    def dropped(self, exc: DecodeError) -> None:
        """Count and log a frame that misreads."""
        self.bad_frames += 1
        self.log.warning(
            "frame dropped",
            account=self.link.account,
            link=self.link.name,
            count=self.bad_frames,
            error=str(exc),
        )
