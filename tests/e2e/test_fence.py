"""The fence at work: what an operator that no longer leads still sends is refused, and it leaves."""

import asyncio
import random
import re
import signal
from pathlib import Path

import pytest

from questline_operator.core.states import State
from questline_operator.shell.api import CONFIG_MAPS
from questline_operator.shell.epoch import FENCE, KEY
from tests.cluster.faults.operators import OperatorProcess, no_deployed_operator, operators_kubeconfig
from tests.e2e.operator_process import NAMESPACE, leading_operator
from tests.kube import Kube
from tests.live import Live, a_job, a_queue
from tests.verdict import Verdict

pytestmark = pytest.mark.exclusive

JOBS, CONCURRENCY = 8, 2
LEAVE_SECONDS = 5.0


@pytest.fixture
def alone(kube: Kube) -> object:
    """No deployed operator runs meanwhile."""
    with no_deployed_operator(kube):
        yield


@pytest.mark.usefixtures("alone")
async def test_a_pod_that_a_stopped_leader_had_decided_to_create_is_refused_when_it_goes_on(
    live: Live, kube: Kube, tmp_path: Path
) -> None:
    pods = random.SystemRandom().randint(1, JOBS - 1)
    print(f"stops before pod {pods}")
    credentials = operators_kubeconfig(kube, tmp_path / "kubeconfig")
    old = OperatorProcess(credentials, tmp_path / "old.log", str(pods), module="tests.e2e.freezing_operator")
    new = OperatorProcess(credentials, tmp_path / "new.log")
    async with old:
        old_epoch = await old.leads()
        async with new:  # only now: the first to ask for the Lease leads
            await live.apply(a_queue("few", concurrency=CONCURRENCY))
            await live.apply(*(a_job(f"job-{number}", queue="few", command=["true"]) for number in range(JOBS)))
            new_epoch = await new.leads(seconds=60)
            jobs = await live.history.settled()
            old.send(signal.SIGCONT)
            async with asyncio.timeout(LEAVE_SECONDS):
                assert await old.ended() == 1
            stopped = re.search(r"stopped before (\S+)", old.output)
            assert stopped is not None
            answer = re.search("the late request was answered: (.*)", old.output)
            assert answer is not None
            assert answer[1].startswith(f'403 Forbidden: pods "{stopped[1]}" is forbidden: ')
            assert f"this operator no longer leads: epoch {old_epoch} is below {new_epoch}" in answer[1]
            assert old.output.count("leaving: ") == 1
            await live.history.until(lambda: not any(pod.live for pod in live.history.pods()))
            assert await new.terminate() == 0
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    events = live.history.in_order()
    assert stopped[1] not in {event.object["metadata"]["name"] for event in events}
    verdict = Verdict.of(live.history, concurrency={"few": CONCURRENCY}, faults={"leader stopped before a pod": 1})
    assert verdict.violations == ()
    # An attempt whose pod never came to be was ended as a disruption, and the next number ran: the one that was
    # refused, and perhaps the queue's other one, which may have been claimed and have no pod yet at that moment.
    again = [job for job in jobs if job.attempt > 1]
    assert stopped[1] in {job.pod_name(1) for job in again}
    assert len(again) <= CONCURRENCY
    assert {(job.attempt, job.failures) for job in again} == {(2, 0)}


async def test_a_leader_whose_epoch_is_fenced_off_by_hand_leaves_and_its_successor_raises_it(live: Live) -> None:
    before = await leading_operator(live.api)
    by_hand = before.epoch + 100
    operations = [{"op": "replace", "path": f"/data/{KEY}", "value": str(by_hand)}]
    await live.api.patch(CONFIG_MAPS, NAMESPACE, FENCE, operations)
    await live.job("next", command=["true"])
    (job,) = await live.history.settled(seconds=60)
    assert job.state is State.SUCCEEDED
    assert job.epoch == by_hand + 1
