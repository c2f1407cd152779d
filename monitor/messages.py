"""Topics and payloads: the one place that knows what is published where, and in which digits.

What the exchange also prints is printed as the exchange does: liquidation prices half-up, unrealized PnL, notional and
maintenance margin truncated, all to 8 decimals. What only we derive is rounded to 8 decimals toward the more alarming
side, and never across a level of a rule. Money, prices and quantities are strings in plain notation; ratios, distances
and shares are numbers. `docs/schemas/` holds a JSON Schema for each payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
from msgspec import Struct

from monitor.digits import (
    EIGHT,
    alarming,
    ceiled,
    floored,
    fraction,
    half_up,
    margin_balance,
    plain,
    rfc3339,
    truncated,
)
from monitor.discreet import discreet
from monitor.effects import (
    AccountGone,
    Advice,
    Ages,
    Effect,
    Fact,
    Figures,
    HealthState,
    IncidentOver,
    PoolGone,
    PoolState,
    PositionGone,
    PositionState,
    Story,
    SummaryState,
)
from monitor.events import Vitals
from monitor.forced import ForcedReport
from monitor.incidents import IncidentKey
from monitor.moves import PoolMove
from monitor.names import slug
from monitor.risk.attribution import Cause, share
from monitor.risk.drift import Drift
from monitor.risk.margin import RATIO_CAP
from monitor.risk.pools import row_slug
from monitor.rules import RuleBook, Severity
from monitor.telling import side_word

SCHEMAS = ("event", "notice", "incident", "info", "summary", "health", "pool", "position")
"""Every JSON payload's name; its `schema` is `marginwatch.<name>/1`."""

_NOTICE = "/notice"
"""What a notice is kept under: its event's id, with this behind it."""

Payload = dict[str, Any]


class Message(Struct, frozen=True, gc=False):
    """One MQTT message.

    Args:
        rank: Severity rank: of two that wait, the higher goes first.
        event_id: Set for events and notices alone: they are kept under it until the broker has them.
        incident_id: Events of one incident keep their order, and so do its notices.
        can_wait: It is a state that goes only when nothing else waits.
        opened_ms: What the incident is named after.
        at_ms: When it happened.
    """

    topic: str
    payload: bytes
    retain: bool
    qos: int
    rank: int = 0
    event_id: str | None = None
    incident_id: str | None = None
    opened_ms: int = 0
    at_ms: int = 0
    can_wait: bool = False

    @property
    def is_notice(self) -> bool:
        return self.event_id is not None and self.event_id.endswith(_NOTICE)

    @property
    def is_event(self) -> bool:
        return self.event_id is not None and not self.is_notice

    @property
    def told_as(self) -> str | None:
        """The `event_id` in its payload: a notice tells its event's."""
        return None if self.event_id is None else self.event_id.removesuffix(_NOTICE)

    @property
    def line(self) -> str:
        """What keeps its order: the incidents of one rule and subject, each named after the time that it opened."""
        incident_id = self.incident_id or ""
        return incident_id.rpartition(".")[0] or incident_id


class Place(Struct, frozen=True):
    """What a retained topic stands for.

    Args:
        kind: `status`, `info`, `summary`, `health`, `pool`, `position` or `incident`.
        account: Whose; empty for `status` and `info`.
        name: Which of them: a pool, a position, or the rule and subject of an incident; else empty.
    """

    kind: str
    account: str = ""
    name: str = ""


def place(prefix: str, topic: str) -> Place | None:
    """What a topic stands for; None: it is no retained topic of ours."""
    if not topic.startswith(f"{prefix}/"):
        return None
    match topic.removeprefix(f"{prefix}/").split("/"):
        case [("status" | "info") as kind]:
            return Place(kind)
        case [account, ("summary" | "health") as kind]:
            return Place(kind, account)
        case [account, ("pool" | "position") as kind, name]:
            return Place(kind, account, name)
        case [account, "incident", rule, subject]:
            return Place("incident", account, f"{rule}/{subject}")
    return None


class Identity(Struct, frozen=True):
    """Who publishes.

    Args:
        instance: Name of this daemon, in every payload.
        boot_id: Of this run; `seq` counts within it.
        discovery_prefix: Below which Home Assistant looks for configs.
    """

    prefix: str
    instance: str
    version: str
    boot_id: str
    started_ms: int
    discovery_prefix: str = "homeassistant"


class Messages:
    """Effects to messages, for one instance and its rules.

    Args:
        notices: Whether each event is followed by a notice, which has no amounts in it.
    """

    def __init__(self, identity: Identity, rules: RuleBook, *, notices: bool = False) -> None:
        self._id = identity
        self._notices = notices
        self.take_rules(rules)

    def take_rules(self, rules: RuleBook) -> None:
        """Round no figure across a level of these rules."""
        self._ratio_levels = sorted({*rules.levels("margin_ratio"), Decimal(1)})
        self._distance_levels = sorted(rules.levels("liquidation_distance"))

    # ---- topics ----

    @property
    def status_topic(self) -> str:
        return status_topic(self._id.prefix)

    def summary_topic(self, account: str) -> str:
        return f"{self._id.prefix}/{account}/summary"

    def health_topic(self, account: str) -> str:
        return f"{self._id.prefix}/{account}/health"

    def events_filter(self, account: str) -> str:
        """All that is told of an account; where there are notices, it is these that may be passed on."""
        return f"{self._id.prefix}/{account}/{'notice' if self._notices else 'event'}/#"

    def incident_topic(self, key: IncidentKey) -> str:
        return f"{self._id.prefix}/{key.account}/incident/{key.rule}/{key.subject}"

    def pool_topic(self, account: str, pool: str) -> str:
        return f"{self._id.prefix}/{account}/pool/{pool}"

    def position_topic(self, account: str, row: str) -> str:
        return f"{self._id.prefix}/{account}/position/{row}"

    def node(self, account: str) -> str:
        """How an account's device is called at Home Assistant."""
        return f"{_node_prefix(self._id.prefix)}{account}"

    def discovery_topic(self, component: str, account: str, object_id: str) -> str:
        return f"{self._id.discovery_prefix}/{component}/{self.node(account)}/{object_id}/config"

    # ---- effects ----

    def of(self, effect: Effect) -> list[Message]:
        """What an effect publishes; nothing for those that are no news to anybody outside."""
        make = _MAKE.get(type(effect))
        return [] if make is None else make(self, effect)

    def status(self, online: bool) -> Message:
        return Message(self.status_topic, b"online" if online else b"offline", retain=True, qos=1, rank=_FIRST)

    def info(self, accounts: Iterable[tuple[str, str]]) -> Message:
        payload = {
            "schema": "marginwatch.info/1",
            "instance": self._id.instance,
            "version": self._id.version,
            "boot_id": self._id.boot_id,
            "started_at": rfc3339(self._id.started_ms),
            "accounts": [{"account": name, "venue": venue} for name, venue in accounts],
            "schemas": [f"marginwatch.{name}/1" for name in SCHEMAS],
        }
        return self._retained(f"{self._id.prefix}/info", payload)

    def _story(self, story: Story) -> list[Message]:
        change = story.change
        incident = change.incident
        payload = self.event(story)
        messages = []
        if change.kind != "retained" and change.is_told:
            messages.append(self._told(story, "event", payload))
            if self._notices:
                messages.append(self._told(story, "notice", _notice(payload, story), _NOTICE))
        if change.kind not in ("noted", "resolved"):
            messages.append(
                self._retained(self.incident_topic(incident.key), self._incident(payload), incident.severity)
            )
        return messages

    def _told(self, story: Story, kind: str, payload: Payload, kept_under: str = "") -> Message:
        incident, severity = story.change.incident, story.change.severity
        return Message(
            topic=f"{self._id.prefix}/{incident.account}/{kind}/{severity.word}/{incident.rule}",
            payload=msgspec.json.encode(payload),
            retain=False,
            qos=1,
            rank=severity,
            event_id=f"{incident.event_id}{kept_under}",
            incident_id=f"{incident.incident_id}{kept_under}",
            opened_ms=incident.opened_ms,
            at_ms=story.at_ms,
        )

    def event(self, story: Story) -> Payload:
        """The body of an event."""
        change, incident = story.change, story.change.incident
        severity = change.severity
        payload: Payload = {
            "schema": "marginwatch.event/1",
            "event_id": incident.event_id,
            "incident_id": incident.incident_id,
            "seq": story.seq,
            "boot_id": self._id.boot_id,
            "instance": self._id.instance,
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
            "before": self._figures(story.before),
            "after": self._figures(story.after),
            "drivers": [
                {"kind": d.kind, "symbol": d.symbol, "margin_balance": truncated(d.margin_balance)}
                for d in story.drivers
            ],
            "worst": self._worst(story),
            "advice": [self._advice(advice) for advice in story.advice],
            "data": self._data(story),
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
            payload["facts"] = {name: self._fact(name, fact) for name, fact in story.facts.items()}
        payload["title"], payload["text"] = story.title, story.text
        return payload

    def _fact(self, name: str, fact: Fact) -> Fact | float:
        if isinstance(fact, Decimal):
            if name.endswith("margin_ratio"):
                return self.ratio(fact)
            if name.endswith("distance"):
                return self.distance(fact)
            if name == "move":
                return fraction(fact)
            return half_up(fact)
        return rfc3339(fact) if isinstance(fact, int) and name.endswith("_at") else fact

    def _incident(self, event: Payload) -> Payload:
        """The retained body of an open incident: its last event, without what belongs to that event alone."""
        incident = {**event, "schema": "marginwatch.incident/1"}
        for name in _OF_ONE_EVENT:
            incident.pop(name, None)
        return incident

    def _figures(self, figures: Figures | None) -> Payload | None:
        if figures is None:
            return None
        return {
            "margin_ratio": self.ratio(figures.margin_ratio),
            "margin_balance": margin_balance(figures.wallet_balance, figures.unrealized_pnl),
            "mark_price": truncated(figures.mark_price),
            "liquidation_price": half_up(figures.liquidation_price),
            "distance": self.distance(figures.distance),
        }

    def _worst(self, story: Story) -> Payload:
        rule, worst = story.change.incident.rule, story.change.incident.worst
        if story.is_test:
            return {}
        if rule == "margin_ratio":
            return {"margin_ratio": self.ratio(worst)}
        if rule == "liquidation_distance":
            return {"distance": self.distance(worst)}
        if rule == "drift":
            return {} if worst is None else {"drift": fraction(worst)}
        return {"age_s": float(worst)} if rule == "data_stale" and worst is not None else {}

    def _advice(self, advice: Advice) -> Payload:
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

    def _data(self, story: Story) -> Payload:
        data = {} if story.ages is None else _ages(story.ages)
        if story.blindness is not None:
            blind = story.blindness
            data |= {
                "link": blind.link.name,
                "age_s": round(blind.age_s, 3),
                "note": blind.note,
                "pools": list(blind.pools),
            }
        return data

    def _incident_over(self, effect: IncidentOver) -> list[Message]:
        return [emptied(self.incident_topic(effect.key))]

    def _account_gone(self, effect: AccountGone) -> list[Message]:
        return [emptied(self.summary_topic(effect.account)), emptied(self.health_topic(effect.account))]

    def _pool(self, state: PoolState) -> list[Message]:
        return [self._retained(self.pool_topic(state.account.name, state.risk.pool.id), self.pool(state), qos=0)]

    def pool(self, state: PoolState) -> Payload:
        """The body of a pool snapshot."""
        risk = state.risk
        closest = risk.closest
        coming = state.funding
        return {
            "schema": "marginwatch.pool/1",
            "instance": self._id.instance,
            "account": state.account.name,
            "venue": state.account.venue,
            "pool": risk.pool.id,
            "asset": risk.pool.asset,
            "margin_ratio": self.ratio(risk.margin_ratio),
            "bankrupt": risk.bankrupt,
            "reason": _pool_reason(risk.missing, bool(risk.pool.positions)),
            "margin_balance": margin_balance(risk.wallet_balance, risk.unrealized_pnl),
            "wallet_balance": truncated(risk.wallet_balance),
            "unrealized_pnl": truncated(risk.unrealized_pnl),
            "maintenance_margin": truncated(risk.maintenance_margin),
            "market_distance": {
                "down": self.distance(risk.market_distance.below),
                "up": self.distance(risk.market_distance.above),
            },
            "ladder": [{"shock": float(m), "margin_ratio": self.ratio(ratio)} for m, ratio in state.ladder.items()],
            "closest": None
            if closest is None
            else {
                "symbol": closest.position.symbol,
                "side": side_word(closest.is_long),
                "liquidation_price": half_up(closest.liquidation_price),
                "distance": self.distance(closest.distance),
            },
            "distance": self.distance(risk.distance),
            "forecast": {
                "next_funding_at": None if coming is None else rfc3339(coming.next_ms),
                "payment": None if coming is None else floored(coming.amount),
                "margin_ratio_after": None if coming is None else self.ratio(coming.margin_ratio),
            },
            "severity": state.severity.word,
            "freshness": state.ages.freshness,
            "as_of": rfc3339(state.as_of_ms),
        }

    def _position(self, state: PositionState) -> list[Message]:
        topic = self.position_topic(state.account.name, row_slug(state.risk.position.key))
        return [self._retained(topic, self.position(state), qos=0)]

    def position(self, state: PositionState) -> Payload:
        """The body of a position snapshot."""
        risk, row = state.risk, state.risk.position
        fee = None
        if risk.notional is not None and state.liquidation_fee is not None:
            fee = abs(risk.notional) * state.liquidation_fee
        bankruptcy = state.bankruptcy_price
        above_mark = bankruptcy is not None and risk.mark_price is not None and bankruptcy > risk.mark_price
        return {
            "schema": "marginwatch.position/1",
            "instance": self._id.instance,
            "account": state.account.name,
            "venue": state.account.venue,
            "symbol": row.symbol,
            "side": side_word(risk.is_long),
            "quantity": plain(row.quantity),
            "quantity_unit": state.quantity_unit,
            "asset": state.asset,
            "entry_price": truncated(row.entry_price),
            "mark_price": truncated(risk.mark_price),
            "notional": truncated(risk.notional),
            "margin_mode": "isolated" if row.isolated else "cross",
            "pool": state.pool,
            "unrealized_pnl": truncated(risk.unrealized_pnl),
            "maintenance_margin": truncated(risk.maintenance_margin),
            "bracket": None
            if risk.bracket is None
            else {
                "number": risk.bracket.number,
                "rate": float(risk.bracket.rate),
                "amount": plain(risk.bracket.amount.normalize()),
                "room_to_next": floored(risk.room_to_next),
            },
            "liquidation_price": half_up(risk.liquidation_price),
            "liquidation": {
                "below": half_up(risk.liquidation.below),
                "above": half_up(risk.liquidation.above),
                "reason": risk.reason,
            },
            "bankruptcy_price": floored(bankruptcy) if above_mark else ceiled(bankruptcy),
            "distance": self.distance(risk.distance),
            "clearance_fee": ceiled(fee),
            "exchange_liquidation_price": None if state.exchange is None else half_up(state.exchange.liquidation_price),
            "funding": {
                "rate": None if state.funding_rate is None else float(state.funding_rate),
                "next_at": None if state.next_funding_ms is None else rfc3339(state.next_funding_ms),
                "interval_hours": None if state.next_funding_ms is None else state.funding_interval_hours,
                "payment": floored(state.funding_payment),
                "liquidation_price_after": half_up(state.liquidation_price_after),
            },
            "adl_quantile": state.adl_quantile,
            "freshness": state.ages.freshness,
            "as_of": rfc3339(state.as_of_ms),
        }

    def _pool_gone(self, effect: PoolGone) -> list[Message]:
        return [emptied(self.pool_topic(effect.account, effect.pool))]

    def _position_gone(self, effect: PositionGone) -> list[Message]:
        return [emptied(self.position_topic(effect.account, row_slug(effect.key)))]

    def _summary(self, state: SummaryState) -> list[Message]:
        payload = {
            "schema": "marginwatch.summary/1",
            "instance": self._id.instance,
            "account": state.account.name,
            "venue": state.account.venue,
            "labels": state.account.labels,
            "severity": state.severity.word,
            "severity_rank": int(state.severity),
            "rules": {name: {"severity": r.severity.word, "open": r.open} for name, r in state.rules.items()},
            "worst_margin_ratio": self.ratio(state.worst_ratio),
            "worst_distance": self.distance(state.worst_distance),
            "unrealized_pnl": {asset: truncated(pnl) for asset, pnl in state.unrealized_pnl.items()},
            "open_positions": state.open_positions,
            **_ages(state.ages),
            "as_of": rfc3339(state.as_of_ms),
            "valid_for_s": VALID_FOR_S,
        }
        return [self._retained(self.summary_topic(state.account.name), payload)]

    def _health(self, state: HealthState) -> list[Message]:
        payload = {
            "schema": "marginwatch.health/1",
            "instance": self._id.instance,
            "account": state.account,
            "freshness": state.freshness,
            "drift": {pool_id: _drift(found) for pool_id, found in state.drifts.items()},
            "links": {
                name: {
                    "state": link.state.value,
                    "age_s": round(age, 3),
                    "reconnects": link.reconnects,
                    "mutes": link.mutes,
                    "weight_used": link.weight_used,
                    "note": link.note,
                }
                for name, (link, age) in state.links.items()
            },
            "heartbeat": None if state.vitals is None else _vitals(state.vitals),
            "as_of": rfc3339(state.as_of_ms),
            "valid_for_s": VALID_FOR_S,
        }
        return [self._retained(self.health_topic(state.account), payload)]

    def _retained(self, topic: str, payload: Payload, severity: Severity = Severity.OK, qos: int = 1) -> Message:
        return Message(topic, msgspec.json.encode(payload), True, qos, severity)

    # ---- digits ----

    def ratio(self, value: Decimal | None) -> float | None:
        """A margin ratio, rounded up, unless that would lift it over a level."""
        return None if value is None else float(alarming(min(value, RATIO_CAP), self._ratio_levels, ROUND_CEILING))

    def distance(self, value: Decimal | None) -> float | None:
        """A distance, rounded down, unless that would drop it onto a level."""
        return None if value is None else float(alarming(value, self._distance_levels, ROUND_FLOOR))


VALID_FOR_S = 90
"""After how long without a newer one a summary or health is no proof of anything: three missed publications."""

_FIRST = 9
"""Rank of the daemon's own status: before everything else."""


_MAKE: Mapping[type, Callable[[Messages, Any], list[Message]]] = {
    Story: Messages._story,
    IncidentOver: Messages._incident_over,
    PoolState: Messages._pool,
    PositionState: Messages._position,
    PoolGone: Messages._pool_gone,
    PositionGone: Messages._position_gone,
    AccountGone: Messages._account_gone,
    SummaryState: Messages._summary,
    HealthState: Messages._health,
}


def _notice(event: Payload, story: Story) -> Payload:
    """The body of a notice: what tells an event apart and how grave it is, and words without amounts."""
    title, text = discreet(story)
    return {"schema": "marginwatch.notice/1"} | {k: event[k] for k in _TOLD_TO_ANYBODY} | {"title": title, "text": text}


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


def _drift(found: Drift) -> Payload:
    return {
        "liquidation_price": None if found.liquidation_price is None else fraction(found.liquidation_price),
        "maintenance_margin": None if found.maintenance_margin is None else fraction(found.maintenance_margin),
        "unrealized_pnl": fraction(found.unrealized_pnl),
    }


def _vitals(vitals: Vitals) -> Payload:
    return {
        "uptime_s": round(vitals.uptime_s, 3),
        "loop_lag_ms": round(vitals.loop_lag_ms, 1),
        "rss_bytes": vitals.rss_bytes,
    }


def _ages(ages: Ages) -> Payload:
    return {
        "freshness": ages.freshness,
        "mark_age_ms": None if ages.mark_s is None else round(ages.mark_s * 1000),
        "account_age_ms": None if ages.account_s is None else round(ages.account_s * 1000),
    }


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
        "realized_pnl": truncated(report.realized_pnl),
        "commission": truncated(report.commission),
        "clearance_fee": truncated(report.clearance_fee),
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


def _pool_reason(missing: tuple[str, ...], positions: bool) -> str | None:
    """Why there is no ratio, or why it is zero."""
    if missing:
        return f"{missing[0].split()[0]}_unknown"
    return None if positions else "no_positions"


def emptied(topic: str, can_wait: bool = False) -> Message:
    """There is nothing at this topic any more."""
    return Message(topic, b"", retain=True, qos=1, can_wait=can_wait)


# ---- topics that are listened to ----


def birth_topic(discovery_prefix: str) -> str:
    """Where Home Assistant says that it has started."""
    return f"{discovery_prefix}/status"


def retained_filters(prefix: str, discovery_prefix: str) -> tuple[str, str]:
    """Everything of ours that may be retained, and what is others'."""
    return f"{prefix}/#", f"{discovery_prefix}/+/+/+/config"


def retained_by(topic: str, prefix: str, discovery_prefix: str) -> str | None:
    """The account of which a retained topic tells; None: of none, or it is not ours."""
    found = place(prefix, topic)
    if found is not None:
        return found.account or None
    head, _, rest = topic.partition(f"{discovery_prefix}/")
    parts = rest.split("/")
    node = _node_prefix(prefix)
    is_ours = not head and len(parts) == 4 and parts[1].startswith(node) and parts[3] == "config"
    return parts[1].removeprefix(node) if is_ours else None


def _node_prefix(prefix: str) -> str:
    """A slug has no underscore, so that one prefix is never the beginning of another."""
    return f"{slug(prefix)}_"


# ---- what a daemon leaves at the broker ----


def status_topic(prefix: str) -> str:
    return f"{prefix}/status"


def is_left_by(topic: str, prefix: str, discovery_prefix: str) -> bool:
    """Whether a retained topic belongs to this prefix, to an account or to none."""
    return topic.startswith(f"{prefix}/") or retained_by(topic, prefix, discovery_prefix) is not None


def neighbours(retained: Mapping[str, bytes], prefix: str) -> list[str]:
    """Prefixes of other daemons that lie below this one. No account is called `status`.

    Args:
        retained: Payload by topic.
    """
    words = (b"online", b"offline")
    found = {topic.removesuffix("/status") for topic, payload in retained.items() if payload in words}
    return sorted(other for other in found if other.startswith(f"{prefix}/") and status_topic(other) in retained)
