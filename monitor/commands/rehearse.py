"""`marginwatch rehearse`: what would have been told, with the old rules and with new ones."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from monitor.commands import complain, session_remarks
from monitor.core import Setup
from monitor.errors import ConfigError, DecodeError
from monitor.replaying import Sent
from monitor.shell import settings
from monitor.shell.sessions import SessionFile, with_rules

Event = dict[str, Any]
Key = tuple[int, str, str, str]
"""When, and of what: account, subject, rule."""


class Difference(Struct, frozen=True):
    """One thing that is told otherwise."""

    change: Literal["only_old", "only_new", "changed"]
    at_ms: int
    old: Event | None
    new: Event | None

    @property
    def event(self) -> Event:
        """The one that there is; the new one of two."""
        found = self.new or self.old
        assert found is not None
        return found


def main(path: str, new_path: str, old_path: str | None, as_json: bool) -> int:
    try:
        new = settings.load(Path(new_path))
        old = None if old_path is None else settings.load(Path(old_path))
    except ConfigError as exc:
        return complain(exc)
    try:
        file = SessionFile(Path(path))
        before = _told(file, file.setup if old is None else with_rules(file.setup, old))
        after = _told(file, with_rules(file.setup, new), remark=True)
    except OSError as exc:
        print(f"marginwatch rehearse: {path}: {exc.strerror}", file=sys.stderr)
        return 1
    except DecodeError as exc:
        print(f"marginwatch rehearse: {path}: {exc}", file=sys.stderr)
        return 1
    differences = list(compared(before, after))
    for difference in differences:
        print(_json(difference) if as_json else _words(difference))
    counts = Counter(difference.change for difference in differences)
    same = len(after) - counts["only_new"] - counts["changed"]
    print(
        f"old rules tell {len(before)}, new rules {len(after)}: {same} alike, {counts['only_old']} only old,"
        f" {counts['only_new']} only new, {counts['changed']} changed",
        file=sys.stderr,
    )
    return 0


def _told(file: SessionFile, setup: Setup, remark: bool = False) -> list[Sent]:
    session = file.session()
    replay = file.replay(session, setup)
    told = [sent for sent in replay.run(session) if sent.message.is_event]
    if remark:
        session_remarks(session, replay)
    return told


def compared(old: Iterable[Sent], new: Iterable[Sent]) -> Iterator[Difference]:
    """How two lists of events differ, in order of time. What is told of one subject by one rule at one moment is the
    same event, however severe it is."""
    before, after = _by_key(old), _by_key(new)
    for key in sorted({**before, **after}):
        for one, other in zip_longest(before.get(key, ()), after.get(key, ())):
            if one is None or other is None:
                yield Difference("only_new" if one is None else "only_old", key[0], one, other)
            elif (one["event"], one["severity"]) != (other["event"], other["severity"]):
                yield Difference("changed", key[0], one, other)


def _by_key(told: Iterable[Sent]) -> dict[Key, list[Event]]:
    found: dict[Key, list[Event]] = defaultdict(list)
    for sent in told:
        event = msgspec.json.decode(sent.message.payload)
        found[sent.at_ms, event["account"], event["subject"], event["rule"]].append(event)
    return found


def _json(difference: Difference) -> str:
    event = difference.event
    said = {
        "change": difference.change,
        "at": event["at"],
        "at_ms": difference.at_ms,
        "account": event["account"],
        "subject": event["subject"],
        "rule": event["rule"],
        "old": difference.old,
        "new": difference.new,
    }
    return msgspec.json.encode(said).decode()


def _words(difference: Difference) -> str:
    event = difference.event
    if difference.change == "changed":
        assert difference.old is not None
        assert difference.new is not None
        was, now = (f"{e['severity'].upper()} {e['event']}" for e in (difference.old, difference.new))
        what = f"~ {was} → {now}"
    else:
        sign, whose = ("+", "only new") if difference.change == "only_new" else ("-", "only old")
        what = f"{sign} {whose}: {event['severity'].upper()} {event['event']}"
    return f"{event['at']}  {what}  {event['rule']}: {event['text']}"
