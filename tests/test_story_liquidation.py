"""Forced orders through the whole daemon: what the exchange does in our name is told once, in order, to the last digit.

The long of the first story has brackets of its own, so that everything can be worked by hand:

rate 0.01 below 100000, 0.05 below 500000 (amount 4000), 0.1 above (amount 29000); clearance fee 1 %
10 BTCUSDT bought at 60000 with 40000 USDT: liquidated at (560000 - 29000) / 9 = 59000, bankrupt at 56000
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from monitor.sim.forced import SHAPES
from tests import stories
from tests.rig import Listener, Mosquitto, Table, agreement, subscribers, until, watching, write_config

D = Decimal

RULES: dict[str, Table] = {"forced_order": {"settle_s": 1}, "drift": {"for_s": 0.5}}
POOL_RULES = ("margin_ratio", "liquidation_distance")


def told(listener: Listener, rule: str, **keys: Any) -> list[tuple[str, str]]:
    """Kind and severity of each event of a rule, in order."""
    return [(e["event"], e["severity"]) for e in listener.events(rule, **keys)]


def causes(event: dict[str, Any]) -> list[str]:
    return [cause["kind"] for cause in event["cause"]]


def chain(events: list[dict[str, Any]]) -> Counter[str]:
    """Kind of cause → what it moved the price by in all; each event must begin where the one before it has ended."""
    moved: Counter[str] = Counter()
    price = events[0]["before"]["liquidation_price"]
    for event in events:
        before, after = event["before"]["liquidation_price"], event["after"]["liquidation_price"]
        assert before == price
        assert sum(D(cause["moved"]) for cause in event["cause"]) == D(after) - D(before)
        for cause in event["cause"]:
            moved[cause["kind"]] += D(cause["moved"])  # type: ignore[assignment]
        price = after
    return moved


LAST = "55867.93169415"  # liquidation price of what is left of the long

# ---- a long that is reduced, and recovers ----

LONG = {
    "name": "main",
    "balances": {"USDT": "40000"},
    "position": [{"symbol": "BTCUSDT", "quantity": "10", "entry_price": "60000"}],
    "liquidation": {"mode": "partial", "fills": 2},
}
BTC = {
    "symbol": "BTCUSDT",
    "mark": "70000",
    "liquidation_fee": "0.01",
    "brackets": [[50, "100000", "0.01"], [20, "500000", "0.05"], [5, "5000000", "0.1"]],
}


async def test_a_liquidation_in_steps_is_one_story_from_the_margin_call_to_its_end(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whoever reads only these messages must know what was taken, at which price, for which fee, and what is left."""
    incident = "marginwatch/main/incident"
    exchange = stories.exchange(LONG, symbol=[BTC])
    exchange.set_insurance("USDT", "1000000")
    async with exchange, watching(write_config(tmp_path / "d", exchange, broker.port, rules=RULES)):
        await agreement(exchange, listener, "main")
        for price in ("57000", "56000"):
            exchange.place_resting("main", "BTCUSDT", "BUY", "1", price)

        exchange.set_mark("BTCUSDT", "59850")  # 30850 / 38500
        call = await listener.event("exchange_margin_call", "noted")
        await listener.event("margin_ratio", "opened")
        await listener.event("liquidation_distance", "opened")

        exchange.fault(liquidation=False)  # the exchange acts a moment after the mark
        exchange.set_mark("BTCUSDT", "58990")  # 29990 / 29900
        await listener.event("margin_ratio", "worsened")
        await listener.event("liquidation_distance", "repeated")  # its distance has more than halved
        exchange.fault(liquidation=True)
        # 1.524 are closed, which leaves the bracket below: 37561.7524 USDT, liquidated at 466998.2476 / 8.0522
        exchange.set_mark("BTCUSDT", "58990")
        running = await listener.event("forced_order", "opened")
        await listener.event("margin_ratio", "improved", severity="warning")
        await listener.state(f"{incident}/forced_order/btcusdt", severity="liquidation")

        exchange.fault(liquidation=False)
        exchange.set_mark("BTCUSDT", "57990")  # 20576.16 / 20524.9924: past liquidation again, if not as far
        await listener.event("margin_ratio", "repeated")
        exchange.fault(liquidation=True)
        # 3.953 more bring the ratio to the target of 0.5: 27323.8777 USDT, liquidated at 240056.1223 / 4.29685
        exchange.set_mark("BTCUSDT", "57990")
        over = await listener.event("forced_order", "resolved")
        await agreement(exchange, listener, "main")

        exchange.set_mark("BTCUSDT", "64000")
        for rule in POOL_RULES:
            await listener.event(rule, "resolved")
        await listener.no_incident()
        exchange.fill("main", "BTCUSDT", "SELL", "0.523")
        await until(lambda: "commission" in causes(listener.events("liquidation_price_moved")[-1]), "our fill is told")
        await agreement(exchange, listener, "main")
        await listener.state("marginwatch/main/summary", severity="ok")

    assert (call["severity"], call["symbol"], call["side"]) == ("warning", "BTCUSDT", "long")
    assert "maintenance margin 30850.00 USDT, unrealized PnL −1500.00 USDT" in call["text"]
    assert told(listener, "margin_ratio") == [
        ("opened", "warning"),
        ("worsened", "liquidation"),
        ("improved", "warning"),
        ("repeated", "liquidation"),
        ("improved", "notice"),
        ("resolved", "liquidation"),
    ]
    assert told(listener, "liquidation_distance") == [
        ("opened", "critical"),
        ("repeated", "critical"),
        ("improved", "warning"),
        ("resolved", "critical"),
    ]
    assert told(listener, "forced_order") == [("opened", "liquidation"), ("resolved", "liquidation")]
    assert told(listener, "exchange_margin_call") == [("noted", "warning")]
    assert {e["rule"] for e in listener.events()} == {
        *POOL_RULES,
        "forced_order",
        "exchange_margin_call",
        "liquidation_price_moved",
    }

    opened, worsened, improved, _, notice, resolved = listener.events("margin_ratio")
    assert opened["after"]["margin_ratio"] == 0.80129871  # 0.8012987012…, up
    assert worsened["after"]["margin_ratio"] == 1.00301004
    assert improved["after"]["liquidation_price"] == "57996.35473535"
    assert notice["after"]["margin_ratio"] == 0.4998966
    assert resolved["worst"] == {"margin_ratio": 1.00301004}
    for e in listener.events(event="resolved"):
        assert e["resolution"] == "partly_liquidated"
        assert "PARTLY LIQUIDATED" in e["title"]
        assert "recover" not in e["text"]
    order = [e["event_id"] for e in listener.events()]
    story = [opened, worsened, running, improved, over, resolved]
    assert [order.index(e["event_id"]) for e in story] == sorted(order.index(e["event_id"]) for e in story)

    assert (running["symbol"], running["side"], running["report"]["orders_cancelled"]) == ("BTCUSDT", "long", 2)
    assert over["report"] == {
        "kind": "liquidation",
        "quantity": "5.477",
        "average_price": "58268.25451890",  # (1.524 × 58990 + 3.953 × 57990) / 5.477
        "bankruptcy_price": "56000.00000000",
        "liquidation_price": "59000.00000000",
        "realized_pnl": "-9484.77000000",  # 1.524 × -1010 + 3.953 × -2010
        "commission": "0.00000000",
        "clearance_fee": "3191.35230000",  # 899.0076 + 2292.3447
        "asset": "USDT",
        "left": "4.523",
        "steps": 2,
        "orders_cancelled": 2,
        "insurance_fund": "1000000.00000000",
    }

    *forced, own = listener.events("liquidation_price_moved")
    moved = chain([*forced, own])
    assert forced[0]["before"]["liquidation_price"] == "59000.00000000"
    assert forced[-1]["after"]["liquidation_price"] == LAST
    assert set(chain(forced)) == {"fill", "realized_pnl", "insurance_clear"}
    amounts = [(c["kind"], D(c["amount"])) for e in forced for c in e["cause"] if c["kind"] != "fill"]
    assert sum(amount for kind, amount in amounts if kind == "realized_pnl") == D("-9484.77")
    assert sum(amount for kind, amount in amounts if kind == "insurance_clear") == D("-3191.3523")
    assert [(c["kind"], c["amount"]) for c in own["cause"]] == [
        ("fill", "0.00000000"),
        ("realized_pnl", "2092.00000000"),
        ("commission", "-13.38880000"),
    ]
    # 29402.4889 USDT: (240000 - 29402.4889 - 4000) / 3.8
    assert own["after"]["liquidation_price"] == "54367.76607895"
    assert sum(moved.values()) == D("54367.76607895") - D("59000")


# ---- bankrupt, and who pays for it ----

BANKRUPT = {
    "name": "main",
    "balances": {"USDT": "3000"},
    "position": [{"symbol": "BTCUSDT", "quantity": "1", "entry_price": "60000"}],
    "liquidation": {"fills": 2, "slippage": "0.001"},
}
HEDGED = {
    "name": "other",
    "hedge": True,
    "balances": {"USDT": "20000"},
    "position": [
        {"symbol": "BTCUSDT", "side": "LONG", "quantity": "1", "entry_price": "60000"},
        {"symbol": "BTCUSDT", "side": "SHORT", "quantity": "-0.8", "entry_price": "62000"},
    ],
}


async def test_a_bankruptcy_breaks_the_hedge_of_the_other_side(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A gap through the bankruptcy price: a fund pays for one account, and a winner's short is taken away."""
    async with stories.exchange(BANKRUPT, HEDGED) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, ("main", "other"), rules=RULES)
        async with watching(config):
            await agreement(exchange, listener, "main", "other")
            exchange.fault(liquidation=False)
            exchange.set_mark("BTCUSDT", "55000")
            gone = await listener.event("margin_ratio", "opened", account="main")
            pool = await listener.state("marginwatch/main/pool/cross-usdt", bankrupt=True, severity="liquidation")
            exchange.fault(liquidation=True)
            exchange.set_mark("BTCUSDT", "55000")
            exchange.adl("other", "BTCUSDT", price="57000", side="SHORT")
            over = await listener.event("forced_order", "resolved", account="main")
            taken = await listener.event("forced_order", "resolved", account="other")
            broken = await listener.event("hedge_broken", "noted")
            for rule in POOL_RULES:
                await listener.event(rule, "resolved", account="main")
            for name in ("main", "other"):
                await listener.no_incident(name)
            await agreement(exchange, listener, "main", "other")

    assert (gone["severity"], gone["after"]["margin_ratio"], gone["after"]["margin_balance"]) == (
        "liquidation",
        10.0,
        "-2000.00000000",
    )
    assert pool["margin_ratio"] == 10.0
    assert over["resolution"] == "liquidated"
    report = over["report"]
    assert report["average_price"] == "54958.75000000"  # of 54972.5 and 54945, beyond the bankruptcy price
    assert report["bankruptcy_price"] == "57000.00000000"
    assert report["realized_pnl"] == "-5041.25000000"
    assert report["clearance_fee"] == "-2041.25000000"  # given by the fund: the wallet was at 3000 - 5041.25
    assert (D(report["quantity"]), report["left"], report["steps"]) == (D(1), "0", 1)
    for rule in POOL_RULES:
        assert listener.events(rule, account="main")[-1]["resolution"] == "liquidated"
    assert told(listener, "forced_order", account="main") == [("opened", "liquidation"), ("resolved", "liquidation")]

    assert (taken["subject"], taken["severity"], taken["resolution"]) == ("btcusdt-short", "critical", "adl")
    assert taken["report"]["kind"] == "adl"
    assert taken["report"]["average_price"] == "57000.00000000"
    assert taken["report"]["realized_pnl"] == "4000.00000000"
    assert (taken["report"]["quantity"], taken["report"]["left"]) == ("0.8", "0")
    assert (broken["account"], broken["severity"], broken["symbol"]) == ("other", "critical", "BTCUSDT")
    assert broken["facts"] == {"long_before": "1", "short_before": "-0.8", "long_after": "1", "short_after": "0"}
    [moved] = listener.events("liquidation_price_moved")
    assert moved["subject"] == "btcusdt-long"
    assert moved["after"]["liquidation_price"] == "36144.57831325"  # (60000 - 24000) / 0.996
    assert sum(chain([moved]).values()) == D("36144.57831325") - D(moved["before"]["liquidation_price"])
    assert told(listener, "forced_order", account="other") == [("opened", "critical"), ("resolved", "critical")]


# ---- whatever they look like on the wire ----

LINEAR = {
    "balances": {"USDT": "12000"},
    "settings": {"SOLUSDT": {"margin_type": "ISOLATED"}},
    "position": [
        {"symbol": "SOLUSDT", "quantity": "100", "entry_price": "150", "isolated_wallet": "3000"},
        {"symbol": "ETHUSDT", "quantity": "-2", "entry_price": "3000"},
        {"symbol": "ADAUSDT", "quantity": "3000", "entry_price": "0.4"},
    ],
}
INVERSE = {
    "market": "coinm",
    "balances": {"BTC": "1", "ETH": "1"},
    "settings": {"BTCUSD_PERP": {"margin_type": "ISOLATED"}},
    "position": [
        {"symbol": "BTCUSD_PERP", "quantity": "100", "entry_price": "60000", "isolated_wallet": "0.02"},
        {"symbol": "ETHUSD_PERP", "quantity": "-200", "entry_price": "3000"},
        {"symbol": "BTCUSD_261225", "quantity": "30", "entry_price": "60000"},
    ],
}


@pytest.mark.parametrize(
    ("like", "symbols", "mark"),
    [
        (LINEAR, ("SOLUSDT", "ETHUSDT", "ADAUSDT"), "120"),
        (INVERSE, ("BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_261225"), "50000"),
    ],
    ids=["usdm", "coinm"],
)
async def test_forced_orders_are_known_in_every_shape_that_sources_give_them(
    like: dict[str, Any],
    symbols: tuple[str, str, str],
    mark: str,
    broker: Mosquitto,
    listener: Listener,
    tmp_path: Path,
) -> None:
    """Documents and recorded frames differ in type, execution and flags; none of that may hide a liquidation."""
    names = [shape.replace("_", "-") for shape in SHAPES]
    exchange = stories.exchange(*({"name": name, **like} for name in names))
    for name, shape in zip(names, SHAPES, strict=True):
        exchange.set_liquidation(name, shape=shape, fills=3, slippage="0.0001")
    liquidated, deleveraged, settled = symbols
    links = {"reconcile_s": 3, "rest_timeout_s": 3, "ping_timeout_s": 3}  # seven accounts, and maybe a busy machine
    rules = {**RULES, "data_stale": {"stale_after_s": 10}}
    async with exchange, watching(write_config(tmp_path / "d", exchange, broker.port, names, links=links, rules=rules)):
        for name in names:
            await listener.state(f"marginwatch/{name}/summary", freshness="live", open_positions=3)
        exchange.set_mark(liquidated, mark)
        exchange.settle(settled)
        for name in names:
            exchange.adl(name, deleveraged)
        for name in names:
            await listener.state(f"marginwatch/{name}/summary", freshness="live", open_positions=0)
            await listener.no_incident(name)

    expected = {
        slug(liquidated): ("liquidation", "liquidated", "liquidation"),
        slug(deleveraged): ("critical", "adl", "adl"),
        slug(settled): ("warning", "settled", "settlement"),
    }
    for name in names:
        opened, over = (listener.events("forced_order", account=name, event=kind) for kind in ("opened", "resolved"))
        assert {e["subject"]: e["severity"] for e in opened} == {
            s: severity for s, (severity, _, _) in expected.items()
        }
        assert len(opened) == len(over) == 3
        for e in over:
            _, resolution, kind = expected[e["subject"]]
            assert (e["resolution"], e["report"]["kind"]) == (resolution, kind)
            [held] = [row for row in like["position"] if slug(row["symbol"]) == e["subject"]]
            assert D(e["report"]["quantity"]) == abs(D(held["quantity"]))
            assert (e["report"]["left"], e["report"]["steps"]) == ("0", 1)
        for e in listener.events(event="resolved", account=name):
            assert e["resolution"] != "recovered"
    assert not listener.events("drift")


def slug(symbol: str) -> str:
    return symbol.lower().replace("_", "5f")


# ---- contracts that end ----


async def test_a_contract_that_is_settled_is_told_from_its_notice_to_the_last_report(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Its incidents end as settled: neither the market nor the owner has closed the position."""
    main = {
        "name": "main",
        "balances": {"USDT": "100"},
        "settings": {"SOLUSDT": {"margin_type": "ISOLATED"}},
        "position": [{"symbol": "SOLUSDT", "quantity": "100", "entry_price": "150", "isolated_wallet": "3000"}],
    }
    coin = {
        "name": "coin",
        "market": "coinm",
        "balances": {"BTC": "0.1"},
        "position": [
            {"symbol": "BTCUSD_261225", "quantity": "100", "entry_price": "60000"},
            {"symbol": "BTCUSD_PERP", "quantity": "-10", "entry_price": "60000"},
        ],
    }
    async with stories.exchange(main, coin) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, ("main", "coin"), rules=RULES)
        async with watching(config):
            await agreement(exchange, listener, "main")
            await listener.state("marginwatch/coin/summary", freshness="live", open_positions=2)
            exchange.set_mark("SOLUSDT", "130")  # 7.2 % above 120.603
            await listener.event("liquidation_distance", "opened", subject="isolated-solusdt")
            await until(lambda: subscribers(exchange, "!contractInfo") == 2, "changes of contracts are heard")
            exchange.set_status("SOLUSDT", "PRE_SETTLE")
            halted = await listener.event("contract_status", "opened", account="main")
            exchange.set_status("BTCUSD_261225", "TRADING", delivery_ms=exchange.now_ms() + 1_800_000)
            soon = await listener.event("contract_status", "opened", account="coin")
            exchange.settle("SOLUSDT", "128.5")
            exchange.settle("BTCUSD_261225", "50000")
            ended = await listener.event("forced_order", "resolved", account="main")
            delivered = await listener.event("forced_order", "resolved", account="coin")
            for account in ("main", "coin"):
                await listener.event("contract_status", "resolved", account=account)
                await listener.no_incident(account)
            await agreement(exchange, listener, "main")
            await until(lambda: listener.under("coin", "position") == {"btcusd5fperp"}, "the perpetual is left")

    assert (halted["severity"], halted["symbol"], halted["facts"]["status"]) == ("warning", "SOLUSDT", "PRE_SETTLE")
    assert (soon["severity"], soon["symbol"], soon["facts"]["status"]) == ("warning", "BTCUSD_261225", "TRADING")
    assert "insurance fund" in soon["text"]
    for over, quantity, price, profit in (
        (ended, "100", "128.50000000", "-2150.00000000"),
        (delivered, "100", "50000.00000000", "-0.03333333"),  # 10000 USD at 1 / 60000 and 1 / 50000
    ):
        assert (over["resolution"], over["report"]["kind"]) == ("settled", "settlement")
        assert "SETTLED" in over["title"]
        report = over["report"]
        assert (report["quantity"], report["average_price"], report["realized_pnl"]) == (quantity, price, profit)
        assert report["left"] == "0"
    for account in ("main", "coin"):
        assert told(listener, "forced_order", account=account) == [("opened", "warning"), ("resolved", "critical")]
        assert [kind for kind, _ in told(listener, "contract_status", account=account)] == ["opened", "resolved"]
    [distance] = listener.events("liquidation_distance", event="resolved")
    assert (distance["subject"], distance["resolution"]) == ("isolated-solusdt", "settled")
    assert not any(e["resolution"] == "recovered" for e in listener.events(event="resolved"))


async def test_a_quarterly_contract_is_watched_to_its_delivery_and_never_missed_afterwards(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Its marks end before its position does: that is blindness, and is told. What is left of its pool is watched on,
    whatever an answer that lags still shows; and once it is on no list any more, nobody asks for it."""
    main = {
        "name": "main",
        "balances": {"USDT": "12000"},
        "position": [
            {"symbol": "BTCUSDT", "quantity": "1", "entry_price": "60000"},
            {"symbol": "BTCUSDT_261225", "quantity": "-0.5", "entry_price": "60400"},
        ],
    }
    quarterly = {
        "symbol": "BTCUSDT_261225",
        "mark": "60400",
        "contract_type": "CURRENT_QUARTER",
        "delivery_ms": 4_000_000_000_000,
    }
    async with stories.exchange(main, symbol=[{"symbol": "BTCUSDT", "mark": "60000"}, quarterly]) as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=RULES, links={"first_frame_s": 2})
        async with watching(config):
            await agreement(exchange, listener, "main")
            assert listener.retained("marginwatch/main/position/btcusdt5f261225")["funding"]["next_at"] is None
            await until(lambda: subscribers(exchange, "!contractInfo"), "changes of contracts are heard")
            exchange.set_status("BTCUSDT_261225", "TRADING", delivery_ms=exchange.now_ms() + 1_800_000)
            soon = await listener.event("contract_status", "opened")
            exchange.set_status("BTCUSDT_261225", "DELIVERING")
            exchange.fault(mute_symbols=["BTCUSDT_261225"])
            blind = await listener.event("data_stale", "opened")
            exchange.set_mark("BTCUSDT_261225", "61000")  # what REST still says of it
            await agreement(exchange, listener, "main")
            exchange.fault(stale_s=1.0)
            exchange.settle("BTCUSDT_261225", "61000")
            over = await listener.event("forced_order", "resolved")
            await listener.event("contract_status", "resolved")
            await listener.event("data_stale", "resolved")
            exchange.fault(stale_s=0.0)
            exchange.delist("BTCUSDT_261225")
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "53000")  # 11700 of wallet: liquidated at 48300 / 0.996, 8.5 % away
            await listener.event("liquidation_distance", "opened", subject="cross-usdt")
            exchange.set_mark("BTCUSDT", "60000")
            await listener.event("liquidation_distance", "resolved", subject="cross-usdt")
            await listener.no_incident()
        count = len(listener.events())
        async with watching(config):
            await listener.state("marginwatch/main/summary", freshness="live", open_positions=1)
            await agreement(exchange, listener, "main")

    assert (soon["severity"], soon["symbol"]) == ("warning", "BTCUSDT_261225")
    assert blind["subject"].startswith("market-")
    assert (over["resolution"], over["report"]["average_price"]) == ("settled", "61000.00000000")
    assert over["report"]["realized_pnl"] == "-300.00000000"
    assert told(listener, "forced_order") == [("opened", "warning"), ("resolved", "critical")]
    assert [kind for kind, _ in told(listener, "contract_status")] == ["opened", "resolved"]
    assert not listener.events("drift")
    assert len(listener.events()) == count
