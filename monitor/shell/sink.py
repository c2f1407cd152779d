"""Where log lines go: a thread writes them, so that whoever logs never waits for a disk, a pipe or a terminal."""

from __future__ import annotations

import atexit
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any

_WAITING_AT_MOST = 5000
"""Lines; a line is some hundred bytes."""
_LAST_WORDS_S = 2.0
"""How long the end of the process waits for a reader."""


class Sink:
    """A file that takes lines at once. A full disk, or a reader that is slow or has gone, costs lines and nothing else.

    Args:
        told: Called from the thread with the number of lines that were dropped, once there is room again.
    """

    def __init__(self, stream: Any, told: Callable[[int], None]) -> None:
        self.stream = stream
        self._told = told
        self._lines: Queue[bytes] = Queue(_WAITING_AT_MOST)
        self._dropped = 0
        self._file: int | None = None
        with suppress(AttributeError):  # a terminal without these letters
            stream.reconfigure(errors="backslashreplace")
        with suppress(OSError, ValueError, AttributeError):
            self._file = stream.fileno()
        if self._file is not None:
            Thread(target=self._run, name="log", daemon=True).start()
            atexit.register(self.drain)

    def write(self, text: str) -> None:
        if self._file is None:
            with suppress(OSError, ValueError):
                self.stream.write(text)
                self.stream.flush()
            return
        try:
            self._lines.put_nowait(text.encode(self.stream.encoding, "backslashreplace"))
        except Full:
            self._dropped += 1

    def flush(self) -> None:
        """Each line is on its way already."""

    def drain(self, within_s: float = _LAST_WORDS_S) -> None:
        """Wait until all lines are written, but not for ever."""
        end = time.monotonic() + within_s
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError, ValueError):
                self._write(line)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._told(dropped)
            self._lines.task_done()

    def _write(self, line: bytes) -> None:
        """Write to the file itself: the lock of a stream that hangs would hang the end of the process too."""
        assert self._file is not None
        while line:
            try:
                line = line[os.write(self._file, line) :]
            except BlockingIOError:  # somebody else has made our pipe one that does not wait
                select.select((), (self._file,), ())
