"""Making each fault, and which links it blinds while it lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from monitor.sim import Exchange
from tests.chaos.process import DaemonProcess
from tests.chaos.proxy import Proxy
from tests.chaos.wallclock import WallClock
from tests.rig import Mosquitto

MARKET = "_instance/market-binance-usdm-custom"
ACCOUNTS = ("main", "other", "taken")
PRIVATE = frozenset(f"{account}/private" for account in ACCOUNTS)
REST = frozenset(f"{account}/rest" for account in ACCOUNTS)
ALL = frozenset({MARKET}) | PRIVATE | REST

BLINDS: dict[str, frozenset[str]] = {
    "market-half-open": frozenset({MARKET}),
    "market-mute": frozenset({MARKET}),
    "private-half-open": PRIVATE,
    "rest-503": REST,
    "rest-cut": REST,
    "exchange-killed": ALL,
    "exchange-replaced": ALL,
    "exchange-net-cut": ALL,
    "exchange-net-frozen": ALL,
}
"""Fault → links that bring nothing at all while it lasts. The others heal by themselves, or let something through."""

FORCED_ORDERS = "/fapi/v1/forceOrders"
JUMP_S = 600.0


@dataclass
class Stage:
    """Everything that faults are done to.

    Attributes:
        broker_kills: When it was killed.
        bad_ends: Exit statuses of daemons that were told to stop, other than 0.
    """

    exchange: Exchange
    to_exchange: Proxy
    broker: Mosquitto
    to_broker: Proxy
    daemon: DaemonProcess
    clock: WallClock
    broker_kills: list[float]
    bad_ends: list[int]


def making(stage: Stage, name: str) -> AbstractAsyncContextManager[None]:
    """A fault that lasts for as long as it is entered."""
    return _MAKERS[name](stage)


Maker = Callable[[Stage], AbstractAsyncContextManager[None]]


def _switch(**switches: Any) -> Maker:
    """Switches of the exchange, thrown back afterwards."""
    off = {"rest": "ok"}

    @asynccontextmanager
    async def switched(stage: Stage) -> AsyncIterator[None]:
        stage.exchange.fault(**switches)
        yield
        stage.exchange.fault(**{name: off.get(name) or type(value)() for name, value in switches.items()})

    return switched


def _once(act: Callable[[Stage], object]) -> Maker:
    """What is done in a moment."""

    @asynccontextmanager
    async def done(stage: Stage) -> AsyncIterator[None]:
        act(stage)
        yield

    return done


def _garbage(route: str) -> Callable[[Stage], None]:
    def send(stage: Stage) -> None:
        for kind in ("text", "types", "binary", "big"):
            stage.exchange.send_garbage(route, kind)

    return send


def _expire(stage: Stage) -> None:
    for account in stage.exchange.accounts:
        stage.exchange.expire_listen_key(account)


@asynccontextmanager
async def _limited(stage: Stage) -> AsyncIterator[None]:
    """429 has no Retry-After: whoever gets it stays away until the minute is over. So it comes late in a minute and
    ends with it, or comes as what follows it, a ban of a second."""
    stage.exchange.rest.weights.ban_s = 0
    into = time.time() % 60
    stage.exchange.fault(rest="429" if 54 < into < 59 else "418")
    then = asyncio.get_running_loop().call_later(59.5 - into, lambda: stage.exchange.fault(rest="418"))
    try:
        yield
    finally:
        then.cancel()
        stage.exchange.fault(rest="ok")


def _refusing(rest: str, *paths: str) -> Maker:
    """Some paths alone, or all of them. A ban lasts for a second."""

    @asynccontextmanager
    async def refusing(stage: Stage) -> AsyncIterator[None]:
        stage.exchange.rest.weights.ban_s = 0
        stage.exchange.fault(rest=rest, rest_paths=list(paths))
        yield
        stage.exchange.fault(rest="ok", rest_paths=[])

    return refusing


@asynccontextmanager
async def _no_key(stage: Stage) -> AsyncIterator[None]:
    """The private streams are gone, and no key is given to open others; all else is answered."""
    async with _refusing("503", "/fapi/v1/listenKey")(stage):
        stage.exchange.drop("private")
        yield


def _killed(keep_listen_keys: bool) -> Maker:
    @asynccontextmanager
    async def killed(stage: Stage) -> AsyncIterator[None]:
        await stage.exchange.kill(keep_listen_keys)
        yield
        await stage.exchange.start()

    return killed


def _net(proxy: Callable[[Stage], Proxy], kind: str) -> Maker:
    @asynccontextmanager
    async def disturbed(stage: Stage) -> AsyncIterator[None]:
        net = proxy(stage)
        match kind:
            case "cut":
                net.refusing = True
                await net.cut()
            case "frozen":
                net.freeze()
            case "slow":
                net.delay_s = 0.3
            case "half-open":
                net.half_open()
        yield
        net.mend()

    return disturbed


@asynccontextmanager
async def _broker_killed(stage: Stage) -> AsyncIterator[None]:
    stage.broker_kills.append(time.monotonic())
    stage.broker.kill()
    yield
    await stage.broker.start()


@asynccontextmanager
async def _broker_frozen(stage: Stage) -> AsyncIterator[None]:
    stage.broker.freeze()
    yield
    stage.broker.thaw()


@asynccontextmanager
async def _daemon_killed(stage: Stage) -> AsyncIterator[None]:
    await stage.daemon.kill()
    await asyncio.sleep(0)
    yield
    await stage.daemon.start()


@asynccontextmanager
async def _daemon_stopped(stage: Stage) -> AsyncIterator[None]:
    if status := await stage.daemon.stop():
        stage.bad_ends.append(status)
    yield
    await stage.daemon.start()


@asynccontextmanager
async def _daemon_frozen(stage: Stage) -> AsyncIterator[None]:
    stage.daemon.freeze()
    yield
    stage.daemon.thaw()


def _jump(offset_s: float) -> Maker:
    @asynccontextmanager
    async def jumped(stage: Stage) -> AsyncIterator[None]:
        stage.clock.jump(offset_s)
        yield
        stage.clock.jump(0)

    return jumped


_MAKERS: dict[str, Maker] = {
    "market-dropped": _once(lambda stage: stage.exchange.drop("market")),
    "market-half-open": _switch(half_open_market=True),
    "market-mute": _switch(mute_market=True),
    "garbage-market": _once(_garbage("market")),
    "private-dropped": _once(lambda stage: stage.exchange.drop("private")),
    "private-half-open": _switch(half_open_private=True),
    "private-mute": _switch(mute_private=True),
    "private-wrong-form": _switch(mute_forms=["B", "C"]),
    "listen-key-expired": _once(_expire),
    "garbage-private": _once(_garbage("private")),
    "events-swapped": _switch(swap_next=True),
    "event-doubled": _switch(duplicate_next=True),
    "rest-503": _switch(rest="503"),
    "rest-cut": _switch(rest="abort"),
    "rest-418": _refusing("418"),
    "rest-429": _limited,
    "rest-stale": _switch(stale_s=3.0),
    "rest-slow": _switch(latency_s=0.4),
    "listen-key-refused": _no_key,
    "forced-orders-503": _refusing("503", FORCED_ORDERS),
    "forced-orders-418": _refusing("418", FORCED_ORDERS),
    "exchange-killed": _killed(keep_listen_keys=True),
    "exchange-replaced": _killed(keep_listen_keys=False),
    "broker-killed": _broker_killed,
    "broker-frozen": _broker_frozen,
    "daemon-killed": _daemon_killed,
    "daemon-stopped": _daemon_stopped,
    "daemon-frozen": _daemon_frozen,
    "clock-ahead": _jump(JUMP_S),
    "clock-back": _jump(-JUMP_S),
    **{f"exchange-net-{k}": _net(lambda s: s.to_exchange, k) for k in ("cut", "frozen", "slow", "half-open")},
    **{f"broker-net-{k}": _net(lambda s: s.to_broker, k) for k in ("cut", "frozen", "slow", "half-open")},
}
