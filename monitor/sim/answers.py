"""Bodies of the REST answers: field names and roundings as each endpoint has them."""

from decimal import Decimal
from typing import Any

from monitor.sim import margin
from monitor.sim.account import Account, Position, Row
from monitor.sim.decimals import ZERO, exact, half_up8, json_number, plain, text8, zero_or8
from monitor.sim.market import Bracket, Contract, Market

ALWAYS_LISTED = ("USDT", "USDC", "BNB", "BTC", "ETH")


def sides(account: Account) -> tuple[str, ...]:
    """Position sides that the account's mode shows."""
    return ("LONG", "SHORT") if account.hedge else ("BOTH",)


def every_position(account: Account, market: Market) -> list[Position]:
    """A position of each symbol and side, flat ones included, as version 2 lists them."""
    return [
        account.positions.get((contract.symbol, side))
        or Position(contract.symbol, side, account.margin_assets.get(contract.margin_asset, contract.margin_asset))
        for contract in market.linear()
        for side in sides(account)
    ]


def total(values: list[Decimal]) -> Decimal:
    """Their sum."""
    return sum(values, ZERO)


@exact
def asset_amounts(account: Account, market: Market, asset: str) -> dict[str, Decimal]:
    """The figures of one asset; margins and PnL of all its positions, `crossUnPnl` of the cross ones."""
    held = list(account.open_positions(asset))
    cross = [position for position in held if not account.isolated(position)]
    pnl = total([margin.unrealized(p, market) for p in held])
    cross_pnl = total([margin.unrealized(p, market) for p in cross])
    initial = total([margin.initial(p, account, market) for p in held])
    cross_wallet = account.balances[asset].cross if asset in account.balances else ZERO
    available = max(cross_wallet + cross_pnl - total([margin.initial(p, account, market) for p in cross]), ZERO)
    wallet = cross_wallet + total([p.isolated_wallet for p in account.positions.values() if p.asset == asset])
    return {
        "walletBalance": wallet,
        "unrealizedProfit": pnl,
        "marginBalance": wallet + pnl,
        "maintMargin": total([margin.maintenance(p, market) for p in held]),
        "initialMargin": initial,
        "positionInitialMargin": initial,
        "openOrderInitialMargin": ZERO,
        "crossWalletBalance": cross_wallet,
        "crossUnPnl": cross_pnl,
        "availableBalance": available,
        "maxWithdrawAmount": max(min(available, cross_wallet), ZERO),
    }


def listed_assets(account: Account) -> list[str]:
    """Assets in the order of the answers, empty ones too."""
    return list(dict.fromkeys((*ALWAYS_LISTED, *account.balances)))


def updated(account: Account, asset: str) -> int:
    """When the asset last changed."""
    return account.balances[asset].updated_ms if asset in account.balances else 0


@exact
def account_v3(account: Account, market: Market) -> Row:
    """/fapi/v3/account. In single-asset mode the totals are those of USDT alone."""
    amounts = {asset: asset_amounts(account, market, asset) for asset in listed_assets(account)}
    usdt = amounts["USDT"]
    return {
        "totalInitialMargin": text8(usdt["initialMargin"]),
        "totalMaintMargin": text8(usdt["maintMargin"]),
        "totalWalletBalance": text8(usdt["walletBalance"]),
        "totalUnrealizedProfit": text8(usdt["unrealizedProfit"]),
        "totalMarginBalance": text8(usdt["marginBalance"]),
        "totalPositionInitialMargin": text8(usdt["positionInitialMargin"]),
        "totalOpenOrderInitialMargin": text8(ZERO),
        "totalCrossWalletBalance": text8(usdt["crossWalletBalance"]),
        "totalCrossUnPnl": text8(usdt["crossUnPnl"]),
        "availableBalance": text8(usdt["availableBalance"]),
        "maxWithdrawAmount": text8(usdt["maxWithdrawAmount"]),
        "assets": [
            {"asset": asset, **{key: text8(v) for key, v in row.items()}, "updateTime": updated(account, asset)}
            for asset, row in amounts.items()
        ],
        "positions": [
            {
                "symbol": position.symbol,
                "positionSide": position.side,
                "positionAmt": plain(position.quantity),
                "unrealizedProfit": text8(margin.unrealized(position, market)),
                **isolated_fields(account, position, market),
                "notional": zero_or8(margin.notional(position, market)),
                "initialMargin": zero_or8(margin.initial(position, account, market)),
                "maintMargin": zero_or8(margin.maintenance(position, market)),
                "updateTime": position.updated_ms,
            }
            for position in account.open_positions()
        ],
    }


@exact
def isolated_fields(account: Account, position: Position, market: Market) -> Row:
    """isolatedMargin is the wallet and the PnL; both are "0" on a cross position."""
    isolated = account.isolated(position) and bool(position.quantity)
    whole = position.isolated_wallet + margin.unrealized(position, market) if isolated else ZERO
    return {"isolatedMargin": zero_or8(whole), "isolatedWallet": zero_or8(position.isolated_wallet)}


@exact
def account_v2(account: Account, market: Market) -> Row:
    """/fapi/v2/account: the same totals; every symbol, with entry price, leverage and margin type."""
    answer = account_v3(account, market)
    answer |= {"feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True, "tradeGroupId": -1}
    answer |= {"multiAssetsMargin": account.multi_assets, "updateTime": 0}
    answer["positions"] = [
        {
            "symbol": position.symbol,
            "initialMargin": zero_or8(margin.initial(position, account, market)),
            "maintMargin": zero_or8(margin.maintenance(position, market)),
            "unrealizedProfit": text8(margin.unrealized(position, market)),
            "positionInitialMargin": zero_or8(margin.initial(position, account, market)),
            "openOrderInitialMargin": "0",
            "leverage": str(account.setting(position.symbol).leverage),
            "isolated": account.isolated(position),
            "entryPrice": plain(position.entry_price),
            "breakEvenPrice": plain(position.break_even),
            "maxNotional": plain(max_notional(account, market[position.symbol])),
            "positionSide": position.side,
            "positionAmt": plain(position.quantity),
            "notional": zero_or8(margin.notional(position, market)),
            "isolatedWallet": zero_or8(position.isolated_wallet),
            "updateTime": position.updated_ms,
            "bidNotional": "0",
            "askNotional": "0",
        }
        for position in every_position(account, market)
    ]
    return answer


@exact
def balances(account: Account, market: Market) -> list[Row]:
    """/fapi/v3/balance, and version 2."""
    rows = []
    for asset in listed_assets(account):
        amounts = asset_amounts(account, market, asset)
        shown = ("crossWalletBalance", "crossUnPnl", "availableBalance", "maxWithdrawAmount")
        rows.append(
            {
                "accountAlias": "SgsR",
                "asset": asset,
                "balance": text8(amounts["walletBalance"]),
                **{key: text8(amounts[key]) for key in shown},
                "marginAvailable": True,
                "updateTime": updated(account, asset),
            }
        )
    return rows


@exact
def position_risk(account: Account, position: Position, market: Market) -> Row:
    """A row of /fapi/v3/positionRisk; `unRealizedProfit` is spelled so here alone."""
    contract = market[position.symbol]
    price = margin.liquidation_price(position, account, market)
    initial = zero_or8(margin.initial(position, account, market))
    return {
        "symbol": position.symbol,
        "positionSide": position.side,
        "positionAmt": plain(position.quantity),
        "entryPrice": plain(position.entry_price),
        "breakEvenPrice": plain(position.break_even.quantize(Decimal("1e-10"))),
        "markPrice": text8(contract.mark),
        "unRealizedProfit": text8(margin.unrealized(position, market)),
        "liquidationPrice": format(half_up8(price), "f") if price else "0",
        **isolated_fields(account, position, market),
        "notional": zero_or8(margin.notional(position, market)),
        "marginAsset": position.asset,
        "initialMargin": initial,
        "maintMargin": zero_or8(margin.maintenance(position, market)),
        "positionInitialMargin": initial,
        "openOrderInitialMargin": "0",
        "adl": account.adl.get(position.symbol, 1),
        "bidNotional": "0",
        "askNotional": "0",
        "updateTime": position.updated_ms,
    }


def position_risk_v2(account: Account, position: Position, market: Market) -> Row:
    """A row of /fapi/v2/positionRisk: adds leverage and margin type; the boolean is a string."""
    row = position_risk(account, position, market)
    for absent in ("marginAsset", "adl", "positionInitialMargin", "openOrderInitialMargin", "bidNotional"):
        del row[absent]
    return row | {
        "leverage": str(account.setting(position.symbol).leverage),
        "maxNotionalValue": plain(max_notional(account, market[position.symbol])),
        "marginType": "isolated" if account.isolated(position) else "cross",
        "isAutoAddMargin": "false",
    }


def max_notional(account: Account, contract: Contract) -> Decimal:
    """Largest notional that the chosen leverage allows."""
    leverage = account.setting(contract.symbol).leverage
    return max((b.cap for b in contract.brackets if b.leverage >= leverage), default=ZERO)


def symbol_config(account: Account, contract: Contract) -> Row:
    """A row of /fapi/v1/symbolConfig."""
    setting = account.setting(contract.symbol)
    return {
        "symbol": contract.symbol,
        "marginType": setting.margin_type,
        "isAutoAddMargin": False,
        "leverage": setting.leverage,
        "maxNotionalValue": plain(max_notional(account, contract)),
    }


def leverage_bracket(symbol: str, brackets: list[Bracket]) -> Row:
    """A row of /fapi/v1/leverageBracket; its numbers are bare."""
    return {
        "symbol": symbol,
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


def adl_quantiles(account: Account) -> list[Row]:
    """/fapi/v1/adlQuantile: symbols with a position; in hedge mode HEDGE is a mere marker on cross ones."""
    rows = []
    for symbol in dict.fromkeys(position.symbol for position in account.open_positions()):
        place = account.adl.get(symbol, 1)
        third = "HEDGE" if account.hedge and not account.setting(symbol).isolated else "BOTH"
        rows.append({"symbol": symbol, "adlQuantile": {"LONG": place, "SHORT": place, third: 0}})
    return rows


def premium_index(contract: Contract, now_ms: int) -> Row:
    """A row of /fapi/v1/premiumIndex."""
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


def exchange_symbol(contract: Contract) -> dict[str, Any]:
    """A symbol of /fapi/v1/exchangeInfo."""
    quote = contract.margin_asset
    return {
        "symbol": contract.symbol,
        "pair": contract.symbol,
        "contractType": contract.contract_type,
        "deliveryDate": contract.delivery_ms,
        "onboardDate": 1569398400000,
        "status": contract.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": contract.symbol.removesuffix(quote),
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


def exchange_info(market: Market, now_ms: int, weight_limit: int) -> dict[str, Any]:
    """/fapi/v1/exchangeInfo."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit}
    assets = [("USDT", "-10000"), ("USDC", "-10000"), ("BTC", "-0.10"), ("ETH", "-5"), ("BNB", None)]
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [limit],
        "exchangeFilters": [],
        "assets": [{"asset": name, "marginAvailable": True, "autoAssetExchange": edge} for name, edge in assets],
        "symbols": [exchange_symbol(contract) for contract in market.linear()],
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
