"""For any Job one true sentence, with its numbers."""

import pytest

from questline_operator.core.records import Job
from questline_operator.core.states import Reason, State
from questline_operator.core.why import why
from questline_operator.core.world import World
from tests.unit.core.builders import (
    T0,
    a_job,
    a_pod,
    a_queue,
    a_report,
    a_worker,
    a_world,
    an_attempt,
    child_of,
    time_of,
    unconfirmed,
)
from tests.unit.core.steps import Record

NOW = 30.0
UPSTREAM = [{"job": "upstream"}]
PARENT = a_job("parent", state="Running")
MEDIA = {"queue": "media"}
RUNNING = a_job(state="Running", attempt=2, failures=1)

# (the Job, the other records, reason, sentence)
WAITING: list[tuple[str, Job, list[Record], str, str]] = [
    (
        "its parent's attempt runs",
        a_job(spec={"parent": child_of(PARENT)}),
        [PARENT],
        "Staged",
        "waits for attempt 1 of its parent parent to succeed",
    ),
    (
        "another is to end first",
        a_job(spec={"after": UPSTREAM}),
        [a_job("upstream")],
        "DependencyPending",
        "waits for Job upstream, which is Waiting",
    ),
    (
        "another does not exist",
        a_job(spec={"after": UPSTREAM}),
        [],
        "DependencyMissing",
        "waits for Job upstream, which does not exist",
    ),
    (
        "it is not due",
        a_job(spec={"runAt": time_of(60)}),
        [],
        "NotBefore",
        f"waits until {time_of(60)}, its spec.runAt",
    ),
    (
        "its task snoozed",
        a_job(attempt=1, reason="NotBefore", nextAttemptAt=60, message="not approved yet"),
        [],
        "NotBefore",
        f"waits until {time_of(60)}: not approved yet",
    ),
    (
        "it backs off",
        a_job(attempt=1, failures=1, reason="BackingOff", nextAttemptAt=60, message="attempt 1 of 5: ValueError: no"),
        [],
        "BackingOff",
        f"waits until {time_of(60)}, after attempt 1 of 5: ValueError: no",
    ),
    (
        "its former pod lives on",
        former := a_job(attempt=1, failures=1, attempts=[an_attempt(1, "Failed", at=25)]),
        [a_pod(former, running=1)],
        "BackingOff",
        "waits for the end of its last attempt's pod",
    ),
    (
        "its former pod is to go",
        former,
        [a_pod(a_job(attempt=1, failures=1), running=1)],
        "BackingOff",
        "waits for the end of its last attempt's pod",
    ),
    (
        "its pod was refused",
        a_job(attempt=1, reason="PodRejected", nextAttemptAt=60, message="exceeded quota: pods"),
        [],
        "PodRejected",
        f"waits until {time_of(60)}, for its pod is refused: exceeded quota: pods",
    ),
    (
        "another's pod was refused",
        a_job("b", spec=MEDIA),
        [
            a_queue("media"),
            a_job("a", spec=MEDIA, attempt=1, reason="PodRejected", nextAttemptAt=60, message="exceeded quota: pods"),
        ],
        "PodRejected",
        "waits until a pod of queue media is taken: Job a's was refused, exceeded quota: pods",
    ),
    ("it is suspended", a_job(spec={"suspend": True}), [], "Suspended", "is held: spec.suspend is true"),
    (
        "its queue is paused",
        a_job(spec=MEDIA),
        [a_queue("media", paused=True), a_job("r", spec=MEDIA, state="Running"), a_job("w", spec=MEDIA)],
        "QueuePaused",
        "waits for queue media, which is paused: 1 of its Jobs run on, 2 wait",
    ),
    (
        "its queue does not exist",
        a_job(spec={"queue": "nowhere"}),
        [],
        "QueueNotFound",
        "cannot run: spec.queue is nowhere: there is no Queue of that name here",
    ),
    (
        "its Worker does not exist",
        a_job(spec={"worker": "nobody"}),
        [],
        "WorkerNotFound",
        "cannot run: there is no Worker nobody in namespace default",
    ),
    (
        "its Worker is bad",
        a_job(),
        [a_worker(ready=False, message="no such image")],
        "WorkerNotReady",
        "cannot run: Worker default is not ready: no such image",
    ),
    (
        "another of its unique key is first",
        a_job("b", spec={"unique": {"key": "k"}}),
        [a_job("a", spec={"unique": {"key": "k"}})],
        "AtConcurrencyLimit",
        "waits for Job a, which is first of the same unique key",
    ),
    (
        "another of its unique key is being claimed",
        a_job("b", spec={"unique": {"key": "k"}}),
        [unconfirmed(a_job("a", spec={"unique": {"key": "k"}}, state="Starting"))],
        "AtConcurrencyLimit",
        "waits for the claim of Job a, of the same unique key",
    ),
    (
        "all slots are taken",
        a_job("z", spec=MEDIA),
        [
            a_queue("media", concurrency=2),
            *(a_job(f"r{n}", spec=MEDIA, state="Running") for n in range(2)),
            *(a_job(f"w{n}", spec=MEDIA) for n in range(17)),
            a_job("later", spec=MEDIA, created=5),
            a_job("lower", spec={**MEDIA, "priority": -1}),
            a_job("held", spec={**MEDIA, "suspend": True}),
            a_job("elsewhere"),
        ],
        "AtConcurrencyLimit",
        "waits for a slot: queue media runs 2 of 2, 17 before it",
    ),
    (
        "its queue has no slot at all",
        a_job(spec=MEDIA),
        [a_queue("media", concurrency=0)],
        "AtConcurrencyLimit",
        "waits for a slot: queue media runs 0 of 0, 0 before it",
    ),
    (
        "the slots that are free go to those before it",
        a_job("z", spec=MEDIA),
        [a_queue("media", concurrency=2), a_job("a", spec=MEDIA), a_job("b", spec=MEDIA)],
        "AtConcurrencyLimit",
        "waits for a slot: queue media runs 0 of 2, 2 before it",
    ),
    (
        "a slot is free",
        a_job(spec=MEDIA),
        [a_queue("media", concurrency=2), a_job("r", spec=MEDIA, state="Running")],
        "AtConcurrencyLimit",
        "waits for a slot: queue media runs 1 of 2, 0 before it, so it is to be claimed now; if it is not, see whether "
        "the operator runs, and its maxRunningPods",
    ),
    (
        "its key is busy",
        a_job(spec={**MEDIA, "key": "k"}),
        [
            a_queue("media", concurrency=9, perKeyConcurrency=1),
            a_job("r", spec={**MEDIA, "key": "k"}, state="Running"),
        ],
        "KeyBusy",
        "waits for its key: queue media runs 1 of 1 of key 'k'",
    ),
    (
        "its queue has started as many as its rate lets it",
        a_job(spec=MEDIA),
        [
            a_queue("media", rateLimit={"count": 1, "periodSeconds": 60}),
            a_job("r", spec=MEDIA, state="Running", startedAt=20),
        ],
        "RateLimited",
        f"waits for the rate of queue media, 1 starts in 60 s: the next one at {time_of(80)}",
    ),
    (
        "its parent failed",
        a_job(spec={"parent": child_of(PARENT)}),
        [a_job("parent", state="Waiting", attempt=1, failures=1)],
        "ParentFailed",
        "is about to be Skipped (ParentFailed): attempt 1 of its parent parent did not succeed",
    ),
    (
        "it is canceled",
        a_job(spec={"cancel": True}),
        [],
        "Requested",
        "is about to be Canceled (Requested): spec.cancel is true",
    ),
]


def the_world(*records: Record) -> World:
    """With a queue and a Worker `default`, unless they are given."""
    return a_world(a_queue(), a_worker(), *records)


@pytest.mark.parametrize(
    ("job", "others", "reason", "sentence"), [pytest.param(*case, id=name) for name, *case in WAITING]
)
def test_a_waiting_job_says_what_it_waits_for(job: Job, others: list[Record], reason: str, sentence: str) -> None:
    found = why(the_world(job, *others), job, T0 + NOW)
    assert (found.state, found.reason, found.sentence) == (job.state, reason, sentence)


def test_every_reason_of_waiting_has_its_sentence() -> None:
    waiting = {
        *(Reason.STAGED, Reason.DEPENDENCY_PENDING, Reason.DEPENDENCY_MISSING, Reason.NOT_BEFORE, Reason.BACKING_OFF),
        *(Reason.AT_CONCURRENCY_LIMIT, Reason.QUEUE_PAUSED, Reason.SUSPENDED, Reason.QUEUE_NOT_FOUND),
        *(Reason.WORKER_NOT_FOUND, Reason.WORKER_NOT_READY, Reason.POD_REJECTED),
        *(Reason.KEY_BUSY, Reason.RATE_LIMITED),
    }
    assert waiting - {reason for _, _, _, reason, _ in WAITING} == set()


def test_what_waits_for_a_moment_says_which() -> None:
    job = a_job(spec={"runAt": time_of(60)})
    assert why(the_world(job), job, T0 + NOW).until == T0 + 60


def test_the_default_queue_that_is_not_made_yet_is_waited_for() -> None:
    job = a_job()
    assert why(a_world(job), job, T0).sentence == "waits for Queue default, which the operator is to make"


@pytest.mark.parametrize(
    ("job", "others", "sentence"),
    [
        pytest.param(
            starting := a_job(state="Starting", startedAt=20),
            [],
            f"has its slot for 10 s: pod {starting.pod_name(1)} is being created",
            id="no pod yet",
        ),
        pytest.param(
            starting,
            [a_pod(starting, unschedulable="0/3 nodes are available: 3 Insufficient cpu.")],
            f"cannot start its attempt 1 yet: no node takes pod {starting.pod_name(1)}, 0/3 nodes are available: "
            "3 Insufficient cpu.",
            id="no node",
        ),
        pytest.param(
            starting,
            [a_pod(starting, waiting="ImagePullBackOff", waiting_message="no such image")],
            "cannot start its attempt 1 yet: ImagePullBackOff, no such image",
            id="no image",
        ),
        pytest.param(
            starting,
            [a_pod(starting, waiting="ContainerCreating")],
            f"cannot start its attempt 1 yet: pod {starting.pod_name(1)} is Pending (ContainerCreating)",
            id="being created",
        ),
        pytest.param(
            RUNNING,
            [a_pod(RUNNING, running=18)],
            f"runs its attempt 2 for 12 s in pod {RUNNING.pod_name(2)} of Worker default, 1 of 5 failures so far",
            id="runs",
        ),
        pytest.param(
            timed := a_job(state="Running", spec={"timeoutSeconds": 90, "image": "busybox", "command": ["true"]}),
            [a_pod(timed, running=18, created=15)],
            f"runs its attempt 1 for 12 s in pod {timed.pod_name(1)} of Worker default, 0 of 5 failures so far, "
            f"at most until {time_of(105)}",
            id="runs with a limit",
        ),
        pytest.param(
            RUNNING,
            [a_pod(RUNNING, running=18, deleting=True)],
            f"loses its attempt 2: pod {RUNNING.pod_name(2)} is to end within its grace",
            id="its pod is being deleted",
        ),
        pytest.param(
            canceling := a_job(state="Running", reason="Canceling", spec={"cancel": True}),
            [a_pod(canceling, running=18, deleting=True)],
            f"is being canceled: pod {canceling.pod_name(1)} is to end within its grace",
            id="is being canceled",
        ),
        pytest.param(
            reported := a_job(state="Running", report=a_report(a_job(attempt=1), "Failed", message="ValueError: no")),
            [a_pod(reported, running=18)],
            "has ended its attempt 1 (Failed: ValueError: no), which is being written",
            id="has reported",
        ),
        pytest.param(
            a_job(state="Succeeded", attempt=3, failures=2, attempts=[an_attempt(3, at=10, startedAt=time_of(7.5))]),
            [],
            f"succeeded at {time_of(10)} in attempt 3 after 2.5 s, 2 failed before",
            id="succeeded",
        ),
        pytest.param(
            a_job(state="Failed", attempt=5, failures=5, reason="TaskError", message="attempt 5 of 5: ValueError: no"),
            [],
            f"failed at {time_of(10)} (TaskError): attempt 5 of 5: ValueError: no",
            id="failed",
        ),
        pytest.param(
            a_job(state="Canceled", reason="Requested", message="spec.cancel is true"),
            [],
            f"was canceled at {time_of(10)} (Requested): spec.cancel is true",
            id="canceled",
        ),
        pytest.param(
            a_job(state="Skipped", reason="Duplicate", message="Job a has the same unique key"),
            [],
            f"was skipped at {time_of(10)} (Duplicate): Job a has the same unique key",
            id="skipped",
        ),
        pytest.param(
            a_job(state="Failed", reason="Fail", message="no", spec={"rerun": 1}),
            [],
            f"failed at {time_of(10)} (Fail): no, and is about to run again",
            id="runs again",
        ),
        pytest.param(a_job(deleting=True), [], "is being deleted", id="is being deleted"),
    ],
)
def test_a_job_that_does_not_wait_says_what_it_does_or_how_it_ended(
    job: Job, others: list[Record], sentence: str
) -> None:
    assert why(the_world(job, *others), job, T0 + NOW).sentence == sentence


@pytest.mark.parametrize("state", State)
def test_a_job_of_any_state_with_nothing_else_known_has_a_sentence(state: State) -> None:
    job = a_job(state=state)
    assert why(the_world(job), job, T0).sentence


def test_a_job_that_cannot_start_says_until_when_it_may_try() -> None:
    job = a_job(state="Starting", startedAt=20)
    found = why(the_world(job, a_pod(job, waiting="ImagePullBackOff")), job, T0 + NOW)
    assert found.until == T0 + 20 + 300
