"""Chains and fan-out on the real kubelet: order, retries, failure (behaviours 1, 2, 3 and 9 of the main job)."""

import statistics

import pytest

from questline_operator.core.states import State
from tests.live import Live, a_job

pytestmark = pytest.mark.exclusive

RUNS = 20
HOP_LIMIT_SECONDS = 1.0


async def test_a_child_starts_only_after_its_parents_attempt_succeeded_and_within_a_second(live: Live) -> None:
    """Twenty runs, one after the other; the moments are stamped by the two containers themselves."""
    hops = []
    for run in range(RUNS):
        name = await live.job(f"parent-{run}", "tasks:parent")
        await live.history.until(lambda name=name: _tree_ended(live, name, 2))  # type: ignore[misc]
        parent = live.history.job(name)
        child = next(job for job in live.history.jobs() if job.parent and job.parent.uid == parent.uid)
        last, first = parent.status["result"]["last_line"], child.status["result"]["first_line"]
        assert parent.finished_at is not None
        assert last < parent.finished_at < first, "the child ran before its parent's success was written"
        hops.append(first - last)
    print(f"chain hop: p50 {statistics.median(hops):.3f} s, max {max(hops):.3f} s over {RUNS}")
    assert statistics.median(hops) <= HOP_LIMIT_SECONDS


async def test_a_parent_that_fails_twice_leaves_exactly_one_set_of_children_run(live: Live) -> None:
    backoff = {"type": "Fixed", "baseSeconds": 1, "jitter": 0}
    name = await live.job(
        "parent", "tasks:flaky_parent", args={"children": 3, "failures": 2}, backoff=backoff, maxAttempts=3
    )
    await live.history.until(lambda: _tree_ended(live, name, 10))
    children = [job for job in live.history.jobs() if job.parent]
    ran = [job for job in children if job.state is State.SUCCEEDED]
    skipped = [job for job in children if job.state is State.SKIPPED]
    assert (len(ran), len(skipped)) == (3, 6)
    assert {job.reason for job in skipped} == {"ParentFailed"}
    assert {job.parent.attempt for job in ran if job.parent} == {3}
    assert {job.attempt for job in skipped} == {0}, "a child of a failed attempt was claimed"
    assert live.history.job(name).failures == 2


async def test_what_follows_a_step_out_of_retries_never_runs(live: Live) -> None:
    backoff = {"type": "Fixed", "baseSeconds": 1, "jitter": 0}
    await live.apply(
        a_job("first"),
        a_job("second", "tasks:always_fails", after=[{"job": "first"}], maxAttempts=2, backoff=backoff),
        a_job("third", after=[{"job": "second"}]),
        a_job("fourth", after=[{"job": "third"}]),
    )
    await live.history.settled("first", "second", "third", "fourth")
    second, third, fourth = (live.history.job(name) for name in ("second", "third", "fourth"))
    assert (second.state, second.status["message"]) == (
        State.FAILED,
        "attempt 2 of 2: RuntimeError: this never works",
    )
    for skipped in (third, fourth):
        assert (skipped.state, skipped.reason, skipped.attempt) == (State.SKIPPED, "UpstreamFailed", 0)


def _tree_ended(live: Live, root: str, size: int) -> bool:
    if not live.history.has(root):
        return False
    uid = live.history.job(root).uid
    tree = [job for job in live.history.jobs() if job.name == root or (job.parent and job.parent.uid == uid)]
    return len(tree) >= size and all(job.terminal for job in tree)
