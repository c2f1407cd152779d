"""Binance USDⓈ-M futures: hosts, routed streams, linear contracts, brackets by notional."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from monitor.errors import DecodeError
from monitor.events import AccountModeRead, Contract, ContractsRead, Event, MarkPrice
from monitor.venues import binance
from monitor.venues.wire import (
    Hosts,
    PrivateForm,
    Request,
    Requests,
    decimal,
    flag,
    integer,
    moment,
    number,
    one_line,
    parse,
    text,
)

_PERPETUAL_DELIVERY_MS = 4_133_404_800_000
_USDM = 1


class _Mark(Struct, gc=False):
    """The fields of `markPriceUpdate` that we need; `st` 2 marks a COIN-M symbol in a merged array."""

    e: str
    E: int
    s: str
    p: str
    r: str = ""
    T: int = 0
    st: int = _USDM


class _Envelope(Struct, gc=False):
    data: _Mark | list[_Mark]


_MARKS: msgspec.json.Decoder[_Mark | list[_Mark]] = msgspec.json.Decoder(_Mark | list[_Mark], strict=False)
_ENVELOPE = msgspec.json.Decoder(_Envelope, strict=False)


_TIME = Request("GET", "/fapi/v1/time", "none", 1)
_CONTRACTS = Request("GET", "/fapi/v1/exchangeInfo", "none", 1)
_MARKS_NOW = Request("GET", "/fapi/v1/premiumIndex", "none", 10)
_MODE = Request("GET", "/fapi/v1/accountConfig", "signed", 5)
_MARGIN_TYPES = Request("GET", "/fapi/v1/symbolConfig", "signed", 5)
_BRACKETS = Request("GET", "/fapi/v1/leverageBracket", "signed", 1)
_ACCOUNT = Request("GET", "/fapi/v3/account", "signed", 5)
_POSITIONS = Request("GET", "/fapi/v3/positionRisk", "signed", 5)
_OPEN_STREAM = Request("POST", "/fapi/v1/listenKey", "key", 1)
_KEEP_STREAM = Request("PUT", "/fapi/v1/listenKey", "key", 1)


class BinanceUsdm:
    """Binance USDⓈ-M."""

    name = "binance-usdm"

    environments: Mapping[str, Hosts] = {
        "live": Hosts(
            "https://fapi.binance.com",
            "wss://fstream.binance.com/market",
            "wss://fstream.binance.com/private",
            "https://api.binance.com",
        ),
        "testnet": Hosts(
            "https://testnet.binancefuture.com",
            "wss://fstream.binancefuture.com/market",
            "wss://fstream.binancefuture.com/private",
            "https://testnet.binance.vision",
        ),
        "demo": Hosts(
            "https://demo-fapi.binance.com",
            "wss://demo-fstream.binance.com/market",
            "wss://demo-fstream.binance.com/private",
            "https://demo-api.binance.com",
        ),
    }

    bodies: Mapping[str, Request] = {
        "accountConfig": _MODE,
        "symbolConfig": _MARGIN_TYPES,
        "leverageBracket": _BRACKETS,
        "account": _ACCOUNT,
        "positionRisk": _POSITIONS,
        "exchangeInfo": _CONTRACTS,
        "premiumIndex": _MARKS_NOW,
    }

    @property
    def requests(self) -> Requests:
        return Requests(
            time=_TIME,
            contracts=_CONTRACTS,
            marks=_MARKS_NOW,
            account=(_MODE, _MARGIN_TYPES, _BRACKETS, _ACCOUNT, _POSITIONS),
            reconcile=(_ACCOUNT, _POSITIONS),
            open_stream=_OPEN_STREAM,
            keep_stream=_KEEP_STREAM,
        )

    def market_url(self, base: str) -> str:
        return f"{base}/stream"

    def mark_streams(self, symbols: Collection[str], array_above: int) -> tuple[str, ...]:
        if len(symbols) > array_above:
            return ("!markPrice@arr@1s",)
        return tuple(f"{symbol.lower()}@markPrice@1s" for symbol in sorted(symbols))

    def subscription(self, add: bool, streams: Collection[str], request_id: int) -> str:
        method = "SUBSCRIBE" if add else "UNSUBSCRIBE"
        return json.dumps({"method": method, "params": list(streams), "id": request_id})

    def private_url(self, base: str, key: str, form: PrivateForm) -> tuple[str, str | None]:
        events = "/".join(binance.PRIVATE_EVENTS)
        if form == "path":
            return f"{base}/ws/{key}", None
        if form == "multi":
            return f"{base}/stream?listenKey={key}&events={events}", None
        if form == "subscribe":
            return f"{base}/stream", self.subscription(True, [key], 1)
        return f"{base}/ws?listenKey={key}&events={events}", None

    def stream_key(self, body: bytes) -> str:
        return str(_read(body, lambda answer: [answer["listenKey"]])[0])

    def server_time(self, body: bytes) -> int:
        return int(_read(body, lambda answer: [integer(answer["serverTime"])])[0])

    def decode_market(self, raw: bytes, market: str, wanted: Collection[str] | None) -> list[Event]:
        """Read one frame of the market stream; an acknowledgement or an event of no use here gives [].

        Raises:
            DecodeError: Not JSON, or a mark that misreads.
        """
        try:
            if b'"markPriceUpdate"' not in raw:
                parse(raw)
                return []
            marks = _ENVELOPE.decode(raw).data if b'"data"' in raw else _MARKS.decode(raw)
            if isinstance(marks, list):
                ours = [mark for mark in marks if _is_ours(mark, wanted)]
                return list(binance.each_readable(lambda mark: _mark(mark, market), ours))
            return [_mark(marks, market)] if _is_ours(marks, wanted) else []
        except binance.MISREADS as exc:
            raise DecodeError(f"{exc!r:.200} in {one_line(raw)}") from exc

    def decode_private(self, raw: bytes, account: str) -> list[Event]:
        return binance.decode_private(raw, account)

    def decode_answer(self, request: Request, body: bytes, account: str, market: str, sent_ms: int) -> list[Event]:
        """Read one REST answer.

        Raises:
            DecodeError: Not JSON, or not of the shape that this request has.
        """
        read: dict[Request, Any] = {
            _MODE: lambda answer: _mode(answer, account),
            _MARGIN_TYPES: lambda answer: binance.margin_types_read(answer, account),
            _BRACKETS: lambda answer: binance.brackets_read(answer, account),
            _ACCOUNT: lambda answer: binance.balances_read(answer, account, sent_ms),
            _POSITIONS: lambda answer: binance.positions_read(answer, account, sent_ms),
            _CONTRACTS: lambda answer: _contracts(answer, market),
            _MARKS_NOW: lambda answer: _marks_now(answer, market),
        }
        return _read(body, read[request])


def _read(body: bytes, read: Any) -> list[Any]:
    try:
        return list(read(parse(body)))
    except binance.MISREADS as exc:
        raise DecodeError(f"{exc!r:.200} in {one_line(body)}") from exc


def _is_ours(mark: _Mark, wanted: Collection[str] | None) -> bool:
    return (wanted is None or mark.s in wanted) and mark.st == _USDM and mark.e == "markPriceUpdate"


def _mark(mark: _Mark, market: str) -> MarkPrice:
    price = number(mark.p)
    if price <= 0:
        raise ValueError(f"mark price {mark.p} of {mark.s}")
    return MarkPrice(market, mark.s, price, moment(mark.E), *_funding(mark.r, moment(mark.T)))


def _funding(rate: str, next_ms: int) -> tuple[Decimal | None, int | None]:
    """Rate and time of the next funding; delivery contracts say `""` and 0, and have none."""
    return (number(rate), next_ms) if rate and next_ms > 0 else (None, None)


def _marks_now(answer: Any, market: str) -> Iterable[Event]:
    def read(row: Any) -> MarkPrice:
        funding = _funding(row.get("lastFundingRate", ""), moment(row.get("nextFundingTime", 0)))
        price = decimal(row["markPrice"])
        return MarkPrice(market, text(row["symbol"]), price, moment(row["time"]), *funding, bridged=True)

    marks = binance.each_readable(read, answer if isinstance(answer, list) else [answer])
    return (mark for mark in marks if mark.price > 0)  # a contract that is not traded yet has no price


def _mode(answer: Any, account: str) -> Iterable[Event]:
    yield AccountModeRead(account, flag(answer["dualSidePosition"]), flag(answer["multiAssetsMargin"]))


def _contracts(answer: Any, market: str) -> Iterable[Event]:
    contracts = binance.each_readable(_contract, answer["symbols"])
    yield ContractsRead(market, {contract.symbol: contract for contract in contracts})


def _contract(row: Any) -> Contract:
    lot: dict[str, Any] = next((f for f in row.get("filters", ()) if f.get("filterType") == "LOT_SIZE"), {})
    delivery = moment(row.get("deliveryDate", _PERPETUAL_DELIVERY_MS))
    return Contract(
        symbol=text(row["symbol"]),
        base_asset=text(row["baseAsset"]),
        margin_asset=text(row["marginAsset"]),
        status=str(row.get("status", "")),
        quantity_step=decimal(lot["stepSize"]) if "stepSize" in lot else None,
        liquidation_fee=decimal(row["liquidationFee"]) if "liquidationFee" in row else None,
        delivery_ms=None if delivery == _PERPETUAL_DELIVERY_MS else delivery,
    )
