"""What a check finds, and how it is told: each line with its remedy, and progress while somebody waits."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Literal, TextIO

from msgspec import Struct

from monitor.humanize import counted

Level = Literal["ok", "note", "warning", "error"]
"""`note`: good to know, or unknown. `warning`: it works, and could be better. `error`: it must be mended."""


class Finding(Struct, frozen=True):
    """One line of a check.

    Args:
        text: What was looked at, and how it stands.
        remedy: What would put it right; empty where nothing is wrong, or where the text says so itself.
    """

    level: Level
    text: str
    remedy: str = ""


class Findings:
    """Prints what is found as it is found, and counts it.

    Args:
        out: Where the lines go.
        progress: Where what is being waited for is shown, if that is a terminal.
    """

    def __init__(self, out: TextIO | None = None, progress: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._progress = progress or sys.stderr
        self._waiting = False
        self.count: dict[Level, int] = {"ok": 0, "note": 0, "warning": 0, "error": 0}

    def take(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.count[finding.level] += 1
            self._clear()
            print(f"{finding.level:<8} {finding.text}", file=self._out)
            if finding.remedy:
                print(f"{'':<8} → {finding.remedy}", file=self._out)
        self._out.flush()

    def waits_for(self, what: str) -> None:
        """Show what takes a while."""
        if self._progress.isatty():
            self._clear()
            self._progress.write(f"… {what}")
            self._progress.flush()
            self._waiting = True

    def _clear(self) -> None:
        if self._waiting:
            self._progress.write("\r\x1b[K")
            self._progress.flush()
            self._waiting = False

    def sum_up(self) -> int:
        """Say how many there are. Returns the exit status: 1 with any error."""
        self._clear()
        errors, warnings = self.count["error"], self.count["warning"]
        said = [f"{errors} to mend"] if errors else ["nothing to mend"]
        said += [counted(warnings, "warning")] if warnings else []
        print(", ".join(said), file=self._progress)
        return 1 if errors else 0
