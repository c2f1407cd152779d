"""Binance COIN-M futures: hosts, inverse contracts, brackets by quantity of the coin."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.venues import binance_account, binance_market, binance_wallet
from monitor.venues.binance_venue import Binance, Reader
from monitor.venues.wire import Hosts, PrivateForm, Request, Requests

_TIME = Request("GET", "/dapi/v1/time", "none", 1)
_CONTRACTS = Request("GET", "/dapi/v1/exchangeInfo", "none", 1)
_MARKS_NOW = Request("GET", "/dapi/v1/premiumIndex", "none", 10)
_FUNDING_TERMS = Request("GET", "/dapi/v1/fundingInfo", "none", 0)
_BRACKETS = Request("GET", "/dapi/v2/leverageBracket", "signed", 2)
_ACCOUNT = Request("GET", "/dapi/v1/account", "signed", 5)
_POSITIONS = Request("GET", "/dapi/v1/positionRisk", "signed", 1)
_ADL_QUANTILES = Request("GET", "/dapi/v1/adlQuantile", "signed", 5)
_FORCED = Request("GET", "/dapi/v1/forceOrders", "signed", 50)
_OPEN_STREAM = Request("POST", "/dapi/v1/listenKey", "key", 1)
_KEEP_STREAM = Request("PUT", "/dapi/v1/listenKey", "key", 1)


class BinanceCoinm(Binance):
    """Binance COIN-M. Its stream host knows no routes; where one should want them, they are part of the address."""

    name = "binance-coinm"
    st = 2
    inverse = True
    private_forms: tuple[PrivateForm, ...] = ("path", "query", "subscribe", "multi")

    environments: Mapping[str, Hosts] = {
        "live": Hosts(
            "https://dapi.binance.com",
            "wss://dstream.binance.com",
            "wss://dstream.binance.com",
            "https://api.binance.com",
        ),
        "testnet": Hosts(
            "https://testnet.binancefuture.com",
            "wss://dstream.binancefuture.com",
            "wss://dstream.binancefuture.com",
            "https://testnet.binance.vision",
        ),
        "demo": Hosts(
            "https://demo-dapi.binance.com",
            "wss://demo-dstream.binance.com",
            "wss://demo-dstream.binance.com",
            "https://demo-api.binance.com",
        ),
    }

    bodies: Mapping[str, Request] = {
        "leverageBracket": _BRACKETS,
        "account": _ACCOUNT,
        "positionRisk": _POSITIONS,
        "exchangeInfo": _CONTRACTS,
        "premiumIndex": _MARKS_NOW,
    }

    @property
    def requests(self) -> Requests:
        return Requests(
            time=_TIME,
            contracts=_CONTRACTS,
            marks=_MARKS_NOW,
            account=(_CONTRACTS, _BRACKETS, _ACCOUNT, _POSITIONS),  # without a contract's size nothing can be said
            reconcile=(_ACCOUNT, _POSITIONS),
            forced=_FORCED,
            open_stream=_OPEN_STREAM,
            keep_stream=_KEEP_STREAM,
            market_facts=(_FUNDING_TERMS,),
            account_facts=(_ADL_QUANTILES, binance_wallet.PERMISSIONS),
            permissions=binance_wallet.PERMISSIONS,
            status=binance_wallet.STATUS,
        )

    @property
    def by_rows(self) -> tuple[Request, ...]:
        return (_BRACKETS,)

    def readers(self, account: str, market: str, sent_ms: int) -> Mapping[Request, Reader]:
        return {
            # The documentation spells the floor `qtylFloor`, real answers `qtyFloor`.
            _BRACKETS: lambda rows: binance_account.brackets_read(rows, account, "qtyFloor", "qtylFloor"),
            _ACCOUNT: lambda answer: (
                *binance_account.balances_read(answer, account, sent_ms),
                *binance_account.margins_printed(answer, account),
            ),
            _POSITIONS: lambda answer: binance_account.positions_read(answer, account, sent_ms),
            _FORCED: lambda answer: binance_account.forced_read(answer, account),
            _ADL_QUANTILES: lambda answer: binance_account.adl_quantiles_read(answer, account),
            _CONTRACTS: lambda answer: binance_market.contracts_read(answer, market),
            _MARKS_NOW: lambda answer: binance_market.marks_now(answer, market),
            _FUNDING_TERMS: lambda answer: binance_market.funding_terms_read(answer, market),
            binance_wallet.PERMISSIONS: lambda answer: binance_wallet.permissions_read(answer, account),
            binance_wallet.STATUS: lambda answer: binance_wallet.status_read(answer, market),
        }
