"""Real prices through the whole daemon, held to a plain computation of what has to be told at which price.

The crash of 2025-10-10 (BTC and ETH, 5 minutes) and the hourly marks and funding of January 2026. The computation here
knows nothing of `monitor`: fractions, `tests/reference.py`, and the life of an incident written down once more. Marks
move one symbol at a time, and only after the daemon has shown that it took the one before; so no step is left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monitor.sim import Exchange, Scenario
from tests import reference as ref
from tests.rig import ROOT, Listener, Mosquitto, Table, agreement, until, watching, write_config

PRICES = ROOT.parent / "shared" / "data" / "prices"
F = Fraction

pytestmark = pytest.mark.skipif(not PRICES.is_dir(), reason=f"the price files are not here: {PRICES}")

BRACKETS: dict[str, list[tuple[int, str, str]]] = {
    "BTCUSDT": [(150, "300000", "0.004"), (100, "800000", "0.005"), (75, "3000000", "0.0065")],
    "ETHUSDT": [(150, "300000", "0.004"), (100, "800000", "0.005"), (75, "3000000", "0.0065")],
    "BTCUSDC": [(125, "50000", "0.004"), (100, "500000", "0.005"), (50, "10000000", "0.01")],
}
"""Highest leverage, cap, rate; as the exchange has them, cut off."""

QUIET: Table = {"stale_after_s": 600, "enabled": False}
"""Time does not decide anything here."""


def brackets(symbol: str) -> tuple[ref.RefBracket, ...]:
    """The table above with its amounts: where a bracket begins, both lines give the same margin."""
    rows: list[ref.RefBracket] = []
    floor = F(0)
    for _, cap, rate in BRACKETS[symbol]:
        last = rows[-1] if rows else ref.RefBracket(F(0), F(0), F(0))
        rows.append(ref.RefBracket(floor, F(rate), last.amount + floor * (F(rate) - last.rate)))
        floor = F(cap)
    return tuple(rows)


def read(name: str) -> list[dict[str, str]]:
    with (PRICES / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the accounts ----


@dataclass(frozen=True)
class Held:
    """An account: cross BTC and ETH with a USDT wallet, isolated BTCUSDC with a wallet of its own."""

    name: str
    wallet: str
    btc: str
    eth: str
    usdc: str
    usdc_wallet: str

    def scenario(self, marks: Mapping[str, str], isolated: Iterable[str] = ("BTCUSDC",)) -> dict[str, Any]:
        sizes = {"BTCUSDT": self.btc, "ETHUSDT": self.eth, "BTCUSDC": self.usdc}
        wallets = {"BTCUSDC": self.usdc_wallet}
        return {
            "name": self.name,
            "balances": {"USDT": self.wallet, "USDC": "0"},
            "settings": {symbol: {"margin_type": "ISOLATED", "leverage": 10} for symbol in isolated},
            "position": [
                {
                    "symbol": symbol,
                    "quantity": size,
                    "entry_price": marks[symbol],
                    "isolated_wallet": wallets.get(symbol, "0"),
                }
                for symbol, size in sizes.items()
                if size != "0"
            ],
        }

    def pools(self, marks: Mapping[str, str]) -> dict[str, ref.RefPool]:
        def leg(symbol: str, size: str) -> ref.RefPosition:
            return ref.RefPosition(symbol, F(size), F(marks[symbol]), F(marks[symbol]), brackets(symbol))

        return {
            "cross-usdt": ref.RefPool(F(self.wallet), (leg("BTCUSDT", self.btc), leg("ETHUSDT", self.eth))),
            "isolated-btcusdc": ref.RefPool(F(self.usdc_wallet), (leg("BTCUSDC", self.usdc),)),
        }


def symbols(marks: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"symbol": s, "mark": marks[s], "brackets": BRACKETS[s], "next_funding_ms": 4 * 10**12} for s in marks]


# ---- the plain computation ----

LEVELS = {
    "margin_ratio": [
        (2, "0.5", "0.45"),
        (3, "0.8", "0.7"),
        (4, "0.9", "0.8"),
        (5, "1", "0.9"),
    ],
    "liquidation_distance": [
        (2, "0.1", "0.12"),
        (3, "0.05", "0.06"),
        (4, "0.02", "0.025"),
    ],
}
"""Rank, where it fires, past where it is over: the documented defaults."""

WORDS = ("ok", "info", "notice", "warning", "critical", "liquidation")


@dataclass(frozen=True)
class Told:
    """What has to be told: which pool, which rule, what happened, and the figures and marks it happened at.

    symbol: The closest position; None where the pool is past liquidation and none is closer than the others.
    """

    account: str
    pool: str
    rule: str
    event: str
    severity: str
    symbol: str | None = None
    marks: Mapping[str, Fraction] | None = None
    ratio: Fraction | None = None
    distance: Fraction | None = None


def measured(pool: ref.RefPool) -> tuple[Fraction, Fraction | None, str | None]:
    """Margin ratio, distance (a pool's: the smaller of its market distance and its closest position's), the closest."""
    ratio = ref.margin_ratio(pool) or F(0)
    away = {}
    for leg in pool.positions:
        sides = [price for price in ref.liquidation_prices(pool, leg.symbol) if price is not None]
        if sides:
            away[leg.symbol] = min(abs(price - leg.mark_price) for price in sides) / leg.mark_price
    closest = min(away, key=lambda symbol: away[symbol], default=None)
    if ref.excess(pool, {}) <= 0:
        return ratio, F(0), None
    market = [move for move in ref.market_distance(pool) if move is not None]
    return ratio, min([*away.values(), *market], default=None), closest


class Ladder:
    """One rule on one pool: which step it stands on. Nothing waits: whatever is past its clear level is over."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.rank = 0
        self.peak = 0

    def move(self, value: Fraction | None) -> tuple[str, int] | None:
        """What is told, and with which rank, when the value becomes this."""
        rising = self.rule == "margin_ratio"
        fires, holds = [0], [0]
        for rank, at, clear in LEVELS[self.rule]:
            if value is not None and (value >= F(at) if rising else value <= F(at)):
                fires.append(rank)
            if rank <= self.rank and value is not None and (value >= F(clear) if rising else value <= F(clear)):
                holds.append(rank)
        before, self.rank = self.rank, max(*fires, *holds)
        if self.rank > before:
            self.peak = max(self.peak, self.rank) if before else self.rank
            return ("worsened" if before else "opened"), self.rank
        if self.rank < before:
            return ("improved", self.rank) if self.rank else ("resolved", self.peak)
        return None


def expected(
    accounts: Iterable[Held], start: Mapping[str, str], moves: Iterable[tuple[str, str]], liquidates: bool
) -> list[Told]:
    """Everything that has to be told while the marks make these moves, in order."""
    told: list[Told] = []
    for account in accounts:
        for pool_id, begun in account.pools(start).items():
            pool: ref.RefPool = begun
            ladders = [Ladder(rule) for rule in LEVELS]
            for place, (symbol, price) in enumerate([("", ""), *moves]):
                if place and not any(leg.symbol == symbol for leg in pool.positions):
                    continue
                legs = [replace(p, mark_price=F(price)) if p.symbol == symbol else p for p in pool.positions]
                pool = replace(pool, positions=tuple(legs))
                ratio, distance, closest = measured(pool)
                marks = {leg.symbol: leg.mark_price for leg in legs}
                if liquidates and ratio >= 1:
                    told += [
                        Told(account.name, pool_id, ladder.rule, "resolved", WORDS[max(ladder.peak, 4)])
                        for ladder in ladders
                        if ladder.rank
                    ]
                    break
                for ladder in ladders:
                    if said := ladder.move(ratio if ladder.rule == "margin_ratio" else distance):
                        event, rank = said
                        what = (account.name, pool_id, ladder.rule, event, WORDS[rank])
                        told.append(Told(*what, closest, marks, ratio, distance))
    return told


# ---- the crash ----

ACCOUNTS = [
    Held("deep", "63000", "2.8", "30", "1", "16700"),
    Held("edge", "62741", "2.8", "30", "0.4", "6265"),
    Held("near", "62590", "2.8", "30", "1", "16020"),
    Held("gone", "50000", "2.8", "30", "3", "42000"),
    Held("spread", "16500", "-1", "52", "0.1", "1300"),
]
"""From one that stops short of liquidation to one that is far beyond it at the low."""

WITNESS = Held("witness", "1000000", "0.001", "0.001", "0.001", "1000")
"""Never in danger: what is published of it shows which marks the daemon has taken."""

FROM, TO = "2025-10-10T20:40", "2025-10-10T23:00"
"""Of the file's three days the hours in which steps are crossed."""

PIECE = Decimal("0.005")
"""A longer way between two printed prices is gone in pieces of half a percent."""


def crash() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Marks to begin with, and single moves: open, the extremes in the order that fits the row, close."""
    files = {"BTCUSDT": "BTCUSDT_kline_5m_20251010.csv", "ETHUSDT": "ETHUSDT_kline_5m_20251010.csv"}
    rows = {symbol: [r for r in read(name) if FROM <= r["utc"] < TO] for symbol, name in files.items()}
    start = {symbol: found[0]["open"] for symbol, found in rows.items()}
    start["BTCUSDC"] = start["BTCUSDT"]
    now, moves = dict(start), list[tuple[str, str]]()
    for pair in zip(*rows.values(), strict=True):
        paths = {symbol: prices(row) for symbol, row in zip(rows, pair, strict=True)}
        for quarter in range(4):
            ways = {
                symbol: list(way(now[symbol], paths[source][quarter]))
                for symbol, source in (("BTCUSDT", "BTCUSDT"), ("BTCUSDC", "BTCUSDT"), ("ETHUSDT", "ETHUSDT"))
            }
            for place in range(max(map(len, ways.values()))):
                moves += [(symbol, on[place]) for symbol, on in ways.items() if place < len(on)]
            now |= {symbol: on[-1] for symbol, on in ways.items() if on}
    return start, moves


def prices(row: Mapping[str, str]) -> list[str]:
    falling = Decimal(row["close"]) < Decimal(row["open"])
    middle = ("high", "low") if falling else ("low", "high")
    return [row[column] for column in ("open", *middle, "close")]


def way(here: str, there: str) -> Iterator[str]:
    """Prices from one to the other, without the first; nothing where they are one."""
    begin, change = Decimal(here), Decimal(there) - Decimal(here)
    pieces = int(abs(change / begin) / PIECE) + 1 if change else 0
    for piece in range(1, pieces):
        yield str((begin + change * piece / pieces).quantize(Decimal("0.01")))
    if pieces:
        yield there


RULES: dict[str, Table] = {
    "margin_ratio": {"reenter_s": 0, "critical_within": 0},
    "liquidation_distance": {"reenter_s": 0},
    "liquidation_price_moved": {"enabled": False},
    "data_stale": QUIET,
}


async def begun(exchange: Exchange, listener: Listener, names: list[str], count: int) -> None:
    """Wait until the daemon shows what the exchange shows, and has subscribed so many marks."""
    await until(
        lambda: sum("markPrice" in s for c in exchange.streams.on("market") for s in c.streams) == count,
        "marks are subscribed",
    )
    await agreement(exchange, listener, *names)


def shows(listener: Listener, account: str, held: set[str]) -> bool:
    return listener.under(account, "position") == held


async def move(exchange: Exchange, listener: Listener, symbol: str, price: str) -> None:
    """Move a mark, and wait until the daemon has taken all that follows."""
    exchange.set_mark(symbol, price)
    for name, owner in exchange.accounts.items():
        held = {position.symbol.lower() for position in owner.open_positions()}
        if held != listener.under(name, "position"):  # a liquidation: its account events first, then the mark
            await until(partial(shows, listener, name, held), f"{name} has {held} left")
    exchange.pulse()
    topic = f"marginwatch/witness/position/{symbol.lower()}"
    await until(lambda: Decimal(listener.retained(topic)["mark_price"]) == Decimal(price), f"{symbol} is at {price}")


def levels(listener: Listener) -> list[dict[str, Any]]:
    """What was told of the two rules that have levels, repeats left out."""
    return [e for e in listener.events() if e["rule"] in LEVELS and e["event"] != "repeated"]


@pytest.mark.parametrize("liquidates", [False, True], ids=["to-the-bottom", "liquidated-on-the-way"])
async def test_every_step_of_the_crash_is_told_once_at_its_price(
    liquidates: bool, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The worst hours that the market has had: what a person needed to hear then must have been said."""
    listener.prefixes.clear()  # a schema for each of ten thousand messages takes longer than all the rest
    start, moves = crash()
    wanted = expected(ACCOUNTS, start, moves, liquidates)
    accounts = [*ACCOUNTS, WITNESS]
    scenario = Scenario.from_dict({"symbol": symbols(start), "account": [a.scenario(start) for a in accounts]})
    async with Exchange(scenario, tick_s=None) as exchange:
        exchange.rest.weights.limit = 1_000_000
        exchange.fault(liquidation=liquidates)
        names = [account.name for account in accounts]
        links = {"tick_s": 0.012, "first_frame_s": 600, "reconcile_s": 600}
        config = write_config(tmp_path / "d", exchange, broker.port, names, links=links, rules=RULES)
        async with watching(config):
            await begun(exchange, listener, names, 3)
            for symbol, price in moves:
                await move(exchange, listener, symbol, price)
            await until(
                lambda: len(levels(listener)) >= len(wanted), f"{len(wanted)} events; heard {len(levels(listener))}"
            )
            await agreement(exchange, listener, *names)

    told = levels(listener)
    for place in {(w.account, w.pool, w.rule) for w in wanted}:
        here = [w for w in wanted if (w.account, w.pool, w.rule) == place]
        said = [e for e in told if (e["account"], e["subject"], e["rule"]) == place]
        assert [(e["event"], e["severity"]) for e in said] == [(w.event, w.severity) for w in here], place
        for event, want in zip(said, here, strict=True):
            if want.marks is None or want.ratio is None:
                assert event["resolution"] == "liquidated"
                continue
            after = event["after"]
            assert event["symbol"] == (want.symbol or event["symbol"])
            assert F(after["mark_price"]) == want.marks[event["symbol"]]
            assert abs(F(str(after["margin_ratio"])) - want.ratio) <= F(1, 10**8)
            assert (after["distance"] is None) == (want.distance is None)
            if want.distance is not None:
                assert abs(F(str(after["distance"])) - want.distance) <= F(1, 10**8)
    assert len(told) == len(wanted)
    assert {e["account"] for e in told} == {account.name for account in ACCOUNTS}
    reached = {(e["rule"], e["severity"]) for e in told if e["event"] in ("opened", "worsened")}
    assert {("liquidation_distance", severity) for severity in ("notice", "warning", "critical")} <= reached
    assert {("margin_ratio", severity) for severity in ("notice", "warning", "critical")} <= reached
    assert (("margin_ratio", "liquidation") in reached) is not liquidates
    assert any(e.get("resolution") == "liquidated" for e in told) is liquidates
    forced = [e for e in listener.events() if e["rule"] == "forced_order" and e["event"] == "opened"]
    assert len({(e["account"], e["subject"]) for e in forced}) == len(forced)
    assert bool(forced) is liquidates


# ---- funding of January 2026 ----

PAIRED = Held("paired", "40000", "1.5", "-12.345", "0", "0")
"""One cross pool: a payment of either symbol moves both prices, and so does the other's mark."""


def nearer(pool: ref.RefPool, symbol: str) -> Fraction | None:
    """The liquidation price as printed: the nearer one, half-up to 8 decimals."""
    sides = [price for price in ref.liquidation_prices(pool, symbol) if price is not None]
    mark = next(leg.mark_price for leg in pool.positions if leg.symbol == symbol)
    price = min(sides, key=lambda price: abs(price - mark), default=None)
    return None if price is None else ref.half_up_8(price)


async def test_every_funding_payment_is_told_once_with_its_amount_and_prices_to_the_last_digit(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Funding is the silent mover: thirty days of real payments, each explained and none lost or told twice."""
    listener.prefixes.clear()
    rows = {
        symbol: {int(row["t_ms"]): row for row in read(f"{symbol}_mark_1h_202601.csv")}
        for symbol in ("BTCUSDT", "ETHUSDT")
    }
    rates = {
        symbol: {int(row["t_ms"]): row["fundingRate"] for row in read(f"{symbol}_funding_8h_202601.csv")}
        for symbol in rows
    }
    times = sorted(set(rates["BTCUSDT"]) & set(rates["ETHUSDT"]) & set(rows["BTCUSDT"]) & set(rows["ETHUSDT"]))
    start = {symbol: found[min(found)]["open"] for symbol, found in rows.items()}
    alone = Held("alone", "0", "0.75", "21", "0", "0")
    witness = replace(WITNESS, usdc="0")
    lone = alone.scenario(start, isolated=start)
    lone["position"][0]["isolated_wallet"], lone["position"][1]["isolated_wallet"] = "9000", "9000"
    accounts = [PAIRED.scenario(start), lone, witness.scenario(start)]
    pools = {"paired": PAIRED.pools({**start, "BTCUSDC": "1"})["cross-usdt"]}
    legs = {leg.symbol: leg for leg in alone.pools({**start, "BTCUSDC": "1"})["cross-usdt"].positions}
    pools |= {symbol: ref.RefPool(F(9000), (leg,)) for symbol, leg in legs.items()}
    rules: dict[str, Table] = {
        "margin_ratio": {"enabled": False},
        "liquidation_distance": {"enabled": False},
        "liquidation_price_moved": {"funding_window_s": 0, "notice_at": 10, "warning_at": 10},
        "data_stale": QUIET,
    }
    links = {"tick_s": 0.012, "first_frame_s": 600, "reconcile_s": 600}
    names = ["paired", "alone", "witness"]
    wanted: dict[str, list[dict[str, Any]]] = {"paired": [], "alone": []}
    scenario = Scenario.from_dict({"symbol": symbols(start), "account": accounts})
    async with Exchange(scenario, tick_s=None) as exchange:
        exchange.rest.weights.limit = 1_000_000
        config = write_config(tmp_path / "d", exchange, broker.port, names, links=links, rules=rules)
        async with watching(config):
            await begun(exchange, listener, names, 2)
            for at in times:
                for symbol, found in rows.items():
                    await move(exchange, listener, symbol, found[at]["open"])
                for symbol, found in rows.items():
                    marks = {s: F(found[at]["open"]) for s, found in rows.items()}
                    for name, pool in (("paired", "paired"), ("alone", symbol)):
                        wanted[name].append(paid(pools, pool, symbol, F(rates[symbol][at]), marks))
                    exchange.fund(symbol, rates[symbol][at])
                    for name, events in wanted.items():
                        what = f"{name}: payment of {symbol} at {at}"
                        await until(partial(has_heard, listener, name, len(events)), what)
            await agreement(exchange, listener, *names)

    assert len(times) >= 100
    for name, events in wanted.items():
        assert [by_symbol(event) for event in payments(listener, name)] == events


def payments(listener: Listener, account: str) -> list[dict[str, Any]]:
    return listener.events("liquidation_price_moved", account)


def has_heard(listener: Listener, account: str, count: int) -> bool:
    return len(payments(listener, account)) >= count


def by_symbol(event: dict[str, Any]) -> dict[str, Any]:
    """Symbol → before, after, and amount and move of each cause that is not nothing."""
    rows = [
        {
            "symbol": event["symbol"],
            "before": event["before"]["liquidation_price"],
            "after": event["after"]["liquidation_price"],
            "cause": event["cause"],
        },
        *event["also"],
    ]
    return {
        row["symbol"]: (
            F(row["before"]),
            F(row["after"]),
            {(c["kind"], F(c["amount"] or 0), F(c["moved"])) for c in row["cause"] if F(c["moved"])},
        )
        for row in rows
    }


def paid(
    pools: dict[str, ref.RefPool], name: str, symbol: str, rate: Fraction, marks: Mapping[str, Fraction]
) -> dict[str, Any]:
    """Pay funding in a pool, and say what has to be told of it, in the shape of `by_symbol`.

    First the payment, at the marks of the last telling; then the marks.
    """
    before = pools[name]
    quantity = next(leg.quantity for leg in before.positions if leg.symbol == symbol)
    amount = ref.trunc_8(-rate * marks[symbol] * quantity)
    after = replace(before, wallet=before.wallet + amount)
    pools[name] = replace(after, positions=tuple(replace(leg, mark_price=marks[leg.symbol]) for leg in after.positions))
    told = {}
    for leg in before.positions:
        first, second, third = (nearer(pool, leg.symbol) for pool in (before, after, pools[name]))
        assert first is not None
        assert second is not None
        assert third is not None
        causes = {("funding_fee", amount, second - first), ("marks", F(0), third - second)}
        if first != third:
            told[leg.symbol] = (first, third, {cause for cause in causes if cause[2]})
    return told
