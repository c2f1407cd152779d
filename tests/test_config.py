"""config.toml: every mistake at once, by file and key, with what would be right; and every key to its effect."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from datetime import UTC, time
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from monitor.config import Config, HeartbeatConfig, after, parse, secrets
from monitor.config_values import HiddenUrl, Secret
from monitor.core import Setup
from monitor.effects import AccountSetup
from monitor.errors import ConfigError
from monitor.judges.daily import Daily
from monitor.judges.groups import Group
from monitor.rules import (
    DEFAULTS,
    DataStaleRule,
    FundingForecastRule,
    HedgeBrokenRule,
    LiquidationPriceMovedRule,
    MarginRatioRule,
    Rule,
    RuleBook,
    Severity,
    Step,
)
from monitor.shell import settings

D = Decimal

ACCOUNT = """
[[account]]
name = "main"
venue = "binance-usdm"
api_key = "env:KEY"
secret = "env:SECRET"
"""

VENUE_HINT = 'venue: must be one of binance-usdm, binance-coinm; did you mean "binance-usdm"?'


def read(text: str, *others: tuple[str, str]) -> Config:
    documents = [("config.toml", text), *others]
    return parse([(name, tomllib.loads(body, parse_float=Decimal)) for name, body in documents])


def problems(text: str, *others: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, *others)
    return list(caught.value.problems)


# ---- mistakes ----


def test_the_smallest_config_is_one_account() -> None:
    """Everything else has a default that works."""
    config = read(ACCOUNT)

    assert [(a.name, a.venue, a.environment) for a in config.accounts] == [("main", "binance-usdm", "live")]
    assert dict(config.rules.rules) == dict(DEFAULTS)
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.prefix) == ("localhost", 1883, "marginwatch")


def test_every_mistake_is_reported_at_once() -> None:
    """Whoever mends a config wants one round, not ten."""
    found = problems(
        """
        instnce = "vps1"
        [mqtt]
        prot = 1883
        port = 70000
        prefix = "a/#"
        [log]
        level = "debgu"
        [store]
        keep_days = 0
        [rules.margin_rato]
        enabled = false
        [rules.data_stale]
        for_s = "long"
        [[account]]
        name = "Main"
        venue = "binance-usd"
        secret = "env:S"
        """
    )

    assert found == [
        'config.toml: instnce: unknown key; did you mean "instance"?',
        'config.toml: [[account]] "Main" name: must be 1 to 32 of a-z, 0-9 and -, and none of status, info, cmd',
        f'config.toml: [[account]] "Main" {VENUE_HINT}',
        'config.toml: [[account]] "Main" api_key: is missing',
        'config.toml: [mqtt] prot: unknown key; did you mean "port"?',
        "config.toml: [mqtt] port: must be a whole number from 1 to 65535",
        'config.toml: [mqtt] prefix: must be a topic without wildcards, such as "marginwatch" or "home/marginwatch"',
        "config.toml: [store] keep_days: must be a whole number from 1 to 36500",
        'config.toml: [log] level: must be one of debug, info, warning, error; did you mean "debug"?',
        'config.toml: [rules.margin_rato]: unknown rule; did you mean "margin_ratio"?',
        "config.toml: [rules.data_stale] for_s: must be a number of seconds from 0 to 10,000,000",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "[[account]]: there is none; name at least one account to watch"),
        ("account = 3", "account: must be written [[account]]"),
        ('[account]\nname = "x"', "account: must be written [[account]]"),
        (ACCOUNT + ACCOUNT, '[[account]] "main": the name is taken; every account needs its own'),
        (ACCOUNT.replace('"main"', '"status"'), '[[account]] "status" name: must be 1 to 32'),
        (ACCOUNT.replace('"main"', '"_instance"'), '[[account]] "_instance" name: must be 1 to 32'),
        (ACCOUNT.replace('name = "main"\n', ""), "[[account]] number 1 name: is missing"),
        (ACCOUNT + 'environment = "tesnet"', 'must be one of live, testnet, demo, custom; did you mean "testnet"?'),
        (ACCOUNT + "labels = {desk = 3}", "labels: must be a table of texts"),
        ('[mqtt]\nhost = "mqtt://broker"\n' + ACCOUNT, "[mqtt] host: must be a name or an address alone"),
        ('[mqtt]\nhost = "broker:1883"\n' + ACCOUNT, "[mqtt] host: must be a name or an address alone"),
        ('[mqtt]\nhost = "broker..lan"\n' + ACCOUNT, "[mqtt] host: must be a name or an address alone"),
        ('[mqtt]\ntls = "yes"\n' + ACCOUNT, "[mqtt] tls: must be true or false"),
        ("account_defaults = 3\n[[account]]", "[account_defaults]: must be a table"),
        (ACCOUNT + 'rest_url = "wss://x"', "rest_url: must be an address beginning with http:// or https://"),
        (ACCOUNT + 'market_url = "wss://x:99999"', "market_url: must be an address beginning with ws:// or wss://"),
        (ACCOUNT + 'market_url = "wss://x:y"', "market_url: must be an address beginning with ws:// or wss://"),
        (ACCOUNT + f'private_url = "wss://{"x" * 64}"', "private_url: must be an address beginning with ws://"),
        (ACCOUNT + 'private_url = "wss://x y"', "private_url: must be an address beginning with ws://"),
        (ACCOUNT + "rules = 3", '[[account]] "main" rules: unknown key'),
        ("mqtt = 3\n" + ACCOUNT, "[mqtt]: must be a table"),
        ("[mqtt]\nport = true\n" + ACCOUNT, "[mqtt] port: must be a whole number"),
        ("[mqtt]\nport = 1883.0\n" + ACCOUNT, "[mqtt] port: must be a whole number"),
        ('[mqtt]\npassword = "env:P"\n' + ACCOUNT, "[mqtt] password: is of no use without username"),
        ('[mqtt]\ntls_cert_file = "a"\n' + ACCOUNT, "[mqtt] tls_cert_file: needs tls_key_file"),
        (
            '[mqtt]\nclient_id = "a\\u0000b"\n' + ACCOUNT,
            "[mqtt] client_id: must be at most 1000 characters in one line",
        ),
        (f'[mqtt]\nclient_id = "{"x" * 65536}"\n' + ACCOUNT, "[mqtt] client_id: must be at most 1000 characters"),
        (f'[mqtt]\nprefix = "{"x" * 65536}"\n' + ACCOUNT, "[mqtt] prefix: must be a topic without wildcards"),
        ('[mqtt]\nhost = " "\n' + ACCOUNT, "[mqtt] host: must be a text in quotes"),
        ("[links]\ntick_s = 0\n" + ACCOUNT, "[links] tick_s: must be a number of seconds from 0.01 to 5"),
        ("[links]\ntick_s = nan\n" + ACCOUNT, "[links] tick_s: must be a number of seconds"),
        ("[links]\ndispute_s = inf\n" + ACCOUNT, "[links] dispute_s: must be a number of seconds"),
        ('[links]\nprivate_forms = ["quey"]\n' + ACCOUNT, 'did you mean "query"?'),
        ("[links]\naccounts_per_connection = 0\n" + ACCOUNT, "must be a whole number from 1 to 1000"),
        (
            '[links]\naccounts_per_connection = 2\nprivate_forms = ["path"]\n' + ACCOUNT,
            '[links] accounts_per_connection: above 1 needs "subscribe" among private_forms',
        ),
        ("rules = 3\n" + ACCOUNT, "rules: must be written [rules.<name>]"),
        ("rules.margin_ratio = 3\n" + ACCOUNT, "[rules.margin_ratio]: must be a table"),
        ("[rules.margin_ratio]\nfr_s = 3\n" + ACCOUNT, '[rules.margin_ratio] fr_s: unknown key; did you mean "for_s"?'),
        ("[rules.margin_ratio]\ncritical_within = 11\n" + ACCOUNT, "critical_within: must be a fraction"),
        ("[rules.margin_ratio]\ncritical_within = nan\n" + ACCOUNT, "critical_within: must be a fraction"),
        ("[rules.margin_ratio]\nrepeat_s = {warn = 3}\n" + ACCOUNT, "repeat_s: must be a table of seconds by severity"),
        ("[rules.margin_ratio]\nrepeat_s = 3\n" + ACCOUNT, "repeat_s: must be a table of seconds by severity"),
        (
            "[rules.margin_ratio]\nrepeat_s = {warning = 9, crit = 3}\n" + ACCOUNT,
            "repeat_s: must be a table of seconds by severity",
        ),
        ("[rules.margin_ratio]\nmatch = 3\n" + ACCOUNT, "match: must be written [[rules.margin_ratio.match]]"),
        ("[rules.margin_ratio]\nmatch = [3]\n" + ACCOUNT, "[[rules.margin_ratio.match]] number 1: must be a table"),
        ("[[rules.margin_ratio.match]]\nfor_s = 3\n" + ACCOUNT, "number 1: names nothing to match; give account"),
        ("[[rules.margin_ratio.match]]\nlabel.desk = 3\n" + ACCOUNT, "label.desk: must be a text in quotes"),
        (
            '[[rules.margin_ratio.match]]\nsymbol = "X*"\nlabel = "desk"\n' + ACCOUNT,
            "number 1 label: must be written label.<name>",
        ),
        ('[[rules.margin_ratio.match]]\nsymbl = "X*"\n' + ACCOUNT, 'symbl: unknown key; did you mean "symbol"?'),
    ],
)
def test_a_mistake_is_named_with_its_file_its_key_and_its_remedy(text: str, said: str) -> None:
    """`config.toml: key: what would be right`, and no traceback."""
    found = problems(text)
    assert any(said in one for one in found), found
    assert all(one.startswith("config.toml: ") for one in found)


@pytest.mark.parametrize("value", ["AKIAx9f8s7d6", "env:", "file", "vault:secret", 12345678])
@pytest.mark.parametrize("key", ["api_key", "secret"])
def test_a_secret_is_never_repeated_in_a_message(value: object, key: str) -> None:
    """It was pasted where its place should be named; a log or a bug report must not carry it on."""
    lines = {"api_key": '"env:KEY"', "secret": '"env:SECRET"', key: value if isinstance(value, int) else f'"{value}"'}
    text = '[[account]]\nname = "main"\nvenue = "binance-usdm"\n' + "\n".join(f"{k} = {v}" for k, v in lines.items())
    [found] = problems(text)

    assert found == (
        f'config.toml: [[account]] "main" {key}: must be env:NAME, file:PATH or credential:NAME;'
        " a secret is never written into the config"
    )


def test_a_password_in_plain_text_is_not_repeated_either() -> None:
    """The same for the broker."""
    found = problems('[mqtt]\nusername = "u"\npassword = "hunter2"\n' + ACCOUNT)
    assert "hunter2" not in " ".join(found)


# ---- steps ----


def steps_of(rows: str, rule: str = "margin_ratio") -> Rule:
    return read(f"[rules.{rule}]\nsteps = {rows}\n{ACCOUNT}").rules.rules[rule]


def test_steps_are_read_exactly_and_sorted_by_severity() -> None:
    """0.1 is 0.1: no binary fraction ever stands between a level and a ratio."""
    rule = steps_of(
        '[{at = 0.9, clear = 0.8, severity = "critical"},'
        ' {at = 0.7000000000000000001, clear = 0.1, severity = "notice"}]'
    )
    assert rule.steps == (
        Step(D("0.7000000000000000001"), D("0.1"), Severity.NOTICE),
        Step(D("0.9"), D("0.8"), Severity.CRITICAL),
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("[]", "must be a list such as"),
        ("3", "must be a list such as"),
        ("[0.8]", "each step needs at, clear and severity, and nothing else"),
        ('[{at = 0.8, severity = "warning"}]', "each step needs at, clear and severity, and nothing else"),
        ('[{at = 0.8, clear = 0.7, severity = "warning", x = 1}]', "each step needs at, clear and severity"),
        ('[{at = 0.8, clear = 0.7, severity = "bad"}]', "must be one of info, notice, warning, critical, liquidation"),
        ('[{at = 0.8, clear = 0.7, severity = "ok"}]', "must be one of info, notice, warning"),
        ('[{at = 0.8, clear = 0.8, severity = "warning"}]', "at and clear are both 0.8"),
        ('[{at = -1, clear = 0.8, severity = "warning"}]', "must be a number of at least 0"),
        ('[{at = inf, clear = 0.8, severity = "warning"}]', "must be a number of at least 0"),
        ('[{at = nan, clear = 0.8, severity = "warning"}]', "must be a number of at least 0"),
        ('[{at = "0.8", clear = 0.7, severity = "warning"}]', "must be a number of at least 0"),
        ('[{at = 0.7, clear = 0.8, severity = "warning"}]', "clear must lie below at: this is worse the higher it is"),
        (
            '[{at = 0.7, clear = 0.8, severity = "notice"}, {at = 0.9, clear = 0.8, severity = "warning"}]',
            "clear must lie below at: this is worse the higher it is",
        ),
        ('[{at = 0.7, clear = 0, severity = "warning"}]', "clear is 0, and no value is below that"),
        (
            '[{at = 0.7, clear = 0, severity = "notice"}, {at = 0.9, clear = 0.8, severity = "warning"}]',
            "clear is 0, and no value is below that",
        ),
        (
            '[{at = 0.9, clear = 0.7, severity = "warning"}, {at = 0.8, clear = 0.7, severity = "critical"}]',
            "a higher severity needs a more alarming at",
        ),
        (
            '[{at = 0.8, clear = 0.7, severity = "warning"}, {at = 0.9, clear = 0.7, severity = "warning"}]',
            "each severity may have one step",
        ),
    ],
)
def test_steps_that_could_never_work_are_refused(rows: str, said: str) -> None:
    """A level that never fires, or always does, is found at the desk and not in the night."""
    [found] = problems(f"[rules.margin_ratio]\nsteps = {rows}\n{ACCOUNT}")
    assert found.startswith("config.toml: [rules.margin_ratio] steps: ")
    assert said in found


def test_a_distance_has_its_clear_above() -> None:
    """It is worse the smaller it is; the other way round it would alarm whenever all is well."""
    row = '[{at = 0.05, clear = 0.06, severity = "warning"}]'
    assert steps_of(row, "liquidation_distance").steps == (Step(D("0.05"), D("0.06"), Severity.WARNING),)
    with pytest.raises(ConfigError, match="clear must lie above at: this is worse the lower it is"):
        steps_of('[{at = 0.06, clear = 0.05, severity = "warning"}]', "liquidation_distance")


# ---- rules ----


def test_of_a_rule_only_the_named_keys_change() -> None:
    """To move one number nobody should have to repeat the rest."""
    rule = read("[rules.margin_ratio]\nclear_for_s = 5\n" + ACCOUNT).rules.rules["margin_ratio"]

    default = DEFAULTS["margin_ratio"]
    assert rule.clear_for_s == 5
    assert (rule.steps, rule.repeat_s, rule.for_s) == (default.steps, default.repeat_s, default.for_s)
    assert isinstance(rule, MarginRatioRule)


def test_of_the_repeats_only_the_named_severities_change() -> None:
    """Warnings more often must not mean that critical is never repeated again."""
    rule = read("[rules.margin_ratio]\nrepeat_s = {warning = 600}\n" + ACCOUNT).rules.rules["margin_ratio"]
    assert dict(rule.repeat_s) == {"warning": 600, "critical": 300, "liquidation": 60}


def test_keys_of_one_rule_alone_have_their_kinds() -> None:
    """Seconds are seconds, fractions exact."""
    rules = read(
        "[rules.liquidation_price_moved]\nnotice_at = 0.003\nfunding_window_s = 1\nenabled = false\n"
        "[rules.data_stale]\nstale_after_s = 2.5\nendangered_ratio = 0.4\n" + ACCOUNT
    ).rules.rules
    moved, stale = rules["liquidation_price_moved"], rules["data_stale"]

    assert isinstance(moved, LiquidationPriceMovedRule)
    assert (moved.notice_at, moved.funding_window_s, moved.enabled) == (D("0.003"), 1, False)
    assert isinstance(stale, DataStaleRule)
    assert (stale.stale_after_s, stale.endangered_ratio) == (2.5, D("0.4"))


MATCHES = """
[rules.margin_ratio]
clear_for_s = 10
[[rules.margin_ratio.match]]
account = "test-*"
enabled = false
[[rules.margin_ratio.match]]
label.desk = "arb*"
symbol = "PEPE*"
for_s = 1
[[rules.margin_ratio.match]]
symbol = "PEPE*"
for_s = 2
[[rules.margin_ratio.match]]
min_notional = 1000.5
for_s = 3
"""


@pytest.mark.parametrize(
    ("account", "labels", "symbols", "notional", "expected"),
    [
        ("test-1", {"desk": "arb"}, ["PEPEUSDT"], "9999", (False, 0)),
        ("main", {"desk": "arb-2"}, ["BTCUSDT", "PEPEUSDT"], "0", (True, 1)),
        ("main", {"desk": "spot"}, ["PEPEUSDT"], "9999", (True, 2)),
        ("main", {}, ["1000PEPEUSDT"], "1000.5", (True, 3)),
        ("main", {}, ["BTCUSDT"], "1000.49", (True, 0)),
        ("main", {"desk": "arb"}, ["pepeusdt"], None, (True, 0)),
    ],
    ids=["account glob", "label and symbol", "first that fits", "notional", "none", "case counts, unknown notional"],
)
def test_the_first_match_that_fits_wins(
    account: str, labels: dict[str, str], symbols: list[str], notional: str | None, expected: tuple[bool, float]
) -> None:
    """Overrides are read from top to bottom, and each builds on the rule as it is configured."""
    rules = read(MATCHES + ACCOUNT).rules
    rule = rules.of("margin_ratio", account, labels, symbols, None if notional is None else D(notional))

    assert (rule.enabled, rule.for_s) == expected
    assert rule.clear_for_s == 10


def test_levels_of_overrides_are_levels_too() -> None:
    """No printed figure may be rounded across one of them."""
    rules = read(
        '[[rules.margin_ratio.match]]\nsymbol = "X*"\nsteps = [{at = 0.33, clear = 0.22, severity = "warning"}]\n'
        + ACCOUNT
    ).rules
    assert set(rules.levels("margin_ratio")) == {
        D(x) for x in ("0.5", "0.45", "0.8", "0.7", "0.9", "1", "0.33", "0.22")
    }


# ---- accounts ----


def test_defaults_and_the_accounts_name_make_a_hundred_accounts_short() -> None:
    """`{name}` stands for the account in every secret."""
    config = read(
        """
        [account_defaults]
        venue = "binance-usdm"
        environment = "testnet"
        api_key = "env:KEY_{name}"
        secret = "file:/run/keys/{name}.secret"
        [[account]]
        name = "a"
        [[account]]
        name = "b"
        environment = "live"
        secret = "credential:{name}-secret"
        """
    )

    assert [(a.name, a.environment) for a in config.accounts] == [("a", "testnet"), ("b", "live")]
    assert [str(secret) for _, secret in secrets(config)] == [
        "env:KEY_a",
        "file:/run/keys/a.secret",
        "env:KEY_b",
        "credential:b-secret",
    ]


def test_a_mistake_in_the_defaults_is_said_once_and_there() -> None:
    """Not once for each account that inherits it."""
    text = '[account_defaults]\nvenue = "binance"\n[[account]]\nname = "a"\napi_key = "env:A"\nsecret = "env:B"'
    found = problems(text)
    assert found == [f"config.toml: [account_defaults] {VENUE_HINT}"]


def test_included_files_bring_accounts_and_nothing_else() -> None:
    """One file per account; the rest belongs into the main file."""
    other = ACCOUNT.replace('"main"', '"second"')
    config = read("", ("accounts.d/a.toml", ACCOUNT), ("accounts.d/b.toml", other))
    assert [a.name for a in config.accounts] == ["main", "second"]

    found = problems(ACCOUNT, ("accounts.d/a.toml", '[mqtt]\nhost = "x"\n' + other + "x = 1"))
    assert found == [
        "accounts.d/a.toml: mqtt: unknown key; known are account",
        found[1],
    ]
    assert found[1].startswith('accounts.d/a.toml: [[account]] "second" x: unknown key')


def test_the_same_name_in_two_files_is_one_too_many() -> None:
    """Topics and incidents carry the name; two accounts under one would hide each other."""
    assert problems(ACCOUNT, ("accounts.d/a.toml", ACCOUNT)) == [
        'accounts.d/a.toml: [[account]] "main": the name is taken; every account needs its own'
    ]


CUSTOM = """
environment = "custom"
rest_url = "http://127.0.0.1:8080/"
market_url = "ws://127.0.0.1:8080"
private_url = "ws://127.0.0.1:8080"
"""


def test_a_custom_environment_has_addresses_of_its_own() -> None:
    """A simulated exchange is a matter of configuration."""
    [account] = read(ACCOUNT + CUSTOM).accounts

    assert account.hosts.rest_url == "http://127.0.0.1:8080"
    assert account.hosts.wallet_url == "http://127.0.0.1:8080"


def test_a_custom_environment_without_addresses_says_which() -> None:
    """All of them at once."""
    found = problems(ACCOUNT + 'environment = "custom"\nmarket_url = "ws://127.0.0.1:8080"')
    assert found == [
        'config.toml: [[account]] "main" rest_url: is missing; environment = "custom" needs it',
        'config.toml: [[account]] "main" private_url: is missing; environment = "custom" needs it',
    ]


def test_accounts_of_one_market_share_its_link() -> None:
    """One stream of marks serves them all; another environment has its own, with a name of its own."""
    second = ACCOUNT.replace('"main"', '"second"')
    test = ACCOUNT.replace('"main"', '"test"') + 'environment = "testnet"'
    one = ACCOUNT.replace('"main"', '"one"') + CUSTOM
    two = ACCOUNT.replace('"main"', '"two"') + CUSTOM.replace("8080", "9090")
    markets = {a.name: a.market for a in read(ACCOUNT + second + test + one + two).accounts}

    assert markets == {
        "main": "market-binance-usdm",
        "second": "market-binance-usdm",
        "test": "market-binance-usdm-testnet",
        "one": "market-binance-usdm-custom",
        "two": "market-binance-usdm-custom-2",
    }


def test_a_market_that_is_watched_keeps_its_name_when_a_config_is_taken_anew() -> None:
    """Names are given in order: the first account of a market may go, and nothing of the others may change."""

    def custom(name: str, port: int) -> str:
        urls = f'rest_url="http://x:{port}"\nmarket_url="ws://x:{port}"\nprivate_url="ws://x:{port}"'
        account = f'[[account]]\nname="{name}"\nvenue="binance-usdm"\napi_key="env:K"\nsecret="env:S"'
        return f'{account}\nenvironment="custom"\n{urls}\n'

    running = read(custom("one", 1) + custom("two", 2))
    taken = after(running, read(custom("two", 2) + custom("three", 3)))

    assert [a.market for a in running.accounts] == ["market-binance-usdm-custom", "market-binance-usdm-custom-2"]
    assert [a.market for a in taken.accounts] == ["market-binance-usdm-custom-2", "market-binance-usdm-custom-3"]

    later = after(taken, read(custom("three", 3) + custom("two", 2) + custom("four", 4)))
    assert (
        len({a.market for a in later.accounts}) == 3
    )  # two exchanges on one link would be valued at each other's marks


def test_sections_reach_the_config() -> None:
    """Every deadline is a key, so that a test can run fast by configuration; the core knows what it has to."""
    config = read(
        'instance = "vps1"\nsummary_every_s = 5\n'
        '[mqtt]\nusername = "u"\npassword = "credential:mqtt"\nprotocol = "3.1.1"\nprefix = "home/risk"\n'
        'figures_per_s = 7\n[links]\ntick_s = 0.05\nprivate_forms = ["path"]\ndispute_s = 9\n[store]\npath = "x.db"\n'
        '[log]\nformat = "json"\n[credentials]\ndir = "/etc/keys"\n[cmd]\nenabled = true\nunacked_s = 120\n'
        "[group]\nmin_accounts = 3\n" + ACCOUNT + 'labels = {desk = "a"}\naccept_trading_key = true'
    )

    assert (config.instance, config.summary_every_s) == ("vps1", 5)
    assert (config.mqtt.prefix, config.mqtt.protocol) == ("home/risk", "3.1.1")
    assert config.mqtt.password == Secret("credential", "mqtt")
    assert (config.links.tick_s, config.links.private_forms) == (0.05, ("path",))
    assert (config.store.path, config.log.format, config.credentials_dir) == ("x.db", "json", "/etc/keys")
    account = AccountSetup("main", "binance-usdm", "market-binance-usdm", {"desk": "a"}, True)
    assert config.setup == Setup(
        (account,),
        RuleBook(),
        dispute_s=9,
        summary_every_s=5,
        unacked_s=120,
        daily=Daily(time(8), UTC),
        group=Group(min_accounts=3),
        figures_per_s=7,
    )
    assert read(f"[cmd]\nunacked_s = 120\n{ACCOUNT}").setup.unacked_s is None  # nobody could acknowledge anything


def test_a_level_in_percent_is_an_error() -> None:
    """It would never be reached: the rule would be off, and nobody would know."""
    [problem] = problems(ACCOUNT + '[rules.margin_ratio]\nsteps = [{at = 80, clear = 70, severity = "warning"}]')

    assert "0.8 for 80 %" in problem


def test_a_symbol_in_lower_case_is_an_error() -> None:
    """It matches nothing, since symbols are upper-case."""
    steps = 'steps = [{at = 0.15, clear = 0.18, severity = "warning"}]'
    [problem] = problems(ACCOUNT + f'[[rules.liquidation_distance.match]]\nsymbol = "pepe*"\n{steps}')

    assert 'write "PEPE*"' in problem


@pytest.mark.parametrize(
    ("rule", "key", "expected"),
    [
        (
            "data_stale",
            'symbol = "BTC*"',
            "symbol: fits nothing, for the rule does not go by it; match by account, label",
        ),
        ("key_permissions", "min_notional = 5", "min_notional: fits nothing"),
        ("forced_order", "min_notional = 5", "match by account, label, symbol"),
        ("bracket_changed", "min_notional = 5", "min_notional: fits nothing"),
        ("clock_offset", 'account = "main"', "it is one for all: write [rules.clock_offset]"),
        ("exchange_status", 'label.desk = "a"', "label.desk: fits nothing"),
        ("margin_ratio", 'account = "Main"', 'number 1 account: names are lower-case; write "main"'),
    ],
)
def test_a_match_that_fits_nothing_is_an_error(rule: str, key: str, expected: str) -> None:
    """What it says would never hold, and whoever wrote it would rely on it."""
    [problem] = problems(ACCOUNT + f"[[rules.{rule}.match]]\n{key}\nenabled = false")

    assert expected in problem


def test_a_match_by_what_a_rule_goes_by_is_none() -> None:
    """A rule about a symbol goes by that, one about a pool by its size as well."""
    read(
        '[[rules.forced_order.match]]\nsymbol = "BTC*"\naccount = "main"\nlabel.desk = "a"\nenabled = false\n'
        '[[rules.data_stale.match]]\naccount = "main"\nlabel.desk = "a"\nenabled = false\n'
        '[[rules.liquidation_price_moved.match]]\nmin_notional = 5\nsymbol = "BTC*"\nenabled = false\n' + ACCOUNT
    )


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        ("contract_status", "at = 7200, clear = 7300", Step(D(7200), D(7300), Severity.WARNING)),
        ("auto_exchange", "at = 1, clear = 0.9", Step(D(1), D("0.9"), Severity.WARNING)),
        ("adl_quantile", "at = 4, clear = 2", Step(D(4), D(2), Severity.WARNING)),
        ("adl_quantile", "at = 3, clear = 2.5", Step(D(3), D("2.5"), Severity.WARNING)),
        ("data_stale", "at = 12, clear = 4", Step(D(12), D(4), Severity.WARNING)),
        ("clock_offset", "at = 300, clear = 200", Step(D(300), D(200), Severity.WARNING)),
    ],
)
def test_each_rule_has_its_own_measure(rule: str, row: str, expected: Step) -> None:
    """Seconds, places in a queue and fractions are not held to each other's bounds."""
    assert steps_of(f'[{{{row}, severity = "warning"}}]', rule).steps == (expected,)


@pytest.mark.parametrize(
    ("rule", "row", "said"),
    [
        ("adl_quantile", "at = 5, clear = 4", "levels are places in the queue, 0 to 4: 5 would never be reached"),
        ("margin_ratio", "at = 1.1, clear = 1", "levels are fractions, 0.8 for 80 %: 1.1 would never be reached"),
        ("key_permissions", "at = 3, clear = 2", "2 (it may move money away): 3 would never be reached"),
        ("auto_exchange", "at = 80, clear = 70", "levels are fractions, 0.8 for 80 %: 80 would never be reached"),
        ("contract_status", "at = 3600, clear = 3500", "clear must lie above at"),
        ("adl_quantile", "at = 3, clear = 4", "clear must lie below at"),
    ],
)
def test_a_level_that_its_measure_never_reaches_is_an_error(rule: str, row: str, said: str) -> None:
    """The rule would be off, and nobody would know."""
    [problem] = problems(ACCOUNT + f'[rules.{rule}]\nsteps = [{{{row}, severity = "warning"}}]')

    assert said in problem


@pytest.mark.parametrize("rule", ["funding_forecast", "hedge_broken", "bracket_changed", "forced_order"])
def test_a_rule_without_levels_of_its_own_takes_no_steps(rule: str) -> None:
    """They would do nothing: the steps of a forecast are those of the margin ratio."""
    [problem] = problems(ACCOUNT + f'[rules.{rule}]\nsteps = [{{at = 0.8, clear = 0.7, severity = "warning"}}]')

    assert problem.startswith(f"config.toml: [rules.{rule}] steps: unknown key; ")


@pytest.mark.parametrize("key", ["for_s = 5", "clear_for_s = 5", "reenter_s = 5", "repeat_s = {warning = 600}"])
@pytest.mark.parametrize("rule", ["hedge_broken", "bracket_changed", "exchange_margin_call", "liquidation_price_moved"])
def test_a_rule_that_tells_facts_has_nothing_to_hold_or_repeat(rule: str, key: str) -> None:
    """A key that would do nothing is an error; a person who sets it expects something."""
    [problem] = problems(ACCOUNT + f"[rules.{rule}]\n{key}")

    assert "unknown key" in problem


def test_keys_of_the_newer_rules_have_their_kinds() -> None:
    """Seconds are seconds, fractions exact; a forecast is held for a while like a level."""
    rules = read(
        "[rules.funding_forecast]\nwithin_s = 900\nnotice_at = 0.01\nignore_beyond = 0.5\nfor_s = 5\n"
        "[rules.hedge_broken]\nchanged_by = 0.25\n[rules.bracket_changed]\nenabled = false\n" + ACCOUNT
    ).rules.rules
    forecast, hedge = rules["funding_forecast"], rules["hedge_broken"]

    assert isinstance(forecast, FundingForecastRule)
    assert (forecast.within_s, forecast.notice_at, forecast.ignore_beyond, forecast.for_s) == (
        900,
        D("0.01"),
        D("0.5"),
        5,
    )
    assert isinstance(hedge, HedgeBrokenRule)
    assert (hedge.changed_by, rules["bracket_changed"].enabled) == (D("0.25"), False)


# ---- proof of life ----


def test_heartbeat_and_summary_have_defaults_that_need_nothing() -> None:
    """No address, no ping; but a summary every day, in a zone that needs no data."""
    config = read(ACCOUNT)

    assert (config.heartbeat.url, config.heartbeat.webhook) == (None, None)
    assert config.setup.daily == Daily(time(8), UTC)


def test_heartbeat_and_summary_take_effect() -> None:
    """Every key."""
    config = read(
        """
        [heartbeat]
        url = "https://hc-ping.com/0a1b2c3d"
        every_s = 30
        webhook = "file:/etc/marginwatch/webhook_url"
        webhook_after_s = 10
        webhook_from = "critical"
        [summary]
        at = "21:30"
        timezone = "Europe/Berlin"
        """
        + ACCOUNT
    )

    assert config.heartbeat == HeartbeatConfig(
        HiddenUrl("https://hc-ping.com/0a1b2c3d"), 30, Secret("file", "/etc/marginwatch/webhook_url"), 10, "critical"
    )
    assert config.setup.daily == Daily(time(21, 30), ZoneInfo("Europe/Berlin"))
    assert ("[heartbeat] webhook", config.heartbeat.webhook) in list(secrets(config))
    assert read("[summary]\nenabled = false\n" + ACCOUNT).setup.daily is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[heartbeat]\nurl = "ftp://0a1b2c3d"', "[heartbeat] url: must be an address beginning with https://"),
        ('[heartbeat]\nurl = "https://"', "[heartbeat] url: must be an address beginning with https://"),
        ('[heartbeat]\nurl = "https://0a1b2c3d:port/"', "[heartbeat] url: must be an address beginning with https://"),
        ('[heartbeat]\nwebhook = "https://[0a1b2c3d"', "[heartbeat] webhook: must be an address beginning with"),
        ('[heartbeat]\nurl = "0a1b2c3d"', "[heartbeat] url: must be an address beginning with https://, or env:NAME"),
        ("[heartbeat]\nurl = 3", "[heartbeat] url: must be an address beginning with https://, or env:NAME"),
        ("[heartbeat]\nevery_s = 0", "[heartbeat] every_s: must be a number of seconds"),
        ('[heartbeat]\nwebhook_from = "warn"', "[heartbeat] webhook_from: must be one of info, notice, warning"),
        ('[heartbeat]\nuri = "x"', '[heartbeat] uri: unknown key; did you mean "url"?'),
        ('[summary]\nat = "8:00"', '[summary] at: must be a time of day from "00:00" to "23:59"'),
        ('[summary]\nat = "24:00"', "[summary] at: must be a time of day"),
        ("[summary]\nat = 08:00:00", "[summary] at: must be a time of day"),
        ('[summary]\ntimezone = "Europe/Berlim"', 'such as "UTC" or "Europe/Berlin"; did you mean "Europe/Berlin"?'),
        ('[summary]\ntimezone = "Europe"', "[summary] timezone: must be the name of a time zone"),
        ('[summary]\ntimezone = "../../etc/passwd"', "[summary] timezone: must be the name of a time zone"),
        ("[summary]\ntimezone = 1", "[summary] timezone: must be the name of a time zone"),
        ('[summary]\nenabled = "no"', "[summary] enabled: must be true or false"),
    ],
)
def test_a_mistake_in_the_proof_of_life_is_named(text: str, said: str) -> None:
    """And an address that does not fit is not repeated: it may be the secret."""
    [found] = problems(f"{text}\n{ACCOUNT}")

    assert said in found
    assert "0a1b2c3d" not in found


def test_a_machine_without_time_zones_is_told_the_remedy() -> None:
    """A slim server has none; UTC needs none."""
    script = f"""
import sys, zoneinfo
sys.modules["tzdata"] = None  # as if it were not installed
zoneinfo.reset_tzpath(to=())
import tomllib
from monitor.config import parse
from monitor.errors import ConfigError
for zone in ("UTC", "Europe/Berlin"):
    text = '[summary]\\ntimezone = "' + zone + '"\\n' + {ACCOUNT!r}
    try:
        print(parse([("config.toml", tomllib.loads(text))]).summary.timezone)
    except ConfigError as exc:
        print(*exc.problems)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "UTC",
        "config.toml: [summary] timezone: this machine has no data about time zones: install it (apt install tzdata),"
        ' or write "UTC"',
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[rules.data_stale]\nsteps = [{at = 60, clear = 4, severity = "critical"}]',
        "[rules.data_stale]\nstale_after_s = 30",
        "[rules.data_stale]\nfor_s = 10",
        '[[rules.data_stale.match]]\naccount = "main"\nstale_after_s = 30',
    ],
)
def test_a_loss_that_is_told_too_late_for_the_watchdog_is_a_mistake(text: str) -> None:
    """Otherwise every outage of the exchange would end in a restart, again and again."""
    [found] = problems(f"{text}\n{ACCOUNT}")

    assert "it must be within 20 s, or the systemd watchdog takes the silence for a hang" in found


def test_a_loss_that_is_told_in_time_is_none() -> None:
    """A later warning is fine with a notice before it; and so is no rule at all."""
    steps = '[{at = 20, clear = 4, severity = "notice"}, {at = 90, clear = 4, severity = "warning"}]'

    read(f"[rules.data_stale]\nsteps = {steps}\n{ACCOUNT}")
    read(f"[rules.data_stale]\nenabled = false\nstale_after_s = 90\n{ACCOUNT}")


def test_a_file_that_nests_without_end_is_a_mistake_of_the_config(tmp_path: Path) -> None:
    """At SIGHUP anything but a `ConfigError` would be a reload that nobody hears of."""
    path = tmp_path / "config.toml"
    path.write_text("a = " + "[" * 100_000, "utf-8")

    with pytest.raises(ConfigError, match="nested too deep"):
        settings.load(path)


@pytest.mark.parametrize("include", ["3", '"accounts.d/*.toml"', "[3]"])
def test_an_include_that_is_no_list_of_patterns_is_a_mistake(tmp_path: Path, include: str) -> None:
    """A single pattern is written as a list too."""
    path = tmp_path / "config.toml"
    path.write_text(f"include = {include}\n{ACCOUNT}", "utf-8")

    with pytest.raises(ConfigError, match=r'include: must be a list such as \["accounts\.d/\*\.toml"\]'):
        settings.load(path)


# ---- secrets and places ----


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [
        (0o600, b"hunter2\n", None),
        (0o440, b"hunter2", None),
        (0o604, b"hunter2", "can be read by others; chmod 600"),
        (0o620, b"hunter2", "can be read by others; chmod 600"),
        (0o600, b" \n", "is empty"),
        (0o600, b"hunter 2", "has spaces, line breaks or characters that no key has"),
        (0o600, b"hunter\x012", "has spaces, line breaks or characters that no key has"),
        (0o600, b"hunter\xff", "is not a text"),
        (0o700, None, "is not a file"),
    ],
)
def test_a_secret_is_a_file_that_no_others_read(
    tmp_path: Path, mode: int, content: bytes | None, said: str | None
) -> None:
    """systemd's own may be readable by their group; what was found is not repeated."""
    path = tmp_path / "secret"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    path.chmod(mode)
    config = read(f'[mqtt]\nusername = "u"\npassword = "file:{path}"\n{ACCOUNT}')

    if said is None:
        assert settings.mqtt_password(config) == "hunter2"
        return
    with pytest.raises(ConfigError) as caught:
        settings.mqtt_password(config)
    assert said in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_a_secret_of_the_environment_has_to_be_there() -> None:
    """Every one that is missing is named at once."""
    with pytest.raises(ConfigError) as caught:
        settings.fetch(read(ACCOUNT), {})
    assert list(caught.value.problems) == [
        '[[account]] "main" api_key (env:KEY): the environment has no variable KEY; export it',
        '[[account]] "main" secret (env:SECRET): the environment has no variable SECRET; export it',
    ]
    assert set(settings.fetch(read(ACCOUNT), {"KEY": "k", "SECRET": "s"}).values()) == {"k", "s"}


def test_credentials_are_those_of_systemd_or_else_of_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same config works as a service and from a shell."""
    mqtt = '[mqtt]\nusername = "u"\npassword = "credential:mqtt"\n'
    for name in ("theirs", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mqtt").write_text(name)
        (tmp_path / name / "mqtt").chmod(0o600)
    config = read(f'{mqtt}[credentials]\ndir = "{tmp_path}/mine"\n{ACCOUNT}')

    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert settings.mqtt_password(config) == "mine"
    with pytest.raises(ConfigError, match="credentials exist under systemd only"):
        settings.mqtt_password(read(mqtt + ACCOUNT))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", f"{tmp_path}/theirs")
    assert settings.mqtt_password(config) == "theirs"
    assert settings.mqtt_password(read(ACCOUNT)) is None


def test_the_store_is_where_systemd_keeps_state_unless_it_has_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """And saved sessions are beside it, unless they have a folder of their own."""
    here, own = read(ACCOUNT), read(f'[store]\npath = "/own/x.db"\n[recorder]\ndir = "/other"\n{ACCOUNT}')

    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert settings.store_path(here) == Path("marginwatch.sqlite3")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/marginwatch:/var/lib/more")
    assert settings.store_path(here) == Path("/var/lib/marginwatch/marginwatch.sqlite3")
    assert settings.sessions_folder(here) == Path("/var/lib/marginwatch/sessions")
    assert (settings.store_path(own), settings.sessions_folder(own)) == (Path("/own/x.db"), Path("/other"))
