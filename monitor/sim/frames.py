"""Event frames as they look on the wire. Nothing here changes anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from monitor.sim.account import Account, Position
from monitor.sim.assetindex import AssetIndex
from monitor.sim.decimals import exact, json_number, plain, text6, text8, zero_or8
from monitor.sim.margin import Pool, break_even, maintenance, unrealized
from monitor.sim.market import Contract, Market

Frame = dict[str, Any]

_CHUNK = 400
"""So many marks are in one message of the all-market arrays."""
WITH_ALIAS = ("ACCOUNT_UPDATE", "ORDER_TRADE_UPDATE", "MARGIN_CALL")  # of COIN-M, in `i`


def mark_price(contract: Contract, now_ms: int) -> Frame:
    """markPriceUpdate. A delivery contract has an empty rate and no funding time; COIN-M has no moving average."""
    average = {} if contract.coin_margined else {"ap": text8(contract.mark)}
    return {
        "e": "markPriceUpdate",
        "E": now_ms,
        "s": contract.symbol,
        "p": text8(contract.mark),
        **average,
        "P": text8(contract.index_price),
        "i": text8(contract.index_price),
        "r": text8(contract.funding_rate) if contract.perpetual else "",
        "T": contract.next_funding_ms if contract.perpetual else 0,
        "st": 2 if contract.coin_margined else 1,
    }


def asset_index(index: AssetIndex, now_ms: int) -> Frame:
    """assetIndexUpdate: q, g, Q and G are of auto-exchange what b, a, B and A are of the margin."""
    return {
        "e": "assetIndexUpdate",
        "E": now_ms,
        "s": index.symbol,
        "i": text8(index.index),
        "b": text8(index.bid_buffer),
        "a": text8(index.ask_buffer),
        "B": text8(index.bid),
        "A": text8(index.ask),
        "q": text8(index.auto_bid_buffer),
        "g": text8(index.auto_ask_buffer),
        "Q": text8(index.auto_bid),
        "G": text8(index.auto_ask),
    }


def contract_info(contract: Contract, now_ms: int, brackets_changed: bool) -> Frame:
    """contractInfo; `bks` only where the brackets are what changed."""
    frame: Frame = {
        "e": "contractInfo",
        "E": now_ms,
        "s": contract.symbol,
        "ps": contract.pair,
        "ct": contract.contract_type,
        "dt": contract.delivery_ms,
        "ot": 1569398400000,
        "cs": contract.status,
        "st": 2 if contract.coin_margined else 1,
    }
    if brackets_changed:
        leverages = [bracket.leverage for bracket in contract.brackets[1:]] + [0]
        frame["bks"] = [
            {
                "bs": place,
                "bnf": json_number(bracket.floor),
                "bnc": json_number(bracket.cap),
                "mmr": json_number(bracket.rate),
                "cf": json_number(bracket.amount),
                "mi": below + 1,
                "ma": bracket.leverage,
            }
            for place, (bracket, below) in enumerate(zip(contract.brackets, leverages, strict=True), 1)
        ]
    return frame


def balance_row(account: Account, asset: str, change: Decimal) -> Frame:
    """A `B` row. change: what came or went apart from PnL and commission."""
    return {
        "a": asset,
        "wb": text8(account.wallet(asset)),
        "cw": text8(account.balance(asset).cross),
        "bc": zero_or8(change),
    }


@exact
def position_row(account: Account, position: Position, market: Market) -> Frame:
    """A `P` row; margin types are lower case here and nowhere else. COIN-M does not name the margin asset."""
    isolated = account.isolated(position)
    asset = {} if market[position.symbol].coin_margined else {"ma": position.asset}
    return {
        "s": position.symbol,
        "pa": plain(position.quantity),
        "ep": plain(position.entry_price),
        "bep": plain(break_even(position, market).quantize(Decimal("1e-10"))),
        "cr": text8(position.realized),
        "up": zero_or8(unrealized(position, market)),
        "mt": "isolated" if isolated else "cross",
        "iw": zero_or8(position.isolated_wallet),
        "ps": position.side,
        **asset,
    }


def account_update(
    now_ms: int, reason: str, balances: Sequence[Frame], positions: Sequence[Frame] | None, symbol: str | None = None
) -> Frame:
    """ACCOUNT_UPDATE. positions: None leaves `P` out. symbol: `S`, on funding alone."""
    body: Frame = {"B": list(balances)}
    if positions is not None:
        body["P"] = list(positions)
    body["m"] = reason
    if symbol is not None:
        body["S"] = symbol
    return {"e": "ACCOUNT_UPDATE", "T": now_ms, "E": now_ms, "a": body}


@dataclass(frozen=True)
class Order:
    """What stays the same in all events of one order. price: of a MARKET order never shown."""

    symbol: str
    client_id: str
    order_id: int
    buy: bool
    quantity: Decimal
    price: Decimal
    position_side: str
    asset: str
    kind: str = "MARKET"
    time_in_force: str = "GTC"
    reduce_only: bool = False

    @property
    def side(self) -> str:
        """BUY or SELL."""
        return "BUY" if self.buy else "SELL"

    @property
    def shown_price(self) -> str:
        """The limit; "0" where there is none."""
        return "0" if self.kind == "MARKET" else plain(self.price)


@dataclass(frozen=True)
class Execution:
    """One fill of an order. filled, average: of the order so far, this fill included."""

    trade_id: int
    quantity: Decimal
    price: Decimal
    filled: Decimal
    average: Decimal
    commission: Decimal
    realized: Decimal
    kind: str = "TRADE"


def order_update(now_ms: int, order: Order, execution: Execution | None) -> Frame:
    """ORDER_TRADE_UPDATE: the order is new (no execution yet), or filled in part or wholly."""
    status = "NEW"
    if execution is not None:
        status = "FILLED" if execution.filled == order.quantity else "PARTIALLY_FILLED"
    return {
        "e": "ORDER_TRADE_UPDATE",
        "T": now_ms,
        "E": now_ms,
        "o": {
            "s": order.symbol,
            "c": order.client_id,
            "S": order.side,
            "o": order.kind,
            "f": order.time_in_force,
            "q": plain(order.quantity),
            "p": order.shown_price,
            "ap": plain(execution.average) if execution else "0",
            "sp": "0",
            "x": execution.kind if execution else "NEW",
            "X": status,
            "i": order.order_id,
            "l": plain(execution.quantity) if execution else "0",
            "z": plain(execution.filled) if execution else "0",
            "L": plain(execution.price) if execution else "0",
            "n": zero_or8(execution.commission) if execution else "0",
            "N": order.asset,
            "T": now_ms,
            "t": execution.trade_id if execution else 0,
            "b": "0",
            "a": "0",
            "m": False,
            "R": order.reduce_only,
            "wt": "CONTRACT_PRICE",
            "ot": order.kind,
            "ps": order.position_side,
            "cp": False,
            "rp": zero_or8(execution.realized) if execution else "0",
            "pP": False,
            "si": 0,
            "ss": 0,
            "V": "EXPIRE_MAKER",
            "pm": "NONE",
            "gtd": 0,
            "er": "0",
        },
    }


def order_ended(now_ms: int, order: Order, last: Execution | None, kind: str, reason: str) -> Frame:
    """ORDER_TRADE_UPDATE of an order that leaves the book with something unfilled.

    last: Its last fill, if it had any. kind: CANCELED or EXPIRED. reason: `er`.
    """
    frame = order_update(now_ms, order, last)
    frame["o"] |= {"x": kind, "X": kind, "l": "0", "L": "0", "n": "0", "t": 0, "rp": "0", "er": reason}
    return frame


def trade_lite(now_ms: int, order: Order, execution: Execution) -> Frame:
    """TRADE_LITE: the fill, flat and early."""
    return {
        "e": "TRADE_LITE",
        "E": now_ms,
        "T": now_ms,
        "s": order.symbol,
        "q": plain(order.quantity),
        "p": order.shown_price,
        "m": False,
        "c": order.client_id,
        "S": order.side,
        "L": plain(execution.price),
        "l": plain(execution.quantity),
        "t": execution.trade_id,
        "i": order.order_id,
    }


def margin_call(now_ms: int, account: Account, pool: Pool, market: Market) -> Frame:
    """MARGIN_CALL: `cw` for a cross pool only; margin types in upper case; PnL and margin with 6 decimals."""
    cross = {} if pool.isolated else {"cw": text8(pool.collateral)}
    rows = [
        {
            "s": position.symbol,
            "ps": position.side,
            "pa": plain(position.quantity),
            "mt": "ISOLATED" if pool.isolated else "CROSSED",
            "iw": zero_or8(position.isolated_wallet),
            "mp": plain(market[position.symbol].mark),
            "up": text6(unrealized(position, market)),
            "mm": text6(maintenance(position, market)),
        }
        for position in pool.positions
    ]
    return {"e": "MARGIN_CALL", "E": now_ms, **cross, "p": rows}


def leverage_changed(now_ms: int, symbol: str, leverage: int) -> Frame:
    """ACCOUNT_CONFIG_UPDATE of a symbol's leverage."""
    return {"e": "ACCOUNT_CONFIG_UPDATE", "T": now_ms, "E": now_ms, "ac": {"s": symbol, "l": leverage}}


def multi_assets_changed(now_ms: int, on: bool) -> Frame:
    """ACCOUNT_CONFIG_UPDATE of multi-assets mode."""
    return {"e": "ACCOUNT_CONFIG_UPDATE", "T": now_ms, "E": now_ms, "ai": {"j": on}}


def listen_key_expired(now_ms: int, key: str, as_text: bool) -> Frame:
    """listenKeyExpired; its `E` has been seen both as a number and as a string."""
    return {"e": "listenKeyExpired", "E": str(now_ms) if as_text else now_ms, "listenKey": key}


def mark_arrays(contracts: Iterable[Contract], now_ms: int) -> list[list[Frame]]:
    """The all-market messages of one tick: both venues mixed, in pieces, and TradFi in a message of its own."""
    crypto: list[Frame] = []
    tradfi: list[Frame] = []
    for contract in contracts:
        (tradfi if contract.tradfi else crypto).append(mark_price(contract, now_ms))
    pieces = [crypto[start : start + _CHUNK] for start in range(0, len(crypto), _CHUNK)]
    return [piece for piece in (*pieces, tradfi) if piece]
