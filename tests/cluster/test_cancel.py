"""Cancel of a tree of five hundred with joins in it and work in all states, its root ended or running."""

from collections import Counter
from typing import Any

import pytest

from questline_operator.core.records import Job
from questline_operator.core.states import State
from questline_operator.shell.api import JOBS
from tests.live import Live, a_queue
from tests.verdict import Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive]

BRANCHES, LEAVES = 4, 60
"""Each branch fails once after it has enqueued, so that it enqueues twice as many."""
TREE = 1 + BRANCHES * (1 + 2 * (LEAVES + 1)) + 1
SECONDS = 120.0


def a_tree(*, root_runs: bool) -> dict[str, Any]:
    """The args of its root: branches whose leaves fail once and back off, a join of each branch's, one of the branches.

    A root that runs lives on with an outcome that nobody has read; its branches are not staged, so they run.
    """
    leaf = {
        "queue": "narrow",
        "task": "tasks:leaf",
        "backoff": {"type": "Fixed", "baseSeconds": 10, "jitter": 0},
        "args": {"fake": {"seconds": 6, "failures": 1}},
    }
    branch = {
        "queue": "wide",
        "task": "tasks:branch",
        "backoff": {"type": "Fixed", "baseSeconds": 0},
        "args": {
            "fake": {"children": LEAVES, "child": leaf, "failures": 1, "group": "g", "then": {"task": "tasks:join"}}
        },
    }
    root = {"children": BRANCHES, "child": branch, "group": "g", "then": {"task": "tasks:last"}}
    return {"fake": root | ({"staged": False, "report": False, "lingerSeconds": 600} if root_runs else {})}


@pytest.mark.parametrize("root_runs", [False, True], ids=["of a root that has ended", "of a root that runs"])
async def test_cancel_of_five_hundred_with_joins_and_work_in_all_states_leaves_nothing_alive(
    fake: Live, root_runs: bool
) -> None:
    history = fake.history
    await fake.apply(a_queue("narrow", concurrency=12), a_queue("wide", concurrency=40))
    await fake.job("root", "tasks:root", args=a_tree(root_runs=root_runs))
    await history.until(lambda: len(history.jobs()) == TREE and all(found(history.jobs()).values()), seconds=SECONDS)
    before = {job.name: job for job in history.jobs()}
    print(Counter((job.state, job.reason) for job in before.values()))

    await fake.edit("root", cancel=True)
    await history.settled(seconds=SECONDS)
    await history.until(lambda: not any(pod.live for pod in history.pods()), seconds=SECONDS)

    for job in history.jobs():
        was = before[job.name]
        if was.terminal:
            assert (job.state, job.reason) == (was.state, was.reason), job.name
    ended = Counter((job.state, job.reason) for job in history.jobs())
    assert history.job("root").state is (State.CANCELED if root_runs else State.SUCCEEDED)
    assert ended[State.CANCELED, "AncestorCanceled"] > TREE // 4, ended
    assert ended[State.CANCELED, "Requested"] == root_runs
    assert set(ended) <= {
        (State.SUCCEEDED, ""),
        (State.SKIPPED, "ParentFailed"),
        (State.CANCELED, "AncestorCanceled"),
        (State.CANCELED, "Requested"),
    }
    assert claims_after_the_end(fake) == []
    assert Verdict.of(history, concurrency={"narrow": 12, "wide": 40}).violations == ()


def found(jobs: list[Job]) -> dict[str, bool]:
    """Which of the states that the tree is to be canceled in are there."""
    leaves = [job for job in jobs if job.spec["task"] == "tasks:leaf"]
    waiting = [job for job in leaves if job.state is State.WAITING]
    return {
        "a leaf that has succeeded": any(job.state is State.SUCCEEDED for job in leaves),
        "one of an attempt that failed": any(job.state is State.SKIPPED for job in leaves),
        "one that runs": any(job.state is State.RUNNING for job in leaves),
        "one that backs off": any(job.failures for job in waiting),
        "one that was never claimed": any(not job.admitted for job in waiting),
        "a join of each branch": sum(bool(job.after) and not job.terminal for job in jobs) >= BRANCHES,
    }


def claims_after_the_end(fake: Live) -> list[str]:
    """The Jobs that were claimed after an eighth of the tree was canceled: those under way are through then."""
    attempts: Counter[str] = Counter()
    canceled, late = set(), []
    for event in fake.history.in_order():
        if event.resource == JOBS:
            job = Job.parse(event.object)
            if job.state is State.CANCELED:
                canceled.add(job.name)
            if job.attempt > attempts[job.name] and len(canceled) > TREE // 8:
                late.append(f"{job.name}, attempt {job.attempt}")
            attempts[job.name] = job.attempt
    return late
