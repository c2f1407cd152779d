"""Price and funding files as steps of a market.

A price file is CSV with a header: `t_ms`, `open`, `high`, `low`, `close`, others ignored;
a funding file has `t_ms`, `fundingRate`. Each row of prices gives four marks: open, then
the extremes in the order that fits the row's direction, then close.
"""

import csv
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from pathlib import Path

from monitor.sim.decimals import number


@dataclass(frozen=True)
class Step:
    """What happens at one instant of the files: marks move, and then funding is settled."""

    at_ms: int
    marks: dict[str, Decimal] = field(default_factory=dict)
    funding: dict[str, Decimal] = field(default_factory=dict)


def read_marks(path: str | Path) -> list[tuple[int, Decimal]]:
    """(t_ms, mark), four to a row, a quarter of the row's time apart."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [int(row["t_ms"]) for row in rows]
    width = times[1] - times[0] if len(times) > 1 else 60_000
    marks: list[tuple[int, Decimal]] = []
    for row, at_ms in zip(rows, times, strict=True):
        opened, high, low, closed = (number(row[column]) for column in ("open", "high", "low", "close"))
        middle = (high, low) if closed < opened else (low, high)
        prices = (opened, *middle, closed)
        marks += [(at_ms + width * quarter // 4, price) for quarter, price in enumerate(prices)]
    return marks


def read_funding(path: str | Path) -> list[tuple[int, Decimal]]:
    """(t_ms, rate)."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [(int(row["t_ms"]), number(row["fundingRate"])) for row in csv.DictReader(file)]


def steps(files: Mapping[str, str | Path], funding: Mapping[str, str | Path] | None = None) -> Iterator[Step]:
    """All files merged in order of their time; one step for each time that occurs.

    Funding before the first mark or after the last is left out: there was no market to settle it in.
    """
    marks = [sorted((at, 0, symbol, price) for at, price in read_marks(path)) for symbol, path in files.items()]
    begin = min((rows[0][0] for rows in marks if rows), default=0)
    end = max((rows[-1][0] for rows in marks if rows), default=0)
    rates = [
        sorted((at, 1, symbol, rate) for at, rate in read_funding(path) if begin <= at <= end)
        for symbol, path in (funding or {}).items()
    ]
    for at_ms, group in groupby(heapq.merge(*marks, *rates), key=lambda entry: entry[0]):
        entries = list(group)
        yield Step(
            at_ms,
            {symbol: value for _, kind, symbol, value in entries if kind == 0},
            {symbol: value for _, kind, symbol, value in entries if kind == 1},
        )
