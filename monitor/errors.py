"""Every exception of the project: who raises it, who catches it, what happens then."""

from __future__ import annotations

from collections.abc import Sequence


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


class ExchangeError(MarginwatchError):
    """A REST request that failed. Raised by `shell/rest.py` without URL, signature or key; the feed backs off.

    Args:
        message: What happened, fit for a log.
        status: HTTP status, None where there was no answer.
        code: Binance's own error code, None where the body had none (an HTML page, say).
        retry_after_s: How long the exchange asks us to stay away, None where it says nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class LinkDown(MarginwatchError):
    """A websocket that ended, or never proved itself. Raised and caught in `shell/feed.py`, which connects anew."""


class StoreError(MarginwatchError):
    """The store cannot be opened or written. The daemon says so, and goes on from memory."""


def innermost(exc: BaseException) -> BaseException:
    """The first exception that is no group: what made a task group end."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
