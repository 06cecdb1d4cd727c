"""Why a Job is where it is: one true sentence with its numbers, for any Job.

`questline why` asks on records that it has listed itself, with its caller's own rights; whoever waits long finds the
same words in the Job's status. A sentence goes on from the Job's name: "upload-1 waits for a slot: ...".
"""

from dataclasses import dataclass

from questline_operator.core import settings
from questline_operator.core.admission import claim_order
from questline_operator.core.decide import DeletePod, MakeDefaultQueue, Ready, WriteStatus, next_step, start_deadline
from questline_operator.core.limits import Starts, waits_for_slot, why_unclaimed
from questline_operator.core.lineage import Hold, worker_of
from questline_operator.core.outcomes import Outcome, outcome_of
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.core.states import Reason, State
from questline_operator.core.times import format_time, parse_time
from questline_operator.core.world import World


@dataclass(frozen=True)
class Why:
    """Why a Job is where it is.

    Attributes:
        state: its state, as its status says it.
        reason: the word for it, as in status.reason, but computed now; "" where there is none.
        sentence: what to say after the Job's name.
        until: the moment (seconds since the epoch) at which that may end by itself, or None.
    """

    state: State
    reason: str
    sentence: str
    until: float | None = None


def why(world: World, job: Job, now: float) -> Why:
    """Why the Job is where it is.

    Args:
        world: at least the Jobs, Queues and Workers of its namespace. Without pods, what holds up an attempt is not
            known, and an attempt counts until its outcome is written.
        now: seconds since the epoch.
    """
    if job.terminal:
        again = isinstance(next_step(world, job, now, epoch=None), WriteStatus)
        return Why(job.state, job.reason, _of_finished(job) + (", and is about to run again" if again else ""))
    if job.deleting:
        return Why(job.state, job.reason, "is being deleted")
    return _of_attempt(world, job, now) if job.active else _of_waiting(world, job, now)


def ready_before(world: World, job: Job, now: float) -> int:
    """How many Jobs of its queue need nothing but a slot as well, and get theirs first."""
    place = claim_order(job)
    return sum(
        claim_order(other) < place and isinstance(next_step(world, other, now, epoch=None), Ready)
        for other in world.unfinished_of_queue(job.queue_key)
        if not other.active
    )


# Waiting


def _of_waiting(world: World, job: Job, now: float) -> Why:
    step = next_step(world, job, now, epoch=None)
    match step:
        case Hold(reason, _, until):
            return Why(job.state, reason, _of_hold(world, job, step), until)
        case Ready():
            return _of_ready(world, job, now)
        case WriteStatus(change):
            sentence = f"is about to be {change['state']} ({change['reason']}): {change['message']}"
            return Why(job.state, str(change["reason"]), sentence)
        case MakeDefaultQueue():
            return Why(job.state, Reason.QUEUE_NOT_FOUND, "waits for Queue default, which the operator is to make")
        case DeletePod(pod):
            return Why(job.state, Reason.BACKING_OFF, f"waits for the end of pod {pod.name}, which is to be deleted")
        case _:
            raise AssertionError(f"{job.name}: a waiting Job has no step {step}")


def _of_hold(world: World, job: Job, hold: Hold) -> str:
    until = f" until {format_time(hold.until)}" if hold.until is not None else ""
    match hold.reason:
        case Reason.NOT_BEFORE if job.run_at != hold.until:
            return f"waits{until}: {hold.message}"  # a snooze, with what the task said
        case Reason.NOT_BEFORE:
            return f"waits{until}, its spec.runAt"
        case Reason.BACKING_OFF if until and job.reason == Reason.BACKING_OFF:
            return f"waits{until}, after {hold.message}"
        case Reason.POD_REJECTED if until:
            return f"waits{until}, for its pod is refused: {hold.message}"
        case Reason.POD_REJECTED:
            return f"waits: {hold.message}"
        case Reason.SUSPENDED:
            return "is held: spec.suspend is true"
        case Reason.QUEUE_PAUSED:
            running = len(world.active_of_queue(job.queue_key))
            waiting = len(world.unfinished_of_queue(job.queue_key)) - running
            return f"waits for queue {job.queue}, which is paused: {running} of its Jobs run on, {waiting} wait"
        case Reason.QUEUE_NOT_FOUND | Reason.WORKER_NOT_FOUND | Reason.WORKER_NOT_READY:
            return f"cannot run: {hold.message}"
        case _:
            return hold.message


def _of_ready(world: World, job: Job, now: float) -> Why:
    queue = world.queues[job.queue_key]
    hold = why_unclaimed(world, job, Starts(), now, max_running_pods=None)
    if hold.reason is not Reason.AT_CONCURRENCY_LIMIT:
        return Why(job.state, hold.reason, hold.message, hold.until)
    before = ready_before(world, job, now)
    sentence = f"{waits_for_slot(world, job)}, {before} before it"
    if world.slots_held(queue.key) + before >= queue.concurrency:
        return Why(job.state, Reason.AT_CONCURRENCY_LIMIT, sentence)
    refused = next((one for one in world.unfinished_of_queue(queue.key) if one.reason == Reason.POD_REJECTED), None)
    if refused is not None:
        # While the pods of a queue are refused, one of its Jobs tries at a time.
        sentence = f"waits until a pod of queue {queue.name} is taken: Job {refused.name}'s was refused, "
        sentence += str(refused.status.get("message", ""))
        return Why(job.state, Reason.POD_REJECTED, sentence, refused.next_attempt_at)
    sentence += ", so it is to be claimed now; if it is not, see whether the operator runs, and its maxRunningPods"
    return Why(job.state, Reason.AT_CONCURRENCY_LIMIT, sentence)


# Starting, Running


def _of_attempt(world: World, job: Job, now: float) -> Why:
    pod = world.attempt_pod(job)
    attempt = f"attempt {job.attempt}"
    outcome = outcome_of(job, pod)
    if outcome is not None:
        return Why(job.state, job.reason, f"has ended its {attempt} ({_said(outcome)}), which is being written")
    if job.reason == Reason.CANCELING or (pod is not None and pod.deleting):
        name = pod.name if pod is not None else job.pod_name(job.attempt)
        what = "is being canceled" if job.reason == Reason.CANCELING else f"loses its {attempt}"
        return Why(job.state, job.reason, f"{what}: pod {name} is to end within its grace")
    if pod is None:
        since = _ago(now, job.started_at)
        return Why(job.state, job.reason, f"has its slot{since}: pod {job.pod_name(job.attempt)} is being created")
    if not pod.started:
        return Why(
            job.state,
            pod.waiting_reason,
            f"cannot start its {attempt} yet: {_obstacle(pod)}",
            start_deadline(world, job),
        )
    queue = world.queues.get(job.queue_key)
    limit, timeout = settings.max_attempts(job, queue), settings.timeout_seconds(job, queue)
    worker = worker_of(world, job)
    of_worker = f" of Worker {worker.name}" if worker else ""
    sentence = f"runs its {attempt}{_ago(now, pod.started_at)} in pod {pod.name}{of_worker}"
    sentence += f", {job.failures} of {limit} failures so far"
    end = None
    if timeout is not None and pod.start_time is not None:
        end = pod.start_time + timeout
        sentence += f", at most until {format_time(end)}"
    return Why(job.state, job.reason, sentence, end)


def _obstacle(pod: Pod) -> str:
    if pod.waiting_reason and pod.waiting_message:
        return f"{pod.waiting_reason}, {pod.waiting_message}"
    if pod.scheduling_message:
        return f"no node takes pod {pod.name}, {pod.scheduling_message}"
    return f"pod {pod.name} is {pod.phase}" + (f" ({pod.waiting_reason})" if pod.waiting_reason else "")


def _said(outcome: Outcome) -> str:
    return ": ".join(filter(None, (str(outcome.kind), outcome.message)))


def _ago(now: float, moment: float | None) -> str:
    return "" if moment is None else f" for {max(0.0, now - moment):.0f} s"


# Succeeded, Failed, Canceled, Skipped


def _of_finished(job: Job) -> str:
    at = f" at {job.status['finishedAt']}" if job.finished_at is not None else ""
    message = str(job.status.get("message") or "")
    if job.state is State.SUCCEEDED:
        seconds = _seconds_of_last_attempt(job)
        took = f" after {seconds:.1f} s" if seconds is not None else ""
        failed = f", {job.failures} failed before" if job.failures else ""
        return f"succeeded{at} in attempt {job.attempt}{took}{failed}"
    word = {State.FAILED: "failed", State.CANCELED: "was canceled", State.SKIPPED: "was skipped"}[job.state]
    return f"{word}{at} ({job.reason})" + (f": {message}" if message else "")


def _seconds_of_last_attempt(job: Job) -> float | None:
    entry = job.recorded_attempt(job.attempt)
    if entry is None or "startedAt" not in entry:
        return None
    # A container's start has whole seconds: what ran for less may seem to have begun later than it did.
    return max(0.0, parse_time(entry["finishedAt"]) - parse_time(entry["startedAt"]))
