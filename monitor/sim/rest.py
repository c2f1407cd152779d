"""The REST side: who may ask, what it weighs, which answer."""

import asyncio
import hashlib
import hmac
import re
from urllib.parse import parse_qsl

from aiohttp import web

from monitor.sim.account import Account
from monitor.sim.endpoints import ApiError, Endpoint, Params, Printed, Table, own, printed
from monitor.sim.engine import Engine
from monitor.sim.listenkeys import ListenKeys
from monitor.sim.rest_coinm import CoinmEndpoints
from monitor.sim.rest_usdm import UsdmEndpoints
from monitor.sim.weights import Weights

API_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")
PAGES = {
    "503": "<html><head><title>503</title></head><body><h1>503 Service Temporarily Unavailable</h1></body></html>",
    "403": "<html><head><title>403</title></head><body><h1>403 Forbidden</h1></body></html>",
}
NOT_PERMITTED = "Invalid API-key, IP, or permissions for action."
REFUSALS = {
    "401": (-2015, NOT_PERMITTED),
    "451": (0, "Service unavailable from a restricted location."),
}


class Rest:
    """Serves /fapi, /dapi and /sapi, all from one pool of weight.

    Attributes:
        order_calls: Every call that would have changed something, as "POST /fapi/v1/order". A monitor makes none.
    """

    def __init__(self, engine: Engine, keys: ListenKeys) -> None:
        self.weights = Weights()
        self.order_calls: list[str] = []
        self._engine = engine
        self._keys = keys
        self._endpoints = self._table()
        self._owners: dict[str, list[Account]] = {}
        for account in engine.accounts.values():
            self._owners.setdefault(account.api_key, []).append(account)

    def _table(self) -> Table:
        limits = (self._engine, self._keys, lambda: self.weights.limit)
        restrictions = Endpoint(own(lambda a: {"createTime": 1698645219000, **a.permissions}), 0)
        return {
            **UsdmEndpoints(*limits).table(),
            **CoinmEndpoints(*limits).table(),
            ("GET", "/sapi/v1/account/apiRestrictions"): restrictions,
            ("GET", "/sapi/v1/system/status"): Endpoint(lambda a, p: self._engine.system_status, 0, "none"),
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
            if faults.rest in PAGES:
                return web.Response(status=int(faults.rest), text=PAGES[faults.rest], content_type="text/html")
            if faults.rest in REFUSALS:
                code, message = REFUSALS[faults.rest]
                return self._reply(int(faults.rest), {"code": code, "msg": message})
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
        text = body if isinstance(body, Printed) else printed(body)
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
        account = self._owner(key, request.path)
        if account is None or not account.permissions.get("enableReading", True):
            raise ApiError(401, -2015, NOT_PERMITTED)
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

    def _owner(self, key: str, path: str) -> Account | None:
        """The account that the key opens where it is used: on its market, or on either for the wallet's paths."""
        market = {"/fapi": "usdm", "/dapi": "coinm"}.get(path[:5])
        return next((a for a in self._owners.get(key, ()) if market in (None, a.market)), None)

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
