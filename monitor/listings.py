"""What the exchange last said of a market's contracts, and of assets as collateral, apart from what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from msgspec import structs

from monitor.events import AssetTerms, Contract, ContractChanged, Now

_UNDER_WAY_S = 15.0
"""An answer that comes so soon after something was pushed may have been given before; it is waited for 10 s at most."""

_NONE: Mapping[str, AssetTerms] = MappingProxyType({})


class Listings:
    """The contracts and assets of one market; changed in place by the core alone."""

    def __init__(self) -> None:
        self.contracts: dict[str, Contract] = {}
        """Another dict once anything in it has been read anew."""
        self._pushed: dict[str, tuple[ContractChanged, float]] = {}
        """What the stream has told of contracts lately, and when it came (monotonic seconds)."""
        self.assets: dict[str, AssetTerms] = {}
        self.adl_risks: dict[str, str] = {}
        self.insurance_fund: dict[str, dict[str, Decimal]] = {}
        self.funding_hours: dict[str, int] | None = None

    def funding_interval_hours(self, symbol: str) -> int | None:
        """Hours between two fundings; only what differs from 8 is named. None: it has not been asked yet."""
        return None if self.funding_hours is None else self.funding_hours.get(symbol, 8)

    def apply_contract(self, event: ContractChanged, now: Now) -> None:
        """Take what the exchange has pushed of a contract; one that has not been read yet soon will be. Of two
        connections the one that lags tells again what the other has told."""
        if event.symbol in self._pushed and event.at_ms < self._pushed[event.symbol][0].at_ms:
            return
        self._pushed[event.symbol] = event, now.mono
        if event.symbol in self.contracts:
            self.contracts = {**self.contracts, event.symbol: _as_pushed(self.contracts[event.symbol], event)}

    def apply_contracts(
        self, contracts: Mapping[str, Contract], now: Now, assets: Mapping[str, AssetTerms] = _NONE
    ) -> None:
        """Take what the exchange answers of contracts, and of assets as collateral."""
        lately = {s: (event, at) for s, (event, at) in self._pushed.items() if now.mono - at < _UNDER_WAY_S}
        pushed = {s: _as_pushed(contracts[s], event) for s, (event, _) in lately.items() if s in contracts}
        self.contracts, self._pushed = {**self.contracts, **contracts, **pushed}, lately
        self.assets.update(assets)


def _as_pushed(contract: Contract, event: ContractChanged) -> Contract:
    return structs.replace(contract, status=event.status, delivery_ms=event.delivery_ms)
