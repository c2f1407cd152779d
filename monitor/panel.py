"""What `marginwatch watch` shows, as plain values: the retained topics with everything that has to be reckoned.

`is_current` is false for whatever may not be taken for the present: then the drawing shows it dimmed, and with its age.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal

from msgspec import Struct

from monitor.effects import INSTANCE
from monitor.humanize import span
from monitor.retained import Health, Incident, Pool, Position, Retained
from monitor.standing import AccountStanding, Code, Problem, Standing, blind, sentence, standing, unknown


class Funding(Struct, frozen=True):
    """The next funding of an account.

    Args:
        in_s: Until then; negative: it should have been by now.
        payments: Asset → what the wallet changes by, at the present estimate; negative: it is paid.
        margin_ratio_after: The highest of the pools that it touches; None: unknown.
    """

    in_s: float
    payments: dict[str, Decimal]
    margin_ratio_after: float | None


class LinkView(Struct, frozen=True):
    """words: `live`, or what is wrong with it and for how long."""

    name: str
    words: str
    is_well: bool


class IncidentView(Struct, frozen=True):
    """age_s: since it opened."""

    incident: Incident
    age_s: float


class AccountView(Struct, frozen=True):
    """One account.

    Args:
        note: How recent it is, in words.
    """

    name: str
    is_current: bool
    note: str
    pools: Sequence[Pool]
    positions: Sequence[Position]
    links: Sequence[LinkView]
    funding: Funding | None


class Away(Struct, frozen=True):
    """The broker is not heard. for_s: since it was, or since we began to try."""

    broker: str
    reason: str
    for_s: float


class Panel(Struct, frozen=True):
    """All of it.

    Args:
        is_current: The daemon lives, and we hear it.
        links: Those that accounts share; empty where nobody knows how they are.
    """

    at_ms: int
    is_current: bool
    code: Code
    words: str
    daemon: str
    accounts: Sequence[AccountView]
    incidents: Sequence[IncidentView]
    links: Sequence[LinkView]


def panel(retained: Retained, names: Collection[str], at_ms: int, away: Away | None) -> Panel:
    """What is to be shown of these accounts at a time (by our own clock)."""
    stands = standing(retained, names, at_ms)
    if away is not None:
        stands = _without_broker(stands, away)
    incidents = retained.incidents(*names, INSTANCE)
    is_current = away is None and any(account.is_believed for account in stands.accounts)
    return Panel(
        at_ms=at_ms,
        is_current=is_current,
        code=stands.code,
        words=sentence(stands),
        daemon=_daemon(retained, away),
        accounts=tuple(_account(retained, account, at_ms, away) for account in stands.accounts),
        incidents=tuple(IncidentView(i, at_ms / 1000 - i.opened_at.timestamp()) for i in incidents),
        links=_links(retained.health(INSTANCE)) if is_current else (),
    )


def _without_broker(stands: Standing, away: Away) -> Standing:
    """Nothing that we have heard need be true any more, were it only for a second."""
    text = f"the broker {away.broker} has not been heard for {span(away.for_s)} ({away.reason})"
    known = [account for account in stands.accounts if account.summary is not None]
    if not known:
        return unknown(text)
    return Standing((Problem(Code.UNKNOWN, f"{text}; what is shown is from before"), *stands.problems), tuple(known))


def cushion(position: Position) -> float | None:
    """How much of the way from entry to liquidation is left: 1 at the entry or better, 0 at liquidation.

    None: there is no liquidation price, it is unknown, or it lies on the near side of the entry.
    """
    mark, end, entry = position.mark_price, position.liquidation_price, position.entry_price
    if mark is None or end is None or entry == end or (entry > end) != (position.side == "long"):
        return None
    return float(min(max((mark - end) / (entry - end), Decimal(0)), Decimal(1)))


def next_funding(pools: Collection[Pool], at_ms: int) -> Funding | None:
    """What all pools pay or get at the nearest funding time; None: there is none."""
    coming = [(pool.forecast.next_funding_at, pool) for pool in pools if pool.forecast.next_funding_at is not None]
    if not coming:
        return None
    nearest = min(at for at, _ in coming)
    touched = [pool for at, pool in coming if at == nearest]
    payments: dict[str, Decimal] = {}
    for pool in touched:
        if pool.forecast.payment is not None:
            payments[pool.asset] = payments.get(pool.asset, Decimal(0)) + pool.forecast.payment
    ratios = [pool.forecast.margin_ratio_after for pool in touched if pool.forecast.margin_ratio_after is not None]
    return Funding(nearest.timestamp() - at_ms / 1000, payments, max(ratios, default=None))


def _account(retained: Retained, account: AccountStanding, at_ms: int, away: Away | None) -> AccountView:
    summary, name = account.summary, account.name
    pools = retained.pools(name)
    is_live = summary is not None and summary.freshness == "live"
    is_believed = account.is_believed and away is None
    age = "" if account.age_s is None else f"{span(account.age_s)} old"
    if summary is None:
        note = "no state"
    elif not is_believed:
        note = f"OLD: the last that is known is {age}"
    else:
        note = f"live, {age}" if is_live else blind(summary)
    return AccountView(
        name=name,
        is_current=is_believed and is_live,
        note=note,
        pools=pools,
        positions=retained.positions(name),
        links=_links(retained.health(name)) if is_believed else (),
        funding=next_funding(pools, at_ms),
    )


def _daemon(retained: Retained, away: Away | None) -> str:
    info = retained.info
    said = "not heard" if away is not None else retained.status or "unknown"
    return said if info is None else f"{said} · {info.instance} · {info.version}"


def _links(health: Health | None) -> tuple[LinkView, ...]:
    if health is None:
        return ()
    views = []
    for name, link in sorted(health.links.items()):
        is_well = link.state in ("live", "idle")
        why = f" ({link.note})" if link.note and not is_well else ""
        words = link.state if is_well else f"{link.state} for {span(link.age_s)}{why}"
        views.append(LinkView(name, words, is_well))
    return tuple(views)
