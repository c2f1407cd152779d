"""Many rows in one statement: whoever writes them waits once for his turn among the threads, not once per row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

Row = tuple[object, ...]
T = TypeVar("T")

_SIZES = (64, 32, 16, 8, 4, 2, 1)
"""Few sizes, so that the statements stay prepared, and few statements for any number of rows; 64 of 11 values are fewer
than any SQLite takes."""


def execute(connection: sqlite3.Connection, statement: str, rows: Iterable[Row]) -> None:
    """Execute a statement for all these rows, which take the place of `{rows}` in it."""
    for some in slices(rows):
        connection.execute(statement.format(rows=places(some)), list(chain.from_iterable(some)))


def slices(rows: Iterable[T]) -> Iterator[list[T]]:
    """All of them in order, as many at a time as one statement takes."""
    waiting = iter(rows)
    while some := list(islice(waiting, _SIZES[0])):
        while some:
            size = next(size for size in _SIZES if size <= len(some))
            yield some[:size]
            some = some[size:]


def places(rows: Sequence[Row]) -> str:
    """`(?, ?), (?, ?)`: a place for each value."""
    one = f"({', '.join('?' * len(rows[0]))})"
    return ", ".join([one] * len(rows))
