"""The stories of `marginwatch demo`: what the simulated exchange opens with, and what then happens.

A story waits, at each turn, until the daemon has told what it should; what it does not tell ends the demo with an
error. Times are in beats, so that a story can be told fast or slowly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from monitor.message import Message

if TYPE_CHECKING:
    from monitor.sim import Exchange

_HOUR_MS = 3_600_000


class Stage:
    """What a story has to work with.

    Args:
        beat: Seconds.
        say: Tells people what happens next; the daemon is not told.
    """

    def __init__(self, exchange: Exchange, beat: float, say: Callable[[str], None]) -> None:
        self.exchange = exchange
        self._beat = beat
        self._say = say
        self._sent: list[Message] = []
        self._act = 0
        self._heard = asyncio.Event()

    def sent(self, message: Message) -> None:
        """Take note of a message that the daemon has sent."""
        self._sent.append(message)
        self._heard.set()

    def say(self, text: str) -> None:
        """Begin an act."""
        self._act = len(self._sent)
        self._say(text)

    async def until(self, part: str, *words: str) -> None:
        """Wait for a message of this act, by a part of its topic and words of its payload.

        Raises:
            TimeoutError: The daemon has not sent it.
        """
        try:
            async with asyncio.timeout(12 * self._beat + 5):
                while not any(_tells(message, part, words) for message in self._sent[self._act :]):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise TimeoutError(f"no {part} {' '.join(words)}".strip()) from None

    async def pause(self, beats: float) -> None:
        await asyncio.sleep(beats * self._beat)

    async def glide(self, beats: float, marks: Mapping[str, str]) -> None:
        """Move marks in straight lines, together, from where they are."""
        paths = {symbol: (self.exchange.market[symbol].mark, Decimal(end)) for symbol, end in marks.items()}
        steps = max(1, round(2 * beats))
        for i in range(1, steps + 1):
            self.exchange.set_marks(
                {s: round(begin + (end - begin) * i / steps, 4) for s, (begin, end) in paths.items()}
            )
            await self.pause(beats / steps)

    async def glide_index(self, beats: float, asset: str, index: str) -> None:
        """Move an asset index in a straight line from where it is."""
        begin, end = self.exchange.market.asset_index(asset).index, Decimal(index)
        steps = max(1, round(2 * beats))
        for i in range(1, steps + 1):
            self.exchange.set_asset_index(asset, round(begin + (end - begin) * i / steps, 4))
            await self.pause(beats / steps)

    def put_funding_off(self, hours: int = 8) -> None:
        """Charge funding every so many hours, next at the first whole interval that is an hour away or more."""
        interval_ms = hours * _HOUR_MS
        next_ms = ((self.exchange.now_ms() + _HOUR_MS) // interval_ms + 1) * interval_ms
        for symbol in self._perpetuals:
            self.exchange.set_funding(symbol, interval_h=hours, next_ms=next_ms)

    def announce_funding(self, beats: float) -> int:
        """Let all funding be due in so many beats. Returns when that is (exchange time)."""
        due_ms = self.exchange.now_ms() + round(beats * self._beat * 1000)
        for symbol in self._perpetuals:
            self.exchange.set_funding(symbol, next_ms=due_ms)
        return due_ms

    async def charge_funding(self, due_ms: int) -> None:
        """Wait for its time, and charge it; the next is hours away."""
        await asyncio.sleep((due_ms - self.exchange.now_ms() + 20) / 1000)
        self.exchange.fund()
        self.put_funding_off()

    @property
    def _perpetuals(self) -> list[str]:
        return [contract.symbol for contract in self.exchange.market.contracts.values() if contract.perpetual]


def _tells(message: Message, part: str, words: tuple[str, ...]) -> bool:
    return part in message.topic and all(word.encode() in message.payload for word in words)


@dataclass(frozen=True)
class Story:
    """One scenario.

    Args:
        opening: What there is when the exchange opens: a scenario of the simulator by its name, or one as in a file.
        account: The one that is watched.
        beats: How long it is.
        tell: What happens.
        goes_silent: A link will be quiet, which is to be told soon.
        asks_often: What only REST tells is to be told soon.
    """

    opening: str | Mapping[str, Any]
    account: str
    beats: int
    tell: Callable[[Stage], Coroutine[Any, Any, None]]
    venue: str = "binance-usdm"
    goes_silent: bool = False
    asks_often: bool = False


_0G_BRACKETS = [
    [50, "5000", "0.015"],
    [25, "10000", "0.02"],
    [20, "25000", "0.025"],
    [10, "62500", "0.05"],
    [5, "125000", "0.1"],
    [4, "250000", "0.125"],
]


def _0g(mark: str, funding_rate: str = "0.0001") -> dict[str, Any]:
    return {"symbol": "0GUSDT", "mark": mark, "funding_rate": funding_rate, "brackets": _0G_BRACKETS}


# ---- crash ----

_CRASH = {
    "symbol": [_0g("2", "0.0005"), {"symbol": "BTCUSDT", "mark": "90000"}],
    "account": [
        {
            "name": "main",
            "balances": {"USDT": "60000"},
            "settings": {"0GUSDT": {"margin_type": "ISOLATED", "leverage": 3}},
            "position": [
                {"symbol": "0GUSDT", "quantity": "120000", "entry_price": "2", "isolated_wallet": "70000"},
                {"symbol": "BTCUSDT", "quantity": "0.5", "entry_price": "89500"},
            ],
        }
    ],
}


async def _crash(stage: Stage) -> None:
    exchange = stage.exchange
    await stage.until("main/pool/isolated-0gusdt", '"live"')
    stage.say("a calm market: 120000 0G long, isolated, and half a bitcoin in the cross pool")
    await stage.pause(3)
    stage.say("0G falls")
    await stage.glide(6, {"0GUSDT": "1.62"})
    await stage.glide(5, {"0GUSDT": "1.565"})
    await stage.until("event/critical/margin_ratio", '"worsened"')
    await stage.pause(1)
    stage.say("12000 USDT of margin are added to the position")
    exchange.add_margin("main", "0GUSDT", "12000")
    await stage.until("liquidation_price_moved", '"margin_transfer"')
    await stage.pause(2)
    stage.say("funding is paid")
    exchange.fund()
    stage.put_funding_off()
    await stage.until("liquidation_price_moved", '"funding_fee"')
    await stage.pause(1)
    stage.say("0G recovers")
    await stage.glide(4, {"0GUSDT": "1.95"})
    await stage.until("/margin_ratio", '"resolved"')
    await stage.pause(1)
    stage.say("the market stream goes silent: the socket stays open, nothing comes")
    exchange.fault(mute_market=True)
    await stage.until("event/warning/data_stale", '"opened"')
    await stage.pause(2)
    stage.say("it speaks again")
    exchange.fault(mute_market=False)
    await stage.until("/data_stale", '"resolved"')
    await stage.pause(2)


# ---- funding ----

_FUNDING = {
    "symbol": [_0g("1.6", "0.005"), {"symbol": "BTCUSDT", "mark": "90000"}],
    "account": [
        {
            "name": "main",
            "balances": {"USDT": "30000"},
            "settings": {"0GUSDT": {"margin_type": "ISOLATED", "leverage": 3}},
            "position": [
                {"symbol": "0GUSDT", "quantity": "120000", "entry_price": "1.8", "isolated_wallet": "45860"},
                {"symbol": "BTCUSDT", "quantity": "-0.5", "entry_price": "89500"},
            ],
        }
    ],
}


async def _funding(stage: Stage) -> None:
    await stage.until("main/pool/isolated-0gusdt", '"live"')
    stage.say("0G longs pay 0.5 % every 8 hours, and the next time is near; the market stands still")
    due_ms = stage.announce_funding(12)
    await stage.until("funding_forecast", '"opened"')
    await stage.charge_funding(due_ms)
    stage.say("funding is charged: by the 0G long, and paid to the BTC short, which is one notice")
    await stage.until("liquidation_price_moved", '"funding_fee"', '"forecast"')
    await stage.until("event/warning/margin_ratio")
    await stage.until("funding_forecast", '"resolved"')
    await stage.pause(4)
    stage.say("the exchange charges it every 4 hours from now on: the same position pays twice as often")
    stage.put_funding_off(hours=4)
    await stage.glide(6, {"0GUSDT": "1.602"})
    await stage.until("main/position/0gusdt", '"interval_hours":4')
    await stage.pause(3)
    stage.say("0G recovers")
    await stage.glide(6, {"0GUSDT": "1.8"})
    await stage.until("/margin_ratio", '"resolved"')
    await stage.until("/liquidation_distance", '"resolved"')
    await stage.pause(2)


# ---- hedge ----

_HEDGE = {
    "symbol": [_0g("1.8") | {"adl_risk": "high"}],
    "account": [
        {
            "name": "main",
            "hedge": True,
            "balances": {"USDT": "9000"},
            "position": [
                {"symbol": "0GUSDT", "side": "LONG", "quantity": "40000", "entry_price": "1.75"},
                {"symbol": "0GUSDT", "side": "SHORT", "quantity": "-34000", "entry_price": "1.7"},
            ],
        }
    ],
}


async def _hedge(stage: Stage) -> None:
    exchange = stage.exchange
    await stage.until("main/position/0gusdt-short", '"live"')
    stage.say("40000 0G long against 34000 short: far from liquidation, whichever way the price goes")
    await stage.pause(4)
    stage.say("the symbol's risk of auto-deleveraging is high, and now the position is first in the queue")
    exchange.set_adl("main", "0GUSDT", 4)
    await stage.until("event/warning/adl_quantile", '"opened"')
    await stage.pause(3)
    stage.say(
        "a crash elsewhere empties the insurance fund: the exchange closes the long leg with a profit, not the short"
    )
    exchange.adl("main", "0GUSDT", side="LONG")
    await stage.until("event/critical/forced_order", '"adl"')
    await stage.until("event/critical/hedge_broken")
    await stage.pause(3)
    stage.say("0G rises, and nothing stands against the short")
    await stage.glide(6, {"0GUSDT": "1.88"})
    await stage.until("liquidation_distance", '"warning"')
    await stage.pause(2)
    stage.say("the owner closes it")
    exchange.fill("main", "0GUSDT", "BUY", "34000", position_side="SHORT")
    await stage.until("/liquidation_distance", '"position_closed"')
    await stage.pause(2)


# ---- coinm ----

_COINM = {
    "symbol": [
        {"symbol": "BTCUSD_PERP", "mark": "60000"},
        {
            "symbol": "SOLUSD_PERP",
            "mark": "150",
            "funding_rate": "0.0005",
            "brackets": [[20, "1000", "0.025"], [10, "5000", "0.05"], [5, "20000", "0.1"]],
        },
    ],
    "account": [
        {
            "name": "coin",
            "market": "coinm",
            "balances": {"BTC": "0.3", "SOL": "400"},
            "position": [
                {"symbol": "BTCUSD_PERP", "quantity": "300", "entry_price": "60000"},
                {"symbol": "SOLUSD_PERP", "quantity": "30000", "entry_price": "150"},
            ],
        }
    ],
}


async def _coinm(stage: Stage) -> None:
    exchange = stage.exchange
    await stage.until("coin/pool/cross-sol", '"live"')
    await stage.until("coin/pool/cross-btc", '"live"')
    stage.say("30000 contracts of 10 USD on SOL, margined in SOL, and 300 of 100 USD on BTC, margined in BTC")
    await stage.pause(3)
    stage.say("SOL falls: its position loses more and more SOL, and each of them is worth less")
    await stage.glide(6, {"SOLUSD_PERP": "134"})
    await stage.glide(5, {"SOLUSD_PERP": "130.8"})
    await stage.until("event/critical/liquidation_distance")
    await stage.until("event/critical/margin_ratio")
    await stage.pause(2)
    stage.say("BTC in the account does not help: each coin is a pool of its own; 100 SOL are deposited")
    exchange.transfer("coin", "SOL", "100")
    await stage.until("liquidation_price_moved", '"transfer"')
    await stage.until("/margin_ratio", '"resolved"')
    await stage.pause(2)
    stage.say("funding is charged, in coins")
    exchange.fund()
    stage.put_funding_off()
    await stage.until("liquidation_price_moved", '"funding_fee"')
    await stage.pause(2)
    stage.say("SOL recovers")
    await stage.glide(5, {"SOLUSD_PERP": "150"})
    await stage.until("/liquidation_distance", '"resolved"')
    await stage.pause(2)


# ---- multi-assets ----

_MULTI_ASSETS = {
    "symbol": [_0g("1.6"), {"symbol": "ETHUSDC", "mark": "3000"}],
    "account": [
        {
            "name": "multi",
            "multi_assets": True,
            "balances": {"USDT": "-9000", "USDC": "450", "BTC": "0.18"},
            "position": [
                {"symbol": "0GUSDT", "quantity": "25000", "entry_price": "1.52"},
                {"symbol": "ETHUSDC", "quantity": "-1", "entry_price": "3000"},
            ],
        }
    ],
}


async def _multi_assets(stage: Stage) -> None:
    exchange = stage.exchange
    await stage.until("multi/pool/multi-assets", '"live"')
    stage.say("one pool for all: 0.18 BTC stand for a debt of 9000 USDT and for positions in USDT and in USDC")
    await stage.pause(3)
    stage.say("bitcoin falls: no position is in it, nothing happens to the account, and the margin ratio rises")
    await stage.glide_index(8, "BTC", "47800")
    await stage.until("event/critical/margin_ratio")
    await stage.pause(2)
    stage.say("bitcoin recovers")
    await stage.glide_index(4, "BTC", "60000")
    await stage.until("/margin_ratio", '"resolved"')
    await stage.pause(1)
    stage.say("1500 USDT are withdrawn: the debt passes 10000, and the exchange sells bitcoin to repay it")
    exchange.transfer("multi", "USDT", "-1500")
    await stage.until("liquidation_price_moved", '"auto_exchange"')
    await stage.until("/auto_exchange", '"resolved"')
    await stage.until("/margin_ratio", '"opened"')
    await stage.pause(3)
    stage.say("multi-assets mode is switched off: from now on each margin asset stands for itself")
    exchange.set_multi_assets("multi", False)
    await stage.until("/margin_ratio", '"pool_replaced"')
    await stage.until("/margin_ratio", '"opened"', '"cross-usdt"')
    await stage.until("liquidation_price_moved", '"multi_assets_mode"')
    await stage.pause(3)


# ---- liquidation ----


async def _liquidation(stage: Stage) -> None:
    exchange = stage.exchange
    await stage.until("main/position/btcusdt-long", '"live"')
    await stage.until("main/pool/cross-usdc", '"live"')
    stage.say("400 BTC long in the USDT pool, with two orders resting; a hedged pair in the USDC pool")
    exchange.place_resting("main", "BTCUSDT", "BUY", "5", "50000", "LONG")
    exchange.place_resting("main", "BTCUSDT", "SELL", "5", "70000", "LONG")
    await stage.pause(3)
    stage.say("BTC falls by 10 %; near the end the exchange calls for margin")
    await stage.glide(6, {"BTCUSDT": "54600", "BTCUSDC": "54610"})
    await stage.glide(6, {"BTCUSDT": "54050", "BTCUSDC": "54060"})
    await stage.until("event/warning/exchange_margin_call")
    await stage.pause(1)
    stage.say("the ratio reaches 1: the exchange cancels the orders, and closes as much as it must")
    exchange.set_marks({"BTCUSDT": "53990", "BTCUSDC": "54000"})
    await stage.until("liquidation/forced_order", '"opened"')
    await stage.until("/forced_order", '"partly_liquidated"')
    await stage.pause(2)
    stage.say("BTC recovers")
    await stage.glide(4, {"BTCUSDT": "56000", "BTCUSDC": "56010"})
    await stage.until("/margin_ratio", '"resolved"')
    await stage.pause(2)
    stage.say("it gaps below the bankruptcy price: all of it is closed, and the insurance fund pays what is missing")
    exchange.set_marks({"BTCUSDT": "53000", "BTCUSDC": "53010"})
    await stage.until("/forced_order", '"resolved"', '"liquidated"')
    await stage.pause(2)
    stage.say("the exchange deleverages whoever gains: the short leg of the hedged pair is closed")
    exchange.adl("main", "BTCUSDC", side="SHORT")
    await stage.until("/forced_order", '"resolved"', '"adl"')
    await stage.until("event/critical/hedge_broken")
    await stage.pause(2)


STORIES = {
    "crash": Story(_CRASH, "main", 40, _crash, goes_silent=True),
    "funding": Story(_FUNDING, "main", 38, _funding),
    "hedge": Story(_HEDGE, "main", 30, _hedge, asks_often=True),
    "coinm": Story(_COINM, "coin", 34, _coinm, "binance-coinm"),
    "multi-assets": Story(_MULTI_ASSETS, "multi", 30, _multi_assets),
    "liquidation": Story("liquidation", "main", 38, _liquidation),
}
