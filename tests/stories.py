"""A small account whose figures can be worked by hand, for tests of the whole daemon.

cross     12000 USDT, 1 BTCUSDT bought at 60000; rate 0.004 below 300000
          liquidated at 48000 / 0.996 = 48192.77108434; ratio 0.5 at 48387.1, 0.8 at 48241.2, 0.9 at 48214.3
          10 % away at 53547.5, 5 % at 50729.2, 2 % at 49176.3
isolated  3000 USDT, 100 SOLUSDT bought at 150; rate 0.005 below 50000
          liquidated at 12000 / 99.5 = 120.60301508; 10 % away at 134.003, 5 % at 126.951, 2 % at 123.064
"""

from __future__ import annotations

from typing import Any

from monitor.sim import Exchange, Scenario

BTC_PRICE = "48192.77108434"
SOL_PRICE = "120.60301508"


def account(name: str = "main", **keys: Any) -> dict[str, Any]:
    return {
        "name": name,
        "balances": {"USDT": "12000"},
        "settings": {"SOLUSDT": {"margin_type": "ISOLATED", "leverage": 5}},
        "position": [
            {"symbol": "BTCUSDT", "quantity": "1", "entry_price": "60000"},
            {"symbol": "SOLUSDT", "quantity": "100", "entry_price": "150", "isolated_wallet": "3000"},
        ],
        **keys,
    }


def exchange(*accounts: dict[str, Any], tick_s: float | None = 0.1, **scenario: Any) -> Exchange:
    """An exchange with these accounts, or with the one above; marks stand at 60000, 2950 and 151 until moved."""
    found = Exchange(Scenario.from_dict({"account": list(accounts) or [account()], **scenario}), tick_s=tick_s)
    found.rest.weights.limit = 1_000_000  # tests ask more often than anybody should
    return found


def large(mark: str = "100000") -> Exchange:
    """2.5 BTC at 92000 on 5182.40 USDT: a ratio of 4 % at 100000, 81.2 % at 90372.10, 0.09 % from liquidation."""
    held = {"symbol": "BTCUSDT", "quantity": "2.5", "entry_price": "92000"}
    found = exchange({"name": "main", "balances": {"USDT": "5182.40"}, "position": [held]})
    found.set_mark("BTCUSDT", mark)
    return found
