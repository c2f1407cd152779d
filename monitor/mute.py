"""Whether a private stream that is open, and answers pings, keeps silent about what it should tell.

A quiet account is rightly silent, so silence proves nothing. A snapshot that shows a change does: the change came after
the stream was opened, after everything that the stream has told, and some seconds later it is still owed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from decimal import Decimal

from msgspec import Struct

from monitor.book import SNAPSHOT_LAG_MS
from monitor.events import AccountChanged, BalancesRead, Event, PositionKey, PositionsRead
from monitor.risk.margin import ZERO

_CLOCK_MS = 1_000
"""How wrong the measured difference between the exchange's clock and ours may be."""

_Thing = str | PositionKey
_Content = tuple[Decimal, ...]


class _Owed(Struct):
    """A change that only snapshots have shown.

    Args:
        since, seen: Monotonic seconds of the first and the latest snapshot that showed it.
    """

    content: _Content
    at_ms: int
    since: float
    seen: float


class MuteDetector:
    """Holds what a stream has told since it was opened against what snapshots show. One for each opened stream.

    Args:
        after_s: How long the stream may owe a change.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._known: dict[_Thing, _Content] = {}
        self._at_ms: dict[PositionKey, int] = {}
        """When what is known of a position was last changed."""
        self._opened_ms: dict[type, int] = {}
        self._told_ms = 0
        self._owed: dict[_Thing, _Owed] = {}

    @property
    def suspects(self) -> bool:
        """Whether the stream owes something, and a further snapshot would tell more."""
        return bool(self._owed)

    @property
    def owes_position(self) -> bool:
        """Whether a position is other than the stream has told: the exchange may have acted."""
        return any(isinstance(thing, PositionKey) for thing in self._owed)

    @property
    def silent_since_ms(self) -> int:
        """When it last told something, or was opened (exchange time)."""
        return max(self._told_ms, min(self._opened_ms.values(), default=0))

    def pushed(self, event: AccountChanged) -> None:
        """Take what the stream has told. What changed before that, it has told or was too old to be told."""
        self._told_ms = max(self._told_ms, event.at_ms)
        for balance in event.balances:
            self._told(balance.asset, (balance.wallet_balance, balance.cross_wallet_balance))
        for position in event.positions:
            self._told(position.key, (position.quantity,))
            self._at_ms[position.key] = event.at_ms
        self._owed = {thing: owed for thing, owed in self._owed.items() if owed.at_ms > self._told_ms}

    def _told(self, thing: _Thing, content: _Content) -> None:
        self._known[thing] = content
        if thing in self._owed and self._owed[thing].content == content:
            del self._owed[thing]

    def has_told_all(self, snapshot: Iterable[Event], since_ms: int) -> bool:
        """Whether a later snapshot, of balances and positions, shows what this stream has told, and nothing else; and
        none of it since then (exchange time), when it may have ended in the midst of what belongs together."""
        if self._told_ms >= since_ms:
            return False
        shown: dict[_Thing, _Content] = {}
        for event in snapshot:
            if isinstance(event, BalancesRead | PositionsRead):
                shown |= {thing: content for thing, (content, _) in _rows(event).items()}
        return _not_zero(shown) == _not_zero(self._known)

    def read(self, event: BalancesRead | PositionsRead, now: float) -> None:
        """Take a snapshot; the first of each kind is where the stream begins.

        Args:
            now: Monotonic seconds.
        """
        rows = _rows(event)
        if isinstance(event, PositionsRead):
            rows |= {key: ((ZERO,), event.sent_ms) for key in self._closed(rows, event.sent_ms - SNAPSHOT_LAG_MS)}
        if type(event) not in self._opened_ms:
            self._opened_ms[type(event)] = event.sent_ms
            if isinstance(event, PositionsRead):
                self._at_ms = {position.key: position.at_ms for position, _ in event.rows} | self._at_ms
            self._known = {thing: content for thing, (content, _) in rows.items()} | self._known
            return
        told_ms = max(self._told_ms, self._opened_ms[type(event)] + _CLOCK_MS)
        for thing, (content, at_ms) in rows.items():
            owed = self._owed.get(thing)
            if content == self._known.get(thing, (ZERO,) * len(content)):
                self._owed.pop(thing, None)
            elif owed is not None:
                owed.content, owed.seen = content, now
            elif at_ms > told_ms:
                self._owed[thing] = _Owed(content, at_ms, now, now)

    def _closed(self, rows: Container[_Thing], seen_ms: int) -> list[PositionKey]:
        """Positions that a snapshot does not name any more, and would even if it came from a copy that lags. However
        late the stream has told of something else, their end it has not told of.

        Args:
            seen_ms: What has changed since then such a copy may not have (exchange time).
        """
        open_by_now = [key for key, at_ms in self._at_ms.items() if self._known[key][0] and at_ms < seen_ms]
        return [key for key in open_by_now if key not in rows]

    def verdict(self) -> str | None:
        """Why the stream is mute; None: nothing proves it."""
        for thing, owed in self._owed.items():
            if owed.seen - owed.since >= self._after_s:
                what = thing if isinstance(thing, str) else thing.symbol
                return f"mute: a change of {what} was not told within {self._after_s:g} s"
        return None


def _rows(event: BalancesRead | PositionsRead) -> dict[_Thing, tuple[_Content, int]]:
    """What a snapshot shows, and when it was changed (exchange time)."""
    if isinstance(event, BalancesRead):
        return {b.asset: ((b.wallet_balance, b.cross_wallet_balance), b.at_ms) for b in event.balances}
    # Of a position the quantity alone: the digits of other figures are not the same everywhere.
    return {p.key: ((p.quantity,), p.at_ms) for p, _ in event.rows}


def _not_zero(things: dict[_Thing, _Content]) -> dict[_Thing, _Content]:
    """Without what is nothing, which not every answer names."""
    return {thing: content for thing, content in things.items() if any(content)}
