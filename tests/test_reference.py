"""The reference itself, held to numbers that the exchange published or that are worked by hand.

The examples of the exchange are numbered as in `test_exchange_cases.py`.
"""

from dataclasses import replace
from fractions import Fraction as F

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import (
    RefAsset,
    RefBracket,
    RefPool,
    RefPosition,
    RefShared,
    bankruptcy_prices,
    excess,
    half_up_8,
    liquidation_prices,
    maintenance_margin,
    margin_balance,
    margin_ratio,
    market_distance,
    notional,
    shared_balance,
    shared_bankruptcy_prices,
    shared_excess,
    shared_liquidation_prices,
    shared_margin,
    shared_market_distance,
    shared_ratio,
    trunc_8,
    unrealized_pnl,
)


def brackets(*rows: str) -> tuple[RefBracket, ...]:
    """Each row is "floor rate amount"."""
    return tuple(RefBracket(*map(F, row.split())) for row in rows)


def position(symbol: str, quantity: str, entry: str, mark: str, *rows: str) -> RefPosition:
    return RefPosition(symbol, F(quantity), F(entry), F(mark), brackets(*rows))


ETH = position("ETHUSDT", "3683.979", "1456.84", "1335.18", "0 0.10 135365")
BTC = position("BTCUSDT", "109.488", "32481.98", "31967.27", "0 0.025 16300")
WALLET = F("1535443.01")
BOTH = RefPool(WALLET, (ETH, BTC))

ADA = position("ADAUSDT", "30", "0.385", "0.4104759", "0 0.0065 0")
COMP = position("COMPUSDT", "-1", "70.92841", "49.72023376", "0 0.01 0")

BTC_2026_08 = (
    "0 0.004 0",
    "300000 0.005 300",
    "800000 0.0065 1500",
    "3000000 0.01 12000",
    "12000000 0.02 132000",
    "70000000 0.025 482000",
    "100000000 0.05 2982000",
    "230000000 0.1 14482000",
)


def hedged(short: str, *rows: str) -> RefPool:
    """1 long and some short at 50 000, in a wallet of 1 500."""
    legs = [position("BTCUSDT", quantity, "50000", "50000", *rows) for quantity in ("1", f"-{short}")]
    return RefPool(F(1500), tuple(legs))


def one_leg(quantity: str, wallet: str, *rows: str) -> RefPool:
    """A position opened at 50 000, where the mark still is."""
    return RefPool(F(wallet), (position("BTCUSDT", quantity, "50000", "50000", *rows),))


def test_margin_and_pnl_of_the_support_page_are_met() -> None:
    """Example 1: the liquidation prices of both positions rest on these four numbers."""
    assert round(maintenance_margin(BTC), 5) == F("71200.81144")
    assert round(unrealized_pnl(BTC), 2) == F("-56354.57")
    assert round(maintenance_margin(ETH), 3) == F("356512.508")
    assert round(unrealized_pnl(ETH), 2) == F("-448192.89")


@pytest.mark.parametrize(
    ("pool", "symbol", "published", "recomputed"),
    [
        pytest.param(BOTH, "ETHUSDT", "1153.26", "1153.2565", id="2-cross-eth"),
        pytest.param(BOTH, "BTCUSDT", "26316.89", "26316.8933", id="3-cross-btc"),
        pytest.param(RefPool(WALLET, (ETH,)), "ETHUSDT", "1114.78", "1114.7850", id="4-isolated-eth"),
        pytest.param(RefPool(WALLET, (BTC,)), "BTCUSDT", "18778.73", "18778.7259", id="4-isolated-btc"),
    ],
)
def test_liquidation_prices_of_the_support_page_are_met(
    pool: RefPool, symbol: str, published: str, recomputed: str
) -> None:
    """Examples 2 to 4: the one place where Binance itself works a liquidation price through."""
    below, above = liquidation_prices(pool, symbol)

    assert below is not None
    assert round(below, 4) == F(recomputed)
    assert abs(below - F(published)) <= F("0.005")
    assert above is None


def test_bankruptcy_leaves_out_the_margin_of_the_other_positions() -> None:
    """Keeping the others' maintenance margin would place bankruptcy too early; for example 2 it is 1 055.35."""
    below, above = bankruptcy_prices(BOTH, "ETHUSDT")

    assert below is not None
    assert round(below, 2) == F("1055.35")
    assert above is None


def test_an_isolated_position_is_bankrupt_at_entry_less_its_wallet_per_coin() -> None:
    """The closed form, entry price ∓ isolated wallet ÷ quantity, needs no solving at all."""
    assert bankruptcy_prices(one_leg("2", "10000", "0 0.01 0"), "BTCUSDT") == (F(45000), None)
    assert bankruptcy_prices(one_leg("-2", "10000", "0 0.01 0"), "BTCUSDT") == (None, F(55000))


def test_documented_rows_are_met_to_the_last_printed_digit() -> None:
    """Examples 6 to 8: the exchange truncates these figures to 8 decimals, and so does `trunc_8`."""
    wld = RefPosition("WLDUSDT", F(-849), F(2), F("1992.4607925") / 849, brackets("0 0.006 0"))

    assert (notional(ADA), unrealized_pnl(ADA)) == (F("12.314277"), F("0.764277"))
    assert trunc_8(maintenance_margin(ADA)) == F("0.08004280")
    assert trunc_8(unrealized_pnl(COMP)) == F("21.20817624")
    assert trunc_8(maintenance_margin(COMP)) == F("0.49720233")
    assert notional(wld) == F("1992.4607925")
    assert trunc_8(maintenance_margin(wld)) == F("11.95476475")


@pytest.mark.parametrize(
    ("held", "printed", "collateral", "tolerance"),
    [
        pytest.param(COMP, "2260.5675721", "2212.2448", "0.00005", id="7-short"),
        pytest.param(
            position("BTCUSDT", "0.001", "61788.9", "61755", "0 0.004 0"),
            "8465.58529116",
            "53.357177",
            "0.0000005",
            id="10-long",
        ),
    ],
)
def test_a_printed_liquidation_price_gives_back_its_collateral(
    held: RefPosition, printed: str, collateral: str, tolerance: str
) -> None:
    """Examples 7 and 10 print the price and not the wallet: the way there and the way back must agree."""
    missing = -excess(RefPool(F(0), (held,)), {held.symbol: F(printed)})

    assert abs(missing - F(collateral)) <= F(tolerance)
    prices = liquidation_prices(RefPool(missing, (held,)), held.symbol)
    assert prices == ((F(printed), None) if held.quantity > 0 else (None, F(printed)))


@pytest.mark.parametrize(
    ("quantity", "rows", "expected"),
    [
        pytest.param("1", BTC_2026_08, "60542.17", id="small"),
        pytest.param("100", BTC_2026_08, "60787.88", id="large"),
        pytest.param("100", BTC_2026_08[:1], "60542.17", id="large-if-bracket-1-had-no-end"),
    ],
)
def test_the_bracket_at_the_liquidation_price_decides(quantity: str, rows: tuple[str, ...], expected: str) -> None:
    """A large position dies 245 dollars earlier than its first bracket says."""
    held = position("BTCUSDT", quantity, "67000", "67000", *rows)

    below, above = liquidation_prices(RefPool(F(6700) * F(quantity), (held,)), "BTCUSDT")

    assert below is not None
    assert round(below, 2) == F(expected)
    assert above is None


@pytest.mark.parametrize(
    ("short", "below", "above"),
    [("0.995", None, "83612"), ("0.9", "43210", None), ("1", None, "75000")],
)
def test_a_nearly_even_hedge_is_liquidated_on_the_upside(short: str, below: str | None, above: str | None) -> None:
    """Margin grows with the price faster than a small net long earns, so the usual side is the wrong one."""
    prices = liquidation_prices(hedged(short, "0 0.01 0"), "BTCUSDT")

    assert [None if p is None else str(round(p)) for p in prices] == [below, above]


def test_a_hedge_can_be_liquidated_on_both_sides() -> None:
    """By hand: −3 500 + 0.081 p below 60 000; 19 300 − 0.28 p once the short, too, is in the second bracket."""
    pool = hedged("0.9", "0 0.01 0", "60000 0.2 11400")

    assert liquidation_prices(pool, "BTCUSDT") == (F(3500) / F("0.081"), F(19300) / F("0.28"))


def test_a_jump_over_zero_counts_at_its_edge() -> None:
    """By hand: the excess of 61 000 − 1.01 p is 400 at 60 000, and −2 000 right after it, zero nowhere."""
    pool = one_leg("-1", "11000", "0 0.01 0", "60000 0.05 0")

    assert liquidation_prices(pool, "BTCUSDT") == (None, F(60000))


def test_an_edge_belongs_to_the_bracket_below_it() -> None:
    """Where a table is broken the side decides; the first bracket also serves what is below its floor."""
    rows = ("100 0.01 0", "50000 0.05 0")

    assert maintenance_margin(position("BTCUSDT", "1", "50000", "50000", *rows)) == 500
    assert maintenance_margin(position("BTCUSDT", "1", "50000", "50001", *rows)) == F("2500.05")
    assert maintenance_margin(position("BTCUSDT", "1", "50000", "50", *rows)) == F("0.5")


def test_a_long_with_more_collateral_than_notional_has_no_liquidation_price() -> None:
    """The exchange prints "0" here; a price of zero or less must not come out as a price."""
    assert liquidation_prices(one_leg("1", "50000", "0 0.01 0"), "BTCUSDT") == (None, None)
    assert market_distance(one_leg("1", "50000", "0 0.01 0")) == (None, None)


def test_a_pool_at_its_liquidation_price_has_ratio_one_and_both_sides_at_the_mark() -> None:
    """The definition itself: 500 of margin asked, 500 of balance left."""
    pool = one_leg("1", "500", "0 0.01 0")

    assert margin_ratio(pool) == 1
    assert liquidation_prices(pool, "BTCUSDT") == (F(50000), F(50000))


@pytest.mark.parametrize(
    ("wallet", "ratio"),
    [("1000", F(1, 2)), ("51", F(500, 51)), ("50", F(10)), ("1", F(10)), ("0", F(10)), ("-1", F(10))],
)
def test_the_ratio_is_capped_and_never_negative(wallet: str, ratio: F) -> None:
    """Past bankruptcy the plain quotient turns negative, which would read as safe."""
    pool = one_leg("1", wallet, "0 0.01 0")

    assert margin_balance(pool) == F(wallet)
    assert margin_ratio(pool) == ratio


def test_a_pool_without_positions_has_no_ratio_and_no_distance() -> None:
    """A wallet alone cannot be liquidated, not even an empty one."""
    for pool in (RefPool(F(0), ()), one_leg("0", "0", "0 0.01 0")):
        assert margin_ratio(pool) is None
        assert market_distance(pool) == (None, None)


def test_a_falling_market_liquidates_a_long_and_a_rising_one_a_neutral_book() -> None:
    """By hand: 20 + 100 (s − 1) = s at s = 80/99; and in the neutral book 3 = 2 s, as PnL cancels and margin grows."""
    long = position("AUSDT", "1", "100", "100", "0 0.01 0")
    short = position("BUSDT", "-2", "50", "50", "0 0.01 0")

    assert market_distance(RefPool(F(20), (long,))) == (F(19, 99), None)
    assert market_distance(RefPool(F(3), (long, short))) == (None, F(1, 2))


def test_the_market_distance_minds_the_brackets_of_every_position() -> None:
    """By hand: PnL cancels, margin is 3 s − 3 once the short passes 150, and that is the wallet of 4.5 at s = 2.5."""
    long = position("AUSDT", "1", "100", "100", "0 0 0")
    short = position("BUSDT", "-1", "100", "100", "0 0.01 0", "150 0.03 3")

    assert market_distance(RefPool(F("4.5"), (long, short))) == (None, F(3, 2))


def test_standing_at_liquidation_is_not_a_market_move() -> None:
    """A move is more than 0; that the pool is there already is for the ratio to say."""
    assert market_distance(one_leg("1", "500", "0 0.01 0")) == (None, None)


def test_an_even_hedge_with_nothing_left_is_bankrupt_where_it_stands() -> None:
    """Its balance is 0 at every price, so the nearest such price is the mark."""
    assert bankruptcy_prices(replace(hedged("1", "0 0.01 0"), wallet=F(0)), "BTCUSDT") == (F(50000), F(50000))


def test_rounding_goes_the_way_of_the_exchange() -> None:
    """Half away from zero for liquidation prices, toward zero for the rest."""
    assert [half_up_8(F(s)) for s in ("1.000000005", "-1.000000005", "1.0000000049")] == [
        F("1.00000001"),
        F("-1.00000001"),
        F(1),
    ]
    assert [trunc_8(F(s)) for s in ("1.000000019", "-1.000000019")] == [F("1.00000001"), F("-1.00000001")]


@given(long=st.integers(1, 300), short=st.integers(0, 300), wallet=st.integers(-100_000, 20_000_000))
def test_no_price_nearer_than_the_reported_ones_is_liquidation(long: int, short: int, wallet: int) -> None:
    """Checked by walking, not by solving: between the reported prices excess keeps the sign it has at the mark."""
    held = [position("BTCUSDT", str(q), "50000", "48000", *BTC_2026_08) for q in (long, -short)]
    pool = RefPool(F(wallet), tuple(held))
    below, above = liquidation_prices(pool, "BTCUSDT")

    assert all(excess(pool, {"BTCUSDT": price}) == 0 for price in (below, above) if price is not None)
    safe = excess(pool, {}) > 0
    low, high = below or F(0), above or F(1_000_000)
    between = [low + (high - low) * F(step, 100) for step in range(1, 100)]
    assert low == high or all((excess(pool, {"BTCUSDT": price}) > 0) == safe for price in between)


# ---- several assets as collateral ----


def asset(wallet: str, bid: str, ask: str, *positions: RefPosition) -> RefAsset:
    return RefAsset(F(wallet), F(bid), F(ask), positions)


FAQ = RefShared(
    (
        asset("200", "0.9801", "0.99495", position("BTCUSDT", "0.5", "20000", "20000", "0 0.008 0")),
        asset("220", "1", "1", position("ETHUSDC", "20", "600", "600", "0 0.01 0")),
    )
)


def test_equity_and_ratio_of_the_support_page_are_met() -> None:
    """Examples 11 and 12: 416.02 of equity, 199.596 of maintenance margin, 47.98 %."""
    assert shared_balance(FAQ) == F("416.02")
    assert shared_margin(FAQ) == F("199.596")
    assert round(shared_ratio(FAQ) or F(0), 6) == F("0.479775")


def test_a_debt_costs_the_ask_rate_from_the_price_on_at_which_it_begins() -> None:
    """By hand: below 800 the USDT are owed at 1.1; −1.1 × (800 − p) + 90 − 0.011 p is 0 at 790 ÷ 1.089."""
    held = position("AUSDT", "1", "1000", "1000", "0 0.01 0")
    pool = RefShared((asset("200", "0.9", "1.1", held), asset("100", "0.9", "1.1")))

    assert shared_excess(pool, {"AUSDT": F(800)}) == 90 - F("8.8")
    assert shared_liquidation_prices(pool, "AUSDT") == (F(790) / F("1.089"), None)
    assert shared_bankruptcy_prices(pool, "AUSDT") == (800 - 90 / F("1.1"), None)
    assert shared_market_distance(pool) == (1 - F(790) / F("1089"), None)


def test_a_gain_in_one_asset_may_not_cover_a_loss_in_another() -> None:
    """By hand: a long in one asset and a short in another; any move either way costs the spread of 0.2 and margin."""
    long = position("AUSDT", "1", "100", "100", "0 0 0")
    short = position("BUSDC", "-1", "100", "100", "0 0 0")
    pool = RefShared((asset("0", "0.9", "1.1", long), asset("0", "0.9", "1.1", short), asset("1", "1", "1")))

    assert shared_market_distance(pool) == (F(1, 20), F(1, 20))
