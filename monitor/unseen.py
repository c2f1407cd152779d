"""Of a time in which nobody listened to an account: whether the exchange may have acted in it, and which of its orders
are of that time. Without them a liquidation would look like a close, or like nothing at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal

from msgspec import Struct, structs

from monitor.events import BalancesRead, Event, Fill, Position, PositionKey, PositionsRead
from monitor.mute import MuteDetector
from monitor.risk.margin import ZERO

_NOTICED_WITHIN_MS = 15_000
"""A dead stream is noticed within this; what it may have missed began no earlier. Nor did what opened an incident."""


class Cut(Struct, frozen=True):
    """A stream has ended, while we went on.

    Args:
        ended_ms: When that was noticed (exchange time).
        stream: What it had told. None: that is not known.
        told_ms: When it last told something, or was opened; a machine that was suspended notices the end hours later.
            None: that is not known.
        before: What may have hidden orders before, and of which the exchange could not be asked yet.
    """

    ended_ms: int
    stream: MuteDetector | None = None
    told_ms: int | None = None
    before: Restart | None = None

    def has_hidden_nothing(self, snapshot: Collection[Event]) -> bool:
        """Whether a snapshot shows what was known, so that there was no order."""
        if self.before is not None and not self.before.has_hidden_nothing(snapshot):
            return False
        return self.stream is not None and self.stream.has_told_all(snapshot, self._since_ms)

    def may_have_hidden(self, order: Fill) -> bool:
        """What it has told of is told no second time: those orders are kept by their names."""
        if self.before is not None and self.before.may_have_hidden(order):
            return True
        told_ms = self.ended_ms if self.told_ms is None else self.told_ms
        return order.at_ms >= min(self._since_ms, told_ms - _NOTICED_WITHIN_MS)

    @property
    def _since_ms(self) -> int:
        return self.ended_ms - _NOTICED_WITHIN_MS


def after(snapshot: Collection[Event]) -> Cut:
    """What may be unseen once all is known that a snapshot shows."""
    shown = MuteDetector(0.0)
    asked_ms = 0
    for event in snapshot:
        if isinstance(event, BalancesRead | PositionsRead):
            shown.read(event, 0.0)
            asked_ms = max(asked_ms, event.sent_ms)
    return Cut(asked_ms, shown)


class Restart(Struct, frozen=True):
    """An earlier run has ended, and this one has begun.

    Args:
        opened_ms: When the oldest incident opened that it left open; None: it left none.
        held: Positions as it kept them.
    """

    opened_ms: int | None
    held: Mapping[PositionKey, Position]

    def has_hidden_nothing(self, snapshot: Collection[Event]) -> bool:
        """Whether a snapshot shows what was known. With an incident open it may be how that ends."""
        if self.opened_ms is not None:
            return False
        shown = {p.key: p.quantity for event in snapshot if isinstance(event, PositionsRead) for p, _ in event.rows}
        return all(_is_whole(shown, position) for position in self.held.values())

    def may_have_hidden(self, order: Fill) -> bool:
        """What it has told of it tells no second time: its orders are kept by their names."""
        if self.opened_ms is not None and order.at_ms >= self.opened_ms - _NOTICED_WITHIN_MS:
            return True
        held = self.held.get(PositionKey(order.symbol, order.side))
        return held is not None and order.at_ms >= held.at_ms


def both(earlier: Cut | Restart | None, cut: Cut) -> Cut:
    """A cut, after a time of which the exchange could not be asked yet."""
    if isinstance(earlier, Cut):  # from then on: where a snapshot shows what was known then, there was no order since
        return structs.replace(earlier)  # another one: what is being asked now does not cover the later cut
    return structs.replace(cut, before=earlier)


def _is_whole(shown: Mapping[PositionKey, Decimal], position: Position) -> bool:
    """Whether a position that was held is no smaller now, nor the other way round."""
    quantity = shown.get(position.key, ZERO)
    return quantity * (1 if position.quantity > 0 else -1) >= abs(position.quantity)
