"""The daemon: one TaskGroup of named tasks around the core.

    feeds ──► inbox ──► pump: core.step ──► store ──► outbox ──► broker
                          ▲
                        ticks

The pump waits for nothing but the inbox: neither a slow broker nor a slow disk delays the next tick.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from monitor import __version__
from monitor.config import AccountConfig, Config, Secret
from monitor.core import Core, Kept
from monitor.effects import Effect, Resync, Save, Story, Watch
from monitor.errors import StoreError
from monitor.events import LinkState, Tick
from monitor.messages import Identity, Message, Messages
from monitor.outbox import Outbox
from monitor.rules import RuleBook, Severity
from monitor.shell import logs, settings
from monitor.shell.broker import Broker
from monitor.shell.clock import now
from monitor.shell.feed import AccountFeed, MarketFeed
from monitor.shell.inbox import Inbox
from monitor.shell.rest import Budget, Rest
from monitor.shell.store import Batch, Store
from monitor.shell.systemd import Notifier

_DISK_PATIENCE_S = 2.0
_LOUD = {Severity.WARNING: "warning", Severity.CRITICAL: "error", Severity.LIQUIDATION: "error"}


class Daemon:
    """The whole monitor, running.

    Args:
        found: The secrets that the config names.
        on_sent: Called with each message that the broker has taken (the demo listens here).
    """

    def __init__(
        self, config: Config, found: dict[Secret, str], on_sent: Callable[[Message], None] | None = None
    ) -> None:
        self._config = config
        self._found = found
        self._on_sent = on_sent
        self._log = logs.logger()
        self._notifier = Notifier()
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._store: Store | None = None
        self._ready = False
        self._swept = False
        self._rests: list[Rest] = []
        self._markets: dict[str, MarketFeed] = {}
        self._accounts: dict[str, AccountFeed] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until told to stop. An unexpected exception ends everything: systemd starts us anew."""
        started = now()
        kept, unsent = await self._open_store(started.wall_ms)
        identity = Identity(
            prefix=self._config.mqtt.prefix,
            instance=self._config.instance or socket.gethostname(),
            version=__version__,
            boot_id=secrets.token_hex(8),
            started_ms=started.wall_ms,
        )
        self._messages = Messages(identity, self._config.rules)
        self._core = Core(self._config.setup, started, kept)
        password = self._config.mqtt.password
        self._broker = Broker(
            self._config.mqtt,
            None if password is None else self._found[password],
            self._outbox,
            online=self._messages.status(True),
            offline=self._messages.status(False),
            on_sent=self._sent,
        )
        self._outbox.put([self._messages.info((a.name, a.venue) for a in self._config.accounts), *unsent])
        self._outbox.release(unsent)
        self._make_feeds()
        self._log.info("started", version=__version__, accounts=[a.name for a in self._config.accounts])
        try:
            async with asyncio.TaskGroup() as tasks:
                broker = tasks.create_task(self._broker.run(), name="broker")
                parts = [("pump", self._pump()), ("tick", self._tick())]
                parts += [(f"feed[{name}]", feed.run()) for name, feed in {**self._markets, **self._accounts}.items()]
                others = [tasks.create_task(self._part(part), name=name) for name, part in parts]
                await stop.wait()
                self._notifier.stopping()
                self._stop_feeds()
                await _ended(others)
                self._broker.stop()
                await asyncio.wait([broker], timeout=8)
                await _ended([broker])
        finally:
            for rest in self._rests:
                await rest.close()
            if self._store is not None:
                await self._store.close()
            self._log.info("stopped", unsent_events=self._outbox.waiting_events)

    def take_rules(self, rules: RuleBook) -> None:
        """Judge by these rules from now on."""
        self._core.take_rules(rules)
        self._messages.take_rules(rules)

    # ---- parts ----

    async def _open_store(self, now_ms: int) -> tuple[Kept, list[Message]]:
        store = Store(settings.store_path(self._config), self._config.store.keep_days, self._kept)
        try:
            opened = await store.open(now_ms)
        except StoreError as exc:
            self._log.error("store unusable, alerts go out from memory", error=str(exc))
            return Kept(), []
        self._store = store
        return opened

    def _make_feeds(self) -> None:
        links = self._config.links
        budgets: dict[str, Budget] = {}
        for account in self._config.accounts:
            budget = budgets.setdefault(account.hosts.rest_url, Budget(links.weight_per_minute))
            if account.market not in self._markets:
                rest = self._rest(account, budget)
                self._markets[account.market] = MarketFeed(account.market, account, rest, self._inbox, links)
            rest = self._rest(account, budget, self._found[account.api_key], self._found[account.secret])
            opened = [i.opened_ms for i in self._core.incidents if i.account == account.name]
            self._accounts[account.name] = AccountFeed(account, rest, self._inbox, links, min(opened, default=None))

    def _rest(self, account: AccountConfig, budget: Budget, key: str = "", secret: str = "") -> Rest:
        rest = Rest(account.hosts, budget, self._config.links.rest_timeout_s, key, secret)
        self._rests.append(rest)
        return rest

    # ---- tasks ----

    async def _part(self, part: Coroutine[Any, Any, None]) -> None:
        """Run a part of the daemon. Where it fails, which is a bug, the others end with it."""
        try:
            await part
        except Exception:
            self._stop_feeds()
            self._broker.stop()
            raise

    def _stop_feeds(self) -> None:
        for feed in (*self._markets.values(), *self._accounts.values()):
            feed.stop()

    async def _tick(self) -> None:
        while True:
            self._inbox.put([Tick()])
            await asyncio.sleep(self._config.links.tick_s)

    async def _pump(self) -> None:
        while True:
            events = await self._inbox.take()
            effects = self._core.step(events, now())
            self._carry_out(effects)
            if any(isinstance(event, Tick) for event in events):
                self._ticked()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        messages = [message for effect in effects for message in self._messages.of(effect)]
        saves = tuple(effect for effect in effects if isinstance(effect, Save))
        events = tuple(message for message in messages if message.event_id is not None)
        self._outbox.put(messages)
        if events or saves:
            if self._store is None:
                self._outbox.release(events)
            else:
                batch = Batch(events, saves)
                self._store.keep(batch)
                if events:
                    asyncio.get_running_loop().call_later(_DISK_PATIENCE_S, self._go_on_without_disk, batch)
        for effect in effects:
            if isinstance(effect, Watch):
                self._markets[effect.market].watch(effect.symbols)
            elif isinstance(effect, Resync):
                self._accounts[effect.account].resync()
            elif isinstance(effect, Story) and effect.change.kind != "retained":
                self._tell(effect)
        if messages:
            self._broker.wake()

    def _go_on_without_disk(self, batch: Batch) -> None:
        """A disk that hangs holds no alert: what is not stored by now goes out from memory."""
        if self._outbox.release(batch.events):
            self._log.error("the store takes long, alerts go out from memory", events=len(batch.events))
            self._broker.wake()

    def _kept(self, batch: Batch, error: StoreError | None) -> None:
        """A batch is on disk, or cannot be: either way its events may go out now."""
        if error is not None:
            self._log.error("not stored, alerts go out from memory", error=str(error), events=len(batch.events))
        self._outbox.release(batch.events)
        self._broker.wake()

    def _sent(self, message: Message) -> None:
        if message.event_id is not None and self._store is not None:
            self._store.sent(message.event_id, now().wall_ms)
        if self._on_sent is not None:
            self._on_sent(message)

    def _tell(self, story: Story) -> None:
        """One log line per thing told."""
        incident = story.change.incident
        say = getattr(self._log, _LOUD.get(story.change.severity, "info"))
        say(
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
        """The tick has gone all the way through the core: say so to whoever watches us."""
        self._notifier.alive()
        if not self._ready and self._is_settled():
            self._ready = True
            self._notifier.ready()
            self._log.info("ready", pools=[f"{a.name}/{p}" for a in self._core.accounts.values() for p in a.pools])
        if self._ready:
            self._notifier.status(self._status())
            if not self._swept and self._broker.knows_ghosts:
                self._sweep()

    def _is_settled(self) -> bool:
        """Whether every link is proved, or its blindness has been told."""
        stale = {(i.account, i.subject) for i in self._core.incidents if i.rule == "data_stale"}
        needed = {a.setup.market for a in self._core.accounts.values() if a.symbols}  # idle is not enough for these
        return all(
            info.state is LinkState.LIVE
            or (info.state is LinkState.IDLE and link.name not in needed)
            or (link.account, link.name) in stale
            or (link.name == "rest" and (link.account, "private") in stale)
            for link, info in self._core.links.all.items()
        )

    def _sweep(self) -> None:
        """Empty the retained topics that an earlier run has left and nothing stands for any more."""
        unknown = {a.name for a in self._core.accounts.values() if not a.known}
        alive = {self._messages.incident_topic(incident.key) for incident in self._core.incidents}
        alive |= set(self._outbox.states)
        ghosts = [
            topic
            for topic in self._broker.ghosts(alive)
            if not any(topic.startswith(f"{self._config.mqtt.prefix}/{name}/") for name in unknown)
        ]
        self._swept = not unknown
        self._outbox.put(Message(topic, b"", True, 1) for topic in ghosts)
        self._broker.seen.difference_update(ghosts)
        if ghosts:
            self._log.info("ghost topics removed", topics=ghosts)
            self._broker.wake()

    def _status(self) -> str:
        risks = [risk for account in self._core.accounts.values() for risk in account.risks.values()]
        worst = max((risk.margin_ratio for risk in risks if risk.margin_ratio is not None), default=None)
        ratio = "no positions" if worst is None else f"worst margin ratio {worst:.1%}"
        return f"{len(risks)} pools, {ratio}, {len(self._core.incidents.open)} incidents open"


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: one that fails at the same moment may swallow the first request."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.5)
