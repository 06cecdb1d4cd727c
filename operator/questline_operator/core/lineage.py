"""Parents, roots and depths: who enqueued a Job, and whether that still lets it run (design 4).

Everything is computed from spec.parent and checked against the parent's record, never from labels.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from questline_operator.core.records import Job, Json, Worker
from questline_operator.core.settings import default_worker
from questline_operator.core.states import Reason, State
from questline_operator.core.times import parse_time
from questline_operator.core.world import World

MAX_DEPTH = 1_000
MAX_CHILDREN = 10_000


@dataclass(frozen=True)
class Skip:
    """The Job will never run."""

    reason: Reason
    message: str
    duplicate_of: str | None = None
    upstream: Job | None = None
    """The Job for whose end it is skipped: once that one runs again, so may this."""
    because_of: Worker | None = None
    """The record that says so, of which the watch may be late: to be read again before anything is written."""


@dataclass(frozen=True)
class Hold:
    """The Job does not run now; ``until`` is the moment (seconds since the epoch) at which that may end by itself.

    ``passing`` marks what the operator itself is about to end, so that a reason for people is not written at once;
    ``watched`` is the resourceVersion that the watch of Jobs must have come to.
    """

    reason: Reason
    message: str
    until: float | None = None
    passing: bool = False
    watched: int | None = None


def root_of(world: World, job: Job) -> str:
    """The name of the first Job of its tree."""
    for ancestor in ancestors(world, job):
        if ancestor.status.get("root"):
            return str(ancestor.status["root"])
        job = ancestor
    return job.parent.name if job.parent else job.name


def depth_of(world: World, job: Job) -> int:
    """How many enqueues lie between it and its root: 0 for a root."""
    depth = 0
    while job.parent is not None:
        depth += 1
        parent = world.parent_of(job)
        if parent is None or depth > MAX_DEPTH:
            break
        if "depth" in parent.status:
            return depth + int(parent.status["depth"])
        job = parent
    return depth


def ancestors(world: World, job: Job) -> Iterator[Job]:
    """Its parent, the parent's parent and so on, as far as their records exist."""
    parent = world.parent_of(job)
    for _ in range(MAX_DEPTH + 1):
        if parent is None:
            return
        yield parent
        parent = world.parent_of(parent)


def root_record(world: World, job: Job) -> Job:
    """The highest of its ancestors whose record exists; itself where there is none."""
    for ancestor in ancestors(world, job):
        job = ancestor
    return job


def canceled_ancestor(world: World, job: Job) -> Job | None:
    """The nearest ancestor that was canceled or replaced; a finished one counts, whose state stays what it was.

    Below what a person runs again nothing is replaced.
    """
    rerun = bool(job.rerun)
    for ancestor in ancestors(world, job):
        rerun = rerun or bool(ancestor.rerun)
        if ancestor.cancel or ancestor.state is State.CANCELED or (not rerun and successor_of(world, ancestor)):
            return ancestor
    return None


def successor_of(world: World, job: Job) -> Job | None:
    """The Job of a later tick of its Schedule that takes its place; None for one that a person runs again."""
    return None if job.tick is None or job.rerun else world.replacement_after(job.tick)


def worker_name(world: World, job: Job) -> str:
    """The Worker that runs it: its own, else its parent's, else its queue's default, else ``default``."""
    last = job
    for one in itertools.chain([job], ancestors(world, job)):
        if "worker" in one.spec:
            return str(one.spec["worker"])
        last = one
    return default_worker(world.queues.get(last.queue_key))


def worker_of(world: World, job: Job) -> Worker | None:
    """The record of the Worker that runs it, or None where there is none of that name."""
    return world.workers.get((job.namespace, worker_name(world, job)))


def needs_worker(job: Job) -> bool:
    """Whether it cannot run without its Worker: one that brings its own image, and names none, can."""
    return "worker" in job.spec or "image" not in job.spec


def gate_of_parent(world: World, job: Job) -> Skip | Hold | None:
    """What the Job's parent says: skip it, hold it, or None where it may go on."""
    if job.parent is None:
        return None
    if job.parent.index >= MAX_CHILDREN:
        return Skip(
            Reason.TOO_MANY_CHILDREN,
            f"spec.parent.index is {job.parent.index}: an attempt may have {MAX_CHILDREN} children; "
            "let each child enqueue a part of them",
        )
    parent = world.parent_of(job)
    if parent is None:
        return Skip(Reason.PARENT_GONE, f"its parent {job.parent.name} ({job.parent.uid}) no longer exists")
    depth = depth_of(world, job)
    if depth > MAX_DEPTH:
        return Skip(
            Reason.TOO_DEEP,
            f"it lies {depth} enqueues below its root, {MAX_DEPTH} are allowed: use a Schedule for an endless loop",
        )
    return _gate_of_attempt(parent, job) or _gate_of_rights(world, parent, job)


def _gate_of_attempt(parent: Job, job: Job) -> Skip | Hold | None:
    assert job.parent is not None
    number, staged = job.parent.attempt, job.parent.staged
    entry = parent.recorded_attempt(number)
    if entry is not None and entry.get("podUID") not in (None, job.parent.pod_uid):
        return Skip(
            Reason.PARENT_GONE,
            f"spec.parent.podUID is {job.parent.pod_uid}, but attempt {number} of {parent.name} ran as another pod",
        )
    if parent.attempt_succeeded(number):
        total = children_of_attempt(parent, number).get("total")
        if total is not None and job.parent.index >= total:
            return Skip(
                Reason.LATE_CHILD,
                f"its index {job.parent.index} is not among the {total} children that {parent.name} reported",
            )
        return None
    if parent.attempt_is_open(number):
        return (
            Hold(Reason.STAGED, f"waits for attempt {number} of its parent {parent.name} to succeed")
            if staged
            else None
        )
    if number > parent.attempt:
        return Skip(Reason.PARENT_GONE, f"attempt {number} of its parent {parent.name} never existed")
    return Skip(Reason.PARENT_FAILED, f"attempt {number} of its parent {parent.name} did not succeed")


def children_of_attempt(parent: Job, number: int) -> Json:
    """What that attempt said of its children, ``{total, groups}``; {} where that is not known any more."""
    attempts = parent.status.get("attempts", ())
    last_ended = attempts[-1]["number"] if attempts else max(parent.succeeded_attempts, default=0)
    holder: Json = parent.status if number == last_ended else parent.recorded_attempt(number) or {}
    children: Json = holder.get("children", {})
    return children


def _gate_of_rights(world: World, parent: Job, job: Job) -> Skip | None:
    """A child's Worker and Queue are held to what its parent's Worker allows (design 8b)."""
    worker = worker_of(world, parent)
    if worker is None:
        return None
    of_parent = worker.name
    if worker.allowed_queues is not None and job.queue not in worker.allowed_queues:
        return Skip(
            Reason.QUEUE_NOT_ALLOWED,
            f"queue {job.queue} is not among the allowedQueues of Worker {of_parent}, which runs its parent",
            because_of=worker,
        )
    allowed = worker.allowed_workers if worker.allowed_workers is not None else (of_parent,)
    own = job.spec.get("worker", of_parent)
    if own not in allowed:
        return Skip(
            Reason.WORKER_NOT_ALLOWED,
            f"Worker {own} is not among the allowedWorkers of Worker {of_parent}, which runs its parent",
            because_of=worker,
        )
    return None


def released_at(world: World, job: Job) -> float:
    """When it became eligible: its creation, for a staged child the success of its parent's attempt, for one that was
    made to run again that moment."""
    first = max(job.created_at, job.armed_at or 0.0)
    parent = world.parent_of(job)
    if parent is None or job.parent is None or not job.parent.staged:
        return first
    entry = parent.recorded_attempt(job.parent.attempt)
    released = parse_time(entry["finishedAt"]) if entry and entry.get("finishedAt") else parent.finished_at
    return max(first, released or first)
