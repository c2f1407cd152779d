"""A session once more: lines → events → `core.step` → effects, and what would be sent. Pure, as fast as the core goes.

What arrives is put together as the links did it: a snapshot counts once all its answers are there, and what a private
stream pushes while it proves itself is applied after the snapshot. Time is what the lines say; a `Tick` stands at each
whole second of it. So the same file gives the same bytes, on every run and every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from monitor import __version__
from monitor.book import is_torn
from monitor.core import Core, Setup
from monitor.effects import INSTANCE, AccountSetup, Watch
from monitor.encoder import Encoder
from monitor.errors import DecodeError
from monitor.events import (
    ClockOffset,
    Event,
    Fill,
    LinkReport,
    LinkState,
    MarkPrice,
    Now,
    Tick,
)
from monitor.market import SLOW_ANSWER_MS
from monitor.message import Identity, Message
from monitor.recording import Line, Opening, decode, decode_opening, read_link_state, requests_by_name
from monitor.unseen import Unseen
from monitor.venues import VENUES, Request, Venue

_LONGEST_GAP_MS = 86_400_000
_SECOND_MS = 1000


class Sent(Struct, frozen=True):
    """A message, and when it is (or would be) sent."""

    at_ms: int
    message: Message

    @property
    def as_json(self) -> bytes:
        """One line: an object where the payload is JSON, null where it is empty."""
        message = self.message
        payload: Any = message.payload.decode() or None
        if message.payload.startswith(b"{"):
            payload = msgspec.Raw(message.payload)
        return msgspec.json.encode(
            {
                "topic": message.topic,
                "payload": payload,
                "retain": message.retain,
                "qos": message.qos,
                "at_ms": self.at_ms,
            }
        )


class Session:
    """A session file's lines, numbered. A last line that was cut off, as by the death of its writer, is left out.

    Args:
        lines: The file's lines with their line breaks; too long a line may come in parts.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.number = 1
        self.is_cut = False
        try:
            self.opening: Opening = decode_opening(next(self._lines, b""))
        except DecodeError as exc:
            raise DecodeError(f"line 1: {exc}; `marginwatch record --out FILE` writes such files") from None

    def __iter__(self) -> Iterator[Line]:
        """The lines after the first.

        Raises:
            DecodeError: A line that is none, with its number and the remedy.
        """
        for raw in self._lines:
            self.number += 1
            if raw.isspace():
                continue
            try:
                line = decode(raw)
            except DecodeError as exc:
                if not raw.endswith(b"\n") and next(self._lines, None) is None:
                    self.is_cut = True
                    return
                raise DecodeError(f"line {self.number}: {exc}; take the line out, or record anew") from None
            yield line


class Replay:
    """The core, fed from lines.

    Args:
        setup: Accounts and rules.
        boot_id: Stands in every event; derived from the file, so that it is the same each time.
        notices: Whether each event is followed by its notice.

    Raises:
        DecodeError: The first line holds what no run has kept.
    """

    def __init__(
        self, opening: Opening, setup: Setup, boot_id: str, prefix: str = "marginwatch", *, notices: bool = False
    ) -> None:
        self._wall_ms = opening.at_ms
        self._elapsed_ms = 0
        identity = Identity(prefix, opening.instance or "replay", __version__, boot_id, opening.at_ms)
        self._encoder = Encoder(identity, setup.rules, notices=notices)
        try:
            self.core = Core(setup, self._now, opening.kept)
        except Exception as exc:
            raise DecodeError(f"line 1: what it keeps of an earlier run cannot be taken up: {exc!r:.200}") from exc
        self.bad_frames = 0
        self.unknown_requests: dict[str, None] = {}
        self._setup = setup
        self._wanted: dict[str, frozenset[str]] = {}
        unseen = self.core.unseen()
        self._accounts = {a.name: _AccountReader(a, opening.at_ms, unseen.get(a.name)) for a in setup.accounts}
        self._markets = {a.market: a.venue for a in setup.accounts}

    def run(self, session: Session) -> Iterator[Sent]:
        """Everything that is sent because of a session, in order.

        Raises:
            DecodeError: A line that is none, or cannot be of this session; with its number.
        """
        yield from self.begin()
        for line in session:
            try:
                yield from self.take(line)
            except DecodeError as exc:
                raise DecodeError(f"line {session.number}: {exc}") from None
            except Exception as exc:
                raise DecodeError(f"line {session.number}: the core fails on it, a bug: {exc!r:.300}") from exc

    def begin(self) -> list[Sent]:
        """What is said as the daemon starts."""
        started = [self._encoder.status(True), self._encoder.info((a.name, a.venue) for a in self._setup.accounts)]
        return [Sent(self._wall_ms, message) for message in started]

    def take(self, line: Line) -> Iterator[Sent]:
        """What is sent until this line, and because of it.

        Raises:
            DecodeError: It cannot be of this session.
        """
        if line.at_ms - self._wall_ms > _LONGEST_GAP_MS:
            raise DecodeError(
                "it is more than a day after the line before it; no session has such a gap, split it there"
            )
        reader = None if line.account is None else self._accounts.get(line.account)
        if reader is None and line.account not in (None, INSTANCE):
            known = ", ".join(self._accounts) or "none"
            raise DecodeError(f'account "{line.account}" is not in this session; there is {known}')
        for second_ms in range(self._wall_ms // _SECOND_MS + 1, line.at_ms // _SECOND_MS + 1):
            self._pass_to(second_ms * _SECOND_MS)
            yield from self._step([Tick()])
        self._pass_to(line.at_ms)
        try:
            events = self._market_events(line) if reader is None else reader.events(line)
        except DecodeError:
            self.bad_frames += 1  # so did the link: it dropped the frame
            return
        except KeyError as exc:
            self.unknown_requests[str(exc.args[0])] = None
            return
        yield from self._step(events)

    @property
    def _now(self) -> Now:
        return Now(self._elapsed_ms / 1000, self._wall_ms)

    def _pass_to(self, at_ms: int) -> None:
        """Let time pass; a wall clock that is set back takes nothing from the time that has gone by."""
        self._elapsed_ms += max(0, at_ms - self._wall_ms)
        self._wall_ms = at_ms

    def _step(self, events: list[Event]) -> Iterator[Sent]:
        while events or self.core.is_behind:
            effects, events = self.core.step(events, self._now), []
            for effect in effects:
                if isinstance(effect, Watch):
                    self._wanted[effect.market] = effect.symbols
                for message in self._encoder.of(effect):
                    yield Sent(self._wall_ms, message)

    def _market_events(self, line: Line) -> list[Event]:
        """What belongs to no account: frames and answers of a market, and the state of its link."""
        market = self._market(line)
        if line.source == "link":
            return [read_link_state(line)]
        venue, wanted = VENUES[line.venue], self._wanted.get(market)
        if line.source == "market":
            return venue.decode_market(line.raw, market, wanted)
        if line.source == "private":
            raise DecodeError("a private frame without account")
        request = requests_by_name(line.venue)[line.request or ""]
        events = venue.decode_answer(request, line.raw, INSTANCE, market, line.sent_ms or line.at_ms)
        return [e for e in events if not isinstance(e, MarkPrice) or wanted is None or e.symbol in wanted]

    def _market(self, line: Line) -> str:
        """The market link of a line: the one that it names, else the first of its venue."""
        if line.market:
            return line.market
        return next((market for market, venue in self._markets.items() if venue == line.venue), line.venue)


class _AccountReader:
    """One account's lines, put together as its link did.

    Args:
        began_ms: When the session began, by the clock that wrote it down.
        unseen: What of the time before may be news.
    """

    def __init__(self, account: AccountSetup, began_ms: int, unseen: Unseen | None) -> None:
        self._account = account
        self._venue: Venue = VENUES[account.venue]
        self._requests = requests_by_name(account.venue)
        self._is_proving = False
        self._pushed: list[Event] = []
        self._snapshot: list[Event] = []
        self._missed: list[Event] = []
        self._awaited: tuple[Request, ...] = ()
        self._began_ms = began_ms
        self._unseen = unseen
        self._offset_ms = 0
        self._clock_known = False
        self._reconnects = 0

    def events(self, line: Line) -> list[Event]:
        if line.source == "link":
            return self._link(line)
        if line.source == "rest":
            return self._answer(line, self._requests[line.request or ""])
        if line.source == "market":
            raise DecodeError("a market frame with an account")
        events = self._venue.decode_private(line.raw, self._account.name)
        if not self._is_proving:
            return events
        self._pushed += events
        return []

    def _link(self, line: Line) -> list[Event]:
        report = read_link_state(line)
        if report.link != self._account.private_link:
            return [report]
        self._reconnects = report.reconnects
        before: list[Event] = []
        if report.state is LinkState.LIVE:
            before = [*self._missed, *self._snapshot, *self._pushed] if self._is_proving else []
        if self._is_proving or report.state is LinkState.PROVING:
            self._snapshot, self._missed, self._pushed, self._awaited = [], [], [], ()
        self._is_proving = report.state is LinkState.PROVING
        return [*before, report]

    def _answer(self, line: Line, request: Request) -> list[Event]:
        asks = self._venue.requests
        alive: list[Event] = []
        if request.auth == "signed" and request not in asks.account_facts:
            alive = [LinkReport(self._account.rest_link, LinkState.LIVE, self._reconnects)]
        if request == asks.time:
            return self._clock(line)
        if request in (asks.open_stream, asks.keep_stream):
            return []
        sent_ms = line.at_ms + self._offset_ms if line.sent_ms is None else line.sent_ms
        account, market = self._account.name, self._account.market
        events = self._venue.decode_answer(request, line.raw, account, market, sent_ms)
        if request == asks.forced:
            missed: list[Event] = [e for e in events if isinstance(e, Fill) and self._may_be_news(e)]
            if self._is_proving:
                self._missed = missed
                return alive
            return [*alive, *missed]
        if request in asks.account:
            events = self._part_of_snapshot(request, events)
        return [*alive, *events]

    def _may_be_news(self, order: Fill) -> bool:
        """Whether a listed order may not have been told; of those since the session began each is known by its name."""
        return order.at_ms >= self._began_ms or (self._unseen is not None and self._unseen.may_have_hidden(order))

    def _part_of_snapshot(self, request: Request, events: list[Event]) -> list[Event]:
        """The whole snapshot once its last answer is there: half of one is none. What two snapshots at a time brought
        is told with the later."""
        asks = self._venue.requests
        self._snapshot += events
        again = request == asks.reconcile[0] and self._awaited == (request,)
        if self._awaited[:1] != (request,):
            group = asks.account if request == asks.account[0] else asks.reconcile
            self._awaited = group[group.index(request) :] if request in group else (request, *self._awaited)
        self._awaited = self._awaited[1:]
        if not self._awaited and not again and is_torn(self._snapshot):
            self._awaited = asks.reconcile[:1]  # the balances are asked for once more
        if self._awaited or self._is_proving:
            return []
        whole, self._snapshot = self._snapshot, []
        return whole

    def _clock(self, line: Line) -> list[Event]:
        """Exchange time minus ours, from the middle of a question and its answer; one that took long says nothing."""
        received_ms = line.received_ms or line.at_ms
        sent_ms = received_ms if line.sent_ms is None else line.sent_ms
        if received_ms - sent_ms > SLOW_ANSWER_MS and self._clock_known:
            return []
        self._offset_ms = self._venue.server_time(line.raw) - (sent_ms + received_ms) // 2
        if not self._clock_known:
            self._began_ms += self._offset_ms
        self._clock_known = True
        return [ClockOffset(self._account.market, self._offset_ms)]


def accounts_of(lines: Iterable[Line]) -> tuple[AccountSetup, ...]:
    """The accounts that lines speak of, for a session that does not name them at its beginning."""
    found: dict[str, AccountSetup] = {}
    for line in lines:
        name = line.account
        if name is not None and name != INSTANCE and name not in found:
            found[name] = AccountSetup(name, line.venue, line.market or line.venue)
    return tuple(found.values())
