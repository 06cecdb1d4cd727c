"""Parents, roots and depths, and whether an attempt's end lets its children run."""

from typing import Any

import pytest

from questline_operator.core.lineage import (
    MAX_CHILDREN,
    Hold,
    Skip,
    ancestors,
    canceled_ancestor,
    depth_of,
    gate_of_parent,
    released_at,
    root_of,
    worker_name,
)
from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from questline_operator.core.world import World
from tests.unit.core.builders import T0, a_job, a_queue, a_report, a_worker, a_world, an_attempt, child_of, pod_uid

RUNNING = a_job("parent", state="Running", attempt=2)
SUCCEEDED = a_job(
    "parent",
    state="Succeeded",
    attempt=2,
    succeededAttempts=[2],
    children={"total": 3},
    attempts=[an_attempt(1, "Failed", at=5), an_attempt(2, at=20)],
    finishedAt=21,
)
FAILED = a_job("parent", state="Failed", attempt=2, failures=2)
BACKING_OFF = a_job("parent", attempt=2, failures=2, nextAttemptAt=60)


def child(parent: Job, **fields: Any) -> Job:
    return a_job("child", spec={"parent": child_of(parent, **{"attempt": 2, **fields})})


def gate(parent: Job | None, job: Job, *others: Any) -> Reason | None:
    verdict = gate_of_parent(a_world(job, *([parent] if parent else []), *others), job)
    return None if verdict is None else verdict.reason


def test_a_root_has_no_gate() -> None:
    assert gate(None, a_job()) is None


@pytest.mark.parametrize(
    ("parent", "fields", "reason"),
    [
        pytest.param(RUNNING, {}, Reason.STAGED, id="staged, its attempt runs: it waits"),
        pytest.param(RUNNING, {"staged": False}, None, id="not staged, its attempt runs: it goes"),
        pytest.param(RUNNING, {"attempt": 1}, Reason.PARENT_FAILED, id="staged by an attempt before this one"),
        pytest.param(RUNNING, {"attempt": 1, "staged": False}, Reason.PARENT_FAILED, id="not staged, by one before"),
        pytest.param(RUNNING, {"attempt": 3}, Reason.PARENT_GONE, id="of an attempt that never was"),
        pytest.param(SUCCEEDED, {}, None, id="its attempt succeeded: it goes"),
        pytest.param(SUCCEEDED, {"staged": False}, None, id="not staged, its attempt succeeded: it goes"),
        pytest.param(SUCCEEDED, {"attempt": 1}, Reason.PARENT_FAILED, id="its attempt failed, a later one succeeded"),
        pytest.param(SUCCEEDED, {"index": 2}, None, id="the last of those that were reported"),
        pytest.param(SUCCEEDED, {"index": 3}, Reason.LATE_CHILD, id="beyond those that were reported"),
        pytest.param(SUCCEEDED, {"index": 3, "staged": False}, Reason.LATE_CHILD, id="beyond them, not staged"),
        pytest.param(FAILED, {}, Reason.PARENT_FAILED, id="its parent failed for good"),
        pytest.param(BACKING_OFF, {}, Reason.PARENT_FAILED, id="its attempt failed, the next one has not begun"),
        pytest.param(BACKING_OFF, {"staged": False}, Reason.PARENT_FAILED, id="not staged, but its attempt is over"),
        pytest.param(a_job("parent", state="Canceled", attempt=2), {}, Reason.PARENT_FAILED, id="its parent canceled"),
        pytest.param(RUNNING, {"index": MAX_CHILDREN - 1}, Reason.STAGED, id="the last child that may be"),
        pytest.param(RUNNING, {"index": MAX_CHILDREN}, Reason.TOO_MANY_CHILDREN, id="one child too many"),
        pytest.param(RUNNING, {"uid": "another"}, Reason.PARENT_GONE, id="its parent's name is another Job's by now"),
        pytest.param(SUCCEEDED, {"podUID": "forged"}, None, id="a pod of which the record says nothing"),
        pytest.param(None, {}, Reason.PARENT_GONE, id="its parent is gone"),
    ],
)
def test_what_the_parent_says_of_a_child(parent: Job | None, fields: dict[str, Any], reason: Reason | None) -> None:
    assert gate(parent, child(parent or RUNNING, **fields)) == reason


def test_a_child_of_another_pod_than_the_record_names_is_no_child() -> None:
    parent = a_job(
        "parent", state="Succeeded", attempt=1, attempts=[an_attempt(1, pod_uid=pod_uid(a_job("parent"), 1))]
    )

    assert gate(parent, child(parent, attempt=1)) is None
    assert gate(parent, child(parent, attempt=1, podUID="forged")) is Reason.PARENT_GONE


def test_every_succeeded_attempt_releases_its_children() -> None:
    """After a rerun both attempts have; only the last one's total is still known."""
    parent = a_job("parent", state="Succeeded", attempt=4, succeededAttempts=[2, 4], children={"total": 1})

    assert gate(parent, child(parent, attempt=2, index=8)) is None
    assert gate(parent, child(parent, attempt=4, index=8)) is Reason.LATE_CHILD


def test_a_command_counts_no_children_so_none_of_them_is_late() -> None:
    parent = a_job("parent", state="Succeeded", attempt=2, children={}, spec={"command": ["true"]})

    assert gate(parent, child(parent, attempt=2, index=8)) is None


def a_line(length: int, **root_status: Any) -> tuple[World, list[Job]]:
    """Jobs of which each is the child of the one before."""
    jobs = [a_job("job-0", state="Succeeded", children={"total": 1}, **root_status)]
    for number in range(1, length):
        parent = child_of(jobs[-1])
        jobs.append(a_job(f"job-{number}", state="Succeeded", children={"total": 1}, spec={"parent": parent}))
    return a_world(*jobs), jobs


def test_roots_and_depths_follow_the_parents() -> None:
    world, jobs = a_line(4)

    assert [root_of(world, job) for job in jobs] == ["job-0"] * 4
    assert [depth_of(world, job) for job in jobs] == [0, 1, 2, 3]
    assert [job.name for job in ancestors(world, jobs[3])] == ["job-2", "job-1", "job-0"]


def test_roots_and_depths_are_those_written_where_older_records_are_gone() -> None:
    world, jobs = a_line(2)
    old = a_job("old")
    middle = a_job("middle", state="Succeeded", root="first", depth=41, spec={"parent": child_of(old)})
    last = a_job("last", spec={"parent": child_of(middle)})
    world = a_world(middle, last)

    assert (root_of(world, last), depth_of(world, last)) == ("first", 42)
    assert (root_of(a_world(last), last), depth_of(a_world(last), last)) == ("middle", 1)
    assert jobs


def test_a_label_says_nothing_of_a_root() -> None:
    job = a_job("a")
    job.raw["metadata"]["labels"] = {"questline.dev/root": "forged"}

    assert root_of(a_world(job), job) == "a"


@pytest.mark.parametrize("written", [True, False], ids=["written", "computed"])
def test_a_thousand_enqueues_are_allowed_and_one_more_is_too_deep(written: bool) -> None:
    world, jobs = (
        a_line(1, depth=999, root="r") if written else a_line(1_000)
    )  # the last of either lies 999 below its root
    allowed = a_job("allowed", state="Succeeded", children={"total": 1}, spec={"parent": child_of(jobs[-1])})
    too_deep = a_job("too-deep", spec={"parent": child_of(allowed)})
    world.put_job(allowed)
    world.put_job(too_deep)

    assert gate_of_parent(world, allowed) is None
    verdict = gate_of_parent(world, too_deep)
    assert isinstance(verdict, Skip)
    assert verdict.reason is Reason.TOO_DEEP
    assert "use a Schedule" in verdict.message


def test_the_nearest_canceled_ancestor_is_found_even_when_it_had_finished() -> None:
    root = a_job("root", state="Succeeded", spec={"cancel": True})
    middle = a_job("middle", state="Succeeded", spec={"parent": child_of(root)})
    raised = a_job("raised", state="Canceled", attempt=1, spec={"parent": child_of(middle)})
    leaf = a_job("leaf", spec={"parent": child_of(raised)})
    other = a_job("other", spec={"parent": child_of(middle)})
    world = a_world(root, middle, raised, leaf, other)

    assert canceled_ancestor(world, leaf) is raised
    assert canceled_ancestor(world, other) is root
    assert canceled_ancestor(world, root) is None


# Workers


def test_a_childs_worker_is_its_own_else_its_parents_else_its_roots_queues_default() -> None:
    media, plain = a_queue("media", defaults={"worker": "gpu"}), a_queue()
    root = a_job("root", state="Running", spec={"queue": "media"})
    middle = a_job("middle", state="Running", spec={"parent": child_of(root)})
    leaf = a_job("leaf", spec={"parent": child_of(middle)})
    own = a_job("own", spec={"parent": child_of(middle), "worker": "mine"})
    heir = a_job("heir", spec={"parent": child_of(own)})
    world = a_world(media, plain, root, middle, leaf, own, heir)

    assert [worker_name(world, job) for job in (root, middle, leaf, own, heir)] == ["gpu", "gpu", "gpu", "mine", "mine"]
    assert worker_name(a_world(), a_job()) == "default"


def test_a_parent_with_its_own_image_hands_its_worker_down_all_the_same() -> None:
    """The image is all that it overrides."""
    parent = a_job("parent", state="Running", spec={"image": "busybox", "queue": "media"})
    job = a_job("child", spec={"parent": child_of(parent)})
    world = a_world(a_queue("media", defaults={"worker": "gpu"}), a_queue(defaults={"worker": "plain"}), parent, job)

    assert worker_name(world, job) == "gpu"


@pytest.mark.parametrize(
    ("worker", "spec", "reason"),
    [
        pytest.param(a_worker(), {"queue": "any"}, None, id="any queue unless it says otherwise"),
        pytest.param(a_worker(allowedQueues=["a"]), {"queue": "a"}, None, id="a queue that it allows"),
        pytest.param(a_worker(allowedQueues=["a"]), {"queue": "b"}, Reason.QUEUE_NOT_ALLOWED, id="another queue"),
        pytest.param(a_worker(allowedQueues=[]), {"queue": "a"}, Reason.QUEUE_NOT_ALLOWED, id="no queue at all"),
        pytest.param(a_worker(), {"worker": "default"}, None, id="itself, named"),
        pytest.param(
            a_worker(), {"worker": "other"}, Reason.WORKER_NOT_ALLOWED, id="none but itself unless it says so"
        ),
        pytest.param(a_worker(allowedWorkers=["other"]), {"worker": "other"}, None, id="a Worker that it allows"),
        pytest.param(a_worker(allowedWorkers=["other"]), {}, Reason.WORKER_NOT_ALLOWED, id="not even itself"),
        pytest.param(a_worker(), {"image": "busybox"}, None, id="an image, which policy (b) judges"),
        pytest.param(None, {"worker": "other"}, None, id="its parent's Worker is gone"),
    ],
)
def test_where_a_workers_jobs_may_enqueue_to(worker: Any, spec: dict[str, Any], reason: Reason | None) -> None:
    job = a_job("child", spec={"parent": child_of(RUNNING, attempt=2, staged=False), **spec})

    assert gate(RUNNING, job, *([worker] if worker else [])) == reason


# Eligibility


def test_a_staged_child_became_eligible_when_its_parents_attempt_succeeded() -> None:
    job = child(SUCCEEDED)
    forgotten = a_job("parent", state="Succeeded", attempt=2, finishedAt=21)

    assert released_at(a_world(job, SUCCEEDED), job) == T0 + 20
    assert released_at(a_world(job, forgotten), job) == T0 + 21


def test_any_other_became_eligible_when_it_was_created() -> None:
    at_once = child(SUCCEEDED, staged=False)
    root = a_job("root", created=3)

    assert released_at(a_world(at_once, SUCCEEDED), at_once) == T0
    assert released_at(a_world(root), root) == T0 + 3


def test_a_report_alone_releases_nobody() -> None:
    """Only the outcome that the operator has written counts: it is written after every child was seen."""
    parent = a_job("parent", state="Running", attempt=2, report=a_report(RUNNING))

    verdict = gate_of_parent(a_world(parent, child(parent)), child(parent))

    assert isinstance(verdict, Hold)
    assert verdict.reason is Reason.STAGED
