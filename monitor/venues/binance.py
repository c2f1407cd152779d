"""What the Binance venues share: account events of the private stream and the answers that have one shape.

Wire names (`wb`, `cum`, `E`) stay in these files. Source: Binance's derivatives documentation, user data streams and
account endpoints, as of 2026-05, with the traps that real frames add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from monitor.errors import DecodeError
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    AdlQuantilesRead,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    ConfigTouched,
    Event,
    ExchangeFigures,
    Fill,
    ForcedKind,
    MarginCall,
    MarginsPrinted,
    MarginTypesRead,
    OrdersCancelled,
    Position,
    PositionKey,
    PositionsRead,
    Side,
    StrategyEnded,
    StreamControl,
    StreamExpired,
)
from monitor.venues.wire import (
    Reply,
    a_list,
    decimal,
    flag,
    integer,
    misread,
    moment,
    one_line,
    optional_text,
    parse,
    text,
    truncated,
)

T = TypeVar("T")
Frame = Mapping[str, Any]

MISREADS = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError, msgspec.MsgspecError)
"""What reading a malformed body can raise; all of it becomes `DecodeError`."""

ZERO = Decimal(0)

PRIVATE_EVENTS = (
    "ACCOUNT_UPDATE",
    "ORDER_TRADE_UPDATE",
    "MARGIN_CALL",
    "ACCOUNT_CONFIG_UPDATE",
    "listenKeyExpired",
    "TRADE_LITE",
    "ALGO_UPDATE",
    "STRATEGY_UPDATE",
    "GRID_UPDATE",
    "CONDITIONAL_ORDER_TRIGGER_REJECT",
)
"""Every event that the private stream has; named when it is opened, since what is not named may not come."""

_FORCED = {
    "autoclose-": ForcedKind.LIQUIDATION,
    "adl_autoclose": ForcedKind.ADL,
    "settlement_autoclose-": ForcedKind.SETTLEMENT,
    "delivery_autoclose-": ForcedKind.SETTLEMENT,
}
_EXPIRED_BY_LIQUIDATION = "5"
_STRATEGY_LIQUIDATED = {8005: True, 8015: False}
_HIGHEST_QUANTILE = 4
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_ROWS_REMEMBERED = 4096
"""Many accounts are told the same of all symbols, in answers of half a megabyte: each row is read and kept once."""
_symbol = lru_cache(_ROWS_REMEMBERED)(text)


def side(value: object) -> Side:
    return Side(text(value).lower())


def unwrapped(frame: Any) -> Any:
    """The payload of a combined-stream envelope, or the frame itself."""
    return frame["data"] if isinstance(frame, dict) and "stream" in frame and "data" in frame else frame


# ---- private stream ----


def account_update(frame: Frame, account: str) -> Iterable[Event]:
    """`ACCOUNT_UPDATE`: what changed, and why. `P` may be absent, and `bc` too in older payloads."""
    at_ms = moment(frame["T"])
    body = frame["a"]
    balances = body.get("B") or ()
    yield AccountChanged(
        account=account,
        reason=text(body["m"]),
        balances=tuple(Balance(text(b["a"]), decimal(b["wb"]), decimal(b["cw"]), at_ms) for b in balances),
        positions=tuple(_pushed_position(p, at_ms) for p in body.get("P") or ()),
        symbol=optional_text(body.get("S")),
        changes={text(b["a"]): decimal(b["bc"]) for b in balances if "bc" in b},
        at_ms=at_ms,
    )


def _pushed_position(row: Frame, at_ms: int) -> Position:
    return Position(
        symbol=text(row["s"]),
        side=side(row.get("ps", "BOTH")),
        quantity=decimal(row["pa"]),
        entry_price=truncated(decimal(row["ep"])),
        isolated=text(row["mt"]).lower() == "isolated",
        isolated_wallet=decimal(row.get("iw", "0")),
        at_ms=at_ms,
        margin_asset=optional_text(row.get("ma")),
    )


def _forced_kind(client_id: str) -> ForcedKind | None:
    return next((kind for prefix, kind in _FORCED.items() if client_id.startswith(prefix)), None)


def order_trade_update(frame: Frame, account: str) -> Iterable[Event]:
    """`ORDER_TRADE_UPDATE`: executions, forced orders from their first frame, and own orders that a liquidation ends.

    A forced order is known by its client id; only where that says nothing by type or execution. A real liquidation
    has been recorded as type LIQUIDATION with execution TRADE, so CALCULATED alone would miss it.
    """
    order = frame["o"]
    client_id = str(order.get("c", ""))
    forced = _forced_kind(client_id)
    if forced is None and (order.get("o") == "LIQUIDATION" or order.get("x") == "CALCULATED"):
        forced = ForcedKind.LIQUIDATION
    ended = order.get("x") in ("EXPIRED", "CANCELED")
    if forced is None and ended and str(order.get("er")) == _EXPIRED_BY_LIQUIDATION:
        yield OrdersCancelled(account, text(order["s"]), integer(order["i"]), moment(order["T"]))
    executed = decimal(order.get("l", "0")) if order.get("x") in ("TRADE", "CALCULATED") else ZERO
    if not executed and forced is None:
        return
    yield Fill(
        account=account,
        symbol=text(order["s"]),
        side=side(order.get("ps", "BOTH")),
        quantity=executed if order["S"] == "BUY" else -executed,
        price=decimal(order.get("L", "0")),
        realized_pnl=decimal(order.get("rp", "0")),
        commission=decimal(order.get("n") or "0"),
        commission_asset=optional_text(order.get("N")),
        forced=forced,
        order_id=integer(order["i"]),
        trade_id=integer(order.get("t", 0)),
        at_ms=moment(order["T"]),
    )


def account_config_update(frame: Frame, account: str) -> Iterable[Event]:
    """`ACCOUNT_CONFIG_UPDATE`: a leverage, or the switch of the multi-assets mode."""
    at_ms = moment(frame["T"])
    if "ai" in frame:
        yield AccountModeChanged(account, flag(frame["ai"]["j"]), at_ms)
    if "ac" in frame:
        yield ConfigTouched(account, text(frame["ac"]["s"]), at_ms)


def margin_call(frame: Frame, account: str) -> Iterable[Event]:
    """`MARGIN_CALL`: the positions that the exchange worries about."""

    def read(row: Frame) -> tuple[PositionKey, Decimal, Decimal]:
        return PositionKey(text(row["s"]), side(row.get("ps", "BOTH"))), decimal(row["mm"]), decimal(row["up"])

    yield MarginCall(account, tuple(each_readable(read, frame["p"])), moment(frame["E"]))


def strategy_update(frame: Frame, account: str) -> Iterable[Event]:
    """`STRATEGY_UPDATE`: of its opcodes only those that may mean a liquidation."""
    strategy = frame["su"]
    liquidated = _STRATEGY_LIQUIDATED.get(integer(strategy["c"]))
    if liquidated is not None:
        yield StrategyEnded(account, text(strategy["s"]), integer(strategy["si"]), liquidated, moment(frame["T"]))


def _expired(frame: Frame, account: str) -> Iterable[Event]:
    yield StreamExpired(account, optional_text(frame.get("listenKey")))


_SHUTDOWN = "serverShutdown"
_SHUTDOWN_NOTE = StreamControl("server shutdown announced")


def _shutdown(frame: Frame, account: str) -> Iterable[Event]:
    yield _SHUTDOWN_NOTE


_PRIVATE: dict[str, Callable[[Frame, str], Iterable[Event]]] = {
    "ACCOUNT_UPDATE": account_update,
    "ORDER_TRADE_UPDATE": order_trade_update,
    "ACCOUNT_CONFIG_UPDATE": account_config_update,
    "MARGIN_CALL": margin_call,
    "STRATEGY_UPDATE": strategy_update,
    "listenKeyExpired": _expired,
    _SHUTDOWN: _shutdown,
    # Of no use for the risk of an account: TRADE_LITE repeats ORDER_TRADE_UPDATE with less, ALGO_UPDATE, GRID_UPDATE
    # and CONDITIONAL_ORDER_TRIGGER_REJECT tell of orders that have not traded.
}


def decode_private(raw: bytes, account: str) -> list[Event]:
    """Read one frame of a private stream. An acknowledgement, or an event of no use here, gives [].

    Raises:
        DecodeError: Not JSON, or a known event that misreads.
    """
    try:
        frame = unwrapped(parse(raw))
        frames = frame if isinstance(frame, list) else [frame]
        return [
            event
            for one in frames
            if (read := _PRIVATE.get(one.get("e") or (one.get("event") or {}).get("e", "")))
            for event in read(one, account)
        ]
    except MISREADS as exc:
        raise misread(exc, raw) from exc


_NOTHING = msgspec.Raw()


class _Refusal(Struct):
    code: int


class _Named(Struct):
    e: str | None = None


class _Envelope(Struct):
    """What a connection of several private streams carries: a frame and its stream, or the answer to a subscription.
    Its error is documented as flat, and would be understood within `error` too."""

    stream: str | None = None
    data: msgspec.Raw = _NOTHING
    id: int | None = None
    code: int | None = None
    error: _Refusal | None = None
    e: str | None = None
    event: _Named | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def addressee(raw: bytes) -> str | Reply | StreamControl:
    """Whose a frame is, on a connection of several private streams: the stream's key. What is nobody's is a reply, or
    concerns the connection as a whole.

    Raises:
        DecodeError: It is none of these; nothing but the envelope says of which account it tells.
    """
    try:
        frame = _ENVELOPE.decode(raw)
        if frame.stream is not None and frame.data is not _NOTHING:
            return frame.stream
        if frame.error is not None or frame.code is not None:
            return Reply(frame.id, frame.code if frame.error is None else frame.error.code)
        if frame.id is not None:
            return Reply(frame.id)
    except MISREADS as exc:
        raise misread(exc, raw) from exc
    if _SHUTDOWN in (frame.e, frame.event and frame.event.e):
        return _SHUTDOWN_NOTE
    raise DecodeError(f"no envelope that says whose it is: {one_line(raw)}")


# ---- REST ----


def balances_read(body: Any, account: str, sent_ms: int) -> Iterable[Event]:
    """`assets` of the account answer."""
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
    """`forceOrders`: own orders that the exchange sent, as one execution each; PnL and commission it does not say."""

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
            forced=_forced_kind(str(row.get("clientOrderId", ""))) or ForcedKind.LIQUIDATION,
            order_id=integer(row["orderId"]),
            trade_id=0,
            at_ms=moment(row.get("updateTime", row["time"])),
        )

    return each_readable(read, a_list(body))


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


def each_readable(read: Callable[[Any], T], rows: Iterable[Any]) -> Iterable[T]:
    """The rows of a market-wide list that read; one odd symbol among hundreds must not blind us for the others.

    What is left out is unknown, and is told as such where it is held. Where not one row reads, it is the list that is
    wrong (an error body, another format), and the first row's error is raised.
    """
    wrong, any_reads = None, False
    for row in rows:
        try:
            value = read(row)
        except MISREADS as exc:
            wrong = wrong or exc
        else:
            any_reads = True
            yield value
    if wrong is not None and not any_reads:
        raise wrong


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


def bracket_rows(rows: Any, number: str, floors: Iterable[str], rate: str, amount: str) -> tuple[Bracket, ...]:
    """The brackets of one symbol, by what their numbers are called here.

    Args:
        floors: What the lower edge is called, in order of preference.
    """
    brackets = sorted(
        (
            Bracket(
                number=integer(row[number]),
                floor=decimal(next((row[name] for name in floors if name in row), None)),
                rate=decimal(row[rate]),
                amount=decimal(row[amount]),
            )
            for row in rows
        ),
        key=lambda bracket: bracket.floor,
    )
    if not brackets:
        raise ValueError("a symbol without brackets")
    if any(not 0 <= bracket.rate < 1 for bracket in brackets):
        raise ValueError("a maintenance rate outside 0 … 1")
    return tuple(brackets)
