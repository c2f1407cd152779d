"""Which margin pools an account has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from msgspec import structs

from monitor.book import AccountBook, margin_asset
from monitor.events import Position, PositionKey, Side
from monitor.listings import Listings
from monitor.names import slug
from monitor.risk.margin import ZERO
from monitor.risk.pool import AssetWallet, Pool

MULTI_ASSETS = "multi-assets"
UNKNOWN = "unknown"
"""Stands for a margin asset that nobody has told us; such a pool is incomplete."""


def margin_pools(account: str, book: AccountBook, listings: Listings, inverse: bool) -> list[Pool]:
    """The pools of an account, by id.

    Every isolated position is a pool of its own. The cross positions of one margin asset share its cross wallet; in
    multi-assets mode all cross positions share all assets. A wallet without positions makes no pool: nothing there
    can be liquidated.

    Args:
        listings: Its contracts say the margin asset where the account's own rows do not, and the size of inverse
            contracts; they know which assets may be collateral.
        inverse: Whether this venue's contracts are; one that is not known then has the size zero.
    """
    cross: dict[str, list[Position]] = defaultdict(list)
    pools = []
    for position in sorted(book.positions(), key=lambda p: p.key):
        asset = margin_asset(book, listings, position.symbol) or UNKNOWN
        if inverse:
            contract = listings.contracts.get(position.symbol)
            size = contract.contract_size if contract else None
            position = structs.replace(position, contract_size=size or ZERO)
        if position.isolated:
            pools.append(Pool(account, isolated_id(position), asset, True, position.isolated_wallet, (position,)))
        else:
            cross[asset].append(structs.replace(position, margin_asset=asset) if book.multi_assets else position)
    if book.multi_assets:
        pools += [_shared(account, book, listings, cross)] if cross else []
        cross.clear()
    for asset, positions in cross.items():
        balance = book.balances.get(asset)
        # The exchange names every asset that has anything; of an asset that we do not know, nothing is known.
        unnamed = ZERO if book.balances_read and asset != UNKNOWN else None
        wallet = unnamed if balance is None else balance.cross_wallet_balance
        pools.append(Pool(account, f"cross-{slug(asset)}", asset, False, wallet, tuple(positions)))
    return sorted(pools, key=lambda pool: pool.id)


def _shared(account: str, book: AccountBook, listings: Listings, cross: Mapping[str, list[Position]]) -> Pool:
    """The one pool of multi-assets mode: every asset that may be collateral, and all cross positions."""
    assets = []
    for asset in sorted(book.balances.keys() | cross.keys()):
        terms = listings.assets.get(asset)
        balance = book.balances.get(asset)
        wallet = ZERO if balance is None else balance.cross_wallet_balance
        if asset in cross or (wallet and (terms is None or terms.margin_available)):
            assets.append(AssetWallet(asset, wallet))
    positions = sorted((p for group in cross.values() for p in group), key=lambda p: p.key)
    known = book.balances_read and UNKNOWN not in cross
    return Pool(account, MULTI_ASSETS, "USD", False, ZERO if known else None, tuple(positions), tuple(assets))


def isolated_id(position: Position) -> str:
    """`isolated-<symbol>`, in hedge mode with the side."""
    return f"isolated-{row_slug(position.key)}"


def row_slug(key: PositionKey) -> str:
    """`<symbol>[-long|-short]`: the suffix exists in hedge mode alone."""
    suffix = "" if key.side is Side.BOTH else f"-{key.side.value}"
    return slug(key.symbol) + suffix
