"""Schedules declared in Python: what `questline schedules apply MODULE` puts on a cluster.

A declaration makes nothing by itself: it is checked, and kept until the command asks for what a module declares. So a
module with tasks may declare schedules, and a worker's pod that imports it only pays for the checks.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from questline.attempt import PAYLOAD_ENV
from questline.durations import Duration, whole_seconds_of
from questline.errors import OptionInvalid
from questline.task import Call

if TYPE_CHECKING:
    from questline.options import Options

Overlap = Literal["Allow", "Forbid", "Replace"]
"""What a tick does while an earlier run is not over: see docs/schedules.md."""

OVERLAPS = ("Allow", "Forbid", "Replace")
MAX_NAME = 63
MAX_LINE = 128
MAX_CATCH_UP_SECONDS = 604_800

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")
_OF_ONE_JOB = {
    "delay": "the cron line says when it runs",
    "run_at": "the cron line says when it runs",
    "name": "each tick's Job has a name of its own",
    "group": "groups are of an attempt's children",
    "stage": "it is of an attempt's children",
}
"""Options that a Schedule's Job cannot have, and why."""


class Schedule(NamedTuple):
    """A declared schedule.

    Attributes:
        name: of the Schedule.
        spec: as in the API.
        module: the module that declares it.
        line: where in its file, from 1.
    """

    name: str
    spec: dict[str, Any]
    module: str
    line: int

    def __repr__(self) -> str:
        return f"<schedule {self.name} of {self.module}, line {self.line}>"


_declared: list[Schedule] = []


def schedule(
    name: str,
    *,
    cron: str,
    job: Call[Any],
    time_zone: str = "UTC",
    overlap: Overlap = "Allow",
    catch_up: Duration = 0,
    suspend: bool | None = None,
) -> Schedule:
    """Declares a Schedule, which `questline schedules apply MODULE` makes; it is of the module that calls this.

    Its Jobs are what an enqueue of the call makes outside an attempt, with the args and options of this moment.

    Args:
        name: a-z, 0-9 and '-', at most 63 characters.
        cron: minute, hour, day of month, month and day of week.
        job: the call of a task that each tick makes a Job of.
        time_zone: the IANA time zone in which the line is read, as Europe/Berlin.
        overlap: what a tick does while an earlier run is not over: Allow makes a Job all the same, Forbid none, Replace
            cancels the earlier one.
        catch_up: how late a tick may be made up for after an outage, at most a week: seconds, "1h30m" or a timedelta.
        suspend: True makes no Jobs, False does; without it, it is left as it is on the cluster.

    Raises:
        OptionInvalid: one of these has a value that is not allowed, or the call has an option that a Schedule's Job
            cannot have.
    """
    spec = spec_of(name, cron=cron, job=job, time_zone=time_zone, overlap=overlap, catch_up=catch_up, suspend=suspend)
    caller = sys._getframe(1)
    made = Schedule(name, spec, str(caller.f_globals.get("__name__")), caller.f_lineno)
    _declared.append(made)
    return made


def spec_of(
    name: str,
    *,
    cron: str,
    job: Call[Any],
    time_zone: str,
    overlap: str,
    catch_up: Duration,
    suspend: bool | None,
) -> dict[str, Any]:
    """The checked spec of a Schedule, as in the API; see `schedule`. Nothing is declared.

    Raises:
        OptionInvalid: as `schedule` does.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise OptionInvalid(
            f"schedule's name is {name!r}: a name of a-z, 0-9 and '-' is needed, at most {MAX_NAME} characters"
        )
    spec: dict[str, Any] = {
        "cron": _checked_line(name, cron),
        "timeZone": _checked_zone(name, time_zone),
        "overlap": overlap,
        "catchUpSeconds": whole_seconds_of(catch_up, f"schedule {name}: catch_up", maximum=MAX_CATCH_UP_SECONDS),
        "job": _job_spec(name, job),
    }
    if overlap not in OVERLAPS:
        raise OptionInvalid(f"schedule {name}: overlap is {overlap!r}: {', '.join(OVERLAPS[:2])} or Replace is needed")
    if suspend is not None:
        if not isinstance(suspend, bool):
            raise OptionInvalid(f"schedule {name}: suspend is {suspend!r}: True or False is needed, or leave it out")
        spec["suspend"] = suspend
    return spec


def declared() -> list[Schedule]:
    """Every schedule of the modules imported so far, in the order of their declaration."""
    return list(_declared)


def _checked_line(name: str, cron: object) -> str:
    fields = cron.split() if isinstance(cron, str) else []
    line = " ".join(fields)
    if len(fields) != 5 or len(line) > MAX_LINE:
        raise OptionInvalid(
            f"schedule {name}: cron is {cron!r}: five fields are needed, at most {MAX_LINE} characters: minute hour "
            "day-of-month month day-of-week, as '30 2 * * MON-FRI'"
        )
    return line


def _checked_zone(name: str, zone: object) -> str:
    if not isinstance(zone, str) or not _ZONE.fullmatch(zone):
        raise OptionInvalid(
            f"schedule {name}: time_zone is {zone!r}: the name of an IANA time zone is needed, as 'Europe/Berlin'"
        )
    # A worker's image may have older time zones than the operator, which is no reason for its tasks to fail.
    if zone != "UTC" and not os.environ.get(PAYLOAD_ENV) and not _is_zone(zone) and _is_zone("Etc/UTC"):
        raise OptionInvalid(
            f"schedule {name}: time_zone is {zone!r}: the IANA database has none of that name; one is 'Europe/Berlin'"
        )
    return zone


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # none of that name, no zone, a folder of zones
        return False
    return True


def _job_spec(name: str, job: object) -> dict[str, Any]:
    if not isinstance(job, Call):
        raise OptionInvalid(f"schedule {name}: job is {job!r}: the call of a task is needed, as write_report.call()")
    options: Options = job.options
    for option, why in _OF_ONE_JOB.items():
        value, default = getattr(options, option), options._field_defaults[option]
        if value != default:
            raise OptionInvalid(
                f"schedule {name}: {option} of {job.task.name} is {value!r}: {why}; take it back with "
                f".options({option}={default!r})"
            )
    return job.spec()
