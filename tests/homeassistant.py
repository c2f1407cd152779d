"""A real Home Assistant as a process, with nothing in it but MQTT, automations and a phone that notes what it is told.

It lives in an environment of its own, since it pins the versions of half of what we use. Whoever runs the tests names
its `hass` in `MARGINWATCH_HASS`, or has it in `.venv-ha`, where `.ci/run` puts it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.rig import ROOT, eventually, free_port

HASS = Path(os.environ.get("MARGINWATCH_HASS", ROOT / ".venv-ha" / "bin" / "hass"))
START_S = 60.0
_TOKEN_ID, _TOKEN_KEY, _OWNER = "0" * 31 + "1", "1" * 128, "0" * 31 + "2"
_LONG_AGO = "2024-01-01T00:00:00+00:00"


_NO_PAGES = """
# Without its web pages it would not start as usual; they need 50 MB, and these need nothing.
async def async_setup(hass, config):
    return True
"""
_PHONE = """
import json

async def async_setup(hass, config):
    def note(call):
        with open(hass.config.path("notified"), "a") as file:
            file.write(json.dumps(call.data, default=dict) + "\\n")

    hass.services.async_register("notify", "mobile_app_phone", note)
    return True
"""


class HomeAssistant:
    """Home Assistant in a folder: what it has stored outlives its process.

    Args:
        mqtt_port: Of the broker; it cannot be set in YAML, so that its entry is written as its dialogue would.
        yaml: Further lines of its configuration.
    """

    def __init__(self, folder: Path, mqtt_port: int, yaml: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "stdout.log"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / ".storage").mkdir(parents=True)
        configuration = f"http:\n  server_host: 127.0.0.1\n  server_port: {self.port}\napi:\nphone:\n{yaml}"
        (folder / "configuration.yaml").write_text(configuration, "utf-8")
        self._integration("frontend", _NO_PAGES)
        self._integration("phone", _PHONE)
        self._store("core.config_entries", 1, {"entries": [_mqtt_entry(mqtt_port)]})
        self._store("auth", 1, _auth())

    def _store(self, key: str, version: int, data: dict[str, Any]) -> None:
        text = json.dumps({"version": version, "minor_version": 1, "key": key, "data": data})
        (self.folder / ".storage" / key).write_text(text, "utf-8")

    def _integration(self, domain: str, code: str) -> None:
        folder = self.folder / "custom_components" / domain
        folder.mkdir(parents=True)
        about = {"domain": domain, "name": domain, "version": "0", "documentation": "", "codeowners": []}
        (folder / "manifest.json").write_text(json.dumps(about), "utf-8")
        (folder / "__init__.py").write_text(code, "utf-8")

    async def start(self) -> None:
        with self.log.open("ab") as log:
            command = [str(HASS), "--config", str(self.folder), "--skip-pip", "--verbose"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - returns at once
        await eventually(self._is_running, f"Home Assistant runs; see {self.log}", START_S)

    async def _is_running(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text("utf-8")[-5000:]
        with suppress(aiohttp.ClientError):
            found = await self._ask("GET", "config")
            return bool(found["state"] == "RUNNING" and "mqtt" in found["components"])
        return False

    def stop(self) -> None:
        """End it politely, so that it stores what it knows."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(30)

    # ---- what it shows ----

    @property
    def notified(self) -> list[dict[str, Any]]:
        """What the phone was told."""
        path = self.folder / "notified"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    @property
    def complaints(self) -> list[str]:
        """What it has logged about what it was told; that a broker was away is no complaint."""
        levels, about = (" WARNING ", " ERROR "), ("mqtt", "template", "automation", "marginwatch")
        lines = [line for line in self.log.read_text("utf-8").splitlines() if "mqtt.client]" not in line]
        return [line for line in lines if any(x in line for x in levels) and any(x in line for x in about)]

    async def states(self) -> dict[str, dict[str, Any]]:
        """Entity → its state and attributes, of all that MQTT brings."""
        found = await self._ask("GET", "states")
        kinds = ("sensor", "binary_sensor", "event")
        return {row["entity_id"]: row for row in found if row["entity_id"].split(".")[0] in kinds}

    async def shows(self, within_s: float = 20, **expected: Any) -> dict[str, dict[str, Any]]:
        """What it shows, once entities have these states; `None`: there is no such entity.

        Args:
            expected: Entity (with `__` for the dot) → state.
        """
        states: dict[str, dict[str, Any]] = {}
        wanted = {name.replace("__", ".", 1): value for name, value in expected.items()}

        def said(entity: str) -> Any:
            return states[entity]["state"] if entity in states else None

        async def agrees() -> bool:
            nonlocal states
            states = await self.states()
            return all(said(entity) == value for entity, value in wanted.items())

        try:
            await eventually(agrees, f"Home Assistant shows {wanted}", within_s)
        except AssertionError as exc:
            exc.add_note(f"it shows { ({entity: said(entity) for entity in wanted}) }")
            raise
        return states

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {_token()}"}
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, url, json=body) as answer,
        ):
            answer.raise_for_status()
            return await answer.json()


def _mqtt_entry(port: int) -> dict[str, Any]:
    return {
        "entry_id": "mqtt",
        "version": 1,
        "minor_version": 1,
        "domain": "mqtt",
        "title": "broker",
        "data": {"broker": "127.0.0.1", "port": port, "discovery": True},
        "options": {},
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "source": "user",
        "unique_id": None,
        "disabled_by": None,
    }


def _auth() -> dict[str, Any]:
    """One owner with a token that lasts."""
    owner = {"id": _OWNER, "group_ids": ["system-admin"], "is_owner": True, "is_active": True, "name": "test"}
    token = {
        "id": _TOKEN_ID,
        "user_id": _OWNER,
        "client_id": None,
        "client_name": "test",
        "client_icon": None,
        "token_type": "long_lived_access_token",
        "created_at": _LONG_AGO,
        "access_token_expiration": 315360000.0,
        "token": "2" * 128,
        "jwt_key": _TOKEN_KEY,
        "last_used_at": None,
        "last_used_ip": None,
        "expire_at": None,
        "credential_id": None,
        "version": "2024.3.3",
    }
    groups = [{"id": "system-admin", "name": "Administrators"}]
    users = [{**owner, "system_generated": False, "local_only": False}]
    return {"users": users, "groups": groups, "credentials": [], "refresh_tokens": [token]}


def _token() -> str:
    """The access token, signed with the key that is stored: HS256, as RFC 7519 has it."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    now = int(time.time())
    claims = {"iss": _TOKEN_ID, "iat": now - 60, "exp": now + 86_400}
    signed = b".".join(part(json.dumps(x).encode()) for x in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + part(hmac.digest(_TOKEN_KEY.encode(), signed, hashlib.sha256))).decode()
