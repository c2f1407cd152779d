"""Names are looked up apart from all else, so that a name server that hangs holds up nobody who needs none."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from selectors import BaseSelector
from threading import Thread
from typing import Any

LookUp = Callable[..., list[Any]]


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which whatever has to wait in a thread has one of its own, and each name that is asked for one,
    however many ask for it.

    Python's own has a few threads for everything. While they all wait for a name server, half a minute at a time, the
    broker beside us could not be connected to; and while any of them does, such as that in which the broker's own name
    is looked up, the process could not end.

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
            answer = self._asked[question] = self.run_in_executor(None, self._look_up, *question)
            answer.add_done_callback(lambda _: self._asked.pop(question))
        return await asyncio.shield(self._asked[question])  # of several who ask one may give up

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        answer = self.create_future()
        try:  # nothing waits for it at the end of the process
            Thread(target=self._work, args=(answer, func, *args), name="apart", daemon=True).start()
        except RuntimeError as exc:  # no thread to be had
            raise OSError(errno.EAGAIN, str(exc)) from None
        return answer

    def _work(self, answer: asyncio.Future[Any], func: Callable[..., Any], *args: Any) -> None:
        """In the thread."""
        result, error = None, None
        try:
            result = func(*args)
        except Exception as exc:  # whatever it is, whoever asked is told
            error = exc
        with suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(_done, answer, result, error)


def _done(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.cancelled():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
        answer.exception()  # they may all have given up
