"""A position whose margin type is switched moves to another pool, and its incident goes on there."""

from __future__ import annotations

import json

from monitor.effects import Story
from monitor.events import MarginTypesRead, Position, Tick
from tests.schemas import validate
from tests.watched import Watched, of_rule, row


def switched(core: Watched, held: Position, wallet: str) -> dict[str, Story]:
    """The snapshot that shows the switch; what is told of the ratio then, by subject."""
    types = MarginTypesRead("main", {"BTCUSDT": bool(held.isolated)})
    told = core.tell(types, *core.truth(wallet, held, at_ms=core.now.wall_ms), core.mark("60000"), Tick())
    return {s.change.incident.subject: s for s in of_rule([*told, *core.hold(3, "60000")], "margin_ratio")}


def test_the_incident_goes_on_in_the_new_pool_and_back() -> None:
    """240 on 300 either way: whoever follows the one must find the other."""
    core = Watched()
    core.begin("300", row("BTCUSDT", "1", "60000", isolated=False))
    [opened] = of_rule(core.price("60000"), "margin_ratio")
    at = core.now.wall_ms
    there = switched(core, row("BTCUSDT", "1", "60000", isolated=True, isolated_wallet="300", at_ms=at), "0")
    at = core.now.wall_ms
    back = switched(core, row("BTCUSDT", "1", "60000", isolated=False, at_ms=at), "300")

    assert there.keys() == back.keys() == {"cross-usdt", "isolated-btcusdt"}
    assert there["cross-usdt"].change.resolution == "pool_replaced"
    assert there["isolated-btcusdt"].change.incident.continues == opened.change.incident.incident_id
    assert back["isolated-btcusdt"].change.resolution == "pool_replaced"
    was = there["isolated-btcusdt"].change.incident.incident_id
    assert json.loads(core.messages.of(back["cross-usdt"])[0].payload)["continues"] == was
    for message in core.sent():
        validate(message.topic, message.payload)


def test_an_incident_of_a_pool_that_is_still_there_is_its_own() -> None:
    """With another position left, the cross pool's story is not the isolated one's."""
    core = Watched()
    eth = row("ETHUSDT", "1", "3000", isolated=False)
    core.begin("330", row("BTCUSDT", "1", "60000", isolated=False), eth)
    core.step(core.mark("60000"), core.mark("3000", "ETHUSDT"), Tick())
    alone = row("BTCUSDT", "1", "60000", isolated=True, isolated_wallet="300", at_ms=core.now.wall_ms)
    events = core.truth("30", alone, eth, at_ms=core.now.wall_ms)
    told = core.tell(*events, core.mark("60000"), core.mark("3000", "ETHUSDT"), Tick())
    [opened] = [s for s in of_rule(told, "margin_ratio") if s.change.kind == "opened"]

    assert (opened.change.incident.subject, opened.change.incident.continues) == ("isolated-btcusdt", None)
