"""Which margin pools an account has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from monitor.book import AccountBook
from monitor.events import Position, PositionKey, Side
from monitor.names import slug
from monitor.risk.margin import ZERO
from monitor.risk.report import Pool

UNKNOWN = "unknown"
"""Stands for a margin asset that nobody has told us; such a pool is incomplete."""


def margin_pools(account: str, book: AccountBook, asset_of: Callable[[str], str | None]) -> list[Pool]:
    """The pools of an account in single-asset mode, by id.

    Every cross position shares the cross wallet of its margin asset; every isolated position is a pool of its own.
    An asset without positions makes no pool: nothing there can be liquidated.

    Args:
        asset_of: Symbol → margin asset, where the account's own rows do not say.
    """
    cross: dict[str, list[Position]] = defaultdict(list)
    pools = []
    for position in sorted(book.positions(), key=lambda p: p.key):
        asset = book.margin_assets.get(position.symbol) or asset_of(position.symbol) or UNKNOWN
        if position.isolated:
            pools.append(Pool(account, isolated_id(position), asset, True, position.isolated_wallet, (position,)))
        else:
            cross[asset].append(position)
    for asset, positions in cross.items():
        balance = book.balances.get(asset)
        # The exchange names every asset that has anything; of an asset that we do not know, nothing is known.
        unnamed = ZERO if book.balances_read and asset != UNKNOWN else None
        wallet = unnamed if balance is None else balance.cross_wallet_balance
        pools.append(Pool(account, f"cross-{slug(asset)}", asset, False, wallet, tuple(positions)))
    return sorted(pools, key=lambda pool: pool.id)


def isolated_id(position: Position) -> str:
    """`isolated-<symbol>`, in hedge mode with the side."""
    return f"isolated-{row_slug(position.key)}"


def row_slug(key: PositionKey) -> str:
    """`<symbol>[-long|-short]`: the suffix exists in hedge mode alone."""
    suffix = "" if key.side is Side.BOTH else f"-{key.side.value}"
    return slug(key.symbol) + suffix
