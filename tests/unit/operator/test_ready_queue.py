"""The ready queue: which Job is claimed next."""

from questline_operator.core.records import Job
from questline_operator.shell.ready_queue import ReadyQueue
from tests.unit.core.builders import a_job


def _names(queue: ReadyQueue) -> list[str]:
    return [key[1] for key in iter(queue.pop, None)]


def _job(name: str, priority: int = 0, created: float = 0.0) -> Job:
    return a_job(name, created=created, spec={"priority": priority})


def test_higher_priority_goes_first_then_the_earlier_created_then_the_name() -> None:
    queue = ReadyQueue()
    for job in (_job("d", created=5), _job("c"), _job("b"), _job("a", priority=-1), _job("z", priority=3)):
        assert queue.add(job)
    assert len(queue) == 5
    assert _names(queue) == ["z", "b", "c", "d", "a"]
    assert len(queue) == 0


def test_a_job_whose_priority_changes_moves_and_is_handed_out_once() -> None:
    queue = ReadyQueue()
    queue.add(_job("a"))
    queue.add(_job("b"))
    assert queue.add(_job("b", priority=5))
    assert queue.add(_job("b", priority=5)) is False
    assert _names(queue) == ["b", "a"]
    queue.add(_job("a"))
    queue.add(_job("b", priority=5))
    queue.add(_job("b", priority=-5))
    assert _names(queue) == ["a", "b"]


def test_a_job_taken_out_is_not_handed_out_until_it_is_put_back() -> None:
    queue = ReadyQueue()
    queue.add(_job("a"))
    queue.add(_job("b"))
    queue.discard(("default", "a"))
    queue.discard(("default", "unknown"))
    assert len(queue) == 1
    assert queue.pop() == ("default", "b")
    queue.add(_job("a"))
    assert _names(queue) == ["a"]


def test_a_job_that_comes_and_goes_for_ever_takes_no_memory() -> None:
    queue = ReadyQueue()
    queue.add(_job("first", priority=9))
    job = _job("flapping")
    for _ in range(10_000):
        queue.add(job)
        queue.discard(job.key)
    assert len(queue._heap) < 200
    queue.add(job)
    assert _names(queue) == ["first", "flapping"]
