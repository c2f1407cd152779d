"""Whether the daemon sees, and whether it has said so where it does not: for whoever watches the watcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from monitor.accounts import on_market, spokesman
from monitor.core import Core
from monitor.effects import INSTANCE
from monitor.events import LinkId, LinkState, Now
from monitor.rules import DataStaleRule, Severity

DECLARED_WITHIN_S = 20.0
"""A lost link must have been told of by then, else something hangs. The unit's WatchdogSec is 30 s from there on."""

STUCK_AFTER_S = 10.0
"""Ticks come each second or so: when none has gone through the core for so long, something hangs."""

_NAMED = 3


class DaemonState(Struct, frozen=True):
    """What the daemon knows of itself, beside the core.

    Args:
        tick_age_s: Time since a tick has gone all the way through the core (seconds).
        is_settled: Whether every link has been proved, or its blindness told.
        broker_away_s: For how long the broker has taken nothing (seconds); 0: it is there.
        is_broker_missed: Whether that is long enough to count.
        waiting_messages: What the broker does not have yet; `waiting_events`: the events among them.
        oldest_event_age_s: Age of the oldest of these (seconds); 0: there is none.
        is_heartbeat_heard: Whether the last ping was answered; None: none has been sent.
    """

    tick_age_s: float
    is_settled: bool
    broker_away_s: float
    is_broker_missed: bool
    is_broker_connected: bool
    waiting_messages: int
    waiting_events: int
    oldest_event_age_s: float
    is_store_usable: bool
    is_heartbeat_heard: bool | None


def health(core: Core, daemon: DaemonState, now: Now) -> dict[str, Any]:
    """Whether the daemon works, by what systemd's watchdog goes by: `ok`, or `stuck` and to be started anew.

    It tells nothing of accounts: anybody may ask.
    """
    reasons = _stuck(daemon)
    if undeclared(core, now):
        reasons.append("a lost link has not been told of")
    return {"status": "stuck" if reasons else "ok", "reasons": reasons, "tick_age_s": round(daemon.tick_age_s, 3)}


def readiness(core: Core, daemon: DaemonState, now: Now) -> dict[str, Any]:
    """Whether what is published can be relied on, by what the heartbeat goes by.

    `ready`, or `starting`, `blind`, `stuck`. A link that is told of as stale blinds all the same.
    """
    blind = blindness(core, now)
    if daemon.is_broker_missed:
        blind.append("broker away")
    stuck = _stuck(daemon)
    waits = [] if daemon.is_settled else ["not every link has been proved yet, or told of as stale"]
    status = "stuck" if stuck else "starting" if waits else "blind" if blind else "ready"
    links = [
        {
            "account": link.account,
            "link": link.name,
            "state": info.state.value,
            "age_s": round(age, 3),
            "note": info.note,
        }
        for link, info, age in ((link, info, core.links.age(link, now.mono)) for link, info in core.links.all.items())
    ]
    return {
        "status": status,
        "reasons": [*stuck, *waits, *blind],
        "links": links,
        "broker_away_s": round(daemon.broker_away_s, 3),
    }


def is_settled(core: Core) -> bool:
    """Whether every link is proved, or its blindness has been told."""
    stale = {(i.account, i.subject) for i in core.incidents if i.rule == "data_stale"}
    needed = {a.setup.market for a in core.accounts.values() if a.symbols}  # idle is not enough for these
    return all(
        info.state is LinkState.LIVE
        or (info.state is LinkState.IDLE and link.name not in needed)
        or (link.account, link.name) in stale
        or (link.name == "rest" and (link.account, "private") in stale)
        or not _rule(core, link).enabled  # nobody wants to be told of it, so there is nothing to wait for
        for link, info in core.links.all.items()
    )


def status(core: Core, troubles: Sequence[str]) -> str:
    """A line for `systemctl status`: what cannot be relied on, then the figures."""
    risks = [risk for account in core.accounts.values() for risk in account.last_risks.values()]
    worst = max([ratio for risk in risks if (ratio := risk.margin_ratio) is not None], default=None)
    how_near = "no margin ratio" if worst is None else f"worst margin ratio {worst:.1%}"
    figures = f"{len(risks)} pools, {how_near}, {len(core.incidents.open)} incidents open"
    known, of = sum(account.known for account in core.accounts.values()), len(core.accounts)
    start = [f"{known} of {of} accounts known"] if known < of > 1 else []
    more = [f"and {len(troubles) - _NAMED} more"] if len(troubles) > _NAMED else []
    return "; ".join([*start, *troubles[:_NAMED], *more, figures])


def _stuck(daemon: DaemonState) -> list[str]:
    return ["no tick has gone through the core"] if daemon.tick_age_s > STUCK_AFTER_S else []


def declared_after_s(rule: DataStaleRule) -> float:
    """Seconds after which a lost link opens an incident, at the latest."""
    return max(float(min(step.at for step in rule.steps)), rule.stale_after_s) + rule.for_s


def undeclared(core: Core, now: Now) -> list[LinkId]:
    """Links that have been lost for longer than it may take to tell of it, while nothing has been told."""
    told = {(i.account, i.subject) for i in core.incidents if i.rule == "data_stale"}
    return [link for link in core.links.lost if link not in told and _quiet_s(core, link, now) > DECLARED_WITHIN_S]


def blindness(core: Core, now: Now) -> list[str]:
    """Why what is published cannot be relied on; empty: it can. Who has switched the rule `data_stale` off is not told
    of a lost link, but it blinds all the same."""
    reasons = [f"{account.name}: positions unknown" for account in core.accounts.values() if not account.known]
    for incident in core.incidents:
        lasted_s = now.mono - incident.serious_at
        if incident.rule == "data_stale" and (incident.severity >= Severity.WARNING or lasted_s > DECLARED_WITHIN_S):
            reasons.append(f"{incident.account} {incident.subject}: no data")
        if incident.rule == "store_unusable":
            reasons.append("store unusable")
    for link in core.links.lost:
        if not _rule(core, link).enabled and _lost_s(core, link, now) > DECLARED_WITHIN_S:
            reasons.append(f"{link.account} {link.name}: no data")
    return reasons


def _rule(core: Core, link: LinkId) -> DataStaleRule:
    """The rule that a link is held against."""
    if link.account in core.accounts:
        return core.accounts[link.account].stale_rule
    return spokesman(list(on_market(core.accounts, link.name))).stale_rule


def _quiet_s(core: Core, link: LinkId, now: Now) -> float:
    """For how long a link that is lost should have been told of as quiet; 0: nothing is to be told."""
    return _lost_s(core, link, now) if _rule(core, link).enabled else 0.0


def _lost_s(core: Core, link: LinkId, now: Now) -> float:
    """For how long a link has not brought what it should; 0: there is nothing."""
    age = core.links.age(link, now.mono)
    if link.account != INSTANCE:
        setup = core.accounts[link.account].setup
        return age - _rule(core, link).rest_patience_s if link == setup.rest_link else age
    accounts = list(on_market(core.accounts, link.name))
    market = accounts[0].market
    ages = [market.stream_age(what, now.mono) for account in accounts for what in account.needed]
    if not ages and core.links.all[link].state is not LinkState.CONNECTING:
        return 0.0  # there is nothing that it should bring
    return min(age, max((age if a is None else a for a in ages), default=age))
