"""Prometheus itself reads the daemon, fires the alerts that we ship, and answers every query of the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from monitor.metrics import KINDS
from tests import stories
from tests.rig import ROOT, Listener, Mosquitto, eventually, free_port, private_file, until, watching, write_config
from tests.test_heartbeat import Receiver
from tests.test_http import TOKEN

RULES = ROOT / "docs" / "prometheus" / "rules.yml"
CASES = ROOT / "tests" / "prometheus" / "rules_test.yml"
DASHBOARD = ROOT / "docs" / "grafana" / "marginwatch.json"
PAGE = ROOT / "docs" / "monitoring.md"
SERIES = {
    name
    for kind in KINDS
    for name in (
        [kind.name] if kind.type != "histogram" else [f"{kind.name}_{end}" for end in ("bucket", "count", "sum")]
    )
}
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))


def program(name: str) -> str:
    """Where a program of Prometheus is; where everything has to be tested it must be there."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI has to test with it")
        pytest.skip(f"{name} is not installed")
    return found


def named(text: str) -> set[str]:
    """Our metrics that a text names."""
    return set(re.findall(r"\b(?:marginwatch|process)_[a-z_]+\b", text))


# ---- the rules ----


def test_the_rules_are_right_and_each_fires_when_it_should() -> None:
    """As Prometheus' own tool judges them, on made-up series."""
    promtool = program("promtool")
    for command in ([promtool, "check", "rules", str(RULES)], [promtool, "test", "rules", str(CASES)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_told_of_in_a_case_in_which_it_fires_and_in_one_in_which_it_does_not() -> None:
    """One that never fires is as bad as one that always does."""
    cases = re.findall(r"alertname: (\w+)\}?(\n +exp_alerts:)?", CASES.read_text("utf-8"))

    assert ALERTS
    assert {name for name, fires in cases if fires} == set(ALERTS)
    assert {name for name, fires in cases if not fires} == set(ALERTS)


def test_rules_and_dashboard_name_only_metrics_that_exist() -> None:
    """A query with a wrong name is silent for ever."""
    rules = named("\n".join(re.findall(r"expr: (.*)", RULES.read_text("utf-8"))))
    queries = named("\n".join(expressions()))

    assert rules - SERIES == set()
    assert queries - SERIES == set()
    assert {kind.name for kind in KINDS} - {name.removesuffix("_bucket") for name in queries} == set()  # all are shown


# ---- the dashboard ----


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def expressions() -> list[str]:
    """Every query of the dashboard, its variables and annotations too."""
    board = dashboard()
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [note["expr"] for note in board["annotations"]["list"]]
    return asked + [variable["definition"] for variable in board["templating"]["list"] if "definition" in variable]


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """It names no data source of ours; panels do not lie on one another."""
    board = dashboard()
    panels = board["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells

    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert sources == {"${datasource}"}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", "\n".join(expressions()))) - variables == {"__rate_interval"}


def test_of_two_daemons_one_that_is_dead_is_no_sight(tmp_path: Path) -> None:
    """What the other sees says nothing of what the dead one should have watched."""
    [panel] = [panel for panel in dashboard()["panels"] if panel["title"] == "Sight"]
    query = panel["targets"][0]["expr"].replace("$job", "marginwatch").replace("$instance", ".*")
    of = 'job="marginwatch", instance='
    series = {f'up{{{of}"a"}}': "0x20", f'up{{{of}"b"}}': "1x20", f'marginwatch_blind{{{of}"b"}}': "0x20"}
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "2m", "exp_samples": [{"labels": "{}", "value": 1}]}],
    }
    file = tmp_path / "case.yml"
    file.write_text(json.dumps({"evaluation_interval": "15s", "tests": [case]}), "utf-8")

    done = subprocess.run([program("promtool"), "test", "rules", str(file)], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


# ---- the page ----


def test_the_page_tells_of_every_metric_and_alert() -> None:
    """What is not written there does not exist for whoever builds on it; and what it shows is what is."""
    page = PAGE.read_text("utf-8")
    rows = dict(re.findall(r"^\| `((?:marginwatch|process)_\w+)(?:\{[a-z, ]+\})?` \| (.+?) \|$", page, re.M))
    labels = dict(re.findall(r"^\| `(\w+)\{([a-z, ]+)\}` \|", page, re.M))

    assert rows == {kind.name: kind.help.removesuffix(".") for kind in KINDS}
    assert labels == {kind.name: ", ".join(kind.labels) for kind in KINDS if kind.labels}
    assert set(re.findall(r"`(Marginwatch\w+)`", page)) == set(ALERTS)


# ---- Prometheus itself ----


class Prometheus:
    """A Prometheus that reads the daemon, judges by our rules, and tells."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; None while it does not listen yet."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/{path}", params=parameters) as answer,
            ):
                body = await answer.json()
        except aiohttp.ClientError:
            return None
        assert body["status"] == "success", (path, parameters, body)
        return body["data"]

    async def value(self, query: str) -> float | None:
        """The first value of a query; None: there is no sample."""
        data = await self.ask("query", query=query)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None

    async def firing(self, name: str) -> list[dict[str, str]]:
        """The labels of each alert of this name that fires."""
        data = await self.ask("alerts")
        alerts = data["alerts"] if data else []
        return [a["labels"] for a in alerts if a["labels"]["alertname"] == name and a["state"] == "firing"]


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Prometheus]:
    """A process of its own, on a port of its own, with the scrape config that the page shows."""
    port = free_port()
    folder.mkdir()
    shown = re.search(r"```yaml\n# prometheus\.yml\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert shown is not None
    text = shown[1].replace("127.0.0.1:8787", f"127.0.0.1:{target}")
    text = text.replace("/etc/prometheus/marginwatch_token", str(private_file(folder / "token", TOKEN)))
    text = text.replace("/etc/prometheus/marginwatch.rules.yml", str(RULES))
    fast = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
    config = folder / "prometheus.yml"
    config.write_text(fast + re.sub(r"^global:\n(?: .*\n)*", "", text).replace("scrape_interval: 5s", ""), "utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            yield Prometheus(port)
        except AssertionError as exc:
            exc.add_note((folder / "log").read_text("utf-8")[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(10)


async def test_prometheus_reads_the_daemon_fires_an_alert_and_answers_the_dashboard(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """All of it as a user has it: the page's scrape config, the token, the rules, and each panel's query."""
    program("prometheus")
    port = free_port()
    receiver = Receiver()
    config: dict[str, Any] = {
        "http": {"listen": f"127.0.0.1:{port}", "token": f"file:{private_file(tmp_path / 'token', TOKEN)}"},
        "heartbeat": {"url": receiver.url, "every_s": 0.05},
    }
    async with AsyncExitStack() as stack:
        await receiver.start()
        stack.push_async_callback(receiver.stop)
        exchange = await stack.enter_async_context(stories.exchange())
        await stack.enter_async_context(watching(write_config(tmp_path / "d", exchange, broker.port, **config)))
        server = stack.enter_context(prometheus(tmp_path / "prometheus", port))
        ratio = 'marginwatch_margin_ratio{account="main", pool="cross-usdt"}'
        # 240 / 12000, of one BTC at 60000
        assert await eventually(lambda: server.value(ratio), "Prometheus has the margin ratio") == 0.02
        await eventually(lambda: server.value('up{job="marginwatch"} == 1'), "its answers count")
        assert await server.firing("MarginwatchMarginRatioHigh") == []

        exchange.set_mark("BTCUSDT", "48290")  # 193.16 / 290
        exchange.set_mark("BTCUSDT", "48240")  # 192.96 / 240
        fired = await eventually(lambda: server.firing("MarginwatchMarginRatioHigh"), "the alert fires")
        assert [(labels["account"], labels["pool"], labels["severity"]) for labels in fired] == [
            ("main", "cross-usdt", "warning")
        ]
        assert await eventually(lambda: server.firing("MarginwatchLiquidationNear"), "and the other")
        await listener.event("margin_ratio", "opened")
        await until(lambda: receiver.pings, "a ping is answered")

        data = await server.ask("rules")
        broken = [rule for group in data["groups"] for rule in group["rules"] if rule["health"] == "err"]
        assert broken == []
        for expression in expressions():
            await answered(server, expression)


async def answered(server: Prometheus, expression: str) -> None:
    """Prometheus has something to say to a query of the dashboard."""
    query = expression
    values = {"job": "marginwatch", "instance": ".*", "account": ".*", "__rate_interval": "10s"}
    for name, value in values.items():
        query = query.replace(f"${name}", value)
    wanted = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
    if wanted is not None:
        query = f"count by ({wanted[2]}) ({wanted[1]})"
    if "changes(" in query:
        query = query.replace(" > 0", "")  # of starts: there has been none since
    await eventually(lambda: result(server, query), f"{expression} has an answer")


async def result(server: Prometheus, query: str) -> bool:
    data = await server.ask("query", query=query)
    return bool(data and data["result"])
