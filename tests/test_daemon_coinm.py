"""The daemon on COIN-M: inverse contracts over the real protocol, from marks to messages."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from monitor.sim import Exchange, Scenario
from tests.rig import Listener, Mosquitto, until, watching, write_config

D = Decimal


async def test_a_coin_account_is_watched_in_its_coins(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """A perpetual and a quarterly share the BTC wallet; the isolated ether is a pool of its own."""
    async with (
        Exchange(Scenario.named("coinm"), tick_s=0.1) as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, ["coin"])),
    ):
        pool = await listener.state("marginwatch/coin/pool/cross-btc", freshness="live")
        perpetual = await listener.state("marginwatch/coin/position/btcusd5fperp", freshness="live")
        quarterly = await listener.state("marginwatch/coin/position/btcusd5f261225", freshness="live")
        ether = await listener.state("marginwatch/coin/position/ethusd5fperp", freshness="live")

    assert (pool["asset"], pool["venue"]) == ("BTC", "binance-coinm")
    assert (perpetual["quantity"], perpetual["quantity_unit"], perpetual["asset"]) == ("300", "contract", "BTC")
    mark = D(perpetual["mark_price"])
    assert abs(D(perpetual["notional"]) - 300 * 100 / mark) < D("0.00000001")
    own = {key: value for key, value in quarterly["funding"].items() if key != "liquidation_price_after"}
    assert own == {"rate": None, "next_at": None, "interval_hours": None, "payment": None}
    assert quarterly["funding"]["liquidation_price_after"] is not None  # the perpetual's payment moves it too
    assert (ether["pool"], ether["asset"]) == ("isolated-ethusd5fperp", "ETH")
    for position in (perpetual, ether):
        theirs, ours = position["exchange_liquidation_price"], position["liquidation_price"]
        # The exchange cuts an inverse price where it rounds a linear one; a digit of the last place may differ.
        assert (theirs is None) == (ours is None)
        assert theirs is None or abs(D(theirs) - D(ours)) <= D("0.00000001")


async def test_a_falling_coin_opens_and_its_funding_is_told(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Long an inverse contract one loses twice: on the price, and on the coin that secures it."""
    async with (
        Exchange(Scenario.named("coinm"), tick_s=0.1) as exchange,
        watching(write_config(tmp_path / "d", exchange, broker.port, ["coin"])),
    ):
        before = await listener.state("marginwatch/coin/position/btcusd5fperp", freshness="live")
        exchange.fund("BTCUSD_PERP", "0.001")
        moved = await listener.event("liquidation_price_moved", "noted")
        price = D(before["liquidation_price"])
        exchange.set_mark("BTCUSD_PERP", str(round(price * D("1.03"), 1)))
        near = await listener.event("liquidation_distance", "opened", subject="cross-btc")
        exchange.set_mark("BTCUSD_PERP", str(round(price * D("0.99"), 1)))
        gone = await listener.event("forced_order", "opened", subject="btcusd5fperp")
        await until(lambda: not listener.now.get("marginwatch/coin/pool/cross-btc"), "the pool is gone")

    [cause] = moved["cause"]
    paid = -D("0.001") * 300 * 100 / D(before["mark_price"])
    assert (cause["kind"], cause["asset"]) == ("funding_fee", "BTC")
    assert abs(D(cause["amount"]) - paid) <= D("0.00000001")
    assert near["symbol"] == "BTCUSD_PERP"
    assert gone["severity"] == "liquidation"
