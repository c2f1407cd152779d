"""What the exchange makes of the contracts and assets that we hold: status, delivery, ADL queue, debts, brackets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from operator import is_

from msgspec import Struct, structs

from monitor import freshness
from monitor.accounts import WatchedAccount
from monitor.effects import Fact, Figures
from monitor.events import ForcedKind, Now, PositionKey, Side
from monitor.incident import Change, Incident, IncidentKey, Resolution
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.risk.assessment import assess
from monitor.risk.margin import ZERO, BracketTable
from monitor.risk.pool import Pool
from monitor.risk.pools import row_slug
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms
from monitor.rules import Rule, Severity
from monitor.telling import fact_story, figures

RULES = ("contract_status", "adl_quantile", "auto_exchange", "bracket_changed")
_MINUTE_MS = 60_000


class _Uneventful(Struct, frozen=True):
    """What nothing came of: while all of it is what it was, and before the time, nothing will.

    Args:
        listed: What is judged: pools, which are derived anew with whatever changes the account's book, and what the
            exchange says of its contracts and of places in the ADL queue.
        until_ms: When the next delivery is so near that a step may fire, by the exchange's clock.
    """

    listed: tuple[object, ...]
    until_ms: float

    def holds(self, account: WatchedAccount, now: Now) -> bool:
        return account.market.exchange_ms(now) < self.until_ms and all(map(is_, self.listed, _listed(account)))


def _listed(account: WatchedAccount) -> tuple[object, ...]:
    """What may make an event of nothing; how high a symbol's ADL risk is may only make one louder."""
    return account.pools, account.book.adl_quantiles, account.listings.contracts, account.rules, account.setup


class ListingsJudge:
    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._incidents = reporter.incidents
        self._uneventful: dict[str, _Uneventful] = {}

    def judge(self, account: WatchedAccount, now: Now) -> bool:
        """Hold every position and debt against its rules; asked once a tick. False: nothing can have come of any."""
        is_quiet = not self._reporter.of(account.name, *RULES)
        known = self._uneventful.get(account.name)
        if is_quiet and known is not None and known.holds(account, now):
            return False
        held = self._judge(account, now)
        if is_quiet and all(map(self._incidents.is_idle, held)) and not self._goes_by_marks(account):
            self._uneventful[account.name] = _Uneventful(_listed(account), self._due_ms(account))
        else:
            self._uneventful.pop(account.name, None)
        return True

    def forget(self, account: str) -> None:
        """An account is watched no more."""
        self._uneventful.pop(account, None)

    def _goes_by_marks(self, account: WatchedAccount) -> bool:
        """Whether anything here hangs on marks or rates: a debt does, and a rule that is chosen by the notional."""
        matches = (match for name in RULES for match in account.rules.matches.get(name, ()))
        return any(pool.assets for pool in account.pools.values()) or any(m.min_notional is not None for m in matches)

    def _due_ms(self, account: WatchedAccount) -> float:
        """When a delivery comes so near that a step may fire, or a little before (exchange's clock); inf: never."""
        due = [math.inf]
        for pool in account.pools.values():
            for symbol in dict.fromkeys(p.symbol for p in pool.positions):
                contract = account.listings.contracts.get(symbol)
                if contract is not None and contract.delivery_ms is not None:
                    steps = self._rule(account, pool, "contract_status", symbol).steps
                    first_s = float(max((step.at for step in steps), default=ZERO))
                    due.append(contract.delivery_ms - first_s * 1000 - _MINUTE_MS)  # what is left counts in minutes
        return min(due)

    def _judge(self, account: WatchedAccount, now: Now) -> set[IncidentKey]:
        """Judge all of it. Gives what there is to be judged."""
        held: set[IncidentKey] = set()
        faults = account.book.brackets.faults
        for pool_id, last in account.last_risks.items():
            # only those with debts, which never rest, are asked for figures
            risk = account.risk(pool_id) if last.pool.assets else last
            trusted = freshness.is_live(account, risk.pool, self._reporter.links, now)
            for symbol in dict.fromkeys(p.symbol for p in risk.pool.positions):
                held.add(self._status(account, risk.pool, symbol, trusted, now))
                held.add(self._brackets(account, risk.pool, symbol, faults.get(symbol), now))
            for p in risk.pool.positions:
                held.add(self._quantile(account, risk.pool, p.key, trusted, now))
            held |= {self._debt(account, risk, wallet.asset, trusted, now) for wallet in risk.pool.assets}
        for incident in self._reporter.of(account.name, *RULES):
            if incident.key not in held:
                change = self._incidents.resolve(incident.key, self._ending(account, incident, now), None, now)
                self._tell(account, None, change, incident.symbol, {}, now)
        return held

    def _ending(self, account: WatchedAccount, incident: Incident, now: Now) -> Resolution:
        """Why something is not held any more: it was delivered, the account's mode was switched, or it was closed."""
        if incident.rule == "auto_exchange" and account.pools:
            # An asset of which nothing is left or owed is no collateral any more: the debt was paid, or converted.
            return "recovered" if any(pool.assets for pool in account.pools.values()) else "pool_replaced"
        keys = frozenset(PositionKey(incident.symbol or "", side) for side in Side)
        return "settled" if account.gone.forced_kind(keys, now) is ForcedKind.SETTLEMENT else "position_closed"

    def brackets_changed(self, account: WatchedAccount, before: Mapping[str, BracketTable], now: Now) -> None:
        """Tell what new brackets do to our positions: before and after, at the same marks.

        Args:
            before: All tables as they were.
        """
        tables = account.book.tables
        changed = {s for s in account.symbols if s in before and s in tables and before[s] != tables[s]}
        changed = {s for s in changed if account.rule_of("bracket_changed", s).enabled}
        for pool in account.pools.values() if changed else ():
            then = assess(pool, Terms(account.market.prices, before, account.market.rates))
            risk = assess(pool, account.terms)
            if then.missing or risk.missing:
                continue
            for symbol in sorted(changed & {p.symbol for p in pool.positions}):
                worse = (risk.maintenance_margin or ZERO) > (then.maintenance_margin or ZERO)
                key = IncidentKey(account.name, "bracket_changed", slug(symbol))
                change = self._incidents.note(key, Severity.WARNING if worse else Severity.INFO, now)
                facts: dict[str, Fact] = {
                    "maintenance_margin_before": then.maintenance_margin,
                    "maintenance_margin_after": risk.maintenance_margin,
                }
                self._tell(account, pool, change, symbol, facts, now, figures(then), figures(risk))

    def _brackets(self, account: WatchedAccount, pool: Pool, symbol: str, fault: str | None, now: Now) -> IncidentKey:
        """Brackets that make no sense are a warning for as long as we hold the symbol."""
        key = IncidentKey(account.name, "bracket_changed", slug(symbol))
        if fault is None and self._incidents.is_idle(key):
            return key  # there is nothing to end
        change: Change | None = None
        if not account.rule_of(key.rule, symbol).enabled:
            change = self._incidents.resolve(key, "rule_changed", None, now)
        elif fault is None:
            if symbol in account.book.tables:  # else they have not been read yet, and nothing is known of them
                change = self._incidents.resolve(key, "recovered", None, now)
        else:
            change = self._reporter.warned(key, now)
        self._tell(account, pool, change, symbol, {"reason": fault}, now)
        return key

    def _status(self, account: WatchedAccount, pool: Pool, symbol: str, trusted: bool, now: Now) -> IncidentKey:
        key = IncidentKey(account.name, "contract_status", slug(symbol))
        contract = account.listings.contracts.get(symbol)
        if contract is not None:
            left = None if contract.delivery_ms is None else contract.delivery_ms - account.market.exchange_ms(now)
            seconds = None if left is None else max(ZERO, Decimal(left // _MINUTE_MS * 60))
            if contract.status not in ("TRADING", ""):
                seconds = ZERO
            facts: dict[str, Fact] = {"status": contract.status, "delivery_at": contract.delivery_ms}
            self._observe(account, pool, key, seconds, symbol, facts, trusted, now)
        return key

    def _quantile(
        self, account: WatchedAccount, pool: Pool, position: PositionKey, trusted: bool, now: Now
    ) -> IncidentKey:
        key = IncidentKey(account.name, "adl_quantile", row_slug(position))
        quantile = account.book.adl_quantile(position)
        if quantile is not None:
            risk = account.listings.adl_risks.get(position.symbol)
            at_least = Severity.WARNING if risk == "high" else Severity.OK
            facts: dict[str, Fact] = {"quantile": quantile, "adl_risk": risk}
            self._observe(account, pool, key, Decimal(quantile), position.symbol, facts, trusted, now, at_least)
        return key

    def _debt(self, account: WatchedAccount, risk: PoolRisk, asset: str, trusted: bool, now: Now) -> IncidentKey:
        """A debt is converted once it is past the asset's threshold; the lower of wallet and equity counts."""
        key = IncidentKey(account.name, "auto_exchange", slug(asset))
        terms = account.listings.assets.get(asset)
        purse = risk.purses.get(asset)  # None while an input of the pool is unknown
        if purse is not None and terms is not None and terms.auto_exchange is not None:
            debt = max(ZERO, -min(purse.wallet_balance, purse.equity))
            part = debt / terms.auto_exchange if terms.auto_exchange else Decimal(1 if debt else 0)
            facts: dict[str, Fact] = {"asset": asset, "debt": debt, "threshold": terms.auto_exchange}
            self._observe(account, risk.pool, key, part, None, facts, trusted, now)
        return key

    def _observe(
        self,
        account: WatchedAccount,
        pool: Pool,
        key: IncidentKey,
        value: Decimal | None,
        symbol: str | None,
        facts: dict[str, Fact],
        trusted: bool,
        now: Now,
        at_least: Severity = Severity.OK,
    ) -> None:
        rule = self._rule(account, pool, key.rule, symbol)
        if self._incidents.is_idle(key) and not any(step.fires(value) for step in rule.steps):
            return  # nothing is open, nor begins
        change = self._incidents.observe(key, rule, value, now, trusted=trusted, at_least=at_least)
        change = self._reporter.or_retained(change, key, value)
        self._tell(account, pool, change, symbol, facts, now)

    def _rule(self, account: WatchedAccount, pool: Pool, name: str, symbol: str | None) -> Rule:
        """A rule as it holds for one symbol of a pool, or for all of it."""
        if symbol is None or not account.rules.matches.get(name):
            return account.rule(name, pool)
        own = tuple(p for p in pool.positions if p.symbol == symbol)
        return account.rule(name, structs.replace(pool, id=slug(symbol), positions=own))

    def _tell(
        self,
        account: WatchedAccount,
        pool: Pool | None,
        change: Change | None,
        symbol: str | None,
        facts: dict[str, Fact],
        now: Now,
        before: Figures | None = None,
        after: Figures | None = None,
    ) -> None:
        if change is not None:
            ages = self._reporter.ages(account, pool, now)
            story = fact_story(account, change, pool, symbol, facts, ages, now, before, after)
            self._reporter.emit(story, now)
