"""Hostile input: saved accounts and config files that are damaged, and frames that are merely huge.

Frames, answers, session files and commands are fuzzed in test_frames, test_recording, test_replay and test_steering.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from monitor.errors import ConfigError, DecodeError
from monitor.shell import settings
from monitor.snapshot import assess_snapshot
from monitor.venues import VENUES
from tests.rig import ROOT

SNAPSHOT: dict[str, Any] = {
    "venue": "binance-usdm",
    "accountConfig": {"dualSidePosition": False, "multiAssetsMargin": False},
    "account": {"assets": [{"asset": "USDT", "walletBalance": "100", "crossWalletBalance": "100", "updateTime": 1}]},
    "positionRisk": [
        {
            "symbol": "BTCUSDT",
            "positionSide": "BOTH",
            "positionAmt": "1",
            "entryPrice": "60000",
            "markPrice": "60010",
            "isolatedWallet": "0",
            "marginAsset": "USDT",
            "updateTime": 1764000000000,
        }
    ],
    "symbolConfig": [{"symbol": "BTCUSDT", "marginType": "CROSSED"}],
    "leverageBracket": [
        {
            "symbol": "BTCUSDT",
            "brackets": [{"bracket": 1, "notionalFloor": 0, "notionalCap": 9, "maintMarginRatio": 0.004, "cum": 0}],
        }
    ],
    "premiumIndex": [{"symbol": "BTCUSDT", "markPrice": "60010", "time": 1764000000000}],
}
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    10**40,
    1e308,
    "",
    "NaN",
    "-1e999",
    "0x1",
    "١",
    "9" * 400,
    [],
    [[]],
    {},
    {"a": {}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something could be put instead."""
    rows: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        rows = list(value.items())
    elif isinstance(value, list):
        rows = list(enumerate(value))
    return [path, *(place for key, inner in rows for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def harmless(raw: bytes) -> None:
    """It is read, or refused with a reason."""
    with suppress(DecodeError):
        assess_snapshot(raw)


@bounds(deadline=2_000)
@given(st.sampled_from(places(SNAPSHOT)), st.sampled_from(HOSTILE))
def test_a_mutilated_snapshot_is_read_or_refused(place: tuple[Any, ...], other: Any) -> None:
    """People edit these by hand, and other tools write them."""
    harmless(json.dumps(replaced(SNAPSHOT, place, other)).encode())


@bounds(deadline=2_000)
@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 20))
def test_a_damaged_snapshot_is_read_or_refused(noise: bytes, at: int, length: int) -> None:
    """Half a file, or another file."""
    raw = json.dumps(SNAPSHOT).encode()
    harmless(noise)
    harmless(raw[:at] + noise + raw[at + length :])


def load(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(raw)
        with suppress(ConfigError):
            settings.load(path)


EXAMPLE = (ROOT / "config.example.toml").read_text("utf-8")
KEYS = [n for n, line in enumerate(EXAMPLE.splitlines()) if " = " in line.partition("#")[2] or " = " in line]
VALUES = [
    "-1",
    "1e999",
    "nan",
    "''",
    "[]",
    "{}",
    "true",
    "[{at = nan}]",
    "1979-05-27",
    '"file:"',
    "9" * 5000,
    "\x00",
    "[" * 500,
]


@bounds(deadline=5_000)
@given(st.sampled_from(KEYS), st.sampled_from(VALUES))
def test_any_key_with_any_value_is_taken_or_refused(number: int, value: str) -> None:
    """Whatever a mistake is, it is reported as one, by a line that a person can act on."""
    lines = EXAMPLE.splitlines()
    key = lines[number].removeprefix("#").strip().partition(" = ")[0]
    lines[number] = f"{key} = {value}"
    load("\n".join(lines).encode())


@bounds(deadline=5_000)
@given(st.binary(max_size=200), st.integers(0, len(EXAMPLE)))
def test_a_damaged_config_is_taken_or_refused(noise: bytes, at: int) -> None:
    """A half-written file must not end in a traceback at three in the morning."""
    load(noise)
    load(EXAMPLE[:at].encode() + noise)


# ---- huge ----


def test_a_frame_of_five_megabytes_is_refused_at_once() -> None:
    """One frame must not hold up the marks behind it."""
    frame = b'{"e":"markPriceUpdate","pad":"' + b"x" * 5_000_000 + b'"}'
    begun = time.process_time()
    with pytest.raises(DecodeError) as refused:
        VENUES["binance-usdm"].decode_market(frame, "market", {"BTCUSDT"})

    assert time.process_time() - begun < 0.5
    assert len(f"{refused.value}") < 1_000


MILLION = """
import resource, time
from monitor.venues import VENUES
mark = '{"e":"markPriceUpdate","E":1764000000000,"s":"S%07dUSDT","p":"1.5","i":"1.5","r":"0.0001","T":1764028800000}'
frame = ("[" + ",".join(mark % n for n in range(1_000_000)) + "]").encode()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
found = VENUES["binance-usdm"].decode_market(frame, "market", {"S0999999USDT"})
print(len(found), time.process_time() - begun, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_million_marks_in_one_array_are_read_in_bounded_time_and_memory() -> None:
    """Nobody sends so many; whoever does costs a second and some memory, once, and no crash."""
    limit = 4 * 2**30
    answer = subprocess.run(
        [sys.executable, "-c", MILLION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    found, seconds, megabytes = answer.stdout.split()

    assert found == "1"
    assert float(seconds) < 20
    assert int(megabytes) < 2_000


def test_deeply_nested_input_is_refused() -> None:
    """A parser that recurses must not end the process."""
    deep = b"[" * 200_000 + b"]" * 200_000
    venue = VENUES["binance-usdm"]
    with pytest.raises(DecodeError):
        venue.decode_market(deep, "market", None)
    with pytest.raises(DecodeError):
        venue.decode_private(deep, "main")
    with pytest.raises(DecodeError):
        assess_snapshot(b'{"venue":"binance-usdm","positionRisk":' + deep + b"}")
