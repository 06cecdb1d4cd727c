"""The probes as the kubelet and Prometheus see them, over real HTTP on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from questline_operator.shell.probes import Probes


@dataclass
class Process:
    """What the probes ask, as a test sets it."""

    live: str | None = None
    ready: str | None = None

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        probes = Probes(0, self.registry, live=lambda: self.live, ready=lambda: self.ready, host="127.0.0.1")
        async with (
            probes,
            aiohttp.ClientSession(base_url=f"http://127.0.0.1:{probes.port}") as session,
        ):
            yield session


async def ask(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as response:
        return response.status, await response.text()


async def test_a_process_that_works_and_is_ready_answers_200() -> None:
    async with Process().client() as session:
        assert await ask(session, "/livez") == (200, "ok\n")
        assert await ask(session, "/readyz") == (200, "ok\n")


async def test_what_is_stale_makes_livez_503_with_a_line_that_says_so_and_back() -> None:
    process = Process()
    async with process.client() as session:
        process.live = "a watch has been silent for 412 s"
        assert await ask(session, "/livez") == (503, "a watch has been silent for 412 s\n")
        assert await ask(session, "/readyz") == (200, "ok\n")
        process.live = None
        assert await ask(session, "/livez") == (200, "ok\n")


async def test_what_is_not_ready_makes_readyz_503_and_leaves_livez() -> None:
    async with Process(ready="the first lists are being read").client() as session:
        assert await ask(session, "/readyz") == (503, "the first lists are being read\n")
        assert await ask(session, "/livez") == (200, "ok\n")


async def test_metrics_are_those_of_the_registry_that_was_given() -> None:
    process = Process()
    Counter("questline_writes", "Writes.", registry=process.registry).inc(3)
    async with process.client() as session, session.get("/metrics") as response:
        text = await response.text()
        kind = response.headers["Content-Type"]
    assert "questline_writes_total 3.0" in text
    assert "python_info" not in text
    assert kind.startswith("text/plain")


async def test_any_other_path_is_not_found() -> None:
    async with Process().client() as session:
        status, _ = await ask(session, "/")
    assert status == 404


async def test_the_port_is_free_again_when_the_probes_have_ended() -> None:
    registry = CollectorRegistry()
    async with Probes(0, registry, live=lambda: None, ready=lambda: None, host="127.0.0.1") as first:
        port = first.port
        with pytest.raises(OSError, match="address already in use"):
            async with Probes(port, registry, live=lambda: None, ready=lambda: None, host="127.0.0.1"):
                pass
    async with Probes(port, registry, live=lambda: None, ready=lambda: None, host="127.0.0.1"):
        pass
