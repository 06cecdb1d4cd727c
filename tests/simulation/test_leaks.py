"""Nothing of a Job that is gone stays in the operator's memory: thousands of them in virtual time, through their TTL.

`census` counts what every table of the operator holds, so that a leak is named by the table that has it; a table that
is written tomorrow is counted too.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, WORKERS
from questline_operator.shell.leader import Leader
from questline_operator.shell.store import KEPT_TOMBSTONES
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_worker
from tests.simulation.sdk import Attempt, Ended, failed, succeeded

WAVES, LONG_WAVES = 10, 150
JOBS_PER_WAVE = 108
QUEUE = {"ttlSecondsAfterFinished": 5, "podTTLSeconds": 0, "failedPodTTLSeconds": 0}
TOMBSTONES = "Leader.controller.store._tombstones"
"""Bounded by their number, not by time: see KEPT_TOMBSTONES."""
COUNTED = "Leader.world._slots_held"
"""Emptied by each claim, and filled by whoever asks next: at most one entry a Queue."""
KEPT_BY_THE_SIMULATION = (
    *("builtins.dict", "builtins.list", "builtins.tuple", "builtins.set"),
    *("collections.Counter", "tests.simulation."),
)
YEAR = "2027-01-31T08:00:00Z"


def census(leader: Leader) -> dict[str, int]:
    """How many entries each table has that the leader holds, by the path to it."""
    counts: Counter[str] = Counter()
    seen: set[int] = set()

    def visit(path: str, value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, dict | list | AbstractSet) or type(value).__name__ == "deque":
            counts[path] += len(value)
            for entry in value.values() if isinstance(value, Mapping) else value:
                visit(f"{path}.*", entry)
        elif type(value).__module__.startswith(("questline_operator.shell.", "questline_operator.core.")):
            if not type(value).__module__.endswith((".records", ".pod")):
                for name, member in _members(value):
                    visit(f"{path}.{name}", member)
        elif type(value).__module__.startswith("asyncio."):
            for name, member in _members(value):
                if name != "_loop":
                    visit(f"{path}.{name}", member)

    visit("Leader", leader)
    return {path: count for path, count in sorted(counts.items()) if count and path not in (TOMBSTONES, COUNTED)}


def _members(value: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()


async def _parent(attempt: Attempt) -> Ended:
    for _ in range(3):
        await attempt.enqueue("tasks:child", queue="media")
    return succeeded() if attempt.number == 2 else failed()


async def _wave(cluster: Cluster, wave: int) -> None:
    """Jobs of every kind; those that would wait for ever are deleted or canceled."""

    def name(kind: str, number: int = 0) -> str:
        return f"{kind}-{wave}-{number}"

    once = {"key": f"once-{wave}", "scope": "Alive"}
    window = {"scope": "Window", "windowSeconds": 30}
    backoff = {"type": "Fixed", "baseSeconds": 1, "jitter": 0}
    await cluster.apply(
        *(a_job(name("work", n), queue="media") for n in range(40)),
        *(a_job(name("once", n), queue="media", unique=once) for n in range(10)),
        *(a_job(name("day", n), queue="media", unique=window, args={"wave": wave}) for n in range(4)),
        *(a_job(name("parent", n), task="tasks:parent", queue="media", backoff=backoff) for n in range(3)),
        a_job(name("chain", 0), queue="media"),
        *(a_job(name("chain", n), queue="media", after=[{"job": name("chain", n - 1)}]) for n in range(1, 4)),
        *(a_job(name("broken", n), task="tasks:broken", queue="media", maxAttempts=1) for n in range(3)),
        a_job(name("next"), queue="media", after=[{"job": name("broken")}]),
        *(a_job(name("later", n), queue="media", runAt=YEAR) for n in range(20)),
        *(a_job(name("nowhere", n), queue="missing", ttlSecondsAfterFinished=5) for n in range(5)),
    )
    doomed = [*(name("later", n) for n in range(20)), *(name("nowhere", n) for n in range(5))]
    await asyncio.sleep(40)  # past the time after which a reason of waiting is written
    for number, one in enumerate(doomed):
        if number % 2:
            await cluster.edit(one, cancel=True)
        else:
            cluster.server.store.delete(JOBS, NAMESPACE, one)
    await cluster.until(lambda: cluster.jobs() == [] and cluster.pods() == [])


async def _settled(cluster: Cluster) -> dict[str, int]:
    """What the operator's tables hold when nothing is left to do."""
    await asyncio.sleep(30.37)  # between two heartbeats, whose timers are tasks for an instant
    return census(cluster.leader)


async def _leaves_nothing(waves: int) -> None:
    behaviours = {"parent": _parent, "broken": _failing}
    async with Cluster(behaviours, seconds=0.5) as cluster:
        await cluster.apply(a_queue("media", concurrency=20, defaults=QUEUE), a_queue("other"))
        await cluster.apply(a_worker("other"))
        await asyncio.sleep(40)  # the Workers' checks
        before, tasks = await _settled(cluster), len(asyncio.all_tasks())
        for wave in range(waves):
            await _wave(cluster, wave)
        assert await _settled(cluster) == before
        assert len(asyncio.all_tasks()) == tasks
        assert len(cluster.leader.controller.store._tombstones) <= KEPT_TOMBSTONES
        assert cluster.leader.world._slots_held.keys() <= cluster.leader.world.queues.keys()
        created = sum(
            number for (_, verb, plural, _), number in cluster.server.calls.items() if (verb, plural) == _CREATED
        )
        assert created >= waves * JOBS_PER_WAVE
        assert cluster.watcher.violations == []


_CREATED = ("create", JOBS.plural)


async def _failing(attempt: Attempt) -> Ended:
    return failed()


@simulated
async def test_jobs_that_are_gone_leave_no_entry_in_any_table_and_no_task() -> None:
    await _leaves_nothing(WAVES)


@pytest.mark.long
@simulated
async def test_sixteen_thousand_jobs_that_are_gone_leave_no_entry_in_any_table_and_no_task() -> None:
    await _leaves_nothing(LONG_WAVES)


@simulated
async def test_a_namespace_that_is_gone_leaves_no_entry_in_any_table() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(40)
        before = await _settled(cluster)
        for number in range(5):
            await _namespace_comes_and_goes(cluster, f"ns-{number}")
        assert await _settled(cluster) == before


async def _namespace_comes_and_goes(cluster: Cluster, name: str) -> None:
    def of(manifest: dict[str, Any]) -> dict[str, Any]:
        return {**manifest, "metadata": {**manifest["metadata"], "namespace": name}}

    store = cluster.server.store
    store.create(NAMESPACES, "", {"metadata": {"name": name}})
    await cluster.apply(of(a_worker()), of(a_queue("media", concurrency=2)))
    await cluster.apply(*(of(a_job(f"job-{number}", queue="media")) for number in range(10)))
    await cluster.apply(*(of(a_job(f"of-default-{number}")) for number in range(3)))
    await cluster.until(lambda: any(pod.namespace == name for pod in cluster.pods()))
    store.delete(NAMESPACES, "", name)
    left = (JOBS, PODS, QUEUES, WORKERS)
    await cluster.until(
        lambda: not any(raw["metadata"]["namespace"] == name for kind in left for raw in store.peek_all(kind))
    )


@simulated
async def test_jobs_that_are_gone_leave_no_object_behind() -> None:
    """What no table shows: a task, a callback's closure, an exception that holds its frames."""
    behaviours = {"parent": _parent, "broken": _failing}
    async with Cluster(behaviours, seconds=0.5) as cluster:
        await cluster.apply(a_queue("media", concurrency=20, defaults=QUEUE))
        await _wave(cluster, 0)
        await _settled(cluster)
        before, waves = _objects(), 3
        for wave in range(waves):
            await _wave(cluster, 1 + wave)
        await _settled(cluster)
        # What is left of even one Job in a hundred is one more a wave.
        more = _objects() - before
        assert {kind: number for kind, number in more.items() if number >= waves} == {}


def _objects() -> Counter[str]:
    """How many objects there are of each type, those left out that the simulation itself keeps its history in."""
    gc.collect()
    kinds = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return Counter({kind: number for kind, number in kinds.items() if not kind.startswith(KEPT_BY_THE_SIMULATION)})
