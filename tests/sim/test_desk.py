"""What each operation books, and the events that tell of it. No sockets."""

from decimal import Decimal

import pytest

from monitor.sim import Rejected
from tests.sim.told import Told

D = Decimal


def test_a_fill_tells_the_order_twice_the_trade_and_the_account_at_one_time() -> None:
    """(0.5 × 59000 + 0.5 × 61000) ÷ 1 = 60000; commission 0.5 × 61000 × 0.0004 = 12.2."""
    engine = Told()

    engine.fill("main", "BTCUSDT", "BUY", "0.5", "61000")

    new, lite, filled, update = engine.told
    assert [f["e"] for f in engine.told] == ["ORDER_TRADE_UPDATE", "TRADE_LITE", "ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE"]
    assert len({f["T"] for f in engine.told}) == 1
    assert (new["o"]["x"], new["o"]["X"], new["o"]["z"]) == ("NEW", "NEW", "0")
    assert (filled["o"]["x"], filled["o"]["X"], filled["o"]["z"]) == ("TRADE", "FILLED", "0.5")
    assert (filled["o"]["n"], filled["o"]["rp"], filled["o"]["L"]) == ("12.20000000", "0", "61000")
    assert (lite["S"], lite["l"], lite["t"]) == ("BUY", "0.5", filled["o"]["t"])
    assert update["a"]["m"] == "ORDER"
    assert update["a"]["B"] == [{"a": "USDT", "wb": "10737.80000000", "cw": "9987.80000000", "bc": "0"}]
    (row,) = update["a"]["P"]
    assert (row["pa"], row["ep"], row["mt"], row["ps"], row["iw"]) == ("1.000", "60000.00000000", "cross", "BOTH", "0")
    assert row["ma"] == "USDT"


def test_a_fill_through_zero_closes_and_opens_anew() -> None:
    """0.5 closed at 62000: + 1500; the other 0.5 opens there."""
    engine = Told()

    engine.fill("main", "BTCUSDT", "SELL", "1", "62000", commission_rate=0)

    position = engine.accounts["main"].positions["BTCUSDT", "BOTH"]
    assert (position.quantity, position.entry_price, position.realized) == (D("-0.5"), D(62000), D(1500))
    assert engine.accounts["main"].balance("USDT").cross == D(11500)
    assert [row["incomeType"] for row in engine.accounts["main"].income] == ["REALIZED_PNL"]


def test_an_isolated_wallet_is_released_by_share_and_grows_by_leverage() -> None:
    """20 of 50 closed at 155: 300 of 750 and +100 go back; 10 more at 155, 10x, take 155."""
    engine = Told()

    engine.fill("main", "SOLUSDT", "SELL", "20", "155", commission_rate=0)
    reduced = engine.updates()[-1]
    engine.fill("main", "SOLUSDT", "BUY", "10", "155", commission_rate=0)

    assert reduced["B"] == [{"a": "USDT", "wb": "10850.00000000", "cw": "10400.00000000", "bc": "0"}]
    assert (reduced["P"][0]["iw"], reduced["P"][0]["mt"]) == ("450.00000000", "isolated")
    position = engine.accounts["main"].positions["SOLUSDT", "BOTH"]
    assert (position.isolated_wallet, position.entry_price) == (D(605), D("151.25"))
    assert engine.accounts["main"].balance("USDT").cross == D(10245)


def test_a_closed_position_leaves_nothing_in_its_wallet() -> None:
    """The row of a flat position is all zeroes but for what it realized."""
    engine = Told()

    engine.fill("main", "SOLUSDT", "SELL", "50", "151", commission_rate=0)

    (row,) = engine.updates()[-1]["P"]
    assert (row["pa"], row["ep"], row["iw"], row["up"], row["cr"]) == ("0", "0", "0", "0", "50.00000000")


def test_an_entry_price_is_truncated_to_eight_decimals() -> None:
    """(1 × 100 + 2 × 100.00000001) ÷ 3 = 100.0000000066…"""
    engine = Told()

    engine.fill("main", "DOGEUSDT", "BUY", "1", "100")
    engine.fill("main", "DOGEUSDT", "BUY", "2", "100.00000001")

    assert engine.accounts["main"].positions["DOGEUSDT", "BOTH"].entry_price == D("100.00000000")


def test_a_hedge_fill_tells_the_both_row_and_the_changed_leg() -> None:
    """Other symbols never; the other leg only if it has a wallet of its own."""
    engine = Told("mixed")

    engine.fill("hedge", "BTCUSDT", "SELL", "0.1", position_side="LONG")

    rows = engine.updates()[-1]["P"]
    assert [(row["s"], row["ps"], row["pa"]) for row in rows] == [
        ("BTCUSDT", "BOTH", "0"),
        ("BTCUSDT", "LONG", "0.900"),
    ]


def test_funding_on_a_cross_position_tells_the_balance_alone() -> None:
    """0.5 × 60000 × 0.0001 = 3, paid by the long; the symbol is in S."""
    engine = Told()

    engine.fund("BTCUSDT", "0.0001")

    assert engine.updates() == [
        {
            "B": [{"a": "USDT", "wb": "10747.00000000", "cw": "9997.00000000", "bc": "-3.00000000"}],
            "m": "FUNDING_FEE",
            "S": "BTCUSDT",
        }
    ]
    assert engine.accounts["main"].income[-1]["income"] == "-3.00000000"
    assert engine.settlements[-1]["fundingRate"] == "0.00010000"


def test_funding_on_an_isolated_position_tells_its_wallet() -> None:
    """50 × 151 × 0.0001 = 0.755 leaves the isolated wallet; the cross wallet stays."""
    engine = Told()

    engine.fund("SOLUSDT", "0.0001")

    (body,) = engine.updates()
    assert body["B"] == [{"a": "USDT", "wb": "10749.24500000", "cw": "10000.00000000", "bc": "-0.75500000"}]
    assert [(row["s"], row["iw"]) for row in body["P"]] == [("SOLUSDT", "749.24500000")]


def test_a_short_receives_what_longs_pay_and_fractions_are_dropped() -> None:
    """4 × 2950 × 0.0000000001 = 0.00000118; a hundredth of that is nothing, and no event."""
    engine = Told()

    engine.fund("ETHUSDT", "0.0000000001")
    engine.fund("ETHUSDT", "0.0000000000001")

    assert [body["B"][0]["bc"] for body in engine.updates()] == ["0.00000118"]


def test_old_funding_shapes_can_be_switched_on() -> None:
    """`P: []`, and no symbol."""
    engine = Told()
    engine.faults.update({"funding_positions": "empty", "funding_symbol": False})

    engine.fund("BTCUSDT", "0.0001")

    assert engine.updates()[0]["P"] == []
    assert "S" not in engine.updates()[0]


def test_a_margin_transfer_leaves_the_wallet_balance_as_it_is() -> None:
    """`cw` and `iw` move opposite."""
    engine = Told()

    engine.add_margin("main", "SOLUSDT", "100")

    (body,) = engine.updates()
    assert body["m"] == "MARGIN_TRANSFER"
    assert body["B"] == [{"a": "USDT", "wb": "10750.00000000", "cw": "9900.00000000", "bc": "-100.00000000"}]
    assert body["P"][0]["iw"] == "850.00000000"


def test_money_in_and_out_has_its_reason() -> None:
    """No position row goes with it."""
    engine = Told()

    engine.transfer("main", "USDT", "5")
    engine.transfer("main", "USDT", "-5")
    engine.transfer("main", "USDT", "0.01", reason="ADMIN_DEPOSIT")

    assert [(b["m"], b["P"]) for b in engine.updates()] == [("DEPOSIT", []), ("WITHDRAW", []), ("ADMIN_DEPOSIT", [])]


def test_leverage_is_told_without_an_account_update() -> None:
    """And less of it is refused on an open isolated position."""
    engine = Told()

    engine.set_leverage("main", "BTCUSDT", 25)
    with pytest.raises(Rejected, match="-4161"):
        engine.set_leverage("main", "SOLUSDT", 5)

    assert [(f["e"], f["ac"]) for f in engine.told] == [("ACCOUNT_CONFIG_UPDATE", {"s": "BTCUSDT", "l": 25})]


def test_a_margin_type_changes_on_a_flat_symbol_or_by_force() -> None:
    """0.5 × 59000 ÷ 10 = 2950 becomes the isolated wallet."""
    engine = Told()

    engine.set_margin_type("main", "DOGEUSDT", "ISOLATED")
    with pytest.raises(Rejected, match="-4048"):
        engine.set_margin_type("main", "BTCUSDT", "ISOLATED")
    engine.set_margin_type("main", "BTCUSDT", "ISOLATED", force=True)

    flat, forced = engine.updates()
    assert (flat["m"], flat["P"][0]["mt"], flat["P"][0]["pa"]) == ("MARGIN_TYPE_CHANGE", "isolated", "0")
    assert (forced["P"][0]["iw"], forced["B"][0]["cw"]) == ("2950.00000000", "7050.00000000")


def test_the_position_mode_changes_without_an_event_and_only_when_flat() -> None:
    """Nobody is told; only REST shows it."""
    engine = Told()
    with pytest.raises(Rejected, match="-4068"):
        engine.set_position_mode("main", hedge=True)
    for symbol, side, size in (("BTCUSDT", "SELL", "0.5"), ("ETHUSDT", "BUY", "4"), ("SOLUSDT", "SELL", "50")):
        engine.fill("main", symbol, side, size)
    engine.told.clear()

    engine.set_position_mode("main", hedge=True)

    assert engine.told == []
    assert engine.accounts["main"].hedge


def test_an_isolated_position_is_liquidated_at_the_mark() -> None:
    """At 135.5: balance 25 below 6775 × 0.005 = 33.875; the fee, 84.6875, takes the 25 that are left."""
    engine = Told()

    engine.set_mark("SOLUSDT", "135.5")

    new, lite, filled, closed, cleared = engine.told
    assert [f["o"]["X"] for f in (new, filled)] == ["NEW", "FILLED"]
    order = filled["o"]
    assert (order["o"], order["ot"], order["x"], order["R"], order["n"]) == (
        "LIQUIDATION",
        "LIQUIDATION",
        "TRADE",
        False,
        "0",
    )
    assert order["c"].startswith("autoclose-")
    assert order["c"].removeprefix("autoclose-").isdigit()
    assert (order["S"], order["q"], order["ap"], order["rp"]) == ("SELL", "50", "135.5", "-725.00000000")
    assert lite["c"] == order["c"]
    assert (closed["a"]["m"], closed["a"]["P"][0]["pa"], closed["a"]["B"][0]["wb"]) == ("ORDER", "0", "10025.00000000")
    assert cleared["a"]["m"] == "INSURANCE_CLEAR"
    assert cleared["a"]["B"] == [{"a": "USDT", "wb": "10000.00000000", "cw": "10000.00000000", "bc": "-25.00000000"}]
    assert engine.accounts["main"].force_orders[0]["clientOrderId"] == order["c"]
    assert engine.accounts["main"].income[-1]["incomeType"] == "INSURANCE_CLEAR"


def test_an_isolated_position_never_closes_beyond_its_bankruptcy_price() -> None:
    """150 − 750 ÷ 50 = 135, though the mark is at 120; the cross wallet is not touched."""
    engine = Told()

    engine.set_mark("SOLUSDT", "120")

    assert engine.told[2]["o"]["ap"] == "135.00000000"
    assert engine.accounts["main"].balance("USDT").cross == D(10000)
    assert "INSURANCE_CLEAR" not in [body["m"] for body in engine.updates()]


@pytest.mark.parametrize(
    ("mark", "cleared"),
    [
        pytest.param("56700", "-50.00000000", id="fee takes the rest: 1000 − 1150 + 200"),
        pytest.param("56500", "50.00000000", id="fund makes it up: 1000 − 1250 + 200"),
    ],
)
def test_a_cross_pool_is_liquidated_whole(mark: str, cleared: str) -> None:
    """Every cross position goes; the isolated one stays."""
    engine = Told()
    engine.transfer("main", "USDT", "-9000")

    engine.set_mark("BTCUSDT", mark)

    assert [p.symbol for p in engine.accounts["main"].open_positions()] == ["SOLUSDT"]
    assert engine.updates()[-1]["m"] == "INSURANCE_CLEAR"
    assert engine.updates()[-1]["B"][0]["bc"] == cleared
    assert engine.accounts["main"].balance("USDT").cross == 0


def test_the_documented_shape_and_the_other_order_can_be_switched_on() -> None:
    """Sources differ; a reader must take either. TRADE_LITE is documented for executions of type TRADE alone."""
    engine = Told()
    engine.faults.update({"calculated": True, "account_update_first": True})

    engine.set_mark("SOLUSDT", "135.5")

    assert [f["e"] for f in engine.told][:2] == ["ACCOUNT_UPDATE", "ORDER_TRADE_UPDATE"]
    assert engine.told[2]["o"]["x"] == "CALCULATED"


def test_a_margin_call_comes_once_until_the_pool_has_recovered() -> None:
    """At 135.8: balance 40, maintenance 33.95, ratio 0.849. Isolated: no `cw`."""
    engine = Told()

    for mark in ("135.8", "135.79", "140", "135.8"):
        engine.set_mark("SOLUSDT", mark)

    assert [f["e"] for f in engine.told] == ["MARGIN_CALL", "MARGIN_CALL"]
    call = engine.told[0]
    assert "cw" not in call
    assert call["p"] == [
        {
            "s": "SOLUSDT",
            "ps": "BOTH",
            "pa": "50",
            "mt": "ISOLATED",
            "iw": "750.00000000",
            "mp": "135.8",
            "up": "-710.000000",
            "mm": "33.950000",
        }
    ]


def test_liquidation_can_be_switched_off() -> None:
    """For a monitor's view of a pool past its end."""
    engine = Told()
    engine.faults.update({"liquidation": False})

    engine.set_mark("SOLUSDT", "120")

    assert [f["e"] for f in engine.told] == ["MARGIN_CALL"]


def test_event_times_never_repeat_or_go_back() -> None:
    """Same type on the same connection is strictly ordered."""
    engine = Told()

    for _ in range(50):
        engine.transfer("main", "USDT", "1")

    times = [f["T"] for f in engine.told]
    assert times == sorted(set(times))


def test_mistakes_in_a_call_are_named() -> None:
    """The names that there are come with the error."""
    engine = Told()

    with pytest.raises(ValueError, match="no symbol 'NOPE' here; there are BTCUSDT"):
        engine.fund("NOPE")
    with pytest.raises(ValueError, match="no account 'nobody' here; there are main"):
        engine.transfer("nobody", "USDT", "1")
    with pytest.raises(ValueError, match="above 0"):
        engine.set_mark("BTCUSDT", "0")
    with pytest.raises(Rejected, match="-2022"):
        Told("mixed").fill("hedge", "BTCUSDT", "SELL", "5", position_side="LONG")
    with pytest.raises(Rejected, match="-4061"):
        engine.fill("main", "BTCUSDT", "SELL", "5", position_side="LONG")
