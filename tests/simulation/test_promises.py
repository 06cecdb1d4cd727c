"""Promises that a random life rarely puts to the test: each told step by step, each seen red (tests/mutants)."""

import asyncio
import itertools

from questline_operator.core.states import State
from questline_operator.shell.api import CONFIG_MAPS, JOBS, LEASES, PODS, ApiError, Object
from questline_operator.shell.epoch import FENCE
from questline_operator.shell.lease import LEASE_SECONDS, RENEW_DEADLINE_SECONDS
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.faults import Call, Fault
from tests.simulation.kubelet import Obstacle
from tests.simulation.policies import report
from tests.simulation.replica import NAMESPACE as OPERATORS
from tests.simulation.replica import Replica
from tests.simulation.sdk import Attempt, Ended, failed, retry, succeeded

REFUSAL = ApiError(403, "Forbidden", "exceeded quota: pods")


@simulated
async def test_a_suspended_job_starts_when_it_is_held_no_more() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_job("a", suspend=True))
        await asyncio.sleep(60.0)
        assert cluster.states() == {"a": "Waiting Suspended"}
        await cluster.edit("a", suspend=False)
        await cluster.until_settled(seconds=10.0)


@simulated
async def test_a_claim_that_was_not_written_makes_no_pod() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(2.0)
        pods: list[str] = []
        cluster.server.store.observers.append(lambda c: pods.append(c.key[1]) if c.resource == PODS else None)
        cluster.server.faults.append(Fault(verb="patch", resource=JOBS, delay_seconds=2.0))
        await cluster.apply(a_job("a", queue="media"))
        await asyncio.sleep(1.0)
        await cluster.edit("a", suspend=True)  # applied before the claim that is on its way
        await asyncio.sleep(60.0)
        assert cluster.states() == {"a": "Waiting Suspended"}
        assert pods == []


@simulated
async def test_each_attempt_finds_the_place_of_its_report_free() -> None:
    async def work(attempt: Attempt) -> Ended:
        return failed() if attempt.number < 3 else succeeded()

    async with Cluster({"a": work}) as cluster:
        cluster.server.store.admission.append(report)
        await cluster.apply(a_job("a"))
        for number in (1, 2, 3):
            await cluster.until(lambda n=number: cluster.job("a").status.get("report", {}).get("attempt") == n)  # type: ignore[misc]
        await cluster.until_settled()


@simulated
async def test_a_pod_that_does_not_end_after_its_report_is_deleted() -> None:
    async def lingers(attempt: Attempt) -> Ended:
        await attempt.report({"v": 1, "attempt": 1, "outcome": "Succeeded", "children": {"total": 0, "groups": {}}})
        await attempt.work(3600.0)
        return succeeded()

    async with Cluster({"a": lingers}) as cluster:
        await cluster.apply(a_job("a"))
        await cluster.until_settled()
        await cluster.until(lambda: not cluster.kubelet.running, seconds=120.0)


@simulated
async def test_the_next_attempt_waits_for_a_pod_that_is_deaf_to_its_deletion() -> None:
    async def deaf(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            attempt.handles_sigterm = True
            await attempt.report({"v": 1, "attempt": 1, "outcome": "Failed", "children": {"total": 0, "groups": {}}})
            await attempt.work(3600.0)
        return succeeded()

    async with Cluster({"a": deaf}) as cluster:
        await cluster.apply(a_job("a", backoff={"baseSeconds": 0}))
        await cluster.until_settled()
        first, second = cluster.kubelet.runs
        assert first.ended_at is not None
        assert first.ended_at <= second.started_at
        assert cluster.watcher.violations == []


@simulated
async def test_a_pod_whose_job_was_deleted_without_it_holds_its_slot_until_it_is_gone() -> None:
    async with Cluster(seconds=3600.0) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1), a_job("a", queue="narrow"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        pod = cluster.pods()[0].name
        # What `kubectl delete --cascade=orphan` does.
        operations = [{"op": "remove", "path": "/metadata/ownerReferences"}]
        cluster.server.store.patch(PODS, NAMESPACE, pod, operations)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.apply(a_job("b", queue="narrow"))
        await cluster.until(lambda: pod not in {run.pod for run in cluster.kubelet.running}, seconds=120.0)
        await cluster.until(lambda: cluster.state("b") == "Running", seconds=60.0)
        assert cluster.watcher.violations == []


@simulated
async def test_an_attempt_whose_pod_came_and_went_while_no_operator_looked_is_not_run_again_under_its_number() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.apply(a_job("a"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.crash_operator()
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        cluster.start_operator()
        await cluster.until_settled()
        job = cluster.job("a")
        assert [entry["outcome"] for entry in job.status["attempts"]] == ["Disrupted", "Succeeded"]
        assert [run.pod for run in cluster.kubelet.runs] == [job.pod_name(1), job.pod_name(2)]
        assert cluster.watcher.violations == []


@simulated
async def test_a_pod_that_was_deleted_while_the_watch_was_broken_is_missed_by_the_next_list() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.apply(a_job("a"))
        await cluster.until(lambda: cluster.state("a") == "Running")
        # The watch breaks, and when there is one again the server has forgotten what was deleted in between.
        cluster.server.end_watches(PODS, client="operator-", expired=True)
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        cluster.server.compact()
        await cluster.until_settled(seconds=120.0)
        attempts = cluster.job("a").status["attempts"]
        assert [entry["outcome"] for entry in attempts] == ["Disrupted", "Succeeded"]
        assert cluster.watcher.violations == []


@simulated
async def test_a_pod_of_anothers_that_has_the_name_is_not_taken_for_the_attempt() -> None:
    def waits(pod: Object) -> Obstacle | None:
        return None if "labels" in pod["metadata"] else Obstacle("Unschedulable", message="0/1 nodes are available")

    async with Cluster(obstacle=waits) as cluster:
        await cluster.apply(a_job("a", suspend=True))
        name = cluster.job("a").pod_name(1)
        foreign = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"containers": [{"name": "x"}]}}
        cluster.server.store.create(PODS, NAMESPACE, foreign)
        await cluster.edit("a", suspend=False)
        await cluster.until(lambda: cluster.job("a").reason == "PodRejected", seconds=60.0)
        await cluster.until_settled()
        assert cluster.job("a").succeeded_attempts == (2,)


@simulated
async def test_the_number_of_a_refused_pod_is_used_up() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="create", resource=PODS, error=REFUSAL, times=3))
        await cluster.apply(a_job("a"))
        await cluster.until_settled()
        job = cluster.job("a")
        assert (job.state, job.attempt, job.failures) == (State.SUCCEEDED, 4, 0)


@simulated
async def test_a_failed_attempt_is_repeated_after_its_back_off_and_not_before() -> None:
    async def broken(attempt: Attempt) -> Ended:
        return failed()

    async with Cluster({"a": broken}, seconds=0.0) as cluster:
        backoff = {"type": "Fixed", "baseSeconds": 60, "maxSeconds": 60, "jitter": 0.5}
        await cluster.apply(a_job("a", maxAttempts=3, backoff=backoff))
        await cluster.until_settled()
        runs = cluster.kubelet.runs
        assert len(runs) == 3
        for before, after in itertools.pairwise(runs):
            assert before.ended_at is not None
            assert 30.0 <= after.started_at - before.ended_at <= 65.0


@simulated
async def test_a_retry_comes_after_the_delay_that_the_task_asked_for_be_it_longer_or_shorter_than_the_back_off() -> (
    None
):
    delays = [300.0, 5.0]

    async def not_yet(attempt: Attempt) -> Ended:
        return retry(delays[attempt.number - 1]) if attempt.number <= len(delays) else succeeded()

    async with Cluster({"a": not_yet}, seconds=0.0) as cluster:
        backoff = {"type": "Fixed", "baseSeconds": 60, "maxSeconds": 60, "jitter": 0}
        await cluster.apply(a_job("a", backoff=backoff))
        await cluster.until_settled()
        assert cluster.job("a").failures == len(delays)
        for (before, after), delay in zip(itertools.pairwise(cluster.kubelet.runs), delays, strict=True):
            assert before.ended_at is not None
            assert delay <= after.started_at - before.ended_at <= delay + 5.0


@simulated
async def test_a_child_that_is_seen_late_is_judged_by_its_own_attempt() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            await attempt.enqueue("tasks:child")
            return failed().unreported()
        return succeeded().unreported()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("first"))
        await cluster.until_settled()
        await cluster.apply(a_job("parent", backoff={"type": "Fixed", "baseSeconds": 0}))
        await cluster.until(lambda: bool(cluster.kubelet.running))
        cluster.server.watch_lag = lambda client, resource: 20.0 if resource == JOBS else 0.0
        await cluster.until_settled()
        child = next(job for job in cluster.jobs() if job.parent)
        assert cluster.job("parent").succeeded_attempts == (2,)
        assert (child.state, child.reason) == (State.SKIPPED, "ParentFailed")


@simulated
async def test_a_child_beyond_those_that_its_parent_reported_is_skipped() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child")
        await attempt.enqueue("tasks:child")
        attempt.total = 1  # the second was accepted after its parent had given it up
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until_settled()
        ends = sorted((job.state, job.reason) for job in cluster.jobs() if job.parent)
        assert ends == [(State.SKIPPED, "LateChild"), (State.SUCCEEDED, "")]


@simulated
async def test_after_finished_is_met_by_a_failure_too() -> None:
    async def broken(attempt: Attempt) -> Ended:
        return failed()

    async with Cluster({"first": broken}) as cluster:
        await cluster.apply(
            a_job("first", maxAttempts=1), a_job("cleanup", after=[{"job": "first"}], afterPolicy="Finished")
        )
        await cluster.until_settled()
        assert cluster.states() == {"first": "Failed TaskError", "cleanup": "Succeeded"}


@simulated
async def test_nobody_is_a_duplicate_of_a_job_whose_claim_is_not_written() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(verb="patch", resource=JOBS, delay_seconds=5.0))
        await cluster.apply(*(a_job(name, queue="media", unique={"key": "k"}) for name in ("a", "b")))
        await asyncio.sleep(1.0)
        assert cluster.states() == {"a": "Waiting", "b": "Waiting"}
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.until_settled()
        assert cluster.states() == {"b": "Succeeded"}


@simulated
async def test_a_job_deleted_before_the_answer_to_its_last_write_came_stays_deleted() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_job("first"))
        await cluster.until(lambda: cluster.state("first") == "Starting")
        late = Fault(client="operator-", verb="patch", resource=JOBS, answer_delay_seconds=5.0)
        cluster.server.faults.append(late)
        await cluster.until(lambda: cluster.state("first") == "Succeeded")
        cluster.server.store.delete(JOBS, NAMESPACE, "first")
        await asyncio.sleep(10.0)
        await cluster.apply(a_job("second", after=[{"job": "first"}]))
        await asyncio.sleep(10.0)
        assert cluster.states() == {"second": "Waiting DependencyMissing"}


# Two replicas


class _Two:
    """A cluster whose operator is two replicas, and what no two of them may do."""

    def __init__(self, cluster: Cluster) -> None:
        self.log: list[str] = []
        self.replicas = [Replica(cluster.server, name, note=self.log.append) for name in ("a", "b")]
        self.both: list[float] = []
        self.cluster = cluster
        cluster.server.store.observers.append(lambda change: self._look())

    def _look(self) -> None:
        if sum(replica.leads for replica in self.replicas) > 1:
            self.both.append(self.cluster.clock.monotonic())

    def leader(self) -> Replica | None:
        return next((replica for replica in self.replicas if replica.leads and not replica.frozen), None)

    def epoch(self) -> int:
        return int(self.cluster.server.store.get(CONFIG_MAPS, OPERATORS, FENCE)["data"]["epoch"])

    async def start(self) -> Replica:
        await self.cluster.crash_operator()
        for replica in self.replicas:
            replica.start()
        await self.cluster.apply(a_job("first"))
        await self.cluster.until_settled()
        leader = self.leader()
        assert leader is not None
        return leader

    async def end(self) -> None:
        for replica in self.replicas:
            await replica.kill(seconds=float("inf"))


@simulated
async def test_a_leader_that_cannot_renew_leaves_before_another_leads() -> None:
    async with Cluster() as cluster:
        two = _Two(cluster)
        first = await two.start()
        epoch = two.epoch()
        cut = Fault(client=f"operator-{first.name}", resource=LEASES, lose="request", times=None)
        cluster.server.faults.append(cut)
        began = cluster.clock.monotonic()
        await cluster.apply(*(a_job(f"job-{n}") for n in range(3)))
        async with asyncio.timeout(60.0):
            while two.leader() in (None, first):  # noqa: ASYNC110 - trust ends with time, at no event
                await asyncio.sleep(0.1)
        took = cluster.clock.monotonic() - began
        assert RENEW_DEADLINE_SECONDS <= took <= LEASE_SECONDS + 5.0
        await cluster.until_settled()
        assert two.epoch() > epoch
        assert two.both == []
        await two.end()


@simulated
async def test_a_thawed_leader_sends_no_write_after_its_lease_ran_out() -> None:
    async with Cluster() as cluster:
        two = _Two(cluster)
        first = await two.start()
        await cluster.apply(a_queue("media", concurrency=3))
        await cluster.apply(*(a_job(f"job-{n}", queue="media") for n in range(30)))
        await asyncio.sleep(1.5)
        first.freeze()
        sent: list[Call] = []
        assert first._process is not None
        first._process.api.on_write = lambda call: sent.append(call)
        async with asyncio.timeout(60.0):
            while two.leader() is None:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.1)
        sent.clear()
        first.thaw()
        await cluster.until_settled()
        assert [call for call in sent if call.resource.plural != "leases"] == []
        assert two.both == []
        await two.end()
