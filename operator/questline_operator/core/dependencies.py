"""`after`: what a Job waits for (Jobs, groups of children, whole trees), and what their ends mean for it (design 4)."""

from collections.abc import Iterator

from questline_operator.core.lineage import Hold, Skip, ancestors, children_of_attempt, root_of, root_record
from questline_operator.core.records import Dependency, Job, Key
from questline_operator.core.states import Reason, State
from questline_operator.core.tallies import Standing, Tally, standing_of
from questline_operator.core.world import World

SUCCEEDED = "Succeeded"
FINISHED = "Finished"
_UNMET = {SUCCEEDED: (Standing.PENDING, Standing.AGAIN), FINISHED: (Standing.PENDING,)}
"""Where a Job stands that one of this policy still waits for."""


def gate_of_dependencies(world: World, job: Job) -> Skip | Hold | None:
    """What the Jobs named in `after` say: skip it, hold it, or None where all are met."""
    if not job.after:
        return None
    cycle = _cycle_through(world, job)
    if cycle:
        return Skip(Reason.DEPENDENCY_CYCLE, "spec.after leads back to itself: " + " -> ".join(cycle))
    hold: Hold | None = None
    for dependency in job.after:
        verdict = _gate_of(world, job, dependency)
        if isinstance(verdict, Skip):
            return verdict
        # A missing name needs a person, a running one only time: the first is the more useful answer.
        if verdict is not None and (hold is None or verdict.reason is Reason.DEPENDENCY_MISSING):
            hold = verdict
    return hold


def whose_turn_may_come(world: World, job: Job) -> Iterator[Job]:
    """The Jobs whose gate a change of this one may open or shut. Those that wait for many are not named for each of
    these, but when nothing holds them any more or one end decides."""
    yield from world.skipped_for(job.key)
    for one in (job, *world.all_duplicates_of(job)):
        yield from world.dependants_of(one.key)
        if one.group is not None:
            tally = world.group(one.group)
            yield from (waiter for waiter in world.group_dependants(one.group) if _is_decided(waiter, tally))
        # One that is gone is of no tree any more; it was of its parent's.
        parent = world.parent_of(one)
        for tree in world.trees_of(one) or (world.trees_of(parent) if parent else []):
            yield from (waiter for waiter in world.tree_dependants(tree.root) if _is_decided(waiter, tree.tally))


def matters_to_others(old: Job, new: Job) -> bool:
    """Whether Jobs that look at this one may decide otherwise after that change of it."""
    return (
        old.uid != new.uid
        or old.state != new.state
        or old.attempt != new.attempt
        or old.cancel != new.cancel
        or old.finishes != new.finishes
        or old.claim_unconfirmed != new.claim_unconfirmed
    )


def needs(world: World, job: Job) -> Iterator[Job]:
    """The Jobs that wait for this one, by its name, its group or a tree, itself or as a duplicate of it."""
    for one in (job, *world.all_duplicates_of(job)):
        yield from world.dependants_of(one.key)
        yield from world.group_dependants(one.group)
        if world.has_tree_dependants:
            for root in ancestors(world, one):
                yield from world.tree_dependants(root.key)


def members_of(world: World, job: Job, dependency: Dependency) -> list[Job]:
    """The Jobs that this entry of its `after` names and that exist: a group in the order of its enqueues, a tree from
    its root in the order of creation, without the Job's own branch."""
    target = world.jobs.get((job.namespace, dependency.name))
    if dependency.kind == "group":
        group = job.group_beside(dependency.name)
        members = [world.jobs[key] for key in world.group(group)] if group else []
        return sorted(members, key=lambda member: member.parent.index if member.parent else 0)
    if target is None:
        return []
    if dependency.kind == "job":
        return [target]
    own = {job.key, *(below.key for below in world.descendants_of(job))}
    below = sorted((world.jobs[key] for key in world.tree(target) if key != target.key), key=lambda one: one.order)
    return [one for one in (target, *below) if one.key not in own]


def deleted_of_group(world: World, job: Job, dependency: Dependency) -> int:
    """How many children of that group their parent has reported and that do not exist any more."""
    group, parent = job.group_beside(dependency.name), world.parent_of(job)
    if dependency.kind != "group" or group is None or parent is None or job.parent is None:
        return 0
    reported = children_of_attempt(parent, job.parent.attempt).get("groups", {}).get(dependency.name, 0)
    return max(0, int(reported) - len(world.group(group)))


def _gate_of(world: World, job: Job, dependency: Dependency) -> Skip | Hold | None:
    if dependency.kind == "group":
        return _gate_of_group(world, job, dependency)
    name = dependency.name
    target = world.jobs.get((job.namespace, name))
    if target is None:
        return Hold(Reason.DEPENDENCY_MISSING, f"waits for Job {name}, which does not exist")
    if job.parent is not None and root_record(world, job).uid != root_record(world, target).uid:
        return Skip(
            Reason.UPSTREAM_NOT_ALLOWED,
            f"Job {name} is of another tree: a child may wait only for Jobs of its own (root {root_of(world, job)})",
        )
    if dependency.kind == "tree":
        return _gate_of_tree(world, job, target)
    return _gate_of_job(world, job, target)


def _gate_of_job(world: World, job: Job, target: Job) -> Skip | Hold | None:
    target = world.original_of(target)
    standing = standing_of(target)
    if job.after_policy == SUCCEEDED and standing is Standing.ENDED:
        return _upstream_failed(target, "")
    if standing in _UNMET[job.after_policy]:
        return Hold(Reason.DEPENDENCY_PENDING, f"waits for Job {target.name}, which is {target.state}")
    return None


def _gate_of_group(world: World, job: Job, dependency: Dependency) -> Skip | Hold | None:
    name, group, parent = dependency.name, job.group_beside(dependency.name), world.parent_of(job)
    if group is None or parent is None or job.parent is None:
        return Hold(Reason.DEPENDENCY_MISSING, f"waits for group {name} of its parent's children, but has no parent")
    if not parent.attempt_succeeded(job.parent.attempt):
        why = f"which attempt {job.parent.attempt} of its parent {parent.name} closes when it succeeds"
        return Hold(Reason.DEPENDENCY_PENDING, f"waits for group {name}, {why}")
    if world.watched is not None and parent.resource_version > world.watched:
        return _unseen(f"group {name}", parent.resource_version)
    tally = world.group(group)
    verdict = _gate_of_tally(world, job, f"group {name}", tally)
    deleted = deleted_of_group(world, job, dependency)
    if deleted and job.after_policy == SUCCEEDED and not isinstance(verdict, Skip):
        total = deleted + len(tally)
        return Skip(
            Reason.UPSTREAM_FAILED,
            f"{deleted} of the {total} Jobs of group {name}, which it waits for, are deleted, which counts as Canceled",
        )
    return verdict


def _gate_of_tree(world: World, job: Job, root: Job) -> Skip | Hold | None:
    tally = world.tree(root)
    verdict = _gate_of_tally(world, job, f"the tree of Job {root.name}", tally)
    if verdict is None and world.watched is not None:
        newest = max((world.jobs[key].resource_version for key in tally if key != job.key), default=0)
        if newest > world.watched:
            return _unseen(f"the tree of Job {root.name}", newest)
    return verdict


def _gate_of_tally(world: World, job: Job, what: str, tally: Tally) -> Skip | Hold | None:
    policy = job.after_policy
    failed = tally.first(Standing.ENDED, without=job.key) if policy == SUCCEEDED else None
    if failed is not None:
        return _upstream_failed(world.original_of(world.jobs[failed]), f" of {what}")
    unmet = tally.count(*_UNMET[policy], without=job.key)
    if not unmet:
        return None
    total = tally.count(*Standing, without=job.key)
    return Hold(Reason.DEPENDENCY_PENDING, f"waits for {what}: {total - unmet} of {total} Jobs have ended")


def _is_decided(waiter: Job, tally: Tally) -> bool:
    """Whether its gate may say something else than to wait. One that was skipped may be armed by any of them."""
    if waiter.terminal:
        return True
    policy = waiter.after_policy
    if policy == SUCCEEDED and tally.count(Standing.ENDED, without=waiter.key):
        return True
    return not tally.count(*_UNMET[policy], without=waiter.key)


def _upstream_failed(target: Job, where: str) -> Skip:
    return Skip(
        Reason.UPSTREAM_FAILED,
        f"Job {target.name}{where}, which it waits for, ended {target.state} ({target.reason})",
        upstream=target,
    )


def _unseen(what: str, version: int) -> Hold:
    """What an answer shows to have ended may have children that the watch has not shown yet."""
    return Hold(
        Reason.DEPENDENCY_PENDING, f"waits for {what}, of which all is about to be known", passing=True, watched=version
    )


def _cycle_through(world: World, job: Job) -> list[str]:
    """The names of a cycle of `after` that this Job is on, itself first and last; [] where there is none.

    What was found to lead to none is not followed again: of thousands of Jobs that wait for each other each asks. One
    that has ended asks as if it waited, which the others know nothing of.
    """
    acyclic = world.acyclic if _still_waits(world, job) else set[Key]()
    if job.key in acyclic:
        return []
    path = {job.name: None}
    iterators = [_waited_for(world, job)]
    visited: set[str] = set()
    meets_another = False
    while iterators:
        name = next(iterators[-1], None)
        if name is None:
            iterators.pop()
            path.popitem()
        elif name == job.name:
            return [*path, name]
        elif name in path:
            meets_another = True
        elif name not in visited and (job.namespace, name) not in acyclic:
            visited.add(name)
            target = world.jobs.get((job.namespace, name))
            if target is not None and _still_waits(world, target):
                path[name] = None
                iterators.append(_waited_for(world, target))
    if not meets_another:
        acyclic.update((job.namespace, name) for name in (job.name, *visited))
    return []


def _waited_for(world: World, job: Job) -> Iterator[str]:
    """The names of the Jobs that it waits for; a Duplicate waits for its original."""
    if job.state is State.SKIPPED and job.duplicate_of:
        yield job.duplicate_of
        return
    for dependency in job.after:
        group = job.group_beside(dependency.name) if dependency.kind == "group" else None
        if dependency.kind != "group":
            yield dependency.name
        elif group is not None:
            yield from (name for _, name in list(world.group(group)))
        root = world.jobs.get((job.namespace, dependency.name)) if dependency.kind == "tree" else None
        if root is not None:
            yield from (name for _, name in list(world.tree(root)) if name != job.name)


def _still_waits(world: World, job: Job) -> bool:
    """A Job once claimed waits for no other any more, and one that is not released may never; one that ended for a
    cycle still shows the others on it why."""
    if job.reason in (Reason.DEPENDENCY_CYCLE, Reason.DUPLICATE):
        return True
    if not job.after or job.terminal or job.admitted:
        return False
    parent = world.parent_of(job)
    return parent is None or job.parent is None or not job.parent.staged or parent.attempt_succeeded(job.parent.attempt)
