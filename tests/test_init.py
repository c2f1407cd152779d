"""`marginwatch init`: what a newcomer is given, and what a unit is that systemd takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from monitor.__main__ import main
from tests.rig import ROOT

UNITS = ("marginwatch.service", "marginwatch@.service")
FILES = ("config.toml", *UNITS)


def shipped(name: str) -> str:
    return (ROOT / ("config.example.toml" if name == "config.toml" else f"systemd/{name}")).read_text("utf-8")


def test_a_newcomer_gets_config_and_units_and_is_told_what_to_do_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has to search for the next step has stopped reading."""
    status = main(["init", "--systemd", "--directory", str(tmp_path)])
    said = capsys.readouterr().out

    assert status == 0
    assert {name: (tmp_path / name).read_text("utf-8") for name in FILES} == {name: shipped(name) for name in FILES}
    config = tmp_path / "config.toml"
    assert f"set your account and broker in {config}, then run `marginwatch check --config {config}`" in said
    assert "sudo systemctl enable --now marginwatch" in said


def test_what_is_there_is_left_as_it_is_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A config is work; it must not go because somebody wanted the unit too."""
    (tmp_path / "config.toml").write_text("mine", "utf-8")

    first = main(["init", "--systemd", "--directory", str(tmp_path)])
    told = capsys.readouterr().err
    again = main(["init", "--systemd", "--directory", str(tmp_path)])

    assert (first, again) == (0, 1)
    assert told == f"{tmp_path}/config.toml is there already; it is left as it is. Move it away to have a new one.\n"
    assert (tmp_path / "config.toml").read_text("utf-8") == "mine"
    assert (tmp_path / UNITS[1]).read_text("utf-8") == shipped(UNITS[1])


def test_a_folder_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback is no remedy."""
    status = main(["init", "--directory", str(tmp_path / "missing")])

    assert status == 1
    assert capsys.readouterr().err == f"{tmp_path}/missing/config.toml cannot be written: No such file or directory\n"


def test_a_wheel_has_all_that_init_writes() -> None:
    """In a checkout the files are found at their places; somebody who has installed a wheel has no checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert included == {
        "config.example.toml": "monitor/data/config.example.toml",
        **{f"systemd/{unit}": f"monitor/data/{unit}" for unit in UNITS},
    }


# ---- the units ----


def test_an_instance_differs_in_its_folders_alone() -> None:
    """What is hardened in one unit and forgotten in the other would be found by nobody."""
    expected = shipped("marginwatch.service")
    for one, instance in (
        ("Description=marginwatch:", "Description=marginwatch (%i):"),
        ("/etc/marginwatch/", "/etc/marginwatch/%i/"),
        ("StateDirectory=marginwatch\n", "StateDirectory=marginwatch-%i\n"),
    ):
        expected = expected.replace(one, instance)

    assert shipped("marginwatch@.service") == expected


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit_and_finds_little_exposed(unit: str, tmp_path: Path) -> None:
    """A misspelt line of hardening is ignored by systemd with a warning, and protects nobody."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not installed, and CI has to judge the units")
        pytest.skip("systemd-analyze is not installed")
    # With a command that exists here, so that nothing else is excused.
    file = tmp_path / unit
    file.write_text(shipped(unit).replace("/opt/marginwatch/bin/marginwatch", sys.executable), "utf-8")

    verified = _analyze("verify", str(file).replace("@", "@one"))
    judged = _analyze("security", "--offline=true", "--threshold=15", str(file))

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    assert judged.returncode == 0, judged.stdout


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
