"""The REST side: who may ask, what it weighs, which answer."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web

from monitor.sim import answers
from monitor.sim.account import Account, Row
from monitor.sim.engine import Engine
from monitor.sim.listenkeys import ListenKeys
from monitor.sim.market import Contract
from monitor.sim.weights import Weights

API_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")
UNAVAILABLE = "<html><head><title>503</title></head><body><h1>503 Service Temporarily Unavailable</h1></body></html>"
DAY_MS = 86_400_000

Params = dict[str, str]


class ApiError(Exception):
    """An error body, with its HTTP status."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Endpoint:
    """A path's answer. weight_all: without a symbol. security: "none", "key" or "signed"."""

    answer: Callable[[Account | None, Params], object]
    weight: int
    security: str = "signed"
    weight_all: int | None = None


class Rest:
    """Serves /fapi and /sapi.

    Attributes:
        order_calls: Every call that would have changed something, as "POST /fapi/v1/order". A monitor makes none.
    """

    def __init__(self, engine: Engine, keys: ListenKeys) -> None:
        self.weights = Weights()
        self.order_calls: list[str] = []
        self._engine = engine
        self._keys = keys
        self._endpoints = self._table()

    def _table(self) -> dict[tuple[str, str], Endpoint]:
        e = self._engine
        mine = Endpoint  # most answers are about the asking account
        return {
            ("GET", "/fapi/v1/ping"): mine(lambda a, p: {}, 1, "none"),
            ("GET", "/fapi/v1/time"): mine(lambda a, p: {"serverTime": e.now_ms()}, 1, "none"),
            ("GET", "/fapi/v1/exchangeInfo"): mine(
                lambda a, p: answers.exchange_info(e.market, e.now_ms(), self.weights.limit), 1, "none"
            ),
            ("GET", "/fapi/v1/premiumIndex"): mine(self._premium_index, 1, "none", 10),
            ("GET", "/fapi/v1/fundingInfo"): mine(lambda a, p: self._funding_info(), 0, "none"),
            ("GET", "/fapi/v1/fundingRate"): mine(self._funding_rate, 0, "none"),
            ("GET", "/fapi/v1/leverageBracket"): mine(self._brackets, 1),
            ("GET", "/fapi/v1/accountConfig"): mine(own(account_config), 5),
            ("GET", "/fapi/v1/symbolConfig"): mine(self._symbol_config, 5),
            ("GET", "/fapi/v1/multiAssetsMargin"): mine(own(lambda a: {"multiAssetsMargin": a.multi_assets}), 30),
            ("GET", "/fapi/v1/positionSide/dual"): mine(own(lambda a: {"dualSidePosition": a.hedge}), 30),
            ("GET", "/fapi/v1/income"): mine(self._income, 30),
            ("GET", "/fapi/v1/forceOrders"): mine(self._force_orders, 20, "signed", 50),
            ("GET", "/fapi/v1/adlQuantile"): mine(own(lambda a: answers.adl_quantiles(e.book(a))), 5),
            ("GET", "/fapi/v1/openOrders"): mine(lambda a, p: [], 1, "signed", 40),
            ("GET", "/fapi/v3/account"): mine(own(lambda a: answers.account_v3(e.book(a), e.market)), 5),
            ("GET", "/fapi/v2/account"): mine(own(lambda a: answers.account_v2(e.book(a), e.market)), 5),
            ("GET", "/fapi/v3/balance"): mine(own(lambda a: answers.balances(e.book(a), e.market)), 5),
            ("GET", "/fapi/v2/balance"): mine(own(lambda a: answers.balances(e.book(a), e.market)), 5),
            ("GET", "/fapi/v3/positionRisk"): mine(self._position_risk, 5),
            ("GET", "/fapi/v2/positionRisk"): mine(self._position_risk_v2, 5),
            ("POST", "/fapi/v1/listenKey"): mine(own(lambda a: {"listenKey": self._keys.create(a.name)}), 1, "key"),
            ("PUT", "/fapi/v1/listenKey"): mine(self._keep_alive, 1, "key"),
            ("DELETE", "/fapi/v1/listenKey"): mine(self._close_key, 1, "key"),
            ("GET", "/sapi/v1/account/apiRestrictions"): mine(
                own(lambda a: {"createTime": 1698645219000, **a.permissions}), 0
            ),
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One request, faults included."""
        faults = self._engine.faults
        path = request.path
        self._engine.counters[f"{request.method} {path}"] += 1
        if faults.hits(path):
            if faults.latency_s:
                await asyncio.sleep(faults.latency_s)
            if faults.rest == "abort":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)  # goes nowhere: the connection is cut
            if faults.rest == "503":
                return web.Response(status=503, text=UNAVAILABLE, content_type="text/html")
            if faults.rest in ("429", "418"):
                return self._limited(int(faults.rest), self.weights.ban_s)
        raw_query = request.raw_path.partition("?")[2]
        body = (await request.read()).decode("utf-8", "replace")
        endpoint = self._endpoints.get((request.method, path))
        if endpoint is None and request.method != "GET":
            self.order_calls.append(f"{request.method} {path}")
        try:
            if endpoint is None:
                raise ApiError(404, -5000, f"Path {path}, Method {request.method} is invalid")
            params = dict(parse_qsl(raw_query, True) + parse_qsl(body, True))
            weight = endpoint.weight
            if endpoint.weight_all is not None and "symbol" not in params:
                weight = endpoint.weight_all
            if (status := self.weights.spend(weight, self._engine.now_ms())) != 200:
                return self._limited(status, self.weights.ban_left_s())
            account = self._authorise(endpoint, request, raw_query, body, params)
            return self._reply(200, endpoint.answer(account, params))
        except ApiError as exc:
            return self._reply(exc.status, {"code": exc.code, "msg": exc.message})

    def _reply(self, status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
        shown = {"X-MBX-USED-WEIGHT-1M": str(self.weights.used), **(headers or {})}
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        return web.Response(status=status, text=text, content_type="application/json", headers=shown)

    def _limited(self, status: int, wait_s: float) -> web.Response:
        if status == 429:
            message = f"Too many requests; current limit is {self.weights.limit} request weight per 1 MINUTE."
            return self._reply(429, {"code": -1003, "msg": message})
        until = self._engine.now_ms() + int(wait_s * 1000)
        message = (
            f"Way too many requests; IP banned until {until}. Please use the websocket for live updates to avoid bans."
        )
        return self._reply(418, {"code": -1003, "msg": message}, {"Retry-After": str(int(wait_s) + 1)})

    def _authorise(
        self, endpoint: Endpoint, request: web.Request, raw_query: str, body: str, params: Params
    ) -> Account | None:
        """The account that asks: by key, and for signed paths by time and signature over the bytes as sent."""
        if endpoint.security == "none":
            return None
        key = request.headers.get("X-MBX-APIKEY", "")
        if not API_KEY.fullmatch(key):
            raise ApiError(401, -2014, "API-key format invalid.")
        account = next((a for a in self._engine.accounts.values() if a.api_key == key), None)
        if account is None or not account.permissions.get("enableReading", True):
            raise ApiError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        if endpoint.security == "key":
            return account
        for name in ("timestamp", "signature"):
            if not params.get(name):
                raise ApiError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        self._check_time(params)
        payload = SIGNATURE.sub("", raw_query) + SIGNATURE.sub("", body)
        expected = hmac.new(account.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), params["signature"].encode()):
            raise ApiError(400, -1022, "Signature for this request is not valid.")
        return account

    def _check_time(self, params: Params) -> None:
        try:
            sent, window = int(params["timestamp"]), int(params.get("recvWindow", "5000"))
        except ValueError:
            message = "Mandatory parameter 'timestamp' was not sent, was empty/null, or malformed."
            raise ApiError(400, -1102, message) from None
        now = self._engine.now_ms()
        if sent >= now + 1000:
            raise ApiError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now - sent > window:
            raise ApiError(400, -1021, "Timestamp for this request is outside of the recvWindow.")

    # Answers that need more than a line

    def _contracts(self, params: Params) -> list[Contract]:
        if "symbol" not in params:
            return self._engine.market.linear()
        found = [c for c in self._engine.market.linear() if c.symbol == params["symbol"]]
        if not found:
            raise ApiError(400, -1121, "Invalid symbol.")
        return found

    def _premium_index(self, account: Account | None, params: Params) -> object:
        rows = [answers.premium_index(c, self._engine.now_ms()) for c in self._contracts(params)]
        return rows[0] if "symbol" in params else rows

    def _funding_info(self) -> list[Row]:
        return [
            {
                "symbol": contract.symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": contract.interval_h,
                "disclaimer": False,
            }
            for contract in self._engine.market.linear()
            if contract.perpetual and contract.interval_h != 8  # only what was adjusted is listed
        ]

    def _funding_rate(self, account: Account | None, params: Params) -> object:
        wanted = {contract.symbol for contract in self._contracts(params)}
        rows = [row for row in self._engine.settlements if row["symbol"] in wanted]
        return limited(rows, params, "fundingTime", 100)

    def _brackets(self, account: Account | None, params: Params) -> object:
        tables = self._engine.market.brackets()
        if "symbol" not in params:
            return [answers.leverage_bracket(symbol, rows) for symbol, rows in tables.items()]
        if params["symbol"] not in tables:
            raise ApiError(400, -1121, "Invalid symbol.")
        row = answers.leverage_bracket(params["symbol"], tables[params["symbol"]])
        return [row] if self._engine.faults.bracket_list else row

    def _symbol_config(self, account: Account | None, params: Params) -> object:
        return [answers.symbol_config(known(account), contract) for contract in self._contracts(params)]

    def _position_risk(self, account: Account | None, params: Params) -> object:
        book, wanted = self._engine.book(known(account)), {c.symbol for c in self._contracts(params)}
        return [
            answers.position_risk(book, position, self._engine.market)
            for position in book.open_positions()
            if position.symbol in wanted
        ]

    def _position_risk_v2(self, account: Account | None, params: Params) -> object:
        book, wanted = self._engine.book(known(account)), {c.symbol for c in self._contracts(params)}
        return [
            answers.position_risk_v2(book, position, self._engine.market)
            for position in answers.every_position(book, self._engine.market)
            if position.symbol in wanted
        ]

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
        return limited(rows, params, "time", 50)

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


def own(answer: Callable[[Account], object]) -> Callable[[Account | None, Params], object]:
    """An answer that needs nothing but the asking account."""
    return lambda account, params: answer(known(account))


def account_config(account: Account) -> Row:
    """/fapi/v1/accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": True,
        "dualSidePosition": account.hedge,
        "updateTime": 0,
        "multiAssetsMargin": account.multi_assets,
        "tradeGroupId": -1,
    }


def limited(rows: list[Row], params: Params, time_key: str, default: int) -> list[Row]:
    """Rows of the asked time, the latest of them, oldest first."""
    try:
        start, end = int(params.get("startTime", "0")), int(params.get("endTime", "9" * 15))
        limit = int(params.get("limit", default))
    except ValueError as exc:
        raise ApiError(400, -1102, f"a time or a limit is malformed: {exc}") from None
    return [row for row in rows if start <= row[time_key] <= end][-limit:]
