"""Which finished Jobs run again: those whose rerun was raised, and those Skipped for one of them (design 4)."""

from questline_operator.core.dependencies import gate_of_dependencies, members_of
from questline_operator.core.lineage import Skip, canceled_ancestor, gate_of_parent
from questline_operator.core.records import Job
from questline_operator.core.states import State
from questline_operator.core.world import World


def runs_again(world: World, job: Job) -> bool:
    """Whether a Job that has ended goes back to Waiting.

    A canceled one does not, nor one below a canceled one: it would only be canceled again.
    """
    asked = job.rerun_due
    if not (asked or _upstream_went_on(world, job) or _duplicate_went_on(world, job)):
        return False
    if job.cancel or canceled_ancestor(world, job) is not None:
        return False
    if asked:
        # A cancel is carried through first: what it has not reached yet would go on, once it is taken back.
        return job.state is not State.CANCELED or all(below.terminal for below in world.descendants_of(job))
    return not isinstance(gate_of_parent(world, job) or gate_of_dependencies(world, job), Skip)


def _upstream_went_on(world: World, job: Job) -> bool:
    """Whether the Job that it was Skipped for was made to run again since: the same one, not another of its name."""
    if job.upstream is None:
        return False
    upstream = world.jobs.get((job.namespace, job.upstream.name))
    if upstream is None or upstream.uid != job.upstream.uid:
        return False
    return not upstream.terminal or upstream.finishes > job.upstream.finishes


def _duplicate_went_on(world: World, job: Job) -> bool:
    """Whether a Duplicate, which stood for the Job that it was Skipped for, was made to run again: it stands for itself
    now, whatever became of its original."""
    if job.upstream is None:
        return False
    members = (member for dependency in job.after for member in members_of(world, job, dependency))
    return any(member.armed_duplicate_of == job.upstream.name for member in members)
