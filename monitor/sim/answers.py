"""Bodies of the USDⓈ-M answers about an account: field names and roundings as each endpoint has them."""

from collections.abc import Sequence
from decimal import Decimal

from monitor.sim import margin, multiassets
from monitor.sim.account import ALIAS, Account, Position, Resting, Row
from monitor.sim.decimals import ZERO, exact, half_up8, json_number, plain, text8, zero_or8
from monitor.sim.market import Bracket, Contract, Market, scaled

ALWAYS_LISTED = ("USDT", "USDC", "BNB", "BTC", "ETH")


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
    if account.multi_assets:
        available = multiassets.available(account, asset, market)
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
    """/fapi/v3/account. The totals are those of USDT alone; in multi-assets mode of everything, in USD."""
    amounts = {asset: asset_amounts(account, market, asset) for asset in listed_assets(account)}
    whole = multiassets.totals(account, market) if account.multi_assets else amounts["USDT"]
    return {
        "totalInitialMargin": text8(whole["initialMargin"]),
        "totalMaintMargin": text8(whole["maintMargin"]),
        "totalWalletBalance": text8(whole["walletBalance"]),
        "totalUnrealizedProfit": text8(whole["unrealizedProfit"]),
        "totalMarginBalance": text8(whole["marginBalance"]),
        "totalPositionInitialMargin": text8(whole["positionInitialMargin"]),
        "totalOpenOrderInitialMargin": text8(ZERO),
        "totalCrossWalletBalance": text8(whole["crossWalletBalance"]),
        "totalCrossUnPnl": text8(whole["crossUnPnl"]),
        "availableBalance": text8(whole["availableBalance"]),
        "maxWithdrawAmount": text8(whole["maxWithdrawAmount"]),
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
            for position in account.shown_positions()
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
            "breakEvenPrice": plain(margin.break_even(position, market)),
            "maxNotional": plain(max_notional(account, market[position.symbol])),
            "positionSide": position.side,
            "positionAmt": plain(position.quantity),
            "notional": zero_or8(margin.notional(position, market)),
            "isolatedWallet": zero_or8(position.isolated_wallet),
            "updateTime": position.updated_ms,
            "bidNotional": "0",
            "askNotional": "0",
        }
        for position in margin.every_position(account, market)
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
                "accountAlias": ALIAS,
                "asset": asset,
                "balance": text8(amounts["walletBalance"]),
                **{key: text8(amounts[key]) for key in shown},
                "marginAvailable": asset in market.asset_indexes and market.asset_indexes[asset].margin_available,
                "updateTime": updated(account, asset),
            }
        )
    return rows


@exact
def position_risk(account: Account, position: Position, market: Market) -> Row:
    """A row of /fapi/v3/positionRisk; `unRealizedProfit` is spelled so here alone."""
    contract = market[position.symbol]
    price = multiassets.liquidation_price(position, account, market)
    initial = zero_or8(margin.initial(position, account, market))
    return {
        "symbol": position.symbol,
        "positionSide": position.side,
        "positionAmt": plain(position.quantity),
        "entryPrice": plain(position.entry_price),
        "breakEvenPrice": plain(margin.break_even(position, market).quantize(Decimal("1e-10"))),
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
    leverage, own = account.setting(contract.symbol).leverage, account.coefs.get(contract.symbol)
    brackets = scaled(contract.brackets, own.coef) if own else contract.brackets
    return max((b.cap for b in brackets if b.leverage >= leverage), default=ZERO)


def printed_brackets(account: Account, symbol: str, brackets: Sequence[Bracket]) -> tuple[Sequence[Bracket], Row]:
    """Brackets as leverageBracket prints them to an account, and what stands beside them: its notionalCoef, if any."""
    own = account.coefs.get(symbol)
    if own is None:
        return brackets, {}
    return scaled(brackets, own.coef) if own.scaled else brackets, {"notionalCoef": json_number(own.coef)}


def open_order(order: Resting, contract: Contract) -> Row:
    """A row of openOrders of either market."""
    worth = {"pair": contract.pair, "cumBase": "0"} if contract.coin_margined else {"cumQuote": "0"}
    return {
        "avgPrice": "0.00000",
        "clientOrderId": order.client_id,
        **worth,
        "executedQty": "0",
        "orderId": order.order_id,
        "origQty": plain(order.quantity),
        "origType": "LIMIT",
        "price": plain(order.price),
        "reduceOnly": False,
        "side": "BUY" if order.buy else "SELL",
        "positionSide": order.position_side,
        "status": "NEW",
        "stopPrice": "0",
        "closePosition": False,
        "symbol": order.symbol,
        "time": order.placed_ms,
        "timeInForce": "GTC",
        "type": "LIMIT",
        "updateTime": order.placed_ms,
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
    }


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


def adl_quantiles(account: Account) -> list[Row]:
    """/fapi/v1/adlQuantile: symbols with a position; in hedge mode HEDGE is a mere marker on cross ones."""
    rows = []
    for symbol in dict.fromkeys(position.symbol for position in account.open_positions()):
        place = account.adl.get(symbol, 1)
        third = "HEDGE" if account.hedge and not account.setting(symbol).isolated else "BOTH"
        rows.append({"symbol": symbol, "adlQuantile": {"LONG": place, "SHORT": place, third: 0}})
    return rows
