"""Proof of life to the outside: pings, the way out while the broker is away, and what systemd hears.

The other side is a real HTTP server on loopback, the broker a process that is killed and started again.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web

from monitor.config import Config, HeartbeatConfig
from monitor.config_values import HiddenUrl, Secret
from monitor.errors import ConfigError
from monitor.events import LinkState, Tick, Vitals
from monitor.liveness import blindness, undeclared
from monitor.message import Identity, Message
from monitor.rules import DEFAULTS, DataStaleRule, RuleBook, Severity, Step
from monitor.shell import settings
from monitor.shell.database import read_only
from monitor.shell.heartbeat import Heartbeat
from monitor.shell.outward import address
from monitor.shell.vitals import Pulse, rss_bytes
from monitor.shell.webhook import Webhook, with_topic
from tests import stories
from tests.rig import Listener, Mosquitto, free_port, private_file, until, watching, write_config
from tests.schemas import validate
from tests.watched import MARKET, D, Watched, row

SECRET = "0a1b2c3d-secret"
WHO = Identity("marginwatch", "vps1", "0.1.0", "boot", 0)


class Receiver:
    """Somebody who is pinged: keeps what came, and answers as told.

    Attributes:
        asked: Method and path of each request, in order of arrival.
        taken: Bodies that were answered with 200.
        answer: Body → status; the request is never answered where it says 0.
        takes_s: How long an answer takes (seconds).
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[str] = []
        self.taken: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], int] = lambda body: 200
        self.takes_s = 0.0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ping/{SECRET}"

    @property
    def pings(self) -> list[str]:
        """Last parts of the paths that were asked: the secret, or `fail`."""
        return [line.rsplit("/", 1)[1] for line in self.asked]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        text = await request.text()
        body = json.loads(text) if text else {}
        status = self.answer(body)
        if not status:
            await asyncio.Event().wait()
        if status == 200:
            self.taken.append(body)
        await asyncio.sleep(self.takes_s)
        return web.Response(status=status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    await found.start()
    yield found
    await found.stop()


@asynccontextmanager
async def running(part: Heartbeat | Webhook) -> AsyncIterator[None]:
    task = asyncio.create_task(part.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ticking(heartbeat: Heartbeat, done: Callable[[], object], *reasons: str) -> None:
    """Ticks go through the core, with these reasons to be blind, until something is so."""

    def tick() -> object:
        heartbeat.ticked(reasons)
        return done()

    await until(tick, f"pinged as it should be {reasons}")


# ---- pings ----


async def test_it_pings_while_ticks_go_through_the_core_and_only_then(receiver: Receiver) -> None:
    """A monitor whose core is stuck must look as dead as it is: the timer alone proves nothing."""
    stuck = Heartbeat(HiddenUrl(f"{receiver.url}/stuck"), 0.05)
    well = Heartbeat(HiddenUrl(f"{receiver.url}/well"), 0.05)
    async with running(stuck), running(well):
        await ticking(stuck, lambda: "stuck" in receiver.pings)
        before = receiver.pings.count("stuck")
        await ticking(well, lambda: receiver.pings.count("well") >= 10)

    assert receiver.pings.count("stuck") <= before + 1  # the tick that came while it was pinging
    assert all(line.startswith("GET ") for line in receiver.asked)


async def test_blindness_is_said_at_once_and_then_as_often_as_the_rest(receiver: Receiver) -> None:
    """Whoever waits for the next ping has lost a minute; who sends one at every tick is thrown out."""
    heartbeat = Heartbeat(HiddenUrl(receiver.url), 3600)
    async with running(heartbeat):
        await ticking(heartbeat, lambda: receiver.pings == [SECRET])
        await ticking(heartbeat, lambda: len(receiver.pings) == 2, "main private: no data")
    often = Heartbeat(HiddenUrl(receiver.url), 0.05)
    async with running(often):
        await ticking(often, lambda: receiver.pings[2:] == ["fail"] * 3, "main private: no data")

    assert receiver.pings[:2] == [SECRET, "fail"]


async def test_it_says_that_it_sees_again(receiver: Receiver) -> None:
    """An alarm that never ends is an alarm that nobody heeds."""
    heartbeat = Heartbeat(HiddenUrl(receiver.url), 0.05)
    async with running(heartbeat):
        await ticking(heartbeat, lambda: receiver.pings[-1:] == ["fail"], "blind")
        await ticking(heartbeat, lambda: receiver.pings[-1:] == [SECRET])


async def test_a_query_stays_behind_the_path(receiver: Receiver) -> None:
    """Some services take parameters there."""
    heartbeat = Heartbeat(HiddenUrl(f"{receiver.url}/?a=1"), 3600)
    async with running(heartbeat):
        await ticking(heartbeat, lambda: receiver.asked, "blind")

    assert receiver.asked == [f"GET /ping/{SECRET}/fail?a=1"]


async def test_a_service_that_is_away_is_logged_once_and_without_the_secret(
    receiver: Receiver, log: io.StringIO
) -> None:
    """The address is the key to the check; and a log that repeats itself every minute hides the rest."""
    await receiver.stop()
    heartbeat = Heartbeat(HiddenUrl(receiver.url), 0.02)
    async with running(heartbeat):
        await ticking(heartbeat, lambda: "heartbeat not sent" in log.getvalue())
        receiver.answer = lambda body: 500 if len(receiver.asked) < 3 else 200
        await receiver.start()
        await ticking(heartbeat, lambda: "heartbeat sent again" in log.getvalue())

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["heartbeat not sent", "heartbeat sent again"]
    assert (lines[0]["to"], lines[0]["reason"]) == ("http://127.0.0.1/…", "Connection refused")
    assert len(receiver.asked) == 3
    assert SECRET not in log.getvalue()


def test_a_hidden_address_shows_its_scheme_and_host_alone() -> None:
    """However it gets into a log or a traceback."""
    hidden = HiddenUrl.of(f"https://user:pass@hc-ping.com:8443/{SECRET}?key={SECRET}")

    assert str(hidden) == "https://hc-ping.com/…"
    assert [f"{hidden!r}", f"{HeartbeatConfig(url=hidden)!r}".count("pass")] == ["HiddenUrl(https://hc-ping.com/…)", 0]


def test_a_secret_that_is_no_address_is_a_mistake_of_the_config() -> None:
    """Found by `check`, not on the day that nobody is warned; and what was in the file is not repeated."""
    config = Config((), heartbeat=HeartbeatConfig(url=Secret("env", "PING")))

    with pytest.raises(ConfigError) as caught:
        settings.fetch(config, {"PING": f"hc-ping.com/{SECRET}"})
    [problem] = caught.value.problems
    found = settings.fetch(config, {"PING": f"https://hc-ping.com/{SECRET}"})

    assert problem.startswith("[heartbeat] url (env:PING): must be an address beginning with https://")
    assert SECRET not in problem
    assert address(config.heartbeat.url, found) == HiddenUrl.of(f"https://hc-ping.com/{SECRET}")


# ---- the webhook ----


def event(incident: str, number: int = 1, severity: Severity = Severity.WARNING) -> Message:
    event_id = f"main.{incident}.margin_ratio.17.{number}"
    body = json.dumps({"event_id": event_id, "incident": incident, "number": number, "ratio": 0.81222397})
    topic = f"marginwatch/main/event/{severity.word}/margin_ratio"
    return Message(topic, body.encode(), False, 1, severity, event_id, event_id.rpartition(".")[0])


def webhook(receiver: Receiver, events: Iterable[Message] = (), **keys: Any) -> Webhook:
    found = Webhook(HiddenUrl(receiver.url), HeartbeatConfig(webhook_after_s=30, **keys), WHO)
    found.put(events)
    return found


def incidents(bodies: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{body['incident']}{body['number']}" for body in bodies if "incident" in body]


async def test_that_the_broker_is_away_is_posted_first_and_then_the_worst(receiver: Receiver) -> None:
    """Whoever gets one message only should get the liquidation."""
    critical, liquidation = Severity.CRITICAL, Severity.LIQUIDATION
    events = [event("a"), event("b", 1), event("b", 2, liquidation), event("c", 1, critical), event("d")]
    hook = webhook(receiver, events)
    async with running(hook):
        hook.broker_away(29.9)
        hook.broker_away(30)
        await until(lambda: len(receiver.taken) == 6, "all are posted")

    notice, *posted = receiver.taken
    assert (notice["event"], notice["severity"], notice["topic"], notice["waiting"]) == (
        "broker_away",
        "warning",
        "marginwatch/status",
        5,
    )
    assert "the MQTT broker is away since " in notice["text"]
    assert incidents(posted) == ["b1", "b2", "c1", "a1", "d1"]
    assert posted[0] == json.loads(event("b").payload) | {"topic": "marginwatch/main/event/warning/margin_ratio"}


async def test_while_the_broker_is_there_nothing_is_posted(receiver: Receiver) -> None:
    """Everything twice would be worse than nothing."""
    hook = webhook(receiver, [event("a")])
    async with running(hook):
        hook.broker_away(0)
        hook.put([event("b")])
        hook.broker_away(29)
        hook.sent(str(event("a").event_id))
        hook.broker_away(31)
        await until(lambda: len(receiver.taken) == 2, "what the broker does not have is posted")

    assert incidents(receiver.taken) == ["b1"]


async def test_an_event_is_posted_once_however_often_it_comes(receiver: Receiver) -> None:
    """The store hands it over again, the broker goes away again."""
    hook = webhook(receiver, [event("a")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken) == ["a1"], "it is posted")
        hook.put([event("a")])
        hook.broker_away(0)
        hook.put([event("b")])
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken)[1:], "another is posted")

    assert incidents(receiver.taken) == ["a1", "b1"]
    assert [body.get("event") for body in receiver.taken].count("broker_away") == 2  # one for each absence


async def test_an_event_that_the_broker_takes_while_it_is_posted_needs_no_remembering(receiver: Receiver) -> None:
    """What was posted is kept until the broker has it; if it has it first, that would be for ever."""
    posted: list[str] = []
    hook = Webhook(HiddenUrl(receiver.url), HeartbeatConfig(webhook_after_s=30), WHO, posted.append)
    hook.put([event("a"), event("b")])

    def answer(body: dict[str, Any]) -> int:
        if body.get("incident") == "a":
            hook.sent(str(event("a").event_id))
        return 200

    receiver.answer = answer
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: posted, "another is posted")

    assert incidents(receiver.taken) == ["a1", "b1"]
    assert posted == [event("b").event_id]


async def test_events_below_its_severity_are_not_for_it(receiver: Receiver) -> None:
    """The way out of last resort is no place for information."""
    hook = webhook(receiver, [event("a"), event("b", 1, Severity.CRITICAL)], webhook_from="critical")
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken), "the critical one is posted")

    assert incidents(receiver.taken) == ["b1"]


async def test_what_fails_is_tried_again(receiver: Receiver, log: io.StringIO) -> None:
    """A receiver that is restarted must miss nothing; the log says it once."""
    receiver.answer = lambda body: 503 if len(receiver.asked) < 3 else 200
    hook = webhook(receiver, [event("a")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken) == ["a1"], "it is posted at last")

    assert len(receiver.asked) == 4
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == [
        "webhook not reached",
        "webhook reached",
    ]
    assert SECRET not in log.getvalue()


@pytest.mark.parametrize("status", [400, 500])
async def test_an_event_that_is_refused_holds_up_no_other(receiver: Receiver, status: int) -> None:
    """One that the other side cannot read, or stumbles over, however severe, must not be the end of all."""
    receiver.answer = lambda body: status if body.get("incident", "notice") in ("bad", "notice") else 200
    hook = webhook(receiver, [event("bad", 1, Severity.LIQUIDATION), event("a"), event("b")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: len(receiver.taken) == 2, "the others are posted")

    assert incidents(receiver.taken) == ["a1", "b1"]


async def test_an_event_at_which_somebody_hangs_holds_up_no_other(receiver: Receiver) -> None:
    """It would be the next each time, for as long as the broker is away: nothing else would ever be told."""
    receiver.answer = lambda body: 0 if body.get("incident") == "a" else 200
    hook = webhook(receiver, [event("a", severity=Severity.CRITICAL), event("b"), event("c")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken) == ["b1", "c1"], "the others are posted", within_s=60)


async def test_a_notice_that_somebody_has_stumbled_over_comes_again_behind_the_events(receiver: Receiver) -> None:
    """It may be all that says that the broker is away, and a 500 be the fault of a moment."""
    receiver.answer = lambda body: 500 if len(receiver.asked) == 1 else 200
    hook = webhook(receiver, [event("a")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: len(receiver.taken) == 2, "both are posted")

    assert incidents(receiver.taken[:1]) == ["a1"]
    assert receiver.taken[1]["event"] == "broker_away"


async def test_whoever_takes_long_to_answer_gets_an_event_once(receiver: Receiver) -> None:
    """He may wake somebody before he answers, and would do so every half minute."""
    receiver.takes_s = 5.5  # longer than to connect may take
    hook = webhook(receiver, [event("a")])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: incidents(receiver.taken) == ["a1"], "it is posted", within_s=30)
        hook.put([event("b")])
        await until(lambda: incidents(receiver.taken)[-1] == "b1", "and what comes next", within_s=30)

    assert incidents(receiver.taken) == ["a1", "b1"]


async def test_a_full_queue_keeps_the_newest_of_each_incident(receiver: Receiver, log: io.StringIO) -> None:
    """Memory has an end; how it stands matters more than how it came there."""
    flood = [event("a", n) for n in range(1, 901)]
    flood += [event("b", n) for n in range(1, 102)]
    hook = webhook(receiver, flood)
    hook.put([event("c", 1, Severity.CRITICAL)])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: len(receiver.taken) == 4, "all that was kept is posted")

    assert incidents(receiver.taken) == ["c1", "a900", "b101"]
    assert "the newest of each incident stay" in log.getvalue()


async def test_a_queue_full_of_incidents_loses_the_mildest(receiver: Receiver) -> None:
    """A thousand incidents at once are one event to a person; the worst of them must be among what is told."""
    hook = webhook(receiver, [event(f"i{n}") for n in range(1000)])
    hook.put([event("worst", 1, Severity.LIQUIDATION)])
    async with running(hook):
        hook.broker_away(31)
        await until(lambda: len(receiver.taken) == 1001, "all that was kept is posted")

    assert incidents(receiver.taken)[:2] == ["worst1", "i11"]


def test_the_payload_is_as_on_mqtt_with_its_topic() -> None:
    """The same bytes: no number passes through a float that prints otherwise."""
    message = Message("p/main/event/info/x", b'{"ratio":0.10,"price":"1.00"}', False, 1)

    assert with_topic(message) == b'{"ratio":0.10,"price":"1.00","topic":"p/main/event/info/x"}'


# ---- the whole daemon ----


def told_there(receiver: Receiver, rule: str, kind: str) -> list[dict[str, Any]]:
    return [body for body in receiver.taken if (body.get("rule"), body["event"]) == (rule, kind)]


def all_posted(store: Path) -> bool:
    """Whether the store knows of every event from warning on that the webhook has it."""
    with closing(read_only(store)) as connection:
        rows = connection.execute("SELECT event_id FROM events WHERE sent_ms IS NULL AND rank >= 3").fetchall()
        known = connection.execute("SELECT key FROM kept WHERE kind = 'posted'").fetchall()
    return sorted(rows) == sorted(known) != []


async def test_a_restart_while_the_broker_is_away_posts_nothing_again(receiver: Receiver, tmp_path: Path) -> None:
    """A phone that rings twice for one event is soon not believed."""
    heartbeat = {"webhook": receiver.url, "webhook_after_s": 0.1}
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, free_port(), heartbeat=heartbeat)
        async with watching(config) as log:
            await until(lambda: '"ready"' in log.getvalue(), "all is seen")
            exchange.set_mark("BTCUSDT", "48240")
            await until(lambda: told_there(receiver, "margin_ratio", "opened"), "the webhook has it")
            store = tmp_path / "d" / "store.sqlite3"
            await until(lambda: all_posted(store), "no answer of the webhook is under way")
        async with watching(config):
            exchange.set_mark("SOLUSDT", "120.7")
            await until(lambda: len(told_there(receiver, "margin_ratio", "opened")) == 2, "what is new comes there")

    posted = Counter(body["event_id"] for body in receiver.taken if "event_id" in body)
    assert set(posted.values()) == {1}


async def test_alerts_go_to_the_webhook_while_the_broker_is_dead_and_to_the_broker_afterwards(
    lasting_broker: Mosquitto, receiver: Receiver, tmp_path: Path
) -> None:
    """A broker that dies in the night must not be the reason why nobody heard of the liquidation."""
    hook = private_file(tmp_path / "hook", receiver.url)
    heartbeat = {"webhook": f"file:{hook}", "webhook_after_s": 0.3}
    async with stories.exchange() as exchange, Listener(lasting_broker.port) as listener:
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, heartbeat=heartbeat)
        async with watching(config) as log:
            await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
            exchange.set_mark("SOLUSDT", "126")
            passed_on = await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
            lasting_broker.kill()
            exchange.set_mark("BTCUSDT", "48240")  # ratio 0.804
            [there] = await until(lambda: told_there(receiver, "margin_ratio", "opened"), "the webhook has it")
            await lasting_broker.start()
            here = await listener.event("margin_ratio", "opened")
            exchange.set_mark("SOLUSDT", "120.7")
            await listener.event("margin_ratio", "opened", subject="isolated-solusdt")

    topic = next(h.topic for h in listener.heard if "/event/" in h.topic and h.body == here)
    posted = Counter(body["event_id"] for body in receiver.taken if "event_id" in body)
    assert receiver.taken[0]["event"] == "broker_away"
    assert there == here | {"topic": topic}
    assert passed_on["severity"] == "warning"
    assert passed_on["event_id"] not in posted
    assert set(posted.values()) == {1}
    assert told_there(receiver, "margin_ratio", "opened") == [there]
    assert SECRET not in log.getvalue()


async def test_where_amounts_are_private_the_webhook_gets_notices(receiver: Receiver, tmp_path: Path) -> None:
    """Whoever is kept from knowing amounts is not told them because a broker is away."""
    async with stories.exchange() as exchange:
        heartbeat = {"webhook": receiver.url, "webhook_after_s": 0.1}
        private = {"amounts": False}
        config = write_config(tmp_path / "d", exchange, free_port(), heartbeat=heartbeat, privacy=private)
        async with watching(config) as log:
            await until(lambda: '"ready"' in log.getvalue(), "all is seen")
            exchange.set_mark("BTCUSDT", "48240")
            [notice] = await until(lambda: told_there(receiver, "margin_ratio", "opened"), "the webhook has it")

    topic = notice.pop("topic")
    validate(topic, json.dumps(notice).encode())
    assert topic == "marginwatch/main/notice/critical/margin_ratio"
    assert {body.get("schema") for body in receiver.taken[1:]} == {"marginwatch.notice/1"}


async def test_the_daemon_pings_fails_while_blind_and_recovers(
    broker: Mosquitto, listener: Listener, receiver: Receiver, tmp_path: Path
) -> None:
    """From outside it must be seen that it lives, and that it sees."""
    async with stories.exchange() as exchange:
        heartbeat = {"url": receiver.url, "every_s": 0.1}
        async with watching(write_config(tmp_path / "d", exchange, broker.port, heartbeat=heartbeat)) as log:
            await until(lambda: receiver.pings[:2] == [SECRET] * 2, "all is well")
            exchange.fault(mute_market=True)
            await until(lambda: receiver.pings[-2:] == ["fail"] * 2, "it says that it is blind")
            await listener.event("data_stale", "opened")
            exchange.fault(mute_market=False)
            await until(lambda: receiver.pings[-2:] == [SECRET] * 2, "it sees again")

    assert SECRET not in log.getvalue()


async def test_a_broker_that_stays_away_is_a_failure_of_the_heartbeat(
    broker: Mosquitto, receiver: Receiver, tmp_path: Path
) -> None:
    """Without a webhook this is the only one who can tell."""
    async with stories.exchange() as exchange:
        heartbeat = {"url": receiver.url, "every_s": 0.1, "webhook_after_s": 0.3}
        async with watching(write_config(tmp_path / "d", exchange, broker.port, heartbeat=heartbeat)):
            await until(lambda: receiver.pings[:1] == [SECRET], "all is well")
            broker.kill()
            await until(lambda: receiver.pings[-1:] == ["fail"], "it says that alerts do not come through")
            await broker.start()
            await until(lambda: receiver.pings[-1:] == [SECRET], "all is well again")


async def test_a_ping_service_that_hangs_delays_no_alert(
    broker: Mosquitto, listener: Listener, receiver: Receiver, tmp_path: Path
) -> None:
    """The way out must not block the way in."""
    receiver.answer = lambda body: 0
    async with stories.exchange() as exchange:
        heartbeat = {"url": receiver.url, "every_s": 0.1}
        async with watching(write_config(tmp_path / "d", exchange, broker.port, heartbeat=heartbeat)):
            await until(lambda: receiver.asked, "somebody is kept waiting")
            exchange.set_mark("BTCUSDT", "48240")
            await listener.event("margin_ratio", "opened", within_s=3)

    assert receiver.taken == []


async def test_health_tells_how_the_daemon_fares(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """A loop that is late or a memory that grows is seen before it hurts."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        healths = [
            await listener.state(f"marginwatch/{account}/health", freshness="live") for account in ("main", "_instance")
        ]

    for health in healths:
        vitals = health["heartbeat"]
        assert vitals["uptime_s"] > 0
        assert 0 <= vitals["loop_lag_ms"] < 15_000
        assert 10_000_000 < vitals["rss_bytes"] < 4_000_000_000


# ---- vitals ----


def test_a_loop_that_was_held_up_says_for_how_long() -> None:
    """A step that takes half a second makes every alert half a second late, and nothing else shows it."""
    lags: list[float] = []
    pulse = Pulse(lags.append)

    async def hold_up() -> list[Vitals]:
        await asyncio.sleep(0.35)
        taken = [pulse.take()]
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass  # holds the loop up, as a long step does
        taken.append(pulse.take())
        await asyncio.sleep(0)
        taken.append(pulse.take())
        await until(lambda: pulse.take().loop_lag_ms < 100, "it is over")
        return [*taken, pulse.take()]

    with asyncio.Runner(loop_factory=pulse.event_loop) as runner:
        before, during, held, after = runner.run(hold_up())

    assert before.loop_lag_ms < 400
    assert 400 <= during.loop_lag_ms < 5000
    assert 400 <= held.loop_lag_ms < 5000
    assert after.loop_lag_ms < 250
    assert after.uptime_s >= 0.75
    assert len(lags) >= 7
    assert lags.count(0.0) >= 2, "an idle loop comes to everything in time"
    assert len([lag for lag in lags if 0 < lag < 0.5]) >= 4, (
        "what was due in between has waited for as long as was left"
    )


def test_memory_is_read_where_the_system_tells() -> None:
    """Linux does; a daemon of this size has more than ten and less than four thousand megabytes."""
    found = rss_bytes()

    assert (found is None) is not os.path.exists("/proc/self/statm")
    assert found is None or 10_000_000 < found < 4_000_000_000


def test_each_health_has_the_longest_lag_since_the_one_before() -> None:
    """A hitch between two publications must not be lost, nor be told for ever."""
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.step(Vitals(1, 1.0, None), Tick())
    for lag in (3.0, 80.0, 5.0, 2.0):
        core.step(core.mark("60000"), Vitals(1, lag, 5000), after=1)
    effects = core.step(core.mark("60000", after=30), Tick(), after=30)
    later = core.step(core.mark("60000", after=31), Vitals(65, 4.0, 6000), Tick(), after=31)

    def vitals(found: list[Any]) -> list[dict[str, Any]]:
        sent = [m for m in core.sent(found) if m.topic.endswith("/health")]
        return [json.loads(m.payload)["heartbeat"] for m in sent]

    assert vitals(effects) == [{"uptime_s": 1, "loop_lag_ms": 80.0, "rss_bytes": 5000}] * 2  # the account's, and shared
    assert vitals(later) == [{"uptime_s": 65, "loop_lag_ms": 4.0, "rss_bytes": 6000}] * 2


# ---- what makes it blind, and what systemd hears ----


def test_all_is_well_is_no_blindness() -> None:
    """A false alarm every minute would be switched off."""
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(3, "60000")

    assert blindness(core.core, core.now) == []
    assert undeclared(core.core, core.now) == []


def test_unknown_positions_and_quiet_links_are_blindness() -> None:
    """Each of them means that a liquidation could come unseen."""
    core = Watched("main", "spare")
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(2, "60000")
    core.step(core.link("private", LinkState.DOWN))
    unseen = blindness(core.core, core.now)
    core.hold(70, "60000")

    assert unseen == ["spare: positions unknown"]
    assert set(blindness(core.core, core.now)) == {"spare: positions unknown", "main private: no data"}


def test_a_lost_link_is_blindness_though_nobody_wants_to_be_told_of_it() -> None:
    """Who switches `data_stale` off hears nothing of a dead link; a ping that says all is well would be a lie."""
    quiet = RuleBook({**DEFAULTS, "data_stale": DataStaleRule(enabled=False)}, {})
    core = Watched(rules=quiet)
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(3, "60000")
    seeing = blindness(core.core, core.now)
    core.step(core.link("private", LinkState.DOWN))
    core.hold(30, "60000")

    assert seeing == []
    assert blindness(core.core, core.now) == ["main private: no data"]
    assert undeclared(core.core, core.now) == []


def test_a_loss_that_is_told_as_a_notice_alone_is_blindness_once_it_lasts() -> None:
    """How loud somebody wants to hear of it does not make seen what nobody sees."""
    mild = DataStaleRule(steps=(Step(D(8), D(4), Severity.NOTICE), Step(D(3600), D(4), Severity.CRITICAL)))
    core = Watched(rules=RuleBook({**DEFAULTS, "data_stale": mild}))
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(3, "60000")
    core.step(core.link("private", LinkState.DOWN))
    core.hold(20, "60000")
    hiccup = blindness(core.core, core.now)
    core.hold(10, "60000")

    assert hiccup == []
    assert blindness(core.core, core.now) == ["main private: no data"]


def test_an_exchange_that_is_away_costs_a_thousand_accounts_no_second() -> None:
    """Both are asked with each tick: were they slow, the watching would hang for as long as the exchange is away."""
    core = Watched(*(f"account-{number}" for number in range(1000)))
    core.connect(LinkState.DOWN)
    for _ in range(3):
        core.step(Tick(), after=10)
    began = time.process_time()

    assert len(blindness(core.core, core.now)) >= 1000
    undeclared(core.core, core.now)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", ["private", "rest", "market"])
def test_the_watchdog_is_content_with_a_loss_that_is_told_of(name: Literal["private", "rest", "market"]) -> None:
    """A dead exchange must not look like a hang, or systemd would restart us for as long as it is dead."""
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(2, "60000")
    if name == "market":
        core.step(core.link("market-x", LinkState.DOWN, "_instance"))
    else:
        core.step(core.link(name, LinkState.DOWN))
    lost = []
    for _ in range(180):
        core.step(Tick()) if name == "market" else core.price("60000")
        lost += undeclared(core.core, core.now)

    assert lost == []
    assert blindness(core.core, core.now)


def test_the_watchdog_is_content_with_links_that_are_lost_one_after_another() -> None:
    """In an outage a hundred accounts fall one by one for minutes; together they must not starve it."""
    names = [f"a{n}" for n in range(30)]
    core = Watched(*names)
    core.connect()
    for name in names:
        core.step(*core.truth("100", account=name), after=0)
    lost = []
    for name in names:
        core.step(core.link("private", LinkState.DOWN, name))
        for _ in range(5):
            core.step(Tick())
            lost += undeclared(core.core, core.now)

    assert lost == []
    assert len(blindness(core.core, core.now)) > 20


@pytest.mark.parametrize(("account", "name"), [("main", "private"), ("_instance", MARKET)])
def test_the_watchdog_starves_where_a_loss_is_not_told_of(account: str, name: str) -> None:
    """If the rule that should speak does not, something is broken, and a restart is the remedy."""
    late = DataStaleRule(steps=(Step(D(600), D(4), Severity.WARNING),))
    core = Watched(rules=RuleBook({**DEFAULTS, "data_stale": late}))
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.step(core.link(name, LinkState.DOWN, account), core.mark("60000"), Tick())
    core.step(Tick(), after=19)
    before = undeclared(core.core, core.now)
    core.step(Tick(), after=2)

    assert before == []
    assert [link.name for link in undeclared(core.core, core.now)] == [name]


def test_a_rule_that_is_switched_off_starves_no_watchdog() -> None:
    """Whoever does not want to be told of it does not want to be restarted for it."""
    core = Watched(rules=RuleBook({**DEFAULTS, "data_stale": DataStaleRule(enabled=False)}))
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.step(core.link("private", LinkState.DOWN))
    core.hold(200, "60000")

    assert undeclared(core.core, core.now) == []


async def test_systemd_hears_the_watchdog_through_an_outage(
    broker: Mosquitto, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real notify socket: ready, then fed with the exchange alive, lost, and back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        said: list[str] = []

        def fed() -> int:
            with suppress(BlockingIOError):
                while True:
                    said.append(manager.recv(1000).decode())
            return said.count("WATCHDOG=1")

        async def fed_on() -> None:
            before = fed()
            await until(lambda: fed() >= before + 5, "systemd hears that it is alive")

        async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
            await until(lambda: fed() and "READY=1" in said, "it is ready")
            await exchange.kill()
            await fed_on()
            await listener.event("data_stale", "opened", subject="private")
            await fed_on()
            await exchange.start()
            await listener.event("data_stale", "resolved", subject="private")
            await fed_on()
