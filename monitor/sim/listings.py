"""Bodies of the USDⓈ-M REST answers that are about the market, and those that both markets share."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from monitor.sim.account import Row
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import ZERO, json_number, plain, text8
from monitor.sim.market import Bracket, Contract, Market

HALF_HOUR_MS = 1_800_000


def leverage_bracket(symbol: str, brackets: Sequence[Bracket], extra: Row) -> Row:
    """A row of /fapi/v1/leverageBracket; its numbers are bare. extra: an account's notionalCoef, if it has one."""
    return {
        "symbol": symbol,
        **extra,
        "brackets": [
            {
                "bracket": place,
                "initialLeverage": bracket.leverage,
                "notionalCap": json_number(bracket.cap),
                "notionalFloor": json_number(bracket.floor),
                "maintMarginRatio": json_number(bracket.rate),
                "cum": json_number(bracket.amount),
            }
            for place, bracket in enumerate(brackets, 1)
        ],
    }


def premium_index(contract: Contract, now_ms: int) -> Row:
    """A row of /fapi/v1/premiumIndex. A delivery contract has an empty rate and no funding time."""
    return {
        "symbol": contract.symbol,
        "markPrice": text8(contract.mark),
        "indexPrice": text8(contract.index_price),
        "estimatedSettlePrice": text8(contract.index_price),
        "lastFundingRate": text8(contract.funding_rate) if contract.perpetual else "",
        "interestRate": "0.00010000" if contract.perpetual else "",
        "nextFundingTime": contract.next_funding_ms if contract.perpetual else 0,
        "time": now_ms,
    }


def asset_index(index: AssetIndex, now_ms: int) -> Row:
    """A row of /fapi/v1/assetIndex."""
    return {
        "symbol": index.symbol,
        "time": now_ms,
        "index": text8(index.index),
        "bidBuffer": text8(index.bid_buffer),
        "askBuffer": text8(index.ask_buffer),
        "bidRate": text8(index.bid),
        "askRate": text8(index.ask),
        "autoExchangeBidBuffer": text8(index.auto_bid_buffer),
        "autoExchangeAskBuffer": text8(index.auto_ask_buffer),
        "autoExchangeBidRate": text8(index.auto_bid),
        "autoExchangeAskRate": text8(index.auto_ask),
    }


def exchange_asset(index: AssetIndex) -> Row:
    """An asset of /fapi/v1/exchangeInfo."""
    threshold = None if index.auto_exchange is None else plain(index.auto_exchange)
    return {"asset": index.asset, "marginAvailable": index.margin_available, "autoAssetExchange": threshold}


def exchange_symbol(contract: Contract) -> dict[str, Any]:
    """A symbol of /fapi/v1/exchangeInfo."""
    quote = contract.margin_asset
    return {
        "symbol": contract.symbol,
        "pair": contract.pair,
        "contractType": contract.contract_type,
        "deliveryDate": contract.delivery_ms,
        "onboardDate": 1569398400000,
        "status": contract.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": contract.pair.removesuffix(quote),
        "quoteAsset": quote,
        "marginAsset": quote,
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "EQUITY" if contract.tradfi else "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": format(contract.liquidation_fee, ".6f"),
        "marketTakeBound": "0.30",
        "filters": [{"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "10000000", "stepSize": "0.001"}],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def rate_limits(weight_limit: int) -> list[Row]:
    """The limit that is enforced: one pool for both markets."""
    return [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit}]


def exchange_info(market: Market, now_ms: int, weight_limit: int) -> dict[str, Any]:
    """/fapi/v1/exchangeInfo."""
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": rate_limits(weight_limit),
        "exchangeFilters": [],
        "assets": [exchange_asset(index) for index in market.asset_indexes.values()],
        "symbols": [exchange_symbol(contract) for contract in market.of("usdm")],
    }


def settlement(contract: Contract, at_ms: int) -> Row:
    """A row of /fapi/v1/fundingRate."""
    return {
        "symbol": contract.symbol,
        "fundingRate": text8(contract.funding_rate),
        "fundingTime": at_ms,
        "markPrice": text8(contract.mark),
        "rateType": "Regular",
    }


def funding_info(market: Market, name: str) -> list[Row]:
    """fundingInfo of usdm or coinm: only what was adjusted is listed."""
    return [
        {
            "symbol": contract.symbol,
            "adjustedFundingRateCap": "0.02000000",
            "adjustedFundingRateFloor": "-0.02000000",
            "fundingIntervalHours": contract.interval_h,
            "disclaimer": False,
        }
        for contract in market.of(name)
        if contract.perpetual and contract.interval_h != 8
    ]


def adl_risk(contract: Contract, now_ms: int) -> Row:
    """A row of /fapi/v1/symbolAdlRisk: of the market, not of a position; refreshed every half hour."""
    updated_ms = contract.adl_risk_ms or now_ms // HALF_HOUR_MS * HALF_HOUR_MS
    return {"symbol": contract.symbol, "adlRisk": contract.adl_risk, "updateTime": updated_ms}


def insurance_groups(market: Market, funds: Mapping[str, Decimal], now_ms: int) -> list[Row]:
    """/fapi/v1/insuranceBalance: the symbols that share a fund, and what is in it. Here they share by margin asset."""
    groups: dict[str, list[str]] = {}
    for contract in market.of("usdm"):
        groups.setdefault(contract.margin_asset, []).append(contract.symbol)
    return [
        {
            "symbols": symbols,
            "assets": [{"asset": asset, "marginBalance": plain(funds.get(asset, ZERO)), "updateTime": now_ms}],
        }
        for asset, symbols in groups.items()
    ]
