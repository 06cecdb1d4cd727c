"""Writes and creates that were applied though nobody was told so, and whose repeats are forbidden: an API server that
restarts has not read its roles yet."""

import asyncio
from typing import Literal

import pytest

from questline_operator.shell.api import JOBS, PODS, ApiError, Resource
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue
from tests.simulation.faults import Fault
from tests.simulation.judge import Judge

Verb = Literal["get", "patch"]
UNREAD_ROLES = ApiError(403, "Forbidden", 'User "operator" has no such right yet')


@pytest.mark.parametrize("verb", ["patch", "get"], ids=["its repeat", "the read after it"])
def test_a_claim_whose_answer_was_lost_keeps_its_slot_though_that_is_forbidden(verb: Verb) -> None:
    """An API server that restarts took the claim, and has not read the roles yet."""

    @simulated
    async def run() -> None:
        async with Cluster(seconds=30.0) as cluster:
            judge = Judge(cluster.server)
            await cluster.apply(a_queue("narrow", concurrency=1), a_job("first"))
            await cluster.until_settled()
            cluster.server.watch_lag = lambda client, resource: 3.0 if resource == JOBS else 0.0
            of_claim = Fault(client="operator-", verb="patch", resource=JOBS, name="a", lose="answer")
            forbidden = Fault(client="operator-", verb=verb, resource=JOBS, name="a", error=UNREAD_ROLES)
            cluster.server.faults.extend([of_claim, forbidden])
            await cluster.apply(a_job("a", queue="narrow"), a_job("b", queue="narrow"))
            await cluster.until_settled()
            assert judge.violations == []
            assert cluster.watcher.violations == []

    run()


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        pytest.param("get", PODS, id="the read of it"),
        pytest.param("patch", JOBS, id="the end of its attempt"),
    ],
)
def test_a_pod_that_may_have_been_made_is_not_made_again_though_that_is_forbidden(
    verb: Verb, resource: Resource
) -> None:
    @simulated
    async def run() -> None:
        async with Cluster(seconds=60.0) as cluster:
            judge = Judge(cluster.server)
            await cluster.apply(a_queue("media"))
            await asyncio.sleep(2.0)
            cluster.server.watch_lag = lambda client, resource: 8.0 if resource == PODS else 0.0
            await cluster.apply(a_job("a", queue="media"))
            cluster.server.faults.append(Fault(verb="create", resource=PODS, lose="answer", hang_seconds=1.0))
            await cluster.until(lambda: len(cluster.kubelet.running) == 1)
            cluster.server.store.delete(PODS, NAMESPACE, cluster.pods()[0].name, grace_seconds=0)
            cluster.server.faults.append(Fault(client="operator-", verb=verb, resource=resource, error=UNREAD_ROLES))
            await cluster.until_settled()
            assert [run.attempt for run in cluster.kubelet.runs] == [1, 2]
            assert judge.violations == []

    run()


@simulated
async def test_a_claim_whose_answer_was_lost_counts_for_the_rate() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("slow", rateLimit={"count": 1, "periodSeconds": 600}))
        await asyncio.sleep(2.0)
        cluster.server.faults.append(Fault(client="operator-", verb="patch", resource=JOBS, name="a", lose="answer"))
        await cluster.apply(a_job("a", queue="slow"), a_job("b", queue="slow"))
        await cluster.until_settled()
        starts = sorted(run.started_at for run in cluster.kubelet.runs)
        assert starts[1] - starts[0] >= 595, starts
