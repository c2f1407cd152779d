"""The published schemas, held to everything that the core can say."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from monitor.core import Core, Kept, Setup
from monitor.effects import INSTANCE, AccountSetup, Save
from monitor.encoder import Encoder
from monitor.events import (
    AccountChanged,
    AccountModeRead,
    Balance,
    BalancesRead,
    Bracket,
    BracketsRead,
    Contract,
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
    Tick,
)
from monitor.message import Identity, Message
from monitor.payloads import SCHEMAS
from monitor.rules import DEFAULTS, MarginRatioRule, RuleBook
from tests.make import position
from tests.schemas import DIRECTORY, NAMES, schema, validate

D = Decimal
MARKET = "binance-usdm"
START = Now(1000.0, 1_795_248_000_412)
ONE_BRACKET = (Bracket(1, D(0), D("0.004"), D(0)),)
REAL_BRACKETS = (
    Bracket(1, D(0), D("0.004"), D(0)),
    Bracket(2, D(300_000), D("0.005"), D(300)),
    Bracket(3, D(800_000), D("0.0065"), D(1500)),
)


class Run:
    """A core and its clock; whatever it publishes is held to the schemas at once."""

    def __init__(self, *accounts: str, kept: Kept | None = None, labels: dict[str, str] | None = None) -> None:
        self.now = START
        self.accounts = accounts
        setups = tuple(AccountSetup(name, MARKET, MARKET, labels or {}) for name in accounts)
        self.core = Core(Setup(setups), self.now, kept)
        self.messages = Encoder(
            Identity("marginwatch", "vps1", "0.1.0", "f00d", START.wall_ms), RuleBook(), notices=True
        )
        self.sent: list[Message] = []
        self.saved: dict[str, dict[str, bytes | None]] = defaultdict(dict)

    def step(self, *events: Event, after: float = 0.0) -> list[Message]:
        """Let time pass, then let these happen. Returns what is published."""
        self.now = Now(self.now.mono + after, self.now.wall_ms + round(after * 1000))
        published = []
        for effect in self.core.step(events, self.now):
            published += self.messages.of(effect)
            if isinstance(effect, Save):
                self.saved[effect.table][effect.key] = effect.row
        for message in published:
            validate(message.topic, message.payload)
        self.sent += published
        return published

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step(Tick(), after=1)

    def mark(self, symbol: str, price: str, rate: str | None = "0.0001", *, after: float = 1.0) -> list[Message]:
        next_ms = None if rate is None else START.wall_ms + 3_600_000
        return self.step(
            MarkPrice(MARKET, symbol, D(price), self.now.wall_ms, None if rate is None else D(rate), next_ms),
            Tick(),
            after=after,
        )

    def links(self, state: LinkState = LinkState.LIVE, note: str = "") -> None:
        shared = LinkReport(LinkId(INSTANCE, MARKET), state, note=note)
        own = [
            LinkReport(LinkId(name, link), state, 2, 40 if link == "rest" else None, note)
            for name in self.accounts
            for link in ("private", "rest")
        ]
        self.step(shared, *own)

    def truth(
        self,
        account: str,
        balances: dict[str, str],
        *rows: Position,
        brackets: dict[str, tuple[Bracket, ...]] | None = None,
    ) -> list[Message]:
        """An account's answers, all at once."""
        one: tuple[Bracket, ...] = ONE_BRACKET
        known = {row.symbol: one for row in rows} if brackets is None else brackets
        return self.step(
            AccountModeRead(account, any(row.side is not Side.BOTH for row in rows), False, self.now.wall_ms),
            BracketsRead(account, known),
            BalancesRead(
                account, tuple(Balance(a, D(b), D(b), self.now.wall_ms) for a, b in balances.items()), self.now.wall_ms
            ),
            PositionsRead(account, tuple((row, None) for row in rows), self.now.wall_ms),
        )

    def changed(self, account: str, reason: str, wallet: str, *rows: Position, symbol: str | None = None) -> Event:
        """What the exchange pushes when a cross wallet changes."""
        at = self.now.wall_ms
        balance = Balance("USDT", D(wallet), D(wallet), at)
        return AccountChanged(account, reason, (balance,), rows, symbol, {}, at)

    def told(self, rule: str | None = None) -> list[dict[str, Any]]:
        events = [json.loads(m.payload) for m in self.sent if "/event/" in m.topic]
        return [event for event in events if rule in (None, event["rule"])]

    def last(self, topic: str) -> dict[str, Any]:
        """What a retained topic shows; empty: nothing."""
        payload = next(m.payload for m in reversed(self.sent) if m.topic == f"marginwatch/{topic}")
        shown: dict[str, Any] = json.loads(payload) if payload else {}
        return shown


def contract(symbol: str, base: str, asset: str = "USDT") -> ContractsRead:
    return ContractsRead(MARKET, {symbol: Contract(symbol, base, asset, "TRADING", D("0.001"), D("0.01"), None)})


def in_danger() -> Run:
    """2.5 BTC long at 92000 on 5182.40 USDT: liquidated at 90288.19277108."""
    run = Run("main", labels={"owner": "desk-1"})
    run.links()
    run.step(contract("BTCUSDT", "BTC"))
    run.truth("main", {"USDT": "5182.40"}, position("BTCUSDT", "2.5", "92000"))
    return run


def whole_life() -> Run:
    """One condition from opened to resolved, by way of everything between."""
    run = in_danger()
    for price, seconds in (
        ("92500", 2),  # well
        ("90385", 2),  # 78.9 %: opened, notice
        ("90372.10", 2),  # 81.2 %: worsened
        ("90300", 62),  # past critical, and repeated a minute later
        ("90380", 62),
        ("95000", 130),  # improved, then resolved
    ):
        for _ in range(seconds):
            run.mark("BTCUSDT", price)
    return run


def worst_life() -> Run:
    """Past liquidation, bankrupt, and then liquidated in two steps."""
    run = in_danger()
    run.mark("BTCUSDT", "90288")
    run.mark("BTCUSDT", "89000")
    forced = Fill(
        "main", "BTCUSDT", Side.BOTH, D("-1.5"), D(89000), D(-4500), D(0), "USDT", ForcedKind.LIQUIDATION, 7, 8, 0
    )
    run.step(forced, run.changed("main", "ORDER", "682.40", _later(run, position("BTCUSDT", "1", "92000"))), after=1)
    run.mark("BTCUSDT", "95000")
    run.tick(3)
    for _ in range(140):
        run.mark("BTCUSDT", "95000")
    run.mark("BTCUSDT", "91400")
    run.step(forced, run.changed("main", "ORDER", "0", _later(run, position("BTCUSDT", "0", "0"))), after=1)
    run.tick(5)
    return run


def silence() -> Run:
    """Links that stay away and return."""
    run = in_danger()
    run.mark("BTCUSDT", "90372.10")
    run.links(LinkState.DOWN, "connection refused")
    run.tick(70)
    run.links()
    for _ in range(8):
        run.mark("BTCUSDT", "90372.10")
    return run


def calm_silence() -> Run:
    """An account in no danger whose links go quiet: the ordinary steps of staleness."""
    run = Run("main")
    run.links()
    run.truth("main", {"USDT": "50000"}, position("BTCUSDT", "0.1", "92000"))
    run.mark("BTCUSDT", "92000")
    run.links(LinkState.MUTE, "")
    run.tick(70)
    run.links()
    for _ in range(8):
        run.mark("BTCUSDT", "92000")
    return run


def moved_prices() -> Run:
    """Funding, a transfer, an opening, a fill with PnL and commission, a mode nobody knows: two positions moved."""
    run = Run("main")
    run.links()
    run.step(contract("BTCUSDT", "BTC"), contract("ETHUSDT", "ETH"))
    rows = (position("BTCUSDT", "2.5", "92000"), position("ETHUSDT", "-10", "3000"))
    run.truth("main", {"USDT": "15205.00"}, *rows)
    run.mark("BTCUSDT", "92000")
    run.mark("ETHUSDT", "3000")
    run.step(run.changed("main", "FUNDING_FEE", "15182.40", symbol="BTCUSDT"), after=1)
    run.tick(25)
    run.step(run.changed("main", "WITHDRAW", "12182.40"), after=1)
    run.tick(2)
    fill = Fill(
        "main", "BTCUSDT", Side.BOTH, D("-0.5"), D(91000), D(-500), D("18.2"), "USDT", None, 1, 2, run.now.wall_ms
    )
    filled = run.changed("main", "ORDER", "11664.20", _later(run, position("BTCUSDT", "2", "92000")))
    run.step(fill, filled)
    run.tick(65)
    run.step(run.changed("main", "ORDER", "11660.00", _later(run, position("SOLUSDT", "3", "140"))), after=1)
    run.step(BracketsRead("main", {"SOLUSDT": ONE_BRACKET}))
    run.mark("SOLUSDT", "141")
    run.tick(65)
    run.step(run.changed("main", "SOMETHING_NEW", "11000"), after=1)
    run.tick(3)
    run.truth("main", {"USDT": "10500"}, *(_later(run, row) for row in (*rows, position("SOLUSDT", "3", "140"))))
    run.tick(3)
    return run


def unknown_inputs() -> Run:
    """No brackets, then no mark, then nothing at all."""
    run = Run("main", "other")
    run.links()
    run.tick(1)
    run.truth("main", {"USDT": "100"}, position("BTCUSDT", "0.1", "92000"), brackets={})
    run.tick(2)
    run.mark("BTCUSDT", "92000")
    run.truth("other", {}, position("XYZUSDT", "-7", "1.5"))
    run.tick(2)
    return run


def nothing_open() -> Run:
    run = Run("main")
    run.links()
    run.truth("main", {"USDT": "100"})
    run.tick(2)
    return run


def closed() -> Run:
    """A position that is closed takes its topics with it."""
    run = in_danger()
    run.mark("BTCUSDT", "90372.10")
    run.step(run.changed("main", "ORDER", "1100", _later(run, position("BTCUSDT", "0", "0"))), after=1)
    run.tick(5)
    return run


def every_kind_of_pool() -> Run:
    """A hedged pair, isolated positions in one-way and hedge mode, two margin assets, a second bracket."""
    run = Run("one-way", "hedge")
    run.links()
    run.step(contract("BTCUSDT", "BTC"), contract("ETHUSDC", "ETH", "USDC"))
    usdc = msgspec.structs.replace(position("ETHUSDC", "-4", "3000.123456789"), margin_asset="USDC")
    isolated = position("1000PEPEUSDT", "100000", "0.0123", isolated_wallet="300", isolated=True)
    own = ExchangeFigures(D("0.0121"), D("-20"), D("4.84"), D("0.00933734"))
    rows = (position("BTCUSDT", "4", "92000"), usdc, isolated)
    run.truth("one-way", {"USDT": "90000", "USDC": "5000"}, *rows)
    run.step(BracketsRead("one-way", {"BTCUSDT": REAL_BRACKETS}))
    run.step(PositionsRead("one-way", tuple((row, own if row is isolated else None) for row in rows), run.now.wall_ms))
    run.truth(
        "hedge",
        {"USDT": "1500"},
        position("BTCUSDT", "1", "92000", side=Side.LONG),
        position("BTCUSDT", "-0.995", "92000", side=Side.SHORT),
        position("1000PEPEUSDT", "-5000", "0.012", side=Side.SHORT, isolated_wallet="10", isolated=True),
    )
    run.mark("BTCUSDT", "92000")
    run.mark("ETHUSDC", "3001.5", "-0.0003")
    run.mark("1000PEPEUSDT", "0.0121", None)
    run.tick(2)
    return run


def restarted() -> Run:
    """An incident of an earlier run that still stands is shown again and told to nobody."""
    earlier = in_danger()
    earlier.mark("BTCUSDT", "90372.10")
    kept = {table: {k: row for k, row in rows.items() if row is not None} for table, rows in earlier.saved.items()}
    run = Run(
        "main",
        kept=Kept(tuple(kept["incident"].values()), kept["baseline"], last_named_ms=earlier.now.wall_ms),
        labels={"a": "b"},
    )
    run.links()
    run.truth("main", {"USDT": "5182.40"}, position("BTCUSDT", "2.5", "92000"))
    run.mark("BTCUSDT", "90372.10")
    return run


def other_rules() -> Run:
    run = in_danger()
    run.mark("BTCUSDT", "90372.10")
    run.core.take_rules(RuleBook({**DEFAULTS, "margin_ratio": MarginRatioRule(enabled=False)}))
    run.tick(2)
    return run


def _later(run: Run, row: Position) -> Position:
    return msgspec.structs.replace(row, at_ms=run.now.wall_ms)


SCRIPTS = (
    whole_life,
    worst_life,
    silence,
    calm_silence,
    moved_prices,
    unknown_inputs,
    nothing_open,
    closed,
    every_kind_of_pool,
    restarted,
    other_rules,
)


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """All scripts, played; each message was held to its schema as it came."""
    return {script.__name__: script() for script in SCRIPTS}


def kinds(run: Run, rule: str) -> list[str]:
    return [event["event"] for event in run.told(rule)]


# ---- the schemas themselves ----


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_a_schema(name: str) -> None:
    """A consumer loads them into any validator."""
    Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"marginwatch.{name}/1"
    assert schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_of_a_schema_leads_to_a_definition_of_its_own(name: str) -> None:
    """Many validators refuse a schema with one that leads nowhere, whatever they would be given to judge."""
    wanted = {part["$ref"] for _, part in _parts(schema(name), name) if "$ref" in part}

    assert wanted <= {f"#/$defs/{key}" for key in schema(name).get("$defs", {})}


def test_there_is_one_schema_for_each_payload_and_no_other() -> None:
    """`info` lists them; a payload without one could hold anything."""
    assert set(NAMES) == set(SCHEMAS) == {path.stem for path in DIRECTORY.glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_described_and_every_object_closed(name: str) -> None:
    """Whoever reads a payload on a phone at night finds what a figure means, in which unit and with which sign."""
    described, closed_objects = [], []
    for path, part in _parts(schema(name), name):
        described += [f"{path}.{k}" for k, v in part.get("properties", {}).items() if _is_bare(v, path)]
        if part.get("type") == "object" and part.get("additionalProperties") in (None, True):
            closed_objects.append(path)

    assert described == []
    assert closed_objects == []


def test_a_definition_is_the_same_in_every_schema() -> None:
    """Each file stands alone; what they share must not drift apart."""
    seen: dict[str, Any] = {}
    for name in NAMES:
        for key, definition in schema(name).get("$defs", {}).items():
            assert seen.setdefault(key, definition) == definition, f"{key} in {name}"


def _parts(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from _parts(value, f"{path}/{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _parts(value, f"{path}/{i}")


def _is_bare(prop: Any, path: str) -> bool:
    """Whether a property says nothing of itself; conditions need not."""
    if re.search(r"/(if|then|else|allOf|anyOf/\d+/properties)", path):
        return False
    return isinstance(prop, dict) and "description" not in prop and "$ref" not in prop


# ---- what the core says ----


def test_an_incidents_whole_life_is_valid(runs: dict[str, Run]) -> None:
    """Every kind of event of one story, in order, with its retained state."""
    run = runs["whole_life"]
    told = kinds(run, "margin_ratio")

    assert told[0] == "opened"
    assert told[-1] == "resolved"
    assert {"opened", "worsened", "repeated", "improved", "resolved"} <= set(told)
    [resolved] = [e for e in run.told("margin_ratio") if e["event"] == "resolved"]
    assert resolved["resolution"] == "recovered"
    assert run.last("main/incident/margin_ratio/cross-usdt") == {}


def test_the_first_crossing_says_what_the_design_says(runs: dict[str, Run]) -> None:
    """2.5 BTC at 92000, 5182.40 USDT, mark 90372.10: 903.721 of 1112.65 USDT."""
    run = runs["whole_life"]
    after = next(e["after"] for e in run.told("margin_ratio") if e["after"]["mark_price"] == "90372.10000000")

    assert after == {
        "margin_ratio": 0.81222397,
        "margin_balance": "1112.65000000",
        "mark_price": "90372.10000000",
        "liquidation_price": "90288.19277108",
        "distance": 0.00092846,
    }


def test_a_liquidation_is_valid_to_the_end(runs: dict[str, Run]) -> None:
    """The worst hour is the one in which a consumer must not choke on a payload."""
    run = runs["worst_life"]
    ratios = [json.loads(m.payload)["margin_ratio"] for m in run.sent if "/pool/" in m.topic and m.payload]
    endings = {event.get("resolution") for event in run.told()}

    assert 10 in ratios
    assert any(json.loads(m.payload).get("bankrupt") for m in run.sent if "/pool/" in m.topic and m.payload)
    assert "partly_liquidated" in endings
    assert run.last("main/pool/cross-usdt") == {}
    assert run.last("main/position/btcusdt") == {}


def test_silence_is_valid_on_every_link(runs: dict[str, Run]) -> None:
    """A link has no pool, no price and no symbol: other keys are null than for a ratio."""
    told = runs["silence"].told("data_stale")

    assert {event["account"] for event in told} == {"main", "_instance"}
    assert {"opened", "resolved"} <= {event["event"] for event in told}
    assert {event["severity"] for event in told} == {"critical"}
    assert {event["data"]["link"] for event in told} == {"private", "binance-usdm"}
    assert {"opened", "worsened", "resolved"} <= set(kinds(runs["calm_silence"], "data_stale"))


def test_moved_prices_are_valid_with_all_their_causes(runs: dict[str, Run]) -> None:
    """Causes have optional and null parts that the other events have not."""
    told = runs["moved_prices"].told("liquidation_price_moved")
    found = {cause["kind"] for event in told for cause in event["cause"]}

    assert {event["event"] for event in told} == {"noted"}
    assert {"funding_fee", "transfer", "fill", "realized_pnl", "commission", "adjustment", "unexplained"} <= found
    assert any(event["also"] for event in told)


def test_unknown_inputs_are_null_with_their_reason(runs: dict[str, Run]) -> None:
    """Unknown is never zero, and says why."""
    main = next(
        body
        for m in runs["unknown_inputs"].sent
        if m.topic == "marginwatch/main/position/btcusdt" and (body := json.loads(m.payload))["mark_price"]
    )
    other = runs["unknown_inputs"].last("other/pool/cross-usdt")

    assert (main["liquidation_price"], main["liquidation"]["reason"]) == (None, "brackets_unknown")
    assert (main["notional"], main["maintenance_margin"]) == ("9200.00000000", None)
    assert runs["unknown_inputs"].last("main/pool/cross-usdt")["reason"] == "brackets_unknown"
    assert (other["margin_ratio"], other["reason"], other["freshness"]) == (None, "mark_unknown", "stale")


def test_an_account_without_positions_is_valid(runs: dict[str, Run]) -> None:
    """Proof of life does not depend on having something at risk."""
    summary = runs["nothing_open"].last("main/summary")

    assert (summary["worst_margin_ratio"], summary["worst_distance"], summary["open_positions"]) == (0.0, None, 0)
    assert summary["severity"] == "ok"


def test_a_closed_position_empties_its_topics(runs: dict[str, Run]) -> None:
    """An empty payload is no JSON, and is valid where something was retained."""
    run = runs["closed"]

    assert run.last("main/pool/cross-usdt") == {}
    assert run.last("main/position/btcusdt") == {}
    assert run.last("main/incident/margin_ratio/cross-usdt") == {}
    assert {e.get("resolution") for e in run.told("margin_ratio")} == {None, "position_closed"}


def test_every_kind_of_pool_is_valid(runs: dict[str, Run]) -> None:
    """Hedged, isolated and of another margin asset: one schema serves them all."""
    run = runs["every_kind_of_pool"]
    pools = {m.topic.removeprefix("marginwatch/") for m in run.sent if "/pool/" in m.topic}

    assert pools == {
        "one-way/pool/cross-usdt",
        "one-way/pool/cross-usdc",
        "one-way/pool/isolated-1000pepeusdt",
        "hedge/pool/cross-usdt",
        "hedge/pool/isolated-1000pepeusdt-short",
    }
    assert run.last("hedge/position/btcusdt-long")["liquidation"]["above"] is not None
    assert run.last("one-way/position/ethusdc")["entry_price"] == "3000.12345678"
    nothing = {"rate": None, "next_at": None, "interval_hours": None, "payment": None, "liquidation_price_after": None}
    assert run.last("one-way/position/1000pepeusdt")["funding"] == nothing


def test_an_incident_of_an_earlier_run_is_valid(runs: dict[str, Run]) -> None:
    """After a restart its state is shown as it was last told, and nobody is called twice."""
    run = runs["restarted"]
    shown = run.last("main/incident/margin_ratio/cross-usdt")

    assert run.told("margin_ratio") == []
    assert shown["severity"] == "critical"
    assert shown["event_id"] == f"{shown['incident_id']}.1"


def test_a_rule_that_is_switched_off_ends_its_incident(runs: dict[str, Run]) -> None:
    """The payload of an ending that no figure has caused."""
    endings = [e.get("resolution") for e in runs["other_rules"].told("margin_ratio")]

    assert endings == [None, "rule_changed"]


def test_who_publishes_is_valid() -> None:
    """`info` and `status` come from the daemon itself, not from the core."""
    messages = Run("main").messages
    info = messages.info([("main", "binance-usdm"), ("second", "binance-usdm")])

    validate(info.topic, info.payload)
    for online in (True, False):
        validate(messages.status(online).topic, messages.status(online).payload)


# ---- what is wrong is found ----


@pytest.fixture(scope="module")
def samples(runs: dict[str, Run]) -> dict[str, tuple[str, dict[str, Any]]]:
    """One valid message for each schema: the longest that was seen."""
    info = Run("main").messages.info([("main", "binance-usdm")])
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for message in (info, *(m for run in runs.values() for m in run.sent if m.payload)):
        body = json.loads(message.payload)
        name = body["schema"].removeprefix("marginwatch.").removesuffix("/1")
        if name not in found or len(message.payload) > len(json.dumps(found[name][1])):
            found[name] = (message.topic, body)
    return found


def is_refused(topic: str, body: dict[str, Any]) -> bool:
    try:
        validate(topic, json.dumps(body).encode())
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_that_lacks_a_key_is_refused(name: str, samples: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """`required` is complete: a key that is forgotten is found by the tests, not by a consumer."""
    topic, body = samples[name]

    assert not is_refused(topic, body)
    assert [k for k in body if not is_refused(topic, {other: v for other, v in body.items() if other != k})] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_with_nonsense_in_a_key_is_refused(name: str, samples: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """No key is open to anything at all."""
    topic, body = samples[name]

    assert [key for key in body if not is_refused(topic, {**body, key: {"nonsense": [1]}})] == []
    assert is_refused(topic, {**body, "nonsense": 1})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        pytest.param("pool", "margin_balance", "1112.65", id="two decimals"),
        pytest.param("pool", "margin_balance", "1.11265E+3", id="exponent"),
        pytest.param("pool", "margin_balance", 1112.65, id="money as a number"),
        pytest.param("pool", "unrealized_pnl", "-0.00000000", id="minus zero"),
        pytest.param("pool", "unrealized_pnl", "NaN", id="not a number"),
        pytest.param("pool", "margin_ratio", "0.81222397", id="ratio as a string"),
        pytest.param("pool", "margin_ratio", 81.2, id="ratio in percent"),
        pytest.param("pool", "margin_ratio", -1, id="negative ratio"),
        pytest.param("pool", "distance", -0.01, id="negative distance"),
        pytest.param("pool", "severity", "fatal", id="unknown severity"),
        pytest.param("pool", "freshness", "fresh", id="unknown freshness"),
        pytest.param("pool", "as_of", "2026-11-21T12:00:00Z", id="time without milliseconds"),
        pytest.param("pool", "as_of", "2026-11-21T12:00:00.000+01:00", id="time not in UTC"),
        pytest.param("position", "liquidation_price", "-1.00000000", id="negative price"),
        pytest.param("position", "quantity", "+2.5", id="plus sign"),
        pytest.param("position", "quantity", "1E+3", id="quantity with exponent"),
        pytest.param("position", "side", "both", id="side of the wire"),
        pytest.param("position", "adl_quantile", 5, id="quantile out of range"),
        pytest.param("event", "event", "retained", id="a change that nobody is told"),
        pytest.param("event", "rule", "mood", id="unknown rule"),
        pytest.param("event", "severity_rank", 0, id="rank of another severity"),
        pytest.param("event", "incident_id", "main.cross_usdt.margin_ratio.1", id="id that is no slug"),
        pytest.param("summary", "severity_rank", 4, id="rank without its severity"),
        pytest.param("health", "links", {"private": {"state": "fine"}}, id="unknown link state"),
        pytest.param("info", "started_at", 1795248000412, id="time as a number"),
    ],
)
def test_a_mutilated_value_is_refused(
    name: str, key: str, value: object, samples: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    """Units, signs, digits and vocabularies are what a consumer relies on."""
    topic, body = samples[name]

    assert is_refused(topic, {**body, key: value})


def test_a_topic_that_contradicts_its_payload_is_refused(samples: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """A subscription to one account or severity must not bring another's."""
    _, event = samples["event"]
    _, pool = samples["pool"]

    assert is_refused("marginwatch/else/event/info/liquidation_price_moved", event)
    assert is_refused(f"marginwatch/{pool['account']}/pool/cross-btc", pool)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("marginwatch/main/balance", b"{}"),
        ("marginwatch/Main/summary", b""),
        ("other/status", b"online"),
        ("marginwatch/main/event/ok/margin_ratio", b"{}"),
        ("marginwatch/main/event/info/margin_ratio", b""),
        ("marginwatch/status", b"maybe"),
        ("marginwatch/info", b"not json"),
        ("marginwatch/info", b'{"schema": NaN}'),
    ],
)
def test_what_is_no_message_of_ours_is_refused(topic: str, payload: bytes) -> None:
    """An unknown topic is a mistake, not something to pass over."""
    with pytest.raises(AssertionError):
        validate(topic, payload)


def test_the_prefix_may_be_another() -> None:
    """Two daemons on one broker are told apart by it."""
    validate("home/risk/status", b"online", prefix="home/risk")
    validate("home/risk/main/pool/cross-usdt", b"", prefix="home/risk")
    with pytest.raises(AssertionError, match="no topic"):
        validate("marginwatch/status", b"online", prefix="home/risk")
