"""Who is compared how often, where many share one address."""

from __future__ import annotations

import pytest

from monitor.pace import Pace


def pace(accounts: int, endangered: int = 0) -> Pace:
    """Comparisons of weight 10, 600 a minute for all: ten a second at most would be 1 a second."""
    found = Pace(30, 600)
    for n in range(accounts):
        found.join(f"a{n}", 10)
        found.endangered(f"a{n}", n < endangered)
    return found


def spent_per_minute(pace: Pace, accounts: int) -> float:
    return sum(60 / pace.interval_s(f"a{n}") * 10 for n in range(accounts))


def test_one_account_keeps_the_configured_time() -> None:
    """Nothing changes for those who have one."""
    assert pace(1).interval_s("a0") == 30
    assert pace(30).interval_s("a0") == 30


def test_many_accounts_wait_for_each_other() -> None:
    """60 a minute are 60 accounts in a minute."""
    assert pace(60).interval_s("a7") == 60
    assert pace(600).interval_s("a7") == 600


def test_endangered_accounts_keep_the_time_and_the_others_share_the_rest() -> None:
    """Danger first: 6 of 60 use 12 of 60 a minute, so that 54 share 48."""
    found = pace(60, endangered=6)

    assert found.interval_s("a0") == 30
    assert found.interval_s("a59") == pytest.approx(54 / 48 * 60)


@pytest.mark.parametrize("endangered", [0, 1, 10, 29, 30, 50, 100, 199, 200])
def test_all_together_stay_within_their_share(endangered: int) -> None:
    """Whoever is endangered, the exchange must not cut us off; and nobody is left out."""
    found = pace(200, endangered)

    assert spent_per_minute(found, 200) <= 600 * 1.000001
    assert all(found.interval_s(f"a{n}") <= 3600 for n in range(200))


def test_a_danger_that_is_over_is_given_back() -> None:
    """And said once."""
    found = pace(60, endangered=6)

    assert [found.endangered("a0", True), found.endangered("a0", False), found.endangered("a0", False)] == [
        False,
        True,
        False,
    ]
    assert found.interval_s("a0") > 30


def test_who_has_gone_leaves_his_part_to_the_others() -> None:
    """And who says anew how much his turns are is counted once."""
    found = pace(600, endangered=300)
    for n in range(300, 600):
        found.join(f"a{n}", 5)
    for n in range(570):
        found.leave(f"a{n}")

    assert found.interval_s("a599") == 30
    found.join("one that asks for much", 590 * 10 - 30 * 5)
    assert found.interval_s("a599") == 590
