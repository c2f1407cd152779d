"""When a moved liquidation price is told: what has happened since its baseline, and which events are one.

Payments of one funding instant are one telling, so are the fills of one burst; anything else is told at once. A move
that amounts to a warning waits for nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

from msgspec import Struct, structs

from monitor.baselines import Baselines, is_complete
from monitor.digits import LAST_DIGITS, printed
from monitor.events import AccountChanged, Fill, Now, Position, PositionKey
from monitor.risk.attribution import Baseline, Move, adverse, moves
from monitor.risk.margin import ONE, ZERO
from monitor.risk.pool import Pool
from monitor.risk.report import PoolRisk
from monitor.risk.terms import Terms
from monitor.rules import LiquidationPriceMovedRule, Severity
from monitor.stages import Entry, kind_of, stages, symbol_of


class PoolMove(Struct, frozen=True, gc=False):
    """How one position's price moved, with the pool it is in and what that amounts to."""

    pool: Pool
    move: Move
    mark: Decimal
    severity: Severity

    @property
    def weight(self) -> tuple[Severity, Decimal, Decimal]:
        """What makes it the one that is named first: how much of what was left to liquidation is gone."""
        nearer, after = adverse(self.move, self.mark), self.move.after
        left = ZERO if after is None else abs(self.mark - after)
        part = max(nearer, ZERO) / left if left else ZERO
        return self.severity, part, abs(self.move.moved or ZERO) / self.mark


class Telling(Struct, frozen=True):
    """One notice: the worst move first.

    Args:
        at_ms: When the exchange made the last account event of it; None: there is none, or it was not told of any.
    """

    account: str
    moves: tuple[PoolMove, ...]
    at_ms: int | None

    @property
    def severity(self) -> Severity:
        return max(m.severity for m in self.moves)


class Moves:
    """What has happened to one account's pools since their baselines.

    Args:
        account: Its name.
    """

    def __init__(self, account: str) -> None:
        self.account = account
        self.baselines = Baselines()
        self._entries: dict[str, list[Entry]] = {}
        self._fills: deque[Fill] = deque(maxlen=1000)
        self._group: str | None = None
        self._deadline: float | None = None
        self._marks_told: dict[str, tuple[float, Severity]] = {}
        self._replaced: dict[str, tuple[Baseline, ...]] = {}

    def filled(self, fill: Fill) -> None:
        """Keep an execution: it says how much of a fill's change was PnL and commission, whichever comes first."""
        self._fills.append(fill)
        self._drop_fills()

    def starts_another(self, event: AccountChanged) -> bool:
        """Whether an account event is a story of its own, so that a pending one must be told first."""
        kind = kind_of(event)
        return self._group not in (None, kind, "unexplained") and not self._goes_on(kind)

    def happened(
        self,
        event: AccountChanged,
        before: Sequence[Pool],
        after: Sequence[Pool],
        terms: Terms,
        rules: Mapping[str, LiquidationPriceMovedRule],
        now: Now,
        forecasts: Mapping[PositionKey, Decimal] = {},
    ) -> None:
        """Take note that an account event turned these pools into those.

        Args:
            rules: Pool id → the rule as it holds there; the shortest of the windows is waited for.
            forecasts: Of a funding fee: what had been expected of it, for each position (margin asset).
        """
        kind = kind_of(event)
        symbol = symbol_of(event)
        old = {pool.id: pool for pool in before}
        touched: list[LiquidationPriceMovedRule] = []
        for pool in after:
            was = old.get(pool.id)
            about = symbol or _changed_symbol(was, pool)
            entry = Entry(kind, about, event.at_ms, pool, _expected(pool, forecasts))
            if was is not None and not _differs(was, pool):
                touched += [rules[pool.id]] if self._explains(event, entry) else []
                continue
            if pool.id not in self.baselines:
                self._rebase(was or structs.replace(pool, positions=()), terms)
            self._entries.setdefault(pool.id, []).append(entry)
            self.baselines.grow(pool)
            touched.append(rules[pool.id])
        for pool_id in old.keys() - {pool.id for pool in after}:
            self._forget(pool_id)
        if touched and self._group == "unexplained":
            self._deadline = None
        if touched:
            self._group = "fill" if self._goes_on(kind) else kind
            due = now.mono + min(_window_s(self._group, rule) for rule in touched)
            self._deadline = due if self._deadline is None else min(self._deadline, due)

    def settle(self, pools: Iterable[Pool], terms: Terms, now: Now) -> None:
        """Take note of what a snapshot shows: a difference that no event has told of is unexplained."""
        present = {pool.id: pool for pool in pools}
        ended = self.baselines.pool_ids - present.keys()
        gone = [self.baselines[pool_id] for pool_id in sorted(ended) if pool_id in self.baselines]
        for pool in present.values():
            entries = self._entries.get(pool.id)
            if pool.id not in self.baselines:
                replaced = tuple(
                    source
                    for baseline in gone
                    if _became(baseline.pool, pool)
                    for source in self._replaced.get(baseline.pool.id, (baseline,))
                )
                self._rebase(pool, terms)
                if replaced:  # the account's mode was switched: its prices are measured from the old pools'
                    self._replaced[pool.id] = replaced
                    self._entries[pool.id] = [Entry("multi_assets_mode", None, 0, pool)]
                    self._group, self._deadline = "multi_assets_mode", now.mono
            elif _differs(entries[-1].pool if entries else self.baselines[pool.id].pool, pool):
                self._entries.setdefault(pool.id, []).append(Entry("unexplained", None, 0, pool))
                self.baselines.grow(pool)
                self._group, self._deadline = "unexplained", now.mono + _OVERTAKEN_S
            elif not entries and self._has_other_brackets(pool, terms):
                self._entries[pool.id] = [Entry("bracket_change", None, 0, pool)]
                self._group, self._deadline = "bracket_change", 0.0
        for pool_id in ended:
            self._forget(pool_id)

    def complete(self, pool: Pool, terms: Terms) -> None:
        """Give a baseline what it was made without, unless something has happened since."""
        if pool.id not in self._entries:
            self.baselines.complete(pool, terms)

    @property
    def pending(self) -> bool:
        """Whether account events have happened that are not told yet."""
        return self._deadline is not None

    def is_due(self, now: Now) -> bool:
        """Whether what is pending has waited long enough for what belongs to it."""
        return self._deadline is not None and now.mono >= self._deadline

    def forget(self) -> None:
        """Nobody watches the account any more."""
        for pool_id in self.baselines.pool_ids:
            self._forget(pool_id)

    def _drop_fills(self) -> None:
        """Forget the executions whose account events have been told, or would have come by now."""
        if self._fills:
            pending = (next((e.at_ms for e in entries if e.at_ms), math.inf) for entries in self._entries.values())
            since_ms = min((self._fills[-1].at_ms, *pending)) - _APART_MS
            while self._fills[0].at_ms < since_ms:
                self._fills.popleft()

    def _goes_on(self, kind: str) -> bool:
        """Whether this is still the story of the fills before it: the clearance fee of a forced order is."""
        return kind == "insurance_clear" and self._group == "fill"

    def _explains(self, event: AccountChanged, entry: Entry) -> bool:
        """Whether this is the event behind what a snapshot has just shown; then it has its cause after all."""
        pool = entry.pool
        entries = self._entries.get(pool.id)
        assets = pool.wallets or {pool.asset}
        named = any(b.asset in assets for b in event.balances) or any(p in pool.positions for p in event.positions)
        if not entries or entries[-1].kind != "unexplained" or not named:
            return False
        entries[-1] = entry
        return True

    def tell(
        self,
        terms: Terms,
        rules: Mapping[str, LiquidationPriceMovedRule],
        now: Now,
        *,
        only_from: Severity = Severity.INFO,
        risk_of: Callable[[str], PoolRisk] | None = None,
    ) -> Telling | None:
        """What there is to tell of the pools that account events touched; None: no price moved (so far, or enough).

        Args:
            rules: Pool id → the rule as it holds there.
            only_from: Below this severity nothing is told, and the causes go on adding up.
            risk_of: The present risk of a pool, where it is known.
        """
        touched = [i for i in self._entries if i in rules and rules[i].enabled]
        if only_from > Severity.INFO and risk_of is not None:
            touched = touched if any(self._may_reach(only_from, risk_of(i), rules[i]) for i in touched) else []
        found = self._moved(touched, terms, rules)
        if only_from > Severity.INFO and not any(m.severity >= only_from for m in found):
            return None
        at_ms = max((entry.at_ms for i in touched for entry in self._entries[i]), default=0)
        self._group = self._deadline = None
        for entries in list(self._entries.values()):
            if is_complete(entries[-1].pool, terms):
                self._rebase(entries[-1].pool, terms)
            else:  # nothing can be said of it yet, and nothing is forgotten
                self._group, self._deadline = entries[-1].kind, now.mono
        self._drop_fills()
        return _telling(self.account, found, at_ms or None)

    def check_marks(
        self,
        risk: PoolRisk,
        terms: Terms,
        rule: LiquidationPriceMovedRule,
        now: Now,
    ) -> Telling | None:
        """What there is to tell of a pool whose prices only marks have moved: notices and warnings, now and then."""
        pool = risk.pool
        if pool.id in self._entries:
            return None
        told_at, told = self._marks_told.get(pool.id, (-math.inf, Severity.OK))
        is_lately = now.mono - told_at < rule.marks_every_s
        least = max(Severity.NOTICE, told + 1) if is_lately else Severity.NOTICE
        if least > Severity.WARNING or not self._amounts_to(least, risk, rule):
            return None
        found = self._moved([pool.id], terms, {pool.id: rule}, risk)
        # What is past liquidation is a warning whatever its move amounts to; that says nothing of the next one.
        amounts = (_by_price(m.move, m.mark, rule) if m.move.past else m.severity for m in found)
        self._marks_told[pool.id] = (now.mono, max(amounts))
        self._rebase(pool, terms, risk.printed_prices)
        return _telling(self.account, found)

    def quiet_up_to(self, pool: Pool, rule: LiquidationPriceMovedRule, now: Now) -> tuple[Severity, float]:
        """Up to which severity `check_marks` tells nothing of a pool, and until when that holds (monotonic seconds)."""
        told_at, told = self._marks_told.get(pool.id, (-math.inf, Severity.OK))
        until = told_at + rule.marks_every_s - _A_MOMENT_S
        return (told, until) if told >= Severity.NOTICE and now.mono < until else (Severity.INFO, math.inf)

    def told(self, pool: Pool) -> Mapping[PositionKey, Decimal | None] | None:
        """The prices of a pool that its next move is measured from. None: it may have to be made or told first."""
        if pool.id not in self.baselines:
            return {}
        if pool.id in self._entries or not self.baselines.knew_all_of(pool):
            return None
        return self.baselines.told(pool.id) or {}

    def _amounts_to(self, least: int, risk: PoolRisk, rule: LiquidationPriceMovedRule) -> bool:
        """Whether any of the pool's moves since the baseline does; asked with every mark, so without the causes."""
        told = self.baselines.told(risk.pool.id)
        if told is None:
            return False
        for i, (position, mark) in enumerate(zip(risk.pool.positions, risk.marks, strict=True)):
            before = told.get(position.key)
            if mark is None or before is None or risk.withstands(i, _beyond(before, mark, position, rule, least)):
                continue
            move = Move(position.key, before, printed(risk.price(i)), (), False)
            if _by_price(move, mark, rule) >= least:
                return True
        return False

    def _may_reach(self, least: Severity, risk: PoolRisk, rule: LiquidationPriceMovedRule) -> bool:
        """Whether what account events and marks have done to a pool's prices may amount to this; not yet solved for."""
        pool_id = risk.pool.id
        baseline = self.baselines.get(pool_id)
        if baseline is None or pool_id in self._replaced or self._entries[pool_id][-1].pool != risk.pool:
            return True
        told, was_long = self.baselines.told(pool_id), {p.key: p.quantity > 0 for p in baseline.pool.positions}
        if told is None:
            return True
        for i, (position, mark) in enumerate(zip(risk.pool.positions, risk.marks, strict=True)):
            before = told.get(position.key) if was_long.get(position.key) == (position.quantity > 0) else None
            if mark is None:
                return True
            if before is not None and not risk.withstands(i, _beyond(before, mark, position, rule, least)):
                return True
        return not risk.own

    def _moved(
        self,
        pool_ids: Iterable[str],
        terms: Terms,
        rules: Mapping[str, LiquidationPriceMovedRule],
        risk: PoolRisk | None = None,
    ) -> list[PoolMove]:
        found = []
        for pool_id in pool_ids:
            baseline = self.baselines.get(pool_id)
            if baseline is None:
                continue
            replaced = self._replaced.get(pool_id)
            before, told = (replaced, None) if replaced else ((baseline,), self.baselines.told(pool_id))
            happened = stages(before[-1].pool, self._entries.get(pool_id, ()), self._fills)
            pool = happened[-1].pool if happened else baseline.pool
            if risk is None and not is_complete(pool, terms):
                continue
            for move in moves(before, happened, terms, risk, told).values():
                mark = terms.marks[move.key.symbol]
                found.append(PoolMove(pool, move, mark, _severity(move, mark, rules[pool_id])))
        return found

    def _rebase(self, pool: Pool, terms: Terms, told: Mapping[PositionKey, Decimal | None] | None = None) -> None:
        self.baselines.rebase(pool, terms, told)
        self._replaced.pop(pool.id, None)
        self._entries.pop(pool.id, None)

    def _has_other_brackets(self, pool: Pool, terms: Terms) -> bool:
        return any(terms.tables.get(s) != table for s, table in self.baselines[pool.id].terms.tables.items())

    def _forget(self, pool_id: str) -> None:
        self.baselines.forget(pool_id)
        self._entries.pop(pool_id, None)
        self._marks_told.pop(pool_id, None)
        self._replaced.pop(pool_id, None)


_A_MOMENT_S = 0.001
_APART_MS = 60_000
"""An execution and its account event are of the same moment, and none of so much later comes between them."""
_OVERTAKEN_S = 5.0
"""A snapshot may overtake the event that explains it; for so long what it shows is not called unexplained."""


def _severity(move: Move, mark: Decimal, rule: LiquidationPriceMovedRule) -> Severity:
    if move.past and move.before is not None:
        return Severity.WARNING  # beyond the mark "farther from it" is worse, not better, and so is no price at all
    return _by_price(move, mark, rule)


def _by_price(move: Move, mark: Decimal, rule: LiquidationPriceMovedRule) -> Severity:
    """What a move amounts to by how much nearer the price has come."""
    if move.before is None or move.after is None:
        return Severity.INFO
    left = abs(mark - move.after)
    nearer = abs(mark - move.before) - left
    if nearer <= ZERO or left > rule.ignore_beyond * mark:
        return Severity.INFO
    if nearer >= rule.warning_at * left:
        return Severity.WARNING
    return Severity.NOTICE if nearer >= rule.notice_at * mark else Severity.INFO


def _beyond(before: Decimal, mark: Decimal, position: Position, rule: LiquidationPriceMovedRule, least: int) -> Decimal:
    """A price such that a liquidation price beyond it, however it is rounded, has not come near enough for a severity.

    It is on the side of the mark on which the position loses.
    """
    was = abs(mark - before)
    near = was / (ONE + rule.warning_at)
    if least <= Severity.NOTICE:
        near = max(near, was - rule.notice_at * mark)
    near = min(near, rule.ignore_beyond * mark) + LAST_DIGITS
    return mark - near if position.quantity > 0 else mark + near


def _telling(account: str, found: list[PoolMove], at_ms: int | None = None) -> Telling | None:
    if not found:
        return None
    worst_first = sorted(found, key=lambda m: m.weight, reverse=True)
    return Telling(account, tuple(worst_first), at_ms)


def _expected(pool: Pool, forecasts: Mapping[PositionKey, Decimal]) -> Decimal | None:
    """What had been forecast for the positions of a pool; None: nothing had."""
    own = [forecasts[p.key] for p in pool.positions if p.key in forecasts]
    return sum(own, ZERO) if own else None


def _window_s(kind: str, rule: LiquidationPriceMovedRule) -> float:
    """How long events of a kind wait for what belongs to them (seconds)."""
    return {"funding_fee": rule.funding_window_s, "fill": rule.fills_window_s}.get(kind, 0.0)


def _differs(a: Pool, b: Pool) -> bool:
    """Whether anything that a liquidation price follows from is different."""
    return a.wallets != b.wallets or _amounts(a) != _amounts(b)


def _changed_symbol(was: Pool | None, now: Pool) -> str | None:
    """The only symbol of which a pool's positions are others than before; None: of none, or of several.

    Where an event names all positions of the account, it does not say itself which of them it is about.
    """
    changed = {key.symbol for key, _ in _amounts(now).items() ^ (_amounts(was).items() if was else set())}
    return changed.pop() if len(changed) == 1 else None


def _became(old: Pool, new: Pool) -> bool:
    """Whether positions of one pool are now in another, of which one is the multi-assets pool."""
    return bool(old.assets) != bool(new.assets) and not _amounts(old).keys().isdisjoint(_amounts(new))


def _amounts(pool: Pool) -> dict[PositionKey, tuple[Decimal, Decimal]]:
    return {p.key: (p.quantity, p.entry_price) for p in pool.positions}
