"""All links that a config asks for: a market feed per market, an account feed per account, and the REST they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from msgspec import Struct

from monitor.config import AccountConfig, Config, LinksConfig
from monitor.config_values import Secret
from monitor.effects import INSTANCE, Resync, Watch
from monitor.events import LinkId
from monitor.pace import Pace
from monitor.shell.account_feed import AccountFeed
from monitor.shell.feed import Feed
from monitor.shell.handshakes import Handshakes
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from monitor.shell.rest import Budget, Rest
from monitor.shell.shared_stream import SharedStreams
from monitor.shell.tap import Tap
from monitor.shell.tasks import ended
from monitor.unseen import Unseen
from monitor.venues import VENUES

_STARTS_AT_ONCE = 8
"""So many accounts of one address are read at a time: the first of many are known soon rather than all late."""

Asks = tuple[object, ...]
"""All by which one account's feed differs from another's: where it asks, and with which key."""

Part = Callable[[], Coroutine[Any, Any, None]]
"""Runs for as long as we do. Begun in its task, which may be cancelled before."""

Spawn = Callable[[Part, str], asyncio.Task[None]]


class Changes(Struct, frozen=True):
    """How accounts that are to be watched differ from those that are, by name.

    Args:
        changed: They ask elsewhere, or with another key.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class _Address:
    """What all share who ask one host."""

    def __init__(self, links: LinksConfig) -> None:
        self.budget = Budget(links.weight_per_minute)
        self.pace = Pace(links.reconcile_s, links.weight_per_minute / 2)
        self.gate = asyncio.Semaphore(_STARTS_AT_ONCE)


class Feeds:
    """The feeds of a config, by market and by account. They come and go with the accounts.

    Args:
        found: The secrets that the config names.
        unseen: Account → since when forced orders may have gone unseen; in this order they begin, before the others.
    """

    def __init__(
        self,
        config: Config,
        found: Mapping[Secret, str],
        inbox: Inbox,
        tap: Tap | None,
        unseen: Mapping[str, Unseen] | None = None,
    ) -> None:
        self.markets: dict[str, MarketFeed] = {}
        self.accounts: dict[str, AccountFeed] = {}
        self._links = config.links
        self._inbox = inbox
        self._tap = tap
        self._addresses: dict[str, _Address] = {}
        self._asks: dict[str, Asks] = {}
        self._shared: dict[tuple[str, str], SharedStreams] = {}
        self._spawn: Spawn | None = None
        self._tasks: dict[Feed, asyncio.Task[None]] = {}
        earlier = unseen or {}
        places = {name: place for place, name in enumerate(earlier)}
        for account in sorted(config.accounts, key=lambda account: places.get(account.name, len(places))):
            self.add(account, found, earlier.get(account.name))

    def add(self, account: AccountConfig, found: Mapping[Secret, str], unseen: Unseen | None = None) -> None:
        """Watch one more account."""
        # The exchange counts what one address asks of both its futures markets together.
        host = account.hosts.rest_url if account.environment == "custom" else account.environment
        if host not in self._addresses:
            self._addresses[host] = _Address(self._links)
        address = self._addresses[host]
        if account.market not in self.markets:
            rest = Rest(account.hosts, address.budget, self._links.rest_timeout_s, name=account.market)
            market = MarketFeed(account, rest, self._inbox, self._links, self._tap)
            self.markets[account.market] = market
            self._begin(market)
        key, secret = found[account.api_key], found[account.secret]
        rest = Rest(account.hosts, address.budget, self._links.rest_timeout_s, key, secret, account.name)
        shared = self._shared_with(account, address.budget.handshakes)
        feed = AccountFeed(
            account, rest, self._inbox, self._links, address.pace, address.gate, unseen, self._tap, shared
        )
        self.accounts[account.name] = feed
        self._asks[account.name] = _asks(account, found)
        self._begin(feed)

    def _shared_with(self, account: AccountConfig, handshakes: Handshakes) -> SharedStreams | None:
        """The connections that it shares with the other accounts of its host."""
        if self._links.accounts_per_connection == 1:
            return None
        place = account.venue, account.hosts.private_url
        if place not in self._shared:
            venue, url = VENUES[account.venue], account.hosts.private_url
            self._shared[place] = SharedStreams(venue, url, self._links, handshakes)
        return self._shared[place]

    def changes(self, accounts: Collection[AccountConfig], found: Mapping[Secret, str]) -> Changes:
        """What would have to begin, end, and begin anew to watch these."""
        wanted = {account.name: _asks(account, found) for account in accounts}
        return Changes(
            added=[name for name in wanted if name not in self.accounts],
            removed=[name for name in self.accounts if name not in wanted],
            changed=[name for name in wanted if name in self.accounts and wanted[name] != self._asks[name]],
        )

    def heed(self, wish: Watch | Resync) -> None:
        """Do what the core wants of a link; one that has gone meanwhile needs nothing."""
        if isinstance(wish, Watch):
            if wish.market in self.markets:
                self.markets[wish.market].watch(wish.symbols, wish.rates)
        elif wish.account in self.accounts:
            self.accounts[wish.account].resync()

    def recall(self, unseen: Mapping[str, Unseen]) -> None:
        """What an earlier run has left of these accounts was found only now."""
        for name in unseen.keys() & self.accounts.keys():
            self.accounts[name].recall(unseen[name])

    async def remove(self, names: Collection[str]) -> dict[str, Unseen | None]:
        """Watch these accounts no more. Returns since when forced orders of each may have gone unseen."""
        for name in names:
            del self._asks[name]
        feeds = [self.accounts.pop(name) for name in names]
        await self._end(feeds)
        return {feed.link.account: feed.missed_orders.unseen for feed in feeds}

    async def settle_markets(self) -> None:
        """Watch no market any more that no account is on; of the others ask where one of their accounts does."""
        used: dict[str, list[Rest]] = {}
        for feed in self.accounts.values():
            used.setdefault(feed.market, []).append(feed.rest)
        await self._end([self.markets.pop(name) for name in list(self.markets) if name not in used])
        for name, market in self.markets.items():
            if market.rest.hosts not in [rest.hosts for rest in used[name]]:
                market.rest.follow(used[name][0])

    @property
    def all(self) -> tuple[Feed, ...]:
        return (*self.markets.values(), *self.accounts.values())

    @property
    def dropped(self) -> dict[LinkId, int]:
        """How many frames of each link did not read; of shared connections, those that did not say whose they were."""
        frames = {feed.link: feed.bad_frames for feed in self.all}
        if self._shared:
            frames[LinkId(INSTANCE, "private")] = sum(shared.bad_frames for shared in self._shared.values())
        return frames

    def run(self, spawn: Spawn) -> None:
        """Begin them all, and from now on each that is added.

        Args:
            spawn: Makes a task of a part, under a name.
        """
        self._spawn = spawn
        for feed in self.all:
            self._begin(feed)

    def stop(self) -> None:
        """Begin no further session; said before their tasks are cancelled."""
        for feed in self.all:
            feed.stop()

    async def close(self) -> None:
        """End them all, and what they ask over."""
        self.stop()
        await self._end(self.all)

    def _begin(self, feed: Feed) -> None:
        if self._spawn is not None:
            name = feed.market if feed.link.account == INSTANCE else feed.link.account
            self._tasks[feed] = self._spawn(feed.run, f"feed[{name}]")

    async def _end(self, feeds: Collection[Feed]) -> None:
        for feed in feeds:
            feed.stop()
        await ended(*(self._tasks.pop(feed) for feed in feeds if feed in self._tasks))
        for feed in feeds:
            await feed.rest.close()


def _asks(account: AccountConfig, found: Mapping[Secret, str]) -> Asks:
    return account.venue, account.market, account.hosts, found[account.api_key], found[account.secret]
