"""The store: what it promises when the disk does not."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from pathlib import Path

import pytest

from monitor.effects import Save
from monitor.errors import StoreError
from monitor.messages import Message
from monitor.shell.store import Batch, Store

EVENT = Message("marginwatch/main/event/info/x", b"{}", False, 1, 1, "main.a.x.1.1", "main.a.x.1", 1, 1)
BATCH = Batch((EVENT,), (Save("incident", "main/x/a", b"row"),))


class Kept:
    """What the store has said of each batch."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[StoreError | None] = asyncio.Queue()

    def __call__(self, batch: Batch, error: StoreError | None) -> None:
        self.said.put_nowait(error)


async def test_what_could_not_be_written_is_written_once_it_can(tmp_path: Path) -> None:
    """A backup holds the file, or the disk is full for a while: a restart must find the whole story all the same."""
    kept = Kept()
    store = Store(tmp_path / "s.sqlite3", 90, kept)
    await store.open(0)
    holder = sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    store.keep(BATCH)
    refused = await asyncio.wait_for(kept.said.get(), 20)
    holder.execute("ROLLBACK")
    holder.close()
    await store.close()

    later = Store(tmp_path / "s.sqlite3", 90, kept)
    found, unsent = await later.open(0)
    await later.close()
    assert isinstance(refused, StoreError)
    assert (found.incidents, unsent) == ((b"row",), [EVENT])


async def test_an_event_and_its_incident_are_on_disk_before_they_are_called_kept(tmp_path: Path) -> None:
    """What the broker is given must survive whatever comes next."""
    kept = Kept()
    store = Store(tmp_path / "s.sqlite3", 90, kept)
    await store.open(0)
    store.keep(BATCH)
    assert await asyncio.wait_for(kept.said.get(), 5) is None

    other = sqlite3.connect(tmp_path / "s.sqlite3")
    assert other.execute("SELECT event_id FROM events").fetchall() == [(EVENT.event_id,)]
    assert other.execute("SELECT row FROM kept").fetchall() == [(b"row",)]
    other.close()
    await store.close()


async def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    """Whoever goes back a version must be able to go forward again."""
    path = tmp_path / "s.sqlite3"
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=99")
    newer.commit()
    newer.close()
    before = hashlib.sha256(path.read_bytes()).digest()

    with pytest.raises(StoreError, match="newer marginwatch"):
        await Store(path, 90, Kept()).open(0)

    assert hashlib.sha256(path.read_bytes()).digest() == before
