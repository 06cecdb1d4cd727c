"""What users do to an operator: delete a namespace full of Jobs, enqueue thousands while it is away."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from questline_operator.core.records import Job
from questline_operator.core.states import ACTIVE
from questline_operator.core.times import parse_time
from questline_operator.shell.api import JOBS, NAMESPACES
from questline_operator.shell.http_api import HttpApi
from tests.cluster.faults.load import put_load
from tests.cluster.faults.operators import one_operator
from tests.cluster.faults.quiet import quiet, writes_in
from tests.history import Event
from tests.kube import Kube
from tests.live import FAKE_WORKER, Live, a_job, a_queue, live_namespace
from tests.verdict import Verdict, most_slots, violations

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

FULL = [pytest.mark.long, pytest.mark.timeout(1800)]
DOOMED_JOBS = 200
DOOMED_SLOTS = 20
KNOWN_SECONDS = 2.0
"""After a deletionTimestamp, which has whole seconds, the watch of namespaces has told of it."""
WRITES_PER_JOB = 3
"""That may follow the end of its namespace: a claim and a pod that were under way, and the attempt's outcome."""
LIMITS = {"wide": 100, "media": 20, "narrow": 3}
SHARES = ["narrow", *["media"] * 5, *["wide"] * 19]
"""The queue of each Job in turn."""


async def test_a_namespace_deleted_with_two_hundred_jobs_goes_and_nothing_more_is_claimed_in_it(
    fake: Live, api: HttpApi, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None]
) -> None:
    async with one_operator(kube, tmp_path) as operator:
        load = await put_load(fake)
        await load.done(fake.history)
        start = await quiet(operator)
        async with live_namespace(api, FAKE_WORKER) as doomed:
            history = doomed.history
            await doomed.apply(a_queue("media", concurrency=DOOMED_SLOTS))
            work = {"fake": {"seconds": 1}}
            await doomed.apply(*(a_job(f"job-{n}", queue="media", args=work) for n in range(DOOMED_JOBS)))
            await history.until(lambda: len(history.ended) >= DOOMED_SLOTS)
            other = await put_load(fake, prefix="meanwhile-")
            before, began = await operator.metrics(), time.monotonic()
            namespace = await api.get(NAMESPACES, "", doomed.namespace)
            await api.delete(NAMESPACES, "", doomed.namespace, uid=namespace["metadata"]["uid"])
            deletion = (await api.get(NAMESPACES, "", doomed.namespace))["metadata"]
            await history.until(lambda: not history.jobs() and not history.pods())
            seconds = time.monotonic() - began
            late = claimed_after(history.in_order(), int(deletion["resourceVersion"]))
            assert violations(history.in_order(), concurrency={"media": DOOMED_SLOTS}) == []
        await other.done(fake.history)
        left = len(fake.history.jobs()) - len(load.roots)
        kept = {name: number + 2 * left for name, number in start.items()}
        await quiet(operator, like=kept)
        wrote = writes_in(await operator.metrics()) - writes_in(before)
        assert await operator.terminate() == 0
    assert "Traceback" not in operator.output
    assert load.faults(fake.history) + other.faults(fake.history) == []
    known_by = parse_time(deletion["deletionTimestamp"]) + KNOWN_SECONDS
    assert [job.name for job in late if (job.started_at or 0.0) > known_by] == []
    assert wrote <= WRITES_PER_JOB * DOOMED_JOBS + 10 * left
    measured = {
        "s until it was empty": round(seconds, 1),
        "writes meanwhile": wrote,
        "claims under way then": len(late),
    }
    faults = {f"namespace deleted with {DOOMED_JOBS} Jobs": 1}
    records(Verdict.of(fake.history, **load.limits, faults=faults, measured=measured))


def claimed_after(events: Iterable[Event], version: int) -> list[Job]:
    """The Jobs that were claimed later than that, as they were then."""
    claimed, attempts = list[Job](), Counter[str]()
    for event in events:
        if event.resource == JOBS and event.type != "DELETED":
            job = Job.parse(event.object)
            if event.version > version and job.state in ACTIVE and job.attempt > attempts[job.uid]:
                claimed.append(job)
            attempts[job.uid] = job.attempt
    return claimed


@pytest.mark.parametrize("jobs", [pytest.param(150, id="ci"), pytest.param(5_000, id="full", marks=FULL)])
async def test_jobs_enqueued_while_no_operator_runs_all_end_and_no_queue_is_overfilled(
    fake: Live, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None], jobs: int
) -> None:
    history, began = fake.history, time.monotonic()
    await fake.apply(*(a_queue(name, concurrency=limit) for name, limit in LIMITS.items()))
    await fake.apply(*(a_job(f"job-{number}", queue=SHARES[number % len(SHARES)]) for number in range(jobs)))
    enqueued, began = time.monotonic() - began, time.monotonic()
    async with one_operator(kube, tmp_path) as operator:
        leads = time.monotonic() - began
        await history.until(lambda: any(job.attempt for job in history.jobs()))
        claimed = time.monotonic() - began
        await history.until(lambda: len(history.ended) == jobs, seconds=120 + jobs / 5)
        ended = time.monotonic() - began
        await history.until(lambda: not any(pod.live for pod in history.pods()))
        await quiet(operator)
        held = {name: number for name, number in (await operator.metrics()).items() if "slots_held" in name}
        assert await operator.terminate() == 0
    assert "Traceback" not in operator.output
    assert sum(held.values()) == 0
    measured = {
        "POSTs a second": jobs / enqueued,
        "s until the operator leads": leads,
        "s until the first claim": claimed,
        "s until all have ended": ended,
        **{f"slots held at most of {limit}": most_slots(history.in_order(), name) for name, limit in LIMITS.items()},
    }
    verdict = Verdict.of(
        history,
        concurrency=LIMITS,
        faults={"operator away": 1},
        measured={what: round(number, 1) for what, number in measured.items()},
    )
    records(verdict)
    assert verdict.attempts == jobs
