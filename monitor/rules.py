"""What is watched, and at which level: rules are data.

A rule has steps; each step fires at `at`, clears past `clear`, and has a severity. `clear` below `at`: it fires as the
value rises; above: as it falls. To add a rule: its class here with its defaults, its line in `DEFAULTS`, and what
measures it, in `judges/`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from enum import IntEnum
from fnmatch import fnmatchcase

from msgspec import Struct, field


class Severity(IntEnum):
    """How bad; the number is the rank that is published beside the name."""

    OK = 0
    INFO = 1
    NOTICE = 2
    WARNING = 3
    CRITICAL = 4
    LIQUIDATION = 5

    def __init__(self, rank: int) -> None:
        self.word = self.name.lower()


class Step(Struct, frozen=True):
    """One level of a rule.

    Args:
        at: Fires at this value and beyond.
        clear: Stops once the value has been past this for the rule's `clear_for_s`.
    """

    at: Decimal
    clear: Decimal
    severity: Severity

    @property
    def rises(self) -> bool:
        """Whether it fires as the value rises."""
        return self.clear < self.at

    def fires(self, value: Decimal | None) -> bool:
        """Whether the value is at the level; None means "none" (no liquidation price, say), which never fires."""
        if value is None:
            return False
        return value >= self.at if self.clear < self.at else value <= self.at

    def is_past_clear(self, value: Decimal | None) -> bool:
        if value is None:
            return True
        return value < self.clear if self.clear < self.at else value > self.clear


class Rule(Struct, frozen=True, kw_only=True):
    """What every rule has.

    Args:
        steps: Severities rising.
        for_s: How long a value must stay at a level before it counts (seconds).
        clear_for_s: How long it must stay past `clear` before it is over (seconds).
        repeat_s: Severity → after how long an unchanged condition is told again (seconds).
        reenter_s: A severity entered again within so many seconds is not told again, unless it is worse than ever.
    """

    enabled: bool = True
    steps: tuple[Step, ...] = ()
    for_s: float = 0
    clear_for_s: float = 60
    repeat_s: Mapping[str, float] = field(
        default_factory=lambda: {"warning": 14_400.0, "critical": 300.0, "liquidation": 60.0}
    )
    reenter_s: float = 300


class FactRule(Rule, frozen=True, kw_only=True):
    """A rule that tells facts rather than levels: it has no steps, and nothing to hold, to repeat or to enter again."""


def _steps(*rows: tuple[str, str, Severity]) -> tuple[Step, ...]:
    return tuple(Step(Decimal(at), Decimal(clear), severity) for at, clear, severity in rows)


class MarginRatioRule(Rule, frozen=True, kw_only=True):
    """Margin ratio of a pool, a fraction.

    Args:
        critical_within: A warning is critical where the pool's distance is below this fraction: at 0.80 a position
            may be a tenth of a percent from liquidation.
    """

    steps: tuple[Step, ...] = _steps(
        ("0.5", "0.45", Severity.NOTICE),
        ("0.8", "0.7", Severity.WARNING),
        ("0.9", "0.8", Severity.CRITICAL),
        ("1", "0.9", Severity.LIQUIDATION),
    )
    critical_within: Decimal = Decimal("0.01")

    def severity(self, ratio: Decimal | None) -> Severity:
        """The highest severity whose step this ratio fires."""
        return max((step.severity for step in self.steps if step.fires(ratio)), default=Severity.OK)


class LiquidationDistanceRule(Rule, frozen=True, kw_only=True):
    """Distance of a pool to liquidation, a fraction of the mark."""

    steps: tuple[Step, ...] = _steps(
        ("0.1", "0.12", Severity.NOTICE),
        ("0.05", "0.06", Severity.WARNING),
        ("0.02", "0.025", Severity.CRITICAL),
    )


class LiquidationPriceMovedRule(FactRule, frozen=True, kw_only=True):
    """Moves of a liquidation price, told with their causes.

    Args:
        notice_at: Adverse move since the last telling, as a fraction of the mark, that is a notice.
        warning_at: Adverse move as a fraction of the distance that remains, that is a warning.
        funding_window_s: Payments within this time are one funding instant (seconds).
        fills_window_s: Fills within this time are one burst (seconds).
        ignore_beyond: A price farther from the mark than this fraction of it is never more than information: the price
            of a small position swings widely with its neighbours' marks, far from where it could matter.
        marks_every_s: Moves that only other positions' marks have caused are told at most this often (seconds).
    """

    notice_at: Decimal = Decimal("0.005")
    warning_at: Decimal = Decimal("0.1")
    funding_window_s: float = 20
    fills_window_s: float = 60
    ignore_beyond: Decimal = Decimal(1)
    marks_every_s: float = 300


class ForcedOrderRule(FactRule, frozen=True, kw_only=True):
    """An own liquidation, auto-deleveraging or settlement order: told at its first frame, reported when it is over.

    Args:
        settle_s: After so long without another frame of it, though one would have been heard, it is over (seconds).
    """

    settle_s: float = 3


class MarginCallRule(FactRule, frozen=True, kw_only=True):
    """The exchange's own margin call: guidance that may come late; our own ratio is the alarm.

    Args:
        every_s: One position's calls are told at most this often (seconds).
    """

    every_s: float = 300


class FundingForecastRule(Rule, frozen=True, kw_only=True):
    """What the next funding would do to a pool: lift its ratio to a step, or move a liquidation price.

    It has no steps of its own: its severity is that of the step of `margin_ratio` which would be reached.

    Args:
        within_s: Looked at from so long before the funding (seconds).
        notice_at: Adverse move of a liquidation price, as a fraction of the mark, that is worth a notice.
        ignore_beyond: A price that is farther from the mark than this fraction of it, after the funding too, is worth
            none: what a large pool pays moves the price of a small position far, where it does not matter.
    """

    for_s: float = 60
    within_s: float = 1800
    notice_at: Decimal = Decimal("0.005")
    ignore_beyond: Decimal = Decimal(1)


class HedgeBrokenRule(FactRule, frozen=True, kw_only=True):
    """A forced order left one leg of a hedge alone, or took away much of what was hedged.

    Args:
        changed_by: Part of the hedged quantity (the smaller leg) whose loss is told.
    """

    changed_by: Decimal = Decimal("0.5")


class ContractStatusRule(Rule, frozen=True, kw_only=True):
    """Seconds until a held contract is delivered, in whole minutes; one that is not traded has none left.

    In its last hour a contract is not backed by the insurance fund: what is liquidated then goes to auto-deleveraging.
    """

    steps: tuple[Step, ...] = _steps(("86400", "90000", Severity.NOTICE), ("3600", "3700", Severity.WARNING))


class AdlQuantileRule(Rule, frozen=True, kw_only=True):
    """Place in the auto-deleveraging queue, 0 to 4; where the exchange calls the symbol's risk high, a warning."""

    steps: tuple[Step, ...] = _steps(("4", "3.5", Severity.NOTICE))


class AutoExchangeRule(Rule, frozen=True, kw_only=True):
    """Multi-assets mode: the debt in an asset as a fraction of what makes the exchange convert other assets."""

    steps: tuple[Step, ...] = _steps(("0.5", "0.4", Severity.NOTICE), ("0.8", "0.7", Severity.WARNING))


class ClockOffsetRule(Rule, frozen=True, kw_only=True):
    """How far this machine's clock is from the exchange's, in milliseconds."""

    steps: tuple[Step, ...] = _steps(("500", "400", Severity.WARNING), ("2000", "1500", Severity.CRITICAL))


class KeyPermissionsRule(Rule, frozen=True, kw_only=True):
    """What an account's key may do beside reading: 1, it may trade; 2, it may withdraw or transfer."""

    steps: tuple[Step, ...] = _steps(("1", "0.5", Severity.WARNING), ("2", "1.5", Severity.CRITICAL))
    clear_for_s: float = 0
    repeat_s: Mapping[str, float] = field(
        default_factory=lambda: {"warning": 86_400.0, "critical": 14_400.0, "liquidation": 14_400.0}
    )


class ExchangeStatusRule(Rule, frozen=True, kw_only=True):
    """The exchange says that it is in maintenance."""


class StoreUnusableRule(Rule, frozen=True, kw_only=True):
    """The store cannot be opened or written: nothing outlives a restart."""


class BracketChangedRule(FactRule, frozen=True, kw_only=True):
    """The exchange has changed the brackets of a symbol that we hold."""


class DriftRule(Rule, frozen=True, kw_only=True):
    """How far our figures of a pool are from the exchange's, at its own marks: a fraction of mark or notional.

    Seen at every snapshot; `for_s` asks for it in two of them, since a snapshot's parts may be a moment apart.
    """

    steps: tuple[Step, ...] = _steps(("0.001", "0.0005", Severity.WARNING))
    for_s: float = 20
    clear_for_s: float = 0


class DataStaleRule(Rule, frozen=True, kw_only=True):
    """Age of what a link last told us, in seconds.

    Args:
        stale_after_s: From this age on the pools of the link are stale (seconds).
        endangered_ratio: With a pool at this margin ratio or more …
        endangered_distance: … or nearer to liquidation than this, staleness is critical at once.
        rest_patience_s: How long REST alone may fail before it counts as stale at all, while streams go on (seconds).
    """

    steps: tuple[Step, ...] = _steps(("15", "4", Severity.WARNING), ("60", "4", Severity.CRITICAL))
    clear_for_s: float = 3
    stale_after_s: float = 5
    endangered_ratio: Decimal = Decimal("0.5")
    endangered_distance: Decimal = Decimal("0.05")
    rest_patience_s: float = 90


DEFAULTS: Mapping[str, Rule] = {
    "margin_ratio": MarginRatioRule(),
    "liquidation_distance": LiquidationDistanceRule(),
    "liquidation_price_moved": LiquidationPriceMovedRule(),
    "funding_forecast": FundingForecastRule(),
    "data_stale": DataStaleRule(),
    "forced_order": ForcedOrderRule(),
    "hedge_broken": HedgeBrokenRule(),
    "exchange_margin_call": MarginCallRule(),
    "contract_status": ContractStatusRule(),
    "auto_exchange": AutoExchangeRule(),
    "adl_quantile": AdlQuantileRule(),
    "drift": DriftRule(),
    "bracket_changed": BracketChangedRule(),
    "key_permissions": KeyPermissionsRule(),
    "exchange_status": ExchangeStatusRule(),
    "clock_offset": ClockOffsetRule(),
    "store_unusable": StoreUnusableRule(),
}


class Match(Struct, frozen=True):
    """Which subjects an override is for; what is not given matches everything.

    Args:
        account: Glob on the account's name.
        labels: Label name → glob.
        symbol: Glob on a symbol; a pool matches where any of its positions does.
        min_notional: Smallest sum of absolute notionals of the pool (margin asset).
    """

    rule: Rule
    account: str | None = None
    labels: Mapping[str, str] = {}
    symbol: str | None = None
    min_notional: Decimal | None = None

    def fits(
        self,
        account: str,
        labels: Mapping[str, str],
        symbols: Collection[str],
        notional: Decimal | None,
        enough: Decimal = Decimal(1),
    ) -> bool:
        """Whether the override is for this subject.

        Args:
            enough: Which part of `min_notional` is enough.
        """
        return (
            (self.account is None or fnmatchcase(account, self.account))
            and all(fnmatchcase(labels.get(name, ""), glob) for name, glob in self.labels.items())
            and (self.symbol is None or any(fnmatchcase(symbol, self.symbol) for symbol in symbols))
            and (self.min_notional is None or (notional is not None and notional >= self.min_notional * enough))
        )


_EDGE = Decimal("0.95")


class RuleBook(Struct, frozen=True):
    """All rules as configured: per name one rule, and overrides of which the first that fits wins."""

    rules: Mapping[str, Rule] = field(default_factory=lambda: DEFAULTS)
    matches: Mapping[str, tuple[Match, ...]] = {}

    def of(
        self,
        name: str,
        account: str = "",
        labels: Mapping[str, str] | None = None,
        symbols: Collection[str] = (),
        notional: Decimal | None = None,
        before: Rule | None = None,
    ) -> Rule:
        """The rule as it holds for this subject.

        Args:
            before: As it held the last time: an override is not left for a notional that hovers at its edge.
        """
        for match in self.matches.get(name, ()):
            enough = _EDGE if match.rule is before else Decimal(1)
            if match.fits(account, labels or {}, symbols, notional, enough):
                return match.rule
        return self.rules[name]

    def overrides(self) -> Iterator[tuple[str, Match]]:
        """Each override, under the name that its author knows it by: `[[rules.drift.match]] number 1`."""
        for name, matches in self.matches.items():
            for number, match in enumerate(matches, 1):
                yield f"[[rules.{name}.match]] number {number}", match

    def levels(self, name: str) -> tuple[Decimal, ...]:
        """Every level of a rule anywhere in the book; a printed figure is never rounded across one of them."""
        rules = [self.rules[name], *(match.rule for match in self.matches.get(name, ()))]
        return tuple({level for rule in rules for step in rule.steps for level in (step.at, step.clear)})
