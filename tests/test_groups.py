"""Many accounts that cross a level together are told once more, as a group; and each for itself all the same."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from monitor.core import Kept
from monitor.effects import Effect, Story
from monitor.events import LinkState, Silence, Tick
from monitor.judges.groups import Group
from monitor.rules import Severity
from tests.watched import Crowd, of_rule, row, told

D = Decimal


class Many(Crowd):
    """At 50 000 the ratio of all is 0.1, at 48 225 it is 0.86."""

    def __init__(
        self,
        accounts: int,
        group: Group | None = None,
        wallet: str = "2000",
        kept: Kept | None = None,
        start: float = 0.0,
        price: str = "50000",
    ) -> None:
        super().__init__(accounts, wallet, group=group or Group(), kept=kept, start=start)
        self.price(price)

    def bodies(self, stories: list[Story]) -> list[dict[str, Any]]:
        """Their events."""
        messages = [message for story in stories for message in self.messages.of(story)]
        return [msgspec.json.decode(message.payload) for message in messages if "/event/" in message.topic]


def test_many_accounts_that_cross_together_are_one_group() -> None:
    """Twenty pages say less than one that says "twenty of twenty, BTC −3.6 %"."""
    core = Many(20)

    told = core.price("48225")
    members = core.bodies(of_rule(told, "margin_ratio"))
    assert of_rule(told, "group") == []  # nobody waits for it: what is told of each is told at once
    later = [*core.price("48225"), *core.price("48225"), *core.price("48225")]
    groups = core.bodies(of_rule(later, "group"))

    assert sorted(body["account"] for body in members) == sorted(core.names)
    [group] = [g for g in groups if g["facts"]["crossed"] == "margin_ratio"]
    assert {body["group_id"] for body in members} == {group["incident_id"]}
    assert (group["account"], group["subject"], group["severity"]) == ("_instance", "margin-ratio", "critical")
    assert group["facts"] == {
        "crossed": "margin_ratio",
        "accounts": 20,
        "of": 20,
        "names": ", ".join([body["account"] for body in members][:3]) + " and 17 more",
        "moved": "BTCUSDT",
        "move": -0.0355,
    }
    assert group["title"] == "20 of 20 accounts: margin ratio critical, BTCUSDT −3.6 %"
    assert group["text"].startswith(
        "20 of 20 accounts: margin ratio critical or worse, BTCUSDT −3.6 % within a minute."
    )


def test_a_group_whose_window_a_daemon_did_not_outlive_is_told_by_the_next_run() -> None:
    """A phone that hears of groups alone would never be told of that fall; who was past it before is none of them."""
    core = Many(21)
    core.step(core.changed("WITHDRAW", "150", account="a20"))
    core.hold(5, "50000")
    core.step(core.mark("48225"))
    [*_, crossed] = [body for body in core.bodies(told(core.effects)) if body["rule"] == "margin_ratio"]
    heard = []
    for _ in range(2):  # and the run after that has nothing to add
        core = Many(21, kept=core.kept(), start=core.t + 60, price="48225")
        core.hold(5, "48225")
        heard += of_rule(told(core.effects), "group")
    by_id = {body["incident_id"]: body for body in core.bodies(heard)}

    assert len(heard) == len(by_id)
    assert (by_id[crossed["group_id"]]["severity"], by_id[crossed["group_id"]]["facts"]["accounts"]) == ("critical", 20)


def test_a_few_accounts_are_no_group() -> None:
    """What happens to two of twenty is about those two."""
    core = Many(20, wallet="20000")
    for name in ("a3", "a7"):
        core.step(core.changed("WITHDRAW", "2000", account=name))

    stories = [s for _ in range(5) for s in core.price("48225")]

    assert len({s.account.name for s in of_rule(stories, "margin_ratio")}) == 2
    assert of_rule(stories, "group") == []


def test_one_who_watches_one_account_hears_of_no_groups() -> None:
    """Nothing changes for them, not even a key."""
    core = Many(1)
    stories = [s for _ in range(5) for s in core.price("48225")]

    assert of_rule(stories, "group") == []
    assert "group_id" not in core.bodies(of_rule(stories, "margin_ratio"))[0]


def test_a_phone_that_hears_of_groups_alone_misses_no_account() -> None:
    """With min_accounts = 1 a single account is a group too."""
    core = Many(3, Group(min_accounts=1), wallet="20000")
    core.step(core.changed("WITHDRAW", "2000", account="a1"))

    stories = [s for _ in range(5) for s in core.price("48225")]

    [group] = [g for g in core.bodies(of_rule(stories, "group")) if g["facts"]["crossed"] == "margin_ratio"]
    assert (group["facts"]["accounts"], group["facts"]["names"]) == (1, "a1")


def test_nor_the_last_that_is_left() -> None:
    """Who takes out all accounts but one has a phone that still hears of groups alone."""
    core = Many(1, Group(min_accounts=1))

    stories = [s for _ in range(5) for s in core.price("48225")]

    [group] = [g for g in core.bodies(of_rule(stories, "group")) if g["facts"]["crossed"] == "margin_ratio"]
    assert (group["facts"]["accounts"], group["facts"]["of"]) == (1, 1)


def test_the_severity_of_a_group_is_one_that_enough_of_them_have_reached() -> None:
    """One that is liquidated does not make a liquidation of twenty warnings."""
    core = Many(7, wallet="2000")
    core.step(core.changed("WITHDRAW", "1960", account="a0"), core.changed("DEPOSIT", "2115", account="a6"))

    stories = [s for _ in range(4) for s in core.price("48235")]  # 0.82, a0: 0.99, a6: 0.55

    [group] = [g for g in core.bodies(of_rule(stories, "group")) if g["facts"]["crossed"] == "margin_ratio"]
    worst = max(s.change.severity for s in of_rule(stories, "margin_ratio"))
    assert worst >= Severity.CRITICAL
    assert (group["facts"]["accounts"], group["facts"]["of"]) == (6, 7)


def test_what_is_closed_at_once_leaves_a_group_of_no_market() -> None:
    """Whoever closes all of it in the crash has taken its mark along, and still hears how many they were."""
    core = Many(5)
    core.step(core.mark("48225"))
    flat = row("BTCUSDT", "0", "50000", at_ms=core.now.wall_ms)
    core.step(*(core.changed("ORDER", "225", flat, account=name) for name in core.names), after=0.1)

    groups = core.bodies(of_rule([s for _ in range(3) for s in core.tell(Tick())], "group"))
    [group] = [g for g in groups if g["facts"]["crossed"] == "margin_ratio"]
    assert (group["facts"]["accounts"], group["facts"]["moved"]) == (5, None)


def test_those_that_cross_later_are_another_group() -> None:
    """A fall of minutes is several: each says how many it was that crossed together."""
    core = Many(12, wallet="20000")
    for n in range(6):
        core.step(core.changed("WITHDRAW", "2000", account=f"a{n}"))
    first = [s for _ in range(5) for s in core.price("48225")]
    for n in range(6, 12):
        core.step(core.changed("WITHDRAW", "2000", account=f"a{n}"), after=0.1)
    second = [s for _ in range(5) for s in core.price("48225")]

    groups = [core.bodies(of_rule(stories, "group")) for stories in (first, second)]
    counts = [[g["facts"]["accounts"] for g in found if g["facts"]["crossed"] == "margin_ratio"] for found in groups]
    assert counts == [[6], [6]]
    ids = {g["incident_id"] for found in groups for g in found}
    assert len(ids) == sum(len(found) for found in groups)


def test_accounts_that_are_blinded_together_are_a_group_too() -> None:
    """The exchange ends all private streams: what matters is that it is all of them."""
    core = Many(8)
    core.step(*(core.link("private", LinkState.DOWN, name) for name in core.names))

    stories = [s for _ in range(25) for s in core.price("50000")]

    [group] = [g for g in core.bodies(of_rule(stories, "group")) if g["facts"]["crossed"] == "data_stale"]
    assert (group["facts"]["crossed"], group["facts"]["accounts"], group["facts"]["moved"]) == ("data_stale", 8, None)
    assert group["title"] == "8 of 8 accounts: data stale critical"  # at ratio 0.1, but 3.6 % from the end


def test_a_group_can_be_silenced_and_its_members_are_told_all_the_same() -> None:
    core = Many(6)
    core.step(Silence(core.now.wall_ms + 600_000, None, "group", None))

    stories = [s for _ in range(5) for s in core.price("48225")]

    assert of_rule(stories, "group") == []
    assert len(of_rule(stories, "margin_ratio")) >= 6


@pytest.mark.parametrize("group", [Group(enabled=False), Group(min_accounts=7)], ids=["off", "too few"])
def test_without_groups_events_name_none(group: Group) -> None:
    core = Many(6, group)
    stories = [s for _ in range(5) for s in core.price("48225")]

    assert of_rule(stories, "group") == []
    assert not any("group_id" in body for body in core.bodies(of_rule(stories, "margin_ratio")))


def test_a_replay_gives_the_same_groups() -> None:
    """Names and counts come from events and times alone."""

    def run() -> list[bytes]:
        core = Many(6)
        effects: list[Effect] = []
        for price in ("49000", "48225", "48225", "48225", "48210", "48210", "48210"):
            effects += core.step(core.mark(price), Tick())
        return [m.payload for m in core.sent(effects)]

    assert run() == run()
