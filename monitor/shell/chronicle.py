"""The table of incidents in the store: one row per story, written from its events, read by `marginwatch history`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from difflib import get_close_matches

import msgspec
from msgspec import Struct

NOTED = "noted"
"""How a one-off fact ended: it was never open."""

_RECENT = 5_000
"""Among how many incidents a mistyped name is looked for."""


class IncidentRow(Struct, frozen=True):
    """One incident as the store has it.

    Args:
        resolved_ms: When it ended; None: it is open.
        peak: Rank of the highest severity it was told with.
        resolution: How it ended, `noted` for a one-off fact; None with a `resolved_ms`: nobody recorded how.
        title: Of its most severe message, the last of them.
    """

    incident_id: str
    account: str
    rule: str
    subject: str
    symbol: str | None
    side: str | None
    opened_ms: int
    resolved_ms: int | None
    peak: int
    resolution: str | None
    title: str


class EventRow(Struct, frozen=True):
    """One event as the store has it; `sent_ms` is when the broker took it, None: not yet."""

    event_id: str
    at_ms: int
    sent_ms: int | None
    rank: int
    payload: bytes


class _Payload(Struct):
    """What the table takes from an event's body; all of it may be missing."""

    account: str | None = None
    rule: str | None = None
    subject: str | None = None
    symbol: str | None = None
    side: str | None = None
    event: str = ""
    resolution: str | None = None
    title: str = ""


# ---- writing ----


def record(
    connection: sqlite3.Connection, incident_id: str, payload: bytes, rank: int, opened_ms: int, at_ms: int
) -> None:
    """Take an event into the row of its incident.

    Args:
        rank: Severity rank that it was told with.
    """
    said = _read(payload)
    account, subject, rule = _names(incident_id)
    account, subject, rule = said.account or account, said.subject or subject, said.rule or rule
    over = said.event in ("resolved", "noted")
    connection.execute(
        "INSERT INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (incident_id) DO UPDATE SET"
        " symbol = coalesce(excluded.symbol, symbol), side = coalesce(excluded.side, side),"
        " title = iif(excluded.peak >= peak AND excluded.resolved_ms IS NULL, excluded.title, title),"
        " peak = max(peak, excluded.peak), resolved_ms = coalesce(excluded.resolved_ms, resolved_ms),"
        " resolution = coalesce(excluded.resolution, resolution)",
        (
            incident_id,
            account,
            rule,
            subject,
            said.symbol,
            said.side,
            opened_ms,
            at_ms if over else None,
            rank,
            NOTED if said.event == "noted" else said.resolution,
            said.title,
        ),
    )
    if said.event == "opened":
        # Of one rule and subject at most one is open: the end of the one before was lost with a store that was away.
        connection.execute(
            "UPDATE incidents SET resolved_ms = ? WHERE account = ? AND rule = ? AND subject = ?"
            " AND resolved_ms IS NULL AND opened_ms < ?",
            (opened_ms, account, rule, subject, opened_ms),
        )


def end(connection: sqlite3.Connection, key: str, at_ms: int) -> None:
    """Nothing of this rule and subject is open any more.

    Args:
        key: `<account>/<rule>/<subject>`, as the row of an open incident is kept under.
    """
    account, _, rest = key.partition("/")
    rule, _, subject = rest.partition("/")
    connection.execute(
        "UPDATE incidents SET resolved_ms = ? WHERE account = ? AND rule = ? AND subject = ? AND resolved_ms IS NULL",
        (at_ms, account, rule, subject),
    )


def _read(payload: bytes) -> _Payload:
    try:
        return msgspec.json.decode(payload, type=_Payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # damaged, or of a version that wrote it otherwise
        return _Payload()


def _names(incident_id: str) -> tuple[str, str, str]:
    """Account, subject and rule out of `<account>.<subject>.<rule>.<opened, unix ms>`; a subject may have dots."""
    account, _, rest = incident_id.partition(".")
    rest = rest.rpartition(".")[0]
    subject, _, rule = rest.rpartition(".")
    return account, subject, rule


# ---- reading ----


def since(connection: sqlite3.Connection, from_ms: int) -> Iterator[IncidentRow]:
    """The incidents that were open at some time since then, the oldest first."""
    rows = connection.execute(
        "SELECT * FROM incidents WHERE resolved_ms IS NULL OR resolved_ms >= ? ORDER BY opened_ms, incident_id",
        (from_ms,),
    )
    return (IncidentRow(*row) for row in rows)


def find(connection: sqlite3.Connection, name: str) -> IncidentRow | None:
    """The incident of this id, or the one that an event of this id belongs to."""
    row = connection.execute(
        "SELECT * FROM incidents WHERE incident_id = ?"
        " OR incident_id = (SELECT incident_id FROM events WHERE event_id = ?)",
        (name, name),
    ).fetchone()
    return None if row is None else IncidentRow(*row)


def events(connection: sqlite3.Connection, incident_id: str) -> list[EventRow]:
    """Every event of an incident that is still kept, in order."""
    rows = connection.execute(
        "SELECT event_id, at_ms, sent_ms, rank, payload FROM events WHERE incident_id = ? ORDER BY n", (incident_id,)
    )
    return [EventRow(*row) for row in rows]


def nearest(connection: sqlite3.Connection, name: str) -> list[str]:
    """Names of incidents that this one may have been meant for, at most three."""
    rows = connection.execute(f"SELECT incident_id FROM incidents ORDER BY opened_ms DESC LIMIT {_RECENT}").fetchall()
    names = [incident_id for (incident_id,) in rows]
    within = [known for known in names if name and name in known]
    return within[:3] or get_close_matches(name, names, 3, 0.5)
