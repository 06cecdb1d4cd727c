"""A scheduler and a node in the simulation: pods go from Pending to Running to their end as on a real kubelet.

Its delays are those that were measured on a real one: an end shows in the container's status a second after it, and in
the pod's phase another second later. Everything happens by events; nothing polls.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from questline_operator.core.records import ANNOTATION_PAYLOAD, CONTAINER, LABEL_ATTEMPT, LABEL_JOB, LABEL_QUEUE
from questline_operator.shell.api import PODS, ApiError, Object
from tests.simulation.apiserver import ApiServer
from tests.simulation.sdk import Attempt, Behaviour, Ended, by_name, compact, exits, failed, succeeded
from tests.simulation.store import Change


@dataclass(frozen=True)
class Obstacle:
    """Why a pod does not run.

    Args:
        kind: "Unschedulable" (no node), "Waiting" (the container cannot be made, as ImagePullBackOff: it stays so),
            or "Refused" (the kubelet fails the pod at once, as OutOfcpu).
        reason: the word in its status; of no meaning for Unschedulable.
    """

    kind: Literal["Unschedulable", "Waiting", "Refused"]
    reason: str = ""
    message: str = ""


@dataclass
class Run:
    """What truly happened to one container, whatever the API shows of it. Times are the loop's."""

    namespace: str
    pod: str
    pod_uid: str
    job: str
    queue: str
    attempt: int
    started_at: float
    ended_at: float | None = None
    ended: Ended | None = None


class Kubelet:
    """Runs the pods of an `ApiServer`. Use it as an async context manager: leaving it kills what still runs.

    Args:
        behave: what each attempt's container does; by default it works for a second and succeeds.
        schedule_seconds: from a pod's creation to its node.
        start_seconds: from there to its running container; a number or a function of the pod.
        notice_seconds: from a container's end to its status, and from that to the pod's phase.
        obstacle: what keeps a pod from running, asked once it is created.
        nodes: how many there are; pods go to one after the other.

    Attributes:
        runs: every container that ever started, in that order.
        cut_off: how many pods were stopped at their deadline.
    """

    def __init__(
        self,
        server: ApiServer,
        behave: Behaviour | None = None,
        *,
        schedule_seconds: float = 0.01,
        start_seconds: float | Callable[[Object], float] = 0.2,
        notice_seconds: tuple[float, float] = (1.0, 1.0),
        obstacle: Callable[[Object], Obstacle | None] = lambda pod: None,
        nodes: int = 1,
    ) -> None:
        self._server = server
        self._behave = behave if behave is not None else by_name({})
        self._schedule_seconds = schedule_seconds
        self._start_seconds = start_seconds
        self._notice_seconds = notice_seconds
        self._obstacle = obstacle
        self._nodes = nodes
        self._bound = 0
        self._pods: dict[str, _PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.runs: list[Run] = []
        self.cut_off = 0

    async def __aenter__(self) -> Self:
        self._server.store.observers.append(self._observe)
        for pod in self._server.store.peek_all(PODS):
            if not pod["spec"].get("nodeName"):
                self._take(pod)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.store.observers.remove(self._observe)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        faults = [result for result in results if isinstance(result, Exception)]
        if faults and error is None:
            raise faults[0]

    @property
    def running(self) -> list[Run]:
        """The containers that run now."""
        return [run for run in self.runs if run.ended_at is None]

    def evict(self, namespace: str, name: str) -> None:
        """The eviction API: the condition DisruptionTarget, then a deletion with the pod's grace."""
        self._disrupt(namespace, name, "EvictionByEvictionAPI")
        self._server.store.delete(PODS, namespace, name, client="eviction")

    def node_pressure(self, namespace: str, name: str) -> None:
        """The kubelet evicts the pod for the node's sake: it is killed, and fails with reason Evicted."""
        worker = self._pods[self._uid(namespace, name)]
        worker.kill("Evicted", "The node was low on resource: memory.", disruption="TerminationByKubelet")

    def lose(self, namespace: str, name: str) -> None:
        """The pod's node is lost: the pod runs no more, is marked by the control plane, and is gone from the API."""
        self._pods[self._uid(namespace, name)].lose()
        self._disrupt(namespace, name, "DeletionByTaintManager")
        self._server.store.delete(PODS, namespace, name, grace_seconds=0, client="pod-garbage-collector")

    def lose_node(self, number: int) -> None:
        """A node is lost with all its pods; another takes its place."""
        name = f"node-{1 + number % self._nodes}"
        for pod in self._server.store.peek_all(PODS):
            if pod["spec"].get("nodeName") == name and pod["metadata"]["uid"] in self._pods:
                self.lose(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def next_node(self) -> str:
        """Where the scheduler puts the next pod."""
        self._bound += 1
        return f"node-{1 + self._bound % self._nodes}"

    def _uid(self, namespace: str, name: str) -> str:
        uid: str = self._server.store.get(PODS, namespace, name)["metadata"]["uid"]
        return uid

    def _disrupt(self, namespace: str, name: str, reason: str) -> None:
        pod = self._server.store.get(PODS, namespace, name)
        pod["status"].setdefault("conditions", []).append(_disruption(reason))
        operations = [{"op": "add", "path": "/status", "value": pod["status"]}]
        self._server.store.patch(PODS, namespace, name, operations, subresource="status", client="control-plane")

    def _observe(self, change: Change) -> None:
        if change.resource != PODS:
            return
        uid = change.object["metadata"]["uid"]
        if change.type == "ADDED":
            self._take(change.object)
        elif uid in self._pods:
            if change.type == "DELETED":
                self._pods.pop(uid).lose()
            elif "deletionTimestamp" in change.object["metadata"]:
                self._pods[uid].terminate(change.object["metadata"]["deletionGracePeriodSeconds"])

    def _take(self, pod: Object) -> None:
        worker = _PodWorker(self, self._server, pod)
        self._pods[pod["metadata"]["uid"]] = worker
        task = asyncio.get_running_loop().create_task(self._sync(worker))
        worker.task = task
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    async def _sync(self, worker: "_PodWorker") -> None:
        """A pod's whole life."""
        obstacle = self._obstacle(worker.pod)
        await asyncio.sleep(self._schedule_seconds)
        if obstacle is not None and obstacle.kind == "Unschedulable":
            worker.unschedulable(obstacle.message)
            return
        worker.bind()
        if obstacle is not None and obstacle.kind == "Refused":
            worker.fail(obstacle.reason, obstacle.message)
            return
        worker.waiting("ContainerCreating", "")
        worker.hold_to_deadline()
        seconds = self._start_seconds(worker.pod) if callable(self._start_seconds) else self._start_seconds
        await worker.until_terminated(asyncio.sleep(seconds))
        if obstacle is not None:
            worker.waiting(obstacle.reason, obstacle.message)
            await worker.until_terminated(asyncio.Event().wait())
        if worker.killed is not None:
            worker.fail(*worker.killed)
        elif not worker.terminating:
            await worker.run(self._behave, self._notice_seconds)
        if worker.terminating:
            worker.end()


class _PodWorker:
    """The kubelet's goroutine for one pod: it alone writes the pod's status."""

    def __init__(self, kubelet: Kubelet, server: ApiServer, pod: Object) -> None:
        self.pod = pod
        self.task: asyncio.Task[None] | None = None
        self.terminating = False
        self.killed: tuple[str, str] | None = None
        self._kubelet = kubelet
        self._server = server
        self._status: dict[str, Any] = {"phase": "Pending", "qosClass": "BestEffort", "conditions": []}
        self._grace = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()

    # What comes from outside

    def terminate(self, grace: float) -> None:
        """Its deletion was asked for."""
        if not self.terminating:
            self.terminating, self._grace = True, grace
            self._stop.set()

    def kill(self, reason: str, message: str, *, disruption: str = "") -> None:
        """The kubelet itself ends it, for its deadline or the node."""
        if self.killed is None and not self.terminating:
            self.killed = reason, message
            if disruption:
                self._status["conditions"].append(_disruption(disruption))
            self._stop.set()

    def hold_to_deadline(self) -> None:
        """From here on, its start included, it may take as long as its activeDeadlineSeconds say."""
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        self._kubelet.cut_off += 1
        self.kill("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def lose(self) -> None:
        """It is gone from the API, or its node is: nothing runs and nothing is written any more."""
        self._forget_deadline()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    # Its steps

    def bind(self) -> None:
        """The scheduler gives it a node."""
        self._condition("PodScheduled", "True")
        operations = [{"op": "add", "path": "/spec/nodeName", "value": self._kubelet.next_node()}]
        self._patch(operations, "")

    def unschedulable(self, message: str) -> None:
        """The scheduler finds no node."""
        self._condition("PodScheduled", "False", "Unschedulable", message)
        self._write()

    def waiting(self, reason: str, message: str) -> None:
        """The container does not run yet."""
        self._status.setdefault("startTime", self._now())
        self._container({"waiting": {"reason": reason, **({"message": message} if message else {})}})
        self._write()

    def fail(self, reason: str, message: str) -> None:
        """The kubelet does not take the pod."""
        self._status |= {"phase": "Failed", "reason": reason, "message": message, "startTime": self._now()}
        self._write()

    async def until_terminated(self, step: Any) -> None:
        """Do the step unless the pod is to end meanwhile."""
        doing = asyncio.ensure_future(step)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            doing.cancel()
            stopping.cancel()

    async def run(self, behave: Behaviour, notice_seconds: tuple[float, float]) -> None:
        """From the start of the container to what the API shows of its end."""
        meta, started = self.pod["metadata"], self._now()
        labels = meta.get("labels", {})
        run = Run(
            meta["namespace"],
            meta["name"],
            meta["uid"],
            labels.get(LABEL_JOB, ""),
            labels.get(LABEL_QUEUE, ""),
            int(labels.get(LABEL_ATTEMPT, 0)),
            asyncio.get_running_loop().time(),
        )
        self._kubelet.runs.append(run)
        self._status["phase"] = "Running"
        self._container({"running": {"startedAt": started}})
        self._write()
        try:
            run.ended = await self._contain(behave)
        finally:
            run.ended_at = asyncio.get_running_loop().time()
        finished = self._now()
        ended, reason = run.ended, run.ended.reason or ("Completed" if run.ended.exit_code == 0 else "Error")
        terminated = {"exitCode": ended.exit_code, "reason": reason, "startedAt": started, "finishedAt": finished}
        if ended.message:
            terminated["message"] = ended.message
        await asyncio.sleep(notice_seconds[0])
        self._container({"terminated": terminated})
        if self.killed is None:
            self._write()
            await asyncio.sleep(notice_seconds[1])
        self._status["phase"] = "Failed" if ended.exit_code or self.killed else "Succeeded"
        if self.killed is not None:
            self._status["reason"], self._status["message"] = self.killed
        self._write()

    def end(self) -> None:
        """The pod has run out: it goes from the API."""
        meta = self.pod["metadata"]
        try:
            self._server.store.delete(
                PODS, meta["namespace"], meta["name"], uid=meta["uid"], grace_seconds=0, client="kubelet"
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    # Within

    async def _contain(self, behave: Behaviour) -> Ended:
        """The container's processes, stopped with the pod's grace."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        payload = json.loads(meta.get("annotations", {}).get(ANNOTATION_PAYLOAD, "null"))
        if payload is None:
            payload = {"job": {"name": meta["name"]}, "attempt": 1, "args": {}}
        attempt = Attempt(self._server.client(f"pod/{meta['name']}/{meta['uid']}"), self.pod, payload)
        process = asyncio.ensure_future(_process(behave, attempt))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({process, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not process.done():
                attempt.stopping.set()
                if attempt.handles_sigterm:
                    grace = self._grace if self.terminating else spec["terminationGracePeriodSeconds"]
                    await asyncio.wait({process}, timeout=grace)
            if process.done():
                return process.result()
            return exits(137 if attempt.handles_sigterm else 143, attempt.termination_message)
        finally:
            process.cancel()
            stopping.cancel()
            self._forget_deadline()

    def _condition(self, type_: str, status: str, reason: str = "", message: str = "") -> None:
        condition = {"type": type_, "status": status, "lastTransitionTime": self._now()}
        if reason:
            condition |= {"reason": reason, "message": message}
        kept = [c for c in self._status["conditions"] if c["type"] != type_]
        self._status["conditions"] = [*kept, condition]

    def _container(self, state: dict[str, Any]) -> None:
        self._status["containerStatuses"] = [
            {
                "name": CONTAINER,
                "restartCount": 0,
                "ready": "running" in state,
                "image": "",
                "imageID": "",
                "state": state,
            }
        ]

    def _write(self) -> None:
        """Write the status, keeping the conditions that others wrote."""
        meta = self.pod["metadata"]
        found = self._server.store.peek(PODS, meta["namespace"], meta["name"])
        if found is None or found["metadata"]["uid"] != meta["uid"]:
            return
        own = {c["type"] for c in self._status["conditions"]}
        others = [c for c in found["status"].get("conditions", []) if c["type"] not in own]
        status = {**self._status, "conditions": [*others, *self._status["conditions"]]}
        self._patch([{"op": "add", "path": "/status", "value": status}], "status")

    def _patch(self, operations: list[dict[str, Any]], subresource: str) -> None:
        meta = self.pod["metadata"]
        guard = {"op": "test", "path": "/metadata/uid", "value": meta["uid"]}
        self._server.store.patch(
            PODS, meta["namespace"], meta["name"], [guard, *operations], subresource=subresource, client="kubelet"
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(int(self._server.clock.now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _process(behave: Behaviour, attempt: Attempt) -> Ended:
    """What ``python -m questline run`` does around a task: outcome, termination message, early report, exit code."""
    try:
        ended = await behave(attempt) or succeeded()
    except Exception as error:
        ended = failed(str(error), error=type(error).__name__)
    envelope = attempt.envelope(ended)
    if envelope is None:
        return ended
    attempt.termination_message = compact(envelope)
    if ended.reports:
        await attempt.report(envelope)
    await attempt.work(ended.lingers)
    return replace(ended, message=attempt.termination_message)


def _disruption(reason: str) -> dict[str, str]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason}
