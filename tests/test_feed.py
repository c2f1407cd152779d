"""The life of a link: sessions for ever, and an end when it is asked for; and what the links ask a host for."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web
from msgspec import structs
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from monitor.config import AccountConfig, LinksConfig
from monitor.config_values import Secret
from monitor.errors import ExchangeError, LinkDown
from monitor.events import (
    AdlQuantilesRead,
    AdlRiskRead,
    AssetRate,
    AssetRates,
    BracketsRead,
    ContractChanged,
    ContractsRead,
    FundingTermsRead,
    InsuranceFundRead,
    LinkId,
    LinkState,
    MarkPrice,
    PositionKey,
    PositionsRead,
    Side,
)
from monitor.shell.feed import Feed, Session
from monitor.shell.handshakes import Handshakes
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from monitor.shell.rest import Budget, Rest, _error
from monitor.shell.websocket import connection, why_ended
from monitor.turns import Need
from monitor.venues import VENUES, Hosts
from tests.heard import Heard, account_feed, running
from tests.rig import free_port, until

D = Decimal


class Parts(Feed):
    """A link whose sessions have one part, and nothing else to do."""

    def __init__(self, part: Callable[[], Coroutine[Any, Any, None]], session_waits: bool) -> None:
        links = LinksConfig(backoff_min_s=0.01, backoff_max_s=0.01)
        rest = Rest(Hosts("", "", "", ""), Budget(1), 1)
        super().__init__(LinkId("main", "private"), VENUES["binance-usdm"], "market", rest, Inbox(), links, None)
        self.part = part
        self.session_waits = session_waits

    def begin(self) -> Session:
        return OfParts(self)

    async def run(self) -> None:
        await self.keep()


class OfParts(Session):
    def __init__(self, feed: Parts) -> None:
        super().__init__()
        self._feed = feed

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.part())
            if self._feed.session_waits:
                await asyncio.Event().wait()


async def test_a_link_that_fails_while_it_is_stopped_ends_all_the_same() -> None:
    """The group reports the failure alone; a loop that only retries would never end, and the daemon with it."""
    opened = asyncio.Event()

    async def part() -> None:
        try:
            opened.set()
            await asyncio.Event().wait()
        finally:
            raise LinkDown("the connection was lost just then")

    link = Parts(part, session_waits=True)
    running = asyncio.create_task(link.run())
    await opened.wait()
    link.stop()
    running.cancel()

    await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)
    assert running.done()


async def test_who_is_late_himself_does_not_take_it_for_the_silence_of_the_other() -> None:
    """A machine that is held up for longer than a pong may take would cut every connection, and begin all anew."""

    async def part() -> None:
        return None

    def echo(socket: ServerConnection) -> None:
        for _ in socket:
            pass

    link = Parts(part, session_waits=False)
    link.config = structs.replace(link.config, ping_interval_s=0.01, ping_timeout_s=0.1)
    with serve(echo, "127.0.0.1", 0) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        async with link.connection(f"ws://127.0.0.1:{server.socket.getsockname()[1]}") as socket:
            for _ in range(20):
                await asyncio.sleep(0)
                time.sleep(0.15)  # noqa: ASYNC251 - this is what is tested
            latency = await asyncio.wait_for(await socket.ping(), 5)
        server.shutdown()
        answering.join()

    assert latency > 0


async def test_who_is_heard_is_asked_for_no_sign_of_life_and_who_falls_silent_is_found_out() -> None:
    """What comes shows as much as an answer to a ping; this other side answers none."""
    silent = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(cast(Request, request)))
        while not silent.is_set():
            protocol.send_text(b"{}")
            writer.writelines(protocol.data_to_send())
            await asyncio.sleep(0.02)
        while await reader.read(1000):
            pass
        writer.close()

    async def read_on(socket: ClientConnection) -> None:
        while True:
            await socket.recv()

    async def part() -> None:
        return None

    link = Parts(part, session_waits=False)
    link.config = structs.replace(link.config, ping_interval_s=1, ping_timeout_s=0.1, close_timeout_s=0.1)
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        begun, heard = time.monotonic(), list[float]()
        async with link.connection(f"ws://127.0.0.1:{port}", heard.append) as socket:
            while time.monotonic() < begun + 1.5:  # longer than whoever is asked has time
                await socket.recv()
            silent.set()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(read_on(socket), 10)

    assert begun < heard[0] < heard[-1] < time.monotonic() - 1, "when it was found out it had not been heard for long"


async def test_a_link_that_fails_of_itself_goes_on() -> None:
    """Being stopped is the only end; a failure is the beginning of the next session."""
    parts = 0
    third = asyncio.Event()

    async def part() -> None:
        nonlocal parts
        parts += 1
        if parts == 3:
            third.set()
        raise LinkDown("connection lost")

    link = Parts(part, session_waits=False)
    running = asyncio.create_task(link.run())
    await asyncio.wait_for(third.wait(), 10)

    assert not running.done()
    link.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- a host of which every answer can be chosen ----

CONTRACTS = {"symbols": [{"symbol": "BTCUSDT", "baseAsset": "BTC", "marginAsset": "USDT", "status": "TRADING"}]}
ANSWERS: dict[str, Any] = {
    "/fapi/v1/exchangeInfo": CONTRACTS,
    "/fapi/v1/premiumIndex": [{"symbol": "BTCUSDT", "markPrice": "90000", "time": 1}],
    "/fapi/v1/assetIndex": [{"symbol": "BTCUSD", "time": 1, "bidRate": "85000", "askRate": "95000"}],
    "/fapi/v1/symbolAdlRisk": [{"symbol": "BTCUSDT", "adlRisk": "low"}],
    "/fapi/v1/insuranceBalance": [{"symbols": ["BTCUSDT"], "assets": [{"asset": "USDT", "marginBalance": "7"}]}],
    "/fapi/v1/fundingInfo": [{"symbol": "BTCUSDT", "fundingIntervalHours": 4}],
    "/fapi/v1/listenKey": {"listenKey": "key"},
    "/fapi/v1/accountConfig": {"dualSidePosition": False, "multiAssetsMargin": False},
    "/fapi/v1/symbolConfig": [],
    "/fapi/v1/leverageBracket": [],
    "/fapi/v3/account": {"assets": []},
    "/fapi/v3/positionRisk": [],
    "/fapi/v1/adlQuantile": [{"symbol": "BTCUSDT", "adlQuantile": {"LONG": 1, "SHORT": 2, "BOTH": 3}}],
    "/dapi/v1/exchangeInfo": CONTRACTS,
    "/dapi/v1/premiumIndex": [{"symbol": "BTCUSDT", "markPrice": "90000", "time": 1}],
    "/dapi/v1/fundingInfo": [],
}
RATES = {"BTC": AssetRate(D(85000), D(95000))}
MARK = {"e": "markPriceUpdate", "E": 5, "s": "BTCUSDT", "p": "90001"}
CONTRACT = {"e": "contractInfo", "E": 5, "s": "ETHUSDT", "dt": 4133404800000, "cs": "SETTLING"}
RATE = {"e": "assetIndexUpdate", "E": 5, "s": "USDTUSD", "B": "0.99", "A": "1.01"}
LINKS = LinksConfig(
    first_frame_s=0.4,
    backoff_min_s=0.02,
    backoff_max_s=0.05,
    bridge_s=0.05,
    refresh_s=30,
    rest_timeout_s=2,
    weight_per_minute=100_000,
)


class Host:
    """An exchange's host on loopback: it answers what it is told to, and says nothing of itself.

    Attributes:
        answers: Path → JSON; what is not in it is not found.
        asked: Path → how often.
        pushed: Stream → what is pushed from its subscription on, again and again. One that was not here when it was
            subscribed stays silent.
        subscriptions: Every SUBSCRIBE, in order of arrival.
        callers: Where REST requests came from: one address and port for each TCP connection.
        limited: Paths at which it says that we are banned for 7 s.
        used: What it says that our address has used of its weight; None: nothing.
        answering: Cleared while it answers nobody.
        refuses_streams: Whether it lets nobody connect.
        refusal: With which status and headers.
        handshakes: How often somebody wanted to.
    """

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        self.asked: Counter[str] = Counter()
        self.pushed: dict[str, Any] = {"btcusdt@markPrice@1s": MARK}
        self.subscriptions: list[list[str]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.callers: set[Any] = set()
        self.limited: set[str] = set()
        self.used: int | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.refuses_streams = False
        self.refusal: tuple[int, dict[str, str]] = 503, {}
        self.handshakes = 0
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [(_, self.port)] = runner.addresses
        try:
            yield
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._stream(request)
        self.asked[request.path] += 1
        await self.answering.wait()
        self.callers.add(request.transport and request.transport.get_extra_info("peername"))
        if request.path in self.limited:
            return web.Response(status=418, text="banned", headers={"Retry-After": "7"})
        if request.path == "/fapi/v1/time":
            return web.json_response({"serverTime": int(time.time() * 1000)})
        if request.path not in self.answers:
            return web.Response(status=404, text="<html>nothing here</html>")
        headers = None if self.used is None else {"X-MBX-USED-WEIGHT-1M": str(self.used)}
        return web.json_response(self.answers[request.path], headers=headers)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.handshakes += 1
        if self.refuses_streams:
            status, headers = self.refusal
            return web.Response(status=status, headers=headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        streams: set[str] = set()
        pushing = asyncio.create_task(self._push(socket, streams))
        try:
            async for message in socket:
                told = json.loads(message.data)
                if told["method"] == "SUBSCRIBE":
                    self.subscriptions.append(told["params"])
                    streams |= self.pushed.keys() & set(told["params"])
        finally:
            pushing.cancel()
        return socket

    async def _push(self, socket: web.WebSocketResponse, streams: set[str]) -> None:
        while not socket.closed:
            for stream in sorted(streams):
                await socket.send_json({"stream": stream, "data": self.pushed[stream]})
            await asyncio.sleep(0.02)

    def hosts(self) -> Hosts:
        streams = f"ws://127.0.0.1:{self.port}"
        return Hosts(f"http://127.0.0.1:{self.port}", streams, streams, "")


def account(host: Host, venue: str) -> AccountConfig:
    return AccountConfig("main", venue, Secret("env", "K"), Secret("env", "S"), "custom", host.hosts(), "market")


@asynccontextmanager
async def market(
    host: Host, symbols: set[str], rates: bool = False, venue: str = "binance-usdm", links: LinksConfig = LINKS
) -> AsyncIterator[Heard]:
    """A market feed on this host, told to watch these."""
    heard = Heard()
    async with host.open():
        rest = Rest(host.hosts(), heard.budget, 2)
        feed = MarketFeed(account(host, venue), rest, heard.inbox, links)
        feed.watch(symbols, rates)
        async with running(feed, rest):
            yield heard


@asynccontextmanager
async def private(host: Host, links: LinksConfig = LINKS) -> AsyncIterator[Heard]:
    """An account's feed on this host."""
    heard = Heard()
    async with host.open():
        rest = Rest(host.hosts(), Budget(100_000), 2, "key", "secret")
        async with running(account_feed(account(host, "binance-usdm"), rest, heard.inbox, links), rest):
            yield heard


# ---- what a market link carries beside marks ----


async def test_changed_contracts_are_subscribed_with_the_marks() -> None:
    """The marks first: nothing that a host refuses may cost them."""
    host = Host()
    host.pushed["!contractInfo"] = CONTRACT
    async with market(host, {"BTCUSDT"}) as heard:
        await heard.state("market", LinkState.LIVE)
        changed = await heard.first(ContractChanged)

    assert changed == ContractChanged("market", "ETHUSDT", "SETTLING", None, None, 5)
    assert host.subscriptions[:2] == [["btcusdt@markPrice@1s"], ["!contractInfo"]]
    assert host.asked["/fapi/v1/assetIndex"] == 0


async def test_rates_are_subscribed_where_they_are_wanted() -> None:
    """Only accounts in multi-assets mode need them."""
    host = Host()
    host.answers.pop("/fapi/v1/assetIndex")
    host.pushed["!assetIndex@arr"] = [RATE]
    async with market(host, {"BTCUSDT"}, rates=True) as heard:
        rates = await heard.first(AssetRates)

    assert rates == AssetRates("market", {"USDT": AssetRate(D("0.99"), D("1.01"))}, 5)
    assert ["!contractInfo", "!assetIndex@arr"] in host.subscriptions


async def test_nothing_but_a_mark_proves_a_market_link() -> None:
    """Collateral may be priced while no mark of a held symbol comes."""
    host = Host()
    host.pushed = {"!contractInfo": CONTRACT, "!assetIndex@arr": [RATE]}
    async with market(host, {"BTCUSDT"}, rates=True) as heard:
        down = await heard.state("market", LinkState.DOWN)

    assert down.note == "open, but no mark for 0.4 s"
    assert LinkState.LIVE not in heard.states("market")
    assert any(isinstance(event, AssetRates) and not event.bridged for event in heard.events)
    assert any(isinstance(event, ContractChanged) for event in heard.events)


async def test_rates_are_bridged_while_the_stream_is_away() -> None:
    """As marks are."""
    host = Host()
    host.refuses_streams = True
    async with market(host, {"BTCUSDT"}, rates=True) as heard:
        rates = await heard.first(AssetRates)
        mark = await heard.first(MarkPrice)

    assert rates == AssetRates("market", RATES, 1, bridged=True)
    assert mark.bridged


async def test_rates_are_bridged_where_the_stream_brings_marks_alone() -> None:
    """A lost subscription is made good, and asked for again."""
    host = Host()
    async with market(host, {"BTCUSDT"}, rates=True) as heard:
        await heard.state("market", LinkState.LIVE)
        await heard.until(lambda: ["!contractInfo", "!assetIndex@arr"] in host.subscriptions)
        heard.events = [event for event in heard.events if not isinstance(event, AssetRates)]
        bridged = await heard.first(AssetRates)
        host.pushed["!assetIndex@arr"] = [RATE]
        await heard.until(lambda: any(isinstance(e, AssetRates) and not e.bridged for e in heard.events))

    assert bridged == AssetRates("market", RATES, 1, bridged=True)
    assert ["!assetIndex@arr"] in host.subscriptions
    assert LinkState.DOWN not in heard.states("market")


async def test_the_marks_of_a_symbol_that_is_silent_among_others_are_bridged() -> None:
    """Its position may fall to its liquidation all the same. What the stream does bring is left to the stream."""
    host = Host()
    host.answers["/fapi/v1/premiumIndex"] = [
        {"symbol": symbol, "markPrice": "80000", "time": 1} for symbol in ("BTCUSDT", "ETHUSDT", "XRPUSDT")
    ]
    async with market(host, {"BTCUSDT", "ETHUSDT"}) as heard:
        await heard.state("market", LinkState.LIVE)
        heard.events.clear()

        def bridged() -> Counter[str]:
            return Counter(e.symbol for e in heard.events if isinstance(e, MarkPrice) and e.bridged)

        await heard.until(lambda: bridged()["ETHUSDT"] > 2)
        counts = bridged()
        host.pushed["ethusdt@markPrice@1s"] = {**MARK, "s": "ETHUSDT"}
        await heard.until(lambda: heard.seen["ETHUSDT", D(90001)])
        asked = host.asked["/fapi/v1/premiumIndex"]
        heard.events.clear()
        host.answers["/fapi/v1/premiumIndex"] = []
        host.pushed["btcusdt@markPrice@1s"] = {**MARK, "E": 6}
        await heard.until(lambda: any(isinstance(e, MarkPrice) and e.at_ms == 6 for e in heard.events))

    assert counts["BTCUSDT"] <= 1  # it was asked for before the link was live
    assert counts["XRPUSDT"] == 0
    assert host.asked["/fapi/v1/premiumIndex"] - asked <= 1
    assert LinkState.DOWN not in heard.states("market")


async def test_rates_without_a_position_leave_the_link_idle() -> None:
    """Without a position there is nothing that could be liquidated."""
    host = Host()
    async with market(host, set(), rates=True) as heard, ClientSession() as other:
        await heard.state("market", LinkState.IDLE)
        async with other.get(f"{host.hosts().rest_url}/fapi/v1/time"):  # what the feed asked would be there before
            pass

    assert (host.sockets, host.asked) == ([], Counter({"/fapi/v1/time": 1}))
    assert heard.states("market") == [LinkState.IDLE]


async def test_a_market_without_rates_is_not_asked_for_them() -> None:
    """COIN-M has no collateral but the coin itself."""
    host = Host()
    host.pushed["!contractInfo"] = CONTRACT
    async with market(host, {"BTCUSDT"}, rates=True, venue="binance-coinm") as heard:
        await heard.state("market", LinkState.LIVE)
        await heard.first(ContractsRead)
        await heard.first(FundingTermsRead)
        await heard.first(ContractChanged)

    assert set(host.asked) <= {"/dapi/v1/exchangeInfo", "/dapi/v1/premiumIndex", "/dapi/v1/fundingInfo"}
    assert host.subscriptions[:2] == [["btcusdt@markPrice@1s"], ["!contractInfo"]]


# ---- facts ----


async def test_facts_of_the_market_come_with_its_contracts() -> None:
    """Each once; nothing of them changes by the second."""
    host = Host()
    async with market(host, {"BTCUSDT"}) as heard:
        contracts = await heard.first(ContractsRead)
        risks = await heard.first(AdlRiskRead)
        funds = await heard.first(InsuranceFundRead)
        terms = await heard.first(FundingTermsRead)

    assert list(contracts.contracts) == ["BTCUSDT"]
    assert (risks.risks, terms.interval_hours) == ({"BTCUSDT": "low"}, {"BTCUSDT": 4})
    assert funds.balances == {"BTCUSDT": {"USDT": D(7)}}
    assert {host.asked[f"/fapi/v1/{name}"] for name in ("symbolAdlRisk", "insuranceBalance", "fundingInfo")} == {1}


async def test_a_fact_that_fails_delays_no_other() -> None:
    """A host may lack one of them, answer another with nonsense, and have no contracts for a while."""
    host = Host()
    host.answers |= {"/fapi/v1/symbolAdlRisk": {"code": -1}, "/fapi/v1/insuranceBalance": 5}
    del host.answers["/fapi/v1/fundingInfo"], host.answers["/fapi/v1/exchangeInfo"]
    async with market(host, {"BTCUSDT"}) as heard:
        await heard.state("market", LinkState.LIVE)
        host.answers["/fapi/v1/exchangeInfo"] = CONTRACTS
        host.answers["/fapi/v1/fundingInfo"] = []
        await heard.first(ContractsRead)
        terms = await heard.first(FundingTermsRead)

    assert terms.interval_hours == {}
    assert LinkState.DOWN not in heard.states("market")


async def test_an_answer_that_does_not_read_is_asked_for_again_soon() -> None:
    """A page that says 200 is no answer; without its contracts a market would be half known for an hour."""
    host = Host()
    host.answers["/fapi/v1/exchangeInfo"] = "down for maintenance"
    async with market(host, {"BTCUSDT"}) as heard:
        await heard.until(lambda: host.asked["/fapi/v1/exchangeInfo"])
        await heard.state("market", LinkState.LIVE)
        host.answers["/fapi/v1/exchangeInfo"] = CONTRACTS
        await heard.first(ContractsRead)


async def test_facts_are_read_again_once_in_a_while() -> None:
    """Funding may come to be every hour within a quarter of an hour."""
    host = Host()
    async with market(host, {"BTCUSDT"}, links=structs.replace(LINKS, refresh_s=0.02)) as heard:
        await heard.first(FundingTermsRead)
        host.answers["/fapi/v1/fundingInfo"] = [{"symbol": "BTCUSDT", "fundingIntervalHours": 1}]
        await heard.until(lambda: FundingTermsRead("market", {"BTCUSDT": 1}) in heard.events)


async def test_contracts_are_read_again_once_something_is_held_that_was_listed_since() -> None:
    """Traders rush into what is new. When it ends, and in which steps it is reduced, must not wait for an hour."""
    host, heard = Host(), Heard()
    async with host.open():
        rest = Rest(host.hosts(), Budget(100_000), 2)
        feed = MarketFeed(account(host, "binance-usdm"), rest, heard.inbox, LINKS)
        feed.watch({"BTCUSDT"})
        async with running(feed, rest):
            assert "NEWUSDT" not in (await heard.first(ContractsRead)).contracts
            host.answers["/fapi/v1/exchangeInfo"] = {
                "symbols": [*CONTRACTS["symbols"], {**CONTRACTS["symbols"][0], "symbol": "NEWUSDT"}]
            }
            heard.events.clear()
            feed.watch({"BTCUSDT", "NEWUSDT"})
            assert "NEWUSDT" in (await heard.first(ContractsRead)).contracts
            heard.events.clear()
            feed.watch({"BTCUSDT", "ODDUSDT"})  # which the exchange names nowhere
            assert "ODDUSDT" not in (await heard.first(ContractsRead)).contracts
            asked = host.asked["/fapi/v1/exchangeInfo"]
            feed.watch({"BTCUSDT"})
            feed.watch({"BTCUSDT", "ODDUSDT"}, rates=True)
            await heard.first(AssetRates)

    assert asked == host.asked["/fapi/v1/exchangeInfo"] == 3


async def test_facts_of_an_account_that_could_not_be_read_are_asked_for_again_soon() -> None:
    """Of a daemon that starts before its network is up nobody would know for an hour what its key may do."""
    host = Host()
    del host.answers["/fapi/v1/adlQuantile"]
    async with private(host) as heard:
        await until(lambda: host.asked["/fapi/v1/adlQuantile"], "it is asked for")
        host.answers["/fapi/v1/adlQuantile"] = ANSWERS["/fapi/v1/adlQuantile"]
        await heard.first(AdlQuantilesRead)


async def test_places_in_the_queue_come_beside_the_snapshot() -> None:
    """One question, for all positions."""
    host = Host()
    async with private(host) as heard:
        read = await heard.first(AdlQuantilesRead)

    sides = {Side.LONG: 1, Side.SHORT: 2, Side.BOTH: 3}
    assert read == AdlQuantilesRead("main", {PositionKey("BTCUSDT", side): n for side, n in sides.items()})
    assert host.asked["/fapi/v1/adlQuantile"] == 1


async def test_a_place_in_the_queue_that_is_not_told_costs_no_snapshot() -> None:
    """Nor does the REST link count as down: the account is watched all the same."""
    host = Host()
    del host.answers["/fapi/v1/adlQuantile"]
    async with private(host, structs.replace(LINKS, refresh_s=0.02, reconcile_s=0.02)) as heard:
        await heard.first(PositionsRead)
        await heard.state("private", LinkState.LIVE)
        await heard.until(lambda: min(host.asked["/fapi/v1/adlQuantile"], host.asked["/fapi/v3/positionRisk"]) >= 3)

    assert LinkState.DOWN not in heard.states("rest")
    assert LinkState.DOWN not in heard.states("private")


async def test_a_place_in_the_queue_that_misreads_costs_no_snapshot() -> None:
    """Nor is the truth asked anew for it."""
    host = Host()
    host.answers["/fapi/v1/adlQuantile"] = {"code": -1}
    async with private(host, structs.replace(LINKS, refresh_s=0.02, reconcile_s=0.02)) as heard:
        await heard.state("private", LinkState.LIVE)
        await heard.until(lambda: host.asked["/fapi/v1/adlQuantile"] >= 3)

    assert LinkState.DOWN not in heard.states("private")


@pytest.mark.parametrize("answer", [{"code": -1}, None], ids=["misreads", "refused"])
async def test_rest_is_not_live_while_one_of_the_answers_that_make_the_truth_is_lacking(answer: Any) -> None:
    """The others come all the same, each a proof of REST at first sight: nobody would hear that the account is not
    compared any more, and that a mute stream would not be found out."""
    host = Host()
    async with private(host, structs.replace(LINKS, reconcile_s=0.02)) as heard:
        await heard.state("private", LinkState.LIVE)
        positions = host.answers.pop("/fapi/v3/positionRisk")
        if answer is not None:
            host.answers["/fapi/v3/positionRisk"] = answer
        await heard.state("rest", LinkState.DOWN)
        so_far, asked = len(heard.states("rest")), host.asked["/fapi/v3/account"]
        await heard.until(lambda: host.asked["/fapi/v3/account"] >= asked + 3)
        meanwhile = heard.states("rest")[so_far:]
        host.answers["/fapi/v3/positionRisk"] = positions
        await heard.until(lambda: heard.states("rest")[-1] is LinkState.LIVE)

    assert LinkState.LIVE not in meanwhile


# ---- a host that fails again and again ----


@pytest.mark.parametrize(("rebuild_after", "is_made_anew"), [(3, True), (1000, False)])
async def test_after_repeated_failure_rest_is_made_anew_too(rebuild_after: int, is_made_anew: bool) -> None:
    """An address that has moved, or a pool of dead connections, must not outlive every new session."""
    host = Host()
    host.refuses_streams = True
    async with private(host, structs.replace(LINKS, rebuild_after=rebuild_after)) as heard:
        await heard.until(lambda: host.asked["/fapi/v1/listenKey"] == 16)

    assert (len(host.callers) >= 6) == is_made_anew  # at once there are the session, the snapshots and the facts


async def test_an_account_whose_stream_cannot_be_opened_is_read_all_the_same() -> None:
    """The host of the streams may be out of reach where that of REST is not."""
    host = Host()
    host.refuses_streams = True
    async with private(host, structs.replace(LINKS, reconcile_s=0.05)) as heard:
        await heard.first(BracketsRead)
        await heard.until(lambda: len([e for e in heard.events if isinstance(e, PositionsRead)]) >= 3)

    assert LinkState.LIVE not in heard.states("private")


@pytest.mark.parametrize("status", [429, 418])
async def test_a_host_that_wants_no_stream_for_a_while_is_asked_for_none_by_anybody(status: int) -> None:
    """Who goes on has his address banned. REST is asked all the same: of a ban it would say so itself."""
    host = Host()
    host.refuses_streams, host.refusal = True, (status, {"retry-after": "3600"})
    async with market(host, {"BTCUSDT"}) as heard:
        told = await heard.state("market", LinkState.DOWN)
        other, rest = Heard(), Rest(host.hosts(), heard.budget, 2, "key", "secret")
        async with running(account_feed(account(host, "binance-usdm"), rest, other.inbox, LINKS), rest):
            other_told = await other.state("private", LinkState.DOWN)
            await other.first(PositionsRead)
        await heard.until(lambda: host.asked["/fapi/v1/premiumIndex"] >= 3)

    assert told.note == f"HTTP {status} instead of a stream, and none is wanted for 3600 s"
    assert other_told.note in [f"the exchange wants no stream of us for {n} s" for n in range(3590, 3601)]
    assert host.handshakes == 1


async def test_a_stream_is_opened_once_its_host_wants_one_again() -> None:
    host = Host()
    host.refuses_streams, host.refusal = True, (429, {"Retry-After": "1"})
    async with market(host, {"BTCUSDT"}) as heard:
        await heard.state("market", LinkState.DOWN)
        host.refuses_streams = False
        await heard.state("market", LinkState.LIVE)

    assert host.handshakes == 2


@pytest.mark.parametrize("answer", [{"listenkey": "SECRETKEY0123456789"}, {"listenKey": ""}])
async def test_an_answer_without_a_readable_key_is_not_repeated(answer: Any) -> None:
    """Why a link is down is published, and what is broken about the answer may be anything but the key in it."""
    host = Host()
    host.answers["/fapi/v1/listenKey"] = answer
    async with private(host) as heard:
        down = await heard.state("private", LinkState.DOWN)

    assert down.note == "POST /fapi/v1/listenKey: the answer has no listen key that reads"


async def test_whoever_shares_an_address_stays_away_with_the_one_that_was_told() -> None:
    """The ban is on the address, not on the account."""
    host = Host()
    host.limited = {"/fapi/v3/account"}
    async with host.open():
        budget = Budget(100_000)
        told, other = (Rest(host.hosts(), budget, 2, name, name) for name in ("one", "two"))
        with pytest.raises(ExchangeError, match="HTTP 418"):
            await told.ask(VENUES["binance-usdm"].requests.reconcile[0])
        asking = asyncio.create_task(other.ask(VENUES["binance-usdm"].requests.reconcile[1], lambda: Need.DANGER))
        await told.close()  # whatever could be sent at once has been sent by now
        async with ClientSession() as client, client.get(f"{host.hosts().rest_url}/fapi/v1/time"):
            pass
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await other.close()

    assert 6 < other.blocked_s <= 7
    assert "/fapi/v3/positionRisk" not in host.asked


async def test_what_others_have_used_of_the_weight_of_our_address_is_left_to_danger() -> None:
    """Another program, or the other futures market: only the exchange can count it, and says so with each answer."""
    host = Host()
    account, positions = VENUES["binance-usdm"].requests.reconcile
    async with host.open():
        rest = Rest(host.hosts(), Budget(1200), 2, "key", "secret")
        host.used = 1198
        await rest.ask(account)
        at_ease = asyncio.create_task(rest.ask(positions))
        for _ in range(2):
            await rest.ask(account, lambda: Need.DANGER)
        at_ease.cancel()
        await asyncio.gather(at_ease, return_exceptions=True)
        await rest.close()

    assert host.asked == {account.path: 3}


async def test_a_wallet_that_wants_to_be_left_alone_keeps_nobody_from_the_market() -> None:
    """It is another host, with a limit of its own, and only good to know; marks and balances are what matters."""
    host = Host()
    permissions = VENUES["binance-usdm"].requests.permissions
    assert permissions is not None
    host.limited = {permissions.path}
    async with host.open():
        hosts = structs.replace(host.hosts(), wallet_url=host.hosts().rest_url)
        rest = Rest(hosts, Budget(100_000), 2, "key", "secret")
        with pytest.raises(ExchangeError, match="HTTP 418"):
            await rest.ask(permissions)
        blocked_s = rest.blocked_s
        await rest.close()

    assert blocked_s == 0


async def test_a_wallet_that_is_not_there_disturbs_nobody() -> None:
    """A testnet has none; whoever began anew for it would end what others ask just then."""
    host, permissions, clock = Host(), VENUES["binance-usdm"].requests.permissions, VENUES["binance-usdm"].requests.time
    assert permissions is not None
    async with host.open():
        hosts = structs.replace(host.hosts(), wallet_url=f"http://127.0.0.1:{free_port()}")
        rest = Rest(hosts, Budget(100_000), 2, "key", "secret")
        await rest.ask(clock)
        for _ in range(10):
            with pytest.raises(ExchangeError):
                await rest.ask(permissions)
        await rest.ask(clock)
        await rest.close()

    assert len(host.callers) == 1


async def test_what_is_asked_while_rest_is_made_anew_is_answered_all_the_same() -> None:
    """Each third failure of a stream does that, and marks may be under way that no stream brings just then."""
    host, requests = Host(), VENUES["binance-usdm"].requests
    async with host.open():
        rest = Rest(host.hosts(), Budget(100_000), 2)
        host.answering.clear()
        asking = asyncio.create_task(rest.ask(requests.marks))
        await until(lambda: host.asked[requests.marks.path], "it is asked")
        await rest.renew()
        host.answering.set()
        answer = await asking
        await rest.ask(requests.time)
        await rest.close()

    assert json.loads(answer.body) == ANSWERS[requests.marks.path]
    assert len(host.callers) == 2


@pytest.mark.parametrize("place", ["https://login.example/", "http://[bad", "ws://host:x9/", "ws://a..b/", "/login"])
async def test_who_sends_us_elsewhere_is_not_followed(place: str) -> None:
    """A login page does. It would get the key; and an address that does not read would end the daemon."""
    asked: list[str] = []

    async def send_on(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": place})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", send_on)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    [(_, port)] = runner.addresses
    base = f"http://127.0.0.1:{port}"
    rest = Rest(Hosts(base, base, base, base), Budget(100_000), 2, "key", "secret")
    with pytest.raises(ExchangeError, match="HTTP 302"):
        await rest.ask(VENUES["binance-usdm"].requests.account[0])
    with pytest.raises(InvalidStatus) as of_stream:
        async with connection(
            f"ws://127.0.0.1:{port}/private", LinksConfig(), compress=False, name="private", handshakes=Handshakes()
        ):
            pass
    await rest.close()
    await runner.cleanup()

    assert why_ended(of_stream.value) == "HTTP 302 instead of a stream"
    assert asked == [VENUES["binance-usdm"].requests.account[0].path, "/private"]


async def test_rest_takes_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams do: where nothing else leads out, we would hear prices, and know no position."""
    host = Host()
    async with host.open():
        monkeypatch.setenv("http_proxy", host.hosts().rest_url)
        rest = Rest(structs.replace(host.hosts(), rest_url="http://exchange.invalid"), Budget(100_000), 2)
        await rest.ask(VENUES["binance-usdm"].requests.time)
        await rest.close()

    assert host.asked == {"/fapi/v1/time": 1}


@pytest.mark.parametrize("is_called", [False, True], ids=["before he is called", "after it"])
async def test_whoever_is_cancelled_at_the_moment_of_his_turn_takes_nothing_from_the_others(is_called: bool) -> None:
    """Each would be counted for ever as asking: in the end nobody would have a turn again."""
    budget = Budget(100)
    for _ in range(50):
        budget.blocked(0.001)
        waiting = asyncio.create_task(budget.take("one", 1, lambda: Need.EASE))
        await asyncio.sleep(0)
        time.sleep(0.002)  # noqa: ASYNC251 - his turn comes, and nobody has called him yet
        if is_called:
            budget.answered(0, None)
        waiting.cancel()
        budget.answered(0, None)
        await asyncio.wait({waiting})

    budget.answered(0, used=60)  # by the exchange's count

    async with asyncio.timeout(1):
        await budget.take("two", 20, lambda: Need.EASE)


def test_how_long_to_stay_away_goes_by_the_exchanges_own_clock() -> None:
    """Ours may be ten minutes wrong: to stay away for so long would be to be blind for so long."""
    headers = {"Date": "Sat, 21 Nov 2020 08:00:50 GMT"}
    until_ms = 1_605_945_650_000 + 90_000
    banned = f'{{"code":-1003,"msg":"Way too many requests; IP banned until {until_ms}."}}'.encode()

    assert _error(429, b"{}", headers).retry_after_s == 11  # a second into the next minute
    assert _error(418, banned, headers).retry_after_s == 90
    assert _error(418, banned, {**headers, "Retry-After": "7"}).retry_after_s == 7
    assert _error(418, banned, {**headers, "Retry-After": "0"}).retry_after_s == 90
    assert _error(429, b"{}", {**headers, "Retry-After": "0"}).retry_after_s == 11  # to ask on at once brings the ban
    assert _error(418, b"{}", {"Retry-After": "99999999999"}).retry_after_s == 3 * 86_400  # the longest ban there is
    assert _error(429, b"{}", {"Date": "nonsense"}).retry_after_s is not None
