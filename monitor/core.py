"""The whole monitor as one function: events in, effects out.

`Core.step` applies what happened to the book, computes the pools that it could have changed and nothing else, has the
judges hold them against the rules, and says what is to be told, published, kept and asked for. It never awaits, logs,
sleeps or asks the time: time passing is an event. The same events in the same order give the same effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import localcontext

from msgspec import Struct, structs

from monitor import publication
from monitor.accounts import Row, WatchedAccount
from monitor.attention import Attention, Slice
from monitor.effects import INSTANCE, AccountGone, AccountSetup, Effect, Save
from monitor.events import Event, LinkId, Now, Tick
from monitor.incident import Incident, gravest
from monitor.intake import MARKS, Intake
from monitor.judges.all import Judges
from monitor.judges.daily import Daily
from monitor.judges.groups import Group
from monitor.links import Links
from monitor.market import MarketBook
from monitor.names import slug
from monitor.reporter import Reporter
from monitor.risk import EXACT
from monitor.risk.pool import Pool
from monitor.risk.quiet import Limits
from monitor.rules import RuleBook, Severity
from monitor.unseen import Unseen, both, restart, restored

_SLICE = 160
"""How much of what marks have moved is looked at in one step, and how much of a tick is done; see `Slice`."""
_MARKS_PART = 4
"""A step that brings marks looks at a quarter of that: in a storm the first alerts go out before more is looked at."""
_TICK_PART = 8
"""Of a tick an eighth is done while pools wait to be looked at: something may have to be told of them …"""
_TICK_PATIENCE_S = 2.0
"""… for so long; then time has been kept waiting, too."""


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
        grown: `<account>/<pool>` → row of the positions that are new or larger since.
        silences: Id → row.
        forced: `<account>/<symbol>/<order id>`, or a side instead of that, or `<account>/unread` → row.
        daily: Account → row of the dates whose summary has been told.
        last_named_ms: The latest time that an incident has been named after.
        groups: `_instance/group/<rule>` → row of a group that has not been told yet.
        places: Account → where it traded. One that is not named trades where it did.
    """

    incidents: tuple[bytes, ...] = ()
    baselines: dict[str, bytes] = {}
    grown: dict[str, bytes] = {}
    silences: dict[str, bytes] = {}
    forced: dict[str, bytes] = {}
    daily: dict[str, bytes] = {}
    last_named_ms: int = 0
    groups: dict[str, bytes] = {}
    places: dict[str, bytes] = {}


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
        self._judges = Judges(self.reporter, self.accounts, self.markets, setup.daily, setup.group, now)
        self.reporter.group_of = self._judges.groups.joined
        self._attention = Attention(self.accounts, self.markets, self.links, self._quiet, screened=screened)
        self._slice = _SLICE
        self._now = now
        self._ticking: Iterator[int] = iter(())
        self._tick_began = now.mono
        self._tick_excess = 0
        """So much more of a tick has been done in one step than it should, which the next makes up for."""
        self.is_ticking = False
        """Whether what the last tick has begun is not through yet."""
        self._intake = Intake(self.accounts, self.markets, self.reporter, self._judges, self._attention)
        self._restore(kept or Kept(), now)

    def step(self, events: Sequence[Event], now: Now) -> list[Effect]:
        """Everything that follows from these events, in order.

        Args:
            events: What has happened since the last step, in order of arrival.
            now: Monotonic seconds and wall-clock milliseconds, read by the caller.
        """
        self._now = now
        is_idle = not (events or self.is_undecided)
        marks = [event for event in events if isinstance(event, MARKS)]
        is_marks_alone = len(marks) == len(events)
        if is_marks_alone:  # they are only noted, which needs no exact arithmetic
            for mark in marks:
                self._intake.mark(mark, now)
        else:
            with localcontext(EXACT):
                self._intake.take(events, now)
                if not self.is_ticking and any(isinstance(event, Tick) for event in events):
                    self.is_ticking, self._ticking, self._tick_began = True, self._tick(), now.mono
        at_most = max(1, self._slice // _MARKS_PART) if marks else self._slice
        self._attention.renew(now, at_most)
        if not is_marks_alone or self._intake.moving or self.is_undecided:
            with localcontext(EXACT):  # of most marks nothing follows
                self._follow(now, at_most)
        if is_idle:  # what another step says does not wait for that
            self._attention.find_zones()
        for market in self.markets.values():
            market.end_step()
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _follow(self, now: Now, at_most: int) -> None:
        """Do what follows from the events that have been taken, and from what earlier steps have left."""
        self._look_at_pools(now, at_most)
        self._intake.judged()
        self._tell_moved(now)
        if self.is_ticking:
            self._go_on_ticking()

    @property
    def is_undecided(self) -> bool:
        """Whether there is more to be told, with no event to wait for."""
        return self.is_ticking or self._attention.has_more

    @property
    def is_behind(self) -> bool:
        """Whether there is that, or zones to be found, for which nobody waits yet."""
        return self.is_ticking or self._attention.is_behind

    # ---- from pools to incidents ----

    def _look_at_pools(self, now: Now, at_most: int) -> None:
        """Judge the pools that have changed, of many as much as one step may."""
        part = Slice(at_most, self.reporter.effects)
        for account, pool_id in self._attention.due(part):
            self._assess(account, pool_id, now)
            self._intake.touched[account.name] = None
            part.done += 1 + len(account.pools[pool_id].positions)

    def _assess(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        before, risk = account.assess(pool_id)
        self._judges.levels.judge(account, before, risk, now)
        account.moves.complete(risk.pool, account.terms)
        self._judges.moved.check_marks(account, risk, now)
        if not self._judges.levels.is_at_worst(account, risk):
            self._attention.let_rest(account, pool_id, now)

    def _judge_again(self, account: WatchedAccount, pool_id: str, now: Now) -> None:
        """Judge a pool that has not changed."""
        risk = account.risk(pool_id)
        self._judges.levels.judge(account, lambda: risk, risk, now)
        self._attention.let_rest(account, pool_id, now)

    def _quiet(self, account: WatchedAccount, pool: Pool, now: Now) -> Limits | None:
        """Within which figures of a pool no judge would tell anything; None: it must be looked at each time."""
        limits = None if account.name in self._intake.moving else self._judges.levels.quiet(account, pool)
        return None if limits is None else self._judges.moved.quiet(account, pool, limits, now)

    def _tell_moved(self, now: Now) -> None:
        """Tell what account events have done to prices, where it is due, or cannot wait; and keep what is new of it."""
        for account in [self.accounts[name] for name in self._intake.moving]:
            is_due = account.moves.is_due(now)
            if not is_due and account.name not in self._intake.touched:
                continue  # nothing has changed that its prices follow from
            only_from = Severity.INFO if is_due else Severity.WARNING
            self._judges.moved.tell(account, now, only_from=only_from)
            self._intake.touched[account.name] = None
            if not account.moves.pending:
                del self._intake.moving[account.name]
        for name in self._intake.touched:
            self._judges.moved.keep(self.accounts[name])
        self._intake.touched.clear()

    # ---- what time brings ----

    def _tick(self) -> Iterator[int]:
        """What time brings: everything is judged once more, and published. Stops after each part of the work to say how
        much it was, since of many accounts it is too much for one step."""
        for account in self._all():
            yield self._judge(account, self._now)
        for link in self._judges.staleness.links:
            self._judges.staleness.judge(link, self._now)
            yield 0 if link.account == INSTANCE else 1
        now = self._now
        self._judges.instance.judge(now)
        self._judges.exchange.judge(now)
        self.reporter.end_silences(now)
        self.reporter.keep_worst(now)
        self._judges.daily.look(now)
        self._judges.groups.judge(now)
        for account in self._all():
            self._judges.daily.judge(account, self._now)
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
            if self._judges.funding.judge(account, last.pool, now):
                looked_at += 2 * whole  # as it is, and as it would be
        if account.known:
            if self._judges.listings.judge(account, now):
                looked_at += sum(len(pool.positions) for pool in account.pools.values())
            if not self._attention.waits_for(account):  # a pool that goes on with the incident of one that vanished
                self._judges.levels.end_vanished(account, now)
            self._judges.forced_orders.end(account, now)
        return looked_at

    def _go_on_ticking(self) -> None:
        makes_way = self._attention.has_more and self._now.mono < self._tick_began + _TICK_PATIENCE_S
        size = max(1, self._slice // _TICK_PART) if makes_way else self._slice
        part = Slice(size, self.reporter.effects)
        part.done, self._tick_excess = self._tick_excess, 0
        while not part.is_enough:
            done = next(self._ticking, None)
            if done is None:
                self.is_ticking = False
                return
            part.done += done
        self._tick_excess = part.excess

    # ---- an earlier run, other rules, other accounts ----

    def _restore(self, kept: Kept, now: Now) -> None:
        places = {name: account.setup.place for name, account in self.accounts.items()}
        same = {name for name, place in places.items() if kept.places.get(name, place) == place}
        strangers = self.accounts.keys() - same
        self.reporter.restore(
            kept.incidents, now, kept.last_named_ms, lambda i: i.account not in strangers and self._is_watched(i)
        )
        self.reporter.silences.restore(kept.silences)
        self._judges.daily.restore(kept.daily)
        self._judges.groups.restore(kept.groups, now)
        of_accounts: dict[Row, dict[str, bytes]] = {
            "forced": kept.forced,
            "baseline": kept.baselines,
            "grown": kept.grown,
        }
        for kind, rows in of_accounts.items():
            for key, row in rows.items():
                account, _, name = key.partition("/")
                if account in same:
                    self.accounts[account].restore(kind, name, row, now)
                else:
                    self.reporter.effects.append(Save(kind, key, None))
        gone = kept.places.keys() - places.keys()
        self.reporter.effects += (Save("account", name, None) for name in sorted(gone))
        self.reporter.effects += (
            Save("account", name, place) for name, place in places.items() if kept.places.get(name) != place
        )

    def unseen(self) -> dict[str, Unseen]:
        """Account → what an earlier run has kept of it, while nothing has happened yet. First those in the most danger:
        of very many accounts the last is read many minutes after the first."""
        found = {}
        for name, account in self.accounts.items():
            left = self.incidents.of(name)
            unread = restored(account.forced_orders.unread)
            if left or account.moves.baselines.held or unread is not None:
                opened_ms = min(*(i.opened_ms for i in left), self._now.wall_ms) if left else None  # clocks may be set
                found[name] = gravest(left), both(unread, restart(opened_ms, account.moves.baselines.held.values()))
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
                    if setup.place != account.setup.place:  # the same market, asked another way
                        self.reporter.effects.append(Save("account", setup.name, setup.place))
                    account.take(setup, account.rules)
            for setup in accounts:
                if setup.name not in self.accounts:
                    account = WatchedAccount(setup, self.markets[setup.market], self.setup.rules, self.setup.dispute_s)
                    self.accounts[setup.name] = account
                    self._judges.staleness.await_links(account, now)
                    self.reporter.effects.append(Save("account", setup.name, setup.place))
            self.setup = structs.replace(self.setup, accounts=accounts)
            self._attention.take_accounts()
        effects, self.reporter.effects = self.reporter.effects, []
        return effects

    def _forget(self, account: WatchedAccount, now: Now) -> None:
        """Watch an account no more: what is open of it ends, what is published of it is emptied."""
        name = account.name
        self._attention.forget(account)
        del self.accounts[name]
        ages = self.reporter.ages(account, None, now)
        self.reporter.end_unwatched(account.setup, [i.key for i in self.incidents.of(name)], ages, now)
        account.moves.forget()
        self._judges.moved.keep(account)
        self._judges.forced_orders.forget(account)
        for pool_id in account.pools:
            self._intake.forget_pool((name, pool_id))
        needed = account.needed
        account.take_pools({})
        self.reporter.effects += publication.gone(account, self.published)
        self._intake.forget(account, needed, now)
        unused = [link.name for link in self._judges.staleness.forget_links(account) if link.account == INSTANCE]
        of_market = [i.key for i in self.incidents.of(INSTANCE) if i.subject in {slug(n) for n in unused}]
        self.reporter.end_unwatched(account.setup, of_market, ages, now)
        self._judges.exchange.forget(name, unused)
        self._judges.listings.forget(name)
        self.published.forget(name)
        self.reporter.effects += (Save("account", name, None), AccountGone(name))
