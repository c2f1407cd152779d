"""Reading the retained topics back, and what is made of them, without a broker."""

from __future__ import annotations

import msgspec
import pytest

from monitor.events import LinkId, LinkReport, LinkState, Tick
from monitor.humanize import span
from monitor.retained import Retained
from monitor.standing import Code, Standing, sentence, standing, watched
from monitor.topics import Place, Topics
from tests.watched import MARKET, Watched, row

OURS = ["main"]


def calm() -> Watched:
    """One long of 2.5 BTC at 92000, far from liquidation, with every topic published."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("110000")
    core.price("110000")
    return core


def seen(core: Watched) -> Retained:
    """What a broker shows of all that was sent so far."""
    retained = Retained("marginwatch")
    for message in [core.messages.status(True), core.messages.info([("main", "binance-usdm")]), *core.sent()]:
        if message.retain:
            retained.take(message.topic, message.payload)
    assert retained.unreadable == {}
    return retained


def judged(core: Watched, after_s: float = 0.0) -> Standing:
    return standing(seen(core), OURS, core.now.wall_ms + round(after_s * 1000))


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("a/b/status", Place("status")),
        ("a/b/info", Place("info")),
        ("a/b/main/summary", Place("summary", "main")),
        ("a/b/_instance/health", Place("health", "_instance")),
        ("a/b/main/position/btcusdt-long", Place("position", "main", "btcusdt-long")),
        ("a/b/main/incident/margin_ratio/cross-usdt", Place("incident", "main", "margin_ratio/cross-usdt")),
        ("a/b/main/event/critical/margin_ratio", None),
        ("a/b/cmd/ack", None),
        ("a/bc/status", None),
        ("a/b", None),
    ],
)
def test_a_topic_says_what_stands_there(topic: str, expected: Place | None) -> None:
    """The one place that knows topics reads them as well as it writes them; a prefix may have parts."""
    assert Topics("a/b").place(topic) == expected


@pytest.mark.parametrize("payload", [b"[]", b"{", b"\xff", b'{"schema":"\xff"}', b"[" * 100_000, b'{"a":' * 100_000])
def test_whatever_others_publish_there_is_kept_apart(payload: bytes) -> None:
    retained = Retained("marginwatch")
    retained.take("marginwatch/main/summary", payload)
    assert (retained.summary("main"), list(retained.unreadable)) == (None, ["marginwatch/main/summary"])


def test_all_that_is_published_reads_back() -> None:
    """With the values that were sent; whoever adds a key breaks nothing here."""
    retained = seen(calm())
    summary, (pool,), (position,) = retained.summary("main"), retained.pools("main"), retained.positions("main")
    health = retained.health("main")

    assert summary is not None
    assert health is not None
    assert (summary.open_positions, summary.severity, summary.freshness) == (1, "ok", "live")
    assert (pool.pool, position.symbol, position.side) == ("cross-usdt", "BTCUSDT", "long")
    assert set(health.links) == {"private", "rest"}


def test_a_topic_that_is_emptied_shows_nothing_any_more() -> None:
    """An incident that is over must not stand there for ever."""
    retained = Retained("marginwatch")
    core = calm()
    core.price("90300")
    for message in core.sent():
        retained.take(message.topic, message.payload)
    assert [i.rule for i in retained.incidents("main")] == ["liquidation_distance", "margin_ratio"]

    retained.take("marginwatch/main/incident/margin_ratio/cross-usdt", b"")
    assert [i.rule for i in retained.incidents("main")] == ["liquidation_distance"]


@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b"\xff", b'{"schema": "marginwatch.summary/2"}', b"null"],
    ids=["cut", "list", "no text", "another version", "null"],
)
def test_what_is_none_of_ours_is_kept_apart(payload: bytes) -> None:
    """Another program on the broker; what stood there before is not true any more either."""
    retained = seen(calm())
    retained.take("marginwatch/main/summary", payload)

    assert retained.summary("main") is None
    assert list(retained.unreadable) == ["marginwatch/main/summary"]


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1E+999999", "1E-999999"])
def test_a_number_that_cannot_be_reckoned_with_is_none_of_ours(amount: str) -> None:
    """Printed in full it would fill the memory."""
    core = calm()
    retained = seen(core)
    topic = "marginwatch/main/position/btcusdt"
    body = next(msgspec.json.decode(m.payload) for m in core.sent() if m.topic == topic)
    retained.take(topic, msgspec.json.encode(body | {"mark_price": amount}))

    assert retained.positions("main") == []


# ---- how it stands ----


def test_far_from_everything_it_is_well_and_says_how_far() -> None:
    """1100 ÷ 50182.40, and 90288.19 below 110000."""
    stands = judged(calm())

    assert stands.code is Code.OK
    assert sentence(stands) == (
        "1 account, 1 position, worst margin ratio 2.2 % (main), nearest liquidation 17.9 % away (main)"
    )


def test_the_worst_incident_decides_and_stands_first() -> None:
    """A warning of the ratio is critical so near to liquidation."""
    core = calm()
    core.price("90372.10")
    core.price("90372.10")
    stands = judged(core)

    assert stands.code is Code.CRITICAL
    assert stands.problems[0].text.startswith("main: 0.09 % from liquidation, margin ratio 81.2 %")


def test_an_incident_that_we_were_not_shown_counts_by_its_summary() -> None:
    """The broker may hand out a summary before the incident that it counts."""
    core = calm()
    core.price("90372.10")
    core.price("90372.10")
    retained = seen(core)
    for rule in ("margin_ratio", "liquidation_distance"):
        retained.take(f"marginwatch/main/incident/{rule}/cross-usdt", b"")
    stands = standing(retained, OURS, core.now.wall_ms)

    assert (stands.code, sentence(stands)) == (Code.CRITICAL, "main: critical")


def test_a_link_that_is_lost_makes_it_blind() -> None:
    """Before any incident is told: right now an input is old."""
    core = calm()
    core.step(LinkReport(LinkId("_instance", MARKET), LinkState.DOWN))
    for _ in range(8):
        core.step(Tick())
    stands = judged(core)

    assert stands.code is Code.CRITICAL
    assert sentence(stands).startswith("main is blind")


@pytest.mark.parametrize(
    ("after_s", "code", "believed"),
    [
        (-30, Code.UNKNOWN, False),
        (-10, Code.OK, True),
        (0, Code.OK, True),
        (90, Code.OK, True),
        (90.001, Code.CRITICAL, False),
    ],
)
def test_a_state_is_believed_for_as_long_as_it_says(after_s: float, code: Code, believed: bool) -> None:
    """Ahead of our clock by more than some seconds, no age means anything: neither well nor dead."""
    core = calm()
    at = (core.now.wall_ms - core_summary_ms(core)) / 1000
    stands = judged(core, after_s - at)

    assert (stands.code, stands.accounts[0].is_believed) == (code, believed)


def core_summary_ms(core: Watched) -> int:
    summary = seen(core).summary("main")
    assert summary is not None
    return summary.as_of_ms


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (b"offline", "the daemon is offline; its last state is 0 s old"),
        (b"", "marginwatch/status says neither online nor offline; its last state is 0 s old"),
        (b"what", "marginwatch/status says neither online nor offline; its last state is 0 s old"),
    ],
)
def test_without_a_daemon_nothing_is_believed(status: bytes, text: str) -> None:
    """Its last words may be as fine as they like."""
    core = calm()
    retained = seen(core)
    retained.take("marginwatch/status", status)
    stands = standing(retained, OURS, core_summary_ms(core))

    assert (stands.code, sentence(stands)) == (Code.CRITICAL, text)
    assert not stands.accounts[0].is_believed


def test_every_account_of_the_config_and_of_the_daemon_must_have_a_state() -> None:
    """One that was added without a restart is not watched, whoever asks."""
    retained = seen(calm())
    names = watched(retained, ["second"])
    stands = standing(retained, names, core_summary_ms(calm()))

    assert names == ["second", "main"]
    assert sentence(stands) == "second has no state: the daemon does not watch it"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 days")],
)
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    """Nobody reads 104312 s."""
    assert span(seconds) == text
