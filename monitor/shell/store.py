"""The store: events until the broker has them, open incidents and baselines, in SQLite.

One thread owns the connection and writes; the risk loop only hands over. A batch is one transaction, so that an event
and the incident it belongs to are on disk together or not at all.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct

from monitor.core import Kept
from monitor.effects import Save
from monitor.errors import StoreError
from monitor.messages import Message

VERSION = 1

_SCHEMA = """
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
"""


class Batch(Struct, frozen=True):
    """What one step wants kept."""

    events: tuple[Message, ...]
    saves: tuple[Save, ...]


_Job = Batch | tuple[str, int]
_OWED_AT_MOST = 10_000
_TRY_AGAIN_S = 1.0
"""A full disk that is freed must get what it missed, also where nothing else happens."""


class Store:
    """A store that is opened, written and closed by its own thread.

    Args:
        on_kept: Called in the event loop with each batch once it is on disk, or, with the error, once it is clear
            that it cannot be: then the caller goes on from memory.
    """

    def __init__(self, path: Path, keep_days: int, on_kept: Callable[[Batch, StoreError | None], None]) -> None:
        self._path = path
        self._keep_days = keep_days
        self._on_kept = on_kept
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def open(self, now_ms: int) -> tuple[Kept, list[Message]]:
        """Open or create the store. Returns what an earlier run kept, and the events that it had not sent.

        Raises:
            StoreError: It cannot be used; with the remedy.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[tuple[Kept, list[Message]]] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened, now_ms), name="store", daemon=True)
        self._thread.start()
        return await opened

    def keep(self, batch: Batch) -> None:
        """Hand a batch over; never waits."""
        self._jobs.put(batch)

    def sent(self, event_id: str, at_ms: int) -> None:
        """The broker has this event."""
        self._jobs.put((event_id, at_ms))

    async def close(self) -> None:
        """Write what is handed over, then close."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join, 5)

    # ---- the thread ----

    def _run(self, opened: asyncio.Future[tuple[Kept, list[Message]]], now_ms: int) -> None:
        assert self._loop is not None
        try:
            connection = self._connect()
            found = _read(connection)
            cutoff = now_ms - self._keep_days * 86_400_000
            connection.execute("DELETE FROM events WHERE sent_ms < ?", (cutoff,))
        except Exception as exc:
            error = exc if isinstance(exc, StoreError) else StoreError(f"{self._path}: {exc}")
            self._loop.call_soon_threadsafe(opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(opened.set_result, found)
        owed: list[_Job] = []
        running = True
        while running:
            jobs, running = self._next(_TRY_AGAIN_S if owed else None)
            owed = self._write(connection, owed, jobs)
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_newer()
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            self._path.chmod(0o600)
        return connection

    def _refuse_newer(self) -> None:
        """Look at an existing store without touching it."""
        if not self._path.exists():
            return
        with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            [version] = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StoreError(
                f"{self._path} is of a newer marginwatch (store version {version}) and is left untouched;"
                " run that version, or give another [store] path"
            )

    def _next(self, timeout_s: float | None) -> tuple[list[_Job], bool]:
        """All jobs that wait, after waiting for the first; False: no more will come."""
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            job = self._jobs.get(timeout=timeout_s)
            while job is not None:
                jobs.append(job)
                job = self._jobs.get_nowait()
            return jobs, False
        return jobs, True

    def _write(self, connection: sqlite3.Connection, owed: list[_Job], jobs: list[_Job]) -> list[_Job]:
        """Write what is owed from before and what is new, all or nothing. Returns what is owed then."""
        assert self._loop is not None
        error = None
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in [*owed, *jobs]:
                if isinstance(job, Batch):
                    _keep(connection, job)
                else:
                    connection.execute("UPDATE events SET sent_ms = ? WHERE event_id = ?", (job[1], job[0]))
            connection.execute("COMMIT")
        except Exception as exc:  # whatever it is: the thread lives on, and so do the alerts
            error = StoreError(f"{self._path}: {exc}")
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        for job in jobs:
            if isinstance(job, Batch):
                self._loop.call_soon_threadsafe(self._on_kept, job, error)
        return [] if error is None else [*owed, *jobs][-_OWED_AT_MOST:]


def _keep(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO events (event_id, incident_id, topic, payload, rank, opened_ms, at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.event_id, e.incident_id, e.topic, e.payload, e.rank, e.opened_ms, e.at_ms) for e in batch.events],
    )
    for save in batch.saves:
        if save.row is None:
            connection.execute("DELETE FROM kept WHERE kind = ? AND key = ?", (save.table, save.key))
        else:
            connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (save.table, save.key, save.row))


def _read(connection: sqlite3.Connection) -> tuple[Kept, list[Message]]:
    unsent = [
        Message(topic, payload, False, 1, *names)
        for topic, payload, *names in connection.execute(
            "SELECT topic, payload, rank, event_id, incident_id, opened_ms, at_ms"
            " FROM events WHERE sent_ms IS NULL ORDER BY n"
        )
    ]
    rows = connection.execute("SELECT kind, key, row FROM kept").fetchall()
    [last_named] = connection.execute("SELECT max(opened_ms) FROM events").fetchone()
    kept = Kept(
        incidents=tuple(row for kind, _, row in rows if kind == "incident"),
        baselines={key: row for kind, key, row in rows if kind == "baseline"},
        last_named_ms=last_named or 0,
    )
    return kept, unsent
