"""Multi-assets mode of the simulated exchange: its index, its arithmetic, and what follows from them by itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from binance.exceptions import BinanceAPIException
from hypothesis import given
from hypothesis import strategies as st

from monitor.sim import Exchange, Rejected, Scenario, answers, defaults, multiassets
from monitor.sim.account import Account, Position
from monitor.sim.assetindex import AssetIndex
from monitor.sim.control import run_command
from monitor.sim.decimals import half_up8, text8
from monitor.sim.desk import Desk
from monitor.sim.market import Bracket, Contract, Market, ladder
from tests.sim.told import Told
from tests.sim.wire import client, frame, private, silent, stream

D = Decimal
WITHOUT_BUFFERS = [AssetIndex("USDT", D(1)), AssetIndex("USDC", D(1)), AssetIndex("BTC", D(1000))]


def ratio(engine: Desk, name: str = "multi") -> Decimal:
    """Margin ratio of the account, to 6 decimals; zero without positions."""
    whole = multiassets.pools(engine.accounts[name], engine.market)
    return whole[0].ratio.quantize(D("0.000001")) if whole else D(0)


def flat(symbol: str, mark: str, rate: str) -> Contract:
    """A contract with one bracket for every notional."""
    return Contract(symbol, D(mark), symbol[-4:], [Bracket(100, D(0), D("1e15"), D(rate), D(0))])


def multi(
    balances: dict[str, str],
    positions: list[Position],
    contracts: list[Contract],
    indexes: Sequence[AssetIndex] = tuple(WITHOUT_BUFFERS),
) -> Scenario:
    """One account in multi-assets mode, by the name of multi."""
    account = defaults.account("multi", balances, positions, leverage=100, multi_assets=True)
    return Scenario(contracts, [account], asset_indexes=list(indexes))


# ---- Published figures


def faq(with_positions: bool) -> tuple[Account, Market]:
    """The exchange's own example: 200 USDT and 220 USDC; 0.5 BTCUSDT at 100x and 20 ETHUSDC at 50x."""
    held = [defaults.position("BTCUSDT", "0.5", "20000"), defaults.position("ETHUSDC", "20", "600")]
    contracts = [flat("BTCUSDT", "20000", "0.008"), flat("ETHUSDC", "600", "0.01")]
    indexes = [AssetIndex("USDT", D("0.99"), D("0.01"), D("0.005")), AssetIndex("USDC", D(1))]
    scenario = multi({"USDT": "200", "USDC": "220"}, held if with_positions else [], contracts, indexes)
    (account,) = scenario.accounts
    account.setting("ETHUSDC").leverage = 50
    return account, Market(contracts, indexes)


def test_the_published_example_without_positions() -> None:
    """Binance Support, "How to Calculate Margin Ratio in Multi-Assets Mode"."""
    account, market = faq(with_positions=False)

    assert (market.asset_index("USDT").bid, market.asset_index("USDT").ask) == (D("0.9801"), D("0.99495"))
    assert multiassets.equity(account, market) == D("416.02")
    assert multiassets.available(account, "USDT", market).quantize(D("0.01")) == D("418.13")
    assert multiassets.available(account, "USDC", market) == D("416.02")
    assert multiassets.pools(account, market) == []


def test_the_published_example_with_positions() -> None:
    """Initial margin 100 × 0.99495 + 240; maintenance margin 80 × 0.99495 + 120."""
    account, market = faq(with_positions=True)

    (pool,) = multiassets.pools(account, market)

    assert multiassets.free(account, market) == D("76.525")
    assert multiassets.available(account, "USDT", market).quantize(D("0.01")) == D("76.91")
    assert pool.maintenance == D("199.596")
    assert pool.balance == D("416.02")
    assert pool.ratio.quantize(D("0.000001")) == D("0.479775")


def test_the_documented_index_has_its_rates_truncated() -> None:
    """1.9295737 × 0.95 is 1.833095015, × 1.05 is 2.026052385."""
    ada = AssetIndex("ADA", D("1.9295737"), D("0.1"), D("0.1"), D("0.05"), D("0.05"))

    assert [str(rate) for rate in (ada.bid, ada.ask, ada.auto_bid, ada.auto_ask)] == [
        "1.73661633",
        "2.12253107",
        "1.83309501",
        "2.02605238",
    ]


@pytest.mark.parametrize(
    "changes",
    [{"index": D(0)}, {"bid_buffer": D(1)}, {"auto_ask_buffer": D("-0.1")}, {"auto_exchange": D(5)}],
    ids=["no index", "whole haircut", "negative buffer", "threshold above zero"],
)
def test_an_index_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """A typing error would be a collateral that is worth nothing, or anything."""
    with pytest.raises(ValueError, match="BTC"):
        replace(AssetIndex("BTC", D(60000)), **changes)


# ---- One pool


def test_what_is_owed_costs_the_ask_and_what_is_owned_counts_the_bid() -> None:
    """−300 × 1.1 + 500 × 0.9 = 120; the PnL goes with the wallet of its asset, and other assets do not count."""
    indexes = [
        AssetIndex("USDT", D(1), D("0.1"), D("0.1")),
        AssetIndex("USDC", D(1), D("0.1"), D("0.1")),
        AssetIndex("BNB", D(600), margin_available=False),
    ]
    held = [defaults.position("ETHUSDT", "1", "2500")]
    balances = {"USDT": "200", "USDC": "500", "BNB": "10", "DOGE": "1000000"}
    engine = Told(multi(balances, held, [flat("ETHUSDT", "2000", "0.01")], indexes))

    (pool,) = multiassets.pools(engine.accounts["multi"], engine.market)

    assert (pool.collateral, pool.unrealized, pool.balance) == (D(670), D(-550), D(120))
    assert pool.maintenance == D(22)


def test_one_asset_carries_the_loss_of_another() -> None:
    """In single-asset mode the USDT pool would be bankrupt."""
    held = [defaults.position("ETHUSDT", "1", "2500"), defaults.position("BTCUSDC", "0.01", "60000")]
    contracts = [flat("ETHUSDT", "2000", "0.01"), flat("BTCUSDC", "60000", "0.01")]
    engine = Told(multi({"USDC": "1000"}, held, contracts))

    assert ratio(engine) == D("0.052")  # (20 + 6) ÷ (1000 − 500)


# ---- Liquidation price


def risk(engine: Desk, symbol: str = "ETHUSDT") -> str:
    """`liquidationPrice` of positionRisk."""
    account = engine.accounts["multi"]
    return str(answers.position_risk(account, account.positions[symbol, "BOTH"], engine.market)["liquidationPrice"])


@pytest.mark.parametrize(
    ("quantity", "usdc", "price"),
    [
        pytest.param("1", "200", "743.80165289", id="long, owing"),  # 180 + 1.1 (p − 900) = 0.011 p
        pytest.param("1", "0", "911.13610799", id="long, owning"),  # 0.9 (p − 900) = 0.011 p
        pytest.param("-1", "200", "1251.12511251", id="short, owing"),  # 180 + 1.1 (1100 − p) = 0.011 p
        pytest.param("-1", "0", "1086.71789243", id="short, owning"),  # 0.9 (1100 − p) = 0.011 p
        pytest.param("1", "2000", "0", id="none"),
    ],
)
def test_a_liquidation_price_worked_by_hand(quantity: str, usdc: str, price: str) -> None:
    """100 USDT and some USDC; the rate of USDT turns from 0.9 to 1.1 where its amount turns negative."""
    indexes = [AssetIndex(asset, D(1), D("0.1"), D("0.1")) for asset in ("USDT", "USDC")]
    held = [defaults.position("ETHUSDT", quantity, "1000")]
    engine = Told(multi({"USDT": "100", "USDC": usdc}, held, [flat("ETHUSDT", "1000", "0.01")], indexes))

    assert risk(engine) == price


def test_a_liquidation_price_is_rounded_half_up_once() -> None:
    """(1000 − 100.000000015) ÷ 1 lies exactly between two printed prices."""
    held = [defaults.position("ETHUSDT", "1", "1000")]
    scenario = multi({"USDT": "100.000000015"}, held, [flat("ETHUSDT", "1000", "0")])
    account, market = scenario.accounts[0], Market(scenario.contracts, scenario.asset_indexes)

    assert multiassets.liquidation_price(held[0], account, market) == D("899.99999999")  # of 899.999999985


def test_an_asset_index_moves_the_liquidation_price() -> None:
    """With collateral in the pool that no contract has as its margin asset."""
    held = [defaults.position("ETHUSDT", "1", "1000")]
    engine = Told(multi({"BTC": "0.2"}, held, [flat("ETHUSDT", "1000", "0.01")]))
    before = risk(engine)

    engine.set_asset_index("BTC", "900")

    assert (before, risk(engine)) == ("808.08080808", "828.28282828")  # 800 ÷ 0.99, 820 ÷ 0.99
    assert engine.told == []


def above(account: Account, market: Market, symbol: str, mark: Decimal) -> Decimal:
    """Equity less maintenance margin with the symbol's mark elsewhere, by the arithmetic of the ratio."""
    contracts = [*market.contracts.values()]
    elsewhere = Market(contracts, market.asset_indexes.values())
    elsewhere.contracts[symbol] = Contract(
        symbol, mark, market[symbol].margin_asset, market[symbol].brackets, index=market[symbol].index
    )
    (pool,) = multiassets.pools(account, elsewhere)
    return pool.balance - pool.maintenance


@given(
    quantities=st.tuples(*[st.integers(-40_000, 40_000).filter(bool)] * 3),
    usdt=st.integers(-300_000, 300_000),
    usdc=st.integers(-300_000, 300_000),
    coins=st.decimals("0", "20", places=4),
    buffers=st.tuples(*[st.sampled_from([D(0), D("0.0001"), D("0.05")])] * 3),
)
def test_at_the_liquidation_price_equity_is_maintenance_margin(
    quantities: tuple[int, int, int], usdt: int, usdc: int, coins: Decimal, buffers: tuple[Decimal, Decimal, Decimal]
) -> None:
    """Price and ratio are computed apart from each other, and must agree to the last printed digit."""
    symbols = ("BTCUSDT", "BTCUSDC", "ETHUSDT")
    held = [
        defaults.position(symbol, str(D(size) / 1000), defaults.MARKS[symbol])
        for symbol, size in zip(symbols, quantities, strict=True)
    ]
    indexes = [
        AssetIndex(asset, D(price), buffer, buffer)
        for asset, price, buffer in zip(("USDT", "USDC", "BTC"), ("0.9991", "1.0003", "60000"), buffers, strict=True)
    ]
    balances = {"USDT": str(usdt), "USDC": str(usdc), "BTC": str(coins)}
    account = defaults.account("multi", balances, held, multi_assets=True)
    market = Market([defaults.contract(symbol, defaults.MARKS[symbol]) for symbol in symbols], indexes)

    for position in held:
        price = multiassets.liquidation_price(position, account, market)
        if price is None:
            grid = [D(10) ** power for power in range(-6, 9)]
            assert len({above(account, market, position.symbol, mark) > 0 for mark in grid}) == 1
        elif price:
            steepest = abs(position.quantity) * 2  # of the brackets' rates and the buffers, both far below 1
            assert abs(above(account, market, position.symbol, price)) <= steepest * D("0.5e-8")
            assert half_up8(price) == price


@pytest.mark.parametrize(("mark", "price"), [("50000", "30000"), ("51000", "70234.11371237")])
def test_both_legs_of_a_hedge_share_the_nearer_of_two_prices(mark: str, price: str) -> None:
    """Below, 100 + 0.005 (p − 50000) = 0; above, each leg needs 0.01 of what its notional is above 60000."""
    legs = [
        defaults.position("BTCUSDT", "1", "50000", side="LONG"),
        defaults.position("BTCUSDT", "-0.995", "50000", side="SHORT"),
    ]
    account = defaults.account("multi", {"USDC": "100"}, legs, hedge=True, multi_assets=True)
    brackets = ladder([(100, 60000, "0"), (50, 10**9, "0.01")])
    market = Market([Contract("BTCUSDT", D(mark), brackets=brackets)], WITHOUT_BUFFERS)

    assert [multiassets.liquidation_price(leg, account, market) for leg in legs] == [D(price)] * 2


def test_brackets_that_do_not_fit_together_liquidate_at_their_edge() -> None:
    """Under 1000 of notional nothing is needed, from there on 100: the ratio jumps over 1."""
    brackets = [Bracket(10, D(0), D(1000), D(0), D(0)), Bracket(5, D(1000), D("1e15"), D("0.1"), D(0))]
    short = [defaults.position("ETHUSDT", "-1", "950")]
    account = defaults.account("multi", {"USDT": "60"}, short, multi_assets=True)
    market = Market([Contract("ETHUSDT", D(950), brackets=brackets)], WITHOUT_BUFFERS)

    assert multiassets.liquidation_price(short[0], account, market) == D(1000)


# ---- What follows by itself


def test_a_falling_index_raises_the_ratio_and_tells_no_account() -> None:
    """Equity −9000 × 1.0001 + 1500 × 0.9999 + 0.2 × 57000, maintenance margin 1688.15 × 1.0001."""
    engine = Told(Scenario.named("multi-assets"))
    assert ratio(engine) == D("0.433019")  # 1688.318815 ÷ 3898.95

    engine.set_asset_index("BTC", "52000")

    assert ratio(engine) == D("0.709691")  # ÷ 2378.95
    assert engine.told == []

    engine.set_asset_index("BTC", "50400")

    assert ratio(engine) == D("0.813667")  # ÷ 2074.95
    (call,) = engine.told
    assert (call["e"], call["cw"]) == ("MARGIN_CALL", "2074.95000000")
    assert {(row["s"], row["mt"]) for row in call["p"]} == {
        ("BTCUSDT", "CROSSED"),
        ("BTCUSDC", "CROSSED"),
        ("ETHUSDT", "CROSSED"),
    }


def two_longs(mark: str) -> Told:
    """Equity 200 − 100 × (100 − mark) + 1.1 × 1000; at 95 the ratio is 810 ÷ 800."""
    held = [defaults.position("ETHUSDT", "100", "100"), defaults.position("SOLUSDT", "10", "100")]
    contracts = [flat("ETHUSDT", "100", "0.08"), flat("SOLUSDT", "100", "0.05")]
    indexes = [AssetIndex("USDT", D(1)), AssetIndex("BTC", D(1000), auto_bid_buffer=D("0.05"))]
    engine = Told(multi({"USDT": "200", "BTC": "1.1"}, held, contracts, indexes))
    engine.set_mark("ETHUSDT", mark)
    return engine


def test_the_account_stays_as_it_is_below_ratio_1() -> None:
    """(100 × 95.2 × 0.08 + 50) ÷ (200 − 480 + 1100) = 0.9898."""
    engine = two_longs("95.2")

    assert ratio(engine) == D("0.989756")
    assert [frame["e"] for frame in engine.told] == ["MARGIN_CALL"]


def test_the_largest_loss_is_closed_first_and_what_is_compliant_then_stays() -> None:
    """−500 realized, clearance fee 9500 × 0.0125; the 418.75 USDT then owed cost 418.75 ÷ 950 BTC."""
    engine = two_longs("95")
    account = engine.accounts["multi"]

    assert [position.symbol for position in account.open_positions()] == ["SOLUSDT"]
    assert [body["m"] for body in engine.updates()] == ["ORDER", "INSURANCE_CLEAR", "AUTO_EXCHANGE"]
    assert engine.updates()[1]["B"] == [
        {"a": "USDT", "wb": "-418.75000000", "cw": "-418.75000000", "bc": "-118.75000000"}
    ]
    assert engine.updates()[2]["B"] == [
        {"a": "USDT", "wb": "0.00000000", "cw": "0.00000000", "bc": "418.75000000"},
        {"a": "BTC", "wb": "0.65921053", "cw": "0.65921053", "bc": "-0.44078947"},
    ]
    orders = [frame["o"] for frame in engine.told if frame["e"] == "ORDER_TRADE_UPDATE"]
    assert {(order["s"], order["o"]) for order in orders} == {("ETHUSDT", "LIQUIDATION")}
    assert ratio(engine) < D("0.08")
    assert [row["symbol"] for row in account.force_orders] == ["ETHUSDT"]


def test_what_the_collateral_cannot_pay_the_insurance_fund_makes_up() -> None:
    """200 − 5000 USDT against 1.1 × 950: −3755 are left after the exchange."""
    engine = two_longs("50")
    account = engine.accounts["multi"]

    assert list(account.open_positions()) == []
    assert [body["m"] for body in engine.updates()] == ["ORDER", "AUTO_EXCHANGE", "ORDER", "INSURANCE_CLEAR"]
    assert engine.updates()[-1]["B"] == [{"a": "USDT", "wb": "0.00000000", "cw": "0.00000000", "bc": "3755.00000000"}]
    assert [(asset, balance.cross) for asset, balance in account.balances.items()] == [("USDT", D(0)), ("BTC", D(0))]


def test_no_liquidation_where_it_is_switched_off() -> None:
    """A monitor must also be seen at ratios past 1."""
    engine = Told(Scenario.named("multi-assets"))
    engine.faults.update({"liquidation": False})

    engine.set_asset_index("BTC", "45000")

    assert ratio(engine) > 1
    assert len(list(engine.accounts["multi"].open_positions())) == 3


def borrower() -> Told:
    """Owes USDC just inside the threshold, and has USDT, which auto-exchange takes at 97.5 %."""
    indexes = [AssetIndex("USDT", D(1), auto_bid_buffer=D("0.025")), AssetIndex("USDC", D(1), auto_exchange=D(-10000))]
    return Told(multi({"USDC": "-9000", "USDT": "100000"}, [], [flat("ETHUSDT", "2000", "0.01")], indexes))


def test_a_debt_up_to_its_threshold_is_left_alone() -> None:
    """What the exchange calls autoAssetExchange is the last balance that it bears."""
    engine = borrower()

    engine.transfer("multi", "USDC", "-1000")

    assert [body["m"] for body in engine.updates()] == ["WITHDRAW"]


def test_a_debt_beyond_its_threshold_is_exchanged() -> None:
    """Binance Support: 20000 owed at 97.5 % sell 20513."""
    engine = borrower()

    engine.transfer("multi", "USDC", "-11000")

    withdrawn, exchanged = engine.updates()
    assert withdrawn["m"] == "WITHDRAW"
    assert exchanged == {
        "B": [
            {"a": "USDC", "wb": "0.00000000", "cw": "0.00000000", "bc": "20000.00000000"},
            {"a": "USDT", "wb": "79487.17948718", "cw": "79487.17948718", "bc": "-20512.82051282"},
        ],
        "P": [],
        "m": "AUTO_EXCHANGE",
    }
    income = [row for row in engine.accounts["multi"].income if row["incomeType"] == "AUTO_EXCHANGE"]
    assert [(row["asset"], row["income"]) for row in income] == [
        ("USDC", "20000.00000000"),
        ("USDT", "-20512.82051282"),
    ]


def test_a_debt_is_paid_out_of_several_assets_the_most_valuable_first() -> None:
    """15 BTC are 15000 USD; the 1000 that are still missing come out of 2000 USDC."""
    indexes = [AssetIndex("USDT", D(1), auto_exchange=D(-10000)), *WITHOUT_BUFFERS[1:]]
    balances = {"USDT": "0", "USDC": "2000", "BTC": "15"}
    engine = Told(multi(balances, [], [flat("ETHUSDT", "2000", "0.01")], indexes))

    engine.transfer("multi", "USDT", "-16000")

    assert [[(row["a"], row["bc"], row["cw"]) for row in body["B"]] for body in engine.updates()[1:]] == [
        [("USDT", "15000.00000000", "-1000.00000000"), ("BTC", "-15.00000000", "0.00000000")],
        [("USDT", "1000.00000000", "0.00000000"), ("USDC", "-1000.00000000", "1000.00000000")],
    ]


def test_a_debt_without_positions_is_exchanged_once_the_collateral_is_used_up() -> None:
    """Its size alone was no reason: the threshold is far."""
    engine = Told(multi({"USDT": "-900", "BTC": "1"}, [], [flat("ETHUSDT", "2000", "0.01")]))

    engine.set_asset_index("BTC", "901")
    assert engine.told == []

    engine.set_asset_index("BTC", "900")
    assert [body["m"] for body in engine.updates()] == ["AUTO_EXCHANGE"]
    assert engine.accounts["multi"].balances["BTC"].cross == 0


# ---- The mode


def two_coins(usdt: str = "1000", name: str = "two") -> Scenario:
    """An account in single-asset mode that could change: a bitcoin beside its USDT, a cross position."""
    held = [defaults.position("BTCUSDT", "0.1", "60000")]
    return Scenario(accounts=[defaults.account(name, {"USDT": usdt, "BTC": "1"}, held)])


async def test_a_switch_is_told_on_the_stream_and_shown_by_rest() -> None:
    """With a position open; the totals turn from USDT alone into USD."""
    exchange = Exchange(two_coins(name="main"), tick_s=None)
    async with exchange, client(exchange) as binance, private(exchange) as socket:
        for on, wallet in ((True, "57999.90000000"), (False, "1000.00000000")):
            exchange.set_multi_assets("main", on)
            told = await frame(socket)
            assert (told["e"], told["ai"], told.keys() & {"a", "ac"}) == ("ACCOUNT_CONFIG_UPDATE", {"j": on}, set())
            assert (await binance.futures_account_config())["multiAssetsMargin"] is on
            assert (await binance.futures_get_multi_assets_mode()) == {"multiAssetsMargin": on}
            assert (await binance.futures_account(version=3))["totalWalletBalance"] == wallet
        assert await silent(exchange, socket)


def test_isolated_and_multi_assets_mode_exclude_each_other() -> None:
    """Either way round."""
    calm, single = Told(Scenario.named("calm")), Told(two_coins())
    with pytest.raises(Rejected) as caught:
        calm.set_multi_assets("main", True)
    assert caught.value.code == -4167

    single.set_multi_assets("two", True)
    with pytest.raises(Rejected) as caught:
        single.set_margin_type("two", "ETHUSDT", "ISOLATED", force=True)
    assert caught.value.code == -4168


@pytest.mark.parametrize(
    ("usdt", "changes", "code"),
    [
        pytest.param("1000", [False], -4171, id="nothing to change"),
        pytest.param("10", [True, False], -4169, id="too little margin in USDT alone"),
        pytest.param("-10", [True], -4172, id="a wallet below zero"),
    ],
)
def test_a_switch_that_the_exchange_would_refuse(usdt: str, changes: list[bool], code: int) -> None:
    """By its published codes; nothing is told of it."""
    engine = Told(two_coins(usdt))
    engine.faults.update({"liquidation": False})
    *done, refused = changes
    for on in done:
        engine.set_multi_assets("two", on)
    told = len(engine.told)

    with pytest.raises(Rejected) as caught:
        engine.set_multi_assets("two", refused)

    assert caught.value.code == code
    assert len(engine.told) == told

    if code != -4171:
        engine.set_multi_assets("two", refused, force=True)
        assert engine.accounts["two"].multi_assets is refused


def test_a_margin_call_is_of_the_pools_there_are() -> None:
    """A pool that comes back with the mode is told of anew; the other mode has pools of its own."""
    engine = Told(Scenario.named("multi-assets"))
    engine.faults.update({"liquidation": False})

    engine.set_asset_index("BTC", "50400")
    engine.set_multi_assets("multi", False, force=True)
    engine.set_multi_assets("multi", True, force=True)

    calls = [{row["s"] for row in frame["p"]} for frame in engine.told if frame["e"] == "MARGIN_CALL"]
    assert calls == [{"BTCUSDT", "BTCUSDC", "ETHUSDT"}, {"BTCUSDT", "ETHUSDT"}, {"BTCUSDT", "BTCUSDC", "ETHUSDT"}]


def test_who_cannot_be_in_the_mode_is_told_so() -> None:
    """COIN-M has no such mode, and BNFCR has no index."""
    engine = Told(Scenario(accounts=[defaults.coin_account(), defaults.europe_account()]))
    with pytest.raises(ValueError, match="USDⓈ-M alone"):
        engine.set_multi_assets("coin", True)
    with pytest.raises(ValueError, match="no asset index of 'BNFCR'"):
        engine.set_multi_assets("europe", True)

    isolated = defaults.main_account()
    isolated.multi_assets = True
    with pytest.raises(ValueError, match="SOLUSDT cannot be isolated"):
        Told(Scenario(accounts=[isolated]))


# ---- The wire


def still() -> Exchange:
    """The scenario of this mode, in which nothing happens by itself."""
    return Exchange(Scenario.named("multi-assets"), tick_s=None)


async def test_the_streams_have_the_index_of_all_and_of_one() -> None:
    """With every tick; an array and an object; field by field."""
    exchange = still()
    exchange.set_asset_index("ADA", "1.9295737", "0.1", "0.1", "0.05", "0.05")
    path = "/market/stream?streams=!assetIndex@arr/adausd@assetIndex/nousd@assetIndex"
    async with exchange, stream(exchange, path) as socket:
        exchange.pulse(slow=False)
        every, one = await frame(socket), await frame(socket)
        assert await silent(exchange, socket)

    assert (every["stream"], one["stream"]) == ("!assetIndex@arr", "adausd@assetIndex")
    assert [row["s"] for row in every["data"]] == ["USDTUSD", "USDCUSD", "BTCUSD", "ETHUSD", "BNBUSD", "ADAUSD"]
    assert every["data"][-1] == one["data"]
    assert abs(one["data"].pop("E") - exchange.now_ms()) < 5000
    assert one["data"] == {
        "e": "assetIndexUpdate",
        "s": "ADAUSD",
        "i": "1.92957370",
        "b": "0.10000000",
        "a": "0.10000000",
        "B": "1.73661633",
        "A": "2.12253107",
        "q": "0.05000000",
        "g": "0.05000000",
        "Q": "1.83309501",
        "G": "2.02605238",
    }


@pytest.mark.parametrize("path", ["/ws", "/private/ws", "/public/ws", "/dstream/ws"])
async def test_the_index_is_on_the_market_route_alone(path: str) -> None:
    """Elsewhere it connects and stays silent."""
    async with still() as exchange, stream(exchange, f"{path}/!assetIndex@arr") as socket:
        exchange.pulse()
        assert await silent(exchange, socket)


async def test_an_index_may_be_missing_from_the_streams() -> None:
    """As a mark may."""
    path = "/market/ws/!assetIndex@arr/btcusd@assetIndex"
    async with still() as exchange, stream(exchange, path) as socket:
        exchange.fault(mute_symbols=["BTCUSD"])
        exchange.pulse()
        assert "BTCUSD" not in {row["s"] for row in await frame(socket)}
        assert await silent(exchange, socket)


async def test_rest_answers_one_index_or_all_at_their_weights() -> None:
    """An object with a symbol, a list without."""
    async with still() as exchange, client(exchange, "multi") as binance:
        exchange.set_asset_index("BTC", "59000.5")
        one = await binance.futures_v1_get_asset_index(symbol="BTCUSD")
        assert exchange.rest.weights.used == 1
        every = await binance.futures_v1_get_asset_index()
        assert exchange.rest.weights.used == 11
        with pytest.raises(BinanceAPIException) as caught:
            await binance.futures_v1_get_asset_index(symbol="BTCUSDT")

    assert caught.value.code == -1121
    assert [row["symbol"] for row in every] == ["USDTUSD", "USDCUSD", "BTCUSD", "ETHUSD", "BNBUSD"]
    assert abs(one.pop("time") - exchange.now_ms()) < 5000
    assert one == {
        "symbol": "BTCUSD",
        "index": "59000.50000000",
        "bidBuffer": "0.05000000",
        "askBuffer": "0.05000000",
        "bidRate": "56050.47500000",
        "askRate": "61950.52500000",
        "autoExchangeBidBuffer": "0.02500000",
        "autoExchangeAskBuffer": "0.02500000",
        "autoExchangeBidRate": "57525.48750000",
        "autoExchangeAskRate": "60475.51250000",
    }


async def test_exchange_info_says_what_counts_and_when_it_is_exchanged() -> None:
    """Of an asset without a threshold it says null."""
    async with still() as exchange, client(exchange, "multi") as binance:
        exchange.set_asset_index("ETH", margin_available=False, auto_exchange="-2.5")
        assets = (await binance.futures_exchange_info())["assets"]
        balances = {row["asset"]: row["marginAvailable"] for row in await binance.futures_account_balance()}

    assert assets[2:] == [
        {"asset": "BTC", "marginAvailable": True, "autoAssetExchange": "-0.10"},
        {"asset": "ETH", "marginAvailable": False, "autoAssetExchange": "-2.5"},
        {"asset": "BNB", "marginAvailable": True, "autoAssetExchange": None},
    ]
    assert (balances["BTC"], balances["ETH"]) == (True, False)


async def test_the_totals_of_the_account_are_in_usd() -> None:
    """Initial margin (180000 + 180030 + 29500) ÷ 100, as maintenance margin at the ask of 1.0001."""
    async with still() as exchange, client(exchange, "multi") as binance:
        exchange.set_mark("ETHUSDT", "2960")  # −100 USDT; 29600 of notional
        account = await binance.futures_account(version=3)
        [risky] = [r for r in await binance.futures_position_information() if r["symbol"] == "ETHUSDT"]
        exchange.set_mark("ETHUSDT", str(D(risky["liquidationPrice"]) - D("0.00000001")))
        assert 0 <= 1 - multiassets.pools(exchange.accounts["multi"], exchange.market)[0].ratio < D("1e-9")

    shown = {key: value for key, value in account.items() if isinstance(value, str)}
    assert shown == {
        "totalInitialMargin": "3896.68963000",
        "totalMaintMargin": "1688.71885500",
        "totalWalletBalance": "3898.95000000",
        "totalUnrealizedProfit": "-100.01000000",
        "totalMarginBalance": "3798.94000000",
        "totalPositionInitialMargin": "3896.68963000",
        "totalOpenOrderInitialMargin": "0.00000000",
        "totalCrossWalletBalance": "3898.95000000",
        "totalCrossUnPnl": "-100.01000000",
        "availableBalance": "0.00000000",
        "maxWithdrawAmount": "0.00000000",
    }
    usdt = next(row for row in account["assets"] if row["asset"] == "USDT")
    assert (usdt["walletBalance"], usdt["crossUnPnl"]) == ("-9000.00000000", "-100.00000000")


async def test_what_is_available_is_shown_in_each_asset_at_its_ask() -> None:
    """3898.95 − 3895.30 × 1.0001 = 3.260... USD; of bitcoin ÷ 63000."""
    async with still() as exchange, client(exchange, "multi") as binance:
        assets = {row["asset"]: row for row in (await binance.futures_account(version=3))["assets"]}
        whole = multiassets.free(exchange.accounts["multi"], exchange.market)

    assert text8(whole) == "3.26047000"
    assert assets["BTC"]["availableBalance"] == "0.00005175"
    assert assets["USDT"]["availableBalance"] == "3.26014398"
    assert assets["USDT"]["maxWithdrawAmount"] == "0.00000000"


# ---- Steered and kept


def test_the_control_sets_an_index_and_the_mode() -> None:
    """For an exchange in a process of its own."""
    exchange = still()

    run_command(exchange, "set_asset_index", {"asset": "BTC", "index": D("55000"), "bid_buffer": "0.1"})
    run_command(exchange, "transfer", {"account": "multi", "asset": "USDT", "amount": "9000"})
    run_command(exchange, "set_multi_assets", {"account": "multi", "on": False, "force": True})

    assert exchange.market.asset_index("BTC").bid == D(49500)
    assert exchange.market.asset_index("BTC").ask == D(57750)
    assert exchange.accounts["multi"].multi_assets is False
    with pytest.raises(ValueError, match="the index of SHIB is above 0"):
        run_command(exchange, "set_asset_index", {"asset": "SHIB", "bid_buffer": "0.1"})


async def test_a_script_moves_an_index() -> None:
    """In a straight line, beside what else it does."""
    exchange = still()

    async with asyncio.timeout(5):
        await exchange.run_script(
            [{"at_s": 0, "command": "move_index", "asset": "BTC", "index": "51000", "over_s": 0.02}]
        )

    assert exchange.market.asset_index("BTC").index == 51000


def test_a_scenario_keeps_its_indexes_and_its_mode(tmp_path: Path) -> None:
    """As a dictionary, and as the state of an exchange that starts again."""
    state = tmp_path / "state.json"
    first = Exchange(Scenario.named("multi-assets"), tick_s=None, state_path=state)
    first.set_asset_index("BTC", "51234.123456789", auto_exchange="-0.2")
    first.set_asset_index("SOL", "150", margin_available=False)

    second = Exchange.restored(state, tick_s=None)

    assert second.snapshot() == first.snapshot()
    assert second.market.asset_indexes == first.market.asset_indexes
    assert second.accounts["multi"].multi_assets is True
    assert ratio(second) == ratio(first)


def test_a_scenario_file_names_its_assets() -> None:
    """Only what is told of each; an ignored key would be collateral that is worth something else."""
    scenario = Scenario.from_dict({"asset": [{"asset": "BTC", "index": "60000", "bid_buffer": "0.05"}]})

    assert scenario.asset_indexes == [AssetIndex("BTC", D(60000), D("0.05"))]
    with pytest.raises(ValueError, match="no key 'haircut'"):
        Scenario.from_dict({"asset": [{"asset": "BTC", "index": "60000", "haircut": "0.05"}]})
