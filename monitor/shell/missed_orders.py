"""Forced orders that nobody was there to hear of; without them a liquidation would look like a close."""

from __future__ import annotations

from collections.abc import Collection

from monitor.errors import DecodeError, ExchangeError
from monitor.events import Event, Fill, OrdersUnread
from monitor.shell import logs
from monitor.shell.rest_link import RestLink
from monitor.unseen import Unseen, after, both

_IN_VAIN = 3
"""So often they are asked for before a snapshot is told without them."""


class MissedOrders:
    """Asks for them as long as it takes.

    Args:
        account: Whose.
        unseen: Since when they may have gone unseen, where an earlier run has watched the account.

    Attributes:
        unseen: Of what time they may be unseen, until a snapshot that cannot be of that time has been held against it.
            None: of none.
    """

    def __init__(self, account: str, link: RestLink, unseen: Unseen | None) -> None:
        self.unseen = unseen
        self._account = account
        self._link = link
        self._log = logs.logger()
        self._failures = 0
        """How often, one after the other, they were asked for in vain; until they come, they stay unseen."""

    def add(self, unseen: Unseen) -> None:
        """Nobody has listened for another while."""
        self.unseen = both(self.unseen, unseen)

    def recall(self, earlier: Unseen) -> None:
        """What an earlier run has left was found only now."""
        self.unseen = earlier if self.unseen is None else both(earlier, self.unseen)

    def suppose(self, unseen: Unseen) -> None:
        """Of such a time, unless they are of another one already."""
        self.unseen = self.unseen or unseen

    async def read(self, snapshot: Collection[Event], *, certain: bool = False) -> list[Event]:
        """Those that a snapshot may hide.

        They cost twice what all else of an account does: where the snapshot shows what we knew, there were none.

        Args:
            certain: Whether there is a stream, and the snapshot shows all that came before it; else it is what the next
                is held against.
        """
        unseen = self.unseen
        if unseen is None:
            return []
        orders: list[Event] = []
        if not unseen.has_hidden_nothing(snapshot):
            try:
                orders = await self._link.forced_orders()
            except (ExchangeError, DecodeError) as exc:
                self._failures += 1
                if self._failures < _IN_VAIN:
                    raise
                if self._failures == _IN_VAIN:
                    self._log.warning("forced orders not read", account=self._account, reason=str(exc))
                return [OrdersUnread(self._account, unseen.row)]
        self._failures = 0
        if self.unseen is unseen:
            self.unseen = None if certain else after(snapshot)
        missed = [order for order in orders if isinstance(order, Fill) and unseen.may_have_hidden(order)]
        return [OrdersUnread(self._account, None), *missed]
