"""An engine without sockets that keeps what it would push."""

from typing import Any

from monitor.sim import Scenario
from monitor.sim.account import Account
from monitor.sim.decimals import Numeric
from monitor.sim.enforcement import Enforcement
from monitor.sim.frames import Frame


class Told(Enforcement):
    def __init__(self, scenario: Scenario | str = "calm", **marks: Numeric) -> None:
        super().__init__(Scenario.named(scenario) if isinstance(scenario, str) else scenario)
        self.told: list[Frame] = []
        self.contracts_told: list[Frame] = []
        self.set_marks(marks)

    def push(self, account: Account, frame: Frame) -> None:
        self.told.append(frame)

    def push_contract(self, frame: Frame) -> None:
        self.contracts_told.append(frame)

    def orders(self) -> list[Any]:
        """Bodies of the order updates so far."""
        return [frame["o"] for frame in self.told if frame["e"] == "ORDER_TRADE_UPDATE"]

    def updates(self) -> list[Any]:
        """Bodies of the account updates so far."""
        return [frame["a"] for frame in self.told if frame["e"] == "ACCOUNT_UPDATE"]
