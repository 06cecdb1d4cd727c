"""What there is, and why it is so: `get`, `queues`, `why`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from questline.cli.app import JobArgument, OutputOption, cluster_command, complete_jobs, complete_queues
from questline.cli.cluster import JOBS, PODS, QUEUES, WORKERS, Cluster
from questline.cli.errors import CommandError
from questline.cli.output import (
    duration,
    job_table,
    note,
    note_none_found,
    print_objects,
    print_value,
    queue_table,
    say,
)
from questline.cli.selection import QueueOption, SelectorOption, StateOption, fields_of
from questline.cli.view import JobView

EverywhereOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]


@cluster_command()
def get(
    cluster: Cluster,
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB", help="Only these.", autocompletion=complete_jobs)
    ] = None,
    queue: QueueOption = None,
    state: StateOption = None,
    selector: SelectorOption = "",
    everywhere: EverywhereOption = False,
    output: OutputOption = None,
) -> None:
    """List Jobs, the newest last."""
    if jobs:
        if queue or state or selector or everywhere:
            raise CommandError(
                "names of Jobs go without --queue, --state, --selector and --all-namespaces: leave those out"
            )
        found = [cluster.get(JOBS, name) for name in jobs]
    else:
        found = cluster.listed(JOBS, selector=selector, fields=fields_of(queue, state), everywhere=everywhere)
        found.sort(key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))
    if output is not None:
        print_objects(found, output, single=bool(jobs) and len(found) == 1)
    elif found:
        job_table([JobView(job) for job in found], everywhere=everywhere)
    else:
        note_none_found("Jobs", None if everywhere else cluster.namespace)


@cluster_command()
def queues(
    cluster: Cluster,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="QUEUE", help="Only these.", autocompletion=complete_queues)
    ] = None,
    everywhere: EverywhereOption = False,
    output: OutputOption = None,
) -> None:
    """List Queues, with what runs and waits in them."""
    if names and everywhere:
        raise CommandError("names of Queues go without --all-namespaces: leave it out")
    found = [cluster.get(QUEUES, name) for name in names] if names else cluster.listed(QUEUES, everywhere=everywhere)
    if output is not None:
        print_objects(found, output, single=bool(names) and len(found) == 1)
    elif found:
        queue_table(found, everywhere=everywhere)
    else:
        note_none_found("Queues", None if everywhere else cluster.namespace)


@cluster_command()
def why(cluster: Cluster, job: JobArgument, output: OutputOption = None) -> None:
    """Say in one sentence why a Job is where it is, computed from what is there now."""
    from questline_operator.core.pod import Pod
    from questline_operator.core.records import Job, Queue, Worker
    from questline_operator.core.why import why as why_core
    from questline_operator.core.world import World

    cluster.get(JOBS, job)  # a name that does not exist is said before anything is listed
    world = World()
    for raw in cluster.listed(QUEUES):
        queue = Queue.parse(raw)
        world.queues[queue.key] = queue
    for raw in cluster.listed(WORKERS):
        worker = Worker.parse(raw)
        world.workers[worker.key] = worker
    try:
        for raw in cluster.listed(PODS, selector="questline.dev/job"):
            world.put_pod(Pod.parse(raw))
    except CommandError as error:
        note(f"questline: pods are not looked at: {error}")
    for raw in cluster.listed(JOBS):
        world.put_job(Job.parse(raw))
    record = world.jobs.get((cluster.namespace, job))
    if record is None:
        raise CommandError(f"Job {cluster.namespace}/{job} has just been deleted")
    now = time.time()
    found = why_core(world, record, now)
    if output is not None:
        value: dict[str, Any] = {"job": job, "namespace": cluster.namespace, "state": str(found.state)}
        value |= {"reason": str(found.reason), "sentence": found.sentence}
        if found.until is not None:
            value["seconds"] = round(found.until - now, 3)
        print_value(value, output)
        return
    in_time = f" (in {duration(found.until - now)})" if found.until is not None and found.until > now else ""
    say(f"{job} {found.sentence}{in_time}")
