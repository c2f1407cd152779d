"""Whose turn it is, where many accounts share what the exchange allows one address."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from monitor.turns import WINDOW_S, Need, Turn, Turns


def turn(account: str, weight: int = 5, need: Need = Need.EASE) -> Turn:
    return Turn(account, weight, lambda: need)


def called(turns: Turns, now: float) -> list[str]:
    """All whose turn it is at this moment, in order; their questions are answered at once."""
    found = []
    for one in turns.due(now):
        found.append(one.account)
        turns.answered(one.weight, None, now)
    return found


def full(per_minute: int, at_most: int = 2300) -> Turns:
    """A minute that is used up at second 0."""
    turns = Turns(per_minute, at_most)
    turns.join(turn("before", per_minute))
    assert called(turns, 0) == ["before"]
    return turns


def test_what_weighs_nothing_is_forgotten_after_what_does() -> None:
    """So a market's funding terms are: asked last of it in a minute, they ended the daemon."""
    turns = Turns(100, 100)
    for weight in (1, 0, 0):
        turns.join(turn("market", weight))
    assert called(turns, 0) == ["market"] * 3

    turns.join(turn("account", 100))
    assert called(turns, WINDOW_S) == ["account"]


def test_danger_goes_first_then_who_lost_sight_then_all_others() -> None:
    """What could be liquidated next minute does not queue behind what is merely curious."""
    turns = full(100, 100)
    for account, need in (("ease", Need.EASE), ("blind", Need.BLIND), ("danger", Need.DANGER)):
        turns.join(turn(account, need=need))

    assert called(turns, 59) == []
    assert called(turns, WINDOW_S) == ["danger", "blind", "ease"]


def test_nobody_who_begins_goes_before_danger_for_asking_less() -> None:
    """Of a thousand that do there is always one for whom there is room."""
    turns = Turns(100, 150)
    turns.answered(0, 145, 0)
    turns.join(turn("danger", 10, Need.DANGER))
    turns.join(turn("begins", 1, Need.START))

    assert called(turns, 1) == []
    assert called(turns, WINDOW_S) == ["danger", "begins"]


def test_who_waits_for_what_we_have_used_ourselves_is_called_as_soon_as_that_is_over() -> None:
    """However lately the exchange has said what all have used: of two that begin, the second would wait a minute more
    after each answer."""
    turns = full(100)
    turns.answered(0, 90, 40)
    turns.join(turn("begins", need=Need.START))

    assert called(turns, 41) == []
    assert turns.wait_s(41) == WINDOW_S - 41
    assert called(turns, WINDOW_S) == ["begins"]


def test_danger_does_not_wait_behind_what_the_same_account_is_curious_of() -> None:
    """Where others use up our address, curiosity has no turn at all; marks and balances must have theirs."""
    turns = full(100, 120)
    for need in (Need.EASE, Need.BLIND, Need.DANGER):
        turns.join(turn("a", weight=5 - need, need=need))

    assert [one.need() for one in turns.due(1)] == [Need.DANGER, Need.BLIND]
    assert called(turns, WINDOW_S) == ["a"]


def test_an_account_that_gets_into_danger_while_it_waits_is_asked_before_the_others() -> None:
    needs = {"a": Need.EASE, "b": Need.EASE}
    turns = full(100, 200)
    for account in needs:
        turns.join(Turn(account, 5, lambda account=account: needs[account]))  # type: ignore[misc]
    assert called(turns, 1) == []

    needs["b"] = Need.DANGER

    assert called(turns, 2) == ["b"]


def test_of_those_at_ease_each_has_its_turn() -> None:
    """One that has ten questions does not keep another from its first."""
    turns = full(100)
    for account in ("loud", "loud", "loud", "quiet"):
        turns.join(turn(account))

    assert called(turns, WINDOW_S) == ["loud", "quiet", "loud", "loud"]


def test_nobody_who_begins_anew_is_kept_waiting_in_the_midst_of_it() -> None:
    """After a cut of all streams each waited a minute for its last question, and kept the others from their first."""
    turns = Turns(1200, 2300)
    names = [f"{n}" for n in range(20)]
    for account in names:
        for weight in (1, 1, 5, 5, 1, 5, 5, 50):
            turns.join(turn(account, weight, Need.BLIND))

    assert Counter(called(turns, 0)) == dict.fromkeys(names, 8)


def test_the_reserve_is_for_danger_and_for_the_blind() -> None:
    turns = full(100, 120)
    for account, need in (("ease", Need.EASE), ("blind", Need.BLIND)):
        turns.join(turn(account, 10, need))

    assert called(turns, 1) == ["blind"]


def test_many_who_begin_keep_nobody_from_a_larger_question() -> None:
    """The room that came free for it went to the next small one of them, for as long as there were any: a list of
    forced orders was not read while a thousand accounts began."""
    turns = Turns(100, 200)
    turns.join(turn("large"))
    assert called(turns, 0) == ["large"]
    for account in range(19):
        turns.join(turn(f"begins {account}", 5, Need.START))
        assert called(turns, 1 + 3 * account) == [f"begins {account}"]
    turns.join(turn("large", 50))
    for account in range(200):
        turns.join(turn(f"begins {account % 19}", 5, Need.START))

    asked = [name for second in range(60, 300) for name in called(turns, second)]

    assert "large" in asked


def test_a_question_that_is_larger_than_the_budget_is_asked_once_nothing_else_is() -> None:
    """Else it never would be."""
    turns = Turns(4, 4)
    turns.join(turn("a", 10))
    turns.join(turn("b", 1))

    assert called(turns, 0) == ["a"]
    assert called(turns, WINDOW_S) == ["b"]


def test_what_others_at_our_address_use_counts() -> None:
    """A trading bot beside us, or another daemon: the ban would be on both."""
    turns = Turns(100, 120)
    turns.join(turn("a"))
    assert len([*turns.due(0)]) == 1
    turns.answered(5, 98, 0)
    turns.join(turn("a"))

    assert called(turns, 1) == []
    assert turns.wait_s(1) == WINDOW_S - 1
    assert called(turns, WINDOW_S) == ["a"]


def test_who_begins_is_not_kept_from_it_by_what_others_use_but_by_what_we_do() -> None:
    """A whole start would take minutes, one question in each, beside a bot that uses half of what there is."""
    turns = Turns(100, 300)
    turns.answered(0, 150, 0)
    turns.join(turn("known"))
    turns.join(turn("new", 60, Need.START))
    turns.join(turn("newer", 60, Need.START))

    assert called(turns, 1) == ["new"]
    assert called(turns, WINDOW_S) == ["known"]
    assert called(turns, WINDOW_S + 1) == ["newer"]


def test_of_those_who_begin_and_those_at_ease_each_has_its_turn() -> None:
    """A start of thousands takes minutes; those that are known by then are compared all the same."""
    turns = full(100)
    for n in range(10):
        turns.join(turn("new", 10, Need.START))
        turns.join(turn(f"known{n}", 10))

    assert sorted(Counter(name[:3] for name in called(turns, WINDOW_S)).items()) == [("kno", 9), ("new", 1)]


def test_what_is_under_way_counts_until_the_exchange_has_counted_it() -> None:
    """An answer tells of what came before it, and nothing of forty questions that were sent since."""
    turns = Turns(100, 100)
    for n in range(20):
        turns.join(turn(f"a{n}"))
    asked = [*turns.due(0)]
    turns.answered(5, 5, 0)  # of the first of them
    turns.join(turn("late"))

    assert len(asked) == 20
    assert called(turns, 1) == []


def test_nobody_is_called_while_the_exchange_wants_to_be_left_alone() -> None:
    turns = Turns(100, 2300)
    turns.blocked(30)
    turns.join(turn("a", need=Need.DANGER))

    assert (called(turns, 29), turns.wait_s(29), turns.blocked_s(29)) == ([], 1, 1)
    assert called(turns, 30) == ["a"]


def test_a_flood_of_one_account_leaves_the_others_what_they_need() -> None:
    """An account whose state changes all the time asks anew each time; nine others are compared every 30 s."""
    turns = Turns(1200, 2300)
    waits: list[float] = []
    since: dict[str, float] = {}
    asked = Counter[str]()
    for tenth in range(6000):
        now = tenth / 10
        turns.join(turn("flood", 10))
        turns.join(turn("flood", 10))
        for n in range(9):
            if tenth % 300 == n * 33:
                turns.join(turn(f"a{n}", 10))
                since[f"a{n}"] = now
        for account in called(turns, now):
            asked[account] += 10
            if account in since:
                waits.append(now - since.pop(account))

    assert max(waits) == 0
    assert not since
    assert asked["flood"] >= 10 * (600 - 9 * 2 * 10)  # half of the budget, but for what the others used of it


def test_floods_of_all_share_alike() -> None:
    turns = Turns(600, 2300)
    asked = Counter[str]()
    for second in range(600):
        for n in range(5):
            for _ in range(10):
                turns.join(turn(f"a{n}", 10))
        asked.update(called(turns, float(second)))

    assert max(asked.values()) - min(asked.values()) <= 7
    assert sum(asked.values()) * 10 <= 600 * 11


def test_a_crowd_is_looked_at_once() -> None:
    """In a crash a thousand accounts get into danger at once, and each asks for itself; a loop that is busy with whose
    turn it is tells nobody anything."""

    def looks(accounts: int) -> int:
        counted = 0

        def need() -> Need:
            nonlocal counted
            counted += 1
            return Need.DANGER

        turns = full(1200)
        for n in range(accounts):
            turns.join(Turn(f"a{n}", 10, need))
        called(turns, 1)
        return counted

    assert looks(1000) <= 10 * looks(100)


QUESTIONS = st.lists(
    st.tuples(
        st.floats(0, 20), st.sampled_from("abcdef"), st.integers(0, 40), st.sampled_from(list(Need)), st.booleans()
    ),
    max_size=80,
)


@given(QUESTIONS)
def test_no_minute_has_more_than_is_allowed_and_all_are_asked_in_the_end(
    questions: list[tuple[float, str, int, Need, bool]],
) -> None:
    """However the exchange's minutes lie."""
    turns, now, asked, wanted = Turns(100, 150), 0.0, list[tuple[float, int]](), 0
    for after, account, weight, need, answered in questions:
        now += after
        turns.join(turn(account, weight, need))
        wanted += 1
        for one in turns.due(now):
            asked.append((now, one.weight))
            turns.answered(one.weight, None if answered else one.weight, now)
    while turns.waiting:
        now += turns.wait_s(now)
        for one in turns.due(now):
            asked.append((now, one.weight))
            turns.answered(one.weight, None, now)

    assert len(asked) == wanted
    for at, _ in asked:
        assert sum(weight for other, weight in asked if at <= other < at + WINDOW_S) <= 150
