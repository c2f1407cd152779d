"""Orders that the exchange sends in our name: told at the first frame, reported when over."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import structs

from monitor.effects import Story
from monitor.events import ForcedKind, MarginCall, PositionKey, Side
from tests.watched import Watched, row, told

D = Decimal


def holding() -> Watched:
    """2.5 BTC long at 92000 on 5182.40 USDT, at 90400; it liquidates at 90288.19."""
    core = Watched()
    core.begin("5182.40", row("BTCUSDT", "2.5", "92000"))
    core.price("90400")
    return core


def forced(stories: list[Story]) -> list[Story]:
    return [story for story in stories if story.change.incident.rule == "forced_order"]


def closed(core: Watched, wallet: str, left: str = "0") -> list[Story]:
    at = core.now.wall_ms
    return core.tell(core.changed("ORDER", wallet, row("BTCUSDT", left, "92000", at_ms=at), at_ms=at))


@pytest.mark.parametrize(
    ("kind", "severity", "how"),
    [
        (ForcedKind.LIQUIDATION, "liquidation", "liquidated"),
        (ForcedKind.ADL, "critical", "adl"),
        (ForcedKind.SETTLEMENT, "warning", "settled"),
    ],
)
def test_a_forced_order_is_told_at_its_first_frame_and_reported_when_over(
    kind: ForcedKind, severity: str, how: str
) -> None:
    """Whoever is being liquidated wants to know now, and afterwards what it cost."""
    core = holding()
    [opened] = forced(core.tell(core.fill("BTCUSDT", "0", "0", forced=kind)))
    assert (opened.change.kind, opened.change.severity.word) == ("opened", severity)

    core.step(core.fill("BTCUSDT", "-2.5", "90250", realized="-4375", forced=kind))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    report = resolved.forced
    assert report is not None
    assert resolved.change.resolution == how
    assert (report.quantity, report.average_price) == (D("2.5"), D(90250))
    assert (report.realized_pnl, report.left) == (D(-4375), D(0))
    assert report.bankruptcy_price == D("89927.04")
    assert resolved.change.severity.word == ("liquidation" if kind is ForcedKind.LIQUIDATION else "critical")


def test_the_report_adds_up_every_fill_once_and_the_clearance_fee() -> None:
    """A frame that comes twice must not double a loss; INSURANCE_CLEAR names no symbol."""
    core = holding()
    first = core.fill("BTCUSDT", "-1", "90200", realized="-1800", commission="2", forced=ForcedKind.LIQUIDATION)
    core.step(first, first)
    at = core.now.wall_ms
    clear = core.changed("INSURANCE_CLEAR", "3300", at_ms=at)
    clear.changes["USDT"] = D("-82.4")
    core.step(clear)
    closed(core, "3300", "1.5")
    [resolved] = forced(core.hold(4, "90400"))

    report = resolved.forced
    assert report is not None
    assert resolved.change.resolution == "partly_liquidated"
    assert (report.quantity, report.realized_pnl, report.commission) == (D(1), D(-1800), D(2))
    assert (report.clearance_fee, report.left) == (D("82.4"), D("1.5"))
    assert "82.40 USDT" in resolved.text
    assert "1.5 is left" in resolved.text


def test_the_account_event_may_come_first() -> None:
    """The order of the two frames is not documented: the report still knows the position as it was."""
    core = holding()
    closed(core, "807.40")
    [opened] = forced(core.tell(core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION)))

    assert opened.side == "long"
    assert opened.forced is not None
    assert opened.forced.bankruptcy_price == D("89927.04")


def test_it_is_one_incident_however_many_frames_it_has() -> None:
    """A liquidation in fifty fills must not page fifty times."""
    core = holding()
    stories = [s for _ in range(50) for s in core.tell(core.fill("BTCUSDT", "-0.01", "90250", forced=ForcedKind.ADL))]

    assert [story.change.kind for story in forced(stories)] == ["opened"]


def test_one_of_an_earlier_run_is_ended_when_the_account_is_known_again() -> None:
    """It was opened, the daemon died, and the exchange went on: it must not stay open for ever."""
    core = holding()
    core.step(core.fill("BTCUSDT", "0", "0", forced=ForcedKind.LIQUIDATION))

    later = Watched(kept=core.kept(), start=1000)
    later.begin("807.40")
    [resolved] = forced(later.hold(2, "90250"))

    assert resolved.change.resolution == "liquidated"
    assert resolved.change.incident.symbol == "BTCUSDT"


def test_a_margin_call_is_told_once_in_a_while() -> None:
    """The exchange may repeat it every second; it is guidance, not the alarm."""
    core = holding()
    call = MarginCall("main", ((PositionKey("BTCUSDT", Side.BOTH), D("903.72"), D("-4069.75")),), core.now.wall_ms)
    stories = [s for _ in range(5) for s in core.tell(call)]

    [story] = [s for s in stories if s.change.incident.rule == "exchange_margin_call"]
    assert story.change.kind == "noted"
    assert "903.72" in story.text
    assert told(core.step(call, after=301))


def test_an_order_read_after_a_gap_is_told_but_not_added_to_its_own_executions() -> None:
    """Asked over REST it comes as one; had its executions been seen, adding it would double the loss."""
    core = holding()
    live = core.fill("BTCUSDT", "-2.5", "90250", forced=ForcedKind.LIQUIDATION)
    core.step(live)
    core.step(structs.replace(live, trade_id=0))
    closed(core, "807.40")
    [resolved] = forced(core.hold(4, "90250"))

    assert resolved.forced is not None
    assert resolved.forced.quantity == D("2.5")


def test_the_other_leg_of_a_hedge_is_not_called_liquidated() -> None:
    """One leg was liquidated, the other the trader closed himself: only the first is news of that kind."""
    core = Watched()
    long = row("BTCUSDT", "1", "92000", side=Side.LONG, isolated=True, isolated_wallet="2000")
    short = row("BTCUSDT", "-1", "90000", side=Side.SHORT, isolated=True, isolated_wallet="900")
    core.begin("5000", long, short)
    core.price("90400")
    liquidation = core.fill("BTCUSDT", "-1", "90400", forced=ForcedKind.LIQUIDATION)
    core.step(structs.replace(liquidation, side=Side.LONG))
    at = core.now.wall_ms
    flat = structs.replace(short, quantity=D(0), at_ms=at)
    core.step(core.changed("ORDER", "5000", flat, at_ms=at))
    stories = core.hold(4, "90400")

    ends = {s.change.resolution for s in stories if s.change.incident.subject == "isolated-btcusdt-short"}
    assert "liquidated" not in ends


def test_a_symbol_that_is_held_again_is_not_judged_by_its_old_mark() -> None:
    """The market has moved meanwhile: the old mark would be a liquidation that is none."""
    core = Watched()
    core.begin("10000", row("BTCUSDT", "1", "90000"))
    core.price("90000")
    closed_at = core.now.wall_ms
    core.step(core.changed("ORDER", "10000", row("BTCUSDT", "0", "90000", at_ms=closed_at), at_ms=closed_at))
    core.t += 3600
    at = core.now.wall_ms
    stories = core.tell(core.changed("ORDER", "10000", row("BTCUSDT", "1", "102000", at_ms=at), at_ms=at))
    stories += core.price("102000")

    assert [s.change.incident.rule for s in stories if s.change.severity.word in ("critical", "liquidation")] == []


def test_a_mark_from_the_future_does_not_bar_those_that_follow() -> None:
    """One wrong time must not freeze a symbol while the market falls."""
    core = holding()
    wild = core.mark("91000")
    core.step(structs.replace(wild, at_ms=wild.at_ms + 86_400_000))
    stories = core.price("90300", after=3.0)

    assert [s for s in stories if s.after and s.after.mark_price == D("90300")]
