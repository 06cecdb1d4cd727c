"""Everything that happened to the Jobs and pods of a namespace, and what can be said of it afterwards.

`History` follows the API server by watches of its own. Its events are judged in the order of their resourceVersions,
which is the order in which they were applied: two watches may show the same moment in either order.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from questline_operator.core.records import LABEL_ATTEMPT, LABEL_JOB, LABEL_QUEUE, Job, Pod
from questline_operator.core.states import TERMINAL
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
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._jobs: dict[str, Job] = {}
        self._pods: dict[str, Pod] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.events: list[Event] = []

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
            except (ApiError, NoAnswerError):
                await asyncio.sleep(0.2)  # the API server restarts, in some tests: go on from where it was

    def _take(self, type_: str, resource: Resource, raw: Object) -> None:
        meta = raw["metadata"]
        if meta.get("namespace") != self._namespace or (resource == PODS and LABEL_JOB not in meta.get("labels", {})):
            return
        if type_ == "DELETED":
            (self._jobs if resource == JOBS else self._pods).pop(meta["name"], None)
        elif resource == JOBS:
            self._jobs[meta["name"]] = Job.parse(raw)
        else:
            self._pods[meta["name"]] = Pod.parse(raw)
        self.events.append(Event(int(meta["resourceVersion"]), type_, resource, raw))
        self._news.set()


def violations(events: Iterable[Event], *, concurrency: dict[str, int] | None = None) -> list[str]:
    """The invariants of docs/guarantees.md that a history alone can show broken, each with where.

    Args:
        events: in the order in which they were applied.
        concurrency: of queues whose limit did not change meanwhile.
    """
    found: list[str] = []
    limits = concurrency or {}
    for moment in _moments(events):
        for owner, pods in moment.live.items():
            if len(pods) > 1:
                found.append(f"at {moment.version}: {owner} has live pods {sorted(pods)}")
        for queue, limit in limits.items():
            if len(moment.holding(queue)) > limit:
                found.append(f"at {moment.version}: queue {queue} holds {len(moment.holding(queue))} of {limit} slots")
        found.extend(moment.broken)
    return found


def most_slots(events: Iterable[Event], queue: str) -> int:
    """The most slots of the queue that were held at one moment."""
    return max((len(moment.holding(queue)) for moment in _moments(events)), default=0)


@dataclass
class _Moment:
    version: int
    live: dict[str, set[str]]
    slots: dict[str, set[tuple[str, str]]]
    reported: set[tuple[str, str]]
    broken: list[str]

    def holding(self, queue: str) -> set[tuple[str, str]]:
        return self.slots.get(queue, set()) - self.reported


def _moments(events: Iterable[Event]) -> Iterator[_Moment]:
    """The state after each event: a slot is held while the attempt's pod exists and has neither ended nor reported."""
    moment = _Moment(0, defaultdict(set), defaultdict(set), set(), [])
    states: dict[str, str] = {}
    for event in events:
        moment.version, moment.broken = event.version, []
        raw = event.object
        if event.resource == JOBS:
            _see_job(moment, states, raw, deleted=event.type == "DELETED")
        else:
            _see_pod(moment, raw, deleted=event.type == "DELETED")
        yield moment


def _see_job(moment: _Moment, states: dict[str, str], raw: Object, *, deleted: bool) -> None:
    name, uid, status = raw["metadata"]["name"], raw["metadata"]["uid"], raw.get("status", {})
    before, state = states.get(uid), status.get("state", "")
    if before in TERMINAL and state != before and not deleted:
        moment.broken.append(f"at {moment.version}: {name} went from {before} to {state}")
    states[uid] = state
    report = status.get("report")
    if report:
        moment.reported.add((f"{name}/{uid}", str(report.get("attempt"))))


def _see_pod(moment: _Moment, raw: Object, *, deleted: bool) -> None:
    pod, labels = Pod.parse(raw), raw["metadata"]["labels"]
    owner = f"{pod.job}/{pod.owner_uid}"
    slot = (owner, labels[LABEL_ATTEMPT])
    if deleted or not pod.live:
        moment.live[owner].discard(pod.name)
        moment.slots[labels[LABEL_QUEUE]].discard(slot)
    else:
        moment.live[owner].add(pod.name)
        moment.slots[labels[LABEL_QUEUE]].add(slot)
