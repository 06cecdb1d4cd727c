"""The pod of an attempt: the Worker's template, the Job's overrides, the payload, and Pod Security "restricted"."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from questline_operator.core import settings
from questline_operator.core.canonical import MAX_NESTING, nested_too_deeply
from questline_operator.core.inputs import inputs_of
from questline_operator.core.lineage import depth_of, needs_worker, root_of, worker_name, worker_of
from questline_operator.core.records import (
    ANNOTATION_EPOCH,
    ANNOTATION_KEY,
    ANNOTATION_PAYLOAD,
    CONTAINER,
    GROUP,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_QUEUE,
    LABEL_ROOT,
    Job,
    Json,
    Worker,
)
from questline_operator.core.states import Reason
from questline_operator.core.world import World

ARGS_LIMIT = 128 * 1024
PAYLOAD_VOLUME = "questline"
PAYLOAD_FOLDER = "/questline"
PAYLOAD_PATH = f"{PAYLOAD_FOLDER}/job.json"
USER = 65_532
"""The UID and GID of worker pods unless the Worker's template says otherwise: an unprivileged one in any image."""
TASK_COMMAND = ["python", "-m", "questline", "run"]

_PLAIN_FIELDS = ("imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations")
_RESTARTS = ("restartPolicy", "restartPolicyRules")
_CONTAINER_FIELDS = ("image", "imagePullPolicy", "env", "envFrom", "resources")


def payload(
    job: Job,
    *,
    attempt: int,
    is_last_attempt: bool,
    root: str,
    depth: int,
    worker: str | None,
    max_attempts: int,
    inputs: Json | None,
) -> str:
    """What the SDK reads in the pod, as compact JSON (design 3, Payload)."""
    spec = job.spec
    return json.dumps(
        {
            "v": 1,
            "job": {
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
                "queue": job.queue,
                "task": spec.get("task"),
                "root": root,
                "depth": depth,
                "worker": worker,
                "maxAttempts": max_attempts,
            },
            "attempt": attempt,
            "isLastAttempt": is_last_attempt,
            "args": spec.get("args", {}),
            "inputs": inputs,
            "parent": spec.get("parent"),
            "traceparent": None,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def fault_of_args(job: Job) -> tuple[Reason, str] | None:
    """Why the Job's args are refused: for a depth or a size that a schema cannot bound."""
    if job.args_too_deep:
        return Reason.ARGS_INVALID, (
            f"spec.args is nested more than {MAX_NESTING} levels deep: put the data into storage and pass its id"
        )
    if job.args_size <= ARGS_LIMIT:
        return None
    return Reason.ARGS_TOO_LARGE, (
        f"spec.args holds {job.args_size} bytes of JSON, over the limit of {ARGS_LIMIT}: "
        "put the data into storage and pass its id"
    )


def pod_of_attempt(world: World, job: Job, *, epoch: int) -> dict[str, Any]:
    """The manifest of the pod that runs the Job's current attempt, with all that the attempt is told.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: there is no such Worker, or its template is no PodTemplateSpec.
    """
    queue = world.queues.get(job.queue_key)
    worker = worker_of(world, job)
    if worker is None and needs_worker(job):
        raise ValueError(f"there is no Worker {worker_name(world, job)}")
    limit = settings.max_attempts(job, queue)
    root = root_of(world, job)
    text = payload(
        job,
        attempt=job.attempt,
        is_last_attempt=job.failures + 1 >= limit,
        root=root,
        depth=depth_of(world, job),
        worker=None if worker is None else worker.name,
        max_attempts=limit,
        inputs=inputs_of(world, job),
    )
    timeout = settings.timeout_seconds(job, queue)
    return pod_manifest(job, worker, epoch=epoch, root=root, payload_text=text, timeout=timeout)


def pod_manifest(
    job: Job, worker: Worker | None, *, epoch: int, root: str, payload_text: str, timeout: int | None
) -> dict[str, Any]:
    """The manifest of the pod that runs the Job's current attempt, of all that has been looked up for it.

    Args:
        worker: None where there is none, and the Job brings its own image.
        timeout: seconds that the kubelet grants the attempt, or None.
    """
    pod = worker_pod(worker, image=job.spec.get("image"))
    meta, spec = pod["metadata"], pod["spec"]
    meta["name"], meta["namespace"] = job.pod_name(job.attempt), job.namespace
    meta["labels"] |= {
        LABEL_JOB: job.name,
        LABEL_QUEUE: job.queue,
        LABEL_ATTEMPT: str(job.attempt),
        LABEL_ROOT: root,
    }
    meta["annotations"] |= {ANNOTATION_EPOCH: str(epoch), ANNOTATION_PAYLOAD: payload_text}
    meta["annotations"].pop(ANNOTATION_KEY, None)
    if job.concurrency_key:
        meta["annotations"][ANNOTATION_KEY] = job.concurrency_key
    meta["ownerReferences"] = [
        {
            "apiVersion": f"{GROUP}/v1alpha1",
            "kind": "Job",
            "name": job.name,
            "uid": job.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    if timeout is not None:
        spec["activeDeadlineSeconds"] = timeout
    container = next(c for c in spec["containers"] if c["name"] == CONTAINER)
    container["command"] = list(TASK_COMMAND if job.is_task else job.spec["command"])
    container["terminationMessagePolicy"] = "File" if job.is_task else "FallbackToLogsOnError"
    for name in ("args", "terminationMessagePath"):
        container.pop(name, None)
    container["env"] = _merged_env(
        container.get("env", []),
        job.spec.get("env", []),
        [
            {"name": "QUESTLINE_PAYLOAD", "value": PAYLOAD_PATH},
            {"name": "QUESTLINE_JOB", "value": job.name},
            {"name": "QUESTLINE_ATTEMPT", "value": str(job.attempt)},
            {"name": "QUESTLINE_NAMESPACE", "value": job.namespace},
            {"name": "QUESTLINE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
    )
    if "resources" in job.spec:
        container["resources"] = copy.deepcopy(job.spec["resources"])
    return pod


def worker_pod(worker: Worker | None, *, image: str | None = None) -> dict[str, Any]:
    """A pod of this Worker, for no Job in particular: what the check of a Worker has the API server try.

    The Worker's own fields go over its template; what neither says is set so that Pod Security "restricted" admits it.

    Raises:
        ValueError, TypeError, AttributeError, KeyError: the template is no PodTemplateSpec.
    """
    of_worker: Json = worker.spec if worker else {}
    if nested_too_deeply(of_worker):
        raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")
    template = copy.deepcopy(of_worker.get("template") or {})
    meta, spec = template.get("metadata") or {}, template.get("spec") or {}
    containers = spec.setdefault("containers", [])
    container = next((c for c in containers if c.get("name") == CONTAINER), None)
    if container is None:
        container = {"name": CONTAINER}
        containers.insert(0, container)
    for name in _CONTAINER_FIELDS:
        if name in of_worker:
            value = copy.deepcopy(of_worker[name])
            container[name] = _merged_env(container.get("env", []), value) if name == "env" else value
    if image is not None:
        container["image"] = image
    for name in _PLAIN_FIELDS:
        if name in of_worker:
            spec[name] = copy.deepcopy(of_worker[name])
    spec["restartPolicy"] = "Never"
    for name in _RESTARTS:
        container.pop(name, None)  # a container's own go before its pod's, and would run the attempt once more
    spec.setdefault("enableServiceLinks", False)
    if not spec.get("serviceAccountName"):
        spec["automountServiceAccountToken"] = False
    _restrict(spec)
    spec.setdefault("volumes", []).append(
        {
            "name": PAYLOAD_VOLUME,
            "downwardAPI": {
                "items": [
                    {
                        "path": "job.json",
                        "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_PAYLOAD}']"},
                    }
                ]
            },
        }
    )
    container.setdefault("volumeMounts", []).append(
        {"name": PAYLOAD_VOLUME, "mountPath": PAYLOAD_FOLDER, "readOnly": True}
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": dict(meta.get("labels") or {}),
            "annotations": dict(meta.get("annotations") or {}),
        },
        "spec": spec,
    }


def _restrict(spec: dict[str, Any]) -> None:
    """Pod Security "restricted" where the template is silent."""
    of_pod = spec.setdefault("securityContext", {})
    of_pod.setdefault("runAsNonRoot", of_pod.get("runAsUser") != 0)
    if of_pod["runAsNonRoot"]:
        of_pod.setdefault("runAsUser", USER)
        of_pod.setdefault("runAsGroup", USER)
        of_pod.setdefault("fsGroup", USER)
        of_pod.setdefault("fsGroupChangePolicy", "OnRootMismatch")
    of_pod.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        of_container = container.setdefault("securityContext", {})
        if not of_container.get("privileged"):
            of_container.setdefault("allowPrivilegeEscalation", False)
        of_container.setdefault("capabilities", {"drop": ["ALL"]})


def _merged_env(*lists: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lists as one, a later entry of a name in the place of an earlier one."""
    return list({item["name"]: item for items in lists for item in items}.values())
