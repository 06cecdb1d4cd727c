"""What becomes of tasks when their node's kubelet or containerd restarts or hangs, and when the node is lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import Object
from questline_operator.shell.http_api import HttpApi
from tests.cluster.faults.daemons import Daemons
from tests.cluster.faults.operators import kept_operator, operators_kubeconfig
from tests.kube import Kube
from tests.live import Live, a_job, a_queue, a_worker, live_namespace
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

LONG = pytest.mark.long
CONCURRENCY = {"few": 5}
JOBS = 10
OUTLASTS_THE_LOSS_SECONDS = 110.0
"""Pods of a node that is gone are deleted after 40 to 60 s."""

Records = Callable[[Verdict], None]


@pytest.fixture
async def operated(kube: Kube, tmp_path: Path) -> AsyncIterator[None]:
    """An operator that leads; it said nothing that nobody foresaw."""
    log = tmp_path / "operator.log"
    async with kept_operator(operators_kubeconfig(kube, tmp_path / "operator.kubeconfig"), log):
        yield
    assert "Traceback" not in log.read_text()


async def put_tasks(live: Live, *, seconds: float) -> None:
    """Ten real tasks in a queue of five, half of which run on return."""
    await live.apply(*(a_queue(name, concurrency=limit) for name, limit in CONCURRENCY.items()))
    await live.apply(*(a_job(f"work-{n}", queue="few", args={"seconds": seconds}) for n in range(JOBS)))
    await live.history.until(lambda: sum(pod.started_at is not None for pod in live.history.pods()) >= 2)


async def all_ended(live: Live, *, seconds: float) -> None:
    """Every Job has succeeded with no failure counted, and every pod has ended."""
    jobs = await live.history.settled(seconds=seconds)
    assert {(job.state, job.failures) for job in jobs} == {(State.SUCCEEDED, 0)}
    await live.history.until(lambda: not any(pod.live for pod in live.history.pods()), seconds=60)


async def test_kubelet_and_containerd_killed_under_running_tasks_cost_no_attempt(
    live: Live, operated: None, daemons: Daemons, records: Records
) -> None:
    await put_tasks(live, seconds=3.0)
    daemons.kill("containerd")
    daemons.kill("kubelet")
    await daemons.heal()
    await all_ended(live, seconds=90)
    faults = {"containerd killed": 1, "kubelet killed": 1}
    records(Verdict.of(live.history, concurrency=CONCURRENCY, faults=faults))


@LONG
@pytest.mark.parametrize("daemon", ["kubelet", "containerd"])
async def test_a_daemon_of_the_node_killed_again_and_again_costs_no_attempt(
    live: Live, operated: None, daemons: Daemons, records: Records, daemon: str
) -> None:
    await put_tasks(live, seconds=4.0)
    rounds = 4
    for _ in range(rounds):
        daemons.kill(daemon)
        await daemons.heal()
    await all_ended(live, seconds=120)
    records(Verdict.of(live.history, concurrency=CONCURRENCY, faults={f"{daemon} killed": rounds}))


@LONG
async def test_a_kubelet_that_hangs_for_ten_seconds_costs_no_attempt(
    live: Live, operated: None, daemons: Daemons, records: Records
) -> None:
    await put_tasks(live, seconds=4.0)
    daemons.freeze("kubelet")
    await asyncio.sleep(10)  # the fault's own length: nothing happens meanwhile that could be awaited
    daemons.thaw()
    await all_ended(live, seconds=120)
    records(Verdict.of(live.history, concurrency=CONCURRENCY, faults={"kubelet stopped for 10 s": 1}))


@pytest.fixture
async def impatient(api: HttpApi) -> AsyncIterator[Live]:
    """A namespace whose pods are evicted as soon as their node is taken for unreachable."""
    taints = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    tolerations: list[Object] = [
        {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1} for taint in taints
    ]
    async with live_namespace(api, a_worker("default", tolerations=tolerations)) as namespace:
        yield namespace


@LONG
async def test_pods_evicted_from_an_unreachable_node_start_again_once_they_have_ended(
    impatient: Live, operated: None, daemons: Daemons, records: Records
) -> None:
    await put_tasks(impatient, seconds=20.0)
    daemons.freeze("kubelet")
    await impatient.history.until(lambda: any(pod.deleting for pod in impatient.history.pods()), seconds=120)
    await asyncio.sleep(10)  # nothing may start on the evicted pods' behalf while they may still run
    daemons.thaw()
    await all_ended(impatient, seconds=200)
    assert sum(job.disruptions for job in impatient.history.jobs()) > 0
    faults = {"node unreachable, pods evicted": 1}
    records(Verdict.of(impatient.history, concurrency=CONCURRENCY, faults=faults))


@LONG
async def test_tasks_of_a_deleted_node_start_again_elsewhere_and_count_no_failure(
    fake: Live, operated: None, kube: Kube, daemons: Daemons, records: Records
) -> None:
    args = {"fake": {"seconds": OUTLASTS_THE_LOSS_SECONDS}}
    await fake.apply(a_queue("few", concurrency=30))
    await fake.apply(*(a_job(f"work-{n}", queue="few", args=args) for n in range(30)))
    await fake.history.until(lambda: sum(pod.started_at is not None for pod in fake.history.pods()) == 30)
    nodes = {event.object["metadata"]["name"]: event.object["spec"].get("nodeName") for event in fake.history.events}
    (lost, pods), *_ = Counter(node for node in nodes.values() if node).most_common()
    kube.kubectl("delete", "node", lost)
    await fake.history.until(lambda: any(job.disruptions for job in fake.history.jobs()), seconds=100)
    await daemons.heal()  # the node comes back
    await all_ended(fake, seconds=200)
    disrupted = [job.disruptions for job in fake.history.jobs() if job.disruptions]
    assert disrupted == [1] * pods
    records(Verdict.of(fake.history, concurrency={"few": 30}, faults={"pods of a deleted node": pods}))
