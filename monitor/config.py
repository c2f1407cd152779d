"""config.toml → a frozen `Config`; every mistake is reported at once, by file and key, with what would be right.

Pure: files are read, and secrets fetched, by `shell/settings.py`. Durations are keys, so that a test can run fast by
configuration. `config.example.toml` shows every key. To add one: a field, annotated with how it is read where its type
does not say that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import time
from itertools import chain, count
from typing import Annotated, Any, Literal, get_args

from msgspec import Struct, structs

from monitor.config_rules import as_severity, check_case, check_promptness, read_rules
from monitor.config_values import (
    HiddenUrl,
    Kinds,
    Listen,
    Reader,
    Secret,
    Table,
    as_anything,
    as_flag,
    as_forms,
    as_host,
    as_hosts,
    as_listen,
    as_minutes,
    as_name,
    as_one_of,
    as_prefix,
    as_seconds,
    as_secret,
    as_text,
    as_texts,
    as_time_of_day,
    as_timezone,
    as_url,
    as_whole,
    kinds_of,
    zone,
)
from monitor.core import Setup
from monitor.effects import AccountSetup
from monitor.errors import ConfigError
from monitor.judges.daily import Daily
from monitor.judges.groups import Group
from monitor.rules import RuleBook
from monitor.topics import Topics
from monitor.venues import VENUES, Hosts, PrivateForm, hosts

STORE_NAME = "marginwatch.sqlite3"
"""Name of the store where no path is given; `shell/settings.py` says in which folder."""


Environment = Literal["live", "testnet", "demo", "custom"]


class MqttConfig(Struct, frozen=True):
    host: Annotated[str, as_host] = "localhost"
    port: Annotated[int, as_whole(1, 65_535)] = 1883
    username: str | None = None
    password: Secret | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    tls: bool = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_insecure: bool = False
    prefix: Annotated[str, as_prefix] = "marginwatch"
    client_id: str | None = None
    keepalive_s: Annotated[float, as_seconds(1, 3600)] = 15
    timeout_s: Annotated[float, as_seconds(0.1, 600)] = 5
    reconnect_max_s: Annotated[float, as_seconds(0.1, 3600)] = 30
    inflight: Annotated[int, as_whole(1, 1000)] = 32
    figures_per_s: Annotated[int, as_whole(1, 1_000_000)] = 1000
    discovery: bool = False
    discovery_prefix: Annotated[str, as_prefix] = "homeassistant"

    @property
    def topics(self) -> Topics:
        return Topics(self.prefix, self.discovery_prefix)


class AccountConfig(Struct, frozen=True):
    name: str
    venue: str
    api_key: Secret
    secret: Secret
    environment: Environment = "live"
    hosts: Hosts = Hosts("", "", "", "")
    market: str = ""
    labels: dict[str, str] = {}
    accept_trading_key: bool = False


class LinksConfig(Struct, frozen=True):
    """Deadlines and habits of the links to the exchange; durations in seconds.

    Args:
        private_forms: Ways to open a private stream, tried in turn; empty: the venue's own order.
        accounts_per_connection: How many accounts of one host have their private streams over one connection.
        market_connections: How many connections carry the same marks, side by side.
        mute_after_s: How long the private stream may owe us what a snapshot has shown.
        rebuild_after: Failed sessions in a row after which the REST client is made anew too.
    """

    tick_s: Annotated[float, as_seconds(0.01, 5)] = 1
    connect_timeout_s: Annotated[float, as_seconds(0.1)] = 10
    first_frame_s: Annotated[float, as_seconds(0.1)] = 10
    ping_interval_s: Annotated[float, as_seconds(0.1)] = 3
    ping_timeout_s: Annotated[float, as_seconds(0.1)] = 3
    close_timeout_s: Annotated[float, as_seconds(0.1)] = 1
    backoff_min_s: Annotated[float, as_seconds(0.01)] = 0.5
    backoff_max_s: Annotated[float, as_seconds(0.01)] = 30
    keepalive_s: Annotated[float, as_seconds(0.1, 1800)] = 720
    reconcile_s: Annotated[float, as_seconds(0.1, 3600)] = 30
    refresh_s: Annotated[float, as_seconds(1)] = 3600
    status_s: Annotated[float, as_seconds(0.1)] = 60
    clock_s: Annotated[float, as_seconds(1)] = 600
    bridge_s: Annotated[float, as_seconds(0.1, 600)] = 3
    rest_timeout_s: Annotated[float, as_seconds(0.1)] = 10
    weight_per_minute: Annotated[int, as_whole(50, 100_000)] = 1200
    connection_life_s: Annotated[float, as_seconds(1, 86_400)] = 82_800
    dispute_s: Annotated[float, as_seconds(0)] = 60
    array_above: Annotated[int, as_whole(1, 1000)] = 150
    compression: bool = True
    private_forms: Annotated[tuple[PrivateForm, ...], as_forms] = ()
    accounts_per_connection: Annotated[int, as_whole(1, 1000)] = 1
    market_connections: Annotated[int, as_whole(1, 2)] = 1
    mute_after_s: Annotated[float, as_seconds(0.05, 600)] = 5
    rebuild_after: Annotated[int, as_whole(1, 1000)] = 3


class StoreConfig(Struct, frozen=True):
    path: str = STORE_NAME
    keep_days: Annotated[int, as_whole(1, 36_500)] = 90


class HeartbeatConfig(Struct, frozen=True):
    """Outbound proof of life, and where alerts go while the MQTT broker is away; durations in seconds.

    Args:
        url: Asked while all is well; `<url>/fail` while blind. None: nothing is.
        webhook: Where events are posted while the broker is away. None: nowhere.
        webhook_after_s: After so long without the broker it counts as away.
        webhook_from: Severity from which events are posted.
    """

    url: Secret | HiddenUrl | None = None
    every_s: Annotated[float, as_seconds(0.05, 86_400)] = 60
    webhook: Secret | HiddenUrl | None = None
    webhook_after_s: Annotated[float, as_seconds(0.05, 86_400)] = 30
    webhook_from: Annotated[str, as_severity] = "warning"


class PrivacyConfig(Struct, frozen=True):
    """What may be read by others.

    Args:
        amounts: False: each event has a notice without amounts beside it, and the webhook gets that instead.
    """

    amounts: bool = True


class SummaryConfig(Struct, frozen=True):
    """The daily summary.

    Args:
        timezone: IANA name of the zone that `at` is meant in.
    """

    enabled: bool = True
    at: Annotated[time, as_time_of_day] = time(8)
    timezone: Annotated[str, as_timezone] = "UTC"

    @property
    def daily(self) -> Daily | None:
        return Daily(self.at, zone(self.timezone)) if self.enabled else None


class CmdConfig(Struct, frozen=True):
    """Commands over MQTT: acknowledgements and silences.

    Args:
        unacked_s: A critical incident that nobody acknowledges for so long is told again, louder (seconds).
        username: Whom `marginwatch ack` and `silence` log in as; the daemon needs no right to publish there.
    """

    enabled: bool = False
    unacked_s: Annotated[float, as_seconds(1)] = 600
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
    minutes: Annotated[float, as_minutes] = 5
    keep: Annotated[int, as_whole(1, 1000)] = 20


class HttpConfig(Struct, frozen=True):
    """The HTTP server of the daemon.

    Args:
        listen: None: there is none.
        token: What a caller has to present; None: nothing, which is possible on loopback alone.
        hosts: Names besides loopback's own by which callers without a token may address us.
    """

    listen: Annotated[Listen | None, as_listen] = None
    token: Secret | None = None
    hosts: Annotated[tuple[str, ...], as_hosts] = ()


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
    privacy: PrivacyConfig = PrivacyConfig()
    summary: SummaryConfig = SummaryConfig()
    group: Group = Group()
    http: HttpConfig = HttpConfig()
    rules: RuleBook = RuleBook()
    instance: str | None = None
    credentials_dir: str | None = None
    summary_every_s: float = 30

    @property
    def setup(self) -> Setup:
        """What the core has to know of it."""
        accounts = tuple(
            AccountSetup(a.name, a.venue, a.market, a.labels, a.accept_trading_key, a.environment)
            for a in self.accounts
        )
        unacked_s = self.cmd.unacked_s if self.cmd.enabled else None
        return Setup(
            accounts=accounts,
            rules=self.rules,
            dispute_s=self.links.dispute_s,
            summary_every_s=self.summary_every_s,
            unacked_s=unacked_s,
            daily=self.summary.daily,
            group=self.group,
            figures_per_s=self.mqtt.figures_per_s,
        )


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
    reader = Reader()
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
    taken: set[str] = set()
    for name, account in accounts:
        if account.name in taken:
            reader.wrong(name, f'[[account]] "{account.name}"', "the name is taken; every account needs its own")
        taken.add(account.name)
    config = Config(
        accounts=_with_markets([account for _, account in accounts]),
        **{name: _section(reader, main_name, top, name) for name in _SECTIONS},
        rules=read_rules(reader, main_name, top.get("rules", {})),
        instance=top.get("instance"),
        credentials_dir=reader.table(main_name, "[credentials] ", top.get("credentials", {}), _CREDENTIALS).get("dir"),
        summary_every_s=top.get("summary_every_s", 30),
    )
    _check_together(reader, main_name, top, config)
    return config, reader.problems, [*secrets(config), *reader.secrets]


def _check_together(reader: Reader, file: str, top: Table, config: Config) -> None:
    """What is right by itself, and wrong with what stands beside it."""
    check_case(reader, file, config.rules)
    check_promptness(reader, file, config.rules)
    forms = config.links.private_forms
    if config.links.accounts_per_connection > 1 and forms and "subscribe" not in forms:
        reader.wrong(file, "[links] accounts_per_connection", 'above 1 needs "subscribe" among private_forms')
    if config.mqtt.password is not None and config.mqtt.username is None:
        reader.wrong(file, "[mqtt] password", "is of no use without username")
    if (config.mqtt.tls_cert_file is None) != (config.mqtt.tls_key_file is None):
        reader.wrong(file, "[mqtt] tls_cert_file", "needs tls_key_file, and the other way round")
    if config.http.listen is not None and not config.http.listen.is_loopback and "token" not in top.get("http", {}):
        remedy = f"is missing; {config.http.listen} can be reached from outside, and shows what you hold. Name a secret"
        reader.wrong(file, "[http] token", f"{remedy}, such as credential:http_token, or listen on 127.0.0.1")


_ACCOUNT: Kinds = {
    "name": as_name,
    "venue": as_one_of(*VENUES),
    "environment": as_one_of(*get_args(Environment)),
    "api_key": as_secret,
    "secret": as_secret,
    "labels": as_texts,
    "accept_trading_key": as_flag,
    "rest_url": as_url("http", "https"),
    "market_url": as_url("ws", "wss"),
    "private_url": as_url("ws", "wss"),
    "wallet_url": as_url("http", "https"),
}
_GROUP: Kinds = {"enabled": as_flag, "window_s": as_seconds(0.1, 3600), "min_accounts": as_whole(1, 100_000)}
_CREDENTIALS: Kinds = {"dir": as_text}
_NEEDED = ("name", "venue", "api_key", "secret")
_SECTIONS: dict[str, tuple[type[Struct], Kinds]] = {
    "mqtt": (MqttConfig, kinds_of(MqttConfig)),
    "links": (LinksConfig, kinds_of(LinksConfig)),
    "store": (StoreConfig, kinds_of(StoreConfig)),
    "log": (LogConfig, kinds_of(LogConfig)),
    "recorder": (RecorderConfig, kinds_of(RecorderConfig)),
    "cmd": (CmdConfig, kinds_of(CmdConfig)),
    "heartbeat": (HeartbeatConfig, kinds_of(HeartbeatConfig)),
    "privacy": (PrivacyConfig, kinds_of(PrivacyConfig)),
    "summary": (SummaryConfig, kinds_of(SummaryConfig)),
    "group": (Group, _GROUP),
    "http": (HttpConfig, kinds_of(HttpConfig)),
}
"""Name, both in the file and in `Config` → what is made of it, of which keys."""
_TOP: Kinds = {
    "include": as_anything,
    "instance": as_text,
    "summary_every_s": as_seconds(0.1, 80),
    "account_defaults": as_anything,
    "account": as_anything,
    "credentials": as_anything,
    "rules": as_anything,
    **dict.fromkeys(_SECTIONS, as_anything),
}


def _section(reader: Reader, file: str, top: Table, name: str) -> Any:
    make, kinds = _SECTIONS[name]
    return make(**reader.table(file, f"[{name}] ", top.get(name, {}), kinds))


def _account(
    reader: Reader, file: str, number: int, row: Any, defaults: Table, inherited: Collection[str]
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


def after(running: Config, config: Config) -> Config:
    """A config as it is taken while another runs: markets that are watched already keep their names."""
    known = {(a.venue, a.hosts.market_url): a.market for a in running.accounts}
    return structs.replace(config, accounts=_with_markets(config.accounts, known))


def _with_markets(
    accounts: Iterable[AccountConfig], known: Mapping[tuple[str, str], str] | None = None
) -> tuple[AccountConfig, ...]:
    """Name the market link of each account: one per venue, environment and address, shared by all who use it.

    Args:
        known: Names that are taken, by venue and address.
    """
    names = dict(known or {})
    named = []
    for account in accounts:
        address = (account.venue, account.hosts.market_url)
        if address not in names:
            base = f"market-{account.venue}" + ("" if account.environment == "live" else f"-{account.environment}")
            free = (name for name in chain([base], (f"{base}-{n}" for n in count(2))) if name not in names.values())
            names[address] = next(free)
        named.append(structs.replace(account, market=names[address]))
    return tuple(named)


def secrets(config: Config) -> Iterable[tuple[str, Secret]]:
    """Every secret that the config names, with its key, for messages."""
    if config.mqtt.password is not None:
        yield "[mqtt] password", config.mqtt.password
    if config.http.token is not None:
        yield "[http] token", config.http.token
    for key in ("url", "webhook"):
        address = getattr(config.heartbeat, key)
        if isinstance(address, Secret):
            yield f"[heartbeat] {key}", address
    for account in config.accounts:
        yield f'[[account]] "{account.name}" api_key', account.api_key
        yield f'[[account]] "{account.name}" secret', account.secret
