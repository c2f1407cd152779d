"""Whoever wants to hear what the links hear: a recording, say."""

from __future__ import annotations

from typing import Literal, Protocol

Source = Literal["market", "private", "rest", "link"]


class Tap(Protocol):
    """Told of everything that the core's events are made of, as it comes."""

    def heard(
        self,
        account: str | None,
        venue: str,
        source: Source,
        raw: bytes,
        *,
        market: str = "",
        request: str | None = None,
        sent_ms: int | None = None,
    ) -> None:
        """Take one frame or answer. Called in the middle of the feed's work: it must neither wait nor raise.

        Args:
            account: Whose it is; None: it is public, or a market link's.
            raw: The bytes as they came, without any listen key. For `link` JSON: `link`, `state`, `note`, `reconnects`.
            market: The market link it came by, or that the account uses.
            request: For `rest`, what was asked, such as `GET /fapi/v3/account`.
            sent_ms: For `rest`, when it was asked, as the answer is judged by it: exchange time for an account, our
                wall clock for a market and for the exchange's time.
        """
        ...
