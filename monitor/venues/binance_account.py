"""What REST says of an account at the Binance venues: balances, positions, brackets, settings, forced orders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from monitor.events import (
    AdlQuantilesRead,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    Event,
    ExchangeFigures,
    Fill,
    ForcedKind,
    MarginsPrinted,
    MarginTypesRead,
    Position,
    PositionKey,
    PositionsRead,
    Side,
)
from monitor.venues.binance import MISREADS, ZERO, Frame, T, bracket_rows, each_readable, forced_kind, side
from monitor.venues.wire import (
    a_list,
    decimal,
    integer,
    moment,
    optional_text,
    parse,
    text,
    truncated,
)

_HIGHEST_QUANTILE = 4
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_ROWS_REMEMBERED = 4096
"""Many accounts are told the same of all symbols, in answers of half a megabyte: each row is read and kept once."""
_symbol = lru_cache(_ROWS_REMEMBERED)(text)


def balances_read(body: Any, account: str, sent_ms: int) -> Iterable[Event]:
    """`assets` of the account answer, and whose `positions` are open."""

    def held(row: Frame) -> PositionKey | None:
        key = PositionKey(text(row["symbol"]), side(row.get("positionSide", "BOTH")))
        return key if decimal(row["positionAmt"]) else None

    given = body.get("positions")
    keys = [_or_none(held, row) for row in given] if isinstance(given, list) else []
    yield BalancesRead(
        account,
        tuple(
            Balance(
                text(row["asset"]),
                decimal(row["walletBalance"]),
                decimal(row["crossWalletBalance"]),
                moment(row.get("updateTime", 0)),
            )
            for row in a_list(body["assets"])
        ),
        sent_ms,
        frozenset(key for key in keys if key is not None),
    )


def margins_printed(body: Any, account: str) -> Iterable[Event]:
    """`positions` of the COIN-M account answer: its `positionRisk` has no maintenance margin."""

    def read(row: Frame) -> tuple[str, Decimal, Decimal] | None:
        if "notionalValue" not in row or not decimal(row["positionAmt"]):
            return None
        return text(row["symbol"]), abs(decimal(row["notionalValue"])), decimal(row["maintMargin"])

    rows = (_or_none(read, row) for row in body.get("positions", ()))
    yield MarginsPrinted(account, tuple(row for row in rows if row is not None))


def positions_read(body: Any, account: str, sent_ms: int) -> Iterable[Event]:
    """Rows of `positionRisk`, with what the exchange computed for each. A row may have orders but no position, and of
    most symbols there is none: what is odd about such a row hides no position that there is."""

    def read(row: Frame) -> tuple[Position, ExchangeFigures | None] | None:
        try:
            return _position_row(row)
        except MISREADS:
            if decimal(row["positionAmt"]):
                raise
            return None

    rows = map(read, a_list(body))
    yield PositionsRead(account, tuple(row for row in rows if row is not None), sent_ms)


def _position_row(row: Frame) -> tuple[Position, ExchangeFigures | None]:
    quantity = decimal(row["positionAmt"])
    position = Position(
        symbol=text(row["symbol"]),
        side=side(row.get("positionSide", "BOTH")),
        quantity=quantity,
        entry_price=truncated(decimal(row["entryPrice"])),
        isolated=_is_isolated(row, quantity),
        isolated_wallet=_isolated_wallet(row),
        at_ms=moment(row.get("updateTime", 0)),
        margin_asset=optional_text(row.get("marginAsset")),
    )
    return position, _or_none(_figures, row) if quantity else None


def _figures(row: Frame) -> ExchangeFigures:
    printed = _or_none(decimal, row.get("liquidationPrice", "0"))
    return ExchangeFigures(
        mark_price=decimal(row["markPrice"]),
        unrealized_pnl=decimal(row.get("unRealizedProfit", row.get("unrealizedProfit", "0"))),
        maintenance_margin=decimal(row["maintMargin"]) if "maintMargin" in row else None,
        liquidation_price=printed if printed is not None and printed > 0 else None,
        adl_quantile=_or_none(_quantile, row.get("adl")),
    )


def _quantile(value: object) -> int:
    quantile = integer(value)
    if not 0 <= quantile <= _HIGHEST_QUANTILE:
        raise ValueError(f"not a quantile: {quantile}")
    return quantile


def _or_none(read: Callable[[Any], T | None], value: object) -> T | None:
    """What decides nothing about the position: where it misreads it is unknown, and the row stays.

    The price of a short position that is all but covered by its coins may be of any size.
    """
    try:
        return read(value)
    except (ValueError, KeyError, TypeError):
        return None


def adl_quantiles_read(body: Any, account: str) -> Iterable[Event]:
    """`adlQuantile`: in one-way mode a row has `LONG`, `SHORT` and `BOTH`; `HEDGE` is a marker and no quantile."""

    def read(row: Frame) -> list[tuple[PositionKey, int]]:
        symbol, quantiles = text(row["symbol"]), row["adlQuantile"]
        said = {s: quantiles.get(s.name) for s in Side}
        return [(PositionKey(symbol, s), _quantile(value)) for s, value in said.items() if value is not None]

    rows = each_readable(read, body if isinstance(body, list) else [body])
    yield AdlQuantilesRead(account, {key: quantile for row in rows for key, quantile in row})


def _is_isolated(row: Frame, quantity: Decimal) -> bool | None:
    """`marginType`; where the row has none, an open position has isolated margin or not. None: it does not say.

    A setting that was read before it was switched must not take a position out of its cross pool, without any margin.
    """
    margin_type = row.get("marginType")
    if margin_type is not None:
        return text(margin_type).lower() == "isolated"
    if not quantity or "isolatedMargin" not in row:
        return None
    return bool(decimal(row["isolatedMargin"]) or decimal(row.get("isolatedWallet", "0")))


def _isolated_wallet(row: Frame) -> Decimal:
    """`isolatedWallet`; COIN-M documents only `isolatedMargin`, which has the unrealized PnL in it."""
    if "isolatedWallet" in row:
        return decimal(row["isolatedWallet"])
    margin = decimal(row.get("isolatedMargin", "0"))
    return margin - decimal(row["unRealizedProfit"]) if margin else ZERO


def forced_read(body: Any, account: str) -> Iterable[Event]:
    """`forceOrders`: own orders that the exchange sent, as one execution each; PnL and commission it does not say. The
    oldest is first here, whichever is in the answer."""

    def read(row: Frame) -> Fill:
        executed = decimal(row["executedQty"])
        return Fill(
            account=account,
            symbol=text(row["symbol"]),
            side=side(row.get("positionSide", "BOTH")),
            quantity=executed if row["side"] == "BUY" else -executed,
            price=decimal(row["avgPrice"]),
            realized_pnl=ZERO,
            commission=ZERO,
            commission_asset=None,
            forced=forced_kind(str(row.get("clientOrderId", ""))) or ForcedKind.LIQUIDATION,
            order_id=integer(row["orderId"]),
            trade_id=0,
            at_ms=moment(row.get("updateTime", row["time"])),
        )

    return sorted(each_readable(read, a_list(body)), key=attrgetter("at_ms"))


def rows_of(body: bytes) -> list[bytes]:
    """The rows of a list as they stand there; of an object, which is all that is said of a single symbol, that one.

    Raises:
        ValueError: Not JSON, or neither.
    """
    if body.lstrip()[:1] == b"{":
        return [body]
    return [bytes(row) for row in _ROWS.decode(body)]


def margin_types_read(rows: Iterable[bytes], account: str) -> Iterable[Event]:
    """Rows of `symbolConfig`."""
    yield MarginTypesRead(account, dict(each_readable(_margin_type, rows)))


@lru_cache(maxsize=_ROWS_REMEMBERED)
def _margin_type(raw: bytes) -> tuple[str, bool]:
    row = parse(raw)
    return _symbol(row["symbol"]), text(row["marginType"]).lower() == "isolated"


def brackets_read(rows: Iterable[bytes], account: str, *floors: str) -> Iterable[Event]:
    """Rows of `leverageBracket`. Rates and amounts are bare JSON numbers.

    Args:
        floors: What the lower edge of a bracket is called, in order of preference.
    """
    read = list(each_readable(lambda raw: _symbol_brackets(raw, floors), rows))
    brackets = {symbol: brackets for symbol, brackets, _ in read}
    yield BracketsRead(account, brackets, {symbol: coef for symbol, _, coef in read if coef is not None})


@lru_cache(maxsize=_ROWS_REMEMBERED)
def _symbol_brackets(raw: bytes, floors: tuple[str, ...]) -> tuple[str, tuple[Bracket, ...], Decimal | None]:
    row = parse(raw)
    given = row.get("notionalCoef")
    coef = None if given is None else decimal(given)
    if coef is not None and coef <= 0:
        raise ValueError(f"a bracket multiplier of {coef}")
    symbol = _symbol(row["symbol"])
    return symbol, bracket_rows(row["brackets"], "bracket", floors, "maintMarginRatio", "cum"), coef
