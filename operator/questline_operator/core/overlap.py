"""What the Jobs of one Schedule have to do with each other: a run is a Job of it with all that the Job enqueued."""

from questline_operator.core.lineage import Hold, ancestors
from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from questline_operator.core.world import World


def unfinished_runs(world: World, schedule_uid: str, before: float) -> list[Job]:
    """The Jobs of ticks before that moment that are not finished, or whose descendants are not; the oldest first."""
    jobs = [job for job in world.jobs_of_schedule(schedule_uid) if job.tick is not None and job.tick.at < before]
    unfinished = [job for job in jobs if not job.terminal or any(not one.terminal for one in world.descendants_of(job))]
    return sorted(unfinished, key=lambda job: job.order)


def may_have_unseen(world: World, schedule_uid: str) -> bool:
    """Whether a run may have a Job that the watch has not shown yet.

    The answer to our own write, which shows that a Job has ended, is ahead of what that has enqueued.
    """
    watched = world.watched
    if watched is None:
        return False
    return any(
        one.resource_version > watched
        for job in world.jobs_of_schedule(schedule_uid)
        for one in (job, *world.descendants_of(job))
    )


def gate_of_replaced(world: World, job: Job) -> Hold | None:
    """A Job that takes the place of earlier ones starts when those, which are canceled for it, have ended."""
    if job.tick is None or not job.tick.replaces or job.admitted:
        return None
    runs = [run for run in unfinished_runs(world, job.tick.schedule_uid, job.tick.at) if _is_to_end(world, run)]
    if not runs:
        return None
    return Hold(Reason.DEPENDENCY_PENDING, f"waits for the end of Job {runs[0].name}, whose place it takes")


def _is_to_end(world: World, run: Job) -> bool:
    """Whether something of it is unfinished that is canceled: what a person runs again goes on, with all below it."""
    return any(
        not one.terminal and not any(above.rerun for above in (one, *ancestors(world, one)))
        for one in (run, *world.descendants_of(run))
    )
