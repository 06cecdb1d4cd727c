"""`python -m questline run`, in a process of its own: each way in which a task ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import questline
from questline import OptionInvalid
from tests.unit.sdk.apiserver import ApiServer, Fault
from tests.unit.sdk.processes import JOB_UID, POD_UID, Ended

Run = Callable[..., Ended]
NO_CHILDREN = {"total": 0, "groups": {}}


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "ä", [1, {"a": None}], {"processed": True}])
def test_what_a_task_returns_is_its_result(run_task: Run, value: Any) -> None:
    ended = run_task("outcomes:returns", {"value": value})
    assert ended.exit_code == 0
    assert ended.stdout == "in the task\n"
    assert ended.stderr == ""
    assert ended.envelope == {
        "v": 1,
        "attempt": 2,
        "outcome": "Succeeded",
        "result": value,
        "children": NO_CHILDREN,
    }


def test_args_and_results_are_of_the_annotated_types(run_task: Run) -> None:
    ended = run_task("outcomes:returns_point", {"point": {"x": 1, "y": 2}})
    assert ended.envelope["result"] == [{"x": 1, "y": 2}, {"x": 2, "y": 1}]


def test_an_async_task_is_run(run_task: Run) -> None:
    assert run_task("outcomes:asynchronous", {"seconds": 0}).envelope["result"] == "slept"


def test_a_result_of_another_type_than_annotated_is_kept_since_it_is_json(run_task: Run) -> None:
    assert run_task("outcomes:returns_another_type").envelope["result"] == "seven"


@pytest.mark.parametrize(
    ("task", "args", "message"),
    [
        ("returns_object", {}, "is no JSON: result.a[0]: object <object object at"),
        ("returns_loop", {}, "is nested too deeply, or holds itself"),
        (
            "returns_large",
            {"size": 1_048_576},
            "is 1,048,578 bytes of JSON, 3,072 are kept: store it and",
        ),
        ("returns_large", {"size": 3_071}, "is 3,073 bytes of JSON"),
    ],
)
def test_a_result_that_cannot_be_kept_is_fatal_and_says_what_to_do(
    run_task: Run, task: str, args: dict[str, Any], message: str
) -> None:
    ended = run_task(f"outcomes:{task}", args)
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (1, "Fatal", "ResultInvalid")
    assert message in ended.envelope["message"]
    assert "return its id" in ended.envelope["message"]
    assert "Traceback" not in ended.stderr


def test_the_largest_result_fits(run_task: Run) -> None:
    assert len(run_task("outcomes:returns_large", {"size": 3_070}).envelope["result"]) == 3_070


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("chian:run", "chian:run: there is no module 'chian' in this image (PYTHONPATH is /elsewhere): COPY it there"),
        ("no.such.module:run", "there is no module 'no' in this image"),
        ("unimportable:run", "module unimportable cannot be imported: No module named 'no_such_library'"),
        ("broken:run", "module broken cannot be imported: RuntimeError: no database in this image"),
        ("leaving:run", "module leaving cannot be imported: SystemExit: 3"),
        ("undecodable:upload", "DefinitionError: undecodable:upload: parameter 'data': bytes has no form in JSON"),
        (
            "shop:resise",
            "shop:resise: module shop has no task 'resise'; it has fetch, nothing, once, resize, send_email",
        ),
        (
            "outcomes:plain",
            "outcomes:plain: plain is there, but is not registered: decorate it with @job (it has",
        ),
        ("os:system", "os:system: system is there, but is not registered: decorate it with @job (it has none)"),
        ("shop", "'shop' names no task"),
    ],
)
def test_a_task_that_is_not_there_is_fatal_and_the_message_says_what_is(run_task: Run, task: str, message: str) -> None:
    ended = run_task(task, PYTHONPATH="/elsewhere")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (64, "Fatal", "TaskNotFound")
    assert message in ended.envelope["message"]
    assert "\n" not in ended.envelope["message"]


def test_what_breaks_a_module_is_in_the_log_with_its_traceback(run_task: Run) -> None:
    ended = run_task("broken:run")
    assert 'broken.py", line 1' in ended.stderr
    assert ended.envelope["error"]["type"] == "RuntimeError"


def test_a_module_whose_import_meets_an_os_error_may_be_tried_again(run_task: Run) -> None:
    ended = run_task("offline:run")
    assert (ended.exit_code, ended.envelope["outcome"]) == (1, "Failed")
    assert ended.envelope["message"] == "ConnectionError: the settings server is away"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "shop:resize lacks its argument 'picture'"),
        ({"file": "a"}, "shop:resize has no parameter 'file'; it has picture, width"),
        ({"picture": "a", "width": "wide"}, "shop:resize: args.width: expected int, got str 'wide'"),
    ],
)
def test_args_that_do_not_bind_are_fatal(run_task: Run, args: dict[str, Any], message: str) -> None:
    ended = run_task("shop:resize", args)
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (64, "Fatal", "ArgsInvalid")
    assert ended.envelope["message"] == message
    assert ended.stderr == f"questline: Fatal (ArgsInvalid): {message}\n"


@pytest.mark.parametrize(
    ("task", "args", "message"),
    [
        ("takes_set", {"values": [[1, 2]]}, "args.values: set[JSON]: unhashable type: 'list'"),
        ("takes_frame", {"frame": {"width": 0}}, "args.frame: Frame: AssertionError: width is 0"),
        ("takes_frame", {"frame": {"width": 9}}, "args.frame: Frame: KeyError: 9"),
    ],
)
def test_args_that_their_own_type_refuses_are_fatal_too(
    run_task: Run, task: str, args: dict[str, Any], message: str
) -> None:
    ended = run_task(f"outcomes:{task}", args)
    assert ended.termination_message, f"no outcome: {ended.stderr}"
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (64, "Fatal", "ArgsInvalid")
    assert ended.envelope["message"] == f"outcomes:{task}: {message}"


def test_an_error_is_told_with_its_type_message_and_the_users_lines(run_task: Run) -> None:
    ended = run_task("outcomes:raises", {"text": "bad\ninput"})
    assert ended.exit_code == 1
    envelope = ended.envelope
    assert (envelope["outcome"], envelope["reason"]) == ("Failed", "TaskError")
    assert envelope["message"] == "ValueError: bad input"
    assert (envelope["error"]["type"], envelope["error"]["message"]) == ("ValueError", "bad\ninput")
    assert "raise ValueError(text)" in envelope["error"]["traceback"]
    assert "questline/" not in envelope["error"]["traceback"]
    assert "Traceback (most recent call last)" in ended.stderr
    assert ended.stderr.endswith("questline: Failed (TaskError): ValueError: bad input\n")


def test_an_error_tells_its_cause(run_task: Run) -> None:
    error = run_task("outcomes:raises_own").envelope["error"]
    assert error["type"] == "outcomes.OwnError"
    assert error["traceback"].startswith("KeyError: 'key'\n")
    assert error["traceback"].index('()["key"]') < error["traceback"].index("raise OwnError")


def test_an_error_of_1_mb_is_cut_to_its_place(run_task: Run) -> None:
    ended = run_task("outcomes:raises_much", {"size": 1_000_000})
    assert len(ended.termination_message) <= 4096
    envelope = ended.envelope
    assert envelope["message"].startswith('ValueError: "ä "ä')
    assert envelope["message"].endswith("…")
    assert len(envelope["error"]["message"].encode()) <= 1024


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("raises_unprintable", "outcomes.Unprintable", "outcomes.Unprintable: <its text cannot be read>"),
        ("interrupts", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("recurses", "RecursionError", "RecursionError: maximum recursion depth exceeded"),
        ("runs_out_of_memory", "MemoryError", "MemoryError"),
    ],
)
def test_whatever_a_task_raises_is_an_outcome(run_task: Run, task: str, kind: str, message: str) -> None:
    ended = run_task(f"outcomes:{task}")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (1, "Failed", "TaskError")
    assert ended.envelope["error"]["type"] == kind
    assert ended.envelope["message"].startswith(message)


@pytest.mark.parametrize(("code", "shown"), [(0, "0"), (3, "3"), (None, ""), ("no", "'no'")])
def test_sys_exit_in_a_task_is_a_failure_whatever_its_code(run_task: Run, code: Any, shown: str) -> None:
    ended = run_task("outcomes:exits", {"code": code})
    assert (ended.exit_code, ended.envelope["outcome"]) == (1, "Failed")
    assert ended.envelope["error"]["type"] == "SystemExit"
    assert ended.envelope["message"].startswith(
        f"SystemExit: the task called sys.exit({shown}): a task ends by returning"
    )


def test_a_task_that_ends_the_process_leaves_no_outcome(run_task: Run) -> None:
    ended = run_task("outcomes:exits_hard", {"code": 0})
    assert (ended.exit_code, ended.termination_message) == (0, b"")
    assert ended.stdout == "the last line\n"


def test_a_segfault_shows_in_the_log_where_it_was(run_task: Run) -> None:
    ended = run_task("outcomes:breaks")
    assert (ended.exit_code, ended.termination_message) == (-11, b"")
    assert "Segmentation fault" in ended.stderr
    assert "in breaks" in ended.stderr


def test_fail_ends_the_job(run_task: Run) -> None:
    ended = run_task("outcomes:raises_fail")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (1, "Fatal", "Fail")
    assert ended.envelope["message"] == "no such customer"


def test_retry_names_its_delay(run_task: Run) -> None:
    ended = run_task("outcomes:raises_retry", {"delay": "1m30s"})
    assert ended.exit_code == 75
    assert ended.envelope == {
        "v": 1,
        "attempt": 2,
        "outcome": "Retry",
        "message": "the mail server is busy",
        "delaySeconds": 90.0,
        "children": NO_CHILDREN,
    }


def test_a_retry_of_a_task_group_is_a_retry(run_task: Run) -> None:
    ended = run_task("outcomes:asynchronous_error")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["delaySeconds"]) == (75, "Retry", 5.0)


@pytest.mark.parametrize("delay", [5, "5s"])
def test_snooze_names_its_delay_whatever_is_retried(run_task: Run, delay: Any) -> None:
    ended = run_task("outcomes:raises_snooze", {"delay": delay})
    assert ended.exit_code == 75
    assert ended.envelope == {
        "v": 1,
        "attempt": 2,
        "outcome": "Snoozed",
        "message": "the file is not there yet",
        "delaySeconds": 5.0,
        "children": NO_CHILDREN,
    }
    assert ended.stderr == "questline: Snoozed: the file is not there yet\n"


def test_a_snooze_of_an_async_task_ends_what_runs_beside_it(run_task: Run) -> None:
    ended = run_task("outcomes:snoozes_async")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["delaySeconds"]) == (75, "Snoozed", 0.0)
    assert ended.envelope["message"] == "the task snoozed"


@pytest.mark.parametrize("signal", ["Retry", "Snooze"])
@pytest.mark.parametrize(
    ("delay", "said"),
    [
        (-5, "-5: 0 to 31,622,400 seconds are allowed"),
        (float("nan"), 'nan: give seconds, a text like "1h30m" (w, d, h, m, s, ms), or a timedelta'),
        (float("inf"), "inf: 0 to 31,622,400 seconds are allowed"),
        (timedelta(days=367), "datetime.timedelta(days=367): 0 to 31,622,400 seconds are allowed"),
        (10**400, f"1{59 * '0'}... (401 characters): 0 to 31,622,400 seconds are allowed"),
        (-(10**400), f"-1{58 * '0'}... (402 characters): 0 to 31,622,400 seconds are allowed"),
        pytest.param(10**5000, "an integer of thousands of digits: 0 to 31,622,400 seconds are allowed", id="huge"),
        ("-5s", "'-5s': give seconds"),
        ("soon", "'soon': give seconds"),
        (True, "True: give seconds"),
        ([1], "[1]: give seconds"),
    ],
)
def test_a_delay_that_is_none_is_refused_where_it_is_raised_by_name_and_value(
    signal: str, delay: Any, said: str
) -> None:
    with pytest.raises(OptionInvalid) as refusal:
        getattr(questline, signal)(delay)
    assert str(refusal.value).startswith(f"{signal}(delay) is {said}")


def test_a_refused_delay_is_the_tasks_own_error(run_task: Run) -> None:
    envelope = run_task("outcomes:raises_retry", {"delay": "-1"}).envelope
    assert (envelope["outcome"], envelope["reason"]) == ("Failed", "TaskError")
    assert envelope["message"].startswith("Retry(delay) is '-1': give seconds")


def test_cancel_ends_the_job_canceled(run_task: Run) -> None:
    ended = run_task("outcomes:raises_cancel")
    assert (ended.exit_code, ended.envelope["outcome"], ended.envelope["reason"]) == (0, "Canceled", "Raised")
    assert ended.envelope["message"] == "the order was withdrawn"


@pytest.mark.parametrize(
    ("task", "args", "outcome"),
    [
        ("retries_os_errors", {"error": "os"}, "Failed"),
        ("retries_os_errors", {"error": "other"}, "Fatal"),
        ("never_retries_lookups", {}, "Fatal"),
    ],
)
def test_retry_on_and_no_retry_on_say_which_errors_are_tried_again(
    run_task: Run, task: str, args: dict[str, Any], outcome: str
) -> None:
    envelope = run_task(f"outcomes:{task}", args).envelope
    assert (envelope["outcome"], envelope["reason"]) == (outcome, "TaskError" if outcome == "Failed" else "Fail")
    assert "Error" in envelope["message"]


def test_100_mb_of_output_pass(run_task: Run) -> None:
    ended = run_task("outcomes:prints_much", {"size": 100_000_000})
    assert len(ended.stdout) == 100_000_000
    assert ended.envelope["result"] == 100_000_000


def test_a_task_that_closes_its_streams_still_has_an_outcome(run_task: Run) -> None:
    ended = run_task("outcomes:closes_its_streams")
    assert ended.envelope["outcome"] == "Succeeded"


def test_a_thread_left_running_does_not_keep_the_process(run_task: Run) -> None:
    before = time.monotonic()
    ended = run_task("outcomes:leaves_a_thread")
    assert time.monotonic() - before < 20
    assert (ended.exit_code, ended.envelope["result"]) == (0, "returned")
    assert "still running 5 s after the outcome" in ended.stderr


def test_exit_handlers_are_called(run_task: Run) -> None:
    ended = run_task("outcomes:leaves_an_exit_handler")
    assert (ended.exit_code, ended.stdout) == (0, "goodbye\n")


def test_a_task_knows_its_attempt(run_task: Run) -> None:
    assert run_task("outcomes:says_who").envelope["result"] == {
        "job": "parent",
        "attempt": 2,
        "last": False,
        "inputs": [],
    }


@pytest.mark.parametrize("content", ["", "{", "[]", '{"v": 2}', '{"v": 1}', '{"v": 1, "job": 3}'])
def test_a_payload_that_cannot_be_read_is_one_line(run_task: Run, tmp_path: Any, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    ended = run_task("shop:nothing", QUESTLINE_PAYLOAD=str(tmp_path / "bad.json"))
    assert (ended.exit_code, ended.termination_message) == (64, b"")
    assert ended.stderr.startswith("questline: the payload ")
    assert ended.stderr.count("\n") == 1


def test_outside_a_pod_the_command_says_what_it_is_for(run_task: Run) -> None:
    ended = run_task("shop:nothing", QUESTLINE_PAYLOAD="")
    assert ended.exit_code == 64
    assert ended.stderr.startswith("questline: QUESTLINE_PAYLOAD is not set")


# With a service account


def test_the_outcome_is_reported_on_the_jobs_status(run_task: Run, api: ApiServer) -> None:
    ended = run_task("outcomes:returns", {"value": None}, api=api)
    (seen,) = api.requests
    assert (seen.method, seen.path) == (
        "PATCH",
        "/apis/questline.dev/v1alpha1/namespaces/shop/questjobs/parent/status",
    )
    assert seen.headers["content-type"] == "application/json-patch+json"
    assert seen.body == [
        {"op": "test", "path": "/metadata/uid", "value": JOB_UID},
        {"op": "add", "path": "/status/report", "value": {**ended.envelope, "podUID": POD_UID}},
    ]
    assert "result" in seen.body[1]["value"]
    assert ended.stderr == ""


def test_a_refused_report_is_one_line_and_changes_nothing(run_task: Run, api: ApiServer) -> None:
    api.refuse_patch = (403, "Forbidden", "a report changes\nnothing else")
    ended = run_task("outcomes:returns", {"value": 1}, api=api)
    assert (ended.exit_code, ended.envelope["result"]) == (0, 1)
    assert ended.stderr == (
        "questline: the outcome was not reported early (403 Forbidden): a report changes nothing else\n"
    )
    assert len(api.requests) == 1


def test_a_report_whose_answer_is_lost_is_sent_again_in_silence(run_task: Run, api: ApiServer) -> None:
    api.faults.append(Fault(applied=True))
    api.faults.append(Fault(status=403, reason="Forbidden", message="one report an attempt"))
    ended = run_task("outcomes:returns", {"value": 1}, api=api)
    assert len(api.patches()) == 2
    assert (ended.exit_code, ended.stderr) == (0, "")


def test_an_api_server_that_is_away_delays_the_end_by_seconds_only(run_task: Run, api: ApiServer) -> None:
    before = time.monotonic()
    ended = run_task("outcomes:returns", {"value": 1}, api=api, KUBERNETES_SERVICE_PORT="1")
    assert time.monotonic() - before < 15
    assert (ended.exit_code, ended.envelope["result"]) == (0, 1)
    assert "questline: the outcome was not reported early: tried" in ended.stderr


def test_the_children_of_an_attempt_are_in_its_outcome(run_task: Run, api: ApiServer) -> None:
    ended = run_task("outcomes:enqueues", {"count": 30}, api=api)
    assert ended.envelope["children"] == {"total": 30, "groups": {}}
    assert [seen.method for seen in api.requests] == ["POST"] * 30 + ["PATCH"]
    assert {job["spec"]["task"] for job in api.jobs.values()} == {"shop:resize"}


def test_a_failed_attempt_tells_its_children_too(run_task: Run, api: ApiServer) -> None:
    envelope = run_task("outcomes:enqueues_then_fails", api=api).envelope
    assert (envelope["outcome"], envelope["children"]["total"]) == ("Failed", 1)


def test_a_child_that_is_refused_is_the_tasks_to_handle(run_task: Run, api: ApiServer) -> None:
    api.reject = lambda _job: (403, "Forbidden", "queue media is closed")
    ended = run_task("outcomes:swallows_refusals", api=api)
    assert ended.envelope["outcome"] == "Succeeded"
    assert "queue media is closed" in ended.envelope["result"]
    assert ended.envelope["children"]["total"] == 0


def test_a_child_that_is_refused_fails_a_task_that_does_not_handle_it(run_task: Run, api: ApiServer) -> None:
    api.reject = lambda _job: (403, "Forbidden", "queue media is closed")
    envelope = run_task("outcomes:enqueues", {"count": 1}, api=api).envelope
    assert (envelope["outcome"], envelope["reason"]) == ("Failed", "TaskError")
    assert envelope["message"] == (
        f"the API server refused Job resize-{POD_UID[:8]}-0 of shop:resize (403 Forbidden): queue media is closed"
    )


@pytest.mark.parametrize(("task", "outcome"), [("swallows_all", "Failed"), ("swallows_unknown", "Canceled")])
def test_an_attempt_with_a_child_of_unknown_fate_never_succeeds(
    run_task: Run, api: ApiServer, task: str, outcome: str
) -> None:
    api.faults.extend(Fault(applied=True) for _ in range(8))
    ended = run_task(f"outcomes:{task}", api=api)
    assert ended.envelope["outcome"] == outcome
    if outcome == "Failed":
        assert "was created is unknown" in ended.envelope["message"]
        assert ended.envelope["error"]["type"].endswith("EnqueueFateUnknown")


def test_an_enqueue_of_a_thread_that_the_task_left_is_waited_for(run_task: Run, api: ApiServer) -> None:
    ended = run_task("outcomes:enqueues_in_a_thread_left_behind", api=api)
    assert ended.envelope["children"]["total"] == len(api.jobs)


@pytest.mark.parametrize("task", ["enqueues_in_a_fork", "enqueues_in_a_subprocess"])
def test_another_process_of_the_attempt_enqueues_nothing(run_task: Run, api: ApiServer, task: str) -> None:
    ended = run_task(f"outcomes:{task}", api=api)
    assert ended.envelope["outcome"] == "Succeeded"
    assert "this process is not the one" in ended.envelope["result"] or ended.envelope["result"] == "NotInAttempt"
    assert api.posts() == []
