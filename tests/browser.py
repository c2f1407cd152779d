"""A real browser without a window: Chromium, driven as a person would use it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig import ROOT, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def needs(what: str, is_there: bool) -> None:
    """Skip where a tool is missing; where everything has to be tested, fail."""
    if not is_there:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is not installed, and CI has to test the page with it")
        pytest.skip(f"{what} is not installed")


class Browser:
    """One tab."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self._driver.get, url)

    async def js(self, script: str, *given: Any) -> Any:
        """What a script returns; a promise is waited for."""
        wrapped = f"const done = arguments[arguments.length - 1]; (async () => {{ {script} }})().then(done);"
        return await asyncio.to_thread(self._driver.execute_async_script, wrapped, *given)

    async def text(self, selector: str) -> str:
        """The visible text of all elements that are meant; empty: there is none."""
        found = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n');"
        return str(await self.js(found, selector))

    async def shows(self, selector: str, part: str, within_s: float = 15) -> None:
        """Wait until the text of these elements has this part."""
        last = ""

        async def seen() -> bool:
            nonlocal last
            last = await self.text(selector)
            return part in last

        try:
            await eventually(seen, f"{selector} shows {part!r}", within_s)
        except AssertionError as exc:
            exc.add_note(f"it shows {last!r}; console: {await self.console()}")
            raise

    async def press(self, key: str) -> None:
        """Press a key where the focus is."""
        code = {"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": 13, "text": "\r"}
        await self._devtools("Input.dispatchKeyEvent", code)
        await self._devtools("Input.dispatchKeyEvent", {**code, "type": "keyUp"})

    async def title(self) -> str:
        return str(await self.js("return document.title;"))

    async def console(self) -> list[str]:
        """What the browser has complained of since the last call."""
        return [row["message"] for row in await asyncio.to_thread(self._driver.get_log, "browser")]

    async def looks(self, scheme: str, width: int, height: int = 900) -> None:
        """Become a screen of this width, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self._devtools("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self._devtools("Emulation.setEmulatedMedia", {"features": features})

    async def picture(self) -> str:
        """What is on the screen: a PNG in base64."""
        return str((await self._devtools("Page.captureScreenshot", {}))["data"])

    async def axe(self) -> list[str]:
        """What stands in the way of people with a screen reader, a keyboard or weak eyes: serious or worse."""
        await asyncio.to_thread(self._driver.execute_script, AXE.read_text("utf-8"))
        found = await self.js("return (await axe.run(document)).violations;")
        bad = [row for row in found if row["impact"] in ("serious", "critical")]
        return [
            f"{row['id']}: {[node['html'][:200] + node['failureSummary'] for node in row['nodes']][:3]}" for row in bad
        ]

    async def _devtools(self, command: str, given: dict[str, Any]) -> Any:
        return await asyncio.to_thread(self._driver.execute_cdp_cmd, command, given)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser that knows nothing, and is forgotten afterwards."""
    with tempfile.TemporaryDirectory(prefix="marginwatch-browser-", ignore_cleanup_errors=True) as folder:
        driver = await asyncio.to_thread(_start, Path(folder))
        try:
            yield Browser(driver)
        finally:
            await asyncio.to_thread(driver.quit)


def _start(folder: Path) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(60)
    return driver
