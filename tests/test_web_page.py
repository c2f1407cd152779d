"""The page in a real browser, beside the real daemon: it is never wrong without saying so."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.humanize import away
from monitor.message import Message
from monitor.shell.hub import Hub
from monitor.sim import Exchange, Scenario
from tests import browser as tools
from tests import stories
from tests.browser import Browser, browsing, needs
from tests.chaos.proxy import Proxy
from tests.rig import Listener, Mosquitto, Process, eventually, free_port, private_file, until, watching, write_config
from tests.test_http import is_open
from tests.test_page import showing

TOKEN = "0123456789abcdef0123456789abcdef"


WATCH = """
    const open = document.querySelector("#incidents-open");
    const look = () => { if (open.innerText.includes("margin ratio 8")) window.seenAt ??= Date.now(); };
    new MutationObserver(look).observe(open, {childList: true, subtree: true, characterData: true});
"""


@pytest.fixture
async def tab() -> AsyncIterator[Browser]:
    needs("chromium", tools.CHROMIUM is not None)
    needs("chromedriver", tools.DRIVER is not None)
    async with browsing() as browser:
        yield browser


def config_of(folder: Path, exchange: Exchange, broker: Mosquitto, **http: Any) -> tuple[Path, int]:
    """A config with a page, and the page's port."""
    port = free_port()
    return write_config(folder / "watch", exchange, broker.port, http={"listen": f"127.0.0.1:{port}", **http}), port


@asynccontextmanager
async def seen(tab: Browser, port: int, proxy: Proxy | None = None) -> AsyncIterator[None]:
    """The page is open and shows the pools; at the end the browser has complained of nothing."""
    await until(lambda: is_open(port), "the daemon listens", within_s=45)
    await tab.open(f"http://127.0.0.1:{port if proxy is None else proxy.port}/")
    await tab.shows("#accounts", "cross-usdt")
    await tab.shows("#beat-word", "live")
    yield
    assert await tab.console() == []


async def test_an_incident_is_on_the_page_within_a_second_of_its_event(
    broker: Mosquitto, listener: Listener, tmp_path: Path, tab: Browser
) -> None:
    """Who watches while it happens must not be behind who is called."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), seen(tab, port):
            await tab.shows("#verdict", "Nothing open")
            await tab.shows("#figures", "19.6 %")  # BTC at 60000, liquidated at 48192.8
            await tab.js(WATCH)
            exchange.set_mark("BTCUSDT", "48240")
            event = await listener.event("margin_ratio", "opened", subject="cross-usdt")
            heard_ms = time.time() * 1000
            await tab.shows("#incidents-open", "margin ratio 8")
            await tab.shows("#events", event["title"].replace(" %", "\u00a0%"))
            delay_ms = await tab.js("return window.seenAt;") - heard_ms
            assert delay_ms < 1000
            await tab.shows("#announcer", "critical")
            await eventually(lambda: _is_titled(tab, "CRITICAL · 0.09"), "the title follows the pool's own topic")
            assert "critical" in await tab.text("#accounts article header")
            print(f"on the page {delay_ms:.0f} ms after it was on the broker")


async def test_a_dead_daemon_is_told_and_its_return_is_seen_without_reload(
    lasting_broker: Mosquitto, tmp_path: Path, tab: Browser
) -> None:
    """Figures of a daemon that died an hour ago look as calm as any others."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, lasting_broker)
        with Process(config) as first:
            async with seen(tab, port):
                exchange.set_mark("SOLUSDT", "125")
                await tab.shows("#incidents-open", "isolated-solusdt")
                assert not await tab.js("return document.body.classList.contains('gone');")
                await eventually(lambda: _is_quiet(tab), "it has started")
            await tab.js("window.neverReloaded = true;")
            first.send(signal.SIGKILL)
            await first.ended()
            await tab.shows("#alarms", "No word from marginwatch since", within_s=10)
            await tab.shows("#verdict", "Unknown since")
            await tab.shows("#beat", "as of")
            assert (await tab.title()).startswith("No word from marginwatch since")
            assert await tab.js("return document.body.classList.contains('gone');")
            assert await tab.js("return getComputedStyle(document.querySelector('main')).filter;") == "grayscale(1)"
        await tab.console()  # what it said of connections that were refused
        exchange.set_mark("BTCUSDT", "61000")
        with Process(config):
            await tab.shows("#beat-word", "live")
            await tab.shows("#accounts", "61,000")
            await tab.shows("#incidents-open", "isolated-solusdt")
            await eventually(lambda: _is_quiet(tab), "no alarm is left")
            assert await tab.js("return window.neverReloaded;")
            assert not await tab.js("return document.body.classList.contains('gone');")


async def _is_titled(tab: Browser, words: str) -> bool:
    return (await tab.title()).startswith(words)


async def _is_quiet(tab: Browser) -> bool:
    return await tab.text("#alarms") == ""


async def test_a_daemon_that_is_blind_says_so_on_the_page(broker: Mosquitto, tmp_path: Path, tab: Browser) -> None:
    """The page is live, but what it shows is not: that is to be seen before anything else."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), seen(tab, port):
            exchange.fault(mute_market=True, rest="503")
            await tab.shows("#alarms", "Stale.")
            await tab.shows("#accounts", "stale, as of")
            await tab.shows("#alarms", "Blind.")
            await tab.shows("#verdict", "no data")
            exchange.fault(mute_market=False, rest="ok")
            await eventually(lambda: _is_quiet(tab), "no alarm is left")
            await tab.shows("#verdict", "Nothing open, every link is live")


async def test_stale_figures_have_the_time_of_what_they_are_made_of(
    broker: Mosquitto, tmp_path: Path, tab: Browser
) -> None:
    """They are reckoned anew all the time; with the time of that, those of an hour ago would look like those of now."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), seen(tab, port):
            exchange.fault(mute_market=True, rest="503")

            async def is_old() -> bool:
                said = re.search(r"stale, as of ([\d:]{8})", await tab.text("#accounts"))
                return said is not None and _between(said[1], await tab.text("#beat-time")) in range(4, 20)

            await eventually(is_old, "the figures are told as some seconds old")
            exchange.fault(mute_market=False, rest="ok")


def _between(earlier: str, later: str) -> int:
    """Seconds from one time of day to the next, over midnight too."""
    since = datetime.strptime(later, "%H:%M:%S") - datetime.strptime(earlier, "%H:%M:%S")  # noqa: DTZ007
    return since.seconds


async def test_a_page_that_is_behind_says_so_and_catches_up(broker: Mosquitto, tmp_path: Path, tab: Browser) -> None:
    """On a slow way everything comes in the end, beats too: what was true a minute ago must not be shown as live."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), Proxy(lambda: port) as proxy, seen(tab, port, proxy):
            proxy.delay_s = 5.5  # less than makes it silent
            await tab.shows("#alarms", "No word from marginwatch since", within_s=30)
            await tab.shows("#beat", "as of")
            proxy.mend()
            await tab.shows("#beat-word", "live", within_s=30)


async def test_a_page_that_cannot_tell_how_late_it_is_says_so(tab: Browser) -> None:
    """It is open while a daemon of another version takes the place of its own, whose beats it does not understand."""
    hears = """
        const {Stream} = await import(new URL("stream.js", location));
        const stream = Object.create(Stream.prototype);
        Object.assign(stream, {heardAt: performance.now(), heardMs: Date.now(), soonestMs: Infinity});
        stream.time(arguments[0]);
        return stream.isSilent;
    """
    async with showing(Hub()) as url:
        await tab.open(url)
        assert await tab.js(hears, {"at_ms": 1, "mono_ms": 1}) is False
        assert await tab.js(hears, {"at_ms": 1}) is True


async def test_a_connection_that_is_dead_unnoticed_is_left_for_a_new_one(
    broker: Mosquitto, tmp_path: Path, tab: Browser
) -> None:
    """A machine that lost its power says no goodbye, and a browser that only reads never finds out."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), Proxy(lambda: port) as proxy, seen(tab, port, proxy):
            proxy.half_open()
            await tab.shows("#alarms", "No word from marginwatch since", within_s=30)
            await tab.shows("#beat-word", "live", within_s=45)


async def test_what_was_told_on_another_day_has_its_date(tab: Browser) -> None:
    """The summaries of a week, each told at eight, would all look like this morning's."""
    hub = Hub()
    words = {"event_id": "1", "event": "noted", "severity": "info", "title": "all is well", "text": "nothing is open"}
    body = msgspec.json.encode({**words, "at": "2026-01-10T12:00:00.000Z"})
    hub.put([Message("marginwatch/main/event/info/summary", body, False, 1, event_id="1")])
    async with showing(hub) as url:
        await tab.open(url)
        await tab.shows("#events time", "10 Jan")


async def test_what_is_unknown_is_never_told_as_nothing(broker: Mosquitto, tmp_path: Path, tab: Browser) -> None:
    """One account's key is refused: what the other holds need not be the worst, and "no positions" would be a lie."""
    async with stories.exchange(stories.account(), stories.account("second")) as exchange:
        port = free_port()
        config = write_config(
            tmp_path / "watch", exchange, broker.port, ["main", "second"], http={"listen": f"127.0.0.1:{port}"}
        )
        private_file(config.parent / "second.secret", "not-the-secret")
        async with watching(config), seen(tab, port):
            await tab.shows("#figures", "main · isolated-solusdt; not everything is known")
        private_file(config.parent / "main.secret", "not-the-secret")
        async with watching(config):
            await until(lambda: is_open(port), "the daemon listens")
            await tab.open(f"http://127.0.0.1:{port}/")
            await tab.shows("#accounts", "Positions are not known yet.")
            figures = await tab.text("#figures")
            assert "not everything is known" in figures
            assert "no position" not in figures
            assert "no open positions" not in figures


async def test_before_anything_is_published_nothing_is_told_as_none(tab: Browser) -> None:
    """A daemon that has just started does not know yet that there is no position."""
    async with showing(Hub()) as url:
        await tab.open(url)
        await tab.shows("#figures", "not everything is known")
        figures = await tab.text("#figures")
    assert "no position" not in figures
    assert "no open positions" not in figures


async def test_a_broker_that_is_away_is_told_on_the_page(broker: Mosquitto, tmp_path: Path, tab: Browser) -> None:
    """Who looks at a page that is live would think that the phone will ring, too."""
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), seen(tab, port):
            broker.kill()
            await tab.shows("#alarms", "The MQTT broker is away.")
            await broker.start()
            await eventually(lambda: _is_quiet(tab), "no alarm is left")


async def test_with_a_token_nobody_else_sees_anything(broker: Mosquitto, tmp_path: Path, tab: Browser) -> None:
    """Beyond loopback it is asked for; the browser then sends it with everything that the page asks."""
    token = private_file(tmp_path / "token", TOKEN)
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, broker, token=f"file:{token}")
        async with watching(config):
            await until(lambda: is_open(port), "the daemon listens")
            await tab.open(f"http://127.0.0.1:{port}/")
            assert "marginwatch" not in await tab.js("return document.documentElement.outerHTML;")
            await tab.open(f"http://me:{TOKEN}@127.0.0.1:{port}/")
            await tab.shows("#accounts", "cross-usdt")
            await tab.shows("#beat-word", "live")
            await tab.shows(".axis", "now")


async def test_a_name_that_is_markup_is_shown_as_text(tab: Browser) -> None:
    """An exchange may name a contract as it likes."""
    evil = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script>"
    hub = Hub()
    incident = {"schema": "marginwatch.incident/1", "incident_id": "1", "severity": "critical", "severity_rank": 4}
    words = dict.fromkeys(("title", "text", "rule", "subject", "peak_severity"), evil)
    at = "2026-11-22T04:00:00.000Z"
    body = msgspec.json.encode({**incident, **words, "opened_at": at, "at": at})
    hub.put([Message("marginwatch/main/incident/x/y", body, True, 1)])
    async with showing(hub) as url:
        await tab.open(url)
        await tab.shows("#incidents-open", "onerror=")
        await tab.shows("#verdict", "onerror=")
        assert await tab.js("return window.hit;") is None


async def test_a_distance_reads_on_the_page_as_in_an_alert(tab: Browser) -> None:
    """Rounded down, also where two decimals say nothing any more; two figures of one thing would be one too many."""
    distances = ["0", "0.00000001", "0.0000096", "0.000096", "0.0001", "0.07", "0.00995", "0.99999", "1", "2.5096"]
    async with showing(Hub()) as url:
        await tab.open(url)
        script = "const {away} = await import('./format.js'); return arguments[0].map(away);"
        shown = await tab.js(script, [float(distance) for distance in distances])
    assert shown == [away(Decimal(distance)) for distance in distances]


LONG = stories.account(
    balances={"USDT": "12000"},
    position=[{"symbol": f"K{n:02}USDT", "quantity": "1", "entry_price": "100"} for n in range(20)],
)


async def test_of_many_positions_the_nearest_are_shown_and_the_rest_by_keyboard(
    broker: Mosquitto, tmp_path: Path, tab: Browser
) -> None:
    """Forty rows of nothing would hide the one that counts."""
    symbols = [{"symbol": f"K{n:02}USDT", "mark": "100"} for n in range(20)]
    async with Exchange(Scenario.from_dict({"symbol": symbols, "account": [LONG]})) as exchange:
        config, port = config_of(tmp_path, exchange, broker)
        async with watching(config), seen(tab, port):
            rows = "return document.querySelectorAll('.positions tbody tr').length;"
            await tab.shows(".more", "Show all 20 positions")
            assert await tab.js(rows) == 8
            await tab.js("document.querySelector('.more').focus();")
            await tab.press("Enter")
            await tab.shows(".more", "Show the nearest 8")
            assert await tab.js(rows) == 20


@pytest.mark.parametrize("width", [1280, 360], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it(
    scheme: str, width: int, lasting_broker: Mosquitto, tmp_path: Path, tab: Browser
) -> None:
    """With a screen reader, a keyboard, weak eyes, on a phone; while it is live, and when it is not."""
    needs("axe-core", tools.AXE.exists())
    await tab.looks(scheme, width)
    async with stories.exchange() as exchange:
        config, port = config_of(tmp_path, exchange, lasting_broker)
        with Process(config) as daemon:
            async with seen(tab, port):
                exchange.set_mark("BTCUSDT", "48240")
                exchange.set_mark("SOLUSDT", "130")
                await tab.shows("#incidents-open", "isolated-solusdt")
                await tab.shows("#incidents-open", "cross-usdt")
                assert await tab.axe() == []
                assert await tab.js("return document.documentElement.scrollWidth;") <= width
            daemon.send(signal.SIGKILL)
            await tab.shows("#alarms", "No word", within_s=10)
            assert await tab.axe() == []
            assert await tab.js("return document.documentElement.scrollWidth;") <= width
