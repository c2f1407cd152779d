"""Which module may know which: imports run downward, and the core of the thing touches nothing outside."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.venues import VENUES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monitor"

LAYERS = (
    # From top to bottom; a module imports only from layers below its own. Modules of one layer do not know each other.
    {"__main__"},
    {"command_line"},
    {
        "commands.demo",
        "commands.check",
        "commands.forget",
        "commands.history",
        "commands.init",
        "commands.run",
        "commands.status",
        "commands.watch",
        "commands.assess",
        "commands.record",
        "commands.replay",
        "commands.rehearse",
        "commands.steer",
    },
    {"commands.demo_scenarios", "commands.watch_view"},
    {"commands"},
    {"shell.daemon"},
    {"shell.runtime", "shell.probe_exchange", "shell.probe_broker"},
    {"shell.feeds", "shell.ghosts", "shell.onlooker", "shell.endpoints", "shell.page", "shell.proof_of_life"},
    {"shell.market_feed", "shell.account_feed", "shell.broker", "shell.store", "shell.second_way"},
    {"shell.missed_orders"},
    {"shell.rest_link"},
    {"shell.shared_stream", "shell.feed"},
    {"shell.websocket"},
    {"shell.heartbeat", "shell.http", "shell.webhook"},
    {"shell.outward"},
    {"shell.recorder", "shell.sessions"},
    {"shell.known"},
    {"shell.offline"},
    {"shell.rest", "shell.mqtt_client", "shell.inbox", "shell.backoff", "shell.vitals", "shell.database"},
    {"shell.causes", "shell.clock", "shell.lookups", "shell.migrations", "shell.owed", "shell.hub", "shell.proxies"},
    {"shell.handshakes"},
    {"shell.findings", "shell.logs", "shell.settings", "shell.systemd", "shell.tap", "shell.chronicle"},
    {"shell.sink", "shell.rows", "shell.packets", "shell.tasks", "shell.tls"},
    {"shell"},
    {"config"},
    {"config_rules"},
    {"config_values"},
    {"panel"},
    {"standing"},
    {"snapshot", "outbox", "sizes", "board", "metrics", "steering", "replaying", "retained", "discovery"},
    {"encoder", "liveness", "recording", "tally"},
    {"payloads.states", "payloads.stories"},
    {"payloads.figures"},
    {"payloads"},
    {"message"},
    {"topics", "compressed"},
    {"core"},
    {"intake"},
    {"attention", "judges.all"},
    {
        "judges.daily",
        "judges.groups",
        "judges.exchange",
        "judges.levels",
        "judges.moved",
        "judges.funding",
        "judges.instance",
        "judges.forced_orders",
        "judges.listings",
        "judges.notices",
        "judges.staleness",
    },
    {"judges"},
    {"reporter"},
    {"daily_story"},
    {"telling", "trial", "publication", "whatif", "discreet"},
    {"freshness"},
    {"wording", "accounts"},
    {"effects"},
    {"silences"},
    {"rotation", "unseen", "gone", "latest_marks", "fundings"},
    {"ratios", "moves", "incidents", "links", "forced", "mute", "cadence", "pace", "turns", "forms"},
    {"incident"},
    {"rules", "stages", "humanize", "baselines"},
    {"risk.attribution", "risk.drift", "risk.advice", "risk.scenario", "risk.pools", "risk.funding"},
    {"risk.screen"},
    {"risk.columns"},
    {"risk.zones"},
    {"risk.quiet"},
    {"risk.assessment", "risk.bankruptcy"},
    {"risk.report"},
    {"risk.pool"},
    {"risk.contracts", "risk.collateral"},
    {"risk.liquidation", "risk.terms", "book"},
    {"brackets"},
    {"market"},
    {"listings"},
    {"risk.margin"},
    {"digits"},
    {"risk"},
    {"venues"},
    {"venues.binance_usdm", "venues.binance_coinm"},
    {"venues.binance_venue"},
    {
        "venues.binance_market",
        "venues.binance_account",
        "venues.binance_private",
        "venues.binance_wallet",
        "venues.binance_remedies",
    },
    {"venues.binance"},
    {"venues.wire"},
    {"events", "errors", "names"},
    {""},  # the package itself: its version
)
# fmt: off
IMPURE = frozenset({
    "asyncio", "socket", "ssl", "sqlite3", "time", "os", "pathlib", "aiomqtt", "paho", "websockets", "aiohttp",
    "binance", "structlog", "logging", "subprocess", "random", "secrets", "threading", "multiprocessing",
    "queue", "signal", "sys", "io", "shutil", "tempfile", "http", "urllib.request",
})
# fmt: on
MAY_TOUCH_THE_WORLD = ("shell", "commands", "command_line", "sim", "__main__")
CLOCKS_AND_FILES = frozenset({"now", "today", "utcnow", "read_text", "read_bytes", "write_text", "write_bytes"})
ORDER = re.compile(r"/(order|batchOrders|algoOrder|allOpenOrders|countdownCancelAll|positionMargin|transfer)\b", re.I)


def name_of(path: Path) -> str:
    """`monitor/risk/__init__.py` → `risk`, `monitor/core.py` → `core`."""
    return ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


def is_sim(name: str) -> bool:
    return name.split(".")[0] == "sim"


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}
OWN = sorted(name for name in MODULES if not is_sim(name))


def imports(name: str) -> Iterator[str]:
    """Everything that a module imports, inside functions too, by its full name."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("monitor.") in MODULES else str(node.module)


def own_imports(name: str) -> set[str]:
    """The modules of this package among them, without the package's name."""
    return {
        full.removeprefix("monitor").removeprefix(".")
        for full in imports(name)
        if full == "monitor" or full.startswith("monitor.")
    }


def depth(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def may_touch_the_world(name: str) -> bool:
    return name.split(".")[0] in MAY_TOUCH_THE_WORLD


def test_every_module_has_its_layer() -> None:
    """A new module is given its place here, or it is nobody's business what it imports."""
    placed = [name for layer in LAYERS for name in layer]

    assert sorted(placed) == sorted(OWN)


@pytest.mark.parametrize("name", OWN)
def test_imports_run_downward_only(name: str) -> None:
    """One price can be followed by reading from bottom to top, and nothing below knows who uses it."""
    upward = {other for other in own_imports(name) - {name} if not is_sim(other) and depth(other) <= depth(name)}

    assert upward == set()


@pytest.mark.parametrize("name", [name for name in OWN if not may_touch_the_world(name)])
def test_the_pure_part_touches_nothing_outside(name: str) -> None:
    """No clock, no socket, no file, no chance: the same events give the same effects."""
    roots = {full for full in imports(name) if full.split(".")[0] in IMPURE or full in IMPURE}
    awaits = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor)]
    called = {_called(node) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)}

    assert roots == set()
    assert awaits == []
    assert called & {"open", "print", "input", "exec", "eval", "__import__", *CLOCKS_AND_FILES} == set()


def _called(node: ast.Call) -> str:
    """The bare name of what is called; of an attribute its last part."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr if node.func.attr in CLOCKS_AND_FILES else ""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def test_imports_inside_functions_are_seen() -> None:
    """The command line imports each command when it is used; what is hidden there counts as well."""
    assert {"commands.run", "commands.assess", "commands.steer"} <= own_imports("command_line")


def test_book_and_venues_do_not_know_each_other() -> None:
    """Both speak in events."""
    venues = {name for name in OWN if name.split(".")[0] == "venues"}

    assert own_imports("book") & venues == set()
    assert {other for name in venues for other in own_imports(name)} <= venues | {"events", "errors", "names"}


def test_only_the_demo_knows_the_simulated_exchange() -> None:
    """What watches real money must not lean on what pretends."""
    knows = {name for name in OWN if any(is_sim(other) for other in own_imports(name))}

    assert knows == {"commands.demo", "commands.demo_scenarios"}


def test_the_simulated_exchange_knows_nothing_of_the_monitor() -> None:
    """It does its own arithmetic, so that a mistake cannot agree with itself."""
    sim = [name for name in MODULES if is_sim(name)]

    assert sim
    assert {name: known for name in sim if (known := {m for m in own_imports(name) if not is_sim(m)})} == {}


def test_only_the_rest_client_knows_the_exchanges_library() -> None:
    """One module signs and sends; whoever else could would not be found by reading it."""
    knows = {name for name in OWN if any(full.split(".")[0] == "binance" for full in imports(name))}

    assert knows == {"shell.rest"}


# ---- read-only by construction ----


def test_no_path_of_an_order_is_in_the_code() -> None:
    """What is not there cannot be called by mistake."""
    found = {
        name: node.value
        for name in OWN
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ORDER.search(node.value)
    }

    assert found == {}


def test_no_order_function_of_the_library_is_called() -> None:
    """python-binance has one for every endpoint; we use none that acts."""
    acts = re.compile(r"(create|cancel|place|modify|change|set)_?.*(order|leverage|margin|position|transfer)|withdraw")
    found = {
        f"{name}: {node.attr}"
        for name in OWN
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and acts.search(node.attr)
    }

    assert found == set()


@pytest.mark.parametrize("name", VENUES)
def test_every_request_that_is_no_get_is_about_the_listen_key(name: str) -> None:
    """The only thing we ever ask an exchange to change is how long it goes on telling us."""
    requests = VENUES[name].requests
    asks = [*requests.account, *requests.reconcile, requests.time, requests.contracts, requests.marks]

    assert {request.method for request in asks} == {"GET"}
    assert {r.path.rsplit("/", 1)[1] for r in (requests.open_stream, requests.keep_stream)} == {"listenKey"}


def test_a_request_is_made_by_venues_alone() -> None:
    """So that the test above has seen every one of them: a method that acts stands nowhere else."""
    acting = {
        name
        for name in OWN
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and _called(node) == "Request" and _method(node) != "GET"
    }

    assert acting <= {"venues.binance_usdm", "venues.binance_coinm"}


def _method(node: ast.Call) -> object:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) else None
