"""The example config is documentation that runs: complete, right, and true to the defaults."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from monitor import config
from monitor.config import Config, parse
from monitor.rules import DEFAULTS

EXAMPLE = (Path(__file__).parents[1] / "config.example.toml").read_text(encoding="utf-8")
_COMMENTED = re.compile(r"^# (?=\[|\]|  \{|[a-z_.]+ = )")


def everything() -> dict[str, object]:
    """The example with every commented-out key switched on."""
    lines = [_COMMENTED.sub("", line) for line in EXAMPLE.splitlines()]
    return tomllib.loads("\n".join(lines), parse_float=Decimal)


def test_the_example_is_valid_as_it_is() -> None:
    """`marginwatch init` writes it; its first answer to a newcomer must not be an error."""
    loaded = parse([("config.toml", tomllib.loads(EXAMPLE, parse_float=Decimal))])

    assert [a.name for a in loaded.accounts] == ["main"]


def test_what_the_example_calls_defaults_are_the_defaults() -> None:
    """A person who switches on a commented key must not change anything by it."""
    shown = parse([("config.toml", everything())])

    default = Config((), rules=shown.rules)
    for section in config._SECTIONS:
        values, defaults = structs.asdict(getattr(shown, section)), structs.asdict(getattr(default, section))
        own = {key for key, value in defaults.items() if value is None}  # a place of one's own, which has no default
        assert {**values, **dict.fromkeys(own)} == defaults, section
    assert shown.summary_every_s == default.summary_every_s
    assert dict(shown.rules.rules) == dict(DEFAULTS)


@pytest.mark.parametrize(
    ("section", "kinds"),
    [*((name, kinds) for name, (_, kinds) in config._SECTIONS.items()), ("credentials", config._CREDENTIALS)],
)
def test_the_example_shows_every_key_of_a_section(section: str, kinds: dict[str, object]) -> None:
    """A key that is not shown does not exist for whoever configures."""
    table = everything()[section]

    assert isinstance(table, dict)
    assert sorted(table) == sorted(kinds)


def test_the_example_shows_every_key_of_accounts_and_rules() -> None:
    """The same for what is not a plain section."""
    tables = everything()
    accounts, rules = tables["account"], tables["rules"]

    assert isinstance(accounts, list)
    assert isinstance(rules, dict)
    assert sorted(accounts[0]) == sorted(config._ACCOUNT)
    assert sorted(tables) == sorted(config._TOP)
    for name, rule in DEFAULTS.items():
        known = {field for field in rule.__struct_fields__ if field != "steps" or rule.steps}
        shown = set(rules[name]) - {"match"}
        if not rule.steps:  # a fact, not a level: it has no holds and no repeats
            known -= {"for_s", "clear_for_s", "repeat_s", "reenter_s"}
        assert shown | {"for_s", "reenter_s"} >= known, name
