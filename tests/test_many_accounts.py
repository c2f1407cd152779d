"""Many accounts in one daemon: what is wrong with one is no business of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

from monitor.config import AccountConfig, Config, LinksConfig
from monitor.config_values import Secret
from monitor.shell import settings
from monitor.shell.clock import now
from monitor.shell.feeds import Feeds
from monitor.shell.inbox import Inbox
from monitor.shell.owed import Found
from monitor.shell.runtime import Runtime
from monitor.shell.store import Store
from monitor.shell.tasks import ended
from monitor.shell.vitals import Pulse
from monitor.tally import Tally
from monitor.unseen import restart
from monitor.venues import Hosts
from tests import stories
from tests.rig import Listener, Mosquitto, agreement, private_file, watching, write_config


@asynccontextmanager
async def nonsense() -> AsyncIterator[str]:
    """A host that answers everything, with what nobody can read."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text='{"unexpected": [1e999, null]}', content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("per_connection", [1, 20])
async def test_what_is_wrong_with_one_account_is_no_business_of_the_others(
    per_connection: int, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A key that was revoked (as one of portfolio margin is refused too), and a host that talks nonsense."""
    names = ("main", "revoked", "garbled")
    async with stories.exchange(*map(stories.account, names)) as exchange, nonsense() as url:
        links = {"accounts_per_connection": per_connection}
        config = write_config(tmp_path / "d", exchange, broker.port, names, links=links)
        private_file(tmp_path / "d" / "revoked.key", "k" * 64)
        text = config.read_text("utf-8")
        begins = text.index('name = "garbled"')
        config.write_text(text[:begins] + text[begins:].replace(f'"{exchange.url}"', f'"{url}"'), "utf-8")
        async with watching(config):
            await agreement(exchange, listener, "main")
            revoked = await listener.event("data_stale", "opened", account="revoked", severity="warning")
            await listener.event("data_stale", "opened", account="garbled", severity="warning")
            exchange.set_mark("BTCUSDT", "53000")
            await listener.event("liquidation_distance", "opened", account="main", subject="cross-usdt")
            await agreement(exchange, listener, "main")
            health = listener.retained("marginwatch/main/health")
            summaries = {name: listener.retained(f"marginwatch/{name}/summary") for name in names}

    assert "-2015" in revoked["data"]["note"] or "-2014" in revoked["data"]["note"]
    assert [link["reconnects"] for link in health["links"].values()] == [0, 0]
    assert listener.events("data_stale", account="main") == []
    assert {name: body["open_positions"] for name, body in summaries.items()} == {
        "main": 2,
        "revoked": None,
        "garbled": None,
    }


async def test_a_restart_reads_those_first_who_were_in_the_most_danger(tmp_path: Path) -> None:
    """Of hundreds the last is read many minutes after the first, by what the exchange allows an address."""
    names = ("calm", "new", "worst")
    async with stories.exchange(*map(stories.account, names)) as exchange:
        config = settings.load(write_config(tmp_path / "d", exchange, 1, names))
        feeds = Feeds(config, settings.fetch(config), Inbox(), None, {"worst": restart(1, ()), "calm": restart(1, ())})

    assert list(feeds.accounts) == ["worst", "calm", "new"]


async def test_a_loop_that_is_busy_still_asks_of_each_account_in_time_whether_it_is_endangered(tmp_path: Path) -> None:
    """Of 2,000 in a crash the last would be asked after 80 s instead of 5, if each waited for the loop once more. Nor
    are all asked at once that are late by then: alerts go out in between."""
    key, hosts = Secret("env", "K"), Hosts("", "", "", "")
    accounts = [AccountConfig(f"a{n}", "binance-usdm", key, key, "custom", hosts, "market") for n in range(100)]
    config = Config(tuple(accounts), links=LinksConfig(tick_s=0.02))  # each is asked once in 0.1 s
    store = Store(tmp_path / "store.sqlite3", 1, lambda batch, error: None, lambda reason: None, lambda found: None)
    runtime = Runtime(
        config, {key: "k"}, Found(), now(), Inbox(), store, bool, Pulse(lambda lag_s: None), Tally(), None, None
    )
    feeds = runtime.feeds.accounts.values()
    for feed in feeds:
        feed.endangered = True  # they hold nothing, so that whoever is asked is not

    asking = asyncio.create_task(dict(runtime.parts)["danger"]())
    left = [len(feeds)]
    while left[-1]:
        time.sleep(0.03)  # noqa: ASYNC251 - in this time it is the turn of 30
        await asyncio.sleep(0)
        left.append(sum(feed.endangered for feed in feeds))
    await ended(asking)
    await runtime.close()

    assert len(left) <= 20
    assert max(before - after for before, after in pairwise(left)) == 20
