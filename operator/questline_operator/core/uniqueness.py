"""Unique Jobs: which of those with the same key runs, and which end Skipped as its duplicates (design 5)."""

from questline_operator.core.dependencies import gate_of_dependencies
from questline_operator.core.lineage import (
    Hold,
    Skip,
    ancestors,
    canceled_ancestor,
    gate_of_parent,
    released_at,
)
from questline_operator.core.overlap import gate_of_replaced
from questline_operator.core.records import Job
from questline_operator.core.states import Reason, State
from questline_operator.core.world import UniqueKey, World

WINDOW = "Window"
LATE_SECONDS = 60.0
"""A Job created within a window may be seen so long after its end: watches are late, and clocks differ."""


def gate_of_uniqueness(world: World, job: Job, now: float) -> Skip | Hold | None:
    """What its rivals say of a Job that could run now: a duplicate of an admitted one, behind another, or None.

    The winner is the one claimed already, else the first by (creationTimestamp, parent.index, name) of those that
    could run now. A duplicate is Skipped only once its winner's claim is written. A Job that has run and is to run
    again is nobody's duplicate any more: it waits until no other of its key runs.
    """
    key = world.unique_key(job)
    if key is None or job.claimed_in_this_run:
        return None
    winner = _winner_over(world, job, key)
    if winner is not None and job.admitted:
        return Hold(Reason.AT_CONCURRENCY_LIMIT, f"waits for Job {winner.name}, of the same unique key, to end")
    if winner is not None and winner.claim_unconfirmed:
        return Hold(
            Reason.AT_CONCURRENCY_LIMIT,
            f"waits for the claim of Job {winner.name}, of the same unique key",
        )
    if winner is not None:
        return Skip(Reason.DUPLICATE, f"Job {winner.name} has the same unique key", duplicate_of=winner.name)
    for rival in world.unclaimed_rivals(key):
        if rival.uid == job.uid:
            return None
        # One that is itself a duplicate only waits to be skipped.
        if could_run(world, rival, now) and _winner_over(world, rival, key) is None:
            return Hold(
                Reason.AT_CONCURRENCY_LIMIT,
                f"waits for Job {rival.name}, which is first of the same unique key",
            )
    return None


def _winner_over(world: World, job: Job, key: UniqueKey) -> Job | None:
    """The Job, claimed already, whose duplicate it is."""
    own_ancestors: set[str] | None = None
    if job.admitted and job.unique is not None and job.unique.scope == WINDOW:
        return None  # it was the one of its window already
    for winner in world.admitted_rivals(key):
        if winner.uid == job.uid or _takes_place_of(world, job, winner):
            continue
        if _is_duplicate_of(world, job, winner):
            if own_ancestors is None:
                own_ancestors = {ancestor.uid for ancestor in ancestors(world, job)}
            if winner.uid not in own_ancestors:
                return winner
    return None


def _takes_place_of(world: World, job: Job, winner: Job) -> bool:
    """Whether that one was canceled, with all below its Schedule's Job, for this one to run (`gate_of_replaced`)."""
    if job.tick is None or not job.tick.replaces or job.admitted or job.unique is None or job.unique.scope == WINDOW:
        return False
    run = [winner, *ancestors(world, winner)]
    earlier = run[-1].tick
    return (
        earlier is not None
        and earlier.schedule_uid == job.tick.schedule_uid
        and earlier.at < job.tick.at
        and not any(one.rerun for one in run)
    )


def could_run(world: World, job: Job, now: float) -> bool:
    """Whether it competes: released, its dependencies met, due, not suspended, its queue found.

    So a doomed staged child or a parked Job blocks nobody.
    """
    return not (
        job.terminal
        or job.deleting
        or job.cancel
        or job.suspend
        or (job.run_at is not None and job.run_at > now)
        or job.queue_key not in world.queues
        or canceled_ancestor(world, job) is not None
        or (
            not job.admitted
            and (gate_of_parent(world, job) is not None or gate_of_dependencies(world, job) is not None)
        )
        or gate_of_replaced(world, job) is not None
    )


def still_compared(world: World, winner: Job, now: float) -> bool:
    """Whether a finished Job's record may still make another one a duplicate, so that it must be kept."""
    key = world.unique_key(winner)
    if key is None or not winner.admitted or winner.unique is None:
        return False
    window = winner.unique.window_seconds
    if winner.unique.scope == WINDOW and window is not None and now < winner.created_at + window + LATE_SECONDS:
        return True
    return any(_may_be_duplicate_of(rival, winner, now) for rival in world.unclaimed_rivals(key))


def _may_be_duplicate_of(rival: Job, winner: Job, now: float) -> bool:
    """Whether a Job that is not judged yet, staged or suspended say, may be a duplicate once it could run."""
    assert rival.unique is not None
    if rival.unique.scope == WINDOW:
        return rival.created_at < winner.created_at + _window_of(rival, winner)
    return rival.created_at <= (winner.finished_at or now)


def _window_of(job: Job, winner: Job) -> float:
    """How long after the winner's creation such a Job is its duplicate: the winner's window, where it has one."""
    assert job.unique is not None
    window = winner.unique.window_seconds if winner.unique and winner.unique.scope == WINDOW else None
    return window if window is not None else job.unique.window_seconds or 0.0


def _is_duplicate_of(world: World, job: Job, winner: Job) -> bool:
    assert job.unique is not None
    if job.admitted:
        return winner.claimed_in_this_run and not winner.terminal and not _is_given_up(winner)
    if job.unique.scope == WINDOW:
        # "At most one admitted Job in windowSeconds from the winner's creationTimestamp", which has whole seconds.
        return released_at(world, job) < winner.created_at + _window_of(job, winner)
    if _is_given_up(winner):
        return False
    finished_at = winner.last_run_finished_at
    return finished_at is None or _became_eligible_before(world, job, winner, finished_at)


def _is_given_up(winner: Job) -> bool:
    """Whether it was deleted between two attempts, canceled since or not: a finalizer may keep it for long, and it runs
    no more."""
    return winner.deleting and not winner.active and (not winner.terminal or winner.state is State.CANCELED)


def frees_rivals(old: Job, new: Job | None) -> bool:
    """Whether its rivals may decide otherwise after that change; ``new`` is None where it is gone. Not when a duplicate
    was skipped, of which there may be thousands."""
    if new is None or old.claim_unconfirmed != new.claim_unconfirmed:
        return True
    if old.suspend != new.suspend or old.deleting != new.deleting:
        return True
    return old.state != new.state and new.reason != Reason.DUPLICATE


def _became_eligible_before(world: World, job: Job, winner: Job, finished_at: float) -> bool:
    """Whether it became eligible not later than the winner's end.

    A creationTimestamp has whole seconds. Within the second of the winner's end the order of the two writes decides
    (resourceVersions of one resource are ordered): a Job enqueued after the end was seen runs again.
    """
    released = released_at(world, job)
    if released != job.created_at:
        return released <= finished_at
    if job.created_at == finished_at // 1:
        return job.resource_version < winner.resource_version
    return released <= finished_at
