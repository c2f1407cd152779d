"""What is true for now: the retained bodies of the daemon, of an account, and of its pools and positions."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.digits import ceiled, floored, fraction, half_up, margin_balance, plain, rfc3339, truncated
from monitor.effects import HealthState, PoolState, PositionState, SummaryState
from monitor.events import Vitals
from monitor.humanize import side_word
from monitor.message import Identity
from monitor.payloads import SCHEMAS, Payload
from monitor.payloads.figures import Rounding, ages
from monitor.risk.drift import Drift

VALID_FOR_S = 90
"""After how long without a newer one a summary or health is no proof of anything: three missed publications."""


# ---- of the daemon, of an account ----


def info(accounts: Iterable[tuple[str, str]], identity: Identity) -> Payload:
    """Who publishes here. accounts: Each one's name and venue."""
    return {
        "schema": "marginwatch.info/1",
        "instance": identity.instance,
        "version": identity.version,
        "boot_id": identity.boot_id,
        "started_at": rfc3339(identity.started_ms),
        "accounts": [{"account": name, "venue": venue} for name, venue in accounts],
        "schemas": [f"marginwatch.{name}/1" for name in SCHEMAS],
    }


def summary(state: SummaryState, identity: Identity, rounding: Rounding) -> Payload:
    """An account at a glance."""
    return {
        "schema": "marginwatch.summary/1",
        "instance": identity.instance,
        "account": state.account.name,
        "venue": state.account.venue,
        "labels": state.account.labels,
        "severity": state.severity.word,
        "severity_rank": int(state.severity),
        "rules": {name: {"severity": r.severity.word, "open": r.open} for name, r in state.rules.items()},
        "worst_margin_ratio": rounding.ratio(state.worst_ratio),
        "worst_distance": rounding.distance(state.worst_distance),
        "unrealized_pnl": {asset: truncated(pnl) for asset, pnl in state.unrealized_pnl.items()},
        "open_positions": state.open_positions,
        **ages(state.ages),
        "as_of": rfc3339(state.as_of_ms),
        "valid_for_s": VALID_FOR_S,
    }


def health(state: HealthState, identity: Identity) -> Payload:
    """How the links of an account are, or of the whole instance."""
    return {
        "schema": "marginwatch.health/1",
        "instance": identity.instance,
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


# ---- of a pool, of a position ----


def pool(state: PoolState, identity: Identity, rounding: Rounding) -> Payload:
    """The body of a pool snapshot."""
    risk = state.risk
    closest = risk.closest
    coming = state.funding
    return {
        "schema": "marginwatch.pool/1",
        "instance": identity.instance,
        "account": state.account.name,
        "venue": state.account.venue,
        "pool": risk.pool.id,
        "asset": risk.pool.asset,
        "margin_ratio": rounding.ratio(risk.margin_ratio),
        "bankrupt": risk.bankrupt,
        "reason": _pool_reason(risk.missing, bool(risk.pool.positions)),
        "margin_balance": margin_balance(risk.wallet_balance, risk.unrealized_pnl),
        "wallet_balance": truncated(risk.wallet_balance),
        "unrealized_pnl": truncated(risk.unrealized_pnl),
        "maintenance_margin": truncated(risk.maintenance_margin),
        "market_distance": {
            "down": rounding.distance(risk.market_distance.below),
            "up": rounding.distance(risk.market_distance.above),
        },
        "ladder": [{"shock": float(m), "margin_ratio": rounding.ratio(ratio)} for m, ratio in state.ladder.items()],
        "closest": None
        if closest is None
        else {
            "symbol": closest.position.symbol,
            "side": side_word(closest.is_long),
            "liquidation_price": half_up(closest.liquidation_price),
            "distance": rounding.distance(closest.distance),
        },
        "distance": rounding.distance(risk.distance),
        "forecast": {
            "next_funding_at": None if coming is None else rfc3339(coming.next_ms),
            "payment": None if coming is None else floored(coming.amount),
            "margin_ratio_after": None if coming is None else rounding.ratio(coming.margin_ratio),
        },
        "severity": state.severity.word,
        "freshness": state.ages.freshness,
        "as_of": rfc3339(state.as_of_ms),
    }


def _pool_reason(missing: tuple[str, ...], positions: bool) -> str | None:
    """Why there is no ratio, or why it is zero."""
    if missing:
        return f"{missing[0].split()[0]}_unknown"
    return None if positions else "no_positions"


def position(state: PositionState, identity: Identity, rounding: Rounding) -> Payload:
    """The body of a position snapshot."""
    risk, row = state.risk, state.risk.position
    fee = None
    if risk.notional is not None and state.liquidation_fee is not None:
        fee = abs(risk.notional) * state.liquidation_fee
    bankruptcy = state.bankruptcy_price
    above_mark = bankruptcy is not None and risk.mark_price is not None and bankruptcy > risk.mark_price
    return {
        "schema": "marginwatch.position/1",
        "instance": identity.instance,
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
        "distance": rounding.distance(risk.distance),
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
