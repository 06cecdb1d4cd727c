"""SIGTERM, and what process 1 does with signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from questline import OptionInvalid, StopRequest
from tests.unit.sdk.apiserver import ApiServer
from tests.unit.sdk.processes import Ended

Start = Callable[..., "subprocess.Popen[bytes]"]
Wait = Callable[["subprocess.Popen[bytes]"], Ended]

BELOW_PID1 = """
import sys
from questline.pid1 import supervise
from questline.__main__ import _run
sys.exit(supervise(_run))
"""
"""The command as it runs as process 1 of a container, where it is not."""


def waiting(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """The same, once the task waits."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    return process


@pytest.mark.parametrize("code", ["", BELOW_PID1])
@pytest.mark.parametrize("task", ["waits", "waits_async"])
def test_sigterm_interrupts_the_task_lets_it_clean_up_and_leaves_no_outcome(
    start_task: Start, ended: Wait, api: ApiServer, tmp_path: Path, task: str, code: str
) -> None:
    note = tmp_path / "note"
    process = waiting(start_task(f"outcomes:{task}", {"path": str(note)}, api=api, code=code))
    process.send_signal(signal.SIGTERM)
    end = ended(process)
    assert (end.exit_code, end.termination_message) == (143, b"")
    assert end.stderr == "questline: stopped by SIGTERM before the task had ended: no outcome\n"
    assert note.read_text() == "cleaned up"
    assert api.requests == []


@pytest.mark.parametrize(
    ("task", "how", "outcome", "exit_code"),
    [
        *(("ends_by_itself", how, "Succeeded", 0) for how in ("main", "thread", "loop")),
        ("ends_by_itself", "snooze", "Snoozed", 75),
        ("ends_by_itself", "error", "Failed", 1),
        ("ends_by_itself_async", "main", "Succeeded", 0),
        ("ends_by_itself_async", "snooze", "Snoozed", 75),
    ],
)
@pytest.mark.parametrize("code", ["", BELOW_PID1])
def test_a_task_that_asked_whether_it_is_to_stop_ends_by_itself_and_its_outcome_counts(
    start_task: Start, ended: Wait, api: ApiServer, task: str, how: str, outcome: str, exit_code: int, code: str
) -> None:
    process = waiting(start_task(f"outcomes:{task}", {"how": how}, api=api, code=code))
    process.send_signal(signal.SIGTERM)
    end = ended(process)
    assert (end.exit_code, end.envelope["outcome"]) == (exit_code, outcome), end.stderr
    assert [patch.body[1]["value"]["outcome"] for patch in api.patches()] == [outcome]


def test_a_stop_that_came_before_anyone_waited_is_not_missed() -> None:
    request = StopRequest()
    assert (bool(request), request.wait(0)) == (False, False)
    request._make()
    request._make()
    assert (bool(request), request.wait()) == (True, True)
    early = StopRequest()
    early._make()
    assert early.wait()
    assert asyncio.run(early.wait_async())


@pytest.mark.parametrize("timeout", [-1, float("nan"), 10**400, "soon"])
def test_a_wait_of_no_time_is_refused_by_name_and_value(timeout: Any) -> None:
    request = StopRequest()
    with pytest.raises(OptionInvalid, match="timeout is "):
        request.wait(timeout)
    with pytest.raises(OptionInvalid, match="timeout is "):
        asyncio.run(request.wait_async(timeout))


def test_a_second_sigterm_does_not_interrupt_the_clean_up(start_task: Start, ended: Wait, tmp_path: Path) -> None:
    note = tmp_path / "note"
    process = waiting(start_task("outcomes:cleans_up_for_long", {"path": str(note)}))
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == b"cleaning\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process).exit_code == 143
    assert note.read_text() == "cleaned up"


def test_a_task_that_goes_on_after_it_was_interrupted_has_no_outcome(
    start_task: Start, ended: Wait, api: ApiServer, tmp_path: Path
) -> None:
    process = waiting(start_task("outcomes:waits", {"path": str(tmp_path / "note"), "swallow": True}, api=api))
    process.send_signal(signal.SIGTERM)
    end = ended(process)
    assert (end.exit_code, end.termination_message) == (143, b"")
    assert api.requests == []


def test_a_task_that_ignores_sigterm_is_left_to_the_kubelets_sigkill(start_task: Start, ended: Wait) -> None:
    process = waiting(start_task("outcomes:ignores_sigterm"))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGKILL)
    assert ended(process).exit_code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("task", "args", "exit_code"),
    [
        ("outcomes:returns", {}, 0),
        ("outcomes:raises", {"text": "no"}, 1),
        ("outcomes:raises_retry", {"delay": "1s"}, 75),
        ("shop:missing", {}, 64),
        ("outcomes:exits_hard", {"code": 7}, 7),
        ("outcomes:breaks", {}, 128 + signal.SIGSEGV),
        ("outcomes:kills_itself", {"number": int(signal.SIGABRT)}, 128 + signal.SIGABRT),
        ("outcomes:kills_itself", {"number": int(signal.SIGSEGV)}, 128 + signal.SIGSEGV),
        ("outcomes:kills_itself", {"number": int(signal.SIGKILL)}, 128 + signal.SIGKILL),
    ],
)
def test_process_1_ends_as_its_task_does(
    start_task: Start, ended: Wait, task: str, args: dict[str, Any], exit_code: int
) -> None:
    assert ended(start_task(task, args, code=BELOW_PID1)).exit_code == exit_code


def test_process_1_collects_orphans(start_task: Start, ended: Wait) -> None:
    # An orphan goes to process 1, or to a "subreaper" (prctl 36), which the supervisor is here. A process that has
    # ended can be signalled until it is collected.
    orphan = """
import ctypes, os, sys, time
from questline.pid1 import supervise
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
def main():
    reading, writing = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(writing, str(os.getpid()).encode())
        os._exit(0)
    os.wait()
    orphan = int(os.read(reading, 100))
    while True:
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            return 5
        time.sleep(0.001)
sys.exit(supervise(main))
"""
    assert ended(start_task("shop:nothing", code=orphan)).exit_code == 5


def test_only_process_1_gives_the_task_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from questline.pid1 import run_below_pid1

    assert run_below_pid1(os.getpid) == os.getpid()


def test_a_pool_of_the_task_that_is_ended_does_not_ask_the_attempt_to_stop(start_task: Start, ended: Wait) -> None:
    """`multiprocessing.Pool` forks, and ends its workers by SIGTERM."""
    end = ended(start_task("outcomes:ends_its_pool"))
    assert (end.exit_code, end.envelope["result"]) == (0, [True, False])


def test_what_a_fork_of_the_task_is_ended_by_is_sigterm(start_task: Start, ended: Wait) -> None:
    assert ended(start_task("outcomes:ends_its_fork")).envelope["result"] == -signal.SIGTERM
