"""What /metrics tells: counted as it happens, or read from the world when it is scraped."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from questline_operator.core.states import State
from questline_operator.core.world import World


def count_writes(registry: CollectorRegistry) -> Counter:
    """The counter of every request that writes, by verb and resource."""
    return Counter(
        "questline_writes", "Requests that write, by verb and resource.", ["verb", "resource"], registry=registry
    )


class WorldCollector(Collector):
    """Gauges of the Jobs and queues that the leader sees; a process that does not lead shows none.

    Args:
        world: the leader's, or None while this process does not lead.
    """

    def __init__(self, world: Callable[[], World | None]) -> None:
        self._world = world

    def collect(self) -> Iterable[Metric]:
        """Count now."""
        leading = GaugeMetricFamily("questline_leading", "1 where this process leads.")
        jobs = GaugeMetricFamily(
            "questline_jobs", "Jobs by namespace, queue and state.", labels=["namespace", "queue", "state"]
        )
        slots = GaugeMetricFamily("questline_slots_held", "Attempts that hold a slot.", labels=["namespace", "queue"])
        concurrency = GaugeMetricFamily(
            "questline_concurrency", "Slots that a queue has.", labels=["namespace", "queue"]
        )
        world = self._world()
        leading.add_metric([], 0 if world is None else 1)
        if world is not None:
            tally = Tally((job.namespace, job.queue, job.state) for job in world.jobs.values())
            for (namespace, queue, state), number in tally.items():
                jobs.add_metric([namespace, queue, State(state).value], number)
            for key, record in world.queues.items():
                slots.add_metric(list(key), world.slots_held(key))
                concurrency.add_metric(list(key), record.concurrency)
        return [leading, jobs, slots, concurrency]
