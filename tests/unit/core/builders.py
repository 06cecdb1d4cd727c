"""Records for tests of the core, made as the API's JSON and parsed, so that every test tests the parsing too.

    world = a_world(a_queue(), a_worker(), parent := a_job("parent", state="Running", attempt=1), a_pod(parent))

Times are seconds after `T0`; uids and resourceVersions are made from what they belong to.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from questline_operator.core.pod import Pod
from questline_operator.core.records import (
    ANNOTATION_EPOCH,
    ANNOTATION_KEY,
    CONTAINER,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_QUEUE,
    LABEL_ROOT,
    Job,
    Queue,
    Worker,
)
from questline_operator.core.times import format_time, format_whole_seconds
from questline_operator.core.world import World

T0: Final = 1_800_000_000.0
"""The moment, in seconds since the epoch, that all times here count from."""
NAMESPACE: Final = "default"
EPOCH: Final = 7
"""The epoch of the operator under test."""
METADATA: Final = {
    "name": "resize",
    "namespace": "media",
    "uid": "11111111-2222-3333-4444-555555555555",
    "resourceVersion": "42",
    "creationTimestamp": "2026-01-31T08:00:00Z",
}
"""Of an object that a test writes out by hand."""

_TIMES = ("nextAttemptAt", "startedAt", "finishedAt")


def uid_of(name: str) -> str:
    """A UID that looks like one and is the same for the same name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def time_of(seconds: float) -> str:
    """The RFC 3339 time so many seconds after `T0`."""
    return format_time(T0 + seconds)


def whole_time_of(seconds: float) -> str:
    """The same as the API server writes it: whole seconds."""
    return format_whole_seconds(T0 + seconds)


def a_job(
    name: str = "resize",
    *,
    uid: str | None = None,
    namespace: str = NAMESPACE,
    created: float = 0.0,
    version: int = 100,
    deleting: bool = False,
    spec: Mapping[str, Any] | None = None,
    **status: Any,
) -> Job:
    """A Job: a task unless ``spec`` says ``command``. Times in the status are seconds after `T0`.

    A state that implies an attempt gets what the operator writes with it, where the test does not say it itself.
    """
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid or uid_of(name),
        "resourceVersion": str(version),
        "creationTimestamp": whole_time_of(created),
        "generation": 1,
    }
    if deleting:
        meta["deletionTimestamp"] = whole_time_of(created)
    body = dict(spec or {})
    if "command" not in body:
        body.setdefault("task", "tasks:work")
    body.setdefault("queue", "default")
    state = status.setdefault("state", "Waiting")
    if state in ("Starting", "Running"):
        status = {"attempt": 1, "epoch": EPOCH, "startedAt": created, **status}
    if state in ("Succeeded", "Failed", "Canceled", "Skipped"):
        status = {"finishedAt": created + 10, "finishes": 1, **status}
    if state == "Succeeded":
        status = {"attempt": 1, "succeededAttempts": [status.get("attempt", 1)], **status}
    if state == "Failed":
        status = {"attempt": 1, "failures": 1, **status}
    status |= {field: time_of(status[field]) for field in _TIMES if field in status}
    raw = {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": meta,
        "spec": body,
        "status": status,
    }
    return Job.parse(raw)


def unconfirmed(job: Job) -> Job:
    """The claim of that Job as it counts until it is answered."""
    return replace(job, claim_unconfirmed=True)


def child_of(
    parent: Job, *, attempt: int = 1, index: int = 0, staged: bool | None = None, **other: Any
) -> dict[str, Any]:
    """A spec.parent that names that attempt of the Job; ``other`` overrides its fields."""
    reference = {
        "name": parent.name,
        "uid": parent.uid,
        "attempt": attempt,
        "podUID": pod_uid(parent, attempt),
        "index": index,
    }
    if staged is not None:
        reference["staged"] = staged
    return reference | other


def an_attempt(
    number: int = 1, outcome: str = "Succeeded", *, at: float = 0.0, pod_uid: str | None = None, **other: Any
) -> dict[str, Any]:
    """An entry of status.attempts, ended ``at`` seconds after `T0`."""
    entry = {"number": number, "outcome": outcome, "finishedAt": time_of(at)}
    if pod_uid is not None:
        entry["podUID"] = pod_uid
    return entry | other


def a_report(job: Job, outcome: str = "Succeeded", **fields: Any) -> dict[str, Any]:
    """A status.report of the Job's current attempt, or of the first."""
    attempt = fields.pop("attempt", job.attempt or 1)
    return {"v": 1, "attempt": attempt, "outcome": outcome, "podUID": pod_uid(job, attempt), **fields}


def pod_uid(job: Job, attempt: int = 1) -> str:
    """The UID of that attempt's pod."""
    return uid_of(f"pod/{job.uid}/{attempt}")


def a_pod(
    job: Job,
    *,
    attempt: int | None = None,
    phase: str | None = None,
    created: float = 0.0,
    running: float | None = None,
    exit_code: int | None = None,
    finished: float = 20.0,
    started: float | None = 1.0,
    message: str = "",
    end_reason: str = "",
    waiting: str = "",
    waiting_message: str = "",
    reason: str = "",
    status_message: str = "",
    disruption: str = "",
    deleting: bool = False,
    gone: bool = False,
    owner: str | None = None,
    name: str | None = None,
    queue: str | None = None,
    epoch: int = EPOCH,
    concurrency_key: str | None = None,
    signal: int = 0,
    unschedulable: str = "",
    extra_status: Mapping[str, Any] | None = None,
) -> Pod:
    """The pod of an attempt of the Job, the current one unless told otherwise. Pending where nothing else is said.

    Args:
        running: the container runs since that many seconds after `T0`.
        exit_code: the container has ended so, ``finished`` seconds after `T0`; the phase follows unless given.
        waiting: why the container waits.
        reason: the pod's status.reason, with ``status_message``.
        disruption: the reason of the condition DisruptionTarget.
        owner: the UID of its controller, the Job's unless given; "" for none.
    """
    attempt = job.attempt if attempt is None else attempt
    owner = job.uid if owner is None else owner
    state: dict[str, Any] = {}
    if running is not None:
        state["running"] = {"startedAt": whole_time_of(running)}
        phase = phase or "Running"
    if exit_code is not None:
        state["terminated"] = {"exitCode": exit_code, "finishedAt": whole_time_of(finished), "reason": end_reason}
        state["terminated"] |= {"startedAt": whole_time_of(started)} if started is not None else {}
        state["terminated"] |= {"message": message} if message else {}
        state["terminated"] |= {"signal": signal} if signal else {}
        phase = phase or ("Succeeded" if exit_code == 0 else "Failed")
    if waiting:
        state["waiting"] = {"reason": waiting, "message": waiting_message}
    status: dict[str, Any] = {"phase": phase or "Pending", "startTime": whole_time_of(created), "conditions": []}
    if state:
        status["containerStatuses"] = [{"name": "sidecar", "state": {}}, {"name": CONTAINER, "state": state}]
    if reason:
        status |= {"reason": reason, "message": status_message}
    if disruption:
        status["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": disruption})
    if unschedulable:
        status["conditions"].append({"type": "PodScheduled", "status": "False", "message": unschedulable})
    meta: dict[str, Any] = {
        "name": name or job.pod_name(attempt),
        "namespace": job.namespace,
        "uid": pod_uid(job, attempt) if name is None else uid_of(name),
        "resourceVersion": "200",
        "creationTimestamp": whole_time_of(created),
        "labels": {
            LABEL_JOB: job.name,
            LABEL_QUEUE: queue or job.queue,
            LABEL_ATTEMPT: str(attempt),
            LABEL_ROOT: job.name,
        },
        "annotations": {ANNOTATION_EPOCH: str(epoch)},
    }
    if key := job.concurrency_key if concurrency_key is None else concurrency_key:
        meta["annotations"][ANNOTATION_KEY] = key
    if owner:
        meta["ownerReferences"] = [{"kind": "Job", "name": job.name, "uid": owner, "controller": True}]
    if deleting:
        meta |= {"deletionTimestamp": whole_time_of(finished + 30), "deletionGracePeriodSeconds": 30}
    pod = Pod.parse({"metadata": meta, "spec": {}, "status": {**status, **(extra_status or {})}})
    return replace(pod, gone=True) if gone else pod


def a_queue(
    name: str = "default", *, namespace: str = NAMESPACE, defaults: Mapping[str, Any] | None = None, **spec: Any
) -> Queue:
    """A Queue of ten slots."""
    meta = {"name": name, "namespace": namespace, "uid": uid_of(f"queue/{name}"), "resourceVersion": "10"}
    body = {"concurrency": 10, **spec, **({"defaults": defaults} if defaults is not None else {})}
    return Queue.parse({"metadata": meta, "spec": body})


def a_worker(
    name: str = "default", *, ready: bool | None = True, message: str = "", checked_generation: int = 3, **spec: Any
) -> Worker:
    """A Worker whose pods the API server takes; ``ready=None``: nobody has checked it."""
    meta = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": uid_of(f"worker/{name}"),
        "resourceVersion": "10",
        "generation": 3,
    }
    raw: dict[str, Any] = {"metadata": meta, "spec": {"image": "tasks:1", **spec}}
    if ready is not None:
        condition = {
            "type": "Ready",
            "status": str(ready),
            "message": message,
            "observedGeneration": checked_generation,
        }
        raw["status"] = {"conditions": [{"type": "Other", "status": "True"}, condition]}
    return Worker.parse(raw)


def a_world(*records: Job | Pod | Queue | Worker) -> World:
    """A world that holds these."""
    world = World()
    put(world, *records)
    return world


def put(world: World, *records: Job | Pod | Queue | Worker) -> None:
    """Put each record in, over an older one of its name."""
    for record in records:
        if isinstance(record, Job):
            world.put_job(record)
        elif isinstance(record, Pod):
            world.put_pod(record)
        elif isinstance(record, Queue):
            world.queues[record.key] = record
        else:
            world.workers[record.key] = record


def nested(levels: int) -> Any:
    """A list in a list and so on, as JSON's parser gives it."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value
