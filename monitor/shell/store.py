"""The store: events until the broker has them, open incidents, baselines and silences, safe from a restart.

One thread owns the file; the risk loop only hands over. A batch is one transaction, so that an event and the incident
it belongs to are on disk together or not at all. While the file cannot be used, everybody is told, events go out from
memory, and it is tried again for ever; then it gets what it missed.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from monitor.errors import StoreError, StoreNewer
from monitor.shell import logs
from monitor.shell.clock import now
from monitor.shell.database import Database, glimpse
from monitor.shell.owed import Batch, Found, Owed, Sent

_PATIENCE_S = 2.0
"""How long the disk may take before events go out from memory."""
_LOCKED_S, _LOCKED_AGAIN_S = 1.5, 0.2
"""How long somebody else may hold the file: at first, less than the above so that they are named; in later tries."""
_SENT_S = 0.01
"""How long it may wait for company that the broker has an event."""
_SORT_S = 0.05
"""How long what was written unsorted stays so; as a rule the broker has the event sooner, and the two go together."""
_LOOK_S = 10.0
"""How often an idle store looks whether its file is still there."""
_DAY_S = 86_400.0


class Store:
    """A store that is opened, written and closed by its own thread. All callbacks are called in the event loop.

    Args:
        keep_days: How long events that the broker has are kept, and incidents that have ended.
        on_kept: Called once with each batch, as soon as its events may be sent: it is on disk, or (with the error) it
            cannot be for now, and the caller goes on from memory. The store still writes it when it can.
        on_state: Called with why the store cannot be used, and with None once it can; at the start too.
        on_found: Called where the file was opened only after the start, with what this run does not know of.
        start_s: How long the start waits for a store that is checked and migrated (seconds); then it begins without it,
            and takes over later.
        pauses_s: Between two tries to get at a store that cannot be used: the first, doubling up to the last.
        remind_s: A store that stays unusable is logged as an error this often (seconds).
    """

    def __init__(
        self,
        path: Path,
        keep_days: int,
        on_kept: Callable[[Batch, StoreError | None], None],
        on_state: Callable[[str | None], None],
        on_found: Callable[[Found], None],
        start_s: float = 30.0,
        pauses_s: tuple[float, float] = (1.0, 60.0),
        remind_s: float = 900.0,
    ) -> None:
        self._path = path
        self._keep_days = keep_days
        self._on_kept = on_kept
        self._on_state = on_state
        self._on_found = on_found
        self._start_s = start_s
        self._pauses_s = pauses_s
        self._remind_s = remind_s
        self.exchange_ahead_ms: int | None = None
        """The exchange's clock minus ours, by whoever measures it. None: nobody has, and nothing is deleted, for by a
        clock that is a year ahead all of the history is too old."""
        self._log = logs.logger()
        self._jobs: queue.SimpleQueue[tuple[int, list[Batch | Sent]] | None] = queue.SimpleQueue()
        """Unbounded: it holds what is in memory anyhow until it is on disk, and nothing that comes with every tick."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # of the event loop
        self._sent: list[Batch | Sent] = []
        """Not handed over yet."""
        self._handed = 0
        self._answered = 0
        self._gone_on: set[int] = set()
        self._closing = False
        self._told: str | None = ""
        self._told_at = 0.0
        # of the thread
        self._database: Database | None = None
        self._owed = Owed()
        self._error: StoreError | None = None
        self._tries = 0
        self._due_at = 0.0
        """When to try anew to open a file that could not be used, or to prune one that can (monotonic seconds)."""
        self._running = True
        self._number = 0
        self._batches: list[tuple[int, Batch]] = []
        """Handed over, and not answered yet."""

    async def open(self) -> Found:
        """Open or create the store. Returns what an earlier run has left; nothing where it cannot be read yet."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Found] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="store", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(self._start_s):
                return await opened
        except TimeoutError:
            self._say(f"{self._path}: not open after {self._start_s:g} s; it is big, or the disk does not answer")
            return Found()

    def keep(self, batch: Batch) -> None:
        """Hand a batch over; never waits."""
        self._hand_over(batch)
        if batch.events and self._loop is not None:
            self._loop.call_later(_PATIENCE_S, self._overdue, self._handed, batch)

    def sent(self, event_id: str, at_ms: int) -> None:
        """The broker has this event."""
        if not self._sent and self._loop is not None:
            self._loop.call_later(_SENT_S, self._hand_over)
        self._sent.append(Sent(event_id, at_ms))

    async def close(self) -> None:
        """Write what is handed over, then close."""
        self._closing = True
        if self._thread is not None:
            self._hand_over()
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join, 5)

    # ---- in the event loop ----

    def _hand_over(self, *batch: Batch) -> None:
        if self._sent or batch:
            self._handed += 1
            self._jobs.put((self._handed, [*self._sent, *batch]))
            self._sent = []

    def _overdue(self, number: int, batch: Batch) -> None:
        """A disk that hangs holds no alert back."""
        if number > self._answered:
            self._gone_on.add(number)
            self._say(f"{self._path}: the disk has not answered for {_PATIENCE_S:g} s")
            self._on_kept(batch, StoreError("the disk does not answer"))

    def _answer(self, number: int, batches: list[tuple[int, Batch]], error: StoreError | None) -> None:
        self._answered = max(self._answered, number)
        self._say(None if error is None else str(error))
        for one, batch in batches:
            if one in self._gone_on:
                self._gone_on.discard(one)
            else:
                self._on_kept(batch, error)

    def _say(self, reason: str | None) -> None:
        """Tell how the store is: at once when that changes, and now and then while it is unusable."""
        changed, mono = reason != self._told, now().mono
        if reason is not None and (changed or mono - self._told_at >= self._remind_s):
            self._told_at = mono
            self._log.error("store unusable, alerts go out from memory", reason=reason)
        elif changed and self._told:
            self._log.warning("store usable again, it has what it missed", events_lost_to_history=self._owed.lost)
        if changed:
            self._told = reason
            self._on_state(reason)

    def _deliver(self, opened: asyncio.Future[Found], found: Found) -> None:
        """What was found goes to whoever opens us, or to whoever has gone on without."""
        if not opened.done():
            opened.set_result(found)
        elif (found.rows or found.unsent) and not self._closing:
            self._on_found(found)

    # ---- the thread ----

    def _run(self, opened: asyncio.Future[Found]) -> None:
        found = self._try(_LOCKED_S)
        if found is None and (readable := glimpse(self._path)) is not None:
            found = self._adopt(readable)
        self._call(self._deliver, opened, found or Found())
        self._answer_all()
        while self._running:
            self._take(min(_LOOK_S, max(0.0, min(self._due_at, self._sort_at) - now().mono)))
            if self._database is None:
                self._answer_all()  # nobody waits for another try
                if now().mono < self._due_at and self._running:
                    continue
            found = self._try(_LOCKED_S if self._database is not None else _LOCKED_AGAIN_S)
            if found is not None:
                self._call(self._deliver, opened, found)
            self._answer_all()
            self._sort()
        if self._database is not None:
            self._database.close()

    def _take(self, timeout_s: float) -> None:
        """Take all jobs that wait, after waiting a while for the first."""
        with suppress(queue.Empty):
            job = self._jobs.get(timeout=timeout_s) if timeout_s else self._jobs.get_nowait()
            while job is not None:
                self._number, given = job
                for what in given:
                    self._owed.take(what)
                    if isinstance(what, Batch):
                        self._batches.append((self._number, what))
                job = self._jobs.get_nowait()
            self._running = False

    def _answer_all(self) -> None:
        self._call(self._answer, self._number, self._batches, self._error)
        self._batches = []

    def _try(self, patience_s: float) -> Found | None:
        """Open the file if it is not, and write what is owed. Returns what was found; None: it was open, or cannot be.

        Sets `_error`.
        """
        found = None
        try:
            if self._database is not None and not self._database.is_in_place:
                self._lose(StoreError(f"{self._path} was deleted or replaced while it was in use"))
            if self._database is None:
                self._database = Database(self._path, patience_s)
                found = self._adopt(self._database.read())
            if self._owed:
                self._database.write(self._owed)
                self._owed.on_disk()
            if now().mono >= self._due_at:
                self._due_at = now().mono + self._prune(self._database)
            self._error, self._tries = None, 0
        except Exception as exc:  # whatever it is: the thread lives on, and so do the alerts
            self._fail(exc)
        return found

    def _prune(self, database: Database) -> float:
        """Delete some of what is too old by both clocks. Returns after how long to do so again (seconds)."""
        if self.exchange_ahead_ms is None:
            return _LOOK_S
        more = database.prune(now().wall_ms + min(0, self.exchange_ahead_ms), self._keep_days)
        return 0 if more else _DAY_S

    @property
    def _sort_at(self) -> float:
        """When what lies unsorted is to be sorted in (monotonic seconds)."""
        return math.inf if self._database is None else self._database.unsorted_since + _SORT_S

    def _sort(self) -> None:
        """Have what was written for those who wait sorted in, now that they have their answer."""
        if self._database is not None and (now().mono >= self._sort_at or not self._running):
            try:
                self._database.sort()
            except Exception as exc:
                self._fail(exc)
                self._answer_all()

    def _adopt(self, found: Found) -> Found:
        """The part of it that this run knows nothing of; opening may take long, so what was said meanwhile counts."""
        self._take(0)
        return self._owed.adopt(found)

    def _lose(self, error: StoreError) -> None:
        """The file is gone: say so, and go on with another."""
        assert self._database is not None
        self._call(self._say, str(error))
        self._database.close()
        self._database = None

    def _fail(self, exc: Exception) -> None:
        error = exc if isinstance(exc, StoreError) else StoreError(f"{self._path}: {exc!r}")
        if self._database is not None:
            self._database.close()
            self._database = None
        low_s, high_s = self._pauses_s
        pause_s = float("inf") if isinstance(error, StoreNewer) else min(high_s, low_s * 2 ** min(self._tries, 20))
        self._error = error
        self._tries += 1
        self._due_at = now().mono + pause_s

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the event loop call this, if it still runs."""
        assert self._loop is not None
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)
