"""What a Binance venue does, whichever its market: the addresses of streams, and reading what comes back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from monitor.events import Event, StreamControl
from monitor.venues import binance_account, binance_market, binance_private, binance_remedies
from monitor.venues.binance import MISREADS
from monitor.venues.wire import Hosts, PrivateForm, Reply, Request, Requests, integer, misread, parse, text

Reader = Callable[[Any], Iterable[Event]]


class Binance(ABC):
    """One Binance futures market; `binance_usdm.py` and `binance_coinm.py` say what is theirs.

    Args:
        st: How the merged all-market streams mark this market's symbols.
        inverse: Whether its contracts are settled in the base asset.
    """

    name: str
    st: int
    inverse: bool
    environments: Mapping[str, Hosts]
    bodies: Mapping[str, Request]
    private_forms: tuple[PrivateForm, ...]
    contract_streams: tuple[str, ...] = (binance_market.CONTRACT_STREAM,)
    rate_streams: tuple[str, ...] = ()

    @property
    @abstractmethod
    def requests(self) -> Requests: ...

    @property
    @abstractmethod
    def by_rows(self) -> tuple[Request, ...]:
        """Those whose answers are read row by row."""

    @abstractmethod
    def readers(self, account: str, market: str, sent_ms: int) -> Mapping[Request, Reader]:
        """How the answer to each request is read."""

    def market_url(self, base: str) -> str:
        return f"{base}/stream"

    def mark_streams(self, symbols: Collection[str], array_above: int) -> tuple[str, ...]:
        if len(symbols) > array_above:
            return ("!markPrice@arr@1s",)
        return tuple(f"{symbol.lower()}@markPrice@1s" for symbol in sorted(symbols))

    def subscription(self, add: bool, streams: Collection[str], request_id: int) -> str:
        method = "SUBSCRIBE" if add else "UNSUBSCRIBE"
        return json.dumps({"method": method, "params": list(streams), "id": request_id})

    def private_url(self, base: str, key: str, form: PrivateForm) -> tuple[str, str | None]:
        events = "/".join(binance_private.PRIVATE_EVENTS)
        if form == "path":
            return f"{base}/ws/{key}", None
        if form == "multi":
            return f"{base}/stream?listenKey={key}&events={events}", None
        if form == "subscribe":
            return self.shared_url(base), self.subscription(True, [key], 1)
        return f"{base}/ws?listenKey={key}&events={events}", None

    def shared_url(self, base: str) -> str:
        return f"{base}/stream"

    def stream_key(self, body: bytes) -> str:
        return str(_read(lambda: [text(parse(body)["listenKey"], 512)], body)[0])

    def server_time(self, body: bytes) -> int:
        return int(_read(lambda: [integer(parse(body)["serverTime"])], body)[0])

    def remedy(self, status: int | None, code: int | None) -> str:
        return binance_remedies.remedy(status, code)

    def decode_market(self, raw: bytes, market: str, wanted: Collection[str] | None) -> list[Event]:
        """Read one frame of the market stream; an acknowledgement or an event of no use here gives [].

        Raises:
            DecodeError: Not JSON, or an event of use here that misreads.
        """
        try:
            return list(binance_market.market_events(raw, market, wanted, self.st))
        except MISREADS as exc:
            raise misread(exc, raw) from exc

    def decode_private(self, raw: bytes, account: str) -> list[Event]:
        return binance_private.decode_private(raw, account)

    def addressee(self, raw: bytes) -> str | Reply | StreamControl:
        return binance_private.addressee(raw)

    def decode_answer(self, request: Request, body: bytes, account: str, market: str, sent_ms: int) -> list[Event]:
        """Read one REST answer.

        Raises:
            DecodeError: Not JSON, or not of the shape that this request has.
        """
        parts = binance_account.rows_of if request in self.by_rows else parse
        return _read(lambda: self.readers(account, market, sent_ms)[request](parts(body)), body)


def _read(read: Callable[[], Iterable[Any]], raw: bytes) -> list[Any]:
    try:
        return list(read())
    except MISREADS as exc:
        raise misread(exc, raw) from exc
