"""Published and recorded figures, and properties, of the margin arithmetic."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.sim import defaults
from monitor.sim.account import Account, Balance, Position, Settings
from monitor.sim.decimals import half_up8, plain, text8, trunc8
from monitor.sim.margin import BANKRUPT_RATIO, liquidation_price, maintenance, maintenance_of, pools, unrealized
from monitor.sim.market import Bracket, Contract, Market, ladder

D = Decimal


def flat_bracket(rate: str, amount: str) -> list[Bracket]:
    """One bracket for every notional."""
    return [Bracket(1, D(0), D("1e15"), D(rate), D(amount))]


def faq_example(margin_type: str, eth_wallet: str = "0", btc_wallet: str = "0") -> tuple[Account, Market]:
    """Two longs of the exchange's own published example."""
    market = Market(
        [
            Contract("ETHUSDT", D("1335.18"), brackets=flat_bracket("0.10", "135365")),
            Contract("BTCUSDT", D("31967.27"), brackets=flat_bracket("0.025", "16300")),
        ]
    )
    held = [
        Position("ETHUSDT", "BOTH", "USDT", D("3683.979"), D("1456.84"), D(eth_wallet)),
        Position("BTCUSDT", "BOTH", "USDT", D("109.488"), D("32481.98"), D(btc_wallet)),
    ]
    account = Account("faq", "k", "s", balances={"USDT": Balance(D("1535443.01"))})
    account.settings = {p.symbol: Settings(margin_type) for p in held}
    account.positions = {(p.symbol, "BOTH"): p for p in held}
    return account, market


def test_the_published_cross_example() -> None:
    """Binance Support, liquidation price of USDⓈ-M contracts: printed to two decimals."""
    account, market = faq_example("CROSSED")
    eth, btc = account.positions.values()

    assert text8(maintenance(btc, market))[:-3] == "71200.81144"
    assert unrealized(btc, market).quantize(D("0.01")) == D("-56354.57")
    assert maintenance(eth, market).quantize(D("0.001")) == D("356512.508")
    assert unrealized(eth, market).quantize(D("0.01")) == D("-448192.89")
    assert (liquidation_price(eth, account, market) or D(0)).quantize(D("0.0001")) == D("1153.2565")
    assert (liquidation_price(btc, account, market) or D(0)).quantize(D("0.0001")) == D("26316.8933")


def test_the_published_isolated_example() -> None:
    """The same two, each alone with the whole wallet."""
    account, market = faq_example("ISOLATED", "1535443.01", "1535443.01")
    eth, btc = account.positions.values()

    assert (liquidation_price(eth, account, market) or D(0)).quantize(D("0.0001")) == D("1114.7850")
    assert (liquidation_price(btc, account, market) or D(0)).quantize(D("0.0001")) == D("18778.7259")


def single(quantity: str, entry: str, wallet: str, mark: str, symbol: str = "BTCUSDT") -> tuple[Account, Market]:
    """One isolated position under the default brackets."""
    held = defaults.position(symbol, quantity, entry, wallet)
    market = Market([Contract(symbol, D(mark), brackets=defaults.brackets_of(symbol))])
    return defaults.account("one", {"USDT": "0"}, [held], isolated=(symbol,)), market


def test_a_recorded_isolated_short_to_the_last_digit() -> None:
    """Binance printed 72670.46254980 and 0.00020000 for it, on 2024-07-20."""
    account, market = single("-0.002", "66351.2", "13.21988880", "66351.1")
    (position,) = account.open_positions()

    assert half_up8(liquidation_price(position, account, market) or D(0)) == D("72670.46254980")
    assert text8(unrealized(position, market)) == "0.00020000"


def test_the_bracket_is_the_one_at_the_liquidation_price() -> None:
    """100 BTC at 67000, 10x: bracket 4 at its liquidation price; bracket 1 would say 60542.17."""
    account, market = single("100", "67000", "670000", "67000")
    (position,) = account.open_positions()

    assert (liquidation_price(position, account, market) or D(0)).quantize(D("0.01")) == D("60787.88")


def test_a_well_funded_long_has_no_liquidation_price() -> None:
    """More collateral than notional."""
    account, market = single("1", "60000", "60000", "60000")
    (position,) = account.open_positions()

    assert liquidation_price(position, account, market) is None


@pytest.mark.parametrize(
    ("long", "short", "price"),
    [("1", "-0.995", "83612.04013378"), ("1", "-0.9", "43209.87654321"), ("1", "-1", "75000.00000000")],
)
def test_a_nearly_hedged_pair_may_be_liquidated_upwards(long: str, short: str, price: str) -> None:
    """Maintenance margin grows with the price on both legs. Worked: 1500 + 0.005 (p − 50000) = 0.01995 p, and so on."""
    market = Market([Contract("BTCUSDT", D(50000), brackets=flat_bracket("0.01", "0"))])
    legs = [
        defaults.position("BTCUSDT", long, "50000", side="LONG"),
        defaults.position("BTCUSDT", short, "50000", side="SHORT"),
    ]
    account = defaults.account("pair", {"USDT": "1500"}, legs, hedge=True)

    assert {half_up8(liquidation_price(leg, account, market) or D(0)) for leg in legs} == {D(price)}


def test_a_pool_with_nothing_left_has_the_highest_ratio() -> None:
    """Never negative."""
    account, market = single("1", "60000", "6000", "50000")

    (pool,) = pools(account, market)

    assert pool.balance == -4000
    assert pool.ratio == BANKRUPT_RATIO


def test_the_default_tables_have_the_published_amounts() -> None:
    """BTCUSDT's last, which all others add up to."""
    assert defaults.brackets_of("BTCUSDT")[-1].amount == 421_482_000
    assert defaults.brackets_of("ETHUSDT")[7].amount == 9_507_000
    assert defaults.brackets_of("BTCUSDC")[3].amount == 152_550
    assert defaults.brackets_of("DOGEUSDT")[4].amount == 16_280


@given(st.sampled_from(sorted(defaults.BRACKETS)), st.integers(0, 8))
def test_maintenance_margin_has_no_step_at_a_bracket(symbol: str, place: int) -> None:
    """Either bracket says the same at the edge."""
    brackets = ladder(defaults.BRACKETS[symbol])
    edge = brackets[place].cap

    assert maintenance_of(edge, brackets) == edge * brackets[place].rate - brackets[place].amount


@given(
    quantity=st.decimals("-500", "500", places=3).filter(lambda q: abs(q) > D("0.01")),
    entry=st.decimals("20000", "120000", places=1),
    leverage=st.integers(2, 100),
)
def test_at_the_liquidation_price_the_ratio_is_one(quantity: Decimal, entry: Decimal, leverage: int) -> None:
    """Price and ratio are computed apart from each other, and must agree."""
    wallet = trunc8(abs(quantity) * entry / leverage)
    account, market = single(str(quantity), str(entry), str(wallet), str(entry))
    (position,) = account.open_positions()
    price = liquidation_price(position, account, market)
    if price is None:
        return

    market["BTCUSDT"].mark = price
    (pool,) = pools(account, market)

    assert abs(pool.maintenance - pool.balance) < D("1e-15")


@given(st.decimals("-1e12", "1e12", places=12))
def test_numbers_are_cut_toward_zero_and_printed_plainly(value: Decimal) -> None:
    """No exponent, no minus zero."""
    text = text8(value)

    assert abs(D(text)) <= abs(value)
    assert abs(D(text) - value) < D("1e-8")
    assert "E" not in text.upper()
    assert text != "-0.00000000"
    assert "E" not in plain(value)
