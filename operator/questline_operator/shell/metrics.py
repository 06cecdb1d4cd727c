"""What /metrics tells: counted as it happens, or read from the world when it is scraped."""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, GCCollector, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from questline_operator.core.states import State
from questline_operator.core.world import World


def count_writes(registry: CollectorRegistry) -> Counter:
    """The counter of every request that writes, by verb and resource."""
    return Counter(
        "questline_writes", "Requests that write, by verb and resource.", ["verb", "resource"], registry=registry
    )


def count_kopf_events(registry: CollectorRegistry) -> Counter:
    """The counter of what kopf tells, by resource; it shows whether kopf's watches live, and what they cost."""
    return Counter(
        "questline_kopf_events",
        "Events that kopf's watches have told, each object's first listing among them, by resource.",
        ["resource"],
        registry=registry,
    )


def describe_process(registry: CollectorRegistry) -> None:
    """The process's own memory, CPU, open files and tasks: what grows where something leaks."""
    ProcessCollector(registry=registry)
    GCCollector(registry)
    registry.register(_TaskCollector())


class _TaskCollector(Collector):
    """Counts when it is scraped, which the probes' server does in the loop whose tasks these are."""

    def collect(self) -> Iterable[Metric]:
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:
            return  # a registry also asks a new collector for its names, where no loop need run
        yield GaugeMetricFamily("questline_tasks", "Tasks of the event loop that have not ended.", value=tasks)


class WorldCollector(Collector):
    """Who leads, and gauges of the Jobs and queues that the leader sees; a process that does not lead shows none.

    Args:
        world: the leader's once every list was read, else None.
        epoch: in which this process leads, 0 while it does not.
    """

    def __init__(self, world: Callable[[], World | None], *, epoch: Callable[[], int]) -> None:
        self._world = world
        self._epoch = epoch

    def collect(self) -> Iterable[Metric]:
        """Count now."""
        leads = GaugeMetricFamily("questline_leader", "1 where this process leads, 0 where it stands by.")
        number = GaugeMetricFamily("questline_epoch", "The epoch in which this process leads, 0 where it stands by.")
        jobs = GaugeMetricFamily(
            "questline_jobs", "Jobs by namespace, queue and state.", labels=["namespace", "queue", "state"]
        )
        slots = GaugeMetricFamily("questline_slots_held", "Attempts that hold a slot.", labels=["namespace", "queue"])
        concurrency = GaugeMetricFamily(
            "questline_concurrency", "Slots that a queue has.", labels=["namespace", "queue"]
        )
        known = GaugeMetricFamily("questline_store_objects", "Objects that the leader knows of.", labels=["kind"])
        world, epoch = self._world(), self._epoch()
        leads.add_metric([], 1 if epoch else 0)
        number.add_metric([], epoch)
        if world is not None:
            tally = Tally((job.namespace, job.queue, job.state) for job in world.jobs.values())
            for (namespace, queue, state), count in tally.items():
                jobs.add_metric([namespace, queue, State(state).value], count)
            records = (("questjobs", world.jobs), ("pods", world.pods), ("questqueues", world.queues))
            small = (("questworkers", world.workers), ("questschedules", world.schedules))
            for kind, objects in (*records, *small):
                known.add_metric([kind], len(objects))
            for key, record in world.queues.items():
                slots.add_metric(list(key), world.slots_held(key))
                concurrency.add_metric(list(key), record.concurrency)
        return [leads, number, jobs, slots, concurrency, known]
