"""What each command of the command line does; one module each, imported when it is used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from monitor.errors import ConfigError

if TYPE_CHECKING:
    from monitor.replaying import Replay, Session

CONFIG_ERROR = 78
"""Exit status for a config that cannot be used (EX_CONFIG); systemd does not restart after it."""


def complain(error: ConfigError) -> int:
    """Print every mistake of a config. Returns the exit status."""
    for problem in error.problems:
        print(problem, file=sys.stderr)
    return CONFIG_ERROR


def session_remarks(session: Session, replay: Replay) -> None:
    """Say what of a session was left out."""
    if session.is_cut:
        print(f"note: line {session.number} is cut off and left out: its writer was killed", file=sys.stderr)
    if replay.bad_frames:
        print(f"note: {replay.bad_frames} frames did not read and are left out, as they were live", file=sys.stderr)
    if replay.unknown_requests:
        unknown = ", ".join(replay.unknown_requests)
        print(f"note: answers to {unknown} are of no use to this version and are left out", file=sys.stderr)
