"""The ready queue: which Job is claimed next."""

from questline_operator.core.ready_queue import ReadyQueue
from questline_operator.core.records import Job
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
    assert len(queue._heads) + sum(len(lane._heap) for lane in queue._lanes.values()) < 200
    queue.add(job)
    assert _names(queue) == ["first", "flapping"]


def _keyed(name: str, key: str, created: float = 0.0) -> Job:
    return a_job(name, created=created, spec={"key": key})


def test_a_parked_key_is_passed_over_until_its_slots_change() -> None:
    queue = ReadyQueue()
    for job in (_keyed("a1", "a"), _keyed("a2", "a", 1), _keyed("b1", "b", 2), _job("none", created=3)):
        queue.add(job)
    asked: list[str] = []

    def busy(key: str) -> bool:
        asked.append(key)
        return key == "a"

    assert [queue.pop(busy), queue.pop(busy), queue.pop(busy)] == [("default", "b1"), ("default", "none"), None]
    assert asked == ["a", "b", ""], "a busy key is asked about once"
    queue.unpark("a")
    queue.unpark("b")
    assert _names(queue) == ["a1", "a2"]


def test_a_job_that_joins_a_parked_key_waits_with_it_and_leaves_it_again() -> None:
    queue = ReadyQueue()
    queue.add(_keyed("a1", "a", 5))
    assert queue.pop(lambda key: True) is None
    queue.add(_keyed("a0", "a"))
    assert queue.pop() is None
    queue.discard(("default", "a1"))
    queue.unpark_all()
    assert _names(queue) == ["a0"]


def test_a_key_whose_jobs_are_all_gone_is_forgotten() -> None:
    queue = ReadyQueue()
    for n in range(1_000):
        queue.add(_keyed("job", f"key-{n}"))
        assert queue.pop(lambda key: True) is None
        queue.discard(("default", "job"))
    assert not queue._lanes
    assert not queue._parked
    queue.add(_keyed("job", "key-7"))
    assert _names(queue) == ["job"]


def test_a_new_job_of_a_name_may_have_another_key() -> None:
    queue = ReadyQueue()
    queue.add(_keyed("job", "a"))
    queue.add(_keyed("job", "b"))
    assert len(queue) == 1
    assert queue.pop(lambda key: key == "a") == ("default", "job")
