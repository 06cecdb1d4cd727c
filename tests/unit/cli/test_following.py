"""`wait`, `tree` and `logs`: what they say while Jobs go on, whatever breaks in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from questline.cli import cluster
from tests.unit.cli.conftest import Command
from tests.unit.cli.server import Server

WATCH = "/questjobs"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "RETRY_SECONDS", 0.01)


@contextmanager
def meanwhile(action: Callable[[], Any]) -> Iterator[None]:
    """Carries out the action in a thread; an error of it is raised at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def at(second: int, text: str) -> str:
    """A line of a log with its time."""
    return f"2026-01-31T08:00:{second:02}.000000000Z {text}"


# wait


@pytest.mark.parametrize(
    ("status", "said", "exit_code"),
    [
        ({"state": "Succeeded"}, "a Succeeded\n", 0),
        ({"state": "Failed", "reason": "TaskError", "message": "no"}, "a Failed (TaskError): no\n", 1),
        ({"state": "Canceled", "reason": "Requested", "message": "m"}, "a Canceled (Requested): m\n", 3),
        ({"state": "Skipped", "reason": "Duplicate", "message": "m"}, "a Skipped (Duplicate): m\n", 4),
    ],
)
def test_wait_ends_with_the_job_and_its_state_is_the_exit_status(
    server: Server, command: Command, status: dict[str, Any], said: str, exit_code: int
) -> None:
    server.job("a", "Running")

    def end() -> None:
        server.until_asked(WATCH)
        server.job("b", "Succeeded")
        server.job("a", **status)

    with meanwhile(end):
        result = command("wait", "a")
    assert (result.stdout, result.exit_code) == (said, exit_code)


def test_wait_ends_with_124_when_its_time_is_over(server: Server, command: Command) -> None:
    server.job("a", "Running")
    result = command("wait", "a", "--timeout", "100ms")
    assert (result.exit_code, result.stdout) == (124, "")
    assert result.stderr == "questline: a has not ended in 0.1 s: it is Running\n"


@pytest.mark.parametrize("timeout", ["soon", "-1", "nan", "1y"])
def test_a_timeout_that_is_none_is_named(server: Server, command: Command, timeout: str) -> None:
    result = command("wait", "a", "--timeout", timeout)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"questline: --timeout is '{timeout}': give seconds, a text like \"1h30m\"")


def test_of_several_jobs_the_first_that_did_not_succeed_gives_the_exit_status(server: Server, command: Command) -> None:
    server.job("a", "Succeeded")
    server.job("b", "Skipped", reason="Duplicate")
    server.job("c", "Failed", reason="Fail")
    result = command("wait", "a", "b", "c")
    assert (result.stdout, result.exit_code) == ("a Succeeded\nb Skipped (Duplicate)\nc Failed (Fail)\n", 4)


def test_what_a_task_has_said_is_printed_as_it_is(server: Server, command: Command) -> None:
    said = "OSError: dial tcp [fd00::b:1]:443: refused; a:x:b, [red]tag[/red]"
    server.job("a", "Failed", reason="TaskError", message=said)
    assert command("wait", "a").stdout == f"a Failed (TaskError): {said}\n"


def test_wait_prints_the_ended_job_as_the_api_has_it(server: Server, command: Command) -> None:
    server.job("a", "Succeeded", result={"n": 1})
    assert json.loads(command("wait", "a", "-o", "json").stdout)["status"]["result"] == {"n": 1}


def test_wait_says_that_the_job_was_deleted(server: Server, command: Command) -> None:
    server.job("a", "Running")

    def delete() -> None:
        server.until_asked(WATCH)
        server.remove("questjobs", "a")

    with meanwhile(delete):
        result = command("wait", "a")
    assert result.exit_code == 2
    assert result.stderr == "questline: Job shop/a was deleted before it had ended\n"


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_wait_goes_on_when_a_watch_is_refused_for_the_moment(server: Server, command: Command, status: int) -> None:
    server.job("a", "Running")
    refusals = [(status, "ServerTimeout", "try again")]
    server.refuse = lambda _method, path: refusals.pop() if refusals and "watch=1" in path else None

    def end() -> None:
        server.until_asked(WATCH)
        server.job("a", "Succeeded")

    with meanwhile(end):
        result = command("wait", "a")
    assert (result.stdout, result.stderr, result.exit_code) == ("a Succeeded\n", "", 0)


@pytest.mark.parametrize("breakage", ["the watch ends", "its past is forgotten", "its past is refused"])
def test_wait_goes_on_when_its_watch_breaks(server: Server, command: Command, breakage: str) -> None:
    server.job("a", "Running")
    server.watch_ends = {"the watch ends": 3, "its past is forgotten": 1}.get(breakage, 0)
    server.forgets = breakage == "its past is forgotten"
    refusals = [(410, "Expired", "too old resource version")] if breakage == "its past is refused" else []
    server.refuse = lambda _method, path: refusals.pop() if refusals and "watch=1" in path else None

    def end() -> None:
        server.until_asked(WATCH)
        server.job("a", "Succeeded")

    with meanwhile(end):
        assert command("wait", "a").exit_code == 0
    assert server.expired == (breakage == "its past is forgotten")


def test_wait_takes_no_notice_of_a_bookmark(server: Server, command: Command) -> None:
    server.job("a", "Running")

    def go_on() -> None:
        server.until_asked(WATCH)
        server.bookmark("questjobs")
        server.job("a", "Succeeded")

    with meanwhile(go_on):
        result = command("wait", "a")
    assert (result.stdout, result.exit_code) == ("a Succeeded\n", 0)


# tree


def a_tree(server: Server) -> None:
    root = server.job("root", "Succeeded", attempt=1, children={"total": 3, "groups": {}})
    for index, state in enumerate(("Succeeded", "Running", "Failed")):
        more: dict[str, Any] = {"reason": "TaskError", "message": "attempt 2 of 2: no"} if state == "Failed" else {}
        parent = {"name": "root", "uid": f"{root}-0000-0000-0000-000000000000", "attempt": 1, "index": index}
        server.job(f"child-{index}", state, {"parent": parent}, attempt=index, **more)
    server.job("stranger")


def test_tree_shows_a_job_and_all_below_it_as_they_are(server: Server, command: Command) -> None:
    a_tree(server)
    result = command("tree", "root", "--once")
    assert result.exit_code == 0
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "root Succeeded 1 attempt",
        "├── child-0 Succeeded",
        "├── child-1 Running 1 attempt",
        "└── child-2 Failed (TaskError) 2 attempts () attempt 2 of 2: no",
        "3 of 4 ended, 1 Running, 2 Succeeded, 1 Failed",
    ]
    items = json.loads(command("tree", "root", "-o", "json").stdout)["items"]
    assert [item["metadata"]["name"] for item in items] == ["root", "child-0", "child-1", "child-2"]


def test_tree_follows_until_every_child_that_was_announced_has_ended(server: Server, command: Command) -> None:
    root = server.job("root", "Running", attempt=1)
    parent = {"name": "root", "uid": f"{root}-0000-0000-0000-000000000000", "attempt": 1, "index": 0}

    def go_on() -> None:
        server.until_asked(WATCH)
        server.job("child", "Waiting", {"parent": parent})
        server.job("root", "Succeeded", attempt=1, children={"total": 1, "groups": {}})
        server.job("child", "Running", {"parent": parent}, attempt=2)
        server.job("child", "Succeeded", {"parent": parent}, attempt=2)

    with meanwhile(go_on):
        result = command("tree", "root", "--follow")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[:5] == [
        "root Running",
        "child Waiting",
        "root Succeeded",
        "child Running attempt 2",
        "child Succeeded attempt 2",
    ]
    assert lines[-1] == "2 of 2 ended, 2 Succeeded"


@pytest.mark.parametrize("gone", ["a duplicate in its fan-out", "a child that was deleted"])
def test_tree_ends_where_fewer_children_are_there_than_were_announced(
    server: Server, command: Command, gone: str
) -> None:
    root = server.job("root", "Succeeded", attempt=1, children={"total": 3, "groups": {}})
    parent = {"name": "root", "uid": f"{root}-0000-0000-0000-000000000000", "attempt": 1}
    for index in (0, 2) if gone == "a duplicate in its fan-out" else (0, 1, 2):
        server.job(f"child-{index}", "Succeeded", {"parent": {**parent, "index": index}})
    if gone == "a child that was deleted":
        server.remove("questjobs", "child-1")
    ended = threading.Event()

    def give_up() -> None:
        if not ended.wait(5):
            server.remove("questjobs", "root")  # else it would go on for ever

    with meanwhile(give_up):
        result = command("tree", "root", "--follow")
        ended.set()
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "3 of 3 ended, 3 Succeeded"), result.stderr


def test_tree_says_that_its_job_was_deleted(server: Server, command: Command) -> None:
    server.job("root", "Running")

    def delete() -> None:
        server.until_asked(WATCH)
        server.remove("questjobs", "root")

    with meanwhile(delete):
        result = command("tree", "root", "--follow")
    assert (result.exit_code, result.stderr) == (2, "questline: Job shop/root was deleted\n")


# logs


def a_pod(server: Server, job: str, uid: str, number: int, *, state: str = "running") -> str:
    name = f"{job}-{uid}-{number}"
    status = {"containerStatuses": [{"name": "worker", "state": {state: {}}}]}
    server.put("pods", name, status=status, labels={"questline.dev/job": job})
    return name


def test_logs_prints_the_attempts_one_after_the_other(server: Server, command: Command) -> None:
    uid = server.job("a", "Succeeded", attempt=3)
    for number in (1, 3):
        server.write_log(f"a-{uid}-{number}", at(number, f"line of {number}"), ended=True)
    result = command("logs", "a")
    assert result.stdout == "line of 1\nline of 3\n"
    assert result.stderr.splitlines() == [
        f"--- attempt 1, pod a-{uid}-1",
        "--- attempt 2: its pod is gone, and its log with it",
        f"--- attempt 3, pod a-{uid}-3",
    ]
    assert command("logs", "a", "--attempt", "3", "--timestamps").stdout == at(3, "line of 3") + "\n"


def test_logs_follows_from_one_attempt_to_the_next_until_the_job_has_ended(server: Server, command: Command) -> None:
    uid = server.job("a", "Running", attempt=1)
    first, third = f"a-{uid}-1", f"a-{uid}-3"
    server.write_log(first, at(1, "first"))
    a_pod(server, "a", uid, 1)

    def go_on() -> None:
        server.until_asked(f"{first}/log")
        server.write_log(first, at(2, "failed"), ended=True)
        server.job("a", "Waiting", attempt=1)
        server.job("a", "Starting", attempt=2)  # its pod is refused
        server.job("a", "Starting", attempt=3)
        server.put("pods", third, labels={"questline.dev/job": "a"})
        server.write_log(third, at(3, "third"))
        a_pod(server, "a", uid, 3)
        server.until_asked(f"{third}/log")
        server.write_log(third, at(4, "done"), ended=True)
        server.job("a", "Succeeded", attempt=3)

    with meanwhile(go_on):
        result = command("logs", "a", "--follow")
    assert result.exit_code == 0
    assert result.stdout == "first\nfailed\nthird\ndone\n"
    assert "--- attempt 2: its pod is gone, and its log with it" in result.stderr


def test_logs_that_break_off_go_on_with_no_line_twice_and_none_lost(server: Server, command: Command) -> None:
    uid = server.job("a", "Running", attempt=1)
    pod = a_pod(server, "a", uid, 1)
    server.log_breaks = [3, 4]
    server.write_log(pod, at(1, "a"), at(2, "b"), at(2, "c"), at(2, "d"), at(3, "e"), ended=True)

    def end() -> None:
        server.until_asked("/log")
        server.job("a", "Succeeded", attempt=1)

    with meanwhile(end):
        result = command("logs", "a", "-f")
    assert result.stdout == "a\nb\nc\nd\ne\n"


def test_logs_follows_a_job_that_has_ended_before_the_kubelet_says_that_its_pod_runs(
    server: Server, command: Command
) -> None:
    """The early report is there in milliseconds; what the kubelet tells, up to 2 s late."""
    uid = server.job("a", "Succeeded", attempt=1)
    pod = a_pod(server, "a", uid, 1, state="waiting")

    def tell() -> None:
        server.until_asked("/pods")
        server.write_log(pod, at(1, "quick"), ended=True)
        a_pod(server, "a", uid, 1, state="terminated")

    with meanwhile(tell):
        result = command("logs", "a", "--follow")
    assert (result.stdout, result.exit_code) == ("quick\n", 0)


def test_logs_does_not_wait_for_a_pod_that_ended_without_a_container(server: Server, command: Command) -> None:
    uid = server.job("a", "Failed", attempt=1)
    server.put("pods", f"a-{uid}-1", status={"phase": "Failed"}, labels={"questline.dev/job": "a"})
    assert command("logs", "a", "--follow").stderr == "questline: no pod of it is left\n"


def test_logs_follows_on_when_the_node_of_an_attempt_is_lost(server: Server, command: Command) -> None:
    uid = server.job("a", "Running", attempt=1)
    first, second = a_pod(server, "a", uid, 1), f"a-{uid}-2"
    server.write_log(first, at(1, "one"))
    server.log_breaks = [1]
    words = 'Get "https://10.0.0.9:10250/containerLogs": dial tcp 10.0.0.9:10250: connect: no route to host'
    asked: list[str] = []

    def refuse(_method: str, path: str) -> tuple[int, str, str] | None:
        if f"{first}/log" in path:
            asked.append(path)
        return (500, "InternalError", words) if asked and len(asked) > 1 and f"{first}/log" in path else None

    server.refuse = refuse

    def go_on() -> None:
        server.until_asked(f"{first}/log")
        server.write_log(first, at(2, "lost with the node"))
        with server.changed:
            assert server.changed.wait_for(lambda: len(asked) > 1, timeout=10)
        server.refuse = lambda _method, _path: None  # the pod is deleted with its node, and the Job goes on elsewhere
        server.logs.pop(first)
        server.remove("pods", first)
        server.job("a", "Running", attempt=2)
        server.write_log(second, at(9, "two"), ended=True)
        a_pod(server, "a", uid, 2)
        server.until_asked(f"{second}/log")
        server.job("a", "Succeeded", attempt=2)

    with meanwhile(go_on):
        result = command("logs", "a", "--follow")
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\n"), result.stderr


def test_logs_of_a_job_that_never_ran_points_to_why(server: Server, command: Command) -> None:
    server.job("a")
    result = command("logs", "a")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "questline: Job a has had no attempt so far; `questline why a` says why\n"


def test_an_attempt_that_never_was_is_refused(server: Server, command: Command) -> None:
    server.job("a", "Running", attempt=2)
    result = command("logs", "a", "--attempt", "3")
    assert (result.exit_code, result.stderr) == (2, "questline: Job a has no attempt 3: it has 2 so far\n")


def test_logs_that_may_not_be_read_say_so(server: Server, command: Command) -> None:
    server.job("a", "Running", attempt=1)
    server.refuse = lambda _method, path: (403, "Forbidden", "pods/log is forbidden") if "/log" in path else None
    result = command("logs", "a")
    assert result.exit_code == 2
    assert "you may not read the log of Pod shop/a-" in result.stderr
    assert "pods/log is forbidden" in result.stderr
