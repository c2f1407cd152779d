"""The whole monitor as one function: events in, effects out.

`Core.step` applies what happened to the book, computes the pools that it could have changed and nothing else, has the
judges hold them against the rules, and says what is to be told, published, kept and asked for. It never awaits, logs,
sleeps or asks the time: time passing is an event. The same events in the same order give the same effects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import localcontext
from typing import Any

from msgspec import Struct, structs

from monitor import publication
from monitor.accounts import WatchedAccount, on_market
from monitor.attention import Attention, Slice
from monitor.effects import INSTANCE, AccountGone, AccountSetup, Effect, Resync, Save, Watch
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
    MarginsPrinted,
    MarginTypesRead,
    MarkPrice,
    Marks,
    Now,
    OrdersCancelled,
    OrdersUnread,
    PositionKey,
    PositionsRead,
    Silence,
    StoreState,
    StrategyEnded,
    Tick,
    Vitals,
)
from monitor.incidents import Incident, gravest
from monitor.judges.daily import Daily, DailyJudge
from monitor.judges.exchange import ExchangeJudge
from monitor.judges.forced_orders import ForcedOrdersJudge
from monitor.judges.funding import FundingJudge
from monitor.judges.groups import Group, GroupsJudge
from monitor.judges.instance import InstanceJudge
from monitor.judges.levels import LevelsJudge
from monitor.judges.listings import ListingsJudge
from monitor.judges.moved import MovedJudge, rules_of
from monitor.judges.notices import NoticesJudge
from monitor.judges.staleness import StalenessJudge
from monitor.links import Links
from monitor.market import MarketBook, is_rate, rate_of
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.risk import EXACT
from monitor.risk.quiet import Limits, PoolKey
from monitor.risk.report import Pool
from monitor.rules import RuleBook, Severity
from monitor.stages import symbol_of
from monitor.unseen import Unseen, both, restart, restored

_OfAccounts = dict[type, Callable[[WatchedAccount, Any, Now], None]]
_Others = dict[type, Callable[[Any, Now], None]]

_MARKS = MarkPrice, Marks
_SLICE = 160
"""How much of what marks have moved is looked at in one step, and how much of a tick is done; see `Slice`."""
_MARKS_PART = 4
"""A step that brings marks looks at a quarter of that: in a storm the first alerts go out before more is looked at."""


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
        forced: `<account>/<symbol>/<order id>`, or a side instead of that, or `<account>/unread` → row.
        daily: Account → row of the dates whose summary has been told.
        last_named_ms: The latest time that an incident has been named after.
        groups: `_instance/group/<rule>` → row of a group that has not been told yet.
    """

    incidents: tuple[bytes, ...] = ()
    baselines: dict[str, bytes] = {}
    silences: dict[str, bytes] = {}
    forced: dict[str, bytes] = {}
    daily: dict[str, bytes] = {}
    last_named_ms: int = 0
    groups: dict[str, bytes] = {}


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
        self._attention = Attention(self.accounts, self.markets, self.links, self._quiet, screened=screened)
        self._slice = _SLICE
        self._now = now
        self._ticking: Iterator[int] = iter(())
        self.is_ticking = False
        """Whether what the last tick has begun is not through yet."""
        self._of_accounts, self._of_markets, self._of_us = self._tables()
        self._in_step: list[WatchedAccount] = []
        """Accounts that the events of this step are about: what they were before it, they stay until judged."""
        self._resynced: dict[str, None] = {}
        """Accounts that have been read anew; their pools are derived anew once all of the step's snapshots are in."""
        self._printed: dict[str, None] = {}
        """Those of them of which the exchange has printed its own figures."""
        self._touched: dict[str, None] = {}
        """Accounts of which a pool has been looked at or derived anew in this step."""
        self._moving: dict[str, None] = {}
        """Accounts of which there may be a price to tell that account events have moved."""
        self._needs: dict[str, Counter[str]] = {}
        """Market → symbol or rate that its link has to bring → how many accounts need it."""
        self._daily = DailyJudge(self.reporter, setup.daily, now)
        self._restore(kept or Kept(), now)

    def step(self, events: Sequence[Event], now: Now) -> list[Effect]:
        """Everything that follows from these events, in order.

        Args:
            events: What has happened since the last step, in order of arrival.
            now: Monotonic seconds and wall-clock milliseconds, read by the caller.
        """
        self._now = now
        is_idle = not (events or self.is_undecided)
        marks = [event for event in events if isinstance(event, _MARKS)]
        is_marks_alone = len(marks) == len(events)
        if is_marks_alone:  # they are only noted, which needs no exact arithmetic
            for mark in marks:
                self._mark(mark, now)
        else:
            with localcontext(EXACT):
                self._take(events, now)
        at_most = max(1, self._slice // _MARKS_PART) if marks else self._slice
        self._attention.renew(now, at_most)
        if not is_marks_alone or self._moving or self.is_undecided:
            with localcontext(EXACT):  # of most marks nothing follows
                self._follow(now, at_most)
        if is_idle:  # what another step says does not wait for that
            self._attention.find_zones()
        for market in self.markets.values():
            market.earlier = {}
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _take(self, events: Sequence[Event], now: Now) -> None:
        """Take events, marks or others. What they change of an account, its pools show once they are looked at."""
        self._in_step = self._accounts_of(events)
        for account in self._in_step:
            account.in_step = bool(account.risks)  # as they are, before anything changes
        for event in events:
            if isinstance(event, _MARKS):
                self._mark(event, now)
            else:
                self._happened(event, now)
        if self._resynced:
            self._settle_snapshots(now)

    def _follow(self, now: Now, at_most: int) -> None:
        """Do what follows from the events that have been taken, and from what earlier steps have left."""
        self._look_at_pools(now, at_most)
        for account in self._in_step:
            account.in_step = False
        self._in_step = []
        self._tell_moved(now)
        if self.is_ticking:
            self._go_on_ticking()

    @property
    def is_undecided(self) -> bool:
        """Whether there is more to be told, with no event to wait for."""
        return self.is_ticking or self._attention.has_more

    @property
    def is_behind(self) -> bool:
        """Whether there is more to be done, with no event to wait for."""
        return self.is_ticking or self._attention.is_behind

    # ---- what happened ----

    def _tables(self) -> tuple[_OfAccounts, _Others, _Others]:
        """What is done with each event of an account, of a market, and of our own. Marks, which are many, have their
        place in `_take`; others concern the links alone."""
        of_accounts: _OfAccounts = {
            AccountChanged: self._account_changed,
            AccountModeChanged: self._mode_changed,
            AccountModeRead: self._snapshot,
            AdlQuantilesRead: self._adl_quantiles,
            BalancesRead: self._snapshot,
            BracketsRead: self._brackets,
            ConfigTouched: self._config_touched,
            Fill: self._fill,
            KeyPermissionsRead: self._exchange.permissions,
            MarginCall: self._notices.margin_call,
            MarginsPrinted: self._margins_printed,
            MarginTypesRead: self._margin_types,
            OrdersCancelled: self._orders_cancelled,
            OrdersUnread: self._forced_orders.unread,
            PositionsRead: self._snapshot,
            StrategyEnded: self._forced_orders.strategy_ended,
        }
        of_markets: _Others = {
            AdlRiskRead: self._market_facts,
            AssetRates: self._rates,
            ClockOffset: self._clock,
            ContractChanged: self._contract_changed,
            ContractsRead: self._contracts,
            ExchangeStatusRead: self._exchange.status,
            FundingTermsRead: self._market_facts,
            InsuranceFundRead: self._market_facts,
        }
        of_us: _Others = {
            Acknowledge: self._acknowledge,
            LinkReport: self._link,
            Silence: self.reporter.silence,
            StoreState: self._instance.store,
            Tick: self._time_passed,
            Vitals: self._vitals,
        }
        return of_accounts, of_markets, of_us

    def _happened(self, event: Any, now: Now) -> None:
        """Take an event that is no mark. An account or a market that is watched no longer may echo."""
        kind = type(event)
        if kind in self._of_accounts:
            account = self.accounts.get(event.account)
            if account is not None:
                self._of_accounts[kind](account, event, now)
        elif kind in self._of_markets:
            if LinkId(INSTANCE, event.market) in self.links.all:
                self._of_markets[kind](event, now)
        elif kind in self._of_us:
            self._of_us[kind](event, now)

    def _accounts_of(self, events: Sequence[Event]) -> list[WatchedAccount]:
        """The accounts that these events may change, rather than the market alone."""
        names: dict[str, None] = {}
        for event in events:
            if isinstance(event, _MARKS):
                continue
            if isinstance(event, ContractsRead):
                names.update((account.name, None) for account in on_market(self.accounts, event.market))
            else:
                names[getattr(event, "account", None) or ""] = None
        return [self.accounts[name] for name in names if name in self.accounts]

    def _mark(self, event: MarkPrice | Marks, now: Now) -> None:
        """Take a mark, or all of a frame at once."""
        market = self.markets[event.market]
        if isinstance(event, MarkPrice):
            if market.apply_mark(event, now):
                self._attention.marked(event.market, (event.symbol,), (float(event.price),))
        elif market.apply_marks(event, now):
            self._attention.marked(event.market, event.symbols, event.floats)
        else:
            for mark in event.each:
                self._mark(mark, now)

    def _rates(self, event: AssetRates, now: Now) -> None:
        changed = self.markets[event.market].apply_rates(event, now)
        self._attention.changed(event.market, map(rate_of, changed))

    def _account_changed(self, account: WatchedAccount, event: AccountChanged, now: Now) -> None:
        self._settle_snapshots(now)
        if account.moves.starts_another(event):
            self._moved.tell(account, now)
        before = list(account.pools.values())
        if event.reason == "INSURANCE_CLEAR":
            account.forced_orders.cleared(event.changes, now)
        if not account.book.apply_changed(event, now.mono) or not account.known:
            return
        self._rebuild(account, now)
        pools = list(account.pools.values())
        symbol = symbol_of(event) if event.reason == "FUNDING_FEE" else None
        forecasts = {} if symbol is None else account.forecast_payments(symbol, event.at_ms)
        account.moves.happened(event, before, pools, account.terms, rules_of(account), now, forecasts)
        self._moving[account.name] = None
        if any(p.quantity and account.is_new(p.symbol) for p in event.positions):  # flat ones may be of any symbol
            self.reporter.effects.append(Resync(account.name, "a symbol that is new to us"))

    def _fill(self, account: WatchedAccount, event: Fill, now: Now) -> None:
        if event.quantity:
            account.moves.filled(event)
        if event.forced is not None and not account.forced_orders.is_done(event):
            account.gone.forced(PositionKey(event.symbol, event.side), event.forced, now)
            self._forced_orders.happened(account, event, event.forced, now)

    def _snapshot(
        self, account: WatchedAccount, event: BalancesRead | PositionsRead | AccountModeRead, now: Now
    ) -> None:
        self._resynced[account.name] = None
        if isinstance(event, BalancesRead):
            account.book.apply_balances(event, now.mono)
        elif isinstance(event, PositionsRead):
            account.book.apply_positions(event, now.mono)
            self._printed[account.name] = None
        elif not account.book.is_mode_outdated(event):
            self._switch(account, event.multi_assets, now)

    def _margin_types(self, account: WatchedAccount, event: MarginTypesRead, now: Now) -> None:
        account.book.isolated.update(event.isolated)

    def _margins_printed(self, account: WatchedAccount, event: MarginsPrinted, now: Now) -> None:
        account.book.brackets.compare(event)
        self._resynced[account.name] = None

    def _brackets(self, account: WatchedAccount, event: BracketsRead, now: Now) -> None:
        before = dict(account.book.tables)
        account.book.brackets.apply(event)
        self._listings.brackets_changed(account, before, now)
        self._resynced[account.name] = None

    def _contracts(self, event: ContractsRead, now: Now) -> None:
        self.markets[event.market].apply_contracts(event.contracts, now, event.assets)
        for account in on_market(self.accounts, event.market):
            self._resynced[account.name] = None

    def _mode_changed(self, account: WatchedAccount, event: AccountModeChanged, now: Now) -> None:
        self._switch(account, event.multi_assets, now)
        account.book.switched_ms = min(event.at_ms, account.market.exchange_ms(now))
        self._resynced[account.name] = None
        self.reporter.effects.append(Resync(account.name, "multi-assets mode switched"))

    def _switch(self, account: WatchedAccount, multi_assets: bool, now: Now) -> None:
        if account.book.multi_assets is not multi_assets:
            self._moved.tell(account, now)  # of the pools as they were
            account.book.multi_assets = multi_assets

    def _config_touched(self, account: WatchedAccount, event: ConfigTouched, now: Now) -> None:
        self.reporter.effects.append(Resync(account.name, f"a setting of {event.symbol} changed"))

    def _contract_changed(self, event: ContractChanged, now: Now) -> None:
        self.markets[event.market].apply_contract(event, now)
        for account in on_market(self.accounts, event.market):
            if event.brackets and event.symbol in account.symbols:
                self.reporter.effects.append(Resync(account.name, f"brackets of {event.symbol} changed"))

    def _market_facts(self, event: AdlRiskRead | InsuranceFundRead | FundingTermsRead, now: Now) -> None:
        market = self.markets[event.market]
        if isinstance(event, AdlRiskRead):
            market.adl_risks = event.risks
        elif isinstance(event, InsuranceFundRead):
            market.insurance_fund = event.balances
        else:
            market.funding_hours = event.interval_hours

    def _adl_quantiles(self, account: WatchedAccount, event: AdlQuantilesRead, now: Now) -> None:
        account.book.adl_quantiles = event.quantiles

    def _orders_cancelled(self, account: WatchedAccount, event: OrdersCancelled, now: Now) -> None:
        account.forced_orders.cancelled(event, now)

    def _acknowledge(self, event: Acknowledge, now: Now) -> None:
        incident = self.reporter.acknowledge(event, now)
        if incident is not None and incident.account in self.accounts:
            self._attention.wake(self.accounts[incident.account])

    def _link(self, event: LinkReport, now: Now) -> None:
        if event.link in self.links.all and self.links.report(event, now.mono):
            self.published.health_due.add(event.link.account)
            if event.state is LinkState.MUTE:
                self._staleness.mute(event, now)

    def _vitals(self, event: Vitals, now: Now) -> None:
        self.published.take_vitals(event)

    def _clock(self, event: ClockOffset, now: Now) -> None:
        self.markets[event.market].measured(event.offset_ms, now)
        self._instance.clock(event, now)

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
        market, before, needed = account.setup.market, account.pools.keys(), account.needed
        self._attention.release(account)
        account.rebuild(now)
        self._attention.hold(account)
        self._touched[account.name] = None
        for pool_id in before - account.pools.keys():
            self._forget_pool((account.name, pool_id))
        if market not in self._needs or account.needed != needed:
            self._watch(market, needed, account.needed, now)
        self.reporter.effects += publication.gone(account, self.published)

    def _watch(self, market: str, no_more: frozenset[str], by_now: frozenset[str], now: Now) -> None:
        """Say what the market link has to bring, where that has changed.

        Args:
            no_more: What one account needed of it before.
            by_now: What that account needs.
        """
        is_new = market not in self._needs
        needs = self._needs.setdefault(market, Counter())
        before = frozenset(needs)
        needs.update(by_now)
        needs.subtract(no_more)
        needed = frozenset(what for what, accounts in needs.items() if accounts)
        if is_new or needed != before:
            symbols = frozenset(what for what in needed if not is_rate(what))
            for what in before - needed:
                del needs[what]
                self.markets[market].forget(what)
            if needed == symbols:
                self.markets[market].forget_rates()
            self._staleness.watch(market, needed, now)
            self.reporter.effects.append(Watch(market, symbols, rates=needed != symbols))

    # ---- from pools to incidents ----

    def _look_at_pools(self, now: Now, at_most: int) -> None:
        """Judge the pools that have changed, of many as much as one step may."""
        part = Slice(at_most, self.reporter.effects)
        for account, pool_id in self._attention.due(part):
            self._assess(account, pool_id, now)
            self._touched[account.name] = None
            part.done += 1 + len(account.pools[pool_id].positions)

    def _assess(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        before, risk = account.assess(pool_id)
        self._levels.judge(account, before, risk, now)
        account.moves.complete(risk.pool, account.terms)
        self._moved.check_marks(account, risk, now)
        if not self._levels.is_at_worst(account, risk):
            self._attention.let_rest(account, pool_id, now)

    def _judge_again(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        """Judge a pool that has not changed."""
        risk = account.risk(pool_id)
        self._levels.judge(account, lambda: risk, risk, now)
        self._attention.let_rest(account, pool_id, now)

    def _quiet(self, account: WatchedAccount, pool: Pool, now: Now) -> Limits | None:
        """Within which figures of a pool no judge would tell anything; None: it must be looked at each time."""
        limits = None if account.name in self._moving else self._levels.quiet(account, pool)
        return None if limits is None else self._moved.quiet(account, pool, limits, now)

    def _tell_moved(self, now: Now) -> None:
        """Tell what account events have done to prices, where it is due, or cannot wait; and keep what is new of it."""
        for account in [self.accounts[name] for name in self._moving]:
            is_due = account.moves.is_due(now)
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

    # ---- what time brings ----

    def _time_passed(self, event: Tick, now: Now) -> None:
        if not self.is_ticking:
            self.is_ticking, self._ticking = True, self._tick()

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
        self._daily.look(now)
        self._groups.judge(now)
        for account in self._all():
            self._daily.judge(account, self._now)
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
            whole = 1 + len(last.pool.positions)
            looked_at += 2
            if self._attention.rouse(account, pool_id, now):
                self._judge_again(account, pool_id, now)
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
        part = Slice(self._slice, self.reporter.effects)
        for done in self._ticking:
            part.done += done
            if part.is_enough:
                return
        self.is_ticking, self._ticking = False, iter(())

    # ---- an earlier run, other rules, other accounts ----

    def _restore(self, kept: Kept, now: Now) -> None:
        self.reporter.restore(kept.incidents, now, kept.last_named_ms, self._is_watched)
        self.reporter.silences.restore(kept.silences)
        for name, row in kept.forced.items():
            account, _, order = name.partition("/")
            if account in self.accounts:
                self.accounts[account].restore_forced(order, row, now)
            else:
                self.reporter.effects.append(Save("forced", name, None))
        self._daily.restore(kept.daily)
        self._groups.restore(kept.groups, now)
        for name, row in kept.baselines.items():
            account, _, pool_id = name.partition("/")
            if account in self.accounts:
                self.accounts[account].moves.restore(pool_id, row)
            else:
                self.reporter.effects.append(Save("baseline", name, None))

    def unseen(self) -> dict[str, Unseen]:
        """Account → what an earlier run has kept of it, while nothing has happened yet. First those in the most danger:
        of very many accounts the last is read many minutes after the first."""
        found = {}
        for name, account in self.accounts.items():
            left = self.incidents.of(name)
            unread = restored(account.forced_orders.unread)
            if left or account.moves.held or unread is not None:
                opened_ms = min(*(i.opened_ms for i in left), self._now.wall_ms) if left else None  # clocks may be set
                found[name] = gravest(left), both(unread, restart(opened_ms, account.moves.held.values()))
        worst_first = sorted(found.items(), key=lambda of_account: of_account[1][0], reverse=True)
        return {name: unseen for name, (_, unseen) in worst_first}

    def take_over(self, kept: Kept, now: Now) -> None:
        """Take what an earlier run left, found only now; of what this run has saved itself nothing may be in it."""
        self._restore(kept, now)
        self._attention.wake_all()

    def _is_watched(self, incident: Incident) -> bool:
        """Whether this run watches what an incident of an earlier one is about."""
        key = incident.key
        if key.rule not in self.setup.rules.rules:
            return False  # of another version: nothing would ever end it
        if key.rule in ("clock_offset", "exchange_status"):
            return any(key.subject == slug(a.setup.market) for a in self.accounts.values())
        if key.account == INSTANCE and key.rule != "data_stale":
            return True
        account = self.accounts.get(key.account)
        if account is not None and incident.venue not in ("", account.setup.venue):
            return False  # one that trades elsewhere now is another one
        if key.rule == "data_stale":
            return LinkId(key.account, key.subject) in self.links.all
        return account is not None

    def take_rules(self, rules: RuleBook) -> None:
        """Judge by these rules from the next step on."""
        self.setup = structs.replace(self.setup, rules=rules)
        for account in self.accounts.values():
            account.take(account.setup, rules)
        self._attention.wake_all()

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
            self._attention.take_accounts()
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _forget(self, account: WatchedAccount, now: Now) -> None:
        """Watch an account no more: what is open of it ends, what is published of it is emptied."""
        name, market = account.name, account.setup.market
        self._attention.forget(account)
        del self.accounts[name]
        ages = self.reporter.ages(account, None, now)
        self.reporter.end_unwatched(account.setup, [i.key for i in self.incidents.of(name)], ages, now)
        account.moves.forget()
        self._moved.keep(account)
        self._forced_orders.forget(account)
        for pool_id in account.pools:
            self._forget_pool((name, pool_id))
        needed = account.needed
        account.take_pools({})
        for names in (self._moving, self._resynced, self._touched, self._printed):
            names.pop(name, None)
        self.reporter.effects += publication.gone(account, self.published)
        self._watch(market, needed, frozenset(), now)
        unused = [link.name for link in self._staleness.forget_links(account) if link.account == INSTANCE]
        of_market = [i.key for i in self.incidents.of(INSTANCE) if i.subject in {slug(n) for n in unused}]
        self.reporter.end_unwatched(account.setup, of_market, ages, now)
        self._exchange.forget(name, unused)
        self._listings.forget(name)
        self.published.forget(name)
        self.reporter.effects.append(AccountGone(name))

    def _forget_pool(self, pool: PoolKey) -> None:
        self._levels.forget(pool)
        self._funding.forget(pool)
        self.published.forget_pool(pool)
