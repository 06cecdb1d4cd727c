"""The API server takes no pods: a quota is used up, or a webhook refuses them, is broken, or does not answer."""

import asyncio
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from tests.cluster.faults.operators import OperatorProcess, one_operator
from tests.cluster.faults.quiet import quiet, writes_in
from tests.cluster.faults.refusing_webhook import WORDS, Answer, webhook
from tests.kube import MERGE_PATCH, Kube
from tests.live import Live, a_job, a_queue
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_deployed")]

SLOTS, NUMBER = 3, 12
PROBES = 3
"""How often a queue is tried again after its first refusal before the trouble ends: after 1, 2 and 4 s."""


class Run:
    """Some Jobs in a queue of few slots, under an operator that is checked at the end."""

    def __init__(self, live: Live, kube: Kube, folder: Path, records: Callable[[Verdict], None]) -> None:
        self.live = live
        self.kube = kube
        self.folder = folder
        self._records = records

    async def prepared(self) -> None:
        """The Worker is checked, so that what refuses pods from now on refuses those of Jobs."""
        await self.live.apply(a_queue("narrow", concurrency=SLOTS), a_job("first", queue="narrow"))
        await self.live.history.settled("first")

    async def enqueue(self) -> None:
        await self.live.apply(*(a_job(f"job-{number}", queue="narrow") for number in range(NUMBER)))

    async def end(self, operator: OperatorProcess, fault: str, **measured: float) -> None:
        """All succeed without a failure, no slot is held, nothing is written any more."""
        history, began = self.live.history, time.monotonic()
        await history.until(lambda: len(history.ended) == NUMBER + 1 and not any(pod.live for pod in history.pods()))
        recovery = time.monotonic() - began
        await quiet(operator)
        slots = f'questline_slots_held{{namespace="{self.live.namespace}",queue="narrow"}}'
        assert (await operator.metrics())[slots] == 0
        assert await operator.terminate() == 0
        assert "Traceback" not in operator.output
        assert {(job.state, job.failures) for job in history.jobs()} == {("Succeeded", 0)}
        measured = {**measured, "s from its end until all had ended": round(recovery, 1)}
        self._records(Verdict.of(history, concurrency={"narrow": SLOTS}, faults={fault: 1}, measured=measured))

    def refused(self) -> list[Job]:
        """The Jobs that wait since their pods were refused."""
        return [job for job in self.live.history.jobs() if job.reason == Reason.POD_REJECTED]


@pytest.fixture
def run(fake: Live, kube: Kube, tmp_path: Path, records: Callable[[Verdict], None]) -> Run:
    return Run(fake, kube, tmp_path, records)


async def test_a_quota_used_up_rejects_with_the_servers_words_few_writes_probe_and_all_run_once_it_is_raised(
    run: Run,
) -> None:
    history = run.live.history
    async with one_operator(run.kube, run.folder) as operator:
        await run.prepared()
        quotas = f"/api/v1/namespaces/{run.live.namespace}/resourcequotas"
        quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}}
        assert (await asyncio.to_thread(run.kube.request, "POST", quotas, quota)).ok
        counted = ("--for=jsonpath={.status.hard.pods}=0", "resourcequota/few", "-n", run.live.namespace)
        await asyncio.to_thread(run.kube.kubectl, "wait", *counted, "--timeout=30s")
        before = writes_in(await operator.metrics(), "create", "pods")
        await run.enqueue()
        # Each refusal uses up a number.
        await history.until(lambda: sum(job.attempt for job in history.jobs()) > SLOTS + PROBES)
        tried = writes_in(await operator.metrics(), "create", "pods") - before
        words = {job.status["message"] for job in run.refused()}
        # Fewer than the queue has slots: what is over is refused again, and waits.
        raised = {"spec": {"hard": {"pods": "2"}}}
        patch = functools.partial(run.kube.request, content_type=MERGE_PATCH)
        assert (await asyncio.to_thread(patch, "PATCH", f"{quotas}/few", raised)).ok
        await history.until(lambda: len(history.ended) > SLOTS)
        assert (await asyncio.to_thread(run.kube.request, "DELETE", f"{quotas}/few")).ok
        await run.end(operator, "quota used up", **{"pods tried while it was": tried})
    assert words
    assert all("exceeded quota: few, requested: pods=1, used: pods=0, limited: pods=0" in one for one in words), words
    assert tried <= SLOTS + PROBES + 1


@pytest.mark.long
@pytest.mark.parametrize("answer", [Answer.REFUSES, Answer.FAILS, Answer.SILENT], ids=["refuses", "fails", "silent"])
async def test_a_webhook_that_takes_no_pods_costs_time_and_no_attempt_and_all_run_once_it_does(
    run: Run, answer: Answer
) -> None:
    if os.environ.get("CLUSTER_KUBECONFIG"):
        pytest.skip("the API server of CLUSTER_KUBECONFIG's cluster cannot reach a server of this test")
    async with (
        one_operator(run.kube, run.folder) as operator,
        webhook(run.kube, run.live.namespace, run.folder) as hook,
    ):
        await run.prepared()
        hook.answer, asked = answer, hook.asked
        await run.enqueue()
        await hook.was_asked(asked + SLOTS + PROBES)
        words = {job.status["message"] for job in run.refused()}
        hook.answer = Answer.TAKES
        await run.end(operator, f"webhook that {answer}")
    if answer is Answer.REFUSES:
        assert words
        assert all(WORDS in one for one in words), words
    else:
        assert not words, "it is not known whether the API server took the pod: that is no refusal"
