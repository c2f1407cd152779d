"""The store: what it promises when the disk does not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from monitor.compressed import MANY
from monitor.effects import Save
from monitor.errors import StoreError
from monitor.message import Message
from monitor.shell import chronicle
from monitor.shell.database import Database, read_only
from monitor.shell.owed import Batch, Found, Owed, Sent
from monitor.shell.store import Store
from tests.rig import until

ROOT = Path(__file__).resolve().parent.parent
DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000


def event(n: int, kind: str = "opened", *, of: str = "cross-usdt", at_ms: int | None = None, **more: Any) -> Message:
    """The n-th event of an incident of this subject."""
    opened_ms = 1_795_248_000_000 if at_ms is None else at_ms
    incident_id = f"main.{of}.margin_ratio.{opened_ms}"
    body = {"account": "main", "rule": "margin_ratio", "subject": of, "event": kind, "title": f"title {n}", **more}
    return Message(
        f"marginwatch/main/event/{kind}/margin_ratio",
        json.dumps(body).encode(),
        False,
        1,
        3,
        f"{incident_id}.{n}",
        incident_id,
        opened_ms,
        opened_ms + n if at_ms is None else at_ms,
    )


EVENT = event(1)
BATCH = Batch((EVENT,), (Save("incident", "main/margin_ratio/cross-usdt", b"row"),))


class Heard:
    """What a store has said."""

    def __init__(self) -> None:
        self.kept: asyncio.Queue[StoreError | None] = asyncio.Queue()
        self.states: asyncio.Queue[str | None] = asyncio.Queue()
        self.found: asyncio.Queue[Found] = asyncio.Queue()

    async def answer(self) -> StoreError | None:
        """Of the next batch."""
        return await asyncio.wait_for(self.kept.get(), 20)

    async def state(self) -> str | None:
        return await asyncio.wait_for(self.states.get(), 20)


def store_of(path: Path, heard: Heard, pauses_s: tuple[float, float] = (0.05, 0.1), **more: Any) -> Store:
    return Store(
        path,
        90,
        lambda _, error: heard.kept.put_nowait(error),
        heard.states.put_nowait,
        heard.found.put_nowait,
        pauses_s=pauses_s,
        **more,
    )


@asynccontextmanager
async def opened(
    path: Path, exchange_ahead_ms: int | None = 0, **more: Any
) -> AsyncIterator[tuple[Store, Heard, Found]]:
    heard = Heard()
    store = store_of(path, heard, **more)
    store.exchange_ahead_ms = exchange_ahead_ms
    found = await store.open()
    try:
        yield store, heard, found
    finally:
        await store.close()


async def what_is_left(path: Path) -> Found:
    """What the next run finds."""
    async with opened(path) as (_, heard, found):
        assert await heard.state() is None
    return found


async def why_refused(path: Path) -> str:
    """What a store says that cannot be used; what is told goes out all the same."""
    async with opened(path) as (store, heard, _):
        reason = await heard.state()
        store.keep(BATCH)
        assert isinstance(await heard.answer(), StoreError)
    return reason or ""


def held_by_another(path: Path) -> Callable[[], None]:
    """As a backup holds it; returns what lets go of it."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    return holder.close


async def kept_in(path: Path, *batches: Batch) -> None:
    """A run that keeps these and ends."""
    async with opened(path) as (store, heard, _):
        for batch in batches:
            store.keep(batch)
            assert await heard.answer() is None


def beside(path: Path) -> list[Path]:
    """The store and all that lies beside it under its name."""
    return sorted(path.parent.glob(f"{path.name}*"))


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


# ---- keeping ----


async def test_an_event_and_its_incident_are_on_disk_before_they_are_called_kept(tmp_path: Path) -> None:
    """What the broker is given must survive whatever comes next."""
    async with opened(tmp_path / "s.sqlite3") as (store, heard, _):
        store.keep(BATCH)
        assert await heard.answer() is None

        with closing(read_only(tmp_path / "s.sqlite3")) as other:
            assert other.execute("SELECT event_id, sent_ms FROM events").fetchall() == [(EVENT.event_id, None)]
            assert other.execute("SELECT row FROM kept").fetchall() == [(b"row",)]
            assert [incident.subject for incident in chronicle.since(other, 0)] == ["cross-usdt"]
    assert (tmp_path / "s.sqlite3").stat().st_mode & 0o777 == 0o600


async def test_an_event_is_owed_until_the_broker_has_it(tmp_path: Path) -> None:
    """An acknowledgement alone ends it, whether it comes before or after a restart."""
    second = event(2, "worsened")
    async with opened(tmp_path / "s.sqlite3") as (store, heard, _):
        store.keep(Batch((EVENT, second), ()))
        assert await heard.answer() is None
        store.sent(EVENT.event_id or "", NOW_MS)

    left = await what_is_left(tmp_path / "s.sqlite3")

    assert left.unsent == (second,)
    assert left.last_named_ms == EVENT.opened_ms


async def test_rows_of_any_kind_are_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    """Incidents, baselines and silences are the core's business; the store only has to have them."""
    await kept_in(
        tmp_path / "s.sqlite3",
        Batch((), (Save("silence", "a", b"1"), Save("baseline", "main/x", b"2"), Save("incident", "i", b"3"))),
        Batch((), (Save("baseline", "main/x", b"4"), Save("incident", "i", None))),
    )

    left = await what_is_left(tmp_path / "s.sqlite3")

    assert left.rows == {"silence": {"a": b"1"}, "baseline": {"main/x": b"4"}}


def some_stories(seed: int) -> list[Batch]:
    """Steps of several incidents at a time, of which some end and some are lost sight of."""
    random = Random(seed)
    opened_ms: dict[str, int] = {}
    numbers: Counter[str] = Counter()
    steps = []
    for at_ms in range(NOW_MS, NOW_MS + 400):
        of = random.choice("abcdefgh")
        kind = random.choice(["worsened", "improved", "resolved"]) if of in opened_ms else "opened"
        if kind == "opened" or random.random() < 0.1:  # its end was lost, and it opens again
            kind, opened_ms[of], numbers[of] = "opened", at_ms, 0
        numbers[of] += 1
        told = event(numbers[of], kind, of=of, at_ms=opened_ms[of], title=f"{kind} at {at_ms}", symbol="BTCUSDT")
        told = structs.replace(told, at_ms=at_ms, rank=random.choice([2, 3, 4]))
        row = f"{of} {at_ms}".encode()
        if kind == "resolved":
            del opened_ms[of]
        steps.append(
            Batch((told,), (Save("incident", f"main/margin_ratio/{of}", None if kind == "resolved" else row),))
        )
    return steps


@pytest.mark.parametrize("size", [3, 64, 65, 400])
async def test_however_many_come_at_a_time_the_store_tells_the_same(tmp_path: Path, size: int) -> None:
    steps = some_stories(size)
    for name, at_a_time in (("one", 1), ("many", size)):
        database = Database(tmp_path / name, 1.0)
        for start in range(0, len(steps), at_a_time):
            owed = Owed()
            for step in steps[start : start + at_a_time]:
                owed.take(step)
            database.write(owed)
        owed = Owed()
        for step in steps[:300]:
            owed.take(Sent(step.events[0].event_id or "", step.events[0].at_ms + 1))
        database.write(owed)
        database.close()

    one, many = (dump(tmp_path / name, "events", "incidents", "kept") for name in ("one", "many"))
    assert [sorted(table) for table in many] == [sorted(table) for table in one]


@pytest.mark.parametrize("looked_into", [False, True])
async def test_what_a_kill_has_left_unsorted_is_there_as_if_it_had_been_sorted(
    tmp_path: Path, looked_into: bool
) -> None:
    """An event is called kept before it is in its tables; whoever dies in between has kept it all the same."""
    in_time, killed, left = (Database(tmp_path / name, 1.0) for name in ("in time", "killed", "left"))
    left.close()
    for step in some_stories(7):
        owed = Owed()
        owed.take(step)
        for database in (in_time, killed):
            database.write(owed)
        in_time.sort()
    in_time.close()
    for end in ("", "-wal"):
        shutil.copy(tmp_path / f"killed{end}", tmp_path / f"left{end}")
    killed.close()

    tables = "events", "incidents", "kept"
    if looked_into:
        with closing(read_only(tmp_path / "left")) as connection:
            found = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    else:
        Database(tmp_path / "left", 1.0).close()
        found = dump(tmp_path / "left", *tables)

    assert len(dump(tmp_path / "left", "unsorted")[0]) == (400 if looked_into else 0)
    assert [sorted(table) for table in found] == [sorted(table) for table in dump(tmp_path / "in time", *tables)]


async def test_what_comes_later_stands_over_what_is_not_sorted_in_yet(tmp_path: Path) -> None:
    """A row that comes alone is written past one that came with an event before it."""
    await kept_in(
        tmp_path / "s.sqlite3",
        Batch((EVENT,), (Save("baseline", "main/x", b"1"), Save("silence", "a", b"1"))),
        Batch((), (Save("baseline", "main/x", b"2"), Save("silence", "a", None))),
    )

    assert (await what_is_left(tmp_path / "s.sqlite3")).rows == {"baseline": {"main/x": b"2"}}


async def test_the_disk_is_asked_before_anything_is_called_written(tmp_path: Path) -> None:
    """An event has to outlive a power cut; and whatever else lies in the cache, the next event would wait for it."""
    database = Database(tmp_path / "s.sqlite3", 1.0)
    owed = Owed()
    for job in (BATCH, Sent(EVENT.event_id or "", NOW_MS), Batch((), (Save("baseline", "main/a", b"row"),))):
        owed.take(job)
        database.write(owed)
        owed.on_disk()
        [mode] = database._open.execute("PRAGMA synchronous").fetchone()
        assert mode == 2  # FULL: the log is synced before a transaction returns
    database.close()


async def test_ten_thousand_unsent_events_are_found_in_order_and_at_once(tmp_path: Path) -> None:
    """A broker that was away for days must not make the next start slow: while it lasts, nobody watches."""
    path = tmp_path / "s.sqlite3"
    many = [event(n, of=f"pool-{n % 50}", text="x" * 1500) for n in range(10_000)]
    await kept_in(path, *(Batch(tuple(many[n : n + 500]), ()) for n in range(0, 10_000, 500)))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    began = time.monotonic()
    async with opened(path) as (_, _, found):
        took_s = time.monotonic() - began

    assert [e.event_id for e in found.unsent] == [e.event_id for e in many]
    assert took_s < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


async def test_what_is_too_old_goes_and_what_the_broker_does_not_have_stays(tmp_path: Path) -> None:
    """The file must not grow for ever, and no event is ever lost to tidiness."""
    old_ms, path = NOW_MS - 91 * DAY_MS, tmp_path / "s.sqlite3"
    old = [event(1, of="sent", at_ms=old_ms), event(2, "resolved", of="sent", at_ms=old_ms)]
    unsent, fresh = event(1, of="unsent", at_ms=old_ms), event(1, of="fresh", at_ms=NOW_MS)
    async with opened(path) as (store, heard, _):
        store.keep(Batch((*old, unsent, fresh), ()))
        assert await heard.answer() is None
        for one in old:
            store.sent(one.event_id or "", old_ms)
        store.sent(fresh.event_id or "", NOW_MS)

    left = await what_is_left(path)

    assert left.unsent == (unsent,)
    with closing(read_only(path)) as connection:
        assert [row.subject for row in chronicle.since(connection, 0)] == ["unsent", "fresh"]
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (2,)


@pytest.mark.parametrize("ahead_ms", [None, -10 * DAY_MS], ids=["not-measured", "ahead-of-the-exchange"])
async def test_on_the_word_of_a_clock_that_may_be_wrong_nothing_goes(tmp_path: Path, ahead_ms: int | None) -> None:
    """What is ninety-one days old by a clock that is ten days ahead is to be kept, and a history does not come back."""
    at_ms, path = NOW_MS - 91 * DAY_MS, tmp_path / "s.sqlite3"
    story = [event(1, at_ms=at_ms), event(2, "resolved", at_ms=at_ms)]
    async with opened(path) as (store, heard, _):
        store.keep(Batch(tuple(story), ()))
        assert await heard.answer() is None
        for one in story:
            store.sent(one.event_id or "", at_ms)

    async with opened(path, ahead_ms):
        pass

    with closing(read_only(path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (2,)
        assert len(list(chronicle.since(connection, 0))) == 1


async def test_the_room_of_what_has_gone_is_used_again(tmp_path: Path) -> None:
    """A file that only grows ends as a full disk."""
    path, sizes = tmp_path / "s.sqlite3", []
    for run in range(4):
        old_ms = NOW_MS - 100 * DAY_MS + run
        events = [event(n, of=f"run-{run}", at_ms=old_ms, text="x" * 2000) for n in range(2_000)]
        async with opened(path) as (store, heard, _):
            store.keep(Batch(tuple(events), ()))
            assert await heard.answer() is None
            for one in events:
                store.sent(one.event_id or "", old_ms)
        await what_is_left(path)  # each start deletes a part
        await what_is_left(path)
        sizes.append(path.stat().st_size)

    assert sizes[-1] < 1.2 * sizes[0]


# ---- a disk that does not do ----


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of its own, for root alone."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(disk: Path) -> Path:
    """Fill a disk to the last block. Returns the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(b"x" * 4096)
    return filler


async def missed_and_made_up_for(path: Path, store: Store, heard: Heard, mend: Callable[[], object]) -> str:
    """With a store whose disk has just failed: an event goes out all the same, and is written once that is mended.

    Returns: What was wrong.
    """
    store.keep(Batch((event(2, "worsened"),), (Save("incident", "main/margin_ratio/cross-usdt", b"later"),)))
    refused = await heard.answer()
    reason = await heard.state()
    mend()
    assert await heard.state() is None
    await store.close()
    left = await what_is_left(path)
    assert left.unsent[-1:] == (event(2, "worsened"),)
    assert left.rows["incident"]["main/margin_ratio/cross-usdt"] == b"later"
    assert isinstance(refused, StoreError)
    assert reason is not None
    return reason


async def test_a_full_disk_is_told_and_gets_what_it_missed_once_there_is_room(tmp_path: Path) -> None:
    """The disk fills up at night, somebody makes room in the morning: nothing was kept back, nothing is lost."""
    with small_disk(tmp_path / "disk", "2m") as disk:
        path = disk / "s.sqlite3"
        async with opened(path) as (store, heard, _):
            assert await heard.state() is None
            store.keep(BATCH)
            assert await heard.answer() is None
            filler = filled(disk)
            store.keep(Batch(tuple(event(n, of="big", text="x" * 3000) for n in range(100)), ()))
            assert isinstance(await heard.answer(), StoreError)
            reason = await heard.state()
            size = path.stat().st_size
            store.keep(Batch((event(1, of="small"),), ()))
            assert isinstance(await heard.answer(), StoreError)
            assert path.stat().st_size == size
            filler.unlink()
            assert await heard.state() is None

        left = await what_is_left(path)

    assert "full" in (reason or "")
    assert len(left.unsent) == 102
    assert left.unsent[0] == EVENT


async def test_a_file_that_may_not_grow_is_told_and_gets_what_it_missed(tmp_path: Path) -> None:
    """The same without a mount: a quota, or a limit of the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "s.sqlite3"
    async with opened(path) as (store, heard, _):
        assert await heard.state() is None
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            store.keep(Batch(tuple(event(n, of="big", text="x" * 3000) for n in range(100)), ()))
            assert isinstance(await heard.answer(), StoreError)
            assert await heard.state() is not None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await heard.state() is None

    assert len((await what_is_left(path)).unsent) == 100


def read_only_disk(disk: Path) -> Callable[[], object]:
    """Remount it read-only. Returns what makes it writable."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return lambda: subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def full_disk(disk: Path) -> Callable[[], object]:
    return filled(disk).unlink


KEEP_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
from monitor.shell.store import Store
from tests.test_store import BATCH

async def main():
    store = Store(Path(sys.argv[1]), 90, lambda batch, error: os.kill(os.getpid(), 9), lambda r: None, lambda f: None)
    await store.open()
    store.keep(BATCH)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("killed", [False, True], ids=["after a stop", "after a kill"])
@pytest.mark.parametrize("spoil", [full_disk, read_only_disk])
async def test_a_start_on_a_disk_that_cannot_be_written_still_knows_what_was_kept(
    tmp_path: Path, spoil: Callable[[Path], Callable[[], object]], killed: bool
) -> None:
    """The disk fails, the daemon is restarted to mend it: no incident is told twice, no event is forgotten."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "s.sqlite3"
        if killed:
            command = [sys.executable, "-c", KEEP_AND_DIE, str(path)]
            assert await (await asyncio.create_subprocess_exec(*command, cwd=ROOT)).wait() == -signal.SIGKILL
        else:
            await kept_in(path, BATCH)
        mend = spoil(disk)
        async with opened(path) as (store, heard, found):
            reason = await heard.state()
            store.keep(Batch((event(1, of="new", text="x" * 200_000),), (Save("baseline", "main/new", b"new"),)))
            refused = await heard.answer()
            if reason is None:  # the room that the file had was enough to open it
                reason = await heard.state()
            mend()
            assert await heard.state() is None

        left = await what_is_left(path)

    assert found.unsent == (EVENT,)
    assert found.rows == {"incident": {"main/margin_ratio/cross-usdt": b"row"}}
    assert heard.found.empty()
    assert reason is not None
    assert isinstance(refused, StoreError)
    assert [e.event_id for e in left.unsent] == [EVENT.event_id, event(1, of="new").event_id]


async def test_the_word_of_this_run_stands_where_the_store_was_opened_late(tmp_path: Path) -> None:
    """What this run has said of a pool meanwhile is newer than what the file says of it."""
    path = tmp_path / "s.sqlite3"
    await kept_in(
        path,
        Batch((), (Save("baseline", "main/a", b"old"), Save("baseline", "main/b", b"old"), Save("silence", "c", b"c"))),
    )
    heard = Heard()
    second = store_of(path, heard)
    async with opened(path):
        await second.open()
        assert "another marginwatch" in (await heard.state() or "")
        second.keep(Batch((), (Save("baseline", "main/a", b"new"), Save("baseline", "main/b", None))))
        await heard.answer()
    late = await asyncio.wait_for(heard.found.get(), 20)
    await second.close()

    left = await what_is_left(path)

    assert late.rows == {"silence": {"c": b"c"}}
    assert left.rows == {"baseline": {"main/a": b"new"}, "silence": {"c": b"c"}}


@pytest.mark.parametrize(("at", "length"), [(0, 100), (20_000, 60_000)], ids=["header", "middle"])
async def test_a_damaged_store_is_left_as_it_is_and_alerts_go_out(tmp_path: Path, at: int, length: int) -> None:
    """Whoever repairs it must find every byte that was left; whoever moves it away gets a new one without a restart."""
    path = tmp_path / "s.sqlite3"
    await kept_in(path, Batch(tuple(event(n, of=f"p{n}", text="x" * 500) for n in range(200)), ()))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * length)
    before = digest(path)

    async with opened(path) as (store, heard, found):
        reason = await heard.state()
        store.keep(BATCH)
        refused = await heard.answer()
        await asyncio.sleep(0.3)  # several tries
        untouched = digest(path) == before
        path.rename(tmp_path / "away")
        assert await heard.state() is None

    assert found == Found()
    assert "damaged" in (reason or "")
    assert isinstance(refused, StoreError)
    assert untouched
    assert digest(tmp_path / "away") == before
    assert (await what_is_left(path)).unsent == (EVENT,)


async def test_a_store_with_something_unsorted_that_is_damaged_is_left_as_it_is(tmp_path: Path) -> None:
    """What cannot be read is not thrown away, and holds no alert back."""
    path = tmp_path / "s.sqlite3"
    await kept_in(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO unsorted (owed) VALUES (x'ff')")
        connection.commit()

    assert "damaged" in await why_refused(path)
    assert dump(path, "unsorted") == [[(1, b"\xff")]]


async def test_a_store_in_no_folder_is_told_and_is_not_tried_again_before_its_time(tmp_path: Path) -> None:
    """Each batch would wait for another try, and a disk that is full be busy with nothing else."""
    folder, path = tmp_path / "folder", tmp_path / "folder" / "s.sqlite3"
    folder.write_text("")
    async with opened(path, pauses_s=(1000, 1000)) as (store, heard, found):
        reason = await heard.state()
        folder.unlink()
        for n in range(3):
            store.keep(Batch((event(n),), ()))
            assert await heard.answer() is not None
        is_tried = folder.exists()

    assert (found, is_tried) == (Found(), False)
    assert "may this user write there?" in (reason or "")


async def test_what_could_not_be_written_is_written_once_it_can(tmp_path: Path) -> None:
    """A backup holds the file: a restart must find the whole story all the same."""
    path = tmp_path / "s.sqlite3"
    async with opened(path) as (store, heard, _):
        assert await heard.state() is None
        store.keep(BATCH)
        assert await heard.answer() is None
        reason = await missed_and_made_up_for(path, store, heard, held_by_another(path))

    assert "another program holds it" in reason


async def test_the_last_word_is_written_at_the_end_even_between_two_tries(tmp_path: Path) -> None:
    """A stop must not lose what the next try would have written."""
    path, heard = tmp_path / "s.sqlite3", Heard()
    await kept_in(path)
    let_go = held_by_another(path)
    store = store_of(path, heard, pauses_s=(1000, 1000))
    await store.open()
    store.keep(BATCH)
    assert isinstance(await heard.answer(), StoreError)
    let_go()
    await store.close()

    assert (await what_is_left(path)).unsent == (EVENT,)


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_file_that_is_deleted_while_in_use_is_written_anew(tmp_path: Path, replaced: bool) -> None:
    """SQLite would go on writing into a file that nobody can find."""
    path = tmp_path / "s.sqlite3"
    if replaced:
        await kept_in(tmp_path / "other.sqlite3", Batch((), (Save("silence", "x", b"x"),)))
    await kept_in(path, Batch((), (Save("baseline", "main/x", b"of the run before"),)))
    async with opened(path) as (store, heard, _):
        assert await heard.state() is None
        store.keep(BATCH)
        assert await heard.answer() is None
        for found in beside(path):
            found.unlink()
        if replaced:
            (tmp_path / "other.sqlite3").rename(path)
        store.keep(Batch((event(2, "worsened"),), ()))
        assert await heard.answer() is None
        told = await heard.state()
        assert await heard.state() is None
        taken_over = None if heard.found.empty() else heard.found.get_nowait().rows

    left = await what_is_left(path)

    assert taken_over == ({"silence": {"x": b"x"}} if replaced else None)
    assert "deleted or replaced" in (told or "")
    assert left.unsent == (EVENT, event(2, "worsened"))
    assert left.rows["incident"] == {"main/margin_ratio/cross-usdt": b"row"}
    assert left.rows["baseline"] == {"main/x": b"of the run before"}
    assert ("silence" in left.rows) is replaced


async def test_a_file_that_is_deleted_while_nothing_waits_is_written_anew(tmp_path: Path) -> None:
    """As a rule nothing does: what is open is told once all the same, and what is over ends."""
    path = tmp_path / "s.sqlite3"
    await kept_in(path, Batch((), (Save("baseline", "main/x", b"of the run before"),)))
    async with opened(path) as (store, heard, _):
        assert await heard.state() is None
        store.keep(BATCH)
        assert await heard.answer() is None
        store.sent(EVENT.event_id or "", NOW_MS)
        store.keep(Batch((), (Save("silence", "x", b"x"),)))
        assert await heard.answer() is None
        for found in beside(path):
            found.unlink()
        store.keep(Batch((), (Save("incident", "another", b"row"),)))
        assert await heard.answer() is None

    left = await what_is_left(path)

    assert left.unsent == ()
    assert left.rows == {
        "baseline": {"main/x": b"of the run before"},
        "incident": {"main/margin_ratio/cross-usdt": b"row", "another": b"row"},
        "silence": {"x": b"x"},
    }


@pytest.mark.parametrize("gone", ["moved", "deleted", "replaced by an older copy"])
async def test_a_file_that_goes_while_it_cannot_be_used_is_written_anew(tmp_path: Path, gone: str) -> None:
    """So somebody does who is told that it is damaged: a restart would know nothing of what was in it."""
    path = tmp_path / "s.sqlite3"
    await kept_in(path, Batch((event(1, of="earlier"),), (Save("baseline", "main/x", b"of the run before"),)))
    older = shutil.copy(path, tmp_path / "older")
    async with opened(path, pauses_s=(0.5, 0.5)) as (store, heard, _):
        assert await heard.state() is None
        store.keep(BATCH)
        assert await heard.answer() is None
        let_go = held_by_another(path)
        store.keep(Batch((event(2, "worsened"),), ()))
        assert isinstance(await heard.answer(), StoreError)
        assert await heard.state() is not None
        away = [found.rename(found.with_name(f"away-{found.name}")) for found in beside(path)]
        let_go()
        if gone != "moved":  # its place on the disk is free for the next one
            for found in away:
                found.unlink()
        if gone == "replaced by an older copy":
            shutil.copy(older, path)
        assert await heard.state() is None

    left = await what_is_left(path)

    assert left.unsent == (event(1, of="earlier"), EVENT, event(2, "worsened"))
    assert left.rows == {
        "baseline": {"main/x": b"of the run before"},
        "incident": {"main/margin_ratio/cross-usdt": b"row"},
    }


async def test_what_has_waited_for_days_is_found_and_written_whole_and_takes_little_memory(tmp_path: Path) -> None:
    """A service is confined: to read all of it as it is could be the end of each restart."""
    path, more = tmp_path / "s.sqlite3", 3000
    made = [event(n, of=f"pool-{n % 40}", text=f"{n} " + "What is told again and again. " * 100) for n in range(more)]
    few = [event(n, of="few") for n in range(MANY)]
    await kept_in(path, Batch(tuple(few), ()), Batch(tuple(made), ()))
    tracemalloc.start()
    try:
        async with opened(path) as (store, heard, found):
            assert await heard.state() is None
            before, most = tracemalloc.get_traced_memory()
            for lost in beside(path):
                lost.unlink()
            tracemalloc.reset_peak()
            store.keep(BATCH)
            assert await heard.answer() is None
            _, most_written = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    whole = [e.payload for e in (*few, *made)]
    assert [e.payload for e in found.unsent] == whole
    assert [e.payload for e in (await what_is_left(path)).unsent] == [*whole, EVENT.payload]
    raw = sum(len(e.payload) for e in made)
    assert most < 0.9 * raw, (most, raw)
    assert most_written - before < raw / 2, (most_written, before, raw)


async def test_a_log_without_its_store_is_not_thrown_away(tmp_path: Path) -> None:
    """SQLite deletes a write-ahead log whose file is missing, and with it events that nobody has."""
    path = tmp_path / "s.sqlite3"
    path.with_name("s.sqlite3-wal").write_bytes(b"frames")

    assert "missing, but its log" in await why_refused(path)
    assert path.with_name("s.sqlite3-wal").read_bytes() == b"frames"
    assert not path.exists()


async def test_a_store_that_stays_away_is_logged_at_once_and_again(tmp_path: Path, log: io.StringIO) -> None:
    """A line at the start of a night is not seen in the morning."""
    (tmp_path / "s.sqlite3").write_bytes(b"this is no database, and it is long enough to be sure" * 9)

    async with opened(tmp_path / "s.sqlite3", remind_s=0.2) as (_, heard, _):
        assert "damaged" in (await heard.state() or "")
        said_at_once = log.getvalue().count("store unusable")
        await until(lambda: log.getvalue().count("store unusable") > 2, "it is said again")

    assert said_at_once == 1
    assert heard.states.empty()


# ---- whose file it is ----


async def test_two_daemons_do_not_share_a_store(tmp_path: Path) -> None:
    """Each would send the other's events and forget the other's incidents. When the first ends, its events are owed."""
    path = tmp_path / "s.sqlite3"
    async with opened(path) as (first, heard, _):
        first.keep(BATCH)
        assert await heard.answer() is None
        second_heard = Heard()
        second = store_of(path, second_heard)
        found = await second.open()
        reason = await second_heard.state()
    late = await asyncio.wait_for(second_heard.found.get(), 20)
    await second.close()

    assert found == Found()
    assert f"another marginwatch (process {os.getpid()}) uses {path}" in (reason or "")
    assert late.unsent == (EVENT,)


async def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    """Whoever goes back a version must be able to go forward again."""
    path = tmp_path / "s.sqlite3"
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version=99")
        newer.commit()
    before = digest(path)

    assert "newer marginwatch" in await why_refused(path)
    assert digest(path) == before


async def test_the_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    """A path mistyped in the config must cost nobody their data."""
    path = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name)")
        other.commit()
    before = digest(path)

    assert "of another program" in await why_refused(path)
    assert digest(path) == before


# ---- kill -9 ----

BURST = """
import asyncio, sys
from pathlib import Path
from monitor.shell.owed import Batch
from monitor.shell.store import Store
from tests.test_store import event

async def main():
    kept = asyncio.Queue()
    store = Store(Path(sys.argv[1]), 90, lambda b, e: kept.put_nowait((b, e)), lambda r: None, lambda f: None)
    await store.open()
    waiting = 0
    for n in range(1_000_000):
        store.keep(Batch((event(n, text="x" * 1000),), ()))
        waiting += 1
        while waiting > 200 or not kept.empty():  # ahead of the disk, but not by all that memory holds
            batch, error = await kept.get()
            waiting -= 1
            if error is None:
                print(batch.events[0].event_id, flush=True)

asyncio.run(main())
"""


async def test_what_was_called_kept_is_there_after_a_kill_in_a_burst(tmp_path: Path) -> None:
    """The process dies between two instructions; the promise was made before."""
    path = tmp_path / "s.sqlite3"
    command = [sys.executable, "-c", BURST, str(path)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    promised: list[str] = []
    async with asyncio.timeout(30):
        while len(promised) < 500:
            line = await process.stdout.readline()
            assert line, "it has ended by itself"
            promised.append(line.decode().strip())
    process.kill()
    rest, _ = await process.communicate()
    promised += rest.decode().split("\n")[:-1]  # of the last line perhaps a part

    left = await what_is_left(path)

    names = [e.event_id for e in left.unsent]
    assert names == [event(n).event_id for n in range(len(names))]
    assert names[: len(promised)] == promised


# ---- versions ----

VERSION_1 = """
CREATE TABLE events (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    incident_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    rank INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    sent_ms INTEGER
);
CREATE INDEX unsent ON events (n) WHERE sent_ms IS NULL;
CREATE TABLE kept (kind TEXT NOT NULL, key TEXT NOT NULL, row BLOB NOT NULL, PRIMARY KEY (kind, key));
PRAGMA user_version = 1;
"""


def write_version_1(path: Path, events: list[tuple[Message, int | None]], kept: list[tuple[str, str, bytes]]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1)
        connection.executemany(
            "INSERT INTO events (event_id, incident_id, topic, payload, rank, opened_ms, at_ms, sent_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.event_id, e.incident_id, e.topic, e.payload, e.rank, e.opened_ms, e.at_ms, sent_ms)
                for e, sent_ms in events
            ],
        )
        connection.executemany("INSERT INTO kept VALUES (?, ?, ?)", kept)
        connection.commit()


def dump(path: Path, *tables: str) -> list[list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def test_a_store_of_version_1_is_backed_up_and_migrated_and_nothing_is_lost(tmp_path: Path) -> None:
    """An update must not cost an event, an incident, or the way back."""
    path, at_ms = tmp_path / "s.sqlite3", NOW_MS - 5 * DAY_MS
    a1 = event(1, of="a", at_ms=at_ms, symbol="BTCUSDT", side="long", title="a opens")
    a2 = event(2, "worsened", of="a", at_ms=at_ms, title="a is worse")
    a3 = event(3, "resolved", of="a", at_ms=at_ms, title="a is over", resolution="recovered")
    b1, c1 = event(1, of="b", at_ms=at_ms), event(1, of="c", at_ms=at_ms)
    n1 = event(1, "noted", of="n", at_ms=at_ms)
    damaged = Message("t", b"{}", False, 1, 2, f"main.d.x.data_stale.{at_ms}.1", f"main.d.x.data_stale.{at_ms}", at_ms)
    rows = [("incident", "main/margin_ratio/b", b"b"), ("baseline", "main/a", b"base")]
    write_version_1(
        path, [(a1, at_ms), (a2, at_ms), (b1, at_ms), (a3, None), (c1, at_ms), (n1, at_ms), (damaged, None)], rows
    )
    before = dump(path, "events", "kept")

    left = await what_is_left(path)

    assert version_of(path) == 3
    assert dump(path, "events", "kept") == before
    backup = tmp_path / "s.sqlite3.v1.bak"
    assert (version_of(backup), dump(backup, "events", "kept")) == (1, before)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert left.unsent == (a3, damaged)
    assert left.rows == {"incident": {"main/margin_ratio/b": b"b"}, "baseline": {"main/a": b"base"}}
    with closing(read_only(path)) as connection:
        told = {row.subject: row for row in chronicle.since(connection, 0)}
    assert told["a"] == chronicle.IncidentRow(
        a1.incident_id or "", "main", "margin_ratio", "a", "BTCUSDT", "long", at_ms, at_ms, 3, "recovered", "a is worse"
    )
    assert (told["b"].resolved_ms, told["b"].resolution) == (None, None)
    assert (told["c"].resolved_ms, told["c"].resolution) == (at_ms, None)
    assert (told["n"].resolved_ms, told["n"].resolution) == (at_ms, "noted")
    assert (told["d.x"].account, told["d.x"].rule, told["d.x"].peak) == ("main", "data_stale", 2)


MIGRATE = """
import asyncio, sys
from pathlib import Path
from monitor.shell.store import Store

async def main():
    await Store(Path(sys.argv[1]), 36_500, print, print, print).open()

asyncio.run(main())
"""


async def test_a_kill_in_the_middle_of_a_migration_leaves_the_old_store(tmp_path: Path) -> None:
    """Half a migration would be a store that neither version can read."""
    path = tmp_path / "s.sqlite3"
    events = [event(1, of=f"p{n}", title="x" * 200) for n in range(40_000)]
    write_version_1(path, [(e, NOW_MS) for e in events], [])
    before, log = dump(path, "events", "kept"), path.with_name("s.sqlite3-wal")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATE, str(path), cwd=ROOT)
    async with asyncio.timeout(30):
        while not log.exists() or log.stat().st_size < 1_000_000:  # the transaction is under way
            assert process.returncode is None
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    await process.wait()

    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    killed = tmp_path / "copy" / "s.sqlite3"
    assert (version_of(killed), dump(killed, "events", "kept")) == (1, before)
    with closing(sqlite3.connect(killed)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert "incidents" not in tables
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    await what_is_left(path)
    assert version_of(path) == 3
    assert dump(path, "events", "kept") == before
    assert len(dump(path, "incidents")[0]) == 40_000
    assert [p.name for p in beside(path) if ".bak" in p.name] == ["s.sqlite3.v1.bak"]


async def test_a_migration_that_takes_long_does_not_hold_up_the_watch(tmp_path: Path) -> None:
    """Years of events are no reason to be blind for minutes: what was kept is taken over when it is there."""
    path = tmp_path / "s.sqlite3"
    events = [(event(1, of=f"p{n}", title="x" * 200), None if n == 7 else NOW_MS) for n in range(20_000)]
    write_version_1(path, events, [("baseline", "main/a", b"old"), ("baseline", "main/b", b"old")])

    async with opened(path, start_s=0.01) as (store, heard, found):
        told = await heard.state()
        store.keep(Batch((), (Save("baseline", "main/a", b"new"),)))
        late = await asyncio.wait_for(heard.found.get(), 30)
        assert await heard.state() is None
        assert await heard.answer() is None

    assert found == Found()
    assert "not open after" in (told or "")
    assert [e.line for e in late.unsent] == ["main.p7.margin_ratio"]
    assert late.rows == {"baseline": {"main/b": b"old"}}
    assert (await what_is_left(path)).rows == {"baseline": {"main/a": b"new", "main/b": b"old"}}


async def test_an_earlier_copy_is_not_written_over(tmp_path: Path) -> None:
    """Back to the old version, on for a month, forward again: both copies are somebody's way back."""
    path, earlier = tmp_path / "s.sqlite3", tmp_path / "s.sqlite3.v1.bak"
    write_version_1(path, [(EVENT, None)], [])
    earlier.write_bytes(b"another time")

    await what_is_left(path)

    assert earlier.read_bytes() == b"another time"
    assert len(dump(tmp_path / "s.sqlite3.v1.2.bak", "events")[0]) == 1


async def test_without_room_for_a_copy_there_is_no_migration(tmp_path: Path) -> None:
    """A full disk in the middle of a migration is no time to find that out. What the old store has is known all the
    same, or an update would tell of everything anew."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        path = disk / "s.sqlite3"
        write_version_1(path, [(EVENT, None)], [("incident", "main/margin_ratio/cross-usdt", b"row")])
        before = dump(path, "events", "kept")
        async with opened(path) as (store, heard, found):
            reason = await heard.state()
            store.keep(Batch((event(2, "worsened"),), ()))
            refused = await heard.answer()

        assert "has to be copied before it is migrated" in (reason or "")
        assert found.unsent == (EVENT,)
        assert found.rows == {"incident": {"main/margin_ratio/cross-usdt": b"row"}}
        assert isinstance(refused, StoreError)
        assert (version_of(path), dump(path, "events", "kept")) == (1, before)
        assert [p.name for p in beside(path) if ".bak" in p.name] == []


# ---- what is owed ----


def test_of_events_that_only_history_wants_the_oldest_go() -> None:
    """A disk that stays away for a year must not fill the memory; what the broker does not have is never dropped."""
    owed = Owed()
    owed.take(Batch((event(0, of="unsent"),), ()))
    for n in range(Owed.MOST_SENT + 5):
        one = event(n)
        owed.take(Batch((one,), ()))
        owed.take(Sent(one.event_id or "", NOW_MS))

    assert owed.lost == 5
    assert list(owed.events)[:2] == [event(0, of="unsent").event_id, event(5).event_id]
    assert len(owed.events) == len(owed.sent) + 1 == Owed.MOST_SENT + 1


def test_what_was_sent_from_memory_is_not_owed_again_where_the_file_still_has_it() -> None:
    """A disk that could only be read at the start has the event as unsent, once it can be written too."""
    owed = Owed()
    assert owed.adopt(Found(unsent=(EVENT,))).unsent == (EVENT,)
    owed.take(Sent(EVENT.event_id or "", NOW_MS))

    assert owed.adopt(Found(unsent=(EVENT, event(2)))).unsent == (event(2),)


def test_a_row_that_the_disk_has_no_more_is_forgotten() -> None:
    """Some rows are named after events, of which there is no end."""
    owed = Owed()
    for row in (b"{}", None):
        owed.take(Batch((), (Save("posted", "main.x.1", row),)))
        assert owed.rows == {("posted", "main.x.1"): row}
        owed.on_disk()

    owed.adopt(Found())  # another file

    assert not owed
