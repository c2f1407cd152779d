"""Whose turn it is to ask: the accounts of one address share the weight that the exchange allows it.

Danger goes first, then who has lost sight, then all others in turn: of two that wait, the one whose last turn is longer
ago. An account that floods us may take half of what there is; what the others need is left to them. What is used of an
address by others, such as a trading bot, counts as ours, but keeps nobody from a start.

Pure: it decides; `shell/rest.py` waits. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from heapq import heapify, heappop, heappush
from itertools import islice

from msgspec import Struct

WINDOW_S = 60.0
"""The exchange counts by the minute of its clock. Over every minute that slides, no such minute can have more."""
_AT_A_TIME = 16
"""One account or market asks fewer things at a time; in a flood, which are all alike, the rest is not looked at."""
_FEW = 100
"""Weight in a minute that nobody is called greedy for: one start is less, with the question about forced orders too."""


class Need(IntEnum):
    """Why somebody asks; the lower goes first."""

    DANGER = 0
    BLIND = 1
    START = 2
    EASE = 3


class Turn(Struct, eq=False):
    """Somebody who waits.

    Args:
        account: Or market.
        need: Asked when it matters: an account may get into danger while it waits.
    """

    account: str
    weight: int
    need: Callable[[], Need]


class Turns:
    """Those who wait, and what has been asked in the last minute.

    Args:
        per_minute: Weight that may be used at ease, with what others use; and for a start, without it.
        at_most: Weight that may be used by those in danger or blind; the exchange's own limit is above.
    """

    def __init__(self, per_minute: int, at_most: int) -> None:
        self._per_minute = per_minute
        self._at_most = max(per_minute, at_most)
        self._waiting: dict[str, deque[Turn]] = {}
        self._taken: deque[tuple[float, str, int]] = deque()
        self._used = 0
        self._used_by: dict[str, int] = {}
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self._flying = 0
        self._told = 0
        self._told_at = -math.inf
        self._blocked_until = -math.inf

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def join(self, turn: Turn) -> None:
        """Wait for a turn."""
        self._waiting.setdefault(turn.account, deque()).append(turn)

    def leave(self, turn: Turn) -> None:
        """Wait no more."""
        own = self._waiting.get(turn.account, ())
        if turn in own:
            self._waiting[turn.account].remove(turn)
            if not own:
                del self._waiting[turn.account]

    def due(self, now: float) -> Iterator[Turn]:
        """Those who may ask now, in order; who is given waits no more. Nobody may join or leave until it ends."""
        self._forget(now)
        if now < self._blocked_until:
            return
        heads = [self._head(own, place) for place, own in enumerate(self._waiting.values())]
        heapify(heads)
        kept_out: Turn | None = None
        while heads:
            *_, turn = heappop(heads)
            total = self._total(now)
            if self._is_greedy(turn, total):
                continue
            # Who is kept out by others is passed by, and so are all at ease, for as long as that is the reason.
            if kept_out is None and self._is_kept_out_by_others(turn, total):
                kept_out = turn
            elif kept_out is not None and not self._is_kept_out_by_others(kept_out, total):
                return
            if kept_out is not None and turn.need() is Need.EASE:
                continue
            if not self._may(turn, total):
                return
            self._take(turn, now)
            yield turn
            if turn.account in self._waiting:
                heappush(heads, self._head(self._waiting[turn.account], 0))

    def wait_s(self, now: float) -> float:
        """Seconds after which it is worth asking again who is due, where nothing else happens."""
        if now < self._blocked_until:
            return self._blocked_until - now
        ends = [at + WINDOW_S for at in (self._told_at, *(taken[0] for taken in islice(self._taken, 1)))]
        return max(0.001, min((end for end in ends if end > now), default=now + 1) - now)

    def answered(self, weight: int, used: int | None, now: float) -> None:
        """A question is over. used: what the exchange says that our address has used, whoever asked; None: no word."""
        self._flying -= weight
        if used is not None:
            self._told, self._told_at = used + self._flying, now

    def blocked(self, until: float) -> None:
        """The exchange asked us to stay away."""
        self._blocked_until = max(self._blocked_until, until)

    def blocked_s(self, now: float) -> float:
        return max(0.0, self._blocked_until - now)

    def _total(self, now: float) -> int:
        """What has been used in the last minute, by our count or the exchange's."""
        return max(self._used, self._told if now - self._told_at < WINDOW_S else 0)

    def _is_greedy(self, turn: Turn, total: int) -> bool:
        """Whether it would take from the others what they need, having had more than its part."""
        users = len(self._used_by) + (turn.account not in self._used_by)
        part = max(_FEW, self._per_minute / users)
        had = self._used_by.get(turn.account, 0)
        is_much = had + turn.weight > part and total + turn.weight > self._per_minute / 2
        return users > 1 and is_much and turn.need() is not Need.DANGER

    def _may(self, turn: Turn, total: int) -> bool:
        """Whether there is weight for it. What is larger than all that may be used has its turn once nothing is."""
        if not total:
            return True
        need = turn.need()
        if need is Need.START and self._used + turn.weight > self._per_minute:
            return False
        return total + turn.weight <= (self._per_minute if need is Need.EASE else self._at_most)

    def _is_kept_out_by_others(self, turn: Turn, total: int) -> bool:
        """Whether there would be weight for it without what others use; else it waits for ours, and nobody who begins
        goes before it: of a thousand that do, each asks so little that there is always room for one more of them."""
        is_ours = self._used + turn.weight > self._per_minute
        return turn.need() is Need.EASE and not is_ours and not self._may(turn, total)

    def _head(self, own: deque[Turn], place: int) -> tuple[Need, int, int, Turn]:
        """Who of an account is next, behind what it goes by among all. place: Among those that had no turn yet."""
        turn = own[0] if len(own) == 1 else _most_urgent(own)
        return min(turn.need(), Need.START), self._last_turn.get(turn.account, 0), place, turn

    def _take(self, turn: Turn, now: float) -> None:
        """It asks."""
        self.leave(turn)
        self._turns += 1
        self._last_turn[turn.account] = self._turns
        self._taken.append((now, turn.account, turn.weight))
        self._used += turn.weight
        self._used_by[turn.account] = self._used_by.get(turn.account, 0) + turn.weight
        self._flying += turn.weight
        self._told += turn.weight

    def _forget(self, now: float) -> None:
        while self._taken and now - self._taken[0][0] >= WINDOW_S:
            _, account, weight = self._taken.popleft()
            self._used -= weight
            left = self._used_by.pop(account, 0) - weight  # what weighs nothing may be all that is left
            if left:
                self._used_by[account] = left


def _most_urgent(own: deque[Turn]) -> Turn:
    """Of those of one account: the first of those that need it most."""
    return min(islice(own, _AT_A_TIME), key=lambda turn: turn.need())
