"""The operator's real shell and core, from a Job's creation to its end, in virtual time."""

import asyncio
from typing import Literal

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, ApiError, Object
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_worker
from tests.simulation.faults import Fault
from tests.simulation.sdk import Attempt, Ended, exits, failed, succeeded
from tests.simulation.store import Review


@simulated
async def test_a_job_costs_three_writes_before_its_pod_is_deleted() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(5)
        before = cluster.writes(JOBS, PODS)  # the Worker's dry run
        await cluster.apply(*(a_job(f"job-{n}", queue="media") for n in range(10)))
        await cluster.until_settled()
        assert cluster.writes(JOBS, PODS) - before == 30
        await asyncio.sleep(700)  # past podTTLSeconds
        assert cluster.pods() == []
        assert cluster.writes(JOBS, PODS) - before == 40
        assert cluster.watcher.violations == []


@simulated
async def test_a_queue_is_kept_full_and_never_over_its_concurrency() -> None:
    async with Cluster(seconds=2.0) as cluster:
        await cluster.apply(a_queue("emails", concurrency=4))
        await cluster.apply(*(a_job(f"mail-{n}", queue="emails") for n in range(40)))
        await cluster.until_settled()
        assert cluster.watcher.highest_slots["emails"] == 4
        assert cluster.watcher.violations == []
        ended = [run.ended_at for run in cluster.kubelet.runs]
        first = min(run.started_at for run in cluster.kubelet.runs)
        # Ten rounds of two seconds, and what lies between a report and the next container's start.
        assert max(end for end in ended if end) - first < 10 * 2.5


@simulated
async def test_a_retried_parent_leaves_exactly_one_set_of_children_run() -> None:
    async def parent(attempt: Attempt) -> Ended:
        for _ in range(3):
            await attempt.enqueue("tasks:child")
        return failed() if attempt.number < 3 else succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.jobs()) == 10)
        await cluster.until_settled()
        children = [job for job in cluster.jobs() if job.parent]
        assert sorted(job.state for job in children) == [State.SKIPPED] * 6 + [State.SUCCEEDED] * 3
        assert {job.reason for job in children if job.state is State.SKIPPED} == {"ParentFailed"}
        assert {job.parent.attempt for job in children if job.parent and job.state is State.SUCCEEDED} == {3}
        assert cluster.job("parent").failures == 2
        assert cluster.watcher.violations == []


@simulated
async def test_what_follows_a_failed_step_never_runs() -> None:
    async def broken(attempt: Attempt) -> Ended:
        return failed("no such file")

    async with Cluster({"second": broken}) as cluster:
        await cluster.apply(
            a_job("first"),
            a_job("second", after=[{"job": "first"}], maxAttempts=2),
            a_job("third", after=[{"job": "second"}]),
            a_job("fourth", after=[{"job": "third"}]),
        )
        await cluster.until_settled()
        assert cluster.states() == {
            "first": "Succeeded",
            "second": "Failed TaskError",
            "third": "Skipped UpstreamFailed",
            "fourth": "Skipped UpstreamFailed",
        }
        assert cluster.job("second").status["message"] == "attempt 2 of 2: ValueError: no such file"


@simulated
async def test_a_deleted_pod_is_run_again_and_counts_no_failure() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.apply(a_job("long"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        cluster.kubelet.evict(NAMESPACE, cluster.pods()[0].name)
        await cluster.until_settled()
        job = cluster.job("long")
        assert (job.state, job.attempt, job.failures, job.disruptions) == (State.SUCCEEDED, 2, 0, 1)
        assert [entry["outcome"] for entry in job.status["attempts"]] == ["Disrupted", "Succeeded"]
        assert cluster.watcher.violations == []


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.006, 0.01, 0.014, 0.1, 0.3, 1.0, 1.3, 2.5])
def test_an_operator_killed_at_any_moment_loses_nothing(moment: float) -> None:
    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            await cluster.apply(a_queue("emails", concurrency=2))
            await cluster.apply(*(a_job(f"mail-{n}", queue="emails") for n in range(6)))
            await asyncio.sleep(moment)
            await cluster.crash_operator()
            await asyncio.sleep(1.0)
            cluster.start_operator()
            await cluster.until_settled()
            assert set(cluster.states().values()) == {"Succeeded"}
            assert {job.failures for job in cluster.jobs()} == {0}
            assert cluster.watcher.violations == []
            assert len({(run.job, run.attempt) for run in cluster.kubelet.runs}) == len(cluster.kubelet.runs)

    run()


@simulated
async def test_of_fifty_unique_jobs_one_runs_and_the_others_name_it() -> None:
    async with Cluster(seconds=5.0) as cluster:
        await cluster.apply(*(a_job(f"u-{n:02}", unique={"key": "k"}) for n in range(50)))
        await cluster.until_settled()
        winners = [job for job in cluster.jobs() if job.state is State.SUCCEEDED]
        assert len(winners) == 1
        losers = [job for job in cluster.jobs() if job.state is State.SKIPPED]
        assert {(job.reason, job.duplicate_of) for job in losers} == {("Duplicate", winners[0].name)}
        assert len(losers) == 49
        await cluster.apply(a_job("again", unique={"key": "k"}))
        await cluster.until_settled()
        assert cluster.state("again") == "Succeeded"


@simulated
async def test_a_staged_child_whose_parent_fails_takes_the_key_from_nobody() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:work", unique={"key": "k"})
        await attempt.work(5.0)
        return failed()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent", maxAttempts=1))
        await cluster.until(lambda: len(cluster.jobs()) == 2)
        await cluster.apply(a_job("root", unique={"key": "k"}))
        await cluster.until_settled()
        assert cluster.state("root") == "Succeeded"
        child = next(job for job in cluster.jobs() if job.parent)
        assert (child.state, child.reason) == (State.SKIPPED, "ParentFailed")


@simulated
async def test_a_window_outlives_the_winner_and_the_operator() -> None:
    unique = {"key": "k", "scope": "Window", "windowSeconds": 120}
    async with Cluster() as cluster:
        await cluster.apply(a_job("first", unique=unique, ttlSecondsAfterFinished=0))
        await cluster.until_settled()
        await cluster.crash_operator()
        cluster.start_operator()
        await asyncio.sleep(60)
        await cluster.apply(a_job("early", unique=unique))
        await cluster.until(lambda: cluster.job("early").terminal)
        assert cluster.states()["early"] == "Skipped Duplicate"
        await asyncio.sleep(65)
        await cluster.apply(a_job("late", unique=unique))
        await cluster.until(lambda: cluster.job("late").terminal)
        assert cluster.state("late") == "Succeeded"


@simulated
async def test_cancel_of_a_tree_leaves_no_live_pod_and_starts_nothing_new() -> None:
    async def parent(attempt: Attempt) -> Ended:
        for _ in range(10):
            await attempt.enqueue("tasks:child", queue="narrow")
        return succeeded()

    async def child(attempt: Attempt) -> Ended:
        await attempt.work(100.0)
        return succeeded()

    async with Cluster({"parent": parent, "child": child}) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=3), a_job("parent"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 3)
        await cluster.edit("parent", cancel=True)
        await cluster.until_settled()
        assert cluster.state("parent") == "Succeeded"
        children = [job for job in cluster.jobs() if job.parent]
        assert {(job.state, job.reason) for job in children} == {(State.CANCELED, "AncestorCanceled")}
        assert not any(pod.live for pod in cluster.pods())
        assert len(cluster.kubelet.runs) == 4


@simulated
async def test_cancel_waits_for_the_end_of_the_pod_and_says_so_meanwhile() -> None:
    async def deaf(attempt: Attempt) -> Ended:
        attempt.handles_sigterm = True
        await attempt.work(1000.0)
        return succeeded()

    async with Cluster({"deaf": deaf}) as cluster:
        await cluster.apply(a_job("deaf"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.edit("deaf", cancel=True)
        await cluster.until(lambda: cluster.job("deaf").reason == "Canceling")
        assert cluster.pods()
        await cluster.until_settled()
        assert cluster.states()["deaf"] == "Canceled Requested"
        assert cluster.pods() == []


@simulated
async def test_a_missing_queue_and_a_missing_worker_are_named_at_once_and_waited_for() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_job("a", queue="none"), a_job("b", worker="none"))
        await cluster.until(lambda: cluster.job("a").reason == "QueueNotFound", seconds=1)
        await cluster.until(lambda: cluster.job("b").reason == "WorkerNotFound", seconds=1)
        await cluster.apply(a_queue("none"), a_worker("none"))
        await cluster.until_settled()
        assert cluster.states() == {"a": "Succeeded", "b": "Succeeded"}


@simulated
async def test_a_long_wait_is_explained_after_half_a_minute_and_a_short_one_costs_no_write() -> None:
    async with Cluster(seconds=40.0) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1))
        await cluster.apply(a_job("first", queue="narrow"), a_job("second", queue="narrow"))
        await asyncio.sleep(25)
        assert cluster.job("second").reason == ""
        await cluster.until(lambda: cluster.job("second").reason == "AtConcurrencyLimit", seconds=10)
        assert cluster.job("second").status["message"] == "waits for a slot: queue narrow runs 1 of 1"


@simulated
async def test_a_paused_queue_starts_nothing_until_it_goes_on() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media", paused=True), a_job("a", queue="media"))
        await asyncio.sleep(60)
        assert cluster.job("a").reason == "QueuePaused"
        await cluster.edit("media", QUEUES, paused=False)
        await cluster.until_settled(seconds=10)


@simulated
async def test_higher_priority_goes_first_and_equals_in_order() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1, paused=True))
        for n, priority in enumerate([0, 5, 0, 9]):
            await cluster.apply(a_job(f"p{n}", queue="narrow", priority=priority))
        await asyncio.sleep(1)
        await cluster.edit("narrow", QUEUES, paused=False)
        await cluster.until_settled()
        assert [run.job for run in cluster.kubelet.runs] == ["p3", "p1", "p0", "p2"]


@simulated
async def test_a_command_has_its_exit_code_for_an_outcome_and_its_message_for_a_result() -> None:
    async def good(attempt: Attempt) -> Ended:
        return exits(0, '{"rows": 3}')

    async def bad(attempt: Attempt) -> Ended:
        return exits(3, "no such table")

    async with Cluster({"good": good, "bad": bad}) as cluster:
        await cluster.apply(
            a_job("good", command=["load"], image="i"), a_job("bad", command=["x"], image="i", maxAttempts=1)
        )
        await cluster.until_settled()
        assert cluster.job("good").status["result"] == {"rows": 3}
        assert cluster.states()["bad"] == "Failed NonZeroExit"
        assert cluster.job("bad").status["message"] == "attempt 1 of 1: exited with code 3: no such table"


@simulated
async def test_a_refused_pod_undoes_the_claim_and_one_job_probes_until_it_is_taken() -> None:
    async with Cluster() as cluster:
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(403, "Forbidden", "exceeded quota: pods"), times=8)
        )
        await cluster.apply(a_queue("media"), *(a_job(f"job-{n}", queue="media") for n in range(5)))
        await cluster.until(lambda: any(job.reason == "PodRejected" for job in cluster.jobs()))
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}
        assert {job.failures for job in cluster.jobs()} == {0}


@simulated
async def test_jobs_whose_pods_are_never_taken_do_not_starve_those_behind_them() -> None:
    def too_large(review: Review) -> None:
        if review.resource == PODS and review.new is not None and review.old is None:
            limits = review.new["spec"]["containers"][0].get("resources", {}).get("limits", {})
            if limits.get("cpu") == "64":
                raise ApiError(403, "Forbidden", "maximum cpu usage per Container is 4, but limit is 64")

    async with Cluster() as cluster:
        cluster.server.store.admission.append(too_large)
        large = {"limits": {"cpu": "64"}}
        await cluster.apply(a_queue("media"), *(a_job(f"large-{n}", queue="media", resources=large) for n in range(3)))
        await asyncio.sleep(600)
        await cluster.apply(*(a_job(f"small-{n}", queue="media") for n in range(5)))
        await cluster.until(lambda: all(cluster.state(f"small-{n}") == "Succeeded" for n in range(5)), seconds=120)
        assert {cluster.state(f"large-{n}") for n in range(3)} <= {"Waiting", "Starting"}


@simulated
async def test_a_clock_that_is_set_back_holds_no_queue_up_whose_pods_were_refused() -> None:
    async with Cluster() as cluster:
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(403, "Forbidden", "exceeded quota: pods"), times=2)
        )
        await cluster.apply(a_queue("media"), a_job("refused", queue="media"))
        await cluster.until(lambda: cluster.job("refused").reason == "PodRejected")
        await cluster.apply(a_job("next", queue="media"))
        cluster.clock.jump(-600)
        await cluster.until(lambda: cluster.state("next") == "Succeeded", seconds=30)


@simulated
async def test_a_lost_answer_never_runs_an_attempt_twice() -> None:
    async with Cluster() as cluster:
        loss: Literal["answer", "request"]
        for loss in ("answer", "request"):
            cluster.server.faults.append(Fault(verb="create", resource=PODS, lose=loss, times=5))
            cluster.server.faults.append(Fault(verb="patch", resource=JOBS, lose=loss, times=5))
        await cluster.apply(a_queue("media", concurrency=2), *(a_job(f"job-{n}", queue="media") for n in range(8)))
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}
        assert len(cluster.kubelet.runs) == 8
        assert cluster.watcher.violations == []


@simulated
async def test_a_finished_job_stays_until_its_container_has_ended_and_holds_no_slot_meanwhile() -> None:
    """Deleted before, it would take its pod along, whose slot nobody could know to be free."""

    async def cleans_up(attempt: Attempt) -> Ended:
        if attempt.job == "first":
            await attempt.report({"v": 1, "attempt": 1, "outcome": "Succeeded", "children": {"total": 0, "groups": {}}})
            await attempt.work(9.0)
        return succeeded()

    async with Cluster({"work": cleans_up}) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1))
        await cluster.apply(*(a_job(name, queue="narrow", ttlSecondsAfterFinished=0) for name in ("first", "second")))
        await cluster.until(lambda: cluster.jobs() == [])
        first, second = cluster.kubelet.runs
        assert first.ended_at is not None
        assert first.ended_at - first.started_at >= 9.0
        assert second.started_at - first.started_at < 3.0
        assert cluster.watcher.violations == []


@simulated
async def test_a_finished_job_goes_with_its_ttl_but_not_before_what_needs_it() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:slow")
        return succeeded()

    async def slow(attempt: Attempt) -> Ended:
        await attempt.work(50.0)
        return succeeded()

    async with Cluster({"parent": parent, "slow": slow}) as cluster:
        await cluster.apply(a_job("parent", ttlSecondsAfterFinished=5), a_job("alone", ttlSecondsAfterFinished=5))
        await asyncio.sleep(30)
        assert [job.name for job in cluster.jobs() if not job.parent] == ["parent"]
        await asyncio.sleep(60)
        assert [job.name for job in cluster.jobs() if not job.parent] == []


@simulated
async def test_a_worker_that_the_api_server_refuses_holds_its_jobs_and_says_why() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(5)  # the default Worker's check
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(422, "Invalid", "spec.x: bad"), times=1)
        )
        await cluster.apply(a_worker("odd"), a_job("a", worker="odd"))
        await cluster.until(lambda: cluster.job("a").reason == "WorkerNotReady", seconds=2)
        assert "spec.x: bad" in cluster.job("a").status["message"]
        await cluster.until_settled()
        worker = cluster.server.store.get(WORKERS, NAMESPACE, "odd")
        assert worker["status"]["conditions"][0]["status"] == "True"


async def polite(attempt: Attempt) -> Ended:
    """Takes SIGTERM for a request to leave, and leaves with 0."""
    attempt.handles_sigterm = True
    await attempt.stopping.wait()
    return exits(0)


@simulated
async def test_a_command_that_exits_cleanly_on_sigterm_is_canceled_all_the_same() -> None:
    async with Cluster({"polite": polite}) as cluster:
        await cluster.apply(a_job("polite", command=["serve"], image="i"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await asyncio.sleep(3)
        await cluster.edit("polite", cancel=True)
        await cluster.until_settled()
        assert cluster.states()["polite"] == "Canceled Requested"


@simulated
async def test_a_command_that_is_evicted_or_out_of_time_has_not_succeeded_though_it_exits_with_0() -> None:
    async with Cluster({"evicted": polite, "late": polite}, seconds=1.0) as cluster:
        await cluster.apply(a_job("late", command=["serve"], image="i", timeoutSeconds=10, maxAttempts=1))
        await cluster.apply(a_job("evicted", command=["serve"], image="i"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await asyncio.sleep(3)
        cluster.kubelet.evict(NAMESPACE, cluster.job("evicted").pod_name(1))
        await cluster.until(lambda: cluster.job("evicted").disruptions == 1)
        await cluster.until(lambda: cluster.job("late").terminal)
        assert cluster.states()["late"] == "Failed Timeout"
        assert cluster.job("evicted").failures == 0


@simulated
async def test_the_children_of_a_command_run_though_it_reports_no_number_of_them() -> None:
    async def command(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child")
        await attempt.enqueue("tasks:child")
        return exits(0)

    async with Cluster({"command": command}) as cluster:
        await cluster.apply(a_job("command", command=["load"], image="i"))
        await cluster.until_settled()
        assert list(cluster.states().values()) == ["Succeeded"] * 3


@simulated
@pytest.mark.parametrize("words", ["exceeded quota: pods", "status unknown for quota: pods"])
async def test_a_quota_makes_no_worker_unready(words: str) -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(5)  # the default Worker's check
        conditions: list[Object] = []
        cluster.server.store.observers.append(
            lambda change: (
                conditions.extend(change.object.get("status", {}).get("conditions", ()))
                if change.resource == WORKERS
                else None
            )
        )
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(403, "Forbidden", words), times=1)
        )
        await cluster.apply(a_worker("odd"), a_job("a", worker="odd"))
        await cluster.until_settled()
        assert [condition["status"] for condition in conditions] == ["True"]


@simulated
async def test_a_ready_condition_without_a_time_stops_no_operator() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(2.0)
        await cluster.apply(a_worker("odd"))
        await asyncio.sleep(2.0)
        conditions = [{"type": "Ready", "status": "True"}]
        await cluster.server.patch(
            WORKERS,
            NAMESPACE,
            "odd",
            [{"op": "add", "path": "/status", "value": {"conditions": conditions}}],
            subresource="status",
        )
        await asyncio.sleep(5.0)
        assert cluster._operator is not None
        assert not cluster._operator.done(), cluster._operator.exception()


@simulated
async def test_a_pod_refused_for_a_conflict_of_its_quota_was_never_there() -> None:
    """The admission of quotas gives up on a conflict of its own with a 409 whose reason is not AlreadyExists."""
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(2.0)
        words = 'Operation cannot be fulfilled on resourcequotas "pods": the object has been modified'
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(409, "Conflict", words), times=6)
        )
        await cluster.apply(a_job("a", queue="media"))
        await cluster.until(lambda: cluster.job("a").attempt == 1 and cluster.state("a") == "Waiting")
        assert cluster.job("a").reason == "PodRejected", cluster.job("a").status["message"]
        await cluster.until_settled()
        assert (cluster.job("a").disruptions, cluster.job("a").failures) == (0, 0)
