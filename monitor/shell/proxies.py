"""The HTTP proxy that the environment names: one and the same for streams, REST, webhook and heartbeat.

Left to themselves the libraries differ: one takes a SOCKS proxy to which the other speaks HTTP, and one sends along
what it finds in ~/.netrc.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from monitor.errors import ProxyError

_LIKE = {"wss": "https", "ws": "http"}


def proxy_of(address: str) -> str | None:
    """The proxy on the way to an address, which may hold a password. None: there is none, as to this machine itself.

    Raises:
        ProxyError: What is named is none that we can take.
    """
    to = urlsplit(address)
    scheme = _LIKE.get(to.scheme, to.scheme)
    proxies = getproxies()
    named = proxies.get(scheme) or proxies.get("socks")
    if not named or _is_here(to.hostname or "") or proxy_bypass(to.netloc.rpartition("@")[2]):
        return None
    if named.startswith("socks"):
        raise ProxyError("the environment names a SOCKS proxy; only an HTTP proxy is taken, http://HOST:PORT")
    with suppress(ValueError):  # its words would hold a part of the address
        if _is_usable(urlsplit(named)):
            return named
    raise ProxyError(f"the environment names a proxy, {scheme.upper()}_PROXY, that is no http://HOST:PORT")


def _is_usable(proxy: SplitResult) -> bool:
    is_whole = proxy.port != 0 and (proxy.username is None or proxy.password is not None)
    more = proxy.path.strip("/"), proxy.query, proxy.fragment
    return proxy.scheme == "http" and bool(proxy.hostname) and is_whole and not any(more)


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
