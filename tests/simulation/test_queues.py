"""Queues in virtual time: keys, rates, the operator's own limit, and what a change of a queue means for its work."""

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

from questline_operator.core.records import Key
from questline_operator.core.states import State
from questline_operator.core.status import ready_in
from questline_operator.core.times import parse_time
from questline_operator.shell.api import JOBS, PODS, QUEUES, WORKERS, ApiError
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_job, a_queue, a_worker
from tests.simulation.faults import Fault
from tests.simulation.kubelet import Run
from tests.simulation.sdk import Attempt, Ended, failed, succeeded
from tests.simulation.store import Review


def most_at_once(runs: list[Run]) -> int:
    """The highest number of containers that ran at one moment."""
    steps = sorted([(run.started_at, 1) for run in runs] + [(run.ended_at or float("inf"), -1) for run in runs])
    highest = running = 0
    for _, step in steps:
        running += step
        highest = max(highest, running)
    return highest


def by_key(cluster: Cluster) -> dict[str, list[Run]]:
    """What ran, by the concurrency key of its Job."""
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    keys = {job.name: job.concurrency_key for job in cluster.jobs()}
    for run in cluster.kubelet.runs:
        runs[keys[run.job]].append(run)
    return runs


def starts(cluster: Cluster) -> list[float]:
    """When each attempt was claimed, in order."""
    return sorted(parse_time(entry["startedAt"]) for job in cluster.jobs() for entry in job.status["attempts"])


async def delete_queue(cluster: Cluster, name: str) -> None:
    queue = cluster.server.store.get(QUEUES, NAMESPACE, name)
    await cluster.server.delete(QUEUES, NAMESPACE, name, uid=queue["metadata"]["uid"])


# Keys


@simulated
async def test_a_key_runs_as_many_as_the_queue_lets_it_and_holds_up_no_other() -> None:
    async with Cluster(seconds=10.0) as cluster:
        await cluster.apply(a_queue("media", concurrency=10, perKeyConcurrency=2))
        await cluster.apply(*(a_job(f"busy-{n:02}", queue="media", key="busy", priority=9) for n in range(20)))
        await cluster.apply(*(a_job(f"other-{n}", queue="media", key=f"k{n}") for n in range(5)))
        await cluster.apply(a_job("none", queue="media"))
        await cluster.until(lambda: cluster.state("none") == "Succeeded", seconds=15)
        await cluster.until_settled()
        runs = by_key(cluster)
        assert most_at_once(runs["busy"]) == 2
        assert max(run.started_at for run in runs[""] + runs["k4"]) < 3, "nobody waits for another's key"
        assert cluster.watcher.violations == []


@simulated
async def test_a_busy_key_is_named_as_the_reason_when_it_has_lasted() -> None:
    async with Cluster(seconds=100.0) as cluster:
        await cluster.apply(a_queue("media", perKeyConcurrency=1))
        await cluster.apply(a_job("a", queue="media", key="customer 7"), a_job("b", queue="media", key="customer 7"))
        await asyncio.sleep(29)
        assert cluster.job("b").reason == ""
        await cluster.until(lambda: cluster.job("b").reason == "KeyBusy", seconds=5)
        message = cluster.job("b").status["message"]
        assert message == "waits for its key: queue media runs 1 of 1 of key 'customer 7'"
        before = cluster.writes(JOBS)
        await asyncio.sleep(60)
        assert cluster.writes(JOBS) == before, "one write says it"


@simulated
async def test_a_pod_without_its_job_still_counts_for_its_key() -> None:
    async def deaf(attempt: Attempt) -> Ended:
        attempt.handles_sigterm = True
        await attempt.work(25.0)
        return succeeded()

    async with Cluster({"orphan": deaf}) as cluster:
        await cluster.apply(a_queue("media", perKeyConcurrency=1), a_job("orphan", queue="media", key="k"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.apply(a_job("next", queue="media", key="k"))
        job = cluster.server.store.get(JOBS, NAMESPACE, "orphan")
        await cluster.server.delete(JOBS, NAMESPACE, "orphan", uid=job["metadata"]["uid"])
        await cluster.until(lambda: cluster.state("next") == "Succeeded")
        assert most_at_once(cluster.kubelet.runs) == 1


@pytest.mark.parametrize("moment", [0.0, 0.004, 0.01, 0.3, 1.2, 2.6])
def test_a_key_holds_through_an_operator_killed_at_any_moment(moment: float) -> None:
    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            await cluster.apply(a_queue("media", perKeyConcurrency=1))
            await cluster.apply(*(a_job(f"j-{n}", queue="media", key=f"k{n % 2}") for n in range(6)))
            await asyncio.sleep(moment)
            await cluster.crash_operator()
            await asyncio.sleep(0.5)
            cluster.start_operator()
            await cluster.until_settled()
            for runs in by_key(cluster).values():
                assert most_at_once(runs) == 1

    run()


# Rates


@simulated
async def test_no_period_of_a_rate_limited_queue_holds_more_starts_than_its_count() -> None:
    async with Cluster(seconds=0.5) as cluster:
        await cluster.apply(a_queue("api", concurrency=50, rateLimit={"count": 5, "periodSeconds": 10}))
        await cluster.apply(*(a_job(f"call-{n:02}", queue="api") for n in range(30)))
        await cluster.until_settled()
        moments = [run.started_at for run in cluster.kubelet.runs]
        assert all(later - earlier >= 9.9 for earlier, later in zip(moments, moments[5:], strict=False))
        assert moments[-1] - moments[0] < 51, "and not fewer than it lets through"


@simulated
async def test_a_rate_limited_queue_does_nothing_until_the_next_start_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(seconds=0.5) as cluster:
        await cluster.apply(a_queue("api", rateLimit={"count": 1, "periodSeconds": 3600}))
        await cluster.apply(*(a_job(f"call-{n}", queue="api") for n in range(3)))
        await cluster.until(lambda: len(cluster.kubelet.runs) == 1)
        await cluster.until(lambda: {"RateLimited"} == {job.reason for job in cluster.jobs() if not job.attempt})
        message = next(job for job in cluster.jobs() if not job.attempt).status["message"]
        assert "waits for the rate of queue api, 1 starts in 3600 s: the next one at " in message
        before = cluster.writes(JOBS, PODS, QUEUES)
        looks: list[Key] = []
        agenda = cluster.leader.controller._queues
        take = agenda.take

        def noted(now: float) -> list[Key]:
            looks.extend(taken := take(now))
            return taken

        monkeypatch.setattr(agenda, "take", noted)
        await asyncio.sleep(3000)
        assert cluster.writes(JOBS, PODS, QUEUES) - before == 1, "the first one's pod is deleted"
        assert len(looks) <= 3, "and what that changes is looked at"


@simulated
async def test_attempts_count_for_the_rate_and_refused_pods_do_not() -> None:
    async def flaky(attempt: Attempt) -> Ended:
        return failed() if attempt.number < 3 else succeeded()

    async with Cluster({"flaky": flaky}) as cluster:
        backoff = {"type": "Fixed", "baseSeconds": 0}
        await cluster.apply(a_queue("api", rateLimit={"count": 2, "periodSeconds": 60}))
        await cluster.apply(a_job("flaky", queue="api", backoff=backoff))
        await cluster.until_settled()
        first, second, third = (run.started_at for run in cluster.kubelet.runs)
        assert second - first < 10
        assert third - first >= 60 - 0.5
        cluster.server.faults.append(
            Fault(verb="create", resource=PODS, error=ApiError(403, "Forbidden", "exceeded quota: pods"), times=3)
        )
        await asyncio.sleep(120)
        began = cluster.clock.monotonic()
        await cluster.apply(a_job("refused", queue="api"))
        await cluster.until(lambda: cluster.state("refused") == "Succeeded")
        assert cluster.job("refused").attempt == 4
        assert cluster.clock.monotonic() - began < 55


@simulated
async def test_a_new_leader_goes_by_what_the_last_one_started() -> None:
    """At most twice the count in the first period is promised; while the records are there it is the count."""
    async with Cluster(seconds=0.5) as cluster:
        await cluster.apply(a_queue("api", concurrency=50, rateLimit={"count": 4, "periodSeconds": 60}))
        await cluster.apply(*(a_job(f"call-{n:02}", queue="api") for n in range(12)))
        for _ in range(3):
            await asyncio.sleep(7)
            await cluster.crash_operator()
            cluster.start_operator()
        await cluster.until_settled()
        moments = [run.started_at for run in cluster.kubelet.runs]
        assert all(later - earlier >= 58 for earlier, later in zip(moments, moments[4:], strict=False))


@simulated
async def test_with_all_records_gone_a_new_leader_starts_at_most_the_count_again() -> None:
    async with Cluster(seconds=0.5) as cluster:
        await cluster.apply(a_queue("api", concurrency=50, rateLimit={"count": 4, "periodSeconds": 600}))
        await cluster.apply(*(a_job(f"call-{n:02}", queue="api", ttlSecondsAfterFinished=0) for n in range(20)))
        await cluster.until(lambda: len(cluster.jobs()) == 16)
        await cluster.crash_operator()
        cluster.start_operator()
        await asyncio.sleep(300)
        assert len(cluster.kubelet.runs) == 8


# The operator's own limit


@simulated
async def test_the_operators_limit_holds_over_all_queues_and_higher_queues_go_first() -> None:
    async with Cluster(seconds=5.0, max_running_pods=3) as cluster:
        await cluster.apply(a_queue("low"), a_queue("high", priority=10), a_job("first", queue="low"))
        await cluster.apply(*(a_job(f"low-{n}", queue="low", priority=1000) for n in range(6)))
        await cluster.apply(*(a_job(f"high-{n}", queue="high") for n in range(6)))
        await cluster.until_settled()
        order = [run.job for run in cluster.kubelet.runs]
        assert most_at_once(cluster.kubelet.runs) == 3
        late_low = [place for place, name in enumerate(order) if name.startswith("low")][3:]
        last_high = max(place for place, name in enumerate(order) if name.startswith("high"))
        assert min(late_low) > last_high, order


@simulated
async def test_a_job_that_the_operators_limit_holds_up_says_so() -> None:
    async with Cluster(seconds=100.0, max_running_pods=1) as cluster:
        await cluster.apply(a_queue("a"), a_queue("b"), a_job("first", queue="a"))
        await cluster.until(lambda: len(cluster.kubelet.running) == 1)
        await cluster.apply(a_job("second", queue="b"))
        await cluster.until(lambda: cluster.job("second").reason == "AtConcurrencyLimit", seconds=40)
        message = cluster.job("second").status["message"]
        assert message == "waits for a pod: the operator runs 1 of 1 (maxRunningPods)"
        await cluster.until_settled()


# A queue that changes


@simulated
async def test_concurrency_lowered_under_load_kills_nothing_and_starts_nothing_until_below() -> None:
    async with Cluster(seconds=20.0) as cluster:
        await cluster.apply(a_queue("media", concurrency=6))
        await cluster.apply(*(a_job(f"j-{n:02}", queue="media") for n in range(12)))
        await cluster.until(lambda: len(cluster.kubelet.running) == 6)
        await cluster.edit("media", QUEUES, concurrency=2)
        lowered = cluster.clock.monotonic()
        cluster.watcher.violations.clear()  # six of two: that is what was asked for
        await cluster.until_settled()
        later = [run for run in cluster.kubelet.runs if run.started_at > lowered]
        assert len(cluster.kubelet.runs) == 12, "nothing ran twice"
        assert {job.disruptions for job in cluster.jobs()} == {0}
        assert len(later) == 6
        assert most_at_once(later) == 2
        assert min(run.started_at for run in later) > sorted(run.ended_at or 0 for run in cluster.kubelet.runs)[3]


@simulated
async def test_a_queue_scaled_to_zero_and_back_finishes_its_work() -> None:
    async with Cluster(seconds=5.0) as cluster:
        await cluster.apply(a_queue("media", concurrency=2), *(a_job(f"j-{n}", queue="media") for n in range(4)))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await cluster.edit("media", QUEUES, concurrency=0)
        await asyncio.sleep(100)
        assert len(cluster.kubelet.runs) == 2
        await cluster.edit("media", QUEUES, concurrency=5)
        await cluster.until_settled(seconds=10)


@simulated
async def test_a_deleted_queue_lets_what_runs_end_and_holds_what_waits() -> None:
    async with Cluster(seconds=20.0) as cluster:
        await cluster.apply(a_queue("media", concurrency=2), *(a_job(f"j-{n}", queue="media") for n in range(4)))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await delete_queue(cluster, "media")
        waiting = [job.name for job in cluster.jobs() if not job.attempt]
        await cluster.until(lambda: {cluster.job(name).reason for name in waiting} == {"QueueNotFound"}, seconds=2)
        await cluster.until(lambda: sum(job.state is State.SUCCEEDED for job in cluster.jobs()) == 2)
        await asyncio.sleep(60)
        assert len(cluster.kubelet.runs) == 2
        await cluster.apply(a_queue("media", concurrency=2))
        await cluster.until_settled()
        assert set(cluster.states().values()) == {"Succeeded"}


@simulated
async def test_a_queue_made_again_counts_the_slots_that_the_last_one_gave() -> None:
    async with Cluster(seconds=20.0) as cluster:
        await cluster.apply(a_queue("media", concurrency=2), *(a_job(f"j-{n}", queue="media") for n in range(4)))
        await cluster.until(lambda: len(cluster.kubelet.running) == 2)
        await delete_queue(cluster, "media")
        await asyncio.sleep(3)
        await cluster.apply(a_queue("media", concurrency=2))
        await cluster.until_settled()
        assert most_at_once(cluster.kubelet.runs) == 2
        assert cluster.watcher.highest_slots["media"] == 2


@simulated
async def test_a_queues_status_is_never_further_from_the_truth_than_two_seconds() -> None:
    async with Cluster(seconds=3.0) as cluster:
        queues = [f"q-{n}" for n in range(12)]
        await cluster.apply(*(a_queue(name, concurrency=3) for name in queues))
        await asyncio.sleep(5)
        await cluster.apply(*(a_job(f"j-{n:03}", queue=queues[n % 12]) for n in range(120)))
        wrong_since: dict[str, float] = {}
        longest = 0.0
        while wrong_since or not all(job.terminal for job in cluster.jobs()):
            now = cluster.clock.monotonic()
            for name in queues:
                states = Counter(job.state for job in cluster.jobs() if job.queue == name)
                status = cluster.server.store.get(QUEUES, NAMESPACE, name)["status"]
                if (status["waiting"], status["totals"]["succeeded"]) == (
                    states[State.WAITING],
                    states[State.SUCCEEDED],
                ):
                    wrong_since.pop(name, None)
                else:
                    longest = max(longest, now - wrong_since.setdefault(name, now))
            await asyncio.sleep(0.1)
        assert 0.5 < longest <= 2.2


@simulated
async def test_a_queues_status_is_written_at_most_once_in_two_seconds() -> None:
    async with Cluster(seconds=0.3) as cluster:
        await cluster.apply(a_queue("media", concurrency=3), *(a_job(f"j-{n:02}", queue="media") for n in range(60)))
        written: list[float] = []
        cluster.server.store.observers.append(
            lambda change: written.append(cluster.clock.monotonic()) if change.resource == QUEUES else None
        )
        await cluster.until_settled()
        assert len(written) > 3
        assert all(later - earlier >= 1.99 for earlier, later in pairwise(written))


@simulated
async def test_every_job_of_the_default_queue_goes_on_once_it_can_be_made() -> None:
    async with Cluster() as cluster:
        await asyncio.sleep(2.0)
        quota = ApiError(403, "Forbidden", "exceeded quota: count/questqueues.questline.dev")
        fault = Fault(verb="create", resource=QUEUES, error=quota, times=None)
        cluster.server.faults.append(fault)
        await cluster.apply(a_job("one"), a_job("two"))
        await asyncio.sleep(5.0)
        await cluster.edit("one", cancel=True)
        await cluster.until(lambda: cluster.state("one") == "Canceled")
        await asyncio.sleep(60.0)
        cluster.server.faults.remove(fault)
        await asyncio.sleep(600.0)
        assert cluster.state("two") == "Succeeded", cluster.states()


@simulated
async def test_a_child_whose_worker_comes_from_its_parents_queue_goes_on_when_that_queue_is_made_again() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:child", queue="other")
        return succeeded()

    async with Cluster({"parent": parent}) as cluster:
        media = a_queue("media", defaults={"worker": "special"})
        await cluster.apply(a_worker("special"), media, a_queue("other", paused=True))
        cluster.server.store.delete(WORKERS, NAMESPACE, "default")
        await cluster.apply(a_job("parent", queue="media"))
        await cluster.until(lambda: cluster.state("parent") == "Succeeded")
        cluster.server.store.delete(QUEUES, NAMESPACE, "media")
        await cluster.edit("other", QUEUES, paused=False)
        await asyncio.sleep(60.0)
        child = next(job.name for job in cluster.jobs() if job.parent)
        assert cluster.states()[child] == "Waiting WorkerNotFound"
        cluster.server.store.create(QUEUES, NAMESPACE, media)
        await asyncio.sleep(600.0)
        assert cluster.state(child) == "Succeeded", cluster.states()


# The condition Ready


def ready(cluster: Cluster, name: str = "media") -> dict[str, Any]:
    """The queue's condition, {} where it has none yet."""
    return dict(ready_in(cluster.server.store.get(QUEUES, NAMESPACE, name).get("status", {})))


def reason(cluster: Cluster) -> tuple[str, str]:
    """What it says: its status and its reason."""
    return ready(cluster).get("status", ""), ready(cluster).get("reason", "")


@simulated
async def test_a_queue_says_whether_it_lets_its_jobs_start() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_queue("media"))
        await cluster.until(lambda: reason(cluster) == ("True", "Admitting"), seconds=2.2)
        admitting = ready(cluster)
        await cluster.edit("media", QUEUES, concurrency=3)
        await cluster.until(lambda: ready(cluster)["observedGeneration"] == 2, seconds=2.2)
        assert ready(cluster) == {**admitting, "observedGeneration": 2}, "it was True all the time"
        await cluster.edit("media", QUEUES, paused=True)
        await cluster.until(lambda: reason(cluster) == ("False", "Paused"), seconds=2.2)
        assert parse_time(ready(cluster)["lastTransitionTime"]) == pytest.approx(cluster.clock.now(), abs=1.0)
        before = cluster.writes(QUEUES)
        await asyncio.sleep(60)
        assert cluster.writes(QUEUES) == before, "one write says it"
        await cluster.edit("media", QUEUES, paused=False)
        await cluster.until(lambda: reason(cluster) == ("True", "Admitting"), seconds=2.2)


def full(review: Review) -> None:
    """A quota that is used up; its words name the pod, as the API server's do."""
    if review.resource == PODS and review.old is None and review.new is not None:
        raise ApiError(403, "Forbidden", f'pods "{review.new["metadata"]["name"]}" is forbidden: exceeded quota')


@simulated
async def test_a_queue_whose_pods_are_refused_says_so_once_until_one_is_taken() -> None:
    async with Cluster() as cluster:
        cluster.server.store.admission.append(full)
        await cluster.apply(a_queue("media"), a_job("a", queue="media"))
        await cluster.until(lambda: reason(cluster) == ("False", "PodRejected"), seconds=5)
        name = cluster.job("a").pod_name(1)
        assert ready(cluster)["message"] == f'pods "{name}" is forbidden: exceeded quota'
        first, before = ready(cluster), cluster.writes(QUEUES)
        await asyncio.sleep(300)
        assert cluster.job("a").attempt > 5, "it is tried again, by another name each time"
        assert (ready(cluster), cluster.writes(QUEUES)) == (first, before)
        cluster.server.store.admission.remove(full)
        await cluster.until(lambda: cluster.state("a") == "Succeeded", seconds=90)
        await cluster.until(lambda: reason(cluster) == ("True", "Admitting"), seconds=2.2)


@simulated
async def test_a_queue_is_ready_again_when_no_job_is_left_whose_pod_was_refused() -> None:
    async with Cluster() as cluster:
        cluster.server.store.admission.append(full)
        await cluster.apply(a_queue("media"), a_job("a", queue="media"))
        await cluster.until(lambda: reason(cluster) == ("False", "PodRejected"), seconds=5)
        await cluster.edit("a", cancel=True)
        await cluster.until(lambda: cluster.state("a") == "Canceled", seconds=5)
        await cluster.until(lambda: reason(cluster) == ("True", "Admitting"), seconds=2.2)
