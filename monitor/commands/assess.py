"""`marginwatch assess`: the risk of a saved account, offline, as it is or after what-if changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from monitor import __version__
from monitor.effects import PoolState, PositionState
from monitor.errors import DecodeError, WhatIfError
from monitor.humanize import away, percent
from monitor.message import Identity
from monitor.payloads import states
from monitor.payloads.figures import Rounding
from monitor.rules import RuleBook
from monitor.snapshot import Assessment, Ladder, assess_snapshot
from monitor.whatif import parse, shown, signed_percent

_USAGE = 2
_FARTHEST = Decimal(10)
"""A rise of the whole market beyond this has no meaning; it is told as that."""

_IDENTITY = Identity("marginwatch", "assess", __version__, "", 0)
_ROUNDING = Rounding(RuleBook())

Payload = Mapping[str, Any]
Say = Callable[[Any, Payload], str]
"""A figure of a payload in words."""


def main(
    path: str,
    shocks: Sequence[str],
    as_json: bool,
    transfers: Sequence[str],
    margins: Sequence[str],
    reductions: Sequence[str],
    closes: Sequence[str],
) -> int:
    try:
        what_if = parse(shocks, transfers, margins, reductions, closes)
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        assessment = assess_snapshot(raw, what_if)
    except WhatIfError as exc:
        print(f"marginwatch assess: {exc}", file=sys.stderr)
        return _USAGE
    except OSError as exc:
        print(f"marginwatch assess: {path}: {exc.strerror}", file=sys.stderr)
        return 1
    except DecodeError as exc:
        print(f"marginwatch assess: {path}: {exc}", file=sys.stderr)
        return 1
    steps = [f"what if: {step}" for step in assessment.steps]
    if as_json:
        print(*steps, sep="\n", end="\n" if steps else "", file=sys.stderr)
        print(*(f"{line}\n" for line in _lines(assessment)), sep="", end="")
    else:
        print(*(f"{line}\n" for line in [*steps, *_report(assessment)]), sep="", end="")
    for what in assessment.missing:
        print(f"missing: {what}", file=sys.stderr)
    return 1 if assessment.missing else 0


def _lines(assessment: Assessment) -> list[str]:
    payloads = [*map(_pool, assessment.pools), *map(_position, assessment.positions)]
    return [msgspec.json.encode(payload).decode() for payload in payloads]


def _pool(state: PoolState) -> Payload:
    return states.pool(state, _IDENTITY, _ROUNDING)


def _position(state: PositionState) -> Payload:
    return states.position(state, _IDENTITY, _ROUNDING)


# ---- for people ----


def _report(assessment: Assessment) -> list[str]:
    """Tables of pools, of positions and of what moves of the market would do; with a what-if, before → after."""
    pools = {p["pool"]: p for p in map(_pool, assessment.pools)}
    rows = {_row(p): p for p in map(_position, assessment.positions)}
    if assessment.before is None:
        old_pools, old_rows = pools, rows
    else:
        old_pools = {p["pool"]: p for p in map(_pool, assessment.before.pools)}
        old_rows = {_row(p): p for p in map(_position, assessment.before.positions)}
    lines = [""] if assessment.steps else []
    if old_pools or pools:
        lines += _pool_table(old_pools, pools)
        lines += ["", *_position_table(old_rows, rows)]
    if pools:
        lines += ["", *_ladder_tables(pools, assessment.ladders)]
    elif not assessment.missing:
        lines += ["", "no positions"] if lines else ["no positions"]
    return lines


def _pool_table(before: Mapping[str, Payload], after: Mapping[str, Payload]) -> list[str]:
    table: list[tuple[str, ...]] = [
        ("pool", "margin ratio", "margin balance", "", "maintenance margin", "distance to liquidation")
    ]
    for pool_id in sorted(before.keys() | after.keys()):
        old, new = before.get(pool_id), after.get(pool_id)
        ratio, *others = _changes(
            old,
            new,
            {"margin_ratio": _ratio, "margin_balance": _money, "maintenance_margin": _money, "distance": _distance},
        )
        table.append((pool_id, ratio, others[0], new["asset"] if new else "", *others[1:]))
    return _aligned(table)


def _position_table(before: Mapping[str, Payload], after: Mapping[str, Payload]) -> list[str]:
    table: list[tuple[str, ...]] = [
        ("position", "quantity", "entry price", "mark price", "liquidation price", "unrealized PnL")
    ]
    says = {
        "quantity": _money,
        "entry_price": _money,
        "mark_price": _money,
        "liquidation_price": _liquidation,
        "unrealized_pnl": _money,
    }
    for name in sorted(before.keys() | after.keys()):
        table.append((name, *_changes(before.get(name), after.get(name), says)))
    return _aligned(table)


def _ladder_tables(pools: Mapping[str, Payload], ladders: Mapping[str, Ladder]) -> list[str]:
    """A table for falls, one for rises: margin ratios on the way, and where each pool is liquidated."""
    lines = ["margin ratio if all marks move alike (liq.: liquidated by then)"]
    for way, sign in (("down", -1), ("up", 1)):
        moves = [m for m in next(iter(ladders.values())) if m * sign > 0]
        table = [["", *map(signed_percent, moves), "liquidated at"]]
        for pool_id, pool in pools.items():
            table.append([pool_id, *(_rung(ladders[pool_id][move]) for move in moves), _limit(pool, way, sign)])
        lines += _aligned(table)
        lines += [_first(pools, way, sign), ""]
    return lines[:-1]


def _rung(ratio: Decimal | None) -> str:
    # Once past liquidation a pool does not come back as the same move goes on: its margin balance is a straight line.
    if ratio is None:
        return "unknown"
    return "liq." if ratio >= 1 else percent(ratio)


def _limit(pool: Payload, way: str, sign: int) -> str:
    """The uniform move of all marks that liquidates a pool."""
    if pool["margin_ratio"] is None:
        return "unknown"
    if pool["margin_ratio"] >= 1:
        return "the marks as they are"
    limit = pool["market_distance"][way]
    if limit is None:
        return "no move"
    if Decimal(str(limit)) > _FARTHEST:
        return "beyond +1000 %"
    return f"{'−' if sign < 0 else '+'}{away(Decimal(str(limit)))}"


def _first(pools: Mapping[str, Payload], way: str, sign: int) -> str:
    """Which pool goes first when the market moves this way."""
    market = "falls" if sign < 0 else "rises"
    past = [pool_id for pool_id, pool in pools.items() if (pool["margin_ratio"] or 0) >= 1]
    if past:
        return f"past liquidation already: {', '.join(past)}"
    limits = {i: p["market_distance"][way] for i, p in pools.items() if p["market_distance"][way] is not None}
    if not limits:
        return f"no pool is known to be liquidated as the market {market}"
    first = min(limits, key=lambda pool_id: limits[pool_id])
    return f"first liquidated as the market {market}: {first}, at {_limit(pools[first], way, sign)}"


def _changes(old: Payload | None, new: Payload | None, says: Mapping[str, Say]) -> list[str]:
    """For each key `before → after`, or once where they read alike; of what is gone only what it was at first."""
    if new is None:
        assert old is not None
        first = next(iter(says))
        return [f"{says[first](old[first], old)} → closed", *[""] * (len(says) - 1)]
    texts = [(say((old or new)[key], old or new), say(new[key], new)) for key, say in says.items()]
    return [before if before == after else f"{before} → {after}" for before, after in texts]


def _ratio(value: float | None, pool: Payload) -> str:
    if pool["bankrupt"]:
        return "bankrupt"
    return "unknown" if value is None else percent(Decimal(str(value)))


def _distance(value: float | None, pool: Payload) -> str:
    if value is None:
        return "unknown" if pool["margin_ratio"] is None else "cannot be liquidated"
    return away(Decimal(str(value)))


def _money(value: str | None, _: Payload) -> str:
    return "unknown" if value is None else shown(Decimal(value))


def _liquidation(value: str | None, row: Payload) -> str:
    reason = str(row["liquidation"]["reason"]).replace("_", " ")
    return f"none ({reason})" if value is None else shown(Decimal(value))


def _row(position: Payload) -> str:
    """A name that keeps the legs of a hedged pair apart."""
    return f"{position['symbol']} {position['side']}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell: the first to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
