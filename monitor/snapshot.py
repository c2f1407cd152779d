"""A saved account: one JSON object of the exchange's own REST answers, read as the daemon would read them.

    {"venue": "binance-usdm", "accountConfig": {…}, "account": {…}, "positionRisk": […], "symbolConfig": […],
     "leverageBracket": […], "premiumIndex": […], "exchangeInfo": {…}}

Pure. What is absent is derived or reported as missing: marks come from `positionRisk.markPrice`, else from
`premiumIndex`; without `account`, isolated positions can be assessed all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext

import msgspec
from msgspec import Struct

from monitor.accounts import WatchedAccount
from monitor.book import MarketBook
from monitor.effects import AccountSetup, Ages, PoolState, PositionState
from monitor.errors import DecodeError
from monitor.events import (
    AccountModeRead,
    BalancesRead,
    BracketsRead,
    ContractsRead,
    Event,
    MarginTypesRead,
    MarkPrice,
    Now,
    PositionsRead,
)
from monitor.publication import pool_state, position_state
from monitor.risk import EXACT
from monitor.rules import RuleBook, Severity
from monitor.venues import VENUES

NAME = "snapshot"
_TIME = re.compile(rb'"(?:updateTime|time|serverTime)"\s*:\s*(\d{12,14})')
_SHOCK = re.compile(r"(\*|[^=\s]+)=([+-]?\d+(?:\.\d+)?)%")


class Assessment(Struct, frozen=True):
    """The risk of a saved account.

    Args:
        missing: What could not be computed, and why.
    """

    pools: tuple[PoolState, ...]
    positions: tuple[PositionState, ...]
    missing: tuple[str, ...]


def assess_snapshot(raw: bytes, shocks: Mapping[str, Decimal] | None = None) -> Assessment:
    """Assess a snapshot file's bytes.

    Args:
        shocks: Symbol, or `*` for all, → relative move of its mark, applied first.

    Raises:
        DecodeError: Not JSON, an unknown venue, or an answer that misreads.
    """
    try:
        bodies = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(bodies.pop("venue", msgspec.Raw(b'""')), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError(f"the snapshot is not a JSON object: {exc}") from None
    venue = VENUES.get(name)
    if venue is None:
        raise DecodeError(f'"venue" is {name!r}; known are {", ".join(VENUES)}')
    unknown = sorted(bodies.keys() - venue.bodies.keys() - {"assetIndex"})
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
        return _assess(account, shocks or {}, now)


def shock(text: str) -> tuple[str, Decimal]:
    """`BTCUSDT=-5%` → symbol and fraction.

    Raises:
        ValueError: It is not of that form, or takes the price to zero or below.
    """
    found = _SHOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not of the form SYMBOL=-5%")
    move = Decimal(found[2]) / 100
    if move <= -1:
        raise ValueError(f"{text!r} would take the price to zero or below")
    return found[1], move


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
            account.book.apply_brackets(event.brackets)
        elif isinstance(event, ContractsRead):
            market.contracts.update(event.contracts)
        elif isinstance(event, AccountModeRead):
            account.book.hedge, account.book.multi_assets = event.hedge, event.multi_assets
    for event in events:
        if isinstance(event, PositionsRead):
            account.book.apply_positions(event, now.mono)
            for position, figures in event.rows:
                if figures is not None and figures.mark_price > 0:  # it prints 0 where it has none
                    known = market.marks.get(position.symbol)
                    funding = (known.funding_rate, known.next_funding_ms) if known else (None, None)
                    at_ms = max(now.wall_ms, known.at_ms if known else 0)
                    market.apply_mark(MarkPrice(NAME, position.symbol, figures.mark_price, at_ms, *funding), now)


def _assess(account: WatchedAccount, shocks: Mapping[str, Decimal], now: Now) -> Assessment:
    if account.book.multi_assets:
        return Assessment((), (), ("multi-assets mode is not supported: no figure can be given for this account",))
    missing = [] if account.book.positions_read else ["positionRisk: positions are unknown"]
    prices = account.market.prices
    for symbol in prices:
        prices[symbol] *= 1 + shocks.get(symbol, shocks.get("*", Decimal(0)))
    missing += [f"shock of {symbol}: no such mark in the file" for symbol in shocks if symbol not in (*prices, "*")]
    account.pools = account.derived()
    pools, positions = [], []
    for pool_id in account.pools:
        _, risk = account.assess(pool_id)
        ages = Ages("stale" if risk.missing else "live", None, None)
        pools.append(pool_state(account, risk, Severity.OK, ages, now))
        positions += [position_state(account, risk, position, ages, now) for position in risk.positions]
        missing += [f"{pool_id}: {what} is unknown" for what in risk.missing]
    return Assessment(tuple(pools), tuple(positions), tuple(missing))
