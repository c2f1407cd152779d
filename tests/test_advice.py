"""What would put a pool right: applied, it does; a step less, it does not."""

from __future__ import annotations

from decimal import Decimal, localcontext

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from monitor.risk import EXACT
from monitor.risk.advice import TRANSFER_STEP, margin_to_add, quantity_to_reduce
from monitor.risk.assessment import assess
from monitor.risk.margin import ZERO, BracketTable
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms
from tests.make import pool, position, table

D = Decimal
STEP = D("0.001")
FLAT = table(("0", "0.01", "0"))
RISING = table(("0", "0.004", "0"), ("50000", "0.01", "300"), ("200000", "0.05", "8300"))
JUMPING = table(("0", "0.004", "0"), ("50000", "0.01", "0"))


def long_risk(wallet: str, quantity: str, entry: str, mark: str, brackets: BracketTable = RISING) -> PoolRisk:
    with localcontext(EXACT):
        return assess(pool(wallet, position("AUSDT", quantity, entry)), Terms({"AUSDT": D(mark)}, {"AUSDT": brackets}))


def to_reduce(
    risk: PoolRisk, to_ratio: str, brackets: BracketTable = RISING, step: Decimal | None = STEP
) -> Decimal | None:
    with localcontext(EXACT):
        return quantity_to_reduce(risk, risk.positions[0], D(to_ratio), brackets, step)


def ratio_with(risk: PoolRisk, brackets: BracketTable, *, added: Decimal = ZERO, closed: Decimal = ZERO) -> Decimal:
    """The ratio after adding margin, or after closing a part at the mark (whose PnL is then in the wallet)."""
    [held] = risk.positions
    assert held.mark_price is not None
    assert risk.pool.wallet_balance is not None
    sign = 1 if held.position.quantity > 0 else -1
    realized = sign * closed * (held.mark_price - held.position.entry_price)
    left = structs.replace(held.position, quantity=held.position.quantity - sign * closed)
    positions = (left,) if left.quantity else ()
    after = structs.replace(risk.pool, wallet_balance=risk.pool.wallet_balance + added + realized, positions=positions)
    with localcontext(EXACT):
        ratio = assess(after, Terms({"AUSDT": held.mark_price}, {"AUSDT": brackets})).margin_ratio
    assert ratio is not None
    return ratio


def test_the_documented_advice() -> None:
    """178.38 USDT, or 0.346 BTC, back to 70 %: the example of the README."""
    brackets = table(("0", "0.004", "0"), ("300000", "0.005", "300"))
    risk = long_risk("5182.40", "2.5", "92000", "90372.10", brackets)

    with localcontext(EXACT):
        assert margin_to_add(risk, D("0.7")) == D("178.38")
    assert to_reduce(risk, "0.7", brackets) == D("0.346")


def test_margin_is_rounded_up_to_what_can_be_transferred() -> None:
    """Maintenance 100 ÷ 0.7 = 142.857142857…, of which 110 are there."""
    risk = long_risk("110", "10", "1000", "1000", FLAT)
    with localcontext(EXACT):
        assert margin_to_add(risk, D("0.7")) == D("32.85714286")


def test_where_brackets_make_no_sense_all_that_is_lost_is_still_to_be_added() -> None:
    """100 × 0.01 − 50 is a maintenance margin below nothing; the balance of −20 has to be made good all the same."""
    absurd = table(("0", "0.01", "50"))
    risk = long_risk("-20", "1", "100", "100", absurd)

    with localcontext(EXACT):
        assert margin_to_add(risk, D("0.7")) == 20
    assert ratio_with(risk, absurd, added=D(20)) == 0


def test_nothing_is_advised_where_nothing_is_needed() -> None:
    """No advice to do nothing."""
    risk = long_risk("1000", "10", "1000", "1000", FLAT)

    with localcontext(EXACT):
        assert margin_to_add(risk, D("0.7")) is None
    assert to_reduce(risk, "0.7", FLAT) is None


def test_a_bankrupt_pool_cannot_be_reduced_to_health() -> None:
    """With no margin balance left, closing at mark leaves nothing to divide by; only money helps."""
    risk = long_risk("-5", "10", "1000", "1000", FLAT)

    assert to_reduce(risk, "0.7", FLAT) is None
    with localcontext(EXACT):
        assert margin_to_add(risk, D("0.5")) == 205


def test_one_position_cannot_save_a_pool_that_the_others_sink() -> None:
    """Closing all of the small one leaves the maintenance of the large one: no advice that does not help."""
    held = (position("AUSDT", "1", "10"), position("BUSDT", "10", "1000"))
    with localcontext(EXACT):
        marks = {"AUSDT": D(10), "BUSDT": D(1000)}
        risk = assess(pool("105", *held), Terms(marks, {"AUSDT": FLAT, "BUSDT": FLAT}))
        assert quantity_to_reduce(risk, risk.positions[0], D("0.7"), FLAT, STEP) is None
        assert quantity_to_reduce(risk, risk.positions[1], D("0.7"), FLAT, STEP) == D("2.660")  # 26.6 of 100.1 too much


def test_more_than_all_is_never_advised() -> None:
    """The last step may be smaller than a lot; the position itself is the bound."""
    risk = long_risk("0.0001", "0.0015", "1000", "1000", FLAT)
    closed = to_reduce(risk, "0.01", FLAT)
    assert closed == D("0.0015")


def test_an_unknown_input_gives_no_advice() -> None:
    """No number is better than a wrong one."""
    with localcontext(EXACT):
        risk = assess(pool("100", position("AUSDT", "1", "1000")), Terms({}, {"AUSDT": FLAT}))
        assert margin_to_add(risk, D("0.7")) is None
        assert quantity_to_reduce(risk, risk.positions[0], D("0.7"), FLAT, STEP) is None


_cases = st.tuples(
    st.integers(1, 60_000),
    st.integers(-400, 400).filter(bool),
    st.integers(300, 3000),
    st.integers(300, 3000),
    st.sampled_from(["0.45", "0.7", "0.8", "0.9"]),
    st.sampled_from([FLAT, RISING, JUMPING]),
)


@given(_cases)
def test_added_margin_reaches_the_level_and_one_step_less_does_not(
    case: tuple[int, int, int, int, str, BracketTable],
) -> None:
    """Advice is checked by applying it."""
    wallet, quantity, entry, mark, to_ratio, brackets = case
    risk = long_risk(str(wallet), str(quantity), str(entry), str(mark), brackets)
    with localcontext(EXACT):
        amount = margin_to_add(risk, D(to_ratio))

    if amount is None:
        assert risk.margin_ratio is not None
        assert risk.margin_ratio <= D(to_ratio)
    else:
        assert ratio_with(risk, brackets, added=amount) <= D(to_ratio)
        assert ratio_with(risk, brackets, added=amount - TRANSFER_STEP) > D(to_ratio)


@given(_cases, st.sampled_from([D("0.001"), D("0.1"), D(1), None]))
def test_a_reduced_quantity_reaches_the_level_and_one_step_less_does_not(
    case: tuple[int, int, int, int, str, BracketTable], step: Decimal | None
) -> None:
    """The same for closing a part, across brackets and jumps."""
    wallet, quantity, entry, mark, to_ratio, brackets = case
    risk = long_risk(str(wallet), str(quantity), str(entry), str(mark), brackets)
    closed = to_reduce(risk, to_ratio, brackets, step)

    assert risk.margin_ratio is not None
    assert risk.margin_balance is not None
    if closed is None:
        assert risk.margin_ratio <= D(to_ratio) or risk.margin_balance <= 0
    else:
        assert 0 < closed <= abs(quantity)
        assert ratio_with(risk, brackets, closed=closed) <= D(to_ratio)
        assert ratio_with(risk, brackets, closed=closed - (step or TRANSFER_STEP)) > D(to_ratio)
