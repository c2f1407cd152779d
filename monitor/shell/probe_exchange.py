"""Asks the exchange what a daemon with this config would meet: every link, every key, each failure with its remedy.

Everything is asked and opened as the daemon does it, by the same feeds; nothing is kept or published.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from msgspec import structs
from websockets.exceptions import InvalidStatus

from monitor.config import AccountConfig, Config
from monitor.config_values import Secret
from monitor.errors import DecodeError, ExchangeError, LinkDown, LinkUnwanted, innermost
from monitor.events import (
    AccountModeRead,
    BalancesRead,
    ContractsRead,
    Event,
    ExchangeStatusRead,
    KeyPermissionsRead,
    PositionsRead,
)
from monitor.rules import Rule
from monitor.shell.account_feed import AccountFeed
from monitor.shell.causes import fault_of, in_words, network_remedy
from monitor.shell.feed import Feed, Session
from monitor.shell.feeds import Feeds
from monitor.shell.findings import Finding, Findings
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from monitor.shell.tasks import ended
from monitor.venues import Venue

_AT_ONCE = 8
_PATIENCE_S = 150.0
"""For one account or market, whose questions may have to wait until the exchange's next minute."""
_TOO_MANY = 429
_REFUSED = -2015
_ACCEPT = "or take it as it is: accept_trading_key = true"
_MANAGE = "in the exchange's API management"


async def probe(config: Config, secrets: Mapping[Secret, str], found: Findings) -> None:
    """Ask for everything that a config names.

    Args:
        secrets: Those that the config names.
    """
    links = structs.replace(config.links, accounts_per_connection=1)  # what is wrong is then each account's own
    feeds = Feeds(structs.replace(config, links=links), secrets, Inbox(), None)
    try:
        await _Probe(config, feeds, found).run()
    finally:
        feeds.stop()
        await feeds.close()


class _Probe:
    def __init__(self, config: Config, feeds: Feeds, found: Findings) -> None:
        self._config = config
        self._feeds = feeds
        self._found = found
        self._first = {account.market: account for account in reversed(config.accounts)}
        self._reachable: set[str] = set()
        self._listed: dict[str, list[str]] = {}
        self._symbols: set[str] = set()
        self._held: dict[str, set[str]] = {name: set() for name in feeds.markets}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        await self._all((f"{name}: REST", self._market(name)) for name in self._feeds.markets)
        self._found.take(self._overrides())
        for account in self._config.accounts:
            if account.market not in self._reachable:
                self._found.take([Finding("note", f"{account.name}: not asked, for the exchange does not answer")])
        asked = [account for account in self._config.accounts if account.market in self._reachable]
        await self._all((f"{account.name}: key", self._account(account)) for account in asked)
        markets = [feed for name, feed in self._feeds.markets.items() if name in self._reachable]
        await self._all((f"{feed.link.name}: stream", self._stream(feed)) for feed in markets)

    async def _all(self, probes: Iterable[tuple[str, Awaitable[list[Finding]]]]) -> None:
        """Several at once, told in order."""

        async def placed(what: str, one: Awaitable[list[Finding]]) -> list[Finding]:
            async with self._places:
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        return await one
                except TimeoutError:
                    return [Finding("error", f"{what}: not done within {_PATIENCE_S:g} s", "check once more, later")]

        running = [(what, asyncio.ensure_future(placed(what, one))) for what, one in probes]
        try:
            for what, task in running:
                self._found.waits_for(what)
                self._found.take(await task)
        finally:
            await ended(*(task for _, task in running))

    # ---- a market: its REST, its clock, how it says it fares ----

    async def _market(self, name: str) -> list[Finding]:
        feed, host = self._feeds.markets[name], _host(self._first[name].hosts.rest_url)
        requests = feed.venue.requests
        try:
            await feed.rest.ask(requests.time)  # opens the connection, which takes longer than an answer
            answer = await feed.rest.ask(requests.time)
            server_ms = feed.venue.server_time(answer.body)
            contracts = await feed.rest.ask(requests.contracts)
            events = feed.venue.decode_answer(requests.contracts, contracts.body, "", name, contracts.sent_ms)
        except (ExchangeError, DecodeError) as exc:
            return [_failed(f"{name}: REST", exc, host, feed.venue)]
        self._reachable.add(name)
        for event in events:
            if isinstance(event, ContractsRead):
                self._symbols |= event.contracts.keys()
                traded = [c for c in event.contracts.values() if c.status == "TRADING"]
                self._listed[name] = [c.symbol for c in sorted(traded, key=lambda c: c.delivery_ms is not None)]
        offset_ms = server_ms - (answer.sent_ms + answer.received_ms) // 2
        took_ms = answer.received_ms - answer.sent_ms
        for account in self._config.accounts:
            if account.market == name:
                self._feeds.accounts[account.name].rest.offset_ms = offset_ms
        rule = self._config.rules.of("clock_offset")
        return [
            Finding("ok", f"{name}: REST at {host} answers within {took_ms} ms"),
            _clock(name, offset_ms, rule),
            await self._status(name, feed),
        ]

    async def _status(self, name: str, feed: MarketFeed) -> Finding:
        request = feed.venue.requests.status
        if request is None:
            return Finding("note", f"{name}: this exchange has no status of its own")
        try:
            answer = await feed.rest.ask(request)
            events = feed.venue.decode_answer(request, answer.body, "", name, answer.sent_ms)
        except (ExchangeError, DecodeError) as exc:
            host = _host(self._first[name].hosts.wallet_url)
            return Finding("note", f"{name}: the exchange's own status is unknown: {_short(exc, host)}")
        trouble = next((e.trouble for e in events if isinstance(e, ExchangeStatusRead)), None)
        if trouble is None:
            return Finding("ok", f"{name}: the exchange says that it works as usual")
        return Finding(
            "warning", f"{name}: the exchange says: {trouble}", "wait until it is over; check once more then"
        )

    def _overrides(self) -> Iterator[Finding]:
        """Overrides for symbols that no exchange lists; of one that does not answer nobody knows what it lists."""
        if len(self._reachable) < len(self._feeds.markets):
            return
        for where, match in self._config.rules.overrides():
            if match.symbol is not None and not any(fnmatchcase(s, match.symbol) for s in self._symbols):
                yield Finding(
                    "warning",
                    f'{where}: symbol "{match.symbol}" fits no listed contract',
                    "a glob such as BTC*; the exchange's own names: BTCUSDT, BTCUSDT_261225, BTCUSD_PERP",
                )

    # ---- an account: its key, its truth, its stream ----

    async def _account(self, account: AccountConfig) -> list[Finding]:
        feed = self._feeds.accounts[account.name]
        if feed.rest.blocked_s:
            said = f"{account.name}: not asked, for the exchange wants to be left alone for {feed.rest.blocked_s:.0f} s"
            return [Finding("note", said)]
        permissions, findings = await self._permissions(account, feed)
        try:
            events = await feed.rest_link.snapshot(feed.venue.requests.account)
        except (ExchangeError, DecodeError) as exc:
            return [_key_refused(account, feed, exc, permissions), *findings]
        self._held[account.market] |= {
            row.symbol for e in events if isinstance(e, PositionsRead) for row, _ in e.rows if row.quantity
        }
        return [Finding("ok", f"{account.name}: {_seen(events)}"), *findings, await self._private(account.name, feed)]

    async def _permissions(
        self, account: AccountConfig, feed: AccountFeed
    ) -> tuple[KeyPermissionsRead | None, list[Finding]]:
        request = feed.venue.requests.permissions
        if request is None:
            return None, [Finding("note", f"{account.name}: what the key may do is unknown: it cannot be read here")]
        try:
            answer = await feed.rest.ask(request)
            [read] = feed.venue.decode_answer(request, answer.body, account.name, feed.market, answer.sent_ms)
        except (ExchangeError, DecodeError) as exc:
            why = _short(exc, _host(account.hosts.wallet_url))
            return None, [
                Finding(
                    "note",
                    f"{account.name}: what the key may do is unknown: {why}",
                    f"look yourself, {_MANAGE}, that it may only read; testnets have nothing that says so",
                )
            ]
        assert isinstance(read, KeyPermissionsRead)
        return read, list(_permitted(account, read))

    async def _private(self, name: str, feed: AccountFeed) -> Finding:
        """Open the private stream, in each of its ways until one is proved, as the daemon does."""
        forms = feed.config.private_forms or feed.venue.private_forms
        finding = Finding("error", f"{name}: private stream")
        for _ in forms:
            form = feed.forms.first
            exc = await _outcome(feed, feed.begin())
            if exc is None:
                tried = "" if form == forms[0] else f" (the way {form}; {forms[0]} did not work)"
                return Finding("ok", f"{name}: the private stream opens, and answers a ping{tried}")
            is_rest = isinstance(exc, ExchangeError)
            address = feed.rest.hosts.rest_url if is_rest else feed.private_url
            finding = _failed(f"{name}: private stream", exc, _host(address), feed.venue)
            if is_rest or isinstance(exc, OSError | LinkUnwanted):
                break  # another way would meet the same
        return finding

    # ---- the market's stream ----

    async def _stream(self, feed: MarketFeed) -> list[Finding]:
        """Wait for a first mark: an open socket proves nothing."""
        name = feed.link.name
        listed = self._listed.get(name, [])
        symbol = next(iter(sorted(self._held[name])), listed[0] if listed else None)
        if symbol is None:
            return [Finding("note", f"{name}: stream not tried: no contract is traded")]
        feed.watch({symbol})
        began = time.monotonic()
        exc = await _outcome(feed, feed.begin())
        if isinstance(exc, LinkDown) and not isinstance(exc, LinkUnwanted):  # one that is silent: without compression
            began = time.monotonic()
            exc = await _outcome(feed, feed.begin())
        if exc is not None:
            return [_failed(f"{name}: stream", exc, _host(feed.url), feed.venue)]
        took_s = time.monotonic() - began
        return [Finding("ok", f"{name}: the stream brings marks; the first, of {symbol}, after {took_s:.1f} s")]


async def _outcome(feed: Feed, session: Session) -> BaseException | None:
    """Why a session has not proved itself; None: it has."""
    running = asyncio.create_task(session.run(), name=f"probe[{feed.link.account} {feed.link.name}]")
    try:
        await asyncio.wait({running, session.proved}, return_when=asyncio.FIRST_COMPLETED)
        if session.proved.done():
            return None
        exc = running.exception()
        return LinkDown("ended") if exc is None else innermost(exc)
    finally:
        await ended(running)


def _permitted(account: AccountConfig, read: KeyPermissionsRead) -> Iterator[Finding]:
    """What a key may do beside reading, which is all that is needed."""
    for may, names in (("move money away", read.moves_money), ("trade", read.trades)):
        if names and account.accept_trading_key:
            yield Finding("note", f"{account.name}: the key may {may} ({', '.join(names)}), which you accept")
        elif names:
            yield Finding(
                "error",
                f"{account.name}: the key may {may} ({', '.join(names)}); whoever gets hold of it can, too",
                f"take that from it {_MANAGE}, or make one that may only read; {_ACCEPT}",
            )
    if not read.moves_money and not read.trades:
        yield Finding("ok", f"{account.name}: the key may only read")
    if read.portfolio_margin:
        yield Finding(
            "warning",
            f"{account.name}: the key is for a portfolio margin account, too",
            "portfolio margin is not supported: for an account that is in this mode, figures are wrong or missing",
        )
    if not read.ip_restricted:
        yield Finding(
            "warning",
            f"{account.name}: the key works from any address: who copies it can read balances and positions",
            f"bind it to this machine's public address, {_MANAGE}",
        )


def _key_refused(
    account: AccountConfig, feed: AccountFeed, exc: ExchangeError | DecodeError, permissions: KeyPermissionsRead | None
) -> Finding:
    """Why the account cannot be read; a key that the wallet took, and futures refuse, is a case of its own."""
    failed = _failed(f"{account.name}: the account cannot be read", exc, _host(account.hosts.rest_url), feed.venue)
    if isinstance(exc, ExchangeError) and exc.code == _REFUSED and permissions is not None:
        remedy = "the key exists, and futures refuse it: it was made before the futures account was opened (make a new"
        remedy += " one), or the account uses portfolio margin, which is not supported"
        return Finding("error", failed.text, remedy)
    return failed


def _seen(events: Collection[Event]) -> str:
    """What an account looks like: also that the right one was named."""
    held = sum(1 for e in events if isinstance(e, PositionsRead) for row, _ in e.rows if row.quantity)
    balances = [b.asset for e in events if isinstance(e, BalancesRead) for b in e.balances if b.wallet_balance]
    said = [f"the key is valid; {held or 'no'} open position{'' if held == 1 else 's'}"]
    said += [f"balances in {', '.join(sorted(balances))}" if balances else "no balance"]
    for mode in events:
        if isinstance(mode, AccountModeRead):
            said += ["hedge mode" if mode.hedge else "one-way mode"]
            said += ["multi-assets mode" if mode.multi_assets else "single-asset mode"]
    return ", ".join(said)


def _clock(name: str, offset_ms: int, rule: Rule) -> Finding:
    side = "behind" if offset_ms > 0 else "ahead of"
    said = f"{name}: this machine's clock is {abs(offset_ms)} ms {side} the exchange's"
    if not any(step.fires(Decimal(abs(offset_ms))) for step in rule.steps):
        return Finding("ok", said)
    return Finding("error", said, "let it be synchronised: sudo timedatectl set-ntp true, then timedatectl status")


def _failed(what: str, exc: BaseException, host: str, venue: Venue) -> Finding:
    """An error with its remedy, by kind. No address is shown but the host's: one of a stream may hold a key."""
    if isinstance(exc, ExchangeError) and exc.fault == "answer":
        return Finding("error", f"{what}: {host}: {exc}", venue.remedy(exc.status, exc.code))
    if isinstance(exc, ExchangeError) and exc.fault == "proxy":
        return Finding("error", f"{what}: {host}: {exc}", network_remedy("proxy", host))
    if isinstance(exc, InvalidStatus):
        status = exc.response.status_code
        return Finding("error", f"{what}: {host}: HTTP {status} instead of a stream", venue.remedy(status, None))
    if isinstance(exc, LinkUnwanted):
        return Finding("error", f"{what}: {host}: {exc}", venue.remedy(_TOO_MANY, None))
    if isinstance(exc, DecodeError):
        remedy = "is this the exchange's address, or does a proxy or a login page answer for it?"
        return Finding("error", f"{what}: {host}: an answer that does not read", remedy)
    if isinstance(exc, LinkDown):
        remedy = "does a firewall or proxy let websockets through? Is the address that of this venue's streams?"
        return Finding("error", f"{what}: {host}: {exc}", remedy)
    fault = exc.fault if isinstance(exc, ExchangeError) else fault_of(exc)
    return Finding("error", f"{what}: {in_words(fault, exc, host)}", network_remedy(fault, host))


def _short(exc: ExchangeError | DecodeError, host: str) -> str:
    if isinstance(exc, DecodeError):
        return f"{host}: an answer that does not read"
    return f"{host}: {exc}" if exc.fault in ("answer", "proxy") else in_words(exc.fault, exc, host)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
