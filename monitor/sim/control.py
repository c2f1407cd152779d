"""Control over HTTP, for an exchange that runs in a process of its own: POST /sim/<command>, GET /sim/state.

The body is a JSON object of the method's arguments; the answer is {"ok": true, "result": …} or, with
status 400, {"ok": false, "error": "…"}. Only loopback clients are heard.
"""

import json
from dataclasses import asdict
from decimal import Decimal
from inspect import signature
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from monitor.sim.exchange import Exchange

COMMANDS = (
    "set_mark",
    "set_marks",
    "set_index",
    "set_asset_index",
    "set_funding",
    "set_brackets",
    "set_status",
    "fund",
    "transfer",
    "add_margin",
    "fill",
    "set_leverage",
    "set_margin_type",
    "set_multi_assets",
    "set_position_mode",
    "set_permissions",
    "set_system_status",
    "set_adl",
    "set_adl_risk",
    "set_insurance",
    "set_notional_coef",
    "set_liquidation",
    "place_resting",
    "cancel_resting",
    "liquidate",
    "take_over",
    "adl",
    "settle",
    "delist",
    "push_event",
    "pulse",
    "fault",
    "drop",
    "send_garbage",
    "send_raw",
    "set_weight",
    "expire_listen_key",
)
LOOPBACK = ("127.0.0.1", "::1")


def run_command(exchange: "Exchange", name: str, arguments: dict[str, Any]) -> Any:
    """Call a method of the exchange by name.

    Raises:
        ValueError: No such command, arguments that do not fit it, or a refusal.
    """
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    method = getattr(exchange, name)
    try:
        signature(method).bind(**arguments)
    except TypeError as exc:
        raise ValueError(f"{name}: {exc}; it takes {signature(method)}") from None
    return method(**arguments)


async def serve_control(exchange: "Exchange", request: web.Request) -> web.Response:
    """One control request."""
    if request.remote not in LOOPBACK:
        return web.json_response({"ok": False, "error": "only loopback clients are heard"}, status=403)
    name = request.path.removeprefix("/sim/")
    match request.method, name:
        case "GET", "state":
            return answer(exchange.state() | {"faults": asdict(exchange.faults), "order_calls": exchange.order_calls})
        case "GET", "counters":
            return answer(dict(exchange.counters) | {"order_calls": len(exchange.order_calls)})
        case "POST", _:
            try:
                arguments = json.loads(await request.text() or "{}", parse_float=Decimal)
                if not isinstance(arguments, dict):
                    raise ValueError("the body is a JSON object of arguments")
                return answer(run_command(exchange, name, arguments))
            except (ValueError, TypeError, KeyError, ArithmeticError) as exc:
                return web.json_response({"ok": False, "error": str(exc)}, status=400)
    return web.json_response({"ok": False, "error": "GET state or counters, or POST a command"}, status=404)


def answer(result: Any) -> web.Response:
    """A success."""
    return web.json_response({"ok": True, "result": result})
