"""The same script with ccxt.pro: `watch_mark_prices`, and all of it anew in floats, as ccxt gives them."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ccxt.pro

from benchmarks import scene, worker


class Script:
    """All accounts, recomputed whole whenever mark prices have come."""

    def __init__(self, given: scene.Scene) -> None:
        self.accounts = [
            (a.name, float(a.wallet_balance), [(h.symbol, float(h.quantity), float(h.entry_price)) for h in a.holdings])
            for a in given.accounts
        ]
        self.tiers = [(float(t.floor), float(t.rate), float(t.amount)) for t in reversed(given.tiers)]
        self.levels = [float(level) for level in scene.LEVELS]
        self.marks = {symbol: float(price) for symbol, price in given.prices.items()}
        self.level_of = dict.fromkeys((account.name for account in given.accounts), 0)
        self.frames = 0
        self.crossings: list[tuple[int, str, int]] = []
        self.recompute()

    def on_tickers(self, tickers: dict[str, Any]) -> None:
        for ticker in tickers.values():
            self.marks[ticker["info"]["s"]] = ticker["markPrice"]
        self.frames += 1
        self.recompute()

    def recompute(self) -> None:
        for name, wallet, holdings in self.accounts:
            pnl = margin = 0.0
            for symbol, quantity, entry in holdings:
                mark = self.marks[symbol]
                pnl += quantity * (mark - entry)
                notional = abs(quantity) * mark
                for floor, rate, amount in self.tiers:
                    if notional > floor:
                        margin += notional * rate - amount
                        break
            balance = wallet + pnl
            ratio = margin / balance if balance > 0 else 10.0
            level = sum(ratio >= at for at in self.levels)
            if level != self.level_of[name]:
                self.level_of[name] = level
                self.crossings.append((self.frames, name, level))


def _market(symbol: str) -> dict[str, Any]:
    base = symbol.removesuffix("USDT")
    ids = {"id": symbol, "lowercaseId": symbol.lower(), "symbol": f"{base}/USDT:USDT"}
    names = {"base": base, "quote": "USDT", "settle": "USDT", "baseId": base, "quoteId": "USDT", "settleId": "USDT"}
    kind = {"type": "swap", "swap": True, "contract": True, "linear": True, "inverse": False, "active": True}
    return {**ids, **names, **kind, "spot": False, "future": False, "option": False, "contractSize": 1.0}


async def run(url: str, given: scene.Scene) -> None:
    desk = worker.Desk()
    script = Script(given)
    exchange = ccxt.pro.binanceusdm({"cafile": os.environ["SSL_CERT_FILE"], "newUpdates": True})
    exchange.set_markets([_market(symbol) for symbol in scene.SYMBOLS])
    linear = exchange.urls["api"]["ws"]
    linear["linear"] = linear["future"] = url
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.serve({"report": lambda: {"crossings": script.crossings}}))
        while True:
            script.on_tickers(await exchange.watch_mark_prices())
            desk.decided()
            desk.answer()
