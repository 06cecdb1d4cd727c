"""Everything that happened to the Jobs and pods of a namespace, seen by watches of its own; `tests.verdict` judges it.

Events are kept with their resourceVersions, which tell the order in which they were applied: two watches may show the
same moment in either order.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from questline_operator.core.pod import Pod
from questline_operator.core.records import LABEL_JOB, Job
from questline_operator.shell.api import JOBS, PODS, Api, ApiError, NoAnswerError, Object, Resource


@dataclass(frozen=True)
class Event:
    """One change as the API server applied it."""

    version: int
    type: str
    resource: Resource
    object: Object


class History:
    """Records while it is entered as an async context manager.

    Args:
        namespace: whose Jobs and pods.

    Attributes:
        events: every change, in the order in which it was seen.
        ended: the names of the Jobs that are terminal.
        deleted: how many Jobs and pods are gone, by kind.
        gaps: how often a watch could not go on where it was (the API server's history begins at its start), so that
            what lies between was read from a list: the last version of each object, the others unseen.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._jobs: dict[str, Job] = {}
        self._pods: dict[str, Pod] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.events: list[Event] = []
        self.ended: set[str] = set()
        self.deleted: Counter[Resource] = Counter()
        self.gaps = 0

    async def __aenter__(self) -> Self:
        for resource in (JOBS, PODS):
            listing = await self._api.list(resource)
            for raw in listing.items:
                self._take("ADDED", resource, raw)
            self._tasks.append(asyncio.create_task(self._follow(resource, listing.resource_version)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until(self, reached: Callable[[], bool], *, seconds: float = 120.0) -> None:
        """Wait until it holds after some event.

        Raises:
            AssertionError: it did not in time, with the states that are.
        """
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            lines = [f"{job.name}: {job.state} {job.reason} {job.status.get('message', '')}" for job in self.jobs()]
            raise AssertionError(f"not reached in {seconds:g} s:\n" + "\n".join(lines)) from None

    async def settled(self, *names: str, seconds: float = 120.0) -> list[Job]:
        """Wait until these Jobs, or all there are, have ended; returns them."""
        wanted = set(names)

        def ended() -> bool:
            jobs = [job for job in self.jobs() if not wanted or job.name in wanted]
            return bool(jobs) and len(jobs) >= len(wanted) and all(job.terminal for job in jobs)

        await self.until(ended, seconds=seconds)
        return [job for job in self.jobs() if not wanted or job.name in wanted]

    def jobs(self) -> list[Job]:
        """Every Job as last seen."""
        return list(self._jobs.values())

    def job(self, name: str) -> Job:
        """One Job as last seen; KeyError where none of that name was."""
        return self._jobs[name]

    def has(self, name: str) -> bool:
        """Whether a Job of that name exists."""
        return name in self._jobs

    def pods(self) -> list[Pod]:
        """Every pod of an attempt as last seen."""
        return list(self._pods.values())

    def in_order(self) -> list[Event]:
        """The events in the order in which they were applied."""
        return sorted(self.events, key=lambda event: event.version)

    async def _follow(self, resource: Resource, version: str) -> None:
        while True:
            try:
                async for event in self._api.watch(resource, since=version):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type != "BOOKMARK":
                        self._take(event.type, resource, event.object)
            except (ApiError, NoAnswerError) as error:
                if isinstance(error, ApiError) and error.status == 410:
                    version = await self._catch_up(resource, version)
                else:
                    await asyncio.sleep(0.2)  # the API server restarts, in some tests: go on from where it was

    async def _catch_up(self, resource: Resource, version: str) -> str:
        """Take what a list shows to be new; the version to go on from."""
        try:
            listing = await self._api.list(resource)
        except (ApiError, NoAnswerError):
            return version
        self.gaps += 1
        present = {raw["metadata"]["uid"] for raw in listing.items}
        latest = {event.object["metadata"]["uid"]: event for event in self.events if event.resource == resource}
        for uid, event in latest.items():
            if event.type != "DELETED" and uid not in present:
                meta = event.object["metadata"] | {"resourceVersion": listing.resource_version}
                self._take("DELETED", resource, event.object | {"metadata": meta})
        for raw in listing.items:
            known = latest.get(raw["metadata"]["uid"])
            if known is None or known.version != int(raw["metadata"]["resourceVersion"]):
                self._take("ADDED" if known is None else "MODIFIED", resource, raw)
        return listing.resource_version

    def _take(self, type_: str, resource: Resource, raw: Object) -> None:
        meta = raw["metadata"]
        if meta.get("namespace") != self._namespace or (resource == PODS and LABEL_JOB not in meta.get("labels", {})):
            return
        if type_ == "DELETED":
            self.deleted[resource] += 1
            (self._jobs if resource == JOBS else self._pods).pop(meta["name"], None)
        elif resource == JOBS:
            job = self._jobs[meta["name"]] = Job.parse(raw)
            (self.ended.add if job.terminal else self.ended.discard)(job.name)
        else:
            self._pods[meta["name"]] = Pod.parse(raw)
        self.events.append(Event(int(meta["resourceVersion"]), type_, resource, raw))
        self._news.set()
