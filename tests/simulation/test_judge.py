"""The judge of random lives sees what is wrong with the ends of attempts, with pods and with Jobs that are kept.

The lives are those of the plans; what is wrong with the operator is put in by hand. With nothing put in, none is found.
"""

from collections.abc import Callable
from typing import Any

import pytest

from questline_operator.core import decide, outcomes, retention, settings, transitions, uniqueness
from questline_operator.core.decide import Nothing, Step
from questline_operator.core.outcomes import Outcome
from questline_operator.core.states import OutcomeKind, Reason, State
from questline_operator.shell import controller
from tests.simulation.chaos import live
from tests.simulation.plan import Ask, AwaitTick, DeleteJob, EditJob, MakeSchedule, Plan, Script, TakePod, parse

Patch = Callable[[pytest.MonkeyPatch], None]

FAILS = Plan(scripts=(Script(work=1.0, end="failed"),), deeds=(Ask(max_attempts=3),))
DISRUPTED = Plan(scripts=(Script(work=4.0),), deeds=(Ask(), TakePod(pause=2.0)))
TOO_LONG = Plan(
    timeout=3,
    scripts=(Script(work=8.0), Script(work=8.0, obeys=True)),
    deeds=(Ask(timeout=2), Ask(queue="wide", scripts=(1,)), Ask(queue="wide", scripts=(1,), command=True)),
)
LINGERS = Plan(
    scripts=(Script(work=0.5, lingers=20.0), Script(work=0.5, lingers=100.0)), deeds=(Ask(), Ask(scripts=(1,)))
)
POD_TTLS = Plan(
    pod_ttls=(90, 3_000),
    rest=120.0,
    scripts=(Script(work=0.5, end="failed"), Script(work=0.5)),
    deeds=(Ask(queue="wide", scripts=(0, 1), max_attempts=2),),
)
KEPT = Plan(
    scripts=(Script(work=5.0), Script(work=5.0, end="failed")),
    deeds=(
        Ask(kept=True),
        DeleteJob(pause=2.0),
        Ask(scripts=(1,), max_attempts=3, unique="a", kept=True),
        DeleteJob(pause=2.0, of="unique"),
    ),
    last=(Ask(unique="a", run_at=10),),
)
REPLACED = Plan(
    scripts=(Script(work=1.0, end="failed"),),
    deeds=(
        MakeSchedule(overlap=2),
        AwaitTick(offset=10.0),
        EditJob(what="keep", of="tick"),
        DeleteJob(of="same"),
        AwaitTick(offset=3.0),
    ),
)
ORPHANED = Plan(
    scripts=(Script(work=0.5, lingers=100.0, deaf=True), Script(work=20.0)),
    deeds=(Ask(queue="narrow"), DeleteJob(pause=3.0)),
    last=(Ask(queue="narrow", scripts=(1,)), Ask(queue="narrow", scripts=(1,))),
)
"""A container that goes on after its report, and whose record has gone with what says that its slot is free."""
PLANS = [FAILS, DISRUPTED, TOO_LONG, LINGERS, POD_TTLS, KEPT, REPLACED, ORPHANED]


def _set(module: Any, name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(module, name, value)


def _one_attempt(more: int) -> Patch:
    real = settings.max_attempts
    return lambda patch: patch.setattr(settings, "max_attempts", lambda *of: real(*of) + more)


def _outcome(change: Callable[[Outcome], Outcome]) -> Patch:
    real = transitions.end_attempt

    def end(job: Any, queue: Any, pod: Any, outcome: Outcome, now: float, **options: Any) -> Any:
        return real(job, queue, pod, change(outcome), now, **options)

    return lambda patch: patch.setattr(transitions, "end_attempt", end)


def _step(change: Callable[[Any, Step], Step]) -> Patch:
    real = decide.next_step

    def step(world: Any, job: Any, now: float, *, epoch: int | None) -> Step:
        return change(job, real(world, job, now, epoch=epoch))

    return lambda patch: patch.setattr(controller, "next_step", step)


def _as(kind: OutcomeKind, reason: str) -> Callable[[Outcome], Outcome]:
    return lambda outcome: Outcome(kind, reason, outcome.message)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    for plan in PLANS:
        assert parse(repr(plan)) == plan
        _, broken = live(plan)
        assert broken == []


@pytest.mark.parametrize(
    ("plan", "bug", "found"),
    [
        pytest.param(FAILS, _one_attempt(1), "is tried once more after 3 failures of 3", id="an attempt too many"),
        pytest.param(FAILS, _one_attempt(-1), "is Failed after 2 failures of 3", id="an attempt too few"),
        pytest.param(
            FAILS,
            _outcome(_as(OutcomeKind.SUCCEEDED, "")),
            "reported Failed, and attempt 1 is recorded as Succeeded",
            id="a failure that counts as success",
        ),
        pytest.param(
            FAILS,
            _outcome(_as(OutcomeKind.DISRUPTED, "Disrupted")),
            "reported Failed, and attempt 1 is recorded as Disrupted",
            id="a failure that counts as a disruption",
        ),
        pytest.param(
            DISRUPTED,
            _outcome(_as(OutcomeKind.FAILED, Reason.NO_OUTCOME)),
            "attempt 1 of job-00 counts as Failed, but its container was killed",
            id="a disruption that counts",
        ),
        pytest.param(
            TOO_LONG, _set(outcomes, "_DEADLINE_EXCEEDED", "no such"), "shows Failed Timeout", id="no time-out at all"
        ),
        pytest.param(
            TOO_LONG,
            _set(outcomes, "_cut_off", lambda pod: False),
            "records attempt 1 as Succeeded, and its pod shows Failed Timeout",
            id="a command that obeys counts as success",
        ),
        pytest.param(
            TOO_LONG,
            _set(settings, "timeout_seconds", lambda job, queue: None),
            "has None s, its Job",
            id="a pod without its time-out",
        ),
        pytest.param(
            LINGERS, _set(decide, "LINGER_SECONDS", 10.0), "before it had its time to end", id="lingers too shortly"
        ),
        pytest.param(LINGERS, _set(decide, "LINGER_SECONDS", 60.0), "lives on, 3", id="lingers too long"),
        pytest.param(
            POD_TTLS,
            _set(retention, "_is_last_failed", lambda job, pod: False),
            "the last failed attempt's, is deleted",
            id="the last failed pod goes early",
        ),
        pytest.param(
            KEPT,
            _step(lambda job, step: Nothing() if job.deleting else step),
            "has not the outcome of attempt 1",
            id="the end of a kept Job's attempt is not written",
        ),
        pytest.param(
            KEPT,
            _set(uniqueness, "_is_given_up", lambda winner: False),
            "Duplicate: Job job-01 has the same unique key",
            id="a kept Job that waits makes duplicates",
        ),
        pytest.param(
            REPLACED,
            _step(lambda job, step: Nothing() if job.deleting and job.state is State.WAITING else step),
            "for as long as others are kept",
            id="a kept Job that waits holds up the next tick",
        ),
    ],
)
def test_what_is_wrong_is_found(plan: Plan, bug: Patch, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    _, broken = live(plan)
    assert any(found in one for one in broken), broken


def test_a_kept_job_stays_until_it_is_let_go_and_does_not_run_again() -> None:
    deeds = (
        Ask(),
        EditJob(pause=10.0, what="keep", ended=True),
        DeleteJob(of="same"),
        EditJob(pause=1.0, what="rerun", of="same"),
        EditJob(pause=10.0, what="let go", of="kept"),
    )
    life, broken = live(Plan(scripts=(Script(work=1.0),), deeds=deeds))
    assert broken == []
    assert [run.job for run in life.cluster.kubelet.runs] == ["job-00"]
    changes = [(kind, name) for kind, plural, name, _ in life.history if plural == "questjobs"]
    assert changes[-1] == ("DELETED", "job-00")
    assert life.actions == len(deeds)
