"""Multi-assets mode: every asset is collateral of every cross position, each at its own rate.

The account of most tests: 100 USDT at par and 0.005 BTC, which counts 57000 each, against 1 BTCUSDT long bought at
60000. Margin balance 100 + 285 = 385, maintenance margin 240: a ratio of 0.6234, liquidated at (60000 − 385) ÷ 0.996.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import msgspec
import pytest

from monitor.effects import Effect, PoolState, Resync, Story, Watch
from monitor.events import (
    AccountChanged,
    AccountModeChanged,
    AccountModeRead,
    AssetRate,
    AssetRates,
    AssetTerms,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    Contract,
    ContractsRead,
    Event,
    Fill,
    Now,
    Position,
    PositionsRead,
    Side,
    Tick,
)
from monitor.market import MarketBook
from monitor.risk.attribution import Move
from monitor.rules import RuleBook
from tests.schemas import validate
from tests.watched import BTC, FLAT, MARKET, Watched, kinds, of_rule, row, told

D = Decimal
PAR = ("1", "1")
BITCOIN = ("57000", "63000")
LONG = row("BTCUSDT", "1", "60000", isolated=False)


def margin_asset(symbol: str) -> str:
    return symbol[-4:]


class Shared(Watched):
    """A core whose one account has several assets; marks and rates are repeated with every step unless told not to.

    Args:
        terms: Asset → debt past which the exchange converts other assets (asset); all of them may be collateral.
    """

    def __init__(self, rules: RuleBook | None = None, terms: Mapping[str, str] | None = None) -> None:
        super().__init__(rules=rules)
        self.wallets: dict[str, Decimal] = {}
        self.rows: dict[tuple[str, Side], Position] = {}
        self.marks: dict[str, Decimal] = {}
        self.rates: dict[str, tuple[str, str]] = {}
        self.terms = {"USDT": "50", "USDC": "50", **(terms or {})}
        self.with_rates = self.with_marks = True

    def start(
        self,
        wallets: Mapping[str, str],
        rates: Mapping[str, tuple[str, str]],
        *rows: Position,
        multi_assets: bool = True,
        tables: Mapping[str, tuple[Bracket, ...]] | None = None,
    ) -> list[Effect]:
        """Links live, the account's truth read; every mark stands at the entry price."""
        symbols = sorted({r.symbol for r in rows})
        self.wallets = {asset: D(wallet) for asset, wallet in wallets.items()}
        self.rows = {(r.symbol, r.side): r for r in rows}
        self.rates = dict(rates)
        self.marks = {r.symbol: r.entry_price for r in rows}
        contracts = {s: Contract(s, s[:-4], margin_asset(s), "TRADING", D("0.001"), D("0.0125"), None) for s in symbols}
        terms = {asset: AssetTerms(True, D(self.terms[asset]) if asset in self.terms else None) for asset in wallets}
        default = {s: BTC if s.startswith("BTC") else FLAT for s in symbols}
        return [
            *self.connect(),
            *self.step(
                ContractsRead(MARKET, contracts, terms),
                BracketsRead("main", dict(tables or default)),
                AccountModeRead("main", any(r.side is not Side.BOTH for r in rows), multi_assets, self.now.wall_ms),
                *self.snapshot(0),
                *self.market(0),
                Tick(),
                after=0,
            ),
        ]

    def snapshot(self, after: float = 1.0) -> list[Event]:
        """What REST says of balances and positions, so many seconds from now."""
        at = self.now.wall_ms + round(after * 1000)
        balances = tuple(Balance(asset, wallet, wallet, at) for asset, wallet in self.wallets.items())
        held = tuple((msgspec.structs.replace(r, at_ms=at), None) for r in self.rows.values() if r.quantity)
        return [BalancesRead("main", balances, at), PositionsRead("main", held, at)]

    def market(self, after: float = 1.0) -> list[Event]:
        """Every mark and every rate, as the streams bring them each second."""
        at = self.now.wall_ms + round(after * 1000)
        marks = [self.mark(format(price, "f"), s, after) for s, price in self.marks.items()]
        rates = {asset: AssetRate(D(bid), D(ask)) for asset, (bid, ask) in self.rates.items()}
        return [*(marks if self.with_marks else ()), *([AssetRates(MARKET, rates, at)] if self.with_rates else ())]

    def second(self, *events: Event, after: float = 1.0) -> list[Story]:
        """Time passes, these events happen, marks and rates come, and a tick."""
        return self.tell(*events, *self.market(after), Tick(), after=after)

    def seconds(self, count: int) -> list[Story]:
        return [story for _ in range(count) for story in self.second()]

    def effects_told(self) -> list[Story]:
        """All that has been told so far."""
        return told(self.effects)

    def money(self, reason: str, symbol: str | None = None, **balances: str) -> AccountChanged:
        """A pushed change of wallets to these balances, a second from now."""
        at = self.now.wall_ms + 1000
        self.wallets |= {asset: D(wallet) for asset, wallet in balances.items()}
        changed = tuple(Balance(asset, self.wallets[asset], self.wallets[asset], at) for asset in balances)
        return AccountChanged("main", reason, changed, (), symbol, {}, at)

    def pool(self, name: str = "multi-assets") -> PoolState:
        """A pool as it was last published."""
        return [e for e in self.effects if isinstance(e, PoolState) and e.risk.pool.id == name][-1]

    def validate(self) -> None:
        """Hold all that would be published to its schema."""
        messages = self.sent()
        assert messages
        for message in messages:
            validate(message.topic, message.payload)


def watched(rules: RuleBook | None = None, multi_assets: bool = True, **terms: str) -> Shared:
    """The account of the module's docstring."""
    core = Shared(rules, terms)
    core.start({"USDT": "100", "BTC": "0.005"}, {"USDT": PAR, "BTC": BITCOIN}, LONG, multi_assets=multi_assets)
    return core


def printed(value: Fraction) -> Decimal:
    """Half-up to 8 decimals."""
    return (D(value.numerator) / D(value.denominator)).quantize(D("0.00000001"), rounding=ROUND_HALF_UP)


def price(balance: str, entry: str = "60000") -> Decimal:
    """Where 1 BTC is liquidated that has this margin balance at its entry price."""
    return printed((Fraction(entry) - Fraction(balance)) / Fraction("0.996"))


def only_move(stories: list[Story]) -> Move:
    [story] = of_rule(stories, "liquidation_price_moved")
    [one] = story.moves
    return one.move


def causes(move: Move) -> list[tuple[str, str | None, str | None, str | None]]:
    """Kind, asset, amount and what it moved."""
    return [
        (
            c.kind,
            c.asset,
            None if c.amount is None else f"{c.amount:f}",
            None if c.moved is None else f"{c.moved:f}",
        )
        for c in move.causes
    ]


# ---- the pool ----


def test_all_assets_and_all_cross_positions_are_one_pool() -> None:
    """200 USDT at 0.9801 and 220 USDC: 416.02 against 199.596, as the support page works it out."""
    core = Shared()
    tables = {
        "BTCUSDT": (Bracket(1, D(0), D("0.008"), D(0)),),
        "ETHUSDC": (Bracket(1, D(0), D("0.01"), D(0)),),
    }
    core.start(
        {"USDT": "200", "USDC": "220"},
        {"USDT": ("0.9801", "0.99495"), "USDC": PAR},
        row("BTCUSDT", "0.5", "20000", isolated=False),
        row("ETHUSDC", "20", "600", isolated=False, asset="USDC"),
        tables=tables,
    )
    risk = core.pool().risk

    assert list(core.core.accounts["main"].pools) == ["multi-assets"]
    assert (risk.pool.asset, risk.margin_balance, risk.maintenance_margin) == ("USD", D("416.02"), D("199.596"))
    core.validate()


def test_the_market_link_is_asked_for_rates() -> None:
    """Without them nothing of the pool could be said."""
    core = watched()

    asked = [effect for effect in core.effects if isinstance(effect, Watch)]
    assert asked[-1] == Watch(MARKET, frozenset({"BTCUSDT"}), rates=True)


def test_an_asset_that_may_not_be_collateral_counts_for_nothing() -> None:
    """The exchange lists assets that are no margin; their balance must not look like safety."""
    core = Shared()
    core.start({"USDT": "385", "LDUSDT": "1000"}, {"USDT": PAR}, LONG)
    core.step(ContractsRead(MARKET, {}, {"LDUSDT": AssetTerms(False, None)}))
    core.second()

    assert core.pool().risk.margin_balance == 385


def test_the_ratio_follows_the_asset_index_alone() -> None:
    """240 of 385 is calm; at a rate of 40000 the same BTC are worth 200, and 240 of 300 is 0.8, 0.1 % away."""
    core = watched()
    before = core.pool().risk.margin_ratio
    core.rates["BTC"] = ("40000", "44000")
    stories = of_rule(core.second(), "margin_ratio")

    assert before is not None
    assert before.quantize(D("0.0001")) == D("0.6234")
    assert kinds(stories) == [("worsened", "critical")]
    [story] = stories
    assert story.after is not None
    assert story.after.margin_ratio == D("0.8")
    assert story.after.liquidation_price is not None
    assert story.after.liquidation_price.quantize(D("0.00000001")) == price("300")
    core.validate()


def test_what_the_collateral_is_worth_is_a_driver_of_its_own() -> None:
    """A fall of the asset index is no transfer, and no mark of a position."""
    core = watched()
    core.rates["BTC"] = ("40000", "44000")
    core.marks["BTCUSDT"] = D("59990")
    [story] = of_rule(core.second(), "margin_ratio")

    drivers = [(d.kind, d.symbol, d.margin_balance) for d in story.drivers]
    assert drivers == [("collateral", None, D(-85)), ("mark", "BTCUSDT", D(-10))]


def test_drivers_add_up_where_a_loss_comes_to_be_owed() -> None:
    """110 USDT of PnL are lost: 100 of them at the bid rate, 10 at the ask rate; each in USD, none lost on the way."""
    core = Shared()
    core.start({"USDT": "100", "USDC": "300"}, {"USDT": ("0.9", "1.1"), "USDC": PAR}, LONG)
    before = core.pool().risk.margin_balance
    core.marks["BTCUSDT"] = D("59890")
    [story] = of_rule(core.second(), "margin_ratio")
    after = core.core.accounts["main"].risks["multi-assets"].margin_balance

    assert (before, after) == (D(390), 300 - 10 * D("1.1"))
    assert sum(d.margin_balance for d in story.drivers) == D("-101")
    assert all(d.kind == "mark" for d in story.drivers)


# ---- advice ----


def test_margin_is_advised_in_the_asset_of_the_closest_position() -> None:
    """240 ÷ 0.7 − 300 = 42.857…; at a bid rate of 0.96 that is 44.642857142… USDT."""
    core = Shared()
    core.start({"USDT": "100", "BTC": "0.005"}, {"USDT": ("0.96", "1"), "BTC": ("40800", "44000")}, LONG)
    [story] = of_rule(core.effects_told(), "margin_ratio")

    assert story.after is not None
    assert story.after.margin_ratio == D("0.8")
    add, reduce = story.advice
    assert (add.action, add.amount, add.asset, add.to_ratio) == ("add_margin", D("44.64285715"), "USDT", D("0.7"))
    # 0.7 × 300 = 210 of maintenance margin may stay: 0.875 BTC.
    assert (reduce.action, reduce.quantity, reduce.symbol) == ("reduce", D("0.125"), "BTCUSDT")
    core.second(core.money("DEPOSIT", USDT="144.64285715"))
    assert D("0.6999999") < (core.pool().risk.margin_ratio or D(0)) <= D("0.7")


def test_a_small_position_in_another_asset_changes_nothing_of_that() -> None:
    """It stands first in the pool, and is not what is about to be liquidated."""
    core = Shared()
    rates = {"USDT": ("0.96", "1"), "USDC": ("1", "1"), "BTC": ("40800", "44000")}
    small = row("BTCUSDC", "0.001", "24000", asset="USDC")
    core.start({"USDT": "100", "USDC": "0.1", "BTC": "0.005"}, rates, small, LONG)
    [story] = of_rule(core.effects_told(), "margin_ratio")

    assert [(advice.asset, advice.symbol) for advice in story.advice] == [("USDT", None), (None, "BTCUSDT")]


def test_a_debt_is_paid_off_at_the_ask_rate_before_margin_counts_at_the_bid_rate() -> None:
    """−100 USDT at 1.1 and 0.005 BTC at 80000: 290 of 300 needed with 264 of margin at 0.88 … in USDT."""
    core = Shared()
    core.start({"USDT": "-100", "BTC": "0.005"}, {"USDT": ("0.9", "1.1"), "BTC": ("80000", "90000")}, LONG)
    [story] = of_rule(core.effects_told(), "margin_ratio")
    add = story.advice[0]

    # Balance 400 − 110 = 290, maintenance 240 × 1.1 = 264; 264 ÷ 0.7 − 290 = 87.142857…, less than the debt's 110.
    assert (add.amount, add.asset) == (D("79.22077923"), "USDT")


# ---- what is not known, or old ----


def test_without_a_rate_the_pool_is_incomplete_and_the_market_link_is_blamed() -> None:
    """Half of the collateral unknown is no margin ratio; and silence is not safety."""
    core = Shared()
    core.start({"USDT": "100", "BTC": "0.005"}, {"USDT": PAR}, LONG)
    stories = core.seconds(20)
    risk = core.pool().risk

    assert (risk.margin_ratio, risk.missing) == (None, ("rate BTC",))
    assert core.pool().ages.freshness == "stale"
    [stale] = of_rule(stories, "data_stale")
    assert stale.blindness is not None
    assert (stale.change.incident.subject, stale.blindness.pools) == (MARKET, ("main/multi-assets",))
    assert kinds([stale]) == [("opened", "warning")]
    core.validate()

    core.rates["BTC"] = BITCOIN
    stories = core.seconds(10)
    assert core.pool().risk.margin_balance == 385
    assert kinds(of_rule(stories, "data_stale")) == [("resolved", "warning")]


def test_rates_that_stop_while_marks_go_on_are_stale() -> None:
    """The two come over one link; only the one that is quiet gives it away. The pool is in danger: critical at once."""
    core = watched()
    core.with_rates = False
    stories = core.seconds(10)

    [stale] = of_rule(stories, "data_stale")
    assert stale.blindness is not None
    assert (kinds([stale]), stale.blindness.link.name) == ([("opened", "critical")], MARKET)
    assert stale.blindness.pools == ("main/multi-assets",)
    assert core.pool().ages.freshness == "stale"
    core.validate()


def test_old_rates_never_resolve_but_marks_may_still_worsen() -> None:
    """What is only half fresh may cry out, never calm down."""
    core = watched()
    core.with_rates = False
    core.seconds(6)
    core.marks["BTCUSDT"] = D("70000")
    calm = [story for story in core.seconds(90) if story.change.incident.rule == "margin_ratio"]
    core.marks["BTCUSDT"] = D("59900")
    worse = of_rule(core.second(), "margin_ratio")

    assert not {story.change.kind for story in calm} & {"improved", "resolved"}
    assert kinds(worse) == [("worsened", "critical")]


def test_a_rate_that_is_asked_for_over_rest_does_not_vouch_for_the_stream() -> None:
    """A bridge keeps the figures fresh; the stream stays as quiet as it is."""
    core = watched()
    core.with_rates = False
    stories = []
    for _ in range(10):
        asked = rates_of(core, core.now.wall_ms + 1000)
        stories += core.second(msgspec.structs.replace(asked, bridged=True))

    assert core.pool().ages.freshness == "live"
    assert kinds(of_rule(stories, "data_stale")) == [("opened", "critical")]


def rates_of(core: Shared, at_ms: int) -> AssetRates:
    return AssetRates(MARKET, {asset: AssetRate(D(bid), D(ask)) for asset, (bid, ask) in core.rates.items()}, at_ms)


def test_rates_that_arrive_late_are_old_when_they_arrive() -> None:
    """A link that delivers everything half a minute late is no live link, for rates as for marks."""
    core = watched()
    core.with_rates = False
    for _ in range(40):
        core.second(rates_of(core, core.now.wall_ms + 1000 - 30_000))

    assert core.pool().ages.freshness == "stale"


def test_rates_from_the_far_future_do_not_bar_all_that_follow() -> None:
    """One frame with a wrong time must not freeze what the collateral is worth."""
    core = watched()
    core.step(rates_of(core, core.now.wall_ms + 86_400_000))
    core.rates["BTC"] = ("40000", "44000")
    core.seconds(5)

    assert core.pool().risk.margin_balance == 300


def test_the_rates_that_changed_come_in_the_order_of_the_frame() -> None:
    """What follows from them must be the same on every run of a replay."""
    rates = {f"A{i}": AssetRate(D(1), D(1)) for i in range(50)}

    assert MarketBook().apply_rates(AssetRates(MARKET, rates, 1), Now(0, 1)) == tuple(rates)


def test_a_rate_of_before_the_mode_was_left_does_not_speak_for_what_is_held_now() -> None:
    """The frames name every asset; once they are not asked for any more, none of them is known."""
    core = watched()
    core.step(AssetRates(MARKET, {"SOL": AssetRate(D(100), D(100))}, core.now.wall_ms))
    switched(core, multi_assets=False)

    assert "SOL" not in core.core.markets[MARKET].rates


def test_rates_of_long_ago_do_not_speak_for_a_pool_that_is_opened_anew() -> None:
    """While nobody held anything no rate was watched; as with marks, what was known then is unknown now."""
    core = watched()
    core.seconds(10)
    core.rows["BTCUSDT", Side.BOTH] = msgspec.structs.replace(LONG, quantity=D(0))
    core.second(*core.snapshot())
    assert core.core.accounts["main"].pools == {}
    core.with_rates = False
    core.seconds(600)
    core.rows["BTCUSDT", Side.BOTH] = LONG
    core.second(*core.snapshot())

    assert core.pool().risk.missing == ("rate BTC", "rate USDT")


# ---- the switch ----


def switched(core: Shared, multi_assets: bool) -> list[Story]:
    """The exchange says that the mode was switched; the snapshot that is asked for follows a second later."""
    pushed = core.second(AccountModeChanged("main", multi_assets, core.now.wall_ms))
    assert [e for e in core.effects if isinstance(e, Resync)][-1].account == "main"
    return [*pushed, *core.second(AccountModeRead("main", False, multi_assets, core.now.wall_ms), *core.snapshot())]


def test_a_switch_of_the_mode_carries_the_incident_into_the_new_pool() -> None:
    """Single: 240 of 300 USDT is 0.8. Shared, 0.0005 BTC more: 240 of 328.5 is 0.73, still past its clear level."""
    core = Shared()
    core.start({"USDT": "300", "BTC": "0.0005"}, {"USDT": PAR, "BTC": BITCOIN}, LONG, multi_assets=False)
    [opened] = of_rule(core.effects_told(), "margin_ratio")
    stories = of_rule([*switched(core, True), *core.seconds(3)], "margin_ratio")

    assert opened.change.incident.subject == "cross-usdt"
    by_subject = {s.change.incident.subject: s for s in stories}
    assert by_subject.keys() == {"cross-usdt", "multi-assets"}
    assert by_subject["cross-usdt"].change.resolution == "pool_replaced"
    assert by_subject["multi-assets"].change.kind == "opened"
    assert by_subject["multi-assets"].change.incident.continues == opened.change.incident.incident_id
    core.validate()

    back = of_rule([*switched(core, False), *core.seconds(3)], "margin_ratio")
    by_subject = {s.change.incident.subject: s for s in back}
    assert by_subject["multi-assets"].change.resolution == "pool_replaced"
    was = by_subject["multi-assets"].change.incident.incident_id
    assert by_subject["cross-usdt"].change.incident.continues == was
    core.validate()


def test_a_switch_carries_the_incident_over_though_the_new_pool_has_to_wait_to_be_looked_at() -> None:
    """Of many pools a step looks at some; a tick in between told that the old one was replaced, and nothing went on."""
    core = Shared()
    others = [row(f"{s}USDT", "1", "100", isolated=True, isolated_wallet="50") for s in ("AAA", "BBB", "CCC", "DDD")]
    core.start({"USDT": "300", "BTC": "0.0005"}, {}, LONG, *others, multi_assets=False)
    [opened] = of_rule(core.effects_told(), "margin_ratio")
    core.with_rates = False
    switched(core, True)
    core.seconds(3)
    while core.core.is_behind:
        core.step(after=0)
    core.core._slice = 4

    core.rates = {"USDT": PAR, "BTC": BITCOIN}
    core.with_rates = True
    stories: list[Story] = []
    for _ in range(2):
        stories += core.second()
        while core.core.is_behind:
            stories += core.tell(after=0)

    by_kind = {s.change.kind: s.change for s in of_rule(stories, "margin_ratio")}
    assert by_kind["opened"].incident.continues == opened.change.incident.incident_id
    assert by_kind["resolved"].resolution == "pool_replaced"


def test_a_change_of_one_asset_is_no_cause_in_another() -> None:
    """What came is named once, in what it came in; nothing happened to the dollars beside it."""
    core = Shared()
    core.start(
        {"BTC": "1", "USDT": "5000"}, {"BTC": ("57000", "63000"), "USDT": ("1", "1")}, row("BTCUSDT", "2", "60000")
    )
    core.seconds(2)
    for asset, wallet in (("USDT", "4000"), ("BTC", "0.9")):
        found = only_move([*core.second(core.money("WITHDRAW", **{asset: wallet})), *core.seconds(2)])
        assert [(c.kind, c.asset) for c in found.causes if c.kind != "collateral_price"] == [("transfer", asset)]


@pytest.mark.parametrize(
    "after_ms",
    [
        pytest.param(-500, id="asked for a moment earlier, and late"),
        pytest.param(1_999, id="hardly later, of a copy that lags behind"),
    ],
)
def test_an_answer_of_before_the_switch_does_not_undo_it(after_ms: int) -> None:
    """240 USDT of margin on 100 USDT alone would be told as a liquidation, of an account that shares 385 USD."""
    core = watched(multi_assets=False)
    switched_ms = core.now.wall_ms + 500
    core.second(AccountModeChanged("main", True, switched_ms))
    core.seconds(3)
    stories = core.second(AccountModeRead("main", False, False, switched_ms + after_ms), *core.snapshot())
    assert core.core.accounts["main"].pools.keys() == {"multi-assets"}
    assert of_rule(stories, "margin_ratio") == []

    core.second(AccountModeRead("main", False, False, core.now.wall_ms), *core.snapshot())
    assert core.core.accounts["main"].pools.keys() == {"cross-usdt"}  # a switch of which the stream has said nothing


def test_the_incident_goes_on_even_where_the_rates_come_later() -> None:
    """Nobody asks for rates before the mode needs them: for some seconds the new pool cannot be judged."""
    core = Shared()
    core.start({"USDT": "300", "BTC": "0.0005"}, {}, LONG, multi_assets=False)
    [opened] = of_rule(core.effects_told(), "margin_ratio")
    core.with_rates = False
    blind = switched(core, True)
    blind += core.seconds(3)
    core.rates, core.with_rates = {"USDT": PAR, "BTC": BITCOIN}, True
    stories = of_rule([*blind, *core.seconds(3)], "margin_ratio")

    [new] = [s for s in stories if s.change.incident.subject == "multi-assets"]
    [old] = [s for s in stories if s.change.incident.subject == "cross-usdt"]
    assert old.change.resolution == "pool_replaced"
    assert new.change.incident.continues == opened.change.incident.incident_id


def test_the_switch_is_the_cause_of_the_move() -> None:
    """From 100 USDT alone to 385 USD; and back."""
    core = watched(multi_assets=False)
    move = only_move(switched(core, True))

    assert (move.before, move.after) == (price("100"), price("385"))
    assert causes(move) == [("multi_assets_mode", None, None, f"{price('385') - price('100'):f}")]

    move = only_move(switched(core, False))
    assert (move.before, move.after) == (price("385"), price("100"))
    assert [c.kind for c in move.causes] == ["multi_assets_mode"]
    core.validate()


def test_the_switch_is_told_once_the_rates_have_come() -> None:
    """A price that cannot be computed yet is no reason to forget from where it came."""
    core = Shared()
    core.start({"USDT": "100", "BTC": "0.005"}, {}, LONG, multi_assets=False)
    core.with_rates = False
    assert of_rule([*switched(core, True), *core.seconds(3)], "liquidation_price_moved") == []
    core.rates, core.with_rates = {"USDT": PAR, "BTC": BITCOIN}, True
    move = only_move(core.seconds(3))

    assert (move.before, move.after) == (price("100"), price("385"))
    assert [c.kind for c in move.causes] == ["multi_assets_mode"]


def test_a_switch_there_and_back_before_any_rate_has_come_is_no_move() -> None:
    """The shared pool could never be computed; what was told last is still where the price comes from."""
    core = Shared()
    core.start({"USDT": "100", "BTC": "0.005"}, {}, LONG, multi_assets=False)
    core.with_rates = False
    stories = [*switched(core, True), *switched(core, False)]
    stories += core.second(core.money("WITHDRAW", USDT="90"))
    found = [m.move for story in of_rule(stories, "liquidation_price_moved") for m in story.moves]

    assert [(move.before, move.after) for move in found] == [(price("100"), price("90"))]


def test_two_cross_pools_become_one_and_part_again() -> None:
    """Every position's price is measured from the pool that it was in."""
    core = Shared()
    core.start(
        {"USDT": "10000", "USDC": "5000"},
        {"USDT": PAR, "USDC": PAR},
        LONG,
        row("ETHUSDC", "-10", "3000", isolated=False, asset="USDC"),
        multi_assets=False,
    )
    apart = {
        s: r.liquidation_price
        for p in core.core.accounts["main"].risks.values()
        for r in p.positions
        for s in [r.position.symbol]
    }
    [story] = of_rule(switched(core, True), "liquidation_price_moved")
    together = {m.move.key.symbol: m.move for m in story.moves}

    assert together.keys() == {"BTCUSDT", "ETHUSDC"}
    for symbol, move in together.items():
        assert move.before == (apart[symbol] or D(0)).quantize(D("0.00000001"), rounding=ROUND_HALF_UP)
        assert [c.kind for c in move.causes] == ["multi_assets_mode"]
    parted = of_rule(switched(core, False), "liquidation_price_moved")
    back = {m.move.key.symbol: m.move for story in parted for m in story.moves}
    for symbol, move in back.items():
        assert (move.before, move.after) == (together[symbol].after, together[symbol].before)
    assert back.keys() == together.keys()


def test_funding_that_was_charged_just_before_the_switch_keeps_its_cause() -> None:
    """Payments wait for the others of their instant; a switch in between must not take their name away."""
    core = Shared()
    core.start({"USDT": "1000", "BTC": "0.005"}, {"USDT": PAR, "BTC": BITCOIN}, LONG, multi_assets=False)
    stories = core.second(core.money("FUNDING_FEE", "BTCUSDT", USDT="994"))
    stories += [*switched(core, True), *core.seconds(25)]
    found = [m.move for story in of_rule(stories, "liquidation_price_moved") for m in story.moves]

    assert (found[0].before, found[-1].after) == (price("1000"), price("1279"))
    assert [(c.kind, c.amount) for move in found for c in move.causes] == [
        ("funding_fee", D(-6)),
        ("multi_assets_mode", None),
    ]


def test_a_position_that_was_opened_just_before_the_switch_is_told_as_opened() -> None:
    """Fills wait for the rest of their burst; a switch in between must not keep back that there is a new position."""
    core = Shared()
    core.start({"USDT": "9000", "USDC": "5000"}, {"USDT": PAR, "USDC": PAR}, row("ETHUSDC", "3", "3000", asset="USDC"))
    opened = msgspec.structs.replace(LONG, at_ms=core.now.wall_ms + 1000)
    core.rows["BTCUSDT", Side.BOTH] = opened
    core.marks["BTCUSDT"] = D(60000)
    event = AccountChanged("main", "ORDER", (), (opened,), None, {}, opened.at_ms)
    tables = BracketsRead("main", {"BTCUSDT": BTC})
    stories = [*core.second(tables, event), *switched(core, False), *core.seconds(65)]
    found = [m.move for story in of_rule(stories, "liquidation_price_moved") for m in story.moves]

    assert [(m.before, m.after) for m in found if m.key.symbol == "BTCUSDT" and m.opened] == [(None, price("13910"))]
    assert [m.after for m in found if m.key.symbol == "BTCUSDT"][-1] == price("9000")


# ---- why a price moved ----


def test_the_price_of_the_collateral_is_a_cause() -> None:
    """6 USDT of funding, and 0.005 BTC that have lost 1000 each since the price was last told: each its own share."""
    core = watched()
    core.rates["BTC"] = ("56000", "62000")
    core.second()
    stories = [*core.second(core.money("FUNDING_FEE", "BTCUSDT", USDT="94")), *core.seconds(25)]
    move = only_move(stories)

    assert (move.before, move.after) == (price("385"), price("374"))
    assert causes(move) == [
        ("funding_fee", "USDT", "-6", f"{price('379') - price('385'):f}"),
        ("collateral_price", None, None, f"{price('374') - price('379'):f}"),
    ]
    core.validate()


def test_collateral_that_falls_moves_the_price_of_a_lone_position_and_is_told() -> None:
    """From 60000 − 1000 − 5700 to 60000 − 1000 − 3700: 3.3 % of the mark nearer, of which nobody else would tell."""
    core = Shared()
    core.start({"USDT": "1000", "BTC": "0.1"}, {"USDT": PAR, "BTC": BITCOIN}, LONG)
    core.rates["BTC"] = ("37000", "40000")
    move = only_move(core.seconds(3))

    assert (move.before, move.after) == (price("6700"), price("4700"))
    assert [c.kind for c in move.causes] == ["collateral_price"]


def test_an_automatic_exchange_is_told_asset_by_asset() -> None:
    """The exchange takes 0.004 BTC (with a haircut) and pays 200 USDT of debt with them."""
    core = Shared()
    core.start({"USDT": "-200", "BTC": "0.01"}, {"USDT": ("0.9", "1.1"), "BTC": BITCOIN}, LONG)
    event = core.money("AUTO_EXCHANGE", USDT="0", BTC="0.006")
    move = only_move([*core.second(event), *core.seconds(2)])

    assert [(c.kind, c.asset, c.amount) for c in move.causes] == [
        ("auto_exchange", "BTC", D("-0.004")),
        ("auto_exchange", "USDT", D(200)),
    ]
    assert sum(c.moved or 0 for c in move.causes) == move.moved
    assert core.pool().risk.margin_balance == 342
    core.validate()


def test_a_transfer_of_one_asset_names_it() -> None:
    """Which of several wallets has changed is the first that anybody asks."""
    core = watched()
    move = only_move(core.second(core.money("DEPOSIT", BTC="0.006")))

    assert causes(move) == [("transfer", "BTC", "0.001", f"{price('442') - price('385'):f}")]


# ---- the exchange's own conversion ----


def in_debt(usdt: str) -> Shared:
    """Some USDT of debt, of which 50 make the exchange convert, and plenty of BTC."""
    core = Shared()
    core.start({"USDT": usdt, "BTC": "1"}, {"USDT": PAR, "BTC": BITCOIN}, LONG)
    return core


@pytest.mark.parametrize(
    ("usdt", "expected"),
    [("-24.99", []), ("-25", [("opened", "notice")]), ("-40", [("opened", "warning")])],
)
def test_a_debt_near_its_automatic_exchange_is_told(usdt: str, expected: list[tuple[str, str]]) -> None:
    """Half of the threshold is a notice, four fifths a warning."""
    core = in_debt(usdt)

    assert kinds(of_rule([*core.effects_told(), *core.seconds(3)], "auto_exchange")) == expected
    core.validate()


def test_a_loss_counts_as_debt_before_it_is_realized() -> None:
    """What is lost at the mark is owed as soon as it is realized."""
    core = in_debt("0")
    core.marks["BTCUSDT"] = D("59955")
    [story] = of_rule(core.seconds(3), "auto_exchange")

    assert story.change.incident.subject == "usdt"
    assert (story.facts["debt"], story.facts["threshold"]) == (D(45), D(50))


def test_a_debt_is_not_over_because_a_mark_is_unknown() -> None:
    """A position is opened in another symbol, and its first mark has not come: the debt is still there."""
    core = in_debt("-40")
    core.seconds(3)
    core.rows["ETHUSDT", Side.BOTH] = row("ETHUSDT", "1", "3000", isolated=False)
    stories = core.second(*core.snapshot())
    stories += core.seconds(3)

    assert core.pool().risk.missing
    assert of_rule(stories, "auto_exchange") == []


def test_commission_in_an_asset_of_its_own_is_told_as_commission() -> None:
    """Whoever pays fees in another coin than the margin asset must not read of a fill in that coin."""
    core = watched()
    at = core.now.wall_ms + 1000
    less = msgspec.structs.replace(LONG, quantity=D("0.5"), at_ms=at)
    order = Fill("main", "BTCUSDT", Side.BOTH, D("-0.5"), D("60020"), D(10), D("0.0001"), "BTC", None, 1, 1, at)
    pushed = msgspec.structs.replace(core.money("ORDER", USDT="110", BTC="0.0049"), positions=(less,))
    told = [*core.second(order, pushed), *core.seconds(61)]

    assert [(kind, asset, amount) for kind, asset, amount, _ in causes(only_move(told))] == [
        ("fill", "USDT", "0"),
        ("realized_pnl", "USDT", "10"),
        ("commission", "BTC", "-0.0001"),
    ]
