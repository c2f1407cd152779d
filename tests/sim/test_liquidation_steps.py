"""Forced orders step by step: partial liquidation, takeover, auto-deleveraging, settlement, and their terms."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from monitor.sim import Exchange, Rejected, Scenario, defaults, margin
from monitor.sim.control import run_command
from monitor.sim.forced import SHAPES
from tests.sim.told import Told
from tests.sim.wire import client, frame, private, stream

D = Decimal


def ratios(engine: Told) -> dict[str, Decimal]:
    """Margin ratio by pool of the account main."""
    return {pool.name: pool.ratio for pool in margin.pools(engine.accounts["main"], engine.market)}


def isolated() -> Scenario:
    """The long of the scenario in isolated margin: 1.9 million in its wallet, nothing beside it."""
    held = [defaults.position("BTCUSDT", "400.000", "58000", "1900000")]
    account = defaults.account("main", {"USDT": "100"}, held, isolated=("BTCUSDT",), leverage=20)
    account.liquidation = account.liquidation.changed(mode="partial")
    return Scenario(accounts=[account])


# ---- in part ----


def test_a_large_position_is_reduced_to_the_bracket_below_and_its_fee_is_cleared() -> None:
    """At 53990: balance 296000, maintenance 299920. 222.263 BTC are below 12 million; 177.737 go at a loss of 4010
    each; fee 177.737 × 53990 × 0.0125 = 119950.257875; what is left has ratio 107999.7937 ÷ 176049.742125."""
    engine = Told("liquidation")

    engine.set_mark("BTCUSDT", "53990")

    kinds = [frame["e"] for frame in engine.told]
    fill = ["TRADE_LITE", "ORDER_TRADE_UPDATE"]
    assert kinds == ["ORDER_TRADE_UPDATE", *fill, *fill, "ACCOUNT_UPDATE", "ACCOUNT_UPDATE"]
    assert len({frame["T"] for frame in engine.told[:-1]}) == 1
    assert engine.told[-1]["T"] > engine.told[-2]["T"]
    new, part, filled = engine.orders()
    assert new["c"].startswith("autoclose-")
    assert {(o["c"], o["o"], o["f"], o["q"], o["ps"]) for o in (new, part, filled)} == {
        (new["c"], "LIQUIDATION", "IOC", "177.737", "LONG")
    }
    assert [(o["x"], o["X"], o["l"], o["z"]) for o in (new, part, filled)] == [
        ("NEW", "NEW", "0", "0"),
        ("TRADE", "PARTIALLY_FILLED", "88.868", "88.868"),
        ("TRADE", "FILLED", "88.869", "177.737"),
    ]
    closed, cleared = engine.updates()
    assert (closed["m"], closed["B"][0]["wb"]) == ("ORDER", "1187274.63000000")
    assert [(row["ps"], row["pa"]) for row in closed["P"]] == [("BOTH", "0"), ("LONG", "222.263")]
    assert cleared["m"] == "INSURANCE_CLEAR"
    assert cleared["B"][0]["bc"] == "-119950.25787500"
    assert cleared["B"][0]["wb"] == "1067324.37212500"
    assert D("0.61345") < ratios(engine)["cross:USDT"] < D("0.61347")


def test_a_reduction_stops_at_the_target_where_that_comes_first() -> None:
    """299920 − 0.02 n is 0.7 of 296000 − 0.0125 n at n = 8241777.8: 152.654 BTC, and not one lot less."""
    engine = Told("liquidation")
    engine.set_liquidation("main", target="0.7", fills=1)

    engine.set_mark("BTCUSDT", "53990")

    assert engine.orders()[-1]["q"] == "152.654"
    assert D("0.6999") < ratios(engine)["cross:USDT"] <= D("0.7")


def test_the_order_is_priced_where_the_pool_is_bankrupt() -> None:
    """58000 − 1900000 ÷ 400 = 53250."""
    engine = Told("liquidation")

    engine.set_mark("BTCUSDT", "53990")

    assert {order["p"] for order in engine.orders()} == {"53250.00000000"}


def test_open_orders_of_the_pool_expire_first() -> None:
    """Those of another margin asset are not in its scope."""
    engine = Told("liquidation")
    mine = engine.place_resting("main", "BTCUSDT", "BUY", "1", "50000", position_side="LONG")
    other = engine.place_resting("main", "BTCUSDC", "SELL", "1", "70000", position_side="LONG")
    engine.told.clear()

    engine.set_mark("BTCUSDT", "53990")

    first, second = engine.orders()[:2]
    assert (first["i"], first["x"], first["X"], first["er"], first["q"], first["p"]) == (
        mine,
        "EXPIRED",
        "EXPIRED",
        "5",
        "1",
        "50000",
    )
    assert second["c"].startswith("autoclose-")
    assert [order.order_id for order in engine.accounts["main"].orders] == [other]


def test_what_a_reducing_order_does_not_need_can_expire() -> None:
    """An order for the whole position that ends with something unfilled, and so in state EXPIRED."""
    engine = Told("liquidation")
    engine.set_liquidation(whole_order=True, fills=1)

    engine.set_mark("BTCUSDT", "53990")

    new, filled, expired = engine.orders()
    assert (new["q"], filled["X"], filled["z"]) == ("400.000", "PARTIALLY_FILLED", "177.737")
    assert (expired["x"], expired["X"], expired["l"], expired["z"]) == ("EXPIRED", "EXPIRED", "0", "177.737")
    (row,) = engine.accounts["main"].force_orders
    assert (row["status"], row["origQty"], row["executedQty"]) == ("EXPIRED", "400.000", "177.737")


def test_executions_slip_further_and_further_from_the_mark() -> None:
    """Half of 0.1 % and then all of it; the average in between is the order's."""
    engine = Told("liquidation")
    engine.set_liquidation(slippage="0.001")

    engine.set_mark("BTCUSDT", "53990")

    _, part, filled = engine.orders()
    assert (part["L"], filled["L"]) == ("53963.00500000", "53936.01000000")
    assert D(filled["L"]) < D(filled["ap"]) < D(part["L"])


def test_an_isolated_wallet_pays_for_its_own_reduction() -> None:
    """The margin of what was closed stays in it, so that the ratio falls; the cross wallet is not touched."""
    engine = Told(isolated())

    engine.set_mark("BTCUSDT", "53990")

    closed, cleared = engine.updates()
    assert (closed["P"][0]["pa"], closed["P"][0]["iw"]) == ("222.263", "1187274.63000000")
    assert (cleared["m"], cleared["B"][0]["bc"], cleared["P"][0]["iw"]) == (
        "INSURANCE_CLEAR",
        "-119950.25787500",
        "1067324.37212500",
    )
    assert {body["B"][0]["cw"] for body in (closed, cleared)} == {"100.00000000"}
    assert D("0.61345") < ratios(engine)["isolated:BTCUSDT:BOTH"] < D("0.61347")


def test_a_small_position_is_closed_whole() -> None:
    """In the first bracket the maintenance margin is below the fee: nothing is gained by keeping some."""
    engine = Told("calm")
    engine.set_liquidation("main", mode="partial")

    engine.set_mark("SOLUSDT", "135.5")

    assert [(o["X"], o["q"]) for o in engine.orders()] == [("NEW", "50"), ("FILLED", "50")]
    assert [body["B"][0]["wb"] for body in engine.updates()] == ["10025.00000000", "10000.00000000"]


def test_in_a_cross_pool_the_largest_requirement_goes_first_and_the_rest_stays_if_it_can() -> None:
    """9000 − 8080 − 231.92: without the big long, what is left is enough for the small one."""
    held = [defaults.position("BTCUSDT", "4", "60000"), defaults.position("ETHUSDT", "1", "2950")]
    account = defaults.account("main", {"USDT": "9000"}, held, leverage=100)
    engine = Told(Scenario(accounts=[account]))
    engine.set_liquidation(mode="partial")
    engine.market["BTCUSDT"].liquidation_fee = D("0.001")

    engine.set_mark("BTCUSDT", "57980")

    assert {order["s"] for order in engine.orders()} == {"BTCUSDT"}
    assert [p.symbol for p in engine.accounts["main"].open_positions()] == ["ETHUSDT"]
    assert engine.updates()[-1]["B"][0]["wb"] == "688.08000000"


def test_a_coin_margined_position_is_reduced_by_whole_contracts() -> None:
    """At 54000 below 50 BTC are 26999 contracts; the fee of the other 9001 is 900100 ÷ 54000 × 0.0125."""
    held = [defaults.position("BTCUSD_PERP", "36000", "60000")]
    account = defaults.account("main", {"BTC": "8.35"}, held, market="coinm")
    engine = Told(Scenario(accounts=[account]))
    engine.set_liquidation(mode="partial")

    engine.set_mark("BTCUSD_PERP", "54000")

    new, filled = engine.orders()
    assert (new["q"], filled["z"], filled["ma"]) == ("9001", "9001", "BTC")
    assert "TRADE_LITE" not in [frame["e"] for frame in engine.told]
    assert [(body["m"], body["B"][0]["a"]) for body in engine.updates()] == [
        ("ORDER", "BTC"),
        ("INSURANCE_CLEAR", "BTC"),
    ]
    assert engine.updates()[-1]["B"][0]["bc"] == "-0.20835648"
    assert ratios(engine)["cross:BTC"] < 1


def test_a_liquidation_order_can_be_had_by_hand() -> None:
    """Size and price as a story needs them; the fee follows: 10 × 59000 × 0.0125."""
    engine = Told("liquidation")

    engine.liquidate("main", "BTCUSDT", "10", "59000")

    assert (engine.orders()[-1]["z"], engine.orders()[-1]["L"]) == ("10", "59000")
    assert engine.updates()[-1]["B"][0]["bc"] == "-7375.00000000"
    with pytest.raises(Rejected, match="-2022"):
        engine.liquidate("main", "BTCUSDT", "391")


# ---- whole ----


def test_the_fund_makes_up_what_a_gap_took_beyond_the_wallet() -> None:
    """400 × 5000 lost, 1.9 million there."""
    engine = Told("liquidation")
    before = engine.insurance["USDT"]

    engine.set_mark("BTCUSDT", "53000")

    closed, cleared = engine.updates()
    assert closed["B"][0]["wb"] == "-100000.00000000"
    assert (cleared["m"], cleared["B"][0]["bc"], cleared["B"][0]["wb"]) == (
        "INSURANCE_CLEAR",
        "100000.00000000",
        "0.00000000",
    )
    assert engine.insurance["USDT"] == before - 100_000
    assert engine.accounts["main"].income[-1]["income"] == "100000.00000000"


def test_an_isolated_position_may_be_let_beyond_its_bankruptcy_price() -> None:
    """The loss beyond its wallet shows in the cross wallet until the fund has made it up."""
    engine = Told(isolated())
    engine.set_liquidation(beyond_bankruptcy=True)

    engine.set_mark("BTCUSDT", "53000")

    assert [body["B"][0]["cw"] for body in engine.updates()] == ["-99900.00000000", "100.00000000"]


def test_a_takeover_can_be_had_by_hand() -> None:
    """At a price that the mark never had, whatever the rules say."""
    engine = Told("calm")

    engine.take_over("main", "SOLUSDT", price="130")

    assert engine.orders()[-1]["L"] == "130"
    assert [body["B"][0]["cw"] for body in engine.updates()] == ["9750.00000000", "10000.00000000"]
    assert engine.updates()[-1]["B"][0]["bc"] == "250.00000000"


# ---- auto-deleveraging ----


def test_auto_deleveraging_takes_the_profitable_leg_of_a_hedge_without_a_fee() -> None:
    """The other leg stays, and is a naked position now."""
    engine = Told("liquidation")
    engine.set_mark("BTCUSDC", "57000")
    engine.place_resting("main", "BTCUSDC", "SELL", "1", "70000", position_side="LONG")
    engine.told.clear()

    engine.adl("main", "BTCUSDC", price="57010")

    cancelled, new, filled = engine.orders()
    assert (cancelled["x"], cancelled["X"]) == ("CANCELED", "CANCELED")
    assert (new["c"], new["x"], new["o"], new["f"]) == ("adl_autoclose", "NEW", "LIMIT", "GTC")
    assert (filled["c"], filled["x"], filled["X"], filled["S"], filled["ps"]) == (
        "adl_autoclose",
        "TRADE",
        "FILLED",
        "BUY",
        "SHORT",
    )
    assert (filled["L"], filled["n"], filled["rp"]) == ("57010", "0", "14950.00000000")
    (update,) = engine.updates()
    assert (update["m"], [(row["ps"], row["pa"]) for row in update["P"]]) == ("ORDER", [("BOTH", "0"), ("SHORT", "0")])
    assert [(p.side, p.quantity) for p in engine.accounts["main"].open_positions("USDC")] == [("LONG", D(5))]
    assert [row["incomeType"] for row in engine.accounts["main"].income] == ["REALIZED_PNL"]


def test_a_part_of_a_position_can_be_auto_deleveraged() -> None:
    """By quantity or by fraction, in whole lots."""
    engine = Told("liquidation")

    engine.adl("main", "BTCUSDC", quantity="1.5", side="LONG")
    engine.adl("main", "BTCUSDC", fraction="0.33333", side="SHORT", client_id="adl_autoclose-77")

    assert [o["z"] for o in engine.orders() if o["X"] == "FILLED"] == ["1.5", "1.666"]
    assert engine.orders()[-1]["c"] == "adl_autoclose-77"
    with pytest.raises(Rejected, match="-2022"):
        engine.adl("main", "BTCUSDC", quantity="4", side="LONG")
    with pytest.raises(ValueError, match="not both"):
        engine.adl("main", "BTCUSDC", quantity="1", fraction="0.5")


async def test_force_orders_tells_liquidation_and_auto_deleveraging_apart() -> None:
    """What a monitor asks for after it was away; settlements are not among them."""
    async with Exchange(Scenario.named("liquidation"), tick_s=None) as exchange, client(exchange) as api:
        exchange.set_mark("BTCUSDT", "53990")
        exchange.adl("main", "BTCUSDC", side="SHORT")
        exchange.settle("BTCUSDT")
        adl = await api.futures_liquidation_orders(autoCloseType="ADL")
        liquidation = await api.futures_liquidation_orders(autoCloseType="LIQUIDATION")
        both = await api.futures_liquidation_orders()
        of_symbol = await api.futures_liquidation_orders(symbol="BTCUSDC")

    assert [(r["clientOrderId"], r["side"], r["positionSide"], r["timeInForce"]) for r in adl] == [
        ("adl_autoclose", "BUY", "SHORT", "GTC")
    ]
    (row,) = liquidation
    assert (row["executedQty"], row["cumQuote"], row["type"]) == ("177.737", "9596020.63000000", "LIMIT")
    assert both == [*liquidation, *adl]
    assert of_symbol == adl


# ---- settlement and delivery ----


def test_a_delisted_contract_is_settled_for_everybody() -> None:
    """Status first, then the orders expire, then the positions are closed, with no commission."""
    engine = Told("mixed")
    engine.place_resting("main", "BTCUSDT", "BUY", "1", "50000")
    engine.told.clear()

    engine.settle("BTCUSDT", "61000")

    (info,) = engine.contracts_told
    assert (info["e"], info["s"], info["cs"]) == ("contractInfo", "BTCUSDT", "SETTLING")
    assert "bks" not in info
    expired, *orders = engine.orders()
    assert (expired["X"], expired["er"]) == ("EXPIRED", "7")
    assert all(order["c"].startswith("settlement_autoclose-") for order in orders)
    filled = [(o["S"], o["ps"], o["L"], o["rp"], o["n"]) for o in orders if o["X"] == "FILLED"]
    assert filled == [
        ("SELL", "BOTH", "61000", "1000.00000000", "0"),
        ("SELL", "LONG", "61000", "1000.00000000", "0"),
        ("BUY", "SHORT", "61000", "-950.00000000", "0"),
    ]
    assert not any(account.holds("BTCUSDT") for account in engine.accounts.values())


def test_a_delivery_contract_is_delivered_at_its_mark() -> None:
    """COIN-M has a client id and an income type of its own for it."""
    engine = Told("coinm")

    engine.settle("BTCUSD_261225")

    assert engine.contracts_told[-1]["cs"] == "DELIVERING"
    assert engine.orders()[-1]["c"].startswith("delivery_autoclose-")
    assert (engine.orders()[-1]["S"], engine.orders()[-1]["L"]) == ("BUY", "60400")
    assert engine.accounts["coin"].income[-1]["incomeType"] == "DELIVERED_SETTELMENT"


async def test_a_contract_that_was_delivered_is_on_no_list_any_more() -> None:
    """Somebody may come back after its delivery, and must not stumble over what is gone."""
    async with Exchange(Scenario.named("coinm"), tick_s=None) as exchange, client(exchange, "coin") as binance:
        with pytest.raises(ValueError, match="coin has a position or an order in BTCUSD_261225"):
            exchange.delist("BTCUSD_261225")
        exchange.settle("BTCUSD_261225")
        exchange.delist("BTCUSD_261225")
        listed = [row["symbol"] for row in (await binance.futures_coin_exchange_info())["symbols"]]
        named = [row["symbol"] for row in await binance.futures_coin_position_information()]
        marks = [row["symbol"] for row in await binance.futures_coin_mark_price()]

    assert "BTCUSD_261225" not in listed
    assert listed == named == marks


# ---- shapes ----


@pytest.mark.parametrize("shape", SHAPES)
def test_a_forced_order_comes_in_every_shape_that_sources_show(shape: str) -> None:
    """The client id is the same in all of them. TRADE_LITE is for executions of type TRADE."""
    engine = Told("calm")
    engine.set_liquidation(shape=shape)

    engine.set_mark("SOLUSDT", "135.5")

    wanted = SHAPES[shape]
    new, filled = engine.orders()
    assert (filled["o"], filled["ot"], filled["x"], filled["R"]) == (
        wanted.kind,
        wanted.kind,
        wanted.execution,
        wanted.reduce_only,
    )
    assert new["c"] == filled["c"]
    assert filled["c"].startswith("autoclose-")
    assert (filled["p"] == "0") == (wanted.kind == "MARKET")
    assert ("TRADE_LITE" in [frame["e"] for frame in engine.told]) == (wanted.execution == "TRADE")


def test_shapes_can_be_drawn_and_the_same_seed_draws_the_same() -> None:
    """A test that failed can be run again."""

    def drawn() -> list[tuple[str, str, bool]]:
        engine = Told("liquidation")
        engine.set_liquidation(shape="random", fills=1)
        for _ in range(12):
            engine.adl("main", "BTCUSDT", quantity="1")
        return [(o["o"], o["x"], o["R"]) for o in engine.orders() if o["X"] == "FILLED"]

    first = drawn()

    assert first == drawn()
    assert len(set(first)) > 3


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        pytest.param({"mode": "none"}, "mode is full or partial", id="mode"),
        pytest.param({"shape": "round"}, "shapes are recorded", id="shape"),
        pytest.param({"target": "1"}, "target is between 0 and 1", id="target"),
        pytest.param({"slip": "1"}, "no liquidation rule 'slip'; there are mode, target", id="name"),
    ],
)
def test_a_mistake_in_the_rules_is_named(rules: dict[str, Any], said: str) -> None:
    """And nothing is changed by it."""
    engine = Told("liquidation")
    before = engine.accounts["main"].liquidation

    with pytest.raises(ValueError, match=said):
        engine.set_liquidation("main", **rules)

    assert engine.accounts["main"].liquidation == before


# ---- brackets ----


async def test_new_brackets_are_pushed_and_rest_follows() -> None:
    """`cf` is the amount; `mi` one more than the next bracket's highest leverage."""
    rows = [
        {"initialLeverage": 50, "notionalFloor": 0, "notionalCap": 10000, "maintMarginRatio": "0.01", "cum": 0},
        {"initialLeverage": 20, "notionalFloor": 10000, "notionalCap": 50000, "maintMarginRatio": "0.025", "cum": 150},
    ]
    async with (
        Exchange(tick_s=None) as exchange,
        client(exchange) as api,
        stream(exchange, "/market/ws/!contractInfo") as socket,
    ):
        exchange.set_brackets("BTCUSDT", rows)
        info = await frame(socket)
        (table,) = [row for row in await api.futures_leverage_bracket() if row["symbol"] == "BTCUSDT"]

    assert info["bks"] == [
        {"bs": 1, "bnf": 0, "bnc": 10000, "mmr": 0.01, "cf": 0, "mi": 21, "ma": 50},
        {"bs": 2, "bnf": 10000, "bnc": 50000, "mmr": 0.025, "cf": 150, "mi": 1, "ma": 20},
    ]
    assert [(b["notionalFloor"], b["maintMarginRatio"], b["cum"]) for b in table["brackets"]] == [
        (0, 0.01, 0),
        (10000, 0.025, 150),
    ]


@pytest.mark.parametrize(("scaled", "floor", "cum"), [(True, 450_000, 450), (False, 300_000, 300)])
async def test_an_account_may_have_brackets_of_its_own(scaled: bool, floor: int, cum: int) -> None:
    """600000 in the second bracket: 600000 × 0.005 − 300 × 1.5 = 2550, however REST prints the table."""
    account = defaults.account("main", {"USDT": "50000"}, [defaults.position("BTCUSDT", "10", "60000")])
    async with Exchange(Scenario(accounts=[account]), tick_s=None) as exchange, client(exchange) as api:
        (before,) = await api.futures_position_information()
        exchange.set_notional_coef("main", "BTCUSDT", "1.5", scaled=scaled)
        (after,) = await api.futures_position_information()
        table = await api.futures_leverage_bracket(symbol="BTCUSDT")
        other = await api.futures_leverage_bracket(symbol="ETHUSDT")
        exchange.set_notional_coef("main", "BTCUSDT", None)
        (again,) = await api.futures_position_information()

    assert (before["maintMargin"], after["maintMargin"]) == ("2700.00000000", "2550.00000000")
    # (10 × 60000 − 50000 − 450) ÷ (10 × 0.995), and 300 without the coefficient
    assert (before["liquidationPrice"], after["liquidationPrice"]) == ("55246.23115578", "55231.15577889")
    assert (table["notionalCoef"], table["brackets"][1]["notionalFloor"], table["brackets"][1]["cum"]) == (
        1.5,
        floor,
        cum,
    )
    assert "notionalCoef" not in other
    assert again == before


async def test_coin_margined_brackets_may_be_an_accounts_own_too() -> None:
    """300 contracts at 60020 are half a bitcoin; with a tenth of the edges that is the first bracket's end."""
    async with Exchange(Scenario.named("coinm"), tick_s=None) as exchange, client(exchange, "coin") as api:
        exchange.set_notional_coef("coin", "BTCUSD_PERP", "0.1")
        table = await api.futures_coin_leverage_bracket(symbol="BTCUSD_PERP")

    assert table["notionalCoef"] == 0.1
    assert [(b["qtyFloor"], b["qtyCap"], b["cum"]) for b in table["brackets"][:2]] == [(0, 0.5, 0), (0.5, 1, 0.0005)]
    assert table["brackets"][-1]["qtyCap"] == 9223372036854775807


# ---- funding, and figures of the market ----


async def test_a_shorter_funding_interval_moves_the_next_time_and_is_listed() -> None:
    """`T` jumps to the next whole hour; a symbol of eight hours is not listed at all."""
    hour_ms = 3_600_000
    async with (
        Exchange(tick_s=None) as exchange,
        client(exchange) as api,
        stream(exchange, "/market/ws/btcusdt@markPrice@1s") as socket,
    ):
        exchange.set_funding("BTCUSDT", interval_h=1)
        exchange.set_funding("BTCUSD_PERP", interval_h=4)
        exchange.pulse()
        mark = await frame(socket)
        listed = await api.futures_v1_get_funding_info()
        listed_coin = await api.futures_coin_v1_get_funding_info()

    assert mark["T"] % hour_ms == 0
    assert 0 < mark["T"] - mark["E"] <= hour_ms
    assert [(row["symbol"], row["fundingIntervalHours"]) for row in listed] == [("BTCUSDT", 1)]
    assert [(row["symbol"], row["fundingIntervalHours"]) for row in listed_coin] == [("BTCUSD_PERP", 4)]


async def test_the_queue_the_risk_and_the_fund_can_be_asked_for() -> None:
    """adlQuantile is the account's; symbolAdlRisk and insuranceBalance are the market's."""
    async with Exchange(Scenario.named("liquidation"), tick_s=None) as exchange, client(exchange) as api:
        exchange.set_adl("main", "BTCUSDC", 4)
        exchange.set_adl_risk("BTCUSDC", "high")
        exchange.set_insurance("USDC", "12.5")
        queue = await api.futures_adl_quantile_estimate()
        risks = await api.futures_symbol_adl_risk()
        risk = await api.futures_symbol_adl_risk(symbol="BTCUSDC")
        funds = await api._request_futures_api("get", "insuranceBalance", data={})
        fund = await api._request_futures_api("get", "insuranceBalance", data={"symbol": "BTCUSDC"})

    assert queue == [
        {"symbol": "BTCUSDT", "adlQuantile": {"LONG": 1, "SHORT": 1, "HEDGE": 0}},
        {"symbol": "BTCUSDC", "adlQuantile": {"LONG": 4, "SHORT": 4, "HEDGE": 0}},
    ]
    assert {row["symbol"]: row["adlRisk"] for row in risks}["BTCUSDT"] == "low"
    assert (risk["symbol"], risk["adlRisk"]) == ("BTCUSDC", "high")
    assert [group["symbols"] for group in funds][1] == ["BTCUSDC"]
    assert fund["symbols"] == ["BTCUSDC"]
    assert [(row["asset"], row["marginBalance"]) for row in fund["assets"]] == [("USDC", "12.5")]


async def test_the_queue_of_coin_margined_positions_can_be_asked_for() -> None:
    """The same path on the other market."""
    async with Exchange(Scenario.named("coinm"), tick_s=None) as exchange, client(exchange, "coin") as api:
        exchange.set_adl("coin", "BTCUSD_PERP", 3)
        queue = await api.futures_coin_v1_get_adl_quantile()

    assert queue[0] == {"symbol": "BTCUSD_PERP", "adlQuantile": {"LONG": 3, "SHORT": 3, "BOTH": 0}}


async def test_resting_orders_are_listed_until_they_end() -> None:
    """NEW is told when it is placed, CANCELED when its owner takes it back."""
    async with Exchange(tick_s=None) as exchange, client(exchange) as api, private(exchange) as socket:
        order = exchange.place_resting("main", "BTCUSDT", "BUY", "0.1", "50000", client_id="mine")
        new = await frame(socket)
        (listed,) = await api.futures_get_open_orders(symbol="BTCUSDT")
        exchange.cancel_resting("main", order)
        cancelled = await frame(socket)
        left = await api.futures_get_open_orders()
        with pytest.raises(Rejected, match="-2011"):
            exchange.cancel_resting("main", order)

    assert [(f["o"]["c"], f["o"]["o"], f["o"]["X"]) for f in (new, cancelled)] == [
        ("mine", "LIMIT", "NEW"),
        ("mine", "LIMIT", "CANCELED"),
    ]
    assert (listed["orderId"], listed["origQty"], listed["price"], listed["side"]) == (order, "0.1", "50000", "BUY")
    assert left == []


async def test_a_symbol_with_nothing_but_an_order_is_listed_flat() -> None:
    """With a quantity of "0"; once the order is gone, so is the row."""
    async with Exchange(tick_s=None) as exchange, client(exchange) as api:
        order = exchange.place_resting("main", "DOGEUSDT", "BUY", "100", "0.1")
        account = await api.futures_account(version=3)
        rows = {row["symbol"]: row for row in await api.futures_position_information()}
        exchange.cancel_resting("main", order)
        after = await api.futures_position_information()

    assert "DOGEUSDT" in [row["symbol"] for row in account["positions"]]
    assert (rows["DOGEUSDT"]["positionAmt"], rows["DOGEUSDT"]["liquidationPrice"]) == ("0", "0")
    assert "DOGEUSDT" not in [row["symbol"] for row in after]


async def test_a_strategy_that_was_liquidated_can_be_told() -> None:
    """Code 8005 liquidated, 8015 empty or liquidated; the engine has no strategies of its own."""
    event = {"e": "STRATEGY_UPDATE", "T": 1, "E": 2, "su": {"si": 7, "st": "GRID", "ss": "EXPIRED", "s": "BTCUSDT"}}
    event["su"] |= {"ut": 1, "c": 8005}  # type: ignore[operator]
    async with Exchange(tick_s=None) as exchange, private(exchange) as socket:
        exchange.push_event("main", event)
        assert await frame(socket) == event


# ---- the whole of it ----


def test_the_scenario_tells_its_story() -> None:
    """Margin call, reduced, recovered, bankrupt, one leg of the hedge gone; each line a control command."""
    engine = Told("liquidation")
    for line in Scenario.named("liquidation").script:
        if line["command"] == "move":
            engine.set_mark(line["symbol"], "54150" if line["price"] == "53990" else line["price"])
            engine.set_mark(line["symbol"], line["price"])
        else:
            arguments = {key: value for key, value in line.items() if key not in ("at_s", "command")}
            getattr(engine, line["command"])(**arguments)

    events = [f["e"] if f["e"] != "ACCOUNT_UPDATE" else f["a"]["m"] for f in engine.told]
    story = [event for event in events if event not in ("ORDER_TRADE_UPDATE", "TRADE_LITE")]
    assert story == ["MARGIN_CALL", "ORDER", "INSURANCE_CLEAR", "ORDER", "INSURANCE_CLEAR", "ORDER"]
    assert [(p.symbol, p.side) for p in engine.accounts["main"].open_positions()] == [("BTCUSDC", "LONG")]
    assert engine.accounts["main"].balance("USDT").cross == 0


def test_control_commands_reach_the_forced_orders() -> None:
    """For an exchange that runs in a process of its own."""
    exchange = Exchange(Scenario.named("liquidation"), liquidation="full")

    run_command(exchange, "set_liquidation", {"account": "main", "mode": "partial", "target": "0.6"})
    run_command(exchange, "adl", {"account": "main", "symbol": "BTCUSDC", "fraction": "0.5"})
    run_command(exchange, "liquidate", {"account": "main", "symbol": "BTCUSDT", "quantity": "1"})
    run_command(exchange, "take_over", {"account": "main", "symbol": "BTCUSDT", "price": "50000"})
    run_command(exchange, "settle", {"symbol": "BTCUSDC"})

    assert not any(exchange.accounts["main"].open_positions())
    assert exchange.accounts["main"].liquidation.target == D("0.6")


def test_a_restart_keeps_rules_orders_coefficients_and_the_fund(tmp_path: Path) -> None:
    """A story that spans a restart of the exchange goes on."""
    path = tmp_path / "state.json"
    first = Exchange(Scenario.named("liquidation"), state_path=path)
    first.set_liquidation("main", shape="market", slippage="0.002")
    first.place_resting("main", "BTCUSDT", "BUY", "1", "50000", position_side="LONG")
    first.set_notional_coef("main", "BTCUSDT", "1.5", scaled=False)
    first.set_insurance("USDT", "7.5")
    first.set_adl_risk("BTCUSDT", "medium")

    again = Exchange.restored(path)

    old, new = first.accounts["main"], again.accounts["main"]
    assert (new.liquidation, new.orders, new.coefs) == (old.liquidation, old.orders, old.coefs)
    assert margin.pools(new, again.market) == margin.pools(old, first.market)
    assert again.insurance == first.insurance
    assert again.market["BTCUSDT"].adl_risk == "medium"
