"""`python -m tests.topics_page` writes docs/topics.md: every topic and every key, out of the JSON Schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.schemas import DIRECTORY, NAMES, schema

PAGE = DIRECTORY.parent / "topics.md"
Node = dict[str, Any]

TOPICS = (
    # topic, retained, QoS, schema
    ("status", "yes", 1, None),
    ("info", "yes", 1, "info"),
    ("<account>/summary", "yes", 1, "summary"),
    ("<account>/health", "yes", 1, "health"),
    ("<account>/pool/<pool>", "yes", 0, "pool"),
    ("<account>/position/<symbol>[-long|-short]", "yes", 0, "position"),
    ("<account>/incident/<rule>/<subject>", "yes", 1, "incident"),
    ("<account>/event/<severity>/<rule>", "never", 1, "event"),
    ("<account>/notice/<severity>/<rule>", "never", 1, "notice"),
)

_HEAD = """# Topics

Made from the [schemas](schemas) by `python -m tests.topics_page`; whoever changes one runs that.

All topics stand below the prefix (`[mqtt] prefix`, by default `marginwatch`). An empty payload on a retained topic
means that there is nothing there any more. Later versions may add keys; a consumer ignores those that it does not know.

In the tables `a.b` is the key `b` of the object `a`, `a[].b` that of each object in the list `a`, and `a.*.b` that of
every object in `a`. A key in *italics* may be absent. What Home Assistant is told is in
[home-assistant.md](home-assistant.md).
"""


def page() -> str:
    """The whole page."""
    sections = [_HEAD, *(_topic(*row) for row in TOPICS), _parts(), _kinds()]
    return "\n".join(sections)


def _topic(topic: str, retained: str, qos: int, name: str | None) -> str:
    head = f"## `{topic}`\n\nRetained: {retained}. QoS {qos}."
    if name is None:
        return f"{head} Plain text: `online` or `offline`, the latter also as will.\n"
    found = schema(name)
    return f"{head} [{name}.json](schemas/{name}.json): {_sentence(found['title'])}\n\n{_table(found)}"


def _parts() -> str:
    """The objects that several payloads have."""
    parts = [
        f"### {name}\n\n{_sentence(node['description'])}\n\n{_table(node)}"
        for name, node in _definitions().items()
        if _is_object(node)
    ]
    return "\n".join(["## Objects\n", *parts])


def _kinds() -> str:
    """The kinds of values that keys have."""
    rows = [
        f"| {name} | {_cell(node['description'])}{_choice(node)} |"
        for name, node in sorted(_definitions().items())
        if not _is_object(node) and "description" in node
    ]
    return "\n".join(["## Values\n", "| kind | what it is |", "|---|---|", *rows, ""])


def _definitions() -> dict[str, Node]:
    """What the schemas define under a name; the same name is the same in each of them."""
    found: dict[str, Node] = {}
    for name in NAMES:
        found |= schema(name).get("$defs", {})
    return found


def _choice(node: Node) -> str:
    return f" One of {_kind(node)}." if "enum" in node else ""


def _table(node: Node) -> str:
    """The keys of an object; of one that has several forms, those of each form."""
    if "oneOf" in node:
        return "\nor\n\n".join(_table(form) for form in node["oneOf"])
    rows = [f"| {key} | {kind} | {_cell(text)} |" for key, kind, text in _rows(node, "")]
    return "\n".join(["| key | value | meaning |", "|---|---|---|", *rows, ""])


def _rows(node: Node, path: str) -> Iterator[tuple[str, str, str]]:
    """Key, kind of value and meaning of every key of an object, and of the objects in it."""
    for key, value in node.get("properties", {}).items():
        shown = f"`{path}{key}`"
        yield shown if key in node.get("required", ()) else f"*{shown}*", _kind(value), _meaning(value)
        yield from _inner(value, f"{path}{key}")


def _inner(node: Node, path: str) -> Iterator[tuple[str, str, str]]:
    """The keys of the objects in a value, if there are any."""
    node = next((option for option in node.get("anyOf", ()) if _is_object(option)), node)
    others = node.get("additionalProperties")
    if node.get("type") == "array":
        yield from _inner(node["items"], f"{path}[]")
    elif isinstance(others, dict):
        yield from _inner(others, f"{path}.*")
    elif _is_object(node):
        yield from _rows(node, f"{path}.")


def _meaning(node: Node) -> str:
    """What is said of a value where it stands, else where it is defined."""
    if "description" not in node and "$ref" in node:
        node = _definitions()[node["$ref"].rpartition("/")[2]]
    return str(node["description"])


def _kind(node: Node) -> str:
    """What kind of value it is, in a word or two."""
    if "$ref" in node:
        return _named(node["$ref"].rpartition("/")[2])
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return _or("`" + "` `".join(str(v) for v in node["enum"] if v is not None) + "`", None in node["enum"])
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        return _or(" or ".join(_kind(option) for option in options), len(options) < len(node["anyOf"]))
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    if types == ["array"]:
        return f"list of {_kind(node['items'])}"
    if isinstance(node.get("additionalProperties"), dict):
        return f"object of {_kind(node['additionalProperties'])}"
    return _or(" or ".join(t for t in types if t != "null"), "null" in types)


def _named(name: str) -> str:
    node = _definitions()[name]
    if _is_object(node):
        return f"[{name}](#{name})"
    base = name.removesuffix("_or_null")
    if base != name:
        return _or(base.replace("_", " ") if base in _definitions() else _kind(node).removesuffix(" or null"), True)
    return name


def _or(kind: str, null: bool) -> str:
    return f"{kind} or null" if null else kind


def _is_object(node: Node) -> bool:
    return node.get("type") == "object" or any(option.get("type") == "object" for option in node.get("oneOf", ()))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
