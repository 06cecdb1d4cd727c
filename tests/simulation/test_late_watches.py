"""A watch that is late or silent may not decide what cannot be taken back: what it alone says is read first."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import PODS, WORKERS, Resource
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_worker
from tests.simulation.faults import Fault
from tests.simulation.sdk import Attempt, Ended, succeeded


def _late(cluster: Cluster, what: Resource, seconds: float) -> None:
    cluster.server.watch_lag = lambda client, resource: seconds if resource == what else 0.0


@simulated
async def test_an_attempt_that_runs_is_not_failed_for_a_start_that_the_watch_did_not_show() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.edit("default", WORKERS, startTimeoutSeconds=10)
        await cluster.apply(a_job("first"))
        await cluster.until_settled()
        _late(cluster, PODS, 40.0)
        await cluster.apply(a_job("a"))
        await cluster.until(lambda: cluster.job("a").terminal)
        job = cluster.job("a")
        assert (job.state, job.attempt, job.failures) == (State.SUCCEEDED, 1, 0)


@simulated
async def test_one_that_does_not_start_fails_though_its_pod_was_read_again() -> None:
    async with Cluster(start_seconds=60.0) as cluster:
        await cluster.edit("default", WORKERS, startTimeoutSeconds=10)
        await cluster.apply(a_job("a", maxAttempts=1))
        await cluster.until(lambda: cluster.job("a").terminal)
        assert cluster.job("a").reason == "StartTimeout"


@simulated
async def test_a_pod_that_is_found_gone_when_its_start_is_overdue_is_a_disruption() -> None:
    async with Cluster(start_seconds=60.0) as cluster:
        await cluster.edit("default", WORKERS, startTimeoutSeconds=10)
        await cluster.apply(a_job("a", maxAttempts=1))
        await cluster.until(lambda: len(cluster.pods()) == 1)
        _late(cluster, PODS, 300.0)
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        await cluster.until(lambda: cluster.job("a").disruptions == 1)
        assert cluster.job("a").failures == 0


@pytest.mark.parametrize(
    ("field", "child"),
    [
        pytest.param("allowedQueues", {"queue": "other"}, id="its queue"),
        pytest.param("allowedWorkers", {"worker": "other"}, id="its Worker"),
    ],
)
@simulated
async def test_a_child_is_not_refused_for_a_limit_that_was_lifted_unseen(field: str, child: dict[str, Any]) -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child", **child)
        return succeeded()

    async with Cluster({"parent": parent}, seconds=10.0) as cluster:
        await cluster.apply(a_queue("other"), a_worker("other"))
        await cluster.edit("default", WORKERS, **{field: ["default"]})
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: bool(cluster.kubelet.running))
        _late(cluster, WORKERS, 60.0)
        await cluster.edit("default", WORKERS, **{field: ["default", "other"]})
        await cluster.until(lambda: cluster.job("parent").terminal)
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}


@simulated
async def test_a_read_that_gets_no_answer_holds_the_write_up() -> None:
    async with Cluster(start_seconds=60.0) as cluster:
        await cluster.edit("default", WORKERS, startTimeoutSeconds=10)
        await cluster.apply(a_job("a", maxAttempts=1))
        await cluster.until(lambda: len(cluster.pods()) == 1)
        cluster.server.faults.append(Fault(verb="get", resource=PODS, lose="request", times=20))
        await asyncio.sleep(12.0)
        assert cluster.state("a") == "Starting"
        await cluster.until(lambda: cluster.job("a").terminal)
        assert cluster.job("a").reason == "StartTimeout"


@simulated
async def test_many_children_that_one_worker_may_not_enqueue_cost_few_reads_of_it() -> None:
    async def parent(attempt: Attempt) -> Ended:
        for _ in range(50):
            await attempt.enqueue("tasks:child", queue="other")
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_queue("other"))
        await cluster.edit("default", WORKERS, allowedQueues=["default"])
        await cluster.apply(a_job("parent"))
        await cluster.until_settled()
        assert Counter(cluster.states().values()) == {"Succeeded": 1, "Skipped QueueNotAllowed": 50}
        assert _reads(cluster, WORKERS) <= 3


@simulated
async def test_a_job_with_its_own_image_runs_as_its_worker_says_though_no_watch_has_told_of_that_worker() -> None:
    async with Cluster(seconds=60.0) as cluster:
        await cluster.apply(a_job("first"))
        await cluster.until_settled()
        cluster.server.store.delete(WORKERS, NAMESPACE, "default")
        await asyncio.sleep(1.0)
        _late(cluster, WORKERS, 300.0)
        await cluster.apply(a_worker(serviceAccountName="sender"), a_job("a", image="own"))
        await cluster.until(lambda: bool(cluster.kubelet.running))
        spec = cluster.server.store.get(PODS, NAMESPACE, cluster.job("a").pod_name(1))["spec"]
        assert (spec["serviceAccountName"], spec["containers"][0]["image"]) == ("sender", "own")


def _reads(cluster: Cluster, resource: Resource) -> int:
    return sum(
        number
        for (client, verb, plural, _), number in cluster.server.calls.items()
        if client.startswith("operator-") and verb == "get" and plural == resource.plural
    )
