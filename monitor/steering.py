"""What a person tells us over MQTT: acknowledgements and silences, out of topics and payloads.

    <prefix>/cmd/ack       {"incident_id": "main.cross-usdt.margin_ratio.1795248000412"}
    <prefix>/cmd/silence   {"rule": "funding_forecast", "account": "main", "subject": "cross-usdt", "for_s": 3600}

Of a silence at least one of rule, account and subject is given, and either `for_s` or `until` (RFC 3339); `for_s` 0
ends an earlier one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from monitor.errors import CommandError
from monitor.events import Acknowledge, Silence
from monitor.rules import DEFAULTS

ACK, SILENCE = "ack", "silence"
LONGEST_SILENCE_S = 7 * 86_400
TOO_LONG = f"longer than {timedelta(seconds=LONGEST_SILENCE_S).days} days; switch the rule off"
_LARGEST = 4096


def parse(command: str, payload: bytes, now_ms: int) -> Acknowledge | Silence:
    """Read a command.

    Args:
        command: The last level of its topic.
        now_ms: Unix milliseconds, from which a duration runs.

    Raises:
        CommandError: It is none, or misreads; with what would be right.
    """
    if command not in (ACK, SILENCE):
        raise CommandError(f"unknown command {command[:40]!r}; known are {ACK} and {SILENCE}")
    try:
        body = msgspec.json.decode(payload[:_LARGEST], type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        example = '{"incident_id": "…"}' if command == ACK else '{"rule": "…", "for_s": 3600}'
        raise CommandError(f"{command}: not a JSON object such as {example}") from None
    return _ack(body) if command == ACK else _silence(body, now_ms)


def _ack(body: dict[str, Any]) -> Acknowledge:
    incident_id = body.get("incident_id")
    if not isinstance(incident_id, str) or not incident_id:
        raise CommandError("ack: incident_id is missing; it is in every event and incident")
    _known(body, "ack", ("incident_id",))
    return Acknowledge(incident_id)


def _silence(body: dict[str, Any], now_ms: int) -> Silence:
    _known(body, "silence", ("account", "rule", "subject", "for_s", "until"))
    about = {key: body[key] for key in ("account", "rule", "subject") if body.get(key) is not None}
    if not about or not all(isinstance(value, str) for value in about.values()):
        raise CommandError("silence: name at least one of rule, account and subject, as text")
    if about.get("rule", "margin_ratio") not in DEFAULTS:
        raise CommandError(f"silence: unknown rule {about['rule'][:40]!r}; known are {', '.join(DEFAULTS)}")
    until_ms = _until(body, now_ms)
    if until_ms - now_ms > LONGEST_SILENCE_S * 1000:
        raise CommandError(f"silence: {TOO_LONG}")
    return Silence(until_ms, **about)


def _until(body: dict[str, Any], now_ms: int) -> int:
    for_s, until = body.get("for_s"), body.get("until")
    if (for_s is None) == (until is None):
        raise CommandError("silence: give either for_s (seconds) or until (RFC 3339)")
    if for_s is not None:
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 <= for_s <= LONGEST_SILENCE_S:
            raise CommandError(f"silence: for_s must be a number of seconds from 0 to {LONGEST_SILENCE_S}")
        return now_ms + round(for_s * 1000)
    try:
        at = datetime.fromisoformat(str(until))
    except ValueError:
        raise CommandError("silence: until must be a time such as 2026-11-21T08:00:00Z") from None
    if at.tzinfo is None:
        raise CommandError("silence: until needs its time zone, such as Z or +01:00")
    return round(at.timestamp() * 1000)


def _known(body: dict[str, Any], command: str, keys: tuple[str, ...]) -> None:
    unknown = sorted(body.keys() - set(keys))
    if unknown:
        raise CommandError(f"{command}: unknown key {unknown[0][:40]!r}; known are {', '.join(keys)}")
