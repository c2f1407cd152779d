"""The REST side, asked by python-binance."""

import asyncio
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from binance.exceptions import BinanceAPIException

from monitor.sim import Clock, Exchange, Scenario
from tests.sim.wire import client

D = Decimal


def still(name: str = "calm") -> Exchange:
    """An exchange in which nothing happens by itself."""
    return Exchange(Scenario.named(name), tick_s=None)


async def refused(call: Any) -> BinanceAPIException:
    """The refusal that a call ends in."""
    with pytest.raises(BinanceAPIException) as caught:
        await call
    return caught.value


async def test_the_whole_start_up_set_is_answered() -> None:
    """A monitor asks for these before it can say anything."""
    async with still() as exchange, client(exchange) as binance:
        assert await binance.futures_ping() == {}
        assert abs((await binance.futures_time())["serverTime"] - exchange.now_ms()) < 1000
        assert {s["symbol"] for s in (await binance.futures_exchange_info())["symbols"]} >= {"BTCUSDT", "TSLAUSDT"}
        assert (await binance.futures_account_config())["dualSidePosition"] is False
        settings = {row["symbol"]: row for row in await binance.futures_symbol_config()}
        assert settings["SOLUSDT"]["marginType"] == "ISOLATED"
        assert settings["BTCUSDT"] == {
            "symbol": "BTCUSDT",
            "marginType": "CROSSED",
            "isAutoAddMargin": False,
            "leverage": 10,
            "maxNotionalValue": "230000000",
        }
        assert len(await binance.futures_mark_price()) == 7
        assert (await binance.futures_mark_price(symbol="BTCUSDT"))["markPrice"] == "60000.00000000"
        assert await binance.futures_v1_get_funding_info() == []
        assert (await binance.futures_get_multi_assets_mode()) == {"multiAssetsMargin": False}
        assert (await binance.futures_get_position_mode()) == {"dualSidePosition": False}
        assert await binance.futures_get_open_orders() == []
        assert (await binance.get_account_api_permissions())["enableWithdrawals"] is False
        assert exchange.order_calls == []


async def test_the_account_shows_amounts_worked_out_by_hand() -> None:
    """0.5 BTC 59000→60000 is +500, −4 ETH 3000→2950 +200, 50 SOL 150→151 +50."""
    async with still() as exchange, client(exchange) as binance:
        account = await binance.futures_account(version=3)

    usdt = next(row for row in account["assets"] if row["asset"] == "USDT")
    assert usdt["walletBalance"] == "10750.00000000"
    assert usdt["crossWalletBalance"] == "10000.00000000"
    assert usdt["crossUnPnl"] == "700.00000000"
    assert usdt["unrealizedProfit"] == "750.00000000"
    assert usdt["maintMargin"] == "204.95000000"  # 30000 × 0.004 + 11800 × 0.004 + 7550 × 0.005
    assert usdt["availableBalance"] == "6520.00000000"  # 10700 − 3000 − 1180
    assert account["totalWalletBalance"] == "10750.00000000"
    assert {row["asset"] for row in account["assets"]} >= {"USDT", "USDC", "BNB"}
    sol = next(row for row in account["positions"] if row["symbol"] == "SOLUSDT")
    assert sol == {
        "symbol": "SOLUSDT",
        "positionSide": "BOTH",
        "positionAmt": "50",
        "unrealizedProfit": "50.00000000",
        "isolatedMargin": "800.00000000",
        "isolatedWallet": "750.00000000",
        "notional": "7550.00000000",
        "initialMargin": "755.00000000",
        "maintMargin": "37.75000000",
        "updateTime": 0,
    }


async def test_position_risk_has_its_own_spelling_and_liquidation_prices() -> None:
    """The monitor reconciles with these figures to the last digit."""
    async with still() as exchange, client(exchange) as binance:
        rows = {row["symbol"]: row for row in await binance.futures_position_information()}

    assert list(rows) == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert rows["SOLUSDT"]["unRealizedProfit"] == "50.00000000"
    # (150 × 50 − 750) ÷ (50 × 0.995) = 6750 ÷ 49.75
    assert rows["SOLUSDT"]["liquidationPrice"] == "135.67839196"
    # collateral 10000 + 200 − 47.2; (59000 × 0.5 − 10152.8) ÷ (0.5 × 0.996)
    assert rows["BTCUSDT"]["liquidationPrice"] == "38849.79919679"
    # collateral 10000 + 500 − 120; (3000 × 4 + 10380) ÷ (4 × 1.004)
    assert rows["ETHUSDT"]["liquidationPrice"] == "5572.70916335"
    assert rows["ETHUSDT"]["notional"] == "-11800.00000000"
    assert rows["BTCUSDT"]["marginAsset"] == "USDT"
    assert rows["BTCUSDT"]["isolatedWallet"] == "0"


async def test_a_hedged_account_shows_long_and_short_rows_only() -> None:
    """USDC and USDT are separate pools, and a cross hedge has one liquidation price for both legs."""
    async with still("mixed") as exchange, client(exchange, "hedge") as binance:
        rows = {(r["symbol"], r["positionSide"]): r for r in await binance.futures_position_information()}
        account = await binance.futures_account(version=3)

    assert {side for _, side in rows} == {"LONG", "SHORT"}
    # spare 2000; slope 0.05 − 0.004 × 1.95 = 0.0422; 2000 + 0.05 (p − 60000) − 0.0078 p = 0 → p = 1000 ÷ 0.0422
    assert rows["BTCUSDT", "LONG"]["liquidationPrice"] == "23696.68246445"
    assert rows["BTCUSDT", "LONG"]["liquidationPrice"] == rows["BTCUSDT", "SHORT"]["liquidationPrice"]
    assert rows["BTCUSDC", "LONG"]["marginAsset"] == "USDC"
    assert account["totalWalletBalance"] == "2600.00000000"  # USDT alone


async def test_version_2_lists_flat_symbols_too() -> None:
    """Old clients look for leverage and margin type here."""
    async with still() as exchange, client(exchange) as binance:
        rows = {row["symbol"]: row for row in await binance.futures_position_information(version=2)}
        account = await binance.futures_account(version=2)

    assert rows["DOGEUSDT"]["positionAmt"] == "0"
    assert rows["SOLUSDT"]["marginType"] == "isolated"
    assert rows["SOLUSDT"]["isAutoAddMargin"] == "false"
    assert next(p for p in account["positions"] if p["symbol"] == "BTCUSDT")["leverage"] == "10"


async def test_bracket_numbers_are_bare_and_the_single_answer_may_be_a_list() -> None:
    """Both shapes are documented; a reader must take either."""
    async with still() as exchange, client(exchange) as binance:
        one = await binance.futures_leverage_bracket(symbol="BTCUSDT")
        exchange.fault(bracket_list=True)
        many = await binance.futures_leverage_bracket(symbol="BTCUSDT")

    assert many == [one]
    assert one["brackets"][4] == {
        "bracket": 5,
        "initialLeverage": 25,
        "notionalCap": 70000000,
        "notionalFloor": 12000000,
        "maintMarginRatio": 0.02,
        "cum": 132000,
    }


@pytest.mark.parametrize(
    ("key", "secret", "status", "code"),
    [
        pytest.param("", "x", 401, -2014, id="no key"),
        pytest.param("sp ace", "x", 401, -2014, id="malformed key"),
        pytest.param("stranger", "x", 401, -2015, id="unknown key"),
        pytest.param("main-key", "wrong", 400, -1022, id="wrong secret"),
    ],
)
async def test_who_may_not_ask_is_told_why(key: str, secret: str, status: int, code: int) -> None:
    """A wrong key and a wrong secret need different help."""
    async with still() as exchange, client(exchange) as binance:
        binance.API_KEY, binance.API_SECRET = key, secret
        binance.session.headers["X-MBX-APIKEY"] = key
        error = await refused(binance.futures_account(version=3))

    assert (error.status_code, error.code) == (status, code)


async def test_a_revoked_key_is_refused() -> None:
    """Permissions may be taken away while a monitor runs."""
    async with still() as exchange, client(exchange) as binance:
        exchange.set_permissions("main", enableReading=False)
        error = await refused(binance.futures_account(version=3))

    assert (error.status_code, error.code) == (401, -2015)


@pytest.mark.parametrize("skew_ms", [pytest.param(60_000, id="caller late"), pytest.param(-60_000, id="caller early")])
async def test_a_skewed_clock_is_refused_until_the_caller_corrects_it(skew_ms: int) -> None:
    """The offset must be measured, not assumed."""
    async with still() as exchange, client(exchange) as binance:
        exchange.fault(clock_skew_ms=skew_ms)
        error = await refused(binance.futures_account(version=3))
        binance.timestamp_offset = skew_ms
        account = await binance.futures_account(version=3)

    assert (error.status_code, error.code) == (400, -1021)
    assert account["totalWalletBalance"] == "10750.00000000"


async def test_the_exchange_may_be_given_another_clock() -> None:
    """A clock's offset is another way to be skewed."""
    async with Exchange(clock=Clock(5_000_000), tick_s=None) as exchange, client(exchange) as binance:
        binance.timestamp_offset = 5_000_000
        assert (await binance.futures_account(version=3))["totalWalletBalance"] == "10750.00000000"


async def test_missing_and_unknown_parameters_have_their_codes() -> None:
    """-1102 and -1121."""
    async with still() as exchange, client(exchange) as binance, aiohttp.ClientSession() as session:
        headers = {"X-MBX-APIKEY": "main-key"}
        async with session.get(exchange.url + "/fapi/v3/account", headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (400, -1102)
        error = await refused(binance.futures_mark_price(symbol="NOPEUSDT"))

    assert error.code == -1121


async def test_an_order_is_refused_and_counted() -> None:
    """So that a test can hold a monitor to never having tried."""
    async with still() as exchange, client(exchange) as binance:
        error = await refused(binance.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity=1))

    assert error.code == -5000
    assert exchange.order_calls == ["POST /fapi/v1/order"]


async def test_weight_is_counted_and_the_limit_ends_in_a_ban() -> None:
    """429 first; who goes on is banned until a time that the text names."""
    clock = Clock()
    clock.offset_ms = 30_000 - clock.now_ms() % 60_000  # mid-minute: the pool is not emptied under the test
    exchange = Exchange(clock=clock, tick_s=None)
    exchange.rest.weights.limit = 12
    exchange.rest.weights.ban_after = 1
    async with exchange, client(exchange) as binance:
        binance.timestamp_offset = clock.offset_ms
        await binance.futures_account(version=3)
        await binance.futures_account(version=3)
        used = binance.response.headers["X-MBX-USED-WEIGHT-1M"]
        limited = await refused(binance.futures_account(version=3))
        banned = await refused(binance.futures_account(version=3))

    assert used == "10"
    assert (limited.status_code, limited.code) == (429, -1003)
    assert (banned.status_code, banned.code) == (418, -1003)
    assert "IP banned until" in banned.message
    assert int(banned.response.headers["Retry-After"]) > 100


@pytest.mark.parametrize(("mode", "status", "code"), [("503", 503, 0), ("429", 429, -1003), ("418", 418, -1003)])
async def test_rest_can_fail_by_status(mode: str, status: int, code: int) -> None:
    """python-binance gives code 0 to a body that is not JSON."""
    async with still() as exchange, client(exchange) as binance:
        exchange.fault(rest=mode, rest_paths=["/fapi/v3/account"])
        error = await refused(binance.futures_account(version=3))
        assert await binance.futures_ping() == {}

    assert (error.status_code, error.code) == (status, code)


async def test_rest_can_be_cut_off_and_be_slow() -> None:
    """A dead connection and a late answer are different failures."""
    async with still() as exchange, client(exchange) as binance:
        exchange.fault(rest="abort")
        with pytest.raises(aiohttp.ClientError):
            await binance.futures_ping()
        exchange.fault(rest="ok", latency_s=30.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await binance.futures_ping()


async def test_a_stale_answer_shows_the_book_of_before() -> None:
    """An older answer must not overwrite a newer event, so there has to be one."""
    async with still() as exchange, client(exchange) as binance:
        exchange.transfer("main", "USDT", "1000")
        exchange.fault(stale_s=3600.0)
        stale = await binance.futures_account(version=3)
        exchange.fault(stale_s=0.0)
        fresh = await binance.futures_account(version=3)

    assert stale["totalWalletBalance"] == "10750.00000000"
    assert fresh["totalWalletBalance"] == "11750.00000000"


async def test_a_european_account_has_its_credits_as_margin_asset() -> None:
    """USDT contracts margined in BNFCR."""
    async with still("mixed") as exchange, client(exchange, "europe") as binance:
        (row,) = await binance.futures_position_information()
        assets = {r["asset"]: r for r in (await binance.futures_account(version=3))["assets"]}

    assert row["marginAsset"] == "BNFCR"
    assert assets["BNFCR"]["unrealizedProfit"] == "30.00000000"
