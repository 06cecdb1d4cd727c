"""The tree and its progress, drawn."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from questline.cli.tree import LiveTree, job_tree
from questline.cli.view import JobSet

NOW = datetime(2026, 1, 31, 8, 0, 10, tzinfo=UTC)


def a_job(name: str, state: str = "Waiting", *, below: str = "", index: int = 0, **status: Any) -> dict[str, Any]:
    parent = {"parent": {"name": below, "uid": f"uid-{below}", "attempt": 1, "index": index}} if below else {}
    spec = {"task": "tasks:work", **parent}
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec, "status": {"state": state, **status}}


def drawn(jobs: JobSet, root: str, **options: Any) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=120, highlight=False).print(job_tree(jobs, root, **options))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_states_stand_in_one_column_however_deep() -> None:
    jobs = JobSet([a_job("a", "Succeeded"), a_job("b", "Running", below="a"), a_job("a-long-name", below="b")])
    screen = io.StringIO()
    Console(file=screen, width=120).print(job_tree(jobs, "a"))
    lines = screen.getvalue().splitlines()
    assert len({line.index(state) for line, state in zip(lines, ("Succ", "Runn", "Wait"), strict=True)}) == 1


def test_a_job_that_runs_shows_for_how_long_and_one_that_waits_shows_why() -> None:
    jobs = JobSet(
        [
            a_job("a", "Running", attempt=1, startedAt="2026-01-31T08:00:05Z"),
            a_job("b", below="a", reason="QueuePaused", message="queue mail is paused"),
        ]
    )
    assert drawn(jobs, "a", now=NOW) == [
        "a Running 1 attempt 5.00 s",
        "└── b Waiting QueuePaused: queue mail is paused",
    ]


def test_of_many_siblings_some_are_shown_and_the_others_counted() -> None:
    states = ["Succeeded"] * 3 + ["Failed", "Waiting", "Waiting"]
    children = [a_job(f"c{index}", state, below="a", index=index) for index, state in enumerate(states)]
    jobs = JobSet([a_job("a", "Succeeded"), *children, a_job("d", below="c1")])
    assert drawn(jobs, "a", siblings=2) == [
        "a Succeeded",
        "├── c0 Succeeded",
        "├── c1 Succeeded",
        "│ └── d Waiting",
        "└── ... 4 more: 2 Waiting, 1 Succeeded, 1 Failed",
    ]
    assert len(drawn(jobs, "a")) == 8


def test_a_tree_a_thousand_deep_is_drawn() -> None:
    jobs = JobSet([a_job("j0"), *(a_job(f"j{n}", below=f"j{n - 1}") for n in range(1, 1001))])
    assert len(jobs.tree("j0")) == 1001
    job_tree(jobs, "j0")


def test_the_children_of_a_former_job_of_the_same_name_are_not_its_own() -> None:
    child = a_job("b", below="a")
    child["spec"]["parent"]["uid"] = "uid-of-another"
    assert [job.name for job in JobSet([a_job("a"), child]).tree("a")] == ["a"]


def test_a_live_tree_draws_the_jobs_with_their_progress() -> None:
    screen = io.StringIO()
    # No environment: under TERM=dumb nothing is drawn live.
    console = Console(file=screen, width=100, height=30, force_terminal=True, color_system=None, _environ={})
    with LiveTree(console, "a") as live:
        live.show(JobSet([a_job("a", "Succeeded"), a_job("b", "Running", below="a"), a_job("other")]))
    text = screen.getvalue()
    assert "1 of 2 ended, 1 Running, 1 Succeeded" in text
    assert "└── b" in text
    assert "other" not in text


def test_the_tree_is_drawn_while_its_children_come_and_go() -> None:
    """Rich draws in a thread of its own, which an error ends with a traceback on the terminal."""
    jobs = JobSet([a_job("a", "Running")])
    live = LiveTree(Console(file=io.StringIO(), width=120), "a")
    live.show(jobs)
    over = threading.Event()

    def fan_out() -> None:
        for index in range(4000):
            jobs.put(a_job(f"c{index}", "Waiting", below="a", index=index))
        for index in range(4000):
            jobs.remove(f"c{index}")
        over.set()

    thread = threading.Thread(target=fan_out)
    thread.start()
    try:
        while not over.is_set():
            live._picture()
    finally:
        thread.join()
