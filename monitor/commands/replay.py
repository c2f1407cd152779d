"""`marginwatch replay`: a session once more, as fast as the core goes. The same file always gives the same bytes."""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path

import msgspec

from monitor.commands import complain, session_remarks
from monitor.errors import ConfigError, DecodeError
from monitor.replaying import Sent
from monitor.shell import settings
from monitor.shell.sessions import SessionFile


def main(path: str, config_path: str | None, as_json: bool) -> int:
    try:
        config = None if config_path is None else settings.load(Path(config_path))
    except ConfigError as exc:
        return complain(exc)
    started = time.perf_counter()
    out = sys.stdout.buffer
    try:
        file = SessionFile(Path(path), config)
        session = file.session()
        replay = file.replay(session)
        for sent in replay.run(session):
            if as_json:
                out.write(sent.as_json + b"\n")
            elif sent.message.is_event:
                out.write(_words(sent).encode() + b"\n")
        out.flush()
    except OSError as exc:
        if exc.errno in (errno.EPIPE, errno.ENOSPC):  # it is what we print that could not be written
            raise
        print(f"marginwatch replay: {path}: {exc.strerror}", file=sys.stderr)
        return 1
    except DecodeError as exc:
        out.flush()
        print(f"marginwatch replay: {path}: {exc}", file=sys.stderr)
        return 1
    session_remarks(session, replay)
    seconds = max(time.perf_counter() - started, 1e-9)
    print(f"{session.number - 1} lines in {seconds:.2f} s, {session.number / seconds:,.0f} a second", file=sys.stderr)
    return 0


def _words(sent: Sent) -> str:
    event = msgspec.json.decode(sent.message.payload)
    return f"{event['at']}  {event['severity'].upper():<11} {event['rule']} {event['event']}: {event['text']}"
