"""Pods that outlive their attempt, and Jobs that are canceled: the part of the state machine that takes pods away."""

from dataclasses import replace
from typing import Any

import pytest

from questline_operator.core.decide import LINGER_SECONDS, DeletePod, Nothing, Ready
from questline_operator.core.lineage import Hold
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from tests.unit.core.builders import T0, a_job, a_pod, a_report, an_attempt, child_of
from tests.unit.core.steps import RUNNING, ends, step, written

# Pods that outlive their attempt


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_pod(RUNNING, running=1), id="that runs on"),
        pytest.param(a_pod(RUNNING, exit_code=0, phase="Running"), id="whose sidecar runs on"),
    ],
)
@pytest.mark.parametrize("state", ["Waiting", "Succeeded"])
def test_a_pod_is_deleted_when_its_time_after_the_report_is_up(pod: Pod, state: str) -> None:
    entry = an_attempt(1, "Succeeded" if state == "Succeeded" else "Failed", at=100)
    job = a_job(state=state, attempt=1, attempts=[entry], nextAttemptAt=101)

    early = step(job, pod, now=129)
    assert isinstance(early, Hold | Nothing)
    assert early.until == T0 + 100 + LINGER_SECONDS, "or nobody would look again"
    late = step(job, pod, now=130)
    assert isinstance(late, DeletePod)
    assert late.pod is pod


def test_a_back_off_that_ends_first_is_looked_at_first() -> None:
    job = a_job(attempt=1, failures=1, attempts=[an_attempt(1, "Failed", at=100)], nextAttemptAt=110)

    found = step(job, a_pod(job, running=1), now=105)

    assert isinstance(found, Hold)
    assert found.until == T0 + 110


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(
            a_job(attempt=1, attempts=[an_attempt(1, "Disrupted", at=100)]), id="an attempt that was given up as lost"
        ),
        pytest.param(
            a_job(attempt=1, attempts=[an_attempt(1, "Failed", at=100, reason="StartTimeout")]),
            id="one that never began",
        ),
        pytest.param(a_job(state="Canceled", attempt=1, attempts=[an_attempt(1, "Canceled", at=100)]), id="canceled"),
        pytest.param(
            a_job(state="Succeeded", attempt=1, attempts=[an_attempt(1, at=100)], spec={"cancel": True}),
            id="a Job canceled after its end",
        ),
        pytest.param(
            a_job(attempt=12, attempts=[an_attempt(12, "Failed", at=100)]), id="one of which no entry is left"
        ),
        pytest.param(a_job(state="Running", attempt=3, startedAt=0), id="one older than the attempt that is open"),
    ],
)
def test_a_pod_of_which_nothing_may_count_any_more_is_deleted_at_once(job: Job) -> None:
    pod = a_pod(job, attempt=1, running=1)

    found = step(job, pod, now=101)

    assert isinstance(found, DeletePod)
    assert found.pod is pod


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"deleting": True}, id="one that is being deleted"),
        pytest.param({"owner_uid": "another"}, id="one of another owner"),
        pytest.param({"gone": True}, id="one that is gone"),
    ],
)
def test_a_pod_that_goes_already_or_is_anothers_is_not_deleted(change: dict[str, Any]) -> None:
    job = a_job(state="Canceled", attempt=1)

    assert step(job, replace(a_pod(job, running=1), **change)) == Nothing()


# Cancel


CANCELED = a_job(state="Running", attempt=1, spec={"cancel": True})


def test_cancel_deletes_the_pod_then_says_canceling_then_waits_then_ends() -> None:
    live = a_pod(CANCELED, running=1)
    leaving = a_pod(CANCELED, running=1, deleting=True)
    said = a_job(state="Running", attempt=1, reason="Canceling", spec={"cancel": True})

    first = step(CANCELED, live)
    assert isinstance(first, DeletePod)
    assert written(step(CANCELED, leaving))["reason"] == "Canceling"
    assert step(said, leaving) == Nothing()
    assert step(said, a_pod(said, exit_code=143, deleting=True)) == Nothing()
    assert ends(step(said, replace(leaving, gone=True))) == ("Canceled", "Requested")


def test_a_canceled_claim_whose_pod_nobody_has_seen_ends_at_once() -> None:
    """This process creates a claim's pod in one go with the claim: what was not seen is not."""
    assert ends(step(CANCELED)) == ("Canceled", "Requested")


def test_a_running_descendant_of_a_canceled_job_is_canceled() -> None:
    ancestor = a_job("ancestor", state="Succeeded", spec={"cancel": True})
    job = a_job(state="Running", spec={"parent": child_of(ancestor)})

    assert isinstance(step(job, ancestor, a_pod(job, running=1)), DeletePod)
    assert ends(step(job, ancestor, a_pod(job, running=1, gone=True))) == ("Canceled", "AncestorCanceled")


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        ("Succeeded", ("Succeeded", None)),
        ("Fatal", ("Failed", "Fail")),
        ("Failed", ("Canceled", "Requested")),
        ("Snoozed", ("Canceled", "Requested")),
        ("Canceled", ("Canceled", "Requested")),
    ],
)
def test_a_report_already_written_wins_over_a_cancel_and_no_attempt_follows(
    outcome: str, end: tuple[str, str | None]
) -> None:
    job = a_job(state="Running", attempt=1, spec={"cancel": True}, report=a_report(RUNNING, outcome))

    assert ends(step(job, a_pod(job, running=1))) == end


def test_a_canceled_command_that_leaves_cleanly_on_sigterm_is_canceled() -> None:
    job = a_job(state="Running", attempt=1, spec={"cancel": True, "command": ["serve"]})
    left = a_pod(job, exit_code=0, finished=20, deleting=True)

    assert ends(step(job, replace(left, gone=True))) == ("Canceled", "Requested")


def test_a_canceled_command_that_had_ended_before_keeps_its_end() -> None:
    job = a_job(state="Running", attempt=1, spec={"cancel": True, "command": ["serve"]})

    assert ends(step(job, a_pod(job, exit_code=0))) == ("Succeeded", None)


@pytest.mark.parametrize("state", ["Succeeded", "Failed", "Skipped", "Canceled"])
def test_a_finished_job_stays_what_it_is(state: str) -> None:
    assert step(a_job(state=state, attempt=1, spec={"cancel": True})) == Nothing()


@pytest.mark.parametrize("state", ["Waiting", "Succeeded"])
def test_a_copy_of_a_pod_that_somebody_debugs_is_nobodys_to_delete_and_holds_nothing_up(state: str) -> None:
    """``kubectl debug resize-... --copy-to=resize-debug --keep-labels``: no owner, no epoch, another name."""
    job = a_job("resize", state=state)
    copy = replace(a_pod(job, name="resize-debug", owner="", running=1), epoch=0)

    assert isinstance(step(job, copy, now=100), Ready if state == "Waiting" else Nothing)
