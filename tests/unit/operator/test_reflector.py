"""The reflector: whatever becomes of its watch, the store ends as the cluster is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from questline_operator.core.world import World
from questline_operator.shell.api import JOBS, PODS, ApiError, Object
from questline_operator.shell.reflector import Reflector
from questline_operator.shell.store import Listeners, Store
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.cluster import NAMESPACE, a_job
from tests.simulation.faults import Fault, internal_error


class Bench:
    """An API server, a store, and a reflector of Jobs between them."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.server = ApiServer(self.clock, latency=0.01)
        self.world = World()

        def heard(*records: Any) -> None:
            pass

        self.heights: list[int] = []
        told: dict[str, Any] = dict.fromkeys(("job", "pod", "queue", "worker", "schedule", "namespace"), heard)
        self.store = Store(self.world, Listeners(**told, watched=self.heights.append))
        self.reflector = Reflector(self.server.client("operator"), self.clock, self.store, JOBS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reflector.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def add(self, *names: str) -> None:
        for name in names:
            self.server.store.create(JOBS, NAMESPACE, a_job(name))

    def delete(self, name: str) -> None:
        self.server.store.delete(JOBS, NAMESPACE, name)

    @property
    def known(self) -> list[str]:
        return sorted(name for _, name in self.world.jobs)

    @property
    def calls(self) -> tuple[int, int]:
        """How many lists and watches there were."""
        calls = self.server.calls
        return calls["operator", "list", "questjobs", ""], calls["operator", "watch", "questjobs", ""]


@simulated
async def test_what_was_there_and_what_comes_and_goes_is_known() -> None:
    bench = Bench()
    await bench.add("old", "doomed")
    async with bench.running():
        await bench.reflector.synced.wait()
        assert bench.known == ["doomed", "old"]
        await bench.add("new")
        bench.delete("doomed")
        await asyncio.sleep(0.1)
        assert bench.known == ["new", "old"]


@simulated
async def test_it_is_not_synced_before_a_list_was_read() -> None:
    bench = Bench()
    await bench.add("a")
    bench.server.faults.append(Fault(verb="list", error=internal_error(), times=5))
    bench.server.faults.append(Fault(verb="list", lose="answer", times=2))
    async with bench.running():
        await asyncio.sleep(2.0)
        assert not bench.reflector.synced.is_set()
        assert bench.known == []
        await bench.reflector.synced.wait()
        assert bench.known == ["a"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_watch_that_ends_goes_on_where_it_was_without_a_new_list(broken: bool) -> None:
    @simulated
    async def run() -> None:
        bench = Bench()
        await bench.add("a", "doomed")
        async with bench.running():
            await asyncio.sleep(1.0)
            bench.server.end_watches(broken=broken)
            bench.delete("doomed")
            await bench.add("b")
            await asyncio.sleep(6.0)
            assert bench.known == ["a", "b"]
            assert bench.calls == (1, 2)

    run()


@simulated
async def test_a_deletion_that_no_watch_told_is_found_by_the_list_after_history_was_compacted() -> None:
    bench = Bench()
    await bench.add("a", "doomed")
    async with bench.running():
        await asyncio.sleep(1.0)
        bench.server.end_watches(broken=True)
        bench.delete("doomed")
        await bench.add("b")
        bench.server.compact()
        await asyncio.sleep(6.0)
        assert bench.known == ["a", "b"]
        assert bench.calls[0] == 2
        await bench.add("c")
        await asyncio.sleep(0.1)
        assert bench.known == ["a", "b", "c"]


@simulated
async def test_a_server_in_trouble_is_asked_ever_more_rarely() -> None:
    bench = Bench()
    bench.server.faults.append(Fault(verb="watch", error=ApiError(503, "ServiceUnavailable", "no"), times=None))
    async with bench.running():
        await asyncio.sleep(60.0)
        assert 10 < bench.calls[1] < 25


@simulated
async def test_a_watch_that_ends_at_once_every_time_is_no_loop_without_a_pause() -> None:
    bench = Bench()
    async with bench.running():
        for _ in range(600):
            await asyncio.sleep(0.1)
            bench.server.end_watches()
        assert bench.calls[1] < 30


@simulated
async def test_a_silent_kind_shows_signs_of_life_by_bookmarks() -> None:
    bench = Bench()
    async with bench.running():
        for _ in range(20):
            await asyncio.sleep(60.0)
            assert bench.clock.monotonic() - bench.reflector.last_activity <= 61.0


@simulated
async def test_how_far_the_watch_is_goes_by_what_it_told_and_not_by_answers() -> None:
    bench = Bench()
    await bench.add("a")
    async with bench.running():
        await asyncio.sleep(1.0)
        listed = bench.store.world.watched
        bench.server.watch_lag = lambda client, resource: 5.0
        raw: Object = bench.server.store.create(JOBS, NAMESPACE, a_job("b"))
        bench.store.apply(JOBS, raw)
        await asyncio.sleep(1.0)
        assert bench.store.world.watched == listed
        await asyncio.sleep(5.0)
        assert bench.store.world.watched == int(raw["metadata"]["resourceVersion"])
        assert bench.heights == [listed, bench.store.world.watched]


@simulated
async def test_only_what_its_labels_select_is_known() -> None:
    bench = Bench()
    reflector = Reflector(bench.server, bench.clock, bench.store, PODS, labels="questline.dev/job")
    for name, labels in (("other", {"app": "x"}), ("ours", {"questline.dev/job": "a"})):
        body = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": []}}
        bench.server.store.create(PODS, NAMESPACE, body)
    task = asyncio.create_task(reflector.run())
    await reflector.synced.wait()
    assert [name for _, name in bench.world.pods] == ["ours"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
