"""What a Schedule does next: its ticks, what it passes over, and what survives any crash."""

from typing import Any

import pytest

from questline_operator.core.decide import Nothing, WriteStatus, next_step
from questline_operator.core.lineage import Hold
from questline_operator.core.records import ANNOTATION_REPLACES, ANNOTATION_SCHEDULE_UID, ANNOTATION_TICK, Job
from questline_operator.core.retention import still_needed
from questline_operator.core.schedule import CalendarError, Schedule
from questline_operator.core.states import Reason
from questline_operator.core.ticks import (
    JOB_REFUSED,
    WATCH_SECONDS,
    MakeJob,
    Rest,
    ScheduleStep,
    WriteSchedule,
    made,
    next_step_of_schedule,
    ready,
)
from questline_operator.core.times import format_whole_seconds
from questline_operator.core.world import World
from tests.unit.core.builders import (
    EPOCH,
    T0,
    a_job,
    a_pod,
    a_queue,
    a_worker,
    a_world,
    child_of,
    uid_of,
    whole_time_of,
)

MINUTE = 60.0
START = T0  # a whole minute
LINE = "* * * * * UTC"


def every_minute(cron: str, zone: str, after: float) -> float | None:
    """The calendar of these tests: each whole minute, none for `never`, and an error for what is bad."""
    if cron.startswith("bad") or zone.startswith("Mars"):
        raise CalendarError("CronInvalid" if cron.startswith("bad") else "TimeZoneUnknown", f"{cron} {zone} is bad")
    return None if cron.startswith("never") else (after // MINUTE + 1) * MINUTE


def a_schedule(
    *, status: dict[str, Any] | None = None, generation: int = 1, deleting: bool = False, **spec: Any
) -> Schedule:
    """A Schedule of every minute, created 90 seconds before `T0`."""
    meta: dict[str, Any] = {
        "name": "nightly",
        "namespace": "default",
        "uid": uid_of("schedule"),
        "resourceVersion": "5",
        "generation": generation,
        "creationTimestamp": whole_time_of(-90),
    }
    if deleting:
        meta["deletionTimestamp"] = whole_time_of(0)
    spec = {"cron": "* * * * *", "timeZone": "UTC", "job": {"task": "tasks:work"}, **spec}
    return Schedule.parse({"metadata": meta, "spec": spec, **({"status": status} if status is not None else {})})


def at(tick: float, **status: Any) -> dict[str, Any]:
    """The status of one that goes on with that tick, in seconds after `T0`."""
    condition = ready(a_schedule(), True, "Scheduled", "", T0 - 100)
    return {"line": LINE, "nextTick": whole_time_of(tick), **condition, **status}


def job_of(
    schedule: Schedule, tick: float, *, state: str = "Running", created: float | None = None, **spec: Any
) -> Job:
    """The Job of that tick, in seconds after `T0`."""
    manifest = schedule.job(T0 + tick, epoch=EPOCH, replaces=schedule.overlap == "Replace")
    name = manifest["metadata"]["name"]
    job = a_job(name, state=state, created=tick, spec={"task": "tasks:work", **spec})
    raw = {**job.raw, "metadata": {**job.raw["metadata"], "annotations": manifest["metadata"]["annotations"]}}
    return Job.parse(raw)


def step(schedule: Schedule, *jobs: Job, now: float = 0.0) -> ScheduleStep:
    return next_step_of_schedule(world_of(schedule, *jobs), schedule, T0 + now, every_minute)


def world_of(schedule: Schedule, *jobs: Job) -> World:
    world = a_world(a_queue(), a_worker(), *jobs)
    world.put_schedule(schedule)
    return world


def change(found: ScheduleStep) -> dict[str, Any]:
    assert isinstance(found, WriteSchedule), found
    return dict(found.change)


# Beginning


def test_a_new_schedule_begins_at_its_creation_which_an_operator_that_was_down_has_not_seen() -> None:
    written = change(step(a_schedule(), now=0.0))

    assert written["nextTick"] == whole_time_of(-60)
    assert written["line"] == LINE
    assert written["conditions"][0] | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "True",
        "reason": "Scheduled",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }


def test_it_rests_until_its_next_tick_and_makes_that_job_when_it_comes() -> None:
    schedule = a_schedule(status=at(60))

    assert step(schedule, now=59.9) == Rest(T0 + 60)
    assert step(schedule, now=60.0) == MakeJob(T0 + 60, replaces=False)


def test_a_job_that_is_there_is_written_as_made_and_the_next_tick_follows() -> None:
    schedule = a_schedule(status=at(0))
    written = change(step(schedule, job_of(schedule, 0), now=5.0))

    assert written["lastTick"] == whole_time_of(0)
    assert written["lastJob"] == schedule.job_name(T0)
    assert written["nextTick"] == whole_time_of(60)


def test_a_job_of_that_name_that_is_not_its_own_is_not_taken_for_it() -> None:
    schedule = a_schedule(status=at(0))

    assert isinstance(step(schedule, a_job(schedule.job_name(T0)), now=5.0), MakeJob)


def test_a_changed_line_counts_from_now_and_a_changed_job_from_the_next_tick() -> None:
    another = a_schedule(status=at(0), generation=2, cron="*/1 * * * *")
    assert change(step(another, now=130.0))["nextTick"] == whole_time_of(180)

    status = at(60)
    new_job = a_schedule(status=status, generation=2, job={"task": "tasks:other"})
    written = change(step(new_job, now=1.0))
    assert written["observedGeneration"] == 2
    assert "nextTick" not in written


def test_a_tick_that_was_made_is_not_made_again_where_line_and_clock_change() -> None:
    """Its Job's record may be gone by then."""
    another = a_schedule(status=at(120, lastTick=whole_time_of(60)), generation=2, cron="*/1 * * * *")

    assert change(step(another, now=10.0))["nextTick"] == whole_time_of(120)


def test_a_clock_that_was_ahead_and_is_set_right_costs_no_tick_to_come() -> None:
    """While it was, ticks were passed over as late; what was made is not made again."""
    ahead = a_schedule(status=at(86_460, lastTick=whole_time_of(-60)))
    assert change(step(ahead, now=10.0))["nextTick"] == whole_time_of(60)

    made_one = a_schedule(status=at(86_460, lastTick=whole_time_of(3_600)))
    assert change(step(made_one, now=10.0))["nextTick"] == whole_time_of(3_660)
    next_to_it = a_schedule(status=at(120))
    assert step(next_to_it, now=59.0) == Rest(T0 + 120), "another leader's clock may be some seconds ahead"


def test_suspend_makes_nothing_then_or_later() -> None:
    suspended = a_schedule(status=at(0), suspend=True)
    written = change(step(suspended, now=100.0))
    assert (written["nextTick"], written["line"]) == (None, None)
    assert written["conditions"][0]["reason"] == "Suspended"

    quiet = a_schedule(status={name: value for name, value in written.items() if value is not None}, suspend=True)
    assert step(quiet, now=200.0) == Rest()
    resumed = a_schedule(status=dict(quiet.status), generation=3, catchUpSeconds=3_600)
    assert change(step(resumed, now=630.0))["nextTick"] == whole_time_of(660)


def test_a_job_made_before_the_suspension_is_still_written_down() -> None:
    suspended = a_schedule(status=at(0), suspend=True)

    assert change(step(suspended, job_of(suspended, 0), now=1.0))["lastTick"] == whole_time_of(0)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"cron": "bad"}, "CronInvalid"),
        ({"timeZone": "Mars/Olympus"}, "TimeZoneUnknown"),
        ({"cron": "never"}, "NeverDue"),
    ],
)
def test_a_line_that_is_wrong_is_told_at_once_and_once(spec: dict[str, Any], reason: str) -> None:
    written = change(step(a_schedule(**spec)))
    assert (written["conditions"][0]["status"], written["conditions"][0]["reason"]) == ("False", reason)
    assert written["conditions"][0]["message"]

    told = {name: value for name, value in written.items() if value is not None}
    assert step(a_schedule(status=told, **spec), now=500.0) == Rest()
    mended = change(step(a_schedule(status=told, generation=2), now=500.0))
    assert mended["conditions"][0]["status"] == "True"
    assert mended["nextTick"] == whole_time_of(540), "what the wrong line would have made is nobody's concern"


@pytest.mark.parametrize("ends", [a_schedule(status=at(0), deleting=True), a_schedule(status=at(0))])
def test_nothing_is_made_by_what_is_being_deleted(ends: Schedule) -> None:
    world = world_of(ends)
    if not ends.deleting:
        world.terminating_namespaces.add("default")

    assert next_step_of_schedule(world, ends, T0 + 5, every_minute) == Rest()


# Late ticks


def test_a_tick_as_late_as_a_change_of_leader_is_in_time() -> None:
    schedule = a_schedule(status=at(0))

    assert step(schedule, now=30.0) == MakeJob(T0, replaces=False)
    written = change(step(schedule, now=30.5))
    assert written["nextTick"] == whole_time_of(60)
    assert written["skipped"] == {
        "tick": whole_time_of(0),
        "reason": "Late",
        "message": f"no Job for {whole_time_of(0)}: 30 s late, catchUpSeconds is 0 s",
    }


def test_after_an_outage_each_tick_that_is_not_too_late_is_made_up_for_in_order() -> None:
    schedule = a_schedule(status=at(0), catchUpSeconds=150)
    passed = change(step(schedule, now=310.0))
    assert passed["nextTick"] == whole_time_of(180), "0, 60 and 120 are more than 150 s ago"

    ticks = []
    while True:
        schedule = a_schedule(status=at(0) | {"nextTick": passed["nextTick"]}, catchUpSeconds=150)
        found = step(schedule, now=310.0)
        if not isinstance(found, MakeJob):
            break
        ticks.append(found.tick - T0)
        passed = dict(made(schedule, found.tick, T0 + 310, every_minute))
    assert ticks == [180, 240, 300]
    assert found == Rest(T0 + 360)


# Overlap


@pytest.mark.parametrize("overlap", ["Allow", "Forbid", "Replace"])
def test_with_nothing_unfinished_every_policy_makes_the_job(overlap: str) -> None:
    schedule = a_schedule(status=at(60), overlap=overlap)
    last = job_of(schedule, 0, state="Succeeded")

    assert step(schedule, last, now=60.0) == MakeJob(T0 + 60, replaces=overlap == "Replace")


def test_forbid_passes_over_every_tick_until_now_and_says_why() -> None:
    schedule = a_schedule(status=at(60), overlap="Forbid", catchUpSeconds=3_600)
    last = job_of(schedule, 0)
    written = change(step(schedule, last, now=200.0))

    assert written["nextTick"] == whole_time_of(240)
    assert written["skipped"]["reason"] == "Overlap"
    assert written["skipped"]["message"] == f"no Job for {whole_time_of(60)}: Job {last.name} is not finished"
    assert "lastTick" not in written


def test_a_run_is_not_over_while_something_that_it_enqueued_is_not() -> None:
    schedule = a_schedule(status=at(60), overlap="Forbid")
    last = job_of(schedule, 0, state="Succeeded")
    child = a_job("child", spec={"parent": child_of(last)})

    assert change(step(schedule, last, child, now=60.0))["skipped"]["reason"] == "Overlap"
    assert isinstance(
        step(schedule, last, a_job("child", state="Failed", spec={"parent": child_of(last)}), now=60.0), MakeJob
    )


def test_forbid_waits_where_a_run_may_have_a_child_that_the_watch_has_not_told_yet() -> None:
    schedule = a_schedule(status=at(60), overlap="Forbid")
    last = job_of(schedule, 0, state="Succeeded")
    world = world_of(schedule, last)

    world.watched = last.resource_version - 1
    assert next_step_of_schedule(world, schedule, T0 + 60, every_minute) == Rest(T0 + 60 + WATCH_SECONDS)
    allowing = a_schedule(status=at(60))
    assert isinstance(next_step_of_schedule(world, allowing, T0 + 60, every_minute), MakeJob)
    world.watched = last.resource_version
    assert isinstance(next_step_of_schedule(world, schedule, T0 + 60, every_minute), MakeJob)

    child = a_job("child", state="Succeeded", spec={"parent": child_of(last)})
    newer = {**child.raw["metadata"], "resourceVersion": str(last.resource_version + 1)}
    world.put_job(Job.parse({**child.raw, "metadata": newer}))
    assert isinstance(next_step_of_schedule(world, schedule, T0 + 60, every_minute), Rest), "it may have enqueued more"


def test_jobs_of_another_schedule_of_that_name_do_not_overlap() -> None:
    schedule = a_schedule(status=at(60), overlap="Forbid")
    stranger = job_of(schedule, 0)
    annotations = {**stranger.raw["metadata"]["annotations"], ANNOTATION_SCHEDULE_UID: uid_of("former")}
    former = Job.parse({**stranger.raw, "metadata": {**stranger.raw["metadata"], "annotations": annotations}})

    assert isinstance(step(schedule, former, now=60.0), MakeJob)


REPLACING = a_schedule(status=at(120), overlap="Replace")
FIRST, SECOND = job_of(REPLACING, 0, state="Running"), job_of(REPLACING, 60, state="Waiting")


def test_a_job_that_is_replaced_is_canceled_with_all_its_descendants() -> None:
    ended = job_of(REPLACING, 0, state="Succeeded")
    child = a_job("child", created=1, spec={"parent": child_of(ended)})
    waiting = job_of(REPLACING, 0, state="Waiting")

    found = next_step(world_of(REPLACING, waiting, SECOND), waiting, T0 + 61, epoch=EPOCH)
    assert isinstance(found, WriteStatus)
    assert (found.change["state"], found.change["reason"]) == ("Canceled", Reason.REPLACED)
    assert SECOND.name in str(found.change["message"])
    of_child = next_step(world_of(REPLACING, ended, child, SECOND), child, T0 + 61, epoch=EPOCH)
    assert isinstance(of_child, WriteStatus)
    assert of_child.change["reason"] == Reason.ANCESTOR_CANCELED
    still = next_step(world_of(REPLACING, ended, SECOND), ended, T0 + 61, epoch=EPOCH)
    assert still == Nothing(), "a finished Job keeps its state"


def test_what_replaces_waits_for_the_end_of_what_it_replaces() -> None:
    pod = a_pod(FIRST, running=1)
    world = world_of(REPLACING, FIRST, SECOND)
    world.put_pod(pod)
    held = next_step(world, SECOND, T0 + 61, epoch=EPOCH)
    assert isinstance(held, Hold)
    assert held.reason is Reason.DEPENDENCY_PENDING
    assert f"waits for the end of Job {FIRST.name}" in held.message

    world.put_job(job_of(REPLACING, 0, state="Canceled"))
    world.put_pod(a_pod(FIRST, exit_code=143))
    assert not isinstance(next_step(world, SECOND, T0 + 62, epoch=EPOCH), Hold)


def test_the_last_of_three_replaces_both_and_is_replaced_by_none() -> None:
    third = job_of(REPLACING, 120, state="Waiting")
    world = world_of(REPLACING, job_of(REPLACING, 0, state="Waiting"), SECOND, third)
    reasons = {}
    for job in world.jobs_of_schedule(REPLACING.uid):
        found = next_step(world, job, T0 + 121, epoch=EPOCH)
        reasons[job.name] = found.change["reason"] if isinstance(found, WriteStatus) else type(found).__name__

    assert list(reasons.values()) == [Reason.REPLACED, Reason.REPLACED, "Hold"]


def test_a_job_that_a_person_runs_again_is_not_replaced_by_what_came_meanwhile() -> None:
    again = job_of(REPLACING, 0, state="Waiting", rerun=1)

    assert not isinstance(next_step(world_of(REPLACING, again, SECOND), again, T0 + 61, epoch=EPOCH), WriteStatus)


def test_what_a_person_runs_again_of_an_earlier_run_is_neither_replaced_nor_waited_for() -> None:
    ended = job_of(REPLACING, 0, state="Succeeded")
    failed = a_job("child", state="Failed", created=1, spec={"parent": child_of(ended), "rerun": 1})
    found = next_step(world_of(REPLACING, ended, failed, SECOND), failed, T0 + 61, epoch=EPOCH)
    assert isinstance(found, WriteStatus), "its rerun is carried out"
    assert found.change["state"] == "Waiting"

    again = a_job("child", state="Waiting", created=1, spec={"parent": child_of(ended), "rerun": 1})
    below = a_job("below", state="Waiting", created=2, spec={"parent": child_of(again, staged=False)})
    other = a_job("other", state="Waiting", created=1, spec={"parent": child_of(ended, index=1)})
    for one in (again, below):
        found = next_step(world_of(REPLACING, ended, again, below, SECOND), one, T0 + 61, epoch=EPOCH)
        assert not (isinstance(found, WriteStatus) and found.change.get("state") == "Canceled"), one.name
    assert not isinstance(next_step(world_of(REPLACING, ended, again, SECOND), SECOND, T0 + 61, epoch=EPOCH), Hold)
    held = next_step(world_of(REPLACING, ended, again, other, SECOND), SECOND, T0 + 61, epoch=EPOCH)
    assert isinstance(held, Hold), "the others are"


def test_a_schedule_that_allows_overlap_replaces_nothing() -> None:
    allowing = a_schedule(status=at(120))
    first, second = job_of(allowing, 0, state="Waiting"), job_of(allowing, 60, state="Waiting")

    assert not isinstance(next_step(world_of(allowing, first, second), first, T0 + 61, epoch=EPOCH), WriteStatus)


# The record


def test_a_job_is_kept_until_the_status_says_that_it_was_made() -> None:
    schedule = a_schedule(status=at(60))
    ended = job_of(schedule, 60, state="Succeeded")

    assert still_needed(world_of(schedule, ended), ended, T0 + 999)
    moved_on = a_schedule(status=at(120, lastTick=whole_time_of(60)))
    assert not still_needed(world_of(moved_on, ended), ended, T0 + 999)
    assert not still_needed(a_world(ended), ended, T0 + 999), "the Schedule is gone"
    idle = a_schedule(status={"observedGeneration": 1}, suspend=True)
    assert not still_needed(world_of(idle, ended), ended, T0 + 999)


def test_a_job_of_a_tick_has_a_name_of_its_own_that_is_a_jobs_name() -> None:
    longest = Schedule.parse({**a_schedule().raw, "metadata": {**a_schedule().raw["metadata"], "name": "n" * 63}})
    cut = Schedule.parse({**a_schedule().raw, "metadata": {**a_schedule().raw["metadata"], "name": "a" * 23 + "-b"}})

    assert len(longest.job_name(4_000_000_000.0)) <= 50
    assert "--" not in cut.job_name(T0)
    assert len({a_schedule().job_name(T0 + n * MINUTE) for n in range(1_000)}) == 1_000


def test_the_manifest_of_a_job_says_whose_it_is() -> None:
    manifest = a_schedule(overlap="Replace").job(T0, epoch=9, replaces=True)

    assert manifest["spec"] == {"task": "tasks:work"}
    assert manifest["metadata"]["labels"] == {"questline.dev/schedule": "nightly"}
    assert manifest["metadata"]["annotations"] == {
        ANNOTATION_SCHEDULE_UID: uid_of("schedule"),
        ANNOTATION_TICK: format_whole_seconds(T0),
        ANNOTATION_REPLACES: "true",
        "questline.dev/epoch": "9",
    }


@pytest.mark.parametrize("tick", ["", "soon", "2026-01-01T00:00:00", None])
def test_annotations_that_make_no_sense_make_no_tick(tick: str | None) -> None:
    raw = a_job().raw
    annotations = {ANNOTATION_SCHEDULE_UID: "u"} | ({ANNOTATION_TICK: tick} if tick is not None else {})

    assert Job.parse({**raw, "metadata": {**raw["metadata"], "annotations": annotations}}).tick is None


def test_a_refusal_stays_told_until_a_job_is_made_or_the_spec_has_changed() -> None:
    refused = ready(a_schedule(), False, JOB_REFUSED, "exceeded quota", T0)
    quiet = a_schedule(status=at(60) | dict(refused))
    assert step(quiet, now=1.0) == Rest(T0 + 60)

    assert change(step(quiet, job_of(quiet, 60), now=61.0))["conditions"][0]["status"] == "True"
    edited = a_schedule(status=at(60) | dict(refused), generation=2)
    assert change(step(edited, now=1.0))["conditions"][0]["status"] == "True"


def test_a_tick_that_was_passed_over_by_a_clock_ahead_and_is_made_then_is_not_told_to_be_passed_over() -> None:
    def told(tick: float) -> Any:
        skipped = {"tick": whole_time_of(tick), "reason": "Overlap", "message": "no Job"}
        schedule = a_schedule(status=at(60, skipped=skipped))
        return change(step(schedule, job_of(schedule, 60), now=61.0)).get("skipped", "as it was")

    assert told(60) is None
    assert told(0) == "as it was"
