"""The daemon: one TaskGroup of named tasks around the core.

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
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import structs

from monitor import __version__, steering
from monitor.config import AccountConfig, Config, after
from monitor.config_values import Secret
from monitor.core import Core
from monitor.discovery import Discovery
from monitor.effects import Answered, Effect, Resync, Save, Story, Watch
from monitor.encoder import Encoder
from monitor.errors import CommandError, StoreError
from monitor.events import Now, StoreState, Tick
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
from monitor.shell.tasks import ended
from monitor.shell.vitals import Pulse
from monitor.tally import Tally

if TYPE_CHECKING:
    from monitor.shell.http import HttpServer
    from monitor.shell.page import Page

FIRST_S = 0.005
"""Of many alerts at once those that are decided go out before more is looked at, for so long at most (seconds)."""
_DANGER_TICKS = 5
"""Of each account it is asked once in so many ticks whether it is endangered, which takes exact figures."""
_NAMED = 20
"""So many of very many topics a log line names."""
_LOUD = {Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.ERROR, Severity.LIQUIDATION: logging.ERROR}


class Daemon:
    """The whole monitor, running.

    Args:
        found: The secrets that the config names.
        on_sent: Called with each message that the broker has taken (the demo listens here).
        tap: Told of everything that the links hear.
    """

    def __init__(
        self,
        config: Config,
        found: dict[Secret, str],
        on_sent: Callable[[Message], None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._config = config
        self._found = found
        self._on_sent = on_sent
        self._tap = tap
        self._log = logs.logger()
        self._inbox = Inbox()
        self._outbox = Outbox()
        store = config.store
        self._store = Store(
            settings.store_path(config),
            store.keep_days,
            self._guarded(self._kept),
            self._guarded(self._store_is),
            self._guarded(self._found_late),
        )
        self._one_step = asyncio.Lock()
        """A step is carried out before the next begins, whoever takes it."""
        self._callback_failed = asyncio.Event()
        self._failure: Exception | None = None
        self._tally = Tally()
        self._ticks = 0
        self.pulse = Pulse(self._tally.loop_delays.observe)
        self._discovery: Discovery | None = None
        self._recorder: FlightRecorder | None = None
        self._heartbeat: Heartbeat | None = None
        self._http: HttpServer | None = None
        self._hub: Hub | None = None
        self._page: Page | None = None
        self._store_works = False
        self._begun = False
        self._reloads: asyncio.Queue[tuple[Config, dict[Secret, str]]] = asyncio.Queue()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until told to stop. An unexpected exception ends everything: systemd starts us anew."""
        started = now()
        found = await self._open_store(stop)
        if found is None:
            return
        self._begin(found, started)
        try:
            async with asyncio.TaskGroup() as tasks:
                broker = tasks.create_task(self._broker.run(), name="broker")
                parts: list[tuple[str, Part]] = [("pump", self._pump), ("tick", self._tick)]
                parts += [("callbacks", self._callbacks), ("webhook", self._second_way.run)]
                parts += [("reloads", self._take_reloads), ("ghosts", self._ghosts.run)]
                parts += [("heartbeat", self._heartbeat.run)] if self._heartbeat is not None else []
                parts += [("http", self._http.run)] if self._http is not None else []
                others = [tasks.create_task(self._part(part), name=name) for name, part in parts]
                self._feeds.run(lambda part, name: tasks.create_task(self._part(part), name=name))
                await stop.wait()
                self._life.stopping()
                self._feeds.stop()
                await ended(*others)
                await self._feeds.close()
                self._broker.stop()
                await asyncio.wait([broker], timeout=8)
                await ended(broker)
        finally:
            await self._feeds.close()
            if self._recorder is not None:
                await self._recorder.close()
            await self._store.close()
            self._log.info("stopped", unsent_events=self._outbox.waiting_events)

    def take(self, config: Config, found: dict[Secret, str]) -> None:
        """Judge by the rules and watch the accounts of this config from now on; of all else the old one is in force.

        Args:
            found: The secrets that it names.
        """
        config = after(self._config, config)
        if not self._begun:  # they are taken as if we had begun with them, once a slow disk has answered
            self._config = structs.replace(self._config, rules=config.rules, accounts=config.accounts)
            self._found = {**self._found, **found}  # what is read once may have another name in this one
            return
        self._take_rules(config.rules)
        self._reloads.put_nowait((config, found))

    def _take_rules(self, rules: RuleBook) -> None:
        self._config = structs.replace(self._config, rules=rules)
        self._core.take_rules(rules)
        self._encoder.take_rules(rules)
        if self._discovery is not None:
            self._outbox.put(self._discovery.take_rules(rules))
            self._broker.wake()
        if self._recorder is not None:
            self._recorder.take_rules(rules)

    async def _take_reloads(self) -> None:
        while True:
            config, found = await self._reloads.get()
            await self._take_accounts(config.accounts, found)

    async def _take_accounts(self, accounts: tuple[AccountConfig, ...], found: dict[Secret, str]) -> None:
        """Begin what is new, end what is gone, and begin anew what asks elsewhere or with another key; leave the others
        alone."""
        changes = self._feeds.changes(accounts, found)
        before = dict(self._core.accounts)
        unseen = await self._feeds.remove([*changes.removed, *changes.changed])
        async with self._one_step:
            self._config = structs.replace(self._config, accounts=accounts)
            setups = self._config.setup.accounts
            if self._recorder is not None:
                self._recorder.take_accounts(setups, found.values())
            if self._discovery is not None:
                self._outbox.put(self._discovery.take_accounts(setups))
            self._publish([self._info()])
            await self._carry_out(self._core.take_accounts(setups, now()))
        self._broker.wake()
        for account in accounts:
            name = account.name
            if name in changes.added or name in changes.changed:
                is_same = self._core.accounts[name] is before.get(name)  # no other than it was, asked another way
                self._feeds.add(account, found, unseen[name] if is_same else None)
        await self._feeds.settle_markets()
        if changes:
            self._log.info("accounts changed", added=changes.added, removed=changes.removed, changed=changes.changed)

    # ---- parts ----

    async def _open_store(self, stop: asyncio.Event) -> Found | None:
        """What an earlier run has left; None: we were told to stop while a slow disk had not answered yet."""
        opening = asyncio.create_task(self._store.open(), name="store")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        is_open = opening.done()
        await ended(opening, stopping)
        if is_open:
            return opening.result()
        await self._store.close()
        self._log.info("stopped before it began")
        return None

    def _begin(self, found: Found, started: Now) -> None:
        """Make all parts, and take up what an earlier run has left."""
        identity = Identity(
            prefix=self._config.mqtt.prefix,
            instance=self._config.instance or socket.gethostname(),
            version=__version__,
            boot_id=secrets.token_hex(8),
            started_ms=started.wall_ms,
            discovery_prefix=self._config.mqtt.discovery_prefix,
        )
        self._topics = identity.topics
        self._encoder = Encoder(identity, self._config.rules, notices=not self._config.privacy.amounts)
        if self._config.mqtt.discovery:
            setup = self._config.setup
            self._discovery = Discovery(identity, setup.accounts, setup.rules, amounts=self._config.privacy.amounts)
            self._outbox.put(self._discovery.standing())
        self._core = Core(self._config.setup, started, found.kept)
        self._make_recorder(identity)
        secret = self._config.mqtt.password
        password = None if secret is None else self._found[secret]
        self._broker = Broker(
            self._config.mqtt,
            password,
            self._outbox,
            online=self._encoder.status(True),
            offline=self._encoder.status(False),
            on_sent=self._sent,
            on_command=self._command if self._config.cmd.enabled else None,
        )
        self._ghosts = Ghosts(self._config.mqtt, password, lambda: self._core.accounts)
        self._make_proof_of_life(identity, started)
        self._make_http(identity)
        self._publish([self._info()])
        self._take_over(found)
        self._make_feeds()
        self._begun = True
        self._log.info("started", version=__version__, accounts=[a.name for a in self._config.accounts])

    def _make_proof_of_life(self, identity: Identity, started: Now) -> None:
        config = self._config.heartbeat
        url = address(config.url, self._found)
        webhook = address(config.webhook, self._found)
        self._heartbeat = None if url is None else Heartbeat(url, config.every_s)
        self._second_way = SecondWay(webhook, config, identity, self._store.keep, amounts=self._config.privacy.amounts)
        self._life = ProofOfLife(
            self._core,
            self._outbox,
            self._broker,
            self._heartbeat,
            self._second_way,
            started,
            config.webhook_after_s,
            lambda: self._store_works,
        )

    def _make_http(self, identity: Identity) -> None:
        config = self._config.http
        if config.listen is not None:
            from monitor.shell.endpoints import Endpoints  # these weigh something, and few ask for them
            from monitor.shell.http import HttpServer
            from monitor.shell.page import Page

            self._hub = Hub()
            token = None if config.token is None else self._found[config.token]
            endpoints = Endpoints(self._core, self._tally, self._life.state, lambda: self._feeds.dropped)
            self._page = Page(self._hub, self._core, self._life.state, identity.boot_id)
            self._http = HttpServer(config, token, [*endpoints.routes(), *self._page.routes()])

    def _make_recorder(self, identity: Identity) -> None:
        """Keep what the links say, for whoever wants to know later why an incident became critical."""
        config = self._config
        if config.recorder.enabled:
            folder, secrets = settings.sessions_folder(config), Secrets(self._found.values())
            self._recorder = FlightRecorder(config.recorder, folder, identity.instance, config.setup, secrets)
            self._tap = self._recorder if self._tap is None else Taps(self._tap, self._recorder)

    def _make_feeds(self) -> None:
        self._feeds = Feeds(self._config, self._found, self._inbox, self._tap, self._core.unseen())

    # ---- tasks ----

    async def _part(self, part: Part) -> None:
        """Run a part of the daemon. Where it fails, which is a bug, the others end with it."""
        try:
            await part()
        except Exception:
            self._feeds.stop()
            self._broker.stop()
            raise

    def _guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """What the store calls back is as much a part of us: where it fails, an event may never be released."""

        def call(*args: Any) -> None:
            try:
                function(*args)
            except Exception as exc:
                self._failure = self._failure or exc
                self._callback_failed.set()

        return call

    async def _callbacks(self) -> None:
        """Fail with whatever fails in a callback."""
        await self._callback_failed.wait()
        assert self._failure is not None
        raise self._failure

    async def _tick(self) -> None:
        while True:
            self._inbox.put([self.pulse.take(), Tick()])
            await asyncio.sleep(self._config.links.tick_s)

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
        events = self._outbox.compact(tuple(message for made in told for message in made if not message.is_state))
        saves = tuple(effect for effect in effects if isinstance(effect, Save))
        self._outbox.put(events)
        self._tally.caused((event.event_id for event in events if event.is_event), self._inbox.arrived)
        if events or saves:
            self._store.keep(Batch(events, saves))
        try:
            if self._core.is_behind:
                await self._broker.let_go(FIRST_S)
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
        self._outbox.put(message for message in messages if message.is_state)
        if self._hub is not None:
            self._hub.put(messages)
        if self._discovery is not None:
            self._outbox.put(message for effect in effects for message in self._discovery.of(effect))
        if self._recorder is not None:
            self._recorder.happened(effects)
        if self._page is not None:
            self._page.happened(effects)
        for effect in effects:
            if isinstance(effect, Watch | Resync):
                self._feeds.heed(effect)
            elif isinstance(effect, Answered):
                self._log.log(logging.INFO if effect.is_done else logging.WARNING, "command", answer=effect.text)
            elif isinstance(effect, Story) and effect.change.kind != "retained" and effect.change.is_told:
                self._log_told(effect)
        if messages:
            self._broker.wake()

    def _info(self) -> Message:
        return self._encoder.info((account.name, account.venue) for account in self._config.accounts)

    def _publish(self, messages: Sequence[Message]) -> None:
        """On its way to the broker, and to whoever reads along here."""
        self._outbox.put(messages)
        if self._hub is not None:
            self._hub.put(messages)

    def _kept(self, batch: Batch, error: StoreError | None) -> None:
        """A batch is on disk, or cannot be for now: either way its events may go out."""
        self._outbox.release(batch.events)
        self._second_way.put(batch.events)
        self._broker.push()
        self._inbox.nudge()

    def _store_is(self, reason: str | None) -> None:
        """The store cannot be used, or can again: that is told like all else that goes wrong."""
        self._store_works = reason is None
        self._inbox.put([StoreState(reason)])

    def _found_late(self, found: Found) -> None:
        """A store that could not be opened before: what an earlier run has left there is ours after all."""
        if not self._begun:  # given up on a moment ago, and we are about to begin without it
            asyncio.get_running_loop().call_soon(self._guarded(self._found_late), found)
            return
        self._log.warning(
            "store opened late", unsent_events=len(found.unsent), kept={k: len(v) for k, v in found.rows.items()}
        )
        self._core.take_over(found.kept, now())
        self._feeds.recall(self._core.unseen())
        self._take_over(found)
        self._broker.wake()

    def _take_over(self, found: Found) -> None:
        """What an earlier run could not send goes now, and what it has kept is known."""
        self._publish(found.unsent)
        self._outbox.release(found.unsent)
        self._second_way.take_over(found)
        if self._recorder is not None:
            self._recorder.take_over(found)

    def _sent(self, message: Message) -> None:
        self._life.broker_took()
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

    # ---- once a tick ----

    def _ticked(self) -> None:
        """The tick has gone all the way through the core."""
        here = now()
        self._life.ticked(here)
        measured = (market.clock_offset_ms(here) for market in self._core.markets.values())
        self._store.exchange_ahead_ms = min((ms for ms in measured if ms is not None), default=None)
        for name, feed in islice(self._feeds.accounts.items(), self._ticks % _DANGER_TICKS, None, _DANGER_TICKS):
            account = self._core.accounts[name]
            rule = account.stale_rule
            feed.endangered = any(account.is_endangered(pool_id, rule) for pool_id in account.pools)
        self._ticks += 1
        if self._life.is_ready and self._ghosts.topics:
            self._sweep()

    def _sweep(self) -> None:
        """Empty the retained topics at the broker that nothing stands for any more."""
        unknown = {a.name for a in self._core.accounts.values() if not a.known}
        alive = {self._topics.incident(incident.key) for incident in self._core.incidents}
        alive |= set(self._outbox.states)
        ghosts = [t for t in sorted(self._ghosts.topics - alive) if self._topics.account_of(t) not in unknown]
        self._outbox.put(emptied(topic) for topic in ghosts)  # who reads along here has never seen them
        self._ghosts.topics = {t for t in self._ghosts.topics if self._topics.account_of(t) in unknown}
        if ghosts:
            self._log.info("ghost topics removed", count=len(ghosts), topics=ghosts[:_NAMED])
            self._broker.wake()
