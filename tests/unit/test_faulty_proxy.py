"""The proxy of the fault runs: each fault is what its name says."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.faults.faulty_proxy import Fault, FaultyProxy, Phase, random_phases


class Upstream:
    """Counts the writes that reach it."""

    def __init__(self) -> None:
        self.writes = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.writes += request.method != "GET"
        return web.json_response({"path": request.path_qs})


@asynccontextmanager
async def between(client: aiohttp.ClientSession) -> AsyncIterator[tuple[FaultyProxy, Upstream]]:
    upstream = Upstream()
    runner = web.ServerRunner(web.Server(upstream.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy = FaultyProxy(client, f"http://127.0.0.1:{runner.addresses[0][1]}", random.Random(1))
    await proxy.listen()
    try:
        yield proxy, upstream
    finally:
        await proxy.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("fault", "status", "applied"),
    [
        (None, 200, 1),
        (Fault.SLOW, 200, 1),
        (Fault.DROPPED, None, 0),
        (Fault.LOST, None, 1),
        (Fault.FAILED, 500, 0),
        (Fault.UNAVAILABLE, 503, 0),
        (Fault.THROTTLED, 429, 0),
        (Fault.DISK_FULL, 500, 0),
        (Fault.APPLIED_AND_FAILED, 500, 1),
    ],
)
async def test_a_write_under_a_fault_is_applied_and_answered_as_the_fault_says(
    fault: Fault | None, status: int | None, applied: int
) -> None:
    async with aiohttp.ClientSession() as client, between(client) as (proxy, upstream):
        proxy.chances = {} if fault is None else {fault: 1.0}
        try:
            async with client.post(f"{proxy.url}/apis/x%2Fy?dryRun=All", data=b"{}") as answer:
                seen: int | None = answer.status
                if fault is None:
                    assert await answer.json() == {"path": "/apis/x%2Fy?dryRun=All"}
        except aiohttp.ClientError:
            seen = None
        assert (seen, upstream.writes) == (status, applied)
        assert proxy.faults == ({} if fault is None else {fault: 1})


async def test_a_full_disk_is_still_read() -> None:
    async with aiohttp.ClientSession() as client, between(client) as (proxy, _):
        proxy.chances = {Fault.DISK_FULL: 1.0}
        async with client.get(f"{proxy.url}/api") as answer:
            assert answer.status == 200


async def test_a_proxy_that_refuses_listens_again_at_its_address() -> None:
    async with aiohttp.ClientSession() as client, between(client) as (proxy, upstream):
        url = proxy.url
        await proxy.close()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(url)
        await proxy.run([Phase(0.01, refuses=True)])
        assert proxy.url == url
        async with client.post(url) as answer:
            assert (answer.status, upstream.writes) == (200, 1)


def test_a_seed_is_the_same_schedule_every_time() -> None:
    assert random_phases(7, count=20, longest=2.0) == random_phases(7, count=20, longest=2.0)
    assert random_phases(7, count=20, longest=2.0) != random_phases(8, count=20, longest=2.0)
