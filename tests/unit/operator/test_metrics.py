"""What /metrics tells."""

from prometheus_client import CollectorRegistry

from questline_operator.core.world import World
from questline_operator.shell.metrics import WorldCollector, count_writes
from tests.unit.core.builders import a_job, a_pod, a_queue, a_world


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


def test_writes_are_counted_by_verb_and_resource() -> None:
    registry = CollectorRegistry()
    writes = count_writes(registry)
    writes.labels(verb="patch", resource="questjobs").inc()
    writes.labels(verb="patch", resource="questjobs").inc()
    labels = {"verb": "patch", "resource": "questjobs"}
    assert registry.get_sample_value("questline_writes_total", labels) == 2
