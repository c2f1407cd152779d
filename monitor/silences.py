"""What a person does not want to hear of for a while, and what is said all the same.

A silence keeps back messages, never knowledge: the incident goes on, its retained state is published, and what still
stands when the silence ends is told then. It never hides an order that the exchange sends, the opening of blindness,
or a pool that is being liquidated.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec
from msgspec import Struct

from monitor.events import Now, Silence
from monitor.incident import IncidentKey, Kind
from monitor.rules import Severity

_LONGEST_BLIND_S = 4 * 3600
"""Repeats of blindness may be kept back for so long."""


class _Kept(Struct, frozen=True):
    silence: Silence
    since_ms: int


class Silences:
    """Those in force, by what they are about."""

    def __init__(self) -> None:
        self.all: dict[str, _Kept] = {}

    def begin(self, silence: Silence, now: Now) -> tuple[str, bytes | None]:
        """Take a silence. Returns its id, and its row to keep; None: it ends an earlier one."""
        name = ".".join(part or "*" for part in (silence.account, silence.rule, silence.subject))
        if silence.until_ms <= now.wall_ms:
            self.all.pop(name, None)
            return name, None
        self.all[name] = _Kept(silence, now.wall_ms)
        return name, msgspec.json.encode(self.all[name])

    def restore(self, rows: Mapping[str, bytes]) -> None:
        for name, row in rows.items():
            with suppress(msgspec.MsgspecError):  # of another version: better told than kept back
                self.all[name] = msgspec.json.decode(row, type=_Kept)

    def over(self, now: Now) -> list[str]:
        """The ids of those that have ended; they are forgotten here."""
        ended = [name for name, kept in self.all.items() if kept.silence.until_ms <= now.wall_ms]
        for name in ended:
            del self.all[name]
        return ended

    def covers(self, key: IncidentKey, kind: Kind, severity: Severity, now: Now) -> bool:
        """Whether nobody is to be told of this change."""
        if not self.all or key.rule == "forced_order" or severity is Severity.LIQUIDATION:
            return False
        if key.rule == "data_stale" and kind != "repeated":
            return False
        longest_s = _LONGEST_BLIND_S if key.rule == "data_stale" else None
        return any(_fits(kept, key, now, longest_s) for kept in self.all.values())


def _fits(kept: _Kept, key: IncidentKey, now: Now, longest_s: int | None) -> bool:
    silence = kept.silence
    until_ms = silence.until_ms
    if longest_s is not None:
        until_ms = min(until_ms, kept.since_ms + longest_s * 1000)
    return now.wall_ms < until_ms and all(
        wanted in (None, said)
        for wanted, said in zip((silence.account, silence.rule, silence.subject), key, strict=True)
    )
