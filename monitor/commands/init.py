"""`marginwatch init`: a commented config, and the service unit."""

from __future__ import annotations

import sys
from pathlib import Path

import monitor

_UNIT = "marginwatch.service"


def main(directory: str, systemd: bool) -> int:
    folder = Path(directory)
    wanted = [("config.example.toml", folder / "config.toml")]
    if systemd:
        wanted.append((_UNIT, folder / _UNIT))
    missing = [(name, target) for name, target in wanted if not target.exists()]
    for _, target in wanted:
        if target.exists():
            print(f"{target} is there already; it is left as it is. Move it away to have a new one.", file=sys.stderr)
    for name, target in missing:
        try:
            target.write_text(_shipped(name), encoding="utf-8")
        except OSError as exc:
            print(f"{target} cannot be written: {exc.strerror}", file=sys.stderr)
            return 1
        print(f"{target} written")
    if not missing:
        return 1
    print("Next: set your account and broker in it, then run `marginwatch check`.")
    return 0


def _shipped(name: str) -> str:
    """A file that comes with the package: inside an installed one, or at its place in a checkout."""
    package = Path(monitor.__file__).parent
    top = package.parent
    for place in (package / "data" / name, top / name, top / "systemd" / name):
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise FileNotFoundError(name)
