"""Section 5 of the design, sentence by sentence."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from questline_operator.core.lineage import Hold, Skip
from questline_operator.core.records import Job, Key
from questline_operator.core.states import Reason
from questline_operator.core.uniqueness import LATE_SECONDS, could_run, gate_of_uniqueness, still_compared
from questline_operator.core.world import World
from tests.unit.core.builders import T0, a_job, a_queue, a_world, an_attempt, child_of, nested, time_of, unconfirmed

ALIVE: dict[str, Any] = {"key": "k"}


def window(seconds: int = 60) -> dict[str, Any]:
    return {"key": "k", "scope": "Window", "windowSeconds": seconds}


def unique(name: str, *, by: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **fields: Any) -> Job:
    return a_job(name, spec={"unique": ALIVE if by is None else by, **(spec or {})}, **fields)


def world_of(*jobs: Job) -> World:
    return a_world(a_queue(), *jobs)


def verdict(world: World, job: Job, now: float = 0.0) -> str:
    """ "runs", "waits" or "skipped"."""
    found = gate_of_uniqueness(world, job, T0 + now)
    if isinstance(found, Skip):
        assert found.reason is Reason.DUPLICATE
        return f"duplicate of {found.duplicate_of}"
    return "waits" if isinstance(found, Hold) else "runs"


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        pytest.param({"attempt": 1, "failures": 1}, "runs", id="between two attempts: it runs no more"),
        pytest.param({"state": "Canceled", "attempt": 1, "failures": 1}, "runs", id="that was canceled between two"),
        pytest.param({"state": "Running"}, "duplicate of a", id="while its attempt runs"),
        pytest.param({"state": "Succeeded", "finishedAt": 10}, "duplicate of a", id="that has ended after it came"),
    ],
)
def test_a_job_that_a_finalizer_keeps_makes_duplicates_only_of_what_it_runs(kept: dict[str, Any], found: str) -> None:
    assert verdict(world_of(unique("a", deleting=True, **kept), unique("b")), unique("b")) == found


def test_a_job_that_a_finalizer_keeps_is_the_one_of_its_window_all_the_same() -> None:
    kept = unique("a", by=window(), deleting=True, attempt=1, failures=1)

    assert verdict(world_of(kept, unique("b", by=window())), unique("b", by=window())) == "duplicate of a"


def test_a_rerun_waits_for_no_job_that_a_finalizer_keeps_between_two_attempts() -> None:
    kept = unique("a", deleting=True, attempt=1, failures=1)
    again = unique("b", attempt=1, armed={"at": time_of(5), "attempt": 1})

    assert verdict(world_of(kept, again), again) == "runs"


# "among the Jobs of a namespace with the same (task or command, unique key)"


@pytest.mark.parametrize(
    ("other", "compared"),
    [
        pytest.param(unique("b"), True, id="the same task and key"),
        pytest.param(unique("b", spec={"task": "tasks:other"}), False, id="another task"),
        pytest.param(unique("b", by={"key": "l"}), False, id="another key"),
        pytest.param(unique("b", namespace="other"), False, id="another namespace"),
        pytest.param(a_job("b"), False, id="not unique at all"),
        pytest.param(unique("b", spec={"command": ["tasks:work"]}), False, id="a command that reads like the task"),
        pytest.param(unique("b", spec={"queue": "other"}), True, id="another queue"),
        pytest.param(unique("b", by=window()), True, id="another scope"),
    ],
)
def test_rivals_have_the_same_namespace_task_and_key(other: Job, compared: bool) -> None:
    world = a_world(a_queue(), a_queue("other"), unique("a"), other)

    assert (world.unique_key(other) == world.unique_key(unique("a"))) is compared


def test_commands_are_the_same_word_by_word() -> None:
    def key(*command: str) -> object:
        return World().unique_key(unique("a", spec={"command": list(command)}))

    assert key("sh", "-c", "x") == key("sh", "-c", "x")
    assert key("a b") != key("a", "b")
    assert key("a", "b") != key("ab")


def test_without_a_key_the_canonical_args_are_it_and_never_equal_a_chosen_one() -> None:
    def key(by: dict[str, Any], args: Any) -> Any:
        return World().unique_key(unique("a", by=by, spec={"args": args}))

    by_args = key({}, {"a": 1, "b": 2})
    assert by_args is not None
    assert by_args == key({}, {"b": 2.0, "a": 1})
    assert by_args != key({}, {"a": True, "b": 2})
    assert by_args != key({"key": by_args[2]}, {})
    assert key({}, {}) != key({"key": ""}, {})
    assert key({"key": "x"}, {"a": 1}) == key({"key": "x"}, {"a": 2})


def test_args_that_are_nested_too_deeply_do_not_end_the_store() -> None:
    world = world_of(unique("a", by={}, spec={"args": {"a": nested(1_000)}}))

    assert len(world.jobs) == 1


# "Only Jobs that could run now compete"


PARENT = a_job("parent", state="Running")
FIRST_SPECS: dict[str, dict[str, Any]] = {
    "not released": {"parent": child_of(PARENT)},
    "waiting for another": {"after": [{"job": "nobody"}]},
    "not due": {"runAt": "2100-01-01T00:00:00Z"},
    "suspended": {"suspend": True},
    "canceled": {"cancel": True},
    "of a queue that does not exist": {"queue": "nowhere"},
}


@pytest.mark.parametrize("why", FIRST_SPECS)
def test_a_parked_job_blocks_nobody(why: str) -> None:
    first, second = unique("a", spec=FIRST_SPECS[why]), unique("b", created=5)
    world = world_of(PARENT, first, second)

    assert not could_run(world, first, T0 + 5)
    assert verdict(world, second, 5) == "runs"


def test_a_job_that_is_being_deleted_or_whose_ancestor_was_canceled_blocks_nobody() -> None:
    canceled = a_job("canceled", state="Succeeded", spec={"cancel": True}, children={"total": 1})
    orphan = unique("a2", spec={"parent": child_of(canceled)})
    world = world_of(unique("a1", deleting=True), canceled, orphan, second := unique("b", created=5))

    assert verdict(world, second, 5) == "runs"


def test_a_paused_queue_and_a_missing_worker_park_nobody() -> None:
    world = a_world(a_queue(paused=True), unique("a"), second := unique("b", created=5))

    assert verdict(world, second, 5) == "waits"


def test_a_staged_child_whose_parent_fails_takes_the_key_from_nobody() -> None:
    failed = a_job("failed", state="Failed")
    doomed = unique("a", spec={"parent": child_of(failed)})
    world = world_of(failed, doomed, second := unique("b", created=5))

    assert verdict(world, second, 5) == "runs"


# "The winner is the one claimed already, else the first by (creationTimestamp, parent.index, name)"


def test_the_first_of_those_that_could_run_wins() -> None:
    parent = a_job("parent", state="Succeeded", children={"total": 9}, succeededAttempts=[1])
    jobs = [
        unique("d", spec={"parent": child_of(parent, index=1)}),
        unique("c", spec={"parent": child_of(parent, index=2)}),
        unique("b", created=1),
        unique("a", created=2),
    ]
    world = world_of(parent, *reversed(jobs))

    assert [verdict(world, job, 3) for job in jobs] == ["runs", "waits", "waits", "waits"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.text("abc", min_size=1, max_size=3)), min_size=1, unique=True))
def test_of_any_number_created_together_exactly_one_runs(jobs: list[tuple[int, str]]) -> None:
    records = [unique(name, created=created) for created, name in {name: (at, name) for at, name in jobs}.values()]
    world = world_of(*records)

    runners = [job for job in records if verdict(world, job, 9) == "runs"]

    assert runners == [min(records, key=lambda job: (job.created_at, job.name))]


def test_the_claimed_one_wins_even_when_it_came_later() -> None:
    world = world_of(unique("b", created=5, state="Starting"), first := unique("a"))

    assert verdict(world, first, 6) == "duplicate of b"


def test_a_job_that_was_claimed_itself_is_judged_no_more() -> None:
    """Its next attempt is its own: it competed when it was claimed."""
    retried = unique("a", attempt=1, failures=1, nextAttemptAt=3)
    world = world_of(retried, unique("b", state="Running"))

    assert verdict(world, retried, 6) == "runs"


# "losers end Skipped (Duplicate, duplicateOf) once it is claimed, and stay so if it fails"


def test_a_loser_waits_until_the_claim_is_confirmed() -> None:
    loser = unique("b")
    claimed = unique("a", state="Starting")

    assert verdict(world_of(loser, unconfirmed(claimed)), loser) == "waits"
    assert verdict(world_of(loser, claimed), loser) == "duplicate of a"


@pytest.mark.parametrize("state", ["Starting", "Running", "Waiting", "Succeeded", "Failed", "Canceled"])
def test_a_loser_is_a_duplicate_whatever_became_of_its_winner(state: str) -> None:
    winner = unique("a", state=state, attempt=1)
    world = world_of(winner, loser := unique("b", created=5))

    assert verdict(world, loser, 20) == "duplicate of a"


def test_a_job_that_was_skipped_without_a_claim_is_nobodys_winner() -> None:
    world = world_of(unique("a", state="Skipped"), unique("c", state="Canceled"), second := unique("b"))

    assert verdict(world, second) == "runs"


# "Alive: a loser is one that became eligible not later than the winner's finishedAt; its own ancestors do not count"


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        pytest.param(0, "duplicate of a", id="long before the winner's end"),
        pytest.param(9, "duplicate of a", id="in the second before it"),
        pytest.param(11, "runs", id="in the second after it"),
        pytest.param(500, "runs", id="long after it"),
    ],
)
def test_alive_compares_with_the_winners_end(created: float, expected: str) -> None:
    winner = unique("a", state="Failed", finishedAt=10.5)
    world = world_of(winner, job := unique("b", created=created))

    assert verdict(world, job, 600) == expected


@pytest.mark.parametrize(("version", "expected"), [(99, "duplicate of a"), (101, "runs")])
def test_within_the_second_of_the_end_the_order_of_the_writes_decides(version: int, expected: str) -> None:
    winner = unique("a", state="Succeeded", finishedAt=10.5, version=100)
    world = world_of(winner, job := unique("b", created=10, version=version))

    assert verdict(world, job, 11) == expected


@pytest.mark.parametrize(
    ("released", "expected"), [(9.9, "duplicate of a"), (10.5, "duplicate of a"), (10.6, "runs"), (60.0, "runs")]
)
def test_a_staged_child_became_eligible_with_its_parents_success(released: float, expected: str) -> None:
    winner = unique("a", state="Succeeded", finishedAt=10.5)
    parent = a_job(
        "parent", state="Succeeded", children={"total": 1}, attempts=[an_attempt(at=released)], finishedAt=released
    )
    child = unique("b", spec={"parent": child_of(parent)})

    assert verdict(world_of(winner, parent, child), child, 90) == expected


def test_its_own_ancestors_do_not_count() -> None:
    """So a Job may enqueue itself again."""
    grandparent = unique("a", state="Running")
    parent = unique("b", state="Running", spec={"parent": child_of(grandparent, staged=False)})
    child = unique("c", spec={"parent": child_of(parent, staged=False)})
    world = world_of(grandparent, parent, child)

    assert verdict(world, child) == "runs"
    assert verdict(world_of(grandparent, parent, child, unique("d", state="Running")), child) == "duplicate of d"


def test_a_duplicate_that_waits_to_be_skipped_is_no_rival() -> None:
    """`b` was created before the winner's end and will be skipped; `c`, created after it, must not stand behind `b`."""
    winner = unique("a", state="Succeeded", finishedAt=10)
    world = world_of(winner, before := unique("b", created=5), after := unique("c", created=20))

    assert verdict(world, before, 21) == "duplicate of a"
    assert verdict(world, after, 21) == "runs"


# "Window: at most one admitted Job in windowSeconds from the winner's creationTimestamp"


@pytest.mark.parametrize("state", ["Running", "Succeeded", "Failed", "Canceled"])
@pytest.mark.parametrize(("created", "expected"), [(0, "duplicate of a"), (59, "duplicate of a"), (60, "runs")])
def test_window_counts_from_the_winners_creation_whatever_became_of_it(
    state: str, created: float, expected: str
) -> None:
    winner = unique("a", by=window(), state=state, attempt=1)
    world = world_of(winner, job := unique("b", by=window(), created=created))

    assert verdict(world, job, 100) == expected


def test_the_window_is_the_winners() -> None:
    winner = unique("a", by=window(60), state="Succeeded")

    assert verdict(world_of(winner, job := unique("b", by=window(10), created=30)), job, 31) == "duplicate of a"


# "Records are kept as long as these comparisons need them"


def test_a_record_is_kept_while_its_window_lasts_and_a_late_watch_may_tell_of_it() -> None:
    winner = unique("a", by=window(60), state="Succeeded")

    assert still_compared(world_of(winner), winner, T0 + 60 + LATE_SECONDS - 1)
    assert not still_compared(world_of(winner), winner, T0 + 60 + LATE_SECONDS)


def test_a_record_is_kept_while_a_rival_from_before_its_end_is_not_judged_yet() -> None:
    winner = unique("a", state="Succeeded", finishedAt=10)

    assert still_compared(world_of(winner, unique("b", created=9, spec={"suspend": True})), winner, T0 + 900)
    assert not still_compared(world_of(winner, unique("b", created=11)), winner, T0 + 900)
    assert not still_compared(world_of(winner, unique("b", created=9, state="Skipped")), winner, T0 + 900)


def test_a_record_outlives_its_window_while_a_rival_from_within_it_is_not_judged_yet() -> None:
    winner = unique("a", by=window(), state="Succeeded", finishedAt=1)
    parked = {"suspend": True}
    assert still_compared(world_of(winner, unique("b", by=window(), created=59, spec=parked)), winner, T0 + 900)
    assert not still_compared(world_of(winner, unique("b", by=window(), created=60, spec=parked)), winner, T0 + 900)


def test_a_record_that_no_comparison_needs_is_not_kept_for_one() -> None:
    assert not still_compared(world_of(job := a_job(state="Succeeded")), job, T0)
    assert not still_compared(world_of(job := unique("a", by=window(), state="Skipped")), job, T0)


def test_the_key_of_a_name_is_that_of_the_job_that_has_it_now() -> None:
    old, new = unique("a", by={"key": "old"}), unique("a", by={"key": "new"}, uid="another-uid")
    world = world_of(old)
    world.put_job(new)

    assert world.unique_key(new) == ("default", "task:tasks:work", "key:new")
    assert list(world.unclaimed_rivals(("default", "task:tasks:work", "key:old"))) == []
    assert list(world.unclaimed_rivals(("default", "task:tasks:work", "key:new"))) == [new]


def test_one_of_many_rivals_looks_at_no_more_than_those_before_the_first_that_could_run() -> None:
    class Counted(dict[Key, Job]):
        looked_at = 0

        def __getitem__(self, key: Key) -> Job:
            self.looked_at += 1
            return super().__getitem__(key)

    jobs = [a_job(f"job-{n:03}", spec={"unique": {"key": "k"}}) for n in range(500)]
    world = world_of(*jobs)
    world.jobs = counted = Counted(world.jobs)

    assert verdict(world, jobs[-1]) == "waits"
    assert counted.looked_at < 10
