"""A frame received and not even looked at: what no variant on this socket can be faster than."""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import connect

from benchmarks import worker


async def run(url: str, given: object) -> None:
    desk = worker.Desk()
    async with connect(url, compression=None, max_size=None) as socket, asyncio.TaskGroup() as tasks:
        tasks.create_task(desk.serve({"report": dict}))
        while await socket.recv(decode=False):
            desk.decided()
            desk.answer()
