"""The page on reliability names tests; a promise whose test is gone is no promise."""

from __future__ import annotations

import ast
import re

import pytest

from tests.rig import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+)::(test_\w+)`", PAGE)))


def names_in(module: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("module", "name"), NAMED, ids=[f"{module}-{name}" for module, name in NAMED])
def test_each_test_that_the_page_names_exists(module: str, name: str) -> None:
    """Names change, and pages stay behind."""
    assert name in names_in(module)


def test_each_reported_failure_has_a_test_or_a_reason() -> None:
    """All of them: one that was left out is the one that happens."""
    rows = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d+ \| ", line)]

    assert [int(row[0].removeprefix("| ")) for row in rows] == list(range(1, 52))
    for row in rows:
        assert re.search(r"`test_\w+::test_\w+`|\*\*cannot concern us\*\*", row[-1]), row


def test_each_case_that_the_page_names_exists() -> None:
    """In brackets behind a test with many cases."""
    sources = "".join((ROOT / "tests" / f"test_{name}.py").read_text("utf-8") for name in ("faults", "recovery"))
    named = [case for listed in re.findall(r"::test_\w+` \(([a-z0-9, -]+)\)", PAGE) for case in listed.split(", ")]

    assert named
    assert [case for case in named if f'"{case}"' not in sources and f'-{case}"' not in sources] == []
