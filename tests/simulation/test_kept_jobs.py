"""Jobs that are deleted and that somebody's finalizer keeps: what runs ends as any other, and nothing new begins."""

import asyncio
from typing import Any

from questline_operator.core.states import State
from questline_operator.shell.api import JOBS, PODS, Object
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_schedule
from tests.simulation.sdk import Attempt, Ended, failed, succeeded


def _kept(name: str, **spec: Any) -> Object:
    body = a_job(name, **spec)
    body["metadata"]["finalizers"] = ["example.com/audit"]
    return body


def _keep(cluster: Cluster, name: str) -> None:
    operations = [{"op": "add", "path": "/metadata/finalizers", "value": ["example.com/audit"]}]
    cluster.server.store.patch(JOBS, NAMESPACE, name, operations)


@simulated
async def test_an_attempt_ends_with_its_outcome_and_its_slot_is_free() -> None:
    async def task(attempt: Attempt) -> Ended:
        await attempt.work(20.0)
        return succeeded(7)

    async with Cluster({"a": task}) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1), _kept("a", queue="narrow"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.apply(a_job("b", queue="narrow"))
        await cluster.until_settled(seconds=120.0)
        assert (cluster.job("a").state, cluster.job("a").status["result"]) == (State.SUCCEEDED, 7)
        assert cluster.state("b") == "Succeeded"


@simulated
async def test_no_further_attempt_follows_and_a_rerun_is_not_acted_on() -> None:
    async def task(attempt: Attempt) -> Ended:
        return failed()

    async with Cluster({"a": task, "b": task}) as cluster:
        await cluster.apply(_kept("a"), _kept("b", maxAttempts=1))
        await cluster.until(lambda: cluster.job("a").failures == 1 and cluster.job("b").terminal)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        cluster.server.store.delete(JOBS, NAMESPACE, "b")
        await cluster.edit("b", rerun=1)
        await asyncio.sleep(600.0)
        assert [(run.job, run.attempt) for run in sorted(cluster.kubelet.runs, key=lambda run: run.job)] == [
            ("a", 1),
            ("b", 1),
        ]


@simulated
async def test_a_rival_runs_when_the_winner_will_run_no_more() -> None:
    async def task(attempt: Attempt) -> Ended:
        return failed()

    unique = {"key": "k"}
    async with Cluster({"a": task}) as cluster:
        await cluster.apply(_kept("a", unique=unique, backoff={"type": "Fixed", "baseSeconds": 600}))
        await cluster.until(lambda: cluster.job("a").failures == 1)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.apply(a_job("b", unique=unique))
        await cluster.until(lambda: cluster.job("b").terminal)
        assert cluster.state("b") == "Succeeded"


@simulated
async def test_a_cancel_reaches_a_job_whose_deletion_a_finalizer_holds_up() -> None:
    async with Cluster(seconds=3600.0) as cluster:
        await cluster.apply(_kept("a"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await asyncio.sleep(10.0)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        assert cluster.job("a").deleting
        await cluster.edit("a", cancel=True)
        await asyncio.sleep(120.0)
        assert len(cluster.kubelet.running) == 0, cluster.states()


@simulated
async def test_the_next_tick_takes_the_place_of_one_whose_job_is_kept_between_two_attempts() -> None:
    async def task(attempt: Attempt) -> Ended:
        return failed() if len(cluster.kubelet.runs) == 1 else succeeded()

    job = {"task": "tasks:work", "backoff": {"type": "Fixed", "baseSeconds": 600}}
    async with Cluster({"work": task}) as cluster:
        await cluster.apply(a_schedule("tick", overlap="Replace", job=job))
        await cluster.until(lambda: any(one.failures for one in cluster.jobs()))
        (first,) = cluster.jobs()
        _keep(cluster, first.name)
        cluster.server.store.delete(JOBS, NAMESPACE, first.name)
        await cluster.until(lambda: "Succeeded" in cluster.states().values(), seconds=120.0)
        assert cluster.states()[first.name] == "Canceled Replaced"


@simulated
async def test_a_canceled_job_runs_again_when_one_below_it_is_kept() -> None:
    async def parent(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            await attempt.enqueue("tasks:child", staged=False, suspend=True)
            await attempt.work(3600.0)
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        await cluster.apply(a_job("parent"))
        await cluster.until(lambda: len(cluster.jobs()) == 2)
        child = next(job.name for job in cluster.jobs() if job.parent)
        _keep(cluster, child)
        cluster.server.store.delete(JOBS, NAMESPACE, child)
        await cluster.edit("parent", cancel=True)
        await cluster.until(lambda: cluster.state("parent") == "Canceled", seconds=120.0)
        await cluster.edit("parent", cancel=False, rerun=1)
        await cluster.until(lambda: cluster.state("parent") == "Succeeded", seconds=120.0)


@simulated
async def test_a_claim_whose_job_is_being_deleted_holds_its_slot_no_longer_than_its_pod_lives() -> None:
    async with Cluster(seconds=3600.0) as cluster:
        await cluster.apply(a_queue("narrow", concurrency=1))
        await cluster.apply(_kept("a", queue="narrow"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        cluster.server.store.delete(JOBS, NAMESPACE, "a")
        await cluster.crash_operator()
        cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
        cluster.start_operator()
        await cluster.apply(a_job("b", queue="narrow"))
        await asyncio.sleep(600.0)
        assert cluster.state("b") == "Running", cluster.states()
