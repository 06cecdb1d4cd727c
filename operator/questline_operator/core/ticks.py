"""What a Schedule should do next: a function of its record, its Jobs and the time (design 2).

status.nextTick is the cursor: the next tick to deal with. It moves on only when its Job was made, which status.lastTick
then says, or when it was passed over, and until then the Job's record is kept. So whoever leads finds what is to be
done, and no tick makes two Jobs.
"""

from dataclasses import dataclass
from typing import Any

from questline_operator.core.overlap import may_have_unseen, unfinished_runs
from questline_operator.core.schedule import Calendar, CalendarError, Schedule
from questline_operator.core.status import Change, differs, with_ready
from questline_operator.core.times import format_whole_seconds
from questline_operator.core.world import World

IN_TIME_SECONDS = 30.0
"""A tick that is late by no more than this counts as in time: a change of leader takes up to 20 s."""

WATCH_SECONDS = 0.5
"""A tick that has to wait for the watch of Jobs is looked at again this often."""

JOB_REFUSED = "JobRefused"
"""The condition's reason where the API server takes no such Job."""


@dataclass(frozen=True)
class MakeJob:
    """Make the Job of this tick; when it is there, write `made`."""

    tick: float
    replaces: bool


@dataclass(frozen=True)
class WriteSchedule:
    """Write this change of its status."""

    change: Change


@dataclass(frozen=True)
class Rest:
    """Nothing until then (seconds since the epoch), or until something changes."""

    until: float | None = None


ScheduleStep = MakeJob | WriteSchedule | Rest


def next_step_of_schedule(world: World, schedule: Schedule, now: float, calendar: Calendar) -> ScheduleStep:
    """The next step of this Schedule.

    Args:
        now: seconds since the epoch.
        calendar: tells the ticks of a cron line.
    """
    if schedule.deleting or schedule.namespace in world.terminating_namespaces:
        return Rest()
    try:
        calendar(schedule.cron, schedule.time_zone, now)  # a line that became wrong is told before all else
        tick = schedule.next_tick
        if tick is not None and _is_made(world, schedule, tick):
            return WriteSchedule(made(schedule, tick, now, calendar))
        if schedule.suspend:
            idle = ready(schedule, True, "Suspended", "spec.suspend is true: no Jobs are made", now)
            return _settled(schedule, {"line": None, "nextTick": None, **idle}, None)
        if schedule.status.get("line") != schedule.line:
            return WriteSchedule(_begun(schedule, now, calendar))
        return _step_of_tick(world, schedule, now, calendar)
    except CalendarError as error:
        bad = {"line": None, "nextTick": None, **ready(schedule, False, error.reason, error.message, now)}
        tick = schedule.next_tick
        if tick is not None and _is_made(world, schedule, tick):
            bad |= _noted(schedule, tick)
        return _settled(schedule, bad, None)


def made(schedule: Schedule, tick: float, now: float, calendar: Calendar) -> Change:
    """The Job of the tick is there."""
    return {
        **_noted(schedule, tick),
        **_following(schedule, tick, calendar),
        **ready(schedule, True, "Scheduled", "", now),
    }


def _noted(schedule: Schedule, tick: float) -> Change:
    # A clock that was ahead may have passed it over.
    was_skipped = schedule.status.get("skipped", {}).get("tick") == format_whole_seconds(tick)
    told_no_more = {"skipped": None} if was_skipped else {}
    return {"lastTick": format_whole_seconds(tick), "lastJob": schedule.job_name(tick), **told_no_more}


def ready(schedule: Schedule, status: bool, reason: str, message: str, now: float) -> Change:
    """The condition Ready, and the generation that was acted on."""
    return with_ready(schedule.status, status, reason, message, generation=schedule.generation, now=now)


def still_may_make(schedule: Schedule, tick: float) -> bool:
    """Whether the Schedule could make the Job of that tick again, were its record gone: so that must be kept."""
    return schedule.next_tick is not None and schedule.next_tick <= tick


def _step_of_tick(world: World, schedule: Schedule, now: float, calendar: Calendar) -> ScheduleStep:
    tick = schedule.next_tick
    if tick is None or now < tick:
        if tick is not None and _moved_on_too_far(schedule, tick, now, calendar):
            return WriteSchedule(_following(schedule, max(now, schedule.last_tick or 0.0), calendar))
        told = {**ready(schedule, *_prospect(schedule, tick), now)}
        return _settled(schedule, told, tick)
    oldest = now - max(schedule.catch_up_seconds, IN_TIME_SECONDS)
    if tick < oldest:
        message = f"{_seconds(now - tick)} late, catchUpSeconds is {_seconds(schedule.catch_up_seconds)}"
        # The calendar tells what comes after a moment, and the oldest one that is not too late counts.
        return WriteSchedule(_passed_over(schedule, tick, "Late", message, oldest - 0.001, calendar))
    runs = unfinished_runs(world, schedule.uid, tick) if schedule.overlap != "Allow" else []
    if runs and schedule.overlap == "Forbid":
        message = f"Job {runs[0].name} is not finished"
        return WriteSchedule(_passed_over(schedule, tick, "Overlap", message, now, calendar))
    if schedule.overlap == "Forbid" and may_have_unseen(world, schedule.uid):
        return Rest(now + WATCH_SECONDS)  # as long as it is not too late
    return MakeJob(tick, replaces=schedule.overlap == "Replace")


def _moved_on_too_far(schedule: Schedule, tick: float, now: float, calendar: Calendar) -> bool:
    """Whether ticks that are to come were passed over, by a clock that was ahead. Leaders' clocks differ by less."""
    first = calendar(schedule.cron, schedule.time_zone, max(now + IN_TIME_SECONDS, schedule.last_tick or 0.0))
    return first is not None and first < tick


def _is_made(world: World, schedule: Schedule, tick: float) -> bool:
    job = world.jobs.get((schedule.namespace, schedule.job_name(tick)))
    return job is not None and schedule.made(job)


def _begun(schedule: Schedule, now: float, calendar: Calendar) -> Change:
    """A line that is new, or goes on again: what it says of the time before is nobody's concern. The first one of a
    Schedule counts from its creation, which an operator that was down has not seen. A tick that was made comes never
    again, though the clock was set back: the record of its Job may be gone."""
    since = now if schedule.status.get("observedGeneration") else schedule.created_at
    since = max(since, schedule.last_tick or since)
    change = _following(schedule, since, calendar)
    return {"line": schedule.line, **change, **ready(schedule, *_prospect(schedule, change["nextTick"]), now)}


def _following(schedule: Schedule, moment: float, calendar: Calendar) -> dict[str, Any]:
    tick = calendar(schedule.cron, schedule.time_zone, moment)
    return {"nextTick": None if tick is None else format_whole_seconds(tick)}


def _passed_over(
    schedule: Schedule, tick: float, reason: str, message: str, until: float, calendar: Calendar
) -> Change:
    moment = format_whole_seconds(tick)
    skipped = {"tick": moment, "reason": reason, "message": f"no Job for {moment}: {message}"}
    return {"skipped": skipped, **_following(schedule, max(tick, until), calendar)}


def _prospect(schedule: Schedule, tick: object) -> tuple[bool, str, str]:
    old = schedule.ready
    if old.get("reason") == JOB_REFUSED and old.get("observedGeneration") == schedule.generation:
        return False, JOB_REFUSED, old["message"]  # until a Job is made, or what was refused has changed
    if tick is None:
        return False, "NeverDue", f"spec.cron {schedule.cron!r} has no tick in the next 50 years"
    return True, "Scheduled", ""


def _settled(schedule: Schedule, change: Change, until: float | None) -> ScheduleStep:
    """Write what differs from the status; rest where nothing does."""
    if differs(schedule.status, change):
        return WriteSchedule(change)
    return Rest(until)


def _seconds(number: float) -> str:
    return f"{number:.0f} s"
