"""Session files on disk: writing one as it comes, reading one, and making one ready to be replayed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import structs

from monitor.config import Config
from monitor.core import Setup
from monitor.recording import LONGEST_LINE, Line, Opening, Secrets, encode, encode_opening
from monitor.replaying import Replay, Session, accounts_of

_CHUNK = 2**20
_FLUSH_S = 1.0


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


class SessionFile:
    """A session file, which may be read as often as needed.

    Args:
        config: Rules, labels, prefix and privacy, where they are to be others than the file's own.

    Raises:
        OSError: It cannot be read.
        DecodeError: It is no session file, with the line and the remedy.
    """

    def __init__(self, path: Path, config: Config | None = None) -> None:
        self.path = path
        self.setup = _setup(path, config)
        self._prefix = "marginwatch" if config is None else config.mqtt.prefix
        self._notices = config is not None and not config.privacy.amounts
        self._boot_id = _digest(path)

    def session(self) -> Session:
        return Session(_lines(self.path))

    def replay(self, session: Session, setup: Setup | None = None) -> Replay:
        """A core that knows nothing yet, for this session.

        Args:
            setup: Other accounts and rules than the file's.
        """
        return Replay(session.opening, setup or self.setup, self._boot_id, self._prefix, notices=self._notices)


def _setup(path: Path, config: Config | None) -> Setup:
    """Accounts as the file names them; rules and labels as the config has them, where one is given."""
    session = Session(_lines(path))
    setup = session.opening.setup
    if setup is None:
        setup = Setup(accounts_of(session))
    return setup if config is None else with_rules(setup, config)


def with_rules(setup: Setup, config: Config) -> Setup:
    """The setup with the rules of a config, and the labels that its rules may match on."""
    labels = {account.name: account.labels for account in config.accounts}
    accounts = tuple(structs.replace(a, labels=labels.get(a.name, a.labels)) for a in setup.accounts)
    return structs.replace(setup, accounts=accounts, rules=config.rules)


def check(path: Path) -> int:
    """Replay a file and forget what comes of it. Returns how many events it tells.

    Raises:
        OSError, DecodeError: As for `SessionFile`.
    """
    file = SessionFile(path)
    session = file.session()
    return sum(sent.message.is_event for sent in file.replay(session).run(session))


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; what is longer than any line comes in parts, of which none reads."""
    with path.open("rb") as file:
        yield from _read(file)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE):
        yield line


def _digest(path: Path) -> str:
    """What stands for the boot id: the same for the same file, wherever it is replayed."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            made.update(chunk)
    return made.hexdigest()[:16]
