"""A simulated exchange: Binance futures, USDⓈ-M and COIN-M, on the loopback interface.

It is the other side of the wire, for the demo, the tests and development. It speaks real HTTP
and websockets, keeps its own ledger and does its own arithmetic; nothing in here imports
anything else of `monitor`.

    __main__ → control, exchange → rest, streams → enforcement → desk → engine → liquidation → trading → margin
                                                                              → account, market, forced
                                                            engine → collateral → multiassets → margin, assetindex
                                   rest → rest_usdm, rest_coinm → endpoints, answers, coinm, listings

`exchange.Exchange` is what a program uses; `python -m monitor.sim --help` is what a person uses.
"""

from monitor.sim.desk import Rejected
from monitor.sim.exchange import Exchange
from monitor.sim.faults import Faults
from monitor.sim.market import Clock
from monitor.sim.scenario import Scenario

__all__ = ["Clock", "Exchange", "Faults", "Rejected", "Scenario"]
