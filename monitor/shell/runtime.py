"""The daemon at work: all its parts, made once it is known what an earlier run has left, and what each step leads to.

    feeds ──► inbox ──► pump: core.step ──► store ──► outbox ──► broker
                          ▲
                        ticks

The pump goes on as soon as the inbox has something: neither a slow broker nor a slow disk delays the next tick.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from monitor import __version__, steering
from monitor.config import AccountConfig, Config, after
from monitor.config_values import Secret
from monitor.core import Core
from monitor.discovery import Discovery
from monitor.effects import Answered, Effect, Resync, Save, Story, Watch
from monitor.encoder import Encoder
from monitor.errors import CommandError
from monitor.events import Now, Tick
from monitor.message import Identity, Message, emptied
from monitor.outbox import Outbox
from monitor.recording import Secrets
from monitor.rules import RuleBook, Severity
from monitor.shell import logs, settings
from monitor.shell.broker import Broker
from monitor.shell.clock import now
from monitor.shell.feeds import Feeds, Part
from monitor.shell.ghosts import Ghosts
from monitor.shell.heartbeat import Heartbeat
from monitor.shell.hub import Hub
from monitor.shell.inbox import Inbox
from monitor.shell.outward import address
from monitor.shell.owed import Batch, Found
from monitor.shell.proof_of_life import ProofOfLife
from monitor.shell.recorder import FlightRecorder
from monitor.shell.second_way import SecondWay
from monitor.shell.store import Store
from monitor.shell.tap import Tap, Taps
from monitor.shell.vitals import Pulse
from monitor.tally import Tally

if TYPE_CHECKING:
    from monitor.shell.http import HttpServer
    from monitor.shell.page import Page

FIRST_S = 0.005
"""Of many alerts at once those that are decided go out before more is looked at, for so long at most (seconds)."""
_DANGER_TICKS = 5
"""Of each account it is asked once in so many ticks whether it is endangered, which takes exact figures."""
_DANGER_AT_ONCE = 20
"""Of so many at most, where the loop is too busy to come to one after the other."""
_READ_S = 0.2
"""A tick that is late waits for as long again, or this, until what came meanwhile is read: perhaps we stood still, and
time in which nobody listened proves nothing about what did not come."""
_NAMED = 20
"""So many of very many topics a log line names."""
_LOUD = {Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.ERROR, Severity.LIQUIDATION: logging.ERROR}


class Runtime:
    """Everything that runs.

    Args:
        found: The secrets that the config names.
        left: What an earlier run has left.
        started: When the daemon was.
        is_store_usable: Asked each time.
        on_sent: Called with each message that the broker has taken.
        tap: Told of everything that the links hear.
    """

    def __init__(
        self,
        config: Config,
        found: dict[Secret, str],
        left: Found,
        started: Now,
        inbox: Inbox,
        store: Store,
        is_store_usable: Callable[[], bool],
        pulse: Pulse,
        tally: Tally,
        on_sent: Callable[[Message], None] | None,
        tap: Tap | None,
    ) -> None:
        identity = Identity(
            prefix=config.mqtt.prefix,
            instance=config.instance or socket.gethostname(),
            version=__version__,
            boot_id=secrets.token_hex(8),
            started_ms=started.wall_ms,
            discovery_prefix=config.mqtt.discovery_prefix,
        )
        setup, amounts = config.setup, config.privacy.amounts
        self.outbox = Outbox()
        self._config = config
        self._inbox = inbox
        self._store = store
        self._pulse = pulse
        self._tally = tally
        self._on_sent = on_sent
        self._log = logs.logger()
        self._one_step = asyncio.Lock()
        """A step is carried out before the next begins, whoever takes it."""
        self._reloads: asyncio.Queue[tuple[Config, dict[Secret, str]]] = asyncio.Queue()
        self._topics = identity.topics
        self._encoder = Encoder(identity, config.rules, notices=not amounts)
        self._discovery: Discovery | None = None
        if config.mqtt.discovery:
            self._discovery = Discovery(identity, setup.accounts, setup.rules, amounts=amounts)
            self.outbox.put(self._discovery.standing())
        self._core = Core(setup, started, left.kept)
        self._recorder: FlightRecorder | None = None
        if config.recorder.enabled:  # for whoever wants to know later why an incident became critical
            folder = settings.sessions_folder(config)
            own = Secrets(found.values())
            self._recorder = FlightRecorder(config.recorder, folder, identity.instance, setup, own)
            tap = self._recorder if tap is None else Taps(tap, self._recorder)
        password = None if config.mqtt.password is None else found[config.mqtt.password]
        self.broker = Broker(
            config.mqtt,
            password,
            self.outbox,
            online=self._encoder.status(True),
            offline=self._encoder.status(False),
            on_sent=self._sent,
            on_command=self._command if config.cmd.enabled else None,
        )
        self._ghosts = Ghosts(config.mqtt, password, lambda: self._core.accounts)
        beat = config.heartbeat
        url = address(beat.url, found)
        self._heartbeat = None if url is None else Heartbeat(url, beat.every_s)
        self._second_way = SecondWay(address(beat.webhook, found), beat, identity, store.keep, amounts=amounts)
        self.life = ProofOfLife(
            self._core,
            self.outbox,
            self.broker,
            self._heartbeat,
            self._second_way,
            started,
            beat.webhook_after_s,
            is_store_usable,
        )
        self._http: HttpServer | None = None
        self._hub: Hub | None = None
        self._page: Page | None = None
        if config.http.listen is not None:
            from monitor.shell.endpoints import Endpoints  # these weigh something, and few ask for them
            from monitor.shell.http import HttpServer
            from monitor.shell.page import Page

            self._hub = Hub()
            token = None if config.http.token is None else found[config.http.token]
            endpoints = Endpoints(self._core, tally, self.life.state, lambda: self.feeds.dropped)
            self._page = Page(self._hub, self._core, self.life.state, identity.boot_id)
            self._http = HttpServer(config.http, token, [*endpoints.routes(), *self._page.routes()])
        self._publish([self._info()])
        self._take_over(left)
        self.feeds = Feeds(config, found, inbox, tap, self._core.unseen())
        self._log.info("started", version=__version__, accounts=[a.name for a in config.accounts])

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """What runs beside the feeds and the broker, by name."""
        parts: list[tuple[str, Part]] = [("pump", self._pump), ("tick", self._tick), ("danger", self._look_for_danger)]
        parts += [("webhook", self._second_way.run), ("reloads", self._take_reloads), ("ghosts", self._ghosts.run)]
        parts += [("heartbeat", self._heartbeat.run)] if self._heartbeat is not None else []
        parts += [("http", self._http.run)] if self._http is not None else []
        return parts

    async def close(self) -> None:
        """End the feeds, and save what was to be saved of what they said."""
        await self.feeds.close()
        if self._recorder is not None:
            await self._recorder.close()

    # ---- another config ----

    def take(self, config: Config, found: dict[Secret, str]) -> None:
        """Judge by the rules and watch the accounts of this config from now on.

        Args:
            found: The secrets that it names.
        """
        config = after(self._config, config)
        self._take_rules(config.rules)
        self._reloads.put_nowait((config, found))

    def _take_rules(self, rules: RuleBook) -> None:
        self._config = structs.replace(self._config, rules=rules)
        self._core.take_rules(rules)
        self._encoder.take_rules(rules)
        if self._discovery is not None:
            self.outbox.put(self._discovery.take_rules(rules))
            self.broker.wake()
        if self._recorder is not None:
            self._recorder.take_rules(rules)

    async def _take_reloads(self) -> None:
        while True:
            config, found = await self._reloads.get()
            await self._take_accounts(config.accounts, found)

    async def _take_accounts(self, accounts: tuple[AccountConfig, ...], found: dict[Secret, str]) -> None:
        """Begin what is new, end what is gone, and begin anew what asks elsewhere or with another key; leave the others
        alone."""
        changes = self.feeds.changes(accounts, found)
        before = dict(self._core.accounts)
        unseen = await self.feeds.remove([*changes.removed, *changes.changed])
        async with self._one_step:
            self._config = structs.replace(self._config, accounts=accounts)
            setups = self._config.setup.accounts
            if self._recorder is not None:
                self._recorder.take_accounts(setups, found.values())
            if self._discovery is not None:
                self.outbox.put(self._discovery.take_accounts(setups))
            self._publish([self._info()])
            await self._carry_out(self._core.take_accounts(setups, now()))
        self.broker.wake()
        for account in accounts:
            name = account.name
            if name in changes.added or name in changes.changed:
                is_same = self._core.accounts[name] is before.get(name)  # no other than it was, asked another way
                self.feeds.add(account, found, unseen[name] if is_same else None)
        await self.feeds.settle_markets()
        if changes:
            self._log.info("accounts changed", added=changes.added, removed=changes.removed, changed=changes.changed)

    # ---- step by step ----

    async def _tick(self) -> None:
        every_s = self._config.links.tick_s
        while True:
            self._inbox.put([self._pulse.take(), Tick()])
            due = time.monotonic() + every_s
            await asyncio.sleep(every_s)
            await asyncio.sleep(min(time.monotonic() - due, _READ_S))

    async def _pump(self) -> None:
        ticking = False
        while True:
            events = await self._inbox.take(at_once=self._core.is_behind)
            async with self._one_step:
                effects = self._core.step(events, now())
                if self._inbox.marks:
                    self._tally.marks += self._inbox.marks
                    self._tally.decisions.observe(time.monotonic() - self._inbox.arrived)
                await self._carry_out(effects)
            ticking = ticking or any(isinstance(event, Tick) for event in events)
            if ticking and not self._core.is_ticking:
                ticking = False
                self._ticked()

    async def _carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what follows from a step: what is told goes to the disk, and all else is done once it is there.

        The threads of one process run in turns: whatever we did first, the store's thread would wait for, and so would
        whoever is told. Where there is more to be done, we wait no longer, however long the disk takes.
        """
        told = [self._encoder.of(effect) if isinstance(effect, Story) else [] for effect in effects]
        events = self.outbox.compact(tuple(message for made in told for message in made if not message.is_state))
        saves = tuple(effect for effect in effects if isinstance(effect, Save))
        self.outbox.put(events)
        self._tally.caused((event.event_id for event in events if event.is_event), self._inbox.arrived)
        if events or saves:
            self._store.keep(Batch(events, saves))
        try:
            if self._core.is_behind:
                await self.broker.let_go(FIRST_S)
            elif events:
                await self._inbox.nudged()  # by `_kept`
        finally:  # at the end of the daemon too
            self._do_the_rest(effects, told)

    def _do_the_rest(self, effects: Sequence[Effect], told: Sequence[list[Message]]) -> None:
        """Do all that follows from a step but for its events, which are on their way.

        Args:
            told: What has been made of each effect that is told.
        """
        made = (made or self._encoder.of(effect) for effect, made in zip(effects, told, strict=True))
        messages = [message for each in made for message in each]
        self.outbox.put(message for message in messages if message.is_state)
        if self._hub is not None:
            self._hub.put(messages)
        if self._discovery is not None:
            self.outbox.put(message for effect in effects for message in self._discovery.of(effect))
        if self._recorder is not None:
            self._recorder.happened(effects)
        if self._page is not None:
            self._page.happened(effects)
        for effect in effects:
            if isinstance(effect, Watch | Resync):
                self.feeds.heed(effect)
            elif isinstance(effect, Answered):
                self._log.log(logging.INFO if effect.is_done else logging.WARNING, "command", answer=effect.text)
            elif isinstance(effect, Story) and effect.change.kind != "retained" and effect.change.is_told:
                self._log_told(effect)
        if messages:
            self.broker.wake()

    def _log_told(self, story: Story) -> None:
        """One log line per thing told."""
        incident = story.change.incident
        self._tally.events[story.change.severity, incident.rule] += 1
        self._log.log(
            _LOUD.get(story.change.severity, logging.INFO),
            f"incident {story.change.kind}",
            rule=incident.rule,
            account=incident.account,
            subject=incident.subject,
            severity=story.change.severity.word,
            event_id=incident.event_id,
            resolution=story.change.resolution,
            text=story.text,
        )

    def _info(self) -> Message:
        return self._encoder.info((account.name, account.venue) for account in self._config.accounts)

    def _publish(self, messages: Sequence[Message]) -> None:
        """On its way to the broker, and to whoever reads along here."""
        self.outbox.put(messages)
        if self._hub is not None:
            self._hub.put(messages)

    # ---- the store ----

    def kept(self, batch: Batch) -> None:
        """A batch is on disk, or cannot be for now: either way its events may go out."""
        self.outbox.release(batch.events)
        self._second_way.put(batch.events)
        self.broker.push()
        self._inbox.nudge()

    def found_late(self, found: Found) -> None:
        """A store that could not be opened before: what an earlier run has left there is ours after all."""
        self._log.warning(
            "store opened late", unsent_events=len(found.unsent), kept={k: len(v) for k, v in found.rows.items()}
        )
        self._core.take_over(found.kept, now())
        self.feeds.recall(self._core.unseen())
        self._take_over(found)
        self.broker.wake()

    def _take_over(self, found: Found) -> None:
        """What an earlier run could not send goes now, and what it has kept is known."""
        self._publish(found.unsent)
        self.outbox.release(found.unsent)
        self._second_way.take_over(found)
        if self._recorder is not None:
            self._recorder.take_over(found)

    # ---- the broker ----

    def _sent(self, message: Message) -> None:
        self.life.broker_took()
        if message.topic == self._topics.status:
            self._ghosts.connected()
        if message.event_id is not None:
            here = now()
            self._tally.acknowledged(message.event_id, here.mono)
            self._store.sent(message.event_id, here.wall_ms)
            self._second_way.sent(message.event_id)
        if self._on_sent is not None:
            self._on_sent(message)

    def _command(self, name: str, payload: bytes) -> None:
        """Somebody wants something of us; whatever it is, it is in the log."""
        try:
            self._inbox.put([steering.parse(name, payload, now().wall_ms)])
        except CommandError as exc:
            self._log.warning("command refused", error=str(exc))

    # ---- once a tick ----

    def _ticked(self) -> None:
        """The tick has gone all the way through the core."""
        here = now()
        self.life.ticked(here)
        measured = (market.clock_offset_ms(here) for market in self._core.markets.values())
        self._store.exchange_ahead_ms = min((ms for ms in measured if ms is not None), default=None)
        if self.life.is_ready and self._ghosts.topics:
            self._sweep()

    def _sweep(self) -> None:
        """Empty the retained topics at the broker that nothing stands for any more."""
        unknown = {a.name for a in self._core.accounts.values() if not a.known}
        alive = {self._topics.incident(incident.key) for incident in self._core.incidents}
        alive |= set(self.outbox.states)
        ghosts = [t for t in sorted(self._ghosts.topics - alive) if self._topics.account_of(t) not in unknown]
        self.outbox.put(emptied(topic) for topic in ghosts)  # who reads along here has never seen them
        self._ghosts.topics = {t for t in self._ghosts.topics if self._topics.account_of(t) in unknown}
        if ghosts:
            self._log.info("ghost topics removed", count=len(ghosts), topics=ghosts[:_NAMED])
            self.broker.wake()

    # ---- all the time ----

    async def _look_for_danger(self) -> None:
        """Ask of one account after the other whether it is endangered; of thousands at once it would hold up alerts."""
        every_s = _DANGER_TICKS * self._config.links.tick_s
        while True:
            names = list(self.feeds.accounts)
            due = time.monotonic()
            for n, name in enumerate(names):
                if name in self.feeds.accounts:
                    account = self._core.accounts[name]
                    rule = account.stale_rule
                    endangered = any(account.is_endangered(pool_id, rule) for pool_id in account.pools)
                    self.feeds.accounts[name].endangered = endangered
                due += every_s / len(names)
                ahead_s = due - time.monotonic()
                if ahead_s > 0 or n % _DANGER_AT_ONCE == 0:
                    await asyncio.sleep(max(0.0, ahead_s))
            if not names:
                await asyncio.sleep(every_s)
