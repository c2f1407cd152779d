"""What each command of the command line does; one module each, imported when it is used."""

from __future__ import annotations

import sys

from monitor.errors import ConfigError

CONFIG_ERROR = 78
"""Exit status for a config that cannot be used (EX_CONFIG); systemd does not restart after it."""


def complain(error: ConfigError) -> int:
    """Print every mistake of a config. Returns the exit status."""
    for problem in error.problems:
        print(problem, file=sys.stderr)
    return CONFIG_ERROR
