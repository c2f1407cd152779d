"""`marginwatch status`: how it stands in one line, with the exit status that monitoring systems read."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import sys
from typing import Any

from monitor.config import Config
from monitor.digits import rfc3339
from monitor.errors import BrokerAway, ConfigError
from monitor.retained import Retained
from monitor.shell import logs, settings
from monitor.shell.clock import now
from monitor.shell.onlooker import look
from monitor.standing import AccountStanding, Code, Standing, sentence, standing, unknown, watched

_GRACE_S = 0.5


def main(config_path: str | None, account: str | None, timeout_s: float, as_json: bool) -> int:
    """Print how it stands. Returns the exit status."""
    _end_after(timeout_s + _GRACE_S, as_json)
    logs.hush()
    retained = Retained("")
    try:
        config = settings.load(settings.find(config_path))
        names = _names(config, account)
        retained = asyncio.run(look(config.mqtt, settings.mqtt_password(config), names, timeout_s))
        names = watched(retained, names) if account is None else names
        stands = standing(retained, names, now().wall_ms)
    except ConfigError as exc:
        stands = unknown("; ".join(exc.problems))
    except BrokerAway as exc:
        stands = unknown(str(exc))
    except Exception as exc:  # a bug; Python's own exit status for it would read as a warning
        stands = unknown(f"a mistake in marginwatch status: {type(exc).__name__}: {exc}")
    _print(stands, retained, as_json)
    sys.stdout.flush()
    signal.signal(signal.SIGALRM, lambda *_: os._exit(stands.code))  # said; a thread that hangs changes nothing of it
    return stands.code


def _names(config: Config, account: str | None) -> list[str]:
    names = [a.name for a in config.accounts]
    if account is None:
        return names
    if account not in names:
        raise ConfigError([f"the config has no account {account!r}; it has {', '.join(names)}"])
    return [account]


def _end_after(seconds: float, as_json: bool) -> None:
    """Whatever hangs (a name server is asked in a thread that nothing can stop), we answer in time."""

    def end(*_: object) -> None:
        _print(unknown("the broker was not reached in time"), Retained(""), as_json)
        sys.stdout.flush()
        os._exit(Code.UNKNOWN)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # after that a signal would end us in its own way


def _print(stands: Standing, retained: Retained, as_json: bool) -> None:
    print(json.dumps(_json(stands, retained), ensure_ascii=False) if as_json else _line(stands))


def _line(stands: Standing) -> str:
    """`MARGINWATCH OK: words | figures`; what may not be believed has the figure `U`, as monitoring systems want it."""
    words = sentence(stands).replace("|", "/")
    figures = " ".join(part for account in stands.accounts for part in _figures(account))
    line = f"MARGINWATCH {stands.code.name}: {words}" + (f" | {figures}" if figures else "")
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _figures(account: AccountStanding) -> list[str]:
    said = account.summary if account.is_believed else None
    age = "U" if account.age_s is None else f"{max(0.0, account.age_s):.0f}s"
    return [
        f"{account.name}_margin_ratio={_figure(None if said is None else said.worst_margin_ratio)};;;0;10",
        f"{account.name}_distance={_figure(None if said is None else said.worst_distance)};;;0;",
        f"{account.name}_age={age};;;0;",
    ]


def _figure(value: float | None) -> str:
    return "U" if value is None else f"{value:.8f}".rstrip("0").rstrip(".")


def _json(stands: Standing, retained: Retained) -> dict[str, Any]:
    return {
        "status": stands.code.name.lower(),
        "code": int(stands.code),
        "text": sentence(stands),
        "problems": [{"code": int(problem.code), "text": problem.text} for problem in stands.problems],
        "daemon": retained.status,
        "version": None if retained.info is None else retained.info.version,
        "accounts": [_account(account) for account in stands.accounts],
        "unreadable": retained.unreadable,
    }


def _account(account: AccountStanding) -> dict[str, Any]:
    """As its summary says; what may not be believed is there too, with `believed` false."""
    said = account.summary
    return {
        "account": account.name,
        "believed": account.is_believed,
        "age_s": account.age_s,
        "as_of": None if said is None else rfc3339(said.as_of_ms),
        "severity": None if said is None else said.severity,
        "margin_ratio": None if said is None else said.worst_margin_ratio,
        "distance": None if said is None else said.worst_distance,
        "open_positions": None if said is None else said.open_positions,
        "freshness": None if said is None else said.freshness,
    }
