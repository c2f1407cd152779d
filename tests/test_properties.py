"""What holds of every pool, whatever is in it: linear and inverse, isolated, cross and with several assets."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from monitor.effects import Story
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    AccountModeRead,
    AssetRate,
    Balance,
    Bracket,
    BracketsRead,
    Event,
    Fill,
    Position,
    PositionKey,
    Side,
)
from monitor.judges.funding import _hardly_moves, _has_no_price
from monitor.message import Identity
from monitor.payloads import stories
from monitor.payloads.figures import Rounding
from monitor.risk import EXACT
from monitor.risk.advice import TRANSFER_STEP, margin_to_add, quantity_to_reduce
from monitor.risk.assessment import assess, with_wallets
from monitor.risk.attribution import Baseline, adverse, move_between, moves
from monitor.risk.funding import Funding, after, forecast
from monitor.risk.margin import BracketTable, bracket_table
from monitor.risk.pool import AssetWallet, Pool
from monitor.risk.report import PoolRisk
from monitor.risk.scenario import ratio_after
from monitor.risk.terms import Terms
from monitor.rules import FundingForecastRule, RuleBook
from tests import make
from tests.test_multi_assets import Shared, margin_asset
from tests.watched import of_rule, row

D = Decimal
ZERO, ONE = D(0), D(1)
IDENTITY, ROUNDING = Identity("marginwatch", "vps1", "0.1.0", "boot", 0), Rounding(RuleBook())
LAST_DIGITS = D("1e-25")
"""Far below any digit that is printed, far above what forty digits lose."""

KINDS = ("linear", "inverse", "isolated", "isolated inverse", "shared")
SIZE = D(100)
"""Of an inverse contract (quote)."""


class Case(Struct, frozen=True):
    """A pool with what it is valued with."""

    pool: Pool
    terms: Terms

    def at(self, marks: Mapping[str, Decimal]) -> PoolRisk:
        """The pool at these marks, others at theirs."""
        return assess(self.pool, structs.replace(self.terms, marks={**self.terms.marks, **marks}))

    def ratio(self, marks: Mapping[str, Decimal]) -> Decimal:
        ratio = self.at(marks).margin_ratio
        assert ratio is not None
        return ratio

    @property
    def risk(self) -> PoolRisk:
        return self.at({})


def near(ours: Decimal | None, theirs: Decimal | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return abs(ours - theirs) <= LAST_DIGITS * max(ONE, abs(theirs))


# ---- any pool ----


@st.composite
def tables(draw: st.DrawFn, unit: Decimal) -> BracketTable:
    """Rising rates and amounts that join, as in every table that the exchange has published; floors in units."""
    rates = sorted(draw(st.lists(st.integers(4, 150), min_size=1, max_size=5, unique=True)))
    count = len(rates) - 1
    floors = [0, *sorted(draw(st.lists(st.integers(1, 60), min_size=count, max_size=count, unique=True)))]
    rows: list[Bracket] = []
    amount, previous = ZERO, ZERO
    for i, (floor, mille) in enumerate(zip(floors, rates, strict=True)):
        rate = D(mille) / 1000
        amount += floor * unit * (rate - previous) if i else ZERO
        rows.append(Bracket(i + 1, floor * unit, rate, amount))
        previous = rate
    return bracket_table(rows)


@st.composite
def legs(draw: st.DrawFn, symbol: str, asset: str, inverse: bool) -> tuple[list[Position], Decimal, BracketTable]:
    """The positions of one symbol, one or a hedged pair, now and then exactly at the edge of a bracket."""
    mark = draw(st.sampled_from([D("0.5"), D(2), D(50), D(3125), D(62500)]))
    table = draw(tables(D(1) if inverse else D(5000)))
    unit = SIZE / mark if inverse else mark
    sides = draw(st.sampled_from([[(Side.BOTH, 1)], [(Side.BOTH, -1)], [(Side.LONG, 1), (Side.SHORT, -1)]]))
    found = []
    for side, sign in sides:
        edges = [bracket.floor for bracket in table.brackets[1:]]
        edge = draw(st.one_of(st.none(), st.sampled_from(edges))) if edges else None
        if edge is not None:
            quantity = edge / unit  # every mark divides every edge
        else:
            quantity = D(draw(st.integers(1, 3000))) * (1 if inverse else D("0.01") if mark > 1000 else 1)
        entry = (mark * draw(st.integers(600, 1500)) / 1000).quantize(D("0.00000001"))
        size = SIZE if inverse else None
        found.append(Position(symbol, side, sign * quantity, entry, False, ZERO, 0, asset, size))
    return found, mark, table


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Case:
    """A pool that is not liquidated yet."""
    kind = draw(st.sampled_from(kinds))
    inverse, isolated = "inverse" in kind, "isolated" in kind
    names = ["USDT", "USDC", "BTC"][: draw(st.integers(1, 3))] if kind == "shared" else ["BTC" if inverse else "USDT"]
    marks, found, positions = {}, {}, []
    for symbol in ["A", "B", "C"][: 1 if isolated else draw(st.integers(1, 3))]:
        asset = draw(st.sampled_from(names))
        held, marks[symbol], found[symbol] = draw(legs(symbol, asset, inverse))
        positions += held[:1] if isolated else held
    with localcontext(EXACT):
        wallets, rates = {}, {}
        for name in names:
            own = [p for p in positions if p.margin_asset == name]
            empty = assess(Pool("a", "cross-x", name, False, ZERO, tuple(own)), Terms(marks, found))
            notional = sum((abs(p.notional or ZERO) for p in empty.positions), ZERO)
            lowest = -200 if kind == "shared" else 1
            part = D(draw(st.one_of(st.integers(lowest, 300), st.integers(300, 1500)))) / 1000
            cushion = part * (notional or D(5000)) + (empty.maintenance_margin or ZERO)
            wallets[name] = (cushion - (empty.unrealized_pnl or ZERO)).quantize(D("0.00000001"))
            bid = draw(st.sampled_from([ONE, D("0.9801"), D("1.2345678"), D("57123.45678901")]))
            rates[name] = AssetRate(bid, bid * draw(st.sampled_from([ONE, D("1.005"), D("1.2")])))
        if kind == "shared":
            assets = tuple(AssetWallet(name, wallets[name]) for name in sorted(names))
            case = Case(
                Pool("a", "multi-assets", "USD", False, ZERO, tuple(positions), assets), Terms(marks, found, rates)
            )
        else:
            [name] = names
            case = Case(Pool("a", "cross-x", name, isolated, wallets[name], tuple(positions)), Terms(marks, found))
        risk = case.risk
        assume(risk.margin_ratio is not None and 0 < risk.margin_ratio < 1)
    return case


# ---- where a pool is liquidated ----


@given(cases())
@settings(max_examples=500)
def test_at_the_liquidation_price_the_ratio_is_one_and_nowhere_nearer(case: Case) -> None:
    """Of every symbol, on both sides of its mark: the price is the first at which the exchange would act.

    Where there is no price on a side, however far the mark goes there, it would not act.
    """
    with localcontext(EXACT):
        for p in case.risk.positions:
            symbol, mark = p.position.symbol, p.mark_price
            assert mark is not None
            for price, farthest in ((p.liquidation.below, mark / 10**9), (p.liquidation.above, mark * 10**9)):
                if price is None:
                    steps = [mark * (farthest / mark) ** (D(i) / 12) for i in range(13)]
                else:
                    assert near(case.ratio({symbol: price}), ONE)
                    steps = [mark + (price - mark) * i / 12 for i in range(12)]
                assert all(case.ratio({symbol: step}) < 1 for step in steps)


@given(cases())
@settings(max_examples=500)
def test_the_market_distance_is_the_first_uniform_move_that_liquidates(case: Case) -> None:
    """The same where all marks move alike, which no single price tells."""
    with localcontext(EXACT):
        moves = case.risk.market_distance
        for distance, sign in ((moves.below, -1), (moves.above, 1)):
            end = distance if distance is not None else D("0.999") if sign < 0 else D(1000)
            ratios = [
                case.ratio({s: m * (1 + sign * end * i / 12) for s, m in case.terms.marks.items()}) for i in range(13)
            ]
            assert all(ratio < 1 for ratio in ratios[:-1])
            assert near(ratios[-1], ONE) if distance is not None else ratios[-1] < 1


@given(cases())
@settings(max_examples=200)
def test_the_distance_of_a_pool_is_the_smallest_that_there_is(case: Case) -> None:
    """An alarm goes by this one number."""
    with localcontext(EXACT):
        risk = case.risk
        found = [risk.market_distance.below, risk.market_distance.above, *(p.distance for p in risk.positions)]

        assert risk.distance == min((d for d in found if d is not None), default=None)
        assert risk.distance is None or risk.distance > 0


# ---- what would become of it ----


@given(cases())
@settings(max_examples=500)
def test_the_closest_position_is_the_one_that_is_found_by_looking_at_all(case: Case) -> None:
    """It is found first, and without solving for those that cannot be as near."""
    known = [p for p in case.risk.positions if p.distance is not None]

    closest = case.risk.closest

    if not known:
        assert closest is None
        return
    assert closest in known
    assert closest.distance == min(p.distance or ZERO for p in known)


@given(cases(), st.integers(0, 1500), st.integers(-1, 1))
@settings(max_examples=500)
def test_what_is_certainly_farther_than_a_distance_is_farther(case: Case, mille: int, digits: int) -> None:
    """Levels are left out where they are known not to be reached: round ones, and those right beside the distance."""
    with localcontext(EXACT):
        exact = case.risk.distance
        for distance in (D(mille) / 1000, (exact or ZERO) + digits * LAST_DIGITS):
            risk = case.risk
            if risk.is_beyond(distance):
                assert exact is None or exact > distance
            assert risk.is_nearer(distance) == (exact is not None and exact < distance)


@pytest.mark.parametrize(
    ("sides", "wallet", "below", "above"),
    [
        pytest.param([1], "1300", "0.1199999", "0.12", id="a long: 1200 of 10000"),
        pytest.param([1, 1], "2600", "0.1199999", "0.12", id="two longs that fall together: 2400 of 20000"),
        pytest.param([-1], "1312", "0.1199999", "0.12", id="a short, of which 1 % more is required: 1212 of 10100"),
        pytest.param([-1, -1], "2624", "0.1199999", "0.12", id="two shorts that rise together: 2424 of 20200"),
        pytest.param([1, -1], "1412", "0.1199999", "0.12", id="a hedge, of which one leg alone moves: 1212 of 10100"),
    ],
)
def test_a_pool_is_known_to_be_farther_than_almost_its_distance(
    sides: list[int], wallet: str, below: str, above: str
) -> None:
    """Positions of 10 at 1000, of which 1 % is required: with 100 less for each, the wallet is what may be lost."""
    held = [make.position(f"{'ABC'[i]}USDT", str(10 * side), "1000") for i, side in enumerate(sides)]
    symbols = [p.symbol for p in held]
    terms = Terms(dict.fromkeys(symbols, D(1000)), dict.fromkeys(symbols, make.table(("0", "0.01", "0"))))
    with localcontext(EXACT):
        risk = assess(make.pool(wallet, *held), terms)
    assert risk.distance is not None

    assert risk.is_beyond(D(below))
    assert not risk.is_beyond(D(above))
    assert not risk.is_nearer(risk.distance)
    assert risk.is_nearer(risk.distance + D("1e-12"))


@given(cases(), st.lists(st.integers(900, 1100), min_size=3, max_size=3))
def test_moves_from_known_prices_are_those_that_are_found_from_the_pools(case: Case, milles: list[int]) -> None:
    """What was told and the present risk are at hand when marks alone have moved a price."""
    marks = {symbol: mark * m / 1000 for (symbol, mark), m in zip(case.terms.marks.items(), milles, strict=False)}
    present = structs.replace(case.terms, marks=marks)
    baseline = Baseline(case.pool, case.terms)
    with localcontext(EXACT):
        found = moves([baseline], [], present)
        known = moves([baseline], [], present, assess(case.pool, present), case.risk.printed_prices)

    assert repr(known) == repr(found)


@given(cases(("linear", "isolated")), st.integers(1, 2000))
@settings(max_examples=500)
def test_a_price_that_is_withstood_lies_before_the_liquidation_price(case: Case, mille: int) -> None:
    """What is known without solving for the price agrees with what the solver finds, and says enough."""
    risk = case.risk
    with localcontext(EXACT):
        for i, p in enumerate(risk.positions):
            mark = p.mark_price or ZERO
            price = mark - mark * mille / 1000 if p.is_long else mark + mark * mille / 1000
            beyond = p.liquidation_price is None or abs(p.liquidation_price - mark) > abs(price - mark)

            withstood = risk.withstands(i, price)

            assert withstood == (risk.is_gentle and price > 0 and beyond)


@given(cases(("linear",)), st.integers(-50, 50), st.sampled_from([D("0.0001"), D("0.005"), D("0.1")]))
@settings(max_examples=500)
def test_a_funding_that_hardly_moves_a_price_moves_it_by_less_than_a_notice(
    case: Case, mille: int, notice_at: Decimal
) -> None:
    """What is known without solving for the price before and after must not keep a forecast from being told."""
    risk, rule = case.risk, FundingForecastRule(notice_at=notice_at)
    with localcontext(EXACT):
        wallet = (case.pool.wallet_balance or ZERO) * (1000 + mille) / 1000
        then = assess(case.pool.with_wallets({case.pool.asset: wallet}), case.terms)
        for i, mark in enumerate(then.marks):
            if mark is not None and _hardly_moves(i, risk, then, rule):
                assert adverse(move_between(risk, then, i), mark) < notice_at * mark


_NOTHING_LEFT_AT_ZERO = Case(
    make.pool("145.44", make.position("A", "220", "0.3"), make.position("B", "630", "0.3")),
    Terms(dict.fromkeys("AB", D("0.5")), {"A": make.table(("0", "0.004", "0")), "B": make.table(("0", "0.15", "0"))}),
)


@given(cases(("linear",)))
@example(_NOTHING_LEFT_AT_ZERO)
@settings(max_examples=300)
def test_a_long_that_may_become_worthless_has_no_liquidation_price(case: Case) -> None:
    """What is known without solving for it must keep no forecast from being told; known of each gentle pool."""
    with localcontext(EXACT):
        for i, p in enumerate(case.pool.positions):
            found = _has_no_price(i, case.risk)

            assert found == (case.risk.is_gentle and p.quantity > 0 and case.risk.price(i) is None)


@given(cases(), st.integers(-900, 900))
@settings(max_examples=200)
def test_other_wallets_make_of_a_pool_what_it_would_be_with_them(case: Case, mille: int) -> None:
    """To the last digit, though its positions are not looked at again."""
    with localcontext(EXACT):
        wallets = {asset: balance * (1000 + mille) / 1000 for asset, balance in (case.pool.wallets or {}).items()}

        assert repr(with_wallets(case.risk, wallets, case.terms)) == repr(
            assess(case.pool.with_wallets(wallets), case.terms)
        )


@given(cases(), st.integers(-900, 3000))
@settings(max_examples=200)
def test_a_step_of_the_ladder_is_the_ratio_at_the_moved_marks(case: Case, mille: int) -> None:
    """What is published of a fall of 10 % is what will be published once it has come."""
    with localcontext(EXACT):
        move = D(mille) / 1000
        expected = case.ratio({symbol: mark * (1 + move) for symbol, mark in case.terms.marks.items()})

        assert ratio_after(case.risk, move, case.terms) == expected


@given(cases(), st.lists(st.integers(-30, 30), min_size=3, max_size=3))
@settings(max_examples=200)
def test_the_forecast_is_the_pool_once_its_funding_is_paid(case: Case, rates: list[int]) -> None:
    """Every payment in its own asset: what is paid out of a debt costs the ask rate."""
    with localcontext(EXACT):
        risk = case.risk
        symbols = sorted(case.terms.marks)
        coming = forecast(risk, {s: Funding(D(rate) / 10_000, 1) for s, rate in zip(symbols, rates, strict=False)})
        assert coming is not None
        wallets = case.pool.wallets or {}
        for p in case.pool.positions:
            wallets[case.pool.margin_asset(p)] += coming.payments[p.key]
        paid = assess(case.pool.with_wallets(wallets), case.terms)

        assert near(coming.margin_ratio, paid.margin_ratio)
        assert paid.margin_balance is not None
        assert risk.margin_balance is not None
        assert near(coming.amount, paid.margin_balance - risk.margin_balance)
        assert after(risk, coming, case.terms) == paid


# ---- what would put it right ----

_TARGETS = st.integers(1, 99).map(lambda n: D(n) / 100)


@given(cases(), _TARGETS)
@settings(max_examples=500)
def test_the_advised_margin_reaches_the_target_and_a_last_digit_less_does_not(case: Case, target: Decimal) -> None:
    """In whichever asset it is added: debts are paid off first, then it counts at the bid rate."""
    with localcontext(EXACT):
        risk = case.risk
        for asset, wallet in (case.pool.wallets or {}).items():
            amount = margin_to_add(risk, target, asset)
            if amount is None:
                assert (risk.margin_ratio or ZERO) <= target
                continue

            def with_margin(added: Decimal, asset: str = asset, wallet: Decimal = wallet) -> Decimal:
                pool = case.pool.with_wallets({**(case.pool.wallets or {}), asset: wallet + added})
                return structs.replace(case, pool=pool).ratio({})

            lost = LAST_DIGITS if case.pool.positions[0].contract_size else ZERO  # of an inverse PnL, a quotient
            assert with_margin(amount) <= target + lost
            assert with_margin(amount - TRANSFER_STEP) > target - lost


@given(cases(), _TARGETS, st.sampled_from([D("0.001"), D("0.1"), D(1), None]))
@settings(max_examples=500)
def test_the_advised_reduction_reaches_the_target_and_a_lot_less_does_not(
    case: Case, target: Decimal, step: Decimal | None
) -> None:
    """Closed at the mark, of any position, of one leg of a pair; None: not even all of it would be enough."""
    with localcontext(EXACT):
        risk = case.risk
        for held in risk.positions:
            position = held.position
            sign = 1 if position.quantity > 0 else -1

            def without(closed: Decimal, position: Position = position, sign: int = sign) -> Decimal:
                left = structs.replace(position, quantity=position.quantity - sign * closed)
                others = [p for p in case.pool.positions if p.key != position.key]
                realized = _pnl(case, position) - _pnl(case, left)
                asset = case.pool.margin_asset(position)
                wallets = case.pool.wallets or {}
                pool = case.pool.with_wallets({**wallets, asset: wallets[asset] + realized})
                positions = tuple(p for p in (*others, left) if p.quantity)
                return structs.replace(case, pool=structs.replace(pool, positions=positions)).ratio({})

            quantity = quantity_to_reduce(risk, held, target, case.terms.tables[position.symbol], step)
            whole = abs(position.quantity)
            if quantity is None:
                assert (risk.margin_ratio or ZERO) <= target + LAST_DIGITS or without(whole) > target
                continue
            assert 0 < quantity <= whole
            assert quantity == whole or not step or quantity % step == 0
            lost = LAST_DIGITS if position.contract_size else ZERO  # of an inverse PnL, a quotient
            assert without(quantity) <= target + LAST_DIGITS
            assert without(max(ZERO, quantity - (step or TRANSFER_STEP))) > target - lost


def _pnl(case: Case, position: Position) -> Decimal:
    """Unrealized PnL at the mark."""
    mark = case.terms.marks[position.symbol]
    if position.contract_size is None:
        return position.quantity * (mark - position.entry_price)
    return position.quantity * position.contract_size * (1 / position.entry_price - 1 / mark)


# ---- what does not depend on the size of things ----

_FACTORS = st.sampled_from([D("0.001"), D("0.5"), D(3), D(10**6)])


def _table(table: BracketTable, by: Decimal) -> BracketTable:
    return bracket_table([Bracket(b.number, b.floor * by, b.rate, b.amount * by) for b in table.brackets])


def _same_risk(ours: PoolRisk, theirs: PoolRisk, money: Decimal, prices: Decimal) -> None:
    """All amounts of money so many times as large, all prices so many times as high, fractions the same."""
    assert near(ours.margin_ratio, theirs.margin_ratio)
    assert near(ours.distance, theirs.distance)
    assert ours.margin_balance is not None
    assert near(ours.margin_balance / money, theirs.margin_balance)
    assert near((ours.maintenance_margin or ZERO) / money, theirs.maintenance_margin)
    for one, other in zip(ours.positions, theirs.positions, strict=True):
        for a, b in (
            (one.liquidation.below, other.liquidation.below),
            (one.liquidation.above, other.liquidation.above),
        ):
            assert near(None if a is None else a / prices, b)


@given(cases(), _FACTORS)
@settings(max_examples=200)
def test_an_account_so_many_times_as_large_has_the_same_prices_and_ratios(case: Case, by: Decimal) -> None:
    """Quantities, wallets and brackets alike: what is money scales, what is a fraction or a price does not."""
    with localcontext(EXACT):
        wallets = {asset: wallet * by for asset, wallet in (case.pool.wallets or {}).items()}
        positions = tuple(structs.replace(p, quantity=p.quantity * by) for p in case.pool.positions)
        pool = structs.replace(case.pool.with_wallets(wallets), positions=positions)
        found = {symbol: _table(table, by) for symbol, table in case.terms.tables.items()}

        scaled = assess(pool, structs.replace(case.terms, tables=found))

        _same_risk(scaled, case.risk, by, ONE)


@given(cases(("linear", "isolated", "shared")), _FACTORS)
@settings(max_examples=200)
def test_another_unit_of_money_changes_nothing_but_the_unit(case: Case, by: Decimal) -> None:
    """Prices, wallets and brackets in cents instead of dollars."""
    with localcontext(EXACT):
        wallets = {asset: wallet * by for asset, wallet in (case.pool.wallets or {}).items()}
        positions = tuple(structs.replace(p, entry_price=p.entry_price * by) for p in case.pool.positions)
        pool = structs.replace(case.pool.with_wallets(wallets), positions=positions)
        found = {symbol: _table(table, by) for symbol, table in case.terms.tables.items()}
        marks = {symbol: mark * by for symbol, mark in case.terms.marks.items()}

        scaled = assess(pool, Terms(marks, found, case.terms.rates))

        _same_risk(scaled, case.risk, by, by)


@given(cases(("shared",)), _FACTORS)
@settings(max_examples=200)
def test_rates_in_another_currency_change_nothing_but_the_sums(case: Case, by: Decimal) -> None:
    """What all assets are valued in is in no ratio and no price."""
    with localcontext(EXACT):
        rates = {asset: AssetRate(rate.bid * by, rate.ask * by) for asset, rate in case.terms.rates.items()}

        _same_risk(assess(case.pool, structs.replace(case.terms, rates=rates)), case.risk, by, ONE)


@given(st.data())
@settings(max_examples=200)
def test_a_position_split_over_both_legs_of_a_hedge(data: st.DataObject) -> None:
    """Half of it long, half of it short: both legs together have one liquidation price, and each its own bracket.

    The PnL of the one is the loss of the other, so the margin balance is the same at every mark. Maintenance margin is
    owed for both, each by the bracket of its own half: never more than for the whole on one side, less once the whole
    is beyond the first bracket, and equal below. It grows with the price: a fall cannot liquidate the pair, a rise can,
    at the price at which both margins are all that is there.
    """
    with localcontext(EXACT):
        table = data.draw(tables(D(5000)))
        half, entry = D(data.draw(st.integers(1, 4000))) / 100, D(data.draw(st.integers(500, 2000)))
        mark, wallet = D(1000), D(data.draw(st.integers(1, 100_000)))
        terms = Terms({"A": mark}, {"A": table})
        pair = [Position("A", s, q, entry, False, ZERO, 0, "USDT") for s, q in ((Side.LONG, half), (Side.SHORT, -half))]
        hedged = assess(Pool("a", "cross-usdt", "USDT", False, wallet, tuple(pair)), terms)
        whole = structs.replace(pair[0], side=Side.BOTH, quantity=2 * half, entry_price=mark)
        one = assess(Pool("a", "cross-usdt", "USDT", False, wallet, (whole,)), terms)
        long, short = hedged.positions

        assert hedged.margin_balance == wallet
        assert long.liquidation == short.liquidation
        assert long.maintenance_margin == short.maintenance_margin == table.maintenance_margin(half * mark)
        assert hedged.maintenance_margin is not None
        assert one.maintenance_margin is not None
        assert hedged.maintenance_margin <= one.maintenance_margin
        in_first = len(table.brackets) == 1 or 2 * half * mark <= table.brackets[1].floor
        assert (hedged.maintenance_margin == one.maintenance_margin) == in_first
        if hedged.maintenance_margin < wallet:
            assert long.liquidation.below is None
            assert long.liquidation.above is not None
            assert near(2 * table.maintenance_margin(half * long.liquidation.above), wallet)


# ---- why a price moved ----

_SYMBOLS = ("BTCUSDT", "ETHUSDT", "ETHUSDC", "SOLUSDT")
_ASSETS = ("USDT", "USDC", "BTC")
_KINDS = (
    "FUNDING_FEE",
    "DEPOSIT",
    "WITHDRAW",
    "MARGIN_TRANSFER",
    "ORDER",
    "ORDER",
    "ORDER with fill",
    "close",
    "AUTO_EXCHANGE",
    "INSURANCE_CLEAR",
    "snapshot",
    "brackets",
    "mark",
    "rate",
    "switch",
    "wait",
)
_HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(_KINDS),
        st.sampled_from(_SYMBOLS),
        st.sampled_from(_ASSETS),
        st.integers(-200_000, 200_000).map(lambda n: D(n) / 100),
        st.integers(-3, 3).map(D),
    ),
    min_size=1,
    max_size=25,
)


class Trader:
    """An account to which things happen; SOLUSDT is isolated, all else is cross."""

    def __init__(self, multi_assets: bool) -> None:
        self.core = Shared()
        self.parted: set[PositionKey] = set()
        self.multi_assets = multi_assets
        rows = [
            row("BTCUSDT", "1", "50000", isolated=False),
            row("ETHUSDT", "-5", "3000", isolated=False),
            row("ETHUSDC", "3", "3000", isolated=False, asset="USDC"),
            row("SOLUSDT", "10", "150", isolated=True, isolated_wallet="400"),
        ]
        rates = {"USDT": ("0.9801", "0.99495"), "USDC": ("1", "1"), "BTC": ("47500", "52500")}
        wallets = {"USDT": "20000", "USDC": "5000", "BTC": "0.1"}
        self.core.start(wallets, rates, *rows, multi_assets=multi_assets)
        self._stories = self.core.effects_told()

    def told(self) -> list[Story]:
        """What has been told since this was last asked."""
        stories, self._stories = self._stories, []
        return stories

    def happens(self, kind: str, symbol: str, asset: str, money: Decimal, size: Decimal) -> None:
        core, after = self.core, 61.0 if kind == "wait" else 1.0
        at = core.now.wall_ms + round(after * 1000)
        amount = money / 50_000 if asset == "BTC" else money
        events: list[Event] = []
        if kind == "mark":
            core.marks[symbol] *= 1 + money / 10_000
        elif kind == "rate":
            bid = D(core.rates[asset][0]) * (1 + money / 10_000)
            core.rates[asset] = (f"{bid:f}", f"{bid * D('1.05'):f}")
        elif kind == "brackets":
            rate = D("0.004") + abs(size) / 100
            events = [BracketsRead("main", {symbol: (Bracket(1, ZERO, rate, ZERO),)})]
        elif kind == "switch":
            self.multi_assets = not self.multi_assets
            read = AccountModeRead("main", False, self.multi_assets, at)
            pushed = AccountModeChanged("main", self.multi_assets, at)
            events = [pushed, *([read, *core.snapshot()] if size > 0 else [])]
        elif kind == "snapshot":
            core.wallets[asset] += amount
            events = core.snapshot()
        elif kind in ("ORDER", "ORDER with fill", "close"):
            events = self.trades(symbol, size, at, kind)
        elif kind == "MARGIN_TRANSFER":
            held = core.rows["SOLUSDT", Side.BOTH]
            if held.quantity:
                core.wallets["USDT"] -= money / 10
                core.rows["SOLUSDT", Side.BOTH] = held = structs.replace(
                    held, isolated_wallet=held.isolated_wallet + money / 10, at_ms=at
                )
                events = [self.changed("MARGIN_TRANSFER", at, ("USDT",), held)]
        elif kind == "AUTO_EXCHANGE":
            core.wallets["BTC"] -= abs(money) / 50_000
            core.wallets[asset] += abs(money) * D("0.95") if asset != "BTC" else ZERO
            events = [self.changed(kind, at, ("BTC", asset))]
        elif kind != "wait":
            asset = margin_asset(symbol) if kind == "FUNDING_FEE" else asset
            core.wallets[asset] += amount if asset == "BTC" else money / 10
            named = {asset: f"{core.wallets[asset]:f}"}
            events = [core.money(kind, symbol if kind == "FUNDING_FEE" else None, **named)]
        self._stories += core.second(*events, after=after)

    def trades(self, symbol: str, size: Decimal, at: int, kind: str) -> list[Event]:
        """A fill at the mark, or the close of all; what opens or flips does so at the mark."""
        core = self.core
        held = core.rows[symbol, Side.BOTH]
        quantity = ZERO if kind == "close" else held.quantity + size
        kept = quantity * held.quantity > 0
        if held.quantity and not kept:
            self.parted.add(held.key)
        entry = held.entry_price if kept else core.marks[symbol].quantize(D("0.00000001"))
        isolated_wallet = D(200) if held.isolated and quantity else ZERO
        now = structs.replace(held, quantity=quantity, entry_price=entry, isolated_wallet=isolated_wallet, at_ms=at)
        core.rows[symbol, Side.BOTH] = now
        asset = margin_asset(symbol)
        realized, fee = size * 7, abs(size) / 3
        core.wallets[asset] += (realized - fee).quantize(D("0.00000001"))
        fill = Fill("main", symbol, Side.BOTH, size or ONE, core.marks[symbol], realized, fee, asset, None, 1, 1, at)
        change = self.changed("ORDER", at, (asset,), now)
        return [change, fill] if kind == "ORDER with fill" else [change]

    def changed(self, reason: str, at: int, assets: tuple[str, ...], *rows: Position) -> AccountChanged:
        wallets = self.core.wallets
        balances = tuple(Balance(asset, wallets[asset], wallets[asset], at) for asset in dict.fromkeys(assets))
        return AccountChanged("main", reason, balances, rows, None, {}, at)


@given(_HAPPENINGS, st.booleans())
@settings(max_examples=400)
def test_causes_sum_to_the_move_and_each_story_begins_where_the_last_one_ended(
    happened: list[tuple[str, str, str, Decimal, Decimal]], multi_assets: bool
) -> None:
    """Whatever happens, in any order: nothing of a price's way is told twice, and nothing is left out.

    A position that was closed or turned in between is another one: it may begin without a price.
    """
    trader = Trader(multi_assets)
    last: dict[PositionKey, Decimal | None] = {}
    for one in [*happened, ("wait", "BTCUSDT", "BTC", ZERO, ZERO)]:
        trader.happens(*one)
        for story in of_rule(trader.told(), "liquidation_price_moved"):
            for move in (one_move.move for one_move in story.moves):
                if move.opened:
                    assert move.before is None
                elif move.before is not None or move.key not in trader.parted:
                    assert move.before == last.get(move.key, move.before)
                if move.before is not None and move.after is not None:
                    assert sum((c.moved or ZERO for c in move.causes), ZERO) == move.after - move.before
                last[move.key] = move.after
                trader.parted.discard(move.key)
            _adds_up_as_printed(stories.event(story, IDENTITY, ROUNDING))


def _adds_up_as_printed(body: Mapping[str, Any]) -> None:
    before, after = (body[when]["liquidation_price"] for when in ("before", "after"))
    if before is not None and after is not None:
        moved = [D(cause["moved"]) for cause in body["cause"] if cause["moved"] is not None]
        assert sum(moved, ZERO) == D(after) - D(before)
