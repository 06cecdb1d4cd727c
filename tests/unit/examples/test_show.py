from __future__ import annotations

import io

import pytest
from rich.console import Console

from examples.demo.record import Record
from examples.demo.show import Progress, check_lines, job_tree, mail_lines
from examples.demo.verdict import Check
from tests.unit.examples.world import History, child_of


def plain_console() -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, width=160, highlight=False), screen


def test_the_tree_shows_states_attempts_and_durations() -> None:
    history, record = History(), Record()
    times = {"startedAt": "2025-01-01T00:00:00.500000Z", "finishedAt": "2025-01-01T00:00:03.250000Z"}
    history.job("up", "Succeeded", spec={"task": "m:process_upload"}, attempt=1, **times)
    outcomes = [{"outcome": "Failed", "startedAt": "2024-12-31T23:59:50Z"}, {"outcome": "Succeeded"}]
    spec = child_of("up", task="m:send_email", recipient="a@example.com")
    history.job("one", "Succeeded", spec=spec, attempt=2, attempts=outcomes, **times)
    history.job("two", "Skipped", spec=child_of("up", 1, task="m:send_email"), reason="Duplicate")
    history.job(
        "three", "Failed", spec=child_of("one", task="m:tell"), attempt=1, reason="TaskError", message="attempt 1 of 1"
    )
    for event in history.events:
        record.add(event)
    console, screen = plain_console()
    console.print(job_tree(record, "up"))
    assert [" ".join(line.split()) for line in screen.getvalue().splitlines()] == [
        "process_upload Succeeded 1 attempt 2.75 s",
        "├── send_email a@example.com Succeeded 2 attempts 13.25 s (Failed, Succeeded)",
        "│ └── tell Failed (TaskError) 1 attempt attempt 1 of 1",
        "└── send_email Skipped (Duplicate)",
    ]


def test_progress_tells_each_change_of_its_own_jobs_and_of_no_others() -> None:
    history, record = History(), Record()
    console, screen = plain_console()
    with Progress(console, record, lambda: 0, 4, plain=True) as progress:
        progress.follow("up")
        for event in (
            history.job("old", "Running", spec={"task": "m:old"}, attempt=1),
            history.job("up", "Running", spec={"task": "m:process_upload"}, attempt=1),
            history.job("child", "Waiting", spec=child_of("up")),
            history.job("child", "Running", spec=child_of("up"), attempt=2),
        ):
            changed = record.add(event)
            assert changed is not None
            progress.changed(changed)
    lines = [line.split()[2:] for line in screen.getvalue().splitlines()]
    assert lines == [["process_upload", "Running"], ["child", "Running", "attempt", "2"]]


@pytest.mark.parametrize(("code", "said"), [(250, "received"), (451, "refused (451)")])
def test_each_delivery_is_a_line(code: int, said: str) -> None:
    mail = {
        "at": "2025-01-01T12:00:01.250000+00:00",
        "code": code,
        "to": ["a@example.com"],
        "subject": "News",
        "attachments": [{"name": "x.jpg", "type": "image/jpeg", "bytes": 7}],
    }
    (line,) = mail_lines([mail])
    assert " ".join(line.plain.split()) == f"12:00:01.250 a@example.com {said} News, x.jpg (7 bytes)"


def test_a_broken_promise_stands_out() -> None:
    kept, broken = check_lines([Check("this", kept=True, seen="yes"), Check("that", kept=False, seen="no")])
    assert (kept.plain, broken.plain) == ("  kept    this: yes", "  BROKEN  that: no")
