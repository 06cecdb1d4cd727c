"""`drain` and `advance`: everything to its end, as the operator's core decides."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from questline import Task, enqueue_many, job
from questline import testing as kit
from questline_operator.core import lineage
from tests.unit.testing import shop
from tests.unit.testing.conftest import START


def spans(cluster: kit.Cluster, queue: str) -> list[tuple[float, float]]:
    """When each attempt of a queue ran, in seconds from the beginning."""
    attempts = [attempt for job in cluster.jobs(queue=queue) for attempt in job.attempts]
    return [((a.started_at - START).total_seconds(), (a.finished_at - START).total_seconds()) for a in attempts]


def most_at_once(ran: list[tuple[float, float]]) -> int:
    return max(sum(begin <= moment < end for begin, end in ran) for moment, _ in ran)


def test_a_chain_runs_link_by_link_and_time_jumps_to_what_is_due(cluster: kit.Cluster) -> None:
    shop.process_upload.enqueue("f")
    ended = cluster.drain()
    assert [job.task.partition(":")[2] for job in ended] == ["process_upload", "generate_thumbnail", "notify_user"]
    assert [job.result for job in ended] == [{"processed": True}, "f.png", None]
    assert shop.log == ["notified of f"]
    # Three attempts of a second; the delay counts from the enqueue, a second before its parent had succeeded.
    assert cluster.now == START + timedelta(seconds=1 + 300 + 1)


def test_a_retried_parent_leaves_one_set_of_children_run(cluster: kit.Cluster) -> None:
    shop.process_upload.enqueue("f", failures=2)
    cluster.drain()
    thumbnails = cluster.jobs(shop.generate_thumbnail)
    assert [job.reason for job in thumbnails] == ["ParentFailed", "ParentFailed", ""]
    assert shop.log == ["notified of f"]


def test_a_job_fails_when_its_attempts_are_used_up(cluster: kit.Cluster) -> None:
    shop.ends.enqueue("ValueError")
    (job,) = cluster.drain()
    assert (job.state, job.reason, job.message) == ("Failed", "TaskError", "attempt 3 of 3: ValueError: it broke")
    assert [attempt.number for attempt in job.attempts] == [1, 2, 3]
    assert isinstance(job.exception, ValueError)


def test_the_backoff_of_its_queue_passes_between_attempts(cluster: kit.Cluster) -> None:
    cluster.queue("default", backoff={"base": 60, "jitter": 0}, max_attempts=4)
    shop.echo.enqueue(1)
    shop.succeeds_at.options(backoff=None).enqueue(9)
    cluster.drain()
    starts = [attempt.started_at for attempt in cluster.jobs(shop.succeeds_at)[0].attempts]
    assert [(start - START).total_seconds() for start in starts] == [0, 61, 182, 423]


def test_a_failure_is_raised_only_where_the_test_asks(cluster: kit.Cluster) -> None:
    shop.ends.enqueue("Fail")
    with pytest.raises(
        kit.JobsFailed, match=r"1 of 1 Jobs failed:\n  Job ends-000001, ends\(how='Fail'\): Failed"
    ) as told:
        cluster.drain(raise_failures=True)
    assert str(told.value.__cause__) == "no"
    assert cluster.drain(raise_failures=True) == []


def test_a_join_waits_for_all_and_is_told_their_results(cluster: kit.Cluster) -> None:
    cluster.queue("emails", concurrency=2)
    shop.send_broadcast.enqueue("m", ["a@example.com", "b@other.example", "nobody", "c@example.com"])
    cluster.drain()
    (report,) = cluster.jobs(shop.report)
    assert report.result == "2 of 4"
    (after_success,) = cluster.jobs(shop.nothing)
    assert (after_success.state, after_success.reason) == ("Skipped", "UpstreamFailed")
    assert most_at_once(spans(cluster, "emails")) == 2


def test_what_is_enqueued_twice_within_the_window_runs_once(cluster: kit.Cluster) -> None:
    for _ in range(2):
        shop.send_broadcast.enqueue("m", ["a@example.com", "b@example.com"])
    cluster.drain()
    assert sorted(shop.log) == ["a@example.com", "all were sent", "all were sent", "b@example.com"]
    assert [job.result for job in cluster.jobs(shop.report)] == ["2 of 2", "2 of 2"]
    duplicates = [job for job in cluster.jobs(shop.send_email) if job.reason == "Duplicate"]
    assert {cluster.job(job.duplicate_of or "").state for job in duplicates} == {"Succeeded"}
    cluster.advance("2d")
    shop.send_email.enqueue("m", "a@example.com")
    cluster.drain()
    assert shop.log.count("a@example.com") == 2


def test_a_key_without_a_window_is_free_again_when_its_job_has_ended(cluster: kit.Cluster) -> None:
    once = shop.nothing.options(unique=True)
    once.enqueue("x")
    once.enqueue("x")
    cluster.drain()
    once.enqueue("x")
    cluster.drain()
    assert [job.reason for job in cluster.jobs()] == ["", "Duplicate", ""]


def test_a_queue_runs_as_many_at_once_as_it_may_and_the_first_priority_first(cluster: kit.Cluster) -> None:
    cluster.queue("media", concurrency=3)
    task = shop.nothing.options(queue="media")
    enqueue_many(task.call(str(n)) for n in range(9))
    task.options(priority=9).enqueue("urgent")
    cluster.drain()
    assert shop.log[0] == "urgent"
    assert shop.log[1:] == [str(n) for n in range(9)]
    assert most_at_once(spans(cluster, "media")) == 3
    assert cluster.now == START + timedelta(seconds=4)


def test_a_key_a_rate_and_the_operators_limit_hold_up_what_they_should() -> None:
    with kit.cluster(now=START, max_running_pods=2) as cluster:
        cluster.queue("keys", per_key_concurrency=1)
        for key in ("a", "a", "b"):
            shop.nothing.options(queue="keys", concurrency_key=key).enqueue(key)
        cluster.drain()
        assert shop.log == ["a", "b", "a"]
        cluster.queue("slow", rate=(2, "1m"))
        enqueue_many(shop.nothing.options(queue="slow").call() for _ in range(5))
        cluster.drain()
        assert [begin // 60 for begin, _ in spans(cluster, "slow")] == [0, 0, 1, 1, 2]
        enqueue_many(shop.nothing.options(queue="wide").call() for _ in range(5))
        cluster.drain()
        assert most_at_once(spans(cluster, "wide")) == 2


def test_a_snooze_counts_as_no_failure(cluster: kit.Cluster) -> None:
    shop.snoozes.options(max_attempts=1).enqueue(7)
    (job,) = cluster.drain()
    assert (job.state, job.result, job.failures) == ("Succeeded", 8, 0)
    assert cluster.now == START + timedelta(hours=7, seconds=8)


@pytest.mark.parametrize(("how", "state", "reason"), [("Cancel", "Canceled", "Raised"), ("Fail", "Failed", "Fail")])
def test_a_task_may_end_its_job_at_once(cluster: kit.Cluster, how: str, state: str, reason: str) -> None:
    shop.ends.enqueue(how)
    assert [(job.state, job.reason, job.attempt) for job in cluster.drain()] == [(state, reason, 1)]


def test_a_child_that_is_not_staged_starts_before_its_parent_has_ended(cluster: kit.Cluster) -> None:
    shop.at_once.enqueue(False)
    cluster.drain()
    assert shop.log == ["at once", "afterwards"]
    first, second = cluster.jobs(shop.nothing)
    assert (first.attempts[0].started_at, second.attempts[0].started_at) == (START, START + timedelta(seconds=1))


@pytest.mark.parametrize("fail", [True, False])
def test_a_child_that_waits_for_a_slot_is_skipped_as_soon_as_its_parent_fails(cluster: kit.Cluster, fail: bool) -> None:
    cluster.queue("default", concurrency=0)
    shop.at_once.options(queue="other").enqueue(fail)
    cluster.drain()
    first, second = cluster.jobs(shop.nothing)
    assert (first.reason, second.reason) == (("ParentFailed",) * 2 if fail else ("AtConcurrencyLimit",) * 2)


def test_advance_goes_so_far_and_no_further(cluster: kit.Cluster) -> None:
    shop.nothing.options(delay="1h").enqueue("late")
    cluster.advance("59m")
    assert shop.log == []
    assert cluster.now == START + timedelta(minutes=59)
    cluster.advance("2m")
    assert shop.log == ["late"]
    assert cluster.now == START + timedelta(minutes=61)


def test_an_attempt_that_takes_longer_than_its_timeout_is_stopped(
    cluster: kit.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.takes.enqueue("59s")
    shop.takes.enqueue("61s")
    cluster.drain()
    done, stopped = cluster.jobs()
    assert (done.state, done.result) == ("Succeeded", "done")
    assert (stopped.state, stopped.reason) == ("Failed", "Timeout")
    assert stopped.finished_at == START + timedelta(minutes=1)
    assert shop.log == ["cleaned up", "cleaned up"]
    monkeypatch.setattr(time, "sleep", cluster.advance)
    shop.takes.enqueue("sleep")
    assert [job.result for job in cluster.drain()] == ["done"]


def test_a_task_that_asks_whether_it_is_to_stop_leaves_by_itself_within_the_grace(cluster: kit.Cluster) -> None:
    shop.waits_to_be_stopped.enqueue()
    shop.waits_to_be_stopped.enqueue(goes_on_for=40)
    cluster.drain()
    in_time, too_late = cluster.jobs()
    assert (in_time.result, in_time.finished_at) == ("left by itself", START + timedelta(minutes=1))
    assert (too_late.reason, too_late.finished_at) == ("Timeout", START + timedelta(seconds=90))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (shop.polls, r"^100 attempts have run .*: Job polls-000001 of .*:polls alone has run 100 times"),
        (shop.goes_on, r"^100 attempts have run .*: 100 of them were of .*:goes_on, the last in Job goes-on-0"),
        (shop.never_stopped, r"Job never-stopped-000001 of .*: its attempt 1 has let more than 366 days pass"),
    ],
)
def test_what_never_ends_is_told_by_its_name(cluster: kit.Cluster, task: Task[[], Any, Any], said: str) -> None:
    task.enqueue()
    with pytest.raises(kit.Endless, match=said):
        cluster.drain(limit=100)


def test_jobs_that_enqueue_themselves_end_where_the_operator_ends_them(
    cluster: kit.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "MAX_DEPTH", 20)
    shop.goes_on.enqueue()
    cluster.drain()
    last = cluster.jobs()[-1]
    assert (last.reason, last.args) == ("TooDeep", {"n": 21})


def test_a_cancel_takes_all_descendants_along(cluster: kit.Cluster) -> None:
    handle = shop.process_upload.enqueue("f")
    cluster.advance("1m")
    cluster.cancel(handle)
    cluster.drain()
    assert [(job.state, job.reason) for job in cluster.jobs()] == [
        ("Succeeded", ""),
        ("Succeeded", ""),
        ("Canceled", "AncestorCanceled"),
    ]
    assert shop.log == []


def test_a_cancel_ends_an_attempt_that_is_under_way(cluster: kit.Cluster) -> None:
    handle = shop.takes.options(timeout="1h").enqueue("30m")
    cluster.advance("10m")
    assert cluster.job(handle).state == "Running"
    cluster.cancel(handle)
    job = cluster.job(handle)
    assert (job.state, job.reason, job.finished_at) == ("Canceled", "Requested", START + timedelta(minutes=10))


def test_a_failed_chain_resumes_by_a_rerun(cluster: kit.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.in_order.enqueue(["one", "two", "three"])
    monkeypatch.setattr(shop.nothing, "_function", lambda label: 1 / 0)
    cluster.drain()
    first, *rest = cluster.jobs(shop.nothing)
    assert [job.reason for job in (first, *rest)] == ["TaskError", "UpstreamFailed", "UpstreamFailed"]
    monkeypatch.undo()
    cluster.rerun(first)
    cluster.drain()
    assert shop.log == ["one", "two", "three"]
    assert {job.state for job in cluster.jobs()} == {"Succeeded"}


def test_a_queue_or_worker_that_nobody_defined_is_there_unless_the_test_is_strict() -> None:
    jobs = [shop.nothing.options(queue="media"), shop.nothing.options(worker="gpu"), shop.nothing]
    with kit.cluster() as cluster:
        enqueue_many(task.call() for task in jobs)
        assert {job.state for job in cluster.drain()} == {"Succeeded"}
    with kit.cluster(strict=True) as cluster:
        enqueue_many(task.call() for task in jobs)
        cluster.drain()
        assert [job.reason for job in cluster.jobs()] == ["QueueNotFound", "WorkerNotFound", ""]
        cluster.queue("media")
        cluster.worker("gpu")
        assert {job.state for job in cluster.drain()} == {"Succeeded"}


def test_a_worker_lets_its_children_go_only_where_it_may(cluster: kit.Cluster) -> None:
    cluster.worker("default", allowed_queues=["media"])
    shop.process_upload.enqueue("f")
    cluster.drain()
    assert cluster.jobs(shop.notify_user)[0].reason == "QueueNotAllowed"


def test_a_paused_queue_holds_its_jobs_until_it_goes_on(cluster: kit.Cluster) -> None:
    cluster.queue("default", paused=True)
    shop.nothing.enqueue()
    assert cluster.drain() == []
    assert [(job.state, job.reason) for job in cluster.jobs()] == [("Waiting", "QueuePaused")]
    cluster.queue("default", paused=False)
    assert len(cluster.drain()) == 1


def test_manifests_run_as_they_are(cluster: kit.Cluster) -> None:
    after = {"task": shop.nothing.name, "args": {"label": "b"}, "after": [{"job": "a"}], "afterPolicy": "Finished"}
    cluster.apply(
        {"kind": "Job", "metadata": {"name": "b"}, "spec": after},
        {"kind": "Job", "metadata": {"name": "a"}, "spec": {"task": "no.such:task"}},
        {"kind": "Queue", "metadata": {"name": "default"}, "spec": {"concurrency": 1}},
    )
    cluster.drain()
    assert [(job.name, job.state, job.reason) for job in cluster.jobs()] == [
        ("b", "Succeeded", ""),
        ("a", "Failed", "TaskNotFound"),
    ]
    cluster.apply({"kind": "Job", "metadata": {"name": "b"}, "spec": {"rerun": 1}})
    assert [job.name for job in cluster.drain()] == ["b"]
    with pytest.raises(kit.KitError, match="Job c has no task: the test kit has no containers"):
        cluster.apply({"kind": "Job", "metadata": {"name": "c"}, "spec": {"command": ["true"]}})
    with pytest.raises(kit.KitError, match="x is a Pod: the test kit has Jobs, Queues, Workers and Schedules"):
        cluster.apply({"kind": "Pod", "metadata": {"name": "x"}})


@job(timeout="1h")
def enqueues_late() -> None:
    kit.advance("90.5s")
    shop.nothing.options(stage=False).enqueue("at once")
    shop.nothing.enqueue("afterwards")
    kit.advance("10m")


def test_what_a_task_enqueues_is_created_when_so_much_of_its_attempt_has_passed(cluster: kit.Cluster) -> None:
    cluster.run(enqueues_late)
    made = {job.args["label"]: (job.created_at - START).total_seconds() for job in cluster.jobs(shop.nothing)}
    assert made == {"at once": 90, "afterwards": 90}


def test_a_child_does_not_start_before_it_is_enqueued(cluster: kit.Cluster) -> None:
    enqueues_late.enqueue()
    cluster.advance("90s")
    assert [(job.state, job.reason) for job in cluster.jobs(shop.nothing)] == [("Waiting", ""), ("Waiting", "Staged")]
    cluster.drain()
    starts = [job.attempts[0].started_at - START for job in cluster.jobs(shop.nothing)]
    assert [start.total_seconds() for start in starts] == [90.5, 690.5]
    assert shop.log == ["at once", "afterwards"]
