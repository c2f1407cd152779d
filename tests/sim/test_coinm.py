"""COIN-M: the ledger in coin, and the events that tell of it. No sockets."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.sim import Rejected, Scenario, defaults
from monitor.sim.decimals import trunc8
from monitor.sim.desk import Desk
from monitor.sim.margin import liquidation_price, pools
from monitor.sim.market import Market
from tests.sim.told import Told
from tests.sim.wire import both_markets

D = Decimal


def test_entry_prices_average_harmonically_and_realized_pnl_is_in_coin() -> None:
    """400 ÷ (300 ÷ 58000 + 100 ÷ 62000) = 58950.81…; 20000 × (1 ÷ entry − 1 ÷ 60000) = 0.00593251."""
    engine = Told("coinm")

    engine.fill("coin", "BTCUSD_PERP", "BUY", "100", "62000", commission_rate=0)
    grown = engine.accounts["coin"].positions["BTCUSD_PERP", "BOTH"].entry_price
    engine.fill("coin", "BTCUSD_PERP", "SELL", "200", "60000")

    assert grown == D("58950.81967213")
    new, filled, update = engine.told[-3:]
    assert [f["e"] for f in (new, filled, update)] == ["ORDER_TRADE_UPDATE"] * 2 + ["ACCOUNT_UPDATE"]
    assert {f["i"] for f in (new, filled, update)} == {"SgsR"}
    assert (filled["o"]["ma"], filled["o"]["N"], filled["o"]["rp"]) == ("BTC", "BTC", "0.00593251")
    assert filled["o"]["n"] == "0.00013333"  # 20000 ÷ 60000 × 0.0004
    assert update["a"]["B"] == [{"a": "BTC", "wb": "0.10579918", "cw": "0.10579918", "bc": "0"}]
    (row,) = update["a"]["P"]
    assert (row["s"], row["pa"], row["ep"], row["cr"]) == ("BTCUSD_PERP", "200", "58950.81967213", "0.00593251")
    assert "ma" not in row


def test_an_isolated_wallet_takes_and_gives_coin() -> None:
    """100 more at 3000, 10x: 1000 ÷ 3000 ÷ 10 ETH; half closed gives half of it back."""
    engine = Told("coinm")

    engine.fill("coin", "ETHUSD_PERP", "SELL", "100", "3000", commission_rate=0)
    grown = engine.updates()[-1]
    engine.fill("coin", "ETHUSD_PERP", "BUY", "300", "3000", commission_rate=0)

    assert (grown["B"][0]["cw"], grown["P"][0]["iw"]) == ("0.96666667", "0.23333333")
    assert engine.updates()[-1]["P"][0]["iw"] == "0.11666667"


def test_funding_is_paid_in_coin_and_delivery_contracts_have_none() -> None:
    """30000 ÷ 60020 × 0.0001 leaves BTC; the isolated short gets 5000 ÷ 2951 × 0.0001 ETH into its wallet."""
    engine = Told("coinm")

    engine.fund("BTCUSD_PERP", "0.0001")
    engine.fund("ETHUSD_PERP", "0.0001")
    engine.fund("BTCUSD_261225", "0.0001")

    cross, isolated = engine.updates()
    assert cross == {
        "B": [{"a": "BTC", "wb": "0.09995002", "cw": "0.09995002", "bc": "-0.00004998"}],
        "m": "FUNDING_FEE",
        "S": "BTCUSD_PERP",
    }
    assert isolated["B"][0] == {"a": "ETH", "wb": "1.20016943", "cw": "1.00000000", "bc": "0.00016943"}
    assert isolated["P"][0]["iw"] == "0.20016943"
    assert [row["asset"] for row in engine.accounts["coin"].income] == ["BTC", "ETH"]


def test_money_margin_leverage_and_type_work_as_for_usdm() -> None:
    """30000 ÷ 58000 ÷ 10 = 0.05172413 becomes the isolated wallet."""
    engine = Told("coinm")

    engine.transfer("coin", "BTC", "0.5")
    engine.add_margin("coin", "ETHUSD_PERP", "0.05")
    engine.set_leverage("coin", "BTCUSD_PERP", 20)
    engine.set_leverage("coin", "BTCUSD_PERP", 10)
    engine.set_margin_type("coin", "BTCUSD_PERP", "ISOLATED", force=True)

    assert [body["m"] for body in engine.updates()] == ["DEPOSIT", "MARGIN_TRANSFER", "MARGIN_TYPE_CHANGE"]
    assert engine.updates()[1]["P"][0]["iw"] == "0.25000000"
    assert engine.updates()[2]["P"][0]["iw"] == "0.05172413"
    assert engine.updates()[2]["B"][0]["cw"] == "0.54827587"
    assert [f["ac"]["l"] for f in engine.told if "ac" in f] == [20, 10]
    assert all("i" not in f for f in engine.told if "ac" in f)


def test_an_isolated_inverse_short_is_liquidated_in_coin() -> None:
    """At 3380: 0.2 − 5000 (1 ÷ 3000 − 1 ÷ 3380) = 0.01262328 is below 0.01 × 1.479; the fee takes it all."""
    engine = Told("coinm")

    engine.set_mark("ETHUSD_PERP", "3374.99")
    assert [f["e"] for f in engine.told] == ["MARGIN_CALL"]
    engine.set_mark("ETHUSD_PERP", "3380")

    _, _, filled, closed, cleared = engine.told
    assert (filled["o"]["o"], filled["o"]["S"], filled["o"]["q"], filled["o"]["rp"]) == (
        "LIQUIDATION",
        "BUY",
        "500",
        "-0.18737672",
    )
    assert closed["a"]["B"][0]["wb"] == "1.01262328"
    assert cleared["a"]["B"] == [{"a": "ETH", "wb": "1.00000000", "cw": "1.00000000", "bc": "-0.01262328"}]
    (order,) = engine.accounts["coin"].force_orders
    assert (order["pair"], order["cumBase"], "cumQuote" in order) == ("ETHUSD", "1.47928994", False)


def test_an_isolated_inverse_position_never_closes_beyond_its_bankruptcy_price() -> None:
    """1 ÷ (1 ÷ 3000 − 0.2 ÷ 5000) = 3409.09…, though the mark is at 4000; the cross wallet is not touched."""
    engine = Told("coinm")

    engine.set_mark("ETHUSD_PERP", "4000")

    assert engine.told[1]["o"]["ap"] == "3409.09090909"
    assert engine.accounts["coin"].wallet("ETH") == D(1)


def test_a_covered_short_is_never_liquidated() -> None:
    """5000 dollars at 3000 are 1.67 coins; with 2 in its wallet no price is too high."""
    engine = Told("coinm")
    engine.add_margin("coin", "ETHUSD_PERP", "1")
    engine.transfer("coin", "ETH", "1")
    engine.add_margin("coin", "ETHUSD_PERP", "0.8")
    engine.told.clear()

    engine.set_mark("ETHUSD_PERP", "90000000")

    assert engine.told == []


def test_a_cross_pool_of_a_coin_is_liquidated_whole() -> None:
    """The perpetual and the delivery contract stand on the same BTC; ETH is not touched."""
    engine = Told("coinm")

    engine.set_mark("BTCUSD_PERP", "48829")
    before = [p.symbol for p in engine.accounts["coin"].open_positions()]
    engine.set_mark("BTCUSD_PERP", "48828")

    assert before == ["BTCUSD_PERP", "BTCUSD_261225", "ETHUSD_PERP"]
    assert [p.symbol for p in engine.accounts["coin"].open_positions()] == ["ETHUSD_PERP"]
    assert engine.updates()[-1]["m"] == "INSURANCE_CLEAR"
    assert engine.accounts["coin"].balance("BTC").cross == 0


def test_a_margin_call_counts_in_coin_and_names_the_account() -> None:
    """At 3350: 0.2 − 5000 (1 ÷ 3000 − 1 ÷ 3350) = 0.025871; 0.014925 ÷ 0.025871 is 58 %; at 3368 it is 83 %."""
    engine = Told("coinm")

    engine.set_mark("ETHUSD_PERP", "3350")
    engine.set_mark("ETHUSD_PERP", "3368")

    (call,) = engine.told
    assert (call["e"], call["i"], "cw" in call) == ("MARGIN_CALL", "SgsR", False)
    assert call["p"][0] == {
        "s": "ETHUSD_PERP",
        "ps": "BOTH",
        "pa": "-500",
        "mt": "ISOLATED",
        "iw": "0.20000000",
        "mp": "3368",
        "up": "-0.182106",
        "mm": "0.014845",
    }


def test_account_updates_may_show_every_symbol_as_documented() -> None:
    """Two sources, two shapes; flat symbols are rows too, but funding stays brief."""
    engine = Told("coinm")
    engine.faults.update({"all_positions": True})

    engine.fill("coin", "BTCUSD_PERP", "BUY", "1")
    engine.fund("ETHUSD_PERP", "0.0001")

    filled, funded = engine.updates()
    assert [row["s"] for row in filled["P"]] == ["BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_261225", "BTCUSD_300101"]
    assert filled["P"][-1]["pa"] == "0"
    assert [row["s"] for row in funded["P"]] == ["ETHUSD_PERP"]


def test_what_does_not_fit_the_market_is_refused() -> None:
    """Contracts are whole; a symbol of the other market does not exist for the account."""
    engine = Told("coinm")

    with pytest.raises(Rejected, match="-1111"):
        engine.fill("coin", "BTCUSD_PERP", "BUY", "0.5")
    calls: list[Callable[[], None]] = [
        lambda: engine.fill("coin", "BTCUSDT", "BUY", "1"),
        lambda: engine.set_leverage("coin", "BTCUSDT", 5),
        lambda: engine.set_adl("coin", "BTCUSDT", 4),
        lambda: Told().fill("main", "BTCUSD_PERP", "BUY", "1"),
    ]
    for call in calls:
        with pytest.raises(Rejected, match="-1121"):
            call()


def test_one_login_has_one_position_mode_and_one_set_of_permissions() -> None:
    """A position on either market keeps the mode as it is."""
    scenario = both_markets()
    scenario.accounts[0].positions.clear()
    desk = Desk(scenario)
    desk.set_permissions("main", enableWithdrawals=True)
    with pytest.raises(Rejected, match="-4068"):
        desk.set_position_mode("main", hedge=True)
    desk.accounts["coin"].positions.clear()

    desk.set_position_mode("main", hedge=True)

    assert desk.accounts["coin"].hedge
    assert desk.accounts["coin"].permissions["enableWithdrawals"]


def test_a_key_is_one_account_on_a_market() -> None:
    """Two there would make it chance which one answers."""
    twice = both_markets()
    twice.accounts[1].market = "usdm"

    with pytest.raises(ValueError, match="on each market a key of its own"):
        Desk(twice)


def test_a_scenario_knows_coin_margined_contracts_by_their_names() -> None:
    """Market, coin, size and brackets; a position on the wrong market is a mistake."""
    row = {"name": "a", "market": "coinm", "position": [{"symbol": "XRPUSD_PERP", "quantity": "3", "entry_price": 2}]}
    symbols = [{"symbol": "XRPUSD_PERP", "mark": "2"}, {"symbol": "BTCUSD_PERP", "mark": "60000"}]

    scenario = Scenario.from_dict({"symbol": symbols, "account": [row]})

    xrp, btc = scenario.contracts
    assert (xrp.market, xrp.margin_asset, xrp.contract_size, xrp.pair) == ("coinm", "XRP", D(10), "XRPUSD")
    assert (btc.contract_size, btc.brackets[6].amount) == (D(100), D("11.605"))
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    with pytest.raises(ValueError, match="no symbol 'XRPUSD_PERP' on usdm"):
        Scenario.from_dict({"symbol": symbols, "account": [{**row, "market": "usdm"}]})


@given(
    quantity=st.integers(-200_000, 200_000).filter(bool),
    entry=st.decimals("20000", "120000", places=1),
    leverage=st.integers(2, 100),
)
def test_at_the_liquidation_price_the_ratio_is_one(quantity: int, entry: Decimal, leverage: int) -> None:
    """Across all brackets; a short without a price is one that its coins cover."""
    contract = defaults.contract("BTCUSD_PERP", str(entry))
    market = Market([contract])
    wallet = trunc8(abs(contract.value(D(quantity), entry)) / leverage)
    held = defaults.position("BTCUSD_PERP", str(quantity), str(entry), str(wallet))
    account = defaults.account("one", {}, [held], isolated=("BTCUSD_PERP",), market="coinm")
    price = liquidation_price(held, account, market)
    assert price is not None
    contract.mark = price

    (pool,) = pools(account, market)

    assert abs(pool.maintenance - pool.balance) < D("1e-15")
