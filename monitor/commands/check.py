"""`marginwatch check`: every mistake of a config at once, each with its remedy."""

from __future__ import annotations

from monitor.errors import ConfigError
from monitor.shell import offline, settings
from monitor.shell.findings import Finding, Findings


def main(config_path: str | None) -> int:
    found = Findings()
    try:
        path = settings.find(config_path)
        config, problems, secrets = settings.examine(path)
    except ConfigError as exc:
        found.take(Finding("error", problem) for problem in exc.problems)
        return found.sum_up()
    found.take(Finding("error", problem) for problem in problems)
    found.take(offline.findings(path, config, secrets))
    if not found.count["error"]:
        names = ", ".join(f"{account.name} ({account.venue}, {account.environment})" for account in config.accounts)
        found.take([Finding("ok", f"{path}: accounts {names}; broker {config.mqtt.host}:{config.mqtt.port}")])
    return found.sum_up()
