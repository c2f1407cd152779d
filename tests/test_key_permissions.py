"""What a key may do beside reading, and maintenance of the exchange: read by the daemon, and told as one story."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from monitor.core import Core, Kept, Setup
from monitor.effects import AccountSetup, Effect, Save, Story
from monitor.events import Event, ExchangeStatusRead, KeyPermissionsRead, Silence, Tick
from monitor.rules import DEFAULTS, RuleBook
from tests import stories
from tests.rig import Listener, Mosquitto, agreement, until, watching, write_config
from tests.watched import MARKET, now_at

TRADES = KeyPermissionsRead("main", ("enableFutures",), (), True, False)
MOVES = structs.replace(TRADES, moves_money=("enableWithdrawals", "permitsUniversalTransfer"))
READS = structs.replace(TRADES, trades=())
MAINTENANCE, WELL = ExchangeStatusRead(MARKET, "system_maintenance"), ExchangeStatusRead(MARKET, None)
HOUR = 3600.0


def core(*, accept: bool = False, rules: RuleBook | None = None, kept: Kept | None = None, at: float = 0) -> Core:
    account = AccountSetup("main", "binance-usdm", MARKET, {}, accept)
    return Core(Setup((account,), rules or RuleBook()), now_at(at), kept)


def told(effects: list[Effect]) -> list[Story]:
    """What is told by the two rules; that nothing is streamed here is told by another."""
    stories_ = [e for e in effects if isinstance(e, Story) and e.change.kind != "retained" and e.change.is_told]
    return [s for s in stories_ if s.change.incident.rule in ("key_permissions", "exchange_status")]


def tell(watched: Core, at: float, *events: Event) -> list[tuple[str, str]]:
    return [(s.change.kind, s.change.severity.word) for s in told(watched.step(events, now_at(at)))]


# ---- a key ----


def test_a_key_that_may_do_more_than_read_is_one_story() -> None:
    """Opened by what it may, worse with more, better with less, and over once it may only read."""
    watched = core()

    assert tell(watched, 1, TRADES) == [("opened", "warning")]
    assert tell(watched, HOUR, TRADES) == []
    assert tell(watched, 2 * HOUR, MOVES) == [("worsened", "critical")]
    assert tell(watched, 3 * HOUR, TRADES) == [("improved", "warning")]
    assert tell(watched, 4 * HOUR, READS) == [("resolved", "critical")]
    assert tell(watched, 5 * HOUR, READS) == []


def test_the_words_name_what_it_may_and_what_to_do() -> None:
    """By the exchange's own names, as they stand where the key was made."""
    [story] = told(core().step([MOVES], now_at(1)))

    assert story.title == "main: the API key may move money away and trade"
    assert story.text == (
        "main: the API key may move money away and trade (enableWithdrawals, permitsUniversalTransfer; enableFutures)."
        " Take that from it in the exchange's API management, or make one that may only read."
        " Where it is meant: accept_trading_key = true."
    )
    assert story.facts == {
        "may_trade": "enableFutures",
        "may_move_money": "enableWithdrawals, permitsUniversalTransfer",
    }


def test_a_key_that_is_meant_to_may_do_more() -> None:
    """`accept_trading_key`: its owner knows."""
    watched = core(accept=True)

    assert tell(watched, 1, MOVES) == []
    assert tell(watched, 2, Tick()) == []


def test_what_cannot_be_read_any_more_is_no_recovery() -> None:
    """Unknown is neither good nor bad: an incident that stands, stands."""
    watched = core()
    tell(watched, 1, TRADES)

    assert tell(watched, 3 * HOUR, Tick()) == []
    assert [incident.rule for incident in watched.incidents].count("key_permissions") == 1


def test_a_key_that_stays_as_it_is_is_told_again_once_a_day() -> None:
    """Between two readings, too: time is what makes it due."""
    watched = core()
    tell(watched, 1, TRADES)

    assert tell(watched, 23 * HOUR, Tick()) == []
    assert tell(watched, 25 * HOUR, Tick()) == [("repeated", "warning")]


def test_a_key_that_may_only_read_again_is_over_after_the_hold() -> None:
    """`clear_for_s` passes between two readings."""
    held = structs.replace(DEFAULTS["key_permissions"], clear_for_s=60)
    watched = core(rules=RuleBook({**DEFAULTS, "key_permissions": held}))
    tell(watched, 1, TRADES)

    assert tell(watched, HOUR, READS) == []
    assert tell(watched, HOUR + 59, Tick()) == []
    assert tell(watched, HOUR + 60, Tick()) == [("resolved", "warning")]


def test_a_rule_that_is_switched_off_ends_it() -> None:
    """As every rule."""
    watched = core()
    tell(watched, 1, TRADES)
    off = {**DEFAULTS, "key_permissions": structs.replace(DEFAULTS["key_permissions"], enabled=False)}
    watched.take_rules(RuleBook(off))

    assert tell(watched, 2, Tick()) == [("resolved", "warning")]
    assert tell(watched, 3, TRADES) == []


def test_a_restart_tells_nothing_twice_and_forgets_nothing() -> None:
    """Told by the run before; over, or accepted, in this one."""
    first = core()
    rows = {e.key: e.row for e in first.step([MOVES, MAINTENANCE], now_at(1)) if isinstance(e, Save) and e.row}
    kept = Kept(tuple(rows.values()))

    same, accepted = core(kept=kept, at=10), core(kept=kept, at=10, accept=True)

    assert tell(same, 11, MOVES, MAINTENANCE) == []
    assert tell(same, 12, READS, WELL) == [("resolved", "critical"), ("resolved", "warning")]
    assert tell(accepted, 11, MOVES) == [("resolved", "critical")]


# ---- the exchange itself ----


def test_maintenance_is_told_once_and_once_when_it_is_over() -> None:
    """Asked every minute, it says the same each time."""
    watched = core()
    [story] = told(watched.step([MAINTENANCE], now_at(1)))

    assert (story.change.kind, story.change.severity.word, story.account.name) == ("opened", "warning", "_instance")
    assert story.title == f"the exchange ({MARKET}) says: system_maintenance"
    assert tell(watched, 60, MAINTENANCE) == []
    assert tell(watched, 120, WELL) == [("resolved", "warning")]
    assert tell(watched, 180, WELL) == []


def test_maintenance_that_a_silence_kept_back_is_told_when_it_ends() -> None:
    """A silence keeps back messages, never knowledge."""
    watched = core()
    until_ms = now_at(60).wall_ms
    quiet = tell(watched, 1, Silence(until_ms, rule="exchange_status"), MAINTENANCE)

    assert quiet == []
    assert tell(watched, 30, Tick()) == []
    assert tell(watched, 61, Tick()) == [("opened", "warning")]


# ---- the daemon ----


@pytest.mark.parametrize("market", ["usdm", "coinm"])
async def test_the_daemon_reads_what_its_key_may_do_and_how_the_exchange_fares(
    broker: Mosquitto, listener: Listener, tmp_path: Path, market: str
) -> None:
    """At its start and every `refresh_s`; it watches all the same."""
    account = stories.account()
    if market == "coinm":
        position = {"symbol": "BTCUSD_PERP", "quantity": "10", "entry_price": "60000"}
        account = {"name": "main", "market": "coinm", "balances": {"BTC": "1"}, "position": [position]}
    links = {"refresh_s": 1, "status_s": 0.2}
    async with stories.exchange({**account, "permissions": {"enableFutures": True}}) as exchange:
        async with watching(write_config(tmp_path / "d", exchange, broker.port, links=links)):
            opened = await listener.event("key_permissions", "opened")
            await listener.state("marginwatch/main/summary", freshness="live", severity="warning")
            exchange.set_permissions("main", enableWithdrawals=True)
            worsened = await listener.event("key_permissions", "worsened")
            exchange.set_permissions("main", enableWithdrawals=False, enableFutures=False)
            await listener.event("key_permissions", "resolved")
            exchange.set_system_status(1, "system_maintenance")
            maintenance = await listener.event("exchange_status", "opened")
            exchange.set_system_status()
            await listener.event("exchange_status", "resolved")
        assert exchange.order_calls == []

    assert (opened["severity"], opened["facts"]) == ("warning", {"may_trade": "enableFutures", "may_move_money": None})
    assert (worsened["severity"], worsened["subject"]) == ("critical", "key")
    assert (maintenance["account"], maintenance["facts"]) == ("_instance", {"reason": "system_maintenance"})


async def test_a_key_for_portfolio_margin_is_remarked_on_whatever_it_may_do(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Of an account in that mode the futures endpoints may show nothing, which must not look as if all were well."""

    def note() -> str:
        links = listener.retained("marginwatch/main/health").get("links", {})
        return str(links.get("private", {}).get("note", ""))

    async with stories.exchange(stories.account(permissions={"enablePortfolioMarginTrading": True})) as exchange:
        path = write_config(tmp_path / "d", exchange, broker.port, links={"refresh_s": 1})
        path.write_text(path.read_text("utf-8").replace("api_key", "accept_trading_key = true\napi_key"), "utf-8")
        async with watching(path):
            await until(lambda: "portfolio margin, too, which is not supported" in note(), "it is remarked on")
            exchange.set_permissions("main", enablePortfolioMarginTrading=False)
            await until(lambda: not note(), "it is for futures alone")
    assert listener.events() == []


async def test_an_exchange_without_a_wallet_is_watched_all_the_same(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Permissions that cannot be read are no incident, and said once in the log, not every hour."""
    async with stories.exchange() as exchange:
        path = write_config(tmp_path / "d", exchange, broker.port, links={"refresh_s": 1, "status_s": 0.1})
        wallet = f'wallet_url = "{exchange.url}'
        path.write_text(path.read_text("utf-8").replace(wallet, f"{wallet}/nowhere"), "utf-8")
        async with watching(path) as log:
            await agreement(exchange, listener, "main")
            asked = exchange.counters["GET /fapi/v1/adlQuantile"]
            await until(lambda: exchange.counters["GET /fapi/v1/adlQuantile"] > asked + 1, "facts are read once more")
            await agreement(exchange, listener, "main")

    lines = [line for line in log.getvalue().splitlines() if "/sapi/v1/account/apiRestrictions" in line]
    assert len(lines) == 1
    assert "HTTP 404" in lines[0]
    assert listener.events() == []
