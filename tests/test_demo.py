"""The demo as a newcomer runs it: the whole story, told once, and nothing left running."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from tests.schemas import validate

pytest.importorskip("iotcore", reason="the demo needs its extra: pip install 'marginwatch[demo]'")

Line = dict[str, Any]


@cache
def told() -> tuple[Line, ...]:
    """Every message of one run, in order."""
    run = subprocess.run(
        [sys.executable, "-m", "monitor", "demo", "--json", "--seconds", "20"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return tuple(json.loads(line) for line in run.stdout.splitlines())


def events() -> list[Line]:
    return [line["payload"] for line in told() if "/event/" in line["topic"]]


def of(rule: str, kind: str) -> list[Line]:
    return [event for event in events() if event["rule"] == rule and event["event"] == kind]


def test_every_message_keeps_its_schema() -> None:
    """Other programs are written against the schemas; the demo shows what they will get."""
    for line in told():
        payload = line["payload"]
        body = payload if isinstance(payload, str) else "" if payload is None else json.dumps(payload)
        validate(line["topic"], body.encode())


def test_the_ratio_opens_worsens_past_80_and_90_percent_and_recovers() -> None:
    """The main job, as one story."""
    opened, worsened, resolved = (of("margin_ratio", kind) for kind in ("opened", "worsened", "resolved"))

    assert len(opened) == 1
    assert [w["severity"] for w in worsened] == ["warning", "critical"]
    assert 0.8 <= worsened[0]["after"]["margin_ratio"] < 0.9 <= worsened[1]["after"]["margin_ratio"] < 1
    assert [r["resolution"] for r in resolved] == ["recovered"]
    assert len({event["incident_id"] for event in [*opened, *worsened, *resolved]}) == 1


def test_moved_liquidation_prices_are_told_with_their_causes() -> None:
    """Margin added and funding paid are what moves a price without the market's doing."""
    causes = [[cause["kind"] for cause in event["cause"]] for event in of("liquidation_price_moved", "noted")]

    assert ["margin_transfer"] in [kinds[:1] for kinds in causes]
    assert ["funding_fee"] in [kinds[:1] for kinds in causes]


def test_a_silent_feed_is_told_and_its_return_too() -> None:
    """Silence is never "all fine"."""
    assert len(of("data_stale", "opened")) == 1
    assert [r["resolution"] for r in of("data_stale", "resolved")] == ["recovered"]


def test_each_event_is_told_once() -> None:
    """A repeated alert is one of the worst things this code can do."""
    ids = [event["event_id"] for event in events()]

    assert len(ids) == len(set(ids))


def test_events_are_never_retained_and_states_always() -> None:
    """A retained event would wake somebody days later; an unretained state leaves a dashboard empty."""
    assert all(line["retain"] is ("/event/" not in line["topic"]) for line in told())


def test_the_retained_topics_hold_the_last_state() -> None:
    """What a dashboard shows after the story: positions as they are, no incident, and a daemon that has stopped."""
    last = {line["topic"]: line["payload"] for line in told() if line["retain"]}

    assert told()[-1]["payload"] == last["marginwatch/status"] == "offline"
    assert last["marginwatch/main/position/0gusdt"]["mark_price"] == "1.95000000"
    assert last["marginwatch/main/pool/isolated-0gusdt"]["severity"] == "ok"
    assert all(payload is None for topic, payload in last.items() if "/incident/" in topic)
