"""The daily summary: proof of life once a day, never twice for one date, in words for a phone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from monitor.core import Kept
from monitor.effects import Story
from monitor.events import LinkState, Tick
from monitor.judges.daily import Daily
from tests import stories
from tests.rig import Listener, Mosquitto, until, watching, write_config
from tests.schemas import validate
from tests.watched import Watched, of_rule, row

EIGHT = Daily(time(8), UTC)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BERLIN = ZoneInfo("Europe/Berlin")


class Days(Watched):
    """A core that tells a daily summary; its tests begin at 08:00 UTC."""

    def __init__(
        self, *accounts: str, daily: Daily = EIGHT, shift_ms: int = 0, kept: Kept | None = None, start: float = 0.0
    ) -> None:
        super().__init__(*accounts, kept=kept, start=start, wall_shift_ms=shift_ms, daily=daily)

    def opened(self) -> Days:
        """One BTC bought at 60000, on 12000 USDT: its mark is known, and all is live."""
        self.begin("12000", row("BTCUSDT", "1", "60000"))
        self.step(self.mark("60000"))
        return self

    def summaries(self, seconds: int = 1, every: int = 1) -> list[Story]:
        """What is told of a number of ticks."""
        told = []
        for _ in range(0, seconds, every):
            told += of_rule(self.tell(self.mark("60000", after=every), Tick(), after=every), "summary")
        return told

    def left(self) -> Kept:
        """What the next run finds."""
        daily = {key: saved for (table, key), saved in self.saved.items() if table == "daily"}
        return structs.replace(self.kept(), daily=daily)


# ---- when ----


def test_a_summary_is_told_once_at_its_time() -> None:
    """Twice a day would be noise, and never would be silence that looks like safety."""
    core = Days(shift_ms=-5000).opened()
    before = core.summaries(2)
    at = core.summaries(3)
    after = core.summaries(3600, every=10)

    assert (len(before), len(at), len(after)) == (0, 1, 0)


def test_every_account_has_its_own() -> None:
    """Whoever follows one account must not need another's."""
    core = Days("main", "spare")
    core.connect()
    for name in core.names:
        core.step(*core.truth("100", account=name))

    assert [s.account.name for s in core.summaries()] == ["main", "spare"]


def test_of_many_accounts_one_step_tells_some() -> None:
    """A price that falls at eight must not wait until a thousand summaries have been written."""
    core = Days(*(f"a{i}" for i in range(200)))
    core.connect()
    for name in core.names:
        core.step(*core.truth("100", account=name), after=0)
    told = [of_rule(core.tell(Tick()), "summary")]
    while core.core.is_ticking:
        told.append(of_rule(core.tell(after=0), "summary"))

    assert [s.account.name for step in told for s in step] == list(core.names)
    assert max(map(len, told)) < 50


def test_the_next_day_is_told_again() -> None:
    """Proof of life is worth a day."""
    core = Days().opened()
    told = core.summaries(2 * DAY_MS // 1000 + 60, every=300)

    assert [s.facts["date"] for s in told] == ["2026-11-21", "2026-11-22", "2026-11-23"]


@pytest.mark.parametrize(("late_ms", "told"), [(HOUR_MS - 10_000, 1), (HOUR_MS, 0), (5 * HOUR_MS, 0)])
def test_a_day_missed_while_down_is_told_at_most_an_hour_late(late_ms: int, told: int) -> None:
    """What is told at noon as the morning's would mislead."""
    core = Days(shift_ms=late_ms).opened()

    assert len(core.summaries(5)) == told


def test_a_restart_tells_nothing_twice() -> None:
    """A daemon that is restarted at eight must not repeat itself."""
    first = Days().opened()
    [_] = first.summaries()
    second = Days(kept=first.left(), start=100).opened()

    assert second.summaries(600, every=10) == []


def test_a_row_that_does_not_read_is_no_reason_to_stop() -> None:
    """Told once more is better than a daemon that does not start."""
    core = Days(kept=Kept(daily={"main": b"\x00"})).opened()

    assert len(core.summaries()) == 1


def test_a_clock_that_jumps_makes_nobody_hear_a_date_twice() -> None:
    """A virtual machine that wakes up, or a time server that is wrong for a minute, is no new day."""
    core = Days().opened()
    dates = [s.facts["date"] for s in core.summaries()]
    for jump_ms in (-600_000, 600_000, DAY_MS, -DAY_MS, 3 * DAY_MS, -3 * DAY_MS, -600_000):
        core.wall_shift_ms += jump_ms
        dates += [s.facts["date"] for s in core.summaries(10)]

    assert dates == ["2026-11-21", "2026-11-22", "2026-11-24"]


# ---- time zones ----


def hours(day: date, zone: ZoneInfo) -> Iterator[int]:
    """Every ten minutes from the noon before a day to the noon after it, as Unix milliseconds."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone).astimezone(UTC) - timedelta(days=1)
    return (round((noon + timedelta(minutes=10 * i)).timestamp() * 1000) for i in range(6 * 49))


@pytest.mark.parametrize(
    ("day", "at", "zone", "first"),
    [
        pytest.param(
            date(2026, 3, 29), time(2, 30), BERLIN, "2026-03-29T01:30", id="a time that is left out in spring"
        ),
        pytest.param(
            date(2026, 10, 25), time(2, 30), BERLIN, "2026-10-25T00:30", id="a time that comes twice in autumn"
        ),
        pytest.param(date(2026, 3, 29), time(8), BERLIN, "2026-03-29T06:00", id="the morning of summer time"),
        pytest.param(date(2026, 10, 25), time(8), BERLIN, "2026-10-25T07:00", id="the morning of winter time"),
        pytest.param(
            date(2026, 6, 1), time(23, 30), BERLIN, "2026-06-01T21:30", id="an hour that ends on another date"
        ),
        pytest.param(date(2026, 6, 1), time(0), ZoneInfo("Asia/Kathmandu"), "2026-05-31T18:15", id="midnight"),
    ],
)
def test_a_date_is_due_for_one_hour_from_its_time(day: date, at: time, zone: ZoneInfo, first: str) -> None:
    """On the days on which clocks are changed, too: neither never nor twice."""
    due = [ms for ms in hours(day, zone) if Daily(at, zone).due(ms) == day]
    begins = round(datetime.fromisoformat(f"{first}+00:00").timestamp() * 1000)
    inside = [ms for ms in hours(day, zone) if begins <= ms < begins + HOUR_MS]

    assert due == inside
    assert due


def test_a_date_that_a_zone_leaves_out_is_not_told_beside_the_next() -> None:
    """Samoa went from the 29th to the 31st of December 2011."""
    daily = Daily(time(8), ZoneInfo("Pacific/Apia"))
    begins = round(datetime(2011, 12, 29, tzinfo=UTC).timestamp() * 1000)
    due = [daily.due(begins + minutes * 60_000) for minutes in range(0, 3 * 24 * 60, 10)]

    assert Counter(day for day in due if day is not None) == {date(2011, 12, d): 6 for d in (29, 31)} | {
        date(2012, 1, 1): 6
    }


# ---- what ----


def test_the_words_are_ready_for_a_phone() -> None:
    """A person reads one line on a lock screen, and should know whether to unlock it."""
    core = Days().opened()
    [story] = core.summaries()

    assert story.title == "main: all is well, 1 position, worst margin ratio 2.0 %"
    assert story.text == (
        "main: watching 1 position in 1 pool (cross-usdt). Worst margin ratio 2.0 % (cross-usdt)."
        " Nearest to liquidation 19.6 % (cross-usdt: BTCUSDT long liquidates at 48192.8)."
        " No incident is open. Oldest mark 0 s old, account confirmed 2 s ago. Up 2 s, 0 reconnects."
    )


def test_the_payload_keeps_to_its_schema() -> None:
    """A machine reads the same as the person: exact, under names that stay."""
    core = Days().opened()
    [story] = core.summaries()
    [message] = core.messages.of(story)
    body = json.loads(message.payload)

    validate(message.topic, message.payload)
    assert message.topic == "marginwatch/main/event/info/summary"
    assert (body["event"], body["rule"], body["subject"], body["severity"]) == ("noted", "summary", "daily", "info")
    assert body["facts"] == {
        "date": "2026-11-21",
        "pools": 1,
        "positions": 1,
        "worst_pool": "cross-usdt",
        "worst_margin_ratio": 0.02,  # 60000 × 0.004 / 12000
        "nearest_pool": "cross-usdt",
        "worst_distance": 0.19678714,  # 1 − 48000 / 0.996 / 60000, cut
        "incidents_open": 0,
        "worst_severity": "ok",
        "uptime_s": 2,
        "reconnects": 0,
    }
    assert body["after"]["margin_ratio"] == 0.02


def test_open_incidents_come_first() -> None:
    """All is not well where something is open."""
    core = Days(shift_ms=-60_000)
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.price("48240")  # ratio 0.804, nearly liquidated
    for _ in range(70):
        told = of_rule(core.price("48240"), "summary")
        if told:
            break

    assert told[0].title.startswith("main: 2 incidents open (critical), 1 position, worst margin ratio 80.4 %")
    assert "Open: " in told[0].text
    assert told[0].facts["worst_severity"] == "critical"


def test_an_account_without_positions_is_watched_as_well() -> None:
    """Nothing held is no reason for silence."""
    core = Days()
    core.connect()
    core.step(*core.truth("100"))
    [story] = core.summaries()

    assert story.title == "main: all is well, 0 positions"
    assert "watching; no positions are open" in story.text


def test_it_waits_a_minute_for_data_and_then_says_that_there_is_none() -> None:
    """A restart at eight must not tell of unknown positions a second before they are read, nor keep silent for ever."""
    core = Days()
    waiting = [s for _ in range(60) for s in of_rule(core.tell(Tick()), "summary")]
    told = [s for _ in range(5) for s in of_rule(core.tell(Tick()), "summary")]

    assert waiting == []
    assert [s.title for s in told] == ["main: positions are unknown"]
    assert told[0].facts["positions"] is None
    for message in core.messages.of(told[0]):
        validate(message.topic, message.payload)


def test_stale_data_is_called_stale() -> None:
    """Figures that may be wrong must not look like news."""
    core = Days(shift_ms=-30_000).opened()
    core.step(core.link("private", LinkState.DOWN))
    told = [s for _ in range(120) for s in of_rule(core.tell(core.mark("60000"), Tick()), "summary")]

    assert len(told) == 1
    assert told[0].title.startswith("main: data is stale, 1 incident open (critical), 1 position")
    assert "STALE: oldest mark 0 s old" in told[0].text


def test_switched_off_it_says_nothing() -> None:
    """Some have their own."""
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))

    assert core.core.setup.daily is None
    assert of_rule(core.hold(60, "60000"), "summary") == []


# ---- the real thing ----


async def test_the_daemon_tells_it_once_over_two_runs(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Through the real store: what was told before a restart is not told after it."""
    lately = datetime.now(UTC) - timedelta(minutes=1)
    summary = {"at": f"{lately:%H:%M}", "timezone": "UTC"}
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, summary=summary)
        async with watching(config):
            told = await listener.event("summary", "noted")
        async with watching(config):
            await until(lambda: listener.now.get("marginwatch/status") == b"online", "the second run is online")
            first = len(listener.heard)
            await until(
                lambda: (
                    [h.body["freshness"] for h in listener.heard[first:] if h.topic == "marginwatch/main/summary"][-3:]
                    == ["live"] * 3
                ),
                "it sees, and would have told",
            )

    assert told["facts"]["positions"] == 2
    assert told["title"] == "main: all is well, 2 positions, worst margin ratio 2.4 %"
    assert len(listener.events("summary")) == 1
