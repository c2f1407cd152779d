"""config.toml → a frozen `Config`; every mistake is reported at once, by file and key, with what would be right.

Pure: files are read, and secrets fetched, by `shell/settings.py`. Durations are keys, so that a test can run fast by
configuration. `config.example.toml` shows every key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, time, tzinfo
from decimal import Decimal
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from msgspec import Struct, structs

from monitor.core import Setup
from monitor.effects import AccountSetup
from monitor.errors import ConfigError
from monitor.judges.daily import Daily
from monitor.liveness import DECLARED_WITHIN_S, declared_after_s
from monitor.rules import (
    DEFAULTS,
    AdlQuantileRule,
    ClockOffsetRule,
    ContractStatusRule,
    DataStaleRule,
    FactRule,
    Match,
    Rule,
    RuleBook,
    Severity,
    Step,
)
from monitor.venues import VENUES, Hosts, PrivateForm, hosts

T = TypeVar("T")
Table = Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9-]{1,32}")
STORE_NAME = "marginwatch.sqlite3"
"""Name of the store where no path is given; `shell/settings.py` says in which folder."""

_RESERVED = ("status", "info", "cmd")


class Secret(Struct, frozen=True):
    """Where a secret is to be found; never the secret itself.

    Args:
        kind: `env` (a variable), `file` (a path) or `credential` (a file in systemd's credentials directory).
    """

    kind: Literal["env", "file", "credential"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class MqttConfig(Struct, frozen=True):
    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: Secret | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    tls: bool = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_insecure: bool = False
    prefix: str = "marginwatch"
    client_id: str | None = None
    keepalive_s: float = 15
    timeout_s: float = 5
    reconnect_max_s: float = 30
    inflight: int = 32


class AccountConfig(Struct, frozen=True):
    name: str
    venue: str
    api_key: Secret
    secret: Secret
    environment: Literal["live", "testnet", "demo", "custom"] = "live"
    hosts: Hosts = Hosts("", "", "", "")
    market: str = ""
    labels: dict[str, str] = {}


class LinksConfig(Struct, frozen=True):
    """Deadlines and habits of the links to the exchange; durations in seconds.

    Args:
        private_forms: Ways to open a private stream, tried in turn; empty: the venue's own order.
        market_connections: How many connections carry the same marks, side by side.
        mute_after_s: How long the private stream may owe us what a snapshot has shown.
        rebuild_after: Failed sessions in a row after which the REST client is made anew too.
    """

    tick_s: float = 1
    connect_timeout_s: float = 10
    first_frame_s: float = 10
    ping_interval_s: float = 3
    ping_timeout_s: float = 3
    close_timeout_s: float = 1
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30
    keepalive_s: float = 720
    reconcile_s: float = 30
    refresh_s: float = 3600
    clock_s: float = 600
    bridge_s: float = 3
    rest_timeout_s: float = 10
    weight_per_minute: int = 1200
    connection_life_s: float = 82_800
    dispute_s: float = 60
    array_above: int = 150
    compression: bool = True
    private_forms: tuple[PrivateForm, ...] = ()
    market_connections: int = 1
    mute_after_s: float = 5
    rebuild_after: int = 3


class StoreConfig(Struct, frozen=True):
    path: str = STORE_NAME
    keep_days: int = 90


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


class HeartbeatConfig(Struct, frozen=True):
    """Outbound proof of life, and where alerts go while the MQTT broker is away; durations in seconds.

    Args:
        url: Asked while all is well; `<url>/fail` while blind. None: nothing is.
        webhook: Where events are posted while the broker is away. None: nowhere.
        webhook_after_s: After so long without the broker it counts as away.
        webhook_from: Severity from which events are posted.
    """

    url: Secret | HiddenUrl | None = None
    every_s: float = 60
    webhook: Secret | HiddenUrl | None = None
    webhook_after_s: float = 30
    webhook_from: str = "warning"


class SummaryConfig(Struct, frozen=True):
    """The daily summary.

    Args:
        timezone: IANA name of the zone that `at` is meant in.
    """

    enabled: bool = True
    at: time = time(8)
    timezone: str = "UTC"

    @property
    def daily(self) -> Daily | None:
        return Daily(self.at, _zone(self.timezone)) if self.enabled else None


class CmdConfig(Struct, frozen=True):
    """Commands over MQTT: acknowledgements and silences.

    Args:
        unacked_s: A critical incident that nobody acknowledges for so long is told again, louder (seconds).
        username: Whom `marginwatch ack` and `silence` log in as; the daemon needs no right to publish there.
    """

    enabled: bool = False
    unacked_s: float = 600
    username: str | None = None
    password: Secret | None = None


class RecorderConfig(Struct, frozen=True):
    """What the links said of late, kept in memory and saved when an incident becomes critical.

    Args:
        dir: Where sessions are saved. None: `sessions` beside the store.
        minutes: How much is kept.
        keep: How many saved sessions are kept.
    """

    enabled: bool = True
    dir: str | None = None
    minutes: float = 5
    keep: int = 20


class LogConfig(Struct, frozen=True):
    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True):
    """Everything that can be configured.

    Args:
        credentials_dir: Where `credential:` is looked up when the daemon does not run under systemd.
    """

    accounts: tuple[AccountConfig, ...]
    mqtt: MqttConfig = MqttConfig()
    links: LinksConfig = LinksConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()
    recorder: RecorderConfig = RecorderConfig()
    cmd: CmdConfig = CmdConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    summary: SummaryConfig = SummaryConfig()
    rules: RuleBook = RuleBook()
    instance: str | None = None
    credentials_dir: str | None = None
    summary_every_s: float = 30

    @property
    def setup(self) -> Setup:
        """What the core has to know of it."""
        accounts = tuple(AccountSetup(a.name, a.venue, a.market, a.labels) for a in self.accounts)
        unacked_s = self.cmd.unacked_s if self.cmd.enabled else None
        return Setup(accounts, self.rules, self.links.dispute_s, self.summary_every_s, unacked_s, self.summary.daily)


def parse(documents: Iterable[tuple[str, Table]]) -> Config:
    """The config out of its documents: the main file first, then what it includes.

    Args:
        documents: File name and parsed TOML (floats as `Decimal`).

    Raises:
        ConfigError: With every mistake that was found.
    """
    config, problems, _ = examine(documents)
    if problems:
        raise ConfigError(problems)
    return config


def examine(documents: Iterable[tuple[str, Table]]) -> tuple[Config, list[str], list[tuple[str, Secret]]]:
    """What can be read of a config, every mistake in it, and every secret that it names with its key, of accounts that
    are wrong otherwise too."""
    reader = _Reader()
    tables = list(documents)
    main_name, main = tables[0]
    top = reader.table(main_name, "", main, _TOP)
    inherited = top.get("account_defaults", {})
    defaults = reader.table(main_name, "[account_defaults] ", inherited, _ACCOUNT)
    accounts = []
    for name, document in tables:
        rows = document.get("account", [])
        if name != main_name:
            reader.table(name, "", document, {"account": _TOP["account"]})
        if not isinstance(rows, list):
            reader.wrong(name, "account", "must be written [[account]]")
            continue
        for number, row in enumerate(rows, 1):
            account = _account(reader, name, number, row, defaults, inherited if isinstance(inherited, Mapping) else ())
            if account is not None:
                accounts.append((name, account))
    if not any("account" in document for _, document in tables):
        reader.wrong(main_name, "[[account]]", "there is none; name at least one account to watch")
    for i, (name, account) in enumerate(accounts):
        if account.name in [other.name for _, other in accounts[:i]]:
            reader.wrong(name, f'[[account]] "{account.name}"', "the name is taken; every account needs its own")
    config = Config(
        accounts=_with_markets([account for _, account in accounts]),
        mqtt=_section(reader, main_name, top, "mqtt", MqttConfig, _MQTT),
        links=_section(reader, main_name, top, "links", LinksConfig, _LINKS),
        store=_section(reader, main_name, top, "store", StoreConfig, _STORE),
        log=_section(reader, main_name, top, "log", LogConfig, _LOG),
        recorder=_section(reader, main_name, top, "recorder", RecorderConfig, _RECORDER),
        cmd=_section(reader, main_name, top, "cmd", CmdConfig, _CMD),
        heartbeat=_section(reader, main_name, top, "heartbeat", HeartbeatConfig, _HEARTBEAT),
        summary=_section(reader, main_name, top, "summary", SummaryConfig, _SUMMARY),
        rules=_rules(reader, main_name, top.get("rules", {})),
        instance=top.get("instance"),
        credentials_dir=reader.table(main_name, "[credentials] ", top.get("credentials", {}), _CREDENTIALS).get("dir"),
        summary_every_s=top.get("summary_every_s", 30),
    )
    for rule, matches in config.rules.matches.items():
        for number, match in enumerate(matches, 1):
            where = f"[[rules.{rule}.match]] number {number} "
            if match.symbol is not None and match.symbol != match.symbol.upper():
                reader.wrong(main_name, f"{where}symbol", f'symbols are upper-case; write "{match.symbol.upper()}"')
    _check_promptness(reader, main_name, config.rules)
    if config.mqtt.password is not None and config.mqtt.username is None:
        reader.wrong(main_name, "[mqtt] password", "is of no use without username")
    if (config.mqtt.tls_cert_file is None) != (config.mqtt.tls_key_file is None):
        reader.wrong(main_name, "[mqtt] tls_cert_file", "needs tls_key_file, and the other way round")
    return config, reader.problems, [*secrets(config), *reader.secrets]


# ---- kinds of values: each takes what TOML gave, and returns it or says what would be right ----


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text in quotes")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in _RESERVED:
        raise ValueError(f"must be 1 to 32 of a-z, 0-9 and -, and none of {', '.join(_RESERVED)}")
    return value


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*", value):
        raise ValueError('must be a topic without wildcards, such as "marginwatch" or "home/marginwatch"')
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def _is_number(value: Any) -> bool:
    """Whether it is a number, and neither `nan` nor `inf`, which TOML has too."""
    return not isinstance(value, bool) and isinstance(value, int | Decimal) and Decimal(value).is_finite()


def _seconds(low: float = 0.001, high: float = 10_000_000) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not _is_number(value) or not low <= float(value) <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:,.0f}")
        return float(value)

    return read


def _minutes(value: Any) -> float:
    if not _is_number(value) or not Decimal("0.01") <= value <= 60:
        raise ValueError("must be a number of minutes from 0.01 to 60")
    return float(value)


def _fraction(value: Any) -> Decimal:
    if not _is_number(value) or not 0 <= value <= 10:
        raise ValueError("must be a fraction, such as 0.8 for 80 %")
    return Decimal(value)


def _amount(value: Any) -> Decimal:
    if not _is_number(value) or value < 0:
        raise ValueError("must be a number of at least 0")
    return Decimal(value)


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            near = get_close_matches(str(value), words, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ValueError(f"must be one of {', '.join(words)}{hint}")
        return str(value)

    return read


def _forms(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list such as ["query", "path"]')
    read = _one_of("query", "path", "subscribe", "multi")
    return tuple(read(one) for one in value)


def _secret(value: Any) -> Secret:
    kinds: tuple[Literal["env", "file", "credential"], ...] = ("env", "file", "credential")
    kind, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    for known in kinds:
        if kind == known and name:
            return Secret(known, name)
    # The value itself is not repeated: it may be the secret.
    raise ValueError("must be env:NAME, file:PATH or credential:NAME; a secret is never written into the config")


def _secret_url(value: Any) -> Secret | HiddenUrl:
    """An address that contains a secret, or where it is to be found."""
    if isinstance(value, str) and "://" in value:
        return HiddenUrl.of(value)
    try:
        return _secret(value)
    except ValueError:
        raise ValueError(
            "must be an address beginning with https://, or env:NAME, file:PATH, credential:NAME"
        ) from None


def _time_of_day(value: Any) -> time:
    if isinstance(value, str) and re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
        return time.fromisoformat(value)
    raise ValueError('must be a time of day from "00:00" to "23:59", in quotes')


def _timezone(value: Any) -> str:
    _zone(value)
    return str(value)


def _zone(name: Any) -> tzinfo:
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


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError('must be a table of texts, such as {desk = "spot"}')
    return dict(value)


def _url(*schemes: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        with suppress(ValueError):  # of a port that is none, or a host that no name service takes
            parts = urlsplit(value) if isinstance(value, str) and not re.search(r"\s", value) else None
            if parts is not None and parts.scheme in schemes and parts.hostname and parts.port != 0:
                parts.hostname.encode("idna")
                return str(value).rstrip("/")
        raise ValueError(f"must be an address beginning with {' or '.join(f'{s}://' for s in schemes)}")

    return read


def _anything(value: Any) -> Any:
    return value


_Kinds = Mapping[str, Callable[[Any], Any]]

_TOP: _Kinds = {
    "include": _anything,
    "instance": _text,
    "summary_every_s": _seconds(0.1, 80),
    "mqtt": _anything,
    "account_defaults": _anything,
    "account": _anything,
    "links": _anything,
    "store": _anything,
    "log": _anything,
    "recorder": _anything,
    "cmd": _anything,
    "heartbeat": _anything,
    "summary": _anything,
    "credentials": _anything,
    "rules": _anything,
}
_ACCOUNT: _Kinds = {
    "name": _name,
    "venue": _one_of(*VENUES),
    "environment": _one_of("live", "testnet", "demo", "custom"),
    "api_key": _secret,
    "secret": _secret,
    "labels": _texts,
    "rest_url": _url("http", "https"),
    "market_url": _url("ws", "wss"),
    "private_url": _url("ws", "wss"),
    "wallet_url": _url("http", "https"),
}
_MQTT: _Kinds = {
    "host": _text,
    "port": _whole(1, 65_535),
    "username": _text,
    "password": _secret,
    "protocol": _one_of("auto", "5", "3.1.1"),
    "tls": _flag,
    "tls_ca_file": _text,
    "tls_cert_file": _text,
    "tls_key_file": _text,
    "tls_insecure": _flag,
    "prefix": _prefix,
    "client_id": _text,
    "keepalive_s": _seconds(1, 3600),
    "timeout_s": _seconds(0.1, 600),
    "reconnect_max_s": _seconds(0.1, 3600),
    "inflight": _whole(1, 1000),
}
_LINKS: _Kinds = {
    "tick_s": _seconds(0.01, 5),
    "connect_timeout_s": _seconds(0.1),
    "first_frame_s": _seconds(0.1),
    "ping_interval_s": _seconds(0.1),
    "ping_timeout_s": _seconds(0.1),
    "close_timeout_s": _seconds(0.1),
    "backoff_min_s": _seconds(0.01),
    "backoff_max_s": _seconds(0.01),
    "keepalive_s": _seconds(0.1, 1800),
    "reconcile_s": _seconds(0.1, 3600),
    "refresh_s": _seconds(1),
    "clock_s": _seconds(1),
    "bridge_s": _seconds(0.1, 600),
    "rest_timeout_s": _seconds(0.1),
    "weight_per_minute": _whole(50, 100_000),
    "connection_life_s": _seconds(1, 86_400),
    "dispute_s": _seconds(0),
    "array_above": _whole(1, 1000),
    "compression": _flag,
    "private_forms": _forms,
    "market_connections": _whole(1, 2),
    "mute_after_s": _seconds(0.05, 600),
    "rebuild_after": _whole(1, 1000),
}
_STORE: _Kinds = {"path": _text, "keep_days": _whole(1, 36_500)}
_LOG: _Kinds = {"format": _one_of("auto", "json", "text"), "level": _one_of("debug", "info", "warning", "error")}
_CMD: _Kinds = {"enabled": _flag, "unacked_s": _seconds(1), "username": _text, "password": _secret}
_HEARTBEAT: _Kinds = {
    "url": _secret_url,
    "every_s": _seconds(0.05, 86_400),
    "webhook": _secret_url,
    "webhook_after_s": _seconds(0.05, 86_400),
    "webhook_from": _one_of(*(s.word for s in Severity if s is not Severity.OK)),
}
_SUMMARY: _Kinds = {"enabled": _flag, "at": _time_of_day, "timezone": _timezone}
_RECORDER: _Kinds = {"enabled": _flag, "dir": _text, "minutes": _minutes, "keep": _whole(1, 1000)}
_CREDENTIALS: _Kinds = {"dir": _text}
_NEEDED = ("name", "venue", "api_key", "secret")
_MATCH: _Kinds = {"account": _text, "symbol": _text, "min_notional": _amount}
_RULE_KINDS: Mapping[Any, Callable[[Any], Any]] = {bool: _flag, float: _seconds(0), Decimal: _fraction}
_HOLDS = ("for_s", "clear_for_s", "reenter_s", "repeat_s")
"""Keys of a rule that mean something where it has levels."""
_LARGEST: Mapping[type[Rule], tuple[Decimal | None, str]] = {
    AdlQuantileRule: (Decimal(4), "places in the queue, 0 to 4"),
    ClockOffsetRule: (None, "milliseconds"),
    ContractStatusRule: (None, "seconds"),
    DataStaleRule: (None, "seconds"),
}
"""The largest value that a rule may measure (None: there is none), and what it measures; others measure fractions."""


# ---- sections ----


class _Reader:
    """Reads tables, and collects what is wrong with them, and the secrets of accounts that are."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.secrets: list[tuple[str, Secret]] = []

    def wrong(self, file: str, key: str, what: str) -> None:
        self.problems.append(f"{file}: {key}: {what}")

    def table(self, file: str, where: str, table: Any, kinds: _Kinds) -> dict[str, Any]:
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


def _section(reader: _Reader, file: str, top: Table, name: str, make: Callable[..., T], kinds: _Kinds) -> T:
    return make(**reader.table(file, f"[{name}] ", top.get(name, {}), kinds))


def _account(
    reader: _Reader, file: str, number: int, row: Any, defaults: Table, inherited: Collection[str]
) -> AccountConfig | None:
    """One account; None: something is wrong with it, or with what it inherits, and that has been noted."""
    name = row.get("name") if isinstance(row, Mapping) else None
    where = f'[[account]] "{name}" ' if isinstance(name, str) else f"[[account]] number {number} "
    before = len(reader.problems)
    given = reader.table(file, where, row, _ACCOUNT)
    values = {**defaults, **given}
    if isinstance(row, Mapping):
        for key in _NEEDED:
            if key not in row and key not in inherited:
                remedy = "is missing" if key != "venue" else f"is missing; one of {', '.join(VENUES)}"
                reader.wrong(file, f"{where}{key}", remedy)
    for key in ("api_key", "secret"):
        if key in values and "name" in values:
            values[key] = Secret(values[key].kind, values[key].name.replace("{name}", values["name"]))
    if len(reader.problems) > before or any(key not in values for key in _NEEDED):
        reader.secrets += [(where + key, values[key]) for key in ("api_key", "secret") if key in values]
        return None
    urls = {key: values.pop(key) for key in ("rest_url", "market_url", "private_url", "wallet_url") if key in values}
    environment = values.get("environment", "live")
    addresses = hosts(VENUES[values["venue"]], environment)
    if environment == "custom":
        missing = [key for key in ("rest_url", "market_url", "private_url") if key not in urls]
        for key in missing:
            reader.wrong(file, f"{where}{key}", 'is missing; environment = "custom" needs it')
        if missing:
            return None
        addresses = Hosts(wallet_url=urls.pop("wallet_url", urls["rest_url"]), **urls)
    assert addresses is not None  # only `custom` has no addresses of its own
    addresses = structs.replace(addresses, **urls)
    return AccountConfig(hosts=addresses, **values)


def _with_markets(accounts: list[AccountConfig]) -> tuple[AccountConfig, ...]:
    """Name the market link of each account: one per venue, environment and address, shared by all who use it."""
    names: dict[tuple[str, str], str] = {}
    named = []
    for account in accounts:
        address = (account.venue, account.hosts.market_url)
        if address not in names:
            base = f"market-{account.venue}" + ("" if account.environment == "live" else f"-{account.environment}")
            taken = sum(1 for name in names.values() if name == base or name.startswith(f"{base}-"))
            names[address] = base if not taken else f"{base}-{taken + 1}"
        named.append(structs.replace(account, market=names[address]))
    return tuple(named)


# ---- rules ----


def _rules(reader: _Reader, file: str, tables: Any) -> RuleBook:
    if not isinstance(tables, Mapping):
        reader.wrong(file, "rules", "must be written [rules.<name>]")
        return RuleBook()
    rules, matches = dict(DEFAULTS), {}
    for name, table in tables.items():
        default = DEFAULTS.get(name)
        if default is None:
            near = get_close_matches(name, DEFAULTS, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(DEFAULTS)}"
            reader.wrong(file, f"[rules.{name}]", f"unknown rule; {hint}")
            continue
        where = f"[rules.{name}] "
        body = {key: value for key, value in table.items() if key != "match"} if isinstance(table, Mapping) else table
        rule = structs.replace(default, **_rule_values(reader, file, where, body, default))
        rules[name] = rule
        rows = table.get("match", []) if isinstance(table, Mapping) else []
        if not isinstance(rows, list):
            reader.wrong(file, f"{where}match", f"must be written [[rules.{name}.match]]")
            continue
        matches[name] = tuple(
            _match(reader, file, f"[[rules.{name}.match]] number {i} ", row, rule) for i, row in enumerate(rows, 1)
        )
    return RuleBook(rules, matches)


def _match(reader: _Reader, file: str, where: str, row: Any, rule: Rule) -> Match:
    if not isinstance(row, Mapping):
        reader.wrong(file, where.strip(), "must be a table")
        return Match(rule)
    labels = {key: value for key, value in row.items() if key.startswith("label.")}
    if isinstance(row.get("label"), Mapping):
        labels |= {f"label.{key}": value for key, value in row["label"].items()}
    for key, value in labels.items():
        if not isinstance(value, str):
            reader.wrong(file, f"{where}{key}", "must be a text in quotes")
    conditions = {key: row[key] for key in _MATCH if key in row}
    rest = {k: v for k, v in row.items() if k not in _MATCH and k != "label" and not k.startswith("label.")}
    if not conditions and not labels:
        reader.wrong(file, where.strip(), "names nothing to match; give account, label.<name>, symbol or min_notional")
    return Match(
        structs.replace(rule, **_rule_values(reader, file, where, rest, rule, _MATCH)),
        labels={key.removeprefix("label."): str(value) for key, value in labels.items()},
        **reader.table(file, where, conditions, _MATCH),
    )


def _rule_values(
    reader: _Reader, file: str, where: str, table: Any, rule: Rule, beside: _Kinds = MappingProxyType({})
) -> dict[str, Any]:
    """Keys of a rule; `beside` are those that may stand there too, to name them where a key is misspelt."""
    hints = get_type_hints(type(rule))
    kinds: dict[str, Callable[[Any], Any]] = {
        name: _RULE_KINDS[hint] for name, hint in hints.items() if hint in _RULE_KINDS
    }
    kinds["repeat_s"] = lambda value: {**rule.repeat_s, **_repeats(value)}  # a severity not named keeps its time
    if isinstance(rule, FactRule):
        kinds = {name: kind for name, kind in kinds.items() if name not in _HOLDS}
    if rule.steps:
        rising = rule.steps[0].clear < rule.steps[0].at
        largest, what = _LARGEST.get(type(rule), (Decimal(1), "fractions, 0.8 for 80 %"))
        kinds["steps"] = lambda value: _steps(value, rising, largest, what)
    return reader.table(file, where, table, {**beside, **kinds})


def _repeats(value: Any) -> dict[str, float]:
    words = [s.word for s in Severity if s is not Severity.OK]
    if not isinstance(value, Mapping) or not all(key in words for key in value):
        raise ValueError(f"must be a table of seconds by severity ({', '.join(words)})")
    return {key: _seconds(1)(seconds) for key, seconds in value.items()}


def _steps(value: Any, rising: bool, largest: Decimal | None, what: str) -> tuple[Step, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list such as [{at = 0.8, clear = 0.7, severity = "warning"}]')
    steps = []
    for row in value:
        if not isinstance(row, Mapping) or set(row) != {"at", "clear", "severity"}:
            raise ValueError("each step needs at, clear and severity, and nothing else")
        word = _one_of(*(s.word for s in Severity if s is not Severity.OK))(row["severity"])
        step = Step(_amount(row["at"]), _amount(row["clear"]), Severity[word.upper()])
        if largest is not None and max(step.at, step.clear) > largest:
            raise ValueError(f"levels are {what}: {max(step.at, step.clear)} would never be reached")
        if step.at == step.clear:
            raise ValueError(f"at and clear are both {step.at}; clear must lie on the safe side of at")
        steps.append(step)
    steps.sort(key=lambda step: step.severity)
    if any((step.clear < step.at) != rising for step in steps):
        where = "below at: this is worse the higher it is" if rising else "above at: this is worse the lower it is"
        raise ValueError(f"clear must lie {where}")
    levels = [step.at for step in steps]
    if len({step.severity for step in steps}) < len(steps) or levels != sorted(set(levels), reverse=not rising):
        raise ValueError("each severity may have one step, and a higher severity needs a more alarming at")
    return tuple(steps)


def _check_promptness(reader: _Reader, file: str, rules: RuleBook) -> None:
    """A link that is lost must be told of soon: an undeclared loss looks to the service's watchdog like a hang."""
    overrides = enumerate(rules.matches.get("data_stale", ()), 1)
    named = [("[rules.data_stale]", rules.rules["data_stale"])]
    named += [(f"[[rules.data_stale.match]] number {number}", match.rule) for number, match in overrides]
    for where, rule in named:
        assert isinstance(rule, DataStaleRule)
        takes_s = declared_after_s(rule)
        if rule.enabled and takes_s > DECLARED_WITHIN_S:
            reader.wrong(
                file,
                where,
                f"a lost link would be told of after {takes_s:g} s (first step or stale_after_s, plus for_s); it must"
                f" be within {DECLARED_WITHIN_S:g} s, or the systemd watchdog takes the silence for a hang:"
                f" add a first step at {DECLARED_WITHIN_S:g} or less, such as a notice",
            )


def secrets(config: Config) -> Iterable[tuple[str, Secret]]:
    """Every secret that the config names, with its key, for messages."""
    if config.mqtt.password is not None:
        yield "[mqtt] password", config.mqtt.password
    for key in ("url", "webhook"):
        address = getattr(config.heartbeat, key)
        if isinstance(address, Secret):
            yield f"[heartbeat] {key}", address
    for account in config.accounts:
        yield f'[[account]] "{account.name}" api_key', account.api_key
        yield f'[[account]] "{account.name}" secret', account.secret
