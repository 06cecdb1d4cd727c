"""Joins over many children on fake nodes, a few of which fail, under each policy; and a rerun that lets one go on."""

import json
import os
from typing import Any

import pytest

from questline_operator.core.records import ANNOTATION_PAYLOAD, Job
from questline_operator.core.states import State
from questline_operator.shell.api import PODS
from tests.live import Live, a_queue
from tests.verdict import violations

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive]

CHILDREN = int(os.environ.get("QUESTLINE_JOIN_CHILDREN", "1000"))
FAILING = 3
SECONDS = 280


async def fan_out(fake: Live, *, policy: str) -> Job:
    """A fan-out whose children all succeed but the three of another, and a join of both: they are members of one group
    each, which two joins close, and those are what the last one waits for. Returns that one's Job, ended."""
    limits = {"maxAttempts": 1, "ttlSecondsAfterFinished": 3600}
    await fake.apply(a_queue("wide", concurrency=60, defaults=limits))
    fine = {"queue": "wide", "task": "tasks:child"}
    broken = {**fine, "task": "tasks:broken", "args": {"fake": {"failures": 1}}}
    left = group(CHILDREN - FAILING, fine, {"task": "tasks:left", "afterPolicy": policy})
    right = group(FAILING, broken, {"task": "tasks:right", "afterPolicy": policy})
    await fake.job("fine", "tasks:fine", args=left)
    await fake.job("broken", "tasks:broken", args=right)
    trees = [{"tree": "fine"}, {"tree": "broken"}]
    await fake.job("last", "tasks:last", after=trees, afterPolicy=policy)
    await fake.history.until(lambda: len(fake.history.jobs()) == CHILDREN + 5, seconds=SECONDS)
    await fake.history.settled(seconds=SECONDS)
    return fake.history.job("last")


def group(children: int, child: Any, then: Any) -> dict[str, Any]:
    """The args of a Job that enqueues a group and a join after it."""
    return {"fake": {"children": children, "child": child, "group": "g", "then": then}}


def of_task(fake: Live, task: str) -> list[Job]:
    """The Jobs of a task."""
    return [job for job in fake.history.jobs() if job.spec.get("task") == f"tasks:{task}"]


async def inputs(fake: Live, job: Job) -> Any:
    """What its pod was told that it had waited for, seen in the pod's payload."""

    def payloads() -> list[str]:
        return [
            event.object["metadata"]["annotations"][ANNOTATION_PAYLOAD]
            for event in fake.history.events
            if event.resource == PODS and event.object["metadata"]["name"] == job.pod_name(job.attempt)
        ]

    # The watch of pods may be behind the one of Jobs.
    await fake.history.until(lambda: bool(payloads()), seconds=60)
    return json.loads(payloads()[0])["inputs"]


def counted(told: Any) -> dict[str, int]:
    """The summary without its zeros."""
    return {name: number for name, number in told["summary"].items() if number}


async def test_a_join_for_the_end_of_a_thousand_runs_once_after_all_though_three_failed(fake: Live) -> None:
    last = await fan_out(fake, policy="Finished")
    (left,), (right,) = of_task(fake, "left"), of_task(fake, "right")
    assert {job.state for job in (last, left, right)} == {State.SUCCEEDED}
    fine = CHILDREN - FAILING
    assert counted(await inputs(fake, left)) == {"total": fine, "succeeded": fine}
    assert counted(await inputs(fake, right)) == {"total": FAILING, "failed": FAILING}
    assert counted(await inputs(fake, last)) == {"total": CHILDREN + 4, "succeeded": fine + 4, "failed": FAILING}
    assert len((await inputs(fake, left))["jobs"]) == min(50, fine)
    assert last.attempt == 1
    assert violations(fake.history.in_order(), concurrency={"wide": 60}) == []


async def test_a_join_for_success_is_skipped_for_three_and_runs_once_they_have_run_again(fake: Live) -> None:
    last = await fan_out(fake, policy="Succeeded")
    (right,) = of_task(fake, "right")
    assert [(job.state, job.reason) for job in (last, right)] == [(State.SKIPPED, "UpstreamFailed")] * 2
    assert of_task(fake, "left")[0].state is State.SUCCEEDED
    broken = [job.name for job in of_task(fake, "broken") if job.state is State.FAILED]
    assert len(broken) == FAILING
    for name in broken:
        await fake.edit(name, rerun=1)
    await fake.history.until(lambda: fake.history.job("last").state is State.SUCCEEDED, seconds=60)
    assert {job.state for job in fake.history.jobs()} == {State.SUCCEEDED}
    assert counted(await inputs(fake, fake.history.job("last"))) == {"total": CHILDREN + 4, "succeeded": CHILDREN + 4}
    assert violations(fake.history.in_order(), concurrency={"wide": 60}) == []
