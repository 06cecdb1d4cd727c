"""Reruns through the operator's real shell: what runs again, what stays, whatever happens meanwhile."""

import asyncio
import itertools

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, QUEUES
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.sdk import Attempt, Ended, canceled, failed, succeeded


async def broken_at_first(attempt: Attempt) -> Ended:
    return failed("not yet") if attempt.number == 1 else succeeded(attempt.number)


def ran(cluster: Cluster, job: str) -> list[int]:
    return [run.attempt for run in cluster.kubelet.runs if run.job == job]


@simulated
async def test_a_failed_chain_resumes_where_it_broke() -> None:
    async with Cluster({"second": broken_at_first}) as cluster:
        await cluster.apply(
            a_job("first"),
            a_job("second", after=[{"job": "first"}], maxAttempts=1),
            a_job("third", after=[{"job": "second"}]),
            a_job("fourth", after=[{"job": "third"}, {"job": "first"}]),
        )
        await cluster.until_settled()
        assert cluster.states()["fourth"] == "Skipped UpstreamFailed"
        await cluster.edit("second", rerun=1)
        await cluster.until(lambda: cluster.state("fourth") == "Succeeded", seconds=30)
        assert set(cluster.states().values()) == {"Succeeded"}
        assert [ran(cluster, name) for name in ("first", "second", "third", "fourth")] == [[1], [1, 2], [1], [1]]
        job = cluster.job("second")
        assert (job.failures, job.finishes, job.observed_rerun) == (0, 2, 1)
        assert [entry["outcome"] for entry in job.status["attempts"]] == ["Failed", "Succeeded"]
        assert cluster.watcher.violations == []


@pytest.mark.parametrize("moment", [0.0, 0.004, 0.008, 0.012, 0.02, 0.1, 1.0, 2.0])
def test_a_chain_resumes_through_an_operator_killed_at_any_moment(moment: float) -> None:
    @simulated
    async def run() -> None:
        async with Cluster({"a": broken_at_first}) as cluster:
            await cluster.apply(
                a_job("a", maxAttempts=1), a_job("b", after=[{"job": "a"}]), a_job("c", after=[{"job": "b"}])
            )
            await cluster.until_settled()
            await cluster.edit("a", rerun=1)
            await asyncio.sleep(moment)
            await cluster.crash_operator()
            await asyncio.sleep(0.5)
            cluster.start_operator()
            await cluster.until(lambda: cluster.state("c") == "Succeeded", seconds=60)
            assert set(cluster.states().values()) == {"Succeeded"}
            assert cluster.watcher.violations == []

    run()


@simulated
async def test_a_chain_resumes_though_the_operator_was_down_for_the_whole_rerun_of_its_first_link() -> None:
    """What runs again and ends again between two looks is known by how often it has ended."""
    async with Cluster({"a": broken_at_first}) as cluster:
        await cluster.apply(a_job("a", maxAttempts=1), a_job("b", after=[{"job": "a"}]))
        await cluster.until_settled()
        await cluster.edit("b", cancel=True)  # held back until the first has ended twice
        await cluster.edit("a", rerun=1)
        await cluster.until(lambda: cluster.state("a") == "Succeeded")
        await cluster.crash_operator()
        cluster.start_operator()
        await asyncio.sleep(5)
        assert cluster.states()["b"] == "Skipped UpstreamFailed"
        await cluster.edit("b", cancel=False)  # the CRD asks for a rerun with it; this server knows no CRD
        await cluster.until(lambda: cluster.state("b") == "Succeeded")
        assert cluster.watcher.violations == []


@simulated
async def test_a_rerun_raised_during_a_run_takes_effect_once_after_it() -> None:
    async with Cluster(seconds=10.0) as cluster:
        await cluster.apply(a_job("job"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.edit("job", rerun=1)
        await asyncio.sleep(5)
        assert cluster.job("job").attempt == 1
        await cluster.edit("job", rerun=2)
        await cluster.until(lambda: cluster.job("job").finishes == 2)
        await asyncio.sleep(60)
        assert ran(cluster, "job") == [1, 2]
        assert cluster.job("job").status["succeededAttempts"] == [1, 2]
        assert cluster.watcher.violations == []


@simulated
async def test_a_rerun_raised_before_the_first_run_asks_for_no_second() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media", paused=True), a_job("job", queue="media", rerun=3))
        await asyncio.sleep(1)
        await cluster.edit("job", rerun=4)
        await cluster.edit("media", QUEUES, paused=False)
        await cluster.until_settled()
        await asyncio.sleep(60)
        assert ran(cluster, "job") == [1]
        assert cluster.job("job").observed_rerun == 4


@simulated
async def test_failures_count_from_nothing_and_attempts_go_on() -> None:
    async def broken(attempt: Attempt) -> Ended:
        return failed()

    async with Cluster({"broken": broken}) as cluster:
        await cluster.apply(a_job("broken", maxAttempts=3))
        await cluster.until_settled()
        await cluster.edit("broken", rerun=1)
        await cluster.until(lambda: cluster.job("broken").finishes == 2)
        job = cluster.job("broken")
        assert (job.state, job.attempt, job.failures) == (State.FAILED, 6, 3)
        assert job.status["message"] == "attempt 3 of 3: ValueError: it broke"
        assert ran(cluster, "broken") == [1, 2, 3, 4, 5, 6]
        assert cluster.watcher.violations == []


@simulated
async def test_former_children_stay_as_they_are_and_new_ones_are_made() -> None:
    async def parent(attempt: Attempt) -> Ended:
        for _ in range(3 if attempt.number == 1 else 1):
            await attempt.enqueue("tasks:child", queue="narrow")
        return succeeded() if attempt.number != 2 else failed()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1, paused=True), a_job("parent", maxAttempts=2))
        await cluster.until(lambda: cluster.state("parent") == "Succeeded")
        await cluster.edit("parent", rerun=1)
        await cluster.until(lambda: cluster.job("parent").finishes == 2)
        await cluster.edit("narrow", QUEUES, paused=False)
        await cluster.until_settled()
        ended = {
            (job.parent.attempt, str(job.state), job.reason): 0 for job in cluster.jobs() if job.parent is not None
        }
        for job in cluster.jobs():
            if job.parent is not None:
                ended[job.parent.attempt, str(job.state), job.reason] += 1
        assert ended == {(1, "Succeeded", ""): 3, (2, "Skipped", "ParentFailed"): 1, (3, "Succeeded", ""): 1}
        before = {job.uid: job.resource_version for job in cluster.jobs() if job.parent}
        await cluster.edit("parent", rerun=2)
        await cluster.until(lambda: cluster.job("parent").finishes == 3)
        await cluster.until_settled()
        assert {job.uid: job.resource_version for job in cluster.jobs() if job.uid in before} == before
        assert cluster.watcher.violations == []


@simulated
async def test_a_canceled_job_runs_again_by_one_update_and_its_children_do_not() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            await attempt.enqueue("tasks:child", staged=False)
            await attempt.work(100.0)
        return succeeded()

    async def child(attempt: Attempt) -> Ended:
        attempt.handles_sigterm = True
        await attempt.work(1000.0)
        return succeeded()

    async with Cluster({"parent": parent, "child": child}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await cluster.edit("parent", cancel=True)
        await cluster.until(lambda: cluster.state("parent") == "Canceled")
        assert any(job.active for job in cluster.jobs()), "the child ignores SIGTERM for its whole grace"
        await cluster.edit("parent", cancel=False, rerun=1)
        await asyncio.sleep(1)
        assert cluster.state("parent") == "Canceled", "its cancel has not reached all yet"
        await cluster.until(lambda: cluster.state("parent") == "Succeeded", seconds=60)
        assert sorted(cluster.states().values()) == ["Canceled AncestorCanceled", "Succeeded"]
        assert cluster.watcher.violations == []


@simulated
async def test_a_child_of_a_canceled_job_runs_again_only_when_that_does() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            await attempt.enqueue("tasks:child")
        return succeeded()

    async with Cluster({"parent": parent}, seconds=50.0) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1 and cluster.state("parent") == "Succeeded")
        await cluster.edit("parent", cancel=True)
        await cluster.until_settled()
        child = next(job.name for job in cluster.jobs() if job.parent)
        ran_so_far = len(cluster.kubelet.runs)
        await cluster.edit(child, rerun=1)
        await asyncio.sleep(60)
        assert cluster.states()[child] == "Canceled AncestorCanceled"
        assert (cluster.job(child).finishes, len(cluster.kubelet.runs)) == (1, ran_so_far)
        await cluster.edit("parent", cancel=False, rerun=1)
        await cluster.until(lambda: cluster.state(child) == "Succeeded", seconds=60)
        assert cluster.job("parent").finishes == 2
        assert cluster.watcher.violations == []


@simulated
async def test_a_job_that_canceled_itself_and_a_duplicate_run_again() -> None:
    async def moody(attempt: Attempt) -> Ended:
        return canceled() if attempt.number == 1 else succeeded()

    async with Cluster({"moody": moody}) as cluster:
        await cluster.apply(a_job("moody"), *(a_job(f"u{n}", unique={"key": "k"}) for n in range(2)))
        await cluster.until_settled()
        assert cluster.states() == {"moody": "Canceled Raised", "u0": "Succeeded", "u1": "Skipped Duplicate"}
        await cluster.edit("moody", rerun=1)
        await cluster.edit("u1", rerun=1)
        await cluster.until(lambda: all(job.state is State.SUCCEEDED for job in cluster.jobs()))
        assert cluster.job("u1").duplicate_of == ""
        assert cluster.watcher.violations == []


@simulated
async def test_unique_jobs_that_run_again_run_one_after_the_other() -> None:
    async with Cluster(seconds=5.0) as cluster:
        for n in range(3):
            await cluster.apply(a_job(f"u{n}", unique={"key": "k"}))
            await cluster.until_settled()
            await asyncio.sleep(1.5)
        assert set(cluster.states().values()) == {"Succeeded"}
        for n in range(3):
            await cluster.edit(f"u{n}", rerun=1)
        await cluster.until(lambda: all(job.finishes == 2 for job in cluster.jobs()))
        assert set(cluster.states().values()) == {"Succeeded"}
        times = sorted((run.started_at, run.ended_at) for run in cluster.kubelet.runs)
        assert all(before[1] is not None and before[1] <= after[0] for before, after in itertools.pairwise(times))
        assert cluster.watcher.violations == []


@simulated
async def test_a_job_is_no_duplicate_of_a_run_that_was_canceled_before_it_began() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media", paused=False), a_job("first", unique={"key": "k"}, queue="media"))
        await cluster.until_settled()
        await cluster.edit("media", QUEUES, paused=True)
        await cluster.edit("first", rerun=1)
        await asyncio.sleep(2.0)
        await cluster.apply(a_job("second", unique={"key": "k"}, queue="media"))
        await asyncio.sleep(2.0)
        await cluster.edit("first", cancel=True)
        await asyncio.sleep(2.0)
        await cluster.edit("media", QUEUES, paused=False)
        await cluster.until_settled()
        assert cluster.states() == {"first": "Canceled Requested", "second": "Succeeded"}
        assert cluster.watcher.violations == []


@simulated
async def test_two_of_a_key_that_are_armed_at_once_never_wait_for_each_other() -> None:
    async with Cluster(seconds=3.0) as cluster:
        for n in range(2):
            await cluster.apply(a_job(f"u{n}", unique={"key": "k"}))
            await cluster.until_settled()
            await asyncio.sleep(1.5)
        await cluster.edit("u0", rerun=1, suspend=True)
        await cluster.edit("u1", rerun=1)
        await cluster.until(lambda: cluster.job("u1").finishes == 2, seconds=60)
        await cluster.edit("u0", suspend=False)
        await cluster.until(lambda: cluster.job("u0").finishes == 2, seconds=60)
        assert cluster.watcher.violations == []


@simulated
async def test_a_late_child_of_a_success_without_children_stays_one_when_its_parent_has_run_again() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            attempt.enqueue_unseen("tasks:child")
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.jobs()) == 2)
        await cluster.until_settled()
        (child,) = [job.name for job in cluster.jobs() if job.parent]
        assert cluster.states()[child] == "Skipped LateChild"
        await cluster.edit("parent", rerun=1)
        await cluster.until(lambda: cluster.job("parent").finishes == 2)
        await cluster.edit(child, rerun=1)
        await cluster.until(lambda: cluster.job(child).finishes == 2)
        assert cluster.states()[child] == "Skipped LateChild"


@pytest.mark.parametrize("after", ["job", "tree"])
def test_what_was_skipped_for_a_duplicates_original_runs_when_the_duplicate_has_run_itself(after: str) -> None:
    @simulated
    async def run() -> None:
        async def original(attempt: Attempt) -> Ended:
            await attempt.work(5.0)
            return failed()

        async with Cluster({"original": original}) as cluster:
            unique = {"key": "k"}
            await cluster.apply(a_job("original", unique=unique, maxAttempts=1))
            await cluster.until(lambda: len(cluster.kubelet.running) == 1)
            await cluster.apply(a_job("duplicate", unique=unique), a_job("next", after=[{after: "duplicate"}]))
            await cluster.until_settled()
            assert cluster.states()["next"] == "Skipped UpstreamFailed"
            await cluster.edit("duplicate", rerun=1)
            await cluster.until(lambda: cluster.state("next") == "Succeeded", seconds=30)
            assert cluster.states() == {
                "original": "Failed TaskError",
                "duplicate": "Succeeded",
                "next": "Succeeded",
            }
            assert cluster.watcher.violations == []

    run()


@simulated
async def test_what_was_skipped_for_a_job_of_a_deleted_tree_does_not_wait_because_another_tree_runs_again() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child", maxAttempts=1)
        return succeeded()

    async def child(attempt: Attempt) -> Ended:
        await attempt.work(3.0)
        return failed()

    async def failing(attempt: Attempt) -> Ended:
        await attempt.work(10.0)
        return failed()

    async with Cluster({"parent": parent, "child": child, "other": failing}) as cluster:
        await cluster.apply(
            a_job("parent"),
            a_job("other", maxAttempts=1),
            a_job("next", after=[{"tree": "parent"}, {"tree": "other"}]),
        )
        await cluster.until_settled()
        assert cluster.states()["next"] == "Skipped UpstreamFailed"
        cluster.server.store.delete(JOBS, NAMESPACE, "parent")
        await cluster.edit("other", rerun=1)
        await cluster.until(lambda: cluster.job("other").finishes == 2, seconds=60)
        assert cluster.job("next").finishes == 1
        assert cluster.states()["next"] == "Skipped UpstreamFailed"


@simulated
async def test_a_job_below_a_canceled_one_does_not_run_again_as_soon_as_that_is_tidied_away() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child", staged=False)
        await attempt.work(100.0)
        return succeeded()

    async with Cluster({"parent": parent}, seconds=100.0) as cluster:
        await cluster.apply(a_job("parent", ttlSecondsAfterFinished=300))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await cluster.edit("parent", cancel=True)
        await cluster.until_settled()
        child = next(job.name for job in cluster.jobs() if job.parent)
        assert cluster.states()[child] == "Canceled AncestorCanceled"
        await cluster.edit(child, rerun=1)
        await asyncio.sleep(3600.0)
        assert len(cluster.kubelet.runs) == 2, [run.job for run in cluster.kubelet.runs]
