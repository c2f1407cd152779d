"""The chaos run finds what it should find, and finds nothing in the daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.process import Life
from tests.chaos.proxy import Proxy
from tests.chaos.run import Run
from tests.chaos.schedule import FAULTS, QUIET_S, schedule
from tests.chaos.truth import LADDERS, Blind, Phase, Taken, Truth
from tests.chaos.verdict import Finding, Told, judge
from tests.chaos.wallclock import WallClock
from tests.conftest import needs_mosquitto
from tests.rig import until

POOL = "main/cross-usdt"
MARKET = "_instance/market-binance-usdm-custom"
ALIVE = [Life(0.0)]


def told(n: int, kind: str, at: float, incident: str = "a", **body: Any) -> Told:
    said = {
        "account": "main",
        "rule": "liquidation_distance",
        "subject": "cross-usdt",
        "event": kind,
        "incident_id": incident,
        "event_id": f"{incident}.{n}",
        "severity_rank": 4,
        "text": kind,
        "after": {"mark_price": "48270"},
        **body,
    }
    return Told(said, at, at + 0.1)


def moved(amount: str, kind: str = "transfer", incident: str = "m") -> Told:
    cause = [{"kind": kind, "amount": amount}]
    return told(1, "noted", 20, incident, rule="liquidation_price_moved", symbol="BTCUSDT", cause=cause, also=[])


def stale(n: int, kind: str, at: float) -> Told:
    account, subject = MARKET.split("/")
    return told(n, kind, at, "s", rule="data_stale", account=account, subject=subject)


DANGER = Truth([Phase(POOL, 0, 10.0, 30.0)], moved={POOL: Decimal(5)}, quiet=[(15.0, 22.0), (40.0, 47.0)])
"""In danger from 10 to 30; five USDT came in; quiet from 15 to 22 and from 40 to 47."""
OPENED, OVER = told(1, "opened", 10.3), told(2, "resolved", 30.3)
HEARD = [OPENED, OVER, moved("5")]
NOTICE = told(1, "opened", 10.3, severity_rank=2)


def test_a_faultless_story_has_no_findings() -> None:
    """A judge that convicts everybody is of no use."""
    assert judge(DANGER, HEARD, ALIVE, 50.0) == []


@pytest.mark.parametrize(
    ("heard", "kind"),
    [
        pytest.param([moved("5")], "lost", id="danger-never-told"),
        pytest.param([NOTICE, moved("5")], "lost", id="danger-told-as-a-notice"),
        pytest.param([OPENED, OVER], "lost", id="transfer-never-told"),
        pytest.param([*HEARD, moved("5", incident="m2")], "lost", id="transfer-told-twice"),
        pytest.param([*HEARD, moved("2", "unexplained", "m2")], "lost", id="money-that-nobody-moved"),
        pytest.param([OPENED, told(2, "resolved", 20.0), moved("5")], "false resolved", id="over-while-in-danger"),
        pytest.param([*HEARD, told(1, "opened", 12.0, "b")], "doubled", id="two-incidents-at-once"),
        pytest.param(
            [OPENED, told(2, "resolved", 11.0), told(1, "opened", 11.5, "b"), told(2, "resolved", 30.3, "b")],
            "doubled",
            id="one-danger-two-incidents",
        ),
        pytest.param([*HEARD, told(1, "opened", 48.0, "b")], "invented", id="danger-that-was-not-there"),
        pytest.param([OPENED, moved("5")], "stuck", id="never-over"),
        pytest.param(
            [told(2, "worsened", 10.3), told(1, "opened", 10.5), OVER], "out of order", id="second-before-first"
        ),
    ],
)
def test_each_way_to_be_wrong_is_found(heard: list[Told], kind: str) -> None:
    """A judge that finds nothing must have been able to."""
    assert kind in {finding.kind for finding in judge(DANGER, heard, ALIVE, 50.0)}


@pytest.mark.parametrize(
    ("heard", "lives", "found"),
    [
        pytest.param([], ALIVE, ["not said blind"], id="silent"),
        pytest.param([stale(1, "opened", 12), stale(2, "resolved", 17)], ALIVE, [], id="said"),
        pytest.param([stale(1, "opened", 15)], ALIVE, ["not said blind"], id="said-too-late"),
        pytest.param([stale(1, "opened", 8), stale(2, "resolved", 9)], ALIVE, ["not said blind"], id="said-of-before"),
        pytest.param([], [Life(0.0, 12.0), Life(14.0)], [], id="the-daemon-was-away"),
    ],
)
def test_a_link_that_brings_nothing_must_be_told_of(heard: list[Told], lives: list[Life], found: list[str]) -> None:
    """Silence is the commonest failure of monitors."""
    truth = Truth(blind=[Blind(MARKET, "market-mute", 10.0, 16.0)])

    assert [finding.kind for finding in judge(truth, heard, lives, 50.0)] == found


def forced(n: int, kind: str, at: float, of: str = "f00usdt-long", incident: str = "f", **body: Any) -> Told:
    return told(n, kind, at, incident, rule="forced_order", account="taken", subject=of, **body)


def pool(resolution: str, at: float = 13.0) -> Told:
    body = {"account": "taken", "subject": "isolated-f00usdt-long", "resolution": resolution}
    return told(2, "resolved", at, "p", **body)


TAKEN = Truth(
    taken={
        "F00USDT": Taken("F00USDT", "LONG", "liquidated", 10.0, Decimal(10)),
        "F01USDT": Taken("F01USDT", "SHORT", "adl", 20.0, Decimal(10)),
    },
    unlisted=[(30.0, 35.0)],
)
STORY = [
    forced(1, "opened", 10.1),
    forced(2, "resolved", 14.0, resolution="liquidated", report={"quantity": "10"}),
    pool("liquidated"),
]
LEG = [
    forced(1, "opened", 20.1, "f01usdt-short", "g"),
    forced(2, "resolved", 23.0, "f01usdt-short", "g", resolution="adl", report={"quantity": "10"}),
]
BROKEN = told(1, "noted", 23.0, "h", rule="hedge_broken", account="taken", subject="f01usdt")


def test_positions_that_were_taken_and_told_so_have_no_findings() -> None:
    """As gone, and no more, what was liquidated may be told of where the exchange refused its list of orders alone."""
    assert judge(TAKEN, [*STORY, *LEG, BROKEN], ALIVE, 50.0) == []
    assert judge(TAKEN, [*STORY, *LEG, BROKEN, pool("position_gone", 32.0)], ALIVE, 50.0) == []


def test_a_report_may_be_missing_only_where_an_earlier_run_has_seen_the_order() -> None:
    """So it is documented."""
    bare = [STORY[0], forced(2, "resolved", 14.0, resolution="liquidated"), *LEG, BROKEN]

    assert judge(TAKEN, bare, [Life(0.0, 11.0), Life(12.0)], 50.0) == []
    assert [finding.kind for finding in judge(TAKEN, bare, [Life(0.0, 20.0)], 50.0)] == ["lost"]


@pytest.mark.parametrize(
    ("heard", "kind"),
    [
        pytest.param([*LEG, BROKEN], "lost", id="liquidation-never-told"),
        pytest.param([STORY[0], *LEG, BROKEN], "lost", id="liquidation-never-ended"),
        pytest.param([STORY[1], *LEG, BROKEN], "lost", id="liquidation-never-begun"),
        pytest.param(
            [
                STORY[0],
                forced(2, "resolved", 14.0, resolution="liquidated", report={"quantity": "7"}),
                *LEG,
                BROKEN,
            ],
            "lost",
            id="a-step-was-left-out",
        ),
        pytest.param(
            [STORY[0], forced(2, "resolved", 14.0, resolution="adl", report={"quantity": "10"}), *LEG, BROKEN],
            "lost",
            id="told-as-another-kind",
        ),
        pytest.param(
            [
                *STORY,
                forced(1, "opened", 18.0, incident="again"),
                forced(2, "resolved", 21.0, incident="again", resolution="liquidated", report={"quantity": "10"}),
                *LEG,
                BROKEN,
            ],
            "doubled",
            id="liquidation-told-twice",
        ),
        pytest.param([*STORY, *LEG], "lost", id="broken-hedge-never-told"),
        pytest.param(
            [
                *STORY,
                *LEG,
                BROKEN,
                told(1, "noted", 25.0, "h2", rule="hedge_broken", account="taken", subject="f01usdt"),
            ],
            "doubled",
            id="broken-hedge-told-twice",
        ),
        pytest.param([*STORY, *LEG, BROKEN, forced(1, "opened", 30.0, "f02usdt-long", "i")], "invented", id="invented"),
        pytest.param([*STORY, *LEG, BROKEN, pool("position_closed")], "false resolved", id="as-closed-by-its-owner"),
        pytest.param([*STORY, *LEG, BROKEN, pool("position_closed", 32.0)], "false resolved", id="as-closed-unlisted"),
        pytest.param([*STORY, *LEG, BROKEN, pool("position_gone")], "false resolved", id="as-gone-though-listed"),
        pytest.param([*STORY, *LEG, BROKEN, pool("recovered", 32.0)], "false resolved", id="as-recovered"),
    ],
)
def test_each_way_to_tell_wrongly_of_a_forced_order_is_found(heard: list[Told], kind: str) -> None:
    """One story for each position, with all of it; and its pool ended as what it was."""
    assert {finding.kind for finding in judge(TAKEN, heard, ALIVE, 50.0)} == {kind}


def test_a_mark_names_the_phase_it_belongs_to() -> None:
    """By that two incidents of one danger are told from two dangers."""
    for ladder in LADDERS.values():
        assert ladder.phase(ladder.calm) is None
        assert [ladder.phase(ladder.mark(n, pulse)) for n in (0, 1, 29) for pulse in (0, 49)] == [0, 0, 1, 1, 29, 29]


def test_a_seed_is_one_story() -> None:
    """A finding is worth nothing if it cannot be looked for again."""
    assert schedule(7, 300) == schedule(7, 300)
    assert schedule(7, 300) != schedule(8, 300)


def test_every_fault_comes_and_every_phase_has_a_quiet_time() -> None:
    """What never happens is not tested; a danger shorter than an outage could not be demanded."""
    stories = [schedule(seed, 300) for seed in range(20)]
    for story in stories:
        for pool in LADDERS:
            flips = [flip.at_s for flip in story.flips if flip.pool == pool]
            assert all(later - earlier > QUIET_S for earlier, later in pairwise(flips))
        assert all(
            not (fault.at_s < end and fault.at_s + fault.for_s > begin)
            for fault in story.faults
            for begin, end in [(b + 0.001, e) for b, e in story.quiet]
        )

    assert {fault.name for story in stories for fault in story.faults} == set(FAULTS)


# ---- its parts ----


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.write(data)
    writer.close()


async def test_the_proxy_forwards_freezes_loses_and_cuts() -> None:
    """A fault that is not made proves nothing."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    seen = bytearray()
    async with server, Proxy(lambda: port, seen.extend) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"

        proxy.freeze()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.2)
        proxy.thaw()
        assert await reader.readexactly(3) == b"two"

        proxy.half_open()
        writer.write(b"lost")
        _, fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        await until(lambda: proxy.connections == 2, "both are open")
        await proxy.cut()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()
        fresh.close()

    assert seen == b"onetwolost"


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    """Both ways, in a process that runs on."""
    clock = WallClock(tmp_path)
    if not clock.env:
        pytest.skip("no C compiler: wall clocks cannot be moved here")
    code = (
        "import sys, time\nfor _ in sys.stdin: print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **clock.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset in (0, 600, -600, 0):
            clock.jump(offset)
            process.stdin.write(b"\n")
            process.stdin.flush()
            wall, wall_ns, monotonic = map(float, process.stdout.readline().split())
            assert abs(wall - time.time() - offset) < 5
            assert abs(wall_ns - wall) < 1
            assert abs(monotonic - time.monotonic()) < 5
        process.stdin.close()


# ---- the daemon ----


async def test_nothing_is_lost_doubled_or_false_in_a_storm(tmp_path: Path) -> None:
    """One storm of the chaos run, as a matter of course; `.ci/run` and `.ci/long` play many."""
    needs_mosquitto()
    report = await Run(1, 12, tmp_path).play()

    assert report.findings == list[Finding](), "\n".join(report.story)
    assert report.figures["events"]
    assert report.figures["secrets looked for"] > len(LADDERS)
    assert shutil.which("cc") is None or report.notes == []
