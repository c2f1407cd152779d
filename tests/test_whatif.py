"""What-if questions to a saved account: every figure worked by hand, from the account as it would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from monitor.effects import Advice
from monitor.whatif import shown, signed_percent
from tests import test_coinm
from tests.test_assess import LONG, ROOT, Assessed, Rows, assessed, assets, risk_row, snapshot
from tests.watched import Watched, of_rule, row

D = Decimal

TIERS: dict[str, Rows] = {
    "BTCUSDT": [("0", "0.004", "0"), ("100000", "0.01", "600")],
    "ETHUSDT": [("0", "0.005", "0")],
}
ETH = risk_row("ETHUSDT", "-10", "3000", "3100")

CROSS = snapshot([risk_row("BTCUSDT", "2", "60000", "60000"), ETH], TIERS, assets(USDT="5000"))
"""Margin balance 5000 − 1000 = 4000; maintenance margin (120000 × 0.01 − 600) + 31000 × 0.005 = 755."""

ISOLATED = snapshot(
    [risk_row("BTCUSDT", "2", "60000", "60000", isolatedWallet="3000"), ETH], TIERS, assets(USDT="5000")
)
"""Isolated: balance 3000, margin 600. Cross: balance 4000, margin 155."""

HEDGED = snapshot(
    [
        risk_row("BTCUSDT", "1", "60000", "60000", positionSide="LONG"),
        risk_row("BTCUSDT", "-0.5", "61000", "60000", positionSide="SHORT"),
    ],
    TIERS,
    assets(USDT="5000"),
)

COIN = test_coinm.snapshot(
    [test_coinm.row("BTCUSD_PERP", "100", "50000", "40000")], "1", [("0", "0.004", "0"), ("5", "0.005", "0.005")]
)
"""100 contracts of 100 USD: PnL 10000 × (1 ÷ 50000 − 1 ÷ 40000) = −0.05 BTC."""

TWO_ASSETS = snapshot(
    [risk_row("BTCUSDT", "2", "60000", "60000"), risk_row("BTCUSDC", "1", "60000", "60000", marginAsset="USDC")],
    {"BTCUSDT": TIERS["BTCUSDT"], "BTCUSDC": TIERS["BTCUSDT"]},
    assets(USDT="5000", USDC="700", BNB="0"),
)

NO_CONTRACTS = json.dumps({key: value for key, value in json.loads(COIN).items() if key != "exchangeInfo"})
ONE_POOL = json.dumps(
    json.loads(TWO_ASSETS)
    | {
        "accountConfig": {"dualSidePosition": False, "multiAssetsMargin": True},
        "assetIndex": [
            {"symbol": f"{asset}USD", "time": 1_795_248_000_000, "bidRate": "0.99", "askRate": "1.01"}
            for asset in ("USDT", "USDC", "BNB")
        ],
    }
)


def pool(run: Assessed, pool_id: str = "cross-usdt") -> tuple[str, str, float]:
    """Wallet balance, margin balance and margin ratio."""
    assert run.status == 0, run.err
    found = run.pools[pool_id]
    return found["wallet_balance"], found["margin_balance"], found["margin_ratio"]


# ---- each change alone ----


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"transfer": ["-1000"]}, ("4000.00000000", "3000.00000000", 0.25166667), id="withdrawn: 755 ÷ 3000"
        ),
        pytest.param({"transfer": ["USDT=+200"]}, ("5200.00000000", "4200.00000000", 0.17976191), id="deposited"),
        pytest.param({"add": ["200"]}, ("5200.00000000", "4200.00000000", 0.17976191), id="added: 755 ÷ 4200"),
        pytest.param(
            {"add": ["ETHUSDT=200"]}, ("5200.00000000", "4200.00000000", 0.17976191), id="added to a cross one"
        ),
        pytest.param(
            {"add": ["ETHUSDT:short=200"]}, ("5200.00000000", "4200.00000000", 0.17976191), id="with its side"
        ),
        # 60000 of BTC is in the first bracket: 240 + 155
        pytest.param({"reduce": ["BTCUSDT=50%"]}, ("5000.00000000", "4000.00000000", 0.09875), id="half: 395 ÷ 4000"),
        pytest.param({"reduce": ["BTCUSDT=1"]}, ("5000.00000000", "4000.00000000", 0.09875), id="as a quantity"),
        # realized −4 × 100; the rest has 6 × 3100 × 0.005 = 93
        pytest.param({"reduce": ["ETHUSDT=4"]}, ("4600.00000000", "4000.00000000", 0.17325), id="a short: 693 ÷ 4000"),
        pytest.param({"close": ["ETHUSDT"]}, ("4000.00000000", "4000.00000000", 0.15), id="closed: 600 ÷ 4000"),
        pytest.param({"reduce": ["ETHUSDT=100%"]}, ("4000.00000000", "4000.00000000", 0.15), id="100 % is closed"),
    ],
)
def test_a_cross_account_after_a_change(changes: Mapping[str, Sequence[str]], expected: tuple[str, str, float]) -> None:
    """Money moved shows in the wallet; a part closed at mark moves PnL into it and takes margin away."""
    assert pool(assessed(CROSS, **changes)) == expected  # type: ignore[arg-type]


def test_margin_for_an_isolated_position_is_its_own() -> None:
    """600 ÷ 4000; the cross pool has neither gained nor lost."""
    run = assessed(ISOLATED, add=["BTCUSDT=1000"])

    assert pool(run, "isolated-btcusdt") == ("4000.00000000", "4000.00000000", 0.15)
    assert pool(run) == pool(assessed(ISOLATED))


def test_a_part_of_an_isolated_position_takes_its_share_of_the_wallet_along() -> None:
    """At 59400 one BTC realizes −600: 900 of its 1500 go over; margin 59400 × 0.004 = 237.6 on 1500 − 600."""
    run = assessed(ISOLATED, "BTCUSDT=-1%", reduce=["BTCUSDT=1"])

    assert pool(run, "isolated-btcusdt") == ("1500.00000000", "900.00000000", 0.264)
    assert pool(run) == ("5900.00000000", "4900.00000000", 0.03163266)
    assert "its 1500 of the isolated wallet are released and 900 go to the cross wallet; 1500 stay" in run.err


@pytest.mark.parametrize("part", ["25%", "0.001", "1.999"])
def test_reducing_an_isolated_position_does_not_change_its_ratio_within_a_bracket(part: str) -> None:
    """Half the position with half the money is as near to liquidation: 1 BTC needs 240 on 1500, and so on."""
    in_first = snapshot(
        [risk_row("BTCUSDT", "2", "60000", "60000", isolatedWallet="3000")],
        {"BTCUSDT": [("0", "0.004", "0"), ("200000", "0.01", "1200")]},
        assets(USDT="5000"),
    )
    whole, rest = assessed(in_first), assessed(in_first, reduce=[f"BTCUSDT={part}"])

    assert pool(whole, "isolated-btcusdt")[2] == pool(rest, "isolated-btcusdt")[2] == 0.16
    assert rest.positions["BTCUSDT"]["liquidation_price"] == whole.positions["BTCUSDT"]["liquidation_price"]


def test_the_share_of_an_isolated_wallet_is_truncated_as_the_exchange_does_it() -> None:
    """A third of 100 is 33.33333333; what is cut off stays, and goes with the last part. No cent is made or lost."""
    text = snapshot(
        [risk_row("BTCUSDT", "0.003", "60000", "60000", isolatedWallet="100"), ETH], TIERS, assets(USDT="5000")
    )
    one = assessed(text, reduce=["BTCUSDT=0.001"])
    all_of_it = assessed(text, reduce=["BTCUSDT=0.001", "BTCUSDT=0.001"], close=["BTCUSDT"])

    assert pool(one, "isolated-btcusdt")[0] == "66.66666667"
    assert pool(one)[0] == "5033.33333333"
    assert pool(all_of_it)[0] == "5100.00000000"


def test_a_part_that_has_lost_more_than_its_share_takes_nothing_from_the_cross_wallet() -> None:
    """At 57000 one BTC has lost 3000 of its 1500: the exchange would have taken the position over before."""
    run = assessed(ISOLATED, "BTCUSDT=-5%", reduce=["BTCUSDT=1"])

    assert pool(run, "isolated-btcusdt")[0] == "1500.00000000"
    assert pool(run)[0] == "5000.00000000"


@pytest.mark.parametrize(
    ("shock", "wallet", "ratio"),
    [
        pytest.param("-1%", "6800.00000000", 0.02672414, id="3000 − 1200 are left: 155 ÷ 5800"),
        pytest.param("-5%", "5000.00000000", 0.03875, id="a loss of 6000 takes no more than the 3000"),
    ],
)
def test_what_is_left_of_an_isolated_wallet_goes_to_the_cross_wallet(shock: str, wallet: str, ratio: float) -> None:
    """An isolated position can lose its own wallet and nothing else."""
    run = assessed(ISOLATED, f"BTCUSDT={shock}", close=["BTCUSDT"])

    assert list(run.pools) == ["cross-usdt"]
    assert pool(run)[0] == wallet
    assert pool(run)[2] == ratio


@pytest.mark.parametrize(
    ("shocks", "wallet", "balance", "ratio"),
    [
        # 50 contracts are left: 0.125 BTC × 0.004 on 0.975 − 0.025
        pytest.param([], "0.97500000", "0.95000000", 0.00052632, id="at the mark"),
        # realized 5000 × (1 ÷ 50000 − 1 ÷ 32000) = −0.05625; left 0.15625 × 0.004 on 0.94375 − 0.05625
        pytest.param(["*=-20%"], "0.94375000", "0.88750000", 0.00070423, id="at the shocked mark"),
    ],
)
def test_an_inverse_position_realizes_its_pnl_in_the_coin(
    shocks: Sequence[str], wallet: str, balance: str, ratio: float
) -> None:
    """COIN-M: quantities are contracts, the wallet is in BTC."""
    run = assessed(COIN, *shocks, reduce=["BTCUSD_PERP=50%"])

    assert pool(run, "cross-btc") == (wallet, balance, ratio)
    assert run.positions["BTCUSD_PERP"]["quantity"] == "50.0"
    assert "50 contracts of BTCUSD_PERP long closed" in run.err


def test_a_leg_of_a_hedged_pair_is_named_by_its_side() -> None:
    """The short realizes 0.5 × 1000; the long is left alone."""
    run = assessed(HEDGED, close=["BTCUSDT:short"])

    assert pool(run)[0] == "5500.00000000"
    assert run.positions["BTCUSDT"]["side"] == "long"


def test_margin_without_a_symbol_goes_where_the_ratio_is_highest() -> None:
    """0.2 isolated, 0.03875 cross."""
    run = assessed(ISOLATED, add=["1000"])

    assert pool(run, "isolated-btcusdt")[2] == 0.15
    assert pool(run)[2] == 0.03875


def test_a_transfer_without_an_asset_means_the_only_one() -> None:
    """An asset that is listed with nothing in it is no choice."""
    text = snapshot([ETH], TIERS, assets(USDT="5000", BNB="0"))

    assert pool(assessed(text, transfer=["100"]))[0] == "5100.00000000"


def test_the_funding_that_is_forecast_is_that_of_the_shocked_mark() -> None:
    """−0.0001 × 2.5 × 90372.10 × 0.9; the figures of one line must belong together."""
    index = {"symbol": "BTCUSDT", "markPrice": "1", "lastFundingRate": "0.0001", "nextFundingTime": 1_795_276_800_000}
    body = json.loads(LONG, parse_float=str) | {"premiumIndex": [{**index, "time": 1_795_248_000_000}]}
    run = assessed(json.dumps(body), "*=-10%")

    assert run.positions["BTCUSDT"]["funding"]["payment"] == "-20.33372250"


# ---- several together ----


def test_changes_are_made_in_one_order() -> None:
    """5000 − 500 + 200, then −4100 of ETH at the shocked 3410; 1.5 BTC need 360 of the 600 that are left."""
    run = assessed(
        CROSS, "ETHUSDT=+10%", close=["ETHUSDT"], reduce=["BTCUSDT=25%"], add=["BTCUSDT=200"], transfer=["-500"]
    )

    assert pool(run) == ("600.00000000", "600.00000000", 0.6)
    assert [line.split()[2] for line in run.err.splitlines()] == ["ETHUSDT", "500", "200", "0.5", "10"]


@pytest.mark.parametrize(
    ("shocks", "transfer"),
    [
        # 10 × 3472 × 0.005 = 173.6 on 5000 − 4720
        pytest.param(["ETHUSDT=+12%"], [], id="after shocks"),
        # 155 on 300
        pytest.param([], ["-3700"], id="after transfers"),
    ],
)
def test_the_highest_ratio_is_that_after_what_comes_before(shocks: Sequence[str], transfer: Sequence[str]) -> None:
    """And before reductions: the cross pool is closed afterwards, and what was added is in its wallet."""
    run = assessed(ISOLATED, *shocks, transfer=transfer, add=["100"], close=["ETHUSDT"])

    assert pool(run, "isolated-btcusdt") == ("3000.00000000", "3000.00000000", 0.2)
    assert "100 USDT added to the cross wallet" in run.err


def test_several_of_a_kind_add_up() -> None:
    """Half, and a quarter of what is left: 0.75 of 2 remain, 45000 × 0.004 + 155 on 4300."""
    run = assessed(CROSS, reduce=["BTCUSDT=50%", "BTCUSDT=25%"], add=["100", "ETHUSDT=200"])

    assert pool(run) == ("5300.00000000", "4300.00000000", 0.07790698)


def test_a_pool_that_would_not_live_to_see_the_rest_is_named() -> None:
    """Margin that comes after the shock comes too late: 606 + 175.15 on 5000 − 5030 + 600."""
    run = assessed(CROSS, "ETHUSDT=+13%", "BTCUSDT=+0.5%", add=["5000"])

    assert "what if: cross-usdt would be liquidated by then: margin ratio 137.0 %\n" in run.err
    assert pool(run)[2] == 0.14024237


def test_a_pool_that_would_be_bankrupt_by_then_is_over_every_ratio() -> None:
    """5000 − 10 × 3100 × 0.2 is less than nothing; the cap of the ratio is a bound, and said once."""
    run = assessed(CROSS, "ETHUSDT=+20%", add=["5000"])
    assert "what if: cross-usdt would be liquidated by then: margin ratio over 1000 %\n" in run.err


def test_all_closed_leaves_no_pool() -> None:
    """5000 − 1000, and nothing that could be liquidated."""
    lines = assessed(CROSS, close=["BTCUSDT", "ETHUSDT"])
    table = assessed(CROSS, close=["BTCUSDT", "ETHUSDT"], as_json=False)

    assert (lines.status, lines.out) == (0, "")
    assert lines.err.splitlines()[1].endswith("the cross wallet is 4000 now")
    assert table.status == 0
    assert table.out.endswith("\n\nno positions\n")


# ---- advice, applied ----


def _advised(isolated: bool) -> dict[str, Advice]:
    """What the daemon advises for the account of `LONG`, back to 70 %."""
    watched = Watched()
    held = row("BTCUSDT", "2.5", "92000", isolated=isolated, isolated_wallet="5182.40" if isolated else "0")
    watched.begin("5182.40", held)
    [story] = of_rule(watched.price("90372.10"), "margin_ratio")
    assert {advice.to_ratio for advice in story.advice} == {D("0.7")}
    return {advice.action: advice for advice in story.advice}


def _held(isolated: bool) -> str:
    """The same account as a file."""
    mark = risk_row("BTCUSDT", "2.5", "92000", "90372.10", isolatedWallet="5182.40" if isolated else "0")
    return snapshot([mark], {"BTCUSDT": [("0", "0.004", "0"), ("300000", "0.005", "300")]}, assets(USDT="5182.40"))


@pytest.mark.parametrize(
    ("isolated", "pool_id"), [(False, "cross-usdt"), (True, "isolated-btcusdt")], ids=["cross", "isolated"]
)
def test_margin_that_is_added_as_advised_brings_the_ratio_to_its_target(isolated: bool, pool_id: str) -> None:
    """178.38 USDT: 903.721 ÷ 1291.03 is 0.7."""
    added = assessed(_held(isolated), add=[f"{_advised(isolated)['add_margin'].amount:f}"])

    assert pool(added, pool_id)[2] == 0.7


def test_a_cross_position_that_is_reduced_as_advised_brings_the_ratio_to_its_target() -> None:
    """One lot less than the advised quantity is not enough."""
    quantity = _advised(False)["reduce"].quantity
    assert quantity is not None
    reduced = assessed(_held(False), reduce=[f"BTCUSDT={quantity:f}"])
    almost = assessed(_held(False), reduce=[f"BTCUSDT={quantity - D('0.001'):f}"])

    assert pool(reduced)[2] <= 0.7 < pool(almost)[2]


def test_nobody_is_advised_to_reduce_an_isolated_position() -> None:
    """Its margin goes with it: what is left of nine tenths closed is as near to liquidation as the whole was."""
    advised = _advised(True)["reduce"]
    whole, rest = assessed(_held(True)), assessed(_held(True), reduce=["BTCUSDT=90%"])

    assert (advised.quantity, advised.reason) == (None, "isolated_margin_is_released")
    assert pool(rest, "isolated-btcusdt")[2] == pool(whole, "isolated-btcusdt")[2]


# ---- what people read ----


def test_people_get_before_and_after() -> None:
    """The figures of the file, and those after the change, side by side; what was done on top."""
    run = assessed(ISOLATED, reduce=["BTCUSDT=50%"], close=["ETHUSDT"], as_json=False)

    assert run.status == 0
    assert run.out.splitlines()[:10] == [
        "what if: 1 of BTCUSDT long closed at 60000: realized PnL 0 USDT (no commission),"
        " its 1500 of the isolated wallet are released and 1500 go to the cross wallet; 1500 stay",
        "what if: 10 of ETHUSDT short closed at 3100: realized PnL −1000 USDT (no commission),"
        " the cross wallet is 5500 now",
        "",
        "pool                 margin ratio  margin balance        maintenance margin  distance to liquidation",
        "cross-usdt         3.9 % → closed",
        "isolated-btcusdt  20.0 % → 16.0 %     3000 → 1500  USDT           600 → 240            2.0 % → 2.1 %",
        "",
        "position           quantity  entry price  mark price     liquidation price  unrealized PnL",
        "BTCUSDT long          2 → 1        60000       60000  58787.879 → 58734.94               0",
        "ETHUSDT short  −10 → closed",
    ]


def test_the_ladder_names_the_pool_that_goes_first_each_way() -> None:
    """The long as the market falls: 588 ÷ 1800 at −1 %, 576 ÷ 600 at −2 %. The short as it rises."""
    run = assessed(ISOLATED, as_json=False)
    cells = [line.split() for line in run.out.splitlines()]

    assert "first liquidated as the market falls: isolated-btcusdt, at −2.0 %" in run.out
    # 5000 + 30000 = 10 × 3482.587 × 1.005
    assert "first liquidated as the market rises: cross-usdt, at +12.3 %" in run.out
    falling, rising = [c for c in cells if c[:1] == ["isolated-btcusdt"] and len(c) > 8]
    assert falling[1:6] == ["32.7", "%", "96.0", "%", "liq."]
    assert rising[1:3] == ["14.6", "%"]  # 612 ÷ 4200


def test_a_pool_past_liquidation_is_said_to_be() -> None:
    """No move of the market brings it there: it is there."""
    run = assessed(CROSS, "BTCUSDT=-4%", as_json=False)

    assert "18.9 % → bankrupt" in run.out
    assert "liquidated at" in run.out
    assert "past liquidation already: cross-usdt" in run.out


@pytest.mark.parametrize(
    ("value", "text"),
    [("-0.000000001", "0"), ("1112.65", "1112.65"), ("90288.19277108", "90288.193"), ("0.00023156", "0.00023156"),
     ("12345678.919", "12345678.92"), ("1000", "1000"), ("-4069.7500", "−4069.75")],
)  # fmt: skip
def test_numbers_for_people_are_short_and_say_enough(value: str, text: str) -> None:
    """Eight significant digits, at least cents, no zeros at the end."""
    assert shown(D(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [("-0.05", "−5 %"), ("0.1", "+10 %"), ("-0.015", "−1.5 %"), ("0.005", "+0.5 %"), ("1", "+100 %")]
)
def test_moves_have_their_sign(value: str, text: str) -> None:
    """A rise and a fall must not look alike."""
    assert signed_percent(D(value)) == text


WITHOUT_ACCOUNT = snapshot([risk_row("BTCUSDT", "2", "60000", "60000", isolatedWallet="3000"), ETH], TIERS)


@pytest.mark.parametrize(
    ("text", "shocks", "changes", "said"),
    [
        (CROSS, ["*=-1%"], {}, ["all marks −1 %"]),
        (CROSS, ["*=-1%", "ETHUSDT=+1%"], {}, ["all other marks −1 %", "ETHUSDT mark +1 %"]),
        (CROSS, [], {"transfer": ["-500"]}, ["500 USDT withdrawn from the cross wallet, now 4500"]),
        (CROSS, [], {"transfer": ["500"]}, ["500 USDT deposited into the cross wallet, now 5500"]),
        (ISOLATED, [], {"close": ["BTCUSDT"]}, ["the 3000 left of the isolated wallet go to the cross wallet"]),
        (WITHOUT_ACCOUNT, [], {"close": ["BTCUSDT"]}, ["the 3000 left of the isolated wallet go to the cross wallet"]),
        (WITHOUT_ACCOUNT, [], {"close": ["ETHUSDT"]}, ["the cross wallet is unknown"]),
        (
            WITHOUT_ACCOUNT,
            [],
            {"add": ["BTCUSDT=9"]},
            ["9 USDT added to the isolated wallet of BTCUSDT long, now 3009"],
        ),
    ],
)
def test_each_change_is_said_with_where_the_money_is(
    text: str, shocks: Sequence[str], changes: Mapping[str, Sequence[str]], said: list[str]
) -> None:
    """A deposit must not read like a withdrawal; and where a wallet is not in the file, no figure is made up."""
    steps = [line for line in assessed(text, *shocks, **changes).err.splitlines() if line.startswith("what if: ")]  # type: ignore[arg-type]

    assert len(steps) == len(said)
    assert [text for text, line in zip(said, steps, strict=True) if not line.endswith(text)] == []


# ---- what cannot be meant ----


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        pytest.param(CROSS, {"transfer": ["five"]}, ["--transfer", "'five'", "USDT=-500"], id="no amount"),
        pytest.param(CROSS, {"transfer": ["0"]}, ["--transfer", "changes nothing"], id="zero transfer"),
        pytest.param(CROSS, {"transfer": ["1e3"]}, ["--transfer", "'1e3'"], id="exponent"),
        pytest.param(CROSS, {"transfer": ["9" * 60]}, ["--transfer", "form"], id="more digits than can be exact"),
        pytest.param(CROSS, {"transfer": ["USTD=5"]}, ["no USTD", "there are USDT"], id="misspelt asset"),
        pytest.param(CROSS, {"transfer": ["-5000.01"]}, ["holds 5000 USDT"], id="more than there is"),
        pytest.param(TWO_ASSETS, {"transfer": ["-5"]}, ["USDC, USDT", "USDC=-5"], id="which asset"),
        pytest.param(CROSS, {"add": ["-5"]}, ["--add-margin", "more than zero", "--transfer"], id="negative margin"),
        pytest.param(CROSS, {"add": ["BNBUSDT=5"]}, ["BNBUSDT is not held", "BTCUSDT long, ETHUSDT short"], id="add"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT"]}, ["--reduce", "BTCUSDT=50%"], id="how much"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT=0%"]}, ["--reduce", "changes nothing"], id="nothing"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT=101%"]}, ["--reduce", "more than all"], id="more than all"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT=2.001"]}, ["BTCUSDT long is 2;"], id="more than held"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT=-1"]}, ["--reduce", "form"], id="negative quantity"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT:up=1"]}, ["--reduce", "form", ":long"], id="unknown side"),
        pytest.param(CROSS, {"reduce": ["BTCUSDT:short=1"]}, ["BTCUSDT short is not held"], id="other side"),
        pytest.param(CROSS, {"close": ["btcusdt"]}, ["btcusdt is not held", "BTCUSDT long"], id="lower case"),
        pytest.param(CROSS, {"close": ["BTCUSDT", "BTCUSDT"]}, ["held are ETHUSDT short"], id="closed twice"),
        pytest.param(CROSS, {"close": ["BTCUSDT=50%"]}, ["--close", "form"], id="close a part"),
        pytest.param(
            HEDGED,
            {"close": ["BTCUSDT"]},
            ["BTCUSDT long and BTCUSDT short", "BTCUSDT:long or BTCUSDT:short"],
            id="which leg",
        ),
        pytest.param(snapshot([], {}, assets(USDT="1")), {"add": ["5"]}, ["no position", "--transfer"], id="no pool"),
        pytest.param(
            snapshot([ETH], TIERS), {"transfer": ["USDT=5"]}, ["no `account`", "cross wallet of USDT"], id="no account"
        ),
        pytest.param(
            snapshot([risk_row("BTCUSDT", "2", "60000", "0")], TIERS, assets(USDT="1")),
            {"close": ["BTCUSDT"]},
            ["mark BTCUSDT"],
            id="no mark",
        ),
        pytest.param(NO_CONTRACTS, {"close": ["BTCUSD_PERP"]}, ["contract BTCUSD_PERP"], id="no contract size"),
        pytest.param(NO_CONTRACTS, {"add": ["BTCUSD_PERP=1"]}, ["margin asset", "exchangeInfo"], id="no margin asset"),
        pytest.param(ONE_POOL, {"add": ["5"]}, ["several margin assets", "BTCUSDC=5, BTCUSDT=5"], id="which of two"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(text: str, changes: Mapping[str, Sequence[str]], says: list[str]) -> None:
    """Status 2, one line with what is wrong and what would be right, and no figures that look like an answer."""
    run = assessed(text, **changes)  # type: ignore[arg-type]

    assert run.status == 2
    assert run.out == ""
    assert run.err.startswith("marginwatch assess: --")
    assert run.err.count("\n") == 1
    assert [part for part in says if part not in run.err] == []


def test_a_file_without_positions_is_told_before_anything_is_changed() -> None:
    """What is missing is in the file, not in the options."""
    run = assessed(json.dumps({"venue": "binance-usdm", "account": assets(USDT="100")}), close=["BTCUSDT"])

    assert run.status == 1
    assert run.err == "missing: positionRisk: positions are unknown\n"


def test_an_old_terminal_gets_its_figures_too() -> None:
    """Where a minus sign cannot be printed, the sign must not get lost, nor the whole report."""
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "assess", "-"],
        input=CROSS.encode(),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )

    assert done.returncode == 0
    assert b"\\u22121000" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_cannot_be_printed_is_a_failure_in_words(unbuffered: str) -> None:
    """A report that was saved to a full disk is no report; a reader that went away early needs to be told nothing."""
    command = [sys.executable, "-m", "monitor", "assess", "-"]
    more: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "PYTHONUNBUFFERED": unbuffered}}
    with open("/dev/full", "wb") as full:
        on_full = subprocess.run(command, input=CROSS.encode(), stdout=full, stderr=subprocess.PIPE, **more)
    gone, pipe = os.pipe()
    os.close(gone)
    unread = subprocess.run(command, input=CROSS.encode(), stdout=pipe, stderr=subprocess.PIPE, **more)
    os.close(pipe)

    said = b"marginwatch assess: what it prints cannot be written: No space left on device\n"
    assert (on_full.returncode, on_full.stderr) == (1, said)
    assert (unread.returncode, unread.stderr) == (1, b"")


def test_the_command_line_takes_every_option(tmp_path: Path) -> None:
    """A negative amount is a value there, not another option; the order of the options does not matter."""
    file = tmp_path / "account.json"
    file.write_text(CROSS, encoding="utf-8")
    options = "--close ETHUSDT --reduce BTCUSDT=25% --add-margin BTCUSDT=200 --transfer -500 --shock ETHUSDT=+10%"
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "assess", str(file), "--json", *options.split()],
        capture_output=True,
        cwd=ROOT,
        text=True,
    )

    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["margin_ratio"] == 0.6
