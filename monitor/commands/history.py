"""`marginwatch history`: what has happened, out of the store, while the daemon may be running."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitor.commands import complain
from monitor.config import STORE_NAME, Config
from monitor.digits import rfc3339
from monitor.errors import ConfigError, DecodeError, StoreError
from monitor.humanize import counted
from monitor.rules import Severity
from monitor.shell import chronicle, settings
from monitor.shell.chronicle import EventRow, IncidentRow
from monitor.shell.clock import now
from monitor.shell.database import read_only
from monitor.shell.recorder import bundle_of
from monitor.shell.sessions import check

_CONFIGS = Path("/etc/marginwatch")
_STATES = Path("/var/lib")
"""Where the units have configs, and keep stores; from a shell nobody tells us."""
_HEAD = ("OPENED (UTC)", "LASTED", "ACCOUNT", "SUBJECT", "RULE", "PEAK", "ENDED", "WHAT")


def main(config_path: str | None, since_s: float, incident: str | None, as_json: bool, bundle: str | None) -> int:
    """Print incidents, or the events of one.

    Args:
        since_s: How far to look back (seconds).
        bundle: Where to copy the session that was saved as the incident became critical. None: nowhere.
    """
    try:
        path = settings.find(config_path)
        config = settings.load(path)
    except ConfigError as exc:
        return complain(exc)
    again = "marginwatch history" + ("" if config_path is None else f" --config {shlex.quote(config_path)}")
    try:
        store = _store(config, path)
        with closing(read_only(store)) as connection:
            if incident is not None:
                status = _one(connection, incident, as_json, again)
                if bundle is not None and status == 0:
                    return _bundle(connection, config, store, incident, Path(bundle))
                return status
            return _many(connection, since_s, as_json, again)
    except (StoreError, sqlite3.Error) as exc:
        print(exc, file=sys.stderr)
        return 1


def _store(config: Config, config_path: Path) -> Path:
    path = settings.store_path(config)
    folder = config_path.absolute().parent
    service = _STATES / (f"marginwatch-{folder.name}" if folder.parent == _CONFIGS else "marginwatch") / STORE_NAME
    if config.store.path == STORE_NAME and not path.exists() and service.exists():
        return service
    return path


# ---- incidents ----


def _many(connection: sqlite3.Connection, since_s: float, as_json: bool, again: str) -> int:
    at_ms = now().wall_ms
    rows = list(chronicle.since(connection, at_ms - int(since_s * 1000)))
    if as_json:
        _print_lines(_incident(row) for row in rows)
    elif rows:
        _print_table(rows, at_ms)
        print(f"\nthe events of one: {again} --incident {rows[-1].incident_id}", file=sys.stderr)
    else:
        print("no incident was open in that time", file=sys.stderr)
    return 0


def _print_table(rows: list[IncidentRow], at_ms: int) -> None:
    lines = [_HEAD]
    for row in rows:
        lines.append(
            (
                _moment(row.opened_ms),
                _span((at_ms if row.resolved_ms is None else row.resolved_ms) - row.opened_ms)
                if row.resolution != chronicle.NOTED
                else "–",
                row.account,
                row.subject,
                row.rule,
                Severity(row.peak).word,
                _ending(row),
                row.title,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD) - 1)]
    for line in lines:
        print("  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]).rstrip())


def _ending(row: IncidentRow) -> str:
    if row.resolved_ms is None:
        return "open"
    return row.resolution or "not recorded"


def _incident(row: IncidentRow) -> dict[str, Any]:
    return {
        "incident_id": row.incident_id,
        "account": row.account,
        "rule": row.rule,
        "subject": row.subject,
        "symbol": row.symbol,
        "side": row.side,
        "opened_at": rfc3339(row.opened_ms),
        "resolved_at": None if row.resolved_ms is None else rfc3339(row.resolved_ms),
        "peak_severity": Severity(row.peak).word,
        "resolution": row.resolution,
        "title": row.title,
    }


# ---- one incident ----


def _one(connection: sqlite3.Connection, name: str, as_json: bool, again: str) -> int:
    row = chronicle.find(connection, name)
    if row is None:
        near = chronicle.nearest(connection, name)
        print(f"no incident {name!r} in the store; `{again} --since 7d` lists them", file=sys.stderr)
        for known in near:
            print(f"did you mean {known}", file=sys.stderr)
        return 1
    events = chronicle.events(connection, row.incident_id)
    if as_json:
        _print_lines(_event(event) for event in events)
        return 0
    print(row.incident_id)
    print(f"opened {_moment(row.opened_ms)} UTC, peak {Severity(row.peak).word}, {_told_end(row)}")
    for event in events:
        body = _body(event)
        late = "" if event.sent_ms is not None else "  (the broker does not have it yet)"
        word = body.get("event") or "?"
        print(f"\n{_moment(event.at_ms)}  {Severity(event.rank).word}  {word}{late}")
        print(f"  {body.get('text') or 'its text does not read'}")
    if not events:
        print("\nits events are older than [store] keep_days and gone")
    return 0


def _told_end(row: IncidentRow) -> str:
    if row.resolution == chronicle.NOTED:
        return "a single event"
    if row.resolved_ms is None:
        return "still open"
    return f"ended {_moment(row.resolved_ms)} UTC after {_span(row.resolved_ms - row.opened_ms)}: {_ending(row)}"


def _event(event: EventRow) -> dict[str, Any]:
    """When it happened, when the broker took it, and its body as it was published; null where that is damaged."""
    return {
        "event_id": event.event_id,
        "at": rfc3339(event.at_ms),
        "sent_at": None if event.sent_ms is None else rfc3339(event.sent_ms),
        "payload": _body(event) or None,
    }


def _body(event: EventRow) -> dict[str, Any]:
    try:
        body = json.loads(event.payload)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


# ---- with the inputs that produced it ----


def _bundle(connection: sqlite3.Connection, config: Config, store: Path, name: str, out: Path) -> int:
    """Copy the session that was saved for an incident, once it is clear that it replays; else say why not."""
    row = chronicle.find(connection, name)
    assert row is not None
    folder = settings.sessions_folder(config) if config.recorder.dir else store.parent / settings.SESSIONS
    saved = bundle_of(folder, row.incident_id)
    if saved is None:
        print(f"no bundle: {_why_not_saved(connection, config, row, folder)}", file=sys.stderr)
        return 1
    try:
        events = check(saved)
        body = saved.read_bytes()
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(body)
    except DecodeError as exc:
        print(f"no bundle: {saved} does not replay: {exc}", file=sys.stderr)
        return 1
    except FileExistsError:
        print(f"no bundle: {out} exists; give another name, or move it away", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"no bundle: {exc.filename or out}: {exc.strerror}", file=sys.stderr)
        return 1
    told = counted(events, "event")
    print(f"{out}: {told} when it is replayed; see `marginwatch replay {out}`", file=sys.stderr)
    return 0


def _why_not_saved(connection: sqlite3.Connection, config: Config, row: IncidentRow, folder: Path) -> str:
    if not config.recorder.enabled:
        return "the recorder is switched off ([recorder] enabled)"
    if row.peak < Severity.CRITICAL:
        return f"sessions are saved of critical incidents, and this one was never more than {Severity(row.peak).word}"
    told = chronicle.events(connection, row.incident_id)
    if told and all(event.rank < Severity.CRITICAL for event in told if _body(event).get("event") != "resolved"):
        return (
            "sessions are saved when an incident becomes critical, and this one was below that until it ended:"
            f" {_ending(row)}"
        )
    return f"there is none in {folder}: not written (the log says why), or removed since ([recorder] keep)"


# ---- words ----


def _print_lines(lines: Iterable[dict[str, Any]]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _span(ms: int) -> str:
    """A duration in its two largest units."""
    total = max(0, ms) // 1000
    days, hours, minutes = total // 86_400, total // 3600 % 24, total // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {total % 60:02d}s" if minutes else f"{total}s"
