"""Every bracket table that the exchange really has: read whole, and joined without a gap.

Maintenance margin that jumped at an edge would be a wrong margin ratio and a wrong liquidation price for whoever
crosses it; the tables come from the answers of the exchange's own `leverageBracket` requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monitor.brackets import Brackets
from monitor.events import Bracket, BracketsRead, ExchangeFigures, PositionsRead
from monitor.risk.margin import BracketTable, bracket_table
from monitor.snapshot import assess_snapshot
from monitor.venues import VENUES
from tests import watched

D = Decimal
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
USDM = SHARED_DATA / "leverage_brackets_usdm_2026-09.json"
COINM = SHARED_DATA / "leverage_brackets_coinm_BTCUSD.json"
SYMBOLS = 907
ONE_EIGHTH_DECIMAL = D("0.00000001")

Tables = dict[str, tuple[Bracket, ...]]

needs_usdm = pytest.mark.skipif(not USDM.exists(), reason=f"the real brackets do not lie in {USDM}")
needs_coinm = pytest.mark.skipif(not COINM.exists(), reason=f"the real brackets do not lie in {COINM}")


def decoded(venue: str, body: bytes) -> Tables:
    """What the venue makes of an answer to `leverageBracket`."""
    [read] = VENUES[venue].decode_answer(VENUES[venue].bodies["leverageBracket"], body, "main", "market", 0)
    assert isinstance(read, BracketsRead)
    return read.brackets


def exact(file: Path) -> list[dict[str, Any]]:
    """The file as it stands, each number with all its digits."""
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"), parse_float=D, parse_int=D)
    return rows


@cache
def usdm() -> Tables:
    return decoded("binance-usdm", USDM.read_bytes())


@cache
def coinm() -> tuple[Tables, ...]:
    """The file has one symbol in two eras; an account only ever sees one of them, so each is an answer by itself."""
    eras = json.loads(COINM.read_text(encoding="utf-8"))
    return tuple(decoded("binance-coinm", json.dumps([era]).encode()) for era in eras)


def line(bracket: Bracket, notional: Decimal) -> Decimal:
    """notional × rate − amount, of this bracket whether or not it holds there."""
    return notional * bracket.rate - bracket.amount


def edges(tables: Tables) -> Iterator[tuple[str, BracketTable, Bracket, Bracket]]:
    """Each boundary of each symbol: its table, and the brackets below and above it."""
    for symbol, brackets in tables.items():
        table = bracket_table(brackets)
        for low, high in pairwise(table.brackets):
            yield symbol, table, low, high


def assert_joined(tables: Tables) -> int:
    """How many boundaries there are, each of them without a jump, in exact arithmetic."""
    seen = 0
    for symbol, table, low, high in edges(tables):
        edge = high.floor
        assert line(low, edge) == line(high, edge), f"{symbol} jumps at {edge}"
        assert table.maintenance_margin(edge) == line(low, edge), f"{symbol} at {edge}"
        above = edge + ONE_EIGHTH_DECIMAL
        assert table.maintenance_margin(above) == line(high, above), f"{symbol} just above {edge}"
        assert high.amount == low.amount + edge * (high.rate - low.rate), f"{symbol}: amount of {high.number}"
        seen += 1
    return seen


def assert_rising(tables: Tables) -> None:
    for symbol, brackets in tables.items():
        assert brackets[0].floor == 0, symbol
        assert brackets[0].amount == 0, symbol
        assert [b.number for b in brackets] == list(range(1, len(brackets) + 1)), symbol
        for low, high in pairwise(brackets):
            assert low.floor < high.floor, f"{symbol}: floor of {high.number}"
            assert low.rate < high.rate < 1, f"{symbol}: rate of {high.number}"
        assert bracket_table(brackets).convex, symbol


# ---- USDⓈ-M ----


@needs_usdm
def test_every_symbol_and_bracket_is_read() -> None:
    """A row that does not read is left out without an error, so what is left out has to be counted here."""
    rows = exact(USDM)

    assert len(rows) == len({row["symbol"] for row in rows}) == len(usdm()) == SYMBOLS
    for row in rows:
        read = usdm()[row["symbol"]]
        given = [(b["bracket"], b["notionalFloor"], b["maintMarginRatio"], b["cum"]) for b in row["brackets"]]
        assert [(b.number, b.floor, b.rate, b.amount) for b in read] == given, row["symbol"]


@needs_usdm
def test_maintenance_margin_has_no_jump_at_any_boundary() -> None:
    """Equal to the last digit: which bracket an edge belongs to is then of no consequence."""
    seen = assert_joined(usdm())

    assert seen == sum(len(row["brackets"]) - 1 for row in exact(USDM)) > 6000


@needs_usdm
def test_rates_rise_and_every_table_is_convex() -> None:
    """Then maintenance margin is the largest of the bracket lines, on which the solver's shortcut relies."""
    assert_rising(usdm())


@needs_usdm
def test_each_bracket_ends_where_the_next_begins() -> None:
    """We read floors alone: a cap that were another edge would be a gap that nobody sees."""
    for row in exact(USDM):
        for low, high in pairwise(row["brackets"]):
            assert low["notionalCap"] == high["notionalFloor"], row["symbol"]


@needs_usdm
def test_the_leverage_that_is_allowed_leaves_more_than_maintenance() -> None:
    """Nobody can open a position that is liquidated at once: 1 ÷ leverage is at least the maintenance rate."""
    for row in exact(USDM):
        for bracket in row["brackets"]:
            assert bracket["maintMarginRatio"] * bracket["initialLeverage"] <= 1, (row["symbol"], bracket["bracket"])


@needs_usdm
def test_a_snapshot_with_the_real_answer_is_assessed() -> None:
    """The whole file as `leverageBracket`, unchanged: 100 BTC at 67 000, liquidated in the fourth bracket."""
    position = {
        "symbol": "BTCUSDT",
        "positionSide": "BOTH",
        "positionAmt": "100",
        "entryPrice": "67000",
        "markPrice": "67000",
        "isolatedWallet": "670000",
        "marginAsset": "USDT",
    }
    head = json.dumps({"venue": "binance-usdm", "positionRisk": [position]}).encode()
    raw = head[:-1] + b', "leverageBracket": ' + USDM.read_bytes() + b"}"

    [state] = assess_snapshot(raw).positions

    assert state.risk.bracket is not None
    assert state.risk.bracket.number == 4
    assert state.risk.liquidation_price is not None
    assert state.risk.liquidation_price.quantize(D("0.01")) == D("60787.88")  # 6 018 000 ÷ 99


# ---- COIN-M ----


@needs_coinm
def test_the_brackets_of_the_coin_are_read_in_both_eras() -> None:
    """Edges are quantities of the coin, under the key that the documentation misspells."""
    eras = exact(COINM)

    assert len(coinm()) == len(eras) == 2
    for era, tables in zip(eras, coinm(), strict=True):
        given = [(b["bracket"], b["qtylFloor"], b["maintMarginRatio"], b["cum"]) for b in era["brackets"]]
        assert [(b.number, b.floor, b.rate, b.amount) for b in tables[era["symbol"]]] == given


@needs_coinm
def test_maintenance_margin_in_the_coin_has_no_jump_either() -> None:
    """The amounts are fractions of a coin, and join exactly all the same."""
    assert [assert_joined(tables) for tables in coinm()] == [9, 8]


@needs_coinm
def test_rates_of_the_coin_rise_too() -> None:
    """One arithmetic serves both markets."""
    for tables in coinm():
        assert_rising(tables)


def test_a_multiplier_is_read_right_whether_or_not_the_exchange_cuts_the_notional_first() -> None:
    """0.007 × 76936.86924667 = 538.55808472669; × 0.4 − 10 is 205.423233890676, or 205.42323388 if cut off before.

    Which of the two the exchange does is not documented, and neither is a fault of the brackets.
    """
    edges = (Bracket(1, D(0), D("0.3"), D(0)), Bracket(2, D(100), D("0.4"), D(10)))
    held = watched.row("BTCUSDT", "0.007", "70000")
    for printed in ("205.42323389", "205.42323388"):
        brackets = Brackets()
        brackets.apply(BracketsRead("main", {"BTCUSDT": edges}, {"BTCUSDT": D(2)}))
        figures = ExchangeFigures(D("76936.86924667"), D(0), D(printed), None)
        brackets.compare(PositionsRead("main", ((held, figures),), 2))
        assert brackets.faults == {}


def test_an_unusable_bracket_table_is_said_and_not_used() -> None:
    """Better no price than one from a table that makes no sense."""
    brackets = Brackets()
    low, high = Bracket(1, D(0), D("0.01"), D(0)), Bracket(2, D(0), D("0.02"), D(0))

    brackets.apply(BracketsRead("main", {"BTCUSDT": (low, high), "ETHUSDT": (low,)}))
    assert brackets.faults.keys() == {"BTCUSDT"}
    assert brackets.tables.keys() == {"ETHUSDT"}
