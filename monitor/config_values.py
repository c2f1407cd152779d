"""What the values of a config may be, and the reader that collects every mistake in them.

Each `as_…` takes what TOML gave, and returns the value or raises a `ValueError` that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, time, tzinfo
from decimal import Decimal
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from msgspec import Struct

from monitor.venues.wire import PrivateForm

Table = Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_RESERVED = ("status", "info", "cmd")
_LONGEST = 1000
"""Characters of a text: no file is called more, and MQTT has room for 65535 bytes of a topic or a name."""


SecretKind = Literal["env", "file", "credential"]


class Secret(Struct, frozen=True):
    """Where a secret is to be found; never the secret itself.

    Args:
        kind: `env` (a variable), `file` (a path) or `credential` (a file in systemd's credentials directory).
    """

    kind: SecretKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class HiddenUrl(Struct, frozen=True):
    """An address that contains a secret, as those of ping services do: it shows its scheme and host alone."""

    address: str

    def __str__(self) -> str:
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.hostname or ''}/…"

    def __repr__(self) -> str:
        return f"HiddenUrl({self})"

    @staticmethod
    def of(text: str) -> HiddenUrl:
        """An address that may be called.

        Raises:
            ValueError: It is none; the text is not repeated.
        """
        with suppress(ValueError):  # of `urlsplit`, which would repeat it
            parts = urlsplit(text)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in text:
                return HiddenUrl(text)
        raise ValueError("must be an address beginning with https:// (or http:// in your own network)")


class Listen(Struct, frozen=True):
    """Where a server listens: an address of this machine and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nobody outside this machine can reach it; of a name we cannot know, but for `localhost`."""
        with suppress(ValueError):
            return ip_address(self.host).is_loopback
        return self.host == "localhost"


def as_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text in quotes")
    if len(value) > _LONGEST or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"must be at most {_LONGEST} characters in one line, without control characters")
    return value


def as_name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in _RESERVED:
        raise ValueError(f"must be 1 to 32 of a-z, 0-9 and -, and none of {', '.join(_RESERVED)}")
    return value


def as_prefix(value: Any) -> str:
    wanted = r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*"
    if not isinstance(value, str) or len(value) > _LONGEST or not re.fullmatch(wanted, value):
        raise ValueError('must be a topic without wildcards, such as "marginwatch" or "home/marginwatch"')
    return value


def as_host(value: Any) -> str:
    name = as_text(value)
    with suppress(UnicodeError):  # of one that no name service takes
        name.encode("idna")
        if not re.search(r"[\s/@]", name) and name.count(":") != 1:  # an IPv6 address has more of them
            return name
    raise ValueError('must be a name or an address alone, such as "localhost"; the port is a key of its own')


def as_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def as_whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def is_number(value: Any) -> bool:
    """Whether it is a number, and neither `nan` nor `inf`, which TOML has too."""
    return not isinstance(value, bool) and isinstance(value, int | Decimal) and Decimal(value).is_finite()


def as_seconds(low: float, high: float = 10_000_000) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not is_number(value) or not low <= float(value) <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:,.0f}")
        return float(value)

    return read


def as_minutes(value: Any) -> float:
    if not is_number(value) or not Decimal("0.01") <= value <= 60:
        raise ValueError("must be a number of minutes from 0.01 to 60")
    return float(value)


def as_fraction(value: Any) -> Decimal:
    if not is_number(value) or not 0 <= value <= 10:
        raise ValueError("must be a fraction, such as 0.8 for 80 %")
    return Decimal(value)


def as_amount(value: Any) -> Decimal:
    if not is_number(value) or value < 0:
        raise ValueError("must be a number of at least 0")
    return Decimal(value)


def as_one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            near = get_close_matches(str(value), words, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ValueError(f"must be one of {', '.join(words)}{hint}")
        return str(value)

    return read


def as_forms(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list such as ["query", "path"]')
    read = as_one_of(*get_args(PrivateForm))
    return tuple(read(one) for one in value)


def as_secret(value: Any) -> Secret:
    kind, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind in get_args(SecretKind) and name:
        return Secret(cast(SecretKind, kind), name)
    # The value itself is not repeated: it may be the secret.
    raise ValueError("must be env:NAME, file:PATH or credential:NAME; a secret is never written into the config")


def as_secret_url(value: Any) -> Secret | HiddenUrl:
    """An address that contains a secret, or where it is to be found."""
    if isinstance(value, str) and "://" in value:
        return HiddenUrl.of(value)
    try:
        return as_secret(value)
    except ValueError:
        raise ValueError(
            "must be an address beginning with https://, or env:NAME, file:PATH, credential:NAME"
        ) from None


def as_time_of_day(value: Any) -> time:
    if isinstance(value, str) and re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
        return time.fromisoformat(value)
    raise ValueError('must be a time of day from "00:00" to "23:59", in quotes')


def as_timezone(value: Any) -> str:
    zone(value)
    return str(value)


def zone(name: Any) -> tzinfo:
    """A time zone by its IANA name; UTC is known without any data.

    Raises:
        ValueError: There is none of this name, or no data about zones at all.
    """
    if name == "UTC":
        return UTC
    if isinstance(name, str):
        with suppress(ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is no zone
            return ZoneInfo(name)
    known = available_timezones()
    if not known:
        raise ValueError('this machine has no data about time zones: install it (apt install tzdata), or write "UTC"')
    near = get_close_matches(str(name), known, 1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise ValueError(f'must be the name of a time zone, such as "UTC" or "Europe/Berlin"{hint}')


def as_texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('must be a table of texts, such as {desk = "spot"}')
    return dict(value)


def as_url(*schemes: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        with suppress(ValueError):  # of a port that is none, or a host that no name service takes
            parts = urlsplit(value) if isinstance(value, str) and not re.search(r"\s", value) else None
            if parts is not None and parts.scheme in schemes and parts.hostname and parts.port != 0:
                parts.hostname.encode("idna")
                return str(value).rstrip("/")
        raise ValueError(f"must be an address beginning with {' or '.join(f'{s}://' for s in schemes)}")

    return read


def as_listen(value: Any) -> Listen:
    with suppress(ValueError):  # of a port that is none
        parts = urlsplit(f"//{value}") if isinstance(value, str) and not re.search(r"[\s/?#@]", value) else None
        if parts is not None and parts.hostname and parts.port:
            return Listen(parts.hostname, parts.port)
    raise ValueError('must be an address and a port, such as "127.0.0.1:8787"')


def as_hosts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and re.fullmatch(r"[^\s/:@]+", v) for v in value):
        raise ValueError('must be a list of names without port, such as ["risk.example.org"]')
    return tuple(name.lower() for name in value)


def as_anything(value: Any) -> Any:
    return value


Kinds = Mapping[str, Callable[[Any], Any]]
_BY_TYPE: Mapping[Any, Callable[[Any], Any]] = {
    bool: as_flag,
    str: as_text,
    str | None: as_text,
    Secret | None: as_secret,
    Secret | HiddenUrl | None: as_secret_url,
}


def kinds_of(section: type[Struct]) -> Kinds:
    """How the key of each field of a section is read: as the field is annotated, or else by its type."""

    def kind(hint: Any) -> Callable[[Any], Any]:
        if get_origin(hint) is Annotated:
            return cast(Callable[[Any], Any], hint.__metadata__[0])
        return as_one_of(*get_args(hint)) if get_origin(hint) is Literal else _BY_TYPE[hint]

    return {name: kind(hint) for name, hint in get_type_hints(section, include_extras=True).items()}


class Reader:
    """Reads tables, and collects what is wrong with them, and the secrets of accounts that are."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.secrets: list[tuple[str, Secret]] = []

    def wrong(self, file: str, key: str, what: str) -> None:
        self.problems.append(f"{file}: {key}: {what}")

    def table(self, file: str, where: str, table: Any, kinds: Kinds) -> dict[str, Any]:
        """The values of a table that are right; the rest is noted."""
        if not isinstance(table, Mapping):
            self.wrong(file, where.strip() or "file", "must be a table")
            return {}
        values = {}
        for key, value in table.items():
            kind = kinds.get(key)
            if kind is None:
                near = get_close_matches(key, kinds, 1, 0.5)
                hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(sorted(kinds))}"
                self.wrong(file, f"{where}{key}", f"unknown key; {hint}")
                continue
            try:
                values[key] = kind(value)
            except ValueError as exc:
                self.wrong(file, f"{where}{key}", str(exc))
        return values
