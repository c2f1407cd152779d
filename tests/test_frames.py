"""What the exchange sends, as events: recorded frames, and whatever else may come down the wire."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import scene
from monitor.errors import DecodeError
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    ConfigTouched,
    ContractsRead,
    Event,
    ExchangeFigures,
    Fill,
    ForcedKind,
    MarginCall,
    MarginTypesRead,
    MarkPrice,
    Marks,
    Position,
    PositionKey,
    PositionsRead,
    Side,
    StreamControl,
    StreamExpired,
)
from monitor.risk.margin import bracket_table
from monitor.venues import VENUES, Request
from monitor.venues.wire import number
from tests.heard import each_mark
from tests.test_assess import ROOT

D = Decimal
DATA = ROOT.parent / "shared" / "data"
FRAMES_FILE = DATA / "recorded_frames.jsonl"
BRACKETS_FILE = DATA / "leverage_brackets_usdm_2026-09.json"
USDM = VENUES["binance-usdm"]
REQUESTS = USDM.bodies
FACTS = (*USDM.requests.market_facts, *USDM.requests.account_facts)


class Line(msgspec.Struct):
    kind: str
    origin: str
    payload: msgspec.Raw


LINES = (
    [msgspec.json.decode(line, type=Line) for line in FRAMES_FILE.read_bytes().splitlines()]
    if FRAMES_FILE.exists()
    else []
)
FRAMES = [(line.kind, bytes(line.payload)) for line in LINES if not line.kind.endswith("/coinm")]
recorded = pytest.mark.skipif(not FRAMES, reason=f"the recorded frames do not lie in {FRAMES_FILE}")

MARKET = "market"
PRIVATE = "private"
IGNORED = ""

EXPECTED: dict[str, tuple[str, str]] = {
    # kind → the stream that carries it, and the event that each of its parts becomes
    "ACCOUNT_UPDATE/ADMIN_DEPOSIT": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ADMIN_WITHDRAW": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/DEPOSIT": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/FUNDING_FEE": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER-BNFCR": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER-close": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER-hedge": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER-hedge-close": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/ORDER-isolated": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/WITHDRAW": (PRIVATE, "AccountChanged"),
    "ACCOUNT_UPDATE/usdm": (PRIVATE, "AccountChanged"),
    "ACCOUNT_CONFIG_UPDATE/leverage": (PRIVATE, "ConfigTouched"),
    "ACCOUNT_CONFIG_UPDATE/multiAssets": (PRIVATE, "AccountModeChanged"),
    "ORDER_TRADE_UPDATE/FILLED": (PRIVATE, "Fill"),
    "listenKeyExpired": (PRIVATE, "StreamExpired"),
    "markPriceUpdate": (MARKET, "MarkPrice"),
    "markPriceUpdate/usdm": (MARKET, "MarkPrice"),
    "markPriceUpdate[] x168/usdm": (MARKET, "Marks"),
    "assetIndexUpdate[]": (MARKET, "AssetRates"),
    "contractInfo": (MARKET, "ContractChanged"),
    # knowingly ignored: orders that have not traded, what is said elsewhere better, and what is not built yet
    "ORDER_TRADE_UPDATE/AMENDMENT": (PRIVATE, IGNORED),
    "ORDER_TRADE_UPDATE/CANCELED": (PRIVATE, IGNORED),
    "ORDER_TRADE_UPDATE/NEW": (PRIVATE, IGNORED),
    "ORDER_TRADE_UPDATE/usdm": (PRIVATE, IGNORED),
    "TRADE_LITE": (PRIVATE, IGNORED),
    "MARGIN_CALL": (PRIVATE, "MarginCall"),
    "MARGIN_CALL/usdm": (PRIVATE, "MarginCall"),
    "CONDITIONAL_ORDER_TRIGGER_REJECT": (PRIVATE, IGNORED),
    "forceOrder": (MARKET, IGNORED),
    "forceOrder/usdm": (MARKET, IGNORED),
}
SAID_IN_THE_FRAME = "ACCOUNT_CONFIG_UPDATE/usdm"
"""One kind for both settings: `ac` is a leverage, `ai` the multi-assets mode."""


def kind_of(kind: str, raw: bytes) -> str:
    if kind != SAID_IN_THE_FRAME:
        return kind
    return "ACCOUNT_CONFIG_UPDATE/" + ("multiAssets" if b'"ai"' in raw else "leverage")


def decoded(raw: bytes, stream: str) -> list[Event]:
    return USDM.decode_market(raw, "m", None) if stream == MARKET else USDM.decode_private(raw, "main")


def frame(kind: str, number_of_kind: int = 0) -> bytes:
    return [raw for each, raw in FRAMES if each == kind][number_of_kind]


def private(text: str) -> Event:
    """The one event of a private frame."""
    [event] = USDM.decode_private(text.encode(), "main")
    return event


def changed(raw: bytes) -> AccountChanged:
    [event] = USDM.decode_private(raw, "main")
    assert isinstance(event, AccountChanged)
    return event


# ---- recorded frames ----


@recorded
def test_every_recorded_kind_is_known() -> None:
    """A kind that is added to the recordings must be decoded, or named as ignored."""
    assert {kind_of(kind, raw) for kind, raw in FRAMES} == set(EXPECTED)


@recorded
@pytest.mark.parametrize("i", range(len(FRAMES)), ids=[f"{i} {kind}" for i, (kind, _) in enumerate(FRAMES)])
def test_a_recorded_frame_becomes_what_it_says(i: int) -> None:
    """Nothing that the exchange has really sent may misread."""
    kind, raw = FRAMES[i]
    stream, expected = EXPECTED[kind_of(kind, raw)]
    events = decoded(raw, stream)

    if expected == IGNORED:
        assert events == []
    else:
        assert Counter(type(event).__name__ for event in events) == {expected: 1}


@recorded
def test_every_mark_of_an_array_is_read() -> None:
    """The array of all symbols: each with its price, its funding and its own time."""
    marks = each_mark(USDM.decode_market(frame("markPriceUpdate[] x168/usdm"), "binance-usdm", None))

    assert marks[0] == MarkPrice(
        "binance-usdm", "BTCUSDT", D("29985.90000000"), 1654858611001, D("0.00010000"), 1654876800000
    )
    assert len({mark.symbol for mark in marks}) == 168


@recorded
def test_only_wanted_marks_are_made() -> None:
    """Of 900 symbols an account holds a handful."""
    events = USDM.decode_market(frame("markPriceUpdate[] x168/usdm"), "m", {"ETHUSDT", "NOSUCHUSDT"})

    assert [(mark.symbol, mark.price) for mark in each_mark(events)] == [("ETHUSDT", D("1770.73"))]


def test_of_few_symbols_only_their_part_of_an_array_is_read_and_says_the_same() -> None:
    """The exchange's compact arrays are searched, not read whole; one that is written otherwise is read whole."""
    enveloped = next(scene.frames(scene.make(1, 1, near=1), "array"))
    bare = enveloped.partition(b'"data":')[2][:-1]
    spaced = enveloped.replace(b":", b": ")
    every = each_mark(USDM.decode_market(enveloped, "m", None))
    assert len(every) == len(scene.SYMBOLS)

    for first in range(0, len(every), 7):
        expected = every[first : first + 7]
        for raw in (enveloped, bare, spaced):
            assert USDM.decode_market(raw, "m", {"NOSUCHUSDT", *(event.symbol for event in expected)}) == expected


@pytest.mark.parametrize("is_escaped", [True, False])
def test_a_symbol_beyond_ascii_is_found_in_an_array_however_it_is_written(is_escaped: bool) -> None:
    """JSON may write its letters as they are or escaped; a mark that is not found leaves its holder blind."""
    rows = [{"e": "markPriceUpdate", "E": 5, "s": s, "p": "1.5"} for s in ("BTCUSDT", "币安人生USDT", "ETHUSDT")]
    raw = json.dumps(rows, ensure_ascii=is_escaped, separators=(",", ":")).encode()

    assert [mark.symbol for mark in each_mark(USDM.decode_market(raw, "m", {"币安人生USDT"}))] == ["币安人生USDT"]


def rows_of_marks(*rows: str) -> bytes:
    """An array of a dozen plain marks, and these."""
    plain = [
        f'{{"e":"markPriceUpdate","E":{n},"s":"S{n}","p":"{n}.50","r":"0.0001","T":9,"st":1}}' for n in range(1, 13)
    ]
    return f"[{','.join([*plain[:5], *rows, *plain[5:]])}]".encode()


PLAIN = [(f"S{n}", D(f"{n}.5"), n) for n in range(1, 13)]


def of_mark(**keys: object) -> str:
    row = {"e": "markPriceUpdate", "E": 5, "s": "A", "p": "100.50", "r": "0.0001", "T": 9, "st": 1, **keys}
    return json.dumps({key: value for key, value in row.items() if value is not None})


_DIGITS = st.text("0123456789", min_size=1, max_size=12)


@example([("987654321098", "76543210987654321098")] * 9)
@given(st.lists(st.tuples(_DIGITS, st.text("0123456789", min_size=1, max_size=20)), min_size=9, max_size=40))
def test_the_prices_of_an_array_are_exact_and_so_are_their_floats(parts: list[tuple[str, str]]) -> None:
    """To the last bit, however they are read, and whether they go as one event or each by itself."""
    texts = [f"{whole}.{rest}" for whole, rest in parts if int(whole + rest)]
    rows = [of_mark(s=f"A{n}", p=price) for n, price in enumerate(texts)]
    marks = each_mark(USDM.decode_market(rows_of_marks(*rows), "m", {f"A{n}" for n in range(len(rows))} | {"S1"}))
    assert [mark.price.as_tuple() for mark in marks] == [D(text).as_tuple() for text in ("1.50", *texts)]
    for frame in USDM.decode_market(rows_of_marks(*rows), "m", None):
        if isinstance(frame, Marks):
            assert frame.floats == [float(str(price)) for price in frame.prices]


def test_the_marks_of_an_array_are_one_event() -> None:
    """Delivery contracts have no funding; a symbol of the other market is not ours; each keeps its own time."""
    raw = rows_of_marks(of_mark(r="", T=0), of_mark(s="COIN", st=2), of_mark(s="B", st=None, r=None, T=None))
    [frame] = USDM.decode_market(raw, "m", None)

    assert isinstance(frame, Marks)
    assert set(frame.each) == {
        *(MarkPrice("m", symbol, price, at_ms, D("0.0001"), 9) for symbol, price, at_ms in PLAIN),
        MarkPrice("m", "A", D("100.5"), 5, None, None),
        MarkPrice("m", "B", D("100.5"), 5, None, None),
    }
    assert frame.floats == [float(price) for price in frame.prices]
    assert USDM.decode_market(b'{"stream":"!markPrice@arr@1s","data":%s}' % raw, "m", None) == [frame]


@pytest.mark.parametrize(
    "odd",
    [
        *(
            {"p": p}
            for p in ("0", "0.00000000", "-1.5", "", "1e999", "NaN", "1_0", " 1", "٣", "1.2.3", ".5", "1.5,2.5")
        ),
        {"p": 5},
        {"p": []},
        *({"E": at} for at in (-1, 253402300800000, "x", 1.5, None)),
        {"s": None},
        {"s": 7},
        {"st": 2},
        {"st": "x"},
        {"e": "forceOrder"},
        {"e": 5},
    ],
    ids=str,
)
def test_an_odd_row_of_an_array_of_marks_hides_no_other(odd: dict[str, object]) -> None:
    """Whatever is the matter with it: it is left out, and all else is read."""
    for row in (of_mark(**odd), json.dumps(odd), "5", "null", "[]"):
        marks = each_mark(USDM.decode_market(rows_of_marks(row), "m", None))
        assert [(mark.symbol, mark.price, mark.at_ms) for mark in marks] == PLAIN
        compact = rows_of_marks(row).replace(b": ", b":").replace(b", ", b",")
        few = each_mark(USDM.decode_market(compact, "m", {"A", "S4", "S9"}))
        assert [(mark.symbol, mark.price, mark.at_ms) for mark in few] == [PLAIN[3], PLAIN[8]]


@pytest.mark.parametrize(
    "odd",
    [
        *({"T": at} for at in (-1, 253402300800000, "x", "", 1.5, None, True)),
        *({"r": rate} for rate in ("x", "NaN", "1e999", " ", 1, 0.0001, None, True)),
    ],
    ids=str,
)
def test_a_mark_whose_funding_does_not_read_is_a_mark(odd: dict[str, object]) -> None:
    """Its price is what the positions are held against: for want of a funding nobody may be left blind."""
    row = json.dumps({"e": "markPriceUpdate", "E": 5, "s": "A", "p": "100.50", "r": "0.0001", "T": 9, "st": 1, **odd})
    expected = MarkPrice("m", "A", D("100.5"), 5, None, None)
    array = rows_of_marks(row)

    for raw in (row.encode(), b'{"stream":"a@markPrice@1s","data":%s}' % row.encode()):
        assert USDM.decode_market(raw, "m", None) == [expected]
    for raw in (array, b'{"stream":"!markPrice@arr@1s","data":%s}' % array):
        marks = each_mark(USDM.decode_market(raw, "m", None))
        assert {mark.symbol: mark for mark in marks}["A"] == expected
        assert len(marks) == len(PLAIN) + 1
        assert each_mark(USDM.decode_market(raw.replace(b" ", b""), "m", {"A"})) == [expected]


@pytest.mark.parametrize("odd", [{"lastFundingRate": None}, {"lastFundingRate": "NaN"}, {"nextFundingTime": None}])
def test_a_mark_over_rest_whose_funding_does_not_read_is_a_mark(odd: dict[str, object]) -> None:
    """What bridges a stream has no more to ask for."""
    row = {"symbol": "A", "markPrice": "1.5", "time": 5, "lastFundingRate": "0.0001", "nextFundingTime": 9, **odd}

    assert answer("premiumIndex", json.dumps(row)) == [MarkPrice("m", "A", D("1.5"), 5, None, None, bridged=True)]


@pytest.mark.parametrize("p", ["7", "7.", "1e3", "1E-13", "10000000000000.5", "0.0000000000000000000000000000001e5"])
def test_a_price_of_another_look_is_read_as_exactly(p: str) -> None:
    """Small, large, whole or with an exponent: it is a number."""
    marks = each_mark(USDM.decode_market(rows_of_marks(of_mark(p=p)), "m", None))

    assert {mark.symbol: mark.price for mark in marks} == {"A": D(p), **{symbol: price for symbol, price, _ in PLAIN}}


def test_a_symbol_that_is_twice_in_an_array_is_read_twice() -> None:
    """The later one counts, whichever comes first; of a few symbols only the last is looked for."""
    raw = rows_of_marks(of_mark(s="S3", p="8.5", E=9))
    marks = each_mark(USDM.decode_market(raw, "m", None))
    few = each_mark(USDM.decode_market(raw.replace(b" ", b""), "m", {"S3"}))

    assert [(mark.price, mark.at_ms) for mark in marks if mark.symbol == "S3"] == [(D("3.5"), 3), (D("8.5"), 9)]
    assert [(mark.price, mark.at_ms) for mark in few] == [(D("8.5"), 9)]


@recorded
def test_a_mark_in_an_envelope_is_the_same() -> None:
    """Combined streams wrap each frame."""
    [event] = USDM.decode_market(frame("markPriceUpdate/usdm"), "m", {"BTCUSDT"})

    assert event == MarkPrice("m", "BTCUSDT", D("29968.93335956"), 1654858692000, D("0.0001"), 1654876800000)


@recorded
def test_a_fill_changes_balance_and_position() -> None:
    """`cr`, `up` and `bep` are no business of ours; `wb` and `cw` are the wallet after the change."""
    event = changed(frame("ACCOUNT_UPDATE/ORDER", 2))

    assert event == AccountChanged(
        account="main",
        reason="ORDER",
        balances=(Balance("USDC", D("37.87866827"), D("37.87866827"), 1776789210247),),
        positions=(
            Position("ETHUSDC", Side.BOTH, D("0.02"), D("2317.3"), False, D(0), 1776789210247, margin_asset="USDC"),
        ),
        symbol=None,
        changes={"USDC": D(0)},
        at_ms=1776789210247,
    )


@recorded
def test_cross_funding_names_no_position() -> None:
    """It debits the wallet alone; a reader that waits for `P` never sees it."""
    event = changed(frame("ACCOUNT_UPDATE/FUNDING_FEE"))

    assert (event.reason, event.positions, event.symbol) == ("FUNDING_FEE", (), None)
    assert event.balances == (Balance("USDC", D("38.17806885"), D("38.17806885"), 1776787203246),)
    assert event.changes == {"USDC": D("-0.00085067")}


def test_funding_without_the_positions_key_names_its_symbol() -> None:
    """Since 2026-08 `P` may be left out altogether, and `S` says which symbol was paid for."""
    event = changed(
        b'{"e":"ACCOUNT_UPDATE","T":1786500000000,"E":1786500000004,"a":{"B":[{"a":"USDT","wb":"1234.5678",'
        b'"cw":"1234.5678","bc":"-0.5"}],"m":"FUNDING_FEE","S":"BTCUSDT"}}'
    )

    assert (event.symbol, event.positions, event.changes) == ("BTCUSDT", (), {"USDT": D("-0.5")})
    assert event.at_ms == 1786500000000


def test_isolated_funding_comes_with_its_position() -> None:
    """It debits the isolated wallet: 990 − 890 is what stands in the row."""
    event = changed(
        b'{"e":"ACCOUNT_UPDATE","T":1786500000000,"E":1786500000006,"a":{"B":[{"a":"USDT","wb":"990.0","cw":"890.0",'
        b'"bc":"-0.25"}],"P":[{"s":"ETHUSDT","pa":"1","ep":"3000","bep":"3001.2","cr":"0","up":"12.0",'
        b'"mt":"isolated","iw":"100.0","ps":"BOTH"}],"m":"FUNDING_FEE","S":"ETHUSDT"}}'
    )

    assert event.positions == (
        Position("ETHUSDT", Side.BOTH, D(1), D(3000), True, D("100.0"), 1786500000000, margin_asset=None),
    )


@recorded
def test_an_isolated_row_has_its_own_wallet() -> None:
    """wb − cw = iw: 9996.63709378 − 9947.27881141 = 49.35828237."""
    event = changed(frame("ACCOUNT_UPDATE/ORDER-isolated"))
    [balance], [row] = event.balances, event.positions

    assert (row.isolated, row.isolated_wallet, row.quantity) == (True, D("49.35828237"), D("-0.005"))
    assert balance.wallet_balance - balance.cross_wallet_balance == row.isolated_wallet


@recorded
def test_hedge_rows_are_told_apart_by_side() -> None:
    """Hedge accounts push BOTH beside LONG or SHORT; the row of BOTH is empty."""
    opened = changed(frame("ACCOUNT_UPDATE/usdm"))
    short = changed(frame("ACCOUNT_UPDATE/ORDER-hedge"))
    closed = changed(frame("ACCOUNT_UPDATE/ORDER-hedge-close"))

    assert [(p.side, p.quantity, p.entry_price) for p in opened.positions] == [
        (Side.BOTH, D(0), D(0)),
        (Side.LONG, D(2684), D("0.45855")),
    ]
    assert opened.changes == {}  # an old payload, without bc
    assert [(p.symbol, p.side, p.quantity) for p in short.positions] == [("1INCHUSDT", Side.SHORT, D(-87))]
    assert [b.asset for b in short.balances] == ["USDT", "BNB"]
    assert [(p.side, p.quantity) for p in closed.positions] == [(Side.BOTH, D(0)), (Side.SHORT, D(0))]


@recorded
def test_a_european_account_has_its_own_margin_asset() -> None:
    """USDT contracts there are margined in BNFCR: the asset is what the row says, not what the symbol ends with."""
    event = changed(frame("ACCOUNT_UPDATE/ORDER-BNFCR"))

    assert [(p.symbol, p.margin_asset) for p in event.positions] == [("ADAUSDT", "BNFCR")]
    assert [b.asset for b in event.balances] == ["BNFCR", "BNB"]


@recorded
def test_the_time_of_an_expired_key_may_be_a_string() -> None:
    """As the documentation has it; a reader of integers would keep a dead stream."""
    raw = frame("listenKeyExpired")

    assert b'"E":"1699596037418"' in raw
    [event] = USDM.decode_private(raw, "main")
    assert isinstance(event, StreamExpired)
    assert event.key is not None
    assert event.key.encode() in raw
    assert event.key not in f"{event} {event!r} {[event]}"


@recorded
def test_an_execution_is_a_signed_fill_with_its_commission() -> None:
    """Sold is negative; what was paid is what explains the wallet."""
    [event] = USDM.decode_private(frame("ORDER_TRADE_UPDATE/FILLED", 1), "main")

    assert event == Fill(
        account="main",
        symbol="BTCUSDT",
        side=Side.BOTH,
        quantity=D("0.1"),
        price=D("84146.5"),
        realized_pnl=D(0),
        commission=D("3.36586"),
        commission_asset="USDT",
        forced=None,
        order_id=4129479931,
        trade_id=310194316,
        at_ms=1742585119595,
    )


@pytest.mark.parametrize(
    ("client_id", "order_type", "execution", "forced"),
    [
        pytest.param("autoclose-1596107620040000020", "LIQUIDATION", "TRADE", ForcedKind.LIQUIDATION, id="as recorded"),
        pytest.param(
            "autoclose-1596107620040000020", "LIMIT", "CALCULATED", ForcedKind.LIQUIDATION, id="as documented"
        ),
        pytest.param("autoclose-1596107620040000020", "MARKET", "NEW", ForcedKind.LIQUIDATION, id="first frame"),
        pytest.param("adl_autoclose", "LIMIT", "TRADE", ForcedKind.ADL, id="ADL"),
        pytest.param("adl_autoclose_17", "LIQUIDATION", "CALCULATED", ForcedKind.ADL, id="the id goes before the type"),
        pytest.param("settlement_autoclose-9", "MARKET", "TRADE", ForcedKind.SETTLEMENT, id="settlement"),
        pytest.param("delivery_autoclose-9", "MARKET", "TRADE", ForcedKind.SETTLEMENT, id="delivery"),
        pytest.param("mine", "LIQUIDATION", "TRADE", ForcedKind.LIQUIDATION, id="by type"),
        pytest.param("mine", "MARKET", "CALCULATED", ForcedKind.LIQUIDATION, id="by execution"),
        pytest.param("my-autoclose-1", "MARKET", "TRADE", None, id="an own order with a like name"),
    ],
)
def test_a_forced_order_is_recognised(
    client_id: str, order_type: str, execution: str, forced: ForcedKind | None
) -> None:
    """A real liquidation is of type LIQUIDATION with execution TRADE, which the documentation does not say."""
    event = private(
        f'{{"e":"ORDER_TRADE_UPDATE","E":1791300000001,"T":1791300000000,"o":{{"s":"BTCUSDT","c":"{client_id}",'
        f'"S":"SELL","o":"{order_type}","f":"IOC","q":"0.1","p":"84000","ap":"84100","x":"{execution}","X":"FILLED",'
        '"i":8886780,"l":"0.1","z":"0.1","L":"84100","N":"USDT","n":"42.05","T":1791300000000,"t":10200,"R":false,'
        '"ps":"LONG","rp":"-190"}}'
    )

    assert isinstance(event, Fill)
    assert event.forced is forced
    assert event.quantity == (D(0) if execution == "NEW" else D("-0.1"))
    assert (event.side, event.realized_pnl, event.commission) == (Side.LONG, D(-190), D("42.05"))


def test_a_commission_may_be_absent() -> None:
    """Liquidations and old payloads have neither `n` nor `N`."""
    event = private(
        '{"e":"ORDER_TRADE_UPDATE","E":1,"T":1,"o":{"s":"A","c":"x","S":"BUY","x":"TRADE","i":1,"l":"2","L":"3","T":1}}'
    )

    assert isinstance(event, Fill)
    assert (event.commission, event.commission_asset, event.quantity) == (D(0), None, D(2))


@recorded
def test_settings_ask_for_the_truth_anew() -> None:
    """A leverage is in no formula; the multi-assets mode changes all of them."""
    [mode] = USDM.decode_private(frame("ACCOUNT_CONFIG_UPDATE/multiAssets"), "main")
    [leverage] = USDM.decode_private(frame("ACCOUNT_CONFIG_UPDATE/leverage"), "main")

    assert mode == AccountModeChanged("main", True, 1611646737476)
    assert leverage == ConfigTouched("main", "BTCUSDT", 1611646737476)


@pytest.mark.parametrize(
    "text",
    [
        '{"result":null,"id":1}',
        '{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}',
        '{"error":{"code":2,"msg":"Invalid request"},"id":1}',
        '{"e":"SOMETHING_NEW","E":1,"x":{"y":[1.5]}}',
        '{"e":"riskLevelChange","E":1,"u":"1.99999999","s":"MARGIN_CALL"}',
        '{"id":"1","status":200,"result":{}}',
        "[]",
        "{}",
    ],
)
def test_what_is_of_no_use_is_ignored_on_both_streams(text: str) -> None:
    """Acknowledgements, errors and events of tomorrow must not look like damage."""
    assert USDM.decode_private(text.encode(), "main") == []
    assert USDM.decode_market(text.encode(), "m", None) == []


def test_an_announced_shutdown_is_heard() -> None:
    """In both shapes that have been seen elsewhere."""
    expected = [StreamControl("server shutdown announced")]

    assert USDM.decode_private(b'{"e":"serverShutdown","E":1}', "main") == expected
    assert USDM.decode_private(b'{"event":{"e":"serverShutdown","E":1}}', "main") == expected


def test_coin_margined_symbols_of_a_merged_array_are_not_ours() -> None:
    """Since 2026-06 the array carries both markets; a BTCUSD_PERP is computed otherwise."""
    raw = (
        b'[{"e":"markPriceUpdate","E":5,"s":"BTCUSDT","p":"100.5","r":"0.0001","T":9,"st":1},'
        b'{"e":"markPriceUpdate","E":5,"s":"BTCUSD_PERP","p":"100.7","r":"0.0001","T":9,"st":2}]'
    )

    assert USDM.decode_market(raw, "m", None) == [MarkPrice("m", "BTCUSDT", D("100.5"), 5, D("0.0001"), 9)]
    assert USDM.decode_market(raw, "m", {"ETHUSDT"}) == []


@pytest.mark.parametrize("funding", [b'"r":"","T":0', b'"r":"","T":9', b'"r":"0.0001","T":0'])
def test_a_delivery_contract_has_no_funding(funding: bytes) -> None:
    """It says `""` and 0: neither is a rate of zero, and its price counts whatever they say."""
    raw = b'{"e":"markPriceUpdate","E":5,"s":"BTCUSDT_270326","p":"100.5",%s}' % funding

    assert USDM.decode_market(raw, "m", None) == [MarkPrice("m", "BTCUSDT_270326", D("100.5"), 5, None, None)]


# ---- answers ----


def answer(key: str, body: str, sent_ms: int = 7) -> list[Event]:
    return USDM.decode_answer(REQUESTS[key], body.encode(), "main", "m", sent_ms)


def test_a_bracket_rate_is_exact_though_it_is_a_bare_number() -> None:
    """0.004 as a binary float would be 0.004000000000000000083…"""
    one = '{"symbol":"BTCUSDT","brackets":[{"bracket":1,"notionalFloor":0,"maintMarginRatio":0.004,"cum":37.5}]}'
    expected = [BracketsRead("main", {"BTCUSDT": (Bracket(1, D(0), D("0.004"), D("37.5")),)})]

    assert answer("leverageBracket", f"[{one}]") == expected
    assert answer("leverageBracket", one) == expected  # for a single symbol the list may be left out
    [read] = answer("leverageBracket", one)
    assert isinstance(read, BracketsRead)
    assert str(read.brackets["BTCUSDT"][0].rate) == "0.004"


@pytest.mark.skipif(not BRACKETS_FILE.exists(), reason=f"the real brackets do not lie in {BRACKETS_FILE}")
def test_all_real_brackets_decode_and_join_up() -> None:
    """The solver's shortcuts rest on tables without a jump."""
    [read] = answer("leverageBracket", BRACKETS_FILE.read_text(encoding="utf-8"))
    assert isinstance(read, BracketsRead)
    tables = {symbol: bracket_table(rows) for symbol, rows in read.brackets.items()}

    assert len(tables) == 907
    assert [symbol for symbol, table in tables.items() if not table.convex] == []
    assert read.brackets["0GUSDT"][:2] == (
        Bracket(1, D(0), D("0.015"), D(0)),
        Bracket(2, D(5000), D("0.02"), D(25)),
    )


def test_a_position_row_says_what_the_exchange_computed() -> None:
    """Its `"0"` is no price; its entry is cut to the 8 decimals that its engine holds."""
    body = (
        '[{"symbol":"COMPUSDT","positionSide":"SHORT","positionAmt":"-1.000","entryPrice":"70.9284199999999",'
        '"markPrice":"49.72023376","unRealizedProfit":"21.20817624","liquidationPrice":"2260.56757210",'
        '"marginAsset":"USDT","isolatedWallet":"0","maintMargin":"0.49720233","updateTime":1708943511656},'
        '{"symbol":"ADAUSDT","positionSide":"BOTH","positionAmt":"30","entryPrice":"0.385","markPrice":"0.41047590",'
        '"unRealizedProfit":"0.76427700","liquidationPrice":"0","isolatedWallet":"0","marginAsset":"USDT",'
        '"maintMargin":"0.08004280","updateTime":1720736417660},'
        '{"symbol":"XRPUSDT","positionAmt":"0","entryPrice":"0","markPrice":"0","updateTime":0}]'
    )
    short, long, orders_only = (
        Position("COMPUSDT", Side.SHORT, D(-1), D("70.92841999"), None, D(0), 1708943511656, "USDT"),
        Position("ADAUSDT", Side.BOTH, D(30), D("0.385"), None, D(0), 1720736417660, "USDT"),
        Position("XRPUSDT", Side.BOTH, D(0), D(0), None, D(0), 0, None),
    )

    assert answer("positionRisk", body) == [
        PositionsRead(
            "main",
            (
                (short, ExchangeFigures(D("49.72023376"), D("21.20817624"), D("0.49720233"), D("2260.5675721"))),
                (long, ExchangeFigures(D("0.4104759"), D("0.764277"), D("0.0800428"), None)),
                (orders_only, None),
            ),
            7,
        )
    ]


@pytest.mark.parametrize(
    ("said", "isolated"),
    [
        ('"positionAmt":"1","isolatedMargin":"0","isolatedWallet":"0"', False),
        ('"positionAmt":"1","isolatedMargin":"174.91529420","isolatedWallet":"195.16329420"', True),
        ('"positionAmt":"1","isolatedMargin":"-20.24800000","isolatedWallet":"0"', True),
        ('"positionAmt":"1","isolatedMargin":"0","isolatedWallet":"20.24800000"', True),
        ('"positionAmt":"1","isolatedWallet":"0"', None),
        ('"positionAmt":"0","isolatedMargin":"0","isolatedWallet":"0"', None),
        ('"positionAmt":"1","isolatedMargin":"0","marginType":"isolated"', True),
        ('"positionAmt":"1","isolatedMargin":"5","isolatedWallet":"5","marginType":"cross"', False),
    ],
)
def test_a_position_with_no_margin_of_its_own_is_cross_whatever_was_set_before(
    said: str, isolated: bool | None
) -> None:
    """Its isolated margin is wallet and PnL. An outdated setting would leave it out of its cross pool."""
    row = f'{{"symbol":"BTCUSDC","entryPrice":"97526.8","markPrice":"95502","unRealizedProfit":"-20.248",{said}}}'
    [read] = answer("positionRisk", f"[{row}]")

    assert isinstance(read, PositionsRead)
    assert [position.isolated for position, _ in read.rows] == [isolated]


@pytest.mark.parametrize(
    "positions",
    [
        '[{"symbol":"A","positionSide":"SHORT","positionAmt":"-2"},{"symbol":"B","positionSide":"BOTH","positionAmt":"0"},'
        '{"symbol":"C","positionAmt":"1"},{"symbol":"D","positionSide":"LONG","positionAmt":"x"},7]',
        '{"A":1}',
    ],
    ids=["a list", "anything else"],
)
def test_the_answer_with_the_balances_names_what_is_open(positions: str) -> None:
    """A second opinion on positions, and no more: what is odd there hides no balance."""
    [read] = answer("account", f'{{"assets":[],"positions":{positions}}}')

    assert isinstance(read, BalancesRead)
    assert read.held == ({PositionKey("A", Side.SHORT), PositionKey("C", Side.BOTH)} if positions[0] == "[" else set())


def test_the_other_answers_read_as_documented() -> None:
    """Balances, margin types in capitals, contracts with their steps, and the first mark of everything."""
    assert answer("account", '{"assets":[{"asset":"USDT","walletBalance":"23.7","crossWalletBalance":"20"}]}') == [
        BalancesRead("main", (Balance("USDT", D("23.7"), D(20), 0),), 7)
    ]
    assert answer("symbolConfig", '[{"symbol":"A","marginType":"CROSSED"},{"symbol":"B","marginType":"ISOLATED"}]') == [
        MarginTypesRead("main", {"A": False, "B": True})
    ]
    [contracts] = answer(
        "exchangeInfo",
        '{"symbols":[{"symbol":"A","baseAsset":"X","marginAsset":"USDT","status":"TRADING","liquidationFee":"0.0125",'
        '"deliveryDate":4133404800000,"filters":[{"filterType":"LOT_SIZE","stepSize":"0.001"}]}]}',
    )
    assert isinstance(contracts, ContractsRead)
    contract = contracts.contracts["A"]
    assert (contract.quantity_step, contract.liquidation_fee, contract.delivery_ms) == (D("0.001"), D("0.0125"), None)
    marks = answer(
        "premiumIndex",
        '[{"symbol":"A","markPrice":"1.5","lastFundingRate":"","nextFundingTime":0,"time":9},'
        '{"symbol":"NOT_TRADED_YET","markPrice":"0.00000000","time":9}]',
    )
    assert [(e.symbol, e.price, e.funding_rate) for e in marks if isinstance(e, MarkPrice)] == [("A", D("1.5"), None)]


def test_forced_orders_are_told_in_the_order_in_which_they_were() -> None:
    """What followed a liquidation was told as what came before it: the answer need not begin with the oldest."""
    row = (
        '{{"orderId":{0},"symbol":"A","clientOrderId":"autoclose-{0}","avgPrice":"5","executedQty":"1","side":"SELL",'
        '"time":{1},"updateTime":{1}}}'
    )
    body = ",".join(row.format(*each) for each in ((3, 30), (1, 10), (2, 20)))

    told = USDM.decode_answer(USDM.requests.forced, f"[{body}]".encode(), "a", "m", 0)
    assert [order.order_id for order in told if isinstance(order, Fill)] == [1, 2, 3]


def test_what_many_accounts_are_told_alike_is_kept_once() -> None:
    """Brackets of all symbols are half a megabyte of text; two thousand accounts are told the same."""
    rows = '[{"symbol":"A","brackets":[{"bracket":1,"notionalFloor":0,"maintMarginRatio":0.004,"cum":0.0}]}]'
    first, second = (answer("leverageBracket", rows)[0] for _ in range(2))
    other = answer("leverageBracket", rows.replace("0.004", "0.005"))[0]

    assert isinstance(first, BracketsRead)
    assert isinstance(second, BracketsRead)
    assert isinstance(other, BracketsRead)
    assert first.brackets["A"] is second.brackets["A"]
    assert other.brackets["A"][0].rate == Decimal("0.005")


def test_an_odd_row_of_a_market_wide_list_hides_no_other() -> None:
    """One strange symbol among nine hundred must not blind us for those we hold."""
    good = '{"symbol":"A","brackets":[{"bracket":1,"notionalFloor":0,"maintMarginRatio":0.004,"cum":0}]}'
    odd = '{"symbol":"B","brackets":[{"bracket":1,"notionalFloor":0,"maintMarginRatio":1.5,"cum":0}]}'
    marks = (
        b'[{"e":"markPriceUpdate","E":5,"s":"A","p":"100.5"},{"e":"markPriceUpdate","E":5,"s":"B","p":"0.00000000"},'
        b'{"e":"markPriceUpdate","E":5,"s":"C","p":"1e999"},{"e":"markPriceUpdate","E":5,"s":"D","p":"7"}]'
    )

    [read] = answer("leverageBracket", f"[{odd},{good},5]")
    assert isinstance(read, BracketsRead)
    assert list(read.brackets) == ["A"]
    assert [e.symbol for e in USDM.decode_market(marks, "m", None) if isinstance(e, MarkPrice)] == ["A", "D"]


HELD = {
    "symbol": "A",
    "positionSide": "BOTH",
    "positionAmt": "30",
    "entryPrice": "0.385",
    "markPrice": "0.41047590",
    "unRealizedProfit": "0.76427700",
    "liquidationPrice": "0.1",
    "isolatedMargin": "0",
    "isolatedWallet": "0",
    "maintMargin": "0.08004280",
    "updateTime": 5,
}


@pytest.mark.parametrize(
    "odd",
    [
        *({key: ""} for key in ("entryPrice", "updateTime", "isolatedWallet", "symbol", "positionSide")),
        *({key: None} for key in ("entryPrice", "updateTime", "isolatedWallet", "positionSide")),
        {"positionSide": "NET"},
        {"marginType": 7},
    ],
    ids=str,
)
def test_a_flat_row_that_does_not_read_hides_no_position(odd: dict[str, object]) -> None:
    """COIN-M lists every symbol, traded or not: a strange one that nobody holds must not blind its account."""
    flat = {**HELD, "symbol": "B", "positionAmt": "0.000", "isolatedMargin": "0", **odd}
    [read] = answer("positionRisk", json.dumps([flat, HELD]))

    assert isinstance(read, PositionsRead)
    assert [p.symbol for p, _ in read.rows if p.quantity] == ["A"]
    with pytest.raises(DecodeError):
        answer("positionRisk", json.dumps([{**flat, "positionAmt": "1"}, HELD]))


@pytest.mark.parametrize("amount", ["", None, "NaN", "x", []])
def test_a_row_that_does_not_say_how_much_is_held_is_no_flat_one(amount: object) -> None:
    """It could be a position, and who takes it for none would tell that it was closed."""
    with pytest.raises(DecodeError):
        answer("positionRisk", json.dumps([{**HELD, "positionAmt": amount}]))


@pytest.mark.parametrize(
    "odd",
    [{key: bad} for key in ("markPrice", "unRealizedProfit", "maintMargin") for bad in ("", None, "NaN")],
    ids=str,
)
def test_a_position_whose_printed_figures_do_not_read_is_a_position(odd: dict[str, object]) -> None:
    """They are only held against ours; the position is what it is without them."""
    [whole] = answer("positionRisk", json.dumps([HELD]))
    [read] = answer("positionRisk", json.dumps([{**HELD, **odd}]))

    assert isinstance(whole, PositionsRead)
    assert isinstance(read, PositionsRead)
    assert read.rows == ((whole.rows[0][0], None),)


def test_of_a_margin_call_what_reads_is_passed_on() -> None:
    """One position of which a figure is missing must not keep the call for the others."""
    rows = '{"s":"A","ps":"LONG","mm":null,"up":"1"},{"s":"B","ps":"LONG","mm":"1.6","up":"-1.1"}'
    call = private(f'{{"e":"MARGIN_CALL","E":5,"p":[{rows}]}}')

    assert call == MarginCall("main", ((PositionKey("B", Side.LONG), D("1.6"), D("-1.1")),), 5)


@pytest.mark.parametrize("key", ["null", '""', "5", "[]"])
def test_a_listen_key_that_is_none_is_refused(key: str) -> None:
    """A stream of that name would open, answer pings, and tell nothing."""
    with pytest.raises(DecodeError):
        USDM.stream_key(b'{"listenKey":%s}' % key.encode())

    assert USDM.stream_key(b'{"listenKey":"%s"}' % (b"k" * 128)) == "k" * 128


@pytest.mark.parametrize("key", ["leverageBracket", "premiumIndex", "symbolConfig", "exchangeInfo", "account"])
@pytest.mark.parametrize("body", ['{"code":-2015,"msg":"Invalid API-key"}', '[{"a":1},{"b":2}]', "5", '"<html>"'])
def test_an_answer_of_which_nothing_reads_is_refused(key: str, body: str) -> None:
    """An error body or another format must not pass for "there is nothing"."""
    with pytest.raises(DecodeError):
        answer(key, body)


@pytest.mark.parametrize("nothing", ["{}", '""', "null", "0"])
def test_what_has_no_rows_because_it_is_no_list_says_nothing_about_there_being_none(nothing: str) -> None:
    """An empty answer of something in between would have closed every position, and each incident with them."""
    for key, body in (
        ("positionRisk", nothing),
        ("account", f'{{"assets":{nothing}}}'),
        ("exchangeInfo", f'{{"symbols":{nothing}}}'),
    ):
        with pytest.raises(DecodeError):
            answer(key, body)
    with pytest.raises(DecodeError):
        USDM.decode_answer(USDM.requests.forced, nothing.encode(), "a", "m", 0)

    [none] = answer("positionRisk", "[]")
    assert isinstance(none, PositionsRead)
    assert none.rows == ()


# ---- numbers ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.00010000", "0.0001"),
        ("-0.5", "-0.5"),
        ("5735.79204855", "5735.79204855"),
        ("1.", "1"),
        ("1E+3", "1000"),
        ("1e30", "1e30"),
        ("1e-30", "1e-30"),
        ("0", "0"),
        ("-0.00000000", "0"),
        ("0." + "0" * 29 + "1", "1e-30"),
        ("1" * 31, "1" * 31),
    ],
)
def test_a_number_of_the_wire_is_exact(text: str, value: str) -> None:
    """All its digits, and no others."""
    assert number(text) == D(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "+1",
        ".5",
        "1_000",
        "1,5",
        "0x10",
        "NaN",
        "nan",
        "sNaN",
        "Infinity",
        "-inf",
        "1e31",
        "1e-31",
        "1e999",
        "0e99",
        "1e+",
        "١٢٣",
        "１２",
        ".",
        "1.2.3",
        "0." + "0" * 30 + "1",
        "1" * 32,
        "1" * 61,
    ],
)
def test_what_is_no_plain_finite_number_is_refused(text: str) -> None:
    """`Decimal` itself takes NaN, underscores, spaces and the digits of every script."""
    with pytest.raises(ValueError, match="number"):
        number(text)


@pytest.mark.parametrize(
    "bad", ['"NaN"', '"Infinity"', '"1e999"', "1e999", '"1e14"', "1.0e14", "true", "null", "[]", '"1_0"', '" 1"', '"٣"']
)
def test_a_frame_with_a_bad_number_is_refused_everywhere(bad: str) -> None:
    """One such value in a wallet, and every figure after it is nonsense."""
    frames: list[tuple[Callable[[bytes], object], str]] = [
        (
            lambda raw: USDM.decode_private(raw, "main"),
            f'{{"e":"ACCOUNT_UPDATE","T":1,"E":1,"a":{{"m":"ORDER","B":[{{"a":"USDT","wb":{bad},"cw":"1"}}]}}}}',
        ),
        (
            lambda raw: USDM.decode_market(raw, "m", None),
            f'{{"e":"markPriceUpdate","E":1,"s":"A","p":{bad},"r":"","T":0}}',
        ),
        (
            lambda raw: USDM.decode_answer(REQUESTS["leverageBracket"], raw, "main", "m", 0),
            f'[{{"symbol":"A","brackets":[{{"bracket":1,"notionalFloor":{bad},"maintMarginRatio":0.1,"cum":0}}]}}]',
        ),
    ]
    for decode, text in frames:
        with pytest.raises(DecodeError):
            decode(text.encode())


@pytest.mark.parametrize("bad", ["9999999999999999", "-1", "253402300800000", '"99999999999999999999"', "1.5", "1e20"])
def test_a_time_that_no_calendar_has_is_refused(bad: str) -> None:
    """It would pass through the whole core and fail where it is printed."""
    with pytest.raises(DecodeError):
        USDM.decode_market(f'{{"e":"markPriceUpdate","E":{bad},"s":"A","p":"1"}}'.encode(), "m", None)
    [mark] = USDM.decode_market(
        f'{{"e":"markPriceUpdate","E":1,"s":"A","p":"1","r":"1","T":{bad}}}'.encode(), "m", None
    )
    assert mark == MarkPrice("m", "A", D(1), 1, None, None)
    with pytest.raises(DecodeError):
        USDM.decode_private(f'{{"e":"ACCOUNT_UPDATE","T":{bad},"E":1,"a":{{"m":"ORDER"}}}}'.encode(), "main")
    with pytest.raises(DecodeError):
        answer("premiumIndex", f'{{"symbol":"A","markPrice":"1","time":{bad}}}')


@pytest.mark.parametrize("price", ["0", "0.00000000", "-1"])
def test_a_mark_that_is_no_price_is_refused(price: str) -> None:
    """A position at a mark of zero would be liquidated on the spot."""
    with pytest.raises(DecodeError):
        USDM.decode_market(f'{{"e":"markPriceUpdate","E":1,"s":"A","p":"{price}"}}'.encode(), "m", None)


@pytest.mark.parametrize(
    "part",
    [
        '"S":5,"B":[]',
        '"B":[],"P":[{"s":"A","pa":"1","ep":"1","mt":"cross","ma":7}]',
        '"B":[],"P":[{"s":"","pa":"1","ep":"1","mt":"cross"}]',
        '"B":[],"P":[{"s":"A","pa":"1","ep":"1","mt":"cross","ps":"UP"}]',
        '"B":[{"a":["USDT"],"wb":"1","cw":"1"}]',
    ],
)
def test_a_name_that_is_no_name_is_refused(part: str) -> None:
    """A margin asset or symbol of another type would fail later, inside the core."""
    with pytest.raises(DecodeError):
        private(f'{{"e":"ACCOUNT_UPDATE","T":1,"E":1,"a":{{"m":"ORDER",{part}}}}}')


# ---- whatever the bytes ----


def survives(raw: bytes) -> None:
    """Let everything that reads bytes read these."""
    readers: list[Callable[[bytes], object]] = [
        lambda body: USDM.decode_market(body, "m", None),
        lambda body: USDM.decode_private(body, "main"),
        USDM.stream_key,
        USDM.server_time,
        *(_reader(request) for request in (*REQUESTS.values(), *FACTS)),
    ]
    for read in readers:
        with suppress(DecodeError):
            read(raw)


def _reader(request: Request) -> Callable[[bytes], object]:
    return lambda body: USDM.decode_answer(request, body, "main", "m", 0)


ANSWERS = (
    b'{"dualSidePosition":true,"multiAssetsMargin":false}',
    b'[{"symbol":"BTCUSDT","marginType":"CROSSED"}]',
    b'[{"symbol":"ETHUSDT","brackets":[{"bracket":1,"notionalCap":1,"notionalFloor":0,"maintMarginRatio":0.0065,'
    b'"cum":0.0}]}]',
    b'{"assets":[{"asset":"USDT","walletBalance":"23.7","crossWalletBalance":"23.7","updateTime":1625474304765}]}',
    b'[{"symbol":"ADAUSDT","positionSide":"BOTH","positionAmt":"30","entryPrice":"0.385","markPrice":"0.4104759",'
    b'"unRealizedProfit":"0.764277","liquidationPrice":"0","isolatedWallet":"0","marginType":"cross",'
    b'"maintMargin":"0.0800428","updateTime":1720736417660}]',
    b'{"symbols":[{"symbol":"A","baseAsset":"X","marginAsset":"USDT","status":"TRADING","liquidationFee":"0.0125",'
    b'"deliveryDate":4133404800000,"filters":[{"filterType":"LOT_SIZE","stepSize":"0.001"}]}],'
    b'"assets":[{"asset":"BTC","marginAvailable":true,"autoAssetExchange":"-0.10"}]}',
    b'[{"symbol":"A","markPrice":"1.5","lastFundingRate":"0.1","nextFundingTime":5,"time":9}]',
    b'[{"symbol":"ADAUSD","time":1635740268004,"bidRate":"1.73661633","askRate":"2.12253107"}]',
    b'[{"symbol":"BTCUSDT","adlRisk":"low"}]',
    b'[{"symbols":["A"],"assets":[{"asset":"USDT","marginBalance":"793930579.315848"}]}]',
    b'[{"symbol":"BLZUSDT","fundingIntervalHours":8}]',
    b'[{"symbol":"BTCUSDT","adlQuantile":{"LONG":1,"SHORT":2,"BOTH":0}}]',
    b'{"serverTime":1499827319559}',
    b'{"listenKey":"abc"}',
)
OTHER_FRAMES = (
    b'{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","r":"0.00038167","T":1562306400000,"st":1}',
    b'{"stream":"a","data":[{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","r":"","T":0}]}',
    b'{"e":"ACCOUNT_UPDATE","T":1,"E":2,"a":{"B":[{"a":"USDT","wb":"990","cw":"890","bc":"-1"}],"P":[{"s":"ETHUSDT",'
    b'"pa":"1","ep":"3000","mt":"isolated","iw":"100.0","ps":"BOTH","ma":"USDT"}],"m":"FUNDING_FEE","S":"ETHUSDT"}}',
    b'{"e":"ORDER_TRADE_UPDATE","E":1,"T":1,"o":{"s":"A","c":"autoclose-1","S":"SELL","o":"LIQUIDATION","x":"TRADE",'
    b'"i":1,"l":"2","L":"3","N":"USDT","n":"0","T":1,"t":2,"rp":"-1","ps":"LONG"}}',
    b'{"e":"ACCOUNT_CONFIG_UPDATE","E":1,"T":1,"ac":{"s":"BTCUSDT","l":25},"ai":{"j":true}}',
    b'{"event":{"e":"serverShutdown","E":1}}',
    b'[{"e":"assetIndexUpdate","E":1686749230000,"s":"ADAUSD","B":"0.24716207","A":"0.30208698"}]',
    b'{"stream":"!contractInfo","data":{"e":"contractInfo","E":1,"s":"A","dt":4133404800000,"cs":"TRADING","st":1,'
    b'"bks":[{"bs":1,"bnf":0,"bnc":5000,"mmr":0.01,"cf":0}]}}',
    b'{"e":"ORDER_TRADE_UPDATE","E":1,"T":1,"o":{"s":"A","c":"x","S":"SELL","x":"EXPIRED","i":1,"T":1,"er":"5"}}',
    b'{"e":"STRATEGY_UPDATE","T":1,"E":1,"su":{"si":1,"s":"A","c":8005}}',
)
SMALL = (*ANSWERS, *OTHER_FRAMES, *(raw for _, raw in FRAMES if len(raw) < 3000))

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "NaN", "Infinity", "1e999", "0", "-0", "٣", "x" * 70, "\x00", "autoclose-", "both", "data"]),
    st.text(max_size=8),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["e", "a", "data", "symbol"]), st.integers(0, 3), max_size=2),
)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A real body in which one value is another, is gone, or stands elsewhere."""
    body = json.loads(draw(st.sampled_from(SMALL)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(body))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()) and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = draw(odd_values)
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as the container and the key that lead to it."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in [(node, key), *_places(node[key])]]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real body whose bytes are cut, doubled or overwritten."""
    raw = bytearray(draw(st.sampled_from(SMALL)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        raw[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(raw)


@given(mutilated())
@settings(max_examples=600)
def test_a_mutilated_body_raises_nothing_but_a_decode_error(raw: bytes) -> None:
    """Wrong types, missing keys, absurd numbers: the feed drops that frame and goes on."""
    survives(raw)


@given(damaged())
@settings(max_examples=300)
def test_a_damaged_body_raises_nothing_but_a_decode_error(raw: bytes) -> None:
    """A cut connection, a proxy's rewriting, bytes that are no text."""
    survives(raw)


@given(st.binary(max_size=200))
@settings(max_examples=300)
@example(b"")
@example(b"\xff\xfe")
@example(b'"\xed\xa0\x80"')
@example(b'{"e":"markPriceUpdate","E":1,"s":"\\ud800","p":"1"}')
@example(b"1" * 5000)
@example(b"[" * 200_000)
@example(b'{"data":' * 100_000)
@example(b'{"e":"markPriceUpdate","data":' + b"[" * 200_000)
@example(b'{"stream":"x","data":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
@example(b'{"e":"ACCOUNT_UPDATE","T":1,"E":1,"a":' + b'{"m":' * 100_000)
@example(b"[NaN, Infinity, -Infinity]")
@example(b"[1e999, -1e999, 1e-999]")
@example(b'{"e":"ACCOUNT_UPDATE","T":1e400,"E":NaN,"a":{}}')
@example(b"null")
@example(b"true")
@example(b'"markPriceUpdate"')
@example(b'["markPriceUpdate"]')
@example(b'{"data":"markPriceUpdate"}')
@example(b'{"e":["ACCOUNT_UPDATE"]}')
@example(b'{"event":"serverShutdown"}')
@example(b'{"e":"","event":[]}')
def test_any_bytes_raise_nothing_but_a_decode_error(raw: bytes) -> None:
    """Whatever comes down a socket, a bug is not what it looks like."""
    survives(raw)
