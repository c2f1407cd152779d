"""Collateral in several assets, each worth its bid rate while there is some and its ask rate while it is owed.

    value(e) = min(e × bid, e × ask) = e × bid − (ask − bid) × max(0, −e)

A pool in single-asset mode holds its one asset at par, where nothing of this makes a difference. For the solver, a
position valued so is still a leg, with other rates in its brackets; the bend of value(e) at e = 0 is a leg too.

Source: Binance Support, "Margin ratio and liquidation in Multi-Assets Mode".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from msgspec import Struct

from monitor.events import AssetRate, Bracket
from monitor.risk.liquidation import Leg
from monitor.risk.margin import ONE, ZERO, BracketTable

PAR = AssetRate(ONE, ONE)


class Purse(Struct):
    """One asset of a pool.

    Args:
        wallet_balance: Of the asset (asset); so are the unrealized PnL and the maintenance margin of its positions.
    """

    rate: AssetRate
    wallet_balance: Decimal
    unrealized_pnl: Decimal = ZERO
    maintenance_margin: Decimal = ZERO

    @property
    def equity(self) -> Decimal:
        """Wallet balance plus unrealized PnL (asset)."""
        return self.wallet_balance + self.unrealized_pnl


def value(amount: Decimal, rate: AssetRate) -> Decimal:
    """What an amount of an asset counts for as collateral; a debt costs the higher rate."""
    return amount if rate is PAR else min(amount * rate.bid, amount * rate.ask)


def cost(maintenance_margin: Decimal, rate: AssetRate) -> Decimal:
    """What maintenance margin in an asset counts for: always the higher rate."""
    return maintenance_margin if rate is PAR else maintenance_margin * rate.ask


def margin_balance(purses: Iterable[Purse]) -> Decimal:
    return sum([value(purse.equity, purse.rate) for purse in purses], ZERO)


def maintenance_margin(purses: Iterable[Purse]) -> Decimal:
    return sum([cost(purse.maintenance_margin, purse.rate) for purse in purses], ZERO)


def amount_worth(worth: Decimal, equity: Decimal, rate: AssetRate) -> Decimal | None:
    """How much of an asset adds this much to the margin balance; what is owed is paid off at the ask rate first.

    None: the asset is worth nothing.
    """
    debt = max(ZERO, -equity)
    if worth <= debt * rate.ask:
        return worth / rate.ask if rate.ask > 0 else None
    return None if rate.bid <= 0 else debt + (worth - debt * rate.ask) / rate.bid


def valued(legs: Sequence[Leg], still: Decimal, rate: AssetRate) -> tuple[list[Leg], Decimal]:
    """The legs of one asset as they count, and what counts of it whatever happens to them.

    Args:
        legs: Those of the asset's positions that move.
        still: The part of its equity that does not: wallet balance, and the PnL of positions that stand still.
    """
    if rate is PAR:
        return list(legs), still
    counted = [Leg(leg.exposure, leg.offset * rate.bid, _counted(leg, rate)) for leg in legs]
    slope = sum((leg.exposure for leg in legs), ZERO)
    constant = still + sum((leg.offset for leg in legs), ZERO)
    spread = rate.ask - rate.bid
    bend = _bend(slope * spread, constant * spread)
    if bend is not None:
        counted.append(bend)
    return counted, still * rate.bid


def _counted(leg: Leg, rate: AssetRate) -> BracketTable:
    """Brackets with which exposure·t − margin gives exposure·t × bid − margin × ask."""
    part = (ONE - rate.bid) if leg.exposure > 0 else (rate.bid - ONE)
    brackets = [Bracket(b.number, b.floor, part + b.rate * rate.ask, b.amount * rate.ask) for b in leg.table.brackets]
    return BracketTable(tuple(brackets), leg.table.convex)


def _bend(slope: Decimal, constant: Decimal) -> Leg | None:
    """min(0, slope·t + constant) as a leg of exposure 1: brackets with t − margin(t) equal to it. None: always 0."""
    owed, nothing = Bracket(0, ZERO, ONE - slope, constant), Bracket(0, ZERO, ONE, ZERO)
    zero = -constant / slope if slope else None
    if zero is None or zero <= 0:
        is_owed = slope < 0 or (not slope and constant < 0)
        return Leg(ONE, ZERO, BracketTable((owed,), True)) if is_owed else None
    first, then = (owed, nothing) if slope > 0 else (nothing, owed)
    then = Bracket(1, zero, then.rate, then.amount)
    return Leg(ONE, ZERO, BracketTable((first, then), True))
