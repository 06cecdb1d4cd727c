"""What may be deleted: finished Jobs and ended pods past their time or beyond their number (design 2 and 4)."""

import math
from collections.abc import Iterator

from questline_operator.core import settings
from questline_operator.core.dependencies import needs
from questline_operator.core.pod import Pod
from questline_operator.core.records import KEEP_FINISHED, KEEP_FINISHED_PODS, Job, Key
from questline_operator.core.rerun import runs_again
from questline_operator.core.schedule import Schedule
from questline_operator.core.states import OutcomeKind
from questline_operator.core.ticks import still_may_make
from questline_operator.core.uniqueness import still_compared
from questline_operator.core.world import World, newest_first


def expired_jobs(world: World, queue: Key, now: float) -> Iterator[Job]:
    """The queue's finished Jobs that may go now: past their TTL, or the oldest beyond keepFinished."""
    record = world.queues.get(queue)
    limit = record.keep_finished if record else KEEP_FINISHED
    below: dict[str, float] = {}
    for place, job in enumerate(newest_first(world.finished_of_queue(queue))):
        ttl = settings.ttl_seconds(job, record)
        # Most Jobs are young: the walk through descendants is for those whose time may be over.
        over_number = place >= limit
        if not over_number and now < (job.finished_at or now) + ttl:
            continue
        if job.deleting or (job.rerun_due and runs_again(world, job)) or still_needed(world, job, now, below):
            continue
        if over_number or now >= _last_finish(world, job, below) + ttl:
            yield job


def still_needed(world: World, job: Job, now: float, below: dict[str, float] | None = None) -> bool:
    """Whether an unfinished descendant, an `after`, a unique rival or a pod of its own still needs the record.

    Args:
        below: what is known of descendants, by UID; see `_last_end_below`.
    """
    return (
        any(not waiter.terminal for waiter in needs(world, job))
        or _has_live_pod(world, job)
        or _group_is_open(world, job)
        or math.isinf(_last_end_below(world, job, {} if below is None else below))
        or still_compared(world, job, now)
        or ((schedule := world.schedule_of(job)) is not None and _may_be_made_again(schedule, job))
    )


def _has_live_pod(world: World, job: Job) -> bool:
    """Whether a container of it has reported and not ended: its pod would go along, and no record say that the slot of
    that is free."""
    return any(pod.live and pod.may_be_of(job.uid) for pod in world.pods_of_job(job.key))


def _group_is_open(world: World, job: Job) -> bool:
    """Whether the attempt that enqueued it runs, and may yet enqueue what waits for its group."""
    parent = world.parent_of(job) if job.group is not None else None
    return parent is not None and job.parent is not None and parent.attempt_is_open(job.parent.attempt)


def _may_be_made_again(schedule: Schedule, job: Job) -> bool:
    return job.tick is not None and still_may_make(schedule, job.tick.at)


def _last_finish(world: World, job: Job, below: dict[str, float]) -> float:
    """When the last of those that needed it finished, itself included: TTLs run from there."""
    users = [job, *needs(world, job)]
    return max(_last_end_below(world, job, below), *(user.finished_at or user.created_at for user in users))


def _last_end_below(world: World, job: Job, below: dict[str, float]) -> float:
    """When the last of its descendants finished, 0 where there is none; infinity where one is not finished.

    Args:
        below: the answers for Jobs that were asked about, and for all below them: in a deep chain whose last link runs,
            each link has to be asked about.
    """
    unknown, stack = [], [job]
    while stack:
        one = stack.pop()
        if one.uid not in below:
            below[one.uid] = 0.0
            unknown.append(one)
            stack += world.children_of(one)
    for one in reversed(unknown):
        ends = (max(_end(child), below[child.uid]) for child in world.children_of(one))
        below[one.uid] = max(ends, default=0.0)
    return below[job.uid]


def _end(job: Job) -> float:
    # One whose rerun is due waits, below a canceled Job, until that is taken back: not until its record is gone.
    return math.inf if not job.terminal or job.rerun_due else job.finished_at or job.created_at


def expired_pods(world: World, queue: Key, pods: list[Pod], now: float) -> Iterator[Pod]:
    """Of the queue's pods, the ended ones that may go now: past their TTL, or the oldest beyond keepFinishedPods."""
    record = world.queues.get(queue)
    limit = record.keep_finished_pods if record else KEEP_FINISHED_PODS
    ended = [pod for pod in pods if pod.over and not pod.gone and not pod.deleting]
    ended.sort(key=_ended_at, reverse=True)
    for place, pod in enumerate(ended):
        job = world.jobs.get((pod.namespace, pod.job))
        if job is None or job.attempt_is_open(pod.attempt):
            continue  # an orphan is the shell's to delete; an open attempt's end is not written yet
        ttl = settings.pod_ttl_seconds(record, last_failed=_is_last_failed(job, pod))
        if place >= limit or now >= _ended_at(pod) + ttl:
            yield pod


def _is_last_failed(job: Job, pod: Pod) -> bool:
    failed = (OutcomeKind.FAILED, OutcomeKind.FATAL, OutcomeKind.RETRY)
    numbers = [entry["number"] for entry in job.status.get("attempts", ()) if entry.get("outcome") in failed]
    return bool(numbers) and pod.attempt == max(numbers)


def _ended_at(pod: Pod) -> float:
    return pod.finished_at or pod.started_at or pod.created_at
