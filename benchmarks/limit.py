"""The limit: the same socket, and for all that follows one C kernel that is compiled on the spot."""

from __future__ import annotations

import asyncio
import ctypes
import math
import subprocess
import tempfile
from array import array
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from benchmarks import scene, worker

_SOURCE = Path(__file__).with_name("kernel.c")


@cache
def _library() -> ctypes.CDLL:
    """The kernel, compiled for this very machine."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernel.so"
        flags = ("-O3", "-march=native", "-shared", "-fPIC")
        subprocess.run(["cc", *flags, "-o", str(built), str(_SOURCE)], check=True)
        return ctypes.CDLL(str(built))


class Kernel:
    """All accounts in columns of doubles."""

    def __init__(self, given: scene.Scene) -> None:
        self._library = _library()
        self._names = [account.name for account in given.accounts]
        holdings = [holding for account in given.accounts for holding in account.holdings]
        ids = {symbol: i for i, symbol in enumerate(scene.SYMBOLS)}
        sizes = (len(account.holdings) for account in given.accounts)
        self._names_blob = "".join(f"{symbol}\0" for symbol in scene.SYMBOLS).encode()
        self.marks = _doubles(given.prices[symbol] for symbol in scene.SYMBOLS)
        self._level = _ints([0] * len(given.accounts))
        self._changed = _ints([0] * len(given.accounts))
        columns = (
            _ints(accumulate(sizes, initial=0)),
            _ints(ids[holding.symbol] for holding in holdings),
            _doubles(holding.quantity for holding in holdings),
            _doubles(holding.entry_price for holding in holdings),
            _doubles(account.wallet_balance for account in given.accounts),
            _doubles([*(tier.floor for tier in given.tiers), math.inf]),
            _doubles(tier.rate for tier in given.tiers),
            _doubles(tier.amount for tier in given.tiers),
            _doubles(scene.LEVELS),
            self.marks,
            _ints([0] * len(holdings)),
            self._level,
        )
        self._columns = columns  # kept: the kernel has their addresses alone
        self._book = ctypes.create_string_buffer(
            array("i", [len(given.accounts), len(given.tiers)]).tobytes()
            + array("q", [_address(self._names_blob), *(column.buffer_info()[0] for column in columns)]).tobytes()
        )
        self._library.learn_names(self._book, len(scene.SYMBOLS))
        self.frames = 0
        self.crossings: list[tuple[int, str, int]] = []
        self.note(self.recompute())

    def scan(self, frame: bytes) -> None:
        """Take the marks of a frame."""
        self._library.scan(self._book, frame, ctypes.c_int64(len(frame)))

    def recompute(self) -> int:
        """Compute every account. Returns how many have crossed a level."""
        return int(self._library.recompute(self._book, ctypes.c_void_p(self._changed.buffer_info()[0])))

    def note(self, crossed: int) -> None:
        """Write down the accounts that have just crossed a level."""
        self.crossings += [(self.frames, self._names[i], self._level[i]) for i in self._changed[:crossed]]
        self.frames += 1


def _address(text: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0


def _doubles(values: Iterable[Any]) -> array[float]:
    return array("d", map(float, values))


def _ints(values: Iterable[int]) -> array[int]:
    return array("i", values)


async def run(url: str, given: scene.Scene) -> None:
    desk = worker.Desk()
    kernel = Kernel(given)
    async with connect(url, compression=None, max_size=None) as socket, asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.serve({"report": lambda: {"crossings": kernel.crossings}}))
        while True:
            kernel.scan(await socket.recv(decode=False))
            crossed = kernel.recompute()
            desk.decided()
            kernel.note(crossed)
            desk.answer()
