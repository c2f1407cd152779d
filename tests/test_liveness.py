"""What the daemon says of itself, without a daemon."""

from __future__ import annotations

import socket
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from monitor.config import HeartbeatConfig, MqttConfig
from monitor.events import LinkId, LinkReport, LinkState, Tick
from monitor.links import Links
from monitor.liveness import blindness, is_settled, status
from monitor.message import Identity, Message
from monitor.outbox import Outbox
from monitor.rules import DEFAULTS, DataStaleRule, Match, RuleBook
from monitor.shell.broker import Broker
from monitor.shell.proof_of_life import ProofOfLife
from monitor.shell.second_way import SecondWay
from tests.watched import Watched, row


def test_settled_is_what_is_proved_or_told_of() -> None:
    """systemd is told "ready" with it: neither while nothing is known yet, nor never because one link is down."""
    core = Watched()
    core.connect(LinkState.CONNECTING)
    core.step(Tick())
    assert not is_settled(core.core)

    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(2, "60000")
    assert is_settled(core.core)

    core.step(core.link("private", LinkState.DOWN), Tick())
    assert not is_settled(core.core)
    core.hold(60, "60000")
    assert is_settled(core.core)  # its incident is open by now


def test_where_nobody_wants_to_be_told_there_is_nothing_to_wait_for() -> None:
    """Else systemd would start such a daemon anew for ever."""
    core = Watched(rules=RuleBook({**DEFAULTS, "data_stale": DataStaleRule(enabled=False)}))
    core.connect(LinkState.CONNECTING)
    core.step(Tick())

    assert is_settled(core.core)


def test_an_account_that_wants_no_telling_keeps_the_others_from_nothing() -> None:
    """Its key may be revoked for weeks: systemd would start the daemon anew for ever, and no heartbeat would go out."""
    muted = Match(DataStaleRule(enabled=False), account="other")
    core = Watched("main", "other", rules=RuleBook(DEFAULTS, {"data_stale": (muted,)}))
    core.connect()
    core.step(core.link("private", LinkState.DOWN, "other"))
    core.step(*core.truth("100"), Tick())

    assert is_settled(core.core)
    assert set(blindness(core.core, core.now)) == {"other: positions unknown"}


def test_the_status_line_names_three_troubles_and_counts_the_others() -> None:
    """`systemctl status` has one line."""
    core = Watched()
    assert status(core.core, ["broker away"]) == "broker away; 0 pools, no margin ratio, 0 incidents open"

    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90300")
    assert (
        status(core.core, list("abcde")) == "a; b; c; and 2 more; 1 pools, worst margin ratio 96.8%, 2 incidents open"
    )


def test_the_status_line_says_at_once_what_is_wrong_and_now_and_then_how_near_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many accounts the worst is looked for only now and then, of few in each tick."""
    core, outbox = Watched("main", *(f"other{n}" for n in range(299))), Outbox()
    for name in core.names:
        core.begin("12000" if name == "main" else "1200000", row("BTCUSDT", "1", "60000"), account=name)
    core.hold(2, "60000")
    first, second = (Message("marginwatch/status", word, True, 1) for word in (b"online", b"offline"))
    identity = Identity("marginwatch", "test", "0", "", 0)
    second_way = SecondWay(None, HeartbeatConfig(), identity, lambda batch: None, amounts=True)
    broker = Broker(MqttConfig(), None, outbox, first, second, lambda message: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        life = ProofOfLife(core.core, outbox, broker, None, second_way, core.now, 30, lambda: True)

        def said() -> list[str]:
            life.ticked(core.now)
            lines = []
            with suppress(BlockingIOError):
                while True:
                    lines.append(manager.recv(4096).decode())
            return [line.removeprefix("STATUS=") for line in lines if line.startswith("STATUS=")]

        core.price("60000")
        assert said() == ["broker away; 300 pools, worst margin ratio 2.0%, 0 incidents open"]
        core.price("59000")
        assert said() == []
        core.hold(10, "59000")
        while core.core.is_behind:
            core.step(after=0)
        assert said() == ["broker away; 300 pools, worst margin ratio 2.1%, 0 incidents open"]
        core.price("50000")
        while core.core.is_behind:  # three hundred pools are more than one step looks at
            core.step(after=0)
        assert [line.partition(", ")[2] for line in said()] == ["worst margin ratio 10.0%, 1 incidents open"]


def test_the_lost_links_are_those_that_are_not_fine() -> None:
    """They are remembered between changes, and every change may make another link of them."""
    links, first, second = Links(), LinkId("main", "private"), LinkId("main", "rest")
    for before, after in product(LinkState, repeat=2):
        links.report(LinkReport(first, before), 1)
        links.report(LinkReport(second, LinkState.DOWN), 1)
        assert links.lost == (*(() if before.is_fine else (first,)), second)
        links.report(LinkReport(first, after), 2)
        assert links.lost == (*(() if after.is_fine else (first,)), second)
        for link in (first, second):
            links.forget(link)
        assert links.lost == ()


def test_why_a_link_was_lost_is_known_until_it_is_fine() -> None:
    """The next try is another state, and says nothing; an alert that fell into it had no reason to name."""
    links, link = Links(), LinkId("main", "private")
    links.report(LinkReport(link, LinkState.DOWN, note="-2015: invalid key"), 1)
    links.report(LinkReport(link, LinkState.CONNECTING), 2)
    assert links.all[link].note == "-2015: invalid key"

    links.report(LinkReport(link, LinkState.LIVE), 3)
    assert links.all[link].note == ""


def test_a_link_that_is_tried_again_and_again_is_as_old_as_its_last_life() -> None:
    """Each try and each failure is another report; whoever counts from the last of them never finds it stale."""
    links, link = Links(), LinkId("main", "private")
    links.report(LinkReport(link, LinkState.LIVE), 1)
    links.report(LinkReport(link, LinkState.DOWN), 2)
    for now in range(3, 30):
        for state in (LinkState.CONNECTING, LinkState.PROVING, LinkState.DOWN, LinkState.MUTE):
            links.report(LinkReport(link, state), now)

    assert links.age(link, 30) == 28
