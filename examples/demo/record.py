"""What the watches saw, and what follows: the Jobs as they are, the order of things, the slots held at once.

All of it is pure: it works on events, so a test can hand it some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from examples.demo.cluster import Event

FINISHED = frozenset({"Succeeded", "Failed", "Canceled", "Skipped"})


@dataclass(frozen=True)
class JobView:
    """A Job's record, with names for what the demo asks of it."""

    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.raw["spec"])

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.raw.get("status") or {})

    @property
    def queue(self) -> str:
        return str(self.spec.get("queue", "default"))

    @property
    def function(self) -> str:
        """The task's function, or a command's program."""
        task = self.spec.get("task")
        return str(task).rpartition(":")[2] if task else str(self.spec.get("command", ["?"])[0])

    @property
    def label(self) -> str:
        """The function, and for whom when the args say so."""
        recipient = self.spec.get("args", {}).get("recipient")
        return f"{self.function} {recipient}" if recipient else self.function

    @property
    def state(self) -> str:
        return str(self.status.get("state", "Waiting"))

    @property
    def reason(self) -> str:
        return str(self.status.get("reason", ""))

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def attempt(self) -> int:
        return int(self.status.get("attempt", 0))

    @property
    def outcomes(self) -> list[str]:
        """Of the attempts so far, the first first (the API keeps the last ten)."""
        return [str(attempt.get("outcome", "")) for attempt in self.status.get("attempts", [])]

    @property
    def parent(self) -> str | None:
        parent = self.spec.get("parent")
        return str(parent["name"]) if parent else None

    @property
    def seconds(self) -> float | None:
        """From the start of the first attempt to the end; None when it never ran or has not ended."""
        attempts = self.status.get("attempts") or []
        # status.startedAt is the last attempt's; of the first of several the API knows whole seconds only.
        started = attempts[0].get("startedAt") if len(attempts) > 1 else self.status.get("startedAt")
        finished = self.status.get("finishedAt")
        if not (started and finished):
            return None
        return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Among siblings: the parent's attempt that enqueued it, and when in that attempt."""
        parent = self.spec.get("parent") or {}
        return int(parent.get("attempt", 0)), int(parent.get("index", 0)), self.name


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


class Record:
    """All events, and of each Job the newest record."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.jobs: dict[str, JobView] = {}

    def add(self, event: Event) -> JobView | None:
        """Takes one event in; the Job whose state or attempt it changed, if it did."""
        self.events.append(event)
        if not event.is_job:
            return None
        job = JobView(event.object)
        if event.type == "DELETED":
            self.jobs.pop(job.name, None)
            return None
        before = self.jobs.get(job.name)
        self.jobs[job.name] = job
        changed = before is None or (before.state, before.attempt) != (job.state, job.attempt)
        return job if changed else None

    def children(self, name: str) -> list[JobView]:
        return sorted((job for job in self.jobs.values() if job.parent == name), key=lambda job: job.sort_key)

    def tree(self, name: str) -> list[JobView]:
        """A Job and its descendants; empty when it is not there."""
        if name not in self.jobs:
            return []
        return [self.jobs[name], *(below for child in self.children(name) for below in self.tree(child.name))]

    def is_complete(self, roots: Iterable[str]) -> bool:
        """Whether every Job of these trees has ended, with no reported child still to be seen."""
        for root in roots:
            jobs = self.tree(root)
            if not jobs or not all(job.finished for job in jobs):
                return False
            if any(self._children_to_come(job) for job in jobs):
                return False
        return True

    def _children_to_come(self, job: JobView) -> int:
        """How many children a succeeded attempt reported that no event has shown yet."""
        if job.state != "Succeeded":
            return 0
        seen = len([child for child in self.children(job.name) if child.spec["parent"]["attempt"] == job.attempt])
        announced = int((job.status.get("children") or {}).get("total", 0))
        return max(0, announced - seen)

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
