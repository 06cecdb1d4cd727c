"""The status changes of a Job's life, one function each: Waiting -> Starting -> Running -> ended (design 2 and 3).

Each returns the status fields to set; None removes a field. The shell writes them with the record's resourceVersion as
a precondition, so a change computed from an old record is never applied, and with its own epoch.
"""

from dataclasses import replace
from typing import Any

from questline_operator.core import settings
from questline_operator.core.lineage import Skip, depth_of, root_of
from questline_operator.core.outcomes import Outcome
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Queue
from questline_operator.core.states import OutcomeKind, Reason, State
from questline_operator.core.status import MESSAGE_LIMIT, Change, condition
from questline_operator.core.times import format_time, format_whole_seconds
from questline_operator.core.world import World

KEPT_ATTEMPTS = 10
KEPT_SUCCEEDED_ATTEMPTS = 100


def claim(world: World, job: Job, *, now: float) -> Change:
    """Waiting -> Starting: the next attempt takes its slot. The last report is cleared."""
    attempt = job.attempt + 1
    return {
        "state": State.STARTING,
        "reason": None,
        "message": None,
        "attempt": attempt,
        "root": root_of(world, job),
        "depth": depth_of(world, job),
        "pod": {"name": job.pod_name(attempt)},
        "startedAt": format_time(now),
        "nextAttemptAt": None,
        "report": None,
        **_rerun_observed(job),
        **_observed(job),
    }


def undo_claim(job: Job, *, message: str, retry_at: float) -> Change:
    """Starting -> Waiting: the API server refused the pod, so nothing ran. The attempt's number stays used."""
    return {
        "state": State.WAITING,
        "reason": Reason.POD_REJECTED,
        "message": message[:MESSAGE_LIMIT],
        "nextAttemptAt": format_time(retry_at),
        "pod": None,
        "startedAt": None,
        **_observed(job),
    }


def running(job: Job, pod: Pod) -> Change:
    """Starting -> Running: the container has run for long enough to be worth a write."""
    return {
        "state": State.RUNNING,
        "reason": None,
        "message": None,
        "pod": {"name": pod.name, "uid": pod.uid},
        "startedAt": format_time(pod.started_at or pod.created_at),
        **_observed(job),
    }


def explain(job: Job, reason: str, message: str) -> Change:
    """The same state, with why."""
    return {"reason": reason, "message": message[:MESSAGE_LIMIT] or None, **_observed(job)}


def skip(job: Job, verdict: Skip, now: float) -> Change:
    """Waiting -> Skipped."""
    return {
        **_finish(job, State.SKIPPED, verdict.reason, verdict.message[:MESSAGE_LIMIT], now),
        "duplicateOf": verdict.duplicate_of,
        "upstream": verdict.upstream
        and {"name": verdict.upstream.name, "uid": verdict.upstream.uid, "finishes": verdict.upstream.finishes},
    }


def fail_unstarted(job: Job, reason: Reason, message: str, now: float) -> Change:
    """Waiting -> Failed, for what no attempt could mend."""
    return _finish(job, State.FAILED, reason, message, now)


def cancel(job: Job, reason: Reason, message: str, now: float) -> Change:
    """Waiting -> Canceled."""
    return _finish(job, State.CANCELED, reason, message, now)


def arm(job: Job, now: float) -> Change:
    """Ended -> Waiting, with its failures at 0: its rerun was raised, or the Job that it was Skipped for runs again."""
    original = job.duplicate_of or job.armed_duplicate_of
    return {
        "state": State.WAITING,
        "reason": None,
        "message": None,
        "failures": 0,
        "armed": {
            "at": format_time(now),
            "attempt": job.attempt,
            **({"duplicateOf": original} if original else {}),
        },
        "observedRerun": max(job.rerun, job.observed_rerun),
        "attempts": _with_children(job),
        "duplicateOf": None,
        "upstream": None,
        "nextAttemptAt": None,
        "startedAt": None,
        "conditions": _conditions(job, "Rerun", "it runs again", now, finished=False, succeeded=False),
        **_observed(job),
    }


def _with_children(job: Job) -> list[Any] | None:
    """status.attempts, whose last entry takes status.children over: the next attempt's would replace them, while those
    of a success are still looked at."""
    attempts = [*job.status.get("attempts", ())]
    children = job.status.get("children", {})
    if attempts and attempts[-1]["outcome"] == OutcomeKind.SUCCEEDED and children:
        attempts[-1] = {**attempts[-1], "children": children}
    return attempts or None


def end_attempt(
    job: Job,
    queue: Queue | None,
    pod: Pod | None,
    outcome: Outcome,
    now: float,
    *,
    canceled: tuple[Reason, str] | None,
) -> Change:
    """Starting or Running -> what the outcome of the attempt makes of the Job.

    Args:
        canceled: why the Job is being canceled, where it is: then no further attempt follows.
    """
    if canceled is not None and outcome.kind is OutcomeKind.DISRUPTED:
        outcome = replace(outcome, kind=OutcomeKind.CANCELED, reason=canceled[0], message=canceled[1])
    attempts = [*job.status.get("attempts", ()), _entry(job, pod, outcome, now)][-KEPT_ATTEMPTS:]
    change: dict[str, Any] = {"attempts": attempts, "pod": _pod(job, pod)}
    counted = outcome.kind in (OutcomeKind.FAILED, OutcomeKind.RETRY, OutcomeKind.FATAL)
    failures = job.failures + counted
    limit = settings.max_attempts(job, queue)
    error = outcome.error or {"type": str(outcome.reason), "message": outcome.message}
    what = _sentence(outcome)
    if outcome.kind is OutcomeKind.SUCCEEDED:
        succeeded = [*job.succeeded_attempts, job.attempt][-KEPT_SUCCEEDED_ATTEMPTS:]
        change |= _finish(job, State.SUCCEEDED, None, None, now)
        change |= {"succeededAttempts": succeeded, "children": outcome.children or None, "error": None}
        return change | {"result": outcome.result}
    if counted:
        change |= {"failures": failures, "error": error, "children": outcome.children}
    if outcome.kind is OutcomeKind.CANCELED and canceled is None:
        return change | _finish(job, State.CANCELED, Reason.RAISED, outcome.message or "the task canceled itself", now)
    if outcome.kind is OutcomeKind.FATAL:
        return change | _finish(job, State.FAILED, outcome.reason, what, now)
    if counted and failures >= limit:
        message = f"attempt {failures} of {limit}: {what}"
        return change | _finish(job, State.FAILED, outcome.reason, message, now)
    if outcome.kind is OutcomeKind.DISRUPTED:
        change["disruptions"] = job.disruptions + 1
    if canceled is not None:
        return change | _finish(job, State.CANCELED, *canceled, now)
    return change | _wait_again(job, queue, outcome, failures, limit, what, now)


def _wait_again(
    job: Job, queue: Queue | None, outcome: Outcome, failures: int, limit: int, what: str, now: float
) -> dict[str, Any]:
    reason = Reason.BACKING_OFF
    message = f"attempt {failures} of {limit}: {what}"
    if outcome.kind is OutcomeKind.DISRUPTED:
        delay = settings.disruption_delay_seconds(job.disruptions + 1)
        message = f"runs again, no failure counted: {what}"
    elif outcome.delay_seconds is not None:
        delay = outcome.delay_seconds
    else:
        delay = settings.backoff_seconds(job, queue, failures)
    if outcome.kind is OutcomeKind.SNOOZED:
        reason, message = Reason.NOT_BEFORE, outcome.message or "snoozed by the task"
    if job.deleting:
        message = f"is being deleted, no further attempt follows: {what}"
    return {
        "state": State.WAITING,
        "reason": reason,
        "message": message,
        "nextAttemptAt": format_time(now + delay),
        "startedAt": None,
        **_observed(job),
    }


def _finish(job: Job, state: State, reason: str | None, message: str | None, now: float) -> dict[str, Any]:
    succeeded = state is State.SUCCEEDED
    return {
        "state": state,
        "reason": reason,
        "message": message,
        "finishedAt": format_time(now),
        "finishes": job.finishes + 1,
        "nextAttemptAt": None,
        "conditions": _conditions(job, reason or str(state), message or "", now, finished=True, succeeded=succeeded),
        **_rerun_observed(job),
        **_observed(job),
    }


def _conditions(
    job: Job, reason: str, message: str, now: float, *, finished: bool, succeeded: bool
) -> list[dict[str, Any]]:
    generation, since = job.raw["metadata"].get("generation", 1), format_whole_seconds(now)
    return [
        condition(kind, holds, reason, message, generation=generation, since=since)
        for kind, holds in (("Finished", finished), ("Succeeded", succeeded))
    ]


def _rerun_observed(job: Job) -> dict[str, Any]:
    """A rerun that was raised before the first claim asks for the run that is about to begin, not for one more."""
    due = job.rerun > job.observed_rerun and not job.claimed_in_this_run
    return {"observedRerun": job.rerun} if due else {}


def _sentence(outcome: Outcome) -> str:
    """The outcome in a line, as ``ValueError: no such file``."""
    kind = str(outcome.error["type"]) if outcome.error and outcome.error.get("type") else ""
    text = outcome.message or (str(outcome.error.get("message", "")) if outcome.error else "") or str(outcome.reason)
    text = " ".join(text.split())[:400]
    # The SDK's own errors say all that is needed; their class would only repeat the reason beside it.
    bare = not kind or kind.startswith("questline.errors.") or text.startswith(kind)
    return text if bare else f"{kind}: {text}"


def _entry(job: Job, pod: Pod | None, outcome: Outcome, now: float) -> dict[str, Any]:
    started = pod.started_at if pod and pod.started_at else job.started_at
    entry = {
        "number": job.attempt,
        "podUID": _pod(job, pod).get("uid"),
        "startedAt": format_time(started) if started else None,
        "finishedAt": format_time(now),
        "outcome": outcome.kind,
        "reason": outcome.reason or None,
        "exitCode": outcome.exit_code,
        "message": outcome.message or None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _pod(job: Job, pod: Pod | None) -> dict[str, str]:
    name = job.pod_name(job.attempt)
    if pod is not None:
        return {"name": name, "uid": pod.uid}
    uid = job.report.get("podUID") if job.report else job.status.get("pod", {}).get("uid")
    return {"name": name, "uid": uid} if uid else {"name": name}


def _observed(job: Job) -> dict[str, Any]:
    return {"observedGeneration": job.raw["metadata"].get("generation", 1)}
