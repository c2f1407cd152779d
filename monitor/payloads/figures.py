"""Figures that several payloads have, and how they are rounded."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from monitor.digits import alarming
from monitor.effects import Ages
from monitor.payloads import Payload
from monitor.risk.margin import RATIO_CAP
from monitor.rules import RuleBook


class Rounding:
    """Rounds to the more alarming side, and never across a level of these rules."""

    def __init__(self, rules: RuleBook) -> None:
        self._ratio_levels = sorted({*rules.levels("margin_ratio"), Decimal(1)})
        self._distance_levels = sorted(rules.levels("liquidation_distance"))

    def ratio(self, value: Decimal | None) -> float | None:
        """A margin ratio, rounded up, unless that would lift it over a level."""
        if value is None:
            return None
        return float(alarming(value if value < RATIO_CAP else RATIO_CAP, self._ratio_levels, ROUND_CEILING))

    def distance(self, value: Decimal | None) -> float | None:
        """A distance, rounded down, unless that would drop it onto a level."""
        return None if value is None else float(alarming(value, self._distance_levels, ROUND_FLOOR))


def ages(of: Ages) -> Payload:
    """How old the data is, in milliseconds."""
    return {
        "freshness": of.freshness,
        "mark_age_ms": None if of.mark_s is None else round(of.mark_s * 1000),
        "account_age_ms": None if of.account_s is None else round(of.account_s * 1000),
    }
