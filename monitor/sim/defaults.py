"""The scenarios that need no file."""

from decimal import Decimal
from typing import Any

from monitor.sim.account import Account, Balance, Position, Settings
from monitor.sim.assetindex import AssetIndex
from monitor.sim.forced import LiquidationRules
from monitor.sim.market import (
    PERPETUAL_DELIVERY_MS,
    UNCAPPED,
    Bracket,
    Contract,
    asset_of,
    ladder,
    market_of,
    pair_of,
    size_of,
)

MILLION = 1_000_000

BRACKETS: dict[str, list[tuple[int, int, str]]] = {  # highest leverage, cap, maintenance rate
    "BTCUSDT": [
        (150, 300_000, "0.004"),
        (100, 800_000, "0.005"),
        (75, 3 * MILLION, "0.0065"),
        (50, 12 * MILLION, "0.01"),
        (25, 70 * MILLION, "0.02"),
        (20, 100 * MILLION, "0.025"),
        (10, 230 * MILLION, "0.05"),
        (5, 480 * MILLION, "0.1"),
        (4, 600 * MILLION, "0.125"),
        (3, 800 * MILLION, "0.15"),
        (2, 1_200 * MILLION, "0.25"),
        (1, 1_800 * MILLION, "0.5"),
    ],
    "ETHUSDT": [
        (150, 300_000, "0.004"),
        (100, 800_000, "0.005"),
        (75, 3 * MILLION, "0.0065"),
        (50, 12 * MILLION, "0.01"),
        (25, 50 * MILLION, "0.02"),
        (20, 65 * MILLION, "0.025"),
        (10, 150 * MILLION, "0.05"),
        (5, 320 * MILLION, "0.1"),
        (4, 400 * MILLION, "0.125"),
        (3, 530 * MILLION, "0.15"),
        (2, 800 * MILLION, "0.25"),
        (1, 1_200 * MILLION, "0.5"),
    ],
    "SOLUSDT": [
        (100, 50_000, "0.005"),
        (75, 400_000, "0.0065"),
        (50, 1 * MILLION, "0.01"),
        (25, 4 * MILLION, "0.02"),
        (20, 8 * MILLION, "0.025"),
        (10, 40 * MILLION, "0.05"),
        (5, 80 * MILLION, "0.1"),
        (4, 100 * MILLION, "0.125"),
        (2, 200 * MILLION, "0.25"),
        (1, 400 * MILLION, "0.5"),
    ],
    "BTCUSDC": [
        (125, 50_000, "0.004"),
        (100, 500_000, "0.005"),
        (50, 10 * MILLION, "0.01"),
        (20, 80 * MILLION, "0.025"),
        (10, 150 * MILLION, "0.05"),
        (5, 300 * MILLION, "0.1"),
        (4, 450 * MILLION, "0.125"),
        (3, 600 * MILLION, "0.15"),
        (2, 800 * MILLION, "0.25"),
        (1, 1_000 * MILLION, "0.5"),
    ],
    "ADAUSDT": [
        (75, 10_000, "0.005"),
        (50, 50_000, "0.01"),
        (40, 200_000, "0.015"),
        (25, 1 * MILLION, "0.02"),
        (20, 2 * MILLION, "0.025"),
        (10, 10 * MILLION, "0.05"),
        (5, 20 * MILLION, "0.1"),
        (4, 25 * MILLION, "0.125"),
        (2, 50 * MILLION, "0.25"),
        (1, 100 * MILLION, "0.5"),
    ],
    "DOGEUSDT": [
        (75, 80_000, "0.0065"),
        (50, 150_000, "0.01"),
        (40, 750_000, "0.0125"),
        (25, 2 * MILLION, "0.02"),
        (20, 4 * MILLION, "0.025"),
        (10, 20 * MILLION, "0.05"),
        (5, 40 * MILLION, "0.1"),
        (4, 50 * MILLION, "0.125"),
        (2, 100 * MILLION, "0.25"),
        (1, 200 * MILLION, "0.5"),
    ],
}
COIN_BRACKETS: dict[str, list[tuple[int, int, str]]] = {  # the same by pair; caps in coin
    "BTCUSD": [
        (125, 5, "0.004"),
        (100, 10, "0.005"),
        (50, 20, "0.01"),
        (20, 50, "0.025"),
        (10, 100, "0.05"),
        (5, 200, "0.1"),
        (4, 400, "0.125"),
        (3, 1_000, "0.15"),
        (2, 1_500, "0.25"),
        (1, int(UNCAPPED), "0.5"),
    ],
}
PLAIN_COIN_LADDER: list[tuple[int, int, str]] = [(50, 250, "0.01"), (20, 2_500, "0.025"), (1, int(UNCAPPED), "0.5")]
PLAIN_LADDER: list[tuple[int, int, str]] = [(20, 50_000, "0.01"), (10, 500_000, "0.05"), (1, 50 * MILLION, "0.5")]
MARKS = {
    "BTCUSDT": "60000",
    "ETHUSDT": "2950",
    "SOLUSDT": "151",
    "BTCUSDC": "60010",
    "ADAUSDT": "0.41",
    "DOGEUSDT": "0.12",
}
ASSETS = [  # index, buffer of bid and ask, the same of auto-exchange, auto-exchange threshold
    ("USDT", "1", "0.0001", "0.0001", "-10000"),
    ("USDC", "1", "0.0001", "0.0001", "-10000"),
    ("BTC", "60000", "0.05", "0.025", "-0.10"),
    ("ETH", "2950", "0.05", "0.025", "-5"),
    ("BNB", "600", "0.1", "0.05", None),
]
CURRENT_DELIVERY_MS = 1_798_185_600_000
NEXT_DELIVERY_MS = 1_893_456_000_000


def brackets_of(symbol: str) -> list[Bracket]:
    """The table known for a symbol; a short plain one for any other."""
    if market_of(symbol) == "coinm":
        return ladder(COIN_BRACKETS.get(pair_of(symbol), PLAIN_COIN_LADDER))
    return ladder(BRACKETS.get(symbol, PLAIN_LADDER))


def contract(symbol: str, mark: str, contract_type: str = "PERPETUAL", delivery_ms: int | None = None) -> Contract:
    """A contract whose market, margin asset, size and brackets follow from its name."""
    return Contract(
        symbol,
        Decimal(mark),
        asset_of(symbol),
        brackets_of(symbol),
        contract_type=contract_type,
        delivery_ms=PERPETUAL_DELIVERY_MS if delivery_ms is None else delivery_ms,
        coin_margined=market_of(symbol) == "coinm",
        contract_size=size_of(symbol),
    )


def contracts() -> list[Contract]:
    """Six USDⓈ-M perpetuals, a TradFi one, and four COIN-M contracts; the all-market streams mix them."""
    linear = [
        Contract(symbol, Decimal(mark), symbol[-4:], brackets_of(symbol), index=Decimal(mark) * Decimal("0.9999"))
        for symbol, mark in MARKS.items()
    ]
    tesla = Contract("TSLAUSDT", Decimal("420.5"), "USDT", brackets_of(""), contract_type="TRADIFI_PERPETUAL")
    inverse = [
        contract("BTCUSD_PERP", "60020"),
        contract("ETHUSD_PERP", "2951"),
        contract("BTCUSD_261225", "60400", "CURRENT_QUARTER", CURRENT_DELIVERY_MS),
        contract("BTCUSD_300101", "61500", "NEXT_QUARTER", NEXT_DELIVERY_MS),
    ]
    return [*linear, tesla, *inverse]


def asset_indexes() -> list[AssetIndex]:
    """Collateral assets: dollars that lose next to nothing, coins with a haircut."""
    return [
        AssetIndex(
            asset,
            Decimal(index),
            *(Decimal(buffer), Decimal(buffer), Decimal(auto), Decimal(auto)),
            auto_exchange=None if threshold is None else Decimal(threshold),
        )
        for asset, index, buffer, auto, threshold in ASSETS
    ]


def position(symbol: str, quantity: str, entry: str, wallet: str = "0", side: str = "BOTH") -> Position:
    """A position, in the margin asset that its name tells of; COIN-M: contracts."""
    return Position(symbol, side, asset_of(symbol), Decimal(quantity), Decimal(entry), Decimal(wallet))


def account(
    name: str,
    balances: dict[str, str],
    positions: list[Position],
    *,
    isolated: tuple[str, ...] = (),
    leverage: int = 10,
    hedge: bool = False,
    market: str = "usdm",
    multi_assets: bool = False,
) -> Account:
    """An account whose key and secret follow from its name. balances: cross wallets."""
    symbols = {held.symbol for held in positions} | set(isolated)
    return Account(
        name,
        api_key=f"{name}-key",
        secret=f"{name}-secret",
        hedge=hedge,
        market=market,
        multi_assets=multi_assets,
        balances={asset: Balance(Decimal(amount)) for asset, amount in balances.items()},
        settings={s: Settings("ISOLATED" if s in isolated else "CROSSED", leverage) for s in sorted(symbols)},
        positions={(held.symbol, held.side): held for held in positions},
    )


def main_account() -> Account:
    """Cross BTCUSDT long and ETHUSDT short, isolated SOLUSDT long."""
    held = [
        position("BTCUSDT", "0.500", "59000"),
        position("ETHUSDT", "-4.000", "3000"),
        position("SOLUSDT", "50", "150", "750"),
    ]
    return account("main", {"USDT": "10000"}, held, isolated=("SOLUSDT",))


def hedge_account() -> Account:
    """Hedge mode, two margin assets: a nearly hedged cross pair, an isolated leg, a USDC position."""
    held = [
        position("BTCUSDT", "1.000", "60000", side="LONG"),
        position("BTCUSDT", "-0.950", "60000", side="SHORT"),
        position("ETHUSDT", "-2.000", "3000", "600", side="SHORT"),
        position("BTCUSDC", "0.100", "58000", side="LONG"),
    ]
    return account("hedge", {"USDT": "2000", "USDC": "1500"}, held, isolated=("ETHUSDT",), hedge=True)


def europe_account() -> Account:
    """A European account: its USDT contracts are margined in BNFCR."""
    held = position("ADAUSDT", "3000", "0.40")
    held.asset = "BNFCR"
    europe = account("europe", {"BNFCR": "300"}, [held])
    europe.margin_assets = {"USDT": "BNFCR"}
    return europe


def multi_account() -> Account:
    """Multi-assets mode: bitcoin behind borrowed USDT, and a nearly hedged book in two margin assets.

    Its ratio is 0.43, and 0.81 with the bitcoin index at 50400; the debt is just inside its auto-exchange threshold.
    """
    held = [
        position("BTCUSDT", "3.000", "60000"),
        position("BTCUSDC", "-3.000", "60010"),
        position("ETHUSDT", "-10.000", "2950"),
    ]
    funds = {"USDT": "-9000", "USDC": "1500", "BTC": "0.2"}
    return account("multi", funds, held, leverage=100, multi_assets=True)


def large_account() -> Account:
    """Hedge mode: a long in a high bracket, liquidated in part; and a hedged pair in a pool of its own.

    BTCUSDT LONG is at ratio 0.13 with the mark at 60000, at 0.8 near 54180 and at 1 at 54000. Reduced there to
    the bracket below it keeps 222 of 400 BTC at a ratio near 0.6. From then on it is bankrupt below 53200.
    """
    held = [
        position("BTCUSDT", "400.000", "58000", side="LONG"),
        position("BTCUSDC", "5.000", "58000", side="LONG"),
        position("BTCUSDC", "-5.000", "60000", side="SHORT"),
    ]
    large = account("main", {"USDT": "1900000", "USDC": "50000"}, held, leverage=20, hedge=True)
    large.liquidation = LiquidationRules(mode="partial", fills=2)
    return large


LIQUIDATION_SCRIPT: list[dict[str, Any]] = [
    {"at_s": 10, "command": "move", "symbol": "BTCUSDT", "price": "53990", "over_s": 20},
    {"at_s": 10, "command": "move", "symbol": "BTCUSDC", "price": "54000", "over_s": 20},
    {"at_s": 35, "command": "move", "symbol": "BTCUSDT", "price": "56000", "over_s": 10},
    {"at_s": 60, "command": "set_marks", "marks": {"BTCUSDT": "53000", "BTCUSDC": "53010"}},
    {"at_s": 70, "command": "adl", "account": "main", "symbol": "BTCUSDC", "side": "SHORT"},
]


def coin_account() -> Account:
    """COIN-M: cross BTCUSD_PERP long and BTCUSD_261225 short in one pool of BTC, isolated ETHUSD_PERP short."""
    held = [
        position("BTCUSD_PERP", "300", "58000"),
        position("BTCUSD_261225", "-100", "60500"),
        position("ETHUSD_PERP", "-500", "3000", "0.2"),
    ]
    return account("coin", {"BTC": "0.1", "ETH": "1"}, held, isolated=("ETHUSD_PERP",), market="coinm")
