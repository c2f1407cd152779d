"""The rule `summary`: once a day, what is watched and how it stands. Proof of life, told also when all is well."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal

import msgspec
from msgspec import Struct

from monitor.accounts import WatchedAccount
from monitor.effects import Ages, Fact, Save, Story
from monitor.events import Now
from monitor.humanize import away, counted, duration, percent, price
from monitor.incidents import Change, Incident, IncidentKey, gravest
from monitor.publication import concerning
from monitor.reporter import Reporter
from monitor.risk.margin import ZERO
from monitor.risk.report import PoolRisk
from monitor.rules import Severity
from monitor.telling import figures, side_word

RULE = "summary"
SUBJECT = "daily"

_LATE_MS = 3_600_000
"""A day that was missed is not told later than this."""
_PATIENCE_S = 60.0
"""How long it waits for data that is not there yet; then it says so."""
_DATES_KEPT = 8
"""Days that are remembered as told: more than a clock that is set back is likely to come by again."""
_POOLS_NAMED = 4


class Daily(Struct, frozen=True):
    """When the summary of a day is told: the time of day, and the zone it is meant in."""

    at: time = time(8)
    zone: tzinfo = UTC

    def due(self, wall_ms: int) -> date | None:
        """The local date whose summary is due at this moment: its time has come, less than an hour ago.

        A time that the clocks leave out in spring comes as much later as they are put forward; of one that comes twice
        in autumn the first counts, and the date is the same for both.
        """
        today = datetime.fromtimestamp(wall_ms // 1000, self.zone).date()
        for day in (today, today - timedelta(days=1)):
            due_ms = round(datetime.combine(day, self.at, self.zone).timestamp() * 1000)
            if due_ms <= wall_ms < due_ms + _LATE_MS:
                return day
        return None


class DailyJudge:
    """Tells each account's summary, once for each local date, across restarts and whatever the clock does.

    Args:
        daily: None: it is switched off.
        now: When the daemon started.
    """

    def __init__(self, reporter: Reporter, daily: Daily | None, now: Now) -> None:
        self._reporter = reporter
        self._daily = daily
        self._started = now.mono
        self._told: dict[str, list[str]] = {}
        self._day: date | None = None
        self._since = 0.0

    def restore(self, kept: Mapping[str, bytes]) -> None:
        """Take back which dates an earlier run has told: account → row."""
        for account, row in kept.items():
            self._told[account] = [*_dates(row), *self._told.get(account, [])]

    def look(self, now: Now) -> None:
        """See which date is due, before the accounts are judged; asked once a tick."""
        day = None if self._daily is None else self._daily.due(now.wall_ms)
        if day != self._day:
            self._day, self._since = day, now.mono

    def judge(self, account: WatchedAccount, now: Now) -> None:
        """Tell an account's summary, where it is due."""
        if self._day is None:
            return
        told, date_due = self._told.setdefault(account.name, []), self._day.isoformat()
        if date_due in told:
            return
        ages = self._reporter.ages(account, None, now)
        if ages.freshness == "live" or now.mono - self._since >= _PATIENCE_S:
            told.append(date_due)
            del told[:-_DATES_KEPT]
            self._reporter.effects.append(Save("daily", account.name, msgspec.json.encode(told)))
            self._tell(account, self._day, ages, now)

    def _tell(self, account: WatchedAccount, day: date, ages: Ages, now: Now) -> None:
        change = self._reporter.incidents.note(IncidentKey(account.name, RULE, SUBJECT), Severity.INFO, now)
        incidents = concerning(account, self._reporter.incidents)
        uptime_s = max(0, int(now.mono - self._started))
        links = self._reporter.links.all
        reconnects = sum(links[link].reconnects for link in account.setup.links if link in links)
        self._reporter.emit(_story(account, change, day, incidents, ages, uptime_s, reconnects, now), now)


def _story(
    account: WatchedAccount,
    change: Change,
    day: date,
    incidents: list[Incident],
    ages: Ages,
    uptime_s: int,
    reconnects: int,
    now: Now,
) -> Story:
    risks = list(account.risks.values()) if account.known else []
    highest = max((r for r in risks if r.margin_ratio is not None), key=_ratio, default=None)
    nearest = min((r for r in risks if r.distance is not None), key=_distance, default=None)
    positions = sum(len(r.pool.positions) for r in risks) if account.known else None
    severity = gravest(incidents)
    facts: dict[str, Fact] = {
        "date": day.isoformat(),
        "pools": len(risks) if account.known else None,
        "positions": positions,
        "worst_pool": None if highest is None else highest.pool.id,
        "worst_margin_ratio": None if highest is None else highest.margin_ratio,
        "nearest_pool": None if nearest is None else nearest.pool.id,
        "worst_distance": None if nearest is None else nearest.distance,
        "incidents_open": len(incidents),
        "worst_severity": severity.word,
        "uptime_s": uptime_s,
        "reconnects": reconnects,
    }
    worst = highest or nearest
    closest = None if worst is None else worst.closest
    sentences = [
        *_watched(risks, positions),
        *_worst(risks, highest, nearest),
        *_open(incidents),
        *_fresh(ages, positions),
        f"Up {duration(uptime_s)}, {counted(reconnects, 'reconnect')}.",
    ]
    return Story(
        account.setup,
        change,
        now.wall_ms,
        symbol=None if closest is None else closest.position.symbol,
        side=None if closest is None else side_word(closest.is_long),
        asset=None if worst is None else worst.pool.asset,
        after=figures(worst),
        ages=ages,
        facts=facts,
        title=f"{account.name}: {_headline(positions, highest, incidents, ages)}",
        text=f"{account.name}: {' '.join(sentences)}",
    )


# ---- words for a phone ----


def _headline(positions: int | None, highest: PoolRisk | None, incidents: list[Incident], ages: Ages) -> str:
    """What matters most first: what is wrong, else that all is well."""
    if positions is None:
        return "positions are unknown"
    words = []
    if ages.freshness == "stale":
        words.append("data is stale")
    if incidents:
        worst = gravest(incidents)
        words.append(f"{counted(len(incidents), 'incident')} open ({worst.word})")
    if not words:
        words.append("all is well")
    words.append(counted(positions, "position"))
    if highest is not None and positions:
        words.append(f"worst margin ratio {percent(_ratio(highest))}")
    return ", ".join(words)


def _watched(risks: list[PoolRisk], positions: int | None) -> list[str]:
    if positions is None:
        return ["positions are unknown: the account has not been read."]
    if not positions:
        return ["watching; no positions are open."]
    named = [r.pool.id for r in risks[:_POOLS_NAMED]]
    more = len(risks) - len(named)
    names = ", ".join(named) + (f" and {more} more" if more else "")
    return [f"watching {counted(positions, 'position')} in {counted(len(risks), 'pool')} ({names})."]


def _worst(risks: list[PoolRisk], highest: PoolRisk | None, nearest: PoolRisk | None) -> list[str]:
    sentences = []
    if highest is not None and highest.pool.positions:
        sentences.append(f"Worst margin ratio {percent(_ratio(highest))} ({highest.pool.id}).")
    if nearest is not None:
        closest = nearest.closest
        at = ""
        if closest is not None and closest.liquidation_price is not None:
            side = side_word(closest.is_long)
            at = f": {closest.position.symbol} {side} liquidates at {price(closest.liquidation_price)}"
        sentences.append(f"Nearest to liquidation {away(_distance(nearest))} ({nearest.pool.id}{at}).")
    elif highest is not None and highest.pool.positions:
        sentences.append("No price liquidates it.")
    unknown = [r.pool.id for r in risks if r.margin_ratio is None]
    if unknown:
        sentences.append(f"UNKNOWN: {', '.join(unknown[:_POOLS_NAMED])}.")
    return sentences


def _open(incidents: list[Incident]) -> list[str]:
    if not incidents:
        return ["No incident is open."]
    worst_first = sorted(incidents, key=lambda i: -i.severity)
    named = [f"{i.rule} {i.subject} ({i.severity.word})" for i in worst_first[:_POOLS_NAMED]]
    more = len(incidents) - len(named)
    return [f"Open: {', '.join(named)}{f' and {more} more' if more else ''}."]


def _fresh(ages: Ages, positions: int | None) -> list[str]:
    if positions is None:
        return []
    said = []
    if ages.mark_s is not None:
        said.append(f"oldest mark {duration(ages.mark_s)} old")
    if ages.account_s is not None:
        said.append(f"account confirmed {duration(ages.account_s)} ago")
    stale = "STALE: " if ages.freshness == "stale" else ""
    words = ", ".join(said) or "nothing has come yet"
    return [f"{stale}{words if stale else words[:1].upper() + words[1:]}."]


def _ratio(risk: PoolRisk) -> Decimal:
    return risk.margin_ratio or ZERO


def _distance(risk: PoolRisk) -> Decimal:
    return ZERO if risk.distance is None else risk.distance


def _dates(row: bytes) -> list[str]:
    try:
        return msgspec.json.decode(row, type=list[str])
    except msgspec.MsgspecError:  # of a version that kept it otherwise: told again is better than never started
        return []
