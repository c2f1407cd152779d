"""What a daily summary says of an account: that all is well, or what is not, first."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from monitor.accounts import WatchedAccount
from monitor.effects import Ages, Fact, Story
from monitor.events import Now
from monitor.humanize import away, counted, duration, listed, percent, price, side_word
from monitor.incident import Change, Incident, gravest
from monitor.risk.margin import ZERO
from monitor.risk.report import PoolRisk
from monitor.telling import figures

_NAMED = 4


def daily_story(
    account: WatchedAccount,
    change: Change,
    day: date,
    incidents: list[Incident],
    ages: Ages,
    uptime_s: int,
    reconnects: int,
    now: Now,
) -> Story:
    """The facts of a daily summary, with its headline and its paragraph."""
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
    names = listed([r.pool.id for r in risks], _NAMED)
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
        sentences.append(f"UNKNOWN: {', '.join(unknown[:_NAMED])}.")
    return sentences


def _open(incidents: list[Incident]) -> list[str]:
    if not incidents:
        return ["No incident is open."]
    worst_first = sorted(incidents, key=lambda i: -i.severity)
    return [f"Open: {listed([f'{i.rule} {i.subject} ({i.severity.word})' for i in worst_first], _NAMED)}."]


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
