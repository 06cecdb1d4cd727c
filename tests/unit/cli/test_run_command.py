"""`run`: a task in this process, with no cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from questline import attempt as attempts
from tests.unit.cli.conftest import Command

TASKS = """
from questline import Cancel, Fail, Retry, Snooze, chain, current, fan_out, job, join

@job
def resize(picture: str, width: int = 320) -> str:
    print("resizing")
    return f"{picture}-{width}px"

@job
async def later() -> int:
    return current().attempt

@job(queue="media")
def fans_out(fail: bool = False) -> int:
    found = fan_out(resize.call(str(n)) for n in range(2))
    chain(resize.call("a"), resize.options(queue="late").call("b"))
    if fail:
        raise ValueError("after the enqueue")
    return len(found)

@job
def joins() -> None:
    found = fan_out(resize.call(str(n)) for n in range(2))
    found.then(resize.call("all"))
    join(resize.call("tree"), trees=found[:1])

@job(no_retry_on=KeyError)
def ends(how: str) -> None:
    raise {"Retry": Retry("90s", "busy"), "Snooze": Snooze(5, "early"), "Fail": Fail("no"), "Cancel": Cancel("gone"),
           "ValueError": ValueError("text"), "KeyError": KeyError("k"), "exit": SystemExit(3)}[how]

def plain() -> None: ...
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"local_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def module(tmp_path: Path) -> str:
    return next(tmp_path.glob("local_*.py")).stem


def test_the_result_is_printed_as_json_after_what_the_task_prints(command: Command, module: str) -> None:
    result = command("run", f"{module}:resize", '{"picture": "p1"}')
    assert (result.exit_code, result.stdout, result.stderr) == (0, 'resizing\n"p1-320px"\n', "")
    assert attempts.active() is None


def test_an_async_task_knows_its_attempt(command: Command, module: str) -> None:
    assert command("run", f"{module}:later", "--attempt", "3").stdout == "3\n"


def test_what_it_enqueues_is_shown_and_not_run(command: Command, module: str) -> None:
    result = command("run", f"{module}:fans_out")
    assert (result.exit_code, result.stdout) == (0, "2\n")
    assert result.stderr.splitlines() == [
        f'questline: enqueued resize-00000000-0: {module}:resize {{"picture": "0"}} in queue default',
        f'questline: enqueued resize-00000000-1: {module}:resize {{"picture": "1"}} in queue default',
        f'questline: enqueued resize-00000000-2: {module}:resize {{"picture": "a"}} in queue default',
        f'questline: enqueued resize-00000000-3: {module}:resize {{"picture": "b"}} in queue late '
        "after resize-00000000-2",
    ]


def test_what_a_join_waits_for_is_shown(command: Command, module: str) -> None:
    result = command("run", f"{module}:joins")
    assert (result.exit_code, result.stdout) == (0, "null\n")
    assert result.stderr.splitlines()[2:] == [
        f'questline: enqueued resize-00000000-2: {module}:resize {{"picture": "all"}} in queue default '
        "after group fan-out-1",
        f'questline: enqueued resize-00000000-3: {module}:resize {{"picture": "tree"}} in queue default '
        "after tree resize-00000000-0",
    ]


def test_what_a_failed_attempt_enqueued_is_skipped(command: Command, module: str) -> None:
    result = command("run", f"{module}:fans_out", '{"fail": true}')
    assert result.exit_code == 1
    assert result.stderr.count(", which is skipped: the attempt failed") == 4


@pytest.mark.parametrize(
    ("how", "said", "exit_code"),
    [
        ("Retry", "Retry: busy, again in 90 s", 75),
        ("Snooze", "Snoozed: early, again in 5 s", 75),
        ("Fail", "Fatal (Fail): no", 1),
        ("Cancel", "Canceled (Raised): gone", 1),
        ("ValueError", "Failed (TaskError): ValueError: text", 1),
        ("KeyError", "Fatal (Fail): KeyError: 'k'", 1),
        ("exit", "Failed (TaskError): SystemExit: the task called sys.exit(3)", 1),
    ],
)
def test_an_end_without_a_result_is_said_as_in_a_pod(
    command: Command, module: str, how: str, said: str, exit_code: int
) -> None:
    result = command("run", f"{module}:ends", f'{{"how": "{how}"}}')
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert f"questline: {said}" in result.stderr
    # The task's own traceback is what its author needs; ours would be noise.
    assert ("Traceback" in result.stderr) == (how in ("Fail", "ValueError", "KeyError", "exit"))
    assert "questline/cli" not in result.stderr


@pytest.mark.parametrize(
    ("task", "args", "said"),
    [
        ("nowhere:task", "{}", "nowhere:task: there is no module 'nowhere'"),
        ("{m}:missing", "{}", "module {m} has no task 'missing'; it has ends, fans_out, joins, later, resize"),
        ("{m}:plain", "{}", "plain is there, but is not registered: decorate it with @job"),
        ("{m}:resize", "{}", "{m}:resize lacks its argument 'picture'"),
        ("{m}:resize", '{"picture": 3}', "{m}:resize: args.picture: expected str, got int 3"),
    ],
)
def test_a_task_or_args_that_do_not_fit_end_with_64(
    command: Command, module: str, task: str, args: str, said: str
) -> None:
    result = command("run", task.replace("{m}", module), args)
    assert (result.exit_code, result.stdout) == (64, "")
    assert said.replace("{m}", module) in result.stderr


def test_in_a_worker_pod_it_points_to_the_pods_own_command(
    command: Command, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUESTLINE_PAYLOAD", "/questline/job.json")
    result = command("run", f"{module}:later")
    assert result.exit_code == 2
    assert "so this is a worker pod: the command there is python -m questline run" in result.stderr
