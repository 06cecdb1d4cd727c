"""`run`: one attempt of a task here and now."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from questline import ArgsInvalid, OptionInvalid, attempt, current, job
from questline import testing as kit
from questline_operator.core.records import Job
from questline_operator.core.settings import backoff_seconds
from tests.unit.testing import shop
from tests.unit.testing.conftest import START


def test_args_and_result_are_what_comes_through_json(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.invoice, [shop.Order("a", Decimal("1.10")), shop.Order("b", Decimal("2.20"))])
    assert outcome.result == shop.Order("sum", Decimal("3.30"), date(2026, 1, 31))
    assert outcome.job.manifest["status"]["result"] == {"id": "sum", "total": "3.30", "due": "2026-01-31"}
    assert outcome.job.args["orders"][1] == shop.Order("b", Decimal("2.20"))


def test_the_outcome_goes_the_way_that_a_pod_reports_it(
    cluster: kit.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    job = cluster.run(shop.echo, "x").job
    report = job.manifest["status"]["report"]
    assert (report["outcome"], report["result"], report["attempt"]) == ("Succeeded", "x", 1)
    assert capfd.readouterr() == ("", "")


def test_a_number_is_what_the_api_server_makes_of_it(cluster: kit.Cluster) -> None:
    assert repr(cluster.run(shop.echo, {"whole": 1.0, "half": 0.5}).result) == "{'whole': 1, 'half': 0.5}"
    assert cluster.run(shop.echo, 1.0).succeeded


def test_args_are_refused_as_at_any_enqueue(cluster: kit.Cluster) -> None:
    with pytest.raises(ArgsInvalid, match=r"args.message_id: expected str, got int 3"):
        cluster.run(shop.send_email, 3, "a@example.com")  # type: ignore[call-overload]
    with pytest.raises(ArgsInvalid, match="200,012 bytes of JSON, 131,072 are allowed"):
        cluster.run(shop.echo, "x" * 200_000)
    assert cluster.jobs() == []


@pytest.mark.parametrize(
    ("how", "kind", "reason", "message", "delay"),
    [
        ("Retry", "Retry", "TaskError", "busy", 90.0),
        ("Snooze", "Snoozed", "", "early", 5.0),
        ("Fail", "Fatal", "Fail", "no", None),
        ("Cancel", "Canceled", "Raised", "gone", None),
        ("large", "Fatal", "ResultInvalid", "the result of tests.unit.testing.shop:ends is 4,002 bytes", None),
        ("exit", "Failed", "TaskError", "SystemExit: the task called sys.exit(3)", "backoff"),
        ("ValueError", "Failed", "TaskError", "ValueError: it broke", "backoff"),
    ],
)
def test_every_end_of_a_task_is_told_as_the_operator_would_have_it(
    cluster: kit.Cluster, how: str, kind: str, reason: str, message: str, delay: Any
) -> None:
    outcome = cluster.run(shop.ends, how)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert outcome.message.startswith(message)
    if delay == "backoff":
        delay = pytest.approx(backoff_seconds(Job.parse(outcome.job.manifest), None, 1), abs=1e-5)
    assert outcome.delay_seconds == delay
    assert outcome.job.state == ("Waiting" if delay is not None else "Canceled" if kind == "Canceled" else "Failed")


def test_what_the_task_raised_is_at_hand_itself_and_as_the_status_keeps_it(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.ends, "ValueError")
    assert isinstance(outcome.exception, ValueError)
    assert outcome.error is not None
    assert (outcome.error["type"], outcome.error["message"]) == ("ValueError", "it broke")
    assert 'raise ValueError("it broke")' in outcome.error["traceback"]
    with pytest.raises(kit.KitError, match=r"no result: it ended Failed \(TaskError\): ValueError: it broke") as told:
        print(outcome.result)
    assert told.value.__cause__ is outcome.exception


@pytest.mark.parametrize("how", ["ValueError", "Retry"])
def test_what_the_task_raised_has_no_error_of_the_kit_behind_it(cluster: kit.Cluster, how: str) -> None:
    outcome = cluster.run(shop.ends, how)
    assert outcome.exception is not None
    assert outcome.exception.__context__ is None
    assert "running event loop" not in str(outcome.error)


def test_its_children_are_shown_and_left_to_drain(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.send_broadcast, "m", ["a@example.com", "b@example.com"])
    assert [(child.task.partition(":")[2], child.args) for child in outcome.children] == [
        ("send_email", {"message_id": "m", "recipient": "a@example.com"}),
        ("send_email", {"message_id": "m", "recipient": "b@example.com"}),
        ("report", {"message_id": "m"}),
        ("nothing", {"label": "all were sent"}),
    ]
    assert [child.parent for child in outcome.children] == [outcome.job.name] * 4
    assert shop.log == []
    assert cluster.enqueued() == list(outcome.children)


def test_the_children_of_an_attempt_that_failed_will_not_run(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.process_upload, "f", failures=1)
    assert [(child.state, child.reason) for child in outcome.children] == [("Skipped", "ParentFailed")]
    assert cluster.enqueued() == []


def test_it_can_be_any_attempt(cluster: kit.Cluster) -> None:
    assert cluster.run(shop.succeeds_at.call(3), attempt=3).result == 3
    assert not cluster.run(shop.succeeds_at.call(9), attempt=2).job.finished_at
    last = cluster.run(shop.succeeds_at.call(9), attempt=5)
    assert (last.job.state, last.job.message) == ("Failed", "attempt 5 of 5: ConnectionError: not yet")
    assert last.delay_seconds is None


def test_it_can_be_told_what_it_has_waited_for(cluster: kit.Cluster) -> None:
    inputs = [(shop.send_email, True), (shop.send_email, False), (shop.send_email, ValueError("no such address"))]
    assert cluster.run(shop.report.call("m"), inputs=inputs).result == "1 of 3"
    with pytest.raises(ArgsInvalid, match=r"inputs: the result of .*send_email: expected bool"):
        cluster.run(shop.report.call("m"), inputs=[(shop.send_email, "yes")])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([(shop.send_email, True), (shop.send_email, "yes")], "the result of .*send_email: expected bool"),
        ([(shop.send_email, True), shop.send_email], "inputs has <.*send_email.*>: a pair of a task and what it ret"),
        ([(shop.send_email, True), (shop.send_email,)], "a pair of a task and what it returned is needed"),
        ([(shop.send_email, True), ("send_email", True)], "a pair of a task and what it returned is needed"),
        (shop.send_email, "inputs is <.*send_email.*>: pairs of a task"),
    ],
)
def test_inputs_that_cannot_be_leave_no_job(cluster: kit.Cluster, inputs: Any, said: str) -> None:
    with pytest.raises((ArgsInvalid, OptionInvalid), match=said):
        cluster.run(shop.report.call("m"), inputs=inputs)
    assert list(cluster._world.jobs) == []


def test_what_stands_in_for_its_inputs_is_no_job_of_the_test(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.report.call("m"), inputs=[(shop.send_email, True), (shop.echo, 1)])
    assert [job.name for job in cluster.jobs()] == [outcome.job.name]
    assert cluster.jobs(shop.send_email) == []
    assert len(outcome.job.after) == 2


def test_neither_its_queue_nor_a_delay_nor_another_job_holds_it_up(cluster: kit.Cluster) -> None:
    cluster.queue("emails", paused=True, concurrency=0)
    email = shop.send_email.options(delay="1h", worker="large")
    assert cluster.run(email, "m", "a@example.com").result is True
    assert cluster.run(email, "m", "a@example.com").result is True
    assert (cluster.now - START).total_seconds() == 2


async def test_an_async_task_runs_also_where_the_test_is_async(cluster: kit.Cluster) -> None:
    assert cluster.run(shop.later, 0.01).result == 1
    assert cluster.run(shop.ends, "ValueError").kind == "Failed"
    assert [one.args for one in cluster.enqueued()] == [{"label": "from async"}]


def test_an_async_task_runs_where_the_test_is_not(cluster: kit.Cluster) -> None:
    assert cluster.run(shop.later).result == 1


def test_it_needs_no_cluster_around_it() -> None:
    assert kit.run(shop.echo, "x").result == "x"
    assert kit.run(shop.succeeds_at.call(2), attempt=2).result == 2
    with pytest.raises(kit.NoCluster, match=r"`with questline.testing.cluster\(\):` makes one"):
        kit.drain()


def test_a_developer_can_interrupt_it(cluster: kit.Cluster) -> None:
    with pytest.raises(KeyboardInterrupt):
        cluster.run(shop.ends, "ctrl-C")
    assert attempt.active() is None
    assert cluster.run(shop.echo, 2).result == 2


def test_a_task_cannot_run_the_cluster_that_runs_it(cluster: kit.Cluster) -> None:
    outcome = cluster.run(shop.drains)
    assert (outcome.kind, type(outcome.exception)) == ("Failed", kit.KitError)
    assert "drain() is for the test, not for a task" in outcome.message


def test_what_it_cannot_take_is_refused_with_what_it_can() -> None:
    run: Any = kit.run
    with pytest.raises(ArgsInvalid, match="takes a task and its arguments, or a call"):
        run(print, "x")
    with pytest.raises(ArgsInvalid, match="has its arguments already, and number is given"):
        run(shop.echo.call(1), number=2)
    with pytest.raises(ArgsInvalid, match="attempts are counted from 1"):
        run(shop.echo.call(1), attempt=0)


def test_the_attempt_knows_its_job(cluster: kit.Cluster) -> None:
    outcome = cluster.run(knows_its_job.options(queue="media", max_attempts=2).call(), attempt=2)
    assert outcome.result == {"queue": "media", "root": outcome.job.name, "depth": 0, "last": True, "worker": "default"}


@job
def knows_its_job() -> dict[str, Any]:
    about, own = current().job, current()
    assert (about.task, about.max_attempts) == (f"{__name__}:knows_its_job", 2)
    return {
        "queue": about.queue,
        "root": about.root,
        "depth": about.depth,
        "last": own.is_last_attempt,
        "worker": about.worker,
    }
