"""What happened, taken into the books: each event to its market or account, and the pools derived anew from there.

Nothing is judged here that follows from a pool's risk; whoever has to be looked at is named for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monitor import publication
from monitor.accounts import WatchedAccount, on_market
from monitor.attention import Attention
from monitor.effects import INSTANCE, Resync, Watch
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
    LinkHeard,
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
    Vitals,
)
from monitor.judges.all import Judges
from monitor.judges.moved import rules_of
from monitor.market import MarketBook, is_rate, rate_of
from monitor.reporter import Reporter
from monitor.risk.quiet import PoolKey
from monitor.stages import symbol_of

MARKS = MarkPrice, Marks

_OfAccounts = dict[type, Callable[[WatchedAccount, Any, Now], None]]
_Others = dict[type, Callable[[Any, Now], None]]


class Intake:
    """Takes events; what it has changed is said by `touched` and `moving`, and by what it asks of the attention."""

    def __init__(
        self,
        accounts: Mapping[str, WatchedAccount],
        markets: Mapping[str, MarketBook],
        reporter: Reporter,
        judges: Judges,
        attention: Attention,
    ) -> None:
        self._accounts, self._markets = accounts, markets
        self._reporter, self._judges, self._attention = reporter, judges, attention
        self._links, self._published = reporter.links, reporter.published
        self._of_accounts, self._of_markets, self._of_us = self._tables()
        self._in_step: list[WatchedAccount] = []
        """Accounts that the events of this step are about: what they were before it, they stay until judged."""
        self._resynced: dict[str, None] = {}
        """Accounts that have been read anew; their pools are derived anew once all of the step's snapshots are in."""
        self._printed: dict[str, None] = {}
        """Those of them of which the exchange has printed its own figures."""
        self.touched: dict[str, None] = {}
        """Accounts of which a pool has been looked at or derived anew in this step."""
        self.moving: dict[str, None] = {}
        """Accounts of which there may be a price to tell that account events have moved."""
        self._needs: dict[str, Counter[str]] = {}
        """Market → symbol or rate that its link has to bring → how many accounts need it."""

    def take(self, events: Sequence[Event], now: Now) -> None:
        """Take events, marks or others. What they change of an account, its pools show once they are looked at."""
        self._in_step = self._accounts_of(events)
        for account in self._in_step:
            account.in_step = bool(account.risks)  # as they are, before anything changes
        for event in events:
            if isinstance(event, MARKS):
                self.mark(event, now)
            else:
                self._happened(event, now)
        if self._resynced:
            self._settle_snapshots(now)

    def judged(self) -> None:
        """The pools have been looked at: what the accounts of this step were before it matters no more."""
        for account in self._in_step:
            account.in_step = False
        self._in_step = []

    def forget(self, account: WatchedAccount, needed: frozenset[str], now: Now) -> None:
        """An account is watched no more, which has needed these symbols and rates."""
        for names in (self.moving, self._resynced, self.touched, self._printed):
            names.pop(account.name, None)
        self._watch(account.setup.market, needed, frozenset(), now)

    def forget_pool(self, pool: PoolKey) -> None:
        """A pool is not there any more."""
        self._judges.levels.forget(pool)
        self._judges.funding.forget(pool)
        self._published.forget_pool(pool)

    # ---- what happened ----

    def _tables(self) -> tuple[_OfAccounts, _Others, _Others]:
        """What is done with each event of an account, of a market, and of our own. Marks, which are many, have their
        place in `take`; others concern the links alone."""
        of_accounts: _OfAccounts = {
            AccountChanged: self._account_changed,
            AccountModeChanged: self._mode_changed,
            AccountModeRead: self._snapshot,
            AdlQuantilesRead: self._adl_quantiles,
            BalancesRead: self._snapshot,
            BracketsRead: self._brackets,
            ConfigTouched: self._config_touched,
            Fill: self._fill,
            KeyPermissionsRead: self._judges.exchange.permissions,
            MarginCall: self._judges.notices.margin_call,
            MarginsPrinted: self._margins_printed,
            MarginTypesRead: self._margin_types,
            OrdersCancelled: self._orders_cancelled,
            OrdersUnread: self._judges.forced_orders.unread,
            PositionsRead: self._snapshot,
            StrategyEnded: self._judges.forced_orders.strategy_ended,
        }
        of_markets: _Others = {
            AdlRiskRead: self._adl_risks,
            AssetRates: self._rates,
            ClockOffset: self._clock,
            ContractChanged: self._contract_changed,
            ContractsRead: self._contracts,
            ExchangeStatusRead: self._judges.exchange.status,
            FundingTermsRead: self._funding_terms,
            InsuranceFundRead: self._insurance_fund,
        }
        of_us: _Others = {
            Acknowledge: self._acknowledge,
            LinkHeard: self._heard,
            LinkReport: self._link,
            Silence: self._reporter.silence,
            StoreState: self._judges.instance.store,
            Vitals: self._vitals,
        }
        return of_accounts, of_markets, of_us

    def _happened(self, event: Any, now: Now) -> None:
        """Take an event that is no mark. An account or a market that is watched no longer may echo."""
        kind = type(event)
        if kind in self._of_accounts:
            account = self._accounts.get(event.account)
            if account is not None:
                self._of_accounts[kind](account, event, now)
        elif kind in self._of_markets:
            if LinkId(INSTANCE, event.market) in self._links.all:
                self._of_markets[kind](event, now)
        elif kind in self._of_us:
            self._of_us[kind](event, now)

    def _accounts_of(self, events: Sequence[Event]) -> list[WatchedAccount]:
        """The accounts that these events may change, rather than the market alone."""
        names: dict[str, None] = {}
        for event in events:
            if isinstance(event, MARKS):
                continue
            if isinstance(event, ContractsRead):
                names.update((account.name, None) for account in on_market(self._accounts, event.market))
            else:
                names[getattr(event, "account", None) or ""] = None
        return [self._accounts[name] for name in names if name in self._accounts]

    def mark(self, event: MarkPrice | Marks, now: Now) -> None:
        """Take a mark, or all of a frame at once."""
        market = self._markets[event.market]
        if isinstance(event, MarkPrice):
            if market.apply_mark(event, now):
                self._attention.marked(event.market, (event.symbol,), (float(event.price),))
        elif market.apply_marks(event, now):
            self._attention.marked(event.market, event.symbols, event.floats)
        else:
            for mark in event.each:
                self.mark(mark, now)

    def _rates(self, event: AssetRates, now: Now) -> None:
        changed = self._markets[event.market].apply_rates(event, now)
        self._attention.changed(event.market, map(rate_of, changed))

    def _account_changed(self, account: WatchedAccount, event: AccountChanged, now: Now) -> None:
        self._settle_snapshots(now)
        if account.moves.starts_another(event):
            self._judges.moved.tell(account, now)
        before = list(account.pools.values())
        if event.reason == "INSURANCE_CLEAR":
            account.forced_orders.cleared(event.changes, now)
        if not account.book.apply_changed(event, now.mono) or not account.known:
            return
        self._rebuild(account, now)
        pools = list(account.pools.values())
        symbol = symbol_of(event) if event.reason == "FUNDING_FEE" else None
        forecasts = {} if symbol is None else account.forecasts.payments(symbol, event.at_ms)
        account.moves.happened(event, before, pools, account.terms, rules_of(account), now, forecasts)
        self.moving[account.name] = None
        if any(p.quantity and account.is_new(p.symbol) for p in event.positions):  # flat ones may be of any symbol
            self._reporter.effects.append(Resync(account.name, "a symbol that is new to us"))

    def _fill(self, account: WatchedAccount, event: Fill, now: Now) -> None:
        if event.quantity:
            account.moves.filled(event)
        if event.forced is not None and not account.forced_orders.is_done(event):
            account.gone.forced(PositionKey(event.symbol, event.side), event.forced, now)
            self._judges.forced_orders.happened(account, event, event.forced, now)

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
        self._judges.listings.brackets_changed(account, before, now)
        self._resynced[account.name] = None

    def _contracts(self, event: ContractsRead, now: Now) -> None:
        self._markets[event.market].listings.apply_contracts(event.contracts, now, event.assets)
        for account in on_market(self._accounts, event.market):
            self._resynced[account.name] = None

    def _mode_changed(self, account: WatchedAccount, event: AccountModeChanged, now: Now) -> None:
        self._switch(account, event.multi_assets, now)
        account.book.switched_ms = min(event.at_ms, account.market.exchange_ms(now))
        self._resynced[account.name] = None
        self._reporter.effects.append(Resync(account.name, "multi-assets mode switched"))

    def _switch(self, account: WatchedAccount, multi_assets: bool, now: Now) -> None:
        if account.book.multi_assets is not multi_assets:
            self._judges.moved.tell(account, now)  # of the pools as they were
            account.book.multi_assets = multi_assets

    def _config_touched(self, account: WatchedAccount, event: ConfigTouched, now: Now) -> None:
        self._reporter.effects.append(Resync(account.name, f"a setting of {event.symbol} changed"))

    def _contract_changed(self, event: ContractChanged, now: Now) -> None:
        self._markets[event.market].listings.apply_contract(event, now)
        for account in on_market(self._accounts, event.market):
            if event.brackets and event.symbol in account.symbols:
                self._reporter.effects.append(Resync(account.name, f"brackets of {event.symbol} changed"))

    def _adl_risks(self, event: AdlRiskRead, now: Now) -> None:
        self._markets[event.market].listings.adl_risks = event.risks

    def _insurance_fund(self, event: InsuranceFundRead, now: Now) -> None:
        self._markets[event.market].listings.insurance_fund = event.balances

    def _funding_terms(self, event: FundingTermsRead, now: Now) -> None:
        self._markets[event.market].listings.funding_hours = event.interval_hours

    def _adl_quantiles(self, account: WatchedAccount, event: AdlQuantilesRead, now: Now) -> None:
        account.book.adl_quantiles = event.quantiles

    def _orders_cancelled(self, account: WatchedAccount, event: OrdersCancelled, now: Now) -> None:
        account.forced_orders.cancelled(event, now)

    def _acknowledge(self, event: Acknowledge, now: Now) -> None:
        incident = self._reporter.acknowledge(event, now)
        if incident is not None and incident.account in self._accounts:
            self._attention.wake(self._accounts[incident.account])

    def _link(self, event: LinkReport, now: Now) -> None:
        if event.link in self._links.all and self._links.report(event, now.mono):
            self._published.health_due.add(event.link.account)
            if event.state is LinkState.MUTE:
                self._judges.staleness.mute(event, now)

    def _heard(self, event: LinkHeard, now: Now) -> None:
        self._links.heard(event)

    def _vitals(self, event: Vitals, now: Now) -> None:
        self._published.take_vitals(event)

    def _clock(self, event: ClockOffset, now: Now) -> None:
        self._markets[event.market].measured(event.offset_ms, now)
        self._judges.instance.clock(event, now)

    # ---- from the book to pools ----

    def _settle_snapshots(self, now: Now) -> None:
        resynced, self._resynced = self._resynced, {}
        for account in [self._accounts[name] for name in resynced]:
            self._rebuild(account, now)
            if account.known:
                account.moves.settle(account.pools.values(), account.terms, now)
                self.moving[account.name] = None
                if account.name in self._printed:
                    self._judges.levels.judge_drift(account, now)
        self._printed.clear()

    def _rebuild(self, account: WatchedAccount, now: Now) -> None:
        market, before, needed = account.setup.market, account.pools.keys(), account.needed
        self._attention.release(account)
        account.rebuild(now)
        self._attention.hold(account)
        self.touched[account.name] = None
        for pool_id in before - account.pools.keys():
            self.forget_pool((account.name, pool_id))
        if market not in self._needs or account.needed != needed:
            self._watch(market, needed, account.needed, now)
        self._reporter.effects += publication.gone(account, self._published)

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
                self._markets[market].forget(what)
            if needed == symbols:
                self._markets[market].forget_rates()
            self._judges.staleness.watch(market, needed, now)
            self._reporter.effects.append(Watch(market, symbols, rates=needed != symbols))
