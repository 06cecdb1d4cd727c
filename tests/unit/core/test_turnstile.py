"""Who is claimed next: slots, keys, rates and the operator's limit, over many Jobs and queues."""

from collections.abc import Mapping
from dataclasses import replace

from questline_operator.core.records import Job, Key
from questline_operator.core.states import State
from questline_operator.core.turnstile import Turnstile
from questline_operator.core.world import World
from tests.unit.core.builders import T0, a_job, a_queue, a_world

QUEUE = ("default", "default")
MEDIA = ("default", "media")
WORDS = "exceeded quota: pods"


def pass_through(
    turnstile: Turnstile,
    world: World,
    *queues: Key,
    now: float = T0,
    uncounted: Mapping[tuple[Key, str], int] | None = None,
    looked_at: list[str] | None = None,
) -> list[str]:
    """Claim whatever may be claimed; the names in order."""

    def still_ready(key: Key) -> Job:
        if looked_at is not None:
            looked_at.append(key[1])
        return world.jobs[key]

    names = []
    for job in turnstile.passing(queues or (QUEUE,), now, uncounted=uncounted or {}, still_ready=still_ready):
        turnstile.starts.claimed(job.queue_key, now)
        world.put_job(replace(job, state=State.STARTING, attempt=1))
        turnstile.slots_changed(job.queue_key, job.concurrency_key)
        names.append(job.name)
    return names


def ready(world: World, turnstile: Turnstile, *jobs: Job) -> None:
    for job in jobs:
        world.put_job(job)
        turnstile.add(job)


def end(world: World, turnstile: Turnstile, name: str) -> None:
    job = world.jobs["default", name]
    world.put_job(replace(job, state=State.SUCCEEDED))
    turnstile.slots_changed(job.queue_key, job.concurrency_key)


def keyed(name: str, key: str, created: float = 0.0, **spec: object) -> Job:
    return a_job(name, created=created, spec={"key": key, **spec})


def test_a_busy_key_blocks_its_own_jobs_and_no_other() -> None:
    world = a_world(a_queue(perKeyConcurrency=1))
    turnstile = Turnstile(world)
    ready(world, turnstile, keyed("a1", "a"), keyed("a2", "a", 1), keyed("b1", "b", 2), a_job("free", created=3))

    assert pass_through(turnstile, world) == ["a1", "b1", "free"]
    assert pass_through(turnstile, world) == []
    end(world, turnstile, "a1")
    assert pass_through(turnstile, world) == ["a2"]


def test_while_pods_are_refused_the_job_that_was_refused_least_often_probes() -> None:
    world = a_world(a_queue(concurrency=10))
    turnstile = Turnstile(world)
    at_fault = [a_job(f"at-fault-{n}", created=n, spec={"priority": 9}) for n in range(3)]
    for times, job in enumerate(at_fault, 1):
        for _ in range(times):
            turnstile.rejections.refused(job, T0, WORDS)
    ready(world, turnstile, *at_fault, a_job("behind", created=9), a_job("last", created=9.5))

    due = T0 + 1.0
    assert pass_through(turnstile, world, now=due) == ["behind"]
    turnstile.rejections.refused(world.jobs["default", "behind"], due, WORDS)
    assert pass_through(turnstile, world, now=due + 30) == ["last"]
    turnstile.rejections.refused(world.jobs["default", "last"], due + 30, WORDS)
    assert pass_through(turnstile, world, now=due + 60) == ["at-fault-0"]


def test_jobs_of_a_busy_key_are_not_looked_at_again_while_it_is_busy() -> None:
    world = a_world(a_queue(concurrency=1_000, perKeyConcurrency=1))
    turnstile = Turnstile(world)
    ready(world, turnstile, *(keyed(f"busy-{n:04}", "busy", priority=9) for n in range(1_000)))
    looked_at: list[str] = []

    assert pass_through(turnstile, world, looked_at=looked_at) == ["busy-0000"]
    for n in range(50):
        ready(world, turnstile, keyed(f"other-{n:02}", f"k{n}"))
        assert pass_through(turnstile, world, looked_at=looked_at) == [f"other-{n:02}"]

    assert len(looked_at) == 51


def test_keys_take_turns_in_the_order_of_their_first_jobs() -> None:
    world = a_world(a_queue(concurrency=2, perKeyConcurrency=1))
    turnstile = Turnstile(world)
    ready(world, turnstile, *(keyed(f"a{n}", "a", n) for n in range(5)), keyed("b", "b", 2), keyed("c", "c", 9))
    done: list[str] = []

    for ended in range(7):
        done += pass_through(turnstile, world)
        assert world.slots_held(QUEUE) <= 2
        end(world, turnstile, done[ended])

    assert done == ["a0", "b", "a1", "c", "a2", "a3", "a4"]


def test_a_key_may_have_several_and_a_change_of_the_queue_counts_at_once() -> None:
    world = a_world(a_queue(perKeyConcurrency=2))
    turnstile = Turnstile(world)
    ready(world, turnstile, *(keyed(f"a{n}", "a", n) for n in range(6)))

    assert pass_through(turnstile, world) == ["a0", "a1"]
    world.queues[QUEUE] = a_queue(perKeyConcurrency=3)
    turnstile.queue_changed(QUEUE)
    assert pass_through(turnstile, world) == ["a2"]
    world.queues[QUEUE] = a_queue()
    turnstile.queue_changed(QUEUE)
    assert pass_through(turnstile, world) == ["a3", "a4", "a5"]


def test_a_pod_that_may_come_to_be_counts_for_its_key_and_its_queue() -> None:
    world = a_world(a_queue(concurrency=2, perKeyConcurrency=1))
    turnstile = Turnstile(world)
    ready(world, turnstile, keyed("a", "a"), keyed("b", "b"), keyed("c", "c"))

    assert pass_through(turnstile, world, uncounted={(QUEUE, "a"): 1}) == ["b"]


def test_a_rate_lets_as_many_through_and_says_when_the_next_may_go() -> None:
    world = a_world(a_queue(rateLimit={"count": 2, "periodSeconds": 60}))
    turnstile = Turnstile(world)
    ready(world, turnstile, *(a_job(f"j{n}", created=n) for n in range(5)))

    assert pass_through(turnstile, world) == ["j0", "j1"]
    assert turnstile.next_due(QUEUE, T0) == T0 + 60
    assert pass_through(turnstile, world, now=T0 + 59) == []
    assert pass_through(turnstile, world, now=T0 + 60) == ["j2", "j3"]
    assert pass_through(turnstile, world, now=T0 + 120) == ["j4"]
    assert turnstile.next_due(QUEUE, T0 + 121) is None, "nobody is left to wait"


def test_a_queue_is_refused_its_pods_while_a_job_is_left_that_it_happened_to() -> None:
    world = a_world(a_queue(), a_job("other"))
    turnstile = Turnstile(world)
    job = a_job("a")
    ready(world, turnstile, job)
    assert turnstile.refusal(QUEUE) is None
    turnstile.rejections.refused(job, T0, WORDS)
    turnstile.rejections.refused(job, T0 + 5, WORDS)
    assert turnstile.refusal(QUEUE) == WORDS
    world.put_job(replace(job, state=State.STARTING, attempt=1))
    assert turnstile.refusal(QUEUE) == WORDS, "its next probe"
    world.put_job(replace(job, state=State.CANCELED))
    assert turnstile.refusal(QUEUE) is None


def test_a_queue_that_probes_and_has_a_rate_is_due_when_both_are() -> None:
    world = a_world(a_queue(rateLimit={"count": 1, "periodSeconds": 60}))
    turnstile = Turnstile(world)
    ready(world, turnstile, a_job("a"), a_job("b", created=1))
    assert pass_through(turnstile, world) == ["a"]
    turnstile.rejections.refused(world.jobs["default", "a"], T0, WORDS)

    assert turnstile.next_due(QUEUE, T0) == T0 + 60


def test_under_the_operators_limit_the_queue_of_higher_priority_goes_first() -> None:
    low, high = a_queue("default"), a_queue("media", priority=5)
    world = a_world(low, high)
    turnstile = Turnstile(world, max_running_pods=3)
    ready(world, turnstile, *(a_job(f"low-{n}", created=n, spec={"priority": 100}) for n in range(3)))
    ready(world, turnstile, *(a_job(f"high-{n}", created=n + 9, spec={"queue": "media"}) for n in range(2)))

    assert pass_through(turnstile, world, QUEUE) == ["high-0", "high-1", "low-0"]
    assert pass_through(turnstile, world, QUEUE, MEDIA) == []
    end(world, turnstile, "high-0")
    assert pass_through(turnstile, world, MEDIA) == ["low-1"], "a pod that ends in one queue lets in another's Job"


def test_queues_of_one_priority_share_the_limit_by_the_order_of_their_jobs() -> None:
    world = a_world(a_queue("default"), a_queue("media"))
    turnstile = Turnstile(world, max_running_pods=4)
    for n in range(4):
        ready(
            world, turnstile, a_job(f"d{n}", created=2 * n), a_job(f"m{n}", created=2 * n + 1, spec={"queue": "media"})
        )

    assert pass_through(turnstile, world, QUEUE) == ["d0", "m0", "d1", "m1"]


def test_what_the_limit_kept_back_keeps_its_place() -> None:
    world = a_world(a_queue())
    turnstile = Turnstile(world, max_running_pods=1)
    ready(world, turnstile, a_job("b", created=1), a_job("a"), a_job("c", created=2))

    assert pass_through(turnstile, world) == ["a"]
    assert pass_through(turnstile, world) == []
    end(world, turnstile, "a")
    assert pass_through(turnstile, world) == ["b"]


def test_a_pod_that_may_come_to_be_counts_for_the_operators_limit() -> None:
    world = a_world(a_queue())
    turnstile = Turnstile(world, max_running_pods=2)
    ready(world, turnstile, a_job("a"), a_job("b"))

    assert pass_through(turnstile, world, uncounted={(MEDIA, ""): 1}) == ["a"]


def test_a_queue_that_is_gone_lets_nobody_through_and_is_forgotten() -> None:
    world = a_world(a_queue(perKeyConcurrency=1, rateLimit={"count": 9, "periodSeconds": 60}))
    turnstile = Turnstile(world)
    ready(world, turnstile, keyed("a1", "a"), keyed("a2", "a", 1))
    assert pass_through(turnstile, world) == ["a1"]
    del world.queues[QUEUE]
    turnstile.queue_changed(QUEUE)

    assert pass_through(turnstile, world) == []
    assert turnstile.next_due(QUEUE, T0) is None
    turnstile.discard(world.jobs["default", "a2"])
    turnstile.next_due(QUEUE, T0)
    assert not turnstile._ready
    assert not turnstile.starts._windows
