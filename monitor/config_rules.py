"""The rules of a config: built-in ones of which only the keys named change, and overrides for some subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, get_type_hints

from msgspec import structs

from monitor.config_values import Kinds, Reader, as_amount, as_flag, as_fraction, as_one_of, as_seconds, as_text
from monitor.liveness import DECLARED_WITHIN_S, declared_after_s
from monitor.rules import (
    DEFAULTS,
    AdlQuantileRule,
    ClockOffsetRule,
    ContractStatusRule,
    DataStaleRule,
    FactRule,
    KeyPermissionsRule,
    Match,
    Rule,
    RuleBook,
    Severity,
    Step,
)

_WORDS = tuple(severity.word for severity in Severity if severity is not Severity.OK)
as_severity = as_one_of(*_WORDS)
_MATCH: Kinds = {"account": as_text, "symbol": as_text, "min_notional": as_amount}
_OF_A_SYMBOL, _OF_AN_ACCOUNT = ("account", "label", "symbol"), ("account", "label")
_GOES_BY: Mapping[str, tuple[str, ...]] = {
    "forced_order": _OF_A_SYMBOL,
    "hedge_broken": _OF_A_SYMBOL,
    "exchange_margin_call": _OF_A_SYMBOL,
    "bracket_changed": _OF_A_SYMBOL,
    "data_stale": _OF_AN_ACCOUNT,
    "key_permissions": _OF_AN_ACCOUNT,
    "exchange_status": (),
    "clock_offset": (),
    "store_unusable": (),
}
"""What a match may go by, of rules that are about no pool; by anything else it would fit nothing, unnoticed."""
_RULE_KINDS: Mapping[Any, Callable[[Any], Any]] = {bool: as_flag, float: as_seconds(0), Decimal: as_fraction}
_HOLDS = ("for_s", "clear_for_s", "reenter_s", "repeat_s")
"""Keys of a rule that mean something where it has levels."""
_LARGEST: Mapping[type[Rule], tuple[Decimal | None, str]] = {
    AdlQuantileRule: (Decimal(4), "places in the queue, 0 to 4"),
    ClockOffsetRule: (None, "milliseconds"),
    ContractStatusRule: (None, "seconds"),
    DataStaleRule: (None, "seconds"),
    KeyPermissionsRule: (Decimal(2), "1 (it may trade) and 2 (it may move money away)"),
}
"""The largest value that a rule may measure (None: there is none), and what it measures; others measure fractions."""


def read_rules(reader: Reader, file: str, tables: Any) -> RuleBook:
    if not isinstance(tables, Mapping):
        reader.wrong(file, "rules", "must be written [rules.<name>]")
        return RuleBook()
    rules, matches = dict(DEFAULTS), {}
    for name, table in tables.items():
        default = DEFAULTS.get(name)
        if default is None:
            near = get_close_matches(name, DEFAULTS, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(DEFAULTS)}"
            reader.wrong(file, f"[rules.{name}]", f"unknown rule; {hint}")
            continue
        where = f"[rules.{name}] "
        body = {key: value for key, value in table.items() if key != "match"} if isinstance(table, Mapping) else table
        rule = structs.replace(default, **_rule_values(reader, file, where, body, default))
        rules[name] = rule
        rows = table.get("match", []) if isinstance(table, Mapping) else []
        if not isinstance(rows, list):
            reader.wrong(file, f"{where}match", f"must be written [[rules.{name}.match]]")
            continue
        matches[name] = tuple(
            _match(reader, file, f"[[rules.{name}.match]] number {i} ", row, rule, name)
            for i, row in enumerate(rows, 1)
        )
    return RuleBook(rules, matches)


def _match(reader: Reader, file: str, where: str, row: Any, rule: Rule, name: str) -> Match:
    if not isinstance(row, Mapping):
        reader.wrong(file, where.strip(), "must be a table")
        return Match(rule)
    labels = {key: value for key, value in row.items() if key.startswith("label.")}
    named = row.get("label", {})
    if isinstance(named, Mapping):
        labels |= {f"label.{key}": value for key, value in named.items()}
    else:
        reader.wrong(file, f"{where}label", 'must be written label.<name> = "..."')
    for key, value in labels.items():
        if not isinstance(value, str):
            reader.wrong(file, f"{where}{key}", "must be a text in quotes")
    conditions = {key: row[key] for key in _MATCH if key in row}
    rest = {k: v for k, v in row.items() if k not in _MATCH and k != "label" and not k.startswith("label.")}
    if not conditions and not labels:
        reader.wrong(file, where.strip(), "names nothing to match; give account, label.<name>, symbol or min_notional")
    may = _GOES_BY.get(name, (*_MATCH, "label"))
    for key in (*conditions, *labels):
        if key.partition(".")[0] not in may:
            remedy = f"match by {', '.join(may)}" if may else f"it is one for all: write [rules.{name}]"
            reader.wrong(file, f"{where}{key}", f"fits nothing, for the rule does not go by it; {remedy}")
    return Match(
        structs.replace(rule, **_rule_values(reader, file, where, rest, rule, _MATCH)),
        labels={key.removeprefix("label."): str(value) for key, value in labels.items()},
        **reader.table(file, where, conditions, _MATCH),
    )


def _rule_values(
    reader: Reader, file: str, where: str, table: Any, rule: Rule, beside: Kinds = MappingProxyType({})
) -> dict[str, Any]:
    """Keys of a rule; `beside` are those that may stand there too, to name them where a key is misspelt."""
    hints = get_type_hints(type(rule))
    kinds: dict[str, Callable[[Any], Any]] = {
        name: _RULE_KINDS[hint] for name, hint in hints.items() if hint in _RULE_KINDS
    }
    kinds["repeat_s"] = lambda value: {**rule.repeat_s, **_repeats(value)}  # a severity not named keeps its time
    if isinstance(rule, FactRule):
        kinds = {name: kind for name, kind in kinds.items() if name not in _HOLDS}
    if rule.steps:
        rising = rule.steps[0].rises
        largest, what = _LARGEST.get(type(rule), (Decimal(1), "fractions, 0.8 for 80 %"))
        kinds["steps"] = lambda value: _steps(value, rising, largest, what)
    return reader.table(file, where, table, {**beside, **kinds})


def _repeats(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not all(key in _WORDS for key in value):
        raise ValueError(f"must be a table of seconds by severity ({', '.join(_WORDS)})")
    return {key: as_seconds(1)(seconds) for key, seconds in value.items()}


def _steps(value: Any, rising: bool, largest: Decimal | None, what: str) -> tuple[Step, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list such as [{at = 0.8, clear = 0.7, severity = "warning"}]')
    steps = []
    for row in value:
        if not isinstance(row, Mapping) or set(row) != {"at", "clear", "severity"}:
            raise ValueError("each step needs at, clear and severity, and nothing else")
        word = as_severity(row["severity"])
        step = Step(as_amount(row["at"]), as_amount(row["clear"]), Severity[word.upper()])
        if largest is not None and max(step.at, step.clear) > largest:
            raise ValueError(f"levels are {what}: {max(step.at, step.clear)} would never be reached")
        if step.at == step.clear:
            raise ValueError(f"at and clear are both {step.at}; clear must lie on the safe side of at")
        steps.append(step)
    steps.sort(key=lambda step: step.severity)
    if any(step.rises != rising for step in steps):
        where = "below at: this is worse the higher it is" if rising else "above at: this is worse the lower it is"
        raise ValueError(f"clear must lie {where}")
    if rising and any(not step.clear for step in steps):
        raise ValueError("clear is 0, and no value is below that: what has fired would never end")
    levels = [step.at for step in steps]
    if len({step.severity for step in steps}) < len(steps) or levels != sorted(set(levels), reverse=not rising):
        raise ValueError("each severity may have one step, and a higher severity needs a more alarming at")
    return tuple(steps)


def check_case(reader: Reader, file: str, rules: RuleBook) -> None:
    """An override for an account or a symbol that cannot be would be for none."""
    for where, match in rules.overrides():
        if match.symbol is not None and match.symbol != match.symbol.upper():
            reader.wrong(file, f"{where} symbol", f'symbols are upper-case; write "{match.symbol.upper()}"')
        if match.account is not None and match.account != match.account.lower():
            reader.wrong(file, f"{where} account", f'names are lower-case; write "{match.account.lower()}"')


def check_promptness(reader: Reader, file: str, rules: RuleBook) -> None:
    """A link that is lost must be told of soon: an undeclared loss looks to the service's watchdog like a hang."""
    named = [("[rules.data_stale]", rules.rules["data_stale"])]
    named += [(where, match.rule) for where, match in rules.overrides()]
    for where, rule in named:
        if not isinstance(rule, DataStaleRule):
            continue
        takes_s = declared_after_s(rule)
        if rule.enabled and takes_s > DECLARED_WITHIN_S:
            reader.wrong(
                file,
                where,
                f"a lost link would be told of after {takes_s:g} s (first step or stale_after_s, plus for_s); it must"
                f" be within {DECLARED_WITHIN_S:g} s, or the systemd watchdog takes the silence for a hang:"
                f" add a first step at {DECLARED_WITHIN_S:g} or less, such as a notice",
            )
