"""The market side that the Binance venues share: marks, funding, contracts, rates of collateral."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, structs

from monitor.events import (
    AdlRiskRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Contract,
    ContractChanged,
    ContractsRead,
    Event,
    FundingTermsRead,
    InsuranceFundRead,
    MarkPrice,
    Marks,
)
from monitor.venues.binance import MISREADS, Frame, bracket_rows, each_readable, unwrapped
from monitor.venues.wire import YEAR_10000_MS, a_list, decimal, flag, integer, moment, parse, text

CONTRACT_STREAM = "!contractInfo"
RATE_STREAM = "!assetIndex@arr"

_PERPETUAL_DELIVERY_MS = 4_133_404_800_000
_ADL_RISKS = ("low", "medium", "high")
_LONGEST_INTERVAL_H = 24


class _Price(Struct, gc=False, tag_field="e", tag="markPriceUpdate"):
    """The fields of `markPriceUpdate` that a mark needs; since the all-market arrays are merged, `st` says whose it
    is."""

    E: Annotated[int, Meta(ge=0, lt=YEAR_10000_MS)]
    s: str
    p: str
    st: int | None = None


class _Mark(_Price, gc=False, tag_field="e", tag="markPriceUpdate"):
    """With its funding, as far as that reads."""

    r: str = ""
    T: int = 0


class _Envelope(Struct, gc=False):
    data: _Mark


class _EnvelopeOfMany(Struct, gc=False):
    data: list[_Mark]


class _EnvelopeOfRow(Struct, gc=False):
    data: msgspec.Raw


class _EnvelopeOfRows(Struct, gc=False):
    data: list[msgspec.Raw]


_MARK = msgspec.json.Decoder(_Mark, strict=False)
_PRICE = msgspec.json.Decoder(_Price, strict=False)
_ENVELOPE = msgspec.json.Decoder(_Envelope, strict=False)
_MARKS = msgspec.json.Decoder(list[_Mark], strict=False)
_ENVELOPE_OF_MARKS = msgspec.json.Decoder(_EnvelopeOfMany, strict=False)
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_ENVELOPE_OF_ROW = msgspec.json.Decoder(_EnvelopeOfRow)
_ENVELOPE_OF_ROWS = msgspec.json.Decoder(_EnvelopeOfRows)
_HEAD = 200
"""Within so many bytes an envelope has begun, and an array in it."""
_FEW = 8
"""Up to so many symbols it is faster to look for their objects in the all-market array than to read all of it, and to
handle each mark by itself."""
_PRICES = re.compile(r"(?:[0-9]{1,12}+\.[0-9]{1,20}+,)*+")
_FLOATS = msgspec.json.Decoder(list[float])
"""Reads digits six times as fast as `float`, to the same number."""
_SMALLEST = 1e-12
"""Prices that are read all at once; what is smaller, or written in another way, is looked at by itself."""


def market_events(raw: bytes, market: str, wanted: Collection[str] | None, ours: int) -> Iterable[Event]:
    """What one frame of the market stream says; an event of no use here gives nothing.

    Args:
        wanted: Symbols of which marks are made; contracts and rates are rare, and made of all.
        ours: What `st` is for this market: 1 USDⓈ-M, 2 COIN-M. A frame without it is of the market it came from.
    """
    if b'"markPriceUpdate"' in raw:
        return marks(raw, market, wanted, ours)
    frame = unwrapped(parse(raw))
    frames = [one for one in _listed(frame) if isinstance(one, dict)]
    rates = [one for one in frames if one.get("e") == "assetIndexUpdate"]
    changes = [one for one in frames if one.get("e") == "contractInfo" and one.get("st") in (None, ours)]
    return [
        *([_rates(rates, market, "E", "s", "B", "A")] if rates else ()),
        *each_readable(lambda one: contract_changed(one, market), changes),
    ]


def marks(raw: bytes, market: str, wanted: Collection[str] | None, ours: int) -> Iterable[Event]:
    """The marks in one frame, decoded without a detour: nearly every frame is one."""
    begin = raw.find(b"[", 0, _HEAD)
    is_wrapped = raw.find(b'"data"', 0, _HEAD) >= 0
    if begin < 0:
        mark = _one(raw, is_wrapped)
        is_held = (wanted is None or mark.s in wanted) and (mark.st is None or mark.st == ours)
        return (_mark(mark, market),) if is_held else ()
    if wanted is not None and len(wanted) <= _FEW and all(map(str.isascii, wanted)) and _is_compact_array(raw, begin):
        found = _of_few(raw, wanted)
    else:
        found = _all(raw, is_wrapped)
    held = [mark for mark in found if mark.st in (None, ours) and (wanted is None or mark.s in wanted)]
    if len(held) == 1:
        return (_mark(held[0], market),)
    whole = _whole(held, market) if len(held) > _FEW else None
    return each_readable(lambda mark: _mark(mark, market), held) if whole is None else (whole,)


def _one(raw: bytes, is_wrapped: bool) -> _Mark:
    try:
        return _ENVELOPE.decode(raw).data if is_wrapped else _MARK.decode(raw)
    except msgspec.ValidationError:
        return _row(_ENVELOPE_OF_ROW.decode(raw).data if is_wrapped else raw)


def _row(raw: bytes | msgspec.Raw) -> _Mark:
    """One mark; where its funding is not of the shape that it should have, it is unknown, and the mark is not."""
    try:
        return _MARK.decode(raw)
    except msgspec.ValidationError:
        price = _PRICE.decode(raw)
        return _Mark(price.E, price.s, price.p, price.st)


def _all(raw: bytes, is_wrapped: bool) -> list[_Mark]:
    """Every mark of an array; where some are not of the shape that they should have, all others."""
    try:
        return _ENVELOPE_OF_MARKS.decode(raw).data if is_wrapped else _MARKS.decode(raw)
    except msgspec.ValidationError:
        rows = _ENVELOPE_OF_ROWS.decode(raw).data if is_wrapped else _ROWS.decode(raw)
        return list(each_readable(_row, rows))


def _is_compact_array(raw: bytes, begin: int) -> bool:
    """Whether a frame is an array of flat objects without a space in it, as the exchange writes it."""
    return raw.startswith(b"[{", begin) and raw.endswith((b"}]}", b"}]")) and b'"s":"' in raw and b" " not in raw


def _of_few(raw: bytes, wanted: Collection[str]) -> list[_Mark]:
    """The marks of these symbols in a compact array, in its order; the rest of it is not read at all.

    Of letters beyond ASCII JSON has two spellings, so that a symbol with such is not looked for.
    """
    places = sorted(at for s in wanted if (at := raw.rfind(b'"s":"%s"' % s.encode())) >= 0)
    rows = [raw[raw.rfind(b"{", 0, at) : raw.find(b"}", at) + 1] for at in places]
    return list(each_readable(_row, rows))


def _mark(mark: _Mark, market: str) -> MarkPrice:
    price = decimal(mark.p)
    if price <= 0:
        raise ValueError(f"mark price {mark.p} of {mark.s}")
    return MarkPrice(market, mark.s, price, mark.E, *_funding(mark.r, mark.T))


def _whole(found: list[_Mark], market: str) -> Marks | None:
    """The same of many at once, column by column; None: something is odd about one of them."""
    symbols = _distinct(tuple([mark.s for mark in found]))
    texts = [mark.p for mark in found]
    at_ms = [mark.E for mark in found]
    joined = ",".join(texts)
    if symbols is None or _PRICES.fullmatch(joined + ",") is None:
        return None
    try:
        floats = _FLOATS.decode(f"[{joined}]")
    except msgspec.DecodeError:  # zeros before the others
        return None
    if len(floats) != len(texts) or min(floats) <= _SMALLEST:
        return None
    return Marks(market, symbols, texts, floats, at_ms, found, _funding_of)


@lru_cache(maxsize=16)
def _distinct(symbols: tuple[str, ...]) -> tuple[str, ...] | None:
    """These symbols, for the same ones always the same object; None: one of them is there twice."""
    return symbols if len(set(symbols)) == len(symbols) else None


def _funding_of(mark: _Mark) -> tuple[Decimal | None, int | None]:
    return _funding(mark.r, mark.T)


@lru_cache(maxsize=4096)
def _funding(rate: Any, next_ms: Any) -> tuple[Decimal | None, int | None]:
    """Rate and time of the next funding; delivery contracts say `""` and 0, and have none. Both stay for long.

    What does not read is unknown: without its mark the positions in a symbol would be unwatched, with it they are not.
    """
    try:
        at_ms = moment(next_ms)
        return (decimal(rate), at_ms) if rate and at_ms else (None, None)
    except ValueError:
        return None, None


def marks_now(answer: Any, market: str) -> Iterable[Event]:
    def read(row: Any) -> MarkPrice:
        funding = _funding(row.get("lastFundingRate"), row.get("nextFundingTime"))
        price = decimal(row["markPrice"])
        return MarkPrice(market, text(row["symbol"]), price, moment(row["time"]), *funding, bridged=True)

    found = each_readable(read, _listed(answer))
    return (mark for mark in found if mark.price > 0)  # a contract that is not traded yet has no price


def _rates(rows: Iterable[Frame], market: str, at: str, symbol: str, bid: str, ask: str) -> AssetRates:
    """Rates by what their parts are called here; `USDTUSD` is the rate of USDT."""

    def read(row: Frame) -> tuple[str, AssetRate, int]:
        asset = text(text(row[symbol]).removesuffix("USD"))
        low, high = sorted((decimal(row[bid]), decimal(row[ask])))  # the lower for what is held, the higher for a debt
        if asset == row[symbol] or low <= 0:
            raise ValueError(f"not the rate of an asset: {row[symbol]} {low} {high}")
        return asset, AssetRate(low, high), moment(row[at])

    found = list(each_readable(read, rows))
    return AssetRates(market, {asset: rate for asset, rate, _ in found}, max(at_ms for _, _, at_ms in found))


def rates_now(answer: Any, market: str) -> Iterable[Event]:
    """`assetIndex`: rates of every asset, or of one."""
    if rows := _listed(answer):
        yield structs.replace(_rates(rows, market, "time", "symbol", "bidRate", "askRate"), bridged=True)


def contract_changed(frame: Frame, market: str) -> ContractChanged:
    """`contractInfo`: `bks` is there only where the brackets change."""
    brackets = frame.get("bks")
    return ContractChanged(
        market=market,
        symbol=text(frame["s"]),
        status=text(frame["cs"]),
        delivery_ms=_delivery(frame.get("dt")),
        brackets=bracket_rows(brackets, "bs", ("bnf",), "mmr", "cf") if brackets else None,
        at_ms=moment(frame["E"]),
    )


def _delivery(at_ms: object) -> int | None:
    """Perpetuals have the year 2100 for it, and a contract of which it is not said, or as 0, is one."""
    delivery = moment(at_ms or 0)
    return None if delivery in (0, _PERPETUAL_DELIVERY_MS) else delivery


def adl_risks_read(answer: Any, market: str) -> Iterable[Event]:
    """`symbolAdlRisk`: of every symbol, or of one."""

    def read(row: Frame) -> tuple[str, str]:
        risk = text(row["adlRisk"]).lower()
        if risk not in _ADL_RISKS:
            raise ValueError(f"not an ADL risk: {risk}")
        return text(row["symbol"]), risk

    yield AdlRiskRead(market, dict(each_readable(read, _listed(answer))))


def insurance_fund_read(answer: Any, market: str) -> Iterable[Event]:
    """`insuranceBalance`: funds are pooled by groups of symbols; a list of groups, or one."""

    def read(group: Frame) -> tuple[list[str], dict[str, Decimal]]:
        return list(each_readable(text, group["symbols"])), dict(each_readable(balance, group["assets"]))

    def balance(row: Frame) -> tuple[str, Decimal]:
        return text(row["asset"]), decimal(row["marginBalance"])

    balances: dict[str, dict[str, Decimal]] = {}
    for symbols, assets in each_readable(read, _listed(answer)):
        for symbol in symbols:
            balances[symbol] = {**balances.get(symbol, {}), **assets}
    yield InsuranceFundRead(market, balances)


def funding_terms_read(answer: Any, market: str) -> Iterable[Event]:
    """`fundingInfo`: only the symbols whose terms were adjusted are in it."""

    def read(row: Frame) -> tuple[str, int]:
        hours = integer(row["fundingIntervalHours"])
        if not 1 <= hours <= _LONGEST_INTERVAL_H:
            raise ValueError(f"a funding interval of {hours} h")
        return text(row["symbol"]), hours

    yield FundingTermsRead(market, dict(each_readable(read, _listed(answer))))


def _listed(answer: Any) -> list[Any]:
    """What is asked for all symbols is a list, for one an object."""
    return answer if isinstance(answer, list) else [answer]


def contracts_read(answer: Any, market: str) -> Iterable[Event]:
    contracts = each_readable(_contract, a_list(answer["symbols"]))
    yield ContractsRead(
        market, {contract.symbol: contract for contract in contracts}, _asset_terms(answer.get("assets"))
    )


def _asset_terms(rows: Any) -> dict[str, AssetTerms]:
    """`assets` of the contracts' answer; `autoAssetExchange` is a negative balance, or null."""

    def read(row: Frame) -> tuple[str, AssetTerms]:
        threshold = row.get("autoAssetExchange")
        return text(row["asset"]), AssetTerms(
            margin_available=flag(row["marginAvailable"]),
            auto_exchange=None if threshold is None else abs(decimal(threshold)),
        )

    with suppress(*MISREADS):  # contracts are needed by more than these terms are
        return dict(each_readable(read, rows or ()))
    return {}


def _contract(row: Any) -> Contract:
    lot: dict[str, Any] = next((f for f in row.get("filters", ()) if f.get("filterType") == "LOT_SIZE"), {})
    return Contract(
        symbol=text(row["symbol"]),
        base_asset=text(row["baseAsset"]),
        margin_asset=text(row["marginAsset"]),
        status=str(row.get("status") or row.get("contractStatus") or ""),
        quantity_step=decimal(lot["stepSize"]) if "stepSize" in lot else None,
        liquidation_fee=decimal(row["liquidationFee"]) if "liquidationFee" in row else None,
        delivery_ms=_delivery(row.get("deliveryDate")),
        contract_size=decimal(row["contractSize"]) if "contractSize" in row else None,
    )
