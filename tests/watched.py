"""A core driven by plain calls: events in, what it says out. Nothing runs, nothing sleeps; time is a number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from monitor.core import Core, Kept, Setup
from monitor.effects import AccountSetup, Effect, Save, Story
from monitor.encoder import Encoder
from monitor.events import (
    AccountChanged,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    Contract,
    ContractsRead,
    Event,
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
    Tick,
)
from monitor.message import Identity, Message
from monitor.rules import RuleBook
from tests.schemas import validate

D = Decimal

WALL_MS = 1_795_248_000_000
"""2026-11-21T08:00:00Z, where every test begins."""

IDENTITY = Identity("marginwatch", "vps1", "0.1.0", "boot", WALL_MS)

MARKET = "market-x"

BTC = (Bracket(1, D(0), D("0.004"), D(0)), Bracket(2, D(300_000), D("0.005"), D(300)))
FLAT = (Bracket(1, D(0), D("0.01"), D(0)),)


def now_at(seconds: float) -> Now:
    """So many seconds after the beginning, on both clocks."""
    return Now(seconds, WALL_MS + round(seconds * 1000))


def row(
    symbol: str,
    quantity: str,
    entry: str,
    *,
    side: Side = Side.BOTH,
    isolated_wallet: str = "0",
    isolated: bool | None = None,
    at_ms: int = 1,
    asset: str | None = "USDT",
) -> Position:
    return Position(symbol, side, D(quantity), D(entry), isolated, D(isolated_wallet), at_ms, asset)


def contract(symbol: str, step: str = "0.001") -> Contract:
    return Contract(symbol, symbol.removesuffix("USDT"), "USDT", "TRADING", D(step), D("0.0125"), None)


class Watched:
    """A core with its links live, and a clock that moves only when told.

    Args:
        accounts: Names; all trade on one market.
        start: Monotonic seconds of the first step; the wall clock agrees unless `wall_shift_ms` says otherwise.
        setup: What else the core is to know of a config.
    """

    def __init__(
        self,
        *accounts: str,
        rules: RuleBook | None = None,
        kept: Kept | None = None,
        start: float = 0.0,
        wall_shift_ms: int = 0,
        **setup: Any,
    ) -> None:
        self.names = accounts or ("main",)
        self.t = start
        self.wall_shift_ms = wall_shift_ms
        self.rules = rules or RuleBook()
        setups = tuple(AccountSetup(name, "binance-usdm", MARKET) for name in self.names)
        self.core = Core(Setup(setups, self.rules, **setup), self.now, kept)
        self.messages = Encoder(IDENTITY, self.rules)
        self._noticing = Encoder(IDENTITY, self.rules, notices=True)
        self.effects: list[Effect] = []
        self.saved: dict[tuple[str, str], bytes] = {}

    @property
    def now(self) -> Now:
        return Now(self.t, WALL_MS + self.wall_shift_ms + round(self.t * 1000))

    def step(self, *events: Event, after: float = 1.0) -> list[Effect]:
        """Let so many seconds pass, then these events happen."""
        self.t += after
        return self.keep(self.core.step(events, self.now))

    def keep(self, effects: list[Effect]) -> list[Effect]:
        """Remember what the core has said, and the rows that it wants kept."""
        self.effects += effects
        for story in told(effects):
            for message in self._noticing.of(story):
                validate(message.topic, message.payload)
        for effect in effects:
            if isinstance(effect, Save):
                if effect.row is None:
                    self.saved.pop((effect.table, effect.key), None)
                else:
                    self.saved[effect.table, effect.key] = effect.row
        return effects

    def tell(self, *events: Event, after: float = 1.0) -> list[Story]:
        """The same; only what is told of it."""
        return told(self.step(*events, after=after))

    def connect(self, state: LinkState = LinkState.LIVE) -> list[Effect]:
        """Every link says that it is live."""
        links = [LinkId("_instance", MARKET)]
        links += [LinkId(name, link) for name in self.names for link in ("private", "rest")]
        return self.step(*(LinkReport(link, state) for link in links), after=0)

    def begin(
        self,
        wallet: str,
        *rows: Position,
        brackets: dict[str, tuple[Bracket, ...]] | None = None,
        account: str | None = None,
        at_ms: int = 1,
    ) -> list[Effect]:
        """Links live, and an account's truth read: its wallet (USDT, all of it cross) and positions."""
        name = account or self.names[0]
        tables = brackets or {r.symbol: BTC if r.symbol == "BTCUSDT" else FLAT for r in rows}
        return [
            *self.connect(),
            *self.step(
                ContractsRead(MARKET, {r.symbol: contract(r.symbol) for r in rows}),
                BracketsRead(name, tables),
                *self.truth(wallet, *rows, account=name, at_ms=at_ms),
                after=0,
            ),
        ]

    def truth(self, wallet: str, *rows: Position, account: str | None = None, at_ms: int = 1) -> list[Event]:
        """What a snapshot says."""
        name = account or self.names[0]
        sent_ms = self.now.wall_ms
        return [
            BalancesRead(name, (Balance("USDT", D(wallet), D(wallet), at_ms),), sent_ms),
            PositionsRead(name, tuple((r, None) for r in rows), sent_ms),
        ]

    def mark(self, price: str, symbol: str = "BTCUSDT", after: float = 1.0) -> MarkPrice:
        """A mark that is true when the next step (so many seconds on) happens."""
        at_ms = self.now.wall_ms + round(after * 1000)
        return MarkPrice(MARKET, symbol, D(price), at_ms, None, None)

    def price(self, price: str, symbol: str = "BTCUSDT", after: float = 1.0) -> list[Story]:
        """A mark comes, and a tick."""
        return self.tell(self.mark(price, symbol, after), Tick(), after=after)

    def hold(self, seconds: int, price: str, symbol: str = "BTCUSDT") -> list[Story]:
        """So many seconds pass at one price, with a mark and a tick in each."""
        return [story for _ in range(seconds) for story in self.price(price, symbol)]

    def changed(
        self,
        reason: str,
        wallet: str | None,
        *rows: Position,
        symbol: str | None = None,
        at_ms: int | None = None,
        account: str | None = None,
    ) -> AccountChanged:
        """A pushed change of the USDT wallet, of positions, or of both; it is true from now on."""
        at = self.now.wall_ms if at_ms is None else at_ms
        balances = () if wallet is None else (Balance("USDT", D(wallet), D(wallet), at),)
        return AccountChanged(account or self.names[0], reason, balances, rows, symbol, {}, at)

    def fill(
        self,
        symbol: str,
        quantity: str,
        price: str,
        *,
        realized: str = "0",
        commission: str = "0",
        forced: ForcedKind | None = None,
        at_ms: int | None = None,
    ) -> Fill:
        at = self.now.wall_ms if at_ms is None else at_ms
        return Fill(
            self.names[0],
            symbol,
            Side.BOTH,
            D(quantity),
            D(price),
            D(realized),
            D(commission),
            "USDT",
            forced,
            1,
            1,
            at,
        )

    def link(self, name: str, state: LinkState, account: str | None = None, note: str = "") -> LinkReport:
        return LinkReport(LinkId(account or self.names[0], name), state, note=note)

    def kept(self) -> Kept:
        """What the store would hand to the next run."""
        named = [s.change.incident.opened_ms for s in told(self.effects)]
        return Kept(
            incidents=tuple(v for (table, _), v in self.saved.items() if table == "incident"),
            baselines={key: v for (table, key), v in self.saved.items() if table == "baseline"},
            grown={key: v for (table, key), v in self.saved.items() if table == "grown"},
            silences={key: v for (table, key), v in self.saved.items() if table == "silence"},
            forced={key: v for (table, key), v in self.saved.items() if table == "forced"},
            last_named_ms=max(named, default=0),
            groups={key: v for (table, key), v in self.saved.items() if table == "group"},
            places={key: v for (table, key), v in self.saved.items() if table == "account"},
        )

    def sent(self, effects: list[Effect] | None = None) -> list[Message]:
        """What would be published of these effects (all so far, where none are given)."""
        return [m for effect in (self.effects if effects is None else effects) for m in self.messages.of(effect)]


class Crowd(Watched):
    """Accounts a0, a1 … with a BTC long each. All that comes of a step is done, however many slices it takes."""

    def __init__(self, accounts: int, wallet: str, **given: Any) -> None:
        super().__init__(*(f"a{n}" for n in range(accounts)), **given)
        for name in self.names:
            self.begin(wallet, row("BTCUSDT", "1", "50000"), account=name)

    def step(self, *events: Event, after: float = 1.0) -> list[Effect]:
        effects = super().step(*events, after=after)
        while self.core.is_behind:
            effects += self.keep(self.core.step((), self.now))
        return effects


def all_valid(core: Watched) -> None:
    """Hold all that would be published so far to its schema."""
    for message in core.sent():
        validate(message.topic, message.payload)


def crisis() -> tuple[Watched, Story]:
    """2.5 BTC long at 92000 on 5182.40 USDT, at 90372.10: 903.721 ÷ 1112.65."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("92000")
    [story] = of_rule(core.price("90372.10"), "margin_ratio")
    return core, story


def told(effects: list[Effect]) -> list[Story]:
    """The stories that somebody hears of."""
    return [e for e in effects if isinstance(e, Story) and e.change.kind != "retained" and e.change.is_told]


def of_rule(stories: list[Story], rule: str) -> list[Story]:
    return [s for s in stories if s.change.incident.rule == rule]


def kinds(stories: list[Story]) -> list[tuple[str, str]]:
    """What happened, and how bad it is said to be."""
    return [(s.change.kind, s.change.severity.word) for s in stories]
