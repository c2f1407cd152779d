"""`marginwatch history`: what has happened, out of the store."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monitor.__main__ import main
from monitor.effects import Save
from monitor.message import Message
from monitor.shell.clock import now
from monitor.shell.owed import Batch
from monitor.shell.store import Store
from tests import stories
from tests.rig import Listener, Mosquitto, until, watching, write_config

HOUR_MS = 3_600_000
CONFIG = """
[store]
path = "{store}"
[[account]]
name = "main"
venue = "binance-usdm"
api_key = "env:UNSET_KEY"
secret = "env:UNSET_SECRET"
"""


class Written:
    """A config and a store with two incidents: one of yesterday evening that is over, one that is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.store = folder / "s.sqlite3"
        self.config.write_text(CONFIG.format(store=self.store), "utf-8")
        self.now_ms = now().wall_ms
        self.over_ms = self.now_ms - 30 * HOUR_MS
        self.open_ms = self.now_ms - 2 * HOUR_MS
        self.over = f"main.cross-usdt.margin_ratio.{self.over_ms}"
        self.open = f"main.market-live.data_stale.{self.open_ms}"

    def event(self, incident_id: str, n: int, kind: str, rank: int, after_ms: int, **more: Any) -> Message:
        account, subject, rule, opened = incident_id.split(".")
        body = {"account": account, "rule": rule, "subject": subject, "event": kind, **more}
        payload = json.dumps(body).encode()
        return Message(
            "topic", payload, False, 1, rank, f"{incident_id}.{n}", incident_id, int(opened), int(opened) + after_ms
        )

    def fill(self) -> Written:
        self.keep(
            [
                self.event(
                    self.over, 1, "opened", 3, 0, title="ratio 81 %", text="First.", symbol="BTCUSDT", side="long"
                ),
                self.event(self.over, 2, "worsened", 4, 60_000, title="ratio 92 %", text="Second."),
                self.event(
                    self.over, 3, "resolved", 4, 7_500_000, title="ratio 60 %", text="Over.", resolution="recovered"
                ),
                self.event(self.open, 1, "opened", 3, 0, title="no data for 15 s", text="No data."),
            ],
            [Save("incident", "main/data_stale/market-live", b"row")],
        )
        return self

    def keep(self, events: Iterable[Message], saves: Iterable[Save] = ()) -> None:
        async def write() -> None:
            store = Store(self.store, 90, lambda b, e: None, lambda r: None, lambda f: None)
            await store.open()
            store.keep(Batch(tuple(events), tuple(saves)))
            store.sent(f"{self.over}.1", self.over_ms + 20)
            await store.close()

        asyncio.run(write())

    def history(self, *arguments: str) -> int:
        return main(["history", "--config", str(self.config), *arguments])


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path).fill()


def test_incidents_that_were_open_in_that_time_are_listed(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """What was opened before and ended within is part of what happened; what ended before is not."""
    assert written.history("--since", "24h") == 0
    recent = capsys.readouterr().out
    assert written.history("--since", "29h") == 0
    longer = capsys.readouterr().out.splitlines()

    assert "cross-usdt" not in recent
    assert longer[0].split("  ")[0] == "OPENED (UTC)"
    assert re.split(r"  +", longer[1])[1:] == [
        "2h 05m",
        "main",
        "cross-usdt",
        "margin_ratio",
        "critical",
        "recovered",
        "ratio 92 %",
    ]
    assert re.split(r"  +", longer[2])[1:] == [
        "2h 00m",
        "main",
        "market-live",
        "data_stale",
        "warning",
        "open",
        "no data for 15 s",
    ]
    assert len(longer) == 3


def test_json_lines_carry_every_column(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """A program reads the same table."""
    assert written.history("--since", "7d", "--json") == 0

    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first | {"opened_at": "", "resolved_at": ""} == {
        "incident_id": written.over,
        "account": "main",
        "rule": "margin_ratio",
        "subject": "cross-usdt",
        "symbol": "BTCUSDT",
        "side": "long",
        "opened_at": "",
        "resolved_at": "",
        "peak_severity": "critical",
        "resolution": "recovered",
        "title": "ratio 92 %",
    }
    assert (second["resolved_at"], second["resolution"]) == (None, None)


@pytest.mark.parametrize("suffix", ["", ".2"], ids=["by its id", "by the id of an event"])
def test_one_incident_is_told_event_by_event(written: Written, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    """Time, severity and text of each, however long ago; and whether the broker has it."""
    assert written.history("--incident", written.over + suffix) == 0

    said = capsys.readouterr().out.splitlines()
    assert said[0] == written.over
    assert "peak critical" in said[1]
    assert "after 2h 05m: recovered" in said[1]
    assert [line.split(maxsplit=2)[2] for line in said if line.startswith("20")] == [
        "warning  opened",
        "critical  worsened  (the broker does not have it yet)",
        "critical  resolved  (the broker does not have it yet)",
    ]
    assert [line.strip() for line in said if line.startswith("  ")] == ["First.", "Second.", "Over."]


def test_events_as_json_lines_are_the_bodies_that_were_published(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks into a case needs the figures, not our summary of them."""
    assert written.history("--incident", written.over, "--json") == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event_id"] for line in lines] == [f"{written.over}.{n}" for n in (1, 2, 3)]
    assert [line["payload"]["text"] for line in lines] == ["First.", "Second.", "Over."]
    assert [line["sent_at"] is None for line in lines] == [False, True, True]


@pytest.mark.parametrize("part", ["cut", "mistyped"])
def test_an_unknown_id_names_the_nearest(written: Written, capsys: pytest.CaptureFixture[str], part: str) -> None:
    """Ids are long; a slip must not end in a search."""
    wrong = {"cut": "cross-usdt.margin_ratio", "mistyped": written.over.replace("cross", "crass")}[part]

    assert written.history("--incident", wrong) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert f"did you mean {written.over}" in said.err


def test_an_incident_whose_end_nobody_wrote_down_is_not_open_for_ever(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    """The account is watched no more, or the store was away when it ended: then the next of its kind shows it."""
    again = f"main.cross-usdt.margin_ratio.{written.open_ms + 1}"
    third = f"main.cross-usdt.margin_ratio.{written.open_ms + 2}"
    written.keep([written.event(again, 1, "opened", 3, 0), written.event(third, 1, "opened", 3, 0)])
    written.keep([], [Save("incident", "main/data_stale/market-live", None)])

    assert written.history("--json") == 0

    found = {line["incident_id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (found[again]["resolved_at"] is None, found[again]["resolution"]) == (False, None)
    assert (found[written.open]["resolved_at"] is None, found[written.open]["resolution"]) == (False, None)
    assert found[third]["resolved_at"] is None


def test_a_damaged_body_does_not_hide_the_rest(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that went bad in one event are no reason to show none."""
    with closing(sqlite3.connect(written.store)) as connection:
        connection.execute("UPDATE events SET payload = x'ff00' WHERE event_id = ?", (f"{written.over}.2",))
        connection.commit()

    assert written.history("--incident", written.over) == 0

    assert [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")] == [
        "First.",
        "its text does not read",
        "Over.",
    ]


def test_a_store_of_version_1_is_read_as_it_lies_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After an update, before the daemon has been started: a look changes nothing."""
    from tests.test_store import event, write_version_1

    written = Written(tmp_path)
    write_version_1(
        written.store, [(event(1, at_ms=written.open_ms), None)], [("incident", "main/margin_ratio/cross-usdt", b"")]
    )
    before = written.store.read_bytes()

    assert written.history() == 0

    assert "cross-usdt" in capsys.readouterr().out
    assert written.store.read_bytes() == before


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No store, none that reads, no config: each has its own words, and none a traceback."""
    written = Written(tmp_path)
    assert written.history() == 1
    missing = capsys.readouterr().err
    written.store.write_bytes(b"this is no database, and it is long enough to be sure" * 9)
    assert written.history() == 1
    damaged = capsys.readouterr().err
    written.config.write_text("[store]\nkeep_dayz = 3\n", "utf-8")
    assert written.history() == 78
    mistaken = capsys.readouterr().err

    assert "there is no store yet" in missing
    assert "is damaged" in damaged
    assert "keep_dayz" in mistaken


def test_the_next_step_names_the_config_that_was_named(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it the store of another daemon would be asked, or none be found."""
    assert written.history("--since", "365d") == 0
    listed = capsys.readouterr().err
    assert written.history("--incident", "no.such.incident") == 1
    unknown = capsys.readouterr().err

    assert f"the events of one: marginwatch history --config {written.config} --incident main." in listed
    assert f"`marginwatch history --config {written.config} --since 7d` lists them" in unknown


def test_a_terminal_without_these_letters_gets_the_list_too(written: Written) -> None:
    """Titles have signs that Latin-1 has not."""
    third = f"main.cross-usdc.margin_ratio.{written.open_ms}"
    written.keep([written.event(third, 1, "opened", 3, 0, title="ratio ≥ 80 %", text="Near ≥.")])
    for arguments, said in (((), b"ratio \\u2265 80 %"), (("--incident", third), b"Near \\u2265.")):
        done = subprocess.run(
            [sys.executable, "-m", "monitor", "history", "--config", str(written.config), *arguments],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        )

        assert done.returncode == 0, done.stderr.decode()
        assert said in done.stdout


def test_why_there_is_no_bundle_of_an_incident_that_was_mild_until_the_exchange_ended_it(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forced end is critical, and saves no session of this incident; the log has nothing of it to look for."""
    mild = f"main.cross-usdt.liquidation_distance.{written.open_ms}"
    grave = f"main.cross-usdc.liquidation_distance.{written.open_ms}"
    for incident_id, rank in ((mild, 3), (grave, 4)):
        opened = written.event(incident_id, 1, "opened", rank, 0, text="Near.")
        over = written.event(incident_id, 2, "resolved", 4, 9, text="Liquidated.", resolution="liquidated")
        written.keep([opened, over])

    out = str(written.folder / "bundle.jsonl")
    assert (written.history("--incident", mild, "--bundle", out)) == 1
    of_mild = capsys.readouterr().err
    assert (written.history("--incident", grave, "--bundle", out)) == 1
    of_grave = capsys.readouterr().err

    assert "was below that until it ended: liquidated" in of_mild
    assert "the log says why" not in of_mild
    assert "the log says why" in of_grave


@pytest.mark.parametrize("span", ["24", "h", "nanh", "-3h", "a day"])
def test_a_span_that_does_not_read_is_wrong_usage(
    written: Written, capsys: pytest.CaptureFixture[str], span: str
) -> None:
    """Rather than the incidents of some other time."""
    with pytest.raises(SystemExit) as ended:
        written.history(f"--since={span}")

    assert ended.value.code == 2
    assert "is no duration" in capsys.readouterr().err


async def test_history_reads_while_the_daemon_writes(
    broker: Mosquitto, listener: Listener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked in the middle of trouble."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        async with watching(config):
            await listener.state("marginwatch/main/summary", freshness="live")
            exchange.set_mark("BTCUSDT", "50000")
            opened = await listener.event("liquidation_distance", "opened")

            status = await asyncio.to_thread(main, ["history", "--config", str(config), "--json"])
            of_one = await asyncio.to_thread(
                main, ["history", "--config", str(config), "--json", "--incident", opened["incident_id"]]
            )

    assert (status, of_one) == (0, 0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    listed = next(line for line in lines if line.get("incident_id") == opened["incident_id"])
    told = next(line for line in lines if line.get("event_id") == opened["event_id"])
    assert (listed["resolved_at"], listed["peak_severity"], listed["title"]) == (None, "warning", opened["title"])
    assert told["payload"] == opened


async def test_a_store_that_is_away_is_told_over_mqtt_too(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Nobody reads the log of a daemon that seems well; and its alerts go out from memory meanwhile."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port)
        store = tmp_path / "d" / "store.sqlite3"
        store.write_bytes(b"this is no database, and it is long enough to be sure" * 9)
        async with watching(config) as log:
            told = await listener.event("store_unusable", "opened")
            exchange.set_mark("BTCUSDT", "50000")
            alert = await listener.event("liquidation_distance", "opened")
            store.rename(tmp_path / "away")
            over = await listener.event("store_unusable", "resolved")
            await until(lambda: "store usable again" in log.getvalue(), "the log says so too")
        with closing(sqlite3.connect(store)) as connection:
            kept = {event_id for (event_id,) in connection.execute("SELECT event_id FROM events")}

    assert "damaged" in told["text"]
    assert over["incident_id"] == told["incident_id"]
    assert {told["event_id"], alert["event_id"], over["event_id"]} <= kept
