"""`marginwatch init`: a commented config, and the units of the service."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import monitor

_UNITS = ("marginwatch.service", "marginwatch@.service")
_NEXT = "Next: set your account and broker in {config}, then run `marginwatch check{option}`."
_NEXT_SERVICE = """\
Then, as a service (`marginwatch@NAME` for one of several, with its files in /etc/marginwatch/NAME):
  sudo install -D -m 644 {config} /etc/marginwatch/config.toml
  sudo cp {units} /etc/systemd/system/
  sudo systemctl daemon-reload
  sudo systemctl enable --now marginwatch
Its secrets are files in /etc/marginwatch (chmod 600), named in the unit."""


def main(directory: str, systemd: bool) -> int:
    folder = Path(directory)
    wanted = [("config.example.toml", folder / "config.toml")]
    if systemd:
        wanted += [(unit, folder / unit) for unit in _UNITS]
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
    config, *units = (shlex.quote(str(target)) for _, target in wanted)
    print(_NEXT.format(config=config, option="" if folder == Path() else f" --config {config}"))
    if systemd:
        print(_NEXT_SERVICE.format(config=config, units=" ".join(units)))
    return 0


def _shipped(name: str) -> str:
    """A file that comes with the package: inside an installed one, or at its place in a checkout."""
    package = Path(monitor.__file__).parent
    top = package.parent
    for place in (package / "data" / name, top / name, top / "systemd" / name):
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise FileNotFoundError(name)
