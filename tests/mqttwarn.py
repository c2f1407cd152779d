"""A real mqttwarn as a process. It lives in an environment of its own, since it needs an older MQTT library than we do.

Whoever runs the tests names it in `MARGINWATCH_MQTTWARN`, or has it in `.venv-mqttwarn`, where `.ci/run` puts it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.rig import ROOT

MQTTWARN = Path(os.environ.get("MARGINWATCH_MQTTWARN", ROOT / ".venv-mqttwarn" / "bin" / "mqttwarn"))


class Mqttwarn:
    """mqttwarn with this config, until the end of the `with`."""

    def __init__(self, folder: Path, config: str) -> None:
        self._config = folder / "mqttwarn.ini"
        self._config.write_text(config, "utf-8")
        self._log = folder / "mqttwarn.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mqttwarn:
        with self._log.open("ab") as log:
            command = [str(MQTTWARN)]
            env = {**os.environ, "MQTTWARNINI": str(self._config)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=self._config.parent)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8")
