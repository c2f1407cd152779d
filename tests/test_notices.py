"""Notices: what a phone is told where others may read along. Percentages, times and counts, and not one amount.

Every story that the other tests tell through `Watched`, the demo and the real daemon is held to that as well: see
`tests/discretion.py` and its callers.
"""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from monitor.discreet import discreet
from monitor.events import Bracket, BracketsRead, ForcedKind, LinkState, MarginCall, StoreState, Tick
from monitor.shell import chronicle
from monitor.shell.database import read_only
from tests import stories
from tests.discretion import betrayed
from tests.rig import Listener, Mosquitto, until, watching, write_config
from tests.watched import Watched, crisis, of_rule, row

D = Decimal


# ---- words ----


def test_a_notice_says_what_where_how_near_and_what_to_do_in_percent() -> None:
    """178.38 of 1112.65 USDT are 16.03 %, 0.346 of 2.5 BTC are 13.84 %; rounded up, so that it suffices."""
    _, story = crisis()

    assert discreet(story) == (
        "main: margin ratio 81.2 %, 0.09 % from liquidation",
        "main cross-usdt: margin ratio 81.2 % (≥ 80 %). Closest is BTCUSDT long. Add 16.1 % of the margin balance or"
        " reduce BTCUSDT by 13.9 % to return to 70 %.",
    )


def test_of_next_to_no_margin_balance_a_notice_can_still_be_made() -> None:
    """A part of it has more digits than a number usually may; what cannot be said must not end the daemon."""
    core = Watched()
    core.begin("0", row("BTCUSDT", "1", "60000"))
    [story] = of_rule(core.price("60000.000000000000000000000001"), "margin_ratio")

    assert discreet(story)[0] == "main: margin ratio over 1000 %, 0.0 % from liquidation"


def test_a_recovery_says_how_long_it_lasted_and_how_bad_it_was() -> None:
    """The end of the story, in one message."""
    core, _ = crisis()
    core.hold(119, "90372.10")
    [story] = of_rule(core.hold(61, "120000"), "margin_ratio")

    assert discreet(story)[1] == "main cross-usdt: recovered, margin ratio 1.6 %. It lasted 3 min; worst 81.2 %."


def test_what_nobody_has_acknowledged_says_so() -> None:
    """The louder message is louder here too."""
    _, story = crisis()
    title, text = discreet(structs.replace(story, change=structs.replace(story.change, kind="unacknowledged")))

    assert title.endswith("(not acknowledged)")
    assert text.endswith("Nobody has acknowledged this yet.")


def test_a_moved_price_says_by_how_much_and_why_but_not_from_where() -> None:
    """200000 ÷ 2.49 → 201000 ÷ 2.49 is +0.5 %."""
    core = Watched()
    core.begin("30000", row("BTCUSDT", "2.5", "92000"))
    core.price("92000")
    [story] = of_rule(core.tell(core.changed("WITHDRAW", "29000")), "liquidation_price_moved")
    [gone] = of_rule(core.tell(core.changed("DEPOSIT", "300000")), "liquidation_price_moved")

    title = "main: BTCUSDT long liquidation price moved (+0.50 %)"
    assert discreet(story) == (title, f"{title} after a transfer. It is 12.2 % from the mark.")
    assert discreet(gone)[0] == "main: BTCUSDT long has no liquidation price"


def test_a_moved_price_beyond_the_mark_is_said_to_be_past_liquidation() -> None:
    """A percentage "from the mark" would read as room that there is not."""
    core = Watched()
    core.begin("30000", row("BTCUSDT", "-1", "92000"))
    core.price("92000")
    [story] = of_rule(core.tell(core.changed("WITHDRAW", "-1000")), "liquidation_price_moved")
    [gone] = of_rule(core.tell(core.changed("WITHDRAW", "-93000")), "liquidation_price_moved")

    # 122000 ÷ 1.004 → 91000 ÷ 1.004 is −25.4 %
    title = "main: BTCUSDT short liquidation price moved (−25.4 %)"
    past = "The position is at or past liquidation."
    assert discreet(story) == (f"{title}, past liquidation", f"{title} after a transfer. {past}")
    title = "main: BTCUSDT short has no liquidation price"
    assert discreet(gone) == (f"{title}, past liquidation", f"{title} after a transfer. {past}")


def test_a_liquidation_says_what_is_left_as_a_part() -> None:
    """1 of 2.5 BTC: 40 %."""
    core, _ = crisis()
    at = core.now.wall_ms
    fill = core.fill("BTCUSDT", "-1.5", "90288", realized="-2568", forced=ForcedKind.LIQUIDATION)
    begun = core.tell(fill, core.changed("ORDER", "2600", row("BTCUSDT", "1", "92000", at_ms=at), at_ms=at))
    over = [s for _ in range(8) for s in core.price("90400") if s.change.incident.rule == "forced_order"]

    assert discreet(of_rule(begun, "forced_order")[0])[1] == "main: the exchange LIQUIDATES BTCUSDT long, now."
    assert discreet(over[0])[1] == "main: BTCUSDT long PARTLY LIQUIDATED. 40.0 % of it is left."


def test_the_exchanges_margin_call_comes_with_our_ratio_and_without_its_figures() -> None:
    """Its own words are nothing but amounts."""
    core, _ = crisis()
    key = row("BTCUSDT", "2.5", "92000").key
    [story] = core.tell(MarginCall("main", ((key, D("903.72"), D("-4069.75")),), core.now.wall_ms))

    said = "main: the exchange calls for margin on BTCUSDT"
    assert discreet(story) == (
        said,
        f"{said}. By our figures the margin ratio is 81.2 %, 0.09 % from liquidation.",
    )


def test_a_link_that_went_quiet_is_told_without_a_librarys_words() -> None:
    """They may name an address."""
    core, _ = crisis()
    core.step(core.link("private", LinkState.DOWN, note="cannot connect to 203.0.113.7:443"), after=0)
    story = next(s for _ in range(16) for s in core.price("90372.10") if s.blindness is not None)

    assert "203.0.113.7" in story.text
    assert discreet(story)[1] == (
        "main private: no data for 5 s. Blind: main/cross-usdt."
        " Until it is back, what is published is the last that was known."
    )


def test_changed_brackets_are_told_by_what_becomes_of_the_ratio() -> None:
    """The margin before and after says how much is held."""
    core, _ = crisis()
    changed = BracketsRead("main", {"BTCUSDT": (Bracket(1, D(0), D("0.0041"), D(0)),)})
    [steeper] = of_rule(core.tell(changed), "bracket_changed")

    said = "main: brackets of BTCUSDT"
    assert betrayed(steeper.title, steeper.text)
    assert discreet(steeper) == (f"{said} changed", f"{said} changed. Margin ratio 81.2 % → 83.3 %.")


def test_a_store_that_cannot_be_used_is_told_without_its_path() -> None:
    """The log has it, and why."""
    core, _ = crisis()
    [story] = core.tell(StoreState("/home/trader/store.sqlite3: disk I/O error"), Tick())

    assert "/home/trader" in story.text
    assert discreet(story) == (
        "store: cannot be used, alerts go out from memory",
        "store: cannot be used, alerts go out from memory; the log says why. A restart now would repeat or forget"
        " alerts.",
    )


def test_a_rule_without_words_is_told_by_its_name() -> None:
    """A rule that is new here gives nothing away."""
    _, story = crisis()
    incident = structs.replace(story.change.incident, rule="something_new")

    said = "main cross-usdt: something new opened"
    assert discreet(structs.replace(story, change=structs.replace(story.change, incident=incident))) == (
        said,
        f"{said}.",
    )


@pytest.mark.parametrize(
    "words",
    [
        "BTCUSDT long liquidates at 90288.2, 0.09 % away.",
        "Add 178.38 USDT or reduce 0.346 BTC to return to 70 %.",
        "0.006 closed at 150 (bankruptcy price 149.9).",
        "Nothing of 3 is left.",
        "wallet 5",
    ],
)
def test_an_amount_would_be_found(words: str) -> None:
    """The test of all those stories can fail."""
    assert betrayed("main: BTCUSDT", words)


def test_names_with_digits_percentages_times_and_counts_are_no_amounts() -> None:
    """1000PEPEUSDT is what it is called."""
    words = (
        "1000PEPEUSDT long, isolated-1000pepeusdt-long: 80.2 % (≥ 80 %), +0.50 % after 23 h 59 min, 15 s, at 16:00 UTC."
        " It took 12 orders. 2 positions, 1 incident open. 3 of 4. Incidents open: 2."
    )
    assert betrayed("market-binance-usdm-2", words) == []


# ---- the whole way ----


async def test_each_event_is_followed_by_its_notice_over_an_outage_and_a_restart(
    lasting_broker: Mosquitto, tmp_path: Path
) -> None:
    """A phone that hears of notices alone misses nothing, and the history does not tell everything twice."""
    async with stories.exchange() as exchange, Listener(lasting_broker.port) as listener:
        config = write_config(tmp_path / "d", exchange, lasting_broker.port, privacy={"amounts": False})
        async with watching(config) as log:
            await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
            exchange.set_mark("SOLUSDT", "126")
            await until(listener.notices, "a notice comes")
            lasting_broker.kill()
            exchange.set_mark("BTCUSDT", "48240")
            await until(lambda: '"margin_ratio"' in log.getvalue(), "more is to be told")
        await lasting_broker.start()
        async with watching(config):
            await until(lambda: any(n["rule"] == "margin_ratio" for n in listener.notices()), "what was owed comes")
            await until(lambda: len(listener.notices()) == len(listener.events()), "each has its notice")

    heard = [h for h in listener.heard if h.topic.split("/")[2:3] in (["event"], ["notice"])]
    first = list(dict.fromkeys((h.topic, h.body["event_id"], h.body["seq"]) for h in heard))
    events = [message for message in first if "/event/" in message[0]]
    for topic, event_id, seq in events:
        notice = (topic.replace("/event/", "/notice/"), event_id, seq)
        assert first.index((topic, event_id, seq)) < first.index(notice)
    assert len(first) == 2 * len(events)
    assert [dict(h.properties["UserProperty"])["event_id"] for h in heard] == [h.body["event_id"] for h in heard]
    with closing(read_only(tmp_path / "d" / "store.sqlite3")) as store:
        told = {event["incident_id"] for event in listener.events()}
        assert {incident.incident_id for incident in chronicle.since(store, 0)} == told
        assert all(b"marginwatch.event" in e.payload for name in told for e in chronicle.events(store, name))


async def test_without_privacy_there_is_no_notice(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Nothing is published twice for those who have not asked for it."""
    async with stories.exchange() as exchange, watching(write_config(tmp_path / "d", exchange, broker.port)):
        await listener.state("marginwatch/main/summary", freshness="live", open_positions=2)
        exchange.set_mark("SOLUSDT", "126")
        await listener.state("marginwatch/main/incident/liquidation_distance/isolated-solusdt")

    assert listener.events()
    assert not listener.notices()
