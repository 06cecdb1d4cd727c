"""What changes what is there: `cancel`, `rerun`, `pause`, `resume`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from questline.cli.app import QueuesArgument, cluster_command, complete_jobs
from questline.cli.cluster import JOBS, QUEUES, Cluster
from questline.cli.errors import EXIT_REFUSED
from questline.cli.output import note, say
from questline.cli.selection import AllOption, DryRunOption, QueueOption, SelectorOption, StateOption, selected
from questline.cli.view import JobView

SomeJobsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="JOB", help="Names of Jobs.", autocompletion=complete_jobs)
]


@cluster_command()
def cancel(
    cluster: Cluster,
    jobs: SomeJobsArgument = None,
    queue: QueueOption = None,
    state: StateOption = None,
    selector: SelectorOption = "",
    all_jobs: AllOption = False,
    dry_run: DryRunOption = False,
) -> int:
    """Cancel Jobs and all that they have enqueued.

    A Job that has ended keeps its state, and its descendants are canceled. Of those that are chosen by queue, labels or
    --all, only those that have not ended are.
    """
    found = selected(cluster, jobs, queue, state, selector, all_jobs=all_jobs)
    if not jobs and state is None:
        found = [job for job in found if not job.finished]
    chosen = [job for job in found if not job.spec.get("cancel")]
    return _on_each(cluster, chosen, "cancel", "canceled", lambda _job: {"cancel": True}, dry_run=dry_run)


@cluster_command()
def rerun(
    cluster: Cluster,
    jobs: SomeJobsArgument = None,
    queue: QueueOption = None,
    state: StateOption = None,
    selector: SelectorOption = "",
    all_jobs: AllOption = False,
    dry_run: DryRunOption = False,
) -> int:
    """Run Jobs that have ended again, with no failure counted.

    What was skipped because of them goes on, too; what they have enqueued before stays as it is. One that has not ended
    runs again when it has. Of those that are chosen by queue, labels or --all, only those that failed are, unless
    --state says otherwise.
    """
    found = selected(cluster, jobs, queue, state, selector, all_jobs=all_jobs)
    if not jobs:
        found = [job for job in found if (job.finished if state else job.state == "Failed")]
    return _on_each(cluster, found, "rerun", "run again", _raised, dry_run=dry_run)


def _raised(job: JobView) -> dict[str, Any]:
    """A canceled Job runs again only where the same update takes that back."""
    change: dict[str, Any] = {"rerun": int(job.spec.get("rerun", 0)) + 1}
    return change | {"cancel": False} if job.spec.get("cancel") else change


def _on_each(
    cluster: Cluster,
    jobs: list[JobView],
    verb: str,
    done: str,
    change: Callable[[JobView], dict[str, Any]],
    *,
    dry_run: bool,
) -> int:
    """Makes the change to each Job, and says so; the exit status."""
    if not jobs:
        note(f"There is nothing to {verb}.")
        return 0
    if dry_run:
        for job in jobs:
            say(f"{job.name} ({job.state}, queue {job.queue}) would be {done}")
        return 0
    return patch_each(cluster, JOBS, {job.name: change(job) for job in jobs}, done)


@cluster_command()
def pause(cluster: Cluster, queues: QueuesArgument) -> int:
    """Let Queues start nothing more; what runs goes on."""
    return _pause(cluster, queues, paused=True)


@cluster_command()
def resume(cluster: Cluster, queues: QueuesArgument) -> int:
    """Let paused Queues go on."""
    return _pause(cluster, queues, paused=False)


def _pause(cluster: Cluster, queues: list[str], *, paused: bool) -> int:
    def sentence(queue: dict[str, Any]) -> str:
        status = queue.get("status") or {}
        return f"{done} ({status.get('running', 0)} running, {status.get('waiting', 0)} waiting)"

    done = "paused" if paused else "resumed"
    return patch_each(cluster, QUEUES, {name: {"paused": paused} for name in queues}, done, sentence)


def patch_each(
    cluster: Cluster,
    plural: str,
    changes: Mapping[str, dict[str, Any]],
    done: str,
    sentence: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Makes its change of spec to each of these names, and says so; a wrong name stops none of the others.

    Args:
        done: what each is then.
        sentence: says more of each as it is then.

    Returns:
        the exit status.
    """
    changed: dict[str, dict[str, Any]] = {}

    def carry_out(name: str) -> None:
        changed[name] = cluster.patch(plural, name, changes[name])

    failures = cluster.together(carry_out, list(changes))
    for name, failure in zip(changes, failures, strict=True):
        if failure is None:
            say(f"{name} {sentence(changed[name]) if sentence else done}")
        else:
            note(f"questline: {name} not {done}: {failure}")
    return EXIT_REFUSED if any(failures) else 0
