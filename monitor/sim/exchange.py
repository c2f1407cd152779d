"""The simulated exchange: the engine behind real sockets on the loopback interface."""

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from monitor.sim import prices
from monitor.sim.account import Account
from monitor.sim.control import run_command, serve_control
from monitor.sim.decimals import Numeric, number, plain
from monitor.sim.enforcement import Enforcement
from monitor.sim.faults import garbage
from monitor.sim.frames import Frame
from monitor.sim.listenkeys import ListenKeys
from monitor.sim.market import Clock
from monitor.sim.rest import Rest
from monitor.sim.scenario import Scenario
from monitor.sim.streams import SLOW_TICKS, Streams


class Exchange(Enforcement):
    """An exchange that can be started, stopped, killed and started again with its state kept.

    Operations are plain calls; what they push is on its way when the caller next awaits.

    Attributes:
        tick_s: Seconds between pushes of marks; None: only pulse() pushes.
        auto_funding: Whether funding is settled by itself when its time comes.
        state_path: Where the state is kept after every change, in the shape of a scenario.
        liquidation: "full" or "partial", for every account; default: as the scenario has it. See set_liquidation.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        clock: Clock | None = None,
        *,
        tick_s: float | None = 1.0,
        auto_funding: bool = False,
        state_path: str | Path | None = None,
        liquidation: str | None = None,
    ) -> None:
        super().__init__(scenario or Scenario.named("calm"), clock)
        self.tick_s = tick_s
        self.auto_funding = auto_funding
        self.state_path = Path(state_path) if state_path else None
        self.listen_keys = ListenKeys(self.random, self._key_ended)
        self.streams = Streams(self.faults, self.listen_keys, self.counters)
        self.rest = Rest(self, self.listen_keys)
        self.host = "127.0.0.1"
        self.port = 0
        self.played = 0
        self._ticks = 0
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if liquidation is not None:
            self.set_liquidation(mode=liquidation)

    @property
    def url(self) -> str:
        """Base of the REST paths."""
        return f"http://{self._address}"

    @property
    def ws_url(self) -> str:
        """Base of the stream paths; add /market or /private, or /dstream for those of COIN-M."""
        return f"ws://{self._address}"

    @property
    def _address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def order_calls(self) -> list[str]:
        """Calls that tried to change something; a monitor makes none."""
        return self.rest.order_calls

    # Life

    async def __aenter__(self) -> "Exchange":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. port 0: the one before, or any free one the first time."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handle_signals=False)
        await self._runner.setup()
        self.host = host
        await web.TCPSite(self._runner, host, port or self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        self.listen_keys.start()
        if self.tick_s is not None:
            self.spawn(self._tick(self.tick_s), "sim-tick")

    async def stop(self, keep_listen_keys: bool = True) -> None:
        """Close every socket with a goodbye, then the listener."""
        await self._cancel()
        await self.streams.close()
        await self._close(keep_listen_keys)

    async def kill(self, keep_listen_keys: bool = True) -> None:
        """Cut every TCP connection and close the listener, as a crash would."""
        await self._cancel()
        self.streams.drop()
        if self._runner is not None and self._runner.server is not None:
            for handler in list(self._runner.server.connections):
                if handler.transport is not None:
                    handler.transport.abort()
        await self._close(keep_listen_keys)

    async def _close(self, keep_listen_keys: bool) -> None:
        self.listen_keys.stop(forget=not keep_listen_keys)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something beside the exchange until it ends or the exchange stops."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": exc})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/sim/"):
            return await serve_control(self, request)
        if self.faults.refuse:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)  # goes nowhere: the connection is cut
        if path.startswith(("/fapi/", "/dapi/", "/sapi/")):
            return await self.rest.serve(request)
        return await self.streams.serve(request)

    # Hooks of the engine

    def push(self, account: Account, frame: Frame) -> None:
        """Send one private event."""
        self.streams.push_private(account, frame)

    def push_contract(self, frame: Frame) -> None:
        """Send one contractInfo."""
        self.streams.push_contract(frame)

    def changed(self) -> None:
        """Keep the state, where it is to be kept."""
        if self.state_path is not None:
            self.save(self.state_path)

    def _key_ended(self, account: str, key: str) -> None:
        self.streams.push_expired(self.account(account), key, self.now_ms())

    # State

    def state(self) -> dict[str, Any]:
        """Everything that a restart must not lose, fit for JSON: a scenario, and how far a price file has come."""
        return {
            "scenario": self.as_scenario().to_dict(),
            "listen_keys": self.listen_keys.all(),
            "settlements": self.settlements,
            "last_id": self.last_id,
            "insurance": {asset: plain(amount) for asset, amount in self.insurance.items()},
            "played": self.played,
        }

    def save(self, path: Path) -> None:
        """Write the state; a reader sees the old file or the new one, never a part."""
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(self.state()), "utf-8")
        os.replace(fresh, path)

    @classmethod
    def restored(cls, path: Path, **options: Any) -> "Exchange":
        """The exchange that wrote this state; its script is not run again."""
        state = json.loads(path.read_text("utf-8"), parse_float=Decimal)
        exchange = cls(Scenario.from_dict({**state["scenario"], "script": []}), state_path=path, **options)
        exchange.played = state["played"]
        exchange.last_id = state["last_id"]
        exchange.settlements = state["settlements"]
        exchange.insurance = {asset: number(amount) for asset, amount in state.get("insurance", {}).items()}
        exchange.random.seed(f"{exchange.scenario.seed} {state['listen_keys']}")  # a new key is never an old one
        for account, key in state["listen_keys"].items():
            exchange.listen_keys.restore(account, key)
        return exchange

    # The market's own motion

    def pulse(self, slow: bool = True) -> None:
        """Push marks and asset indexes to every subscriber. slow: marks also to those who want every third second."""
        self.streams.push_marks(self.market.contracts.values(), self.now_ms(), slow)
        self.streams.push_asset_indexes(self.market.asset_indexes.values(), self.now_ms())

    async def _tick(self, tick_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += tick_s
            await asyncio.sleep(max(due - loop.time(), 0))
            self._settle_due()
            self.pulse(slow=self._ticks % SLOW_TICKS == 0)
            self._ticks += 1

    def _settle_due(self) -> None:
        now = self.now_ms()
        for contract in self.market.contracts.values():
            if 0 < contract.next_funding_ms <= now:
                if self.auto_funding:
                    self.fund(contract.symbol)
                else:
                    contract.roll_funding(now)

    async def path(self, symbol: str, points: Sequence[tuple[float, Numeric]], every_s: float = 0.25) -> None:
        """Move a mark in straight lines through (seconds from now, price) points."""
        await self._straight(self.market[symbol].mark, points, every_s, partial(self.set_mark, symbol))

    async def index_path(self, asset: str, points: Sequence[tuple[float, Numeric]], every_s: float = 0.25) -> None:
        """Move an asset index in straight lines through (seconds from now, index) points."""
        start = self.market.asset_index(asset).index
        await self._straight(start, points, every_s, partial(self.set_asset_index, asset))

    async def _straight(
        self,
        price: Decimal,
        points: Sequence[tuple[float, Numeric]],
        every_s: float,
        move: Callable[[Decimal], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        at_s = 0.0
        for next_s, target in points:
            goal, start = number(target), price
            while (passed := loop.time() - begun) < next_s:
                part = number(round((passed - at_s) / (next_s - at_s), 6))
                move((start + (goal - start) * part).quantize(Decimal("1e-8")))
                await asyncio.sleep(min(every_s, max(next_s - passed, 0)))
            move(goal)
            at_s, price = next_s, goal

    async def play(
        self,
        files: Mapping[str, str | Path],
        funding: Mapping[str, str | Path] | None = None,
        step_s: float = 0.05,
        limit: int | None = None,
    ) -> int:
        """Play price files, step_s real seconds per instant, from where an earlier run stopped.

        Event times are those of now; the files' times only order the steps.

        Args:
            limit: Steps to play at most.

        Returns:
            Steps played now.
        """
        done = 0
        for place, step in enumerate(prices.steps(files, funding)):
            if place < self.played:
                continue
            if done == limit:
                break
            done += 1
            self.played = place + 1
            if step.marks:
                self.set_marks(step.marks)
            for symbol, rate in step.funding.items():
                self.fund(symbol, rate)
            self.pulse()
            await asyncio.sleep(step_s)
        return done

    async def run_script(self, script: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Run a script: each command at its second, moves beside each other."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as moves:
            for line in sorted(script if script is not None else self.scenario.script, key=lambda row: row["at_s"]):
                await asyncio.sleep(max(begun + float(line["at_s"]) - loop.time(), 0))
                if line["command"] == "move":
                    moves.create_task(self.path(line["symbol"], [(float(line["over_s"]), line["price"])]))
                elif line["command"] == "move_index":
                    moves.create_task(self.index_path(line["asset"], [(float(line["over_s"]), line["index"])]))
                else:
                    arguments = {key: value for key, value in line.items() if key not in ("at_s", "command")}
                    run_command(self, line["command"], arguments)

    # Faults

    def fault(self, **switches: Any) -> None:
        """Throw switches of Faults by name.

        Raises:
            ValueError: An unknown switch, or a value that it does not have.
        """
        self.faults.update(switches)
        self.streams.apply_half_open()
        self.streams.release_held()

    def drop(self, route: str | None = None) -> None:
        """Cut the sockets of "market", "private", "fstream" or "dstream" now, or all."""
        self.streams.drop(route)

    def send_garbage(self, route: str = "market", kind: str = "text") -> None:
        """Send a bad frame to a route or a host: text, types, binary or big (5 MB)."""
        self.streams.send_raw(route, garbage(kind))

    def send_raw(self, route: str, frame: str) -> None:
        """Send any text to a route or a host."""
        self.streams.send_raw(route, frame)

    def set_weight(self, limit: int | None = None, others: int | None = None) -> None:
        """REST weight a minute: what is allowed to an address, and what others there use of it."""
        weights = self.rest.weights
        weights.limit = weights.limit if limit is None else limit
        if others is not None:
            weights.used += others - weights.others
            weights.others = others

    def expire_listen_key(self, account: str) -> bool:
        """End the account's listen key now, announced; whether it had one."""
        return self.listen_keys.end(self.account(account).name)
