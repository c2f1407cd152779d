"""The way of many marks at once: feed, inbox and book do with a frame what they do with each of its marks."""

from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal

import pytest

from benchmarks.ours import market_feed
from monitor.events import Event, LinkReport, MarkPrice, Marks, Now, Vitals
from monitor.market import MarketBook, Prices
from monitor.shell.inbox import Inbox
from monitor.shell.market_feed import MarketFeed
from tests.heard import each_mark

M = "binance-usdm"
SYMBOLS = tuple(f"S{n}USDT" for n in range(12))
WALL_MS = 1_700_000_000_000


def frame(price: str, at_ms: int, symbols: tuple[str, ...] = SYMBOLS, market: str = M) -> Marks:
    n = len(symbols)
    return Marks(market, symbols, [price] * n, [float(price)] * n, [at_ms] * n, [(None, None)] * n, tuple)


def single(price: str, at_ms: int, symbol: str = SYMBOLS[0], bridged: bool = False) -> MarkPrice:
    return MarkPrice(M, symbol, Decimal(price), at_ms, None, None, bridged)


# ---- the book ----


@pytest.mark.parametrize("seed", range(30))
def test_a_book_takes_a_frame_as_it_takes_each_mark(seed: int) -> None:
    """Later ones, late ones, those from the future, bridged ones in between, and symbols that are new; whenever
    somebody asks, and whatever it was before a step stays that."""
    chance = random.Random(seed)
    at_once, one_by_one = MarketBook(), MarketBook()
    whole = 0
    revisions = [(0, 0)]
    steps: list[tuple[Prices, dict[str, Decimal]]] = []
    for n in range(60):
        now = Now(n + chance.random(), WALL_MS + 1000 * n)
        for book in (at_once, one_by_one):
            book.end_step()
        steps.append((at_once.before_step(), dict(one_by_one.prices)))
        revisions.append((at_once.revision, one_by_one.revision))
        if chance.random() < 0.05:
            no_more = chance.choice(SYMBOLS)
            for book in (at_once, one_by_one):
                book.forget(no_more)
        if chance.random() < 0.2:
            at_ms = WALL_MS + 1000 * n + chance.choice((-400, 0, 400))
            odd = single(str(chance.randint(1, 3)), at_ms, chance.choice(SYMBOLS), bridged=chance.random() < 0.7)
            assert at_once.apply_mark(odd, now) == one_by_one.apply_mark(odd, now)
        some = chance.choice((SYMBOLS, SYMBOLS, SYMBOLS[:6], SYMBOLS[6:], SYMBOLS[1:]))
        if chance.random() < 0.1:
            some = tuple(s for s in SYMBOLS if chance.random() < 0.9)
        far_ms = chance.choice((-5000, 0, 0, 0, 0, 0, 0, 0, 3000))
        times_ms = [WALL_MS + 1000 * n + far_ms + chance.choice((0, 1)) for _ in some]
        texts = [chance.choice(("1", "1.00000000000000000001", "2", "2.0", "3")) for _ in some]
        funding = [(Decimal("0.0001"), chance.randint(1, 2)) for _ in some]
        marks = Marks(M, some, texts, [*map(float, texts)], times_ms, [*funding], tuple)
        if at_once.apply_marks(marks, now):
            whole += 1
        else:
            for mark in marks.each:
                at_once.apply_mark(mark, now)
        for mark in marks.each:
            one_by_one.apply_mark(mark, now)
        if chance.random() < 0.5:
            continue  # nobody asks
        assert at_once.prices == one_by_one.prices
        before = chance.choice(revisions)
        for symbol in SYMBOLS:
            assert at_once.oldest([symbol], now.mono) == one_by_one.oldest([symbol], now.mono)
            assert at_once.stream_age(symbol, now.mono) == one_by_one.stream_age(symbol, now.mono)
            assert at_once.funding(symbol) == one_by_one.funding(symbol)
            assert at_once.has_moved(symbol, before[0]) == one_by_one.has_moved(symbol, before[1])
    assert all(then.exact == prices for then, prices in chance.sample(steps, len(steps)))
    assert 10 < whole < 60


def test_a_symbol_that_is_missing_from_frames_grows_old() -> None:
    """However briskly the others come."""
    book = MarketBook()
    for n in range(20):
        marks = frame("100", WALL_MS + 1000 * n, SYMBOLS if n < 3 else SYMBOLS[1:])
        if not book.apply_marks(marks, Now(n, WALL_MS + 1000 * n)):
            for mark in marks.each:
                book.apply_mark(mark, Now(n, WALL_MS + 1000 * n))

    assert (book.oldest(SYMBOLS[:2], 19), book.oldest(SYMBOLS[1:2], 19), book.oldest((), 19)) == (17, 0, None)
    assert (book.stream_age(SYMBOLS[0], 19), book.stream_age(SYMBOLS[1], 19)) == (17, 0)


# ---- the inbox ----


def taken(*events: Event) -> tuple[list[Event], int]:
    """What the core gets of what has been put one after the other, and how many marks are in it."""

    async def take() -> tuple[list[Event], int]:
        inbox = Inbox()
        for event in events:
            inbox.put([event])
        return await inbox.take(), inbox.marks

    return asyncio.run(take())


def test_a_frame_replaces_the_one_that_waits() -> None:
    """A slow step makes the next one no larger."""
    vitals = Vitals(1, 2, 3)

    assert taken(frame("1", 5), vitals, frame("2", 6), frame("3", 6)) == ([vitals, frame("3", 6)], 12)


def test_frames_of_two_markets_wait_side_by_side() -> None:
    other = frame("7", 4, market="binance-coinm")

    assert taken(frame("1", 5), other, frame("2", 6)) == ([frame("2", 6), other], 24)


def test_the_arrays_of_one_second_wait_side_by_side() -> None:
    """The exchange sends some symbols in an array of their own; few of them are handled one by one."""
    first, second, few = SYMBOLS[:7], SYMBOLS[7:], single("4", 6, "OTHERUSDT")
    put = frame("1", 5, first), frame("2", 5, second), few, frame("3", 6, first)

    assert taken(*put) == ([frame("3", 6, first), frame("2", 5, second), few], 13)
    assert taken(few, *put[:2]) == ([*put[:2], few], 13)


@pytest.mark.parametrize("seed", range(30))
def test_of_each_mark_the_latest_waits(seed: int) -> None:
    """Whatever comes in whatever order: frames of all, of some, late ones and single marks."""
    chance = random.Random(seed)
    put: list[Event] = []
    latest: dict[str, MarkPrice] = {}
    for n in range(chance.randint(1, 12)):
        at_ms = chance.randint(1, 5)
        if chance.random() < 0.5:
            put.append(single(str(n + 1), at_ms, chance.choice(SYMBOLS)))
        else:
            marks = frame(str(n + 1), at_ms, chance.choice((SYMBOLS, SYMBOLS[3:], SYMBOLS[:3])))
            marks.at_ms[0] = chance.randint(1, 5)
            put.append(marks)
        for mark in each_mark(put[-1:]):
            if mark.symbol not in latest or mark.at_ms >= latest[mark.symbol].at_ms:
                latest[mark.symbol] = mark
    events, count = taken(*put)

    assert {mark.symbol: mark for mark in each_mark(events)} == latest
    assert count == len(each_mark(events)) == len(latest)


# ---- the feed ----


class Fed:
    """A market feed that frames are handed to."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.feed: MarketFeed = market_feed("wss://nowhere", self.inbox)
        self.feed.watch(SYMBOLS)

    async def pass_on(
        self, price: str, at_ms: int, symbols: tuple[str, ...] = SYMBOLS, **of_first: str
    ) -> list[MarkPrice]:
        """What is passed on of an array frame; keys of its first row may be others."""
        told = [f'"e":"markPriceUpdate","E":{at_ms},"s":"{symbol}","p":"{price}"' for symbol in symbols]
        told[0] += "".join(f',"{key}":"{value}"' for key, value in of_first.items())
        came = self.feed.pass_on(f"[{','.join(f'{{{row}}}' for row in told)}]".encode())
        assert came == symbols
        self.inbox.put([Vitals(0, 0, None)])
        return each_mark(await self.inbox.take())


async def test_a_frame_that_another_connection_has_brought_is_not_passed_on() -> None:
    """Of each mark the first one wins; one that is late is passed on, for the book to judge."""
    fed = Fed()

    assert len(await fed.pass_on("1.5", WALL_MS)) == 12
    assert await fed.pass_on("1.5", WALL_MS) == []
    assert len(await fed.pass_on("1.6", WALL_MS + 1000)) == 12
    assert await fed.pass_on("1.6", WALL_MS + 1000) == []
    assert [mark.symbol for mark in await fed.pass_on("1.6", WALL_MS + 1000, p="1.7")] == [SYMBOLS[0]]
    assert len(await fed.pass_on("1.5", WALL_MS)) == 12
    assert len(await fed.pass_on("1.8", WALL_MS + 2000)) == 12


@pytest.mark.parametrize("slow", [SYMBOLS, SYMBOLS[:2]], ids=["all", "two"])
async def test_frames_that_come_slowly_are_noticed(slow: tuple[str, ...]) -> None:
    """All of an array, or some of its symbols alone; whatever comes twice or late says nothing."""
    fed, at_ms = Fed(), WALL_MS
    others = tuple(symbol for symbol in SYMBOLS if symbol not in slow)

    async def slow_s(every_s: int) -> float | None:
        nonlocal at_ms
        for n in range(18):
            at_ms += 1000
            for symbols in (SYMBOLS,) * 2 if n % every_s == 0 else (others,) if others else ():
                await fed.pass_on("1.5", at_ms, symbols)
                await fed.pass_on("1.5", at_ms - 1000, symbols)
        return fed.feed._latest.slow_s

    assert await slow_s(1) is None
    assert await slow_s(3) == 3
    assert await slow_s(1) is None


async def test_the_pace_of_what_is_not_held_any_more_is_no_longer_told() -> None:
    """Whoever reads that marks come slowly would look for what is wrong with those that come in time."""
    fed = Fed()
    fed.feed.carries(fed.feed.begin())

    async def last_note() -> str:
        fed.inbox.put([Vitals(0, 0, None)])
        return [event.note for event in await fed.inbox.take() if isinstance(event, LinkReport)][-1]

    assert await last_note() == ""
    for n in range(7):
        fed.feed.pass_on(b'[{"e":"markPriceUpdate","E":%d,"s":"S0USDT","p":"1.5"}]' % (WALL_MS + 3000 * n))
    assert await last_note() == "marks come every 3 s instead of 1 s"

    fed.feed.watch(SYMBOLS[1:])

    assert await last_note() == ""


async def test_what_fell_due_during_a_step_has_its_turn_before_the_next() -> None:
    """Of very many pools one step follows another; whoever waits for his turn waits for one of them."""
    had_their_turn: list[str] = []
    asyncio.get_running_loop().call_later(0.001, had_their_turn.append, "somebody")

    time.sleep(0.01)  # noqa: ASYNC251 - a step
    await Inbox().take(at_once=True)

    assert had_their_turn == ["somebody"]
