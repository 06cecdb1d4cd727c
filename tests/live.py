"""One namespace of a real cluster on which Questline runs: manifests to put there, and all that happens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from questline_operator.shell.api import (
    JOBS,
    NAMESPACES,
    QUEUES,
    SCHEDULES,
    WORKERS,
    ApiError,
    NoAnswerError,
    Object,
    Resource,
)
from questline_operator.shell.http_api import HttpApi
from tests.history import History

API_VERSION = "questline.dev/v1alpha1"
TASKS = Path(__file__).parent / "e2e" / "tasks.py"
_RESOURCES = {"Job": JOBS, "Queue": QUEUES, "Schedule": SCHEDULES, "Worker": WORKERS}
_SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings")
_CONFIG_MAPS = Resource("", "v1", "configmaps")
CONNECTIONS = 64
"""Requests under way at once."""
FAKE_WORKER: Object = {
    "kind": "Worker",
    "metadata": {"name": "default"},
    "spec": {
        "image": "questline.dev/fake:1",
        "serviceAccountName": "questline-worker",
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
    },
}
"""One whose pods go to the fake nodes."""


@contextlib.asynccontextmanager
async def live_namespace(api: HttpApi, worker: Object | None = None) -> AsyncIterator["Live"]:
    """A fresh namespace with its history; deleted afterwards, without waiting for its end.

    Args:
        worker: the Worker `default`; one that runs tests/e2e/tasks.py unless given.
    """
    created = await api.create(NAMESPACES, "", {"metadata": {"generateName": "live-"}})
    name = created["metadata"]["name"]
    try:
        async with History(api, name) as history:
            await _set_up(api, name, worker or a_worker("default"))
            yield Live(api, name, history)
    finally:
        with contextlib.suppress(ApiError):
            await api.delete(NAMESPACES, "", name, uid=created["metadata"]["uid"])


class Live:
    """One namespace of a real cluster: what is put there, and all that happens."""

    def __init__(self, api: HttpApi, namespace: str, history: History) -> None:
        self.api = api
        self.namespace = namespace
        self.history = history
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def apply(self, *manifests: Object) -> None:
        """Create them by parallel requests, each repeated until it is answered."""
        await asyncio.gather(*(self._create(manifest) for manifest in manifests))

    async def _create(self, manifest: Object) -> None:
        body = {"apiVersion": API_VERSION, **manifest}
        async with self._connections:
            maybe_applied = False
            while True:
                try:
                    await self.api.create(_RESOURCES[manifest["kind"]], self.namespace, body)
                except NoAnswerError:
                    maybe_applied = True
                except ApiError as error:
                    if maybe_applied and error.reason == "AlreadyExists":
                        return
                    raise
                else:
                    return

    async def job(self, name: str, task: str = "tasks:work", **spec: Any) -> str:
        """Create a Job of a task (or a command); returns its name."""
        await self.apply(a_job(name, task, **spec))
        return name

    async def edit(self, name: str, resource: Resource = JOBS, **spec: Any) -> None:
        """Set fields of a spec."""
        operations = [{"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()]
        await self.api.patch(resource, self.namespace, name, operations)

    async def log(self, pod: str) -> str:
        """A pod's log."""
        process = await asyncio.create_subprocess_exec(
            "kubectl", "-n", self.namespace, "logs", pod, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()


def a_job(name: str, task: str = "tasks:work", **spec: Any) -> Object:
    """A Job manifest."""
    if "command" not in spec:
        spec["task"] = task
    return {"kind": "Job", "metadata": {"name": name}, "spec": spec}


def a_schedule(name: str, cron: str = "* * * * *", *, job: Object | None = None, **spec: Any) -> Object:
    """A Schedule manifest, of every minute and of a task that returns at once unless told otherwise."""
    spec = {"cron": cron, "job": job or {"task": "tasks:work"}, **spec}
    return {"kind": "Schedule", "metadata": {"name": name}, "spec": spec}


def a_queue(name: str, **spec: Any) -> Object:
    """A Queue manifest."""
    return {"kind": "Queue", "metadata": {"name": name}, "spec": spec}


async def _set_up(api: HttpApi, namespace: str, worker: Object) -> None:
    account = {"metadata": {"name": "questline-worker"}}
    await api.create(_SERVICE_ACCOUNTS, namespace, account)
    binding = {
        "metadata": {"name": "questline-worker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "questline-worker"},
        "subjects": [{"kind": "ServiceAccount", "name": "questline-worker", "namespace": namespace}],
    }
    await api.create(_ROLE_BINDINGS, namespace, binding)
    tasks = {"metadata": {"name": "tasks"}, "data": {"tasks.py": TASKS.read_text()}}
    await api.create(_CONFIG_MAPS, namespace, tasks)
    await api.create(WORKERS, namespace, {"apiVersion": API_VERSION, **worker})


def a_worker(name: str, **spec: Any) -> Object:
    """A Worker that runs tests/e2e/tasks.py."""
    template = yaml.safe_load("""
        spec:
          terminationGracePeriodSeconds: 5
          volumes: [{name: tasks, configMap: {name: tasks}}]
          containers: [{name: worker, volumeMounts: [{name: tasks, mountPath: /app}]}]
    """)
    return {
        "kind": "Worker",
        "metadata": {"name": name},
        "spec": {
            "image": "questline.dev/worker:dev",
            "imagePullPolicy": "IfNotPresent",
            "serviceAccountName": "questline-worker",
            "template": template,
            **spec,
        },
    }
