"""A Schedule's record, the Jobs that its ticks make, and how such a Job is known.

A tick is a moment at which the cron line says to make a Job, in whole minutes. Its Job's name is made of the Schedule's
UID and the tick, so that whoever makes it again finds that it is there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from questline_operator.core.records import (
    ANNOTATION_EPOCH,
    ANNOTATION_REPLACES,
    ANNOTATION_SCHEDULE_UID,
    ANNOTATION_TICK,
    GROUP,
    LABEL_SCHEDULE,
    Job,
    Json,
    Key,
)
from questline_operator.core.status import ready_in
from questline_operator.core.times import format_whole_seconds, optional_time, parse_time

Calendar = Callable[[str, str, float], float | None]
"""The first tick of a cron line in a time zone after a moment; None where there is none.

Raises:
    CalendarError: the line or the zone cannot be read.
"""
DEFAULT_TIME_ZONE = "UTC"
NAME_LENGTH = 24


class CalendarError(Exception):
    """A cron line or time zone that cannot be read.

    Args:
        reason: one word for the condition: CronInvalid or TimeZoneUnknown.
        message: what is wrong, with the field and its value.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Schedule:
    """A Schedule's spec, and what its status says was done."""

    namespace: str
    name: str
    uid: str
    resource_version: int = field(compare=False)
    generation: int
    created_at: float
    deleting: bool
    cron: str
    time_zone: str
    overlap: str
    catch_up_seconds: float
    suspend: bool
    last_tick: float | None
    next_tick: float | None
    raw: Json = field(compare=False, repr=False)

    @classmethod
    def parse(cls, raw: Json) -> Self:
        """A record of the API's JSON."""
        meta, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=int(meta["resourceVersion"]),
            generation=meta.get("generation", 1),
            created_at=parse_time(meta["creationTimestamp"]),
            deleting="deletionTimestamp" in meta,
            cron=spec["cron"],
            time_zone=spec.get("timeZone", DEFAULT_TIME_ZONE),
            overlap=spec.get("overlap", "Allow"),
            catch_up_seconds=spec.get("catchUpSeconds", 0),
            suspend=spec.get("suspend", False),
            last_tick=optional_time(status.get("lastTick")),
            next_tick=optional_time(status.get("nextTick")),
            raw=raw,
        )

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    @property
    def status(self) -> Json:
        """The status as JSON."""
        status: Json = self.raw.get("status", {})
        return status

    @property
    def line(self) -> str:
        """The cron line with its time zone: what nextTick is computed from."""
        return f"{self.cron} {self.time_zone}"

    @property
    def ready(self) -> Mapping[str, Any]:
        """Its condition Ready, or {} where nobody has written one."""
        return ready_in(self.status)

    def job_name(self, tick: float) -> str:
        """The name of that tick's Job: ``<name>-<first 8 of the UID>-<the tick in minutes since the epoch>``."""
        return f"{self.name[:NAME_LENGTH].rstrip('-')}-{self.uid[:8]}-{int(tick) // 60}"

    def made(self, job: Job) -> bool:
        """Whether the Job was made for a tick of this Schedule."""
        return job.tick is not None and job.tick.schedule_uid == self.uid

    def job(self, tick: float, *, epoch: int, replaces: bool) -> dict[str, Any]:
        """The manifest of that tick's Job.

        Args:
            replaces: it takes the place of whatever earlier ticks have left unfinished.
        """
        annotations = {
            ANNOTATION_SCHEDULE_UID: self.uid,
            ANNOTATION_TICK: format_whole_seconds(tick),
            ANNOTATION_EPOCH: str(epoch),
        }
        if replaces:
            annotations[ANNOTATION_REPLACES] = "true"
        return {
            "apiVersion": f"{GROUP}/v1alpha1",
            "kind": "Job",
            "metadata": {
                "name": self.job_name(tick),
                "namespace": self.namespace,
                "labels": {LABEL_SCHEDULE: self.name},
                "annotations": annotations,
            },
            "spec": self.raw["spec"]["job"],
        }
