"""The file of the store: opened by one daemon at a time, checked, migrated, written in whole batches, pruned.

Whoever waits for an event to be on disk waits for one row: all that was written with it in one piece, unsorted. It is
sorted into the tables and their indexes afterwards, or by whoever opens the file next.

Used by one thread. Nothing that exists is destroyed: a file that is damaged, newer or another program's is left as it
is, and so is what lies beside it.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from monitor.compressed import MANY, Compressor
from monitor.errors import StoreError
from monitor.message import Message
from monitor.shell import chronicle, migrations, rows
from monitor.shell.clock import now
from monitor.shell.owed import Found, Owed, Rows, unpacked

_DAY_MS = 86_400_000
_FEW = 64
"""So many events are written unsorted at most; of more, to write them twice would take longer than it saves."""
_CHUNK = 1_000
"""Rows deleted at a time: pruning a year must not hold up an alert."""
_PAGES, _MOST_PAGES = 1_000, 10_000
"""With how many pages the write-ahead log is carried over, which takes a while: by a write that nobody waits for, and
by one that an alert waits for."""
_WAL_BYTES = 4 * 1024 * 1024
"""What the write-ahead log is cut back to once it has been carried over."""


_EVENTS = "INSERT OR IGNORE INTO events (event_id, incident_id, topic, payload, rank, opened_ms, at_ms) VALUES {rows}"
_GONE = (
    "WITH gone (kind, key) AS (VALUES {rows}) DELETE FROM kept WHERE rowid IN"
    " (SELECT kept.rowid FROM gone CROSS JOIN kept ON kept.kind = gone.kind AND kept.key = gone.key)"
)
_SENT = (
    "WITH sent (event_id, at_ms) AS (VALUES {rows})"
    " UPDATE events SET sent_ms = (SELECT at_ms FROM sent WHERE event_id = events.event_id)"
    " WHERE event_id IN (SELECT event_id FROM sent)"
)


class Database:
    """An open store file.

    Args:
        patience_s: How long somebody else may hold a lock on it, here and in every later call.

    Raises:
        StoreNewer: A later version has made it.
        StoreError: It cannot be used; with the remedy.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path = path
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self.unsorted_since = math.inf
        """Since when anything has been waiting to be sorted in (monotonic seconds); infinity: nothing is."""
        self._lock_path = _beside(path, ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._lock_path, patience_s)
            version = _look(path, patience_s)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._connection = connection = sqlite3.connect(path, isolation_level=None, timeout=patience_s)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_MOST_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            if version < migrations.VERSION:
                if version:
                    migrations.back_up(connection, path, version)
                migrations.migrate(connection)
            if _has_unsorted(connection):
                self.unsorted_since = now().mono
                self.sort()
            self._inode = _inode(path)
            self._lock_inode = _inode(self._lock_path)
        except BaseException as exc:
            self.close()
            if isinstance(exc, StoreError) or not isinstance(exc, Exception):
                raise
            raise StoreError(_remedy(path, exc)) from exc

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still what the path leads to, and its lock too: either may be deleted or replaced."""
        return _inode(self._path) == self._inode and _inode(self._lock_path) == self._lock_inode

    def read(self) -> Found:
        """What an earlier run has left.

        Raises:
            StoreError: It cannot be read.
        """
        with _explained(self._path):
            return _read(self._open)

    def write(self, owed: Owed) -> None:
        """Write all that is owed, or nothing of it.

        All of it is on disk when this returns: for what is left in the cache the next event would have to wait.

        Raises:
            StoreError: It cannot be written.
        """
        with _explained(self._path):
            if not owed.events:
                with self._while_nobody_waits():
                    self._sort(owed)
            elif len(owed.events) <= _FEW:
                self._open.execute("INSERT INTO unsorted (owed) VALUES (?)", (owed.packed(),))
                self.unsorted_since = min(self.unsorted_since, now().mono)
            else:
                self._sort(owed)

    def sort(self) -> None:
        """Sort in what was written unsorted.

        Raises:
            StoreError: It cannot be written.
        """
        if self.unsorted_since < math.inf:
            with _explained(self._path):
                self._sort(Owed())

    def _sort(self, owed: Owed) -> None:
        """Sort in what was written unsorted, and this behind it."""
        with self._open as connection:  # all or nothing
            connection.execute("BEGIN IMMEDIATE")
            _sort(connection, owed)
        self.unsorted_since = math.inf

    @contextmanager
    def _while_nobody_waits(self) -> Iterator[None]:
        """Carry the write-ahead log over sooner than a write may that an alert waits for."""
        self._open.execute(f"PRAGMA wal_autocheckpoint = {_PAGES}")
        yield
        self._open.execute(f"PRAGMA wal_autocheckpoint = {_MOST_PAGES}")

    def prune(self, here_ms: int, keep_days: int) -> bool:
        """Delete some of what is too old: events that the broker has had for so long, and incidents that have ended.

        Args:
            here_ms: What time it is at least (unix ms).

        Returns: Whether there is more of it.

        Raises:
            StoreError: It cannot be written.
        """
        before_ms = here_ms - keep_days * _DAY_MS
        with _explained(self._path):
            events = self._open.execute(
                f"DELETE FROM events WHERE n IN (SELECT n FROM events WHERE sent_ms < ? LIMIT {_CHUNK})", (before_ms,)
            ).rowcount
            incidents = self._open.execute(
                "DELETE FROM incidents WHERE incident_id IN (SELECT incident_id FROM incidents i WHERE resolved_ms < ?"
                f" AND NOT EXISTS (SELECT 1 FROM events e WHERE e.incident_id = i.incident_id) LIMIT {_CHUNK})",
                (before_ms,),
            ).rowcount
            if events < _CHUNK and incidents < _CHUNK:
                self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return False
        return True

    def close(self) -> None:
        """Let go of the file and of its lock."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection


def _read(connection: sqlite3.Connection) -> Found:
    kept: Rows = {}
    for kind, key, row in connection.execute("SELECT kind, key, row FROM kept"):
        kept.setdefault(kind, {})[key] = row
    unsent: list[Message] = []
    compressor = Compressor()
    for topic, payload, *names in connection.execute(
        "SELECT topic, payload, rank, event_id, incident_id, opened_ms, at_ms"
        " FROM events WHERE sent_ms IS NULL ORDER BY n"
    ):
        event = Message(topic, payload, False, 1, *names)
        unsent.append(event if len(unsent) < MANY else event.compressed(compressor))
    [last_named_ms] = connection.execute("SELECT max(opened_ms) FROM incidents").fetchone()
    return Found(kept, tuple(unsent), last_named_ms or 0)


def _has_unsorted(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM unsorted").fetchone() is not None


def _sort(connection: sqlite3.Connection, owed: Owed) -> None:
    """Write what lies unsorted, and what is owed, into the tables where it is looked for."""
    events: list[Message] = []
    saved: dict[tuple[str, str], bytes | None] = {}
    sent: dict[str, int] = {}
    for [packed] in connection.execute("SELECT owed FROM unsorted ORDER BY n"):
        parcel = unpacked(packed)
        events += parcel.messages
        saved |= parcel.rows
        sent |= parcel.sent
    _write(connection, [*events, *owed.events.values()], saved | owed.rows, sent | owed.sent)
    connection.execute("DELETE FROM unsorted")


def _write(
    connection: sqlite3.Connection,
    events: Sequence[Message],
    saved: Mapping[tuple[str, str], bytes | None],
    sent: Mapping[str, int],
) -> None:
    # Of very many the payloads are never in memory all at once.
    new = ((e.event_id, e.incident_id, e.topic, e.payload, e.rank, e.opened_ms, e.at_ms) for e in events)
    rows.execute(connection, _EVENTS, new)
    told = (e for e in events if e.is_event)  # where a row is there already it becomes what it was
    chronicle.record(connection, ((e.incident_id or "", e.payload, e.rank, e.opened_ms, e.at_ms) for e in told))
    kept = [(kind, key, row) for (kind, key), row in saved.items() if row is not None]
    gone = [place for place, row in saved.items() if row is None]
    rows.execute(connection, "INSERT OR REPLACE INTO kept VALUES {rows}", kept)
    rows.execute(connection, _GONE, gone)
    chronicle.end(connection, [key for kind, key in gone if kind == "incident"], now().wall_ms)
    rows.execute(connection, _SENT, sent.items())


# ---- opening ----


def glimpse(path: Path) -> Found | None:
    """What an earlier run, of an earlier version perhaps, has left in a store that can be read but, on a full or
    read-only disk, not be written.

    None: there is nothing, or it cannot be read, or another daemon has it.
    """
    lock = None
    try:
        with suppress(FileNotFoundError):  # no lock, and no way to make one: nobody else has it either
            lock = _flock(os.open(_lock_path(path), os.O_RDONLY), _lock_path(path), 0)
        if not _look(path, 0.2):
            return None
        with closing(read_only(path, 0.2)) as connection:
            return _read(connection)
    except (StoreError, OSError, sqlite3.Error):
        return None
    finally:
        if lock is not None:
            os.close(lock)


def read_only(path: Path, patience_s: float = 5.0) -> sqlite3.Connection:
    """A store to look into while a daemon may be writing. What would have to be written to read it, one of an earlier
    version or one with something unsorted, is written to a copy in memory.

    Raises:
        StoreNewer: A later version has made it.
        StoreError: There is none, or it cannot be read.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no store yet; `marginwatch run` makes it")
    with _explained(path):
        with _closed_on_failure(_connect_read_only(path, patience_s)) as connection:
            version = migrations.version_of(connection, path)
            if version == migrations.VERSION and not _has_unsorted(connection):
                return connection
        with _closed_on_failure(sqlite3.connect(":memory:", isolation_level=None)) as memory:
            with closing(connection):
                connection.backup(memory)
            migrations.migrate(memory)
            _sort(memory, Owed())
            return memory


def _connect_read_only(path: Path, patience_s: float) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=patience_s)
    try:
        with _closed_on_failure(connection):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        if _size(_beside(path, "-wal")):
            raise
        # A folder that we may not write to, and nobody else is writing: it can be read as it lies there.
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None, timeout=patience_s)
    return connection


@contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _look(path: Path, patience_s: float) -> int:
    """The version of what is there, found without changing it; 0: nothing."""
    if not _size(path):
        if _size(_beside(path, "-wal")):
            # SQLite would delete that log, and it may hold events that nobody has.
            raise StoreError(
                f"{path} is {'empty' if path.exists() else 'missing'}, but its log {path}-wal is not; put the store"
                " back, or move both away"
            )
        return 0
    with closing(_connect_read_only(path, patience_s)) as connection:
        version = migrations.version_of(connection, path)
        [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StoreError(_damaged(path, found))
    return version


def _locked(path: Path, patience_s: float) -> int:
    """The lock that says that the store is in use; it ends with the process, however that ends."""
    handle = _flock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), path, patience_s)
    with suppress(OSError):  # on a full disk: it is for people alone
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _flock(handle: int, path: Path, patience_s: float) -> int:
    """Lock an open file and return it, or close it."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() < give_up:  # the one before us may be about to end
                time.sleep(0.05)
                continue
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise StoreError(
                f"another marginwatch (process {holder or 'unknown'}) uses {path.with_suffix('')}; stop it, or give"
                " each its own [store] path and [mqtt] prefix"
            ) from None
        except BaseException:
            os.close(handle)
            raise


def _lock_path(path: Path) -> Path:
    return _beside(path, ".lock")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong with a store is said with its remedy."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreError(_remedy(path, exc)) from exc
    except msgspec.MsgspecError as exc:
        raise StoreError(_damaged(path, str(exc))) from exc


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path} is damaged ({what}) and is left as it is; move it away with its -wal file, and a new one is begun"
        " within a minute"
    )


def _remedy(path: Path, exc: Exception) -> str:
    """What is wrong, and what would be right."""
    if isinstance(exc, OSError):
        advice = "make room on the disk" if exc.errno == errno.ENOSPC else "may this user write there?"
        return f"{path}: {exc.strerror or exc}; {advice}"
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(exc))
    known = {
        sqlite3.SQLITE_FULL: "make room on the disk",
        sqlite3.SQLITE_IOERR: "is the disk full, or broken?",
        sqlite3.SQLITE_BUSY: "another program holds it; a copy is better made with `sqlite3 … .backup`",
        sqlite3.SQLITE_READONLY: "may this user write there?",
        sqlite3.SQLITE_CANTOPEN: "may this user write there, and is there room?",
    }
    return f"{path}: {exc}" + (f"; {known[code]}" if code in known else "")
