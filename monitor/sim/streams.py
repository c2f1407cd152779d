"""The websocket side: which connection gets which frame.

    /market/ws/<s1>/<s2>      /market/stream?streams=<s1>/<s2>      /market/ws, /market/stream and SUBSCRIBE
    /private/ws/<key>         form A
    /private/ws?listenKey=    form B, with or without &events=E1/E2
    /private/stream?listenKey=<k1>&events=E1/E2&listenKey=<k2>      form C
    /private/stream           form D, then SUBSCRIBE with listen keys
    /dstream/ws/<s1>          COIN-M: the same without a route, marks and user data on one host;
    /dstream/ws/<key>         forms A to D. dstream_routed: /dstream/market and /dstream/private instead

Marks of either market are on both hosts; a listen key delivers on its own market's. A URL
without a route (but for dstream), the public route, a stream that is not simulated and a key
that is not live connect, acknowledge and stay silent.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl

from aiohttp import web

from monitor.sim import frames
from monitor.sim.account import Account
from monitor.sim.assetindex import AssetIndex
from monitor.sim.connection import Connection, Limits
from monitor.sim.faults import Faults
from monitor.sim.frames import Frame
from monitor.sim.listenkeys import ListenKeys
from monitor.sim.market import Contract

PATH = re.compile(
    r"^(?:/(?P<host>dstream))?(?:/(?P<route>market|private|public))?/(?P<kind>ws|stream)(?:/(?P<names>.+))?/?$"
)
SLOW_TICKS = 3  # a stream without @1s is pushed every third tick


def encode(payload: object) -> str:
    """JSON as the exchange sends it: no spaces."""
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False, default=float)


class Streams:
    """All open sockets."""

    def __init__(self, faults: Faults, keys: ListenKeys, counters: Counter[str]) -> None:
        self.limits = Limits()
        self.connections: list[Connection] = []
        self._faults = faults
        self._keys = keys
        self._counters = counters
        self._held: dict[str, tuple[Account, Frame]] = {}
        self._by_key: dict[str, list[Connection]] | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One websocket from handshake to end; anything else at these paths is not found."""
        match = PATH.match(request.path)
        if match is None or request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=404, text="<html><body><h1>404 Not Found</h1></body></html>")
        host, route, kind, names = match["host"] or "fstream", match["route"] or "", match["kind"], match["names"] or ""
        query = parse_qsl(request.query_string, keep_blank_values=True)
        form = "A" if names else "D"
        if any(key == "listenKey" for key, _ in query):
            form = "B" if kind == "ws" else "C"
        connection = Connection(request, host, route, form, kind == "stream", self.limits)
        listed = names or dict(query).get("streams", "")
        connection.streams = {name: None for name in listed.split("/") if name}
        if route == "private" or (host == "dstream" and not route):
            connection.streams |= listen_keys(query)
        place = route if host == "fstream" else f"dstream {route}".rstrip()
        self._counters[f"connected {place or 'unrouted'}"] += 1
        try:
            return await connection.run(self._joined)
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
                self._by_key = None

    def _joined(self, connection: Connection) -> None:
        if connection not in self.connections:
            self.connections.append(connection)
        self._by_key = None
        self._apply_half_open(connection)

    def on(self, place: str) -> list[Connection]:
        """The open connections of a host, or those of either host that are for "market" or "private"."""
        return [c for c in self.connections if not c.ended and (place == c.host or place in c.kinds)]

    def _heard(self, kind: str, among: Sequence[Connection] | None = None) -> list[Connection]:
        """The connections, of all or of some, that deliver "market" or "private" streams, as things are now."""
        routes = {"fstream": kind, "dstream": kind if self._faults.dstream_routed else ""}
        some = self.connections if among is None else among
        open_ones = [c for c in some if not c.ended and c.route == routes[c.host]]
        return [c for c in open_ones if not self._faults.mute(c.host, kind)]

    def _with_key(self, key: str) -> Sequence[Connection]:
        """The connections that have asked for a listen key."""
        if self._by_key is None:
            self._by_key = {}
            for connection in self.connections:
                for name in connection.streams:
                    self._by_key.setdefault(name, []).append(connection)
        return self._by_key.get(key, ())

    def apply_half_open(self) -> None:
        """Freeze or thaw connections as the switches say."""
        for connection in self.connections:
            self._apply_half_open(connection)

    def _apply_half_open(self, connection: Connection) -> None:
        frozen = self._faults.half_open(connection.host, connection.kinds) and not connection.ended
        (connection.open.clear if frozen else connection.open.set)()

    # Market

    def push_marks(self, contracts: Iterable[Contract], now_ms: int, slow: bool) -> None:
        """Send one tick to every subscriber. slow: also to the streams of every third second."""
        listeners = self._heard("market")
        if not any(connection.streams for connection in listeners):
            return
        seen = [contract for contract in contracts if contract.symbol not in self._faults.mute_symbols]
        payloads: dict[str, list[str]] = {}
        by_name = {contract.symbol.lower(): contract for contract in seen}
        by_pair: dict[str, list[Frame]] = {}
        for contract in seen:
            if contract.coin_margined:
                by_pair.setdefault(contract.pair.lower(), []).append(frames.mark_price(contract, now_ms))

        def payload(stream: str) -> list[str]:
            name, _, pace = stream.removesuffix("@1s").partition("@")
            if not slow and not stream.endswith("@1s"):
                return []
            if name == "!markPrice" and pace == "arr":
                return [encode(piece) for piece in frames.mark_arrays(seen, now_ms)]
            if pace == "markPrice" and name in by_name:
                return [encode(frames.mark_price(by_name[name], now_ms))]
            if pace == "markPrice" and name in by_pair:
                return [encode(by_pair[name])]
            return []

        for connection in listeners:
            for stream in connection.streams:
                if stream not in payloads:
                    payloads[stream] = payload(stream)
                for text in payloads[stream]:
                    connection.send_event(stream, text)

    def push_asset_indexes(self, indexes: Iterable[AssetIndex], now_ms: int) -> None:
        """Send the asset indexes to their subscribers: all at once, or each by itself. They are of USDⓈ-M alone."""
        open_ones = [connection for connection in self._heard("market") if connection.host == "fstream"]
        heard = [(connection, name) for connection in open_ones for name in connection.streams if "assetIndex" in name]
        if not heard:
            return
        seen = [index for index in indexes if index.symbol not in self._faults.mute_symbols]
        rows = {f"{index.symbol.lower()}@assetIndex": frames.asset_index(index, now_ms) for index in seen}
        payloads: dict[str, object] = {**rows, "!assetIndex@arr": list(rows.values())}
        for connection, stream in heard:
            if stream in payloads:
                connection.send_event(stream, encode(payloads[stream]))

    def push_contract(self, frame: Frame) -> None:
        """Send a contractInfo to its subscribers."""
        for connection in self._heard("market"):
            if "!contractInfo" in connection.streams:
                connection.send_event("!contractInfo", encode(frame))

    # Private

    def push_private(self, account: Account, frame: Frame) -> None:
        """Send an account's event, after the faults of order and number have had their way."""
        key = self._keys.of(account.name)
        if key is None:
            return
        if self._faults.swap_next:
            if account.name not in self._held:
                self._held[account.name] = (account, frame)
                return
            self._faults.swap_next = False
            order = [frame, self._held.pop(account.name)[1]]
        else:
            order = [frame]
        if self._faults.duplicate_next:
            self._faults.duplicate_next = False
            order.insert(0, order[0])
        for event in order:
            self._deliver(account, key, event)

    def release_held(self) -> None:
        """Send what still waits for the event it was to change places with, once the switch is off."""
        if not self._faults.swap_next:
            for account, frame in self._held.values():
                if key := self._keys.of(account.name):
                    self._deliver(account, key, frame)
            self._held.clear()

    def push_expired(self, account: Account, key: str, now_ms: int) -> None:
        """Announce the end of a key; its sockets stay open."""
        self._deliver(account, key, frames.listen_key_expired(now_ms, key, self._faults.listen_key_text_time))

    def _deliver(self, account: Account, key: str, frame: Frame) -> None:
        self._counters[f"event {frame['e']}"] += 1
        host = "dstream" if account.market == "coinm" else "fstream"
        mute_forms = self._faults.mute_forms if self._faults.on(host) else ()
        if self._faults.odd_orders and frame["e"] == "ORDER_TRADE_UPDATE":
            frame = {**frame, "o": {**frame["o"], "i": None}}
        text = encode(frame)
        for connection in self._heard("private", self._with_key(key)):
            if connection.host != host or connection.form in mute_forms:
                continue
            wanted = connection.streams[key]
            if wanted is None or frame["e"] in wanted:
                connection.send_event(key, text)

    # Faults and the end

    def send_raw(self, route: str, frame: str | bytes) -> None:
        """Send a frame as it is to every connection of a route or a host."""
        for connection in self.on(route):
            connection.send(frame)

    def drop(self, route: str | None = None) -> None:
        """Cut connections of a route or a host, or all."""
        for connection in self.connections if route is None else self.on(route):
            connection.abort()

    async def close(self) -> None:
        """Close every connection with a goodbye."""
        await asyncio.gather(*(connection.close() for connection in self.connections))


def listen_keys(query: list[tuple[str, str]]) -> dict[str, frozenset[str] | None]:
    """Listen keys of a query, each with the allow-list that follows it, or None for all events."""
    keys: dict[str, frozenset[str] | None] = {}
    latest = None
    for name, value in query:
        if name == "listenKey":
            latest = value
            keys[latest] = None
        elif name == "events" and latest is not None:
            keys[latest] = frozenset(value.split("/"))
    return keys
