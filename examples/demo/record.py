"""What the watches saw, and what follows: the Jobs as they are, the order of things, the slots held at once.

All of it is pure: it works on events, so a test can hand it some.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from examples.demo.cluster import Event
from questline.cli.view import JobSet, JobView


@dataclass
class SlotCounter:
    """Counts a queue's attempts that hold a slot: their pod exists and has neither ended nor reported."""

    queue: str
    held: set[str] = field(default_factory=set)  # pods' UIDs
    highest: int = 0
    _reported: set[str] = field(default_factory=set)

    def see(self, event: Event) -> None:
        if event.is_job:
            pod = ((event.object.get("status") or {}).get("report") or {}).get("podUID")
            if pod:
                self._reported.add(pod)
                self.held.discard(pod)
            return
        metadata = event.object["metadata"]
        if (metadata.get("labels") or {}).get("questline.dev/queue") != self.queue:
            return
        if event.type == "DELETED" or has_ended(event.object) or metadata["uid"] in self._reported:
            self.held.discard(metadata["uid"])
        else:
            self.held.add(metadata["uid"])
            self.highest = max(self.highest, len(self.held))


def has_ended(pod: dict[str, Any]) -> bool:
    """Whether a pod, or its container `worker`, has ended."""
    status = pod.get("status") or {}
    return status.get("phase") in {"Succeeded", "Failed"} or any(
        container["name"] == "worker" and "terminated" in container.get("state", {})
        for container in status.get("containerStatuses") or []
    )


class Record(JobSet):
    """All events, and of each Job the newest record."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def add(self, event: Event) -> JobView | None:
        """Takes one event in; the Job whose state or attempt it changed, if it did."""
        self.events.append(event)
        if not event.is_job:
            return None
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.remove(name)
            return None
        before = self.jobs.get(name)
        job = self.put(event.object)
        changed = before is None or (before.state, before.attempt) != (job.state, job.attempt)
        return job if changed else None

    def highest_slots(self, queue: str) -> int:
        """The most slots of a queue held at once, the events taken in the order of the writes."""
        counter = SlotCounter(queue)
        for event in sorted(self.events, key=lambda event: event.version):
            counter.see(event)
        return counter.highest

    def first_version(self, name: str, states: set[str]) -> int | None:
        """The write that first showed a Job in one of these states."""
        versions = [
            event.version
            for event in self.events
            if event.is_job and event.object["metadata"]["name"] == name and JobView(event.object).state in states
        ]
        return min(versions, default=None)

    def first_pod_version(self, job: str) -> int | None:
        """The write that created the Job's first pod."""
        versions = [
            event.version
            for event in self.events
            if not event.is_job and (event.object["metadata"].get("labels") or {}).get("questline.dev/job") == job
        ]
        return min(versions, default=None)

    def ran_in_order(self, names: list[str]) -> bool:
        """Whether each was claimed, and its first pod made, after the one before it had Succeeded."""
        for before, after in pairwise(names):
            succeeded = self.first_version(before, {"Succeeded"})
            claimed = self.first_version(after, {"Starting", "Running"})
            pod = self.first_pod_version(after)
            if succeeded is None or claimed is None or pod is None or min(claimed, pod) < succeeded:
                return False
        return True
