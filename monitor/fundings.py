"""Which funding comes next for a pool, and what was forecast of it once it is charged."""

from __future__ import annotations

import math
from decimal import Decimal

from monitor.events import Now, PositionKey
from monitor.market import MarketBook
from monitor.risk.funding import Forecast, Funding, forecast
from monitor.risk.report import PoolRisk

_FUNDING_TAKES_MS = 120_000


def coming_funding(risk: PoolRisk, market: MarketBook, now: Now, within_s: float = math.inf) -> Forecast | None:
    """The next funding of a pool, as far as is known now; None: there is none (so soon).

    One that is over does not hide those of other symbols: a mark that is silent since then, or that of a contract
    which is not traded any more, still names it.
    """
    fundings = {}
    here_ms = market.exchange_ms(now)
    for p in risk.pool.positions:
        rate, next_ms = market.funding(p.symbol)
        if rate is not None and next_ms is not None and here_ms < next_ms <= here_ms + within_s * 1000:
            fundings[p.symbol] = Funding(rate, next_ms)
    return forecast(risk, fundings) if fundings else None


class Forecasts:
    """What was forecast of the fundings of one account."""

    def __init__(self) -> None:
        self._payments: dict[PositionKey, tuple[int, Decimal]] = {}

    def note(self, coming: Forecast) -> None:
        """Remember what each position pays."""
        self._payments.update({key: (coming.next_ms, amount) for key, amount in coming.payments.items()})

    def payments(self, symbol: str, at_ms: int) -> dict[PositionKey, Decimal]:
        """What was forecast of a funding that has just been charged, for each position in the symbol (margin asset)."""
        return {
            key: amount
            for key, (next_ms, amount) in self._payments.items()
            if key.symbol == symbol and 0 <= at_ms - next_ms < _FUNDING_TAKES_MS
        }
