"""What a Job should do next: a function of its record, its pod, its queue and the time.

`next_step` is the whole lifecycle. It never acts; the shell carries out the step that it returns and asks again when
anything changed. docs/state_machine.md draws the same machine.
"""

from dataclasses import dataclass, replace

from questline_operator.core import transitions
from questline_operator.core.dependencies import gate_of_dependencies
from questline_operator.core.lineage import (
    Hold,
    Skip,
    canceled_ancestor,
    gate_of_parent,
    needs_worker,
    successor_of,
    worker_name,
    worker_of,
)
from questline_operator.core.outcomes import Outcome, outcome_of, start_timeout
from questline_operator.core.overlap import gate_of_replaced
from questline_operator.core.pod import Pod
from questline_operator.core.podspec import fault_of_args
from questline_operator.core.records import DEFAULT_QUEUE, START_TIMEOUT_SECONDS, Job, Worker
from questline_operator.core.rerun import runs_again
from questline_operator.core.states import OutcomeKind, Reason, State
from questline_operator.core.status import Change
from questline_operator.core.times import parse_time
from questline_operator.core.uniqueness import gate_of_uniqueness
from questline_operator.core.world import World

RUNNING_AFTER_SECONDS = 5.0
"""A container that has run for this long is worth the write that says Running."""
LINGER_SECONDS = 30.0
"""A pod that still lives this long after its outcome is deleted."""


@dataclass(frozen=True)
class Nothing:
    """Nothing now; look again at ``until`` (seconds since the epoch) or when something changes."""

    until: float | None = None


@dataclass(frozen=True)
class Ready:
    """It could run now: a slot of its queue is all that it needs."""


@dataclass(frozen=True)
class WriteStatus:
    """Write this change of its status.

    ``because_of`` is a record of another kind without which it would not be written. Its watch may be late, and what
    is written cannot be taken back: so it is read first, and where it has changed nothing is written.
    """

    change: Change
    because_of: Pod | Worker | None = None


@dataclass(frozen=True)
class CreatePod:
    """Create the pod of the current attempt."""


@dataclass(frozen=True)
class DeletePod:
    """Delete this pod, with its own grace period."""

    pod: Pod


@dataclass(frozen=True)
class MakeDefaultQueue:
    """The queue ``default`` is needed for the first time."""


Step = Nothing | Ready | Hold | WriteStatus | CreatePod | DeletePod | MakeDefaultQueue


def next_step(world: World, job: Job, now: float, *, epoch: int | None) -> Step:
    """The next step of this Job.

    Args:
        now: seconds since the epoch.
        epoch: the operator's own; a claim of another one that has no pod was never carried out by this process. None
            where the pod of the open attempt may have been created and is gone unseen.
    """
    stray = _pod_to_delete(world, job, now)
    if isinstance(stray, DeletePod):
        return stray
    if job.deleting and not job.active:
        # A finalizer may keep it for long: it does nothing more, but an attempt of it ends as any other, and a cancel
        # reaches it, for what takes its place or runs again above it waits for that.
        canceled = None if job.terminal else _cancellation(world, job)
        return stray if canceled is None else WriteStatus(transitions.cancel(job, *canceled, now))
    if job.terminal:
        return WriteStatus(transitions.arm(job, now)) if runs_again(world, job) else stray
    if job.active:
        return _step_of_attempt(world, job, now, epoch)
    step = _step_of_waiting(world, job, now)
    if isinstance(step, Hold) and stray.until is not None:
        # Nothing else may happen before that pod's time is up, and without it the Job would wait for ever.
        step = replace(step, until=min(stray.until, step.until or stray.until))
    return step


def _pod_to_delete(world: World, job: Job, now: float) -> DeletePod | Nothing:
    """A pod that outlives its attempt: past its grace, or at once where nothing of it may count any more."""
    until: float | None = None
    for pod in world.pods_of_job(job.key):
        if pod.deleting or pod.over or not pod.may_be_of(job.uid):
            continue
        if job.active and pod.attempt >= job.attempt:
            continue
        deadline = _lingers_until(world, job, pod)
        if now >= deadline:
            return DeletePod(pod)
        until = deadline if until is None else min(until, deadline)
    return Nothing(until)


def _lingers_until(world: World, job: Job, pod: Pod) -> float:
    """An attempt that said its outcome itself may take its leave; any other is over at once."""
    entry = job.recorded_attempt(pod.attempt)
    given_up = (
        entry is None
        or entry["outcome"] in (OutcomeKind.DISRUPTED, OutcomeKind.CANCELED)
        or entry.get("reason") == Reason.START_TIMEOUT
        or _cancellation(world, job) is not None
    )
    return 0.0 if given_up or entry is None else parse_time(entry["finishedAt"]) + LINGER_SECONDS


def _step_of_waiting(world: World, job: Job, now: float) -> Step:
    canceled = _cancellation(world, job)
    if canceled is not None:
        return WriteStatus(transitions.cancel(job, *canceled, now))
    gate = None if job.admitted else gate_of_parent(world, job) or gate_of_dependencies(world, job)
    gate = gate or gate_of_replaced(world, job)
    if isinstance(gate, Skip):
        return WriteStatus(transitions.skip(job, gate, now), gate.because_of)
    if job.suspend:
        return Hold(Reason.SUSPENDED, "spec.suspend is true")
    if gate is not None:
        return gate
    fault = fault_of_args(job)
    if fault is not None:
        return WriteStatus(transitions.fail_unstarted(job, *fault, now))
    hold = _hold_until_due(world, job, now) or _hold_by_queue(world, job)
    if hold is not None:
        return hold
    verdict = gate_of_uniqueness(world, job, now)
    if isinstance(verdict, Skip):
        return WriteStatus(transitions.skip(job, verdict, now))
    return verdict or _hold_by_worker(world, job) or Ready()


def _hold_until_due(world: World, job: Job, now: float) -> Hold | None:
    if job.run_at is not None and job.run_at > now:
        return Hold(Reason.NOT_BEFORE, f"waits until {job.spec['runAt']}", job.run_at)
    if job.next_attempt_at is not None and job.next_attempt_at > now:
        kept = (Reason.POD_REJECTED, Reason.NOT_BEFORE)
        reason = next((kind for kind in kept if job.reason == kind), Reason.BACKING_OFF)
        message = str(job.status.get("message", "")) if job.reason == reason else ""
        return Hold(reason, message or f"waits until {job.status['nextAttemptAt']}", job.next_attempt_at)
    if any(not pod.over and pod.may_be_of(job.uid) for pod in world.pods_of_job(job.key)):
        return Hold(Reason.BACKING_OFF, "waits for the end of its last attempt's pod")
    if job.namespace in world.terminating_namespaces:
        return Hold(Reason.POD_REJECTED, f"namespace {job.namespace} is being deleted", passing=True)
    return None


def _hold_by_queue(world: World, job: Job) -> Hold | MakeDefaultQueue | None:
    queue = world.queues.get(job.queue_key)
    if queue is None:
        if job.queue == DEFAULT_QUEUE:
            return MakeDefaultQueue()
        return Hold(Reason.QUEUE_NOT_FOUND, f"spec.queue is {job.queue}: there is no Queue of that name here")
    if queue.paused:
        return Hold(Reason.QUEUE_PAUSED, f"queue {job.queue} is paused")
    return None


def _hold_by_worker(world: World, job: Job) -> Hold | None:
    worker = worker_of(world, job)
    if worker is None:
        if not needs_worker(job):
            return None
        name = worker_name(world, job)
        return Hold(Reason.WORKER_NOT_FOUND, f"there is no Worker {name} in namespace {job.namespace}")
    if worker.ready is None:
        return Hold(Reason.WORKER_NOT_READY, f"Worker {worker.name} is being checked", passing=True)
    if not worker.ready:
        return Hold(Reason.WORKER_NOT_READY, f"Worker {worker.name} is not ready: {worker.not_ready_message}")
    return None


def _step_of_attempt(world: World, job: Job, now: float, epoch: int | None) -> Step:
    pod = world.attempt_pod(job)
    outcome = outcome_of(job, pod)
    canceled = _cancellation(world, job)
    if outcome is None and pod is None:
        if job.epoch == epoch and not canceled and not job.deleting:
            return CreatePod()
        lost = "its pod is gone, and whether it ran is not known"
        if job.epoch == epoch:
            lost = "the Job was canceled or deleted before its pod was created"
        elif epoch is not None:
            lost = "the operator that claimed it was replaced before it had created the pod"
        outcome = Outcome(OutcomeKind.DISRUPTED, "Disrupted", lost)
    started_by = start_deadline(world, job)
    unstarted: Pod | None = None
    if outcome is None and pod is not None and not pod.started and not pod.deleting and now >= started_by:
        outcome, unstarted = start_timeout(pod, started_by - _claimed_at(job)), pod
    if canceled is not None and pod is not None:
        if outcome is not None and not outcome.reported and pod.ended_by_deletion:
            outcome = Outcome(OutcomeKind.DISRUPTED, "Disrupted", "the pod was deleted", exit_code=pod.exit_code)
        if not pod.gone and (outcome is None or outcome.kind is OutcomeKind.DISRUPTED):
            return _step_of_canceling(job, pod, canceled)
    if outcome is not None:
        queue = world.queues.get(job.queue_key)
        return WriteStatus(transitions.end_attempt(job, queue, pod, outcome, now, canceled=canceled), unstarted)
    assert pod is not None
    if pod.deleting and not pod.started:
        return Nothing()  # its end is near, and no deadline of its start counts any more
    return _step_of_open_attempt(job, pod, now, started_by)


def _step_of_canceling(job: Job, pod: Pod, canceled: tuple[Reason, str]) -> Step:
    if not pod.deleting:
        return DeletePod(pod)
    if job.reason != Reason.CANCELING:
        return WriteStatus(transitions.explain(job, Reason.CANCELING, canceled[1]))
    return Nothing()


def _step_of_open_attempt(job: Job, pod: Pod, now: float, started_by: float) -> Step:
    if pod.started_at is not None:
        if job.state is State.RUNNING:
            return Nothing()
        if now >= pod.started_at + RUNNING_AFTER_SECONDS:
            return WriteStatus(transitions.running(job, pod))
        return Nothing(pod.started_at + RUNNING_AFTER_SECONDS)
    obstacle = pod.waiting_reason if pod.waiting_reason not in ("", "ContainerCreating", "PodInitializing") else ""
    if obstacle == "ErrImagePull":
        obstacle = "ImagePullBackOff"  # the error comes and goes with its back-off: one name and one write for both
    if obstacle and job.reason != obstacle:
        return WriteStatus(transitions.explain(job, obstacle, pod.waiting_message))
    return Nothing(started_by)


def start_deadline(world: World, job: Job) -> float:
    """By when the container of the current attempt has to run, in seconds since the epoch."""
    worker = worker_of(world, job)
    return _claimed_at(job) + (worker.start_timeout_seconds if worker else START_TIMEOUT_SECONDS)


def _claimed_at(job: Job) -> float:
    return job.started_at or job.created_at


def _cancellation(world: World, job: Job) -> tuple[Reason, str] | None:
    """Why it is to be canceled, or None."""
    if job.cancel:
        return Reason.REQUESTED, "spec.cancel is true"
    successor = successor_of(world, job)
    if successor is not None:
        return Reason.REPLACED, f"a later tick of its Schedule put Job {successor.name} in its place"
    ancestor = canceled_ancestor(world, job)
    return (Reason.ANCESTOR_CANCELED, f"its ancestor {ancestor.name} was canceled") if ancestor else None
