"""The demo as a newcomer runs it: every story, told once, and nothing left running."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from monitor.__main__ import main
from monitor.commands.demo_scenarios import STORIES
from tests.schemas import validate

pytest.importorskip("iotcore", reason="the demo needs its extra: pip install '.[demo]'")

Line = dict[str, Any]
D = Decimal

EVERY = pytest.mark.parametrize("scenario", STORIES)


def run(scenario: str) -> tuple[Line, ...]:
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "demo", "--json", "--seconds", "20", "--scenario", scenario],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return tuple(json.loads(line) for line in done.stdout.splitlines())


@cache
def runs() -> dict[str, Any]:
    """One run of each scenario, all of them beside each other."""
    pool = ThreadPoolExecutor(len(STORIES))
    return {scenario: pool.submit(run, scenario) for scenario in STORIES}


def told(scenario: str) -> tuple[Line, ...]:
    """Every message of one run, in order."""
    lines: tuple[Line, ...] = runs()[scenario].result()
    return lines


def events(scenario: str) -> list[Line]:
    return [line["payload"] for line in told(scenario) if "/event/" in line["topic"]]


def is_told(topic: str) -> bool:
    return "/event/" in topic or "/notice/" in topic


def of(scenario: str, rule: str, kind: str, subject: str | None = None) -> list[Line]:
    return [
        event
        for event in events(scenario)
        if (event["rule"], event["event"]) == (rule, kind) and subject in (None, event["subject"])
    ]


def the(scenario: str, rule: str, kind: str, subject: str | None = None) -> Line:
    """The one event of this kind."""
    [event] = of(scenario, rule, kind, subject)
    return event


def moved_by(scenario: str, cause: str) -> list[Line]:
    """Notices of moved liquidation prices whose first cause is this."""
    return [e for e in of(scenario, "liquidation_price_moved", "noted") if e["cause"][0]["kind"] == cause]


def place(scenario: str, event: Line) -> int:
    return events(scenario).index(event)


# ---- every story ----


@EVERY
def test_every_message_keeps_its_schema(scenario: str) -> None:
    """Other programs are written against the schemas; the demo shows what they will get."""
    for line in told(scenario):
        payload = line["payload"]
        body = payload if isinstance(payload, str) else "" if payload is None else json.dumps(payload)
        validate(line["topic"], body.encode())


@EVERY
def test_each_event_is_told_once(scenario: str) -> None:
    """A repeated alert is one of the worst things this code can do."""
    ids = [event["event_id"] for event in events(scenario)]

    assert ids
    assert len(ids) == len(set(ids))


@EVERY
def test_each_event_has_its_notice(scenario: str) -> None:
    """Whoever tries a bridge for the phone against the demo sees what it will have to pass on."""
    notices = [line["payload"]["event_id"] for line in told(scenario) if line["topic"].split("/")[2:3] == ["notice"]]

    assert sorted(notices) == sorted(event["event_id"] for event in events(scenario))


@EVERY
def test_events_are_never_retained_and_states_always(scenario: str) -> None:
    """A retained event would wake somebody days later; an unretained state leaves a dashboard empty."""
    assert all(line["retain"] is not is_told(line["topic"]) for line in told(scenario))


@EVERY
def test_the_last_word_is_offline(scenario: str) -> None:
    """Whoever looks at the broker after the story sees that nobody watches any more."""
    last = told(scenario)[-1]

    assert (last["topic"], last["payload"]) == ("marginwatch/status", "offline")


@EVERY
def test_nothing_is_told_that_nobody_did(scenario: str) -> None:
    """A story of faults that are not in it would teach the wrong thing."""
    causes = {c["kind"] for event in of(scenario, "liquidation_price_moved", "noted") for c in event["cause"]}

    assert "unexplained" not in causes
    assert not [event for event in events(scenario) if event["rule"] == "drift"]
    assert scenario == "crash" or not [event for event in events(scenario) if event["rule"] == "data_stale"]


def test_the_help_says_what_each_scenario_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """A story that nobody can find is not told."""
    with pytest.raises(SystemExit):
        main(["demo", "--help"])

    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.partition("scenarios:")[2].splitlines()]
    assert {words[0] for words in said if len(words) == 2} == set(STORIES)


# ---- crash ----


def test_the_ratio_opens_worsens_past_80_and_90_percent_and_recovers() -> None:
    """The main job, as one story."""
    opened, worsened, resolved = (of("crash", "margin_ratio", kind) for kind in ("opened", "worsened", "resolved"))

    assert len(opened) == 1
    assert [w["severity"] for w in worsened] == ["warning", "critical"]
    assert 0.8 <= worsened[0]["after"]["margin_ratio"] < 0.9 <= worsened[1]["after"]["margin_ratio"] < 1
    assert [r["resolution"] for r in resolved] == ["recovered"]
    assert len({event["incident_id"] for event in [*opened, *worsened, *resolved]}) == 1


def test_moved_liquidation_prices_are_told_with_their_causes() -> None:
    """Margin added and funding paid are what moves a price without the market's doing."""
    assert moved_by("crash", "margin_transfer")
    assert moved_by("crash", "funding_fee")


def test_a_silent_feed_is_told_and_its_return_too() -> None:
    """Silence is never "all fine"."""
    silent = the("crash", "data_stale", "opened", "market-binance-usdm-custom")
    again = the("crash", "data_stale", "resolved", "market-binance-usdm-custom")

    assert silent["severity"] == "warning"
    assert (again["incident_id"], again["resolution"]) == (silent["incident_id"], "recovered")


def test_the_retained_topics_hold_the_last_state() -> None:
    """What a dashboard shows after the story: positions as they are, no incident, and a daemon that has stopped."""
    last = {line["topic"]: line["payload"] for line in told("crash") if line["retain"]}

    assert last["marginwatch/status"] == "offline"
    assert last["marginwatch/main/position/0gusdt"]["mark_price"] == "1.95000000"
    assert last["marginwatch/main/pool/isolated-0gusdt"]["severity"] == "ok"
    assert all(payload is None for topic, payload in last.items() if "/incident/" in topic)


# ---- funding ----


def test_funding_is_forecast_then_charged_as_forecast() -> None:
    """120000 0G at 1.6 pay 0.5 %: whoever hears of it before can still act."""
    coming = the("funding", "funding_forecast", "opened")
    [charged] = moved_by("funding", "funding_fee")
    [paid] = charged["cause"]

    assert coming["severity"] == "warning"
    assert place("funding", coming) < place("funding", charged)
    assert (paid["symbol"], D(paid["amount"]), D(paid["forecast"])) == ("0GUSDT", D(-960), D(-960))
    crossed = the("funding", "margin_ratio", "worsened")
    assert crossed["after"]["margin_ratio"] == pytest.approx(17050 / (45860 - 24000 - 960), abs=1e-7)


def test_the_payments_of_one_instant_are_one_notice() -> None:
    """The short in the other pool is paid at the same moment; that is no story of its own."""
    [charged] = moved_by("funding", "funding_fee")

    assert [also["symbol"] for also in charged["also"]] == ["BTCUSDT"]


def test_a_changed_funding_interval_is_seen() -> None:
    """The same rate is twice as dear when it is charged twice as often."""
    seen = [
        line["payload"]["funding"]["interval_hours"]
        for line in told("funding")
        if line["topic"] == "marginwatch/main/position/0gusdt" and line["payload"]
    ]

    assert [hours for hours in dict.fromkeys(seen) if hours] == [8, 4]


# ---- hedge ----


def test_a_hedged_pair_has_a_price_on_each_side() -> None:
    """One price alone would hide that the other way is dangerous too."""
    pair = [
        line["payload"]["liquidation"]
        for line in told("hedge")
        if line["topic"] == "marginwatch/main/position/0gusdt-long" and line["payload"] and line["payload"]["distance"]
    ]

    assert D(pair[0]["below"]) < D("1.8") < D(pair[0]["above"])


def test_deleveraging_breaks_the_hedge_and_brings_liquidation_near() -> None:
    """The leg that is left has lost what stood against it, though the margin ratio is better than before."""
    taken = the("hedge", "forced_order", "resolved", "0gusdt-long")
    broken = the("hedge", "hedge_broken", "noted", "0gusdt")
    near = the("hedge", "liquidation_distance", "opened", "cross-usdt")
    ended = the("hedge", "liquidation_distance", "resolved", "cross-usdt")

    assert taken["resolution"] == "adl"
    assert broken["severity"] == "critical"
    assert near["side"] == "short"
    assert ended["resolution"] == "position_closed"


def test_the_place_in_the_queue_is_told_before() -> None:
    """Auto-deleveraging announces itself to those who look."""
    first = of("hedge", "adl_quantile", "opened")

    assert {event["severity"] for event in first} == {"warning"}
    assert place("hedge", first[0]) < place("hedge", the("hedge", "forced_order", "opened"))


# ---- coinm ----


def test_each_coin_is_a_pool_of_its_own() -> None:
    """What is in BTC does not help what is in SOL, and is not endangered by it."""
    assets = {line["payload"]["pool"]: line["payload"]["asset"] for line in told("coinm") if "/pool/" in line["topic"]}
    levels = [event for event in events("coinm") if event["rule"] in ("margin_ratio", "liquidation_distance")]

    assert assets == {"cross-btc": "BTC", "cross-sol": "SOL"}
    assert {event["subject"] for event in levels} == {"cross-sol"}


def test_an_inverse_contract_is_told_in_coins() -> None:
    """Its margin is in the coin that falls, and so is what would help."""
    worst = of("coinm", "margin_ratio", "worsened")[-1]
    [deposited] = moved_by("coinm", "transfer")
    [paid] = moved_by("coinm", "funding_fee")[0]["cause"]

    assert worst["severity"] == "critical"
    assert {advice.get("asset", "SOL") for advice in worst["advice"]} == {"SOL"}
    assert (deposited["cause"][0]["amount"], deposited["cause"][0]["asset"]) == ("100.00000000", "SOL")
    assert D(paid["amount"]) == pytest.approx(D(-300000) / D("130.8") * D("0.0005"), abs=D("0.00000001"))
    assert the("coinm", "margin_ratio", "resolved")["resolution"] == "recovered"


# ---- multi-assets ----


def test_falling_collateral_is_told_though_nothing_happens_to_the_account() -> None:
    """Neither the account nor a mark says a word: only the index of bitcoin falls."""
    worst = of("multi-assets", "margin_ratio", "worsened")[-1]

    assert (worst["subject"], worst["severity"]) == ("multi-assets", "critical")
    assert worst["after"]["margin_ratio"] >= 0.8
    assert moved_by("multi-assets", "collateral_price")


def test_auto_exchange_repays_the_debt_that_it_was_warned_of() -> None:
    """The exchange sells collateral at a price that nobody was asked for."""
    warned, repaid = (the("multi-assets", "auto_exchange", kind, "usdt") for kind in ("opened", "resolved"))
    [sold] = [
        {cause["asset"]: D(cause["amount"]) for cause in event["cause"] if cause["kind"] == "auto_exchange"}
        for event in of("multi-assets", "liquidation_price_moved", "noted")
        if any(cause["kind"] == "auto_exchange" for cause in event["cause"])
    ]

    assert (warned["severity"], repaid["resolution"]) == ("warning", "recovered")
    assert sold["USDT"] == 10500
    # 10500 USDT at the ask of auto-exchange, 1.0001, for bitcoin at its bid, 2.5 % below 60000
    assert sold["BTC"] == pytest.approx(-D(10500) * D("1.0001") / (60000 * D("0.975")), abs=D("0.00000001"))


def test_a_mode_that_is_switched_off_hands_its_incident_on() -> None:
    """It has not recovered: the same positions are in other pools now."""
    handed = [r for r in of("multi-assets", "margin_ratio", "resolved") if r["resolution"] == "pool_replaced"]
    taken = the("multi-assets", "margin_ratio", "opened", "cross-usdt")

    assert [event["subject"] for event in handed] == ["multi-assets"]
    assert taken["continues"] == handed[0]["incident_id"]


# ---- liquidation ----


def test_a_liquidation_is_told_step_by_step() -> None:
    """Called for margin, reduced, recovered, and at last closed."""
    called = the("liquidation", "exchange_margin_call", "noted")
    opened, resolved = (of("liquidation", "forced_order", kind, "btcusdt-long") for kind in ("opened", "resolved"))
    better = the("liquidation", "margin_ratio", "resolved")

    assert [event["resolution"] for event in resolved] == ["partly_liquidated", "liquidated"]
    assert better["resolution"] == "partly_liquidated"
    told_so = [called, opened[0], resolved[0], better, opened[1], resolved[1]]
    assert [place("liquidation", event) for event in told_so] == sorted(place("liquidation", e) for e in told_so)


def test_a_liquidation_is_reported_with_what_it_cost() -> None:
    """What was closed, at which price, the fee, and what the exchange did to the orders."""
    first, last = (r["report"] for r in of("liquidation", "forced_order", "resolved", "btcusdt-long"))

    assert first["orders_cancelled"] == 2
    assert D(first["clearance_fee"]) > 0
    assert D(first["quantity"]) + D(last["quantity"]) == 400
    assert D(last["average_price"]) < D(last["bankruptcy_price"])
    assert D(last["clearance_fee"]) < 0


def test_the_winners_of_a_bankruptcy_are_deleveraged() -> None:
    """The hedged pair had nothing to do with it, and loses a leg all the same."""
    assert the("liquidation", "forced_order", "resolved", "btcusdc-short")["resolution"] == "adl"
    assert the("liquidation", "hedge_broken", "noted")["symbol"] == "BTCUSDC"
