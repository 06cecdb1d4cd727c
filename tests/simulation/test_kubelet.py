"""The simulated node and SDK: a pod's life, what of it the API shows and when, and what a task may do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from questline_operator.core.outcomes import outcome_of
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.shell.api import JOBS, PODS, ApiError, Object
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock, simulated
from tests.simulation.faults import Fault
from tests.simulation.kubelet import Kubelet, Obstacle
from tests.simulation.sdk import (
    Attempt,
    Behaviour,
    Ended,
    by_name,
    canceled,
    exits,
    failed,
    fatal,
    oom_killed,
    retry,
    snoozed,
    succeeded,
)

NS = "default"


class Node:
    """An API server with one Job whose attempt 1 is claimed, and a node that runs its pod."""

    def __init__(self, server: ApiServer, kubelet: Kubelet) -> None:
        self.server, self.kubelet = server, kubelet

    async def start(self, **spec: Any) -> None:
        job = await self.server.create(JOBS, NS, {"metadata": {"name": "job"}, "spec": {"task": "tasks:work"}})
        claim = [{"op": "add", "path": "/status", "value": {"state": "Starting", "attempt": 1}}]
        await self.server.patch(JOBS, NS, "job", claim, subresource="status")
        payload = {
            "v": 1,
            "job": {"namespace": NS, "name": "job", "uid": job["metadata"]["uid"], "task": "tasks:work"},
            "attempt": 1,
            "args": {"x": 1},
        }
        meta = {
            "name": "pod",
            "labels": {"questline.dev/job": "job", "questline.dev/queue": "media", "questline.dev/attempt": "1"},
            "annotations": {"questline.dev/payload": json.dumps(payload)},
        }
        await self.server.create(PODS, NS, {"metadata": meta, "spec": spec})

    def job(self) -> Object:
        found = self.server.store.peek(JOBS, NS, "job")
        assert found is not None
        return found

    def pod(self) -> Pod:
        found = self.server.store.peek(PODS, NS, "pod")
        assert found is not None, "the pod is gone"
        return Pod.parse(found)

    def gone(self) -> bool:
        return self.server.store.peek(PODS, NS, "pod") is None


@asynccontextmanager
async def a_node(behave: Behaviour | None = None, **options: Any) -> AsyncIterator[Node]:
    server = ApiServer(VirtualClock())
    async with Kubelet(server, behave, **options) as kubelet:
        yield Node(server, kubelet)


def ends(ended: Ended, *, after: float = 1.0) -> Behaviour:
    async def behave(attempt: Attempt) -> Ended:
        await attempt.work(after)
        return ended

    return behave


@simulated
async def test_a_pod_starts_runs_and_shows_its_end_in_two_steps() -> None:
    async with a_node(start_seconds=0.2) as node:
        await node.start()
        await asyncio.sleep(0.1)
        assert (node.pod().phase, node.pod().waiting_reason) == ("Pending", "ContainerCreating")
        await asyncio.sleep(0.2)
        assert (node.pod().phase, node.pod().started) == ("Running", True)
        await asyncio.sleep(1.0)
        assert node.kubelet.running == []
        assert not node.pod().ended
        assert node.job()["status"]["report"]["outcome"] == "Succeeded"
        await asyncio.sleep(1.0)
        assert (node.pod().phase, node.pod().exit_code) == ("Running", 0)
        await asyncio.sleep(1.0)
        assert node.pod().phase == "Succeeded"
        (run,) = node.kubelet.runs
        assert (run.job, run.queue, run.attempt) == ("job", "media", 1)


@pytest.mark.parametrize(
    ("ended", "kind", "reason", "exit_code"),
    [
        (succeeded({"a": None}), "Succeeded", "", 0),
        (failed("no"), "Failed", "TaskError", 1),
        (fatal("never", reason="ArgsInvalid"), "Fatal", "ArgsInvalid", 1),
        (retry(7.0), "Retry", "TaskError", 75),
        (snoozed(7.0), "Snoozed", "", 75),
        (canceled(), "Canceled", "Raised", 0),
        (exits(3), "Failed", "NoOutcome", 3),
        (exits(0), "Failed", "NoOutcome", 0),
        (oom_killed(), "Failed", "OOMKilled", 137),
    ],
)
@pytest.mark.parametrize("reports", [True, False])
def test_the_core_reads_each_end_as_it_was_meant(
    ended: Ended, kind: str, reason: str, exit_code: int, *, reports: bool
) -> None:
    @simulated
    async def play() -> None:
        async with a_node(ends(ended if reports else ended.unreported())) as node:
            await node.start()
            await asyncio.sleep(10)
            assert ("report" in node.job()["status"]) is (reports and ended.outcome is not None)
            outcome = outcome_of(Job.parse(node.job()), node.pod())
            assert outcome is not None
            assert (outcome.kind, outcome.reason, outcome.exit_code) == (kind, reason, exit_code)

    play()


@simulated
async def test_what_a_task_raises_is_its_failure() -> None:
    async def behave(attempt: Attempt) -> None:
        raise KeyError(attempt.args["x"])

    async with a_node(behave) as node:
        await node.start()
        await asyncio.sleep(1)
        assert node.job()["status"]["report"]["error"] == {"type": "KeyError", "message": "1"}


@simulated
async def test_children_are_created_while_the_task_runs_and_counted_in_its_report() -> None:
    async def behave(attempt: Attempt) -> None:
        await attempt.enqueue("tasks:send_email", queue="emails", args={"n": 1})
        await attempt.enqueue("tasks:send_email", staged=False)
        await attempt.enqueue("tasks:once", unique={"key": "k"})
        assert await attempt.enqueue("tasks:once", unique={"key": "k"}) == names()[-1]

    def names() -> list[str]:
        return [job["metadata"]["name"] for job in node.server.store.peek_all(JOBS)]

    async with a_node(behave) as node:
        await node.start()
        await asyncio.sleep(1)
        uid = node.pod().uid
        assert names()[:1] == ["job"]
        assert names()[2:] == [f"send-email-{uid[:8]}-0", f"send-email-{uid[:8]}-1"]
        child = await node.server.get(JOBS, NS, f"send-email-{uid[:8]}-1")
        job_uid = node.job()["metadata"]["uid"]
        assert child["spec"]["parent"] == {
            "name": "job",
            "uid": job_uid,
            "attempt": 1,
            "podUID": uid,
            "index": 1,
            "staged": False,
        }
        assert node.job()["status"]["report"]["children"]["total"] == 3


@simulated
async def test_an_enqueue_whose_answer_is_lost_is_sent_again_and_found_to_be_its_own() -> None:
    async def behave(attempt: Attempt) -> None:
        await attempt.enqueue("tasks:a")
        await attempt.enqueue("tasks:a")

    async with a_node(behave) as node:
        node.server.faults += [
            Fault(client="pod/", verb="create", lose="answer"),
            Fault(verb="patch", lose="answer", client="pod/"),
        ]
        await node.start()
        await asyncio.sleep(5)
        assert len(node.server.store.peek_all(JOBS)) == 3
        assert node.job()["status"]["report"]["children"]["total"] == 2


@simulated
async def test_an_enqueue_whose_fate_stays_unknown_ends_the_attempt() -> None:
    async def behave(attempt: Attempt) -> None:
        await attempt.enqueue("tasks:a")

    async with a_node(behave) as node:
        node.server.faults.append(Fault(client="pod/", verb="create", times=None, lose="answer"))
        await node.start()
        await asyncio.sleep(60)
        assert node.job()["status"]["report"]["error"]["type"] == "FateUnknownError"


@simulated
async def test_a_deleted_pod_is_stopped_and_lingers_until_its_end_is_noticed() -> None:
    async with a_node(ends(succeeded(), after=100.0)) as node:
        await node.start()
        await asyncio.sleep(1)
        await node.server.delete(PODS, NS, "pod")
        await asyncio.sleep(0.1)
        assert node.pod().deleting
        assert node.kubelet.running == []
        await asyncio.sleep(1)
        assert (node.pod().exit_code, node.pod().ended) == (143, True)
        await asyncio.sleep(1)
        assert node.gone()
        assert "report" not in node.job()["status"]


@simulated
async def test_a_task_that_goes_on_after_sigterm_has_its_grace_and_no_more() -> None:
    async def behave(attempt: Attempt) -> Ended:
        attempt.handles_sigterm = True
        await attempt.stopping.wait()
        await attempt.work(attempt.args["x"] * 100.0)
        return succeeded()

    async with a_node(behave) as node:
        await node.start(terminationGracePeriodSeconds=20)
        await asyncio.sleep(1)
        await node.server.delete(PODS, NS, "pod")
        await asyncio.sleep(19.5)
        assert len(node.kubelet.running) == 1
        await asyncio.sleep(2)
        assert node.pod().exit_code == 137
        await asyncio.sleep(2)
        assert node.gone()


@simulated
async def test_a_pod_over_its_deadline_is_killed_and_says_so() -> None:
    async with a_node(ends(succeeded(), after=100.0)) as node:
        await node.start(activeDeadlineSeconds=5)
        await asyncio.sleep(20)
        pod = node.pod()
        assert (pod.phase, pod.phase_reason, pod.exit_code) == ("Failed", "DeadlineExceeded", 143)
        outcome = outcome_of(Job.parse(node.job()), pod)
        assert outcome is not None
        assert outcome.reason == "Timeout"


@simulated
async def test_a_deadline_counts_from_the_moment_from_which_the_node_has_the_pod() -> None:
    async with a_node(ends(succeeded(), after=100.0), start_seconds=8.0) as node:
        await node.start(activeDeadlineSeconds=5)
        await asyncio.sleep(20)
        pod = node.pod()
        assert (pod.phase, pod.phase_reason, pod.exit_code) == ("Failed", "DeadlineExceeded", None)
        assert node.kubelet.runs == []


@simulated
async def test_a_container_goes_on_after_its_report_as_long_as_it_lingers() -> None:
    async with a_node(ends(Ended(0, {"outcome": "Succeeded"}, lingers=20.0), after=1.0)) as node:
        await node.start()
        await asyncio.sleep(15)
        assert node.job()["status"]["report"]["outcome"] == "Succeeded"
        assert node.pod().exit_code is None
        await asyncio.sleep(15)
        assert node.pod().exit_code == 0


@pytest.mark.parametrize("how", ["evict", "node_pressure", "lose"])
def test_a_disrupted_pod_shows_who_took_it(how: str) -> None:
    @simulated
    async def play() -> None:
        seen: list[Object] = []
        async with a_node(ends(succeeded(), after=100.0)) as node:
            node.server.store.observers.append(
                lambda change: seen.append(change.object) if change.resource == PODS else None
            )
            await node.start()
            await asyncio.sleep(1)
            getattr(node.kubelet, how)(NS, "pod")
            await asyncio.sleep(60)
            assert node.kubelet.running == []
            assert node.gone() is (how != "node_pressure")
            outcome = outcome_of(Job.parse(node.job()), Pod.parse(seen[-1]))
            assert Pod.parse(seen[-1]).disruption
            if how != "lose":
                assert outcome is not None
                assert outcome.kind == "Disrupted"

    play()


@pytest.mark.parametrize(
    ("obstacle", "phase", "shows"),
    [
        (Obstacle("Unschedulable", "", "0/1 nodes are available"), "Pending", "0/1 nodes are available"),
        (Obstacle("Waiting", "ImagePullBackOff", "Back-off pulling image"), "Pending", "Back-off pulling image"),
        (Obstacle("Refused", "OutOfcpu", "Node didn't have enough resource"), "Failed", "Node didn't have"),
    ],
)
def test_a_pod_that_cannot_run_says_why_and_can_be_deleted(obstacle: Obstacle, phase: str, shows: str) -> None:
    @simulated
    async def play() -> None:
        async with a_node(obstacle=lambda pod: obstacle) as node:
            await node.start()
            await asyncio.sleep(600)
            pod = node.pod()
            assert pod.phase == phase
            assert shows in pod.scheduling_message + pod.waiting_message + pod.phase_message
            assert node.kubelet.runs == []
            await node.server.delete(PODS, NS, "pod")
            await asyncio.sleep(5)
            assert node.gone()

    play()


@simulated
async def test_a_report_that_the_api_refuses_is_left_to_the_termination_message() -> None:
    async with a_node(ends(succeeded(5))) as node:
        node.server.faults.append(Fault(client="pod/", error=ApiError(403, "Forbidden", "one report an attempt")))
        await node.start()
        await asyncio.sleep(10)
        assert "report" not in node.job()["status"]
        assert json.loads(node.pod().termination_message)["result"] == 5


@simulated
async def test_behaviours_are_found_by_job_then_by_function_then_work_and_succeed() -> None:
    asked: list[str] = []

    def note(name: str) -> Behaviour:
        async def behave(attempt: Attempt) -> None:
            asked.append(name)

        return behave

    for table in ({"job": note("job"), "work": note("work")}, {"work": note("work")}, {}):
        async with a_node(by_name(table)) as node:
            await node.start()
            await asyncio.sleep(5)
            assert node.pod().phase == "Succeeded"
    assert asked == ["job", "work"]


@simulated
async def test_leaving_the_kubelet_ends_what_runs_and_shows_a_fault_of_the_model() -> None:
    async with a_node(ends(succeeded(), after=1e6)) as node:
        await node.start()
        await asyncio.sleep(1)
        assert len(node.kubelet.running) == 1
    assert node.kubelet.running == []

    def broken(pod: Object) -> float:
        raise ZeroDivisionError

    async def leave() -> None:
        async with a_node(start_seconds=broken) as node:
            await node.start()
            await asyncio.sleep(5)

    with pytest.raises(ZeroDivisionError):
        await leave()
