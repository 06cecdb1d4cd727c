"""`after`: what the Jobs that a Job waits for say by their ends."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from questline_operator.core import dependencies
from questline_operator.core.decide import WriteStatus, next_step
from questline_operator.core.dependencies import gate_of_dependencies
from questline_operator.core.lineage import Hold, Skip, gate_of_parent
from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from questline_operator.core.status import MESSAGE_LIMIT
from questline_operator.core.world import World
from tests.unit.core.builders import EPOCH, T0, a_job, a_queue, a_worker, a_world, child_of, uid_of


def waiting(*names: str, name: str = "waiter", **spec: Any) -> Job:
    return a_job(name, spec={"after": [{"job": each} for each in names], **spec})


def verdict(world: World, job: Job) -> Reason | None:
    found = gate_of_dependencies(world, job)
    return None if found is None else found.reason


A_WAITS = a_job("a")
A_RUNS = a_job("a", state="Running")
A_SUCCEEDED = a_job("a", state="Succeeded")
A_FAILED = a_job("a", state="Failed", reason="TaskError")
A_RERUNS = a_job("a", state="Running", attempt=2, succeededAttempts=[1], finishes=1)
A_FAILED_AND_RERUNS = a_job("a", state="Running", attempt=2, finishes=1)
NEITHER: list[Job] = []


@pytest.mark.parametrize(
    ("known", "succeeded", "finished"),
    [
        pytest.param(NEITHER, "DependencyMissing", "DependencyMissing", id="a Job that does not exist"),
        pytest.param([A_WAITS], "DependencyPending", "DependencyPending", id="one that waits"),
        pytest.param([A_RUNS], "DependencyPending", "DependencyPending", id="one that runs"),
        pytest.param([A_SUCCEEDED], None, None, id="one that succeeded"),
        pytest.param([A_FAILED], "UpstreamFailed", None, id="one that failed"),
        pytest.param([a_job("a", state="Canceled")], "UpstreamFailed", None, id="one that was canceled"),
        pytest.param([a_job("a", state="Skipped")], "UpstreamFailed", None, id="one that was skipped"),
        pytest.param([A_RERUNS], None, None, id="one that succeeded once and runs again"),
        pytest.param([A_FAILED_AND_RERUNS], "DependencyPending", None, id="one that failed once and runs again"),
    ],
)
def test_after_a_job_each_policy_waits_skips_or_is_met(
    known: list[Job], succeeded: str | None, finished: str | None
) -> None:
    default, explicit = waiting("a"), waiting("a", afterPolicy="Succeeded")
    to_the_end = waiting("a", afterPolicy="Finished")

    assert verdict(a_world(default, *known), default) == succeeded
    assert verdict(a_world(explicit, *known), explicit) == succeeded
    assert verdict(a_world(to_the_end, *known), to_the_end) == finished


def test_a_job_that_waits_for_nobody_has_no_gate() -> None:
    job = a_job()
    assert gate_of_dependencies(a_world(job), job) is None


def test_all_that_it_names_must_be_met() -> None:
    job = waiting("a", "b")

    assert verdict(a_world(job, A_SUCCEEDED, a_job("b", state="Succeeded")), job) is None
    assert verdict(a_world(job, A_SUCCEEDED, a_job("b")), job) is Reason.DEPENDENCY_PENDING


def test_one_failure_is_enough_whatever_else_is_pending_or_missing() -> None:
    job = waiting("nobody", "b", "a")

    assert verdict(a_world(job, a_job("b"), A_FAILED), job) is Reason.UPSTREAM_FAILED


def test_a_missing_name_is_said_before_a_pending_one() -> None:
    """It needs a person; the other needs time."""
    for names in (("b", "nobody"), ("nobody", "b")):
        job = waiting(*names)
        found = gate_of_dependencies(a_world(job, a_job("b")), job)
        assert isinstance(found, Hold)
        assert found.reason is Reason.DEPENDENCY_MISSING
        assert "nobody" in found.message


def test_a_name_of_another_namespace_is_missing() -> None:
    job = waiting("a")

    assert verdict(a_world(job, a_job("a", state="Succeeded", namespace="other")), job) is Reason.DEPENDENCY_MISSING


def test_the_message_names_the_job_and_its_end() -> None:
    job = waiting("a")
    found = gate_of_dependencies(a_world(job, A_FAILED), job)

    assert isinstance(found, Skip)
    assert found.message == "Job a, which it waits for, ended Failed (TaskError)"


# Duplicates


def duplicate(name: str, of: str) -> Job:
    return a_job(name, state="Skipped", reason="Duplicate", duplicateOf=of)


@pytest.mark.parametrize(
    ("original", "succeeded", "finished"),
    [
        pytest.param(a_job("b", state="Running"), "DependencyPending", "DependencyPending", id="that runs"),
        pytest.param(a_job("b", state="Succeeded"), None, None, id="that succeeded"),
        pytest.param(a_job("b", state="Failed"), "UpstreamFailed", None, id="that failed"),
    ],
)
def test_a_duplicate_counts_as_its_original(original: Job, succeeded: str | None, finished: str | None) -> None:
    chain = [duplicate("a", "dup"), duplicate("dup", "b"), original]
    default, to_the_end = waiting("a"), waiting("a", afterPolicy="Finished")

    assert verdict(a_world(default, *chain), default) == succeeded
    assert verdict(a_world(to_the_end, *chain), to_the_end) == finished


def test_a_duplicate_whose_original_is_gone_was_skipped() -> None:
    job = waiting("a")

    assert verdict(a_world(job, duplicate("a", "gone")), job) is Reason.UPSTREAM_FAILED


def test_duplicates_that_name_each_other_end_the_search() -> None:
    """Only a forged status could say so; it must not end the operator."""
    job = waiting("a")

    assert verdict(a_world(job, duplicate("a", "b"), duplicate("b", "a")), job) is Reason.UPSTREAM_FAILED


# Trees


def test_a_child_may_wait_for_jobs_of_its_own_tree_alone() -> None:
    root = a_job("root", state="Succeeded", children={"total": 2})
    sibling = a_job("sibling", state="Succeeded", spec={"parent": child_of(root)})
    stranger = a_job("stranger", state="Succeeded")

    def child_after(name: str) -> Job:
        return waiting(name, parent=child_of(root, index=1))

    world = a_world(root, sibling, stranger)
    assert verdict(world, child_after("sibling")) is None
    assert verdict(world, child_after("root")) is None
    assert verdict(world, child_after("stranger")) is Reason.UPSTREAM_NOT_ALLOWED
    assert verdict(world, child_after("nobody")) is Reason.DEPENDENCY_MISSING


def test_a_root_may_wait_for_any_job() -> None:
    root = a_job("root", state="Succeeded")
    leaf = a_job("leaf", state="Succeeded", spec={"parent": child_of(root)})
    job = waiting("leaf")

    assert verdict(a_world(root, leaf, job), job) is None


# Cycles


def a_cycle(length: int) -> list[Job]:
    return [waiting(f"job-{(n + 1) % length}", name=f"job-{n}") for n in range(length)]


@pytest.mark.parametrize("length", [1, 2, 3, 2_000])
def test_every_member_of_a_cycle_is_skipped_for_it(length: int) -> None:
    jobs = a_cycle(length)
    world = a_world(*jobs)

    for job in (jobs[0], jobs[length // 2], jobs[-1]):
        assert verdict(world, job) is Reason.DEPENDENCY_CYCLE


def test_a_member_is_skipped_for_the_cycle_after_the_others_were() -> None:
    jobs = a_cycle(3)
    skipped = [
        a_job(job.name, state="Skipped", reason="DependencyCycle", spec={"after": job.spec["after"]})
        for job in jobs[1:]
    ]

    assert verdict(a_world(jobs[0], *skipped), jobs[0]) is Reason.DEPENDENCY_CYCLE


def test_the_message_shows_the_way_round() -> None:
    jobs = a_cycle(3)
    found = gate_of_dependencies(a_world(*jobs), jobs[1])

    assert isinstance(found, Skip)
    assert found.message.endswith("job-1 -> job-2 -> job-0 -> job-1")


def test_one_that_waits_for_a_cycle_is_on_none_and_fails_with_it() -> None:
    jobs = a_cycle(2)
    outside = waiting("job-0")

    assert verdict(a_world(outside, *jobs), outside) is Reason.DEPENDENCY_PENDING

    skipped = a_job("job-0", state="Skipped", reason="DependencyCycle", spec={"after": [{"job": "job-1"}]})
    assert verdict(a_world(outside, skipped, jobs[1]), outside) is Reason.UPSTREAM_FAILED


def test_two_ways_to_one_job_are_no_cycle() -> None:
    top = waiting("left", "right", name="top")
    world = a_world(top, waiting("base", name="left"), waiting("base", name="right"), a_job("base", state="Running"))

    assert verdict(world, top) is Reason.DEPENDENCY_PENDING


def test_a_job_once_claimed_is_on_no_cycle() -> None:
    """`a` was met, then deleted and created anew, now after the Job that it had released."""
    released = a_job("b", state="Running", spec={"after": [{"job": "a"}]})
    anew = waiting("b", name="a")

    assert verdict(a_world(released, anew), anew) is Reason.DEPENDENCY_PENDING


def test_the_message_of_a_long_cycle_is_one_that_the_crd_takes() -> None:
    names = [f"step-{number:03}-{'x' * 40}" for number in range(700)]
    jobs = [a_job(name, spec={"after": [{"job": names[number - 1]}]}) for number, name in enumerate(names)]

    found = next_step(a_world(a_queue(), a_worker(), *jobs), jobs[0], T0 + 1, epoch=EPOCH)

    assert isinstance(found, WriteStatus)
    assert found.change["state"] == "Skipped"
    assert len(found.change["message"]) == MESSAGE_LIMIT


def looked_up(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often it is asked what a Job waits for, by name."""
    asked: Counter[str] = Counter()
    waited_for = dependencies._waited_for

    def counted(world: World, job: Job) -> Iterator[str]:
        asked[job.name] += 1
        return waited_for(world, job)

    monkeypatch.setattr(dependencies, "_waited_for", counted)
    return asked


def test_thousands_of_jobs_that_wait_for_each_other_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch)
    layers = [[f"job-{layer}-{n}" for n in range(8)] for layer in range(40)]
    jobs = [waiting(*before, name=name) for before, layer in pairwise(layers) for name in layer]
    world = a_world(a_queue(), *(a_job(name) for name in layers[0]), *jobs)

    for job in reversed(jobs):
        assert verdict(world, job) is Reason.DEPENDENCY_PENDING
    world.put_job(a_job("job-0-0", state="Running"))
    for job in jobs:
        assert verdict(world, job) is Reason.DEPENDENCY_PENDING

    assert max(asked.values()) == 1


@pytest.mark.parametrize("seed", range(200))
def test_what_is_known_to_lead_to_no_cycle_is_forgotten_when_it_may(seed: int) -> None:
    """Whatever has happened before, the answer is that of somebody who knows nothing yet."""
    chance = random.Random(seed)
    names = [f"job-{n}" for n in range(4)]
    parent = a_job("parent", state="Succeeded")
    world = a_world(a_queue(), parent)
    specs: dict[str, dict[str, Any]] = {}

    def new_spec() -> dict[str, Any]:
        kinds = ["job", "job", "tree", "group"] if chance.random() < 0.6 else ["job", "tree"]
        chosen = chance.sample(kinds, chance.randint(0, 2))
        after = [{kind: "g" if kind == "group" else chance.choice(names)} for kind in chosen]
        child = child_of(parent) | chance.choice([{}, {"group": "g"}]) if "group" in kinds else None
        return ({"after": after} if after else {}) | ({"parent": child} if child else {})

    for step in range(60):
        name = chance.choice([*names, "parent"])
        known = world.jobs.get(("default", name))
        act = chance.choice(("change", "change", "change", "make", "remove"))
        if name == "parent":
            state = chance.choice(("Running", "Succeeded"))
            world.put_job(a_job(name, state=state)) if act != "remove" else world.remove_job(parent.key)
        elif act == "remove":
            world.remove_job(("default", name))
        else:
            if known is None or act == "make":
                specs[name] = new_spec()
            uid = known.uid if known is not None and act == "change" else uid_of(f"{name}-{step}")
            status: dict[str, Any] = chance.choice(
                [
                    *[{"state": "Waiting"}] * 4,
                    {"state": "Starting"},
                    {"state": "Succeeded"},
                    {"state": "Skipped", "reason": "UpstreamFailed"},
                    {"state": "Skipped", "reason": "DependencyCycle"},
                    {"state": "Skipped", "reason": "Duplicate", "duplicateOf": chance.choice(names)},
                ]
            )
            world.put_job(a_job(name, uid=uid, spec=specs[name], **status))
        for job in chance.sample(list(world.jobs.values()), len(world.jobs)):
            if isinstance(gate_of_parent(world, job), Hold | Skip):
                continue
            answer, known_already = dependencies._cycle_through(world, job), world.acyclic
            world.acyclic = set()
            assert bool(answer) == bool(dependencies._cycle_through(world, job)), (step, job.name)
            world.acyclic = known_already
