"""Where a pool is liquidated: the edges of the solver. `test_reference_agreement.py` holds the broad middle."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.events import AssetRate, PositionKey, Side
from monitor.risk import EXACT
from monitor.risk.assessment import assess
from monitor.risk.bankruptcy import bankruptcy_price
from monitor.risk.collateral import valued
from monitor.risk.liquidation import Crossings, Leg, crossings
from monitor.risk.margin import BracketTable, margin_ratio
from monitor.risk.report import PoolRisk
from monitor.risk.scenario import ratio_after
from monitor.risk.terms import Terms
from tests.make import pool, position, table

D = Decimal
FLAT = table(("0", "0.01", "0"))
RISING = table(("0", "0.01", "0"), ("10000", "0.05", "400"))
DEEP = table(("0", "0.004", "0"), ("10000", "0.01", "60"), ("50000", "0.1", "4560"), ("2500000", "0.5", "1004560"))
JUMPING = table(("0", "0.01", "0"), ("10000", "0.05", "0"))  # 100 at the edge from below, 500 from above


def risk_of(
    wallet: str, *held: tuple[str, str], mark: str = "1000", brackets: BracketTable = FLAT, hedge: bool = False
) -> PoolRisk:
    """A pool of one symbol, of (quantity, entry)."""
    sides = [Side.LONG, Side.SHORT] if hedge else [Side.BOTH]
    positions = [position("AUSDT", q, e, side=side) for (q, e), side in zip(held, sides, strict=True)]
    with localcontext(EXACT):
        return assess(pool(wallet, *positions), Terms({"AUSDT": D(mark)}, {"AUSDT": brackets}))


def prices(risk: PoolRisk) -> tuple[Decimal | None, Decimal | None]:
    found = risk.positions[0].liquidation
    return found.below, found.above


# ---- one leg ----


@given(
    st.sampled_from((FLAT, RISING, JUMPING, DEEP)),
    st.sampled_from((1, 7, 10, 250)),
    st.sampled_from((1, -1)),
    st.sampled_from(("0.5", "40", "1000", "1428.5714285", "5000", "1000000")),
    st.one_of(st.integers(-30_000, 3_000_000).map(D), st.sampled_from((10_000, 50_000, 2_500_000)).map(D)),
)
def test_one_leg_is_solved_as_it_is_beside_another_that_is_nothing(
    brackets: BracketTable, size: int, sign: int, now: str, notional: Decimal
) -> None:
    """Wherever the price is, and wherever the excess is used up: in a bracket, at an edge, nowhere."""
    leg = Leg(D(sign * size), D(-sign * size * 1000), brackets)
    with localcontext(EXACT):
        base = brackets.maintenance_margin(notional) - sign * notional - leg.offset
        alone = crossings([leg], base, D(now))
        beside = crossings([leg, Leg(D(0), D(0), FLAT)], base, D(now))
        for one, other in zip((alone.below, alone.above), (beside.below, beside.above), strict=True):
            assert (one is None) == (other is None)
            assert one is None or other is None or abs(one - other) <= D("1e-34") * other


# ---- none, and past ----


def test_a_long_with_all_its_cost_as_collateral_has_no_price() -> None:
    """The exchange prints "0" for it; we say none, and why."""
    risk = risk_of("10000", ("10", "1000"))

    assert prices(risk) == (None, None)
    assert risk.positions[0].reason == "safe_at_every_price"
    assert (risk.distance, risk.closest) == (None, None)


def test_a_short_has_a_price_whatever_its_collateral() -> None:
    """A price can rise without end: (1000000 + 10000) ÷ 10.1."""
    risk = risk_of("1000000", ("-10", "1000"))
    assert prices(risk) == (None, D(100_000))


def test_a_long_is_liquidated_where_excess_is_zero() -> None:
    """(10000 − 1000) ÷ (10 × 0.99) = 909.0909…"""
    risk = risk_of("1000", ("10", "1000"))
    below, above = prices(risk)

    assert above is None
    assert below is not None
    assert below.quantize(D("0.00000001")) == D("909.09090909")
    assert risk.positions[0].liquidation_price == below


def test_a_pool_at_its_liquidation_price_is_liquidated() -> None:
    """Ratio 1 is the level, not a step before it: distance 0 on the spot."""
    risk = risk_of("100", ("10", "1000"))  # maintenance 100, margin balance 100

    assert risk.margin_ratio == 1
    assert risk.distance == 0
    assert risk.positions[0].liquidation_price == 1000


@pytest.mark.parametrize(("wallet", "bankrupt"), [("50", False), ("0", True), ("-1", True)])
def test_past_liquidation_the_distance_is_zero_and_the_ratio_capped(wallet: str, bankrupt: bool) -> None:
    """Never a negative ratio, never a distance that looks like safety."""
    risk = risk_of(wallet, ("10", "1000"))

    assert risk.distance == 0
    assert risk.bankrupt is bankrupt
    assert risk.margin_ratio == (10 if bankrupt else 2)
    assert risk.market_distance == Crossings(None, None)


def test_a_balance_that_is_gone_is_past_liquidation_whatever_the_brackets_say() -> None:
    """100 × 0.01 − 50 is a maintenance margin below nothing; −20 is "more" than that, and yet no distance is left."""
    terms = Terms({"AUSDT": D(100)}, {"AUSDT": table(("0", "0.01", "50"))})
    with localcontext(EXACT):
        risk = assess(pool("-20", position("AUSDT", "1", "100")), terms)

    assert (risk.margin_ratio, risk.bankrupt, risk.is_past, risk.distance) == (D(10), True, True, D(0))


def test_a_pool_under_water_at_every_price_says_so() -> None:
    """A hedged pair whose loss is locked in: no price helps, and "none" must not read as safe."""
    risk = risk_of("-500", ("1", "1000"), ("-1", "1000"), hedge=True)

    assert prices(risk) == (None, None)
    assert risk.positions[0].reason == "liquidated_at_every_price"
    assert risk.distance == 0
    assert risk.bankrupt


def test_without_positions_nothing_is_required() -> None:
    """An empty pool has ratio 0 and no distance, even with a debt."""
    with localcontext(EXACT):
        assert assess(pool("100"), Terms({}, {})).margin_ratio == 0
    assert margin_ratio(D(0), D(-1)) == 10
    assert margin_ratio(D(1), D(0)) == 10
    assert margin_ratio(D(0), D(0)) == 0


# ---- brackets ----


def test_the_price_and_its_bracket_agree() -> None:
    """At 1200 the long is in bracket 2 (notional 12000); at its price it is in bracket 1, whose rate then counts."""
    risk = risk_of("1000", ("10", "1000"), mark="1200", brackets=RISING)
    assert risk.positions[0].bracket == RISING.brackets[1]
    assert risk.maintenance_margin == 200  # 12000 × 0.05 − 400

    below, _ = prices(risk)
    assert below is not None
    assert below.quantize(D("0.00000001")) == D("909.09090909")


def test_a_root_exactly_on_an_edge_is_found() -> None:
    """Wallet 100 meets the 100 of maintenance just where the notional is 10000: 1000, in either bracket."""
    risk = risk_of("100", ("10", "1000"), mark="1100", brackets=RISING)
    assert prices(risk) == (D(1000), None)

    short = risk_of("100", ("-10", "1000"), mark="990", brackets=RISING)
    assert prices(short) == (None, D(1000))


def test_an_edge_belongs_to_the_lower_bracket() -> None:
    """As on the exchange: `(floor, cap]`."""
    assert JUMPING.maintenance_margin(D(10_000)) == 100
    assert JUMPING.maintenance_margin(D("10000.0001")) == D("500.000005")
    assert not JUMPING.convex


def test_nothing_needs_no_margin() -> None:
    """It is below every edge, not past the last one, whose amount would count as margin that is there."""
    assert RISING.maintenance_margin(D(0)) == 0


def test_a_table_that_jumps_liquidates_at_the_jump() -> None:
    """A short with an excess of 300 before the edge and −100 after it is liquidated on crossing it."""
    risk = risk_of("400", ("-10", "1000"), mark="990", brackets=JUMPING)
    assert prices(risk) == (None, D(1000))


def test_a_table_that_jumps_may_save_below_the_edge_and_still_has_the_first_price() -> None:
    """A long in the upper bracket meets zero there first, though just below the edge it would be solvent again."""
    risk = risk_of("450", ("10", "1000"), mark="1100", brackets=JUMPING)
    below, above = prices(risk)

    # (10000 − 450) ÷ (10 × 0.95) = 1005.263…
    assert above is None
    assert below is not None
    assert below.quantize(D("0.000001")) == D("1005.263158")


def test_a_debt_is_met_behind_the_edge_of_a_bracket() -> None:
    """An asset that counts for 0.9, and costs 1.1 once the long has lost more than the 100 of it: 9000 beside it would
    outlast any fall if the debt cost no more than the asset counts for."""
    with localcontext(EXACT):
        legs, still = valued([Leg(D(10), D(-10_000), RISING)], D(100), AssetRate(D("0.9"), D("1.1")))
        found = crossings(legs, 9000 + still, D(1100))

    # 9000 + 1.1 × (100 + 10 × (t − 1000) − 0.01 × 10 t) = 0
    assert found.above is None
    assert found.below is not None
    assert found.below.quantize(D("0.00000001")) == D("173.55371901")


def test_the_next_bracket_is_so_much_notional_away() -> None:
    """Published as room_to_next; the last bracket has no next."""
    assert risk_of("1000", ("3", "1000"), brackets=RISING).positions[0].room_to_next == 7000
    assert risk_of("99000", ("30", "1000"), brackets=RISING).positions[0].room_to_next is None


# ---- hedged pairs ----


def test_a_hedged_pair_has_a_price_on_either_side() -> None:
    """Long 10, short 9: falling costs 1 a point net; balanced, rising costs maintenance on 20 and earns nothing."""
    risk = risk_of("300", ("10", "1000"), ("-9", "1000"), hedge=True)
    below, above = prices(risk)

    # down: 300 + (t − 1000) = 0.19 t → t = 700 ÷ 0.81; up: slope 0.81 > 0, so never
    assert below is not None
    assert below.quantize(D("0.000001")) == D("864.197531")
    assert above is None

    balanced = risk_of("300", ("10", "1000"), ("-10", "1000"), hedge=True)
    assert prices(balanced) == (None, D(1500))  # 300 = 0.2 t

    leaning = risk_of("190.5", ("10", "1000"), ("-10", "990"), mark="900", brackets=RISING, hedge=True)
    # locked in: 10 × 1000 − 10 × 990 = −100, so 90.5 against 0.2 t: already past at 900
    assert leaning.distance == 0
    assert leaning.margin_ratio is not None
    assert leaning.margin_ratio.quantize(D("0.000001")) == D("1.988950")  # 180 ÷ 90.5


def test_both_legs_of_a_pair_share_one_price() -> None:
    """They are liquidated together."""
    risk = risk_of("300", ("10", "1000"), ("-9", "1000"), hedge=True)
    assert risk.positions[0].liquidation == risk.positions[1].liquidation


@pytest.mark.parametrize(
    ("long", "short", "closest"),
    [
        pytest.param(("10", "1100"), ("-4", "1100"), Side.LONG, id="a long at a loss, and a short with a gain"),
        pytest.param(("4", "900"), ("-10", "900"), Side.SHORT, id="a short at a loss, and a long with a gain"),
    ],
)
def test_of_a_hedge_the_larger_leg_is_the_closest(long: tuple[str, str], short: tuple[str, str], closest: Side) -> None:
    """Both have the same price; an alert names, and has reduced, the one that brings it nearer."""
    risk = risk_of("1500", long, short, hedge=True)

    assert len({p.liquidation_price for p in risk.positions}) == 1
    assert risk.closest is not None
    assert risk.closest.position.side is closest


def test_the_nearer_of_two_prices_is_the_liquidation_price() -> None:
    """Long 100, short 99 with a large upper bracket: it can go wrong either way, and the near way counts."""
    tall = table(("0", "0.001", "0"), ("110000", "0.4", "43890"))
    risk = risk_of("500", ("100", "1000"), ("-99", "1000"), brackets=tall, hedge=True)
    below, above = prices(risk)

    # down: 500 ÷ 0.801; up, with the long leg in the upper bracket: 43390 ÷ 39.099
    assert below is not None
    assert below.quantize(D("0.000001")) == D("624.219725")
    assert above is not None
    assert above.quantize(D("0.000001")) == D("1109.747052")
    assert risk.positions[0].liquidation_price == above
    assert risk.distance is not None
    assert risk.distance.quantize(D("0.00000001")) == D("0.10974705")


# ---- many symbols ----


def test_every_single_price_may_be_none_while_the_market_liquidates() -> None:
    """Ten longs of 1000 each on 900: no one alone can lose it all, a fall of −92 % of everything can."""
    symbols = [f"S{i}USDT" for i in range(10)]
    held = [position(s, "1", "1000") for s in symbols]
    tables: Mapping[str, BracketTable] = dict.fromkeys(symbols, FLAT)
    with localcontext(EXACT):
        risk = assess(pool("9200", *held), Terms(dict.fromkeys(symbols, D(1000)), tables))

    assert {p.liquidation_price for p in risk.positions} == {None}
    assert risk.closest is None
    # 9200 + 10000 (f − 1) = 100 f → f = 800 ÷ 9900
    assert risk.distance is not None
    assert risk.distance.quantize(D("0.00000001")) == D("0.91919192")


def test_the_bankruptcy_price_lies_beyond_the_liquidation_price() -> None:
    """Where margin balance, not excess, is zero: 1000 − 1000 ÷ 10."""
    risk = risk_of("1000", ("10", "1000"))
    with localcontext(EXACT):
        assert bankruptcy_price(risk, PositionKey("AUSDT", Side.BOTH)) == 900
        assert bankruptcy_price(risk_of("10000", ("10", "1000")), PositionKey("AUSDT", Side.BOTH)) is None


# ---- properties ----

_legs = st.lists(
    st.tuples(st.integers(-50, 50).filter(bool), st.integers(1, 400), st.sampled_from([FLAT, RISING, JUMPING])),
    min_size=1,
    max_size=4,
)


@given(_legs, st.integers(-5_000, 60_000), st.integers(1, 3_000))
def test_between_here_and_the_price_nothing_is_liquidated(
    held: list[tuple[int, int, BracketTable]], base: int, now: int
) -> None:
    """The first crossing is the first: on the way to it the pool stays on the side on which it is."""

    def excess(t: Decimal) -> Decimal:
        return base + sum(
            (D(q) * (t - entry) - brackets.maintenance_margin(abs(q) * t) for q, entry, brackets in held), D(0)
        )

    with localcontext(EXACT):
        legs = [Leg(D(q), D(-q * entry), brackets) for q, entry, brackets in held]
        found = crossings(legs, D(base), D(now))
        solvent = excess(D(now)) > 0
        for end in (found.below or D(0), found.above or D(now) * 5):
            for part in range(1, 40):
                t = D(now) + (end - now) * part / 40
                assert t <= 0 or (excess(t) > 0) == solvent


@given(st.integers(1, 20_000), st.integers(-30, 30).filter(bool), st.integers(500, 2000))
def test_after_the_move_to_the_market_distance_the_ratio_is_one(wallet: int, quantity: int, mark: int) -> None:
    """Distance and what-if are two ways to the same place."""
    risk = risk_of(str(wallet), (str(quantity), "1000"), mark=str(mark), brackets=RISING)
    with localcontext(EXACT):
        for move in (
            None if risk.market_distance.below is None else -risk.market_distance.below,
            risk.market_distance.above,
        ):
            if move is not None and risk.margin_balance and risk.margin_balance > 0:
                ratio = ratio_after(risk, move, Terms({}, {"AUSDT": RISING}))
                assert ratio is not None
                assert abs(ratio - 1) < D("1e-25")
