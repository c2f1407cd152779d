"""docs/logging.md lists every line that the daemon can log, and no other: by the source, in both directions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from monitor.incident import Kind
from monitor.shell import logs

ROOT = Path(__file__).parents[1]
LEVELS = ("debug", "info", "warning", "error", "critical")
INCIDENTS = {f"incident {kind}" for kind in get_args(Kind) if kind != "retained"}

Line = tuple[frozenset[str], frozenset[str]]
"""Levels and fields."""


def test_the_page_lists_every_line_with_its_levels_and_fields() -> None:
    """Whoever filters by a name, or writes a parser, relies on it."""
    assert on_the_page() == in_the_source()


def test_the_page_has_been_read_at_all() -> None:
    """Two empty sets would be equal too."""
    assert {"started", "link down", "incident opened", "broker lost"} <= on_the_page().keys()
    assert on_the_page()["frame dropped"] == (
        frozenset({"warning"}),
        frozenset({"account", "link", "count", "error"}),
    )


def on_the_page() -> dict[str, Line]:
    rows = re.findall(r"^\| `(.+?)` \| ([a-z ]+) \|(.*?)\|", (ROOT / "docs" / "logging.md").read_text("utf-8"), re.M)
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names)), "an event is listed twice"
    return {name: (frozenset(level.split()), frozenset(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}


def in_the_source() -> dict[str, Line]:
    levels, fields = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for path in sorted((ROOT / "monitor").rglob("*.py")):
        if "sim" not in path.parts:
            for call in calls(path):
                for event in events(call):
                    levels[event] |= levels_of(call)
                    fields[event] |= fields_of(call)
    return {event: (frozenset(levels[event]), frozenset(fields[event])) for event in levels}


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call of a logger: of `log`, `self._log`, `self._feed.log`, `logs.logger()` …"""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*LEVELS, "log"):
            owner = ast.unparse(node.func.value)
            if re.search(r"(^|[._])log$|logger\(\)$", owner):
                yield node


def events(call: ast.Call) -> list[str]:
    """What a call may log: its first argument, or the second where the first is a level."""
    assert isinstance(call.func, ast.Attribute)
    name = call.args[1 if call.func.attr == "log" else 0]
    if isinstance(name, ast.JoinedStr):
        assert ast.unparse(name).startswith("f'incident {"), f"a phrase that is not constant: {ast.unparse(name)}"
        return sorted(INCIDENTS)
    if isinstance(name, ast.Name):
        return [getattr(logs, name.id)]
    chosen = [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]
    assert all(isinstance(one, ast.Constant) for one in chosen), f"a phrase that is not constant: {ast.unparse(name)}"
    return [str(one.value) for one in chosen if isinstance(one, ast.Constant)]


def levels_of(call: ast.Call) -> set[str]:
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr != "log":
        return {call.func.attr}
    found = {word.lower() for word in re.findall(r"logging\.([A-Z]+)", ast.unparse(call.args[0]))}
    return found | {"warning", "error"} if "_LOUD" in ast.unparse(call.args[0]) else found


def fields_of(call: ast.Call) -> set[str]:
    fields = {"exception" if key.arg == "exc_info" else key.arg for key in call.keywords if key.arg is not None}
    if any(key.arg is None for key in call.keywords):  # ** is for the fields that a repeated line may have
        fields |= set(logs._SAME)
    return fields
