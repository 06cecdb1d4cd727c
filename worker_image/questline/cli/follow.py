"""What goes on while it is looked at: `tree`, `logs`, `wait`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from questline.cli.app import JobArgument, JobsArgument, OutputOption, cluster_command
from questline.cli.cluster import JOBS, PODS, Cluster, PodGone, merged
from questline.cli.errors import CommandError
from questline.cli.output import console, is_interactive, note, print_objects, say
from questline.cli.tree import LiveTree, change_lines, job_tree, progress_line
from questline.cli.view import JobSet, JobView
from questline.durations import seconds_of

EXIT_OF_STATE = {"Succeeded": 0, "Failed": 1, "Canceled": 3, "Skipped": 4}
EXIT_TIMEOUT = 124
EXIT_STATUSES = "Exit status: 0 succeeded, 1 failed, 3 canceled, 4 skipped, 124 timeout; 2 if it cannot be told."


@cluster_command()
def tree(
    cluster: Cluster,
    job: JobArgument,
    follow: Annotated[
        bool | None,
        typer.Option(
            "--follow/--once", help="Until all have ended, or as it is now. [default: --follow on a terminal]"
        ),
    ] = None,
    output: OutputOption = None,
) -> None:
    """Show a Job and all that it has enqueued, live."""
    raw = cluster.get(JOBS, job)
    if output is not None:
        print_objects([one.raw for one in JobSet([raw, *cluster.listed(JOBS)]).tree(job)], output)
        return
    follow = is_interactive() if follow is None else follow
    if not follow:
        jobs = JobSet([raw, *cluster.listed(JOBS)])
    elif is_interactive():
        jobs = JobSet()
        with LiveTree(console(), job) as live:
            for jobs in _trees(cluster, job):
                live.show(jobs)
    else:
        seen: dict[str, tuple[str, int]] = {}
        for jobs in _trees(cluster, job):
            for line in change_lines(seen, jobs.tree(job)):
                say(line)
    out = console()
    out.print(job_tree(jobs, job, now=datetime.fromtimestamp(time.time(), UTC)), soft_wrap=not is_interactive())
    out.print(progress_line(jobs.tree(job)))


def _trees(cluster: Cluster, root: str) -> Iterator[JobSet]:
    """The namespace's Jobs after each change of one of the tree, until all of it have ended."""
    jobs, members, still_open = JobSet(), set[str](), set[str]()
    for known, changed in cluster.follow(JOBS):
        if changed is None:
            jobs = JobSet(known.values())
            members = {job.name for job in jobs.tree(root)}
            still_open = {name for name in members if not jobs.jobs[name].finished}
        elif changed not in known:
            jobs.remove(changed)
            still_open.discard(changed)
        else:
            job = jobs.put(known[changed])
            if job.parent not in members and changed not in members:
                continue
            members.add(changed)
            (still_open.discard if job.finished else still_open.add)(changed)
        if root not in jobs.jobs:
            raise CommandError(f"Job {cluster.namespace}/{root} was deleted")
        yield jobs
        # Children are enqueued before their parent's success is written, so all of them have been seen by now; that
        # fewer are there than it has announced is no sign of more: some are deleted, or were the same unique one.
        if not still_open:
            return


@cluster_command(epilog=EXIT_STATUSES)
def wait(
    cluster: Cluster,
    jobs: JobsArgument,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help='At most so long: seconds, or a text like "1h30m".')
    ] = None,
    output: OutputOption = None,
) -> int:
    """Wait until Jobs have ended. Of several, the first that did not succeed gives the exit status."""
    seconds = math.inf if timeout is None else seconds_of(timeout, "--timeout")
    deadline = time.monotonic() + seconds
    ended: list[JobView] = []
    late: list[str] = []
    for name in dict.fromkeys(jobs):
        job = _ended(cluster, name, deadline)
        if job is None:
            state = JobView(cluster.get(JOBS, name)).state
            late.append(name)
            note(f"questline: {name} has not ended in {seconds:g} s: it is {state}")
        else:
            ended.append(job)
            if output is None:
                why = f" ({job.reason})" if job.reason else ""
                say(f"{name} {job.state}{why}" + (f": {job.message}" if job.message else ""))
    if output is not None:
        print_objects([job.raw for job in ended], output, single=len(jobs) == 1 and bool(ended))
    if late:
        return EXIT_TIMEOUT
    return next((EXIT_OF_STATE[job.state] for job in ended if job.state != "Succeeded"), 0)


def _ended(cluster: Cluster, name: str, deadline: float) -> JobView | None:
    """The Job once it has ended; None where it has not by then."""
    cluster.get(JOBS, name)
    for known, _ in cluster.follow(JOBS, fields={"metadata.name": name}, deadline=deadline):
        if name not in known:
            raise CommandError(f"Job {cluster.namespace}/{name} was deleted before it had ended")
        job = JobView(known[name])
        if job.finished:
            return job
    return None


@cluster_command()
def logs(
    cluster: Cluster,
    job: JobArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until the Job has ended, from one attempt to the next.")
    ] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, metavar="N", help="Of this attempt only.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="With the time of each line.")] = False,
) -> int:
    """Print what a Job's attempts have written, as far as their pods are still there."""
    reader = _LogReader(cluster, job, timestamps=timestamps)
    view = JobView(cluster.get(JOBS, job))
    if attempt is not None and attempt > view.attempt and not follow:
        raise CommandError(f"Job {job} has no attempt {attempt}: it has {view.attempt or 'none'} so far")
    if not follow:
        for number in [attempt] if attempt else range(1, view.attempt + 1):
            reader.read(view, number, follow=False)
    else:
        reader.follow(attempt)
    if not reader.found:
        if view.attempt == 0:
            note(f"questline: Job {job} has had no attempt so far; `questline why {job}` says why")
        else:
            note("questline: no pod of it is left")
    return 0


class _LogReader:
    """Prints the logs of one Job's attempts, the first first."""

    def __init__(self, cluster: Cluster, job: str, *, timestamps: bool) -> None:
        self._cluster, self._job, self._timestamps = cluster, job, timestamps
        self.found = False

    def read(self, job: JobView, number: int, *, follow: bool) -> None:
        """One attempt's log; nothing but a note where its pod is gone."""
        pod = job.pod_name(number)
        heads = job.attempt > 1
        try:
            for moment, text in self._cluster.log(pod, follow=follow):
                if heads:
                    note(f"--- attempt {number}, pod {pod}")
                    heads = False
                self.found = True
                print(f"{moment} {text}" if self._timestamps else text, flush=True)
        except PodGone:
            note(f"--- attempt {number}: its pod is gone, and its log with it")
        else:
            self.found = True

    def follow(self, only: int | None) -> None:
        """The attempts from the first on (or only that one), each until its end, until the Job has ended."""
        fields, selector = {"metadata.name": self._job}, f"questline.dev/job={self._job}"
        changes = {
            JOBS: self._cluster.follow(JOBS, fields=fields),
            PODS: self._cluster.follow(PODS, selector=selector),
        }
        number = only or 1
        job: JobView | None = None
        pods: dict[str, dict[str, Any]] | None = None
        for source, (known, _) in merged(changes):
            if source == JOBS:
                if self._job not in known:
                    raise CommandError(f"Job {self._cluster.namespace}/{self._job} was deleted")
                job = JobView(known[self._job])
            else:
                pods = dict(known)
            if job is None or pods is None:
                continue
            while number <= job.attempt and (only is None or number == only):
                pod = pods.get(job.pod_name(number))
                over = job.finished or job.attempt > number
                if pod is not None and _has_run(pod):
                    self.read(job, number, follow=True)
                elif not over or (pod is not None and not _has_ended(pod)):
                    break  # it is to start; or it has reported its outcome before the kubelet told that it runs
                elif pod is None:
                    note(f"--- attempt {number}: its pod is gone, and its log with it")
                number += 1
            if (job.finished and number > job.attempt) or (only is not None and number > only):
                return


def _has_ended(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _has_run(pod: dict[str, Any]) -> bool:
    """Whether its container `worker` runs or did: then it has a log."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    states = [one.get("state") or {} for one in containers if one["name"] == "worker"]
    return any("running" in state or "terminated" in state for state in states)
