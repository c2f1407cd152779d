"""The usual script, as one writes it: python-binance's socket, `json`, and all of it anew in Decimal on every frame.

It knows unrealized PnL, bracket, maintenance margin, margin ratio and level of each account; no liquidation price, no
hysteresis, no message.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from decimal import Decimal
from typing import Any

from binance import AsyncClient, BinanceSocketManager

from benchmarks import scene

LEVELS = (Decimal("0.5"), Decimal("0.8"), Decimal("0.9"), Decimal("1"))


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
            level = sum(ratio >= at for at in LEVELS)
            if level != self.levels[account.name]:
                self.levels[account.name] = level
                self.crossings.append((self.frames, account.name, level))

    def maintenance_margin(self, notional: Decimal) -> Decimal:
        for tier in reversed(self.tiers):
            if notional > tier.floor:
                return notional * tier.rate - tier.amount
        return Decimal(0)


async def main(url: str, accounts: int, positions: int, shape: str) -> None:
    given = scene.make(accounts, positions)
    script = Script(given)
    client = AsyncClient()
    manager = BinanceSocketManager(client)
    manager.FSTREAM_URL = f"{url}/"
    if shape == "array":
        socket = manager.all_mark_price_socket()
    else:
        streams = [f"{s.lower()}@markPrice@1s" for s in given.held]
        socket = manager.futures_multiplex_socket(streams[:100])  # a request line has its limit; all marks come anyway
    async with socket as stream:
        while True:
            message = await stream.recv()
            ready = time.monotonic_ns()
            if "data" not in message:
                await stream.ws.send(json.dumps({"crossings": script.crossings}))
                continue
            script.on_message(message)
            await stream.ws.send(f"{ready} {time.monotonic_ns()}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
