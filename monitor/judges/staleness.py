"""The rule `data_stale`: the age of what each link last said, and which pools that blinds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from msgspec import structs

from monitor.accounts import WatchedAccount, spokesman
from monitor.effects import INSTANCE, Blindness, Resync
from monitor.events import LinkId, LinkReport, LinkState, Now
from monitor.incident import IncidentKey
from monitor.market import MarketBook, is_rate
from monitor.reporter import Reporter
from monitor.rules import DataStaleRule, Severity, Step
from monitor.telling import blind_story

RULE = "data_stale"
_NAMED = 5
"""So many of the symbols that are silent are named."""


class StalenessJudge:
    """Holds every link against the rule.

    Args:
        accounts: Each is watched over a market link that it may share, a private link and a REST link.
    """

    def __init__(
        self,
        reporter: Reporter,
        accounts: Mapping[str, WatchedAccount],
        markets: Mapping[str, MarketBook],
        now: Now,
    ) -> None:
        self._reporter = reporter
        self._links = reporter.links
        self._accounts = accounts
        self._markets = markets
        self._watched: dict[str, dict[str, float]] = defaultdict(dict)
        self._carried: dict[LinkId, list[WatchedAccount]] = defaultdict(list)
        for account in accounts.values():
            self.await_links(account, now)

    def await_links(self, account: WatchedAccount, now: Now) -> None:
        """From now on an account is watched over its links."""
        for link in account.setup.links:
            self._links.awaited(link, now.mono)
            self._carried[link].append(account)

    def forget_links(self, account: WatchedAccount) -> list[LinkId]:
        """An account is watched no more. Gives the links that nobody needs now; they are forgotten."""
        unused = []
        for link in account.setup.links:
            self._carried[link].remove(account)
            if not self._carried[link]:
                del self._carried[link]
                self._links.forget(link)
                unused.append(link)
        return unused

    def watch(self, market: str, symbols: frozenset[str], now: Now) -> None:
        """From now on a market link has to bring the marks of these symbols."""
        known = self._watched[market]
        self._watched[market] = {symbol: known.get(symbol, now.mono) for symbol in symbols}

    def mute(self, event: LinkReport, now: Now) -> None:
        """Tell of a stream that was open and kept something from us; it is opened anew at once, in another way."""
        accounts = self._carried[event.link]
        account = spokesman(accounts)
        if account.stale_rule.enabled:
            key = IncidentKey(event.link.account, RULE, event.link.name)
            change = self._reporter.incidents.note(key, Severity.WARNING, now)
            blindness = Blindness(
                event.link, 0.0, event.note, tuple(f"{a.name}/{i}" for a in accounts for i in a.pools)
            )
            ages = self._reporter.ages(account, None, now)
            self._reporter.emit(blind_story(account, change, blindness, ages, now), now)

    @property
    def links(self) -> list[LinkId]:
        """All that there is to judge."""
        return list(self._links.all)

    def judge(self, link: LinkId, now: Now) -> None:
        """Hold the age of what a link says against the rule, with what it blinds."""
        accounts = self._carried.get(link)
        if not accounts:
            return  # nobody needs it any more
        first = spokesman(accounts)
        if link == first.setup.rest_link:
            self._ask_again(first, now)
        rule = first.stale_rule
        age = self._age(link, rule, now)
        key = IncidentKey(link.account, RULE, link.name)
        value = None if age is None else Decimal(str(round(age, 3)))
        lowest = min([Decimal(str(rule.stale_after_s)), *(step.at for step in rule.steps)])
        if self._reporter.incidents.is_idle(key) and (value is None or value < lowest):
            return  # nothing is open, nor begins
        looked_at = accounts if link.account != INSTANCE or self._silent(link, rule.stale_after_s, now) else []
        blinded = [(a, pool_id) for a in looked_at for pool_id in _blinded(a, link, rule.stale_after_s, now)]
        may_open = value is not None and (value >= lowest or key in self._reporter.incidents.open)
        in_danger = may_open and link != first.setup.rest_link  # else no figure is asked for
        if in_danger and any(a.is_endangered(pool_id, rule) for a, pool_id in blinded):
            clear = min([Decimal(str(rule.stale_after_s)) * Decimal("0.8"), *(s.clear for s in rule.steps)])
            at_once = Step(Decimal(str(rule.stale_after_s)), clear, Severity.CRITICAL)
            milder = (step for step in rule.steps if step.severity < Severity.CRITICAL)
            rule = structs.replace(rule, steps=(*milder, at_once))  # what a milder one has opened ends by it
        # A restart alone makes nothing fresh, nor does a link that brings but a part of what it should.
        alive = self._links.all[link].state.is_fine and not self._is_awaited(link, accounts)
        change = self._reporter.incidents.observe(key, rule, value, now, trusted=alive)
        change = self._reporter.or_retained(change, key, value)
        if change is not None:
            pools = tuple(f"{a.name}/{pool_id}" for a, pool_id in blinded)
            blindness = Blindness(link, age or 0.0, self._why_blind(link, accounts, rule.stale_after_s, now), pools)
            ages = self._reporter.ages(first, None, now)
            self._reporter.emit(blind_story(first, change, blindness, ages, now), now)

    def _ask_again(self, account: WatchedAccount, now: Now) -> None:
        """Ask again for what REST should have said, and has not: of a symbol listed a moment ago there may have been
        nothing to say yet."""
        if account.is_read_again(account.unread_for(now)):
            self._reporter.effects.append(Resync(account.name, "something of a position is unknown"))

    def _is_awaited(self, link: LinkId, accounts: list[WatchedAccount]) -> bool:
        """Whether there is anything that a link has never said, and should: what is too young to be old is no proof."""
        if link.account == INSTANCE and (watched := self._watched[link.name]):
            return any(self._markets[link.name].stream_age(what, 0.0) is None for what in watched)
        if link == accounts[0].setup.private_link:
            return False  # it is live only once it has been proved
        return any(not account.known or account.unread for account in accounts)

    def _silent(self, link: LinkId, limit_s: float, now: Now) -> list[str]:
        """The symbols and rates that a market link should bring, and does not."""
        ages = {what: self._markets[link.name].stream_age(what, now.mono) for what in self._watched[link.name]}
        return sorted(what for what, age in ages.items() if age is None or age >= limit_s)

    def _why_blind(self, link: LinkId, accounts: list[WatchedAccount], limit_s: float, now: Now) -> str:
        if link.account == INSTANCE:
            return self._what_is_silent(link, limit_s, now) or self._links.all[link].note
        unread = accounts[0].unread.values() if link == accounts[0].setup.rest_link else ()
        unknown = ", ".join(dict.fromkeys(what for missing in unread for what in missing))
        return f"unknown: {unknown}" if unknown else self._links.all[link].note

    def _what_is_silent(self, link: LinkId, limit_s: float, now: Now) -> str:
        """What a market link that brings all else lacks; empty: it brings all, or nothing at all."""
        silent = self._silent(link, limit_s, now)
        if len(silent) == len(self._watched[link.name]):
            return ""
        named = [what if is_rate(what) else f"mark of {what}" for what in silent[:_NAMED]]
        return f"no {', '.join(named)}{' and others' if len(silent) > _NAMED else ''}" if named else ""

    def _age(self, link: LinkId, rule: DataStaleRule, now: Now) -> float | None:
        """Seconds since what this link says was true; None: it has nothing to say."""
        age = self._links.age(link, now.mono)
        if link.account != INSTANCE:
            account = self._accounts[link.account]
            if link == account.setup.rest_link:
                return max(0.0, age - rule.rest_patience_s, account.unread_for(now))
            return age
        watched = self._watched[link.name]
        if not watched:
            return None if self._links.all[link].state is not LinkState.CONNECTING else age
        market = self._markets[link.name]
        ages = {s: market.stream_age(s, now.mono) for s in watched}
        return max(now.mono - watched[s] if a is None else a for s, a in ages.items())


def _blinded(account: WatchedAccount, link: LinkId, limit_s: float, now: Now) -> list[str]:
    """The pools that a link blinds while it is quiet: all of them, or those whose symbols it does not bring."""
    if link == account.setup.rest_link:
        return list(account.unread)
    if link == account.setup.private_link:
        return list(account.pools)
    ages = {what: account.market.stream_age(what, now.mono) for what in account.needed}
    quiet = {what for what, age in ages.items() if age is None or age >= limit_s}
    return [pool_id for pool_id, pool in account.pools.items() if not quiet.isdisjoint(account.needs_of(pool))]
