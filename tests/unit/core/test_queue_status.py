"""A Queue's status: its counts, and the condition Ready."""

from dataclasses import replace
from typing import Any

import pytest

from questline_operator.core.queue_status import queue_status
from questline_operator.core.records import Queue
from questline_operator.core.status import Change, applied, differs, ready_in
from tests.unit.core.builders import T0, a_job, a_pod, a_queue, a_world, whole_time_of

WORDS = "exceeded quota: pods"


def written(queue: Queue, change: Change, *, generation: int = 1) -> Queue:
    """The queue with that status, its spec at that generation."""
    meta = {**queue.raw["metadata"], "generation": generation}
    return replace(queue, raw={**queue.raw, "metadata": meta, "status": applied(queue.raw.get("status", {}), change)})


def test_jobs_are_counted_by_where_they_stand() -> None:
    running = a_job("running", state="Running", attempt=1)
    states = ["Succeeded", "Succeeded", "Failed", "Skipped"]
    ends = [a_job(f"{state.lower()}-{n}", state=state) for n, state in enumerate(states)]
    queue = a_queue()
    elsewhere = a_job("else", spec={"queue": "other"})
    world = a_world(queue, running, a_pod(running), a_job("a"), a_job("b"), *ends, elsewhere)

    status = queue_status(world, queue, None, T0)

    assert (status["running"], status["waiting"]) == (1, 2)
    assert status["totals"] == {"succeeded": 2, "failed": 1, "canceled": 0, "skipped": 1}


@pytest.mark.parametrize(
    ("spec", "refusal", "status", "reason", "message"),
    [
        pytest.param({}, None, "True", "Admitting", "", id="as a rule"),
        pytest.param({"paused": True}, None, "False", "Paused", "spec.paused is true: nothing starts", id="paused"),
        pytest.param(
            {"concurrency": 0}, None, "False", "Paused", "spec.concurrency is 0: nothing starts", id="no slots"
        ),
        pytest.param({}, WORDS, "False", "PodRejected", WORDS, id="its pods are refused"),
        pytest.param(
            {"paused": True},
            WORDS,
            "False",
            "Paused",
            "spec.paused is true: nothing starts",
            id="paused before refused",
        ),
    ],
)
def test_ready_says_whether_the_queue_lets_its_jobs_start(
    spec: dict[str, Any], refusal: str | None, status: str, reason: str, message: str
) -> None:
    queue = a_queue(**spec)

    change = queue_status(a_world(queue), queue, refusal, T0)

    assert ready_in(change) == {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": whole_time_of(0),
    }
    assert change["observedGeneration"] == 1


def test_what_has_been_written_is_not_written_again() -> None:
    queue = a_queue()
    world = a_world(queue)
    known = written(queue, queue_status(world, queue, WORDS, T0))

    assert not differs(known.raw["status"], queue_status(world, known, WORDS, T0 + 60))
    assert differs(known.raw["status"], queue_status(world, known, None, T0 + 60))


def test_a_new_spec_is_observed_and_the_moment_of_the_last_change_stays() -> None:
    queue = a_queue()
    world = a_world(queue)
    known = written(queue, queue_status(world, queue, None, T0), generation=2)

    change = queue_status(world, known, None, T0 + 60)

    assert (change["observedGeneration"], ready_in(change)["observedGeneration"]) == (2, 2)
    assert ready_in(change)["lastTransitionTime"] == whole_time_of(0)
    assert ready_in(queue_status(world, known, WORDS, T0 + 60))["lastTransitionTime"] == whole_time_of(60)
