"""`marginwatch check --online` and `--test-alert`: a real broker, a simulated exchange over real sockets, and each
thing that can be wrong with them, with the remedy that a person reads."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from monitor.commands import check
from monitor.shell.findings import Finding, Findings
from monitor.sim import Exchange
from tests import stories
from tests.chaos.proxy import Proxy
from tests.conftest import needs_mosquitto
from tests.rig import Listener, Mosquitto, agreement, free_port, private_file, until, watching, write_config

SECRETS = ("main-key", "main-secret")
MARKET = "market-binance-usdm-custom"
READ_ONLY = {"ipRestrict": True}


class Checked:
    """What a check said.

    Attributes:
        lines: Level and text of each finding, with its remedy.
    """

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.end = err.strip()
        self.lines: list[tuple[str, str, str]] = []
        for line in out.splitlines():
            if line.startswith(" "):
                level, text, _ = self.lines.pop()
                self.lines.append((level, text, line.strip().removeprefix("→ ")))
            else:
                level, _, text = line.partition(" ")
                self.lines.append((level, text.strip(), ""))

    def of(self, level: str) -> list[tuple[str, str]]:
        """Text and remedy of what has this level."""
        return [(text, remedy) for one, text, remedy in self.lines if one == level]

    def the(self, level: str) -> tuple[str, str]:
        """The only finding of this level."""
        found = self.of(level)
        assert len(found) == 1, self.lines
        return found[0]


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str]) -> Any:
    async def run(path: Path, online: bool = True, test_alert: str | None = None) -> Checked:
        capsys.readouterr()
        status = await asyncio.to_thread(check.main, str(path), online, test_alert)
        said = capsys.readouterr()
        for secret in (*SECRETS, "open-sesame", "listenKey"):
            assert secret not in said.out + said.err
        return Checked(status, said.out, said.err)

    return run


def exchange(**account: Any) -> Exchange:
    return stories.exchange(stories.account(permissions=READ_ONLY, **account))


def config(folder: Path, exchange: Exchange, port: int, *changes: tuple[str, str], **keys: Any) -> Path:
    """A config as the daemon would have it, with some texts of it replaced."""
    path = write_config(folder / "d", exchange, port, **keys)
    text = path.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return private_file(path, text)


# ---- all is well ----


async def test_what_is_well_is_said_line_by_line(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """A person who reads it knows what was looked at; and nothing was changed at the exchange."""
    async with exchange() as live:
        found = await checked(config(tmp_path, live, broker.port))

    assert (found.status, found.end) == (0, "nothing to mend")
    texts = [text for _, text, _ in found.lines]
    assert {level for level, _, _ in found.lines} == {"ok"}
    for part in (
        f"{MARKET}: REST at 127.0.0.1:",
        f"{MARKET}: this machine's clock is ",
        f"{MARKET}: the exchange says that it works as usual",
        "main: the key is valid; 2 open positions, balances in USDT, one-way mode, single-asset mode",
        "main: the key may only read",
        "main: the private stream opens, and answers a ping",
        f"{MARKET}: the stream brings marks; the first, of BTCUSDT, after ",
        f"broker 127.0.0.1:{broker.port}: connected, MQTT 5",
        "broker: a message below marginwatch/ (QoS 1) came back within ",
        "broker: retained messages are kept, and emptied",
    ):
        assert any(text.startswith(part) for text in texts), part
    assert live.order_calls == []


async def test_a_coin_account_is_checked_too(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """Another market, another host, another first way to open the private stream."""
    coin = {"name": "main", "market": "coinm", "balances": {"BTC": "1"}, "permissions": READ_ONLY}
    async with stories.exchange(coin) as live:
        found = await checked(config(tmp_path, live, broker.port))

    assert found.status == 0
    assert ("main: the key is valid; no open positions, balances in BTC", "") in found.of("ok")
    assert any("the stream brings marks; the first, of BTCUSD_PERP" in text for text, _ in found.of("ok"))


async def test_an_override_for_a_symbol_that_nobody_lists_is_a_warning(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """A misspelt one keeps the levels for all, and its author relies on others."""
    own = [{"symbol": symbol, "for_s": 1} for symbol in ("BTC*", "BTCUSTD")]
    async with exchange() as live:
        found = await checked(config(tmp_path, live, broker.port, rules={"margin_ratio": {"match": own}}))

    said, remedy = found.the("warning")
    assert found.status == 0
    assert said == '[[rules.margin_ratio.match]] number 2: symbol "BTCUSTD" fits no listed contract'
    assert "BTCUSDT_261225" in remedy


async def test_a_mistake_in_the_config_is_mended_before_anybody_is_asked(checked: Any, tmp_path: Path) -> None:
    """What cannot be read cannot be asked with; it says so."""
    async with exchange() as live:
        found = await checked(config(tmp_path, live, 1883, ('name = "main"', 'name = "Main"')))
        asked = dict(live.counters)

    assert found.status == 1
    assert "exchange and broker were not asked: mend the config first" in dict(found.of("note"))
    assert asked == {}


# ---- the exchange does not answer, or answers with an error ----


@pytest.mark.parametrize(
    ("mode", "said", "remedy"),
    [
        ("403", "HTTP 403", "the exchange's firewall refuses this address: a country that it does not serve"),
        ("451", "HTTP 451, code 0", "the exchange does not serve the country of this address"),
        ("429", "HTTP 429, code -1003", "too many requests came from this address: stop what else asks from here"),
        ("418", "HTTP 418, code -1003", "this address is banned for a while: stop what else asks from here"),
        ("503", "HTTP 503", "the exchange is overloaded or in maintenance: try again later"),
        ("abort", "was cut", "does a firewall or proxy on the way allow it?"),
    ],
)
async def test_a_host_that_refuses_us_is_told_by_kind(
    checked: Any, broker: Mosquitto, tmp_path: Path, mode: str, said: str, remedy: str
) -> None:
    """Each has another remedy; and the broker is looked at all the same."""
    async with exchange() as live:
        live.fault(rest=mode)
        found = await checked(config(tmp_path, live, broker.port))

    text, advice = found.the("error")
    assert found.status == 1
    assert f"{MARKET}: REST: " in text
    assert said in text
    assert remedy in advice
    assert ("main: not asked, for the exchange does not answer", "") in found.of("note")
    assert any("came back within" in line for line, _ in found.of("ok"))


async def test_a_proxy_that_cannot_be_taken_is_named(
    checked: Any, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:s3cr3t@127.0.0.1:1080")
    async with exchange() as live:
        address = (f'rest_url = "{live.url}"', 'rest_url = "http://exchange.invalid"')
        found = await checked(config(tmp_path, live, broker.port, address))

    text, advice = found.the("error")
    assert "the environment names a SOCKS proxy" in text
    assert "s3cr3t" not in text
    assert "NO_PROXY" in advice


@pytest.mark.parametrize(
    ("address", "said", "remedy"),
    [
        ("http://no-such-host.invalid", "no address is known for the name no-such-host.invalid", "getent hosts"),
        (f"http://127.0.0.1:{free_port()}", "refuses the connection", "nothing listens there: are host and port right"),
    ],
    ids=["no such name", "nobody listens"],
)
async def test_an_address_that_leads_nowhere_is_told_by_kind(
    checked: Any, broker: Mosquitto, tmp_path: Path, address: str, said: str, remedy: str
) -> None:
    """A name that is misspelt, a port that is wrong."""
    async with exchange() as live:
        found = await checked(
            config(tmp_path, live, broker.port, (f'rest_url = "{live.url}"', f'rest_url = "{address}"'))
        )

    text, advice = found.the("error")
    assert said in text
    assert remedy in advice


async def test_a_host_without_tls_is_told_as_such(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """A proxy or login page in between, most often."""
    async with exchange() as live:
        https = live.url.replace("http:", "https:")
        found = await checked(
            config(tmp_path, live, broker.port, (f'rest_url = "{live.url}"', f'rest_url = "{https}"'))
        )

    text, advice = found.the("error")
    assert f"{MARKET}: REST: no trusted connection to 127.0.0.1" in text
    assert "the certificate is not believed" in advice


async def test_a_login_page_that_answers_for_the_exchange_is_told(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """With 200 and HTML, to whatever is asked."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n<html>login</html>")
        await writer.drain()
        writer.close()

    portal = await asyncio.start_server(page, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{portal.sockets[0].getsockname()[1]}"
    async with exchange() as live, portal:
        rest = (f'rest_url = "{live.url}"', f'rest_url = "{address}"')
        wallet = (f'wallet_url = "{live.url}"', f'wallet_url = "{address}"')
        host = await checked(config(tmp_path, live, broker.port, rest))
        unknown = await checked(config(tmp_path, live, broker.port, wallet))

    text, advice = host.the("error")
    assert text.endswith("an answer that does not read")
    assert "does a proxy or a login page answer for it?" in advice
    assert unknown.status == 0
    assert [text.endswith("an answer that does not read") for text, _ in unknown.of("note")] == [True, True]


async def test_an_address_with_the_path_in_it_is_named(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """The base is wanted; half of the documentation shows it with the path."""
    async with exchange() as live:
        path = config(tmp_path, live, broker.port, (f'rest_url = "{live.url}"', f'rest_url = "{live.url}/fapi"'))
        found = await checked(path)

    _, advice = found.the("error")
    assert "the address must be the base alone, without /fapi or /dapi" in advice


async def test_a_wrong_clock_is_told_with_what_sets_it_right(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """Signed requests go by the exchange's clock, so that all else can be looked at."""
    async with exchange() as live:
        live.fault(clock_skew_ms=7_000)
        found = await checked(config(tmp_path, live, broker.port))

    text, advice = found.the("error")
    assert text.startswith(f"{MARKET}: this machine's clock is ")
    assert text.endswith(" ms behind the exchange's")
    assert "timedatectl set-ntp true" in advice
    assert any("the key is valid" in line for line, _ in found.of("ok"))


async def test_maintenance_is_a_warning(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """It is the exchange's matter, and passes."""
    async with exchange() as live:
        live.set_system_status(1, "system_maintenance")
        found = await checked(config(tmp_path, live, broker.port))

    assert found.status == 0
    assert found.the("warning")[0] == f"{MARKET}: the exchange says: system_maintenance"


# ---- keys ----


@pytest.mark.parametrize(
    ("key", "secret", "said", "remedy"),
    [
        ("another-key", "main-secret", "code -2015", "the key does not exist (deleted, or of another environment)"),
        ("another-key", "main-secret", "code -2015", "the account is in portfolio margin mode, which is not supported"),
        ("main!key", "main-secret", "code -2014", "this is no API key: copy it once more; key and secret may have"),
        ("main-key", "main-secre", "code -1022", "the secret does not belong to the key"),
    ],
    ids=["unknown", "unknown or portfolio margin", "no key", "another's secret"],
)
async def test_a_key_that_is_refused_is_told_by_kind(
    checked: Any, broker: Mosquitto, tmp_path: Path, key: str, secret: str, said: str, remedy: str
) -> None:
    """The commonest of all failures of a newcomer; and the key is not in the text."""
    async with exchange() as live:
        path = config(tmp_path, live, broker.port)
        private_file(tmp_path / "d" / "main.key", key)
        private_file(tmp_path / "d" / "main.secret", secret)
        found = await checked(path)

    text, advice = found.the("error")
    assert text.startswith("main: the account cannot be read: 127.0.0.1:")
    assert said in text
    assert remedy in advice
    assert key not in str(found.lines).replace("the key", "")


async def test_a_key_that_the_wallet_takes_and_futures_refuse_is_a_case_of_its_own(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """The same code as for a wrong key, and another remedy."""
    async with exchange() as live:
        live.fault(rest="401", rest_paths=["/fapi/v1/accountConfig"])
        found = await checked(config(tmp_path, live, broker.port))

    assert (
        "it was made before the futures account was opened (make a new one), or the account uses portfolio"
        in (found.the("error")[1])
    )
    assert ("main: the key may only read", "") in found.of("ok")


async def test_a_key_that_may_do_more_than_read_fails(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """Read-only is what this program asks for."""
    async with exchange() as live:
        live.set_permissions("main", enableFutures=True, enableWithdrawals=True)
        path = config(tmp_path, live, broker.port)
        found = await checked(path)
        accepted = await checked(
            config(tmp_path, live, broker.port, ('name = "main"', 'name = "main"\naccept_trading_key = true'))
        )

    (moves, advice), (trades, _) = found.of("error")
    assert found.status == 1
    assert found.end == "2 to mend"
    assert moves.startswith("main: the key may move money away (enableWithdrawals)")
    assert trades.startswith("main: the key may trade (enableFutures)")
    assert "or take it as it is: accept_trading_key = true" in advice
    assert accepted.status == 0
    assert [text for text, _ in accepted.of("note")] == [
        "main: the key may move money away (enableWithdrawals), which you accept",
        "main: the key may trade (enableFutures), which you accept",
    ]


async def test_a_key_from_any_address_and_portfolio_margin_are_warnings(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """Both work, and both are worth a word."""
    async with exchange() as live:
        live.set_permissions("main", ipRestrict=False, enablePortfolioMarginTrading=True)
        found = await checked(
            config(tmp_path, live, broker.port, ('name = "main"', 'name = "main"\naccept_trading_key = true'))
        )

    (portfolio, not_supported), (anywhere, bind) = found.of("warning")
    assert (found.status, found.end) == (0, "nothing to mend, 2 warnings")
    assert "portfolio margin" in portfolio
    assert "portfolio margin is not supported" in not_supported
    assert "the key works from any address" in anywhere
    assert "bind it to this machine's public address" in bind


async def test_permissions_that_cannot_be_read_are_unknown_and_no_failure(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """A testnet has no wallet; whoever is there wants to watch all the same."""
    async with exchange() as live:
        found = await checked(
            config(tmp_path, live, broker.port, (f'wallet_url = "{live.url}"', f'wallet_url = "{live.url}/nowhere"'))
        )

    status, permissions = found.of("note")
    assert found.status == 0
    assert status[0].startswith(f"{MARKET}: the exchange's own status is unknown: 127.0.0.1:")
    assert "HTTP 404" in status[0]
    assert permissions[0].startswith("main: what the key may do is unknown: 127.0.0.1:")
    assert "look yourself, in the exchange's API management, that it may only read" in permissions[1]


# ---- streams ----


async def test_an_open_market_stream_that_brings_nothing_is_an_error(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """An acknowledgement proves nothing."""
    async with exchange() as live:
        live.fault(mute_market=True)
        found = await checked(config(tmp_path, live, broker.port))

    text, advice = found.the("error")
    assert text.startswith(f"{MARKET}: stream: 127.0.0.1:")
    assert text.endswith("open, but no mark for 1 s")
    assert "does a firewall or proxy let websockets through?" in advice


async def test_a_private_stream_that_opens_and_does_not_answer_is_an_error(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """Each way to open it is tried before that is said."""
    async with exchange() as live:
        live.fault(half_open_private=True)
        found = await checked(config(tmp_path, live, broker.port, links={"private_forms": ["query", "path"]}))
        opened = live.counters["POST /fapi/v1/listenKey"]

    text, _ = found.the("error")
    assert text.startswith("main: private stream: 127.0.0.1:")
    assert text.endswith("open, but no pong")
    assert opened == 2


async def test_an_address_that_is_no_stream_is_told_with_its_status(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """The route is missing, say; and the key in the path is not shown."""
    async with exchange() as live:
        wrong = (f'private_url = "{live.ws_url}/private"', f'private_url = "{live.ws_url}/nowhere"')
        found = await checked(config(tmp_path, live, broker.port, wrong, links={"private_forms": ["path"]}))

    text, advice = found.the("error")
    assert text.endswith("HTTP 404 instead of a stream")
    assert "there is no such path" in advice


async def test_a_host_that_wants_no_stream_for_a_while_is_asked_once(
    checked: Any, broker: Mosquitto, tmp_path: Path
) -> None:
    """Who goes on has his address banned, and the daemon's with it."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    handshakes = []

    def refuse(asked: bytes) -> bytes:
        handshakes.append(asked)
        return refusal

    async with exchange() as live, Proxy(lambda: live.port) as net:
        net.answer = refuse
        away = (f'private_url = "{live.ws_url}/private"', f'private_url = "ws://127.0.0.1:{net.port}/private"')
        found = await checked(config(tmp_path, live, broker.port, away))

    text, advice = found.the("error")
    assert text.endswith("HTTP 429 instead of a stream, and none is wanted for 60 s")
    assert "too many requests came from this address" in advice
    assert len(handshakes) == 1


# ---- the broker ----


async def test_a_broker_that_is_not_there_is_told_by_kind(checked: Any, tmp_path: Path) -> None:
    """And what the exchange says is told all the same."""
    async with exchange() as live:
        found = await checked(config(tmp_path, live, free_port()))
        away = await checked(
            config(tmp_path, live, 1883, mqtt={"host": "no-such-host.invalid"}), online=False, test_alert="critical"
        )

    text, advice = found.the("error")
    assert "refuses the connection" in text
    assert "does it run?" in advice
    assert any("the key is valid" in line for line, _ in found.of("ok"))
    assert "no address is known for the name no-such-host.invalid" in away.the("error")[0]


async def test_a_port_that_speaks_no_tls_or_no_mqtt_is_told(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """The two ports are easily mixed up."""
    async with exchange() as live:
        tls = await checked(config(tmp_path, live, broker.port, mqtt={"tls": True}), False, "critical")
        mqtt = {"port": live.port}
        http = await checked(config(tmp_path, live, broker.port, mqtt=mqtt), False, "critical")

    assert "does this port speak TLS" in tls.the("error")[1]
    assert "does this port speak MQTT? 1883 is usual" in http.the("error")[1]


@pytest.fixture
async def guarded(tmp_path: Path) -> Any:
    """A broker that asks for a login, and lets each do what its ACL says."""
    needs_mosquitto()
    folder = tmp_path / "guarded"
    folder.mkdir()
    # Hashes of "open-sesame" are made by mosquitto_passwd, as an operator does it.
    file = folder / "passwords"
    file.write_text("watch:open-sesame\nmute:open-sesame\ndeaf:open-sesame\n", "utf-8")
    process = await asyncio.create_subprocess_exec("mosquitto_passwd", "-U", str(file))
    assert await process.wait() == 0
    file.chmod(0o600)
    acl = folder / "acl"
    acl.write_text(
        "user watch\ntopic readwrite marginwatch/#\nuser mute\ntopic read marginwatch/#\n"
        "user deaf\ntopic write marginwatch/#\n",
        "utf-8",
    )
    acl.chmod(0o600)
    mosquitto = Mosquitto(folder, "allow_anonymous false", f"password_file {file}", f"acl_file {acl}")
    await mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@pytest.mark.parametrize(
    ("user", "password", "protocol", "said", "remedy"),
    [
        (None, None, "auto", "refuses the login", "it wants a login: [mqtt] username and password"),
        ("watch", "wrong", "auto", "refuses the login", "does the broker know them?"),
        ("watch", "wrong", "3.1.1", "refuses the login", "does the broker know them?"),
        ("mute", "open-sesame", "5", "nothing may be published below marginwatch/", "topic readwrite marginwatch/#"),
        ("mute", "open-sesame", "3.1.1", "cut the connection", "must let user mute read and write"),
        ("deaf", "open-sesame", "5", "was taken, and did not come back", "must let user deaf read and write"),
        ("deaf", "open-sesame", "3.1.1", "was taken, and did not come back", "must let user deaf read and write"),
    ],
)
async def test_a_broker_that_refuses_or_swallows_is_told_with_what_to_set(
    checked: Any,
    guarded: Mosquitto,
    tmp_path: Path,
    user: str | None,
    password: str | None,
    protocol: str,
    said: str,
    remedy: str,
) -> None:
    """A broker may swallow what an ACL forbids, refuse it, or cut the connection."""
    mqtt: dict[str, Any] = {"protocol": protocol}
    if user is not None:
        mqtt |= {"username": user, "password": f"file:{private_file(tmp_path / 'password', password or '')}"}
    async with exchange() as live:
        found = await checked(config(tmp_path, live, guarded.port, mqtt=mqtt))

    text, advice = found.the("error")
    assert said in text
    assert remedy in advice


async def test_a_login_that_may_do_what_is_needed_is_well(checked: Any, guarded: Mosquitto, tmp_path: Path) -> None:
    """With the ACL that the remedy names."""
    mqtt = {"username": "watch", "password": f"file:{private_file(tmp_path / 'password', 'open-sesame')}"}
    async with exchange() as live:
        found = await checked(config(tmp_path, live, guarded.port, mqtt=mqtt), True, "critical")

    assert found.status == 0
    assert (f"broker 127.0.0.1:{guarded.port}: connected as watch, MQTT 5", "") in found.of("ok")
    [see] = [text for text, _ in found.of("note")]
    assert see == (
        f"see the next one: mosquitto_sub -h 127.0.0.1 -p {guarded.port} -u watch -P PASSWORD -q 1 -v"
        " -t marginwatch/main/event/critical/margin_ratio"
    )


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_home_assistants_topics_need_a_right_of_their_own(
    checked: Any, guarded: Mosquitto, broker: Mosquitto, tmp_path: Path, protocol: str
) -> None:
    """An ACL for the prefix alone lets alerts through, and nothing that Home Assistant would find."""
    login = {"username": "watch", "password": f"file:{private_file(tmp_path / 'password', 'open-sesame')}"}
    async with exchange() as live:
        mqtt = {**login, "discovery": True, "protocol": protocol}
        refused = await checked(config(tmp_path, live, guarded.port, mqtt=mqtt), False, "critical")
        well = await checked(config(tmp_path, live, broker.port, mqtt={"discovery": True}), False, "critical")

    text, advice = refused.of("warning")[0]
    assert text == "broker: a message below homeassistant/, for Home Assistant, did not come back"
    assert advice == "the broker's ACL must let user watch read and write: topic readwrite homeassistant/#"
    assert ("broker: a message below homeassistant/, for Home Assistant, came back", "") in well.of("ok")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_broker_that_keeps_nothing_is_told(checked: Any, tmp_path: Path, protocol: str) -> None:
    """Whoever connects later would not see how things stand."""
    needs_mosquitto()
    mosquitto = Mosquitto(tmp_path / "broker", "retain_available false")
    await mosquitto.start()
    try:
        async with exchange() as live:
            found = await checked(config(tmp_path, live, mosquitto.port, mqtt={"protocol": protocol}), False, "info")
    finally:
        mosquitto.kill()

    errors = found.of("error")
    assert len(errors) == 1
    if protocol == "5":
        assert "mosquitto: retain_available true" in errors[0][1]


# ---- the test alert ----


@pytest.fixture
async def hearing(listener: Listener) -> AsyncIterator[Listener]:
    """Somebody who listens, and holds all to the daemon's schemas but the topic of the round trip."""
    yield listener
    listener.wrong = [wrong for wrong in listener.wrong if "/_instance/check/" not in wrong]


@pytest.mark.parametrize("severity", ["critical", "notice"])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_test_alert_arrives_as_a_real_one_would(
    checked: Any, broker: Mosquitto, hearing: Listener, tmp_path: Path, severity: str, protocol: str
) -> None:
    """Same topic, same payload, marked as a test; never retained, and open nowhere."""
    async with exchange() as live:
        path = config(tmp_path, live, broker.port, mqtt={"protocol": protocol})
        found = await checked(path, False, severity)
        asked = dict(live.counters)
    [heard] = await until(lambda: [h for h in hearing.heard if "/event/" in h.topic], "the alert is heard")

    topic = f"marginwatch/main/event/{severity}/margin_ratio"
    assert found.status == 0
    assert (f"test alert: the broker took it (QoS 1, acknowledged): {topic}", "") in found.of("ok")
    assert any(text.endswith(f"-v -t {topic}") for text, _ in found.of("note"))
    assert (heard.topic, heard.retain, heard.qos) == (topic, False, 1)
    body = heard.body
    assert (body["test"], body["severity"], body["account"], body["event"]) == (True, severity, "main", "noted")
    assert body["title"].startswith("TEST: ")
    assert (hearing.now, asked) == ({}, {})


async def test_a_test_alert_has_its_notice_where_there_are_notices(
    checked: Any, broker: Mosquitto, hearing: Listener, tmp_path: Path
) -> None:
    """It has to ring the phone, and the phone may hear notices alone."""
    async with exchange() as live:
        found = await checked(config(tmp_path, live, broker.port, privacy={"amounts": False}), False, "critical")
    [notice] = await until(hearing.notices, "the notice is heard")

    topic = "marginwatch/main/notice/critical/margin_ratio"
    assert (f"test alert: the broker took it (QoS 1, acknowledged): {topic}", "") in found.of("ok")
    assert [event["event_id"] for event in hearing.events()] == [notice["event_id"]]
    assert notice["test"]


async def test_an_alert_that_nobody_hears_is_a_warning(checked: Any, broker: Mosquitto, tmp_path: Path) -> None:
    """The broker knows, and says so in MQTT 5: the phone would have stayed silent."""
    async with exchange() as live:
        found = await checked(config(tmp_path, live, broker.port), False, "critical")

    text, advice = found.the("warning")
    assert text.endswith("nobody is subscribed to marginwatch/main/event/critical/margin_ratio")
    assert "what wakes your phone is not connected, or listens to another topic" in advice


async def test_a_daemon_that_runs_is_not_disturbed(
    checked: Any, broker: Mosquitto, hearing: Listener, tmp_path: Path
) -> None:
    """Neither its connection, nor its will, nor its private stream, nor what it has published."""
    async with exchange() as live:
        path = config(tmp_path, live, broker.port)
        async with watching(path) as log:
            await agreement(live, hearing, "main")
            before = len(hearing.heard)
            found = await checked(path, True, "critical")
            live.set_mark("BTCUSDT", "50000")
            await hearing.event("liquidation_distance", "opened")
            await agreement(live, hearing, "main")
            said = [json.loads(line) for line in log.getvalue().splitlines()]

    assert found.status == 0
    assert any("a daemon is online under the prefix marginwatch; it is not disturbed" in t for t, _ in found.of("note"))
    assert b"offline" not in [h.payload for h in hearing.heard[before:-1] if h.topic == "marginwatch/status"]
    assert [line["event"] for line in said if line["level"] != "info"] == []


async def test_another_daemon_under_the_prefix_is_an_error(
    checked: Any, broker: Mosquitto, hearing: Listener, tmp_path: Path
) -> None:
    """Each would remove the other's topics."""
    async with exchange() as live:
        path = config(tmp_path, live, broker.port)
        async with watching(path):
            await agreement(live, hearing, "main")
            other = private_file(tmp_path / "other.toml", path.read_text("utf-8").replace('"test"', '"vps2"'))
            found = await checked(other)

    text, advice = found.the("error")
    assert text == 'broker: "test" is online under the prefix marginwatch; this is "vps2"'
    assert "give each daemon its own [mqtt] prefix" in advice


# ---- how it is shown ----


def test_on_a_terminal_one_sees_what_is_being_waited_for() -> None:
    """And it is gone once there is an answer."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, terminal, pipe = io.StringIO(), Terminal(), io.StringIO()
    findings, piped = Findings(out, terminal), Findings(io.StringIO(), pipe)

    for one in (findings, piped):
        one.waits_for("main: key")
        one.take([Finding("error", "main: the key", "a remedy")])

    assert terminal.getvalue() == "… main: key\r\x1b[K"
    assert pipe.getvalue() == ""
    assert out.getvalue() == "error    main: the key\n         → a remedy\n"
    assert findings.sum_up() == 1
