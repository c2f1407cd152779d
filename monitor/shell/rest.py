"""Signed REST, by python-binance: it signs and sends what a venue describes, and hands back the bytes.

The one Binance-specific module of the shell. The library's own parsing would turn bare numbers into floats and its
errors carry whole URLs, so both are replaced: the answer's bytes go to the venue, and errors say what happened
without address, signature or key.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import ClientHttpProxyError
from msgspec import Struct, structs

from monitor.errors import ExchangeError, ProxyError
from monitor.shell.causes import fault_of
from monitor.shell.clock import now
from monitor.shell.handshakes import Handshakes
from monitor.shell.proxies import proxy_of
from monitor.turns import Need, Turn, Turns
from monitor.venues import Hosts, Request

if TYPE_CHECKING:
    from binance import AsyncClient

_MINUTE = 60.0
_EXCHANGE_LIMIT = 2300
"""Of the 2400 a minute that the exchange allows one address, for both futures markets together."""
_TOO_MANY = (418, 429)
_BANNED_UNTIL = re.compile(rb"until (\d{13})")
_LONGEST_BAN_S = 3 * 86_400.0
"""Documented; whoever says more, something in between perhaps, is asked again after that."""
_FAILURES_BEFORE_NEW_SESSION = 5
_CALLED_AT_ONCE, _CALL_PAUSE_S = 16, 0.4
"""So many begin to ask at once, and the next after this: a crowd that gets into danger in a crash waits for the minutes
that its weight takes anyhow, and opens its connections while alerts go out."""


class Answer(Struct, frozen=True):
    """What came back.

    Args:
        weight_used: REST weight of the running minute, as the exchange counts it.
        sent_ms: Wall clock when the question left, after any wait for the budget.
        received_ms: Wall clock when the answer was there.
    """

    body: bytes
    weight_used: int | None
    sent_ms: int = 0
    received_ms: int = 0


class Budget:
    """The REST weight per minute that one address may use; shared by all accounts that ask the same host.

    Args:
        per_minute: Where to stop of our own accord, below the exchange's limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._turns = Turns(per_minute, _EXCHANGE_LIMIT)
        self._called: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._paused_until = -math.inf
        """The event loop's time."""
        self.handshakes = Handshakes()
        """Of those who share it: streams, which cost nothing of it."""

    async def take(self, account: str, weight: int, need: Callable[[], Need]) -> None:
        """Wait until a request of this weight may be made; `answered` must follow."""
        turn = Turn(account, weight, need)
        called = self._called[turn] = asyncio.get_running_loop().create_future()
        self._turns.join(turn)
        self._look()
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self.answered(weight, None)  # it was its turn, and it will not ask
            raise
        finally:
            self._turns.leave(turn)
            del self._called[turn]

    def answered(self, weight: int, used: int | None) -> None:
        """A question is over; what the exchange says has been used, by anybody at our address."""
        self._turns.answered(weight, used, time.monotonic())
        self._look()

    def blocked(self, seconds: float) -> None:
        """The exchange asked us to stay away."""
        self._turns.blocked(time.monotonic() + seconds)

    @property
    def blocked_s(self) -> float:
        """Seconds for which it has."""
        return self._turns.blocked_s(time.monotonic())

    def _look(self, after_s: float = 0.0) -> None:
        """Look whose turn it is, after all that happens at this moment: of a thousand that begin to wait at once each
        would look at all the others."""
        loop = asyncio.get_running_loop()
        at = max(loop.time() + after_s, self._paused_until)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._call)

    def _call(self) -> None:
        """Call those whose turn it is, some at a time, and look again when it may be another's."""
        self._timer = None
        here, begun = time.monotonic(), 0
        try:
            for turn in islice(self._turns.due(here), _CALLED_AT_ONCE):
                begun += 1
                if self._called[turn].done():  # whoever waited was cancelled a moment ago, and will not ask
                    self._turns.answered(turn.weight, None, here)
                else:
                    self._called[turn].set_result(None)
        except Exception as exc:  # a bug, which must not leave anybody waiting: all fail with it, and so do we
            for called in self._called.values():
                if not called.done():
                    called.set_exception(exc)
            return
        if begun == _CALLED_AT_ONCE:
            self._paused_until = asyncio.get_running_loop().time() + _CALL_PAUSE_S
            self._look()
        elif self._turns.waiting:
            self._look(self._turns.wait_s(here))


class Rest:
    """REST of one account, or (without a key) of a market.

    Args:
        name: Of the account or market; requests of several are made in turn.
        timeout_s: For one request, from sending to the last byte.
    """

    def __init__(
        self, hosts: Hosts, budget: Budget, timeout_s: float, key: str = "", secret: str = "", name: str = ""
    ) -> None:
        self._name = name
        self.hosts = hosts
        self._budget = budget
        self._timeout_s = timeout_s
        self._key = key
        self._secret = secret
        self._client: AsyncClient | None = None
        self._old: list[AsyncClient] = []
        self._under_way = 0
        self._failures = 0
        self.offset_ms = 0
        """Exchange time minus our wall clock, as last measured; signed requests carry exchange time."""

    async def ask(self, request: Request, need: Callable[[], Need] = lambda: Need.EASE) -> Answer:
        """Send a request, when it is our turn.

        Args:
            need: Why it is asked, if that is more than routine.

        Raises:
            ExchangeError: There was no answer, or it was an error.
        """
        if request.path.startswith("/sapi/"):  # another host, with a budget of its own that we never come near
            return await self._send(request, of_wallet=True)
        budget = self._budget
        await budget.take(self._name, request.weight, need)
        used = None
        try:
            answer = await self._send(request, of_wallet=False)
            used = answer.weight_used
            return answer
        except ExchangeError as exc:
            if exc.retry_after_s is not None:
                budget.blocked(exc.retry_after_s)
            raise
        finally:
            budget.answered(request.weight, used)

    async def _send(self, request: Request, *, of_wallet: bool) -> Answer:
        self._under_way += 1
        try:
            return await self._send_over(self._client or self._connect(), request, of_wallet=of_wallet)
        finally:
            self._under_way -= 1
            await self._close_old()

    async def _send_over(self, client: AsyncClient, request: Request, *, of_wallet: bool) -> Answer:
        client.timestamp_offset = self.offset_ms
        base = self.hosts.wallet_url if of_wallet else self.hosts.rest_url
        try:
            client.https_proxy = proxy_of(base)
        except ProxyError as exc:
            raise ExchangeError(f"{request}: {exc}", fault="proxy") from None
        sent_ms = now().wall_ms
        try:
            async with asyncio.timeout(self._timeout_s):
                answer: Answer = await client._request(
                    request.method.lower(), base + request.path, request.auth == "signed", data={}
                )
        except ExchangeError as exc:
            if exc.status is None or exc.status >= 500:
                await self._failed(of_wallet)
            raise
        except TimeoutError:
            await self._failed(of_wallet)
            raise ExchangeError(f"{request}: no answer within {self._timeout_s:g} s", fault="timeout") from None
        except OSError as exc:  # aiohttp's connection errors are OSErrors; their text has host and port alone
            await self._failed(of_wallet)
            why = f"{request}: {type(exc).__name__}: {exc.strerror or 'connection failed'}"
            raise ExchangeError(why, fault=fault_of(exc)) from None
        except Exception as exc:
            await self._failed(of_wallet)
            if isinstance(exc, ClientHttpProxyError):
                raise ExchangeError(f"{request}: the proxy answers HTTP {exc.status}", fault="proxy") from None
            raise ExchangeError(f"{request}: {type(exc).__name__}", fault="connection") from None
        self._failures = 0
        return structs.replace(answer, sent_ms=sent_ms, received_ms=now().wall_ms)

    @property
    def blocked_s(self) -> float:
        """Seconds for which the exchange has asked us, whichever account it was, to stay away."""
        return self._budget.blocked_s

    @property
    def handshakes(self) -> Handshakes:
        """How the streams of this address are to be opened."""
        return self._budget.handshakes

    def follow(self, other: Rest) -> None:
        """Ask where this one does from now on, and of its budget."""
        self.hosts, self._budget = other.hosts, other._budget

    async def renew(self) -> None:
        """Make everything anew with the next request: look addresses up, open sockets. What is under way goes on."""
        if self._client is not None:
            self._old.append(self._client)
            self._client = None
        await self._close_old()

    async def close(self) -> None:
        await self.renew()
        while self._old:
            await self._old.pop().close_connection()

    async def _close_old(self) -> None:
        """Close what is used no more: it is not known which of several are."""
        while self._old and not self._under_way:
            await self._old.pop().close_connection()

    def _connect(self) -> AsyncClient:
        stay = {"allow_redirects": False}  # whoever we were sent to would get the key
        self._client = _client_class()(self._key or None, self._secret or None, requests_params=stay)
        return self._client

    async def _failed(self, of_wallet: bool) -> None:
        """After repeated failure everything is made anew: addresses looked up, sockets opened. What the wallet's host
        lacks is no reason to disturb the others."""
        if of_wallet:
            return
        self._failures += 1
        if self._failures % _FAILURES_BEFORE_NEW_SESSION == 0:
            await self.renew()


def _client_class() -> Any:
    """python-binance's client, answering with bytes. Imported here, since it costs most of a second and 30 MB."""
    from binance import AsyncClient

    class Client(AsyncClient):  # type: ignore[misc]  # the library has no types
        async def _handle_response(self, response: Any) -> Answer:
            body = await response.read()
            used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
            if response.status == 200:
                return Answer(body, int(used) if used.isdigit() else None)
            raise _error(response.status, body, response.headers)

    return Client


def _error(status: int, body: bytes, headers: Mapping[str, str]) -> ExchangeError:
    """An error answer. Its body may be an HTML page, of which nothing is worth repeating."""
    code, message = None, f"HTTP {status}"
    try:
        said = msgspec.json.decode(body)
        code = said.get("code")
        message = f"HTTP {status}, code {code}: {str(said.get('msg', ''))[:200]}"
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        pass
    wait = stay_away_s(status, body, headers)
    if wait is None and status in _TOO_MANY:
        wait = _MINUTE - _exchange_time(headers) % _MINUTE + 1  # in which the exchange counts
    return ExchangeError(message, status=status, code=code if isinstance(code, int) else None, retry_after_s=wait)


def stay_away_s(status: int, body: bytes, headers: Mapping[str, str]) -> float | None:
    """For how many seconds an answer tells us to stay away, by its header or its text; None: it does not say."""
    if status not in _TOO_MANY:
        return None
    retry_after = headers.get("Retry-After", "")
    if retry_after.isdecimal() and (seconds := float(retry_after)):  # who is asked again at once after that bans
        return min(seconds, _LONGEST_BAN_S)
    banned = _BANNED_UNTIL.search(body)
    return None if banned is None else min(max(1.0, int(banned[1]) / 1000 - _exchange_time(headers)), _LONGEST_BAN_S)


def _exchange_time(headers: Mapping[str, str]) -> float:
    """Seconds since 1970 by the exchange's clock, where the answer says so: ours may be wrong by minutes."""
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(headers.get("Date", "")).timestamp()
    return time.time()
