"""Multi-assets mode through the whole daemon: one pool in USD, which the prices of its collateral alone can endanger.

100 SOLUSDT bought at 150 with flat brackets of rate 0.1: 1500 USDT of maintenance margin, 1500.15 USD
1700 USDT at 0.9999 and 10 BNB at 90 % of their index of 600: 7099.83 USD, a margin ratio of 0.2113
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.sim import Exchange, Scenario
from tests import stories
from tests.rig import Listener, Mosquitto, Table, agreement, until, watching, write_config

D = Decimal

RULES: dict[str, Table] = {
    "forced_order": {"settle_s": 0.5},
    "drift": {"for_s": 0.5},
    "auto_exchange": {"clear_for_s": 0},
}
SOL = {"symbol": "SOLUSDT", "mark": "150", "brackets": [[10, "10000000", "0.1"]]}
POOL = "marginwatch/main/pool/multi-assets"


def account(**keys: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "multi_assets": True,
        "balances": {"USDT": "1700", "BNB": "10"},
        "position": [{"symbol": "SOLUSDT", "quantity": "100", "entry_price": "150"}],
        **keys,
    }


async def test_published_figures_are_those_that_the_exchange_prints_in_multi_assets_mode(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A debt, a hedge in two margin assets and a coin with a haircut, as marks and indexes move."""
    exchange = Exchange(Scenario.named("multi-assets"), tick_s=0.1)
    exchange.rest.weights.limit = 1_000_000
    async with exchange, watching(write_config(tmp_path / "d", exchange, broker.port, ["multi"], rules=RULES)):
        await agreement(exchange, listener, "multi")
        debt = await listener.event("auto_exchange", "opened")
        exchange.set_marks({"BTCUSDT": "60123.4", "BTCUSDC": "60100", "ETHUSDT": "2911.17"})
        exchange.set_asset_index("BTC", "58123.45678901")
        exchange.set_asset_index("USDC", "0.9987", bid_buffer="0.0002")
        await agreement(exchange, listener, "multi")
        exchange.fill("multi", "ETHUSDT", "BUY", "3.3")
        exchange.transfer("multi", "USDC", "-200.5")
        await agreement(exchange, listener, "multi")
        exchange.transfer("multi", "USDT", "-2000")  # the debt passes its threshold, and is paid with bitcoin
        await listener.event("auto_exchange", "resolved")
        await agreement(exchange, listener, "multi")
        moved = await until(
            lambda: [e for e in listener.events("liquidation_price_moved") if exchanged(e)], "it is told"
        )

    assert (debt["subject"], debt["severity"]) == ("usdt", "warning")
    assert debt["facts"] == {"asset": "USDT", "debt": "9000.00000000", "threshold": "10000.00000000"}
    assert {c["asset"] for c in moved[0]["cause"] if c["kind"] == "auto_exchange"} == {"USDT", "BTC"}
    for e in listener.events("liquidation_price_moved"):
        first = {
            "before": e["before"]["liquidation_price"],
            "after": e["after"]["liquidation_price"],
            "cause": e["cause"],
        }
        for one in (first, *e["also"]):
            assert sum(D(cause["moved"]) for cause in one["cause"]) == D(one["after"]) - D(one["before"])
    assert not listener.events("drift")
    assert exchange.order_calls == []


def exchanged(event: dict[str, Any]) -> bool:
    return any(cause["kind"] == "auto_exchange" for cause in event["cause"])


async def test_a_falling_index_alone_opens_an_incident_that_goes_with_the_positions_when_the_mode_is_switched(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """No account event tells of it, and whoever has been alarmed must not lose the thread when the pool changes."""
    async with (
        stories.exchange(account(), symbol=[SOL]) as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, rules=RULES)),
    ):
        await agreement(exchange, listener, "main")
        exchange.set_asset_index("BNB", "20")  # 180 USD: 1500.15 / 1879.83
        opened = await listener.event("margin_ratio", "opened")
        exchange.set_asset_index("BNB", "19")  # 171 USD: 1500.15 / 1870.83
        worsened = await listener.event("margin_ratio", "worsened")
        await agreement(exchange, listener, "main")
        account_events = exchange.counters["event ACCOUNT_UPDATE"]

        exchange.set_multi_assets("main", False)  # 1500 / 1700, and the BNB count no more
        single = await listener.event("margin_ratio", "opened", subject="cross-usdt")
        replaced = await listener.event("margin_ratio", "resolved", subject="multi-assets")
        await agreement(exchange, listener, "main")
        await until(lambda: listener.under("main", "pool") == {"cross-usdt"}, "the retained pool is replaced")

        exchange.set_multi_assets("main", True)
        back = await listener.event("margin_ratio", "resolved", subject="cross-usdt")
        await agreement(exchange, listener, "main")
        await until(lambda: listener.under("main", "pool") == {"multi-assets"}, "the retained pool is replaced")
        again = listener.events("margin_ratio", event="opened")[-1]
        exchange.set_asset_index("BNB", "600")
        await until(lambda: len(listener.events("margin_ratio", event="resolved")) == 3, "it has recovered")
        await listener.no_incident()
        await agreement(exchange, listener, "main")

    assert account_events == 0
    assert (opened["severity"], opened["subject"], opened["after"]["margin_ratio"]) == (
        "notice",
        "multi-assets",
        0.79802429,
    )
    assert opened["drivers"] == [{"kind": "collateral", "symbol": None, "margin_balance": "-5220.00000000"}]
    assert (worsened["severity"], worsened["after"]["margin_ratio"]) == ("warning", 0.80186335)
    # 1870.83 + 0.9999 * 100 * (P - 150) = 1.0001 * 0.1 * 100 * P
    assert worsened["after"]["liquidation_price"] == "145.88082988"
    assert (single["after"]["margin_ratio"], single["continues"]) == (0.88235295, opened["incident_id"])
    assert (replaced["resolution"], replaced["incident_id"]) == ("pool_replaced", opened["incident_id"])
    assert (again["subject"], again["continues"]) == ("multi-assets", single["incident_id"])
    assert (back["resolution"], back["incident_id"]) == ("pool_replaced", single["incident_id"])
    last = listener.events("margin_ratio", event="resolved")[-1]
    assert (last["resolution"], last["incident_id"]) == ("recovered", again["incident_id"])
    switches = [e for e in listener.events("liquidation_price_moved") if kinds(e) == ["multi_assets_mode"]]
    assert [e["after"]["liquidation_price"] for e in switches] == ["147.77777778", "145.88082988"]  # 13300 / 90
    for e in switches:
        [cause] = e["cause"]
        assert D(cause["moved"]) == D(e["after"]["liquidation_price"]) - D(e["before"]["liquidation_price"])
    assert len(listener.events("exchange_margin_call")) == 1
    assert not listener.events("drift")


def kinds(event: dict[str, Any]) -> list[str]:
    return [cause["kind"] for cause in event["cause"]]


async def test_a_mute_asset_index_is_told_and_nothing_recovers_meanwhile(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Marks flow on: a pool whose collateral has no price any more must not look alive because of them."""
    async with (
        stories.exchange(account(), symbol=[SOL]) as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, links={"bridge_s": 0.3}, rules=RULES)),
    ):
        await agreement(exchange, listener, "main")
        exchange.set_asset_index("BNB", "20")
        await listener.event("margin_ratio", "opened")
        exchange.fault(mute_symbols=["BNBUSD"])  # the other assets' go on
        exchange.set_asset_index("BNB", "600")
        stale = await listener.event("data_stale", "opened")
        pool = await listener.state(POOL, freshness="stale")
        exchange.fault(mute_symbols=[])
        heard = await listener.event("data_stale", "resolved")
        recovered = await listener.event("margin_ratio", "resolved")
        await listener.no_incident()
        await agreement(exchange, listener, "main")

        exchange.fault(mute_symbols=[index.symbol for index in exchange.market.asset_indexes.values()])
        exchange.set_asset_index("BNB", "500")  # 6199.83 USD, which REST tells as well
        await until(lambda: len(listener.events("data_stale", event="opened")) == 2, "the quiet stream is told")
        await listener.state(POOL, freshness="live", margin_balance="6199.83000000")
        exchange.fault(mute_symbols=[])
        await until(lambda: len(listener.events("data_stale", event="resolved")) == 2, "and its return")
        await listener.no_incident()
        await agreement(exchange, listener, "main")

    assert (stale["account"], stale["subject"]) == ("_instance", "market-binance-usdm-custom")
    assert stale["data"]["pools"] == ["main/multi-assets"]
    assert pool["margin_ratio"] == 0.79802429  # as it was last known
    order = [e["event_id"] for e in listener.events()]
    assert order.index(recovered["event_id"]) > order.index(stale["event_id"])
    assert heard["resolution"] == recovered["resolution"] == "recovered"


async def test_a_liquidation_in_the_mode_is_told_as_one(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Collateral falls, positions are closed and debts are paid with what is left: one end, and it is no recovery."""
    poorer = account(
        balances={"USDT": "500", "BNB": "10"},
        position=[
            {"symbol": "SOLUSDT", "quantity": "100", "entry_price": "160"},
            {"symbol": "ETHUSDT", "quantity": "-0.01", "entry_price": "3000"},
        ],
    )
    async with (
        stories.exchange(poorer, symbol=[SOL, {"symbol": "ETHUSDT", "mark": "3000"}]) as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, rules=RULES)),
    ):
        await agreement(exchange, listener, "main")
        exchange.fault(liquidation=False)
        exchange.set_asset_index("BNB", "210")  # -500.05 + 1890 USD
        await listener.event("margin_ratio", "opened", severity="liquidation")
        await agreement(exchange, listener, "main")
        exchange.fault(liquidation=True)
        exchange.set_asset_index("BNB", "210")
        over = await listener.event("forced_order", "resolved")
        await until(lambda: listener.under("main", "position") == {"ethusdt"}, "the rest is below ratio 1 again")
        for rule in ("margin_ratio", "liquidation_distance"):
            await listener.event(rule, "resolved")
        await listener.no_incident()
        await agreement(exchange, listener, "main")

    assert told(listener, "forced_order") == [("opened", "liquidation"), ("resolved", "liquidation")]
    assert (over["subject"], over["resolution"]) == ("solusdt", "liquidated")
    report = over["report"]
    assert (report["quantity"], report["left"], report["average_price"]) == ("100", "0", "150.00000000")
    assert (report["realized_pnl"], report["clearance_fee"]) == ("-1000.00000000", "187.50000000")  # 0.0125 of 15000
    for rule in ("margin_ratio", "liquidation_distance"):
        [resolved] = listener.events(rule, event="resolved")
        assert (resolved["subject"], resolved["resolution"]) == ("multi-assets", "partly_liquidated")
    moved = [cause for e in listener.events("liquidation_price_moved") for cause in e["cause"]]
    paid = {(c["kind"], c["asset"]): c["amount"] for c in moved if c["kind"] in ("insurance_clear", "auto_exchange")}
    # 687.5 USDT are owed, and paid with BNB: 1.0001 to buy one, 199.5 for one that is sold
    assert paid["insurance_clear", "USDT"] == "-187.50000000"
    assert paid["auto_exchange", "USDT"] == "687.50000000"
    assert paid["auto_exchange", "BNB"] == "-3.44645989"
    assert not listener.events("drift")


def told(listener: Listener, rule: str) -> list[tuple[str, str]]:
    """Kind and severity of each event of a rule, in order."""
    return [(e["event"], e["severity"]) for e in listener.events(rule)]
