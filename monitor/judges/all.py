"""Every judge of one monitor."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.accounts import WatchedAccount
from monitor.events import Now
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
from monitor.market import MarketBook
from monitor.reporter import Reporter


class Judges:
    def __init__(
        self,
        reporter: Reporter,
        accounts: Mapping[str, WatchedAccount],
        markets: Mapping[str, MarketBook],
        daily: Daily | None,
        group: Group,
        now: Now,
    ) -> None:
        self.levels = LevelsJudge(reporter)
        self.moved = MovedJudge(reporter)
        self.forced_orders = ForcedOrdersJudge(reporter)
        self.notices = NoticesJudge(reporter)
        self.funding = FundingJudge(reporter)
        self.listings = ListingsJudge(reporter)
        self.instance = InstanceJudge(reporter, accounts)
        self.exchange = ExchangeJudge(reporter, accounts)
        self.groups = GroupsJudge(reporter, accounts, markets, group)
        self.staleness = StalenessJudge(reporter, accounts, markets, now)
        self.daily = DailyJudge(reporter, daily, now)
