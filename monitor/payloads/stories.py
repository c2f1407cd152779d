"""What is told: the bodies of an event, of its notice, and of the incident that it leaves open."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from monitor.digits import EIGHT, ceiled, fraction, half_up, margin_balance, plain, rfc3339, truncated
from monitor.discreet import discreet
from monitor.effects import Advice, Fact, Figures, Story
from monitor.forced import ForcedReport
from monitor.humanize import side_word
from monitor.message import Identity
from monitor.moves import PoolMove
from monitor.payloads import Payload
from monitor.payloads.figures import Rounding, ages
from monitor.risk.attribution import Cause, share
from monitor.rules import Severity

_OF_ONE_EVENT = ("seq", "event", "event_type", "before", "drivers", "test", "dedupe_key", "group_id")

_TOLD_TO_ANYBODY = (
    "event_id",
    "incident_id",
    "seq",
    "boot_id",
    "instance",
    "dedupe_key",
    "event",
    "event_type",
    "rule",
    "severity",
    "severity_rank",
    "account",
    "subject",
    "symbol",
    "side",
    "at",
    "test",
)


def event(story: Story, identity: Identity, rounding: Rounding) -> Payload:
    """The body of an event."""
    change, incident = story.change, story.change.incident
    severity = change.severity
    payload: Payload = {
        "schema": "marginwatch.event/1",
        "event_id": incident.event_id,
        "incident_id": incident.incident_id,
        "seq": story.seq,
        "boot_id": identity.boot_id,
        "instance": identity.instance,
        "dedupe_key": f"{incident.account}.{incident.rule}.{incident.subject}.{severity.word}",
        "event": change.kind,
        "event_type": f"{incident.rule}_{change.kind}",
        "rule": incident.rule,
        "severity": severity.word,
        "severity_rank": int(severity),
        "peak_severity": incident.peak.word,
        "account": incident.account,
        "labels": story.account.labels,
        "venue": story.account.venue,
        "subject": incident.subject,
        "symbol": story.symbol,
        "side": story.side,
        "opened_at": rfc3339(incident.opened_ms),
        "at": rfc3339(story.at_ms),
        "exchange_time": None if story.exchange_ms is None else rfc3339(story.exchange_ms),
        "before": _figures(story.before, rounding),
        "after": _figures(story.after, rounding),
        "drivers": [
            {"kind": d.kind, "symbol": d.symbol, "margin_balance": truncated(d.margin_balance)} for d in story.drivers
        ],
        "worst": _worst(story, rounding),
        "advice": [_advice(advice) for advice in story.advice],
        "data": _data(story),
        "test": story.is_test,
    }
    if story.group_id is not None:
        payload["group_id"] = story.group_id
    if incident.continues is not None:
        payload["continues"] = incident.continues
    if incident.acked_ms is not None:
        payload["acknowledged_at"] = rfc3339(incident.acked_ms)
    if change.resolution is not None:
        payload["resolution"] = change.resolution
        payload["duration_s"] = round(change.lasted_s, 3)
    if story.moves:
        payload["cause"] = [_cause(cause, story.moves[0]) for cause in story.moves[0].move.causes]
        payload["also"] = [_also(move) for move in story.moves[1:]]
    if story.forced is not None:
        payload["report"] = _report(story.forced)
    if story.facts:
        payload["facts"] = {name: _fact(name, fact, rounding) for name, fact in story.facts.items()}
    payload["title"], payload["text"] = story.title, story.text
    return payload


def incident(event: Payload, severity: Severity) -> Payload:
    """The retained body of an open incident: its last event, without what belongs to that event alone.

    Args:
        severity: Of the incident; an event may be told louder.
    """
    body = {
        **event,
        "schema": "marginwatch.incident/1",
        "severity": severity.word,
        "severity_rank": int(severity),
    }
    for name in _OF_ONE_EVENT:
        body.pop(name, None)
    return body


def notice(event: Payload, story: Story) -> Payload:
    """The body of a notice: what tells an event apart and how grave it is, and words without amounts."""
    title, text = discreet(story)
    return {"schema": "marginwatch.notice/1"} | {k: event[k] for k in _TOLD_TO_ANYBODY} | {"title": title, "text": text}


# ---- parts of an event ----


def _figures(figures: Figures | None, rounding: Rounding) -> Payload | None:
    if figures is None:
        return None
    return {
        "margin_ratio": rounding.ratio(figures.margin_ratio),
        "margin_balance": margin_balance(figures.wallet_balance, figures.unrealized_pnl),
        "mark_price": truncated(figures.mark_price),
        "liquidation_price": half_up(figures.liquidation_price),
        "distance": rounding.distance(figures.distance),
    }


def _fact(name: str, fact: Fact, rounding: Rounding) -> Fact | float:
    if isinstance(fact, Decimal):
        if name.endswith("margin_ratio"):
            return rounding.ratio(fact)
        if name.endswith("distance"):
            return rounding.distance(fact)
        if name == "move":
            return fraction(fact)
        return half_up(fact)
    return rfc3339(fact) if isinstance(fact, int) and name.endswith("_at") else fact


def _worst(story: Story, rounding: Rounding) -> Payload:
    rule, worst = story.change.incident.rule, story.change.incident.worst
    if story.is_test:
        return {}
    if rule == "margin_ratio":
        return {"margin_ratio": rounding.ratio(worst)}
    if rule == "liquidation_distance":
        return {"distance": rounding.distance(worst)}
    if rule == "drift":
        return {} if worst is None else {"drift": fraction(worst)}
    return {"age_s": float(worst)} if rule == "data_stale" and worst is not None else {}


def _advice(advice: Advice) -> Payload:
    if advice.action == "add_margin":
        said: Payload = {"action": "add_margin", "amount": ceiled(advice.amount), "asset": advice.asset}
    else:
        said = {
            "action": "reduce",
            "symbol": advice.symbol,
            "side": advice.side,
            "quantity": None if advice.quantity is None else plain(advice.quantity),
        }
        if advice.reason is not None:
            said["reason"] = advice.reason
    return said | {"to_ratio": float(advice.to_ratio)}


def _data(story: Story) -> Payload:
    data = {} if story.ages is None else ages(story.ages)
    if story.blindness is not None:
        blind = story.blindness
        data |= {
            "link": blind.link.name,
            "age_s": round(blind.age_s, 3),
            "note": blind.note,
            "pools": list(blind.pools),
        }
    return data


def _cause(cause: Cause, move: PoolMove) -> Payload:
    part = share(cause, move.move)
    said: Payload = {"kind": cause.kind, "symbol": cause.symbol}
    if cause.quantity is not None:
        said["quantity"] = plain(cause.quantity)
    if cause.kind == "funding_fee":
        said["forecast"] = truncated(cause.forecast)
    return said | {
        "amount": truncated(cause.amount),
        "asset": cause.asset or move.pool.asset,
        "moved": half_up(cause.moved),
        "share": None if part is None else float(part.quantize(EIGHT, rounding=ROUND_HALF_UP)),
    }


def _report(report: ForcedReport) -> Payload:
    return {
        "kind": report.kind.value,
        "quantity": plain(report.quantity.normalize()),
        "average_price": half_up(report.average_price),
        "bankruptcy_price": half_up(report.bankruptcy_price),
        "liquidation_price": half_up(report.liquidation_price),
        "realized_pnl": None if report.is_listed else truncated(report.realized_pnl),
        "commission": None if report.is_listed else truncated(report.commission),
        "clearance_fee": None if report.is_listed else truncated(report.clearance_fee),
        "asset": report.asset,
        "left": None if report.left is None else plain(report.left),
        "steps": report.steps,
        "orders_cancelled": report.orders_cancelled,
        "insurance_fund": truncated(report.insurance_fund),
    }


def _also(move: PoolMove) -> Payload:
    position = next(p for p in move.pool.positions if p.key == move.move.key)
    return {
        "symbol": position.symbol,
        "side": side_word(position.quantity > 0),
        "pool": move.pool.id,
        "before": half_up(move.move.before),
        "after": half_up(move.move.after),
        "moved": half_up(move.move.moved),
        "cause": [_cause(cause, move) for cause in move.move.causes],
    }
