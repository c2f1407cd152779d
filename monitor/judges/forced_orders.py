"""The rule `forced_order`: orders that the exchange sends in our name, told at once and reported when over."""

from __future__ import annotations

from decimal import Decimal

from msgspec import structs

from monitor.accounts import WatchedAccount
from monitor.book import margin_asset
from monitor.digits import plain
from monitor.effects import Fact, Save
from monitor.events import Fill, ForcedKind, Now, OrdersUnread, PositionKey, Side, StrategyEnded
from monitor.forced import SEVERITIES, UNREAD, Acted, ForcedReport
from monitor.incident import Change, IncidentKey, Resolution
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.risk.pools import row_slug
from monitor.rules import ForcedOrderRule, HedgeBrokenRule, Severity
from monitor.telling import fact_story, forced_story

RULE = "forced_order"


class ForcedOrdersJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._incidents = reporter.incidents

    def happened(self, account: WatchedAccount, event: Fill, kind: ForcedKind, now: Now) -> None:
        """Tell of a forced order at its first frame, whatever that is, and add up what follows."""
        rule = account.rule_of(RULE, event.symbol)
        hedge_rule = account.rule_of("hedge_broken", event.symbol)
        if not (rule.enabled or hedge_rule.enabled):
            return
        key = PositionKey(event.symbol, event.side)
        before = account.forced_orders.gives_way(event)
        if before is not None:
            self._over(account, before, now)
        seen, bankruptcy = account.last_seen(key)
        fund = account.listings.insurance_fund.get(event.symbol, {})
        asset = margin_asset(account.book, account.listings, event.symbol)
        report = ForcedReport(
            kind=kind,
            key=key,
            is_long=_is_long(account, event) if seen is None else seen.is_long,
            asset=asset,
            liquidation_price=None if seen is None else seen.liquidation_price,
            bankruptcy_price=bankruptcy,
            insurance_fund=None if asset is None else fund.get(asset),
            hedge=_hedge(account, key, event.at_ms, now) if before is None else before.hedge,
        )
        first = account.forced_orders.begin(report, now)
        account.forced_orders.filled(key, event, now)
        if first:
            self._keep(account, report, report.hedge, now)
        if first and rule.enabled:
            name = IncidentKey(account.name, RULE, row_slug(key))
            earlier = self._incidents.open.get(name)
            if earlier is not None and earlier.severity is not SEVERITIES[kind]:  # an earlier run told of another kind
                self._resolve(account, name, None, now)
            change = self._incidents.begin(name, SEVERITIES[kind], now)
            self._tell(account, change, account.forced_orders.running[key], now)

    def strategy_ended(self, account: WatchedAccount, event: StrategyEnded, now: Now) -> None:
        """Tell of a trading bot that was liquidated, unless the liquidation itself is being told already."""
        rule = account.rule_of(RULE, event.symbol)
        running = any(key.symbol == event.symbol for key in account.forced_orders.running)
        if rule.enabled and event.liquidated and not running:
            key = IncidentKey(account.name, RULE, slug(event.symbol))
            change = self._incidents.note(key, Severity.LIQUIDATION, now)
            facts: dict[str, Fact] = {"strategy_id": event.strategy_id}
            ages = self._reporter.ages(account, None, now)
            story = fact_story(account, change, None, event.symbol, facts, ages, now)
            self._reporter.emit(story, now)

    def unread(self, account: WatchedAccount, event: OrdersUnread, now: Now) -> None:
        """Keep what could not be asked for: once the book shows what it did, nothing else says that it is missing."""
        account.forced_orders.unread_at = None if event.row is None else now.mono
        if account.forced_orders.unread != event.row:
            account.forced_orders.unread = event.row
            self._reporter.effects.append(Save("forced", f"{account.name}/{UNREAD}", event.row))

    def end(self, account: WatchedAccount, now: Now) -> None:
        """Report the forced orders that are over; one of an earlier run is over once the account is known again."""

        def settle_s(key: PositionKey) -> float:
            rule = account.rule_of(RULE, key.symbol)
            assert isinstance(rule, ForcedOrderRule)
            return rule.settle_s

        for name in account.forced_orders.outdated(now):
            self._reporter.effects.append(Save("forced", f"{account.name}/{name}", None))
        rows = account.book.rows
        heard_until = account.heard_until(self._reporter.links, now)
        for report in account.forced_orders.over(settle_s, heard_until, account.book.shown_at, rows):
            row = rows.get(report.key)
            report.left = Decimal(0) if row is None else row.quantity
            self._over(account, report, now)
            self._judge_hedge(account, report.key.symbol, report.hedge, now)
            self._keep(account, report, None, now)
        account.forced_orders.forget()
        for acted in account.forced_orders.take_left(settle_s, now):
            self._judge_hedge(account, acted.key.symbol, acted.hedge, now)
            self._save(account, structs.replace(acted, hedge=None))
        running = {row_slug(key): report for key, report in account.forced_orders.running.items()}
        for incident in self._reporter.of(account.name, RULE):
            if incident.subject not in running:
                self._resolve(account, incident.key, None, now)
            elif self._reporter.is_unconfirmed(incident.key):
                self._tell(account, self._reporter.retained(incident.key), running[incident.subject], now)

    def _over(self, account: WatchedAccount, report: ForcedReport, now: Now) -> None:
        """Tell what an order has done, and remember that this has been told."""
        self._resolve(account, IncidentKey(account.name, RULE, row_slug(report.key)), report, now)
        kept = account.forced_orders.done(report, now)
        self._reporter.effects += (Save("forced", f"{account.name}/{name}", one) for name, one in kept)

    def forget(self, account: WatchedAccount) -> None:
        """An account is watched no more."""
        names = account.forced_orders.names
        self._reporter.effects += (Save("forced", f"{account.name}/{name}", None) for name in names)

    def _keep(
        self, account: WatchedAccount, report: ForcedReport, hedge: tuple[Decimal, Decimal] | None, now: Now
    ) -> None:
        pool = account.pool_lately(report.key)
        self._save(account, Acted(report.kind, report.key, now.wall_ms, pool, hedge))

    def _save(self, account: WatchedAccount, acted: Acted) -> None:
        name, row = account.forced_orders.acted(acted)
        self._reporter.effects.append(Save("forced", f"{account.name}/{name}", row))

    def _judge_hedge(
        self, account: WatchedAccount, symbol: str, hedge: tuple[Decimal, Decimal] | None, now: Now
    ) -> None:
        """Tell of a hedge of which a forced order has left one leg alone, or much less than there was."""
        rule = account.rule_of("hedge_broken", symbol)
        assert isinstance(rule, HedgeBrokenRule)
        if hedge is None or not rule.enabled:
            return
        was_hedged = min(abs(quantity) for quantity in hedge)
        legs = [account.book.quantity(PositionKey(symbol, side)) for side in (Side.LONG, Side.SHORT)]
        hedged = min(abs(quantity) for quantity in legs)
        alone = not hedged and any(legs)
        if alone or (hedged and was_hedged - hedged >= rule.changed_by * was_hedged):
            key = IncidentKey(account.name, "hedge_broken", slug(symbol))
            change = self._incidents.note(key, Severity.CRITICAL if alone else Severity.WARNING, now)
            facts: dict[str, Fact] = {
                "long_before": plain(hedge[0]),
                "short_before": plain(hedge[1]),
                "long_after": plain(legs[0]),
                "short_after": plain(legs[1]),
            }
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(fact_story(account, change, None, symbol, facts, ages, now), now)

    def _resolve(self, account: WatchedAccount, key: IncidentKey, report: ForcedReport | None, now: Now) -> None:
        if key not in self._incidents.open:
            return  # the rule was switched off when it began; it was followed for the hedge alone
        runs = any(row_slug(one) == key.subject for one in account.forced_orders.running)
        is_followed = runs or (report is not None and report.left is None)  # another order had something left to act on
        is_held = any(row_slug(position.key) == key.subject for position in account.book.positions())
        how: Resolution = "partly_liquidated" if is_held or is_followed else "liquidated"
        severity = self._incidents.open[key].severity  # each kind has its own, which outlives a restart
        if severity is not SEVERITIES[ForcedKind.LIQUIDATION]:
            how = "adl" if severity is SEVERITIES[ForcedKind.ADL] else "settled"
        change = self._incidents.resolve(key, how, None, now)
        if change is not None:
            self._tell(account, change, report, now)

    def _tell(self, account: WatchedAccount, change: Change, report: ForcedReport | None, now: Now) -> None:
        ages = self._reporter.ages(account, None, now)
        self._reporter.emit(forced_story(account, change, report, ages, now), now)


def _hedge(account: WatchedAccount, key: PositionKey, acted_ms: int, now: Now) -> tuple[Decimal, Decimal] | None:
    """The legs before the order; where an earlier run has seen it begin, as they were then."""
    left = account.forced_orders.left.pop(key, None)
    return account.hedge_lately(key.symbol, acted_ms, now) if left is None else left.hedge


def _is_long(account: WatchedAccount, event: Fill) -> bool | None:
    """Which way a position that we have not valued yet was held, before its forced order; None: it cannot be told."""
    if event.side is not Side.BOTH:
        return event.side is Side.LONG
    held = account.book.quantity(PositionKey(event.symbol, event.side))
    if held:
        return held > 0
    return event.quantity < 0 if event.quantity else None
