"""`marginwatch assess`: the risk of a saved account, for people and for programs.

The builders of snapshot files here serve other test files too.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from monitor.commands import assess
from tests.schemas import validate

ROOT = Path(__file__).parents[1]

Rows = Sequence[tuple[str, str, str]]
"""Brackets: floor, rate, amount, each as the exchange writes the number."""


def risk_row(symbol: str, quantity: str, entry: str, mark: str, **more: object) -> dict[str, object]:
    """A row of `positionRisk`, with the keys that it always has and those given."""
    return {
        "symbol": symbol,
        "positionSide": "BOTH",
        "positionAmt": quantity,
        "entryPrice": entry,
        "markPrice": mark,
        "unRealizedProfit": "0",
        "liquidationPrice": "0",
        "isolatedWallet": "0",
        "marginAsset": "USDT",
        "updateTime": 1_795_248_000_000,
        **more,
    }


def assets(**balances: str) -> dict[str, object]:
    """The `account` answer: asset → cross wallet balance."""
    return {
        "assets": [
            {"asset": asset, "walletBalance": balance, "crossWalletBalance": balance, "updateTime": 0}
            for asset, balance in balances.items()
        ]
    }


def snapshot(
    rows: Sequence[Mapping[str, object]],
    brackets: Mapping[str, Rows],
    account: Mapping[str, object] | None = None,
    **more: object,
) -> str:
    """A snapshot file. Rates, floors and amounts of brackets are bare JSON numbers, as on the wire."""
    body: dict[str, object] = {"venue": "binance-usdm", "positionRisk": rows, **more}
    if account is not None:
        body["account"] = account
    text = json.dumps(body)
    return f'{text[:-1]}, "leverageBracket": {_brackets(brackets)}}}'


def _brackets(brackets: Mapping[str, Rows]) -> str:
    def one(number: int, row: tuple[str, str, str]) -> str:
        floor, rate, amount = row
        return f'{{"bracket": {number}, "notionalFloor": {floor}, "maintMarginRatio": {rate}, "cum": {amount}}}'

    symbols = (
        f'{{"symbol": {json.dumps(symbol)}, "brackets": [{", ".join(one(i + 1, row) for i, row in enumerate(rows))}]}}'
        for symbol, rows in brackets.items()
    )
    return f"[{', '.join(symbols)}]"


class Assessed:
    """What the command printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def pools(self) -> dict[str, dict[str, Any]]:
        return {line["pool"]: line for line in self.lines if line["schema"] == "marginwatch.pool/1"}

    @property
    def positions(self) -> dict[str, dict[str, Any]]:
        """By symbol; of a hedged pair by symbol and side."""
        rows = [line for line in self.lines if line["schema"] == "marginwatch.position/1"]
        symbols = [row["symbol"] for row in rows]
        return {
            row["symbol"] if symbols.count(row["symbol"]) == 1 else f"{row['symbol']} {row['side']}": row
            for row in rows
        }


def assessed(
    text: str | bytes,
    *shocks: str,
    transfer: Sequence[str] = (),
    add: Sequence[str] = (),
    reduce: Sequence[str] = (),
    close: Sequence[str] = (),
    as_json: bool = True,
) -> Assessed:
    """Run the command on a file that it reads from standard input."""
    raw = text.encode() if isinstance(text, str) else text
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw))), redirect_stdout(out), redirect_stderr(err):
        status = assess.main("-", shocks, as_json, transfer, add, reduce, close)
    return Assessed(status, out.getvalue(), err.getvalue())


# 2.5 BTC long at 92000 on 5182.40 USDT, rate 0.4 %: liquidated at (230000 − 5182.40) ÷ (2.5 × 0.996).
LONG = snapshot(
    [risk_row("BTCUSDT", "2.5", "92000", "90372.10")], {"BTCUSDT": [("0", "0.004", "0")]}, assets(USDT="5182.40")
)


def test_people_get_tables_of_pools_positions_and_moves_of_the_market() -> None:
    """What somebody reads who was told that something is wrong.

    At +1 %: maintenance margin 225930.25 × 1.01 × 0.004 = 912.75821, margin balance 1112.65 + 2259.3025: 27.1 %.
    """
    run = assessed(LONG, as_json=False)

    assert run.status == 0
    assert run.out.splitlines() == [
        "pool        margin ratio  margin balance        maintenance margin  distance to liquidation",
        "cross-usdt        81.2 %         1112.65  USDT             903.721                   0.09 %",
        "",
        "position      quantity  entry price  mark price  liquidation price  unrealized PnL",
        "BTCUSDT long       2.5        92000     90372.1          90288.193        −4069.75",
        "",
        "margin ratio if all marks move alike (liq.: liquidated by then)",
        "            −1 %  −2 %  −5 %  −10 %  −20 %  −30 %  −50 %  liquidated at",
        "cross-usdt  liq.  liq.  liq.   liq.   liq.   liq.   liq.        −0.09 %",
        "first liquidated as the market falls: cross-usdt, at −0.09 %",
        "",
        "              +1 %    +2 %   +5 %  +10 %  +20 %  +30 %  +50 %  liquidated at",
        "cross-usdt  27.1 %  16.4 %  7.6 %  4.2 %  2.3 %  1.7 %  1.2 %        no move",
        "no pool is known to be liquidated as the market rises",
    ]
    assert run.err == ""


def test_a_move_that_no_market_makes_is_not_printed_as_if_it_could() -> None:
    """0.1 BTC short with 90,000 USDT: liquidated at some ten times the mark, (90000 + 9000) ÷ 0.1004 = 986056."""
    short = [risk_row("BTCUSDT", "-0.1", "90000", "80000")]
    run = assessed(snapshot(short, {"BTCUSDT": [("0", "0.004", "0")]}, assets(USDT="90000")), as_json=False)

    assert run.out.splitlines()[-1] == "first liquidated as the market rises: cross-usdt, at beyond +1000 %"


def test_programs_get_a_json_line_for_each_pool_and_position() -> None:
    """The payloads of the topics, so that one reader serves both."""
    run = assessed(LONG)
    pool, position = run.lines

    assert run.status == 0
    validate(f"marginwatch/snapshot/pool/{pool['pool']}", json.dumps(pool).encode())
    validate("marginwatch/snapshot/position/btcusdt", json.dumps(position).encode())
    assert (pool["margin_ratio"], pool["distance"]) == (0.81222397, 0.00092846)
    assert position["liquidation_price"] == "90288.19277108"
    assert position["bankruptcy_price"] == "89927.04000000"
    assert pool["as_of"] == position["as_of"] == "2026-11-21T08:00:00.000Z"


@pytest.mark.parametrize(
    ("shocks", "balance"),
    [
        pytest.param(["BTCUSDT=-5%"], "4582.40000000", id="one symbol: −600"),
        pytest.param(["*=+10%"], "6682.40000000", id="all: +1200 and +300"),
        pytest.param(["ETHUSDT=-1.5%"], "5137.40000000", id="a fraction of a percent: −45"),
        pytest.param(["*=10%", "ETHUSDT=-1.5%"], "6337.40000000", id="all but one: +1200 and −45"),
    ],
)
def test_a_shock_moves_the_marks_first(shocks: list[str], balance: str) -> None:
    """What-if questions are asked of the same arithmetic."""
    rows = [
        risk_row("BTCUSDT", "0.1", "120000", "120000"),
        risk_row("ETHUSDT", "1", "3000", "3000"),
    ]
    brackets = {"BTCUSDT": [("0", "0.004", "0")], "ETHUSDT": [("0", "0.005", "0")]}
    run = assessed(snapshot(rows, brackets, assets(USDT="5182.40")), *shocks)

    assert run.status == 0
    assert run.pools["cross-usdt"]["margin_balance"] == balance


@pytest.mark.parametrize("shock", ["BTCUSDT", "BTCUSDT=5", "BTCUSDT=five%", "=5%", "BTCUSDT=-100%", "BTCUSDT=-250%"])
def test_a_shock_that_means_nothing_is_wrong_usage(shock: str) -> None:
    """A typing error must not give figures that look like an answer."""
    run = assessed(LONG, shock)

    assert run.status == 2
    assert run.out == ""
    assert shock in run.err


def test_a_shock_of_a_symbol_that_is_not_held_is_wrong_usage() -> None:
    """BTCUSD instead of BTCUSDT would otherwise read as "no effect"."""
    run = assessed(LONG, "BTCUSD=-5%")

    assert run.status == 2
    assert run.out == ""
    assert run.err == "marginwatch assess: --shock: BTCUSD is not held; held are BTCUSDT long\n"


def test_a_shock_that_is_given_twice_is_wrong_usage() -> None:
    """The first was dropped, so that the answer was to another question than was asked."""
    run = assessed(LONG, "*=-10%", "BTCUSDT=-1%", "*=-5%")

    assert run.status == 2
    assert run.out == ""
    assert run.err == "marginwatch assess: --shock: * is given twice; which move is meant?\n"


# ---- what is missing ----


def test_isolated_positions_need_position_risk_alone() -> None:
    """An isolated wallet stands in the row itself. 27.75053162 of collateral, rate 0.4 %: 54233.54768876."""
    rows = [
        risk_row(
            "BTCUSDT", "0.010", "56791.66666", "57214.41443521", positionSide="LONG", isolatedWallet="27.75053162"
        ),
        risk_row("BTCUSDT", "-0.002", "66351.2", "57214.41443521", positionSide="SHORT", isolatedWallet="13.2198888"),
    ]
    run = assessed(snapshot(rows, {"BTCUSDT": [("0", "0.004", "0")]}))

    assert run.status == 0
    assert run.err == ""
    assert set(run.pools) == {"isolated-btcusdt-long", "isolated-btcusdt-short"}
    assert run.positions["BTCUSDT long"]["liquidation_price"] == "54233.54768876"
    assert run.positions["BTCUSDT short"]["liquidation_price"] == "72670.46254980"


def test_a_cross_position_without_account_lacks_its_balance() -> None:
    """The wallet is in no row: nothing that needs it may be guessed."""
    run = assessed(snapshot([risk_row("BTCUSDT", "2.5", "92000", "90372.10")], {"BTCUSDT": [("0", "0.004", "0")]}))
    pool, position = run.lines

    assert run.status == 1
    assert run.err == "missing: cross-usdt: balance USDT is unknown\n"
    assert (pool["margin_ratio"], pool["reason"], pool["distance"]) == (None, "balance_unknown", None)
    assert (position["liquidation_price"], position["liquidation"]["reason"]) == (None, "pool_incomplete")
    assert position["maintenance_margin"] == "903.72100000"
    validate("marginwatch/snapshot/pool/cross-usdt", json.dumps(pool).encode())
    validate("marginwatch/snapshot/position/btcusdt", json.dumps(position).encode())


def test_without_brackets_the_price_is_null_with_its_reason() -> None:
    """Notional and PnL need no brackets and are given all the same."""
    row = risk_row("BTCUSDT", "2.5", "92000", "90372.10")
    run = assessed(snapshot([row], {}, assets(USDT="5182.40")))
    pool, position = run.lines

    assert run.status == 1
    assert run.err == "missing: cross-usdt: brackets BTCUSDT is unknown\n"
    assert (pool["margin_ratio"], pool["reason"]) == (None, "brackets_unknown")
    assert (position["liquidation_price"], position["liquidation"]["reason"]) == (None, "brackets_unknown")
    assert (position["notional"], position["unrealized_pnl"]) == ("225930.25000000", "-4069.75000000")
    validate("marginwatch/snapshot/pool/cross-usdt", json.dumps(pool).encode())
    validate("marginwatch/snapshot/position/btcusdt", json.dumps(position).encode())


def test_a_mark_is_taken_from_the_premium_index_where_the_row_has_none() -> None:
    """Older answers and other programs leave it out; with it comes the next funding."""
    row = {k: v for k, v in risk_row("BTCUSDT", "2.5", "92000", "1").items() if k != "markPrice"}
    index = {
        "symbol": "BTCUSDT",
        "markPrice": "90372.10000000",
        "lastFundingRate": "0.00010000",
        "nextFundingTime": 1_795_276_800_000,
        "time": 1_795_248_000_500,
    }
    text = snapshot([row], {"BTCUSDT": [("0", "0.004", "0")]}, assets(USDT="5182.40"), premiumIndex=[index])
    run = assessed(text)

    assert run.status == 0
    assert run.positions["BTCUSDT"]["liquidation_price"] == "90288.19277108"
    assert run.positions["BTCUSDT"]["funding"] == {
        "rate": 0.0001,
        "next_at": "2026-11-21T16:00:00.000Z",
        "interval_hours": None,
        "payment": "-22.59302500",
        "liquidation_price_after": "90297.26627510",  # (230000 − 5182.40 + 22.593025) ÷ 2.49
    }
    assert run.pools["cross-usdt"]["as_of"] == "2026-11-21T08:00:00.500Z"


@pytest.mark.parametrize("mark", [None, "0", "0.00000000"])
def test_a_position_without_a_mark_is_named(mark: str | None) -> None:
    """The exchange prints 0 where it has none; nothing can be divided by that."""
    row = risk_row("BTCUSDT", "2.5", "92000", mark or "1")
    if mark is None:
        del row["markPrice"]
    run = assessed(snapshot([row], {"BTCUSDT": [("0", "0.004", "0")]}, assets(USDT="5182.40")))

    assert run.status == 1
    assert run.err == "missing: cross-usdt: mark BTCUSDT is unknown\n"
    assert run.positions["BTCUSDT"]["liquidation"]["reason"] == "mark_unknown"


def test_a_file_without_positions_says_so() -> None:
    """An empty answer must not look like an empty account."""
    run = assessed(json.dumps({"venue": "binance-usdm", "account": assets(USDT="100")}), as_json=False)

    assert run.status == 1
    assert run.err == "missing: positionRisk: positions are unknown\n"


def test_an_account_without_positions_is_fine() -> None:
    """Nothing at risk is an answer."""
    run = assessed(snapshot([], {}, assets(USDT="100")), as_json=False)

    assert (run.status, run.out, run.err) == (0, "no positions\n", "")


def multi_assets(**more: object) -> str:
    """The account of `LONG` with 0.01 BTC beside its USDT, and all of it collateral."""
    mode = {"dualSidePosition": False, "multiAssetsMargin": True}
    return json.dumps(json.loads(LONG) | {"accountConfig": mode, "account": assets(USDT="5182.40", BTC="0.01"), **more})


def test_multi_assets_mode_without_the_rates_of_its_assets_says_what_is_missing() -> None:
    """At par it would look nearly right, and be wrong."""
    run = assessed(multi_assets())

    assert run.status == 1
    assert run.pools["multi-assets"]["margin_ratio"] is None
    assert run.pools["multi-assets"]["reason"] == "rate_unknown"
    assert run.err.splitlines() == [
        "missing: multi-assets: rate BTC is unknown",
        "missing: multi-assets: rate USDT is unknown",
    ]


def test_multi_assets_mode_counts_every_asset_at_its_rate() -> None:
    """(5182.40 − 4069.75) × 0.99 + 0.01 × 85000 = 1951.5235; margin 903.721 × 1.01 = 912.75821, 46.771571 % of it.

    It is liquidated where (2.5 P − 224817.6) × 0.99 + 850 = 2.5 P × 0.004 × 1.01: at 221719.424 ÷ 2.4649.
    """
    rates = [
        {"symbol": "USDTUSD", "time": 1_795_248_000_000, "bidRate": "0.99", "askRate": "1.01"},
        {"symbol": "BTCUSD", "time": 1_795_248_000_000, "bidRate": "85000", "askRate": "95000"},
    ]
    run = assessed(multi_assets(assetIndex=rates))

    assert (run.status, run.err) == (0, "")
    [(pool_id, found)] = run.pools.items()
    assert (pool_id, found["asset"]) == ("multi-assets", "USD")
    assert found["margin_balance"] == "1951.52350000"
    assert found["maintenance_margin"] == "912.75821000"
    assert found["margin_ratio"] == 0.46771572  # rounded up
    assert run.positions["BTCUSDT"]["liquidation_price"] == "89950.67710658"


def test_the_margin_type_may_come_from_the_symbol_config() -> None:
    """An isolated position whose wallet has been used up stands at 0 and is isolated all the same."""
    row = risk_row("BTCUSDT", "0.01", "92000", "92500")
    config = [{"symbol": "BTCUSDT", "marginType": "ISOLATED"}]
    run = assessed(snapshot([row], {"BTCUSDT": [("0", "0.004", "0")]}, symbolConfig=config))

    assert run.status == 0
    assert run.pools["isolated-btcusdt"]["margin_balance"] == "5.00000000"


# ---- what cannot be read ----


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "not a JSON object", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n\xff\xfe", "not a JSON object", id="a picture"),
        pytest.param(b"<html>503</html>", "not a JSON object", id="a page"),
        pytest.param(b"[1, 2]", "not a JSON object", id="a list"),
        pytest.param(b"{" * 200_000, "not a JSON object", id="cut off"),
        pytest.param(b'{"venue": ' + b"[" * 200_000, "not a JSON object", id="deeply nested"),
        pytest.param(b'{"account": {}}', "binance-usdm", id="no venue"),
        pytest.param(b'{"venue": "mtgox"}', "'mtgox'", id="unknown venue"),
        pytest.param(b'{"venue": 5}', "not a JSON object", id="venue of another type"),
        pytest.param(b'{"venue": "binance-usdm", "postionRisk": []}', "postionRisk", id="misspelt key"),
        pytest.param(b'{"venue": "binance-usdm", "positionRisk": {"code": -2015}}', '"positionRisk"', id="error body"),
        pytest.param(
            b'{"venue": "binance-usdm", "account": {"assets": [{"asset": "USDT", "walletBalance": "NaN"}]}}',
            '"account"',
            id="not a number",
        ),
        pytest.param(
            b'{"venue": "binance-usdm", "positionRisk": [{"symbol": "BTCUSDT"}]}',
            "\"positionRisk\": 'positionAmt' is missing in [{",
            id="a row of something else",
        ),
        pytest.param(
            b'{"venue": "binance-usdm", "exchangeInfo": []}',
            '"exchangeInfo": not of the shape that it has at the exchange in []',
            id="another answer",
        ),
        pytest.param(
            b'{"venue": "binance-usdm", "positionRisk": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "",
            id="an answer nested beyond reason",
        ),
    ],
)
def test_what_cannot_be_read_is_a_clear_error(raw: bytes, says: str) -> None:
    """One line that names what is wrong, no traceback, and nothing on standard output."""
    run = assessed(raw)

    assert run.status == 1
    assert run.out == ""
    assert run.err.startswith("marginwatch assess: -: ")
    assert says in run.err
    assert run.err.count("\n") == 1


def command(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", "assess", *arguments], input=stdin, capture_output=True, cwd=ROOT
    )


def test_the_command_reads_a_file_or_standard_input(tmp_path: Path) -> None:
    """`-` is for pipes; both ways give the same bytes."""
    file = tmp_path / "snapshot.json"
    file.write_text(LONG, encoding="utf-8")

    from_file, from_pipe = command(str(file), "--json"), command("-", "--json", stdin=LONG.encode())
    shocked = command(str(file), "--json", "--shock", "BTCUSDT=+1%", "--shock", "*=-2%")

    assert from_file.returncode == from_pipe.returncode == shocked.returncode == 0
    assert from_file.stdout == from_pipe.stdout == assessed(LONG).out.encode()
    assert json.loads(shocked.stdout.splitlines()[1])["mark_price"] == "91275.82100000"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The commonest mistake of all."""
    done = command(str(tmp_path / "none.json"))

    assert done.returncode == 1
    assert done.stdout == b""
    assert b"none.json: No such file or directory" in done.stderr
    assert b"Traceback" not in done.stderr


def test_usage_is_told_to_whoever_gives_no_file() -> None:
    """Status 2 is wrong usage, on every command."""
    done = command()

    assert done.returncode == 2
    assert b"usage: marginwatch assess" in done.stderr
