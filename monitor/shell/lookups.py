"""Names are looked up apart from all else, so that a name server that hangs holds up nobody who needs none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from selectors import BaseSelector
from threading import Thread
from typing import Any

LookUp = Callable[..., list[Any]]


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which each name that is asked for has a thread of its own, however many ask for it.

    Python's own has a few threads for everything. While they all wait for a name server, half a minute at a time, the
    broker beside us could not be connected to, and the process could not end.

    Args:
        look_up: As `socket.getaddrinfo`.
    """

    def __init__(self, selector: BaseSelector | None = None, look_up: LookUp = socket.getaddrinfo) -> None:
        super().__init__(selector)
        self._look_up = look_up
        self._asked: dict[tuple[Any, ...], asyncio.Future[list[Any]]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        question = host, port, family, type, proto, flags
        if question not in self._asked:
            answer = self.create_future()
            try:  # nothing waits for it at the end of the process
                Thread(target=self._ask, args=(question, answer), name="name", daemon=True).start()
            except RuntimeError as exc:  # no thread to be had
                raise socket.gaierror(socket.EAI_AGAIN, str(exc)) from None
            self._asked[question] = answer
        return await asyncio.shield(self._asked[question])  # of several who ask one may give up

    def _ask(self, question: tuple[Any, ...], answer: asyncio.Future[list[Any]]) -> None:
        """In the thread."""
        found: list[Any] | Exception
        try:
            found = self._look_up(*question)
        except Exception as exc:  # whatever it is, whoever asked is told
            found = exc
        with suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(self._is_answered, question, answer, found)

    def _is_answered(
        self, question: tuple[Any, ...], answer: asyncio.Future[list[Any]], found: list[Any] | Exception
    ) -> None:
        del self._asked[question]
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()  # they may all have given up
        else:
            answer.set_result(found)
