"""Proof of life: after each tick systemd, the heartbeat and the webhook hear how the daemon fares; over HTTP, whoever
asks."""

from __future__ import annotations

from collections.abc import Callable

from monitor.core import Core
from monitor.events import LinkId, Now
from monitor.liveness import DaemonState, blindness, is_settled, status, undeclared
from monitor.outbox import Outbox
from monitor.shell import logs
from monitor.shell.broker import Broker
from monitor.shell.heartbeat import Heartbeat
from monitor.shell.second_way import SecondWay
from monitor.shell.systemd import Notifier
from monitor.shell.vitals import settle_memory

_PROGRESS_S = 10.0
_FIGURES_S = 10.0
_FIGURES_S_PER_ACCOUNT = 0.01
"""How old the figures of the status line may become: of thousands of accounts they take milliseconds. What is wrong
stands there at once."""


class ProofOfLife:
    """How the daemon fares.

    Args:
        started: From then on the broker has taken nothing.
        missed_after_s: A broker that has taken nothing for so long counts as away.
        is_store_usable: Asked each time.

    Attributes:
        is_ready: Whether every link has been proved, or its blindness told.
    """

    def __init__(
        self,
        core: Core,
        outbox: Outbox,
        broker: Broker,
        heartbeat: Heartbeat | None,
        second_way: SecondWay,
        started: Now,
        missed_after_s: float,
        is_store_usable: Callable[[], bool],
    ) -> None:
        self._core = core
        self._outbox = outbox
        self._broker = broker
        self._heartbeat = heartbeat
        self._second_way = second_way
        self._missed_after_s = missed_after_s
        self._is_store_usable = is_store_usable
        self._log = logs.logger()
        self._notifier = Notifier()
        self._ticked_at = started.mono
        self._away_since: float | None = started.mono
        self._undeclared: list[LinkId] = []
        self._known = 0, 0.0
        self._said: tuple[list[str], int] | None = None
        self._said_at = 0.0
        self.is_ready = False

    def ticked(self, here: Now) -> None:
        """A tick has gone all the way through the core."""
        self._ticked_at = here.mono
        self._feed_watchdog(here)
        away_s = self._broker_away_s(here)
        self._second_way.broker_away(away_s)
        if not self.is_ready and is_settled(self._core):
            self.is_ready = True
            settle_memory(len(self._core.accounts))
            self._log.info("ready", pools=[f"{a.name}/{p}" for a in self._core.accounts.values() for p in a.pools])
        self._tell_progress(here)
        blind = blindness(self._core, here)
        self._tell_status([*(["broker away"] if away_s else []), *blind], here)
        if self.is_ready:
            self._notifier.ready()
            if self._heartbeat is not None:
                self._heartbeat.ticked([*blind, *(["broker away"] if self._is_missed(away_s) else [])])

    def broker_took(self) -> None:
        """The broker has taken something; a connection alone is no proof of it."""
        self._away_since = None

    def stopping(self) -> None:
        self._notifier.stopping()

    def state(self, here: Now) -> DaemonState:
        away_s = self._broker_away_s(here)
        oldest_ms = self._outbox.oldest_event_ms
        return DaemonState(
            tick_age_s=here.mono - self._ticked_at,
            is_settled=self.is_ready,
            broker_away_s=away_s,
            is_broker_missed=self._is_missed(away_s),
            is_broker_connected=self._broker.connected,
            waiting_messages=self._outbox.waiting,
            waiting_events=self._outbox.waiting_events,
            oldest_event_age_s=0.0 if oldest_ms is None else max(0.0, (here.wall_ms - oldest_ms) / 1000),
            is_store_usable=self._is_store_usable(),
            is_heartbeat_heard=None if self._heartbeat is None else self._heartbeat.is_heard,
        )

    def _tell_status(self, troubles: list[str], here: Now) -> None:
        said = troubles, len(self._core.incidents.open)
        lasts_s = min(_FIGURES_S, _FIGURES_S_PER_ACCOUNT * len(self._core.accounts))
        if said != self._said or here.mono - self._said_at >= lasts_s:
            self._said, self._said_at = said, here.mono
            self._notifier.status(status(self._core, troubles))

    def _tell_progress(self, here: Now) -> None:
        """How many accounts are known by now, while a start takes its time."""
        accounts = self._core.accounts.values()
        known = sum(account.known for account in accounts)
        if known != self._known[0] and (known == len(accounts) or here.mono - self._known[1] >= _PROGRESS_S):
            self._known = known, here.mono
            if len(accounts) > 1:
                self._log.info("accounts known", known=known, of=len(accounts))

    def _feed_watchdog(self, here: Now) -> None:
        """Only a daemon that sees, or has said where it does not, is alive."""
        lost = undeclared(self._core, here)
        if not lost:
            self._notifier.alive()
        if lost and lost != self._undeclared:
            self._log.error("watchdog not fed: lost links have not been told of", links=[link.name for link in lost])
        self._undeclared = lost

    def _broker_away_s(self, here: Now) -> float:
        """For how long the broker has taken nothing (seconds)."""
        if self._away_since is None and not self._broker.connected:
            self._away_since = here.mono
        return 0.0 if self._away_since is None else here.mono - self._away_since

    def _is_missed(self, broker_away_s: float) -> bool:
        """Whether the broker has been away for long enough to count."""
        return broker_away_s >= self._missed_after_s
