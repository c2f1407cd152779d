"""The websocket side, heard by the real client."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from monitor.sim import Exchange, Scenario
from tests.sim.wire import WAIT_S, ask, client, frame, frames, private, silent, stream


def still(name: str = "calm") -> Exchange:
    """An exchange in which nothing happens by itself."""
    return Exchange(Scenario.named(name), tick_s=None)


async def test_a_mark_frame_has_every_field() -> None:
    """What risk is computed from, on every tick."""
    async with still() as exchange, stream(exchange, "/market/ws/btcusdt@markPrice@1s") as socket:
        exchange.set_mark("BTCUSDT", "60123.4")
        exchange.pulse()
        event = await frame(socket)

    assert abs(event.pop("E") - exchange.now_ms()) < 5000
    assert event.pop("T") % (8 * 3_600_000) == 0
    assert event == {
        "e": "markPriceUpdate",
        "s": "BTCUSDT",
        "p": "60123.40000000",
        "ap": "60123.40000000",
        "P": "59994.00000000",
        "i": "59994.00000000",
        "r": "0.00010000",
        "st": 1,
    }


async def test_a_combined_url_wraps_each_payload_with_its_stream() -> None:
    """One socket for several symbols."""
    async with (
        still() as exchange,
        stream(exchange, "/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice") as socket,
    ):
        exchange.pulse()
        told = await frames(socket, 2)

    assert [f["stream"] for f in told] == ["btcusdt@markPrice@1s", "ethusdt@markPrice"]
    assert told[1]["data"]["p"] == "2950.00000000"


async def test_the_array_comes_in_several_mixed_messages() -> None:
    """A missing symbol in one message is not a delisted one; COIN-M is among them, TradFi apart."""
    async with still() as exchange, stream(exchange, "/market/ws/!markPrice@arr@1s") as socket:
        exchange.pulse()
        crypto, tradfi = await frames(socket, 2)

    by_symbol = {row["s"]: row for row in crypto}
    assert by_symbol["BTCUSD_PERP"]["st"] == 2
    assert (by_symbol["BTCUSD_300101"]["r"], by_symbol["BTCUSD_300101"]["T"]) == ("", 0)
    assert [row["s"] for row in tradfi] == ["TSLAUSDT"]
    assert by_symbol["BTCUSDT"]["st"] == 1


async def test_the_timer_pushes_marks_by_itself() -> None:
    """A person who develops against it does not pulse."""
    async with Exchange(tick_s=0.02) as exchange, stream(exchange, "/market/ws/btcusdt@markPrice@1s") as socket:
        assert [f["s"] for f in await frames(socket, 3)] == ["BTCUSDT"] * 3


async def test_funding_is_settled_when_its_time_comes() -> None:
    """Where it is asked for; else only the next time moves on."""
    exchange = Exchange(tick_s=0.02, auto_funding=True)
    async with exchange, private(exchange) as socket:
        exchange.set_funding("BTCUSDT", rate="0.0001", next_ms=exchange.now_ms())
        event = await frame(socket)
        assert exchange.market["BTCUSDT"].next_funding_ms > exchange.now_ms()

    assert (event["a"]["m"], event["a"]["S"]) == ("FUNDING_FEE", "BTCUSDT")


async def test_requests_on_an_open_socket_are_answered() -> None:
    """Subscriptions come and go with positions."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        assert await ask(socket, "SUBSCRIBE", ["btcusdt@markPrice@1s"], 1) == {"result": None, "id": 1}
        assert await ask(socket, "LIST_SUBSCRIPTIONS", number=2) == {"result": ["btcusdt@markPrice@1s"], "id": 2}
        assert await ask(socket, "GET_PROPERTY", ["combined"], 3) == {"result": False, "id": 3}
        assert await ask(socket, "SET_PROPERTY", ["combined", True], 4) == {"result": None, "id": 4}
        exchange.pulse()
        assert (await frame(socket))["stream"] == "btcusdt@markPrice@1s"
        assert await ask(socket, "UNSUBSCRIBE", ["btcusdt@markPrice@1s"], 5) == {"result": None, "id": 5}
        exchange.pulse()
        assert await silent(exchange, socket)


@pytest.mark.parametrize(
    ("request_text", "code"),
    [
        pytest.param("{", 3, id="not JSON"),
        pytest.param('{"method":"LOGIN","id":1}', 2, id="unknown method"),
        pytest.param('{"method":"GET_PROPERTY","params":["x"],"id":1}', 0, id="unknown property"),
        pytest.param('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1, id="wrong type"),
        pytest.param('{"method":"SUBSCRIBE","params":["a"],"id":"x"}', 2, id="id not a number"),
    ],
)
async def test_a_bad_request_gets_its_error_code(request_text: str, code: int) -> None:
    """The documented codes, flat."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        await socket.send(request_text)
        assert (await frame(socket))["code"] == code


@pytest.mark.parametrize("path", ["/ws", "/stream", "/public/ws", "/private/ws"])
async def test_the_wrong_route_acknowledges_and_stays_silent(path: str) -> None:
    """An acknowledgement proves nothing."""
    async with still() as exchange, stream(exchange, path) as socket:
        assert await ask(socket, "SUBSCRIBE", ["btcusdt@markPrice@1s"]) == {"result": None, "id": 1}
        exchange.pulse()
        assert await silent(exchange, socket)


async def test_an_unknown_stream_and_an_unrouted_url_are_silent() -> None:
    """The old URL connects, and that is all it does."""
    async with (
        still() as exchange,
        stream(exchange, "/ws/btcusdt@markPrice") as old,
        stream(exchange, "/market/ws/nopeusdt@markPrice/btcusdt@nope") as unknown,
    ):
        exchange.pulse()
        assert await silent(exchange, old, unknown)


async def test_more_than_ten_messages_in_a_second_end_the_connection() -> None:
    """A reader that subscribes symbol by symbol is thrown out."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        for _ in range(12):
            await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        async with asyncio.timeout(WAIT_S):
            await socket.wait_closed()
        assert socket.close_code == 1008


async def test_a_connection_has_an_end() -> None:
    """24 hours, here a moment."""
    exchange = still()
    exchange.streams.limits.life_s = 0.05
    async with exchange, stream(exchange, "/market/ws") as socket:
        async with asyncio.timeout(WAIT_S):
            await socket.wait_closed()
        assert socket.close_code == 1001


async def test_the_server_pings_and_drops_who_does_not_answer() -> None:
    """websockets answers by itself, so this connection lives on until its pongs are too old to count."""
    exchange = still()
    exchange.streams.limits.ping_s = 0.01
    async with exchange, stream(exchange, "/market/ws/btcusdt@markPrice@1s") as socket:
        (connection,) = exchange.streams.connections
        async with asyncio.timeout(WAIT_S):
            await connection.ponged.wait()
        exchange.streams.limits.pong_s = 0.0
        async with asyncio.timeout(WAIT_S):
            await socket.wait_closed()


async def test_compression_is_offered() -> None:
    """permessage-deflate, which the client library asks for by default."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        assert [type(extension).__name__ for extension in socket.protocol.extensions] == ["PerMessageDeflate"]


async def test_bracket_and_status_changes_are_pushed() -> None:
    """`bks` is the trigger to fetch brackets again, and is absent otherwise."""
    async with still() as exchange, stream(exchange, "/market/ws/!contractInfo") as socket:
        rows = [
            {"initialLeverage": 50, "notionalFloor": 0, "notionalCap": 5000, "maintMarginRatio": "0.01", "cum": 0},
            {
                "initialLeverage": 20,
                "notionalFloor": 5000,
                "notionalCap": 25000,
                "maintMarginRatio": "0.025",
                "cum": 75,
            },
        ]
        exchange.set_brackets("DOGEUSDT", rows)
        exchange.set_status("DOGEUSDT", "SETTLING", 1_900_000_000_000)
        changed, settling = await frames(socket, 2)

    assert changed["bks"] == [
        {"bs": 1, "bnf": 0, "bnc": 5000, "mmr": 0.01, "cf": 0, "mi": 21, "ma": 50},
        {"bs": 2, "bnf": 5000, "bnc": 25000, "mmr": 0.025, "cf": 75, "mi": 1, "ma": 20},
    ]
    assert "bks" not in settling
    assert (settling["cs"], settling["dt"]) == ("SETTLING", 1_900_000_000_000)


# Private


@pytest.mark.parametrize(
    "path", ["/private/ws/{key}", "/private/ws?listenKey={key}", "/private/stream?listenKey={key}"]
)
async def test_every_url_form_delivers(path: str) -> None:
    """Sources disagree about which one does; here all do."""
    async with still() as exchange:
        key = exchange.listen_keys.create("main")
        async with stream(exchange, path.format(key=key)) as socket:
            exchange.transfer("main", "USDT", "5")
            event = await frame(socket)

    assert event.get("data", event)["a"]["m"] == "DEPOSIT"
    assert ("stream" in event) == ("/stream" in path)


async def test_a_bare_private_socket_is_subscribed_with_its_key() -> None:
    """Form D wraps, and names the key as its stream."""
    async with still() as exchange, stream(exchange, "/private/stream") as socket:
        key = exchange.listen_keys.create("main")
        await ask(socket, "SUBSCRIBE", [key])
        exchange.transfer("main", "USDT", "5")
        assert (await frame(socket))["stream"] == key


async def test_several_keys_each_with_its_allow_list() -> None:
    """What is not named is not sent."""
    async with still("mixed") as exchange:
        one, two = exchange.listen_keys.create("main"), exchange.listen_keys.create("hedge")
        path = f"/private/stream?listenKey={one}&events=ACCOUNT_CONFIG_UPDATE/MARGIN_CALL&listenKey={two}"
        async with stream(exchange, path) as socket:
            exchange.transfer("main", "USDT", "5")
            exchange.set_leverage("main", "BTCUSDT", 20)
            exchange.transfer("hedge", "USDC", "5")
            told = await frames(socket, 2)

    assert [(f["stream"], f["data"]["e"]) for f in told] == [(one, "ACCOUNT_CONFIG_UPDATE"), (two, "ACCOUNT_UPDATE")]


async def test_an_unknown_key_connects_and_gets_nothing() -> None:
    """A wrong key must not be mistaken for a quiet account."""
    async with still() as exchange:
        exchange.listen_keys.create("main")
        async with stream(exchange, "/private/ws?listenKey=nobody") as socket:
            exchange.transfer("main", "USDT", "5")
            assert await silent(exchange, socket)


async def test_the_life_of_a_listen_key() -> None:
    """POST gives the same key, DELETE announces its end and leaves the socket open, PUT then says -1125."""
    async with still() as exchange, client(exchange) as binance:
        key = await binance.futures_stream_get_listen_key()
        assert await binance.futures_stream_get_listen_key() == key
        assert await binance.futures_stream_keepalive(listenKey=key) == {"listenKey": key}
        async with stream(exchange, f"/private/ws?listenKey={key}") as socket:
            await binance.futures_stream_close(listenKey=key)
            ended = await frame(socket)
            exchange.transfer("main", "USDT", "5")
            assert await silent(exchange, socket)
        with pytest.raises(Exception, match="-1125"):
            await binance.futures_stream_keepalive(listenKey=key)
        assert await binance.futures_stream_get_listen_key() != key

    assert (ended["e"], ended["listenKey"]) == ("listenKeyExpired", key)


async def test_a_listen_key_expires_by_itself() -> None:
    """An hour, here a moment; `E` may be a string."""
    exchange = still()
    exchange.listen_keys.life_s = 0.3
    exchange.fault(listen_key_text_time=True)
    async with exchange, private(exchange) as socket:
        event = await frame(socket)

    assert event["e"] == "listenKeyExpired"
    assert isinstance(event["E"], str)
    assert exchange.listen_keys.all() == {}


# Faults


async def test_private_streams_can_be_mute_by_form_or_wholly() -> None:
    """Connected, alive, silent."""
    async with still() as exchange:
        key = exchange.listen_keys.create("main")
        async with (
            stream(exchange, f"/private/ws/{key}") as path_form,
            stream(exchange, f"/private/ws?listenKey={key}") as query_form,
        ):
            exchange.fault(mute_forms=["A"])
            exchange.transfer("main", "USDT", "5")
            assert (await frame(query_form))["e"] == "ACCOUNT_UPDATE"
            assert await silent(exchange, path_form)
            await frame(query_form)
            exchange.fault(mute_private=True, mute_forms=[])
            exchange.transfer("main", "USDT", "5")
            assert await silent(exchange, query_form)


async def test_marks_can_be_mute_for_all_or_some_symbols() -> None:
    """One symbol's silence is not the stream's."""
    path = "/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s"
    async with still() as exchange, stream(exchange, path) as socket:
        exchange.fault(mute_symbols=["BTCUSDT"])
        exchange.pulse()
        assert (await frame(socket))["data"]["s"] == "ETHUSDT"
        exchange.fault(mute_market=True)
        exchange.pulse()
        assert await silent(exchange, socket)


@pytest.mark.parametrize("route", ["market", "private"])
async def test_a_half_open_socket_does_not_even_pong(route: str) -> None:
    """Only a deadline of one's own finds it out."""
    async with still() as exchange, stream(exchange, f"/{route}/ws") as socket:
        exchange.fault(**{f"half_open_{route}": True})
        pong = await socket.ping()
        exchange.pulse()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pong
        exchange.fault(**{f"half_open_{route}": False})
        await (await socket.ping())


async def test_sockets_can_be_cut_and_new_ones_refused() -> None:
    """No close frame, as when a cable is pulled."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        exchange.drop("market")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is None
        exchange.fault(refuse=True)
        with pytest.raises((InvalidMessage, ConnectionError)):
            await connect(exchange.ws_url + "/market/ws")


@pytest.mark.parametrize(("kind", "size"), [("text", 10), ("types", 10), ("binary", 2), ("big", 5_000_000)])
async def test_garbage_can_be_sent(kind: str, size: int) -> None:
    """A reader must outlive each."""
    async with still() as exchange, stream(exchange, "/market/ws") as socket:
        exchange.send_garbage("market", kind)
        async with asyncio.timeout(WAIT_S):
            assert len(await socket.recv()) >= size


async def test_private_events_can_change_places_and_come_twice() -> None:
    """Order and number are not promised."""
    async with still() as exchange, private(exchange) as socket:
        exchange.fault(swap_next=True)
        exchange.transfer("main", "USDT", "1")
        exchange.transfer("main", "USDT", "2")
        exchange.fault(duplicate_next=True)
        exchange.transfer("main", "USDT", "3")
        exchange.transfer("main", "USDT", "4")
        told = await frames(socket, 5)

    assert [f["a"]["B"][0]["bc"] for f in told] == [f"{n}.00000000" for n in (2, 1, 3, 3, 4)]


async def test_an_unknown_fault_is_refused() -> None:
    """A test with a misspelt fault would prove nothing."""
    exchange = still()

    for switches in ({"mute_everything": True}, {"rest": "maybe"}, {"mute_forms": ["E"]}, {"mute_market": "yes"}):
        with pytest.raises(ValueError, match=r"fault|forms"):
            exchange.fault(**switches)


async def test_a_killed_exchange_comes_back_with_its_state_on_the_same_port() -> None:
    """What a monitor sees when the far side crashes."""
    exchange = still()
    await exchange.start()
    port = exchange.port
    async with private(exchange) as socket:
        exchange.transfer("main", "USDT", "5")
        await frame(socket)
        await exchange.kill()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await connect(exchange.ws_url + "/market/ws")
    await exchange.start()
    try:
        assert exchange.port == port
        async with private(exchange) as socket, client(exchange) as binance:
            assert (await binance.futures_account(version=3))["totalWalletBalance"] == "10755.00000000"
            exchange.transfer("main", "USDT", "5")
            assert json.dumps(await frame(socket)).count("ACCOUNT_UPDATE") == 1
    finally:
        await exchange.stop()
