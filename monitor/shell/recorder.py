"""Session files: what the links say, into a file of one's own, or into memory until it is needed.

The flight recorder keeps the last minutes, and saves them when an incident becomes critical, so that it can be replayed
with the very input that led to it. Neither ever delays the risk loop: a line is a reference that is kept, and encoding
and writing are a thread's work.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import structs

from monitor.config import RecorderConfig
from monitor.core import Kept
from monitor.effects import INSTANCE, AccountSetup, Effect, Save, Story
from monitor.errors import DecodeError
from monitor.events import AccountChanged
from monitor.names import slug
from monitor.recording import Line, Opening, Secrets, encode, encode_opening, read_link_state, requests_by_name
from monitor.rules import RuleBook, Severity
from monitor.shell import logs
from monitor.shell.clock import now
from monitor.shell.owed import Found, Rows
from monitor.venues import VENUES

_FLUSH_S = 1.0
_FOLLOW_S = 60.0
"""So long after it is saved, a session is written again, so that what followed is in it."""
_WINDOW_BYTES = 16 * 2**20
_BASE_BYTES = 32 * 2**20
_LINE_BYTES = 400
"""What a line costs in memory beside its bytes, roughly."""

_PUSHED_AT_MOST = 1000
_LARGE = 65_536
_BREATH_LINES = 200
_CLOSE_S = 5.0


class SessionWriter:
    """Writes each line as it comes. A line is on its way to the disk within a second.

    Args:
        on_failure: Called once, with the reason, where no more can be written.

    Raises:
        OSError: The file exists, or cannot be written.
    """

    def __init__(self, path: Path, opening: Opening, secrets: Secrets, on_failure: Callable[[str], None]) -> None:
        self.secrets = secrets
        self.lines = 0
        self._on_failure = on_failure
        self._flushed = time.monotonic()
        self._failed = False
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._file.write(encode_opening(opening))
        self._file.flush()

    def heard(self, line: Line) -> None:
        if self._failed:
            return
        try:
            self._file.write(encode(line, self.secrets))
            self.lines += 1
            here = time.monotonic()
            if here - self._flushed >= _FLUSH_S:
                self._flushed = here
                self._file.flush()
        except OSError as exc:
            self._fail(exc)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as exc:
            self._fail(exc)

    def _fail(self, exc: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._on_failure(exc.strerror or type(exc).__name__)


class _Base:
    """What is known at the beginning of the window: the newest of everything that has left it."""

    def __init__(self) -> None:
        self._links: dict[tuple[str | None, str], Line] = {}
        self._answers: dict[tuple[str | None, str, str], Line] = {}
        self._pushed: dict[str, list[Line]] = {}
        self._bytes = 0
        self._last_named_ms = 0
        self._rows: dict[tuple[str, str], bytes] = {}

    def take_over(self, found: Found) -> None:
        """What an earlier run has left was known before all that this one heard."""
        left = {(table, key): row for table, rows in found.rows.items() for key, row in rows.items()}
        self._rows = left | self._rows
        self._last_named_ms = max(self._last_named_ms, found.last_named_ms)

    def take(self, entry: Line | Save) -> None:
        """Something has left the window."""
        if isinstance(entry, Save):
            if entry.row is None:
                self._rows.pop((entry.table, entry.key), None)
            else:
                self._rows[entry.table, entry.key] = entry.row
        elif entry.source == "link":
            with suppress(DecodeError):
                self._links[entry.account, read_link_state(entry).link.name] = entry
        elif entry.source == "rest":
            self._take_answer(entry)
        elif entry.source == "private" and entry.account is not None and _changes_account(entry):
            pushed = self._pushed.setdefault(entry.account, [])
            pushed.append(entry)
            del pushed[:-_PUSHED_AT_MOST]  # where no snapshot succeeds for hours

    def _take_answer(self, line: Line) -> None:
        asks = VENUES[line.venue].requests
        request = requests_by_name(line.venue).get(line.request or "")
        if request is None or request in (asks.marks, asks.rates, asks.forced, asks.open_stream, asks.keep_stream):
            return  # of their moment alone
        key = (line.account, line.market, line.request or "")
        if line.account is not None and request == asks.reconcile[-1]:
            balances = self._answers.get((line.account, line.market, str(asks.reconcile[0])))
            since_ms = 0 if balances is None else balances.at_ms  # what was pushed before is in both answers
            pushed = self._pushed.get(line.account, ())
            self._pushed[line.account] = [frame for frame in pushed if frame.at_ms >= since_ms]
        before = self._answers.get(key)
        size = self._bytes + len(line.raw) - (0 if before is None else len(before.raw))
        if size <= _BASE_BYTES:
            self._answers[key] = line
            self._bytes = size

    def kept(self, accounts: Collection[AccountSetup]) -> Kept:
        """Incidents, baselines and silences as they were; of a market that none of these is on there is nothing to
        end."""
        rows: Rows = {}
        names, shared = _names(accounts), {"store", *(slug(account.market) for account in accounts)}
        for (table, key), row in self._rows.items():
            account, _, what = key.partition("/")
            is_elsewhere = table == "incident" and account == INSTANCE and what.rpartition("/")[2] not in shared
            if table == "silence" or (account in names and not is_elsewhere):
                rows.setdefault(table, {})[key] = row
        return Found(rows, last_named_ms=self._last_named_ms).kept

    def lines(self, accounts: Collection[str], at_ms: int) -> Iterator[Line]:
        """What a replay has to know first: what the markets say, each account's snapshot, links, what came after."""
        answers = sorted(_about(accounts, self._answers.values()), key=_in_order)
        pushed = (frame for frames in self._pushed.values() for frame in _about(accounts, frames))
        for line in (*answers, *_about(accounts, self._links.values()), *pushed):
            yield structs.replace(line, at_ms=at_ms, received_ms=line.at_ms)

    def copy(self) -> _Base:
        """As it is now, for a thread to read."""
        same = copy(self)
        same._links, same._answers, same._rows = {**self._links}, {**self._answers}, {**self._rows}
        same._pushed = {account: [*frames] for account, frames in self._pushed.items()}
        return same


class FlightRecorder:
    """Keeps what the links said of late, and saves it when an incident becomes critical.

    Args:
        opening: Instance and setup.
        folder: Where the files go; made when the first is saved.
    """

    def __init__(self, config: RecorderConfig, folder: Path, opening: Opening, secrets: Secrets) -> None:
        self.secrets = secrets
        self._config = config
        self._folder = folder
        self._opening = opening
        self._base = _Base()
        self._window: deque[tuple[int, Line | Save]] = deque()
        self._bytes = 0
        self._large: dict[str, bytes] = {}
        self._again: dict[str, tuple[str, asyncio.TimerHandle]] = {}
        self._writing: dict[str, asyncio.Future[None]] = {}
        self._writer = ThreadPoolExecutor(1, "recorder")
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
        self._base.take_over(found)

    def take_rules(self, rules: RuleBook) -> None:
        if self._opening.setup is not None:
            self._opening = structs.replace(self._opening, setup=structs.replace(self._opening.setup, rules=rules))

    def take_accounts(self, accounts: tuple[AccountSetup, ...], secrets: Iterable[str]) -> None:
        """From now on these are watched, and none of these secrets may get into a file."""
        if self._opening.setup is not None:
            self._opening = structs.replace(
                self._opening, setup=structs.replace(self._opening.setup, accounts=accounts)
            )
        for secret in secrets:
            self.secrets.learn(secret)

    def happened(self, effects: Iterable[Effect]) -> None:
        """What the core made of it: rows to know at the beginning of a later window, and incidents to save it for."""
        for effect in effects:
            if isinstance(effect, Save):
                self._append(now().wall_ms, effect, len(effect.row or b""))
            elif isinstance(effect, Story):
                change = effect.change
                if change.kind in ("opened", "worsened", "noted") and change.severity >= Severity.CRITICAL:
                    self._save_twice(change.incident.incident_id, change.incident.account)

    async def close(self) -> None:
        """Save what was to be saved once more, and wait for it, but not for ever."""
        for incident_id, (account, timer) in list(self._again.items()):
            timer.cancel()
            self._save(incident_id, account)
        self._again.clear()
        if self._writing:
            await asyncio.wait(list(self._writing.values()), timeout=_CLOSE_S)
        self._writer.shutdown(wait=False, cancel_futures=True)

    # ---- the window ----

    def _append(self, at_ms: int, entry: Line | Save, size: int) -> None:
        self._window.append((at_ms, entry))
        self._bytes += size + _LINE_BYTES
        oldest_ms = at_ms - round(self._config.minutes * 60_000)
        while self._window and (self._window[0][0] < oldest_ms or self._bytes > _WINDOW_BYTES):
            _, left = self._window.popleft()
            self._bytes -= _LINE_BYTES + len((left.raw if isinstance(left, Line) else left.row) or b"")
            self._base.take(left)

    # ---- saving ----

    def _save_twice(self, incident_id: str, account: str) -> None:
        if incident_id in self._again:
            self._again.pop(incident_id)[1].cancel()
        elif len(self._again) >= self._config.keep:
            return  # a crash of everything at once: more files than are kept help nobody
        self._save(incident_id, account)
        loop = asyncio.get_running_loop()
        self._again[incident_id] = (account, loop.call_later(_FOLLOW_S, self._save_again, incident_id))

    def _save_again(self, incident_id: str) -> None:
        account, _ = self._again.pop(incident_id)
        self._save(incident_id, account)

    def _save(self, incident_id: str, account: str) -> None:
        """Have a thread write the window as it is now: what concerns this account, or all where it is nobody's."""
        setup = self._opening.setup
        assert setup is not None
        own = setup if account == INSTANCE else structs.replace(setup, accounts=_only(account, setup.accounts))
        at_ms = self._window[0][0] if self._window else now().wall_ms
        opening = structs.replace(self._opening, at_ms=at_ms, setup=own)
        base, window = self._base.copy(), [*self._window]
        path = self._folder / file_name(incident_id)
        try:
            done = asyncio.get_running_loop().run_in_executor(self._writer, self._write, path, opening, base, window)
        except RuntimeError as exc:  # no thread to be had; alerts go on all the same
            self._log.error("session not saved", incident_id=incident_id, path=str(path), reason=str(exc))
            return
        self._writing[incident_id] = done
        done.add_done_callback(lambda future: self._written(incident_id, path, future))

    def _written(self, incident_id: str, path: Path, done: asyncio.Future[None]) -> None:
        if self._writing.get(incident_id) is done:
            del self._writing[incident_id]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._log.info("session saved", incident_id=incident_id, path=str(path))
        else:
            reason = getattr(error, "strerror", None) or repr(error)
            self._log.error("session not saved", incident_id=incident_id, path=str(path), reason=reason)

    def _write(self, path: Path, opening: Opening, base: _Base, window: Collection[tuple[int, Line | Save]]) -> None:
        """In the thread. It pauses now and then: the risk loop needs the interpreter more urgently."""
        assert opening.setup is not None
        names = _names(opening.setup.accounts)
        opening = structs.replace(opening, kept=base.kept(opening.setup.accounts))
        heard = _about(names, (entry for _, entry in window if isinstance(entry, Line)))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(encode_opening(opening))
                for number, line in enumerate(chain(base.lines(names, opening.at_ms), heard), 1):
                    file.write(encode(line, self.secrets))
                    if number % _BREATH_LINES == 0:
                        time.sleep(0.001)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        _remove_old(path.parent, self._config.keep)


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


def _about(accounts: Collection[str], lines: Iterable[Line]) -> Iterator[Line]:
    """What is of these accounts, or of none."""
    return (line for line in lines if line.account is None or line.account in accounts)


def _names(accounts: Iterable[AccountSetup]) -> set[str]:
    return {INSTANCE, *(account.name for account in accounts)}


def _only(account: str, accounts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(a for a in accounts if a.name == account)


def _changes_account(line: Line) -> bool:
    """Whether a private frame says something that is not in the snapshot before it."""
    with suppress(DecodeError):
        return any(isinstance(e, AccountChanged) for e in VENUES[line.venue].decode_private(line.raw, ""))
    return False


def _in_order(line: Line) -> tuple[bool, str, int, int]:
    """Markets first; of an account its clock, then its snapshot in the order in which it is asked for."""
    asks = [str(request) for request in VENUES[line.venue].requests.account]
    place = asks.index(line.request) if line.request in asks else -1
    return line.account is not None, line.account or "", place, line.at_ms
