"""The product's arithmetic against a reference written independently, in another number type, by another method."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.events import AssetRate, Bracket, Position, Side
from monitor.risk import EXACT
from monitor.risk.assessment import assess
from monitor.risk.bankruptcy import bankruptcy_price
from monitor.risk.margin import BracketTable, bracket_table
from monitor.risk.pool import AssetWallet, Pool
from monitor.risk.terms import Terms
from tests import reference as ref

D = Decimal


def decimals(low: str, high: str, places: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(D(low), D(high), places=places, allow_nan=False, allow_infinity=False)


@st.composite
def tables(draw: st.DrawFn) -> BracketTable:
    """Tables as the exchange makes them: rising rates, amounts that join; now and then one that does not join."""
    rates = sorted(draw(st.lists(st.integers(4, 500), min_size=1, max_size=6, unique=True)))
    floors = sorted(draw(st.lists(st.integers(1, 400), min_size=len(rates) - 1, max_size=len(rates) - 1, unique=True)))
    broken = draw(st.integers(0, 9)) == 0
    rows, amount, previous = [], D(0), D(0)
    for i, rate_mille in enumerate(rates):
        rate, floor = D(rate_mille) / 1000, D(floors[i - 1] * 5000 if i else 0)
        if i:
            amount += floor * (rate - previous)
            if broken:
                amount += draw(st.integers(-300, 300))
        rows.append(Bracket(i + 1, floor, rate, amount))
        previous = rate
    return bracket_table(rows)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, dict[str, Decimal], dict[str, BracketTable]]:
    symbols = ["AUSDT", "BUSDT", "CUSDT", "EUSDT"][: draw(st.integers(1, 4))]
    marks, brackets, positions = {}, {}, []
    for symbol in symbols:
        mark = draw(decimals("0.01", "90000", 4).filter(lambda m: m > 0))
        marks[symbol], brackets[symbol] = mark, draw(tables())
        hedged = draw(st.booleans())
        for side, sign in (
            ((Side.LONG, 1), (Side.SHORT, -1)) if hedged else ((Side.BOTH, draw(st.sampled_from([1, -1]))),)
        ):
            notional = draw(st.integers(10, 600_000))
            quantity = (D(notional) / mark).quantize(D("0.001")) or D("0.001")
            entry = (mark * draw(decimals("0.7", "1.4", 4))).quantize(D("0.00000001"))
            positions.append(Position(symbol, side, sign * quantity, entry, False, D(0), 0, "USDT"))
    wallet = draw(decimals("-100", "600000", 8))
    return Pool("a", "cross-usdt", "USDT", False, wallet, tuple(positions)), marks, brackets


def as_reference(pool: Pool, marks: dict[str, Decimal], brackets: dict[str, BracketTable]) -> ref.RefPool:
    return ref.RefPool(
        Fraction(pool.wallet_balance or 0),
        tuple(
            ref.RefPosition(
                p.symbol,
                Fraction(p.quantity),
                Fraction(p.entry_price),
                Fraction(marks[p.symbol]),
                tuple(
                    ref.RefBracket(Fraction(b.floor), Fraction(b.rate), Fraction(b.amount))
                    for b in brackets[p.symbol].brackets
                ),
            )
            for p in pool.positions
        ),
    )


def same(ours: Decimal | None, theirs: Fraction | None) -> bool:
    """Equal but for the last of 40 digits, which is where a quotient ends in Decimal."""
    if ours is None or theirs is None:
        return ours is None and theirs is None
    return abs(Fraction(ours) - theirs) <= abs(theirs) / 10**30 + Fraction(1, 10**30)


@given(pools())
@settings(max_examples=2000)
def test_risk_agrees_with_the_reference(case: tuple[Pool, dict[str, Decimal], dict[str, BracketTable]]) -> None:
    """A mistake in the arithmetic would have to be made twice, in two ways, to go unseen."""
    pool, marks, brackets = case
    expected = as_reference(pool, marks, brackets)
    with localcontext(EXACT):
        risk = assess(pool, Terms(marks, brackets))
        bankruptcy = {p.position.symbol: bankruptcy_price(risk, p.position.key) for p in risk.positions}

    assert same(risk.margin_balance, ref.margin_balance(expected))
    excess = ref.excess(expected, {})
    if ref.margin_balance(expected) > 0 and risk.maintenance_margin and risk.maintenance_margin > 0:
        assert same(risk.margin_ratio, ref.margin_ratio(expected))
    for p in risk.positions:
        below, above = ref.liquidation_prices(expected, p.position.symbol)
        assert same(p.liquidation.below, below)
        assert same(p.liquidation.above, above)
        low, high = ref.bankruptcy_prices(expected, p.position.symbol)
        found = bankruptcy[p.position.symbol]
        assert (found is None and low is None and high is None) or any(same(found, x) for x in (low, high) if x)
    if excess > 0:
        down, up = ref.market_distance(expected)
        assert same(risk.market_distance.below, down)
        assert same(risk.market_distance.above, up)
    else:
        assert risk.distance == 0


# ---- several assets as collateral ----

ASSETS = ("USDT", "USDC", "BTC", "BNFCR")


@st.composite
def shared_pools(draw: st.DrawFn) -> tuple[Pool, Terms]:
    """Pools of multi-assets mode: debts, hedged pairs, positions with different margin assets, rates at par or not."""
    names = ASSETS[: draw(st.integers(1, 4))]
    rates, wallets = {}, []
    for name in names:
        bid = draw(st.one_of(st.just(D(1)), decimals("0.5", "1.2", 4), decimals("1000", "90000", 8)))
        ask = draw(st.sampled_from([bid, bid * D("1.0025"), bid * D("1.1"), bid * D("1.5")]))
        rates[name] = AssetRate(bid, ask)
        worth = draw(st.one_of(st.just(D(0)), decimals("-20000", "200000", 2)))
        wallets.append(AssetWallet(name, (worth / bid).quantize(D("0.00000001"))))
    marks, brackets, positions = {}, {}, []
    for symbol in ("A", "B", "C", "E")[: draw(st.integers(1, 4))]:
        asset = draw(st.sampled_from(names))
        symbol += asset
        # A mark is in the margin asset: where that is dear, prices are small.
        mark = (draw(decimals("1", "90000", 2)) / rates[asset].bid).quantize(D("0.00000001"))
        marks[symbol], brackets[symbol] = mark, draw(tables())
        sides = (
            [(Side.LONG, 1), (Side.SHORT, -1)] if draw(st.booleans()) else [(Side.BOTH, draw(st.sampled_from([1, -1])))]
        )
        for side, sign in sides:
            notional = draw(st.integers(10, 600_000))
            quantity = (D(notional) / rates[asset].bid / mark).quantize(D("0.001")) or D("0.001")
            entry = (mark * draw(decimals("0.7", "1.4", 4))).quantize(D("0.00000001"))
            positions.append(Position(symbol, side, sign * quantity, entry, False, D(0), 0, asset))
    pool = Pool("a", "multi-assets", "USD", False, D(0), tuple(positions), tuple(wallets))
    return pool, Terms(marks, brackets, rates)


def as_shared(pool: Pool, terms: Terms) -> ref.RefShared:
    def positions(asset: str) -> tuple[ref.RefPosition, ...]:
        held = tuple(p for p in pool.positions if p.margin_asset == asset)
        return as_reference(Pool("a", "", asset, False, D(0), held), dict(terms.marks), dict(terms.tables)).positions

    def one(wallet: AssetWallet) -> ref.RefAsset:
        rate = terms.rates[wallet.asset]
        balance, bid, ask = map(Fraction, (wallet.wallet_balance, rate.bid, rate.ask))
        return ref.RefAsset(balance, bid, ask, positions(wallet.asset))

    return ref.RefShared(tuple(map(one, pool.assets)))


@given(shared_pools())
@settings(max_examples=800)
def test_risk_with_several_assets_agrees_with_the_reference(case: tuple[Pool, Terms]) -> None:
    """Rates bend the balance where an asset comes to be owed; the two solve that in different ways."""
    pool, terms = case
    expected = as_shared(pool, terms)
    with localcontext(EXACT):
        risk = assess(pool, terms)
        bankruptcy = {p.position.symbol: bankruptcy_price(risk, p.position.key) for p in risk.positions}

    assert same(risk.margin_balance, ref.shared_balance(expected))
    assert same(risk.maintenance_margin, ref.shared_margin(expected))
    if ref.shared_margin(expected) > 0:
        assert same(risk.margin_ratio, ref.shared_ratio(expected))
    for p in risk.positions:
        below, above = ref.shared_liquidation_prices(expected, p.position.symbol)
        assert same(p.liquidation.below, below)
        assert same(p.liquidation.above, above)
        if ref.shared_balance(expected) == 0:
            continue  # bankrupt here and, of an even hedge, at every price: there is no one price to name
        prices = [price for price in ref.shared_bankruptcy_prices(expected, p.position.symbol) if price is not None]
        mark = Fraction(terms.marks[p.position.symbol])
        assert same(bankruptcy[p.position.symbol], min(prices, key=lambda price: abs(price - mark), default=None))
    if ref.shared_excess(expected, {}) > 0:
        down, up = ref.shared_market_distance(expected)
        assert same(risk.market_distance.below, down)
        assert same(risk.market_distance.above, up)
    else:
        assert risk.distance == 0
