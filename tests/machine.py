"""A machine of its own under a real systemd, where the units run as they are: a container over this machine's files.

Its root is an overlay over ours, so it has our Python and libraries, and what it writes is gone with it. It shares our
network, so that the simulated exchange and the broker of a test are its own too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.rig import ROOT

_PROGRAM = """\
#!/bin/sh
export PYTHONPATH=/srv/checkout:/srv/packages LD_LIBRARY_PATH=/srv/python/lib
exec /srv/python/bin/{python} -B -m monitor "$@"
"""
"""Stands in for the venv, which lies where the unit must not look: under /home, /root or /tmp."""


def needs_machine() -> None:
    """Skip where no container can be started; in CI its tools at least must be there."""
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "mount") if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)} not installed, and CI has to try the units")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: no systemd to try the units with")
    may_mount = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True)
    if os.geteuid() != 0 or may_mount.returncode:
        pytest.skip("starting a systemd of one's own needs root, with the right to mount")


class Machine:
    """A booted container.

    Attributes:
        root: Its files, as we see them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "root"
        self._console = folder.parent / "console.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir()
        _run("mount", "-t", "tmpfs", "tmpfs", str(self._folder))
        upper, work = self._folder / "upper", self._folder / "work"
        for each in (upper, work, self.root):
            each.mkdir()
        _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(self.root))
        program = self.root / "opt/marginwatch/bin/marginwatch"
        program.parent.mkdir(parents=True)
        program.write_text(_PROGRAM.format(python=f"python3.{sys.version_info.minor}"), "utf-8")
        program.chmod(0o755)
        for unit in (ROOT / "systemd").iterdir():
            shutil.copy(unit, self.root / "etc/systemd/system")
        bound = {
            sys.base_prefix: "/srv/python",
            sysconfig.get_paths()["purelib"]: "/srv/packages",
            ROOT: "/srv/checkout",
        }
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"),
                    *(f"--bind-ro={source}:{target}" for source, target in bound.items()),
                    *(f"--directory={self.root}", "--boot", "--", "--unit=basic.target"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.run("systemctl", "is-active", "basic.target").stdout.strip() != "active":
            assert self._process.poll() is None, self._console.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < deadline, self._console.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.1)

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text("utf-8").split()
        if not children:
            return subprocess.CompletedProcess(command, 1, "", "not there yet")
        enter = ["nsenter", "--target", children[0], "--mount", "--uts", "--ipc", "--pid", "--cgroup"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=timeout_s)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        for mounted in (self.root, self._folder):
            subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
