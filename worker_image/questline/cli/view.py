"""Jobs as they are shown: names for what a table, a tree or a line asks of a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

FINISHED = frozenset({"Succeeded", "Failed", "Canceled", "Skipped"})
STATES = ("Waiting", "Starting", "Running", "Succeeded", "Failed", "Canceled", "Skipped")


@dataclass(frozen=True)
class JobView:
    """A Job's record."""

    raw: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"].get("namespace", ""))

    @property
    def created(self) -> str:
        return str(self.raw["metadata"].get("creationTimestamp", ""))

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
    def work(self) -> str:
        """The task, or a command's program."""
        return str(self.spec.get("task") or self.spec.get("command", ["?"])[0])

    @property
    def function(self) -> str:
        """The task's function, or a command's program."""
        return self.work.rpartition(":")[2]

    @property
    def state(self) -> str:
        return str(self.status.get("state", "Waiting"))

    @property
    def reason(self) -> str:
        return str(self.status.get("reason") or "")

    @property
    def message(self) -> str:
        return str(self.status.get("message") or "")

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def attempt(self) -> int:
        return int(self.status.get("attempt", 0))

    def pod_name(self, attempt: int) -> str:
        """The name of that attempt's pod."""
        return f"{self.name}-{self.raw['metadata']['uid'][:8]}-{attempt}"

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


class JobSet:
    """Jobs of one namespace, as they are now, and who enqueued whom."""

    def __init__(self, raws: Iterable[dict[str, Any]] = ()) -> None:
        self.jobs: dict[str, JobView] = {}
        self._children: dict[str, dict[str, None]] = {}
        for raw in raws:
            self.put(raw)

    def put(self, raw: dict[str, Any]) -> JobView:
        """Takes a record in, in place of an older one of its name."""
        job = JobView(raw)
        self.jobs[job.name] = job
        if job.parent is not None:
            self._children.setdefault(job.parent, {})[job.name] = None
        return job

    def remove(self, name: str) -> None:
        """Forgets a Job."""
        job = self.jobs.pop(name, None)
        if job is not None and job.parent is not None:
            self._children.get(job.parent, {}).pop(name, None)

    def children(self, name: str) -> list[JobView]:
        """The Jobs that the attempts of this one enqueued, in that order."""
        parent = self.jobs.get(name)
        uid = parent.raw["metadata"].get("uid") if parent is not None else None
        # Copied in one step: another thread may draw the tree while one follows its changes.
        found = filter(None, map(self.jobs.get, list(self._children.get(name, ()))))
        # A Job of the same name may have been there before.
        return sorted((job for job in found if job.spec["parent"].get("uid", uid) == uid), key=lambda job: job.sort_key)

    def tree(self, name: str) -> list[JobView]:
        """A Job and its descendants; empty when it is not there."""
        root = self.jobs.get(name)
        return list(self._below(root)) if root is not None else []

    def _below(self, root: JobView) -> Iterator[JobView]:
        stack = [root]
        while stack:
            job = stack.pop()
            yield job
            stack.extend(reversed(self.children(job.name)))

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
