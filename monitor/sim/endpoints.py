"""REST endpoints: what they weigh and ask for, and those that both markets have under their own path."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from monitor.sim import answers, listings
from monitor.sim.account import Account, Row
from monitor.sim.engine import Engine
from monitor.sim.listenkeys import ListenKeys
from monitor.sim.market import Contract

DAY_MS = 86_400_000

Params = dict[str, str]
Answer = Callable[[Account | None, Params], object]


class Printed(str):
    """An answer that is JSON already."""


def printed(answer: object) -> Printed:
    """An answer as REST prints it: JSON without spaces."""
    return Printed(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))


class ApiError(Exception):
    """An error body, with its HTTP status."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Endpoint:
    """A path's answer. weight_all: without a symbol. security: "none", "key" or "signed"."""

    answer: Answer
    weight: int
    security: str = "signed"
    weight_all: int | None = None


Table = dict[tuple[str, str], Endpoint]


class Endpoints:
    """The endpoints of one market, "usdm" or "coinm", under its prefix, "/fapi" or "/dapi"."""

    market = ""
    prefix = ""
    income_weight = 0

    def __init__(self, engine: Engine, keys: ListenKeys, weight_limit: Callable[[], int]) -> None:
        self._engine = engine
        self._keys = keys
        self._weight_limit = weight_limit

    def table(self) -> Table:
        """Every path of the market, by method."""
        e = self._engine
        rows: dict[tuple[str, str], Endpoint] = {
            ("GET", "/v1/ping"): Endpoint(lambda a, p: {}, 1, "none"),
            ("GET", "/v1/time"): Endpoint(lambda a, p: {"serverTime": e.now_ms()}, 1, "none"),
            ("GET", "/v1/fundingInfo"): Endpoint(lambda a, p: listings.funding_info(e.market, self.market), 0, "none"),
            ("GET", "/v1/fundingRate"): Endpoint(self._funding_rate, 0, "none"),
            ("GET", "/v1/positionSide/dual"): Endpoint(own(lambda a: {"dualSidePosition": a.hedge}), 30),
            ("GET", "/v1/income"): Endpoint(self._income, self.income_weight),
            ("GET", "/v1/forceOrders"): Endpoint(self._force_orders, 20, "signed", 50),
            ("GET", "/v1/adlQuantile"): Endpoint(own(lambda a: answers.adl_quantiles(e.book(a))), 5),
            ("GET", "/v1/openOrders"): Endpoint(self._open_orders, 1, "signed", 40),
            ("POST", "/v1/listenKey"): Endpoint(own(lambda a: {"listenKey": self._keys.create(a.name)}), 1, "key"),
            ("PUT", "/v1/listenKey"): Endpoint(self._keep_alive, 1, "key"),
            ("DELETE", "/v1/listenKey"): Endpoint(self._close_key, 1, "key"),
            **self.own_rows(),
        }
        return {(method, self.prefix + path): endpoint for (method, path), endpoint in rows.items()}

    def own_rows(self) -> Table:
        """What this market alone has, or has in another shape; paths without the prefix."""
        raise NotImplementedError

    def contracts(self, params: Params) -> list[Contract]:
        """The contract asked for, or all of the market."""
        listed = self._engine.market.of(self.market)
        if "symbol" not in params:
            return listed
        found = [contract for contract in listed if contract.symbol == params["symbol"]]
        if not found:
            raise ApiError(400, -1121, "Invalid symbol.")
        return found

    def _funding_rate(self, account: Account | None, params: Params) -> object:
        wanted = {contract.symbol for contract in self.contracts(params)}
        rows = [row for row in self._engine.settlements if row["symbol"] in wanted]
        return limited(rows, params, "fundingTime", 100)

    def _income(self, account: Account | None, params: Params) -> object:
        rows = [
            row for row in known(account).income if params.get("incomeType", row["incomeType"]) == row["incomeType"]
        ]
        rows = [row for row in rows if params.get("symbol", row["symbol"]) == row["symbol"]]
        return limited(rows, {"startTime": str(self._engine.now_ms() - 7 * DAY_MS), **params}, "time", 100)

    def _force_orders(self, account: Account | None, params: Params) -> object:
        kind = params.get("autoCloseType")
        prefixes = {"LIQUIDATION": ("autoclose-",), "ADL": ("adl_autoclose",)}.get(kind or "", ("autoclose-", "adl_"))
        rows = [row for row in known(account).force_orders if row["clientOrderId"].startswith(prefixes)]
        rows = [row for row in rows if params.get("symbol", row["symbol"]) == row["symbol"]]
        return limited(rows, params, "time", 50)

    def _open_orders(self, account: Account | None, params: Params) -> object:
        orders = self._engine.book(known(account)).orders
        wanted = [order for order in orders if params.get("symbol", order.symbol) == order.symbol]
        return [answers.open_order(order, self._engine.market[order.symbol]) for order in wanted]

    def _keep_alive(self, account: Account | None, params: Params) -> object:
        name = known(account).name
        key = self._keys.of(name)
        if key is None or params.get("listenKey", key) != key:
            raise ApiError(400, -1125, "This listenKey does not exist.")
        self._keys.extend(name)
        return {"listenKey": key}

    def _close_key(self, account: Account | None, params: Params) -> object:
        self._keys.end(known(account).name)
        return {}


def known(account: Account | None) -> Account:
    """The account of a path that asks for a key."""
    if account is None:
        raise ApiError(401, -2014, "API-key format invalid.")
    return account


def own(answer: Callable[[Account], object]) -> Answer:
    """An answer that needs nothing but the asking account."""
    return lambda account, params: answer(known(account))


def limited(rows: list[Row], params: Params, time_key: str, default: int) -> list[Row]:
    """Rows of the asked time, the latest of them, oldest first."""
    try:
        start, end = int(params.get("startTime", "0")), int(params.get("endTime", "9" * 15))
        limit = int(params.get("limit", default))
    except ValueError as exc:
        raise ApiError(400, -1102, f"a time or a limit is malformed: {exc}") from None
    return [row for row in rows if start <= row[time_key] <= end][-limit:]
