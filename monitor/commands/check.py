"""`marginwatch check`: every mistake of a config at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from monitor.config import Config
from monitor.errors import ConfigError
from monitor.shell import settings


def main(config_path: str | None) -> int:
    try:
        path = settings.find(config_path)
        config, problems = settings.examine(path)
    except ConfigError as exc:
        return _report(list(exc.problems))
    problems += [f"{path}: {problem}" for problem in _files(config)]
    if problems:
        return _report(problems)
    names = ", ".join(f"{account.name} ({account.venue}, {account.environment})" for account in config.accounts)
    print(f"{path}: all is well. Accounts: {names}. Broker: {config.mqtt.host}:{config.mqtt.port}.")
    return 0


def _report(problems: list[str]) -> int:
    for problem in problems:
        print(problem)
    print(f"{len(problems)} to mend", file=sys.stderr)
    return 1


def _files(config: Config) -> list[str]:
    """Files and folders that the daemon will need."""
    problems = []
    store = settings.store_path(config)
    if store.is_dir():
        problems.append(f"[store] path: {store} is a folder; name a file in it")
    elif store.exists() and not os.access(store, os.R_OK | os.W_OK):
        problems.append(f"[store] path: {store} cannot be written by this user")
    elif not store.exists() and not _can_be_made(store):
        problems.append(f"[store] path: {store} cannot be made by this user")
    for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        name = getattr(config.mqtt, key)
        if name is not None and not os.access(name, os.R_OK):
            problems.append(f"[mqtt] {key}: {name} cannot be read")
    return problems


def _can_be_made(path: Path) -> bool:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return os.access(folder, os.W_OK | os.X_OK)
