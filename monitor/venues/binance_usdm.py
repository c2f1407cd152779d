"""Binance USDⓈ-M futures: hosts, routed streams, linear contracts, brackets by notional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.events import AccountModeRead, Event
from monitor.venues import binance_account, binance_market, binance_wallet
from monitor.venues.binance_venue import Binance, Reader
from monitor.venues.wire import Hosts, PrivateForm, Request, Requests, flag

_TIME = Request("GET", "/fapi/v1/time", "none", 1)
_CONTRACTS = Request("GET", "/fapi/v1/exchangeInfo", "none", 1)
_MARKS_NOW = Request("GET", "/fapi/v1/premiumIndex", "none", 10)
_RATES = Request("GET", "/fapi/v1/assetIndex", "none", 10)
_ADL_RISKS = Request("GET", "/fapi/v1/symbolAdlRisk", "none", 1)
_INSURANCE_FUND = Request("GET", "/fapi/v1/insuranceBalance", "none", 1)
_FUNDING_TERMS = Request("GET", "/fapi/v1/fundingInfo", "none", 0)
_MODE = Request("GET", "/fapi/v1/accountConfig", "signed", 5)
_MARGIN_TYPES = Request("GET", "/fapi/v1/symbolConfig", "signed", 5)
_BRACKETS = Request("GET", "/fapi/v1/leverageBracket", "signed", 1)
_ACCOUNT = Request("GET", "/fapi/v3/account", "signed", 5)
_POSITIONS = Request("GET", "/fapi/v3/positionRisk", "signed", 5)
_ADL_QUANTILES = Request("GET", "/fapi/v1/adlQuantile", "signed", 5)
_FORCED = Request("GET", "/fapi/v1/forceOrders", "signed", 50)
_OPEN_STREAM = Request("POST", "/fapi/v1/listenKey", "key", 1)
_KEEP_STREAM = Request("PUT", "/fapi/v1/listenKey", "key", 1)


class BinanceUsdm(Binance):
    """Binance USDⓈ-M."""

    name = "binance-usdm"
    st = 1
    inverse = False
    private_forms: tuple[PrivateForm, ...] = ("query", "multi", "path", "subscribe")
    rate_streams: tuple[str, ...] = (binance_market.RATE_STREAM,)

    environments: Mapping[str, Hosts] = {
        "live": Hosts(
            "https://fapi.binance.com",
            "wss://fstream.binance.com/market",
            "wss://fstream.binance.com/private",
            "https://api.binance.com",
        ),
        "testnet": Hosts(
            "https://testnet.binancefuture.com",
            "wss://fstream.binancefuture.com/market",
            "wss://fstream.binancefuture.com/private",
            "https://testnet.binance.vision",
        ),
        "demo": Hosts(
            "https://demo-fapi.binance.com",
            "wss://demo-fstream.binance.com/market",
            "wss://demo-fstream.binance.com/private",
            "https://demo-api.binance.com",
        ),
    }

    bodies: Mapping[str, Request] = {
        "accountConfig": _MODE,
        "symbolConfig": _MARGIN_TYPES,
        "leverageBracket": _BRACKETS,
        "account": _ACCOUNT,
        "positionRisk": _POSITIONS,
        "exchangeInfo": _CONTRACTS,
        "premiumIndex": _MARKS_NOW,
        "assetIndex": _RATES,
    }

    @property
    def requests(self) -> Requests:
        return Requests(
            time=_TIME,
            contracts=_CONTRACTS,
            marks=_MARKS_NOW,
            account=(_MODE, _MARGIN_TYPES, _BRACKETS, _ACCOUNT, _POSITIONS),
            reconcile=(_ACCOUNT, _POSITIONS),
            forced=_FORCED,
            open_stream=_OPEN_STREAM,
            keep_stream=_KEEP_STREAM,
            rates=_RATES,
            market_facts=(_FUNDING_TERMS, _ADL_RISKS, _INSURANCE_FUND),
            account_facts=(_ADL_QUANTILES, binance_wallet.PERMISSIONS),
            permissions=binance_wallet.PERMISSIONS,
            status=binance_wallet.STATUS,
        )

    @property
    def by_rows(self) -> tuple[Request, ...]:
        return (_MARGIN_TYPES, _BRACKETS)

    def readers(self, account: str, market: str, sent_ms: int) -> Mapping[Request, Reader]:
        return {
            _MODE: lambda answer: _mode(answer, account, sent_ms),
            _MARGIN_TYPES: lambda rows: binance_account.margin_types_read(rows, account),
            _BRACKETS: lambda rows: binance_account.brackets_read(rows, account, "notionalFloor"),
            _ACCOUNT: lambda answer: binance_account.balances_read(answer, account, sent_ms),
            _POSITIONS: lambda answer: binance_account.positions_read(answer, account, sent_ms),
            _FORCED: lambda answer: binance_account.forced_read(answer, account),
            _ADL_QUANTILES: lambda answer: binance_account.adl_quantiles_read(answer, account),
            _CONTRACTS: lambda answer: binance_market.contracts_read(answer, market),
            _MARKS_NOW: lambda answer: binance_market.marks_now(answer, market),
            _RATES: lambda answer: binance_market.rates_now(answer, market),
            _ADL_RISKS: lambda answer: binance_market.adl_risks_read(answer, market),
            _INSURANCE_FUND: lambda answer: binance_market.insurance_fund_read(answer, market),
            _FUNDING_TERMS: lambda answer: binance_market.funding_terms_read(answer, market),
            binance_wallet.PERMISSIONS: lambda answer: binance_wallet.permissions_read(answer, account),
            binance_wallet.STATUS: lambda answer: binance_wallet.status_read(answer, market),
        }


def _mode(answer: Any, account: str, sent_ms: int) -> Iterable[Event]:
    yield AccountModeRead(account, flag(answer["dualSidePosition"]), flag(answer["multiAssetsMargin"]), sent_ms)
