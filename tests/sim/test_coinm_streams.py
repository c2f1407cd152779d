"""The dstream host, heard by the real client."""

import pytest

from monitor.sim import Exchange, Scenario
from tests.sim.wire import ask, both_markets, frame, frames, private, silent, stream


def still() -> Exchange:
    """The COIN-M scenario; nothing happens by itself."""
    return Exchange(Scenario.named("coinm"), tick_s=None)


async def test_a_coin_margined_mark_has_no_moving_average() -> None:
    """And a delivery contract has an empty rate and no funding time."""
    path = "/dstream/stream?streams=btcusd_perp@markPrice@1s/btcusd_261225@markPrice"
    async with still() as exchange, stream(exchange, path) as socket:
        exchange.pulse()
        perpetual, delivery = [told["data"] for told in await frames(socket, 2)]

    assert set(perpetual) == {"e", "E", "s", "p", "P", "i", "r", "T", "st"}
    assert (perpetual["s"], perpetual["p"], perpetual["st"]) == ("BTCUSD_PERP", "60020.00000000", 2)
    assert (delivery["s"], delivery["r"], delivery["T"]) == ("BTCUSD_261225", "", 0)


async def test_a_pair_gives_all_its_contracts_in_one_list() -> None:
    """Perpetual and quarterlies together."""
    async with still() as exchange, stream(exchange, "/dstream/ws/btcusd@markPrice@1s") as socket:
        exchange.pulse(slow=False)
        told = await frame(socket)

    assert [row["s"] for row in told] == ["BTCUSD_PERP", "BTCUSD_261225", "BTCUSD_300101"]


async def test_the_merged_array_is_on_both_hosts() -> None:
    """Either must be filtered by `st`."""
    async with (
        still() as exchange,
        stream(exchange, "/dstream/ws/!markPrice@arr@1s") as dstream,
        stream(exchange, "/market/ws/!markPrice@arr@1s/btcusd_perp@markPrice@1s") as fstream,
    ):
        exchange.pulse()
        here, there = await frame(dstream), await frame(fstream)
        await frame(fstream)
        assert (await frame(fstream))["s"] == "BTCUSD_PERP"

    assert here == there
    assert {row["st"] for row in here} == {1, 2}


@pytest.mark.parametrize(
    "path", ["/dstream/ws/{key}", "/dstream/ws?listenKey={key}", "/dstream/stream?listenKey={key}"]
)
async def test_every_url_form_delivers(path: str) -> None:
    """Form A is the documented one."""
    async with still() as exchange:
        key = exchange.listen_keys.create("coin")
        async with stream(exchange, path.format(key=key)) as socket:
            exchange.transfer("coin", "BTC", "0.5")
            told = await frame(socket)

    event = told.get("data", told)
    assert (event["a"]["m"], event["i"]) == ("DEPOSIT", "SgsR")


async def test_one_bare_socket_takes_marks_and_the_account() -> None:
    """No routes here: form D, with a mark stream beside it."""
    async with still() as exchange, stream(exchange, "/dstream/stream") as socket:
        key = exchange.listen_keys.create("coin")
        await ask(socket, "SUBSCRIBE", [key, "ethusd_perp@markPrice@1s"])
        exchange.transfer("coin", "BTC", "0.5")
        exchange.pulse()
        told = await frames(socket, 2)

    assert [f["stream"] for f in told] == [key, "ethusd_perp@markPrice@1s"]


async def test_a_key_delivers_on_its_own_host_alone() -> None:
    """The wrong host connects and stays silent."""
    exchange = Exchange(both_markets(), tick_s=None)
    async with exchange:
        usdm, coinm = exchange.listen_keys.create("main"), exchange.listen_keys.create("coin")
        async with (
            stream(exchange, f"/dstream/ws/{usdm}") as wrong,
            stream(exchange, f"/private/ws/{coinm}") as also_wrong,
            private(exchange, "coin") as right,
        ):
            exchange.transfer("main", "USDT", "1")
            exchange.transfer("coin", "BTC", "1")
            assert (await frame(right))["a"]["B"][0]["a"] == "BTC"
            assert await silent(exchange, wrong, also_wrong, right)


async def test_dstream_may_need_routes_too() -> None:
    """One project found it silent without: then /market and /private deliver, and the bare paths do not."""
    async with still() as exchange:
        key = exchange.listen_keys.create("coin")
        marks = "ws/btcusd_perp@markPrice@1s"
        async with (
            stream(exchange, f"/dstream/{marks}") as bare,
            stream(exchange, f"/dstream/market/{marks}") as market,
            stream(exchange, f"/dstream/ws/{key}") as bare_account,
            stream(exchange, f"/dstream/private/ws?listenKey={key}") as account,
        ):
            exchange.pulse()
            assert (await frame(bare))["s"] == "BTCUSD_PERP"
            assert await silent(exchange, market, account)
            await frames(bare, 1)
            await frames(bare_account, 1)
            exchange.fault(dstream_routed=True)
            exchange.pulse()
            exchange.transfer("coin", "BTC", "1")
            assert (await frame(market))["s"] == "BTCUSD_PERP"
            assert (await frame(account))["e"] == "ACCOUNT_UPDATE"
            assert await silent(exchange, bare, bare_account)


async def test_stream_faults_can_mean_one_host() -> None:
    """A venue's trouble is not the other's."""
    exchange = Exchange(both_markets(), tick_s=None)
    async with exchange, private(exchange, "main") as main, private(exchange, "coin") as coin:
        exchange.fault(mute_private=True, hosts=["dstream"])
        exchange.transfer("main", "USDT", "1")
        exchange.transfer("coin", "BTC", "1")
        assert (await frame(main))["a"]["B"][0]["a"] == "USDT"
        assert await silent(exchange, coin)
        await frame(main)
        exchange.fault(mute_private=False, mute_forms=["B"])
        exchange.transfer("main", "USDT", "1")
        exchange.transfer("coin", "BTC", "1")
        assert (await frame(main))["a"]["B"][0]["a"] == "USDT"
        assert await silent(exchange, coin)


async def test_a_half_open_dstream_socket_is_known_by_what_it_subscribed() -> None:
    """One with marks is frozen by half_open_market, even if it came bare; one with a key is not."""
    async with still() as exchange, private(exchange, "coin") as account, stream(exchange, "/dstream/ws") as marks:
        exchange.fault(half_open_market=True)
        await ask(marks, "SUBSCRIBE", ["btcusd_perp@markPrice@1s"])
        exchange.pulse()
        exchange.transfer("coin", "BTC", "1")
        assert (await frame(account))["e"] == "ACCOUNT_UPDATE"
        exchange.fault(half_open_market=False)
        assert await silent(exchange, marks)
        assert [c.kinds for c in exchange.streams.on("dstream")] == [{"private"}, {"market"}]


async def test_a_key_that_ends_is_announced_on_dstream_and_brackets_in_coin() -> None:
    """contractInfo carries the pair, and the edges in coin."""
    rows = [{"initialLeverage": 9, "qtylFloor": 0, "qtyCap": 7, "maintMarginRatio": "0.05", "cum": 0}]
    async with (
        still() as exchange,
        private(exchange, "coin") as account,
        stream(exchange, "/dstream/ws/!contractInfo") as info,
    ):
        exchange.set_brackets("BTCUSD_PERP", rows)
        exchange.expire_listen_key("coin")
        changed, ended = await frame(info), await frame(account)

    assert (changed["ps"], changed["st"], changed["bks"][0]["bnc"]) == ("BTCUSD", 2, 7)
    assert ended["e"] == "listenKeyExpired"


async def test_funding_comes_by_itself_to_coin_margined_positions() -> None:
    """As to any other, where it is asked for."""
    exchange = Exchange(Scenario.named("coinm"), tick_s=0.02, auto_funding=True)
    async with exchange, private(exchange, "coin") as socket:
        exchange.set_funding("BTCUSD_PERP", rate="0.0001", next_ms=exchange.now_ms())
        event = await frame(socket)

    assert (event["i"], event["a"]["m"], event["a"]["S"]) == ("SgsR", "FUNDING_FEE", "BTCUSD_PERP")
