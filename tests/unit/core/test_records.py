"""Parsing the API's JSON: every default, every field that a decision looks at, and what a forger may have put there."""

import pytest

from questline_operator.core.records import Job, Pod, Queue, Worker
from questline_operator.core.states import State
from questline_operator.core.times import format_time, parse_time
from tests.unit.core.builders import T0, a_job, a_pod, a_queue, a_report, a_worker, uid_of

METADATA = {
    "name": "resize",
    "namespace": "media",
    "uid": "11111111-2222-3333-4444-555555555555",
    "resourceVersion": "42",
    "creationTimestamp": "2026-01-31T08:00:00Z",
}


def test_a_job_that_says_nothing_but_its_task_has_every_default() -> None:
    job = Job.parse({"metadata": METADATA, "spec": {"task": "m:f"}})

    assert (job.key, job.queue_key) == (("media", "resize"), ("media", "default"))
    assert job.state is State.WAITING
    assert (job.attempt, job.failures, job.disruptions, job.finishes, job.epoch) == (0, 0, 0, 0, 0)
    assert (job.parent, job.unique, job.report, job.run_at, job.finished_at) == (None, None, None, None, None)
    assert (tuple(job.after), tuple(job.succeeded_attempts)) == ((), ())
    assert not any((job.cancel, job.suspend, job.deleting, job.active, job.terminal, job.admitted))
    assert job.is_task
    assert job.resource_version == 42


def test_a_parent_is_staged_unless_it_says_otherwise() -> None:
    parent = {"name": "p", "uid": "u", "attempt": 2, "podUID": "pu", "index": 5}

    said_nothing = a_job(spec={"parent": parent}).parent
    said_no = a_job(spec={"parent": {**parent, "staged": False}}).parent

    assert said_nothing is not None
    assert said_no is not None
    assert (said_nothing.name, said_nothing.uid, said_nothing.attempt, said_nothing.pod_uid) == ("p", "u", 2, "pu")
    assert (said_nothing.index, said_nothing.staged, said_no.staged) == (5, True, False)


def test_unique_without_a_scope_is_alive() -> None:
    unique = a_job(spec={"unique": {}}).unique

    assert unique is not None
    assert (unique.key, unique.scope, unique.window_seconds) == (None, "Alive", None)


def test_order_is_creation_then_index_then_name() -> None:
    parent = {"name": "p", "uid": "u", "attempt": 1, "podUID": "pu"}
    jobs = [
        a_job("b", created=0),
        a_job("a", created=1),
        a_job("z", created=0, spec={"parent": {**parent, "index": 2}}),
        a_job("c", created=0, spec={"parent": {**parent, "index": 1}}),
        a_job("aa", created=0),
    ]

    assert [job.name for job in sorted(jobs, key=lambda job: job.order)] == ["aa", "b", "c", "z", "a"]


def test_a_report_of_another_attempt_is_no_report() -> None:
    job = a_job(state="Running", attempt=2)

    assert a_job(state="Running", attempt=2, report=a_report(job, attempt=1)).report is None
    assert a_job(state="Running", attempt=2, report=a_report(job)).report is not None


def test_a_pod_is_named_after_its_job_the_uid_and_the_attempt() -> None:
    job = a_job("resize", uid="abcdef01-2222-3333-4444-555555555555")

    assert job.pod_name(12) == "resize-abcdef01-12"


def test_args_are_counted_in_bytes_of_compact_utf_8() -> None:
    assert a_job(spec={"args": {"a": "é", "b": [1, 2]}}).args_size == len('{"a":"é","b":[1,2]}'.encode())
    assert a_job().args_size == 2


def test_a_queue_has_ten_slots_unless_it_says_otherwise() -> None:
    queue = Queue.parse({"metadata": METADATA})

    assert (queue.concurrency, queue.paused, queue.keep_finished, queue.keep_finished_pods) == (10, False, 10_000, 200)
    assert a_queue(concurrency=0).concurrency == 0


def test_two_records_of_a_queue_that_differ_only_in_their_status_are_equal() -> None:
    one = Queue.parse({"metadata": METADATA, "spec": {}, "status": {"running": 1}})
    two = Queue.parse({"metadata": {**METADATA, "resourceVersion": "43"}, "spec": {}, "status": {"running": 2}})

    assert one == two


@pytest.mark.parametrize(
    ("worker", "ready"),
    [
        pytest.param(a_worker(ready=True), True, id="the check of its present form said yes"),
        pytest.param(a_worker(ready=False, message="no"), False, id="the check of its present form said no"),
        pytest.param(a_worker(ready=None), None, id="nobody has checked it"),
        pytest.param(a_worker(ready=True, checked_generation=2), None, id="it has changed since it was checked"),
    ],
)
def test_a_worker_is_as_ready_as_the_check_of_its_present_form_says(worker: Worker, ready: bool | None) -> None:
    assert worker.ready is ready


def test_a_worker_that_allows_nothing_differs_from_one_that_says_nothing() -> None:
    assert a_worker(allowedQueues=[]).allowed_queues == ()
    assert a_worker().allowed_queues is None
    assert a_worker().start_timeout_seconds == 300


@pytest.mark.parametrize("label", ["-1", "1.5", "x", "", "٣", "1" * 16, "1e3", " 1"])
def test_a_forged_attempt_label_counts_as_zero(label: str) -> None:
    raw = {"metadata": {**METADATA, "labels": {"questline.dev/job": "j", "questline.dev/attempt": label}}}

    assert Pod.parse(raw).attempt == 0


def test_only_a_controlling_owner_of_kind_job_owns_a_pod() -> None:
    def pod(**owner: object) -> Pod:
        return Pod.parse({"metadata": {**METADATA, "ownerReferences": [{"uid": "u", **owner}]}})

    assert pod(kind="Job", controller=True).owner_uid == "u"
    assert pod(kind="Job").owner_uid == ""
    assert pod(kind="ReplicaSet", controller=True).owner_uid == ""


def test_a_pod_that_nobody_has_scheduled_is_pending_and_live() -> None:
    pod = Pod.parse({"metadata": METADATA})

    assert (pod.phase, pod.started, pod.ended, pod.live) == ("Pending", False, False, True)


@pytest.mark.parametrize(
    ("pod", "ended", "over"),
    [
        pytest.param(a_pod(a_job(attempt=1)), False, False, id="pending"),
        pytest.param(a_pod(a_job(attempt=1), running=1), False, False, id="running"),
        pytest.param(a_pod(a_job(attempt=1), exit_code=0), True, True, id="succeeded"),
        pytest.param(a_pod(a_job(attempt=1), exit_code=1), True, True, id="failed"),
        pytest.param(
            a_pod(a_job(attempt=1), exit_code=0, phase="Running"),
            True,
            False,
            id="ended, while a sidecar of it runs on",
        ),
        pytest.param(a_pod(a_job(attempt=1), phase="Failed", reason="OutOfcpu"), True, True, id="refused by its node"),
        pytest.param(
            a_pod(a_job(attempt=1), running=1, phase="Failed"),
            False,
            False,
            id="failed by the control plane, its container last seen running on a node that is lost",
        ),
        pytest.param(a_pod(a_job(attempt=1), running=1, gone=True), True, True, id="gone"),
    ],
)
def test_a_slot_ends_with_the_container_and_a_pod_with_all_of_it(pod: Pod, ended: bool, over: bool) -> None:
    assert (pod.ended, pod.live, pod.over) == (ended, not ended, over)


def test_a_pods_end_is_read_from_the_container_worker_alone() -> None:
    pod = a_pod(a_job(attempt=1), exit_code=3, finished=9, started=4, message="bye", end_reason="Error", signal=9)

    assert (pod.exit_code, pod.end_reason, pod.termination_message, pod.signal) == (3, "Error", "bye", 9)
    assert (pod.started_at, pod.finished_at) == (T0 + 4, T0 + 9)


def test_a_disruption_condition_that_is_false_is_none() -> None:
    condition = {"type": "DisruptionTarget", "status": "False", "reason": "EvictionByEvictionAPI"}
    pod = a_pod(a_job(attempt=1), running=1, extra_status={"conditions": [condition]})

    assert pod.disruption == ""


def test_uids_of_the_builders_look_like_uids() -> None:
    assert len(uid_of("x")) == 36


@pytest.mark.parametrize(
    "text", ["2026-01-31T08:00:00Z", "2026-01-31T10:00:00+02:00", "2026-01-31T08:00:00.000000000Z"]
)
def test_a_time_is_the_same_moment_in_any_offset(text: str) -> None:
    assert format_time(parse_time(text)) == "2026-01-31T08:00:00.000000Z"


def test_a_time_without_an_offset_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match="no UTC offset: write it as"):
        parse_time("2026-01-31T08:00:00")
