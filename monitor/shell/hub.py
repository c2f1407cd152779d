"""The board, and a way to wait for what comes onto it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from monitor.board import Board
from monitor.message import Message


class Hub:
    """Hands what is published to readers in this process; whoever publishes waits for none of them."""

    def __init__(self) -> None:
        self.board = Board()
        self._changed = asyncio.Event()

    def put(self, messages: Sequence[Message]) -> None:
        """Take messages that are being published."""
        if messages:
            self.board.put(messages)
            self._changed.set()
            self._changed = asyncio.Event()

    async def newer(self, revision: int) -> None:
        """Wait until there is something newer than this revision."""
        while self.board.revision == revision:
            await self._changed.wait()
