from __future__ import annotations

import random

from examples.demo.record import Record
from tests.unit.examples.world import History, child_of


def recorded(history: History) -> Record:
    record = Record()
    for event in history.events:
        record.add(event)
    return record


def test_a_slot_is_held_from_the_pod_to_its_report() -> None:
    history = History()
    history.pod("a-1", type="ADDED")
    history.job("a", "Running", report={"podUID": "uid-a-1"})
    history.pod("b-1", type="ADDED")
    assert recorded(history).highest_slots("emails") == 1


def test_a_slot_is_held_until_the_container_ends_when_there_is_no_report() -> None:
    history = History()
    history.pod("a-1", type="ADDED")
    history.pod("a-1")
    history.pod("b-1", type="ADDED")
    history.pod("a-1", ended=True)
    history.pod("c-1", type="ADDED")
    assert recorded(history).highest_slots("emails") == 2


def test_a_pod_that_is_gone_holds_no_slot() -> None:
    history = History()
    history.pod("a-1", type="ADDED")
    history.pod("a-1", type="DELETED")
    history.pod("b-1", type="ADDED")
    assert recorded(history).highest_slots("emails") == 1


def test_a_reported_pod_that_lives_on_takes_no_slot_again() -> None:
    history = History()
    history.pod("a-1", type="ADDED")
    history.job("a", "Running", report={"podUID": "uid-a-1"})
    history.job("a", "Succeeded", report=None)
    history.pod("b-1", type="ADDED")
    history.pod("a-1")
    assert recorded(history).highest_slots("emails") == 1


def test_only_the_queue_asked_for_counts() -> None:
    history = History()
    history.pod("a-1", type="ADDED")
    history.pod("b-1", queue="media", type="ADDED")
    assert recorded(history).highest_slots("emails") == 1


def test_too_many_slots_are_seen() -> None:
    history = History()
    for name in "abcde":
        history.pod(f"{name}-1", type="ADDED")
    assert recorded(history).highest_slots("emails") == 5


def test_slots_follow_the_order_of_the_writes_not_of_the_arrival() -> None:
    history = History()
    for name in "abcdef":
        history.pod(f"{name}-1", type="ADDED")
        history.job(name, "Running", report={"podUID": f"uid-{name}-1"})
    random.Random(7).shuffle(history.events)
    assert recorded(history).highest_slots("emails") == 1


def test_a_chain_whose_step_was_claimed_early_is_out_of_order() -> None:
    history = History()
    history.job("a", "Running")
    history.job("b", "Starting")
    history.job("a", "Succeeded")
    history.pod("b-1", type="ADDED")
    assert not recorded(history).ran_in_order(["a", "b"])


def test_a_chain_whose_pod_was_made_early_is_out_of_order() -> None:
    history = History()
    history.pod("b-1", type="ADDED")
    history.job("a", "Succeeded")
    history.job("b", "Starting")
    assert not recorded(history).ran_in_order(["a", "b"])


def test_a_chain_claimed_after_each_success_is_in_order() -> None:
    history = History()
    history.job("a", "Succeeded")
    history.job("b", "Starting")
    history.pod("b-1", type="ADDED")
    assert recorded(history).ran_in_order(["a", "b"])


def test_a_step_that_never_ran_is_not_in_order() -> None:
    history = History()
    history.job("a", "Succeeded")
    history.job("b", "Waiting")
    assert not recorded(history).ran_in_order(["a", "b"])


def test_a_tree_is_complete_once_all_of_it_has_ended() -> None:
    history = History()
    history.job("a", "Succeeded", attempt=1, children={"total": 1})
    history.job("b", "Running", spec=child_of("a"))
    assert not recorded(history).is_complete(["a"])
    history.job("b", "Succeeded", spec=child_of("a"))
    assert recorded(history).is_complete(["a"])


def test_a_tree_with_a_reported_child_still_unseen_is_not_complete() -> None:
    history = History()
    history.job("a", "Succeeded", attempt=2, children={"total": 1})
    history.job("early", "Skipped", spec=child_of("a", attempt=1))
    assert not recorded(history).is_complete(["a"])
    history.job("b", "Succeeded", spec=child_of("a", attempt=2))
    assert recorded(history).is_complete(["a"])


def test_a_tree_that_is_not_there_is_not_complete() -> None:
    assert not Record().is_complete(["a"])


def test_siblings_are_in_the_order_of_their_enqueues() -> None:
    history = History()
    history.job("a")
    for name, attempt, index in (("w", 2, 0), ("x", 1, 10), ("y", 1, 2)):
        history.job(name, spec=child_of("a", index, attempt=attempt))
    assert [job.name for job in recorded(history).tree("a")] == ["a", "y", "x", "w"]


def test_only_a_change_of_state_or_attempt_is_told() -> None:
    history = History()
    record = Record()
    assert record.add(history.job("a", "Waiting")) is not None
    assert record.add(history.job("a", "Waiting", reason="AtConcurrencyLimit")) is None
    assert record.add(history.job("a", "Starting", attempt=1)) is not None
    assert record.add(history.job("a", "Starting", attempt=2)) is not None
