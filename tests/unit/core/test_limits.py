"""Keys, rates and the operator's own limit: what holds a ready Job back, and until when."""

from typing import Any

import pytest

from questline_operator.core.limits import Starts, key_is_busy, why_unclaimed
from questline_operator.core.pod import Pod
from questline_operator.core.records import Job
from questline_operator.core.states import Reason
from tests.unit.core.builders import T0, a_job, a_pod, a_queue, a_report, a_world, time_of

QUEUE = ("default", "default")
RATE = {"count": 3, "periodSeconds": 60}
KEYED = a_job("keyed", spec={"key": "k"})
RUNS = a_job("runs", state="Running", spec={"key": "k"})


# Keys


@pytest.mark.parametrize(
    ("records", "held"),
    [
        pytest.param([KEYED], 0, id="a Job that waits holds none"),
        pytest.param([RUNS], 1, id="a claim holds one before its pod is there"),
        pytest.param([RUNS, a_pod(RUNS, running=1)], 1, id="a claim and its pod hold one"),
        pytest.param([a_pod(RUNS, running=1)], 1, id="a live pod whose Job is gone holds one by its annotation"),
        pytest.param([RUNS, a_pod(RUNS, exit_code=0)], 0, id="its container has ended"),
        pytest.param([a_job("other", state="Running", spec={"key": "l"})], 0, id="another key's are its own"),
        pytest.param([a_job("none", state="Running")], 0, id="one without a key holds none"),
        pytest.param([a_job("far", state="Running", spec={"key": "k", "queue": "media"})], 0, id="nor another queue's"),
        pytest.param(
            [a_job("done", state="Running", spec={"key": "k"}, report=a_report(a_job("done"), attempt=1))],
            0,
            id="its report frees it",
        ),
    ],
)
def test_a_keys_slots_are_counted_as_a_queues_are(records: list[Job | Pod], held: int) -> None:
    assert a_world(a_queue(), *records).slots_of_key(QUEUE, "k") == held


def test_a_key_is_busy_when_it_has_all_that_its_queue_lets_it_have() -> None:
    narrow, wide = (a_world(a_queue(perKeyConcurrency=number), RUNS) for number in (1, 2))

    assert key_is_busy(narrow, QUEUE, "k")
    assert not key_is_busy(wide, QUEUE, "k")
    assert key_is_busy(wide, QUEUE, "k", uncounted=1)
    assert not key_is_busy(narrow, QUEUE, "other")
    assert not key_is_busy(narrow, QUEUE, "")
    assert not key_is_busy(a_world(a_queue(), RUNS), QUEUE, "k")
    assert not key_is_busy(a_world(RUNS), QUEUE, "k")


# Rates


def test_a_queue_without_a_rate_lets_any_number_start() -> None:
    assert Starts().allowed(a_world(), a_queue(), T0) is None
    assert Starts().next_at(a_world(), a_queue(), T0) is None


def test_the_window_slides_and_says_when_the_next_one_may_start() -> None:
    world, queue, starts = a_world(), a_queue(rateLimit=RATE), Starts()
    assert starts.allowed(world, queue, T0) == 3
    for moment in (0, 10, 20):
        starts.claimed(QUEUE, T0 + moment)

    assert starts.allowed(world, queue, T0 + 59.9) == 0
    assert starts.next_at(world, queue, T0 + 59.9) == T0 + 60
    assert starts.allowed(world, queue, T0 + 60) == 1
    assert starts.next_at(world, queue, T0 + 60) is None
    starts.claimed(QUEUE, T0 + 60)
    assert starts.next_at(world, queue, T0 + 61) == T0 + 70
    assert starts.allowed(world, queue, T0 + 200) == 3


def test_no_period_wherever_it_begins_holds_more_starts_than_the_count() -> None:
    world, queue, starts = a_world(), a_queue(rateLimit=RATE), Starts()
    claims: list[float] = []
    for tick in range(3_000):
        now = T0 + tick * 0.37
        if (starts.allowed(world, queue, now) or 0) > 0:
            starts.claimed(QUEUE, now)
            claims.append(now)

    assert all(later - earlier >= 60 for earlier, later in zip(claims, claims[3:], strict=False))
    assert len(claims) >= 3 * 17, "as many as the rate lets through"


def test_a_new_leader_counts_the_claims_that_the_records_tell() -> None:
    entries = [{"number": 1, "outcome": "Failed", "startedAt": time_of(30)}, {"number": 2, "outcome": "Disrupted"}]
    records = [
        a_job("retried", state="Running", attempt=3, startedAt=50, attempts=entries),
        a_job("ended", state="Succeeded", attempts=[{"number": 1, "outcome": "Succeeded", "startedAt": time_of(-9)}]),
        a_job("waits"),
        a_job("far", state="Running", startedAt=50, spec={"queue": "media"}),
    ]
    world, queue = a_world(*records), a_queue(rateLimit=RATE)

    assert Starts().allowed(world, queue, T0 + 50) == 0
    assert Starts().next_at(world, queue, T0 + 50) == T0 + 51
    assert Starts().allowed(world, queue, T0 + 51) == 1


def test_a_start_is_given_back_once() -> None:
    world, queue, starts = a_world(), a_queue(rateLimit=RATE), Starts()
    assert starts.allowed(world, queue, T0) == 3
    starts.claimed(QUEUE, T0 + 1)
    starts.claimed(QUEUE, T0 + 2)
    starts.undone(QUEUE, T0 + 1)
    starts.undone(QUEUE, T0 + 1)
    starts.undone(("default", "unknown"), T0)

    assert starts.allowed(world, queue, T0 + 2) == 2


def test_a_lowered_count_waits_for_as_many_to_leave_as_it_takes() -> None:
    world, starts = a_world(), Starts()
    starts.allowed(world, a_queue(rateLimit=RATE), T0)
    for moment in (0, 10, 20):
        starts.claimed(QUEUE, T0 + moment)
    lowered = a_queue(rateLimit={**RATE, "count": 1})

    assert starts.allowed(world, lowered, T0 + 30) == 0
    assert starts.next_at(world, lowered, T0 + 30) == T0 + 80


def test_a_longer_period_reaches_back_to_what_the_records_tell() -> None:
    entries = [{"number": 1, "outcome": "Succeeded", "startedAt": time_of(0)}]
    world, starts = a_world(a_job("a", state="Succeeded", attempts=entries)), Starts()
    assert starts.allowed(world, a_queue(rateLimit=RATE), T0 + 100) == 3
    starts.claimed(QUEUE, T0 + 100)

    longer = a_queue(rateLimit={"count": 3, "periodSeconds": 600})
    assert starts.allowed(world, longer, T0 + 101) == 1
    assert starts.allowed(world, longer, T0 + 601) == 2, "the record's claim has left, this process's own has not"


def test_a_clock_that_is_set_back_stops_nothing_for_longer_than_a_period() -> None:
    world, queue, starts = a_world(), a_queue(rateLimit=RATE), Starts()
    starts.allowed(world, queue, T0)
    for _ in range(3):
        starts.claimed(QUEUE, T0)
    an_hour_ago = T0 - 3600

    assert starts.allowed(world, queue, an_hour_ago) == 0
    assert starts.next_at(world, queue, an_hour_ago) == an_hour_ago + 60
    assert starts.allowed(world, queue, an_hour_ago + 60) == 3


def test_a_queue_that_is_gone_leaves_no_window_behind() -> None:
    world, queue, starts = a_world(), a_queue(rateLimit=RATE), Starts()
    starts.allowed(world, queue, T0)
    starts.claimed(QUEUE, T0)
    starts.forget(QUEUE)

    assert vars(starts) == {"_windows": {}}
    assert starts.allowed(world, queue, T0) == 3


# Why it waits

FULL = a_job("full", state="Running", startedAt=5)


@pytest.mark.parametrize(
    ("spec", "limit", "reason", "words"),
    [
        pytest.param({"concurrency": 1}, None, Reason.AT_CONCURRENCY_LIMIT, "queue default runs 1 of 1", id="slots"),
        pytest.param(
            {"perKeyConcurrency": 1},
            None,
            Reason.KEY_BUSY,
            "waits for its key: queue default runs 1 of 1 of key 'k'",
            id="its key",
        ),
        pytest.param(
            {"rateLimit": {"count": 1, "periodSeconds": 60}},
            None,
            Reason.RATE_LIMITED,
            f"waits for the rate of queue default, 1 starts in 60 s: the next one at {time_of(65)}",
            id="the rate",
        ),
        pytest.param(
            {},
            1,
            Reason.AT_CONCURRENCY_LIMIT,
            "the operator runs 1 of 1 (maxRunningPods)",
            id="the operator's limit",
        ),
    ],
)
def test_a_ready_job_is_told_what_it_waits_for(
    spec: dict[str, Any], limit: int | None, reason: Reason, words: str
) -> None:
    holder = a_job("full", state="Running", startedAt=5, spec={"key": "k"})
    world = a_world(a_queue(**spec), holder, KEYED)

    hold = why_unclaimed(world, KEYED, Starts(), T0 + 10, max_running_pods=limit)

    assert hold.reason is reason
    assert words in hold.message


def test_a_pod_runs_for_the_operators_limit_until_its_container_has_ended() -> None:
    """Unlike a slot of a queue, which its report frees."""
    reported = a_job("a", state="Running", attempt=1, report=a_report(a_job("a"), attempt=1))
    ended = a_job("e", state="Running")
    claimed = a_job("c", state="Starting", spec={"queue": "media"})
    world = a_world(reported, a_pod(reported, running=1), ended, a_pod(ended, exit_code=0), claimed, a_job("w"))

    assert world.running_pods() == 2


def test_a_longer_period_counts_no_claim_twice() -> None:
    entries = [{"number": 1, "outcome": "Succeeded", "startedAt": time_of(100)}]
    world, starts = a_world(), Starts()
    assert starts.allowed(world, a_queue(rateLimit=RATE), T0 + 90) == 3
    starts.claimed(QUEUE, T0 + 100)
    world.put_job(a_job("a", state="Succeeded", attempts=entries))

    assert starts.allowed(world, a_queue(rateLimit={"count": 3, "periodSeconds": 600}), T0 + 101) == 2


def test_a_queue_whose_rate_was_taken_away_remembers_no_claim_for_ever() -> None:
    world, starts = a_world(), Starts()
    assert starts.allowed(world, a_queue(rateLimit=RATE), T0) == 3
    for second in range(1_000):
        assert starts.allowed(world, a_queue(), T0 + second) is None
        starts.claimed(QUEUE, T0 + second)

    assert sum(len(window.claims) for window in starts._windows.values()) <= 61
