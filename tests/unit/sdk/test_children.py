from __future__ import annotations

import threading

import pytest

from questline import EnqueueError, EnqueueFateUnknown, NotInAttempt
from questline.children import MAX_CHILDREN, Children


def test_only_accepted_children_count_and_a_refused_index_goes_to_the_next() -> None:
    children = Children()
    assert children.reserve(3) == [0, 1, 2]
    children.accept(0)
    children.release(1)
    children.release(2)
    assert children.total == 1
    assert children.reserve(3) == [1, 2, 3]
    children.accept(3)
    assert children.total == 4


def test_an_attempt_has_10_000_children_and_no_more() -> None:
    children = Children()
    for index in children.reserve(MAX_CHILDREN - 1):
        children.accept(index)
    with pytest.raises(EnqueueError, match="10,000 children: 9,999 are enqueued and 2 more were asked for"):
        children.reserve(2)
    (last,) = children.reserve(1)
    with pytest.raises(EnqueueError, match="let each child enqueue a part"):
        children.reserve(1)
    children.release(last)
    assert children.reserve(1) == [MAX_CHILDREN - 1]


def test_after_a_child_of_unknown_fate_there_is_no_other() -> None:
    children = Children()
    children.lose(children.reserve(1)[0], "nobody knows")
    with pytest.raises(EnqueueFateUnknown, match="nobody knows"):
        children.reserve(1)
    assert children.unknown == "nobody knows"


def test_an_ended_attempt_enqueues_nothing() -> None:
    children = Children()
    children.close(0)
    with pytest.raises(NotInAttempt, match="the attempt has ended"):
        children.reserve(1)
    assert children.unknown is None


def test_closing_waits_for_the_enqueues_of_other_threads() -> None:
    children = Children()
    (index,) = children.reserve(1)
    closer = threading.Thread(target=children.close, args=(30,))
    closer.start()
    children.accept(index)
    closer.join(10)
    assert not closer.is_alive()
    assert (children.total, children.unknown) == (1, None)


def test_an_enqueue_that_outlives_the_attempt_is_unknown() -> None:
    children = Children()
    children.reserve(2)
    children.close(0.01)
    assert children.unknown == "2 enqueues were still open when the task ended"


def test_indices_are_given_once_however_many_threads_ask() -> None:
    children = Children()
    given: list[int] = []

    def enqueue() -> None:
        for _ in range(200):
            (index,) = children.reserve(1)
            given.append(index)
            children.accept(index)

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(1600))
    assert children.total == 1600
