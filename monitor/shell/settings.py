"""Reads config files and fetches secrets."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.config import STORE_NAME, Config, parse, secrets
from monitor.config import examine as config_examine
from monitor.config_values import HiddenUrl, Secret
from monitor.errors import ConfigError

SESSIONS = "sessions"
"""Folder of saved sessions, beside the store."""

_TOKEN_LENGTH = 16
"""A shorter token could be found by trying."""

PLACES = (Path("config.toml"), Path("/etc/marginwatch/config.toml"))


def find(path: str | None) -> Path:
    """The config file: the one named, else the first of the usual places.

    Raises:
        ConfigError: There is none.
    """
    if path is not None:
        return Path(path)
    for place in PLACES:
        if place.exists():
            return place
    places = " or ".join(str(place) for place in PLACES)
    raise ConfigError([f"no config file: looked for {places}; write one with `marginwatch init`, or name it: --config"])


def load(path: Path) -> Config:
    """Read a config file and all that it includes.

    Raises:
        ConfigError: With every mistake that was found.
    """
    return parse(_documents(path))


def examine(path: Path) -> tuple[Config, list[str], dict[Secret, str]]:
    """What can be read of a config, every mistake in it and in the secrets that it names, and those that were found.

    Raises:
        ConfigError: A file of it cannot be read at all.
    """
    config, problems, named = config_examine(_documents(path))
    found, more = _fetch_all(named, os.environ, config.credentials_dir)
    return config, [*problems, *(f"{path}: {problem}" for problem in more)], found


def _documents(path: Path) -> list[tuple[str, dict[str, Any]]]:
    main = _toml(path)
    documents = [(str(path), main)]
    patterns = main.get("include", [])
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ConfigError([f'{path}: include: must be a list such as ["accounts.d/*.toml"]'])
    for pattern in patterns:
        try:
            found = sorted(path.parent.glob(pattern))
        except (NotImplementedError, ValueError):
            raise ConfigError(
                [f'{path}: include: "{pattern}" must be a pattern below {path.parent}, such as "accounts.d/*.toml"']
            ) from None
        documents += [(str(file), _toml(file)) for file in found]
    return documents


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; write one with `marginwatch init`"]) from None
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{path}: is not UTF-8 at byte {exc.start}"]) from None
    except ValueError as exc:  # TOMLDecodeError, and a whole number of thousands of digits
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is not TOML that anybody wrote: nested too deep"]) from None


def store_path(config: Config) -> Path:
    """The path of the config; by default in systemd's state directory, else in the folder we were started from."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if config.store.path == STORE_NAME and folder:
        return Path(folder) / STORE_NAME
    return Path(config.store.path)


def sessions_folder(config: Config) -> Path:
    """Where sessions of critical incidents are saved: by default beside the store."""
    if config.recorder.dir is not None:
        return Path(config.recorder.dir)
    return store_path(config).parent / SESSIONS


def fetch(config: Config, environ: Mapping[str, str] | None = None) -> dict[Secret, str]:
    """Every secret that the config names.

    Raises:
        ConfigError: With every one that is missing, empty, readable by others, or no address where it must be one.
    """
    environ = os.environ if environ is None else environ
    found, problems = _fetch_all(secrets(config), environ, config.credentials_dir)
    if problems:
        raise ConfigError(problems)
    return found


def _fetch_all(
    named: Iterable[tuple[str, Secret]], environ: Mapping[str, str], credentials_dir: str | None
) -> tuple[dict[Secret, str], list[str]]:
    found: dict[Secret, str] = {}
    problems = []
    for key, secret in named:
        try:
            found[secret] = _fetch(secret, environ, credentials_dir)
            if key.startswith("[heartbeat]"):
                HiddenUrl.of(found[secret])
            if key == "[http] token" and len(found[secret]) < _TOKEN_LENGTH:
                raise ValueError(f"has less than {_TOKEN_LENGTH} characters; `openssl rand -hex 16` makes a good one")
        except ValueError as exc:
            problems.append(f"{key} ({secret}): {exc}")
    return found, problems


def fetch_one(config: Config, secret: Secret) -> str:
    """One secret of a config.

    Raises:
        ConfigError: It is missing, empty, or readable by others.
    """
    try:
        return _fetch(secret, os.environ, config.credentials_dir)
    except ValueError as exc:
        raise ConfigError([f"{secret}: {exc}"]) from None


def mqtt_password(config: Config) -> str | None:
    """The password of [mqtt]; None: it has none.

    Raises:
        ConfigError: It is missing, empty, or readable by others.
    """
    return None if config.mqtt.password is None else fetch_one(config, config.mqtt.password)


def _fetch(secret: Secret, environ: Mapping[str, str], credentials_dir: str | None) -> str:
    if secret.kind == "env":
        value = environ.get(secret.name)
        if value is None:
            raise ValueError(f"the environment has no variable {secret.name}; export it")
        return _usable(value)
    if secret.kind == "file":
        return _usable(_private_text(Path(secret.name)))
    folder = environ.get("CREDENTIALS_DIRECTORY") or credentials_dir
    if folder is None:
        raise ValueError(
            "credentials exist under systemd only (LoadCredential=); from a shell give their folder: [credentials] dir"
        )
    path = Path(folder) / secret.name
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; name it with LoadCredential= in the unit, and restart: a reload brings no new ones"
        )
    value = _private_text(path)
    if not value.strip():
        raise ValueError("is empty; it belongs into the file that LoadCredential= of the unit names")
    return _usable(value)


def _private_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a file")
        if mode & (stat.S_IRWXO | stat.S_IWGRP):  # systemd's own credentials may be readable by their group
            raise ValueError(f"{path} can be read by others; chmod 600 {path}")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text") from None


def _usable(value: str) -> str:
    value = value.strip()
    if not value:
        raise ValueError("is empty")
    if value.startswith("-----BEGIN"):
        raise ValueError("is an RSA or Ed25519 key; make an API key that the exchange generates (HMAC), read-only")
    if not value.isascii() or not value.isprintable() or len(value.split()) != 1:
        raise ValueError("has spaces, line breaks or characters that no key has")
    return value
