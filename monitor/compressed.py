"""Payloads that wait for long, in little memory: what is told resembles what has been told.

They stay in memory, where no disk has to answer before an alert can go.
"""

from __future__ import annotations

import zlib

from msgspec import Struct

MANY = 5000
"""Payloads that may wait as they are: no storm is compressed while the broker takes what it brings."""
_ENOUGH = 4096
"""More of what they resemble (bytes) would hardly make them smaller, and takes longer."""


class Compressed(Struct, frozen=True, gc=False):
    """A payload.

    Args:
        like: What it resembles; without it, it cannot be read.
    """

    data: bytes
    like: bytes

    @property
    def whole(self) -> bytes:
        return zlib.decompressobj(zdict=self.like).decompress(self.data)


class Compressor:
    """Compresses payloads that resemble each other, by the first of them."""

    def __init__(self) -> None:
        self._like = b""

    def compressed(self, payload: bytes) -> Compressed:
        like = self._like
        if len(like) < _ENOUGH:
            self._like += payload
        work = zlib.compressobj(zdict=like)
        return Compressed(work.compress(payload) + work.flush(), like)
