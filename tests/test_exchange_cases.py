"""Figures that the exchange itself printed, against ours: equal to the last printed digit.

Every figure is named in `COLLECTED` or in `PRINTED`; each test says with `@shows` which of them it holds us to, and
what no test shows stands in `CANNOT` with its reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests import test_coinm as coinm
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
COIN = ["C-IMP-01"]
MULTI = ["FAQ-MULTI-01"]

PRINTED = {
    "1 BTC maintenance margin",
    "1 BTC unrealized PnL",
    "1 ETH maintenance margin",
    "1 ETH unrealized PnL",
    "2 ETH liquidation price",
    "2 ETH bankruptcy price",
    "3 BTC liquidation price",
    "4 ETH isolated liquidation price",
    "4 BTC isolated liquidation price",
    "5 maintenance amount",
    "6 notional",
    "6 unrealized PnL",
    "6 maintenance margin",
    "6 no liquidation price",
    "6 initial margin",
    "7 maintenance margin",
    "7 unrealized PnL",
    "7 liquidation price",
    "8 maintenance margin",
    "9 isolated margin",
    "10 liquidation price",
    "11 bid and ask rate",
    "11 equity",
    "11 available",
    "12 maintenance margin",
    "12 margin ratio",
    "12 available for orders",
    "13 example with PnL",
    "14 bid and ask rate",
    "14 auto-exchange rates",
    "15 liquidation price",
    "16 maintenance amounts",
    "17 liquidation price",
    "17 notional",
    "17 unrealized PnL",
    "17 isolated margin",
    "18 maintenance margin",
    "19 initial margin",
    "20 unrealized PnL",
    "21 unrealized PnL",
    "21 maintenance margin",
    "21 margin ratio",
    "22 liquidation price",
}
"""Every figure of the worked examples: 1 to 14 and 21 USDⓈ-M, 15 to 20 COIN-M, 22 of another exchange."""

NO_INITIAL_MARGIN = "initial margin is in no margin ratio and no liquidation price; none of our payloads has it"
CANNOT = {
    "6 initial margin": NO_INITIAL_MARGIN,
    "12 available for orders": f"equity less initial margin: {NO_INITIAL_MARGIN}",
    "13 example with PnL": "the support page names it, but its numbers could not be obtained",
    "14 auto-exchange rates": "at which the exchange converts; they enter no margin ratio and are not read",
    "19 initial margin": NO_INITIAL_MARGIN,
    "22 liquidation price": "of Bybit, which has another formula; it is no venue of ours yet",
}
"""What `assess` cannot show, and why."""

SHOWN: set[str] = set()
_Test = TypeVar("_Test", bound=Callable[..., object])


def shows(*figures: str) -> Callable[[_Test], _Test]:
    """Mark a test as the one that holds us to these printed figures."""

    def note(test: _Test) -> _Test:
        SHOWN.update(figures)
        return test

    return note


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


def test_no_figure_is_passed_over() -> None:
    """Nobody may take the absence of a figure for agreement."""
    assert SHOWN | CANNOT.keys() == PRINTED
    assert not SHOWN & CANNOT.keys()
    assert {int(figure.split()[0]) for figure in PRINTED} == set(range(1, 23))
    assert all(CANNOT.values())


# ---- the collected cases ----


@pytest.mark.skipif(not CASES, reason=NO_SHARED_DATA)
def test_no_collected_case_is_passed_over() -> None:
    """A case that is added to the collection must be tested."""
    groups = {name: [c["id"] for c in cases] for name, cases in CASES.items() if name != "about"}

    assert groups == {
        "liquidation_price": [*LIQUIDATION[:-1], *COIN, LIQUIDATION[-1]],
        "maintenance_margin": MAINTENANCE,
        "multi_assets": MULTI,
    }


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


@pytest.mark.parametrize("name", COIN)
def test_a_coin_margined_position_has_the_exchanges_own_figures(name: str) -> None:
    """The wallet is implied by the printed price, so all digits of it count."""
    given = case("liquidation_price", name)
    inputs, reported = given["inputs"], given["exchange_reported"]
    bracket = inputs["bracket"]
    rows = [coinm.row(inputs["symbol"], inputs["positionAmt"], inputs["entryPrice"], inputs["markPrice"])]
    text = coinm.snapshot(rows, inputs["crossWalletBalance"], [("0", bracket["mmr"], bracket["cum"])])

    position = coinm.only(assessed(text))

    assert inputs["contractSize"] == 100  # as the contracts of `coinm.snapshot` have it
    assert position["unrealized_pnl"] == reported["unRealizedProfit"]
    assert position["liquidation_price"] == reported["liquidationPrice"]


@pytest.mark.parametrize("name", MULTI)
def test_collateral_in_several_assets_is_worth_what_the_support_page_says(name: str) -> None:
    """A wallet without positions makes no pool; one position without PnL leaves the equity as it is."""
    given = case("multi_assets", name)
    inputs, reported = given["inputs"], given["reported"]
    rates = {asset: (inputs["bidRate"][asset], inputs["askRate"][asset]) for asset in inputs["assets"]}
    pool = multi_assets(inputs["assets"], rates, [risk_row("BTCUSDT", "0.001", "20000", "20000")]).pools["multi-assets"]

    equity = D(pool["margin_balance"])
    assert equity == D(reported["accountEquity"])
    for asset, (_, ask) in rates.items():
        available = (equity / D(ask)).quantize(D("0.01"), rounding=ROUND_DOWN)
        assert available == D(reported[f"{asset}_available"])


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
        pytest.param("ETHUSDT", "bankruptcy_price", "1055.35", id="2 ETH bankruptcy price"),
    ],
)
@shows(
    "1 BTC maintenance margin",
    "1 BTC unrealized PnL",
    "1 ETH maintenance margin",
    "1 ETH unrealized PnL",
    "2 ETH liquidation price",
    "2 ETH bankruptcy price",
    "3 BTC liquidation price",
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
@shows("4 ETH isolated liquidation price", "4 BTC isolated liquidation price")
def test_the_same_positions_isolated(
    symbol: str, quantity: str, entry: str, mark: str, brackets: Rows, published: str
) -> None:
    """Isolated, nothing of the other position enters."""
    row = risk_row(symbol, quantity, entry, mark, isolatedWallet="1535443.01")
    ours = assessed(snapshot([row], {symbol: brackets})).positions[symbol]["liquidation_price"]

    assert to_digits_of(ours, published, ROUND_HALF_UP) == D(published)


@shows("5 maintenance amount")
def test_the_maintenance_amount_of_a_third_level() -> None:
    """5: 250 000 × (1 % − 0.5 %) + 50 = 1 300, so 300 000 of notional need 200 + 1000 + 500."""
    rows: Rows = [("0", "0.004", "0"), ("50000", "0.005", "50"), ("250000", "0.01", "1300")]
    text = snapshot([risk_row("BTCUSDT", "10", "30000", "30000")], {"BTCUSDT": rows}, assets(USDT="100000"))
    row = assessed(text).positions["BTCUSDT"]

    assert row["maintenance_margin"] == "1700.00000000"
    assert row["bracket"] == {"number": 3, "rate": 0.01, "amount": "1300", "room_to_next": None}


@shows("6 notional", "6 unrealized PnL", "6 maintenance margin", "6 no liquidation price")
def test_a_row_of_the_position_endpoints_documentation() -> None:
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


@shows("7 maintenance margin", "7 unrealized PnL", "7 liquidation price")
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


@shows("8 maintenance margin")
def test_a_maintenance_margin_is_truncated_not_rounded() -> None:
    """8: 1992.4607925 × 0.6 % = 11.954764755; the exchange prints …475."""
    text = snapshot(
        [risk_row("WLDUSDT", "-849", "2.4", "2.34683250")], {"WLDUSDT": [("0", "0.006", "0")]}, assets(USDT="1000")
    )
    row = assessed(text).positions["WLDUSDT"]

    assert row["notional"] == "-1992.46079250"
    assert row["maintenance_margin"] == "11.95476475"


@shows("9 isolated margin")
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


@shows("10 liquidation price")
def test_a_real_cross_long_reported_in_a_forum() -> None:
    """10: the poster's wallet read "53.35"; the printed price implies 61.7889 − 8465.58529116 × 0.000996."""
    text = snapshot(
        [risk_row("BTCUSDT", "0.001", "61788.9", "61755")],
        {"BTCUSDT": [("0", "0.004", "0")]},
        assets(USDT="53.35717705"),
    )

    assert assessed(text).positions["BTCUSDT"]["liquidation_price"] == "8465.58529116"


@shows("21 unrealized PnL", "21 maintenance margin", "21 margin ratio")
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


# ---- several assets as collateral ----

USDT, USDC = ("0.9801", "0.99495"), ("1", "1")  # index 0.99 less 1 %, plus 0.5 %; index 1


def multi_assets(
    wallets: Mapping[str, str],
    rates: Mapping[str, tuple[str, str]],
    rows: list[dict[str, object]],
    brackets: Mapping[str, Rows] | None = None,
) -> Assessed:
    """An account in multi-assets mode; each rate is bid and ask as the exchange prints them."""
    index = [
        {"symbol": f"{asset}USD", "time": 1_795_248_000_000, "bidRate": bid, "askRate": ask}
        for asset, (bid, ask) in rates.items()
    ]
    terms = [{"asset": asset, "marginAvailable": True, "autoAssetExchange": None} for asset in rates]
    text = snapshot(
        rows,
        brackets or {str(row["symbol"]): [("0", "0.008", "0")] for row in rows},
        assets(**wallets),
        accountConfig={"dualSidePosition": False, "multiAssetsMargin": True},
        assetIndex=index,
        exchangeInfo={"symbols": [], "assets": terms},
    )
    run = assessed(text)
    assert run.status == 0, run.err
    return run


@shows("11 bid and ask rate", "11 equity", "11 available")
def test_two_assets_as_collateral() -> None:
    """11: 200 USDT × 0.9801 + 220 USDC = 416.02; in USDT 416.02 ÷ 0.99495 = 418.13."""
    run = multi_assets({"USDT": "200", "USDC": "220"}, {"USDT": USDT, "USDC": USDC}, [flat("BTCUSDT")])
    pool = run.pools["multi-assets"]

    assert (pool["asset"], pool["margin_balance"], pool["wallet_balance"]) == ("USD", "416.02000000", "416.02000000")
    assert to_digits_of(D(pool["margin_balance"]) / D(USDT[1]), "418.13", ROUND_DOWN) == D("418.13")
    assert [D("0.99") * D(part) for part in ("0.99", "1.005")] == [D(rate) for rate in USDT]


@shows("12 maintenance margin", "12 margin ratio")
def test_positions_in_two_margin_assets() -> None:
    """12: 10 000 × 0.8 % × 0.99495 + 12 000 × 1 % = 199.596; of 416.02 that is 47.9775 %."""
    rows = [
        risk_row("BTCUSDT", "0.5", "20000", "20000"),
        risk_row("ETHUSDC", "20", "600", "600", marginAsset="USDC"),
    ]
    brackets: dict[str, Rows] = {"BTCUSDT": [("0", "0.008", "0")], "ETHUSDC": [("0", "0.01", "0")]}
    run = multi_assets({"USDT": "200", "USDC": "220"}, {"USDT": USDT, "USDC": USDC}, rows, brackets)
    pool = run.pools["multi-assets"]

    assert D(pool["maintenance_margin"]) == D("199.596")
    assert to_digits_of(str(pool["margin_ratio"]), "0.479775", ROUND_DOWN) == D("0.479775")
    assert to_digits_of(str(pool["margin_ratio"]), "0.4798", ROUND_HALF_UP) == D("0.4798")
    assert run.positions["BTCUSDT"]["maintenance_margin"] == "80.00000000"  # a position's own is in its margin asset


@shows("14 bid and ask rate")
def test_a_balance_counts_at_the_bid_rate_and_a_debt_at_the_ask_rate() -> None:
    """14: the documented rates of ADA; 1.9295737 × 0.9 and × 1.1, cut to 8 digits."""
    ada = ("1.73661633", "2.12253107")
    held = multi_assets({"ADA": "1", "USDC": "0"}, {"ADA": ada, "USDC": USDC}, [flat("BTCUSDC")])
    owed = multi_assets({"ADA": "-1", "USDC": "10"}, {"ADA": ada, "USDC": USDC}, [flat("BTCUSDC")])

    assert held.pools["multi-assets"]["margin_balance"] == ada[0]
    assert D(owed.pools["multi-assets"]["margin_balance"]) == 10 - D(ada[1])
    for part, rate in (("0.9", ada[0]), ("1.1", ada[1])):
        assert to_digits_of(D("1.92957370") * D(part), rate, ROUND_DOWN) == D(rate)


def flat(symbol: str) -> dict[str, object]:
    """A position that has neither gained nor lost."""
    return risk_row(symbol, "0.001", "20000", "20000", marginAsset=symbol[-4:])


# ---- COIN-M ----

COIN_LADDER: list[tuple[str, str, str]] = [
    ("0", "0.004", "0"),
    ("5", "0.005", "0.005"),
    ("10", "0.01", "0.055"),
    ("20", "0.025", "0.355"),
    ("50", "0.05", "1.605"),
    ("100", "0.1", "6.605"),
    ("200", "0.125", "11.605"),
]


def coin_position(contracts: str, entry: str, mark: str, wallet: str, brackets: list[tuple[str, str, str]]) -> Any:
    return coinm.only(assessed(coinm.snapshot([coinm.row("BTCUSD_PERP", contracts, entry, mark)], wallet, brackets)))


@shows("15 liquidation price")
def test_the_exchanges_calculator() -> None:
    """15: it gave 33599.4, the price cut to the tick; exactly it is 33599.4186."""
    position = coin_position("100000", "45000", "45000", "101", [("0", "0.125", "11.605")])

    assert to_digits_of(position["liquidation_price"], "33599.4", ROUND_DOWN) == D("33599.4")
    assert to_digits_of(position["liquidation_price"], "33599.4186", ROUND_HALF_UP) == D("33599.4186")


@pytest.mark.parametrize("level", range(1, len(COIN_LADDER)))
@shows("16 maintenance amounts")
def test_the_maintenance_amounts_of_a_ladder_join_its_levels(level: int) -> None:
    """16: at a mark of 20000 a contract is 0.005 BTC; the first beyond an edge costs its own rate and no more."""
    floor, rate, amount = COIN_LADDER[level]
    at_edge = int(D(floor) / D("0.005"))
    last, first = (
        coin_position(str(contracts), "20000", "20000", "1000", COIN_LADDER) for contracts in (at_edge, at_edge + 1)
    )

    assert (last["bracket"]["number"], first["bracket"]["number"]) == (level, level + 1)
    assert first["bracket"]["amount"] == amount
    assert D(first["maintenance_margin"]) - D(last["maintenance_margin"]) == D(rate) * D("0.005")


@shows("17 liquidation price", "17 notional", "17 unrealized PnL", "17 isolated margin")
def test_an_isolated_coin_margined_long() -> None:
    """17: the wallet of 0.00268058 is what remains of the isolated margin less the PnL.

    The exchange printed …45760, exactly it is …457605…: here its last digit is cut, in C-IMP-01 it is rounded, so the
    last digit of an inverse liquidation price is as near as can be had.
    """
    row = coinm.row(
        "BTCUSD_PERP",
        "2",
        "37643.10000021",
        "38103.05510455",
        marginType="isolated",
        isolatedMargin="0.00274471",
        unRealizedProfit="0.00006413",
    )
    run = assessed(coinm.snapshot([row], None, [("0", "0.004", "0")]))
    position, [pool] = coinm.only(run), run.pools.values()

    assert abs(D(position["liquidation_price"]) - D("25119.97445760")) <= D("0.00000001")
    assert (position["notional"], position["unrealized_pnl"]) == ("0.00524892", "0.00006413")
    assert pool["wallet_balance"] == "0.00268058"
    assert pool["margin_balance"] == "0.00274471"


@shows("18 maintenance margin")
def test_a_maintenance_margin_in_the_coin() -> None:
    """18: 100 contracts at 25 000 are 0.4 BTC, of which 0.4 % is 0.0016 BTC."""
    position = coin_position("100", "25000", "25000", "1", COIN_LADDER)

    assert D(position["notional"]) == D("0.4")
    assert D(position["maintenance_margin"]) == D("0.0016")


@shows("20 unrealized PnL")
def test_the_row_of_the_coin_margined_position_endpoints_documentation() -> None:
    """20: one contract from 11707.70000003 to 11788.66626667."""
    assert coin_position("1", "11707.70000003", "11788.66626667", "1", COIN_LADDER)["unrealized_pnl"] == "0.00005866"


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
