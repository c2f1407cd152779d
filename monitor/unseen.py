"""Of a time in which nobody listened to an account: whether the exchange may have acted in it, and which of its orders
are of that time. Without them a liquidation would look like a close, or like nothing at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal

import msgspec
from msgspec import Struct, structs

from monitor.events import BalancesRead, Event, Fill, Position, PositionKey, PositionsRead
from monitor.mute import MuteDetector
from monitor.risk.margin import ZERO

_NOTICED_WITHIN_MS = 15_000
"""A dead stream is noticed within this; what it may have missed began no earlier. Nor did what opened an incident."""


class Unseen(Struct, frozen=True):
    """What is known of such a time.

    Args:
        since_ms: All orders from then on may be of it (exchange time). None: those of `held` alone.
        held: Positions as an earlier run kept them: of each, orders may be that came after its last change.
        stream: What a stream had told before, which a snapshot may show to be all that there was. None: nothing can.
        ended_ms: When it was noticed that the stream has ended (exchange time).
    """

    since_ms: int | None
    held: tuple[Position, ...] = ()
    stream: MuteDetector | None = None
    ended_ms: int = 0

    @property
    def row(self) -> bytes:
        """What the next run has to know of it: what a stream had told proves nothing after a restart."""
        return msgspec.json.encode((self.since_ms, self.held))

    def has_hidden_nothing(self, snapshot: Collection[Event]) -> bool:
        """Whether a snapshot shows what was known, so that there was no order."""
        shown = {p.key: p.quantity for event in snapshot if isinstance(event, PositionsRead) for p, _ in event.rows}
        if not all(_is_whole(shown, position) for position in self.held):
            return False
        told_until_ms = self.ended_ms - _NOTICED_WITHIN_MS
        return self.since_ms is None or (self.stream is not None and self.stream.has_told_all(snapshot, told_until_ms))

    def may_have_hidden(self, order: Fill) -> bool:
        """What has been told of is told no second time: those orders are kept by their names."""
        if self.since_ms is not None and order.at_ms >= self.since_ms:
            return True
        key = PositionKey(order.symbol, order.side)
        return any(position.key == key and order.at_ms >= position.at_ms for position in self.held)


def restart(opened_ms: int | None, held: Iterable[Position]) -> Unseen:
    """An earlier run has ended, and this one has begun.

    Args:
        opened_ms: When the oldest incident opened that it left open: how that ends may be unseen. None: it left none.
        held: Positions as it kept them.
    """
    return Unseen(None if opened_ms is None else opened_ms - _NOTICED_WITHIN_MS, tuple(held))


def restored(row: bytes | None) -> Unseen | None:
    """What an earlier run could not ask for. None: nothing, or what another version has kept."""
    with suppress(msgspec.MsgspecError):
        return None if row is None else Unseen(*msgspec.json.decode(row, type=tuple[int | None, tuple[Position, ...]]))
    return None


def cut(ended_ms: int, stream: MuteDetector | None = None, told_ms: int | None = None) -> Unseen:
    """A stream has ended, while we went on.

    Args:
        ended_ms: When that was noticed (exchange time).
        stream: What it had told. None: that is not known.
        told_ms: When it last told something, or was opened; a machine that was suspended notices the end hours later.
            None: that is not known.
    """
    since_ms = min(ended_ms, ended_ms if told_ms is None else told_ms) - _NOTICED_WITHIN_MS
    return Unseen(since_ms, stream=stream, ended_ms=ended_ms)


def after(snapshot: Collection[Event]) -> Unseen:
    """What may be unseen once all is known that a snapshot shows."""
    shown = MuteDetector(0.0)
    asked_ms = 0
    for event in snapshot:
        if isinstance(event, BalancesRead | PositionsRead):
            shown.read(event, 0.0)
            asked_ms = max(asked_ms, event.sent_ms)
    return cut(asked_ms, shown)


def both(earlier: Unseen | None, later: Unseen) -> Unseen:
    """Another such time, after one of which the exchange could not be asked yet; what is being asked now does not cover
    it. Where a snapshot shows what was known when the first began, there was no order since."""
    if earlier is None:
        return later
    times = [one.since_ms for one in (earlier, later) if one.since_ms is not None]
    proof = later if earlier.since_ms is None else earlier
    held = dict.fromkeys((*earlier.held, *later.held))  # of many runs mostly the same
    return structs.replace(proof, since_ms=min(times, default=None), held=tuple(held))


def _is_whole(shown: Mapping[PositionKey, Decimal], position: Position) -> bool:
    """Whether a position that was held is no smaller now, nor the other way round."""
    quantity = shown.get(position.key, ZERO)
    return quantity * (1 if position.quantity > 0 else -1) >= abs(position.quantity)
