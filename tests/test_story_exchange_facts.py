"""What the exchange says of contracts, queues, brackets and fundings, through the whole daemon.

The account is that of `stories`: 1 BTCUSDT bought at 60000 with 12000 USDT, 100 SOLUSDT bought at 150 isolated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.sim import Exchange
from monitor.sim.account import NotionalCoef
from tests import stories
from tests.rig import Listener, Mosquitto, Table, agreement, subscribers, until, watching, write_config

D = Decimal

RULES: dict[str, Table] = {
    "drift": {"for_s": 0.5},
    "funding_forecast": {"for_s": 0.1, "clear_for_s": 0},
    "contract_status": {"clear_for_s": 0},
    "adl_quantile": {"clear_for_s": 0},
}
LINKS: Table = {"refresh_s": 1}  # the shortest that can be configured
POSITION = "marginwatch/main/position/btcusdt"
POSITIONS = "GET /fapi/v3/positionRisk"
HOUR_MS = 3_600_000


def ladder(*rows: tuple[int, int, int, str, str]) -> list[dict[str, Any]]:
    """Brackets as leverageBracket has them: leverage, floor, cap, rate, amount."""
    names = ("initialLeverage", "notionalFloor", "notionalCap", "maintMarginRatio", "cum")
    return [dict(zip(names, row, strict=True)) for row in rows]


@asynccontextmanager
async def watched(broker: Mosquitto, listener: Listener, folder: Path) -> AsyncIterator[Exchange]:
    """The account of `stories` at an exchange, with the daemon watching it, and agreeing."""
    async with (
        stories.exchange() as exchange,
        watching(write_config(folder / "d", exchange, broker.port, rules=RULES)),
    ):
        await agreement(exchange, listener, "main")
        yield exchange


async def test_changed_brackets_are_told_with_what_they_do_to_the_liquidation_price(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Nothing of the account has changed, and yet it is liquidated elsewhere: within a second, not at the next hour."""
    async with stories.exchange() as exchange:
        before = exchange.market["BTCUSDT"].brackets
        async with watching(write_config(tmp_path / "d", exchange, broker.port, rules=RULES)):
            await agreement(exchange, listener, "main")
            await until(lambda: subscribers(exchange, "!contractInfo"), "changes of contracts are heard")
            exchange.set_brackets(
                "BTCUSDT", ladder((50, 0, 300000, "0.008", "0"), (5, 300000, 9000000, "0.1", "27600"))
            )
            worse = await listener.event("bracket_changed", "noted")
            moved = await listener.event("liquidation_price_moved", "noted")
            await agreement(exchange, listener, "main")
            exchange.set_brackets("BTCUSDT", before)
            await until(lambda: len(listener.events("bracket_changed")) == 2, "that they are back is told")
            await until(lambda: len(listener.events("liquidation_price_moved")) == 2, "and what that has moved")
            await agreement(exchange, listener, "main")
            exchange.set_brackets("ETHUSDT", before)  # nobody holds it
            await agreement(exchange, listener, "main")

    assert (worse["severity"], worse["subject"]) == ("warning", "btcusdt")
    assert worse["facts"] == {"maintenance_margin_before": "240.00000000", "maintenance_margin_after": "480.00000000"}
    assert (worse["before"]["liquidation_price"], worse["after"]["liquidation_price"]) == (
        stories.BTC_PRICE,
        "48387.09677419",  # 48000 / 0.992
    )
    assert [(c["kind"], c["moved"]) for c in moved["cause"]] == [("bracket_change", "194.32568985")]
    better, back = listener.events("bracket_changed")[1], listener.events("liquidation_price_moved")[1]
    assert (better["severity"], better["facts"]["maintenance_margin_after"]) == ("info", "240.00000000")
    assert [(c["kind"], c["moved"]) for c in back["cause"]] == [("bracket_change", "-194.32568985")]
    assert len(listener.events()) == 4


async def test_both_readings_of_a_coefficient_give_the_exchanges_margin(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whether printed brackets have an account's notionalCoef in them is not documented: both must come out right."""
    like = {
        "balances": {"USDT": "120000"},
        "settings": {},
        "position": [{"symbol": "BTCUSDT", "quantity": "10", "entry_price": "60000"}],
    }
    exchange = stories.exchange(
        stories.account("printed", **like, coefs={"BTCUSDT": {"coef": "1.5", "scaled": True}}),
        stories.account("plain", **like, coefs={"BTCUSDT": {"coef": "1.5", "scaled": False}}),
        stories.account("neither", **like),
    )
    exchange.accounts["neither"].coefs["BTCUSDT"] = NotionalCoef(D("1.7"), True)  # said, but not computed with
    names = ("printed", "plain", "neither")
    async with exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, names, rules=RULES, links=LINKS)
        async with watching(config):
            await agreement(exchange, listener, "printed", "plain")
            fault = await listener.event("bracket_changed", "opened", account="neither")
            for name in names:
                await listener.state(f"marginwatch/{name}/position/btcusdt", freshness="live")
            asked = exchange.counters[POSITIONS]
            await until(lambda: exchange.counters[POSITIONS] >= asked + 9, "three more snapshots of each account")
            assert len(listener.events()) == 1
            margins = {name: listener.retained(f"marginwatch/{name}/position/btcusdt") for name in names}
            drifts = [listener.retained(f"marginwatch/{name}/health")["drift"] for name in names[:2]]
            exchange.accounts["neither"].coefs.clear()
            ended = await listener.event("bracket_changed", "resolved", account="neither")
            await agreement(exchange, listener, *names)

    # 600000 at rate 0.005, in the bracket from 450000 on, whose amount is 300 × 1.5
    assert [margins[name]["maintenance_margin"] for name in ("printed", "plain")] == ["2550.00000000"] * 2
    assert [drift["cross-usdt"]["maintenance_margin"] for drift in drifts] == [0.0, 0.0]
    assert (fault["severity"], fault["subject"]) == ("warning", "btcusdt")
    assert "notionalCoef 1.7" in fault["facts"]["reason"]
    assert ended["resolution"] == "recovered"
    assert not listener.events("drift")


async def test_a_funding_is_forecast_and_then_told_with_what_had_been_expected(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """What is going to be charged is known before, and afterwards one can see whether it was right."""
    rules = {**RULES, "funding_forecast": {**RULES["funding_forecast"], "within_s": 10}}  # the one after it is far off
    async with stories.exchange() as exchange:
        exchange.auto_funding = True
        due_ms = exchange.now_ms() + 1500
        exchange.set_funding("BTCUSDT", "0.006", next_ms=due_ms)  # 360 USDT, which are 0.6 % of the mark
        async with watching(write_config(tmp_path / "d", exchange, broker.port, rules=rules)):
            coming = await listener.event("funding_forecast", "opened")
            moved = await listener.event("liquidation_price_moved", "noted")
            ended = await listener.event("funding_forecast", "resolved")
            await listener.no_incident()
            await agreement(exchange, listener, "main")

    assert (coming["severity"], coming["subject"], coming["symbol"]) == ("notice", "cross-usdt", "BTCUSDT")
    assert coming["facts"] == {"next_funding_at": rfc3339(due_ms), "payment": "-360.00000000", "asset": "USDT"}
    assert (coming["before"]["liquidation_price"], coming["after"]["liquidation_price"]) == (
        stories.BTC_PRICE,
        "48554.21686747",  # 48360 / 0.996
    )
    [cause] = moved["cause"]
    assert (cause["kind"], cause["amount"], cause["forecast"]) == ("funding_fee", "-360.00000000", "-360.00000000")
    assert moved["after"]["liquidation_price"] == coming["after"]["liquidation_price"]
    assert ended["resolution"] == "recovered"
    assert len(listener.events()) == 3


async def test_a_shorter_funding_interval_is_shown(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Eight fundings where there was one are eight times the cost of holding."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=RULES, links=LINKS)
        async with watching(config):
            await agreement(exchange, listener, "main")
            exchange.spawn(exchange.path("BTCUSDT", [(60, "61000")], every_s=0.1), "market")
            before = await until(lambda: shown(listener, 8), "the interval is shown")
            exchange.set_funding("BTCUSDT", interval_h=1)
            after = await until(lambda: shown(listener, 1), "the new interval is shown")

    assert before is not None
    assert after is not None
    assert before["next_at"] == rfc3339(next_multiple(exchange, 8))
    assert after["next_at"] == rfc3339(next_multiple(exchange, 1))


def next_multiple(exchange: Exchange, hours: int) -> int:
    """When the next funding is, at whole intervals since midnight."""
    return (exchange.now_ms() // (hours * HOUR_MS) + 1) * hours * HOUR_MS


def rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(listener: Listener, hours: int) -> dict[str, Any] | None:
    """What is published of the funding, once its interval is this."""
    funding: dict[str, Any] = listener.retained(POSITION)["funding"]
    return funding if funding["interval_hours"] == hours else None


async def test_the_head_of_the_adl_queue_is_a_notice_and_a_warning_where_the_risk_is_high(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whoever is first in the queue loses a winning position, or a hedge, when the insurance fund is not enough."""
    async with stories.exchange() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=RULES, links=LINKS)
        async with watching(config):
            await agreement(exchange, listener, "main")
            exchange.spawn(exchange.path("BTCUSDT", [(60, "61000")], every_s=0.1), "market")
            exchange.set_adl("main", "BTCUSDT", 3)
            await listener.state(POSITION, adl_quantile=3)
            exchange.set_adl("main", "BTCUSDT", 4)
            opened = await listener.event("adl_quantile", "opened")
            exchange.set_adl_risk("BTCUSDT", "high")
            worsened = await listener.event("adl_quantile", "worsened")
            exchange.set_adl("main", "BTCUSDT", 2)
            resolved = await listener.event("adl_quantile", "resolved")
            await listener.no_incident()

    assert [(e["event"], e["severity"], e["facts"]) for e in listener.events()] == [
        ("opened", "notice", {"quantile": 4, "adl_risk": "low"}),
        ("worsened", "warning", {"quantile": 4, "adl_risk": "high"}),
        ("resolved", "warning", {"quantile": 2, "adl_risk": "high"}),
    ]
    assert opened["incident_id"] == worsened["incident_id"] == resolved["incident_id"]
    assert (opened["symbol"], opened["side"], resolved["resolution"]) == ("BTCUSDT", "long", "recovered")


async def test_a_contract_that_stops_is_told_and_one_that_trades_again_too(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A position that cannot be closed any more, or will be closed soon, is a risk that no ratio shows."""
    async with watched(broker, listener, tmp_path) as exchange:
        await until(lambda: subscribers(exchange, "!contractInfo"), "changes of contracts are heard")
        exchange.set_status("ETHUSDT", "SETTLING")  # not held
        exchange.set_status("BTCUSDT", "TRADING", delivery_ms=exchange.now_ms() + 20 * HOUR_MS)
        day = await listener.event("contract_status", "opened")
        exchange.set_status("BTCUSDT", "TRADING", delivery_ms=exchange.now_ms() + HOUR_MS // 2)
        hour = await listener.event("contract_status", "worsened")
        exchange.set_status("BTCUSDT", "TRADING", delivery_ms=exchange.now_ms() + 1000 * HOUR_MS)
        over = await listener.event("contract_status", "resolved")
        exchange.set_status("SOLUSDT", "PRE_SETTLE")
        halted = await listener.event("contract_status", "opened", subject="solusdt")
        exchange.set_status("SOLUSDT", "TRADING")
        await listener.event("contract_status", "resolved", subject="solusdt")
        await listener.no_incident()

    assert (day["severity"], day["subject"], day["facts"]["status"]) == ("notice", "btcusdt", "TRADING")
    assert (hour["severity"], hour["incident_id"]) == ("warning", day["incident_id"])
    assert "insurance fund" in hour["text"]
    assert (over["resolution"], over["incident_id"]) == ("recovered", day["incident_id"])
    assert (halted["severity"], halted["facts"]["status"]) == ("warning", "PRE_SETTLE")
    assert [(e["subject"], e["event"]) for e in listener.events()] == [
        ("btcusdt", "opened"),
        ("btcusdt", "worsened"),
        ("btcusdt", "resolved"),
        ("solusdt", "opened"),
        ("solusdt", "resolved"),
    ]


async def test_a_margin_call_is_passed_on_once_for_each_position(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """The exchange's own call may come late: it stands beside our figures, and does not take their place."""
    async with watched(broker, listener, tmp_path) as exchange:
        exchange.set_marks({"BTCUSDT": "48240", "SOLUSDT": "120.7"})  # 192.96 / 240, 60.35 / 70
        for subject in ("btcusdt", "solusdt"):
            await listener.event("exchange_margin_call", "noted", subject=subject)
        for subject in ("cross-usdt", "isolated-solusdt"):
            await listener.event("margin_ratio", "opened", subject=subject)
        exchange.set_marks({"BTCUSDT": "60000", "SOLUSDT": "151"})
        await listener.no_incident()
        exchange.set_marks({"BTCUSDT": "48240", "SOLUSDT": "120.7"})  # called again by the exchange, within minutes
        await until(lambda: exchange.counters["event MARGIN_CALL"] == 4, "the exchange calls again")
        await listener.state("marginwatch/main/incident/margin_ratio/cross-usdt", severity="critical")

    calls = {e["subject"]: e for e in listener.events("exchange_margin_call")}
    assert len(listener.events("exchange_margin_call")) == len(calls) == 2
    assert {(e["event"], e["severity"]) for e in calls.values()} == {("noted", "warning")}
    assert "maintenance margin 192.96 USDT, unrealized PnL −11760.00 USDT" in calls["btcusdt"]["text"]
    assert "maintenance margin 60.35 USDT, unrealized PnL −2930.00 USDT" in calls["solusdt"]["text"]
    assert not any("exchange_margin_call" in topic for topic in listener.now)


async def test_a_switch_of_the_position_mode_is_told_by_nothing_and_followed_all_the_same(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """No event says that there are legs from now on: the rows do."""
    async with watched(broker, listener, tmp_path) as exchange:
        exchange.fill("main", "BTCUSDT", "SELL", "1")
        exchange.fill("main", "SOLUSDT", "SELL", "100")
        await until(lambda: not listener.under("main", "position"), "nothing is held")
        exchange.set_position_mode("main", hedge=True)
        exchange.fill("main", "BTCUSDT", "BUY", "1", position_side="LONG")
        exchange.fill("main", "BTCUSDT", "SELL", "0.4", position_side="SHORT")
        await agreement(exchange, listener, "main")
        assert listener.under("main", "position") == {"btcusdt-long", "btcusdt-short"}
        exchange.fill("main", "BTCUSDT", "SELL", "1", position_side="LONG")
        exchange.fill("main", "BTCUSDT", "BUY", "0.4", position_side="SHORT")
        await until(lambda: not listener.under("main", "position"), "nothing is held")
        exchange.set_position_mode("main", hedge=False)
        exchange.fill("main", "BTCUSDT", "SELL", "0.5")
        await agreement(exchange, listener, "main")

    assert not listener.events("drift")
    assert not listener.events("data_stale")
