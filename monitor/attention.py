"""Which pools are looked at, and when.

    awake ── what it needs has changed ──► waiting ── its turn has come ──► awake, or at rest
    at rest ── out of its zone ──► leaving ── another zone, or none ──► at rest, or waiting

A pool that is awake hangs on its marks and rates: each change of one has it looked at. A pool rests while nothing can
come of it, as the judges say, for as long as its marks stay within a zone; only the screen is asked of it. In one step
no more is looked at than a slice: others wait for the next. None of this changes what is told, only the time it takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import islice

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.events import Now
from monitor.links import Links
from monitor.market import MarketBook, Prices
from monitor.risk.pool import Pool
from monitor.risk.quiet import Limits, PoolKey
from monitor.risk.screen import screen

_SAID = 4


class Slice:
    """What is done in one step; what is left waits for the next, so that others have their turn after some 10 ms.

    A position counts 1, a pool 1, whatever is told, kept or published of it 4, and in a tick an account of which
    nothing is to be said 4.

    Args:
        size: So much is enough.
        said: Grows by what is told, kept or published meanwhile.
    """

    def __init__(self, size: int, said: Sized) -> None:
        self.done = 0
        self._size = size
        self._said = said
        self._before = len(said)

    @property
    def is_enough(self) -> bool:
        return self.excess >= 0

    @property
    def excess(self) -> int:
        """How much more it is than enough; negative: less."""
        return self.done + _SAID * (len(self._said) - self._before) - self._size


class Attention:
    """The pools of all accounts: which rest, which wait, and for what.

    Args:
        accounts: All that are watched; `take_accounts` says that they are others.
        markets: Where they are.
        links: What they say of themselves decides whether a pool's data are live.
        limits_of: Within which figures nothing comes of a pool; None: it must be looked at each time.
        screened: Whether pools may rest.
    """

    def __init__(
        self,
        accounts: Mapping[str, WatchedAccount],
        markets: Mapping[str, MarketBook],
        links: Links,
        limits_of: Callable[[WatchedAccount, Pool, Now], Limits | None],
        *,
        screened: bool,
    ) -> None:
        self._accounts = accounts
        self._markets = markets
        self._links = links
        self._limits_of = limits_of
        self._screened = screened
        self._screen = screen(len(accounts))
        self._places = _places(accounts)
        self._holders: dict[str, dict[str, set[PoolKey]]] = defaultdict(dict)
        """Market → symbol or rate → the pools that hang on it and do not rest; what has none is not named."""
        self._is_marked = False
        self._leaving: dict[PoolKey, Mapping[str, Prices]] = {}
        """Pools that have left their zones and wait for others, and what the marks of each market were before that."""
        self._changed: set[PoolKey] = set()
        self._derived: set[PoolKey] = set()
        """Pools that are not what they were: they do not wait for a step that is to come."""
        self._waiting: dict[PoolKey, None] = {}

    @property
    def has_more(self) -> bool:
        """Whether there are pools to be looked at, or out of their zones."""
        return bool(self._changed) or bool(self._waiting) or bool(self._leaving)

    @property
    def is_behind(self) -> bool:
        """Whether there is more to be done, with no change to wait for."""
        return self.has_more or self._screen.is_behind

    def waits_for(self, account: WatchedAccount) -> bool:
        """Whether a pool of an account has still to be looked at."""
        keys = [(account.name, pool_id) for pool_id in account.pools]
        return any(key in self._changed or key in self._waiting or key in self._leaving for key in keys)

    # ---- what changes ----

    def marked(self, market: str, symbols: tuple[str, ...], prices: Sequence[float]) -> None:
        """These marks have come."""
        self.changed(market, symbols)
        self._screen.mark(market, symbols, prices)
        self._is_marked = True

    def changed(self, market: str, what: Iterable[str]) -> None:
        """These marks or rates are others than before: the pools that hang on them have to be looked at."""
        holders = self._holders[market]
        for one in holders.keys() & what:
            self._changed |= holders[one]

    def release(self, account: WatchedAccount) -> None:
        """An account's pools are about to be derived anew: none rests any more, nor hangs on anything."""
        self.wake(account)
        for pool in account.pools.values():
            self._release(account, pool)

    def hold(self, account: WatchedAccount) -> None:
        """An account's pools have been derived anew: they are looked at in this step."""
        keys = [(account.name, pool_id) for pool_id in account.pools]
        self._derived.update(keys)
        self._changed.update(keys)
        for pool in account.pools.values():
            self._hold(account, pool)

    def forget(self, account: WatchedAccount) -> None:
        """An account is watched no more."""
        self.release(account)
        for pool_id in account.pools:
            key = account.name, pool_id
            self._changed.discard(key)
            self._derived.discard(key)
            self._waiting.pop(key, None)

    def take_accounts(self) -> None:
        """The accounts are others than before."""
        self.wake_all()
        self._places = _places(self._accounts)
        self._screen = screen(len(self._accounts))

    # ---- pools that wait ----

    def due(self, part: Slice) -> Iterator[tuple[WatchedAccount, str]]:
        """The pools whose turn it is, each with its account: all that are not what they were, of others until it is
        enough."""
        self._waiting.update(dict.fromkeys(sorted(self._changed, key=self._place)))
        self._changed.clear()
        gone: list[PoolKey] = []
        for key in self._waiting:
            if part.is_enough and key not in self._derived:
                if not self._derived:
                    break
                continue
            gone.append(key)
            self._derived.discard(key)
            account, pool_id = self._accounts.get(key[0]), key[1]
            if account is not None and pool_id in account.pools:  # else it has gone while it waited
                yield account, pool_id
        for key in gone:
            del self._waiting[key]

    def _place(self, key: PoolKey) -> tuple[int, str]:
        """The order in which pools are looked at: that of the accounts, and of their pools."""
        return self._places[key[0]], key[1]

    # ---- pools that rest ----

    def let_rest(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        """Let a pool rest for as long as nothing can come of it, if that is any time at all."""
        if not self._screened or account.in_step or account.last_risks[pool_id].missing:
            return  # what is missing may be known by now, which has to be seen
        pool, shape, prices = account.pools[pool_id], account.shape(pool_id), account.market.prices
        limits = None if shape is None else self._limits_of(account, pool, now)
        if shape is None or limits is None or now.mono >= limits.until:
            return
        marks = {p.symbol: float(prices[p.symbol]) for p in pool.positions if p.symbol in prices}
        key = account.name, pool_id
        if len(marks) < len(pool.positions) or (limits.while_live and not self._is_live(key, now)):
            return
        if self._screen.rest(key, account.setup.market, shape, marks, limits):
            account.rests(pool_id)
            self._release(account, pool)

    def rouse(self, account: WatchedAccount, pool_id: str, now: Now) -> bool:
        """Wake a pool of which something may come by now without a mark, to look at it. False: it rests, or its turn is
        to come anyway."""
        key = account.name, pool_id
        if key in self._waiting or key in self._leaving:
            return False
        if self._screen.rests(key, now.mono) and (not self._screen.is_while_live(key) or self._is_live(key, now)):
            return False
        self._wake(account, pool_id)
        return True

    def renew(self, now: Now, at_most: int) -> None:
        """Pools that marks have taken out of their zones get others; those that find none wake. Where they are more
        than may be asked in one step, the others wait, and what the marks were before waits with them."""
        is_live = partial(self._is_live, now=now)
        if self._is_marked:
            self._is_marked = False
            if left := self._screen.left(now.mono, is_live):
                before = {name: market.before_step() for name, market in self._markets.items()}
                self._leaving.update(dict.fromkeys(left, before))
        if self._leaving:
            some = list(islice(self._leaving, at_most))
            for name, pool_id in self._screen.renew(some, now.mono, is_live):
                self._wake(self._accounts[name], pool_id)
            for key in some:
                self._leaving.pop(key, None)

    def find_zones(self) -> None:
        """Find zones of pools that rest already, where nothing else is to be done."""
        if self.is_behind and not self.has_more:
            self._screen.find_zones()

    def wake(self, account: WatchedAccount) -> None:
        """What its pools rest by holds no more."""
        for pool_id in account.pools:
            self._wake(account, pool_id)

    def wake_all(self) -> None:
        for account in self._accounts.values():
            self.wake(account)

    def _wake(self, account: WatchedAccount, pool_id: str) -> None:
        key = account.name, pool_id
        before = self._leaving.pop(key, None)
        if self._screen.wake(key) or before is not None:
            account.wakes(pool_id, None if before is None else before[account.setup.market])
            self._hold(account, account.pools[pool_id])
        if before is not None:
            self._changed.add(key)

    def _is_live(self, key: PoolKey, now: Now) -> bool:
        account = self._accounts[key[0]]
        return freshness.is_live(account, account.pools[key[1]], self._links, now)

    def _hold(self, account: WatchedAccount, pool: Pool) -> None:
        """From now on a pool is looked at with each change of what it needs."""
        holders = self._holders[account.setup.market]
        for what in account.needs_of(pool):
            holders.setdefault(what, set()).add((account.name, pool.id))

    def _release(self, account: WatchedAccount, pool: Pool) -> None:
        """A pool is not looked at with each change of what it needs any more."""
        holders = self._holders[account.setup.market]
        for what in account.needs_of(pool):
            if what in holders:
                holders[what].discard((account.name, pool.id))
                if not holders[what]:
                    del holders[what]


def _places(accounts: Mapping[str, WatchedAccount]) -> dict[str, int]:
    return {name: i for i, name in enumerate(accounts)}
