"""What /metrics tells."""

import asyncio

from prometheus_client import CollectorRegistry

from questline_operator.core.world import World
from questline_operator.shell.metrics import WorldCollector, count_kopf_events, count_writes, describe_process
from tests.unit.core.builders import a_job, a_pod, a_queue, a_worker, a_world


def _registry(world: World | None, *, epoch: int = 0) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(WorldCollector(lambda: world, epoch=lambda: epoch))
    return registry


def test_jobs_are_counted_by_queue_and_state_and_slots_as_the_controller_counts_them() -> None:
    running = a_job("running", state="Running")
    world = a_world(
        a_queue("default", concurrency=7),
        a_job("a"),
        a_job("b"),
        running,
        a_pod(running, running=1.0),
        a_job("c", state="Failed"),
    )
    registry = _registry(world)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"namespace": "default", "queue": "default", **labels})

    assert value("questline_jobs", state="Waiting") == 2
    assert value("questline_jobs", state="Running") == 1
    assert value("questline_jobs", state="Failed") == 1
    assert value("questline_jobs", state="Succeeded") is None
    assert value("questline_slots_held") == 1
    assert value("questline_concurrency") == 7


def test_a_leader_tells_its_epoch_from_the_first_moment_and_its_jobs_once_they_are_read() -> None:
    registry = _registry(None, epoch=451)
    assert registry.get_sample_value("questline_leader") == 1
    assert registry.get_sample_value("questline_epoch") == 451


def test_a_process_that_does_not_lead_shows_no_jobs() -> None:
    registry = _registry(None)
    assert registry.get_sample_value("questline_leader") == 0
    assert registry.get_sample_value("questline_epoch") == 0
    shown = [metric.name for metric in registry.collect() if metric.samples]
    assert shown == ["questline_leader", "questline_epoch"]


def test_all_that_the_leader_keeps_is_counted_by_kind() -> None:
    job = a_job("a")
    registry = _registry(a_world(a_queue("default"), a_worker(), job, a_pod(job, attempt=1), a_job("b")))
    kinds = {"questjobs": 2, "pods": 1, "questqueues": 1, "questworkers": 1}
    found = {kind: registry.get_sample_value("questline_store_objects", {"kind": kind}) for kind in kinds}
    assert found == kinds


async def test_the_process_tells_its_memory_its_open_files_and_its_tasks() -> None:
    registry = CollectorRegistry()
    describe_process(registry)
    memory, files = (registry.get_sample_value(f"process_{name}") for name in ("resident_memory_bytes", "open_fds"))
    assert memory is not None
    assert files is not None
    assert memory > 1e6
    assert files > 2
    before = registry.get_sample_value("questline_tasks")
    assert before is not None
    sleeper = asyncio.create_task(asyncio.sleep(60))
    assert registry.get_sample_value("questline_tasks") == before + 1
    sleeper.cancel()


def test_writes_are_counted_by_verb_and_resource() -> None:
    registry = CollectorRegistry()
    writes = count_writes(registry)
    writes.labels(verb="patch", resource="questjobs").inc()
    writes.labels(verb="patch", resource="questjobs").inc()
    labels = {"verb": "patch", "resource": "questjobs"}
    assert registry.get_sample_value("questline_writes_total", labels) == 2


def test_nothing_is_shown_of_kopf_before_it_has_told_of_anything() -> None:
    registry = CollectorRegistry()
    events = count_kopf_events(registry)
    labels = {"resource": "questworkers"}
    assert registry.get_sample_value("questline_kopf_events_total", labels) is None
    events.labels(resource="questworkers").inc()
    assert registry.get_sample_value("questline_kopf_events_total", labels) == 1
