"""Worlds of every kind, in which a core that screens must say what one that does not says, to the last byte.

Accounts on linear and inverse contracts, with one and several collateral assets, hedges, isolated positions; prices
from 1e-8 to 1e9; rules of any shape, also while they change; restarts; and marks searched for until a pool stands at
the very edge of what would be told of it.

`SECONDS=900 FIRST=1000 python -m tests.test_screen_worlds` goes on for longer, in worlds from that number on.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import pytest
from msgspec import structs

from monitor.accounts import WatchedAccount
from monitor.core import Core, Kept, Setup
from monitor.effects import AccountSetup, Effect, Save, Story
from monitor.encoder import Encoder
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    Acknowledge,
    AdlQuantilesRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    ClockOffset,
    Contract,
    ContractChanged,
    ContractsRead,
    Event,
    ExchangeFigures,
    Fill,
    ForcedKind,
    LinkId,
    LinkReport,
    LinkState,
    MarkPrice,
    Now,
    Position,
    PositionsRead,
    Side,
    Silence,
    Tick,
)
from monitor.risk import EXACT
from monitor.risk.assessment import assess
from monitor.risk.columns import Columns
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk
from monitor.risk.screen import Zones
from monitor.risk.terms import Terms
from monitor.rules import (
    DEFAULTS,
    LiquidationDistanceRule,
    LiquidationPriceMovedRule,
    MarginRatioRule,
    Match,
    Rule,
    RuleBook,
    Severity,
    Step,
)
from tests.watched import IDENTITY, now_at

D = Decimal
LINEAR, INVERSE = "market-l", "market-i"
SEVERITIES = (Severity.INFO, Severity.NOTICE, Severity.WARNING, Severity.CRITICAL, Severity.LIQUIDATION)


def digits(value: float, places: int = 8) -> Decimal:
    """A float as the exchange would print it: few digits, exactly."""
    return D(f"{value:.{places}g}")


class World:
    """Cores that differ in nothing but how they screen, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.t = self.chance.choice((0.0, 1e3, 1e7))
        self.rows: dict[tuple[str, str], bytes] = {}
        self.last_named_ms = 0
        chance = self.chance
        self.rules = self.rule_book()
        self.prices: dict[tuple[str, str], Decimal] = {}
        self.tables: dict[str, tuple[Bracket, ...]] = {}
        for i in range(chance.randint(1, 5)):
            self.add_symbol(LINEAR, f"S{i}{chance.choice(('USDT', 'USDT', 'USDC'))}")
        for i in range(chance.randint(1, 2)):
            self.add_symbol(INVERSE, f"C{i}USD_PERP")
        setups = []
        for i in range(chance.choice((1, 1, 2, 4))):
            inverse = chance.random() < 0.15
            venue, market = ("binance-coinm", INVERSE) if inverse else ("binance-usdm", LINEAR)
            setups.append(AccountSetup(f"a{i}", venue, market))
        self.setups = tuple(setups)
        self.multi = {s.name: s.market == LINEAR and chance.random() < 0.15 for s in setups}
        self.books: dict[str, dict[tuple[str, Side], Position]] = {s.name: {} for s in setups}
        self.wallets: dict[str, dict[str, Decimal]] = {s.name: {} for s in setups}
        self.rates = {"USDT": D("0.9999"), "USDC": D("0.9995"), "BTC": D(50_000)}
        self.unacked_s = chance.choice((None, 6.0, 30.0))
        self.figures_per_s = chance.choice((1000, 1000, 3))
        self.cores = self.made(Kept())
        self.messages = Encoder(IDENTITY, self.rules)
        self.log: list[str] = []

    # ---- cores ----

    def made(self, kept: Kept) -> list[Core]:
        setup = Setup(
            self.setups, self.rules, unacked_s=self.unacked_s, summary_every_s=5, figures_per_s=self.figures_per_s
        )
        cores = [Core(setup, self.now, kept, screened=screened) for screened in (True, True, True, False)]
        cores[0]._attention._screen, cores[1]._attention._screen = Zones(), Columns()
        for core in (*cores[:2], cores[-1]):
            core._slice = 10**9
        cores[2]._slice = self.chance.choice((1, 20, 100))
        return cores

    @property
    def now(self) -> Now:
        return now_at(self.t)

    @property
    def exact(self) -> Core:
        return self.cores[-1]

    def account(self, name: str) -> WatchedAccount:
        return self.exact.accounts[name]

    def step(self, *events: Event, after: float = 0.0) -> list[Effect]:
        """All cores take these events; a tick is a step of its own, so that slices do the same in another order."""
        self.t += after
        said = self._step([event for event in events if not isinstance(event, Tick)])
        for event in events:
            if isinstance(event, Tick):
                said += self._step([event])
        return said

    def _step(self, events: Sequence[Event]) -> list[Effect]:
        *_, sliced, exact = self.cores
        said = exact.step(events, self.now)
        for core in self.cores[:2]:
            mine = core.step(events, self.now)
            assert list(map(repr, mine)) == list(map(repr, said))
        parts = sliced.step(events, self.now)
        while sliced.is_behind:
            parts += sliced.step([], self.now)
        assert sorted(map(unnumbered, parts)) == sorted(map(unnumbered, said))
        self.take(said)
        return said

    def take(self, said: Sequence[Effect]) -> None:
        for effect in said:
            self.messages.of(effect)
            if isinstance(effect, Save):
                if effect.row is None:
                    self.rows.pop((effect.table, effect.key), None)
                else:
                    self.rows[effect.table, effect.key] = effect.row
            if isinstance(effect, Story):
                self.last_named_ms = max(self.last_named_ms, effect.change.incident.opened_ms)

    def kept(self) -> Kept:
        def table(name: str) -> dict[str, bytes]:
            return {key: row for (kind, key), row in self.rows.items() if kind == name}

        return Kept(
            incidents=tuple(table("incident").values()),
            baselines=table("baseline"),
            grown=table("grown"),
            silences=table("silence"),
            forced=table("forced"),
            daily=table("daily"),
            last_named_ms=self.last_named_ms,
            groups=table("group"),
            places=table("account"),
        )

    # ---- what there is ----

    def add_symbol(self, market: str, symbol: str) -> None:
        chance = self.chance
        low, high = (-7, 8) if chance.random() < 0.3 else (-1, 5)
        self.prices[market, symbol] = digits(10 ** chance.uniform(low, high), 6)
        self.tables[symbol] = self.table(1.0 if market == LINEAR else 1e-4)

    def table(self, unit: float) -> tuple[Bracket, ...]:
        """Tiers that join up, most of the time."""
        chance = self.chance
        floor, rate, amount = D(0), digits(chance.choice((0.004, 0.005, 0.01, 0.0065)), 4), D(0)
        rows = [Bracket(1, floor, rate, amount)]
        for number in range(2, chance.randint(2, 8)):
            floor = floor * 3 + digits(unit * 10 ** chance.uniform(2, 5), 3)
            rate += digits(chance.uniform(0.0005, 0.08), 3)
            amount += floor * (rate - rows[-1].rate)
            if chance.random() < 0.01:
                amount += 1
            rows.append(Bracket(number, floor, rate, amount))
        return tuple(rows)

    def rule_book(self) -> RuleBook:
        chance = self.chance
        rules: dict[str, Rule] = dict(DEFAULTS)
        matches: dict[str, tuple[Match, ...]] = {}
        for name in ("margin_ratio", "liquidation_distance", "liquidation_price_moved"):
            if chance.random() < 0.7:
                rules[name] = self.rule(name)
            if chance.random() < 0.15:
                least = chance.choice((None, None, digits(10 ** chance.uniform(2, 5), 2)))
                glob = chance.choice(("S0*", "*USDT", "*"))
                matches[name] = tuple(Match(self.rule(name), symbol=glob, min_notional=least) for _ in range(2))
        funding = structs.replace(DEFAULTS["funding_forecast"], for_s=chance.choice((0.0, 5.0)))
        return RuleBook({**rules, "funding_forecast": funding}, matches)

    def rule(self, name: str) -> Rule:
        chance = self.chance
        if name == "liquidation_price_moved":
            return LiquidationPriceMovedRule(
                enabled=chance.random() < 0.9,
                notice_at=digits(10 ** chance.uniform(-5, -1), 3),
                warning_at=digits(10 ** chance.uniform(-4, 0.5), 3),
                ignore_beyond=digits(10 ** chance.uniform(-2, 0.5), 3),
                marks_every_s=chance.choice((0.0, 3.0, 300.0)),
                funding_window_s=chance.choice((0.0, 20.0)),
            )
        times = {
            "enabled": chance.random() < 0.93,
            "for_s": chance.choice((0.0, 0.0, 0.0, 3.0)),
            "clear_for_s": chance.choice((0.0, 3.0, 60.0)),
            "reenter_s": chance.choice((0.0, 4.0, 300.0)),
            "repeat_s": chance.choice(({}, {"notice": 5.0, "warning": 9.0, "critical": 4.0}, {"warning": 2.0})),
        }
        severities = sorted(chance.sample(SEVERITIES, chance.randint(1, 5)))
        levels = sorted(chance.choice((chance.uniform(0.02, 1.2), 10 ** chance.uniform(-5, 0))) for _ in severities)
        if name == "margin_ratio":
            steps = [
                Step(digits(at, 4), digits(at * chance.uniform(0.7, 0.999), 4), s)
                for at, s in zip(levels, severities, strict=True)
            ]
            within = digits(10 ** chance.uniform(-4, 0), 3)
            return MarginRatioRule(steps=tuple(steps), critical_within=within, **times)  # type: ignore[arg-type]
        steps = [
            Step(digits(at, 4), digits(at * chance.uniform(1.001, 1.4), 4), s)
            for at, s in zip(reversed(levels), severities, strict=True)
        ]
        return LiquidationDistanceRule(steps=tuple(steps), **times)  # type: ignore[arg-type]

    def asset(self, symbol: str) -> str:
        return "USDC" if symbol.endswith("USDC") else "USDT" if symbol.endswith("USDT") else "BTC"

    def symbols(self, market: str) -> list[str]:
        return [symbol for where, symbol in self.prices if where == market]

    def open_some(self, setup: AccountSetup) -> None:
        chance, book = self.chance, self.books[setup.name]
        symbols = self.symbols(setup.market)
        for symbol in chance.sample(symbols, chance.randint(1, len(symbols))):
            price = self.prices[setup.market, symbol]
            notional = 10 ** (chance.uniform(2, 6) if chance.random() < 0.8 else chance.uniform(-6, 10))
            size = notional / float(price) if setup.market == LINEAR else max(1, round(notional / 100))
            quantity = digits(size, 5) * chance.choice((1, 1, -1))
            entry = digits(float(price) * chance.uniform(0.85, 1.15), 7)
            is_isolated = chance.random() < 0.2
            own = digits(notional * chance.uniform(0.01, 0.1), 6) if is_isolated else D(0)
            if chance.random() < 0.1:
                for side, part in ((Side.LONG, abs(quantity)), (Side.SHORT, -abs(quantity) / 2)):
                    book[symbol, side] = self.position(symbol, side, part, entry, is_isolated, own)
            else:
                book[symbol, Side.BOTH] = self.position(symbol, Side.BOTH, quantity, entry, is_isolated, own)
        self.wallets[setup.name] = {}

    def position(
        self, symbol: str, side: Side, quantity: Decimal, entry: Decimal, isolated: bool, own: Decimal
    ) -> Position:
        return Position(symbol, side, quantity, entry, isolated, own, self.now.wall_ms, self.asset(symbol))

    def fund(self, setup: AccountSetup) -> None:
        """So much in each wallet that the pool's ratio is somewhere, most often where a rule takes notice."""
        chance = self.chance
        sums: dict[str, list[float]] = {}
        for (symbol, _), p in self.books[setup.name].items():
            if p.isolated and p.isolated_wallet:
                continue
            price, one = float(self.prices[setup.market, symbol]), float(p.quantity)
            if setup.market == LINEAR:
                notional, pnl = abs(one) * price, one * (price - float(p.entry_price))
            else:
                notional, pnl = abs(one) * 100 / price, one * 100 * (1 / float(p.entry_price) - 1 / price)
            margin = max(notional * float(b.rate) - float(b.amount) for b in self.tables[symbol])
            found = sums.setdefault(self.asset(symbol), [0.0, 0.0])
            found[0] += margin
            found[1] += pnl
        for asset, (margin, pnl) in sums.items():
            ratio = chance.choice((0.02, 0.2, 0.45, 0.55, 0.75, 0.85, 0.95, 0.999, 1.2, chance.uniform(0.01, 1)))
            self.wallets[setup.name][asset] = digits(margin / ratio - pnl, 12)
        if self.multi[setup.name]:
            self.wallets[setup.name].setdefault("USDC", D(100))

    def truth(self, name: str, *, printed: bool = False) -> list[Event]:
        at = self.now.wall_ms
        setup = next(s for s in self.setups if s.name == name)
        figures: dict[tuple[str, Side], ExchangeFigures | None] = dict.fromkeys(self.books[name])
        if printed and setup.market == LINEAR:
            for key, p in self.books[name].items():
                price = self.prices[LINEAR, key[0]]
                figures[key] = ExchangeFigures(price, p.quantity * (price - p.entry_price), None, None, 2)
        rows = tuple((structs.replace(p, at_ms=at), figures[key]) for key, p in self.books[name].items() if p.quantity)
        return [self.balances(name, BalancesRead), PositionsRead(name, rows, at)]

    def balances(self, name: str, kind: Callable[..., BalancesRead]) -> BalancesRead:
        at = self.now.wall_ms
        return kind(name, tuple(Balance(a, w, w, at) for a, w in self.wallets[name].items()), at)

    def begin(self) -> None:
        for setup in self.setups:
            self.open_some(setup)
            self.fund(setup)
        self.connect(with_marks=True)

    def connect(self, *, with_marks: bool) -> None:
        links = [LinkId("_instance", market) for market in {s.market for s in self.setups}]
        links += [LinkId(s.name, link) for s in self.setups for link in ("private", "rest")]
        events: list[Event] = [LinkReport(link, LinkState.LIVE) for link in sorted(links)]
        for market in sorted({s.market for s in self.setups}):
            size = D(100) if market == INVERSE else None
            events.append(
                ContractsRead(
                    market,
                    {
                        s: Contract(s, s[:2], self.asset(s), "TRADING", D("0.001"), D("0.0125"), None, size)
                        for s in self.symbols(market)
                    },
                    {asset: AssetTerms(True, D(1000)) for asset in self.rates},
                )
            )
        for setup in self.setups:
            own = {symbol: self.tables[symbol] for symbol in self.symbols(setup.market)}
            events.append(BracketsRead(setup.name, own))
            events += self.truth(setup.name)
            if self.multi[setup.name]:
                events.append(AccountModeChanged(setup.name, True, self.now.wall_ms))
        marks: list[Event] = [self.mark(*key) for key in self.prices]
        if with_marks:
            self.step(*events, *marks, self.asset_rates())
        else:
            self.step(*events)
            if self.chance.random() < 0.5:
                self.step(Tick(), after=0.5)
            self.step(*self.chance.sample(marks, len(marks)), self.asset_rates())
        self.step(Tick())

    def asset_rates(self) -> AssetRates:
        rates = {asset: AssetRate(rate * D("0.99"), rate * D("1.01")) for asset, rate in self.rates.items()}
        return AssetRates(LINEAR, rates, self.now.wall_ms)

    def mark(self, market: str, symbol: str, late_s: float = 0.0) -> MarkPrice:
        price, chance = self.prices[market, symbol], self.chance
        rate = None if chance.random() < 0.5 else digits(chance.gauss(0, 0.002), 4)
        next_ms = None if rate is None else self.now.wall_ms + chance.choice((-500, 3_000, 1_799_000, 1_810_000))
        if chance.random() < 0.05:
            price = price.quantize(D("1e-30"), context=EXACT)  # the same number in more digits
        return MarkPrice(market, symbol, price, self.now.wall_ms - round(late_s * 1000), rate, next_ms)

    # ---- what happens ----

    def go_on(self) -> None:
        happened = self.chance.choices(
            (self.moved, self.at_an_edge, self.ticked, self.traded, self.linked, self.said, self.configured, self.told),
            (50, 22, 18, 4, 2, 2, 0.7, 2),
        )[0]
        self.log.append(happened.__name__)
        happened()

    def moved(self) -> None:
        chance = self.chance
        for _ in range(chance.choice((1, 1, 1, 2))):
            some = chance.sample(
                sorted(self.prices), chance.choice((1, 1, 2, len(self.prices))) if len(self.prices) > 1 else 1
            )
            for key in some:
                by = chance.choice((0.0, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-3, 4e-3, 0.02, 0.1))
                self.prices[key] = digits(float(self.prices[key]) * max(0.3, 1 + chance.gauss(0, by)), 12)
            late = chance.choice((0.0, 0.0, 0.0, 0.0, 0.3, 7.0))
            marks: list[Event] = [self.mark(*key, late) for key in some]
            if chance.random() < 0.1:
                self.prices[some[0]] = digits(float(self.prices[some[0]]) * (1 + chance.gauss(0, 0.01)), 9)
                marks.append(self.mark(*some[0]))
            if chance.random() < 0.1:
                marks.append(self.asset_rates())
            also = [Tick()] if chance.random() < 0.2 else []
            self.step(*marks, *also, after=chance.choice((0.0, 0.2, 1.0)))

    def at_an_edge(self) -> None:
        """A mark is moved, and halved back, until what would be told of a pool differs in the last digits alone."""
        chance = self.chance
        accounts = [a for a in self.exact.accounts.values() if a.pools]
        if not accounts:
            return
        account = chance.choice(accounts)
        pool = chance.choice(list(account.pools.values()))
        market, symbol = account.setup.market, chance.choice(pool.positions).symbol
        key = market, symbol
        if pool.positions and key in self.prices and all(p.symbol in account.market.prices for p in pool.positions):
            here = account.market.prices[symbol]
            there = digits(float(here) * (1 + chance.choice((-1, 1)) * 10 ** chance.uniform(-4, -0.4)), 12)
            with localcontext(EXACT):
                before = self.standing(account, pool, symbol, here)
                if before is None or self.standing(account, pool, symbol, there) == before:
                    return
                for _ in range(chance.choice((20, 45, 60))):
                    middle = ((here + there) / 2).quantize(D(1).scaleb(here.adjusted() - 22))
                    if self.standing(account, pool, symbol, middle) == before:
                        here = middle
                    else:
                        there = middle
            ways = ((here, there), (there, here), (here,), (there,), (here, there, here), (there, here, there))
            after = chance.choice((0.0, 1.0, 2.0))
            for price in chance.choice(ways):
                self.prices[key] = price
                self.step(self.mark(*key), *([Tick()] if chance.random() < 0.3 else []), after=after)

    def standing(self, account: WatchedAccount, pool: Pool, symbol: str, price: Decimal) -> object:
        """What rules would go by; None: an input is unknown."""
        terms = Terms({**account.market.prices, symbol: price}, account.terms.tables, account.terms.rates)
        risk = assess(pool, terms)
        if risk.missing:
            return None
        said: list[object] = []
        for name, value in (("margin_ratio", risk.margin_ratio), ("liquidation_distance", risk.distance)):
            rule = self.rules.of(name, account.name, {}, [p.symbol for p in pool.positions])
            said += [(s.fires(value), s.is_past_clear(value)) for s in rule.steps]
            incident = self.exact.incidents.open.get((account.name, name, pool.id))  # type: ignore[call-overload]
            if incident is not None:
                said.append(value is not None and incident.worst is not None and value > incident.worst)
                half = incident.told_distance
                said.append(bool(half) and risk.distance is not None and half is not None and risk.distance <= half / 2)
        said.append(self.moved_so_far(account, pool, risk))
        return said

    def moved_so_far(self, account: WatchedAccount, pool: Pool, risk: PoolRisk) -> object:
        rule = self.rules.of("liquidation_price_moved", account.name, {}, [p.symbol for p in pool.positions])
        assert isinstance(rule, LiquidationPriceMovedRule)
        return [account.moves._amounts_to(least, risk, rule) for least in (Severity.NOTICE, Severity.WARNING)]

    def ticked(self) -> None:
        chance = self.chance
        self.step(Tick(), after=chance.choice((0.1, 1.0, 1.0, 1.0, 2.999, 6.0, 70.0)))

    def traded(self) -> None:
        chance = self.chance
        setup = chance.choice(self.setups)
        name, book, at = setup.name, self.books[setup.name], self.now.wall_ms
        reason = chance.choice(
            ("FUNDING_FEE", "ORDER", "ORDER", "WITHDRAW", "MARGIN_TRANSFER", "INSURANCE_CLEAR", "ODD")
        )
        wallets = self.wallets[name]
        for asset in wallets:
            if chance.random() < 0.7:
                wallets[asset] = digits(float(wallets[asset]) * chance.uniform(0.8, 1.2) - chance.choice((0, 1)), 11)
        changed: list[Position] = []
        if reason == "ORDER":
            if book and chance.random() < 0.7:
                key = chance.choice(sorted(book))
                part = D(chance.choice(("0", "0.5", "1.2", "-1", "1e-3")))
                book[key] = structs.replace(book[key], quantity=book[key].quantity * part, at_ms=at)
                changed.append(book[key])
            else:
                symbol = chance.choice(self.symbols(setup.market))
                size = digits(1000 / float(self.prices[setup.market, symbol]), 4) if setup.market == LINEAR else D(7)
                opened = self.position(symbol, Side.BOTH, size, self.prices[setup.market, symbol], False, D(0))
                book[symbol, Side.BOTH] = opened
                changed.append(opened)
        elif book and chance.random() < 0.3:
            changed.append(structs.replace(book[chance.choice(sorted(book))], at_ms=at))
        if chance.random() < 0.3:
            events = self.truth(name, printed=chance.random() < 0.5)
        else:
            rows = tuple(Balance(a, w, w, at) for a, w in wallets.items())
            events = [AccountChanged(name, reason, rows, tuple(changed), None, {}, at)]
        if changed and chance.random() < 0.4:
            p = changed[0]
            kind = chance.choice((None, None, ForcedKind.LIQUIDATION, ForcedKind.ADL))
            price = self.prices[setup.market, p.symbol]
            events.append(
                Fill(name, p.symbol, p.side, D(1), price, D("0.5"), D("0.1"), p.margin_asset, kind, 1, at, at)
            )
        marks: list[Event] = []
        for where in sorted(self.prices):
            if chance.random() < 0.3:
                self.prices[where] = digits(float(self.prices[where]) * (1 + chance.gauss(0, 0.003)), 10)
                marks.append(self.mark(*where))
        chance.shuffle(events)
        mixed = [*events, *marks]
        if chance.random() < 0.5:
            chance.shuffle(mixed)
        for shut in [place for place, p in book.items() if not p.quantity]:
            del book[shut]
        self.step(*mixed, after=chance.choice((0.0, 0.3)))

    def linked(self) -> None:
        chance = self.chance
        setup = chance.choice(self.setups)
        link = chance.choice((LinkId(setup.name, "private"), LinkId("_instance", setup.market)))
        state = chance.choice((LinkState.LIVE, LinkState.LIVE, LinkState.DOWN, LinkState.MUTE))
        self.step(LinkReport(link, state), after=chance.choice((0.0, 0.2)))
        if state is LinkState.DOWN and chance.random() < 0.5:  # away for long enough, and back before the next tick
            self.t += 6
            for key in sorted(self.prices):
                self.step(self.mark(*key))
            self.step(LinkReport(link, LinkState.LIVE), after=0.1)
        if chance.random() < 0.3:
            self.step(ClockOffset(setup.market, chance.choice((-3000, 0, 700))))

    def said(self) -> None:
        chance = self.chance
        incidents = list(self.exact.incidents)
        until_ms = self.now.wall_ms + chance.choice((0, 2_000, 20_000))
        if incidents and chance.random() < 0.6:
            one = chance.choice(incidents)
            self.step(chance.choice((Acknowledge(one.incident_id), Silence(until_ms, one.account, one.rule))))
        else:
            self.step(Silence(until_ms, account=chance.choice(self.setups).name))

    def told(self) -> None:
        """The exchange changes something of an account, or of a contract."""
        chance = self.chance
        setup = chance.choice(self.setups)
        symbol = chance.choice(self.symbols(setup.market))
        if chance.random() < 0.4:
            self.tables[symbol] = self.table(1.0 if setup.market == LINEAR else 1e-4)
            rows = self.tables[symbol] if chance.random() < 0.9 else ()
            events: list[Event] = [BracketsRead(setup.name, {symbol: rows})]
            if chance.random() < 0.5:
                events.append(self.mark(setup.market, symbol))
            self.step(*events)
        elif chance.random() < 0.5:
            self.step(
                AdlQuantilesRead(setup.name, {p.key: chance.randint(0, 4) for p in self.books[setup.name].values()})
            )
        elif chance.random() < 0.5:
            at = self.now.wall_ms
            self.step(ContractChanged(setup.market, symbol, "TRADING", chance.choice((None, at + 3_500_000)), None, at))
        elif setup.market == LINEAR and not any(p.isolated for p in self.books[setup.name].values()):
            self.multi[setup.name] = not self.multi[setup.name]
            self.step(AccountModeChanged(setup.name, self.multi[setup.name], self.now.wall_ms))
            self.step(*self.truth(setup.name), self.asset_rates(), after=0.2)

    def configured(self) -> None:
        """Other rules, other accounts, a restart, a store that is found late."""
        chance = self.chance
        what = chance.random()
        if what < 0.4:
            self.rules = self.rule_book()
            for core in self.cores:
                core.take_rules(self.rules)
            self.messages.take_rules(self.rules)
        elif what < 0.6 and len(self.setups) > 1:
            was, self.setups = self.setups, self.setups[:-1]
            self.take_accounts()
            self.step(Tick(), after=1.0)
            if chance.random() < 0.6:
                self.setups = was
                self.take_accounts()
                self.connect(with_marks=chance.random() < 0.5)
        elif what < 0.8:
            self.t += chance.choice((1.0, 100.0))
            self.cores = self.made(self.kept())
            self.connect(with_marks=chance.random() < 0.3)
        else:
            kept = self.kept()
            self.cores = self.made(Kept())
            if chance.random() < 0.5:
                self.connect(with_marks=chance.random() < 0.5)
            mine = {key.partition("/")[2] for table, key in self.rows if table == "baseline"}
            late = structs.replace(kept, baselines={k: v for k, v in kept.baselines.items() if k not in mine})
            for core in self.cores:
                core.take_over(late, self.now)
            self.connect(with_marks=chance.random() < 0.5)

    def take_accounts(self) -> None:
        said = [core.take_accounts(self.setups, self.now) for core in self.cores]
        assert all(list(map(repr, each)) == list(map(repr, said[-1])) for each in said)
        self.cores[0]._attention._screen, self.cores[1]._attention._screen = Zones(), Columns()
        self.take(said[-1])


def unnumbered(effect: Effect) -> str:
    """An effect without its place among all stories."""
    return repr(structs.replace(effect, seq=0) if isinstance(effect, Story) else effect)


def live(seed: int, steps: int = 80) -> World:
    world = World(seed)
    world.begin()
    for _ in range(steps):
        world.go_on()
    return world


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_world_the_screen_changes_nothing(seed: int) -> None:
    live(seed)


def search(first: int, seconds: float) -> None:
    """Worlds until the time is up; what is found is told with its seed."""
    started, seed, rested = time.monotonic(), first, 0
    while time.monotonic() - started < seconds:
        try:
            world = live(seed)
            rested += len(world.cores[0]._attention._screen)  # type: ignore[arg-type]
        except Exception as exc:
            print(f"seed {seed}: {type(exc).__name__} {str(exc)[:300]}", flush=True)
            if "STOP" in os.environ:
                return
        seed += 1
        if seed % 50 == 0:
            print(
                f"... {seed - first} worlds, {rested} pools at rest at the end, {time.monotonic() - started:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    search(int(os.environ.get("FIRST", "0")), float(os.environ.get("SECONDS", "60")))
