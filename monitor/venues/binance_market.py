"""The market side that the Binance venues share: marks, funding, contracts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from monitor.events import Contract, ContractsRead, Event, MarkPrice
from monitor.venues.binance import each_readable
from monitor.venues.wire import decimal, moment, number, parse, text

_PERPETUAL_DELIVERY_MS = 4_133_404_800_000


class _Mark(Struct, gc=False):
    """The fields of `markPriceUpdate` that we need; since the all-market arrays are merged, `st` says whose it is."""

    e: str
    E: int
    s: str
    p: str
    r: str = ""
    T: int = 0
    st: int | None = None


class _Envelope(Struct, gc=False):
    data: _Mark | list[_Mark]


_MARKS: msgspec.json.Decoder[_Mark | list[_Mark]] = msgspec.json.Decoder(_Mark | list[_Mark], strict=False)
_ENVELOPE = msgspec.json.Decoder(_Envelope, strict=False)


def marks(raw: bytes, market: str, wanted: Collection[str] | None, ours: int) -> Iterable[Event]:
    """The marks in one frame of the market stream; anything else in it is of no use here.

    Args:
        ours: What `st` is for this market: 1 USDⓈ-M, 2 COIN-M. A frame without it is of the market it came from.
    """
    if b'"markPriceUpdate"' not in raw:
        parse(raw)
        return []
    found = _ENVELOPE.decode(raw).data if b'"data"' in raw else _MARKS.decode(raw)

    def is_ours(mark: _Mark) -> bool:
        return (wanted is None or mark.s in wanted) and mark.st in (None, ours) and mark.e == "markPriceUpdate"

    if isinstance(found, list):
        return each_readable(lambda mark: _mark(mark, market), [mark for mark in found if is_ours(mark)])
    return [_mark(found, market)] if is_ours(found) else []


def _mark(mark: _Mark, market: str) -> MarkPrice:
    price = number(mark.p)
    if price <= 0:
        raise ValueError(f"mark price {mark.p} of {mark.s}")
    return MarkPrice(market, mark.s, price, moment(mark.E), *_funding(mark.r, moment(mark.T)))


def _funding(rate: str, next_ms: int) -> tuple[Decimal | None, int | None]:
    """Rate and time of the next funding; delivery contracts say `""` and 0, and have none."""
    return (number(rate), next_ms) if rate and next_ms > 0 else (None, None)


def marks_now(answer: Any, market: str) -> Iterable[Event]:
    def read(row: Any) -> MarkPrice:
        funding = _funding(row.get("lastFundingRate", ""), moment(row.get("nextFundingTime", 0)))
        price = decimal(row["markPrice"])
        return MarkPrice(market, text(row["symbol"]), price, moment(row["time"]), *funding, bridged=True)

    marks = each_readable(read, answer if isinstance(answer, list) else [answer])
    return (mark for mark in marks if mark.price > 0)  # a contract that is not traded yet has no price


def contracts_read(answer: Any, market: str) -> Iterable[Event]:
    contracts = each_readable(_contract, answer["symbols"])
    yield ContractsRead(market, {contract.symbol: contract for contract in contracts})


def _contract(row: Any) -> Contract:
    lot: dict[str, Any] = next((f for f in row.get("filters", ()) if f.get("filterType") == "LOT_SIZE"), {})
    delivery = moment(row.get("deliveryDate", _PERPETUAL_DELIVERY_MS))
    return Contract(
        symbol=text(row["symbol"]),
        base_asset=text(row["baseAsset"]),
        margin_asset=text(row["marginAsset"]),
        status=str(row.get("status") or row.get("contractStatus") or ""),
        quantity_step=decimal(lot["stepSize"]) if "stepSize" in lot else None,
        liquidation_fee=decimal(row["liquidationFee"]) if "liquidationFee" in row else None,
        delivery_ms=None if delivery == _PERPETUAL_DELIVERY_MS else delivery,
        contract_size=decimal(row["contractSize"]) if "contractSize" in row else None,
    )
