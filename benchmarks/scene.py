"""What both variants are given: accounts, brackets and frames, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, NamedTuple

Shape = Literal["symbol", "array"]
"""One frame per held symbol, or one frame with every symbol of the market."""
Market = Literal["usual", "wild"]
"""How the marks move from second to second: `WANDER`."""

SYMBOLS = tuple(f"COIN{i:03}USDT" for i in range(600))
LEVELS = tuple(map(Decimal, ("0.5", "0.8", "0.9", "1")))
"""Of the margin ratio, as in the default rules."""
START_MS = 1_795_248_000_000
_FUNDING_MS = START_MS + 28_800_000
_TIERS = (
    ("50000", "0.005"),
    ("250000", "0.01"),
    ("1000000", "0.025"),
    ("3000000", "0.05"),
    ("10000000", "0.1"),
    ("20000000", "0.125"),
    ("40000000", "0.15"),
    ("80000000", "0.25"),
)


class Tier(NamedTuple):
    """From `floor` on, maintenance margin = notional × rate − amount."""

    floor: Decimal
    rate: Decimal
    amount: Decimal


class Holding(NamedTuple):
    """A position; quantity is signed."""

    symbol: str
    quantity: Decimal
    entry_price: Decimal


class Account(NamedTuple):
    """A cross account in USDT."""

    name: str
    wallet_balance: Decimal
    holdings: tuple[Holding, ...]


class Wander(NamedTuple):
    """Marks that go up and down by chance.

    Args:
        together: Standard deviation of what all marks do in a second.
        alone: Of what each does besides.
        stays: This much of the way from the start is kept from one second to the next; 1: they never come back.
    """

    together: float
    alone: float
    stays: float


WANDER: dict[Market, Wander] = {
    "usual": Wander(0.00008, 0.00015, 1),
    "wild": Wander(0.0004, 0.0004, 0.98),
}
"""Usual: 1.7 bp a second, 95 % a year. The hourly mark prices of January 2026 come to 0.60 bp a second for BTCUSDT and
0.83 bp for ETHUSDT; the five minutes' closes of 2025-10-10, the day of the largest liquidations there have been, to 2.2
and 2.7 bp. Wild: 5.7 bp a second, twice that day's, for ever."""


class Scene(NamedTuple):
    """Args:
    prices: Mark price of every symbol at the start.
    """

    tiers: tuple[Tier, ...]
    prices: dict[str, Decimal]
    accounts: tuple[Account, ...]

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(sorted({h.symbol for account in self.accounts for h in account.holdings}))


def make(accounts: int, positions: int, near: float) -> Scene:
    """A market of 600 symbols, and accounts that hold some of them: a few symbols are held by many.

    Args:
        near: So large a part of the accounts has a margin ratio between 45 % and 97 %; the others have positions worth
            one to five times their margin balance, and are far from every level.
    """
    chance = random.Random(accounts * 1000 + positions)
    prices = {s: Decimal(str(round(10 ** chance.uniform(-1, 4), 4))) for s in SYMBOLS}
    tiers = _tiers()
    popularity = [1 / (rank + 1) ** 1.2 for rank in range(len(SYMBOLS))]
    made = []
    for i in range(accounts):
        symbols: set[str] = set()
        while len(symbols) < positions:
            symbols.update(chance.choices(SYMBOLS, popularity))
        holdings = tuple(_holding(s, prices[s], chance) for s in sorted(symbols))
        pnl = sum((h.quantity * (prices[h.symbol] - h.entry_price) for h in holdings), Decimal(0))
        margin = sum((_margin(abs(h.quantity) * prices[h.symbol], tiers) for h in holdings), Decimal(0))
        gross = sum((abs(h.quantity) * prices[h.symbol] for h in holdings), Decimal(0))
        is_near = chance.random() < near
        balance = margin / _between(chance, 0.45, 0.97) if is_near else gross / _between(chance, 1, 5)
        wallet = (balance - pnl).quantize(Decimal("0.00000001"))
        made.append(Account(f"account-{i:05}", wallet, holdings))
    return Scene(tiers, prices, tuple(made))


def _tiers() -> tuple[Tier, ...]:
    tiers = [Tier(Decimal(0), Decimal("0.004"), Decimal(0))]
    for edge, percent in _TIERS:
        floor, rate = Decimal(edge), Decimal(percent)
        tiers.append(Tier(floor, rate, tiers[-1].amount + floor * (rate - tiers[-1].rate)))
    return tuple(tiers)


def _margin(notional: Decimal, tiers: tuple[Tier, ...]) -> Decimal:
    return max(notional * t.rate - t.amount for t in tiers)


def _between(chance: random.Random, low: float, high: float) -> Decimal:
    return Decimal(str(round(chance.uniform(low, high), 3)))


def _holding(symbol: str, price: Decimal, chance: random.Random) -> Holding:
    notional = Decimal(str(round(10 ** chance.uniform(2.5, 5.5), 2)))
    quantity = max((notional / price).quantize(Decimal("0.001")), Decimal("0.001")) * chance.choice((1, 1, -1))
    entry = (price * Decimal(str(round(chance.uniform(0.97, 1.03), 4)))).quantize(Decimal("0.00000001"))
    return Holding(symbol, quantity, entry)


def frames(scene: Scene, shape: Shape, market: Market = "wild") -> Iterator[bytes]:
    """Frames without end, as on the combined stream: each second every mark moves a little."""
    chance = random.Random(1)
    wander = WANDER[market]
    offsets = dict.fromkeys(SYMBOLS, 0.0)
    common = 0.0
    tick = 0
    while True:
        tick += 1
        at_ms = START_MS + tick * 1000
        common = wander.stays * common + chance.gauss(0, wander.together)
        for symbol in SYMBOLS:
            offsets[symbol] = wander.stays * offsets[symbol] + chance.gauss(0, wander.alone)
        if shape == "array":
            rows = ",".join(_row(s, scene.prices[s], common + offsets[s], at_ms) for s in SYMBOLS)
            yield f'{{"stream":"!markPrice@arr@1s","data":[{rows}]}}'.encode()
            continue
        held = list(scene.held)
        chance.shuffle(held)
        for s in held:
            row = _row(s, scene.prices[s], common + offsets[s], at_ms)
            yield f'{{"stream":"{s.lower()}@markPrice@1s","data":{row}}}'.encode()


def _row(symbol: str, price: Decimal, move: float, at_ms: int) -> str:
    now = float(price) * (1 + move)
    return (
        f'{{"e":"markPriceUpdate","E":{at_ms},"s":"{symbol}","p":"{now:.8f}","ap":"{now:.8f}","P":"{now * 0.9997:.8f}",'
        f'"i":"{now * 1.0002:.8f}","r":"0.00010000","T":{_FUNDING_MS},"st":1}}'
    )
