"""Payloads: what a message says, and in which digits.

What the exchange also prints is printed as the exchange does: liquidation prices half-up, unrealized PnL, notional and
maintenance margin truncated, all to 8 decimals. What only we derive is rounded to 8 decimals toward the more alarming
side, and never across a level of a rule. Money, prices and quantities are strings in plain notation; ratios, distances
and shares are numbers. `docs/schemas/` holds a JSON Schema for each payload.
"""

from __future__ import annotations

from typing import Any

SCHEMAS = ("event", "notice", "incident", "info", "summary", "health", "pool", "position")
"""Every JSON payload's name; its `schema` is `marginwatch.<name>/1`."""

Payload = dict[str, Any]
