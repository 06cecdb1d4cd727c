"""Races that random lives under faults, or a reading of the shell, have found: each told step by step."""

import asyncio

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, ApiError, Resource
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_worker
from tests.simulation.faults import Fault, internal_error
from tests.simulation.judge import Judge
from tests.simulation.sdk import Attempt, Ended, succeeded
from tests.simulation.store import Review


async def _started(cluster: Cluster) -> None:
    """The default Worker's check and the default queue are behind us."""
    await cluster.apply(a_job("first"))
    await cluster.until_settled()


@simulated
async def test_a_pod_that_went_before_its_create_was_answered_is_not_created_again() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(2.0)
        cluster.server.watch_lag = lambda client, resource: 8.0 if resource == PODS else 0.0
        cluster.server.faults.append(Fault(verb="create", resource=PODS, lose="answer", hang_seconds=5.0))
        await cluster.apply(a_job("a", queue="media"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        await cluster.until_settled()
        job = cluster.job("a")
        assert (job.state, job.attempt, job.failures, job.disruptions) == (State.SUCCEEDED, 2, 0, 1)
        assert [run.attempt for run in cluster.kubelet.runs] == [1, 2]


@simulated
async def test_an_outcome_reported_before_the_create_was_answered_counts_though_the_pod_is_gone() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(2.0)
        cluster.server.watch_lag = lambda client, resource: 30.0
        cluster.server.faults.append(Fault(verb="create", resource=PODS, lose="answer", hang_seconds=5.0))
        cluster.server.store.create(JOBS, NAMESPACE, a_job("a", queue="media"))
        await cluster.until(lambda: "report" in cluster.job("a").status)
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        await cluster.until_settled()
        assert cluster.states() == {"a": "Succeeded"}
        assert [run.attempt for run in cluster.kubelet.runs] == [1]


@simulated
async def test_a_create_that_never_arrived_is_repeated_under_its_number() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="create", resource=PODS, lose="request", times=3))
        await cluster.apply(a_job("a"))
        await cluster.until_settled()
        job = cluster.job("a")
        assert (job.state, job.attempt, job.disruptions) == (State.SUCCEEDED, 1, 0)


@simulated
async def test_a_pod_seen_to_go_frees_its_slot_and_is_not_created_again_without_one() -> None:
    async with Cluster(seconds=10.0, start_seconds=5.0) as cluster:
        judge = Judge(cluster.server)
        await cluster.apply(a_queue("narrow", concurrency=1))
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="create", resource=PODS, lose="answer"))
        # The read after it is slow: the pod is gone by then.
        cluster.server.faults.append(Fault(verb="get", resource=PODS, delay_seconds=0.2))
        await cluster.apply(a_job("a", queue="narrow"), a_job("b", queue="narrow"))
        await cluster.until(lambda: len(cluster.pods()) == 1)
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}
        assert cluster.job("a").disruptions == 1
        assert judge.violations == []


@simulated
async def test_a_parent_is_not_deleted_before_a_late_watch_has_told_of_its_children() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child")
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await _started(cluster)
        await cluster.apply(a_job("parent", ttlSecondsAfterFinished=1))
        await cluster.until(lambda: bool(cluster.kubelet.running))
        cluster.server.watch_lag = lambda client, resource: 20.0 if resource == JOBS else 0.0
        await asyncio.sleep(15.0)
        assert cluster.state("parent") == "Succeeded"
        await cluster.until(lambda: "parent" not in cluster.states())
        assert sorted(cluster.states().values()) == ["Succeeded", "Succeeded"]


@simulated
async def test_a_rival_goes_on_when_the_first_of_its_key_comes_to_wait_for_something() -> None:
    async with Cluster() as cluster:
        await _started(cluster)
        await cluster.apply(a_queue("paused", paused=True))
        await cluster.apply(
            a_job("one", queue="paused", unique={"key": "k"}, after=[{"job": "first"}]),
            a_job("two", unique={"key": "k"}),
        )
        await asyncio.sleep(5.0)
        assert cluster.state("two") == "Waiting"
        cluster.server.store.delete(JOBS, NAMESPACE, "first")
        await cluster.until(lambda: cluster.job("two").terminal, seconds=10)
        assert cluster.states() == {"one": "Waiting DependencyMissing", "two": "Succeeded"}


@simulated
async def test_a_job_deleted_while_its_pod_is_being_created_frees_no_slot_before_the_pod_is_gone() -> None:
    async with Cluster(seconds=10.0) as cluster:
        judge = Judge(cluster.server)
        await cluster.apply(a_queue("narrow", concurrency=1))
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="create", resource=PODS, delay_seconds=2.0))
        await cluster.apply(a_job("a", queue="narrow"), a_job("b", queue="narrow"))
        await cluster.until(lambda: cluster.state("a") == "Starting")
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.until_settled()
        assert cluster.states() == {"b": "Succeeded"}
        assert [violation for violation in judge.violations if "slots" in violation] == []


@simulated
async def test_a_full_queue_whose_pods_were_refused_is_not_looked_at_without_end() -> None:
    async with Cluster(seconds=300.0) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=2), a_job("long", queue="narrow"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        refusal = ApiError(403, "Forbidden", "exceeded quota: pods")
        cluster.server.faults.append(Fault(verb="create", resource=PODS, error=refusal))
        await cluster.apply(a_job("refused", queue="narrow"))
        await cluster.until(lambda: cluster.job("refused").reason == "PodRejected")
        await cluster.edit("narrow", QUEUES, concurrency=1)
        await asyncio.sleep(60.0)
        sleeps = _count_sleeps(cluster)
        await asyncio.sleep(60.0)
        assert len(sleeps) < 60 * 8  # the caretaker's loops make six a second, the controller's heartbeat one


def _count_sleeps(cluster: Cluster) -> list[float]:
    sleeps: list[float] = []
    sleep = cluster.clock.sleep

    async def counted(seconds: float) -> None:
        sleeps.append(seconds)
        await sleep(seconds)

    cluster.clock.sleep = counted  # type: ignore[method-assign]
    return sleeps


@simulated
async def test_the_check_of_a_worker_that_got_no_answer_is_soon_repeated() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="create", resource=PODS, error=internal_error()))
        await cluster.apply(a_worker("new"), a_job("a", worker="new"))
        await cluster.until_settled(seconds=10)


@simulated
async def test_a_refused_worker_is_told_in_the_same_words_at_each_check() -> None:
    def refuse(review: Review) -> None:
        resource, new = review.resource, review.new
        if resource == PODS and new is not None and new["metadata"]["name"].startswith("odd"):
            raise ApiError(403, "Forbidden", f'pods "{new["metadata"]["name"]}" is forbidden: violates PodSecurity')

    async with Cluster() as cluster:
        cluster.server.store.admission.append(refuse)
        await cluster.apply(a_worker("odd"), a_job("a", worker="odd"))
        await asyncio.sleep(10.0)
        before = cluster.writes(WORKERS, JOBS)
        await asyncio.sleep(300.0)
        assert cluster.writes(WORKERS, JOBS) == before
        assert 'pods "odd-check" is forbidden' in cluster.job("a").status["message"]


@simulated
async def test_a_missing_dependency_is_named_anew_when_another_one_is_missing() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_job("a", after=[{"job": "x"}, {"job": "y"}]))
        await cluster.until(lambda: "Job y" in cluster.job("a").status.get("message", ""), seconds=5)
        await cluster.apply(a_job("y"))
        await cluster.until(lambda: "Job x" in cluster.job("a").status.get("message", ""), seconds=5)
        assert cluster.job("a").reason == "DependencyMissing"


@simulated
async def test_a_write_that_a_starting_api_server_forbids_is_made_two_seconds_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Cluster() as cluster:
        await _started(cluster)
        unread_roles = ApiError(403, "Forbidden", 'User "operator" cannot patch resource "questjobs/status"')
        cluster.server.faults.append(Fault(client="operator", verb="patch", resource=JOBS, error=unread_roles, times=2))
        await cluster.apply(a_job("a"))
        began = asyncio.get_running_loop().time()
        await cluster.until_settled()
        assert asyncio.get_running_loop().time() - began < 8
        job = cluster.job("a")
        assert (job.state, job.attempt, job.failures) == (State.SUCCEEDED, 1, 0)
        assert not [record for record in caplog.records if record.exc_info], "a refusal is no bug of the operator's"


@simulated
async def test_a_job_made_anew_in_another_queue_takes_no_slot_by_way_of_the_old_one() -> None:
    async with Cluster(seconds=60.0) as cluster:
        judge = Judge(cluster.server)
        await cluster.apply(a_queue("one", concurrency=1), a_queue("two", concurrency=1))
        await cluster.apply(a_job("x", queue="one"), a_job("y", queue="two", task="tasks:long"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await asyncio.sleep(20.0)
        await cluster.apply(a_job("z", queue="two"))  # "two" goes on for longer than "one"
        await cluster.apply(a_job("a", queue="one"))
        await asyncio.sleep(2.0)
        # The watch breaks; while it is gone "a" is deleted and made anew, in the other queue.
        cluster.server.end_watches(JOBS, client="operator-", expired=True)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        cluster.server.store.create(JOBS, NAMESPACE, a_job("a", queue="two"))
        cluster.server.compact()
        await cluster.until_settled()
        assert [violation for violation in judge.violations if "slots" in violation] == []
        assert cluster.watcher.violations == []


@simulated
async def test_the_staged_child_of_a_parent_made_anew_unseen_is_skipped() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child")
        await attempt.work(1000.0)
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.jobs()) == 2)
        await asyncio.sleep(60.0)
        cluster.server.end_watches(JOBS, client="operator-", expired=True)
        cluster.server.store.delete(JOBS, NAMESPACE, "parent")
        cluster.server.store.create(JOBS, NAMESPACE, a_job("parent", task="tasks:other"))
        cluster.server.compact()
        await asyncio.sleep(3600.0)
        child = next(job for job in cluster.jobs() if job.parent)
        assert (child.state, child.reason) == (State.SKIPPED, "ParentGone")


@simulated
async def test_a_rival_goes_on_when_the_first_of_its_key_was_made_anew_unseen() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("one", paused=True), a_queue("two"))
        await cluster.apply(a_job("a", queue="one", unique={"key": "k"}))
        await asyncio.sleep(2.0)
        await cluster.edit("one", QUEUES, paused=True)
        await cluster.apply(a_job("b", queue="two", unique={"key": "k"}))  # waits behind "a"
        await asyncio.sleep(60.0)
        assert cluster.states()["b"] == "Waiting AtConcurrencyLimit"
        cluster.server.end_watches(JOBS, client="operator-", expired=True)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        cluster.server.store.create(JOBS, NAMESPACE, a_job("a", queue="one"))
        cluster.server.compact()
        await asyncio.sleep(600.0)
        assert cluster.state("b") == "Succeeded", cluster.states()


@pytest.mark.parametrize(
    "resource", [pytest.param(WORKERS, id="a Worker's condition"), pytest.param(QUEUES, id="a Queue's counts")]
)
def test_an_object_whose_status_is_never_taken_holds_up_no_other(resource: Resource) -> None:
    """A webhook that cannot be called makes the API server answer 500, for as long as that lasts."""

    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            error = ApiError(500, "InternalError", 'failed calling webhook "a.example.com": connection refused')
            cluster.server.faults.append(Fault(verb="patch", resource=resource, name="bad", error=error, times=None))
            await cluster.apply(a_worker("bad"), a_queue("bad"))
            await asyncio.sleep(10)
            await cluster.apply(a_worker("good"), a_queue("good"), a_job("job", queue="good", worker="good"))
            await cluster.until(lambda: cluster.state("job") == "Succeeded", seconds=30)
            await asyncio.sleep(5)
            counts = cluster.server.store.get(QUEUES, NAMESPACE, "good")["status"]
            assert counts["totals"]["succeeded"] == 1

    run()


@simulated
async def test_a_worker_whose_check_takes_long_holds_up_no_other() -> None:
    async with Cluster() as cluster:
        late = Fault(verb="create", resource=PODS, name="bad-check", lose="request", hang_seconds=10.0, times=None)
        cluster.server.faults.append(late)
        await cluster.apply(a_worker("bad"))
        await asyncio.sleep(1)
        await cluster.apply(a_worker("good"), a_job("job", worker="good"))
        await cluster.until(lambda: cluster.state("job") == "Succeeded", seconds=5)


@simulated
async def test_an_object_that_is_never_deleted_holds_up_no_others_deletion() -> None:
    async with Cluster() as cluster:
        error = ApiError(500, "InternalError", 'failed calling webhook "a.example.com": connection refused')
        cluster.server.faults.append(Fault(verb="delete", resource=JOBS, name="bad", error=error, times=None))
        await cluster.apply(a_queue("a"), a_queue("b"), a_job("bad", queue="a", ttlSecondsAfterFinished=0))
        await asyncio.sleep(20)
        await cluster.apply(*(a_job(f"job-{q}", queue=q, ttlSecondsAfterFinished=0) for q in "ab"))
        await cluster.until(lambda: [job.name for job in cluster.jobs()] == ["bad"], seconds=60)
