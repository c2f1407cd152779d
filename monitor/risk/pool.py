"""What a margin pool is: collateral, and the positions that are liquidated with it.

It does not know what kind it is: the cross positions of one margin asset share a wallet, an isolated position has its
own, in multi-assets mode all share all assets, and all are computed alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property

from msgspec import Struct, structs

from monitor.events import Position


class AssetWallet(Struct, frozen=True):
    """One asset that is collateral of a pool with several."""

    asset: str
    wallet_balance: Decimal


class Pool(Struct, frozen=True, dict=True):
    """Collateral and the positions that are liquidated with it; its totals are in `asset`.

    Args:
        id: `cross-<asset>`, `isolated-<symbol>[-long|-short]` or `multi-assets`.
        asset: The margin asset; USD where several assets are collateral.
        wallet_balance: Cross wallet balance of the asset, or the isolated wallet of the one position; None: unknown.
            Where several assets are collateral it is what is held in USD itself: nothing.
        positions: All of them open.
        assets: The collateral where there are several assets, each valued at its rate; empty: all is in `asset`.
    """

    account: str
    id: str
    asset: str
    isolated: bool
    wallet_balance: Decimal | None
    positions: tuple[Position, ...]
    assets: tuple[AssetWallet, ...] = ()

    @property
    def wallets(self) -> dict[str, Decimal] | None:
        """Asset → wallet balance (asset); None: unknown."""
        if self.wallet_balance is None:
            return None
        return {wallet.asset: wallet.wallet_balance for wallet in self.assets} or {self.asset: self.wallet_balance}

    def with_wallets(self, wallets: Mapping[str, Decimal]) -> Pool:
        """The same pool with other balances."""
        if not self.assets:
            return structs.replace(self, wallet_balance=wallets[self.asset])
        return structs.replace(self, assets=tuple(AssetWallet(*wallet) for wallet in sorted(wallets.items())))

    def margin_asset(self, position: Position) -> str:
        """The asset that a position's own figures are in."""
        return (position.margin_asset or self.asset) if self.assets else self.asset

    @cached_property
    def held(self) -> dict[str, list[int]]:
        """Symbol → the places of its positions: one, or the two legs of a hedge."""
        held: dict[str, list[int]] = {}
        for i, p in enumerate(self.positions):
            held.setdefault(p.symbol, []).append(i)
        return held

    @cached_property
    def is_plain(self) -> bool:
        """Whether it is linear contracts in one asset, without a hedge."""
        linear = all(p.contract_size is None for p in self.positions)
        return linear and not self.assets and len({p.symbol for p in self.positions}) == len(self.positions)
