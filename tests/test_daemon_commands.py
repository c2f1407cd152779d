"""Acknowledgements and silences through the real broker: obeyed where they are meant, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiomqtt

from tests import stories
from tests.rig import Listener, Mosquitto, agreement, marginwatch, until, watching, write_config

ALWAYS: dict[str, dict[str, Any]] = {
    "margin_ratio": {"repeat_s": {"critical": 1, "liquidation": 1}},
    "liquidation_distance": {"enabled": False},
    "liquidation_price_moved": {"enabled": False},
}
"""A critical pool is told again every second."""


async def say(broker: Mosquitto, command: str, body: object, retain: bool = False) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish(f"marginwatch/cmd/{command}", json.dumps(body), qos=1, retain=retain)


async def repeats(listener: Listener, count: int) -> None:
    have = len(listener.events("margin_ratio", event="repeated"))
    await until(lambda: len(listener.events("margin_ratio", event="repeated")) >= have + count, "it is repeated")


async def test_an_acknowledgement_ends_the_repeats_and_shows_on_the_retained_topic(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A command that is kept at the broker is not obeyed at the start: it was meant for another day."""
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, rules=ALWAYS, cmd={"enabled": True})
        await say(broker, "silence", {"account": "main", "for_s": 600}, retain=True)
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "90372.10")
            opened = await listener.event("margin_ratio", "opened")
            await repeats(listener, 2)
            await say(broker, "ack", "nonsense")
            await until(lambda: "command refused" in log.getvalue(), "the log says what was wrong")

            await say(broker, "ack", {"incident_id": opened["incident_id"]})
            topic = "marginwatch/main/incident/margin_ratio/cross-usdt"
            await until(lambda: "acknowledged_at" in listener.retained(topic), "it shows")
            told = len(listener.events("margin_ratio"))
            beats = exchange.counters["event ACCOUNT_UPDATE"]
            exchange.transfer("main", "USDT", "0.01")  # the core has gone on since, for as long as three repeats
            await until(lambda: exchange.counters["event ACCOUNT_UPDATE"] > beats, "an event has passed")
            await _seconds_of_health(listener, 6)
            assert len(listener.events("margin_ratio")) == told


async def test_without_being_asked_for_commands_are_not_even_heard(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whoever may publish on the broker must not be able to silence an alarm by default."""
    async with stories.large() as exchange:
        async with watching(write_config(tmp_path / "d", exchange, broker.port, rules=ALWAYS)) as log:
            await agreement(exchange, listener, "main")
            exchange.set_mark("BTCUSDT", "90372.10")
            await listener.event("margin_ratio", "opened")
            await say(broker, "silence", {"account": "main", "for_s": 600})
            await repeats(listener, 3)
        assert "command" not in log.getvalue()


async def test_the_command_line_silences_and_acknowledges(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """As a person does it: from the incident's id to a quiet phone."""
    async with stories.large() as exchange:
        config = write_config(
            tmp_path / "d", exchange, broker.port, rules=ALWAYS, cmd={"enabled": True, "unacked_s": 3600}
        )
        async with watching(config) as log:
            await agreement(exchange, listener, "main")
            silenced = await marginwatch("silence", config, "--rule", "margin_ratio", "--for", "1h")
            await until(lambda: "silence of *.margin_ratio.* until" in log.getvalue(), "it is obeyed")
            exchange.set_mark("BTCUSDT", "90372.10")
            retained = await listener.state("marginwatch/main/incident/margin_ratio/cross-usdt")
            over = await marginwatch("silence", config, "--rule", "margin_ratio", "--end")
            opened = await listener.event("margin_ratio", "opened")
            nowhere = await marginwatch("silence", config, "--account", "mian", "--for", "1h")
            acked = await marginwatch("ack", config, opened["incident_id"])
            await until(
                lambda: "acknowledged_at" in listener.retained("marginwatch/main/incident/margin_ratio/cross-usdt"),
                "it shows",
            )
            unknown = await marginwatch("silence", config, "--rule", "margin", "--for", "1h")

    assert (silenced[0], over[0], acked[0]) == (0, 0, 0)
    assert retained["incident_id"] == opened["incident_id"]
    assert unknown[0] == 2
    assert "known are margin_ratio" in unknown[2]
    assert (nowhere[0], silenced[2]) == (0, "")
    assert nowhere[2].startswith("note: this config has no account 'mian' (it has main); ")


async def test_a_command_that_nobody_hears_or_that_the_broker_refuses_is_no_success(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Whoever believes that an incident is acknowledged, or a pool silent, relies on it."""
    commands = (("ack", "a.b.c.1"), ("silence", "--rule", "drift", "--for", "1h"))
    async with stories.large() as exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, cmd={"enabled": True})
    unheard = [await marginwatch(command, config, *more) for command, *more in commands]
    acl = tmp_path / "acl"
    acl.write_text("topic read marginwatch/#\n", "utf-8")
    broker.add(f"acl_file {acl}")
    broker.stop()
    await broker.start()
    refused = [await marginwatch(command, config, *more) for command, *more in commands]

    for answers, said in (
        (unheard, "nobody has heard it: no daemon is subscribed to marginwatch/cmd/"),
        (refused, "refuses it: its ACL must let whoever has no login write marginwatch/cmd/"),
    ):
        assert [(status, out) for status, out, _ in answers] == [(1, ""), (1, "")]
        assert all(said in err for *_, err in answers)


async def _seconds_of_health(listener: Listener, count: int) -> None:
    """Wait until so many healths (two a second) have been published."""
    seen: set[str] = set()

    def enough() -> bool:
        seen.add(listener.retained("marginwatch/main/health")["as_of"])
        return len(seen) > count

    await until(enough, "time has passed")
