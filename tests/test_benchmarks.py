"""The benchmarks run, and all variants come to the same decisions. How fast they are is no test's business."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import decisions, gates, plot, scene
from benchmarks.limit import Kernel
from benchmarks.ours import Watch
from benchmarks.usual import Script
from monitor.venues import VENUES
from tests.conftest import needs_mosquitto

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `python -m benchmarks --quick --only decisions` writes."""
    path = tmp_path_factory.mktemp("benchmarks") / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "decisions", "--json", str(path)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text("utf-8"))


def test_every_case_has_its_ratios_and_says_where_it_was_measured(quick: Any) -> None:
    """A figure without its machine, its versions and its counterpart says nothing."""
    assert quick["machine"]["cpu"]
    assert quick["versions"].keys() >= {"python", "msgspec", "websockets", "python-binance"}
    cases = quick["decisions"]
    assert [(case["accounts"], case["shape"]) for case in cases] == [(1, "symbol"), (1, "array"), (100, "array")]
    for case in cases:
        assert case["variants"].keys() >= {"bare", "ours", "usual"}
        assert case["crossings"] > 0
        for variant, found in case["variants"].items():
            assert case["times_ours"][variant]["wall_us"] > 0
            for figures in found.values():
                assert 0 < figures["p50"] <= figures["p99"]
                assert len(figures["rounds"]) == case["rounds"]


@pytest.mark.parametrize("shape", ["symbol", "array"])
def test_each_frame_crosses_the_same_levels_in_all(shape: scene.Shape) -> None:
    """Frame by frame in one process, so that a difference shows where it begins."""
    given = scene.make(12, 4, near=0.3)
    watch, script = Watch(given), Script(given)
    kernel = Kernel(given) if "CI" in os.environ or not decisions.variants()["limit"] else None
    stream = scene.frames(given, shape)

    for _ in range(300):
        frame = next(stream)
        watch.note(watch.step(VENUES["binance-usdm"].decode_market(frame, "binance-usdm", frozenset(given.held))))
        script.on_message(json.loads(frame))
        if kernel is not None:
            kernel.scan(frame)
            kernel.note(kernel.recompute())
            assert kernel.crossings == script.crossings

    reports = {"usual": {"crossings": script.crossings}, "ours": watch.report()}
    assert [crossing for crossing in decisions.agreed(reports) if crossing[0] > 0]  # not only those of the beginning


def test_a_difference_is_found() -> None:
    """A ratio of two times is worth nothing where the faster one has seen less."""
    crossings = [(1, "a", 2), (4, "a", 3)]
    told = [(1, "a", 2), (4, "a", 3)]
    assert decisions.agreed({"usual": {"crossings": crossings}, "ours": {"severities": told}}) == crossings
    for wrong in (told[:1], [(1, "a", 2), (5, "a", 3)], [*told, (6, "b", 4)]):
        with pytest.raises(decisions.Disagreement, match="incident"):
            decisions.agreed({"usual": {"crossings": crossings}, "ours": {"severities": wrong}})
    scripts = {"usual": {"crossings": crossings}, "limit": {"crossings": crossings[:1]}}
    with pytest.raises(decisions.Disagreement, match="differ 1 times"):
        decisions.agreed({**scripts, "ours": {"severities": told}})


def test_a_broker_that_is_away_is_measured_with_all_its_events_waiting() -> None:
    """The figure would say nothing if what waits had been dropped, or delivered, on the way."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.away", "--quick"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"ratio ([0-9.]+); still waiting ([0-9,]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) > 0
    assert int(found[2].replace(",", "")) >= 10_000


def test_a_ratio_that_is_worse_than_it_may_be_is_named() -> None:
    """CI goes by this alone."""
    case = {"accounts": 1, "shape": "array", "times_ours": {"usual": {"cpu_us": 1.1}, "ccxtpro": {"cpu_us": 9.0}}}
    [line] = gates.missed({"decisions": [case]})
    assert line == "CPU of usual ÷ ours, one account, array is 1.1, not at least 1.2"
    assert gates.missed({"decisions": [{**case, "accounts": 100}]}) == []


def test_what_is_drawn_is_a_picture_with_every_line() -> None:
    panel = {"title": "accounts & more", "at": [1, 10], "cpu_us": {"ours": [5.0, 70.0], "theirs": [9.0, 9_000.0]}}
    root = ElementTree.fromstring(plot.svg({"a": panel, "b": panel, "c": panel}))
    name = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{name}polyline")) == 6
    texts = [text.text for text in root.iter(f"{name}text")]
    assert texts.count("accounts & more") == texts.count("theirs") == 3
    assert {"1 µs", "10 ms", "10"} <= set(texts)


def test_of_many_accounts_that_fall_every_event_comes_once(tmp_path: Path) -> None:
    """The figures for two thousand would say nothing if some had not been told, or told twice."""
    needs_mosquitto()
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "many", "--json", str(path)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text("utf-8"))["many"]

    assert found["start"]["private_connections"] == found["accounts"]
    assert found["steady"]["events"] == 0
    for fall in found["falls"]:
        assert (fall["lost"], fall["doubled"], fall["others"]) == (0, 0, ["_instance"])
        assert 0 < fall["first_s"] <= fall["last_s"]
    first, second = (fall["by_rule"] for fall in found["falls"])
    assert first == {"liquidation_distance opened warning": 5, "group noted warning": 1}
    assert second["liquidation_distance worsened critical"] == second["margin_ratio opened notice"] == 5
