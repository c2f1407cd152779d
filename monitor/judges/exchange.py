"""The rules about what the exchange allows and how it fares: what each key may do, and maintenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from monitor.accounts import WatchedAccount, on_market
from monitor.effects import INSTANCE, Fact
from monitor.events import ExchangeStatusRead, KeyPermissionsRead, Now
from monitor.incident import Change, IncidentKey
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.telling import fact_story, instance_story

_READS, _TRADES, _MOVES_MONEY = Decimal(0), Decimal(1), Decimal(2)


class ExchangeJudge:
    """Holds what was last read against its rules; what has not been read is unknown, which is neither good nor bad."""

    def __init__(self, reporter: Reporter, accounts: Mapping[str, WatchedAccount]) -> None:
        self._reporter = reporter
        self._incidents = reporter.incidents
        self._accounts = accounts
        self._permissions: dict[str, KeyPermissionsRead] = {}
        self._troubles: dict[str, str] = {}

    def permissions(self, account: WatchedAccount, event: KeyPermissionsRead, now: Now) -> None:
        """A key that may do more than read is a danger of its own: whoever finds it can use it."""
        self._permissions[account.name] = event
        self._judge_key(account, event, now)

    def forget(self, account: str, markets: Iterable[str]) -> None:
        """An account is watched no more, and with it these markets."""
        self._permissions.pop(account, None)
        for market in markets:
            self._troubles.pop(market, None)

    def status(self, event: ExchangeStatusRead, now: Now) -> None:
        """While the exchange is in maintenance, nothing can be done about a position."""
        key = _status_key(event.market)
        if event.trouble is not None:
            self._troubles[event.market] = event.trouble
            self._judge_status(event.market, now)
            return
        self._troubles.pop(event.market, None)
        self._tell_status(event.market, self._incidents.resolve(key, "recovered", None, now), now)

    def judge(self, now: Now) -> None:
        """Repeat what is due, and tell what a silence has kept back; asked once a tick, since both are read seldom."""
        for name, event in self._permissions.items():
            if event.trades or event.moves_money or _permissions_key(name) in self._incidents.open:
                self._judge_key(self._accounts[name], event, now)
        for market in self._troubles:
            self._judge_status(market, now)

    def _judge_key(self, account: WatchedAccount, event: KeyPermissionsRead, now: Now) -> None:
        level = _MOVES_MONEY if event.moves_money else _TRADES if event.trades else _READS
        if account.setup.accept_trading_key:
            level = _READS
        key = _permissions_key(account.name)
        rule = account.rule_of(key.rule)
        change = self._incidents.observe(key, rule, level, now)
        change = self._reporter.or_retained(change, key, level)
        if change is not None:
            facts: dict[str, Fact] = {
                "may_trade": ", ".join(event.trades) or None,
                "may_move_money": ", ".join(event.moves_money) or None,
            }
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(fact_story(account, change, None, None, facts, ages, now), now)

    def _judge_status(self, market: str, now: Now) -> None:
        key = _status_key(market)
        change: Change | None = None
        if not next(on_market(self._accounts, market)).rules.of(key.rule).enabled:
            change = self._incidents.resolve(key, "rule_changed", None, now)
        else:
            change = self._reporter.warned(key, now)
        self._tell_status(market, change, now)

    def _tell_status(self, market: str, change: Change | None, now: Now) -> None:
        if change is not None:
            account = next(on_market(self._accounts, market))
            facts: dict[str, Fact] = {"reason": self._troubles.get(market)}
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(instance_story(account, change, facts, ages, now), now)


def _permissions_key(account: str) -> IncidentKey:
    return IncidentKey(account, "key_permissions", "key")


def _status_key(market: str) -> IncidentKey:
    return IncidentKey(INSTANCE, "exchange_status", slug(market))
