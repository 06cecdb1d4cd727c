"""Snooze, Retry, Fail and Cancel, and what SIGTERM does, on the real kubelet."""

import asyncio
from typing import Any

import pytest

from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.core.states import State
from questline_operator.core.times import parse_time
from questline_operator.shell.api import JOBS, PODS
from tests.live import Live, a_worker
from tests.verdict import violations


def outcomes(job: Job) -> list[tuple[str, int]]:
    """Outcome and exit code of each attempt; -1 where none is known."""
    return [(entry["outcome"], entry.get("exitCode", -1)) for entry in job.status["attempts"]]


def delays(live: Live, name: str) -> list[float]:
    """Seconds from the end of each attempt to the next one's claim."""
    claimed: dict[int, float] = {}
    for event in live.history.in_order():
        if event.resource == JOBS and event.object["metadata"]["name"] == name:
            job = Job.parse(event.object)
            if job.started_at is not None:
                claimed.setdefault(job.attempt, job.started_at)
    ends = {entry["number"]: parse_time(entry["finishedAt"]) for entry in live.history.job(name).status["attempts"]}
    return [claimed[number + 1] - end for number, end in ends.items() if number + 1 in claimed]


async def in_its_task(live: Live, name: str) -> Pod:
    """The Job's pod, once the task has told that it waits."""
    await live.history.until(lambda: any(pod.started and pod.job == name for pod in live.history.pods()))
    (pod,) = (pod for pod in live.history.pods() if pod.job == name)
    process = await asyncio.create_subprocess_exec(
        *("kubectl", "-n", live.namespace, "logs", "--follow", pod.name), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"waiting" in await process.stdout.readline()
    process.terminate()
    await process.communicate()
    return pod


async def test_a_snooze_takes_no_attempt_however_often_and_waits_its_delay(live: Live) -> None:
    await live.job("snoozes", "tasks:steers", maxAttempts=1, args={"how": "Snooze", "delay": 1.0, "times": 4})
    await live.job("later", "tasks:steers_async", maxAttempts=1, args={"how": "Snooze", "delay": 0.5})
    jobs = {job.name: job for job in await live.history.settled()}
    snoozed = jobs["snoozes"]
    assert (snoozed.state, snoozed.attempt, snoozed.failures, snoozed.disruptions) == (State.SUCCEEDED, 5, 0, 0)
    assert [outcome for outcome, _ in outcomes(snoozed)] == ["Snoozed"] * 4 + ["Succeeded"]
    assert snoozed.status["attempts"][0]["message"] == "attempt 1 is too early"
    assert all(delay >= 0.99 for delay in delays(live, "snoozes")), delays(live, "snoozes")
    later = jobs["later"]
    assert (later.state, later.attempt, later.failures) == (State.SUCCEEDED, 2, 0)
    assert violations(live.history.in_order()) == []


async def test_retry_waits_its_own_delay_and_counts_and_fail_and_cancel_end_the_job(live: Live) -> None:
    backoff = {"type": "Fixed", "baseSeconds": 600, "maxSeconds": 600}
    args: dict[str, Any] = {"delay": 1.0}
    await live.job("retries", "tasks:steers", backoff=backoff, maxAttempts=3, args=args | {"how": "Retry", "times": 2})
    await live.job("in-vain", "tasks:steers", backoff=backoff, maxAttempts=2, args=args | {"how": "Retry", "times": 9})
    await live.job("fails", "tasks:steers", args=args | {"how": "Fail"})
    await live.job("cancels", "tasks:steers", args=args | {"how": "Cancel"})
    await live.job("refused", "tasks:steers", maxAttempts=1, args={"how": "Snooze", "delay": -1.0})
    jobs = {job.name: job for job in await live.history.settled()}
    retried = jobs["retries"]
    assert (retried.state, retried.attempt, retried.failures) == (State.SUCCEEDED, 3, 2)
    assert all(0.99 <= delay < 60 for delay in delays(live, "retries")), delays(live, "retries")
    in_vain = jobs["in-vain"]
    assert (in_vain.state, in_vain.reason, in_vain.attempt) == (State.FAILED, "TaskError", 2)
    assert in_vain.status["message"] == "attempt 2 of 2: attempt 2 is too early"
    fails, cancels, refused = jobs["fails"], jobs["cancels"], jobs["refused"]
    assert (fails.state, fails.reason, fails.attempt) == (State.FAILED, "Fail", 1)
    assert (cancels.state, cancels.reason, cancels.status["message"]) == (State.CANCELED, "Raised", "no longer wanted")
    assert (refused.state, refused.reason) == (State.FAILED, "TaskError")
    assert "Snooze(delay) is -1.0: 0 to 31,622,400 seconds are allowed" in refused.status["message"]


@pytest.mark.parametrize(
    ("task", "args", "first"),
    [
        ("tasks:is_interrupted", {}, "Disrupted"),
        ("tasks:ends_by_itself", {"how": "Snooze"}, "Snoozed"),
        ("tasks:ends_by_itself_async", {}, "Snoozed"),
    ],
)
async def test_a_task_whose_pod_is_taken_away_ends_within_its_grace_and_runs_again(
    live: Live, task: str, args: dict[str, str], first: str
) -> None:
    await live.apply(a_worker("patient", template=patient()))
    await live.job("taken", task, worker="patient", maxAttempts=1, args=args)
    pod = await in_its_task(live, "taken")
    await live.api.delete(PODS, live.namespace, pod.name, uid=pod.uid)
    (job,) = await live.history.settled(seconds=30)
    assert (job.state, job.attempt, job.failures) == (State.SUCCEEDED, 2, 0)
    assert job.disruptions == (first == "Disrupted")
    assert [outcome for outcome, _ in outcomes(job)] == [first, "Succeeded"]
    assert violations(live.history.in_order()) == []


async def test_a_canceled_task_is_canceled_whether_it_is_interrupted_or_snoozes_and_succeeded_where_it_returns(
    live: Live,
) -> None:
    await live.apply(a_worker("patient", template=patient()))
    await live.job("interrupted", "tasks:is_interrupted", worker="patient")
    await live.job("snoozes", "tasks:ends_by_itself", worker="patient", args={"how": "Snooze"})
    await live.job("returns", "tasks:ends_by_itself", worker="patient", args={"how": "return"})
    for name in ("interrupted", "snoozes", "returns"):
        await in_its_task(live, name)
    for name in ("interrupted", "snoozes", "returns"):
        await live.edit(name, cancel=True)
    jobs = {job.name: job for job in await live.history.settled(seconds=30)}
    assert (jobs["interrupted"].state, jobs["interrupted"].reason) == (State.CANCELED, "Requested")
    assert (jobs["snoozes"].state, jobs["snoozes"].reason) == (State.CANCELED, "Requested")
    assert (jobs["returns"].state, jobs["returns"].status["result"]) == (State.SUCCEEDED, "saved")
    assert {job.attempt for job in jobs.values()} == {1}


async def test_a_task_that_is_interrupted_by_its_timeout_has_failed_by_it(live: Live) -> None:
    await live.apply(a_worker("patient", template=patient()))
    await live.job("slow", "tasks:is_interrupted", worker="patient", timeoutSeconds=3, maxAttempts=1)
    (job,) = await live.history.settled(seconds=40)
    assert (job.state, job.reason, job.failures) == (State.FAILED, "Timeout", 1)


def patient() -> dict[str, Any]:
    """A Worker's template whose grace is longer than any of these tests: what ends before, ended by itself."""
    template: dict[str, Any] = a_worker("any")["spec"]["template"]
    template["spec"]["terminationGracePeriodSeconds"] = 120
    return template
