"""The private stream that the Binance venues share: what happens to an account, and whose frame it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec
from msgspec import Struct

from monitor.errors import DecodeError
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    Balance,
    ConfigTouched,
    Event,
    Fill,
    ForcedKind,
    MarginCall,
    OrdersCancelled,
    Position,
    PositionKey,
    StrategyEnded,
    StreamControl,
    StreamExpired,
)
from monitor.venues.binance import MISREADS, ZERO, Frame, each_readable, forced_kind, side, unwrapped
from monitor.venues.wire import (
    Reply,
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

_EXPIRED_BY_LIQUIDATION = "5"
_STRATEGY_LIQUIDATED = {8005: True, 8015: False}


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


def order_trade_update(frame: Frame, account: str) -> Iterable[Event]:
    """`ORDER_TRADE_UPDATE`: executions, forced orders from their first frame, and own orders that a liquidation ends.

    A forced order is known by its client id; only where that says nothing by type or execution. A real liquidation
    has been recorded as type LIQUIDATION with execution TRADE, so CALCULATED alone would miss it.
    """
    order = frame["o"]
    client_id = str(order.get("c", ""))
    forced = forced_kind(client_id)
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
