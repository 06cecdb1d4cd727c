"""A pretended history of Jobs and pods, one event for each write, as a watch would deliver it."""

from __future__ import annotations

from itertools import count
from typing import Any

from examples.demo.cluster import Event


class History:
    """Makes events with rising resourceVersions."""

    def __init__(self) -> None:
        self._versions = count(1)
        self.events: list[Event] = []

    def job(self, name: str, state: str = "Waiting", *, spec: dict[str, Any] | None = None, **status: Any) -> Event:
        seen = any(event.object["metadata"]["name"] == name for event in self.events if event.is_job)
        record = {
            "metadata": self._metadata(name),
            "spec": spec or {},
            "status": {"state": state, **status},
        }
        return self._add(Event("MODIFIED" if seen else "ADDED", record))

    def pod(self, name: str, queue: str = "emails", *, type: str = "MODIFIED", ended: bool = False) -> Event:  # noqa: A002
        metadata = self._metadata(name)
        job = name.rpartition("-")[0]
        metadata["labels"] = {"questline.dev/queue": queue, "questline.dev/job": job}
        worker = {"name": "worker", "state": {"terminated": {"exitCode": 0}} if ended else {"running": {}}}
        pod = {
            "metadata": metadata,
            "spec": {"containers": [{"name": "worker"}]},
            "status": {"phase": "Running", "containerStatuses": [worker]},
        }
        return self._add(Event(type, pod))

    def _metadata(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(next(self._versions)),
            "creationTimestamp": "2025-01-01T00:00:00Z",
        }

    def _add(self, event: Event) -> Event:
        self.events.append(event)
        return event


def child_of(parent: str, index: int = 0, *, attempt: int = 1, task: str = "m:child", **args: Any) -> dict[str, Any]:
    """A Job.spec with that parent."""
    return {"task": task, "args": args, "parent": {"name": parent, "attempt": attempt, "index": index}}
