"""What an API server keeps, in memory: objects as JSON, their versions and times, and the core's `World` of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from questline.testing._clock import Clock
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Key, Queue, Worker
from questline_operator.core.schedule import Schedule
from questline_operator.core.status import applied
from questline_operator.core.times import format_time, format_whole_seconds
from questline_operator.core.world import World

API_VERSION = "questline.dev/v1alpha1"
Json = Mapping[str, Any]


class AlreadyExists(Exception):  # noqa: N818  the API's own word
    """There is an object of that name."""


class Store:
    """All objects of one cluster.

    UIDs are made of kind, namespace and name, so that the same test draws the same jitter every time.

    Attributes:
        on_job: told of every Job that was created or has changed: the record before, None for a new one, and the new.
        ahead: when a Job is created that the code of an attempt has enqueued ahead of the cluster's time.
    """

    def __init__(self, clock: Clock) -> None:
        self.world = World()
        self.on_job: Callable[[Job | None, Job], None] = lambda old, new: None
        self.ahead: dict[Key, float] = {}
        self._clock = clock
        self._version = 0

    # Creation

    def create(self, kind: str, namespace: str, body: Json) -> dict[str, Any]:
        """Take in a new Job, Queue, Worker or Schedule; returns it as it is kept.

        Raises:
            AlreadyExists: one of that name is there.
        """
        name = str(body["metadata"]["name"])
        if (namespace, name) in self.records(kind):
            raise AlreadyExists(name)
        self._version += 1
        now = self._clock.time()
        if kind == "Job" and now > self._clock.now:
            self.ahead[namespace, name] = now
        meta = {
            **body["metadata"],
            "namespace": namespace,
            "uid": made_uid(kind, namespace, name),
            "resourceVersion": str(self._version),
            "creationTimestamp": format_whole_seconds(now),  # whole seconds, as an API server has them
            "generation": 1,
        }
        raw: dict[str, Any] = {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": body.get("spec", {})}
        if kind == "Job":
            raw["status"] = {"state": "Waiting"}
        if kind == "Worker":  # nobody tries its pods here
            ready = {"type": "Ready", "status": "True", "reason": "PodAccepted", "observedGeneration": 1}
            raw["status"] = {"conditions": [ready]}
        return self._keep(kind, plain(raw))

    def update_spec(self, kind: str, key: Key, change: Json) -> None:
        """Set fields of a spec."""
        raw = self.records(kind)[key].raw
        meta = {**raw["metadata"], "generation": raw["metadata"]["generation"] + 1}
        changed = {**raw, "metadata": meta, "spec": {**raw["spec"], **change}}
        if kind == "Worker":
            ready = {**raw["status"]["conditions"][0], "observedGeneration": meta["generation"]}
            changed["status"] = {"conditions": [ready]}
        self._write(kind, changed)

    # Statuses

    def write_status(self, record: Job | Schedule, change: Json) -> None:
        """Apply a change of the status, as the operator writes it."""
        kind = "Job" if isinstance(record, Job) else "Schedule"
        raw = self.records(kind)[record.key].raw
        self._write(kind, {**raw, "status": applied(raw.get("status", {}), change)})

    def take_report(self, job: Job, report: Json) -> bool:
        """An attempt's own report on its Job; False where it is none of the current attempt, or not the first."""
        mine = job.active and report.get("attempt") == job.attempt
        if not mine or "report" in job.status:
            return False
        self._write("Job", {**job.raw, "status": {**job.status, "report": report}})
        return True

    # Pods

    def put_pod(self, manifest: Json, *, uid: str) -> Pod:
        """A pod whose container begins to run now."""
        self._version += 1
        now = self._clock.now
        meta = {
            **manifest["metadata"],
            "uid": uid,
            "resourceVersion": str(self._version),
            "creationTimestamp": format_whole_seconds(now),
        }
        status = {
            "phase": "Running",
            "startTime": format_time(now),
            "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": format_time(now)}}}],
        }
        pod = Pod.parse({**manifest, "metadata": meta, "status": status})
        self.world.put_pod(pod)
        return pod

    def end_pod(self, pod: Pod, *, exit_code: int, message: str = "", phase_reason: str = "") -> None:
        """Its container has ended, and so has the pod."""
        ended = replace(
            pod,
            phase="Failed" if exit_code else "Succeeded",
            phase_reason=phase_reason,
            finished_at=self._clock.now,
            exit_code=exit_code,
            termination_message=message,
        )
        self.world.put_pod(ended)

    def pod_gone(self, pod: Pod) -> None:
        """It was deleted, and is no more."""
        self.world.put_pod(replace(pod, deleting=True, deletion_requested_at=self._clock.now, gone=True))

    # Inside

    def _write(self, kind: str, raw: dict[str, Any]) -> None:
        self._version += 1
        self._keep(kind, plain({**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self._version)}}))

    def _keep(self, kind: str, raw: dict[str, Any]) -> dict[str, Any]:
        world = self.world
        match kind:
            case "Job":
                job = Job.parse(raw)
                self.on_job(world.put_job(job), job)
            case "Queue":
                queue = Queue.parse(raw)
                world.queues[queue.key] = queue
            case "Worker":
                worker = Worker.parse(raw)
                world.workers[worker.key] = worker
            case _:
                world.put_schedule(Schedule.parse(raw))
        return raw

    def records(self, kind: str) -> Mapping[Key, Any]:
        """What there is of that kind, by namespace and name."""
        world = self.world
        kinds: dict[str, Mapping[Key, Any]] = {
            "Job": world.jobs,
            "Queue": world.queues,
            "Worker": world.workers,
            "Schedule": world.schedules,
        }
        return kinds[kind]


def made_uid(*parts: object) -> str:
    """A UID that is the same for the same parts."""
    return str(uuid.UUID(bytes=sha256("\0".join(map(str, parts)).encode()).digest()[:16], version=4))


def plain(value: Any) -> Any:
    """The value as an API server gives it back: a copy, in which 1.0 has become 1."""
    return json.loads(json.dumps(value), parse_float=_number)


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number
