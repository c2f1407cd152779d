"""What README and docs say can be followed: links lead somewhere, commands and pieces of a config are taken."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from monitor.command_line import PARSER
from monitor.config import parse
from monitor.sim.__main__ import arguments
from tests.rig import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ACCOUNT = {"name": "main", "venue": "binance-usdm", "api_key": "env:KEY", "secret": "env:SECRET"}


@cache
def prose(page: Path) -> str:
    """The page without what stands in boxes and backticks."""
    return re.sub(r"`[^`\n]*`", "``", FENCE.sub("", page.read_text("utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """Of each heading the anchor that GitHub gives it."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        again = sum(1 for one in found if re.fullmatch(rf"{re.escape(plain)}(-\d+)?", one))
        found.add(f"{plain}-{again}" if again else plain)
    return found


def boxes(page: Path, language: str) -> list[str]:
    """What stands in the boxes of a language, at the left edge."""
    found = [m for m in FENCE.finditer(page.read_text("utf-8")) if m[2] == language]
    return [re.sub(rf"^{m[1]}", "", m[3], flags=re.MULTILINE) for m in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each call of marginwatch or marginwatch-sim in the boxes of a page."""
    for box in boxes(page, "sh"):
        for line in (
            re.sub(r"<<'END'\n.*?^END$", "", box, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ").splitlines()
        ):
            if "marginwatch" not in line:
                continue
            words = shlex.split(line, comments=True)
            starts = [i for i, word in enumerate(words) if word in ("sudo", "&&", "||", "|", ";") or "=" in word]
            for i, word in enumerate(words):
                if Path(word).name in ("marginwatch", "marginwatch-sim") and (i == 0 or i - 1 in starts):
                    ends = [j for j in range(i, len(words)) if words[j] in ("&&", "||", "|", ";", "&", ">")]
                    yield [Path(word).name, *words[i + 1 : min(ends, default=len(words))]]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files move and headings change; whoever follows a link at night must arrive."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)

    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that is renamed is renamed on the pages too."""
    for name, *words in commands(page):
        try:
            if name == "marginwatch":
                PARSER.parse_args(words)
            else:
                arguments(words)
        except SystemExit:
            pytest.fail(f"{name} {shlex.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_piece_of_a_config_is_taken(page: Path) -> None:
    """A piece is copied into a config as it is; what begins with `# of [[account]]` is keys of an account."""
    for box in boxes(page, "toml"):
        table = tomllib.loads(box.replace("# of [[account]]", "[[account]]"), parse_float=Decimal)
        accounts = [{**ACCOUNT, **account} for account in table.get("account", [{}])]
        parse([("config.toml", {**table, "account": accounts})])


def test_the_commands_have_been_read_at_all() -> None:
    """No calls found would be no mistakes found."""
    found = {name: [words[:2] for words in commands(page)] for name, page in zip(NAMES, PAGES, strict=True)}

    assert ["marginwatch", "demo"] in found["README.md"]
    assert ["marginwatch", "check"] in found["README.md"]
    assert ["marginwatch-sim", "--scenario"] in found["docs/commands.md"]
    assert ["marginwatch", "run"] in found["docs/commands.md"]
    assert ["marginwatch", "forget"] in found["docs/deployment.md"]


def test_every_command_has_its_place_on_the_page() -> None:
    """What is not listed does not exist for whoever reads."""
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    overview = "".join(re.findall(r"^\| \[.+$", page, re.MULTILINE))

    (known,) = [action.choices for action in PARSER._actions if action.dest == "command"]
    assert known is not None
    assert [name for name in known if f"`{name}`" not in overview] == []


def test_every_document_is_in_the_index() -> None:
    """The same for pages."""
    index = (ROOT / "docs" / "README.md").read_text("utf-8")

    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [name for name in sorted(pages) if f"({name})" not in index] == []


def test_every_dependency_is_named_with_its_use() -> None:
    """And none that is gone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    needed = {re.split(r"[\[<>=~ ]", one)[0] for one in wanted} - {"marginwatch"}

    section = (ROOT / "README.md").read_text("utf-8").partition("| it is for | dependency |")[2].partition("\n\n")[0]
    assert set(re.findall(r"\*\*([\w-]+)\*\*", section)) == needed
