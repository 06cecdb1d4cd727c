"""An operator that has nothing left to do, by its own metrics."""

import asyncio
from collections.abc import Mapping

from tests.cluster.faults.operators import OperatorProcess

QUIET_SECONDS = 60.0
IDLE_CONNECTIONS = 8
"""An idle one is closed after 15 s, and what an idle operator sends (its Lease, every 2 s) takes them in turn."""


async def quiet(operator: OperatorProcess, *, like: dict[str, float] | None = None) -> dict[str, float]:
    """What the operator keeps, once it has wholly started, writes no more and, where told, keeps no more than ``like``.

    kopf starts some time after the first claims, and its tasks and connections belong to what is kept: it runs when it
    has told of an object, such as the chart's Worker.
    """
    before, writes, more, kopf_runs = -1.0, -1.0, dict[str, float](), False
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            while True:
                metrics = await operator.metrics()
                writes = writes_in(metrics)
                kopf_runs = any(name.startswith("questline_kopf_events_total") for name in metrics)
                kept = {name: number for name, number in metrics.items() if name.startswith("questline_store_objects")}
                kept |= {name: metrics[name] for name in ("questline_tasks", "process_open_fds")}
                room = {"process_open_fds": IDLE_CONNECTIONS}
                more = {
                    name: number
                    for name, number in kept.items()
                    if like is not None and number > like.get(name, 0) + room.get(name, 0)
                }
                if before == writes and not more:
                    return kept
                before = writes if kopf_runs else -1.0
                await asyncio.sleep(1)  # the process tells its numbers when asked, and no event says when to ask
    except TimeoutError:
        raise AssertionError(
            f"after {QUIET_SECONDS:g} s: {writes:g} writes, kopf {'runs' if kopf_runs else 'has told of nothing'}, "
            f"and more than at the start: {more}"
        ) from None


def writes_in(metrics: Mapping[str, float], verb: str = "", resource: str = "") -> float:
    """The writes that were sent: all, or those of the verb and the resource."""
    counter = "questline_writes_total"
    return sum(
        number
        for name, number in metrics.items()
        if name.startswith(counter) and f'verb="{verb}' in name and f'resource="{resource}' in name
    )
