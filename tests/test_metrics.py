"""The metrics: what they say of a core, and that a stranger who reads them learns no secret."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from monitor.events import LinkState
from monitor.metrics import KINDS, Metrics
from monitor.rules import Severity
from monitor.tally import BOUNDS_S, Durations, Tally
from tests import stories
from tests.rig import Listener, Mosquitto, eventually, free_port, private_file, until, watching, write_config
from tests.test_heartbeat import Receiver
from tests.test_http import TOKEN, WELL, get
from tests.watched import Watched, row

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Series:
    """A scrape as a reader of the text format takes it, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(series: Series, name: str, **labels: str) -> float | None:
    return series.get((f"marginwatch_{name}", tuple(sorted(labels.items()))))


def names(series: Iterable[tuple[str, object]]) -> set[str]:
    return {name for name, _ in series}


def taken(core: Watched, tally: Tally | None = None, **daemon: object) -> Series:
    metrics = Metrics()
    for account in core.core.accounts.values():
        metrics.take_account(core.core, account, core.now)
    metrics.take_instance(core.core, structs.replace(WELL, **daemon), tally or Tally(), "1.2.3", core.now)
    return read(metrics.text())


def watched() -> Watched:
    core = Watched()
    core.begin("12000", row("BTCUSDT", "1", "60000"))
    core.hold(1, "60000")
    return core


def test_figures_of_a_pool_and_its_position() -> None:
    """Worked by hand: 1 BTC at 60000, of which 0.4 % less 0 is maintenance margin, on a wallet of 12000."""
    series = taken(watched())

    pool = {"account": "main", "pool": "cross-usdt"}
    held = {**pool, "symbol": "BTCUSDT", "side": "long"}
    assert of(series, "margin_ratio", **pool) == 240 / 12000
    assert of(series, "margin_balance", **pool, asset="USDT") == 12000
    assert of(series, "maintenance_margin", **pool, asset="USDT") == 240
    assert of(series, "pool_fresh", **pool) == 1
    assert of(series, "position_notional", **held) == 60000
    # 12000 + P − 60000 = 0.004 P
    assert of(series, "position_liquidation_price", **held) == pytest.approx(48000 / 0.996)
    assert of(series, "position_liquidation_distance_ratio", **held) == pytest.approx(1 - 48000 / 0.996 / 60000)
    assert of(series, "liquidation_distance_ratio", **pool) == pytest.approx(1 - 48000 / 0.996 / 60000)
    assert of(series, "account_positions", account="main") == 1
    assert of(series, "account_severity", account="main") == 0
    assert of(series, "link_up", account="main", link="private") == 1
    assert of(series, "link_state", account="main", link="private", state="live") == 1
    assert of(series, "build_info", version="1.2.3") == 1
    assert of(series, "blind") == 0


def test_what_is_unknown_has_no_sample() -> None:
    """A zero, or a NaN that no comparison is true of, would look as safe as can be."""
    core = Watched()
    core.connect()
    unknown = taken(core)
    core.step(*core.truth("12000", row("BTCUSDT", "1", "60000")))
    without_mark = taken(core)

    assert of(unknown, "account_positions_known", account="main") == 0
    assert of(unknown, "account_positions", account="main") is None
    assert of(unknown, "blind") == 1
    assert "marginwatch_margin_ratio" not in names(unknown)
    pool = {"account": "main", "pool": "cross-usdt"}
    assert of(without_mark, "pool_fresh", **pool) == 0
    assert of(without_mark, "margin_ratio", **pool) is None
    assert of(without_mark, "pool_mark_age_seconds", **pool) is None
    assert of(without_mark, "position_mark_price", **pool, symbol="BTCUSDT", side="long") is None
    assert [key for series in (unknown, without_mark) for key, value in series.items() if math.isnan(value)] == []


def test_a_pool_that_is_stale_keeps_its_last_figures_and_says_that_it_is_stale() -> None:
    """An alert that fires must not end because the data did."""
    core = watched()
    core.step(core.link("private", LinkState.DOWN))
    core.hold(10, "49000")
    series = taken(core)

    pool = {"account": "main", "pool": "cross-usdt"}
    assert of(series, "pool_fresh", **pool) == 0
    assert of(series, "margin_ratio", **pool) == 196 / 1000
    assert of(series, "link_up", account="main", link="private") == 0
    assert (of(series, "link_age_seconds", account="main", link="private") or 0) >= 10


def test_series_go_with_their_pool_and_incident() -> None:
    """A position that was closed must not stand in a dashboard for ever."""
    core = watched()
    core.price("48240")  # 192.96 / 240: a warning, and critical so near to liquidation
    endangered = taken(core)
    core.step(*core.truth("12000"))
    core.hold(130, "60000")
    gone = taken(core)

    assert of(endangered, "incidents_open", account="main", severity="critical", rule="margin_ratio") == 1
    assert of(endangered, "account_severity", account="main") == 4
    assert of(gone, "account_positions", account="main") == 0
    assert of(gone, "account_severity", account="main") == 0
    assert {
        n for n in names(gone) if n.startswith(("marginwatch_margin", "marginwatch_position", "marginwatch_inc"))
    } == set()


def test_durations_are_counted_where_they_belong() -> None:
    """A bound belongs to its bucket, as Prometheus means `le`; what is longer than all counts too."""
    durations = Durations()
    for duration_s in (0.0005, 0.001, 0.0011, 30.0, 31.0):
        durations.observe(duration_s)

    assert durations.counts[:2] == [2, 1]
    assert durations.counts[-2:] == [1, 1]
    tally = Tally()
    tally.decisions = durations
    tally.events[Severity.WARNING, "margin_ratio"] += 2
    series = taken(watched(), tally)
    assert of(series, "tick_to_decision_seconds_bucket", le="0.001") == 2
    assert of(series, "tick_to_decision_seconds_bucket", le="30.0") == 4
    assert of(series, "tick_to_decision_seconds_bucket", le="+Inf") == 5
    assert of(series, "tick_to_decision_seconds_count") == 5
    assert of(series, "tick_to_decision_seconds_sum") == pytest.approx(61.0026)
    assert of(series, "events_total", severity="warning", rule="margin_ratio") == 2
    assert len(BOUNDS_S) + 1 == len(durations.counts)


def test_an_event_is_timed_from_its_cause_to_the_brokers_word() -> None:
    """Once, however often the broker says so; one of an earlier run has no cause here."""
    tally = Tally()
    tally.caused(["a.1", None], 10.0)
    tally.acknowledged("a.1", 10.02)
    tally.acknowledged("a.1", 99.0)
    tally.acknowledged("of.an.earlier.run", 99.0)

    assert sum(tally.publications.counts) == 1
    assert tally.publications.total_s == pytest.approx(0.02)


def test_a_label_of_any_kind_is_written_so_that_it_can_be_read() -> None:
    """A symbol may be in any script; one that broke a line would break the whole scrape."""
    tally = Tally()
    odd = 'Ö"\\\n合USDT'
    tally.events[Severity.INFO, odd] += 1

    assert of(taken(watched(), tally), "events_total", severity="info", rule=odd) == 1


def test_names_follow_the_conventions() -> None:
    """Base units, no abbreviations, each told once."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.help.endswith("."), kind
        assert not kind.name.endswith(("_ms", "_percent", "_count")), kind
        assert kind.name.endswith("_total") == (kind.type == "counter"), kind
        assert "instance" not in kind.labels, kind  # Prometheus has one of its own
        assert "job" not in kind.labels, kind


# ---- of the daemon ----


async def test_a_scrape_of_the_daemon_has_every_metric_and_no_secret(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whatever reads metrics keeps them for years, and shows them to whoever looks at a dashboard."""
    port = free_port()
    receiver = Receiver()
    token = private_file(tmp_path / "token", TOKEN)
    config: dict[str, Any] = {
        "http": {"listen": f"127.0.0.1:{port}", "token": f"file:{token}"},
        "heartbeat": {"url": f"{receiver.url}", "every_s": 0.05},
    }
    async with (
        AsyncExitStack() as stack,
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, **config)),
    ):
        await receiver.start()
        stack.push_async_callback(receiver.stop)
        url = f"http://127.0.0.1:{port}"
        exchange.set_mark("BTCUSDT", "48240")
        told = await listener.event("margin_ratio", "opened")
        bearer = f"Bearer {TOKEN}"

        async def complete() -> Series:
            try:
                status, text = await get(f"{url}/metrics", Authorization=bearer)
            except aiohttp.ClientError:
                return {}  # asked more often in a second than it answers
            assert status == 200
            series = read(text)
            found = names(series)
            absent = {k.name for k in KINDS if not found & {k.name, f"{k.name}_count"}}
            return {} if absent or not of(series, "tick_to_publish_seconds_count") else series

        series = await eventually(complete, "every metric is there")
        assert of(series, "margin_ratio", account="main", pool="cross-usdt") == pytest.approx(
            told["after"]["margin_ratio"], abs=1e-8
        )
        assert of(series, "incidents_open", account="main", severity="critical", rule="margin_ratio") == 1
        assert (of(series, "ticks_total") or 0) > 0
        assert ("process_resident_memory_bytes", ()) in series
        assert (await get(f"{url}/metrics"))[0] == 401
        account = exchange.accounts["main"]
        secrets = [account.api_key, account.secret, TOKEN, receiver.url, *exchange.listen_keys.all().values()]
        status, text = await get(f"{url}/metrics", Authorization=bearer)
        assert status == 200
        assert [secret for secret in secrets if secret in text] == []


async def test_many_scrapes_at_once_are_one(broker: Mosquitto, tmp_path: Path) -> None:
    """Who asks a thousand times a second gets what the first has got, and the ticks go on."""
    port = free_port()
    async with (
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, http={"listen": f"127.0.0.1:{port}"})),
    ):
        url = f"http://127.0.0.1:{port}/metrics"
        await until(lambda: exchange.accounts["main"], "it runs")

        async def answers() -> bool:
            try:
                return (await get(url))[0] == 200
            except aiohttp.ClientError:
                return False

        await eventually(answers, "it listens")
        await asyncio.sleep(1.1)  # what was gathered then is not fresh any more
        answered = await asyncio.gather(*(get(url) for _ in range(10)))
        assert {status for status, _ in answered} == {200}
        assert len({text for _, text in answered}) == 1


@pytest.mark.parametrize("per_connection", [1, 20])
async def test_frames_that_do_not_read_are_counted(per_connection: int, broker: Mosquitto, tmp_path: Path) -> None:
    """A format that has changed at the exchange shows there, before anything is missing."""
    port = free_port()
    settings: dict[str, Any] = {"http": {"listen": f"127.0.0.1:{port}"}}
    settings["links"] = {"accounts_per_connection": per_connection}
    async with (
        stories.exchange() as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, **settings)),
    ):
        links = (
            ("_instance", "market-binance-usdm-custom"),
            ("main" if per_connection == 1 else "_instance", "private"),
        )

        async def counted() -> bool:
            for route in ("market", "private"):
                exchange.send_garbage(route)
            try:
                series = read((await get(f"http://127.0.0.1:{port}/metrics"))[1])
            except aiohttp.ClientError:
                return False
            return all(of(series, "link_dropped_frames_total", account=a, link=link) for a, link in links)

        await eventually(counted, "they are counted")
