"""Runs the main job on a cluster where Questline is installed, shows it, and judges it.

    python -m examples.demo [--namespace NAME] [--image IMAGE] [--storage-class NAME] [--timeout SECONDS]

The cluster: CLUSTER_KUBECONFIG, else KUBECONFIG, else the local one (`make cluster`). Exit status 0 only if
every promise was kept; 1 if one was not; 2 if the demo could not run.
"""

from __future__ import annotations

import argparse
import json
import queue
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo.cluster import JOBS, PODS, Cluster, DemoError, Event, WatchLost, find_kubeconfig
from examples.demo.prepare import IMAGE, MAILBOX, MEDIA, prepare
from examples.demo.record import Record, SlotCounter
from examples.demo.show import Progress, check_lines, is_plain, job_tree, mail_lines, make_console
from examples.demo.verdict import Run, judge

TASKS = "examples.media.tasks"
OWNER = "owner@example.com"
BUSY = "user-17@busy.example"  # its server refuses the first two deliveries of each message
RECIPIENTS = [BUSY if n == 17 else f"user-{n:02}@example.com" for n in range(1, 41)]
MESSAGE = {"subject": "News from Questline", "body": "Jobs are resources, attempts are pods.\n"}
CONCURRENCY = 4  # of queue `emails` in setup.yaml


def main() -> int:
    arguments = parse_arguments()
    console = make_console()
    try:
        cluster = Cluster(find_kubeconfig(), arguments.namespace)
        console.print(f"Cluster {cluster.kubeconfig}, namespace {cluster.namespace}")
        console.print("Preparing: volume, mail server, Queues, Worker")
        prepare(cluster, arguments.image, arguments.storage_class)
        started = time.monotonic()
        run = run_demo(cluster, console, arguments.timeout)
    except DemoError as error:
        console.print(f"The demo could not run: {error}", style="bold red", markup=False)
        return 2
    return report(console, cluster, run, time.monotonic() - started)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description="Questline's main job on a real cluster."
    )
    parser.add_argument("--namespace", default="default", help="where to run (default: default)")
    parser.add_argument("--image", default=IMAGE, help=f"the examples' image (default: {IMAGE})")
    parser.add_argument("--storage-class", help="of the volume (default: the cluster's default)")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for all Jobs to end (default: 180)")
    return parser.parse_args()


def run_demo(cluster: Cluster, console: Console, timeout: float) -> Run:
    """Enqueues the chain and the broadcast, the latter twice, and follows them to their end.

    After `timeout` seconds it takes them as they are. Raises DemoError when a watch lost events: then nothing
    can be said about the run.
    """
    run_id = secrets.token_hex(4)
    file_id, message_id = f"upload-{run_id}", f"message-{run_id}"
    picture = (MEDIA / "picture.jpg").read_bytes()
    cluster.put_file(MAILBOX, f"/data/uploads/{file_id}.jpg", picture)
    cluster.put_file(MAILBOX, f"/data/messages/{message_id}.json", json.dumps(MESSAGE).encode())

    record, slots = Record(), SlotCounter("emails")
    events: queue.SimpleQueue[Event | WatchLost] = queue.SimpleQueue()
    watches = [cluster.watch(path, events.put) for path in (JOBS, PODS)]
    deadline = time.monotonic() + timeout
    console.print(f"Enqueueing process_upload({file_id}) and send_broadcast({message_id}, 40 recipients)\n")
    try:
        with Progress(console, record, lambda: len(slots.held), CONCURRENCY, plain=is_plain()) as progress:

            def enqueue(name: str, function: str, **args: Any) -> str:
                progress.follow(f"{name}-{run_id}")
                return create_job(cluster, f"{name}-{run_id}", function, args)

            upload = enqueue("upload", "process_upload", file_id=file_id, owner=OWNER)
            broadcast = enqueue("broadcast", "send_broadcast", message_id=message_id, recipients=RECIPIENTS)
            again = ""
            while not (again and record.is_complete([upload, broadcast, again])):
                event = next_event(events, deadline)
                if event is None:
                    break
                slots.see(event)
                changed = record.add(event)
                if changed:
                    progress.changed(changed)
                if not again and any(job.state == "Succeeded" for job in record.children(broadcast)):
                    again = enqueue("again", "send_broadcast", message_id=message_id, recipients=RECIPIENTS)
    finally:
        for watch in watches:
            watch.stop()
    return Run(
        record=record,
        upload=upload,
        broadcast=broadcast,
        broadcast_again=again,
        file_id=file_id,
        message_id=message_id,
        owner=OWNER,
        recipients=RECIPIENTS,
        busy=BUSY,
        concurrency=CONCURRENCY,
        picture=picture,
        thumbnail=read_thumbnail(cluster, file_id),
        deliveries=read_deliveries(cluster, {file_id, message_id}),
    )


def create_job(cluster: Cluster, name: str, function: str, args: dict[str, Any]) -> str:
    """What `function.enqueue(**args)` does outside a pod, as the manifest that it is. The Job's name."""
    queue_of = {"process_upload": "media", "send_broadcast": "broadcast"}
    job = {
        "apiVersion": "questline.dev/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"queue": queue_of[function], "task": f"{TASKS}:{function}", "args": args},
    }
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(job).encode())
    return name


def next_event(events: queue.SimpleQueue[Event | WatchLost], deadline: float) -> Event | None:
    """The next event, or None after the deadline (monotonic seconds). Raises DemoError for a lost watch."""
    try:
        event = events.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None
    if isinstance(event, WatchLost):
        raise DemoError(f"events of the cluster were lost, so the run cannot be judged: {event.message}")
    return event


def read_thumbnail(cluster: Cluster, file_id: str) -> bytes:
    """The thumbnail's bytes; none when it was never made."""
    try:
        return cluster.read_file(MAILBOX, f"/data/thumbnails/{file_id}.jpg")
    except DemoError:
        return b""


def read_deliveries(cluster: Cluster, messages: set[str]) -> list[dict[str, Any]]:
    """What the mail server's log says of these messages; nothing when no mail ever came."""
    try:
        log = cluster.read_file(MAILBOX, "/data/mail/log.jsonl").decode()
    except DemoError:
        return []
    deliveries = [json.loads(line) for line in log.splitlines()]
    return [delivery for delivery in deliveries if delivery["message"] in messages]


def report(console: Console, cluster: Cluster, run: Run, seconds: float) -> int:
    """Prints what came of the run; the demo's exit status."""
    console.print("\nThe Jobs, with their states, attempts and durations\n", style="bold")
    for root in (run.upload, run.broadcast, run.broadcast_again):
        if root in run.record.jobs:
            console.print(job_tree(run.record, root))
    console.print("\nThe e-mails, as the mail server took them\n", style="bold")
    for line in mail_lines(run.deliveries):
        console.print(line)
    unfinished = [
        job
        for root in (run.upload, run.broadcast, run.broadcast_again)
        for job in run.record.tree(root)
        if not job.finished
    ]
    if unfinished:
        console.print(f"\n{len(unfinished)} Jobs had not ended when time was up:", style="bold red")
        for job in unfinished[:10]:
            waiting = f"{job.state} {job.reason} {job.status.get('message', '')}"
            console.print(f"  {job.name}: {waiting}", markup=False)
    highest = run.record.highest_slots("emails")
    console.print(f"\nSlots of queue emails held at once: {highest} at most, of {run.concurrency}", style="bold")
    console.print("\nWhat was promised\n", style="bold")
    checks = judge(run)
    for line in check_lines(checks):
        console.print(line)
    kubectl = f"kubectl --kubeconfig {relative(cluster.kubeconfig)} --namespace {cluster.namespace}"
    console.print(f"\nDone in {seconds:.1f} s. Where to look next:", style="bold")
    for what in ("get questline", f"get qj {run.upload} -o yaml", "logs deploy/mailbox"):
        console.print(f"  {kubectl} {what}", markup=False, soft_wrap=True)
    return 0 if all(check.kept for check in checks) and not unfinished else 1


def relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    sys.exit(main())
