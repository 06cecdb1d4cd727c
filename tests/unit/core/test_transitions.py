"""What each change of a status writes, and that whatever it writes the CRD's schema takes."""

from typing import Any

import pytest

from questline_operator.core import transitions
from questline_operator.core.lineage import Skip
from questline_operator.core.outcomes import Outcome
from questline_operator.core.records import Job
from questline_operator.core.states import OutcomeKind, Reason
from questline_operator.core.status import Change
from tests.unit.core.builders import (
    EPOCH,
    T0,
    a_job,
    a_pod,
    a_queue,
    a_report,
    a_world,
    an_attempt,
    child_of,
    pod_uid,
    time_of,
    whole_time_of,
)

NOW = T0 + 30
RUNNING = a_job(state="Running", attempt=2, failures=1)
REQUESTED = (Reason.REQUESTED, "spec.cancel is true")


def end(job: Job, outcome: Outcome, *, canceled: tuple[Reason, str] | None = None, **pod: Any) -> Change:
    return transitions.end_attempt(job, a_queue(), a_pod(job, **pod), outcome, NOW, canceled=canceled)


def test_a_claim_takes_the_next_number_and_clears_what_was_of_the_last() -> None:
    root = a_job("root", state="Succeeded", root="root", depth=0)
    job = a_job(attempt=2, failures=2, reason="BackingOff", spec={"parent": child_of(root)})

    change = transitions.claim(a_world(root, job), job, now=NOW)

    assert (change["state"], change["attempt"]) == ("Starting", 3)
    assert (change["root"], change["depth"]) == ("root", 1)
    assert change["pod"] == {"name": job.pod_name(3)}
    assert change["startedAt"] == time_of(30)
    for field in ("reason", "message", "nextAttemptAt", "report"):
        assert change[field] is None
    assert "failures" not in change


def test_an_undone_claim_keeps_its_number_and_counts_no_failure() -> None:
    """After a lost answer nobody can prove that no pod of that number ever was."""
    change = transitions.undo_claim(RUNNING, message="exceeded quota", retry_at=T0 + 60)

    assert (change["state"], change["reason"], change["message"]) == ("Waiting", "PodRejected", "exceeded quota")
    assert change["nextAttemptAt"] == time_of(60)
    assert (change["pod"], change["startedAt"]) == (None, None)
    assert "attempt" not in change
    assert "failures" not in change


def test_a_success_keeps_the_result_null_included_and_the_number() -> None:
    job = a_job(state="Running", attempt=4, succeededAttempts=[1], finishes=1, error={"type": "E"})
    change = end(job, Outcome(OutcomeKind.SUCCEEDED, result=None, children={"total": 2, "groups": {}}), exit_code=0)

    assert change["state"] == "Succeeded"
    assert "result" in change
    assert (change["result"], change["error"], change["reason"]) == (None, None, None)
    assert (change["succeededAttempts"], change["finishes"]) == ([1, 4], 2)
    assert change["children"] == {"total": 2, "groups": {}}
    assert change["finishedAt"] == time_of(30)


def test_an_end_has_both_conditions_for_kubectl_wait() -> None:
    def conditions(change: Change) -> dict[str, str]:
        assert {c["lastTransitionTime"] for c in change["conditions"]} == {whole_time_of(30)}
        assert all(c["reason"] for c in change["conditions"])
        return {c["type"]: c["status"] for c in change["conditions"]}

    assert conditions(end(RUNNING, Outcome(OutcomeKind.SUCCEEDED))) == {"Finished": "True", "Succeeded": "True"}
    skipped = transitions.skip(a_job(), Skip(Reason.DUPLICATE, "x", "first"), NOW)
    assert conditions(skipped) == {"Finished": "True", "Succeeded": "False"}
    assert (skipped["reason"], skipped["duplicateOf"]) == ("Duplicate", "first")


def test_a_failure_waits_as_long_as_its_backoff_says() -> None:
    job = a_job(state="Running", attempt=5, failures=2, spec={"backoff": {"jitter": 0, "baseSeconds": 3}})
    error = {"type": "ValueError", "message": "no such file"}

    change = end(job, Outcome(OutcomeKind.FAILED, Reason.TASK_ERROR, error=error), exit_code=1)

    assert (change["state"], change["failures"], change["error"]) == ("Waiting", 3, error)
    assert change["nextAttemptAt"] == time_of(30 + 12)
    assert change["message"] == "attempt 3 of 5: ValueError: no such file"
    assert change["startedAt"] is None


def test_an_error_of_the_sdk_speaks_for_itself() -> None:
    error = {"type": "questline.errors.Fail", "message": "the lawyers say no"}
    change = end(RUNNING, Outcome(OutcomeKind.FATAL, Reason.FAIL, "the lawyers say no", error=error))
    assert (change["reason"], change["message"]) == ("Fail", "the lawyers say no")


@pytest.mark.parametrize(
    ("outcome", "failures", "due"),
    [
        pytest.param(Outcome(OutcomeKind.RETRY, "TaskError", delay_seconds=7.5), 2, 37.5, id="a retry names its delay"),
        pytest.param(Outcome(OutcomeKind.RETRY, "TaskError", delay_seconds=0.0), 2, 30, id="be it none"),
        pytest.param(Outcome(OutcomeKind.SNOOZED, delay_seconds=600), None, 630, id="a snooze is no failure"),
        pytest.param(Outcome(OutcomeKind.DISRUPTED, "Disrupted"), None, 31, id="nor is a disruption"),
    ],
)
def test_the_next_attempt_is_due_when_its_outcome_says(outcome: Outcome, failures: int | None, due: float) -> None:
    change = end(RUNNING, outcome)

    assert change.get("failures") == failures
    assert change["nextAttemptAt"] == time_of(due)


@pytest.mark.parametrize(
    ("limit", "state", "message"),
    [(2, "Failed", "attempt 2 of 2: it broke"), (3, "Waiting", "attempt 2 of 3: it broke")],
)
def test_failures_alone_are_compared_with_max_attempts(limit: int, state: str, message: str) -> None:
    job = a_job(state="Running", attempt=90, failures=1, disruptions=88, spec={"maxAttempts": limit})

    change = end(job, Outcome(OutcomeKind.FAILED, Reason.NO_OUTCOME, "it broke"))

    assert (change["state"], change["message"]) == (state, message)


def test_a_queues_default_limits_the_attempts() -> None:
    job = a_job(state="Running", attempt=1)
    queue = a_queue(defaults={"maxAttempts": 1})

    change = transitions.end_attempt(job, queue, None, Outcome(OutcomeKind.FAILED, "TaskError"), NOW, canceled=None)

    assert change["state"] == "Failed"


@pytest.mark.parametrize("reason", [Reason.TASK_NOT_FOUND, Reason.ARGS_INVALID, Reason.RESULT_INVALID, Reason.FAIL])
def test_a_fatal_outcome_leaves_no_further_attempt(reason: Reason) -> None:
    change = end(a_job(state="Running", attempt=1), Outcome(OutcomeKind.FATAL, reason, "no"))

    assert (change["state"], change["reason"], change["failures"]) == ("Failed", reason, 1)


def test_an_error_is_kept_where_the_attempt_told_none() -> None:
    change = end(RUNNING, Outcome(OutcomeKind.FAILED, Reason.OOM_KILLED, "killed"))

    assert change["error"] == {"type": "OOMKilled", "message": "killed"}


# status.attempts


def test_the_entry_says_how_the_attempt_ended() -> None:
    change = end(RUNNING, Outcome(OutcomeKind.FAILED, Reason.NO_OUTCOME, "gone", exit_code=3), exit_code=3, started=4)

    assert change["attempts"][-1] == {
        "number": 2,
        "podUID": pod_uid(RUNNING, 2),
        "startedAt": time_of(4),
        "finishedAt": time_of(30),
        "outcome": "Failed",
        "reason": "NoOutcome",
        "exitCode": 3,
        "message": "gone",
    }
    assert change["pod"] == {"name": RUNNING.pod_name(2), "uid": pod_uid(RUNNING, 2)}


def test_the_entry_of_an_attempt_whose_pod_was_never_seen_has_the_reports_pod() -> None:
    job = a_job(state="Starting", attempt=2, startedAt=1, report=a_report(a_job(attempt=2)))

    change = transitions.end_attempt(job, None, None, Outcome(OutcomeKind.SUCCEEDED), NOW, canceled=None)

    assert (change["attempts"][0]["podUID"], change["attempts"][0]["startedAt"]) == (pod_uid(job, 2), time_of(1))


def test_the_last_ten_attempts_are_kept() -> None:
    job = a_job(state="Running", attempt=11, attempts=[an_attempt(n, "Disrupted") for n in range(1, 11)])

    assert [entry["number"] for entry in end(job, Outcome(OutcomeKind.SUCCEEDED))["attempts"]] == list(range(2, 12))


# Cancel


@pytest.mark.parametrize(
    ("outcome", "end_of_job"),
    [
        (Outcome(OutcomeKind.DISRUPTED), ("Canceled", "Requested")),
        (Outcome(OutcomeKind.FAILED, Reason.TASK_ERROR), ("Canceled", "Requested")),
        (Outcome(OutcomeKind.SNOOZED), ("Canceled", "Requested")),
        (Outcome(OutcomeKind.SUCCEEDED), ("Succeeded", None)),
    ],
)
def test_no_attempt_follows_a_cancel(outcome: Outcome, end_of_job: tuple[str, str | None]) -> None:
    change = end(RUNNING, outcome, canceled=REQUESTED)

    assert (change["state"], change["reason"]) == end_of_job
    assert change["nextAttemptAt"] is None


def test_a_pod_taken_away_by_a_cancel_is_no_disruption() -> None:
    change = end(RUNNING, Outcome(OutcomeKind.DISRUPTED), canceled=REQUESTED)

    assert "disruptions" not in change
    assert change["attempts"][-1]["outcome"] == "Canceled"


def test_a_task_that_cancels_itself_says_why() -> None:
    change = end(RUNNING, Outcome(OutcomeKind.CANCELED, Reason.RAISED, "not needed any more"))

    assert (change["state"], change["reason"], change["message"]) == ("Canceled", "Raised", "not needed any more")


def test_an_explanation_changes_no_state() -> None:
    change = transitions.explain(a_job(), Reason.QUEUE_PAUSED, "")

    assert (change["reason"], change["message"]) == ("QueuePaused", None)
    assert "state" not in change


def test_running_names_the_pod_and_its_start() -> None:
    job = a_job(state="Starting", attempt=2, epoch=EPOCH)
    change = transitions.running(job, a_pod(job, running=12))

    assert (change["state"], change["startedAt"]) == ("Running", time_of(12))
    assert change["pod"]["uid"] == pod_uid(job, 2)
