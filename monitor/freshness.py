"""How fresh an account's figures are: how old what they follow from is, and whether they are those of now."""

from __future__ import annotations

import math
from functools import partial

from monitor.accounts import WatchedAccount
from monitor.effects import Ages
from monitor.events import Now
from monitor.links import Links
from monitor.market import rate_of
from monitor.risk.assessment import unknowns
from monitor.risk.pool import Pool


def ages(account: WatchedAccount, pool: Pool | None, links: Links, now: Now) -> Ages:
    """How fresh a pool's figures are (None: all pools'); stale: a mark is old or the private stream away."""
    oldest = account.market.oldest(account.needs_of(pool) if pool else account.needed, now.mono)
    truth = None if account.book.truth_at is None else now.mono - account.book.truth_at
    live = _is_live(account, pool, oldest, links, now)
    return Ages("live" if live else "stale", None if oldest == math.inf else oldest, truth)


def is_live(account: WatchedAccount, pool: Pool | None, links: Links, now: Now) -> bool:
    """Whether a pool's figures are those of now (None: all pools')."""
    needs = account.needs_of(pool) if pool else account.needed
    return _is_live(account, pool, account.market.oldest(needs, now.mono), links, now)


def rates_are_stale(account: WatchedAccount, pool: Pool, now: Now) -> bool:
    """Whether the worth of a pool's collateral is not known as of now."""
    oldest = account.market.oldest([rate_of(wallet.asset) for wallet in pool.assets], now.mono)
    return oldest is not None and oldest >= account.stale_rule.stale_after_s


def _is_live(account: WatchedAccount, pool: Pool | None, oldest: float | None, links: Links, now: Now) -> bool:
    """`is_live`, where the age of the oldest mark is known."""
    limit = account.stale_rule.stale_after_s
    return (
        account.book.known
        and (oldest is None or oldest < limit)
        and links.age(account.private_link, now.mono) < limit
        and not any(map(partial(_is_incomplete, account), account.pools.values() if pool is None else (pool,)))
    )


def _is_incomplete(account: WatchedAccount, pool: Pool) -> bool:
    """Whether an input is unknown: when the pool was last computed, and still."""
    risk = account.last_risks.get(pool.id)
    return risk is not None and bool(risk.missing and unknowns(pool, account.terms))
