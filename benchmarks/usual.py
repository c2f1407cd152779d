"""The usual script, as one writes it: python-binance's socket, `json`, and all of it anew in Decimal on every frame.

It knows unrealized PnL, bracket, maintenance margin, margin ratio and level of each account; no liquidation price, no
hysteresis, no message.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from binance import AsyncClient, BinanceSocketManager

from benchmarks import scene, worker


class Script:
    """All accounts, recomputed whole whenever a frame has come."""

    def __init__(self, given: scene.Scene) -> None:
        self.accounts = given.accounts
        self.tiers = given.tiers
        self.marks = dict(given.prices)
        self.levels = dict.fromkeys((account.name for account in given.accounts), 0)
        self.frames = 0
        self.crossings: list[tuple[int, str, int]] = []
        self.recompute()

    def on_message(self, message: Any) -> None:
        data = message["data"]
        for mark in data if isinstance(data, list) else [data]:
            self.marks[mark["s"]] = Decimal(mark["p"])
        self.frames += 1
        self.recompute()

    def recompute(self) -> None:
        for account in self.accounts:
            pnl = margin = Decimal(0)
            for holding in account.holdings:
                mark = self.marks[holding.symbol]
                pnl += holding.quantity * (mark - holding.entry_price)
                margin += self.maintenance_margin(abs(holding.quantity) * mark)
            balance = account.wallet_balance + pnl
            ratio = margin / balance if balance > 0 else Decimal(10)
            level = sum(ratio >= at for at in scene.LEVELS)
            if level != self.levels[account.name]:
                self.levels[account.name] = level
                self.crossings.append((self.frames, account.name, level))

    def maintenance_margin(self, notional: Decimal) -> Decimal:
        for tier in reversed(self.tiers):
            if notional > tier.floor:
                return notional * tier.rate - tier.amount
        return Decimal(0)


async def run(url: str, given: scene.Scene) -> None:
    desk = worker.Desk()
    script = Script(given)
    manager = BinanceSocketManager(AsyncClient())
    manager.FSTREAM_URL = f"{url}/"
    async with manager.all_mark_price_socket() as stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.serve({"report": lambda: {"crossings": script.crossings}}))
        while True:
            script.on_message(await stream.recv())
            desk.decided()
            desk.answer()
