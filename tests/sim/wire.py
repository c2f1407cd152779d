"""The real clients, pointed at a simulated exchange."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from binance import AsyncClient
from websockets.asyncio.client import ClientConnection, connect

from monitor.sim import Exchange, Scenario, defaults

WAIT_S = 5.0


@asynccontextmanager
async def client(exchange: Exchange, account: str = "main") -> AsyncIterator[Any]:
    """python-binance with the account's key."""
    owner = exchange.accounts[account]
    binance = AsyncClient(owner.api_key, owner.secret)
    binance.FUTURES_URL = exchange.url + "/fapi"
    binance.FUTURES_COIN_URL = exchange.url + "/dapi"
    binance.MARGIN_API_URL = exchange.url + "/sapi"
    try:
        yield binance
    finally:
        await binance.close_connection()


@asynccontextmanager
async def stream(exchange: Exchange, path: str) -> AsyncIterator[ClientConnection]:
    """A websocket that the exchange has already counted in."""
    async with connect(exchange.ws_url + path, close_timeout=1, max_size=None) as socket:
        await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":0}')
        while True:  # marks may come before the answer does
            told = await frame(socket)
            if isinstance(told, dict) and told.get("id") == 0:
                break
        yield socket


@asynccontextmanager
async def private(exchange: Exchange, account: str = "main") -> AsyncIterator[ClientConnection]:
    """The account's user stream, in query form."""
    key = exchange.listen_keys.create(account)
    place = "/private" if exchange.accounts[account].market == "usdm" else "/dstream"
    async with stream(exchange, f"{place}/ws?listenKey={key}") as socket:
        yield socket


async def frame(socket: ClientConnection) -> Any:
    """The next frame, as JSON."""
    async with asyncio.timeout(WAIT_S):
        return json.loads(await socket.recv())


async def frames(socket: ClientConnection, count: int) -> list[Any]:
    """The next frames, as JSON."""
    return [await frame(socket) for _ in range(count)]


async def ask(socket: ClientConnection, method: str, params: list[Any] | None = None, number: int = 1) -> Any:
    """Send a request and return the next frame."""
    await socket.send(json.dumps({"method": method, "params": params or [], "id": number}))
    return await frame(socket)


async def silent(exchange: Exchange, *sockets: ClientConnection) -> bool:
    """Whether nothing is on its way: what the exchange now sends to everybody is what arrives next."""
    marker = {"marker": exchange.next_id()}
    for connection in exchange.streams.connections:
        connection.send(json.dumps(marker))
    return [await frame(socket) for socket in sockets] == [marker] * len(sockets)


def both_markets() -> Scenario:
    """One login on both markets: accounts main and coin, with the key of main."""
    calm, coin = defaults.main_account(), defaults.coin_account()
    coin.api_key, coin.secret = calm.api_key, calm.secret
    return Scenario(accounts=[calm, coin])
