"""A saved account: one JSON object of the exchange's own REST answers, read as the daemon would read them.

    {"venue": "binance-usdm", "accountConfig": {…}, "account": {…}, "positionRisk": […], "symbolConfig": […],
     "leverageBracket": […], "premiumIndex": […], "exchangeInfo": {…}}

Pure. What is absent is derived or reported as missing: marks come from `positionRisk.markPrice`, else from
`premiumIndex`; without `account`, isolated positions can be assessed all the same.
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext

import msgspec
from msgspec import Struct, structs

from monitor.accounts import WatchedAccount
from monitor.effects import AccountSetup, Ages, PoolState, PositionState
from monitor.errors import DecodeError
from monitor.events import (
    AccountModeRead,
    AssetRates,
    BalancesRead,
    BracketsRead,
    ContractsRead,
    Event,
    MarginsPrinted,
    MarginTypesRead,
    MarkPrice,
    Now,
    PositionsRead,
)
from monitor.market import MarketBook
from monitor.publication import states
from monitor.risk import EXACT
from monitor.risk.scenario import LADDER
from monitor.rules import RuleBook, Severity
from monitor.venues import VENUES
from monitor.whatif import NOTHING, WhatIf, apply

NAME = "snapshot"
_TIME = re.compile(rb'"(?:updateTime|time|serverTime)"\s*:\s*(\d{12,14})')

Ladder = dict[Decimal, Decimal | None]
"""Uniform relative move of all marks → a pool's margin ratio after it; None: unknown."""


class Assessment(Struct, frozen=True):
    """The risk of a saved account.

    Args:
        missing: What could not be computed, and why.
        ladders: Pool id → what moves of the market would do to it, falls first.
        steps: What was changed before this was computed, in words.
        before: The account as it was saved; None: nothing was changed.
    """

    pools: tuple[PoolState, ...]
    positions: tuple[PositionState, ...]
    missing: tuple[str, ...]
    ladders: dict[str, Ladder] = {}
    steps: tuple[str, ...] = ()
    before: Assessment | None = None


def assess_snapshot(raw: bytes, what_if: WhatIf = NOTHING) -> Assessment:
    """Assess a snapshot file's bytes.

    Args:
        what_if: Changes to make first.

    Raises:
        DecodeError: Not JSON, an unknown venue, or an answer that misreads.
        WhatIfError: The account has not what is to be changed.
    """
    try:
        bodies = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(bodies.pop("venue", msgspec.Raw(b'""')), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f"the snapshot is not a JSON object: {exc}") from None
    venue = VENUES.get(name)
    if venue is None:
        raise DecodeError(f'"venue" is {name!r}; known are {", ".join(VENUES)}')
    unknown = sorted(bodies.keys() - venue.bodies.keys())
    if unknown:
        raise DecodeError(f"unknown keys {', '.join(unknown)}; known are {', '.join(venue.bodies)}")
    times = [int(found) for found in _TIME.findall(raw)]
    now = Now(0.0, max(times, default=0))
    market = MarketBook()
    account = WatchedAccount(AccountSetup(NAME, name, NAME), market, RuleBook(), 0)
    events: list[Event] = []
    for key, request in venue.bodies.items():
        if key in bodies:
            try:
                events += venue.decode_answer(request, bytes(bodies[key]), NAME, NAME, now.wall_ms)
            except DecodeError as exc:
                raise DecodeError(f'"{key}": {exc}') from None
    with localcontext(EXACT):
        _apply(account, market, events, now)
        saved = _assess(account, now)
        if not what_if.is_asked or not account.book.positions_read:
            return structs.replace(saved, ladders=_ladders(account))
        steps = apply(account, what_if)
        changed = _assess(account, now)
        return structs.replace(changed, ladders=_ladders(account), steps=steps, before=saved)


def _apply(account: WatchedAccount, market: MarketBook, events: list[Event], now: Now) -> None:
    # Marks last: positionRisk says what the exchange itself computed with, and wins over premiumIndex.
    for event in events:
        if isinstance(event, MarkPrice):
            market.apply_mark(event, now)
        elif isinstance(event, BalancesRead):
            account.book.apply_balances(event, now.mono)
        elif isinstance(event, MarginTypesRead):
            account.book.isolated.update(event.isolated)
        elif isinstance(event, BracketsRead):
            account.book.brackets.apply(event)
        elif isinstance(event, ContractsRead):
            market.listings.apply_contracts(event.contracts, now, event.assets)
        elif isinstance(event, AssetRates):
            market.apply_rates(event, now)
        elif isinstance(event, AccountModeRead):
            account.book.multi_assets = event.multi_assets
    for event in events:
        if isinstance(event, MarginsPrinted):
            account.book.brackets.compare(event)
        if isinstance(event, PositionsRead):
            account.book.apply_positions(event, now.mono)
            for position, figures in event.rows:
                if figures is not None and figures.mark_price > 0:  # it prints 0 where it has none
                    known = market.marks.get(position.symbol)
                    funding = market.funding(position.symbol)
                    at_ms = max(now.wall_ms, known.at_ms if known else 0)
                    market.apply_mark(MarkPrice(NAME, position.symbol, figures.mark_price, at_ms, *funding), now)


def _assess(account: WatchedAccount, now: Now) -> Assessment:
    missing = [] if account.book.positions_read else ["positionRisk: positions are unknown"]
    account.take_pools(account.derived())
    pools, positions = [], []
    for pool_id in account.pools:
        _, risk = account.assess(pool_id)
        ages = Ages("stale" if risk.missing else "live", None, None)
        for state in states(account, risk, Severity.OK, ages, now):
            if isinstance(state, PoolState):
                pools.append(state)
            else:
                positions.append(state)
        missing += [f"{pool_id}: {what} is unknown" for what in risk.missing]
    return Assessment(tuple(pools), tuple(positions), tuple(missing))


def _ladders(account: WatchedAccount) -> dict[str, Ladder]:
    """The ladder that is published, and the same moves upward."""
    prices = account.market.prices
    marks = dict(prices)
    ladders: dict[str, Ladder] = {pool_id: {} for pool_id in account.pools}
    for move in (*LADDER, *(-move for move in LADDER)):
        prices.update({symbol: mark * (1 + move) for symbol, mark in marks.items()})
        for pool_id, ladder in ladders.items():
            ladder[move] = account.assess(pool_id)[1].margin_ratio
    prices.update(marks)
    return ladders
