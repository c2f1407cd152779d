"""Orders that the exchange sends in our name: told at the first frame, reported when over."""

from __future__ import annotations

from decimal import Decimal

import pytest

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
    assert (report.quantity, report.average_price, report.realized_pnl, report.left) == (D("2.5"), 90250, -4375, 0)
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
    assert (report.quantity, report.realized_pnl, report.commission) == (1, -1800, 2)
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
