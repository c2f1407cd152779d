"""What an account held until lately: positions and pools that are gone or smaller, and which of them the exchange took.

An account event and the forced order that caused it come in either order. Whichever is first is remembered, so that the
other finds what it is about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal

from msgspec import Struct

from monitor.book import AccountBook
from monitor.events import ForcedKind, Now, PositionKey
from monitor.forced import Acted
from monitor.risk.bankruptcy import bankruptcy_price
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk, PositionRisk

FORCED_MEMORY_S = 120.0
"""How long a forced order explains what became of a pool."""
CLOSING_GRACE_S = 2.0
"""How long a vanished pool is kept in doubt: the order that says it was forced may come after the account event."""


class GonePool(Struct, frozen=True):
    """A pool that is not there any more.

    Args:
        keys: What it held.
        at: When it was found to be gone (monotonic seconds).
        is_unexplained: Found so by an answer with which the list of forced orders did not come: it may have been one.
    """

    keys: frozenset[PositionKey]
    at: float
    is_unexplained: bool


class _Forced(Struct, frozen=True):
    kind: ForcedKind
    at: float


class Gone:
    """The memory of one account; times are monotonic seconds."""

    def __init__(self) -> None:
        self._pools: dict[str, GonePool] = {}
        self._left: dict[tuple[str, PositionKey], float] = {}
        """Pool id and position → when it left that pool."""
        self._shrunk: dict[PositionKey, tuple[Decimal, float]] = {}
        """Position → what it was before it was found smaller, or closed, and when that was."""
        self._last_seen: dict[PositionKey, tuple[PositionRisk, Decimal | None]] = {}
        self._forced: dict[PositionKey, _Forced] = {}

    def note(
        self,
        before: Mapping[str, Pool],
        pools: Mapping[str, Pool],
        book: AccountBook,
        risks: Mapping[str, PoolRisk],
        now: Now,
        *,
        is_unexplained: bool,
    ) -> None:
        """Remember what these pools do not have any more.

        Args:
            before: The pools until now, by id; so are `pools`, and `risks`, which are of those until now.
            is_unexplained: As of `GonePool`.
        """
        for held in (p for pool in before.values() for p in pool.positions):
            if abs(book.quantity(held.key)) < abs(held.quantity):
                self._shrunk[held.key] = (held.quantity, now.mono)
        still = {p.key for pool in pools.values() for p in pool.positions}
        for risk in risks.values():
            for p in risk.positions:
                if p.position.key not in still:
                    self._last_seen[p.position.key] = p, bankruptcy_price(risk, p.position.key)
        for pool_id in before.keys() - pools.keys():
            keys = frozenset(p.key for p in before[pool_id].positions)
            self._pools[pool_id] = GonePool(keys, now.mono, is_unexplained)
        for pool_id, pool in pools.items():
            self._pools.pop(pool_id, None)
            for key in {p.key for p in before.get(pool_id, pool).positions} - {p.key for p in pool.positions}:
                self._left[pool_id, key] = now.mono

    def pool(self, pool_id: str) -> GonePool | None:
        return self._pools.get(pool_id)

    def pool_or(self, pool_id: str, missed: GonePool) -> GonePool:
        """A pool that is not there any more; `missed`, where it vanished while no daemon ran."""
        return self._pools.setdefault(pool_id, missed)

    def last_pool(self, key: PositionKey) -> str | None:
        """The pool that a position has left last."""
        left = [(at, pool_id) for (pool_id, one), at in self._left.items() if one == key]
        return max(left)[1] if left else None

    def held_lately(self, pool: Pool, now: Now, within_s: float) -> frozenset[PositionKey]:
        """The positions that a pool holds, and those that have left it lately."""
        left = {key for (pool_id, key), at in self._left.items() if pool_id == pool.id and now.mono - at < within_s}
        return frozenset(left.union(p.key for p in pool.positions))

    def quantity_before(self, key: PositionKey, acted: float) -> Decimal | None:
        """What a position was that an order has made smaller, which acted then; None: it has not been made so since."""
        shrunk = self._shrunk.get(key)
        return shrunk[0] if shrunk is not None and acted - shrunk[1] < CLOSING_GRACE_S else None

    def last_seen(self, key: PositionKey) -> tuple[PositionRisk | None, Decimal | None]:
        """A position as it was when it went, with its bankruptcy price."""
        return self._last_seen.get(key, (None, None))

    # ---- what the exchange has taken ----

    def forced(self, key: PositionKey, kind: ForcedKind, now: Now) -> None:
        """Remember that the exchange itself acted on a position."""
        self._forced[key] = _Forced(kind, now.mono)

    def restore(self, acted: Acted, now: Now) -> None:
        """Take back what an earlier run has seen the exchange do."""
        at = now.mono - max(0.0, (now.wall_ms - acted.at_ms) / 1000)
        self._forced[acted.key] = _Forced(acted.kind, at)
        if acted.pool is not None:
            self._left[acted.pool, acted.key] = at

    def forced_kind(
        self, keys: Collection[PositionKey], now: Now, within_s: float = FORCED_MEMORY_S
    ) -> ForcedKind | None:
        """The forced order that has lately acted on one of these positions; a liquidation before others."""
        kinds = [f.kind for key, f in self._forced.items() if key in keys and now.mono - f.at < within_s]
        return min(kinds, key=list(ForcedKind).index, default=None)
