"""Why something on the network did not work, and what to do about it; alike for exchange and broker."""

from __future__ import annotations

import socket
import ssl

from monitor.errors import Fault


def fault_of(exc: BaseException) -> Fault:
    """Where a connection failed. The HTTP library wraps the system's error, and has a type of its own for names."""
    inner = getattr(exc, "os_error", exc)
    if isinstance(exc, ssl.SSLError) or isinstance(inner, ssl.SSLError):
        return "tls"
    if isinstance(inner, socket.gaierror) or "DNS" in type(exc).__name__:
        return "dns"
    if isinstance(exc, TimeoutError):
        return "timeout"
    return "refused" if isinstance(inner, ConnectionRefusedError) else "connection"


def network_remedy(fault: Fault, host: str) -> str:
    """What to do where nothing answered."""
    known: dict[Fault, str] = {
        "proxy": f"see HTTPS_PROXY in the environment; what is reached without one, {host} say, belongs in NO_PROXY",
        "dns": f"is it spelt right, and does this machine resolve names? `getent hosts {host}` must print an address",
        "tls": "the certificate is not believed: is this machine's clock right, are its certificates up to date (sudo"
        " apt install ca-certificates), or is a proxy in between?",
        "refused": "nothing listens there: are host and port right, and does it run?",
        "timeout": "does a firewall on the way let connections out to there?",
        "connection": "the connection was cut: does a firewall or proxy on the way allow it?",
    }
    return known.get(fault, "")


def in_words(fault: Fault, exc: BaseException, host: str) -> str:
    """What failed, in words that hold no address but the host's name."""
    if fault == "dns":
        return f"no address is known for the name {host}"
    if fault == "tls":
        reason = getattr(exc, "verify_message", "") or getattr(
            getattr(exc, "certificate_error", None), "verify_message", ""
        )
        return f"no trusted connection to {host}" + (f": {reason}" if reason else "")
    if fault == "timeout":
        return f"{host} did not answer in time"
    return f"{host} refuses the connection" if fault == "refused" else f"the connection to {host} was cut"
