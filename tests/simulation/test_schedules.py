"""Schedules in virtual time: one Job a tick, whatever fails (invariant 10), overlap, outages and changes of clocks."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from questline_operator.core.records import ANNOTATION_SCHEDULE_UID, ANNOTATION_TICK, Job
from questline_operator.core.states import State
from questline_operator.core.times import parse_time
from questline_operator.shell.api import CONFIG_MAPS, JOBS, SCHEDULES, ApiError, Object
from questline_operator.shell.epoch import FENCE
from tests.simulation.clock import simulated
from tests.simulation.cluster import NAMESPACE, Cluster, a_schedule
from tests.simulation.faults import Fault, internal_error
from tests.simulation.policies import Fence
from tests.simulation.sdk import Attempt, Ended, succeeded
from tests.simulation.store import Change

SYSTEM = "questline-system"
MINUTE = 60.0


class Ticks:
    """Counts every Job that was ever made for a tick, deleted or not."""

    def __init__(self, cluster: Cluster) -> None:
        self.made: Counter[tuple[str, float]] = Counter()
        cluster.server.store.observers.append(self._see)

    def _see(self, change: Change) -> None:
        annotations = change.object["metadata"].get("annotations", {})
        if change.resource == JOBS and change.type == "ADDED" and ANNOTATION_TICK in annotations:
            self.made[annotations[ANNOTATION_SCHEDULE_UID], parse_time(annotations[ANNOTATION_TICK])] += 1

    @property
    def times(self) -> list[float]:
        """The ticks that have a Job."""
        return sorted(tick for _, tick in self.made)

    def check(self) -> None:
        """Invariant 10."""
        assert set(self.made.values()) <= {1}, self.made


def schedule(cluster: Cluster, name: str = "every") -> Object:
    return cluster.server.store.get(SCHEDULES, NAMESPACE, name)


def status(cluster: Cluster, name: str = "every") -> dict[str, Any]:
    found: dict[str, Any] = schedule(cluster, name).get("status", {})
    return found


def condition(cluster: Cluster, name: str = "every") -> tuple[str, str, str]:
    found: dict[str, Any] = next(iter(status(cluster, name).get("conditions", ())), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def runs_of(cluster: Cluster) -> list[Job]:
    """The Jobs of ticks, the earliest tick first."""
    return sorted((job for job in cluster.jobs() if job.tick), key=lambda job: job.tick.at if job.tick else 0.0)


@simulated
async def test_every_tick_makes_one_job_within_a_second_and_the_status_tells_both() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", job={"task": "tasks:work", "args": {"n": 1}}))
        await asyncio.sleep(10 * MINUTE + 5)
        ticks.check()
        assert len(ticks.made) == 10
        jobs = runs_of(cluster)
        assert all(0 <= job.created_at - (job.tick.at if job.tick else 0) <= 1 for job in jobs)
        assert {job.state for job in jobs[:-1]} == {State.SUCCEEDED}
        assert jobs[0].spec["args"] == {"n": 1}
        assert jobs[0].raw["metadata"]["labels"] == {"questline.dev/schedule": "every"}
        assert parse_time(status(cluster)["lastTick"]) == ticks.times[-1]
        assert status(cluster)["lastJob"] == jobs[-1].name
        assert parse_time(status(cluster)["nextTick"]) == ticks.times[-1] + MINUTE
        assert condition(cluster) == ("True", "Scheduled", "")


@simulated
async def test_a_tick_costs_two_writes_and_the_time_between_none() -> None:
    async with Cluster() as cluster:
        await cluster.apply(a_schedule("daily", "0 0 * * *"))
        await cluster.until(lambda: condition(cluster, "daily")[0] == "True")
        before = cluster.writes(JOBS, SCHEDULES)
        await asyncio.sleep(3_000)
        assert cluster.writes(JOBS, SCHEDULES) == before


@pytest.mark.parametrize("moment", [-0.3, 0.0, 0.1, 0.2, 0.25, 0.252, 0.256, 0.258, 0.262, 0.266, 0.5, 2.0, 5.0])
def test_an_operator_killed_at_any_moment_makes_each_tick_once(moment: float) -> None:
    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            ticks = Ticks(cluster)
            await cluster.apply(a_schedule("every", job={"task": "tasks:work", "ttlSecondsAfterFinished": 0}))
            for _ in range(3):
                await cluster.until(lambda: "nextTick" in status(cluster))
                due = parse_time(status(cluster)["nextTick"])
                await asyncio.sleep(max(0.0, due - cluster.clock.now() + moment))
                await cluster.crash_operator()
                await asyncio.sleep(12)
                cluster.start_operator()
                await asyncio.sleep(15)
            ticks.check()
            first, last = ticks.times[0], ticks.times[-1]
            assert ticks.times == [first + n * MINUTE for n in range(int((last - first) // MINUTE) + 1)], "none is lost"
            assert len(ticks.made) >= 3

    run()


@pytest.mark.parametrize("lose", ["request", "answer"])
def test_lost_requests_and_answers_make_no_second_job(lose: Any) -> None:
    @simulated
    async def run() -> None:
        async with Cluster(seconds=0.1) as cluster:
            ticks = Ticks(cluster)
            await cluster.apply(a_schedule("every", job={"task": "tasks:work", "ttlSecondsAfterFinished": 0}))
            for _ in range(4):
                cluster.server.faults.append(Fault(verb="create", resource=JOBS, lose=lose, times=2, hang_seconds=8))
                cluster.server.faults.append(Fault(verb="patch", resource=SCHEDULES, lose=lose, times=2))
                await asyncio.sleep(MINUTE)
            await asyncio.sleep(30)
            ticks.check()
            assert len(ticks.made) >= 4

    run()


@simulated
async def test_a_finished_job_stays_until_the_status_says_that_it_was_made() -> None:
    async with Cluster(seconds=0.1) as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", job={"task": "tasks:work", "ttlSecondsAfterFinished": 0}))
        await cluster.until(lambda: "nextTick" in status(cluster))
        cluster.server.faults.append(Fault(verb="patch", resource=SCHEDULES, error=internal_error(), times=None))
        await cluster.until(lambda: len(runs_of(cluster)) == 1)
        await asyncio.sleep(20)
        assert runs_of(cluster)[0].state is State.SUCCEEDED, "its time to live is over, its record is needed"
        cluster.server.faults.clear()
        await cluster.crash_operator()
        cluster.start_operator()
        await cluster.until(lambda: not runs_of(cluster), seconds=15)
        ticks.check()


@simulated
async def test_what_an_older_leader_sent_makes_no_job_when_it_arrives() -> None:
    """Its POST is on the way while the next leader makes the tick's Job, which runs, ends and is deleted."""
    async with Cluster(seconds=0.1) as cluster:
        ticks = Ticks(cluster)
        fence = Fence(cluster.server, namespace=SYSTEM, lag=0.004)
        cluster.server.store.admission.append(fence)
        await cluster.server.create(CONFIG_MAPS, SYSTEM, {"metadata": {"name": FENCE}, "data": {"epoch": "1"}})
        await cluster.apply(a_schedule("every", job={"task": "tasks:work", "ttlSecondsAfterFinished": 0}))
        await cluster.until(lambda: "nextTick" in status(cluster))
        cluster.server.faults.append(Fault(client="operator-1", verb="create", resource=JOBS, delay_seconds=40))
        due = parse_time(status(cluster)["nextTick"])
        await asyncio.sleep(due - cluster.clock.now() + 1)
        await cluster.server.patch(CONFIG_MAPS, SYSTEM, FENCE, [{"op": "replace", "path": "/data/epoch", "value": "2"}])
        old = cluster._operator
        assert old is not None
        cluster.start_operator()
        await asyncio.sleep(50)
        assert fence.refused >= 1
        ticks.check()
        assert due in ticks.times
        await asyncio.wait((old,))
        assert "LeadershipLostError" in repr(old.exception())


@simulated
async def test_two_leaders_at_once_make_each_tick_once() -> None:
    """Even where no fence keeps the older one out: the Job's name is the tick's."""
    async with Cluster(seconds=0.1) as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every"))
        first = cluster._operator
        cluster.start_operator()
        await asyncio.sleep(10 * MINUTE + 5)
        ticks.check()
        assert len(ticks.made) == 10
        assert first is not None
        first.cancel()
        await asyncio.wait((first,))


@simulated
async def test_a_name_that_somebody_else_has_taken_is_told_and_costs_that_tick_alone() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every"))
        await cluster.until(lambda: "nextTick" in status(cluster))
        due = parse_time(status(cluster)["nextTick"])
        name = f"every-{schedule(cluster)['metadata']['uid'][:8]}-{int(due) // 60}"
        foreign: Object = {"metadata": {"name": name}, "spec": {"task": "tasks:work"}}
        await cluster.server.create(JOBS, NAMESPACE, foreign)
        await cluster.until(lambda: condition(cluster)[1] == "JobRefused")
        assert condition(cluster) == ("False", "JobRefused", f"Job {name} exists and is not of this Schedule")
        await asyncio.sleep(3 * MINUTE)
        ticks.check()
        assert ticks.times[0] == due + MINUTE
        assert condition(cluster)[0] == "True"


# Outages


@pytest.mark.parametrize(("catch_up", "expected"), [(0, 0), (150, 2), (3_600, 5)])
def test_after_an_outage_the_ticks_that_are_not_too_late_are_made_up_for(catch_up: int, expected: int) -> None:
    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            ticks = Ticks(cluster)
            await cluster.apply(a_schedule("every", catchUpSeconds=catch_up))
            await cluster.until(lambda: len(ticks.made) == 1)
            await cluster.crash_operator()
            await asyncio.sleep(5 * MINUTE + 45)
            missed = [ticks.times[0] + n * MINUTE for n in range(1, 6)]
            cluster.start_operator()
            await asyncio.sleep(5)
            ticks.check()
            assert [tick for tick in ticks.times if tick in missed] == (missed[-expected:] if expected else [])
            skipped = status(cluster).get("skipped", {}).get("reason")
            assert skipped == ("Late" if expected < 5 else None)
            await asyncio.sleep(MINUTE)
            assert missed[-1] + MINUTE in ticks.times, "and it goes on"

    run()


@simulated
async def test_a_clock_that_was_a_day_ahead_for_some_seconds_costs_no_tick() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every"))
        await cluster.until(lambda: len(ticks.made) == 1)
        await asyncio.sleep(10)
        cluster.clock.jump(86_400)
        await cluster.until(lambda: "skipped" in status(cluster), seconds=5)
        cluster.clock.jump(-86_400)
        await asyncio.sleep(5 * MINUTE)
        ticks.check()
        assert ticks.times == [ticks.times[0] + n * MINUTE for n in range(6)]


@simulated
async def test_a_schedule_made_during_an_outage_counts_from_its_creation() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.crash_operator()
        await cluster.apply(a_schedule("every", catchUpSeconds=3_600))
        await asyncio.sleep(3 * MINUTE + 1)
        cluster.start_operator()
        await asyncio.sleep(5)
        ticks.check()
        assert len(ticks.made) == 3


@simulated
async def test_a_suspended_schedule_makes_nothing_and_nothing_later() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", catchUpSeconds=3_600))
        await cluster.until(lambda: len(ticks.made) == 1)
        await cluster.edit("every", SCHEDULES, suspend=True)
        await cluster.until(lambda: condition(cluster)[1] == "Suspended", seconds=1)
        assert "nextTick" not in status(cluster)
        await asyncio.sleep(10 * MINUTE)
        resumed = cluster.clock.now()
        await cluster.edit("every", SCHEDULES, suspend=False)
        await asyncio.sleep(2 * MINUTE)
        ticks.check()
        assert len(ticks.made) == 3
        assert ticks.times[1] > resumed


@simulated
async def test_a_tick_that_was_made_comes_never_again_though_the_clock_is_set_back_and_its_job_is_gone() -> None:
    async with Cluster(seconds=0.1) as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", job={"task": "tasks:work", "ttlSecondsAfterFinished": 0}))
        await cluster.until(lambda: len(ticks.made) == 1)
        await cluster.until(lambda: not cluster.jobs())
        cluster.clock.jump(-60)
        await cluster.edit("every", SCHEDULES, suspend=True)
        await asyncio.sleep(1)
        await cluster.edit("every", SCHEDULES, suspend=False)
        await asyncio.sleep(3 * MINUTE)
        ticks.check()
        assert len(ticks.made) >= 3


@simulated
async def test_a_refused_job_is_told_in_the_api_servers_words_and_tried_again() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", catchUpSeconds=60))
        await cluster.until(lambda: "nextTick" in status(cluster))
        refusal = ApiError(403, "Forbidden", "exceeded quota: count/questjobs.questline.dev")
        cluster.server.faults.append(Fault(verb="create", resource=JOBS, error=refusal, times=3))
        await cluster.until(lambda: condition(cluster) == ("False", "JobRefused", refusal.message))
        await cluster.until(lambda: condition(cluster)[0] == "True", seconds=40)
        assert len(ticks.made) == 1
        ticks.check()


# Lines


@simulated
async def test_a_wrong_line_is_told_at_once_and_a_mended_one_goes_on() -> None:
    async with Cluster() as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", "0 22-4 * * *"), a_schedule("zone", timeZone="Mars/Olympus"))
        await cluster.until(lambda: condition(cluster)[1] == "CronInvalid", seconds=1)
        await cluster.until(lambda: condition(cluster, "zone")[1] == "TimeZoneUnknown", seconds=1)
        assert "'0 22-4 * * *'" in condition(cluster)[2]
        await asyncio.sleep(5 * MINUTE)
        assert not ticks.made
        await cluster.edit("every", SCHEDULES, cron="* * * * *")
        await asyncio.sleep(MINUTE)
        assert condition(cluster)[0] == "True"
        assert len(ticks.made) == 1


@pytest.mark.parametrize(
    ("begin", "cron", "expected"),
    [
        ("2026-03-28T20:00:00Z", "30 2 * * *", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ("2026-10-24T20:00:00Z", "30 2 * * *", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
    ],
)
def test_a_nightly_job_runs_once_in_each_night_of_a_change_of_clocks(
    begin: str, cron: str, expected: list[str]
) -> None:
    @simulated
    async def run() -> None:
        async with Cluster() as cluster:
            cluster.clock.jump(parse_time(begin) - cluster.clock.now())
            ticks = Ticks(cluster)
            await cluster.apply(a_schedule("nightly", cron, timeZone="Europe/Berlin"))
            for _ in expected:
                await cluster.until(lambda: "nextTick" in status(cluster, "nightly"))
                before = parse_time(status(cluster, "nightly")["nextTick"]) - 2
                await asyncio.sleep(1)
                cluster.clock.jump(before - cluster.clock.now())
                await asyncio.sleep(10)
            ticks.check()
            assert ticks.times == [parse_time(text) for text in expected]

    run()


# Overlap


async def slow(attempt: Attempt) -> Ended:
    await attempt.work(150.0)
    return succeeded()


@simulated
async def test_allow_runs_them_beside_each_other() -> None:
    async with Cluster({"work": slow}) as cluster:
        await cluster.apply(a_schedule("every"))
        await asyncio.sleep(4 * MINUTE + 5)
        assert len(cluster.kubelet.running) == 3


@simulated
async def test_forbid_makes_none_while_the_last_run_is_not_over() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:slow")
        return succeeded()

    async with Cluster({"parent": parent, "slow": slow}) as cluster:
        ticks = Ticks(cluster)
        job = {"task": "tasks:parent"}
        await cluster.apply(a_schedule("every", overlap="Forbid", job=job))
        await asyncio.sleep(7 * MINUTE + 5)
        gaps = [later - earlier for earlier, later in pairwise(ticks.times)]
        assert gaps == [180.0, 180.0], "the child of each runs for 150 s"
        assert status(cluster)["skipped"]["reason"] == "Overlap"
        assert "is not finished" in status(cluster)["skipped"]["message"]


@simulated
async def test_forbid_knows_of_a_child_that_the_watch_has_not_told_yet() -> None:
    """That the parent has succeeded is known from the operator's own write, some seconds ahead of the child."""

    async def parent(attempt: Attempt) -> Ended:
        await attempt.work(56.0)
        await attempt.enqueue("tasks:slow")
        return succeeded()  # a second or two before the next tick

    async with Cluster({"parent": parent, "slow": slow}) as cluster:
        cluster.server.watch_lag = lambda client, resource: 4.0 if resource == JOBS else 0.0
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", overlap="Forbid", job={"task": "tasks:parent"}))
        await asyncio.sleep(4 * MINUTE + 45)
        assert len(ticks.made) == 1, "its child runs for 150 s"
        assert status(cluster)["skipped"]["reason"] == "Overlap"
        await asyncio.sleep(MINUTE)
        assert ticks.times[1] == ticks.times[0] + 4 * MINUTE, "and the tick after its end is made"


@simulated
async def test_forbid_makes_each_tick_whose_run_is_over_however_late_the_watch_is() -> None:
    async with Cluster(seconds=5.0) as cluster:
        cluster.server.watch_lag = lambda client, resource: 4.0 if resource == JOBS else 0.0
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every", overlap="Forbid"))
        await asyncio.sleep(5 * MINUTE + 10)
        ticks.check()
        assert len(ticks.made) == 5


@simulated
async def test_replace_cancels_the_run_with_its_descendants_and_starts_when_they_have_ended() -> None:
    async def parent(attempt: Attempt) -> Ended:
        await attempt.enqueue("tasks:deaf")
        return succeeded()

    async def deaf(attempt: Attempt) -> Ended:
        attempt.handles_sigterm = True
        await attempt.work(1_000.0)
        return succeeded()

    async with Cluster({"parent": parent, "deaf": deaf}) as cluster:
        job = {"task": "tasks:parent"}
        await cluster.apply(a_schedule("every", overlap="Replace", job=job))
        await asyncio.sleep(2 * MINUTE + 45)
        first, second = runs_of(cluster)[:2]
        assert first.state is State.SUCCEEDED, "a finished Job keeps its state"
        child = next(one for one in cluster.jobs() if one.parent and one.parent.name == first.name)
        assert (child.state, child.reason) == (State.CANCELED, "AncestorCanceled")
        started = next(run.started_at for run in cluster.kubelet.runs if run.job == second.name)
        ended = next(run.ended_at for run in cluster.kubelet.runs if run.job == child.name)
        assert ended is not None
        assert started > ended, "the grace of the deaf one is waited for"


@simulated
async def test_replace_cancels_what_has_not_started_and_what_runs() -> None:
    async with Cluster({"work": slow}) as cluster:
        await cluster.apply(a_schedule("every", overlap="Replace"))
        await asyncio.sleep(5 * MINUTE + 5)
        jobs = runs_of(cluster)
        assert {(job.state, job.reason) for job in jobs[:-1]} == {(State.CANCELED, "Replaced")}
        assert len(cluster.kubelet.running) == 1
        assert cluster.watcher.violations == []


@simulated
async def test_a_unique_job_is_no_duplicate_of_the_run_whose_place_it_takes() -> None:
    async with Cluster({"work": slow}) as cluster:
        job = {"task": "tasks:work", "unique": {"key": "nightly"}}
        await cluster.apply(a_schedule("every", overlap="Replace", job=job))
        await asyncio.sleep(3 * MINUTE + 5)
        jobs = runs_of(cluster)
        assert {(job.state, job.reason) for job in jobs[:-1]} == {(State.CANCELED, "Replaced")}
        assert [run.job for run in cluster.kubelet.running] == [jobs[-1].name]
        assert cluster.watcher.violations == []


@simulated
async def test_a_deleted_schedule_makes_no_more_and_leaves_its_jobs() -> None:
    async with Cluster({"work": slow}) as cluster:
        ticks = Ticks(cluster)
        await cluster.apply(a_schedule("every"))
        await cluster.until(lambda: len(ticks.made) == 1)
        uid = schedule(cluster)["metadata"]["uid"]
        await cluster.server.delete(SCHEDULES, NAMESPACE, "every", uid=uid)
        await asyncio.sleep(5 * MINUTE)
        assert [job.state for job in cluster.jobs()] == [State.SUCCEEDED]
        await cluster.apply(a_schedule("every", overlap="Forbid"))
        await cluster.until(lambda: len(ticks.made) == 2)
        ticks.check()


@simulated
async def test_a_tick_whose_job_was_made_as_the_zone_became_wrong_is_made_once() -> None:
    made: list[str] = []
    async with Cluster() as cluster:
        cluster.server.store.observers.append(
            lambda change: made.append(change.key[1]) if change.resource == JOBS and change.type == "ADDED" else None
        )
        job = {"task": "tasks:work", "ttlSecondsAfterFinished": 0}
        await cluster.apply(a_schedule("hourly", "0 * * * *", job=job))
        await asyncio.sleep(3599.0)
        assert made == []
        cluster.server.faults.append(Fault(client="operator-", verb="patch", resource=SCHEDULES, delay_seconds=1.0))
        await cluster.until(lambda: len(made) == 1)
        await cluster.edit("hourly", SCHEDULES, timeZone="Europe/Nowhere")
        await asyncio.sleep(60.0)
        assert cluster.jobs() == []
        cluster.clock.jump(-600.0)
        await cluster.edit("hourly", SCHEDULES, timeZone="UTC")
        await asyncio.sleep(1200.0)
        assert len(made) == len(set(made)), made
