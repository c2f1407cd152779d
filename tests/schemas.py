"""Holds any message of ours to its published schema, by its topic."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tests import discretion

DIRECTORY = Path(__file__).parents[1] / "docs" / "schemas"
NAMES = ("event", "notice", "incident", "info", "summary", "health", "pool", "position")

_SLUG = "[a-z0-9-]+"
_ACCOUNT = "(?P<account>_instance|[a-z0-9-]{1,32})"
_SEVERITY = "(?P<severity>info|notice|warning|critical|liquidation)"
TOPICS = {
    "status": "status",
    "info": "info",
    "summary": f"{_ACCOUNT}/summary",
    "health": f"{_ACCOUNT}/health",
    "pool": f"{_ACCOUNT}/pool/(?P<pool>{_SLUG})",
    "position": f"{_ACCOUNT}/position/{_SLUG}",
    "incident": f"{_ACCOUNT}/incident/(?P<rule>[a-z_]+)/(?P<subject>{_SLUG})",
    "event": f"{_ACCOUNT}/event/{_SEVERITY}/(?P<rule>[a-z_]+)",
    "notice": f"{_ACCOUNT}/notice/{_SEVERITY}/(?P<rule>[a-z_]+)",
}


def validate(topic: str, payload: bytes, prefix: str = "marginwatch") -> None:
    """Hold a message to the schema that its topic has.

    Raises:
        AssertionError: The topic is none of ours, or the payload is not what its schema says, or says of itself
            something else than the topic (another account, pool, rule, subject or severity); or a notice tells amounts.
    """
    name, said = _recognised(topic, prefix)
    if name == "status":
        assert payload in (b"online", b"offline", b""), f"{topic}: {payload!r} is neither online nor offline"
        return
    if not payload:
        assert name not in ("event", "notice"), f"{topic}: what is told is never empty"
        return
    body = _json(topic, payload)
    error = best_match(validator(name).iter_errors(body))
    if error is not None:
        raise AssertionError(f"{topic}: {error.json_path}: {error.message}\n{json.dumps(body, indent=1)}")
    if name == "notice":
        discretion.hold(body)
    for key, value in said.items():
        assert body[key] == value, f"{topic}: the payload's {key} is {body[key]!r}"


@cache
def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(_inlined(schema(name), schema(name)["$defs"]))


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """With each definition in the place that refers to it: to look it up for every value takes longer than to judge it.

    Where more than a description stands beside a reference, that stays as it is.
    """
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part and part.keys() <= {"$ref", "description"}:
        return _inlined(definitions[part["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in part.items()}


def _recognised(topic: str, prefix: str) -> tuple[str, dict[str, str]]:
    """Which payload a topic carries, and what the topic itself says."""
    head, _, rest = topic.partition(f"{prefix}/")
    if not head:
        for name, pattern in TOPICS.items():
            found = re.fullmatch(pattern, rest)
            if found is not None:
                return name, found.groupdict()
    raise AssertionError(f"{topic!r} is no topic of prefix {prefix!r}")


def _json(topic: str, payload: bytes) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{topic}: {name} is no JSON")

    try:
        return json.loads(payload, parse_constant=refuse)
    except ValueError as exc:
        raise AssertionError(f"{topic}: not JSON: {exc}") from None
