"""The flight recorder: what the links said in the last minutes, saved when an incident becomes critical.

So it can be replayed with the very input that led to it. The risk loop is hardly delayed: a line is a reference that is
kept, and encoding and writing are the work of a thread that leaves it most of the time.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from msgspec import Struct, structs

from monitor.config import RecorderConfig
from monitor.core import Setup
from monitor.effects import INSTANCE, AccountSetup, Effect, Save, Story
from monitor.recording import Line, Opening, Secrets, encode, encode_opening
from monitor.rules import RuleBook, Severity
from monitor.shell import logs
from monitor.shell.clock import now
from monitor.shell.known import Known, about, names
from monitor.shell.owed import Found

_FOLLOW_S = 60.0
"""So long after it is saved, a session is written again, so that what followed is in it."""
_WINDOW_BYTES = 16 * 2**20
_LINE_BYTES = 400
"""What a line costs in memory beside its bytes, roughly."""

_LARGE = 65_536
_SPELL_S = 0.001
"""So long the thread works at a time (seconds of CPU)."""
_REST = 9
"""So many times as long it rests. The threads of one process run in turns, and the loop lets go of its own with every
message that it sends: beside one that always works, each would wait for milliseconds."""
_CLOSE_S = 5.0


class _Session(Struct, frozen=True):
    """What is to be written of an incident.

    Args:
        known: At the beginning of the window.
    """

    path: Path
    at_ms: int
    setup: Setup
    known: Known
    window: Sequence[tuple[int, Line | Save]]


class FlightRecorder:
    """Keeps what the links said of late, and saves it when an incident becomes critical.

    Args:
        folder: Where the files go; made when the first is saved.
    """

    def __init__(self, config: RecorderConfig, folder: Path, instance: str, setup: Setup, secrets: Secrets) -> None:
        self.secrets = secrets
        self._config = config
        self._folder = folder
        self._instance = instance
        self._setup = setup
        self._known = Known()
        self._window: deque[tuple[int, Line | Save]] = deque()
        self._bytes = 0
        self._large: dict[str, bytes] = {}
        self._again: dict[str, tuple[str, float]] = {}
        """Incident → its account, and when it is saved once more (the event loop's time)."""
        self._waiting: dict[str, _Session] = {}
        """Incident → what is to be written of it, the newest alone."""
        self._writing: set[asyncio.Future[bool]] = set()
        self._writer = ThreadPoolExecutor(1, "recorder")
        self._is_closing = threading.Event()
        self._log = logs.logger()

    def heard(self, line: Line) -> None:
        request = line.request
        if request is not None and len(line.raw) > _LARGE:  # accounts of one market are often told the same
            same = self._large.get(request)
            if same == line.raw:
                line = structs.replace(line, raw=same)
            else:
                self._large[request] = line.raw
        self._append(line.at_ms, line, len(line.raw))

    def take_over(self, found: Found) -> None:
        """What an earlier run has left, at the start or once the store can be read."""
        self._known.take_over(found)

    def take_rules(self, rules: RuleBook) -> None:
        self._setup = structs.replace(self._setup, rules=rules)

    def take_accounts(self, accounts: tuple[AccountSetup, ...], secrets: Iterable[str]) -> None:
        """From now on these are watched, and none of these secrets may get into a file."""
        self._setup = structs.replace(self._setup, accounts=accounts)
        for secret in secrets:
            self.secrets.learn(secret)

    def happened(self, effects: Iterable[Effect]) -> None:
        """What the core made of it: rows to know at the beginning of a later window, and incidents to save it for."""
        critical: dict[str, str] = {}
        for effect in effects:
            if isinstance(effect, Save):
                self._append(now().wall_ms, effect, len(effect.row or b""))
            elif isinstance(effect, Story):
                change = effect.change
                if change.kind in ("opened", "worsened", "noted") and change.severity >= Severity.CRITICAL:
                    critical[change.incident.incident_id] = change.incident.account
        if critical:
            self._save_twice(critical)

    async def close(self) -> None:
        """Save what was to be saved once more, and wait for it, but not for ever."""
        self._is_closing.set()
        if self._again:
            self._save({incident_id: account for incident_id, (account, _) in self._again.items()})
        self._again.clear()
        if self._writing:
            await asyncio.wait(self._writing, timeout=_CLOSE_S)
        if left := list(self._waiting):  # the one that is being written still will be
            self._log.error("sessions not saved", incident_ids=left, reason="the daemon ends")
        self._writer.shutdown(wait=False, cancel_futures=True)

    # ---- the window ----

    def _append(self, at_ms: int, entry: Line | Save, size: int) -> None:
        self._window.append((at_ms, entry))
        self._bytes += size + _LINE_BYTES
        oldest_ms = at_ms - round(self._config.minutes * 60_000)
        while self._window and (self._window[0][0] < oldest_ms or self._bytes > _WINDOW_BYTES):
            _, left = self._window.popleft()
            self._bytes -= _LINE_BYTES + len((left.raw if isinstance(left, Line) else left.row) or b"")
            self._known.take(left)

    # ---- saving ----

    def _save_twice(self, incidents: Mapping[str, str]) -> None:
        """Now, and once more later. incidents: Id → account."""
        loop = asyncio.get_running_loop()
        again_at = loop.time() + _FOLLOW_S
        saved: dict[str, str] = {}
        for incident_id, account in incidents.items():
            if incident_id in self._again or len(self._again.keys() | self._waiting.keys()) < self._config.keep:
                saved[incident_id] = account  # in a crash of everything at once more than are kept would help nobody
                self._again[incident_id] = account, again_at
        if saved:
            self._save(saved)
            loop.call_later(_FOLLOW_S, self._save_again)

    def _save_again(self) -> None:
        here = asyncio.get_running_loop().time()
        due = {incident_id: account for incident_id, (account, at) in self._again.items() if at <= here}
        for incident_id in due:
            del self._again[incident_id]
        if due:
            self._save(due)

    def _save(self, incidents: Mapping[str, str]) -> None:
        """Have a thread write the window as it is now: of each incident what concerns its account, or all where it is
        nobody's."""
        at_ms = self._window[0][0] if self._window else now().wall_ms
        known, window = self._known.copy(), [*self._window]
        for incident_id, account in incidents.items():
            accounts = tuple(setup for setup in self._setup.accounts if account in (INSTANCE, setup.name))
            setup = structs.replace(self._setup, accounts=accounts)
            path = self._folder / file_name(incident_id)
            self._waiting[incident_id] = _Session(path, at_ms, setup, known, window)
            try:
                done = asyncio.get_running_loop().run_in_executor(self._writer, self._write, incident_id)
            except RuntimeError as exc:  # no thread to be had; alerts go on all the same
                del self._waiting[incident_id]
                self._log.error("session not saved", incident_id=incident_id, path=str(path), reason=str(exc))
                continue
            self._writing.add(done)
            done.add_done_callback(partial(self._written, incident_id, path))

    def _written(self, incident_id: str, path: Path, done: asyncio.Future[bool]) -> None:
        self._writing.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            reason = getattr(error, "strerror", None) or repr(error)
            self._log.error("session not saved", incident_id=incident_id, path=str(path), reason=reason)
        elif done.result():
            self._log.info("session saved", incident_id=incident_id, path=str(path))

    def _write(self, incident_id: str) -> bool:
        """In the thread. Returns whether it still was to be written: the turn of an earlier one may have come first."""
        session = self._waiting.pop(incident_id, None)
        if session is None:
            return False
        path, at_ms, setup, known = session.path, session.at_ms, session.setup, session.known
        accounts = names(setup.accounts)
        opening = Opening(at_ms, instance=self._instance, setup=setup, kept=known.kept(setup.accounts))
        heard = about(accounts, (entry for _, entry in session.window if isinstance(entry, Line)))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(encode_opening(opening))
                for line in self._at_leisure(chain(known.lines(accounts, at_ms), heard)):
                    file.write(encode(line, self.secrets))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise
        _remove_old(path.parent, self._config.keep)
        return True

    def _at_leisure(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines, with rests in between for as long as the daemon runs."""
        begun = time.thread_time()
        for line in lines:
            yield line
            worked = time.thread_time() - begun
            if worked >= _SPELL_S:
                self._is_closing.wait(_REST * worked)
                begun = time.thread_time()


def file_name(incident_id: str) -> str:
    """What the session of an incident is called; its name has nothing but letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", incident_id) + ".jsonl"


def bundle_of(folder: Path, incident_id: str) -> Path | None:
    """The session that was saved when this incident became critical. None: none was, or it has been removed since."""
    path = folder / file_name(incident_id)
    return path if path.is_file() else None


def _remove_old(folder: Path, keep: int) -> None:
    found = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    half_written = folder.glob("*.tmp")  # by a process that was killed: the one thread that writes is here
    for path in (*found[keep:], *half_written):
        path.unlink()
