"""What can be made to go wrong. Every switch may be thrown while the exchange runs."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from typing import Any

URL_FORMS = ("A", "B", "C", "D")
REST_MODES = ("ok", "abort", "503", "429", "418", "401", "403", "451")
FUNDING_POSITIONS = ("absent", "empty")
FLOOR_KEYS = ("qtyFloor", "qtylFloor")
HOSTS = ("fstream", "dstream")


@dataclass
class Faults:
    """The switches; as made, all is well.

    Attributes:
        hosts: The hosts that the mute_ and half_open_ switches mean, "fstream" and "dstream"; empty: both.
        dstream_routed: dstream without a route is silent, and `/dstream/market/…`, `/dstream/private/…` deliver.
        mute_forms: Private URL forms that deliver nothing: A `/private/ws/<key>`, B `/private/ws?listenKey=`,
            C `/private/stream?listenKey=`, D bare and then SUBSCRIBE; of dstream without the route.
        mute_private, mute_market: The stream stays open and delivers nothing.
        mute_symbols: Symbols whose marks, or as BTCUSD asset indexes, are missing from every stream.
        half_open_market, half_open_private: Open sockets neither read nor write: no frame, no pong, no close.
        refuse: Every new request and handshake is cut off.
        rest: "ok"; "abort" cuts the connection; "503" and "403" (a firewall) answer HTML; "429", "418" answer -1003,
            "401" -2015 as to a key that is refused, "451" as to a country that is not served.
        rest_paths: The paths that `rest` and `latency_s` mean; empty: all.
        latency_s: Seconds each REST answer waits.
        stale_s: Account answers show the book as it was this many seconds ago, at the marks of now.
        clock_skew_ms: Added to the exchange's time, in events, answers and timestamp checks.
        funding_positions: Whether cross funding says `"P": []` or has no `P`.
        funding_symbol: Whether funding names its symbol in `S`.
        bracket_list: Whether leverageBracket with a symbol answers a list instead of an object.
        bracket_floor_key: What COIN-M calls the floor of a bracket: qtyFloor, or qtylFloor as documented.
        coinm_extra_fields: COIN-M positions have `isolatedWallet` and `notionalValue`, which the documents lack.
        all_positions: COIN-M account updates with positions, but for funding, show those of all symbols, flat ones too.
        listen_key_text_time: listenKeyExpired carries its `E` as a string.
        liquidation: Whether pools at ratio 1 are liquidated.
        calculated: Liquidation fills say `x: CALCULATED`, as the documents have it, instead of `TRADE`.
        account_update_first: ACCOUNT_UPDATE comes before the ORDER_TRADE_UPDATE of the same fill.
        swap_next: The next two private events of an account change places; then the switch is off again.
        duplicate_next: The next private event comes twice; then the switch is off again.
        odd_orders: ORDER_TRADE_UPDATE has a field of a type that it should not have.
    """

    hosts: list[str] = field(default_factory=list)
    dstream_routed: bool = False
    mute_forms: list[str] = field(default_factory=list)
    mute_private: bool = False
    mute_market: bool = False
    mute_symbols: list[str] = field(default_factory=list)
    half_open_market: bool = False
    half_open_private: bool = False
    refuse: bool = False
    rest: str = "ok"
    rest_paths: list[str] = field(default_factory=list)
    latency_s: float = 0.0
    stale_s: float = 0.0
    clock_skew_ms: int = 0
    funding_positions: str = "absent"
    funding_symbol: bool = True
    bracket_list: bool = False
    bracket_floor_key: str = "qtyFloor"
    coinm_extra_fields: bool = True
    all_positions: bool = False
    listen_key_text_time: bool = False
    liquidation: bool = True
    calculated: bool = False
    account_update_first: bool = False
    swap_next: bool = False
    duplicate_next: bool = False
    odd_orders: bool = False

    def update(self, switches: dict[str, Any]) -> None:
        """Throw switches by name, all or none.

        Raises:
            ValueError: An unknown switch, or a value it does not have.
        """
        defaults = Faults()
        for name, value in switches.items():
            if name not in {known.name for known in fields(self)}:
                raise ValueError(f"no fault {name!r}; there are {', '.join(asdict(self))}")
            wanted = type(getattr(defaults, name))
            if not isinstance(value, (int, float, Decimal) if wanted is float else wanted):
                raise ValueError(f"fault {name} takes a {wanted.__name__}, not {value!r}")
        choices = {"rest": REST_MODES, "funding_positions": FUNDING_POSITIONS, "bracket_floor_key": FLOOR_KEYS}
        for name, values in choices.items():
            if switches.get(name, values[0]) not in values:
                raise ValueError(f"fault {name} is one of {', '.join(values)}, not {switches[name]!r}")
        for name, members in (("mute_forms", URL_FORMS), ("hosts", HOSTS)):
            if strange := set(switches.get(name, ())) - set(members):
                raise ValueError(f"fault {name} takes {', '.join(members)}, not {', '.join(sorted(strange))}")
        for name, value in switches.items():
            setattr(self, name, float(value) if isinstance(value, Decimal) else value)

    def mute(self, host: str, kind: str) -> bool:
        """Whether the "market" or "private" streams of a host deliver nothing."""
        return self.on(host) and (self.mute_private if kind == "private" else self.mute_market)

    def half_open(self, host: str, kinds: Collection[str]) -> bool:
        """Whether sockets of a host with these streams neither read nor write."""
        frozen = {"market": self.half_open_market, "private": self.half_open_private}
        return self.on(host) and any(frozen.get(kind, False) for kind in kinds)

    def on(self, host: str) -> bool:
        """Whether the stream faults mean this host."""
        return not self.hosts or host in self.hosts

    def hits(self, path: str) -> bool:
        """Whether the REST faults mean this path."""
        return not self.rest_paths or path in self.rest_paths


def garbage(kind: str) -> str | bytes:
    """A frame that no exchange should send: text, types, binary or big (5 MB)."""
    match kind:
        case "text":
            return "<html>502 Bad Gateway</html>"
        case "types":
            return '{"e":"markPriceUpdate","E":"soon","s":["BTCUSDT"],"p":{"p":1},"i":null,"r":true,"T":-1e999}'
        case "binary":
            return b"\x00\xff\xfe{"
        case "big":
            return '{"e":"markPriceUpdate","pad":"' + "x" * 5_000_000 + '"}'
    raise ValueError(f"garbage is text, types, binary or big, not {kind!r}")
