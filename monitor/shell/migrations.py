"""The versions of the store: its tables, and the steps from each version to the next.

A new store goes through the same steps as an old one. A step that has been released is never changed.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

from monitor.errors import StoreError, StoreNewer
from monitor.shell import chronicle

_ROOM = 8 * 1024 * 1024
"""What has to be free beside the copy before a migration (bytes)."""


def _events_and_kept(connection: sqlite3.Connection) -> None:
    """Version 1: events until they are sent and for a while after, and rows to keep for the next run."""
    connection.execute(
        """
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
        )
        """
    )
    connection.execute("CREATE INDEX unsent ON events (n) WHERE sent_ms IS NULL")
    connection.execute(
        "CREATE TABLE kept (kind TEXT NOT NULL, key TEXT NOT NULL, row BLOB NOT NULL, PRIMARY KEY (kind, key))"
    )


def _incidents(connection: sqlite3.Connection) -> None:
    """Version 2: a table of incidents, filled from the events that are there."""
    connection.execute(
        """
        CREATE TABLE incidents (
            incident_id TEXT PRIMARY KEY,
            account TEXT NOT NULL,
            rule TEXT NOT NULL,
            subject TEXT NOT NULL,
            symbol TEXT,
            side TEXT,
            opened_ms INTEGER NOT NULL,
            resolved_ms INTEGER,
            peak INTEGER NOT NULL,
            resolution TEXT,
            title TEXT NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX incidents_open ON incidents (account, rule, subject) WHERE resolved_ms IS NULL")
    connection.execute("CREATE INDEX incidents_opened ON incidents (opened_ms)")
    connection.execute("CREATE INDEX of_incident ON events (incident_id, n)")
    connection.execute("CREATE INDEX by_sent ON events (sent_ms)")
    events = connection.execute("SELECT incident_id, payload, rank, opened_ms, at_ms FROM events ORDER BY n")
    chronicle.record(connection, events)
    connection.execute(  # ended without a message: nobody watches it any more
        "UPDATE incidents SET resolved_ms ="
        " (SELECT max(at_ms) FROM events WHERE events.incident_id = incidents.incident_id)"
        " WHERE resolved_ms IS NULL AND account || '/' || rule || '/' || subject NOT IN"
        " (SELECT key FROM kept WHERE kind = 'incident')"
    )


def _unsorted(connection: sqlite3.Connection) -> None:
    """Version 3: what has been written, and is not sorted into the other tables yet."""
    connection.execute("CREATE TABLE unsorted (n INTEGER PRIMARY KEY, owed BLOB NOT NULL)")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_events_and_kept, _incidents, _unsorted)
"""The n-th makes version n + 1 of version n; 0 is an empty file."""

VERSION = len(STEPS)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a store, or 0 of an empty file.

    Raises:
        StoreNewer: A later marginwatch has made it.
        StoreError: It is a database of something else.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise StoreNewer(
            f"{path} is of a newer marginwatch (store version {version}, this one knows {VERSION}) and is left"
            " untouched; run that version, or give another [store] path"
        )
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if (version == 0 and tables) or (version and not {"events", "kept"} <= tables):
        raise StoreError(f"{path} is the database of another program and is left untouched; give another [store] path")
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Make this version of it, all or nothing: whoever is killed on the way leaves the old one."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        for step in STEPS[version:]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def back_up(connection: sqlite3.Connection, path: Path, version: int) -> Path:
    """Copy the store to `<path>.v<version>.bak` beside it. An earlier copy that differs stays, under its own name.

    Raises:
        StoreError: There is no room for it.
        OSError, sqlite3.Error: It cannot be written.
    """
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    [page_size] = connection.execute("PRAGMA page_size").fetchone()
    # The copy, and as much again for what the migration writes before it takes effect.
    needed = 2 * pages * page_size + _ROOM
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"{path} is of version {version} and has to be copied before it is migrated: {path.parent} has"
            f" {free // 1024**2} MB free, it takes {needed // 1024**2 + 1} MB; make room, or give another [store] path"
        )
    part = Path(f"{path}.v{version}.bak.part")
    part.unlink(missing_ok=True)  # of a copy that was cut short
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(sqlite3.connect(part)) as copy:
            connection.backup(copy)
        _to_disk(part)
        return _take_place(part, path, version)
    finally:
        part.unlink(missing_ok=True)


def _take_place(part: Path, path: Path, version: int) -> Path:
    for number in count(1):
        place = Path(f"{path}.v{version}.bak" if number == 1 else f"{path}.v{version}.{number}.bak")
        if not place.exists():
            part.rename(place)
            _to_disk(path.parent)
            return place
        if filecmp.cmp(part, place, shallow=False):  # of an attempt that did not get further
            return place
    raise AssertionError("unreachable")


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
