"""What account events have done to a pool: each as its causes, in order, with the pool after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import zip_longest

from msgspec import Struct

from monitor.events import AccountChanged, Fill
from monitor.risk.attribution import Cause, Stage
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool

_KINDS = {
    "FUNDING_FEE": "funding_fee",
    "MARGIN_TRANSFER": "margin_transfer",
    "ORDER": "fill",
    "INSURANCE_CLEAR": "insurance_clear",
    "AUTO_EXCHANGE": "auto_exchange",
    **dict.fromkeys(
        (
            "DEPOSIT",
            "WITHDRAW",
            "WITHDRAW_REJECT",
            "ADMIN_DEPOSIT",
            "ADMIN_WITHDRAW",
            "ASSET_TRANSFER",
            "COIN_SWAP_DEPOSIT",
            "COIN_SWAP_WITHDRAW",
            "OPTIONS_PREMIUM_FEE",
            "OPTIONS_SETTLE_PROFIT",
        ),
        "transfer",
    ),
}
"""The exchange's reason of an account event → kind of cause; any other is an `adjustment`."""


class Entry(Struct, frozen=True):
    """A pool after an account event.

    Args:
        kind: Of the cause.
        symbol: What the event is about; None: it is about several, or none.
        at_ms: When the exchange made it; 0: it was not told, but found.
        forecast: Of a funding fee: what had been expected of it (margin asset); None: nothing had.
    """

    kind: str
    symbol: str | None
    at_ms: int
    pool: Pool
    forecast: Decimal | None = None


def kind_of(event: AccountChanged) -> str:
    """What kind of cause an account event is."""
    return _KINDS.get(event.reason, "adjustment")


def symbol_of(event: AccountChanged) -> str | None:
    """The symbol that an event is about, where it says so or its positions are all of one."""
    if event.symbol is not None:
        return event.symbol
    symbols = {position.symbol for position in event.positions}
    return symbols.pop() if len(symbols) == 1 else None


def stages(pool: Pool, entries: Sequence[Entry], fills: Sequence[Fill]) -> list[Stage]:
    """What these account events, in order, have done to a pool.

    Args:
        pool: As it was before the first.
        fills: Executions that say how much of a fill's change was PnL and commission.
    """
    found: list[Stage] = []
    for entry, later in zip_longest(entries, entries[1:]):
        if later is not None and _is_one_order(entry, later):
            continue
        found.extend(_explained(pool, entry, fills))
        pool = entry.pool
    return found


def _is_one_order(entry: Entry, later: Entry) -> bool:
    """Whether two account events are of the same fills: an order that trades several times in one millisecond."""
    at = (later.kind, later.symbol, later.at_ms)
    return entry.kind == "fill" and (entry.kind, entry.symbol, entry.at_ms) == at


def _explained(before: Pool, entry: Entry, fills: Sequence[Fill]) -> list[Stage]:
    """One account event as causes, one for each asset that it changed; what it did to positions comes first."""
    after = entry.pool
    if entry.kind == "bracket_change":
        return []  # it is the tables that differ, not the pool
    old, new = before.wallets, after.wallets
    if old is None or new is None or entry.kind == "multi_assets_mode":
        return [Stage(Cause(entry.kind, entry.symbol), after)]
    main = _main_asset(entry, before)
    deltas = {asset: new.get(asset, ZERO) - old.get(asset, ZERO) for asset in (main, *sorted(old | new))}
    path = _Path(after.with_wallets({**new, **{asset: old.get(asset, ZERO) for asset in deltas}}))
    for asset, delta in deltas.items():
        if entry.kind == "fill" and (delta or asset == main):
            _add_fill(path, before, entry, asset, delta, fills, is_main=asset == main)
        elif delta or (asset == main and not any(deltas.values())):
            path.then(Cause(entry.kind, entry.symbol, delta, asset=asset, forecast=entry.forecast))
    return path.stages


def _main_asset(entry: Entry, pool: Pool) -> str:
    """The asset that an event is about: that of its symbol's positions."""
    assets = [p.margin_asset for p in (*entry.pool.positions, *pool.positions) if p.symbol == entry.symbol]
    return (assets[0] if assets and pool.assets else None) or min(entry.pool.wallets or (), default=pool.asset)


def _add_fill(
    path: _Path, before: Pool, entry: Entry, asset: str, delta: Decimal, fills: Sequence[Fill], *, is_main: bool
) -> None:
    """A fill's part that was PnL and commission is told apart where it is known; commission may be paid in an asset of
    its own."""
    after = entry.pool
    if all(p.symbol != entry.symbol for p in (*before.positions, *after.positions)):
        path.then(Cause("fill", entry.symbol, delta, asset=asset))  # another pool's fill, margin went there
        return
    was, now = ({p.key: p.quantity for p in pool.positions if p.symbol == entry.symbol} for pool in (before, after))
    filled = sum(now.values(), ZERO) - sum(was.values(), ZERO)
    told = [f for f in fills if f.at_ms == entry.at_ms and f.symbol == entry.symbol]
    own = {(f.order_id, f.trade_id): f for f in told}.values()  # one that is told twice counts once
    realized = sum((f.realized_pnl for f in own), ZERO) if is_main else ZERO
    commission = -sum((f.commission for f in own if f.commission_asset == asset), ZERO)
    rest = delta - realized - commission
    if is_main:
        path.then(Cause("fill", entry.symbol, rest, filled, asset=asset))
    elif rest:
        path.then(Cause("fill", entry.symbol, rest, asset=asset))
    if realized:
        path.then(Cause("realized_pnl", entry.symbol, realized, asset=asset))
    if commission:
        path.then(Cause("commission", entry.symbol, commission, asset=asset))


class _Path:
    """A pool as one cause after the other changes its wallets.

    Args:
        pool: With the wallets as they were before the first.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.stages: list[Stage] = []

    def then(self, cause: Cause) -> None:
        wallets = self._pool.wallets
        if cause.asset is not None and wallets is not None:
            wallets[cause.asset] = wallets.get(cause.asset, ZERO) + (cause.amount or ZERO)
            self._pool = self._pool.with_wallets(wallets)
        self.stages.append(Stage(cause, self._pool))
