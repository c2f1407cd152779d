"""What Binance's wallet host says: what a key may do, and how the exchange itself fares.

Source: Binance's wallet documentation, "Get API Key Permission" and "System Status". Testnets have no such host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.events import Event, ExchangeStatusRead, KeyPermissionsRead
from monitor.venues.wire import Request, flag, integer

PERMISSIONS = Request("GET", "/sapi/v1/account/apiRestrictions", "signed", 1)
STATUS = Request("GET", "/sapi/v1/system/status", "none", 1)

_PORTFOLIO_MARGIN = "enablePortfolioMarginTrading"
_TRADES = (
    "enableFutures",
    "enableSpotAndMarginTrading",
    "enableMargin",
    "enableVanillaOptions",
    "enableFixApiTrade",
    _PORTFOLIO_MARGIN,
)
_MOVES_MONEY = ("enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer")


def permissions_read(answer: Mapping[str, Any], account: str) -> Iterable[Event]:
    """A permission that is not named is not given."""

    def given(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if flag(answer.get(name, False)))

    yield KeyPermissionsRead(
        account,
        trades=given(*_TRADES),
        moves_money=given(*_MOVES_MONEY),
        ip_restricted=flag(answer["ipRestrict"]),
        portfolio_margin=bool(given(_PORTFOLIO_MARGIN)),
    )


def status_read(answer: Mapping[str, Any], market: str) -> Iterable[Event]:
    """`status` 0 is normal, 1 maintenance; `msg` says it in a word."""
    status = integer(answer["status"])
    yield ExchangeStatusRead(market, None if status == 0 else str(answer.get("msg") or f"status {status}")[:100])
