"""What may be deleted, and what still needs a record."""

from collections import Counter
from typing import Any

import pytest

from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.core.retention import expired_jobs, expired_pods
from questline_operator.core.uniqueness import LATE_SECONDS
from questline_operator.core.world import World
from tests.unit.core.builders import T0, a_job, a_pod, a_queue, a_world, an_attempt, child_of

QUEUE = ("default", "default")
TTL = 100


def finished(name: str = "old", *, at: float = 0.0, state: str = "Succeeded", **fields: Any) -> Job:
    spec = {"ttlSecondsAfterFinished": TTL, **fields.pop("spec", {})}
    return a_job(name, state=state, finishedAt=at, spec=spec, **fields)


def expired(world: World, now: float) -> set[str]:
    return {job.name for job in expired_jobs(world, QUEUE, T0 + now)}


@pytest.mark.parametrize("state", ["Succeeded", "Failed", "Canceled", "Skipped"])
def test_a_finished_job_goes_when_its_ttl_is_over(state: str) -> None:
    world = a_world(finished(state=state))

    assert expired(world, TTL - 0.1) == set()
    assert expired(world, TTL) == {"old"}


@pytest.mark.parametrize("state", ["Waiting", "Starting", "Running"])
def test_a_job_that_is_not_finished_never_goes(state: str) -> None:
    assert expired(a_world(a_job(state=state)), 10**9) == set()


def test_one_that_is_going_already_is_left_alone() -> None:
    assert expired(a_world(finished(deleting=True)), TTL) == set()


def test_the_queues_default_and_a_ttl_of_zero_count() -> None:
    job = a_job("old", state="Succeeded", finishedAt=0)
    zero = a_job("zero", state="Succeeded", finishedAt=0, spec={"ttlSecondsAfterFinished": 0})
    world = a_world(job, zero, a_queue(defaults={"ttlSecondsAfterFinished": 50}))

    assert expired(world, 0) == {"zero"}
    assert expired(world, 50) == {"old", "zero"}


def test_the_oldest_beyond_the_number_go_before_their_time() -> None:
    jobs = [finished(f"job-{at}", at=at) for at in range(5)]

    assert expired(a_world(a_queue(keepFinished=3), *jobs), 5) == {"job-0", "job-1"}
    assert expired(a_world(a_queue(keepFinished=0), *jobs), 5) == {job.name for job in jobs}


# What still needs it


ROOT = finished("root")
CHILD = a_job("child", spec={"parent": child_of(ROOT), "ttlSecondsAfterFinished": 10**6})
LEAF = {"ttlSecondsAfterFinished": 10**6}
SUCCESSOR = {"after": [{"job": "root"}], "ttlSecondsAfterFinished": 10**6}
DUPLICATE = finished("twin", state="Skipped", duplicateOf="root", spec=LEAF)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([CHILD], id="a child that is not finished"),
        pytest.param(
            [
                finished("middle", spec={"parent": child_of(ROOT), **LEAF}),
                a_job("leaf", spec={"parent": child_of(finished("middle"))}),
            ],
            id="a descendant that is not finished",
        ),
        pytest.param([a_job("next", spec=SUCCESSOR)], id="a Job that waits for it"),
        pytest.param(
            [DUPLICATE, a_job("next", spec={"after": [{"job": "twin"}]})], id="a Job that waits for its duplicate"
        ),
    ],
)
@pytest.mark.parametrize("keep", [10_000, 0], ids=["its time is over", "it is beyond the number"])
def test_a_record_is_kept_while_another_job_needs_it(others: list[Job], keep: int) -> None:
    assert "root" not in expired(a_world(a_queue(keepFinished=keep), ROOT, *others), 10**5)


def test_a_unique_job_is_kept_while_its_window_lasts_and_a_late_watch_may_tell_of_it() -> None:
    by = {"unique": {"key": "k", "scope": "Window", "windowSeconds": 3_600}}
    world = a_world(finished(spec=by))

    assert expired(world, 3_600 + LATE_SECONDS - 1) == set()
    assert expired(world, 3_600 + LATE_SECONDS) == {"old"}


def test_the_ttl_runs_from_the_last_end_of_those_that_needed_it() -> None:
    child = a_job("child", state="Succeeded", finishedAt=500, spec={"parent": child_of(ROOT), **LEAF})
    successor = a_job("next", state="Failed", finishedAt=700, spec=SUCCESSOR)

    assert expired(a_world(ROOT, child), 500 + TTL - 1) == set()
    assert expired(a_world(ROOT, child), 500 + TTL) == {"root"}
    assert expired(a_world(ROOT, child, successor), 500 + TTL) == set()
    assert expired(a_world(ROOT, child, successor), 700 + TTL) == {"root"}


# Pods


DEFAULTS = {"podTTLSeconds": 10, "failedPodTTLSeconds": 100}


def gone_pods(pods: list[Pod], *jobs: Job, now: float, **queue: Any) -> set[int]:
    world = a_world(a_queue(defaults=DEFAULTS, **queue), *jobs, *pods)
    return {pod.attempt for pod in expired_pods(world, QUEUE, pods, T0 + now)}


def test_an_ended_pod_goes_when_its_ttl_is_over() -> None:
    job = finished("a", attempt=1)
    pods = [a_pod(job, exit_code=0, finished=20)]

    assert gone_pods(pods, job, now=29) == set()
    assert gone_pods(pods, job, now=30) == {1}


def test_the_last_failed_attempts_pod_is_kept_longer_whatever_came_of_the_job() -> None:
    entries = [an_attempt(1, "Failed"), an_attempt(2, "Failed"), an_attempt(3, "Disrupted")]
    failed = a_job("a", state="Failed", attempt=3, failures=2, attempts=entries)
    succeeded = a_job("a", state="Succeeded", attempt=3, attempts=[*entries[:2], an_attempt(3)])
    pods = [a_pod(failed, attempt=n, exit_code=1, finished=0) for n in (1, 2, 3)]

    assert gone_pods(pods, failed, now=10) == {1, 3}
    assert gone_pods(pods, failed, now=100) == {1, 2, 3}
    assert gone_pods(pods, succeeded, now=10) == {1, 3}


def test_the_oldest_pods_beyond_the_number_go_before_their_time() -> None:
    job = a_job("a", attempt=4)
    pods = [a_pod(job, attempt=n, exit_code=0, finished=n) for n in (1, 2, 3, 4)]

    assert gone_pods(pods, job, now=5, keepFinishedPods=3) == {1}


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_pod(a_job("a", attempt=1), running=1), id="one that runs"),
        pytest.param(a_pod(a_job("a", attempt=1), exit_code=0, phase="Running"), id="one whose sidecar runs"),
        pytest.param(a_pod(a_job("a", attempt=1), exit_code=0, deleting=True), id="one that is going already"),
        pytest.param(a_pod(a_job("a", attempt=1), exit_code=0, gone=True), id="one that is gone"),
    ],
)
def test_a_pod_that_runs_or_goes_already_is_not_expired(pod: Pod) -> None:
    assert gone_pods([pod], a_job("a", attempt=1), now=10**6, keepFinishedPods=0) == set()


def test_a_pod_is_kept_until_its_attempts_end_is_written() -> None:
    job = a_job("a", state="Running", attempt=2)
    pods = [a_pod(job, attempt=n, exit_code=0, finished=0) for n in (1, 2)]

    assert gone_pods(pods, job, now=10**6) == {1}
    assert gone_pods(pods, now=10**6) == set(), "a pod whose Job is gone is the shell's to judge"


def test_the_links_of_a_deep_chain_whose_last_one_runs_are_each_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    children_of = World.children_of

    def counted(world: World, job: Job) -> list[Job]:
        asked[job.name] += 1
        return children_of(world, job)

    chain = [finished("link-000")]
    for n in range(1, 200):
        chain.append(finished(f"link-{n:03}", at=n, spec={"parent": child_of(chain[-1])}))
    last = a_job("last", state="Running", spec={"parent": child_of(chain[-1])})
    world = a_world(*chain, last)
    monkeypatch.setattr(World, "children_of", counted)

    assert expired(world, 10**6) == set()
    assert max(asked.values()) <= 2

    world.put_job(a_job("last", state="Succeeded", finishedAt=1_000, spec={"parent": child_of(chain[-1])}))
    assert expired(world, 1_000 + TTL - 1) == set()
    assert expired(world, 1_000 + TTL) == {job.name for job in chain}
