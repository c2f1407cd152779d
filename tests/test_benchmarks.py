"""The benchmark runs, and both of its variants come to the same decisions. How fast they are is no test's business."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scene
from benchmarks.ours import Watch
from benchmarks.usual import Script
from monitor.venues import VENUES

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def quick() -> Any:
    """What `python -m benchmarks --quick --json` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_case_has_its_ratio_and_says_where_it_was_measured(quick: Any) -> None:
    """A figure without its machine, its versions and its counterpart says nothing."""
    assert quick["machine"]["cpu"]
    assert quick["versions"].keys() >= {"python", "msgspec", "websockets", "python-binance"}
    shapes = [(case["accounts"], case["positions"], case["shape"]) for case in quick["cases"]]
    assert shapes == [(1, 5, "symbol"), (1, 5, "array"), (100, 20, "symbol"), (100, 20, "array")]
    for case in quick["cases"]:
        assert case["ratio"]["decision_us"] > 0
        for variant in ("ours", "baseline"):
            spread = case[variant]["decision_us"]
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_both_variants_decide_alike(quick: Any) -> None:
    """A ratio of two times is worth nothing where the faster one has seen less."""
    assert all(case["agree"] for case in quick["cases"])
    assert all(case["crossings"] > 0 for case in quick["cases"])


@pytest.mark.parametrize("shape", ["symbol", "array"])
def test_each_frame_crosses_the_same_levels_in_both(shape: scene.Shape) -> None:
    """Frame by frame in one process, so that a difference shows where it begins."""
    given = scene.make(12, 4)
    watch, script = Watch(given), Script(given)
    venue = VENUES["binance-usdm"]
    stream = scene.frames(given, shape)

    for _ in range(300):
        frame = next(stream)
        watch.step(venue.decode_market(frame, "binance-usdm", frozenset(given.held)))
        script.on_message(json.loads(frame))
        assert watch.crossings == script.crossings

    assert not watch.faults
    assert [crossing for crossing in script.crossings if crossing[0] > 0]  # not only those that were there at first


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
