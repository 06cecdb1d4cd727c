"""Groups and trees: what those in them say to a Job that waits for all, and what it is told of them."""

import json
from typing import Any

import pytest

from questline_operator.core.dependencies import gate_of_dependencies, whose_turn_may_come
from questline_operator.core.inputs import MAX_BYTES, inputs_of
from questline_operator.core.lineage import Hold, Skip
from questline_operator.core.records import Job
from questline_operator.core.retention import expired_jobs
from questline_operator.core.states import Reason
from questline_operator.core.world import World
from tests.unit.core.builders import T0, a_job, a_queue, a_world, child_of, put

SUCCEEDED_ROOT: dict[str, Any] = {"state": "Succeeded", "children": {"total": 3, "groups": {"g": 2}}}
ROOT = a_job("root", **SUCCEEDED_ROOT)
PENDING: dict[str, Any] = {}
RUNS: dict[str, Any] = {"state": "Running"}
SUCCEEDED: dict[str, Any] = {"state": "Succeeded"}
FAILED: dict[str, Any] = {"state": "Failed", "reason": "TaskError"}
CANCELED: dict[str, Any] = {"state": "Canceled", "reason": "Requested"}
AGAIN: dict[str, Any] = {"state": "Running", "attempt": 2, "finishes": 1}
NEVER_WAS: dict[str, Any] = {"state": "Skipped", "reason": "ParentFailed"}


def member(index: int, parent: Job = ROOT, *, group: str = "g", spec: Any = None, **status: Any) -> Job:
    reference = child_of(parent, index=index, group=group)
    return a_job(f"m{index}", created=1, spec={"parent": reference, **(spec or {})}, **status)


def joining(*after: dict[str, str], policy: str = "Succeeded", name: str = "join", **more: Any) -> Job:
    reference = child_of(ROOT, index=99, **more.pop("parent", {}))
    return a_job(name, spec={"parent": reference, "after": list(after), "afterPolicy": policy}, **more)


GROUP = {"group": "g"}


def verdict(world: World, job: Job) -> Reason | None:
    found = gate_of_dependencies(world, job)
    return None if found is None else found.reason


HOLD, SKIP = Reason.DEPENDENCY_PENDING, Reason.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("second", "succeeded", "finished"),
    [
        pytest.param(PENDING, HOLD, HOLD, id="one that waits"),
        pytest.param(RUNS, HOLD, HOLD, id="one that runs"),
        pytest.param(SUCCEEDED, None, None, id="one that succeeded"),
        pytest.param(FAILED, SKIP, None, id="one that failed"),
        pytest.param(CANCELED, SKIP, None, id="one that was canceled"),
        pytest.param(AGAIN, HOLD, None, id="one that failed and runs again"),
        pytest.param({**AGAIN, "succeededAttempts": [1]}, None, None, id="one that succeeded and runs again"),
    ],
)
@pytest.mark.parametrize("after", [GROUP, {"tree": "root"}], ids=["of a group", "of a tree"])
def test_after_a_group_or_tree_each_policy_waits_skips_or_is_met(
    second: Any, succeeded: Reason | None, finished: Reason | None, after: Any
) -> None:
    strict, lenient = joining(after), joining(after, policy="Finished")
    members = [member(0, **SUCCEEDED), member(1, **second)]

    assert verdict(a_world(ROOT, strict, *members), strict) is succeeded
    assert verdict(a_world(ROOT, lenient, *members), lenient) is finished


def test_one_failure_is_enough_and_is_named() -> None:
    job = joining(GROUP)
    failed = member(1, **FAILED)
    found = gate_of_dependencies(a_world(ROOT, job, member(0), failed), job)

    assert isinstance(found, Skip)
    assert found.message == "Job m1 of group g, which it waits for, ended Failed (TaskError)"
    assert found.upstream == failed


def test_a_wait_says_how_many_have_ended() -> None:
    job = joining(GROUP)
    found = gate_of_dependencies(a_world(ROOT, job, member(0, **SUCCEEDED), member(1)), job)

    assert isinstance(found, Hold)
    assert found.message == "waits for group g: 1 of 2 Jobs have ended"


# Groups


def test_a_group_is_of_one_attempts_children_alone() -> None:
    job = joining(GROUP)
    others = [
        a_job("other-group", spec={"parent": child_of(ROOT, index=5, group="h")}),
        a_job("other-attempt", spec={"parent": child_of(ROOT, attempt=2, index=0, group="g")}),
        a_job("other-pod", spec={"parent": child_of(ROOT, index=6, group="g", podUID="forged-uid")}),
        a_job("no-group", spec={"parent": child_of(ROOT, index=7)}),
    ]
    members = [member(0, **SUCCEEDED), member(1, **SUCCEEDED)]

    assert verdict(a_world(ROOT, job, *others, *members), job) is None


def test_a_group_is_open_until_its_attempt_has_succeeded() -> None:
    running = a_job("root", state="Running")
    job = joining(GROUP, parent={"staged": False})
    found = gate_of_dependencies(a_world(running, job), job)

    assert isinstance(found, Hold)
    assert found.message == "waits for group g, which attempt 1 of its parent root closes when it succeeds"


def test_an_empty_group_is_met() -> None:
    childless = a_job("root", state="Succeeded", children={"total": 1, "groups": {"g": 0}})
    for policy in ("Succeeded", "Finished"):
        job = joining(GROUP, policy=policy)
        assert verdict(a_world(childless, job), job) is None


def test_a_deleted_child_counts_as_canceled() -> None:
    strict, lenient = joining(GROUP), joining(GROUP, policy="Finished")
    world = a_world(ROOT, strict, member(0, **SUCCEEDED))
    found = gate_of_dependencies(world, strict)

    assert isinstance(found, Skip)
    assert found.reason is SKIP
    assert found.message == "1 of the 2 Jobs of group g, which it waits for, are deleted, which counts as Canceled"
    assert verdict(a_world(ROOT, lenient, member(0, **SUCCEEDED)), lenient) is None
    summary = (inputs_of(world, strict) or {})["summary"]
    assert summary == {"total": 2, "succeeded": 1, "failed": 0, "skipped": 0, "canceled": 1}


@pytest.mark.parametrize(("watched", "known"), [(99, False), (100, True), (None, True)])
@pytest.mark.parametrize("after", [GROUP, {"tree": "root"}], ids=["a group", "a tree"])
def test_a_success_that_the_watch_has_not_told_of_closes_nothing(watched: int | None, known: bool, after: Any) -> None:
    job = joining(after)
    world = a_world(ROOT, job, member(0, **SUCCEEDED), member(1, **SUCCEEDED))
    world.watched = watched
    found = gate_of_dependencies(world, job)

    assert (found is None) == known
    if found is not None:
        assert isinstance(found, Hold)
        assert (found.watched, found.passing) == (100, True)


def test_a_root_has_no_group_to_wait_for() -> None:
    """The CRD refuses it; a record that has it all the same waits and says why."""
    job = a_job("root", spec={"after": [GROUP]})

    assert verdict(a_world(job), job) is Reason.DEPENDENCY_MISSING


# Trees


def test_a_tree_is_its_root_and_all_below_but_the_waiter() -> None:
    job = joining({"tree": "root"})
    child = member(0, **SUCCEEDED)
    leaf = a_job("leaf", spec={"parent": child_of(child)})
    world = a_world(ROOT, job, child, leaf)

    assert verdict(world, job) is HOLD
    put(world, a_job("leaf", spec=leaf.spec, **SUCCEEDED))
    assert verdict(world, job) is None
    put(world, a_job("late", spec={"parent": child_of(leaf)}))
    assert verdict(world, job) is HOLD


def test_the_root_itself_is_waited_for() -> None:
    root = a_job("root", state="Running")
    outside = a_job("outside", spec={"after": [{"tree": "root"}]})

    assert verdict(a_world(root, outside), outside) is HOLD
    assert verdict(a_world(outside), outside) is Reason.DEPENDENCY_MISSING
    assert verdict(a_world(a_job("root", **FAILED), outside), outside) is SKIP


def test_the_children_of_a_failed_attempt_are_none_of_a_tree() -> None:
    job = joining({"tree": "root"})
    former = a_job("former", spec={"parent": child_of(ROOT, attempt=2)}, **NEVER_WAS)
    late = a_job("late", spec={"parent": child_of(ROOT, index=8)}, state="Skipped", reason="LateChild")
    world = a_world(ROOT, job, former, late, member(0, **SUCCEEDED))

    assert verdict(world, job) is None
    assert (inputs_of(world, job) or {})["summary"]["total"] == 2


def test_a_child_may_wait_for_a_tree_of_its_own_tree_alone() -> None:
    job = joining({"tree": "stranger"})

    assert verdict(a_world(ROOT, job, a_job("stranger", **SUCCEEDED)), job) is Reason.UPSTREAM_NOT_ALLOWED


# Duplicates


@pytest.mark.parametrize(("original", "reason"), [(RUNS, HOLD), (SUCCEEDED, None), (FAILED, SKIP)])
@pytest.mark.parametrize("after", [GROUP, {"tree": "root"}], ids=["of a group", "of a tree"])
def test_a_duplicate_counts_as_its_original_as_that_goes_on(original: Any, reason: Reason | None, after: Any) -> None:
    job = joining(after)
    duplicate = member(1, state="Skipped", reason="Duplicate", duplicateOf="middle")
    middle = a_job("middle", state="Skipped", reason="Duplicate", duplicateOf="original")
    world = a_world(ROOT, job, member(0, **SUCCEEDED), duplicate, middle, a_job("original"))

    assert verdict(world, job) is HOLD
    put(world, a_job("original", **original))
    assert verdict(world, job) is reason
    assert job in list(whose_turn_may_come(world, world.jobs["default", "original"])) or reason is HOLD


# Cycles


@pytest.mark.parametrize(
    ("job", "others"),
    [
        pytest.param(joining(GROUP, parent={"group": "g"}), [], id="a join of its own group"),
        pytest.param(
            joining(GROUP), [member(0, spec={"after": [{"job": "join"}]})], id="a member that waits for the join"
        ),
        pytest.param(
            joining(GROUP), [member(0, spec={"after": [{"tree": "root"}]})], id="a member that waits for its tree"
        ),
        pytest.param(
            joining({"tree": "root"}),
            [a_job("next", spec={"parent": child_of(ROOT, index=4), "after": [{"job": "join"}]})],
            id="one of the tree that waits for the join",
        ),
        pytest.param(
            joining({"tree": "root"}),
            [joining({"tree": "root"}, name="another")],
            id="two that wait for the tree of both",
        ),
    ],
)
def test_jobs_that_wait_for_each_other_are_a_cycle(job: Job, others: list[Job]) -> None:
    world = a_world(ROOT, job, *others)

    assert verdict(world, job) is Reason.DEPENDENCY_CYCLE
    for other in others:
        assert verdict(world, other) is Reason.DEPENDENCY_CYCLE


def test_a_join_of_joins_is_no_cycle() -> None:
    left = joining(GROUP, name="left", parent={"group": "joins"})
    last = joining({"group": "joins"}, name="last")

    assert verdict(a_world(ROOT, left, last, member(0)), last) is HOLD


# Cost


@pytest.mark.parametrize("policy", ["Succeeded", "Finished"])
@pytest.mark.parametrize("after", [GROUP, {"tree": "root"}], ids=["a group", "a tree"])
def test_a_join_over_thousands_is_asked_when_the_last_has_ended_and_not_for_each(policy: str, after: Any) -> None:
    job = joining(after, policy=policy)
    world = a_world(ROOT, job, *(member(n) for n in range(3_000)))
    assert verdict(world, job) is HOLD
    asked = []
    for n in range(3_000):
        put(world, ended := member(n, **SUCCEEDED))
        asked += [n for waiter in whose_turn_may_come(world, ended) if waiter == job]

    assert asked == [2_999]
    assert verdict(world, job) is None


def test_one_that_was_skipped_is_asked_whenever_one_of_them_changes() -> None:
    """Any of those that failed may be the last to run again."""
    job = joining(GROUP, state="Skipped", reason="UpstreamFailed")
    world = a_world(ROOT, job, member(0), failed := member(1, **AGAIN))

    assert job in list(whose_turn_may_come(world, failed))


# Inputs


def told(*members: Job, after: Any = GROUP) -> Any:
    job = joining(after)
    return inputs_of(a_world(ROOT, job, *members), job)


def test_a_job_that_waits_for_nothing_is_told_nothing() -> None:
    job = a_job()
    assert inputs_of(a_world(job), job) is None


def test_what_it_waited_for_is_told_in_the_order_of_the_enqueues() -> None:
    ended = [
        member(2, result={"n": 2}, **SUCCEEDED),
        member(0, result=None, **SUCCEEDED),
        member(1, result="of before", **FAILED),
        member(4, **CANCELED),
        member(3, state="Skipped", reason="UpstreamFailed"),
    ]

    assert told(*ended) == {
        "summary": {"total": 5, "succeeded": 2, "failed": 1, "skipped": 1, "canceled": 1},
        "jobs": [
            {"name": "m0", "task": "tasks:work", "state": "Succeeded", "result": None},
            {"name": "m1", "task": "tasks:work", "state": "Failed", "result": None},
            {"name": "m2", "task": "tasks:work", "state": "Succeeded", "result": {"n": 2}},
            {"name": "m3", "task": "tasks:work", "state": "Skipped", "result": None},
            {"name": "m4", "task": "tasks:work", "state": "Canceled", "result": None},
        ],
        "truncated": False,
    }


def test_one_that_has_succeeded_and_runs_again_is_told_as_succeeded() -> None:
    (job,) = told(member(0, result=7, **{**AGAIN, "succeededAttempts": [1]}), after=GROUP)["jobs"]

    assert (job["state"], job["result"]) == ("Succeeded", 7)


def test_a_duplicate_has_its_originals_state_and_result_under_its_own_name() -> None:
    duplicate = member(0, state="Skipped", reason="Duplicate", duplicateOf="original")
    inputs = told(duplicate, member(1, **SUCCEEDED), a_job("original", result=7, **SUCCEEDED))

    assert inputs["summary"] == {"total": 2, "succeeded": 2, "failed": 0, "skipped": 0, "canceled": 0}
    assert inputs["jobs"][0] == {"name": "m0", "task": "tasks:work", "state": "Succeeded", "result": 7}


def test_each_counts_once_however_often_it_is_named_and_a_deleted_job_as_canceled() -> None:
    job = joining({"job": "m1"}, {"group": "g"}, {"job": "gone"}, policy="Finished")
    world = a_world(ROOT, job, member(0, **SUCCEEDED), member(1, **FAILED))
    inputs: Any = inputs_of(world, job)

    assert inputs["summary"] == {"total": 3, "succeeded": 1, "failed": 1, "skipped": 0, "canceled": 1}
    assert [one["name"] for one in inputs["jobs"]] == ["m1", "m0"]


def test_a_tree_is_told_from_its_root_without_the_waiters_own_branch() -> None:
    job = joining({"tree": "root"}, state="Running", attempt=2)
    own = a_job("own", spec={"parent": child_of(job)}, **SUCCEEDED)
    inputs: Any = inputs_of(a_world(ROOT, job, own, member(1, **SUCCEEDED), member(0, **SUCCEEDED)), job)

    assert [one["name"] for one in inputs["jobs"]] == ["root", "m0", "m1"]


def test_fifty_are_told_and_all_are_counted() -> None:
    inputs = told(*(member(n, result=n, **SUCCEEDED) for n in range(51)))

    assert inputs["summary"]["total"] == 51
    assert [job["result"] for job in inputs["jobs"]] == list(range(50))
    assert inputs["truncated"]
    assert not told(*(member(n, **SUCCEEDED) for n in range(50)))["truncated"]


def test_results_are_told_up_to_64_kib_and_none_is_cut() -> None:
    inputs = told(*(member(n, result="ü" * 1_500, **SUCCEEDED) for n in range(50)))

    size = len(json.dumps(inputs, separators=(",", ":"), ensure_ascii=False).encode())
    assert MAX_BYTES - 3_100 < size <= MAX_BYTES
    assert inputs["truncated"]
    assert {job["result"] for job in inputs["jobs"]} == {"ü" * 1_500}


# Retention


def kept(*records: Job, deletable: str = "m0") -> bool:
    world = a_world(a_queue(), *records)
    return deletable not in {job.name for job in expired_jobs(world, ("default", "default"), T0 + 10**6)}


OLD = {"ttlSecondsAfterFinished": 0}


@pytest.mark.parametrize("after", [GROUP, {"tree": "root"}], ids=["its group", "its tree"])
@pytest.mark.parametrize("state", ["Waiting", "Running"])
def test_a_record_is_kept_while_a_join_needs_it(after: Any, state: str) -> None:
    gone, ended = member(0, spec=OLD, **SUCCEEDED), a_job("other", **SUCCEEDED)

    assert kept(ROOT, gone, joining(after, state=state))
    assert kept(ROOT, ended, member(1, state="Skipped", reason="Duplicate", duplicateOf="m0"), gone, joining(after))
    assert not kept(ROOT, gone)


def test_an_original_is_kept_for_a_join_of_its_duplicates_group() -> None:
    original = a_job("original", spec=OLD, **SUCCEEDED)
    duplicate = member(0, state="Skipped", reason="Duplicate", duplicateOf="original")

    assert kept(ROOT, original, duplicate, joining(GROUP), deletable="original")
    assert not kept(ROOT, original, duplicate, deletable="original")


def test_a_child_of_a_group_is_kept_while_its_parents_attempt_may_yet_enqueue_a_join() -> None:
    running = a_job("root", state="Running")
    gone = member(0, spec={**OLD}, **SUCCEEDED)

    assert kept(running, gone)
    assert not kept(a_job("root", state="Running", attempt=2), gone)
