"""The whole monitor as one function: events in, effects out.

`Core.step` applies what happened to the book, computes the pools that it could have changed and nothing else, has the
judges hold them against the rules, and says what is to be told, published, kept and asked for. It never awaits, logs,
sleeps or asks the time: time passing is an event. The same events in the same order give the same effects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import islice
from typing import Any

from msgspec import Struct, structs

from monitor import publication
from monitor.accounts import WatchedAccount, streamed
from monitor.book import MarketBook, is_rate, rate_of
from monitor.effects import INSTANCE, AccountGone, AccountSetup, Effect, Resync, Watch
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    AccountModeRead,
    Acknowledge,
    AdlQuantilesRead,
    AdlRiskRead,
    AssetRates,
    BalancesRead,
    BracketsRead,
    ClockOffset,
    ConfigTouched,
    ContractChanged,
    ContractsRead,
    Event,
    ExchangeStatusRead,
    Fill,
    FundingTermsRead,
    InsuranceFundRead,
    KeyPermissionsRead,
    LinkId,
    LinkReport,
    LinkState,
    MarginCall,
    MarginTypesRead,
    MarkPrice,
    Marks,
    Now,
    OrdersCancelled,
    PositionKey,
    PositionsRead,
    Silence,
    StoreState,
    StrategyEnded,
    Tick,
    Vitals,
)
from monitor.incidents import IncidentKey
from monitor.judges.daily import Daily, DailyJudge
from monitor.judges.exchange import ExchangeJudge
from monitor.judges.forced_orders import ForcedOrdersJudge
from monitor.judges.funding import FundingJudge
from monitor.judges.groups import Group, GroupsJudge
from monitor.judges.instance import InstanceJudge
from monitor.judges.levels import LevelsJudge
from monitor.judges.listings import ListingsJudge
from monitor.judges.moved import MovedJudge
from monitor.judges.notices import NoticesJudge
from monitor.judges.staleness import StalenessJudge
from monitor.links import Links
from monitor.moves import KINDS, one_symbol
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.risk import EXACT
from monitor.risk.quiet import PoolKey
from monitor.risk.screen import Screen, screen
from monitor.rules import LiquidationPriceMovedRule, RuleBook, Severity

_SLICE = 160
"""How much of what marks have moved is looked at in one step: a position counts 1, a pool 1, whatever is told, kept or
published of it 4, and in a tick an account of which nothing is to be said 4. What is left waits for the next step, so
that others have their turn after some 10 ms."""
_SAID = 4


class Setup(Struct, frozen=True):
    """What the core has to know of the config.

    Args:
        dispute_s: How long snapshots must contradict a newer event before they are believed (seconds).
        summary_every_s: Summary and health are published at least this often (seconds).
        unacked_s: A critical incident that nobody acknowledges for so long is told again, louder (seconds). None: no
            acknowledgements are expected.
        daily: When each account's daily summary is told; None: never.
        group: When accounts that cross a level together are a group.
        figures_per_s: So many states of pools and positions are published a second, at most.
    """

    accounts: tuple[AccountSetup, ...]
    rules: RuleBook = RuleBook()
    dispute_s: float = 60
    summary_every_s: float = 30
    unacked_s: float | None = None
    daily: Daily | None = None
    group: Group = Group()
    figures_per_s: float = 1000


class Kept(Struct, frozen=True):
    """What an earlier run left in the store.

    Args:
        incidents: Rows of open incidents.
        baselines: `<account>/<pool>` → row.
        silences: Id → row.
        forced: `<account>/<symbol>/<order id>` → row.
        daily: Account → row of the dates whose summary has been told.
        last_named_ms: The latest time that an incident has been named after.
    """

    incidents: tuple[bytes, ...] = ()
    baselines: dict[str, bytes] = {}
    silences: dict[str, bytes] = {}
    forced: dict[str, bytes] = {}
    daily: dict[str, bytes] = {}
    last_named_ms: int = 0


class Core:
    """All state of the monitor, owned by the one task that calls `step`.

    Args:
        screened: Whether pools may rest while nothing can come of them. It changes no effect, only the time it takes;
            and so, where there is more to look at than one step may, which account comes in which step.
    """

    def __init__(self, setup: Setup, now: Now, kept: Kept | None = None, *, screened: bool = True) -> None:
        self.setup = setup
        self.links = Links()
        self.markets: dict[str, MarketBook] = defaultdict(MarketBook)
        self.accounts = {
            a.name: WatchedAccount(a, self.markets[a.market], setup.rules, setup.dispute_s) for a in setup.accounts
        }
        self.published = publication.Published(setup.summary_every_s, setup.figures_per_s)
        self.reporter = Reporter(self.links, self.published)
        self.incidents = self.reporter.incidents
        self.incidents.unacked_s = setup.unacked_s
        self.incidents.is_hushed = self.reporter.silences.covers
        self._levels = LevelsJudge(self.reporter)
        self._moved = MovedJudge(self.reporter)
        self._forced_orders = ForcedOrdersJudge(self.reporter)
        self._notices = NoticesJudge(self.reporter)
        self._funding = FundingJudge(self.reporter)
        self._listings = ListingsJudge(self.reporter)
        self._instance = InstanceJudge(self.reporter, self.accounts)
        self._exchange = ExchangeJudge(self.reporter, self.accounts)
        self._groups = GroupsJudge(self.reporter, self.accounts, self.markets, setup.group)
        self.reporter.group_of = self._groups.joined
        self._staleness = StalenessJudge(self.reporter, self.accounts, self.markets, now)
        self._screen: Screen | None = screen(len(self.accounts)) if screened else None
        self._order = {name: i for i, name in enumerate(self.accounts)}
        self._holders: dict[str, dict[str, dict[PoolKey, None]]] = defaultdict(dict)
        """Market → symbol or rate → the pools that hang on it and do not rest; what has none is not named."""
        self._is_marked = False
        self._leaving: dict[PoolKey, dict[str, dict[str, Decimal]]] = {}
        """Pools that have left their zones and wait for others, and what the marks of each market were before that."""
        self._dirty: dict[PoolKey, None] = {}
        self._rebuilt: set[PoolKey] = set()
        self._waiting: dict[PoolKey, None] = {}
        self._slice = _SLICE
        self._now = now
        self._ticking: Iterator[int] = iter(())
        self.is_ticking = False
        """Whether what the last tick has begun is not through yet."""
        self._moving: dict[str, None] = {}
        self._resynced: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        self._printed: dict[str, None] = {}
        self._watched: dict[str, frozenset[str]] = {}
        self._needs: dict[str, Counter[str]] = defaultdict(Counter)
        self._daily = DailyJudge(self.reporter, setup.daily, now)
        self._restore(kept or Kept(), now)

    def _restore(self, kept: Kept, now: Now) -> None:
        self.reporter.restore(kept.incidents, now, kept.last_named_ms, self._is_watched)
        self.reporter.silences.restore(kept.silences)
        for name, row in kept.forced.items():
            account, _, order = name.partition("/")
            if account in self.accounts:
                self.accounts[account].forced_orders.restore(order, row)
        self._daily.restore(kept.daily)
        for name, row in kept.baselines.items():
            account, _, pool_id = name.partition("/")
            if account in self.accounts:
                self.accounts[account].moves.restore(pool_id, row)

    def take_over(self, kept: Kept, now: Now) -> None:
        """Take what an earlier run left, found only now; of what this run has saved itself nothing may be in it."""
        self._restore(kept, now)
        self._wake_all()

    def _is_watched(self, key: IncidentKey) -> bool:
        """Whether this run watches what an incident of an earlier one is about."""
        if key.rule not in self.setup.rules.rules:
            return False  # of another version: nothing would ever end it
        if key.rule in ("clock_offset", "exchange_status"):
            return any(key.subject == slug(a.setup.market) for a in self.accounts.values())
        if key.account == INSTANCE and key.rule != "data_stale":
            return True
        if key.rule == "data_stale":
            return LinkId(key.account, key.subject) in self.links.all
        return key.account in self.accounts

    def take_rules(self, rules: RuleBook) -> None:
        """Judge by these rules from the next step on."""
        self.setup = structs.replace(self.setup, rules=rules)
        for account in self.accounts.values():
            account.take(account.setup, rules)
        self._wake_all()

    def take_accounts(self, accounts: tuple[AccountSetup, ...], now: Now) -> list[Effect]:
        """Watch these accounts from the next step on, and no others. One that trades elsewhere now is another one.

        Returns:
            What ends, and is to be emptied, with those that are watched no more.
        """
        with localcontext(EXACT):
            wanted = {setup.name: setup for setup in accounts}
            for account in list(self.accounts.values()):
                setup = wanted.get(account.name)
                if setup is None or (setup.venue, setup.market) != (account.setup.venue, account.setup.market):
                    self._forget(account, now)
                else:
                    account.take(setup, account.rules)
            for setup in accounts:
                if setup.name not in self.accounts:
                    account = WatchedAccount(setup, self.markets[setup.market], self.setup.rules, self.setup.dispute_s)
                    self.accounts[setup.name] = account
                    self._staleness.await_links(account, now)
            self.setup = structs.replace(self.setup, accounts=accounts)
            self._order = {name: i for i, name in enumerate(self.accounts)}
            self._wake_all()
            self._screen = None if self._screen is None else screen(len(self.accounts))
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _forget(self, account: WatchedAccount, now: Now) -> None:
        """Watch an account no more: what is open of it ends, what is published of it is emptied."""
        name, market = account.name, account.setup.market
        self._wake(account)
        del self.accounts[name]
        self.reporter.end_unwatched(account, [i.key for i in self.incidents.of(name)], now)
        account.moves.forget()
        self._moved.keep(account)
        for pool in account.pools.values():
            key = name, pool.id
            self._release(market, key, streamed(pool))
            for keys in (self._dirty, self._waiting):
                keys.pop(key, None)
            self._rebuilt.discard(key)
            self._levels.forget(name, pool.id)
            self._funding.forget(name, pool.id)
        needed = account.needed
        account.take_pools({})
        for names in (self._moving, self._resynced, self._touched, self._printed):
            names.pop(name, None)
        self.reporter.effects += publication.gone(account, self.published)
        self._watch(market, needed, frozenset(), now)
        unused = [link.name for link in self._staleness.forget_links(account) if link.account == INSTANCE]
        of_market = [i.key for i in self.incidents.of(INSTANCE) if i.subject in {slug(n) for n in unused}]
        self.reporter.end_unwatched(account, of_market, now)
        self._exchange.forget(name, unused)
        self._listings.forget(name)
        self.published.forget(name)
        self.reporter.effects.append(AccountGone(name))

    def step(self, events: Sequence[Event], now: Now) -> list[Effect]:
        """Everything that follows from these events, in order.

        Args:
            events: What has happened since the last step, in order of arrival.
            now: Monotonic seconds and wall-clock milliseconds, read by the caller.
        """
        self._now = now
        marks = [event for event in events if isinstance(event, _MARKS)]
        rest = events
        if len(marks) == len(events):
            rest = ()
            for mark in marks:
                self._mark(mark, now)
            self._look_at_those_that_left(now)
        if rest or self._dirty or self._moving or self._has_more_to_look_at:  # of most marks nothing follows
            with localcontext(EXACT):
                self._follow(rest, now)
        if not events and self._screen is not None and self._screen.is_behind and not self._has_more_to_look_at:
            self._screen.find_zones()
        for market in self.markets.values():
            market.earlier = {}
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _follow(self, events: Sequence[Event], now: Now) -> None:
        """Take these events, and do all that follows from them, and from the marks that have been taken before."""
        told_of = self._told_of(events)
        for account in told_of:
            account.in_step = bool(account.risks)  # as they are, before anything changes
        if events:
            for event in events:
                if isinstance(event, _MARKS):
                    self._mark(event, now)
                elif type(event) in _APPLY and self._is_about_us(event):
                    _APPLY[type(event)](self, event, now)
            if self._resynced:
                self._settle_snapshots(now)
            self._look_at_those_that_left(now)
        if self._dirty or self._waiting:
            self._look_at_the_first(now)
        for account in told_of:
            account.in_step = False
        for account in [self.accounts[name] for name in self._moving]:
            is_due = account.moves.due(now)
            if not is_due and account.name not in self._touched:
                continue  # nothing has changed that its prices follow from
            only_from = Severity.INFO if is_due else Severity.WARNING
            self._moved.tell(account, now, only_from=only_from)
            self._touched[account.name] = None
            if not account.moves.pending:
                del self._moving[account.name]
        for name in self._touched:
            self._moved.keep(self.accounts[name])
        self._touched.clear()
        if not self.is_ticking and any(isinstance(event, Tick) for event in events):
            self.is_ticking, self._ticking = True, self._tick()
        if self.is_ticking:
            self._go_on_ticking()

    @property
    def is_behind(self) -> bool:
        """Whether there is more to be done, with no event to wait for."""
        return self._has_more_to_look_at or (self._screen is not None and self._screen.is_behind)

    @property
    def _has_more_to_look_at(self) -> bool:
        return bool(self._waiting) or bool(self._leaving) or self.is_ticking

    # ---- what happened ----

    def _told_of(self, events: Sequence[Event]) -> list[WatchedAccount]:
        """The accounts that these events may change, rather than the market alone."""
        names: dict[str, None] = {}
        for event in events:
            if isinstance(event, _MARKS):
                continue
            if isinstance(event, ContractsRead):
                names.update((a.name, None) for a in self.accounts.values() if a.setup.market == event.market)
            else:
                names[getattr(event, "account", None) or ""] = None
        return [self.accounts[name] for name in names if name in self.accounts]

    def _mark(self, event: MarkPrice | Marks, now: Now) -> None:
        """Take a mark, or all of a frame at once."""
        if isinstance(event, Marks):
            self._marks(event, now)
        elif self.markets[event.market].apply_mark(event, now):
            if holders := self._holders[event.market].get(event.symbol):
                self._dirty.update(holders)
            if self._screen is not None:
                self._screen.mark(event.market, (event.symbol,), (float(event.price),))
                self._is_marked = True

    def _marks(self, event: Marks, now: Now) -> None:
        if not self.markets[event.market].apply_marks(event, now):
            for mark in event.each:
                self._mark(mark, now)
            return
        holders = self._holders[event.market]
        for symbol in holders.keys() & event.symbols:
            self._dirty.update(holders[symbol])
        if self._screen is not None:
            self._screen.mark(event.market, event.symbols, event.floats)
            self._is_marked = True

    def _is_about_us(self, event: Event) -> bool:
        """Whether it concerns an account, a link or a market that is watched; one that no longer is may echo."""
        if isinstance(event, LinkReport):
            return event.link in self.links.all
        if isinstance(event, Silence):
            return True  # of whatever somebody may name
        account, market = getattr(event, "account", None), getattr(event, "market", None)
        if account is not None:
            return account in self.accounts
        return market is None or LinkId(INSTANCE, market) in self.links.all

    def _rates(self, event: AssetRates, now: Now) -> None:
        for asset in self.markets[event.market].apply_rates(event, now):
            self._dirty.update(self._holders[event.market].get(rate_of(asset), {}))

    def _account_changed(self, event: AccountChanged, now: Now) -> None:
        account = self.accounts[event.account]
        self._settle_snapshots(now)
        if account.moves.starts_another(KINDS.get(event.reason, "adjustment")):
            self._moved.tell(account, now)
        before = list(account.pools.values())
        if event.reason == "INSURANCE_CLEAR":
            account.forced_orders.cleared(event.changes, now)
        if not account.book.apply_changed(event, now.mono) or not account.known:
            return
        self._rebuild(account, now)
        rule = account.rules.of("liquidation_price_moved", account.name, account.setup.labels)
        assert isinstance(rule, LiquidationPriceMovedRule)
        pools = list(account.pools.values())
        symbol = one_symbol(event) if event.reason == "FUNDING_FEE" else None
        forecasts = {} if symbol is None else account.forecast_payments(symbol, event.at_ms)
        account.moves.happened(event, before, pools, account.terms, rule, now, forecasts)
        self._moving[account.name] = None
        if any(
            p.symbol not in account.book.tables or p.symbol not in account.book.margin_assets for p in event.positions
        ):
            self.reporter.effects.append(Resync(account.name, "a symbol that is new to us"))

    def _fill(self, event: Fill, now: Now) -> None:
        account = self.accounts[event.account]
        if event.quantity:
            account.moves.filled(event)
        if event.forced is not None and not account.forced_orders.is_done(event):
            account.forced(PositionKey(event.symbol, event.side), event.forced, now)
            self._forced_orders.happened(account, event, event.forced, now)

    def _margin_call(self, event: MarginCall, now: Now) -> None:
        self._notices.margin_call(self.accounts[event.account], event, now)

    def _snapshot(self, event: BalancesRead | PositionsRead | AccountModeRead, now: Now) -> None:
        account = self.accounts[event.account]
        self._resynced[account.name] = None
        if isinstance(event, BalancesRead):
            account.book.apply_balances(event, now.mono)
        elif isinstance(event, PositionsRead):
            account.book.apply_positions(event, now.mono)
            account.book.read_coefs(event)
            self._printed[account.name] = None
        else:
            account.book.hedge = event.hedge
            self._switch(account, event.multi_assets, now)

    def _margin_types(self, event: MarginTypesRead, now: Now) -> None:
        self.accounts[event.account].book.isolated.update(event.isolated)

    def _brackets(self, event: BracketsRead, now: Now) -> None:
        account = self.accounts[event.account]
        before = dict(account.book.tables)
        account.book.apply_brackets(event)
        self._listings.brackets_changed(account, before, now)
        self._resynced[account.name] = None

    def _contracts(self, event: ContractsRead, now: Now) -> None:
        self.markets[event.market].apply_contracts(event.contracts, event.assets)
        for account in self.accounts.values():
            if account.setup.market == event.market:
                self._resynced[account.name] = None

    def _mode_changed(self, event: AccountModeChanged, now: Now) -> None:
        account = self.accounts[event.account]
        self._switch(account, event.multi_assets, now)
        self._resynced[account.name] = None
        self.reporter.effects.append(Resync(event.account, "multi-assets mode switched"))

    def _switch(self, account: WatchedAccount, multi_assets: bool, now: Now) -> None:
        if account.book.multi_assets is not multi_assets:
            self._moved.tell(account, now)  # of the pools as they were
            account.book.multi_assets = multi_assets

    def _config_touched(self, event: ConfigTouched, now: Now) -> None:
        self.reporter.effects.append(Resync(event.account, f"a setting of {event.symbol} changed"))

    def _contract_changed(self, event: ContractChanged, now: Now) -> None:
        market = self.markets[event.market]
        known = market.contracts.get(event.symbol)
        if known is not None:
            delivery_ms = event.delivery_ms
            contract = structs.replace(known, status=event.status, delivery_ms=delivery_ms)
            market.apply_contracts({event.symbol: contract})
        for account in self.accounts.values():
            if account.setup.market == event.market and event.brackets and event.symbol in account.symbols:
                self.reporter.effects.append(Resync(account.name, f"brackets of {event.symbol} changed"))

    def _market_facts(self, event: AdlRiskRead | InsuranceFundRead | FundingTermsRead, now: Now) -> None:
        market = self.markets[event.market]
        if isinstance(event, AdlRiskRead):
            market.adl_risks = event.risks
        elif isinstance(event, InsuranceFundRead):
            market.insurance_fund = event.balances
        else:
            market.funding_hours = event.interval_hours

    def _adl_quantiles(self, event: AdlQuantilesRead, now: Now) -> None:
        self.accounts[event.account].book.adl_quantiles = event.quantiles

    def _orders_cancelled(self, event: OrdersCancelled, now: Now) -> None:
        self._forced_orders.cancelled(self.accounts[event.account], event, now)

    def _strategy_ended(self, event: StrategyEnded, now: Now) -> None:
        self._forced_orders.strategy_ended(self.accounts[event.account], event, now)

    def _acknowledge(self, event: Acknowledge, now: Now) -> None:
        self.reporter.acknowledge(event, now)
        for incident in self.incidents:
            if incident.incident_id == event.incident_id and incident.account in self.accounts:
                self._wake(self.accounts[incident.account])

    def _silence(self, event: Silence, now: Now) -> None:
        self.reporter.silence(event, now)

    def _link(self, event: LinkReport, now: Now) -> None:
        if self.links.report(event, now.mono):
            self.published.health_due.add(event.link.account)
            if event.state is LinkState.MUTE:
                self._staleness.mute(event, now)

    def _vitals(self, event: Vitals, now: Now) -> None:
        self.published.take_vitals(event)

    def _clock(self, event: ClockOffset, now: Now) -> None:
        self.markets[event.market].measured(event.offset_ms, now)
        self._instance.clock(event, now)

    def _key_permissions(self, event: KeyPermissionsRead, now: Now) -> None:
        self._exchange.permissions(event, now)

    def _exchange_status(self, event: ExchangeStatusRead, now: Now) -> None:
        self._exchange.status(event, now)

    def _store(self, event: StoreState, now: Now) -> None:
        self._instance.store(event, now)

    # ---- from the book to pools ----

    def _settle_snapshots(self, now: Now) -> None:
        resynced, self._resynced = self._resynced, {}
        for account in [self.accounts[name] for name in resynced]:
            self._rebuild(account, now)
            if account.known:
                account.moves.settle(account.pools.values(), account.terms, now)
                self._moving[account.name] = None
                if account.name in self._printed:
                    self._levels.judge_drift(account, now)
        self._printed.clear()

    def _rebuild(self, account: WatchedAccount, now: Now) -> None:
        market = account.setup.market
        self._wake(account)
        for pool in account.pools.values():
            self._release(market, (account.name, pool.id), streamed(pool))
        before, needed = account.pools.keys(), account.needed
        account.rebuild(now)
        self._touched[account.name] = None
        for pool_id in before - account.pools.keys():
            self._levels.forget(account.name, pool_id)
            self._funding.forget(account.name, pool_id)
            self.published.forget_pool(account.name, pool_id)
        rebuilt = [(account.name, pool_id) for pool_id in account.pools]
        self._rebuilt.update(rebuilt)
        self._dirty.update(dict.fromkeys(rebuilt))
        for pool in account.pools.values():
            self._hold(market, (account.name, pool.id), streamed(pool))
        if market not in self._watched or account.needed != needed:
            self._watch(market, needed, account.needed, now)
        self.reporter.effects += publication.gone(account, self.published)

    # ---- pools that rest ----

    def _hold(self, market: str, key: PoolKey, needed: Iterable[str]) -> None:
        """From now on a pool is looked at with each change of what it needs."""
        holders = self._holders[market]
        for what in needed:
            holders.setdefault(what, {})[key] = None

    def _release(self, market: str, key: PoolKey, needed: Iterable[str]) -> None:
        """A pool is not looked at with each change of what it needs any more."""
        holders = self._holders[market]
        for what in needed:
            if what in holders:
                holders[what].pop(key, None)
                if not holders[what]:
                    del holders[what]

    def _look_at_those_that_left(self, now: Now) -> None:
        """Pools that marks have taken out of their zones get others; those that find none rest no more. Where there are
        more than one step may look at, the others wait, and what the marks were before waits with them."""
        if self._screen is None:
            return
        if self._is_marked:
            self._is_marked = False
            if left := self._screen.left(now.mono, lambda key: self._is_live(key, now)):
                before = {name: market.before_step() for name, market in self.markets.items()}
                self._leaving.update(dict.fromkeys(left, before))
        if self._leaving:
            some = list(islice(self._leaving, self._slice))
            for name, pool_id in self._screen.renew(some, now.mono, lambda key: self._is_live(key, now)):
                self._wake_one(self.accounts[name], pool_id)
            for key in some:
                self._leaving.pop(key, None)

    def _rests(self, key: PoolKey, now: Now) -> bool:
        """Whether nothing can come of a pool at this moment, or its turn is to come anyway. Of its marks it has been
        asked when they came."""
        if key in self._leaving:
            return True
        if self._screen is None or not self._screen.rests(key, now.mono):
            return False
        return not self._screen.is_while_live(key) or self._is_live(key, now)

    def _is_live(self, key: PoolKey, now: Now) -> bool:
        account = self.accounts[key[0]]
        return account.is_live(account.pools[key[1]], self.links, now)

    def _rest(self, account: WatchedAccount, pool_id: str, now: Now) -> bool:
        """Let a pool rest for as long as nothing can come of it. False: something may."""
        shape = account.shape(pool_id)
        if self._screen is None or shape is None or account.name in self._moving or account.in_step:
            return False
        if account.last_risks[pool_id].missing:
            return False  # by now it may all be known, which has to be seen
        pool, prices = account.pools[pool_id], account.market.prices
        limits = self._levels.quiet(account, pool)
        limits = None if limits is None else self._moved.quiet(account, pool, limits, now)
        if limits is None or now.mono >= limits.until:
            return False
        marks = {p.symbol: float(prices[p.symbol]) for p in pool.positions if p.symbol in prices}
        if len(marks) < len(pool.positions):
            return False
        if limits.while_live and not self._is_live((account.name, pool_id), now):
            return False
        market, key = account.setup.market, (account.name, pool_id)
        if not self._screen.rest(key, market, shape, marks, limits):
            return False
        account.rests(pool_id)
        self._release(market, key, marks)
        return True

    def _wake_one(self, account: WatchedAccount, pool_id: str) -> None:
        key, market = (account.name, pool_id), account.setup.market
        before = self._leaving.pop(key, None)
        has_rested = self._screen is not None and self._screen.wake(key)
        if before is not None:
            account.wakes(pool_id, before[market])
            self._dirty[key] = None
        elif has_rested:
            account.wakes(pool_id)
        else:
            return
        self._hold(market, key, streamed(account.pools[pool_id]))

    def _wake(self, account: WatchedAccount) -> None:
        for pool_id in account.pools:
            self._wake_one(account, pool_id)

    def _wake_all(self) -> None:
        for account in self.accounts.values():
            self._wake(account)

    def _place(self, key: PoolKey) -> tuple[int, str]:
        """The order in which pools are looked at: that of the accounts, and of their pools."""
        return self._order[key[0]], key[1]

    def _watch(self, market: str, no_more: frozenset[str], by_now: frozenset[str], now: Now) -> None:
        """Say what the market link has to bring, where that has changed.

        Args:
            no_more: What one account needed of it before.
            by_now: What that account needs.
        """
        needs = self._needs[market]
        needs.update(by_now)
        needs.subtract(no_more)
        needed = frozenset(what for what, accounts in needs.items() if accounts)
        before = self._watched.get(market)
        if needed != before:
            symbols = frozenset(what for what in needed if not is_rate(what))
            for what in (before or frozenset()) - needed:
                del needs[what]
                self.markets[market].forget(what)
            if needed == symbols:
                self.markets[market].forget_rates()
            self._watched[market] = needed
            self._staleness.watch(market, needed, now)
            self.reporter.effects.append(Watch(market, symbols, rates=needed != symbols))

    # ---- from pools to incidents ----

    def _look_at_the_first(self, now: Now) -> None:
        """Look at the pools that have changed: all that are not what they were, of others as many as one step may."""
        self._waiting.update(dict.fromkeys(sorted(self._dirty, key=self._place)))
        self._dirty.clear()
        before, looked_at = len(self.reporter.effects), 0
        gone: list[PoolKey] = []
        for key in self._waiting:
            is_enough = looked_at + _SAID * (len(self.reporter.effects) - before) >= self._slice
            if is_enough and key not in self._rebuilt:
                if not self._rebuilt:
                    break
                continue
            gone.append(key)
            account, pool_id = self.accounts.get(key[0]), key[1]
            self._rebuilt.discard(key)
            if account is None or pool_id not in account.pools:
                continue  # it has gone while it waited
            self._assess(account, pool_id, now)
            self._touched[account.name] = None
            looked_at += 1 + len(account.pools[pool_id].positions)
        for key in gone:
            del self._waiting[key]

    def _assess(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        before, risk = account.assess(pool_id)
        self._levels.judge(account, before, risk, now)
        account.moves.complete(risk.pool, account.terms)
        self._moved.check_marks(account, risk, now)
        if not self._levels.is_at_worst(account, risk):
            self._rest(account, pool_id, now)

    def _tick(self) -> Iterator[int]:
        """What time brings: everything is judged once more, and published. Stops after each part of the work to say how
        much it was, since of many accounts it is too much for one step."""
        for account in self._all():
            yield self._judge(account, self._now)
        for link in self._staleness.links:
            self._staleness.judge(link, self._now)
            yield 0 if link.account == INSTANCE else 1
        now = self._now
        self._instance.judge(now)
        self._exchange.judge(now)
        self.reporter.end_silences(now)
        self.reporter.keep_worst(now)
        self._daily.judge(self.accounts.values(), now)
        self._groups.judge(now)
        for account in self._all():
            self.reporter.effects += publication.due(
                account, self.links, self.incidents, self.published, self.setup.rules, self._now
            )
            yield 2 + 2 * len(account.pools)
        self.reporter.effects += publication.instance_due(self.accounts, self.links, self.published, self._now)

    def _all(self) -> Iterator[WatchedAccount]:
        """One account after the other; while we wait for the next, some may come or go."""
        for name in list(self.accounts):
            if name in self.accounts:
                yield self.accounts[name]

    def _judge(self, account: WatchedAccount, now: Now) -> int:
        """Judge all of an account once more. Gives how much of it there was to look at."""
        looked_at = 2
        for pool_id, last in list(account.last_risks.items()):
            key, whole = (account.name, pool_id), 1 + len(last.pool.positions)
            looked_at += 2
            if key not in self._waiting and not self._rests(key, now):
                self._wake_one(account, pool_id)
                risk = account.risk(pool_id)
                self._levels.judge(account, lambda risk=risk: risk, risk, now)  # type: ignore[misc]
                self._rest(account, pool_id, now)
                looked_at += whole
            if self._funding.judge(account, last.pool, now):
                looked_at += 2 * whole  # as it is, and as it would be
        if account.known:
            if self._listings.judge(account, now):
                looked_at += sum(len(pool.positions) for pool in account.pools.values())
            self._levels.end_vanished(account, now)
            self._forced_orders.end(account, now)
        return looked_at

    def _go_on_ticking(self) -> None:
        before, done = len(self.reporter.effects), 0
        for part in self._ticking:
            done += part
            if done + _SAID * (len(self.reporter.effects) - before) >= self._slice:
                return
        self._ticking = iter(())
        self.is_ticking = False


_MARKS = MarkPrice, Marks
_APPLY: dict[type, Callable[[Core, Any, Now], None]] = {
    AccountChanged: Core._account_changed,
    Acknowledge: Core._acknowledge,
    AccountModeChanged: Core._mode_changed,
    AccountModeRead: Core._snapshot,
    AdlQuantilesRead: Core._adl_quantiles,
    AdlRiskRead: Core._market_facts,
    AssetRates: Core._rates,
    BalancesRead: Core._snapshot,
    BracketsRead: Core._brackets,
    ClockOffset: Core._clock,
    ConfigTouched: Core._config_touched,
    ContractChanged: Core._contract_changed,
    ContractsRead: Core._contracts,
    ExchangeStatusRead: Core._exchange_status,
    Fill: Core._fill,
    FundingTermsRead: Core._market_facts,
    InsuranceFundRead: Core._market_facts,
    KeyPermissionsRead: Core._key_permissions,
    LinkReport: Core._link,
    MarginCall: Core._margin_call,
    MarginTypesRead: Core._margin_types,
    OrdersCancelled: Core._orders_cancelled,
    PositionsRead: Core._snapshot,
    Silence: Core._silence,
    StoreState: Core._store,
    StrategyEnded: Core._strategy_ended,
    Vitals: Core._vitals,
}
"""What each event does; marks and ticks, which are many, have their place in `step`. Others concern the links alone."""
