"""Figures that the exchange itself printed, against ours: equal to the last printed digit."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.test_assess import ROOT, Assessed, Rows, assessed, assets, risk_row, snapshot

D = Decimal
SHARED_DATA = ROOT.parent / "shared" / "data"
NO_SHARED_DATA = f"the collected figures of the exchange do not lie in {SHARED_DATA}"
FILE = SHARED_DATA / "exchange_cases.json"
CASES: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}

LIQUIDATION = [
    "U-ISO-06",
    "U-ISO-07",
    "U-ISO-08",
    "U-ISO-09",
    "U-ISO-10",
    "U-ISO-19",
    "U-ISO-20",
    "U-ZERO-01",
]
MAINTENANCE = ["MM-01", "MM-02", "MM-03", "MM-04", "MM-05", "MM-06", "MM-07"]
NOT_COVERED = {
    "C-IMP-01": "a COIN-M case; test_coinm.py has it",
    "FAQ-MULTI-01": "multi-assets mode is not built yet",
}
MARK_OF = {"U-ZERO-01": "16747.72013242"}
"""Marks where the case gives none; there the answer does not depend on it."""


def case(group: str, name: str) -> dict[str, Any]:
    if not CASES:
        pytest.skip(NO_SHARED_DATA)
    found: dict[str, Any] = next(c for c in CASES[group] if c["id"] == name)
    return found


def liquidation_snapshot(given: dict[str, Any]) -> str:
    """The case's inputs as the exchange would answer them: isolated ones from `positionRisk` alone."""
    inputs = given["inputs"]
    bracket = inputs.get("bracket") or given["bracket"]
    row = risk_row(
        inputs["symbol"],
        inputs["positionAmt"],
        inputs["entryPrice"],
        inputs.get("markPrice") or MARK_OF[given["id"]],
        positionSide=inputs.get("positionSide", "BOTH"),
        isolatedWallet=inputs.get("isolatedWallet", "0"),
    )
    wallet = inputs.get("crossWalletBalance")
    account = None if wallet is None else assets(USDT=wallet)
    return snapshot([row], {inputs["symbol"]: [("0", bracket["mmr"], bracket["cum"])]}, account)


def to_digits_of(ours: str | Decimal, theirs: str, rounding: str) -> Decimal:
    """Our figure with as many decimals as theirs has."""
    return D(ours).quantize(D(theirs), rounding=rounding)


# ---- the collected cases ----


@pytest.mark.skipif(not CASES, reason=NO_SHARED_DATA)
def test_no_collected_case_is_passed_over() -> None:
    """A case that is added to the collection must be tested, or named as not covered."""
    assert {c["id"] for c in CASES["liquidation_price"]} - set(NOT_COVERED) == set(LIQUIDATION)
    assert {c["id"] for c in CASES["maintenance_margin"]} == set(MAINTENANCE)
    assert {c["id"] for c in CASES["multi_assets"]} <= set(NOT_COVERED)


@pytest.mark.parametrize("name", LIQUIDATION)
def test_a_position_has_the_exchanges_own_figures(name: str) -> None:
    """Whoever compares us with the exchange's page finds the same digits."""
    given = case("liquidation_price", name)
    reported = given["exchange_reported"]
    run = assessed(liquidation_snapshot(given))
    [row], [pool] = run.positions.values(), run.pools.values()

    assert run.status == 0
    if reported["liquidationPrice"] == "0":
        assert row["liquidation_price"] is None
        assert row["liquidation"]["reason"] == "safe_at_every_price"
    elif name in ("U-ISO-19", "U-ISO-20"):  # a documentation sample of two decimals
        theirs = reported["liquidationPrice"]
        assert to_digits_of(row["liquidation_price"], theirs, ROUND_HALF_UP) == D(theirs)
    else:
        assert row["liquidation_price"] == reported["liquidationPrice"]
    for ours, theirs in (
        (row["unrealized_pnl"], reported.get("unRealizedProfit")),
        (row["notional"], reported.get("notional")),
        (row["maintenance_margin"], reported.get("maintMargin")),
    ):
        assert theirs is None or ours == theirs
    if reported.get("isolatedMargin"):
        assert D(pool["margin_balance"]) == D(reported["isolatedMargin"])


@pytest.mark.parametrize("name", MAINTENANCE)
def test_a_maintenance_margin_is_the_exchanges(name: str) -> None:
    """The numerator of the margin ratio, truncated as the exchange truncates it."""
    given = case("maintenance_margin", name)
    inputs = given["inputs"]
    notional = D(inputs["notional"])
    quantity = inputs["qty"] or ("1" if notional > 0 else "-1")
    mark = inputs["mark"] or str(abs(notional))
    text = snapshot(
        [risk_row(given["symbol"], quantity, mark, mark)],
        {given["symbol"]: [("0", inputs["mmr"], inputs["cum"])]},
        assets(USDT="1000"),
    )
    row = assessed(text).positions[given["symbol"]]

    assert row["maintenance_margin"] == given["exchange_reported"]["maintMargin"]
    assert row["notional"] == inputs["notional"]


@pytest.mark.parametrize("name", NOT_COVERED)
def test_a_case_that_is_not_covered_yet(name: str) -> None:
    """Named, so that nobody takes its absence for agreement."""
    pytest.skip(f"{name}: {NOT_COVERED[name]}")


@pytest.mark.parametrize("name", ["U-ISO-09", "U-ISO-06"])
def test_the_command_itself_prints_the_exchanges_figures(name: str, tmp_path: Path) -> None:
    """The whole way, as a user goes it: file, process, standard output."""
    given = case("liquidation_price", name)
    file = tmp_path / "snapshot.json"
    file.write_text(liquidation_snapshot(given), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "monitor", "assess", str(file), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    [row] = Assessed(done.returncode, done.stdout, done.stderr).positions.values()
    assert row["liquidation_price"] == given["exchange_reported"]["liquidationPrice"]
    assert row["unrealized_pnl"] == given["exchange_reported"]["unRealizedProfit"]
    assert done.stderr == ""


# ---- worked examples of the exchange's support pages ----

ETH: Rows = [("0", "0.10", "135365")]
BTC: Rows = [("0", "0.025", "16300")]


def two_positions() -> Assessed:
    """Support page: ETHUSDT and BTCUSDT long, cross, on a wallet of 1 535 443.01."""
    rows = [
        risk_row("ETHUSDT", "3683.979", "1456.84", "1335.18"),
        risk_row("BTCUSDT", "109.488", "32481.98", "31967.27"),
    ]
    return assessed(snapshot(rows, {"ETHUSDT": ETH, "BTCUSDT": BTC}, assets(USDT="1535443.01")))


@pytest.mark.parametrize(
    ("symbol", "key", "published"),
    [
        pytest.param("BTCUSDT", "maintenance_margin", "71200.81144", id="1 BTC maintenance margin"),
        pytest.param("BTCUSDT", "unrealized_pnl", "-56354.57", id="1 BTC unrealized PnL"),
        pytest.param("ETHUSDT", "maintenance_margin", "356512.508", id="1 ETH maintenance margin"),
        pytest.param("ETHUSDT", "unrealized_pnl", "-448192.89", id="1 ETH unrealized PnL"),
        pytest.param("ETHUSDT", "liquidation_price", "1153.26", id="2 ETH liquidation price"),
        pytest.param("BTCUSDT", "liquidation_price", "26316.89", id="3 BTC liquidation price"),
        pytest.param("ETHUSDT", "bankruptcy_price", "1055.35", id="5.5 ETH bankruptcy price"),
    ],
)
def test_two_cross_positions_as_the_support_page_has_them(symbol: str, key: str, published: str) -> None:
    """The only published example in which each position's price depends on the other."""
    ours = two_positions().positions[symbol][key]

    assert to_digits_of(ours, published, ROUND_HALF_UP) == D(published)


@pytest.mark.parametrize(
    ("symbol", "quantity", "entry", "mark", "brackets", "published"),
    [
        pytest.param("ETHUSDT", "3683.979", "1456.84", "1335.18", ETH, "1114.78", id="4 ETH"),
        pytest.param("BTCUSDT", "109.488", "32481.98", "31967.27", BTC, "18778.73", id="4 BTC"),
    ],
)
def test_the_same_positions_isolated(
    symbol: str, quantity: str, entry: str, mark: str, brackets: Rows, published: str
) -> None:
    """Isolated, nothing of the other position enters."""
    row = risk_row(symbol, quantity, entry, mark, isolatedWallet="1535443.01")
    ours = assessed(snapshot([row], {symbol: brackets})).positions[symbol]["liquidation_price"]

    assert to_digits_of(ours, published, ROUND_HALF_UP) == D(published)


def test_the_maintenance_amount_of_a_third_level() -> None:
    """5: 250 000 × (1 % − 0.5 %) + 50 = 1 300, so 300 000 of notional need 200 + 1000 + 500."""
    rows: Rows = [("0", "0.004", "0"), ("50000", "0.005", "50"), ("250000", "0.01", "1300")]
    text = snapshot([risk_row("BTCUSDT", "10", "30000", "30000")], {"BTCUSDT": rows}, assets(USDT="100000"))
    row = assessed(text).positions["BTCUSDT"]

    assert row["maintenance_margin"] == "1700.00000000"
    assert row["bracket"] == {"number": 3, "rate": 0.01, "amount": "1300", "room_to_next": None}


def test_the_two_rows_of_the_position_endpoints_documentation() -> None:
    """6: 30 ADA on 23.72469206 USDT have no liquidation price."""
    text = snapshot(
        [risk_row("ADAUSDT", "30", "0.385", "0.41047590")],
        {"ADAUSDT": [("0", "0.0065", "0")]},
        assets(USDT="23.72469206"),
    )
    row = assessed(text).positions["ADAUSDT"]

    assert row["notional"] == "12.31427700"
    assert row["unrealized_pnl"] == "0.76427700"
    assert row["maintenance_margin"] == "0.08004280"
    assert row["liquidation_price"] is None


def test_a_short_far_above_the_mark() -> None:
    """7: the printed price implies 2 260.5675721 × 1.01 − 70.92841 = 2 212.24483782 of collateral."""
    text = snapshot(
        [risk_row("COMPUSDT", "-1.000", "70.92841", "49.72023376")],
        {"COMPUSDT": [("0", "0.01", "0")]},
        assets(USDT="2212.24483782"),
    )
    row = assessed(text).positions["COMPUSDT"]

    assert row["maintenance_margin"] == "0.49720233"
    assert row["unrealized_pnl"] == "21.20817624"
    assert row["liquidation_price"] == "2260.56757210"


def test_a_maintenance_margin_is_truncated_not_rounded() -> None:
    """8: 1992.4607925 × 0.6 % = 11.954764755; the exchange prints …475."""
    text = snapshot(
        [risk_row("WLDUSDT", "-849", "2.4", "2.34683250")], {"WLDUSDT": [("0", "0.006", "0")]}, assets(USDT="1000")
    )
    row = assessed(text).positions["WLDUSDT"]

    assert row["notional"] == "-1992.46079250"
    assert row["maintenance_margin"] == "11.95476475"


def test_an_isolated_long_in_another_margin_asset() -> None:
    """9: a real BTCUSDC row; 0.010 × (95502 − 97526.8) = −20.248."""
    row = risk_row(
        "BTCUSDC",
        "0.010",
        "97526.8",
        "95502",
        positionSide="LONG",
        isolatedWallet="195.16329420",
        marginAsset="USDC",
    )
    run = assessed(snapshot([row], {"BTCUSDC": [("0", "0.004", "0")]}))
    pool, position = run.pools["isolated-btcusdc-long"], run.positions["BTCUSDC"]

    assert (position["notional"], position["unrealized_pnl"]) == ("955.02000000", "-20.24800000")
    assert position["maintenance_margin"] == "3.82008000"
    assert (pool["asset"], pool["margin_balance"]) == ("USDC", "174.91529420")


def test_a_real_cross_long_reported_in_a_forum() -> None:
    """10: the poster's wallet read "53.35"; the printed price implies 61.7889 − 8465.58529116 × 0.000996."""
    text = snapshot(
        [risk_row("BTCUSDT", "0.001", "61788.9", "61755")],
        {"BTCUSDT": [("0", "0.004", "0")]},
        assets(USDT="53.35717705"),
    )

    assert assessed(text).positions["BTCUSDT"]["liquidation_price"] == "8465.58529116"


def test_the_ratio_at_which_the_exchange_called() -> None:
    """21: the documented MARGIN_CALL, 1.614445 of 3.16812045 − 1.166074: 80.64 %."""
    text = snapshot(
        [risk_row("ETHUSDT", "1.327", "188.05", "187.17127", positionSide="LONG")],
        {"ETHUSDT": [("0", "0.0065", "0")]},
        assets(USDT="3.16812045"),
    )
    run = assessed(text)
    row, pool = run.positions["ETHUSDT"], run.pools["cross-usdt"]

    assert to_digits_of(row["unrealized_pnl"], "-1.166074", ROUND_DOWN) == D("-1.166074")
    assert to_digits_of(row["maintenance_margin"], "1.614445", ROUND_DOWN) == D("1.614445")
    assert to_digits_of(D(str(pool["margin_ratio"])), "0.8064", ROUND_HALF_UP) == D("0.8064")


# ---- regressions ----

BTCUSDT_2026: Rows = [
    ("0", "0.004", "0"),
    ("300000", "0.005", "300"),
    ("800000", "0.0065", "1500"),
    ("3000000", "0.01", "12000"),
    ("12000000", "0.02", "132000"),
    ("70000000", "0.025", "482000"),
    ("100000000", "0.05", "2982000"),
    ("230000000", "0.1", "14482000"),
    ("480000000", "0.125", "26482000"),
    ("600000000", "0.15", "41482000"),
    ("800000000", "0.25", "121482000"),
    ("1200000000", "0.5", "421482000"),
]


@pytest.mark.parametrize(
    ("quantity", "wallet", "expected"),
    [
        pytest.param("1", "6700", "60542.17", id="bracket 1: 60300 / 0.996"),
        pytest.param("100", "670000", "60787.88", id="bracket 4 at the price: 6018000 / 99"),
    ],
)
def test_the_bracket_is_the_one_in_force_at_the_liquidation_price(quantity: str, wallet: str, expected: str) -> None:
    """With the first bracket a long of 100 BTC would look safe 246 USDT too long; without its amount, wrong the
    other way."""
    row = risk_row("BTCUSDT", quantity, "67000", "67000", isolatedWallet=wallet)
    ours = assessed(snapshot([row], {"BTCUSDT": BTCUSDT_2026})).positions["BTCUSDT"]["liquidation_price"]

    assert to_digits_of(ours, expected, ROUND_HALF_UP) == D(expected)


@pytest.mark.parametrize(
    ("short", "below", "above"),
    [
        pytest.param("-0.995", None, "83612", id="net long, liquidated above"),
        pytest.param("-0.9", "43210", None, id="net long, liquidated below"),
        pytest.param("-1", None, "75000", id="balanced, liquidated above"),
    ],
)
def test_a_hedged_pair_is_liquidated_on_its_own_side(short: str, below: str | None, above: str | None) -> None:
    """Maintenance margin grows with the price: a nearly balanced pair that is net long dies of a rise."""
    rows = [
        risk_row("BTCUSDT", "1", "50000", "50000", positionSide="LONG"),
        risk_row("BTCUSDT", short, "50000", "50000", positionSide="SHORT"),
    ]
    run = assessed(snapshot(rows, {"BTCUSDT": [("0", "0.01", "0")]}, assets(USDT="1500")))

    for side in ("long", "short"):
        prices = run.positions[f"BTCUSDT {side}"]["liquidation"]
        for ours, expected in ((prices["below"], below), (prices["above"], above)):
            assert (ours is None) == (expected is None)
            assert expected is None or to_digits_of(ours, expected, ROUND_HALF_UP) == D(expected)
