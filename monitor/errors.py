"""Every exception of the project: who raises it, who catches it, what happens then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


class MarginwatchError(Exception):
    """Base of all errors that a person can do something about."""


class ConfigError(MarginwatchError):
    """The config cannot be used. Raised by `config.py` with every mistake at once; the command exits with 78.

    Args:
        problems: One line each: file, key, what is wrong, what would be right.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DecodeError(MarginwatchError):
    """Bytes of the exchange that do not read. Raised by venues; the feed drops that frame, counts and logs it."""


Fault = Literal["answer", "proxy", "dns", "tls", "refused", "timeout", "connection"]
"""Why there was no good answer; `answer`: there was one, and it was an error. Of `proxy` too the text says it all."""


class ExchangeError(MarginwatchError):
    """A REST request that failed. Raised by `shell/rest.py` without URL, signature or key; the feed backs off.

    Args:
        message: What happened, fit for a log.
        status: HTTP status, None where there was no answer.
        code: Binance's own error code, None where the body had none (an HTML page, say).
        retry_after_s: How long the exchange asks us to stay away, None where it says nothing.
        fault: Where it failed.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        retry_after_s: float | None = None,
        fault: Fault = "answer",
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class ProxyError(MarginwatchError):
    """A proxy that cannot be taken. Raised by `shell/proxies.py` without its address; who would connect says so."""


class LinkDown(MarginwatchError):
    """A websocket that ended or never proved itself. Raised by feeds, caught by `shell/feed.py`, which reconnects."""


class LinkCut(LinkDown):
    """A websocket of several accounts that ended under all of them; it says nothing against how one's was opened."""


class LinkUnwanted(LinkCut):
    """A websocket that is not to be opened for a while, by nobody; the feed tries no sooner.

    Args:
        retry_after_s: For how long the exchange asks us to stay away.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LinkMute(LinkDown):
    """A websocket that is open and does not tell what it should have told."""


class CommandError(MarginwatchError):
    """A command over MQTT that is none, or misreads. Raised by `steering.py`; the daemon logs it and goes on."""


class WhatIfError(MarginwatchError):
    """A what-if option that cannot be meant. Raised by `whatif.py` with its remedy; the command exits with 2."""


class BrokerAway(MarginwatchError):
    """The broker was not reached by somebody who only looks on. Raised by `shell/onlooker.py`; the command says so."""


class StoreError(MarginwatchError):
    """The store cannot be opened or written. Raised in `shell/database.py` and below it, with the remedy.

    The thread of `shell/store.py` catches it: the daemon says so, goes on from memory, and tries again. `history` ends
    with 1.
    """


class StoreNewer(StoreError):
    """The store was made by a later version. It is left untouched, and not tried again: it will not become older."""


def innermost(exc: BaseException) -> BaseException:
    """The first exception that is no group: what made a task group end."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
