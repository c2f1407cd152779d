"""Private streams of several accounts over one connection: each is told its own, and what is wrong with one is its own
business."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from monitor.errors import DecodeError, LinkCut, LinkDown, LinkUnwanted
from monitor.events import AccountChanged, LinkReport, LinkState, StreamControl
from monitor.shell.account_feed import AccountFeed
from monitor.shell.handshakes import Handshakes
from monitor.shell.rest import Budget, Rest
from monitor.shell.shared_stream import SharedStream, SharedStreams
from monitor.sim import Exchange
from monitor.venues import VENUES, Reply
from tests import stories
from tests.heard import Heard, account_feed, running
from tests.rig import until
from tests.test_links import LINKS, Recorded, account

D = Decimal
VENUE = VENUES["binance-usdm"]
SHARED = structs.replace(LINKS, accounts_per_connection=20, reconcile_s=20)
NAMES = [f"a{n}" for n in range(5)]


def logged(log: io.StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == event]


# ---- a host of which every answer can be chosen ----


def acknowledged(request: dict[str, Any]) -> dict[str, Any] | None:
    return {"result": None, "id": request["id"]}


class Host:
    """Where shared connections are opened. It notes each request, and when it came (monotonic seconds)."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], dict[str, Any] | None] = acknowledged
        self.requests: list[tuple[float, dict[str, Any]]] = []
        self.sockets: list[ServerConnection] = []
        self.closes_at_once = False
        self._server: Server | None = None

    @asynccontextmanager
    async def open(self, **links: Any) -> AsyncIterator[SharedStreams]:
        async with serve(self._serve, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield SharedStreams(VENUE, f"ws://127.0.0.1:{port}/private", structs.replace(SHARED, **links), Handshakes())

    async def _serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        if self.closes_at_once:
            return
        async for message in socket:
            request = json.loads(message)
            self.requests.append((time.monotonic(), request))
            if (answer := self.answer(request)) is not None:
                await socket.send(json.dumps(answer))

    def asked(self, method: str) -> list[list[str]]:
        return [request["params"] for _, request in self.requests if request["method"] == method]


class Member:
    """Who has a stream, for as long as it wants it."""

    def __init__(self, shared: SharedStreams, key: str) -> None:
        self.key = key
        self.heard: list[Any] = []
        self.heard_at: list[float] = []
        self.proved = asyncio.Event()
        self.outlived = asyncio.Event()
        self.doubts = 0
        self.why: Exception | None = None
        self._shared = shared
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self._shared.stream(self.key, self.outlived.set, self._doubt, self.heard_at.append) as stream:
                await stream.proved()
                self.proved.set()
                await self._read(stream)
        except (LinkDown, OSError) as exc:
            self.why = exc

    async def _read(self, stream: SharedStream) -> None:
        while True:
            self.heard.append(json.loads(await stream.recv())["data"])

    def _doubt(self) -> None:
        self.doubts += 1

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def members(shared: SharedStreams, *keys: str) -> AsyncIterator[list[Member]]:
    """Members that are not proved yet; those that are left at the end leave."""
    found = [Member(shared, key) for key in keys]
    try:
        yield found
    finally:
        await asyncio.gather(*(member.leave() for member in found))


async def proved(*some: Member) -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(*(member.proved.wait() for member in some))


def frame(key: str, number: int) -> str:
    return json.dumps({"stream": key, "data": number})


async def test_that_a_connection_was_heard_is_told_to_all_who_share_it() -> None:
    """None of them has anything to tell for hours: each must know that it would have heard."""
    host = Host()
    async with host.open(ping_interval_s=0.1) as shared, members(shared, "one", "two") as found:
        await proved(*found)
        await until(lambda: all(len(set(member.heard_at)) > 2 for member in found), "they are told again and again")


async def test_many_are_asked_for_in_few_requests_and_not_too_often() -> None:
    """More than ten messages a second, and the exchange cuts all of them."""
    host = Host()
    keys = [f"key-{n:03}" for n in range(120)]
    async with host.open(accounts_per_connection=200) as shared, members(shared, *keys) as found:
        await proved(*found)
        for member in found[10:]:
            await member.leave()
        await until(lambda: sum(map(len, host.asked("UNSUBSCRIBE"))) == 110, "they are taken away")

    assert len(host.sockets) == 1
    assert len(host.asked("SUBSCRIBE")) <= 4
    assert sorted(key for params in host.asked("SUBSCRIBE") for key in params) == keys
    at = [when for when, _ in host.requests]
    assert all(later - earlier > 0.9 for earlier, later in zip(at, at[5:], strict=False))
    assert len({request["id"] for _, request in host.requests}) == len(host.requests)


async def test_a_connection_has_no_more_than_it_may_and_ends_with_its_last_stream() -> None:
    host = Host()
    async with host.open(accounts_per_connection=2) as shared, members(shared, *"abcde") as found:
        await proved(*found)
        assert len(host.sockets) == 3
        await asyncio.gather(*(member.leave() for member in found))
        await until(lambda: all(socket.close_code is not None for socket in host.sockets), "they are closed")

    assert [len(params) for params in host.asked("SUBSCRIBE")] == [2, 2, 1]


async def test_each_frame_goes_to_the_account_whose_key_it_names_and_to_no_other(log: io.StringIO) -> None:
    """Nor is one of an unknown name, or of one that has left, given to anybody."""
    host = Host()
    async with host.open() as shared, members(shared, "key-a", "key-b", "key-gone") as (a, b, gone):
        await proved(a, b, gone)
        await gone.leave()
        for key, number in (("key-b", 1), ("key-a", 2), ("key-gone", 3), ("secret-of-whom", 4), ("key-b", 5)) * 2:
            await host.sockets[0].send(frame(key, number))
        await until(lambda: len(b.heard) == 4, "all have come")

    assert (a.heard, b.heard, gone.heard) == ([2, 2], [1, 5, 1, 5], [])
    assert [line["count"] for line in logged(log, "frame of an unknown stream ignored")] == [1]
    assert shared.strays == 2
    assert "secret-of-whom" not in log.getvalue()


async def test_a_frame_without_envelope_is_dropped_by_name_and_without_keys(log: io.StringIO) -> None:
    """Nothing says whose it is. All compare with the exchange, once, however many such frames come."""
    host = Host()
    bare = {"e": "listenKeyExpired", "E": 1, "listenKey": "key-of-account-a"}
    async with host.open() as shared, members(shared, "key-of-account-a", "key-of-account-b") as (a, b):
        await proved(a, b)
        for text in (json.dumps(bare), '{"key-of-account-b": [', '{"stream":"unknown-secret","e":1}'):
            await host.sockets[0].send(text)
        await host.sockets[0].send(frame("key-of-account-a", 1))
        await until(lambda: a.heard, "it goes on")

    assert (a.heard, b.heard) == ([1], [])
    assert (a.doubts, b.doubts) == (1, 1)
    lines = logged(log, "frame dropped")
    assert [(line["account"], line["link"], line["count"]) for line in lines] == [
        ("_instance", "private", 1),
        ("_instance", "private", 2),
        ("_instance", "private", 3),
    ]
    assert "listenKeyExpired" in lines[0]["error"]
    assert "envelope" in lines[0]["error"]
    assert not [secret for secret in ("key-of-account", "unknown-secret") if secret in log.getvalue()]


def refusing(
    bad: str, how: Callable[[int], dict[str, Any] | None]
) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Refuse each request that names this key."""

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        return how(request["id"]) if bad in request["params"] else acknowledged(request)

    return answer


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda number: {"error": {"code": 2, "msg": "no key-b"}, "id": number}, "subscription refused: 2"),
        (lambda number: {"code": 2, "msg": "no key-b", "id": number}, "subscription refused: 2"),
        (lambda _: {"code": 2, "msg": "no key-b"}, "subscription refused: 2"),
        (lambda _: None, "subscription not answered within 1 s"),
    ],
    ids=["nested", "flat", "flat-without-id", "never-answered"],
)
async def test_a_refused_subscription_ends_its_own_account_alone(
    how: Callable[[int], dict[str, Any] | None], why: str
) -> None:
    """Though it was asked for together with others."""
    host = Host()
    host.answer = refusing("key-b", how)
    async with host.open(first_frame_s=1) as shared, members(shared, "key-a", "key-b", "key-c") as (a, b, c):
        await proved(a, c)
        await until(lambda: b.why, "it has ended")
        await host.sockets[0].send(frame("key-c", 1))
        await until(lambda: c.heard, "the others go on")

    assert str(b.why) == why
    assert not isinstance(b.why, LinkCut)
    assert (a.why, c.why) == (None, None)
    assert len(host.sockets) == 1
    assert host.asked("SUBSCRIBE")[0] == ["key-a", "key-b", "key-c"]


async def test_a_key_that_leaves_and_comes_again_is_asked_for_anew() -> None:
    """The acknowledgement of what it was asked for before proves nothing of now."""
    host = Host()
    async with host.open() as shared, members(shared, "key-a", "key-b") as found:
        await proved(*found)
        await found[1].leave()
        found[1] = Member(shared, "key-b")
        await proved(found[1])
        await host.sockets[0].send(frame("key-b", 1))
        await until(lambda: found[1].heard, "it is heard")
        methods = [(r["method"], r["params"]) for _, r in host.requests]

    assert len(host.sockets) == 1
    assert methods[-2:] == [("UNSUBSCRIBE", ["key-b"]), ("SUBSCRIBE", ["key-b"])]


async def test_the_end_of_the_connection_is_told_to_all_and_says_nothing_against_the_way() -> None:
    """An answer to what nobody has asked is none."""
    host = Host()
    async with host.open() as shared, members(shared, "key-a", "key-b") as found:
        await proved(*found)
        for answer in ('{"code":2,"msg":"x"}', '{"result":null,"id":999}'):
            await host.sockets[0].send(answer)
        await host.sockets[0].send(frame("key-a", 1))
        await host.sockets[0].close(1001, "going away")
        await until(lambda: all(member.why for member in found), "both are told")
        assert found[0].heard == [1]
        assert [str(member.why) for member in found] == ["connection closed: 1001 going away"] * 2
        assert all(isinstance(member.why, LinkCut) for member in found)
        async with members(shared, "key-a", "key-b") as again:
            await proved(*again)

    assert len(host.sockets) == 2


async def test_a_network_that_is_down_is_told_as_that() -> None:
    """It says nothing against this way to open a stream."""
    shared = SharedStreams(VENUE, "ws://127.0.0.1:9/private", SHARED, Handshakes())
    async with members(shared, "key-a", "key-b") as found:
        await until(lambda: all(member.why for member in found), "it has ended")

    assert {type(member.why) for member in found} == {ConnectionRefusedError}


async def test_all_are_told_for_how_long_no_connection_is_wanted() -> None:
    """Whoever asks on has his address banned; and it says nothing against this way to open a stream."""
    handshakes: list[Request] = []

    def refuse(socket: ServerConnection, request: Request) -> Response:
        handshakes.append(request)
        return Response(418, "I'm a teapot", Headers({"Retry-After": "3600"}), b"banned")

    async with serve(Host()._serve, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        shared = SharedStreams(VENUE, f"ws://127.0.0.1:{port}/private", SHARED, Handshakes())
        async with members(shared, "key-a", "key-b") as found:
            await until(lambda: all(member.why for member in found), "both are told")
        async with members(shared, "key-c") as later:
            await until(lambda: later[0].why, "so is who comes later")

    told = [member.why for member in (*found, *later)]
    assert all(isinstance(why, LinkUnwanted) and 3590 < why.retry_after_s <= 3600 for why in told), told
    assert len(handshakes) == 1


async def test_an_announced_shutdown_is_the_end_of_all() -> None:
    host = Host()
    async with host.open() as shared, members(shared, "key-a", "key-b") as found:
        await proved(*found)
        await host.sockets[0].send('{"event":{"e":"serverShutdown","E":1}}')
        await until(lambda: all(member.why for member in found), "both are told")

    assert {str(member.why) for member in found} == {"server shutdown announced"}


async def test_streams_are_handed_over_before_the_connection_is_too_old() -> None:
    """A key is on a connection at most once, so that a fresh stream of it is beside the old one."""
    host = Host()
    keys = ["key-a", "key-b", "key-c"]
    async with host.open(connection_life_s=1) as shared, members(shared, *keys) as old:
        await proved(*old)
        async with asyncio.timeout(5):
            await asyncio.gather(*(member.outlived.wait() for member in old))
        async with members(shared, "key-new", *keys) as (new, *fresh):
            await proved(new, *fresh)
            await host.sockets[1].send(frame("key-new", 1))
            await until(lambda: new.heard, "what comes later does not join the old one")
            for socket in host.sockets:
                await socket.send(frame("key-b", len(host.sockets)))
            await until(lambda: old[1].heard and fresh[1].heard, "both are heard")
            await asyncio.gather(*(member.leave() for member in old))
            await until(lambda: host.sockets[0].close_code is not None, "the old one is closed")
            assert host.sockets[1].close_code is None

    assert len(host.sockets) == 2


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"stream":"k","data":{"e":"X","stream":"no"}}', "k"),
        (b'{"data":{"stream":"no","data":1},"stream":"k"}', "k"),
        (b'{"result":null,"id":3}', Reply(3)),
        (b'{"code":2,"msg":"x"}', Reply(None, 2)),
        (b'{"code":3,"msg":"x","id":4}', Reply(4, 3)),
        (b'{"error":{"code":2,"msg":"x"},"id":4}', Reply(4, 2)),
        (b'{"e":"serverShutdown","E":1}', StreamControl("server shutdown announced")),
        (b'{"event":{"e":"serverShutdown"}}', StreamControl("server shutdown announced")),
    ],
)
def test_an_envelope_says_whose_a_frame_is(raw: bytes, found: object) -> None:
    assert VENUE.addressee(raw) == found
    assert VENUES["binance-coinm"].addressee(raw) == found


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b"\x00\xff",
        b'{"e":"ACCOUNT_UPDATE","E":1}',
        b'{"data":{"e":"ACCOUNT_UPDATE"}}',
        b'{"stream":"k"}',
        b'{"stream":1,"data":{}}',
        b'[{"stream":"k","data":{}}]',
        b"[" * 100_000,
    ],
)
def test_what_has_none_is_never_guessed(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        VENUE.addressee(raw)


# ---- accounts on the simulated exchange ----


class Accounts:
    """Accounts that share their connections, each with what its link has told."""

    def __init__(self, exchange: Exchange, shared: SharedStreams, tap: Recorded | None) -> None:
        self.heard: dict[str, Heard] = {}
        self.feeds: dict[str, AccountFeed] = {}
        self._exchange = exchange
        self._shared = shared
        self._tap = tap
        self._running: dict[str, AsyncExitStack] = {}

    async def add(self, name: str) -> None:
        owner, setup = self._exchange.accounts[name], account(self._exchange, name)
        rest = Rest(setup.hosts, Budget(100_000), 2, owner.api_key, owner.secret)
        heard = self.heard[name] = Heard()
        links = self._shared.links
        self.feeds[name] = feed = account_feed(setup, rest, heard.inbox, links, tap=self._tap, shared=self._shared)
        self._running[name] = stack = AsyncExitStack()
        await stack.enter_async_context(running(feed, rest))

    async def remove(self, name: str) -> None:
        await self._running.pop(name).aclose()

    async def live(self, *names: str) -> None:
        for name in names or self._running:
            await self.until(name, lambda heard: heard.states("private")[-1:] == [LinkState.LIVE])

    async def until(self, name: str, probe: Callable[[Heard], object]) -> None:
        heard = self.heard[name]
        await heard.until(lambda: probe(heard))

    async def paid(self, *names: str) -> None:
        """Each is paid an amount of its own, and hears of it over its stream, once."""
        for name in names:
            amount = D(len(name) + 1) / 8 + NAMES.index(name)
            before = len(told(self.heard[name]))
            self._exchange.transfer(name, "USDT", amount)
            await self.until(name, lambda heard: len(told(heard)) > before)  # noqa: B023
            change = told(self.heard[name])[-1]
            assert (change.account, change.changes) == (name, {"USDT": amount})

    async def down(self, *names: str) -> None:
        """Each has told of another end of its link than those that are known."""
        for name in names:
            before = self.heard[name].states("private").count(LinkState.DOWN)
            await self.until(name, lambda heard: heard.states("private").count(LinkState.DOWN) > before)  # noqa: B023

    async def mute(self, name: str) -> None:
        """It is paid, which its stream does not tell, until its link is found to be mute."""

        async def pay() -> None:
            while True:
                self._exchange.transfer(name, "USDT", "1")
                await asyncio.sleep(0.1)

        paying = asyncio.create_task(pay())
        try:
            await self.until(name, lambda heard: LinkState.MUTE in heard.states("private"))
        finally:
            paying.cancel()

    def downs(self) -> dict[str, list[str]]:
        """What each link has told of its ends."""
        return {
            name: [
                e.note
                for e in heard.events
                if isinstance(e, LinkReport) and e.state in (LinkState.DOWN, LinkState.MUTE)
            ]
            for name, heard in self.heard.items()
        }

    async def close(self) -> None:
        for name in list(self._running):
            await self.remove(name)


def told(heard: Heard) -> list[AccountChanged]:
    return [event for event in heard.events if isinstance(event, AccountChanged)]


@asynccontextmanager
async def sharing(*names: str, tap: Recorded | None = None, **links: Any) -> AsyncIterator[tuple[Exchange, Accounts]]:
    """An exchange with all accounts, of which these are live."""
    async with stories.exchange(*map(stories.account, NAMES), tick_s=None) as exchange:
        shared = SharedStreams(VENUE, f"{exchange.ws_url}/private", structs.replace(SHARED, **links), Handshakes())
        accounts = Accounts(exchange, shared, tap)
        try:
            for name in names:
                await accounts.add(name)
            await accounts.live()
            yield exchange, accounts
        finally:
            await accounts.close()


async def test_accounts_over_one_connection_are_each_told_their_own() -> None:
    async with sharing(*NAMES) as (exchange, accounts):
        await accounts.paid(*NAMES, *reversed(NAMES))
        streams = [len(connection.streams) for connection in exchange.streams.on("private")]

    assert streams == [len(NAMES)]
    assert exchange.counters["connected private"] == 1
    assert accounts.downs() == {name: [] for name in NAMES}
    assert {e.account for name in NAMES for e in told(accounts.heard[name])} == set(NAMES)


async def test_whoever_is_to_stay_away_does_not_come_over_a_connection_of_its_own() -> None:
    """Each of very many accounts would open one, all at the same moment, where one for all of them was too much."""
    handshakes: list[Request] = []

    def refuse(socket: ServerConnection, request: Request) -> Response:
        handshakes.append(request)
        return Response(429, "Too Many Requests", Headers({"Retry-After": "1"}), b"")

    async with (
        stories.exchange(*map(stories.account, NAMES), tick_s=None) as exchange,
        serve(Host()._serve, "127.0.0.1", 0, process_request=refuse) as server,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        shared = SharedStreams(VENUE, f"ws://127.0.0.1:{port}/private", SHARED, Handshakes())
        accounts = Accounts(exchange, shared, None)
        try:
            await accounts.add(NAMES[0])
            await until(lambda: len(handshakes) > 3, "it is tried again where it was", 30)
        finally:
            await accounts.close()

    assert exchange.counters["connected private"] == 0


async def test_the_end_of_one_key_is_the_end_of_one_stream() -> None:
    """It comes back with its new key, on the same connection."""
    async with sharing(*NAMES) as (exchange, accounts):
        assert exchange.expire_listen_key("a2")
        await accounts.down("a2")
        await accounts.live()
        await accounts.paid(*NAMES)
        [connection] = exchange.streams.on("private")
        await until(
            lambda: connection.streams.keys() == set(exchange.listen_keys.all().values()), "the old one is gone"
        )

    assert exchange.counters["connected private"] == 1
    assert accounts.downs() == {
        **{name: [] for name in NAMES},
        "a2": ["the exchange ended the stream: listen key expired"],
    }


async def test_an_account_whose_key_is_refused_disturbs_no_other() -> None:
    async with sharing(*NAMES[:3]) as (exchange, accounts):
        exchange.accounts["a3"].secret, right = "x" * 64, exchange.accounts["a3"].secret
        await accounts.add("a3")
        exchange.accounts["a3"].secret = right
        await accounts.down("a3")
        await accounts.paid(*NAMES[:3])
        downs = accounts.downs()

    assert [downs[name] for name in NAMES[:3]] == [[], [], []]
    assert exchange.counters["connected private"] >= 1


async def test_a_stream_that_is_mute_goes_on_over_a_connection_of_its_own() -> None:
    """The others stay where they are; what one was not told, a snapshot has shown."""
    async with sharing(*NAMES, reconcile_s=0.2) as (exchange, accounts):
        [connection] = exchange.streams.on("private")
        connection.streams[exchange.listen_keys.of("a1") or ""] = frozenset()
        await accounts.mute("a1")
        await accounts.live()
        await accounts.paid(*NAMES)
        forms = {c.form: len(c.streams) for c in exchange.streams.on("private")}

    assert {name: len(ends) for name, ends in accounts.downs().items()} == {**dict.fromkeys(NAMES, 0), "a1": 1}
    assert forms == {"D": len(NAMES) - 1, "B": 1}


async def test_where_all_are_mute_each_finds_it_for_itself() -> None:
    """Acknowledged, and silent: the way does not deliver here."""
    async with sharing(*NAMES, reconcile_s=0.2) as (exchange, accounts):
        exchange.fault(mute_forms=["D"])
        for name in NAMES[:2]:
            await accounts.mute(name)
        await accounts.live()
        await accounts.paid(*NAMES[:2])
        exchange.fault(mute_forms=[])
        await accounts.paid(*NAMES)
        forms = Counter(c.form for c in exchange.streams.on("private"))

    assert forms == {"D": 1, "B": 2}


async def test_a_cut_is_told_to_all_and_all_come_back_together() -> None:
    """And to the same way: a cut says nothing against it."""
    async with sharing(*NAMES) as (exchange, accounts):
        [connection] = exchange.streams.on("private")
        connection.abort()
        await accounts.down(*NAMES)
        await accounts.live()
        await accounts.paid(*NAMES)
        streams = [len(connection.streams) for connection in exchange.streams.on("private")]

    assert streams == [len(NAMES)]
    assert exchange.counters["connected private"] == 2
    assert accounts.downs() == {name: ["connection lost"] for name in NAMES}


async def test_a_connection_that_is_half_open_is_noticed_for_all() -> None:
    async with sharing(*NAMES) as (exchange, accounts):
        exchange.fault(half_open_private=True)
        await accounts.down(*NAMES)
        exchange.fault(half_open_private=False)
        await accounts.live()
        await accounts.paid(*NAMES)


async def test_a_planned_change_loses_nothing_and_tells_nothing_twice() -> None:
    """Money moves all the time while every account changes over, several times."""
    async with sharing(*NAMES, connection_life_s=1) as (exchange, accounts):
        paid = Counter[str]()
        while exchange.counters["connected private"] < 5:
            for name in NAMES:
                paid[name] += 1
                exchange.transfer(name, "USDT", paid[name])
                await accounts.until(name, lambda heard: len(told(heard)) >= paid[name])  # noqa: B023
        sessions = exchange.counters["POST /fapi/v1/listenKey"]

    for name in NAMES:
        assert [e.changes["USDT"] for e in told(accounts.heard[name])] == list(range(1, paid[name] + 1))
    assert accounts.downs() == {name: [] for name in NAMES}
    assert sessions >= 3 * len(NAMES)


async def test_accounts_come_and_go_and_the_others_notice_nothing() -> None:
    async with sharing(*NAMES[:3]) as (exchange, accounts):
        [connection] = exchange.streams.on("private")
        await accounts.add("a3")
        await accounts.live()
        gone = exchange.listen_keys.of("a1")
        await accounts.remove("a1")
        await until(lambda: gone not in connection.streams, "it is not subscribed any more")
        await accounts.paid("a0", "a2", "a3")
        assert exchange.streams.on("private") == [connection]
        before = len(told(accounts.heard["a1"]))
        exchange.transfer("a1", "USDT", "1")
        await accounts.paid("a0")
        downs = accounts.downs()

    assert len(told(accounts.heard["a1"])) == before
    assert downs == {name: [] for name in NAMES[:4]}


@pytest.mark.parametrize("life_s", [60, 1])
async def test_a_host_without_such_streams_is_left_after_a_few_tries(life_s: float) -> None:
    """Each account then has a connection of its own, which planned changes renew all the same."""
    host = Host()
    host.closes_at_once = True
    async with (
        host.open(connection_life_s=life_s) as shared,
        stories.exchange(*map(stories.account, NAMES[:2]), tick_s=None) as exchange,
    ):
        accounts = Accounts(exchange, shared, None)
        for name in NAMES[:2]:
            await accounts.add(name)
        await accounts.live()
        tries = len(host.sockets)
        await accounts.paid(*NAMES[:2])
        if life_s == 1:
            await until(lambda: exchange.counters["connected private"] >= 6, "they are changed as planned")
            await accounts.paid(*NAMES[:2])
        assert {c.form for c in exchange.streams.on("private")} == {"B"}
        await accounts.close()

    assert 3 <= tries <= 8


async def test_what_a_recording_hears_has_no_key(log: io.StringIO) -> None:
    """Each frame of a shared connection carries one."""
    tap = Recorded()
    async with sharing(*NAMES, tap=tap) as (exchange, accounts):
        keys = set(exchange.listen_keys.all().values())
        await accounts.paid(*NAMES)
        exchange.send_raw("private", json.dumps({"e": "ACCOUNT_UPDATE", "of": min(keys)}))
        exchange.send_raw("private", json.dumps({"stream": max(keys), "data": {"e": "ACCOUNT_UPDATE", "k": max(keys)}}))
        exchange.expire_listen_key("a0")
        await accounts.down("a0")
        await accounts.live()
        exchange.drop("private")
        await accounts.down(*NAMES)
        await accounts.live()
        await accounts.paid(*NAMES)
        keys |= set(exchange.listen_keys.all().values())

    frames = [(account, raw) for account, raw, _ in tap.of("private")]
    assert {account for account, _ in frames} == set(NAMES)
    assert all(json.loads(raw)["stream"] == "listenKey" for _, raw in frames)
    shown = log.getvalue() + repr(tap.lines) + repr([heard.events for heard in accounts.heard.values()])
    assert len(keys) == len(NAMES) + 1
    assert not [key for key in keys if key in shown]
    assert len(logged(log, "frame dropped")) == 2


async def test_an_account_that_had_to_go_elsewhere_comes_back_with_the_next_planned_change() -> None:
    """Else one bad night would cost what sharing saves, for good."""
    async with sharing(*NAMES[:2], connection_life_s=1.5) as (exchange, accounts):
        accounts.feeds["a0"].forms.failed("subscribe")
        exchange.expire_listen_key("a0")
        await until(lambda: {c.form for c in exchange.streams.on("private")} == {"B", "D"}, "it is elsewhere")
        await accounts.until("a0", lambda _: {c.form for c in exchange.streams.on("private")} == {"D"})
        await accounts.live()
        await accounts.paid("a0", "a1")
