"""How it stands, and what of it may be believed: one judgement of the retained topics, for whoever asks once.

Whatever is unknown, old or silent is never well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal
from enum import IntEnum

from msgspec import Struct

from monitor.effects import INSTANCE
from monitor.humanize import away, counted, percent, span
from monitor.retained import Retained, Summary, rank
from monitor.rules import Severity

CLOCK_SLACK_S = 10.0
"""By how much the daemon's clock may be ahead of ours before no age means anything."""


class Code(IntEnum):
    """Exit status, as monitoring systems in the manner of Nagios read it."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_WORST_FIRST = (Code.CRITICAL, Code.UNKNOWN, Code.WARNING, Code.OK)


class Problem(Struct, frozen=True):
    """Why it is not well."""

    code: Code
    text: str


class AccountStanding(Struct, frozen=True):
    """One account.

    Args:
        summary: Its last; None: there is none.
        age_s: Of that summary, by our clock.
        is_believed: It is recent, of a living daemon.
    """

    name: str
    summary: Summary | None
    age_s: float | None
    is_believed: bool


class Standing(Struct, frozen=True):
    """All of it. problems: the worst first."""

    problems: tuple[Problem, ...] = ()
    accounts: tuple[AccountStanding, ...] = ()

    @property
    def code(self) -> Code:
        return self.problems[0].code if self.problems else Code.OK


def unknown(text: str) -> Standing:
    """Nothing can be said, and why."""
    return Standing((Problem(Code.UNKNOWN, text),))


def watched(retained: Retained, configured: Collection[str]) -> list[str]:
    """The accounts that must have a state: those of the config, and those that the daemon says it watches."""
    told = [] if retained.info is None else [account.account for account in retained.info.accounts]
    return list(dict.fromkeys([*configured, *told]))


def standing(retained: Retained, names: Collection[str], at_ms: int) -> Standing:
    """How these accounts stand at a time, with what belongs to no account (a shared link, the store, the clock).

    Args:
        at_ms: By our own clock. Where the daemon's is behind it, a state looks older than it is and may be called dead
            too early. Where the daemon's is ahead by more than `CLOCK_SLACK_S`, what is dead could look alive: then
            nothing good is said at all.
    """
    dead = _dead(retained, names)
    accounts = tuple(_account(retained, name, at_ms, dead is None) for name in names)
    if dead is not None:
        ages = [account.age_s for account in accounts if account.age_s is not None]
        last = f"; its last state is {span(min(ages))} old" if ages else ""
        return Standing((Problem(Code.CRITICAL, dead + last),), accounts)
    incidents = retained.incidents(*names, INSTANCE)
    late = {name for name in names if retained.topics.summary(name) in retained.awaited}
    found = [problem for account in accounts for problem in _problems(account, account.name in late)]
    found += [Problem(_code(rank(incident.severity)), incident.title) for incident in incidents]
    for account in accounts:  # the summary may know of an incident that we have not been shown
        shown = max((rank(i.severity) for i in incidents if i.account in (account.name, INSTANCE)), default=Severity.OK)
        if account.is_believed and account.summary is not None and rank(account.summary.severity) > shown:
            found.append(Problem(_code(rank(account.summary.severity)), f"{account.name}: {account.summary.severity}"))
    bad = [problem for problem in found if problem.code is not Code.OK]
    return Standing(tuple(sorted(bad, key=lambda problem: _WORST_FIRST.index(problem.code))), accounts)


def _dead(retained: Retained, names: Collection[str]) -> str | None:
    """Why nothing that stands there is true any more."""
    if retained.status == "offline":
        return "the daemon is offline"
    if retained.status == "online":
        return None
    if not any(retained.summary(name) for name in names):
        prefix = retained.topics.prefix
        return f"nothing is retained below {prefix}/: no daemon has run on this broker, or we may not read it"
    return f"{retained.topics.status} says neither online nor offline"


def _account(retained: Retained, name: str, at_ms: int, is_alive: bool) -> AccountStanding:
    summary = retained.summary(name)
    if summary is None:
        return AccountStanding(name, None, None, False)
    age_s = (at_ms - summary.as_of_ms) / 1000
    return AccountStanding(name, summary, age_s, is_alive and -CLOCK_SLACK_S <= age_s <= summary.valid_for_s)


def _problems(account: AccountStanding, is_late: bool) -> Iterator[Problem]:
    """What is wrong with the state itself, whatever it says."""
    summary, age_s, name = account.summary, account.age_s, account.name
    if summary is None and is_late:
        yield Problem(Code.UNKNOWN, f"{name}: the broker did not show its state in time")
    elif summary is None or age_s is None:
        yield Problem(Code.CRITICAL, f"{name} has no state: the daemon does not watch it")
    elif age_s > summary.valid_for_s:
        text = f"{name}: the state is {span(age_s)} old, and was good for {span(summary.valid_for_s)}: the daemon hangs"
        yield Problem(Code.CRITICAL, f"{text} or is dead, or one of the clocks is wrong")
    elif age_s < -CLOCK_SLACK_S:
        text = f"{name}: the daemon's clock is {span(-age_s)} ahead of this machine's"
        yield Problem(Code.UNKNOWN, f"{text}: how old its state is cannot be told")
    elif summary.freshness == "stale":
        yield Problem(Code.CRITICAL, f"{name} is {blind(summary)}")


def _code(severity: Severity) -> Code:
    if severity >= Severity.CRITICAL:
        return Code.CRITICAL
    return Code.WARNING if severity is Severity.WARNING else Code.OK


# ---- words ----


def sentence(standing: Standing) -> str:
    """What is to be known of it, in a line."""
    if standing.problems:
        texts = list(dict.fromkeys(problem.text for problem in standing.problems))
        more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
        return "; ".join(texts[:3]) + more
    summaries = [(a.name, a.summary) for a in standing.accounts if a.summary is not None]
    held = sum(summary.open_positions or 0 for _, summary in summaries)
    parts = [counted(len(summaries), "account"), counted(held, "position")]
    ratios = [(s.worst_margin_ratio, name) for name, s in summaries if s.worst_margin_ratio is not None]
    distances = [(s.worst_distance, name) for name, s in summaries if s.worst_distance is not None]
    if held and ratios:
        ratio, name = max(ratios)
        parts.append(f"worst margin ratio {percent(Decimal(str(ratio)))} ({name})")
    if distances:
        distance, name = min(distances)
        parts.append(f"nearest liquidation {away(Decimal(str(distance)))} away ({name})")
    return ", ".join(parts)


def blind(summary: Summary) -> str:
    """That an account's data is stale, and how old it is."""
    known = {"marks": summary.mark_age_ms, "balances": summary.account_age_ms}
    ages = ", ".join(f"{name} {span(age_ms / 1000)} old" for name, age_ms in known.items() if age_ms is not None)
    return "blind: an input is old or unknown" + (f" ({ages})" if ages else "")
