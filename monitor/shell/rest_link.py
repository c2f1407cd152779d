"""The REST link of an account: what is asked over it, as events, and how it fares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

from monitor.book import is_torn
from monitor.errors import DecodeError, ExchangeError, LinkDown
from monitor.events import ClockOffset, Event, LinkId, LinkReport, LinkState
from monitor.market import SLOW_ANSWER_MS
from monitor.shell.feed import Feed
from monitor.shell.rest import Answer
from monitor.turns import Need
from monitor.venues import Request

_CLOCK_REFUSED = -1021
_WAITS = "waits for its turn: what may be asked from this address in a minute is used up"


class RestLink:
    """Asks, and reports how that goes.

    Args:
        feed: Of the account; what it asks over, and what reports go through.
        need: Why the account asks, said each time.

    Attributes:
        clock_known: Whether the exchange's clock has been measured, and requests are not refused because of it.
    """

    def __init__(self, feed: Feed, need: Callable[[], Need]) -> None:
        self.clock_known = False
        self._feed = feed
        self._need = need
        self._link = LinkId(feed.link.account, "rest")
        self._is_live = False
        self._weight_used: int | None = None
        self._is_compared = True
        """Whether the last comparison had all its answers; while it had not, those that did come prove nothing."""

    # ---- questions ----

    async def snapshot(self, requests: Collection[Request]) -> list[Event]:
        """The answers to these requests, as events. One that fails fails all: half a snapshot is none.

        A position that changed after the balances were asked for has its PnL in neither; then they are asked again.
        """
        events: list[Event] = []
        for request in requests:
            events += self._read(request, await self.ask(request))
        if is_torn(events):
            balances = self._feed.venue.requests.reconcile[0]
            events += self._read(balances, await self.ask(balances))
        return events

    async def forced_orders(self) -> list[Event]:
        """Where only these are refused, the link is none the worse."""
        request = self._feed.venue.requests.forced
        return self._read(request, await self._feed.rest.ask(request, self._need))

    async def fact(self, request: Request) -> list[Event]:
        """What no figure depends on; likewise, and there is no hurry."""
        return self._read(request, await self._feed.rest.ask(request))

    async def stream_key(self) -> str:
        """The key of the private stream, a secret."""
        request = self._feed.venue.requests.open_stream
        answer = await self.ask(request)
        with suppress(DecodeError):  # its words would carry what did read, to the log and the broker
            if key := self._feed.venue.stream_key(answer.body):
                return key
        raise LinkDown(f"{request}: the answer has no listen key that reads")

    async def measure_clock(self) -> None:
        """Exchange time minus ours, from the middle of a question and its answer; one that took long says nothing."""
        feed, request = self._feed, self._feed.venue.requests.time
        answer = await self.ask(request)
        feed.tapped_answer(request, answer, answer.sent_ms)
        if answer.received_ms - answer.sent_ms > SLOW_ANSWER_MS and self.clock_known:
            return
        server_ms = feed.venue.server_time(answer.body)
        feed.rest.offset_ms = server_ms - (answer.sent_ms + answer.received_ms) // 2
        self.clock_known = True
        feed.inbox.put([ClockOffset(feed.market, feed.rest.offset_ms)])

    async def ask(self, request: Request) -> Answer:
        """Ask, and report how the link fares."""
        rest = self._feed.rest
        if rest.blocked_s:
            self._down(f"the exchange asks us to stay away for {rest.blocked_s:.0f} s")
        patience_s = 2 * self._feed.config.rest_timeout_s  # whatever has been sent is answered by then, or has failed
        waits = asyncio.get_running_loop().call_later(patience_s, self._waits)
        try:
            answer = await rest.ask(request, self._need)
        except ExchangeError as exc:
            self._down(str(exc))
            if exc.code == _CLOCK_REFUSED:
                self.clock_known = False
            raise
        finally:
            waits.cancel()
        if request.auth == "signed" and self._is_compared:  # what needs no key proves little
            self._up(answer.weight_used)
        return answer

    def _read(self, request: Request, answer: Answer) -> list[Event]:
        feed = self._feed
        sent_ms = answer.sent_ms + feed.rest.offset_ms
        feed.tapped_answer(request, answer, sent_ms)
        return feed.venue.decode_answer(request, answer.body, feed.link.account, feed.market, sent_ms)

    # ---- how it fares ----

    def compared(self) -> None:
        """The account has been compared with the exchange."""
        if not self._is_compared:
            self._is_compared = True
            self._up(None)

    def not_compared(self, exc: ExchangeError | DecodeError) -> None:
        """It could not be."""
        self._is_compared = False
        self._down("an answer does not read" if isinstance(exc, DecodeError) else str(exc))

    def _up(self, weight_used: int | None) -> None:
        self._is_live = True
        self._weight_used = weight_used
        self._say(LinkState.LIVE, weight_used)

    def _waits(self) -> None:
        """Nothing has failed, and nothing is compared with the exchange either."""
        if self._is_live:
            self._say(LinkState.LIVE, self._weight_used, _WAITS)

    def _down(self, why: str) -> None:
        if self._is_live:
            self._is_live = False
            self._say(LinkState.DOWN, None, why)

    def _say(self, state: LinkState, weight_used: int | None, note: str = "") -> None:
        self._feed.say(LinkReport(self._link, state, self._feed.reconnects, weight_used, note))
