"""The whole state machine, one row a transition: docs/state_machine.md in the form of tests."""

from typing import Any

import pytest

from questline_operator.core.decide import (
    CreatePod,
    MakeDefaultQueue,
    Nothing,
    Ready,
    next_step,
)
from questline_operator.core.lineage import Hold
from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from questline_operator.core.world import World
from tests.unit.core.builders import (
    EPOCH,
    T0,
    a_job,
    a_pod,
    a_queue,
    a_report,
    a_worker,
    a_world,
    an_attempt,
    child_of,
    nested,
    time_of,
    unconfirmed,
)
from tests.unit.core.steps import RUNNING, Record, ends, read_before, step, written

# Waiting: why it does not run


UPSTREAM = [{"job": "upstream"}]
PARENT = a_job("parent", state="Running")


@pytest.mark.parametrize(
    ("job", "others", "reason"),
    [
        pytest.param(a_job(spec={"parent": child_of(PARENT)}), [PARENT], Reason.STAGED, id="its parent's attempt runs"),
        pytest.param(
            a_job(spec={"after": UPSTREAM}),
            [a_job("upstream")],
            Reason.DEPENDENCY_PENDING,
            id="another is to end first",
        ),
        pytest.param(a_job(spec={"after": UPSTREAM}), [], Reason.DEPENDENCY_MISSING, id="another does not exist"),
        pytest.param(a_job(spec={"runAt": time_of(60)}), [], Reason.NOT_BEFORE, id="it is not due"),
        pytest.param(
            a_job(attempt=1, failures=1, reason="BackingOff", nextAttemptAt=60),
            [],
            Reason.BACKING_OFF,
            id="it backs off",
        ),
        pytest.param(
            a_job(attempt=1, reason="NotBefore", nextAttemptAt=60), [], Reason.NOT_BEFORE, id="its task snoozed"
        ),
        pytest.param(
            a_job(attempt=1, reason="PodRejected", nextAttemptAt=60), [], Reason.POD_REJECTED, id="its pod was refused"
        ),
        pytest.param(a_job(spec={"suspend": True}), [], Reason.SUSPENDED, id="it is suspended"),
        pytest.param(a_job(), [a_queue(paused=True)], Reason.QUEUE_PAUSED, id="its queue is paused"),
        pytest.param(a_job(spec={"queue": "nowhere"}), [], Reason.QUEUE_NOT_FOUND, id="its queue does not exist"),
        pytest.param(a_job(spec={"worker": "nobody"}), [], Reason.WORKER_NOT_FOUND, id="its Worker does not exist"),
        pytest.param(a_job(), [a_worker(ready=None)], Reason.WORKER_NOT_READY, id="its Worker is not checked yet"),
        pytest.param(
            a_job(), [a_worker(ready=False, message="no such image")], Reason.WORKER_NOT_READY, id="its Worker is bad"
        ),
        pytest.param(
            a_job("b", spec={"unique": {"key": "k"}}),
            [a_job("a", spec={"unique": {"key": "k"}})],
            Reason.AT_CONCURRENCY_LIMIT,
            id="another of its unique key is first",
        ),
    ],
)
def test_a_waiting_job_has_the_reason_that_holds_it(job: Job, others: list[Record], reason: Reason) -> None:
    found = step(job, *others)

    assert isinstance(found, Hold), found
    assert found.reason is reason
    assert found.message


def test_a_job_that_nothing_holds_is_ready() -> None:
    assert isinstance(step(a_job()), Ready)
    assert isinstance(step(a_job(attempt=1, failures=1, nextAttemptAt=2)), Ready)
    assert isinstance(step(a_job(spec={"runAt": time_of(2)})), Ready)


def test_a_job_with_its_own_image_waits_for_its_worker_where_there_is_one() -> None:
    job = a_job(spec={"image": "busybox", "command": ["true"]})
    found = step(job, a_worker(ready=False, message="no such volume"))
    assert isinstance(found, Hold)
    assert found.reason is Reason.WORKER_NOT_READY


def test_a_job_with_its_own_image_needs_no_worker() -> None:
    job = a_job(spec={"image": "busybox", "command": ["true"]})

    assert isinstance(step(job, a_queue(), bare=True), Ready)


def test_the_queue_default_is_made_when_it_is_first_needed_and_no_other() -> None:
    assert isinstance(step(a_job(), bare=True), MakeDefaultQueue)
    assert isinstance(step(a_job(spec={"suspend": True}), bare=True), Hold)


def test_what_ends_by_itself_says_when() -> None:
    due = step(a_job(spec={"runAt": time_of(60)}))
    backing_off = step(a_job(attempt=1, failures=1, nextAttemptAt=30))

    assert isinstance(due, Hold)
    assert isinstance(backing_off, Hold)
    assert (due.until, backing_off.until) == (T0 + 60, T0 + 30)


def test_nothing_is_claimed_in_a_terminating_namespace() -> None:
    job = a_job()
    world = a_world(a_queue(), a_worker(), job)
    world.terminating_namespaces.add("default")

    found = next_step(world, job, T0, epoch=EPOCH)

    assert isinstance(found, Hold)
    assert "is being deleted" in found.message


def test_nothing_is_done_on_a_job_that_is_being_deleted() -> None:
    assert step(a_job(deleting=True)) == Nothing()
    assert written(step(a_job(deleting=True, spec={"cancel": True})))["state"] == "Canceled"
    assert step(a_job(deleting=True, state="Failed", spec={"cancel": True})) == Nothing()
    assert step(a_job(deleting=True, state="Failed", spec={"rerun": 1})) == Nothing()


def test_an_attempt_of_a_job_that_is_being_deleted_ends_as_any_other() -> None:
    """A finalizer may keep the record for long, and people read there what became of it."""
    running = a_job(deleting=True, state="Running")
    assert isinstance(step(running, a_pod(running, running=1)), Nothing)
    change = written(step(running, a_pod(running, exit_code=1)))
    assert (change["state"], change["failures"]) == ("Waiting", 1)
    assert "is being deleted, no further attempt follows" in change["message"]
    reported = a_job(deleting=True, state="Running", report=a_report(RUNNING, result=7))
    change = written(step(reported, a_pod(reported, running=1)))
    assert (change["state"], change["result"]) == ("Succeeded", 7)


def test_a_claimed_job_that_is_being_deleted_gets_no_pod() -> None:
    change = written(step(a_job(deleting=True, state="Starting")))
    assert (change["state"], change["disruptions"]) == ("Waiting", 1)
    assert change["attempts"][-1]["message"] == "the Job was canceled or deleted before its pod was created"


def test_a_back_off_after_a_suspension_does_not_show_the_suspensions_message() -> None:
    job = a_job(attempt=1, failures=1, reason="Suspended", message="spec.suspend is true", nextAttemptAt=60)

    found = step(job)

    assert isinstance(found, Hold)
    assert (found.reason, found.message) == (Reason.BACKING_OFF, f"waits until {time_of(60)}")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"suspend": True, "after": UPSTREAM}, Reason.SUSPENDED, id="suspended before any other"),
        pytest.param({"runAt": time_of(60), "queue": "nowhere"}, Reason.NOT_BEFORE, id="not due before its queue"),
        pytest.param(
            {"queue": "nowhere", "worker": "nobody"}, Reason.QUEUE_NOT_FOUND, id="the queue before the Worker"
        ),
    ],
)
def test_of_several_reasons_the_first_to_be_mended_is_told(spec: dict[str, Any], reason: Reason) -> None:
    found = step(a_job(spec=spec))

    assert isinstance(found, Hold)
    assert found.reason is reason


# Waiting -> Skipped, Canceled, Failed


@pytest.mark.parametrize(
    ("job", "others", "reason"),
    [
        pytest.param(
            a_job(spec={"parent": child_of(PARENT)}), [a_job("parent", state="Failed")], "ParentFailed", id="its parent"
        ),
        pytest.param(a_job(spec={"parent": child_of(PARENT)}), [], "ParentGone", id="nobody"),
        pytest.param(
            a_job(spec={"after": UPSTREAM}), [a_job("upstream", state="Failed")], "UpstreamFailed", id="its upstream"
        ),
        pytest.param(a_job(spec={"after": [{"job": "resize"}]}), [], "DependencyCycle", id="itself"),
        pytest.param(
            a_job("b", spec={"unique": {"key": "k"}}),
            [a_job("a", state="Running", spec={"unique": {"key": "k"}})],
            "Duplicate",
            id="another of its unique key",
        ),
        pytest.param(
            a_job(spec={"suspend": True, "parent": child_of(PARENT)}),
            [a_job("parent", state="Failed")],
            "ParentFailed",
            id="its parent, suspended or not",
        ),
    ],
)
def test_a_job_that_can_never_run_is_skipped_with_the_reason(job: Job, others: list[Record], reason: str) -> None:
    found = step(job, *others)

    assert ends(found) == ("Skipped", reason)
    assert written(found)["duplicateOf"] == ("a" if reason == "Duplicate" else None)


def test_a_job_once_claimed_is_never_skipped() -> None:
    """What let it run may be gone by its next attempt."""
    orphan = a_job(attempt=1, failures=1, nextAttemptAt=1, spec={"parent": child_of(PARENT), "after": UPSTREAM})

    assert isinstance(step(orphan), Ready)


def test_a_waiting_job_is_canceled_at_once() -> None:
    canceled = a_job("parent", state="Succeeded", spec={"cancel": True})

    assert ends(step(a_job(spec={"cancel": True, "suspend": True}))) == ("Canceled", "Requested")
    child = a_job(spec={"parent": child_of(canceled)})
    assert ends(step(child, canceled)) == ("Canceled", "AncestorCanceled")


def test_args_that_no_attempt_could_take_fail_without_one() -> None:
    large = written(step(a_job(spec={"args": {"a": "x" * 200_000}})))
    deep = written(step(a_job(spec={"args": {"a": nested(1_000)}})))

    assert (large["state"], large["reason"]) == ("Failed", "ArgsTooLarge")
    assert "200008 bytes" in large["message"]
    assert (deep["state"], deep["reason"]) == ("Failed", "ArgsInvalid")


# Starting: the pod


STARTING = a_job(state="Starting", attempt=2)


def test_a_claim_of_this_epoch_without_a_pod_gets_its_pod() -> None:
    assert isinstance(step(STARTING), CreatePod)


def test_a_claim_of_another_epoch_without_a_pod_is_a_disruption_and_no_failure() -> None:
    inherited = a_job(state="Starting", attempt=2, epoch=EPOCH - 1, failures=1)

    change = written(step(inherited))

    assert (change["state"], change["reason"], change["disruptions"]) == ("Waiting", "BackingOff", 1)
    assert "failures" not in change
    assert change["attempts"][-1]["outcome"] == "Disrupted"


def test_a_claim_of_another_epoch_whose_pod_exists_goes_on() -> None:
    inherited = a_job(state="Starting", attempt=2, epoch=EPOCH - 1)

    assert isinstance(step(inherited, a_pod(inherited)), Nothing)


def test_a_pod_of_the_same_name_and_another_owner_is_not_the_attempts() -> None:
    assert isinstance(step(STARTING, a_pod(STARTING, owner="another")), CreatePod)


def test_a_pod_that_has_not_started_is_looked_at_again_at_its_deadline() -> None:
    job = a_job(state="Starting", startedAt=10)

    assert step(job, a_pod(job), a_worker(startTimeoutSeconds=50), now=20) == Nothing(T0 + 60)
    assert step(job, a_pod(job), now=20) == Nothing(T0 + 310)


@pytest.mark.parametrize("obstacle", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_what_keeps_a_container_from_starting_is_shown_meanwhile(obstacle: str) -> None:
    job = a_job(state="Starting")
    change = written(step(job, a_pod(job, waiting=obstacle, waiting_message="why")))

    assert (change["reason"], change["message"]) == (obstacle, "why")
    assert "state" not in change
    shown = a_job(state="Starting", reason=obstacle)
    assert isinstance(step(shown, a_pod(shown, waiting=obstacle)), Nothing)


@pytest.mark.parametrize("usual", ["ContainerCreating", "PodInitializing"])
def test_what_passes_by_itself_is_not(usual: str) -> None:
    job = a_job(state="Starting")
    assert isinstance(step(job, a_pod(job, waiting=usual)), Nothing)


def test_an_image_that_cannot_be_pulled_has_one_reason_and_costs_one_write() -> None:
    """The kubelet goes to and fro between the error and the back-off that follows it."""
    job = a_job(state="Starting")
    change = written(step(job, a_pod(job, waiting="ErrImagePull", waiting_message="not found")))
    assert (change["reason"], change["message"]) == ("ImagePullBackOff", "not found")
    shown = a_job(state="Starting", reason="ImagePullBackOff")
    assert isinstance(step(shown, a_pod(shown, waiting="ErrImagePull")), Nothing)
    assert isinstance(step(shown, a_pod(shown, waiting="ImagePullBackOff")), Nothing)


def test_a_pod_that_did_not_start_in_time_failed() -> None:
    job = a_job(state="Starting", spec={"maxAttempts": 1})
    pod = a_pod(job, unschedulable="0/1 nodes are available")

    assert isinstance(step(job, pod, now=299), Nothing)
    change = written(step(job, pod, now=300))
    assert (change["state"], change["reason"]) == ("Failed", "StartTimeout")
    assert change["message"] == "attempt 1 of 1: not started within 300 s: 0/1 nodes are available"


def test_what_a_late_watch_alone_may_say_is_read_before_it_is_written() -> None:
    job = a_job(state="Starting")
    pod = a_pod(job)
    assert read_before(step(job, pod, now=300)) is pod
    ended = a_pod(job, exit_code=1)
    assert read_before(step(job, ended, now=300)) is None

    parent = a_job("parent", state="Succeeded")
    worker = a_worker(allowedQueues=["a"])
    child = a_job("child", spec={"parent": child_of(parent), "queue": "b"})
    assert read_before(step(child, parent, worker)) is worker


def test_a_pod_being_deleted_before_it_started_is_waited_for_without_a_deadline() -> None:
    """A deadline in the past would have it looked at again at once, for ever."""
    job = a_job(state="Starting")

    assert step(job, a_pod(job, deleting=True), now=5_000) == Nothing()


# Running


def test_running_is_written_only_if_it_lasts() -> None:
    job = a_job(state="Starting")
    pod = a_pod(job, running=10)

    assert step(job, pod, now=12) == Nothing(T0 + 15)
    change = written(step(job, pod, now=15))
    assert (change["state"], change["reason"]) == ("Running", None)
    assert change["pod"] == {"name": pod.name, "uid": pod.uid}
    assert change["startedAt"] == time_of(10)
    assert step(a_job(state="Running"), pod, now=99) == Nothing()


# The end of an attempt


def envelope(outcome: str, **fields: Any) -> Job:
    return a_job(state="Running", attempt=1, report=a_report(RUNNING, outcome, **fields))


@pytest.mark.parametrize(
    ("job", "end"),
    [
        pytest.param(envelope("Succeeded"), ("Succeeded", None), id="succeeded"),
        pytest.param(envelope("Failed"), ("Waiting", "BackingOff"), id="failed, and may try again"),
        pytest.param(envelope("Retry", delaySeconds=7), ("Waiting", "BackingOff"), id="asks for another"),
        pytest.param(envelope("Snoozed", delaySeconds=7), ("Waiting", "NotBefore"), id="snoozes"),
        pytest.param(envelope("Fatal", reason="ArgsInvalid"), ("Failed", "ArgsInvalid"), id="failed for good"),
        pytest.param(envelope("Canceled"), ("Canceled", "Raised"), id="cancels itself"),
    ],
)
def test_each_outcome_leads_to_its_state(job: Job, end: tuple[str, str | None]) -> None:
    assert ends(step(job, a_pod(job, running=1))) == end


@pytest.mark.parametrize("outcome", ["Failed", "Retry"])
def test_the_last_failure_ends_the_job(outcome: str) -> None:
    job = a_job(
        state="Running",
        attempt=7,
        failures=4,
        report=a_report(a_job(attempt=7), outcome, error={"type": "ValueError", "message": "no"}),
    )

    change = written(step(job, a_pod(job, running=1)))

    assert (change["state"], change["reason"], change["failures"]) == ("Failed", "TaskError", 5)
    assert change["message"] == "attempt 5 of 5: ValueError: no"


def test_a_disruption_takes_no_attempt_however_many_there_were() -> None:
    job = a_job(state="Running", attempt=9, failures=4, disruptions=3)

    change = written(step(job, a_pod(job, exit_code=143, deleting=True), now=100))

    assert (change["state"], change["disruptions"]) == ("Waiting", 4)
    assert "failures" not in change
    assert change["nextAttemptAt"] == time_of(108)


def test_an_end_is_not_written_of_an_attempt_that_is_open() -> None:
    assert isinstance(step(RUNNING, a_pod(RUNNING, running=1)), Nothing)


def test_no_attempt_begins_before_the_last_ones_pod_is_over() -> None:
    job = a_job(attempt=1, failures=1, reason="BackingOff", nextAttemptAt=10, attempts=[an_attempt(1, "Failed", at=9)])

    for pod in (a_pod(job, running=1), a_pod(job, exit_code=1, phase="Running"), a_pod(job, running=1, deleting=True)):
        found = step(job, pod, now=20)
        assert isinstance(found, Hold)
        assert found.message == "waits for the end of its last attempt's pod"
    assert isinstance(step(job, a_pod(job, exit_code=1), now=20), Ready)
    assert isinstance(step(job, a_pod(job, running=1, gone=True), now=20), Ready)
    assert isinstance(step(job, a_pod(job, running=1, owner="another"), now=20), Ready)


def test_every_step_of_an_unconfirmed_claim_waits_for_its_answer() -> None:
    """The shell does not ask meanwhile; rivals do, and none of them is skipped for it."""
    winner = unconfirmed(a_job("a", state="Starting", spec={"unique": {"key": "k"}}))
    loser = a_job("b", spec={"unique": {"key": "k"}})

    assert isinstance(step(loser, winner), Hold)


def test_deciding_changes_nothing_in_the_world() -> None:
    job = a_job(state="Running", attempt=1, report=a_report(RUNNING))
    world: World = a_world(a_queue(), a_worker(), job, pod := a_pod(job, running=1))

    assert next_step(world, job, T0, epoch=EPOCH) == next_step(world, job, T0, epoch=EPOCH)
    assert (world.jobs[job.key], world.pods[pod.key]) == (job, pod)
