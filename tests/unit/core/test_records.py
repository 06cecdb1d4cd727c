"""Parsing the API's JSON: every default, every field that a decision looks at, and what a forger may have put there."""

import pytest

from questline_operator.core.records import Job, Queue, Worker
from questline_operator.core.states import State
from questline_operator.core.times import format_time, parse_time
from tests.unit.core.builders import METADATA, a_job, a_queue, a_report, a_worker, uid_of


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
