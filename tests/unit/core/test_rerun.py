"""Which finished Jobs run again, what that writes, and what a run before them leaves behind."""

from typing import Any

import pytest

from questline_operator.core import transitions
from questline_operator.core.decide import Nothing, Ready, WriteStatus
from questline_operator.core.lineage import Hold, Skip, gate_of_parent
from questline_operator.core.records import Job
from questline_operator.core.retention import expired_jobs
from questline_operator.core.states import Reason
from tests.unit.core.builders import (
    T0,
    a_job,
    a_queue,
    a_world,
    an_attempt,
    child_of,
    time_of,
)
from tests.unit.core.steps import Record, ends, step, written

RAISED = {"rerun": 1}
ENDS = ["Succeeded", "Failed", "Canceled", "Skipped"]


def stays(job: Job, *others: Record) -> bool:
    return isinstance(step(job, *others), Nothing)


# Which


@pytest.mark.parametrize("state", ENDS)
def test_a_finished_job_whose_rerun_was_raised_waits_again(state: str) -> None:
    job = a_job(state=state, attempt=3, failures=2, spec=RAISED)

    assert written(step(job))["state"] == "Waiting"


@pytest.mark.parametrize("state", ENDS)
def test_a_rerun_that_was_acted_on_is_not_acted_on_again(state: str) -> None:
    assert stays(a_job(state=state, spec={"rerun": 2}, observedRerun=2))
    assert not stays(a_job(state=state, spec={"rerun": 3}, observedRerun=2))


@pytest.mark.parametrize("state", ["Waiting", "Starting", "Running"])
def test_a_rerun_raised_during_a_run_takes_effect_after_it(state: str) -> None:
    found = step(a_job(state=state, attempt=1, spec=RAISED))

    assert not isinstance(found, WriteStatus)
    assert a_job(state="Failed", attempt=2, spec=RAISED).rerun_due


def test_a_job_that_is_canceled_or_below_a_canceled_one_stays_as_it_ended() -> None:
    above = a_job("above", state="Canceled")
    asked = a_job("above", state="Succeeded", spec={"cancel": True})

    assert stays(a_job(state="Canceled", spec={**RAISED, "cancel": True}))
    for parent in (above, asked):
        assert stays(a_job(state="Canceled", spec={**RAISED, "parent": child_of(parent)}), parent)
    assert not stays(a_job(state="Canceled", spec={**RAISED, "cancel": False}))


def test_a_cancel_is_carried_through_before_its_job_runs_again() -> None:
    """Otherwise what it has not reached yet would go on."""
    job = a_job(state="Canceled", attempt=1, spec=RAISED)
    child = a_job("child", state="Running", spec={"parent": child_of(job)})
    ended = a_job("child", state="Canceled", spec={"parent": child_of(job)})

    assert stays(job, child)
    assert not stays(job, ended)
    assert not stays(a_job(state="Failed", spec=RAISED), child)


def test_nothing_that_is_being_deleted_runs_again() -> None:
    assert stays(a_job(state="Failed", deleting=True, spec=RAISED))


# What is written


def test_a_rerun_counts_failures_from_nothing_and_keeps_the_history() -> None:
    job = a_job(
        state="Failed",
        attempt=5,
        failures=5,
        finishes=1,
        result={"from": "before"},
        message="attempt 5 of 5",
        reason="TaskError",
        attempts=[an_attempt(5, "Failed")],
        succeededAttempts=[2],
        spec={"rerun": 4},
    )

    change = written(step(job))

    assert (change["state"], change["reason"], change["message"]) == ("Waiting", None, None)
    assert (change["failures"], change["observedRerun"]) == (0, 4)
    assert change["armed"] == {"at": time_of(2.0), "attempt": 5}
    assert change["attempts"] == [an_attempt(5, "Failed")]
    for kept in ("attempt", "finishes", "succeededAttempts", "result", "finishedAt", "disruptions"):
        assert kept not in change
    assert {(c["type"], c["status"]) for c in change["conditions"]} == {("Finished", "False"), ("Succeeded", "False")}


def test_what_it_was_skipped_for_is_forgotten() -> None:
    duplicate = a_job(state="Skipped", reason="Duplicate", duplicateOf="other", spec=RAISED)

    change = written(step(duplicate))

    assert (change["duplicateOf"], change["upstream"]) == (None, None)


def test_the_next_claim_takes_the_next_number_and_its_failures_count_from_one() -> None:
    job = a_job(attempt=5, failures=0, armed={"at": time_of(1), "attempt": 5}, spec={"rerun": 1}, observedRerun=1)

    assert isinstance(step(job), Ready)
    assert transitions.claim(a_world(job), job, now=T0)["attempt"] == 6


@pytest.mark.parametrize(
    ("fields", "observed"),
    [
        pytest.param({}, 2, id="before the first claim"),
        pytest.param({"attempt": 3, "armed": {"at": time_of(0), "attempt": 3}}, 2, id="before the first of a rerun"),
        pytest.param({"attempt": 3}, None, id="during a run"),
        pytest.param({"observedRerun": 2}, None, id="acted on already"),
    ],
)
def test_a_rerun_raised_before_the_claim_asks_for_no_second_run(fields: dict[str, Any], observed: int | None) -> None:
    job = a_job(spec={"rerun": 2}, **fields)

    assert transitions.claim(a_world(job), job, now=T0).get("observedRerun") == observed
    assert transitions.cancel(job, Reason.REQUESTED, "", T0).get("observedRerun") == observed
    assert transitions.skip(job, Skip(Reason.PARENT_GONE, ""), T0).get("observedRerun") == observed


def test_a_job_that_was_claimed_has_passed_its_parent_and_its_dependencies_for_good() -> None:
    job = a_job(attempt=1, armed={"at": time_of(0), "attempt": 1}, spec={"after": [{"job": "gone"}]})

    assert isinstance(step(job), Ready)


def test_one_that_never_was_is_asked_anew() -> None:
    parent = a_job("parent", state="Failed")
    skipped = a_job(state="Skipped", reason="ParentFailed", spec={**RAISED, "parent": child_of(parent)})

    assert written(step(skipped, parent))["state"] == "Waiting"
    armed = a_job(armed={"at": time_of(0), "attempt": 0}, spec={"parent": child_of(parent)})
    assert ends(step(armed, parent)) == ("Skipped", "ParentFailed")


# Its former children


def test_the_children_of_a_success_are_held_to_its_own_total_though_later_attempts_report_theirs() -> None:
    """A child that waits for a slot must not become late because its parent ran again."""
    before = a_job("parent", state="Succeeded", attempts=[an_attempt(1)], children={"total": 3, "groups": {}})
    armed = transitions.arm(before, T0)
    again = a_job(
        "parent",
        state="Failed",
        attempt=2,
        succeededAttempts=[1],
        children={"total": 0},
        attempts=[*armed["attempts"], an_attempt(2, "Failed")],
    )

    def gate(index: int) -> Any:
        child = a_job("child", spec={"parent": child_of(again, attempt=1, index=index)})
        return gate_of_parent(a_world(again, child), child)

    assert gate(2) is None
    assert gate(3).reason is Reason.LATE_CHILD


def test_only_a_successs_children_are_kept() -> None:
    failed = a_job(state="Failed", attempts=[an_attempt(1, "Failed")], children={"total": 3})
    childless = a_job(state="Succeeded", attempts=[an_attempt(1)], children={"total": 0})

    assert "children" not in transitions.arm(failed, T0)["attempts"][0]
    assert transitions.arm(childless, T0)["attempts"][0]["children"] == {"total": 0}, "a later one would be too late"


# What was skipped because of it


def skipped_for(upstream: Job, name: str = "next", *, finishes: int = 1, **spec: Any) -> Job:
    reference = {"name": upstream.name, "uid": upstream.uid, "finishes": finishes}
    return a_job(
        name,
        state="Skipped",
        reason="UpstreamFailed",
        upstream=reference,
        spec={"after": [{"job": upstream.name}], **spec},
    )


A_FAILED = a_job("a", state="Failed", reason="TaskError", finishes=1)
A_AGAIN = a_job("a", attempt=1, finishes=1, armed={"at": time_of(0), "attempt": 1})


def test_a_skip_says_for_whose_end() -> None:
    job = a_job("next", spec={"after": [{"job": "a"}]})

    change = written(step(job, A_FAILED))

    assert change["reason"] == "UpstreamFailed"
    assert change["upstream"] == {"name": "a", "uid": A_FAILED.uid, "finishes": 1}
    assert written(step(a_job("b", spec={"cancel": True}))).get("upstream") is None


@pytest.mark.parametrize(
    ("upstream", "again"),
    [
        pytest.param(A_FAILED, False, id="it is as it was"),
        pytest.param(A_AGAIN, True, id="it waits again"),
        pytest.param(a_job("a", state="Running", attempt=2, finishes=1), True, id="it runs again"),
        pytest.param(a_job("a", state="Succeeded", attempt=2, finishes=2), True, id="it has succeeded since"),
        pytest.param(a_job("a", state="Failed", attempt=2, finishes=2), False, id="it has failed again"),
        pytest.param(a_job("a", uid="another-uid"), False, id="it is another of its name"),
        pytest.param(a_job("other"), False, id="it is gone"),
    ],
)
def test_one_that_was_skipped_for_another_waits_again_when(upstream: Job, again: bool) -> None:
    found = step(skipped_for(A_FAILED), upstream)

    assert again == (not isinstance(found, Nothing))
    if again:
        assert written(found)["state"] == "Waiting"
        assert written(found)["failures"] == 0


def test_a_chain_is_armed_link_by_link() -> None:
    middle = skipped_for(A_FAILED, "middle")
    last = skipped_for(middle, "last")

    assert stays(last, middle, A_AGAIN)
    assert written(step(middle, last, A_AGAIN))["state"] == "Waiting"
    armed = a_job("middle", armed={"at": time_of(0), "attempt": 0}, finishes=1, spec={"after": [{"job": "a"}]})
    assert written(step(last, armed, A_AGAIN))["state"] == "Waiting"


def test_it_stays_skipped_while_another_that_it_waits_for_has_failed() -> None:
    job = skipped_for(A_FAILED, after=[{"job": "a"}, {"job": "b"}])

    assert stays(job, A_AGAIN, a_job("b", state="Failed"))
    assert not stays(job, A_AGAIN, a_job("b", state="Succeeded"))


def test_a_dependant_whose_parent_is_gone_is_not_armed_to_be_skipped_for_that() -> None:
    parent = a_job("parent", state="Succeeded", attempt=1, succeededAttempts=[1])
    member = a_job("member", state="Failed", attempt=2, finishes=2, spec={"parent": child_of(parent, group="g")})
    job = skipped_for(member, after=[{"group": "g"}], parent=child_of(parent, index=1))

    assert stays(job, member)
    assert not stays(job, a_job("member", attempt=1, finishes=1, spec=dict(member.spec)), parent)


def test_a_canceled_dependant_is_not_armed() -> None:
    assert stays(skipped_for(A_FAILED, cancel=True), A_AGAIN)


def test_a_duplicates_dependant_is_armed_by_the_original() -> None:
    twin = a_job("twin", state="Skipped", reason="Duplicate", duplicateOf="a")
    waiting = a_job("next", spec={"after": [{"job": "twin"}]})

    assert written(step(waiting, twin, A_FAILED))["upstream"]["name"] == "a"
    job = skipped_for(A_FAILED, after=[{"job": "twin"}])
    assert not stays(job, twin, A_AGAIN)


# Unique Jobs


UNIQUE = {"unique": {"key": "k"}}
ARMED: dict[str, Any] = {"attempt": 1, "finishes": 1, "finishedAt": 5, "armed": {"at": time_of(20), "attempt": 1}}


def test_a_rerun_waits_until_no_other_of_its_key_runs_and_is_nobodys_duplicate() -> None:
    job = a_job("again", spec=UNIQUE, **ARMED)

    found = step(job, a_job("other", state="Running", spec=UNIQUE))

    assert isinstance(found, Hold)
    assert found.message == "waits for Job other, of the same unique key, to end"
    assert isinstance(step(job, a_job("other", state="Succeeded", finishedAt=30, spec=UNIQUE)), Ready)


def test_whoever_comes_while_a_rerun_runs_is_its_duplicate() -> None:
    running = a_job("again", state="Running", spec=UNIQUE, **{**ARMED, "attempt": 2})

    assert ends(step(a_job("late", created=21, spec=UNIQUE), running)) == ("Skipped", "Duplicate")


def test_a_rerun_that_is_not_claimed_yet_competes_by_its_place() -> None:
    again = a_job("again", created=0, spec=UNIQUE, **ARMED)
    later = a_job("later", created=21, spec=UNIQUE)
    earlier = a_job("earlier", created=-1, spec=UNIQUE | {"runAt": time_of(10**6)})

    assert isinstance(step(later, again), Hold)
    assert isinstance(step(again, later), Ready)
    assert isinstance(step(again, earlier), Ready), "a parked Job blocks nobody"
    parked = a_job("again", created=0, spec=UNIQUE | {"suspend": True}, **ARMED)
    assert isinstance(step(later, parked), Ready)


def test_a_duplicate_that_is_run_again_competes_as_if_enqueued_at_that_moment() -> None:
    armed: dict[str, Any] = {"armed": {"at": time_of(40), "attempt": 0}, "finishes": 1}
    job = a_job("loser", created=5, spec=UNIQUE, **armed)

    assert isinstance(step(job, a_job("winner", state="Succeeded", finishedAt=30, spec=UNIQUE)), Ready)
    assert ends(step(job, a_job("winner", state="Running", spec=UNIQUE))) == ("Skipped", "Duplicate")


def test_the_one_of_a_window_runs_again_within_it() -> None:
    window = {"unique": {"key": "k", "scope": "Window", "windowSeconds": 3600}}
    other = a_job("other", state="Running", created=-4000, spec=window)

    assert isinstance(step(a_job("again", spec=window, **ARMED), other), Ready)


# Retention


def test_a_job_that_is_to_run_again_is_not_deleted() -> None:
    job = a_job("old", state="Failed", spec={"rerun": 1, "ttlSecondsAfterFinished": 0})

    assert list(expired_jobs(a_world(a_queue(), job), ("default", "default"), T0 + 10**6)) == []
