"""Accounts that come and go while the others are watched: what the core makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from monitor.core import Core, Setup
from monitor.discovery import Discovery
from monitor.discreet import discreet
from monitor.effects import AccountGone, AccountSetup, Effect, PoolGone, PositionGone, Save, Watch
from monitor.events import ClockOffset, ExchangeStatusRead, ForcedKind, LinkId, LinkReport, LinkState, Tick
from monitor.message import Message
from monitor.rules import DEFAULTS, RuleBook
from tests.schemas import validate
from tests.watched import IDENTITY, MARKET, Watched, kinds, of_rule, row, told

MAIN = AccountSetup("main", "binance-usdm", MARKET)
OTHER = AccountSetup("other", "binance-usdm", MARKET)
ELSEWHERE = AccountSetup("third", "binance-usdm", "market-y")


def two(ratio_price: str = "50000") -> Watched:
    """Two accounts with a BTC long each; the other's can be near its end."""
    core = Watched("main", "other")
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.begin("2000", row("BTCUSDT", "1", "50000"), row("ETHUSDT", "1", "3000"), account="other")
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), Tick())
    core.step(core.mark(ratio_price), Tick())
    return core


def take(core: Watched, *accounts: AccountSetup) -> list[Effect]:
    core.t += 1
    return core.keep(core.core.take_accounts(accounts, core.now))


def emptied(messages: list[Message]) -> set[str]:
    return {m.topic.removeprefix("marginwatch/") for m in messages if m.retain and not m.payload}


def test_an_account_that_is_gone_leaves_nothing_behind() -> None:
    """What stays retained would be believed for ever; and a story without an end would page for ever."""
    core = two("48300")
    opened = {i.key for i in core.core.incidents if i.account == "other"}

    effects = take(core, MAIN)
    after = core.step(core.mark("48250"), Tick(), after=60)

    assert opened
    ended = [s for s in told(effects) if s.change.kind == "resolved"]
    assert {s.change.incident.key for s in ended} == opened
    assert {s.change.resolution for s in ended} == {"rule_changed"}
    assert {s.title for s in ended} == {"other: not watched any more"}
    gone = emptied(core.sent(effects))
    assert {"other/summary", "other/health", "other/pool/cross-usdt"} <= gone
    assert {"other/position/btcusdt", "other/position/ethusdt"} <= gone
    assert {f"other/incident/{key.rule}/{key.subject}" for key in opened} <= gone
    assert not [m for m in core.sent(after) if "/other/" in m.topic]
    assert not [key for key in core.saved if key[1].startswith("other/")]
    assert "other" not in core.core.accounts
    assert not [link for link in core.core.links.all if link.account == "other"]


def test_an_account_that_went_while_no_daemon_ran_ends_like_one_that_goes_now() -> None:
    """Whoever was told that it opened waits for its end, also where the config was changed before a restart."""
    core = two("48300")
    forced = structs.replace(core.fill("ETHUSDT", "-1", "3000", forced=ForcedKind.LIQUIDATION), account="other")
    core.step(forced, Tick())
    core.hold(60, "48300")
    kept = core.kept()
    at_once = take(core, MAIN)

    later = Watched("main", kept=kept, start=core.t)
    effects = later.step(Tick(), after=0)

    def ends(found: list[Effect]) -> list[tuple[object, ...]]:
        changes = [s.change for s in told(found)]
        return [(c.kind, c.incident.event_id, c.resolution, c.severity, c.lasted_s) for c in changes]

    def rows_gone(found: list[Effect]) -> set[tuple[str, str]]:
        return {(e.table, e.key) for e in found if isinstance(e, Save) and e.row is None}

    assert len(ends(effects)) >= 2
    assert sorted(ends(effects)) == sorted(ends(at_once))
    assert {s.text for s in told(effects)} == {s.text for s in told(at_once)}
    assert {(s.account.venue, s.account.name) for s in told(effects)} == {("binance-usdm", "other")}
    assert {t for t in emptied(core.sent(at_once)) if "/incident/" in t} == emptied(core.sent(effects))
    assert {table for table, _ in rows_gone(effects)} == {"incident", "baseline", "forced", "account"}
    assert rows_gone(effects) == rows_gone(at_once)


def test_what_an_account_left_open_that_trades_elsewhere_after_a_restart_ends_as_at_a_reload() -> None:
    """Else its positions would be said to be closed, which they are not: nobody looks at them any more."""
    core = two("48300")
    kept = core.kept()
    elsewhere = structs.replace(OTHER, venue="binance-coinm", market="market-y")
    at_once = told(take(core, MAIN, elsewhere))

    later = Core(Setup((MAIN, elsewhere), RuleBook()), core.now, kept)
    afterwards = told(later.step([Tick()], core.now))

    assert {story.change.resolution for story in at_once} == {"rule_changed"}
    assert [(s.change.incident.event_id, s.change.resolution, s.text) for s in afterwards] == [
        (s.change.incident.event_id, s.change.resolution, s.text) for s in at_once
    ]
    assert {(s.account.venue, s.account.name) for s in afterwards} == {("binance-usdm", "other")}


def test_an_account_of_another_environment_after_a_restart_goes_on_with_nothing_of_the_same_name() -> None:
    """From the testnet to the exchange itself, with the name and the store kept: its positions were told as closed, its
    price as moved for no known reason, and orders that the exchange had sent long before as those of now."""
    trial = structs.replace(MAIN, environment="testnet")
    core = Watched()
    core.core = Core(Setup((trial,), RuleBook()), core.now)
    core.begin("2000", row("BTCUSDT", "1", "50000"))
    core.step(core.mark("48300"), Tick())
    core.hold(5, "48300")
    opened = {i.event_id.rpartition(".")[0] for i in core.core.incidents}

    def next_run(setup: AccountSetup) -> Watched:
        later = Watched(kept=core.kept(), start=core.t)
        later.core = Core(Setup((setup,), RuleBook()), later.now, core.kept())
        return later

    assert next_run(trial).core.unseen()
    assert not told(next_run(trial).step(Tick()))
    later = next_run(MAIN)
    assert not later.core.unseen()
    ended = told(later.step(Tick()))
    later.begin("50000", row("BTCUSDT", "0.5", "48000"))
    after = later.tell(later.mark("48300"), Tick()) + later.hold(10, "48300")

    assert opened
    assert {s.change.incident.incident_id for s in ended} == opened
    assert {s.change.resolution for s in ended} == {"rule_changed"}
    assert after == []


def test_an_account_that_is_asked_another_way_goes_on_after_a_reload_and_after_the_next_restart() -> None:
    """The same market by its address, of another environment by its name: what a reload goes on with is kept as that
    of where it is asked by now."""
    core = Watched()
    core.begin("2000", row("BTCUSDT", "1", "50000"))
    core.step(core.mark("48300"), Tick())
    core.hold(5, "48300")
    other_way = structs.replace(MAIN, environment="custom")
    assert not told(take(core, other_way))

    later = Watched(kept=core.kept(), start=core.t)
    later.core = Core(Setup((other_way,), RuleBook()), later.now, core.kept())

    assert later.core.unseen()
    assert not told(later.step(Tick()))


def test_what_an_older_version_kept_of_an_account_ends_with_its_venue_and_labels() -> None:
    """Its rows say neither. Of an account that cannot be read nothing has been told anew by the time that it goes, and
    whoever reads events by their schema, or by labels, would not take its end."""
    kept = two("48300").kept()
    rows = [msgspec.json.decode(one) for one in kept.incidents]
    for one in rows:
        del one["incident"]["venue"], one["incident"]["labels"]
    later = Watched("main", kept=structs.replace(kept, incidents=tuple(map(msgspec.json.encode, rows))), start=9)
    assert not told(later.step(Tick()))

    later = Watched(
        "main", "other", kept=structs.replace(kept, incidents=tuple(map(msgspec.json.encode, rows))), start=9
    )
    take(later, MAIN, structs.replace(OTHER, labels={"desk": "x"}))
    later.step(Tick())
    ended = told(take(later, MAIN))

    assert ended
    for message in later.sent(list(ended)):
        validate(message.topic, message.payload)
    assert {(s.account.venue, s.account.labels["desk"]) for s in ended} == {("binance-usdm", "x")}


def test_a_hold_that_ran_when_it_went_begins_anew_if_it_comes_back() -> None:
    """For a minute at the level: what was seen of it before the account went says nothing of the time between."""
    slow = structs.replace(DEFAULTS["margin_ratio"], for_s=60.0)
    core = Watched("main", "other", rules=RuleBook({**DEFAULTS, "margin_ratio": slow}))
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.begin("260", row("BTCUSDT", "1", "50000"), account="other")
    core.hold(10, "50000")
    take(core, MAIN)
    core.hold(120, "50000")
    take(core, MAIN, OTHER)
    core.begin("260", row("BTCUSDT", "1", "50000"), account="other")

    early, late = core.hold(55, "50000"), core.hold(10, "50000")

    assert not of_rule(early, "margin_ratio")
    assert kinds(of_rule(late, "margin_ratio")) == [("opened", "notice")]


def test_its_events_say_so_in_words_that_are_true() -> None:
    """Nobody saw it recover."""
    core = two("48300")
    ended = of_rule([s for s in told(take(core, MAIN)) if s.change.kind == "resolved"], "margin_ratio")
    body: dict[str, Any] = msgspec.json.decode(core.messages.of(ended[0])[0].payload)

    assert (body["event"], body["account"], body["resolution"]) == ("resolved", "other", "rule_changed")
    assert "recovered" not in body["text"]
    assert body["text"].startswith("other: not watched any more: it was taken out of the config.")


def test_a_silence_that_nobody_waits_for_any_more_still_names_its_link() -> None:
    """What reads data_stale looks there for what was silent; a key that is missing just then breaks it."""
    core = two()
    core.step(LinkReport(LinkId("other", "private"), LinkState.DOWN), Tick())
    for _ in range(20):
        core.price("50000")

    [ended] = of_rule(told(take(core, MAIN)), "data_stale")
    sent = [m for m in core.messages.of(ended) if m.event_id is not None]
    body = msgspec.json.decode(sent[0].payload)

    for message in sent:
        validate(message.topic, message.payload)
    assert (body["resolution"], body["data"]["link"], body["data"]["pools"]) == ("rule_changed", "private", [])
    assert body["text"].startswith("other: not watched any more: it was taken out of the config.")
    assert "live again" not in " ".join(discreet(ended))


def test_the_others_notice_nothing() -> None:
    """Their incidents stay open under their names, and the marks of their symbols go on."""
    core = two("20100")
    before = [i.incident_id for i in core.core.incidents if i.account == "main"]

    effects = take(core, MAIN)

    assert before
    assert [i.incident_id for i in core.core.incidents if i.account == "main"] == before
    assert not [s for s in told(effects) if s.change.incident.account == "main"]
    assert [e.symbols for e in effects if isinstance(e, Watch)] == [frozenset({"BTCUSDT"})]
    assert {s.change.incident.account for s in core.price("20050")} <= {"main"}


def test_what_a_gone_account_still_has_to_say_is_not_heard() -> None:
    """Frames, answers and reports may be under way when its account goes."""
    core = two()
    echoes = [
        core.changed("FUNDING_FEE", "1", account="other"),
        *core.truth("1", row("BTCUSDT", "9", "50000"), account="other"),
        LinkReport(LinkId("other", "private"), LinkState.DOWN),
    ]
    take(core, MAIN)

    effects = core.step(*echoes, Tick()) + core.step(Tick(), after=300)

    assert not [m for m in core.sent(effects) if "/other/" in m.topic]
    assert not [link for link in core.core.links.all if link.account == "other"]


def test_a_new_account_is_watched_from_then_on() -> None:
    """Awaited like all from the start: one that never reports is told of."""
    core = Watched("main")
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    take(core, MAIN, OTHER)
    core.names = ("main", "other")

    core.begin("2000", row("ETHUSDT", "1", "3000"), account="other")
    core.step(core.mark("50000"), core.mark("3000", "ETHUSDT"), Tick())

    assert "marginwatch/other/pool/cross-usdt" in {m.topic for m in core.sent() if m.payload}
    assert [e.symbols for e in core.effects if isinstance(e, Watch)][-1] == frozenset({"BTCUSDT", "ETHUSDT"})


def test_a_new_account_that_never_speaks_is_told_of() -> None:
    core = Watched("main")
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    take(core, MAIN, OTHER)

    stories = [s for _ in range(70) for s in core.price("50000")]

    assert ("opened", "warning") in kinds(of_rule(stories, "data_stale"))
    assert {s.change.incident.account for s in of_rule(stories, "data_stale")} == {"other"}


def test_another_label_is_taken_without_a_word() -> None:
    """Rules that match on it hold from now on; nothing restarts."""
    core = two("48300")
    before = sorted(i.incident_id for i in core.core.incidents)

    effects = take(core, MAIN, AccountSetup("other", "binance-usdm", MARKET, {"desk": "momentum"}))

    assert effects == []
    assert sorted(i.incident_id for i in core.core.incidents) == before
    [body] = [
        msgspec.json.decode(m.payload)
        for s in of_rule(core.price("48205"), "margin_ratio")
        for m in core.messages.of(s)
        if m.event_id is not None and s.account.name == "other"
    ]
    assert body["labels"] == {"desk": "momentum"}


def test_a_market_goes_with_its_last_account_and_so_do_its_incidents() -> None:
    """Nobody would ever end them."""
    core = Watched("main")
    core.begin("20000", row("BTCUSDT", "1", "50000"))
    core.price("50000")
    take(core, MAIN, ELSEWHERE)
    core.step(ClockOffset("market-y", 3000), ExchangeStatusRead("market-y", "system_maintenance"), Tick())
    opened = {i.rule for i in core.core.incidents if i.account == "_instance"}

    effects = take(core, MAIN)
    core.step(ClockOffset("market-y", 3000), core.mark("50000"), Tick())

    assert opened == {"clock_offset", "exchange_status"}
    ended = [s for s in told(effects) if s.change.incident.rule in opened]
    assert sorted(kinds(ended)) == [("resolved", "critical"), ("resolved", "warning")]
    assert {s.account.name for s in ended} == {"_instance"}
    assert [i.key for i in core.core.incidents] == []
    assert set(core.core.links.all) == {MAIN.market_link, MAIN.private_link, MAIN.rest_link}


def test_an_account_that_trades_elsewhere_now_is_another_one() -> None:
    """Positions of the one market are none of the other's."""
    core = two()
    moved = AccountSetup("other", "binance-usdm", "market-y")

    effects = take(core, MAIN, moved)

    assert AccountGone("other") in effects
    assert [e.pool for e in effects if isinstance(e, PoolGone)] == ["cross-usdt"]
    assert len([e for e in effects if isinstance(e, PositionGone)]) == 2
    assert core.core.accounts["other"].setup == moved
    assert not core.core.accounts["other"].known


def test_home_assistant_is_told_of_those_that_come_and_go() -> None:
    """Entities of an account that is gone would stay unavailable for ever."""
    discovery = Discovery(IDENTITY, (MAIN, OTHER), RuleBook())
    before = {m.topic for m in discovery.standing() if "_other/" in m.topic}

    gone = discovery.take_accounts((MAIN,))
    back = discovery.take_accounts((MAIN, OTHER))

    assert before
    assert {m.topic for m in gone if not m.payload} == before
    assert {m.topic for m in back if m.payload} == before


@pytest.mark.parametrize("slices", [1, 5, 9, 13, 17, 21])
def test_an_account_may_go_while_a_tick_is_under_way(slices: int) -> None:
    """What time brings is done in slices where there are many accounts; between two of them a config may be taken."""
    names = [f"a{n}" for n in range(6)]
    core = Watched(*names)
    for name in names:
        core.begin("20000", row("BTCUSDT", "1", "50000"), account=name)
    core.price("50000")
    while core.core.is_behind:
        core.step(after=0)
    core.core._slice = 1
    core.step(core.mark("50000"), Tick())
    for _ in range(slices - 1):
        core.step(after=0)
    assert core.core.is_ticking
    setups = tuple(AccountSetup(name, "binance-usdm", MARKET) for name in names[::2])

    take(core, *setups)
    effects = [effect for _ in range(50) for effect in core.step(after=0)]

    assert not core.core.is_behind
    said = {m.topic.split("/")[1] for m in core.sent(effects) if m.payload}
    assert said <= {*names[::2], "_instance"}
