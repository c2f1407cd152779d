"""What is true: which pool is in danger at which price, what money has moved, which links can bring nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

D = Decimal


@dataclass(frozen=True)
class Ladder:
    """The marks of one pool's only position. In danger they differ from phase to phase, so that a mark names its phase.

    Args:
        calm: More than 12 % from liquidation.
        danger: Less than 2 % from it, and at least 0.1 %, with 40 USDT more or less in the wallet.
        step: Between the marks of one phase in danger and the next.
    """

    account: str
    symbol: str
    calm: Decimal
    danger: Decimal
    step: Decimal

    def mark(self, phase: int, pulse: int) -> Decimal:
        """The mark of the nth phase in danger; pulse: it trembles, and stays the phase's own."""
        return self.danger + self.step * phase + self.step / 100 * (pulse % 50)

    def phase(self, mark: Decimal) -> int | None:
        """Which phase in danger a mark belongs to; None: to calm."""
        return None if mark > self.danger * D("1.05") else int((mark - self.danger) / self.step)


LADDERS: Mapping[str, Ladder] = {
    # 12000 USDT, 1 BTC bought at 60000, rate 0.004: liquidated at 48192.77
    "main/cross-usdt": Ladder("main", "BTCUSDT", D(60000), D(48270), D(1)),
    # 3000 USDT, 100 SOL bought at 150, rate 0.005: liquidated at 120.603
    "main/isolated-solusdt": Ladder("main", "SOLUSDT", D(151), D("121.7"), D("0.01")),
    # 6000 USDT, 10 ETH bought at 3000, rate 0.004: liquidated at 2409.64
    "other/cross-usdt": Ladder("other", "ETHUSDT", D(2950), D(2430), D("0.1")),
}


@dataclass
class Phase:
    """A time in which a pool is in danger. Monotonic seconds; ended: None while it lasts."""

    pool: str
    number: int
    began: float
    ended: float | None = None


@dataclass(frozen=True)
class Blind:
    """A time in which a link could bring nothing."""

    link: str
    fault: str
    began: float
    ended: float


@dataclass
class Taken:
    """A position that the exchange takes, from `began` on (monotonic seconds). quantity: of all its orders."""

    symbol: str
    side: str
    how: str
    began: float
    quantity: Decimal = Decimal(0)

    @property
    def position(self) -> str:
        return f"{self.symbol}-{self.side}".lower()


@dataclass
class Truth:
    """Everything that a perfect monitor would know.

    Attributes:
        moved: Pool → by how much its wallet has changed since the daemon was first ready (USDT).
        payments: The same one by one, as (pool, what, amount).
        quiet: Times in which nothing went wrong.
        taken: Symbol → what was liquidated or auto-deleveraged of it.
        unlisted: Times in which the exchange refused its list of forced orders, and answered all else.
    """

    phases: list[Phase] = field(default_factory=list)
    blind: list[Blind] = field(default_factory=list)
    moved: dict[str, Decimal] = field(default_factory=dict)
    payments: list[tuple[str, str, Decimal]] = field(default_factory=list)
    quiet: list[tuple[float, float]] = field(default_factory=list)
    taken: dict[str, Taken] = field(default_factory=dict)
    unlisted: list[tuple[float, float]] = field(default_factory=list)

    def in_danger(self, pool: str, at: float) -> bool:
        return any(p.pool == pool and p.began <= at and (p.ended is None or at < p.ended) for p in self.phases)

    def in_danger_since(self, pool: str, at: float) -> float | None:
        """How long the pool has been in danger (seconds); None: it is not."""
        found = [p for p in self.phases if p.pool == pool and p.began <= at and (p.ended is None or at < p.ended)]
        return at - found[0].began if found else None
