"""The whole monitor as one function: events in, effects out.

`Core.step` applies what happened to the book, computes the pools that it could have changed and nothing else, holds
them against the rules, and says what is to be told, published, kept and asked for. It never awaits, logs, sleeps or
asks the time: time passing is an event. The same events in the same order give the same effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from typing import Any

from msgspec import Struct, structs

from monitor import publication
from monitor.accounts import FORCED_MEMORY_S, WatchedAccount
from monitor.book import MarketBook
from monitor.effects import INSTANCE, AccountSetup, Blindness, Effect, IncidentOver, Resync, Save, Story, Watch
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    AccountModeRead,
    BalancesRead,
    BracketsRead,
    ClockOffset,
    ConfigTouched,
    ContractsRead,
    Event,
    Fill,
    ForcedKind,
    LinkId,
    LinkReport,
    LinkState,
    MarginCall,
    MarginTypesRead,
    MarkPrice,
    Now,
    PositionKey,
    PositionsRead,
    Side,
    StreamControl,
    StreamExpired,
    Tick,
)
from monitor.forced import SEVERITIES, ForcedReport
from monitor.incidents import Change, Incident, IncidentKey, Incidents, Resolution, saved
from monitor.links import Links
from monitor.moves import KINDS, Telling
from monitor.risk import EXACT
from monitor.risk.pools import row_slug
from monitor.risk.report import PoolRisk
from monitor.rules import (
    DataStaleRule,
    ForcedOrderRule,
    LiquidationPriceMovedRule,
    MarginCallRule,
    MarginRatioRule,
    Rule,
    RuleBook,
    Severity,
    Step,
)
from monitor.telling import blind_story, forced_story, margin_call_story, moved_story, pool_story

_LEVEL_RULES = ("margin_ratio", "liquidation_distance")
_POOL_RULES = (*_LEVEL_RULES, "drift")


class Setup(Struct, frozen=True):
    """What the core has to know of the config.

    Args:
        dispute_s: How long snapshots must contradict a newer event before they are believed (seconds).
        summary_every_s: Summary and health are published at least this often (seconds).
    """

    accounts: tuple[AccountSetup, ...]
    rules: RuleBook = RuleBook()
    dispute_s: float = 60
    summary_every_s: float = 30


class Kept(Struct, frozen=True):
    """What an earlier run left in the store.

    Args:
        incidents: Rows of open incidents.
        baselines: `<account>/<pool>` → row.
        last_named_ms: The latest time that an incident has been named after.
    """

    incidents: tuple[bytes, ...] = ()
    baselines: dict[str, bytes] = {}
    last_named_ms: int = 0


class Core:
    """All state of the monitor, owned by the one task that calls `step`."""

    def __init__(self, setup: Setup, now: Now, kept: Kept | None = None) -> None:
        self.setup = setup
        self.links = Links()
        self.incidents = Incidents()
        self.markets: dict[str, MarketBook] = defaultdict(MarketBook)
        self.accounts = {
            a.name: WatchedAccount(a, self.markets[a.market], setup.rules, setup.dispute_s) for a in setup.accounts
        }
        self.published = publication.Published(setup.summary_every_s)
        self._holders: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        self._carried: dict[LinkId, list[WatchedAccount]] = defaultdict(list)
        self._moving: dict[str, None] = {}
        self._resynced: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        self._printed: dict[str, None] = {}
        self._watched: dict[str, frozenset[str]] = {}
        self._watched_since: dict[tuple[str, str], float] = {}
        self._seq = 0
        self._dirty: dict[tuple[str, str], None] = {}
        self._effects: list[Effect] = []
        self._unconfirmed: set[IncidentKey] = set()
        self._called: dict[IncidentKey, float] = {}
        self._kept_worst: dict[IncidentKey, Decimal | None] = {}
        for account in self.accounts.values():
            for link in (account.setup.market_link, account.setup.private_link, account.setup.rest_link):
                self.links.awaited(link, now.mono)
                self._carried[link].append(account)
        self._restore(kept or Kept(), now)

    def _restore(self, kept: Kept, now: Now) -> None:
        self.incidents.restore(list(kept.incidents), now, kept.last_named_ms)
        for key in [key for key in self.incidents.open if not self._is_watched(key)]:
            del self.incidents.open[key]
            self._effects += [IncidentOver(key), Save("incident", "/".join(key), None)]
        self._unconfirmed = set(self.incidents.open)
        for name, row in kept.baselines.items():
            account, _, pool_id = name.partition("/")
            if account in self.accounts:
                self.accounts[account].moves.restore(pool_id, row)

    def _is_watched(self, key: IncidentKey) -> bool:
        """Whether this run watches what an incident of an earlier one is about."""
        if key.rule == "data_stale":
            return LinkId(key.account, key.subject) in self.links.all
        return key.account in self.accounts

    def take_rules(self, rules: RuleBook) -> None:
        """Judge by these rules from the next step on."""
        self.setup = structs.replace(self.setup, rules=rules)
        for account in self.accounts.values():
            account.rules = rules

    def step(self, events: Iterable[Event], now: Now) -> list[Effect]:
        """Everything that follows from these events, in order.

        Args:
            events: What has happened since the last step, in order of arrival.
            now: Monotonic seconds and wall-clock milliseconds, read by the caller.
        """
        with localcontext(EXACT):
            ticked = False
            for event in events:
                if isinstance(event, MarkPrice):
                    self._mark(event, now)
                elif isinstance(event, Tick):
                    ticked = True
                else:
                    _APPLY[type(event)](self, event, now)
            self._settle_snapshots(now)
            for name, pool_id in self._dirty:
                self._assess(self.accounts[name], pool_id, now)
                self._touched[name] = None
            self._dirty.clear()
            for account in [self.accounts[name] for name in self._moving]:
                self._tell_moves(account, now, only_from=Severity.INFO if account.moves.due(now) else Severity.WARNING)
                self._touched[account.name] = None
                if not account.moves.pending:
                    del self._moving[account.name]
            self._keep_baselines()
            if ticked:
                self._tick(now)
        effects, self._effects = self._effects, []
        return effects

    # ---- what happened ----

    def _mark(self, event: MarkPrice, now: Now) -> None:
        holders = self._holders.get((event.market, event.symbol))
        if self.markets[event.market].apply_mark(event, now) and holders:
            self._dirty.update(holders)

    def _account_changed(self, event: AccountChanged, now: Now) -> None:
        account = self.accounts[event.account]
        self._settle_snapshots(now)
        if account.moves.starts_another(KINDS.get(event.reason, "adjustment")):
            self._tell_moves(account, now, only_from=Severity.INFO)
        before = list(account.pools.values())
        if event.reason == "INSURANCE_CLEAR":
            account.forced_orders.cleared(event.changes, now)
        if not account.book.apply_changed(event, now.mono) or not account.known:
            return
        self._rebuild(account, now)
        rule = account.rules.of("liquidation_price_moved", account.name, account.setup.labels)
        assert isinstance(rule, LiquidationPriceMovedRule)
        pools = list(account.pools.values())
        account.moves.happened(event, before, pools, account.market.prices, account.book.tables, rule, now)
        self._moving[account.name] = None
        if any(
            p.symbol not in account.book.tables or p.symbol not in account.book.margin_assets for p in event.positions
        ):
            self._effects.append(Resync(account.name, "a symbol that is new to us"))

    def _fill(self, event: Fill, now: Now) -> None:
        account = self.accounts[event.account]
        if event.quantity:
            account.moves.filled(event)
        if event.forced is not None:
            account.forced(PositionKey(event.symbol, event.side), event.forced, now)
            self._forced_order(account, event, event.forced, now)

    def _margin_call(self, event: MarginCall, now: Now) -> None:
        account = self.accounts[event.account]
        rule = account.rules.of("exchange_margin_call", account.name, account.setup.labels)
        assert isinstance(rule, MarginCallRule)
        for position_key, maintenance, pnl in event.positions if rule.enabled else ():
            key = IncidentKey(account.name, "exchange_margin_call", row_slug(position_key))
            told = self._called.get(key)
            if told is None or now.mono - told >= rule.every_s:
                self._called[key] = now.mono
                change = self.incidents.note(key, Severity.WARNING, now)
                ages = account.ages(None, self.links, now)
                seq = self._next_seq(change)
                self._emit(margin_call_story(account, change, position_key, maintenance, pnl, ages, now, seq), now)

    def _snapshot(self, event: BalancesRead | PositionsRead | AccountModeRead, now: Now) -> None:
        account = self.accounts[event.account]
        self._resynced[account.name] = None
        if isinstance(event, BalancesRead):
            account.book.apply_balances(event, now.mono)
        elif isinstance(event, PositionsRead):
            account.book.apply_positions(event, now.mono)
            self._printed[account.name] = None
        else:
            account.book.hedge, account.book.multi_assets = event.hedge, event.multi_assets

    def _margin_types(self, event: MarginTypesRead, now: Now) -> None:
        self.accounts[event.account].book.isolated.update(event.isolated)

    def _brackets(self, event: BracketsRead, now: Now) -> None:
        account = self.accounts[event.account]
        account.book.apply_brackets(event.brackets)
        self._resynced[account.name] = None

    def _contracts(self, event: ContractsRead, now: Now) -> None:
        self.markets[event.market].contracts.update(event.contracts)
        for account in self.accounts.values():
            if account.setup.market == event.market:
                self._resynced[account.name] = None

    def _mode_changed(self, event: AccountModeChanged, now: Now) -> None:
        account = self.accounts[event.account]
        account.book.multi_assets = event.multi_assets
        self._resynced[account.name] = None
        self._effects.append(Resync(event.account, "multi-assets mode switched"))

    def _config_touched(self, event: ConfigTouched, now: Now) -> None:
        self._effects.append(Resync(event.account, f"a setting of {event.symbol} changed"))

    def _link(self, event: LinkReport, now: Now) -> None:
        if self.links.report(event, now.mono):
            self.published.health_due.add(event.link.account)

    def _clock(self, event: ClockOffset, now: Now) -> None:
        self.markets[event.market].measured(event.offset_ms, now)

    def _nothing(self, event: Any, now: Now) -> None:
        """Of the links' concern alone."""

    # ---- from the book to pools ----

    def _settle_snapshots(self, now: Now) -> None:
        resynced, self._resynced = self._resynced, {}
        for account in [self.accounts[name] for name in resynced]:
            self._rebuild(account, now)
            if account.known:
                pools = account.pools.values()
                account.moves.settle(pools, account.market.prices, account.book.tables, now)
                self._moving[account.name] = None
                if account.name in self._printed:
                    self._judge_drift(account, now)
        self._printed.clear()

    def _judge_drift(self, account: WatchedAccount, now: Now) -> None:
        """Hold our figures against those that a snapshot has brought."""
        for pool_id, found in account.compare().items():
            pool = account.pools[pool_id]
            rule = account.rule("drift", pool)
            key = IncidentKey(account.name, "drift", pool_id)
            change = self.incidents.observe(key, rule, found.worst, now)
            if change is not None:
                self._pool_change(account, change, rule, None, account.risks.get(pool_id), now)

    def _rebuild(self, account: WatchedAccount, now: Now) -> None:
        for symbol in account.symbols:
            self._holders[account.setup.market, symbol] = {
                key: None for key in self._holders[account.setup.market, symbol] if key[0] != account.name
            }
        before = account.pools.keys()
        account.rebuild(now)
        self._touched[account.name] = None
        for pool_id in before - account.pools.keys():
            for rule in _POOL_RULES:
                self.incidents.forget(IncidentKey(account.name, rule, pool_id))
        self._dirty = {key: None for key in self._dirty if key[0] != account.name or key[1] in account.pools}
        self._dirty.update({(account.name, pool_id): None for pool_id in account.pools})
        for pool in account.pools.values():
            for position in pool.positions:
                self._holders.setdefault((account.setup.market, position.symbol), {})[account.name, pool.id] = None
        self._watch(account.setup.market, now)
        self._effects.extend(publication.gone(account))

    def _watch(self, market: str, now: Now) -> None:
        symbols = frozenset(s for a in self.accounts.values() if a.setup.market == market for s in a.symbols)
        if symbols != self._watched.get(market):
            before = self._watched.get(market, frozenset())
            for symbol in symbols - before:
                self._watched_since[market, symbol] = now.mono
            for symbol in before - symbols:
                self.markets[market].forget(symbol)
            self._watched[market] = symbols
            self._effects.append(Watch(market, symbols))

    # ---- from pools to incidents ----

    def _assess(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        before, risk = account.assess(pool_id)
        self._judge(account, before, risk, now)
        account.moves.complete(risk.pool, account.market.prices, account.book.tables)
        if len(risk.positions) > 1 and not risk.missing:
            rule = account.rule("liquidation_price_moved", risk.pool)
            assert isinstance(rule, LiquidationPriceMovedRule)
            if rule.enabled:
                prices, tables = account.market.prices, account.book.tables
                self._tell(account, account.moves.check_marks(risk, prices, tables, rule, now), now)

    def _judge(self, account: WatchedAccount, before: PoolRisk | None, risk: PoolRisk, now: Now) -> None:
        """Hold a pool against its rules. One with an unknown input is neither better nor worse: it is stale."""
        if risk.margin_ratio is None:
            return
        trusted = account.ages(risk.pool, self.links, now).freshness == "live"
        for name in _LEVEL_RULES:
            rule = account.rule(name, risk.pool)
            value = risk.margin_ratio if name == "margin_ratio" else risk.distance
            at_least = Severity.OK
            if isinstance(rule, MarginRatioRule) and risk.distance is not None:
                warned = any(s.severity is Severity.WARNING and s.fires(value) for s in rule.steps)
                at_least = Severity.CRITICAL if warned and risk.distance < rule.critical_within else Severity.OK
            key = IncidentKey(account.name, name, risk.pool.id)
            change = self.incidents.observe(
                key, rule, value, now, trusted=trusted, at_least=at_least, distance=risk.distance
            )
            if change is not None:
                self._pool_change(account, self._as_forced(account, change, rule, risk, now), rule, before, risk, now)
            elif trusted and key in self._unconfirmed:
                self._retain(account, key, rule, risk, now)

    def _as_forced(self, account: WatchedAccount, change: Change, rule: Rule, risk: PoolRisk, now: Now) -> Change:
        """A pool that is better because the exchange reduced it has not recovered."""
        if change.resolution != "recovered":
            return change
        within_s = FORCED_MEMORY_S + rule.clear_for_s
        if account.forced_kind(account.held_lately(risk.pool, now, within_s), now, within_s) is not None:
            return structs.replace(change, resolution="partly_liquidated")
        return change

    def _retain(self, account: WatchedAccount, key: IncidentKey, rule: Rule, risk: PoolRisk, now: Now) -> None:
        """An incident of an earlier run that still stands: publish its state, tell nobody."""
        change = Change("retained", structs.replace(self.incidents.open[key]), None)
        self._pool_change(account, change, rule, None, risk, now)

    def _pool_change(
        self,
        account: WatchedAccount,
        change: Change,
        rule: Rule,
        before: PoolRisk | None,
        risk: PoolRisk | None,
        now: Now,
    ) -> None:
        pool = None if risk is None else risk.pool
        if pool is not None:
            account.unpublished.add(pool.id)  # its severity is part of what is published
        ages = account.ages(pool, self.links, now)
        self._emit(pool_story(account, change, rule, before, risk, ages, now, self._next_seq(change)), now)

    def _emit(self, story: Story, now: Now) -> None:
        """Tell a story, and keep the incident that it belongs to."""
        change = story.change
        incident = change.incident
        self._unconfirmed.discard(incident.key)
        for one in (incident, self.incidents.open.get(incident.key)):
            if one is not None:
                one.title, one.text, one.symbol, one.side = story.title, story.text, story.symbol, story.side
        self._effects.append(story)
        if change.kind == "resolved":
            self._effects += [IncidentOver(incident.key), Save("incident", "/".join(incident.key), None)]
            self._kept_worst.pop(incident.key, None)
        elif change.kind != "noted":
            self._keep(incident, now)
        self.published.summary_due.add(incident.account)

    def _keep(self, incident: Incident, now: Now) -> None:
        self._kept_worst[incident.key] = incident.worst
        self._effects.append(Save("incident", "/".join(incident.key), saved(incident, now)))

    def _next_seq(self, change: Change) -> int:
        self._seq += change.kind != "retained"
        return self._seq

    # ---- moved liquidation prices ----

    def _tell_moves(self, account: WatchedAccount, now: Now, *, only_from: Severity) -> None:
        if account.known and account.moves.pending:
            prices, tables = account.market.prices, account.book.tables
            telling = account.moves.tell(prices, tables, account.moved_rules(), now, only_from=only_from)
            self._tell(account, telling, now)

    def _tell(self, account: WatchedAccount, telling: Telling | None, now: Now) -> None:
        if telling is None:
            return
        worst = telling.moves[0]
        key = IncidentKey(account.name, "liquidation_price_moved", row_slug(worst.move.key))
        change = self.incidents.note(key, telling.severity, now)
        ages = account.ages(worst.pool, self.links, now)
        self._emit(moved_story(account, change, telling, ages, now, self._next_seq(change)), now)

    def _keep_baselines(self) -> None:
        for name in self._touched:
            rows = self.accounts[name].moves.unkept()
            self._effects.extend(Save("baseline", f"{name}/{pool_id}", row) for pool_id, row in rows)
        self._touched.clear()

    # ---- orders that the exchange sends ----

    def _forced_order(self, account: WatchedAccount, event: Fill, kind: ForcedKind, now: Now) -> None:
        """Tell of a forced order at its first frame, whatever that is, and add up what follows."""
        rule = account.rules.of("forced_order", account.name, account.setup.labels)
        if not rule.enabled:
            return
        key = PositionKey(event.symbol, event.side)
        seen, bankruptcy = account.last_seen(key)
        contract = account.market.contracts.get(event.symbol)
        report = ForcedReport(
            kind=kind,
            key=key,
            is_long=event.quantity < 0 if seen is None else seen.is_long,
            asset=account.book.margin_assets.get(event.symbol) or (contract.margin_asset if contract else None),
            liquidation_price=None if seen is None else seen.liquidation_price,
            bankruptcy_price=bankruptcy,
        )
        first = account.forced_orders.begin(report, now)
        account.forced_orders.filled(key, event, now)
        if first:
            incident = IncidentKey(account.name, "forced_order", row_slug(key))
            change = self.incidents.begin(incident, SEVERITIES[kind], now)
            self._tell_forced(account, change, account.forced_orders.running[key], now)

    def _end_forced(self, account: WatchedAccount, now: Now) -> None:
        """Report the forced orders that are over; one of an earlier run is over once the account is known again."""
        rule = account.rules.of("forced_order", account.name, account.setup.labels)
        assert isinstance(rule, ForcedOrderRule)
        for report in account.forced_orders.over(rule.settle_s, now):
            row = account.book.rows.get(report.key)
            report.left = Decimal(0) if row is None else row.quantity
            self._resolve_forced(account, IncidentKey(account.name, "forced_order", row_slug(report.key)), report, now)
        running = {row_slug(key) for key in account.forced_orders.running}
        for incident in self.incidents:
            if incident.account == account.name and incident.rule == "forced_order" and incident.subject not in running:
                self._resolve_forced(account, incident.key, None, now)

    def _resolve_forced(self, account: WatchedAccount, key: IncidentKey, report: ForcedReport | None, now: Now) -> None:
        still = {row_slug(p.key): p for p in account.book.positions()}
        how: Resolution = "partly_liquidated" if key.subject in still else "liquidated"
        severity = self.incidents.open[key].severity  # each kind has its own, which outlives a restart
        if severity is not SEVERITIES[ForcedKind.LIQUIDATION]:
            how = "adl" if severity is SEVERITIES[ForcedKind.ADL] else "settled"
        change = self.incidents.resolve(key, how, None, now)
        if change is not None:
            self._tell_forced(account, change, report, now)

    def _tell_forced(self, account: WatchedAccount, change: Change, report: ForcedReport | None, now: Now) -> None:
        ages = account.ages(None, self.links, now)
        self._emit(forced_story(account, change, report, ages, now, self._next_seq(change)), now)

    # ---- time ----

    def _tick(self, now: Now) -> None:
        for account in self.accounts.values():
            for risk in account.risks.values():
                self._judge(account, risk, risk, now)
            if account.known:
                self._end_vanished(account, now)
                self._end_forced(account, now)
        for link in list(self.links.all):
            self._judge_link(link, now)
        for incident in self.incidents:
            if incident.rule in _POOL_RULES and incident.worst != self._kept_worst.get(incident.key):
                self._keep(incident, now)
        self._effects.extend(
            publication.due(self.accounts, self.links, self.incidents, self.published, self.setup.rules, now)
        )

    def _end_vanished(self, account: WatchedAccount, now: Now) -> None:
        """Resolve the incidents of pools that are not there any more, once it is clear how they ended."""
        for incident in self.incidents:
            if (
                incident.account != account.name
                or incident.rule not in _POOL_RULES
                or incident.subject in account.pools
            ):
                continue
            sides = [Side.BOTH, *(side for side in Side if side.value == incident.side)]
            keys = frozenset(PositionKey(incident.symbol, side) for side in sides if incident.symbol)
            how = account.ending(incident.subject, keys, now)
            if how is not None:
                change = self.incidents.resolve(incident.key, how, None, now)
                if change is not None:
                    rule = account.rules.of(incident.rule, account.name, account.setup.labels)
                    self._pool_change(account, change, rule, None, None, now)

    def _judge_link(self, link: LinkId, now: Now) -> None:
        """Hold the age of what a link says against the rule, with what it blinds."""
        accounts = self._carried[link]
        first = accounts[0]
        rule = first.stale_rule
        age = self._age(link, rule, now)
        blinded = [(a, pool_id) for a in accounts for pool_id in a.blinded_by(link, rule.stale_after_s, now)]
        in_danger = link != first.setup.rest_link and any(a.is_endangered(pool_id, rule) for a, pool_id in blinded)
        if in_danger and age is not None:
            clear = min([Decimal(str(rule.stale_after_s)) * Decimal("0.8"), *(s.clear for s in rule.steps)])
            at_once = Step(Decimal(str(rule.stale_after_s)), clear, Severity.CRITICAL)
            rule = structs.replace(rule, steps=(at_once,))
        value = None if age is None else Decimal(str(round(age, 3)))
        key = IncidentKey(link.account, "data_stale", link.name)
        alive = self.links.all[link].state in (LinkState.LIVE, LinkState.IDLE)  # a restart alone makes nothing fresh
        change = self.incidents.observe(key, rule, value, now, trusted=alive)
        if change is None and key in self._unconfirmed:
            change = Change("retained", structs.replace(self.incidents.open[key]), value)
        if change is not None:
            pools = tuple(f"{a.name}/{pool_id}" for a, pool_id in blinded)
            blindness = Blindness(link, age or 0.0, self._why_blind(link, accounts), pools)
            ages = first.ages(None, self.links, now)
            self._emit(blind_story(first, change, blindness, ages, now, self._next_seq(change)), now)

    def _why_blind(self, link: LinkId, accounts: list[WatchedAccount]) -> str:
        unsupported = next((a.unsupported.why for a in accounts if a.unsupported), None)
        unread = accounts[0].unread.values() if link == accounts[0].setup.rest_link else ()
        unknown = ", ".join(dict.fromkeys(what for missing in unread for what in missing))
        return unsupported or (f"unknown: {unknown}" if unknown else self.links.all[link].note)

    def _age(self, link: LinkId, rule: DataStaleRule, now: Now) -> float | None:
        """Seconds since what this link says was true; None: it has nothing to say."""
        age = self.links.age(link, now.mono)
        if link.account != INSTANCE:
            account = self.accounts[link.account]
            if link == account.setup.rest_link:
                return max(0.0, age - rule.rest_patience_s, account.unread_for(now))
            return age if account.unsupported is None else max(age, now.mono - account.unsupported.since)
        symbols = self._watched.get(link.name, frozenset())
        if not symbols:
            return None if self.links.all[link].state is not LinkState.CONNECTING else age
        market = self.markets[link.name]
        ages = {s: market.stream_age(s, now.mono) for s in symbols}
        return max(now.mono - self._watched_since[link.name, s] if a is None else a for s, a in ages.items())


_APPLY: dict[type, Callable[[Core, Any, Now], None]] = {
    AccountChanged: Core._account_changed,
    Fill: Core._fill,
    MarginCall: Core._margin_call,
    BalancesRead: Core._snapshot,
    PositionsRead: Core._snapshot,
    AccountModeRead: Core._snapshot,
    MarginTypesRead: Core._margin_types,
    BracketsRead: Core._brackets,
    ContractsRead: Core._contracts,
    AccountModeChanged: Core._mode_changed,
    ConfigTouched: Core._config_touched,
    LinkReport: Core._link,
    ClockOffset: Core._clock,
    StreamExpired: Core._nothing,
    StreamControl: Core._nothing,
}
"""What each event does to the book; marks and ticks, which are many, have their place in `step`."""
