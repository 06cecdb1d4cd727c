"""Thousands of Jobs through create, run and TTL: the operator ends where it began.

Each round has a namespace of its own, so that Queues, Workers and namespaces come and go as well. What a table keeps is
found by tests/simulation/test_leaks.py, which names it; here the whole process is seen: its memory, sockets and tasks.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from questline_operator.shell.api import JOBS
from questline_operator.shell.http_api import HttpApi
from tests.cluster.faults.operators import one_operator
from tests.cluster.faults.quiet import quiet
from tests.kube import Kube
from tests.live import FAKE_WORKER, a_job, a_queue, live_namespace
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed", "fake_nodes")]

JOBS_PER_ROUND = 500
MEGABYTE = 1e6
MEMORY_BYTES = 12 * MEGABYTE
"""How much more a round may leave than the first did: 20,000 names of deleted objects, and what the allocator keeps."""
RETENTION = {"ttlSecondsAfterFinished": 1, "podTTLSeconds": 0, "failedPodTTLSeconds": 0}
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


def added(first: Verdict, second: Verdict) -> Verdict:
    """Both runs as one."""
    return Verdict(
        jobs=first.jobs + second.jobs,
        attempts=first.attempts + second.attempts,
        events=first.events + second.events,
        gaps=first.gaps + second.gaps,
        violations=(*first.violations, *second.violations),
    )
