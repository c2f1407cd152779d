"""Bodies of the COIN-M REST answers, where they differ from those of USDⓈ-M. Every amount is in coin."""

from collections.abc import Sequence
from typing import Any

from monitor.sim import margin
from monitor.sim.account import ALIAS, Account, Position, Row
from monitor.sim.answers import asset_amounts, max_notional, updated
from monitor.sim.decimals import ZERO, exact, json_number, plain, text8, trunc8
from monitor.sim.listings import premium_index, rate_limits
from monitor.sim.market import Bracket, Contract, Market

ASSET_FIELDS = (
    "walletBalance",
    "unrealizedProfit",
    "marginBalance",
    "maintMargin",
    "initialMargin",
    "positionInitialMargin",
    "openOrderInitialMargin",
    "maxWithdrawAmount",
    "crossWalletBalance",
    "crossUnPnl",
    "availableBalance",
)


def listed_assets(account: Account, market: Market) -> list[str]:
    """Each coin that margins a contract or is held, empty ones too."""
    return list(dict.fromkeys((*(contract.margin_asset for contract in market.of("coinm")), *account.balances)))


@exact
def account(account: Account, market: Market, extra: bool) -> Row:
    """/dapi/v1/account. There are no totals: each coin is a margin asset of its own.

    extra: Also what the documents lack and real answers have: `isolatedWallet`.
    """
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": True,
        "updateTime": 0,
        "assets": [
            {
                "asset": asset,
                **{key: text8(amounts[key]) for key in ASSET_FIELDS},
                "updateTime": updated(account, asset),
            }
            for asset in listed_assets(account, market)
            if (amounts := asset_amounts(account, market, asset))
        ],
        "positions": [_account_position(account, p, market, extra) for p in margin.every_position(account, market)],
    }


def _account_position(account: Account, position: Position, market: Market, extra: bool) -> Row:
    initial = text8(margin.initial(position, account, market))
    row = {
        "symbol": position.symbol,
        "initialMargin": initial,
        "maintMargin": text8(margin.maintenance(position, market)),
        "unrealizedProfit": text8(margin.unrealized(position, market)),
        "positionInitialMargin": initial,
        "openOrderInitialMargin": text8(ZERO),
        "leverage": str(account.setting(position.symbol).leverage),
        "isolated": account.isolated(position),
        "positionSide": position.side,
        "entryPrice": text8(position.entry_price),
        "breakEvenPrice": text8(margin.break_even(position, market)),
        "positionAmt": plain(position.quantity),
        "maxQty": plain(max_notional(account, market[position.symbol])),
        "notionalValue": text8(margin.notional(position, market)),
        "updateTime": position.updated_ms,
    }
    return row | ({"isolatedWallet": text8(position.isolated_wallet)} if extra else {})


@exact
def balances(account: Account, market: Market) -> list[Row]:
    """/dapi/v1/balance."""
    rows = []
    for asset in listed_assets(account, market):
        amounts = asset_amounts(account, market, asset)
        rows.append(
            {
                "accountAlias": ALIAS,
                "asset": asset,
                "balance": text8(amounts["walletBalance"]),
                "withdrawAvailable": text8(amounts["maxWithdrawAmount"]),
                "crossWalletBalance": text8(amounts["crossWalletBalance"]),
                "crossUnPnl": text8(amounts["crossUnPnl"]),
                "availableBalance": text8(amounts["availableBalance"]),
                "updateTime": updated(account, asset),
            }
        )
    return rows


@exact
def position_risk(account: Account, position: Position, market: Market, extra: bool) -> Row:
    """A row of /dapi/v1/positionRisk.

    The liquidation price is truncated: so it comes out as two of three recorded ones print it, the
    third being undecided by a unit of its last digit.

    extra: Also what the documents lack and real answers have: `notionalValue` and `isolatedWallet`.
    """
    price = margin.liquidation_price(position, account, market)
    isolated = account.isolated(position)
    whole = position.isolated_wallet + margin.unrealized(position, market) if isolated else ZERO
    row = {
        "symbol": position.symbol,
        "positionAmt": plain(position.quantity),
        "entryPrice": text8(position.entry_price),
        "breakEvenPrice": text8(margin.break_even(position, market)),
        "markPrice": text8(market[position.symbol].mark),
        "unRealizedProfit": text8(margin.unrealized(position, market)),
        "liquidationPrice": text8(price) if price and trunc8(price) else "0",
        "leverage": str(account.setting(position.symbol).leverage),
        "maxQty": plain(max_notional(account, market[position.symbol])),
        "marginType": "isolated" if isolated else "cross",
        "isolatedMargin": text8(whole),
        "isAutoAddMargin": "false",
        "positionSide": position.side,
        "updateTime": position.updated_ms,
    }
    if extra:
        row["notionalValue"] = text8(margin.notional(position, market))
        row["isolatedWallet"] = text8(position.isolated_wallet)
    return row


def bracket_rows(brackets: Sequence[Bracket], floor_key: str) -> list[Row]:
    """Brackets by quantity of coin; their numbers are bare. floor_key: qtyFloor, or qtylFloor as the documents say."""
    return [
        {
            "bracket": place,
            "initialLeverage": bracket.leverage,
            "qtyCap": json_number(bracket.cap),
            floor_key: json_number(bracket.floor),
            "maintMarginRatio": json_number(bracket.rate),
            "cum": json_number(bracket.amount),
        }
        for place, bracket in enumerate(brackets, 1)
    ]


def mark_row(contract: Contract, now_ms: int) -> Row:
    """A row of /dapi/v1/premiumIndex."""
    row = premium_index(contract, now_ms)
    return {"symbol": row.pop("symbol"), "pair": contract.pair, **row}


def exchange_symbol(contract: Contract) -> dict[str, Any]:
    """A symbol of /dapi/v1/exchangeInfo: `contractStatus` and not `status`; quantities are whole contracts."""
    lots = {"minQty": "1", "maxQty": "1000000", "stepSize": "1"}
    return {
        "symbol": contract.symbol,
        "pair": contract.pair,
        "contractType": contract.contract_type,
        "deliveryDate": contract.delivery_ms,
        "onboardDate": 1569398400000,
        "contractStatus": contract.status,
        "contractSize": json_number(contract.contract_size),
        "marginAsset": contract.margin_asset,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": contract.margin_asset,
        "quoteAsset": "USD",
        "pricePrecision": 1,
        "quantityPrecision": 0,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "equalQtyPrecision": 4,
        "maxMoveOrderLimit": 10000,
        "triggerProtect": "0.0500",
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "liquidationFee": format(contract.liquidation_fee, ".6f"),
        "marketTakeBound": "0.30",
        "filters": [{"filterType": "LOT_SIZE", **lots}, {"filterType": "MARKET_LOT_SIZE", **lots}],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def exchange_info(market: Market, now_ms: int, weight_limit: int) -> dict[str, Any]:
    """/dapi/v1/exchangeInfo."""
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": rate_limits(weight_limit),
        "exchangeFilters": [],
        "symbols": [exchange_symbol(contract) for contract in market.of("coinm")],
    }
