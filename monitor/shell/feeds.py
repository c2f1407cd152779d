"""All links that a config asks for: a market feed per market, an account feed per account, and the REST they share."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.config import AccountConfig, Config
from monitor.config_values import Secret
from monitor.pace import Pace
from monitor.shell.account_feed import AccountFeed
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from monitor.shell.rest import Budget, Rest
from monitor.shell.tap import Tap


class Feeds:
    """The feeds of a config, by market and by account.

    Args:
        found: The secrets that the config names.
        unseen_since_ms: Account → since when forced orders may have gone unseen (Unix milliseconds).
    """

    def __init__(
        self,
        config: Config,
        found: Mapping[Secret, str],
        inbox: Inbox,
        tap: Tap | None,
        unseen_since_ms: Mapping[str, int] | None = None,
    ) -> None:
        self.markets: dict[str, MarketFeed] = {}
        self.accounts: dict[str, AccountFeed] = {}
        self._timeout_s = config.links.rest_timeout_s
        self._rests: list[Rest] = []
        links = config.links
        budgets: dict[str, Budget] = {}
        paces: dict[str, Pace] = {}
        for account in config.accounts:
            # The exchange counts what one address asks of both its futures markets together.
            host = account.hosts.rest_url if account.environment == "custom" else account.environment
            budget = budgets.setdefault(host, Budget(links.weight_per_minute))
            pace = paces.setdefault(host, Pace(links.reconcile_s, links.weight_per_minute / 2))
            if account.market not in self.markets:
                rest = self._rest(account, budget)
                self.markets[account.market] = MarketFeed(account.market, account, rest, inbox, links, tap)
            rest = self._rest(account, budget, found[account.api_key], found[account.secret])
            since_ms = (unseen_since_ms or {}).get(account.name)
            self.accounts[account.name] = AccountFeed(account, rest, inbox, links, since_ms, tap, pace)

    @property
    def all(self) -> tuple[MarketFeed | AccountFeed, ...]:
        return (*self.markets.values(), *self.accounts.values())

    def stop(self) -> None:
        """Begin no further session; said before their tasks are cancelled."""
        for feed in self.all:
            feed.stop()

    async def close(self) -> None:
        """Close what they ask over."""
        for rest in self._rests:
            await rest.close()

    def _rest(self, account: AccountConfig, budget: Budget, key: str = "", secret: str = "") -> Rest:
        rest = Rest(account.hosts, budget, self._timeout_s, key, secret)
        self._rests.append(rest)
        return rest
