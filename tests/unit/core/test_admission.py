"""Which ready Jobs take a queue's free slots, and how a queue whose pods are refused tries again."""

from collections.abc import Callable

import pytest

from questline_operator.core.admission import MAX_REJECTION_DELAY_SECONDS, Rejections, claim_order, free_slots
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job, Queue
from tests.unit.core.builders import T0, a_job, a_pod, a_queue, a_world, child_of

QUEUE = ("default", "default")
WORDS = "exceeded quota: pods"


def test_higher_priority_goes_first_then_creation_then_index_then_name() -> None:
    parent = a_job("parent")
    jobs = [
        a_job("z", created=9, spec={"priority": 5}),
        a_job("b", created=0),
        a_job("y", created=0, spec={"parent": child_of(parent, index=1)}),
        a_job("x", created=0, spec={"parent": child_of(parent, index=2)}),
        a_job("a", created=1),
        a_job("c", created=0, spec={"priority": -1}),
    ]

    shuffled = [jobs[place] for place in (3, 0, 5, 1, 4, 2)]

    assert sorted(shuffled, key=claim_order) == jobs


@pytest.mark.parametrize(
    ("queue", "free"),
    [
        pytest.param(a_queue(concurrency=3), 1, id="what its concurrency leaves"),
        pytest.param(a_queue(concurrency=1), 0, id="none where it was lowered below what runs"),
        pytest.param(a_queue(concurrency=0), 0, id="none of a queue of no slots"),
        pytest.param(a_queue(concurrency=9, paused=True), 0, id="none of a paused queue"),
        pytest.param(None, 0, id="none of a queue that does not exist"),
    ],
)
def test_free_slots_are_what_the_concurrency_leaves(queue: Queue | None, free: int) -> None:
    world = a_world(a_job("a", state="Running"), a_job("b", state="Starting"), *([queue] if queue else []))

    assert free_slots(world, QUEUE) == free


A, B, C = a_job("a", spec={"priority": 9}), a_job("b"), a_job("c")


def test_without_a_refusal_any_number_may_be_claimed() -> None:
    rejections = Rejections()
    rejections.claimed(QUEUE)

    assert rejections.claims_allowed(QUEUE, T0) is None
    assert rejections.next_probe_at(QUEUE) is None


def test_after_a_refusal_one_job_probes_when_its_time_has_come() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, WORDS)

    assert rejections.claims_allowed(QUEUE, T0 + 0.9) == 0
    assert rejections.next_probe_at(QUEUE) == T0 + 1
    assert rejections.claims_allowed(QUEUE, T0 + 1) == 1
    rejections.claimed(QUEUE)
    assert rejections.claims_allowed(QUEUE, T0 + 1) == 0
    assert rejections.next_probe_at(QUEUE) is None


def test_each_refused_probe_doubles_the_wait_up_to_its_longest() -> None:
    rejections = Rejections()
    now, waits = T0, []
    for _ in range(8):
        rejections.refused(A, now, WORDS)
        probe_at = rejections.next_probe_at(QUEUE)
        assert probe_at is not None
        waits.append(probe_at - now)
        now = probe_at
        rejections.claimed(QUEUE)

    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert MAX_REJECTION_DELAY_SECONDS == 30


def test_a_clock_set_back_behind_the_last_refusal_holds_nobody_up() -> None:
    rejections = Rejections()
    rejections.refused(a_job(), 100.0, WORDS)

    assert rejections.claims_allowed(QUEUE, 100.5) == 0
    assert rejections.claims_allowed(QUEUE, 40.0) == 1
    rejections.refused(a_job(), 40.0, WORDS)
    assert (rejections.claims_allowed(QUEUE, 41.9), rejections.claims_allowed(QUEUE, 42.0)) == (0, 1)


def test_claims_that_are_refused_together_are_one_refusal() -> None:
    rejections = Rejections()
    for job in (A, B, C):
        rejections.refused(job, T0, WORDS)

    assert rejections.next_probe_at(QUEUE) == T0 + 1


def test_a_pod_that_is_taken_opens_the_queue_again() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, WORDS)
    rejections.claimed(QUEUE)
    rejections.accepted(B)

    assert rejections.claims_allowed(QUEUE, T0) is None


def test_a_probe_that_came_to_nothing_frees_the_next_one() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, WORDS)
    rejections.claimed(QUEUE)
    rejections.ended(QUEUE)

    assert rejections.claims_allowed(QUEUE, T0 + 1) == 1


def test_one_queues_refusals_are_its_own() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, WORDS)

    assert rejections.claims_allowed(("other", "default"), T0) is None
    assert rejections.claims_allowed(("default", "other"), T0) is None


@pytest.mark.parametrize("rounds", [1, 2, 5, 9])
def test_a_job_whose_own_pod_is_refused_lets_the_next_one_probe(rounds: int) -> None:
    """Were it ready again at the queue's next probe, the first in order would take every one, and starve the rest."""
    rejections = Rejections()
    now = T0
    for _ in range(rounds):
        own = rejections.refused(A, now, WORDS)
        probe_at = rejections.next_probe_at(QUEUE)
        assert probe_at is not None
        assert own > probe_at
        assert own <= now + 2 * MAX_REJECTION_DELAY_SECONDS
        now = own


def test_a_forgotten_jobs_successor_of_its_name_starts_anew() -> None:
    rejections = Rejections()
    first = rejections.refused(A, T0, WORDS)
    rejections.accepted(B)
    rejections.forget(A)

    assert rejections.refused(A, T0, WORDS) == first


def test_what_the_api_server_said_first_stands_until_it_takes_a_pod() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, "of pod a-1")
    rejections.refused(B, T0 + 5, "of pod b-1")
    assert rejections.words(QUEUE) == "of pod a-1"
    rejections.refused(A, T0 + 10, "of pod a-2")
    assert rejections.words(QUEUE) == "of pod a-1"
    rejections.accepted(B)
    assert rejections.words(QUEUE) is None


def test_a_queue_is_told_of_once_the_next_pod_that_it_tried_was_refused_too() -> None:
    """One refusal may be for what that one Job asks for."""
    rejections = Rejections()
    rejections.refused(A, T0, "of pod a-1")
    assert rejections.words(QUEUE) is None
    rejections.accepted(B)
    rejections.refused(A, T0 + 5, "of pod a-2")
    assert rejections.words(QUEUE) is None


def test_the_words_of_a_job_that_is_gone_give_way_to_the_next() -> None:
    rejections = Rejections()
    rejections.refused(A, T0, "of pod a-1")
    rejections.refused(B, T0 + 5, "of pod b-1")
    rejections.forget(A)
    rejections.refused(B, T0 + 10, "of pod b-2")
    assert rejections.words(QUEUE) == "of pod b-2"


# Slots


STARTING = a_job("a", state="Starting", attempt=2)


@pytest.mark.parametrize(
    ("records", "held"),
    [
        pytest.param([a_job("a")], 0, id="a Job that waits holds none"),
        pytest.param([STARTING], 1, id="a claim holds one before its pod is there"),
        pytest.param([STARTING, a_pod(STARTING)], 1, id="a claim and its pod hold one"),
        pytest.param([STARTING, a_pod(STARTING, running=1)], 1, id="so do they while it runs"),
        pytest.param([STARTING, a_pod(STARTING, exit_code=0)], 0, id="its container has ended"),
        pytest.param(
            [STARTING, a_pod(STARTING, exit_code=0, phase="Running")], 0, id="it has ended, a sidecar has not"
        ),
        pytest.param([STARTING, a_pod(STARTING, running=1, gone=True)], 0, id="its pod is gone"),
        pytest.param([STARTING, a_pod(STARTING, running=1, deleting=True)], 1, id="a pod in its grace holds one"),
        pytest.param([a_pod(STARTING, running=1)], 1, id="a live pod whose Job is gone holds one"),
        pytest.param([a_pod(STARTING, running=1, owner="")], 1, id="a live pod of nobody holds one"),
        pytest.param(
            [STARTING, a_pod(STARTING), a_pod(STARTING, attempt=1, running=1)],
            2,
            id="a pod of an older attempt holds one of its own",
        ),
        pytest.param(
            [a_job("a", attempt=2), a_pod(STARTING, running=1)], 1, id="a live pod of a Job that waits again holds one"
        ),
        pytest.param(
            [a_job("a", state="Canceled", attempt=2), a_pod(STARTING, running=1)],
            1,
            id="a live pod of a Job that has ended holds one",
        ),
    ],
)
def test_slots_are_held_from_the_claim_to_the_containers_end(records: list[Job | Pod], held: int) -> None:
    assert a_world(a_queue(), *records).slots_held(QUEUE) == held


def test_a_report_frees_the_slot_before_the_pod_has_ended() -> None:
    pod = a_pod(STARTING, running=1)
    report = {"v": 1, "attempt": 2, "outcome": "Failed", "podUID": pod.uid}
    reported = a_job("a", state="Running", attempt=2, report=report)
    recorded = a_job("a", attempt=2, report=report, failures=1)
    of_another = a_job("a", state="Running", attempt=2, report={**report, "attempt": 1})

    assert a_world(reported, pod).slots_held(QUEUE) == 0
    assert a_world(recorded, pod).slots_held(QUEUE) == 0
    assert a_world(of_another, pod).slots_held(QUEUE) == 1


def test_what_was_counted_of_slots_is_counted_again_when_a_claim_a_report_or_a_pod_has_changed() -> None:
    pod = a_pod(STARTING, running=1)
    report = {"v": 1, "attempt": 2, "outcome": "Failed", "podUID": pod.uid}
    world = a_world(a_queue(), a_job("a", attempt=2, failures=1))
    counted = [world.slots_held(QUEUE)]

    def after(change: Callable[[], object]) -> None:
        change()
        counted.append(world.slots_held(QUEUE))

    after(lambda: world.put_job(STARTING))
    after(lambda: world.put_pod(pod))
    after(lambda: world.put_job(a_job("a", attempt=2, failures=1)))
    after(lambda: world.put_job(a_job("a", attempt=2, failures=1, report=report)))
    after(lambda: world.remove_job(STARTING.key))
    after(lambda: world.remove_pod(pod.key))
    after(lambda: world.put_pod(pod))
    assert counted == [0, 1, 1, 1, 0, 1, 0, 1]


def test_a_slot_belongs_to_the_queue_of_the_job() -> None:
    media = a_job("m", state="Starting", spec={"queue": "media"})

    world = a_world(STARTING, a_pod(STARTING), media, a_pod(media))

    assert world.slots_held(QUEUE) == 1
    assert world.slots_held(("default", "media")) == 1
    assert world.slots_held(("default", "other")) == 0
