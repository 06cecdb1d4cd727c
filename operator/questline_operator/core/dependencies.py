"""`after`: the Jobs that a Job waits for, and what their ends mean for it (design 4)."""

from questline_operator.core.lineage import Hold, Skip, ancestors, root_of
from questline_operator.core.records import Job
from questline_operator.core.states import Reason, State
from questline_operator.core.world import World

SUCCEEDED = "Succeeded"
FINISHED = "Finished"


def gate_of_dependencies(world: World, job: Job) -> Skip | Hold | None:
    """What the Jobs named in `after` say: skip it, hold it, or None where all are met."""
    if not job.after:
        return None
    cycle = _cycle_through(world, job)
    if cycle:
        return Skip(Reason.DEPENDENCY_CYCLE, "spec.after leads back to itself: " + " -> ".join(cycle))
    policy = job.spec.get("afterPolicy", SUCCEEDED)
    hold: Hold | None = None
    for name in job.after:
        verdict = _gate_of(world, job, name, policy)
        if isinstance(verdict, Skip):
            return verdict
        # A missing name needs a person, a running one only time: the first is the more useful answer.
        if verdict is not None and (hold is None or verdict.reason is Reason.DEPENDENCY_MISSING):
            hold = verdict
    return hold


def _gate_of(world: World, job: Job, name: str, policy: str) -> Skip | Hold | None:
    target = world.jobs.get((job.namespace, name))
    if target is None:
        return Hold(Reason.DEPENDENCY_MISSING, f"waits for Job {name}, which does not exist")
    if job.parent is not None and not _same_tree(world, job, target):
        return Skip(
            Reason.UPSTREAM_NOT_ALLOWED,
            f"Job {name} is of another tree: a child may wait only for Jobs of its own (root {root_of(world, job)})",
        )
    seen = {target.key}
    while target.state is State.SKIPPED and target.duplicate_of:
        original = world.jobs.get((job.namespace, target.duplicate_of))
        if original is None or original.key in seen:
            break
        target = original
        seen.add(target.key)
    if target.succeeded_attempts or (policy == FINISHED and target.finishes > 0):
        return None
    if target.terminal and policy == SUCCEEDED:
        return Skip(
            Reason.UPSTREAM_FAILED,
            f"Job {target.name}, which it waits for, ended {target.state} ({target.reason})",
            upstream=target,
        )
    return Hold(Reason.DEPENDENCY_PENDING, f"waits for Job {target.name}, which is {target.state}")


def _same_tree(world: World, job: Job, target: Job) -> bool:
    first = ancestors(world, job)
    root = first[-1] if first else job
    of_target = ancestors(world, target)
    return (of_target[-1] if of_target else target).uid == root.uid


def _cycle_through(world: World, job: Job) -> list[str]:
    """The names of a cycle of `after` that this Job is on, itself first and last; [] where there is none."""
    path = [job.name]
    iterators = [iter(job.after)]
    visited: set[str] = set()
    while iterators:
        name = next(iterators[-1], None)
        if name is None:
            iterators.pop()
            path.pop()
        elif name == job.name:
            return [*path, name]
        elif name not in visited:
            visited.add(name)
            target = world.jobs.get((job.namespace, name))
            if target is not None and _still_waits(target):
                path.append(name)
                iterators.append(iter(target.after))
    return []


def _still_waits(job: Job) -> bool:
    """A Job once claimed waits for no other any more; one that ended for a cycle still shows the others on it why."""
    return not (job.terminal or job.admitted) or job.reason == Reason.DEPENDENCY_CYCLE
