"""The table of incidents in the store: one row per story, written from its events, read by `marginwatch history`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import msgspec
from msgspec import Struct

from monitor.shell import rows

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

_RECORD = (
    "INSERT INTO incidents VALUES {rows} ON CONFLICT (incident_id) DO UPDATE SET"
    " symbol = coalesce(excluded.symbol, symbol), side = coalesce(excluded.side, side),"
    " title = iif(excluded.peak >= peak AND excluded.resolved_ms IS NULL, excluded.title, title),"
    " peak = max(peak, excluded.peak), resolved_ms = coalesce(excluded.resolved_ms, resolved_ms),"
    " resolution = coalesce(excluded.resolution, resolution)"
)

_OPENED = (
    # Of one rule and subject at most one is open: the end of the one before was lost with a store that was away.
    "WITH new (account, rule, subject, opened_ms) AS (VALUES {rows})"
    " UPDATE incidents SET resolved_ms = (SELECT min(opened_ms) FROM new WHERE account = incidents.account"
    " AND rule = incidents.rule AND subject = incidents.subject AND opened_ms > incidents.opened_ms)"
    " WHERE incident_id IN (SELECT i.incident_id FROM new CROSS JOIN incidents i ON i.account = new.account"
    " AND i.rule = new.rule AND i.subject = new.subject WHERE i.resolved_ms IS NULL AND i.opened_ms < new.opened_ms)"
)

_END = (
    "WITH ended (account, rule, subject, at_ms) AS (VALUES {rows})"
    " UPDATE incidents SET resolved_ms = (SELECT at_ms FROM ended LIMIT 1)"
    " WHERE incident_id IN (SELECT i.incident_id FROM ended CROSS JOIN incidents i ON i.account = ended.account"
    " AND i.rule = ended.rule AND i.subject = ended.subject WHERE i.resolved_ms IS NULL)"
)


def record(connection: sqlite3.Connection, events: Iterable[tuple[str, bytes, int, int, int]]) -> None:
    """Take events into the rows of their incidents.

    Args:
        events: Of each its incident, payload, the severity rank that it was told with, when its incident opened, and
            its own time (unix ms).
    """
    for some in rows.slices(events):
        told: list[rows.Row] = []
        opened: list[rows.Row] = []
        for incident_id, payload, rank, opened_ms, at_ms in some:
            said = _read(payload)
            account, subject, rule = _names(incident_id)
            account, subject, rule = said.account or account, said.subject or subject, said.rule or rule
            over_ms = at_ms if said.event in ("resolved", "noted") else None
            resolution = NOTED if said.event == "noted" else said.resolution
            which = incident_id, account, rule, subject, said.symbol, said.side
            told.append((*which, opened_ms, over_ms, rank, resolution, said.title))
            if said.event == "opened":
                opened.append((account, rule, subject, opened_ms))
        rows.execute(connection, _RECORD, told)
        rows.execute(connection, _OPENED, opened)


def end(connection: sqlite3.Connection, keys: Iterable[str], at_ms: int) -> None:
    """Nothing of these rules and subjects is open any more.

    Args:
        keys: `<account>/<rule>/<subject>`, as the row of an open incident is kept under.
    """
    rows.execute(connection, _END, ((*_parts(key), at_ms) for key in keys))


def _parts(key: str) -> tuple[str, str, str]:
    account, _, rest = key.partition("/")
    rule, _, subject = rest.partition("/")
    return account, rule, subject


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
