"""The links against the simulated exchange: changed as planned, doubled, slow, mute, and with their key taken away."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from monitor.config import AccountConfig, LinksConfig
from monitor.config_values import Secret
from monitor.events import (
    AccountChanged,
    BalancesRead,
    ClockOffset,
    Fill,
    ForcedKind,
    LinkHeard,
    LinkReport,
    LinkState,
    PositionsRead,
)
from monitor.pace import Pace
from monitor.recording import Line, Source
from monitor.shell import settings
from monitor.shell.account_feed import AccountFeed
from monitor.shell.daemon import Daemon
from monitor.shell.market_feed import MarketFeed
from monitor.shell.rest import Budget, Rest
from monitor.sim import Exchange
from monitor.turns import Need
from monitor.venues import Hosts
from tests import stories
from tests.heard import Heard, account_feed, running
from tests.rig import WAIT_S, free_port, until, write_config

D = Decimal
SYMBOLS = {"BTCUSDT", "SOLUSDT"}
LINKS = LinksConfig(
    connect_timeout_s=2,
    first_frame_s=2,
    ping_interval_s=0.4,
    ping_timeout_s=0.4,
    close_timeout_s=0.2,
    backoff_min_s=0.02,
    backoff_max_s=0.1,
    bridge_s=30,
    reconcile_s=0.1,
    rest_timeout_s=1,
    weight_per_minute=100_000,
    mute_after_s=0.3,
)


class Recorded:
    """A tap that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[str | None, Source, bytes, str | None]] = []

    def heard(self, line: Line) -> None:
        assert (line.venue, line.market, line.sent_ms is None) == ("binance-usdm", "market", line.source != "rest")
        self.lines.append((line.account, line.source, line.raw, line.request))

    def of(self, source: Source) -> list[tuple[str | None, bytes, str | None]]:
        return [(account, raw, request) for account, known, raw, request in self.lines if known == source]


def warnings(log: io.StringIO) -> list[str]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line["event"] for line in lines if line["level"] not in ("debug", "info")]


def account(exchange: Exchange, name: str = "main") -> AccountConfig:
    hosts = Hosts(exchange.url, f"{exchange.ws_url}/market", f"{exchange.ws_url}/private", exchange.url)
    return AccountConfig(name, "binance-usdm", Secret("env", "K"), Secret("env", "S"), "custom", hosts, "market")


@asynccontextmanager
async def market(exchange: Exchange, tap: Recorded | None = None, **links: Any) -> AsyncIterator[Heard]:
    """The market link of this exchange, live with both symbols."""
    heard, setup = Heard(), account(exchange)
    rest = Rest(setup.hosts, Budget(100_000), 2)
    feed = MarketFeed(setup, rest, heard.inbox, structs.replace(LINKS, **links), tap)
    feed.watch(SYMBOLS)
    async with running(feed, rest):
        await until(lambda: len(carrying(exchange)) == feed.config.market_connections, "all is subscribed")
        exchange.pulse()
        await heard.state("market", LinkState.LIVE)
        yield heard


def carrying(exchange: Exchange) -> list[Any]:
    """Market connections on which both symbols are subscribed."""
    wanted = {f"{symbol.lower()}@markPrice@1s" for symbol in SYMBOLS}
    return [connection for connection in exchange.streams.on("market") if wanted <= connection.streams.keys()]


@asynccontextmanager
async def private(
    exchange: Exchange,
    name: str = "main",
    tap: Recorded | None = None,
    pace: Pace | None = None,
    budget: Budget | None = None,
    *,
    is_live: bool = True,
    **links: Any,
) -> AsyncIterator[tuple[AccountFeed, Heard]]:
    """An account's link on this exchange, live where it can be."""
    heard, setup = Heard(), account(exchange, name)
    owner = exchange.accounts[name]
    rest = Rest(setup.hosts, budget or Budget(100_000), 2, owner.api_key, owner.secret)
    feed = account_feed(setup, rest, heard.inbox, structs.replace(LINKS, **links), pace, tap)
    async with running(feed, rest):
        if is_live:
            await heard.state("private", LinkState.LIVE)
        yield feed, heard


class Ticks:
    """Marks as the exchange makes them, each tick waited for before the next: one that is lost is missed for ever."""

    def __init__(self, exchange: Exchange, heard: Heard) -> None:
        self._exchange = exchange
        self._heard = heard
        self.count = 0
        self.prices: set[Decimal] = set()

    async def until(self, probe: Callable[[], object]) -> None:
        async with asyncio.timeout(4 * WAIT_S):
            while not probe():
                await self._tick()

    async def _tick(self) -> None:
        self.count += 1
        prices = {"BTCUSDT": D(60_000 + self.count), "SOLUSDT": D(200) + D(self.count) / 100}
        self.prices.update(prices.values())
        self._exchange.set_marks(prices)
        self._exchange.pulse()
        seen = self._heard.seen
        await self._heard.until(lambda: all(seen[symbol, price] for symbol, price in prices.items()))


# ---- planned changes ----


async def test_planned_changes_of_the_market_stream_cost_no_tick(log: io.StringIO) -> None:
    """The exchange cuts every connection at 24 hours; whoever waits for that is blind for a second a day."""
    async with stories.exchange(tick_s=None) as exchange, market(exchange, connection_life_s=0.3) as heard:
        begin = len(heard.events)
        await Ticks(exchange, heard).until(lambda: exchange.counters["connected market"] >= 6)

    assert set(heard.states("market")[heard.states("market").index(LinkState.LIVE) :]) == {LinkState.LIVE}
    reports = [event for event in heard.events[begin:] if isinstance(event, LinkReport)]
    assert {report.reconnects for report in reports} <= {0}
    assert warnings(log) == []


async def test_planned_changes_of_the_private_stream_cost_no_event(log: io.StringIO) -> None:
    """Nothing is lost, and nothing is told twice though both connections tell it."""
    async with stories.exchange() as exchange, private(exchange, connection_life_s=0.3, reconcile_s=20) as (_, heard):
        told = 0
        while exchange.counters["connected private"] < 6:
            told += 1
            exchange.transfer("main", "USDT", "1")
            await heard.until(lambda: len(amounts(heard)) >= told)  # noqa: B023

    assert [amount - 12_000 for amount in amounts(heard)] == list(range(1, told + 1))
    assert set(heard.states("private")[heard.states("private").index(LinkState.LIVE) :]) == {LinkState.LIVE}
    assert warnings(log) == []


def amounts(heard: Heard) -> list[Decimal]:
    """Wallet balances as the stream has told them."""
    return [b.cross_wallet_balance for e in heard.events if isinstance(e, AccountChanged) for b in e.balances]


async def test_a_planned_change_that_fails_leaves_the_connection_as_it_is(log: io.StringIO) -> None:
    """The old connection has an hour to live, and the exchange may be refusing new ones for a minute."""
    async with stories.exchange(tick_s=None) as exchange, market(exchange, connection_life_s=0.3) as heard:
        ticks = Ticks(exchange, heard)
        exchange.fault(refuse=True)
        await ticks.until(lambda: log.getvalue().count("fresh connection failed") >= 2)
        exchange.fault(refuse=False)
        await ticks.until(lambda: "connection changed as planned" in log.getvalue())

    assert set(heard.states("market")[heard.states("market").index(LinkState.LIVE) :]) == {LinkState.LIVE}


async def test_a_fresh_connection_that_lacks_a_symbol_does_not_replace_the_old_one(log: io.StringIO) -> None:
    """A subscription may be acknowledged and lost; marks of one symbol prove nothing of the others."""
    async with stories.exchange(tick_s=None) as exchange, market(exchange, connection_life_s=0.3) as heard:
        [old] = exchange.streams.on("market")
        ticks_beside = 0

        def lacks_one() -> bool:
            nonlocal ticks_beside
            fresh = [connection for connection in exchange.streams.on("market") if connection is not old]
            for connection in fresh:
                connection.streams.pop("solusdt@markPrice@1s", None)
            ticks_beside += any("btcusdt@markPrice@1s" in connection.streams for connection in fresh)
            return ticks_beside >= 30

        ticks = Ticks(exchange, heard)
        await ticks.until(lacks_one)
        assert old in exchange.streams.on("market")
        await ticks.until(lambda: "connection changed as planned" in log.getvalue())

    assert set(heard.states("market")[heard.states("market").index(LinkState.LIVE) :]) == {LinkState.LIVE}


async def test_a_fresh_private_stream_without_a_snapshot_does_not_replace_the_old_one(log: io.StringIO) -> None:
    """While REST fails, what is open is all there is."""
    async with stories.exchange() as exchange, private(exchange, connection_life_s=0.3, reconcile_s=20) as (_, heard):
        exchange.fault(rest="503", rest_paths=["/fapi/v3/account"])
        while log.getvalue().count("fresh connection failed") < 2:
            known = len(amounts(heard))
            exchange.transfer("main", "USDT", "1")
            await heard.until(lambda: len(amounts(heard)) > known)  # noqa: B023
        exchange.fault(rest="ok", rest_paths=[])
        await until(lambda: "connection changed as planned" in log.getvalue(), "it is changed after all")

    assert set(heard.states("private")[heard.states("private").index(LinkState.LIVE) :]) == {LinkState.LIVE}


# ---- two connections ----


async def test_of_two_market_connections_one_may_die_without_costing_a_tick(log: io.StringIO) -> None:
    """Both carry the same; whichever is first is passed on."""
    async with (
        stories.exchange(tick_s=None) as exchange,
        market(exchange, market_connections=2) as heard,
    ):
        ticks = Ticks(exchange, heard)
        for _ in range(4):
            await ticks.until(lambda: len(carrying(exchange)) == 2)
            enough = ticks.count + 20
            await ticks.until(lambda: ticks.count >= enough)  # noqa: B023
            carrying(exchange)[0].abort()
            await ticks.until(lambda: "connection lost, the link goes on with another" in log.getvalue())
            lived = list(heard.states("market"))
            log.truncate(0)
            log.seek(0)
        assert set(lived[lived.index(LinkState.LIVE) :]) == {LinkState.LIVE}
        told = {count for (_, price), count in heard.seen.items() if price in ticks.prices}
        assert told == {1}, "of each the first that comes, and no other"
        await ticks.until(lambda: len(carrying(exchange)) == 2)
        exchange.drop("market")
        down = await heard.state("market", LinkState.DOWN)

    assert down.reconnects >= 5, "each loss, and the end of both, which come at once"


# ---- how often marks come ----


async def test_marks_that_come_every_three_seconds_are_told(log: io.StringIO) -> None:
    """By the exchange's own times; the link is live all the same."""
    async with stories.exchange(tick_s=None) as exchange, market(exchange) as heard:

        async def every(step_ms: int, probe: Callable[[], bool]) -> None:
            def later() -> bool:
                exchange.clock.offset_ms += step_ms
                return probe()

            await Ticks(exchange, heard).until(later)

        def note() -> str:
            return [e for e in heard.events if isinstance(e, LinkReport) and e.state is LinkState.LIVE][-1].note

        await every(1_000, lambda: len(heard.seen) > 20)
        assert note() == ""
        await every(3_000, lambda: bool(note()))
        assert note() == "marks come every 3 s instead of 1 s"
        await every(1_000, lambda: not note())

    assert warnings(log) == ["marks come slowly"]
    assert set(heard.states("market")[heard.states("market").index(LinkState.LIVE) :]) == {LinkState.LIVE}


# ---- a mute private stream ----


async def changes_until(exchange: Exchange, heard: Heard, probe: Callable[[], object]) -> None:
    """Transfers of a dollar, one for each thing that is heard, until this is true."""
    while not probe():
        exchange.transfer("main", "USDT", "1")
        before = len(heard.events)
        await heard.until(lambda: len(heard.events) > before)  # noqa: B023


async def test_a_mute_stream_is_found_out_and_opened_in_another_way(log: io.StringIO) -> None:
    """It is open, answers pings, and tells nothing: a snapshot proves what it owes."""
    async with stories.exchange() as exchange:
        exchange.fault(mute_forms=["B"])
        async with private(exchange) as (_, heard):
            begun = time.monotonic()
            assert {c.form for c in exchange.streams.on("private")} == {"B"}
            await changes_until(exchange, heard, lambda: LinkState.MUTE in heard.states("private"))
            found_s = time.monotonic() - begun
            mute = await heard.state("private", LinkState.MUTE)
            await changes_until(exchange, heard, lambda: amounts(heard))
            assert {c.form for c in exchange.streams.on("private")} == {"C"}
            exchange.drop("private")
            known = len(amounts(heard))
            await changes_until(exchange, heard, lambda: len(amounts(heard)) > known and exchange.streams.on("private"))
            assert {c.form for c in exchange.streams.on("private")} == {"C"}, (
                "what has delivered stays the first choice"
            )

    assert mute.note == "mute: a change of USDT was not told within 0.3 s"
    assert mute.mutes == 1
    assert warnings(log)[0] == "link mute"
    assert found_s < 5
    assert exchange.counters["POST /fapi/v1/listenKey"] >= 3


async def test_a_stream_that_turns_mute_is_found_out(log: io.StringIO) -> None:
    """Even the form that has delivered is then the last to be tried."""
    async with stories.exchange() as exchange, private(exchange) as (_, heard):
        await changes_until(exchange, heard, lambda: amounts(heard))
        exchange.fault(mute_private=True)
        await changes_until(exchange, heard, lambda: heard.states("private").count(LinkState.MUTE) >= 2)
        exchange.fault(mute_private=False)
        known = len(amounts(heard))
        await changes_until(exchange, heard, lambda: len(amounts(heard)) > known)

    reports = [e for e in heard.events if isinstance(e, LinkReport) and e.link.name == "private"]
    assert reports[-1].mutes >= 2
    assert heard.states("private")[-1] is LinkState.LIVE


@pytest.mark.parametrize("faults", [{}, {"stale_s": 0.5}, {"latency_s": 0.2}], ids=["well", "stale", "slow"])
async def test_a_stream_that_tells_is_never_called_mute(faults: dict[str, float], log: io.StringIO) -> None:
    """However late, or old, the answers are that it is compared with."""
    async with stories.exchange() as exchange, private(exchange, mute_after_s=0.05) as (_, heard):
        exchange.fault(**faults)
        end = time.monotonic() + 2.5
        await changes_until(exchange, heard, lambda: time.monotonic() > end)

    assert warnings(log) == []
    assert set(heard.states("private")[heard.states("private").index(LinkState.LIVE) :]) == {LinkState.LIVE}


async def test_a_quiet_account_is_never_called_mute(log: io.StringIO) -> None:
    """Marks move, nothing else does; for longer than any other stream may be silent."""
    async with (
        stories.exchange() as exchange,
        private(exchange, reconcile_s=0.02, mute_after_s=0.05, first_frame_s=0.5) as (_, heard),
    ):
        read = Counter[type]()
        while read[PositionsRead] < 60:
            exchange.set_mark("BTCUSDT", str(60_000 + read[PositionsRead]))
            await heard.until(lambda: read != kinds(heard))  # noqa: B023
            read = kinds(heard)

    assert set(heard.states("private")[heard.states("private").index(LinkState.LIVE) :]) == {LinkState.LIVE}
    assert warnings(log) == []


def kinds(heard: Heard) -> Counter[type]:
    return Counter(type(event) for event in heard.events)


# ---- the truth after a cut ----


async def test_what_changed_while_the_stream_was_away_is_known_with_the_next_one() -> None:
    """Not with the next comparison, which is half a minute off."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20) as (_, heard):
        exchange.drop("private")
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: D(12_001) in read(heard))

    assert amounts(heard) == []


async def test_what_is_forced_where_there_never_was_a_stream_is_asked_for() -> None:
    """Not even an earlier run has kept anything of this account: answers are all that is known of it, and a position
    that is gone in the next one has not been closed by its owner."""
    async with stories.exchange() as exchange:
        exchange.fault(rest="503", rest_paths=["/fapi/v1/listenKey"])
        async with private(exchange, is_live=False) as (_, heard):
            await heard.until(lambda: kinds(heard)[PositionsRead] >= 2)
            exchange.set_mark("SOLUSDT", "120")
            forced = await heard.first(Fill)

    assert (forced.symbol, forced.forced) == ("SOLUSDT", ForcedKind.LIQUIDATION)


async def test_rest_that_waits_for_its_turn_says_so() -> None:
    """A trading bot that uses up what our address may ask fails nothing, and nothing is compared meanwhile."""
    async with stories.exchange() as exchange, private(exchange, rest_timeout_s=0.2) as (_, heard):

        def notes() -> list[str]:
            reports = [event for event in heard.events if isinstance(event, LinkReport) and event.link.name == "rest"]
            assert {report.state for report in reports} == {LinkState.LIVE}
            return [report.note for report in reports if report.note]

        exchange.rest.weights.used = exchange.rest.weights.others = 900_000
        await heard.until(notes)
        assert notes()[0].startswith("waits for its turn: ")


async def test_a_position_that_is_gone_is_not_told_before_the_forced_orders_that_were_refused_once() -> None:
    """It would be one that its owner has closed, and its incident over."""
    asked = "GET /fapi/v1/forceOrders"
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20, backoff_min_s=0.5) as (_, heard):
        exchange.fault(rest="503", rest_paths=["/fapi/v1/forceOrders"])
        exchange.drop("private")
        exchange.set_mark("SOLUSDT", "120")
        known = len(heard.events)
        await until(lambda: exchange.counters[asked], "they are asked for in vain")
        exchange.fault(rest="ok", rest_paths=[])
        await heard.until(lambda: PositionsRead in map(type, heard.events[known:]))

    told = [type(e) for e in heard.events[known:] if isinstance(e, Fill | PositionsRead)]
    assert told[0] is Fill


async def test_what_is_forced_while_a_stream_is_mute_is_asked_for_though_another_takes_its_place_first(
    log: io.StringIO,
) -> None:
    """The fresh one begins with a position less, and the old one, which owes it, is never compared again."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20, keepalive_s=0.05) as (_, heard):
        exchange.clock.offset_ms += 4_000  # what an answer does not name may be too new for it
        exchange.fault(mute_private=True)
        exchange.set_mark("SOLUSDT", "120")
        known = len(heard.events)
        exchange.fault(rest="503", rest_paths=["/fapi/v1/listenKey"])
        await until(lambda: "fresh connection failed" in log.getvalue(), "it is to be changed for another")
        exchange.fault(rest="ok", rest_paths=[])
        await heard.until(lambda: PositionsRead in map(type, heard.events[known:]))

    told = [type(e) for e in heard.events[known:] if isinstance(e, Fill | PositionsRead)]
    assert told[0] is Fill


async def test_a_list_of_forced_orders_that_is_refused_is_no_loss_of_rest() -> None:
    """All that makes the truth is answered. Where many accounts are compared now and then, each would be told of as
    blind for as long as the exchange refuses the list."""
    asked = "GET /fapi/v1/forceOrders"
    async with stories.exchange() as exchange, private(exchange) as (_, heard):
        exchange.fault(rest="503", rest_paths=["/fapi/v1/forceOrders"])
        exchange.drop("private")
        exchange.set_mark("SOLUSDT", "120")
        await heard.until(lambda: exchange.counters[asked] >= 3 and heard.states("private")[-1] is LinkState.LIVE)
        so_far, before = len(heard.states("rest")), exchange.counters[asked]
        await heard.until(lambda: exchange.counters[asked] >= before + 3)
        meanwhile = heard.states("rest")[so_far:]
        exchange.fault(rest="ok", rest_paths=[])
        await heard.first(Fill)

    assert LinkState.DOWN not in meanwhile


async def test_what_is_pushed_while_a_snapshot_is_under_way_is_told_after_it() -> None:
    """The snapshot may not have it; whoever passes it on at once, or not at all, goes on with the older balance."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20) as (_, heard):
        known, count = len(heard.events), exchange.counters["GET /fapi/v3/positionRisk"]
        exchange.fault(latency_s=0.5, rest_paths=["/fapi/v3/positionRisk"])
        exchange.drop("private")
        await until(lambda: exchange.counters["GET /fapi/v3/positionRisk"] > count, "the balances have been read")
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: amounts(heard))

    told = [type(e) for e in heard.events[known:] if isinstance(e, AccountChanged | BalancesRead)]
    assert told == [BalancesRead, AccountChanged]
    assert (read(heard)[-1], amounts(heard)) == (D(12_000), [D(12_001)])


async def test_a_snapshot_in_which_a_position_is_newer_than_the_balances_has_those_asked_for_again() -> None:
    """What the position has realized would be in neither, and the pool look poorer or richer than it is."""
    asked = "GET /fapi/v3/positionRisk"
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20) as (feed, heard):
        known, count = len(heard.events), exchange.counters[asked]
        exchange.fault(latency_s=0.3, rest_paths=["/fapi/v3/positionRisk"])
        feed.resync()
        await until(lambda: exchange.counters[asked] > count, "the balances have been read")
        exchange.fill("main", "BTCUSDT", "SELL", "0.5", price="61000", commission_rate="0")
        await heard.until(lambda: PositionsRead in map(type, heard.events[known:]))

    told = [type(e) for e in heard.events[known:] if isinstance(e, BalancesRead | PositionsRead)]
    before, after = read(heard)[-2:]
    assert told == [BalancesRead, PositionsRead, BalancesRead]
    assert after - before == 500


async def test_a_stream_that_opens_and_does_not_answer_is_never_called_live() -> None:
    """Each life would make it young again, and its blindness would never be told."""
    async with stories.exchange() as exchange:
        exchange.fault(half_open_private=True)
        async with private(exchange, is_live=False, first_frame_s=0.2) as (_, heard):
            await heard.until(lambda: heard.states("private").count(LinkState.DOWN) >= 2)
            exchange.fault(half_open_private=False)
            await heard.state("private", LinkState.LIVE)

    states = heard.states("private")
    assert LinkState.LIVE not in states[:-1]


@pytest.mark.parametrize("skew_ms", [60_000, -60_000], ids=["behind", "ahead"])
async def test_a_clock_that_is_wrong_costs_one_question(skew_ms: int, log: io.StringIO) -> None:
    """The exchange refuses whoever is seconds off; its time is asked anew then, not within the next ten minutes."""
    async with stories.exchange() as exchange, private(exchange) as (_, heard):
        exchange.fault(clock_skew_ms=skew_ms)
        down = await heard.state("rest", LinkState.DOWN)
        count = kinds(heard)[PositionsRead]
        await heard.until(lambda: kinds(heard)[PositionsRead] > count)

    measured = [e.offset_ms for e in heard.events if isinstance(e, ClockOffset)]
    assert "-1021" in down.note
    assert abs(measured[-1] - skew_ms) < 1000
    assert warnings(log).count("account not reconciled") == 1


def read(heard: Heard) -> list[Decimal]:
    """Wallet balances as snapshots have shown them."""
    return [
        b.cross_wallet_balance
        for e in heard.events
        if isinstance(e, BalancesRead)
        for b in e.balances
        if b.asset == "USDT"
    ]


# ---- the listen key ----


async def test_a_key_that_cannot_be_extended_is_told_and_the_stream_opened_anew(log: io.StringIO) -> None:
    """Its hour runs out; until then the old stream goes on telling."""
    async with stories.exchange() as exchange, private(exchange, keepalive_s=0.05) as (_, heard):
        exchange.fault(rest="503", rest_paths=["/fapi/v1/listenKey"])
        noted = [LinkState.LIVE, "the listen key was not extended 3 times in a row: HTTP 503"]
        await heard.until(lambda: noted in [[r.state, r.note] for r in private_reports(heard)])
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: amounts(heard))
        exchange.fault(rest="ok", rest_paths=[])
        await heard.until(lambda: exchange.counters["connected private"] >= 2)
        await heard.until(lambda: private_reports(heard)[-1].note == "")
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: len(amounts(heard)) == 2)

    assert LinkState.DOWN not in heard.states("private")
    assert warnings(log).count("keepalive failed") >= 3


def private_reports(heard: Heard) -> list[LinkReport]:
    return [e for e in heard.events if isinstance(e, LinkReport) and e.link.name == "private"]


async def test_a_stream_that_has_nothing_to_tell_says_that_it_was_heard() -> None:
    """That nothing has come proves something only for as long as it would have come."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=0.2) as (feed, heard):
        last = (await heard.first(LinkHeard)).at
        await heard.until(lambda: any(isinstance(e, LinkHeard) and e.at > last for e in heard.events))

    assert {e.link for e in heard.events if isinstance(e, LinkHeard)} == {feed.link}


async def test_a_stream_that_is_opened_anew_is_not_heard_before_what_came_meanwhile_is_read() -> None:
    """That its host shakes hands says nothing of a forced order that came while there was no stream, and until REST
    answers again nobody knows of it."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20) as (_, heard):
        exchange.fault(rest="503", rest_paths=["/fapi/v3/account"])
        exchange.drop("private")
        await heard.until(lambda: heard.states("private").count(LinkState.DOWN) >= 3)
        assert exchange.counters["connected private"] >= 3
        down = [r for r in private_reports(heard) if r.state is LinkState.DOWN]
        meanwhile = heard.events[heard.events.index(down[0]) :]
        exchange.fault(rest="ok", rest_paths=[])
        await heard.until(lambda: heard.states("private")[-1] is LinkState.LIVE)
        back = heard.events[heard.events.index(down[-1]) :]

    assert LinkHeard not in map(type, meanwhile)
    assert LinkHeard in map(type, back)


async def test_a_key_that_is_lost_unannounced_is_replaced(log: io.StringIO) -> None:
    """The stream is then silent for ever, and open."""
    async with stories.exchange() as exchange, private(exchange, keepalive_s=0.1, reconcile_s=20) as (_, heard):
        exchange.listen_keys.stop(forget=True)
        down = await heard.state("private", LinkState.DOWN)
        await heard.until(lambda: heard.states("private")[-1] is LinkState.LIVE)
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: amounts(heard))

    assert down.note == "the listen key does not exist any more"


async def test_a_key_that_others_have_replaced_unannounced_is_taken_anew(log: io.StringIO) -> None:
    """Another program has deleted it and made a new one, which ours keeps alive from then on, without an error."""
    async with stories.exchange() as exchange, private(exchange, keepalive_s=0.1, reconcile_s=20) as (_, heard):
        exchange.listen_keys.stop(forget=True)
        exchange.listen_keys.create("main")
        down = await heard.state("private", LinkState.DOWN)
        await heard.until(lambda: heard.states("private")[-1] is LinkState.LIVE)
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: amounts(heard))

    assert down.note == "the listen key has been replaced"
    assert exchange.counters["DELETE /fapi/v1/listenKey"] == 0


@pytest.mark.parametrize("form", ["query", "multi"])
async def test_a_frame_that_misreads_is_logged_without_its_key(form: str, log: io.StringIO) -> None:
    """Whoever has the key hears all that the account does; with several accounts to a stream each frame names it. What
    it would have told is asked for, and not half a minute later."""
    links: dict[str, Any] = {"private_forms": (form,), "reconcile_s": 20}
    async with stories.exchange() as exchange, private(exchange, **links) as (_, heard):
        key, count = exchange.listen_keys.of("main"), kinds(heard)[PositionsRead]
        assert key is not None
        exchange.send_raw("private", f'{{"stream":"{key}","data":{{"e":"ACCOUNT_UPDATE","E":"x"}}}}')
        await heard.until(lambda: kinds(heard)[PositionsRead] > count)

    assert "frame dropped" in warnings(log)
    assert key not in log.getvalue()


async def test_what_a_frame_that_misreads_has_changed_is_known_though_rest_lags_behind() -> None:
    """The first answer may show what was before it, and the next comparison is far off."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=3600) as (_, heard):
        exchange.fault(stale_s=1.5, mute_private=True)
        exchange.transfer("main", "USDT", "1")
        exchange.send_garbage("private")
        await heard.until(lambda: D(12_001) in read(heard))

    assert amounts(heard) == []


async def test_the_end_of_a_key_that_comes_twice_costs_one_connection() -> None:
    """It has been seen exactly at the hour, and again a moment later."""
    async with stories.exchange() as exchange, private(exchange, reconcile_s=20) as (_, heard):
        key = exchange.listen_keys.of("main")
        assert exchange.expire_listen_key("main")
        await heard.state("private", LinkState.DOWN)
        await heard.until(lambda: heard.states("private")[-1] is LinkState.LIVE)
        exchange.send_raw("private", json.dumps({"e": "listenKeyExpired", "E": 1, "listenKey": key}))
        exchange.transfer("main", "USDT", "1")
        await heard.until(lambda: amounts(heard))

    assert exchange.counters["connected private"] == 2
    assert heard.states("private").count(LinkState.DOWN) == 1


# ---- who is asked how often ----


async def test_an_endangered_account_is_compared_before_others() -> None:
    """Of what all may use, it takes what it needs."""
    accounts = [stories.account("main"), stories.account("other")]
    async with stories.exchange(*accounts) as exchange:
        pace, budget = Pace(0.1, 6_600), Budget(100_000)  # 100 of 110 a second are one account's
        async with (
            private(exchange, "other", pace=pace, budget=budget) as (_, other),
            private(exchange, "main", pace=pace, budget=budget) as (feed, heard),
        ):
            other.events += await other.inbox.take()
            feed.endangered = True
            before, other_before = kinds(heard)[PositionsRead], kinds(other)[PositionsRead]
            await heard.until(lambda: kinds(heard)[PositionsRead] >= before + 20)
            other.events += await other.inbox.take()

    assert kinds(other)[PositionsRead] - other_before <= 6


async def test_of_a_crowd_that_asks_at_once_each_does_not_look_at_all_the_others() -> None:
    """A loop that is busy for seconds with whose turn it is tells nobody anything."""
    budget, looks = Budget(100_000), 0

    def need() -> Need:
        nonlocal looks
        looks += 1
        return Need.DANGER

    budget.answered(0, 100_000)  # by others
    crowd = [asyncio.create_task(budget.take(f"a{account}", 5, need)) for account in range(1000)]
    await until(lambda: looks, "somebody is looked at")
    for one in crowd:
        one.cancel()
    await asyncio.wait(crowd)

    assert looks <= 10_000


async def test_all_of_a_crowd_ask_where_there_is_weight_for_all() -> None:
    """However many begin in one turn of the loop, and though nothing else happens."""
    budget = Budget(100_000)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(budget.take(f"a{account}", 5, lambda: Need.EASE) for account in range(30)))


async def test_of_a_crowd_sixteen_begin_at_once_and_the_next_after_a_pause() -> None:
    """In a crash a thousand get into danger: each opens a connection, while alerts have to go out."""
    loop, budget = asyncio.get_running_loop(), Budget(100_000)
    began, first, asked = loop.time(), asyncio.Event(), list[float]()

    async def ask(account: int) -> None:
        await budget.take(f"a{account}", 5, lambda: Need.DANGER)
        asked.append(loop.time() - began)
        first.set()
        budget.answered(5, None)

    async with asyncio.TaskGroup() as crowd:
        for account in range(40):
            crowd.create_task(ask(account))
        await first.wait()
        at_once = len(asked)

    assert at_once == 16
    assert asked[16] >= 0.4
    assert asked[32] >= 0.8


async def test_where_it_cannot_be_said_whose_turn_it_is_nobody_waits_for_ever() -> None:
    """A bug: it ends the daemon, which begins anew, where who waits on would be blind and not know. Who was called
    before it has its turn: what it weighs would count for ever as asking."""
    budget = Budget(100)
    needs = [Need.START]  # asked again, it is empty
    budget.answered(0, 98)  # by others

    waiting = (
        budget.take("called", 5, lambda: Need.DANGER),
        budget.take("passed over", 5, lambda: Need.EASE),
        budget.take("a bug", 5, needs.pop),
        budget.take("behind it", 5, lambda: Need.EASE),
    )
    async with asyncio.timeout(WAIT_S):
        called, *failed = await asyncio.gather(*waiting, return_exceptions=True)

    assert called is None
    assert [type(exc) for exc in failed] == [IndexError] * 3


async def test_the_daemon_says_who_is_endangered(tmp_path: Path) -> None:
    """By the same levels at which blindness is critical at once; with or without a broker."""
    async with stories.exchange() as exchange:
        config = settings.load(write_config(tmp_path / "d", exchange, free_port()))
        daemon, stop = Daemon(config, settings.fetch(config)), asyncio.Event()
        running = asyncio.create_task(daemon.run(stop))
        await until(lambda: daemon._runtime, "the store has answered")
        assert daemon._runtime is not None
        feed = daemon._runtime.feeds.accounts["main"]
        await until(lambda: feed.live, "the link is live")
        assert not feed.endangered
        exchange.set_mark("BTCUSDT", "49100")
        await until(lambda: feed.endangered, "it is endangered")
        exchange.set_mark("BTCUSDT", "60000")
        await until(lambda: not feed.endangered, "it is not any more")
        stop.set()
        await running


# ---- whoever listens ----


async def test_a_tap_hears_all_that_events_are_made_of_and_no_key() -> None:
    """What it hears is written to files."""
    tap = Recorded()
    async with stories.exchange(tick_s=None) as exchange:
        async with market(exchange, tap, market_connections=2) as heard:
            await Ticks(exchange, heard).until(lambda: len(heard.seen) >= 10)
        async with private(exchange, tap=tap, private_forms=("multi",), keepalive_s=0.05) as (_, account_heard):
            key = exchange.listen_keys.of("main")
            await account_heard.until(lambda: exchange.counters["PUT /fapi/v1/listenKey"] >= 2)
            exchange.transfer("main", "USDT", "1")
            await account_heard.until(lambda: amounts(account_heard))
            exchange.expire_listen_key("main")
            await account_heard.state("private", LinkState.DOWN)
            renewed = exchange.listen_keys.of("main")

    marks = [json.loads(raw) for account, raw, _ in tap.of("market") if b"markPriceUpdate" in raw]
    assert len(marks) == len({(mark["data"]["s"], mark["data"]["p"]) for mark in marks}) >= 10
    assert {account for account, _, _ in tap.of("market")} == {None}
    assert any(b"ACCOUNT_UPDATE" in raw for account, raw, _ in tap.of("private") if account == "main")
    asked = {request for _, _, request in tap.of("rest")}
    assert {"GET /fapi/v3/account", "GET /fapi/v3/positionRisk", "GET /fapi/v1/exchangeInfo"} <= asked
    assert not {request for request in asked if "listenKey" in str(request)}
    states = [(account, json.loads(raw)["link"], json.loads(raw)["state"]) for account, raw, _ in tap.of("link")]
    assert [s for s in states if s[1] == "market"][-1] == (None, "market", "live")
    assert {("main", "rest", "live"), ("main", "private", "live"), ("main", "private", "down")} <= set(states)
    for secret in (key, renewed, exchange.accounts["main"].api_key):
        assert secret is None or not any(secret.encode() in raw for _, _, raw, _ in tap.lines)
