"""COIN-M over REST, asked by python-binance: published and recorded answers, digit by digit."""

from decimal import Decimal

import aiohttp
import pytest
from binance.exceptions import BinanceAPIException

from monitor.sim import Clock, Exchange, Scenario, defaults
from tests.sim.wire import both_markets, client

D = Decimal


def still() -> Exchange:
    """The COIN-M scenario; nothing happens by itself."""
    return Exchange(Scenario.named("coinm"), tick_s=None)


def alone(
    quantity: str, entry: str, mark: str, *, cross: str = "0", isolated: str = "", leverage: int = 20
) -> Exchange:
    """One position in BTCUSD_PERP."""
    symbol = "BTCUSD_PERP"
    held = defaults.position(symbol, quantity, entry, isolated or "0")
    account = defaults.account(
        "coin",
        {"BTC": cross},
        [held],
        isolated=(symbol,) if isolated else (),
        leverage=leverage,
        market="coinm",
    )
    return Exchange(Scenario(contracts=[defaults.contract(symbol, mark)], accounts=[account]), tick_s=None)


async def test_a_recorded_isolated_position_to_the_last_digit() -> None:
    """2 contracts at 37643.1: a whole row as Binance answered it (ccxt; worked example 17)."""
    exchange = alone("2", "37643.10000021", "38103.05510455", isolated="0.00268058", leverage=2)
    async with exchange, client(exchange, "coin") as binance:
        (row,) = await binance.futures_coin_position_information()

    del row["breakEvenPrice"], row["updateTime"]
    assert row == {
        "symbol": "BTCUSD_PERP",
        "positionAmt": "2",
        "entryPrice": "37643.10000021",
        "markPrice": "38103.05510455",
        "unRealizedProfit": "0.00006413",
        "liquidationPrice": "25119.97445760",
        "leverage": "2",
        "maxQty": "1500",
        "marginType": "isolated",
        "isolatedMargin": "0.00274471",
        "isAutoAddMargin": "false",
        "positionSide": "BOTH",
        "notionalValue": "0.00524892",
        "isolatedWallet": "0.00268058",
    }


@pytest.mark.parametrize(
    ("quantity", "entry", "mark", "cross", "liquidation", "profit"),
    [
        pytest.param("100000", "45000", "45000", "101", "33599.41860561", "0.00000000", id="calculator, example 15"),
        pytest.param("-3", "68911.00000037", "68234.2", "0.00023156", "72491.16879818", "0.00004318", id="C-IMP-01"),
        pytest.param("-4", "61765.5", "61765.5", "0.00684259", "0", "0.00000000", id="t/7049, no price"),
        pytest.param(
            "1", "11707.70000003", "11788.66626667", "1", "99.54970739", "0.00005866", id="documents, example 20"
        ),
    ],
)
async def test_published_cross_positions(
    quantity: str, entry: str, mark: str, cross: str, liquidation: str, profit: str
) -> None:
    """A short that its coins cover has no price, and prints 0."""
    exchange = alone(quantity, entry, mark, cross=cross)
    async with exchange, client(exchange, "coin") as binance:
        (row,) = await binance.futures_coin_position_information()

    assert row["liquidationPrice"] == liquidation
    assert row["unRealizedProfit"] == profit
    assert (row["marginType"], row["isolatedMargin"], row["isolatedWallet"]) == ("cross", "0.00000000", "0.00000000")


async def test_the_very_high_price_of_a_nearly_covered_short() -> None:
    """Printed 397179.04831492; the wallet was worked out from it, and the last digit is not settled."""
    exchange = alone("-5", "61755.5936486", "61755.5936486", cross="0.00684259")
    async with exchange, client(exchange, "coin") as binance:
        (row,) = await binance.futures_coin_position_information()

    assert abs(D(row["liquidationPrice"]) - D("397179.04831492")) <= D("0.00000001")


async def test_published_margins() -> None:
    """100 contracts at 25000: 0.4 × 0.4 % (example 18); 10 at 9800, 20x: 0.00510204… (example 19)."""
    exchange = alone("100", "25000", "25000", cross="1")
    async with exchange, client(exchange, "coin") as binance:
        (maintained,) = (await binance.futures_coin_account())["positions"]
    exchange = alone("10", "9800", "9800", cross="1")
    async with exchange, client(exchange, "coin") as binance:
        (initial,) = (await binance.futures_coin_account())["positions"]

    assert (maintained["notionalValue"], maintained["maintMargin"]) == ("0.40000000", "0.00160000")
    assert initial["initialMargin"] == initial["positionInitialMargin"] == "0.00510204"


async def test_brackets_are_by_quantity_with_the_published_amounts() -> None:
    """Example 16; bare numbers; the floor's key is right or as misspelt in the documents."""
    async with still() as exchange, client(exchange, "coin") as binance:
        row = await binance.futures_coin_leverage_bracket(symbol="BTCUSD_PERP")
        exchange.fault(bracket_floor_key="qtylFloor", bracket_list=True)
        (misspelt,) = await binance.futures_coin_leverage_bracket(symbol="BTCUSD_PERP")
        every = await binance.futures_coin_leverage_bracket()
        by_pair = await binance._request_futures_coin_api("get", "leverageBracket", True, data={"pair": "BTCUSD"})
        with pytest.raises(BinanceAPIException, match="-1121"):
            await binance.futures_coin_leverage_bracket(symbol="BTCUSDT")

    assert [b["cum"] for b in row["brackets"]][:8] == [0, 0.005, 0.055, 0.355, 1.605, 6.605, 11.605, 21.605]
    assert row["brackets"][1] == {
        "bracket": 2,
        "initialLeverage": 100,
        "qtyCap": 10,
        "qtyFloor": 5,
        "maintMarginRatio": 0.005,
        "cum": 0.005,
    }
    assert misspelt["brackets"][1]["qtylFloor"] == 5
    assert "qtyFloor" not in misspelt["brackets"][1]
    assert {r["symbol"] for r in every} == {"BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_261225", "BTCUSD_300101"}
    assert [r["pair"] for r in by_pair] == ["BTCUSD"]


async def test_the_whole_start_up_set_is_answered() -> None:
    """What a monitor asks before it can say anything."""
    async with still() as exchange, client(exchange, "coin") as binance:
        assert await binance.futures_coin_ping() == {}
        assert abs((await binance.futures_coin_time())["serverTime"] - exchange.now_ms()) < 1000
        info = {s["symbol"]: s for s in (await binance.futures_coin_exchange_info())["symbols"]}
        assert list(info) == ["BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_261225", "BTCUSD_300101"]
        assert "status" not in info["BTCUSD_PERP"]
        assert (info["BTCUSD_PERP"]["contractStatus"], info["BTCUSD_PERP"]["contractSize"]) == ("TRADING", 100)
        eth, delivery = info["ETHUSD_PERP"], info["BTCUSD_261225"]
        assert (eth["contractSize"], eth["marginAsset"], eth["liquidationFee"]) == (10, "ETH", "0.012500")
        assert eth["filters"][0]["stepSize"] == "1"
        assert (delivery["contractType"], delivery["deliveryDate"]) == ("CURRENT_QUARTER", 1_798_185_600_000)
        assert await binance.futures_coin_v1_get_funding_info() == []
        exchange.set_funding("ETHUSD_PERP", interval_h=4)
        assert [r["symbol"] for r in await binance.futures_coin_v1_get_funding_info()] == ["ETHUSD_PERP"]
        assert await binance.futures_coin_get_position_mode() == {"dualSidePosition": False}
        assert await binance.futures_coin_income_history() == []
        assert await binance.futures_coin_liquidation_orders() == []
        exchange.set_adl("coin", "BTCUSD_PERP", 3)
        assert (await binance.futures_coin_v1_get_adl_quantile())[0] == {
            "symbol": "BTCUSD_PERP",
            "adlQuantile": {"LONG": 3, "SHORT": 3, "BOTH": 0},
        }
        assert exchange.order_calls == []


async def test_marks_are_always_a_list_and_delivery_contracts_have_no_funding() -> None:
    """An empty text must never be read as a number."""
    async with still() as exchange, client(exchange, "coin") as binance:
        (one,) = await binance.futures_coin_mark_price(symbol="BTCUSD_261225")
        pair = await binance.futures_coin_mark_price(pair="BTCUSD")
        every = await binance.futures_coin_mark_price()
        with pytest.raises(BinanceAPIException, match="-1121"):
            await binance.futures_coin_mark_price(pair="NOPEUSD")

    assert (one["pair"], one["markPrice"]) == ("BTCUSD", "60400.00000000")
    assert (one["lastFundingRate"], one["interestRate"], one["nextFundingTime"]) == ("", "", 0)
    assert [row["symbol"] for row in pair] == ["BTCUSD_PERP", "BTCUSD_261225", "BTCUSD_300101"]
    assert pair[0]["lastFundingRate"] == "0.00010000"
    assert len(every) == 4


async def test_the_account_shows_each_coin_for_itself() -> None:
    """300 × 100 × (1 ÷ 58000 − 1 ÷ 60020) + 100 × 100 × (1 ÷ 60400 − 1 ÷ 60500) BTC, each worked out by hand."""
    async with still() as exchange, client(exchange, "coin") as binance:
        account = await binance.futures_coin_account()
        balances = {row["asset"]: row for row in await binance.futures_coin_account_balance()}

    btc, eth = account["assets"]
    del btc["updateTime"]
    assert btc == {
        "asset": "BTC",
        "walletBalance": "0.10000000",
        "unrealizedProfit": "0.01768164",
        "marginBalance": "0.11768164",
        "maintMargin": "0.00266158",
        "initialMargin": "0.06653963",
        "positionInitialMargin": "0.06653963",
        "openOrderInitialMargin": "0.00000000",
        "maxWithdrawAmount": "0.05114201",
        "crossWalletBalance": "0.10000000",
        "crossUnPnl": "0.01768164",
        "availableBalance": "0.05114201",
    }
    assert (eth["asset"], eth["walletBalance"], eth["crossUnPnl"]) == ("ETH", "1.20000000", "0.00000000")
    assert "totalWalletBalance" not in account
    positions = {row["symbol"]: row for row in account["positions"]}
    assert positions["ETHUSD_PERP"]["isolated"] is True
    assert (positions["ETHUSD_PERP"]["leverage"], positions["BTCUSD_PERP"]["positionAmt"]) == ("10", "300")
    assert positions["BTCUSD_300101"]["positionAmt"] == "0"
    assert balances["ETH"]["balance"] == "1.20000000"
    assert balances["ETH"]["withdrawAvailable"] == "1.00000000"
    assert "marginAvailable" not in balances["ETH"]


async def test_position_risk_lists_flat_symbols_and_filters_by_asset_or_pair() -> None:
    """48828.5… and 3375 worked out apart; a long's delivery hedge has a far price of its own."""
    async with still() as exchange, client(exchange, "coin") as binance:
        rows = {row["symbol"]: row for row in await binance.futures_coin_position_information()}
        by_asset = await binance.futures_coin_position_information(marginAsset="ETH")
        by_pair = await binance.futures_coin_position_information(pair="BTCUSD")
        exchange.fault(coinm_extra_fields=False)
        documented = await binance.futures_coin_position_information(symbol="is not looked at")

    assert rows["BTCUSD_PERP"]["liquidationPrice"] == "48828.50611145"
    assert rows["ETHUSD_PERP"]["liquidationPrice"] == "3375.00000000"
    assert rows["BTCUSD_261225"]["liquidationPrice"] == "199676.83101258"
    assert rows["BTCUSD_300101"]["positionAmt"] == "0"
    assert rows["ETHUSD_PERP"]["notionalValue"] == "-1.69434090"
    assert [row["symbol"] for row in by_asset] == ["ETHUSD_PERP"]
    assert len(by_pair) == 3
    assert len(documented) == 4
    assert not {"isolatedWallet", "notionalValue"} & set(documented[0])


async def test_hedge_mode_lists_both_beside_long_and_short() -> None:
    """Unlike USDⓈ-M."""
    account = defaults.coin_account()
    account.positions.clear()
    account.hedge = True
    exchange = Exchange(Scenario(accounts=[account]), tick_s=None)
    exchange.fill("coin", "BTCUSD_PERP", "BUY", "10", position_side="LONG")
    async with exchange, client(exchange, "coin") as binance:
        rows = await binance.futures_coin_position_information(pair="BTCUSD")

    shown = [(row["positionSide"], row["positionAmt"]) for row in rows if row["symbol"] == "BTCUSD_PERP"]
    assert shown == [("BOTH", "0"), ("LONG", "10"), ("SHORT", "0")]


async def test_a_liquidation_in_coin_is_in_income_and_forced_orders() -> None:
    """What a monitor looks for after it was away."""
    async with still() as exchange, client(exchange, "coin") as binance:
        exchange.fund("BTCUSD_PERP", "0.0001")
        exchange.set_mark("ETHUSD_PERP", "3380")
        income = await binance.futures_coin_income_history()
        (order,) = await binance.futures_coin_liquidation_orders(autoCloseType="LIQUIDATION")

    assert [(r["incomeType"], r["asset"], r["income"]) for r in income] == [
        ("FUNDING_FEE", "BTC", "-0.00004998"),
        ("REALIZED_PNL", "ETH", "-0.18737672"),
        ("INSURANCE_CLEAR", "ETH", "-0.01262328"),
    ]
    assert (order["symbol"], order["pair"], order["cumBase"]) == ("ETHUSD_PERP", "ETHUSD", "1.47928994")


async def test_one_key_may_open_both_markets_and_they_share_the_weight() -> None:
    """Each path answers with its own market's account."""
    clock = Clock()
    clock.offset_ms = 30_000 - clock.now_ms() % 60_000  # mid-minute: the pool is not emptied under the test
    exchange = Exchange(both_markets(), clock, tick_s=None)
    async with exchange, client(exchange, "main") as binance:
        binance.timestamp_offset = clock.offset_ms
        usdm = await binance.futures_account(version=3)
        coinm = await binance.futures_coin_account()
        used = binance.response.headers["X-MBX-USED-WEIGHT-1M"]
        key = await binance.futures_coin_stream_get_listen_key()
        assert await binance.futures_stream_get_listen_key() != key
        assert await binance.futures_coin_stream_keepalive(listenKey=key) == {"listenKey": key}
        await binance.futures_coin_stream_close(listenKey=key)
        with pytest.raises(BinanceAPIException, match="-1125"):
            await binance.futures_coin_stream_keepalive(listenKey=key)
        assert (await binance.get_account_api_permissions())["enableReading"]

    assert usdm["totalWalletBalance"] == "10750.00000000"
    assert coinm["assets"][0]["walletBalance"] == "0.10000000"
    assert used == "10"


async def test_a_key_of_the_other_market_an_order_and_a_bad_signature_are_refused() -> None:
    """The same errors as for USDⓈ-M."""
    async with still() as exchange, client(exchange, "coin") as binance, aiohttp.ClientSession() as session:
        with pytest.raises(BinanceAPIException, match="-2015"):
            await binance.futures_account(version=3)
        with pytest.raises(BinanceAPIException, match="-5000"):
            await binance.futures_coin_create_order(symbol="BTCUSD_PERP", side="BUY", type="MARKET", quantity=1)
        binance.API_SECRET = "wrong"
        with pytest.raises(BinanceAPIException, match="-1022"):
            await binance.futures_coin_account()
        async with session.get(exchange.url + "/dapi/v1/account", headers={"X-MBX-APIKEY": "coin-key"}) as response:
            assert (response.status, (await response.json())["code"]) == (400, -1102)
        assert exchange.order_calls == ["POST /dapi/v1/order"]


async def test_rest_of_one_market_can_fail_alone() -> None:
    """rest_paths name it."""
    async with still() as exchange, client(exchange, "coin") as binance:
        exchange.fault(rest="503", rest_paths=["/dapi/v1/account"])
        with pytest.raises(BinanceAPIException):
            await binance.futures_coin_account()
        assert await binance.futures_ping() == {}
