"""When a moved liquidation price is told: baselines, what has happened since, and which events are one.

Payments of one funding instant are one telling, so are the fills of one burst; anything else is told at once. A move
that amounts to a warning waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import zip_longest

import msgspec
from msgspec import Struct, structs

from monitor.events import AccountChanged, Fill, Now, PositionKey
from monitor.risk.attribution import Baseline, Cause, Move, Stage, adverse, moves, prices, printed
from monitor.risk.margin import BracketTable
from monitor.risk.report import Pool, PoolRisk, assess
from monitor.rules import LiquidationPriceMovedRule, Severity

KINDS = {
    "FUNDING_FEE": "funding_fee",
    "MARGIN_TRANSFER": "margin_transfer",
    "ORDER": "fill",
    "INSURANCE_CLEAR": "insurance_clear",
    "AUTO_EXCHANGE": "auto_exchange",
    **dict.fromkeys(
        (
            "DEPOSIT",
            "WITHDRAW",
            "WITHDRAW_REJECT",
            "ADMIN_DEPOSIT",
            "ADMIN_WITHDRAW",
            "ASSET_TRANSFER",
            "COIN_SWAP_DEPOSIT",
            "COIN_SWAP_WITHDRAW",
            "OPTIONS_PREMIUM_FEE",
            "OPTIONS_SETTLE_PROFIT",
        ),
        "transfer",
    ),
}
"""The exchange's reason of an account event → kind of cause; any other is an `adjustment`."""


class _Entry(Struct, frozen=True):
    """A pool after an account event."""

    kind: str
    symbol: str | None
    at_ms: int
    pool: Pool


class PoolMove(Struct, frozen=True):
    """How one position's price moved, with the pool it is in and what that amounts to."""

    pool: Pool
    move: Move
    mark: Decimal
    severity: Severity

    @property
    def weight(self) -> Decimal:
        return adverse(self.move, self.mark) / self.mark


class Telling(Struct, frozen=True):
    """One notice: the worst move first."""

    account: str
    moves: tuple[PoolMove, ...]

    @property
    def severity(self) -> Severity:
        return max(m.severity for m in self.moves)


class Moves:
    """The baselines of one account's pools, and what has happened since.

    Args:
        account: Its name.
    """

    def __init__(self, account: str) -> None:
        self.account = account
        self.baselines: dict[str, Baseline] = {}
        self._unkept: set[str] = set()
        self._entries: dict[str, list[_Entry]] = {}
        self._fills: list[Fill] = []
        self._group: str | None = None
        self._deadline: float | None = None
        self._marks_told: dict[str, tuple[float, Severity]] = {}
        self._told: dict[str, dict[PositionKey, Decimal | None]] = {}

    def restore(self, pool_id: str, row: bytes) -> None:
        """Take back a baseline. One that does not read (of another version) is made anew from the next snapshot."""
        with suppress(msgspec.MsgspecError):
            self.baselines[pool_id] = msgspec.json.decode(row, type=Baseline)

    def filled(self, fill: Fill) -> None:
        """Keep an execution: it says how much of a fill's change was PnL and commission, whichever comes first."""
        self._fills = [*self._fills[-999:], fill]

    def starts_another(self, kind: str) -> bool:
        """Whether an account event of this kind is a story of its own, so that a pending one must be told first."""
        return self._group not in (None, kind, "unexplained")

    def happened(
        self,
        event: AccountChanged,
        before: Sequence[Pool],
        after: Sequence[Pool],
        marks: Mapping[str, Decimal],
        tables: Mapping[str, BracketTable],
        rule: LiquidationPriceMovedRule,
        now: Now,
    ) -> None:
        """Take note that an account event turned these pools into those."""
        kind = KINDS.get(event.reason, "adjustment")
        symbol = event.symbol or _one_symbol(event)
        old = {pool.id: pool for pool in before}
        touched = False
        for pool in after:
            was = old.get(pool.id)
            if was is not None and not _differs(was, pool):
                touched = self._explains(event, kind, symbol, pool) or touched
                continue
            if pool.id not in self.baselines:
                self._rebase(was or structs.replace(pool, positions=()), marks, tables)
            self._entries.setdefault(pool.id, []).append(_Entry(kind, symbol, event.at_ms, pool))
            touched = True
        for gone in old.keys() - {pool.id for pool in after}:
            self._forget(gone)
        if touched and self._group == "unexplained":
            self._deadline = None
        if touched:
            window = {"funding_fee": rule.funding_window_s, "fill": rule.fills_window_s}.get(kind, 0.0)
            self._group = kind
            if self._deadline is None:
                self._deadline = now.mono + window

    def settle(
        self, pools: Iterable[Pool], marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable], now: Now
    ) -> None:
        """Take note of what a snapshot shows: a difference that no event has told of is unexplained."""
        present = set()
        for pool in pools:
            present.add(pool.id)
            entries = self._entries.get(pool.id)
            if pool.id not in self.baselines:
                self._rebase(pool, marks, tables)
            elif _differs(entries[-1].pool if entries else self.baselines[pool.id].pool, pool):
                self._entries.setdefault(pool.id, []).append(_Entry("unexplained", None, 0, pool))
                self._group, self._deadline = "unexplained", now.mono + _OVERTAKEN_S
            elif not entries and any(tables.get(s) != table for s, table in self.baselines[pool.id].tables.items()):
                self._entries[pool.id] = [_Entry("bracket_change", None, 0, pool)]
                self._group, self._deadline = "bracket_change", 0.0
        for gone in self.baselines.keys() - present:
            self._forget(gone)

    def complete(self, pool: Pool, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable]) -> None:
        """Give a baseline that was made before the first marks or brackets came those that have come since.

        Without them nothing that they do later would be seen as a move.
        """
        baseline = self.baselines.get(pool.id)
        if baseline is None or pool.id in self._entries:
            return
        symbols = {p.symbol for p in pool.positions}
        if not (symbols <= baseline.marks.keys() and symbols <= baseline.tables.keys()):
            self._rebase(pool, {**marks, **baseline.marks}, {**tables, **baseline.tables})

    @property
    def pending(self) -> bool:
        """Whether account events have happened that are not told yet."""
        return self._deadline is not None

    def unkept(self) -> list[tuple[str, bytes | None]]:
        """Pool id and row of every baseline that is new since this was last asked; None: it is gone."""
        changed, self._unkept = self._unkept, set()
        return [(i, msgspec.json.encode(self.baselines[i]) if i in self.baselines else None) for i in sorted(changed)]

    def _explains(self, event: AccountChanged, kind: str, symbol: str | None, pool: Pool) -> bool:
        """Whether this is the event behind what a snapshot has just shown; then it has its cause after all."""
        entries = self._entries.get(pool.id)
        named = pool.asset in [b.asset for b in event.balances] or any(p in pool.positions for p in event.positions)
        if not entries or entries[-1].kind != "unexplained" or not named:
            return False
        entries[-1] = _Entry(kind, symbol, event.at_ms, pool)
        return True

    def due(self, now: Now) -> bool:
        return self._deadline is not None and now.mono >= self._deadline

    def tell(
        self,
        marks: Mapping[str, Decimal],
        tables: Mapping[str, BracketTable],
        rules: Mapping[str, LiquidationPriceMovedRule],
        now: Now,
        *,
        only_from: Severity = Severity.INFO,
    ) -> Telling | None:
        """What there is to tell of the pools that account events touched; None: no price moved (so far, or enough).

        Args:
            rules: Pool id → the rule as it holds there.
            only_from: Below this severity nothing is told, and the causes go on adding up.
        """
        found = self._moved([i for i in self._entries if i in rules and rules[i].enabled], marks, tables, rules)
        if only_from > Severity.INFO and not any(m.severity >= only_from for m in found):
            return None
        self._group = self._deadline = None
        for entries in list(self._entries.values()):
            if _is_complete(entries[-1].pool, marks, tables):
                self._rebase(entries[-1].pool, marks, tables)
            else:  # nothing can be said of it yet, and nothing is forgotten
                self._group, self._deadline = entries[-1].kind, now.mono + 1
        return _telling(self.account, found)

    def check_marks(
        self,
        risk: PoolRisk,
        marks: Mapping[str, Decimal],
        tables: Mapping[str, BracketTable],
        rule: LiquidationPriceMovedRule,
        now: Now,
    ) -> Telling | None:
        """What there is to tell of a pool whose prices only marks have moved: notices and warnings, now and then."""
        pool = risk.pool
        if pool.id in self._entries:
            return None
        severity = self._severity_now(risk, rule)
        told_at, told = self._marks_told.get(pool.id, (now.mono - rule.marks_every_s, Severity.OK))
        if severity < Severity.NOTICE or (severity <= told and now.mono - told_at < rule.marks_every_s):
            return None
        found = self._moved([pool.id], marks, tables, {pool.id: rule})
        self._marks_told[pool.id] = (now.mono, severity)
        self._rebase(pool, marks, tables)
        return _telling(self.account, found)

    def _severity_now(self, risk: PoolRisk, rule: LiquidationPriceMovedRule) -> Severity:
        """What the pool's largest move since the baseline amounts to; asked on every tick, so without the causes."""
        baseline = self.baselines.get(risk.pool.id)
        if baseline is None or not _is_complete(baseline.pool, baseline.marks, baseline.tables):
            return Severity.OK
        told = self._told.get(risk.pool.id)
        if told is None:
            told = self._told[risk.pool.id] = prices(assess(baseline.pool, baseline.marks, baseline.tables))
        severities = [
            _severity(Move(key, told.get(key), price, (), False), mark, rule)
            for p in risk.positions
            if (mark := p.mark_price) is not None
            for key, price in [(p.position.key, printed(p.liquidation_price))]
        ]
        return max(severities, default=Severity.OK)

    def _moved(
        self,
        pool_ids: Iterable[str],
        marks: Mapping[str, Decimal],
        tables: Mapping[str, BracketTable],
        rules: Mapping[str, LiquidationPriceMovedRule],
    ) -> list[PoolMove]:
        found = []
        for pool_id in pool_ids:
            baseline = self.baselines.get(pool_id)
            if baseline is None:
                continue
            stages = self._stages(baseline.pool, self._entries.get(pool_id, ()))
            pool = stages[-1].pool if stages else baseline.pool
            if not _is_complete(pool, marks, tables):
                continue
            for move in moves(baseline, stages, marks, tables).values():
                if move.before != move.after or (move.opened and move.after is not None):
                    mark = marks[move.key.symbol]
                    found.append(PoolMove(pool, move, mark, _severity(move, mark, rules[pool_id])))
        return found

    def _stages(self, pool: Pool, entries: Iterable[_Entry]) -> list[Stage]:
        stages: list[Stage] = []
        listed = list(entries)
        for entry, later in zip_longest(listed, listed[1:]):
            if later is not None and _is_one_order(entry, later):
                continue
            stages.extend(self._explained(pool, entry))
            pool = entry.pool
        return stages

    def _explained(self, before: Pool, entry: _Entry) -> list[Stage]:
        """One account event as causes: a fill's part that was PnL and commission is told apart where it is known."""
        after = entry.pool
        old_wallet, new_wallet = before.wallet_balance, after.wallet_balance
        if old_wallet is None or new_wallet is None:
            return [Stage(Cause(entry.kind, entry.symbol), after)]
        delta = new_wallet - old_wallet
        if entry.kind == "bracket_change":
            return []  # it is the tables that differ, not the pool
        if entry.kind != "fill":
            return [Stage(Cause(entry.kind, entry.symbol, delta), after)]
        if all(p.symbol != entry.symbol for p in (*before.positions, *after.positions)):
            return [Stage(Cause("fill", entry.symbol, delta), after)]  # another pool's fill, margin went there
        quantities = {p.key: p.quantity for p in before.positions}
        filled = sum(
            (p.quantity - quantities.get(p.key, 0) for p in after.positions if p.symbol == entry.symbol), _ZERO
        )
        fills = [f for f in self._fills if f.at_ms == entry.at_ms and f.symbol == entry.symbol]
        realized = sum((f.realized_pnl for f in fills), _ZERO)
        commission = -sum((f.commission for f in fills if f.commission_asset == after.asset), _ZERO)
        if not (realized or commission):
            return [Stage(Cause("fill", entry.symbol, delta, filled), after)]
        rest = delta - realized - commission
        stages = [
            Stage(
                Cause("fill", entry.symbol, rest, filled),
                structs.replace(after, wallet_balance=new_wallet - realized - commission),
            )
        ]
        if realized:
            pool = structs.replace(after, wallet_balance=new_wallet - commission)
            stages.append(Stage(Cause("realized_pnl", entry.symbol, realized), pool))
        if commission:
            stages.append(Stage(Cause("commission", entry.symbol, commission), after))
        return stages

    def _rebase(self, pool: Pool, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable]) -> None:
        symbols = {p.symbol for p in pool.positions}
        self.baselines[pool.id] = Baseline(
            pool,
            {s: marks[s] for s in symbols if s in marks},
            {s: tables[s] for s in symbols if s in tables},
        )
        self._entries.pop(pool.id, None)
        self._told.pop(pool.id, None)
        self._unkept.add(pool.id)

    def _forget(self, pool_id: str) -> None:
        self.baselines.pop(pool_id, None)
        self._entries.pop(pool_id, None)
        self._marks_told.pop(pool_id, None)
        self._told.pop(pool_id, None)
        self._unkept.add(pool_id)


_ZERO = Decimal(0)
_OVERTAKEN_S = 5.0
"""A snapshot may overtake the event that explains it; for so long what it shows is not called unexplained."""


def _severity(move: Move, mark: Decimal, rule: LiquidationPriceMovedRule) -> Severity:
    nearer = adverse(move, mark)
    if move.past and nearer:
        return Severity.WARNING  # beyond the mark "farther from it" is worse, not better
    if move.after is None or nearer <= 0 or abs(mark - move.after) > rule.ignore_beyond * mark:
        return Severity.INFO
    if nearer >= rule.warning_at * abs(mark - move.after):
        return Severity.WARNING
    return Severity.NOTICE if nearer >= rule.notice_at * mark else Severity.INFO


def _telling(account: str, found: list[PoolMove]) -> Telling | None:
    if not found:
        return None
    worst_first = sorted(found, key=lambda m: (m.weight, abs(m.move.moved or _ZERO) / m.mark), reverse=True)
    return Telling(account, tuple(worst_first))


def _is_complete(pool: Pool, marks: Mapping[str, Decimal], tables: Mapping[str, BracketTable]) -> bool:
    return pool.wallet_balance is not None and all(p.symbol in marks and p.symbol in tables for p in pool.positions)


def _is_one_order(entry: _Entry, later: _Entry) -> bool:
    """Whether two account events are of the same fills: an order that trades several times in one millisecond."""
    at = (later.kind, later.symbol, later.at_ms)
    return entry.kind == "fill" and (entry.kind, entry.symbol, entry.at_ms) == at


def _one_symbol(event: AccountChanged) -> str | None:
    """The symbol that an event is about, where its positions are all of one."""
    symbols = {position.symbol for position in event.positions}
    return symbols.pop() if len(symbols) == 1 else None


def _differs(a: Pool, b: Pool) -> bool:
    """Whether anything that a liquidation price follows from is different."""
    return a.wallet_balance != b.wallet_balance or _amounts(a) != _amounts(b)


def _amounts(pool: Pool) -> dict[PositionKey, tuple[Decimal, Decimal]]:
    return {p.key: (p.quantity, p.entry_price) for p in pool.positions}
