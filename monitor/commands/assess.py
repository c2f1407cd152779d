"""`marginwatch assess`: the risk of a saved account, offline."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from monitor import __version__
from monitor.errors import DecodeError
from monitor.messages import Identity, Messages
from monitor.rules import RuleBook
from monitor.snapshot import Assessment, assess_snapshot, shock

_USAGE = 2


def main(path: str, shocks: list[str], as_json: bool) -> int:
    try:
        moves = dict(shock(text) for text in shocks)
    except ValueError as exc:
        print(f"marginwatch assess: --shock: {exc}", file=sys.stderr)
        return _USAGE
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        assessment = assess_snapshot(raw, moves)
    except OSError as exc:
        print(f"marginwatch assess: {path}: {exc.strerror}", file=sys.stderr)
        return 1
    except DecodeError as exc:
        print(f"marginwatch assess: {path}: {exc}", file=sys.stderr)
        return 1
    messages = Messages(Identity("marginwatch", "assess", __version__, "", 0), RuleBook())
    show = _lines if as_json else _table
    for line in show(messages, assessment):
        print(line)
    for what in assessment.missing:
        print(f"missing: {what}", file=sys.stderr)
    return 1 if assessment.missing else 0


def _lines(messages: Messages, assessment: Assessment) -> list[str]:
    payloads = [*map(messages.pool, assessment.pools), *map(messages.position, assessment.positions)]
    return [msgspec.json.encode(payload).decode() for payload in payloads]


def _table(messages: Messages, assessment: Assessment) -> list[str]:
    """A pool a line, its positions below it."""
    lines = []
    for state in assessment.pools:
        pool = messages.pool(state)
        ratio = _percent(pool["margin_ratio"])
        lines.append(
            f"{pool['pool']}: margin ratio {ratio}, margin balance {pool['margin_balance']} {pool['asset']},"
            f" maintenance margin {pool['maintenance_margin']}, {_percent(pool['distance'])} from liquidation"
        )
        for row in map(messages.position, assessment.positions):
            if row["pool"] == pool["pool"]:
                price = row["liquidation_price"] or f"none ({row['liquidation']['reason']})"
                lines.append(
                    f"  {row['symbol']} {row['side']} {row['quantity']} at {row['entry_price']},"
                    f" mark {row['mark_price']}:"
                    f" liquidation price {price}, unrealized PnL {row['unrealized_pnl']}"
                )
    return lines or ["no positions"]


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"
