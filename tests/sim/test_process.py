"""Scenario files, the state file, control over HTTP, and the program itself."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import monitor.sim
from monitor.sim import Exchange, Scenario
from monitor.sim.__main__ import arguments, build, hello, main
from tests.sim.wire import WAIT_S, client, frame, private

TOML = """
seed = 7
[[symbol]]
symbol = "PEPEUSDT"
mark = "0.00001234"
brackets = [[50, "5000", "0.01"], [20, "25000", "0.025"]]
[[account]]
name = "only"
balances = {USDT = "100.00000001"}
[account.settings.PEPEUSDT]
margin_type = "ISOLATED"
leverage = 5
[[account.position]]
symbol = "PEPEUSDT"
quantity = "-1000000"
entry_price = "0.0000125"
isolated_wallet = "3"
[[script]]
at_s = 0
command = "transfer"
account = "only"
asset = "USDT"
amount = "1"
[[script]]
at_s = 0
command = "move"
symbol = "PEPEUSDT"
price = "0.000012"
over_s = 0.01
"""


async def test_a_scenario_file_sets_everything_and_its_script_runs(tmp_path: Path) -> None:
    """The format that the docstring promises."""
    path = tmp_path / "one.toml"
    path.write_text(TOML)
    exchange = Exchange(Scenario.load(str(path)), tick_s=None)

    await exchange.run_script()

    account = exchange.accounts["only"]
    assert (account.api_key, account.secret) == ("only-key", "only-secret")
    assert str(account.wallet("USDT")) == "104.00000001"
    assert exchange.market["PEPEUSDT"].mark == exchange.market["PEPEUSDT"].mark.__class__("0.000012")
    assert exchange.market["PEPEUSDT"].brackets[1].amount == 75


@pytest.mark.parametrize("name", ["calm", "mixed", "crash", "coinm"])
def test_a_scenario_survives_being_written(name: str) -> None:
    """The state file is one."""
    scenario = Scenario.named(name)

    again = Scenario.from_dict(json.loads(json.dumps(scenario.to_dict())))

    assert again == scenario


def test_the_exchange_imports_nothing_else_of_the_monitor() -> None:
    """A mistake must not be able to agree with itself."""
    imports = [
        line
        for path in Path(monitor.sim.__file__).parent.glob("*.py")
        for line in path.read_text().splitlines()
        if line.lstrip().startswith(("from monitor", "import monitor"))
    ]

    assert imports
    assert [line for line in imports if not line.lstrip().startswith("from monitor.sim")] == []


def test_a_misspelt_key_is_named() -> None:
    """An ignored key would be a scenario that is not what it says."""
    with pytest.raises(ValueError, match="no key 'acount'"):
        Scenario.from_dict({"acount": []})
    with pytest.raises(ValueError, match="scenarios are calm, mixed and crash"):
        Scenario.load("quiet")


async def test_a_restored_exchange_goes_on_with_money_positions_and_key(tmp_path: Path) -> None:
    """kill -9, and start again."""
    state = tmp_path / "state.json"
    first = Exchange(Scenario.named("mixed"), tick_s=None, state_path=state)
    key = first.listen_keys.create("main")
    first.fill("main", "BTCUSDT", "BUY", "0.1", "60000")
    first.fund("BTCUSDT", "0.0001")
    first.set_mark("SOLUSDT", "130")

    second = Exchange.restored(state, tick_s=None)

    assert second.snapshot() == first.snapshot()
    assert second.listen_keys.all() == {"main": key}
    assert second.accounts["main"].force_orders == first.accounts["main"].force_orders
    async with second, private(second) as socket, client(second) as binance:
        second.transfer("main", "USDT", "1")
        assert (await frame(socket))["a"]["m"] == "DEPOSIT"
        assert len(await binance.futures_liquidation_orders()) == 1
        assert len(await binance.futures_income_history(incomeType="FUNDING_FEE")) == 1
        assert await binance.futures_liquidation_orders(autoCloseType="ADL") == []
        second.expire_listen_key("main")
        assert await binance.futures_stream_get_listen_key() != key


def test_a_restored_exchange_still_knows_its_coin_margined_account(tmp_path: Path) -> None:
    """Market, contracts and coins come back, and the program tells its stream host."""
    state = tmp_path / "state.json"
    first = Exchange(Scenario.named("coinm"), tick_s=None, state_path=state)
    key = first.listen_keys.create("coin")
    first.fill("coin", "BTCUSD_PERP", "BUY", "10", "60000")

    second = Exchange.restored(state, tick_s=None)

    assert second.snapshot() == first.snapshot()
    assert second.listen_keys.all() == {"coin": key}
    assert f'private_url = "{second.ws_url}/dstream"' in hello(second)


async def test_everything_can_be_steered_over_http() -> None:
    """For an exchange in a process of its own."""
    exchange = Exchange(Scenario.named("calm"), tick_s=None)
    async with exchange, aiohttp.ClientSession(exchange.url) as session:

        async def post(command: str, **body: Any) -> Any:
            async with session.post(f"/sim/{command}", json=body) as response:
                return response.status, await response.json()

        assert await post("set_mark", symbol="BTCUSDT", price="59999.9") == (200, {"ok": True, "result": None})
        assert (await post("fund", symbol="BTCUSDT", rate=0.0001))[0] == 200
        assert (await post("fault", mute_market=True, latency_s=0.001))[0] == 200
        assert (await post("expire_listen_key", account="main"))[1]["result"] is False
        assert (await post("fault", nonsense=True))[0] == 400
        assert "it takes (symbol" in (await post("set_mark", symbol="BTCUSDT"))[1]["error"]
        assert "no command 'stop'" in (await post("stop"))[1]["error"]
        assert (
            "-4046"
            in (await post("set_margin_type", account="main", symbol="BTCUSDT", margin_type="CROSSED"))[1]["error"]
        )
        async with session.get("/sim/state") as response:
            state = (await response.json())["result"]
        async with session.get("/sim/counters") as response:
            assert (await response.json())["result"]["order_calls"] == 0

    assert exchange.market["BTCUSDT"].mark == exchange.market["BTCUSDT"].mark.__class__("59999.9")
    assert state["faults"]["mute_market"] is True
    assert state["scenario"]["account"][0]["balances"]["USDT"] == "9997.00000500"


def test_brackets_of_a_file_replace_and_add(tmp_path: Path) -> None:
    """The shape that the exchange answers with; symbols that are not traded are listed all the same."""
    row = {"initialLeverage": 3, "notionalFloor": 0, "notionalCap": 9, "maintMarginRatio": 0.1667, "cum": 0.0}
    path = tmp_path / "brackets.json"
    path.write_text(json.dumps([{"symbol": symbol, "brackets": [row]} for symbol in ("BTCUSDT", "0GUSDT")]))

    exchange = build(arguments(["--brackets", str(path)]))

    tables = exchange.market.brackets()
    assert [str(b.rate) for b in tables["0GUSDT"]] == ["0.1667"]
    assert tables["BTCUSDT"] == tables["0GUSDT"]


def test_a_mistake_on_the_command_line_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """And says what there is."""
    assert main(["--scenario", "quiet"]) == 2
    assert "calm, mixed and crash" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--host", "0.0.0.0"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        main(["--prices", "BTCUSDT=/no/such/file"])


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
async def test_the_program_says_what_a_monitor_needs_and_ends_on_a_signal(name: signal.Signals) -> None:
    """Status 0: it did what it was asked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "monitor.sim", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S * 2):
        first, account = [(await process.stdout.readline()).decode() for _ in range(2)]
        process.send_signal(name)
        await process.stdout.read()
        status = await process.wait()

    assert first.startswith("simulated exchange on http://127.0.0.1:")
    assert account.startswith("account main: rest_url = ")
    assert 'api_key = "main-key"  secret = "main-secret"' in account
    assert status == 0


async def test_what_it_prints_of_an_ipv6_address_is_an_address_of_the_web() -> None:
    """Whoever copies it into a config must reach it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "monitor.sim", "--port", "0", "--host", "::1", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S * 2):
            url = (await process.stdout.readline()).decode().split()[3].rstrip(",")
            async with aiohttp.ClientSession(url) as session, session.get("/sim/state") as response:
                assert response.status == 200
    finally:
        process.kill()
        await process.stdout.read()
        await process.wait()


async def test_a_killed_program_goes_on_from_its_state_file(tmp_path: Path) -> None:
    """kill -9 in the middle; nothing booked is lost."""
    state = tmp_path / "state.json"
    money = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "monitor.sim", "--port", "0", "--state", str(state), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S * 2):
            url = (await process.stdout.readline()).decode().split()[3].rstrip(",")
            async with aiohttp.ClientSession(url) as session:
                deposit = {"account": "main", "asset": "USDT", "amount": "5"}
                async with session.post("/sim/transfer", json=deposit) as response:
                    assert response.status == 200
                async with session.get("/sim/state") as response:
                    money.append((await response.json())["result"]["scenario"]["account"][0]["balances"]["USDT"])
            process.kill()
            await process.stdout.read()
            await process.wait()

    assert money == ["10005.00000000", "10010.00000000"]
