"""Thousands of Jobs through create, run and TTL: the operator ends where it began.

Each round has a namespace of its own, so that Queues, Workers and namespaces come and go as well. What a table keeps is
found by tests/simulation/test_leaks.py, which names it; here the whole process is seen: its memory, sockets and tasks.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from questline_operator.shell.api import JOBS
from questline_operator.shell.http_api import HttpApi
from tests.cluster.faults.operators import OperatorProcess, one_operator
from tests.kube import Kube
from tests.live import FAKE_WORKER, a_job, a_queue, live_namespace
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed", "fake_nodes")]

JOBS_PER_ROUND = 500
MEGABYTE = 1e6
MEMORY_BYTES = 12 * MEGABYTE
"""How much more a round may leave than the first did: 20,000 names of deleted objects, and what the allocator keeps."""
RETENTION = {"ttlSecondsAfterFinished": 1, "podTTLSeconds": 0, "failedPodTTLSeconds": 0}
QUIET_SECONDS = 60.0
IDLE_CONNECTIONS = 8
"""An idle one is closed after 15 s, and what an idle operator sends (its Lease, every 2 s) takes them in turn."""

FULL = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(4, id="ci"), pytest.param(40, id="full", marks=FULL)],
)
async def test_thousands_of_jobs_that_are_gone_leave_no_memory_socket_or_task(
    api: HttpApi, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None], rounds: int
) -> None:
    async with one_operator(kube, tmp_path) as operator:
        start = await quiet(operator)
        total = await one_round(api)
        await quiet(operator, like=start)
        memory = operator.rss_bytes
        for _ in range(rounds - 1):
            total = added(total, await one_round(api))
        await quiet(operator, like=start)
        grown = operator.rss_bytes - memory
        assert await operator.terminate() == 0
    assert "Traceback" not in operator.output
    assert grown < MEMORY_BYTES
    measured = {"MB at the start": memory / MEGABYTE, "MB more at the end": grown / MEGABYTE}
    records(dataclasses.replace(total, measured={what: round(number, 1) for what, number in measured.items()}))


async def one_round(api: HttpApi) -> Verdict:
    """A namespace with its Jobs, until all of them have gone by their TTL."""
    async with live_namespace(api, FAKE_WORKER) as live:
        await live.apply(a_queue("media", concurrency=100, defaults=RETENTION))
        jobs = [a_job(f"job-{number}", queue="media") for number in range(JOBS_PER_ROUND)]
        await live.apply(*jobs)
        gone = live.history.deleted
        await live.history.until(lambda: gone[JOBS] == len(jobs) and not live.history.pods(), seconds=300)
        return Verdict.of(live.history, concurrency={"media": 100})


async def quiet(operator: OperatorProcess, *, like: dict[str, float] | None = None) -> dict[str, float]:
    """What the operator keeps, once it writes no more and, where told, keeps no more than ``like``."""
    before: dict[str, float] = {}
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            while True:
                metrics = await operator.metrics()
                writes = sum(number for name, number in metrics.items() if name.startswith("questline_writes_total"))
                kept = {name: number for name, number in metrics.items() if name.startswith("questline_store_objects")}
                kept |= {name: metrics[name] for name in ("questline_tasks", "process_open_fds")}
                room = {"process_open_fds": IDLE_CONNECTIONS}
                more = {
                    name: number
                    for name, number in kept.items()
                    if like is not None and number > like.get(name, 0) + room.get(name, 0)
                }
                if before.get("writes") == writes and not more:
                    return kept
                before = {"writes": writes}
                await asyncio.sleep(1)  # the process tells its numbers when asked, and no event says when to ask
    except TimeoutError:
        raise AssertionError(f"after {QUIET_SECONDS:g} s there is still more than at the start: {more}") from None


def added(first: Verdict, second: Verdict) -> Verdict:
    """Both runs as one."""
    return Verdict(
        jobs=first.jobs + second.jobs,
        attempts=first.attempts + second.attempts,
        events=first.events + second.events,
        gaps=first.gaps + second.gaps,
        violations=(*first.violations, *second.violations),
    )
