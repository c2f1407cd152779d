"""A wall clock that can be moved for one process, while it runs, and its monotonic clock left alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("wallclock.c")


class WallClock:
    """Moves the clock of every process that is started with its environment.

    Args:
        folder: For the library, which is compiled here, and the shared offset.

    Attributes:
        env: What such a process needs in its environment; empty without a C compiler, and then nothing can be moved.
    """

    def __init__(self, folder: Path) -> None:
        self.env: dict[str, str] = {}
        self._offset = folder / "wallclock.offset"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return
        library = folder / "wallclock.so"
        subprocess.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _SOURCE], check=True, timeout=60)
        self._offset.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(library), "WALLCLOCK_OFFSET": str(self._offset)}

    def jump(self, offset_s: float) -> None:
        """From now on the wall clock is so far from the true one."""
        with self._offset.open("r+b", buffering=0) as file:
            file.write(round(offset_s * 1e9).to_bytes(8, "little", signed=True))
