"""Takes the picture of the web page that the README shows: `python -m tests.picture docs/web-page.png`.

The exchange is the simulated one, and its market moves by dice that always fall alike; the daemon, the broker and the
browser are real.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import tempfile
from pathlib import Path
from random import Random

from monitor.sim import Exchange, Scenario
from tests.browser import browsing
from tests.rig import Mosquitto, free_port, watching, write_config

SECONDS = 280
STEP_S = 0.5
FROM = {"0GUSDT": 2.0, "BTCUSDT": 90_000.0, "ETHUSDT": 3000.0}
TO = {"0GUSDT": 1.612, "BTCUSDT": 88_600.0, "ETHUSDT": 3040.0}
TREMBLE = {"0GUSDT": 0.006, "BTCUSDT": 0.0008, "ETHUSDT": 0.001}
BRACKETS = [
    [50, "5000", "0.015"],
    [25, "10000", "0.02"],
    [20, "25000", "0.025"],
    [10, "62500", "0.05"],
    [5, "125000", "0.1"],
    [4, "250000", "0.125"],
]
SCENE = {
    "symbol": [
        {"symbol": "0GUSDT", "mark": "2", "funding_rate": "0.0005", "brackets": BRACKETS},
        {"symbol": "BTCUSDT", "mark": "90000"},
        {"symbol": "ETHUSDT", "mark": "3000"},
    ],
    "account": [
        {
            "name": "main",
            "balances": {"USDT": "9000"},
            "settings": {"0GUSDT": {"margin_type": "ISOLATED", "leverage": 3}},
            "position": [
                {"symbol": "0GUSDT", "quantity": "120000", "entry_price": "2", "isolated_wallet": "70000"},
                {"symbol": "BTCUSDT", "quantity": "0.5", "entry_price": "89500"},
                {"symbol": "ETHUSDT", "quantity": "-6", "entry_price": "3120"},
            ],
        },
        {
            "name": "hedge",
            "hedge": True,
            "balances": {"USDT": "14000"},
            "position": [
                {"symbol": "BTCUSDT", "side": "LONG", "quantity": "2", "entry_price": "89000"},
                {"symbol": "BTCUSDT", "side": "SHORT", "quantity": "-1.6", "entry_price": "91000"},
            ],
        },
    ],
}


async def move(exchange: Exchange) -> None:
    """Let the market tremble its way to where it shall be: slowly at first, then faster."""
    dice = Random(7)
    steps = round(SECONDS / STEP_S)
    shake = dict.fromkeys(FROM, 0.0)
    for step in range(steps + 1):
        part = (step / steps) ** 3
        for symbol, begin in FROM.items():
            shake[symbol] = 0.96 * shake[symbol] + dice.gauss(0, TREMBLE[symbol])
            price = (begin + (TO[symbol] - begin) * part) * (1 + shake[symbol] * (1 - part))
            exchange.set_mark(symbol, f"{price:.4f}")
        await asyncio.sleep(STEP_S)


async def take(path: Path, scheme: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Mosquitto(folder / "broker")
        await broker.start()
        try:
            async with Exchange(Scenario.from_dict(SCENE)) as exchange:
                port = free_port()
                config = write_config(
                    folder / "watch",
                    exchange,
                    broker.port,
                    ("main", "hedge"),
                    http={"listen": f"127.0.0.1:{port}"},
                    links={"reconcile_s": 5, "first_frame_s": 10, "ping_timeout_s": 5},
                    rules={
                        "data_stale": {"stale_after_s": 10, "steps": [{"at": 15, "clear": 4, "severity": "warning"}]}
                    },
                    instance="vps1",
                )
                async with watching(config), browsing() as tab:
                    await move(exchange)
                    await tab.looks(scheme, 1280, 1000)
                    await tab.open(f"http://127.0.0.1:{port}/")
                    await tab.shows("#accounts", "hedge")
                    await tab.shows(".axis", "now")
                    path.write_bytes(base64.b64decode(await tab.picture()))  # noqa: ASYNC240 - nothing else waits
        finally:
            broker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.picture", description="Take the picture of the web page.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    asyncio.run(take(given.path, "dark" if given.dark else "light"))


if __name__ == "__main__":
    main()
