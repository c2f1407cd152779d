"""What a venue is, and the table of them.

A venue is pure: it says which requests to make and which streams to open, and turns what comes back into events.
Talking is `shell/feed.py`'s business, alike for all. To add one, write its file beside `binance_usdm.py` and name it
in `VENUES`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from monitor.events import Event, StreamControl
from monitor.venues.binance_coinm import BinanceCoinm
from monitor.venues.binance_usdm import BinanceUsdm
from monitor.venues.wire import Hosts, PrivateForm, Reply, Request, Requests

__all__ = ["VENUES", "Hosts", "PrivateForm", "Reply", "Request", "Requests", "Venue", "hosts"]


class Venue(Protocol):
    """One exchange's market: its addresses, its requests, its wire format."""

    name: str
    inverse: bool
    """Whether its contracts are settled in the base asset."""
    private_forms: tuple[PrivateForm, ...]
    """Ways to open the private stream, the most promising first."""
    environments: Mapping[str, Hosts]
    bodies: Mapping[str, Request]
    """The keys of a snapshot file, and the request whose answer each one is."""
    contract_streams: tuple[str, ...]
    """Streams that tell of changed contracts; silent for as long as none changes."""
    rate_streams: tuple[str, ...]
    """Streams that carry what assets are worth as collateral; none where the market has no such thing."""

    @property
    def requests(self) -> Requests: ...

    def market_url(self, base: str) -> str:
        """Where the market stream is opened, before any subscription."""
        ...

    def mark_streams(self, symbols: Collection[str], array_above: int) -> tuple[str, ...]:
        """Stream names that carry the marks of these symbols; the all-symbol array above that many."""
        ...

    def subscription(self, add: bool, streams: Collection[str], request_id: int) -> str:
        """The frame that adds or removes streams of an open connection."""
        ...

    def private_url(self, base: str, key: str, form: PrivateForm) -> tuple[str, str | None]:
        """Where an account's private stream is opened, and the first frame to send there, if any."""
        ...

    def shared_url(self, base: str) -> str:
        """Where private streams of several accounts are opened, before any subscription; a stream is named by its key.
        Each account's is the form `subscribe`, too."""
        ...

    def stream_key(self, body: bytes) -> str:
        """The private stream's key out of the answer to `requests.open_stream`."""
        ...

    def server_time(self, body: bytes) -> int:
        """Exchange time in Unix milliseconds out of the answer to `requests.time`."""
        ...

    def remedy(self, status: int | None, code: int | None) -> str:
        """What a person can do about an error answer, by its HTTP status and the exchange's code; empty: nothing."""
        ...

    def decode_market(self, raw: bytes, market: str, wanted: Collection[str] | None) -> list[Event]:
        """Read one frame of the market stream; marks of symbols not wanted are skipped (None: all are wanted).

        Contracts that changed and rates are read of all.
        """
        ...

    def decode_private(self, raw: bytes, account: str) -> list[Event]:
        """Read one frame of a private stream."""
        ...

    def addressee(self, raw: bytes) -> str | Reply | StreamControl:
        """Whose a frame of several private streams is, by its key; or what concerns the connection itself."""
        ...

    def decode_answer(self, request: Request, body: bytes, account: str, market: str, sent_ms: int) -> list[Event]:
        """Read the answer to one of `requests`, other than those for the time and for streams."""
        ...


VENUES: dict[str, Venue] = {venue.name: venue for venue in (BinanceUsdm(), BinanceCoinm())}


def hosts(venue: Venue, environment: str) -> Hosts | None:
    """Addresses of a venue's environment; None where the user must give them (`custom`)."""
    return venue.environments.get(environment)
