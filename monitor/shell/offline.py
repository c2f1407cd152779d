"""What a check finds without asking anybody: files and folders, who may read them, and what does not go together."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import structs

from monitor.config import Config
from monitor.config_values import HiddenUrl, Secret
from monitor.errors import StoreError
from monitor.shell import settings
from monitor.shell.database import read_only
from monitor.shell.findings import Finding
from monitor.shell.tls import tls_context

_LOCAL = ("localhost", "127.0.0.1", "::1")
_PLAIN_PORT, _TLS_PORT = 1883, 8883
_TLS_FILES = ("tls_ca_file", "tls_cert_file", "tls_key_file")
_OF_TLS = (*_TLS_FILES, "tls_insecure")


def findings(path: Path, config: Config, found: Mapping[Secret, str]) -> Iterator[Finding]:
    """Everything about a config that reads, and that only this machine can tell.

    Args:
        found: The secrets that could be fetched.
    """
    yield from _config_file(path, config)
    yield from _includes(path)
    yield from _keys(config, found)
    yield from _store(config)
    yield from _sessions(config)
    yield from _broker(config)


def overrides(path: Path, config: Config) -> Iterator[Finding]:
    """Overrides that are never in force; whoever wrote them believes that they are.

    Args:
        config: Of which every account has been read.
    """
    names = ", ".join(account.name for account in config.accounts)
    for where, match in config.rules.overrides():
        whose = structs.replace(match, symbol=None, min_notional=None)
        if not any(whose.fits(account.name, account.labels, (), None) for account in config.accounts):
            wanted = [] if match.account is None else [f'account "{match.account}"']
            wanted += [f'label.{name} "{glob}"' for name, glob in match.labels.items()]
            yield Finding(
                "warning",
                f"{path}: {where}: {' and '.join(wanted)} fits no account",
                f"globs on the name or a label of an account; there are {names}",
            )


def _config_file(path: Path, config: Config) -> Iterator[Finding]:
    hidden = [key for key in ("url", "webhook") if isinstance(getattr(config.heartbeat, key), HiddenUrl)]
    if hidden and _others_may(path, stat.S_IRGRP | stat.S_IROTH):
        keys = " and ".join(hidden)
        yield Finding(
            "warning",
            f"{path}: [heartbeat] {keys}: an address that is a secret, in a file that others can read",
            f"chmod 600 {path}, or name it: file:PATH, env:NAME, credential:NAME",
        )
    if _others_may(path, stat.S_IWGRP | stat.S_IWOTH):
        yield Finding("warning", f"{path}: others can write it, and so switch alerts off", f"chmod go-w {path}")


def _includes(path: Path) -> Iterator[Finding]:
    document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    for pattern in document.get("include", []):
        if not any(path.parent.glob(pattern)):
            yield Finding(
                "warning",
                f'{path}: include: "{pattern}" fits no file, so that no account comes from there',
                f"patterns are below {path.parent.absolute()}",
            )


def _keys(config: Config, found: Mapping[Secret, str]) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for account in config.accounts:
        where = f'[[account]] "{account.name}"'
        key = found.get(account.api_key)
        if key is None:
            continue
        if key == found.get(account.secret):
            yield Finding(
                "error",
                f"{where}: api_key and secret are the same text",
                "the exchange shows two when a key is made: the key goes into one, the secret into the other",
            )
        first = seen.setdefault((account.market, key), account.name)
        if first != account.name:
            yield Finding(
                "error",
                f'{where}: has the key of "{first}" on the same market, so that one account is watched twice',
                "give it its own key, or take one of the two out",
            )


def _store(config: Config) -> Iterator[Finding]:
    """The store as the daemon will find it; a daemon that is running may have it open."""
    path = settings.store_path(config)
    problem = None
    if path.is_dir():
        problem = "is a folder; name a file in it"
    elif path.exists() and not os.access(path, os.R_OK | os.W_OK):
        problem = "cannot be read and written by this user"
    elif not path.exists() and not _can_be_made(path):
        problem = "cannot be made by this user"
    elif path.exists() and path.stat().st_size:
        try:
            read_only(path, 1).close()
        except StoreError as exc:
            problem = f"cannot be used: {exc}"
    if problem is not None:
        yield Finding("error", f"[store] path: {path} {problem}")


def _sessions(config: Config) -> Iterator[Finding]:
    folder = settings.sessions_folder(config)
    usable = os.access(folder, os.W_OK | os.X_OK) if folder.is_dir() else _can_be_made(folder)
    if config.recorder.enabled and (not usable or folder.is_file()):
        yield Finding(
            "error",
            f"[recorder] dir: {folder} cannot be made or written by this user",
            "name another folder, or switch it off: [recorder] enabled = false",
        )


def _broker(config: Config) -> Iterator[Finding]:
    mqtt = config.mqtt
    files = {key: name for key in _TLS_FILES if (name := getattr(mqtt, key)) is not None}
    unread = {key: name for key, name in files.items() if not os.access(name, os.R_OK)}
    for key, name in unread.items():
        yield Finding("error", f"[mqtt] {key}: {name} cannot be read")
    if mqtt.tls and files and not unread:
        try:
            tls_context(mqtt)
        except OSError as exc:
            remedy = "each must be PEM (-----BEGIN …), and the key that of the certificate"
            yield Finding("error", f"[mqtt] {' or '.join(files)} cannot be used: {exc}", remedy)
    if mqtt.tls_key_file is not None and _others_may(Path(mqtt.tls_key_file), stat.S_IRWXO):
        yield Finding(
            "warning",
            f"[mqtt] tls_key_file: {mqtt.tls_key_file} can be read by others",
            f"chmod 600 {mqtt.tls_key_file}",
        )
    unused = [key for key in _OF_TLS if getattr(mqtt, key)]
    if not mqtt.tls and unused:
        yield Finding("warning", f"[mqtt] {', '.join(unused)}: without effect, since tls is false", "tls = true")
    if not mqtt.tls and mqtt.port == _TLS_PORT:
        yield Finding("warning", f"[mqtt] port {_TLS_PORT} is the usual one with TLS, and tls is false", "tls = true")
    if mqtt.tls and mqtt.port == _PLAIN_PORT:
        yield Finding(
            "warning", f"[mqtt] port {_PLAIN_PORT} is the usual one without TLS, and tls is true", f"port = {_TLS_PORT}"
        )
    if not mqtt.tls and mqtt.password is not None and mqtt.host not in _LOCAL:
        yield Finding(
            "warning",
            f"[mqtt] password: goes to {mqtt.host} unencrypted, and so do balances",
            "tls = true, port = 8883",
        )
    if f"{mqtt.prefix}/".startswith(f"{mqtt.discovery_prefix}/"):
        yield Finding(
            "warning",
            f'[mqtt] prefix: "{mqtt.prefix}" is below what Home Assistant reads for discovery',
            'another one, such as "marginwatch"',
        )


def _others_may(path: Path, bits: int) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_mode & bits)
    return False


def _can_be_made(path: Path) -> bool:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
