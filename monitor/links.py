"""What each link last said of itself, and how long it has not been trustworthy."""

from __future__ import annotations

from msgspec import Struct

from monitor.events import LinkHeard, LinkId, LinkReport, LinkState

_A_MOMENT_S = 0.25
"""What has come is taken so much later, at most, and may seem to have come after the other side was heard."""


class Link(Struct):
    """One link as the core knows it.

    Args:
        mutes: How often it was open, and yet kept something from us.
        heard_at: When the other side was heard; None: that is not told, and as long as it is live it counts as heard.
        since: Monotonic seconds at which it was first awaited, or last live or idle.
    """

    state: LinkState
    since: float
    reconnects: int = 0
    weight_used: int | None = None
    mutes: int = 0
    note: str = ""
    heard_at: float | None = None


class Links:
    """All links; a link is awaited from the start, so that one that never reports is noticed like one that died."""

    def __init__(self) -> None:
        self.all: dict[LinkId, Link] = {}
        self._of: dict[str, dict[LinkId, Link]] = {}
        self._lost: tuple[LinkId, ...] | None = None
        """None: to be found anew."""

    def awaited(self, link: LinkId, now: float) -> Link:
        known = self.all.get(link)
        if known is None:
            known = self.all[link] = Link(LinkState.CONNECTING, now)
            self._of.setdefault(link.account, {})[link] = known
            self._lost = None
        return known

    def of(self, account: str) -> dict[LinkId, Link]:
        """The links of one account."""
        return self._of.get(account, {})

    @property
    def lost(self) -> tuple[LinkId, ...]:
        """Those that do not bring all that they should."""
        if self._lost is None:
            self._lost = tuple(link for link, known in self.all.items() if not known.state.is_fine)
        return self._lost

    def forget(self, link: LinkId) -> None:
        """Nobody needs it any more."""
        self._lost = None
        del self.all[link], self._of[link.account][link]

    def report(self, event: LinkReport, now: float) -> bool:
        """Take a report. True: the state is another."""
        link = self.awaited(event.link, now)
        changed = link.state is not event.state
        if link.state.is_fine or event.state.is_fine:
            link.since = now
        if link.state.is_fine is not event.state.is_fine:
            self._lost = None
        link.state = event.state
        link.reconnects = event.reconnects
        link.weight_used = event.weight_used
        link.mutes = max(link.mutes, event.mutes)
        link.note = event.note or ("" if event.state.is_fine else link.note)  # a new try does not say why it is one
        return changed

    def heard(self, event: LinkHeard) -> None:
        """Take note of when the other side of a link was heard."""
        link = self.all.get(event.link)
        if link is not None:
            link.heard_at = max(link.heard_at or event.at, event.at)

    def heard_until(self, link: LinkId, now: float) -> float:
        """Until when all is known that a link had to tell (monotonic seconds). One that is live may have been dead for
        some seconds, which is noticed then."""
        live_until = now - self.age(link, now)
        heard_at = self.all[link].heard_at
        return live_until if heard_at is None else min(live_until, heard_at + _A_MOMENT_S)

    def age(self, link: LinkId, now: float) -> float:
        """Seconds since this link was last live; 0 while it is, and while it has nothing to watch."""
        known = self.all.get(link) or self.awaited(link, now)
        return 0.0 if known.state.is_fine else now - known.since
