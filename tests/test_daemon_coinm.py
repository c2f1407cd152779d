"""The daemon on COIN-M: inverse contracts over the real protocol, from marks to messages."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.sim import Exchange, Scenario
from tests import stories
from tests.rig import Listener, Mosquitto, eventually, until, watching, write_config
from tests.sim.wire import client

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


HEDGED: dict[str, Any] = {
    "name": "coin",
    "market": "coinm",
    "hedge": True,
    "balances": {"BTC": "0.1", "ETH": "3"},
    "settings": {"ETHUSD_PERP": {"margin_type": "ISOLATED"}},
    "position": [
        {"symbol": "BTCUSD_PERP", "side": "LONG", "quantity": "20", "entry_price": "60000"},
        {"symbol": "BTCUSD_PERP", "side": "SHORT", "quantity": "-5", "entry_price": "60100"},
        {"symbol": "BTCUSD_261225", "side": "LONG", "quantity": "10", "entry_price": "60000"},
        {"symbol": "ETHUSD_PERP", "side": "SHORT", "quantity": "-50", "entry_price": "2951", "isolated_wallet": "0.03"},
    ],
}


async def agrees(exchange: Exchange, listener: Listener) -> bool:
    """Whether what is published is what the exchange prints, to the last digit but one."""
    async with client(exchange, "coin") as binance:
        rows = [row for row in await binance.futures_coin_position_information() if D(row["positionAmt"])]
    printed = {}
    for row in rows:
        slug = f"{row['symbol'].lower().replace('_', '5f')}-{row['positionSide'].lower()}"
        price = None if row["liquidationPrice"] == "0" else D(row["liquidationPrice"])
        printed[slug] = (D(row["positionAmt"]), D(row["unRealizedProfit"]), price)
    if listener.under("coin", "position") != printed.keys():
        return False
    for slug, (quantity, pnl, price) in printed.items():
        ours = listener.retained(f"marginwatch/coin/position/{slug}")
        found = ours["liquidation_price"]
        if (
            ours["unrealized_pnl"] is None
            or D(ours["quantity"]) != quantity
            or abs(D(ours["unrealized_pnl"]) - pnl) > D("0.00000001")
        ):
            return False
        if (found is None) != (price is None) or (price and abs(D(found) - price) > D("0.00000001")):
            return False
    return True


async def test_a_hedged_account_on_a_routed_host_is_read_by_the_documented_fields_alone(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Rows of every side and symbol with each push, no wallet of an isolated position, a typo for the floor, funding
    without its symbol, a time in quotes; and a host that wants its routes after all, which a config can say."""
    exchange = stories.exchange(HEDGED)
    exchange.fault(
        all_positions=True,
        coinm_extra_fields=False,
        bracket_floor_key="qtylFloor",
        dstream_routed=True,
        funding_positions="empty",
        funding_symbol=False,
        listen_key_text_time=True,
        account_update_first=True,
    )
    async with exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, ["coin"], rules={"drift": {"for_s": 0.5}})
        text = config.read_text("utf-8")
        for route in ("market", "private"):
            text = text.replace(
                f'{route}_url = "{exchange.ws_url}/dstream"', f'{route}_url = "{exchange.ws_url}/dstream/{route}"'
            )
        config.write_text(text, "utf-8")
        async with watching(config):
            await eventually(lambda: agrees(exchange, listener), "the account is as the exchange has it")
            exchange.fill("coin", "ETHUSD_PERP", "SELL", "10", position_side="SHORT")
            exchange.fund("BTCUSD_PERP")
            exchange.transfer("coin", "BTC", "-0.01")
            await eventually(lambda: agrees(exchange, listener), "so it is after a fill, funding and a transfer")
            exchange.expire_listen_key("coin")
            exchange.fill("coin", "BTCUSD_PERP", "SELL", "20", position_side="LONG")
            await eventually(lambda: agrees(exchange, listener), "so it is with another key, and a leg less")

    told = [cause["kind"] for e in listener.events("liquidation_price_moved") for cause in e["cause"]]
    assert {"funding_fee", "transfer"} <= set(told)
    assert not listener.events("drift")


async def test_both_readings_of_a_coefficient_give_the_exchanges_price(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """Whether printed brackets have it in them is not documented; the account answer says which margin is meant."""
    like = {
        "market": "coinm",
        "balances": {"BTC": "3"},
        "position": [{"symbol": "BTCUSD_PERP", "quantity": "4000", "entry_price": "60000"}],
    }
    names = ("plain", "printed")
    accounts = [{**like, "name": n, "coefs": {"BTCUSD_PERP": {"coef": "1.5", "scaled": n == "printed"}}} for n in names]
    exchange = stories.exchange(*accounts)
    async with exchange:
        config = write_config(tmp_path / "d", exchange, broker.port, names, rules={"drift": {"for_s": 0.5}})
        async with watching(config):
            for name in names:  # 400000 / 60020 at rate 0.004, which without the coefficient ends at 5
                await listener.state(f"marginwatch/{name}/position/btcusd5fperp", maintenance_margin="0.02665778")
            asked = exchange.counters["GET /dapi/v1/positionRisk"]
            await until(lambda: exchange.counters["GET /dapi/v1/positionRisk"] > asked + 8, "it is compared again")

    assert not listener.events("drift")
    assert not listener.events("bracket_changed")
