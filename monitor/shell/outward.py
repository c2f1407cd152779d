"""How heartbeat and webhook ask: alike, and what goes wrong is said without the address, which is a secret."""

from __future__ import annotations

import os

import aiohttp

from monitor import __version__
from monitor.config_values import HiddenUrl, Secret
from monitor.errors import ProxyError
from monitor.shell.proxies import proxy_of

_CONNECT_S = 5.0
_NOBODY = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError, ProxyError)
"""What goes wrong before there is anybody to answer."""


def address(url: Secret | HiddenUrl | None, found: dict[Secret, str]) -> HiddenUrl | None:
    """The address that a key of the config gives or names."""
    return HiddenUrl.of(found[url]) if isinstance(url, Secret) else url


def session_of_ours(patience_s: float) -> aiohttp.ClientSession:
    """
    Args:
        patience_s: For the whole of an answer (seconds).
    """
    agent = {"User-Agent": f"marginwatch/{__version__}"}
    timeout = aiohttp.ClientTimeout(total=patience_s, sock_connect=_CONNECT_S)
    return aiohttp.ClientSession(timeout=timeout, headers=agent)


async def ask(
    session: aiohttp.ClientSession, method: str, address: str, body: bytes | None = None
) -> tuple[int | None, str | None]:
    """The status of the answer (0: none has come; None: nobody was reached), and what went wrong; None: nothing has.

    Args:
        body: JSON to send along.
    """
    headers = None if body is None else {"Content-Type": "application/json"}
    try:
        proxy = proxy_of(address)
        async with session.request(
            method, address, data=body, headers=headers, proxy=proxy, allow_redirects=False
        ) as answer:
            return answer.status, None if 200 <= answer.status < 300 else f"answered {answer.status}"
    except Exception as exc:  # whatever it is: the risk loop must not end with it
        return None if isinstance(exc, _NOBODY) else 0, _why(exc)


def _why(exc: Exception) -> str:
    """What went wrong, without the address: the library's own words may carry it whole."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, ProxyError):
        return str(exc)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {exc.status}"
    if isinstance(exc, aiohttp.ClientConnectorError) and (number := exc.os_error.errno or 0) > 0:
        return os.strerror(number)
    return type(exc).__name__
