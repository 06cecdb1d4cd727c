"""A whole cluster in virtual time: the in-memory API server, a node, and the operator's real shell and core.

    async with Cluster(behaviours) as cluster:
        await cluster.apply(a_job("resize"))
        await cluster.until(lambda: cluster.state("resize") == "Succeeded")

`Watcher` sees every change as it is applied and holds the invariants of docs/guarantees.md that a single history shows.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry

from questline_operator.core.pod import Pod
from questline_operator.core.records import LABEL_JOB, Job
from questline_operator.core.states import TERMINAL
from questline_operator.shell.api import JOBS, NAMESPACES, PODS, QUEUES, SCHEDULES, WORKERS, Object, Resource
from questline_operator.shell.leader import Leader
from questline_operator.shell.metrics import count_writes
from tests.simulation.apiserver import ApiServer
from tests.simulation.clock import VirtualClock
from tests.simulation.kubelet import Kubelet
from tests.simulation.sdk import Behaviour, by_name
from tests.simulation.store import Change

NAMESPACE = "default"


def a_job(name: str, **spec: Any) -> Object:
    """A Job manifest; a task unless the spec says otherwise."""
    if "command" not in spec:
        spec.setdefault("task", "tasks:work")
    return {"kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def a_queue(name: str, **spec: Any) -> Object:
    """A Queue manifest."""
    return {"kind": "Queue", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def a_worker(name: str = "default", **spec: Any) -> Object:
    """A Worker manifest."""
    return {"kind": "Worker", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"image": "w:1", **spec}}


def a_schedule(name: str, cron: str = "* * * * *", *, job: Object | None = None, **spec: Any) -> Object:
    """A Schedule manifest; its job is a task unless it is given."""
    spec = {"cron": cron, "job": job or {"task": "tasks:work"}, **spec}
    return {"kind": "Schedule", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


_RESOURCES = {"Job": JOBS, "Queue": QUEUES, "Schedule": SCHEDULES, "Worker": WORKERS, "Namespace": NAMESPACES}


class Cluster:
    """An API server, a node and an operator.

    Args:
        behaviours: what attempts do, by the Job's name or its task's function.
        seconds: how long any other attempt works.
        max_running_pods: the operator's own limit.
    """

    def __init__(
        self,
        behaviours: Mapping[str, Behaviour] | None = None,
        *,
        seconds: float = 1.0,
        seed: int = 0,
        max_running_pods: int | None = None,
        **kubelet: Any,
    ) -> None:
        self.max_running_pods = max_running_pods
        self.clock = VirtualClock()
        self.server = ApiServer(self.clock, latency=0.004, seed=seed)
        self.watcher = Watcher(self.server)
        self.kubelet = Kubelet(self.server, by_name(behaviours or {}, seconds=seconds), **kubelet)
        self.epoch = 0
        self._operator: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.server.store.observers.append(lambda change: self._news.set())

    async def __aenter__(self) -> Self:
        await self.apply(a_worker())
        await self.kubelet.__aenter__()
        self.start_operator()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.crash_operator()
        await self.kubelet.__aexit__(kind, error, trace)

    def start_operator(self) -> None:
        """A new leader: the epoch raised, everything read anew."""
        self.epoch += 1
        self.leader = Leader(
            self.server.client(f"operator-{self.epoch}"),
            self.clock,
            epoch=self.epoch,
            check_leading=lambda: None,
            writes=count_writes(CollectorRegistry()),
            max_running_pods=self.max_running_pods,
        )
        self._operator = asyncio.create_task(self.leader.run())

    async def crash_operator(self) -> None:
        """Kill it where it stands; what it had sent may or may not have been applied."""
        if self._operator is not None:
            self._operator.cancel()
            with suppress(asyncio.CancelledError):
                await self._operator
            self._operator = None

    async def apply(self, *manifests: Object) -> None:
        """Create what the manifests say."""
        for manifest in manifests:
            resource = _RESOURCES[manifest["kind"]]
            await self.server.create(resource, manifest["metadata"].get("namespace", ""), manifest)

    async def edit(self, name: str, resource: Resource = JOBS, **spec: Any) -> None:
        """Set fields of a spec."""
        operations = [{"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()]
        await self.server.patch(resource, NAMESPACE, name, operations)

    async def until(self, reached: Callable[[], bool], *, seconds: float = 600.0) -> None:
        """Go on until it holds after some change; virtual seconds are free.

        Raises:
            AssertionError: it did not, with the states that are.
        """
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not reached in {seconds:g} s: {self.states()}") from None

    async def until_settled(self, *, seconds: float = 3600.0) -> None:
        """Go on until every Job is terminal."""
        await self.until(lambda: all(job.terminal for job in self.jobs()), seconds=seconds)

    def jobs(self) -> list[Job]:
        """Every Job as it is."""
        return [Job.parse(raw) for raw in self.server.store.peek_all(JOBS)]

    def job(self, name: str) -> Job:
        """One Job as it is."""
        return Job.parse(self.server.store.get(JOBS, NAMESPACE, name))

    def state(self, name: str) -> str:
        """Its state."""
        return str(self.job(name).state)

    def states(self) -> dict[str, str]:
        """Every Job's state and reason."""
        return {job.name: f"{job.state} {job.reason}".strip() for job in self.jobs()}

    def pods(self) -> list[Pod]:
        """Every pod as it is."""
        return [Pod.parse(raw) for raw in self.server.store.peek_all(PODS)]

    def writes(self, *resources: Resource) -> int:
        """How many writes the operators sent for these kinds."""
        plurals = {resource.plural for resource in resources}
        return sum(
            number
            for (client, verb, plural, _), number in self.server.calls.items()
            if client.startswith("operator-") and verb in ("create", "patch", "delete", "replace") and plural in plurals
        )


class Watcher:
    """Sees every change in the order in which it was applied, and fails where an invariant does not hold."""

    def __init__(self, server: ApiServer) -> None:
        self._statuses: dict[str, Object] = {}
        self._reported: dict[str, int] = {}
        self._live: defaultdict[str, set[str]] = defaultdict(set)
        self._pods: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        self._concurrency: dict[str, int] = {}
        self.highest_slots: defaultdict[str, int] = defaultdict(int)
        self.violations: list[str] = []
        server.store.observers.append(self._see)

    def _see(self, change: Change) -> None:
        if change.resource == JOBS:
            self._see_job(change)
        elif change.resource == QUEUES:
            self._concurrency[change.key[1]] = change.object["spec"].get("concurrency", 10)
        elif change.resource == PODS and LABEL_JOB in change.object["metadata"].get("labels", {}):
            self._see_pod(change)

    def _see_job(self, change: Change) -> None:
        raw, uid, name = change.object, change.object["metadata"]["uid"], change.object["metadata"]["name"]
        if change.type == "DELETED":
            self._statuses.pop(uid, None)
            self._reported.pop(name, None)
            return
        old, new = self._statuses.get(uid, {}), raw.get("status", {})
        before, state = old.get("state", ""), new.get("state", "")
        if before in TERMINAL and state != before and not self._runs_again(old, new):
            self.violations.append(f"{name}: {before} -> {state}")
        self._statuses[uid] = new
        self._reported[name] = (new.get("report") or {}).get("attempt", 0)
        self._count_slots(raw["spec"].get("queue", "default"))

    def _runs_again(self, old: Object, new: Object) -> bool:
        """Whether its rerun was raised, or what it was Skipped for runs again, or a Duplicate that stood for that."""
        if new.get("observedRerun", 0) > old.get("observedRerun", 0):
            return True
        upstream = old.get("upstream")
        if upstream is None:
            return False
        now = self._statuses.get(upstream["uid"])
        if now is not None and (now["state"] not in TERMINAL or now["finishes"] > upstream["finishes"]):
            return True
        return any(one.get("armed", {}).get("duplicateOf") == upstream["name"] for one in self._statuses.values())

    def _see_pod(self, change: Change) -> None:
        pod = Pod.parse(change.object)
        owner = f"{pod.namespace}/{pod.job}/{pod.owner_uid}"
        if change.type == "DELETED" or not pod.live:
            self._live[owner].discard(pod.name)
            self._pods[pod.queue].pop(pod.name, None)
        else:
            self._live[owner].add(pod.name)
            self._pods[pod.queue][pod.name] = pod
        if len(self._live[owner]) > 1:
            self.violations.append(f"{pod.job} has two live pods: {sorted(self._live[owner])}")
        self._count_slots(pod.queue)

    def _count_slots(self, queue: str) -> None:
        """Attempts whose pod exists and has neither ended nor reported."""
        held = sum(self._reported.get(pod.job) != pod.attempt for pod in self._pods[queue].values())
        self.highest_slots[queue] = max(self.highest_slots[queue], held)
        concurrency = self._concurrency.get(queue)
        if concurrency is not None and held > concurrency:
            self.violations.append(f"queue {queue} holds {held} of {concurrency} slots")
