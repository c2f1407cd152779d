"""What the prices of one account's pools were last told from, and what has grown since: kept for the next run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Literal

import msgspec

from monitor.events import Position, PositionKey
from monitor.risk.assessment import assess, unknowns
from monitor.risk.attribution import Baseline
from monitor.risk.margin import ZERO
from monitor.risk.pool import Pool
from monitor.risk.terms import Terms

Row = Literal["baseline", "grown"]
"""What is kept of a pool."""


class Baselines:
    """By pool id."""

    def __init__(self) -> None:
        self._all: dict[str, Baseline] = {}
        self._told: dict[str, Mapping[PositionKey, Decimal | None]] = {}
        """The prices that follow from a baseline, as printed."""
        self._grown: dict[str, dict[PositionKey, Position]] = {}
        """Positions that are new or larger since. The next baseline may be a minute off, and the next run has to know
        what may have been taken before."""
        self._unkept: set[tuple[Row, str]] = set()

    def get(self, pool_id: str) -> Baseline | None:
        return self._all.get(pool_id)

    def __getitem__(self, pool_id: str) -> Baseline:
        return self._all[pool_id]

    def __contains__(self, pool_id: str) -> bool:
        return pool_id in self._all

    @property
    def pool_ids(self) -> set[str]:
        """The pools of which anything is kept: a baseline that does not read may have left what has grown since."""
        return self._all.keys() | self._grown.keys()

    @property
    def held(self) -> dict[PositionKey, Position]:
        """The positions as they were when their prices were last told, or at their largest since; at a start, as an
        earlier run held them."""
        held = {p.key: p for baseline in self._all.values() for p in baseline.pool.positions}
        return held | {key: p for grown in self._grown.values() for key, p in grown.items()}

    # ---- what the next run is to know ----

    def restore(self, kind: Row, pool_id: str, row: bytes) -> None:
        """Take back a row. What does not read (of another version) is made anew from the next snapshot."""
        with suppress(msgspec.MsgspecError):
            if kind == "baseline":
                self._all[pool_id] = msgspec.json.decode(row, type=Baseline)
                self._told.pop(pool_id, None)
            else:
                self._grown[pool_id] = {p.key: p for p in msgspec.json.decode(row, type=tuple[Position, ...])}

    def unkept(self) -> list[tuple[Row, str, bytes | None]]:
        """Kind, pool id and row of all that is new since this was last asked; None: it is gone."""
        changed, self._unkept = self._unkept, set()
        return [(kind, pool_id, self._row(kind, pool_id)) for kind, pool_id in sorted(changed)]

    def _row(self, kind: Row, pool_id: str) -> bytes | None:
        if kind == "baseline":
            return self._all[pool_id].encoded if pool_id in self._all else None
        return msgspec.json.encode([*self._grown[pool_id].values()]) if pool_id in self._grown else None

    # ---- what changes ----

    def rebase(self, pool: Pool, terms: Terms, told: Mapping[PositionKey, Decimal | None] | None = None) -> None:
        """From now on the moves of a pool's prices are measured from what it is now.

        Args:
            told: Its prices, where they have been computed.
        """
        symbols = [p.symbol for p in pool.positions]
        now = Terms(
            {s: terms.marks[s] for s in symbols if s in terms.marks},
            {s: terms.tables[s] for s in symbols if s in terms.tables},
            {w.asset: terms.rates[w.asset] for w in pool.assets if w.asset in terms.rates},
        )
        self._all[pool.id] = Baseline(pool, now)
        self._told.pop(pool.id, None)
        if told is not None:
            self._told[pool.id] = told
        self._unkept.add(("baseline", pool.id))
        self._forget_grown(pool.id)

    def complete(self, pool: Pool, terms: Terms) -> None:
        """Give a baseline that was made before the first marks or brackets came those that have come since.

        Without them nothing that they do later would be seen as a move.
        """
        baseline = self._all.get(pool.id)
        if baseline is None or self.knew_all_of(pool):
            return
        was = baseline.terms
        self.rebase(
            pool,
            Terms({**terms.marks, **was.marks}, {**terms.tables, **was.tables}, {**terms.rates, **was.rates}),
        )

    def grow(self, pool: Pool) -> None:
        """Remember what of a pool is new or larger, until its next baseline."""
        grown = self._grown.get(pool.id, {})
        before = {p.key: p.quantity for p in (*self._all[pool.id].pool.positions, *grown.values())}
        more = {p.key: p for p in pool.positions if _is_more(p.quantity, before.get(p.key, ZERO))}
        if more:
            self._grown[pool.id] = grown | more
            self._unkept.add(("grown", pool.id))

    def forget(self, pool_id: str) -> None:
        self._all.pop(pool_id, None)
        self._told.pop(pool_id, None)
        self._unkept.add(("baseline", pool_id))
        self._forget_grown(pool_id)

    def _forget_grown(self, pool_id: str) -> None:
        if self._grown.pop(pool_id, None) is not None:
            self._unkept.add(("grown", pool_id))

    # ---- what was told ----

    def told(self, pool_id: str) -> Mapping[PositionKey, Decimal | None] | None:
        """The prices that a pool's next move is measured from. None: something was unknown, or there is no baseline."""
        told, baseline = self._told.get(pool_id), self._all.get(pool_id)
        if told is None and baseline is not None and is_complete(baseline.pool, baseline.terms):
            told = self._told[pool_id] = assess(baseline.pool, baseline.terms).printed_prices
        return told

    def knew_all_of(self, pool: Pool) -> bool:
        """Whether everything was known at a pool's baseline that its prices, as it is now, follow from."""
        baseline = self._all[pool.id]
        return (pool is baseline.pool and pool.id in self._told) or is_complete(pool, baseline.terms)


def is_complete(pool: Pool, terms: Terms) -> bool:
    """Whether everything is known that its prices follow from."""
    return not unknowns(pool, terms)


def _is_more(quantity: Decimal, before: Decimal) -> bool:
    """Whether a position is larger than it was, or another way round."""
    return quantity * before <= ZERO or abs(quantity) > abs(before)
