"""The second way out: what the broker does not have goes to the webhook, and that it went there outlives a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from monitor.config import HeartbeatConfig
from monitor.config_values import HiddenUrl
from monitor.effects import Save
from monitor.message import Identity, Message
from monitor.shell.owed import Batch, Found
from monitor.shell.webhook import Webhook

_TABLE: Final = "posted"


class SecondWay:
    """Which events the webhook gets, and which it has.

    Args:
        url: Of the webhook; None: there is none.
        keep: Hands to the store.
        amounts: Whether it may learn amounts: else it gets the notices, in which there are none.
    """

    def __init__(
        self,
        url: HiddenUrl | None,
        config: HeartbeatConfig,
        identity: Identity,
        keep: Callable[[Batch], None],
        *,
        amounts: bool,
    ) -> None:
        self._webhook = None if url is None else Webhook(url, config, identity, self._note_posted)
        self._keep = keep
        self._amounts = amounts
        self._posted: set[str] = set()

    async def run(self) -> None:
        """Post what there is while the broker is away, until cancelled."""
        if self._webhook is not None:
            await self._webhook.run()

    def take_over(self, found: Found) -> None:
        """Let the webhook have what an earlier run could not send, but for what that run has posted."""
        posted = found.rows.get(_TABLE, {})
        self._posted |= posted.keys()
        if self._webhook is not None:
            for event_id in posted:
                self._webhook.sent(event_id)
            self.put(found.unsent)

    def put(self, told: Iterable[Message]) -> None:
        """Events and notices that are on their way to the broker."""
        if self._webhook is not None:
            self._webhook.put(message for message in told if message.is_event is self._amounts)

    def sent(self, event_id: str) -> None:
        """The broker has this event."""
        if event_id in self._posted:
            self._posted.discard(event_id)
            self._keep(Batch((), (Save(_TABLE, event_id, None),)))
        if self._webhook is not None:
            self._webhook.sent(event_id)

    def broker_away(self, away_s: float) -> None:
        """For how long the broker has been away; 0: it is not."""
        if self._webhook is not None:
            self._webhook.broker_away(away_s)

    def _note_posted(self, event_id: str) -> None:
        """The webhook has an event that the broker has not; that must outlive us, or it would be posted again."""
        self._posted.add(event_id)
        self._keep(Batch((), (Save(_TABLE, event_id, b"{}"),)))
